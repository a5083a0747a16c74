//! How runs begin and how they end by themselves, and what that means for others.

use ws_model::{Cause, EventKind, ExitReason, Reason, RestartPolicy};

use super::service::{Prospect, Run, State, Then};
use super::{Effect, Engine, Generation, Outcome, Step, Tick};
use crate::files::Moment;

/// From this failure in a row on, a pause is told as part of a loop.
const LOOP: u32 = 3;

impl Engine {
    pub(super) fn try_start(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        if self.waits_for_the_host(i, out) {
            return;
        }
        // Nothing is started beside a run that was killed and of whose end the host never told.
        if let Some(beside) = self.units[i].beside.take() {
            let State::Failed { .. } = beside.state else {
                self.units[i].beside = Some(beside);
                return;
            };
            self.enter(i, beside.state, beside.cause, out);
            return;
        }
        let blocked_by = self.waits_with(i, Prospect::Never).find(|wait| wait.required).map(|wait| wait.on);
        if let Some(on) = blocked_by {
            let (root, text) = match &self.units[on].state {
                State::Blocked { root } => (root.clone(), format!("{}: {root}", self.units[on].why_never())),
                State::Pending
                | State::Waiting
                | State::Looking { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Ending { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Exited
                | State::Failed { .. } => (self.units[on].why_never(), self.units[on].why_never()),
            };
            self.enter(i, State::Blocked { root }, Cause::new(Reason::DependencyFailed, text), out);
            return;
        }
        let missing: Vec<String> = self
            .waits_with(i, Prospect::NotYet)
            .map(|wait| match self.units[wait.on].is_build {
                true => format!("{} (built)", self.units[wait.on].name),
                false => format!("{} ({})", self.units[wait.on].name, wait.condition.as_str()),
            })
            .collect();
        if !missing.is_empty() {
            self.tell_wait(i, Reason::Dependency, format!("waits for {}", crate::text::some(&missing)), out);
            return;
        }
        if self.units[i].is_build && self.builds_running() >= self.parallel_builds() {
            let text = format!("waits until fewer than {} other builds run", self.parallel_builds());
            self.tell_wait(i, Reason::Dependency, text, out);
            return;
        }
        let met: Vec<String> = self
            .waits_with(i, Prospect::Met)
            .map(|wait| match self.units[wait.on].is_build {
                true => format!("{} is built", self.units[wait.on].name),
                false => format!("{} is {}", self.units[wait.on].name, wait.condition.as_str()),
            })
            .collect();
        let unit = &mut self.units[i];
        let cause = match (&unit.again, met.is_empty()) {
            (Some(cause), _) => cause.clone(),
            (None, false) => Cause::new(Reason::DependenciesReady, crate::text::some(&met)),
            (None, true) => Cause::new(Reason::Requested, "was asked for"),
        };
        unit.highest = unit.highest.max(unit.generation) + 1;
        unit.generation = unit.highest;
        unit.probe_error = None;
        unit.run = Run::default();
        let generation = unit.generation;
        unit.again = None;
        unit.made_of.clone_from(&unit.newest);
        for number in 0..self.units[i].waits.len() {
            let wait = self.units[i].waits[number];
            let had = self.units[wait.on].prospect(wait.condition) == Prospect::Met;
            self.units[i].waits[number].had = had;
        }
        if self.units[i].makes {
            self.look(i, generation, Moment::Before, cause, out);
        } else {
            self.start_run(i, generation, cause, now, out);
        }
    }

    /// Tells what its start waits for, unless that is known.
    pub(super) fn tell_wait(&mut self, i: usize, reason: Reason, text: String, out: &mut Outcome) {
        if self.units[i].told != text {
            self.units[i].told.clone_from(&text);
            self.units[i].cause = Cause::new(reason, text);
            self.tell_phase(i, out);
        }
    }

    /// Asks the host for a run.
    pub(super) fn start_run(
        &mut self,
        i: usize,
        generation: Generation,
        cause: Cause,
        now: Tick,
        out: &mut Outcome,
    ) {
        self.units[i].run.because = Some(cause.clone());
        let service = self.units[i].name.clone();
        out.effects.push(Effect::Start { service, generation, step: Step::Main });
        self.enter(i, State::Starting { generation }, cause, out);
        self.end_bound(i, now, out);
    }

    /// The run of a service is being replaced by a next one: what is bound to it by [`Wait::restart`] ends, and starts
    /// again when it has what it waits for. And so on with what is bound to that.
    ///
    /// [`Wait::restart`]: crate::plan::Wait::restart
    pub(super) fn end_bound(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let text = format!("{} is started again", self.units[i].name);
        let cause = Cause::new(Reason::DependencyRestarted, text);
        for d in self.units[i].dependents.clone() {
            if self.units[d].is_bound_to(i) {
                self.end(d, Then::Restart, cause.clone(), false, now, out);
                self.end_bound(d, now, out);
            }
        }
    }

    /// The run of a service has failed and there is no next one: what is bound to it and cannot do without it ends,
    /// and fails for that.
    pub(super) fn end_bound_for_good(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let cause = Cause::new(Reason::DependencyFailed, self.units[i].why_never());
        for d in self.units[i].dependents.clone() {
            if self.units[d].is_bound_to(i) && !self.units[d].can_do_without(i) {
                self.end(d, Then::Restart, cause.clone(), false, now, out);
                self.end_bound(d, now, out);
            }
        }
    }

    pub(super) fn start_failed(
        &mut self,
        i: usize,
        generation: Generation,
        error: &str,
        hopeless: bool,
        now: Tick,
        out: &mut Outcome,
    ) {
        match &self.units[i].state {
            State::Starting { generation: live } | State::Up { generation: live, .. }
                if *live == generation =>
            {
                let reason = if self.units[i].is_build { Reason::BuildFailed } else { Reason::StartFailed };
                let cause = Cause::new(reason, format!("could not start: {error}"));
                if hopeless {
                    self.failed_for_good(i, cause, now, out);
                } else {
                    self.failed(i, &cause, now, out);
                }
            }
            State::Ending { generation: live, then, .. } if *live == generation => {
                let then = *then;
                self.gone(i, then, now, out);
            }
            State::Failed { lost } if *lost == Some(generation) => self.found(i),
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => {}
        }
    }

    pub(super) fn exited(
        &mut self,
        i: usize,
        generation: Generation,
        exit: ExitReason,
        oom: bool,
        now: Tick,
        out: &mut Outcome,
    ) {
        if oom && self.ended_for_memory(i, generation, exit, now, out) {
            self.tell_what_is_left(i, now, out);
            return;
        }
        self.tell_what_is_left(i, now, out);
        let unit = &mut self.units[i];
        let cause = if unit.is_build && !oom {
            Cause::new(Reason::BuildFailed, exit.to_string())
        } else if oom {
            Cause::new(Reason::Oom, format!("{exit}: it needed more memory than its limit"))
        } else {
            Cause::new(Reason::Exit, exit.to_string())
        };
        match &unit.state {
            State::Starting { generation: live } | State::Up { generation: live, .. }
                if *live == generation =>
            {
                unit.exit = Some(exit);
                let again = match unit.restart.policy {
                    RestartPolicy::Always => !unit.completes,
                    RestartPolicy::No | RestartPolicy::OnFailure => false,
                };
                let fails = !unit.is_success(exit, oom) || again;
                let then = if fails { Then::Fail } else { Then::Exit };
                if self.beside_takes_over(i, &cause, then, None, now, out) {
                    return;
                }
                let unit = &mut self.units[i];
                if fails {
                    self.failed(i, &cause, now, out);
                } else {
                    if unit.makes {
                        self.look(i, generation, Moment::After, Cause::new(Reason::Exit, "succeeded"), out);
                        return;
                    }
                    self.ended_by_itself(i, exit, out);
                }
            }
            State::Ending { generation: live, then, .. } if *live == generation => {
                let then = *then;
                // How it ended by itself is known.
                if then != Then::Exit {
                    unit.exit = Some(exit);
                }
                self.gone(i, then, now, out);
            }
            State::Failed { lost } if *lost == Some(generation) => {
                unit.exit = Some(exit);
                self.found(i);
            }
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => {}
        }
    }

    /// A run is over, and that is a success.
    fn ended_by_itself(&mut self, i: usize, exit: ExitReason, out: &mut Outcome) {
        let unit = &self.units[i];
        let by_itself = (!unit.completes).then(|| unit.name.clone());
        let text = match (by_itself.is_some(), exit) {
            (true, _) => format!("{exit} by itself"),
            (false, ExitReason::Code(code)) => format!("finished with {code}"),
            (false, ExitReason::Signal(_)) => format!("{exit}, which is a success of it"),
        };
        self.enter(i, State::Exited, Cause::new(Reason::Exit, text), out);
        if let Some(name) = by_itself {
            let text = format!(
                "{name} {exit} and is not started again; a program that runs to completion is `kind: task`"
            );
            out.events.push((Some(name), EventKind::Notice { text }));
        }
    }

    /// A run that was given up ended after all: the service can be started again.
    fn found(&mut self, i: usize) {
        self.units[i].state = State::Failed { lost: None };
        self.touch(i);
    }

    /// A run is over, and it was not asked to be: the restart policy decides.
    pub(super) fn failed(&mut self, i: usize, cause: &Cause, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.count_anew_if_stable(now);
        match unit.after_failure(cause) {
            Ok(pause) => {
                let count = match unit.restart.max {
                    Some(max) => format!("restart {} of {max}", unit.streak),
                    None => format!("restart {}", unit.streak),
                };
                unit.again = Some(Cause::new(cause.reason, format!("starts again, as it {}", cause.text)));
                let cause = if unit.streak < LOOP {
                    Cause::new(cause.reason, format!("{} ({count})", cause.text))
                } else {
                    let words = match (cause.reason, unit.exit.and_then(in_words)) {
                        (Reason::Exit, Some(words)) => format!(" ({words})"),
                        (_, _) => String::new(),
                    };
                    let text = format!("{}{words}, {} failures in a row ({count})", cause.text, unit.streak);
                    Cause::new(Reason::CrashLoop, text)
                };
                self.enter(i, State::Backoff { until: now + pause }, cause, out);
                let told = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                if let Some((_, EventKind::Phase { retry_in_ms, .. })) = out.events.last_mut() {
                    *retry_in_ms = Some(told);
                }
                self.end_bound(i, now, out);
            }
            Err(cause) => self.failed_for_good(i, cause, now, out),
        }
    }

    pub(super) fn failed_for_good(&mut self, i: usize, cause: Cause, now: Tick, out: &mut Outcome) {
        self.enter(i, State::Failed { lost: None }, cause, out);
        self.end_bound_for_good(i, now, out);
    }

    /// A run that was to end is gone.
    pub(super) fn gone(&mut self, i: usize, then: Then, now: Tick, out: &mut Outcome) {
        let cause = self.units[i].cause.clone();
        if self.beside_takes_over(i, &cause, then, None, now, out) {
            return;
        }
        match then {
            Then::Stop => self.enter(i, State::Stopped, cause, out),
            Then::Restart => {
                self.units[i].streak = 0;
                let again = self.units[i].again.take().unwrap_or(cause);
                self.start_again(i, again);
            }
            Then::Fail => self.failed(i, &cause, now, out),
            Then::Exit => {
                let exit = self.units[i].exit.unwrap_or(ExitReason::Code(0));
                self.ended_by_itself(i, exit, out);
            }
            Then::Violate => self.failed_for_good(i, cause, now, out),
        }
    }
}

/// What a way to end means, where that is not plain.
fn in_words(exit: ExitReason) -> Option<&'static str> {
    match exit {
        ExitReason::Code(126) => Some("a program that cannot be executed"),
        ExitReason::Code(127) => Some("a program that was not found"),
        ExitReason::Code(code) if code > 128 => in_words(ExitReason::Signal(code - 128)),
        ExitReason::Signal(4) => Some("an instruction that this processor does not have"),
        ExitReason::Signal(6) => Some("it gave itself up"),
        ExitReason::Signal(7) => Some("memory that is not there"),
        ExitReason::Signal(8) => Some("an impossible calculation"),
        ExitReason::Signal(9) => Some("somebody killed it"),
        ExitReason::Signal(11) => Some("memory that is not its own"),
        ExitReason::Signal(13) => Some("nobody reads what it writes"),
        ExitReason::Signal(31) => Some("a system call that it may not use"),
        ExitReason::Code(_) | ExitReason::Signal(_) => None,
    }
}
