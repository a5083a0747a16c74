//! A run that works: from exec to ready, ready or not from then on, and whether there is life in it.

use std::time::Duration;

use ws_model::{Cause, EventKind, Phase, Reason};

use super::service::{Gate, Health, Said, Stage, State, Then, Watch};
use super::{ANSWER, Effect, Engine, Generation, Hook, Notified, Outcome, ProbeRole, Tick};

/// The most that `EXTEND_TIMEOUT_USEC` adds to the time within which a startup or ready probe must succeed: a
/// database that recovers may well take that long.
pub const LONGEST_START: Duration = Duration::from_secs(3600);

/// The most that `EXTEND_TIMEOUT_USEC` adds to a grace period: somebody waits for the end.
pub const LONGEST_STOP: Duration = Duration::from_secs(600);

/// The shortest time between two [`EventKind::Status`] of a service.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

const SAID_READY: &str = "said that it is ready";

impl Engine {
    // ---- from exec to ready

    pub(super) fn executed(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if unit.state != (State::Starting { generation }) {
            return;
        }
        unit.run.since = Some(now);
        unit.run.gate_since = now;
        let by = unit.post_start.map(|limit| now + limit + ANSWER);
        unit.state = State::Up { generation, health: Health::Unready { by } };
        if by.is_some() {
            unit.cause = Cause::new(Reason::Executed, "started, its post_start runs");
            let hook = Hook::PostStart;
            out.effects.push(Effect::RunHook { service: unit.name.clone(), generation, hook });
        } else {
            self.pass_hook(i, generation, now, out);
        }
        self.changed(i, Phase::Starting, out);
    }

    /// The commands of `post_start` ended. Nothing is probed before that, as with the hook of this name of
    /// Kubernetes.
    pub(super) fn post_started(
        &mut self,
        i: usize,
        generation: Generation,
        result: Result<(), String>,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &self.units[i];
        if !matches!(unit.state, State::Up { generation: live, .. } if live == generation)
            || unit.run.gate != Gate::Hook
        {
            return;
        }
        match result {
            Ok(()) => {
                self.pass_hook(i, generation, now, out);
                // It counts as started from here on, whatever its phase.
                self.touch(i);
                self.changed(i, Phase::Running, out);
            }
            Err(error) => {
                let text = format!("could not complete its start: post_start {error}");
                self.end(i, Then::Fail, Cause::new(Reason::HookFailed, text), false, now, out);
            }
        }
    }

    /// The time of the startup probe runs from here: from exec, or from the end of `post_start`.
    pub(super) fn pass_hook(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.run.gate = Gate::Startup;
        unit.run.gate_since = now;
        match unit.startup {
            None => {
                let text = if unit.ready_at_exec { "started; it has no probe" } else { "started" };
                self.pass_startup(i, generation, text, now, out);
            }
            Some(probe) if probe.notify && unit.run.said_ready => {
                self.pass_startup(i, generation, SAID_READY, now, out);
            }
            Some(probe) => self.await_success(i, generation, ProbeRole::Startup, probe, now, out),
        }
    }

    /// The time of the ready probe runs from here: as that of the startup probe, or from its success.
    pub(super) fn pass_startup(
        &mut self,
        i: usize,
        generation: Generation,
        text: &str,
        now: Tick,
        out: &mut Outcome,
    ) {
        self.stop_probe(i, generation, ProbeRole::Startup, out);
        let unit = &mut self.units[i];
        unit.run.gate = Gate::Open;
        unit.run.gate_since = now;
        match unit.ready {
            None => {
                unit.state = State::Up { generation, health: Health::Unready { by: None } };
                unit.cause = Cause::new(Reason::Executed, text);
                unit.run.level = unit.ready_at_exec;
                self.mind_life(i, generation, now, out);
                self.weigh(i, Cause::new(Reason::ProbeOk, text), now, out);
            }
            Some(probe) if probe.notify && unit.run.said_ready => {
                unit.run.level = true;
                self.weigh(i, Cause::new(Reason::ProbeOk, SAID_READY), now, out);
            }
            Some(probe) => self.await_success(i, generation, ProbeRole::Ready, probe, now, out),
        }
    }

    /// A run that was ready gets another ready probe, or none: it is what it was, until that says otherwise.
    pub(super) fn ready_anew(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.run.misses = 0;
        match unit.ready {
            None => unit.run.level |= unit.ready_at_exec,
            Some(probe) if probe.notify => unit.run.level |= unit.run.said_ready,
            Some(_) => self.start_probe(i, generation, ProbeRole::Ready, out),
        }
        self.weigh(i, Cause::new(Reason::ProbeOk, "its plan is another"), now, out);
    }

    /// Waits for a first success: of what the host probes, or of what the run says.
    fn await_success(
        &mut self,
        i: usize,
        generation: Generation,
        role: ProbeRole,
        probe: Watch,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        unit.state = State::Up { generation, health: Health::Unready { by: Some(now + probe.within) } };
        unit.cause = Cause::new(Reason::Executed, "started, not ready yet");
        if !probe.notify {
            self.start_probe(i, generation, role, out);
        }
    }

    /// What it was in the middle of was not done in time.
    pub(super) fn not_ready_in_time(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        let took = crate::text::duration(now.saturating_sub(unit.run.gate_since));
        let last = unit.probe_error.as_ref().map(|(_, error)| format!(": {error}")).unwrap_or_default();
        let (reason, text) = match unit.run.gate {
            Gate::Hook => (
                Reason::HookFailed,
                format!("could not complete its start: its post_start did not end within {took}"),
            ),
            Gate::Startup => (Reason::ReadyTimeout, format!("did not start up within {took}{last}")),
            Gate::Open => (Reason::ReadyTimeout, format!("was not ready within {took}{last}")),
        };
        self.end(i, Then::Fail, Cause::new(reason, text), true, now, out);
    }

    // ---- probes

    fn start_probe(&mut self, i: usize, generation: Generation, probe: ProbeRole, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.run.probing.insert(probe);
        out.effects.push(Effect::StartProbe { service: unit.name.clone(), generation, probe });
    }

    pub(super) fn stop_probe(
        &mut self,
        i: usize,
        generation: Generation,
        probe: ProbeRole,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        if unit.run.probing.remove(&probe) {
            out.effects.push(Effect::StopProbe { service: unit.name.clone(), generation, probe });
        }
    }

    /// Nothing counts any more of what is probed.
    pub(super) fn stop_probes(&mut self, i: usize, generation: Generation, out: &mut Outcome) {
        for probe in [ProbeRole::Startup, ProbeRole::Ready, ProbeRole::Live] {
            self.stop_probe(i, generation, probe, out);
        }
    }

    pub(super) fn probed(
        &mut self,
        i: usize,
        generation: Generation,
        role: ProbeRole,
        result: Result<String, String>,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        let State::Up { generation: live, health } = &unit.state else { return };
        if *live != generation || !unit.run.probing.contains(&role) {
            return;
        }
        let health = *health;
        let before = unit.phase();
        match (&result, &unit.probe_error) {
            (Err(error), _) => unit.probe_error = Some((role, error.clone())),
            (Ok(_), Some((failed, _))) if *failed == role => unit.probe_error = None,
            (Ok(_), _) => {}
        }
        match (role, result) {
            (ProbeRole::Startup, Ok(text)) => self.pass_startup(i, generation, &text, now, out),
            // Not news enough for an event; whoever asks gets the last word.
            (ProbeRole::Startup, Err(text)) => {
                unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready yet: {text}"));
            }
            (ProbeRole::Ready, Ok(text)) => {
                unit.run.misses = 0;
                unit.run.level = true;
                self.weigh(i, Cause::new(Reason::ProbeOk, text), now, out);
            }
            (ProbeRole::Ready, Err(text)) => {
                unit.run.misses = unit.run.misses.saturating_add(1);
                let enough = unit.ready.is_none_or(|probe| unit.run.misses >= probe.failures);
                unit.run.level &= !enough;
                match health {
                    Health::Unready { .. } => {
                        unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready yet: {text}"));
                    }
                    Health::Ready { .. } => {
                        let text = format!("not ready any more: {text}");
                        self.weigh(i, Cause::new(Reason::ProbeFailed, text), now, out);
                    }
                    Health::Unhealthy if unit.run.said == Said::Nothing => {
                        unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready any more: {text}"));
                    }
                    // It has said itself why.
                    Health::Unhealthy => {}
                }
            }
            (ProbeRole::Live, Ok(_)) => unit.run.dead = 0,
            (ProbeRole::Live, Err(text)) => {
                unit.run.dead = unit.run.dead.saturating_add(1);
                if unit.liveness.is_none_or(|probe| unit.run.dead >= probe.failures) {
                    let times = match unit.run.dead {
                        1 => String::new(),
                        times => format!(" {times} times in a row"),
                    };
                    let text = format!("did not answer its liveness probe{times}: {text}");
                    self.without_life(i, text, now, out);
                    return;
                }
            }
        }
        self.changed(i, before, out);
    }

    // ---- life

    /// Its life counts from now on: once it is ready for the first time, or can only be alive.
    pub(super) fn mind_life(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if std::mem::replace(&mut unit.run.minded, true) {
            return;
        }
        match unit.liveness {
            None => {}
            Some(probe) if probe.notify => unit.run.watchdog = Some(now + probe.interval),
            Some(_) => self.start_probe(i, generation, ProbeRole::Live, out),
        }
    }

    pub(super) fn watchdog_missed(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let within = self.units[i].liveness.map(|probe| probe.interval).unwrap_or_default();
        let text = format!("did not tell its watchdog within {}", crate::text::duration(within));
        self.without_life(i, text, now, out);
    }

    fn without_life(&mut self, i: usize, text: String, now: Tick, out: &mut Outcome) {
        self.end(i, Then::Fail, Cause::new(Reason::LivenessFailed, text), false, now, out);
    }

    // ---- what a run says of itself

    pub(super) fn notified(
        &mut self,
        i: usize,
        generation: Generation,
        news: Notified,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        if unit.state.live() != Some(generation) {
            return;
        }
        let before = unit.phase();
        match (news, &mut unit.state) {
            (Notified::Status(text), _) => self.says(i, text, now, out),
            // It may come before the host tells of the exec.
            (Notified::Ready, State::Starting { .. }) => unit.run.said_ready = true,
            (Notified::Ready, State::Up { .. }) => {
                unit.run.said_ready = true;
                unit.run.said = Said::Nothing;
                let says_it = |probe: Option<Watch>| probe.is_some_and(|probe| probe.notify);
                match unit.run.gate {
                    Gate::Hook => {}
                    Gate::Startup if says_it(unit.startup) => {
                        self.pass_startup(i, generation, SAID_READY, now, out);
                    }
                    Gate::Startup => {}
                    Gate::Open => {
                        unit.run.level |= says_it(unit.ready);
                        self.weigh(i, Cause::new(Reason::ProbeOk, SAID_READY), now, out);
                    }
                }
            }
            (
                Notified::Reloading,
                State::Starting { .. } | State::Up { health: Health::Unready { .. }, .. },
            ) => {
                unit.run.said_ready = false;
            }
            (Notified::Reloading, State::Up { .. }) => {
                unit.run.said = Said::Reloading;
                let text = "reloads, and has not said yet that it is ready again";
                self.weigh(i, Cause::new(Reason::ProbeFailed, text), now, out);
            }
            (Notified::Stopping, State::Up { health: Health::Ready { .. } | Health::Unhealthy, .. }) => {
                unit.run.said = Said::Stopping;
                self.weigh(i, Cause::new(Reason::ProbeFailed, "said that it stops"), now, out);
            }
            (Notified::ExtendTimeout(time), State::Up { health: Health::Unready { by: Some(by) }, .. }) => {
                let probe = match unit.run.gate {
                    // Its commands have limits of their own.
                    Gate::Hook => None,
                    Gate::Startup => unit.startup,
                    Gate::Open => unit.ready,
                };
                if let Some(probe) = probe {
                    *by = extended(now, time, unit.run.gate_since + probe.within, LONGEST_START);
                }
            }
            (
                Notified::ExtendTimeout(time),
                State::Ending { stage: Stage::Asked { since, kill_at, .. }, .. },
            ) => *kill_at = extended(now, time, *since + unit.grace, LONGEST_STOP),
            (Notified::Watchdog, State::Up { .. }) => {
                if let (Some(watchdog), Some(probe)) = (&mut unit.run.watchdog, unit.liveness) {
                    *watchdog = now + probe.interval;
                }
            }
            (Notified::WatchdogTrigger, State::Up { .. }) => {
                let text = "asked to be taken for dead (WATCHDOG=trigger)".to_owned();
                self.without_life(i, text, now, out);
                return;
            }
            (
                Notified::Ready
                | Notified::Reloading
                | Notified::Stopping
                | Notified::ExtendTimeout(_)
                | Notified::Watchdog
                | Notified::WatchdogTrigger,
                _,
            ) => {}
        }
        self.changed(i, before, out);
    }

    /// The last word is always there to be asked for; it is told at once, or when the pause after the word before is
    /// over.
    fn says(&mut self, i: usize, text: String, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.run.status = (!text.is_empty()).then_some(text);
        let free = unit.status_at.map_or(now, |at| at + STATUS_PAUSE);
        if unit.run.status == unit.run.status_told {
            unit.run.status_due = None;
        } else if free <= now {
            self.tell_status(i, now, out);
        } else {
            unit.run.status_due = Some(free);
        }
    }

    pub(super) fn tell_status(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.run.status_due = None;
        unit.run.status_told.clone_from(&unit.run.status);
        unit.status_at = Some(now);
        let text = unit.run.status.clone().unwrap_or_default();
        out.events.push((Some(unit.name.clone()), EventKind::Status { text }));
    }

    // ---- the level

    /// Whether it is ready follows from what its probe and itself said; `cause`: why, if that changes anything.
    fn weigh(&mut self, i: usize, cause: Cause, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        let State::Up { generation, health } = unit.state else { return };
        let good = unit.run.gate == Gate::Open && unit.run.level && unit.run.said == Said::Nothing;
        let health = match (health, good) {
            (Health::Unready { .. } | Health::Unhealthy, true) => Health::Ready { since: now },
            (Health::Ready { .. }, false) => {
                unit.count_anew_if_stable(now);
                Health::Unhealthy
            }
            (Health::Unhealthy, false) => {
                match &unit.probe_error {
                    _ if cause.reason == Reason::ProbeFailed => unit.cause = cause,
                    // It has taken back what it said itself, and this is left.
                    Some((ProbeRole::Ready, error)) if unit.run.said == Said::Nothing => {
                        unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready any more: {error}"));
                    }
                    Some(_) | None => {}
                }
                return;
            }
            (Health::Ready { .. }, true) | (Health::Unready { .. }, false) => return,
        };
        unit.state = State::Up { generation, health };
        unit.cause = cause;
        if good {
            self.mind_life(i, generation, now, out);
        }
    }

    /// Lets follow what follows from a change, and tells the phase where that changed.
    pub(super) fn changed(&mut self, i: usize, before: Phase, out: &mut Outcome) {
        if self.units[i].phase() != before {
            self.touch(i);
            self.tell_phase(i, out);
        }
    }
}

/// A deadline that was `original`, `time` after now but at most `most` later than it was.
fn extended(now: Tick, time: Duration, original: Tick, most: Duration) -> Tick {
    now.saturating_add(time).clamp(original, original + most)
}
