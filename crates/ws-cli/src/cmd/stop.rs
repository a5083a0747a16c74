//! `ws stop`

use clap::Args;

use crate::Context;
use crate::change::{self, Deed, Wanted};
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws stop api                  its stop signal, its grace period, then SIGKILL
  ws stop api-2                one replica of api
  ws stop                      all services; the supervisor stays, `ws start` goes on
  ws stop --no-wait api

What needs a stopped service is not stopped with it; it is said who that is. `ws down` stops
everything and leaves nothing.

Exit codes: 0 stopped (or asked, with --no-wait) · 2 no such service · 5 nothing runs here ·
130 interrupted (it goes on)";

/// Stop services, each with its grace period.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StopArgs {
    /// Which services; all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Only ask; do not wait until they have stopped.
    #[arg(long)]
    pub no_wait: bool,
}

/// Stops them.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &StopArgs, context: &Context) -> Result<u8, Failure> {
    let wanted = Wanted { services: &args.services, wait: !args.no_wait, within: None };
    change::change(context, Deed::Stop, wanted)
}
