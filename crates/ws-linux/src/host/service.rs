//! One service on the host: its launcher, its runs, their probes and hooks, its published ports.
//!
//! A task owns all of it. Commands come in order; what a run's init says and how it ends become inputs of the
//! engine. Every wait has a deadline or ends with the process that is waited for.
//!
//! There is one run, or none; two while one takes the place of the other ([`Effect::StartBeside`] to the end of the old
//! one). Everything that is asked of a run names it by its number; what is asked of the service (`ws exec`, a terminal)
//! goes to the one that has the connections.
//!
//! # Who may connect while there is no run
//!
//! Follows from three facts ([`Service::settle`]): whether connections are held ([`Effect::Hold`]), whether there is a
//! run, and whether one has ended just now and nobody has said yet what follows. The engine hears of an end from us, so
//! between the two there is a moment in which only we know of it; nobody is refused in it.
//!
//! [`Effect::StartBeside`]: ws_core::engine::Effect::StartBeside
//! [`Effect::Hold`]: ws_core::engine::Effect::Hold

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use ws_core::engine::{Generation, Hook, Input, Notified, ProbeRole, Step};
use ws_core::host::{ExecIo, ExecSpec, TerminalDone};
use ws_core::plan::ServicePlan;
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{CommandLine, ExitReason, HookCommand, Probe, ProbeKind, Publish, ServiceKind, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::process;
use ws_sys::scm::{self, Channel};

use super::listening::{Listening, PROBE_TOS, Source};
use super::mounts::{self, Listing};
use super::notices::Listener;
use super::{Secrets, Shared, bind_port, ears, published, secrets};
use crate::cgroups::ServiceGroup;
use crate::detect::decoys::Again;
use crate::detect::{Detectors, OfRun};
use crate::probes::{self, BoxFuture, ExecProbe, LogMatched, LogMatcher, Means, Prober};
use crate::publish::{Publisher, TargetState};
use crate::pump::Pump;
use crate::sandbox::layout::{self, RunContext, Slot};
use crate::sandbox::protocol::{
    self, End, EntryKind, Failure, FromInit, Reply, SourceRequest, Stage, Streams, ToInit, ToLauncher,
};

/// How long a run may take from the request to the execution of its program, beside the commands that run before it.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How long a launcher may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long the output of a run may take to arrive after its last process has ended.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// How long after the end of its run a service counts as one that may be started again, unless it is said what follows.
/// The engine says so at once; this is for a machine that is busy with something else.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// How long the handshakes may take that had begun when connections were given to another run. They are among
/// processes of one machine.
const HANDSHAKES_WITHIN: Duration = Duration::from_millis(10);

/// How long the old run may take to accept what waits for it, until the new one gets that too.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How many mounts go with one message to a launcher.
const MOUNTS_PER_MESSAGE: usize = 200;

type ExecDone = Box<dyn FnOnce(ExecResult) + Send>;
type UpdateDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the host asks of a service's task.
pub(super) enum Command {
    Start {
        generation: Generation,
        step: Step,
    },
    StartBeside {
        generation: Generation,
    },
    Switch {
        generation: Generation,
    },
    Hold,
    Release,
    Update {
        plan: Box<ServicePlan>,
        done: UpdateDone,
    },
    Signal {
        generation: Generation,
        signal: i32,
    },
    Kill {
        generation: Generation,
    },
    StartProbe {
        generation: Generation,
        probe: ProbeRole,
    },
    StopProbe {
        generation: Generation,
        probe: ProbeRole,
    },
    RunHook {
        generation: Generation,
        hook: Hook,
    },
    /// `id` is unique among the execs of all services.
    Exec {
        id: u64,
        spec: ExecSpec,
        io: ExecIo,
        done: ExecDone,
    },
    /// As `Exec`, for what belongs to one run: in no other one.
    ExecIn {
        generation: Generation,
        id: u64,
        argv: Vec<String>,
        io: ExecIo,
        done: ExecDone,
    },
    KillExec {
        id: u64,
    },
    /// Watch a decoy of a run again.
    Arm {
        generation: Generation,
        decoy: usize,
    },
    /// Make a terminal that has a name inside.
    Terminal {
        done: TerminalDone,
    },
}

impl Command {
    /// Answers it where there is no such service (any more).
    pub(super) fn refuse(self, service: &ServiceName) {
        let gone = format!("there is no service `{service}`");
        match self {
            Self::Update { done, .. } => done(Err(gone)),
            Self::Exec { done, .. } | Self::ExecIn { done, .. } => {
                done(ExecResult::NotStarted { error: gone, not_found: false });
            }
            Self::Terminal { done } => done(Err(gone)),
            // What is not answered, or by the end of a run, of which there is none.
            Self::Start { .. }
            | Self::StartBeside { .. }
            | Self::Switch { .. }
            | Self::Hold
            | Self::Release
            | Self::Signal { .. }
            | Self::Kill { .. }
            | Self::StartProbe { .. }
            | Self::StopProbe { .. }
            | Self::RunHook { .. }
            | Self::Arm { .. }
            | Self::KillExec { .. } => {}
        }
    }
}

/// A service's task.
pub(super) struct Service {
    shared: Arc<Shared>,
    plan: ServicePlan,
    launcher: Readable,
    launcher_ended: Readable,
    /// Its network namespace.
    namespace: OwnedFd,
    group: Option<Arc<ServiceGroup>>,
    /// As they were at the last start.
    secrets: Secrets,
    publishers: Vec<Publisher>,
    /// The listening sockets that get new connections. None while it is stopped.
    listening: Option<Arc<Listening>>,
    /// Whether connections are to wait.
    held: bool,
    /// Until when it may be started again though nobody has said so; before the first start without an end.
    unsettled: Unsettled,
    /// The streams of its one run, where they are somebody's own; until that has started.
    io: Option<ExecIo>,
    /// Whether they ever were.
    given: bool,
    slots: Vec<(Slot, Option<(u64, u64)>)>,
    listing: Option<Listing>,
    /// In the order of their starts.
    runs: Vec<Run>,
    /// The run that has the connections.
    current: Option<Generation>,
    /// When the last run had ended: the beginning of what a restart costs.
    ended_at: Option<Instant>,
    /// The way back to this task, for what runs beside it. Weak: the host alone keeps the task alive.
    commands: mpsc::WeakUnboundedSender<Command>,
    detectors: Detectors,
    /// Set when the launcher has ended: nothing of this service can start any more.
    broken: Option<Failure>,
}

/// What is known of what follows while there is no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsettled {
    /// It was never started.
    New,
    /// Its run has ended just now.
    Until(Instant),
    /// Nothing does.
    Settled,
}

/// A run.
struct Run {
    generation: Generation,
    step: Step,
    /// Another run has its place: it is to end.
    superseded: bool,
    /// The listening sockets that go with it: those of a run beside another, and of one that is superseded.
    listening: Option<Arc<Listening>>,
    /// What its probes say of themselves: see [`Means::tos`].
    tos: Arc<AtomicU8>,
    init: Readable,
    control: Readable,
    main: Option<OwnedFd>,
    failure: Option<Failure>,
    exit: Option<ExitReason>,
    deadline: Option<Instant>,
    probers: BTreeMap<ProbeRole, Prober>,
    matched: BTreeMap<ProbeRole, LogMatched>,
    /// For the output of a terminal, which comes later than the run.
    matchers: Vec<LogMatcher>,
    pumps: Vec<Pump>,
    /// Where the output of hooks goes too: standard output and error of the run, while it may have hooks to run.
    outputs: Option<(OwnedFd, OwnedFd)>,
    /// What runs the commands of hooks.
    hooks: Vec<HookTask>,
    notices: Option<Listener>,
    execs: BTreeMap<u64, ExecDone>,
    terminals: BTreeMap<u64, TerminalDone>,
    /// Init has closed its end of the channel.
    silent: bool,
    detect: OfRun,
}

/// Runs the commands of a hook; dropping it gives up the one that runs, which is then killed.
struct HookTask(tokio::task::JoinHandle<()>);

impl Drop for HookTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task waits for.
enum News {
    Command(Option<Command>),
    Of(Generation, RunNews),
    LauncherEnded,
    Settled,
}

/// What happens to a run.
enum RunNews {
    Said(io::Result<scm::Message>),
    Ended,
    TooLate,
}

impl Run {
    async fn next(&mut self) -> RunNews {
        let deadline = at(self.deadline);
        tokio::select! {
            // What init said before it ended comes before its end.
            biased;
            message = self.control.read_with(scm::try_recv_on), if !self.silent => RunNews::Said(message),
            _ = self.init.readable() => RunNews::Ended,
            () = deadline => RunNews::TooLate,
        }
    }
}

/// Waits until then; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Service {
    #[expect(
        clippy::too_many_arguments,
        reason = "what a service owns, each once, handed over by its one caller"
    )]
    pub(super) fn new(
        shared: Arc<Shared>,
        plan: ServicePlan,
        launcher: Channel,
        launcher_ended: OwnedFd,
        namespace: OwnedFd,
        group: Option<Arc<ServiceGroup>>,
        publishers: Vec<Publisher>,
        io: Option<ExecIo>,
        commands: mpsc::WeakUnboundedSender<Command>,
        detectors: Detectors,
    ) -> io::Result<Self> {
        let slots = layout::slots(&plan.view, &shared.root, &shared.volumes);
        Ok(Self {
            shared,
            plan,
            launcher: Readable::new(launcher.into_fd())?,
            launcher_ended: Readable::new(launcher_ended)?,
            namespace,
            group,
            secrets: Secrets::default(),
            publishers,
            listening: None,
            held: false,
            unsettled: Unsettled::New,
            given: io.is_some(),
            io,
            slots: slots.into_iter().map(|slot| (slot, None)).collect(),
            listing: None,
            runs: Vec::new(),
            current: None,
            ended_at: None,
            commands,
            detectors,
            broken: None,
        })
    }

    /// Works until the host lets go of `commands`, then kills what is left.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            match self.next(&mut commands).await {
                News::Command(Some(command)) => self.obey(command).await,
                News::Command(None) => break,
                News::Of(generation, RunNews::Said(message)) => self.heard(generation, message),
                News::Of(generation, RunNews::Ended) => self.ended(generation).await,
                News::LauncherEnded => self.launcher_died(),
                News::Of(generation, RunNews::TooLate) => {
                    let within = self.start_within().as_secs();
                    let failure = Failure::because("starting", format!("it took longer than {within} s"));
                    self.fail_run(generation, failure);
                    self.kill_run(generation);
                }
                News::Settled => {
                    self.unsettled = Unsettled::Settled;
                    self.settle();
                }
            }
        }
        self.runs.iter().for_each(|run| self.kill(run));
        while let Some(run) = self.runs.first_mut() {
            let generation = run.generation;
            if run.init.readable().await.is_err() {
                break;
            }
            self.ended(generation).await;
        }
        for publisher in self.publishers {
            // Whoever publishes the same port next must find it free.
            publisher.close().await;
        }
        let _ = process::pidfd_signal(self.launcher_ended.as_fd(), nix::libc::SIGKILL);
        let _ = self.launcher_ended.readable().await;
        let _ = process::reap_pidfd(self.launcher_ended.as_fd());
    }

    async fn next(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> News {
        let runs = self.runs.iter_mut().map(|run| Box::pin(async { (run.generation, run.next().await) }));
        let runs: Vec<_> = runs.collect();
        let of_runs = async {
            match runs.is_empty() {
                true => std::future::pending().await,
                false => select_all(runs).await.0,
            }
        };
        let settled = match self.unsettled {
            Unsettled::Until(moment) => Some(moment),
            Unsettled::New | Unsettled::Settled => None,
        };
        tokio::select! {
            biased;
            (generation, news) = of_runs => News::Of(generation, news),
            _ = self.launcher_ended.readable(), if self.broken.is_none() => News::LauncherEnded,
            command = commands.recv() => News::Command(command),
            () = at(settled) => News::Settled,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { generation, step } => {
                if let Err(failure) = self.start(generation, step, false).await {
                    if self.runs.is_empty() {
                        self.unsettled = Unsettled::Until(Instant::now() + SETTLES_WITHIN);
                        self.settle();
                    }
                    self.tell_start_failed(generation, &failure);
                }
                if self.runs.len() > 1 {
                    self.share_limits();
                }
            }
            Command::StartBeside { generation } => {
                if let Err(failure) = self.start(generation, Step::Main, true).await {
                    self.tell_start_failed(generation, &failure);
                }
                self.share_limits();
            }
            Command::Switch { generation } => self.switch(generation),
            Command::Hold => {
                self.held = true;
                self.settle();
            }
            Command::Release => {
                self.held = false;
                self.unsettled = Unsettled::Settled;
                self.settle();
            }
            Command::Update { plan, done } => {
                let result = self.update(*plan).await;
                done(result);
            }
            Command::Signal { generation, signal } => {
                if let Some(main) = self.run_of(generation).and_then(|run| run.main.as_ref())
                    && let Err(error) = process::pidfd_signal(main.as_fd(), signal)
                {
                    tracing::warn!(service = %self.plan.name, signal, %error, "sending a signal");
                }
            }
            Command::Kill { generation } => {
                self.kill_run(generation);
            }
            Command::StartProbe { generation, probe } => self.start_probe(generation, probe),
            Command::StopProbe { generation, probe } => {
                if let Some(run) = self.run_of_mut(generation) {
                    run.probers.remove(&probe);
                }
            }
            Command::RunHook { generation, hook } => self.run_hook(generation, hook),
            Command::Exec { id, spec, io, done } => {
                self.exec(self.of_the_service(), true, id, spec, &io, done);
            }
            Command::ExecIn { generation, id, argv, io, done } => {
                if self.run_of(generation).is_some() {
                    let spec = ExecSpec {
                        service: self.plan.name.clone(),
                        argv,
                        env: vec![],
                        cwd: None,
                        tty: false,
                    };
                    self.exec(Some(generation), false, id, spec, &io, done);
                } else {
                    done(ExecResult::NotStarted {
                        error: format!("that run of {} is over", self.plan.name),
                        not_found: false,
                    });
                }
            }
            Command::Terminal { done } => self.make_terminal(done),
            Command::Arm { generation, decoy } => {
                if let Some(run) = self.run_of(generation) {
                    // When init is gone, so are its decoys.
                    let _ = protocol::send(run.control.as_fd(), &ToInit::Arm { decoy }, &[]);
                }
            }
            Command::KillExec { id } => {
                if let Some(run) = self.runs.iter().find(|run| run.execs.contains_key(&id)) {
                    // When init is gone, so is what it was to kill.
                    let _ = protocol::send(run.control.as_fd(), &ToInit::Kill { id }, &[]);
                }
            }
        }
    }

    fn run_of(&self, generation: Generation) -> Option<&Run> {
        self.runs.iter().find(|run| run.generation == generation)
    }

    fn run_of_mut(&mut self, generation: Generation) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.generation == generation)
    }

    /// The run that what is asked of the service goes to: the one that has the connections, else one that works.
    fn of_the_service(&self) -> Option<Generation> {
        let works = |run: &&Run| run.main.is_some() && run.step == Step::Main;
        let current = self.current.and_then(|generation| self.run_of(generation)).filter(works);
        current.or_else(|| self.runs.iter().rev().find(works)).map(|run| run.generation)
    }

    fn tell(&self, input: Input) {
        (self.shared.inbox)(input);
    }

    fn tell_start_failed(&self, generation: Generation, failure: &Failure) {
        let service = self.plan.name.clone();
        // Without its program or its launcher no further try can succeed; nor without the streams that somebody gave
        // it once.
        let hopeless = failure.lasting || self.broken.is_some() || (self.given && self.io.is_none());
        self.tell(Input::StartFailed { service, generation, error: failure.to_string(), hopeless });
    }

    /// Asks the launcher; its answer has a deadline, and what comes with it is returned.
    async fn ask(
        launcher: &Readable,
        request: &ToLauncher,
        fds: &[OwnedFd],
    ) -> Result<Vec<OwnedFd>, Failure> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        protocol::send(launcher.as_fd(), request, &fds).stage("asking the launcher")?;
        let hear = "hearing from the launcher";
        let message = tokio::time::timeout(ANSWER_WITHIN, launcher.read_with(scm::try_recv_on))
            .await
            .map_err(|_| Failure::because(hear, "it does not answer"))?
            .stage(hear)?;
        match protocol::decode::<Reply>(message).stage(hear)? {
            (Reply::Done, fds) => Ok(fds),
            (Reply::Failed(failure), _) => Err(failure),
        }
    }

    /// `beside`: another run goes on, and keeps the connections.
    async fn start(&mut self, generation: Generation, step: Step, beside: bool) -> Result<(), Failure> {
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        let present = self.runs.iter().filter(|run| !run.superseded).count();
        if present > usize::from(beside) {
            return Err(Failure::because("starting", "the run before it has not ended"));
        }
        if !beside {
            // Before anything that takes a moment, and whether or not it succeeds: what follows is said now.
            self.unsettled = Unsettled::Settled;
        }
        self.secrets =
            secrets(&self.shared, &self.plan).map_err(|error| Failure::because("starting", chain(&error)))?;
        self.refresh_mounts().await?;
        if let Some(group) = &self.group {
            let entered = match beside {
                true => group.share(2),
                false => group.enter(step),
            };
            entered.map_err(|error| Failure::because("setting limits", chain(&error)))?;
        }
        let listening = match step {
            Step::Main => self.listen_for(beside)?,
            Step::Build => None,
        };
        let passed = listening.as_ref().map_or(Ok(Vec::new()), |listening| listening.ready())?;
        let cgroup = match &self.group {
            Some(group) => {
                group.dir_fd().map_err(|error| Failure::because("opening the cgroup", chain(&error)))?
            }
            None => None,
        };
        let (ours, theirs) = Channel::pair().stage("making a channel to init")?;
        let ours = Readable::new(ours.into_fd()).stage("registering the channel to init")?;
        let program = match step {
            Step::Build => self.plan.build.as_ref().unwrap_or(&self.plan.run),
            Step::Main => &self.plan.run,
        };
        let context = RunContext {
            rootless: self.shared.rootless,
            secret_files: &self.secrets.files,
            secret_env: &self.secrets.env,
            cgroup: cgroup.is_some(),
            pids_by_cgroup: self.shared.pids_by_cgroup,
            main: step == Step::Main,
            given: self.given,
        };
        let spec = layout::run_spec(&self.plan, program, context);
        let mut fds = vec![theirs.into_fd()];
        let mut outputs = None;
        let mut pipes = Vec::new();
        match spec.streams {
            Streams::Output { .. } => {
                let streams = match (step, self.plan.kind) {
                    (Step::Build, _) | (Step::Main, ServiceKind::Build) => {
                        [LogStream::Build, LogStream::Build]
                    }
                    (Step::Main, ServiceKind::Service | ServiceKind::Task) => {
                        [LogStream::Stdout, LogStream::Stderr]
                    }
                };
                for stream in streams {
                    let (reader, writer) = io::pipe().stage("making a pipe for the output")?;
                    pipes.push((stream, OwnedFd::from(reader)));
                    fds.push(writer.into());
                }
                if let [_, stdout, stderr] = fds.as_slice() {
                    outputs = self.outputs_of_hooks(step, stdout, stderr)?;
                }
            }
            Streams::Given { tty } => {
                let over = || Failure::because("starting", "what was to be its input and output is used up");
                let ExecIo { stdin, stdout, stderr } = self.io.take().ok_or_else(over)?;
                if tty {
                    self.hand_over_terminal(&stdin);
                }
                outputs = self.outputs_of_hooks(step, &stdout, &stderr)?;
                fds.extend([stdin, stdout, stderr]);
            }
            Streams::Terminal => {}
        }
        fds.extend(cgroup);
        fds.extend(passed);
        if !spec.decoys.is_empty() {
            fds.push(self.detectors.decoy_watcher().stage("watching its decoys")?);
        }
        let on_terminal = spec.streams == Streams::Terminal;
        // From here on it is this run's: nothing of the one before is left.
        let detect = self.detectors.begin(generation, &self.plan, self.group.as_ref());
        let asked = Self::ask(&self.launcher, &ToLauncher::Start(Box::new(spec)), &fds).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(failure) => {
                self.detectors.end(detect);
                return Err(failure);
            }
        };
        drop(fds);
        let init = answer.into_iter().next();
        let init = init.ok_or_else(|| Failure::because("starting", "the launcher gave no process"))?;
        let init = Readable::new(init).stage("registering init")?;

        let mut matched = BTreeMap::new();
        let mut matchers = Vec::new();
        for role in [ProbeRole::Startup, ProbeRole::Ready] {
            if let (Some(Probe { kind: ProbeKind::Log { pattern }, .. }), Step::Main) =
                (self.probe(role), step)
            {
                let (matcher, seen) = probes::log_match(pattern)
                    .map_err(|error| Failure::because("compiling the log probe", error.to_string()))?;
                matched.insert(role, seen);
                matchers.push(matcher);
            }
        }
        let mut pumps = Vec::new();
        for (stream, pipe) in pipes {
            let sink = detect.measured(&self.shared.logs);
            let pump = Pump::start(self.plan.name.clone(), stream, pipe, sink, matchers.clone());
            pumps.push(pump.stage("reading the output")?);
        }
        if !on_terminal {
            // Those of the pumps tell when the output has ended.
            matchers.clear();
        }
        let (of_it, tos) = match beside {
            true => (listening, PROBE_TOS),
            false => {
                self.current = Some(generation);
                (None, 0)
            }
        };
        self.runs.push(Run {
            generation,
            step,
            superseded: false,
            listening: of_it,
            tos: Arc::new(AtomicU8::new(tos)),
            init,
            control: ours,
            main: None,
            failure: None,
            exit: None,
            // One beyond all time is none.
            deadline: Instant::now().checked_add(self.start_within()),
            probers: BTreeMap::new(),
            matched,
            matchers,
            pumps,
            outputs,
            hooks: Vec::new(),
            notices: None,
            execs: BTreeMap::new(),
            terminals: BTreeMap::new(),
            silent: false,
            detect,
        });
        self.settle();
        Ok(())
    }

    /// The listening sockets of a run that is about to start. Those that are held already, unless it is to run beside
    /// another one.
    fn listen_for(&mut self, beside: bool) -> Result<Option<Arc<Listening>>, Failure> {
        let source = Source { spawner: &self.shared.spawner, namespace: self.namespace.as_fd() };
        if self.plan.listen.is_empty() && !beside {
            self.listening = None;
            return Ok(None);
        }
        if beside {
            // One that was taken over from is in the way of the next: it has had its time.
            for run in self.runs.iter_mut().filter(|run| run.superseded) {
                if let Some(old) = run.listening.take() {
                    old.shut();
                }
            }
            let beside = Listening::beside(source, &self.plan.listen, self.listening.as_deref())?;
            // What was beside another until now is the one that goes on.
            self.runs.iter().for_each(|run| run.tos.store(0, Ordering::Relaxed));
            return Ok(Some(Arc::new(beside)));
        }
        let kept = self.listening.as_deref();
        let same = kept.is_some_and(|kept| kept.is_of(&self.plan.listen) && kept.restore());
        if !same {
            let opened = Listening::open(source, &self.plan.listen, kept)?;
            self.listening = Some(Arc::new(opened));
        }
        Ok(self.listening.clone())
    }

    /// Gives all new connections to a run that was started beside another.
    fn switch(&mut self, generation: Generation) {
        let told = Input::Switched { service: self.plan.name.clone(), generation };
        if self.current == Some(generation) {
            return self.tell(told);
        }
        // One that has ended is told by its end.
        let Some(run) = self.run_of_mut(generation) else { return };
        let new = run.listening.take();
        if let Some(new) = &new
            && let Err(error) = new.take_over()
        {
            // It has its sockets all the same, and gets everything when the old ones are closed.
            tracing::warn!(service = %self.plan.name, %error, "giving connections to the new run");
        }
        let old = std::mem::replace(&mut self.listening, new);
        let waiting = old.as_ref().map_or_else(Weak::new, Arc::downgrade);
        for run in &mut self.runs {
            // Probes of the old one would find the new one.
            run.tos.store(0, Ordering::Relaxed);
            run.superseded |= run.generation != generation;
        }
        let before = self.current.replace(generation);
        // Without a run that accepts what waits, the sockets go now, and the others get it.
        if let Some(run) = self.runs.iter_mut().find(|run| Some(run.generation) == before) {
            run.listening = old;
        }
        self.settle();
        let inbox = Arc::clone(&self.shared.inbox);
        tokio::spawn(async move {
            accepted(waiting).await;
            inbox(told);
        });
    }

    /// Sets the limits to the number of runs that there are.
    fn share_limits(&self) {
        let Some(group) = &self.group else { return };
        if self.runs.iter().any(|run| run.step == Step::Build) {
            return;
        }
        let runs = u64::try_from(self.runs.len()).unwrap_or(u64::MAX).max(1);
        if let Err(error) = group.share(runs) {
            tracing::warn!(service = %self.plan.name, error = %chain(&error), "setting limits");
        }
    }

    /// Makes of what is known now who may connect, and who waits.
    fn settle(&mut self) {
        let works = |run: &Run| run.main.is_some() && run.step == Step::Main;
        let unsettled = match self.unsettled {
            Unsettled::New | Unsettled::Until(_) => true,
            Unsettled::Settled => false,
        };
        let target = if self.held {
            TargetState::Restarting
        } else if self.runs.iter().any(works) {
            TargetState::Up
        } else if unsettled || !self.runs.is_empty() {
            TargetState::Restarting
        } else {
            TargetState::Down
        };
        if target == TargetState::Down {
            self.listening = None;
        }
        for publisher in &self.publishers {
            // Where we listen, they wait in the kernel.
            let queued = self.listening.as_ref().is_some_and(|of| of.has(publisher.publish().port));
            publisher.set_target_state(if queued { TargetState::Up } else { target });
        }
    }

    /// Carries out that the plan is another; after an error everything is as it was.
    async fn update(&mut self, plan: ServicePlan) -> Result<(), String> {
        let place = |plan: &ServicePlan| (plan.index, plan.address, plan.mac);
        if place(&plan) != place(&self.plan) {
            return Err(format!("{} would be in another place, which needs a new one", plan.name));
        }
        // What can be refused comes first, in the order of how likely it is.
        let mut change = PortChange::default();
        let bound = self.change_ports(&plan, &mut change);
        let done = match bound {
            Ok(()) => self.change_place(&plan).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            for (at, publish) in change.led.into_iter().rev() {
                if let Some(publisher) = self.publishers.get_mut(at) {
                    publisher.lead_to(publish);
                }
            }
            for publisher in change.new {
                publisher.close().await;
            }
            return Err(error);
        }
        for publisher in change.new.iter().chain(&self.publishers) {
            publisher.set_hold(plan.hold);
        }
        for (at, _) in change.led {
            if let Some(publisher) = self.publishers.get(at) {
                self.tell(published(&self.plan.name, publisher));
            }
        }
        let all = std::mem::take(&mut self.publishers).into_iter().enumerate();
        for (at, publisher) in all {
            if change.gone.contains(&at) {
                publisher.close().await;
            } else {
                self.publishers.push(publisher);
            }
        }
        for publisher in change.new {
            self.tell(published(&self.plan.name, &publisher));
            self.publishers.push(publisher);
        }
        // What is denied is denied all the same.
        if let Err(error) = self.detectors.update(&plan, || ears(&self.shared, &plan.name)) {
            tracing::warn!(service = %plan.name, %error, "what it tries on its network is not seen");
        }
        let executions = layout::executions(&plan.policy);
        if executions != layout::executions(&self.plan.policy) {
            // No longer looked for: everything may be.
            let any = protocol::Executions { allowed: vec!["/*".to_owned()], refuse: false };
            let request = ToInit::Executions(executions.unwrap_or(any));
            for run in &self.runs {
                // When init is gone, nothing is executed any more.
                let _ = protocol::send(run.control.as_fd(), &request, &[]);
            }
        }
        self.plan = plan;
        self.settle();
        Ok(())
    }

    /// Binds the published ports that come.
    fn change_ports(&mut self, plan: &ServicePlan, change: &mut PortChange) -> Result<(), String> {
        let mut free: Vec<usize> = (0..self.publishers.len()).collect();
        let mut come = Vec::new();
        for wanted in &plan.publish {
            match free.iter().position(|at| self.publishers[*at].publish() == wanted) {
                Some(same) => drop(free.remove(same)),
                None => come.push(wanted),
            }
        }
        for wanted in come {
            // The same port of the host for another one of the service: it is never without a listener.
            let same_host = |at: &usize| {
                let now = self.publishers[*at].publish();
                now.host == wanted.host
                    && now.host_port.is_some()
                    && now.host_port == wanted.host_port
                    && now.protocol == wanted.protocol
            };
            if let Some(taken) = free.iter().position(same_host) {
                let at = free.remove(taken);
                change.led.push((at, self.publishers[at].publish().clone()));
                self.publishers[at].lead_to(wanted.clone());
                continue;
            }
            let mut publisher = bind_port(plan, wanted).map_err(|error| chain(&error))?;
            let served = publisher.serve(Arc::clone(&self.shared.dial));
            change.new.push(publisher);
            served.map_err(|error| format!("registering a published port: {error}"))?;
        }
        change.gone = free;
        Ok(())
    }

    /// Changes limits, links and files.
    async fn change_place(&mut self, plan: &ServicePlan) -> Result<(), String> {
        if let Some(group) = &self.group {
            group.change(&plan.limits).map_err(|error| chain(&error))?;
        }
        let other_links = plan.links != self.plan.links;
        let mut done = Ok(());
        if other_links {
            done = change_links(&self.shared, plan).await;
        }
        if done.is_ok() {
            done = self.change_files(plan).await;
            if done.is_err()
                && other_links
                && let Err(error) = change_links(&self.shared, &self.plan).await
            {
                tracing::warn!(service = %self.plan.name, %error, "taking back a change of links");
            }
        }
        if done.is_err()
            && let Some(group) = &self.group
            && let Err(error) = group.change(&self.plan.limits)
        {
            tracing::warn!(service = %self.plan.name, error = %chain(&error), "taking back a change of limits");
        }
        done
    }

    /// Replaces the files of the template that are others, for the runs that there are as well.
    async fn change_files(&mut self, plan: &ServicePlan) -> Result<(), String> {
        let old = &self.plan.view.files;
        let other = plan.view.files.iter().filter(|file| !old.contains(file));
        let files: Vec<_> = other.map(|(path, contents)| (path.clone(), contents.to_string())).collect();
        if files.is_empty() {
            return Ok(());
        }
        let asked = Self::ask(&self.launcher, &ToLauncher::Files(files), &[]).await;
        asked.map(drop).map_err(|failure| failure.to_string())
    }

    /// How long the start of a run may take.
    fn start_within(&self) -> Duration {
        let hooks = self.plan.hooks.pre_start.iter().map(|hook| hook.timeout);
        hooks.fold(START_WITHIN, Duration::saturating_add)
    }

    fn probe(&self, role: ProbeRole) -> Option<&Probe> {
        match role {
            ProbeRole::Startup => self.plan.startup.as_ref(),
            ProbeRole::Ready => self.plan.ready.as_ref(),
            ProbeRole::Live => self.plan.liveness.as_ref(),
        }
    }

    /// The run's own output once more, for hooks that run beside its program; if there are any, since whoever has it
    /// open keeps it from ending.
    fn outputs_of_hooks(
        &self,
        step: Step,
        stdout: &OwnedFd,
        stderr: &OwnedFd,
    ) -> Result<Option<(OwnedFd, OwnedFd)>, Failure> {
        let hooks = &self.plan.hooks;
        let any =
            !hooks.post_start.is_empty() || !hooks.pre_stop.is_empty() || self.plan.stop.command.is_some();
        if step == Step::Build || !any {
            return Ok(None);
        }
        let stage = "keeping the output open for hooks";
        Ok(Some((stdout.try_clone().stage(stage)?, stderr.try_clone().stage(stage)?)))
    }

    /// Lets the service's user have a terminal that was made by the supervisor's: what opens it by name (`/dev/tty`,
    /// `/proc/self/fd/0`) must be let in too.
    fn hand_over_terminal(&self, terminal: &OwnedFd) {
        let Some(uid) = self.shared.host_uid(&self.plan) else { return };
        if let Err(error) = rustix::fs::fchown(terminal, Some(rustix::fs::Uid::from_raw(uid)), None) {
            tracing::debug!(service = %self.plan.name, %error, "handing over the terminal");
        }
    }

    /// Gives the launcher what the host has replaced since the last run, and everything the first time.
    async fn refresh_mounts(&mut self) -> Result<(), Failure> {
        let ids = layout::outer_ids(&self.plan, self.shared.rootless);
        for number in 0..self.slots.len() {
            let Some((slot, known)) = self.slots.get(number).cloned() else { break };
            let now = mounts::identity(&slot.source.path);
            if now.is_some() && now == known {
                continue;
            }
            let tree = self.shared.opener.open(slot.source.clone(), slot.owner_mapped.then_some(ids))?;
            let request = ToLauncher::Source { slot: number, directory: slot.directory };
            Self::ask(&self.launcher, &request, &[tree]).await?;
            if let Some((_, known)) = self.slots.get_mut(number) {
                *known = now;
            }
        }
        let Some(repo) = self.plan.view.repo.clone() else { return Ok(()) };
        let listing = mounts::list(&repo, &layout::left_out(&self.plan.view))?;
        if self.listing.as_ref() == Some(&listing) {
            return Ok(());
        }
        self.listing = None;
        let parts: Vec<_> = listing.chunks(MOUNTS_PER_MESSAGE).collect();
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.iter().enumerate() {
            let mut trees = Vec::new();
            for (entry, _) in *part {
                match entry.kind {
                    EntryKind::Symlink(_) | EntryKind::Place => {}
                    EntryKind::Directory | EntryKind::File => {
                        let request = SourceRequest {
                            path: repo.root.join(&entry.name),
                            beneath: Some(repo.root.clone()),
                            writable: false,
                            device: false,
                            create: false,
                        };
                        trees.push(self.shared.opener.open(request, Some(ids))?);
                    }
                }
            }
            let entries = part.iter().map(|(entry, _)| entry.clone()).collect();
            Self::ask(
                &self.launcher,
                &ToLauncher::Repo { first: number == 0, last: number == last, entries },
                &trees,
            )
            .await?;
        }
        if parts.is_empty() {
            Self::ask(&self.launcher, &ToLauncher::Repo { first: true, last: true, entries: vec![] }, &[])
                .await?;
        }
        self.listing = Some(listing);
        Ok(())
    }

    /// The init of a run said something.
    fn heard(&mut self, generation: Generation, message: io::Result<scm::Message>) {
        let Some(run) = self.runs.iter_mut().find(|run| run.generation == generation) else { return };
        let (news, fds) = match message.and_then(protocol::decode::<FromInit>) {
            Ok(news) => news,
            // Its end is closed: it ends, which its pidfd tells.
            Err(_) => {
                run.silent = true;
                return;
            }
        };
        match news {
            FromInit::Failed(failure) => run.failure = Some(failure),
            FromInit::Executed { landlock } if landlock < self.shared.landlock => {
                // The level was told before the start; less than it is no start.
                let failure =
                    Failure::because("restricting by Landlock", "the kernel enforces less than it said");
                self.fail_run(generation, failure);
                self.kill_run(generation);
            }
            FromInit::Executed { landlock: _ } => {
                run.deadline = None;
                let mut fds = fds.into_iter();
                run.main = fds.next();
                let notices = fds.next();
                let pid = run.main.as_ref().and_then(|main| process::pid_of(main.as_fd()).ok().flatten());
                if let Some(ended) = self.ended_at {
                    let since_end_us = u64::try_from(ended.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tracing::debug!(service = %self.plan.name, generation, since_end_us, "executed again");
                }
                self.settle();
                self.tell(Input::Executed { service: self.plan.name.clone(), generation, pid });
                // Not before that: nothing of a run is told before its start.
                if let Some(socket) = notices {
                    self.listen(socket, generation);
                }
            }
            FromInit::Armed(armed) => {
                let (generation, commands) = (run.generation, self.commands.clone());
                let again: Again = Arc::new(move |decoy| {
                    if let Some(commands) = commands.upgrade() {
                        let _ = commands.send(Command::Arm { generation, decoy });
                    }
                });
                self.detectors.armed(generation, &self.plan, armed, &again);
            }
            FromInit::Tripped(trip) => {
                let caller = fds.into_iter().next();
                self.detectors.tripped(run.generation, &self.plan.policy, trip, caller);
            }
            FromInit::Exited(end) => run.exit = Some(reason(end)),
            FromInit::Terminal { id: None } => {
                if let Err(failure) = self.read_terminal(generation, fds) {
                    self.fail_run(generation, failure);
                    self.kill_run(generation);
                }
            }
            FromInit::Terminal { id: Some(id) } => {
                if let Some(done) = run.terminals.remove(&id) {
                    done(both(fds).ok_or_else(|| "init gave no terminal".to_owned()));
                }
            }
            FromInit::NoTerminal { id, failure } => {
                if let Some(done) = run.terminals.remove(&id) {
                    done(Err(failure.to_string()));
                }
            }
            FromInit::ExecStarted { id: _ } => {}
            FromInit::ExecFailed { id, failure } => {
                if let Some(done) = run.execs.remove(&id) {
                    let not_found = failure.errno == Some(nix::libc::ENOENT);
                    done(ExecResult::NotStarted { error: failure.to_string(), not_found });
                }
            }
            FromInit::ExecEnded { id, end } => {
                if let Some(done) = run.execs.remove(&id) {
                    done(ExecResult::Ended(reason(end)));
                }
            }
        }
    }

    /// Begins to hear what a run says of itself.
    fn listen(&mut self, socket: OwnedFd, generation: Generation) {
        let (service, inbox) = (self.plan.name.clone(), Arc::clone(&self.shared.inbox));
        let tell = move |news: Notified| {
            inbox(Input::Notified { service: service.clone(), generation, news });
        };
        match (Listener::start(socket, tell), self.run_of_mut(generation)) {
            (Ok(listener), Some(run)) => run.notices = Some(listener),
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::warn!(service = %self.plan.name, %error, "listening to what it says of itself");
            }
        }
    }

    /// The terminal of a run is there: what is written to it is its standard output.
    fn read_terminal(&mut self, generation: Generation, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let (ours, theirs) =
            both(fds).ok_or_else(|| Failure::because("starting", "init gave no terminal"))?;
        let outputs = self.outputs_of_hooks(Step::Main, &theirs, &theirs)?;
        drop(theirs);
        let Some(run) = self.runs.iter_mut().find(|run| run.generation == generation) else { return Ok(()) };
        run.outputs = outputs;
        let sink = run.detect.measured(&self.shared.logs);
        let matchers = std::mem::take(&mut run.matchers);
        let pump = Pump::start_terminal(self.plan.name.clone(), LogStream::Stdout, ours, sink, matchers);
        run.pumps.push(pump.stage("reading the terminal")?);
        Ok(())
    }

    fn fail_run(&mut self, generation: Generation, failure: Failure) {
        if let Some(run) = self.run_of_mut(generation) {
            run.failure.get_or_insert(failure);
            run.deadline = None;
        }
    }

    fn kill_run(&self, generation: Generation) {
        if let Some(run) = self.run_of(generation) {
            self.kill(run);
        }
    }

    fn kill(&self, run: &Run) {
        // With process 1 the kernel kills the whole pid namespace. Not by `cgroup.kill` as well: since Linux 6.14 (and
        // where that was carried back) a cgroup counts its kills, and who is cloned into it (`CLONE_INTO_CGROUP`)
        // from a cgroup with another count is taken for one that a kill has missed, and killed at birth. No further
        // run could start in it.
        let Err(error) = process::pidfd_signal(run.init.as_fd(), nix::libc::SIGKILL) else { return };
        tracing::warn!(service = %self.plan.name, %error, "killing a run");
        if let Some(group) = &self.group
            && let Err(error) = group.kill()
        {
            tracing::warn!(service = %self.plan.name, error = %chain(&error), "killing by cgroup");
        }
    }

    /// The init of a run has ended, and with it everything of the run.
    async fn ended(&mut self, generation: Generation) {
        // What it said last is still in the socket.
        while let Some(message) = self.run_of(generation).map(|run| scm::try_recv_on(run.control.as_fd())) {
            match message {
                Ok(message) if !message.bytes.is_empty() => self.heard(generation, Ok(message)),
                _ => break,
            }
        }
        let Some(at) = self.runs.iter().position(|run| run.generation == generation) else { return };
        let run = self.runs.remove(at);
        self.ended_at = Some(Instant::now());
        let _ = process::reap_pidfd(run.init.as_fd());
        if self.runs.is_empty() {
            // Nobody else knows yet, so nobody can have said what follows.
            self.unsettled = Unsettled::Until(Instant::now() + SETTLES_WITHIN);
        } else {
            self.share_limits();
        }
        // What waits in its sockets, if they are not those of the service, the kernel gives to the others.
        drop(run.listening);
        self.settle();
        drop((run.probers, run.hooks, run.notices, run.matched, run.matchers));
        // Ours would keep the output from ending.
        drop(run.outputs);
        let drained = async {
            for pump in run.pumps {
                pump.finished().await;
            }
        };
        // A descriptor of the pipe may have been passed out of the run: then nobody waits for its end.
        let _ = tokio::time::timeout(DRAIN_WITHIN, drained).await;
        for done in run.execs.into_values() {
            done(ExecResult::Ended(ExitReason::Signal(nix::libc::SIGKILL)));
        }
        for done in run.terminals.into_values() {
            done(Err(format!("{} has ended", self.plan.name)));
        }
        self.detectors.end(run.detect);
        if let Unsettled::Until(moment) = &mut self.unsettled {
            *moment = Instant::now() + SETTLES_WITHIN;
        }
        let oom = self.group.as_ref().is_some_and(|group| group.oom_killed());
        let service = self.plan.name.clone();
        if run.main.is_some() {
            let exit = run.exit.unwrap_or(ExitReason::Signal(nix::libc::SIGKILL));
            self.tell(Input::Exited { service, generation, exit, oom });
        } else {
            let killed = || {
                Failure::because(
                    "starting",
                    if oom { "the memory limit is too low" } else { "it was killed" },
                )
            };
            let failure = run.failure.unwrap_or_else(killed);
            self.tell_start_failed(generation, &failure);
        }
    }

    fn launcher_died(&mut self) {
        let _ = process::reap_pidfd(self.launcher_ended.as_fd());
        let failure = Failure::because(
            "keeping the sandbox",
            "its launcher has ended; `ws down` and `ws up` make a new one",
        );
        self.broken = Some(failure.clone());
        for run in &mut self.runs {
            run.failure.get_or_insert(failure.clone());
            run.deadline = None;
        }
        self.runs.iter().for_each(|run| self.kill(run));
    }

    fn start_probe(&mut self, generation: Generation, role: ProbeRole) {
        let Some(probe) = self.probe(role).cloned() else { return };
        let Some(run) = self.run_of(generation).filter(|run| run.main.is_some()) else { return };
        let inbox = Arc::clone(&self.shared.inbox);
        let service = self.plan.name.clone();
        let report = move |result: Result<String, String>| {
            inbox(Input::Probed { service: service.clone(), generation, probe: role, result });
        };
        let means = Means {
            address: self.plan.address,
            dial: Arc::clone(&self.shared.dial),
            exec: Arc::new(ExecInside { generation, commands: self.commands.clone() }),
            tos: Arc::clone(&run.tos),
            log: run.matched.get(&role).cloned(),
        };
        let prober = Prober::start(&probe, role, means, report);
        if let Some(run) = self.run_of_mut(generation) {
            run.probers.insert(role, prober);
        }
    }

    /// Begins to run the commands of a hook. When the run ends before them, nothing more is said of them.
    fn run_hook(&mut self, generation: Generation, hook: Hook) {
        let commands = match hook {
            Hook::PostStart => self.plan.hooks.post_start.clone(),
            Hook::PreStop => self.plan.hooks.pre_stop.clone(),
            // What it may take at most; the engine knows when the grace is really over.
            Hook::Stop => self.plan.stop.command.iter().map(|command| self.stop_command(command)).collect(),
        };
        let runs = self.runs.iter_mut();
        let Some(run) = runs.into_iter().find(|run| run.generation == generation && run.main.is_some())
        else {
            return;
        };
        let again = |(stdout, stderr): &(OwnedFd, OwnedFd)| -> io::Result<_> {
            Ok((stdout.try_clone()?, stderr.try_clone()?))
        };
        let outputs = run.outputs.as_ref().map(again).transpose();
        let inside = ExecInside { generation, commands: self.commands.clone() };
        let (service, inbox) = (self.plan.name.clone(), Arc::clone(&self.shared.inbox));
        run.hooks.push(HookTask(tokio::spawn(async move {
            let result = match outputs {
                Ok(outputs) => run_commands(&commands, &inside, outputs.as_ref()).await,
                Err(error) => Err(format!("could not open the output of the service: {}", chain(&error))),
            };
            inbox(Input::HookEnded { service, generation, hook, result });
        })));
    }

    fn stop_command(&self, command: &CommandLine) -> HookCommand {
        HookCommand { command: command.clone(), timeout: self.plan.stop.grace }
    }

    /// Asks init for a terminal.
    fn make_terminal(&mut self, done: TerminalDone) {
        let name = self.plan.name.clone();
        let Some(run) = self.of_the_service().and_then(|generation| self.run_of_mut(generation)) else {
            return done(Err(format!("{name} does not run")));
        };
        let id = next_exec_id();
        match protocol::send(run.control.as_fd(), &ToInit::Terminal { id }, &[]) {
            Ok(()) => {
                run.terminals.insert(id, done);
            }
            Err(error) => done(Err(format!("asking init: {error}"))),
        }
    }

    /// Asks init to execute a further program in a run, for a guest or as the plan says.
    fn exec(
        &mut self,
        of: Option<Generation>,
        guest: bool,
        id: u64,
        spec: ExecSpec,
        io: &ExecIo,
        done: ExecDone,
    ) {
        let not_started = |error: String| ExecResult::NotStarted { error, not_found: false };
        if spec.tty {
            self.hand_over_terminal(&io.stdin);
        }
        let works =
            |run: &&mut Run| Some(run.generation) == of && run.main.is_some() && run.step == Step::Main;
        let Some(run) = self.runs.iter_mut().find(works) else {
            done(not_started(format!("{} does not run", self.plan.name)));
            return;
        };
        let mut env = self.plan.run.env.clone();
        env.extend(self.secrets.env.iter().cloned());
        for (key, value) in spec.env {
            env.retain(|(known, _)| *known != key);
            env.push((key, value));
        }
        let exec = protocol::ExecSpec {
            argv: spec.argv,
            env,
            cwd: spec.cwd.map_or_else(|| self.plan.run.cwd.clone(), |cwd| self.plan.run.cwd.join(cwd)),
        };
        let request = ToInit::Exec { id, exec, tty: spec.tty, guest };
        let fds = [io.stdin.as_fd(), io.stdout.as_fd(), io.stderr.as_fd()];
        match protocol::send(run.control.as_fd(), &request, &fds) {
            Ok(()) => {
                run.execs.insert(id, done);
            }
            // Init has ended just now, which is told in a moment: it is as if the command had begun before.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                run.execs.insert(id, done);
            }
            Err(error) => done(not_started(format!("asking init: {error}"))),
        }
    }
}

/// What an update does to the published ports, until it is certain.
#[derive(Debug, Default)]
struct PortChange {
    /// Those that come.
    new: Vec<Publisher>,
    /// Which of the present ones go.
    gone: Vec<usize>,
    /// Which of them lead elsewhere now, with what they were before.
    led: Vec<(usize, Publish)>,
}

/// Waits until no connection waits in listening sockets any more that were taken over from, and the handshakes that had
/// begun have had their time; or until they are closed. Bounded: what nobody accepts then is for the other run.
async fn accepted(sockets: Weak<Listening>) {
    if sockets.strong_count() == 0 {
        return;
    }
    let deadline = Instant::now() + ACCEPTS_WITHIN;
    tokio::time::sleep(HANDSHAKES_WITHIN).await;
    while Instant::now() < deadline {
        match sockets.upgrade() {
            Some(sockets) if sockets.waiting() > 0 => {}
            Some(_) | None => return,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Grants the links of a plan. Who they lead to may come later, or come back: that is seen to where it comes.
async fn change_links(shared: &Arc<Shared>, plan: &ServicePlan) -> Result<(), String> {
    let (shared, plan) = (Arc::clone(shared), plan.clone());
    let changed = tokio::task::spawn_blocking(move || {
        let mut net = shared.net.lock().unwrap_or_else(PoisonError::into_inner);
        let net = net.as_mut().ok_or("the workspace has no network any more")?;
        net.network.update(&net.sockets, &plan).map_err(|error| chain(&error))
    });
    changed.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Numbers execs, so that one can be named before init has heard of it.
pub(super) fn next_exec_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The commands of a hook, one after the other, to the first that fails; which is told in words.
async fn run_commands(
    commands: &[HookCommand],
    inside: &ExecInside,
    outputs: Option<&(OwnedFd, OwnedFd)>,
) -> Result<(), String> {
    for HookCommand { command, timeout } in commands {
        let name = format!("`{}`", probes::one_line(&command.0));
        let io = match outputs {
            Some((stdout, stderr)) => null().and_then(|stdin| {
                Ok(ExecIo { stdin, stdout: stdout.try_clone()?, stderr: stderr.try_clone()? })
            }),
            None => no_io(),
        };
        let io = io.map_err(|error| format!("{name} could not be started: {error}"))?;
        match tokio::time::timeout(*timeout, inside.begin(command.0.clone(), io)).await {
            Ok(ExecResult::Ended(exit)) if exit.is_success() => {}
            Ok(ExecResult::Ended(exit)) => return Err(format!("{name} {exit}")),
            Ok(ExecResult::NotStarted { error, .. }) => {
                return Err(format!("{name} could not be started: {error}"));
            }
            // With the future went the command itself.
            Err(_elapsed) => {
                return Err(format!("{name} took longer than {} s and was killed", timeout.as_secs_f32()));
            }
        }
    }
    Ok(())
}

fn null() -> io::Result<OwnedFd> {
    std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from)
}

/// Nothing to read, and nowhere to write.
fn no_io() -> io::Result<ExecIo> {
    Ok(ExecIo { stdin: null()?, stdout: null()?, stderr: null()? })
}

/// The two descriptors that come with a terminal.
fn both(fds: Vec<OwnedFd>) -> Option<(OwnedFd, OwnedFd)> {
    let mut fds = fds.into_iter();
    Some((fds.next()?, fds.next()?))
}

/// Runs the commands of probes and hooks in a run.
struct ExecInside {
    generation: Generation,
    commands: mpsc::WeakUnboundedSender<Command>,
}

/// Kills an exec that nobody waits for any more.
struct KillOnDrop {
    id: u64,
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::KillExec { id: self.id });
        }
    }
}

impl ExecInside {
    /// Runs a command to its end; when the future is dropped, it and its process group are killed.
    fn begin(&self, argv: Vec<String>, io: ExecIo) -> BoxFuture<ExecResult> {
        let not_started = |error: String| ExecResult::NotStarted { error, not_found: false };
        let id = next_exec_id();
        let (generation, commands) = (self.generation, self.commands.clone());
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let done: ExecDone = Box::new(move |result| {
                let _ = sender.send(result);
            });
            let Some(strong) = commands.upgrade() else {
                return not_started("the service is gone".to_owned());
            };
            let guard = KillOnDrop { id, commands };
            let _ = strong.send(Command::ExecIn { generation, id, argv, io, done });
            drop(strong);
            let result = answer.await.unwrap_or_else(|_| not_started("the service is gone".to_owned()));
            drop(guard);
            result
        })
    }
}

impl ExecProbe for ExecInside {
    fn exec(&self, argv: Vec<String>) -> BoxFuture<ExecResult> {
        match no_io() {
            Ok(io) => self.begin(argv, io),
            Err(error) => Box::pin(std::future::ready(ExecResult::NotStarted {
                error: format!("opening /dev/null: {error}"),
                not_found: false,
            })),
        }
    }
}

fn reason(end: End) -> ExitReason {
    match end {
        End::Code(code) => ExitReason::Code(code),
        End::Signal(signal) => ExitReason::Signal(signal),
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
