//! `ws up`

use std::time::Duration;

use clap::Args;

use crate::args::{PlanOptions, duration_arg};
use crate::error::Failure;
use crate::{Context, bring_up};

const AFTER_HELP: &str = "\
Examples:
  ws up                          everything, attached: logs here, Ctrl-C stops it
  ws up api                      api and what it needs
  ws up -d                       in the background; returns when everything was started
  ws up --wait --wait-timeout 2m in the background; returns when everything is ready
  ws up --accept limited         run although this machine cannot enforce limits

Without -d, the stack goes down when this terminal does. Ctrl-C stops it gracefully, a second one
kills it now. If it runs already, `ws up` attaches to it, and Ctrl-C only detaches.
When `--wait` fails, what was started stays for a look (`ws ps`, `ws logs`); `ws down` removes it.

Exit codes: 0 ready (or started) · 1 a service failed, or the time ran out · 2 bad file or use ·
3 this machine cannot enforce what is asked · 130 interrupted";

/// Start the stack, or some services and what they need.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UpArgs {
    /// Which services; all without any. What they need is started too.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Leave it running in the background.
    #[arg(short, long)]
    pub detach: bool,

    /// Return when everything is ready (a task: when it finished with 0); implies --detach.
    #[arg(long)]
    pub wait: bool,

    /// Give up waiting after this long (`90s`, `2m`); implies --wait.
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub wait_timeout: Option<Duration>,

    /// What decides the plan.
    #[command(flatten)]
    pub options: PlanOptions,
}

/// Starts the stack.
///
/// # Errors
/// When it cannot be started, or does not become what was asked for.
pub fn run(args: &UpArgs, context: &Context) -> Result<u8, Failure> {
    let until = match (args.detach, args.wait || args.wait_timeout.is_some()) {
        (_, true) => bring_up::Until::Ready { within: args.wait_timeout },
        (true, false) => bring_up::Until::Started,
        (false, false) => bring_up::Until::Interrupted,
    };
    bring_up::up(context, &args.services, &args.options, until)
}
