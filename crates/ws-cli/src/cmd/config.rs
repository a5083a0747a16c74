//! `ws config`

use clap::Args;

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::{Context, load};

const AFTER_HELP: &str = "\
Examples:
  ws config
  ws config --origins      also where each value came from
  ws config --json | jq .services.api.environment

Exit codes: 0 · 2 something is wrong with the file";

/// Show the workspace as it is understood: defaults filled in, variables replaced.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ConfigArgs {
    /// Say for each value where it came from: file and line, variable, default.
    #[arg(long)]
    pub origins: bool,

    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Shows the workspace.
///
/// # Errors
/// When something is wrong with the file.
pub fn run(args: &ConfigArgs, context: &Context) -> Result<u8, Failure> {
    load::config(context, &args.options, args.origins)
}
