//! YAML, and everything that this crate knows of it: text to a tree of [`Node`]s with their places.
//!
//! No other module names the YAML library. Serde derives would stop at the first wrong type; the tree
//! does not know types at all, so that the readers above it can report every problem of a file in one
//! go. What is refused here is what cannot be a tree: broken syntax, and input whose cost is out of
//! proportion ([`MAX_BYTES`] and the budget below it).

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::DuplicateKeyPolicy;
use serde_yaml::{Error, Location, Spanned};

/// The longest file that is read. A thousand services take a quarter of it.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
/// The deepest nesting. The file's own keys need eight levels.
const MAX_DEPTH: usize = 32;
/// Values, after aliases are followed.
const MAX_NODES: usize = 200_000;
/// Bytes of all values, after aliases are followed.
const MAX_SCALAR_BYTES: usize = 4 * 1024 * 1024;
/// Aliases, and anchors.
const MAX_ALIASES: usize = 10_000;

/// A stretch of the workspace file, in bytes.
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

/// Reads a text. The tree is absent when the text is not YAML; the faults are those that were found.
pub(crate) fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 4 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_documents: 2,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_SCALAR_BYTES,
            max_merge_keys: MAX_ALIASES,
            // The number of nodes bounds the work; one anchor may well be used by a hundred services.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 2 * MAX_NODES,
            max_replay_stack_depth: MAX_DEPTH,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    match serde_yaml::from_str_with_options::<Spanned<Tree>>(text, options) {
        Ok(tree) => {
            let mut faults = Vec::new();
            let node = to_node(tree, text, &mut faults);
            (Some(node), faults)
        }
        Err(error) => (None, vec![to_fault(&error, text)]),
    }
}

/// What the library hands over: untyped, with spans on values and keys.
enum Tree {
    Null,
    Bool(bool),
    Number,
    Text(String),
    Seq(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<Tree>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TreeVisitor;
        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Bool(value))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Number)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Number)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Number)
            }
            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Tree, E> {
                Ok(Tree::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Tree::Seq(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    all.push(entry);
                }
                Ok(Tree::Map(all))
            }
        }
        from.deserialize_any(TreeVisitor)
    }
}

fn to_node(tree: Spanned<Tree>, source: &str, faults: &mut Vec<Fault>) -> Node {
    let span = to_span(tree.defined, source);
    let value = match tree.value {
        Tree::Null => Value::Null,
        Tree::Bool(value) => Value::Bool(value),
        Tree::Number => Value::Number(as_written(span, source)),
        Tree::Text(text) => {
            let inner = inside_quotes(span, source);
            let verbatim = source.get(inner.range()) == Some(text.as_str());
            let value = Value::Text(Text { text, verbatim, variables: Vec::new() });
            return Node { value, span: if verbatim { inner } else { span } };
        }
        Tree::Seq(items) => Value::Seq(items.into_iter().map(|item| to_node(item, source, faults)).collect()),
        Tree::Map(entries) => {
            let mut seen: HashMap<String, Span> = HashMap::with_capacity(entries.len());
            let mut all = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let key = to_node(key, source, faults);
                let text = match key.value {
                    Value::Text(text) => text.text,
                    Value::Number(number) => number,
                    Value::Bool(value) => value.to_string(),
                    Value::Null | Value::Seq(_) | Value::Map(_) => {
                        faults.push(Fault::BadKey { span: key.span });
                        continue;
                    }
                };
                if let Some(first) = seen.get(&text) {
                    faults.push(Fault::DuplicateKey { key: text, first: *first, second: key.span });
                    continue;
                }
                seen.insert(text.clone(), key.span);
                let value = to_node(value, source, faults);
                all.push(Entry { key: Key { text, span: key.span }, value });
            }
            Value::Map(all)
        }
    };
    Node { value, span }
}

fn to_span(location: Location, source: &str) -> Span {
    let span = location.span();
    let Some(start) = span.byte_offset().and_then(|n| usize::try_from(n).ok()) else {
        return line_and_column(location, source);
    };
    let start = start.min(source.len());
    let len = span.byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let end = start.saturating_add(len).min(source.len());
    // Block scalars and the like include the line's end.
    let text = source.get(start..end).unwrap_or_default();
    Span::new(start, start + text.trim_end().len())
}

/// The character at a line and a column: errors of the scanner have no offset.
fn line_and_column(location: Location, source: &str) -> Span {
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_sub(1);
    let column = usize::try_from(location.column()).unwrap_or(usize::MAX).saturating_sub(1);
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = &source[before..];
    let text = rest.split('\n').next().unwrap_or_default();
    let mut chars = text.char_indices().skip(column);
    match chars.next() {
        Some((at, c)) => Span::new(before + at, before + at + c.len_utf8()),
        None => Span::new(before + text.len(), before + text.len()),
    }
}

fn as_written(span: Span, source: &str) -> String {
    let inner = inside_quotes(span, source);
    source.get(inner.range()).unwrap_or_default().to_owned()
}

/// The span without its quotes, where it has some.
fn inside_quotes(span: Span, source: &str) -> Span {
    let text = source.get(span.range()).unwrap_or_default();
    let quoted = text.len() >= 2
        && ((text.starts_with('"') && text.ends_with('"'))
            || (text.starts_with('\'') && text.ends_with('\'')));
    if quoted { Span { start: span.start + 1, end: span.end - 1 } } else { span }
}

fn to_fault(error: &Error, source: &str) -> Fault {
    let span = error.location().map_or(Span::default(), |location| to_span(location, source));
    let too_much = |message: String| Fault::Budget { span, message };
    match error {
        Error::WithSnippet { error, .. } => to_fault(error, source),
        Error::AliasError { error, .. } => match to_fault(error, source) {
            Fault::Syntax { message, .. } => Fault::Syntax { span, message },
            other => other,
        },
        Error::Budget { breach, .. } => too_much(budget_message(breach)),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            too_much("aliases multiply its contents too much".into())
        }
        Error::MultipleDocuments { .. } => {
            Fault::Syntax { span, message: "a second document starts here; a workspace is one".into() }
        }
        Error::UnknownAnchor { .. } => {
            Fault::Syntax { span, message: "no anchor of this name stands before it".into() }
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            Fault::Syntax { span, message: "an alias cannot stand inside what it stands for".into() }
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            Fault::Syntax { span, message: "`<<` takes a mapping or a list of mappings".into() }
        }
        Error::Eof { .. } => Fault::Syntax { span, message: "the file ends too early".into() },
        Error::ExternalMessage { msg, .. } if msg.contains("recursion limit") => {
            too_much(format!("it is nested more than {MAX_DEPTH} levels deep"))
        }
        Error::ExternalMessage { msg, .. } | Error::Message { msg, .. } => {
            Fault::Syntax { span, message: without_place(msg) }
        }
        other => Fault::Syntax { span, message: without_place(&other.to_string()) },
    }
}

/// The library's words without "at line 1, column 2": the place is shown.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

fn budget_message(breach: &serde_yaml::budget::BudgetBreach) -> String {
    use serde_yaml::budget::BudgetBreach as Breach;
    match breach {
        Breach::Depth { .. } => format!("it is nested more than {MAX_DEPTH} levels deep"),
        Breach::Nodes { .. } | Breach::Events { .. } | Breach::RecordedAnchorEvents { .. } => {
            format!("it has more than {MAX_NODES} values once its aliases are followed")
        }
        Breach::ScalarBytes { .. } | Breach::RecordedAnchorBytes { .. } => {
            format!("its texts have more than {MAX_SCALAR_BYTES} bytes once its aliases are followed")
        }
        Breach::Aliases { .. } | Breach::Anchors { .. } | Breach::MergeKeys { .. } => {
            format!("it has more than {MAX_ALIASES} anchors, aliases or `<<`")
        }
        Breach::Documents { .. } => "it has more than one document".to_owned(),
        other => format!("it costs too much to read ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (node, faults) = read(source);
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
    fn faults_have_places() {
        for (source, at, message) in [
            ("a: [1\n", 3, "unclosed bracket"),
            ("a: b: c\n", 4, "mapping values"),
            ("ä:\n  - *x\n", 8, "no anchor"),
            ("a: &a [*a]\n", 7, "an alias cannot"),
            ("--- 1\n--- 2\n", 10, "a second document"),
            ("a: !foo 1\n", 8, "unsupported tag `!foo`"),
            ("a: \"x\n", 3, "unclosed quote"),
            ("<<: 1\n", 4, "`<<` takes"),
        ] {
            match &read(source) {
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
}
