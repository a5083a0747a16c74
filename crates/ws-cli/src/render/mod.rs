//! How things look: pure functions from values to text. Colours are written always; `ui` removes them
//! where they do not belong.

pub mod difference;
pub mod event;
pub mod log;
pub mod progress;
pub mod ps;
pub mod report;
pub mod stats;
pub mod summary;
pub mod svg;
pub mod violation;
pub mod watch;

use anstyle::Style;
use ws_model::Phase;

use crate::ui::{BAD, CARE, DIM, GOOD};

/// The style of a phase's word. Colour is decoration only: the word says the same.
#[must_use]
pub fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Ready => GOOD,
        Phase::Failed | Phase::Violated | Phase::Unhealthy => BAD,
        Phase::Backoff | Phase::Stopping => CARE,
        Phase::Pending | Phase::Waiting | Phase::Stopped | Phase::Exited => DIM,
        Phase::Building | Phase::Starting | Phase::Running => Style::new(),
    }
}

/// A cell of a [`table`].
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    /// How many characters it has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// A cell without a style; `-` where there is nothing to say.
    pub fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() { Self::new("-", DIM) } else { Self::new(text, Style::new()) }
    }
}

/// Columns that are aligned, two spaces apart; the last one is cut to `width` where there is one.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<Cell>], width: Option<usize>) -> String {
    let count = header.len();
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.text.chars().count()));
            cells.chain([header[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let used: usize = widths.iter().take(count.saturating_sub(1)).map(|width| width + 2).sum();
    let room = width.map(|width| width.saturating_sub(used).max(10));
    let heading = header.iter().map(|text| Cell::new(*text, DIM)).collect::<Vec<_>>();
    let mut out = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        for (column, cell) in row.iter().enumerate() {
            let style = cell.style;
            if column + 1 == count {
                let text = room.map_or_else(|| cell.text.clone(), |room| cut(&cell.text, room));
                out += &format!("{style}{text}{style:#}");
            } else {
                let pad = widths[column].saturating_sub(cell.text.chars().count()) + 2;
                out += &format!("{style}{}{style:#}{:pad$}", cell.text, "");
            }
        }
        out.push('\n');
    }
    out
}

/// At most `room` characters of a text, with `…` where something is missing.
#[must_use]
pub fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(room.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Names for reading: `a, b and c`.
#[must_use]
pub fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_cut_to_the_terminal() {
        let rows = vec![vec![Cell::plain("api"), Cell::plain("a very long cause that does not fit")]];
        let text = anstream::adapter::strip_str(&table(&["A", "B"], &rows, Some(20))).to_string();
        assert_eq!(text, "A    B\napi  a very long ca…\n");
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
