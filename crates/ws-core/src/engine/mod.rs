//! The engine: what happened in, what to do and what to tell out.
//!
//! One owner, one door: [`Engine::step`]. It decides about all services of a plan together; what one
//! service is and how it goes from state to state stands in the module `service` (with a picture).
//!
//! The rules that concern several:
//! - A service starts when all that it waits for is there. Its build waits only for what must be
//!   *completed* (a task may make what is built); so builds go on beside the start of other services.
//! - What it waited for may go away afterwards: a running service is not disturbed.
//! - One that can never have what it waits for fails with that cause, and with it all that wait on it;
//!   when somebody brings the cause up again, they wait again.
//! - Services that are stopped together get their signal in reverse order: each after all that wait on
//!   it are gone.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ws_model::wire::WhyLink;
use ws_model::{Cause, Condition, EventKind, ExitReason, Phase, Reason, RestartPolicy, ServiceName};

use crate::plan::Plan;
use service::{Health, MISSES, Prospect, Stage, State, Then, Unit, WaitOn};

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
    /// `RELOADING=1`: not ready until the next `READY=1`.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
    /// `STATUS=`, made safe to print, at most a line.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=`: what it is in the middle of, start or stop, takes at least this long from now.
    ExtendTimeout(Duration),
    /// `WATCHDOG=1`.
    Watchdog,
    /// `WATCHDOG=trigger`: it wants to be treated as without life.
    WatchdogTrigger,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A further service takes part: not asked for yet, its place on the host is made.
    Add {
        /// What it is.
        service: Box<crate::plan::ServicePlan>,
    },
    /// A service that was added takes part no more. Ignored while it has a run.
    Remove {
        /// Which.
        service: ServiceName,
    },
    /// Somebody wants these services up (all, when empty), and what they need.
    Up {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services stopped (all, when empty), and what depends on them left alone.
    Stop {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all, when empty) stopped and started again.
    Restart {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all, when empty) killed at once; their restart policy does not apply.
    Kill {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Everything is to stop, in reverse order; nothing starts any more.
    Down {
        /// Whether to kill at once instead of waiting for grace periods.
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
    /// Time went on: a deadline that [`next_deadline`](Self) named may have passed.
    Tick,
}

/// Something to do to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Begin to probe a run, again and again, until `StopProbe` or its end. Answered by `Probed`s.
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
    /// Run the commands of a hook beside a run's program. Answered by `HookEnded`, unless the run ends before.
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

/// How long the host may take to tell that a run which it killed is gone.
const KILL_ANSWER: Duration = Duration::from_secs(10);

/// How a service is.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineStatus {
    /// The service.
    pub service: ServiceName,
    /// Its phase.
    pub phase: Phase,
    /// Why it is in it.
    pub cause: Cause,
    /// Whether it is ready now; a task: whether it finished with 0.
    pub ready: bool,
    /// Its last run; 0 before the first.
    pub generation: Generation,
    /// How often it was started again, by its restart policy or because somebody asked to restart it.
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

/// Decides everything that happens after the plan.
///
/// The same inputs at the same times give the same outcomes.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    /// In order of names.
    units: Vec<Unit>,
    numbers: BTreeMap<ServiceName, usize>,
    goals: Vec<Goal>,
    going_down: bool,
    /// Services about which something may have to be decided.
    dirty: BTreeSet<usize>,
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
        let mut units: Vec<Unit> = plan.services.values().map(Unit::new).collect();
        let numbers: BTreeMap<ServiceName, usize> =
            plan.services.keys().enumerate().map(|(number, name)| (name.clone(), number)).collect();
        for (number, service) in plan.services.values().enumerate() {
            for wait in &service.waits {
                let Some(&on) = numbers.get(&wait.on) else { continue };
                units[on].completes |= wait.condition == Condition::Completed;
                units[number].waits.push(WaitOn { on, condition: wait.condition, required: wait.required });
                if !units[on].dependents.contains(&number) {
                    units[on].dependents.push(number);
                }
            }
        }
        Self { plan, units, numbers, goals: Vec::new(), going_down: false, dirty: BTreeSet::new() }
    }

    /// The plan that is carried out.
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
            Input::Stop { services } => {
                for i in self.chosen(&services) {
                    self.units[i].wanted = false;
                    self.end(
                        i,
                        Then::Stop,
                        Cause::new(Reason::Requested, "was asked to stop"),
                        false,
                        now,
                        &mut out,
                    );
                }
            }
            Input::Restart { services } => self.restart(&services, now, &mut out),
            Input::Kill { services } => {
                for i in self.chosen(&services) {
                    self.units[i].wanted = false;
                    self.end(
                        i,
                        Then::Stop,
                        Cause::new(Reason::Requested, "was killed on request"),
                        true,
                        now,
                        &mut out,
                    );
                }
            }
            Input::Down { now: at_once } => self.down(at_once, now, &mut out),
            Input::HostLost { error } => {
                if !self.going_down {
                    self.goals.clear();
                    out.events.push((None, EventKind::WorkspaceFailed { cause: error }));
                }
                self.down(true, now, &mut out);
            }
            Input::Executed { service, generation, pid: _ } => {
                if let Some(i) = self.number(&service) {
                    self.executed(i, generation, now, &mut out);
                }
            }
            Input::StartFailed { service, generation, error, hopeless: _ } => {
                if let Some(i) = self.number(&service) {
                    self.start_failed(i, generation, &error, now, &mut out);
                }
            }
            Input::Exited { service, generation, exit, oom } => {
                if let Some(i) = self.number(&service) {
                    self.exited(i, generation, exit, oom, now, &mut out);
                }
            }
            Input::Probed { service, generation, probe: _, result } => {
                if let Some(i) = self.number(&service) {
                    self.probed(i, generation, result, now, &mut out);
                }
            }
            Input::Published { service, host, host_port, port } => {
                if self.numbers.contains_key(&service) {
                    let event = EventKind::Published { host: host.to_string(), host_port, port };
                    out.events.push((Some(service), event));
                }
            }
            Input::Add { .. } | Input::Remove { .. } | Input::Notified { .. } | Input::HookEnded { .. } => {}
            Input::Tick => {}
        }
        self.meet_deadlines(now, &mut out);
        self.settle(now, &mut out);
        self.judge_goals(now, &mut out);
        out
    }

    /// When the next [`Input::Tick`] is needed at the latest, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.units.iter().filter_map(Unit::deadline).min()
    }

    /// How every service is, in order of names.
    #[must_use]
    pub fn status(&self) -> Vec<EngineStatus> {
        self.units
            .iter()
            .map(|unit| EngineStatus {
                service: unit.name.clone(),
                phase: unit.phase(),
                cause: unit.cause.clone(),
                ready: unit.is_ready(),
                generation: unit.generation,
                restarts: unit.restarts,
                exit: unit.exit,
                status: None,
                probe_error: unit.probe_error.clone(),
                running_since: match &unit.state {
                    State::Up { since, .. } => Some(*since),
                    State::Ending { .. } => unit.since,
                    State::Pending
                    | State::Waiting
                    | State::Building { .. }
                    | State::Starting { .. }
                    | State::Backoff { .. }
                    | State::Stopped
                    | State::Exited
                    | State::Failed { .. }
                    | State::Blocked { .. } => None,
                },
            })
            .collect()
    }

    /// Whether everything is to be down and is: nothing runs, and nothing will be started.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.going_down && self.units.iter().all(Unit::is_settled)
    }

    /// Why a service is in its phase: itself first, then what it waits for, fails for or is held by,
    /// down to the roots. Empty for a service that is not in the plan.
    #[must_use]
    pub fn why(&self, service: &ServiceName) -> Vec<WhyLink> {
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        // A stack, so that each branch is told to its end before the next.
        let mut todo: Vec<usize> = self.number(service).into_iter().collect();
        while let Some(i) = todo.pop() {
            if !seen.insert(i) {
                continue;
            }
            let unit = &self.units[i];
            chain.push(WhyLink {
                service: unit.name.clone(),
                phase: unit.phase(),
                cause: unit.cause.clone(),
            });
            let because: Vec<usize> = match &unit.state {
                State::Waiting => self.waits_with(i, Prospect::NotYet).map(|wait| wait.on).collect(),
                State::Blocked { .. } => self
                    .waits_with(i, Prospect::Never)
                    .filter(|wait| wait.required)
                    .map(|wait| wait.on)
                    .collect(),
                State::Ending { stage: Stage::Held, .. } => {
                    unit.dependents.iter().copied().filter(|d| self.units[*d].is_going()).collect()
                }
                State::Ending { stage: Stage::Signalled { .. } | Stage::Killed { .. }, .. }
                | State::Pending
                | State::Building { .. }
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

    /// The services with these names; all, when there is no name.
    fn chosen(&self, services: &[ServiceName]) -> Vec<usize> {
        if services.is_empty() {
            return (0..self.units.len()).collect();
        }
        let chosen: BTreeSet<usize> = services.iter().filter_map(|name| self.number(name)).collect();
        chosen.into_iter().collect()
    }

    /// These and all that they wait for; only for what they cannot do without, if `required`.
    fn closure(&self, of: &[usize], required: bool) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut todo = of.to_vec();
        while let Some(i) = todo.pop() {
            if found.insert(i) {
                todo.extend(
                    self.units[i].waits.iter().filter(|wait| wait.required || !required).map(|wait| wait.on),
                );
            }
        }
        found
    }

    fn waits_with(&self, i: usize, prospect: Prospect) -> impl Iterator<Item = &WaitOn> {
        self.units[i]
            .waits
            .iter()
            .filter(move |wait| self.units[wait.on].prospect(wait.condition) == prospect)
    }

    // ---- requests

    fn up(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        if self.refuse_when_going_down(out) {
            out.events.push((None, EventKind::WorkspaceFailed { cause: GOES_DOWN.to_owned() }));
            return;
        }
        let asked = self.chosen(services);
        for i in self.closure(&asked, false) {
            let by_name = !services.is_empty() && asked.contains(&i);
            self.want(i, by_name, out);
        }
        let members = self.closure(&asked, true);
        if !self.goals.iter().any(|goal| goal.members == members) {
            self.goals.push(Goal { members, since: now });
        }
    }

    fn restart(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        if self.refuse_when_going_down(out) {
            return;
        }
        let mut asked = self.chosen(services);
        if services.is_empty() {
            // What nobody ever asked for stays away, and what is completed stays completed.
            asked.retain(|i| match &self.units[*i].state {
                State::Pending => false,
                State::Exited => !self.units[*i].completes,
                State::Waiting
                | State::Building { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Ending { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Failed { .. }
                | State::Blocked { .. } => true,
            });
        }
        for i in self.closure(&asked, false) {
            if !asked.contains(&i) {
                self.want(i, false, out);
            }
        }
        let cause = Cause::new(Reason::Requested, "was asked to restart");
        for i in asked {
            self.units[i].wanted = true;
            match &self.units[i].state {
                State::Waiting => {}
                State::Building { .. } | State::Starting { .. } | State::Up { .. } | State::Ending { .. } => {
                    self.end(i, Then::Restart, cause.clone(), false, now, out);
                }
                State::Backoff { .. } => {
                    self.units[i].streak = 0;
                    self.start_again(i, cause.clone());
                }
                State::Pending => self.begin(i),
                State::Stopped | State::Exited | State::Failed { lost: None } | State::Blocked { .. } => {
                    let built = self.units[i].built;
                    self.begin(i);
                    self.units[i].built = built;
                    self.start_again(i, cause.clone());
                }
                State::Failed { lost: Some(_) } => {}
            }
        }
    }

    fn down(&mut self, at_once: bool, now: Tick, out: &mut Outcome) {
        self.going_down = true;
        for _ in std::mem::take(&mut self.goals) {
            out.events.push((None, EventKind::WorkspaceFailed { cause: GOES_DOWN.to_owned() }));
        }
        for i in 0..self.units.len() {
            self.units[i].wanted = false;
            self.end(i, Then::Stop, Cause::new(Reason::Shutdown, GOES_DOWN), at_once, now, out);
        }
    }

    fn refuse_when_going_down(&self, out: &mut Outcome) -> bool {
        if self.going_down {
            let text = format!("{GOES_DOWN}: nothing is started any more");
            out.events.push((None, EventKind::Notice { text }));
        }
        self.going_down
    }

    /// Wants a service up, and starts it where it is down. A task that is completed runs again only when
    /// it is named.
    fn want(&mut self, i: usize, by_name: bool, out: &mut Outcome) {
        let unit = &mut self.units[i];
        unit.wanted = true;
        match &mut unit.state {
            State::Pending | State::Stopped | State::Failed { lost: None } | State::Blocked { .. } => {
                self.begin(i);
            }
            State::Exited => {
                if by_name || !unit.completes {
                    self.begin(i);
                }
            }
            State::Ending { then, .. } => match then {
                Then::Stop => {
                    *then = Then::Restart;
                    unit.built = false;
                    unit.again = Some(Cause::new(Reason::Requested, "was asked for again"));
                }
                Then::Restart | Then::Fail => {}
            },
            State::Failed { lost: Some(_) } => {
                let text = format!("{} cannot be started: {}", unit.name, unit.cause.text);
                out.events.push((Some(unit.name.clone()), EventKind::Notice { text }));
            }
            State::Waiting
            | State::Building { .. }
            | State::Starting { .. }
            | State::Up { .. }
            | State::Backoff { .. } => {}
        }
    }

    /// From the beginning: with its build, and with a fresh restart policy.
    fn begin(&mut self, i: usize) {
        let unit = &mut self.units[i];
        unit.built = false;
        unit.streak = 0;
        unit.exit = None;
        unit.again = None;
        self.wait_quietly(i);
    }

    fn start_again(&mut self, i: usize, cause: Cause) {
        self.units[i].restarts += 1;
        self.units[i].again = Some(cause);
        self.wait_quietly(i);
    }

    /// Ends a service's run, or its wait for one.
    fn end(&mut self, i: usize, then: Then, cause: Cause, at_once: bool, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        match &mut unit.state {
            State::Pending | State::Stopped | State::Exited | State::Failed { .. } => {}
            // It would be started as soon as it can; at the very end its failure is worth more.
            State::Blocked { .. } if self.going_down => {}
            State::Waiting | State::Backoff { .. } | State::Blocked { .. } => {
                self.enter(i, State::Stopped, cause, out);
            }
            // Nothing of the service's own runs yet that could be asked to end.
            State::Building { generation } | State::Starting { generation } => {
                let generation = *generation;
                self.kill(i, generation, then, cause, now, out);
            }
            State::Up { generation, since, .. } => {
                let generation = *generation;
                unit.since = Some(*since);
                if at_once {
                    self.kill(i, generation, then, cause, now, out);
                } else {
                    if unit.probe.is_some() {
                        out.effects.push(Effect::StopProbe {
                            service: unit.name.clone(),
                            generation,
                            probe: ProbeRole::Ready,
                        });
                    }
                    self.enter(i, State::Ending { generation, stage: Stage::Held, then }, cause, out);
                }
            }
            State::Ending { generation, stage, then: old } => {
                let generation = *generation;
                let was = std::mem::replace(old, then);
                let killed = matches!(stage, Stage::Killed { .. });
                if at_once && !killed {
                    self.kill(i, generation, then, cause, now, out);
                } else {
                    if !killed || was == Then::Fail {
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
        let stage = Stage::Killed { give_up_at: now + KILL_ANSWER };
        self.enter(i, State::Ending { generation, stage, then }, cause, out);
    }

    // ---- what happened

    fn executed(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        if unit.state != (State::Starting { generation }) {
            return;
        }
        let (health, cause) = match (unit.probe, unit.ready_at_exec) {
            (Some(probe), _) => {
                out.effects.push(Effect::StartProbe {
                    service: unit.name.clone(),
                    generation,
                    probe: ProbeRole::Ready,
                });
                (
                    Health::Unready { by: Some(now + probe.within) },
                    Cause::new(Reason::Executed, "started, not ready yet"),
                )
            }
            (None, true) => (
                Health::Ready { since: now, misses: 0 },
                Cause::new(Reason::ProbeOk, "started; it has no probe"),
            ),
            (None, false) => (Health::Unready { by: None }, Cause::new(Reason::Executed, "started")),
        };
        self.enter(i, State::Up { generation, since: now, health }, cause, out);
    }

    fn start_failed(&mut self, i: usize, generation: Generation, error: &str, now: Tick, out: &mut Outcome) {
        match &self.units[i].state {
            State::Building { generation: live } if *live == generation => {
                let cause = Cause::new(Reason::BuildFailed, format!("the build could not start: {error}"));
                self.enter(i, State::Failed { lost: None }, cause, out);
            }
            State::Starting { generation: live } | State::Up { generation: live, .. }
                if *live == generation =>
            {
                self.failed(
                    i,
                    &Cause::new(Reason::StartFailed, format!("could not start: {error}")),
                    now,
                    out,
                );
            }
            State::Ending { generation: live, then, .. } if *live == generation => {
                let then = *then;
                self.gone(i, then, now, out);
            }
            State::Failed { lost } if *lost == Some(generation) => self.found(i),
            State::Pending
            | State::Waiting
            | State::Building { .. }
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

    fn exited(
        &mut self,
        i: usize,
        generation: Generation,
        exit: ExitReason,
        oom: bool,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        let cause = if oom {
            Cause::new(Reason::Oom, format!("{exit}: it needed more memory than its limit"))
        } else {
            Cause::new(Reason::Exit, exit.to_string())
        };
        match &unit.state {
            State::Building { generation: live } if *live == generation => {
                if exit.is_success() {
                    unit.built = true;
                    self.wait_quietly(i);
                } else {
                    unit.exit = Some(exit);
                    let cause = Cause::new(Reason::BuildFailed, format!("the build {}", cause.text));
                    self.enter(i, State::Failed { lost: None }, cause, out);
                }
            }
            State::Starting { generation: live } | State::Up { generation: live, .. }
                if *live == generation =>
            {
                unit.exit = Some(exit);
                let again = match unit.restart.policy {
                    RestartPolicy::Always => !unit.completes,
                    RestartPolicy::No | RestartPolicy::OnFailure => false,
                };
                if !exit.is_success() || again {
                    self.failed(i, &cause, now, out);
                } else {
                    let by_itself = (!unit.completes).then(|| unit.name.clone());
                    let text =
                        if by_itself.is_some() { "exited with 0 by itself" } else { "finished with 0" };
                    self.enter(i, State::Exited, Cause::new(Reason::Exit, text), out);
                    if let Some(name) = by_itself {
                        let text = format!(
                            "{name} exited with 0 and is not started again; \
                             a program that runs to completion is `kind: task`"
                        );
                        out.events.push((Some(name), EventKind::Notice { text }));
                    }
                }
            }
            State::Ending { generation: live, then, .. } if *live == generation => {
                let then = *then;
                unit.exit = Some(exit);
                self.gone(i, then, now, out);
            }
            State::Failed { lost } if *lost == Some(generation) => {
                unit.exit = Some(exit);
                self.found(i);
            }
            State::Pending
            | State::Waiting
            | State::Building { .. }
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

    /// A run that was given up ended after all: the service can be started again.
    fn found(&mut self, i: usize) {
        self.units[i].state = State::Failed { lost: None };
        self.touch(i);
    }

    fn probed(
        &mut self,
        i: usize,
        generation: Generation,
        result: Result<String, String>,
        now: Tick,
        out: &mut Outcome,
    ) {
        let unit = &mut self.units[i];
        let State::Up { generation: live, since, health } = &mut unit.state else { return };
        if *live != generation {
            return;
        }
        let since = *since;
        let (health, cause) = match (result, &mut *health) {
            (Ok(_), Health::Ready { misses, .. }) => {
                *misses = 0;
                return;
            }
            (Ok(text), Health::Unready { .. } | Health::Unhealthy) => {
                (Health::Ready { since: now, misses: 0 }, Cause::new(Reason::ProbeOk, text))
            }
            (Err(text), Health::Ready { misses, .. }) => {
                *misses += 1;
                if *misses < MISSES {
                    return;
                }
                (Health::Unhealthy, Cause::new(Reason::ProbeFailed, format!("not ready any more: {text}")))
            }
            // Not news enough for an event; whoever asks gets the last word.
            (Err(text), Health::Unready { .. }) => {
                unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready yet: {text}"));
                unit.probe_error = Some(text);
                return;
            }
            (Err(text), Health::Unhealthy) => {
                unit.cause = Cause::new(Reason::ProbeFailed, format!("not ready any more: {text}"));
                return;
            }
        };
        self.enter(i, State::Up { generation, since, health }, cause, out);
    }

    /// A run is over, and it was not asked to be: the restart policy decides.
    fn failed(&mut self, i: usize, cause: &Cause, now: Tick, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if unit.is_stable(now) {
            unit.streak = 0;
        }
        match unit.after_failure(cause) {
            Ok(pause) => {
                let count = match unit.restart.max {
                    Some(max) => format!("restart {} of {max}", unit.streak),
                    None => format!("restart {}", unit.streak),
                };
                unit.again = Some(Cause::new(cause.reason, format!("starts again, as it {}", cause.text)));
                let cause = Cause::new(cause.reason, format!("{} ({count})", cause.text));
                self.enter(i, State::Backoff { until: now + pause }, cause, out);
                let told = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                if let Some((_, EventKind::Phase { retry_in_ms, .. })) = out.events.last_mut() {
                    *retry_in_ms = Some(told);
                }
            }
            Err(cause) => self.enter(i, State::Failed { lost: None }, cause, out),
        }
    }

    /// A run that was to end is gone.
    fn gone(&mut self, i: usize, then: Then, now: Tick, out: &mut Outcome) {
        let cause = self.units[i].cause.clone();
        match then {
            Then::Stop => self.enter(i, State::Stopped, cause, out),
            Then::Restart => {
                self.units[i].streak = 0;
                let again = self.units[i].again.take().unwrap_or(cause);
                self.start_again(i, again);
            }
            Then::Fail => self.failed(i, &cause, now, out),
        }
    }

    fn meet_deadlines(&mut self, now: Tick, out: &mut Outcome) {
        for i in 0..self.units.len() {
            let unit = &self.units[i];
            if unit.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            match &unit.state {
                State::Up { generation, since, .. } => {
                    let (generation, since) = (*generation, *since);
                    let within = unit.probe.map(|probe| probe.within).unwrap_or_default();
                    let last =
                        unit.probe_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                    let text = format!("was not ready within {}{last}", crate::text::duration(within));
                    self.units[i].since = Some(since);
                    self.kill(i, generation, Then::Fail, Cause::new(Reason::ReadyTimeout, text), now, out);
                }
                State::Ending { generation, stage: Stage::Killed { .. }, .. } => {
                    let lost = Some(*generation);
                    let text =
                        format!("was killed and did not end within {}", crate::text::duration(KILL_ANSWER));
                    self.enter(i, State::Failed { lost }, Cause::new(Reason::GraceExceeded, text), out);
                }
                State::Ending { generation, then, .. } => {
                    let (generation, then) = (*generation, *then);
                    let text =
                        format!("did not stop within {} and was killed", crate::text::duration(unit.grace));
                    self.kill(i, generation, then, Cause::new(Reason::GraceExceeded, text), now, out);
                }
                State::Backoff { .. } => {
                    let cause = unit.again.clone().unwrap_or_else(|| unit.cause.clone());
                    self.start_again(i, cause);
                }
                State::Pending
                | State::Waiting
                | State::Building { .. }
                | State::Starting { .. }
                | State::Stopped
                | State::Exited
                | State::Failed { .. }
                | State::Blocked { .. } => {}
            }
        }
    }

    // ---- what follows

    /// Decides about every service that a change may concern, until nothing follows any more.
    fn settle(&mut self, now: Tick, out: &mut Outcome) {
        while let Some(i) = self.dirty.pop_first() {
            match &self.units[i].state {
                State::Waiting => self.try_start(i, out),
                State::Blocked { .. } => {
                    let blocked = self.waits_with(i, Prospect::Never).any(|wait| wait.required);
                    if self.units[i].wanted && !blocked {
                        self.wait_quietly(i);
                    }
                }
                State::Ending { generation, stage: Stage::Held, then } => {
                    let unit = &self.units[i];
                    if unit.dependents.iter().any(|d| self.units[*d].is_going()) {
                        continue;
                    }
                    let (generation, then) = (*generation, *then);
                    out.effects.push(Effect::Signal {
                        service: unit.name.clone(),
                        generation,
                        signal: unit.signal,
                    });
                    let stage = Stage::Signalled { kill_at: now + unit.grace };
                    self.units[i].state = State::Ending { generation, stage, then };
                }
                State::Ending { stage: Stage::Signalled { .. } | Stage::Killed { .. }, .. }
                | State::Pending
                | State::Building { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Exited
                | State::Failed { .. } => {}
            }
        }
    }

    fn try_start(&mut self, i: usize, out: &mut Outcome) {
        let blocked_by = self.waits_with(i, Prospect::Never).find(|wait| wait.required).map(|wait| wait.on);
        if let Some(on) = blocked_by {
            let (root, text) = match &self.units[on].state {
                State::Blocked { root } => (root.clone(), format!("{}: {root}", self.units[on].why_never())),
                State::Pending
                | State::Waiting
                | State::Building { .. }
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
        let build = self.units[i].has_build && !self.units[i].built;
        let missing: Vec<String> = self
            .waits_with(i, Prospect::NotYet)
            .filter(|wait| !build || wait.condition == Condition::Completed)
            .map(|wait| format!("{} ({})", self.units[wait.on].name, wait.condition.as_str()))
            .collect();
        if !missing.is_empty() {
            let text = format!("waits for {}", crate::text::some(&missing));
            if self.units[i].told != text {
                self.units[i].told.clone_from(&text);
                let unit = &mut self.units[i];
                unit.cause = Cause::new(Reason::Dependency, text);
                self.tell_phase(i, out);
            }
            return;
        }
        let met: Vec<String> = self
            .waits_with(i, Prospect::Met)
            .filter(|wait| !build || wait.condition == Condition::Completed)
            .map(|wait| format!("{} is {}", self.units[wait.on].name, wait.condition.as_str()))
            .collect();
        let unit = &mut self.units[i];
        let cause = match (&unit.again, met.is_empty()) {
            (Some(cause), _) => cause.clone(),
            (None, false) => Cause::new(Reason::DependenciesReady, crate::text::some(&met)),
            (None, true) => Cause::new(Reason::Requested, "was asked for"),
        };
        #[cfg(debug_assertions)]
        assert_eq!(unit.live(), None, "{} is started beside its own run", unit.name);
        unit.generation += 1;
        unit.probe_error = None;
        unit.since = None;
        let generation = unit.generation;
        let (step, state) = if build {
            (Step::Build, State::Building { generation })
        } else {
            unit.again = None;
            (Step::Main, State::Starting { generation })
        };
        out.effects.push(Effect::Start { service: unit.name.clone(), generation, step });
        self.enter(i, state, cause, out);
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
                        | State::Building { .. }
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
        self.units[i].state = state;
        self.units[i].cause = cause;
        self.touch(i);
        self.tell_phase(i, out);
    }

    /// To be started, or told to wait, within this step.
    fn wait_quietly(&mut self, i: usize) {
        self.units[i].state = State::Waiting;
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
        let event = EventKind::Phase { phase, cause: unit.cause.clone(), exit, retry_in_ms: None };
        out.events.push((Some(unit.name.clone()), event));
    }

    /// A service changed: something may follow for it, for those that wait on it, and for those that it
    /// holds up by not being gone.
    fn touch(&mut self, i: usize) {
        self.dirty.insert(i);
        self.dirty.extend(self.units[i].dependents.iter().copied());
        self.dirty.extend(self.units[i].waits.iter().map(|wait| wait.on));
    }
}

/// Why nothing starts any more.
const GOES_DOWN: &str = "the workspace goes down";
