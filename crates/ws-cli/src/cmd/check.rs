//! `ws check`

use clap::Args;

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::{Context, load};

const AFTER_HELP: &str = "\
Examples:
  ws check
  ws -f infra/workspace.yaml check
  ws check --format json        for editors and CI: the same with positions, on stdout

Reads the file and the env files that it names, and plans as `ws up` would. Starts nothing.

Exit codes: 0 nothing is wrong (warnings may be shown) · 2 something is wrong";

/// Say everything that is wrong with the workspace file.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Checks the file.
///
/// # Errors
/// When something is wrong.
pub fn run(args: &CheckArgs, context: &Context) -> Result<u8, Failure> {
    load::check(context, &args.options)
}
