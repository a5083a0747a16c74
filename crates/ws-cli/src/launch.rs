//! Starting a supervisor: what it is told, how it answers.
//!
//! ```text
//! ws up ──stdin:  one line, an [`Order`]; then the pipe stays open ──▶ ws __supervise
//!       ◀─stdout: one line, a [`Report`] ────────────────────────────
//! ```
//!
//! While the pipe is open the supervisor belongs to the command that started it: when it closes before
//! [`Supervisor::release`], the stack goes down. So a client that is killed at any instant leaves
//! nothing behind.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use ws_model::event::signal_name;
use ws_model::{InstanceId, Level, SecretName, exit};
use ws_spec::Sources;

use crate::error::Failure;

/// The hidden subcommand that is the supervisor.
pub const SUBCOMMAND: &str = "__supervise";

/// The line that takes the stack off the life of the command that started it.
pub const RELEASE: &str = "release";

/// The supervisor's own log in the state directory of its instance.
pub const LOG: &str = "supervisor.log";

/// Variables of the environment that the supervisor itself needs. What services get is in the plan, so
/// nothing else of the shell's environment is kept in its memory.
const KEPT: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "RUST_BACKTRACE",
    "WS_LOG",
    "TMPDIR",
];

/// Everything that a supervisor needs to know. Private to this program: both ends are the same binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// What was read and checked.
    pub sources: Sources,
    /// The lower level that is accepted.
    pub accept: Option<Level>,
    /// Whether builds are left out.
    pub no_build: bool,
    /// Whether no files are watched.
    pub no_watch: bool,
    /// Whether changes of the file are carried out even where they give a service more rights.
    pub yes: bool,
    /// The instance.
    pub instance: InstanceId,
    /// The directory above the instances' runtime directories.
    pub runtime: PathBuf,
    /// The instance's own state directory.
    pub state: PathBuf,
    /// The values of the secrets.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    /// Whether the stack goes down with the command that started it.
    pub attached: bool,
    /// What is to be told first, to whoever reads the events.
    pub notices: Vec<String>,
    /// Whether diagnostics are drawn in colours.
    pub colour: bool,
    /// The columns that diagnostics may take.
    pub width: usize,
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The supervisor listens.
    Started {
        /// What a person should know: what was cleared, what is missing.
        notices: Vec<String>,
    },
    /// Another supervisor of the instance runs.
    Taken,
    /// It could not be started; nothing of it is left.
    Failed {
        /// The exit code of the command that wanted it.
        exit_code: u8,
        /// What went wrong.
        message: String,
        /// Why.
        causes: Vec<String>,
        /// What to do about it.
        hints: Vec<String>,
        /// Diagnostics that belong to it, drawn already.
        diagnostics: String,
    },
}

impl Report {
    /// The report of a failure.
    #[must_use]
    pub fn of_failure(failure: &Failure) -> Self {
        Self::Failed {
            exit_code: failure.code,
            message: failure.message.clone(),
            causes: failure.causes.clone(),
            hints: failure.hints.clone(),
            diagnostics: failure.diagnostics.clone(),
        }
    }
}

/// A supervisor that this process started.
#[derive(Debug)]
pub struct Supervisor {
    // Kept so that the runtime reaps it when it ends before we do.
    _child: Child,
    guard: Option<ChildStdin>,
    /// What it wants a person to know.
    pub notices: Vec<String>,
}

/// How starting one ended.
#[derive(Debug)]
pub enum Launched {
    /// It runs and listens.
    Ours(Box<Supervisor>),
    /// Another one was faster.
    Taken,
}

/// Starts a supervisor and waits until it listens.
///
/// # Errors
/// When it could not be started.
pub async fn start(order: &Order, env: &BTreeMap<String, String>) -> Result<Launched, Failure> {
    let mut line = serde_json::to_vec(order)
        .map_err(|error| Failure::failed("could not hand the workspace to the supervisor").because(&error))?;
    line.push(b'\n');
    let log = order.state.join(LOG);
    let mut child = spawn(order, env, &log)?;
    let lost = |what: &'static str| move |error: std::io::Error| Failure::failed(what).because(&error);
    let mut guard = child.stdin.take().expect("the child was given a pipe");
    let stdout = child.stdout.take().expect("the child was given a pipe");
    let mut answer = String::new();
    let mut reader = BufReader::new(stdout);
    let talk = async {
        // When it is gone before it has read everything, its report (or its end) says why.
        let _ = guard.write_all(&line).await;
        reader.read_line(&mut answer).await
    };
    let ended = tokio::select! {
        biased;
        read = talk => {
            read.map_err(lost("could not hear from the supervisor"))?;
            None
        }
        status = child.wait() => Some(status.map_err(lost("could not wait for the supervisor"))?),
    };
    if let Some(status) = ended {
        // What it wrote before its end is still in the pipe, unless it wrote nothing.
        if answer.is_empty() {
            let _ =
                tokio::time::timeout(std::time::Duration::from_secs(1), reader.read_line(&mut answer)).await;
        }
        if answer.is_empty() {
            return Err(died(&log, Some(status)));
        }
    }
    match serde_json::from_str(&answer) {
        Ok(Report::Started { notices }) => {
            Ok(Launched::Ours(Box::new(Supervisor { _child: child, guard: Some(guard), notices })))
        }
        Ok(Report::Taken) => Ok(Launched::Taken),
        Ok(Report::Failed { exit_code, message, causes, hints, diagnostics }) => {
            Err(Failure { causes, hints, diagnostics, ..Failure::new(exit_code, message) })
        }
        Err(_) => Err(died(&log, child.wait().await.ok())),
    }
}

fn spawn(order: &Order, env: &BTreeMap<String, String>, log: &Path) -> Result<Child, Failure> {
    let stderr =
        OpenOptions::new().append(true).create(true).mode(0o600).open(log).map_err(|error| {
            Failure::failed(format!("could not open `{}`", log.display())).because(&error)
        })?;
    Command::new("/proc/self/exe")
        .arg0("ws")
        .arg(SUBCOMMAND)
        // Only so that `ps` on the host says whose it is.
        .arg(order.instance.as_str())
        .env_clear()
        .envs(env.iter().filter(|(key, _)| KEPT.contains(&key.as_str())))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| Failure::failed("could not start the supervisor").because(&error))
}

/// It ended without a word: its log has the reason.
fn died(log: &Path, status: Option<std::process::ExitStatus>) -> Failure {
    let how = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("it exited with {code}"),
        Some((None, Some(signal))) => format!("it was killed by {}", signal_name(signal)),
        _ => "it closed its pipe".to_owned(),
    };
    let mut failure = Failure::new(exit::FAILED, "the supervisor could not be started");
    failure.causes.push(how);
    if let Ok(text) = std::fs::read_to_string(log)
        && let Some(last) = text.lines().rev().find(|line| !line.trim().is_empty())
    {
        failure.causes.push(format!("its last words: {last}"));
    }
    failure.hint(format!("its log is `{}`", log.display()))
}

impl Supervisor {
    /// Takes the stack off the life of this process: it stays up when this process ends.
    ///
    /// # Errors
    /// When the supervisor ended.
    pub async fn release(&mut self) -> Result<(), Failure> {
        let Some(mut guard) = self.guard.take() else { return Ok(()) };
        let line = format!("{RELEASE}\n");
        guard
            .write_all(line.as_bytes())
            .await
            .map_err(|error| Failure::failed("the supervisor ended while it was starting").because(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_survive_the_pipe() {
        let order = Order {
            sources: Sources { text: "name: shop\n".into(), ..Sources::default() },
            accept: Some(Level::Limited),
            no_build: true,
            no_watch: true,
            yes: false,
            instance: InstanceId::from_dir_name("shop-00000000").unwrap(),
            runtime: "/run/ws".into(),
            state: "/var/lib/ws/shop-00000000".into(),
            secrets: BTreeMap::from([(SecretName::new("key").unwrap(), vec![0, 10, 255])]),
            attached: true,
            notices: vec!["careful".to_owned()],
            colour: false,
            width: 80,
        };
        let line = serde_json::to_string(&order).unwrap();
        assert!(!line.contains('\n'), "one line");
        let back: Order = serde_json::from_str(&line).unwrap();
        assert_eq!((back.sources, back.secrets, back.attached), (order.sources, order.secrets, true));

        let failure = Failure::new(exit::MACHINE, "no").hint("do");
        let report = Report::of_failure(&failure);
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(back, report);
    }
}
