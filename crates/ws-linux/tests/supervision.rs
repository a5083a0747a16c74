//! What supervises a run, on the real kernel and driven by effects: probes of every role, what a service says of
//! itself, hooks, a stop command, terminals, a launcher that is lost. As root and, in a child, as user 1000.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use tokio::sync::{mpsc, oneshot};
use ws_core::engine::{Effect, Generation, Hook, Input, Notified, ProbeRole, Step};
use ws_core::host::{ExecIo, ExecSpec, Host, LogSink};
use ws_core::plan::{self, OneOff, Options, Plan};
use ws_linux::sandbox::spawner::Spawner;
use ws_linux::{HostConfig, LinuxHost};
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{
    CommandLine, ExitReason, HookCommand, Hooks, InstanceId, Limits, LogRetention, Probe, ProbeKind, Restart,
    RestartPolicy, Service, ServiceKind, ServiceName, Stdin, Stop, Subnet, Workspace, WorkspaceName,
};
use ws_sys::process;

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("supervision: test");
        }
        return ExitCode::SUCCESS;
    }
    let base = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let users: &[Option<u32>] = if nix::unistd::geteuid().is_root() { &[None, Some(1000)] } else { &[None] };
    for user in users {
        // Each in a process of its own: a runtime leaves threads, and the next spawner must not be forked then.
        let directory = base.path().join(user.map_or("own".to_owned(), |uid| uid.to_string()));
        std::fs::create_dir(&directory).unwrap();
        let status = match process::clone(&process::CloneOptions::default()).unwrap() {
            process::Forked::Child => {
                if let Some(uid) = *user {
                    nix::unistd::chown(&directory, Some(uid.into()), Some(uid.into())).unwrap();
                    process::become_ids(uid, uid, true).unwrap();
                    process::set_dumpable(true).unwrap();
                }
                let done = std::panic::catch_unwind(|| scenario(&directory));
                process::exit_now(i32::from(done.is_err()));
            }
            process::Forked::Parent { pidfd, .. } => {
                process::poll_readable(&[pidfd.as_fd()]).unwrap();
                process::reap_pidfd(pidfd.as_fd()).unwrap().unwrap()
            }
        };
        assert_eq!(status, process::Ended::Code(0), "the scenario as {user:?}");
    }
    println!("1 passed, 0 failed");
    ExitCode::SUCCESS
}

fn scenario(directory: &Path) {
    // The machine's own: an instance that runs beside this test must not have the same ids.
    let slots = Path::new("/run/ws/.slots");
    let spawner = ws_linux::fork_spawner(slots).unwrap_or_else(|failure| panic!("{failure}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), drive(spawner, directory)).await.expect("it hangs");
    });
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn shell(script: &str) -> CommandLine {
    CommandLine(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

/// Long enough on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

fn hook(script: &str) -> HookCommand {
    HookCommand { command: shell(script), timeout: LONG }
}

fn probe(kind: ProbeKind) -> Probe {
    let short = Duration::from_millis(30);
    Probe { kind, start_interval: short, interval: short, timeout: LONG, within: LONG, failures: 3 }
}

fn service(root: &Path, script: &str) -> Service {
    Service {
        kind: ServiceKind::Service,
        command: shell(script),
        build: None,
        inputs: None,
        watch: None,
        reload: ws_model::Reload::Restart,
        listen: Vec::new(),
        hold: std::time::Duration::from_secs(10),
        working_dir: root.to_path_buf(),
        working_dir_declared: false,
        writable: vec![],
        makes: Vec::new(),
        reads: vec![],
        environment: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        depends_on: vec![],
        links: vec![],
        expose: vec![],
        ports: vec![],
        volumes: vec![],
        tmpfs: vec![],
        secrets: vec![],
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        replicas: 1,
        success_exit_codes: vec![],
        stdin: Stdin::Default,
        tty: false,
        logs: LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::No,
            max: None,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
        },
        stop: Stop { command: None, signal: 15, grace: LONG },
        limits: Limits::default(),
        policy: ws_model::Policy::default(),
    }
}

fn services(root: &Path) -> BTreeMap<ServiceName, Service> {
    let hooked = Service {
        hooks: Hooks {
            pre_start: vec![hook("echo before $GREETING; mkfifo /tmp/stop")],
            post_start: vec![hook("echo after $GREETING"), hook("echo after >&2; read line; echo $? $line")],
            pre_stop: vec![hook("true"), hook("exit 3"), hook("echo never")],
        },
        stop: Stop { command: Some(shell("echo now > /tmp/stop")), signal: 15, grace: LONG },
        ..service(root, "echo main; read word < /tmp/stop; echo told $word; exit 5")
    };
    let slow = Service {
        hooks: Hooks {
            post_start: vec![HookCommand {
                command: shell("sleep 1000"),
                timeout: Duration::from_millis(50),
            }],
            pre_stop: vec![hook("sleep 1000")],
            ..Hooks::default()
        },
        ..service(root, "exec sleep 1000")
    };
    let broken =
        Service { hooks: Hooks { pre_start: vec![hook("exit 4")], ..Hooks::default() }, ..slow.clone() };
    let spoken = Service { ready: Some(probe(ProbeKind::Notify)), ..service(root, SPEAKER) };
    let terminal = Service {
        tty: true,
        startup: Some(probe(ProbeKind::Log { pattern: "^up$".to_owned() })),
        ready: Some(probe(ProbeKind::Exec(shell("test $GREETING = hello")))),
        liveness: Some(probe(ProbeKind::Exec(shell("exit 9")))),
        hooks: Hooks { post_start: vec![hook("echo hooked")], ..Hooks::default() },
        ..service(root, "tty; stty size; echo up; exec sleep 1000")
    };
    let all =
        [("hooked", hooked), ("slow", slow), ("broken", broken), ("spoken", spoken), ("terminal", terminal)];
    all.map(|(text, service)| (name(text), service)).into()
}

/// Says what it is asked to say on its standard streams' behalf: in the first run a lot, in each one its number.
const SPEAKER: &str = r#"
exec python3 -c '
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=loading\x1b[31m\nMAINPID=1")
s.send(b"x" * 20000)
s.send(b"READY=1\nSTATUS=serving")
for n in range(50): s.send(b"STATUS=%d" % (n // 49))
s.send(b"EXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=trigger\nRELOADING=1\nSTOPPING=1")
while True: time.sleep(1000)'"#;

#[derive(Default)]
struct Output(Mutex<Vec<(ServiceName, LogStream, Vec<u8>)>>);

impl Output {
    fn of(&self, service: &str, stream: LogStream) -> String {
        let all = self.0.lock().unwrap();
        let wanted = all.iter().filter(|(name, from, _)| name.as_str() == service && *from == stream);
        String::from_utf8(wanted.flat_map(|(_, _, bytes)| bytes.clone()).collect()).unwrap()
    }
}

impl LogSink for Output {
    fn write(&self, service: &ServiceName, stream: LogStream, bytes: &[u8]) {
        self.0.lock().unwrap().push((service.clone(), stream, bytes.to_vec()));
    }

    fn end(&self, _: &ServiceName, _: LogStream) {}
}

struct Stage {
    host: LinuxHost,
    inputs: mpsc::UnboundedReceiver<Input>,
    output: Arc<Output>,
}

impl Stage {
    fn start(&mut self, service: &str, generation: Generation) {
        self.host.submit(Effect::Start { service: name(service), generation, step: Step::Main });
    }

    fn hook(&mut self, service: &str, hook: Hook) {
        self.host.submit(Effect::RunHook { service: name(service), generation: 1, hook });
    }

    fn kill(&mut self, service: &str, generation: Generation) {
        self.host.submit(Effect::Kill { service: name(service), generation });
    }

    async fn next(&mut self) -> Input {
        self.inputs.recv().await.unwrap()
    }

    async fn executed(&mut self, service: &str, wanted: Generation) {
        match self.next().await {
            Input::Executed { service: of, generation, pid: Some(_) } => {
                assert_eq!((of, generation), (name(service), wanted));
            }
            other => panic!("{other:?}"),
        }
    }

    async fn killed(&mut self, service: &str, generation: Generation) {
        let exit = ExitReason::Signal(9);
        assert_eq!(self.next().await, Input::Exited { service: name(service), generation, exit, oom: false });
    }
}

async fn drive(spawner: Spawner, directory: &Path) {
    let root = directory.join("project");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let workspace = Workspace {
        name: WorkspaceName::new("supervision").unwrap(),
        root: root.clone(),
        policy_inputs: vec![],
        hidden: vec![],
        enforcement: None,
        subnet: Subnet::DEFAULT,
        volumes: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        secrets: BTreeMap::new(),
        external: BTreeMap::new(),
        requires: vec![],
        builds: BTreeMap::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        policy: ws_model::Policy::default(),
        services: services(&root),
    };
    let facts = ws_linux::observe::facts(&workspace);
    let plan = plan::resolve(&workspace, &facts, &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let (sender, inputs) = mpsc::unbounded_channel();
    let inbox: ws_core::host::Inbox = Arc::new(move |input| {
        let _ = sender.send(input);
    });
    let output = Arc::new(Output::default());
    let config = HostConfig {
        instance: InstanceId::new(&workspace.name, &root, None),
        state_dir: directory.join("state"),
        secrets: BTreeMap::new(),
    };
    let logs: Arc<dyn LogSink> = Arc::clone(&output) as _;
    let host = match LinuxHost::start(spawner, plan.clone(), config, inbox, logs).await {
        Ok(host) => host,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    };
    let mut stage = Stage { host, inputs, output };
    hooks_run_beside_the_program(&mut stage).await;
    hooks_end_in_time(&mut stage).await;
    a_service_speaks_for_itself(&mut stage).await;
    probes_and_a_terminal(&mut stage).await;
    a_one_off_on_somebodys_terminal(&mut stage, &plan).await;
    a_lost_launcher_is_the_end(&mut stage).await;

    let (done, errors) = oneshot::channel();
    stage.host.tear_down(Box::new(move |errors| done.send(errors).unwrap()));
    assert_eq!(errors.await.unwrap(), Vec::<String>::new());
    drop(stage);
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "", "no child is left");
}

/// In order, with the service's environment, on its output; to the first that fails. And a command stops it.
async fn hooks_run_beside_the_program(stage: &mut Stage) {
    stage.start("hooked", 1);
    stage.executed("hooked", 1).await;
    let ended = |hook, result: Result<(), &str>| Input::HookEnded {
        service: name("hooked"),
        generation: 1,
        hook,
        result: result.map_err(str::to_owned),
    };
    stage.hook("hooked", Hook::PostStart);
    assert_eq!(stage.next().await, ended(Hook::PostStart, Ok(())));
    stage.hook("hooked", Hook::PreStop);
    assert_eq!(stage.next().await, ended(Hook::PreStop, Err("`/bin/sh -c exit 3` exited with 3")));
    stage.hook("hooked", Hook::Stop);
    // The command and the program end at about the same time.
    let mut news = stage.next().await;
    if news == ended(Hook::Stop, Ok(())) {
        news = stage.next().await;
    }
    let exit = ExitReason::Code(5);
    assert_eq!(news, Input::Exited { service: name("hooked"), generation: 1, exit, oom: false });
    // The output is complete when the end is told.
    let text = stage.output.of("hooked", LogStream::Stdout);
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "before hello");
    let mut lines: Vec<_> = rest.lines().collect();
    assert_eq!(lines.pop(), Some("told now"));
    lines.sort_unstable();
    assert_eq!(lines, ["1", "after hello", "main"]);
    assert_eq!(stage.output.of("hooked", LogStream::Stderr), "after\n");
}

/// One that takes too long is killed and has failed; one whose run ends is killed and not spoken of.
async fn hooks_end_in_time(stage: &mut Stage) {
    stage.start("broken", 1);
    let expected = "pre_start `/bin/sh -c exit 4` exited with 4".to_owned();
    let failed =
        Input::StartFailed { service: name("broken"), generation: 1, error: expected, hopeless: false };
    assert_eq!(stage.next().await, failed);

    stage.start("slow", 1);
    stage.executed("slow", 1).await;
    stage.hook("slow", Hook::PostStart);
    match stage.next().await {
        Input::HookEnded { hook: Hook::PostStart, result: Err(error), .. } => {
            assert_eq!(error, "`/bin/sh -c sleep 1000` took longer than 0.05 s and was killed");
        }
        other => panic!("{other:?}"),
    }
    stage.hook("slow", Hook::PreStop);
    stage.kill("slow", 1);
    stage.killed("slow", 1).await;
    // Nothing of a hook comes after the end of its run.
    stage.start("slow", 2);
    stage.executed("slow", 2).await;
    stage.hook("slow", Hook::PreStop);
    stage.kill("slow", 2);
    stage.killed("slow", 2).await;
}

async fn a_service_speaks_for_itself(stage: &mut Stage) {
    let status = |text: &str| Notified::Status(text.to_owned());
    let expected = [
        status("loading [31m"),
        Notified::Ready,
        status("serving"),
        status("0"),
        status("1"),
        Notified::ExtendTimeout(Duration::from_millis(1500)),
        Notified::WatchdogTrigger,
        Notified::Reloading,
        Notified::Stopping,
    ];
    for generation in [1, 2] {
        stage.start("spoken", generation);
        stage.executed("spoken", generation).await;
        // For a probe of that kind there is nothing to do but to listen.
        let probe = ProbeRole::Ready;
        stage.host.submit(Effect::StartProbe { service: name("spoken"), generation, probe });
        for news in expected.clone() {
            let service = name("spoken");
            assert_eq!(stage.next().await, Input::Notified { service, generation, news });
        }
        stage.kill("spoken", generation);
        stage.killed("spoken", generation).await;
    }
}

async fn probes_and_a_terminal(stage: &mut Stage) {
    stage.start("terminal", 1);
    stage.executed("terminal", 1).await;
    let wanted = [
        (ProbeRole::Startup, Ok("log: `up`")),
        (ProbeRole::Ready, Ok("exec `/bin/sh -c test $GREETING = hello` exited with 0")),
        (ProbeRole::Live, Err("exec `/bin/sh -c exit 9`: exited with 9")),
    ];
    for (probe, expected) in wanted {
        stage.host.submit(Effect::StartProbe { service: name("terminal"), generation: 1, probe });
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        loop {
            match stage.next().await {
                Input::Probed { probe: of, result, .. } if of == probe && result == expected => break,
                // Those that were begun before go on; the log may have had no line yet.
                Input::Probed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    for (probe, _) in wanted {
        stage.host.submit(Effect::StopProbe { service: name("terminal"), generation: 1, probe });
    }
    stage.hook("terminal", Hook::PostStart);
    while let Input::Probed { .. } = stage.next().await {}

    // A terminal for a command comes from the sandbox's own devpts, and has a name there.
    let (done, made) = oneshot::channel();
    stage.host.terminal(&name("terminal"), Box::new(move |made| done.send(made).map_err(drop).unwrap()));
    let (ours, theirs) = made.await.unwrap().unwrap();
    let io =
        ExecIo { stdin: theirs.try_clone().unwrap(), stdout: theirs.try_clone().unwrap(), stderr: theirs };
    let script = "tty; echo typed > $(tty); kill -INT 0; echo survived";
    let spec =
        ExecSpec { service: name("terminal"), argv: shell(script).0, env: vec![], cwd: None, tty: true };
    let (done, result) = oneshot::channel();
    stage.host.exec(spec, io, Box::new(move |result| done.send(result).unwrap()));
    assert_eq!(result.await.unwrap(), ExecResult::Ended(ExitReason::Signal(2)));
    assert_eq!(read_all(&ours), "/dev/pts/1\r\ntyped\r\n");

    stage.kill("terminal", 1);
    stage.killed("terminal", 1).await;
    assert_eq!(stage.output.of("terminal", LogStream::Stdout), "/dev/pts/0\n24 80\nup\nhooked\n");
    assert_eq!(stage.output.of("terminal", LogStream::Stderr), "");
    let (done, made) = oneshot::channel();
    stage.host.terminal(&name("terminal"), Box::new(move |made| done.send(made).map_err(drop).unwrap()));
    assert_eq!(made.await.unwrap().unwrap_err(), "terminal does not run");
}

/// The streams that somebody gave are the program's own: it leads a session on that terminal, nothing of it is a log,
/// and nobody has it open afterwards.
async fn a_one_off_on_somebodys_terminal(stage: &mut Stage, plan: &Plan) {
    let (ours, theirs) = {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).unwrap();
        (ours, theirs)
    };
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo own > /dev/tty; read line; echo got $line; exit 6";
    let (service, taken) = (name("hooked"), BTreeMap::new());
    let wanted = OneOff {
        service: &service,
        number: 1,
        argv: Some(shell(script).0),
        env: &[],
        cwd: None,
        tty: true,
        taken: &taken,
    };
    let unit = plan::one_off(plan, &wanted).unwrap();
    let one_off = unit.name.clone();
    let io =
        ExecIo { stdin: theirs.try_clone().unwrap(), stdout: theirs.try_clone().unwrap(), stderr: theirs };
    let (done, added) = oneshot::channel();
    stage.host.add(unit, Some(io), Box::new(move |result| done.send(result).unwrap()));
    assert_eq!(added.await.unwrap(), Ok(()));
    stage.start(one_off.as_str(), 1);
    stage.executed(one_off.as_str(), 1).await;
    rustix::io::write(&ours, b"hello\n").unwrap();
    let exit = ExitReason::Code(6);
    let ended = Input::Exited { service: one_off.clone(), generation: 1, exit, oom: false };
    assert_eq!(stage.next().await, ended);
    let text = read_all(&ours);
    assert!(text.contains("own\r\n") && text.ends_with("got hello\r\n"), "{text:?}");
    assert_eq!(stage.output.of(one_off.as_str(), LogStream::Stdout), "");
    // They were for one run.
    stage.start(one_off.as_str(), 2);
    match stage.next().await {
        Input::StartFailed { hopeless: true, error, generation: 2, .. } => {
            assert!(error.contains("used up"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let (done, removed) = oneshot::channel();
    stage.host.remove(&one_off, Box::new(move |errors| done.send(errors).unwrap()));
    assert_eq!(removed.await.unwrap(), Vec::<String>::new());
}

/// What is written to a terminal whose other side is closed.
fn read_all(terminal: &OwnedFd) -> String {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length) = rustix::io::read(terminal, &mut part) {
        all.extend_from_slice(&part[..length]);
    }
    String::from_utf8(all).unwrap()
}

/// Nothing of a service can start any more without its launcher, and that is said with the failure.
async fn a_lost_launcher_is_the_end(stage: &mut Stage) {
    stage.start("slow", 3);
    stage.executed("slow", 3).await;
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    let children = children.unwrap();
    let launchers = children.split_whitespace().filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "ws-launcher\n")
    });
    for pid in launchers {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    stage.killed("slow", 3).await;
    stage.start("slow", 4);
    match stage.next().await {
        Input::StartFailed { hopeless: true, error, generation: 4, .. } => {
            assert!(error.contains("launcher has ended"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
