//! The committed JSON Schemas: made from the types that read and write what they describe.
//!
//! One file for each thing that others may depend on. A test and `cargo xtask schema --check` fail
//! where a file differs from its types, so a promise never changes unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use ws_model::{Event, exit, wire};

use crate::Failure;

/// Every file of `schemas/` with what belongs in it.
fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("workspace.schema.json", ws_spec::schema()),
        ("event.schema.json", one::<Event>("A line of `ws events --json` and of `GET /v1/events`")),
        ("log.schema.json", one::<wire::LogLine>("A line of `ws logs --json` and of `GET /v1/logs`")),
        ("ps.schema.json", one::<Vec<wire::ServiceStatus>>("What `ws ps --json` prints")),
        ("ls.schema.json", one::<Vec<wire::InstanceRow>>("What `ws ls --json` prints")),
        ("control.schema.json", control()),
    ]
}

/// Writes what is not fresh, and removes what nothing makes any more.
pub(crate) fn write(root: &Path) -> Result<(), Failure> {
    let directory = root.join("schemas");
    fs::create_dir_all(&directory).map_err(|e| format!("could not make {}: {e}", directory.display()))?;
    for (name, text) in texts() {
        let path = directory.join(name);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            fs::write(&path, text).map_err(|e| format!("could not write {}: {e}", path.display()))?;
            eprintln!("wrote schemas/{name}");
        }
    }
    for name in strangers(root)? {
        let path = directory.join(&name);
        fs::remove_file(&path).map_err(|e| format!("could not remove {}: {e}", path.display()))?;
        eprintln!("removed schemas/{name}");
    }
    Ok(())
}

/// Fails where a file is not what [`write`] would leave.
pub(crate) fn check(root: &Path) -> Result<(), Failure> {
    let mut stale: Vec<String> = texts()
        .into_iter()
        .filter(|(name, text)| {
            fs::read_to_string(root.join("schemas").join(name)).ok().as_deref() != Some(text.as_str())
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    stale.extend(strangers(root)?);
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!("not fresh in schemas/: {}: run `cargo xtask schema` and commit", stale.join(", ")))
    }
}

fn texts() -> Vec<(&'static str, String)> {
    all().into_iter().map(|(name, value)| (name, format!("{:#}\n", sorted(value)))).collect()
}

/// The value with the keys of its objects in order. Whether `serde_json` keeps them so by itself depends
/// on features that other crates of the same build ask for.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().map(|(key, v)| (key, sorted(v))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// JSON files in `schemas/` that nothing makes.
fn strangers(root: &Path) -> Result<Vec<String>, Failure> {
    let known: Vec<&str> = all().into_iter().map(|(name, _)| name).collect();
    let directory = root.join("schemas");
    let entries =
        fs::read_dir(&directory).map_err(|e| format!("could not read {}: {e}", directory.display()))?;
    let mut strangers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| format!("could not read {}: {e}", directory.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") && !known.contains(&name.as_str()) {
            strangers.push(name);
        }
    }
    strangers.sort();
    Ok(strangers)
}

/// For what we write: a value that can be absent is always there, as null.
fn written() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_serialize().into_generator()
}

/// For what we read: a value that can be absent may be left out.
fn read() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_deserialize().into_generator()
}

/// The schema of one type that we write, with a title that says where it is met.
fn one<T: JsonSchema>(title: &str) -> Value {
    let mut schema = written().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), Value::from(title));
    schema.to_value()
}

/// The bodies of the control API, by the names of their types, and the exit codes of the command.
fn control() -> Value {
    macro_rules! define {
        ($generator:expr; $($Type:ty),* $(,)?) => {{
            let mut generator = $generator;
            $( generator.subschema_for::<$Type>(); )*
            generator.take_definitions(true)
        }};
    }
    let mut definitions: Map<String, Value> = define!(
        read();
        wire::DownRequest, wire::ExecRequest, wire::ServicesRequest, wire::UpRequest,
    );
    // What both directions use (names, phases) has no value that can be absent, so it is the same.
    definitions.extend(define!(
        written();
        Event, wire::Accepted, wire::ApiError, wire::ExecResult, wire::Info, wire::InstanceRow,
        wire::LogLine, wire::ServiceStatus, wire::Why,
    ));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bodies of the control API",
        "description": format!(
            "HTTP and JSON over the unix socket of a supervisor; every path starts with /{}. Streams are one \
             JSON value a line. Bytes and microseconds are integers, times are RFC 3339 in UTC, durations are \
             integers named `_ms`, absent is null.",
            wire::API_VERSION,
        ),
        "$defs": definitions,
        "x-exit-codes": exit_codes(),
    })
}

fn exit_codes() -> Value {
    json!({
        "ok": exit::OK,
        "failed": exit::FAILED,
        "usage": exit::USAGE,
        "machine": exit::MACHINE,
        "violation": exit::VIOLATION,
        "not_running": exit::NOT_RUNNING,
        "interrupted": exit::INTERRUPTED,
        "passed": {
            "violation": exit::PASSED_VIOLATION,
            "failed": exit::PASSED_FAILED,
            "machine": exit::PASSED_MACHINE,
            "timeout": exit::PASSED_TIMEOUT,
            "ws": exit::PASSED_WS,
            "not_executable": exit::PASSED_NOT_EXECUTABLE,
            "not_found": exit::PASSED_NOT_FOUND,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schemas_are_fresh() {
        check(&crate::root()).unwrap_or_else(|stale| panic!("{stale}"));
    }

    #[test]
    fn every_body_of_the_control_api_has_its_schema() {
        let source = fs::read_to_string(crate::root().join("crates/ws-model/src/wire.rs")).unwrap();
        let control = control();
        let definitions = control["$defs"].as_object().unwrap();
        let mut promised = 0;
        let mut derives = false;
        for line in source.lines() {
            derives |= line.contains("JsonSchema");
            let name = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            if let Some(name) = name {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                if std::mem::take(&mut derives) {
                    assert!(definitions.contains_key(name), "`{name}` has no schema: name it in `control`");
                    promised += 1;
                }
            }
        }
        assert!(promised > 8, "only {promised} types were found");
    }
}
