//! `ws restart`

use std::time::Duration;

use clap::Args;

use crate::Context;
use crate::args::duration_arg;
use crate::change::{self, Deed, Wanted};
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws restart api               stop it with its grace, start it, return when it is ready again
  ws restart api-2             one replica of api
  ws restart                   everything that runs
  ws restart --no-wait api

The service keeps its network, its address and its published ports. What depends on it with
`restart: true` is restarted with it.

Exit codes: 0 ready again (or asked, with --no-wait) · 1 it failed, or the time ran out ·
2 no such service · 5 nothing runs here · 130 interrupted (it goes on)";

/// Stop services and start them again.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RestartArgs {
    /// Which services; all that run without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Only ask; do not wait until they are ready again.
    #[arg(long, conflicts_with = "wait_timeout")]
    pub no_wait: bool,

    /// Give up waiting after this long (`90s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub wait_timeout: Option<Duration>,
}

/// Restarts them.
///
/// # Errors
/// When they do not become ready again.
pub fn run(args: &RestartArgs, context: &Context) -> Result<u8, Failure> {
    let wanted = Wanted { services: &args.services, wait: !args.no_wait, within: args.wait_timeout };
    change::change(context, Deed::Restart, wanted)
}
