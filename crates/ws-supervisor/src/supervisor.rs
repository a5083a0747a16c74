//! The loop: one owner of the engine, the host and everything that is known.
//!
//! What happened comes in as inputs (from the host), requests (from the API), signals, deadlines and the
//! end of the owner; each goes through [`Engine::step`], its effects to the host and its events to one
//! function that numbers, records and hands them on. Nothing here waits for a client or a disk, and
//! nothing wakes up unless something is due.
//!
//! The end, in this order: the engine is down; the host tears down what is left; volumes go, where that
//! was asked for; all is told and written to disk; nobody can connect any more; the runtime directory is
//! removed and the lock given up; streams end. So whoever has seen a stream end may start again.

mod answers;
mod planning;
mod sessions;
mod violations;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use ws_core::engine::{Effect, Engine, Generation, Input, Tick};
use ws_core::files::{Files, Moment, News};
use ws_core::host::Host;
use ws_core::plan::Plan;
use ws_core::policy::tally::Tally;
use ws_model::wire::PublishedPort;
use ws_model::{EventKind, InstanceId, Protocol, SecretName, ServiceName, Timestamp};

use crate::api::{self, Api, Notice, PeerCheck, Request};
use crate::clock;
use crate::journal::{self, Journal};
use crate::logs::{LogStore, Report};
use crate::planner::{ExplainWatch, MakeFiles, Planner};
use crate::state_dir::{InstanceLock, Record, StateError, boot_id};
use planning::Planning;
pub(crate) use sessions::Running;
pub(crate) use sessions::SessionId;
use sessions::Sessions;

/// How many requests may wait for the loop; more wait in their connections.
const REQUESTS: usize = 64;

/// How many inputs are taken at a time before others get their turn.
const INPUTS: usize = 256;

/// How long the host may take to tear down what is left.
const TEAR_DOWN_WITHIN: Duration = Duration::from_secs(60);

/// How long the disk may take for what waits for it at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// Resolves when the stack's owner is gone.
pub type Lifeline = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a supervisor is told.
pub struct Config {
    /// The instance.
    pub instance: InstanceId,
    /// Version of `ws`.
    pub version: String,
    /// The lock of the instance; with it the runtime directory.
    pub lock: InstanceLock,
    /// The instance's state directory, which is there.
    pub state_dir: PathBuf,
    /// Decides who may talk to it, beyond the mode of the socket.
    pub peer_check: PeerCheck,
    /// Whether an attached `ws up` owns it from the start.
    pub attached: bool,
    /// When it resolves the stack goes down. For the time before the owner holds the stack by the API,
    /// and beyond.
    pub lifeline: Option<Lifeline>,
    /// Removes the instance's volumes; called after the tear-down, where that was asked for. Returns the
    /// errors as sentences. May block.
    pub remove_volumes: Box<dyn FnOnce() -> Vec<String> + Send>,
    /// Called once, when the socket accepts connections.
    pub on_listening: Box<dyn FnOnce() + Send>,
    /// What to tell at the start: what was cleared, what is missing.
    pub notices: Vec<String>,
    /// Makes plans when files change or somebody asks; absent: the plan stays as it is.
    pub planner: Option<Box<dyn Planner>>,
    /// Watches files and knows what builds made; absent: nothing is watched, and every build runs.
    pub files: Option<MakeFiles>,
    /// Says what is watched, for people who ask.
    pub explain_watch: Option<Arc<dyn ExplainWatch>>,
    /// The files that the plan was made of.
    pub plan_files: Vec<PathBuf>,
    /// The values of the secrets, as the host has them: so that it is told of others.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    /// Whether a change of these files is carried out even where it gives a service more rights.
    pub apply_widening: bool,
    /// Whether SIGTERM and SIGINT take the stack down (a second one at once). They are handled for the
    /// whole process from then on.
    pub signals: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("instance", &self.instance)
            .field("lock", &self.lock)
            .field("state_dir", &self.state_dir)
            .field("attached", &self.attached)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

/// Why a supervisor could not begin. What the host had made is torn down, and the runtime directory
/// removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The runtime directory.
    #[error("could not use the runtime directory")]
    Runtime(#[from] StateError),
    /// The journal.
    #[error("could not open the journal in `{}`", state_dir.display())]
    Journal {
        /// Where.
        state_dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket.
    #[error("could not listen at the control socket")]
    Listen(#[source] io::Error),
    /// Signals.
    #[error("could not handle signals")]
    Signals(#[source] io::Error),
}

/// How a supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResult {
    /// Why it ended, as a phrase.
    pub cause: String,
    /// What could not be ended or removed, a sentence each. When there is something the record is kept,
    /// so that `ws gc` knows of it.
    pub errors: Vec<String>,
}

/// A supervisor.
#[derive(Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Supervises until the stack is down. The host reports to the sender of `inputs`, and writes output
    /// to `logs`, which belong to `config.state_dir`.
    ///
    /// # Errors
    /// When it could not begin.
    pub async fn run(
        config: Config,
        plan: Plan,
        mut host: Box<dyn Host>,
        inputs: mpsc::UnboundedReceiver<Input>,
        logs: Arc<LogStore>,
    ) -> Result<RunResult, SupervisorError> {
        let Config { instance, version, lock, state_dir, peer_check, attached, lifeline, .. } = config;
        let (notices, told) = mpsc::unbounded_channel();
        let record = Record {
            instance,
            root: plan.root.display().to_string(),
            version,
            pid: std::process::id(),
            boot_id: boot_id(),
            started_at: clock::now(),
            attached,
        };
        let begun = begin(&lock, &record, &state_dir, &notices, config.signals);
        let Begun { journal, journal_writer, listener, signals } = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let (tell, ended) = oneshot::channel();
                host.tear_down(Box::new(move |errors| drop(tell.send(errors))));
                // The first error is the one to tell; the next `ws` command clears what is left.
                let clean = tokio::time::timeout(TEAR_DOWN_WITHIN, ended).await;
                if matches!(clean, Ok(Ok(errors)) if errors.is_empty()) {
                    let _ = lock.remove();
                }
                return Err(error);
            }
        };
        let report_to = notices.clone();
        logs.set_reporter(Box::new(move |report| {
            let (service, kind) = match report {
                Report::Dropped { service, bytes } => (Some(service), EventKind::LogDropped { bytes }),
                Report::Notice { text } => (None, EventKind::Notice { text }),
            };
            // It fails when the loop has ended.
            let _ = report_to.send(Notice::Tell(service, kind));
        }));
        let (requests, asked) = mpsc::channel(REQUESTS);
        let api = Api {
            requests,
            notices: notices.clone(),
            journal: journal.clone(),
            logs: Arc::clone(&logs),
            walking: Arc::new(Semaphore::new(1)),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(api::serve(listener, api, peer_check, async {
            // Either way it is over.
            let _ = stopped.await;
        }));
        for service in plan.services.values() {
            logs.retain(&service.name, &service.logs);
        }
        let (news_to, news) = mpsc::unbounded_channel();
        let mut files = config.files.map(|make| {
            // It fails when the loop has ended.
            make(Arc::new(move |news| drop(news_to.send(news))))
        });
        let running = Arc::new(plan.clone());
        if let Some(files) = &mut files {
            files.follow(Arc::clone(&running), config.plan_files.clone());
        }
        let planning = Planning::new(running, config.planner, config.explain_watch)
            .of(config.plan_files, config.secrets)
            .applying_widening(config.apply_widening);
        let mut state = Loop {
            engine: Engine::new(plan),
            host,
            files,
            planning,
            logs: Arc::clone(&logs),
            sessions: Sessions::default(),
            journal: journal.clone(),
            started: Instant::now(),
            record,
            held: false,
            notices,
            runs: BTreeMap::new(),
            published: BTreeMap::new(),
            down: None,
            remove_volumes: false,
            torn_down: false,
            violations: Tally::default(),
        };
        let pid = state.record.pid;
        state.tell(None, EventKind::SupervisorStarted { version: state.record.version.clone(), pid });
        for text in config.notices {
            state.tell(None, EventKind::Notice { text });
        }
        (config.on_listening)();

        let mut sources = Sources { inputs, news, asked, told, signals, lifeline };
        state.supervise(&mut sources).await;
        // Its threads may be in the middle of a file.
        let files = state.files.take();
        drop(tokio::task::spawn_blocking(move || drop(files)));
        let mut errors = state.tear_down(&mut sources).await;
        if state.remove_volumes {
            match tokio::task::spawn_blocking(config.remove_volumes).await {
                Ok(failed) => errors.extend(failed),
                Err(_) => errors.push("could not remove the volumes: the removal was broken off".to_owned()),
            }
        }
        for text in &errors {
            state.tell(None, EventKind::Notice { text: text.clone() });
        }
        let cause = state.down.take().unwrap_or_else(|| "nothing was left to do".to_owned());

        // The logs first: what they could not keep is still told.
        let to_flush = Arc::clone(&logs);
        // A thread that panicked has nothing to flush.
        let _ = tokio::task::spawn_blocking(move || to_flush.flush(FLUSH_WITHIN)).await;
        state.take_notices(&mut sources.told);
        state.tell(None, EventKind::SupervisorStopped { cause: cause.clone() });
        let to_flush = journal.clone();
        let _ = tokio::task::spawn_blocking(move || to_flush.flush(&journal_writer, FLUSH_WITHIN)).await;

        let _ = stop.send(());
        let removed = if errors.is_empty() { lock.remove() } else { lock.remove_socket() };
        if let Err(error) = removed {
            errors.push(with_sources(&error));
        }
        // Whoever still asks or waits is told that it is over.
        drop(sources);
        state.sessions = Sessions::default();
        journal.end_readers();
        logs.end_readers();
        let _ = serving.await;
        Ok(RunResult { cause, errors })
    }
}

struct Begun {
    journal: Journal,
    journal_writer: journal::Writer,
    listener: tokio::net::UnixListener,
    signals: Signals,
}

fn begin(
    lock: &InstanceLock,
    record: &Record,
    state_dir: &std::path::Path,
    notices: &mpsc::UnboundedSender<Notice>,
    signals: bool,
) -> Result<Begun, SupervisorError> {
    let signals =
        if signals { Signals::listen().map_err(SupervisorError::Signals)? } else { Signals::none() };
    let trouble_to = notices.clone();
    let (journal, journal_writer) = Journal::open(state_dir, move |text| {
        // It fails when the loop has ended.
        let _ = trouble_to.send(Notice::Tell(None, EventKind::Notice { text }));
    })
    .map_err(|source| SupervisorError::Journal { state_dir: state_dir.to_owned(), source })?;
    lock.write_record(record)?;
    let listener = lock.listen()?;
    listener.set_nonblocking(true).map_err(SupervisorError::Listen)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(SupervisorError::Listen)?;
    Ok(Begun { journal, journal_writer, listener, signals })
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// SIGTERM and SIGINT.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self(Some((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))))
    }

    fn none() -> Self {
        Self(None)
    }

    async fn next(&mut self) -> &'static str {
        let Some((terminate, interrupt)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
}

/// From where things come in.
struct Sources {
    inputs: mpsc::UnboundedReceiver<Input>,
    news: mpsc::UnboundedReceiver<News>,
    asked: mpsc::Receiver<Request>,
    told: mpsc::UnboundedReceiver<Notice>,
    signals: Signals,
    lifeline: Option<Lifeline>,
}

/// A run that was executed.
struct Run {
    pid: Option<u32>,
    at: Timestamp,
}

/// What the loop owns.
struct Loop {
    engine: Engine,
    host: Box<dyn Host>,
    /// Who watches files and knows what builds made, where somebody does.
    files: Option<Box<dyn Files>>,
    planning: Planning,
    logs: Arc<LogStore>,
    sessions: Sessions,
    journal: Journal,
    started: Instant,
    record: Record,
    /// Whether somebody owns the stack by the API.
    held: bool,
    notices: mpsc::UnboundedSender<Notice>,
    /// The runs that were executed and have not ended: of one that overlaps the next, both.
    runs: BTreeMap<(ServiceName, Generation), Run>,
    published: BTreeMap<ServiceName, Vec<PublishedPort>>,
    /// Why the stack goes down, once it does.
    down: Option<String>,
    remove_volumes: bool,
    /// The host has been told to tear down: nothing may be submitted any more.
    torn_down: bool,
    /// What was told of violations in this life of the stack.
    violations: Tally,
}

impl Loop {
    /// Until the engine is down.
    async fn supervise(&mut self, sources: &mut Sources) {
        let mut inputs = Vec::with_capacity(INPUTS);
        while !self.engine.is_down() {
            self.go_on_planning();
            let deadline = self.engine.next_deadline().map(|tick| self.started + tick);
            let Sources { inputs: from, news, asked, told, signals, lifeline } = sources;
            tokio::select! {
                count = from.recv_many(&mut inputs, INPUTS) => {
                    if count == 0 {
                        // The host is gone, and with it all that could still happen.
                        self.go_down("the host ended", true);
                        return;
                    }
                    for input in inputs.drain(..) {
                        self.step(input);
                    }
                }
                Some(news) = news.recv() => self.take_news(news),
                worked = self.planning.worked() => self.planner_is_back(worked),
                Some(request) = asked.recv() => self.answer(request),
                Some(notice) = told.recv() => self.take_notice(notice),
                () = sleep_until(deadline), if deadline.is_some() => {
                    // What came in time is not late because it is read late.
                    for _ in 0..INPUTS {
                        let Ok(input) = from.try_recv() else { break };
                        self.step(input);
                    }
                    self.step(Input::Tick);
                }
                signal = signals.next() => {
                    let again = self.down.is_some();
                    self.go_down(&format!("{signal} was received"), again);
                }
                () = optional(lifeline) => {
                    *lifeline = None;
                    self.owner_is_gone();
                }
            }
        }
    }

    /// Lets the host end and remove everything, and goes on answering meanwhile.
    async fn tear_down(&mut self, sources: &mut Sources) -> Vec<String> {
        self.torn_down = true;
        self.refuse_plans();
        let (tell, mut ended) = oneshot::channel();
        self.host.tear_down(Box::new(move |errors| {
            // It fails when this took too long.
            let _ = tell.send(errors);
        }));
        let deadline = Instant::now() + TEAR_DOWN_WITHIN;
        loop {
            tokio::select! {
                errors = &mut ended => {
                    return errors.unwrap_or_else(|_| vec!["the host ended in the middle of the tear-down".to_owned()]);
                }
                () = tokio::time::sleep_until(deadline) => {
                    return vec![format!("the tear-down did not end in {} s", TEAR_DOWN_WITHIN.as_secs())];
                }
                Some(request) = sources.asked.recv() => self.answer(request),
                Some(notice) = sources.told.recv() => self.take_notice(notice),
                // Late news: read, so that they do not pile up, and without a consequence.
                Some(_) = sources.inputs.recv() => {}
            }
        }
    }

    fn now(&self) -> Tick {
        self.started.elapsed()
    }

    /// The only way into the engine.
    fn step(&mut self, input: Input) {
        match &input {
            Input::Executed { service, generation, pid } => {
                let run = Run { pid: *pid, at: clock::now() };
                self.runs.insert((service.clone(), *generation), run);
            }
            Input::Exited { service, generation, exit: _, oom: _ }
            | Input::StartFailed { service, generation, error: _, hopeless: _ } => {
                self.runs.remove(&(service.clone(), *generation));
            }
            Input::Published { service, host, host_port, port } => {
                let ports = self.published.entry(service.clone()).or_default();
                let host = host.to_string();
                ports.retain(|known| !(known.port == *port && known.host == host));
                ports.push(PublishedPort {
                    host,
                    host_port: *host_port,
                    port: *port,
                    protocol: Protocol::Tcp,
                });
            }
            Input::HostLost { error } => {
                self.down.get_or_insert_with(|| error.clone());
            }
            Input::Displaced { service, errors: _ } => self.place_is_gone(service),
            Input::Up { .. }
            | Input::Stop { .. }
            | Input::Restart { .. }
            | Input::Kill { .. }
            | Input::Down { .. }
            | Input::Probed { .. }
            | Input::Notified { .. }
            | Input::HookEnded { .. }
            | Input::Add { .. }
            | Input::Remove { .. }
            | Input::FilesChanged { .. }
            | Input::Checked { .. }
            | Input::Recorded { .. }
            | Input::Adopt { .. }
            | Input::Placed { .. }
            | Input::Updated { .. }
            | Input::Switched { .. }
            | Input::Observed(_)
            | Input::Tick => {}
        }
        let updated = if let Input::Updated { service, result: Ok(()) } = &input {
            Some(service.clone())
        } else {
            None
        };
        let outcome = self.engine.step(input, self.now());
        if let Some(service) = updated {
            self.place_is_another(&service);
        }
        let mut looked = Vec::new();
        for effect in outcome.effects {
            match effect {
                Effect::Fingerprint { service, generation, moment } => match &mut self.files {
                    Some(files) => files.fingerprint(&service, generation, moment),
                    None => looked.push(nobody_knows(service, generation, moment)),
                },
                Effect::Place { service } => self.place(*service),
                Effect::Displace { service } => self.displace(&service),
                Effect::Update { service } => self.update(*service),
                effect @ (Effect::Start { .. }
                | Effect::StartBeside { .. }
                | Effect::Switch { .. }
                | Effect::Hold { .. }
                | Effect::Release { .. }
                | Effect::Signal { .. }
                | Effect::Kill { .. }
                | Effect::StartProbe { .. }
                | Effect::StopProbe { .. }
                | Effect::RunHook { .. }) => self.host.submit(effect),
            }
        }
        for (service, kind) in &outcome.events {
            self.tell(service.clone(), kind.clone());
        }
        self.settle_one_offs(&outcome.events);
        for input in looked {
            self.step(input);
        }
    }

    /// The only way to tell anything.
    fn tell(&mut self, service: Option<ServiceName>, kind: EventKind) {
        let violation =
            if let EventKind::Violation(violation) = &kind { Some(violation.clone()) } else { None };
        let seq = self.journal.append(service.clone(), kind);
        if let (Some(service), Some(violation)) = (service, violation) {
            self.take_violation(seq, &service, &violation);
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::HoldEnded => self.owner_is_gone(),
            Notice::Tell(service, kind) => self.tell(service, kind),
            Notice::Added { name, result } => self.one_off_added(&name, result),
            Notice::Removed { name, errors } => self.one_off_removed(&name, errors),
            Notice::Happened(input) => self.plan_step(input),
            Notice::ExternalSet(result) => self.external_is_set(result),
            Notice::SessionEnded { id, by_itself } => self.session_ended(id, by_itself),
        }
    }

    fn take_notices(&mut self, told: &mut mpsc::UnboundedReceiver<Notice>) {
        while let Ok(notice) = told.try_recv() {
            self.take_notice(notice);
        }
    }

    fn owner_is_gone(&mut self) {
        self.held = false;
        if self.down.is_none() {
            self.go_down("the `ws up` that owned it ended", false);
        }
    }

    fn go_down(&mut self, cause: &str, now: bool) {
        self.down.get_or_insert_with(|| cause.to_owned());
        if !self.torn_down {
            self.step(Input::Down { now });
        }
    }
}

/// What is known of the files of a build without somebody who looks at them: it must run, and nobody knows what it made.
fn nobody_knows(service: ServiceName, generation: Generation, moment: Moment) -> Input {
    match moment {
        Moment::Before => Input::Checked { service, generation, result: Ok(None) },
        Moment::After => Input::Recorded { service, generation, result: Ok(BTreeMap::new()) },
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn optional(lifeline: &mut Option<Lifeline>) {
    match lifeline {
        Some(lifeline) => lifeline.await,
        None => std::future::pending().await,
    }
}
