//! The simulated host: does what effects ask for, in its own time and not always well.
//!
//! Knows nothing of what should happen. News of one service come in the order in which they became true; between
//! services any order may come. What it is asked that makes no sense it does not do: that is for the
//! [`Oracle`](crate::oracle::Oracle) to see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ws_core::engine::{Effect, FileChange, Generation, Hook, Input, Notified, Outputs, ProbeRole, Tick};
use ws_core::files::{Digest, Moment};
use ws_core::plan::ServicePlan;
use ws_model::{Condition, ExitReason, ServiceKind, ServiceName, Trigger, WatchAction};

use crate::dice::Dice;
use crate::plan;
use crate::scenario::{Habits, Happening, Scenario, Span, Unit};

/// From one attempt of a probe that succeeded to the next, once all is calm: nothing new is to be expected.
const CALM_PACE: Duration = Duration::from_secs(30);

/// How long hooks and a first attempt of a probe take at most, once all is calm.
const CALM_FIRST: Duration = Duration::from_millis(400);

/// When a kill that goes unanswered for too long is answered, where it is.
const TOO_LATE: Span = Span::millis(10_500, 40_000);

/// How many things a talkative program says.
const WORDS: u64 = 4;

/// What the host has of a service: one at most, or two where one begins beside the other.
#[derive(Debug, Clone)]
pub struct Run {
    /// Which run it is.
    pub generation: Generation,
    /// Which command it has.
    pub version: u32,
    /// What it sees.
    pub view: u32,
    /// Whether its program was executed.
    pub executed: bool,
    /// Whether it is to be killed.
    pub killed: bool,
    /// Probes that are on.
    pub probes: BTreeSet<ProbeRole>,
    /// Hooks that run.
    pub hooks: BTreeSet<Hook>,
    asked_to_stop: bool,
}

/// Something that is on its way.
#[derive(Debug, Clone)]
enum Coming {
    Executed,
    StartFailed {
        error: &'static str,
        hopeless: bool,
    },
    Ends {
        exit: ExitReason,
        oom: bool,
    },
    Attempt {
        role: ProbeRole,
        number: u64,
    },
    HookEnds {
        hook: Hook,
        result: Result<(), String>,
    },
    Says {
        news: Notified,
        number: u64,
    },
    Talks {
        number: u64,
    },
    /// Connections have gone over.
    Switched,
    /// Told although the run is over: it was on its way.
    Stale(Input),
    /// The place is made, or it is not.
    Placed(Result<(), String>),
    /// The place is gone, and what ran there.
    Displaced,
    /// It has another plan, or not.
    Updated(Result<Box<Unit>, String>),
}

/// What a build is made of, and what was made: numbers for contents.
#[derive(Debug, Clone, Copy, Default)]
struct Files {
    inputs: u64,
    /// What there was when it was looked at last.
    seen: (u64, u32),
    made: Option<(u64, u32)>,
}

/// The host.
#[derive(Debug)]
pub struct SimHost {
    dice: Dice,
    stale: u8,
    /// Those that have a place.
    units: BTreeMap<ServiceName, Unit>,
    /// All that any plan has, with what the engine calls it.
    known: Vec<(ServicePlan, Unit)>,
    /// Services that are to end by themselves, in whatever plan.
    completes: BTreeSet<ServiceName>,
    files: BTreeMap<ServiceName, Files>,
    runs: BTreeMap<(ServiceName, Generation), Run>,
    forced: BTreeMap<(ServiceName, ProbeRole), bool>,
    calm: bool,
    future: BTreeMap<(Tick, u64), (ServiceName, Generation, Coming)>,
    serial: u64,
}

impl SimHost {
    /// The host of a scenario, on which nothing runs yet.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let all = || scenario.services.iter().chain(scenario.plans.iter().flatten());
        let waits = all().flat_map(|unit| &unit.waits);
        let known = |unit: &Unit| (plan::service(unit, scenario.number(&unit.name)), unit.clone());
        Self {
            dice: Dice::new(scenario.seed),
            stale: scenario.stale,
            units: scenario.services.iter().map(|unit| (unit.name.clone(), unit.clone())).collect(),
            known: all().map(known).collect(),
            files: BTreeMap::new(),
            completes: waits
                .filter(|wait| wait.condition == Condition::Completed)
                .map(|wait| wait.on.clone())
                .collect(),
            runs: BTreeMap::new(),
            forced: BTreeMap::new(),
            calm: false,
            future: BTreeMap::new(),
            serial: 0,
        }
    }

    /// What runs.
    #[must_use]
    pub fn runs(&self) -> &BTreeMap<(ServiceName, Generation), Run> {
        &self.runs
    }

    /// What runs of a service: the older one first.
    pub fn runs_of(&self, service: &ServiceName) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |((name, _), _)| name == service).map(|(_, run)| run)
    }

    /// Everything that has a place.
    #[must_use]
    pub fn places(&self) -> &BTreeMap<ServiceName, Unit> {
        &self.units
    }

    /// One more service.
    pub fn add(&mut self, unit: Unit) {
        self.units.insert(unit.name.clone(), unit);
    }

    /// One service less; what runs of it is gone.
    pub fn remove(&mut self, service: &ServiceName) {
        self.units.remove(service);
        self.runs.retain(|(name, _), _| name != service);
    }

    /// Everything that runs is gone at once.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.future.clear();
    }

    /// When something is to be told next.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        self.future.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next thing that is told at this time; none when that is later.
    pub fn tell(&mut self, now: Tick) -> Option<Input> {
        while self.next().is_some_and(|at| at <= now) {
            let (_, (service, generation, coming)) = self.future.pop_first()?;
            if let Some(input) = self.comes(service, generation, coming, now) {
                return Some(input);
            }
        }
        None
    }

    /// Begins an effect.
    pub fn submit(&mut self, effect: &Effect, now: Tick) {
        match effect {
            Effect::Start { service, generation, .. } | Effect::StartBeside { service, generation } => {
                self.start(service, *generation, now);
            }
            Effect::Signal { service, generation, signal } => {
                let Some(run) = self.live(service, *generation).filter(|run| run.executed) else { return };
                run.asked_to_stop = true;
                self.stops(service, *generation, ExitReason::Signal(*signal), now);
            }
            Effect::Kill { service, generation } => {
                let Some(run) = self.live(service, *generation) else { return };
                let executed = run.executed;
                if std::mem::replace(&mut run.killed, true) {
                    return;
                }
                let habits = self.habits(service);
                let mut dice = self.dice_of("kill", service, *generation);
                let mut delay = dice.time(habits.kill);
                if dice.percent(habits.undying) {
                    if dice.percent(50) {
                        return;
                    }
                    delay = dice.time(TOO_LATE);
                }
                let coming = if executed || dice.percent(50) {
                    Coming::Ends { exit: ExitReason::Signal(9), oom: false }
                } else {
                    Coming::StartFailed { error: "was killed", hopeless: false }
                };
                self.later(service, *generation, now + delay, coming);
            }
            Effect::StartProbe { service, generation, probe } => {
                let Some(run) = self.live(service, *generation) else { return };
                run.probes.insert(*probe);
                let notify =
                    self.units.get(service).and_then(|unit| unit.probe(*probe)).is_none_or(|p| p.notify);
                if !notify {
                    let pace = self.dice_of("pace", service, *generation).time(self.habits(service).pace);
                    let coming = Coming::Attempt { role: *probe, number: 0 };
                    self.later(service, *generation, now + pace, coming);
                }
            }
            Effect::StopProbe { service, generation, probe } => {
                if let Some(run) = self.live(service, *generation) {
                    run.probes.remove(probe);
                }
            }
            Effect::Hold { .. } | Effect::Release { .. } => {}
            Effect::Switch { service, generation } => {
                let took = self.dice_of("switch", service, *generation).time(self.habits(service).place);
                self.later(service, *generation, now + took, Coming::Switched);
            }
            Effect::Fingerprint { service, generation, moment } => {
                let input = self.look(service, *generation, *moment);
                let took = self.dice_of("look", service, *generation).time(self.habits(service).place);
                self.later(service, *generation, now + took, Coming::Stale(input));
            }
            Effect::Place { service } => {
                let unit =
                    self.known.iter().find(|(plan, _)| *plan == **service).map(|(_, unit)| unit.clone());
                let Some(unit) = unit else { return };
                let name = unit.name.clone();
                self.units.insert(name.clone(), unit);
                let result = self.answers("place", &name, |habits| habits.place_fails);
                self.answer(&name, now, Coming::Placed(result));
            }
            Effect::Displace { service } => self.answer(service, now, Coming::Displaced),
            Effect::Update { service } => {
                let unit =
                    self.known.iter().find(|(plan, _)| *plan == **service).map(|(_, unit)| unit.clone());
                let Some(unit) = unit else { return };
                let result = self.answers("update", &service.name, |habits| habits.update_fails);
                self.answer(&service.name, now, Coming::Updated(result.map(|()| Box::new(unit))));
            }
            Effect::RunHook { service, generation, hook } => {
                let Some(run) = self.live(service, *generation) else { return };
                run.hooks.insert(*hook);
                self.hook(service, *generation, *hook, now);
            }
        }
    }

    /// Something that the scenario wants to happen on the host; what is told at once.
    pub fn happen(&mut self, happening: &Happening, now: Tick) -> Option<Input> {
        match happening {
            Happening::Exit(service, exit, oom) => {
                let run = self.runs_of(service).find(|run| run.executed)?;
                let (generation, exit, oom) = (run.generation, *exit, *oom);
                self.comes(service.clone(), generation, Coming::Ends { exit, oom }, now)
            }
            Happening::Probe(service, role, works) => {
                self.forced.insert((service.clone(), *role), *works);
                None
            }
            Happening::Notify(service, news) => {
                let run = self.runs_of(service).find(|run| run.executed)?;
                let (service, generation, news) = (service.clone(), run.generation, news.clone());
                Some(Input::Notified { service, generation, news })
            }
            Happening::Changed(service) => {
                let unit = self.units.get(service)?;
                let action = match unit.kind {
                    ServiceKind::Build => WatchAction::Rebuild,
                    ServiceKind::Service | ServiceKind::Task => WatchAction::Restart,
                };
                self.files.entry(service.clone()).or_default().inputs += 1;
                let trigger = Trigger { files: vec![format!("{service}.rs")], more: 0 };
                let change = FileChange { service: service.clone(), action, trigger };
                Some(Input::FilesChanged { changes: vec![change] })
            }
            Happening::HostLost => Some(Input::HostLost { error: "the host lost its namespaces".to_owned() }),
            Happening::Calm => {
                self.grow_calm(now);
                None
            }
            Happening::Up(_)
            | Happening::Stop(_)
            | Happening::Restart(_)
            | Happening::Kill(_)
            | Happening::Down { .. }
            | Happening::Run(_)
            | Happening::Adopt(_)
            | Happening::Settled
            | Happening::Fresh
            | Happening::End => None,
        }
    }

    /// What was to go wrong goes well from now on, and what hangs in the air comes to an end.
    fn grow_calm(&mut self, now: Tick) {
        self.calm = true;
        self.forced.clear();
        let runs: Vec<(ServiceName, Generation, bool)> =
            self.runs.iter().map(|((name, _), run)| (name.clone(), run.generation, run.killed)).collect();
        for (service, generation, killed) in runs {
            if killed {
                let coming = Coming::Ends { exit: ExitReason::Signal(9), oom: false };
                self.later(&service, generation, now + Duration::from_secs(1), coming);
            } else {
                let coming = Coming::Says { news: Notified::Ready, number: WORDS };
                self.later(&service, generation, now + Duration::from_secs(1), coming);
            }
        }
    }

    fn live(&mut self, service: &ServiceName, generation: Generation) -> Option<&mut Run> {
        self.runs.get_mut(&(service.clone(), generation))
    }

    /// How a service is treated now.
    fn habits(&self, service: &ServiceName) -> Habits {
        let habits = self.units.get(service).map(|unit| unit.habits.clone()).unwrap_or_default();
        if !self.calm {
            return habits;
        }
        let Habits { start, life, stops, kill, mut pace, mut hook, place, .. } = habits;
        // Within every timeout and every time to become ready that scenarios have.
        pace.to = pace.to.min(CALM_FIRST);
        hook.to = hook.to.min(CALM_FIRST);
        Habits { start, life, stops, kill, pace, hook, place, ..Habits::default() }
    }

    fn dice_of(&self, what: &str, service: &ServiceName, number: u64) -> Dice {
        self.dice.of(what, 0).of(service.as_str(), number)
    }

    fn notifies(&self, service: &ServiceName) -> bool {
        self.units
            .get(service)
            .is_some_and(|unit| [&unit.startup, &unit.ready].into_iter().flatten().any(|probe| probe.notify))
    }

    fn later(&mut self, service: &ServiceName, generation: Generation, at: Tick, coming: Coming) {
        self.serial += 1;
        self.future.insert((at, self.serial), (service.clone(), generation, coming));
    }

    /// Whether something about a place goes well.
    fn answers(
        &self,
        what: &str,
        service: &ServiceName,
        fails: impl Fn(&Habits) -> u8,
    ) -> Result<(), String> {
        let share = fails(&self.habits(service));
        let fails = self.dice_of(what, service, self.serial).percent(share);
        if fails { Err("no space left on device".to_owned()) } else { Ok(()) }
    }

    /// Answers about a place come in the order in which they were asked for.
    fn answer(&mut self, service: &ServiceName, now: Tick, coming: Coming) {
        let took = self.dice_of("answer", service, self.serial).time(self.habits(service).place);
        self.later(service, 0, now + took, coming);
    }

    /// Looks at the files of a build.
    fn look(&mut self, service: &ServiceName, generation: Generation, moment: Moment) -> Input {
        let version = self.units.get(service).map_or(0, |unit| unit.version);
        let files = self.files.entry(service.clone()).or_default();
        let service = service.clone();
        match moment {
            Moment::Before => {
                files.seen = (files.inputs, version);
                let made = files.made.filter(|made| *made == files.seen);
                let result = Ok(made.map(|made| self.outputs(&service, made)));
                Input::Checked { service, generation, result }
            }
            Moment::After => {
                let made = files.seen;
                files.made = Some(made);
                let result = Ok(self.outputs(&service, made));
                Input::Recorded { service, generation, result }
            }
        }
    }

    /// What each service uses of what a build made: some of it is the same for several inputs.
    fn outputs(&self, build: &ServiceName, (inputs, version): (u64, u32)) -> Outputs {
        let users = self.units.values().filter(|unit| unit.uses.contains(build));
        let digest = |unit: &Unit| {
            let share = 1 + self.dice_of("uses", &unit.name, 0).below(3);
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(inputs / share).to_be_bytes());
            digest[8..12].copy_from_slice(&version.to_be_bytes());
            Digest(digest)
        };
        users.map(|unit| (unit.name.clone(), digest(unit))).collect()
    }

    fn start(&mut self, service: &ServiceName, generation: Generation, now: Tick) {
        let (version, view) = self.units.get(service).map_or((0, 0), |unit| (unit.version, unit.view));
        let run = Run {
            generation,
            version,
            view,
            executed: false,
            killed: false,
            probes: BTreeSet::new(),
            hooks: BTreeSet::new(),
            asked_to_stop: false,
        };
        self.runs.insert((service.clone(), generation), run);
        let habits = self.habits(service);
        let mut dice = self.dice_of("start", service, generation);
        let at = now + dice.time(habits.start);
        let coming = if dice.percent(habits.start_fails) {
            Coming::StartFailed { error: "no such file", hopeless: dice.percent(habits.hopeless) }
        } else {
            Coming::Executed
        };
        self.later(service, generation, at, coming);
    }

    /// A program that was asked to stop does, if it listens.
    fn stops(&mut self, service: &ServiceName, generation: Generation, by: ExitReason, now: Tick) {
        let habits = self.habits(service);
        let mut dice = self.dice_of("stop", service, generation);
        let delay = dice.time(habits.stops);
        if dice.percent(habits.deaf) {
            return;
        }
        let exit = if dice.percent(habits.ends_badly) { ExitReason::Code(1) } else { by };
        self.later(service, generation, now + delay, Coming::Ends { exit, oom: false });
    }

    fn hook(&mut self, service: &ServiceName, generation: Generation, hook: Hook, now: Tick) {
        let habits = self.habits(service);
        let mut dice = self.dice_of(hook_name(hook), service, generation);
        let timeout = self.units.get(service).and_then(|unit| match hook {
            Hook::PostStart => unit.post_start,
            Hook::PreStop => unit.pre_stop,
            // Nothing but the grace period bounds it.
            Hook::Stop => None,
        });
        let took = dice.time(habits.hook);
        let hangs = dice.percent(habits.hook_hangs) || timeout.is_some_and(|timeout| took > timeout);
        let (at, result) = match (hangs, timeout) {
            (true, None) => return,
            (true, Some(timeout)) => (now + timeout, Err("`hook` took too long".to_owned())),
            (false, _) if dice.percent(habits.hook_fails) => {
                (now + took, Err("`hook` exited with 1".to_owned()))
            }
            (false, _) => (now + took, Ok(())),
        };
        self.later(service, generation, at, Coming::HookEnds { hook, result });
    }

    /// A program was executed: what it will do by itself.
    fn lives(&mut self, service: &ServiceName, generation: Generation, now: Tick) {
        let Some(unit) = self.units.get(service).cloned() else { return };
        let habits = self.habits(service);
        let mut dice = self.dice_of("life", service, generation);
        let life = dice.time(habits.life);
        let completes = unit.kind != ServiceKind::Service || self.completes.contains(service);
        let dies = dice.percent(habits.dies);
        if completes || dies {
            let badly = dice.percent(habits.ends_badly);
            let oom = dice.percent(habits.oom) && badly;
            let good = *unit.success.first().unwrap_or(&0);
            let exit = match (badly, oom) {
                (true, true) => ExitReason::Signal(9),
                (true, false) if dice.percent(30) => ExitReason::Signal(11),
                (true, false) => ExitReason::Code(1),
                (false, _) if dice.percent(50) => ExitReason::Code(good),
                (false, _) => ExitReason::Code(0),
            };
            self.later(service, generation, now + life, Coming::Ends { exit, oom });
        }
        if unit.kind == ServiceKind::Build {
            return;
        }
        if self.notifies(service) && !dice.percent(habits.probe_fails) {
            let at = now + dice.time(habits.pace);
            self.later(service, generation, at, Coming::Says { news: Notified::Ready, number: WORDS });
        }
        if let Some(live) = unit.live.as_ref().filter(|live| live.notify) {
            let coming = Coming::Says { news: Notified::Watchdog, number: 0 };
            self.later(service, generation, now + live.interval / 2, coming);
        }
        if dice.percent(habits.talks) {
            self.later(service, generation, now + dice.time(habits.pace), Coming::Talks { number: 0 });
        }
    }

    /// What is on its way arrives.
    fn comes(
        &mut self,
        service: ServiceName,
        generation: Generation,
        coming: Coming,
        now: Tick,
    ) -> Option<Input> {
        match coming {
            Coming::Stale(input) => return Some(input),
            Coming::Placed(result) => {
                if result.is_err() {
                    self.units.remove(&service);
                }
                return Some(Input::Placed { service, result });
            }
            Coming::Displaced => {
                self.remove(&service);
                return Some(Input::Displaced { service, errors: Vec::new() });
            }
            Coming::Updated(result) => {
                let result = result.map(|unit| {
                    self.units.insert(service.clone(), *unit);
                });
                return Some(Input::Updated { service, result });
            }
            Coming::Switched => return Some(Input::Switched { service, generation }),
            Coming::Executed
            | Coming::StartFailed { .. }
            | Coming::Ends { .. }
            | Coming::Attempt { .. }
            | Coming::HookEnds { .. }
            | Coming::Says { .. }
            | Coming::Talks { .. } => {}
        }
        self.live(&service, generation)?;
        match coming {
            Coming::Executed => {
                self.live(&service, generation)?.executed = true;
                self.lives(&service, generation, now);
                Some(Input::Executed { service, generation, pid: None })
            }
            Coming::StartFailed { error, hopeless } => {
                let run = self.live(&service, generation)?;
                let killed = run.killed;
                if run.executed {
                    if !killed {
                        return None;
                    }
                    // The kill met it later than the execution.
                    self.over(&service, generation, now);
                    return Some(Input::Exited {
                        service,
                        generation,
                        exit: ExitReason::Signal(9),
                        oom: false,
                    });
                }
                self.over(&service, generation, now);
                Some(Input::StartFailed { service, generation, error: error.to_owned(), hopeless })
            }
            Coming::Ends { exit, oom } => {
                self.over(&service, generation, now);
                Some(Input::Exited { service, generation, exit, oom })
            }
            Coming::Attempt { role, number } => {
                if !self.live(&service, generation)?.probes.contains(&role) {
                    return None;
                }
                let habits = self.habits(&service);
                let name = crate::text::role_name(role);
                let mut dice = self.dice_of(name, &service, (generation << 20) + number);
                let forced = self.forced.get(&(service.clone(), role)).copied();
                let good = forced.unwrap_or(!dice.percent(habits.probe_fails));
                let pace = if self.calm && good { CALM_PACE } else { dice.time(habits.pace) };
                self.later(&service, generation, now + pace, Coming::Attempt { role, number: number + 1 });
                let result = if good { Ok("answered".to_owned()) } else { Err("refused".to_owned()) };
                Some(Input::Probed { service, generation, probe: role, result })
            }
            Coming::HookEnds { hook, result } => {
                let run = self.live(&service, generation)?;
                run.hooks.remove(&hook);
                if hook == Hook::Stop && result.is_ok() && !std::mem::replace(&mut run.asked_to_stop, true) {
                    self.stops(&service, generation, ExitReason::Code(0), now);
                }
                Some(Input::HookEnded { service, generation, hook, result })
            }
            Coming::Says { news, number } => {
                if news == Notified::Watchdog {
                    let interval = self.units.get(&service)?.live.as_ref()?.interval;
                    let coming = Coming::Says { news: Notified::Watchdog, number: number + 1 };
                    self.later(&service, generation, now + interval / 2, coming);
                    let habits = self.habits(&service);
                    let forced = self.forced.get(&(service.clone(), ProbeRole::Live)).copied();
                    let number = (generation << 20) + number;
                    let silent = self.dice_of("watchdog", &service, number).percent(habits.probe_fails);
                    if !forced.unwrap_or(!silent) {
                        return None;
                    }
                }
                Some(Input::Notified { service, generation, news })
            }
            Coming::Talks { number } => {
                let pace = self.habits(&service).pace;
                let mut dice = self.dice_of("talk", &service, (generation << 20) + number);
                if number < WORDS && !self.calm {
                    let at = now + dice.time(pace);
                    self.later(&service, generation, at, Coming::Talks { number: number + 1 });
                }
                let news = match dice.below(8) {
                    0 | 1 => Notified::Status(format!("busy with {number}")),
                    2 | 3 => Notified::ExtendTimeout(dice.time(Span::millis(1000, 20_000))),
                    4 => {
                        self.stops(&service, generation, ExitReason::Code(0), now);
                        Notified::Stopping
                    }
                    5 => Notified::WatchdogTrigger,
                    _ => {
                        let at = now + dice.time(pace);
                        let coming = Coming::Says { news: Notified::Ready, number: WORDS };
                        self.later(&service, generation, at, coming);
                        Notified::Reloading
                    }
                };
                Some(Input::Notified { service, generation, news })
            }
            Coming::Stale(_)
            | Coming::Switched
            | Coming::Placed(_)
            | Coming::Displaced
            | Coming::Updated(_) => None,
        }
    }

    /// A run is over; something of it may still be on its way.
    fn over(&mut self, service: &ServiceName, generation: Generation, now: Tick) {
        let run = self.runs.remove(&(service.clone(), generation));
        let mut dice = self.dice_of("stale", service, generation);
        if self.calm || !dice.percent(self.stale) {
            return;
        }
        let at = now + dice.time(Span::millis(0, 3000));
        let (of, executed) = (service.clone(), run.is_some_and(|run| run.executed));
        let probe = dice.choose(&[ProbeRole::Startup, ProbeRole::Ready, ProbeRole::Live]);
        let input = match dice.below(5) {
            0 => Input::Probed { service: of, generation, probe, result: Ok("answered".to_owned()) },
            1 => Input::Probed { service: of, generation, probe, result: Err("refused".to_owned()) },
            2 => Input::Notified { service: of, generation, news: Notified::Ready },
            3 => Input::HookEnded { service: of, generation, hook: Hook::PostStart, result: Ok(()) },
            _ if executed => Input::Exited { service: of, generation, exit: ExitReason::Code(1), oom: false },
            _ => Input::Executed { service: of, generation, pid: None },
        };
        self.later(service, generation, at, Coming::Stale(input));
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::PostStart => "post_start",
        Hook::PreStop => "pre_stop",
        Hook::Stop => "stop command",
    }
}
