//! Settings that are laid over what the file says of a service: `limits.memory` with `1G`, as if it stood there.
//!
//! They become a part of the file's tree before anybody reads it, so they mean what they would in the file and are
//! checked by the same code. What is wrong with one is shown in the line that was typed: `limits.memory=1G`, of a file
//! that is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::codes;
use crate::load;
use crate::report::{Report, SourceFile, error, shown};
use crate::source::Sources;
use crate::yaml::{self, Entry, Key, Node, Span, Text, Value};

/// What is set for services: key and value of each, by service.
pub type Settings = BTreeMap<String, BTreeMap<String, String>>;

/// The deepest key.
const MAX_DEPTH: usize = 8;

/// What stands in the place of a file's name where the settings of a service are shown.
fn place_of(service: &str) -> PathBuf {
    PathBuf::from(format!("ws set {service}"))
}

/// Whether it is no file, but the settings of a service.
pub(crate) fn is_settings(file: &Path) -> bool {
    file.is_relative() && file.to_str().is_some_and(|name| name.starts_with("ws set "))
}

/// The text of such a file.
pub(crate) fn text_of(file: &Path, settings: &Settings) -> Option<String> {
    let service = file.to_str()?.strip_prefix("ws set ")?;
    settings.get(service).map(text)
}

fn text(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// Lays settings over the services that a workspace file has.
pub(crate) fn lay_over(tree: &mut Node, settings: &Settings, spent: &mut yaml::Size, report: &mut Report) {
    if settings.is_empty() {
        return;
    }
    let Some(services) = tree.get_mut("services") else { return };
    for (service, settings) in settings {
        let Some(node) = services.get_mut(service) else { continue };
        let text = text(settings);
        let base = report.files.add(SourceFile::new(&place_of(service), &text));
        if load::check_characters(&text, base, report).is_none() {
            continue;
        }
        let mut at = base;
        for (key, value) in settings {
            let start = at + key.len() + 1;
            let (read, faults) = yaml::read(value, start, spent);
            for fault in faults {
                report.push(load::yaml_issue(fault, &report.files));
            }
            match segments(key, at) {
                Some(keys) => put(node, &keys, read.unwrap_or_default()),
                None => {
                    let message = format!("`{}` is not the name of a setting", shown(key));
                    let issue = error(codes::BAD_KEY, Span::new(at, at + key.len()), message);
                    report.push(issue.help("keys of the service with a dot between them: `limits.memory`"));
                }
            }
            at = start + value.len() + 1;
        }
    }
}

/// The keys on the way to a setting. The name of a variable may have dots itself.
fn segments(key: &str, base: usize) -> Option<Vec<Key>> {
    let mut keys: Vec<Key> = Vec::new();
    let (mut rest, mut at) = (key, base);
    loop {
        let whole = keys.last().is_some_and(|key| key.text == "environment");
        let end = rest.find('.').filter(|_| !whole).unwrap_or(rest.len());
        keys.push(Key { text: rest[..end].to_owned(), span: Span::new(at, at + end) });
        if end == rest.len() {
            break;
        }
        rest = &rest[end + 1..];
        at += end + 1;
    }
    let good = keys.len() <= MAX_DEPTH && keys.iter().all(|key| !key.text.trim().is_empty());
    good.then_some(keys)
}

/// Puts a value below a node: what is on the way and no mapping becomes one.
fn put(node: &mut Node, keys: &[Key], value: Node) {
    let Some((key, below)) = keys.split_first() else {
        *node = value;
        return;
    };
    // A list of `NAME=value`.
    if let (Value::Seq(items), [], Some(text)) =
        (&mut node.value, below, crate::raw::read::scalar_text(&value))
    {
        let text = format!("{}={text}", key.text);
        let name = |item: &Node| match &item.value {
            Value::Text(text) => text.text.split('=').next().map(ToOwned::to_owned),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Seq(_) | Value::Map(_) => None,
        };
        items.retain(|item| name(item).as_deref() != Some(&key.text));
        let text = Text { text, verbatim: false, variables: Vec::new() };
        items.push(Node { value: Value::Text(text), span: value.span });
        return;
    }
    if !matches!(node.value, Value::Map(_)) {
        *node = Node { value: Value::Map(Vec::new()), span: key.span };
    }
    let Value::Map(entries) = &mut node.value else { return };
    let entry = match entries.iter().position(|entry| entry.key.text == key.text) {
        Some(found) => &mut entries[found],
        None => {
            entries.push(Entry { key: key.clone(), value: Node { value: Value::Null, span: key.span } });
            entries.last_mut().expect("it was just put there")
        }
    };
    entry.key = key.clone();
    put(&mut entry.value, below, value);
}

/// What the file itself says of a setting, variables replaced, in words that are the same when it says the same;
/// nothing where it says nothing.
#[must_use]
pub fn written(sources: &Sources, service: &str, key: &str) -> Option<String> {
    let plain = Sources { settings: Settings::new(), ..sources.clone() };
    let mut silent = Report::new(SourceFile::new(&plain.file, ""));
    let loaded = load::load(&plain, &mut silent)?;
    let keys = segments(key, 0)?;
    loaded.files.iter().find_map(|file| {
        let mut node = &file.tree.get("services")?.value.get(service)?.value;
        for key in &keys {
            node = &node.get(&key.text)?.value;
        }
        let mut out = String::new();
        say(node, &mut out);
        Some(out)
    })
}

fn say(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push('~'),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(number),
        Value::Text(text) => *out += &format!("{:?}", text.text),
        Value::Seq(items) => {
            out.push('[');
            for item in items {
                say(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for entry in entries {
                *out += &format!("{:?}:", entry.key.text);
                say(&entry.value, out);
                out.push(',');
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{ByteSize, ServiceName};

    use super::*;
    use crate::{Parsed, Style, parse, render};

    const FILE: &str = "\
name: shop
services:
  api:
    command: ./api
    environment: [A=1, 'B=2']
    limits: { memory: \"${SIZE}\", pids: 10 }
  db:
    command: ./db
";

    fn sources(file: &str, service: &str, settings: &[(&str, &str)]) -> Sources {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Sources {
            file: "/src/shop/workspace.yaml".into(),
            root: "/src/shop".into(),
            text: file.into(),
            environment: BTreeMap::from([("SIZE".to_owned(), "64M".to_owned())]),
            home: "/home/u".into(),
            settings: BTreeMap::from([(service.to_owned(), settings)]),
            ..Sources::default()
        }
    }

    fn good(sources: &Sources) -> ws_model::Workspace {
        let Parsed { workspace, diagnostics, .. } = parse(sources);
        workspace.unwrap_or_else(|| panic!("{}", render(&diagnostics, sources, Style::PLAIN)))
    }

    #[test]
    fn settings_are_as_if_the_file_said_so() {
        let settings = [
            ("limits.memory", "1G"),
            ("stop.grace", "3s"),
            ("environment.B", "3"),
            ("environment.x.y", "z"),
            ("expose", "[80]"),
        ];
        let sources = sources(FILE, "api", &settings);
        let workspace = good(&sources);
        let api = &workspace.services[&ServiceName::new("api").unwrap()];
        assert_eq!((api.limits.memory, api.limits.pids), (Some(ByteSize::mib(1024)), Some(10)));
        assert_eq!(api.stop.grace.as_secs(), 3);
        assert_eq!(api.expose.len(), 1);
        assert_eq!(workspace.services[&ServiceName::new("db").unwrap()].limits.memory, None);
        let environment = format!("{:?}", api.environment);
        for variable in ["\"A\": \"1\"", "\"B\": \"3\""] {
            assert!(environment.contains(variable), "{variable} in {environment}");
        }
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_was_typed() {
        let wrong = |key: &str, value: &str| {
            let sources = sources(FILE, "api", &[(key, value), ("hostname", "x")]);
            let parsed = parse(&sources);
            assert!(parsed.workspace.is_none(), "{key}={value}");
            render(&parsed.diagnostics, &sources, Style::PLAIN)
        };
        let text = wrong("limits.nothing", "1");
        for part in ["ws set api:", "limits.nothing=1", "`limits.memory`, `limits.cpus`"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        for (key, value, part) in [
            ("limits.memory", "lots", "limits.memory=lots"),
            ("limits..memory", "1G", "is not the name of a setting"),
            ("", "1G", "is not the name of a setting"),
            ("limits", "{", "is not YAML"),
            ("a.b.c.d.e.f.g.h.i", "1", "is not the name of a setting"),
            ("stop.grace", "\u{1}", "control character"),
        ] {
            let text = wrong(key, value);
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn what_the_file_says_of_a_setting_is_known() {
        let said =
            |file: &str, key: &str| written(&sources(file, "api", &[("limits.memory", "2G")]), "api", key);
        assert_eq!(said(FILE, "limits.memory").as_deref(), Some("\"64M\""));
        assert_eq!(said(FILE, "limits.cpus"), None);
        let moved = format!("# a comment\n{}", FILE.replace("${SIZE}", "64M"));
        assert_eq!(said(&moved, "limits"), said(FILE, "limits"));
        assert_ne!(said(&FILE.replace("pids: 10", "pids: 11"), "limits"), said(FILE, "limits"));
    }
}
