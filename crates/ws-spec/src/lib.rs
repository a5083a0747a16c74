//! The reader of `workspace.yaml`: text to a validated [`ws_model::Workspace`], with every problem of
//! the file at once, each with its place.
//!
//! Owns the file's syntax and meaning: the raw types with their documentation (the JSON Schema is made
//! from them), variables, defaults, the checks that need nothing but the file, the diagnostics and
//! their codes. Opens no file, reads no environment, starts nothing: [`Sources`] has it all. Never
//! panics on what a user wrote, and its work is bounded whatever they wrote.
//!
//! Read [`parse`] first.

mod diag;
mod source;

pub use diag::{Diagnostic, Fix, Place, Style};
pub use source::{Sources, Text};

use std::path::PathBuf;

use ws_model::{ConfigPath, Problem, Workspace};

/// What became of the sources.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The workspace; present exactly when no diagnostic is an error.
    pub workspace: Option<Workspace>,
    /// Where everything stands in the text.
    pub spans: SpanMap,
    /// All problems, errors and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Where the parts of the workspace stand in the text.
#[derive(Debug, Clone, Default)]
pub struct SpanMap {}

impl SpanMap {
    /// The place of a value; of its nearest ancestor where it is not written down.
    #[must_use]
    pub fn locate(&self, at: &ConfigPath) -> Place {
        let _ = at;
        Place { file: PathBuf::new(), start: 0, end: 0, line: 1, column: 1, end_line: 1, end_column: 1 }
    }
}

/// Which further files must be read into [`Sources::files`] before [`parse`]. Tolerates a broken file.
///
/// The name of one file can depend on a variable that another one sets: call it again after reading,
/// until it returns nothing.
#[must_use]
pub fn files_needed(sources: &Sources) -> Vec<PathBuf> {
    let _ = sources;
    Vec::new()
}

/// Reads the workspace.
#[must_use]
pub fn parse(sources: &Sources) -> Parsed {
    let _ = sources;
    Parsed { workspace: None, spans: SpanMap::default(), diagnostics: Vec::new() }
}

/// Gives a problem of the planner its place in the text.
#[must_use]
pub fn diagnose(spans: &SpanMap, problem: &Problem) -> Diagnostic {
    Diagnostic {
        code: problem.code,
        severity: problem.severity,
        message: problem.message.clone(),
        place: spans.locate(&problem.at),
        label: problem.label.clone(),
        related: Vec::new(),
        help: problem.help.clone(),
        fix: None,
    }
}

/// Draws diagnostics for people, each with its source line underlined.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> String {
    let _ = (sources, style);
    diagnostics.iter().map(|d| format!("{}\n", d.message)).collect()
}

/// Diagnostics as JSON for tools: a promised shape.
#[must_use]
pub fn to_json(diagnostics: &[Diagnostic]) -> serde_json::Value {
    let _ = diagnostics;
    serde_json::Value::Array(Vec::new())
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

/// The resolved workspace as a workspace file again, in long forms; with `origins`, where each value
/// came from stands beside it.
#[must_use]
pub fn config(workspace: &Workspace, spans: &SpanMap, origins: bool) -> String {
    let _ = (spans, origins);
    workspace.name.to_string()
}

/// A text about a code of a diagnostic; `None` when there is no such code.
#[must_use]
pub fn explain(code: &str) -> Option<&'static str> {
    let _ = code;
    None
}
