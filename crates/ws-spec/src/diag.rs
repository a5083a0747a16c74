//! Diagnostics: problems with their places in the text, for people ([`render`]) and for tools
//! ([`to_json`]).
//!
//! Wording: lower case, no full stop, backticks around what the user typed. The message says what is
//! wrong, the label points, the help says what to do.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use ws_model::Severity;

use crate::Sources;

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file. Absolute.
    pub file: PathBuf,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset behind its last byte.
    pub end: usize,
    /// Line of `start`, from 1.
    pub line: usize,
    /// Column of `start`, from 1, in characters.
    pub column: usize,
    /// Line of `end`, from 1.
    pub end_line: usize,
    /// Column of `end`, from 1, in characters.
    pub end_column: usize,
}

/// A change of the text that mends a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What is replaced.
    pub place: Place,
    /// By what.
    pub replacement: String,
}

/// A problem with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable code, explained by [`crate::explain`].
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What the underline says; empty for a bare underline.
    pub label: String,
    /// Other places that belong to it, each with its own label.
    pub related: Vec<(Place, String)>,
    /// What to do about it, a line each.
    pub help: Vec<String>,
    /// A change that mends it.
    pub fix: Option<Fix>,
}

/// How [`render`] draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether terminal colours are used.
    pub color: bool,
    /// Columns of the terminal; longer source lines are cropped.
    pub width: usize,
}

impl Style {
    /// No colours, and the width that files and pipes get.
    pub const PLAIN: Self = Self { color: false, width: DEFAULT_TERM_WIDTH };
}
