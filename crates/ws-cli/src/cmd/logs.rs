//! `ws logs`

use clap::Args;

use crate::error::Failure;
use crate::units::{Moment, parse_moment};
use crate::{Context, look};

const AFTER_HELP: &str = "\
Examples:
  ws logs                      everything, in the order in which it was printed
  ws logs -f api               follow api; Ctrl-C ends it
  ws logs --tail 50 --since 10m
  ws logs --json | jq -r 'select(.stream == \"stderr\") | .line'

Logs of the last runs stay on disk: the command also works when nothing runs.
--file of the workspace stands before the command: `ws -f FILE logs -f`.

Exit codes: 0 · 2 no such service · 5 there is neither a running stack nor a log of one ·
130 interrupted";

/// Show what the services have printed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct LogsArgs {
    /// Which services; all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Go on with new lines as they come.
    #[arg(short, long)]
    pub follow: bool,

    /// Only the last N lines.
    #[arg(long, short = 'n', value_name = "N")]
    pub tail: Option<usize>,

    /// Only lines since then: `10m` (that long ago) or `2026-05-01T10:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub since: Option<Moment>,

    /// Put the time before each line.
    #[arg(short, long)]
    pub timestamps: bool,
}

/// Shows the logs.
///
/// # Errors
/// When there are none, or a service does not exist.
pub fn run(args: &LogsArgs, context: &Context) -> Result<u8, Failure> {
    look::logs(
        context,
        &look::LogsWanted {
            services: &args.services,
            follow: args.follow,
            tail: args.tail,
            since: args.since,
            timestamps: args.timestamps,
        },
    )
}
