//! `ws port`

use clap::Args;

use crate::error::Failure;
use crate::{Context, look};

const AFTER_HELP: &str = "\
Examples:
  ws port api 8080
  curl \"http://$(ws port api 8080)/healthz\"

Prints `address:port` alone, one line for each place where the port is published.

Exit codes: 0 · 1 the port is not published · 2 no such service · 5 nothing runs here";

/// Print where a port of a service is published.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PortArgs {
    /// Of which service.
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// The service's own port.
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

/// Prints where the port is published.
///
/// # Errors
/// When it is not.
pub fn run(args: &PortArgs, context: &Context) -> Result<u8, Failure> {
    look::port(context, &args.service, args.port)
}
