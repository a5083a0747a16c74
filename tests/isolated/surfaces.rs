//! What a hostile service tries against what the supervisor hears, reads and opens for it: its notices, the answers of
//! its health checks, terminals, hooks, one-offs, what runs elsewhere, included files.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::pty::OpenptFlags;
use ws_e2e::{Mode, Stack, both_ways, requires, show, wait_until};

both_ways! {
    a_flood_of_notices_costs_little
    nobody_speaks_for_another
    what_runs_elsewhere_is_all_that_a_link_to_it_gives
    what_decides_cannot_be_written_or_led_elsewhere
    nothing_is_typed_into_the_callers_terminal
    hostile_answers_to_probes_leave_nothing_behind
    hooks_have_no_more_rights_than_their_service
    a_one_off_has_no_more_rights_than_its_service
    descriptors_on_their_way_stop_nobody_else
}

/// How long anything of a test may take. Generous: it is there so that a test that hangs fails.
const SOON: Duration = Duration::from_secs(60);

/// A Python program as a service's command.
fn python(program: &str) -> String {
    let lines: Vec<String> = program.lines().map(|line| format!("        {line}")).collect();
    format!("\n      - /usr/bin/python3\n      - -u\n      - -c\n      - |\n{}\n", lines.join("\n"))
}

fn until_logged(stack: &Stack, service: &str, text: &str) {
    wait_until(SOON, &format!("`{text}` in the log of {service}"), || {
        let log = stack.logs(service);
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
}

fn supervisor(stack: &Stack) -> i32 {
    let all = stack.processes();
    let one = all.iter().find(|process| process.cmdline.contains("__supervise"));
    one.expect("a supervisor").pid
}

/// The memory that a process has, in KiB.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

const FLOOD: &str = "
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
r, w = os.pipe()
socket.send_fds(s, [b'READY=1'], [w])
os.close(w)
assert os.read(r, 1) == b''
print('nobody keeps what came along', flush=True)
r, w = os.pipe()
n = 0
while True:
    n += 1
    message = b'STATUS=%d\\nX=' % n + b'y' * 3000
    try:
        socket.send_fds(s, [message], [w] * 100)
    except OSError:
        s.send(message)
    if n % 100 == 0:
        print('sent', n, flush=True)";

fn a_flood_of_notices_costs_little(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let flood = python(FLOOD);
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  floods:
    command: {flood}
    ready: notify
  sibling:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: {{ tcp: ':7000', interval: 100ms }}
"
        ),
    );
    let began = Instant::now();
    stack.up();
    until_logged(&stack, "floods", "nobody keeps what came along");
    let pid = supervisor(&stack);
    let before = memory(pid);
    until_logged(&stack, "floods", "sent 100\n");
    for _ in 0..5 {
        assert_eq!(stack.exec("sibling", &["/bin/echo", "here"]).ok(), "here\n");
    }
    until_logged(&stack, "floods", "sent 200\n");
    let grown = memory(pid).saturating_sub(before);
    assert!(grown < 32 << 10, "the supervisor has {grown} KiB more");
    let events = stack.ws(&["events", "--json"]).ok();
    let told = events.lines().filter(|line| line.contains("\"floods\"") && line.contains("status")).count();
    // 32 at once and then 20 a second (`ws_linux::notify`).
    let bound = 32 + 20 * (usize::try_from(began.elapsed().as_secs()).expect("a short time") + 1);
    show(&format!("as {mode}: {told} statuses told in {:?}, {grown} KiB more\n", began.elapsed()));
    assert!(told > 0 && told <= bound, "{told} statuses were told, at most {bound} are heard");
    let row = stack.status("sibling");
    assert!(row.ready && row.restarts == 0, "{row:?}");
    stack.down();
}

fn nobody_speaks_for_another(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let honest = python(
        "import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'STATUS=my own words\\nREADY=1', os.environ['NOTIFY_SOCKET'])
time.sleep(1000)",
    );
    // Every way to a socket of that name that can be seen, and the abstract one.
    let evil = "import glob, os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
said = []
for path in ['/run/notify', '\\0/run/notify'] + glob.glob('/proc/*/root/run/notify') + glob.glob('/proc/*/fd/*'):
    try:
        s.sendto(b'STATUS=evil words', path)
        said.append(path)
    except OSError:
        pass
print(said)
print(os.environ.get('NOTIFY_SOCKET'))";
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  honest:
    command: {honest}
    ready: notify
  mute: {{ command: [bin/ws-e2e-serve] }}
"
        ),
    );
    stack.up();
    let ran = stack.exec("mute", &["/usr/bin/python3", "-c", evil]);
    assert_eq!(ran.ok(), "[]\nNone\n");
    // Its own is all that one finds which has one.
    let ran = stack.exec("honest", &["/bin/ls", "-la", "/run/notify"]);
    assert!(ran.code == 0 && ran.out.starts_with("srw-------"), "{ran}");
    assert_eq!(stack.status("honest").status.as_deref(), Some("my own words"));
    stack.down();
}

fn what_runs_elsewhere_is_all_that_a_link_to_it_gives(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let listen = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening on the loopback");
        let port = listener.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"outside\n");
            }
        });
        port
    };
    let (meant, other) = (listen(), listen());
    let mut stack = Stack::new(
        mode,
        &format!(
            "
external: {{ orders: 'host:{meant}' }}
services:
  linked: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], links: [orders], ready: {{ tcp: ':7000' }} }}
  not-linked: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], ready: {{ tcp: ':7000' }} }}
"
        ),
    );
    stack.up();
    let address = |service: &str| stack.status(service).address;
    let (linked, not_linked) = (address("linked"), address("not-linked"));
    let found = stack.exec("linked", &["/usr/bin/getent", "ahostsv4", "orders"]).ok();
    let orders = found.split_whitespace().next().expect("an address").to_owned();
    let (network, _) = linked.rsplit_once('.').expect("an address of four numbers");
    let gateway = format!("{network}.1");
    // Address and port, the source to claim, and a transport; says what came back.
    let attempt = "import socket, sys
for one in sys.argv[1:]:
    kind, host, port, source = one.split('/')
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    s.settimeout(2)
    try:
        if source:
            s.setsockopt(socket.IPPROTO_IP, 15, 1)
            s.bind((source, 0))
        s.connect((host, int(port)))
        if kind == 'udp':
            s.send(b'x')
        print(one, 'GOT' if s.recv(10) else 'CLOSED')
    except OSError as error:
        print(one, type(error).__name__)";
    let to = |service: &str, all: &[String]| {
        let mut command = vec!["/usr/bin/python3", "-c", attempt];
        command.extend(all.iter().map(String::as_str));
        stack.exec(service, &command).ok()
    };
    assert_eq!(
        to("linked", &[format!("tcp/{orders}/{meant}/")]),
        format!("tcp/{orders}/{meant}/ GOT\n"),
        "the way that is meant"
    );
    let mut attempts = Vec::new();
    for host in [&orders, &gateway, "127.0.0.1", "127.0.0.2"] {
        attempts.push(format!("tcp/{host}/{other}/"));
        attempts.push(format!("tcp/{host}/22/"));
        attempts.push(format!("udp/{host}/{meant}/"));
        if *host != *orders {
            attempts.push(format!("tcp/{host}/{meant}/"));
        }
    }
    let out = to("linked", &attempts);
    assert!(!out.contains("GOT"), "linked to one port of one address:\n{out}");
    // Somebody else's address needs no right to be bound (IP_FREEBIND): it must not help.
    let mut attempts = vec![format!("tcp/{orders}/{meant}/")];
    for source in [&linked, &gateway, &orders, "127.0.0.1"] {
        attempts.push(format!("tcp/{orders}/{meant}/{source}"));
        attempts.push(format!("tcp/{linked}/7000/{source}"));
    }
    let out = to("not-linked", &attempts);
    assert!(!out.contains("GOT") && !out.contains("CLOSED"), "from {not_linked}, not linked:\n{out}");
    stack.down();
}

fn what_decides_cannot_be_written_or_led_elsewhere(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, "services: {}");
    stack.directory("infra/data");
    let included = "services: { db: { command: [sleep, '1000'], working_dir: data, writable: [data] } }\n";
    let file = stack.write("infra/workspace.yaml", included);
    let say = |stack: &Stack, text: &str| {
        stack.write("workspace.yaml", &format!("name: {}\n{text}", stack.token));
    };
    // Each of these would let a service decide what it may do at the next start.
    for (service, code) in [
        ("writable: [infra]", "WS0029"),
        ("writable: [infra/workspace.yaml]", "WS0029"),
        ("volumes: ['./infra:/x']", "WS0029"),
    ] {
        let text = format!(
            "include: [infra/workspace.yaml]\nservices: {{ a: {{ command: [sleep, '9'], {service} }} }}\n"
        );
        say(&stack, &text);
        let ran = stack.ws(&["config"]);
        assert!(ran.code != 0 && ran.err.contains(code), "{service}: {ran}");
    }
    symlink("../infra/workspace.yaml", stack.directory("links").join("file.yaml")).expect("a link");
    symlink("infra", stack.project.join("away")).expect("a link");
    for include in ["links/file.yaml", "away/workspace.yaml"] {
        say(&stack, &format!("include: [{include}]\nservices: {{}}\n"));
        let ran = stack.ws(&["config"]);
        assert!(ran.code != 0 && ran.err.contains("WS0060"), "{include}: {ran}");
    }
    fs::remove_file(stack.project.join("away")).expect("removing a link");
    fs::remove_dir_all(stack.project.join("links")).expect("removing a directory");

    say(
        &stack,
        "include: [infra/workspace.yaml]\nservices: { a: { command: [sleep, '1000'], writable: [out] } }\n",
    );
    stack.directory("out");
    stack.up();
    let project = stack.project.display().to_string();
    for service in ["a", "db"] {
        for attempt in [
            format!("echo x >> {project}/infra/workspace.yaml"),
            format!("mv {project}/infra {project}/infra2"),
            format!("mv {project}/infra/data {project}/infra/data2"),
            format!("rm {project}/infra/workspace.yaml"),
            format!("ln -s /etc/passwd {project}/infra/other.yaml"),
            format!(
                "ln {project}/infra/workspace.yaml {project}/infra/data/same || ln {project}/infra/workspace.yaml {project}/out/same"
            ),
            format!("chmod 666 {project}/infra/workspace.yaml"),
        ] {
            let ran = stack.exec(service, &["/bin/sh", "-c", &attempt]);
            assert!(ran.code != 0, "{attempt}: {ran}");
        }
    }
    assert_eq!(fs::read_to_string(file).expect("the included file"), included);
    stack.down();
}

/// Prints what came of each attempt.
const TYPES: &str = "
import fcntl, os, termios
def attempt(what, act):
    try:
        print(what, 'did:', act())
    except OSError as error:
        print(what, 'refused:', error.strerror)
def pts():
    return sorted(os.listdir('/dev/pts'))
def own():
    # That of a one-off is made before its sandbox, and has no name in it.
    try:
        return {os.ttyname(0)}
    except OSError:
        return set()
print('terminal', os.isatty(0), pts())
attempt('TIOCSTI', lambda: fcntl.ioctl(0, 0x5412, b'x'))
attempt('TIOCSTI-TTY', lambda: fcntl.ioctl(os.open('/dev/tty', os.O_RDWR), 0x5412, b'x'))
attempt('TIOCLINUX', lambda: fcntl.ioctl(0, 0x541c, b'\\x02'))
attempt('TIOCSETD', lambda: fcntl.ioctl(0, 0x5423, b'\\0\\0\\0\\0'))
attempt('TIOCCONS', lambda: fcntl.ioctl(0, 0x541d))
attempt('TIOCGPTPEER', lambda: fcntl.ioctl(0, 0x5441, 0))
attempt('MASTER', lambda: os.listdir('/proc/1/fd'))
print('others', [name for name in pts() if name != 'ptmx' and '/dev/pts/' + name not in own()])";

fn nothing_is_typed_into_the_callers_terminal(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let types = python(
        &format!("{TYPES}\nprint('tried', flush=True)\nimport time\ntime.sleep(1000)").replace("\n\n", "\n"),
    );
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  shown:
    command: {types}
    tty: true
    ready: {{ log: tried }}
"
        ),
    );
    stack.up();
    let judge = |out: &str, where_: &str| {
        for name in ["TIOCSTI", "TIOCLINUX", "TIOCSETD", "TIOCCONS", "TIOCGPTPEER", "MASTER"] {
            assert!(out.contains(&format!("{name} refused")), "{name} {where_}: {out}");
        }
        assert!(!out.contains("TIOCSTI-TTY did"), "{where_}: {out}");
        assert!(out.contains("terminal True"), "{where_}: {out}");
    };
    let log = stack.logs("shown");
    judge(&log, "in the service");
    assert!(log.contains("others []"), "a service sees no terminal but its own: {log}");

    // Two terminals of the caller, as a shell would have them: for a command inside, and for a one-off.
    for args in [
        &["exec", "shown", "--", "/usr/bin/python3", "-c", TYPES][..],
        &["run", "shown", "--", "/usr/bin/python3", "-c", TYPES],
    ] {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&ours).expect("unlocking it");
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).expect("its other side");
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        let mut command = stack.command(args);
        command.stdin(end(&theirs)).stdout(end(&theirs)).stderr(end(&theirs));
        let mut child = command.spawn().expect("starting ws");
        drop(command);
        let mut screen = fs::File::from(ours.try_clone().expect("a descriptor"));
        let kept = theirs.try_clone().expect("a descriptor");
        drop(theirs);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut part = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(length @ 1..) = screen.read(&mut part) {
                all.extend_from_slice(&part[..length]);
                if String::from_utf8_lossy(&all).contains("others [") {
                    break;
                }
            }
            String::from_utf8_lossy(&all).into_owned()
        });
        let status = child.wait().expect("its end");
        let typed = rustix::io::ioctl_fionread(&kept).expect("asking the terminal");
        drop(kept);
        let out = reader.join().expect("what was shown");
        assert!(status.success(), "{args:?}: {status}: {out}");
        judge(&out, args[0]);
        assert_eq!(typed, 0, "{args:?}: something was typed");
    }
    stack.down();
}

/// Answers in the way that `HOW` says to a few questions, until the other side closes; tells of each.
const ANSWERS: &str = "
import os, socket, threading, time
how = os.environ['HOW']
ok = b'HTTP/1.1 200 OK\\r\\n'
settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
ping = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)
first, then = {
    'body': (ok + b'\\r\\n', b'x' * 65536),
    'chunks': (ok + b'transfer-encoding: chunked\\r\\n\\r\\n', b'1\\r\\nx\\r\\n' * 1000),
    'headers': (ok, b'x-y: z\\r\\n' * 1000),
    'header': (ok + b'x-y: ', b'z' * 65536),
    'continue': (b'', b'HTTP/1.1 100 Continue\\r\\n\\r\\n' * 1000),
    'drip': (ok, b'x'),
    'redirect': (b'HTTP/1.1 302 Found\\r\\nlocation: /health\\r\\ncontent-length: 0\\r\\n\\r\\n', b''),
    'garbage': (b'', os.urandom(65536)),
    'pings': (settings, ping * 1000),
    'settings': (settings, settings * 1000),
    'continuation': (settings + bytes([0, 0, 1, 1, 0, 0, 0, 0, 1]) + b'\\x88',
                     bytes([0, 0, 4, 9, 0, 0, 0, 0, 1]) + b'\\0\\x01a\\0'),
}[how]
server = socket.socket()
# Full of answers soon.
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
server.bind(('', 7000))
server.listen()
def serve(c):
    try:
        c.sendall(first)
        while then:
            c.sendall(then)
            if how == 'drip':
                time.sleep(0.02)
        while c.recv(65536):
            pass
    except OSError:
        pass
    c.close()
serving = []
for _ in range(3):
    serving.append(threading.Thread(target=serve, args=(server.accept()[0],)))
    serving[-1].start()
for one in serving:
    one.join()
print('all closed', flush=True)
time.sleep(1000)";

fn hostile_answers_to_probes_leave_nothing_behind(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let kinds = [
        ("body", "http: { url: ':7000/health', body: never there }"),
        ("chunks", "http: { url: ':7000/health', body: never there }"),
        ("headers", "http: ':7000/health'"),
        ("header", "http: ':7000/health'"),
        ("continue", "http: ':7000/health'"),
        ("drip", "http: ':7000/health'"),
        ("redirect", "http: { url: ':7000/health', status: [200] }"),
        ("garbage", "grpc: ':7000'"),
        ("pings", "grpc: ':7000'"),
        ("settings", "grpc: ':7000'"),
        ("continuation", "grpc: ':7000'"),
    ];
    let answers = python(ANSWERS);
    let mut yaml = "
services:
  honest:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000', interval: 100ms }
"
    .to_owned();
    for (how, probe) in kinds {
        yaml += &format!(
            "  {how}:\n    command: {answers}    environment: {{ HOW: {how} }}\n    ready: {{ {probe}, timeout: 300ms, \
             start_interval: 200ms, interval: 200ms, within: 600s }}\n"
        );
    }
    let mut stack = Stack::new(mode, &yaml);
    stack.watch();
    let ran = stack.ws(&["up", "-d"]);
    assert_eq!(ran.code, 0, "{ran}");
    let pid = supervisor(&stack);
    let before = memory(pid);
    wait_until(SOON, "the honest one is ready beside all the others", || {
        let row = stack.status("honest");
        if row.ready { Ok(()) } else { Err(format!("{row:#?}")) }
    });
    for (how, _) in kinds {
        // Whatever it sends, and whether it reads: the supervisor lets go of every connection.
        until_logged(&stack, how, "all closed");
        let row = stack.status(how);
        assert!(!row.ready, "{row:#?}");
    }
    let grown = memory(pid).saturating_sub(before);
    show(&format!(
        "as {mode}: the supervisor has {grown} KiB more after {} hostile answers\n",
        5 * kinds.len()
    ));
    assert!(grown < 64 << 10, "the supervisor has {grown} KiB more");
    let row = stack.status("honest");
    assert!(row.ready && row.restarts == 0, "{row:?}");
    stack.down();
}

/// Prints what it is, and what came of trying to be or to write more.
const RIGHTS: &str = "echo RIGHTS $(grep -E '^(Cap...|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t\\n'); \
     (echo x > new-file) 2>/dev/null && echo WROTE; (echo x >> workspace.yaml) 2>/dev/null && echo WROTE; \
     (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo WROTE; \
     bin/ws-e2e-attack call unshare 0x10000000; bin/ws-e2e-attack call mount s:none s:/tmp s:tmpfs 0 0; \
     bin/ws-e2e-attack call ptrace 0 0 0 0; bin/ws-e2e-attack list /proc/1/fd";

/// What it prints where nothing but what a service may is allowed.
fn assert_rights(text: &str, times: usize) {
    let none = "0000000000000000";
    let rights = format!(
        "RIGHTS CapInh:{none}CapPrm:{none}CapEff:{none}CapBnd:{none}CapAmb:{none}NoNewPrivs:1Seccomp:2"
    );
    assert_eq!(text.matches(&rights).count(), times, "{text}");
    assert_eq!(text.matches("\"EPERM\"").count() + text.matches("\"EACCES\"").count(), 4 * times, "{text}");
    assert!(!text.contains("WROTE") && !text.contains("\"did\""), "{text}");
}

fn hooks_have_no_more_rights_than_their_service(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let hook = format!("[[/bin/sh, -c, \"{}\"]]", RIGHTS.replace('\\', "\\\\").replace('$', "$$"));
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  api:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: {{ tcp: ':7000' }}
    pre_start: {hook}
    post_start: {hook}
    pre_stop: {hook}
    stop: {{ command: {}, grace: 20s }}
",
            &hook[1..hook.len() - 1]
        ),
    );
    stack.up();
    let ran = stack.ws(&["stop", "api"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert_rights(&stack.logs("api"), 4);
    stack.down();
}

fn a_one_off_has_no_more_rights_than_its_service(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let mut stack = Stack::new(
        mode,
        "
services:
  api: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' }, writable: [out] }
  other: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' } }
",
    );
    stack.directory("out");
    stack.up();
    let before = stack.processes().len();
    let rights = format!("{RIGHTS}; echo kept > /tmp/left; echo kept > /dev/shm/left; (sleep 1000 &)");
    for number in 0..3 {
        let ran = stack.ws(&["run", "-T", "api", "--", "/bin/sh", "-c", &rights]);
        assert_eq!(ran.code, 0, "{number}: {ran}");
        assert_rights(&ran.out, 1);
        // Nor does a later one, or its service, find what it left.
        let look = "ls /tmp/left /dev/shm/left 2>/dev/null; true";
        assert_eq!(stack.ws(&["run", "-T", "api", "--", "/bin/sh", "-c", look]).ok(), "");
        assert_eq!(stack.exec("api", &["/bin/sh", "-c", look]).ok(), "");
    }
    // Neither the service nor another has a way to it while it runs.
    let running = stack.start(&["run", "-T", "api", "--", "bin/ws-e2e-serve", "tcp:7000"]);
    let one = wait_until(SOON, "the one-off runs", || {
        let row = stack.ps().into_iter().find(|row| row.name.as_str().contains("-run-") && row.pid.is_some());
        row.ok_or("not yet")
    });
    for service in ["api", "other"] {
        let program = stack.bin("ws-e2e-attack");
        let ran = stack.exec(service, &[&program, "tcp", &one.address, "7000"]);
        assert!(!ran.out.contains("\"did\""), "{service}: {ran}");
    }
    running.signal(Signal::SIGKILL);
    let _ = running.end();
    wait_until(SOON, "nothing of one-offs is left", || {
        let names: Vec<String> = stack.ps().into_iter().map(|row| row.name.to_string()).collect();
        let now = stack.processes().len();
        if names == ["api", "other"] && now == before {
            Ok(())
        } else {
            Err(format!("{names:?}, {now} of {before}"))
        }
    });
    stack.down();
}

fn descriptors_on_their_way_stop_nobody_else(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        r"
services:
  hog:
    command:
      - /usr/bin/python3
      - -u
      - -c
      - |
        import resource, socket, time
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        kept, sent = [], 0
        try:
            while True:
                pair = socket.socketpair()
                socket.send_fds(pair[0], [b'x'], [0] * 250)
                kept.append(pair)
                sent += 250
        except OSError as error:
            print('refused', error.errno, 'after', sent)
        time.sleep(1000)
    ready: { log: '^refused' }
  sibling: { command: [bin/ws-e2e-serve] }
",
    );
    stack.watch();
    // Few enough that all of them can be on their way.
    let command = stack.command(&[]);
    let ws = command.get_program().to_string_lossy().into_owned();
    let script = format!("ulimit -Sn 1024; ulimit -Hn 20000; exec {ws} up -d --wait --wait-timeout 30s");
    let mut shell = std::process::Command::new("/bin/sh");
    mode.apply(&mut shell, stack.ids);
    let environment = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
    shell.args(["-c", &script]).env_clear().envs(environment).current_dir(&stack.project);
    let output = shell.output().expect("running a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // ETOOMANYREFS: it has as many on their way as it may.
    assert!(stack.logs("hog").contains("refused 109"), "{}", stack.logs("hog"));
    let ran = stack.exec("sibling", &["/bin/true"]);
    assert_eq!(ran.code, 0, "{ran}");
    let ran = stack.ws(&["restart", "sibling"]);
    assert_eq!(ran.code, 0, "{ran}");
    stack.down();
}
