//! What the text of the workspace tells services and builds of what is the user's: values of variables of the shell
//! and of `.env`, and env files. No service sees these otherwise, so telling one is giving it a right.
//!
//! By names, whether they are set or not: a variable that gets a value is no other text. What cannot reach a process
//! (ports, limits, names of others) is left out; whatever is not known to be of that kind counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ws_model::{Borrowed, ConfigPath};

use crate::load::{MadeOf, WorkspaceFile};
use crate::lower::{Draft, reload::BuildDraft};
use crate::raw::forms::EnvFileRaw;
use crate::raw::read::{At, OneOrMany};
use crate::yaml::{Node, Value};

/// Keys of a service that its processes are not told of.
const NOT_TOLD: [&str; 17] = [
    "build",
    "depends_on",
    "expose",
    "hold",
    "inputs",
    "limits",
    "links",
    "listen",
    "logs",
    "ports",
    "profiles",
    "reload",
    "replicas",
    "restart",
    "success_exit_codes",
    "type",
    "watch",
];

/// What the active services and the builds are told, by where they stand in the file.
pub(crate) fn all(
    files: &[WorkspaceFile<'_>],
    drafts: &[Draft<'_>],
    builds: &[BuildDraft<'_>],
    made_of: &MadeOf,
) -> BTreeMap<ConfigPath, BTreeSet<Borrowed>> {
    let mut found = BTreeMap::new();
    let mut tell = |at: ConfigPath, told: Told| {
        let told = told.all(made_of);
        if !told.is_empty() {
            found.insert(at, told);
        }
    };
    for draft in drafts.iter().filter(|draft| draft.active) {
        let name = draft.name.value.as_str();
        let nodes: Vec<&Node> = files.iter().flat_map(|file| of_service(&file.tree, name)).collect();
        let mut told = Told::default();
        told.env_files(draft.raw.env_file.as_ref().map(|files| &files.value));
        let mut build = Told { files: told.files.clone(), ..Told::default() };
        for node in nodes {
            let Value::Map(entries) = &node.value else { continue };
            for entry in entries {
                match entry.key.text.as_str() {
                    "build" => build.node(&entry.value),
                    key if NOT_TOLD.contains(&key) => {}
                    key => {
                        told.part(key, &entry.value);
                        // A build has the environment of its service.
                        if key == "environment" {
                            build.part(key, &entry.value);
                        }
                    }
                }
            }
        }
        let at = ConfigPath::service(&draft.name.value);
        if let Some(own) = draft.raw.build.as_ref().and_then(|build| build.value.own()) {
            build.env_files(own.env_file.as_ref().map(|files| &files.value));
            tell(at.key("build"), build);
        }
        tell(at, told);
    }
    for draft in builds {
        let name = draft.name.value.0.as_str();
        let mut told = Told::default();
        told.env_files(draft.raw.env_file.as_ref().map(|files| &files.value));
        let written = files.iter().filter_map(|file| file.tree.get("builds")?.value.get(name));
        written.for_each(|entry| told.node(&entry.value));
        tell(ConfigPath::root().key("builds").key(name), told);
    }
    found
}

/// What is written of a service in a file, and for all of the services of that file.
fn of_service<'t>(tree: &'t Node, name: &str) -> Vec<&'t Node> {
    let own = tree.get("services").and_then(|services| services.value.get(name));
    let defaults = tree.get("defaults").filter(|_| own.is_some());
    own.into_iter().chain(defaults).map(|entry| &entry.value).collect()
}

#[derive(Debug, Default)]
struct Told {
    variables: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Told {
    fn env_files(&mut self, files: Option<&OneOrMany<EnvFileRaw>>) {
        let files: &[At<EnvFileRaw>] = files.map_or(&[], |files| &files.0);
        self.files.extend(files.iter().map(|file| file.value.path.clone()));
    }

    fn part(&mut self, key: &str, node: &Node) {
        if key == "environment" {
            self.passed_through(node);
        }
        self.node(node);
    }

    /// Everything that is written in a node.
    fn node(&mut self, node: &Node) {
        match &node.value {
            Value::Text(text) => self.variables.extend(text.variables.iter().map(|one| one.name.clone())),
            Value::Seq(items) => items.iter().for_each(|item| self.node(item)),
            Value::Map(entries) => {
                entries.iter().for_each(|entry| self.part(&entry.key.text, &entry.value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Variables without a value: `environment: [NAME]`, `environment: { NAME: }`.
    fn passed_through(&mut self, node: &Node) {
        match &node.value {
            Value::Seq(items) => {
                let names = items.iter().filter_map(|item| match &item.value {
                    Value::Text(text) if !text.text.contains('=') => Some(text.text.clone()),
                    _ => None,
                });
                self.variables.extend(names);
            }
            Value::Map(entries) => {
                let names = entries.iter().filter(|entry| matches!(entry.value.value, Value::Null));
                self.variables.extend(names.map(|entry| entry.key.text.clone()));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// With what that is made of.
    fn all(mut self, made_of: &MadeOf) -> BTreeSet<Borrowed> {
        let of_files = self.files.iter().filter_map(|file| made_of.files.get(file)).flatten();
        let mut todo: Vec<String> = of_files.chain(&self.variables).cloned().collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = todo.pop() {
            if seen.insert(name.clone()) {
                todo.extend(made_of.variables.get(&name).into_iter().flatten().cloned());
            }
        }
        self.variables.extend(seen);
        let variables = self.variables.into_iter().map(Borrowed::Variable);
        variables.chain(self.files.into_iter().map(Borrowed::EnvFile)).collect()
    }
}
