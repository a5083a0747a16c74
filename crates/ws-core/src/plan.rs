//! The plan: everything that is decided before anything is done.
//!
//! An executor of a plan makes no choice: if it needs an `if` about intent, a field is missing here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ws_model::{
    ByteSize, Condition, ConfigPath, Level, MilliCpus, PortProto, Probe, Problem, Publish, Restart, SecretName,
    ServiceKind, ServiceName, Stop, Subnet, VolumeName, WorkspaceName,
};

/// What the planner must know of the machine. Gathered by the host before planning; data only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The caller's user id.
    pub uid: u32,
    /// The caller's group id.
    pub gid: u32,
    /// The caller's name (`root` when `uid` is 0).
    pub user: String,
    /// The caller's home.
    pub home: PathBuf,
    /// The names of the entries directly in the project root.
    pub root_entries: Vec<String>,
    /// What stands at each path that [`paths_of_interest`] names and at each system path of
    /// [`SYSTEM_PATHS`]; a path that is absent here does not exist.
    pub paths: BTreeMap<PathBuf, PathKind>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file, or anything else that can be bound like one.
    File,
    /// A symbolic link with this text.
    Symlink(PathBuf),
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workspace's name.
    pub name: WorkspaceName,
    /// The project root.
    pub root: PathBuf,
    /// The private network.
    pub subnet: Subnet,
    /// The least level that is accepted.
    pub required: Level,
    /// Why, as a phrase: "`enforcement: standard`", "api declares limits.memory".
    pub required_because: String,
    /// Named volumes that some service mounts.
    pub volumes: Vec<VolumeName>,
    /// Every service by name.
    pub services: BTreeMap<ServiceName, ServicePlan>,
    /// The services in waves: each waits only for services of earlier waves.
    pub waves: Vec<Vec<ServiceName>>,
    /// Directories that two services can both reach and one can write: channels past the links.
    pub channels: Vec<Channel>,
    /// What is worth telling and stops nothing.
    pub warnings: Vec<Problem>,
}

/// A directory that is a channel between services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The host's directory, or the volume's name.
    pub what: String,
    /// Who can write it.
    pub writers: Vec<ServiceName>,
    /// Who can only read it.
    pub readers: Vec<ServiceName>,
}

/// Everything about one service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePlan {
    /// Its name.
    pub name: ServiceName,
    /// Service or task.
    pub kind: ServiceKind,
    /// Its number in the workspace, from 0, below [`Subnet::capacity`]: interface indexes, the uid of
    /// the service (as root) and the like follow from it. Two services never have the same.
    pub index: u32,
    /// Its address: a digest of its name, so that it stays when others come and go.
    pub address: Ipv4Addr,
    /// The hardware address of its interface: locally administered, follows from the address.
    pub mac: [u8; 6],
    /// What its start waits for.
    pub waits: Vec<Wait>,
    /// What is run before the start.
    pub build: Option<Run>,
    /// What is run.
    pub run: Run,
    /// What it sees.
    pub view: View,
    /// Whom it may reach.
    pub links: Vec<LinkRule>,
    /// What is published on the host.
    pub publish: Vec<Publish>,
    /// When it is ready.
    pub ready: Option<Probe>,
    /// What happens when it ends.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// What it may use, defaults filled in.
    pub limits: LimitsPlan,
}

/// One thing that a start waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// For which service.
    pub on: ServiceName,
    /// Until when.
    pub condition: Condition,
    /// Whether the start fails when it can never be had; else the wait is dropped then.
    pub required: bool,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments; the program is absolute, or has no slash and is looked up in `PATH`.
    pub argv: Vec<String>,
    /// The whole environment, in order of names; secrets that go by environment are not in it.
    pub env: Vec<(String, String)>,
    /// The current directory, absolute.
    pub cwd: PathBuf,
}

/// A link that is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRule {
    /// To which service.
    pub to: ServiceName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: PortProto,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// What is enforced with numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Memory; `None`: no limit.
    pub memory: Option<ByteSize>,
    /// Processor time; `None`: no limit.
    pub cpus: Option<MilliCpus>,
    /// Processes and threads of the service (those of `ws` in its cgroup are added by the host).
    pub pids: u32,
    /// Whether the file declares `pids` (the default is not a declaration).
    pub pids_declared: bool,
    /// `RLIMIT_NOFILE`; `None`: the caller's soft and hard limits.
    pub files: Option<u64>,
}

/// What a service sees: an empty tmpfs root with an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its user id inside: the caller's, 1000 when the caller is root.
    pub uid: u32,
    /// Its group id inside.
    pub gid: u32,
    /// Its user's name inside.
    pub user: String,
    /// Its home inside.
    pub home: PathBuf,
    /// Symbolic links in the read-only root (`/bin` → `usr/bin`), absolute paths.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
    /// Files in the read-only root with their contents (`/etc/passwd`, …), mode 0444.
    pub files: Vec<(PathBuf, String)>,
    /// System directories and files that are bound read-only, the same for every run.
    pub system: Vec<Bind>,
    /// Directories of the run's private tmpfs with their modes, parents first (`/tmp` 1777, `home` 0700,
    /// `/run` 0755, `/var/tmp` 1777, `/dev/shm` 1777, `/run/<service>` 0755, `/run/secrets` 0500).
    pub scratch: Vec<(PathBuf, u32)>,
    /// The size of that tmpfs.
    pub scratch_size: ByteSize,
    /// The project at its own path; absent when nothing of it is visible.
    pub repo: Option<RepoView>,
    /// What is mounted after the project, parents before children: `writable`, `reads`, `volumes`.
    pub binds: Vec<Bind>,
    /// Further private tmpfs.
    pub tmpfs: Vec<(PathBuf, ByteSize)>,
    /// Secrets that are files, with their paths inside.
    pub secret_files: Vec<(SecretName, PathBuf)>,
    /// Secrets that are environment variables of the run.
    pub secret_env: Vec<(SecretName, String)>,
}

/// The project as a service sees it: its top-level entries, read-only, one by one, as they are when a
/// run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoView {
    /// The project root on the host, and its path inside.
    pub root: PathBuf,
    /// The names of top-level entries that are left out: `.git`, `.env`, everything that starts with
    /// `.env.`, secret sources, policy inputs, other services' writable directories that are top-level.
    pub exclude: Vec<Exclude>,
}

/// A rule that leaves top-level entries out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclude {
    /// This name.
    Name(String),
    /// Every name that starts with this.
    Prefix(String),
}

impl RepoView {
    /// Whether the top-level entry `name` is visible.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        !self.exclude.iter().any(|rule| match rule {
            Exclude::Name(exact) => exact == name,
            Exclude::Prefix(prefix) => name.starts_with(prefix.as_str()),
        })
    }
}

/// A mount from the host or from a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// What is mounted.
    pub source: BindSource,
    /// Where inside, absolute.
    pub target: PathBuf,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it is a directory (else a file).
    pub directory: bool,
    /// Whether, as root, files in it appear as the service's own and what it writes belongs to the
    /// source's owner (an id-mapped mount). System paths need none.
    pub owner_mapped: bool,
}

/// What a [`Bind`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindSource {
    /// A path of the host, absolute.
    Host(PathBuf),
    /// A volume of the instance.
    Volume(VolumeName),
    /// A private tmpfs of this size that hides what is below (another service's writable directory).
    Hidden,
}
