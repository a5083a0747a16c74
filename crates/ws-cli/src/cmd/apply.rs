//! `ws apply`

use std::time::Duration;

use clap::Args;

use crate::Context;
use crate::apply::{self, Waiting};
use crate::args::duration_arg;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws apply --dry-run           what is different between what runs and workspace.yaml
  ws apply                     carry it out; return when what starts again is ready
  ws apply --json | jq -r '.lines[] | select(.widens) | .text'

A stack that runs follows workspace.yaml by itself, and touches only what is different. What gives a
service more rights (a link, a path, a port, a higher limit) waits for this command.
It reads the same files as `ws up` did, with the variables of this shell; later changes use them too.

Exit codes: 0 carried out (or asked, with --no-wait) · 1 something failed, it needs `ws down`, or
the time ran out · 2 something is wrong with the file · 5 nothing runs here ·
130 interrupted (it goes on)";

/// Carry out what workspace.yaml says now, while the stack runs.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ApplyArgs {
    /// Only show what is different.
    #[arg(long, conflicts_with_all = ["no_wait", "wait_timeout"])]
    pub dry_run: bool,

    /// Only ask; do not wait until it is done.
    #[arg(long, conflicts_with = "wait_timeout")]
    pub no_wait: bool,

    /// Give up waiting after this long (`90s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub wait_timeout: Option<Duration>,
}

/// Applies.
///
/// # Errors
/// When the file is not good, or something does not come up.
pub fn run(args: &ApplyArgs, context: &Context) -> Result<u8, Failure> {
    if args.dry_run {
        return apply::differences(context);
    }
    apply::apply(context, Waiting { wait: !args.no_wait, within: args.wait_timeout })
}
