//! `ws ls`

use clap::Args;

use crate::error::Failure;
use crate::{Context, instances};

const AFTER_HELP: &str = "\
Examples:
  ws ls
  ws ls --json | jq -r '.[] | select(.state == \"running\") | .instance'
  ws -p shop-1a2b3c4d down      act on one of them from any directory

States: running · crashed (leftovers wait for `ws gc`) · stopped (only logs or volumes are kept)
READY is how many services are ready, of all; it and UPTIME are `-` when the supervisor does not answer.";

/// List the workspaces of this user that run, crashed or left state.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct LsArgs {}

/// Lists the instances.
///
/// # Errors
/// When the runtime or state directory cannot be read.
pub fn run(_: &LsArgs, context: &Context) -> Result<u8, Failure> {
    instances::ls(context)
}
