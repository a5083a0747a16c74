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
  ws up --no-watch --no-build    run what is there, and leave it alone when files change
  ws up --exit-code-from test    run until test ends, take everything down, exit with its code

Without -d, the stack goes down when this terminal does. Ctrl-C stops it gracefully, a second one
kills it now. If it runs already, `ws up` attaches to it, and Ctrl-C only detaches.
While it runs, services are built and started again as their `watch` says. Changes of workspace.yaml
are carried out too; those that give a service more rights wait for `ws apply`. Where it gives more than
at the last run here (a pull can do that), this is shown and asked for first; --yes approves it.
When `--wait` fails, what was started stays for a look (`ws ps`, `ws logs`); `ws down` removes it.

Exit codes: 0 ready (or started) · 1 a service failed, or the time ran out · 2 bad file or use ·
3 this machine cannot enforce what is asked · 4 a policy violation ended it · 130 interrupted
With --exit-code-from: that service's own (128 + N when signal N ended it), or 120 a policy violation ·
121 another service ended first, or the stack failed · 122 this machine · 125 bad file or use";

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

    /// Take the stack down as soon as any service ends, even if it would be started again.
    ///
    /// The exit code is 0 if it ended with success. A task that finishes with success does not count.
    #[arg(long, conflicts_with_all = ["detach", "wait", "wait_timeout"])]
    pub abort_on_exit: bool,

    /// Take the stack down as soon as any service has failed for good.
    #[arg(long, conflicts_with_all = ["detach", "wait", "wait_timeout"])]
    pub abort_on_failure: bool,

    /// Take the stack down as soon as any service ends, and pass on the exit code of this one.
    ///
    /// When another one ended first, or anything else goes wrong, the code is one of 120 to 125.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["detach", "wait", "wait_timeout"])]
    pub exit_code_from: Option<String>,

    /// Leave builds out: services run from what is there.
    #[arg(long)]
    pub no_build: bool,

    /// Watch no files: neither those of services nor workspace.yaml.
    #[arg(long)]
    pub no_watch: bool,

    /// Approve that workspace.yaml gives services more rights than at the last run here, and carry changes of it
    /// out even where they do while it runs.
    #[arg(short, long)]
    pub yes: bool,

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
    let abort = bring_up::Abort {
        on_exit: args.abort_on_exit || args.exit_code_from.is_some(),
        on_failure: args.abort_on_failure,
        code_from: args.exit_code_from.as_deref(),
    };
    let options = &PlanOptions {
        no_build: args.no_build,
        no_watch: args.no_watch,
        yes: args.yes,
        ..args.options.clone()
    };
    bring_up::up(context, &bring_up::Asked { services: &args.services, options, until, abort })
}
