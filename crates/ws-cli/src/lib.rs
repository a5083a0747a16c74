//! The `ws` command: from what was typed to an exit code.
//!
//! Two stages: [`args`] is what was typed, [`settings`] is what it means on this machine; then the
//! command runs. [`ui`] is the only door to the terminal, [`render`] is pure, [`machine`] is the only
//! file that knows which host the supervisor drives. Decides nothing about workspaces: that is in
//! `ws-spec` and `ws-core`.
//!
//! Read [`main`] first, then [`bring_up::up`].

pub mod access;
pub mod addresses;
pub mod apply;
pub mod args;
pub mod bring_up;
pub mod causes;
pub mod change;
pub mod cmd;
pub mod error;
pub mod follow;
pub mod inside;
pub mod instances;
pub mod launch;
pub mod learn;
pub mod live;
pub mod load;
pub mod look;
pub mod machine;
pub mod names;
pub mod one_off;
pub mod own_dirs;
pub mod render;
pub mod replan;
pub mod rights;
pub mod settings;
pub mod stats;
pub mod supervise;
pub mod take_down;
pub mod ui;
pub mod units;
pub mod view;
pub mod violations;
pub mod waiting;
pub mod watching;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ws_model::exit;

use crate::args::{Cli, Command, Format};
use crate::error::Failure;
use crate::settings::{Settings, Surroundings};
use crate::ui::Ui;

/// What every command has.
#[derive(Debug)]
pub struct Context {
    /// The terminal.
    pub ui: Ui,
    /// What was typed, resolved.
    pub settings: Settings,
}

/// Runs the command that was typed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    if matches!(cli.command, Command::Supervise { .. }) {
        return supervise::main();
    }
    let format = cli.globals.format();
    let ui = Ui::of_process(format);
    let passes_on = cli.command.passes_on();
    let ended = Surroundings::of_process()
        .and_then(|around| Settings::new(&cli, around))
        .and_then(|settings| run(&cli.command, &Context { ui: ui.clone(), settings }));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            ui.fail(&failure);
            ExitCode::from(if passes_on { failure.passed().code } else { failure.code })
        }
    }
}

fn run(command: &Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Up(args) => cmd::up::run(args, context),
        Command::Down(args) => cmd::down::run(args, context),
        Command::Start(args) => cmd::start::run(args, context),
        Command::Stop(args) => cmd::stop::run(args, context),
        Command::Restart(args) => cmd::restart::run(args, context),
        Command::Kill(args) => cmd::kill::run(args, context),
        Command::Wait(args) => cmd::wait::run(args, context),
        Command::Why(args) => cmd::why::run(args, context),
        Command::Stats(args) => cmd::stats::run(args, context),
        Command::Apply(args) => cmd::apply::run(args, context),
        Command::Set(args) => cmd::set::run(args, context),
        Command::Watch(args) => cmd::watch::run(args, context),
        Command::Ps(args) => cmd::ps::run(args, context),
        Command::Logs(args) => cmd::logs::run(args, context),
        Command::Exec(args) => cmd::exec::run(args, context),
        Command::Shell(args) => cmd::shell::run(args, context),
        Command::Run(args) => cmd::run::run(args, context),
        Command::Events(args) => cmd::events::run(args, context),
        Command::Violations(args) => cmd::violations::run(args, context),
        Command::Port(args) => cmd::port::run(args, context),
        Command::Check(args) => cmd::check::run(args, context),
        Command::Config(args) => cmd::config::run(args, context),
        Command::Plan(args) => cmd::plan::run(args, context),
        Command::Graph(args) => cmd::graph::run(args, context),
        Command::Learn(args) => cmd::learn::run(args, context),
        Command::Ls(args) => cmd::ls::run(args, context),
        Command::Gc(args) => cmd::gc::run(args, context),
        Command::Schema(args) => cmd::schema::run(args, context),
        Command::Explain(args) => cmd::explain::run(args, context),
        Command::Completions(args) => cmd::completions::run(args, context),
        Command::Man(args) => cmd::man::run(args, context),
        Command::Version(args) => cmd::version::run(args, context),
        Command::Probe => cmd::probe::run(context),
        Command::Supervise { .. } => Err(Failure::usage("the supervisor is started by `ws up`")),
    }
}

/// Help and bad use: clap has the words, we add what it cannot know.
fn misused(error: &clap::Error) -> ExitCode {
    // That nobody listens is no failure.
    let _ = error.print();
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && (argument == "-f" || argument == "--file")
    {
        Ui::of_process(Format::Text).say("help: `-f FILE` stands before the command: `ws -f FILE up`");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

/// A small runtime for a client: one thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("could not start the asynchronous runtime").because(&error))
}
