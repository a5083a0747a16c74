//! The host on the real kernel, driven by effects: two services and one link, a restart that keeps the network
//! namespace, an exec, nothing left. As root and, in a child, as user 1000.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use ws_core::engine::{Effect, Input, Step};
use ws_core::host::{ExecIo, ExecSpec, Host, LogSink};
use ws_core::plan::{self, Options};
use ws_linux::{HostConfig, LinuxHost};
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{
    CommandLine, ExitReason, InstanceId, Limits, Link, LinkPorts, PortProto, Protocol, Restart,
    RestartPolicy, Service, ServiceKind, ServiceName, Stop, Subnet, Workspace, WorkspaceName,
};
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
        tokio::time::timeout(Duration::from_secs(60), drive(spawner, directory)).await.expect("it hangs");
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
        working_dir: root.to_path_buf(),
        working_dir_declared: false,
        writable: vec![],
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
    let workspace = Workspace {
        name: WorkspaceName::new("two").unwrap(),
        root: root.clone(),
        policy_inputs: vec![],
        hidden: vec![],
        enforcement: None,
        subnet: Subnet::DEFAULT,
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        external: BTreeMap::new(),
        requires: vec![],
        services: BTreeMap::from([
            (name("api"), service(&root, "exec sleep 1000", vec![link])),
            (name("db"), service(&root, SERVER, vec![])),
        ]),
    };
    let facts = ws_linux::observe::facts(&workspace);
    let plan = plan::resolve(&workspace, &facts, &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let (sender, mut inputs) = mpsc::unbounded_channel();
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
    drop(host);
    let children = std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "", "no child is left");
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
