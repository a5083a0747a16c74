//! What was typed. Doc comments are the help; nothing is looked up here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ws_model::Level;

use crate::cmd;
use crate::units::parse_duration;

const AFTER_HELP: &str = "\
Start here:
  ws check                 say everything that is wrong with workspace.yaml
  ws plan                  show what would run, what it may reach and write
  ws up                    run it; Ctrl-C stops it and nothing is left
  ws up -d --wait          run it in the background; returns when everything is ready
  ws apply                 carry out what workspace.yaml says now, while it runs
  ws down                  stop it

workspace.yaml (or ws.yaml) is looked for in the current directory and above it.
stdout is data, stderr is talk; colours only on a terminal (NO_COLOR turns them off).

Exit codes:
  0    done
  1    the stack or a service failed
  2    bad use of the command line, or a bad file
  3    the machine cannot enforce what is asked
  4    a policy violation ended it
  5    nothing runs here, and the command needs it
  130  interrupted
  124  `wait`: the time ran out
`exec`, `shell` and `run` pass the code of their command on; ours are then 120 to 127 (see
`ws exec --help`).";

/// Run a stack from the working tree: every service isolated, linked and supervised.
#[derive(Debug, Parser)]
#[command(
    name = "ws",
    version,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The workspace file; stands before the command.
    ///
    /// Without it, workspace.yaml or ws.yaml is looked for in the current directory and above it.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// What applies to every command.
    #[command(flatten)]
    pub globals: Globals,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that stand before or after the command.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Work as if started in this directory.
    #[arg(
        short = 'C',
        long = "directory",
        value_name = "DIR",
        global = true,
        help_heading = "Global options"
    )]
    pub directory: Option<PathBuf>,

    /// Which copy of the workspace: another NAME is another instance, with its own network and volumes.
    ///
    /// A full name from `ws ls` works from any directory.
    #[arg(short = 'p', long, value_name = "NAME", global = true, help_heading = "Global options")]
    pub instance: Option<String>,

    /// Variables for `${VAR}` in the file, before those of `.env`; may be given several times.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    pub env_file: Vec<PathBuf>,

    /// How data is printed: text, or json for programs.
    #[arg(
        long,
        value_name = "FORMAT",
        hide_possible_values = true,
        global = true,
        help_heading = "Global options"
    )]
    pub format: Option<FormatArg>,

    /// Short for `--format json`.
    #[arg(long, global = true, conflicts_with = "format", help_heading = "Global options")]
    pub json: bool,
}

/// How data is printed on the standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; the shapes are promised by the schemas.
    Json,
}

/// What may be typed for `--format`: graphs can be drawn too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A graph for Markdown (GitHub and others draw it).
    Mermaid,
    /// A graph for the graphviz programs.
    Dot,
    /// A graph as a picture.
    Svg,
}

/// How `ws graph` draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawing {
    /// <https://mermaid.js.org>
    Mermaid,
    /// <https://graphviz.org/doc/info/lang.html>
    Dot,
    /// A picture.
    Svg,
}

impl FormatArg {
    /// Of every command's data, or only of graphs.
    ///
    /// # Errors
    /// The drawing, where it is one.
    pub fn kind(self) -> Result<Format, Drawing> {
        match self {
            Self::Text => Ok(Format::Text),
            Self::Json => Ok(Format::Json),
            Self::Mermaid => Err(Drawing::Mermaid),
            Self::Dot => Err(Drawing::Dot),
            Self::Svg => Err(Drawing::Svg),
        }
    }
}

impl Globals {
    /// How data is printed. A drawing counts as text.
    #[must_use]
    pub fn format(&self) -> Format {
        match (self.json, self.format.map(FormatArg::kind)) {
            (true, _) => Format::Json,
            (false, Some(Ok(format))) => format,
            (false, None | Some(Err(_))) => Format::Text,
        }
    }

    /// The drawing that was asked for.
    #[must_use]
    pub fn drawing(&self) -> Option<Drawing> {
        self.format.and_then(|format| format.kind().err())
    }
}

/// A command, one file each in `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the stack, or some services and what they need.
    Up(cmd::up::UpArgs),
    /// Stop the stack and remove everything that it made on this machine.
    Down(cmd::down::DownArgs),
    /// Start services that do not run, and what they need.
    Start(cmd::start::StartArgs),
    /// Stop services, each with its grace period.
    Stop(cmd::stop::StopArgs),
    /// Stop services and start them again.
    Restart(cmd::restart::RestartArgs),
    /// Kill services at once.
    Kill(cmd::kill::KillArgs),
    /// Carry out what workspace.yaml says now, while the stack runs.
    Apply(cmd::apply::ApplyArgs),
    /// Give a service that runs other settings.
    Set(cmd::set::SetArgs),
    /// Wait until services are ready, started, completed or stopped.
    Wait(cmd::wait::WaitArgs),
    /// Show the services: phase, address, published ports.
    Ps(cmd::ps::PsArgs),
    /// Say why a service is in its phase, down to the root of it.
    Why(cmd::why::WhyArgs),
    /// Explain which files are watched, and why others are not.
    Watch(cmd::watch::WatchArgs),
    /// Show what services use: processor time, memory and its limit, processes.
    Stats(cmd::stats::StatsArgs),
    /// Show what the services have printed.
    Logs(cmd::logs::LogsArgs),
    /// Run a command inside a running service.
    Exec(cmd::exec::ExecArgs),
    /// Open a shell inside a running service.
    Shell(cmd::shell::ShellArgs),
    /// Run a one-off command in a service's sandbox, with what it depends on.
    Run(cmd::run::RunArgs),
    /// Show what has happened: phases and their causes, ports, notices.
    Events(cmd::events::EventsArgs),
    /// Show what services tried and may not, and the limits that they ran into.
    Violations(cmd::violations::ViolationsArgs),
    /// Print where a port of a service is published.
    Port(cmd::port::PortArgs),
    /// Say everything that is wrong with the workspace file.
    Check(cmd::check::CheckArgs),
    /// Show the workspace as it is understood: defaults filled in, variables replaced.
    Config(cmd::config::ConfigArgs),
    /// Show what would be done: order, addresses, links, what each service may read, write and use.
    Plan(cmd::plan::PlanArgs),
    /// Show who waits for whom and who may reach whom.
    Graph(cmd::graph::GraphArgs),
    /// Propose the links, limits and programs that would have sufficed.
    Learn(cmd::learn::LearnArgs),
    /// List the workspaces of this user that run, crashed or left state.
    Ls(cmd::ls::LsArgs),
    /// Clear what crashed workspaces left behind.
    Gc(cmd::gc::GcArgs),
    /// Print the JSON Schema of workspace.yaml, for editors.
    Schema(cmd::schema::SchemaArgs),
    /// Explain the code of a diagnostic.
    Explain(cmd::explain::ExplainArgs),
    /// Print the completions of a shell.
    Completions(cmd::completions::CompletionsArgs),
    /// Print the manual page, of ws or of one command.
    Man(cmd::man::ManArgs),
    /// Print the version.
    Version(cmd::version::VersionArgs),
    /// What this machine can do, found by doing it.
    #[command(name = "__probe", hide = true)]
    Probe,
    /// The supervisor's own process; started by `ws up`.
    #[command(name = crate::launch::SUBCOMMAND, hide = true)]
    Supervise {
        /// The instance, only so that `ps` on the host shows it.
        instance: String,
    },
}

impl Command {
    /// Whether the exit code of what it runs is its own: then those of `ws` are out of the way.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Shell(_) | Self::Run(_))
            || matches!(self, Self::Up(args) if args.exit_code_from.is_some())
    }
}

/// Options of commands that plan.
#[derive(Debug, Clone, Default, Args)]
pub struct PlanOptions {
    /// Also the services of this profile; may be given several times.
    #[arg(long, value_name = "PROFILE")]
    pub profile: Vec<String>,

    /// The services that the command names, whose profiles are switched on by that.
    #[arg(skip)]
    pub named: Vec<String>,

    /// Whether builds are left out: services run from what is there.
    #[arg(skip)]
    pub no_build: bool,

    /// Whether no files are watched.
    #[arg(skip)]
    pub no_watch: bool,

    /// Whether later changes of the file are carried out even where they give a service more rights.
    #[arg(skip)]
    pub yes: bool,

    /// Accept a lower enforcement level than the file asks for: full, standard, limited or none.
    ///
    /// What is missing on this machine is then not enforced, and every summary says so.
    #[arg(long, value_name = "LEVEL", env = "WS_ACCEPT", hide_env_values = true, value_parser = parse_level)]
    pub accept: Option<Level>,
}

fn parse_level(text: &str) -> Result<Level, String> {
    [Level::Full, Level::Standard, Level::Limited, Level::None]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| "levels are `full`, `standard`, `limited` and `none`".to_owned())
}

/// For clap: a duration as people write it.
///
/// # Errors
/// When `text` is none.
pub(crate) fn duration_arg(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_teaches() {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut text = root.render_long_help().to_string();
        for command in root.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
            let help = command.render_long_help();
            text += &format!("\n════ ws {}\n\n{help}", command.get_name());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("ws {}", command.get_name());
            assert!(help.contains(&example), "`ws {} --help` has no example", command.get_name());
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in ["ws --json ps", "ws ps --json", "ws ps --format json", "ws -p ci ps --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.globals.json || cli.globals.format() == Format::Json, "{line}");
        }
        assert!(Cli::try_parse_from(["ws", "-f", "a.yaml", "logs", "-f"]).is_ok());
        assert!(Cli::try_parse_from(["ws", "ps", "--json", "--format", "text"]).is_err());
    }
}
