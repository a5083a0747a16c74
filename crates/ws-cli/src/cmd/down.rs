//! `ws down`

use clap::Args;

use crate::error::Failure;
use crate::{Context, take_down};

const AFTER_HELP: &str = "\
Examples:
  ws down          stop in reverse order, each service with its grace period
  ws down --now    kill everything at once
  ws down -v       also delete the named volumes of this instance

Nothing is left: no process, network, mount or temporary file. Logs and volumes stay in the state
directory until `-v` or the next run. When nothing runs there is nothing to do, and the code is 0.

Exit codes: 0 down · 1 something could not be removed (it says what) · 130 interrupted";

/// Stop the stack and remove everything that it made on this machine.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DownArgs {
    /// Also delete the named volumes of this instance, with everything in them.
    #[arg(short, long)]
    pub volumes: bool,

    /// Kill at once instead of waiting for grace periods.
    #[arg(long)]
    pub now: bool,
}

/// Stops the stack.
///
/// # Errors
/// When something could not be stopped or removed.
pub fn run(args: &DownArgs, context: &Context) -> Result<u8, Failure> {
    take_down::down(context, args.now, args.volumes)
}
