//! `ws run`

use clap::Args;

use crate::args::PlanOptions;
use crate::cmd::exec::key_value;
use crate::error::Failure;
use crate::{Context, one_off};

const AFTER_HELP: &str = "\
Examples:
  ws run api -- ./manage migrate         beside api, in a sandbox like its own
  ws run --no-deps api cargo test        without what api depends on
  ws run -T -e LOG=debug migrate         the service's own command, without a terminal
  ws run api env

The command gets the service's user, files, environment, limits and links, in a sandbox of its own with an
address of its own, and none of its published ports. What the service depends on is started first. When
nothing runs here, the stack is begun for this command, with only what it needs, and taken down after it.

Exit codes: the command's own (128 + N when signal N ended it), or
  120  it was killed because it broke its policy
  121  the stack failed: what it depends on did not come up
  122  this machine cannot enforce what is asked
  125  ws itself failed: bad file, no such service
  126  the command cannot be executed
  127  the command was not found";

/// Run a one-off command in a service's sandbox, with what it depends on.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RunArgs {
    /// No terminal, even when the standard input and output are one.
    #[arg(short = 'T', long = "no-tty")]
    pub no_tty: bool,

    /// Add a variable to the service's environment; may be given several times.
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,

    /// The directory inside; without it the service's own.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// Leave what the service depends on as it is.
    #[arg(long)]
    pub no_deps: bool,

    /// What decides the plan, when nothing runs yet.
    #[command(flatten)]
    pub options: PlanOptions,

    /// Like which service.
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// What to run, with its arguments; without it the service's own command.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Runs the command and gives its exit code.
///
/// # Errors
/// When the command cannot be run.
pub fn run(args: &RunArgs, context: &Context) -> Result<u8, Failure> {
    one_off::run(
        context,
        &args.options,
        &one_off::Wanted {
            service: &args.service,
            command: &args.command,
            env: &args.env,
            working_dir: args.workdir.as_deref(),
            terminal: !args.no_tty,
            no_deps: args.no_deps,
        },
    )
}
