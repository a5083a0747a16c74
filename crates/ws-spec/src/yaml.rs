//! YAML, and everything that this crate knows of it: text to a tree of [`Node`]s with their places.
//!
//! No other module names the YAML library. Serde derives would stop at the first wrong type; the tree
//! does not know types at all, so that the readers above it can report every problem of a file in one
//! go. What is refused here is what cannot be a tree: broken syntax, and input whose cost is out of
//! proportion ([`MAX_BYTES`] and the budget below it).

use std::borrow::Cow;
use std::collections::HashMap;

use serde_yaml::granit_parser::{
    ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span as LibrarySpan, StrInput, Tag,
};

/// The longest file that is read. A thousand services take a quarter of it.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// The deepest nesting. The file's own keys need eight levels.
const MAX_DEPTH: usize = 32;
/// Values, after aliases are followed.
const MAX_NODES: usize = 200_000;
/// Bytes of all values, after aliases are followed.
const MAX_SCALAR_BYTES: usize = 4 * 1024 * 1024;

/// A stretch of the workspace files, in bytes: they count as one text, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let clamp = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: clamp(start), end: clamp(end.max(start)) }
    }

    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A value of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Where it is written; of an aliased value, where its anchor is.
    pub(crate) span: Span,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, Default)]
pub(crate) enum Value {
    #[default]
    Null,
    Bool(bool),
    /// A number, as it is written: `1.10` stays `1.10`.
    Number(String),
    Text(Text),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// A text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// Whether the file has the same characters at the span, so that a part of the text is a part of
    /// the span.
    pub(crate) verbatim: bool,
    /// The variables that were replaced in it, with where their values came from.
    pub(crate) variables: Vec<crate::vars::Use>,
}

/// An entry of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) value: Node,
}

/// The key of an [`Entry`].
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Node {
    /// The value of a mapping's key, for changing it.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => {
                entries.iter_mut().find(|entry| entry.key.text == key).map(|entry| &mut entry.value)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Seq(_) => None,
        }
    }

    /// The value of a mapping's key.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key.text == key),
            _ => None,
        }
    }
}

/// Why there is no tree, or what is wrong with it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Not YAML.
    Syntax { span: Span, message: String },
    /// Too large, too deep, too many.
    Budget { span: Span, message: String },
    /// A key that stands twice in one mapping. The tree has the first.
    DuplicateKey { key: String, first: Span, second: Span },
    /// A key that is not a text. The tree is without it.
    BadKey { span: Span },
}

/// Reads a text that starts at `base` of all texts. The tree is absent when the text is not YAML; the faults are
/// those that were found. What the tree costs is added to what was `spent` on others.
pub(crate) fn read(text: &str, base: usize, spent: &mut Size) -> (Option<Node>, Vec<Fault>) {
    // The library nests as deep as we do and one more, so that it is we who say that it is too deep.
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH + 1;
    options.block_nesting_limit = MAX_DEPTH + 1;
    let mut composer = Composer {
        text,
        base,
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        spent: *spent,
        depth: 0,
        faults: Vec::new(),
    };
    let document = composer.document();
    *spent = composer.spent;
    match document {
        Ok(tree) => (Some(tree), composer.faults),
        Err(fault) => (None, vec![fault]),
    }
}

/// What nodes cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    nodes: usize,
    bytes: usize,
}

/// Builds the tree from the library's events.
///
/// On events and not by serde: that keeps the notation of scalars (`1.10`, quotes) and costs a third.
struct Composer<'t> {
    text: &'t str,
    /// Where the text starts among all texts.
    base: usize,
    parser: Parser<'t, StrInput<'t>>,
    /// The values that have anchors, with what each of their aliases costs. An anchor whose value is
    /// not complete is not in it.
    anchors: HashMap<usize, (Node, Size)>,
    spent: Size,
    depth: usize,
    faults: Vec<Fault>,
}

impl<'t> Composer<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.span(span))),
            Some(Err(error)) => Err(self.scan_fault(&error)),
            None => Err(Fault::Syntax { span: self.end(), message: "the file ends too early".to_owned() }),
        }
    }

    /// The one document of the file; an empty file is nothing.
    fn document(&mut self) -> Result<Node, Fault> {
        let mut tree = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(tree.unwrap_or_default()),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if tree.is_some() => {
                    let message = "a second document starts here; a workspace is one".to_owned();
                    return Err(Fault::Syntax { span, message });
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    tree = Some(self.node(event, span)?);
                }
                other => return Err(unexpected(&other, span)),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Fault> {
        let before = self.spent;
        let (node, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(value, style, anchor, tag) => {
                self.spend(Size { nodes: 1, bytes: value.len() }, span)?;
                (self.scalar(value, style, tag.as_deref(), span)?, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(span)?;
                self.check_tag(tag.as_deref(), "seq", span)?;
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, span)?);
                }
                self.depth -= 1;
                (Node { value: Value::Seq(items), span }, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(span)?;
                self.check_tag(tag.as_deref(), "map", span)?;
                let entries = self.mapping()?;
                self.depth -= 1;
                (Node { value: Value::Map(entries), span }, anchor)
            }
            other => return Err(unexpected(&other, span)),
        };
        if anchor != 0 {
            let size =
                Size { nodes: self.spent.nodes - before.nodes, bytes: self.spent.bytes - before.bytes };
            self.spend(size, span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Fault> {
        // The library reports an anchor that is nowhere.
        let Some(size) = self.anchors.get(&anchor).map(|(_, size)| *size) else {
            let message = "an alias cannot stand inside what it stands for".to_owned();
            return Err(Fault::Syntax { span, message });
        };
        // Paid for before it is copied.
        self.spend(size, span)?;
        Ok(self.anchors[&anchor].0.clone())
    }

    fn mapping(&mut self) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(key, ScalarStyle::Plain, _, None) if key == "<<");
            let key = self.node(event, span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span)?;
            if is_merge {
                merge(value, &mut merged)?;
                continue;
            }
            let text = match key.value {
                Value::Text(text) => text.text,
                Value::Number(number) => number,
                Value::Bool(value) => value.to_string(),
                Value::Null | Value::Seq(_) | Value::Map(_) => {
                    self.faults.push(Fault::BadKey { span: key.span });
                    continue;
                }
            };
            entries.push(Entry { key: Key { text, span: key.span }, value });
        }
        remove_duplicates(&mut entries, |key, first, second| {
            self.faults.push(Fault::DuplicateKey { key: key.to_owned(), first, second });
        });
        if !merged.is_empty() {
            // The mapping's own entries win, then the first of those that are merged.
            entries.append(&mut merged);
            remove_duplicates(&mut entries, |_, _, _| {});
        }
        Ok(entries)
    }

    fn scalar(
        &self,
        value: Cow<'t, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<Node, Fault> {
        let plain = style == ScalarStyle::Plain;
        let kind = match tag {
            None if plain => kind_of(&value),
            None => Kind::Text,
            Some(tag) if tag.core_suffix().is_none() && tag.original() == "!" => Kind::Text,
            Some(tag) => match (tag.core_suffix(), kind_of(&value)) {
                (Some("str"), _) => Kind::Text,
                (Some("null"), kind @ Kind::Null)
                | (Some("bool"), kind @ Kind::Bool(_))
                | (Some("int" | "float"), kind @ Kind::Number) => kind,
                (Some("null" | "bool" | "int" | "float"), _) => {
                    let message = format!("`{}` does not fit to this value", tag.original());
                    return Err(Fault::Syntax { span, message });
                }
                _ => return Err(unsupported(tag, span)),
            },
        };
        let value = match kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(value),
            Kind::Number => Value::Number(value.into_owned()),
            Kind::Text => {
                let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
                let inner = if quoted && span.end >= span.start + 2 {
                    Span { start: span.start + 1, end: span.end - 1 }
                } else {
                    span
                };
                let written = inner.start as usize - self.base..inner.end as usize - self.base;
                let verbatim = self.text.get(written) == Some(&*value);
                let text = Text { text: value.into_owned(), verbatim, variables: Vec::new() };
                return Ok(Node { value: Value::Text(text), span: if verbatim { inner } else { span } });
            }
        };
        Ok(Node { value, span })
    }

    fn check_tag(&self, tag: Option<&Tag>, kind: &str, span: Span) -> Result<(), Fault> {
        match tag {
            Some(tag) if tag.core_suffix() != Some(kind) => Err(unsupported(tag, span)),
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.spend(Size { nodes: 1, bytes: 0 }, span)
    }

    fn spend(&mut self, size: Size, span: Span) -> Result<(), Fault> {
        self.spent.nodes += size.nodes;
        self.spent.bytes += size.bytes;
        let message = if self.spent.nodes > MAX_NODES {
            format!("it has more than {MAX_NODES} values once its aliases are followed")
        } else if self.spent.bytes > MAX_SCALAR_BYTES {
            format!("its texts have more than {MAX_SCALAR_BYTES} bytes once its aliases are followed")
        } else {
            return Ok(());
        };
        Err(Fault::Budget { span, message })
    }

    fn span(&self, span: LibrarySpan) -> Span {
        let range = span.byte_range().unwrap_or_default();
        let (start, end) = (range.start.min(self.text.len()), range.end.min(self.text.len()));
        // Block scalars and the like include the line's end.
        let text = self.text.get(start..end).unwrap_or_default();
        self.at(start, start + text.trim_end().len())
    }

    /// A stretch of this text.
    fn at(&self, start: usize, end: usize) -> Span {
        Span::new(self.base + start, self.base + end)
    }

    fn end(&self) -> Span {
        self.at(self.text.len(), self.text.len())
    }

    fn scan_fault(&self, error: &ScanError) -> Fault {
        let marker = error.marker();
        let span = match marker.byte_offset().and_then(|at| self.text.get(at..).map(|rest| (at, rest))) {
            Some((at, rest)) => self.at(at, at + rest.chars().next().map_or(0, char::len_utf8)),
            None => {
                let range = line_and_column(marker.line(), marker.col(), self.text);
                self.at(range.start, range.end)
            }
        };
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => too_deep(span),
            ErrorKind::UnknownAnchor => {
                Fault::Syntax { span, message: "no anchor of this name stands before it".to_owned() }
            }
            _ => Fault::Syntax { span, message: without_place(&error.to_string()) },
        }
    }
}

fn too_deep(span: Span) -> Fault {
    Fault::Budget { span, message: format!("it is nested more than {MAX_DEPTH} levels deep") }
}

fn unexpected(event: &Event<'_>, span: Span) -> Fault {
    Fault::Syntax { span, message: format!("this cannot stand here ({event:?})") }
}

fn unsupported(tag: &Tag, span: Span) -> Fault {
    Fault::Syntax { span, message: format!("unsupported tag `{}`", tag.original()) }
}

/// Takes the entries of what `<<` names.
fn merge(value: Node, into: &mut Vec<Entry>) -> Result<(), Fault> {
    let wrong =
        |span| Fault::Syntax { span, message: "`<<` takes a mapping or a list of mappings".to_owned() };
    match value.value {
        Value::Map(entries) => into.extend(entries),
        Value::Seq(items) => {
            for item in items {
                match item.value {
                    Value::Map(entries) => into.extend(entries),
                    _ => return Err(wrong(item.span)),
                }
            }
        }
        _ => return Err(wrong(value.span)),
    }
    Ok(())
}

/// Keeps the first of the entries of each key, and tells of the others: key, first place, their place.
fn remove_duplicates(entries: &mut Vec<Entry>, mut tell: impl FnMut(&str, Span, Span)) {
    /// Up to here, comparing with all is faster than a table.
    const FEW: usize = 12;
    let mut duplicates = Vec::new();
    if entries.len() <= FEW {
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..index].iter().find(|first| first.key.text == entry.key.text) {
                tell(&entry.key.text, first.key.span, entry.key.span);
                duplicates.push(index);
            }
        }
    } else {
        let mut seen: HashMap<&str, Span> = HashMap::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            match seen.get(entry.key.text.as_str()) {
                Some(first) => {
                    tell(&entry.key.text, *first, entry.key.span);
                    duplicates.push(index);
                }
                None => _ = seen.insert(&entry.key.text, entry.key.span),
            }
        }
    }
    if !duplicates.is_empty() {
        let mut number = 0;
        let mut next = duplicates.into_iter().peekable();
        entries.retain(|_| {
            let gone = next.next_if_eq(&number).is_some();
            number += 1;
            !gone
        });
    }
}

/// What a plain scalar is by YAML's core schema, except that numbers with leading zeros (`014`) are
/// texts: half of the world reads them as octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Bool(bool),
    Number,
    Text,
}

fn kind_of(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let all = |text: &str, good: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(good);
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, u8::is_ascii_hexdigit);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |digit| matches!(digit, b'0'..=b'7'));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole)
        || !fraction.is_none_or(digits)
        || !exponent.is_none_or(|it| !it.is_empty() && digits(it))
    {
        return false;
    }
    let has_digits = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    let leading_zero = fraction.is_none() && exponent.is_none() && whole.len() > 1 && whole.starts_with('0');
    has_digits && !leading_zero
}

/// The character at a line and a column, both as the scanner counts: lines from 1, columns from 0.
fn line_and_column(line: usize, column: usize, source: &str) -> std::ops::Range<usize> {
    let before: usize = source.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let text = source[before..].split('\n').next().unwrap_or_default();
    match text.char_indices().nth(column) {
        Some((at, c)) => before + at..before + at + c.len_utf8(),
        None => before + text.len()..before + text.len(),
    }
}

/// The library's words without "at line 1, column 2": the place is shown.
fn without_place(message: &str) -> String {
    let end = [" at line ", " at byte ", " at char "].iter().filter_map(|mark| message.find(mark)).min();
    message[..end.unwrap_or(message.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> (Option<Node>, Vec<Fault>) {
        read(text, 0, &mut Size::default())
    }

    fn show(node: &Node, source: &str, depth: usize, out: &mut String) {
        use std::fmt::Write as _;
        let at = source.get(node.span.range()).unwrap_or("??");
        match &node.value {
            Value::Null => writeln!(out, "null {at:?}").unwrap(),
            Value::Bool(b) => writeln!(out, "bool {b} {at:?}").unwrap(),
            Value::Number(n) => writeln!(out, "number {n} {at:?}").unwrap(),
            Value::Text(t) => writeln!(out, "text {:?} {at:?} {}", t.text, t.verbatim).unwrap(),
            Value::Seq(items) => {
                writeln!(out, "seq {}", node.span.start).unwrap();
                for item in items {
                    write!(out, "{:1$}- ", "", depth).unwrap();
                    show(item, source, depth + 2, out);
                }
            }
            Value::Map(entries) => {
                writeln!(out, "map {}", node.span.start).unwrap();
                for entry in entries {
                    let key = source.get(entry.key.span.range()).unwrap_or("??");
                    write!(out, "{:1$}{2} {key:?}: ", "", depth, entry.key.text).unwrap();
                    show(&entry.value, source, depth + 2, out);
                }
            }
        }
    }

    fn drawn(source: &str) -> String {
        let (node, faults) = read_one(source);
        assert!(faults.is_empty(), "{faults:?}");
        let mut out = String::new();
        show(&node.unwrap(), source, 0, &mut out);
        out
    }

    #[test]
    fn values_keep_their_types_their_spelling_and_their_places() {
        let source = "a: [1.10, yes, true, 'it''s', \"u\\n\", 0x10, 1_000, .inf, 22:22, 014, ~, -2]\n\"b\": |\n  l1\n  l2\nc: p\n  q\n80:\n";
        let expected = r#"map 0
a "a": seq 3
  - number 1.10 "1.10"
  - text "yes" "yes" true
  - bool true "true"
  - text "it's" "'it''s'" false
  - text "u\n" "\"u\\n\"" false
  - number 0x10 "0x10"
  - text "1_000" "1_000" true
  - number .inf ".inf"
  - text "22:22" "22:22" true
  - text "014" "014" true
  - null "~"
  - number -2 "-2"
b "b": text "l1\nl2\n" "l1\n  l2" false
c "c": text "p q" "p\n  q" false
80 "80": null ""
"#;
        assert_eq!(drawn(source), expected);
    }

    #[test]
    fn aliases_and_merges_have_the_places_of_what_they_stand_for() {
        let source = "a: &x { p: ü, q: 1 }\nb: *x\nc: { <<: *x, p: 2 }\n";
        let expected = r#"map 0
a "a": map 6
  p "p": text "ü" "ü" true
  q "q": number 1 "1"
b "b": map 6
  p "p": text "ü" "ü" true
  q "q": number 1 "1"
c "c": map 31
  p "p": number 2 "2"
  q "q": number 1 "1"
"#;
        assert_eq!(drawn(source), expected);
    }

    #[test]
    fn a_mark_of_byte_order_is_no_part_of_the_text() {
        assert_eq!(drawn("\u{feff}ü: \"ä\"\n"), "map 3\nü \"ü\": text \"ä\" \"ä\" true\n");
    }

    #[test]
    fn places_of_a_text_behind_others_are_moved() {
        let number = regex::Regex::new("(start|end): ([0-9]+)").unwrap();
        for source in
            ["a: [1.10, 'x', \"u\\n\"]\nb: |\n  l\n", "a: [1\n", "a: b: c\n", "ä:\n  - *x\n", "a: 1\na: 2\n"]
        {
            let (here, faults) = read_one(source);
            let (there, moved) = read(source, 100, &mut Size::default());
            let text = |node: Option<Node>| format!("{node:?}");
            let start = |fault: &Fault| match fault {
                Fault::Syntax { span, .. } | Fault::Budget { span, .. } | Fault::BadKey { span } => {
                    span.start
                }
                Fault::DuplicateKey { second, .. } => second.start,
            };
            let expected: Vec<u32> = faults.iter().map(|fault| start(fault) + 100).collect();
            assert_eq!(moved.iter().map(start).collect::<Vec<_>>(), expected, "{source}");
            let there = text(there);
            let back = number.replace_all(&there, |found: &regex::Captures<'_>| {
                format!("{}: {}", &found[1], found[2].parse::<u32>().unwrap() - 100)
            });
            assert_eq!(back, text(here), "{source}");
        }
    }

    #[test]
    fn faults_have_places() {
        for (source, at, message) in [
            ("a: [1\n", 3, "unclosed bracket"),
            ("a: b: c\n", 4, "mapping values"),
            ("ä:\n  - *x\n", 8, "no anchor"),
            ("a: &a [*a]\n", 7, "an alias cannot"),
            ("--- 1\n--- 2\n", 6, "a second document"),
            ("a: !foo 1\n", 8, "unsupported tag `!foo`"),
            ("a: \"x\n", 3, "unclosed quote"),
            ("<<: 1\n", 4, "`<<` takes"),
        ] {
            match &read_one(source) {
                (None, faults) => match &faults[..] {
                    [Fault::Syntax { span, message: said }] => {
                        assert_eq!(span.start, at, "{source:?}: {said}");
                        assert!(said.starts_with(message), "{source:?}: {said}");
                    }
                    other => panic!("{source:?}: {other:?}"),
                },
                other => panic!("{source:?}: {other:?}"),
            }
        }
    }

    /// The tree as JSON, to compare it with what the library's own deserializer makes of a text.
    fn as_json(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => {
                let radix =
                    [("0x", 16), ("0o", 8)].into_iter().find(|(prefix, _)| number.starts_with(prefix));
                let value = match radix {
                    Some((_, radix)) => u64::from_str_radix(&number[2..], radix).unwrap() as f64,
                    None => number.parse::<f64>().unwrap(),
                };
                value.into()
            }
            Value::Text(text) => text.text.as_str().into(),
            Value::Seq(items) => items.iter().map(as_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.text.clone(), as_json(&entry.value))).collect()
            }
        }
    }

    fn with_floats(value: serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Number(number) => number.as_f64().into(),
            serde_json::Value::Array(items) => items.into_iter().map(with_floats).collect(),
            serde_json::Value::Object(entries) => {
                entries.into_iter().map(|(key, value)| (key, with_floats(value))).collect()
            }
            other => other,
        }
    }

    /// Says whether there was something to compare.
    fn agrees(text: &str) -> bool {
        let options = serde_yaml::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            reject_unsupported_tags: true,
        };
        let theirs = serde_yaml::from_str_with_options::<serde_json::Value>(text, options);
        let (ours, faults) = read_one(text);
        let (Ok(theirs), Some(ours), true) = (theirs, ours, faults.is_empty()) else { return false };
        assert_eq!(with_floats(as_json(&ours)), with_floats(theirs), "{text}");
        true
    }

    #[test]
    fn the_tree_is_what_the_deserializer_reads() {
        for text in [
            "a: &x { p: 1.10, q: yes, r: True, s: 'it''s', t: \"u\\n\\x41\\u00e9\" }\nb: *x\nc: { <<: *x, p: 2 }\n",
            "a: &a { x: 1 }\nb: &b { x: 2, y: 2 }\nc: { <<: [*a, *b], z: 3 }\n",
            "- |\n  a\n   b\n\n- >-\n  a\n  b\n\n  c\n- |+\n  a\n\n- !!str 1\n- ! 2\n- !!int 3\n- !!null\n- !!float 1\n",
            "[~, null, '', \"\", +1, -0, .5, 1., 1e3, 1e, e1, 0x1F, 0xg, 08, 0o7, 1_0, 1:2, 2001-01-01, a#b, --]",
            "? a\n: b\n? c\n",
            "%YAML 1.2\n---\na: 1\n...\n",
            "",
        ] {
            assert!(agrees(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_tree_is_what_the_deserializer_reads_of_anything(
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "a", "b", ": ", "\n", "  ", "- ", "{", "}", "[", "]", ", ", "'", "\"", "|\n", ">\n", "&x ", "*x", "<<: ",
                "1", "1.5", "true", "~", "# c", "!!str ", "? ", "a: ", "\n  b: ", "\n- ", "\\n", "é",
            ]), 0..24),
        ) {
            agrees(&parts.concat());
        }
    }
}
