//! `ws exec` and `ws shell`: this terminal, connected to a command inside a service.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use ws_client::{Client, EventQuery, ExecInput, ExecOutput, ExecSession};
use ws_model::wire::{ExecRequest, ExecResult};
use ws_model::{EventKind, ExitReason, PolicyAction, ServiceName, Violation, exit};

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
    /// Whether it gets a terminal when there is one here.
    pub terminal: bool,
}

/// Runs a command inside a service and gives its exit code.
///
/// # Errors
/// When it could not be run, or the supervisor ended before it did.
pub fn exec(context: &Context, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let ended = in_service(context, wanted, &[wanted.command.to_vec()])?;
    Ok(code(context, &wanted.command[0], ended))
}

/// Runs the best shell that is inside a service: the caller's own where it is there, else bash, else sh.
///
/// # Errors
/// When none could be run, or the supervisor ended before it did.
pub fn shell(context: &Context, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let shells = shells(context.settings.around.env.get("SHELL").map(String::as_str));
    let commands: Vec<Vec<String>> = shells.iter().map(|shell| vec![shell.clone()]).collect();
    let ended = in_service(context, wanted, &commands)?;
    Ok(code(context, "sh", ended))
}

/// The shells to try, by name: they are looked up inside.
fn shells(own: Option<&str>) -> Vec<String> {
    let own = own.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
    let mut shells: Vec<String> = Vec::new();
    for shell in own.into_iter().chain(["bash", "sh"]) {
        if !shells.iter().any(|known| known == shell) {
            shells.push(shell.to_owned());
        }
    }
    shells
}

/// Runs the first of the commands that is found.
fn in_service(context: &Context, wanted: &Wanted<'_>, commands: &[Vec<String>]) -> Result<Ended, Failure> {
    let tty = wanted.terminal && has_terminal();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let (rows, seq) = client.services_at().await?;
        let service = names::service(wanted.service, &rows)?;
        let mut last = None;
        for command in commands {
            let request = ExecRequest {
                command: command.clone(),
                env: environment(context, wanted.env, tty),
                working_dir: wanted.working_dir.map(ToOwned::to_owned),
                tty,
            };
            let ended = attach(client.exec(&service, &request).await?, tty).await?;
            if ended.may_be_a_kill()
                && let Some(violation) = killed_for(&client, seq, |name| *name == service).await?
            {
                return Err(broke_policy(&service, &violation));
            }
            if !matches!(ended, Ended::Command(ExecResult::NotStarted { not_found: true, .. })) {
                return Ok(ended);
            }
            last = Some(ended);
        }
        last.ok_or_else(|| Failure::usage("there is no command"))
    });
    // A read of the standard input cannot be cancelled: its thread is left behind.
    runtime.shutdown_background();
    ended
}

/// The violation for which a service was killed since then, whoever did it: with it dies what runs inside.
pub(crate) async fn killed_for(
    client: &Client,
    since: u64,
    is_it: impl Fn(&ServiceName) -> bool,
) -> Result<Option<Violation>, Failure> {
    let mut events = client.events(EventQuery { since, follow: false }).await?;
    while let Some(event) = events.next().await {
        // One that only a later version knows, or the end.
        let Ok(event) = event else { continue };
        let (Some(name), EventKind::Violation(violation)) = (event.service, event.kind) else { continue };
        if violation.action > PolicyAction::Report && is_it(&name) {
            return Ok(Some(*violation));
        }
    }
    Ok(None)
}

/// Why a command ended that died with its service.
pub(crate) fn broke_policy(service: &ServiceName, violation: &Violation) -> Failure {
    let (evidence, rule) = (&violation.evidence, &violation.rule);
    Failure::new(exit::VIOLATION, format!("`{service}` {evidence}, and was killed for it ({rule})"))
        .hint("`ws violations` has more")
}

/// Whether a command can be given a terminal: what it prints comes here, and what is typed goes there.
pub(crate) fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// How a command that was attached to ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ended, or could not be started.
    Command(ExecResult),
    /// A signal ended us first; the supervisor ends the command then.
    Signalled(i32),
}

impl Ended {
    /// Whether it could be that it was killed: a moment after it began that looks as if it had not begun.
    pub(crate) fn may_be_a_kill(&self) -> bool {
        match self {
            Self::Command(ExecResult::Ended(ExitReason::Signal(_)) | ExecResult::NotStarted { .. }) => true,
            Self::Command(ExecResult::Ended(ExitReason::Code(_))) | Self::Signalled(_) => false,
        }
    }
}

/// The exit code for an end; says why a command could not be run.
pub(crate) fn code(context: &Context, program: &str, ended: Ended) -> u8 {
    match ended {
        Ended::Command(ExecResult::Ended(reason)) => passed(reason),
        Ended::Command(ExecResult::NotStarted { error, not_found }) => {
            let failure = Failure::failed(format!("could not run `{program}`"));
            context.ui.fail(&failure.because(&io::Error::other(error)));
            if not_found { exit::PASSED_NOT_FOUND } else { exit::PASSED_NOT_EXECUTABLE }
        }
        Ended::Signalled(signal) => passed(ExitReason::Signal(signal)),
    }
}

/// The exit code that passes an end on, as a shell does: the code itself, or 128 and the signal.
#[must_use]
pub fn passed(reason: ExitReason) -> u8 {
    let code = match reason {
        ExitReason::Code(code) => code,
        ExitReason::Signal(signal) => 128 + signal,
    };
    u8::try_from(code & 0xff).unwrap_or(exit::PASSED_WS)
}

/// A terminal is of use only to a program that knows which.
pub(crate) fn environment(context: &Context, given: &[(String, String)], tty: bool) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if tty {
        let term = context.settings.around.env.get("TERM").cloned().unwrap_or_else(|| "xterm".to_owned());
        env.push(("TERM".to_owned(), term));
    }
    env.extend(given.iter().cloned());
    env
}

/// Connects this process's streams with a command until it has ended, or a signal ends us.
///
/// # Errors
/// When the supervisor ended before the command, or the terminal cannot be set up.
pub(crate) async fn attach(session: ExecSession, tty: bool) -> Result<Ended, Failure> {
    let mut fatal = Fatal::listen()?;
    let ExecSession { stdin, streams } = session;
    let raw = if tty { Some(Raw::begin()?) } else { None };
    let feeding = tokio::spawn(feed(stdin, tty));
    let ended = tokio::select! {
        biased;
        signal = fatal.next() => Ok(Ended::Signalled(signal)),
        ended = show(streams) => ended.map(Ended::Command),
    };
    feeding.abort();
    drop(raw);
    ended
}

/// Signals that end this process: on a terminal they come from elsewhere, as keys go to the command.
struct Fatal([(Signal, i32); 4]);

impl Fatal {
    fn listen() -> Result<Self, Failure> {
        let on = |kind: SignalKind| match signal(kind) {
            Ok(stream) => Ok((stream, kind.as_raw_value())),
            Err(error) => Err(Failure::failed("could not listen to signals").because(&error)),
        };
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::quit())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let [(a, interrupt), (b, quit), (c, terminate), (d, hang_up)] = &mut self.0;
        tokio::select! {
            Some(()) = a.recv() => *interrupt,
            Some(()) = b.recv() => *quit,
            Some(()) = c.recv() => *terminate,
            Some(()) = d.recv() => *hang_up,
        }
    }
}

async fn feed(mut to: ExecInput, tty: bool) {
    let mut buffer = vec![0; 32 << 10];
    let mut stdin = tokio::io::stdin();
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    let Ok(mut continued) = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw())) else {
        return;
    };
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
            // Whoever had stopped us has set the terminal up for itself meanwhile.
            Some(()) = continued.recv(), if tty => {
                Raw::again();
                if resize(&mut to).await.is_none() { return }
            }
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

/// The terminal without a mind of its own: every key goes to the command. Dropping it restores what was; a
/// panic, which drops nothing where panics abort, does so too.
struct Raw;

/// What the terminal was before, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let failure = |error: rustix::io::Errno| {
            Failure::failed("could not set the terminal up")
                .because(&io::Error::from(error))
                .hint("`-T` does without")
        };
        let before = tcgetattr(io::stdin()).map_err(failure)?;
        if BEFORE.lock().unwrap_or_else(PoisonError::into_inner).replace(before.clone()).is_none() {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                Self::restore();
                hook(panic);
            }));
        }
        Self::set(&before).map_err(failure)?;
        Ok(Self)
    }

    /// Raw once more; nothing when it is not to be.
    fn again() {
        if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // Nothing can be done for a terminal that is gone.
            let _ = Self::set(before);
        }
    }

    fn set(before: &Termios) -> rustix::io::Result<()> {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)
    }

    fn restore() {
        // Not waited for: a panic may have come in the middle of another use.
        if let Ok(mut before) = BEFORE.try_lock()
            && let Some(before) = before.take()
        {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        Self::restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_own_shell_is_tried_first() {
        assert_eq!(shells(Some("/usr/bin/fish")), ["fish", "bash", "sh"]);
        assert_eq!(shells(Some("/bin/sh")), ["sh", "bash"]);
        assert_eq!(shells(Some("/")), ["bash", "sh"]);
        assert_eq!(shells(None), ["bash", "sh"]);
    }

    #[test]
    fn an_end_is_passed_on_as_a_shell_does() {
        assert_eq!(passed(ExitReason::Code(7)), 7);
        assert_eq!(passed(ExitReason::Code(256 + 7)), 7);
        assert_eq!(passed(ExitReason::Signal(15)), 143);
    }
}
