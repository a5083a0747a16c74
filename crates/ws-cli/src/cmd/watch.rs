//! `ws watch`

use std::path::PathBuf;

use clap::Args;

use crate::error::Failure;
use crate::{Context, look};

const AFTER_HELP: &str = "\
Examples:
  ws watch                     what is watched for each service, and how
  ws watch src/debug.log       what would be done if this file changed, and why
  ws watch --json $(git ls-files) | jq -r '.paths[] | select(all(.units[]; .action == null)) | .path'

Exit codes: 0 · 5 nothing runs here";

/// Explain which files are watched, and why others are not.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WatchArgs {
    /// Explain these files.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Explains.
///
/// # Errors
/// When nothing runs here.
pub fn run(args: &WatchArgs, context: &Context) -> Result<u8, Failure> {
    look::watch(context, &args.paths)
}
