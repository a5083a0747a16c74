//! What is said when the stack did not come up: for each service why, down to the root, the last words
//! of its log, and what to do next.

use std::time::Duration;

use ws_model::wire::{LogLine, LogStream, ServiceStatus, WhyLink};
use ws_model::{Cause, Phase, Reason, ServiceKind, ServiceName};

use crate::render::log::safe;
use crate::render::phase_style;
use crate::ui::{BAD, BOLD, CARE, DIM, GOOD, HELP, paint};
use crate::units::human_duration;

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
    /// What its probes said last, where that was a failure.
    pub probe_error: Option<String>,
    /// The last lines of its output.
    pub log: Vec<LogLine>,
}

/// How many lines are shown of a service that crashes again and again.
pub const CRASH_LINES: u64 = 20;

/// The report about one service.
#[must_use]
pub fn case(case: &Case) -> String {
    let mut out = chain(&case.chain, &paint(BAD, "✗"));
    let told = case
        .chain
        .iter()
        .any(|link| case.probe_error.as_deref().is_some_and(|error| link.cause.text.contains(error)));
    if let Some(error) = case.probe_error.as_deref().filter(|_| !told) {
        out += &format!("  its probe said last: {}\n", safe(error));
    }
    // A service that only waited has nothing of its own to show; its root has a report of its own.
    if case.chain.len() > 1 && case.log.is_empty() {
        return out;
    }
    if case.log.is_empty() {
        out += &format!("  {}\n", paint(DIM, "it has printed nothing"));
        return out;
    }
    out += &last_words(&case.log);
    for hint in known_signatures(&case.log) {
        out += &format!("  {} {hint}\n", paint(HELP, "hint:"));
    }
    out
}

/// A chain of causes, a line each: the first behind `mark`, each further one deeper.
fn chain(links: &[WhyLink], mark: &str) -> String {
    let mut out = String::new();
    for (depth, link) in links.iter().enumerate() {
        let word = paint(phase_style(link.phase), predicate(link.phase));
        let because =
            if link.cause.text.is_empty() { String::new() } else { format!(": {}", safe(&link.cause.text)) };
        if depth == 0 {
            out += &format!("{mark} {} {word}{because}\n", paint(BOLD, &link.service));
        } else {
            let indent = "  ".repeat(depth);
            out += &format!("{indent}{} {} {word}{because}\n", paint(DIM, "because"), link.service);
        }
    }
    out
}

/// The answer of `ws why`: the chain of causes, what the service itself and its probes say, and where to
/// look next.
#[must_use]
pub fn tree(links: &[WhyLink], row: Option<&ServiceStatus>) -> String {
    let Some((first, last)) = links.first().zip(links.last()) else { return String::new() };
    let (mark, at_fault) = match first.phase {
        Phase::Ready => (paint(GOOD, "✓"), false),
        Phase::Exited => (paint(GOOD, "✓"), row.is_some_and(|row| !row.ready)),
        Phase::Failed | Phase::Violated | Phase::Unhealthy | Phase::Backoff => (paint(BAD, "✗"), true),
        Phase::Running => (paint(CARE, "·"), true),
        Phase::Waiting | Phase::Building | Phase::Starting | Phase::Stopping => (paint(CARE, "·"), true),
        Phase::Pending | Phase::Stopped => (paint(DIM, "·"), false),
    };
    let mut out = chain(links, &mark);
    // That it was asked for, or has what it waited for, is what everybody expects.
    let told = |cause: &&Cause| {
        !matches!(cause.reason, Reason::Requested | Reason::DependenciesReady) && first.cause != **cause
    };
    if let Some(started) = first.started.as_ref().filter(told) {
        out += &format!("  its run was started because: {}\n", safe(&started.text));
    }
    if let Some(status) = row.and_then(|row| row.status.as_deref()) {
        out += &format!("  it says: {}\n", safe(status));
    }
    let error = row.and_then(|row| row.probe_error.as_deref());
    if let Some(error) = error.filter(|error| links.iter().all(|link| !link.cause.text.contains(error))) {
        out += &format!("  its probe said last: {}\n", safe(error));
    }
    if at_fault {
        // What the chain ends with is what to look at.
        out += &format!("  {} `ws logs -n 20 {}` shows its last words\n", paint(HELP, "hint:"), last.service);
    }
    out
}

/// What is said when a service ended several times in a row: the end in words, its last lines, the next
/// try.
#[must_use]
pub fn crash_loop(service: &ServiceName, cause: &str, next: Option<Duration>, log: &[LogLine]) -> String {
    let next = next.map(|next| format!("; next try in {}", human_duration(next))).unwrap_or_default();
    let mut out = format!(
        "{} {} {}: {}{next}\n",
        paint(CARE.bold(), "↻"),
        paint(BOLD, service),
        paint(CARE, "ends again and again"),
        safe(cause)
    );
    if log.is_empty() {
        out += &format!("  {}\n", paint(DIM, "it has printed nothing"));
    } else {
        out += &last_words(log);
    }
    out
}

fn last_words(log: &[LogLine]) -> String {
    let mut out = format!("  {}\n", paint(DIM, format_args!("its last {}:", lines(log.len()))));
    for line in log {
        let from = match line.stream {
            LogStream::Stdout | LogStream::Stderr => "",
            LogStream::Build => "build: ",
            LogStream::Ws => "ws: ",
        };
        // A colour that it left on would run into the next line.
        let end = if line.line.contains('\x1b') { "\x1b[0m" } else { "" };
        out += &format!("  {} {from}{}{end}\n", paint(DIM, "|"), safe(&line.line));
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
    use crate::render::ps::tests::status;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn link(service: &str, phase: Phase, reason: Reason, text: &str) -> WhyLink {
        WhyLink { service: name(service), phase, cause: Cause::new(reason, text), started: None }
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
            probe_error: Some("connection refused".to_owned()),
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
            probe_error: None,
            log: Vec::new(),
        };
        let quiet = Case { log: Vec::new(), probe_error: Some("timed out".to_owned()), ..db.clone() };
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
          its probe said last: timed out
          it has printed nothing
        "#);
    }

    #[test]
    fn a_crash_loop_says_the_end_the_last_words_and_the_next_try() {
        let log = log(&[(LogStream::Stderr, "no such table: users")]);
        let text = crash_loop(
            &name("api"),
            "exited with 1, 3 failures in a row",
            Some(Duration::from_millis(800)),
            &log,
        );
        let quiet = crash_loop(&name("api"), "was killed by SIGSEGV", None, &[]);
        insta::assert_snapshot!(anstream::adapter::strip_str(&format!("{text}{quiet}")).to_string(), @r#"
        ↻ api ends again and again: exited with 1, 3 failures in a row; next try in 800 ms
          its last line:
          | no such table: users
        ↻ api ends again and again: was killed by SIGSEGV
          it has printed nothing
        "#);
    }

    #[test]
    fn why_ends_with_where_to_look() {
        let waiting = link("api", Phase::Waiting, Reason::Dependency, "waits for db (ready)");
        let late = link("db", Phase::Running, Reason::ProbeFailed, "not ready yet: connection refused");
        let ready = link("web", Phase::Ready, Reason::ProbeOk, "http 200 from :80/");
        let mut row = status("api", Phase::Running, Reason::ProbeFailed, "");
        row.status = Some("loading 3 of 7".to_owned());
        row.probe_error = Some("http 503 from :80/".to_owned());
        let slow = link("api", Phase::Running, Reason::Executed, "started, not ready yet");
        let text = [tree(&[waiting, late], None), tree(&[ready], None), tree(&[slow], Some(&row))].join("\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r#"
        · api is waiting: waits for db (ready)
          because db is running: not ready yet: connection refused
          hint: `ws logs -n 20 db` shows its last words

        ✓ web is ready: http 200 from :80/

        · api is running: started, not ready yet
          it says: loading 3 of 7
          its probe said last: http 503 from :80/
          hint: `ws logs -n 20 api` shows its last words
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
