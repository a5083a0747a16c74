//! The end of a run: held, asked, killed.

use ws_model::{Cause, EventKind, Reason};

use super::service::{Asked, Stage, State, Then};
use super::{ANSWER, Effect, Engine, Generation, Hook, Outcome, Tick};

impl Engine {
    /// Ends a service's run, or its wait for one.
    pub(super) fn end(
        &mut self,
        i: usize,
        then: Then,
        cause: Cause,
        at_once: bool,
        now: Tick,
        out: &mut Outcome,
    ) {
        if then != Then::Fail {
            self.give_up_beside(i, at_once, now, out);
        }
        let unit = &mut self.units[i];
        unit.overlap_due = None;
        if then == Then::Restart {
            unit.again = Some(cause.clone());
        }
        match &mut unit.state {
            State::Pending | State::Stopped | State::Exited | State::Failed { .. } => {}
            // It would be started as soon as it can; at the very end its failure is worth more.
            State::Blocked { .. } if self.going_down => {}
            State::Waiting | State::Backoff { .. } | State::Blocked { .. } => {
                self.enter(i, State::Stopped, cause, out);
            }
            State::Looking { .. } => match then {
                Then::Stop => self.enter(i, State::Stopped, cause, out),
                Then::Restart | Then::Fail | Then::Exit => self.wait_quietly(i),
                Then::Violate => self.failed_for_good(i, cause, now, out),
            },
            // Nothing of the service's own runs yet that could be asked to end.
            State::Starting { generation } => {
                let generation = *generation;
                self.kill(i, generation, then, cause, now, out);
            }
            State::Up { generation, .. } => {
                let generation = *generation;
                unit.count_anew_if_stable(now);
                unit.run.watchdog = None;
                if at_once {
                    self.kill(i, generation, then, cause, now, out);
                } else {
                    self.stop_probes(i, generation, out);
                    // It is told when it is known whether it is held, within this step.
                    let unit = &mut self.units[i];
                    unit.state = State::Ending { generation, stage: Stage::Held { told: false }, then };
                    unit.cause = cause;
                    self.touch(i);
                }
            }
            State::Ending { generation, stage, then: old } => {
                let generation = *generation;
                // A verdict stands until somebody wants it up again.
                let then = match (*old, then) {
                    (Then::Violate, Then::Stop | Then::Fail) => return,
                    (_, then) => then,
                };
                let was = std::mem::replace(old, then);
                let killed = matches!(stage, Stage::Killed { .. });
                if at_once && !killed {
                    self.kill(i, generation, then, cause, now, out);
                } else {
                    if !killed || was == Then::Fail || then == Then::Violate {
                        unit.cause = cause;
                    }
                    self.touch(i);
                }
            }
        }
    }

    fn kill(
        &mut self,
        i: usize,
        generation: Generation,
        then: Then,
        cause: Cause,
        now: Tick,
        out: &mut Outcome,
    ) {
        out.effects.push(Effect::Kill { service: self.units[i].name.clone(), generation });
        let stage = Stage::Killed { give_up_at: now + ANSWER };
        self.enter(i, State::Ending { generation, stage, then }, cause, out);
    }

    /// Goes on with a run that is to end, unless there still is one that waits on it and ends before it.
    pub(super) fn release(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        let State::Ending { generation, stage: Stage::Held { told }, then } = unit.state else { return };
        if self.held_by(i).next().is_some() {
            self.units[i].state = State::Ending { generation, stage: Stage::Held { told: true }, then };
        } else {
            let how = unit.first_ask();
            let stage = Stage::Asked { how, since: now, kill_at: now + unit.grace };
            self.units[i].state = State::Ending { generation, stage, then };
            self.ask(i, generation, how, out);
        }
        if !told {
            self.tell_phase(i, out);
        }
    }

    /// The ones that wait on it and are gone before it is asked to end.
    pub(super) fn held_by(&self, i: usize) -> impl Iterator<Item = usize> {
        self.units[i].dependents.iter().copied().filter(|d| self.units[*d].is_going())
    }

    pub(super) fn ask(&self, i: usize, generation: Generation, how: Asked, out: &mut Outcome) {
        let service = self.units[i].name.clone();
        out.effects.push(match how {
            Asked::PreStop => Effect::RunHook { service, generation, hook: Hook::PreStop },
            Asked::Command => Effect::RunHook { service, generation, hook: Hook::Stop },
            Asked::Signal => Effect::Signal { service, generation, signal: self.units[i].signal },
        });
    }

    /// The hook or the command that was to come before the next way to ask ended. That it failed holds nothing up.
    pub(super) fn asked(
        &mut self,
        i: usize,
        generation: Generation,
        hook: Hook,
        result: Result<(), String>,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        let State::Ending { generation: live, stage: Stage::Asked { how, .. }, .. } = &mut unit.state else {
            return;
        };
        if *live != generation {
            return;
        }
        let (what, next) = match (hook, *how) {
            (Hook::PreStop, Asked::PreStop) if unit.has_stop_command => ("pre_stop", Asked::Command),
            (Hook::PreStop, Asked::PreStop) => ("pre_stop", Asked::Signal),
            (Hook::Stop, Asked::Command) => ("the stop command", Asked::Signal),
            (Hook::PostStart | Hook::PreStop | Hook::Stop, _) => return,
        };
        *how = next;
        if let Err(error) = result {
            let text = format!("{what} of {} failed: {error}; it is stopped all the same", unit.name);
            out.events.push((Some(unit.name.clone()), EventKind::Notice { text }));
        }
        self.ask(i, generation, next, out);
    }

    /// A run did not end in time: neither by itself, nor when it was killed.
    pub(super) fn not_gone_in_time(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        let State::Ending { generation, stage, then } = unit.state else { return };
        match stage {
            Stage::Held { .. } => {}
            Stage::Asked { how, since, kill_at } => {
                let took = crate::text::duration(kill_at.saturating_sub(since));
                let text = match how {
                    Asked::PreStop => format!("was killed, as its pre_stop did not end within {took}"),
                    Asked::Command => format!("was killed, as its stop command did not end within {took}"),
                    Asked::Signal => format!("did not stop within {took} and was killed"),
                };
                let cause = match then {
                    Then::Stop | Then::Restart | Then::Exit => Cause::new(Reason::GraceExceeded, text),
                    // Why it was to end is what its restart policy is about.
                    Then::Fail | Then::Violate => {
                        Cause::new(unit.cause.reason, format!("{}; {text}", unit.cause.text))
                    }
                };
                self.kill(i, generation, then, cause, now, out);
            }
            Stage::Killed { .. } => {
                let text = format!("was killed and did not end within {}", crate::text::duration(ANSWER));
                let cause = match then {
                    Then::Violate => Cause::new(Reason::Violation, format!("{}; {text}", unit.cause.text)),
                    Then::Stop | Then::Restart | Then::Fail | Then::Exit => {
                        Cause::new(Reason::GraceExceeded, text)
                    }
                };
                if self.beside_takes_over(i, &cause, then, Some(generation), now, out) {
                    return;
                }
                self.enter(i, State::Failed { lost: Some(generation) }, cause, out);
                if matches!(then, Then::Fail | Then::Violate) {
                    self.end_bound_for_good(i, now, out);
                }
            }
        }
    }
}
