//! One service: its states, what they mean for those that wait on it, and its restart policy.
//!
//! Knows nothing of other services beyond their numbers; [`super::Engine`] decides about several.

use std::time::Duration;

use ws_model::{
    Cause, Condition, ExitReason, Phase, Reason, Restart, RestartPolicy, ServiceKind, ServiceName,
};

use super::{Generation, Tick};
use crate::plan::ServicePlan;

/// Failed attempts of a probe in a row that make a ready service unhealthy.
pub(super) const MISSES: u8 = 3;

/// The shortest time that a service must have been ready for its restarts to be counted anew.
const STABLE: Duration = Duration::from_secs(10);

/// Where a service is.
///
/// ```text
///              asked for
///   Pending ───────────────▶ Waiting ◀─────────────────────────────────┐
///                            │  ▲  │                                   │
///      a build, and what     │  │  │ no build (any more), and all      │
///      must be completed is  │  │  │ that it waits for is there        │
///                            ▼  │  ▼                                   │
///                     Building ─┘  Starting ──executed──▶ Up           │
///                        │            │                   │  unready   │ pause over
///                        │            │ could not         │  ready     │
///                        │ failed     │ start             │  unhealthy │
///                        │            ▼                   ▼            │
///                        │          the restart policy ◀── ended ──▶ Exited (0)
///                        │            │             │
///                        ▼            │ no          │ yes
///                      Failed ◀───────┘             └─────▶ Backoff ───┘
///
///   Waiting ── can never be had ──▶ Blocked ── can be had again ──▶ Waiting
///
///   Building, Starting, Up ── stop, restart, kill, not ready in time ──▶ Ending
///   Ending:  Held (by those that wait on it) ──▶ Signalled ──▶ Killed ──▶ gone
///            gone: Stopped, Waiting (restart), the restart policy (not ready in time), or
///            Failed (the host does not answer)
///   Waiting, Backoff ── stop ──▶ Stopped
///   Stopped, Exited, Failed, Blocked ── asked for again ──▶ Waiting
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not asked for yet.
    Pending,
    /// To be started as soon as what it waits for is there.
    Waiting,
    /// Its build was started.
    Building { generation: Generation },
    /// Its program was asked to be started.
    Starting { generation: Generation },
    /// Its program runs.
    Up { generation: Generation, since: Tick, health: Health },
    /// Its run is being ended.
    Ending { generation: Generation, stage: Stage, then: Then },
    /// Ended, and to be started again.
    Backoff { until: Tick },
    /// Ended on request.
    Stopped,
    /// Ended by itself with 0.
    Exited,
    /// Ended with failure. `lost`: a run that was killed and of whose end the host never told; nothing
    /// is started beside it.
    Failed { lost: Option<Generation> },
    /// What it waits for can never be had; `root`: because of this.
    Blocked { root: String },
}

/// Whether a program that runs is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It was not yet, and must be by then.
    Unready { by: Option<Tick> },
    /// It is.
    Ready { since: Tick, misses: u8 },
    /// It was.
    Unhealthy,
}

/// How far the end of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It still works, for those that wait on it and are being stopped.
    Held,
    /// It got its stop signal.
    Signalled { kill_at: Tick },
    /// It was killed.
    Killed { give_up_at: Tick },
}

/// What follows when a run is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays down.
    Stop,
    /// It is started again, as somebody asked.
    Restart,
    /// It failed; its restart policy decides.
    Fail,
}

/// A wait, with numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitOn {
    pub(super) on: usize,
    pub(super) condition: Condition,
    pub(super) required: bool,
}

/// Whether a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prospect {
    /// It is.
    Met,
    /// Not yet.
    NotYet,
    /// It can never be, unless somebody asks for the other service again.
    Never,
}

/// One service.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: ServiceName,
    /// Whether it is to end: a task, or a service that others wait for until it completed.
    pub(super) completes: bool,
    /// Whether it is ready as soon as it runs, where it has no probe.
    pub(super) ready_at_exec: bool,
    pub(super) has_build: bool,
    pub(super) probe: Option<ProbeLimits>,
    pub(super) restart: Restart,
    pub(super) signal: i32,
    pub(super) grace: Duration,
    pub(super) waits: Vec<WaitOn>,
    /// Who waits on it.
    pub(super) dependents: Vec<usize>,

    pub(super) state: State,
    /// Why it is in its state.
    pub(super) cause: Cause,
    /// Whether somebody wants it up.
    pub(super) wanted: bool,
    /// Whether its build was done for this start.
    pub(super) built: bool,
    /// Of its last run.
    pub(super) generation: Generation,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// How often its policy started it again since it was last stable.
    pub(super) streak: u32,
    /// How its last run ended.
    pub(super) exit: Option<ExitReason>,
    /// What its probe said last.
    pub(super) probe_error: Option<String>,
    /// Why the next start happens, where that is not because it was asked for.
    pub(super) again: Option<Cause>,
    /// What was last told of what it waits for.
    pub(super) told: String,
    /// While its run is being ended: since when it ran.
    pub(super) since: Option<Tick>,
}

/// What the engine must know of a probe.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeLimits {
    pub(super) within: Duration,
}

impl Unit {
    pub(super) fn new(plan: &ServicePlan) -> Self {
        let probe = plan.ready.as_ref().map(|probe| ProbeLimits { within: probe.within });
        Self {
            name: plan.name.clone(),
            completes: plan.kind == ServiceKind::Task,
            ready_at_exec: plan.kind == ServiceKind::Service,
            has_build: plan.build.is_some(),
            probe,
            restart: plan.restart.clone(),
            signal: plan.stop.signal,
            grace: plan.stop.grace,
            waits: Vec::new(),
            dependents: Vec::new(),
            state: State::Pending,
            cause: Cause::new(Reason::Requested, "was not asked for yet"),
            wanted: false,
            built: false,
            generation: 0,
            restarts: 0,
            streak: 0,
            exit: None,
            probe_error: None,
            again: None,
            told: String::new(),
            since: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match &self.state {
            State::Pending => Phase::Pending,
            State::Waiting => Phase::Waiting,
            State::Building { .. } => Phase::Building,
            State::Starting { .. } => Phase::Starting,
            State::Up { health: Health::Unready { .. }, .. } => Phase::Running,
            State::Up { health: Health::Ready { .. }, .. } => Phase::Ready,
            State::Up { health: Health::Unhealthy, .. } => Phase::Unhealthy,
            State::Ending { .. } => Phase::Stopping,
            State::Backoff { .. } => Phase::Backoff,
            State::Stopped => Phase::Stopped,
            State::Exited => Phase::Exited,
            State::Failed { .. } | State::Blocked { .. } => Phase::Failed,
        }
    }

    /// Whether it is ready now; a task: whether it finished with 0.
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Up { health: Health::Ready { .. }, .. } => true,
            State::Exited => self.completes,
            State::Up { health: Health::Unready { .. } | Health::Unhealthy, .. }
            | State::Pending
            | State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Failed { .. }
            | State::Blocked { .. } => false,
        }
    }

    /// Whether it has no run and gets none without being asked for again.
    pub(super) fn is_settled(&self) -> bool {
        match &self.state {
            State::Pending
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => true,
            State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// Whether it is being ended on request.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.state, State::Ending { then: Then::Stop | Then::Restart, .. })
    }

    /// What one that waits for this service until `condition` can expect.
    pub(super) fn prospect(&self, condition: Condition) -> Prospect {
        match &self.state {
            State::Waiting | State::Building { .. } | State::Starting { .. } | State::Backoff { .. } => {
                Prospect::NotYet
            }
            State::Up { health, .. } => match (condition, health) {
                (Condition::Started, _) | (Condition::Ready, Health::Ready { .. }) => Prospect::Met,
                (Condition::Ready, Health::Unready { .. } | Health::Unhealthy)
                | (Condition::Completed, _) => Prospect::NotYet,
            },
            State::Ending { .. } => Prospect::NotYet,
            State::Exited => match (condition, self.completes) {
                (Condition::Completed, _) | (Condition::Started | Condition::Ready, true) => Prospect::Met,
                (Condition::Started | Condition::Ready, false) => Prospect::Never,
            },
            State::Pending | State::Stopped | State::Failed { .. } | State::Blocked { .. } => Prospect::Never,
        }
    }

    /// Why it can never be had, as a clause: "db failed: exited with 1".
    pub(super) fn why_never(&self) -> String {
        let name = &self.name;
        match &self.state {
            State::Failed { .. } => format!("{name} failed: {}", self.cause.text),
            State::Blocked { .. } => format!("{name} cannot start"),
            State::Exited => format!("{name} exited with 0 by itself"),
            State::Stopped => format!("{name} was stopped"),
            State::Pending => format!("{name} was not asked for"),
            State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. } => format!("{name} is {}", self.phase()),
        }
    }

    /// The generation of the run that may have processes now.
    #[cfg(debug_assertions)]
    pub(super) fn live(&self) -> Option<Generation> {
        match &self.state {
            State::Building { generation }
            | State::Starting { generation }
            | State::Up { generation, .. }
            | State::Ending { generation, .. } => Some(*generation),
            State::Failed { lost } => *lost,
            State::Pending
            | State::Waiting
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Blocked { .. } => None,
        }
    }

    /// When something must happen although nothing happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        match &self.state {
            State::Up { health: Health::Unready { by }, .. } => *by,
            State::Ending { stage: Stage::Signalled { kill_at }, .. } => Some(*kill_at),
            State::Ending { stage: Stage::Killed { give_up_at }, .. } => Some(*give_up_at),
            State::Backoff { until } => Some(*until),
            State::Up { health: Health::Ready { .. } | Health::Unhealthy, .. }
            | State::Ending { stage: Stage::Held, .. }
            | State::Pending
            | State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => None,
        }
    }

    /// Whether its present run has been ready for so long that earlier restarts no longer count.
    pub(super) fn is_stable(&self, now: Tick) -> bool {
        match &self.state {
            State::Up { health: Health::Ready { since, .. }, .. } => {
                now.saturating_sub(*since) >= self.restart.backoff_max.max(STABLE)
            }
            State::Up { health: Health::Unready { .. } | Health::Unhealthy, .. }
            | State::Pending
            | State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => false,
        }
    }

    /// What the restart policy says to a run that ended because of `cause`: the pause before the next
    /// one, or the cause with which it stays down.
    pub(super) fn after_failure(&mut self, cause: &Cause) -> Result<Duration, Cause> {
        match self.restart.policy {
            RestartPolicy::No => return Err(cause.clone()),
            RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        match self.restart.max {
            Some(0) => return Err(cause.clone()),
            Some(max) if self.streak >= max => {
                let times =
                    if max == 1 { "one restart".to_owned() } else { format!("{max} restarts in a row") };
                return Err(Cause::new(
                    Reason::CrashLoop,
                    format!("{}, and {times} did not help", cause.text),
                ));
            }
            Some(_) | None => {}
        }
        self.streak += 1;
        Ok(self.pause())
    }

    /// The first pause, doubled with each restart in a row, up to the longest; a tenth more or less, so
    /// that services which died together do not come back together.
    fn pause(&self) -> Duration {
        let doublings = self.streak.saturating_sub(1).min(32);
        let pause = self.restart.backoff_min.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let pause = pause.min(self.restart.backoff_max);
        // Per mille of a tenth: 900 to 1100. FNV-1a, as nothing depends on its quality.
        let bytes = self.name.as_str().bytes().chain(self.generation.to_be_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let part = 900 + u32::try_from(hash % 201).unwrap_or(100);
        (pause.saturating_mul(part) / 1000).min(self.restart.backoff_max)
    }
}
