//! A stack is supervised: what is started, asked, told, ended and started again, on the real machine.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ws_e2e::{Mode, Ran, Stack, both_ways, requires, show, wait_until};
use ws_model::wire::ServiceStatus;
use ws_model::{Phase, Reason};

both_ways! {
    down_ends_whatever_services_do
    a_finished_one_shot_counts_and_a_failed_one_is_told
    a_build_comes_before_its_service
    readiness_comes_by_every_kind_of_probe
    readiness_is_a_level
    a_service_without_life_is_started_again
    a_watchdog_that_is_not_told_ends_the_run
    a_startup_probe_holds_the_others_back
    hooks_run_inside_and_in_order
    a_failed_hook_is_told
    a_stop_command_stops
    exit_codes_that_are_a_success
    what_is_bound_is_started_again
    replicas_share_a_name
    what_runs_elsewhere_is_reached_by_its_link_only
    what_is_required_must_be_there
    included_files_take_part
    a_service_on_a_terminal
    a_one_off_runs_beside_with_what_it_needs
    commands_for_single_services
    logs_are_searched_and_bounded
    a_removed_project_can_be_taken_down
}

/// How long anything of a test may take. Generous: it is there so that a test that hangs fails.
const SOON: Duration = Duration::from_secs(30);

fn until(stack: &Stack, service: &str, what: &str, is: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
    wait_until(SOON, &format!("{service}: {what}"), || {
        let row = stack.status(service);
        if is(&row) { Ok(row) } else { Err(format!("{row:#?}")) }
    })
}

fn ups(stack: &mut Stack) -> Ran {
    stack.watch();
    stack.ws(&["up", "-d", "--wait", "--wait-timeout", "30s"])
}

/// A Python program as a service's command.
fn python(program: &str) -> String {
    let lines: Vec<String> = program.lines().map(|line| format!("        {line}")).collect();
    format!("\n      - /usr/bin/python3\n      - -u\n      - -c\n      - |\n{}\n", lines.join("\n"))
}

fn down_ends_whatever_services_do(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let give_away = python(
        "import os, socket, time
s = socket.socket(socket.AF_UNIX)
while True:
    try:
        s.connect('/shared/socket')
        break
    except OSError:
        time.sleep(0.01)
socket.send_fds(s, [b'x'], [1, 2])
print('given', flush=True)
time.sleep(1000)",
    );
    let keep = python(
        "import os, socket, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.socket(socket.AF_UNIX)
s.bind('/shared/socket')
s.listen()
c, _ = s.accept()
kept = socket.recv_fds(c, 16, 4)
print('kept', len(kept[1]), flush=True)
time.sleep(1000)",
    );
    // A parent in uninterruptible sleep: its child of vfork(2) never ends.
    let asleep =
        python("import ctypes\nprint('asleep', flush=True)\nc = ctypes.PyDLL(None)\nc.vfork() or c.pause()");
    let mut stack = Stack::new(
        mode,
        &format!(
            "
defaults: {{ stop: {{ grace: 1s }}, restart: 'no' }}
volumes: {{ shared: {{ shared: true }} }}
services:
  ignores:
    command: [/bin/sh, -c, 'trap : TERM; echo deaf; while :; do sleep 1000 & wait; done']
    ready: {{ log: deaf }}
  stops:
    command: [/bin/sh, -c, 'echo stopping; kill -STOP $$$$; sleep 1000']
    ready: {{ log: stopping }}
  forks:
    command: [/bin/sh, -c, 'trap : TERM; echo forking; while :; do (trap : TERM; sleep 0.2; :) & sleep 0.01; done']
    ready: {{ log: forking }}
    limits: {{ pids: 200 }}
  sleeps:
    command: {asleep}
    ready: {{ log: asleep }}
  gives:
    command: {give_away}
    volumes: ['shared:/shared']
    ready: {{ log: given }}
  keeps:
    command: {keep}
    volumes: ['shared:/shared']
    stop: {{ grace: 1s }}
"
        ),
    );
    if mode == Mode::User {
        // Without controllers the limit of processes is not enforced for users; the file asks for none then.
        let text = std::fs::read_to_string(stack.project.join("workspace.yaml")).expect("reading it");
        stack.write("workspace.yaml", &text.replace("    limits: { pids: 200 }\n", ""));
    }
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    let ran = stack.down();
    show(&format!("down as {mode} with a grace of 1 s took {:?}", ran.took));
    assert!(ran.took < SOON, "{ran}");
}

fn a_finished_one_shot_counts_and_a_failed_one_is_told(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = |code: u8| {
        format!(
            "
services:
  migrate: {{ kind: task, command: [/bin/sh, -c, 'echo the schema is old; exit {code}'] }}
  api: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], depends_on: [migrate], ready: {{ tcp: ':7000' }} }}
"
        )
    };
    let mut stack = Stack::new(mode, &yaml(0));
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 0, "{ran}");
    stack.down();
    stack.write("workspace.yaml", &format!("name: {}\n{}", stack.token, yaml(3)));
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(ran.err.contains("migrate") && ran.err.contains("exited with 3"), "{ran}");
    assert!(ran.err.contains("the schema is old"), "its last words: {ran}");
    let row = stack.status("api");
    assert_eq!((row.phase, row.reason), (Phase::Failed, Reason::DependencyFailed), "{row:?}");
    assert!(row.cause.contains("migrate") && row.cause.contains('3'), "{row:?}");
    let why = stack.ws(&["why", "api"]);
    assert!(why.out.contains("migrate") && why.out.contains("exited with 3"), "{why}");
    stack.down();
}

/// Serves HTTP: what it is asked for a path, with a header, answers with a status and a body.
const WEB: &str = "import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        good = self.headers.get('X-Token') == 'secret'
        self.send_response(204 if self.path == '/none' else 418 if good else 401)
        self.end_headers()
        if self.path != '/none':
            self.wfile.write(b'state: up\\n')
    def log_message(self, *args): pass
print('listening', flush=True)
http.server.HTTPServer(('0.0.0.0', 8080), H).serve_forever()";

const NOTIFY: &str = "import os, signal, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def tell(text): s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])
";

fn a_build_comes_before_its_service(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api:
    working_dir: api
    environment: { WORD: made }
    build: { command: [/bin/sh, -c, 'echo compiling; echo $$WORD > program'] }
    command: [/bin/sh, -c, 'echo runs $(cat program); exec sleep 100000']
    ready: { log: runs made }
",
    );
    stack.write("api/program", "");
    stack.up();
    assert!(stack.logs("api").contains("runs made"), "{}", stack.story());
    assert!(stack.logs("api-build").contains("compiling"), "{}", stack.story());
    let build = stack.status("api-build");
    assert_eq!((build.phase, build.ready, build.pid), (Phase::Exited, true, None), "{build:#?}");
    let pid = stack.pid("api");
    assert_eq!(stack.ws(&["up", "-d", "--wait"]).code, 0);
    until(&stack, "api-build", "built again, as nobody looks at files", |row| row.phase == Phase::Exited);
    assert_eq!(stack.pid("api"), pid, "who runs is not disturbed");
    stack.down();

    let broken = std::fs::read_to_string(stack.project.join("workspace.yaml")).expect("reading it");
    stack.write("workspace.yaml", &broken.replace("echo $$WORD > program", "exit 3"));
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 1, "{ran}");
    let api = stack.status("api");
    assert!(api.phase == Phase::Failed && api.cause.contains("api-build failed: exited with 3"), "{api:#?}");
    assert!(ran.err.contains("compiling"), "its last words are shown: {ran}");
    stack.down();
}

fn readiness_comes_by_every_kind_of_probe(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let web = python(WEB);
    let told = python(&format!(
        "{NOTIFY}tell('STATUS=warming up\\nEXTEND_TIMEOUT_USEC=5000000')
while not os.path.exists('/tmp/go'): time.sleep(0.01)
tell('READY=1\\nSTATUS=serving 3 tenants')
time.sleep(1000)"
    ));
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  web:
    command: {web}
    ready:
      http: {{ url: ':8080/health', headers: {{ X-Token: secret }}, status: [418], body: 'state: (up|ok)' }}
  said:
    command: {told}
    ready: notify
  connects: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], ready: {{ tcp: ':7000' }} }}
  prints: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], ready: {{ log: '^serving$' }} }}
  runs: {{ command: [bin/ws-e2e-serve], ready: {{ exec: [/bin/true] }} }}
"
        ),
    );
    stack.watch();
    assert_eq!(stack.ws(&["up", "-d"]).code, 0);
    let row = until(&stack, "said", "says what it does", |row| row.status.is_some());
    assert_eq!((row.status.as_deref(), row.ready), (Some("warming up"), false), "{row:?}");
    let ran = stack.exec("said", &["/bin/touch", "/tmp/go"]);
    assert_eq!(ran.code, 0, "{ran}");
    for service in ["web", "said", "connects", "prints", "runs"] {
        until(&stack, service, "is ready", |row| row.ready);
    }
    until(&stack, "said", "says more", |row| row.status.as_deref() == Some("serving 3 tenants"));
    let ran = stack.ws(&["wait", "web", "said", "--for", "ready"]);
    assert_eq!(ran.code, 0, "{ran}");
    stack.down();
}

fn readiness_is_a_level(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  db:
    command: [/bin/sh, -c, 'touch /tmp/good; exec sleep 1000']
    ready: { exec: [test, -e, /tmp/good], interval: 20ms, failures: 2 }
  late: { command: [bin/ws-e2e-serve], depends_on: [db], profiles: [late] }
",
    );
    let ran = stack.up();
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(stack.exec("db", &["/bin/rm", "/tmp/good"]).code, 0);
    let row = until(&stack, "db", "is not ready any more", |row| row.phase == Phase::Unhealthy);
    assert!(!row.ready && row.probe_error.is_some(), "{row:?}");
    assert_eq!(stack.exec("db", &["/bin/touch", "/tmp/good"]).code, 0);
    let row = until(&stack, "db", "is ready again", |row| row.ready);
    assert_eq!((row.restarts, row.probe_error), (0, None));
    stack.down();
}

fn a_service_without_life_is_started_again(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api:
    command: [/bin/sh, -c, 'touch /tmp/alive; exec sleep 1000']
    liveness: { exec: [test, -e, /tmp/alive], interval: 20ms, failures: 2 }
    restart: { backoff: 10ms..100ms }
",
    );
    stack.up();
    let before = stack.status("api");
    assert_eq!(stack.exec("api", &["/bin/rm", "/tmp/alive"]).code, 0);
    let row = until(&stack, "api", "runs again", |row| row.restarts >= 1 && row.ready);
    assert_ne!(row.pid, before.pid);
    let events = stack.ws(&["events", "--json"]).ok();
    assert!(events.contains("liveness_failed"), "{events}");
    stack.down();
}

fn a_watchdog_that_is_not_told_ends_the_run(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let dog = python(&format!(
        "{NOTIFY}assert int(os.environ['WATCHDOG_USEC']) == 400000
tell('READY=1')
while not os.path.exists('/tmp/hang'):
    tell('WATCHDOG=1')
    time.sleep(0.05)
time.sleep(1000)"
    ));
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  dog:
    command: {dog}
    ready: notify
    liveness: {{ notify: true, interval: 400ms }}
    restart: {{ backoff: 10ms..100ms }}
    stop: {{ grace: 1s }}
"
        ),
    );
    stack.up();
    assert_eq!(stack.exec("dog", &["/bin/touch", "/tmp/hang"]).code, 0);
    let row = until(&stack, "dog", "runs again", |row| row.restarts >= 1 && row.ready);
    assert!(row.pid.is_some());
    let events = stack.ws(&["events", "--json"]).ok();
    assert!(events.contains("liveness_failed"), "{events}");
    stack.down();
}

fn a_startup_probe_holds_the_others_back(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  slow:
    command: [/bin/sh, -c, 'while [ ! -e /tmp/go ]; do sleep 0.01; done; touch /tmp/started; exec sleep 1000']
    startup: { exec: [test, -e, /tmp/started], within: 30s }
    ready: { exec: [/bin/true] }
    liveness: { exec: [test, -e, /tmp/started], interval: 20ms, failures: 1 }
    restart: 'no'
",
    );
    stack.watch();
    assert_eq!(stack.ws(&["up", "-d"]).code, 0);
    let row = until(&stack, "slow", "is asked", |row| row.probe_error.is_some());
    assert_eq!((row.phase, row.ready), (Phase::Running, false), "{row:?}");
    assert_eq!(stack.exec("slow", &["/bin/touch", "/tmp/go"]).code, 0);
    until(&stack, "slow", "is ready", |row| row.ready && row.restarts == 0);
    stack.down();
}

const HOOKS: &str = "
services:
  api:
    command: [/bin/sh, -c, 'cat /tmp/order; trap \"echo stopping; cat /tmp/order; exit 0\" TERM; while :; do sleep 0.05; done']
    pre_start: ['sh -c \"echo one >> /tmp/order\"', { command: 'echo two >> /tmp/order', shell: true }]
    post_start: [[sh, -c, 'echo three >> /tmp/order; echo said by a hook']]
    pre_stop: [[sh, -c, 'echo four >> /tmp/order']]
";

fn hooks_run_inside_and_in_order(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, HOOKS);
    stack.up();
    assert_eq!(stack.exec("api", &["/bin/cat", "/tmp/order"]).ok(), "one\ntwo\nthree\n");
    let ran = stack.ws(&["stop", "api"]);
    assert_eq!(ran.code, 0, "{ran}");
    let log = stack.logs("api");
    assert!(log.contains("said by a hook"), "{log}");
    let (_, after) = log.split_once("stopping").unwrap_or_else(|| panic!("it got its signal: {log}"));
    assert!(after.contains("four"), "pre_stop came before the signal: {log}");
    stack.down();
}

fn a_failed_hook_is_told(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  before:
    command: [bin/ws-e2e-serve]
    pre_start: [[sh, -c, 'echo no disk; exit 5']]
    restart: 'no'
  after:
    command: [bin/ws-e2e-serve]
    post_start: [[sh, -c, 'exit 6']]
    restart: 'no'
",
    );
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 1, "{ran}");
    let row = until(&stack, "before", "has failed", |row| row.phase == Phase::Failed);
    assert!(row.cause.contains("pre_start") && row.cause.contains('5'), "{row:?}");
    let row = until(&stack, "after", "has failed", |row| row.phase == Phase::Failed);
    assert_eq!(row.reason, Reason::HookFailed, "{row:?}");
    assert!(row.cause.contains('6'), "{row:?}");
    assert!(stack.logs("before").contains("no disk"), "{}", stack.logs("before"));
    stack.down();
}

fn a_stop_command_stops(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  db:
    command: [/bin/sh, -c, 'trap \"echo signalled\" TERM; while [ ! -e /tmp/stop ]; do sleep 0.02; done; echo by command']
    stop: { command: [touch, /tmp/stop], grace: 20s }
",
    );
    stack.up();
    let ran = stack.ws(&["stop", "db"]);
    assert_eq!(ran.code, 0, "{ran}");
    let row = until(&stack, "db", "is stopped", |row| row.phase == Phase::Stopped);
    assert!(row.exit_code == Some(0), "{row:?}");
    assert!(stack.logs("db").contains("by command"), "{}", stack.logs("db"));
    stack.down();
}

fn exit_codes_that_are_a_success(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  task: { kind: task, command: [/bin/sh, -c, 'exit 4'], success_exit_codes: [4] }
  killed: { kind: task, command: [/bin/sh, -c, 'kill -TERM $$$$'], success_exit_codes: [SIGTERM] }
  waits: { command: [bin/ws-e2e-serve], depends_on: [task, killed] }
",
    );
    let ran = stack.up();
    assert_eq!(ran.code, 0, "{ran}");
    let row = stack.status("task");
    assert_eq!((row.phase, row.exit_code, row.ready), (Phase::Exited, Some(4), true), "{row:?}");
    stack.down();
}

fn what_is_bound_is_started_again(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  db:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000' }
    restart: { backoff: 10ms..50ms }
  bound: { command: [bin/ws-e2e-serve], depends_on: { db: { condition: ready, restart: true } } }
  free: { command: [bin/ws-e2e-serve], depends_on: [db] }
",
    );
    stack.up();
    let (bound, free) = (stack.pid("bound"), stack.pid("free"));
    kill(Pid::from_raw(stack.pid("db")), Signal::SIGKILL).expect("killing the service");
    until(&stack, "bound", "runs anew", |row| {
        row.ready && row.pid.is_some_and(|pid| pid.cast_signed() != bound)
    });
    assert_eq!(stack.pid("free"), free, "the other goes on");
    let bound = stack.pid("bound");
    let ran = stack.ws(&["restart", "db"]);
    assert_eq!(ran.code, 0, "{ran}");
    until(&stack, "bound", "runs anew", |row| {
        row.ready && row.pid.is_some_and(|pid| pid.cast_signed() != bound)
    });
    stack.down();
}

fn replicas_share_a_name(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' }, replicas: 3, ports: ['0:7000'] }
  web: { command: [bin/ws-e2e-serve], links: ['api:7000'] }
",
    );
    stack.up();
    let rows: Vec<ServiceStatus> =
        stack.ps().into_iter().filter(|row| row.service.as_str() == "api").collect();
    let numbers: Vec<(u32, &str)> = rows.iter().map(|row| (row.replica, row.name.as_str())).collect();
    assert_eq!(numbers, [(1, "api-1"), (2, "api-2"), (3, "api-3")]);
    let found = stack.exec("web", &["/usr/bin/getent", "ahostsv4", "api"]).ok();
    for row in &rows {
        assert!(found.contains(&row.address), "{} is behind the name: {found}", row.address);
        let program = stack.bin("ws-e2e-attack");
        let reached = stack.exec("web", &[&program, "tcp", &row.address, "7000"]);
        assert!(reached.out.contains("\"did\""), "{reached}");
    }
    let ran = stack.ws(&["stop", "api-2"]);
    assert_eq!(ran.code, 0, "{ran}");
    until(&stack, "api-2", "is stopped", |row| row.phase == Phase::Stopped);
    assert!(stack.status("api-1").ready && stack.status("api-3").ready);
    let ran = stack.ws(&["restart", "api"]);
    assert_eq!(ran.code, 0, "{ran}");
    for name in ["api-1", "api-2", "api-3"] {
        until(&stack, name, "is ready", |row| row.ready);
    }
    stack.down();
}

fn what_runs_elsewhere_is_reached_by_its_link_only(mode: Mode) {
    requires!(mode, userns, netns, nft);
    // A server of this machine, outside of the workspace.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listening on the loopback");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            use std::io::Write;
            let _ = (&stream).write_all(b"outside\n");
        }
    });
    let ask = "import socket, sys\ns = socket.create_connection(('orders', int(sys.argv[1])), timeout=5)\nprint(s.recv(100).decode())";
    let mut stack = Stack::new(
        mode,
        &format!(
            "
external: {{ orders: 'host:{port}' }}
services:
  linked: {{ command: [bin/ws-e2e-serve], links: [orders] }}
  other: {{ command: [bin/ws-e2e-serve] }}
"
        ),
    );
    stack.up();
    let port = port.to_string();
    let ran = stack.exec("linked", &["/usr/bin/python3", "-c", ask, &port]);
    assert!(ran.code == 0 && ran.out.contains("outside"), "{ran}");
    let ran = stack.exec("other", &["/usr/bin/python3", "-c", ask, &port]);
    assert!(ran.code != 0 && ran.err.contains("refused"), "{ran}");
    let ran = stack.exec("linked", &["/usr/bin/python3", "-c", ask, "1"]);
    assert!(ran.code != 0 && ran.err.contains("refused"), "another port of it: {ran}");
    stack.down();
}

fn what_is_required_must_be_there(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = |requires: &str| {
        format!("requires: {requires}\nservices: {{ s: {{ command: [bin/ws-e2e-serve] }} }}\n")
    };
    let mut stack = Stack::new(mode, &yaml("{ python3: '>=3.6', sh: '*' }"));
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 0, "{ran}");
    stack.down();
    let text = yaml("{ python3: '>=99', no-such-program: '*' }");
    stack.write("workspace.yaml", &format!("name: {}\n{text}", stack.token));
    let ran = ups(&mut stack);
    assert!(ran.code != 0, "{ran}");
    assert!(ran.err.contains("python3") && ran.err.contains("99"), "{ran}");
    assert!(ran.err.contains("no-such-program"), "all of them at once: {ran}");
    stack.is_down();
    stack.assert_clean("after a start that was refused");
}

fn included_files_take_part(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
include: [infra/workspace.yaml]
services:
  api: { command: [bin/ws-e2e-serve], links: ['db:7000'] }
",
    );
    stack.directory("infra/data");
    stack.write(
        "infra/workspace.yaml",
        "
services:
  db:
    command: [../../bin/ws-e2e-serve, 'tcp:7000']
    working_dir: data
    ready: { tcp: ':7000' }
",
    );
    stack.up();
    let ran = stack.exec("db", &["/bin/sh", "-c", "pwd; echo x > here"]);
    assert!(ran.code == 0 && ran.out.trim().ends_with("infra/data"), "{ran}");
    let ran = stack.exec("db", &["/bin/sh", "-c", "echo x >> ../workspace.yaml"]);
    assert_ne!(ran.code, 0, "the included file decides what runs: {ran}");
    std::fs::remove_file(stack.project.join("infra/data/here")).expect("removing what it wrote");
    stack.down();
}

fn a_service_on_a_terminal(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  shown: { command: [/bin/sh, -c, 'test -t 1 && echo on a terminal; exec sleep 1000'], tty: true, ready: { log: on a terminal } }
  piped: { command: [/bin/sh, -c, 'test -t 1 || echo on a pipe; cat; echo its input ended; exec sleep 1000'], stdin: closed, ready: { log: its input ended } }
",
    );
    stack.up();
    assert!(stack.logs("shown").contains("on a terminal"), "{}", stack.logs("shown"));
    assert!(stack.logs("piped").contains("on a pipe"), "{}", stack.logs("piped"));
    stack.down();
}

fn a_one_off_runs_beside_with_what_it_needs(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  db: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' } }
  api: { command: [bin/ws-e2e-serve, 'tcp:8000'], links: ['db:7000'], environment: { COLOUR: green }, ready: { tcp: ':8000' } }
  other: { command: [bin/ws-e2e-serve, 'tcp:9000'] }
",
    );
    let program = stack.bin("ws-e2e-attack");
    // Nothing runs: what it needs is brought up for it, and taken down again.
    stack.watch();
    let ran = stack.ws(&["run", "-T", "api", "--", "/bin/sh", "-c", "echo $COLOUR; exit 9"]);
    assert_eq!((ran.code, ran.out.as_str()), (9, "green\n"), "{ran}");
    stack.is_down();
    stack.assert_clean("after a one-off on its own");

    stack.up();
    let address = |service: &str| stack.status(service).address;
    let ran = stack.ws(&["run", "-T", "api", "--", &program, "tcp", &address("db"), "7000"]);
    assert!(ran.code == 0 && ran.out.contains("\"did\""), "it has the links of its service: {ran}");
    let ran = stack.ws(&["run", "-T", "api", "--", &program, "tcp", &address("other"), "9000"]);
    assert!(!ran.out.contains("\"did\""), "and no others: {ran}");
    let names: Vec<String> = stack.ps().into_iter().map(|row| row.name.to_string()).collect();
    assert_eq!(names, ["api", "db", "other"], "nothing of it stays");
    stack.down();
}

fn commands_for_single_services(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  db: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' } }
  api: { command: [bin/ws-e2e-serve], links: ['db:7000'] }
",
    );
    stack.up();
    let code = |args: &[&str]| {
        let ran = stack.ws(args);
        assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
    };
    code(&["stop", "api"]);
    assert_eq!(stack.status("api").phase, Phase::Stopped);
    assert!(stack.status("db").ready);
    code(&["start", "api"]);
    assert!(stack.status("api").ready);
    let before = stack.pid("db");
    code(&["restart", "db"]);
    assert!(stack.status("db").ready);
    assert_ne!(stack.pid("db"), before);
    code(&["kill", "api"]);
    until(&stack, "api", "is killed", |row| row.signal == Some(9));
    code(&["wait", "db", "--for", "ready"]);
    let ran = stack.ws(&["wait", "api", "--for", "ready", "--timeout", "20s"]);
    assert_eq!(ran.code, 1, "it can never be: {ran}");
    let stats: Vec<serde_json::Value> = stack
        .ws(&["stats", "--no-stream", "--json"])
        .ok()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert!(!stats.is_empty());
    let listed = stack.ws(&["ls", "--json"]).ok();
    assert!(listed.contains("\"running\""), "{listed}");
    stack.down();
}

fn logs_are_searched_and_bounded(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  chatty:
    command: [/bin/sh, -c, 'i=0; while [ $$i -lt 5000 ]; do echo \"line $$i of the log of a service that says much\"; i=$$((i+1)); done; printf \"\\\\033[31mred\\\\033[0m \\\\033]0;title\\\\007end\\\\n\"; echo done; exec sleep 1000']
    logs: { max_size: 64K, max_files: 2 }
    ready: { log: '^done$' }
  calm: { command: [/bin/sh, -c, 'echo calm; exec sleep 1000'] }
",
    );
    stack.up();
    let found = stack.ws(&["logs", "chatty", "--grep", "line 49[0-9]{2} of", "--tail", "3", "--json"]).ok();
    let lines: Vec<ws_model::wire::LogLine> =
        found.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let texts: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
    assert_eq!(texts.len(), 3, "{found}");
    assert!(texts[2].starts_with("line 4999 "), "the last that match: {texts:?}");
    let ran = stack.ws(&["logs", "--grep", "("]);
    assert_eq!(ran.code, 2, "{ran}");
    let kept: u64 = ws_e2e::leak::listing(&stack.state)
        .iter()
        .filter(|path| path.to_string_lossy().contains("chatty"))
        .map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
        .sum();
    assert!(kept > 0 && kept <= 4 * 64 * 1024, "rotated and bounded: {kept} bytes");
    stack.down();
}

fn a_removed_project_can_be_taken_down(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' } }
",
    );
    stack.up();
    let listed = stack.ws(&["ls", "--json"]).ok();
    let rows: Vec<ws_model::wire::InstanceRow> =
        serde_json::from_str(&listed).expect("an array of instances");
    let row = rows.iter().find(|row| row.instance.to_string().contains(&stack.token)).expect("it runs");
    std::fs::remove_file(stack.project.join("workspace.yaml")).expect("removing the file");
    std::fs::remove_dir_all(stack.project.join("bin")).expect("removing the programs");
    let instance = row.instance.to_string();
    let at_home = |args: &[&str]| {
        let mut command = stack.command(&[&["-p", &instance][..], args].concat());
        command.current_dir(&stack.home);
        let output = command.output().expect("running ws");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, text) = at_home(&["ps"]);
    assert!(code == Some(0) && text.contains("api"), "{text}");
    let (code, text) = at_home(&["down"]);
    assert_eq!(code, Some(0), "{text}");
    stack.is_down();
    stack.assert_no_process("after its project was removed");
}

#[test]
fn a_full_disk_loses_nothing_that_memory_can_keep() {
    let mode = Mode::Root;
    requires!(mode, root, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  chatty:
    command: [/bin/sh, -c, 'i=0; while [ $$i -lt 4000 ]; do echo \"line $$i of the log of a service that says too much for its disk\"; i=$$((i+1)); done; echo done; exec sleep 1000']
    ready: { log: '^done$' }
",
    );
    stack.watch();
    // The state directory is a small file system of its own, which only this supervisor sees.
    let state = stack.state.display().to_string();
    let ws = stack.command(&[]).get_program().to_string_lossy().into_owned();
    let script =
        format!("mount -t tmpfs -o size=64k none {state} && exec {ws} up -d --wait --wait-timeout 30s");
    let mut command = stack.command(&[]);
    let environment: Vec<_> =
        command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
    command = std::process::Command::new("/usr/bin/unshare");
    command
        .args(["--mount", "/bin/sh", "-c", &script])
        .env_clear()
        .envs(environment)
        .current_dir(&stack.project);
    let output = command.output().expect("running unshare");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    // All of it is there, from memory.
    let lines = stack.ws(&["logs", "chatty", "--tail", "2000"]).ok();
    assert!(lines.contains("line 2500 ") && lines.contains("line 3999 "), "{}", lines.len());
    wait_until(SOON, "the full disk is told", || {
        let events = stack.ws(&["events"]).ok();
        if events.contains("No space left") || events.contains("no space left") {
            Ok(())
        } else {
            Err(events)
        }
    });
    assert!(stack.status("chatty").ready);
    let ran = stack.ws(&["down"]);
    assert_eq!(ran.code, 0, "{ran}");
    stack.is_down();
    stack.assert_no_process("after `down` on a full disk");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told() {
    let mode = Mode::User;
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, "\nservices: { s: { command: [bin/ws-e2e-serve] } }\n");
    stack.watch();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&stack.state, Some(0), Some(0)).expect("taking the directory away");
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&stack.state, std::fs::Permissions::from_mode(0o500)).expect("closing it");
    let ran = stack.ws(&["up", "-d", "--wait"]);
    assert!(ran.code != 0, "{ran}");
    let state = stack.state.display().to_string();
    assert!(ran.err.contains(&state), "it names the directory: {ran}");
    stack.is_down();
    stack.assert_no_process("after a start that was refused");
}

#[test]
fn a_program_that_is_not_there_is_told_at_once() {
    let mode = Mode::User;
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  s: { command: [bin/no-such-program] }
  t: { command: [bin/ws-e2e-serve], pre_start: [[no-such-hook]] }
",
    );
    let ran = ups(&mut stack);
    assert_eq!(ran.code, 1, "{ran}");
    for (service, program) in [("s", "bin/no-such-program"), ("t", "no-such-hook")] {
        let row = until(&stack, service, "has failed", |row| row.phase == Phase::Failed);
        assert_eq!((row.reason, row.restarts), (Reason::StartFailed, 0), "{row:?}");
        assert!(row.cause.contains(program) && row.cause.contains("no such file"), "{row:?}");
    }
    stack.down();
}
