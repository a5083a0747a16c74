//! `ws events`

use clap::Args;

use crate::error::Failure;
use crate::{Context, look};

const AFTER_HELP: &str = "\
Examples:
  ws events                 what has happened so far
  ws events -f api          follow, only about api
  ws events -f --json | jq -c 'select(.kind == \"phase\")'
  ws events --since 120     everything after the event with number 120

Each event has a number that goes on across runs: a reader that was cut off goes on with --since.

Exit codes: 0 · 2 no such service · 5 nothing runs here · 130 interrupted";

/// Show what has happened: phases and their causes, ports, notices.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct EventsArgs {
    /// About which services; everything without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Go on with new events as they come.
    #[arg(short, long)]
    pub follow: bool,

    /// Only events after the one with this number.
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
}

/// Shows the events.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &EventsArgs, context: &Context) -> Result<u8, Failure> {
    look::events(context, &args.services, args.follow, args.since)
}
