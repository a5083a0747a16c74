//! Detectors on the real kernel: each provoked for real by a service, as root and, in a child, as user 1000. What is
//! seen, of whom, how soon, that a flood hides nothing of anybody else, and what is no violation is not seen.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use ws_core::engine::{Effect, Generation, Input, Step};
use ws_core::host::{ExecIo, ExecSpec, Host, LogSink};
use ws_core::plan::{self, Options, Plan, PolicyPlan};
use ws_core::policy::Observation;
use ws_linux::{HostConfig, LinuxHost};
use ws_model::wire::LogStream;
use ws_model::{
    ByteSize, CommandLine, Evidence, ExitReason, FileAct, InstanceId, Limits, Link, LinkPorts, Mechanism,
    NetworkAct, Policy, PolicyAction, PolicyRule, PortProto, Protocol, Restart, RestartPolicy, Service,
    ServiceKind, ServiceName, Stop, Subnet, ViolationClass, Workspace, WorkspaceName,
};
use ws_sys::process;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// How long nothing is heard where nothing must be.
const QUIET: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("detect: test");
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
                let done = std::panic::catch_unwind(|| scenario(&directory, user.is_none()));
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

fn scenario(directory: &Path, own: bool) {
    // The machine's own: an instance that runs beside this test must not have the same ids.
    let slots = Path::new("/run/ws/.slots");
    let spawner = ws_linux::fork_spawner(slots).unwrap_or_else(|failure| panic!("{failure}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let as_root = own && nix::unistd::geteuid().is_root();
        tokio::time::timeout(Duration::from_secs(300), drive(spawner, directory, as_root))
            .await
            .expect("it hangs");
    });
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// What every service runs: a program that executes what it is told to, as a service would by itself. What is executed
/// by `ws exec` is somebody's and not the service's.
const AGENT: &str = "
import os, subprocess, sys
for name in ['do', 'done']: os.mkfifo('/tmp/' + name)
while True:
    script, text = open('/tmp/do').read(), ''
    if script.startswith('# here'): exec(script)
    else:
        done = subprocess.run([sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        text = done.stdout
    open('/tmp/done', 'w').write(text)
";

fn service(root: &Path, links: Vec<Link>) -> Service {
    Service {
        kind: ServiceKind::Service,
        command: CommandLine(["python3", "-c", AGENT].map(str::to_owned).to_vec()),
        build: None,
        inputs: None,
        watch: None,
        reload: ws_model::Reload::Restart,
        listen: Vec::new(),
        hold: Duration::from_secs(10),
        working_dir: root.to_path_buf(),
        working_dir_declared: false,
        writable: vec![],
        makes: Vec::new(),
        reads: vec![],
        environment: BTreeMap::new(),
        depends_on: vec![],
        links,
        expose: vec![],
        ports: vec![],
        volumes: vec![],
        tmpfs: vec![],
        secrets: vec![],
        startup: None,
        ready: None,
        liveness: None,
        hooks: ws_model::Hooks::default(),
        replicas: 1,
        success_exit_codes: vec![],
        stdin: ws_model::Stdin::Default,
        tty: false,
        logs: ws_model::LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::No,
            max: None,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
        },
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(5) },
        limits: Limits::default(),
        policy: Policy::default(),
    }
}

fn services(root: &Path) -> BTreeMap<ServiceName, Service> {
    let link = Link {
        to: name("db"),
        ports: LinkPorts::These(vec![PortProto { port: 7000, protocol: Protocol::Tcp }]),
        wait: true,
    };
    let rule = |action, over, lasting| PolicyRule { action, over, lasting, ..PolicyRule::default() };
    let plain = || service(root, vec![]);
    let small = Service {
        limits: Limits { memory: Some(ByteSize::mib(48)), pids: Some(12), ..Limits::default() },
        ..plain()
    };
    let measured = Service {
        policy: Policy {
            rules: BTreeMap::from([
                // Little: this machine may be busy.
                (ViolationClass::Cpu, rule(None, Some(10), Some(Duration::from_secs(1)))),
                (ViolationClass::Logs, rule(None, Some(1 << 20), None)),
            ]),
            ..Policy::default()
        },
        ..plain()
    };
    let programs =
        || Some(vec!["python3*".to_owned(), "sleep".to_owned(), "sh".to_owned(), "dash".to_owned()]);
    let told = Service { policy: Policy { processes: programs(), ..Policy::default() }, ..plain() };
    let refused = Service {
        policy: Policy {
            processes: programs(),
            rules: BTreeMap::from([(ViolationClass::Processes, rule(Some(PolicyAction::Kill), None, None))]),
            ..Policy::default()
        },
        ..plain()
    };
    let off = Service {
        policy: Policy {
            rules: ViolationClass::ALL
                .map(|class| (class, rule(Some(PolicyAction::Off), None, None)))
                .into_iter()
                .collect(),
            ..Policy::default()
        },
        ..plain()
    };
    BTreeMap::from([
        (name("api"), service(root, vec![link])),
        (name("db"), plain()),
        (name("flood"), plain()),
        (name("small"), small),
        (name("measured"), measured),
        (name("told"), told),
        (name("refused"), refused),
        (name("off"), off),
    ])
}

/// Keeps the last line of each service's output.
#[derive(Default)]
struct Output(Mutex<BTreeMap<String, String>>);

impl LogSink for Output {
    fn write(&self, service: &ServiceName, _: LogStream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.0.lock().unwrap().insert(service.to_string(), text);
    }

    fn end(&self, _: &ServiceName, _: LogStream) {}
}

struct Stage {
    host: LinuxHost,
    inputs: mpsc::UnboundedReceiver<Input>,
    /// What was seen and not asked for yet.
    seen: Vec<(Instant, Observation)>,
    others: Vec<Input>,
    plan: Plan,
    as_root: bool,
}

impl Stage {
    async fn next(&mut self, within: Duration) -> bool {
        match tokio::time::timeout(within, self.inputs.recv()).await {
            Ok(Some(Input::Observed(seen))) => {
                self.seen.push((Instant::now(), *seen));
                true
            }
            Ok(Some(other)) => {
                self.others.push(other);
                true
            }
            Ok(None) => panic!("the host has let go"),
            Err(_elapsed) => false,
        }
    }

    /// Waits for something that was seen, and takes it.
    async fn saw(&mut self, what: &str, is_it: impl Fn(&Observation) -> bool) -> (Instant, Observation) {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.seen.iter().position(|(_, seen)| is_it(seen)) {
                return self.seen.remove(at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.next(left).await, "{what} was not seen, but {:#?}", self.seen);
        }
    }

    /// Nothing else was seen.
    async fn nothing(&mut self, when: &str) {
        while self.next(QUIET).await {}
        assert!(self.seen.is_empty(), "{when}: {:#?}", self.seen);
    }

    async fn other(&mut self, is_it: impl Fn(&Input) -> bool) -> Input {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.others.iter().position(&is_it) {
                return self.others.remove(at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.next(left).await, "it did not come, but {:#?}", self.others);
        }
    }

    async fn start(&mut self, service: &str, generation: Generation) -> Option<u32> {
        self.host.submit(Effect::Start { service: name(service), generation, step: Step::Main });
        let executed = self.other(|input| {
            matches!(input, Input::Executed { .. } | Input::StartFailed { .. } | Input::Exited { .. })
        });
        match executed.await {
            Input::Executed { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    async fn kill(&mut self, service: &str, generation: Generation) {
        self.host.submit(Effect::Kill { service: name(service), generation });
        self.ended(service, generation).await;
    }

    async fn ended(&mut self, service: &str, wanted: Generation) -> (ExitReason, bool) {
        let of_it = |input: &Input| matches!(input, Input::Exited { service: one, generation, .. } if one.as_str() == service && *generation == wanted);
        match self.other(of_it).await {
            Input::Exited { exit, oom, .. } => (exit, oom),
            other => panic!("{other:?}"),
        }
    }

    /// Begins to run something inside; what it says and how it ends come by the receiver.
    fn begin(&mut self, service: &str, argv: &[&str]) -> oneshot::Receiver<String> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdout = OwnedFd::from(writer);
        let io = ExecIo {
            stdin: std::fs::File::open("/dev/null").unwrap().into(),
            stderr: stdout.try_clone().unwrap(),
            stdout,
        };
        let spec = ExecSpec {
            service: name(service),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![],
            cwd: None,
            tty: false,
        };
        let (done, text) = oneshot::channel();
        self.host.exec(spec, io, Box::new(|_| {}));
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            let _ = done.send(text);
        });
        text
    }

    async fn run(&mut self, service: &str, argv: &[&str]) -> String {
        tokio::time::timeout(LONG, self.begin(service, argv)).await.expect("it hangs").unwrap()
    }

    async fn python(&mut self, service: &str, script: &str) -> String {
        self.run(service, &["python3", "-c", script]).await
    }

    /// Has the service itself do something.
    async fn itself(&mut self, service: &str, script: &str) -> String {
        let ask = "
import os, sys, time
while not os.path.exists('/tmp/done'): time.sleep(0.01)
open('/tmp/do', 'w').write(sys.argv[1]); sys.stdout.write(open('/tmp/done').read())";
        self.run(service, &["python3", "-c", ask, script]).await
    }

    fn address(&self, service: &str) -> Ipv4Addr {
        self.plan.services[&name(service)].address
    }
}

async fn drive(spawner: ws_linux::sandbox::spawner::Spawner, directory: &Path, as_root: bool) {
    let root = directory.join("project");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let workspace = Workspace {
        borrowed: BTreeMap::new(),
        name: WorkspaceName::new("detect").unwrap(),
        root: root.clone(),
        policy_inputs: vec![],
        hidden: vec![],
        enforcement: None,
        subnet: Subnet::DEFAULT,
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        external: BTreeMap::new(),
        requires: vec![],
        builds: BTreeMap::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        policy: Policy::default(),
        services: services(&root),
    };
    let facts = ws_linux::observe::facts(&workspace);
    let plan = plan::resolve(&workspace, &facts, &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let (sender, inputs) = mpsc::unbounded_channel();
    let inbox: ws_core::host::Inbox = Arc::new(move |input| {
        let _ = sender.send(input);
    });
    let config = HostConfig {
        instance: InstanceId::new(&workspace.name, &root, None),
        state_dir: directory.join("state"),
        secrets: BTreeMap::new(),
    };
    let logs: Arc<dyn LogSink> = Arc::new(Output::default());
    let host = match LinuxHost::start(spawner, plan.clone(), config, inbox, logs).await {
        Ok(host) => host,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{error}: {source:?}");
        }
    };
    let standing = host.standing().remove(&name("api")).unwrap();
    println!("as root {as_root}: {standing:?}");
    let blind = |class| standing.undetected.iter().any(|(of, _)| *of == class);
    assert!(blind(ViolationClass::Filesystem) && !blind(ViolationClass::Network), "{standing:?}");
    let counted = !blind(ViolationClass::Memory);

    let mut stage = Stage { host, inputs, seen: vec![], others: vec![], plan, as_root };
    for service in stage.plan.services.clone().into_keys() {
        stage.start(service.as_str(), 1).await;
    }
    stage.nothing("nothing was done yet").await;
    network(&mut stage).await;
    calls(&mut stage).await;
    benign(&mut stage).await;
    decoys(&mut stage).await;
    programs(&mut stage).await;
    output_and_time(&mut stage, counted).await;
    if counted {
        limits(&mut stage).await;
    } else {
        println!("skipped: memory and pids: {:?}", standing.undetected);
    }
    if stage.as_root {
        forged(&mut stage).await;
    }
    what_is_off_is_not_looked_for(&mut stage).await;
    a_plan_that_changes(&mut stage).await;
    a_flood_hides_nobody(&mut stage).await;
    a_kill_is_soon(&mut stage).await;

    let (done, errors) = oneshot::channel();
    stage.host.tear_down(Box::new(move |errors| done.send(errors).unwrap()));
    assert_eq!(errors.await.unwrap(), Vec::<String>::new());
    drop(stage);
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "", "no child is left");
}

fn attempt(protocol: &str, to: Ipv4Addr, port: u16, lookup: Option<&str>) -> Evidence {
    Evidence::Network {
        act: NetworkAct::Sent,
        protocol: protocol.to_owned(),
        destination: Some(to.into()),
        port: Some(port),
        name: None,
        lookup: lookup.map(str::to_owned),
    }
}

/// Something that was seen once and for certain in the first run.
fn once(service: &str, evidence: Evidence, mechanism: Mechanism) -> Observation {
    Observation {
        service: name(service),
        generation: Some(1),
        evidence,
        mechanism,
        process: None,
        count: 1,
        lost: 0,
        certain: true,
    }
}

const DIAL: &str = r"
import socket, sys
for address in sys.argv[1:]:
    host, port, kind = address.split(':')
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    try:
        s.connect((host, int(port)))
        if kind == 'udp': s.send(b'x' * 30)
        print('done')
    except OSError as e:
        print(e.errno)
";

async fn network(stage: &mut Stage) {
    let db = stage.address("db");
    let gateway = stage.plan.subnet.gateway();
    let outside = Ipv4Addr::new(1, 1, 1, 1);
    let tries = [(db, 7001, "tcp"), (outside, 80, "tcp"), (gateway, 9, "tcp"), (outside, 123, "udp")];
    let addresses = tries.map(|(host, port, kind)| format!("{host}:{port}:{kind}"));
    let mut argv = vec!["python3", "-c", DIAL];
    argv.extend(addresses.iter().map(String::as_str));
    let text = stage.run("api", &argv).await;
    assert!(text.starts_with("111\n111\n111\n"), "{text}");
    for (host, port, kind) in tries {
        let (_, seen) = stage
            .saw("an attempt", |one| one.evidence.target().as_deref() == Some(&format!("{host}:{port}")))
            .await;
        assert_eq!(seen, once("api", attempt(kind, host, port, None), Mechanism::Nflog));
    }
    // A name that is looked up is told.
    stage
        .python("db", "import socket\ntry: socket.gethostbyname('api.stripe.com')\nexcept OSError: pass")
        .await;
    let is_lookup = |one: &Observation| one.service.as_str() == "db";
    let (_, seen) = stage.saw("a lookup", is_lookup).await;
    assert_eq!(seen.evidence, attempt("udp", gateway, 53, Some("api.stripe.com")));
    stage.seen.retain(|(_, one)| !(one.service.as_str() == "db" && one.evidence == seen.evidence));
    stage.nothing("only what was tried").await;

    // What is no attempt of a program: IPv6 that is off, a group that is joined, an address that is only looked at,
    // a link that is allowed.
    let text = stage
        .python(
            "api",
            r"
import socket
for family, address in [(socket.AF_INET6, ('::1', 80)), (socket.AF_INET6, ('2606:4700::1111', 443))]:
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(address)
    except OSError as e:
        print(e.errno)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('224.0.0.251') + socket.inet_aton('0.0.0.0'))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('8.8.8.8', 53))
try:
    socket.create_connection(('db', 7000), timeout=5)
except ConnectionRefusedError:
    print('nobody listens')
try:
    socket.create_connection(('127.0.0.1', 7000), timeout=5)
except ConnectionRefusedError:
    print('nor here')
",
        )
        .await;
    assert!(text.contains("nobody listens\nnor here"), "{text}");
    stage.nothing("what is no attempt").await;
}

const CALLS: &str = r"
import ctypes, errno, os, socket, sys
c = ctypes.CDLL(None, use_errno=True)
def call(*args):
    return 0 if c.syscall(*args) >= 0 else ctypes.get_errno()
";

async fn calls(stage: &mut Stage) {
    let uname = if cfg!(target_arch = "x86_64") { (272, 165, 250, 425) } else { (97, 40, 219, 425) };
    let (unshare, mount, keyctl, io_uring) = uname;
    let script = format!(
        "{CALLS}
print(call({unshare}, 0x10000000), call({mount}, 0, 0, 0, 0, 0), call({keyctl}, 0, 0, 0, 0, 0), call({io_uring}, 1, 0))
for family, kind in [(socket.AF_INET, socket.SOCK_RAW), (17, socket.SOCK_RAW)]:
    try:
        socket.socket(family, kind)
    except OSError as e:
        print(e.errno)
# Its number on the host is known as long as it is there.
import time
time.sleep(1)
"
    );
    let text = stage.python("api", &script).await;
    assert_eq!(text, "1 1 1 38\n1\n1\n");
    let call = |name: &str, detail: Option<&str>| Evidence::Syscall {
        name: name.to_owned(),
        detail: detail.map(str::to_owned),
        answer: "EPERM".to_owned(),
    };
    let raw = |protocol: &str| Evidence::Network {
        act: NetworkAct::RawSocket,
        protocol: protocol.to_owned(),
        destination: None,
        port: None,
        name: None,
        lookup: None,
    };
    let all = [
        call("unshare", Some("CLONE_NEWUSER")),
        call("mount", None),
        call("keyctl", None),
        raw("SOCK_RAW"),
        raw("AF_PACKET"),
    ];
    for evidence in all {
        let (_, seen) = stage.saw("a call", |one| one.evidence == evidence).await;
        let process = seen.process.clone().expect("who it was");
        assert!(process.executable.as_deref().is_some_and(|path| path.contains("python3")), "{process:?}");
        assert!(process.pid.is_some_and(|pid| pid > 1), "{process:?}");
        assert_eq!(
            seen,
            Observation { process: seen.process.clone(), ..once("api", evidence, Mechanism::Seccomp) }
        );
    }
    stage.nothing("what is refused without a word").await;

    // A flood of calls is a few messages, and nothing is left out of the count.
    const CALLERS: u64 = 4;
    const EACH: u64 = 20_000;
    let script = format!(
        "{CALLS}
for _ in range({CALLERS}):
    if os.fork() == 0:
        for _ in range({EACH}): c.syscall({mount}, 0, 0, 0, 0, 0)
        os._exit(0)
for _ in range({CALLERS}): os.wait()
"
    );
    let begin = Instant::now();
    let mut running = stage.begin("api", &["python3", "-c", &script]);
    // Another service is answered and told meanwhile.
    stage.python("db", &format!("{CALLS}print(call({keyctl}, 0, 0, 0, 0, 0))")).await;
    let (_, seen) = stage.saw("a call of another", |one| one.service.as_str() == "db").await;
    assert_eq!(seen.evidence, call("keyctl", None));
    let hurried = running.try_recv().is_ok();
    tokio::time::timeout(LONG * 2, running).await.map(drop).unwrap_or_default();
    let took = begin.elapsed();
    while stage.next(QUIET).await {}
    let told: Vec<u64> = stage.seen.drain(..).map(|(_, one)| one.count + one.lost).collect();
    let messages = u64::try_from(told.len()).unwrap();
    println!(
        "calls: {} in {took:?}, {messages} messages{}",
        CALLERS * EACH,
        if hurried { ", over before the other's" } else { "" }
    );
    assert_eq!(told.iter().sum::<u64>(), CALLERS * EACH);
    assert!(messages <= 3 + took.as_millis() as u64 / 90, "{messages} messages in {took:?}");
}

async fn decoys(stage: &mut Stage) {
    let decoys: Vec<String> = stage.plan.services[&name("api")]
        .policy
        .decoys
        .iter()
        .map(|one| one.path.display().to_string())
        .collect();
    let key =
        decoys.iter().find(|path| path.ends_with("id_ed25519")).expect("a key among the decoys").clone();
    let aws = decoys.iter().find(|path| path.ends_with(".aws/credentials")).unwrap().clone();

    // They are there, and to look at them is not to touch them.
    let text = stage
        .run(
            "api",
            &[
                "sh",
                "-c",
                "cd; ls -laR . ; find . -ls; du -a .; stat .ssh/*; test -r .ssh/id_ed25519 && echo readable",
            ],
        )
        .await;
    assert!(text.contains("id_ed25519") && text.contains("readable"), "{text}");
    stage.nothing("to look at decoys").await;

    let touched =
        |path: &str, act| once("api", Evidence::Decoy { path: path.to_owned(), act }, Mechanism::Inotify);
    let begin = Instant::now();
    let text = stage.run("api", &["sh", "-c", "cat ~/.ssh/id_ed25519 ~/.ssh/id_ed25519"]).await;
    assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"), "{text}");
    let (when, seen) = stage.saw("a decoy", |one| one.service.as_str() == "api").await;
    assert_eq!(seen, touched(&key, FileAct::Opened));
    println!("decoy: {:?} after the command was begun", when - begin);
    stage.nothing("once is enough").await;
    // A while later it is told again, whatever was done with its name; also from another place in the tree.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    stage.run("api", &["sh", "-c", "mv ~/.ssh ~/x; cp ~/x/id_ed25519 /tmp/y; mv ~/x ~/.ssh"]).await;
    let (_, seen) = stage.saw("a decoy again", |one| one.service.as_str() == "api").await;
    assert_eq!(seen, touched(&key, FileAct::Opened));
    for (script, act) in [
        ("chmod 644 ~/.aws/credentials", FileAct::Changed),
        ("echo >> ~/.aws/credentials", FileAct::Opened),
        ("mv ~/.aws/credentials ~/.aws/old", FileAct::Moved),
        ("rm ~/.aws/old", FileAct::Changed),
    ] {
        stage.run("api", &["sh", "-c", script]).await;
        let (_, seen) = stage.saw("a decoy", |one| one.service.as_str() == "api").await;
        assert_eq!(seen, touched(&aws, act), "{script}");
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    stage.nothing("of decoys").await;

    // Everybody has their own; a new run has new ones, and what the old one did last is told of the old one.
    let text = stage.run("db", &["sh", "-c", "cat ~/.ssh/id_ed25519"]).await;
    let (_, seen) = stage.saw("a decoy of another", |_| true).await;
    assert_eq!(seen.service, name("db"));
    let own: Vec<_> =
        stage.plan.services[&name("db")].policy.decoys.iter().map(|one| one.contents.clone()).collect();
    assert!(own.iter().any(|contents| **contents == *text), "{text}");
    stage.kill("db", 1).await;
    stage.start("db", 2).await;
    stage.run("db", &["sh", "-c", "cat ~/.ssh/id_rsa"]).await;
    let (_, seen) = stage.saw("a decoy of another run", |_| true).await;
    assert_eq!((seen.service.as_str(), seen.generation), ("db", Some(2)));
}

async fn programs(stage: &mut Stage) {
    let ls = std::fs::canonicalize("/bin/ls").unwrap().display().to_string();
    // Told: it runs. Refused: it does not.
    for (service, expected) in [("told", "/etc/passwd\n"), ("refused", "denied")] {
        let text = stage
            .itself(service, "import subprocess; subprocess.run(['sh', '-c', 'ls /etc/passwd; true'])")
            .await;
        assert!(text.to_lowercase().contains(expected), "{service}: {text}");
        let (_, seen) = stage.saw("a program", |one| one.service.as_str() == service).await;
        let process = seen.process.clone();
        let evidence = Evidence::Process { executable: ls.clone() };
        assert_eq!(
            seen,
            Observation { process: process.clone(), ..once(service, evidence, Mechanism::Exec) }
        );
        let process = process.expect("who it was");
        assert!(process.executable.is_some_and(|path| path.contains("sh")));
        assert!(process.parents.iter().any(|path| path.contains("python3")), "{:?}", process.parents);
        // A shell that is refused tries the next directory of its path.
        while stage.next(QUIET).await {}
        stage.seen.retain(|(_, one)| one.evidence != seen.evidence);
        // Somebody who looks around in it is not the service.
        let text = stage.run(service, &["sh", "-c", "ls /etc/passwd; cat /etc/hostname"]).await;
        assert!(text.starts_with("/etc/passwd"), "{text}");
        stage.nothing("a guest").await;
    }
    // By whatever name: a copy, a link, a descriptor without a name. What is nothing, and what is no program, is the
    // kernel's to refuse; what is allowed is no violation.
    let script = "
import os, shutil
shutil.copy('/bin/ls', '/tmp/copied'); os.symlink('/bin/ls', '/tmp/linked')
fd = os.memfd_create('x'); os.write(fd, open('/bin/ls', 'rb').read())
for how in ['/tmp/copied', '/tmp/linked', fd, f'/proc/self/fd/{fd}', f'/dev/fd/{fd}', '/nowhere', '/etc/passwd', '/bin/sh', '/proc/self/exe']:
    pid = os.fork()
    if pid == 0:
        os.set_inheritable(fd, True)
        try: os.execve(how, ['x', '-c', 'pass' if how == '/proc/self/exe' else ':'], {})
        except OSError as e: os._exit(e.errno)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let text = stage.itself("refused", script).await;
    assert_eq!(text, "13\n13\n13\n13\n13\n2\n13\n0\n0\n");
    while stage.next(QUIET).await {}
    let seen: BTreeMap<String, u64> =
        stage.seen.drain(..).filter_map(|(_, one)| Some((one.evidence.target()?, one.count))).collect();
    let memfd = "/memfd:x (deleted)".to_owned();
    let expected = BTreeMap::from([("/tmp/copied".to_owned(), 1), (ls, 1), (memfd, 3)]);
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
}

async fn output_and_time(stage: &mut Stage, counted: bool) {
    // Four times what it may write in a second.
    let script = "# here
for _ in range(64): sys.stdout.write('x' * 65535 + '\\n')
sys.stdout.flush()
";
    let text = stage.itself("measured", script).await;
    assert_eq!(text, "");
    let (_, seen) = stage.saw("output", |_| true).await;
    let Evidence::Logs { bytes_per_second, limit } = seen.evidence else { panic!("{seen:?}") };
    assert!(limit == 1 << 20 && bytes_per_second > limit, "{bytes_per_second}");
    assert_eq!(
        (seen.service.as_str(), seen.generation, seen.mechanism),
        ("measured", Some(1), Mechanism::Pipe)
    );
    while stage.next(QUIET).await {}
    let more = stage.seen.drain(..).count();
    assert!(more <= 4, "once a second: {more}");

    let begin = Instant::now();
    let running = stage.begin(
        "measured",
        &["python3", "-c", "import time\nend = time.monotonic() + 8\nwhile time.monotonic() < end: pass"],
    );
    if counted {
        let (when, seen) =
            stage.saw("processor time", |one| one.evidence.class() == ViolationClass::Cpu).await;
        let Evidence::Cpu { percent, for_ms } = seen.evidence else { panic!("{seen:?}") };
        assert!(percent >= 10 && for_ms >= 1000, "{seen:?}");
        println!("cpu: {percent} % over {for_ms} ms, told after {:?}", when - begin);
    }
    tokio::time::timeout(LONG, running).await.unwrap().unwrap();
    while stage.next(QUIET).await {}
    stage.seen.clear();
}

async fn limits(stage: &mut Stage) {
    // Processes.
    let begin = Instant::now();
    let text = stage
        .python(
            "small",
            "
import os, time
refused = 0
for _ in range(40):
    try:
        if os.fork() == 0: time.sleep(100)
    except BlockingIOError: refused += 1
print(refused, flush=True)
os.system('')
os.kill(0, 9)
",
        )
        .await;
    let refused: u64 = text.trim().parse().unwrap_or(0);
    assert!(refused > 20, "{text}");
    let (when, seen) = stage.saw("too many processes", |one| one.service.as_str() == "small").await;
    println!("pids: {:?} after the command was begun, count {}", when - begin, seen.count);
    assert_eq!(seen.evidence, Evidence::Pids { limit: 12 });
    assert_eq!((seen.mechanism, seen.generation), (Mechanism::PidsEvents, Some(1)));
    assert!(when - begin < Duration::from_millis(1500) || text.is_empty(), "{:?}", when - begin);
    while stage.next(QUIET).await {}
    let more: u64 = stage.seen.drain(..).map(|(_, one)| one.count).sum();
    assert!(seen.count + more >= refused, "{} and {more} of {refused}", seen.count);

    // Memory: the whole run ends, and the violation comes before its end.
    let begin = Instant::now();
    let running =
        stage.begin("small", &["python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"]);
    let (when, seen) = stage.saw("lack of memory", |one| one.service.as_str() == "small").await;
    println!("memory: {:?} after the command was begun", when - begin);
    assert_eq!(seen.evidence, Evidence::Memory { limit_bytes: Some(48 << 20) });
    assert!(matches!(seen.mechanism, Mechanism::OomControl | Mechanism::MemoryEvents), "{seen:?}");
    assert_eq!(seen.generation, Some(1));
    let (_, oom) = stage.ended("small", 1).await;
    assert!(oom);
    drop(running);
    while stage.next(QUIET).await {}
    stage.seen.clear();
    stage.start("small", 2).await;
    stage.nothing("a new run has done nothing").await;
}

/// Somebody who can send raw frames in `api`'s namespace, which no service can, pretends to be `db`.
async fn forged(stage: &mut Stage) {
    stage.kill("api", 1).await;
    let pid = stage.start("api", 2).await.expect("its process");
    let (db, flood) = (stage.address("db"), stage.address("flood"));
    let script = format!(
        "
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0x0800))
own = s.getsockname()[4]
gateway = bytes.fromhex([l.split()[3].replace(':', '') for l in open('/proc/net/arp') if '0x6' in l or '0x' in l][0])
def frame(mac, source, to, port):
    udp = (40000).to_bytes(2, 'big') + port.to_bytes(2, 'big') + b'\\0\\x08\\0\\0'
    head = bytearray(b'\\x45\\0\\0\\x1c\\0\\0\\0\\0\\x40\\x11\\0\\0' + socket.inet_aton(source) + socket.inet_aton(to))
    total = sum(int.from_bytes(head[i:i+2], 'big') for i in range(0, 20, 2))
    total = (total & 0xffff) + (total >> 16)
    head[10:12] = (0xffff - total).to_bytes(2, 'big')
    return gateway + mac + b'\\x08\\0' + bytes(head) + udp
s.send(frame(own, '{db}', '{flood}', 4242))
"
    );
    let pid = pid.to_string();
    let sent = std::process::Command::new("nsenter")
        .args(["--target", &pid, "--net", "python3", "-c", &script])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let (_, seen) = stage.saw("a forged packet", |_| true).await;
    let evidence = Evidence::Network {
        act: NetworkAct::Spoofed,
        protocol: "udp".to_owned(),
        destination: Some(flood.into()),
        port: Some(4242),
        name: None,
        lookup: None,
    };
    let expected = Observation { generation: Some(2), ..once("api", evidence, Mechanism::Router) };
    assert_eq!(seen, expected, "who sent it, not who it says it is from");
    stage.nothing("nobody else is blamed").await;
}

async fn what_is_off_is_not_looked_for(stage: &mut Stage) {
    let text = stage
        .python(
            "off",
            &format!(
                "{CALLS}
s = socket.socket()
print(s.connect_ex(('1.1.1.1', 80)), call({}, 0, 0, 0, 0, 0), os.path.exists(os.path.expanduser('~/.ssh')))",
                if cfg!(target_arch = "x86_64") { 165 } else { 40 }
            ),
        )
        .await;
    // Denied all the same.
    assert_eq!(text, "111 1 False\n");
    stage.nothing("what is off").await;
}

/// Programs as people run them: whatever they try by themselves, it is no violation. With what each must say.
const BENIGN: [(&str, &str, &str); 12] = [
    (
        "python3",
        "python3 -c 'import asyncio, ssl, multiprocessing as m, socket, ctypes, mmap, getpass, platform
async def f(): await asyncio.sleep(0.01)
asyncio.run(f()); p = m.Pool(2); print(sum(p.map(abs, range(3)))); p.close()
socket.getaddrinfo(\"localhost\", 80); socket.getaddrinfo(\"db\", 80); print(getpass.getuser(), platform.platform())'",
        "3\n",
    ),
    (
        "node",
        "cd /tmp && node -e 'const s = require(\"http\").createServer((q, r) => r.end(\"ok\")).listen(0, () =>
require(\"http\").get({port: s.address().port, host: \"localhost\"}, (r) => { r.on(\"data\", (d) => console.log(\"\" + d)); s.close(); s.closeAllConnections(); }));
require(\"fs\").watch(\"/tmp\", () => {}).close(); require(\"os\").networkInterfaces(); new (require(\"worker_threads\").Worker)(\"1\", {eval: true})'",
        "ok",
    ),
    ("npm", "cd /tmp; export NPM_CONFIG_UPDATE_NOTIFIER=false; npm init -y && npm ls && npm run env --silent | wc -l", "package.json"),
    ("java", "java -version 2>&1; java -Xshare:auto -XshowSettings:all --version", "openjdk"),
    (
        "redis-server",
        "redis-server --save '' --appendonly no --port 7009 --dir /tmp >/dev/null & p=$!; sleep 1; redis-cli -p 7009 ping; kill $p; wait",
        "PONG",
    ),
    (
        "/usr/lib/postgresql/15/bin/initdb",
        "cd /tmp; b=/usr/lib/postgresql/15/bin; $b/initdb -D /tmp/pg >/dev/null && $b/pg_ctl -D /tmp/pg -o '-k /tmp -p 7010' -l /tmp/pg.log -w start >/dev/null;
psql -h localhost -p 7010 -d postgres -Atc 'select 6 * 7'; $b/pg_ctl -D /tmp/pg -m fast stop >/dev/null",
        "42",
    ),
    (
        "git",
        "cd /tmp; git init -q g; cd g; git config user.email a@b; git config user.name a; echo x > y; git add y; git commit -qm z; git gc -q; git log --oneline | wc -l",
        "1",
    ),
    ("gcc", "cd /tmp; echo 'int main(){return 0;}' > a.c; gcc -O2 -g a.c -o a.out && ./a.out; echo done", "done"),
    ("perl", "perl -MSocket -MPOSIX -e 'print POSIX::uname(), getpwuid($<), fork() // 0'", "Linux"),
    ("ip", "ip addr; ip route", "eth0"),
    ("curl", "curl -s http://localhost:1/ http://127.0.0.1:1/ --max-time 3; echo $?", "7"),
    ("tar", "cd; tar cf /tmp/t.tar --exclude='./.*' . ; ls -laR /tmp | wc -l; grep -rs needle /etc /tmp; echo done", "done"),
];

async fn benign(stage: &mut Stage) {
    for (program, script, says) in BENIGN {
        let found = stage.run("api", &["sh", "-c", &format!("command -v {program}")]).await;
        if found.is_empty() {
            println!("skipped: there is no {program}");
            continue;
        }
        println!("benign: {program}");
        // By the service itself, in a shell.
        let script = format!("import subprocess, sys\nsubprocess.run(['sh', '-c', {script:?}])");
        let text = stage.itself("api", &script).await;
        assert!(text.contains(says), "{program}: {text}");
        stage.nothing(program).await;
    }
}

/// What is looked for follows the plan, under a run.
async fn a_plan_that_changes(stage: &mut Stage) {
    async fn update(stage: &mut Stage, service: &str, change: impl FnOnce(&mut PolicyPlan)) {
        let mut plan = stage.plan.services[&name(service)].clone();
        change(&mut plan.policy);
        stage.plan.services.insert(name(service), plan.clone());
        let (told, done) = oneshot::channel();
        stage.host.update(plan, Box::new(move |result| drop(told.send(result))));
        assert_eq!(done.await.unwrap(), Ok(()));
    }
    let db = stage.address("db");
    let dial = format!("import socket; print(socket.socket().connect_ex(('{db}', 4321)))");
    let off = stage.plan.services[&name("off")].policy.clone();
    let on = stage.plan.services[&name("api")].policy.clone();
    for round in 0..2 {
        assert_eq!(stage.itself("off", &dial).await, "111\n");
        stage.nothing("it is off").await;
        let on = on.clone();
        update(stage, "off", move |policy| *policy = on).await;
        assert_eq!(stage.itself("off", &dial).await, "111\n");
        let (_, seen) = stage.saw("it is on", |_| true).await;
        assert_eq!(seen, once("off", attempt("tcp", db, 4321, None), Mechanism::Nflog), "round {round}");
        // What was counted while nobody listened is nobody's loss.
        stage.nothing("once").await;
        let off = off.clone();
        update(stage, "off", move |policy| *policy = off).await;
    }
    let list = "import subprocess; subprocess.run(['ls', '/etc/passwd'])";
    for (more, says) in [(Some("ls"), "/etc/passwd\n"), (None, "/etc/passwd\n")] {
        update(stage, "refused", |policy| match more {
            Some(more) => policy.processes.as_mut().unwrap().push(more.to_owned()),
            None => policy.processes = None,
        })
        .await;
        assert_eq!(stage.itself("refused", list).await, says);
        stage.nothing("it may").await;
    }
}

/// How long the flood lasts; `DETECT_FLOOD_SECONDS` for longer.
const FLOOD: Duration = Duration::from_secs(3);

async fn a_flood_hides_nobody(stage: &mut Stage) {
    let memory = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let lasts = std::env::var("DETECT_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    let lasts = lasts.map_or(FLOOD, Duration::from_secs);
    let before = memory();
    let db = stage.address("db");
    let script = format!(
        "
import os, socket, time
end = time.monotonic() + {}
readers = []
for n in range(3):
    r, w = os.pipe()
    if os.fork() == 0:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sent = 0
        while time.monotonic() < end:
            for port in range(100):
                try: s.sendto(b'x', ('{db}', 1000 + port))
                except OSError: pass
                sent += 1
        os.write(w, sent.to_bytes(8, 'big')); os._exit(0)
    os.close(w); readers.append(r)
print(sum(int.from_bytes(os.read(r, 8), 'big') for r in readers))
",
        lasts.as_secs()
    );
    let flood = stage.begin("flood", &["python3", "-c", &script]);
    tokio::time::sleep(lasts / 3).await;
    let to = format!("{db}:7777:tcp");
    let begin = Instant::now();
    let text = stage.run("told", &["python3", "-c", DIAL, &to]).await;
    assert_eq!(text, "111\n");
    let (when, seen) = stage.saw("one of another in a flood", |one| one.service.as_str() == "told").await;
    println!("in a flood: told {:?} after the command was begun", when - begin);
    assert_eq!(seen, once("told", attempt("tcp", db, 7777, None), Mechanism::Nflog));
    let text = tokio::time::timeout(LONG, flood).await.expect("the flood ends").unwrap();
    let sent: u64 = text.trim().parse().unwrap();
    while stage.next(Duration::from_secs(1)).await {}
    let of_it: Vec<_> = stage.seen.drain(..).map(|(_, one)| one).collect();
    assert!(of_it.iter().all(|one| one.service.as_str() == "flood"), "{of_it:#?}");
    let told: u64 = of_it.iter().map(|one| one.count).sum();
    let lost: u64 = of_it.iter().map(|one| one.lost).sum();
    println!(
        "flood: {} packets a second, {} observations with {told} told and {lost} lost, {} KiB more",
        sent / lasts.as_secs(),
        of_it.len(),
        memory().saturating_sub(before) >> 10
    );
    // Every packet was told or told as lost, and none twice.
    assert_eq!(told + lost, sent);
    assert!(
        lost > 0 && of_it.len() < 300 * (usize::try_from(lasts.as_secs()).unwrap() + 2),
        "{} observations, {lost} lost",
        of_it.len()
    );
    assert!(memory() < before + (32 << 20), "it keeps nothing");
}

/// From the packet that is denied to the end of six processes.
async fn a_kill_is_soon(stage: &mut Stage) {
    stage.kill("flood", 1).await;
    let few = kills(stage, 2..32, 5).await;
    assert!(few < Duration::from_millis(250), "{few:?}");
    kills(stage, 32..37, 299).await;
}

/// Kills runs of as many processes and one more when they send a packet that is denied. Gives the median of the times
/// until all are dead and that is told.
async fn kills(stage: &mut Stage, generations: std::ops::Range<Generation>, processes: u32) -> Duration {
    let victim = stage.address("db");
    let mut seen_after = Vec::new();
    let mut ended_after = Vec::new();
    for generation in generations {
        stage.start("flood", generation).await;
        let script = format!(
            "
import os, socket, time
for _ in range({processes}):
    if os.fork() == 0: time.sleep(1000)
time.sleep(0.1)
s = socket.socket()
print(time.monotonic_ns(), flush=True)
try: s.connect(('{victim}', 9999))
except OSError: pass
time.sleep(1000)
"
        );
        let text = stage.begin("flood", &["python3", "-c", &script]);
        let (_, seen) = stage.saw("the packet", |one| one.service.as_str() == "flood").await;
        let seen_at = monotonic();
        assert_eq!(seen.generation, Some(generation));
        stage.host.submit(Effect::Kill { service: name("flood"), generation });
        stage.ended("flood", generation).await;
        let ended_at = monotonic();
        let text = text.await.unwrap();
        let sent_at: u64 = text.trim().parse().unwrap();
        seen_after.push(Duration::from_nanos(seen_at - sent_at));
        ended_after.push(Duration::from_nanos(ended_at - sent_at));
    }
    for (what, times) in [("seen", &mut seen_after), ("all dead and told", &mut ended_after)] {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        println!("kill of {}: {what} p50 {:?} p95 {:?} max {:?}", processes + 1, at(50), at(95), at(100));
    }
    ended_after[ended_after.len() / 2]
}

fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
