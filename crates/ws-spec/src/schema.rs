//! The JSON Schema of the file, made from the raw types.

use schemars::generate::SchemaSettings;

use crate::raw::FileRaw;

/// The JSON Schema of the workspace file (draft 2020-12), with descriptions for editors.
///
/// It knows forms, not meanings: that a link names a service which is there, only [`crate::parse`] knows.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<FileRaw>();
    schema.insert("title".into(), "workspace.yaml".into());
    schema.insert(
        "$id".into(),
        "https://raw.githubusercontent.com/ws-workspace/ws/main/schemas/workspace.schema.json".into(),
    );
    schema.insert("required".into(), serde_json::json!(["services"]));
    let mut value = schema.to_value();
    unwrap_lines(&mut value);
    value
}

/// Descriptions are written with line breaks in the source; editors wrap by themselves.
fn unwrap_lines(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    serde_json::Value::String(text) if key == "description" => {
                        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
                    }
                    other => unwrap_lines(other),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}
