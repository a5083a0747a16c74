//! The table of `ws stats`.

use ws_model::wire::StatsSample;

use crate::render::{Cell, table as columns};
use crate::ui::{BAD, CARE, Size};
use crate::units::human_bytes;

/// From which share of its limit on the memory of a service is pointed out, in percent.
const NEAR: u64 = 90;

/// The samples as a table; at most `width` columns where that is given.
#[must_use]
pub fn table(rows: &[StatsSample], width: Option<usize>) -> String {
    let cells: Vec<Vec<Cell>> = rows.iter().map(row).collect();
    columns(&["SERVICE", "CPU", "MEMORY", "LIMIT", "PIDS"], &cells, width)
}

/// The same as lines that fit a terminal: who uses most processor time is shown where there is no room for
/// all.
#[must_use]
pub fn screen(rows: &[StatsSample], size: Option<Size>) -> Vec<String> {
    // One line for the heading, one for what is left out, one that stays free for the cursor.
    let room = size.map_or(usize::MAX, |size| size.rows.saturating_sub(3).max(1));
    let mut shown = rows.to_vec();
    let left_out = shown.len().saturating_sub(room);
    if left_out > 0 {
        shown.sort_by(|a, b| b.cpu_percent.unwrap_or(0.0).total_cmp(&a.cpu_percent.unwrap_or(0.0)));
        shown.truncate(room);
        shown.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let text = table(&shown, size.map(|size| size.columns));
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    if left_out > 0 {
        lines.push(format!("{left_out} more use less"));
    }
    lines
}

fn row(sample: &StatsSample) -> Vec<Cell> {
    let cpu = sample.cpu_percent.map(|percent| format!("{percent:.1}%")).unwrap_or_default();
    let memory = sample.memory_bytes.map(human_bytes).unwrap_or_default();
    let share = sample.memory_bytes.zip(sample.memory_limit_bytes).map(|(used, limit)| {
        // A limit of 0 is none that a kernel takes.
        used.saturating_mul(100) / limit.max(1)
    });
    let memory = match share {
        Some(share) if share >= NEAR => Cell::new(memory, if share >= 100 { BAD } else { CARE }),
        _ => Cell::plain(memory),
    };
    let limit = match (sample.memory_limit_bytes, share) {
        (Some(limit), Some(share)) => format!("{} ({share}%)", human_bytes(limit)),
        (Some(limit), None) => human_bytes(limit),
        (None, _) => String::new(),
    };
    let pids = sample.pids.map(|pids| pids.to_string()).unwrap_or_default();
    vec![Cell::plain(sample.name.as_str()), Cell::plain(cpu), memory, Cell::plain(limit), Cell::plain(pids)]
}

#[cfg(test)]
mod tests {
    use ws_model::{ServiceName, Timestamp};

    use super::*;

    fn sample(name: &str, cpu: Option<f64>, memory: Option<u64>, limit: Option<u64>) -> StatsSample {
        StatsSample {
            at: Timestamp { unix_ms: 0 },
            service: ServiceName::new(name).unwrap(),
            name: ServiceName::new(name).unwrap(),
            memory_bytes: memory,
            memory_limit_bytes: limit,
            cpu_usec: None,
            cpu_percent: cpu,
            pids: Some(3),
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn stack() -> [StatsSample; 4] {
        [
            sample("api", Some(12.34), Some(12 << 20), Some(64 << 20)),
            sample("db", Some(150.0), Some(120 << 20), None),
            sample("idle", None, None, None),
            sample("web", Some(0.04), Some(62 << 20), Some(64 << 20)),
        ]
    }

    #[test]
    fn what_each_service_uses_is_a_row() {
        insta::assert_snapshot!(plain(&table(&stack(), None)), @r#"
        SERVICE  CPU     MEMORY  LIMIT      PIDS
        api      12.3%   12M     64M (18%)  3
        db       150.0%  120M    -          3
        idle     -       -       -          3
        web      0.0%    62M     64M (96%)  3
        "#);
        assert!(table(&stack(), None).contains(&crate::ui::paint(CARE, "62M")), "near its limit");
    }

    #[test]
    fn a_small_terminal_shows_who_uses_most() {
        let lines = screen(&stack(), Some(Size { columns: 60, rows: 5 }));
        assert!(lines.len() < 5, "a line stays free for the cursor: {lines:?}");
        insta::assert_snapshot!(plain(&lines.join("\n")), @r#"
        SERVICE  CPU     MEMORY  LIMIT      PIDS
        api      12.3%   12M     64M (18%)  3
        db       150.0%  120M    -          3
        2 more use less
        "#);
    }
}
