//! What is looked for in a service and what is done about it, as text and as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use ws_model::{ByteSize, PolicyAction, Posture, ViolationClass};

use super::millis;
use crate::plan::{PolicyPlan, RulePlan, RuleSource, ServicePlan};
use crate::text::duration;

/// `kill: decoys; restart: memory over 512M; report: network, pids over 4096; not looked for: cpu, processes`
pub(super) fn policy_text(service: &ServicePlan) -> String {
    let policy = &service.policy;
    let mut by_action: BTreeMap<PolicyAction, Vec<String>> = BTreeMap::new();
    for class in ViolationClass::ALL {
        let off = (PolicyAction::Off, class.to_string());
        let seen = policy.rules.get(&class).filter(|_| is_looked_for(service, class));
        let Some(rule) = seen else {
            by_action.entry(off.0).or_default().push(off.1);
            continue;
        };
        if class == ViolationClass::Decoys {
            let mut rules: BTreeMap<PolicyAction, (u32, &RulePlan)> = BTreeMap::new();
            for decoy in &policy.decoys {
                rules.entry(decoy.rule.action).or_insert((0, &decoy.rule)).0 += 1;
            }
            for (action, (count, rule)) in rules {
                let files = if count == 1 { "one file".to_owned() } else { format!("{count} files") };
                let text = format!("{class} ({files}){}", threshold(rule));
                by_action.entry(action).or_default().push(text);
            }
            continue;
        }
        let text = format!("{class}{}{}", share(service, class), threshold(rule));
        by_action.entry(rule.action).or_default().push(text);
    }
    let mut parts: Vec<String> = by_action
        .into_iter()
        .rev()
        .map(|(action, what)| match action {
            PolicyAction::Off => format!("not looked for: {}", what.join(", ")),
            PolicyAction::Report | PolicyAction::Restart | PolicyAction::Kill | PolicyAction::Stop => {
                format!("{action}: {}", what.join(", "))
            }
        })
        .collect();
    if policy.posture == Posture::Strict {
        parts.insert(0, "strict".to_owned());
    }
    parts.join("; ")
}

/// `network 169.254.169.254:80 (the SDK looks for a role)`
pub(super) fn accepted_text(policy: &PolicyPlan) -> String {
    let all = policy.accept.iter().map(|(accept, _)| {
        let to = accept.to.as_deref().map(|to| format!(" {to}")).unwrap_or_default();
        format!("{}{to} ({})", accept.class, accept.why)
    });
    all.collect::<Vec<_>>().join(", ")
}

/// `node, /usr/bin/git`; empty: any.
pub(super) fn programs_text(policy: &PolicyPlan) -> String {
    policy.processes.as_ref().map(|programs| programs.join(", ")).unwrap_or_default()
}

/// Whether there can be any: without a limit of memory nothing runs into it.
fn is_looked_for(service: &ServicePlan, class: ViolationClass) -> bool {
    let can_be = class != ViolationClass::Memory || service.limits.memory.is_some();
    can_be && service.policy.detects(class)
}

/// What is too much of it.
fn share(service: &ServicePlan, class: ViolationClass) -> String {
    let policy = &service.policy;
    let text = match class {
        ViolationClass::Memory => service.limits.memory.map(|limit| limit.to_string()),
        ViolationClass::Pids => Some(service.limits.pids.to_string()),
        ViolationClass::Cpu => {
            policy.cpu.map(|cpu| format!("{} % for {}", cpu.percent, duration(cpu.window)))
        }
        ViolationClass::Logs => policy.log_rate.map(|rate| format!("{} in a second", ByteSize(rate))),
        // On most kernels only the program learns that it may not.
        ViolationClass::Filesystem => return " where the kernel tells".to_owned(),
        ViolationClass::Network
        | ViolationClass::Syscalls
        | ViolationClass::Decoys
        | ViolationClass::Processes => None,
    };
    text.map(|text| format!(" over {text}")).unwrap_or_default()
}

/// ` after 3 within 10 s`
fn threshold(rule: &RulePlan) -> String {
    let text = crate::change::rule_words(rule);
    text.strip_prefix(rule.action.as_str()).unwrap_or_default().to_owned()
}

pub(super) fn policy_json(policy: &PolicyPlan) -> Value {
    let rule = |rule: &RulePlan| {
        let from = match &rule.from {
            RuleSource::File(at) => Some(at.to_string()),
            RuleSource::Default(_) => None,
        };
        json!({
            "action": rule.action,
            "after": rule.after,
            "within_ms": rule.within.map(millis),
            "at": from,
        })
    };
    let rules: Map<String, Value> =
        policy.rules.iter().map(|(class, it)| (class.to_string(), rule(it))).collect();
    let decoys: Vec<Value> = policy
        .decoys
        .iter()
        .map(|decoy| json!({ "path": decoy.path.to_string_lossy(), "action": decoy.rule.action }))
        .collect();
    let accept: Vec<Value> = policy
        .accept
        .iter()
        .map(|(accept, at)| {
            json!({ "class": accept.class, "to": accept.to, "why": accept.why, "at": at.to_string() })
        })
        .collect();
    json!({
        "posture": policy.posture.as_str(),
        "rules": rules,
        "decoys": decoys,
        "processes": policy.processes,
        "cpu": policy.cpu.map(|cpu| json!({ "percent": cpu.percent, "window_ms": millis(cpu.window) })),
        "log_bytes_per_second": policy.log_rate,
        "accept": accept,
    })
}
