//! A scenario against the whole supervisor: its loop, its control socket with the real client, its journal on a real
//! disk; only the host and the time are made up.
//!
//! Time stands still while anybody has something to do, and leaps to the next timer when nobody has (tokio's paused
//! clock). The socket is of the same process and thread, so whatever was written can be read before time goes on.
//!
//! What must hold is what a client can see; what the engine decides is judged by [`play`](crate::play).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use ws_client::{Client, ClientError, EventQuery, ExecOutput};
use ws_core::engine::{Effect, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Standing, Usage};
use ws_core::plan::ServicePlan;
use ws_model::wire::{DownRequest, ExecResult, RunRequest};
use ws_model::{Event, EventKind, InstanceId, Level, Phase, ServiceName};
use ws_supervisor::state_dir::{self, Acquired};
use ws_supervisor::{Config, LogLimits, LogStore, RunResult, Supervisor, SupervisorError};

use crate::dice::Dice;
use crate::host::SimHost;
use crate::plan;
use crate::scenario::{Happening, Scenario, Span, Unit};

/// How a stack comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Somebody asks for it.
    Asked,
    /// Its owner, who holds it by the API, goes away.
    Held,
    /// The lifeline of its owner ends.
    Lifeline,
    /// The supervisor is gone from one moment to the next, and another one comes.
    Crash,
}

/// What came of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Played {
    /// How it ended.
    pub ending: Ending,
    /// How many requests were answered.
    pub requests: u64,
    /// How many events were told.
    pub events: u64,
}

/// How long a stack may take at most to come to its end after that was asked for: far more than all grace periods.
const END_WITHIN: Duration = Duration::from_secs(3600);

/// How long an answer may take: the loop is never busy for long.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the disk may take: real time.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

type Checked<T = ()> = Result<T, String>;

/// Plays a scenario against a supervisor whose files are below `home`. How it ends follows from the seed.
///
/// # Errors
/// What did not hold, as a sentence.
pub fn play(scenario: &Scenario, home: &Path) -> Checked<Played> {
    let mut dice = Dice::new(scenario.seed).of("stack", 0);
    let ending = match dice.below(10) {
        0 => Ending::Crash,
        1 | 2 => Ending::Held,
        3 | 4 => Ending::Lifeline,
        _ => Ending::Asked,
    };
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .map_err(|error| format!("no runtime: {error}"))
    };
    let told = runtime()?.block_on(first_life(scenario, home, ending, &mut dice))?;
    written(home, told.events.last().map_or(0, |event| event.seq))?;
    // A runtime of its own: what was left of the first one is gone with it.
    let events = runtime()?.block_on(second_life(scenario, home, &told))?;
    Ok(Played { ending, requests: told.requests, events })
}

/// What a supervisor had told when it was gone.
struct Told {
    requests: u64,
    events: Vec<Event>,
    /// Whether the next one finds that it did not end well; none where that depends on the moment.
    crashed: Option<bool>,
}

async fn first_life(scenario: &Scenario, home: &Path, ending: Ending, dice: &mut Dice) -> Checked<Told> {
    let (alive, gone) = oneshot::channel::<()>();
    let lifeline = (ending == Ending::Lifeline).then_some(gone);
    let mut stack = Stack::start(scenario, home, lifeline).await?;
    let following = tokio::spawn(follow(stack.client.clone()));
    let mut hold = match ending {
        Ending::Held => Some(within(stack.client.hold()).await?.map_err(text)?),
        Ending::Asked | Ending::Lifeline | Ending::Crash => None,
    };
    let mut alive = Some(alive);
    let last = scenario.timeline.last().map(|(at, _)| *at).unwrap_or_default();
    // Most of what can be interesting happens before all is calm.
    let restless =
        scenario.timeline.iter().find(|(_, what)| *what == Happening::Calm).map_or(last, |(at, _)| *at);
    let crash_at = dice.time(Span { from: Duration::ZERO, to: restless });
    for (at, happening) in &scenario.timeline {
        if ending == Ending::Crash && crash_at <= *at {
            tokio::time::sleep_until(stack.began + crash_at).await;
            stack.running.abort();
            let _ = (&mut stack.running).await;
            let (mut events, _) = (following.await.map_err(text)?, stack.host.shared().clear());
            // The stream was cut: it may be that the last line is half there.
            events.retain(Result::is_ok);
            let events = events.into_iter().collect::<Result<Vec<_>, _>>()?;
            gapless(&events)?;
            // One that was going down may have been at the very end.
            let crashed = (!stack.down).then_some(true);
            return Ok(Told { requests: stack.requests, events, crashed });
        }
        tokio::time::sleep_until(stack.began + *at).await;
        match (happening, ending) {
            (Happening::Down { .. }, Ending::Held) if hold.is_some() => {
                stack.down = true;
                drop(hold.take());
            }
            (Happening::Down { .. }, Ending::Lifeline) if alive.is_some() => {
                stack.down = true;
                drop(alive.take());
            }
            _ => stack.happens(happening).await?,
        }
    }
    let ended = tokio::time::timeout(END_WITHIN, &mut stack.running).await;
    let result = ended.map_err(|_| "the supervisor did not end".to_owned())?.map_err(text)?.map_err(text)?;
    if !result.errors.is_empty() {
        return Err(format!("the end was not clean: {:?}", result.errors));
    }
    for one_off in std::mem::take(&mut stack.one_offs) {
        let ended = within(one_off).await?.map_err(text)?;
        if !ended {
            return Err("a one-off was not told how it ended".to_owned());
        }
    }
    let events = following.await.map_err(text)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    gapless(&events)?;
    answered(&events, stack.asked_up)?;
    if !matches!(events.last().map(|event| &event.kind), Some(EventKind::SupervisorStopped { .. })) {
        return Err(format!("the last word is {:?}", events.last()));
    }
    stack.host.shared().nothing_left()?;
    if home.join("run").join(instance().as_str()).exists() {
        return Err("the runtime directory is still there".to_owned());
    }
    Ok(Told { requests: stack.requests, events, crashed: Some(false) })
}

/// Waits until the journal has this event. Who writes it is a thread, in real time: it goes on when the runtime of its
/// supervisor is gone, as it would not if the process were.
fn written(home: &Path, seq: u64) -> Checked {
    let path = home.join("state").join(instance().as_str()).join("journal.ndjson");
    let began = std::time::Instant::now();
    let is_there = |line: &[u8]| serde_json::from_slice::<Event>(line).is_ok_and(|event| event.seq >= seq);
    if seq == 0 {
        return Ok(());
    }
    loop {
        // It is made with the first line.
        let text = std::fs::read(&path).unwrap_or_default();
        if text.rsplit(|byte| *byte == b'\n').take(2).any(is_there) {
            return Ok(());
        }
        if began.elapsed() > WRITTEN_WITHIN {
            return Err(format!("event {seq} was told and is not written"));
        }
        std::thread::yield_now();
    }
}

/// Another supervisor of the same instance: it knows what was told before, and goes on with the numbers.
async fn second_life(scenario: &Scenario, home: &Path, told: &Told) -> Checked<u64> {
    let mut stack = Stack::start(scenario, home, None).await?;
    if told.crashed.is_some_and(|crashed| crashed != stack.crashed) {
        return Err(format!("the one before is said to have crashed: {}", stack.crashed));
    }
    stack.happens(&Happening::Down { now: false }).await?;
    // What is on disk, then what is told now.
    let all = read_all(&stack.client, 0).await;
    let ended = tokio::time::timeout(END_WITHIN, &mut stack.running).await;
    ended.map_err(|_| "the second supervisor did not end".to_owned())?.map_err(text)?.map_err(text)?;
    let Ok(all) = all else {
        // It was faster than its reader: there was nothing to take down.
        return Ok(told.events.len() as u64);
    };
    let last = told.events.last().map_or(0, |event| event.seq);
    if all.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
        return Err("numbers of events go back".to_owned());
    }
    let (before, after): (Vec<Event>, Vec<Event>) = all.into_iter().partition(|event| event.seq <= last);
    if before != told.events {
        let differ = before.iter().zip(&told.events).find(|(read, told)| read != told);
        return Err(format!(
            "{} events were told and {} are on disk; the first that differ: {differ:?}",
            told.events.len(),
            before.len()
        ));
    }
    let next = after.first().map_or(0, |event| event.seq);
    if told.crashed == Some(false) && next != last + 1 {
        return Err(format!("numbers go on with {next} after {last}"));
    }
    Ok(told.events.len() as u64)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

async fn within<T>(what: impl Future<Output = T>) -> Checked<T> {
    tokio::time::timeout(ANSWER_WITHIN, what).await.map_err(|_| "an answer takes too long".to_owned())
}

fn instance() -> InstanceId {
    InstanceId::from_dir_name("sim-00000000").expect("it is a name")
}

/// Follows the events to their end.
async fn follow(client: Client) -> Vec<Checked<Event>> {
    let mut events = Vec::new();
    match client.events(EventQuery { since: 0, follow: true }).await {
        Ok(mut stream) => {
            while let Some(event) = stream.next().await {
                events.push(event.map_err(text));
            }
        }
        Err(error) => events.push(Err(error.to_string())),
    }
    events
}

async fn read_all(client: &Client, since: u64) -> Checked<Vec<Event>> {
    let mut stream = client.events(EventQuery { since, follow: false }).await.map_err(text)?;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.map_err(text)?);
    }
    Ok(events)
}

fn gapless(events: &[Event]) -> Checked {
    match events.windows(2).find(|pair| pair[0].seq + 1 != pair[1].seq) {
        Some(pair) => Err(format!("event {} follows {}", pair[1].seq, pair[0].seq)),
        None if events.first().is_some_and(|event| event.seq != 1) => {
            Err("the first event is not 1".to_owned())
        }
        None => Ok(()),
    }
}

/// Who asked was answered, and nobody more often than that; the same question is answered once.
fn answered(events: &[Event], asked: u64) -> Checked {
    let is_answer = |event: &&Event| {
        matches!(event.kind, EventKind::WorkspaceReady { .. } | EventKind::WorkspaceFailed { .. })
    };
    let answers = events.iter().filter(is_answer).count() as u64;
    if asked > 0 && answers == 0 {
        return Err(format!("{asked} asked and nobody was answered"));
    }
    Ok(())
}

/// A supervisor that runs.
struct Stack {
    client: Client,
    host: Handle,
    began: Instant,
    running: JoinHandle<Result<RunResult, SupervisorError>>,
    one_offs: Vec<JoinHandle<bool>>,
    requests: u64,
    asked_up: u64,
    down: bool,
    crashed: bool,
}

impl Stack {
    async fn start(
        scenario: &Scenario,
        home: &Path,
        lifeline: Option<oneshot::Receiver<()>>,
    ) -> Checked<Self> {
        let plan = plan::plan(scenario, 0);
        let acquired = state_dir::acquire(&home.join("run"), &instance()).map_err(text)?;
        let Acquired::Locked { lock, crashed } = acquired else {
            return Err("the lock is still held".to_owned());
        };
        let state = home.join("state").join(instance().as_str());
        if !state.exists() {
            state_dir::prepare_state_dir(&state, &instance(), &plan.root).map_err(text)?;
        }
        let logs = Arc::new(LogStore::open(&state, LogLimits::default()).map_err(text)?);
        let (inbox, inputs) = mpsc::unbounded_channel();
        let began = Instant::now();
        let host = Handle::new(scenario, inbox, began);
        let (tell, listening) = oneshot::channel();
        let socket = lock.socket_path();
        let config = Config {
            planner: None,
            files: None,
            plan_files: Vec::new(),
            apply_widening: false,
            explain_watch: None,
            secrets: BTreeMap::new(),
            instance: instance(),
            version: "0.0.0".to_owned(),
            lock,
            state_dir: state,
            peer_check: Arc::new(|_| Ok(())),
            attached: lifeline.is_some(),
            lifeline: lifeline.map(|gone| -> ws_supervisor::Lifeline {
                Box::pin(async move {
                    // An error: who holds the other end is gone.
                    let _ = gone.await;
                })
            }),
            remove_volumes: Box::new(Vec::new),
            // It fails when nobody waits for it any more.
            on_listening: Box::new(move || {
                let _ = tell.send(());
            }),
            notices: Vec::new(),
            signals: false,
        };
        let running = tokio::spawn(Supervisor::run(config, plan, Box::new(host.clone()), inputs, logs));
        let client = Client::at(&socket);
        listening.await.map_err(|_| "the supervisor did not begin".to_owned())?;
        let crashed = crashed.is_some();
        Ok(Self {
            client,
            host,
            began,
            running,
            one_offs: Vec::new(),
            requests: 0,
            asked_up: 0,
            down: false,
            crashed,
        })
    }

    async fn happens(&mut self, happening: &Happening) -> Checked {
        let refusable = self.down;
        let answer = match happening {
            Happening::Up(services) => {
                self.asked_up += u64::from(!self.down);
                within(self.client.up(services)).await?
            }
            Happening::Stop(services) => within(self.client.stop(services)).await?,
            Happening::Restart(services) => within(self.client.restart(services)).await?,
            Happening::Kill(services) => within(self.client.kill(services)).await?,
            Happening::Down { now } => {
                self.down = true;
                within(self.client.down(DownRequest { now: *now, volumes: false })).await?
            }
            Happening::Run(service) => {
                self.one_offs.push(tokio::spawn(run(self.client.clone(), service.clone())));
                return Ok(());
            }
            // Who makes plans and who looks at files are not played here.
            Happening::Adopt(_) | Happening::Changed(_) | Happening::Fresh => return Ok(()),
            Happening::Exit(..) | Happening::Probe(..) | Happening::Notify(..) | Happening::Calm => {
                self.host.happen(happening);
                return Ok(());
            }
            Happening::HostLost => {
                self.down = true;
                self.host.happen(happening);
                return Ok(());
            }
            Happening::Settled => return self.at_rest().await,
            Happening::End => return Ok(()),
        };
        self.requests += 1;
        match answer {
            Ok(_) => Ok(()),
            // It said so: what starts something makes no sense any more.
            Err(ClientError::Api { status: 409, .. }) if refusable => Ok(()),
            // It has ended, or is about to.
            Err(error @ (ClientError::Api { status: 503, .. } | ClientError::Lost { .. })) if refusable => {
                drop(error);
                Ok(())
            }
            Err(error) if refusable && error.is_not_running() => Ok(()),
            Err(error) => Err(format!("`{}` was refused: {error}", crate::text::said(happening))),
        }
    }

    /// Everything is where it stays, and what was told last is what is.
    async fn at_rest(&mut self) -> Checked {
        if self.down {
            return Ok(());
        }
        self.requests += 2;
        let (rows, seq) = within(self.client.services_at()).await?.map_err(text)?;
        let events = read_all(&self.client, 0).await?;
        let mut told: BTreeMap<ServiceName, Phase> = BTreeMap::new();
        for event in events.into_iter().filter(|event| event.seq <= seq) {
            if let (Some(service), EventKind::Phase { phase, .. }) = (event.service, event.kind) {
                told.insert(service, phase);
            }
        }
        for row in rows {
            let phase = told.get(&row.name).copied().unwrap_or(Phase::Pending);
            if phase != row.phase {
                return Err(format!("{} is {} and was told to be {phase}", row.name, row.phase));
            }
            if !row.phase.is_settled_down() && row.phase != Phase::Ready {
                return Err(format!("{} is still {}: {}", row.name, row.phase, row.cause));
            }
            let runs = self.host.shared().host.runs_of(&row.name).any(|run| !run.killed);
            if runs != (row.phase == Phase::Ready) {
                return Err(format!(
                    "{} is {} and {} a run",
                    row.name,
                    row.phase,
                    if runs { "has" } else { "lacks" }
                ));
            }
            if row.pid.is_some() && !runs {
                return Err(format!("{} has a process and no run", row.name));
            }
        }
        Ok(())
    }
}

/// Runs a one-off to its end; whether it was told how it ended.
async fn run(client: Client, service: ServiceName) -> bool {
    let request =
        RunRequest { command: None, env: Vec::new(), working_dir: None, tty: false, no_deps: false };
    let mut session = match client.run(&service, &request).await {
        Ok(session) => session,
        // Refused, or nobody is there any more: that is an answer.
        Err(_) => return true,
    };
    loop {
        match session.streams.next().await {
            Ok(Some(ExecOutput::Exit(_))) => return true,
            Ok(Some(ExecOutput::Stdout(_) | ExecOutput::Stderr(_))) => {}
            Ok(None) => return false,
            Err(ClientError::Lost { .. }) => return true,
            Err(_) => return false,
        }
    }
}

/// The simulated host, as supervisor and scenario share it.
#[derive(Clone)]
struct Handle {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<Notify>,
}

struct Shared {
    host: SimHost,
    units: Vec<Unit>,
    inbox: mpsc::UnboundedSender<Input>,
    began: Instant,
    /// Standard streams of one-offs.
    streams: BTreeMap<ServiceName, [OwnedFd; 3]>,
    torn_down: bool,
    /// What the supervisor should not have done.
    wrong: Vec<String>,
}

impl Shared {
    fn clear(&mut self) {
        self.host.clear();
        self.streams.clear();
    }

    fn nothing_left(&self) -> Checked {
        if let Some(wrong) = self.wrong.first() {
            return Err(wrong.clone());
        }
        if !self.torn_down {
            return Err("the host was not torn down".to_owned());
        }
        Ok(())
    }
}

impl Handle {
    fn new(scenario: &Scenario, inbox: mpsc::UnboundedSender<Input>, began: Instant) -> Self {
        let shared = Shared {
            host: SimHost::new(scenario),
            units: scenario.services.clone(),
            inbox,
            began,
            streams: BTreeMap::new(),
            torn_down: false,
            wrong: Vec::new(),
        };
        let handle = Self { shared: Arc::new(Mutex::new(shared)), wake: Arc::new(Notify::new()) };
        // It ends with the runtime.
        tokio::spawn(handle.clone().tell());
        handle
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happens, when it happens.
    async fn tell(self) {
        loop {
            let next = {
                let mut shared = self.shared();
                let now = shared.began.elapsed();
                while let Some(input) = shared.host.tell(now) {
                    if let Input::Exited { service, .. } | Input::StartFailed { service, .. } = &input {
                        shared.streams.remove(service);
                    }
                    // It fails when the supervisor has ended.
                    let _ = shared.inbox.send(input);
                }
                shared.host.next().map(|at| shared.began + at)
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.wake.notified() => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn happen(&self, happening: &Happening) {
        let mut shared = self.shared();
        let now = shared.began.elapsed();
        if let Some(input) = shared.host.happen(happening, now) {
            let _ = shared.inbox.send(input);
        }
        self.wake.notify_one();
    }
}

impl Host for Handle {
    fn update(&mut self, service: ServicePlan, done: Box<dyn FnOnce(Result<(), String>) + Send>) {
        done(Err(format!("{} cannot be changed while it is there", service.name)));
    }

    fn set_external(
        &mut self,
        _external: Vec<ws_core::plan::ExternalPlan>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        done(Err("what is external cannot be changed".to_owned()));
    }

    fn set_secrets(&mut self, _secrets: BTreeMap<ws_model::SecretName, Vec<u8>>) {}

    fn submit(&mut self, effect: Effect) {
        let mut shared = self.shared();
        if shared.torn_down {
            shared.wrong.push(format!("{effect:?} after the tear-down"));
        }
        if let Effect::Start { service, .. } = &effect {
            let run = shared.host.runs_of(service).next().map(|run| run.generation);
            let text = |run| format!("{service} is started beside its run {run}");
            shared.wrong.extend(run.map(text));
        }
        let now = shared.began.elapsed();
        shared.host.submit(&effect, now);
        self.wake.notify_one();
    }

    fn exec(&mut self, _: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        drop(io);
        done(ExecResult::NotStarted { error: "there is no such program".to_owned(), not_found: true });
        ExecId(0)
    }

    fn cancel_exec(&mut self, _: ExecId) {}

    fn add(
        &mut self,
        service: ServicePlan,
        io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        let mut shared = self.shared();
        let of = shared.units.iter().find(|unit| {
            unit.name == service.declared
                || unit.replica_of.as_ref().is_some_and(|(declared, _)| *declared == service.declared)
        });
        let Some(unit) = of.map(|of| plan::one_off(of, service.name.clone())) else {
            return done(Err(format!("nobody knows {}", service.declared)));
        };
        shared.host.add(unit);
        if let Some(ExecIo { stdin, stdout, stderr }) = io {
            shared.streams.insert(service.name, [stdin, stdout, stderr]);
        }
        drop(shared);
        done(Ok(()));
    }

    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        let mut shared = self.shared();
        if shared.host.runs_of(service).next().is_some() {
            shared.wrong.push(format!("{service} is removed while it runs"));
        }
        shared.host.remove(service);
        shared.streams.remove(service);
        drop(shared);
        done(Vec::new());
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        BTreeMap::new()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        let standing = Standing { level: Level::None, missing: Vec::new(), undetected: Vec::new() };
        self.shared().units.iter().map(|unit| (unit.name.clone(), standing.clone())).collect()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        let mut shared = self.shared();
        shared.torn_down = true;
        shared.clear();
        drop(shared);
        done(Vec::new());
    }
}
