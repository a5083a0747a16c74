//! Random schedules against the engine: random workspaces, a host that answers late, fails and forgets,
//! people who change their minds.
//!
//! `SEEDS=100000 cargo test -p ws-core sim` runs more of them; `SEED=17` runs one and prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use ws_core::engine::{Effect, Engine, Generation, Input, Outcome, ProbeRole, Step, Tick};
use ws_core::plan::Plan;
use ws_model::{Condition, EventKind, ExitReason, Phase, RestartPolicy, ServiceKind, ServiceName};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    generation: Generation,
    step: Step,
    executed: bool,
    killed: bool,
    signalled: bool,
    /// The host will never tell of its end.
    forgotten: bool,
}

/// How well things go in one simulation, in percent.
struct Luck {
    starts: u64,
    exits_well: u64,
    probes: u64,
    forgets: u64,
    lives_long: u64,
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
    probing: BTreeSet<(ServiceName, Generation)>,
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
        if dice.percent(40) {
            one = one.tcp(80);
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
            let _ = write!(after, " {}{condition}{optional}", earlier.name);
        }
        services.push(one.after(&after));
    }
    services
}

impl Sim {
    fn new(seed: u64, logs: bool) -> Self {
        let mut dice = Dice(seed);
        let plan = world(workspace(&mut dice)).plan();
        let luck = Luck {
            starts: dice.choose(&[60, 95, 100]),
            exits_well: dice.choose(&[30, 70, 95]),
            probes: dice.choose(&[20, 70, 98]),
            forgets: dice.choose(&[0, 0, 0, 5]),
            lives_long: dice.choose(&[20, 60, 95]),
        };
        let mut log = String::new();
        for service in plan.services.values() {
            let waits: Vec<String> = service
                .waits
                .iter()
                .map(|w| format!("{} {}{}", w.on, w.condition.as_str(), if w.required { "" } else { "?" }))
                .collect();
            let _ = writeln!(
                log,
                "{} {:?} build={} probe={} restart={:?} max={:?} waits={waits:?}",
                service.name,
                service.kind,
                service.build.is_some(),
                service.ready.is_some(),
                service.restart.policy,
                service.restart.max,
            );
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
        let bound = self.now + Duration::from_secs(20 + 5) * u32::try_from(self.plan.services.len()).unwrap();
        self.play_until(bound)?;
        self.check_all_down()
    }

    fn request(&mut self) -> Input {
        let all: Vec<ServiceName> = self.plan.services.keys().cloned().collect();
        let share = self.dice.choose(&[0, 20, 50]);
        let services: Vec<ServiceName> = all.into_iter().filter(|_| self.dice.percent(share)).collect();
        match self.dice.below(10) {
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
                let run = *run;
                self.plan_end(&service, generation, run);
            }
            Input::StartFailed { service, generation, .. } | Input::Exited { service, generation, .. } => {
                if !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                if self.runs[service].forgotten {
                    return None;
                }
                let run = self.runs.remove(service);
                let well = matches!(&input, Input::Exited { exit, .. } if exit.is_success());
                if well && run.is_some_and(|run| run.step == Step::Main) {
                    self.completed.insert(service.clone());
                }
            }
            Input::Probed { service, generation, .. } => {
                let key = (service.clone(), *generation);
                if !self.probing.contains(&key) || !live(service, *generation, &self.runs) {
                    return self.dice.percent(20).then_some(input);
                }
                self.plan_probe(&key.0, key.1);
            }
            Input::Up { .. }
            | Input::Stop { .. }
            | Input::Restart { .. }
            | Input::Kill { .. }
            | Input::Down { .. }
            | Input::HostLost { .. }
            | Input::Add { .. }
            | Input::Remove { .. }
            | Input::Notified { .. }
            | Input::HookEnded { .. }
            | Input::Published { .. }
            | Input::Tick => {}
        }
        Some(input)
    }

    fn later(&mut self, delay: Duration, input: Input) {
        self.serial += 1;
        self.future.insert((self.now + delay, self.serial), input);
    }

    /// How a program that was executed will end by itself, if it does.
    fn plan_end(&mut self, service: &ServiceName, generation: Generation, run: Run) {
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

    fn plan_probe(&mut self, service: &ServiceName, generation: Generation) {
        let good = self.dice.percent(self.luck.probes);
        let result = if good { Ok("answered".to_owned()) } else { Err("refused".to_owned()) };
        let delay = self.dice.millis(100, 4000);
        self.later(delay, Input::Probed { service: service.clone(), generation, probe: ProbeRole::Ready, result });
    }

    /// One step, and everything that must hold after it.
    fn input(&mut self, input: Input) -> Result<(), String> {
        if self.logs {
            let _ = writeln!(self.log, "{:>9.3} {input:?}", self.now.as_secs_f64());
        }
        self.ups += usize::from(matches!(input, Input::Up { .. }));
        self.asked_down |= matches!(input, Input::Down { .. } | Input::HostLost { .. });
        let outcome = self.engine.step(input, self.now);
        if self.logs {
            self.write_down(&outcome);
        }
        self.check_effects(&outcome)?;
        self.carry_out(&outcome)?;
        self.check_events(&outcome)?;
        self.check_state()
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
                    self.check_reverse(service)?;
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
                Effect::StartProbe { service, generation, .. } => {
                    let run = self.live(service, *generation)?;
                    if !run.executed || self.plan.services[service].ready.is_none() {
                        return Err(format!("{service} is probed as {run:?}"));
                    }
                }
                Effect::RunHook { service, .. } => return Err(format!("{service} has no hooks")),
                Effect::StopProbe { service, generation, .. } => {
                    if !self.probing.contains(&(service.clone(), *generation)) {
                        return Err(format!("{service} is not probed any more, and was not"));
                    }
                }
            }
        }
        Ok(())
    }

    fn live(&self, service: &ServiceName, generation: Generation) -> Result<Run, String> {
        match self.runs.get(service) {
            Some(run) if run.generation == generation => Ok(*run),
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
            let runs = self.runs.get(&wait.on).is_some_and(|run| run.executed && run.step == Step::Main);
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
                // Killed for not being ready in time: it goes for another reason, and may come back.
                let its_own = cause.reason == ws_model::Reason::ReadyTimeout;
                if phase == Phase::Stopping && !its_own {
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
                    let run =
                        Run { generation, step, executed: false, killed: false, signalled: false, forgotten };
                    self.runs.insert(service.clone(), run);
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
                Effect::StartProbe { service, generation, .. } => {
                    if !self.probing.insert((service.clone(), generation)) {
                        return Err(format!("{service} is probed twice"));
                    }
                    self.plan_probe(&service, generation);
                }
                Effect::RunHook { .. } => {}
                Effect::StopProbe { service, generation, .. } => {
                    self.probing.remove(&(service, generation));
                }
            }
        }
        Ok(())
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
                (_, EventKind::Notice { .. }) => {}
                other => return Err(format!("nobody asked for {other:?}")),
            }
        }
        Ok(())
    }

    /// What the engine says of itself agrees with what it told and with what the host has.
    fn check_state(&self) -> Result<(), String> {
        for status in self.engine.status() {
            let service = &status.service;
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
                Phase::Failed if status.cause.reason == ws_model::Reason::DependencyFailed => why.len() > 1,
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
        sim.luck = Luck { starts: 100, exits_well: 100, probes: 100, forgets: 0, lives_long: 100 };
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
