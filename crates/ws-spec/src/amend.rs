//! Rights written into the text of a file, so that nothing else of it changes: comments, order and layout stay.
//!
//! Where something can be written depends on how the file is written; there are several ways to try. Each try is read
//! again, and is good only when the workspace is what it was with that one right more. So no try can give anything
//! else, whatever the text is, and what cannot be written is left to a person.

use std::path::{Path, PathBuf};

use ws_model::{Link, LinkPorts, Need, Service, Severity, Wish, Workspace};

use crate::source::Sources;
use crate::spans::SpanMap;
use crate::yaml::{Entry, Node, Span, Value};

/// What became of wishes.
#[derive(Debug, Clone)]
pub struct Amended {
    /// The sources with the new texts.
    pub sources: Sources,
    /// The files that are others: path, text before, text after.
    pub files: Vec<(PathBuf, String, String)>,
    /// What could not be written, and why.
    pub left: Vec<(Wish, String)>,
}

/// Writes rights into the files of a workspace. `None` when the workspace is not good as it is.
#[must_use]
pub fn amend(sources: &Sources, wishes: &[Wish]) -> Option<Amended> {
    let mut now = sources.clone();
    let mut parsed = crate::parse(&now);
    let mut workspace = parsed.workspace.take()?;
    let mut left = Vec::new();
    for wish in wishes {
        let mut wanted = workspace.clone();
        match grant(&mut wanted, wish) {
            Granted::Already => continue,
            Granted::Impossible(why) => {
                left.push((wish.clone(), why.to_owned()));
                continue;
            }
            Granted::Done => {}
        }
        let mut why = "the file is written in a way that only a person can change".to_owned();
        let done = edits(&parsed.spans, wish).into_iter().find_map(|edit| {
            let tried = apply(&now, &parsed.spans, &edit)?;
            let mut read = crate::parse(&tried);
            match read.workspace.take() {
                Some(other) if same(&other, &wanted) => Some((tried, read, other)),
                Some(_) => None,
                None => {
                    let error = read.diagnostics.iter().find(|it| it.severity == Severity::Error);
                    // What the reader says about the right itself, and not about a try that went wrong.
                    if let Some(error) = error.filter(|error| !error.code.starts_with("WS000")) {
                        why.clone_from(&error.message);
                    }
                    None
                }
            }
        });
        match done {
            Some((tried, read, other)) => {
                now = tried;
                parsed = read;
                workspace = other;
            }
            None => left.push((wish.clone(), why)),
        }
    }
    let text = |sources: &Sources, file: &Path| sources.text_of(file).map(std::borrow::Cow::into_owned);
    let files = std::iter::once(&sources.file).chain(sources.files.keys());
    let files = files.filter_map(|file| {
        let (before, after) = (text(sources, file)?, text(&now, file)?);
        (before != after).then(|| (file.clone(), before, after))
    });
    let files = files.collect();
    Some(Amended { sources: now, files, left })
}

enum Granted {
    Done,
    Already,
    Impossible(&'static str),
}

/// What the workspace is to become.
fn grant(workspace: &mut Workspace, wish: &Wish) -> Granted {
    let Some(service) = workspace.services.get_mut(&wish.service) else {
        return Granted::Impossible("the file has no such service");
    };
    match &wish.need {
        Need::Link { to, port } => {
            let has = |link: &Link| {
                link.to == *to
                    && match &link.ports {
                        LinkPorts::These(ports) => ports.contains(port),
                        LinkPorts::Declared => false,
                    }
            };
            if service.links.iter().any(has) {
                return Granted::Already;
            }
            let link = Link { to: to.clone(), ports: LinkPorts::These(vec![*port]), wait: true };
            service.links.push(link);
        }
        Need::Memory(size) => {
            if service.limits.memory.is_none_or(|limit| limit >= *size) {
                return Granted::Already;
            }
            service.limits.memory = Some(*size);
        }
        Need::Pids(count) => {
            if service.limits.pids.is_some_and(|limit| limit >= *count) {
                return Granted::Already;
            }
            service.limits.pids = Some(*count);
        }
        Need::Program(program) => {
            let Some(allowed) = &mut service.policy.processes else {
                return Granted::Impossible("its list of programs is that of the workspace");
            };
            if allowed.contains(program) {
                return Granted::Already;
            }
            allowed.push(program.clone());
        }
    }
    Granted::Done
}

/// Whether two workspaces are the same, in whatever order rights are written.
fn same(one: &Workspace, other: &Workspace) -> bool {
    let sorted = |workspace: &Workspace| {
        let mut workspace = workspace.clone();
        for service in workspace.services.values_mut() {
            let Service { links, policy, .. } = service;
            links.sort_by_key(|link| format!("{link:?}"));
            if let Some(programs) = &mut policy.processes {
                programs.sort();
            }
        }
        workspace
    };
    sorted(one) == sorted(other)
}

/// A change of the text: this stretch becomes that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    at: Span,
    text: String,
}

impl Edit {
    fn insert(at: usize, text: String) -> Self {
        Self { at: Span::new(at, at), text }
    }
}

fn apply(sources: &Sources, spans: &SpanMap, edit: &Edit) -> Option<Sources> {
    let place = spans.place(edit.at);
    let mut sources = sources.clone();
    let text = sources.text_of(&place.file)?.into_owned();
    let new = format!("{}{}{}", text.get(..place.start)?, edit.text, text.get(place.end..)?);
    if place.file == sources.file {
        sources.text = new.into();
    } else {
        sources.files.insert(place.file, Some(new));
    }
    Some(sources)
}

/// What is written at the end of a path of keys.
enum Leaf {
    /// A further entry of a list.
    Item(String),
    /// A value.
    Value(String),
}

impl Leaf {
    fn text(&self) -> &str {
        match self {
            Self::Item(text) | Self::Value(text) => text,
        }
    }

    /// As the value of its key.
    fn whole(&self) -> String {
        match self {
            Self::Item(text) => format!("[{text}]"),
            Self::Value(text) => text.clone(),
        }
    }
}

/// The ways to write a right, the one that reads best first.
fn edits(spans: &SpanMap, wish: &Wish) -> Vec<Edit> {
    let (path, leaf): (&[&str], Leaf) = match &wish.need {
        Need::Link { to, port } => {
            let protocol = match port.protocol {
                ws_model::Protocol::Tcp => "",
                ws_model::Protocol::Udp => "/udp",
            };
            (&["links"], Leaf::Item(format!("\"{to}:{}{protocol}\"", port.port)))
        }
        Need::Memory(size) => (&["limits", "memory"], Leaf::Value(size.to_string())),
        Need::Pids(count) => (&["limits", "pids"], Leaf::Value(count.to_string())),
        Need::Program(program) => {
            let quoted = program.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
            (&["policy", "processes", "allow"], Leaf::Item(format!("\"{quoted}\"")))
        }
    };
    let Some(service) = spans.service(wish.service.as_str()) else { return Vec::new() };
    below(spans, service, path, &leaf)
}

fn below(spans: &SpanMap, node: &Node, path: &[&str], leaf: &Leaf) -> Vec<Edit> {
    let Some((key, rest)) = path.split_first() else { return Vec::new() };
    let Value::Map(entries) = &node.value else { return Vec::new() };
    match entries.iter().find(|entry| entry.key.text == *key) {
        Some(entry) if rest.is_empty() => at_leaf(spans, entry, leaf),
        Some(entry) => below(spans, &entry.value, rest, leaf),
        None => {
            let value = rest.iter().rev().fold(leaf.whole(), |value, key| format!("{{ {key}: {value} }}"));
            new_key(spans, node, entries, &format!("{key}: {value}"))
        }
    }
}

/// Where the key is there.
fn at_leaf(spans: &SpanMap, entry: &Entry, leaf: &Leaf) -> Vec<Edit> {
    let text = leaf.text();
    match (&entry.value.value, leaf) {
        (Value::Null, _) => {
            // `links:` with nothing behind it.
            let colon = spans.rest_of_line(entry.key.span).find(':');
            let at = colon.map(|colon| entry.key.span.start as usize + colon + 1);
            at.map(|at| Edit::insert(at, format!(" {}", leaf.whole()))).into_iter().collect()
        }
        (Value::Seq(items), Leaf::Item(_)) => into_list(spans, &entry.value, items, text),
        (Value::Text(_) | Value::Number(_), Leaf::Value(_)) => {
            vec![Edit { at: entry.value.span, text: text.to_owned() }]
        }
        (Value::Text(_) | Value::Number(_) | Value::Bool(_) | Value::Map(_), _)
        | (Value::Seq(_), Leaf::Value(_)) => Vec::new(),
    }
}

fn into_list(spans: &SpanMap, list: &Node, items: &[Node], text: &str) -> Vec<Edit> {
    let start = list.span.start as usize;
    if spans.char_at(start) == Some('[') {
        let mut edits = Vec::new();
        if let Some(close) = spans.closing(start) {
            let last = spans.before_blanks(close);
            edits.push(match (items.is_empty(), spans.char_at(last.saturating_sub(1))) {
                (true, _) => Edit::insert(start + 1, text.to_owned()),
                (false, Some(',')) => Edit::insert(last, format!(" {text}")),
                (false, _) => Edit::insert(last, format!(", {text}")),
            });
        }
        // Where a comment is at the end.
        edits.push(Edit::insert(start + 1, format!("{text}, ")));
        return edits;
    }
    let mut edits = Vec::new();
    let indent = |item: &Node| {
        let before = spans.line_before(item.span);
        before.find('-').map(|dash| before[..dash].to_owned())
    };
    if let Some(last) = items.last()
        && let Some(indent) = indent(last)
    {
        edits.push(Edit::insert(spans.end_of_line(value_end(spans, last)), format!("\n{indent}- {text}")));
    }
    if let Some(first) = items.first()
        && let Some(indent) = indent(first)
    {
        edits.push(Edit::insert(spans.start_of_line(first.span), format!("{indent}- {text}\n")));
    }
    edits
}

/// Where the key is not there.
fn new_key(spans: &SpanMap, node: &Node, entries: &[Entry], line: &str) -> Vec<Edit> {
    let start = node.span.start as usize;
    if spans.char_at(start) == Some('{') {
        let Some(close) = spans.closing(start) else { return Vec::new() };
        let last = spans.before_blanks(close);
        return vec![match (entries.is_empty(), spans.char_at(last.saturating_sub(1))) {
            (true, _) => Edit::insert(start + 1, format!(" {line} ")),
            (false, Some(',')) => Edit::insert(last, format!(" {line}")),
            (false, _) => Edit::insert(last, format!(", {line}")),
        }];
    }
    // The keys of its own: what is merged into it (`<<`) stands elsewhere.
    let Some(first) = entries.iter().min_by_key(|entry| entry.key.span.start) else { return Vec::new() };
    let indent = spans.line_before(first.key.span);
    if !indent.chars().all(|c| c == ' ') {
        return Vec::new();
    }
    let own = || entries.iter().filter(|entry| spans.line_before(entry.key.span) == indent);
    // After something that ends on its line, from the end; the program first, as links are read after it.
    let is_simple = |entry: &&Entry| match &entry.value.value {
        Value::Text(_) | Value::Number(_) | Value::Bool(_) => true,
        Value::Seq(_) | Value::Map(_) => {
            matches!(spans.char_at(entry.value.span.start as usize), Some('[' | '{'))
        }
        Value::Null => false,
    };
    let after = own().filter(is_simple);
    let command = after.clone().filter(|entry| entry.key.text == "command");
    let others = after.collect::<Vec<_>>().into_iter().rev();
    let mut edits: Vec<Edit> = command
        .chain(others)
        .map(|entry| {
            let end = spans.end_of_line(value_end(spans, &entry.value));
            Edit::insert(end, format!("\n{indent}{line}"))
        })
        .collect();
    edits.push(Edit::insert(spans.start_of_line(first.key.span), format!("{indent}{line}\n")));
    edits
}

/// The offset behind a value that is no block.
fn value_end(spans: &SpanMap, node: &Node) -> usize {
    let start = node.span.start as usize;
    match spans.char_at(start) {
        Some('[' | '{') => spans.closing(start).map_or(start, |close| close + 1),
        _ => node.span.end as usize,
    }
}

/// The difference of two texts, as patch(1) takes it: `name` is what the file is called.
#[must_use]
pub fn patch(name: &str, before: &str, after: &str) -> String {
    const CONTEXT: usize = 3;
    let (old, new): (Vec<&str>, Vec<&str>) = (lines(before), lines(after));
    let steps = difference(&old, &new);
    let changed: Vec<usize> =
        steps.iter().enumerate().filter(|(_, step)| step.0 != ' ').map(|(i, _)| i).collect();
    if changed.is_empty() {
        return String::new();
    }
    let mut out = format!("--- a/{name}\n+++ b/{name}\n");
    let mut next = 0;
    while next < changed.len() {
        let first = changed[next].saturating_sub(CONTEXT);
        let mut last = changed[next];
        while next < changed.len() && changed[next] <= last + 2 * CONTEXT {
            last = changed[next];
            next += 1;
        }
        let end = (last + CONTEXT + 1).min(steps.len());
        let count = |steps: &[(char, &str)], side: char| {
            steps.iter().filter(|it| it.0 == ' ' || it.0 == side).count()
        };
        let (old_at, new_at) = (count(&steps[..first], '-'), count(&steps[..first], '+'));
        let (old_len, new_len) = (count(&steps[first..end], '-'), count(&steps[first..end], '+'));
        let from = |at: usize, len: usize| if len == 0 { at } else { at + 1 };
        out += &format!("@@ -{},{old_len} +{},{new_len} @@\n", from(old_at, old_len), from(new_at, new_len));
        for (sign, line) in &steps[first..end] {
            out.push(*sign);
            out += line;
            if !line.ends_with('\n') {
                out += "\n\\ No newline at end of file\n";
            }
        }
    }
    out
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// The lines of both, in order: ` ` in both, `-` only in the old, `+` only in the new.
fn difference<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(char, &'t str)> {
    /// More than this is one change from the first different line to the last.
    const MOST: usize = 4_000_000;
    let head = old.iter().zip(new).take_while(|(one, other)| one == other).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(one, other)| one == other);
    let tail = tail.count();
    let (from, to) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut steps: Vec<(char, &str)> = old[..head].iter().map(|line| (' ', *line)).collect();
    if from.len().saturating_mul(to.len()) > MOST {
        steps.extend(from.iter().map(|line| ('-', *line)));
        steps.extend(to.iter().map(|line| ('+', *line)));
    } else {
        // How many lines are the same from here on.
        let width = to.len() + 1;
        let mut common = vec![0_u32; (from.len() + 1) * width];
        for i in (0..from.len()).rev() {
            for j in (0..to.len()).rev() {
                common[i * width + j] = if from[i] == to[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < from.len() || j < to.len() {
            if i < from.len() && j < to.len() && from[i] == to[j] {
                steps.push((' ', from[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == to.len()
                || (i < from.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
            {
                steps.push(('-', from[i]));
                i += 1;
            } else {
                steps.push(('+', to[j]));
                j += 1;
            }
        }
    }
    steps.extend(old[old.len() - tail..].iter().map(|line| (' ', *line)));
    steps
}
