//! Scenarios that are made up from a seed.

use std::time::Duration;

use ws_model::{Condition, Restart, RestartPolicy, ServiceKind, ServiceName};

use crate::dice::Dice;
use crate::scenario::{Habits, Happening, Scenario, Span, Unit, UnitProbe, UnitWait};

/// How long people and the host are restless.
const RESTLESS: Span = Span::millis(5000, 120_000);

/// How long it takes at most until everything has come to rest once all goes well.
const REST_WITHIN: Duration = Duration::from_secs(1200);

/// How long it takes at most until a plan is carried out that came before all was calm.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);

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
    places: u8,
    /// Whether services may be such as end by themselves: what is left of one then depends on when it was needed.
    ends: bool,
}

/// The scenario of a seed: one to twelve services, a host with its moods, people who change their minds; then
/// calm, in which everything must come to rest, and the end.
#[must_use]
pub fn scenario(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed).of("scenario", 0);
    let changes = dice.percent(60);
    let luck = Luck {
        starts: dice.choose(&[0, 0, 5, 40]),
        dies: dice.choose(&[0, 10, 40, 80]),
        bad: dice.choose(&[5, 30, 70]),
        probes: dice.choose(&[0, 2, 30, 80]),
        stubborn: dice.choose(&[0, 5, 30, 100]),
        undying: dice.choose(&[0, 0, 0, 5, 30]),
        hooks: dice.choose(&[0, 0, 10, 50]),
        talks: dice.choose(&[0, 0, 30, 100]),
        places: dice.choose(&[0, 0, 10, 50]),
        ends: !changes,
    };
    let services = services(&mut dice, luck);
    let plans = if changes { plans(&mut dice, luck, &services) } else { Vec::new() };
    let timeline = timeline(&mut dice, &services, &plans);
    Scenario {
        seed,
        late: Duration::from_millis(dice.choose(&[0, 0, 5, 200])),
        stale: dice.choose(&[0, 5, 30]),
        services,
        plans,
        timeline,
    }
}

/// Up to four further plans: of each one the next differs in a few things.
fn plans(dice: &mut Dice, luck: Luck, first: &[Unit]) -> Vec<Vec<Unit>> {
    let mut plans: Vec<Vec<Unit>> = Vec::new();
    let count = 1 + dice.below(4);
    let mut number = 100;
    for _ in 0..count {
        let mut units = plans.last().cloned().unwrap_or_else(|| first.to_vec());
        for _ in 0..=dice.below(3) {
            edit(dice, luck, &mut units, &mut number);
        }
        plans.push(units);
    }
    plans
}

/// What somebody changes in a file.
fn edit(dice: &mut Dice, luck: Luck, units: &mut Vec<Unit>, number: &mut u32) {
    let what = dice.below(14);
    if units.is_empty() || what < 2 {
        *number += 1;
        let unit = unit(dice, luck, name_of(&format!("s{number}")), units);
        units.push(unit);
        return;
    }
    let at = usize::try_from(dice.below(units.len() as u64)).unwrap_or(0);
    if what < 4 {
        let gone = units.remove(at).name;
        for unit in units {
            unit.waits.retain(|wait| wait.on != gone);
            unit.uses.retain(|build| *build != gone);
        }
        return;
    }
    let earlier = units[..at].to_vec();
    let unit = &mut units[at];
    let probed = unit.kind == ServiceKind::Service;
    match what {
        4 | 5 => unit.version += 1,
        6 => unit.view += 1,
        7 => unit.limit += 1,
        8 if probed => unit.ready = dice.percent(70).then(|| probe(dice)),
        9 if probed => unit.startup = dice.percent(50).then(|| probe(dice)),
        10 if probed => unit.live = dice.percent(70).then(|| probe(dice)),
        11 => unit.grace = Duration::from_secs(dice.choose(&[0, 1, 10])),
        12 if probed => unit.overlap = !unit.overlap,
        13 => unit.port = unit.port.xor(Some(port(dice))),
        _ => {
            unit.waits.clear();
            unit.uses.clear();
            waits(dice, luck, unit, &earlier);
        }
    }
}

fn port(dice: &mut Dice) -> u16 {
    8000 + u16::try_from(dice.below(2)).unwrap_or(0)
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
            let replica_of = Some((unit.name.clone(), number));
            units.push(Unit { name: copy, replica_of, port: None, ..unit.clone() });
        }
    }
    units
}

fn name_of(text: &str) -> ServiceName {
    ServiceName::new(text).expect("it is a name")
}

fn unit(dice: &mut Dice, luck: Luck, name: ServiceName, earlier: &[Unit]) -> Unit {
    let kind = match dice.below(20) {
        0..=4 => ServiceKind::Task,
        5 | 6 => ServiceKind::Build,
        _ => ServiceKind::Service,
    };
    let mut unit = Unit::new(name, kind);
    unit.habits = habits(dice, luck);
    if kind == ServiceKind::Build {
        unit.grace = Duration::from_secs(2);
        waits(dice, luck, &mut unit, earlier);
        return unit;
    }
    unit.overlap = kind == ServiceKind::Service && dice.percent(30);
    unit.port = dice.percent(10).then(|| port(dice));
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
    waits(dice, luck, &mut unit, earlier);
    unit
}

/// What it waits for of what is there. A build waits for builds and tasks only.
fn waits(dice: &mut Dice, luck: Luck, unit: &mut Unit, earlier: &[Unit]) {
    for earlier in earlier {
        if !dice.percent(if unit.waits.len() < 2 { 35 } else { 10 }) {
            continue;
        }
        match (unit.kind, earlier.kind) {
            (ServiceKind::Service | ServiceKind::Task, ServiceKind::Build) => {
                unit.use_build(earlier.name.clone());
            }
            (ServiceKind::Build, ServiceKind::Service) => {}
            (ServiceKind::Build, ServiceKind::Task | ServiceKind::Build) => {
                unit.waits.push(UnitWait::for_build(earlier.name.clone()));
            }
            (ServiceKind::Service | ServiceKind::Task, ServiceKind::Service | ServiceKind::Task) => {
                unit.waits.push(wait(dice, luck, earlier));
            }
        }
    }
}

fn wait(dice: &mut Dice, luck: Luck, on: &Unit) -> UnitWait {
    let may_complete = luck.ends && on.restart.policy != RestartPolicy::Always;
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
        place_fails: share(luck.places),
        update_fails: share(luck.places),
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
    habits.place = up_to(&[1, 50, 4000]);
    habits
}

fn timeline(dice: &mut Dice, services: &[Unit], plans: &[Vec<Unit>]) -> Vec<(Duration, Happening)> {
    let end = dice.time(RESTLESS);
    let most = if plans.is_empty() { 9 } else { 15 };
    let mut moments: Vec<Duration> =
        (0..dice.below(most)).map(|_| dice.time(Span { from: Duration::ZERO, to: end })).collect();
    moments.sort_unstable();
    let share = dice.choose(&[0, 20, 50]);
    let mut timeline = Vec::new();
    let first = if dice.percent(80) { Vec::new() } else { some(dice, services, 50) };
    timeline.push((Duration::ZERO, Happening::Up(first)));
    // Most stacks live on until all is calm.
    let ends_early = dice.percent(15);
    for at in moments {
        let few = some(dice, services, share);
        let others = plans.len() as u64 + 1;
        let happening = match dice.below(30) {
            20..=22 => Happening::Changed(dice_unit(dice, services)),
            23.. if others > 1 => Happening::Adopt(usize::try_from(dice.below(others)).unwrap_or(0)),
            23.. => Happening::Changed(dice_unit(dice, services)),
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
    if !plans.is_empty() {
        // What could not be carried out can be now; and who asks for everything gets it.
        let adopted = |(_, what): &(Duration, Happening)| {
            if let Happening::Adopt(number) = what { Some(*number) } else { None }
        };
        let last = timeline.iter().rev().find_map(adopted);
        timeline.push((end + ANSWERED_WITHIN, Happening::Adopt(last.unwrap_or(0))));
        timeline.push((end + ANSWERED_WITHIN * 2, Happening::Up(Vec::new())));
    }
    timeline.push((settled, Happening::Settled));
    if !plans.is_empty() {
        timeline.push((settled, Happening::Fresh));
    }
    // What is down must be within reach: grace, its extension and a kill without an answer for each in turn.
    let mut down = settled + Duration::from_secs(1);
    timeline.push((down, Happening::Down { now: dice.percent(10) }));
    if dice.percent(20) {
        down += dice.time(Span::millis(0, 5000));
        timeline.push((down, Happening::Down { now: true }));
    }
    let all = services.iter().chain(plans.iter().flatten());
    let each: Duration = all.map(|unit| unit.grace + Duration::from_secs(40)).sum();
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
