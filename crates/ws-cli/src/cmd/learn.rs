//! `ws learn`

use clap::Args;

use crate::error::Failure;
use crate::{Context, learn};

const AFTER_HELP: &str = "\
Examples:
  ws learn                    what the violations of this run (or the last one) ask for, as a patch
  ws learn | patch -p1        the same, taken over by hand
  ws learn --write            written into the workspace file; comments and order stay

A link for each port that a service tried, a higher limit where one was hit, a program for a list of
programs: the least with which these would not have been violations, and nothing more. What no right
of the file would allow, or only an attacker needs, is listed and left to you. What is written gives
a running stack nothing: `ws apply` shows it once more and takes it over.

Exit codes: 0 · 1 something cannot be written · 2 something is wrong with the file · 5 nothing ran here";

/// Propose the links, limits and programs that would have sufficed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct LearnArgs {
    /// Only for these services.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Write it into the workspace file.
    #[arg(long)]
    pub write: bool,
}

/// Proposes.
///
/// # Errors
/// When nothing ran here, or something is wrong with the file.
pub fn run(args: &LearnArgs, context: &Context) -> Result<u8, Failure> {
    learn::learn(context, args)
}
