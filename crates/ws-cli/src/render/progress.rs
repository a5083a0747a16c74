//! The block that stands at the bottom of the terminal while the stack comes up or goes down: a line
//! for each service with its phase and what it waits for.

use std::time::Duration;

use ws_model::{Phase, ServiceName};

use crate::render::{cut, phase_style};
use crate::ui::{BAD, DIM, GOOD, Size, paint};
use crate::units::human_duration;
use crate::view::{Row, View};

/// What the block counts towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Everything ready.
    Up,
    /// Nothing running.
    Down,
}

/// The block: one string a line, none wider or more than the terminal has room for.
///
/// Services that are where they should be are folded into the last line first when there is no room.
#[must_use]
pub fn block(view: &View, wanted: &[ServiceName], goal: Goal, elapsed: Duration, size: Size) -> Vec<String> {
    let shown: Vec<(&ServiceName, &Row)> =
        view.wanted(wanted).filter(|(_, row)| goal == Goal::Up || !is_untouched(row)).collect();
    let done = shown.iter().filter(|(_, row)| is_there(row, goal)).count();
    let total = shown.len();
    // One line for the count, one that stays free for the cursor, and room for a few lines of logs.
    let room = size.rows.saturating_sub(4).clamp(1, 30);
    let mut rows = shown;
    let mut folded = 0;
    if rows.len() > room {
        // Stable: what is not there yet comes first, each group in the order of names.
        rows.sort_by_key(|(_, row)| is_there(row, goal));
        folded = rows.len() - room;
        rows.truncate(room);
    }
    let width = rows.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0).min(30);
    let mut lines: Vec<String> =
        rows.iter().map(|(name, row)| line(name, row, goal, width, size.columns)).collect();
    let word = match goal {
        Goal::Up => "ready",
        Goal::Down => "stopped",
    };
    let more = if folded > 0 { format!(" · {folded} more") } else { String::new() };
    lines.push(paint(DIM, format_args!("{done}/{total} {word} · {}{more}", human_duration(elapsed))));
    lines
}

fn is_untouched(row: &Row) -> bool {
    row.phase == Phase::Pending
}

fn is_there(row: &Row, goal: Goal) -> bool {
    match goal {
        Goal::Up => row.is_ready(),
        Goal::Down => row.phase.is_settled_down(),
    }
}

fn line(name: &ServiceName, row: &Row, goal: Goal, width: usize, columns: usize) -> String {
    let mark = if is_there(row, goal) {
        paint(GOOD, "✓")
    } else if row.is_lost() {
        paint(BAD, "✗")
    } else {
        paint(phase_style(row.phase), "·")
    };
    let name = cut(name.as_str(), width);
    let phase = paint(phase_style(row.phase), format_args!("{:9}", row.phase));
    let used = 2 + width + 2 + 9 + 2;
    let cause = cut(&row.cause.text, columns.saturating_sub(used + 1).max(8));
    format!("{mark} {name:width$}  {phase}  {}", paint(DIM, cause))
}

/// Control sequences that take away a block of `lines` lines above the cursor.
#[must_use]
pub fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") }
}

#[cfg(test)]
mod tests {
    use ws_model::wire::ServiceStatus;
    use ws_model::{Reason, ServiceKind};

    use super::*;
    use crate::render::ps::tests::status;

    fn draw(rows: &[ServiceStatus], wanted: &[&str], goal: Goal, size: Size) -> String {
        let wanted: Vec<ServiceName> = wanted.iter().map(|name| ServiceName::new(*name).unwrap()).collect();
        let lines = block(&View::of(rows), &wanted, goal, Duration::from_millis(4210), size);
        for line in &lines {
            assert!(anstream::adapter::strip_str(line).to_string().chars().count() <= size.columns, "{line}");
        }
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    fn stack() -> Vec<ServiceStatus> {
        vec![
            status("api", Phase::Waiting, Reason::Dependency, "for db to be ready"),
            status("db", Phase::Running, Reason::ProbeFailed, "tcp 5432: connection refused"),
            status("legacy", Phase::Failed, Reason::Exit, "exited with 1"),
            ServiceStatus {
                service_kind: ServiceKind::Task,
                exit_code: Some(0),
                ..status("migrate", Phase::Exited, Reason::Exit, "finished")
            },
            status("web", Phase::Ready, Reason::ProbeOk, "http 200 from :3000/"),
        ]
    }

    #[test]
    fn every_service_says_what_it_waits_for() {
        insta::assert_snapshot!(draw(&stack(), &[], Goal::Up, Size { columns: 80, rows: 24 }), @r#"
        · api      waiting    for db to be ready
        · db       running    tcp 5432: connection refused
        ✗ legacy   failed     exited with 1
        ✓ migrate  exited     finished
        ✓ web      ready      http 200 from :3000/
        2/5 ready · 4.2 s
        "#);
    }

    #[test]
    fn a_small_terminal_shows_what_is_not_there_yet() {
        insta::assert_snapshot!(draw(&stack(), &[], Goal::Up, Size { columns: 40, rows: 7 }), @r#"
        · api     waiting    for db to be ready
        · db      running    tcp 5432: connect…
        ✗ legacy  failed     exited with 1
        2/5 ready · 4.2 s · 2 more
        "#);
    }

    #[test]
    fn going_down_counts_the_other_way() {
        let mut rows = stack();
        rows.push(status("spare", Phase::Pending, Reason::Requested, ""));
        rows[4].phase = Phase::Stopping;
        insta::assert_snapshot!(draw(&rows, &[], Goal::Down, Size { columns: 80, rows: 24 }), @r#"
        · api      waiting    for db to be ready
        · db       running    tcp 5432: connection refused
        ✓ legacy   failed     exited with 1
        ✓ migrate  exited     finished
        · web      stopping   http 200 from :3000/
        2/5 stopped · 4.2 s
        "#);
    }

    #[test]
    fn only_what_is_wanted_is_shown() {
        insta::assert_snapshot!(draw(&stack(), &["web"], Goal::Up, Size { columns: 80, rows: 24 }), @r#"
        ✓ web  ready      http 200 from :3000/
        1/1 ready · 4.2 s
        "#);
    }

    #[test]
    fn erasing_nothing_writes_nothing() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(2), "\x1b[2A\r\x1b[J");
    }
}
