//! `ws exec`

use clap::Args;

use crate::error::Failure;
use crate::{Context, inside};

const AFTER_HELP: &str = "\
Examples:
  ws exec api ./task --all
  ws exec db psql -U app shop
  ws exec -T db pg_dump shop > dump.sql
  ws exec -e LOG=debug api ./task

The command runs with the service's own user, files, network, limits and environment. It gets a
terminal when the standard input and output are one; -T turns that off. Then every key goes to it,
Ctrl-C too. When this command is ended by a signal, the other one is ended with it.

Exit codes: the command's own (128 + N when signal N ended it), or
  120  it was killed with its service, which broke its policy
  121  the stack failed
  125  ws itself failed: nothing runs, no such service
  126  the command cannot be executed
  127  the command was not found";

/// Run a command inside a running service.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExecArgs {
    /// No terminal, even when the standard input and output are one.
    #[arg(short = 'T', long = "no-tty")]
    pub no_tty: bool,

    /// Add a variable to the service's environment; may be given several times.
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,

    /// The directory inside; without it the service's own.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// In which service.
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// What to run, with its arguments.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// For clap: a variable and its value.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write `KEY=VALUE`".to_owned()),
    }
}

/// Runs the command and gives its exit code.
///
/// # Errors
/// When the command cannot be run.
pub fn run(args: &ExecArgs, context: &Context) -> Result<u8, Failure> {
    inside::exec(
        context,
        &inside::Wanted {
            service: &args.service,
            command: &args.command,
            env: &args.env,
            working_dir: args.workdir.as_deref(),
            terminal: !args.no_tty,
        },
    )
}
