//! What goes in and what comes out: the words between the engine, its host and who asks.

use std::collections::BTreeMap;
use std::time::Duration;

use ws_model::{Cause, EventKind, ExitReason, Phase, ServiceName, Trigger, WatchAction};

use crate::files::{Digest, Moment};
use crate::plan::{Plan, ServicePlan};
use crate::policy::Observation;

/// Time since the supervisor started. Comes in as a value, so that a simulator can invent it.
pub type Tick = Duration;

/// The number of a service's run; goes up by one with each start, so that late news of an old run are
/// told apart.
pub type Generation = u64;

/// Which program of a service a run executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Its build.
    Build,
    /// Its command.
    Main,
}

/// Which of its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeRole {
    /// [`ServicePlan::startup`](crate::plan::ServicePlan::startup).
    Startup,
    /// [`ServicePlan::ready`](crate::plan::ServicePlan::ready).
    Ready,
    /// [`ServicePlan::liveness`](crate::plan::ServicePlan::liveness).
    Live,
}

/// Which commands that run beside the program of a run. Those of `pre_start` belong to the start itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// [`ws_model::Hooks::post_start`].
    PostStart,
    /// [`ws_model::Hooks::pre_stop`].
    PreStop,
    /// [`ws_model::Stop::command`].
    Stop,
}

/// What a service said of itself (sd_notify(3)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notified {
    /// `READY=1`.
    Ready,
    /// `RELOADING=1`: one that was ready is not until the next `READY=1`.
    Reloading,
    /// `STOPPING=1`: it ends by itself, and is not ready any more.
    Stopping,
    /// `STATUS=`, made safe to print, at most a line.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=`: what it is in the middle of, start or stop, takes at least this long from now.
    ///
    /// As in systemd, this puts off the deadline of its startup or ready probe, or the end of its grace period, never
    /// brings one forward, and the last word counts. No more than [`LONGEST_START`](super::LONGEST_START) and
    /// [`LONGEST_STOP`](super::LONGEST_STOP) are added in all, so that no service can hold up a request for ever.
    ExtendTimeout(Duration),
    /// `WATCHDOG=1`: it lives, which counts where its liveness probe is [`ws_model::ProbeKind::Notify`].
    Watchdog,
    /// `WATCHDOG=trigger`: it wants to be treated as without life.
    WatchdogTrigger,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A further service takes part: not asked for yet, its place on the host is made. Ignored when there is one
    /// of that name. It may wait on what is there; nothing that was there before waits on it.
    ///
    /// It is not of the plan: an empty list of [`Up`](Self::Up) and [`Restart`](Self::Restart) does not mean it,
    /// and neither does the name of the service that it was made from.
    Add {
        /// What it is.
        service: Box<crate::plan::ServicePlan>,
    },
    /// A service that was added takes part no more. Ignored for a service of the plan, while it has a run or is to
    /// get one ([`Phase::is_settled_down`]), while its run is lost, and while another service waits on it.
    Remove {
        /// Which.
        service: ServiceName,
    },
    /// Somebody wants these services up (all of the plan, when empty), and what they need.
    ///
    /// In this and in all other requests the name that a service with replicas has in the file means all of them.
    Up {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services stopped (all, when empty, also those that were added), and what depends on them
    /// left alone, even what is bound to them by [`Wait::restart`](crate::plan::Wait): that is ended when they are
    /// started again.
    Stop {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all of the plan, when empty) stopped and started again, and with them what runs
    /// and is bound to them by [`Wait::restart`](crate::plan::Wait).
    ///
    /// One that is ready and has [`Reload::Overlap`](ws_model::Reload::Overlap) is started again beside its run, without
    /// a gap.
    Restart {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all, when empty, also those that were added) killed at once; neither their
    /// restart policy nor their hooks apply.
    Kill {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Everything is to stop, in reverse order; nothing starts any more.
    Down {
        /// Whether to kill at once instead of running hooks and waiting for grace periods.
        now: bool,
    },
    /// The program of a run was executed.
    Executed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// The host's process id of its main process, where the host knows it.
        pid: Option<u32>,
    },
    /// A run could not be started; no process of it is left.
    StartFailed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Stage and error, as one sentence.
        error: String,
        /// Whether no further try can succeed: what the service stands on is gone.
        hopeless: bool,
    },
    /// A run ended: its main process exited and no process of it is left.
    Exited {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// How.
        exit: ExitReason,
        /// Whether the kernel killed a process of it for its memory limit.
        oom: bool,
    },
    /// An attempt of a probe of a run ended.
    Probed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which probe.
        probe: ProbeRole,
        /// What it found: a phrase either way ("http 200 from :8080/healthz", "connection refused").
        result: Result<String, String>,
    },
    /// A run said something of itself.
    Notified {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// What.
        news: Notified,
    },
    /// The commands of a hook ended: all of them, or at the first that failed.
    HookEnded {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which.
        hook: Hook,
        /// The error as a phrase: "`./warm-up` exited with 3".
        result: Result<(), String>,
    },
    /// A port of a service is published from now on (where a free one was asked for, this is it).
    Published {
        /// Whose.
        service: ServiceName,
        /// The host's address.
        host: std::net::IpAddr,
        /// The host's port.
        host_port: u16,
        /// The service's port.
        port: u16,
    },
    /// The host has lost what every service stands on: everything is to be killed at once.
    HostLost {
        /// What it lost, as a sentence.
        error: String,
    },
    /// Files that are watched changed, after they have been quiet for a while: one batch.
    FilesChanged {
        /// For whom, with what is to be done; at most one for each unit and action.
        changes: Vec<FileChange>,
    },
    /// Answers [`Effect::Fingerprint`] of [`Moment::Before`].
    Checked {
        /// Of which build.
        service: ServiceName,
        /// The number that the effect had.
        generation: Generation,
        /// Whether what it made the last time it succeeded is there, and what it is made of is the same; then with
        /// what each unit uses of it. An error when files cannot be read.
        result: Result<Option<Outputs>, String>,
    },
    /// Answers [`Effect::Fingerprint`] of [`Moment::After`].
    Recorded {
        /// Of which build.
        service: ServiceName,
        /// Which run made it.
        generation: Generation,
        /// What each unit uses of what it made. An error when files cannot be read.
        result: Result<Outputs, String>,
    },
    /// Another plan takes the place of the present one: only what is different is touched
    /// ([`change::between`](crate::change::between)). While [`is_changing`](super::Engine::is_changing) says yes it is
    /// put off, and the last one counts; while everything goes down it is ignored. What is external, and secrets, the
    /// host has been told before, and [`Files`](crate::files::Files) of the plan.
    Adopt {
        /// It.
        plan: Box<Plan>,
    },
    /// Answers [`Effect::Place`].
    Placed {
        /// Whose.
        service: ServiceName,
        /// The error as a sentence.
        result: Result<(), String>,
    },
    /// Answers [`Effect::Displace`].
    Displaced {
        /// Whose.
        service: ServiceName,
        /// What could not be removed, a sentence each.
        errors: Vec<String>,
    },
    /// Answers [`Effect::Update`].
    Updated {
        /// Whose.
        service: ServiceName,
        /// The error as a sentence: it is as it was before.
        result: Result<(), String>,
    },
    /// Answers [`Effect::Switch`].
    Switched {
        /// Whose.
        service: ServiceName,
        /// Which run has them now.
        generation: Generation,
    },
    /// A service broke its policy, or may have.
    Observed(Box<Observation>),
    /// Time went on: a deadline that [`next_deadline`](super::Engine::next_deadline) named may have passed. Only a
    /// tick misses a deadline, so that news which came in time and are read late still count.
    Tick,
}

/// What each unit uses of what a build made.
pub type Outputs = BTreeMap<ServiceName, Digest>;

/// What is to be done for a unit because files changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The unit.
    pub service: ServiceName,
    /// What its rules say. Never [`WatchAction::None`].
    pub action: WatchAction,
    /// The files.
    pub trigger: Trigger,
}

/// Something to do to the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start a run. Answered by `Executed` (then, some time, `Exited`) or `StartFailed`.
    Start {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which program.
        step: Step,
    },
    /// Start a run of the main program beside the one that goes on, which keeps all new connections until `Switch`;
    /// probes of the new one reach the new one. Answered as `Start`.
    StartBeside {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
    /// New connections to the listening sockets go to this run from now on. Answered by `Switched`, when no connection
    /// waits for the other run any more. Comes for the run that has them too: the other one failed in the middle of
    /// it. And for one whose old run died before, when it is ready.
    Switch {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
    /// A run is over or about to be, and the next one follows: connections to its published ports wait for that,
    /// within [`ServicePlan::hold`]. Not answered.
    Hold {
        /// Whose.
        service: ServiceName,
    },
    /// Its run works, or there will be none: what waits is connected, or refused. Not answered.
    Release {
        /// Whose.
        service: ServiceName,
    },
    /// Look at the files of a build (or of a task with inputs). Carried out by [`Files`](crate::files::Files), not by
    /// the host. Answered by `Checked` or `Recorded`.
    Fingerprint {
        /// Of which build.
        service: ServiceName,
        /// Of the run that it is for.
        generation: Generation,
        /// Before it or after it.
        moment: Moment,
    },
    /// Make the place of a service: [`Host::add`](crate::host::Host::add). Answered by `Placed`.
    Place {
        /// It.
        service: Box<ServicePlan>,
    },
    /// Take the place of a service away: [`Host::remove`](crate::host::Host::remove). Answered by `Displaced`.
    Displace {
        /// Whose.
        service: ServiceName,
    },
    /// The plan of a service is another from now on, in what needs no other place:
    /// [`Host::update`](crate::host::Host::update). Answered by `Updated`.
    Update {
        /// It.
        service: Box<ServicePlan>,
    },
    /// Send a signal to a run's main process. Not answered.
    Signal {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// The signal's number.
        signal: i32,
    },
    /// Kill every process of a run. Answered by `Exited` (or `StartFailed` if it was not executed yet).
    Kill {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
    /// Begin to probe a run, again and again, until `StopProbe` or its end. Answered by `Probed`s. Never asked for a
    /// probe of [`ws_model::ProbeKind::Notify`]: that one answers by `Notified`.
    StartProbe {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which probe.
        probe: ProbeRole,
    },
    /// Stop probing a run.
    StopProbe {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which probe.
        probe: ProbeRole,
    },
    /// Run the commands of a hook beside a run's program, each at most for its timeout ([`Hook::Stop`]: without a
    /// limit, as the grace period is one). Answered by `HookEnded`, unless the run ends before.
    RunHook {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which.
        hook: Hook,
    },
}

/// What one step decided.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Outcome {
    /// What to do, in order.
    pub effects: Vec<Effect>,
    /// What to tell, in order, and about whom.
    pub events: Vec<(Option<ServiceName>, EventKind)>,
}

/// How a service is.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineStatus {
    /// The service.
    pub service: ServiceName,
    /// Its phase.
    pub phase: Phase,
    /// Why it is in it.
    pub cause: Cause,
    /// Whether it is ready now; a task: whether it finished with success.
    pub ready: bool,
    /// Its last run; before its first a number that no run of this name has, 0 for a service of the first plan. Where it
    /// has two, the one in charge, as everywhere here.
    pub generation: Generation,
    /// How often it was started again: by its restart policy, on request, or with what it is bound to.
    pub restarts: u32,
    /// How its last run ended, until it is asked for again.
    pub exit: Option<ExitReason>,
    /// Since when its program runs, while it does.
    pub running_since: Option<Tick>,
    /// What it said last of itself, while it runs (`STATUS=`).
    pub status: Option<String>,
    /// What its probes said last, where that was a failure and no success came after it.
    pub probe_error: Option<String>,
}
