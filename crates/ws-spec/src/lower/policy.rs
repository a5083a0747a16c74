//! `policy`, of the workspace and of a service.

use std::time::Duration;

use ws_model::{Accept, ByteSize, Policy, PolicyAction, PolicyRule, ViolationClass};

use super::at_least;
use crate::codes;
use crate::raw::Count;
use crate::raw::policy::{PolicyActionWord, PolicyRaw, RuleRaw};
use crate::raw::read::At;
use crate::raw::scalar::Time;
use crate::report::{Report, error, shown};
use crate::yaml::Span;

/// The least output in a second that can be too much: a service that says anything writes more.
const LEAST_OUTPUT: ByteSize = ByteSize(1024);

/// Between these, processor time is looked at.
const CPU_WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Checks what is said, of which `workspace` says the rest; that is absent for the workspace itself.
pub(super) fn policy(raw: Option<&At<PolicyRaw>>, workspace: Option<&Policy>, report: &mut Report) -> Policy {
    let Some(raw) = raw.map(|raw| &raw.value) else { return Policy::default() };
    let mut policy = Policy { posture: raw.posture.as_ref().map(|word| word.value.0), ..Policy::default() };
    let plain: [(ViolationClass, &Option<At<RuleRaw>>); 6] = [
        (ViolationClass::Network, &raw.network),
        (ViolationClass::Memory, &raw.memory),
        (ViolationClass::Pids, &raw.pids),
        (ViolationClass::Syscalls, &raw.syscalls),
        (ViolationClass::Decoys, &raw.decoys),
        (ViolationClass::Filesystem, &raw.filesystem),
    ];
    for (class, rule) in plain {
        let Some(rule) = rule.as_ref().map(|rule| &rule.value.0) else { continue };
        let of = (&rule.action, &rule.after, &rule.within);
        policy.rules.insert(class, threshold(of, report));
    }
    if let Some(At { value, span, .. }) = &raw.cpu {
        let value = &value.0;
        let mut rule = threshold((&value.action, &value.after, &value.within), report);
        rule.over = value.over.as_ref().map(|over| over.value.0);
        rule.lasting = value.r#for.as_ref().map(|time| window(time, report));
        let over = rule.over.or_else(|| workspace?.rules.get(&ViolationClass::Cpu)?.over);
        if over.is_none() && rule.action != Some(PolicyAction::Off) && !value.unread.contains(&"over") {
            needs(*span, "cpu", "over", "write `{ over: 90%, for: 10s, action: kill }`", report);
        }
        policy.rules.insert(ViolationClass::Cpu, rule);
    }
    if let Some(At { value, span, .. }) = &raw.processes {
        let value = &value.0;
        let rule = threshold((&value.action, &value.after, &value.within), report);
        policy.processes = value.allow.as_ref().map(|allow| {
            let allowed = allow.value.0.iter().filter(|program| is_program(program, report));
            allowed.map(|program| program.value.clone()).collect()
        });
        let known = policy.processes.is_some() || workspace.is_some_and(|it| it.processes.is_some());
        if !known && rule.action != Some(PolicyAction::Off) && !value.unread.contains(&"allow") {
            let help = "write `{ allow: [node, /usr/bin/git], action: kill }`";
            needs(*span, "processes", "allow", help, report);
        }
        policy.rules.insert(ViolationClass::Processes, rule);
    }
    if let Some(At { value, .. }) = &raw.logs {
        let value = &value.0;
        let mut rule = threshold((&value.action, &value.after, &value.within), report);
        rule.over = at_least(value.over.as_ref(), "output", LEAST_OUTPUT, report).map(|size| size.0);
        policy.rules.insert(ViolationClass::Logs, rule);
    }
    for entry in raw.accept.iter().flat_map(|accept| &accept.value.0) {
        let accept = Accept {
            class: entry.value.class.value.0,
            to: entry.value.to.as_ref().map(|to| to.value.clone()),
            why: entry.value.why.value.clone(),
        };
        if accept.why.trim().is_empty() {
            let issue = error(codes::BAD_ACCEPT, entry.value.why.span, "the reason is empty");
            report.push(issue.help("say why this is fine, for whoever reads it later"));
        }
        if let Err(why) = accept.check() {
            let span = entry.value.to.as_ref().map_or(entry.span, |to| to.span);
            let to = accept.to.as_deref().unwrap_or_default();
            let message = format!("`{}` cannot be met by a violation of `{}`", shown(to), accept.class);
            report.push(error(codes::BAD_ACCEPT, span, message).label(why));
        }
        policy.accept.push(accept);
    }
    policy
}

type Threshold<'r> = (&'r Option<At<PolicyActionWord>>, &'r Option<At<Count>>, &'r Option<At<Time>>);

fn threshold((action, after, within): Threshold<'_>, report: &mut Report) -> PolicyRule {
    if let (None, Some(within)) = (after, within) {
        let issue = error(codes::CONTRADICTION, within.key, "`within` without `after` counts nothing");
        report.push(issue.help("write `{ action: kill, after: 3, within: 10s }`, or leave it out"));
    }
    if let Some(within) = within
        && within.value.0.is_zero()
    {
        report.push(error(codes::OUT_OF_RANGE, within.span, "nothing can happen within no time"));
    }
    PolicyRule {
        action: action.as_ref().map(|action| action.value.0),
        after: after.as_ref().map(|after| after.value.0),
        within: within.as_ref().map(|within| within.value.0),
        ..PolicyRule::default()
    }
}

fn window(time: &At<Time>, report: &mut Report) -> Duration {
    let (least, most) = CPU_WINDOW;
    let window = time.value.0;
    if window < least || window > most {
        let issue =
            error(codes::OUT_OF_RANGE, time.span, "processor time cannot be looked at over this time");
        report.push(issue.label("from `1s` to `1h`"));
    }
    window
}

fn is_program(program: &At<String>, report: &mut Report) -> bool {
    let text = &program.value;
    let why = if text.is_empty() {
        Some("it is empty")
    } else if text.contains('/') && !text.starts_with('/') {
        Some("a path inside the service is absolute; a name has no slash")
    } else if text.trim_end_matches('*').contains('*') || text.ends_with("**") {
        Some("`*` can stand at the end only")
    } else {
        None
    };
    if let Some(why) = why {
        let message = format!("`{}` is not a program that may be executed", shown(text));
        report.push(error(codes::BAD_ACCEPT, program.span, message).label(why));
    }
    why.is_none()
}

fn needs(span: Span, what: &str, key: &str, help: &str, report: &mut Report) {
    let message = format!("`{what}` of `policy` needs `{key}`");
    report.push(error(codes::MISSING_KEY, span, message).help(help));
}
