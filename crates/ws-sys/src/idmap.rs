//! Identity maps of user namespaces (user_namespaces(7)) and the ones that mounts are mapped by.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::process::{self, CloneOptions, Forked, Namespaces};

/// A range of ids: `inside` is what the namespace sees, `outside` what its parent sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// Writes both maps of the process `pid` (or `self`), which has just entered a new user namespace.
///
/// `deny_groups` gives up setgroups first, which a writer without `CAP_SETGID` in the parent must.
///
/// # Errors
/// `EPERM` when the writer may not map these ids.
pub fn write(pid: &str, uid: Range, gid: Range, deny_groups: bool) -> io::Result<()> {
    if deny_groups {
        std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("{uid}\n"))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("{gid}\n"))
}

/// Makes a user namespace, child of the caller's, that only maps; for `MOUNT_ATTR_IDMAP`.
///
/// The caller must be single-threaded, dumpable, and have `CAP_SETUID`, `CAP_SETGID` over the outside ids.
///
/// # Errors
/// When the namespace cannot be made or mapped.
pub fn mapping_namespace(uid: Range, gid: Range) -> io::Result<OwnedFd> {
    let (hold, release) = io::pipe()?;
    let options = CloneOptions {
        namespaces: Namespaces { user: true, ..Namespaces::default() },
        ..CloneOptions::default()
    };
    match process::clone(&options)? {
        Forked::Child => {
            drop(release);
            // Ends when the parent has what it wants, or is gone.
            let _ = process::poll_readable(&[hold.as_fd()]);
            process::exit_now(0);
        }
        Forked::Parent { pid, pidfd } => {
            let made = write(&pid.to_string(), uid, gid, false)
                .and_then(|()| std::fs::File::open(format!("/proc/{pid}/ns/user")));
            drop(release);
            let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::poll_readable(&[pidfd.as_fd()]);
            while process::reap_pidfd(pidfd.as_fd())?.is_none() {}
            Ok(made?.into())
        }
    }
}
