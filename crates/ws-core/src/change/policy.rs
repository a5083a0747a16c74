//! What is different in the policies of two units, and whether it lets a service do more unseen or unpunished.

use std::cmp::Ordering;

use ws_model::{Accept, PolicyAction, ViolationClass};

use super::words::became;
use super::{Differences, UnitChange};
use crate::plan::{CpuWindow, Decoy, PolicyPlan, RulePlan};
use crate::text::duration;

pub(super) fn differences(old: &PolicyPlan, new: &PolicyPlan, found: &mut Differences) {
    // Every field is named, so that one that is added is thought of here.
    let PolicyPlan { posture: _, rules, decoys, processes, cpu, log_rate, accept } = new;
    for class in ViolationClass::ALL {
        let (from, to) = (old.rules.get(&class), rules.get(&class));
        if from == to {
            continue;
        }
        let (before, after) = (rule_text(class, old), rule_text(class, new));
        // Where the file says it, or that it is said now and was the default before, is no difference.
        let text =
            if before == after { String::new() } else { became(&format!("policy {class}"), before, after) };
        found.add(text, UnitChange::Live, loosens(from, to));
    }
    if *decoys != old.decoys {
        // They are put there with each run; that they are others follows from the rule or from what it sees.
        let acts = |decoys: &[Decoy]| decoys.iter().map(|decoy| decoy.rule.clone()).collect::<Vec<_>>();
        let files = |decoys: &[Decoy]| decoys.iter().map(|decoy| decoy.path.clone()).collect::<Vec<_>>();
        let same_files = files(decoys) == files(&old.decoys);
        let change = if same_files { UnitChange::Live } else { UnitChange::Restart };
        let softer = same_files
            && acts(&old.decoys).iter().zip(&acts(decoys)).any(|(from, to)| loosens(Some(from), Some(to)));
        let told = rule_text(ViolationClass::Decoys, old) != rule_text(ViolationClass::Decoys, new);
        let text =
            if softer && !told { "policy decoys: less is done about some".to_owned() } else { String::new() };
        found.add(text, change, softer);
    }
    if *processes != old.processes {
        let (text, widens) = match (&old.processes, processes) {
            (Some(from), None) => (became("processes", from.join(", "), "any"), true),
            (None, Some(to)) => (became("processes", "any", to.join(", ")), false),
            (Some(from), Some(to)) => {
                let widens = to.iter().any(|program| !from.contains(program));
                (became("processes", from.join(", "), to.join(", ")), widens)
            }
            (None, None) => (String::new(), false),
        };
        // Whether executions are asked about at all is settled at the start of a run.
        let change = match &old.processes {
            None => UnitChange::Restart,
            Some(_) => UnitChange::Live,
        };
        found.add(text, change, widens);
    }
    if *cpu != old.cpu {
        let widens = match (old.cpu, *cpu) {
            (Some(_), None) => true,
            (None, _) => false,
            (Some(from), Some(to)) => to.percent > from.percent || to.window > from.window,
        };
        found.add(became("policy cpu", cpu_text(old.cpu), cpu_text(*cpu)), UnitChange::Live, widens);
    }
    if *log_rate != old.log_rate {
        let widens = match (old.log_rate, *log_rate) {
            (Some(_), None) => true,
            (None, _) => false,
            (Some(from), Some(to)) => to > from,
        };
        found.add(
            became("policy logs", rate_text(old.log_rate), rate_text(*log_rate)),
            UnitChange::Live,
            widens,
        );
    }
    let same = |one: &Accept, other: &Accept| one.class == other.class && one.to == other.to;
    for (accepted, _) in accept.iter().filter(|(it, _)| !old.accept.iter().any(|(was, _)| same(was, it))) {
        found.add(format!("{}: {}", accept_text(accepted), accepted.why), UnitChange::Live, true);
    }
    for (accepted, _) in old.accept.iter().filter(|(was, _)| !accept.iter().any(|(it, _)| same(was, it))) {
        found.add(format!("{}: no longer", accept_text(accepted)), UnitChange::Live, false);
    }
    if *accept != old.accept {
        // The reason, or the place in the file.
        found.add(String::new(), UnitChange::Live, false);
    }
}

/// What a unit that is new may do unseen or unpunished, beyond the defaults.
pub(super) fn rights(policy: &PolicyPlan) -> Vec<String> {
    let mut rights = Vec::new();
    for (class, rule) in &policy.rules {
        let usual = crate::plan::default_action(*class, ws_model::Posture::Default);
        let usual = RulePlan { action: usual, after: 1, within: None, from: rule.from.clone() };
        if loosens(Some(&usual), Some(rule)) {
            rights.push(format!("policy {class}: {}", rule_text(*class, policy)));
        }
    }
    rights.extend(policy.accept.iter().map(|(accept, _)| accept_text(accept)));
    rights
}

fn accept_text(accept: &Accept) -> String {
    let what = accept.to.as_deref().map(|to| format!(" {to}")).unwrap_or_default();
    format!("accepted: {}{what}", accept.class)
}

fn rule_text(class: ViolationClass, policy: &PolicyPlan) -> String {
    let Some(rule) = policy.rules.get(&class) else { return PolicyAction::Off.to_string() };
    rule_words(rule)
}

/// `kill`, `kill after 3 within 10 s`
pub(crate) fn rule_words(rule: &RulePlan) -> String {
    let mut text = rule.action.to_string();
    if rule.after > 1 {
        text.push_str(&format!(" after {}", rule.after));
        if let Some(within) = rule.within {
            text.push_str(&format!(" within {}", duration(within)));
        }
    }
    text
}

fn loosens(from: Option<&RulePlan>, to: Option<&RulePlan>) -> bool {
    let action = |rule: Option<&RulePlan>| rule.map_or(PolicyAction::Off, |rule| rule.action);
    match action(to).cmp(&action(from)) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => match (from, to) {
            (Some(from), Some(to)) => {
                let window = |rule: &RulePlan| rule.within.unwrap_or(std::time::Duration::MAX);
                to.after > from.after || (to.after == from.after && to.after > 1 && window(to) < window(from))
            }
            (None, _) | (_, None) => false,
        },
    }
}

fn cpu_text(cpu: Option<CpuWindow>) -> String {
    match cpu {
        Some(cpu) => format!("over {} % for {}", cpu.percent, duration(cpu.window)),
        None => "any".to_owned(),
    }
}

fn rate_text(rate: Option<u64>) -> String {
    match rate {
        Some(rate) => format!("over {} in a second", ws_model::ByteSize(rate)),
        None => "any".to_owned(),
    }
}
