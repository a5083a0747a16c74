//! Transcripts: what went in (`<`), what was done (`>`) and what was told (`!`), a line each.

use std::fmt::Write as _;

use ws_core::engine::{Effect, Hook, Input, Notified, Outcome, Tick};
use ws_core::files::Moment;
use ws_model::{EventKind, ServiceName, event::signal_name};

use crate::text::{news_text, role_name};

/// Adds a step to a transcript.
pub fn step(to: &mut String, now: Tick, what: &Input, outcome: &Outcome) {
    let at = now.as_secs_f64();
    // That time went by, and that all is as it was, is worth a line only when something came of it.
    let nothing_new = match what {
        Input::Tick => true,
        Input::Probed { result, .. } => result.is_ok(),
        Input::Notified { news, .. } => *news == Notified::Watchdog,
        Input::Add { .. }
        | Input::Remove { .. }
        | Input::Up { .. }
        | Input::Stop { .. }
        | Input::Restart { .. }
        | Input::Kill { .. }
        | Input::Down { .. }
        | Input::Executed { .. }
        | Input::StartFailed { .. }
        | Input::Exited { .. }
        | Input::HookEnded { .. }
        | Input::Published { .. }
        | Input::FilesChanged { .. }
        | Input::Checked { .. }
        | Input::Recorded { .. }
        | Input::Adopt { .. }
        | Input::Placed { .. }
        | Input::Displaced { .. }
        | Input::Updated { .. }
        | Input::Switched { .. }
        | Input::Observed(_)
        | Input::HostLost { .. } => false,
    };
    if !nothing_new || !outcome.effects.is_empty() || !outcome.events.is_empty() {
        let _ = writeln!(to, "{at:>9.3} < {}", input(what));
    }
    for effect in &outcome.effects {
        let _ = writeln!(to, "          > {}", self::effect(effect));
    }
    for (service, event) in &outcome.events {
        let _ = writeln!(to, "          ! {}", self::event(service.as_ref(), event));
    }
}

fn input(input: &Input) -> String {
    let named = |word: &str, services: &[ServiceName]| {
        services.iter().fold(word.to_owned(), |text, name| format!("{text} {name}"))
    };
    match input {
        Input::Add { service } => format!("add {}", service.name),
        Input::Remove { service } => format!("remove {service}"),
        Input::Up { services } => named("up", services),
        Input::Stop { services } => named("stop", services),
        Input::Restart { services } => named("restart", services),
        Input::Kill { services } => named("kill", services),
        Input::Down { now: false } => "down".to_owned(),
        Input::Down { now: true } => "down now".to_owned(),
        Input::Executed { service, generation, pid: _ } => format!("{service}~{generation} executed"),
        Input::StartFailed { service, generation, error, hopeless } => {
            let hopeless = if *hopeless { ", for ever" } else { "" };
            format!("{service}~{generation} could not start: {error}{hopeless}")
        }
        Input::Exited { service, generation, exit, oom } => {
            let oom = if *oom { " (out of memory)" } else { "" };
            format!("{service}~{generation} {exit}{oom}")
        }
        Input::Probed { service, generation, probe, result } => {
            let (Ok(text) | Err(text)) = result;
            let word = if result.is_ok() { "succeeds" } else { "fails" };
            format!("{service}~{generation} {} probe {word}: {text}", role_name(*probe))
        }
        Input::Notified { service, generation, news } => {
            format!("{service}~{generation} says {}", news_text(news))
        }
        Input::HookEnded { service, generation, hook, result } => {
            let how =
                result.as_ref().err().map_or("succeeded".to_owned(), |error| format!("failed: {error}"));
            format!("{service}~{generation} {} {how}", hook_name(*hook))
        }
        Input::Published { service, host, host_port, port } => {
            format!("{service} {port} is published at {host}:{host_port}")
        }
        Input::HostLost { error } => format!("host lost: {error}"),
        Input::FilesChanged { changes } => {
            let names: Vec<ServiceName> = changes.iter().map(|change| change.service.clone()).collect();
            named("changed", &names)
        }
        Input::Checked { service, generation, result } => {
            let how = match result {
                Ok(Some(_)) => "is fresh",
                Ok(None) => "must run",
                Err(_) => "cannot be looked at",
            };
            format!("{service}~{generation} {how}")
        }
        Input::Recorded { service, generation, result } => {
            let how = if result.is_ok() { "is recorded" } else { "cannot be recorded" };
            format!("{service}~{generation} {how}")
        }
        Input::Adopt { plan } => {
            let names: Vec<ServiceName> = plan.services.keys().cloned().collect();
            named("adopt", &names)
        }
        Input::Placed { service, result: Ok(()) } => format!("{service} has its place"),
        Input::Placed { service, result: Err(error) } => format!("{service} has no place: {error}"),
        Input::Displaced { service, errors: _ } => format!("{service} is displaced"),
        Input::Updated { service, result: Ok(()) } => format!("{service} is updated"),
        Input::Updated { service, result: Err(error) } => format!("{service} is not updated: {error}"),
        Input::Switched { service, generation } => format!("{service}~{generation} switched"),
        Input::Observed(seen) => format!("{} {} x{}", seen.service, seen.evidence, seen.count),
        Input::Tick => "tick".to_owned(),
    }
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Start { service, generation, .. } => format!("start {service}~{generation}"),
        Effect::Signal { service, generation, signal } => {
            format!("{} {service}~{generation}", signal_name(*signal))
        }
        Effect::Kill { service, generation } => format!("kill {service}~{generation}"),
        Effect::StartProbe { service, generation, probe } => {
            format!("probe {service}~{generation} {}", role_name(*probe))
        }
        Effect::StopProbe { service, generation, probe } => {
            format!("stop probing {service}~{generation} {}", role_name(*probe))
        }
        Effect::StartBeside { service, generation } => format!("start {service}~{generation} beside"),
        Effect::Switch { service, generation } => format!("switch {service}~{generation}"),
        Effect::Hold { service } => format!("hold {service}"),
        Effect::Release { service } => format!("release {service}"),
        Effect::Fingerprint { service, generation, moment } => {
            let when = match moment {
                Moment::Before => "before",
                Moment::After => "after",
            };
            format!("look at {service}~{generation} {when}")
        }
        Effect::Place { service } => format!("place {}", service.name),
        Effect::Displace { service } => format!("displace {service}"),
        Effect::Update { service } => format!("update {}", service.name),
        Effect::RunHook { service, generation, hook } => {
            format!("run {} of {service}~{generation}", hook_name(*hook))
        }
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::PostStart => "post_start",
        Hook::PreStop => "pre_stop",
        Hook::Stop => "stop command",
    }
}

/// An event in a line.
#[must_use]
pub fn event(service: Option<&ServiceName>, event: &EventKind) -> String {
    let who = service.map_or("workspace", ServiceName::as_str);
    match event {
        EventKind::SupervisorStarted { .. } => "supervisor started".to_owned(),
        EventKind::SupervisorStopped { cause } => format!("supervisor stopped: {cause}"),
        EventKind::Phase { phase, cause, exit: _, retry_in_ms } => {
            let retry = retry_in_ms.map(|ms| format!(", again in {ms} ms")).unwrap_or_default();
            format!("{who} {phase} [{}] {}{retry}", cause.reason.as_str(), cause.text)
        }
        EventKind::Published { host, host_port, port } => format!("{who} {port} at {host}:{host_port}"),
        EventKind::WorkspaceReady { after_ms } => format!("READY after {after_ms} ms"),
        EventKind::WorkspaceFailed { cause } => format!("FAILED {cause}"),
        EventKind::LogDropped { bytes } => format!("{who} lost {bytes} bytes of its log"),
        EventKind::Status { text } => format!("{who} says: {text}"),
        EventKind::FilesChanged { trigger, action } => format!("{who} {}: {trigger}", action.as_str()),
        EventKind::Reloaded { trigger, action, result, .. } => {
            format!("{who} {} {result:?}: {trigger}", action.as_str())
        }
        EventKind::PlanChanged { lines, applied } => format!("plan changed {lines:?} {applied}"),
        EventKind::PlanApplied { errors } => format!("plan applied {errors:?}"),
        EventKind::PlanRefused { text } => format!("plan refused {text}"),
        EventKind::Violation(it) => format!("{who} violation: {} x{} {}", it.evidence, it.count, it.action),
        EventKind::Notice { text } => format!("{who} notice: {text}"),
    }
}
