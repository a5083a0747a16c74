//! `ws why`

use clap::Args;

use crate::error::Failure;
use crate::{Context, causes};

const AFTER_HELP: &str = "\
Examples:
  ws why api
  ws why api --json | jq -r '.chain[-1].service'     the root of it

The first line is the service itself; each further one is what it waits for, or failed for.

Exit codes: 0 · 2 no such service · 5 nothing runs here";

/// Say why a service is in its phase, down to the root of it.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WhyArgs {
    /// Which services.
    #[arg(value_name = "SERVICE", required = true)]
    pub services: Vec<String>,
}

/// Says why.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &WhyArgs, context: &Context) -> Result<u8, Failure> {
    causes::why(context, &args.services)
}
