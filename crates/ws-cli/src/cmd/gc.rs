//! `ws gc`

use clap::Args;

use crate::error::Failure;
use crate::{Context, instances};

const AFTER_HELP: &str = "\
Examples:
  ws gc

When a supervisor is killed the kernel removes its processes and networks; this removes the rest
(empty cgroups, sockets, records) and says what. Running workspaces, logs and volumes are not touched.
Every command does the same by itself for the workspace that it is about.

Exit codes: 0 · 1 something could not be removed (it says what)";

/// Clear what crashed workspaces left behind.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GcArgs {}

/// Clears.
///
/// # Errors
/// When something could not be removed.
pub fn run(_: &GcArgs, context: &Context) -> Result<u8, Failure> {
    instances::gc(context)
}
