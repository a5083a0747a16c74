//! `ws violations`

use std::path::PathBuf;

use clap::Args;

use crate::error::Failure;
use crate::{Context, violations};

const AFTER_HELP: &str = "\
Examples:
  ws violations                    how services broke their policies since the stack came up
  ws violations -f api             each as it happens
  ws violations --json | jq '.[] | select(.class == \"network\") | .evidence.name'
  ws violations --github --exit-code     in a workflow: annotations, and 4 where there are any

A violation is a thing that a service tried and the kernel refused, or a limit that it ran into.
What is done about it says `policy` in the workspace file. Where nothing runs, those of the last
run are shown.

Exit codes: 0 · 2 no such service · 4 with --exit-code, when there are some · 130 interrupted";

/// Show what services tried and may not, and the limits that they ran into.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ViolationsArgs {
    /// Of which services; of all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Go on with new ones as they come.
    #[arg(short, long)]
    pub follow: bool,

    /// As annotations of a GitHub workflow.
    #[arg(long, conflicts_with_all = ["json", "format"])]
    pub github: bool,

    /// Also write a JUnit report.
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    pub junit: Option<PathBuf>,

    /// End with 4 when there are some.
    #[arg(long, conflicts_with = "follow")]
    pub exit_code: bool,
}

/// Shows them.
///
/// # Errors
/// When nothing ran here, or a service does not exist.
pub fn run(args: &ViolationsArgs, context: &Context) -> Result<u8, Failure> {
    violations::show(context, args)
}
