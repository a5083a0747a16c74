//! `ws shell`

use clap::Args;

use crate::cmd::exec::key_value;
use crate::error::Failure;
use crate::{Context, inside};

const AFTER_HELP: &str = "\
Examples:
  ws shell api
  ws shell -e LOG=debug api-2
  echo 'ls /tmp' | ws shell api

Your own shell ($SHELL) where it is inside, else bash, else sh; with the service's user, files, network,
limits and environment. `exit` or Ctrl-D leaves it.

Exit codes: the shell's own (128 + N when signal N ended it), or
  120  it was killed with its service, which broke its policy
  121  the stack failed
  125  ws itself failed: nothing runs, no such service
  127  there is no shell inside";

/// Open a shell inside a running service.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ShellArgs {
    /// Add a variable to the service's environment; may be given several times.
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,

    /// The directory inside; without it the service's own.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// In which service.
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// Runs the shell and gives its exit code.
///
/// # Errors
/// When none can be run.
pub fn run(args: &ShellArgs, context: &Context) -> Result<u8, Failure> {
    inside::shell(
        context,
        &inside::Wanted {
            service: &args.service,
            command: &[],
            env: &args.env,
            working_dir: args.workdir.as_deref(),
            terminal: true,
        },
    )
}
