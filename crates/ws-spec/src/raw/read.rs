//! From [`Node`]s to typed values: every wrong one is reported, and reading goes on.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{NameError, SecretName, ServiceName, VolumeName, WorkspaceName};

use crate::codes;
use crate::report::{Issue, Report, error, shown};
use crate::yaml::{Entry, Node, Span, Value};

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    /// Where the value is written.
    pub(crate) span: Span,
    /// Where its key is written; of an entry of a list, the entry.
    pub(crate) key: Span,
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What reading needs beside the node.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) report: &'a mut Report,
    /// The directory that relative paths are relative to.
    pub(crate) root: &'a Path,
    /// What `~` stands for.
    pub(crate) home: &'a Path,
    /// The keys on the way to the node, for messages.
    field: Vec<String>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(report: &'a mut Report, root: &'a Path, home: &'a Path) -> Self {
        Self { report, root, home, field: Vec::new() }
    }

    pub(crate) fn inside<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.field.push(key.to_owned());
        let out = read(self);
        self.field.pop();
        out
    }

    /// The key that is being read.
    pub(crate) fn key(&self) -> &str {
        self.field.last().map_or("the file", String::as_str)
    }

    pub(crate) fn push(&mut self, issue: Issue) {
        self.report.push(issue);
    }

    /// Reports that something else was expected here.
    pub(crate) fn wrong_type(&mut self, node: &Node, expected: &str) -> Issue {
        let found = match &node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        };
        error(
            codes::WRONG_TYPE,
            place_of(node),
            format!("`{}` takes {expected}, not {found}", shown(self.key())),
        )
    }
}

/// Where a node is shown: a collection only by its first character, its content says nothing.
pub(crate) fn place_of(node: &Node) -> Span {
    match node.value {
        Value::Seq(_) | Value::Map(_) => Span { start: node.span.start, end: node.span.start + 1 },
        _ => node.span,
    }
}

/// A part of a text as a part of the file, where the file has it letter by letter.
pub(crate) fn part_of(node: &Node, part: std::ops::Range<usize>) -> Span {
    match &node.value {
        Value::Text(text) if text.verbatim => {
            let start = node.span.start as usize;
            Span::new(start + part.start, start + part.end)
        }
        _ => node.span,
    }
}

/// A type that is read from a [`Node`].
pub(crate) trait Read: Sized {
    /// `None` when it cannot be read: then it was reported.
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self>;

    /// The value with its place.
    fn read_at(node: &Node, key: Span, cx: &mut Cx<'_>) -> Option<At<Self>> {
        let value = Self::read(node, cx)?;
        Some(At { value, span: place_of(node), key })
    }
}

/// What `defaults` puts under a service's own value. Maps go key by key, everything else is replaced.
pub(crate) trait Merge: Sized {
    /// `self` is the service's, `under` the default.
    #[must_use]
    fn merge(self, under: &Self) -> Self {
        let _ = under;
        self
    }
}

impl<T: Merge + Clone> Merge for At<T> {
    fn merge(self, under: &Self) -> Self {
        Self { value: self.value.merge(&under.value), ..self }
    }
}

/// Merges two fields, either of which may be absent.
pub(crate) fn merge_field<T: Merge + Clone>(own: Option<At<T>>, under: Option<&At<T>>) -> Option<At<T>> {
    match (own, under) {
        (Some(own), Some(under)) => Some(own.merge(under)),
        (own, under) => own.or_else(|| under.cloned()),
    }
}

/// The text of a node.
pub(crate) fn text<'n>(node: &'n Node, cx: &mut Cx<'_>, expected: &str) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) => Some(&text.text),
        Value::Number(_) | Value::Bool(_) => {
            let quoted = format!("\"{}\"", scalar_text(node).unwrap_or_default());
            let issue = cx.wrong_type(node, expected);
            cx.push(issue.help(format!("put it in quotes: `{quoted}`")).fix(node.span, quoted));
            None
        }
        Value::Null | Value::Seq(_) | Value::Map(_) => {
            let issue = cx.wrong_type(node, expected);
            cx.push(issue);
            None
        }
    }
}

/// The text of a scalar of any type, as it is written.
pub(crate) fn scalar_text(node: &Node) -> Option<Cow<'_, str>> {
    match &node.value {
        Value::Text(text) => Some(Cow::Borrowed(&text.text)),
        Value::Number(number) => Some(Cow::Borrowed(number)),
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Null | Value::Seq(_) | Value::Map(_) => None,
    }
}

/// The characters of a number, be it a number or the outcome of a variable.
pub(crate) fn number_text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Number(number) => Some(number),
        Value::Text(text) if !text.variables.is_empty() => Some(text.text.trim()),
        _ => None,
    }
}

/// A number without a fraction within bounds; `expected` names it.
pub(crate) fn integer(
    node: &Node,
    cx: &mut Cx<'_>,
    expected: &str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Option<u64> {
    let Some(number) = number_text(node) else {
        let mut issue = cx.wrong_type(node, expected);
        if let Value::Text(text) = &node.value
            && text.text.parse::<u64>().is_ok()
            && with_quotes(node.span, cx) != node.span
        {
            issue = issue.help("leave the quotes out").fix(with_quotes(node.span, cx), text.text.clone());
        }
        cx.push(issue);
        return None;
    };
    match number.parse::<u64>() {
        Ok(value) if bounds.contains(&value) => Some(value),
        Ok(value) => {
            let (low, high) = (bounds.start(), bounds.end());
            let message = format!("`{}` takes {expected}, and {value} is out of range", shown(cx.key()));
            cx.push(error(codes::OUT_OF_RANGE, node.span, message).label(format!("from {low} to {high}")));
            None
        }
        Err(_) => {
            let message = format!("`{}` takes {expected}, not `{}`", shown(cx.key()), shown(number));
            cx.push(error(codes::OUT_OF_RANGE, node.span, message));
            None
        }
    }
}

/// The span with the quotes around it, where there are some: a change of the type replaces them too.
pub(crate) fn with_quotes(span: Span, cx: &Cx<'_>) -> Span {
    let wider = span.start.checked_sub(1).map(|start| Span { start, end: span.end + 1 });
    let quoted = wider.and_then(|wider| cx.report.files.text(wider));
    match (wider, quoted.and_then(|text| text.chars().next())) {
        (Some(wider), Some(quote @ ('"' | '\''))) if quoted.is_some_and(|text| text.ends_with(quote)) => {
            wider
        }
        _ => span,
    }
}

impl Read for bool {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Bool(value) => return Some(*value),
            Value::Text(text) if !text.variables.is_empty() && text.text == "true" => return Some(true),
            Value::Text(text) if !text.variables.is_empty() && text.text == "false" => return Some(false),
            _ => {}
        }
        let mut issue = cx.wrong_type(node, "`true` or `false`");
        if let Value::Text(text) = &node.value {
            let meant = match text.text.to_ascii_lowercase().as_str() {
                "yes" | "y" | "on" | "true" => Some("true"),
                "no" | "n" | "off" | "false" => Some("false"),
                _ => None,
            };
            if let Some(word) = meant {
                issue = issue.help(format!("write `{word}`")).fix(with_quotes(node.span, cx), word);
            }
        }
        cx.push(issue);
        None
    }
}
impl Merge for bool {}

impl Read for String {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = text(node, cx, "a text")?;
        no_nul(text, node, cx)?;
        Some(text.to_owned())
    }
}
impl Merge for String {}

/// Reports a NUL: neither paths nor arguments nor variables can have one.
pub(crate) fn no_nul(text: &str, node: &Node, cx: &mut Cx<'_>) -> Option<()> {
    if text.contains('\0') {
        let message = format!("`{}` has a NUL character, which the kernel cannot take", shown(cx.key()));
        cx.push(error(codes::NUL, node.span, message));
        return None;
    }
    Some(())
}

macro_rules! read_name {
    ($($Name:ident: $what:literal;)*) => { $(
        impl Read for $Name {
            fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                let text = text(node, cx, concat!("the name of ", $what))?;
                match $Name::new(text) {
                    Ok(name) => Some(name),
                    Err(problem) => {
                        cx.push(bad_name(text, node.span, $what, &problem));
                        None
                    }
                }
            }
        }
        impl Merge for $Name {}
    )* };
}
read_name! {
    WorkspaceName: "a workspace";
    ServiceName: "a service";
    VolumeName: "a volume";
    SecretName: "a secret";
}

pub(crate) fn bad_name(text: &str, span: Span, what: &str, problem: &NameError) -> Issue {
    let issue = error(codes::BAD_NAME, span, format!("`{}` is not a name for {what}", shown(text)));
    let issue = issue.label(problem.to_string());
    let better = as_name(text);
    if better.is_empty() { issue } else { issue.help(format!("for example `{better}`")).fix(span, better) }
}

/// A text as a name: what names do not have is replaced.
pub(crate) fn as_name(text: &str) -> String {
    let lower = text.to_lowercase();
    let replaced = lower.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' });
    let name: String =
        replaced.skip_while(|c| matches!(c, '-' | '_')).take(ws_model::name::MAX_LEN).collect();
    name.trim_end_matches(['-', '_']).to_owned()
}

/// A path of the host, made absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPath(pub(crate) PathBuf);

impl Read for HostPath {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = text(node, cx, "a path")?;
        host_path(text, node, cx).map(Self)
    }
}
impl Merge for HostPath {}

impl JsonSchema for HostPath {
    fn schema_name() -> Cow<'static, str> {
        "Path".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A path of the host: relative to the directory of this file, absolute, or from the home (`~/x`)."
        })
    }
}

/// Makes a path absolute and takes `.` and `..` out of it, without looking at any file.
pub(crate) fn host_path(text: &str, node: &Node, cx: &mut Cx<'_>) -> Option<PathBuf> {
    no_nul(text, node, cx)?;
    if text.is_empty() {
        cx.push(error(
            codes::BAD_PATH,
            node.span,
            format!("`{}` takes a path, and this is empty", shown(cx.key())),
        ));
        return None;
    }
    let path = match text.strip_prefix('~') {
        Some("") => cx.home.to_owned(),
        Some(rest) => match rest.strip_prefix('/') {
            Some(below) => cx.home.join(below.trim_start_matches('/')),
            None => {
                let message = format!("`{}` names the home of another user", shown(text));
                cx.push(
                    error(codes::BAD_PATH, node.span, message)
                        .help("write the whole path; `~/` is your own home"),
                );
                return None;
            }
        },
        None => cx.root.join(text),
    };
    Some(normal(&path))
}

/// The path without `.` and `..`.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

/// A path inside a service: absolute, and not one that `ws` makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InnerPath(pub(crate) PathBuf);

impl Read for InnerPath {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = text(node, cx, "an absolute path")?;
        inner_path(text, node.span, node, cx).map(Self)
    }
}
impl Merge for InnerPath {}

impl JsonSchema for InnerPath {
    fn schema_name() -> Cow<'static, str> {
        "InnerPath".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^/",
            "description": "A path inside the service: absolute, without `..`."
        })
    }
}

/// Checks a path inside a service.
pub(crate) fn inner_path(text: &str, span: Span, node: &Node, cx: &mut Cx<'_>) -> Option<PathBuf> {
    no_nul(text, node, cx)?;
    let path = Path::new(text);
    if !path.is_absolute() {
        let message = format!("`{}` is a path inside the service and must be absolute", shown(text));
        let better = format!("/{}", text.trim_start_matches("./"));
        cx.push(error(codes::BAD_TARGET, span, message).help(format!("for example `{}`", shown(&better))));
        return None;
    }
    if path.components().any(|component| component == Component::ParentDir) {
        let message = format!("`{}` has `..` in it", shown(text));
        cx.push(error(codes::BAD_TARGET, span, message).help("write the path that it leads to"));
        return None;
    }
    let path = normal(path);
    if let Some(why) = reserved(&path) {
        let message = format!("nothing can be mounted at `{}`: {why}", shown(text));
        cx.push(error(codes::RESERVED_TARGET, span, message));
        return None;
    }
    Some(path)
}

/// Why a place inside cannot be taken.
pub(crate) fn reserved(path: &Path) -> Option<&'static str> {
    let taken = [
        ("/proc", "it shows the service's own processes"),
        ("/sys", "services see no /sys"),
        ("/dev", "a minimal /dev, with /dev/shm, is there already"),
        ("/run/secrets", "the service's secrets are there"),
    ];
    if path == Path::new("/") {
        return Some("it is the root of the service's view");
    }
    taken.iter().find(|(place, _)| path.starts_with(place)).map(|(_, why)| *why)
}

/// A list. A wrong entry is left out.
#[derive(Debug, Clone)]
pub(crate) struct List<T>(pub(crate) Vec<At<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Read> Read for List<T> {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Seq(items) = &node.value else {
            let mut issue = cx.wrong_type(node, "a list");
            let whole = with_quotes(node.span, cx);
            let written = cx.report.files.text(whole).unwrap_or_default();
            // A comma or bracket without quotes would mean something else in a list.
            let as_entry =
                whole != node.span || !written.contains([',', '[', ']', '{', '}', '#', '\n', '&', '*', '!']);
            if scalar_text(node).is_some() && !written.is_empty() && as_entry {
                let list = format!("[{written}]");
                issue = issue.help(format!("write `{}`", shown(&list))).fix(whole, list);
            }
            cx.push(issue);
            return None;
        };
        Some(Self(items.iter().filter_map(|item| T::read_at(item, place_of(item), cx)).collect()))
    }
}
impl<T: Clone> Merge for List<T> {}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": item })
    }
}

/// One, or a list of them.
#[derive(Debug, Clone)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<At<T>>);

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Seq(_) => List::read(node, cx).map(|list| Self(list.0)),
            _ => T::read_at(node, node.span, cx).map(|one| Self(vec![one])),
        }
    }
}
impl<T: Clone> Merge for OneOrMany<T> {}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

/// A mapping with names as keys, in the order of the file.
#[derive(Debug, Clone)]
pub(crate) struct Map<K, V>(pub(crate) Vec<(At<K>, At<V>)>);

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Read, V: Read> Read for Map<K, V> {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let entries = entries(node, cx, "a mapping of names")?;
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = key_node(entry);
            let name = K::read_at(&key, entry.key.span, cx);
            let value = cx.inside(&entry.key.text, |cx| V::read_at(&entry.value, entry.key.span, cx));
            if let (Some(name), Some(value)) = (name, value) {
                out.push((name, value));
            }
        }
        Some(Self(out))
    }
}
impl<K: Clone, V: Clone> Merge for Map<K, V> {}

impl<K: JsonSchema, V: JsonSchema> JsonSchema for Map<K, V> {
    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", V::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let key = generator.subschema_for::<K>();
        let value = generator.subschema_for::<Option<V>>();
        json_schema!({ "type": "object", "propertyNames": key, "additionalProperties": value })
    }
}

/// The entries of a mapping; nothing is an empty one.
pub(crate) fn entries<'n>(node: &'n Node, cx: &mut Cx<'_>, expected: &str) -> Option<&'n [Entry]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        Value::Null => Some(&[]),
        _ => {
            let issue = cx.wrong_type(node, expected);
            cx.push(match crate::compose::long_form(cx.key()) {
                Some(help) => issue.help(help),
                None => issue,
            });
            None
        }
    }
}

/// A key as a value, to read names from it.
pub(crate) fn key_node(entry: &Entry) -> Node {
    let text = crate::yaml::Text { text: entry.key.text.clone(), verbatim: true, variables: Vec::new() };
    Node { value: Value::Text(text), span: entry.key.span }
}

/// Reads one of some words.
pub(crate) fn word<T: Copy>(node: &Node, cx: &mut Cx<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let all = || words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    // `restart: no` and `restart: false` look alike to people, and to older YAML too.
    let Some(typed) = scalar_text(node) else {
        let expected = format!("one of {}", all());
        let issue = cx.wrong_type(node, &expected);
        cx.push(issue);
        return None;
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == typed) {
        return Some(*value);
    }
    let message = format!("`{}` takes one of {}, not `{}`", shown(cx.key()), all(), shown(&typed));
    let known = words.iter().map(|(word, _)| *word);
    cx.push(error(codes::UNKNOWN_WORD, node.span, message).did_you_mean(node.span, &typed, known));
    None
}

/// The key of a field: a word that Rust keeps for itself is a key like any other.
pub(crate) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Declares a mapping with known keys: the struct, its reader, its merge and, by its documentation, its
/// schema. One declaration, so that what is read, what is documented and what editors check are one.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $Name:ident: $what:literal {
            $( $(#[$field_meta:meta])* $field:ident: $Type:ty, )*
        }
    ) => {
        #[derive(Debug, Clone, Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $(#[$meta])*
        pub(crate) struct $Name {
            $( $(#[$field_meta])* pub(crate) $field: Option<$crate::raw::read::At<$Type>>, )*
            /// The keys that are there and could not be read: that was reported, and they are not missing.
            #[schemars(skip)]
            pub(crate) unread: Vec<&'static str>,
        }

        impl $Name {
            /// The keys that it has.
            pub(crate) const KEYS: &'static [&'static str] = &[$($crate::raw::read::key_name(stringify!($field))),*];

            /// Reads the long form.
            pub(crate) fn read_long(
                node: &$crate::yaml::Node,
                cx: &mut $crate::raw::read::Cx<'_>,
            ) -> Option<Self> {
                let mut out = Self::default();
                for entry in $crate::raw::read::entries(node, cx, "a mapping")? {
                    match entry.key.text.as_str() {
                        $( key if key == $crate::raw::read::key_name(stringify!($field)) => {
                            // `key:` with nothing behind it is the same as no `key`.
                            if !matches!(entry.value.value, $crate::yaml::Value::Null) {
                                out.$field = cx.inside($crate::raw::read::key_name(stringify!($field)), |cx| {
                                    <$Type as $crate::raw::read::Read>::read_at(&entry.value, entry.key.span, cx)
                                });
                                if out.$field.is_none() {
                                    out.unread.push($crate::raw::read::key_name(stringify!($field)));
                                }
                            }
                        } )*
                        _ => $crate::compose::unknown_key(entry, $what, Self::KEYS, cx),
                    }
                }
                Some(out)
            }
        }

        impl $crate::raw::read::Merge for $Name {
            fn merge(self, under: &Self) -> Self {
                Self {
                    $( $field: $crate::raw::read::merge_field(self.$field, under.$field.as_ref()), )*
                    unread: self.unread.into_iter().chain(under.unread.iter().copied()).collect(),
                }
            }
        }
    };
}
pub(crate) use record;

/// A record that has only the long form.
macro_rules! long_only {
    ($($Name:ident),*) => { $(
        impl $crate::raw::read::Read for $Name {
            fn read(node: &$crate::yaml::Node, cx: &mut $crate::raw::read::Cx<'_>) -> Option<Self> {
                Self::read_long(node, cx)
            }
        }
    )* };
}
pub(crate) use long_only;
