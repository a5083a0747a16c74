//! Collects problems while the file is read and turns them into [`Diagnostic`]s.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_model::Severity;

use crate::codes;
use crate::diag::{Diagnostic, Fix, Place};
use crate::yaml::Span;

/// How many problems are kept: more are of no use to anybody, and each costs time to draw.
const MAX_DIAGNOSTICS: usize = 100;

/// A text with the starts of its lines.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) text: Arc<str>,
    line_starts: Arc<[usize]>,
}

impl SourceFile {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self {
            path: path.to_owned(),
            text: text.into(),
            line_starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// Line and column of an offset, both from 1, the column in characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    /// The bytes of these lines, both included, without the last one's end.
    pub(crate) fn window(&self, first: usize, last: usize) -> Range<usize> {
        let start_of = |line: usize| self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let start = start_of(first.max(1));
        let end = start_of(last.max(1) + 1);
        let text = self.text.get(start..end).unwrap_or_default();
        start..start + text.strip_suffix('\n').unwrap_or(text).len()
    }

    pub(crate) fn place(&self, range: Range<usize>) -> Place {
        let floor = |mut at: usize| {
            at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (floor(range.start), floor(range.end.max(range.start)));
        let (line, column) = self.position(start);
        let (end_line, end_column) = self.position(end);
        Place { file: self.path.clone(), start, end, line, column, end_line, end_column }
    }
}

/// The workspace files, one behind the other, with a gap of one between them: a [`Span`] is a stretch of them all,
/// and its start says of which.
#[derive(Debug, Clone)]
pub(crate) struct SourceMap {
    /// Never empty, ascending: where each starts.
    files: Vec<(usize, SourceFile)>,
}

impl SourceMap {
    pub(crate) fn new(first: SourceFile) -> Self {
        Self { files: vec![(0, first)] }
    }

    /// Adds a file, and says where it starts.
    pub(crate) fn add(&mut self, file: SourceFile) -> usize {
        let base = self.files.last().map_or(0, |(start, file)| start + file.text.len() + 1);
        self.files.push((base, file));
        base
    }

    fn at(&self, offset: usize) -> (usize, &SourceFile) {
        let index = self.files.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let (start, file) = &self.files[index];
        (*start, file)
    }

    /// The workspace file itself.
    pub(crate) fn first(&self) -> &SourceFile {
        &self.files[0].1
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        let range = span.range();
        let (start, file) = self.at(range.start);
        file.place(range.start - start..range.end - start)
    }

    /// The line in which a span starts.
    pub(crate) fn line(&self, span: Span) -> &str {
        let (start, file) = self.at(span.range().start);
        let (line, _) = file.position(span.range().start - start);
        file.text.get(file.window(line, line)).unwrap_or_default()
    }

    /// What of the name of a setting stands before a part of it: `limits.`; nothing in a file.
    pub(crate) fn setting_before(&self, span: Span) -> &str {
        let (start, file) = self.at(span.range().start);
        if !crate::settings::is_settings(&file.path) {
            return "";
        }
        let before = file.text.get(..span.range().start - start).unwrap_or_default();
        before.rsplit('\n').next().unwrap_or_default()
    }

    /// The text from an offset to the end of its file.
    pub(crate) fn from(&self, offset: usize) -> &str {
        let (start, file) = self.at(offset);
        file.text.get(offset - start..).unwrap_or_default()
    }

    /// The text of the file before an offset.
    pub(crate) fn until(&self, offset: usize) -> &str {
        let (start, file) = self.at(offset);
        file.text.get(..offset - start).unwrap_or_default()
    }

    /// What is written there.
    pub(crate) fn text(&self, span: Span) -> Option<&str> {
        let range = span.range();
        let (start, file) = self.at(range.start);
        file.text.get(range.start - start..range.end - start)
    }
}

/// A problem that is being described: place in the workspace file first, [`Report::push`] last.
#[derive(Debug)]
pub(crate) struct Issue {
    code: &'static str,
    severity: Severity,
    message: String,
    at: At,
    label: String,
    related: Vec<(Span, String)>,
    help: Vec<String>,
    fix: Option<(Span, String)>,
}

/// Where an [`Issue`] is.
#[derive(Debug)]
enum At {
    Workspace(Span),
    Elsewhere(Place),
}

pub(crate) fn error(code: &'static str, span: Span, message: impl Into<String>) -> Issue {
    Issue {
        code,
        severity: Severity::Error,
        message: message.into(),
        at: At::Workspace(span),
        label: String::new(),
        related: Vec::new(),
        help: Vec::new(),
        fix: None,
    }
}

pub(crate) fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Issue {
    Issue { severity: Severity::Warning, ..error(code, span, message) }
}

impl Issue {
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(crate) fn fix(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.fix = Some((span, replacement.into()));
        self
    }

    pub(crate) fn into_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Moves it into another file than the workspace file.
    pub(crate) fn elsewhere(mut self, place: Place) -> Self {
        self.at = At::Elsewhere(place);
        self
    }

    /// `did you mean …?`, with the change, when one of the known words is near.
    pub(crate) fn did_you_mean<'a>(
        self,
        span: Span,
        typed: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        match nearest(typed, known) {
            Some(word) => self.help(format!("did you mean `{word}`?")).fix(span, word),
            None => self,
        }
    }
}

/// The known word that is nearest to what was typed, when it is near enough to be meant.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 3).max(1);
    nearest_within(&typed.to_lowercase(), known, allowed)
}

/// The same for names whose case means something: variables.
pub(crate) fn nearest_exact<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (typed.chars().count() / 4).max(1);
    nearest_within(typed, known, allowed).filter(|word| typed.len() > 2 && word.len() > 2)
}

fn nearest_within<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
    allowed: usize,
) -> Option<&'a str> {
    /// Comparing costs time: nobody needs the nearest of more.
    const MOST: usize = 5_000;
    // Longer words than any of ours are no slips of the finger.
    if typed.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .take(MOST)
        .filter(|word| word.len().abs_diff(typed.len()) <= 4 * allowed)
        .map(|word| (strsim::osa_distance(typed, word), word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min()
        .map(|(_, word)| word)
}

/// What a user wrote, fit for a message: short, and without characters that a terminal obeys.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// The problems of one run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) files: SourceMap,
    diagnostics: Vec<Diagnostic>,
    /// An anchor's content is read once for each of its aliases, `defaults` for each service: what is
    /// wrong there is told once.
    seen: BTreeSet<(&'static str, Place, String)>,
    dropped: usize,
}

impl Report {
    pub(crate) fn new(file: SourceFile) -> Self {
        Self { files: SourceMap::new(file), diagnostics: Vec::new(), seen: BTreeSet::new(), dropped: 0 }
    }

    pub(crate) fn push(&mut self, issue: Issue) {
        self.push_with(issue, |issue| issue);
    }

    /// Adds what takes time to find out only to an issue that is going to be shown.
    pub(crate) fn push_with(&mut self, issue: Issue, finish: impl FnOnce(Issue) -> Issue) {
        if self.diagnostics.len() >= MAX_DIAGNOSTICS {
            self.dropped += 1;
            return;
        }
        let place = match &issue.at {
            At::Workspace(span) => self.files.place(*span),
            At::Elsewhere(place) => place.clone(),
        };
        if !self.seen.insert((issue.code, place.clone(), issue.message.clone())) {
            return;
        }
        let issue = finish(issue);
        let place_of = |span: Span| self.files.place(span);
        self.diagnostics.push(Diagnostic {
            code: issue.code,
            severity: issue.severity,
            message: issue.message,
            place,
            label: issue.label,
            related: issue.related.into_iter().map(|(span, label)| (place_of(span), label)).collect(),
            help: issue.help,
            fix: issue.fix.map(|(span, replacement)| Fix { place: place_of(span), replacement }),
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.dropped > 0 || self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    /// All of them, in the order of their places.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        let first = self.files.first();
        self.diagnostics.sort_by(|a, b| {
            let other_file = |d: &Diagnostic| d.place.file != first.path;
            (other_file(a), &a.place, a.code).cmp(&(other_file(b), &b.place, b.code))
        });
        if self.dropped > 0 {
            self.diagnostics.push(Diagnostic {
                code: codes::TOO_MANY,
                severity: Severity::Error,
                message: format!("{} more problems are not shown", self.dropped),
                place: self.files.place(Span::default()),
                label: String::new(),
                related: Vec::new(),
                help: Vec::new(),
                fix: None,
            });
        }
        self.diagnostics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["cache", "db", "api"];
        assert_eq!(nearest("chache", known), Some("cache"));
        assert_eq!(nearest("bd", known), Some("db"));
        assert_eq!(nearest("Cache", known), Some("cache"));
        assert_eq!(nearest("zz", known), None);
        assert_eq!(nearest("queue", known), None);
        assert_eq!(nearest(&"c".repeat(1000), known), None);
    }

    #[test]
    fn places_count_characters() {
        let file = SourceFile::new(Path::new("/w.yaml"), "ä: b\nc: ü\n");
        let place = file.place(9..11);
        assert_eq!((place.line, place.column, place.end_line, place.end_column), (2, 4, 2, 5));
        let end = file.place(500..900);
        assert_eq!((end.line, end.column), (3, 1));
    }

    #[test]
    fn a_span_says_of_which_file_it_is() {
        let mut files = SourceMap::new(SourceFile::new(Path::new("/a"), "ab"));
        let second = files.add(SourceFile::new(Path::new("/b"), ""));
        let third = files.add(SourceFile::new(Path::new("/c"), "x: y\n"));
        for (span, file, text) in [
            (Span::new(1, 2), "/a", Some("b")),
            (Span::new(2, 2), "/a", Some("")),
            (Span::new(second, second), "/b", Some("")),
            (Span::new(third, third + 1), "/c", Some("x")),
            (Span::new(third + 5, third + 5), "/c", Some("")),
            (Span::new(third - 1, third + 1), "/b", None),
        ] {
            assert_eq!(
                (files.place(span).file.as_path(), files.text(span)),
                (Path::new(file), text),
                "{span:?}"
            );
        }
        assert_eq!((files.place(Span::new(third + 3, third + 4)).line, files.first().text.len()), (1, 2));
    }

    #[test]
    fn what_is_shown_cannot_drive_a_terminal() {
        assert_eq!(shown("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 61);
    }
}
