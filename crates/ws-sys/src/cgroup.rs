//! Control groups: limits that hold, counters that say so, and a kill that reaches every process.
//!
//! One interface over the unified hierarchy (v2), the per-controller ones (v1) and hosts that have both
//! (hybrid). Every controller is used where the host mounts it, below the cgroup in which this process
//! itself stands; on a host with both, each [`Group`] also has a directory in the v2 hierarchy, which
//! even without controllers gives `cgroup.kill`, `cgroup.freeze`, `populated`, processor time and
//! `CLONE_INTO_CGROUP`.
//!
//! What it never does: guess. A controller counts as usable when a directory could be made there, is on
//! a cgroup file system and lets its limit be written; a limit counts as set when it reads back. It
//! touches no directory that it did not make, apart from `cgroup.subtree_control` of its own cgroup.
//!
//! Read [`Tree`] first.

mod files;
mod group;
mod layout;
mod leftover;
mod tree;
mod v1;
mod v2;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use group::Group;
pub use layout::{Layout, Mode};
pub use leftover::{clear, find, process_depths};
pub use tree::{HELPERS, Tree, Usable, detect_writable};
pub use watch::Watch;

/// A kind of limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Memory, the page cache of the group's files included.
    Memory,
    /// Processor time.
    Cpu,
    /// Number of processes and threads.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a group may use. Absent: no limit of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, rounded down to whole pages by the kernel; swap is not given in addition.
    pub memory: Option<u64>,
    /// Processor time per time, in thousandths of a processor; at least 1.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether a limit of this kind is asked for.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory.is_some(),
            Controller::Cpu => self.cpu_milli.is_some(),
            Controller::Pids => self.pids.is_some(),
        }
    }
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes, where it is accounted.
    pub memory_bytes: Option<u64>,
    /// Processor time since the group was made, in microseconds, where it is accounted.
    pub cpu_usec: Option<u64>,
}

/// How often a group was held back by its processor limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which it used up its share.
    pub periods: u64,
    /// Time for which it had to wait, in microseconds.
    pub usec: u64,
}

/// Why something could not be done with a control group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A directory could not be made.
    #[error("could not make the cgroup `{}`", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write `{value}` to `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A file says something that this code does not understand.
    #[error("`{}` has no `{wanted}`, or not as a number", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// A limit was written and reads back as something else: it is not enforced.
    #[error("`{}` was set to `{wrote}` and reads `{reads}`", path.display())]
    NotKept {
        /// Which file.
        path: PathBuf,
        /// What was written.
        wrote: String,
        /// What stands there.
        reads: String,
    },
    /// The directory exists: something of that name runs, or was left.
    #[error("the cgroup `{}` exists", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// An operation needs the v2 hierarchy, and there is none that this process may change.
    #[error("there is no cgroup v2 directory to {what}")]
    NoV2 {
        /// What was to be done.
        what: &'static str,
    },
    /// A process could not be moved into a group.
    #[error("could not move process {pid} into `{}`", path.display())]
    Attach {
        /// Which process.
        pid: u32,
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes are left in a group after the time that they were given to end.
    #[error("processes are left in `{}` after {within:?}", path.display())]
    Populated {
        /// Which.
        path: PathBuf,
        /// How long was waited.
        within: Duration,
    },
    /// A directory could not be removed.
    #[error("could not remove the cgroup `{}`", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's notification could not be set up.
    #[error("could not watch `{}`", path.display())]
    Watch {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
