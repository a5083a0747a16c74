//! `ws version`

use clap::Args;
use serde_json::json;
use ws_model::wire::API_VERSION;

use crate::Context;
use crate::args::Format;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws version
  ws version --json";

/// Print the version.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VersionArgs {}

/// Prints the version.
///
/// # Errors
/// When it cannot be printed.
pub fn run(_: &VersionArgs, context: &Context) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match context.ui.format {
        Format::Text => context.ui.line(&format!("ws {version}"))?,
        Format::Json => context.ui.json(&json!({ "version": version, "api": API_VERSION }))?,
    }
    Ok(ws_model::exit::OK)
}
