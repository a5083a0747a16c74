//! `ws completions`

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::Context;
use crate::args::Cli;
use crate::error::Failure;

const AFTER_HELP: &str = "\
Examples:
  ws completions bash > ~/.local/share/bash-completion/completions/ws
  ws completions zsh > ~/.zfunc/_ws          with `fpath+=~/.zfunc` before `compinit`
  ws completions fish > ~/.config/fish/completions/ws.fish

Exit codes: 0 · 2 there is no such shell";

/// Print the completions of a shell.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// Of which shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints them.
///
/// # Errors
/// When they cannot be written.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<u8, Failure> {
    let mut text = Vec::new();
    let root = Cli::command();
    // The generators also offer what is hidden.
    let visible = root.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = Command::new("ws").args(root.get_arguments().cloned()).subcommands(visible);
    clap_complete::generate(args.shell, &mut shown, "ws", &mut text);
    context.ui.raw(&String::from_utf8_lossy(&text))?;
    Ok(ws_model::exit::OK)
}
