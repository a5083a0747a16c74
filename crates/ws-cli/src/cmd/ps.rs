//! `ws ps`

use clap::Args;

use crate::error::Failure;
use crate::{Context, look};

const AFTER_HELP: &str = "\
Examples:
  ws ps
  ws ps api                       of a service with replicas: all of them
  ws ps -w
  ws ps --json | jq -r '.[] | select(.ready | not) | .service'

When nothing runs, `--json` prints `[]` and the code is 0.

Exit codes: 0 · 2 no such service";

/// Show the services: phase, address, published ports.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PsArgs {
    /// Which services; all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Also process ids, numbers of processes and limits; nothing is cut to the terminal.
    #[arg(short, long)]
    pub wide: bool,
}

/// Shows the services.
///
/// # Errors
/// When a service does not exist or the supervisor does not answer.
pub fn run(args: &PsArgs, context: &Context) -> Result<u8, Failure> {
    look::ps(context, &args.services, args.wide)
}
