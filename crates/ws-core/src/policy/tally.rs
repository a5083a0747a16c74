//! What was told of violations, put together: a row for each kind of a service.

use std::collections::BTreeMap;

use ws_model::{Event, EventKind, Evidence, ServiceName, Timestamp, Violation, ViolationRow};

use super::key_of;

/// How many rows are kept; beyond it the one that is quiet for the longest time goes.
const ROWS: usize = 4096;

/// Puts violations together, as they are told.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    rows: BTreeMap<(ServiceName, Evidence), ViolationRow>,
    total: u64,
}

impl Tally {
    /// Takes an event in; those that are about something else change nothing.
    pub fn add(&mut self, event: &Event) {
        if let (Some(service), EventKind::Violation(violation)) = (&event.service, &event.kind) {
            self.add_violation(event.seq, event.at, service, violation);
        }
    }

    /// The same, of its parts.
    pub fn add_violation(&mut self, seq: u64, at: Timestamp, service: &ServiceName, violation: &Violation) {
        self.total = self.total.saturating_add(violation.count);
        let key = (service.clone(), key_of(&violation.evidence));
        let new = row(seq, at, service, violation);
        let Some(row) = self.rows.get_mut(&key) else {
            if self.rows.len() >= ROWS {
                let oldest = self.rows.iter().min_by_key(|(_, row)| row.seq).map(|(key, _)| key.clone());
                oldest.and_then(|oldest| self.rows.remove(&oldest));
            }
            self.rows.insert(key, new);
            return;
        };
        let before = std::mem::replace(row, new);
        row.count = row.count.saturating_add(before.count);
        row.events_lost = row.events_lost.saturating_add(before.events_lost);
        row.first_at = before.first_at.min(row.first_at);
        // What was done is worth more than that it was told again, and so is its reason.
        if before.action > row.action {
            row.action = before.action;
            row.rule = before.rule;
            row.unless = before.unless;
        }
        row.process = row.process.take().or(before.process);
    }

    /// The rows, in the order of their last events.
    #[must_use]
    pub fn rows(&self) -> Vec<ViolationRow> {
        let mut rows: Vec<ViolationRow> = self.rows.values().cloned().collect();
        rows.sort_by_key(|row| row.seq);
        rows
    }

    /// How many there were, of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// An event as a row of its own.
#[must_use]
pub fn row(seq: u64, at: Timestamp, service: &ServiceName, violation: &Violation) -> ViolationRow {
    let over = i64::try_from(violation.over_ms).unwrap_or(i64::MAX);
    ViolationRow {
        seq,
        at,
        service: service.clone(),
        class: violation.class,
        evidence: violation.evidence.clone(),
        mechanism: violation.mechanism,
        action: violation.action,
        count: violation.count,
        events_lost: violation.events_lost,
        first_at: Timestamp { unix_ms: at.unix_ms.saturating_sub(over) },
        last_at: at,
        process: violation.process.clone(),
        rule: violation.rule.clone(),
        unless: violation.unless.clone(),
        suggestion: violation.suggestion.clone(),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{Mechanism, PolicyAction};

    use super::*;

    fn told(seq: u64, syscall: &str, action: PolicyAction, count: u64) -> Event {
        let evidence =
            Evidence::Syscall { name: syscall.to_owned(), detail: None, answer: "EPERM".to_owned() };
        Event {
            seq,
            at: Timestamp { unix_ms: i64::try_from(seq).unwrap() * 1000 },
            service: Some(ServiceName::new("api").unwrap()),
            kind: EventKind::Violation(Box::new(Violation {
                class: evidence.class(),
                evidence,
                mechanism: Mechanism::Seccomp,
                action,
                count,
                events_lost: 0,
                over_ms: 500,
                run: Some(1),
                process: None,
                rule: "default".to_owned(),
                unless: None,
                suggestion: None,
            })),
        }
    }

    #[test]
    fn one_kind_is_one_row_with_the_most_that_was_done() {
        let mut tally = Tally::default();
        tally.add(&told(1, "mount", PolicyAction::Report, 1));
        tally.add(&told(2, "bpf", PolicyAction::Report, 1));
        tally.add(&told(3, "mount", PolicyAction::Kill, 7));
        tally.add(&told(4, "mount", PolicyAction::Report, 2));
        let rows = tally.rows();
        let shown: Vec<_> =
            rows.iter().map(|row| (row.seq, row.evidence.target().unwrap(), row.action, row.count)).collect();
        assert_eq!(
            shown,
            [(2, "bpf".to_owned(), PolicyAction::Report, 1), (4, "mount".to_owned(), PolicyAction::Kill, 10)]
        );
        assert_eq!((rows[1].first_at.unix_ms, rows[1].last_at.unix_ms), (500, 4000));
        assert_eq!(tally.total(), 11);
    }

    #[test]
    fn rows_are_bounded_and_none_is_forgotten_in_the_sum() {
        let mut tally = Tally::default();
        for seq in 1..=10_000 {
            tally.add(&told(seq, &format!("call{seq}"), PolicyAction::Report, 1));
        }
        let rows = tally.rows();
        assert_eq!(rows.len(), ROWS);
        assert_eq!(rows.last().map(|row| row.seq), Some(10_000));
        assert_eq!(tally.total(), 10_000);
    }
}
