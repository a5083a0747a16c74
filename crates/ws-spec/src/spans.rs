//! Where the parts of the workspace stand in the text, and where their values came from.

mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_model::problem::Segment;
use ws_model::{ConfigPath, Problem};

use crate::diag::{Diagnostic, Fix, Place};
use crate::report::SourceMap;
use crate::vars::Source;
use crate::yaml::{Node, Span, Value};

/// Where the parts of the workspace stand in the text.
///
/// A value that a service has from `defaults` is found there.
#[derive(Debug, Clone)]
pub struct SpanMap {
    files: SourceMap,
    /// One for each file.
    trees: Vec<Arc<Node>>,
    /// By the path of the variable.
    pub(crate) environment: Arc<BTreeMap<ConfigPath, VariableOrigin>>,
}

/// Where the value of an environment variable came from, when not from the workspace file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VariableOrigin {
    /// A line of an env file.
    File(PathBuf, usize),
    /// Passed through.
    Environment,
}

/// What stands at a path.
struct Found<'a> {
    /// How many steps were found.
    steps: usize,
    /// The key of the last step that was found, and its value.
    key: Option<Span>,
    node: &'a Node,
}

impl SpanMap {
    pub(crate) fn new(files: SourceMap, trees: Vec<Arc<Node>>) -> Self {
        Self { files, trees, environment: Arc::default() }
    }

    /// The place of a value; of its nearest ancestor where it is not written down.
    #[must_use]
    pub fn locate(&self, at: &ConfigPath) -> Place {
        self.files.place(self.find(at.segments()).map_or(Span::default(), |found| value_span(&found)))
    }

    /// The place of a key; of its nearest ancestor where it is not written down.
    #[must_use]
    pub fn locate_key(&self, at: &ConfigPath) -> Place {
        let found = self.find(at.segments());
        let span = found.map_or(Span::default(), |found| found.key.unwrap_or_else(|| value_span(&found)));
        self.files.place(span)
    }

    /// Whether a value is written down, in the service or in `defaults`.
    #[must_use]
    pub fn is_written(&self, at: &ConfigPath) -> bool {
        self.find(at.segments()).is_some_and(|found| found.steps == at.segments().len())
    }

    /// Where a value came from, in words: `workspace.yaml:12`, `workspace.yaml:3 (LOG from .env:2)`,
    /// `default`.
    pub(crate) fn origin(&self, at: &ConfigPath, root: &Path) -> String {
        let segments = at.segments();
        if let Some(origin) = self.environment.get(at) {
            return match origin {
                VariableOrigin::File(path, line) => format!("{}:{line}", relative(path, root)),
                VariableOrigin::Environment => {
                    let place = self.locate(at);
                    format!("{}:{} (from the environment)", relative(&place.file, root), place.line)
                }
            };
        }
        let Some(found) = self.find(segments).filter(|found| found.steps == segments.len()) else {
            return "default".to_owned();
        };
        let place = self.files.place(value_span(&found));
        let mut out = format!("{}:{}", relative(&place.file, root), place.line);
        let mut uses = Vec::new();
        variables(found.node, &mut uses);
        if !uses.is_empty() {
            let all: Vec<String> = uses
                .iter()
                .map(|(name, source)| match source {
                    Source::Environment => format!("{name} from the environment"),
                    Source::File(path, line) => format!("{name} from {}:{line}", relative(path, root)),
                    Source::Inline => format!("{name} is empty or not set: its default"),
                    Source::Unset => format!("{name} is not set"),
                })
                .collect();
            out.push_str(&format!(" ({})", all.join(", ")));
        }
        out
    }

    /// What stands nearest to a path, in whichever file; `None` when nothing was read.
    fn find(&self, segments: &[Segment]) -> Option<Found<'_>> {
        let all = self.trees.iter().map(|tree| find_in(tree, segments));
        // The first of the deepest: a name is in one file, and what is nowhere is shown in the first.
        all.reduce(|best, other| if other.steps > best.steps { other } else { best })
    }
}

/// What stands nearest to a path in one file, where `defaults` stand in for a service.
fn find_in<'t>(tree: &'t Node, segments: &[Segment]) -> Found<'t> {
    let own = walk(tree, segments);
    let inherited = match segments {
        [Segment::Key(services), _, rest @ ..]
            if services == "services" && own.steps < segments.len() && own.steps >= 2 =>
        {
            tree.get("defaults").map(|defaults| walk(&defaults.value, rest))
        }
        _ => None,
    };
    match inherited {
        Some(found) if found.steps > 0 && found.steps + 2 > own.steps => {
            Found { steps: found.steps + 2, ..found }
        }
        _ => own,
    }
}

fn variables<'a>(node: &'a Node, out: &mut Vec<(&'a str, &'a Source)>) {
    match &node.value {
        Value::Text(text) => out.extend(text.variables.iter().map(|one| (one.name.as_str(), &one.from))),
        Value::Seq(items) => items.iter().for_each(|item| variables(item, out)),
        Value::Map(entries) => entries.iter().for_each(|entry| variables(&entry.value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

pub(crate) fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// The span that stands for a value: of a collection, the key, because its content says nothing.
fn value_span(found: &Found<'_>) -> Span {
    match (&found.node.value, found.key) {
        (Value::Seq(_) | Value::Map(_) | Value::Null, Some(key)) => key,
        _ => crate::raw::read::place_of(found.node),
    }
}

fn walk<'a>(tree: &'a Node, segments: &[Segment]) -> Found<'a> {
    let mut found = Found { steps: 0, key: None, node: tree };
    for segment in segments {
        let step = match (segment, &found.node.value) {
            (Segment::Key(key), Value::Map(_)) => {
                found.node.get(key).map(|entry| (Some(entry.key.span), &entry.value))
            }
            (Segment::Index(index), Value::Map(entries)) => {
                entries.get(*index).map(|entry| (Some(entry.key.span), &entry.value))
            }
            (Segment::Index(index), Value::Seq(items)) => items.get(*index).map(|item| (None, item)),
            // A list that is a mapping in its other form: `NAME=value`, `db:5432`.
            (Segment::Key(key), Value::Seq(items)) => {
                items.iter().find(|item| is_entry_for(item, key)).map(|item| (None, item))
            }
            // The short forms of `restart`, of an entry of `depends_on`, of a hook, of an http probe, of a probe.
            (Segment::Key(key), Value::Text(_))
                if matches!(key.as_str(), "policy" | "condition" | "command" | "url" | "notify") =>
            {
                Some((found.key, found.node))
            }
            // One value in the place of a list of one.
            (Segment::Index(0), Value::Text(_)) => Some((found.key, found.node)),
            _ => None,
        };
        let Some((key, node)) = step else { break };
        found = Found { steps: found.steps + 1, key, node };
    }
    found
}

fn is_entry_for(item: &Node, key: &str) -> bool {
    match &item.value {
        Value::Text(text) => {
            text.text.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
        }
        Value::Map(entries) => entries.iter().any(|entry| {
            entry.key.text == key || matches!(&entry.value.value, Value::Text(text) if entry.key.text == "to" && text.text == key)
        }),
        _ => false,
    }
}

/// Gives a problem of the planner its place in the text.
#[must_use]
pub fn diagnose(spans: &SpanMap, problem: &Problem) -> Diagnostic {
    let place = if problem.on_key { spans.locate_key(&problem.at) } else { spans.locate(&problem.at) };
    // Only what is written down can be replaced.
    let fix = problem.replacement.as_ref().filter(|_| spans.is_written(&problem.at));
    Diagnostic {
        code: problem.code,
        severity: problem.severity,
        message: problem.message.clone(),
        label: problem.label.clone(),
        related: problem.related.iter().map(|(at, label)| (spans.locate(at), label.clone())).collect(),
        help: problem.help.clone(),
        fix: fix.map(|replacement| Fix { place: place.clone(), replacement: replacement.clone() }),
        place,
    }
}
