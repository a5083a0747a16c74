//! `ws plan`

use clap::Args;

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::{Context, load, rights};

const AFTER_HELP: &str = "\
Examples:
  ws plan
  ws plan --json | jq '.services.api.links'
  ws plan --against main        what it gives more, and less, than there: for a review

Shows exactly what `ws up` would do. Starts nothing. Where the stack runs, what is different from that
comes after it: what starts again, what changes while it goes on, what is added or removed, and what
gives more rights. `ws apply --dry-run` shows only this.

Exit codes: 0 · 2 something is wrong with the file";

/// Show what would be done: order, addresses, links, what each service may read, write and use.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PlanArgs {
    /// Only show what is different from the workspace file at this revision of the repository.
    ///
    /// What gives a service more rights comes first. Needs `git`.
    #[arg(long, value_name = "REV")]
    pub against: Option<String>,

    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Shows the plan.
///
/// # Errors
/// When something is wrong with the file.
pub fn run(args: &PlanArgs, context: &Context) -> Result<u8, Failure> {
    match &args.against {
        Some(revision) => rights::against(context, &args.options, revision),
        None => load::show_plan(context, &args.options),
    }
}
