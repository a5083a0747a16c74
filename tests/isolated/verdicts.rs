//! What the file says is done about violations: by the command, on the real machine; and how they are told.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use ws_e2e::attack::{Came, now_us};
use ws_e2e::stack::helper;
use ws_e2e::wait::let_pass;
use ws_e2e::{Mode, Stack, both_ways, needs, requires, show, wait_until};
use ws_model::{EventKind, Evidence, Mechanism, NetworkAct, Phase, PolicyAction, Reason, ViolationClass};

use crate::policy::{LATE, QUIET, SOON, after, attack, came, events, pids, until, violation, violations};

both_ways! {
    what_the_file_says_is_done
    what_was_seen_is_told_in_every_form
    a_service_that_must_not_go_on_takes_the_workspace_down
    a_removed_link_ends_what_runs_over_it
    a_flood_hides_nobody
    programs_that_are_not_allowed_are_refused
    output_is_measured
}

fn address(stack: &Stack, service: &str) -> String {
    stack.status(service).address
}

fn what_the_file_says_is_done(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let mut stack = Stack::new(
        mode,
        "
services:
  killed: { command: [bin/ws-e2e-serve], policy: { network: kill } }
  again: { command: [bin/ws-e2e-serve], policy: { network: restart } }
  never: { command: [bin/ws-e2e-serve], restart: 'no', policy: { network: restart } }
  third: { command: [bin/ws-e2e-serve], policy: { network: { action: kill, after: 3, within: 60s } } }
  short: { command: [bin/ws-e2e-serve], policy: { network: { action: kill, after: 2, within: 1s } } }
  accepted:
    command: [bin/ws-e2e-serve]
    policy:
      network: kill
      accept: [{ class: network, to: 'db:*', why: it is known }]
  silent: { command: [bin/ws-e2e-serve], policy: { network: off, syscalls: off, decoys: off } }
  plain: { command: [bin/ws-e2e-serve] }
  db: { command: [bin/ws-e2e-serve, 'tcp:5432'], ready: { tcp: ':5432' } }
",
    );
    stack.up();
    let db = address(&stack, "db");
    let still = pids(&stack, &["db", "accepted", "silent", "short"]);
    let before = stack.pid("again");
    let program = stack.bin("ws-e2e-attack");
    let dial = |service: &str, port: &str| stack.exec(service, &[&program, "tcp", &db, port]);
    let of = |service: &'static str, port: u16| {
        violation(&stack, &format!("{service} to {port}"), |row| {
            row.service.as_str() == service && row.evidence.target() == Some(format!("db:{port}"))
        })
    };

    let _ = dial("killed", "5432");
    let row = until(&stack, "killed", Phase::Violated);
    assert_eq!((row.reason, row.restarts, row.pid), (Reason::Violation, 0, None), "{row:?}");
    assert!(row.cause.contains("tried db:5432 (tcp), and no link leads there"), "{row:?}");
    let seen = of("killed", 5432);
    assert_eq!((seen.action, seen.rule.as_str()), (PolicyAction::Kill, "services.killed.policy.network"));
    let suggestion = seen.suggestion.expect("what would allow it");
    assert_eq!(
        (suggestion.to.as_str(), suggestion.add.as_str()),
        ("services.killed", r#"links: ["db:5432"]"#)
    );

    let _ = dial("again", "5432");
    let row = wait_until(SOON, "it runs again", || {
        let row = stack.status("again");
        if row.ready && row.restarts == 1 { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert_ne!(row.pid, Some(before.cast_unsigned()), "{row:?}");
    assert_eq!(of("again", 5432).action, PolicyAction::Restart);
    let _ = dial("never", "5432");
    until(&stack, "never", Phase::Violated);

    for port in [1, 2] {
        assert_eq!(came(&dial("third", &port.to_string())).outcome, "ECONNREFUSED");
        let seen = of("third", port);
        assert_eq!(seen.action, PolicyAction::Report, "{seen:?}");
        assert!(seen.unless.as_ref().is_some_and(|unless| unless.contains("3rd")), "{seen:?}");
    }
    assert!(stack.status("third").ready);
    let _ = dial("third", "3");
    assert_eq!(of("third", 3).action, PolicyAction::Kill);
    until(&stack, "third", Phase::Violated);

    // Two of them, but not within a second.
    for port in [1, 2] {
        assert_eq!(came(&dial("short", &port.to_string())).outcome, "ECONNREFUSED");
        of("short", port);
        let_pass(Duration::from_millis(1100));
    }

    // Denied all the same.
    assert_eq!(came(&dial("accepted", "5432")).outcome, "ECONNREFUSED");
    assert_eq!(came(&dial("silent", "5432")).outcome, "ECONNREFUSED");
    assert_eq!(attack(&stack, "silent", &["call", "mount", "0", "0", "0", "0", "0"]).outcome, "EPERM");
    let keys = stack.exec("silent", &["/bin/sh", "-c", "ls -A ~/.ssh"]);
    assert_ne!(keys.code, 0, "no decoys where they are off: {keys}");
    let_pass(QUIET);
    let quiet = |name: &str| ["accepted", "silent", "db"].contains(&name);
    let rows = violations(&stack);
    assert!(!rows.iter().any(|row| quiet(row.service.as_str())), "{rows:#?}");
    // What is accepted is that, and not everything.
    let _ = dial("accepted", "1");
    let _ = stack.exec("accepted", &[&program, "tcp", "192.0.2.1", "80"]);
    until(&stack, "accepted", Phase::Violated);
    for (name, pid) in still.iter().filter(|(name, _)| *name != "accepted") {
        let row = stack.status(name);
        assert!(row.ready && row.restarts == 0 && row.pid == Some(*pid), "{row:?}");
    }
    // Where the file says nothing: keys that libraries look at are told, others are killed for; everything else is told.
    let cat = |path: &str| stack.exec("plain", &["/bin/sh", "-c", &format!("cat {path}; sleep 0.1")]);
    assert_eq!(dial("plain", "5432").code, 0);
    assert_eq!(attack(&stack, "plain", &["call", "mount", "0", "0", "0", "0", "0"]).outcome, "EPERM");
    assert_eq!(cat("~/.aws/credentials").code, 0);
    let by = |class: ViolationClass, action: PolicyAction| {
        violation(&stack, &format!("{class} of plain"), |row| {
            (row.service.as_str(), row.class, row.action) == ("plain", class, action)
        })
    };
    for class in [ViolationClass::Network, ViolationClass::Syscalls, ViolationClass::Decoys] {
        assert_eq!(by(class, PolicyAction::Report).rule, "default");
    }
    assert!(stack.status("plain").ready);
    let _ = cat("~/.ssh/id_rsa");
    assert_eq!(by(ViolationClass::Decoys, PolicyAction::Kill).rule, "default");
    until(&stack, "plain", Phase::Violated);
    // Whoever was killed comes when he is asked for.
    assert_eq!(stack.ws(&["start", "killed"]).code, 0);
    wait_until(SOON, "it runs again", || {
        let row = stack.status("killed");
        if row.ready { Ok(()) } else { Err(format!("{row:?}")) }
    });
    stack.down();
}

fn what_was_seen_is_told_in_every_form(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let mut stack = Stack::new(
        mode,
        "services:
  api:
    command: [bin/ws-e2e-serve]
    links: ['cache:6379']
    policy: { syscalls: kill }
  cache: { command: [bin/ws-e2e-serve, 'tcp:6379'], ready: { tcp: ':6379' } }
  db: { command: [bin/ws-e2e-serve, 'tcp:5432'], ready: { tcp: ':5432' } }
",
    );
    stack.up();
    let none = stack.ws(&["violations", "--exit-code"]);
    assert_eq!((none.code, none.out.as_str()), (0, ""), "{none}");
    // None is no promise about what cannot be seen.
    assert!(none.err.contains("not seen here:") && none.err.contains("filesystem"), "{none}");
    let why = stack.ws(&["why", "api", "db:5432"]);
    assert_eq!(why.code, 1, "{why}");
    assert!(why.out.contains(r#"add `links: ["db:5432"]` to `services.api` (workspace.yaml:3)"#), "{why}");
    let why = stack.ws(&["why", "api", "cache:6379"]);
    assert_eq!(why.code, 0, "{why}");
    assert!(why.out.contains("6379/tcp by workspace.yaml:5"), "{why}");
    let why = stack.ws(&["why", "cache"]);
    assert!(why.out.contains("may be reached by api on 6379/tcp (workspace.yaml:5)"), "{why}");
    let why = stack.ws(&["why", "db"]);
    assert!(why.out.contains("may be reached by nobody"), "{why}");

    let mut follower = stack.start(&["violations", "--follow", "--json"]);
    let db = address(&stack, "db");
    for _ in 0..2 {
        assert_eq!(attack(&stack, "api", &["tcp", &db, "5432"]).outcome, "ECONNREFUSED");
    }
    let network =
        violation(&stack, "an attempt", |row| row.class == ViolationClass::Network && row.count == 2);
    let _ = stack.exec("api", &[&stack.bin("ws-e2e-attack"), "call", "mount", "0", "0", "0", "0", "0"]);
    let call = violation(&stack, "a call", |row| row.class == ViolationClass::Syscalls);
    until(&stack, "api", Phase::Violated);
    let process = call.process.clone().expect("who it was");
    assert!(process.executable.is_some_and(|path| path.ends_with("ws-e2e-attack")), "{call:?}");
    assert_eq!(network.evidence.target().as_deref(), Some("db:5432"));

    assert!(!follower.has_ended());
    follower.signal(Signal::SIGINT);
    let followed = follower.end();
    assert_eq!(followed.code, 130, "{followed}");
    let rows: Vec<serde_json::Value> =
        followed.out.lines().map(|line| serde_json::from_str(line).expect("a row a line")).collect();
    let actions: Vec<&str> = rows.iter().filter_map(|row| row["action"].as_str()).collect();
    assert!(actions.contains(&"report") && actions.contains(&"kill"), "{followed}");

    let ran = stack.ws(&["violations", "--exit-code"]);
    assert_eq!(ran.code, 4, "{ran}");
    for says in [
        "api  network reported  tried db:5432 (tcp), and no link leads there, 2 times",
        "seen by nflog",
        r#"to allow it, add `links: ["db:5432"]` to `services.api` (workspace.yaml:3)"#,
        "api  syscalls killed  called mount, answered EPERM",
        "rule workspace.yaml:6",
    ] {
        assert!(ran.out.contains(says), "{says}: {ran}");
    }
    let ran = stack.ws(&["violations", "--github"]).ok();
    for says in [
        "::warning file=workspace.yaml,line=3,title=ws network violation::api tried db:5432",
        "::error file=workspace.yaml,line=6,title=ws syscalls violation::api called mount",
    ] {
        assert!(ran.contains(says), "{says}: {ran}");
    }
    let report = stack.project.join("report.xml");
    let ran = stack.ws(&["violations", "--junit", "report.xml"]);
    assert_eq!(ran.code, 0, "{ran}");
    let text = std::fs::read_to_string(&report).expect("the report");
    std::fs::remove_file(&report).expect("removing the report");
    for says in [
        r#"<testsuite name="ws policy" tests="2" failures="2">"#,
        r#"<testcase classname="ws.policy.api" name="network db:5432">"#,
        r#"<failure type="kill""#,
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let only = stack.ws(&["violations", "db", "--json"]).ok();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&only).expect("JSON"), serde_json::json!([]));
    assert_eq!(stack.ws(&["violations", "nobody"]).code, 2);
    let why = stack.ws(&["why", "api"]);
    assert!(why.out.contains("broke its policy") && why.out.contains("called mount"), "{why}");
    // In the service's own log as well: its program only says that it was refused.
    let log = stack.logs("api");
    assert!(log.contains("tried db:5432"), "{log}");
    stack.down();
    // The last run is remembered.
    let ran = stack.ws(&["violations", "--exit-code"]);
    assert_eq!(ran.code, 4, "{ran}");
    assert!(ran.out.contains("called mount") && ran.err.contains("the last run"), "{ran}");
}

fn a_service_that_must_not_go_on_takes_the_workspace_down(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let thief = "cat ~/.ssh/id_rsa > /tmp/x; sleep 1000";
    let yaml = |action: &str| {
        format!(
            "
services:
  thief: {{ command: [/bin/sh, -c, '{thief}'], ready: {{ log: never }}, policy: {{ decoys: {action} }} }}
  other: {{ command: [bin/ws-e2e-serve, 'tcp:7000'], ready: {{ tcp: ':7000' }} }}
"
        )
    };
    let mut stack = Stack::new(mode, &yaml("stop"));
    for up in [&["up"][..], &["up", "-d", "--wait", "--wait-timeout", "60s"]] {
        stack.watch();
        let ran = stack.ws(up);
        assert_eq!(ran.code, 4, "{ran}\n{}", stack.story());
        assert!(ran.err.contains("opened the decoy") || ran.out.contains("opened the decoy"), "{ran}");
        stack.is_down();
        stack.assert_clean("after a violation that stops the workspace");
    }
    // A kill keeps it from ever becoming ready.
    let mut stack = Stack::new(mode, &yaml("kill"));
    stack.watch();
    let ran = stack.ws(&["up", "-d", "--wait", "--wait-timeout", "60s"]);
    assert_eq!(ran.code, 4, "{ran}\n{}", stack.story());
    stack.down();

    // Where a command's own code is passed on, ours is out of its way.
    let mut stack =
        Stack::new(mode, "services: { api: { command: [bin/ws-e2e-serve], policy: { decoys: kill } } }");
    stack.up();
    let ran = stack.ws(&["run", "api", "/bin/sh", "-c", "cat ~/.ssh/id_rsa; sleep 100"]);
    assert_eq!(ran.code, 120, "{ran}\n{}", stack.story());
    assert!(ran.err.contains("opened the decoy"), "{ran}");
    assert!(stack.status("api").ready, "it is somebody else's run");
    // What runs inside a service dies with it.
    let ran = stack.exec("api", &["/bin/sh", "-c", "cat ~/.ssh/id_rsa; sleep 100"]);
    assert_eq!(ran.code, 120, "{ran}\n{}", stack.story());
    until(&stack, "api", Phase::Violated);
    stack.down();
}

fn a_removed_link_ends_what_runs_over_it(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let yaml = |links: &str| {
        format!(
            "services:
  client:
    command: [bin/ws-e2e-attack, hold, api, '7000']
    ready: {{ log: holding }}
    restart: 'no'
    links: [{links}]
  asker: {{ command: [bin/ws-e2e-serve], links: ['api:7000'] }}
  api: {{ command: [bin/ws-e2e-serve, 'tcp:7000', 'tcp:7001'], ready: {{ tcp: ':7000' }} }}
"
        )
    };
    let mut stack = Stack::new(mode, &yaml("'api:7000', 'api:7001'"));
    stack.up();
    let still = pids(&stack, &["asker", "api"]);
    let write =
        |links: &str| stack.write("workspace.yaml", &format!("name: {}\n{}", stack.token, yaml(links)));
    // Another link is removed: this one does not notice.
    write("'api:7000'");
    wait_until(SOON, "the plan changed", || {
        let changed = events(&stack).iter().any(|event| matches!(event.kind, EventKind::PlanChanged { .. }));
        if changed { Ok(()) } else { Err("not yet") }
    });
    let_pass(QUIET);
    assert!(stack.status("client").ready);
    let edited = now_us();
    write("");
    until(&stack, "client", Phase::Exited);
    let log = stack.logs("client");
    let line = log.lines().find_map(|line| line.find('{').map(|at| &line[at..])).expect("what came of it");
    let came: Came = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {log}"));
    // At once: not when nobody answers any more.
    assert!(["ECONNRESET", "ECONNREFUSED", "EPIPE"].contains(&came.outcome.as_str()), "{came:?}");
    let cut: u64 = came.detail.parse().expect("when it was");
    let took = Duration::from_micros(cut.saturating_sub(edited));
    show(&format!("as {mode}: from the edit to the end of the connection: {took:?} ({})", came.outcome));
    assert!(took < LATE, "{took:?}");
    let_pass(QUIET);
    assert!(violations(&stack).is_empty(), "nobody did anything: {:#?}", violations(&stack));
    for (name, pid) in still {
        let row = stack.status(name);
        assert!(row.ready && row.restarts == 0 && row.pid == Some(pid), "{row:?}");
    }
    // Asking for it again is one.
    let _ = stack.ws(&["start", "client"]);
    let seen = violation(&stack, "it asks again", |row| row.service.as_str() == "client");
    assert_eq!(seen.evidence.target().as_deref(), Some("api:7000"), "{seen:?}");
    stack.down();
}

/// How long the flood lasts.
const FLOOD_MS: u64 = 3000;

fn a_flood_hides_nobody(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  flood: { command: [bin/ws-e2e-serve] }
  other: { command: [bin/ws-e2e-serve] }
  db: { command: [bin/ws-e2e-serve, 'tcp:5432'], ready: { tcp: ':5432' } }
",
    );
    stack.up();
    let supervisor = stack.processes().into_iter().find(|process| process.cmdline.contains("__supervise"));
    let supervisor = supervisor.expect("a supervisor").pid;
    let memory = || {
        let text = std::fs::read_to_string(format!("/proc/{supervisor}/statm")).expect("its memory");
        text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4
    };
    let before = memory();
    let db = address(&stack, "db");
    let program = stack.bin("ws-e2e-attack");
    let mut flood = stack.start(&["exec", "-T", "flood", &program, "flood", &db, &FLOOD_MS.to_string()]);
    violation(&stack, "the flood has begun", |row| row.service.as_str() == "flood");
    let tried = attack(&stack, "other", &["tcp", &db, "7777"]);
    assert_eq!(tried.outcome, "ECONNREFUSED");
    let seen = violation(&stack, "one of another in a flood", |row| row.service.as_str() == "other");
    assert_eq!((seen.evidence.target().as_deref(), seen.count), (Some("db:7777"), 1), "{seen:?}");
    let took = after(tried.at_us, seen.first_at.unix_ms);
    // It answers meanwhile.
    let slowest = (0..5).map(|_| stack.ws(&["ps", "--json"]).took).max().expect("some");
    assert!(!flood.has_ended(), "all of that was in the middle of it");
    let sent: u64 = came(&flood.end()).detail.parse().expect("a number");
    let of_it = || violations(&stack).into_iter().filter(|row| row.service.as_str() == "flood");
    // What repeats is told some time later.
    let (told, lost) = wait_until(SOON, "every packet is told, or told as lost", || {
        let (told, lost) =
            of_it().fold((0, 0), |(told, lost), row| (told + row.count, lost + row.events_lost));
        if told + lost == sent { Ok((told, lost)) } else { Err(format!("{told} and {lost} of {sent}")) }
    });
    let rows = of_it().count();
    let more = memory().saturating_sub(before);
    let messages =
        events(&stack).iter().filter(|event| matches!(event.kind, EventKind::Violation(_))).count();
    show(&format!(
        "as {mode}: {} packets a second for {FLOOD_MS} ms: {told} told in {rows} rows and {messages} events, {lost} lost; \
         another's after {took:?}; slowest answer {slowest:?}; {more} KiB more",
        sent * 1000 / FLOOD_MS
    ));
    assert!(lost > 0 && rows <= 70, "{rows} rows, {lost} lost");
    assert!(messages < 1000, "{messages} events");
    assert!(more < 32 << 10, "{more} KiB");
    assert!(took < LATE && slowest < LATE, "{took:?} {slowest:?}");
    assert!(violations(&stack).iter().all(|row| row.service.as_str() != "db"));
    stack.down();
}

fn programs_that_are_not_allowed_are_refused(mode: Mode) {
    requires!(mode, userns, netns, nft, seccomp);
    let mut stack = Stack::new(
        mode,
        "
services:
  told:
    command: [/bin/sh, -c, 'env echo it ran; echo came here; sleep 1000']
    policy: { processes: { allow: [sh, sleep] } }
  allowed:
    command: [/bin/sh, -c, 'env echo it ran; echo came here; sleep 1000']
    policy: { processes: { allow: [sh, sleep, env, echo] } }
  killed:
    command: [/bin/sh, -c, 'env echo it ran; echo came here; sleep 1000']
    policy: { processes: { action: kill, allow: [sh, sleep] } }
",
    );
    stack.watch();
    // That one was killed for it may be known before it has answered.
    let ran = stack.ws(&["up", "-d"]);
    assert!([0, 4].contains(&ran.code), "{ran}");
    let row = until(&stack, "killed", Phase::Violated);
    assert!(row.cause.contains("executed"), "{row:?}");
    for (service, action) in [("told", PolicyAction::Report), ("killed", PolicyAction::Kill)] {
        let seen = violation(&stack, service, |row| row.service.as_str() == service);
        assert_eq!((seen.class, seen.action), (ViolationClass::Processes, action), "{seen:?}");
        let Evidence::Process { executable } = &seen.evidence else { panic!("{seen:?}") };
        assert!(executable.ends_with("/env"), "{seen:?}");
        let by = seen.process.and_then(|process| process.executable);
        assert!(by.is_some_and(|path| path.ends_with("sh")), "who it was");
    }
    wait_until(SOON, "those that may go on", || {
        let logs = ["told", "allowed"].map(|service| stack.logs(service));
        if logs.iter().all(|log| log.contains("it ran") && log.contains("came here")) {
            Ok(())
        } else {
            Err(format!("{logs:?}"))
        }
    });
    // It is refused, and killed a moment later.
    assert!(!stack.logs("killed").contains("it ran"));
    assert!(violations(&stack).iter().all(|row| row.service.as_str() != "allowed"));
    stack.down();
}

fn output_is_measured(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  loud:
    command: [/bin/sh, -c, 'head -c 4000000 /dev/zero | tr \"\\\\0\" x | fold; sleep 1000']
    policy: { logs: { over: 256K } }
  calm: { command: [/bin/sh, -c, 'seq 1000; sleep 1000'], policy: { logs: { over: 256K } } }
",
    );
    stack.up();
    let seen = violation(&stack, "output", |row| row.service.as_str() == "loud");
    let Evidence::Logs { bytes_per_second, limit } = seen.evidence else { panic!("{seen:?}") };
    assert!(limit == 256 << 10 && bytes_per_second > limit, "{seen:?}");
    assert_eq!((seen.mechanism, seen.action), (Mechanism::Pipe, PolicyAction::Report), "{seen:?}");
    assert!(violations(&stack).iter().all(|row| row.service.as_str() == "loud"));
    stack.down();
}

#[test]
fn too_much_of_something_is_told() {
    let mode = Mode::Root;
    requires!(mode, root, userns, netns, nft, cgroup);
    let mut stack = Stack::new(
        mode,
        "
services:
  hog: { command: [bin/ws-e2e-attack, announce, memory, '4096'], restart: 'no', limits: { memory: 64M } }
  killed:
    command: [bin/ws-e2e-attack, announce, memory, '4096']
    limits: { memory: 64M }
    policy: { memory: kill }
  forker: { command: [bin/ws-e2e-serve], limits: { pids: 40 } }
  busy: { command: [bin/ws-e2e-serve], policy: { cpu: { over: 10%, for: 1s } } }
  idle: { command: [bin/ws-e2e-serve], limits: { memory: 64M, pids: 40 }, policy: { cpu: { over: 10%, for: 1s } } }
",
    );
    stack.watch();
    let ran = stack.ws(&["up", "-d"]);
    assert!([0, 4].contains(&ran.code), "{ran}");
    let row = until(&stack, "hog", Phase::Failed);
    assert_eq!(row.reason, Reason::Oom, "{row:?}");
    let row = until(&stack, "killed", Phase::Violated);
    assert_eq!(row.reason, Reason::Violation, "{row:?}");
    let idle = pids(&stack, &["idle"]);
    let program = stack.bin("ws-e2e-attack");
    let spinning = stack.start(&["exec", "-T", "busy", &program, "spin", "1", "4000"]);
    let forked = attack(&stack, "forker", &["forks", "200"]);
    assert_eq!(forked.outcome, "EAGAIN", "{forked:?}");
    let mut text = String::new();
    for (service, evidence, action) in [
        ("hog", Evidence::Memory { limit_bytes: Some(64 << 20) }, PolicyAction::Restart),
        ("killed", Evidence::Memory { limit_bytes: Some(64 << 20) }, PolicyAction::Kill),
        ("forker", Evidence::Pids { limit: 40 }, PolicyAction::Report),
    ] {
        let seen = violation(&stack, service, |row| row.service.as_str() == service);
        assert_eq!((&seen.evidence, seen.action), (&evidence, action), "{seen:?}");
        if service == "forker" {
            text += &format!("pids {:?}", after(forked.at_us, seen.first_at.unix_ms));
        } else {
            let begun = stack.logs(service);
            let act = begun.split_whitespace().find_map(|word| word.parse::<u64>().ok());
            text += &format!("{service} {:?}, ", after(act.expect("when"), seen.first_at.unix_ms));
        }
    }
    show(&format!("as {mode}: from the act to the event: {text}"));
    let _ = violation(&stack, "processor time", |row| row.class == ViolationClass::Cpu);
    assert_eq!(came(&spinning.end()).outcome, "did");
    // A lack of memory is one event, however many ways there are to see it.
    let_pass(QUIET);
    for service in ["hog", "killed"] {
        let told = events(&stack);
        let told: Vec<_> = told
            .iter()
            .filter(|it| it.service.as_ref().is_some_and(|name| name.as_str() == service))
            .filter(|it| matches!(it.kind, EventKind::Violation(_)))
            .collect();
        assert_eq!(told.len(), 1, "{told:#?}");
    }
    let row = stack.status("idle");
    assert!(row.ready && row.restarts == 0 && row.pid == Some(idle[0].1), "{row:?}");
    assert!(violations(&stack).iter().all(|row| row.service.as_str() != "idle"));
    stack.down();
}

/// Runs an attempt from outside, with all rights over the network namespace of a process.
fn joined(pid: i32, command: &str) -> Came {
    let output = Command::new(helper("ws-e2e-attack"))
        .args(["join", &pid.to_string()])
        .args(command.split_whitespace())
        .output()
        .expect("running ws-e2e-attack");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let came = serde_json::from_str(&text);
    came.unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Whoever has taken all rights over his own network, and forges the address of another, is told and killed himself.
fn forged(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
policy: { network: kill }
services:
  evil: { command: [bin/ws-e2e-serve] }
  mild: { command: [bin/ws-e2e-serve], policy: { network: report } }
  api: { command: [bin/ws-e2e-serve, 'tcp:7000'], ready: { tcp: ':7000' }, links: ['db:9000/udp'] }
  db: { command: [bin/ws-e2e-serve, 'tcp:9000', 'udp:9000'], ready: { tcp: ':9000' } }
",
    );
    stack.up();
    let still = pids(&stack, &["api", "db", "mild"]);
    let (api, db) = (address(&stack, "api"), address(&stack, "db"));
    let (evil, mild) = (stack.pid("evil"), stack.pid("mild"));
    // With the service's own rules, and without them.
    for (command, act) in [
        (format!("address {api} udp {db} 9000 {api}"), NetworkAct::Sent),
        (format!("flush udp {db} 9000 {api}"), NetworkAct::Spoofed),
    ] {
        let came = joined(mild, &command);
        assert!(["silent", "EPERM", "EHOSTUNREACH"].contains(&came.outcome.as_str()), "{came:?}");
        violation(&stack, "a forged packet", |row| {
            row.service.as_str() == "mild"
                && row.evidence.target().as_deref() == Some("db:9000")
                && matches!(&row.evidence, Evidence::Network { act: told, .. } if *told == act)
        });
    }
    let came = joined(evil, &format!("flush address {api} udp {db} 9000 {api}"));
    assert_eq!(came.outcome, "silent", "{came:?}");
    let row = until(&stack, "evil", Phase::Violated);
    assert!(row.cause.contains("with an address that is not its own"), "{row:?}");
    let seen = violation(&stack, "it", |row| row.service.as_str() == "evil");
    assert_eq!((seen.mechanism, seen.action), (Mechanism::Router, PolicyAction::Kill), "{seen:?}");
    let_pass(QUIET);
    for (name, pid) in still {
        let row = stack.status(name);
        assert!(row.ready && row.restarts == 0 && row.pid == Some(pid), "{row:?}");
    }
    let rows = violations(&stack);
    assert!(rows.iter().all(|row| ["evil", "mild"].contains(&row.service.as_str())), "{rows:#?}");
    // Nothing of it arrived.
    assert!(!stack.logs("db").contains("a datagram from"), "{}", stack.logs("db"));
    stack.down();
}

mod a_forged_address_blames_nobody_else {
    use super::{Mode, forged, needs};

    #[test]
    fn root() {
        if needs::met(Mode::Root, &["root"]) {
            forged(Mode::Root);
        }
    }

    #[test]
    fn rootless() {
        // Joining needs rights over the namespace; without root, `ws-linux` shows the same from inside.
        if needs::met(Mode::User, &["root"]) {
            forged(Mode::User);
        }
    }
}
