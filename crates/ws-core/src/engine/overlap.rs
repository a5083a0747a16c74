//! A new run beside the old one: `reload: overlap`.
//!
//! A service that is ready and is to have another run (files changed, something was built, somebody asked for a
//! restart, its plan is another) keeps its run until the next one is ready too. Of the two one is in charge: its state
//! is the unit's, it is what others wait for and what is told. The other one is [`Beside`] it.
//!
//! ```text
//!   due ── what it waits for is there, nothing is beside ──▶ StartBeside: it comes
//!   comes ── ready ──▶ Switch ── Switched ──▶ it is in charge; the old one goes: hooks, signal, grace
//!   comes ── could not start, ended, not ready in time ──▶ killed; the old one goes on, and nothing is tried again
//!   comes ── a further change ──▶ killed, and due again
//!   comes ── the old one ends ──▶ it is in charge, ready or not yet
//!   comes, goes ── stop, kill, restart of what it is bound to, down ──▶ both end
//! ```
//!
//! - There are two at most: the next one begins when nothing is left of the one that goes.
//! - Somebody who asks for a restart wants the new run, not the gap. So that is an overlap too, where the service is
//!   ready; in any other phase it is a restart as always.
//! - What is bound to the service by `restart: true` is bound to the run that was replaced, and is started again after
//!   the switch.
//! - What happens to the other run is decided by the same code as for the one in charge, which sees it in the place of
//!   that ([`Engine::in_its_stead`]); what it would tell of the phase is not told.

use ws_model::{Cause, EventKind, ExitReason, Reason, Reload, ReloadResult, ServiceName};

use super::service::{Asked, Beside, Change, Health, Prospect, Run, Stage, State, Then, Unit};
use super::{Effect, Engine, Generation, Outcome, Tick};

impl Engine {
    /// Whether a new run can be had beside the present one.
    pub(super) fn can_overlap(&self, i: usize) -> bool {
        let unit = &self.units[i];
        let overlaps = unit.beside.is_some() || unit.overlap_due.is_some();
        let is_up = match &unit.state {
            State::Up { health: Health::Ready { .. }, .. } => true,
            State::Up { .. } => overlaps,
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => false,
        };
        unit.reload == Reload::Overlap && unit.ready_at_exec && is_up
    }

    /// A service that can is to have a new run beside its present one.
    pub(super) fn overlap(&mut self, i: usize, cause: Cause) {
        self.units[i].overlap_due = Some(cause);
        self.touch(i);
    }

    /// Begins a run beside the one in charge, if one is due and may begin.
    pub(super) fn try_overlap(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        if unit.overlap_due.is_none() || unit.is_changing() {
            return;
        }
        // Its plan has become another.
        if unit.reload != Reload::Overlap {
            let cause = self.units[i].overlap_due.take();
            let cause = cause.unwrap_or(Cause::new(Reason::Requested, "was asked to restart"));
            self.end(i, Then::Restart, cause, false, now, out);
            self.end_bound(i, now, out);
            return;
        }
        if let Some(beside) = &unit.beside {
            if let State::Failed { lost: Some(lost) } = beside.state {
                self.units[i].overlap_due = None;
                let error =
                    format!("its run {lost} was killed and did not end, and nothing is started beside that");
                self.overlap_failed(i, error, out);
            } else if beside.is_coming() && !beside.switching {
                self.give_up_beside(i, false, now, out);
            }
            return;
        }
        let hopeless = self.waits_with(i, Prospect::Never).find(|wait| wait.required).map(|wait| wait.on);
        if let Some(on) = hopeless {
            self.units[i].overlap_due = None;
            let error = self.units[on].why_never();
            self.overlap_failed(i, error, out);
            return;
        }
        if self.waits_with(i, Prospect::NotYet).next().is_some() {
            return;
        }
        let had = self.waits_with(i, Prospect::Met).map(|wait| self.units[wait.on].name.clone()).collect();
        let unit = &mut self.units[i];
        let Some(cause) = unit.overlap_due.take() else { return };
        unit.highest = unit.highest.max(unit.generation) + 1;
        let generation = unit.highest;
        unit.beside = Some(Box::new(Beside {
            generation,
            state: State::Starting { generation },
            run: Run { because: Some(cause.clone()), ..Run::default() },
            cause,
            probe_error: None,
            made_of: unit.newest.clone(),
            had,
            switching: false,
            going: false,
        }));
        out.effects.push(Effect::StartBeside { service: unit.name.clone(), generation });
    }

    /// Does something as if the run beside were in charge.
    pub(super) fn in_its_stead(
        &mut self,
        i: usize,
        out: &mut Outcome,
        what: impl FnOnce(&mut Self, &mut Outcome),
    ) {
        let Some(mut beside) = self.units[i].beside.take() else { return };
        let due = self.units[i].overlap_due.take();
        self.units[i].exchange(&mut beside);
        let mut heard = Outcome::default();
        what(self, &mut heard);
        let unit = &mut self.units[i];
        unit.exchange(&mut beside);
        unit.beside = Some(beside);
        unit.overlap_due = due;
        out.effects.extend(heard.effects);
        let is_notice = |event: &EventKind| matches!(event, EventKind::Notice { .. });
        out.events.extend(heard.events.into_iter().filter(|(_, event)| is_notice(event)));
    }

    /// Whether this is the run beside the one in charge.
    pub(super) fn is_beside(&self, i: usize, generation: Generation) -> bool {
        self.units[i].beside.as_ref().is_some_and(|beside| beside.generation == generation)
    }

    /// What follows from what became of the run beside.
    pub(super) fn judge_beside(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        let service = unit.name.clone();
        let Some(beside) = &mut unit.beside else { return };
        let generation = beside.generation;
        match &mut beside.state {
            State::Up { health: Health::Ready { .. }, .. } if !beside.switching => {
                beside.switching = true;
                out.effects.push(Effect::Switch { service, generation });
            }
            State::Ending { stage, then, .. } if !beside.going => {
                *then = Then::Stop;
                beside.going = true;
                let killed = matches!(stage, Stage::Killed { .. });
                let switching = std::mem::take(&mut beside.switching);
                let error = beside.cause.text.clone();
                if !killed {
                    self.kill_beside(i, now, out);
                }
                if switching {
                    self.switch_back(i, out);
                }
                self.overlap_failed(i, error, out);
            }
            State::Failed { .. } => self.touch(i),
            State::Up { .. }
            | State::Starting { .. }
            | State::Ending { .. }
            | State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Blocked { .. } => {}
        }
    }

    /// The run beside ended, or could not be started.
    pub(super) fn beside_is_over(&mut self, i: usize, error: String, out: &mut Outcome) {
        let Some(beside) = self.units[i].beside.take() else { return };
        self.touch(i);
        if beside.is_coming() {
            if beside.switching {
                self.switch_back(i, out);
            }
            self.overlap_failed(i, error, out);
        }
    }

    pub(super) fn beside_exited(
        &mut self,
        i: usize,
        exit: ExitReason,
        oom: bool,
        now: Tick,
        out: &mut Outcome,
    ) {
        let generation = self.units[i].beside.as_ref().map(|beside| beside.generation);
        let verdict = generation.filter(|_| oom).map(|run| self.judge_memory(i, run, now, out));
        let memory = if oom { ", as it needed more memory than its limit," } else { "" };
        self.beside_is_over(i, format!("{exit}{memory} before it took the place of the old run"), out);
        if let Some((action, evidence)) = verdict {
            self.act(i, action, &evidence, now, out);
        }
    }

    /// New connections stay with the run in charge after all.
    fn switch_back(&mut self, i: usize, out: &mut Outcome) {
        let unit = &self.units[i];
        if let State::Up { generation, .. } = unit.state {
            out.effects.push(Effect::Switch { service: unit.name.clone(), generation });
        }
    }

    /// The new run failed and the old one goes on.
    fn overlap_failed(&mut self, i: usize, error: String, out: &mut Outcome) {
        let unit = &mut self.units[i];
        // The next one is tried for something newer.
        if unit.overlap_due.is_some() {
            return;
        }
        let change = unit.change.take().unwrap_or_else(Change::of_no_files);
        self.tell_reloaded(i, &change, ReloadResult::Failed, None, Some(error), out);
    }

    /// Both runs are to end, or there is something newer.
    pub(super) fn give_up_beside(&mut self, i: usize, at_once: bool, now: Tick, out: &mut Outcome) {
        let Some(beside) = &mut self.units[i].beside else { return };
        let coming = beside.is_coming();
        let switching = std::mem::take(&mut beside.switching);
        beside.going = true;
        if coming && switching {
            self.switch_back(i, out);
        }
        if coming || at_once {
            self.kill_beside(i, now, out);
        }
    }

    fn kill_beside(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let cause = Cause::new(Reason::Requested, "was given up");
        self.in_its_stead(i, out, |engine, out| engine.end(i, Then::Stop, cause, true, now, out));
    }

    pub(super) fn switched(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        let asked = unit.beside.as_ref().is_some_and(|it| it.switching && it.generation == generation);
        let Some(old) = unit.state.live().filter(|_| asked) else { return };
        let before = unit.phase();
        self.stop_probes(i, old, out);
        let unit = &mut self.units[i];
        let Some(mut beside) = unit.beside.take() else { return };
        unit.exchange(&mut beside);
        let had = std::mem::take(&mut beside.had);
        unit.beside = Some(beside);
        self.is_in_charge(i, generation, &had);
        self.drain(i, old, now, out);
        let unit = &mut self.units[i];
        unit.streak = 0;
        if unit.change.is_none() {
            self.tell_reloaded(i, &Change::of_no_files(), ReloadResult::Done, None, None, out);
        }
        if self.units[i].phase() != before {
            self.tell_phase(i, out);
        }
        self.end_bound(i, now, out);
    }

    /// The old run, which is beside now, is asked to end, unless it was.
    fn drain(&mut self, i: usize, old: Generation, now: Tick, out: &mut Outcome) {
        let (how, grace) = (self.units[i].first_ask(), self.units[i].grace);
        let Some(beside) = &mut self.units[i].beside else { return };
        beside.generation = old;
        beside.going = true;
        beside.switching = false;
        beside.run.watchdog = None;
        let begun =
            matches!(beside.state, State::Ending { stage: Stage::Asked { .. } | Stage::Killed { .. }, .. });
        if begun {
            if let State::Ending { then, .. } = &mut beside.state {
                *then = Then::Stop;
            }
            return;
        }
        let stage = Stage::Asked { how, since: now, kill_at: now + grace };
        beside.state = State::Ending { generation: old, stage, then: Then::Stop };
        self.ask(i, old, how, out);
    }

    /// The run of this generation is in charge now.
    fn is_in_charge(&mut self, i: usize, generation: Generation, had: &[ServiceName]) {
        let unit = &mut self.units[i];
        unit.generation = generation;
        unit.restarts += 1;
        for number in 0..self.units[i].waits.len() {
            let on = self.units[i].waits[number].on;
            self.units[i].waits[number].had = had.contains(&self.units[on].name);
        }
        self.touch(i);
    }

    /// The run in charge is over: what is beside it takes its place, whether it comes or goes. False where there is
    /// none. `then`: what follows once one that goes is gone; `lost`: the run that is over was killed and may not be.
    pub(super) fn beside_takes_over(
        &mut self,
        i: usize,
        cause: &Cause,
        then: Then,
        lost: Option<Generation>,
        now: Tick,
        out: &mut Outcome,
    ) -> bool {
        let Some(beside) = self.units[i].beside.take() else { return false };
        let before = self.units[i].phase();
        let unit = &mut self.units[i];
        let coming = beside.is_coming();
        let Beside { generation, state, run, cause: its_cause, probe_error, made_of, had, switching, .. } =
            *beside;
        unit.overlap_due = None;
        let old = std::mem::replace(&mut unit.run, run);
        if let Some(lost) = lost {
            unit.beside = Some(Box::new(Beside {
                generation: lost,
                state: State::Failed { lost: Some(lost) },
                run: old,
                cause: cause.clone(),
                probe_error: None,
                made_of: unit.made_of.clone(),
                had: Vec::new(),
                switching: false,
                going: true,
            }));
        }
        if coming {
            unit.state = state;
            unit.probe_error = probe_error;
            unit.made_of = made_of;
            // It has them already where that was asked for.
            unit.run.owes_switch = !switching;
            self.is_in_charge(i, generation, &had);
            let unit = &mut self.units[i];
            let is_ready = unit.is_ready();
            unit.cause = match is_ready {
                true => its_cause,
                false => {
                    let text =
                        format!("{}; run {generation}, which was to take its place, goes on", cause.text);
                    Cause::new(cause.reason, text)
                }
            };
            if unit.phase() != before {
                self.tell_phase(i, out);
            }
            self.end_bound(i, now, out);
            return true;
        }
        match state {
            State::Ending { generation, stage, .. } => {
                unit.state = State::Ending { generation, stage, then };
                unit.cause = cause.clone();
            }
            State::Failed { lost } => {
                unit.state = State::Failed { lost };
                unit.run = Run::default();
                unit.cause = if then == Then::Violate { cause.clone() } else { its_cause };
                if matches!(then, Then::Fail | Then::Violate) {
                    self.end_bound_for_good(i, now, out);
                }
            }
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Blocked { .. } => {}
        }
        self.touch(i);
        if self.units[i].phase() != before {
            self.tell_phase(i, out);
        }
        true
    }

    /// A run that took over before it was ready gets the connections when it is.
    pub(super) fn pay_switches(&mut self, out: &mut Outcome) {
        for unit in &mut self.units {
            if let State::Up { generation, health: Health::Ready { .. } } = unit.state
                && std::mem::take(&mut unit.run.owes_switch)
            {
                out.effects.push(Effect::Switch { service: unit.name.clone(), generation });
            }
        }
    }
}

impl Beside {
    /// Whether it is to take the place of the run in charge.
    pub(super) fn is_coming(&self) -> bool {
        !self.going
    }
}

impl Unit {
    /// What stands for the run in charge and what stands for the other one change places.
    fn exchange(&mut self, beside: &mut Beside) {
        std::mem::swap(&mut self.state, &mut beside.state);
        std::mem::swap(&mut self.run, &mut beside.run);
        std::mem::swap(&mut self.cause, &mut beside.cause);
        std::mem::swap(&mut self.probe_error, &mut beside.probe_error);
        std::mem::swap(&mut self.made_of, &mut beside.made_of);
    }

    /// Whether a run beside is to take the place of its present one, now or soon.
    pub(super) fn is_overlapping(&self) -> bool {
        self.overlap_due.is_some() || self.beside.as_ref().is_some_and(|beside| beside.is_coming())
    }

    /// By what a run is asked to end first.
    pub(super) fn first_ask(&self) -> Asked {
        match (self.has_pre_stop, self.has_stop_command) {
            (true, _) => Asked::PreStop,
            (false, true) => Asked::Command,
            (false, false) => Asked::Signal,
        }
    }
}
