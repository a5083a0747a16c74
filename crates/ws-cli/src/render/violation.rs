//! Violations: as lines, as annotations of GitHub, as a report of JUnit. The words are the same everywhere.

use std::fmt::Write as _;

use anstyle::Style;
use ws_model::{PolicyAction, Suggestion, Timestamp, Violation, ViolationRow};

use crate::ui::{BAD, BOLD, CARE, DIM, paint};

/// Where something stands in the workspace file: the file, as it is to be shown, and the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// Finds a place of the workspace file (`services.api.policy.network`), where there is one.
pub type Locate<'l> = dyn Fn(&str) -> Option<Spot> + 'l;

fn style(action: PolicyAction) -> Style {
    match action {
        PolicyAction::Off | PolicyAction::Report => CARE,
        PolicyAction::Restart | PolicyAction::Kill | PolicyAction::Stop => BAD,
    }
}

/// What stands after the name of the service: what it did, how often, and what is done about it.
#[must_use]
pub fn line(violation: &Violation) -> String {
    format!("{} {violation}", paint(style(violation.action), "violation:"))
}

/// What happened, without the service and without colours.
#[must_use]
pub fn sentence(row: &ViolationRow) -> String {
    let mut text = row.evidence.to_string();
    if row.count > 1 {
        let _ = write!(text, ", {} times", row.count);
    }
    if row.events_lost > 0 {
        let _ = write!(text, " ({} more were too many to be looked at)", row.events_lost);
    }
    text
}

/// What was done, as one word of the past.
fn done(action: PolicyAction) -> &'static str {
    match action {
        PolicyAction::Off | PolicyAction::Report => "reported",
        PolicyAction::Restart => "restarted",
        PolicyAction::Kill => "killed",
        PolicyAction::Stop => "stopped",
    }
}

/// Who did it: `pid 71 /usr/bin/curl (from sh, server)`.
fn process(row: &ViolationRow) -> Option<String> {
    let process = row.process.as_ref()?;
    let pid = process.pid.map(|pid| format!("pid {pid}"));
    let mut text: Vec<String> = pid.into_iter().chain(process.executable.clone()).collect();
    if !process.parents.is_empty() {
        text.push(format!("(from {})", process.parents.join(", ")));
    }
    (!text.is_empty()).then(|| text.join(" "))
}

/// The rule, with its line.
fn rule(row: &ViolationRow, locate: &Locate<'_>) -> String {
    match locate(&row.rule).filter(|_| row.rule.contains('.')) {
        Some(Spot { file, line }) => format!("{file}:{line}"),
        None => row.rule.clone(),
    }
}

fn allow(suggestion: &Suggestion, locate: &Locate<'_>) -> String {
    let spot = locate(&suggestion.to).map(|Spot { file, line }| format!(" ({file}:{line})"));
    format!("to allow it, {suggestion}{}", spot.unwrap_or_default())
}

fn clock(time: Timestamp) -> String {
    // `2026-11-29T00:43:36.120Z`
    let text = time.to_string();
    text.split_once('T').map_or(text.clone(), |(_, time)| time.split('.').next().unwrap_or(time).to_owned())
}

/// The rows for people.
#[must_use]
pub fn rows(rows: &[ViolationRow], locate: &Locate<'_>) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = writeln!(
            text,
            "{}  {} {}  {}",
            paint(BOLD, &row.service),
            row.class,
            paint(style(row.action), done(row.action)),
            sentence(row)
        );
        let when = if row.first_at == row.last_at {
            clock(row.last_at)
        } else {
            format!("{} to {}", clock(row.first_at), clock(row.last_at))
        };
        let mut details =
            vec![format!("rule {}", rule(row, locate)), format!("seen by {}", row.mechanism), when];
        details.extend(process(row));
        let _ = writeln!(text, "  {}", paint(DIM, details.join(" · ")));
        if let Some(unless) = &row.unless {
            let _ = writeln!(text, "  only told: {unless}");
        }
        if let Some(suggestion) = &row.suggestion {
            let _ = writeln!(text, "  {}", allow(suggestion, locate));
        }
    }
    text
}

/// Where an annotation belongs: to what would have to be changed, or to the rule.
fn spot(row: &ViolationRow, locate: &Locate<'_>) -> Option<Spot> {
    let of_suggestion = row.suggestion.as_ref().and_then(|suggestion| locate(&suggestion.to));
    let of_rule = row.rule.contains('.').then(|| locate(&row.rule)).flatten();
    of_suggestion.or(of_rule).or_else(|| locate(&format!("services.{}", row.service)))
}

/// Workflow commands of GitHub: `::error file=workspace.yaml,line=12,title=network::…`.
#[must_use]
pub fn github(rows: &[ViolationRow], locate: &Locate<'_>) -> String {
    let message = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| message(text).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for row in rows {
        let level = match row.action {
            PolicyAction::Off | PolicyAction::Report => "warning",
            PolicyAction::Restart | PolicyAction::Kill | PolicyAction::Stop => "error",
        };
        let place = spot(row, locate);
        let place = place.map(|Spot { file, line }| format!("file={},line={line},", property(&file)));
        let mut text = format!("{} {} ({})", row.service, sentence(row), done(row.action));
        if let Some(suggestion) = &row.suggestion {
            let _ = write!(text, "; to allow it, {suggestion}");
        }
        let _ = writeln!(
            out,
            "::{level} {}title={}::{}",
            place.unwrap_or_default(),
            property(&format!("ws {} violation", row.class)),
            message(&text)
        );
    }
    out
}

/// A report of JUnit: a case for each row, which failed; without rows one that passed.
#[must_use]
pub fn junit(rows: &[ViolationRow], locate: &Locate<'_>) -> String {
    let escape = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                // XML has no way to write them.
                c if c.is_control() && !matches!(c, '\n' | '\t') => out.push(' '),
                c => out.push(c),
            }
        }
        out
    };
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let count = rows.len().max(1);
    let _ = writeln!(out, "<testsuites tests=\"{count}\" failures=\"{}\">", rows.len());
    let _ = writeln!(out, "  <testsuite name=\"ws policy\" tests=\"{count}\" failures=\"{}\">", rows.len());
    if rows.is_empty() {
        out.push_str("    <testcase classname=\"ws.policy\" name=\"no violations\"/>\n");
    }
    for row in rows {
        let what = row.evidence.target().map(|target| format!(" {target}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "    <testcase classname=\"ws.policy.{}\" name=\"{}\">",
            escape(row.service.as_str()),
            escape(&format!("{}{what}", row.class))
        );
        let mut details = vec![format!("rule {}", rule(row, locate)), format!("seen by {}", row.mechanism)];
        details.extend(process(row));
        details.extend(row.unless.as_ref().map(|unless| format!("only told: {unless}")));
        details.extend(row.suggestion.as_ref().map(|suggestion| allow(suggestion, locate)));
        let _ = writeln!(
            out,
            "      <failure type=\"{}\" message=\"{}\">{}</failure>",
            row.action,
            escape(&format!("{} {}", row.service, sentence(row))),
            escape(&details.join("\n"))
        );
        out.push_str("    </testcase>\n");
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// `0 violations`, `3 violations (1 killed): `ws violations``.
#[must_use]
pub fn count(rows: &[ViolationRow]) -> String {
    let total: u64 = rows.iter().map(|row| row.count).fold(0, u64::saturating_add);
    match total {
        0 if rows.is_empty() => "0 violations".to_owned(),
        1 => paint(CARE, "1 violation (`ws violations`)"),
        total => paint(CARE, format_args!("{total} violations (`ws violations`)")),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{Evidence, Mechanism, NetworkAct, Offender, ServiceName};

    use super::*;

    fn network() -> ViolationRow {
        let evidence = Evidence::Network {
            act: NetworkAct::Sent,
            protocol: "tcp".to_owned(),
            destination: "10.77.0.9".parse().ok(),
            port: Some(5432),
            name: Some("db".to_owned()),
            lookup: None,
        };
        ViolationRow {
            seq: 12,
            at: Timestamp { unix_ms: 1_700_000_003_000 },
            service: ServiceName::new("api").unwrap(),
            class: evidence.class(),
            evidence,
            mechanism: Mechanism::Nflog,
            action: PolicyAction::Report,
            count: 3,
            events_lost: 0,
            first_at: Timestamp { unix_ms: 1_700_000_000_000 },
            last_at: Timestamp { unix_ms: 1_700_000_003_000 },
            process: None,
            rule: "default".to_owned(),
            unless: None,
            suggestion: Some(Suggestion {
                to: "services.api".to_owned(),
                add: "links: [\"db:5432\"]".to_owned(),
            }),
        }
    }

    fn decoy() -> ViolationRow {
        let path = "/home/me/.ssh/<id>".to_owned();
        ViolationRow {
            class: ws_model::ViolationClass::Decoys,
            evidence: Evidence::Decoy { path, act: ws_model::FileAct::Opened },
            action: PolicyAction::Kill,
            count: 1,
            first_at: Timestamp { unix_ms: 1_700_000_003_000 },
            process: Some(Offender {
                pid: Some(71),
                executable: Some("/usr/bin/cat".to_owned()),
                parents: vec!["sh".to_owned()],
            }),
            rule: "services.api.policy.decoys".to_owned(),
            suggestion: None,
            mechanism: Mechanism::Inotify,
            ..network()
        }
    }

    fn locate(at: &str) -> Option<Spot> {
        let line = if at == "services.api" { 4 } else { 9 };
        at.starts_with("services.api").then(|| Spot { file: "workspace.yaml".to_owned(), line })
    }

    #[test]
    fn rows_say_what_who_when_why_and_what_would_allow_it() {
        let text = anstream::adapter::strip_str(&rows(&[network(), decoy()], &locate)).to_string();
        assert_eq!(
            text,
            "api  network reported  tried db:5432 (tcp), and no link leads there, 3 times\n\
             \x20 rule default · seen by nflog · 22:13:20 to 22:13:23\n\
             \x20 to allow it, add `links: [\"db:5432\"]` to `services.api` (workspace.yaml:4)\n\
             api  decoys killed  opened the decoy /home/me/.ssh/<id>\n\
             \x20 rule workspace.yaml:9 · seen by inotify · 22:13:23 · pid 71 /usr/bin/cat (from sh)\n"
        );
    }

    #[test]
    fn annotations_stand_at_the_line_that_would_change() {
        assert_eq!(
            github(&[network(), decoy()], &locate),
            "::warning file=workspace.yaml,line=4,title=ws network violation::api tried db:5432 (tcp), and no link leads \
             there, 3 times (reported); to allow it, add `links: [\"db:5432\"]` to `services.api`\n\
             ::error file=workspace.yaml,line=9,title=ws decoys violation::api opened the decoy /home/me/.ssh/<id> (killed)\n"
        );
        let mut odd = network();
        odd.suggestion = None;
        let nowhere = |_: &str| None;
        assert!(github(&[odd.clone()], &nowhere).starts_with("::warning title=ws network violation::api"));
        let comma = |_: &str| Some(Spot { file: "a,b:c%.yaml".to_owned(), line: 1 });
        assert!(github(&[odd], &comma).starts_with("::warning file=a%2Cb%3Ac%25.yaml,line=1,"));
    }

    #[test]
    fn a_report_has_a_case_for_each_row() {
        let text = junit(&[network(), decoy()], &locate);
        assert!(text.contains("<testsuite name=\"ws policy\" tests=\"2\" failures=\"2\">"), "{text}");
        assert!(text.contains("<testcase classname=\"ws.policy.api\" name=\"network db:5432\">"), "{text}");
        assert!(text.contains("name=\"decoys /home/me/.ssh/&lt;id&gt;\""), "{text}");
        assert!(text.contains("<failure type=\"kill\""), "{text}");
        assert!(junit(&[], &locate).contains("tests=\"1\" failures=\"0\""));
    }

    #[test]
    fn none_is_said_too() {
        assert_eq!(count(&[]), "0 violations");
        assert!(count(&[network(), decoy()]).contains("4 violations"));
    }
}
