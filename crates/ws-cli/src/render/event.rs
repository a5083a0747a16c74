//! An event as a line.

use ws_model::{Event, EventKind, Phase};

use crate::render::phase_style;
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
        what(&event.kind)
    )
}

/// The line of an attached `ws up` where there is no terminal: service, what.
#[must_use]
pub fn short(event: &Event) -> String {
    match &event.service {
        Some(service) => format!("{service}: {}", what(&event.kind)),
        None => what(&event.kind),
    }
}

fn what(kind: &EventKind) -> String {
    match kind {
        EventKind::SupervisorStarted { version, pid } => format!("supervisor {pid} started (ws {version})"),
        EventKind::SupervisorStopped { cause } => format!("supervisor stopped: {cause}"),
        EventKind::Phase { phase, cause, retry_in_ms, .. } => {
            let word = paint(phase_style(*phase), phase);
            let mut text = if cause.text.is_empty() { word } else { format!("{word}: {}", cause.text) };
            if let (Phase::Backoff, Some(ms)) = (phase, retry_in_ms) {
                text += &format!(" (next try in {})", human_duration(std::time::Duration::from_millis(*ms)));
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
        EventKind::FilesChanged { trigger, action } => format!("{}: {trigger} changed", action.as_str()),
        EventKind::Reloaded { trigger, action, result, .. } => {
            format!("{} {result:?}: {trigger} changed", action.as_str())
        }
        EventKind::PlanChanged { lines, applied: _ } => {
            let lines: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
            format!("the workspace file changed: {}", lines.join("; "))
        }
        EventKind::PlanRefused { text } => format!("the workspace file has errors: {text}"),
        EventKind::Notice { text } => format!("{} {text}", paint(CARE, "notice:")),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{Cause, Reason, ServiceName, Timestamp};

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
            text += &format!("{}\n{}\n", line(&event), short(&event));
        }
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        2023-11-14T22:13:20.000Z #1 -  supervisor 42 started (ws 0.1.0)
        supervisor 42 started (ws 0.1.0)
        2023-11-14T22:13:20.000Z #2 api  waiting: for db to be ready
        api: waiting: for db to be ready
        2023-11-14T22:13:20.000Z #3 db  starting
        db: starting
        2023-11-14T22:13:20.000Z #4 db  backoff: exited with 1 (next try in 800 ms)
        db: backoff: exited with 1 (next try in 800 ms)
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
}
