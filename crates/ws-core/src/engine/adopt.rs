//! Another plan takes the place of the present one, while units run.
//!
//! What each unit needs is said by [`change::between`]; here it is carried out, in three steps:
//!
//! 1. The host is told of every plan that is another ([`Effect::Update`]) and makes the places of what comes.
//! 2. Once it has answered, all that is to be another ends together, so that the order is that of one stop: what gets
//!    another run or another place, and what goes.
//! 3. Each place that is not needed any more is taken away when nothing runs there, and its next one is made.
//!
//! - No run of a unit is started in the middle of this: it would be the wrong one, or have no place.
//! - What goes is not waited for from the beginning on; who waits for what follows from the plans, each time one is
//!   another.
//! - An update that failed leaves everything of its unit as it was, also in [`Engine::plan`]: the next plan finds the
//!   same difference again.
//! - A run that should be another and goes on, as the new one beside it failed, is tried again with the next plan (also
//!   when that is the same) or when it is asked for.
//! - A place that could not be made fails its unit. The next request for it, or the next plan, tries again.
//! - Numbers, addresses and ports of the host are used by one at a time: who needs those of another one comes after it.
//! - A unit that does not run is not started because of a change. One that has failed, or waits to be tried again, is
//!   tried at once: that is why people edit. So is a service that has ended by itself, and what is made of files is
//!   looked at again.

use ws_model::{Cause, EventKind, PlanEffect, PlanLine, Publish, Reason, ServiceName};

use super::service::{Another, Gate, Going, Health, Place, State, Task, Then, Unit};
use super::{ANSWER, Effect, Engine, Outcome, ProbeRole, Tick};
use crate::change::{self, UnitChange};
use crate::plan::{Plan, ServicePlan};

impl Engine {
    pub(super) fn adopt(&mut self, plan: Box<Plan>, out: &mut Outcome) {
        if self.going_down {
            return;
        }
        if self.units.iter().any(Unit::is_changing) {
            self.queued = Some(plan);
            return;
        }
        // What has no place is as new as what is not there at all.
        let nowhere = |unit: &Unit| !unit.added && unit.place == Place::Missing;
        let gone: Vec<ServiceName> = (self.units.iter().filter(|unit| nowhere(unit)))
            .filter(|unit| !plan.services.contains_key(&unit.name))
            .map(|unit| unit.name.clone())
            .collect();
        for name in gone {
            if let Some(i) = self.number(&name) {
                self.forget(i);
            }
        }
        let mut running = self.plan.clone();
        for unit in self.units.iter().filter(|unit| unit.added || nowhere(unit)) {
            running.services.remove(&unit.name);
        }
        let change = change::between(&running, &plan);
        let mut plan = *plan;
        let mut services = std::mem::take(&mut plan.services);
        plan.services = std::mem::take(&mut self.plan.services);
        self.plan = plan;

        let mut new = Vec::new();
        for (name, what) in change.units {
            match (self.number(&name), services.remove(&name), what) {
                (Some(i), None, _) => self.units[i].task = Some(Task::Remove { going: Going::Not }),
                (Some(i), Some(plan), _) if self.units[i].added => {
                    let text =
                        format!("{} is not there before the command of this name has ended", plan.name);
                    out.events.push((Some(self.units[i].name.clone()), EventKind::Notice { text }));
                }
                (Some(i), Some(plan), UnitChange::Add | UnitChange::Remove) => {
                    self.units[i].take_plan(&plan);
                    self.units[i].place = Place::Due;
                    self.plan.services.insert(name.clone(), plan);
                    new.push(name);
                }
                (Some(i), Some(plan), UnitChange::Live | UnitChange::Restart) => {
                    let what = what_is_another(&plan, what, &change.lines);
                    self.units[i].task = Some(Task::Update { plan: Box::new(plan), asked: false, what });
                }
                (Some(i), Some(plan), UnitChange::Replace) => {
                    let cause = why(&plan, &change.lines);
                    let going = Going::Not;
                    self.units[i].task = Some(Task::Replace { plan: Box::new(plan), cause, going });
                }
                (None, Some(plan), _) => {
                    let mut unit = Unit::new(&plan);
                    unit.place = Place::Due;
                    unit.generation = self.last_removed;
                    self.numbers.insert(name.clone(), self.units.len());
                    self.units.push(unit);
                    self.plan.services.insert(name.clone(), plan);
                    new.push(name);
                }
                (None, None, _) => {}
            }
        }
        for unit in &mut self.units {
            let Some(cause) = unit.run.outdated.clone() else { continue };
            match &mut unit.task {
                None => unit.task = Some(Task::Restart { cause }),
                Some(Task::Update { what: what @ (Another::Live | Another::Follows), .. }) => {
                    *what = Another::Run { cause };
                }
                Some(
                    Task::Update { .. } | Task::Restart { .. } | Task::Replace { .. } | Task::Remove { .. },
                ) => {}
            }
        }
        self.rewire();
        for goal in &mut self.goals {
            goal.members.retain(|i| !self.units[*i].is_leaving());
        }
        for name in new {
            let Some(i) = self.number(&name) else { continue };
            let unit = &self.units[i];
            let sibling = |other: &Unit| other.declared == unit.declared && other.wanted && !other.added;
            if self.everything || self.units.iter().any(sibling) {
                self.want(i, false, out);
            }
        }
        self.want_what_is_needed(out);
    }

    /// What is wanted wants what it waits for, as if it were asked for now.
    fn want_what_is_needed(&mut self, out: &mut Outcome) {
        let wanted: Vec<usize> = (0..self.units.len()).filter(|i| self.units[*i].wanted).collect();
        for i in self.closure(&wanted, false) {
            if self.units[i].state == State::Pending && !self.units[i].wanted {
                self.want(i, false, out);
            }
        }
    }

    /// Whether a start waits for the host: then that is told.
    pub(super) fn waits_for_the_host(&mut self, i: usize, out: &mut Outcome) -> bool {
        let unit = &mut self.units[i];
        let text = match (&unit.task, unit.place) {
            (None, Place::There) => return false,
            (Some(Task::Update { .. } | Task::Restart { .. } | Task::Remove { .. }), _) => {
                "waits until its new plan is carried out"
            }
            (Some(Task::Replace { .. }), _) | (None, Place::Due | Place::Asked | Place::Leaving) => {
                "waits for its place"
            }
            (None, Place::Missing) => {
                unit.place = Place::Due;
                "waits for its place"
            }
        };
        self.tell_wait(i, Reason::PlanChanged, text.to_owned(), out);
        true
    }

    // ---- step by step

    /// Does what can be done now of a plan that is carried out; whether there was anything.
    pub(super) fn carry_on(&mut self, now: Tick, out: &mut Outcome) -> bool {
        if self.going_down {
            return false;
        }
        let mut did = self.update_plans(out);
        let updating = |unit: &Unit| matches!(unit.task, Some(Task::Update { asked: true, .. }));
        if !self.units.iter().any(updating) {
            did |= self.end_what_is_another(now, out);
        }
        for i in 0..self.units.len() {
            let unit = &self.units[i];
            let ends = match &unit.task {
                Some(Task::Replace { going, .. } | Task::Remove { going }) => *going == Going::Ends,
                Some(Task::Update { .. } | Task::Restart { .. }) | None => false,
            };
            let runs = unit.state.live().or(unit.beside.as_ref().and_then(|beside| beside.state.live()));
            if ends && runs.is_none() {
                self.take_place_away(i, out);
                did = true;
            }
            if self.units[i].place == Place::Due && self.has_room(i) {
                self.units[i].place = Place::Asked;
                let service = Box::new(self.plan.services[&self.units[i].name].clone());
                out.effects.push(Effect::Place { service });
                did = true;
            }
        }
        if !self.units.iter().any(Unit::is_changing)
            && let Some(plan) = self.queued.take()
        {
            self.adopt(plan, out);
            did = true;
        }
        did
    }

    /// Tells the host of plans: first of those that give something up.
    fn update_plans(&mut self, out: &mut Outcome) -> bool {
        let mut due: Vec<(bool, usize)> = Vec::new();
        for (i, unit) in self.units.iter().enumerate() {
            let Some(Task::Update { plan, asked: false, .. }) = &unit.task else { continue };
            let goes = |unit: &Unit| matches!(unit.task, Some(Task::Replace { .. } | Task::Remove { .. }));
            if !self.is_in_the_way(i, plan, goes) {
                let old = &self.plan.services[&unit.name].publish;
                due.push((old.iter().all(|port| plan.publish.contains(port)), i));
            }
        }
        due.sort_unstable();
        for (_, i) in &due {
            if let Some(Task::Update { plan, asked, .. }) = &mut self.units[*i].task {
                *asked = true;
                out.effects.push(Effect::Update { service: plan.clone() });
            }
        }
        !due.is_empty()
    }

    /// Ends what is to be another, or goes: all together.
    fn end_what_is_another(&mut self, now: Tick, out: &mut Outcome) -> bool {
        let mut did = false;
        let mut again = Vec::new();
        for i in 0..self.units.len() {
            let unit = &mut self.units[i];
            match &mut unit.task {
                Some(Task::Restart { cause }) => {
                    let cause = cause.clone();
                    unit.task = None;
                    self.renew(i, cause, false, now, out);
                    again.push(i);
                }
                Some(Task::Replace { cause, going: going @ Going::Not, .. }) => {
                    *going = Going::Ends;
                    let cause = cause.clone();
                    self.renew(i, cause, true, now, out);
                    again.push(i);
                }
                Some(Task::Remove { going: going @ Going::Not }) => {
                    *going = Going::Ends;
                    unit.wanted = false;
                    let cause = Cause::new(Reason::PlanChanged, "is not in the workspace any more");
                    self.end(i, Then::Stop, cause, false, now, out);
                }
                Some(Task::Replace { .. } | Task::Remove { .. } | Task::Update { .. }) | None => continue,
            }
            self.touch(i);
            did = true;
        }
        // As for a restart on request: those that are another themselves have the nearer cause.
        for i in again {
            if !self.units[i].is_settled() && self.units[i].overlap_due.is_none() {
                self.end_bound(i, now, out);
            }
        }
        did
    }

    /// A unit whose plan is another begins anew, as far as it had begun.
    fn renew(&mut self, i: usize, cause: Cause, replaced: bool, now: Tick, out: &mut Outcome) {
        if !replaced && self.can_overlap(i) {
            self.units[i].run.outdated = Some(cause.clone());
            self.overlap(i, cause);
            return;
        }
        self.give_up_beside(i, false, now, out);
        let unit = &mut self.units[i];
        match &mut unit.state {
            State::Pending | State::Stopped | State::Waiting | State::Failed { lost: Some(_) } => {}
            State::Looking { .. } => {
                self.wait_quietly(i);
                self.units[i].again = Some(cause);
            }
            State::Starting { .. } | State::Up { .. } => self.end(i, Then::Restart, cause, false, now, out),
            State::Ending { then, .. } => {
                if *then == Then::Fail {
                    *then = Then::Restart;
                    unit.again = Some(cause);
                }
            }
            State::Backoff { .. } => {
                unit.streak = 0;
                self.start_again(i, cause);
            }
            State::Exited if unit.wanted && unit.makes => {
                unit.exit = None;
                self.wait_quietly(i);
                self.units[i].again = Some(cause);
            }
            State::Exited if unit.completes || !unit.wanted => {}
            State::Exited | State::Failed { lost: None } | State::Blocked { .. } => {
                if unit.wanted {
                    self.begin(i);
                    self.start_again(i, cause);
                }
            }
        }
    }

    fn take_place_away(&mut self, i: usize, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if let Some(Task::Replace { going, .. } | Task::Remove { going }) = &mut unit.task {
            *going = Going::Leaves;
        }
        unit.place = Place::Leaving;
        out.effects.push(Effect::Displace { service: unit.name.clone() });
    }

    // ---- what must not be used by two

    /// Whether the place of a unit can be made.
    fn has_room(&self, i: usize) -> bool {
        let plan = &self.plan.services[&self.units[i].name];
        !self.is_in_the_way(i, plan, |unit| match &unit.task {
            Some(Task::Replace { .. } | Task::Remove { .. }) => true,
            Some(Task::Update { plan: next, .. }) => !share_ports(plan, next),
            Some(Task::Restart { .. }) | None => false,
        })
    }

    /// Whether a unit like this still has what the plan of another one needs.
    fn is_in_the_way(&self, i: usize, plan: &ServicePlan, like: impl Fn(&Unit) -> bool) -> bool {
        self.units.iter().enumerate().any(|(j, unit)| {
            j != i
                && like(unit)
                && self.plan.services.get(&unit.name).is_some_and(|other| {
                    other.index == plan.index || other.address == plan.address || share_ports(other, plan)
                })
        })
    }

    // ---- answers

    pub(super) fn updated(&mut self, i: usize, result: Result<(), String>, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        let Some(Task::Update { plan, what, .. }) =
            unit.task.take_if(|task| matches!(task, Task::Update { asked: true, .. }))
        else {
            return;
        };
        self.touch(i);
        let name = self.units[i].name.clone();
        if let Err(error) = result {
            let text =
                format!("the change of {name} could not be carried out, and it goes on as it was: {error}");
            out.events.push((Some(name), EventKind::Notice { text }));
            return;
        }
        self.units[i].take_plan(&plan);
        let old = self.plan.services.insert(name, (*plan).clone());
        self.rewire();
        if self.going_down {
            return;
        }
        self.want_what_is_needed(out);
        if let Some(old) = old {
            self.probe_anew(i, &old, &plan, now, out);
        }
        match what {
            Another::Follows => {}
            Another::Run { cause } => self.units[i].task = Some(Task::Restart { cause }),
            Another::Live => {
                let failed = matches!(
                    self.units[i].state,
                    State::Failed { lost: None } | State::Backoff { .. } | State::Blocked { .. }
                );
                if failed {
                    self.renew(i, Cause::new(Reason::PlanChanged, CHANGED), false, now, out);
                }
                if self.units[i].beside.as_ref().is_some_and(|beside| beside.is_coming()) {
                    self.overlap(i, Cause::new(Reason::PlanChanged, CHANGED));
                }
            }
        }
    }

    pub(super) fn displaced(&mut self, i: usize, errors: &[String], out: &mut Outcome) {
        let unit = &mut self.units[i];
        if unit.place != Place::Leaving {
            return;
        }
        for error in errors {
            let text = format!("something of {} is left on the host: {error}", unit.name);
            out.events.push((Some(unit.name.clone()), EventKind::Notice { text }));
        }
        unit.place = Place::Missing;
        unit.beside = None;
        match unit.task.take() {
            Some(Task::Replace { plan, cause, .. }) => {
                unit.take_plan(&plan);
                // What was killed there and did not answer is gone with its place.
                if matches!(unit.state, State::Failed { lost: Some(_) }) {
                    unit.state = State::Failed { lost: None };
                    if unit.wanted && !self.going_down {
                        self.begin(i);
                        self.start_again(i, cause);
                    }
                }
                self.plan.services.insert(self.units[i].name.clone(), *plan);
                self.rewire();
                if !self.going_down {
                    self.units[i].place = Place::Due;
                    self.want_what_is_needed(out);
                }
            }
            Some(Task::Remove { .. }) => {
                self.forget(i);
                self.rewire();
            }
            Some(Task::Update { .. } | Task::Restart { .. }) | None => {}
        }
    }

    pub(super) fn placed(&mut self, i: usize, result: Result<(), String>, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if unit.place != Place::Asked {
            return;
        }
        match result {
            Ok(()) => {
                unit.place = Place::There;
                let unplaced = std::mem::take(&mut unit.unplaced);
                self.touch(i);
                if unplaced && self.units[i].state == (State::Failed { lost: None }) {
                    let cause = Cause::new(Reason::PlanChanged, "was not asked for yet");
                    self.enter(i, State::Pending, cause, out);
                }
            }
            Err(error) => {
                unit.place = Place::Missing;
                unit.worked = None;
                unit.unplaced = true;
                if !self.going_down {
                    let text = format!("could not start: its place could not be made: {error}");
                    let cause = Cause::new(Reason::StartFailed, text);
                    self.enter(i, State::Failed { lost: None }, cause, out);
                    self.end_bound_for_good(i, now, out);
                }
            }
        }
    }

    // ---- the end

    /// Everything goes down: nothing is placed any more, and what the host has not answered is waited for a while.
    pub(super) fn change_no_more(&mut self, now: Tick) {
        self.queued = None;
        for unit in &mut self.units {
            let begun = match &unit.task {
                Some(Task::Update { asked, .. }) => *asked,
                Some(Task::Replace { going, .. } | Task::Remove { going }) => *going == Going::Leaves,
                Some(Task::Restart { .. }) | None => false,
            };
            if !begun {
                unit.task = None;
            }
            if unit.place == Place::Due {
                unit.place = Place::Missing;
            }
        }
        if self.units.iter().any(Unit::is_unanswered) {
            self.answers_by.get_or_insert(now + ANSWER);
        }
    }

    /// The host does not answer: what it is in the middle of is its own.
    pub(super) fn forget_answers(&mut self) {
        self.answers_by = None;
        for unit in &mut self.units {
            unit.task = None;
            if unit.place != Place::There {
                unit.place = Place::Missing;
            }
        }
    }

    // ---- probes

    /// Probes that are others begin anew; a run that is ready is, until its new probe says otherwise.
    fn probe_anew(&mut self, i: usize, old: &ServicePlan, new: &ServicePlan, now: Tick, out: &mut Outcome) {
        let State::Up { generation, health } = self.units[i].state else { return };
        let before = self.units[i].phase();
        let gate = self.units[i].run.gate;
        let mut forget = |engine: &mut Self, role: ProbeRole| {
            let unit = &mut engine.units[i];
            if unit.probe_error.as_ref().is_some_and(|(failed, _)| *failed == role) {
                unit.probe_error = None;
            }
            engine.stop_probe(i, generation, role, out);
        };
        let startup = old.startup != new.startup && gate == Gate::Startup;
        let ready = old.ready != new.ready && gate == Gate::Open;
        let live = old.liveness != new.liveness && self.units[i].run.minded;
        if startup {
            forget(self, ProbeRole::Startup);
        }
        if ready {
            forget(self, ProbeRole::Ready);
        }
        if live {
            forget(self, ProbeRole::Live);
        }
        if startup {
            self.pass_hook(i, generation, now, out);
        }
        if ready {
            match health {
                Health::Unready { .. } => self.pass_startup(i, generation, "started", now, out),
                Health::Ready { .. } | Health::Unhealthy => self.ready_anew(i, generation, now, out),
            }
        }
        if live {
            let run = &mut self.units[i].run;
            run.minded = false;
            run.dead = 0;
            run.watchdog = None;
            self.mind_life(i, generation, now, out);
        }
        self.changed(i, before, out);
    }
}

impl Unit {
    /// Whether something of another plan is not done yet.
    pub(super) fn is_changing(&self) -> bool {
        let of_place = match self.place {
            Place::Due | Place::Asked | Place::Leaving => true,
            Place::There | Place::Missing => false,
        };
        of_place || self.task.is_some()
    }
}

/// Why something starts again, where nobody says more.
const CHANGED: &str = "its plan is another";

fn of_unit<'l>(plan: &'l ServicePlan, lines: &'l [PlanLine]) -> impl Iterator<Item = &'l PlanLine> {
    let is_of = |line: &&PlanLine| {
        line.service.as_ref().is_some_and(|name| *name == plan.name || *name == plan.declared)
    };
    lines.iter().filter(is_of)
}

fn what_is_another(plan: &ServicePlan, what: UnitChange, lines: &[PlanLine]) -> Another {
    match what {
        UnitChange::Restart => Another::Run { cause: why(plan, lines) },
        UnitChange::Live | UnitChange::Replace | UnitChange::Add | UnitChange::Remove => {
            if of_unit(plan, lines).next().is_some() { Another::Live } else { Another::Follows }
        }
    }
}

/// What of its plan starts a unit again, in a few words.
fn why(plan: &ServicePlan, lines: &[PlanLine]) -> Cause {
    let starts_again = of_unit(plan, lines).filter(|line| line.effect == PlanEffect::Restart);
    let texts: Vec<String> = starts_again.map(|line| line.text.clone()).collect();
    let text = match texts.is_empty() {
        true => CHANGED.to_owned(),
        false => format!("{CHANGED}: {}", crate::text::some(&texts)),
    };
    Cause::new(Reason::PlanChanged, text)
}

/// Whether both are published at one port of the host.
fn share_ports(one: &ServicePlan, other: &ServicePlan) -> bool {
    let same = |a: &Publish, b: &Publish| {
        let address = a.host == b.host || a.host.is_unspecified() || b.host.is_unspecified();
        a.protocol == b.protocol && a.host_port.is_some() && a.host_port == b.host_port && address
    };
    one.publish.iter().any(|a| other.publish.iter().any(|b| same(a, b)))
}
