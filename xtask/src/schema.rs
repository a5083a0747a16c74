//! The committed JSON Schemas: made from the types that read and write what they describe.
//!
//! One file for each thing that others may depend on. A test and `cargo xtask schema --check` fail
//! where a file differs from its types, so a promise never changes unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Failure;

/// Every file of `schemas/` with what belongs in it.
fn all() -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("workspace.schema.json", ws_spec::schema()),
        ("diagnostics.schema.json", ws_spec::diagnostics_schema()),
    ];
    all.extend(ws_supervisor::schemas());
    all
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schemas_are_fresh() {
        check(&crate::root()).unwrap_or_else(|stale| panic!("{stale}"));
    }

    #[test]
    fn every_type_of_the_control_api_has_its_schema() {
        let source = fs::read_to_string(crate::root().join("crates/ws-model/src/wire.rs")).unwrap();
        let schemas: String = all().iter().map(|(_, schema)| schema.to_string()).collect();
        let mut promised = 0;
        let mut derives = false;
        for line in source.lines() {
            derives |= line.contains("JsonSchema");
            let name = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            if let Some(name) = name {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                if std::mem::take(&mut derives) {
                    assert!(schemas.contains(&format!("{name:?}:")), "no schema defines `{name}`");
                    promised += 1;
                }
            }
        }
        assert!(promised > 8, "only {promised} types were found");
    }
}
