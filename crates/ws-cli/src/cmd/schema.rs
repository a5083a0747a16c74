//! `ws schema`

use clap::Args;

use crate::Context;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws schema > workspace.schema.json

The first line of a workspace.yaml that makes editors use it:
  # yaml-language-server: $schema=workspace.schema.json";

/// Print the JSON Schema of workspace.yaml, for editors.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SchemaArgs {}

/// Prints the schema.
///
/// # Errors
/// When it cannot be printed.
pub fn run(_: &SchemaArgs, context: &Context) -> Result<u8, Failure> {
    context.ui.json(&ws_spec::schema())?;
    Ok(ws_model::exit::OK)
}
