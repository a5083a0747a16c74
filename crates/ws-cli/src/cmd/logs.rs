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
  ws logs --grep 'ERROR|panic' -t api web
  ws logs --json | jq -r 'select(.stream == \"stderr\") | .line'

A service with replicas is all of them; `api-2` is one. Where output was dropped, a line says how much.
On a terminal only colours of what services print get through; elsewhere their bytes are data.
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

    /// Only the last N lines of each service; of those that the other options leave.
    #[arg(long, short = 'n', value_name = "N")]
    pub tail: Option<usize>,

    /// Only lines since then: `10m` (that long ago) or `2026-05-01T10:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub since: Option<Moment>,

    /// Only lines until then, written as for --since.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<Moment>,

    /// Only lines in which this regular expression matches somewhere.
    #[arg(long, short, value_name = "REGEX", value_parser = expression)]
    pub grep: Option<String>,

    /// Only lines in which --grep does not match.
    #[arg(long, short = 'v', requires = "grep")]
    pub invert: bool,

    /// Put the time before each line.
    #[arg(short, long)]
    pub timestamps: bool,

    /// Leave the name of the service out.
    #[arg(long)]
    pub no_prefix: bool,

    /// Leave colours out, those that services have printed too.
    #[arg(long)]
    pub no_color: bool,
}

fn expression(text: &str) -> Result<String, String> {
    regex::Regex::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
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
            until: args.until,
            grep: args.grep.as_deref(),
            invert: args.invert,
            style: look::LineStyle {
                timestamps: args.timestamps,
                no_prefix: args.no_prefix,
                no_colour: args.no_color,
            },
        },
    )
}
