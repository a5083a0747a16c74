//! Runs that take each other's place and plans that change, on the real kernel and driven by effects: no connection is
//! lost while a service is started again or overlaps with its next run, and what an update does not name goes on. As
//! root and, in a child, as user 1000.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use ws_core::engine::{Effect, Generation, Input, ProbeRole, Step};
use ws_core::host::{ExecIo, ExecSpec, Host, LogSink};
use ws_core::plan::{self, ExternalPlan, Options, Plan, ServicePlan};
use ws_linux::sandbox::spawner::Spawner;
use ws_linux::{HostConfig, LinuxHost};
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{
    ByteSize, CommandLine, ExitReason, External, ExternalHost, Hooks, InstanceId, Limits, Link, LinkPorts,
    Listen, LogRetention, PortProto, Probe, ProbeKind, Protocol, Publish, Reload, Restart, RestartPolicy,
    SecretName, SecretSource, SecretTarget, SecretUse, Service, ServiceKind, ServiceName, Stdin, Stop,
    Subnet, Workspace, WorkspaceName,
};
use ws_sys::process;

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("reload: test");
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(240), drive(spawner, directory)).await.expect("it hangs");
    });
}

/// Long enough on the slowest machine.
const LONG: Duration = Duration::from_secs(60);

/// How often a run takes the place of another, in each way.
const ROUNDS: usize = 8;

/// Answers with what the file `version` said when it was started; `BAD` is a program that ends at once.
///
/// With sockets that were passed to it, it accepts nothing more on SIGTERM and leaves what waits there. Without, it
/// answers who waits, closes its listener, and lives on for a moment; and it does not listen at once.
const SERVER: &str = r#"
import os, select, signal, socket, sys, threading, time
version = open("version").read().strip()
if version == "BAD": sys.exit(3)
wake, woken = os.pipe()
os.set_blocking(woken, False)
signal.set_wakeup_fd(woken)
signal.signal(signal.SIGTERM, lambda *_: None)
if sys.argv[1] == "listen":
    assert os.environ["LISTEN_FDS"] == "2" and os.environ["LISTEN_PID"] == str(os.getpid()), os.environ
    assert os.environ["LISTEN_FDNAMES"] == "http:admin", os.environ
    sockets = [socket.socket(fileno=fd) for fd in (3, 4)]
    assert all(os.get_blocking(fd) for fd in (3, 4))
    assert [s.getsockname() for s in sockets] == [("0.0.0.0", 8000), ("0.0.0.0", 8001)]
    assert set(os.listdir("/proc/self/fd")) >= {"0", "1", "2", "3", "4"}
    # As some programs do, for good: the next run is not to notice.
    os.set_blocking(4, False)
else:
    time.sleep(0.05)
    sockets = [socket.create_server(("0.0.0.0", 8000), backlog=1000)]
def answer(listener):
    client, _ = listener.accept()
    client.setblocking(True)
    threading.Thread(target=converse, args=(client,)).start()
def converse(client):
    try:
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(version), version.encode()))
    except OSError: pass
    client.close()
while True:
    ready = select.select(sockets + [wake], [], [])[0]
    for s in ready:
        if s is not wake: answer(s)
    if wake in ready: break
if sys.argv[1] != "listen":
    while select.select(sockets, [], [], 0)[0]: answer(sockets[0])
    sockets[0].close()
    time.sleep(0.05)
sys.exit(7)
"#;

/// Asks a linked service as fast as it can until it is told to end, and says what came of it.
const CLIENT: &str = r#"
import signal, socket, sys
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
answered, failed = 0, []
while not stop:
    try:
        s = socket.create_connection(("web", 8000), timeout=30)
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        text = b""
        while part := s.recv(1000): text += part
        assert text.startswith(b"HTTP/1.0 200 OK"), text
        answered += 1
    except Exception as e:
        failed.append(repr(e))
print("answered", answered, "failed", len(failed), failed[:3], flush=True)
"#;

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn python(script: &str, argument: &str) -> CommandLine {
    CommandLine(["python3", "-c", script, argument].map(str::to_owned).to_vec())
}

fn service(root: &Path, command: CommandLine) -> Service {
    Service {
        kind: ServiceKind::Service,
        command,
        build: None,
        inputs: None,
        watch: None,
        reload: Reload::Overlap,
        listen: Vec::new(),
        hold: LONG,
        working_dir: root.to_path_buf(),
        working_dir_declared: false,
        writable: vec![],
        makes: Vec::new(),
        reads: vec![],
        environment: BTreeMap::new(),
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

fn link(to: &str, port: u16) -> Link {
    let ports = LinkPorts::These(vec![PortProto { port, protocol: Protocol::Tcp }]);
    Link { to: name(to), ports, wait: true }
}

fn port_of(host_port: Option<u16>, port: u16) -> Publish {
    Publish { host: Ipv4Addr::LOCALHOST.into(), host_port, port, protocol: Protocol::Tcp }
}

/// Ready when it answers with this version.
fn says(version: &str) -> Probe {
    let short = Duration::from_millis(20);
    let kind = ProbeKind::Http {
        port: 8000,
        path: "/".to_owned(),
        headers: vec![],
        status: vec![],
        body: Some(format!("^{version}$")),
    };
    Probe { kind, start_interval: short, interval: short, timeout: LONG, within: LONG, failures: 3 }
}

fn workspace(root: &Path) -> Workspace {
    let listen = [("http", 8000), ("admin", 8001)];
    let listen = listen.map(|(name, port)| Listen { port, name: name.to_owned() }).to_vec();
    let web = Service {
        listen,
        ports: vec![port_of(None, 8000)],
        ready: Some(says("[0-9]+")),
        ..service(root, python(SERVER, "listen"))
    };
    let plain = Service { ports: vec![port_of(None, 8000)], ..service(root, python(SERVER, "bind")) };
    let client = Service { links: vec![link("web", 8000)], ..service(root, python(CLIENT, "")) };
    let idle = service(root, CommandLine(["sleep", "1000"].map(str::to_owned).to_vec()));
    let services = [("web", web), ("plain", plain), ("client", client), ("idle", idle)];
    Workspace {
        name: WorkspaceName::new("reload").unwrap(),
        root: root.to_path_buf(),
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
        services: services.map(|(text, service)| (name(text), service)).into(),
    }
}

fn planned(workspace: &Workspace) -> Plan {
    let facts = ws_linux::observe::facts(workspace);
    plan::resolve(workspace, &facts, &Options::default()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[derive(Default)]
struct Output(Mutex<String>);

impl LogSink for Output {
    fn write(&self, service: &ServiceName, _: LogStream, bytes: &[u8]) {
        let mut all = self.0.lock().unwrap();
        String::from_utf8_lossy(bytes).lines().for_each(|line| all.push_str(&format!("{service}: {line}\n")));
    }

    fn end(&self, _: &ServiceName, _: LogStream) {}
}

impl Output {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

struct Stage {
    host: LinuxHost,
    inputs: mpsc::UnboundedReceiver<Input>,
    output: Arc<Output>,
    root: PathBuf,
    ports: BTreeMap<(ServiceName, u16), SocketAddr>,
    generations: BTreeMap<&'static str, Generation>,
    pids: BTreeMap<(ServiceName, Generation), u32>,
}

impl Stage {
    /// The next that `is`; what probes say meanwhile is of no interest.
    async fn until(&mut self, what: &str, mut is: impl FnMut(&Input) -> bool) -> Input {
        let found = async {
            loop {
                let input = self.inputs.recv().await.unwrap();
                if let Input::Published { service, host, host_port, port } = &input {
                    self.ports.insert((service.clone(), *port), SocketAddr::new(*host, *host_port));
                }
                if let Input::Executed { service, generation, pid: Some(pid) } = &input {
                    self.pids.insert((service.clone(), *generation), *pid);
                }
                if is(&input) {
                    return input;
                }
                let skipped = matches!(input, Input::Probed { .. } | Input::Published { .. });
                assert!(skipped, "{what}: {input:?}\n{}", self.output.text());
            }
        };
        tokio::time::timeout(LONG, found).await.unwrap_or_else(|_| panic!("{what}\n{}", self.output.text()))
    }

    fn next(&mut self, service: &'static str) -> Generation {
        let generation = self.generations.entry(service).or_default();
        *generation += 1;
        *generation
    }

    fn now(&self, service: &str) -> Generation {
        self.generations[service]
    }

    async fn executed(&mut self, service: &str, wanted: Generation) {
        let is = |input: &Input| {
            // One that ended at once has no number any more.
            matches!(input, Input::Executed { service: of, generation, pid: _ }
                if *of == name(service) && *generation == wanted)
        };
        self.until(&format!("{service} {wanted} executed"), is).await;
    }

    async fn start(&mut self, service: &'static str) {
        let generation = self.next(service);
        self.host.submit(Effect::Start { service: name(service), generation, step: Step::Main });
        self.executed(service, generation).await;
    }

    async fn ended(&mut self, service: &str, wanted: Generation, exit: ExitReason) {
        let end = Input::Exited { service: name(service), generation: wanted, exit, oom: false };
        self.until(&format!("{service} {wanted} ended"), |input| *input == end).await;
    }

    fn signal(&mut self, service: &str, generation: Generation) {
        self.host.submit(Effect::Signal { service: name(service), generation, signal: 15 });
    }

    fn hold(&mut self, service: &str) {
        self.host.submit(Effect::Hold { service: name(service) });
    }

    fn release(&mut self, service: &str) {
        self.host.submit(Effect::Release { service: name(service) });
    }

    /// Waits until a probe of a run has succeeded.
    async fn ready(&mut self, service: &str, wanted: Generation) -> String {
        let (of, probe) = (name(service), ProbeRole::Ready);
        self.host.submit(Effect::StartProbe { service: of.clone(), generation: wanted, probe });
        let is = |input: &Input| {
            matches!(input, Input::Probed { service, generation, result: Ok(_), .. }
                if *service == of && *generation == wanted)
        };
        let found = self.until(&format!("{service} {wanted} ready"), is).await;
        self.host.submit(Effect::StopProbe { service: of, generation: wanted, probe });
        format!("{found:?}")
    }

    fn version(&self, version: usize) {
        std::fs::write(self.root.join("version"), version.to_string()).unwrap();
    }

    fn address(&self, service: &str) -> SocketAddr {
        self.ports[&(name(service), 8000)]
    }

    async fn update(&mut self, plan: ServicePlan) -> Result<(), String> {
        let (told, done) = oneshot::channel();
        self.host.update(plan, Box::new(move |result| drop(told.send(result))));
        done.await.unwrap()
    }

    async fn exec(&mut self, service: &str, argv: &[&str]) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdout = OwnedFd::from(writer);
        let io = ExecIo {
            stdin: std::fs::File::open("/dev/null").unwrap().into(),
            stderr: stdout.try_clone().unwrap(),
            stdout,
        };
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        let spec = ExecSpec { service: name(service), argv, env: vec![], cwd: None, tty: false };
        let (done, result) = oneshot::channel();
        self.host.exec(spec, io, Box::new(move |result| drop(done.send(result))));
        let result = result.await.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(matches!(result, ExecResult::Ended(_)), "{result:?} {text}");
        text
    }

    /// Begins a program in a service that takes its time.
    fn begin(&mut self, service: &str, script: &str) -> Begun {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdout = OwnedFd::from(writer);
        let io = ExecIo {
            stdin: std::fs::File::open("/dev/null").unwrap().into(),
            stderr: stdout.try_clone().unwrap(),
            stdout,
        };
        let argv = ["python3", "-c", script].map(str::to_owned).to_vec();
        let spec = ExecSpec { service: name(service), argv, env: vec![], cwd: None, tty: false };
        self.host.exec(spec, io, Box::new(|_| {}));
        let said = Arc::<Mutex<(String, bool)>>::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut part = [0; 256];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                heard.lock().unwrap().0.push_str(&String::from_utf8_lossy(&part[..length]));
            }
            heard.lock().unwrap().1 = true;
        });
        Begun(said)
    }

    /// The address of a service's published port, which was told since.
    async fn ports_of(&mut self, service: &str) -> SocketAddr {
        while let Ok(input) = self.inputs.try_recv() {
            if let Input::Published { service, host, host_port, port } = input {
                self.ports.insert((service, port), SocketAddr::new(host, host_port));
            }
        }
        self.address(service)
    }

    /// Whether one service reaches another, from the inside.
    async fn reaches(&mut self, from: &str, to: &str, port: u16) -> String {
        let script = format!(
            "import socket\ntry:\n  socket.create_connection(({to:?}, {port}), timeout=20); print('yes')\nexcept OSError as e:\n  print(e.errno)"
        );
        self.exec(from, &["python3", "-c", &script]).await.trim().to_owned()
    }
}

/// A program that takes its time: what it said, and whether that is all.
struct Begun(Arc<Mutex<(String, bool)>>);

impl Begun {
    fn text(&self) -> String {
        self.0.lock().unwrap().0.clone()
    }

    async fn ended(&self) {
        let ended = async {
            while !self.0.lock().unwrap().1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, ended).await.unwrap_or_else(|_| panic!("it goes on: {}", self.text()));
    }
}

/// Asks once; the version that answered.
async fn ask(address: SocketAddr) -> Result<String, String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let sent = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        sent.map_err(|error| format!("send: {error}"))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|error| format!("read: {error}"))?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(format!("cut off: {text:?}"))
    };
    tokio::time::timeout(LONG, asked).await.unwrap_or_else(|_| Err("it takes too long".to_owned()))
}

/// Asks again and again over a published port.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let one = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(address).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.push(error),
                    }
                }
                failed
            })
        };
        let tasks = (0..8).map(one).collect();
        Self { stop, answered, tasks }
    }

    /// Waits until it was answered some more.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        let more = async {
            while self.answered.load(Ordering::Relaxed) < before + 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, more).await.expect("the load is not answered");
    }

    async fn stop(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(task.await.unwrap());
        }
        println!("{what}: {} answered, {} failed", self.answered.load(Ordering::Relaxed), failed.len());
        assert!(failed.is_empty(), "{what}: {} failed: {:?}", failed.len(), failed.first());
    }
}

/// Waits until the port refuses.
async fn refuses(address: SocketAddr) {
    let refused = async {
        loop {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                // Accepted a moment before: it is reset, or was.
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(LONG, refused).await.expect("it does not refuse");
}

async fn drive(spawner: Spawner, directory: &Path) {
    let root = directory.join("project");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    std::fs::write(root.join("version"), "0").unwrap();
    let workspace = workspace(&root);
    let plan = planned(&workspace);
    let (sender, inputs) = mpsc::unbounded_channel();
    let inbox: ws_core::host::Inbox = Arc::new(move |input| match input {
        // That what is denied is seen is looked at elsewhere (`tests/detect.rs`).
        Input::Observed(_) => {}
        other => drop(sender.send(other)),
    });
    let output = Arc::new(Output::default());
    let instance = InstanceId::new(&workspace.name, &root, None);
    let state_dir = directory.join("state");
    let config = HostConfig { instance: instance.clone(), state_dir, secrets: BTreeMap::new() };
    let logs: Arc<dyn LogSink> = Arc::clone(&output) as _;
    let host = LinuxHost::start(spawner, plan.clone(), config, inbox, logs).await;
    let host = host.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    let (ports, generations) = (BTreeMap::new(), BTreeMap::new());
    let pids = BTreeMap::new();
    let mut stage = Stage { host, inputs, output, root, ports, generations, pids };

    no_connection_is_refused_while_it_starts_again(&mut stage).await;
    listening_sockets_outlive_runs(&mut stage).await;
    overlaps_lose_nothing(&mut stage, &plan).await;
    an_overlap_that_fails_changes_nothing(&mut stage).await;
    what_is_stopped_for_good_refuses(&mut stage).await;
    a_plan_changes_under_a_run(&mut stage, &workspace, &plan).await;
    limits_change_under_a_run(&mut stage, &plan, &instance).await;
    what_is_elsewhere_changes(&mut stage, &workspace, &plan).await;
    secrets_are_those_of_the_start(&mut stage, &workspace).await;

    let (done, errors) = oneshot::channel();
    stage.host.tear_down(Box::new(move |errors| done.send(errors).unwrap()));
    assert_eq!(errors.await.unwrap(), Vec::<String>::new());
    drop(stage);
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "", "no child is left");
}

/// Over a published port, with a program that binds it itself: it is told to end, or ends by itself before anybody knows;
/// it has closed its port and is there; the next one is there and does not listen yet.
async fn no_connection_is_refused_while_it_starts_again(stage: &mut Stage) {
    stage.start("plain").await;
    let load = Load::start(stage.address("plain"));
    load.goes_on().await;
    for round in 0..ROUNDS {
        stage.version(round);
        let by_itself = round % 3 == 2;
        if !by_itself {
            stage.hold("plain");
        }
        let old = stage.now("plain");
        stage.signal("plain", old);
        stage.ended("plain", old, ExitReason::Code(7)).await;
        if by_itself {
            stage.hold("plain");
        }
        stage.start("plain").await;
        if round % 3 == 1 {
            // What is held waits, however long the program is there.
            let address = stage.address("plain");
            assert!(tokio::time::timeout(Duration::from_millis(150), ask(address)).await.is_err());
        }
        stage.release("plain");
        load.goes_on().await;
        assert_eq!(ask(stage.address("plain")).await, Ok(round.to_string()));
    }
    load.stop("started again, own port").await;
}

fn say(output: &Output) -> String {
    let text = output.text();
    let line = text.lines().rev().find_map(|line| line.strip_prefix("client: answered "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Ends the load from the inside, which must not have failed.
async fn client_ends(stage: &mut Stage) {
    let client = stage.now("client");
    stage.signal("client", client);
    stage.ended("client", client, ExitReason::Code(0)).await;
    let said = say(&stage.output);
    println!("from the inside: {said}");
    assert!(said.ends_with(" failed 0 []") && !said.starts_with("0 "), "{said}");
}

async fn listening_sockets_outlive_runs(stage: &mut Stage) {
    stage.version(0);
    stage.start("web").await;
    let seen = stage.exec("web", &["/bin/sh", "-c", "ls /proc/self/fd; echo fds=$LISTEN_FDS"]).await;
    assert_eq!(seen, "0\n1\n2\n3\nfds=\n", "further programs have none of them (3 is the directory)");
    stage.start("client").await;
    let load = Load::start(stage.address("web"));
    for round in 0..ROUNDS {
        load.goes_on().await;
        stage.version(round);
        let old = stage.now("web");
        // Some in the way of the engine, which holds what is published; some without a word.
        if round % 2 == 0 {
            stage.hold("web");
        }
        if round % 4 == 3 {
            // It has no time to answer whom it has accepted: what waits has.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.signal("web", old);
        stage.ended("web", old, ExitReason::Code(7)).await;
        if round % 4 == 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage.start("web").await;
        stage.release("web");
        assert_eq!(ask(stage.address("web")).await, Ok(round.to_string()));
    }
    load.stop("started again, listen").await;
    client_ends(stage).await;
}

async fn overlaps_lose_nothing(stage: &mut Stage, plan: &Plan) {
    stage.start("client").await;
    let load = Load::start(stage.address("web"));
    let address = stage.address("web");
    let first = ask(address).await.unwrap();
    let mut present = first;
    for round in 0..ROUNDS {
        let version = 1000 + round;
        stage.version(version);
        let (old, new) = (stage.now("web"), stage.next("web"));
        stage.host.submit(Effect::StartBeside { service: name("web"), generation: new });
        stage.executed("web", new).await;
        // The new one is probed while the old one has everything else.
        let probed =
            ServicePlan { ready: Some(says(&version.to_string())), ..plan.services[&name("web")].clone() };
        assert_eq!(stage.update(probed).await, Ok(()));
        stage.ready("web", new).await;
        for _ in 0..10 {
            assert_eq!(ask(address).await, Ok(present.clone()), "before the switch");
        }
        stage.host.submit(Effect::Switch { service: name("web"), generation: new });
        let switched = Input::Switched { service: name("web"), generation: new };
        stage.until("switched", |input| *input == switched).await;
        present = version.to_string();
        for _ in 0..10 {
            assert_eq!(ask(address).await, Ok(present.clone()), "after the switch");
        }
        stage.signal("web", old);
        stage.ended("web", old, ExitReason::Code(7)).await;
        for _ in 0..10 {
            assert_eq!(ask(address).await, Ok(present.clone()), "without the old one");
        }
        assert_eq!(stage.exec("web", &["sh", "-c", "echo of it"]).await, "of it\n");
    }
    assert_eq!(stage.update(plan.services[&name("web")].clone()).await, Ok(()));
    load.stop("overlaps").await;
    client_ends(stage).await;
}

/// Stops a run, as by SIGSTOP, and waits until it is.
async fn freeze(stage: &mut Stage, generation: Generation) {
    stage.host.submit(Effect::Signal { service: name("web"), generation, signal: libc::SIGSTOP });
    let stat = format!("/proc/{}/stat", stage.pids[&(name("web"), generation)]);
    let stopped = async {
        loop {
            let text = std::fs::read_to_string(&stat).unwrap();
            if text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, stopped).await.expect("it stops");
}

async fn beside(stage: &mut Stage) -> Generation {
    let generation = stage.next("web");
    stage.host.submit(Effect::StartBeside { service: name("web"), generation });
    stage.executed("web", generation).await;
    generation
}

async fn switch(stage: &mut Stage, generation: Generation) {
    stage.host.submit(Effect::Switch { service: name("web"), generation });
    let switched = Input::Switched { service: name("web"), generation };
    stage.until("switched", |input| *input == switched).await;
}

async fn an_overlap_that_fails_changes_nothing(stage: &mut Stage) {
    let address = stage.address("web");
    let version = ask(address).await.unwrap();
    let load = Load::start(address);
    let old = stage.now("web");
    for _ in 0..2 {
        std::fs::write(stage.root.join("version"), "BAD").unwrap();
        let new = beside(stage).await;
        stage.ended("web", new, ExitReason::Code(3)).await;
        for _ in 0..10 {
            assert_eq!(ask(address).await, Ok(version.clone()));
        }
        // A third one at a time is refused.
        stage.version(1);
        let new = beside(stage).await;
        let third = stage.next("web");
        stage.host.submit(Effect::StartBeside { service: name("web"), generation: third });
        let failed =
            |input: &Input| matches!(input, Input::StartFailed { generation, .. } if *generation == third);
        stage.until("a third one", failed).await;
        stage.host.submit(Effect::Kill { service: name("web"), generation: new });
        stage.ended("web", new, ExitReason::Signal(9)).await;
        for _ in 0..10 {
            assert_eq!(ask(address).await, Ok(version.clone()));
        }
    }
    load.stop("overlaps that fail").await;

    // The old one dies with connections that it has not accepted: the other gets them.
    for round in 0..2 {
        let old = if round == 0 { old } else { stage.generations["web"] };
        stage.version(2000 + round);
        let new = beside(stage).await;
        stage.ready("web", new).await;
        freeze(stage, old).await;
        let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(ask(address))).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if round % 2 == 0 {
            stage.host.submit(Effect::Kill { service: name("web"), generation: old });
            stage.ended("web", old, ExitReason::Signal(9)).await;
            switch(stage, new).await;
        } else {
            // It is waited for, but not for ever.
            switch(stage, new).await;
            stage.host.submit(Effect::Kill { service: name("web"), generation: old });
            stage.ended("web", old, ExitReason::Signal(9)).await;
        }
        for asked in waiting {
            let version = asked.await.unwrap();
            assert_eq!(version, Ok((2000 + round).to_string()), "round {round}");
        }
    }

    // One that was taken over from and does not end is in the way of nobody.
    let old = stage.now("web");
    stage.version(3000);
    let new = beside(stage).await;
    stage.ready("web", new).await;
    switch(stage, new).await;
    freeze(stage, old).await;
    stage.version(3001);
    let newer = beside(stage).await;
    stage.ready("web", newer).await;
    for _ in 0..10 {
        assert_eq!(ask(address).await, Ok("3000".to_owned()));
    }
    switch(stage, newer).await;
    for _ in 0..10 {
        assert_eq!(ask(address).await, Ok("3001".to_owned()));
    }
    for generation in [old, new] {
        stage.host.submit(Effect::Kill { service: name("web"), generation });
        stage.ended("web", generation, ExitReason::Signal(9)).await;
    }
    assert_eq!(ask(address).await, Ok("3001".to_owned()));
}

async fn what_is_stopped_for_good_refuses(stage: &mut Stage) {
    // Nobody says anything; somebody says that nothing follows.
    for said in [false, true] {
        for service in ["web", "plain"] {
            let generation = stage.now(service);
            if said {
                stage.hold(service);
            }
            stage.signal(service, generation);
            stage.ended(service, generation, ExitReason::Code(7)).await;
            if said {
                stage.release(service);
            }
            refuses(stage.address(service)).await;
        }
        stage.start("idle").await;
        assert_eq!(stage.reaches("idle", "web", 8000).await, "111", "there is no link");
        let idle = stage.now("idle");
        stage.host.submit(Effect::Kill { service: name("idle"), generation: idle });
        stage.ended("idle", idle, ExitReason::Signal(9)).await;
        for service in ["web", "plain"] {
            stage.version(1);
            stage.start(service).await;
            let answered = async {
                while ask(stage.address(service)).await != Ok("1".to_owned()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(LONG, answered).await.expect("it is back");
        }
    }
    // From the inside, too: nothing hangs in a queue that nobody reads.
    stage.start("client").await;
    let client = stage.now("client");
    let generation = stage.now("web");
    stage.hold("web");
    stage.signal("web", generation);
    stage.ended("web", generation, ExitReason::Code(7)).await;
    stage.release("web");
    let refused = async {
        while stage.reaches("client", "web", 8000).await != "111" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, refused).await.expect("it does not refuse");
    stage.start("web").await;
    assert_eq!(stage.reaches("client", "web", 8000).await, "yes");
    stage.host.submit(Effect::Kill { service: name("client"), generation: client });
    stage.ended("client", client, ExitReason::Signal(9)).await;
}

async fn a_plan_changes_under_a_run(stage: &mut Stage, workspace: &Workspace, plan: &Plan) {
    let of = |plan: &Plan, service: &str| plan.services[&name(service)].clone();
    stage.start("idle").await;
    stage.start("client").await;
    let web = stage.now("web");

    // Links come and go, with what is open over them.
    assert_eq!(stage.reaches("idle", "web", 8000).await, "111");
    let mut changed = workspace.clone();
    changed.services.get_mut(&name("idle")).unwrap().links = vec![link("web", 8000)];
    let linked = planned(&changed);
    assert_eq!(stage.update(of(&linked, "idle")).await, Ok(()));
    assert_eq!(stage.reaches("idle", "web", 8000).await, "yes");
    let script = "import socket\ns = socket.create_connection(('web', 8001)); print('open', flush=True)\ntry:\n  while True: s.sendall(b'x'); import time; time.sleep(0.01)\nexcept OSError as e: print('cut', e.errno)";
    changed.services.get_mut(&name("idle")).unwrap().links = vec![link("web", 8000), link("web", 8001)];
    assert_eq!(stage.update(of(&planned(&changed), "idle")).await, Ok(()));
    // On the port that is not published, where nobody is answered before the link is gone.
    stage.host.submit(Effect::Signal { service: name("web"), generation: web, signal: libc::SIGSTOP });
    let cut = stage.begin("idle", script);
    let open = async {
        while !cut.text().contains("open") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, open).await.expect("it is not open");
    assert_eq!(stage.update(of(&linked, "idle")).await, Ok(()));
    cut.ended().await;
    assert!(cut.text().contains("cut"), "{}", cut.text());
    stage.host.submit(Effect::Signal { service: name("web"), generation: web, signal: libc::SIGCONT });
    assert_eq!(stage.reaches("idle", "web", 8000).await, "yes", "what it still has");
    assert_eq!(stage.reaches("idle", "web", 8001).await, "111");

    // Who goes away and comes back has the links of others to it.
    let (told, done) = oneshot::channel();
    stage.host.remove(&name("plain"), Box::new(move |errors| drop(told.send(errors))));
    assert_eq!(done.await.unwrap(), Vec::<String>::new());
    assert!(!stage.host.standing().contains_key(&name("plain")));
    stage.until("plain ended", |input| matches!(input, Input::Exited { .. })).await;
    changed.services.get_mut(&name("idle")).unwrap().links = vec![link("plain", 8000)];
    let to_plain = planned(&changed);
    assert_eq!(stage.update(of(&to_plain, "idle")).await, Ok(()));
    let (told, done) = oneshot::channel();
    stage.host.add(of(plan, "plain"), None, Box::new(move |result| drop(told.send(result))));
    assert_eq!(done.await.unwrap(), Ok(()));
    stage.start("plain").await;
    stage.release("plain");
    let address = stage.ports_of("plain").await;
    assert_eq!(ask(address).await, Ok("1".to_owned()));
    assert_eq!(stage.reaches("idle", "plain", 8000).await, "yes");

    // A name that comes is known to who runs, at once and as a whole.
    assert_eq!(stage.exec("idle", &["sh", "-c", "getent hosts mail || echo unknown"]).await, "unknown\n");
    let idle = changed.services[&name("idle")].clone();
    changed.services.insert(name("mail"), Service { links: vec![], ..idle });
    let with_mail = planned(&changed);
    assert_eq!(stage.update(of(&with_mail, "idle")).await, Ok(()));
    let known =
        stage.exec("idle", &["sh", "-c", "getent hosts mail; ls /etc/hosts*; echo x > /etc/hosts"]).await;
    assert!(known.contains("mail") && known.contains("/etc/hosts\n") && !known.contains("ws-new"), "{known}");
    assert!(known.to_lowercase().contains("read-only"), "{known}");
    assert!(stage.exec("idle", &["cat", "/etc/hosts"]).await.contains("mail"));

    // Ports: one that is taken is an error that leaves all as it was; what stays is not touched.
    let address = stage.address("web");
    let mut open = TcpStream::connect(address).await.unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let before = of(plan, "web");
    let mut wanted = ServicePlan { hold: Duration::from_secs(1), ..before.clone() };
    wanted.publish.push(port_of(None, 8001));
    wanted.publish.push(port_of(Some(taken_port), 8001));
    wanted.links = of(&linked, "idle").links.clone();
    wanted.limits.pids = 77;
    let error = stage.update(wanted.clone()).await.unwrap_err();
    assert!(error.contains(&format!("127.0.0.1:{taken_port} is in use")), "{error}");
    drop(taken);
    wanted.links.clear();
    assert_eq!(stage.update(wanted.clone()).await, Ok(()));
    let second = (name("web"), 8001);
    let is = |input: &Input| matches!(input, Input::Published { host_port, .. } if *host_port == taken_port);
    stage.until("published", is).await;
    assert!(stage.ports.contains_key(&second));
    let other = SocketAddr::from((Ipv4Addr::LOCALHOST, taken_port));
    assert_eq!(ask(other).await, Ok("1".to_owned()));
    // The same port of the host for another one of the service.
    wanted.publish = vec![port_of(None, 8000), port_of(Some(taken_port), 8000)];
    assert_eq!(stage.update(wanted).await, Ok(()));
    assert_eq!(ask(other).await, Ok("1".to_owned()));
    assert_eq!(stage.update(before.clone()).await, Ok(()));
    assert!(TcpStream::connect(other).await.is_err(), "it is closed when that was told");
    drop(TcpListener::bind(other).await.expect("and free"));
    open.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with('1'), "{text:?}");

    // Another place is not for an update, nor is a service that is not there.
    let elsewhere = ServicePlan { index: before.index + 50, ..before.clone() };
    assert!(stage.update(elsewhere).await.unwrap_err().contains("place"));
    let stranger = ServicePlan { name: name("stranger"), ..before };
    assert!(stage.update(stranger).await.unwrap_err().contains("stranger"));
    assert_eq!(stage.now("web"), web, "it went on");
    stage.host.submit(Effect::Kill { service: name("client"), generation: stage.generations["client"] });
    let client = stage.now("client");
    stage.ended("client", client, ExitReason::Signal(9)).await;
}

async fn limits_change_under_a_run(stage: &mut Stage, plan: &Plan, instance: &InstanceId) {
    let mut hungry = plan.services[&name("idle")].clone();
    hungry.run.argv = [
        "python3",
        "-c",
        "x = b'x' * (64 << 20)\nprint('has it', flush=True)\nimport time; time.sleep(1000)",
    ]
    .map(str::to_owned)
    .to_vec();
    let idle = stage.now("idle");
    stage.host.submit(Effect::Kill { service: name("idle"), generation: idle });
    stage.ended("idle", idle, ExitReason::Signal(9)).await;
    assert_eq!(stage.update(hungry.clone()).await, Ok(()));
    stage.start("idle").await;
    let output = Arc::clone(&stage.output);
    let has = async {
        while !output.text().contains("idle: has it") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, has).await.expect("it takes its memory");
    let limited = |bytes: u64, pids: u32| {
        let mut plan = hungry.clone();
        plan.limits.memory = Some(ByteSize(bytes));
        plan.limits.pids = pids;
        plan
    };
    let layout = ws_sys::cgroup::Layout::of_this_process().unwrap();
    let groups = ws_sys::cgroup::find(&layout, &format!("ws.{instance}"));
    let limit = |files: [&str; 2]| -> Option<u64> {
        let paths = groups.iter().flat_map(|group| files.map(|file| group.join("idle").join(file)));
        paths.filter_map(|path| std::fs::read_to_string(path).ok()).find_map(|text| text.trim().parse().ok())
    };
    let memory = || limit(["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(stage.update(limited(256 << 20, 50)).await, Ok(()));
    let Some(now) = memory().filter(|now| *now == 256 << 20) else {
        println!("no memory limit can be set here: {:?}", memory());
        return;
    };
    let pids = limit(["pids.max", "pids.max"]).unwrap();
    let error = stage.update(limited(32 << 20, 40)).await.unwrap_err();
    assert!(error.contains("memory limit of `idle` to 32M") && error.contains("it uses"), "{error}");
    assert_eq!((memory(), limit(["pids.max", "pids.max"])), (Some(now), Some(pids)), "as it was");
    assert_eq!(stage.update(limited(128 << 20, 40)).await, Ok(()));
    assert_eq!((memory(), limit(["pids.max", "pids.max"])), (Some(128 << 20), Some(pids - 10)));
    // Two runs that overlap may have what each may.
    let generation = stage.next("idle");
    stage.host.submit(Effect::StartBeside { service: name("idle"), generation });
    stage.executed("idle", generation).await;
    assert_eq!(memory(), Some(256 << 20));
    stage.host.submit(Effect::Kill { service: name("idle"), generation });
    stage.ended("idle", generation, ExitReason::Signal(9)).await;
    assert_eq!(memory(), Some(128 << 20));
}

async fn what_is_elsewhere_changes(stage: &mut Stage, workspace: &Workspace, plan: &Plan) {
    let serve = |text: &'static [u8]| async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                client.write_all(text).await.unwrap();
            }
        });
        (port, task)
    };
    let (first, one) = serve(b"one").await;
    let (second, two) = serve(b"two").await;
    let with = |port: u16, host: ExternalHost| {
        let mut workspace = workspace.clone();
        workspace.external = BTreeMap::from([(name("orders"), External { host, port })]);
        let orders = Link { to: name("orders"), ports: LinkPorts::Declared, wait: true };
        workspace.services.get_mut(&name("client")).unwrap().links.push(orders);
        planned(&workspace)
    };
    let mut plain = plan.services[&name("client")].clone();
    plain.run.argv = ["sleep", "1000"].map(str::to_owned).to_vec();
    assert_eq!(stage.update(plain.clone()).await, Ok(()));
    stage.start("client").await;
    let set = async |stage: &mut Stage, external: Vec<ExternalPlan>| -> Result<(), String> {
        let (told, done) = oneshot::channel();
        stage.host.set_external(external, Box::new(move |result| drop(told.send(result))));
        done.await.unwrap()
    };
    let read = async |stage: &mut Stage, port: u16| -> String {
        let script = format!(
            "import socket\ntry:\n  s = socket.create_connection(('orders', {port}), timeout=20); print(s.recv(9).decode())\nexcept OSError as e:\n  print(e.errno)"
        );
        stage.exec("client", &["python3", "-c", &script]).await.trim().to_owned()
    };
    for (port, said) in [(first, "one"), (second, "two"), (first, "one")] {
        let plan = with(port, ExternalHost::Loopback);
        assert_eq!(set(stage, plan.external.clone()).await, Ok(()));
        assert_eq!(set(stage, plan.external.clone()).await, Ok(()), "again");
        let mut linked = plan.services[&name("client")].clone();
        linked.run = plain.run.clone();
        assert_eq!(stage.update(linked).await, Ok(()));
        assert_eq!(read(stage, port).await, said);
        assert_eq!(read(stage, first ^ second ^ port).await, "111");
    }
    // One that cannot be served leaves what there was.
    let mut twice = with(first, ExternalHost::Loopback).external;
    twice.push(ExternalPlan {
        name: name("twin"),
        host: ExternalHost::Name("example.org".to_owned()),
        ..twice[0].clone()
    });
    let error = set(stage, twice).await.unwrap_err();
    assert!(error.contains("twin"), "{error}");
    assert_eq!(read(stage, first).await, "one");
    assert_eq!(set(stage, vec![]).await, Ok(()));
    let gone = read(stage, first).await;
    assert!(["111", "113", "101"].contains(&gone.as_str()), "{gone}");
    one.abort();
    two.abort();
}

async fn secrets_are_those_of_the_start(stage: &mut Stage, workspace: &Workspace) {
    let secret = SecretName::new("key").unwrap();
    let mut workspace = workspace.clone();
    workspace.secrets = BTreeMap::from([(secret.clone(), SecretSource::Environment("KEY".to_owned()))]);
    let late = Service {
        secrets: vec![SecretUse { name: secret.clone(), target: SecretTarget::Env("KEY".to_owned()) }],
        ..workspace.services[&name("idle")].clone()
    };
    workspace.services.insert(name("late"), late);
    let late = planned(&workspace).services[&name("late")].clone();
    let add = async |stage: &mut Stage| {
        let (told, done) = oneshot::channel();
        stage.host.add(late.clone(), None, Box::new(move |result| drop(told.send(result))));
        done.await.unwrap()
    };
    let error = add(stage).await.unwrap_err();
    assert!(error.contains("the secret `key` is missing"), "{error}");
    stage.host.set_secrets(BTreeMap::from([(secret.clone(), b"first".to_vec())]));
    assert_eq!(add(stage).await, Ok(()));
    stage.start("late").await;
    stage.host.set_secrets(BTreeMap::from([(secret, b"second".to_vec())]));
    let show = ["sh", "-c", "tr '\\0' '\\n' < /proc/2/environ | grep ^KEY; echo $KEY"];
    assert_eq!(stage.exec("late", &show).await, "KEY=first\nfirst\n");
    let generation = stage.now("late");
    stage.host.submit(Effect::Kill { service: name("late"), generation });
    stage.ended("late", generation, ExitReason::Signal(9)).await;
    stage.start("late").await;
    assert_eq!(stage.exec("late", &show).await, "KEY=second\nsecond\n");
}
