//! Diagnostics: problems with their places in the text, for people ([`render`]) and for tools
//! ([`to_json`]).
//!
//! Wording: lower case, no full stop, backticks around what the user typed. The message says what is
//! wrong, the label points, the help says what to do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Patch, Renderer, Snippet};
use serde::Serialize;
use ws_model::Severity;

use crate::Sources;
use crate::report::SourceFile;

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

/// Draws diagnostics for people: each with its source line underlined, and what to do.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> String {
    let mut files: BTreeMap<PathBuf, Option<SourceFile>> = BTreeMap::new();
    for place in diagnostics.iter().flat_map(places_of) {
        files
            .entry(place.file.clone())
            .or_insert_with(|| sources.text_of(&place.file).map(|text| SourceFile::new(&place.file, &text)));
    }
    let renderer = if style.color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(style.width.max(40));
    let drawing = Drawing { files, root: &sources.root, renderer };
    diagnostics.iter().map(|diagnostic| drawing.draw(diagnostic)).collect()
}

fn places_of(diagnostic: &Diagnostic) -> impl Iterator<Item = &Place> {
    let related = diagnostic.related.iter().map(|(place, _)| place);
    let fix = diagnostic.fix.iter().map(|fix| &fix.place);
    std::iter::once(&diagnostic.place).chain(related).chain(fix)
}

/// A place that is underlined.
struct Annotated<'a> {
    place: &'a Place,
    label: &'a str,
    kind: AnnotationKind,
}

/// A place as a part of the lines that are shown, whatever text the place was made for.
fn within(place: &Place, window: &Range<usize>) -> Range<usize> {
    let inside = |at: usize| at.clamp(window.start, window.end) - window.start;
    inside(place.start)..inside(place.end)
}

struct Drawing<'a> {
    files: BTreeMap<PathBuf, Option<SourceFile>>,
    root: &'a Path,
    renderer: Renderer,
}

impl Drawing<'_> {
    fn draw(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&diagnostic.message).id(diagnostic.code);
        let mut main = Group::with_title(title);
        let primary =
            Annotated { place: &diagnostic.place, label: &diagnostic.label, kind: AnnotationKind::Primary };
        let mut by_file: Vec<(&Path, Vec<Annotated<'_>>)> = vec![(&diagnostic.place.file, vec![primary])];
        for (place, label) in &diagnostic.related {
            let annotation = Annotated { place, label, kind: AnnotationKind::Context };
            match by_file.iter_mut().find(|(file, _)| *file == place.file) {
                Some((_, annotations)) => annotations.push(annotation),
                None => by_file.push((&place.file, vec![annotation])),
            }
        }
        for (file, annotations) in by_file {
            main = self.snippet(main, file, &annotations);
        }
        // The first line of help belongs to the change, and is drawn with it.
        let patch = diagnostic
            .fix
            .as_ref()
            .and_then(|fix| self.patch(fix, diagnostic.help.first().map_or("write", String::as_str)));
        for help in diagnostic.help.iter().skip(usize::from(patch.is_some())) {
            main = main.element(Level::HELP.message(help));
        }
        let report: Vec<_> = std::iter::once(main).chain(patch).collect();
        let mut out = self.renderer.render(&report);
        out.push_str("\n\n");
        out
    }

    fn snippet<'a>(&'a self, group: Group<'a>, file: &'a Path, annotations: &[Annotated<'a>]) -> Group<'a> {
        let path = self.shown_path(file);
        let first = annotations.iter().map(|it| it.place.line).min().unwrap_or(1);
        let last = annotations.iter().map(|it| it.place.end_line).max().unwrap_or(1);
        let Some(Some(source)) = self.files.get(file) else {
            return group.element(Origin::path(path).line(first));
        };
        let window = source.window(first, last);
        let mut snippet = Snippet::source(&source.text[window.clone()]).line_start(first).path(path);
        for Annotated { place, label, kind } in annotations {
            let label = (!label.is_empty()).then_some(*label);
            snippet = snippet.annotation(kind.span(within(place, &window)).label(label));
        }
        group.element(snippet)
    }

    /// The change as a small diff; nothing where its file cannot be shown.
    fn patch<'a>(&'a self, fix: &'a Fix, help: &'a str) -> Option<Group<'a>> {
        let source = self.files.get(&fix.place.file)?.as_ref()?;
        let window = source.window(fix.place.line, fix.place.end_line);
        let patch = Patch::new(within(&fix.place, &window), fix.replacement.as_str());
        let snippet = Snippet::source(&source.text[window])
            .line_start(fix.place.line)
            .path(self.shown_path(&fix.place.file))
            .patch(patch);
        Some(Level::HELP.secondary_title(help).element(snippet))
    }

    /// Relative to the project root where it is below: that is where people are.
    fn shown_path(&self, file: &Path) -> String {
        file.strip_prefix(self.root).unwrap_or(file).display().to_string()
    }
}

/// Diagnostics as JSON for tools: an array of
/// `{code, severity, message, file, line, column, end_line, end_column, start, end, label, related, help, fix}`.
///
/// A promised shape. Lines and columns count from 1, columns in characters; `start` and `end` are byte
/// offsets. `fix` is null or `{file, line, column, end_line, end_column, start, end, replacement}`.
#[must_use]
pub fn to_json(diagnostics: &[Diagnostic]) -> serde_json::Value {
    let written: Vec<Written<'_>> = diagnostics.iter().map(Written::from).collect();
    serde_json::json!(written)
}

/// The JSON Schema of what [`to_json`] gives.
#[must_use]
pub fn diagnostics_schema() -> serde_json::Value {
    let generator = schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Vec<Written<'_>>>();
    schema.insert("title".into(), "What `ws check --json` prints".into());
    schema.to_value()
}

/// A problem of the workspace with its place in the text.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Diagnostic")]
struct Written<'a> {
    /// A stable code: `ws explain CODE` says more.
    #[schemars(extend("pattern" = "^WS[0-9]{4}$"))]
    code: &'a str,
    /// How bad it is: nothing starts while an error stands.
    severity: WrittenSeverity,
    /// What is wrong.
    message: &'a str,
    /// The file. Absolute.
    file: String,
    /// Its line, from 1.
    line: usize,
    /// Its column, from 1, in characters.
    column: usize,
    /// The line of its end, from 1.
    end_line: usize,
    /// The column of its end, from 1, in characters.
    end_column: usize,
    /// Byte offset of its first byte.
    start: usize,
    /// Byte offset behind its last byte.
    end: usize,
    /// What the underline says; empty for a bare underline.
    label: &'a str,
    /// Other places that belong to it.
    related: Vec<WrittenRelated<'a>>,
    /// What to do about it, a line each.
    help: &'a [String],
    /// A change of the text that mends it.
    fix: Option<WrittenFix<'a>>,
}

/// How bad a problem is.
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Severity")]
enum WrittenSeverity {
    Error,
    Warning,
}

/// Another place that belongs to a problem.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Related")]
struct WrittenRelated<'a> {
    /// The file. Absolute.
    file: String,
    /// Its line, from 1.
    line: usize,
    /// Its column, from 1, in characters.
    column: usize,
    /// The line of its end, from 1.
    end_line: usize,
    /// The column of its end, from 1, in characters.
    end_column: usize,
    /// Byte offset of its first byte.
    start: usize,
    /// Byte offset behind its last byte.
    end: usize,
    /// What it has to do with the problem.
    label: &'a str,
}

/// A change of the text.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Fix")]
struct WrittenFix<'a> {
    /// The file. Absolute.
    file: String,
    /// The line of what is replaced, from 1.
    line: usize,
    /// Its column, from 1, in characters.
    column: usize,
    /// The line of its end, from 1.
    end_line: usize,
    /// The column of its end, from 1, in characters.
    end_column: usize,
    /// Byte offset of its first byte.
    start: usize,
    /// Byte offset behind its last byte.
    end: usize,
    /// What comes in its place.
    replacement: &'a str,
}

/// A place spelled out, since a flattened field would be none of the schema's.
macro_rules! at {
    ($Type:ident, $place:expr, $($field:ident: $value:expr),* $(,)?) => {{
        let place: &Place = $place;
        $Type {
            file: place.file.display().to_string(),
            line: place.line,
            column: place.column,
            end_line: place.end_line,
            end_column: place.end_column,
            start: place.start,
            end: place.end,
            $($field: $value),*
        }
    }};
}

impl<'a> From<&'a Diagnostic> for Written<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        at!(Written, &diagnostic.place,
            code: diagnostic.code,
            severity: match diagnostic.severity {
                Severity::Error => WrittenSeverity::Error,
                Severity::Warning => WrittenSeverity::Warning,
            },
            message: &diagnostic.message,
            label: &diagnostic.label,
            related: diagnostic
                .related
                .iter()
                .map(|(place, label)| at!(WrittenRelated, place, label: label))
                .collect(),
            help: &diagnostic.help,
            fix: diagnostic
                .fix
                .as_ref()
                .map(|fix| at!(WrittenFix, &fix.place, replacement: &fix.replacement)),
        )
    }
}
