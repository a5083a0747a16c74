//! `ws graph`

use clap::Args;

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::{Context, load};

const AFTER_HELP: &str = "\
Examples:
  ws graph
  ws graph --format mermaid >> README.md    (between ```mermaid and ```)
  ws graph --format svg > stack.svg
  ws graph --format dot | dot -Tpng > stack.png
  ws graph --format json

Formats: text (a tree) · mermaid · dot · svg (drawn here, no other program is needed) · json

Exit codes: 0 · 2 something is wrong with the file";

/// Show who waits for whom and who may reach whom.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GraphArgs {
    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Shows the graph.
///
/// # Errors
/// When something is wrong with the file.
pub fn run(args: &GraphArgs, context: &Context) -> Result<u8, Failure> {
    load::show_graph(context, &args.options)
}
