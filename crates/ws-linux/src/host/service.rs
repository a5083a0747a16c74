//! One service on the host: its launcher, its present run, its probe, its published ports.
//!
//! A task owns all of it. Commands come in order; what the run's init says and how it ends become inputs of the
//! engine. Every wait has a deadline or ends with the process that is waited for.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use ws_core::engine::{Generation, Input, ProbeRole, Step};
use ws_core::host::{ExecIo, ExecSpec};
use ws_core::plan::ServicePlan;
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{ExitReason, Probe, ProbeKind, ServiceKind, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::process;
use ws_sys::scm::{self, Channel};

use super::mounts::{self, Listing};
use super::{Secrets, Shared};
use crate::cgroups::ServiceGroup;
use crate::probes::{self, BoxFuture, ExecProbe, LogMatched, Means, Prober};
use crate::publish::{Publisher, TargetState};
use crate::pump::Pump;
use crate::sandbox::layout::{self, RunContext, Slot};
use crate::sandbox::protocol::{
    self, End, EntryKind, Failure, FromInit, Reply, SourceRequest, Stage, ToInit, ToLauncher,
};

/// How long a run may take from the request to the execution of its program.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How long a launcher may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long the output of a run may take to arrive after its last process has ended.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// How many mounts go with one message to a launcher.
const MOUNTS_PER_MESSAGE: usize = 200;

type ExecDone = Box<dyn FnOnce(ExecResult) + Send>;

/// What the host asks of a service's task.
pub(super) enum Command {
    Start {
        generation: Generation,
        step: Step,
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
    },
    StopProbe {
        generation: Generation,
    },
    /// `id` is unique among the execs of all services.
    Exec {
        id: u64,
        spec: ExecSpec,
        io: ExecIo,
        done: ExecDone,
    },
    KillExec {
        id: u64,
    },
}

/// A service's task.
pub(super) struct Service {
    shared: Arc<Shared>,
    plan: ServicePlan,
    launcher: Readable,
    launcher_ended: Readable,
    group: Option<Arc<ServiceGroup>>,
    secrets: Secrets,
    publishers: Vec<Publisher>,
    slots: Vec<(Slot, Option<(u64, u64)>)>,
    listing: Option<Listing>,
    run: Option<Run>,
    /// When the last run had ended: the beginning of what a restart costs.
    ended_at: Option<Instant>,
    /// The way back to this task, for what runs beside it. Weak: the host alone keeps the task alive.
    commands: mpsc::WeakUnboundedSender<Command>,
    /// Set when the launcher has ended: nothing of this service can start any more.
    broken: Option<Failure>,
}

/// A run.
struct Run {
    generation: Generation,
    step: Step,
    init: Readable,
    control: Readable,
    main: Option<OwnedFd>,
    failure: Option<Failure>,
    exit: Option<ExitReason>,
    deadline: Option<Instant>,
    prober: Option<Prober>,
    matched: Option<LogMatched>,
    pumps: Vec<Pump>,
    execs: BTreeMap<u64, ExecDone>,
    /// Init has closed its end of the channel.
    silent: bool,
    oom_guard: Option<tokio::task::JoinHandle<()>>,
}

/// What a task waits for.
enum News {
    Command(Option<Command>),
    Said(io::Result<scm::Message>),
    Ended,
    LauncherEnded,
    TooLate,
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
        group: Option<Arc<ServiceGroup>>,
        secrets: Secrets,
        publishers: Vec<Publisher>,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> io::Result<Self> {
        let slots = layout::slots(&plan.view, &shared.plan.root, &shared.volumes);
        Ok(Self {
            shared,
            plan,
            launcher: Readable::new(launcher.into_fd())?,
            launcher_ended: Readable::new(launcher_ended)?,
            group,
            secrets,
            publishers,
            slots: slots.into_iter().map(|slot| (slot, None)).collect(),
            listing: None,
            run: None,
            ended_at: None,
            commands,
            broken: None,
        })
    }

    /// Works until the host lets go of `commands`, then kills what is left.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            match self.next(&mut commands).await {
                News::Command(Some(command)) => self.obey(command).await,
                News::Command(None) => break,
                News::Said(message) => self.heard(message),
                News::Ended => self.ended().await,
                News::LauncherEnded => self.launcher_died(),
                News::TooLate => {
                    let within = START_WITHIN.as_secs();
                    self.fail_run(Failure::because("starting", format!("it took longer than {within} s")));
                    self.kill_run();
                }
            }
        }
        if self.run.is_some() {
            self.kill_run();
            while self.run.is_some() {
                let Some(run) = &mut self.run else { break };
                if run.init.readable().await.is_err() {
                    break;
                }
                self.ended().await;
            }
        }
        let _ = process::pidfd_signal(self.launcher_ended.as_fd(), nix::libc::SIGKILL);
        let _ = self.launcher_ended.readable().await;
        let _ = process::reap_pidfd(self.launcher_ended.as_fd());
    }

    async fn next(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> News {
        let Some(run) = &mut self.run else {
            return tokio::select! {
                command = commands.recv() => News::Command(command),
                _ = self.launcher_ended.readable(), if self.broken.is_none() => News::LauncherEnded,
            };
        };
        let deadline = run.deadline;
        let deadline = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What init said before it ended comes before its end.
            biased;
            message = run.control.read_with(scm::try_recv_on), if !run.silent => News::Said(message),
            _ = run.init.readable() => News::Ended,
            _ = self.launcher_ended.readable(), if self.broken.is_none() => News::LauncherEnded,
            () = deadline => News::TooLate,
            command = commands.recv() => News::Command(command),
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { generation, step } => {
                if let Err(failure) = self.start(generation, step).await {
                    self.tell_start_failed(generation, &failure);
                }
            }
            Command::Signal { generation, signal } => {
                if let Some(main) = self.run_of(generation).and_then(|run| run.main.as_ref())
                    && let Err(error) = process::pidfd_signal(main.as_fd(), signal)
                {
                    tracing::warn!(service = %self.plan.name, signal, %error, "sending a signal");
                }
            }
            Command::Kill { generation } => {
                if self.run_of(generation).is_some() {
                    self.kill_run();
                }
            }
            Command::StartProbe { generation } => self.start_probe(generation),
            Command::StopProbe { generation } => {
                if let Some(run) = self.run.as_mut().filter(|run| run.generation == generation) {
                    run.prober = None;
                }
            }
            Command::Exec { id, spec, io, done } => self.exec(id, spec, &io, done),
            Command::KillExec { id } => {
                if let Some(run) = self.run.as_ref().filter(|run| run.execs.contains_key(&id)) {
                    // When init is gone, so is what it was to kill.
                    let _ = protocol::send(run.control.as_fd(), &ToInit::Kill { id }, &[]);
                }
            }
        }
    }

    fn run_of(&self, generation: Generation) -> Option<&Run> {
        self.run.as_ref().filter(|run| run.generation == generation)
    }

    fn tell(&self, input: Input) {
        (self.shared.inbox)(input);
    }

    fn tell_start_failed(&self, generation: Generation, failure: &Failure) {
        let service = self.plan.name.clone();
        // Without its launcher no further try can succeed.
        let hopeless = self.broken.is_some();
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

    async fn start(&mut self, generation: Generation, step: Step) -> Result<(), Failure> {
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        if self.run.is_some() {
            return Err(Failure::because("starting", "the run before it has not ended"));
        }
        self.refresh_mounts().await?;
        if let Some(group) = &self.group {
            group.enter(step).map_err(|error| Failure::because("setting limits", chain(&error)))?;
        }
        let cgroup = match &self.group {
            Some(group) => {
                group.dir_fd().map_err(|error| Failure::because("opening the cgroup", chain(&error)))?
            }
            None => None,
        };
        let (ours, theirs) = Channel::pair().stage("making a channel to init")?;
        let ours = Readable::new(ours.into_fd()).stage("registering the channel to init")?;
        let (stdout, stdout_writer) = io::pipe().stage("making a pipe for the output")?;
        let (stderr, stderr_writer) = io::pipe().stage("making a pipe for the output")?;
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
            idle_stdin: step == Step::Main && self.plan.kind == ServiceKind::Service,
        };
        let spec = layout::run_spec(&self.plan, program, context);
        let mut fds = vec![theirs.into_fd(), stdout_writer.into(), stderr_writer.into()];
        fds.extend(cgroup);
        let answer = Self::ask(&self.launcher, &ToLauncher::Start(Box::new(spec)), &fds).await?;
        drop(fds);
        let init = answer.into_iter().next();
        let init = init.ok_or_else(|| Failure::because("starting", "the launcher gave no process"))?;
        let init = Readable::new(init).stage("registering init")?;

        let (matcher, matched) = match (&self.plan.ready, step) {
            (Some(Probe { kind: ProbeKind::Log { pattern }, .. }), Step::Main) => probes::log_match(pattern)
                .map(|(matcher, matched)| (Some(matcher), Some(matched)))
                .map_err(|error| Failure::because("compiling the log probe", error.to_string()))?,
            (_, Step::Build | Step::Main) => (None, None),
        };
        let streams = match step {
            Step::Build => [(LogStream::Build, stdout), (LogStream::Build, stderr)],
            Step::Main => [(LogStream::Stdout, stdout), (LogStream::Stderr, stderr)],
        };
        let mut pumps = Vec::new();
        for (stream, pipe) in streams {
            let sink = Arc::clone(&self.shared.logs);
            let pump = Pump::start(self.plan.name.clone(), stream, pipe.into(), sink, matcher.clone());
            pumps.push(pump.stage("reading the output")?);
        }
        let oom_guard = self.group.clone().map(|group| {
            tokio::spawn(async move {
                if let Err(error) = group.guard_oom().await {
                    tracing::warn!(%error, "watching for lack of memory");
                }
            })
        });
        self.run = Some(Run {
            generation,
            step,
            init,
            control: ours,
            main: None,
            failure: None,
            exit: None,
            deadline: Some(Instant::now() + START_WITHIN),
            prober: None,
            matched,
            pumps,
            execs: BTreeMap::new(),
            silent: false,
            oom_guard,
        });
        self.publish(TargetState::Restarting);
        Ok(())
    }

    fn publish(&self, target: TargetState) {
        for publisher in &self.publishers {
            publisher.set_target_state(target);
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

    /// Init said something.
    fn heard(&mut self, message: io::Result<scm::Message>) {
        let Some(run) = &mut self.run else { return };
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
                self.fail_run(failure);
                self.kill_run();
            }
            FromInit::Executed { landlock: _ } => {
                run.deadline = None;
                run.main = fds.into_iter().next();
                let pid = run.main.as_ref().and_then(|main| process::pid_of(main.as_fd()).ok().flatten());
                let generation = run.generation;
                if let Some(ended) = self.ended_at {
                    let since_end_us = u64::try_from(ended.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tracing::debug!(service = %self.plan.name, generation, since_end_us, "executed again");
                }
                if run.step == Step::Main {
                    self.publish(TargetState::Up);
                }
                self.tell(Input::Executed { service: self.plan.name.clone(), generation, pid });
            }
            FromInit::Exited(end) => run.exit = Some(reason(end)),
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

    fn fail_run(&mut self, failure: Failure) {
        if let Some(run) = &mut self.run {
            run.failure.get_or_insert(failure);
            run.deadline = None;
        }
    }

    fn kill_run(&mut self) {
        let Some(run) = &self.run else { return };
        // With process 1 the kernel kills the whole pid namespace; the cgroup is the second way.
        if let Err(error) = process::pidfd_signal(run.init.as_fd(), nix::libc::SIGKILL) {
            tracing::warn!(service = %self.plan.name, %error, "killing a run");
        }
        if let Some(group) = &self.group
            && let Err(error) = group.kill()
        {
            tracing::debug!(service = %self.plan.name, error = %chain(&error), "killing by cgroup");
        }
    }

    /// Init has ended, and with it everything of the run.
    async fn ended(&mut self) {
        // What it said last is still in the socket.
        while let Some(message) = self.run.as_ref().map(|run| scm::try_recv_on(run.control.as_fd())) {
            match message {
                Ok(message) if !message.bytes.is_empty() => self.heard(Ok(message)),
                _ => break,
            }
        }
        let Some(run) = self.run.take() else { return };
        self.ended_at = Some(Instant::now());
        let _ = process::reap_pidfd(run.init.as_fd());
        self.publish(TargetState::Restarting);
        drop(run.prober);
        drop(run.matched);
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
        if let Some(guard) = run.oom_guard {
            guard.abort();
        }
        let oom = self.group.as_ref().is_some_and(|group| group.oom_killed());
        let (service, generation) = (self.plan.name.clone(), run.generation);
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
        self.fail_run(failure);
        self.kill_run();
    }

    fn start_probe(&mut self, generation: Generation) {
        let Some(probe) = self.plan.ready.clone() else { return };
        if self.run_of(generation).is_none_or(|run| run.main.is_none()) {
            return;
        }
        let inbox = Arc::clone(&self.shared.inbox);
        let service = self.plan.name.clone();
        let report = move |result: Result<String, String>| {
            inbox(Input::Probed { service: service.clone(), generation, probe: ProbeRole::Ready, result });
        };
        let means = Means {
            address: self.plan.address,
            dial: Arc::clone(&self.shared.dial),
            exec: Arc::new(ExecInside { service: self.plan.name.clone(), commands: self.commands.clone() }),
            log: self.run.as_ref().and_then(|run| run.matched.clone()),
        };
        let prober = Prober::start(&probe, means, report);
        if let Some(run) = &mut self.run {
            run.prober = Some(prober);
        }
    }

    /// Asks init to execute a further program in the run.
    fn exec(&mut self, id: u64, spec: ExecSpec, io: &ExecIo, done: ExecDone) {
        let not_started = |error: String| ExecResult::NotStarted { error, not_found: false };
        let Some(run) = self.run.as_mut().filter(|run| run.main.is_some() && run.step == Step::Main) else {
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
        if let (true, Some(uid)) = (spec.tty, self.shared.host_uid(&self.plan)) {
            // The terminal was made by the supervisor's user; what opens it by name (`/dev/tty`, `/proc/self/fd/0`)
            // must be let in too.
            let owned = rustix::fs::fchown(&io.stdin, Some(rustix::fs::Uid::from_raw(uid)), None);
            if let Err(error) = owned {
                tracing::debug!(service = %self.plan.name, %error, "handing over the terminal");
            }
        }
        let request = ToInit::Exec { id, exec, tty: spec.tty };
        let fds = [io.stdin.as_fd(), io.stdout.as_fd(), io.stderr.as_fd()];
        match protocol::send(run.control.as_fd(), &request, &fds) {
            Ok(()) => {
                run.execs.insert(id, done);
            }
            Err(error) => done(not_started(format!("asking init: {error}"))),
        }
    }
}

/// Numbers execs, so that one can be named before init has heard of it.
pub(super) fn next_exec_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs the commands of probes in the service's run.
struct ExecInside {
    service: ServiceName,
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

impl ExecProbe for ExecInside {
    fn exec(&self, argv: Vec<String>) -> BoxFuture<ExecResult> {
        let not_started = |error: String| ExecResult::NotStarted { error, not_found: false };
        let id = next_exec_id();
        let spec = ExecSpec { service: self.service.clone(), argv, env: vec![], cwd: None, tty: false };
        let commands = self.commands.clone();
        Box::pin(async move {
            let null =
                || std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
            let io = match (null(), null(), null()) {
                (Ok(stdin), Ok(stdout), Ok(stderr)) => ExecIo { stdin, stdout, stderr },
                (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
                    return not_started(format!("opening /dev/null: {error}"));
                }
            };
            let (sender, answer) = oneshot::channel();
            let done: ExecDone = Box::new(move |result| {
                let _ = sender.send(result);
            });
            let Some(strong) = commands.upgrade() else {
                return not_started("the service is gone".to_owned());
            };
            let guard = KillOnDrop { id, commands };
            let _ = strong.send(Command::Exec { id, spec, io, done });
            drop(strong);
            let result = answer.await.unwrap_or_else(|_| not_started("the service is gone".to_owned()));
            drop(guard);
            result
        })
    }
}

fn reason(end: End) -> ExitReason {
    match end {
        End::Code(code) => ExitReason::Code(code),
        End::Signal(signal) => ExitReason::Signal(signal),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
