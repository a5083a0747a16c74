//! One service: where it is and how it goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ws_model::{
    Cause, Condition, ExitReason, Phase, Probe, ProbeKind, Reason, Reload, ReloadAction, Restart,
    RestartPolicy, ServiceKind, ServiceName, Trigger,
};

use super::{Generation, ProbeRole, Tick};
use crate::files::{Digest, Moment};
use crate::plan::ServicePlan;
use crate::policy::History;

/// How many files a trigger names, at most.
const NAMED: usize = 5;

/// The shortest time that a service must have been ready for its restarts to be counted anew.
const STABLE: Duration = Duration::from_secs(10);

/// Where a service is.
///
/// ```text
///              asked for
///   Pending ───────────────▶ Waiting ◀────────────────────────────────┐
///                               │ all that it waits for is there      │
///      a build, or a task       │                                     │
///      with inputs  ┌───────────┤                                     │
///                   ▼           ▼                                     │
///   Looking (before) ────────▶ Starting ──executed──▶ Up              │
///         │    it must run      │                     │  unready      │ pause over
///         │                     │ could not start     │  ready        │
///         │ it need not         ▼                     ▼  unhealthy    │
///         │                   the restart policy ◀── ended            │
///         │                     │ no        │ yes     │               │
///         │                     ▼           ▼         │ success       │
///         │                   Failed     Backoff ─────┼───────────────┘
///         ▼                                           ▼
///      Exited ◀──────────────── Looking (after) ◀──── what it makes is recorded
///
///   Waiting ── can never be had ──▶ Blocked ── can be had again ──▶ Waiting
///   Starting ── no try can ever succeed ──▶ Failed
///
///   Up, unready:  Gate::Hook (post_start) ──▶ Gate::Startup ──▶ Gate::Open: its ready probe decides
///   Up, ready for the first time (no ready probe: Gate::Open) ──▶ its liveness counts
///   Up, ready ◀── its probe and its own words, a level ──▶ Up, unhealthy
///
///   Starting ── stop, restart, bound to what was started again, files changed ──▶ Ending
///   Up ── the same, not ready in time, post_start failed, without life ──▶ Ending
///   Ending:  Held (by those that wait on it) ──▶ Asked: pre_stop ─▶ stop command ─▶ signal ──▶ Killed ──▶ gone
///            gone: Stopped, Waiting (restart), the restart policy (it failed), or
///            Failed (the host does not answer, or it broke its policy)
///   Waiting, Looking, Backoff ── stop ──▶ Stopped
///   Up, Ending ── its run is over and another one is beside it ──▶ Starting or Up (it comes), Ending (it goes)
///   Up ── a run that comes beside it got its connections ──▶ Up, with that run
///   Waiting goes no further while its place is not there or its plan is not carried out: Unit::task, Unit::place
///   Looking ── files changed ──▶ Waiting
///   Stopped, Exited, Failed, Blocked ── asked for again, files changed ──▶ Waiting
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not asked for yet.
    Pending,
    /// To be started as soon as what it waits for is there.
    Waiting,
    /// What it makes is looked at: whether it must run, or what came of that. Nothing of it runs.
    Looking { generation: Generation, moment: Moment },
    /// Its program was asked to be started.
    Starting { generation: Generation },
    /// Its program runs; more of it stands in [`Unit::run`].
    Up { generation: Generation, health: Health },
    /// Its run is being ended.
    Ending { generation: Generation, stage: Stage, then: Then },
    /// Ended, and to be started again.
    Backoff { until: Tick },
    /// Ended on request.
    Stopped,
    /// Ended by itself with success.
    Exited,
    /// Ended with failure, or by its policy (then its cause says so). `lost`: a run that was killed and of whose end the host never told; nothing
    /// is started beside it.
    Failed { lost: Option<Generation> },
    /// What it waits for can never be had; `root`: because of this.
    Blocked { root: String },
}

/// Whether a program that runs is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It was not yet; what it is in the middle of must be done by then.
    Unready { by: Option<Tick> },
    /// It is.
    Ready { since: Tick },
    /// It was.
    Unhealthy,
}

/// How far the end of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It still works, for those that wait on it and are being stopped; `told`: whether that was told.
    Held { told: bool },
    /// It was asked to end, `since` then, and is killed when it has not.
    Asked { how: Asked, since: Tick, kill_at: Tick },
    /// It was killed.
    Killed { give_up_at: Tick },
}

/// By what a run was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Its hook runs, which comes before.
    PreStop,
    /// Its stop command runs.
    Command,
    /// It got its signal.
    Signal,
}

/// What follows when a run is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays down.
    Stop,
    /// It is started again, as somebody asked or what it is bound to was.
    Restart,
    /// It failed; its restart policy decides.
    Fail,
    /// It has ended by itself with success; this is the end of what was left of the run before.
    Exit,
    /// It broke its policy and stays down.
    Violate,
}

/// A wait, with numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitOn {
    pub(super) on: usize,
    pub(super) condition: Condition,
    pub(super) required: bool,
    /// Whether a run of the one that waits is bound to the run of this one that it was started with.
    pub(super) bound: bool,
    /// Whether its last run was started with one, and not without because it could not be had.
    pub(super) had: bool,
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

/// What must be over before a run is asked whether it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// Its `post_start`.
    #[default]
    Hook,
    /// Its startup probe.
    Startup,
    /// Nothing any more.
    Open,
}

/// What a run that was ready says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing in the way of being ready.
    #[default]
    Nothing,
    /// `RELOADING=1`
    Reloading,
    /// `STOPPING=1`
    Stopping,
}

/// What is known of the present run beside its state; of a run that is over nothing.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Since when its program runs.
    pub(super) since: Option<Tick>,
    pub(super) gate: Gate,
    /// Since when it is at this gate.
    pub(super) gate_since: Tick,
    /// What its ready probe says, as a level.
    pub(super) level: bool,
    /// Failures of its ready probe in a row.
    pub(super) misses: u32,
    /// Failures of its liveness probe in a row.
    pub(super) dead: u32,
    /// Whether its liveness counts.
    pub(super) minded: bool,
    /// Until when it must have told its watchdog.
    pub(super) watchdog: Option<Tick>,
    /// What the host probes.
    pub(super) probing: BTreeSet<ProbeRole>,
    /// Whether it said that it is ready, and did not take it back.
    pub(super) said_ready: bool,
    pub(super) said: Said,
    /// What it says of itself.
    pub(super) status: Option<String>,
    /// What of that was told.
    pub(super) status_told: Option<String>,
    /// When it is to be told again.
    pub(super) status_due: Option<Tick>,
    /// Why it was started.
    pub(super) because: Option<Cause>,
    /// Whether it took the place of another run and has not got its connections yet.
    pub(super) owes_switch: bool,
    /// Why it should be another by the present plan; it goes on where the new run beside it failed.
    pub(super) outdated: Option<Cause>,
}

/// A run beside the one in charge; see the module `overlap`.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) generation: Generation,
    /// Starting or up: it comes. Ending: it comes no more, or goes. Failed: it was killed and its end never told.
    pub(super) state: State,
    pub(super) run: Run,
    pub(super) cause: Cause,
    pub(super) probe_error: Option<(ProbeRole, String)>,
    /// What of what builds made it was started with.
    pub(super) made_of: BTreeMap<ServiceName, Digest>,
    /// What it waits on and was started with.
    pub(super) had: Vec<ServiceName>,
    /// Whether it was asked to get the connections.
    pub(super) switching: bool,
    /// Whether it is to end, and not to take the place of the one in charge.
    pub(super) going: bool,
}

/// What the host has for a unit: nothing of it is started where that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is there.
    There,
    /// It is to be made, as soon as nothing is in its way.
    Due,
    /// It is being made.
    Asked,
    /// It could not be made, or was taken away; the next request or plan tries again.
    Missing,
    /// It is being taken away.
    Leaving,
}

/// What another plan asks of a unit that was there before, until that is done. Meanwhile none of its runs is started.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// The host is to be told that its plan is this.
    Update {
        plan: Box<ServicePlan>,
        /// Whether the host was.
        asked: bool,
        what: Another,
    },
    /// The host knows. Its run is to be another, once that is known of all others too.
    Restart { cause: Cause },
    /// It gets another place, with this plan.
    Replace { plan: Box<ServicePlan>, cause: Cause, going: Going },
    /// It goes.
    Remove { going: Going },
}

/// What is different about a unit whose plan is another.
#[derive(Debug, Clone)]
pub(super) enum Another {
    /// Nothing of its own: it follows from others, as the names that it knows.
    Follows,
    /// What is read anew at each use.
    Live,
    /// Its run.
    Run { cause: Cause },
}

/// How far a unit is whose place is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    /// It works, until the host has answered about all others.
    Not,
    /// Its run ends.
    Ends,
    /// Its place is being taken away.
    Leaves,
}

/// A change of files, until what follows from it is over.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) trigger: Trigger,
    pub(super) action: ReloadAction,
    /// When it became known; of a service that is started again for a build: when that was done.
    pub(super) since: Tick,
    /// How long the build took.
    pub(super) build: Option<Duration>,
}

/// Changes of files that came lately: what changes its own files would go on for ever.
#[derive(Debug, Default)]
pub(super) struct Lately {
    /// When changes were acted upon.
    pub(super) at: VecDeque<Tick>,
    /// How often in a row a change came in the middle of the run that the one before had begun.
    pub(super) amid: u32,
    /// Until when changes wait.
    pub(super) rests_until: Option<Tick>,
    /// What waits.
    pub(super) put_off: Option<Change>,
}

impl Lately {
    /// When what was put off is to be acted upon.
    pub(super) fn due(&self) -> Option<Tick> {
        self.rests_until.filter(|_| self.put_off.is_some())
    }
}

impl Change {
    /// What stands for an overlap that somebody asked for, or another plan.
    pub(super) fn of_no_files() -> Self {
        let (trigger, action) = (Trigger::default(), ReloadAction::Overlap);
        Self { trigger, action, since: Tick::ZERO, build: None }
    }

    /// Adds a later one.
    pub(super) fn add(&mut self, later: Self) {
        let all = self.trigger.files.len() + later.trigger.files.len();
        for file in later.trigger.files {
            if !self.trigger.files.contains(&file) {
                self.trigger.files.push(file);
            }
        }
        let same = all - self.trigger.files.len();
        let cut = self.trigger.files.len().saturating_sub(NAMED);
        self.trigger.files.truncate(NAMED);
        // What is not named may be the same files: then it is not counted twice.
        let more = if same > 0 {
            self.trigger.more.max(later.trigger.more)
        } else {
            self.trigger.more + later.trigger.more
        };
        self.trigger.more = more.saturating_add(u32::try_from(cut).unwrap_or(u32::MAX));
        self.since = later.since;
        self.action = later.action;
        self.build = later.build;
    }
}

/// One service.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: ServiceName,
    /// The name in the file.
    pub(super) declared: ServiceName,
    /// Whether it came after the plan.
    pub(super) added: bool,
    /// Whether it is to end: a task, or a service that others wait for until it completed.
    pub(super) completes: bool,
    /// Whether it is ready as soon as it runs, where it has no probe.
    pub(super) ready_at_exec: bool,
    pub(super) is_build: bool,
    /// Whether what it makes is looked at before and after each run.
    pub(super) makes: bool,
    /// The builds that it uses.
    pub(super) uses: Vec<ServiceName>,
    pub(super) reload: Reload,
    /// Whether it has published ports or listening sockets, and connections to them may wait.
    pub(super) publishes: bool,
    pub(super) startup: Option<Watch>,
    pub(super) ready: Option<Watch>,
    pub(super) liveness: Option<Watch>,
    /// How long its `post_start` may take, where it has one.
    pub(super) post_start: Option<Duration>,
    pub(super) has_pre_stop: bool,
    pub(super) has_stop_command: bool,
    pub(super) success_exit_codes: Vec<i32>,
    pub(super) restart: Restart,
    pub(super) signal: i32,
    pub(super) grace: Duration,
    pub(super) place: Place,
    /// Whether it has failed because its place could not be made.
    pub(super) unplaced: bool,
    /// What another plan asks of it.
    pub(super) task: Option<Task>,
    pub(super) waits: Vec<WaitOn>,
    /// Who waits on it.
    pub(super) dependents: Vec<usize>,

    pub(super) state: State,
    pub(super) run: Run,
    /// A further run, that comes or goes.
    pub(super) beside: Option<Box<Beside>>,
    /// Why a new run is to be begun beside the present one, as soon as that can be.
    pub(super) overlap_due: Option<Cause>,
    /// Why it is in its state.
    pub(super) cause: Cause,
    /// Whether somebody wants it up.
    pub(super) wanted: bool,
    /// What each build that it uses has made for it.
    pub(super) newest: BTreeMap<ServiceName, Digest>,
    /// What of that its last run was started with.
    pub(super) made_of: BTreeMap<ServiceName, Digest>,
    /// The change of files that it is in the middle of.
    pub(super) change: Option<Change>,
    /// When files of it changed lately, and how often that was while it was in the middle of a run of itself.
    pub(super) lately: Lately,
    /// Whether connections to its published ports wait.
    pub(super) holding: bool,
    /// The executed run that was there at the end of the last step.
    pub(super) worked: Option<Generation>,
    /// Of its last run that was in charge.
    pub(super) generation: Generation,
    /// The highest one that was given to a run, if that is higher.
    pub(super) highest: Generation,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// How often it failed in a row since it was last stable, and was started again for it.
    pub(super) streak: u32,
    /// How its last run ended.
    pub(super) exit: Option<ExitReason>,
    /// What a probe of it said last, and which, where that was a failure.
    pub(super) probe_error: Option<(ProbeRole, String)>,
    /// Why the next start happens, where that is not because it was asked for.
    pub(super) again: Option<Cause>,
    /// What was last told of what it waits for.
    pub(super) told: String,
    /// When its words were last told.
    pub(super) status_at: Option<Tick>,
    /// How it broke its policy.
    pub(super) history: History,
}

/// What the engine must know of a probe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// Whether the run says it by itself.
    pub(super) notify: bool,
    pub(super) within: Duration,
    pub(super) interval: Duration,
    /// At least 1.
    pub(super) failures: u32,
}

impl Watch {
    fn new(probe: &Probe) -> Self {
        Self {
            notify: probe.kind == ProbeKind::Notify,
            within: probe.within,
            interval: probe.interval,
            failures: probe.failures.max(1),
        }
    }
}

impl State {
    /// The generation of the run that is going on.
    pub(super) fn live(&self) -> Option<Generation> {
        match self {
            State::Starting { generation }
            | State::Up { generation, .. }
            | State::Ending { generation, .. } => Some(*generation),
            State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => None,
        }
    }
}

impl Unit {
    pub(super) fn new(plan: &ServicePlan) -> Self {
        let post_start = &plan.hooks.post_start;
        Self {
            name: plan.name.clone(),
            declared: plan.declared.clone(),
            added: false,
            completes: plan.kind != ServiceKind::Service,
            ready_at_exec: plan.kind == ServiceKind::Service,
            is_build: plan.kind == ServiceKind::Build,
            makes: plan.makes.is_some(),
            uses: plan.uses.iter().map(|using| using.build.clone()).collect(),
            reload: plan.reload,
            publishes: (!plan.publish.is_empty() || !plan.listen.is_empty()) && !plan.hold.is_zero(),
            startup: plan.startup.as_ref().map(Watch::new),
            ready: plan.ready.as_ref().map(Watch::new),
            liveness: plan.liveness.as_ref().map(Watch::new),
            post_start: (!post_start.is_empty()).then(|| post_start.iter().map(|hook| hook.timeout).sum()),
            has_pre_stop: !plan.hooks.pre_stop.is_empty(),
            has_stop_command: plan.stop.command.is_some(),
            success_exit_codes: plan.success_exit_codes.clone(),
            restart: plan.restart.clone(),
            signal: plan.stop.signal,
            grace: plan.stop.grace,
            place: Place::There,
            unplaced: false,
            task: None,
            waits: Vec::new(),
            dependents: Vec::new(),
            state: State::Pending,
            run: Run::default(),
            beside: None,
            overlap_due: None,
            cause: Cause::new(Reason::Requested, "was not asked for yet"),
            wanted: false,
            newest: BTreeMap::new(),
            made_of: BTreeMap::new(),
            change: None,
            lately: Lately::default(),
            holding: false,
            worked: None,
            generation: 0,
            highest: 0,
            restarts: 0,
            streak: 0,
            exit: None,
            probe_error: None,
            again: None,
            told: String::new(),
            status_at: None,
            history: History::default(),
        }
    }

    /// What it is like is what this plan says from now on; where it is and what it waits for stays.
    pub(super) fn take_plan(&mut self, plan: &ServicePlan) {
        let new = Self::new(plan);
        self.declared = new.declared;
        self.completes |= new.completes;
        self.ready_at_exec = new.ready_at_exec;
        self.is_build = new.is_build;
        self.makes = new.makes;
        self.uses = new.uses;
        self.reload = new.reload;
        self.publishes = new.publishes;
        self.startup = new.startup;
        self.ready = new.ready;
        self.liveness = new.liveness;
        self.post_start = new.post_start;
        self.has_pre_stop = new.has_pre_stop;
        self.has_stop_command = new.has_stop_command;
        self.success_exit_codes = new.success_exit_codes;
        self.restart = new.restart;
        self.signal = new.signal;
        self.grace = new.grace;
        let Self { uses, newest, made_of, .. } = self;
        newest.retain(|build, _| uses.contains(build));
        made_of.retain(|build, _| uses.contains(build));
    }

    /// Whether it is not in the plan any more.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.task, Some(Task::Remove { .. }))
    }

    /// Whether the host has not answered yet.
    pub(super) fn is_unanswered(&self) -> bool {
        let of_place = match self.place {
            Place::Asked | Place::Leaving => true,
            Place::There | Place::Due | Place::Missing => false,
        };
        of_place || matches!(self.task, Some(Task::Update { asked: true, .. }))
    }

    pub(super) fn phase(&self) -> Phase {
        match &self.state {
            State::Pending => Phase::Pending,
            State::Waiting => Phase::Waiting,
            State::Looking { .. } | State::Starting { .. } | State::Up { .. } if self.is_build => {
                Phase::Building
            }
            State::Looking { .. } | State::Starting { .. } => Phase::Starting,
            State::Up { health: Health::Unready { .. }, .. } => Phase::Running,
            State::Up { health: Health::Ready { .. }, .. } => Phase::Ready,
            State::Up { health: Health::Unhealthy, .. } => Phase::Unhealthy,
            State::Ending { .. } => Phase::Stopping,
            State::Backoff { .. } => Phase::Backoff,
            State::Stopped => Phase::Stopped,
            State::Exited => Phase::Exited,
            State::Failed { .. } if self.cause.reason == Reason::Violation => Phase::Violated,
            State::Failed { .. } | State::Blocked { .. } => Phase::Failed,
        }
    }

    /// Whether it is ready now; a task: whether it finished with success.
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Up { health: Health::Ready { .. }, .. } => true,
            State::Exited => self.completes,
            State::Up { health: Health::Unready { .. } | Health::Unhealthy, .. }
            | State::Pending
            | State::Waiting
            | State::Looking { .. }
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
        let is_left = |beside: &Beside| beside.state.live().is_some();
        if self.beside.as_deref().is_some_and(is_left) {
            return false;
        }
        match &self.state {
            State::Pending
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => true,
            State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// Whether it is being ended on request, or with what it is bound to.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.state, State::Ending { then: Then::Stop | Then::Restart, .. })
    }

    /// Whether it has a run that goes on and is bound to a run of `on`. A build is bound to nothing.
    pub(super) fn is_bound_to(&self, on: usize) -> bool {
        matches!(self.state, State::Starting { .. } | State::Up { .. })
            && self.waits.iter().any(|wait| wait.on == on && wait.bound && wait.had)
    }

    /// Whether it can do without `on`.
    pub(super) fn can_do_without(&self, on: usize) -> bool {
        self.waits.iter().all(|wait| wait.on != on || !wait.required)
    }

    /// What one that waits for this service until `condition` can expect. Started means that its `post_start` has
    /// succeeded as well. One that is ready no more may be again, so whoever comes late waits for that.
    pub(super) fn prospect(&self, condition: Condition) -> Prospect {
        match &self.state {
            State::Waiting | State::Looking { .. } | State::Starting { .. } | State::Backoff { .. } => {
                Prospect::NotYet
            }
            State::Up { health, .. } => match (condition, health, self.run.gate) {
                (Condition::Started, _, Gate::Startup | Gate::Open)
                | (Condition::Ready, Health::Ready { .. }, _) => Prospect::Met,
                (Condition::Started, _, Gate::Hook)
                | (Condition::Ready, Health::Unready { .. } | Health::Unhealthy, _)
                | (Condition::Completed, _, _) => Prospect::NotYet,
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
            State::Failed { .. } | State::Exited => {
                let failed = match self.phase() {
                    Phase::Exited => "",
                    Phase::Violated => " broke its policy: it",
                    Phase::Pending
                    | Phase::Waiting
                    | Phase::Building
                    | Phase::Starting
                    | Phase::Running
                    | Phase::Ready
                    | Phase::Unhealthy
                    | Phase::Stopping
                    | Phase::Stopped
                    | Phase::Failed
                    | Phase::Backoff => " failed:",
                };
                format!("{name}{failed} {}", self.cause.text)
            }
            State::Blocked { .. } => format!("{name} cannot start"),
            State::Stopped => format!("{name} was stopped"),
            State::Pending => format!("{name} was not asked for"),
            State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Backoff { .. } => format!("{name} is {}", self.phase()),
        }
    }

    /// When something must happen although nothing happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        deadline(&self.state, &self.run)
    }

    /// The same of the run beside.
    pub(super) fn deadline_beside(&self) -> Option<Tick> {
        self.beside.as_ref().and_then(|beside| deadline(&beside.state, &beside.run))
    }

    /// Whether its present run has been ready for so long that earlier restarts no longer count.
    pub(super) fn is_stable(&self, now: Tick) -> bool {
        match &self.state {
            State::Up { health: Health::Ready { since }, .. } => {
                now.saturating_sub(*since) >= self.restart.backoff_max.max(STABLE)
            }
            State::Up { health: Health::Unready { .. } | Health::Unhealthy, .. }
            | State::Pending
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Ending { .. }
            | State::Backoff { .. }
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => false,
        }
    }

    /// Whether its program ended as it should.
    pub(super) fn is_success(&self, exit: ExitReason, oom: bool) -> bool {
        let code = match exit {
            ExitReason::Code(code) => code,
            // That the machine killed it is no success of its own.
            ExitReason::Signal(_) if oom => return false,
            ExitReason::Signal(signal) => signal.saturating_add(128),
        };
        exit.is_success() || self.success_exit_codes.contains(&code)
    }

    /// Failures before a run that was stable no longer count.
    pub(super) fn count_anew_if_stable(&mut self, now: Tick) {
        if self.is_stable(now) {
            self.streak = 0;
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

/// When something must happen to a run in this state although nothing happens.
fn deadline(state: &State, run: &Run) -> Option<Tick> {
    let of_state = match state {
        State::Up { health: Health::Unready { by }, .. } => *by,
        State::Ending { stage: Stage::Asked { kill_at, .. }, .. } => Some(*kill_at),
        State::Ending { stage: Stage::Killed { give_up_at }, .. } => Some(*give_up_at),
        State::Backoff { until } => Some(*until),
        State::Up { health: Health::Ready { .. } | Health::Unhealthy, .. }
        | State::Ending { stage: Stage::Held { .. }, .. }
        | State::Pending
        | State::Waiting
        | State::Looking { .. }
        | State::Starting { .. }
        | State::Stopped
        | State::Exited
        | State::Failed { .. }
        | State::Blocked { .. } => None,
    };
    of_state.into_iter().chain(run.watchdog).chain(run.status_due).min()
}
