//! Random schedules against the engine: random workspaces, a host that answers late, fails and forgets,
//! people who change their minds.
//!
//! `SEEDS=100000 cargo test -p ws-core sim` runs more of them; `SEED=17` runs one and prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use ws_core::engine::{Effect, Engine, Generation, Hook, Input, Notified, Outcome, ProbeRole, Step, Tick};
use ws_core::plan::{Plan, ServicePlan};
use ws_model::{
    Condition, EventKind, ExitReason, Phase, Probe, ProbeKind, Reason, RestartPolicy, ServiceKind,
    ServiceName,
};

use crate::support::{Svc, svc, task, world};

const SEEDS: u64 = 2000;

#[test]
fn no_schedule_breaks_the_promises() {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    let (seeds, print) = match number("SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("SEEDS").unwrap_or(SEEDS), false),
    };
    for seed in seeds {
        let mut sim = Sim::new(seed, print);
        let result = sim.run();
        #[expect(clippy::print_stdout, reason = "a person asked to see this one")]
        if print {
            println!("{}", sim.log);
        }
        if let Err(broken) = result {
            // Once more, now written down.
            let mut again = Sim::new(seed, true);
            let same = again.run();
            panic!("{}\nseed {seed}: {broken} (`SEED={seed}` plays it again: {same:?})", again.log);
        }
    }
}

/// The same seed gives the same transcript: nothing in the core depends on anything else.
#[test]
fn a_schedule_is_the_same_every_time() {
    for seed in 0..20 {
        let [one, two] = [0, 1].map(|_| {
            let mut sim = Sim::new(seed, true);
            sim.run().unwrap();
            sim.log
        });
        assert_eq!(one, two);
    }
}

/// SplitMix64: small, seeded, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// What the host has of a service: at most one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    generation: Generation,
    step: Step,
    executed: bool,
    killed: bool,
    signalled: bool,
    /// The host will never tell of its end.
    forgotten: bool,
    /// Hooks that were begun, and whether each has ended.
    hooks: BTreeMap<Hook, bool>,
    /// What has succeeded so far of what must before it counts as ready.
    passed: BTreeSet<ProbeRole>,
    said_ready: bool,
    /// When it was told to live last, from when on that counts.
    fed: Option<Tick>,
    status: Option<String>,
    /// The runs that its start found, of what it is bound to.
    with: BTreeMap<ServiceName, Generation>,
}

/// How well things go in one simulation, in percent.
struct Luck {
    starts: u64,
    exits_well: u64,
    probes: u64,
    forgets: u64,
    lives_long: u64,
    hooks: u64,
    /// That one which should says so, and says so in time.
    speaks: u64,
}

struct Sim {
    dice: Dice,
    engine: Engine,
    plan: Plan,
    luck: Luck,
    now: Tick,
    /// What will happen, by time and order of decision.
    future: BTreeMap<(Tick, u64), Input>,
    serial: u64,
    runs: BTreeMap<ServiceName, Run>,
    generations: BTreeMap<ServiceName, Generation>,
    /// The last run of its program.
    mains: BTreeMap<ServiceName, Generation>,
    probing: BTreeSet<(ServiceName, Generation, ProbeRole)>,
    /// What somebody may add.
    later: Vec<ServicePlan>,
    words_at: BTreeMap<ServiceName, Tick>,
    phases: BTreeMap<ServiceName, Phase>,
    completed: BTreeSet<ServiceName>,
    ups: usize,
    answers: usize,
    asked_down: bool,
    /// Whether the transcript is kept: writing it takes most of the time.
    logs: bool,
    log: String,
}

/// A random workspace: each service can wait only for earlier ones.
fn workspace(dice: &mut Dice) -> Vec<Svc> {
    let count = 1 + dice.below(7);
    let names: Vec<String> = (0..count).map(|i| format!("s{i}")).collect();
    let mut services: Vec<Svc> = Vec::new();
    for (i, text) in names.iter().enumerate() {
        let is_task = dice.percent(25);
        let mut one = if is_task { task(text) } else { svc(text) };
        let kind = |dice: &mut Dice| match dice.below(4) {
            0 => ProbeKind::Notify,
            _ => ProbeKind::Tcp { port: 80 },
        };
        if dice.percent(40) {
            one = one.probe(kind(dice));
        }
        if dice.percent(15) {
            one = one.startup(kind(dice));
        }
        if dice.percent(20) {
            let interval = Duration::from_secs(1 + dice.below(9));
            one = one.liveness(kind(dice)).with(|service| {
                service.liveness.as_mut().unwrap().interval = interval;
            });
        }
        if dice.percent(15) {
            one = one.post_start("warm");
        }
        if dice.percent(15) {
            one = one.pre_stop("drain");
        }
        if dice.percent(15) {
            one = one.stop_command("quit");
        }
        if dice.percent(15) {
            one = one.with(|service| service.success_exit_codes = vec![1]);
        }
        if dice.percent(20) {
            one = one.build("make");
        }
        if dice.percent(30) {
            one = one.policy(dice.choose(&[
                RestartPolicy::No,
                RestartPolicy::OnFailure,
                RestartPolicy::Always,
            ]));
        }
        if dice.percent(20) {
            one = one.with(|service| service.restart.max = None);
        }
        let mut after = String::new();
        for earlier in &services[..i] {
            if !dice.percent(30) {
                continue;
            }
            let always = earlier.service.restart.policy == RestartPolicy::Always;
            let may_complete = earlier.service.kind == ServiceKind::Task || !always;
            let condition = match dice.below(4) {
                0 => ":started",
                1 => ":ready",
                2 if may_complete => ":completed",
                _ => "",
            };
            let optional = if dice.percent(20) { "?" } else { "" };
            let bound = if dice.percent(30) { "!" } else { "" };
            let _ = write!(after, " {}{condition}{optional}{bound}", earlier.name);
        }
        services.push(one.after(&after));
    }
    services
}

fn is_notify(probe: Option<&Probe>) -> bool {
    probe.is_some_and(|probe| probe.kind == ProbeKind::Notify)
}

fn probe_of(service: &ServicePlan, role: ProbeRole) -> Option<&Probe> {
    match role {
        ProbeRole::Startup => service.startup.as_ref(),
        ProbeRole::Ready => service.ready.as_ref(),
        ProbeRole::Live => service.liveness.as_ref(),
    }
}

/// The commands of two people, each with a dependency of one of the services.
fn one_offs(plan: &Plan, dice: &mut Dice) -> Vec<ServicePlan> {
    let services: Vec<&ServicePlan> = plan.services.values().collect();
    let mut later = Vec::new();
    for number in 1..3_u32 {
        let of = services[usize::try_from(dice.below(services.len() as u64)).unwrap()];
        let mut run =
            world([task(&format!("{}-run-{number}", of.name))]).plan().services.pop_first().unwrap().1;
        run.declared = of.name.clone();
        run.waits.clone_from(&of.waits);
        later.push(run);
    }
    later
}

impl Sim {
    fn new(seed: u64, logs: bool) -> Self {
        let mut dice = Dice(seed);
        let plan = world(workspace(&mut dice)).plan();
        let later = one_offs(&plan, &mut dice);
        let luck = Luck {
            starts: dice.choose(&[60, 95, 100]),
            exits_well: dice.choose(&[30, 70, 95]),
            probes: dice.choose(&[20, 70, 98]),
            forgets: dice.choose(&[0, 0, 0, 5]),
            lives_long: dice.choose(&[20, 60, 95]),
            hooks: dice.choose(&[30, 80, 100]),
            speaks: dice.choose(&[50, 90, 100]),
        };
        let mut log = String::new();
        for service in plan.services.values() {
            let waits: Vec<String> = service
                .waits
                .iter()
                .map(|w| {
                    let optional = if w.required { "" } else { "?" };
                    let bound = if w.restart { "!" } else { "" };
                    format!("{} {}{optional}{bound}", w.on, w.condition.as_str())
                })
                .collect();
            let _ = writeln!(
                log,
                "{} {:?} build={} restart={:?} max={:?} success={:?} waits={waits:?}",
                service.name,
                service.kind,
                service.build.is_some(),
                service.restart.policy,
                service.restart.max,
                service.success_exit_codes,
            );
            for role in [ProbeRole::Startup, ProbeRole::Ready, ProbeRole::Live] {
                if let Some(probe) = probe_of(service, role) {
                    let _ = writeln!(log, "    {role:?}: {:?} every {:?}", probe.kind, probe.interval);
                }
            }
            let (hooks, stop) = (&service.hooks, &service.stop);
            for (what, there) in [
                ("post_start", !hooks.post_start.is_empty()),
                ("pre_stop", !hooks.pre_stop.is_empty()),
                ("stop", stop.command.is_some()),
            ] {
                if there {
                    let _ = writeln!(log, "    {what}");
                }
            }
        }
        Self {
            engine: Engine::new(plan.clone()),
            phases: plan.services.keys().map(|name| (name.clone(), Phase::Pending)).collect(),
            plan,
            dice,
            luck,
            now: Duration::ZERO,
            future: BTreeMap::new(),
            serial: 0,
            runs: BTreeMap::new(),
            generations: BTreeMap::new(),
            mains: BTreeMap::new(),
            later,
            words_at: BTreeMap::new(),
            probing: BTreeSet::new(),
            completed: BTreeSet::new(),
            ups: 0,
            answers: 0,
            asked_down: false,
            logs,
            log,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        self.input(Input::Up { services: vec![] })?;
        for _ in 0..2 + self.dice.below(8) {
            let until = self.now + self.dice.millis(1, 20_000);
            self.play_until(until)?;
            let request = self.request();
            self.input(request)?;
        }
        // Whatever was asked, down ends everything, in bounded time.
        self.play_until(self.now + Duration::from_secs(5))?;
        self.input(Input::Down { now: false })?;
        if self.dice.percent(30) {
            self.play_until(self.now + Duration::from_secs(3))?;
            self.input(Input::Down { now: true })?;
        }
        // Each service of a chain may need its whole grace period and a kill that is not answered.
        let bound =
            self.now + Duration::from_secs(20 + 10) * u32::try_from(self.plan.services.len()).unwrap();
        self.play_until(bound)?;
        self.check_all_down()
    }

    fn request(&mut self) -> Input {
        let all: Vec<ServiceName> = self.plan.services.keys().cloned().collect();
        let share = self.dice.choose(&[0, 20, 50]);
        let services: Vec<ServiceName> = all.into_iter().filter(|_| self.dice.percent(share)).collect();
        match self.dice.below(15) {
            10 | 11 => {
                let number = usize::try_from(self.dice.below(self.later.len() as u64)).unwrap();
                Input::Add { service: Box::new(self.later[number].clone()) }
            }
            12..=14 => {
                let number = usize::try_from(self.dice.below(self.later.len() as u64)).unwrap();
                let service = self.later[number].name.clone();
                match self.dice.below(4) {
                    0 => Input::Stop { services: vec![service] },
                    1 => Input::Remove { service },
                    _ => Input::Up { services: vec![service] },
                }
            }
            0..=3 => Input::Up { services },
            4 | 5 => Input::Stop { services },
            6 | 7 => Input::Restart { services },
            8 => Input::Kill { services },
            _ => Input::Down { now: self.dice.percent(30) },
        }
    }

    /// Lets happen what is due, and ticks when the engine asks for it.
    fn play_until(&mut self, end: Tick) -> Result<(), String> {
        loop {
            let event = self.future.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.engine.next_deadline().map(|at| at.max(self.now));
            let Some(next) = event.into_iter().chain(deadline).min().filter(|next| *next <= end) else {
                self.now = end;
                return Ok(());
            };
            self.now = next;
            let due = event.filter(|at| *at == next).and_then(|_| self.future.pop_first());
            match due {
                Some((_, input)) => {
                    if let Some(input) = self.happen(input) {
                        self.input(input)?;
                    }
                }
                None => {
                    self.input(Input::Tick)?;
                    if self.engine.next_deadline().is_some_and(|at| at <= self.now) {
                        return Err(format!("a tick at {:?} did not meet its deadline", self.now));
                    }
                }
            }
        }
    }

    /// What the host would tell now, of what it had planned to tell; news of ended runs are told
    /// sometimes, as they can be on their way.
    fn happen(&mut self, input: Input) -> Option<Input> {
        let live = |service: &ServiceName, generation: Generation, runs: &BTreeMap<ServiceName, Run>| {
            runs.get(service).is_some_and(|run| run.generation == generation)
        };
        match &input {
            Input::Executed { service, generation, .. } => {
                if !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                let (service, generation) = (service.clone(), *generation);
                let run = self.runs.get_mut(&service)?;
                run.executed = true;
                let run = run.clone();
                self.plan_end(&service, generation, &run);
                if run.step == Step::Main {
                    self.plan_words(&service, generation);
                }
            }
            Input::StartFailed { service, generation, .. } | Input::Exited { service, generation, .. } => {
                if !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                if self.runs[service].forgotten {
                    return None;
                }
                let run = self.runs.remove(service);
                let well = matches!(&input, Input::Exited { exit, oom, .. } if self.is_success(service, *exit, *oom));
                if well && run.is_some_and(|run| run.step == Step::Main) {
                    self.completed.insert(service.clone());
                }
            }
            Input::Probed { service, generation, probe, result } => {
                let key = (service.clone(), *generation, *probe);
                if !self.probing.contains(&key) || !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                if result.is_ok() {
                    self.runs.get_mut(service)?.passed.insert(*probe);
                }
                self.plan_probe(&key.0, key.1, key.2);
            }
            Input::HookEnded { service, generation, hook, result } => {
                if !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                let run = self.runs.get_mut(service)?;
                // A hook that hangs is told of when its run is over, never.
                *run.hooks.get_mut(hook)? = result.is_ok() || *hook != Hook::PostStart;
            }
            Input::Notified { service, generation, news } => {
                if !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                let (service, generation, news) = (service.clone(), *generation, news.clone());
                self.spoken(&service, generation, &news);
            }
            Input::Up { .. }
            | Input::Stop { .. }
            | Input::Restart { .. }
            | Input::Kill { .. }
            | Input::Down { .. }
            | Input::HostLost { .. }
            | Input::Add { .. }
            | Input::Remove { .. }
            | Input::Published { .. }
            | Input::Tick => {}
        }
        Some(input)
    }

    /// What follows for the host from what a run says.
    fn spoken(&mut self, service: &ServiceName, generation: Generation, news: &Notified) {
        let Some(run) = self.runs.get_mut(service) else { return };
        match news {
            Notified::Ready => {
                run.said_ready = true;
                if is_notify(self.plan.services[service].startup.as_ref()) {
                    run.passed.insert(ProbeRole::Startup);
                }
            }
            Notified::Reloading => {
                run.said_ready = false;
                self.says(service, generation, (100, 5000), Notified::Ready);
            }
            Notified::Status(text) => {
                run.status = Some(text.clone());
                if self.dice.percent(70) {
                    let text = format!("{} %", self.dice.below(5));
                    self.says(service, generation, (10, 2000), Notified::Status(text));
                }
            }
            Notified::Watchdog => {
                // Fed before it counts as well.
                run.fed = run.fed.map(|_| self.now);
                let interval = self.plan.services[service].liveness.as_ref().map(|probe| probe.interval);
                let interval = u64::try_from(interval.unwrap_or_default().as_millis()).unwrap();
                if self.dice.percent(self.luck.speaks) {
                    self.says(service, generation, (interval / 3, interval / 2), Notified::Watchdog);
                }
            }
            Notified::Stopping | Notified::ExtendTimeout(_) | Notified::WatchdogTrigger => {}
        }
    }

    fn is_success(&self, service: &ServiceName, exit: ExitReason, oom: bool) -> bool {
        match exit {
            ExitReason::Code(code) => self.plan.services[service].success_exit_codes.contains(&code),
            ExitReason::Signal(signal) => {
                !oom && self.plan.services[service].success_exit_codes.contains(&(128 + signal))
            }
        }
    }

    fn later(&mut self, delay: Duration, input: Input) {
        self.serial += 1;
        self.future.insert((self.now + delay, self.serial), input);
    }

    fn says(&mut self, service: &ServiceName, generation: Generation, within: (u64, u64), news: Notified) {
        let delay = self.dice.millis(within.0, within.1);
        self.later(delay, Input::Notified { service: service.clone(), generation, news });
    }

    /// What a program will say of itself.
    fn plan_words(&mut self, service: &ServiceName, generation: Generation) {
        let plan = &self.plan.services[service];
        let live = is_notify(plan.liveness.as_ref());
        if !live && !is_notify(plan.ready.as_ref()) && !is_notify(plan.startup.as_ref()) {
            return;
        }
        if self.dice.percent(self.luck.speaks) {
            self.says(service, generation, (1, 5000), Notified::Ready);
        }
        if live {
            self.says(service, generation, (1, 500), Notified::Watchdog);
        }
        if self.dice.percent(20) {
            self.says(service, generation, (1, 5000), Notified::Status("begins".to_owned()));
        }
        if self.dice.percent(20) {
            self.says(service, generation, (1000, 20_000), Notified::Reloading);
        }
        for (often, news) in [
            (20, Notified::ExtendTimeout(self.dice.millis(1, 5000))),
            (5, Notified::Stopping),
            (5, Notified::WatchdogTrigger),
        ] {
            if self.dice.percent(often) {
                self.says(service, generation, (1, 30_000), news);
            }
        }
    }

    /// How a program that was executed will end by itself, if it does.
    fn plan_end(&mut self, service: &ServiceName, generation: Generation, run: &Run) {
        let is_task = self.plan.services[service].kind == ServiceKind::Task;
        let ends = run.step == Step::Build || is_task || !self.dice.percent(self.luck.lives_long);
        if ends && !run.forgotten {
            let well = self.dice.percent(self.luck.exits_well);
            let exit = if well { ExitReason::Code(0) } else { ExitReason::Code(1) };
            let oom = !well && self.dice.percent(10);
            let delay = self.dice.millis(1, 30_000);
            self.later(delay, Input::Exited { service: service.clone(), generation, exit, oom });
        }
    }

    fn plan_probe(&mut self, service: &ServiceName, generation: Generation, probe: ProbeRole) {
        let good = self.dice.percent(self.luck.probes);
        let result = if good { Ok("answered".to_owned()) } else { Err("refused".to_owned()) };
        let delay = self.dice.millis(100, 4000);
        self.later(delay, Input::Probed { service: service.clone(), generation, probe, result });
    }

    /// One step, and everything that must hold after it.
    fn input(&mut self, input: Input) -> Result<(), String> {
        if self.logs {
            let _ = writeln!(self.log, "{:>9.3} {input:?}", self.now.as_secs_f64());
        }
        self.ups += usize::from(matches!(input, Input::Up { .. }));
        self.asked_down |= matches!(input, Input::Down { .. } | Input::HostLost { .. });
        let comes_or_goes = if let Input::Add { service } = &input {
            Some(service.name.clone())
        } else if let Input::Remove { service } = &input {
            Some(service.clone())
        } else {
            None
        };
        let comes_or_goes = comes_or_goes.map(|service| {
            let before = self.engine.status().into_iter().find(|status| status.service == service);
            (service, before.map(|status| status.phase))
        });
        let outcome = self.engine.step(input, self.now);
        if let Some((service, before)) = comes_or_goes {
            self.came_or_went(&service, before)?;
        }
        if self.logs {
            self.write_down(&outcome);
        }
        self.check_effects(&outcome)?;
        self.carry_out(&outcome)?;
        self.check_events(&outcome)?;
        self.check_state()
    }

    /// Who takes part is as somebody asked; nobody goes who has a run or who others need.
    fn came_or_went(&mut self, service: &ServiceName, before: Option<Phase>) -> Result<(), String> {
        let there = self.engine.status().iter().any(|status| status.service == *service);
        match (before, there) {
            (None, true) => {
                let plan = self.later.iter().find(|plan| plan.name == *service).unwrap().clone();
                self.plan.services.insert(service.clone(), plan);
                self.phases.insert(service.clone(), Phase::Pending);
            }
            (Some(phase), false) => {
                if !phase.is_settled_down() || self.runs.contains_key(service) {
                    return Err(format!("{service} went when it was {phase}"));
                }
                self.plan.services.remove(service);
                self.phases.remove(service);
                self.completed.remove(service);
            }
            (Some(_), true) | (None, false) => {}
        }
        if self.engine.plan().services.keys().ne(self.plan.services.keys()) {
            return Err("the plan is not what takes part".to_owned());
        }
        Ok(())
    }

    fn write_down(&mut self, outcome: &Outcome) {
        for effect in &outcome.effects {
            let _ = writeln!(self.log, "          > {effect:?}");
        }
        for (service, event) in &outcome.events {
            let _ = writeln!(
                self.log,
                "          ! {} {event:?}",
                service.as_ref().map_or("-", |name| name.as_str())
            );
        }
    }

    fn check_effects(&mut self, outcome: &Outcome) -> Result<(), String> {
        let stopping: BTreeSet<&ServiceName> =
            outcome.events.iter().filter_map(|(service, _)| service.as_ref()).collect();
        for effect in &outcome.effects {
            match effect {
                Effect::Start { service, generation, step } => {
                    if let Some(run) = self.runs.get(service) {
                        return Err(format!("{service} is started beside its run {}", run.generation));
                    }
                    if self.generations.get(service).is_some_and(|last| generation <= last) {
                        return Err(format!("{service} starts with the old generation {generation}"));
                    }
                    if self.asked_down {
                        return Err(format!("{service} starts after down"));
                    }
                    self.check_waits(service, *step)?;
                }
                Effect::Signal { service, generation, .. } => {
                    let run = self.live(service, *generation)?;
                    if run.killed || run.signalled || !run.executed || run.step == Step::Build {
                        return Err(format!("{service} is signalled as {run:?}"));
                    }
                    let plan = &self.plan.services[service];
                    let skipped = (!plan.hooks.pre_stop.is_empty()
                        && !run.hooks.contains_key(&Hook::PreStop))
                        || (plan.stop.command.is_some() && !run.hooks.contains_key(&Hook::Stop))
                        || [Hook::PreStop, Hook::Stop].iter().any(|hook| run.hooks.get(hook) == Some(&false));
                    if skipped {
                        return Err(format!("{service} is signalled before its hooks: {run:?}"));
                    }
                    // The order is about where a stop begins.
                    if !run.hooks.contains_key(&Hook::PreStop) && !run.hooks.contains_key(&Hook::Stop) {
                        self.check_reverse(service)?;
                    }
                    if !stopping.contains(service) && self.phases[service] != Phase::Stopping {
                        return Err(format!("{service} is signalled and was never stopping"));
                    }
                }
                Effect::Kill { service, generation } => {
                    let run = self.live(service, *generation)?;
                    if run.killed {
                        return Err(format!("{service} is killed twice"));
                    }
                }
                Effect::StartProbe { service, generation, probe } => {
                    let run = self.live(service, *generation)?;
                    let plan = &self.plan.services[service];
                    let warm =
                        plan.hooks.post_start.is_empty() || run.hooks.get(&Hook::PostStart) == Some(&true);
                    let passed = |role| match probe_of(plan, role) {
                        None => true,
                        Some(_) if role == ProbeRole::Ready && is_notify(plan.ready.as_ref()) => {
                            run.said_ready
                        }
                        Some(_) => run.passed.contains(&role),
                    };
                    let gates = match probe {
                        ProbeRole::Startup => true,
                        ProbeRole::Ready => passed(ProbeRole::Startup),
                        ProbeRole::Live => passed(ProbeRole::Startup) && passed(ProbeRole::Ready),
                    };
                    let declared = probe_of(plan, *probe);
                    if !run.executed || declared.is_none() || is_notify(declared) || !warm || !gates {
                        return Err(format!("{probe:?} of {service} is probed as {run:?}"));
                    }
                }
                Effect::StopProbe { service, generation, probe } => {
                    if !self.probing.contains(&(service.clone(), *generation, *probe)) {
                        return Err(format!("{service} is not probed any more, and was not"));
                    }
                }
                Effect::RunHook { service, generation, hook } => {
                    let run = self.live(service, *generation)?;
                    let plan = &self.plan.services[service];
                    let (declared, before) = match hook {
                        Hook::PostStart => (!plan.hooks.post_start.is_empty(), None),
                        Hook::PreStop => (!plan.hooks.pre_stop.is_empty(), None),
                        Hook::Stop => {
                            let pre_stop = !plan.hooks.pre_stop.is_empty();
                            (plan.stop.command.is_some(), pre_stop.then_some(Hook::PreStop))
                        }
                    };
                    let in_order = before.is_none_or(|before| run.hooks.get(&before) == Some(&true));
                    let late = run.killed || run.signalled || run.hooks.contains_key(hook);
                    if !run.executed || run.step == Step::Build || !declared || !in_order || late {
                        return Err(format!("{hook:?} of {service} runs as {run:?}"));
                    }
                    match hook {
                        Hook::PostStart => {}
                        Hook::Stop if before.is_some() => {}
                        Hook::PreStop | Hook::Stop => self.check_reverse(service)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn live(&self, service: &ServiceName, generation: Generation) -> Result<Run, String> {
        match self.runs.get(service) {
            Some(run) if run.generation == generation => Ok(run.clone()),
            other => Err(format!("an effect for the dead run {generation} of {service} ({other:?})")),
        }
    }

    /// What a service waits for is there when it starts, as the host knows it.
    fn check_waits(&self, service: &ServiceName, step: Step) -> Result<(), String> {
        for wait in &self.plan.services[service].waits {
            if step == Step::Build && wait.condition != Condition::Completed {
                continue;
            }
            let status = self.engine.status();
            let on = status.iter().find(|status| status.service == wait.on).unwrap();
            let warm = |run: &Run| run.hooks.get(&Hook::PostStart) != Some(&false);
            let runs = self
                .runs
                .get(&wait.on)
                .is_some_and(|run| run.executed && run.step == Step::Main && warm(run));
            let completed = self.completed.contains(&wait.on) && on.phase == Phase::Exited;
            let there = match wait.condition {
                Condition::Started => runs || completed,
                Condition::Ready => (runs && on.ready) || completed,
                Condition::Completed => completed,
            };
            let hopeless =
                matches!(on.phase, Phase::Failed | Phase::Stopped | Phase::Exited | Phase::Pending);
            if !there && (wait.required || !hopeless) {
                return Err(format!(
                    "{service} starts although {} is {} and not {:?}",
                    wait.on, on.phase, wait.condition
                ));
            }
        }
        Ok(())
    }

    /// Whoever waits on a service and is being stopped as well is gone before it gets its signal.
    fn check_reverse(&self, service: &ServiceName) -> Result<(), String> {
        let status = self.engine.status();
        for other in self.plan.services.values() {
            if other.waits.iter().any(|wait| wait.on == *service)
                && let Some(run) = self.runs.get(&other.name)
                && !run.forgotten
            {
                let phase = status.iter().find(|status| status.service == other.name).unwrap().phase;
                let cause = &status.iter().find(|status| status.service == other.name).unwrap().cause;
                // It goes for a reason of its own, and may come back.
                let its_own = matches!(
                    cause.reason,
                    Reason::ReadyTimeout | Reason::LivenessFailed | Reason::HookFailed
                );
                // It goes because of what starts in this step, which is decided after what is signalled.
                let just_now = cause.reason == Reason::DependencyRestarted
                    && self.phases[&other.name] != Phase::Stopping;
                if phase == Phase::Stopping && !its_own && !just_now {
                    return Err(format!("{service} is signalled before {} is gone", other.name));
                }
            }
        }
        Ok(())
    }

    /// The host does as it is told, in its own time.
    fn carry_out(&mut self, outcome: &Outcome) -> Result<(), String> {
        for effect in outcome.effects.clone() {
            match effect {
                Effect::Start { service, generation, step } => {
                    let forgotten = self.dice.percent(self.luck.forgets);
                    let with = match step {
                        Step::Build => BTreeMap::new(),
                        Step::Main => self.bound_to(&service),
                    };
                    let run = Run {
                        generation,
                        step,
                        executed: false,
                        killed: false,
                        signalled: false,
                        forgotten,
                        hooks: BTreeMap::new(),
                        passed: BTreeSet::new(),
                        said_ready: false,
                        fed: None,
                        status: None,
                        with,
                    };
                    self.runs.insert(service.clone(), run);
                    if step == Step::Main {
                        self.mains.insert(service.clone(), generation);
                    }
                    self.completed.remove(&service);
                    self.generations.insert(service.clone(), generation);
                    let delay = self.dice.millis(1, 500);
                    if self.dice.percent(self.luck.starts) {
                        self.later(delay, Input::Executed { service, generation, pid: None });
                    } else {
                        let error = "no such file".to_owned();
                        self.later(delay, Input::StartFailed { service, generation, error, hopeless: false });
                    }
                }
                Effect::Signal { service, generation, signal } => {
                    if let Some(run) = self.runs.get_mut(&service) {
                        run.signalled = true;
                    }
                    if self.dice.percent(80) {
                        let delay = self.dice.millis(1, 8000);
                        let exit = self.dice.choose(&[
                            ExitReason::Signal(signal),
                            ExitReason::Code(0),
                            ExitReason::Code(1),
                        ]);
                        self.later(delay, Input::Exited { service, generation, exit, oom: false });
                    }
                }
                Effect::Kill { service, generation } => {
                    if let Some(run) = self.runs.get_mut(&service) {
                        run.killed = true;
                        let executed = run.executed;
                        let delay = self.dice.millis(1, 200);
                        let input = if executed || self.dice.percent(50) {
                            Input::Exited { service, generation, exit: ExitReason::Signal(9), oom: false }
                        } else {
                            Input::StartFailed {
                                service,
                                generation,
                                error: "was killed".to_owned(),
                                hopeless: false,
                            }
                        };
                        self.later(delay, input);
                    }
                }
                Effect::StartProbe { service, generation, probe } => {
                    if !self.probing.insert((service.clone(), generation, probe)) {
                        return Err(format!("{service} is probed twice"));
                    }
                    self.plan_probe(&service, generation, probe);
                }
                Effect::RunHook { service, generation, hook } => {
                    if let Some(run) = self.runs.get_mut(&service) {
                        run.hooks.insert(hook, false);
                    }
                    // Some hang.
                    if self.dice.percent(90.max(self.luck.hooks)) {
                        let delay = self.dice.millis(1, 8000);
                        let well = self.dice.percent(self.luck.hooks);
                        let result = if well { Ok(()) } else { Err("`x` exited with 1".to_owned()) };
                        self.later(delay, Input::HookEnded { service, generation, hook, result });
                    }
                }
                Effect::StopProbe { service, generation, probe } => {
                    self.probing.remove(&(service, generation, probe));
                }
            }
        }
        Ok(())
    }

    /// The runs of what a service is bound to, where it does not go without them.
    fn bound_to(&self, service: &ServiceName) -> BTreeMap<ServiceName, Generation> {
        let status = self.engine.status();
        let there = |on: &ServiceName| {
            let exited = status.iter().any(|s| s.service == *on && s.phase == Phase::Exited && s.ready);
            self.runs.get(on).is_some_and(|run| run.executed && run.step == Step::Main) || exited
        };
        let waits = &self.plan.services[service].waits;
        let bound = waits.iter().filter(|wait| wait.restart && there(&wait.on));
        bound.map(|wait| (wait.on.clone(), self.mains[&wait.on])).collect()
    }

    fn check_events(&mut self, outcome: &Outcome) -> Result<(), String> {
        for (service, event) in &outcome.events {
            match (service, event) {
                (Some(service), EventKind::Phase { phase, cause, retry_in_ms, .. }) => {
                    let before = self.phases.insert(service.clone(), *phase);
                    if before == Some(*phase)
                        && !matches!(phase, Phase::Waiting | Phase::Stopping | Phase::Failed)
                    {
                        return Err(format!("{service} is told to be {phase} twice"));
                    }
                    if cause.text.is_empty() {
                        return Err(format!("{service} is {phase} without a cause"));
                    }
                    if (*phase == Phase::Backoff) != retry_in_ms.is_some() {
                        return Err(format!("{service} is {phase} and is tried again in {retry_in_ms:?}"));
                    }
                }
                (None, EventKind::WorkspaceReady { .. } | EventKind::WorkspaceFailed { .. }) => {
                    self.answers += 1;
                }
                (Some(service), EventKind::Status { text }) => {
                    let last = self.words_at.insert(service.clone(), self.now);
                    if last.is_some_and(|last| self.now - last < Duration::from_secs(1)) {
                        return Err(format!("{service} says {text:?} too soon after its last words"));
                    }
                }
                (_, EventKind::Notice { .. }) => {}
                other => return Err(format!("nobody asked for {other:?}")),
            }
        }
        Ok(())
    }

    /// What the engine says of itself agrees with what it told and with what the host has.
    fn check_state(&mut self) -> Result<(), String> {
        for status in self.engine.status() {
            let service = &status.service;
            self.check_run(service, status.phase, status.status.as_ref())?;
            if self.phases[service] != status.phase {
                return Err(format!(
                    "{service} is {} and was told to be {}",
                    status.phase, self.phases[service]
                ));
            }
            if let Some(run) = self.runs.get(service)
                && status.phase.is_settled_down()
                && !run.forgotten
            {
                return Err(format!("{service} is {} and has {run:?}", status.phase));
            }
            let why = self.engine.why(service);
            if why.first().map(|link| &link.service) != Some(service) {
                return Err(format!("nobody knows why {service} is {}", status.phase));
            }
            let explained = match status.phase {
                Phase::Waiting => why.len() > 1,
                Phase::Failed if status.cause.reason == Reason::DependencyFailed => why.len() > 1,
                _ => true,
            };
            if !explained {
                return Err(format!("{service} is {} for nothing: {why:?}", status.phase));
            }
        }
        if self.answers > self.ups {
            return Err(format!("{} answers to {} requests", self.answers, self.ups));
        }
        Ok(())
    }

    /// What is promised of a run that goes on.
    fn check_run(
        &mut self,
        service: &ServiceName,
        phase: Phase,
        words: Option<&String>,
    ) -> Result<(), String> {
        let Some(run) = self.runs.get_mut(service) else {
            return match words {
                Some(words) => Err(format!("{service} says {words:?} and has no run")),
                None => Ok(()),
            };
        };
        if run.forgotten || run.step == Step::Build {
            return Ok(());
        }
        let plan = &self.plan.services[service];
        let works = matches!(phase, Phase::Running | Phase::Ready | Phase::Unhealthy);
        if words != run.status.as_ref() {
            return Err(format!("{service} says {words:?} and should {:?}", run.status));
        }
        let warm = plan.hooks.post_start.is_empty() || run.hooks.get(&Hook::PostStart) == Some(&true);
        if phase == Phase::Ready && !warm {
            return Err(format!("{service} is ready before its post_start: {run:?}"));
        }
        for role in [ProbeRole::Startup, ProbeRole::Ready] {
            let missing = match probe_of(plan, role) {
                Some(probe) if probe.kind == ProbeKind::Tcp { port: 80 } => !run.passed.contains(&role),
                Some(_) | None => false,
            };
            if phase == Phase::Ready && missing {
                return Err(format!("{service} is ready without {role:?}: {run:?}"));
            }
        }
        if phase == Phase::Ready && is_notify(plan.ready.as_ref()) && !run.said_ready {
            return Err(format!("{service} is ready and has not said so"));
        }
        if phase == Phase::Ready && run.fed.is_none() {
            run.fed = Some(self.now);
        }
        if let (Some(fed), Some(probe), true) = (run.fed, &plan.liveness, works)
            && probe.kind == ProbeKind::Notify
            && self.now > fed + probe.interval
        {
            return Err(format!("{service} lives although its watchdog heard nothing since {fed:?}"));
        }
        let over = |on: &ServiceName, generation: Generation| {
            self.mains[on] != generation || self.phases.get(on) == Some(&Phase::Backoff)
        };
        let replaced = run.with.iter().find(|(on, generation)| over(on, **generation));
        if let (Some((on, generation)), true) = (replaced, works || phase == Phase::Starting) {
            return Err(format!("{service} works on with the run {generation} of {on}, which was replaced"));
        }
        Ok(())
    }

    fn check_all_down(&self) -> Result<(), String> {
        if !self.engine.is_down() {
            return Err(format!("down did not end: {:?}", self.phases));
        }
        if let Some((service, run)) = self.runs.iter().find(|(_, run)| !run.forgotten) {
            return Err(format!("{service} is left over: {run:?}"));
        }
        if self.answers == 0 {
            return Err("nobody was told whether the workspace became ready".to_owned());
        }
        if let Some(deadline) = self.engine.next_deadline() {
            return Err(format!("something is to happen at {deadline:?} after the end"));
        }
        Ok(())
    }
}

/// With a host that works and people who only ask for it, everything comes up.
#[test]
fn with_luck_everything_becomes_ready() {
    for seed in 0..300 {
        let mut sim = Sim::new(seed, true);
        sim.luck = Luck {
            starts: 100,
            exits_well: 100,
            probes: 100,
            forgets: 0,
            lives_long: 100,
            hooks: 100,
            speaks: 100,
        };
        let result = sim
            .input(Input::Up { services: vec![] })
            .and_then(|()| sim.play_until(Duration::from_secs(1000)));
        let always_completes = sim.log.contains("WorkspaceReady");
        // A service that lives long never completes for those that wait for that.
        let waits_for_ever = sim.plan.services.values().any(|service| {
            service.waits.iter().any(|wait| {
                wait.condition == Condition::Completed
                    && sim.plan.services[&wait.on].kind == ServiceKind::Service
            })
        });
        assert!(result.is_ok() && always_completes != waits_for_ever, "seed {seed}: {result:?}\n{}", sim.log);
    }
}
