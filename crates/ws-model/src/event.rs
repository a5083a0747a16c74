//! What is told: one [`Event`] type feeds the terminal, `--json`, the API's streams and the journal.
//!
//! An event is something to tell people, never something to do. The shapes are promised by
//! `schemas/event.schema.json`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ServiceName, Violation};

/// A point in time on the wall clock, UTC, written as RFC 3339 with milliseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "date-time"))]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.unix_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{time:.3}")
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let time: jiff::Timestamp = text.parse().map_err(|e| format!("`{text}` is not a time: {e}"))?;
        Ok(Self { unix_ms: time.as_millisecond() })
    }
}

/// The phase of a service: a fixed lower-case word in every output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not asked for yet.
    Pending,
    /// Waits for something else.
    Waiting,
    /// Its build runs.
    Building,
    /// Its program is being started.
    Starting,
    /// It runs and is not ready yet.
    Running,
    /// It runs and is ready.
    Ready,
    /// It runs, was ready, and is not any more.
    Unhealthy,
    /// It was asked to stop.
    Stopping,
    /// It was stopped on request.
    Stopped,
    /// It ended by itself with success.
    Exited,
    /// It ended with failure and is not started again.
    Failed,
    /// It ended and is started again after a pause.
    Backoff,
    /// It was killed by policy.
    Violated,
}

impl Phase {
    /// The word that stands in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Backoff => "backoff",
            Self::Violated => "violated",
        }
    }

    /// Whether the service has no process and gets none without being asked for again.
    #[must_use]
    pub fn is_settled_down(self) -> bool {
        match self {
            Self::Pending | Self::Stopped | Self::Exited | Self::Failed | Self::Violated => true,
            Self::Waiting
            | Self::Building
            | Self::Starting
            | Self::Running
            | Self::Ready
            | Self::Unhealthy
            | Self::Stopping
            | Self::Backoff => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitReason {
    /// Whether it exited with 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(*signal)),
        }
    }
}

/// The name of a signal of Linux on x86-64 and aarch64 (signal(7)).
#[must_use]
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::try_from(signal).ok().and_then(|n| n.checked_sub(1)).and_then(|n| NAMES.get(n)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

/// The number of a signal by its name, with or without `SIG`; the inverse of [`signal_name`].
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    let wanted = name.strip_prefix("SIG").unwrap_or(name);
    (1..=31).find(|n| signal_name(*n).strip_prefix("SIG") == Some(wanted))
}

/// Why a service is in its phase: a fixed lower-case word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody asked for it.
    Requested,
    /// A dependency is not there yet.
    Dependency,
    /// A dependency can never be there.
    DependencyFailed,
    /// What it waited for is there.
    DependenciesReady,
    /// Its build failed.
    BuildFailed,
    /// It could not be started.
    StartFailed,
    /// It was executed.
    Executed,
    /// Its probe succeeded, or it has none.
    ProbeOk,
    /// Its probe fails.
    ProbeFailed,
    /// It did not become ready in time.
    ReadyTimeout,
    /// It did not answer its liveness probe, or did not tell its watchdog in time.
    LivenessFailed,
    /// A command of its hooks failed.
    HookFailed,
    /// Something that it is bound to (`restart: true`) was started again.
    DependencyRestarted,
    /// It exited by itself.
    Exit,
    /// The kernel killed it for its memory limit.
    Oom,
    /// It did not stop within its grace period and was killed.
    GraceExceeded,
    /// It ended too often in a row.
    CrashLoop,
    /// It broke its policy.
    Violation,
    /// Files changed.
    FilesChanged,
    /// What it runs from was built anew.
    Rebuilt,
    /// The workspace file changed.
    PlanChanged,
    /// What it makes is there already.
    Fresh,
    /// The workspace goes down.
    Shutdown,
}

impl Reason {
    /// The word that stands in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Dependency => "dependency",
            Self::DependencyFailed => "dependency_failed",
            Self::DependenciesReady => "dependencies_ready",
            Self::BuildFailed => "build_failed",
            Self::StartFailed => "start_failed",
            Self::Executed => "executed",
            Self::ProbeOk => "probe_ok",
            Self::ProbeFailed => "probe_failed",
            Self::ReadyTimeout => "ready_timeout",
            Self::LivenessFailed => "liveness_failed",
            Self::HookFailed => "hook_failed",
            Self::DependencyRestarted => "dependency_restarted",
            Self::Exit => "exit",
            Self::Oom => "oom",
            Self::GraceExceeded => "grace_exceeded",
            Self::CrashLoop => "crash_loop",
            Self::Violation => "violation",
            Self::FilesChanged => "files_changed",
            Self::Rebuilt => "rebuilt",
            Self::PlanChanged => "plan_changed",
            Self::Fresh => "fresh",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A reason with its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Cause {
    /// The fixed word.
    pub reason: Reason,
    /// What happened, for people: "db is not ready: connection refused". Lower case, no full stop.
    pub text: String,
}

impl Cause {
    /// A reason and its sentence.
    #[must_use]
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Its number: goes up by one, and goes on across supervisors of one instance.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// About which service; absent for the workspace as a whole.
    pub service: Option<ServiceName>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What an [`Event`] tells. On the wire: `{"kind": "phase", …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// The supervisor of this instance started.
    SupervisorStarted {
        /// Version of `ws`.
        version: String,
        /// Process id on the host.
        pid: u32,
    },
    /// The supervisor ends.
    SupervisorStopped {
        /// Why.
        cause: String,
    },
    /// A service changed its phase.
    Phase {
        /// The phase that it is in now.
        phase: Phase,
        /// Why.
        cause: Cause,
        /// How it ended, where it ended.
        exit: Option<ExitReason>,
        /// For [`Phase::Backoff`]: milliseconds until the next start.
        retry_in_ms: Option<u64>,
    },
    /// A port is published.
    Published {
        /// The host's address.
        host: String,
        /// The host's port.
        host_port: u16,
        /// The service's port.
        port: u16,
    },
    /// Everything that was asked for is ready.
    WorkspaceReady {
        /// Milliseconds since it was asked for.
        after_ms: u64,
    },
    /// What was asked for cannot become ready.
    WorkspaceFailed {
        /// Why.
        cause: String,
    },
    /// Log lines were dropped because their reader was too slow or the disk full.
    LogDropped {
        /// How many bytes.
        bytes: u64,
    },
    /// What a service says of itself (`STATUS=` of sd_notify(3)).
    Status {
        /// Its words.
        text: String,
    },
    /// Files that are watched for a service changed.
    FilesChanged {
        /// Which.
        trigger: Trigger,
        /// What is done about it.
        action: ReloadAction,
    },
    /// What followed from a change is over.
    Reloaded {
        /// The files; none where a run took the place of another because somebody asked, or for another plan.
        trigger: Trigger,
        /// What was done.
        action: ReloadAction,
        /// What came of it.
        result: ReloadResult,
        /// Milliseconds that the build took, where there was one.
        build_ms: Option<u64>,
        /// Milliseconds from the end of the build (or from the change) until it was ready, where it was started again.
        ready_ms: Option<u64>,
        /// Why, where it failed.
        error: Option<String>,
    },
    /// The workspace file, or one that it includes or reads, is another.
    PlanChanged {
        /// What is different, a line each.
        lines: Vec<PlanLine>,
        /// Whether it is carried out; else it waits for `ws apply`.
        applied: bool,
    },
    /// What [`Self::PlanChanged`] told last as applied is carried out, as far as the machine goes: what was added or
    /// is started again may not be ready yet.
    PlanApplied {
        /// What could not be carried out, a sentence each.
        errors: Vec<String>,
    },
    /// The workspace file, or one that it includes or reads, changed and has errors; nothing is done about it.
    PlanRefused {
        /// The errors, drawn as text.
        text: String,
    },
    /// It did what it must not, or ran into a limit.
    Violation(Box<Violation>),
    /// Something that a person should know: a lower enforcement level, a leftover that was cleared.
    Notice {
        /// What.
        text: String,
    },
}

/// Files that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Trigger {
    /// Some of them, relative to the project where they are in it.
    pub files: Vec<String>,
    /// How many more there were.
    pub more: u32,
}

impl fmt::Display for Trigger {
    /// `src/main.rs`, `a.py and b.py`, `a.py and 12 more`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.files.as_slice(), self.more) {
            ([], 0) => f.write_str("nothing"),
            ([], more) => write!(f, "{more} files"),
            ([one], 0) => f.write_str(one),
            ([one, other], 0) => write!(f, "{one} and {other}"),
            ([one, others @ ..], more) => {
                write!(f, "{one} and {} more", u64::from(more).saturating_add(others.len() as u64))
            }
        }
    }
}

/// What is done about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadAction {
    /// Built anew.
    Rebuild,
    /// Started again.
    Restart,
    /// A new run takes the place of the old one while that still works.
    Overlap,
    /// Signalled.
    Signal,
}

impl ReloadAction {
    /// The word that stands in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Restart => "restart",
            Self::Overlap => "overlap",
            Self::Signal => "signal",
        }
    }
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// It is done.
    Done,
    /// What was built is what was there.
    Unchanged,
    /// It failed; where it was a build or an overlapping start, the old run goes on.
    Failed,
    /// Something else came over it: a further change, a request.
    Superseded,
}

/// One difference between what runs and what the workspace file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanLine {
    /// Of which service; absent: of the workspace.
    pub service: Option<ServiceName>,
    /// What it is: "link to db:5432/tcp", "limits.memory: 512M becomes 1G".
    pub text: String,
    /// What it takes to carry it out.
    pub effect: PlanEffect,
    /// Whether it gives a service more rights than it had.
    pub widens: bool,
}

/// What it takes to carry a difference out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanEffect {
    /// A further service.
    Add,
    /// A service goes.
    Remove,
    /// The service is started again.
    Restart,
    /// Nothing is started again.
    Live,
    /// It cannot be carried out while the stack runs.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let time = Timestamp { unix_ms: 1_700_000_000_123 };
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::try_from(time.to_string()), Ok(time));
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_number("TERM"), Some(15));
        assert_eq!(signal_number("SIGHUP"), Some(1));
        assert_eq!(signal_number("NOPE"), None);
        assert_eq!(signal_name(34), "signal 34");
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = Event {
            seq: 7,
            at: Timestamp { unix_ms: 0 },
            service: Some(ServiceName::new("db").unwrap()),
            kind: EventKind::Phase {
                phase: Phase::Ready,
                cause: Cause::new(Reason::ProbeOk, "tcp 5432 answered"),
                exit: None,
                retry_in_ms: None,
            },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["kind"], "phase");
        assert_eq!(json["phase"], "ready");
        assert_eq!(json["cause"]["reason"], "probe_ok");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
