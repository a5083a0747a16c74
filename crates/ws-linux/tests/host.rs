//! The host on the real kernel, driven by effects: two services and one link, a restart that keeps the network
//! namespace, an exec, the way to something elsewhere, services that come and go, nothing left. As root and, in a
//! child, as user 1000.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use ws_core::engine::{Effect, Input, Step};
use ws_core::host::{ExecIo, ExecSpec, Host, LogSink, Usage};
use ws_core::plan::{self, OneOff, Options, Plan, ServicePlan};
use ws_linux::sandbox::protocol::{SocketKind, SourceRequest};
use ws_linux::sandbox::spawner::Spawner;
use ws_linux::{HostConfig, LinuxHost};
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{
    CommandLine, ExitReason, External, ExternalHost, InstanceId, Limits, Link, LinkPorts, PortProto,
    Protocol, Restart, RestartPolicy, Service, ServiceKind, ServiceName, Stop, Subnet, Workspace,
    WorkspaceName,
};
use ws_sys::netlink::{Batch, Socket};
use ws_sys::nft::{self, Family, Field, Set, Table};
use ws_sys::process;

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("host: test");
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

fn service(root: &Path, script: &str, links: Vec<Link>) -> Service {
    Service {
        kind: ServiceKind::Service,
        command: CommandLine(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
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
        policy: ws_model::Policy::default(),
    }
}

#[derive(Default)]
struct Output(Mutex<String>);

impl LogSink for Output {
    fn write(&self, service: &ServiceName, _: LogStream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let mut all = self.0.lock().unwrap();
        for line in text.lines() {
            all.push_str(&format!("{service}: {line}\n"));
        }
    }

    fn end(&self, _: &ServiceName, _: LogStream) {}
}

const SERVER: &str = r#"
exec python3 -c '
import socket, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.create_server(("0.0.0.0", 7000))
while True:
    c, _ = s.accept(); c.sendall(b"hello\n"); c.close()
'"#;

async fn drive(spawner: ws_linux::sandbox::spawner::Spawner, directory: &Path) {
    let root = directory.join("project");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let link = Link {
        to: name("db"),
        ports: LinkPorts::These(vec![PortProto { port: 7000, protocol: Protocol::Tcp }]),
        wait: true,
    };
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let elsewhere_port = elsewhere.local_addr().unwrap().port();
    let orders = Link { to: name("orders"), ports: LinkPorts::Declared, wait: true };
    let workspace = Workspace {
        name: WorkspaceName::new("two").unwrap(),
        root: root.clone(),
        policy_inputs: vec![],
        hidden: vec![],
        enforcement: None,
        subnet: Subnet::DEFAULT,
        volumes: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        secrets: BTreeMap::new(),
        external: BTreeMap::from([(
            name("orders"),
            External { host: ExternalHost::Loopback, port: elsewhere_port },
        )]),
        requires: vec![],
        builds: BTreeMap::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        policy: ws_model::Policy::default(),
        services: BTreeMap::from([
            (name("api"), service(&root, "exec sleep 1000", vec![link, orders])),
            (name("db"), service(&root, SERVER, vec![])),
        ]),
    };
    let facts = ws_linux::observe::facts(&workspace);
    let plan = plan::resolve(&workspace, &facts, &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let (sender, mut inputs) = mpsc::unbounded_channel();
    // That what is denied is seen is looked at elsewhere (`tests/detect.rs`).
    let inbox: ws_core::host::Inbox = Arc::new(move |input| match input {
        Input::Observed(_) => {}
        other => drop(sender.send(other)),
    });
    let output = Arc::new(Output::default());
    let instance = InstanceId::new(&workspace.name, &root, None);
    let config = HostConfig {
        instance: instance.clone(),
        state_dir: directory.join("state"),
        secrets: BTreeMap::new(),
    };
    let logs: Arc<dyn LogSink> = Arc::clone(&output) as _;
    let router = spawner.clone();
    let mut host = match LinuxHost::start(spawner, plan.clone(), config, inbox, logs).await {
        Ok(host) => host,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{error}: {source:?}");
        }
    };
    println!("standing: {:?}", host.standing()[&name("api")]);
    for service in ["db", "api"] {
        host.submit(Effect::Start { service: name(service), generation: 1, step: Step::Main });
    }
    for _ in 0..2 {
        let input = inputs.recv().await.unwrap();
        assert!(matches!(&input, Input::Executed { pid: Some(_), .. }), "{input:?}");
    }

    // The link works; what is not declared is refused at once.
    let dial = |host: &str, port: u16| {
        format!(
            "import socket\ntry:\n  s = socket.create_connection(({host:?}, {port}), timeout=20); print(s.recv(9))\nexcept OSError as e:\n  print(e.errno, e)"
        )
    };
    let linked = |text: String| text.contains("hello");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (text, _) = exec(&mut host, "api", &dial("db", 7000)).await;
        if linked(text.clone()) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the link does not work: {text}");
    }
    for (from, to, port) in
        [("api", "db", 7001), ("db", "api", 7000), ("api", "10.77.0.1", 7000), ("api", "1.1.1.1", 80)]
    {
        let (text, _) = exec(&mut host, from, &dial(to, port)).await;
        assert!(text.contains("111") || text.contains("101"), "{from} to {to}:{port}: {text}");
    }

    elsewhere_is_reached(&mut host, elsewhere, elsewhere_port, &dial).await;
    services_come_and_go(&mut host, &mut inputs, &plan, &router, &instance).await;

    // A restart keeps the network namespace.
    let namespace = "import os; print(os.readlink(\"/proc/self/ns/net\"))";
    let (before, _) = exec(&mut host, "db", namespace).await;
    host.submit(Effect::Signal { service: name("db"), generation: 1, signal: 15 });
    let ended = inputs.recv().await.unwrap();
    let exit = ExitReason::Code(0);
    assert_eq!(ended, Input::Exited { service: name("db"), generation: 1, exit, oom: false });
    host.submit(Effect::Start { service: name("db"), generation: 2, step: Step::Main });
    assert!(matches!(inputs.recv().await.unwrap(), Input::Executed { generation: 2, .. }));
    let (after, _) = exec(&mut host, "db", namespace).await;
    assert_eq!(before, after);

    // A missing program is said so.
    let (text, result) = exec_argv(&mut host, "api", &["no-such-program"]).await;
    assert!(matches!(result, ExecResult::NotStarted { not_found: true, .. }), "{text} {result:?}");

    host.submit(Effect::Kill { service: name("api"), generation: 1 });
    let killed = inputs.recv().await.unwrap();
    let exit = ExitReason::Signal(9);
    assert_eq!(killed, Input::Exited { service: name("api"), generation: 1, exit, oom: false });

    let (done, errors) = oneshot::channel();
    host.tear_down(Box::new(move |errors| done.send(errors).unwrap()));
    assert_eq!(errors.await.unwrap(), Vec::<String>::new());
    drop((host, router));
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "", "no child is left");
}

/// A service with a link gets to a port of the machine that it runs on, and nobody else does.
async fn elsewhere_is_reached(
    host: &mut LinuxHost,
    elsewhere: TcpListener,
    port: u16,
    dial: &impl Fn(&str, u16) -> String,
) {
    let address = elsewhere.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut client, _) = elsewhere.accept().await.unwrap();
            client.write_all(b"hello").await.unwrap();
        }
    });
    let (text, _) = exec(host, "api", &dial("orders", port)).await;
    assert!(text.contains("hello"), "from api: {text}");
    // Its name is known to all; the right to go there is not.
    for (from, to, port) in [("db", "orders", port), ("api", "orders", port ^ 1), ("api", "10.77.0.1", port)]
    {
        let (text, _) = exec(host, from, &dial(to, port)).await;
        assert!(text.contains("111"), "{from} to {to}:{port}: {text}");
    }
    // Nobody is there any more: a reset, whatever the moment at which it comes.
    serving.abort();
    let _ = serving.await;
    let (text, _) = exec(host, "api", &dial("orders", port)).await;
    assert!(text.contains("104") || text.contains("111"), "nobody is there: {text}");
    let _back = TcpListener::bind(address).await.unwrap();
}

/// Services that are added and removed again leave nothing, and those that run notice nothing.
async fn services_come_and_go(
    host: &mut LinuxHost,
    inputs: &mut mpsc::UnboundedReceiver<Input>,
    plan: &Plan,
    router: &Spawner,
    instance: &InstanceId,
) {
    let one_off = |number, taken: &BTreeMap<ServiceName, u32>, script: &str| {
        let (service, argv) = (name("api"), Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()));
        let wanted = OneOff { service: &service, number, argv, env: &[], cwd: None, tty: false, taken };
        plan::one_off(plan, &wanted).unwrap()
    };
    let none = BTreeMap::new();

    // With standard streams of its own, it is in the service's place: its links, and no more.
    let (reader, writer) = std::io::pipe().unwrap();
    let stdout = OwnedFd::from(writer);
    let (stdin, _held) = std::io::pipe().unwrap();
    let io = ExecIo { stdin: stdin.into(), stderr: stdout.try_clone().unwrap(), stdout };
    let script =
        "python3 -c 'import socket; print(socket.create_connection((\"db\", 7000), timeout=20).recv(9))'";
    let unit = one_off(1, &none, script);
    let late = unit.name.clone();
    assert_eq!(add(host, unit.clone(), Some(io)).await, Ok(()));
    let twice = add(host, unit, None).await.unwrap_err();
    assert!(twice.contains("already"), "{twice}");
    assert_eq!(host.standing()[&late], host.standing()[&name("api")]);
    host.submit(Effect::Start { service: late.clone(), generation: 1, step: Step::Main });
    assert!(matches!(inputs.recv().await.unwrap(), Input::Executed { service, .. } if service == late));
    let ended = inputs.recv().await.unwrap();
    let exit = ExitReason::Code(0);
    assert_eq!(ended, Input::Exited { service: late.clone(), generation: 1, exit, oom: false });
    assert_eq!(remove(host, &late).await, Vec::<String>::new());
    assert!(!host.standing().contains_key(&late));
    let text = tokio::task::spawn_blocking(|| std::io::read_to_string(reader).unwrap()).await.unwrap();
    assert!(text.contains("hello"), "{text}");
    // What is not there is removed already.
    assert_eq!(remove(host, &late).await, Vec::<String>::new());
    // A start for it is of nobody.
    host.submit(Effect::Start { service: late.clone(), generation: 2, step: Step::Main });

    // One that cannot be made is told, and leaves nothing: its address is somebody's.
    let before = traces(router, instance);
    let usage = settled_usage(host).await;
    let mut twin = one_off(1, &none, "exec sleep 1000");
    twin.index = plan.services[&name("db")].index;
    let error = add(host, twin, None).await.unwrap_err();
    assert!(error.contains("the name, the number or the address"), "{error}");
    assert_eq!(traces(router, instance), before);

    for round in 0..50_u32 {
        let unit = one_off(1, &none, "exec sleep 1000");
        let late = unit.name.clone();
        let (told, added) = oneshot::channel();
        host.add(unit, None, Box::new(move |result| drop(told.send(result))));
        if round % 5 == 4 {
            // Before its place is made.
            assert_eq!(remove(host, &late).await, Vec::<String>::new());
            assert_eq!(added.await.unwrap(), Ok(()));
            continue;
        }
        assert_eq!(added.await.unwrap(), Ok(()));
        host.submit(Effect::Start { service: late.clone(), generation: 1, step: Step::Main });
        if round % 5 > 1 {
            assert!(matches!(inputs.recv().await.unwrap(), Input::Executed { .. }));
        }
        if round % 5 == 3 {
            let others = one_off(1, &BTreeMap::from([(late.clone(), 0)]), "exec sleep 1000");
            assert_ne!(others.name, late);
            let other = others.name.clone();
            assert_eq!(add(host, others, None).await, Ok(()), "two at once");
            assert_eq!(remove(host, &other).await, Vec::<String>::new());
        }
        // While it runs, starts, or has not begun to.
        assert_eq!(remove(host, &late).await, Vec::<String>::new());
        while let Ok(left) = inputs.try_recv() {
            let of_it = match &left {
                Input::Executed { service, .. }
                | Input::Exited { service, .. }
                | Input::StartFailed { service, .. } => *service == late,
                other => panic!("{other:?}"),
            };
            assert!(of_it, "{left:?}");
        }
    }
    assert_eq!(traces(router, instance), before, "after 50 times");
    assert_eq!(settled_usage(host).await.keys().collect::<Vec<_>>(), usage.keys().collect::<Vec<_>>());
}

async fn add(host: &mut LinuxHost, service: ServicePlan, io: Option<ExecIo>) -> Result<(), String> {
    let (told, done) = oneshot::channel();
    host.add(service, io, Box::new(move |result| drop(told.send(result))));
    done.await.unwrap()
}

async fn remove(host: &mut LinuxHost, service: &ServiceName) -> Vec<String> {
    let (told, done) = oneshot::channel();
    host.remove(service, Box::new(move |errors| drop(told.send(errors))));
    done.await.unwrap()
}

/// What is used once `api` is alone with its only process, where processes are counted.
async fn settled_usage(host: &mut LinuxHost) -> BTreeMap<ServiceName, Usage> {
    loop {
        let usage = host.usage();
        match usage[&name("api")].pids {
            Some(1) | None => return usage,
            // What was executed inside is on its way out.
            Some(_) => tokio::task::yield_now().await,
        }
    }
}

/// What a service that was forgotten would leave.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Descriptors of this process.
    descriptors: usize,
    /// Processes of this process, launchers and inits.
    children: String,
    /// Descriptors of the spawner, where they may be counted.
    of_the_spawner: Option<usize>,
    /// Directories of control groups of this process's instance.
    groups: usize,
    /// Network namespaces of its descendants.
    namespaces: BTreeSet<String>,
    /// Links, neighbours and routes in the router.
    links: Vec<usize>,
    /// Elements of the router's sets.
    elements: Vec<usize>,
}

fn traces(router: &Spawner, instance: &InstanceId) -> Traces {
    let entries = |path: String| std::fs::read_dir(path).ok().map(Iterator::count);
    let own = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap();
    let namespace = |pid: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        Some(link.to_string_lossy().into_owned())
    };
    let layout = ws_sys::cgroup::Layout::of_this_process().unwrap();
    let groups = ws_sys::cgroup::find(&layout, &format!("ws.{instance}"));
    let subdirectories = |group: &std::path::PathBuf| {
        let all = std::fs::read_dir(group).into_iter().flatten().flatten();
        all.filter(|entry| entry.path().is_dir()).count()
    };

    let mut socket = Socket::new(router.socket(SocketKind::Route, None).unwrap()).unwrap();
    let links = [
        (libc::RTM_GETLINK, libc::AF_UNSPEC, 16),
        (libc::RTM_GETNEIGH, libc::AF_INET, 12),
        (libc::RTM_GETNEIGH, libc::AF_BRIDGE, 12),
        (libc::RTM_GETROUTE, libc::AF_INET, 12),
    ]
    .map(|(kind, family, header)| {
        let mut request = Batch::new();
        request.push(kind, 0, |b| {
            let mut bytes = vec![0; header];
            bytes[0] = family as u8;
            b.raw(&bytes);
        });
        let mut count = 0;
        let dumped = socket.dump(&mut request, |_| {
            count += 1;
            Ok(())
        });
        dumped.unwrap();
        count
    });
    let mut socket = Socket::new(router.socket(SocketKind::Netfilter, None).unwrap()).unwrap();
    let table = |family| Table { family, name: "ws" };
    let links_fields = &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port];
    let elements = [
        Set { table: table(Family::Inet), name: "links", fields: links_fields },
        Set { table: table(Family::Inet), name: "services", fields: &[Field::Ipv4] },
        Set {
            table: table(Family::Bridge),
            name: "ports",
            fields: &[Field::Interface, Field::Ether, Field::Ipv4],
        },
    ]
    .map(|set| nft::elements(&mut socket, set).unwrap().len());
    drop(socket);
    // It lets go of what it hands out after it has answered: before it hears the next request, which gets nothing.
    let nothing = SourceRequest {
        path: "/nonexistent".into(),
        beneath: None,
        writable: false,
        device: false,
        create: false,
    };
    router.open(nothing).unwrap_err();
    Traces {
        descriptors: entries("/proc/self/fd".to_owned()).unwrap(),
        of_the_spawner: entries(format!("/proc/{}/fd", router.pid())),
        namespaces: children.split_ascii_whitespace().filter_map(namespace).collect(),
        children,
        groups: groups.iter().map(subdirectories).sum(),
        links: links.to_vec(),
        elements: elements.to_vec(),
    }
}

async fn exec(host: &mut LinuxHost, service: &str, script: &str) -> (String, ExecResult) {
    exec_argv(host, service, &["python3", "-c", script]).await
}

async fn exec_argv(host: &mut LinuxHost, service: &str, argv: &[&str]) -> (String, ExecResult) {
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
    let (done, result) = oneshot::channel();
    host.exec(spec, io, Box::new(move |result| done.send(result).unwrap()));
    let result = result.await.unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, result)
}
