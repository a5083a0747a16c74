//! Makes a scenario that breaks something smaller, for as long as it still breaks the same.
//!
//! Greedy, and over and over until nothing can be taken away any more: as everything that is up to chance belongs to
//! its thing, what is left goes on as before, and most of what does not matter goes at the first try.

use std::collections::BTreeSet;
use std::time::Duration;

use ws_model::{ServiceKind, ServiceName};

use crate::oracle::Invariant;
use crate::play;
use crate::scenario::{Habits, Happening, Scenario, Unit};

/// The smallest scenario that was found which breaks the same invariant.
#[must_use]
pub fn smallest(scenario: &Scenario, invariant: Invariant) -> Scenario {
    let breaks = |scenario: &Scenario| {
        play::play(scenario, false).broken.is_some_and(|(_, broken)| broken.invariant == invariant)
    };
    let mut best = scenario.clone();
    loop {
        let smaller = candidates(&best).into_iter().find(|smaller| *smaller != best && breaks(smaller));
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// Everything that is a step smaller, the largest steps first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    for at in (0..scenario.plans.len()).rev() {
        all.push(without_plan(scenario, at));
    }
    for name in names(scenario) {
        all.push(without(scenario, &name));
    }
    for at in (0..scenario.timeline.len()).rev() {
        // Without calm there is no rest to be expected.
        let rests = |(_, what): &(Duration, Happening)| matches!(what, Happening::Settled | Happening::Fresh);
        if scenario.timeline[at].1 == Happening::Calm && scenario.timeline[at..].iter().any(rests) {
            continue;
        }
        // And without asking for everything nothing is as after that.
        let asks = matches!(scenario.timeline[at].1, Happening::Up(_) | Happening::Adopt(_));
        let fresh = scenario.timeline[at..].iter().any(|(_, what)| *what == Happening::Fresh);
        if asks && fresh && is_last_of_its_kind(scenario, at) {
            continue;
        }
        let mut smaller = scenario.clone();
        smaller.timeline.remove(at);
        all.push(smaller);
    }
    for at in 0..scenario.timeline.len() {
        for fewer in fewer_names(&scenario.timeline[at].1) {
            let mut smaller = scenario.clone();
            smaller.timeline[at].1 = fewer;
            all.push(smaller);
        }
    }
    all.push(Scenario { late: Duration::ZERO, ..scenario.clone() });
    all.push(Scenario { stale: 0, ..scenario.clone() });
    for name in names(scenario) {
        // In all plans at once, so that it is no difference between them.
        for change in 0..simpler(&Unit::new(name.clone(), ServiceKind::Service)).len() {
            all.push(each_unit(scenario, |unit| {
                if unit.name == name {
                    *unit = simpler(unit).swap_remove(change);
                }
            }));
        }
        let most = scenario.services.iter().chain(scenario.plans.iter().flatten());
        let most = most.filter(|unit| unit.name == name).map(|unit| unit.waits.len()).max().unwrap_or(0);
        for at in 0..most {
            all.push(each_unit(scenario, |unit| {
                if unit.name == name && at < unit.waits.len() {
                    let wait = unit.waits.remove(at);
                    unit.uses.retain(|build| *build != wait.on);
                }
            }));
            all.push(each_unit(scenario, |unit| {
                if let Some(wait) = unit.waits.get_mut(at).filter(|_| unit.name == name) {
                    wait.restart = false;
                    wait.required = true;
                }
            }));
        }
    }
    for at in 0..scenario.timeline.len() {
        let rounded = Duration::from_secs(scenario.timeline[at].0.as_secs());
        if at.checked_sub(1).is_none_or(|before| scenario.timeline[before].0 <= rounded) {
            let mut smaller = scenario.clone();
            smaller.timeline[at].0 = rounded;
            all.push(smaller);
        }
    }
    all
}

/// Whether nothing like what happens there comes later.
fn is_last_of_its_kind(scenario: &Scenario, at: usize) -> bool {
    let kind = std::mem::discriminant(&scenario.timeline[at].1);
    !scenario.timeline[at + 1..].iter().any(|(_, later)| std::mem::discriminant(later) == kind)
}

/// Every name of a service.
fn names(scenario: &Scenario) -> BTreeSet<ServiceName> {
    let units = scenario.services.iter().chain(scenario.plans.iter().flatten());
    units.map(|unit| unit.name.clone()).collect()
}

fn each_unit(scenario: &Scenario, change: impl Fn(&mut Unit)) -> Scenario {
    let mut smaller = scenario.clone();
    smaller.services.iter_mut().chain(smaller.plans.iter_mut().flatten()).for_each(change);
    smaller
}

/// Without a plan, and where it is adopted.
fn without_plan(scenario: &Scenario, at: usize) -> Scenario {
    let mut smaller = scenario.clone();
    smaller.plans.remove(at);
    smaller.timeline.retain_mut(|(_, happening)| {
        if let Happening::Adopt(number) = happening {
            if *number == at + 1 {
                return false;
            }
            *number -= usize::from(*number > at + 1);
        }
        true
    });
    smaller
}

/// Without a service, and everything that names it.
fn without(scenario: &Scenario, name: &ServiceName) -> Scenario {
    let mut smaller = scenario.clone();
    for services in [&mut smaller.services].into_iter().chain(&mut smaller.plans) {
        services.retain(|unit| unit.name != *name);
        for unit in services {
            unit.waits.retain(|wait| wait.on != *name);
            unit.uses.retain(|build| build != name);
        }
    }
    smaller.timeline.retain_mut(|(_, happening)| match happening {
        Happening::Up(names)
        | Happening::Stop(names)
        | Happening::Restart(names)
        | Happening::Kill(names) => {
            let named = !names.is_empty();
            names.retain(|other| other != name);
            // Without a name it would mean all.
            !(named && names.is_empty())
        }
        Happening::Run(of)
        | Happening::Changed(of)
        | Happening::Exit(of, ..)
        | Happening::Probe(of, ..)
        | Happening::Notify(of, _) => of != name,
        Happening::Down { .. }
        | Happening::HostLost
        | Happening::Adopt(_)
        | Happening::Calm
        | Happening::Settled
        | Happening::Fresh
        | Happening::End => true,
    });
    smaller
}

fn fewer_names(happening: &Happening) -> Vec<Happening> {
    let (names, make): (_, fn(Vec<ServiceName>) -> Happening) = match happening {
        Happening::Up(names) => (names, Happening::Up),
        Happening::Stop(names) => (names, Happening::Stop),
        Happening::Restart(names) => (names, Happening::Restart),
        Happening::Kill(names) => (names, Happening::Kill),
        Happening::Down { .. }
        | Happening::Run(_)
        | Happening::Exit(..)
        | Happening::Probe(..)
        | Happening::Notify(..)
        | Happening::HostLost
        | Happening::Adopt(_)
        | Happening::Changed(_)
        | Happening::Calm
        | Happening::Settled
        | Happening::Fresh
        | Happening::End => return Vec::new(),
    };
    if names.len() < 2 {
        return Vec::new();
    }
    let without = |at: usize| {
        let mut fewer = names.clone();
        fewer.remove(at);
        make(fewer)
    };
    (0..names.len()).map(without).collect()
}

/// A service with one thing less to it.
fn simpler(unit: &Unit) -> Vec<Unit> {
    let plain = Unit::new(unit.name.clone(), unit.kind);
    let mut all = vec![
        Unit { habits: Habits::default(), ..unit.clone() },
        Unit { version: 0, ..unit.clone() },
        Unit { view: 0, ..unit.clone() },
        Unit { limit: 0, ..unit.clone() },
        Unit { port: None, ..unit.clone() },
        Unit { overlap: false, ..unit.clone() },
        Unit { startup: None, ..unit.clone() },
        Unit { ready: None, ..unit.clone() },
        Unit { live: None, ..unit.clone() },
        Unit { post_start: None, ..unit.clone() },
        Unit { pre_stop: None, ..unit.clone() },
        Unit { stop_command: false, ..unit.clone() },
        Unit { grace: plain.grace, ..unit.clone() },
        Unit { restart: plain.restart.clone(), ..unit.clone() },
        Unit { success: Vec::new(), ..unit.clone() },
        Unit { replica_of: None, ..unit.clone() },
    ];
    let habits = &unit.habits;
    let good = Habits::default();
    let better = [
        Habits { start: good.start, ..habits.clone() },
        Habits { start_fails: 0, hopeless: 0, ..habits.clone() },
        Habits { hopeless: 0, ..habits.clone() },
        Habits { life: good.life, ..habits.clone() },
        Habits { dies: 0, ..habits.clone() },
        Habits { ends_badly: 0, oom: 0, ..habits.clone() },
        Habits { oom: 0, ..habits.clone() },
        Habits { stops: good.stops, ..habits.clone() },
        Habits { deaf: 0, ..habits.clone() },
        Habits { kill: good.kill, ..habits.clone() },
        Habits { undying: 0, ..habits.clone() },
        Habits { pace: good.pace, ..habits.clone() },
        Habits { probe_fails: 0, ..habits.clone() },
        Habits { hook: good.hook, hook_fails: 0, hook_hangs: 0, ..habits.clone() },
        Habits { talks: 0, ..habits.clone() },
        Habits { place: good.place, ..habits.clone() },
        Habits { place_fails: 0, ..habits.clone() },
        Habits { update_fails: 0, ..habits.clone() },
    ];
    all.extend(better.map(|habits| Unit { habits, ..unit.clone() }));
    all
}
