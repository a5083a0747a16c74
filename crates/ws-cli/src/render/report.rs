//! What is said when the stack did not come up: for each service why, down to the root, the last words
//! of its log, and what to do next.

use ws_model::wire::{LogLine, LogStream, WhyLink};
use ws_model::{Phase, ServiceKind, ServiceName};

use crate::render::log::safe;
use crate::render::phase_style;
use crate::ui::{BAD, BOLD, DIM, HELP, paint};

/// How many of its last lines are shown of a service that failed.
pub const LAST_LINES: u64 = 50;

/// What is known of a service that is not what was wanted.
#[derive(Debug, Clone)]
pub struct Case {
    /// The service.
    pub service: ServiceName,
    /// Service or task.
    pub kind: ServiceKind,
    /// Why it is in its phase: itself first, the root last. Never empty.
    pub chain: Vec<WhyLink>,
    /// The last lines of its output.
    pub log: Vec<LogLine>,
}

/// The report about one service.
#[must_use]
pub fn case(case: &Case) -> String {
    let mut out = String::new();
    for (depth, link) in case.chain.iter().enumerate() {
        let word = paint(phase_style(link.phase), predicate(link.phase));
        let because =
            if link.cause.text.is_empty() { String::new() } else { format!(": {}", link.cause.text) };
        if depth == 0 {
            out += &format!("{} {} {word}{because}\n", paint(BAD, "✗"), paint(BOLD, &link.service));
        } else {
            let indent = "  ".repeat(depth);
            out += &format!("{indent}{} {} {word}{because}\n", paint(DIM, "because"), link.service);
        }
    }
    // A service that only waited has nothing of its own to show; its root has a report of its own.
    if case.chain.len() > 1 && case.log.is_empty() {
        return out;
    }
    if case.log.is_empty() {
        out += &format!("  {}\n", paint(DIM, "it has printed nothing"));
        return out;
    }
    out += &format!("  {}\n", paint(DIM, format_args!("its last {}:", lines(case.log.len()))));
    for line in &case.log {
        let from = match line.stream {
            LogStream::Stdout | LogStream::Stderr => "",
            LogStream::Build => "build: ",
            LogStream::Ws => "ws: ",
        };
        out += &format!("  {} {from}{}\n", paint(DIM, "|"), safe(&line.line));
    }
    for hint in known_signatures(&case.log) {
        out += &format!("  {} {hint}\n", paint(HELP, "hint:"));
    }
    out
}

/// What is said of a service in a phase.
fn predicate(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "was not asked for",
        Phase::Waiting => "is waiting",
        Phase::Building => "is being built",
        Phase::Starting => "is being started",
        Phase::Running => "is running",
        Phase::Ready => "is ready",
        Phase::Unhealthy => "is not ready any more",
        Phase::Stopping => "is being stopped",
        Phase::Stopped => "was stopped",
        Phase::Exited => "ended",
        Phase::Failed => "failed",
        Phase::Backoff => "ended and will be started again",
        Phase::Violated => "broke its policy",
    }
}

fn lines(count: usize) -> String {
    if count == 1 { "line".to_owned() } else { format!("{count} lines") }
}

/// What lines of a log are known to mean in a sandbox like ours, each said once.
#[must_use]
pub fn known_signatures(log: &[LogLine]) -> Vec<&'static str> {
    const SIGNATURES: [(&str, &str); 8] = [
        (
            "read-only file system",
            "only `writable` directories, volumes and /tmp can be written; `ws plan` lists them",
        ),
        (
            "name or service not known",
            "names of the workspace resolve only for services; nothing else is reachable without a link",
        ),
        (
            "temporary failure in name resolution",
            "names outside the workspace do not resolve: a service reaches only its `links`",
        ),
        (
            "linker `cc` not found",
            "the sandbox has what is in /usr of this machine: install a C compiler (`gcc`) on it",
        ),
        (
            "cannot be run as root",
            "inside, a service is not root: this says that the program was started as root elsewhere",
        ),
        ("no space left on device", "the private tmpfs is full: raise `limits.tmp`, or write to a volume"),
        (
            "address already in use",
            "something else in this service listens there already: each service has a network of its own",
        ),
        ("cannot allocate memory", "the service reached `limits.memory`, or this machine is out of memory"),
    ];
    let texts: Vec<String> = log.iter().map(|line| line.line.to_lowercase()).collect();
    SIGNATURES
        .iter()
        .filter(|(signature, _)| texts.iter().any(|text| text.contains(signature)))
        .map(|(_, hint)| *hint)
        .collect()
}

#[cfg(test)]
mod tests {
    use ws_model::{Cause, Reason, Timestamp};

    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn link(service: &str, phase: Phase, reason: Reason, text: &str) -> WhyLink {
        WhyLink { service: name(service), phase, cause: Cause::new(reason, text) }
    }

    fn log(texts: &[(LogStream, &str)]) -> Vec<LogLine> {
        let line = |(seq, (stream, text)): (usize, &(LogStream, &str))| LogLine {
            seq: seq as u64,
            at: Timestamp { unix_ms: 0 },
            service: name("db"),
            stream: *stream,
            line: (*text).to_owned(),
        };
        texts.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_failure_is_told_down_to_its_root() {
        let db = Case {
            service: name("db"),
            kind: ServiceKind::Service,
            chain: vec![link(
                "db",
                Phase::Failed,
                Reason::ReadyTimeout,
                "not ready within 60 s: connection refused",
            )],
            log: log(&[
                (LogStream::Stdout, "starting\x1b[2J"),
                (LogStream::Stderr, "FATAL: could not write lock file: Read-only file system"),
                (LogStream::Ws, "killed"),
            ]),
        };
        let api = Case {
            service: name("api"),
            kind: ServiceKind::Service,
            chain: vec![
                link("api", Phase::Failed, Reason::DependencyFailed, "db failed"),
                db.chain[0].clone(),
            ],
            log: Vec::new(),
        };
        let quiet = Case { log: Vec::new(), ..db.clone() };
        let text = [&db, &api, &quiet].map(case).join("\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        ✗ db failed: not ready within 60 s: connection refused
          its last 3 lines:
          | starting
          | FATAL: could not write lock file: Read-only file system
          | ws: killed
          hint: only `writable` directories, volumes and /tmp can be written; `ws plan` lists them

        ✗ api failed: db failed
          because db failed: not ready within 60 s: connection refused

        ✗ db failed: not ready within 60 s: connection refused
          it has printed nothing
        "#);
    }

    #[test]
    fn known_words_get_one_hint_each() {
        let twice = log(&[
            (LogStream::Stderr, "No space left on device"),
            (LogStream::Stderr, "NO SPACE LEFT ON DEVICE"),
        ]);
        assert_eq!(known_signatures(&twice).len(), 1);
        assert_eq!(known_signatures(&log(&[(LogStream::Stdout, "all good")])).len(), 0);
    }
}
