//! A supervisor of a made-up stack, on a host that only says what a real one would say.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ws_client::{Client, EventQuery};
use ws_core::engine::{Effect, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Standing, Usage};
use ws_core::plan::{ExternalPlan, LimitsPlan, Plan, Run, ServicePlan, View, Wait};
use ws_model::wire::{DownRequest, ExecResult};
use ws_model::{
    ByteSize, Condition, ConfigPath, Event, ExitReason, InstanceId, Level, Restart, RestartPolicy,
    SecretName, ServiceKind, ServiceName, Stop, Subnet, WorkspaceName,
};
use ws_supervisor::state_dir::{self, Acquired};
use ws_supervisor::{
    Config, ExplainWatch, LogLimits, LogStore, MakeFiles, PeerCheck, Planner, RunResult, Supervisor,
    SupervisorError,
};

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

/// A plan of a service with this grace is one that the host cannot carry out while the service is there.
pub(crate) const REFUSED_GRACE: Duration = Duration::from_millis(66);

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

pub(crate) fn plan(parts: &[Part]) -> Plan {
    let service = |(i, Part(service, does, waits)): (usize, &Part)| {
        let index = u32::try_from(i).unwrap();
        let replica = service.rsplit_once('-').and_then(|(of, n)| Some((of, n.parse().ok()?)));
        let plan = ServicePlan {
            name: name(service),
            declared: name(replica.map_or(service, |(of, _)| of)),
            replica: replica.map_or(1, |(_, n)| n),
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
            makes: None,
            uses: Vec::new(),
            watch: Vec::new(),
            reload: ws_model::Reload::Restart,
            listen: Vec::new(),
            hold: std::time::Duration::from_secs(10),
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
            policy: ws_core::plan::PolicyPlan::default(),
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
        secrets: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        requires: Vec::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
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
    /// Signals that were sent to runs.
    pub(crate) signals: Vec<(ServiceName, i32)>,
    /// Services that were added later, and are there.
    pub(crate) added: Vec<ServiceName>,
    /// Services whose plan became another.
    pub(crate) updated: Vec<ServicePlan>,
    /// What runs elsewhere, each time that it was set.
    pub(crate) external: Vec<Vec<ExternalPlan>>,
    /// The secrets, each time that they were set.
    pub(crate) secrets: Vec<BTreeMap<SecretName, Vec<u8>>>,
    pub(crate) torn_down: bool,
}

struct FakeHost {
    does: BTreeMap<ServiceName, Does>,
    inbox: mpsc::UnboundedSender<Input>,
    seen: Arc<Mutex<Seen>>,
    tear_down_errors: Vec<String>,
    /// Services that were added: what their runs execute, for real, and with which streams.
    added: BTreeMap<ServiceName, (ServicePlan, Option<ExecIo>)>,
    /// The processes of added services and of commands.
    processes: Arc<Mutex<BTreeMap<Process, Pid>>>,
    last_exec: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Process {
    Run(ServiceName),
    Exec(u64),
}

impl FakeHost {
    /// Begins a process in a group of its own; `done` is called when it has ended.
    fn spawn(&self, process: Process, mut command: Command, done: impl FnOnce(ExecResult) + Send + 'static) {
        let mut child = match command.process_group(0).spawn() {
            Ok(child) => child,
            Err(error) => {
                let not_found = error.kind() == std::io::ErrorKind::NotFound;
                return done(ExecResult::NotStarted { error: error.to_string(), not_found });
            }
        };
        // It keeps the process's ends open.
        drop(command);
        self.processes.lock().unwrap().insert(process.clone(), Pid::from_child(&child));
        let processes = Arc::clone(&self.processes);
        std::thread::spawn(move || {
            // It is there, so that its number is nobody else's, until it is not in the list any more.
            let gone = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
            rustix::process::waitid(rustix::process::WaitId::Pid(Pid::from_child(&child)), gone).unwrap();
            processes.lock().unwrap().remove(&process);
            let status = child.wait().unwrap();
            let signal = || ExitReason::Signal(status.signal().unwrap());
            done(ExecResult::Ended(status.code().map_or_else(signal, ExitReason::Code)));
        });
    }

    fn kill(&self, process: &Process, signal: Signal) {
        if let Some(pid) = self.processes.lock().unwrap().get(process) {
            rustix::process::kill_process_group(*pid, signal).unwrap();
        }
    }

    /// Starts a run of a service that was added.
    fn start_added(&mut self, service: ServiceName, generation: u64) {
        let (plan, io) = self.added.get_mut(&service).unwrap();
        let io = io.take().unwrap();
        let mut command = Command::new(&plan.run.argv[0]);
        command.args(&plan.run.argv[1..]).env_clear().envs(plan.run.env.clone()).current_dir(&plan.run.cwd);
        command.stdin(io.stdin).stdout(io.stdout).stderr(io.stderr);
        let inbox = self.inbox.clone();
        let of = service.clone();
        self.say(Input::Executed { service: service.clone(), generation, pid: None });
        self.spawn(Process::Run(service), command, move |result| {
            let input = match result {
                ExecResult::Ended(exit) => Input::Exited { service: of, generation, exit, oom: false },
                ExecResult::NotStarted { error, .. } => {
                    Input::StartFailed { service: of, generation, error, hopeless: true }
                }
            };
            // The supervisor has ended.
            let _ = inbox.send(input);
        });
    }

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
    fn update(&mut self, service: ServicePlan, done: Box<dyn FnOnce(Result<(), String>) + Send>) {
        if service.stop.grace == REFUSED_GRACE {
            return done(Err("there is no memory controller".to_owned()));
        }
        self.seen.lock().unwrap().updated.push(service);
        done(Ok(()));
    }

    fn set_external(
        &mut self,
        external: Vec<ExternalPlan>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        if external.iter().any(|external| external.name == name("nowhere")) {
            return done(Err("there is no route".to_owned()));
        }
        self.seen.lock().unwrap().external.push(external);
        done(Ok(()));
    }

    fn set_secrets(&mut self, secrets: BTreeMap<SecretName, Vec<u8>>) {
        self.seen.lock().unwrap().secrets.push(secrets);
    }

    fn submit(&mut self, effect: Effect) {
        assert!(!self.seen.lock().unwrap().torn_down, "{effect:?} after the tear-down");
        match effect {
            Effect::Start { service, generation, .. } if self.added.contains_key(&service) => {
                self.start_added(service, generation);
            }
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
                self.seen.lock().unwrap().signals.push((service.clone(), signal));
                if self.added.contains_key(&service) {
                    return self.kill(&Process::Run(service), Signal::from_named_raw(signal).unwrap());
                }
                if signal != 15 {
                    return;
                }
                if !matches!(self.does[&service], Does::Ignore | Does::Stubborn) {
                    self.end(service, generation, ExitReason::Signal(signal));
                }
            }
            Effect::Kill { service, .. } if self.added.contains_key(&service) => {
                self.kill(&Process::Run(service), Signal::KILL);
            }
            Effect::Kill { service, generation } => self.end(service, generation, ExitReason::Signal(9)),
            Effect::StartBeside { .. }
            | Effect::Switch { .. }
            | Effect::Hold { .. }
            | Effect::Release { .. }
            | Effect::Fingerprint { .. }
            | Effect::Place { .. }
            | Effect::Displace { .. }
            | Effect::Update { .. } => {}
            Effect::RunHook { service, generation, hook } => {
                self.say(Input::HookEnded { service, generation, hook, result: Ok(()) });
            }
            Effect::StartProbe { .. } | Effect::StopProbe { .. } => {}
        }
    }

    fn cancel_exec(&mut self, id: ExecId) {
        self.kill(&Process::Exec(id.0), Signal::KILL);
    }

    fn add(
        &mut self,
        service: ServicePlan,
        io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        self.seen.lock().unwrap().added.push(service.name.clone());
        match io {
            Some(io) => drop(self.added.insert(service.name.clone(), (service, Some(io)))),
            None => drop(self.does.insert(service.name, Does::Run)),
        }
        done(Ok(()));
    }

    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        self.kill(&Process::Run(service.clone()), Signal::KILL);
        self.added.remove(service);
        self.does.remove(service);
        self.seen.lock().unwrap().added.retain(|added| added != service);
        done(Vec::new());
    }

    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        let mut command = Command::new(&spec.argv[0]);
        command.args(&spec.argv[1..]).envs(spec.env).stdin(io.stdin).stdout(io.stdout).stderr(io.stderr);
        if let Some(cwd) = spec.cwd {
            command.current_dir(cwd);
        }
        let seen = Arc::clone(&self.seen);
        self.last_exec += 1;
        self.spawn(Process::Exec(self.last_exec), command, move |result| {
            seen.lock().unwrap().execs.push(result.clone());
            done(result);
        });
        ExecId(self.last_exec)
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        let running = &self.seen.lock().unwrap().running;
        let usage = Usage { memory_bytes: Some(1 << 20), cpu_usec: Some(1234), pids: Some(1) };
        running.keys().map(|service| (service.clone(), usage)).collect()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        let standing = Standing {
            level: Level::Limited,
            missing: vec!["distinct uids".to_owned()],
            undetected: Vec::new(),
        };
        self.does.keys().map(|service| (service.clone(), standing.clone())).collect()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        self.seen.lock().unwrap().torn_down = true;
        for pid in self.processes.lock().unwrap().values() {
            rustix::process::kill_process_group(*pid, Signal::KILL).unwrap();
        }
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
    pub(crate) planner: Option<Box<dyn Planner>>,
    pub(crate) files: Option<MakeFiles>,
    pub(crate) explain_watch: Option<Arc<dyn ExplainWatch>>,
    pub(crate) apply_widening: bool,
    pub(crate) secrets: BTreeMap<SecretName, Vec<u8>>,
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
            planner: None,
            files: None,
            explain_watch: None,
            apply_widening: false,
            secrets: BTreeMap::new(),
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

    /// With a plan that is not quite what the parts say.
    pub(crate) async fn start_planned(plan: Plan, parts: &[Part], options: Options) -> Self {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let (stack, listening) = Self::begin_planned(home, plan, parts, options);
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
        Self::begin_planned(home, plan(parts), parts, options)
    }

    fn begin_planned(
        home: Arc<TempDir>,
        plan: Plan,
        parts: &[Part],
        options: Options,
    ) -> (Self, tokio::sync::oneshot::Receiver<()>) {
        let Acquired::Locked { lock, .. } =
            state_dir::acquire(&Self::runtime(home.path()), &instance()).unwrap()
        else {
            panic!("the instance is busy")
        };
        let state = Self::state(home.path());
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
            added: BTreeMap::new(),
            processes: Arc::default(),
            last_exec: 0,
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
            planner: options.planner,
            files: options.files,
            explain_watch: options.explain_watch,
            plan_files: vec![PathBuf::from("/src/shop/workspace.yaml")],
            secrets: options.secrets,
            apply_widening: options.apply_widening,
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
