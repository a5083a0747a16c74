//! The engine: what happened in, what to do and what to tell out.
//!
//! One owner, one door: [`Engine::step`]. It decides about all services of a plan together; what one
//! service is and how it goes from state to state stands in the module `service` (with a picture).
//!
//! The rules that concern several:
//! - A service starts when all that it waits for is there. Builds are units too, that run to completion, and again when
//!   what they are made of changes; meanwhile those that use what they made go on with the old.
//! - What it waited for may go away afterwards: a running service is not disturbed, unless it is bound to that by
//!   `restart: true`. Then it ends when the run that it works with is replaced or has failed for good, and starts
//!   again when it has what it waits for. What is stopped on request (or ended well) is not replaced before it is
//!   started again: until then what is bound to it goes on.
//! - One that can never have what it waits for fails with that cause, and with it all that wait on it;
//!   when somebody brings the cause up again, they wait again.
//! - A service may have a second run beside the one in charge, that comes or goes (the module `overlap`); everything
//!   else here is about the one in charge.
//! - Another plan takes the place of the present one, and only what is different is touched (the module `adopt`). A
//!   number of a unit is good within one step: they move when units go, so nothing but this engine's own lists keeps
//!   one, and what outlives a step goes by names.
//! - Services that are stopped together get their signal in reverse order: each after all that wait on
//!   it are gone.

mod adopt;
mod health;
mod hold;
mod overlap;
mod reload;
mod requests;
mod runs;
mod service;
mod stop;
mod violations;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ws_model::wire::WhyLink;
use ws_model::{Cause, EventKind, Phase, ServiceName};

pub use health::{LONGEST_START, LONGEST_STOP};
pub use words::{
    Effect, EngineStatus, FileChange, Generation, Hook, Input, Notified, Outcome, Outputs, ProbeRole, Step,
    Tick,
};

use crate::plan::Plan;
use service::{Prospect, Run, Stage, State, Unit, WaitOn};

/// How long the host may take, after a limit of its own is over, to tell what became of a hook or of a run that it
/// killed.
const ANSWER: Duration = Duration::from_secs(10);

/// Why nothing starts any more.
const GOES_DOWN: &str = "the workspace goes down";

/// Decides everything that happens after the plan.
///
/// The same inputs at the same times give the same outcomes.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    /// Those of the first plan in order of names, then those that came later.
    units: Vec<Unit>,
    numbers: BTreeMap<ServiceName, usize>,
    goals: Vec<Goal>,
    going_down: bool,
    /// Services about which something may have to be decided.
    dirty: BTreeSet<usize>,
    /// The highest generation of a service that was removed.
    last_removed: Generation,
    /// Whether everything was asked for, and not everything stopped since.
    everything: bool,
    /// A plan that came while another one is being carried out.
    queued: Option<Box<Plan>>,
    /// When the end no longer waits for answers of the host.
    answers_by: Option<Tick>,
}

/// What an `Up` asked for and nobody was told about yet.
#[derive(Debug)]
struct Goal {
    /// What was asked for and what that cannot do without.
    members: BTreeSet<usize>,
    since: Tick,
}

impl Engine {
    /// An engine in which nothing was asked for yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut engine = Self {
            units: plan.services.values().map(Unit::new).collect(),
            numbers: plan.services.keys().enumerate().map(|(i, name)| (name.clone(), i)).collect(),
            plan,
            goals: Vec::new(),
            going_down: false,
            dirty: BTreeSet::new(),
            last_removed: 0,
            everything: false,
            queued: None,
            answers_by: None,
        };
        for (i, service) in engine.plan.services.clone().values().enumerate() {
            engine.wire(i, &service.waits);
        }
        engine
    }

    /// The plan that is carried out, with the services that were added.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes in what happened and decides.
    ///
    /// `now` never goes back. News of services that are not in the plan and of runs that are over are
    /// ignored.
    pub fn step(&mut self, input: Input, now: Tick) -> Outcome {
        let mut out = Outcome::default();
        match input {
            Input::Up { services } => self.up(&services, now, &mut out),
            Input::Stop { services } => self.stop(&services, now, &mut out),
            Input::Restart { services } => self.restart(&services, now, &mut out),
            Input::Kill { services } => self.kill_on_request(&services, now, &mut out),
            Input::Down { now: at_once } => self.down(at_once, now, &mut out),
            Input::HostLost { error } => {
                if !self.going_down {
                    self.goals.clear();
                    out.events.push((None, EventKind::WorkspaceFailed { cause: error }));
                }
                self.down(true, now, &mut out);
            }
            Input::Executed { service, generation, pid: _ } => {
                self.news(&service, generation, now, &mut out, |engine, i, out| {
                    engine.executed(i, generation, now, out);
                });
            }
            Input::StartFailed { service, generation, error, hopeless } => {
                if let Some(i) = self.number(&service) {
                    if self.is_beside(i, generation) {
                        self.beside_is_over(i, format!("could not start: {error}"), &mut out);
                    }
                    self.start_failed(i, generation, &error, hopeless, now, &mut out);
                }
            }
            Input::Exited { service, generation, exit, oom } => {
                if let Some(i) = self.number(&service) {
                    if self.is_beside(i, generation) {
                        self.beside_exited(i, exit, oom, now, &mut out);
                    }
                    self.exited(i, generation, exit, oom, now, &mut out);
                }
            }
            Input::Probed { service, generation, probe, result } => {
                self.news(&service, generation, now, &mut out, |engine, i, out| {
                    engine.probed(i, generation, probe, result, now, out);
                });
            }
            Input::Notified { service, generation, news } => {
                self.news(&service, generation, now, &mut out, |engine, i, out| {
                    engine.notified(i, generation, news, now, out);
                });
            }
            Input::HookEnded { service, generation, hook, result } => {
                self.news(&service, generation, now, &mut out, |engine, i, out| match hook {
                    Hook::PostStart => engine.post_started(i, generation, result, now, out),
                    Hook::PreStop | Hook::Stop => engine.asked(i, generation, hook, result, out),
                });
            }
            Input::Published { service, host, host_port, port } => {
                if self.numbers.contains_key(&service) {
                    let event = EventKind::Published { host: host.to_string(), host_port, port };
                    out.events.push((Some(service), event));
                }
            }
            Input::Add { service } => self.add(*service),
            Input::Remove { service } => self.remove(&service),
            Input::FilesChanged { changes } => self.files_changed(&changes, now, &mut out),
            Input::Checked { service, generation, result } => {
                if let Some(i) = self.number(&service) {
                    self.checked(i, generation, result, now, &mut out);
                }
            }
            Input::Recorded { service, generation, result } => {
                if let Some(i) = self.number(&service) {
                    self.recorded(i, generation, result, now, &mut out);
                }
            }
            Input::Adopt { plan } => self.adopt(plan, &mut out),
            Input::Placed { service, result } => {
                if let Some(i) = self.number(&service) {
                    self.placed(i, result, now, &mut out);
                }
            }
            Input::Displaced { service, errors } => {
                if let Some(i) = self.number(&service) {
                    self.displaced(i, &errors, &mut out);
                }
            }
            Input::Updated { service, result } => {
                if let Some(i) = self.number(&service) {
                    self.updated(i, result, now, &mut out);
                }
            }
            Input::Switched { service, generation } => {
                if let Some(i) = self.number(&service) {
                    self.switched(i, generation, now, &mut out);
                }
            }
            Input::Observed(seen) => self.observed(*seen, now, &mut out),
            Input::Tick => self.miss_deadlines(now, &mut out),
        }
        // Before anything is started: what is to be another is not there for those that start now.
        self.carry_on(now, &mut out);
        self.settle(now, &mut out);
        while self.carry_on(now, &mut out) {
            self.settle(now, &mut out);
        }
        self.settle_changes(now, &mut out);
        self.pay_switches(&mut out);
        self.hold_connections(&mut out);
        self.judge_goals(now, &mut out);
        out
    }

    /// News of a run: of the one in charge, or of the one beside it.
    fn news(
        &mut self,
        service: &ServiceName,
        generation: Generation,
        now: Tick,
        out: &mut Outcome,
        what: impl FnOnce(&mut Self, usize, &mut Outcome),
    ) {
        let Some(i) = self.number(service) else { return };
        if self.is_beside(i, generation) {
            self.in_its_stead(i, out, |engine, out| what(engine, i, out));
            self.judge_beside(i, now, out);
        } else {
            what(self, i, out);
        }
    }

    /// When the next [`Input::Tick`] is needed at the latest, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let of_units = self.units.iter().flat_map(|unit| {
            [unit.deadline(), unit.deadline_beside(), unit.lately.due(), unit.history.due()]
        });
        of_units.chain([self.answers_by]).flatten().min()
    }

    /// Whether an [`Input::Adopt`] is still being carried out.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.queued.is_some() || self.units.iter().any(Unit::is_changing)
    }

    /// How every service is, in order of names.
    #[must_use]
    pub fn status(&self) -> Vec<EngineStatus> {
        let status = |i: usize| {
            let unit = &self.units[i];
            EngineStatus {
                service: unit.name.clone(),
                phase: unit.phase(),
                cause: self.cause_of(i),
                ready: unit.is_ready(),
                generation: unit.generation,
                restarts: unit.restarts,
                exit: unit.exit,
                running_since: unit.run.since,
                status: unit.run.status.clone(),
                probe_error: unit.probe_error.as_ref().map(|(_, error)| error.clone()),
            }
        };
        self.numbers.values().map(|i| status(*i)).collect()
    }

    /// Whether everything is to be down and is: nothing runs, and nothing will be started.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let is_over = |unit: &Unit| unit.is_settled() && !unit.is_unanswered();
        self.going_down && self.units.iter().all(is_over)
    }

    /// Why a service is in its phase: itself first, then what it waits for, fails for or is held by,
    /// down to the roots; by the name of a service with replicas, for each of them. Empty for one that is not in the
    /// plan.
    #[must_use]
    pub fn why(&self, service: &ServiceName) -> Vec<WhyLink> {
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        // A stack, so that each branch is told to its end before the next.
        let mut todo: Vec<usize> = self.named(service).into_iter().rev().collect();
        while let Some(i) = todo.pop() {
            if !seen.insert(i) {
                continue;
            }
            let unit = &self.units[i];
            let started = unit.state.live().and(unit.run.because.clone());
            let cause = self.cause_of(i);
            chain.push(WhyLink { service: unit.name.clone(), phase: unit.phase(), cause, started });
            let because: Vec<usize> = match &unit.state {
                State::Waiting => self.waits_with(i, Prospect::NotYet).map(|wait| wait.on).collect(),
                State::Blocked { .. } => self
                    .waits_with(i, Prospect::Never)
                    .filter(|wait| wait.required)
                    .map(|wait| wait.on)
                    .collect(),
                State::Ending { stage: Stage::Held { .. }, .. } => self.held_by(i).collect(),
                State::Ending { stage: Stage::Asked { .. } | Stage::Killed { .. }, .. }
                | State::Pending
                | State::Looking { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Exited
                | State::Failed { .. } => Vec::new(),
            };
            todo.extend(because.into_iter().rev());
        }
        chain
    }

    /// [`Self::why`] as lines: "api: waiting: waits for db (ready)".
    #[must_use]
    pub fn explain(&self, service: &ServiceName) -> Vec<String> {
        self.why(service)
            .iter()
            .map(|link| format!("{}: {}: {}", link.service, link.phase, link.cause.text))
            .collect()
    }

    fn number(&self, service: &ServiceName) -> Option<usize> {
        self.numbers.get(service).copied()
    }

    /// Why a service is in its phase, with what could not be said yet when that was told.
    fn cause_of(&self, i: usize) -> Cause {
        let unit = &self.units[i];
        let mut cause = unit.cause.clone();
        let holders: Vec<String> = match unit.state {
            State::Ending { stage: Stage::Held { .. }, .. } => {
                self.held_by(i).map(|d| self.units[d].name.to_string()).collect()
            }
            State::Ending { stage: Stage::Asked { .. } | Stage::Killed { .. }, .. }
            | State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => Vec::new(),
        };
        if !holders.is_empty() {
            cause.text.push_str(&format!(", after {}", crate::text::some(&holders)));
        }
        if unit.is_ready()
            && let Some((role, error)) = &unit.probe_error
        {
            let which = match role {
                ProbeRole::Startup => "startup",
                ProbeRole::Ready => "ready",
                ProbeRole::Live => "liveness",
            };
            cause.text.push_str(&format!("; since then its {which} probe failed: {error}"));
        }
        cause
    }

    fn waits_with(&self, i: usize, prospect: Prospect) -> impl Iterator<Item = &WaitOn> {
        self.units[i]
            .waits
            .iter()
            .filter(|wait| !self.units[wait.on].is_leaving())
            .filter(move |wait| self.units[wait.on].prospect(wait.condition) == prospect)
    }

    // ---- what follows

    /// What should have happened by now and has not.
    fn miss_deadlines(&mut self, now: Tick, out: &mut Outcome) {
        let over = |deadline: Option<Tick>| deadline.is_some_and(|deadline| deadline <= now);
        if over(self.answers_by) {
            self.forget_answers();
        }
        for i in 0..self.units.len() {
            self.tell_what_repeated(i, now, out);
            if over(self.units[i].lately.due()) {
                self.act_on_what_was_put_off(i, now, out);
            }
            self.miss_deadlines_of(i, now, out);
            if over(self.units[i].deadline_beside()) {
                self.in_its_stead(i, out, |engine, out| engine.miss_deadlines_of(i, now, out));
                self.judge_beside(i, now, out);
            }
        }
    }

    fn miss_deadlines_of(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let over = |deadline: Option<Tick>| deadline.is_some_and(|deadline| deadline <= now);
        if !over(self.units[i].deadline()) {
            return;
        }
        if over(self.units[i].run.status_due) {
            self.tell_status(i, now, out);
        }
        if over(self.units[i].run.watchdog) {
            self.watchdog_missed(i, now, out);
        }
        if !over(self.units[i].deadline()) {
            return;
        }
        match &self.units[i].state {
            State::Up { .. } => self.not_ready_in_time(i, now, out),
            State::Ending { .. } => self.not_gone_in_time(i, now, out),
            State::Backoff { .. } => {
                let unit = &self.units[i];
                let cause = unit.again.clone().unwrap_or_else(|| unit.cause.clone());
                self.start_again(i, cause);
            }
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => {}
        }
    }

    /// Decides about every service that a change may concern, until nothing follows any more.
    fn settle(&mut self, now: Tick, out: &mut Outcome) {
        while let Some(i) = self.dirty.pop_first() {
            match &self.units[i].state {
                State::Waiting => self.try_start(i, now, out),
                State::Blocked { .. } => {
                    let blocked = self.waits_with(i, Prospect::Never).any(|wait| wait.required);
                    if self.units[i].wanted && !blocked {
                        self.wait_quietly(i);
                    }
                }
                State::Ending { stage: Stage::Held { .. }, .. } => self.release(i, now, out),
                State::Up { .. } => self.try_overlap(i, now, out),
                State::Ending { stage: Stage::Asked { .. } | Stage::Killed { .. }, .. }
                | State::Pending
                | State::Looking { .. }
                | State::Starting { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Exited
                | State::Failed { .. } => {}
            }
        }
    }

    fn judge_goals(&mut self, now: Tick, out: &mut Outcome) {
        let units = &self.units;
        self.goals.retain(|goal| {
            let mut hopeless: Vec<&Unit> = goal
                .members
                .iter()
                .map(|i| &units[*i])
                .filter(|unit| unit.is_settled() && !unit.is_ready())
                .collect();
            if !hopeless.is_empty() {
                // What only follows from others is told where there is nothing else to tell.
                let follows = |unit: &&Unit| matches!(unit.state, State::Blocked { .. });
                if !hopeless.iter().all(follows) {
                    hopeless.retain(|unit| !follows(unit));
                }
                let causes: Vec<String> = hopeless
                    .iter()
                    .map(|unit| match &unit.state {
                        State::Blocked { root } => format!("{}: {root}", unit.why_never()),
                        State::Pending
                        | State::Waiting
                        | State::Looking { .. }
                        | State::Starting { .. }
                        | State::Up { .. }
                        | State::Ending { .. }
                        | State::Backoff { .. }
                        | State::Stopped
                        | State::Exited
                        | State::Failed { .. } => unit.why_never(),
                    })
                    .collect();
                out.events.push((None, EventKind::WorkspaceFailed { cause: crate::text::some(&causes) }));
                return false;
            }
            let ready = goal.members.iter().all(|i| units[*i].is_ready());
            if ready {
                let after = u64::try_from(now.saturating_sub(goal.since).as_millis()).unwrap_or(u64::MAX);
                out.events.push((None, EventKind::WorkspaceReady { after_ms: after }));
            }
            !ready
        });
    }

    // ---- changing a state

    /// Changes a service's state and tells it.
    fn enter(&mut self, i: usize, state: State, cause: Cause, out: &mut Outcome) {
        if state.live().is_none() {
            self.units[i].run = Run::default();
            self.units[i].overlap_due = None;
        }
        let was = (matches!(self.units[i].state, State::Looking { .. }))
            .then(|| (self.units[i].phase(), self.cause_of(i)));
        self.units[i].state = state;
        self.units[i].cause = cause;
        self.touch(i);
        // To look whether it must run is no phase of its own.
        if was != Some((self.units[i].phase(), self.cause_of(i))) {
            self.tell_phase(i, out);
        }
    }

    /// To be started, or told to wait, within this step.
    fn wait_quietly(&mut self, i: usize) {
        self.units[i].state = State::Waiting;
        self.units[i].run = Run::default();
        self.units[i].told.clear();
        self.touch(i);
    }

    fn tell_phase(&self, i: usize, out: &mut Outcome) {
        let unit = &self.units[i];
        let phase = unit.phase();
        let exit = match phase {
            Phase::Stopped | Phase::Exited | Phase::Failed | Phase::Backoff | Phase::Violated => unit.exit,
            Phase::Pending
            | Phase::Waiting
            | Phase::Building
            | Phase::Starting
            | Phase::Running
            | Phase::Ready
            | Phase::Unhealthy
            | Phase::Stopping => None,
        };
        let event = EventKind::Phase { phase, cause: self.cause_of(i), exit, retry_in_ms: None };
        out.events.push((Some(unit.name.clone()), event));
    }

    /// A service changed: something may follow for it, for those that wait on it, and for those that it
    /// holds up by not being gone.
    fn touch(&mut self, i: usize) {
        self.dirty.insert(i);
        if self.units[i].is_build {
            // There may be a place for another one.
            let waits = |i: &usize| self.units[*i].is_build && self.units[*i].state == State::Waiting;
            self.dirty.extend((0..self.units.len()).filter(waits));
        }
        self.dirty.extend(self.units[i].dependents.iter().copied());
        self.dirty.extend(self.units[i].waits.iter().map(|wait| wait.on));
    }
}
