//! The line that `ws up` ends with: how long it took, where to look, what is enforced.

use std::collections::BTreeSet;
use std::time::Duration;

use ws_model::wire::{PublishedPort, ServiceStatus};
use ws_model::{Level, ServiceName, ViolationRow};

use crate::render::ps::endpoint;
use crate::ui::{BOLD, CARE, GOOD, paint};
use crate::units::human_duration;

/// More places than this are left to `ws ps`.
const MOST_PLACES: usize = 6;

/// What the summary tells beyond the services themselves.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// `ready`, `started`, `running`.
    pub word: &'static str,
    /// How long it took, where somebody waited for it.
    pub took: Option<Duration>,
    /// Ports (service, port) that speak HTTP as far as the file says: their probe does.
    pub http: BTreeSet<(ServiceName, u16)>,
    /// The level that the file asks for, where a lower one was accepted.
    pub accepted_below: Option<Level>,
    /// How services broke their policies, where somebody asked.
    pub violations: Option<Vec<ViolationRow>>,
}

/// `ready in 3.2 s · web http://127.0.0.1:3000 · level standard (missing: distinct uids) · 0 violations`
#[must_use]
pub fn line(rows: &[ServiceStatus], about: &About) -> String {
    let head = match about.took {
        Some(took) => format!("{} in {}", about.word, human_duration(took)),
        None => about.word.to_owned(),
    };
    let mut parts = vec![paint(GOOD.bold(), head)];
    parts.extend(places(rows, &about.http));
    parts.extend(level(rows, about.accepted_below));
    parts.extend(about.violations.as_deref().map(super::violation::count));
    parts.join(" · ")
}

fn places(rows: &[ServiceStatus], http: &BTreeSet<(ServiceName, u16)>) -> Vec<String> {
    let place = |row: &ServiceStatus, port: &PublishedPort| {
        let scheme = if http.contains(&(row.name.clone(), port.port)) { "http://" } else { "" };
        format!("{} {}", row.name, paint(BOLD, format_args!("{scheme}{}", endpoint(port))))
    };
    let mut places: Vec<String> =
        rows.iter().flat_map(|row| row.ports.iter().map(move |port| place(row, port))).collect();
    if places.len() > MOST_PLACES {
        let more = places.len() - MOST_PLACES;
        places.truncate(MOST_PLACES);
        places.push(format!("{more} more ports in `ws ps`"));
    }
    places
}

fn level(rows: &[ServiceStatus], accepted_below: Option<Level>) -> Option<String> {
    let level = rows.iter().filter_map(|row| row.level).min()?;
    let mut missing: Vec<&str> = Vec::new();
    for lack in rows.iter().flat_map(|row| &row.missing) {
        // "memory limits: no memory controller": the reason is in `ws ps`.
        let what = lack.split_once(": ").map_or(lack.as_str(), |(what, _)| what);
        if !missing.contains(&what) {
            missing.push(what);
        }
    }
    let mut notes = Vec::new();
    if let Some(asked) = accepted_below.filter(|asked| *asked > level) {
        notes.push(format!("accepted below {asked}"));
    }
    if !missing.is_empty() {
        notes.push(format!("missing: {}", missing.join(", ")));
    }
    let word = if notes.is_empty() { level.to_string() } else { paint(CARE, level) };
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
    Some(format!("level {word}{notes}"))
}

#[cfg(test)]
mod tests {
    use ws_model::{Phase, Protocol, Reason};

    use super::*;
    use crate::render::ps::tests::status;

    fn published(host_port: u16, port: u16) -> PublishedPort {
        PublishedPort { host: "127.0.0.1".to_owned(), host_port, port, protocol: Protocol::Tcp }
    }

    fn plain(rows: &[ServiceStatus], about: &About) -> String {
        anstream::adapter::strip_str(&line(rows, about)).to_string()
    }

    #[test]
    fn the_summary_says_where_and_how_safe() {
        let mut rows = vec![
            status("db", Phase::Ready, Reason::ProbeOk, ""),
            status("web", Phase::Ready, Reason::ProbeOk, ""),
        ];
        rows[0].ports = vec![published(5432, 5432)];
        rows[1].ports = vec![published(3000, 80)];
        let mut about = About {
            word: "ready",
            took: Some(Duration::from_millis(3210)),
            http: BTreeSet::from([(ServiceName::new("web").unwrap(), 80)]),
            accepted_below: None,
            violations: None,
        };
        assert_eq!(plain(&rows, &about), "ready in 3.2 s · db 127.0.0.1:5432 · web http://127.0.0.1:3000");

        rows[0].level = Some(Level::Standard);
        rows[1].level = Some(Level::Full);
        rows[0].missing = vec!["distinct uids: every service runs as your own user".to_owned()];
        rows[1].missing = rows[0].missing.clone();
        assert!(plain(&rows, &about).ends_with("· level standard (missing: distinct uids)"));

        about.accepted_below = Some(Level::Full);
        assert!(
            plain(&rows, &about).ends_with("· level standard (accepted below full; missing: distinct uids)")
        );

        rows[1].ports = (1..=9).map(|n| published(3000 + n, 80)).collect();
        about.violations = Some(Vec::new());
        assert!(plain(&rows, &about).ends_with("missing: distinct uids) · 0 violations"));
        assert!(plain(&rows, &about).contains("· 4 more ports in `ws ps` ·"), "{}", plain(&rows, &about));
    }
}
