//! `ws stats`

use std::time::Duration;

use clap::Args;

use crate::args::duration_arg;
use crate::error::Failure;
use crate::{Context, stats};

const AFTER_HELP: &str = "\
Examples:
  ws stats                      live, redrawn in place; Ctrl-C leaves
  ws stats --no-stream api db   once
  ws stats --json --interval 5s | jq -c '{name, cpu_percent}'

CPU is in percent of one processor. Samples are taken only while somebody reads them; the first look
has no CPU. Without a terminal the text is printed once; with --json there is a line for each sample.

Exit codes: 0 · 2 no such service · 5 nothing runs here";

/// Show what services use: processor time, memory and its limit, processes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatsArgs {
    /// Which services; all that run without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Show it once.
    #[arg(long)]
    pub no_stream: bool,

    /// The time between two looks (`500ms`, `5s`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg, default_value = "1s")]
    pub interval: Duration,
}

/// Shows it.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &StatsArgs, context: &Context) -> Result<u8, Failure> {
    let wanted = stats::Wanted { services: &args.services, stream: !args.no_stream, interval: args.interval };
    stats::stats(context, wanted)
}
