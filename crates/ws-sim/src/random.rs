//! Scenarios that are made up from a seed.

use std::time::Duration;

use ws_model::{Condition, Restart, RestartPolicy, ServiceKind, ServiceName};

use crate::dice::Dice;
use crate::scenario::{Habits, Happening, Scenario, Span, Unit, UnitProbe, UnitWait};

/// How long people and the host are restless.
const RESTLESS: Span = Span::millis(5000, 120_000);

/// How long it takes at most until everything has come to rest once all goes well.
const REST_WITHIN: Duration = Duration::from_secs(1200);

/// How well things go in a scenario, in percent of what goes wrong.
#[derive(Debug, Clone, Copy)]
struct Luck {
    starts: u8,
    dies: u8,
    bad: u8,
    probes: u8,
    stubborn: u8,
    undying: u8,
    hooks: u8,
    talks: u8,
}

/// The scenario of a seed: one to twelve services, a host with its moods, people who change their minds; then
/// calm, in which everything must come to rest, and the end.
#[must_use]
pub fn scenario(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed).of("scenario", 0);
    let luck = Luck {
        starts: dice.choose(&[0, 0, 5, 40]),
        dies: dice.choose(&[0, 10, 40, 80]),
        bad: dice.choose(&[5, 30, 70]),
        probes: dice.choose(&[0, 2, 30, 80]),
        stubborn: dice.choose(&[0, 5, 30, 100]),
        undying: dice.choose(&[0, 0, 0, 5, 30]),
        hooks: dice.choose(&[0, 0, 10, 50]),
        talks: dice.choose(&[0, 0, 30, 100]),
    };
    let services = services(&mut dice, luck);
    let timeline = timeline(&mut dice, &services);
    Scenario {
        seed,
        late: Duration::from_millis(dice.choose(&[0, 0, 5, 200])),
        stale: dice.choose(&[0, 5, 30]),
        services,
        timeline,
    }
}

fn services(dice: &mut Dice, luck: Luck) -> Vec<Unit> {
    let most = dice.choose(&[2, 4, 6, 12]);
    let count = 1 + dice.below(most);
    let mut units: Vec<Unit> = Vec::new();
    let mut number = 0;
    while (units.len() as u64) < count {
        let name = format!("s{number}");
        number += 1;
        let copies = if dice.percent(10) { 1 + dice.below(3) } else { 0 };
        let unit = unit(dice, luck, name_of(&name), &units);
        if copies == 0 {
            units.push(unit);
            continue;
        }
        for replica in 1..=copies {
            let copy = name_of(&format!("{name}-{replica}"));
            let number = u32::try_from(replica).unwrap_or(1);
            units.push(Unit { name: copy, replica_of: Some((unit.name.clone(), number)), ..unit.clone() });
        }
    }
    units
}

fn name_of(text: &str) -> ServiceName {
    ServiceName::new(text).expect("it is a name")
}

fn unit(dice: &mut Dice, luck: Luck, name: ServiceName, earlier: &[Unit]) -> Unit {
    let kind = if dice.percent(25) { ServiceKind::Task } else { ServiceKind::Service };
    let mut unit = Unit::new(name, kind);
    unit.build = dice.percent(15);
    unit.startup = dice.percent(15).then(|| probe(dice));
    unit.ready = dice.percent(45).then(|| probe(dice));
    unit.live = dice.percent(25).then(|| probe(dice));
    let timeout = |dice: &mut Dice| dice.time(Span::millis(500, 20_000));
    unit.post_start = dice.percent(15).then(|| timeout(dice));
    unit.pre_stop = dice.percent(15).then(|| timeout(dice));
    unit.stop_command = dice.percent(15);
    unit.grace = Duration::from_secs(dice.choose(&[0, 1, 10]));
    if dice.percent(60) {
        let from = dice.time(Span::millis(10, 1000));
        unit.restart = Restart {
            policy: dice.choose(&[RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::Always]),
            max: dice.choose(&[None, Some(0), Some(1), Some(3), Some(5)]),
            backoff_min: from,
            backoff_max: from * u32::try_from(1 + dice.below(40)).unwrap_or(1),
        };
    }
    if dice.percent(20) {
        unit.success = vec![dice.choose(&[1, 2, 137, 143])];
    }
    for earlier in earlier {
        if dice.percent(if unit.waits.len() < 2 { 35 } else { 10 }) {
            unit.waits.push(wait(dice, earlier));
        }
    }
    unit.habits = habits(dice, luck);
    unit
}

fn wait(dice: &mut Dice, on: &Unit) -> UnitWait {
    let may_complete = on.kind == ServiceKind::Task || on.restart.policy != RestartPolicy::Always;
    let condition = match (on.kind, dice.below(8)) {
        (_, 0..=1) => Condition::Started,
        (ServiceKind::Task, 2..=5) => Condition::Completed,
        (ServiceKind::Service, 2) if may_complete => Condition::Completed,
        (ServiceKind::Task | ServiceKind::Build | ServiceKind::Service, _) => Condition::Ready,
    };
    UnitWait { on: on.name.clone(), condition, required: !dice.percent(20), restart: dice.percent(25) }
}

fn probe(dice: &mut Dice) -> UnitProbe {
    UnitProbe {
        notify: dice.percent(25),
        interval: Duration::from_secs(5 + dice.below(15)),
        within: dice.time(Span::millis(1000, 60_000)),
        failures: dice.choose(&[1, 2, 3]),
    }
}

fn habits(dice: &mut Dice, luck: Luck) -> Habits {
    // Some services have nothing of the workspace's luck.
    let mut share = |percent: u8| if dice.percent(60) { percent } else { 0 };
    let mut habits = Habits {
        start_fails: share(luck.starts),
        hopeless: share(50),
        dies: share(luck.dies),
        ends_badly: share(luck.bad),
        oom: share(20),
        deaf: share(luck.stubborn),
        undying: share(luck.undying),
        probe_fails: share(luck.probes),
        hook_fails: share(luck.hooks),
        hook_hangs: share(luck.hooks / 2),
        talks: share(luck.talks),
        ..Habits::default()
    };
    let mut up_to = |most: &[u64]| {
        let most = dice.choose(most);
        Span::millis(1, most.max(1))
    };
    habits.start = up_to(&[1, 50, 3000]);
    habits.life = up_to(&[1, 3000, 40_000]);
    habits.stops = up_to(&[1, 200, 12_000]);
    habits.kill = up_to(&[1, 200, 9000]);
    habits.pace = Span { from: Duration::from_millis(200), ..up_to(&[300, 3000, 10_000]) };
    habits.hook = up_to(&[1, 1000, 15_000]);
    habits
}

fn timeline(dice: &mut Dice, services: &[Unit]) -> Vec<(Duration, Happening)> {
    let end = dice.time(RESTLESS);
    let mut moments: Vec<Duration> =
        (0..dice.below(9)).map(|_| dice.time(Span { from: Duration::ZERO, to: end })).collect();
    moments.sort_unstable();
    let share = dice.choose(&[0, 20, 50]);
    let mut timeline = Vec::new();
    let first = if dice.percent(80) { Vec::new() } else { some(dice, services, 50) };
    timeline.push((Duration::ZERO, Happening::Up(first)));
    // Most stacks live on until all is calm.
    let ends_early = dice.percent(15);
    for at in moments {
        let few = some(dice, services, share);
        let happening = match dice.below(20) {
            0..=5 => Happening::Up(few),
            6..=8 => Happening::Stop(few),
            9..=13 => Happening::Restart(few),
            14 => Happening::Kill(few),
            15 | 16 => Happening::Run(dice_unit(dice, services)),
            17 if ends_early => Happening::Down { now: dice.percent(30) },
            18 if ends_early => Happening::HostLost,
            _ => Happening::Restart(vec![dice_unit(dice, services)]),
        };
        timeline.push((at, happening));
    }
    let settled = end + REST_WITHIN;
    timeline.push((end, Happening::Calm));
    timeline.push((settled, Happening::Settled));
    // What is down must be within reach: grace, its extension and a kill without an answer for each in turn.
    let mut down = settled + Duration::from_secs(1);
    timeline.push((down, Happening::Down { now: dice.percent(10) }));
    if dice.percent(20) {
        down += dice.time(Span::millis(0, 5000));
        timeline.push((down, Happening::Down { now: true }));
    }
    let each: Duration = services.iter().map(|unit| unit.grace + Duration::from_secs(40)).sum();
    timeline.push((down + each, Happening::End));
    timeline
}

fn dice_unit(dice: &mut Dice, services: &[Unit]) -> ServiceName {
    let at = usize::try_from(dice.below(services.len() as u64)).unwrap_or(0);
    services[at].name.clone()
}

fn some(dice: &mut Dice, services: &[Unit], share: u8) -> Vec<ServiceName> {
    services.iter().filter(|_| dice.percent(share)).map(|unit| unit.name.clone()).collect()
}
