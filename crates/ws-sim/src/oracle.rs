//! What must hold in every schedule, checked after every step, from nothing but what went in and what came out.
//!
//! The oracle shares no code with the engine, and no state: it keeps its own books of what the host told and
//! what the engine did. A rule here says what may never be; which of several right things the engine does is the
//! engine's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ws_core::engine::{
    Effect, Engine, EngineStatus, Generation, Hook, Input, Notified, Outcome, ProbeRole, Tick,
};
use ws_model::{
    Cause, Condition, EventKind, ExitReason, Phase, Reason, RestartPolicy, ServiceKind, ServiceName,
};

use crate::scenario::{Scenario, Unit, UnitProbe};

/// How long the host may take to answer a kill before its run counts as lost.
const KILL_ANSWER: Duration = Duration::from_secs(10);

/// The shortest time of being ready after which restarts may be counted anew.
const STABLE: Duration = Duration::from_secs(10);

/// Times are told in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(1);

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No service starts before what it waits for is there.
    Order,
    /// A service never has two runs, and their numbers go up.
    OneRun,
    /// Each request to be up is answered once, and truly.
    Answers,
    /// Each other request is obeyed at once as far as that is possible, and nothing starts after `down`.
    Obeys,
    /// When nothing happens any more, every service is where it stays and every request was answered.
    Rest,
    /// Services that are stopped together stop in reverse order.
    Reverse,
    /// What failed, was stopped or has ended has no process.
    Dead,
    /// After `down` nothing is left on the host, and nothing is going to happen.
    Leak,
    /// Restarts stay within their policy: whether, how often, and after which pause.
    Policy,
    /// A service is told to be ready only when its startup and ready probes and its `post_start` say so, and as
    /// long as they do.
    Ready,
    /// Probes and hooks come in their order: startup before the others, `pre_stop` before the stop command before
    /// the signal.
    Turns,
    /// What does not become ready in time does not stay.
    Within,
    /// What does not answer its liveness probe is ended.
    Life,
    /// What does not stop is killed when its grace period is over, and not before.
    Grace,
    /// What is bound to another service by `restart: true` runs beside that run of it with which it started.
    Bound,
    /// No effect for a run that is not there, and none twice.
    Effects,
    /// What is told of a service agrees with its status, has a cause, and is told once.
    Telling,
    /// A deadline that is met is gone.
    Deadline,
    /// The same scenario gives the same transcript.
    Same,
    /// Nothing is done at a place that is not there, and nothing is used by two.
    Place,
    /// Each plan that is adopted is carried out to its end.
    Adopts,
    /// After any plans, all is as after a first `up` of the last one.
    Fresh,
    /// A second run begins only beside one that is ready, and that one stays ready.
    Overlap,
    /// Connections wait only while a run is replaced.
    Hold,
    /// A build that fails leaves alone whoever runs.
    Builds,
    /// Nothing panics.
    Panic,
}

impl Invariant {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::OneRun => "one-run",
            Self::Answers => "answers",
            Self::Obeys => "obeys",
            Self::Rest => "rest",
            Self::Reverse => "reverse",
            Self::Dead => "dead",
            Self::Leak => "leak",
            Self::Policy => "policy",
            Self::Ready => "ready",
            Self::Turns => "turns",
            Self::Within => "within",
            Self::Life => "life",
            Self::Grace => "grace",
            Self::Bound => "bound",
            Self::Effects => "effects",
            Self::Telling => "telling",
            Self::Deadline => "deadline",
            Self::Same => "same",
            Self::Place => "place",
            Self::Adopts => "adopts",
            Self::Fresh => "fresh",
            Self::Overlap => "overlap",
            Self::Hold => "hold",
            Self::Builds => "builds",
            Self::Panic => "panic",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// How, as a sentence.
    pub text: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

type Checked = Result<(), Broken>;

fn broken(invariant: Invariant, text: impl Into<String>) -> Checked {
    Err(Broken { invariant, text: text.into() })
}

/// A run, as it was told.
#[derive(Debug)]
struct SeenRun {
    generation: Generation,
    executed_at: Option<Tick>,
    probes: BTreeSet<ProbeRole>,
    /// Hooks that were begun, and how they ended.
    hooks: BTreeMap<Hook, Option<bool>>,
    post_start_at: Option<Tick>,
    startup_at: Option<Tick>,
    /// What the ready probe said last.
    ready: Option<bool>,
    ready_misses: u32,
    live_misses: u32,
    /// Whether it was ready once.
    was_ready: bool,
    /// When it last told that it lives, or was ready for the first time.
    watchdog_at: Option<Tick>,
    /// Whether it asked to be taken for dead.
    gave_up: bool,
    /// Until when it asked for patience.
    patience: Tick,
    stop_begun: Option<Tick>,
    signalled: bool,
    killed_at: Option<Tick>,
    /// When a probe became another one.
    probed_anew: Tick,
    /// Whether it said that it is ready, last.
    said: bool,
    /// Its grace period, from when it was asked to stop.
    grace: Option<Duration>,
    /// Whether it was asked to get the connections.
    switching: bool,
    /// Whether it is what is left of a run before the one that has ended.
    leftover: bool,
    /// The runs to which it is bound.
    with: BTreeMap<ServiceName, Generation>,
}

/// The place of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenPlace {
    There,
    Asked,
    Leaving,
    None,
}

/// A service, as it was told.
#[derive(Debug)]
struct Seen {
    unit: Unit,
    /// Whether it came after the plan.
    added: bool,
    told: Phase,
    cause: Reason,
    generation: Generation,
    /// The run in charge.
    run: Option<SeenRun>,
    /// Another one that comes, or goes.
    beside: Option<SeenRun>,
    /// What the plan that is carried out makes of it.
    next: Option<Unit>,
    leaving: bool,
    place: SeenPlace,
    /// Whether the host was told of its next plan and has not answered.
    updating: bool,
    held: bool,
    /// Its last run ended with success.
    completed: bool,
    /// How its last run ended; a failed start has no exit.
    last_exit: Option<ExitReason>,
    /// Its last run was no success, however it ended: it was ended for a failure, or had no memory.
    failing: bool,
    hopeless: bool,
    /// Since when it is told to be ready, and how long it last was.
    ready_since: Option<Tick>,
    ready_for: Duration,
    /// Restarts by its policy in a row, at least; all of them, when nothing could have reset the count.
    streak: u32,
    exact: bool,
    not_before: Option<Tick>,
    /// Somebody asked for an end without grace.
    impatient: bool,
}

/// Keeps the books and judges.
#[derive(Debug)]
pub struct Oracle {
    services: BTreeMap<ServiceName, Seen>,
    /// Those that are to end by themselves: tasks, and what somebody waits for until it has.
    completes: BTreeSet<ServiceName>,
    goals: Vec<BTreeSet<ServiceName>>,
    going_down: bool,
    late: Duration,
}

impl Oracle {
    /// Judges what happens in this scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let mut oracle = Self {
            services: BTreeMap::new(),
            completes: BTreeSet::new(),
            goals: Vec::new(),
            going_down: false,
            late: scenario.late + ROUNDING,
        };
        scenario.services.iter().for_each(|unit| oracle.take_in(unit));
        oracle
    }

    /// One more service than in the plan.
    pub fn add(&mut self, unit: &Unit) {
        self.take_in(unit);
        if let Some(seen) = self.services.get_mut(&unit.name) {
            seen.added = true;
        }
    }

    fn take_in(&mut self, unit: &Unit) {
        self.services.insert(unit.name.clone(), Seen::new(unit));
        self.note_what_completes();
    }

    fn note_what_completes(&mut self) {
        self.completes.clear();
        for unit in self.services.values().map(|seen| &seen.unit) {
            if unit.kind != ServiceKind::Service {
                self.completes.insert(unit.name.clone());
            }
            let completed = unit.waits.iter().filter(|wait| wait.condition == Condition::Completed);
            self.completes.extend(completed.map(|wait| wait.on.clone()));
        }
    }

    /// Another plan is adopted.
    pub fn adopt(&mut self, units: &[Unit]) {
        if self.going_down {
            return;
        }
        self.forget_streaks();
        let gone: Vec<ServiceName> = (self.services.iter())
            .filter(|(_, seen)| !seen.added && units.iter().all(|unit| unit.name != seen.unit.name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(seen) = self.services.get_mut(&name) {
                seen.leaving = true;
                if seen.place == SeenPlace::None {
                    self.services.remove(&name);
                }
            }
            for goal in &mut self.goals {
                goal.remove(&name);
            }
        }
        for unit in units {
            match self.services.get_mut(&unit.name) {
                None => {
                    let seen = Seen { place: SeenPlace::None, ..Seen::new(unit) };
                    self.services.insert(unit.name.clone(), seen);
                }
                Some(seen) if seen.place == SeenPlace::None => seen.unit = unit.clone(),
                Some(seen) => seen.next = (seen.unit != *unit).then(|| unit.clone()),
            }
        }
        self.note_what_completes();
    }

    /// Whether a service is there and stays.
    #[must_use]
    pub fn is_there(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_some_and(|seen| !seen.leaving)
    }

    /// One service less.
    pub fn remove(&mut self, service: &ServiceName) {
        self.services.remove(service);
        for seen in self.services.values_mut() {
            for run in [&mut seen.run, &mut seen.beside].into_iter().flatten() {
                run.with.remove(service);
            }
        }
        // Who asked for it with others is told what became of the others.
        for goal in &mut self.goals {
            goal.remove(service);
        }
    }

    /// Whether a service has come to its end, as it was told.
    #[must_use]
    pub fn is_settled(&self, service: &ServiceName) -> bool {
        self.services
            .get(service)
            .is_none_or(|seen| seen.told.is_settled_down() && seen.told != Phase::Pending)
    }

    /// Whether everything was asked to go down.
    #[must_use]
    pub fn is_going_down(&self) -> bool {
        self.going_down
    }

    /// Judges one step.
    ///
    /// # Errors
    /// What does not hold after it.
    pub fn judge(&mut self, input: &Input, outcome: &Outcome, engine: &Engine, now: Tick) -> Checked {
        let was_going_down = self.going_down;
        self.note(input, now);
        for (service, event) in &outcome.events {
            match service {
                Some(service) => self.told(service, event, now)?,
                None => self.answered(event)?,
            }
        }
        for effect in &outcome.effects {
            self.done(effect, now)?;
        }
        self.obeyed(input, was_going_down)?;
        self.leaves_alone(input, outcome)?;
        for (name, seen) in &self.services {
            if seen.held && seen.told == Phase::Ready {
                return broken(Invariant::Hold, format!("{name} is ready and connections wait"));
            }
        }
        self.in_time(now)?;
        if !outcome.events.is_empty() || matches!(input, Input::Probed { .. } | Input::Notified { .. }) {
            self.agrees(&engine.status(), now)?;
        }
        for (service, _) in &outcome.events {
            if let Some(service) = service {
                self.explained(service, engine)?;
            }
        }
        Ok(())
    }

    // ---- what was told by the host and asked by people

    fn note(&mut self, input: &Input, now: Tick) {
        match input {
            Input::Up { services } => {
                self.forget_streaks();
                let members = self.needed(services);
                if self.going_down || !self.goals.contains(&members) {
                    self.goals.push(members);
                }
            }
            Input::Restart { .. } | Input::Stop { .. } => self.forget_streaks(),
            Input::Kill { services } => {
                self.forget_streaks();
                for name in self.chosen(services) {
                    if let Some(seen) = self.services.get_mut(&name) {
                        seen.impatient = true;
                    }
                }
            }
            Input::Down { now: at_once } => {
                self.going_down = true;
                if *at_once {
                    self.services.values_mut().for_each(|seen| seen.impatient = true);
                }
            }
            Input::HostLost { .. } => {
                // One word for all who asked, and where nobody did.
                if !self.going_down {
                    self.goals = vec![BTreeSet::new()];
                }
                self.going_down = true;
                self.services.values_mut().for_each(|seen| seen.impatient = true);
            }
            Input::Executed { service, generation, pid: _ } => {
                if let Some(run) = self.run(service, *generation) {
                    run.executed_at = Some(now);
                }
            }
            Input::StartFailed { service, generation, error: _, hopeless } => {
                if let Some(seen) = self.services.get_mut(service) {
                    seen.beside.take_if(|run| run.generation == *generation);
                    if seen.run.take_if(|run| run.generation == *generation).is_some() {
                        seen.hopeless = *hopeless;
                        seen.last_exit = None;
                        seen.next_in_charge();
                    }
                }
            }
            Input::Exited { service, generation, exit, oom } => {
                if let Some(seen) = self.services.get_mut(service) {
                    seen.beside.take_if(|run| run.generation == *generation);
                    if let Some(run) = seen.run.take_if(|run| run.generation == *generation) {
                        // What was left of a run before says nothing of how this one ended.
                        if !run.leftover {
                            seen.hopeless = false;
                            seen.last_exit = Some(*exit);
                            seen.failing |= *oom;
                            seen.completed = seen.is_success(*exit) && !*oom;
                            seen.failing |= seen.beside.is_some() && !seen.completed;
                        }
                        seen.next_in_charge();
                    }
                }
            }
            Input::Probed { service, generation, probe, result } => {
                if let Some(run) = self.run(service, *generation).filter(|run| run.probes.contains(probe)) {
                    run.probed(*probe, result.is_ok(), now);
                }
            }
            Input::Notified { service, generation, news } => {
                let unit = self.services.get(service).map(|seen| seen.unit.clone());
                if let (Some(unit), Some(run)) = (unit, self.run(service, *generation)) {
                    run.notified(&unit, news, now);
                }
            }
            Input::HookEnded { service, generation, hook, result } => {
                if let Some(run) = self.run(service, *generation) {
                    if let Some(ended) = run.hooks.get_mut(hook) {
                        *ended = Some(result.is_ok());
                    }
                    if *hook == Hook::PostStart {
                        run.post_start_at = Some(now);
                    }
                }
            }
            Input::FilesChanged { .. } => self.forget_streaks(),
            Input::Placed { service, result } => {
                if let Some(seen) = self.services.get_mut(service) {
                    seen.place = if result.is_ok() { SeenPlace::There } else { SeenPlace::None };
                    seen.forget_streak();
                }
            }
            Input::Displaced { service, errors: _ } => self.displaced(service),
            Input::Updated { service, result } => {
                if let Some(seen) = self.services.get_mut(service) {
                    seen.updating = false;
                    let next = seen.next.take();
                    if let Some(next) = next.filter(|_| result.is_ok()) {
                        seen.forget_streak();
                        seen.is_another(next, now);
                    }
                }
                self.note_what_completes();
            }
            Input::Switched { service, generation } => {
                if let Some(seen) = self.services.get_mut(service)
                    && let Some(beside) = &mut seen.beside
                    && beside.generation == *generation
                    && beside.switching
                    && beside.killed_at.is_none()
                {
                    std::mem::swap(&mut seen.run, &mut seen.beside);
                    for run in [&mut seen.run, &mut seen.beside].into_iter().flatten() {
                        run.switching = false;
                    }
                    seen.forget_streak();
                }
            }
            Input::Add { .. }
            | Input::Remove { .. }
            | Input::Published { .. }
            | Input::Checked { .. }
            | Input::Recorded { .. }
            | Input::Adopt { .. }
            | Input::Observed(_)
            | Input::Tick => {}
        }
    }

    /// A place is gone, and whatever was there.
    fn displaced(&mut self, service: &ServiceName) {
        let Some(seen) = self.services.get_mut(service) else { return };
        seen.place = SeenPlace::None;
        (seen.run, seen.beside) = (None, None);
        seen.forget_streak();
        if seen.leaving {
            self.remove(service);
        } else if let Some(next) = seen.next.take() {
            seen.unit = next;
        }
        self.note_what_completes();
    }

    /// The runs to which one is bound that starts now.
    fn works_with(&self, unit: &Unit) -> BTreeMap<ServiceName, Generation> {
        let bound = unit.waits.iter().filter(|wait| wait.restart).filter_map(|wait| {
            let run = self.services.get(&wait.on)?.run.as_ref()?;
            let works = run.executed_at.is_some() && run.killed_at.is_none();
            works.then(|| (wait.on.clone(), run.generation))
        });
        bound.collect()
    }

    fn run(&mut self, service: &ServiceName, generation: Generation) -> Option<&mut SeenRun> {
        let seen = self.services.get_mut(service)?;
        [&mut seen.run, &mut seen.beside].into_iter().flatten().find(|run| run.generation == generation)
    }

    /// Somebody changed their mind: what a policy counted may be counted anew.
    fn forget_streaks(&mut self) {
        for seen in self.services.values_mut() {
            seen.forget_streak();
        }
    }

    /// All that these names mean; everything, where there is none.
    fn chosen(&self, services: &[ServiceName]) -> Vec<ServiceName> {
        if services.is_empty() {
            return self.services.keys().cloned().collect();
        }
        let means = |name: &ServiceName| -> Vec<ServiceName> {
            if self.services.contains_key(name) {
                return vec![name.clone()];
            }
            let replica = |seen: &&Seen| seen.unit.replica_of.as_ref().is_some_and(|(of, _)| of == name);
            let replicas = self.services.values().filter(replica).filter(|seen| !seen.added);
            replicas.map(|seen| seen.unit.name.clone()).collect()
        };
        services.iter().flat_map(means).collect()
    }

    /// The same where something is to start: without a name only the services of the plan are meant.
    fn wanted(&self, services: &[ServiceName]) -> Vec<ServiceName> {
        let mut wanted = self.chosen(services);
        wanted.retain(|name| self.services.get(name).is_some_and(|seen| !seen.leaving));
        if services.is_empty() {
            wanted.retain(|name| self.services.get(name).is_some_and(|seen| !seen.added));
        }
        wanted
    }

    /// These and what they cannot do without.
    fn needed(&self, services: &[ServiceName]) -> BTreeSet<ServiceName> {
        let mut found = BTreeSet::new();
        let mut todo = self.wanted(services);
        while let Some(name) = todo.pop() {
            let Some(seen) = self.services.get(&name).filter(|seen| !seen.leaving) else { continue };
            if found.insert(name) {
                let required = seen.unit.waits.iter().filter(|wait| wait.required);
                todo.extend(required.map(|wait| wait.on.clone()));
            }
        }
        found
    }

    // ---- what was told by the engine

    fn told(&mut self, service: &ServiceName, event: &EventKind, now: Tick) -> Checked {
        let Some(seen) = self.services.get_mut(service) else {
            return broken(Invariant::Telling, format!("{service} is told about and is not there"));
        };
        match event {
            EventKind::Phase { phase, cause, exit: _, retry_in_ms } => {
                seen.enters(*phase, cause, *retry_in_ms, now)
            }
            EventKind::FilesChanged { .. }
            | EventKind::Reloaded { .. }
            | EventKind::PlanChanged { .. }
            | EventKind::PlanApplied { .. }
            | EventKind::PlanRefused { .. }
            | EventKind::Violation(_)
            | EventKind::Published { .. }
            | EventKind::Notice { .. }
            | EventKind::Status { .. } => Ok(()),
            EventKind::SupervisorStarted { .. }
            | EventKind::SupervisorStopped { .. }
            | EventKind::WorkspaceReady { .. }
            | EventKind::WorkspaceFailed { .. }
            | EventKind::LogDropped { .. } => {
                broken(Invariant::Telling, format!("nobody asked for {event:?} of {service}"))
            }
        }
    }

    fn answered(&mut self, event: &EventKind) -> Checked {
        let position = match event {
            EventKind::WorkspaceReady { .. } => {
                self.goals.iter().position(|goal| goal.iter().all(|name| self.is_ready(name)))
            }
            EventKind::WorkspaceFailed { .. } => self.goals.iter().position(|goal| {
                self.going_down || goal.iter().any(|name| !self.is_ready(name) && self.has_settled(name))
            }),
            EventKind::FilesChanged { .. }
            | EventKind::Reloaded { .. }
            | EventKind::PlanChanged { .. }
            | EventKind::PlanApplied { .. }
            | EventKind::PlanRefused { .. }
            | EventKind::Violation(_)
            | EventKind::Notice { .. } => return Ok(()),
            EventKind::SupervisorStarted { .. }
            | EventKind::SupervisorStopped { .. }
            | EventKind::Phase { .. }
            | EventKind::Published { .. }
            | EventKind::LogDropped { .. }
            | EventKind::Status { .. } => {
                return broken(Invariant::Telling, format!("nobody asked for {event:?}"));
            }
        };
        match position {
            Some(position) => {
                self.goals.remove(position);
                Ok(())
            }
            None => broken(Invariant::Answers, format!("{event:?} is not the answer to any request")),
        }
    }

    fn is_ready(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_none_or(|seen| match seen.told {
            Phase::Ready => true,
            Phase::Exited => seen.completed && self.completes.contains(service),
            Phase::Pending
            | Phase::Waiting
            | Phase::Building
            | Phase::Starting
            | Phase::Running
            | Phase::Unhealthy
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Failed
            | Phase::Backoff
            | Phase::Violated => false,
        })
    }

    fn has_settled(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_none_or(|seen| seen.told.is_settled_down())
    }

    // ---- what was done by the engine

    fn done(&mut self, effect: &Effect, now: Tick) -> Checked {
        match effect {
            Effect::Start { service, generation, step: _ } => self.started(service, *generation, now),
            Effect::StartBeside { service, generation } => self.started_beside(service, *generation),
            Effect::Signal { service, generation, .. } => {
                let (seen, run) = self.effect_on(service, *generation, effect)?;
                if run.signalled || run.executed_at.is_none() {
                    return broken(Invariant::Effects, format!("{service} is signalled as {run:?}"));
                }
                let hooks = [(Hook::PreStop, seen.pre_stop.is_some()), (Hook::Stop, seen.stop_command)];
                for (hook, _) in hooks.iter().filter(|(_, has)| *has) {
                    if !matches!(run.hooks.get(hook), Some(Some(_))) {
                        let text = format!("{service} is signalled before its {hook:?} has ended");
                        return broken(Invariant::Turns, text);
                    }
                }
                run.signalled = true;
                if run.stop_begun.is_some() {
                    return Ok(());
                }
                run.stop_begun = Some(now);
                run.grace = Some(seen.grace);
                self.reversed(service, *generation)
            }
            Effect::Kill { service, generation } => {
                let impatient = self.services.get(service).is_some_and(|seen| seen.impatient);
                let (unit, run) = self.effect_on(service, *generation, effect)?;
                if let Some(begun) = run.stop_begun
                    && !impatient
                    && now < begun + run.grace.unwrap_or(unit.grace)
                {
                    let left = begun + run.grace.unwrap_or(unit.grace) - now;
                    return broken(
                        Invariant::Grace,
                        format!("{service} is killed {left:?} before its grace is over"),
                    );
                }
                run.killed_at = Some(now);
                Ok(())
            }
            Effect::StartProbe { service, generation, probe } => {
                let (unit, run) = self.effect_on(service, *generation, effect)?;
                if run.executed_at.is_none() || unit.probe(*probe).is_none() {
                    return broken(Invariant::Effects, format!("{service} is probed ({probe:?}) as {run:?}"));
                }
                if *probe != ProbeRole::Startup && unit.startup.is_some() && run.startup_at.is_none() {
                    let text = format!("{service} is probed ({probe:?}) before it has started up");
                    return broken(Invariant::Turns, text);
                }
                if unit.post_start.is_some() && run.hooks.get(&Hook::PostStart) != Some(&Some(true)) {
                    let text =
                        format!("{service} is probed ({probe:?}) before its `post_start` has succeeded");
                    return broken(Invariant::Turns, text);
                }
                let was_ready = run.was_ready || run.ready == Some(true);
                if *probe == ProbeRole::Live && unit.ready.is_some() && !was_ready {
                    let text = format!("{service} is asked whether it lives before it was ready");
                    return broken(Invariant::Turns, text);
                }
                if !run.probes.insert(*probe) {
                    return broken(Invariant::Effects, format!("{service} is probed ({probe:?}) twice"));
                }
                Ok(())
            }
            Effect::StopProbe { service, generation, probe } => {
                let (_, run) = self.effect_on(service, *generation, effect)?;
                if run.probes.remove(probe) {
                    return Ok(());
                }
                broken(
                    Invariant::Effects,
                    format!("{service} is not probed ({probe:?}), and is not any more"),
                )
            }
            Effect::Switch { service, generation } => {
                let (_, run) = self.effect_on(service, *generation, effect)?;
                run.switching = true;
                let Some(seen) = self.services.get_mut(service) else { return Ok(()) };
                let Some(beside) = seen.beside.as_mut().filter(|run| run.generation == *generation) else {
                    return Ok(());
                };
                beside.was_ready = true;
                beside.watchdog_at.get_or_insert(now);
                seen.run_may_be_ready(seen.beside.as_ref())
            }
            Effect::Hold { service } | Effect::Release { service } => {
                let hold = matches!(effect, Effect::Hold { .. });
                let Some(seen) = self.services.get_mut(service) else {
                    return broken(Invariant::Hold, format!("{effect:?} for one that is not there"));
                };
                if std::mem::replace(&mut seen.held, hold) == hold {
                    return broken(Invariant::Hold, format!("{effect:?} twice"));
                }
                Ok(())
            }
            Effect::Fingerprint { service, .. } => match self.services.get(service) {
                Some(seen) if seen.place == SeenPlace::There && seen.run.is_none() => Ok(()),
                Some(_) | None => broken(Invariant::Effects, format!("{effect:?} at the wrong time")),
            },
            Effect::Place { service } => self.places(&service.name),
            Effect::Displace { service } => {
                let Some(seen) = self.services.get_mut(service) else {
                    return broken(Invariant::Place, format!("{service} is displaced and is not there"));
                };
                let left = [&seen.run, &seen.beside].into_iter().flatten().find(|run| !run.is_lost(now));
                if let Some(run) = left {
                    return broken(Invariant::Place, format!("{service} is displaced and has {run:?}"));
                }
                if seen.place != SeenPlace::There || (!seen.leaving && seen.next.is_none()) {
                    return broken(Invariant::Place, format!("{service} is displaced: {seen:?}"));
                }
                if seen.held {
                    return broken(Invariant::Hold, format!("{service} is displaced and connections wait"));
                }
                seen.place = SeenPlace::Leaving;
                Ok(())
            }
            Effect::Update { service } => {
                let name = &service.name;
                let Some(seen) = self.services.get_mut(name) else {
                    return broken(Invariant::Place, format!("{name} is updated and is not there"));
                };
                if seen.place != SeenPlace::There || seen.next.is_none() || seen.updating {
                    return broken(Invariant::Place, format!("{name} is updated: {seen:?}"));
                }
                seen.updating = true;
                Ok(())
            }
            Effect::RunHook { service, generation, hook } => {
                let (unit, run) = self.effect_on(service, *generation, effect)?;
                let has = match hook {
                    Hook::PostStart => unit.post_start.is_some(),
                    Hook::PreStop => unit.pre_stop.is_some(),
                    Hook::Stop => unit.stop_command,
                };
                if !has || run.executed_at.is_none() {
                    return broken(Invariant::Effects, format!("{service} runs its {hook:?} as {run:?}"));
                }
                if run.hooks.insert(*hook, None).is_some() {
                    return broken(Invariant::Effects, format!("{service} runs its {hook:?} twice"));
                }
                if *hook == Hook::PostStart {
                    return Ok(());
                }
                let before =
                    unit.pre_stop.is_some() && !matches!(run.hooks.get(&Hook::PreStop), Some(Some(_)));
                if run.signalled || (*hook == Hook::Stop && before) {
                    return broken(
                        Invariant::Turns,
                        format!("{service} runs its {hook:?} at the wrong time"),
                    );
                }
                if run.stop_begun.is_some() {
                    return Ok(());
                }
                run.stop_begun = Some(now);
                run.grace = Some(unit.grace);
                self.reversed(service, *generation)
            }
        }
    }

    /// A place is to be made: there is none, and what it needs is used by nobody else.
    fn places(&mut self, service: &ServiceName) -> Checked {
        let Some(seen) = self.services.get(service) else {
            return broken(Invariant::Place, format!("{service} gets a place and is not there"));
        };
        if seen.place != SeenPlace::None || seen.leaving {
            return broken(Invariant::Place, format!("{service} gets a second place"));
        }
        let has_it = |other: &&Seen| {
            let is_there = matches!(other.place, SeenPlace::There | SeenPlace::Leaving);
            // Two that want the same are wrong in the plan.
            let keeps = !other.leaving && other.next.as_ref().unwrap_or(&other.unit).port == other.unit.port;
            is_there && !keeps && other.unit.port == seen.unit.port && other.unit.name != *service
        };
        if seen.unit.port.is_some()
            && let Some(other) = self.services.values().find(has_it)
        {
            let text = format!("{service} gets its place while {} still has its port", other.unit.name);
            return broken(Invariant::Place, text);
        }
        if let Some(seen) = self.services.get_mut(service) {
            seen.place = SeenPlace::Asked;
        }
        Ok(())
    }

    /// The run that an effect is for, with its service.
    fn effect_on(
        &mut self,
        service: &ServiceName,
        generation: Generation,
        effect: &Effect,
    ) -> Result<(Unit, &mut SeenRun), Broken> {
        let none = |text: String| Broken { invariant: Invariant::Effects, text };
        let Some(seen) = self.services.get_mut(service) else {
            return Err(none(format!("{effect:?} for a service that is not there")));
        };
        let mut runs = [&mut seen.run, &mut seen.beside].into_iter().flatten();
        let Some(run) = runs.find(|run| run.generation == generation) else {
            return Err(none(format!("{effect:?} for a run that is over")));
        };
        if run.killed_at.is_some() {
            return Err(none(format!("{effect:?} for {run:?}")));
        }
        Ok((seen.unit.clone(), run))
    }

    /// A run begins beside another one: only of a service that asks for that, is ready, and has no third one.
    fn started_beside(&mut self, service: &ServiceName, generation: Generation) -> Checked {
        self.may_start(service, generation)?;
        let with = self.services.get(service).map(|seen| self.works_with(&seen.unit)).unwrap_or_default();
        let Some(seen) = self.services.get_mut(service) else { return Ok(()) };
        let works =
            seen.run.as_ref().is_some_and(|run| run.executed_at.is_some() && run.stop_begun.is_none());
        if !seen.unit.overlap || !works || !matches!(seen.told, Phase::Ready | Phase::Unhealthy) {
            let text = format!("{service} is {} and a run begins beside {:?}", seen.told, seen.run);
            return broken(Invariant::Overlap, text);
        }
        if let Some(run) = &seen.beside {
            let text = format!("{service} starts beside two: {}", run.generation);
            return broken(Invariant::OneRun, text);
        }
        seen.beside = Some(SeenRun { with, ..SeenRun::new(generation) });
        seen.generation = generation;
        Ok(())
    }

    fn started(&mut self, service: &ServiceName, generation: Generation, now: Tick) -> Checked {
        self.may_start(service, generation)?;
        let Some(seen) = self.services.get(service) else { return Ok(()) };
        if let Some(run) = seen.run.as_ref().or(seen.beside.as_ref()) {
            return broken(Invariant::OneRun, format!("{service} starts beside its run {}", run.generation));
        }
        if let Some(early) = seen.not_before.and_then(|at| at.checked_sub(now + ROUNDING)) {
            return broken(Invariant::Policy, format!("{service} starts {early:?} before its pause is over"));
        }
        let run = SeenRun { with: self.works_with(&seen.unit), ..SeenRun::new(generation) };
        if let Some(seen) = self.services.get_mut(service) {
            seen.run = Some(run);
            seen.generation = generation;
            seen.completed = false;
            seen.failing = false;
            seen.not_before = None;
            seen.impatient = false;
        }
        Ok(())
    }

    /// What holds for each start: it has a place and the right plan, and what it waits for is there.
    fn may_start(&self, service: &ServiceName, generation: Generation) -> Checked {
        let Some(seen) = self.services.get(service) else {
            return broken(Invariant::Effects, format!("{service} starts and is not there"));
        };
        if seen.place != SeenPlace::There {
            return broken(Invariant::Place, format!("{service} starts and its place is {:?}", seen.place));
        }
        if seen.leaving || seen.next.is_some() {
            return broken(Invariant::Place, format!("{service} starts and is to be another"));
        }
        if generation <= seen.generation {
            return broken(Invariant::OneRun, format!("{service} starts with the old number {generation}"));
        }
        if self.going_down {
            return broken(Invariant::Obeys, format!("{service} starts after `down`"));
        }
        for wait in &seen.unit.waits {
            let Some(on) = self.services.get(&wait.on).filter(|on| !on.leaving) else { continue };
            let runs = on.run.as_ref().is_some_and(|run| {
                let hook =
                    on.unit.post_start.is_none() || run.hooks.get(&Hook::PostStart) == Some(&Some(true));
                run.executed_at.is_some() && hook
            });
            let completed = on.completed && on.told == Phase::Exited;
            let there = match wait.condition {
                Condition::Started => runs || completed,
                Condition::Ready => (runs && on.told == Phase::Ready) || completed,
                Condition::Completed => completed,
            };
            if !there && (wait.required || !on.told.is_settled_down()) {
                let condition = wait.condition.as_str();
                let text =
                    format!("{service} starts although {} is {} and not {condition}", wait.on, on.told);
                return broken(Invariant::Order, text);
            }
        }
        Ok(())
    }

    /// Whoever waits on a service and is being stopped as well is gone before that one is asked to stop.
    fn reversed(&self, service: &ServiceName, generation: Generation) -> Checked {
        // Nobody works with the old run that goes while another one is in charge.
        let beside = self.services.get(service).and_then(|seen| seen.beside.as_ref());
        if beside.is_some_and(|run| run.generation == generation) {
            return Ok(());
        }
        let on_request = |cause: Reason| match cause {
            Reason::Requested
            | Reason::Shutdown
            | Reason::DependencyRestarted
            | Reason::FilesChanged
            | Reason::Rebuilt
            | Reason::PlanChanged => true,
            Reason::Fresh
            | Reason::Dependency
            | Reason::DependencyFailed
            | Reason::DependenciesReady
            | Reason::BuildFailed
            | Reason::StartFailed
            | Reason::Executed
            | Reason::ProbeOk
            | Reason::ProbeFailed
            | Reason::ReadyTimeout
            | Reason::LivenessFailed
            | Reason::HookFailed
            | Reason::Exit
            | Reason::Oom
            | Reason::GraceExceeded
            | Reason::CrashLoop
            | Reason::Violation => false,
        };
        let Some(seen) = self.services.get(service).filter(|seen| on_request(seen.cause)) else {
            return Ok(());
        };
        for (name, other) in &self.services {
            let waits = other.unit.waits.iter().any(|wait| wait.on == *service);
            let stopping = other.told == Phase::Stopping
                && on_request(other.cause)
                && other.run.as_ref().is_some_and(|run| run.killed_at.is_none());
            // When everything goes down there is no other reason.
            let left = seen.cause == Reason::Shutdown
                && other.run.as_ref().is_some_and(|run| run.killed_at.is_none());
            if waits && (stopping || left) {
                return broken(
                    Invariant::Reverse,
                    format!("{service} is asked to stop before {name} is gone"),
                );
            }
        }
        Ok(())
    }

    // ---- what holds at any time

    fn obeyed(&self, input: &Input, was_going_down: bool) -> Checked {
        let dead = |names: Vec<ServiceName>| -> Checked {
            for name in names {
                let Some(seen) = self.services.get(&name) else { continue };
                let runs = [&seen.run, &seen.beside].into_iter().flatten();
                if let Some(run) = runs.into_iter().find(|run| run.killed_at.is_none()) {
                    return broken(Invariant::Obeys, format!("{name} is not killed and has {run:?}"));
                }
            }
            Ok(())
        };
        let stops = |names: Vec<ServiceName>| -> Checked {
            for name in names {
                let Some(seen) = self.services.get(&name) else { continue };
                if !seen.told.is_settled_down() && seen.told != Phase::Stopping {
                    let told = seen.told;
                    return broken(
                        Invariant::Obeys,
                        format!("{name} is {told} although it was asked to stop"),
                    );
                }
            }
            Ok(())
        };
        match input {
            Input::Stop { services } => stops(self.chosen(services)),
            Input::Kill { services } => {
                stops(self.chosen(services))?;
                dead(self.chosen(services))
            }
            Input::Down { now } => {
                stops(self.chosen(&[]))?;
                if *now { dead(self.chosen(&[])) } else { Ok(()) }
            }
            Input::HostLost { .. } => {
                stops(self.chosen(&[]))?;
                dead(self.chosen(&[]))
            }
            Input::Restart { services } if !was_going_down => {
                for name in if services.is_empty() { Vec::new() } else { self.chosen(services) } {
                    let Some(seen) = self.services.get(&name) else { continue };
                    if seen.leaving || (seen.unit.overlap && seen.told != Phase::Stopped) {
                        continue;
                    }
                    if matches!(seen.told, Phase::Running | Phase::Ready | Phase::Unhealthy | Phase::Stopped)
                    {
                        let told = seen.told;
                        return broken(
                            Invariant::Obeys,
                            format!("{name} is {told} and was asked to restart"),
                        );
                    }
                }
                Ok(())
            }
            Input::Up { services } if !was_going_down => {
                for name in self.wanted(services) {
                    let Some(seen) = self.services.get(&name) else { continue };
                    if matches!(seen.told, Phase::Pending | Phase::Stopped) {
                        let told = seen.told;
                        return broken(
                            Invariant::Obeys,
                            format!("{name} is {told} although it was asked for"),
                        );
                    }
                }
                Ok(())
            }
            Input::Restart { .. }
            | Input::Up { .. }
            | Input::Add { .. }
            | Input::Remove { .. }
            | Input::Executed { .. }
            | Input::StartFailed { .. }
            | Input::Exited { .. }
            | Input::Probed { .. }
            | Input::Notified { .. }
            | Input::HookEnded { .. }
            | Input::Published { .. }
            | Input::FilesChanged { .. }
            | Input::Checked { .. }
            | Input::Recorded { .. }
            | Input::Adopt { .. }
            | Input::Placed { .. }
            | Input::Displaced { .. }
            | Input::Updated { .. }
            | Input::Switched { .. }
            | Input::Observed(_)
            | Input::Tick => Ok(()),
        }
    }

    /// What a build made starts services again; that it failed does not.
    fn leaves_alone(&self, input: &Input, outcome: &Outcome) -> Checked {
        let made = match input {
            Input::Checked { result: Ok(Some(_)), .. } | Input::Recorded { result: Ok(_), .. } => true,
            Input::Add { .. }
            | Input::Remove { .. }
            | Input::Up { .. }
            | Input::Stop { .. }
            | Input::Restart { .. }
            | Input::Kill { .. }
            | Input::Down { .. }
            | Input::Executed { .. }
            | Input::StartFailed { .. }
            | Input::Exited { .. }
            | Input::Probed { .. }
            | Input::Notified { .. }
            | Input::HookEnded { .. }
            | Input::Published { .. }
            | Input::HostLost { .. }
            | Input::FilesChanged { .. }
            | Input::Checked { .. }
            | Input::Recorded { .. }
            | Input::Adopt { .. }
            | Input::Placed { .. }
            | Input::Displaced { .. }
            | Input::Updated { .. }
            | Input::Switched { .. }
            | Input::Observed(_)
            | Input::Tick => false,
        };
        let stops = |(service, event): &&(Option<ServiceName>, EventKind)| {
            let EventKind::Phase { phase: Phase::Stopping, cause, .. } = event else { return false };
            let runs = service.as_ref().and_then(|name| self.services.get(name));
            // What was begun before is told once more when it must be killed.
            cause.reason == Reason::Rebuilt
                && runs.and_then(|seen| seen.run.as_ref()).is_some_and(|run| run.stop_begun.is_none())
        };
        match outcome.events.iter().find(stops) {
            Some((service, _)) if !made => broken(
                Invariant::Builds,
                format!("{service:?} is stopped for what was built, and nothing was: {input:?}"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn in_time(&self, now: Tick) -> Checked {
        self.services.iter().try_for_each(|(name, seen)| seen.in_time(name, now, self.late))
    }

    fn agrees(&self, status: &[EngineStatus], now: Tick) -> Checked {
        for status in status {
            let name = &status.service;
            let Some(seen) = self.services.get(name) else { continue };
            if seen.told != status.phase {
                let text = format!("{name} is {} and was told to be {}", status.phase, seen.told);
                return broken(Invariant::Telling, text);
            }
            let mut runs = [&seen.run, &seen.beside].into_iter().flatten();
            if status.phase.is_settled_down()
                && let Some(run) = runs.find(|run| !run.is_lost(now))
            {
                return broken(Invariant::Dead, format!("{name} is {} and has {run:?}", status.phase));
            }
            if status.phase == Phase::Ready {
                seen.keeps_ready(name)?;
            }
        }
        Ok(())
    }

    fn explained(&self, service: &ServiceName, engine: &Engine) -> Checked {
        let Some(seen) = self.services.get(service) else { return Ok(()) };
        let why = engine.why(service);
        if why.first().is_none_or(|link| link.service != *service || link.cause.text.is_empty()) {
            return broken(Invariant::Telling, format!("nobody knows why {service} is {}", seen.told));
        }
        let of_others = seen.cause == Reason::Dependency && seen.unit.kind != ServiceKind::Build;
        let follows = (seen.told == Phase::Waiting && of_others)
            || (seen.told == Phase::Failed && seen.cause == Reason::DependencyFailed);
        if follows && why.len() < 2 {
            return broken(Invariant::Telling, format!("{service} is {} for nothing: {why:?}", seen.told));
        }
        Ok(())
    }

    // ---- what holds when all has come to rest

    /// Judges that everything has come to rest.
    ///
    /// # Errors
    /// What has not.
    pub fn at_rest(&self) -> Checked {
        for (name, seen) in &self.services {
            let rests = match seen.told {
                Phase::Pending
                | Phase::Ready
                | Phase::Stopped
                | Phase::Exited
                | Phase::Failed
                | Phase::Violated => true,
                Phase::Waiting
                | Phase::Building
                | Phase::Starting
                | Phase::Running
                | Phase::Unhealthy
                | Phase::Stopping
                | Phase::Backoff => false,
            };
            if !rests {
                let reason = seen.cause.as_str();
                return broken(Invariant::Rest, format!("{name} is still {} ({reason})", seen.told));
            }
            self.is_blocked_rightly(name, seen)?;
            if seen.beside.is_some() {
                return broken(Invariant::Rest, format!("{name} still has two runs"));
            }
            if seen.held {
                return broken(Invariant::Hold, format!("{name} is {} and connections wait", seen.told));
            }
            if seen.leaving || seen.next.is_some() || seen.updating {
                return broken(Invariant::Adopts, format!("{name} is still to be another"));
            }
            if matches!(seen.place, SeenPlace::Asked | SeenPlace::Leaving) {
                return broken(Invariant::Adopts, format!("the place of {name} is {:?}", seen.place));
            }
            let works = |run: &&SeenRun| run.executed_at.is_some() && run.killed_at.is_none();
            let Some(run) = seen.run.as_ref().filter(works) else { continue };
            for (on, with) in &run.with {
                let present = self.services.get(on).and_then(|on| on.run.as_ref());
                if let Some(present) = present.filter(|run| run.executed_at.is_some())
                    && present.generation != *with
                    && present.killed_at.is_none()
                {
                    let text = format!(
                        "{name} started with run {with} of {on} and still runs beside run {}",
                        present.generation
                    );
                    return broken(Invariant::Bound, text);
                }
            }
        }
        if let Some(goal) = self.goals.first() {
            return broken(Invariant::Rest, format!("nobody was told what came of asking for {goal:?}"));
        }
        Ok(())
    }

    /// What failed for another one has another one to fail for.
    fn is_blocked_rightly(&self, name: &ServiceName, seen: &Seen) -> Checked {
        if seen.told != Phase::Failed || seen.cause != Reason::DependencyFailed {
            return Ok(());
        }
        let lacks = seen.unit.waits.iter().filter(|wait| wait.required).any(|wait| {
            !self.is_ready(&wait.on) && self.has_settled(&wait.on)
                || (wait.condition == Condition::Completed && !self.is_ready(&wait.on))
        });
        if lacks {
            return Ok(());
        }
        broken(Invariant::Rest, format!("{name} has failed for the want of what is there"))
    }

    /// Judges that nothing is left.
    ///
    /// # Errors
    /// What is.
    pub fn all_gone(&self, engine: &Engine, now: Tick) -> Checked {
        if !engine.is_down() {
            let phases: Vec<String> =
                self.services.iter().map(|(name, seen)| format!("{name} {}", seen.told)).collect();
            return broken(Invariant::Leak, format!("`down` did not end: {}", phases.join(", ")));
        }
        for (name, seen) in &self.services {
            let mut runs = [&seen.run, &seen.beside].into_iter().flatten();
            if let Some(run) = runs.find(|run| !run.is_lost(now)) {
                return broken(Invariant::Leak, format!("{name} is left over: {run:?}"));
            }
        }
        if let Some(deadline) = engine.next_deadline() {
            return broken(Invariant::Leak, format!("something is to happen at {deadline:?} after the end"));
        }
        Ok(())
    }
}

impl SeenRun {
    fn new(generation: Generation) -> Self {
        Self {
            generation,
            executed_at: None,
            probes: BTreeSet::new(),
            hooks: BTreeMap::new(),
            post_start_at: None,
            startup_at: None,
            ready: None,
            ready_misses: 0,
            live_misses: 0,
            was_ready: false,
            watchdog_at: None,
            gave_up: false,
            patience: Duration::ZERO,
            stop_begun: None,
            signalled: false,
            killed_at: None,
            probed_anew: Duration::ZERO,
            said: false,
            grace: None,
            switching: false,
            leftover: false,
            with: BTreeMap::new(),
        }
    }

    fn is_lost(&self, now: Tick) -> bool {
        self.killed_at.is_some_and(|at| at + KILL_ANSWER <= now)
    }

    fn probed(&mut self, role: ProbeRole, good: bool, now: Tick) {
        match role {
            ProbeRole::Startup => {
                if good {
                    self.startup_at.get_or_insert(now);
                }
            }
            ProbeRole::Ready => {
                self.ready_misses = if good { 0 } else { self.ready_misses + 1 };
                // Before the first success a failure is no news, after it each one may be forgiven.
                if good || self.ready.is_none() {
                    self.ready = Some(good);
                }
            }
            ProbeRole::Live => self.live_misses = if good { 0 } else { self.live_misses + 1 },
        }
    }

    fn notified(&mut self, unit: &Unit, news: &Notified, now: Tick) {
        let notifies = |role: ProbeRole| unit.probe(role).is_some_and(|probe| probe.notify);
        match news {
            Notified::Ready => {
                self.said = true;
                if notifies(ProbeRole::Startup) {
                    self.startup_at.get_or_insert(now);
                }
                if notifies(ProbeRole::Ready) {
                    self.ready = Some(true);
                }
            }
            Notified::Reloading => {
                self.said = false;
                if notifies(ProbeRole::Ready) {
                    self.ready = Some(false);
                }
            }
            Notified::ExtendTimeout(by) => self.patience = self.patience.max(now + *by),
            Notified::Watchdog => self.watchdog_at = self.watchdog_at.map(|_| now),
            Notified::WatchdogTrigger => self.gave_up |= self.executed_at.is_some(),
            Notified::Stopping | Notified::Status(_) => {}
        }
    }
}

impl Seen {
    fn new(unit: &Unit) -> Self {
        Self {
            unit: unit.clone(),
            added: false,
            told: Phase::Pending,
            cause: Reason::Requested,
            generation: 0,
            run: None,
            beside: None,
            next: None,
            leaving: false,
            place: SeenPlace::There,
            updating: false,
            held: false,
            completed: false,
            last_exit: None,
            failing: false,
            hopeless: false,
            ready_since: None,
            ready_for: Duration::ZERO,
            streak: 0,
            exact: true,
            not_before: None,
            impatient: false,
        }
    }

    /// The run in charge is over: the other one is, whether it comes or goes.
    fn next_in_charge(&mut self) {
        self.run = self.beside.take();
        if let Some(run) = &mut self.run {
            run.leftover = run.stop_begun.is_some() || run.killed_at.is_some();
        }
    }

    /// Its plan is another from now on.
    fn is_another(&mut self, next: Unit, now: Tick) {
        let old = std::mem::replace(&mut self.unit, next);
        let told_ready = self.told == Phase::Ready;
        for (run, in_charge) in [(&mut self.run, true), (&mut self.beside, false)] {
            let Some(run) = run else { continue };
            let bound = |on: &ServiceName| self.unit.waits.iter().any(|wait| wait.restart && wait.on == *on);
            run.with.retain(|on, _| bound(on));
            let hooked = old.post_start.is_none() || run.hooks.get(&Hook::PostStart) == Some(&Some(true));
            let notifies = |probe: &Option<UnitProbe>| probe.as_ref().is_some_and(|probe| probe.notify);
            if old.startup != self.unit.startup {
                run.probed_anew = now;
                let passed = hooked && run.executed_at.is_some() && old.startup.is_none();
                if passed || (notifies(&self.unit.startup) && run.said) {
                    run.startup_at.get_or_insert(now);
                }
            }
            if old.ready != self.unit.ready {
                run.probed_anew = now;
                run.ready_misses = 0;
                // One that was ready is, but for what it said of itself.
                let good = run.ready == Some(true)
                    || (old.ready.is_none() && run.was_ready)
                    || (in_charge && told_ready)
                    || (notifies(&self.unit.ready) && run.said);
                run.ready = good.then_some(true);
            }
            if old.live != self.unit.live {
                run.live_misses = 0;
                run.watchdog_at = run.watchdog_at.map(|_| now).or(run.was_ready.then_some(now));
            }
        }
    }

    fn is_success(&self, exit: ExitReason) -> bool {
        match exit {
            ExitReason::Code(0) => true,
            ExitReason::Code(code) => self.unit.success.contains(&code),
            ExitReason::Signal(signal) => self.unit.success.contains(&(128 + signal)),
        }
    }

    fn forget_streak(&mut self) {
        self.streak = 0;
        self.exact = false;
        self.not_before = None;
    }

    /// It is told to be in a phase.
    fn enters(&mut self, phase: Phase, cause: &Cause, retry_in_ms: Option<u64>, now: Tick) -> Checked {
        let name = &self.unit.name;
        let before = std::mem::replace(&mut self.told, phase);
        self.cause = cause.reason;
        let repeats = matches!(phase, Phase::Waiting | Phase::Stopping | Phase::Failed | Phase::Building);
        if before == phase && !repeats {
            return broken(Invariant::Telling, format!("{name} is told to be {phase} twice"));
        }
        if cause.text.is_empty() {
            return broken(Invariant::Telling, format!("{name} is {phase} without a cause"));
        }
        if (phase == Phase::Backoff) != retry_in_ms.is_some() {
            let text = format!("{name} is {phase} and is tried again in {retry_in_ms:?}");
            return broken(Invariant::Telling, text);
        }
        if phase == Phase::Exited && cause.reason == Reason::Fresh {
            self.completed = true;
        }
        if before == Phase::Ready && self.beside.as_ref().is_some_and(|run| run.killed_at.is_none()) {
            self.may_leave_ready(phase, cause.reason)?;
        }
        self.failing |= phase == Phase::Stopping
            && matches!(cause.reason, Reason::LivenessFailed | Reason::HookFailed | Reason::ReadyTimeout);
        if phase == Phase::Ready {
            if let Some(run) = &mut self.run
                && !std::mem::replace(&mut run.was_ready, true)
            {
                run.watchdog_at = Some(now);
            }
            self.ready_since.get_or_insert(now);
            self.may_be_ready()?;
        } else if let Some(since) = self.ready_since.take() {
            self.ready_for = self.ready_for.max(now - since);
        }
        let anew = matches!(
            cause.reason,
            Reason::Requested
                | Reason::DependencyRestarted
                | Reason::FilesChanged
                | Reason::Rebuilt
                | Reason::PlanChanged
        );
        if anew && phase != Phase::Backoff {
            self.forget_streak();
        }
        match retry_in_ms {
            Some(pause) => self.backs_off(Duration::from_millis(pause), now),
            None if phase == Phase::Failed && cause.reason == Reason::CrashLoop => {
                let max = self.unit.restart.max;
                if self.exact && max.is_none_or(|max| self.streak < max) {
                    let text =
                        format!("{} restarts are called a crash loop of {}", self.streak, self.unit.name);
                    return broken(Invariant::Policy, text);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// It has two runs, and the one in charge was ready: only its own end or its own word is a reason not to be.
    fn may_leave_ready(&self, phase: Phase, reason: Reason) -> Checked {
        let good = match phase {
            Phase::Unhealthy => true,
            Phase::Stopping => {
                !matches!(reason, Reason::FilesChanged | Reason::Rebuilt | Reason::ReadyTimeout)
            }
            // The run that comes took over from one that is gone.
            Phase::Starting | Phase::Running => false,
            Phase::Pending
            | Phase::Waiting
            | Phase::Building
            | Phase::Ready
            | Phase::Stopped
            | Phase::Exited
            | Phase::Failed
            | Phase::Backoff
            | Phase::Violated => false,
        };
        if good {
            return Ok(());
        }
        let text = format!("{} was ready beside a run that comes or goes and is {phase}", self.unit.name);
        broken(Invariant::Overlap, text)
    }

    fn may_be_ready(&self) -> Checked {
        self.run_may_be_ready(self.run.as_ref())
    }

    fn run_may_be_ready(&self, run: Option<&SeenRun>) -> Checked {
        let name = &self.unit.name;
        let Some(run) = run.filter(|run| run.executed_at.is_some()) else {
            return broken(Invariant::Ready, format!("{name} is ready without a program"));
        };
        if self.unit.startup.is_some() && run.startup_at.is_none() {
            return broken(Invariant::Ready, format!("{name} is ready before it has started up"));
        }
        if self.unit.post_start.is_some() && run.hooks.get(&Hook::PostStart) != Some(&Some(true)) {
            return broken(Invariant::Ready, format!("{name} is ready without its `post_start`"));
        }
        if self.unit.ready.is_some() && run.ready != Some(true) {
            return broken(Invariant::Ready, format!("{name} is ready and its probe says {:?}", run.ready));
        }
        Ok(())
    }

    fn keeps_ready(&self, name: &ServiceName) -> Checked {
        let (Some(run), Some(probe)) = (&self.run, &self.unit.ready) else { return Ok(()) };
        if run.ready == Some(false) {
            return broken(Invariant::Ready, format!("{name} is ready although it said that it is not"));
        }
        if !probe.notify && run.ready_misses >= probe.failures.max(1) {
            let misses = run.ready_misses;
            return broken(Invariant::Ready, format!("{name} is ready after {misses} failures in a row"));
        }
        Ok(())
    }

    fn backs_off(&mut self, pause: Duration, now: Tick) -> Checked {
        let name = &self.unit.name;
        let restart = &self.unit.restart;
        let ended_well = self.last_exit.is_some_and(|exit| self.is_success(exit));
        match restart.policy {
            RestartPolicy::No => {
                return broken(Invariant::Policy, format!("{name} is never to be started again"));
            }
            RestartPolicy::OnFailure if ended_well && !self.failing => {
                return broken(Invariant::Policy, format!("{name} starts again and did not fail"));
            }
            RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        if self.hopeless {
            return broken(Invariant::Policy, format!("{name} is tried again without hope"));
        }
        if std::mem::take(&mut self.ready_for) >= STABLE {
            self.streak = 0;
            self.exact = false;
        }
        self.streak += 1;
        if restart.max.is_some_and(|max| self.streak > max) {
            let text = format!("{name} is started again for the {}. time in a row", self.streak);
            return broken(Invariant::Policy, text);
        }
        let doubled = 1_u32.checked_shl(self.streak.saturating_sub(1).min(31)).unwrap_or(u32::MAX);
        let due = restart.backoff_min.saturating_mul(doubled).min(restart.backoff_max);
        let most = if self.exact { due } else { restart.backoff_max };
        if pause + ROUNDING < due * 9 / 10 || pause > most * 11 / 10 + ROUNDING {
            let text =
                format!("{name} pauses for {pause:?} before restart {} instead of {due:?}", self.streak);
            return broken(Invariant::Policy, text);
        }
        self.not_before = Some(now + pause);
        Ok(())
    }

    /// Nothing is put off for ever.
    fn in_time(&self, name: &ServiceName, now: Tick, late: Duration) -> Checked {
        if let Some(run) = &self.beside {
            let comes = if run.was_ready || run.switching { Phase::Ready } else { Phase::Running };
            self.run_in_time(run, comes, name, now, late)?;
        }
        match &self.run {
            Some(run) => self.run_in_time(run, self.told, name, now, late),
            None => Ok(()),
        }
    }

    fn run_in_time(
        &self,
        run: &SeenRun,
        told: Phase,
        name: &ServiceName,
        now: Tick,
        late: Duration,
    ) -> Checked {
        if run.killed_at.is_some() {
            return Ok(());
        }
        if let Some(begun) = run.stop_begun {
            let by = (begun + run.grace.unwrap_or(self.unit.grace)).max(run.patience) + late;
            if now > by {
                let over = now - by;
                return broken(
                    Invariant::Grace,
                    format!("{name} is not killed {over:?} after its grace period"),
                );
            }
            return Ok(());
        }
        let Some(executed) = run.executed_at else { return Ok(()) };
        let (startup, ready) = (&self.unit.startup, &self.unit.ready);
        if told == Phase::Running && self.unit.kind == ServiceKind::Service {
            let probe = if run.startup_at.is_none() && startup.is_some() { startup } else { ready };
            let since =
                executed.max(run.startup_at.unwrap_or_default()).max(run.post_start_at.unwrap_or_default());
            let since = since.max(run.probed_anew);
            let post_start = match run.hooks.get(&Hook::PostStart) {
                Some(None) => self.unit.post_start.unwrap_or_default(),
                Some(Some(_)) | None => Duration::ZERO,
            };
            if let Some(probe) = probe {
                let by = (since + probe.within + post_start).max(run.patience) + late;
                if now > by {
                    let over = now - by;
                    return broken(Invariant::Within, format!("{name} is {over:?} late in becoming ready"));
                }
            }
        }
        let works = matches!(told, Phase::Running | Phase::Ready | Phase::Unhealthy);
        if works && run.gave_up {
            return broken(Invariant::Life, format!("{name} goes on although it asked to be taken for dead"));
        }
        if let Some(live) = self.unit.live.as_ref().filter(|_| works) {
            if !live.notify && run.live_misses >= live.failures.max(1) {
                let misses = run.live_misses;
                return broken(
                    Invariant::Life,
                    format!("{name} goes on after {misses} failures of its liveness"),
                );
            }
            if let Some(told) =
                run.watchdog_at.filter(|told| live.notify && now > *told + live.interval + late)
            {
                let since = now - told;
                return broken(
                    Invariant::Life,
                    format!("{name} goes on and has not told its watchdog for {since:?}"),
                );
            }
        }
        Ok(())
    }
}
