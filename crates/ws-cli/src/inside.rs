//! `ws exec`: this terminal, connected to a command inside a service.

use std::io::{self, IsTerminal, Write};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use ws_client::{ExecInput, ExecOutput};
use ws_model::wire::{ExecRequest, ExecResult};
use ws_model::{ExitReason, exit};

use crate::error::Failure;
use crate::ui::terminal_size;
use crate::{Context, instances, names, runtime};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// In which service.
    pub service: &'a str,
    /// Program and arguments.
    pub command: &'a [String],
    /// Added to the service's environment.
    pub env: &'a [(String, String)],
    /// The directory inside.
    pub working_dir: Option<&'a str>,
    /// Whether it gets a terminal when the standard input is one.
    pub terminal: bool,
}

/// Runs a command inside a service and gives its exit code.
///
/// # Errors
/// When it could not be run, or the supervisor ended before it did.
pub fn exec(context: &Context, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let tty = wanted.terminal && io::stdin().is_terminal();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let rows = client.services().await?;
        let service = names::service(wanted.service, &rows)?;
        let request = ExecRequest {
            command: wanted.command.to_vec(),
            env: environment(context, wanted, tty),
            working_dir: wanted.working_dir.map(ToOwned::to_owned),
            tty,
        };
        let session = client.exec(&service, &request).await?;
        let raw = if tty { Some(Raw::begin()?) } else { None };
        let feeding = tokio::spawn(feed(session.stdin, tty));
        let ended = show(session.streams).await;
        feeding.abort();
        drop(raw);
        ended
    });
    // A read of the standard input cannot be cancelled: its thread is left behind.
    runtime.shutdown_background();
    match ended? {
        ExecResult::Ended(ExitReason::Code(code)) => Ok(u8::try_from(code & 0xff).unwrap_or(exit::PASSED_WS)),
        ExecResult::Ended(ExitReason::Signal(signal)) => {
            Ok(u8::try_from((128 + signal) & 0xff).unwrap_or(exit::PASSED_WS))
        }
        ExecResult::NotStarted { error, not_found } => {
            context.ui.fail(
                &Failure::failed(format!("could not run `{}`", wanted.command[0]))
                    .because(&io::Error::other(error)),
            );
            Ok(if not_found { exit::PASSED_NOT_FOUND } else { exit::PASSED_NOT_EXECUTABLE })
        }
    }
}

/// A terminal is of use only to a program that knows which.
fn environment(context: &Context, wanted: &Wanted<'_>, tty: bool) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if tty {
        let term = context.settings.around.env.get("TERM").cloned().unwrap_or_else(|| "xterm".to_owned());
        env.push(("TERM".to_owned(), term));
    }
    env.extend(wanted.env.iter().cloned());
    env
}

async fn feed(mut to: ExecInput, tty: bool) {
    let mut buffer = vec![0; 32 << 10];
    let mut stdin = tokio::io::stdin();
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    if tty && resize(&mut to).await.is_none() {
        return;
    }
    loop {
        tokio::select! {
            read = stdin.read(&mut buffer) => match read {
                Ok(0) | Err(_) => {
                    // The command goes on without input; that it has ended is told elsewhere.
                    let _ = to.close().await;
                    return;
                }
                Ok(count) => if to.write(&buffer[..count]).await.is_err() { return },
            },
            Some(()) = resized.recv(), if tty => if resize(&mut to).await.is_none() { return },
        }
    }
}

async fn resize(to: &mut ExecInput) -> Option<()> {
    let Some(size) = terminal_size(&io::stdin()) else { return Some(()) };
    let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    to.resize(short(size.columns), short(size.rows)).await.ok()
}

async fn show(mut from: ws_client::ExecStreams) -> Result<ExecResult, Failure> {
    loop {
        match from.next().await? {
            Some(ExecOutput::Stdout(data)) => put(&mut io::stdout().lock(), &data)?,
            Some(ExecOutput::Stderr(data)) => put(&mut io::stderr().lock(), &data)?,
            Some(ExecOutput::Exit(result)) => return Ok(result),
            None => return Err(Failure::failed("the supervisor ended before the command")),
        }
    }
}

fn put(to: &mut impl Write, data: &[u8]) -> Result<(), Failure> {
    let written = to.write_all(data).and_then(|()| to.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::broken_pipe(),
        _ => Failure::failed("could not write the command's output").because(&error),
    })
}

/// The terminal without a mind of its own: every key goes to the command. Dropping it restores what was.
struct Raw {
    before: Termios,
}

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let failure = |error: rustix::io::Errno| {
            Failure::failed("could not set the terminal up")
                .because(&io::Error::from(error))
                .hint("`-T` does without")
        };
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).map_err(failure)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failure)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
