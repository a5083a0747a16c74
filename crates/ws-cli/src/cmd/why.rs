//! `ws why`

use clap::Args;

use crate::error::Failure;
use crate::{Context, access, causes};

const AFTER_HELP: &str = "\
Examples:
  ws why api
  ws why api --json | jq -r '.chain[-1].service'     the root of it
  ws why api db:5432                                 may it, by which line of the file; what would allow it

With one name the first line is the service itself; each further one is what it waits for, or failed
for; then who may reach it. With two nothing needs to run: the file says it.

Exit codes: 0 · 1 it may not · 2 no such service · 5 nothing runs here";

/// Say why a service is in its phase, down to the root of it; or whether it may reach another.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WhyArgs {
    /// Which service.
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Whether it may reach this: a service, with or without a port.
    #[arg(value_name = "TARGET[:PORT]")]
    pub target: Option<String>,
}

/// Says why.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &WhyArgs, context: &Context) -> Result<u8, Failure> {
    match &args.target {
        Some(target) => access::why(context, &args.service, target),
        None => causes::why(context, std::slice::from_ref(&args.service)),
    }
}
