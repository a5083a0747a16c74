//! What supervisor, spawner, launcher and init say to each other.
//!
//! Private: the same binary is at both ends, and no version of it ever talks to another.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ws_sys::process::{self, Ended};
use ws_sys::scm::{self, Channel, MAX_MESSAGE, Message};

/// A step that failed, in a form that reads as one sentence: "mounting `./data`: no such directory".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: "mounting `./data` read-write". Without a detail, the whole sentence.
    pub stage: String,
    /// The error number, where there is one.
    pub errno: Option<i32>,
    /// What the error means here, if it is not what its number says.
    pub detail: String,
    /// Whether a further try would meet the same, unless somebody changes something.
    pub lasting: bool,
}

impl Failure {
    /// A failed step with its error.
    #[must_use]
    pub fn new(stage: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let detail = match errno {
            Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
            None => error.to_string(),
        };
        Self { stage: stage.into(), errno, detail, lasting: false }
    }

    /// A failed step that has no error number.
    #[must_use]
    pub fn because(stage: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { stage: stage.into(), errno: None, detail: detail.into(), lasting: false }
    }
}

impl Failure {
    /// A program that could not be executed. That it is not there, or is none that this machine runs, does not pass
    /// by waiting; a want of memory, or a file that is just being written, may (execve(2)).
    #[must_use]
    pub fn not_executed(stage: impl Into<String>, error: &io::Error) -> Self {
        use nix::libc::{E2BIG, EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR};
        let lasting = matches!(
            error.raw_os_error(),
            Some(E2BIG | EACCES | ELOOP | ENAMETOOLONG | ENOENT | ENOEXEC | ENOTDIR)
        );
        Self { lasting, ..Self::new(stage, error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(&self.stage)
        } else {
            write!(f, "{}: {}", self.stage, self.detail)
        }
    }
}

impl std::error::Error for Failure {}

/// Names the step in which an error happened.
pub trait Stage<T> {
    /// Names it.
    ///
    /// # Errors
    /// The error, named.
    fn stage(self, stage: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Stage<T> for io::Result<T> {
    fn stage(self, stage: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(stage, &error))
    }
}

/// To the spawner. Each is answered by one [`Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSpawner {
    /// Make a launcher; the launcher's end of its channel comes with it. Answered with the launcher's pidfd.
    Launcher,
    /// Make a socket, in the network namespace that comes with it, else in the router's.
    Socket {
        /// Of this kind.
        kind: SocketKind,
        /// Whether a namespace comes with it.
        in_service: bool,
    },
    /// Open a mount source (rootless: the supervisor cannot). Answered with a detached mount.
    Open(SourceRequest),
    /// Make a user namespace for an id-mapped mount: `owner` on disk appears as `service` in U1.
    IdMap {
        /// User and group id on disk.
        owner: (u32, u32),
        /// User and group id in U1.
        service: (u32, u32),
    },
}

/// A kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// NETLINK_ROUTE.
    Route,
    /// NETLINK_NETFILTER.
    Netfilter,
    /// An unconnected, non-blocking IPv4 TCP socket.
    Tcp,
}

/// A mount source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRequest {
    /// What to open, absolute.
    pub path: PathBuf,
    /// The directory that it must lie in, without any symbolic link on the way; absent: anywhere.
    pub beneath: Option<PathBuf>,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether device files in it can be opened (the files of /dev).
    pub device: bool,
    /// Whether directories are made where they are missing; only below `beneath`.
    pub create: bool,
}

/// An answer; descriptors come along as the request says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Not done.
    Failed(Failure),
}

/// To a launcher. Each is answered by one [`Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLauncher {
    /// Build the template; the mounts of [`Template::mounts`] come along in order. Answered with the
    /// launcher's network namespace.
    Prepare(Template),
    /// Put a mount into a slot, in place of what was there; the mount comes along.
    Source {
        /// Which slot.
        slot: usize,
        /// Whether it is a directory.
        directory: bool,
    },
    /// Build the view of the project anew; the mounts of the entries that are mounted come along in order.
    Repo {
        /// Whether this is the first part.
        first: bool,
        /// Whether this is the last part.
        last: bool,
        /// The entries.
        entries: Vec<RepoEntry>,
    },
    /// Start a run; its channel comes along, then its [`Streams`], then its cgroup where there is one, then its
    /// listening sockets. Answered with the pidfd of init.
    Start(Box<RunSpec>),
    /// Put other contents into files of the template, for runs that go on as well: each is replaced as a whole.
    Files(Vec<(PathBuf, String)>),
}

/// An entry of the project root, or of a directory below it that is shown entry by entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoEntry {
    /// Its path below the root; that of a directory comes before those of its entries.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of the project root is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory: mounted.
    Directory,
    /// A file: mounted.
    File,
    /// A symbolic link: made again, with the same text.
    Symlink(PathBuf),
    /// A directory that is not mounted: made, empty but for what comes after it.
    Place,
}

/// The part of the view that is the same for every run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Sysctls of the network namespace, written before anything else.
    pub sysctls: Vec<(String, String)>,
    /// Directories to make, parents first.
    pub directories: Vec<PathBuf>,
    /// Empty files to make, to mount over.
    pub mount_files: Vec<PathBuf>,
    /// Symbolic links to make: where, with which text.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
    /// Files to make with their contents.
    pub files: Vec<(PathBuf, String)>,
    /// Where the mounts that come along go.
    pub mounts: Vec<PathBuf>,
}

/// One run of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The host name inside.
    pub hostname: String,
    /// The service's ids in U1.
    pub outer: (u32, u32),
    /// The service's ids inside.
    pub inner: (u32, u32),
    /// Whether U1 has a range of ids (as root), so that the service becomes one of its own.
    pub distinct_user: bool,
    /// The size of the private tmpfs, in bytes.
    pub scratch_bytes: u64,
    /// Its directories with their modes, parents first.
    pub scratch: Vec<(PathBuf, u32)>,
    /// Where the project is seen.
    pub repo: Option<PathBuf>,
    /// Mounts after it, in order.
    pub mounts: Vec<RunMount>,
    /// Files with secret contents, mode 0400.
    pub secrets: Vec<(PathBuf, Vec<u8>)>,
    /// Where it can write: Landlock's view of the same.
    pub writable: Vec<PathBuf>,
    /// Resource limits of its processes.
    pub files_limit: Option<u64>,
    /// Processes of its user in its user namespace; where no cgroup limits them.
    pub processes_limit: Option<u64>,
    /// Where it can say something of itself (`NOTIFY_SOCKET` of sd_notify(3)): a datagram socket is made there, which
    /// goes out with [`FromInit::Executed`].
    pub notify: Option<PathBuf>,
    /// What to run before it, one after the other; each must exit with 0.
    pub pre_start: Vec<PreStart>,
    /// What to run.
    pub exec: ExecSpec,
    /// The standard streams of all that is run.
    pub streams: Streams,
    /// Whether a cgroup descriptor comes along.
    pub cgroup: bool,
    /// The names of the listening sockets that come along, for the main program (`LISTEN_FDNAMES`, sd_listen_fds(3)).
    pub listen: Vec<String>,
    /// Files in the private tmpfs that are there only to be touched: where, with which contents. Where there are any, an
    /// instance of inotify to watch them with comes along, last.
    pub decoys: Vec<(PathBuf, String)>,
    /// What is looked for of what it executes; `None`: nothing.
    pub executions: Option<Executions>,
}

/// The programs that a run may execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executions {
    /// As in the plan ([`ws_core::plan::PolicyPlan::processes`]).
    pub allowed: Vec<String>,
    /// Whether another one is refused; else it is told only.
    pub refuse: bool,
}

/// A program to execute before the main one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreStart {
    /// What.
    pub exec: ExecSpec,
    /// How long it may take.
    pub timeout: Duration,
}

/// The standard streams of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Standard output and error come along.
    Output {
        /// Whether the standard input is an idle pipe that never ends (else `/dev/null`).
        idle_stdin: bool,
    },
    /// Standard input, output and error come along.
    Given {
        /// Whether the standard input is a terminal to take.
        tty: bool,
    },
    /// A terminal of the run's own is made; it goes out with [`FromInit::Terminal`].
    Terminal,
}

impl Streams {
    /// How many descriptors come along.
    #[must_use]
    pub fn descriptors(self) -> usize {
        match self {
            Self::Output { .. } => 2,
            Self::Given { .. } => 3,
            Self::Terminal => 0,
        }
    }
}

/// A mount of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMount {
    /// Where.
    pub target: PathBuf,
    /// What.
    pub what: RunMountKind,
    /// Whether the place must be made first, on the private tmpfs.
    pub make: bool,
}

/// What a mount of a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunMountKind {
    /// The mount in this slot.
    Slot {
        /// Which.
        slot: usize,
        /// Whether it is a directory.
        directory: bool,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Its size.
        bytes: u64,
        /// Whether it can be written.
        writable: bool,
    },
}

/// A program to execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The current directory.
    pub cwd: PathBuf,
}

/// To init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// Execute a further program inside; its standard input, output and error come along.
    Exec {
        /// Names it in the answers.
        id: u64,
        /// What.
        exec: ExecSpec,
        /// Whether standard input is a terminal to take.
        tty: bool,
        /// Whether somebody asked for it (`ws exec`), who may execute what he likes; else the plan does.
        guest: bool,
    },
    /// Make a terminal, which has a name inside. Answered by [`FromInit::Terminal`] or [`FromInit::NoTerminal`].
    Terminal {
        /// Names it in the answer.
        id: u64,
    },
    /// Other programs may be executed from now on. Where nothing was looked for at the start, nothing is. Not answered.
    Executions(Executions),
    /// Watch a decoy again. Answered by [`FromInit::Armed`], if it is still there.
    Arm {
        /// Which, by its number in [`RunSpec::decoys`].
        decoy: usize,
    },
    /// Kill a further program and its process group. Not answered; one that has ended is no error.
    Kill {
        /// Which.
        id: u64,
    },
}

/// From init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The run could not be started; init ends.
    Failed(Failure),
    /// A terminal was made; both sides come along, the one to keep first.
    Terminal {
        /// Which; `None`: that of the run itself.
        id: Option<u64>,
    },
    /// A terminal could not be made.
    NoTerminal {
        /// Which.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// The program was executed; the pidfd of its process comes along, and the socket of [`RunSpec::notify`].
    Executed {
        /// What Landlock enforces: 0 nothing, 1 partly, 2 fully.
        landlock: u8,
    },
    /// Decoys are watched from now on, or cannot be.
    Armed(Vec<Armed>),
    /// Calls were made that no program needs, or programs executed that are not among those that it may; the pidfd of
    /// the caller comes along where it could be had.
    Tripped(Trip),
    /// The main process ended; init ends, and everything else of the run with it.
    Exited(End),
    /// A further program was executed.
    ExecStarted {
        /// Which.
        id: u64,
    },
    /// A further program could not be executed.
    ExecFailed {
        /// Which.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// A further program ended.
    ExecEnded {
        /// Which.
        id: u64,
        /// How.
        end: End,
    },
}

/// A decoy that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// Which, by its number in [`RunSpec::decoys`].
    pub decoy: usize,
    /// The number of its watch, or why there is none.
    pub watch: Result<i32, String>,
}

/// What a run did that the filter asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// What.
    pub what: Tripped,
    /// Who, the last time; empty where that is not known.
    pub caller: Caller,
    /// How often, since it was told the last time.
    pub count: u64,
    /// How many others there were for which there was no room.
    pub lost: u64,
}

/// What kind of thing a run did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tripped {
    /// A call; it was answered with `EPERM`.
    Call {
        /// Its name.
        name: String,
        /// What of its arguments it was asked about for.
        detail: Option<String>,
    },
    /// The execution of a program.
    Program {
        /// Its path, links followed.
        executable: String,
        /// Whether it was answered with `EACCES`.
        refused: bool,
    },
}

/// Who made a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its program.
    pub executable: Option<String>,
    /// Those of its parents, up to the main process.
    pub parents: Vec<String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Code(code) => Self::Code(code),
            Ended::Signal(signal) => Self::Signal(signal),
        }
    }
}

/// First byte of a message: the text follows.
const INLINE: u8 = 0;
/// First byte of a message: the text is in a memfd, the first descriptor.
const BY_MEMFD: u8 = 1;

/// Sends a value; a long one goes by memfd.
///
/// # Errors
/// When the other end is gone.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = vec![INLINE];
    serde_json::to_writer(&mut bytes, value)?;
    if bytes.len() <= MAX_MESSAGE {
        return scm::send_on(socket, &bytes, fds);
    }
    let memfd = process::memfd_with(c"ws-message", bytes.get(1..).unwrap_or_default())?;
    let mut all = vec![memfd.as_fd()];
    all.extend_from_slice(fds);
    scm::send_on(socket, &[BY_MEMFD], &all)
}

/// Reads a value from a message.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the other end is gone; `InvalidData` when it is no such value.
pub fn decode<T: DeserializeOwned>(message: Message) -> io::Result<(T, Vec<OwnedFd>)> {
    let Message { bytes, mut fds } = message;
    match bytes.split_first() {
        None => Err(io::ErrorKind::UnexpectedEof.into()),
        Some((&INLINE, text)) => Ok((serde_json::from_slice(text)?, fds)),
        Some((&BY_MEMFD, _)) if !fds.is_empty() => {
            let mut text = Vec::new();
            std::fs::File::from(fds.remove(0)).read_to_end(&mut text)?;
            Ok((serde_json::from_slice(&text)?, fds))
        }
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Waits for a value.
///
/// # Errors
/// As [`decode`].
pub fn receive<T: DeserializeOwned>(channel: &Channel) -> io::Result<(T, Vec<OwnedFd>)> {
    decode(channel.recv()?)
}
