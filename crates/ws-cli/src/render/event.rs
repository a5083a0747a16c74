//! An event as a line.

use ws_model::{Cause, Event, EventKind, Phase, Reason, ReloadAction, ReloadResult, ServiceKind, Trigger};

use crate::render::log::safe;
use crate::render::{difference, phase_style};
use crate::ui::{BAD, CARE, DIM, GOOD, paint};
use crate::units::human_duration;

/// The line of `ws events`: time, number, service, what.
#[must_use]
pub fn line(event: &Event) -> String {
    let service = event.service.as_ref().map_or("-", |name| name.as_str());
    format!(
        "{} {} {service}  {}",
        paint(DIM, event.at),
        paint(DIM, format_args!("#{}", event.seq)),
        what(&event.kind, None)
    )
}

/// What came of files that changed.
struct Reload<'a> {
    trigger: &'a Trigger,
    action: ReloadAction,
    result: ReloadResult,
    /// Whether it is known to run to completion.
    task: bool,
    build_ms: Option<u64>,
    ready_ms: Option<u64>,
    error: Option<&'a str>,
}

/// `reloaded: src/main.rs changed · built in 1.2 s · ready in 300 ms`
fn reloaded(reload: &Reload<'_>) -> String {
    let took = |what: &str, ms: Option<u64>| {
        let took = ms.map(|ms| human_duration(std::time::Duration::from_millis(ms)));
        took.map(|took| format!("{what}in {took}"))
    };
    let (done, end) = match reload.action {
        ReloadAction::Signal => ("signalled", "ready "),
        ReloadAction::Restart if reload.task => ("ran again", "finished "),
        ReloadAction::Rebuild | ReloadAction::Restart | ReloadAction::Overlap => ("reloaded", "ready "),
    };
    let (head, last) = match reload.result {
        ReloadResult::Done => (paint(GOOD, done), took(end, reload.ready_ms)),
        // Only a build can be that.
        ReloadResult::Unchanged => {
            let same = "nothing else came of it, so nothing starts again".to_owned();
            (paint(DIM, "built"), Some(same))
        }
        ReloadResult::Failed => {
            let error = reload.error.map_or_else(|| "it failed".to_owned(), safe);
            let (head, goes_on) = match reload.action {
                ReloadAction::Rebuild => ("failed", "; what runs goes on"),
                ReloadAction::Overlap => ("not reloaded", "; what runs goes on"),
                ReloadAction::Restart | ReloadAction::Signal => ("failed", ""),
            };
            (paint(BAD, head), Some(format!("{error}{goes_on}")))
        }
        ReloadResult::Superseded => {
            (paint(DIM, "not reloaded"), Some("something else came over it".to_owned()))
        }
    };
    let changed = match *reload.trigger == Trigger::default() {
        true => "as was asked for".to_owned(),
        false => format!("{} changed", safe(&reload.trigger.to_string())),
    };
    // How long it took until it failed helps nobody.
    let built = if reload.result == ReloadResult::Unchanged { "" } else { "built " };
    let built = took(built, reload.build_ms).filter(|_| reload.result != ReloadResult::Failed);
    let parts: Vec<String> = [Some(changed), built, last].into_iter().flatten().collect();
    format!("{head}: {}", parts.join(" · "))
}

/// The line of an attached `ws up`: service, what. `of` is what the service is, where that is known.
#[must_use]
pub fn short(event: &Event, of: Option<ServiceKind>) -> String {
    match &event.service {
        // A sentence about it.
        Some(service) if matches!(event.kind, EventKind::Reloaded { .. }) => {
            format!("{service} {}", what(&event.kind, of))
        }
        Some(service) => format!("{service}: {}", what(&event.kind, of)),
        None => what(&event.kind, of),
    }
}

/// Whether a phase is one of the small steps of a build, or the waiting for nothing but builds: whoever reads a line for
/// each phase learns nothing from it.
#[must_use]
pub fn is_a_step(phase: Phase, cause: &Cause) -> bool {
    match phase {
        Phase::Building => cause.reason != Reason::Executed,
        // Of a task that has succeeded, until what it was made of is written down.
        Phase::Starting => cause.reason == Reason::Exit && cause.text == "succeeded",
        Phase::Waiting => cause
            .text
            .strip_prefix("waits for ")
            .is_some_and(|on| on.split(", ").all(|on| on.ends_with(" (built)"))),
        Phase::Pending
        | Phase::Running
        | Phase::Ready
        | Phase::Unhealthy
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Exited
        | Phase::Failed
        | Phase::Backoff
        | Phase::Violated => false,
    }
}

fn what(kind: &EventKind, of: Option<ServiceKind>) -> String {
    match kind {
        EventKind::SupervisorStarted { version, pid } => format!("supervisor {pid} started (ws {version})"),
        EventKind::SupervisorStopped { cause } => format!("supervisor stopped: {cause}"),
        EventKind::Phase { phase, cause, retry_in_ms, .. } => {
            let word = paint(phase_style(*phase), phase);
            let mut text = if cause.text.is_empty() { word } else { format!("{word}: {}", cause.text) };
            if let (Phase::Backoff, Some(ms)) = (phase, retry_in_ms) {
                text += &format!("; next try in {}", human_duration(std::time::Duration::from_millis(*ms)));
            }
            text
        }
        EventKind::Published { host, host_port, port } => {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            format!("port {port} is published on {host}:{host_port}")
        }
        EventKind::WorkspaceReady { after_ms } => {
            let after = human_duration(std::time::Duration::from_millis(*after_ms));
            format!("{} in {after}", paint(GOOD, "everything is ready"))
        }
        EventKind::WorkspaceFailed { cause } => {
            format!("{}: {cause}", paint(BAD, "not everything can become ready"))
        }
        EventKind::LogDropped { bytes } => {
            paint(CARE, format_args!("{} of output were dropped", crate::units::human_bytes(*bytes)))
        }
        EventKind::Status { text } => format!("says: {text}"),
        EventKind::FilesChanged { trigger, action } => {
            format!("{} changed: {}", safe(&trigger.to_string()), action.as_str())
        }
        EventKind::Reloaded { trigger, action, result, build_ms, ready_ms, error } => reloaded(&Reload {
            trigger,
            action: *action,
            result: *result,
            task: of == Some(ServiceKind::Task),
            build_ms: *build_ms,
            ready_ms: *ready_ms,
            error: error.as_deref(),
        }),
        EventKind::PlanChanged { lines, applied } => difference::told(lines, *applied),
        EventKind::PlanApplied { errors } if errors.is_empty() => "what changed is carried out".to_owned(),
        EventKind::PlanApplied { errors } => {
            let errors: Vec<String> = errors.iter().map(|error| safe(error)).collect();
            format!("{}: {}", paint(BAD, "not everything that changed is carried out"), errors.join("; "))
        }
        EventKind::PlanRefused { text } => {
            let lines: Vec<String> = text.trim_end().lines().map(safe).collect();
            let head = paint(BAD, "the workspace file has errors, and what runs goes on as it is");
            format!("{head}\n{}", lines.join("\n"))
        }
        EventKind::Violation(it) => super::violation::line(it),
        EventKind::Notice { text } => format!("{} {text}", paint(CARE, "notice:")),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{ServiceName, Timestamp};

    use super::*;

    #[test]
    fn every_event_is_a_line() {
        let phase = |phase, reason, text: &str, retry_in_ms| EventKind::Phase {
            phase,
            cause: Cause::new(reason, text),
            exit: None,
            retry_in_ms,
        };
        let kinds = [
            (None, EventKind::SupervisorStarted { version: "0.1.0".into(), pid: 42 }),
            (Some("api"), phase(Phase::Waiting, Reason::Dependency, "for db to be ready", None)),
            (Some("db"), phase(Phase::Starting, Reason::Requested, "", None)),
            (Some("db"), phase(Phase::Backoff, Reason::Exit, "exited with 1", Some(800))),
            (Some("db"), EventKind::Published { host: "::1".into(), host_port: 5432, port: 5432 }),
            (None, EventKind::WorkspaceReady { after_ms: 3249 }),
            (None, EventKind::WorkspaceFailed { cause: "db failed: exited with 1".into() }),
            (Some("api"), EventKind::LogDropped { bytes: 4096 }),
            (None, EventKind::Notice { text: "level limited was accepted".into() }),
            (None, EventKind::SupervisorStopped { cause: "`ws down`".into() }),
        ];
        let mut text = String::new();
        for (seq, (service, kind)) in kinds.into_iter().enumerate() {
            let event = Event {
                seq: seq as u64 + 1,
                at: Timestamp { unix_ms: 1_700_000_000_000 },
                service: service.map(|name| ServiceName::new(name).unwrap()),
                kind,
            };
            text += &format!("{}\n{}\n", line(&event), short(&event, None));
        }
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        2023-11-14T22:13:20.000Z #1 -  supervisor 42 started (ws 0.1.0)
        supervisor 42 started (ws 0.1.0)
        2023-11-14T22:13:20.000Z #2 api  waiting: for db to be ready
        api: waiting: for db to be ready
        2023-11-14T22:13:20.000Z #3 db  starting
        db: starting
        2023-11-14T22:13:20.000Z #4 db  backoff: exited with 1; next try in 800 ms
        db: backoff: exited with 1; next try in 800 ms
        2023-11-14T22:13:20.000Z #5 db  port 5432 is published on [::1]:5432
        db: port 5432 is published on [::1]:5432
        2023-11-14T22:13:20.000Z #6 -  everything is ready in 3.2 s
        everything is ready in 3.2 s
        2023-11-14T22:13:20.000Z #7 -  not everything can become ready: db failed: exited with 1
        not everything can become ready: db failed: exited with 1
        2023-11-14T22:13:20.000Z #8 api  4K of output were dropped
        api: 4K of output were dropped
        2023-11-14T22:13:20.000Z #9 -  notice: level limited was accepted
        notice: level limited was accepted
        2023-11-14T22:13:20.000Z #10 -  supervisor stopped: `ws down`
        supervisor stopped: `ws down`
        "#);
    }

    #[test]
    fn small_steps_of_builds_are_no_lines() {
        let step = |phase, reason, text| is_a_step(phase, &Cause::new(reason, text));
        assert!(step(Phase::Building, Reason::Requested, "was asked for"));
        assert!(!step(Phase::Building, Reason::Executed, "started"));
        assert!(step(Phase::Building, Reason::Exit, "succeeded"));
        assert!(step(Phase::Waiting, Reason::Dependency, "waits for a-build (built), b-build (built)"));
        assert!(!step(Phase::Waiting, Reason::Dependency, "waits for a-build (built), db (ready)"));
        assert!(!step(Phase::Waiting, Reason::Dependency, "waits for its place"));
        assert!(step(Phase::Starting, Reason::Exit, "succeeded"));
        // The next try after a crash.
        assert!(!step(Phase::Starting, Reason::Exit, "exited with 1"));
    }

    #[test]
    fn a_reload_is_a_line() {
        let event = |service: &str, kind| Event {
            seq: 1,
            at: Timestamp { unix_ms: 0 },
            service: ServiceName::new(service).ok(),
            kind,
        };
        let reloaded = |service: &str, action, result, build_ms, ready_ms, error: Option<&str>| {
            let trigger = Trigger { files: vec!["src/main.rs".to_owned()], more: 0 };
            let error = error.map(ToOwned::to_owned);
            event(service, EventKind::Reloaded { trigger, action, result, build_ms, ready_ms, error })
        };
        use ReloadAction::{Overlap, Rebuild, Restart, Signal};
        use ReloadResult::{Done, Failed, Superseded, Unchanged};
        let refused =
            EventKind::PlanRefused { text: "error[WS0001]: no\n --> workspace.yaml:3:5\n\n".to_owned() };
        let errors = vec!["api: no such port".to_owned()];
        let events = [
            reloaded("api", Rebuild, Done, Some(1234), Some(345), None),
            reloaded("api", Restart, Done, None, Some(12), None),
            reloaded("api", Overlap, Failed, None, None, Some("exited with 3")),
            reloaded("api", Restart, Failed, None, None, Some("exited with 3")),
            reloaded("api-build", Rebuild, Failed, Some(900), None, Some("exited with 101")),
            reloaded("api-build", Rebuild, Unchanged, Some(900), None, None),
            reloaded("proxy", Signal, Done, None, None, None),
            reloaded("proxy", Restart, Superseded, None, None, None),
            event("", refused),
            event("", EventKind::PlanApplied { errors: Vec::new() }),
            event("", EventKind::PlanApplied { errors }),
        ];
        let mut text: Vec<String> = events.iter().map(|event| short(event, None)).collect();
        text.push(short(&reloaded("migrate", Restart, Done, None, Some(68), None), Some(ServiceKind::Task)));
        insta::assert_snapshot!(anstream::adapter::strip_str(&text.join("\n")).to_string(), @r"
        api reloaded: src/main.rs changed · built in 1.2 s · ready in 345 ms
        api reloaded: src/main.rs changed · ready in 12 ms
        api not reloaded: src/main.rs changed · exited with 3; what runs goes on
        api failed: src/main.rs changed · exited with 3
        api-build failed: src/main.rs changed · exited with 101; what runs goes on
        api-build built: src/main.rs changed · in 900 ms · nothing else came of it, so nothing starts again
        proxy signalled: src/main.rs changed
        proxy not reloaded: src/main.rs changed · something else came over it
        the workspace file has errors, and what runs goes on as it is
        error[WS0001]: no
         --> workspace.yaml:3:5
        what changed is carried out
        not everything that changed is carried out: api: no such port
        migrate ran again: src/main.rs changed · finished in 68 ms
        ");
    }
}
