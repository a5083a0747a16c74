//! `policy` as it is written.

use ws_model::{ByteSize, ConfigPath, Policy, PolicyRule, ViolationClass};

use super::{Writer, quoted};
use crate::raw::scalar::show_duration;

impl Writer<'_> {
    /// Nothing, where nothing is said.
    pub(super) fn policy(&mut self, policy: &Policy, at: &ConfigPath) {
        if *policy == Policy::default() {
            return;
        }
        let at = at.key("policy");
        self.open("policy");
        if let Some(posture) = policy.posture {
            self.value("posture", posture.as_str(), &at.key("posture"));
        }
        for class in ViolationClass::ALL {
            let allow = policy.processes.as_ref().filter(|_| class == ViolationClass::Processes);
            let rule = policy.rules.get(&class);
            if rule.is_some() || allow.is_some() {
                let rule = rule.cloned().unwrap_or_default();
                self.value(class.as_str(), &rule_text(class, &rule, allow), &at.key(class.as_str()));
            }
        }
        let accepted = policy.accept.iter().map(|accept| {
            let to = accept.to.as_ref().map(|to| format!("to: {}, ", quoted(to))).unwrap_or_default();
            format!("{{ class: {}, {to}why: {} }}", accept.class, quoted(&accept.why))
        });
        self.list("accept", &at, accepted);
        self.close();
    }
}

fn rule_text(class: ViolationClass, rule: &PolicyRule, allow: Option<&Vec<String>>) -> String {
    let mut parts = Vec::new();
    if let Some(action) = rule.action {
        parts.push(format!("action: {action}"));
    }
    if let Some(over) = rule.over {
        parts.push(match class {
            ViolationClass::Cpu => format!("over: {over}%"),
            ViolationClass::Logs
            | ViolationClass::Network
            | ViolationClass::Memory
            | ViolationClass::Pids
            | ViolationClass::Syscalls
            | ViolationClass::Decoys
            | ViolationClass::Processes
            | ViolationClass::Filesystem => format!("over: {}", ByteSize(over)),
        });
    }
    if let Some(lasting) = rule.lasting {
        parts.push(format!("for: {}", show_duration(lasting)));
    }
    if let Some(after) = rule.after {
        parts.push(format!("after: {after}"));
    }
    if let Some(within) = rule.within {
        parts.push(format!("within: {}", show_duration(within)));
    }
    if let Some(allow) = allow {
        let programs: Vec<String> = allow.iter().map(|program| quoted(program)).collect();
        parts.push(format!("allow: [{}]", programs.join(", ")));
    }
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}
