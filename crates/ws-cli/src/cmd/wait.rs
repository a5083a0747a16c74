//! `ws wait`

use std::time::Duration;

use clap::{Args, ValueEnum};
use ws_client::WaitFor;

use crate::args::duration_arg;
use crate::error::Failure;
use crate::{Context, waiting};

const AFTER_HELP: &str = "\
Examples:
  ws wait api                            until api is ready (a task: until it finished)
  ws wait --for completed migrate
  ws wait --for stopped --timeout 30s api db
  ws wait                                everything that was asked for

It does not ask for anything: a service that nobody has started is waited for.
With --json the rows of the services are printed, as `ws ps --json` does.

Exit codes: 0 it is so · 1 it can never become so by itself (it says why) · 2 no such service ·
5 nothing runs here · 124 the time ran out · 130 interrupted";

/// Wait until services are ready, started, completed or stopped.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WaitArgs {
    /// Which services; without any, all that somebody asked for.
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// What to wait for.
    #[arg(long = "for", value_name = "STATE", default_value = "ready")]
    pub state: State,

    /// Give up after this long (`90s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub timeout: Option<Duration>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Ready; for a task: finished with success.
    Ready,
    /// Its program was executed.
    Started,
    /// Ended by itself with success.
    Completed,
    /// Nothing of it runs or will.
    Stopped,
}

/// Waits.
///
/// # Errors
/// When it can never become so, or the time runs out.
pub fn run(args: &WaitArgs, context: &Context) -> Result<u8, Failure> {
    let condition = match args.state {
        State::Ready => WaitFor::Ready,
        State::Started => WaitFor::Started,
        State::Completed => WaitFor::Completed,
        State::Stopped => WaitFor::Stopped,
    };
    waiting::wait(context, &args.services, condition, args.timeout)
}
