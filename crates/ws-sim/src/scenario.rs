//! What a simulation plays, as data: services, how the host treats them, and what happens when.
//!
//! Everything that is up to chance follows from the scenario's seed and from the thing that it concerns, never
//! from the order of events: so a scenario can be made smaller and what is left goes on in the same way.

use std::time::Duration;

use ws_core::engine::{Notified, ProbeRole};
use ws_model::{Condition, ExitReason, Restart, RestartPolicy, ServiceKind, ServiceName};

/// A scenario. Written and read as text by the module `text`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What decides everything that the scenario leaves to chance.
    pub seed: u64,
    /// How late a deadline may be met at most: a busy machine.
    pub late: Duration,
    /// How often news of runs that are over arrive all the same, in percent.
    pub stale: u8,
    /// The services.
    pub services: Vec<Unit>,
    /// Other plans, that can be adopted: the services of each.
    pub plans: Vec<Vec<Unit>>,
    /// What happens, in order of time.
    pub timeline: Vec<(Duration, Happening)>,
}

/// A service of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Its name.
    pub name: ServiceName,
    /// Of which service it is which replica.
    pub replica_of: Option<(ServiceName, u32)>,
    /// Service, task or build.
    pub kind: ServiceKind,
    /// Which command it has: another one is another run.
    pub version: u32,
    /// What it sees: something else is another place.
    pub view: u32,
    /// Its limit, which needs neither.
    pub limit: u32,
    /// The port of the host where it is published.
    pub port: Option<u16>,
    /// Whether a new run begins beside the old one.
    pub overlap: bool,
    /// The builds that it uses; it waits for each of them.
    pub uses: Vec<ServiceName>,
    /// What its start waits for.
    pub waits: Vec<UnitWait>,
    /// Its startup probe.
    pub startup: Option<UnitProbe>,
    /// Its ready probe.
    pub ready: Option<UnitProbe>,
    /// Its liveness probe.
    pub live: Option<UnitProbe>,
    /// The time that its `post_start` may take, where it has one.
    pub post_start: Option<Duration>,
    /// The time that its `pre_stop` may take, where it has one.
    pub pre_stop: Option<Duration>,
    /// Whether a command stops it.
    pub stop_command: bool,
    /// Its stop signal.
    pub signal: i32,
    /// Its grace period.
    pub grace: Duration,
    /// Its restart policy.
    pub restart: Restart,
    /// Exit codes that are a success beside 0.
    pub success: Vec<i32>,
    /// How the host and its programs treat it.
    pub habits: Habits,
}

/// A wait of a [`Unit`].
#[derive(Debug, Clone, PartialEq)]
pub struct UnitWait {
    /// On whom.
    pub on: ServiceName,
    /// Until when.
    pub condition: Condition,
    /// Whether it cannot start without.
    pub required: bool,
    /// Whether it is started again with the other one.
    pub restart: bool,
}

impl UnitWait {
    /// What who uses a build waits for.
    #[must_use]
    pub fn for_build(on: ServiceName) -> Self {
        Self { on, condition: Condition::Completed, required: true, restart: false }
    }
}

impl Scenario {
    /// The services of a plan: 0 is the first one.
    #[must_use]
    pub fn plan(&self, number: usize) -> &[Unit] {
        match number.checked_sub(1) {
            None => &self.services,
            Some(at) => self.plans.get(at).unwrap_or(&self.services),
        }
    }

    /// The number of a service, the same in all plans.
    #[must_use]
    pub fn number(&self, service: &ServiceName) -> u32 {
        let names: std::collections::BTreeSet<&ServiceName> =
            self.services.iter().chain(self.plans.iter().flatten()).map(|unit| &unit.name).collect();
        let number = names.iter().position(|name| *name == service).unwrap_or(names.len());
        u32::try_from(number).unwrap_or(u32::MAX)
    }
}

/// A probe of a [`Unit`].
#[derive(Debug, Clone, PartialEq)]
pub struct UnitProbe {
    /// Whether the service says so itself.
    pub notify: bool,
    /// Between attempts; for liveness by notification: within which each `WATCHDOG=1` must come.
    pub interval: Duration,
    /// Within which the first success must come.
    pub within: Duration,
    /// Failures in a row that count.
    pub failures: u32,
}

impl Default for UnitProbe {
    fn default() -> Self {
        Self { notify: false, interval: Duration::from_secs(5), within: Duration::from_secs(60), failures: 3 }
    }
}

/// A span of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// At least.
    pub from: Duration,
    /// At most.
    pub to: Duration,
}

impl Span {
    /// From and to these milliseconds.
    #[must_use]
    pub const fn millis(from: u64, to: u64) -> Self {
        Self { from: Duration::from_millis(from), to: Duration::from_millis(to) }
    }
}

/// How the host and the programs of a service behave. As it is by default, everything goes well.
///
/// Percentages say how many of the runs (attempts, messages) are like that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Habits {
    /// From the request to the execution.
    pub start: Span,
    /// Starts that fail.
    pub start_fails: u8,
    /// Failed starts that say that no further one can succeed.
    pub hopeless: u8,
    /// How long programs live that end by themselves: tasks, builds and those that `dies` says.
    pub life: Span,
    /// Runs of a service that end by themselves.
    pub dies: u8,
    /// Runs that end by themselves and with failure.
    pub ends_badly: u8,
    /// Bad ends that are the kernel's for want of memory.
    pub oom: u8,
    /// From the stop signal to the end.
    pub stops: Span,
    /// Runs that ignore the stop signal.
    pub deaf: u8,
    /// From a kill to its answer.
    pub kill: Span,
    /// Kills that are answered much too late or never.
    pub undying: u8,
    /// From one attempt of a probe to the next; of notifications: from the execution to `READY=1`.
    pub pace: Span,
    /// Attempts of probes that fail; notifications that are not sent.
    pub probe_fails: u8,
    /// How long hooks take.
    pub hook: Span,
    /// Hooks that fail.
    pub hook_fails: u8,
    /// Hooks that never end by themselves.
    pub hook_hangs: u8,
    /// Programs that say a good deal of themselves: reload, ask for more time, tell their status.
    pub talks: u8,
    /// How long places and plans take, and connections to go over.
    pub place: Span,
    /// Places that cannot be made.
    pub place_fails: u8,
    /// Other plans that cannot be carried out.
    pub update_fails: u8,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            start: Span::millis(10, 10),
            start_fails: 0,
            hopeless: 0,
            life: Span::millis(1000, 1000),
            dies: 0,
            ends_badly: 0,
            oom: 0,
            stops: Span::millis(20, 20),
            deaf: 0,
            kill: Span::millis(5, 5),
            undying: 0,
            pace: Span::millis(100, 100),
            probe_fails: 0,
            hook: Span::millis(50, 50),
            hook_fails: 0,
            hook_hangs: 0,
            talks: 0,
            place: Span::millis(5, 5),
            place_fails: 0,
            update_fails: 0,
        }
    }
}

/// Something that happens at a time of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// Somebody asks for these (all, when empty).
    Up(Vec<ServiceName>),
    /// Somebody stops these.
    Stop(Vec<ServiceName>),
    /// Somebody restarts these.
    Restart(Vec<ServiceName>),
    /// Somebody kills these.
    Kill(Vec<ServiceName>),
    /// Everything is to stop; `now`: without grace.
    Down {
        /// Without grace.
        now: bool,
    },
    /// A command runs once in the place of a service: one more service, which goes when it has ended.
    Run(ServiceName),
    /// Another plan takes the place of the present one: the one with this number, from 1; 0 is the first one.
    Adopt(usize),
    /// Files of a unit changed: a build is made anew, another one is started again.
    Changed(ServiceName),
    /// The program of a service ends by itself.
    Exit(ServiceName, ExitReason, bool),
    /// The attempts of a probe succeed (or fail) from now on, whatever the habits say.
    Probe(ServiceName, ProbeRole, bool),
    /// A program says something of itself.
    Notify(ServiceName, Notified),
    /// The host loses what everything stands on.
    HostLost,
    /// From now on everything goes well on the host.
    Calm,
    /// Everything must have come to rest by now: each service is where it stays, each request was answered.
    Settled,
    /// Everything was asked for, and all must be as after a first `up` of the last plan.
    Fresh,
    /// The end; when everything was asked to go down, it must be.
    End,
}

impl Unit {
    /// A service that waits for nothing, has no probe and behaves.
    #[must_use]
    pub fn new(name: ServiceName, kind: ServiceKind) -> Self {
        let policy = match kind {
            ServiceKind::Service => RestartPolicy::OnFailure,
            ServiceKind::Task | ServiceKind::Build => RestartPolicy::No,
        };
        Self {
            name,
            replica_of: None,
            kind,
            version: 0,
            view: 0,
            limit: 0,
            port: None,
            overlap: false,
            uses: Vec::new(),
            waits: Vec::new(),
            startup: None,
            ready: None,
            live: None,
            post_start: None,
            pre_stop: None,
            stop_command: false,
            signal: 15,
            grace: Duration::from_secs(10),
            restart: Restart {
                policy,
                max: Some(3),
                backoff_min: Duration::from_millis(200),
                backoff_max: Duration::from_secs(30),
            },
            success: Vec::new(),
            habits: Habits::default(),
        }
    }

    /// It runs from what this build makes.
    pub fn use_build(&mut self, build: ServiceName) {
        self.waits.push(UnitWait::for_build(build.clone()));
        self.uses.push(build);
    }

    /// Its probe of this kind.
    #[must_use]
    pub fn probe(&self, role: ProbeRole) -> Option<&UnitProbe> {
        match role {
            ProbeRole::Startup => self.startup.as_ref(),
            ProbeRole::Ready => self.ready.as_ref(),
            ProbeRole::Live => self.live.as_ref(),
        }
    }
}
