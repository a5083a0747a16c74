//! `ws explain`

use clap::Args;

use crate::error::Failure;
use crate::{Context, load};

const AFTER_HELP: &str = "\
Examples:
  ws explain WS0031

Exit codes: 0 · 2 there is no such code";

/// Explain the code of a diagnostic.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExplainArgs {
    /// The code, as in `error[WS0031]`.
    #[arg(value_name = "CODE")]
    pub code: String,
}

/// Explains.
///
/// # Errors
/// When there is no such code.
pub fn run(args: &ExplainArgs, context: &Context) -> Result<u8, Failure> {
    load::explain(context, &args.code)
}
