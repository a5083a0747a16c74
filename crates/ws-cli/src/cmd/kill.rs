//! `ws kill`

use clap::Args;

use crate::Context;
use crate::change::{self, Deed, Wanted};
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws kill api                  SIGKILL to everything in it, no grace
  ws kill                      all services
  ws kill -s HUP web           only send a signal, and only to its main process

After SIGKILL the restart policy does not start it again; `ws start` does. What comes of another signal
is decided as if the service had ended by itself.

Exit codes: 0 killed (or sent) · 1 it does not run · 2 no such service or signal · 5 nothing runs here ·
130 interrupted";

/// Kill services at once.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct KillArgs {
    /// Which services; all without any.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Send this signal instead (`HUP`, `SIGUSR1`, `10`), and do not wait for anything.
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,

    /// Only ask; do not wait until they have ended.
    #[arg(long)]
    pub no_wait: bool,
}

/// Kills them.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn run(args: &KillArgs, context: &Context) -> Result<u8, Failure> {
    match &args.signal {
        Some(signal) => change::signal(context, &args.services, signal),
        None => {
            let wanted = Wanted { services: &args.services, wait: !args.no_wait, within: None };
            change::change(context, Deed::Kill, wanted)
        }
    }
}
