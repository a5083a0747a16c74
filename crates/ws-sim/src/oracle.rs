//! What must hold in every schedule, checked after every step, from nothing but what went in and what came out.
//!
//! The oracle shares no code with the engine, and no state: it keeps its own books of what the host told and
//! what the engine did. A rule here says what may never be; which of several right things the engine does is the
//! engine's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ws_core::engine::{
    Effect, Engine, EngineStatus, Generation, Hook, Input, Notified, Outcome, ProbeRole, Step, Tick,
};
use ws_model::{
    Cause, Condition, EventKind, ExitReason, Phase, Reason, RestartPolicy, ServiceKind, ServiceName,
};

use crate::scenario::{Scenario, Unit};

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
    step: Step,
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
    /// The runs to which it is bound.
    with: BTreeMap<ServiceName, Generation>,
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
    run: Option<SeenRun>,
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
        if unit.kind == ServiceKind::Task {
            self.completes.insert(unit.name.clone());
        }
        let completed = unit.waits.iter().filter(|wait| wait.condition == Condition::Completed);
        self.completes.extend(completed.map(|wait| wait.on.clone()));
    }

    /// One service less.
    pub fn remove(&mut self, service: &ServiceName) {
        self.services.remove(service);
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
                if self.run(service, *generation).is_some()
                    && let Some(seen) = self.services.get_mut(service)
                {
                    seen.run = None;
                    seen.hopeless = *hopeless;
                    seen.last_exit = None;
                }
            }
            Input::Exited { service, generation, exit, oom } => {
                if let Some(step) = self.run(service, *generation).map(|run| run.step)
                    && let Some(seen) = self.services.get_mut(service)
                {
                    seen.run = None;
                    seen.hopeless = false;
                    seen.last_exit = Some(*exit);
                    seen.failing |= *oom;
                    seen.completed = step == Step::Main && seen.is_success(*exit) && !*oom;
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
            Input::Add { .. }
            | Input::Remove { .. }
            | Input::Published { .. }
            | Input::FilesChanged { .. }
            | Input::Checked { .. }
            | Input::Recorded { .. }
            | Input::Adopt { .. }
            | Input::Placed { .. }
            | Input::Displaced { .. }
            | Input::Updated { .. }
            | Input::Switched { .. }
            | Input::Tick => {}
        }
    }

    fn run(&mut self, service: &ServiceName, generation: Generation) -> Option<&mut SeenRun> {
        self.services.get_mut(service)?.run.as_mut().filter(|run| run.generation == generation)
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
            let Some(seen) = self.services.get(&name) else { continue };
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
            | EventKind::PlanRefused { .. }
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
            | EventKind::PlanRefused { .. }
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
            Effect::Start { service, generation, step } => self.started(service, *generation, *step, now),
            Effect::Signal { service, generation, .. } => {
                let (seen, run) = self.effect_on(service, *generation, effect)?;
                if run.signalled || run.executed_at.is_none() || run.step == Step::Build {
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
                self.reversed(service)
            }
            Effect::Kill { service, generation } => {
                let impatient = self.services.get(service).is_some_and(|seen| seen.impatient);
                let (unit, run) = self.effect_on(service, *generation, effect)?;
                if let Some(begun) = run.stop_begun
                    && !impatient
                    && now < begun + unit.grace
                {
                    let left = begun + unit.grace - now;
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
                if run.executed_at.is_none() || run.step == Step::Build || unit.probe(*probe).is_none() {
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
                if *probe == ProbeRole::Live && unit.ready.is_some() && !run.was_ready {
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
            Effect::StartBeside { .. }
            | Effect::Switch { .. }
            | Effect::Hold { .. }
            | Effect::Release { .. }
            | Effect::Fingerprint { .. }
            | Effect::Place { .. }
            | Effect::Displace { .. }
            | Effect::Update { .. } => Ok(()),
            Effect::RunHook { service, generation, hook } => {
                let (unit, run) = self.effect_on(service, *generation, effect)?;
                let has = match hook {
                    Hook::PostStart => unit.post_start.is_some(),
                    Hook::PreStop => unit.pre_stop.is_some(),
                    Hook::Stop => unit.stop_command,
                };
                if !has || run.executed_at.is_none() || run.step == Step::Build {
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
                self.reversed(service)
            }
        }
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
        let Some(run) = &mut seen.run else {
            return Err(none(format!("{effect:?} for a run that is over")));
        };
        if run.generation != generation || run.killed_at.is_some() {
            return Err(none(format!("{effect:?} for {run:?}")));
        }
        Ok((seen.unit.clone(), run))
    }

    fn started(&mut self, service: &ServiceName, generation: Generation, step: Step, now: Tick) -> Checked {
        let Some(seen) = self.services.get(service) else {
            return broken(Invariant::Effects, format!("{service} starts and is not there"));
        };
        if let Some(run) = &seen.run {
            return broken(Invariant::OneRun, format!("{service} starts beside its run {}", run.generation));
        }
        if generation <= seen.generation {
            return broken(Invariant::OneRun, format!("{service} starts with the old number {generation}"));
        }
        if self.going_down {
            return broken(Invariant::Obeys, format!("{service} starts after `down`"));
        }
        if let Some(early) = seen.not_before.and_then(|at| at.checked_sub(now + ROUNDING)) {
            return broken(Invariant::Policy, format!("{service} starts {early:?} before its pause is over"));
        }
        for wait in &seen.unit.waits {
            if step == Step::Build && wait.condition != Condition::Completed {
                continue;
            }
            let Some(on) = self.services.get(&wait.on) else { continue };
            let runs = on.run.as_ref().is_some_and(|run| {
                let hook =
                    on.unit.post_start.is_none() || run.hooks.get(&Hook::PostStart) == Some(&Some(true));
                run.executed_at.is_some() && run.step == Step::Main && hook
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
        let bound = seen.unit.waits.iter().filter(|wait| wait.restart).filter_map(|wait| {
            let run = self.services.get(&wait.on)?.run.as_ref()?;
            let works = run.executed_at.is_some() && run.step == Step::Main && run.killed_at.is_none();
            works.then(|| (wait.on.clone(), run.generation))
        });
        let run = SeenRun {
            generation,
            step,
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
            with: bound.collect(),
        };
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

    /// Whoever waits on a service and is being stopped as well is gone before that one is asked to stop.
    fn reversed(&self, service: &ServiceName) -> Checked {
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
                && other.run.as_ref().is_some_and(|run| run.killed_at.is_none() && run.step == Step::Main);
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
                if let Some(run) = seen.run.as_ref().filter(|run| run.killed_at.is_none()) {
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
            | Input::Tick => Ok(()),
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
            if let Some(run) = &seen.run
                && status.phase.is_settled_down()
                && !run.is_lost(now)
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
        let follows = seen.told == Phase::Waiting
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
            let Some(run) = seen.run.as_ref().filter(|run| run.executed_at.is_some()) else { continue };
            for (on, with) in &run.with {
                let present = self.services.get(on).and_then(|on| on.run.as_ref());
                if let Some(present) = present.filter(|run| run.executed_at.is_some())
                    && present.generation != *with
                    && present.step == Step::Main
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
            if let Some(run) = seen.run.as_ref().filter(|run| !run.is_lost(now)) {
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
                if notifies(ProbeRole::Startup) {
                    self.startup_at.get_or_insert(now);
                }
                if notifies(ProbeRole::Ready) {
                    self.ready = Some(true);
                }
            }
            Notified::Reloading => {
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
        if before == phase && !matches!(phase, Phase::Waiting | Phase::Stopping | Phase::Failed) {
            return broken(Invariant::Telling, format!("{name} is told to be {phase} twice"));
        }
        if cause.text.is_empty() {
            return broken(Invariant::Telling, format!("{name} is {phase} without a cause"));
        }
        if (phase == Phase::Backoff) != retry_in_ms.is_some() {
            let text = format!("{name} is {phase} and is tried again in {retry_in_ms:?}");
            return broken(Invariant::Telling, text);
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
        if matches!(cause.reason, Reason::Requested | Reason::DependencyRestarted) && phase != Phase::Backoff
        {
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

    fn may_be_ready(&self) -> Checked {
        let name = &self.unit.name;
        let Some(run) = self.run.as_ref().filter(|run| run.executed_at.is_some() && run.step == Step::Main)
        else {
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
        let Some(run) = self.run.as_ref().filter(|run| run.killed_at.is_none()) else { return Ok(()) };
        if let Some(begun) = run.stop_begun {
            let by = (begun + self.unit.grace).max(run.patience) + late;
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
        if self.told == Phase::Running && run.step == Step::Main && self.unit.kind == ServiceKind::Service {
            let probe = if run.startup_at.is_none() && startup.is_some() { startup } else { ready };
            let since =
                executed.max(run.startup_at.unwrap_or_default()).max(run.post_start_at.unwrap_or_default());
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
        let works = matches!(self.told, Phase::Running | Phase::Ready | Phase::Unhealthy);
        if works && run.gave_up && run.step == Step::Main {
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
