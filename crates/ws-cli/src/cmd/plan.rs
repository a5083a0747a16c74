//! `ws plan`

use clap::Args;

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::{Context, load};

const AFTER_HELP: &str = "\
Examples:
  ws plan
  ws plan --json | jq '.services.api.links'

Shows exactly what `ws up` would do. Starts nothing. Where the stack runs, what is different from that
comes after it: what starts again, what changes while it goes on, what is added or removed, and what
gives more rights. `ws apply --dry-run` shows only this.

Exit codes: 0 · 2 something is wrong with the file";

/// Show what would be done: order, addresses, links, what each service may read, write and use.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PlanArgs {
    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Shows the plan.
///
/// # Errors
/// When something is wrong with the file.
pub fn run(args: &PlanArgs, context: &Context) -> Result<u8, Failure> {
    load::show_plan(context, &args.options)
}
