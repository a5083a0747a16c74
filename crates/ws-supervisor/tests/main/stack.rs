//! A supervisor of a made-up stack, on a host that only says what a real one would say.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ws_client::{Client, EventQuery};
use ws_core::engine::{Effect, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Standing, Usage};
use ws_core::plan::{LimitsPlan, Plan, Run, ServicePlan, View, Wait};
use ws_model::wire::{DownRequest, ExecResult};
use ws_model::{
    ByteSize, Condition, ConfigPath, Event, ExitReason, InstanceId, Level, Restart, RestartPolicy,
    ServiceKind, ServiceName, Stop, Subnet, WorkspaceName,
};
use ws_supervisor::state_dir::{self, Acquired};
use ws_supervisor::{Config, LogLimits, LogStore, PeerCheck, RunResult, Supervisor, SupervisorError};

/// The bound on every wait: far above what anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits with the bound.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes too long")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn instance() -> InstanceId {
    InstanceId::from_dir_name("shop-00000000").unwrap()
}

/// What the host lets a service do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Runs until it is asked to stop.
    Run,
    /// Starts a moment later.
    StartLate,
    /// Cannot be started.
    NotStart,
    /// Exits with this code at once.
    Exit(i32),
    /// Ignores signals; has a moment's grace.
    Ignore,
    /// Ignores signals; has an hour's grace.
    Stubborn,
}

/// A service of the stack: what it does, and on whom it waits.
#[derive(Debug, Clone)]
pub(crate) struct Part(pub(crate) &'static str, pub(crate) Does, pub(crate) &'static [&'static str]);

fn plan(parts: &[Part]) -> Plan {
    let service = |(i, Part(service, does, waits)): (usize, &Part)| {
        let index = u32::try_from(i).unwrap();
        let plan = ServicePlan {
            name: name(service),
            declared: name(service),
            replica: 1,
            kind: if matches!(does, Does::Exit(_)) { ServiceKind::Task } else { ServiceKind::Service },
            index,
            address: Subnet::DEFAULT.host(index),
            mac: [2, 0, 0, 0, 0, u8::try_from(i).unwrap()],
            waits: waits
                .iter()
                .map(|on| Wait {
                    on: name(on),
                    condition: Condition::Ready,
                    required: true,
                    restart: false,
                    at: ConfigPath::default(),
                })
                .collect(),
            build: None,
            run: Run { argv: vec!["true".to_owned()], env: Vec::new(), cwd: PathBuf::from("/") },
            view: View {
                uid: 1000,
                gid: 1000,
                user: "user".to_owned(),
                home: PathBuf::from("/home/user"),
                symlinks: Vec::new(),
                files: Vec::new(),
                system: Vec::new(),
                scratch: Vec::new(),
                scratch_size: ByteSize::mib(1),
                repo: None,
                binds: Vec::new(),
                tmpfs: Vec::new(),
                secret_files: Vec::new(),
                secret_env: Vec::new(),
            },
            links: Vec::new(),
            publish: Vec::new(),
            startup: None,
            ready: None,
            liveness: None,
            hooks: ws_model::Hooks::default(),
            success_exit_codes: vec![0],
            open_stdin: true,
            tty: false,
            logs: ws_model::LogRetention::default(),
            restart: Restart {
                policy: RestartPolicy::No,
                max: Some(1),
                backoff_min: Duration::from_millis(1),
                backoff_max: Duration::from_millis(1),
            },
            stop: Stop {
                command: None,
                signal: 15,
                grace: if *does == Does::Stubborn {
                    Duration::from_secs(3600)
                } else {
                    Duration::from_millis(50)
                },
            },
            limits: LimitsPlan { memory: None, cpus: None, pids: 100, pids_declared: false, files: None },
        };
        (name(service), plan)
    };
    Plan {
        name: WorkspaceName::new("shop").unwrap(),
        root: PathBuf::from("/src/shop"),
        subnet: Subnet::DEFAULT,
        required: Level::None,
        required_because: "nothing is declared".to_owned(),
        volumes: Vec::new(),
        external: Vec::new(),
        requires: Vec::new(),
        services: parts.iter().enumerate().map(service).collect(),
        waves: Vec::new(),
        channels: Vec::new(),
        warnings: Vec::new(),
    }
}

/// What a test sees of the host.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Runs that are there.
    pub(crate) running: BTreeMap<ServiceName, u64>,
    /// Runs that ended, in order.
    pub(crate) ended: Vec<ServiceName>,
    /// Commands that ended.
    pub(crate) execs: Vec<ExecResult>,
    pub(crate) torn_down: bool,
}

struct FakeHost {
    does: BTreeMap<ServiceName, Does>,
    inbox: mpsc::UnboundedSender<Input>,
    seen: Arc<Mutex<Seen>>,
    tear_down_errors: Vec<String>,
}

impl FakeHost {
    fn say(&self, input: Input) {
        // The supervisor has ended.
        let _ = self.inbox.send(input);
    }

    fn end(&self, service: ServiceName, generation: u64, exit: ExitReason) {
        let mut seen = self.seen.lock().unwrap();
        if seen.running.get(&service) == Some(&generation) {
            seen.running.remove(&service);
            seen.ended.push(service.clone());
            drop(seen);
            self.say(Input::Exited { service, generation, exit, oom: false });
        }
    }
}

impl Host for FakeHost {
    fn submit(&mut self, effect: Effect) {
        assert!(!self.seen.lock().unwrap().torn_down, "{effect:?} after the tear-down");
        match effect {
            Effect::Start { service, generation, .. } => {
                let does = self.does[&service];
                if does == Does::NotStart {
                    let error = "mounting ./data read-write: no such directory".to_owned();
                    return self.say(Input::StartFailed { service, generation, error, hopeless: false });
                }
                self.seen.lock().unwrap().running.insert(service.clone(), generation);
                let executed = Input::Executed { service: service.clone(), generation, pid: Some(4000) };
                match does {
                    Does::Exit(code) => {
                        self.say(executed);
                        self.end(service, generation, ExitReason::Code(code));
                    }
                    Does::StartLate => {
                        let inbox = self.inbox.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            let _ = inbox.send(executed);
                        });
                    }
                    Does::Run | Does::Ignore | Does::Stubborn | Does::NotStart => self.say(executed),
                }
            }
            Effect::Signal { service, generation, signal } => {
                if !matches!(self.does[&service], Does::Ignore | Does::Stubborn) {
                    self.end(service, generation, ExitReason::Signal(signal));
                }
            }
            Effect::Kill { service, generation } => self.end(service, generation, ExitReason::Signal(9)),
            Effect::RunHook { service, generation, hook } => {
                self.say(Input::HookEnded { service, generation, hook, result: Ok(()) });
            }
            Effect::StartProbe { .. } | Effect::StopProbe { .. } => {}
        }
    }

    fn cancel_exec(&mut self, _: ExecId) {}

    fn add(
        &mut self,
        service: ServicePlan,
        _: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        self.does.insert(service.name, Does::Run);
        done(Ok(()));
    }

    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        self.does.remove(service);
        done(Vec::new());
    }

    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        let mut command = Command::new(&spec.argv[0]);
        command.args(&spec.argv[1..]).envs(spec.env).stdin(io.stdin).stdout(io.stdout).stderr(io.stderr);
        if let Some(cwd) = spec.cwd {
            command.current_dir(cwd);
        }
        let seen = Arc::clone(&self.seen);
        std::thread::spawn(move || {
            let result = match command.spawn() {
                Ok(mut child) => {
                    // It keeps the process's ends open.
                    drop(command);
                    let status = child.wait().unwrap();
                    let signal = || ExitReason::Signal(status.signal().unwrap());
                    ExecResult::Ended(status.code().map_or_else(signal, ExitReason::Code))
                }
                Err(error) => {
                    let not_found = error.kind() == std::io::ErrorKind::NotFound;
                    ExecResult::NotStarted { error: error.to_string(), not_found }
                }
            };
            seen.lock().unwrap().execs.push(result.clone());
            done(result);
        });
        ExecId(0)
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        let running = &self.seen.lock().unwrap().running;
        let usage = Usage { memory_bytes: Some(1 << 20), cpu_usec: Some(1234), pids: Some(1) };
        running.keys().map(|service| (service.clone(), usage)).collect()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        let standing = Standing { level: Level::Limited, missing: vec!["distinct uids".to_owned()] };
        self.does.keys().map(|service| (service.clone(), standing.clone())).collect()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        self.seen.lock().unwrap().torn_down = true;
        done(std::mem::take(&mut self.tear_down_errors));
    }
}

/// What a test may want to be different.
pub(crate) struct Options {
    pub(crate) peer_check: PeerCheck,
    pub(crate) attached: bool,
    pub(crate) lifeline: Option<ws_supervisor::Lifeline>,
    pub(crate) limits: LogLimits,
    pub(crate) tear_down_errors: Vec<String>,
    pub(crate) signals: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peer_check: Arc::new(|_| Ok(())),
            attached: false,
            lifeline: None,
            limits: LogLimits::default(),
            tear_down_errors: Vec::new(),
            signals: false,
        }
    }
}

/// A supervisor that runs in this process.
pub(crate) struct Stack {
    pub(crate) home: Arc<TempDir>,
    pub(crate) socket: PathBuf,
    pub(crate) client: Client,
    pub(crate) logs: Arc<LogStore>,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) inbox: mpsc::UnboundedSender<Input>,
    pub(crate) volumes_removed: Arc<Mutex<bool>>,
    pub(crate) running: JoinHandle<Result<RunResult, SupervisorError>>,
}

impl Stack {
    pub(crate) async fn start(parts: &[Part]) -> Self {
        Self::start_with(parts, Options::default()).await
    }

    pub(crate) async fn start_with(parts: &[Part], options: Options) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), parts, options).await
    }

    pub(crate) async fn start_in(home: Arc<TempDir>, parts: &[Part], options: Options) -> Self {
        let (stack, listening) = Self::begin(home, parts, options);
        within(listening).await.expect("the supervisor did not begin");
        stack
    }

    pub(crate) fn runtime(home: &Path) -> PathBuf {
        home.join("run")
    }

    pub(crate) fn state(home: &Path) -> PathBuf {
        home.join("state").join(instance().as_str())
    }

    /// Begins, without waiting for the socket.
    pub(crate) fn begin(
        home: Arc<TempDir>,
        parts: &[Part],
        options: Options,
    ) -> (Self, tokio::sync::oneshot::Receiver<()>) {
        let Acquired::Locked { lock, .. } =
            state_dir::acquire(&Self::runtime(home.path()), &instance()).unwrap()
        else {
            panic!("the instance is busy")
        };
        let state = Self::state(home.path());
        let plan = plan(parts);
        if !state.exists() {
            state_dir::prepare_state_dir(&state, &instance(), &plan.root).unwrap();
        }
        let logs = Arc::new(LogStore::open(&state, options.limits).unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (inbox, inputs) = mpsc::unbounded_channel();
        let host = FakeHost {
            does: parts.iter().map(|Part(service, does, _)| (name(service), *does)).collect(),
            inbox: inbox.clone(),
            seen: Arc::clone(&seen),
            tear_down_errors: options.tear_down_errors,
        };
        let volumes_removed = Arc::new(Mutex::new(false));
        let removed = Arc::clone(&volumes_removed);
        let (tell, listening) = tokio::sync::oneshot::channel();
        let socket = lock.socket_path();
        let config = Config {
            instance: instance(),
            version: "0.1.0".to_owned(),
            lock,
            state_dir: state,
            peer_check: options.peer_check,
            attached: options.attached,
            lifeline: options.lifeline,
            remove_volumes: Box::new(move || {
                *removed.lock().unwrap() = true;
                Vec::new()
            }),
            on_listening: Box::new(move || tell.send(()).unwrap()),
            notices: vec!["cleared what a crash had left".to_owned()],
            signals: options.signals,
        };
        let running = tokio::spawn(Supervisor::run(config, plan, Box::new(host), inputs, Arc::clone(&logs)));
        let client = Client::at(&socket);
        (Self { home, socket, client, logs, seen, inbox, volumes_removed, running }, listening)
    }

    /// Every event that is kept.
    pub(crate) async fn events(&self, since: u64) -> Vec<Event> {
        self.read_events(EventQuery { since, follow: false }).await
    }

    pub(crate) async fn read_events(&self, query: EventQuery) -> Vec<Event> {
        let mut stream = self.client.events(query).await.unwrap();
        let mut events = Vec::new();
        while let Some(event) = within(stream.next()).await {
            events.push(event.unwrap());
        }
        events
    }

    pub(crate) async fn down(self) -> RunResult {
        self.client.down(DownRequest::default()).await.unwrap();
        self.ended().await
    }

    pub(crate) async fn ended(self) -> RunResult {
        within(self.running).await.unwrap().unwrap()
    }

    pub(crate) fn address(i: u32) -> Ipv4Addr {
        Subnet::DEFAULT.host(i)
    }
}
