//! The shapes of the control API (HTTP and JSON over the supervisor's unix socket).
//!
//! Promised by `schemas/control.openapi.json`. Bytes and microseconds are integers, times are RFC 3339
//! in UTC, durations are integers named `_ms`, absent is null.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Cause, ExitReason, InstanceId, Level, Phase, PlanLine, Protocol, Reason, ServiceKind, ServiceName,
    Timestamp,
};

/// The version of the protocol; the first part of every path.
pub const API_VERSION: &str = "v1";

/// `GET /v1/info`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Info {
    /// Version of `ws`.
    pub version: String,
    /// The instance.
    pub instance: InstanceId,
    /// The workspace's name.
    pub name: String,
    /// The project root.
    pub root: String,
    /// The supervisor's process id on the host.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether an attached `ws up` owns it (it goes down with that terminal).
    pub attached: bool,
}

/// A port that is published on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PublishedPort {
    /// The host's address.
    pub host: String,
    /// The host's port.
    pub host_port: u16,
    /// The service's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// One row of `ws ps --json` and of `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceStatus {
    /// The service, as the file names it.
    pub service: ServiceName,
    /// Its own name, under which it stands in logs and events: `api`; of a replica `api-2`, of a one-off `api-run-1`.
    pub name: ServiceName,
    /// Service or task.
    #[serde(rename = "type")]
    pub service_kind: ServiceKind,
    /// Which replica, from 1.
    pub replica: u32,
    /// Its phase.
    pub phase: Phase,
    /// Why, as a fixed word.
    pub reason: Reason,
    /// Why, as a sentence.
    pub cause: String,
    /// Whether it is ready now (a task: whether it finished with 0).
    pub ready: bool,
    /// The host's process id of its own main process.
    pub pid: Option<u32>,
    /// Its address in the workspace.
    pub address: String,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// How often it was started again by its restart policy or on request.
    pub restarts: u32,
    /// The exit code of its last run.
    pub exit_code: Option<i32>,
    /// The signal that ended its last run.
    pub signal: Option<i32>,
    /// What is enforced for it.
    pub level: Option<Level>,
    /// What is missing for the next level, a phrase each.
    pub missing: Vec<String>,
    /// What its policy wants to be looked for and cannot be seen here, or not all of it: a phrase each.
    #[serde(default)]
    pub undetected: Vec<String>,
    /// Memory in use.
    pub memory_bytes: Option<u64>,
    /// Processor time used.
    pub cpu_usec: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// The limit of its memory.
    pub memory_limit_bytes: Option<u64>,
    /// What it says of itself (`STATUS=` of sd_notify(3)).
    pub status: Option<String>,
    /// What its probes said last, where that was a failure.
    pub probe_error: Option<String>,
    /// When its present run started.
    pub started_at: Option<Timestamp>,
}

impl ServiceStatus {
    /// Whether it is a one-off of `POST /v1/run/{service}`.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        is_one_off(&self.name, &self.service)
    }

    /// Whether `wanted` means it: its own name, or the name of the service that it is a replica of.
    #[must_use]
    pub fn is_meant_by(&self, wanted: &ServiceName) -> bool {
        self.name == *wanted || (self.service == *wanted && !self.is_one_off())
    }
}

/// Whether the unit `name` is a one-off of `service`: `api-run-1` of `api`.
#[must_use]
pub fn is_one_off(name: &ServiceName, service: &ServiceName) -> bool {
    let number = name.as_str().strip_prefix(service.as_str()).and_then(|rest| rest.strip_prefix("-run-"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `POST /v1/up`: start these services (all, when empty) and what they need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct UpRequest {
    /// Which; empty: all.
    pub services: Vec<ServiceName>,
}

/// `POST /v1/stop`, `/v1/restart`, `/v1/start`. The name of a service with replicas means all of them, everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct ServicesRequest {
    /// Which; empty: all.
    pub services: Vec<ServiceName>,
}

/// `POST /v1/kill`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct KillRequest {
    /// Which; empty: all.
    pub services: Vec<ServiceName>,
    /// The signal, by its name (`HUP`, `SIGHUP`) or number. Absent or `KILL`: every process is killed and the service
    /// is stopped. Any other one is only sent to the main process; what comes of it is decided as if it had ended by
    /// itself.
    pub signal: Option<String>,
}

/// The answer to every request that changes something: it was accepted, and what it brings about is told
/// by events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Accepted {
    /// The number of the last event before the request: everything that it brought about comes after.
    pub seq: u64,
}

/// `GET /v1/why/{service}`: why a service is in its phase, the service itself first and then what it
/// waits for or failed for, down to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Why {
    /// The chain; never empty.
    pub chain: Vec<WhyLink>,
}

/// One link of a chain of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyLink {
    /// Which service.
    pub service: ServiceName,
    /// Its phase.
    pub phase: Phase,
    /// Why it is in it.
    pub cause: Cause,
    /// Why its present run was started, where it has one.
    #[serde(default)]
    pub started: Option<Cause>,
}

/// `POST /v1/down`: stop everything and end the supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct DownRequest {
    /// Kill at once instead of waiting for grace periods.
    pub now: bool,
    /// Remove the instance's volumes too.
    pub volumes: bool,
}

/// `POST /v1/plan` and `POST /v1/apply`: what the files are read with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct PlanFilesRequest {
    /// Variables for `${…}` and for what the file passes through. Absent: those that the stack was started with, or
    /// that an `apply` gave last.
    pub environment: Option<BTreeMap<String, String>>,
}

/// `GET /v1/plan`, `POST /v1/plan`, and what `ws apply --dry-run --json` prints: what is different between what runs
/// and what the workspace file says now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanDifference {
    /// What is different, a line each: the workspace first, then by service.
    pub lines: Vec<PlanLine>,
    /// Whether some service would get more rights than it has.
    pub widens: bool,
    /// Whether it cannot be carried out while the stack runs.
    pub needs_down: bool,
    /// The diagnostics, drawn as text, where the files have errors; nothing else is known then.
    pub error: Option<String>,
}

/// The answer to `POST /v1/apply` and `POST /v1/set`, and what `ws apply --json` and `ws set --json` print: it is being
/// carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Applying {
    /// The number of the last event before it: [`EventKind::PlanApplied`](crate::EventKind::PlanApplied) comes after,
    /// unless there are no lines.
    pub seq: u64,
    /// What is different.
    pub lines: Vec<PlanLine>,
    /// The units that are added or started again.
    pub starts: Vec<ServiceName>,
}

/// `POST /v1/set`: other settings for a service, as if the file said so. They stay until the stack is down, or until
/// the file says something else about that key than it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SetRequest {
    /// Whose, as the file names it.
    pub service: ServiceName,
    /// Keys of the service (`limits.memory`) with their values as YAML.
    pub settings: BTreeMap<String, String>,
}

/// `GET /v1/watch` and what `ws watch --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchReport {
    /// What is watched for each unit; empty when paths were asked for.
    pub units: Vec<WatchedUnit>,
    /// The paths that were asked for.
    pub paths: Vec<WatchedPath>,
}

/// What is watched for a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchedUnit {
    /// The unit: a service, a task or a build.
    pub service: ServiceName,
    /// Files and directories that nothing outside of is watched, relative to the project where they are in it.
    pub roots: Vec<WatchedRoot>,
    /// How many directories are watched.
    pub directories: u64,
    /// How many files.
    pub files: u64,
}

/// A file or a directory that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchedRoot {
    /// It.
    pub path: String,
    /// How changes are seen.
    pub seen: WatchSeen,
    /// The same as a phrase, with why.
    pub text: String,
}

/// How changes of files are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchSeen {
    /// The kernel tells.
    Told,
    /// They are looked for.
    Polled,
    /// Those that are made elsewhere are not seen.
    Unseen,
    /// There is nothing yet.
    Absent,
}

/// How a path stands to what is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchedPath {
    /// The path, relative to the project where it is in it.
    pub path: String,
    /// Whether it is one of the files that the plan is made of, or reads values from.
    pub plan_file: bool,
    /// For each unit that files are watched for.
    pub units: Vec<WatchedFor>,
}

/// How a path stands to what is watched for a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WatchedFor {
    /// The unit.
    pub service: ServiceName,
    /// What is done when it changes: `rebuild`, `restart` or the name of a signal; absent: nothing.
    pub action: Option<String>,
    /// Why.
    pub why: WatchWhy,
    /// Why, as a phrase.
    pub text: String,
}

/// Why a file is watched, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchWhy {
    /// A rule means it.
    Rule,
    /// No rule means it.
    NoRule,
    /// The workspace file leaves it out.
    Ignored,
    /// Git leaves it out.
    Gitignored,
    /// Nobody means such files unless they are named.
    Habit,
}

/// Which paths `GET /v1/watch` explains; its query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchQuery {
    /// `path=`, once for each, relative to the project or absolute; none: what is watched for each unit.
    pub paths: Vec<String>,
}

impl WatchQuery {
    /// The most paths of one request.
    pub const MAX_PATHS: usize = 256;

    /// As the pairs of a query string, not yet escaped.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        self.paths.iter().map(|path| ("path", path.clone())).collect()
    }

    /// From the pairs of a query string.
    ///
    /// # Errors
    /// When a key is unknown or there are too many paths: what is wrong, as a sentence.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in pairs {
            match key {
                "path" if value.is_empty() => return Err("`path=` names no file".to_owned()),
                "path" => query.paths.push(value.to_owned()),
                _ => return Err(format!("`{key}` is not a parameter of watch")),
            }
        }
        if query.paths.len() > Self::MAX_PATHS {
            return Err(format!("at most {} paths are explained at a time", Self::MAX_PATHS));
        }
        Ok(query)
    }
}

/// What `POST /v1/exec/{service}` runs: the request asks to upgrade the connection to [`EXEC_PROTOCOL`],
/// and after the answer 101 this is the data of the client's first frame ([`ExecFrame::Start`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the service's environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The directory; absent: the service's.
    pub working_dir: Option<String>,
    /// Whether it gets a terminal of its own.
    #[serde(default)]
    pub tty: bool,
}

/// What `POST /v1/run/{service}` runs: a one-off of the service, in a sandbox like the service's and beside it, with
/// its links and without its published ports, after what the service depends on was brought up. The connection is
/// upgraded as that of `exec`, and this is the data of the client's first frame. When the client goes away, the one-off
/// is killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct RunRequest {
    /// Program and arguments; absent: the service's own.
    pub command: Option<Vec<String>>,
    /// Added to the service's environment.
    pub env: Vec<(String, String)>,
    /// The directory; absent: the service's.
    pub working_dir: Option<String>,
    /// Whether it gets a terminal of its own.
    pub tty: bool,
    /// Whether what the service depends on is left as it is.
    pub no_deps: bool,
}

/// The protocol that `POST /v1/exec/{service}` and `POST /v1/run/{service}` upgrade to.
pub const EXEC_PROTOCOL: &str = "ws-exec";

/// A frame of an upgraded `exec` connection: one byte of kind, four bytes of length (big endian), data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExecFrame {
    /// To the process: its standard input. An empty frame closes it.
    Stdin = 0,
    /// From the process: its standard output.
    Stdout = 1,
    /// From the process: its standard error.
    Stderr = 2,
    /// From the supervisor, last: an [`ExecResult`] as JSON.
    Exit = 3,
    /// To the terminal: columns and rows, two bytes each, big endian.
    Resize = 4,
    /// To the supervisor, first: an [`ExecRequest`] or a [`RunRequest`] as JSON.
    Start = 5,
}

/// The longest data of a frame of an upgraded `exec` connection, in bytes; a longer one ends the
/// connection.
pub const MAX_FRAME: usize = 1 << 20;

/// The length of a frame's head: its kind and the length of its data.
pub const FRAME_HEAD: usize = 5;

/// The header of the answer to `GET /v1/services` with the number of the last event that the rows
/// include: whoever goes on from there with `GET /v1/events` misses nothing and sees nothing twice.
pub const SEQ_HEADER: &str = "ws-seq";

impl ExecFrame {
    /// The kind of a frame by its first byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Exit),
            4 => Some(Self::Resize),
            5 => Some(Self::Start),
            _ => None,
        }
    }

    /// The head of a frame of this kind with `len` bytes of data; `None` when they are more than
    /// [`MAX_FRAME`].
    #[must_use]
    pub fn head(self, len: usize) -> Option<[u8; FRAME_HEAD]> {
        let len = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME)?;
        let [a, b, c, d] = len.to_be_bytes();
        Some([self as u8, a, b, c, d])
    }

    /// The kind and the length of the data of a frame by its head; `None` when nothing such is sent.
    #[must_use]
    pub fn parse_head(head: [u8; FRAME_HEAD]) -> Option<(Self, usize)> {
        let [kind, a, b, c, d] = head;
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok().filter(|len| *len <= MAX_FRAME)?;
        Some((Self::from_byte(kind)?, len))
    }
}

/// How an `exec` ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecResult {
    /// The process ended.
    Ended(ExitReason),
    /// It could not be started.
    NotStarted {
        /// Why.
        error: String,
        /// Whether the program was not found (exit code 127) or could not be executed (126).
        not_found: bool,
    },
}

/// A line of a service's output: `ws logs --json`, `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogLine {
    /// Its number; goes up over all services of the instance, in the order of arrival.
    pub seq: u64,
    /// When it arrived.
    pub at: Timestamp,
    /// Whose.
    pub service: ServiceName,
    /// Which of its streams.
    pub stream: LogStream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
}

/// A stream of output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The build's output, both streams.
    Build,
    /// What `ws` itself says about the service.
    Ws,
}

/// Which lines `GET /v1/logs` answers; its query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// `service=`, once for each: of which services; empty: of all.
    pub services: Vec<ServiceName>,
    /// `tail=`: at most this many of the newest lines that are there already, of each service; of those that the
    /// other parameters leave.
    pub tail: Option<u64>,
    /// `after=`: only lines with a greater number. A follower that lost its connection goes on with the number of its
    /// last line.
    pub after: Option<u64>,
    /// `since=`: only lines that arrived at this time or later.
    pub since: Option<Timestamp>,
    /// `until=`: only lines that arrived at this time or earlier. A follower ends then.
    pub until: Option<Timestamp>,
    /// `grep=`: only lines in which this regular expression (in the syntax of Rust's `regex` crate) matches somewhere.
    /// Markers of dropped lines come in any case.
    pub grep: Option<String>,
    /// `invert=true`: only lines in which `grep` does not match.
    pub invert: bool,
    /// `follow=true`: go on with new lines until the supervisor ends.
    pub follow: bool,
}

impl LogQuery {
    /// As the pairs of a query string, not yet escaped.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let services = self.services.iter().map(|service| ("service", service.to_string()));
        let tail = self.tail.map(|tail| ("tail", tail.to_string()));
        let after = self.after.map(|after| ("after", after.to_string()));
        let since = self.since.map(|since| ("since", since.to_string()));
        let until = self.until.map(|until| ("until", until.to_string()));
        let grep = self.grep.clone().map(|grep| ("grep", grep));
        let invert = self.invert.then(|| ("invert", "true".to_owned()));
        let follow = self.follow.then(|| ("follow", "true".to_owned()));
        services
            .chain(tail)
            .chain(after)
            .chain(since)
            .chain(until)
            .chain(grep)
            .chain(invert)
            .chain(follow)
            .collect()
    }

    /// From the pairs of a query string.
    ///
    /// # Errors
    /// When a key is unknown or a value is not of its type: what is wrong, as a sentence.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in pairs {
            match key {
                "service" => query.services.push(parse_service(value)?),
                "tail" => {
                    query.tail =
                        Some(value.parse().map_err(|_| format!("`tail={value}` is not a number of lines"))?);
                }
                "after" => {
                    query.after = Some(
                        value.parse().map_err(|_| format!("`after={value}` is not the number of a line"))?,
                    );
                }
                "grep" => query.grep = Some(value.to_owned()),
                "invert" => query.invert = parse_bool(key, value)?,
                "since" => query.since = Some(Timestamp::try_from(value.to_owned())?),
                "until" => query.until = Some(Timestamp::try_from(value.to_owned())?),
                "follow" => query.follow = parse_bool(key, value)?,
                _ => return Err(format!("`{key}` is not a parameter of logs")),
            }
        }
        Ok(query)
    }
}

/// What a service used between two looks: a line of `GET /v1/stats` and of `ws stats --json`. The samples of one look
/// have the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StatsSample {
    /// When it was taken.
    pub at: Timestamp,
    /// The service, as the file names it.
    pub service: ServiceName,
    /// Its own name.
    pub name: ServiceName,
    /// Memory in use, where it is accounted.
    pub memory_bytes: Option<u64>,
    /// The limit of its memory.
    pub memory_limit_bytes: Option<u64>,
    /// Processor time used since its sandbox was made, where it is accounted.
    pub cpu_usec: Option<u64>,
    /// Processor time used since the sample before, in percent of one processor.
    pub cpu_percent: Option<f64>,
    /// Processes and threads, where they are accounted.
    pub pids: Option<u32>,
}

/// Which samples `GET /v1/stats` answers; its query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsQuery {
    /// `service=`, once for each: of which services; empty: of all that use something.
    pub services: Vec<ServiceName>,
    /// `interval_ms=`: milliseconds between two looks, from 100 to 3,600,000.
    pub interval_ms: u64,
    /// `follow=true`: a look at once (without `cpu_percent`) and one after each interval, until the supervisor ends.
    /// Else one look, at the end of one interval.
    pub follow: bool,
}

impl Default for StatsQuery {
    fn default() -> Self {
        Self { services: Vec::new(), interval_ms: 1000, follow: false }
    }
}

impl StatsQuery {
    /// As the pairs of a query string, not yet escaped.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let services = self.services.iter().map(|service| ("service", service.to_string()));
        let interval = std::iter::once(("interval_ms", self.interval_ms.to_string()));
        let follow = self.follow.then(|| ("follow", "true".to_owned()));
        services.chain(interval).chain(follow).collect()
    }

    /// From the pairs of a query string.
    ///
    /// # Errors
    /// When a key is unknown or a value is not of its type or out of bounds: what is wrong, as a sentence.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in pairs {
            match key {
                "service" => query.services.push(parse_service(value)?),
                "interval_ms" => {
                    let interval = value.parse().ok().filter(|interval| (100..=3_600_000).contains(interval));
                    query.interval_ms = interval.ok_or_else(|| {
                        format!("`interval_ms={value}` is not a number of milliseconds from 100 to 3600000")
                    })?;
                }
                "follow" => query.follow = parse_bool(key, value)?,
                _ => return Err(format!("`{key}` is not a parameter of stats")),
            }
        }
        Ok(query)
    }
}

/// Whose violations `GET /v1/violations` answers; its query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViolationQuery {
    /// `service=`, once for each: of which services; empty: of all.
    pub services: Vec<ServiceName>,
}

impl ViolationQuery {
    /// As the pairs of a query string, not yet escaped.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        self.services.iter().map(|service| ("service", service.to_string())).collect()
    }

    /// From the pairs of a query string.
    ///
    /// # Errors
    /// When a key is unknown or a value is not a service: what is wrong, as a sentence.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in pairs {
            match key {
                "service" => query.services.push(parse_service(value)?),
                _ => return Err(format!("`{key}` is not a parameter of violations")),
            }
        }
        Ok(query)
    }
}

/// Which events `GET /v1/events` answers; its query string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// `since=`: only events with a greater number; 0 is everything that is kept.
    pub since: u64,
    /// `follow=true`: go on with new events until the supervisor ends.
    pub follow: bool,
}

impl EventQuery {
    /// As the pairs of a query string, not yet escaped.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let since = (self.since > 0).then(|| ("since", self.since.to_string()));
        let follow = self.follow.then(|| ("follow", "true".to_owned()));
        since.into_iter().chain(follow).collect()
    }

    /// From the pairs of a query string.
    ///
    /// # Errors
    /// When a key is unknown or a value is not of its type: what is wrong, as a sentence.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in pairs {
            match key {
                "since" => {
                    query.since = value
                        .parse()
                        .map_err(|_| format!("`since={value}` is not the number of an event"))?;
                }
                "follow" => query.follow = parse_bool(key, value)?,
                _ => return Err(format!("`{key}` is not a parameter of events")),
            }
        }
        Ok(query)
    }
}

fn parse_service(value: &str) -> Result<ServiceName, String> {
    ServiceName::new(value).map_err(|e| format!("`service={value}` is not a service's name: {e}"))
}

fn parse_bool(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{key}={value}` is neither true nor false")),
    }
}

/// An error answer of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApiError {
    /// What is wrong, for people.
    pub error: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// One row of `ws ls --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InstanceRow {
    /// The instance.
    pub instance: InstanceId,
    /// The project root, where it is known.
    pub root: Option<String>,
    /// `running`, `crashed` (leftovers wait for `ws gc`) or `stopped` (only state is kept).
    pub state: InstanceState,
    /// The supervisor's process id.
    pub pid: Option<u32>,
    /// How many of its services are ready (tasks: finished), when it runs and answers.
    pub ready: Option<u32>,
    /// How many services it has, when it runs and answers.
    pub services: Option<u32>,
    /// When its supervisor started, when it runs and answers.
    pub started_at: Option<Timestamp>,
}

impl InstanceRow {
    /// An instance of which nothing is known but its state.
    #[must_use]
    pub fn new(instance: InstanceId, state: InstanceState) -> Self {
        Self { instance, root: None, state, pid: None, ready: None, services: None, started_at: None }
    }
}

/// What is there of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// A supervisor runs.
    Running,
    /// A supervisor ran and left something.
    Crashed,
    /// Nothing runs; logs or volumes are kept.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs<'a>(owned: &'a [(&'static str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
        owned.iter().map(|(key, value)| (*key, value.as_str()))
    }

    #[test]
    fn queries_survive_the_query_string() {
        let logs = LogQuery {
            services: vec![ServiceName::new("db").unwrap(), ServiceName::new("api").unwrap()],
            tail: Some(10),
            after: Some(77),
            grep: Some("^a+ b$".to_owned()),
            invert: true,
            since: Some(Timestamp { unix_ms: 1_700_000_000_123 }),
            until: Some(Timestamp { unix_ms: 1_800_000_000_000 }),
            follow: true,
        };
        assert_eq!(LogQuery::from_pairs(pairs(&logs.to_pairs())), Ok(logs));
        let stats =
            StatsQuery { services: vec![ServiceName::new("db").unwrap()], interval_ms: 250, follow: true };
        assert_eq!(StatsQuery::from_pairs(pairs(&stats.to_pairs())), Ok(stats));
        let watch = WatchQuery { paths: vec!["src/a b.rs".to_owned(), "/etc/x".to_owned()] };
        assert_eq!(WatchQuery::from_pairs(pairs(&watch.to_pairs())), Ok(watch));
        let violations = ViolationQuery { services: vec![ServiceName::new("db").unwrap()] };
        assert_eq!(ViolationQuery::from_pairs(pairs(&violations.to_pairs())), Ok(violations));
        let events = EventQuery { since: 7, follow: true };
        assert_eq!(EventQuery::from_pairs(pairs(&events.to_pairs())), Ok(events));
        assert_eq!(
            EventQuery::from_pairs(pairs(&EventQuery::default().to_pairs())),
            Ok(EventQuery::default())
        );
    }

    #[test]
    fn bad_queries_say_what_is_wrong() {
        for (key, value) in [
            ("service", "A"),
            ("tail", "-1"),
            ("after", "x"),
            ("since", "now"),
            ("follow", "perhaps"),
            ("color", "x"),
        ] {
            let error = LogQuery::from_pairs([(key, value)]).unwrap_err();
            assert!(error.contains(if key == "color" { key } else { value }), "{error}");
        }
        assert!(EventQuery::from_pairs([("since", "x")]).is_err());
        assert!(
            WatchQuery::from_pairs([("paths", "x")]).is_err()
                && WatchQuery::from_pairs([("path", "")]).is_err()
        );
        let many = vec![("path", "x"); WatchQuery::MAX_PATHS + 1];
        assert!(WatchQuery::from_pairs(many).unwrap_err().contains("256"));
        for interval in ["0", "99", "3600001", "-1", "x"] {
            let error = StatsQuery::from_pairs([("interval_ms", interval)]).unwrap_err();
            assert!(error.contains(interval), "{error}");
        }
    }

    #[test]
    fn names_mean_replicas_and_no_one_offs() {
        let name = |name: &str| ServiceName::new(name).unwrap();
        assert!(is_one_off(&name("api-run-12"), &name("api")));
        for other in ["api", "api-1", "api-run-", "api-run-x", "db-run-1"] {
            assert!(ServiceName::new(other).is_err() || !is_one_off(&name(other), &name("api")), "{other}");
        }
    }

    #[test]
    fn frames_have_one_byte_each() {
        for byte in 0..=u8::MAX {
            if let Some(frame) = ExecFrame::from_byte(byte) {
                assert_eq!(frame as u8, byte);
            } else {
                assert!(byte > 5);
            }
        }
    }

    #[test]
    fn the_head_of_a_frame_is_bounded() {
        let head = ExecFrame::Stdout.head(258).unwrap();
        assert_eq!(head, [1, 0, 0, 1, 2]);
        assert_eq!(ExecFrame::parse_head(head), Some((ExecFrame::Stdout, 258)));
        assert_eq!(ExecFrame::Stdin.head(MAX_FRAME + 1), None);
        assert_eq!(ExecFrame::parse_head([0, 0xff, 0, 0, 0]), None);
        assert_eq!(ExecFrame::parse_head([9, 0, 0, 0, 0]), None);
    }
}
