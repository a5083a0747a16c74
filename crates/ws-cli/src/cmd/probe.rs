//! `ws __probe`: what this machine can do, for tests and reports of faults.

use serde_json::{Value, json};

use crate::Context;
use crate::args::Format;
use crate::error::Failure;

/// Tries what the machine can do and prints it: a table, or `[{name, what, can, found}, …]`.
///
/// Runs before there is any thread: the attempts are made in children of this process. Mounts are tried on the
/// file system of the directory where it is called.
///
/// # Errors
/// When nothing can be tried.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let found = ws_sys::probe::capabilities(&context.settings.start)
        .map_err(|error| Failure::failed("could not try what this machine can do").because(&error))?;
    match context.ui.format {
        Format::Text => context.ui.data(&found.to_string())?,
        Format::Json => {
            let rows: Vec<Value> = found
                .0
                .into_iter()
                .map(|ability| {
                    let can = ability.found.is_ok();
                    let (Ok(text) | Err(text)) = ability.found;
                    json!({ "name": ability.name, "what": ability.what, "can": can, "found": text })
                })
                .collect();
            context.ui.json(&rows)?;
        }
    }
    Ok(ws_model::exit::OK)
}
