//! Attempts: what a hostile service tries, as data, and what must come of it.
//!
//! A row names a command of `ws-e2e-attack`, which is run inside a service and says in one line of JSON what
//! came of it. Adding an attempt is adding a row; a new kind of attempt is a new verb of that program.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::stack::{Mode, Stack};

/// What came of an attempt, as `ws-e2e-attack` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// Its number among those that were asked for.
    pub attempt: usize,
    /// `did`, `none` (nothing of what was looked for was found), `silent` (no answer in time), `broken` (the
    /// attempt itself could not be made), the name of an error (`EPERM`) or of a signal (`SIGSYS`).
    pub outcome: String,
    /// More about it.
    pub detail: String,
    /// When it was made: microseconds since 1970, by the clock that events have too.
    pub at_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Microseconds since 1970.
#[must_use]
pub fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// One attempt and what must come of it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What it is about.
    pub group: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// The verb and its arguments; `{name}` stands for a value of the run, and a first word `db:` for the
    /// service in which it is tried.
    pub command: &'static str,
    /// The outcomes that are right, separated by `|`.
    pub right: &'static str,
}

/// A row.
#[must_use]
pub const fn row(group: &'static str, what: &'static str, command: &'static str, right: &'static str) -> Row {
    Row { group, what, command, right }
}

/// A row with what came of it.
#[derive(Debug)]
pub struct Tried {
    /// The row.
    pub row: Row,
    /// What came.
    pub came: Came,
}

impl Tried {
    /// Whether what came is right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.row.right.split('|').any(|right| right == self.came.outcome)
    }
}

/// Tries all rows in a stack that is up; `values` stand for the names in braces.
///
/// # Panics
/// When the program cannot be run, or a row uses an unknown name.
#[must_use]
pub fn try_all(stack: &Stack, service: &str, rows: &[Row], values: &BTreeMap<&str, String>) -> Vec<Tried> {
    let mut batches: BTreeMap<String, Vec<(usize, Vec<String>)>> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        let mut words: Vec<String> = row.command.split_whitespace().map(|word| fill(word, values)).collect();
        let place = match words.first().and_then(|word| word.strip_suffix(':')) {
            Some(place) => {
                let place = place.to_owned();
                words.remove(0);
                place
            }
            None => service.to_owned(),
        };
        batches.entry(place).or_default().push((number, words));
    }
    let mut came: BTreeMap<usize, Came> = BTreeMap::new();
    for (place, commands) in batches {
        for commands in commands.chunks(40) {
            let lines = serde_json::to_string(&commands).expect("plain data");
            let ran = stack.exec(&place, &[&stack.bin("ws-e2e-attack"), "batch", &lines]);
            assert_eq!(ran.code, 0, "{ran}\n{}", stack.story());
            for line in ran.out.lines() {
                let one: Came = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                came.insert(one.attempt, one);
            }
        }
    }
    let tried = rows.iter().enumerate().map(|(number, row)| {
        let came = came.remove(&number);
        let came = came.unwrap_or_else(|| panic!("nothing came of `{}` ({})", row.what, row.command));
        Tried { row: *row, came }
    });
    tried.collect()
}

fn fill(word: &str, values: &BTreeMap<&str, String>) -> String {
    let mut text = word.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    assert!(!text.contains('{'), "`{word}` has a name that is not among the values");
    text
}

/// The table of what was tried.
#[must_use]
pub fn table(mode: Mode, tried: &[Tried]) -> String {
    let mut text = format!("{} attempts, ws run as {mode}\n", tried.len());
    for Tried { row, came } in tried {
        let what: String = row.what.chars().take(58).collect();
        let outcome = &came.outcome;
        let _ = writeln!(text, "  {:10} {what:58} {outcome:14} {:>7} µs", row.group, came.took_us);
    }
    text
}

/// Fails when something came that is not right; says all of it.
///
/// # Panics
/// When something is not right.
pub fn assert_right(mode: Mode, tried: &[Tried]) {
    let wrong: Vec<String> = tried
        .iter()
        .filter(|tried| !tried.is_right())
        .map(|Tried { row, came }| {
            format!(
                "{}: {} (`{}`): {} instead of {}: {}",
                row.group, row.what, row.command, came.outcome, row.right, came.detail
            )
        })
        .collect();
    assert!(wrong.is_empty(), "as {mode}, {} attempts ended wrongly:\n{}", wrong.len(), wrong.join("\n"));
}
