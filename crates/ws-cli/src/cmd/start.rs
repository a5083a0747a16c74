//! `ws start`

use std::time::Duration;

use clap::Args;

use crate::Context;
use crate::args::duration_arg;
use crate::change::{self, Deed, Wanted};
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws start api                 api and what it needs; returns when it is ready
  ws start                     everything
  ws start api-2               one replica of api
  ws start --no-wait api

Starts in the stack that runs, by the plan that it was brought up with; `ws up` begins one.

Exit codes: 0 ready (or asked, with --no-wait) · 1 it failed, or the time ran out · 2 no such service ·
5 nothing runs here · 130 interrupted (it goes on)";

/// Start services that do not run, and what they need.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StartArgs {
    /// Which services; all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Only ask; do not wait until they are ready.
    #[arg(long, conflicts_with = "wait_timeout")]
    pub no_wait: bool,

    /// Give up waiting after this long (`90s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub wait_timeout: Option<Duration>,
}

/// Starts them.
///
/// # Errors
/// When they do not become ready.
pub fn run(args: &StartArgs, context: &Context) -> Result<u8, Failure> {
    let wanted = Wanted { services: &args.services, wait: !args.no_wait, within: args.wait_timeout };
    change::change(context, Deed::Start, wanted)
}
