//! Up, and down again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ws_e2e::{Mode, Stack, both_ways, requires, wait_until};
use ws_model::{ExitReason, Phase, Reason};

both_ways! {
    up_and_down
    two_instances_use_the_same_ports
    a_restart_keeps_address_and_network
    a_stack_that_cannot_become_ready_says_why
    a_task_runs_before_what_waits_for_it
    an_attached_stack_ends_with_ctrl_c
}

const SHOP: &str = "
services:
  web:
    command: [bin/ws-e2e-serve, 'http:8080']
    ports: ['0:8080']
    links: ['api:7000']
    ready: { http: ':8080/', within: 30s }
  api:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    links: ['db:9000']
    ready: { tcp: ':7000', within: 30s }
  db:
    command: [bin/ws-e2e-serve, 'tcp:9000']
    ready: { tcp: ':9000', within: 30s }
    volumes: ['data:/var/lib/data']
volumes: { data: {} }
";

/// A GET over a published port.
fn get(address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.trim().parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.trim().to_owned()))
}

fn up_and_down(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, SHOP);
    assert_eq!(stack.ws(&["ps", "--json"]).ok().trim(), "[]", "nothing runs yet");
    stack.up();

    let rows = stack.ps();
    let names: Vec<&str> = rows.iter().map(|row| row.service.as_str()).collect();
    assert_eq!(names, ["api", "db", "web"]);
    let mut addresses = BTreeSet::new();
    for row in &rows {
        assert_eq!((row.phase, row.ready, row.restarts), (Phase::Ready, true, 0), "{row:?}");
        assert!(row.level.is_some() && row.started_at.is_some(), "{row:?}");
        assert!(!row.cause.is_empty(), "{row:?}");
        assert!(addresses.insert(row.address.clone()), "an address each: {row:?}");
        let pid = row.pid.expect("a process").cast_signed();
        let name =
            std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("the process exists on the host");
        assert_eq!(name.trim(), "ws-e2e-serve", "`pid` is the service's own process");
    }

    let address = stack.ws(&["port", "web", "8080"]).ok();
    assert!(address.starts_with("127.0.0.1:"), "published on the loopback only: {address}");
    assert_eq!(get(&address).expect("the published port answers"), "web");
    let web = stack.status("web");
    let [port] = web.ports.as_slice() else { panic!("one port: {web:?}") };
    assert_eq!(format!("{}:{}", port.host, port.host_port), address.trim());
    assert_eq!(port.port, 8080);
    assert!(stack.logs("db").contains("serving"), "what a service prints is kept");

    // What is looked for afterwards is seen while it is there.
    let there = stack.left().join("\n");
    for what in ["process", "unix socket", "file", "ws-spawner", "ws-launcher", "ws-init", "__supervise"] {
        assert!(there.contains(what), "a running stack has a {what}:\n{there}");
    }
    if mode == Mode::Root && ws_e2e::needs::capabilities(mode).has("cgroup") {
        assert!(there.contains("control group"), "{there}");
    }

    stack.down();
    assert!(get(&address).is_err(), "nobody listens after `down`");
    assert_eq!(stack.ws(&["ps", "--json"]).ok().trim(), "[]");
    assert_eq!(stack.ws(&["down"]).code, 0, "a second `down` has nothing to do");
    // What ran once runs again.
    stack.up();
    stack.down();
}

fn two_instances_use_the_same_ports(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let (mut one, mut other) = (Stack::new(mode, SHOP), Stack::new(mode, SHOP));
    one.up();
    other.up();
    let ports = [&one, &other].map(|stack| stack.ws(&["port", "web", "8080"]).ok());
    assert_ne!(ports[0], ports[1]);
    for port in &ports {
        assert_eq!(get(port).expect("both answer"), "web");
    }
    let addresses = |stack: &Stack| stack.ps().into_iter().map(|row| row.address).collect::<Vec<_>>();
    assert_eq!(addresses(&one), addresses(&other), "the same addresses, in networks of their own");
    one.down();
    assert_eq!(get(&ports[1]).expect("the other goes on"), "web");
    assert!(other.ps().iter().all(|row| row.ready && row.restarts == 0));

    // The same directory, as another instance.
    let named = |args: &[&str]| other.ws(&[&["-p", "second"], args].concat());
    assert_eq!(named(&["up", "-d", "--wait", "--wait-timeout", "60s"]).code, 0);
    let port = named(&["port", "web", "8080"]).ok();
    assert_eq!(get(&port).expect("the second instance answers"), "web");
    assert_eq!(named(&["down"]).code, 0);
    assert_eq!(get(&ports[1]).expect("the first goes on"), "web");
    other.down();
}

/// The network namespace of a service, as it sees itself.
fn network(stack: &Stack, service: &str) -> String {
    stack.exec(service, &["/bin/readlink", "/proc/self/ns/net"]).ok()
}

fn a_restart_keeps_address_and_network(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000', within: 30s }
    restart: { policy: always, backoff: 10ms..100ms }
",
    );
    stack.up();
    let before = stack.status("api");
    let net = network(&stack, "api");
    let pid = before.pid.expect("a process").cast_signed();
    let marked = stack.exec("api", &["/bin/sh", "-c", "echo x > /tmp/mark"]);
    assert_eq!(marked.code, 0, "{marked}");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killing the service");
    let after = wait_until(Duration::from_secs(20), "the next run is ready", || {
        let row = stack.status("api");
        if row.ready && row.restarts == 1 { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.address, before.address, "the address stays");
    assert_eq!(network(&stack, "api"), net, "the network namespace stays");
    let ran = stack.exec("api", &["/bin/cat", "/tmp/mark"]);
    assert_ne!(ran.code, 0, "/tmp is new with every run: {ran}");
    stack.down();
}

fn a_stack_that_cannot_become_ready_says_why(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  good: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' } }
  bad: { command: [/bin/sh, -c, 'echo the reason of it; exit 7'], restart: 'no', ready: { tcp: ':1' } }
  waits: { command: [bin/ws-e2e-serve], depends_on: [bad] }
",
    );
    stack.watch();
    let ran = stack.ws(&["up", "-d", "--wait", "--wait-timeout", "30s"]);
    assert_eq!(ran.code, 1, "{ran}");
    let said = format!("{}{}", ran.out, ran.err);
    assert!(said.contains("bad") && said.contains('7'), "{ran}");
    assert!(said.contains("the reason of it"), "its last words are shown: {ran}");
    let row = stack.status("bad");
    assert_eq!((row.phase, row.reason, row.exit_code), (Phase::Failed, Reason::Exit, Some(7)), "{row:?}");
    stack.down();
}

fn a_task_runs_before_what_waits_for_it(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  prepare:
    kind: task
    command: [/bin/sh, -c, 'echo prepared > /data/state']
    volumes: ['data:/data']
  serve:
    command: [/bin/sh, -c, 'cat /data/state; exec $0', bin/ws-e2e-serve]
    depends_on: [prepare]
    volumes: ['data:/data']
volumes: { data: { shared: true } }
",
    );
    stack.up();
    let row = stack.status("prepare");
    assert_eq!((row.phase, row.exit_code, row.ready), (Phase::Exited, Some(0), true), "{row:?}");
    wait_until(Duration::from_secs(10), "what the task wrote is read", || {
        let text = stack.logs("serve");
        if text.contains("prepared") { Ok(()) } else { Err(text) }
    });
    stack.down();
    // Volumes stay until they are removed.
    stack.up();
    stack.down();
    let ran = stack.ws(&["down", "--volumes"]);
    assert_eq!(ran.code, 0, "{ran}");
}

fn an_attached_stack_ends_with_ctrl_c(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(mode, SHOP);
    stack.watch();
    let up = stack.start(&["up"]);
    wait_until(Duration::from_secs(60), "everything is ready", || {
        let rows = stack.ps();
        if rows.len() == 3 && rows.iter().all(|row| row.ready) { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    assert!(!stack.processes().is_empty());
    up.signal(Signal::SIGINT);
    let ran = up.end();
    assert!(ran.code == 130 || ran.code == 0, "{ran}");
    assert_eq!(stack.ws(&["ps", "--json"]).ok().trim(), "[]");
    stack.is_down();
    stack.assert_clean("after Ctrl-C");
}

#[test]
fn an_exit_by_itself_is_told() {
    requires!(Mode::User, userns, netns, nft);
    let mut stack = Stack::new(
        Mode::User,
        "
services:
  short: { command: [/bin/sh, -c, 'exit 3'], restart: 'no' }
  long: { command: [bin/ws-e2e-serve, 'tcp:1'], ready: { tcp: ':1' } }
",
    );
    stack.watch();
    // It may have ended before it was seen to have started.
    let ran = stack.ws(&["up", "-d"]);
    assert!(ran.code == 0 || ran.code == 1 && ran.err.contains("`short`"), "{ran}");
    wait_until(Duration::from_secs(20), "its end is told", || {
        let events = stack.ws(&["events", "--json"]).ok();
        let found = events.lines().filter_map(|line| serde_json::from_str::<ws_model::Event>(line).ok()).any(
            |event| matches!(event.kind, ws_model::EventKind::Phase { exit: Some(ExitReason::Code(3)), .. }),
        );
        if found { Ok(()) } else { Err(events) }
    });
    stack.down();
}
