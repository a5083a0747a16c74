//! `ws set`

use std::time::Duration;

use clap::Args;

use crate::Context;
use crate::apply::{self, Waiting};
use crate::args::duration_arg;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws set api limits.memory=1G          at once, while it runs
  ws set api limits.cpus=0.5 limits.pids=200
  ws set api replicas=3
  ws set api environment.LOG=debug     api starts again for it

Any key of a service, with its value as YAML: as if workspace.yaml said so. It stays until the
stack is down, or until workspace.yaml says something else about that key than it did.

Exit codes: 0 carried out (or asked, with --no-wait) · 1 something failed, or the time ran out ·
2 no such service or setting · 5 nothing runs here · 130 interrupted (it goes on)";

/// Give a service that runs other settings.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SetArgs {
    /// Which service, as the file names it.
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Keys of the service with their values.
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = setting)]
    pub settings: Vec<(String, String)>,

    /// Only ask; do not wait until it is done.
    #[arg(long, conflicts_with = "wait_timeout")]
    pub no_wait: bool,

    /// Give up waiting after this long (`90s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = duration_arg)]
    pub wait_timeout: Option<Duration>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a setting is `key=value`, like `limits.memory=1G`")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Sets them.
///
/// # Errors
/// When there is no such setting, or something does not come up.
pub fn run(args: &SetArgs, context: &Context) -> Result<u8, Failure> {
    let waiting = Waiting { wait: !args.no_wait, within: args.wait_timeout };
    apply::set(context, &args.service, &args.settings, waiting)
}
