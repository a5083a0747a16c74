//! The policy at work: what a host saw of a service, and what follows from it.
//!
//! [`judge`] weighs one [`Observation`] by the rules of the service and by what came before it ([`History`]). It decides
//! what is done and what is told; the engine carries that out. Nothing here grows with what a service does: what
//! repeats is counted and told now and then, and what is new too often is put together.

pub mod learn;
pub mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ws_model::policy::host_and_port;
use ws_model::{Evidence, Mechanism, Offender, PolicyAction, ServiceName, ViolationClass};

use crate::engine::{Generation, Tick};
use crate::plan::wildcard;
pub use crate::plan::{CpuWindow, Decoy, PolicyPlan, RulePlan, RuleSource};
use crate::text::duration;

/// How many kinds of violations of a service are told one by one; those beyond are put together by class.
const KINDS: usize = 64;

/// The first pause before a kind that repeats is told again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause; and after so long without one it is as if it had never been.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many moments are remembered to count violations within a time.
const MOMENTS: usize = 256;

/// Something that a host saw.
///
/// A host tells what the plan of the service ([`PolicyPlan::detects`]) wants to be looked for, and decides nothing: what
/// is accepted, what counts together and what is done is decided here. It may put the same things together in one
/// observation, and must where there are many: no more than some hundred a second of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Who did it: the unit by whose namespace, control group or interface it came, never what a packet or a
    /// process says of itself.
    pub service: ServiceName,
    /// Which run, where that is known.
    pub generation: Option<Generation>,
    /// What was tried. The name of an address can be left out: the engine knows those of the plan.
    pub evidence: Evidence,
    /// By what it was seen.
    pub mechanism: Mechanism,
    /// Which process, where the kernel tells.
    pub process: Option<Offender>,
    /// How many of the same there were; 0 where it is only about what was lost.
    pub count: u64,
    /// How many more there were of this class that nothing is known about, because there were too many.
    pub lost: u64,
    /// Whether it is certain that it was this service. Else it is told, and nothing else is done.
    pub certain: bool,
}

/// What there is of the run that an observation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It goes on.
    Runs,
    /// It was the last one and is over.
    Over,
    /// It is being killed for a violation, or was.
    Condemned,
    /// It is an earlier one.
    Earlier,
}

/// What follows from an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is done. [`PolicyAction::Off`]: nothing, and nothing is told.
    pub action: PolicyAction,
    /// What is told now; what is not is counted and told later ([`History::overdue`]).
    pub told: Option<Told>,
}

/// What is told of violations of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was tried, the last time.
    pub evidence: Evidence,
    /// By what it was seen.
    pub mechanism: Mechanism,
    /// Which process.
    pub process: Option<Offender>,
    /// Which run.
    pub generation: Option<Generation>,
    /// What is done.
    pub action: PolicyAction,
    /// How many, since it was told last.
    pub count: u64,
    /// How many more there were that nothing is known about.
    pub lost: u64,
    /// Since when.
    pub over: Duration,
    /// The rule.
    pub rule: RuleSource,
    /// Why less is done than the rule says.
    pub unless: Option<String>,
}

/// What a service did before, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    kinds: BTreeMap<Evidence, Kind>,
    /// What there was no room for.
    others: BTreeMap<ViolationClass, Kind>,
    counts: BTreeMap<ViolationClass, Count>,
    /// Of which run it was told that it needed too much memory.
    memory_of: Option<Generation>,
}

/// Violations of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// The last one.
    last: Told,
    /// How many were not told yet, since when, and how many of which nothing is known.
    count: u64,
    lost: u64,
    since: Tick,
    seen_at: Tick,
    told_at: Tick,
    pause: Duration,
}

/// Violations of a class in a run, for its threshold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Count {
    of: Option<Generation>,
    total: u64,
    moments: VecDeque<(Tick, u64)>,
}

impl Count {
    /// Counts, and says how many there are within that time.
    fn add(&mut self, of: Option<Generation>, count: u64, within: Option<Duration>, now: Tick) -> u64 {
        if of.is_some() && of != self.of {
            *self = Self { of, ..Self::default() };
        }
        self.total = self.total.saturating_add(count);
        let Some(within) = within else { return self.total };
        while self.moments.front().is_some_and(|(at, _)| *at + within < now) {
            self.moments.pop_front();
        }
        self.moments.push_back((now, count));
        if self.moments.len() > MOMENTS {
            // As if the second had been with the first: forgotten rather too early than too late.
            if let (Some((at, first)), Some((_, second))) =
                (self.moments.pop_front(), self.moments.pop_front())
            {
                self.moments.push_front((at, first.saturating_add(second)));
            }
        }
        self.moments.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// Weighs an observation. `now` never goes back.
#[must_use]
pub fn judge(plan: &PolicyPlan, history: &mut History, seen: &Observation, life: Life, now: Tick) -> Verdict {
    const NOTHING: Verdict = Verdict { action: PolicyAction::Off, told: None };
    let class = seen.evidence.class();
    let Some(rule) = rule_for(plan, &seen.evidence) else { return NOTHING };
    if rule.action == PolicyAction::Off || plan.accepts(&seen.evidence) {
        return NOTHING;
    }
    if let Evidence::Process { executable } = &seen.evidence
        && plan.may_execute(executable.as_ref())
    {
        return NOTHING;
    }
    // It was told how its run ended; that the limit was the reason is no news.
    if class == ViolationClass::Memory {
        let again = history.memory_of.is_some() && history.memory_of == seen.generation;
        if again && life != Life::Runs && seen.mechanism != Mechanism::Exit {
            return NOTHING;
        }
    }

    let (action, unless) = if rule.action == PolicyAction::Report {
        (PolicyAction::Report, None)
    } else if !seen.certain {
        (PolicyAction::Report, Some(format!("it is not certain that it was {}", seen.service)))
    } else {
        let counted = history.counts.entry(class).or_default();
        let counted = counted.add(seen.generation, seen.count, rule.within, now);
        if counted < u64::from(rule.after) {
            let within = rule.within.map(|it| format!(" within {}", duration(it))).unwrap_or_default();
            let text = format!("{} from the {} on{within}, this is {counted}", rule.action, nth(rule.after));
            (PolicyAction::Report, Some(text))
        } else {
            match (life, rule.action) {
                (Life::Runs, action) => (action, None),
                (Life::Over, PolicyAction::Kill | PolicyAction::Stop) => (rule.action, None),
                (Life::Over, PolicyAction::Restart) if seen.mechanism == Mechanism::Exit => {
                    (rule.action, None)
                }
                (Life::Over | Life::Earlier, _) => {
                    (PolicyAction::Report, Some("that run of it is over".to_owned()))
                }
                (Life::Condemned, _) => (PolicyAction::Report, None),
            }
        }
    };
    if action > PolicyAction::Report {
        // The next run begins with nothing on it.
        history.counts.remove(&class);
    }
    let told = Told {
        evidence: seen.evidence.clone(),
        mechanism: seen.mechanism,
        process: seen.process.clone(),
        generation: seen.generation,
        action,
        count: seen.count,
        lost: seen.lost,
        over: Duration::ZERO,
        rule: rule.from.clone(),
        unless,
    };
    // It was seen by its control group already: what is new is only how the run ended.
    let known = class == ViolationClass::Memory
        && seen.mechanism == Mechanism::Exit
        && history.memory_of.is_some()
        && history.memory_of == seen.generation;
    if class == ViolationClass::Memory {
        history.memory_of = seen.generation;
    }
    let told = if known && action <= PolicyAction::Restart { None } else { history.fold(told, now) };
    Verdict { action, told }
}

fn rule_for<'p>(plan: &'p PolicyPlan, evidence: &Evidence) -> Option<&'p RulePlan> {
    if let Evidence::Decoy { path, .. } = evidence
        && let Some(decoy) = plan.decoys.iter().find(|decoy| decoy.path.as_os_str() == path.as_str())
    {
        return Some(&decoy.rule);
    }
    plan.rules.get(&evidence.class())
}

/// `2nd`
fn nth(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, 1..=9 | 21..) => "st",
        (2, 1..=9 | 21..) => "nd",
        (3, 1..=9 | 21..) => "rd",
        (_, _) => "th",
    };
    format!("{number}{ending}")
}

impl PolicyPlan {
    /// Whether the file says that it is not told.
    #[must_use]
    pub fn accepts(&self, evidence: &Evidence) -> bool {
        self.accept.iter().any(|(accept, _)| {
            accept.class == evidence.class() && accept.to.as_ref().is_none_or(|to| is_about(evidence, to))
        })
    }
}

/// Whether evidence is about what an [`Accept`](ws_model::Accept) names.
fn is_about(evidence: &Evidence, to: &str) -> bool {
    match evidence {
        Evidence::Network { destination, port, name, lookup, .. } => {
            if lookup.as_deref().is_some_and(|lookup| wildcard(to, lookup)) {
                return true;
            }
            let (host, wanted) = host_and_port(to);
            let same_port = match wanted {
                None | Some("*") => true,
                Some(wanted) => port.is_some_and(|port| wanted.parse() == Ok(port)),
            };
            let same_host = host == "*"
                || name.as_deref() == Some(host)
                || destination.is_some_and(|address| is_within(address, host));
            same_port && same_host
        }
        Evidence::Syscall { name, detail, .. } => {
            wildcard(to, name) || detail.as_ref().is_some_and(|detail| to == format!("{name} {detail}"))
        }
        Evidence::Decoy { path, .. } | Evidence::File { path, .. } => wildcard(to, path),
        Evidence::Process { executable } => wildcard(to, executable),
        Evidence::Memory { .. } | Evidence::Pids { .. } | Evidence::Cpu { .. } | Evidence::Logs { .. } => {
            false
        }
    }
}

/// Whether an address is the one, or in the network, that is written there.
fn is_within(address: IpAddr, text: &str) -> bool {
    let Some((network, bits)) = text.split_once('/') else { return text.parse() == Ok(address) };
    match (address, network.parse::<Ipv4Addr>(), bits.parse::<u32>()) {
        (IpAddr::V4(address), Ok(network), Ok(bits @ 0..=32)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (_, _, _) => false,
    }
}

impl History {
    /// Counts it with those of its kind; says what is told now.
    fn fold(&mut self, seen: Told, now: Tick) -> Option<Told> {
        let key = key_of(&seen.evidence);
        if !self.kinds.contains_key(&key) && self.kinds.len() >= KINDS {
            self.kinds.retain(|_, kind| kind.is_pending() || now < kind.seen_at + LONGEST_PAUSE);
        }
        let full = self.kinds.len() >= KINDS && !self.kinds.contains_key(&key);
        let class = seen.evidence.class();
        let kind = if full { self.others.get_mut(&class) } else { self.kinds.get_mut(&key) };
        let Some(kind) = kind else {
            let kind = Kind {
                count: 0,
                lost: 0,
                since: now,
                seen_at: now,
                told_at: now,
                pause: FIRST_PAUSE,
                last: seen.clone(),
            };
            match full {
                true => self.others.insert(class, kind),
                false => self.kinds.insert(key, kind),
            };
            return Some(seen);
        };
        if !kind.is_pending() {
            kind.since = now;
        }
        let fresh = now >= kind.seen_at.max(kind.told_at) + LONGEST_PAUSE;
        kind.count = kind.count.saturating_add(seen.count);
        kind.lost = kind.lost.saturating_add(seen.lost);
        kind.seen_at = now;
        let news = seen.action > PolicyAction::Report;
        kind.last = seen;
        if fresh {
            kind.pause = FIRST_PAUSE;
        }
        (news || fresh || now >= kind.told_at + kind.pause).then(|| kind.tell(now))
    }

    /// When there is something to tell again, if nothing else happens before.
    #[must_use]
    pub fn due(&self) -> Option<Tick> {
        let all = self.kinds.values().chain(self.others.values());
        all.filter(|kind| kind.is_pending()).map(|kind| kind.told_at + kind.pause).min()
    }

    /// What repeated, was not told yet, and has waited long enough.
    #[must_use]
    pub fn overdue(&mut self, now: Tick) -> Vec<Told> {
        let all = self.kinds.values_mut().chain(self.others.values_mut());
        all.filter(|kind| kind.is_pending() && now >= kind.told_at + kind.pause)
            .map(|kind| kind.tell(now))
            .collect()
    }

    /// Everything that was not told yet: there will be no more.
    #[must_use]
    pub fn rest(&mut self, now: Tick) -> Vec<Told> {
        let all = self.kinds.values_mut().chain(self.others.values_mut());
        all.filter(|kind| kind.is_pending()).map(|kind| kind.tell(now)).collect()
    }
}

impl Kind {
    fn is_pending(&self) -> bool {
        self.count > 0 || self.lost > 0
    }

    fn tell(&mut self, now: Tick) -> Told {
        let told = Told {
            count: std::mem::take(&mut self.count),
            lost: std::mem::take(&mut self.lost),
            over: now.saturating_sub(self.since),
            ..self.last.clone()
        };
        // What is told later was done already.
        self.last.action = PolicyAction::Report;
        self.told_at = now;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        told
    }
}

/// What is the same in violations of one kind: numbers that differ each time are left out.
fn key_of(evidence: &Evidence) -> Evidence {
    match evidence {
        Evidence::Cpu { .. } => Evidence::Cpu { percent: 0, for_ms: 0 },
        Evidence::Logs { limit, .. } => Evidence::Logs { bytes_per_second: 0, limit: *limit },
        Evidence::Network { .. }
        | Evidence::Memory { .. }
        | Evidence::Pids { .. }
        | Evidence::Syscall { .. }
        | Evidence::Decoy { .. }
        | Evidence::Process { .. }
        | Evidence::File { .. } => evidence.clone(),
    }
}
