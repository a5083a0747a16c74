//! The validated workspace: what the file means, with every path absolute, every variable replaced and
//! every default that does not depend on the machine filled in.
//!
//! Not serializable on purpose: what users may depend on is `workspace.yaml` and its schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ByteSize, ConfigPath, MilliCpus, Policy, SecretName, ServiceName, Subnet, VolumeName, WorkspaceName,
};

/// How much is enforced for a service, or asked for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// User or network namespaces are not available: no isolation.
    None,
    /// No resource controllers: memory, pids and CPU limits are not enforced, or only by rlimits.
    Limited,
    /// Everything but distinct kernel users and abstract-socket scoping.
    Standard,
    /// Every denial that `ws` knows.
    Full,
}

impl Level {
    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Limited => "limited",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    /// Its name.
    pub name: WorkspaceName,
    /// The project root: the canonical directory of the first workspace file.
    pub root: PathBuf,
    /// Files that decide what runs and with which rights (the workspace file, env files, secret
    /// sources): never writable from inside, and hidden where they are secret. Absolute.
    pub policy_inputs: Vec<PathBuf>,
    /// Files among the policy inputs whose contents no service may see (env files, secret sources).
    pub hidden: Vec<PathBuf>,
    /// The least level that is accepted; absent: what the file declares decides.
    pub enforcement: Option<Level>,
    /// The private network.
    pub subnet: Subnet,
    /// Named volumes.
    pub volumes: BTreeMap<VolumeName, VolumeDecl>,
    /// Secrets by name.
    pub secrets: BTreeMap<SecretName, SecretSource>,
    /// Names for what runs elsewhere; a link to one is all that leads there.
    pub external: BTreeMap<ServiceName, External>,
    /// Programs that must be there, and of which version.
    pub requires: Vec<Requirement>,
    /// Builds that services share, by name.
    pub builds: BTreeMap<ServiceName, Build>,
    /// How many builds run at a time; absent: 4.
    pub parallel_builds: Option<u32>,
    /// How files are watched.
    pub watching: Watching,
    /// What services and builds are told of what is the user's, by where they stand in the file.
    pub borrowed: BTreeMap<ConfigPath, BTreeSet<Borrowed>>,
    /// What is done about violations, where a service does not say otherwise.
    pub policy: Policy,
    /// Services and tasks that are active under the chosen profiles.
    pub services: BTreeMap<ServiceName, Service>,
}

/// How the files of a workspace are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watching {
    /// How long it must have been quiet after a change before anything is done about it.
    pub debounce: Duration,
    /// What is never watched, beside what `.gitignore` leaves out.
    pub ignore: Vec<PathPattern>,
    /// Whether files that `.gitignore` leaves out are not watched.
    pub gitignore: bool,
    /// When the files are looked at again and again, because the kernel does not tell of changes.
    pub poll: Poll,
}

impl Default for Watching {
    fn default() -> Self {
        Self { debounce: Duration::from_millis(50), ignore: Vec::new(), gitignore: true, poll: Poll::Auto }
    }
}

/// When files are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Where inotify(7) does not see changes (network and shared file systems) or has no watches left.
    Auto,
    /// Never.
    Never,
    /// Always, with this pause.
    Every(Duration),
}

/// Paths: a file, a directory with all that is below it, or a glob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    /// The directory that it is relative to. Absolute.
    pub base: PathBuf,
    /// As it was written, without a leading `./` or a trailing `/`; `.` is the base itself. With one of `*?[{` it is a
    /// glob that must match the whole path of a file (`*` stops at `/`, `**` does not), else a file or a directory.
    pub pattern: String,
}

/// Something that runs outside of the workspace, under a name of its own inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// On which machine.
    pub host: ExternalHost,
    /// Its TCP port; also the port under which services reach it.
    pub port: u16,
}

/// Where an [`External`] runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalHost {
    /// This machine: its loopback address.
    Loopback,
    /// At this address.
    Address(Ipv4Addr),
    /// Under this name, which the host resolves at each connection.
    Name(String),
}

/// A program that must be found inside, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The program, looked up in the `PATH` of the sandbox.
    pub program: String,
    /// What its version must satisfy, as it is written: `>=20`, `15`, `>=3.11, <4`, `*`.
    pub version: String,
}

/// A named volume: a directory in the state directory, kept across runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeDecl {
    /// Whether more than one service may mount it.
    pub shared: bool,
}

/// Where a secret comes from. Its value is never in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The contents of a file (absolute).
    File(PathBuf),
    /// The value of a variable in the environment of `ws`.
    Environment(String),
}

/// Something of the user's that a part of the file is told by its text: no service sees it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Borrowed {
    /// The value of a variable of the shell, of `.env` or of another env file for variables, by its name.
    Variable(String),
    /// Variables that an env file sets (absolute).
    EnvFile(PathBuf),
}

/// Whether a service stays or runs to completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// Stays up.
    Service,
    /// Runs to completion; finished with 0 counts as ready.
    Task,
    /// Makes what services run from; a task that runs again when what it is made of changes.
    Build,
}

/// A program with its arguments. Never empty; a shell command is `["/bin/sh", "-c", text]` already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

/// What makes files that services run from. It runs in a sandbox of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// What to run.
    pub command: CommandLine,
    /// What brings in what it needs from elsewhere, before it.
    pub fetch: Option<Fetch>,
    /// The current directory. Absolute.
    pub working_dir: PathBuf,
    /// Whether the file names `working_dir` itself.
    pub working_dir_declared: bool,
    /// Its environment, apart from what the sandbox sets.
    pub environment: BTreeMap<String, String>,
    /// What it is made of; empty: everything in `working_dir` that it does not make.
    pub inputs: Vec<PathPattern>,
    /// What of that is not meant.
    pub ignore: Vec<PathPattern>,
    /// What it makes; empty: nobody knows.
    pub outputs: Vec<PathPattern>,
    /// Directories of the host that it may write, beside the default and those of its outputs. Absolute.
    pub writable: Vec<PathBuf>,
    /// Files and directories of the host that it may read beside the default view. Absolute.
    pub reads: Vec<PathBuf>,
    /// Volumes and host directories: caches.
    pub volumes: Vec<Mount>,
    /// Other builds that must have succeeded before.
    pub after: Vec<ServiceName>,
    /// What it may use.
    pub limits: Limits,
}

/// The step of a build that brings in what it needs from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// What to run.
    pub command: CommandLine,
    /// What decides whether it must run again; empty: it runs with each build.
    pub inputs: Vec<PathPattern>,
}

/// Where a service gets what it runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildRef {
    /// A build of its own.
    Own(Box<Build>),
    /// One of [`Workspace::builds`].
    Shared {
        /// Which.
        name: ServiceName,
        /// What of its outputs the service uses; empty: its program, where that is one of them, else all.
        uses: Vec<PathPattern>,
    },
}

/// An entry of `watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEntry {
    /// Which files.
    pub path: PathPattern,
    /// What of them is not meant.
    pub ignore: Vec<PathPattern>,
    /// What is done when one of them changes.
    pub action: WatchAction,
}

/// What is done when a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchAction {
    /// What it runs from is built anew; it is restarted when that is another than before.
    Rebuild,
    /// It is restarted.
    Restart,
    /// Its main process gets this signal.
    Signal(i32),
    /// Nothing: takes files out of what another entry or a default watches.
    None,
}

/// How the old run of a service gives way to a new one when it is reloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reload {
    /// The old one has ended before the new one starts.
    #[default]
    Restart,
    /// The new one is ready before the old one is stopped.
    Overlap,
}

/// A listening socket that the supervisor holds for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The TCP port, on the service's own addresses.
    pub port: u16,
    /// Its name in `LISTEN_FDNAMES` (sd_listen_fds(3)).
    pub name: String,
}

/// A service or task.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Service or task.
    pub kind: ServiceKind,
    /// What to run. A first word without a slash is looked up in `PATH` inside; a relative one with a
    /// slash is relative to `working_dir`.
    pub command: CommandLine,
    /// What makes what it runs from.
    pub build: Option<BuildRef>,
    /// For a task: what decides whether it must run again once it has finished with success; absent: it runs once
    /// in each life of a stack.
    pub inputs: Option<Vec<PathPattern>>,
    /// Which files are watched for it; absent: what its build is made of.
    pub watch: Option<Vec<WatchEntry>>,
    /// How a new run takes the place of the old one.
    pub reload: Reload,
    /// Listening sockets that outlive its runs; they are passed to each (sd_listen_fds(3)).
    pub listen: Vec<Listen>,
    /// How long a connection to one of its published ports waits while it is started again.
    pub hold: Duration,
    /// The current directory. Absolute.
    pub working_dir: PathBuf,
    /// Whether the file names `working_dir` itself (the default is never writable).
    pub working_dir_declared: bool,
    /// Directories of the host that it may write, beside the default. Absolute.
    pub writable: Vec<PathBuf>,
    /// Directories of the host that it may write and that are made where they are missing: those of what a build makes.
    /// Never given by the file. Absolute.
    pub makes: Vec<PathBuf>,
    /// Files and directories of the host that it may read beside the default view. Absolute.
    pub reads: Vec<PathBuf>,
    /// Its environment, apart from what the sandbox sets (`PATH`, `HOME`, …).
    pub environment: BTreeMap<String, String>,
    /// Order without a link.
    pub depends_on: Vec<Dependency>,
    /// All that it may reach.
    pub links: Vec<Link>,
    /// Ports that a portless link to it means. Grants nothing.
    pub expose: Vec<PortProto>,
    /// Ports that are published on the host.
    pub ports: Vec<Publish>,
    /// Volumes and host directories.
    pub volumes: Vec<Mount>,
    /// Private in-memory directories.
    pub tmpfs: Vec<Tmpfs>,
    /// Secrets that it gets.
    pub secrets: Vec<SecretUse>,
    /// Until when it is starting: neither `ready` nor `liveness` is asked before this has succeeded once.
    pub startup: Option<Probe>,
    /// When it is ready; absent: at exec, or once `startup` has succeeded.
    pub ready: Option<Probe>,
    /// Whether it still works: one that fails is stopped, and its restart policy decides.
    pub liveness: Option<Probe>,
    /// Commands at the turns of its life.
    pub hooks: Hooks,
    /// How many copies of it run, each with its own address behind the one name; at least 1.
    pub replicas: u32,
    /// Exit codes that are a success, beside 0. A signal counts as 128 and its number.
    pub success_exit_codes: Vec<i32>,
    /// What its standard input is.
    pub stdin: Stdin,
    /// Whether it runs on a terminal of its own.
    pub tty: bool,
    /// What is kept of its output.
    pub logs: LogRetention,
    /// What happens when it ends.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// What it may use.
    pub limits: Limits,
    /// What is done about its violations, where that is not what the workspace says.
    pub policy: Policy,
}

/// When a dependency is satisfied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It was started (its program was executed).
    Started,
    /// It is ready.
    Ready,
    /// It finished with 0.
    Completed,
}

impl Condition {
    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Completed => "completed",
        }
    }
}

/// An entry of `depends_on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// On what.
    pub service: ServiceName,
    /// Until when; absent (the short form): ready where there is a probe, completed for a task.
    pub condition: Option<Condition>,
    /// Whether the dependent fails when this one is not active or cannot be had.
    pub required: bool,
    /// Whether the dependent is started again each time that this one was.
    pub restart: bool,
}

/// A transport protocol.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word that stands in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol's number (IANA protocol numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A port with its protocol.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct PortProto {
    /// The port, never 0.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PortProto {
    /// `5432/tcp`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// What of its target a link reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkPorts {
    /// Every port that the target declares in `expose`, `ports`, `listen` and its probes.
    Declared,
    /// These.
    These(Vec<PortProto>),
}

/// An entry of `links`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The service that may be reached.
    pub to: ServiceName,
    /// On which ports.
    pub ports: LinkPorts,
    /// Whether the start waits until the target is ready.
    pub wait: bool,
}

/// An entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; `127.0.0.1` unless given.
    pub host: IpAddr,
    /// The host's port; `None` picks a free one.
    pub host_port: Option<u16>,
    /// The service's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A named volume.
    Volume(VolumeName),
    /// A directory of the host. Absolute.
    Host(PathBuf),
}

/// An entry of `volumes` of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where inside. Absolute, without `..`.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// An entry of `tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where inside. Absolute, without `..`.
    pub target: PathBuf,
    /// Its size; absent: the service's `limits.tmp`.
    pub size: Option<ByteSize>,
}

/// How a service gets a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretTarget {
    /// As `/run/secrets/<name>`.
    File,
    /// As an environment variable.
    Env(String),
}

/// An entry of `secrets` of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// Which.
    pub name: SecretName,
    /// How.
    pub target: SecretTarget,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// Runs a command inside; succeeds with exit code 0.
    Exec(CommandLine),
    /// A GET.
    Http {
        /// The service's port.
        port: u16,
        /// Path and query, starting with `/`.
        path: String,
        /// Sent beside the usual ones; a name that is given here replaces the usual one.
        headers: Vec<(String, String)>,
        /// The statuses that are a success, inclusive ranges; empty: 200 to 399.
        status: Vec<(u16, u16)>,
        /// A regular expression that the body must match (checked when the file was read).
        body: Option<String>,
    },
    /// A connect that succeeds.
    Tcp {
        /// The service's port.
        port: u16,
    },
    /// A line of its output that matches this regular expression (checked when the file was read). Not for
    /// liveness.
    Log {
        /// The expression.
        pattern: String,
    },
    /// The service says so itself: `READY=1` to `$NOTIFY_SOCKET` (sd_notify(3)). As liveness: `WATCHDOG=1` within
    /// each [`Probe::interval`], which it is told by `$WATCHDOG_USEC`.
    Notify,
    /// The standard health service of gRPC says SERVING.
    Grpc {
        /// The service's port.
        port: u16,
        /// The name of the gRPC service that is asked for; empty: the server as a whole.
        service: String,
    },
}

/// A probe and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is done.
    pub kind: ProbeKind,
    /// The longest pause between attempts until one has succeeded; they begin closer together.
    pub start_interval: Duration,
    /// Time between the end of one attempt and the start of the next, once one has succeeded.
    pub interval: Duration,
    /// Time that one attempt may take.
    pub timeout: Duration,
    /// Time from the start (for `ready` beside `startup`: from the success of that) within which it must have
    /// succeeded, else the start has failed. Of no meaning for liveness.
    pub within: Duration,
    /// Failures in a row, after a success, that make a ready service unhealthy or one without life restart.
    pub failures: u32,
}

/// Commands that run inside at the turns of a service's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the sandbox of each run, before its program, in order; one that fails has failed the start.
    pub pre_start: Vec<HookCommand>,
    /// Beside the program as soon as it runs, in order; one that fails has failed the start.
    pub post_start: Vec<HookCommand>,
    /// Before the program is asked to stop, in order; counts against the grace period, and one that fails is told
    /// and holds nothing up.
    pub pre_stop: Vec<HookCommand>,
}

/// A command of [`Hooks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCommand {
    /// What to run.
    pub command: CommandLine,
    /// How long it may take before it is killed and has failed.
    pub timeout: Duration,
}

/// What the standard input of a service is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// A pipe that stays open and silent for a service, nothing for a task.
    #[default]
    Default,
    /// A pipe that stays open and silent.
    Open,
    /// `/dev/null`: its end is there at once.
    Closed,
}

/// What is kept of a service's output on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogRetention {
    /// Bytes of a file before the next one is begun; absent: the default.
    pub max_size: Option<ByteSize>,
    /// Files that are kept beside the present one; absent: the default.
    pub max_files: Option<u32>,
    /// Full files whose last line is older are removed; absent: never for their age.
    pub max_age: Option<Duration>,
}

/// When a service that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// After an exit that was not 0, or a failed start.
    OnFailure,
    /// Whenever it ended without being asked to.
    Always,
}

/// What happens when a service ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// How often in a row; `None`: without end. The count starts anew after a stable time.
    pub max: Option<u32>,
    /// The first pause; doubled each time.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

/// How a service is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// A command that runs inside and makes it stop; absent: the signal does. The signal follows where the
    /// command has ended and the service has not.
    pub command: Option<CommandLine>,
    /// The signal's number.
    pub signal: i32,
    /// How long it may take before it is killed, hooks and command included.
    pub grace: Duration,
}

/// What a service may use. Absent: no limit of that kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, swap excluded (none is given).
    pub memory: Option<ByteSize>,
    /// Processor time per time.
    pub cpus: Option<MilliCpus>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files of one process (`RLIMIT_NOFILE`).
    pub files: Option<u64>,
    /// Size of its private tmpfs.
    pub tmp: Option<ByteSize>,
}
