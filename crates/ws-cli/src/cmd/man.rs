//! `ws man`

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use crate::Context;
use crate::args::Cli;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws man | man -l -                      read it
  ws man up | man -l -                   that of one command
  ws man > ~/.local/share/man/man1/ws.1

Exit codes: 0 · 2 there is no such command";

/// Print the manual page, of ws or of one command.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ManArgs {
    /// Of which command.
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// Prints it.
///
/// # Errors
/// When there is no such command.
pub fn run(args: &ManArgs, context: &Context) -> Result<u8, Failure> {
    let mut root = Cli::command();
    root.build();
    let page = match &args.command {
        None => root,
        Some(name) => root
            .get_subcommands()
            .find(|command| command.get_name() == name && !command.is_hide_set())
            .cloned()
            // As the names of pages are: ws-up(1).
            .map(|command| command.display_name(format!("ws-{name}")))
            .ok_or_else(|| {
                Failure::usage(format!("there is no command `{name}`")).hint("`ws --help` lists them")
            })?,
    };
    let mut text = Vec::new();
    Man::new(page)
        .render(&mut text)
        .map_err(|error| Failure::failed("could not write the manual page").because(&error))?;
    context.ui.raw(&String::from_utf8_lossy(&text))?;
    Ok(ws_model::exit::OK)
}
