//! Who may talk to the control socket: the user who owns the stack, or root, from outside every sandbox.
//!
//! The user id alone proves nothing: a sandboxed process of the same user has it too (rootless services
//! do). So the peer must be in the user namespace of the supervisor. It is looked at by its pidfd, which
//! the socket gives since Linux 6.5, so that a process id that was reused in between does not count.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use ws_sys::process;

/// Why a peer is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is of another user.
    #[error("process {pid} belongs to user {uid}")]
    User {
        /// Which process.
        pid: i32,
        /// Whose.
        uid: u32,
    },
    /// It is in a sandbox.
    #[error("process {pid} is in another user namespace")]
    Namespace {
        /// Which process.
        pid: i32,
    },
    /// It ended before it was looked at.
    #[error("process {pid} has ended")]
    Ended {
        /// Which process.
        pid: i32,
    },
    /// It cannot be looked at.
    #[error("could not find out who process {pid} is")]
    Unknown {
        /// Which process.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
    /// Not even its number is known.
    #[error("could not ask who has connected")]
    Socket(#[source] io::Error),
}

/// Whether the peer of a connected unix socket may talk to a supervisor that runs as this process.
///
/// # Errors
/// When it may not, or when that cannot be found out.
pub fn check(socket: BorrowedFd<'_>) -> Result<(), Refused> {
    let peer = getsockopt(&socket, PeerCredentials).map_err(|errno| Refused::Socket(errno.into()))?;
    let pidfd = match getsockopt(&socket, PeerPidfd) {
        Ok(pidfd) => Some(pidfd),
        // Before 6.5.
        Err(Errno::ENOPROTOOPT | Errno::EINVAL) => None,
        Err(Errno::ESRCH | Errno::ENODATA) => return Err(Refused::Ended { pid: peer.pid() }),
        Err(errno) => return Err(Refused::Socket(errno.into())),
    };
    judge(peer.pid(), peer.uid(), pidfd)
}

fn judge(pid: i32, uid: u32, pidfd: Option<OwnedFd>) -> Result<(), Refused> {
    let own_uid = nix::unistd::geteuid().as_raw();
    // A process that has no number here is in a pid namespace that is not below ours.
    if (uid != own_uid && uid != 0) || pid <= 0 {
        return Err(Refused::User { pid, uid });
    }
    let unknown = |source: io::Error| Refused::Unknown { pid, source };
    let pidfd = match pidfd {
        Some(pidfd) => pidfd,
        None => open_pidfd(pid).map_err(unknown)?,
    };
    let at = process::pid_of(pidfd.as_fd()).map_err(unknown)?.ok_or(Refused::Ended { pid })?;
    let theirs = user_namespace(&at.to_string());
    // While it lives, nobody else has its number: so it was its namespace that we have seen.
    if process::pid_of(pidfd.as_fd()).map_err(unknown)? != Some(at) {
        return Err(Refused::Ended { pid });
    }
    let theirs = match theirs {
        Ok(theirs) => theirs,
        // The host's root, whom an ordinary user may not look at. No sandbox of an ordinary user has a
        // process with that id, and root needs no socket to do as it likes.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && uid == 0 && own_uid != 0 => {
            return Ok(());
        }
        Err(source) => return Err(unknown(source)),
    };
    if theirs == user_namespace("self").map_err(unknown)? { Ok(()) } else { Err(Refused::Namespace { pid }) }
}

fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Which user namespace a process is in: device and inode of its file.
fn user_namespace(process: &str) -> io::Result<(u64, u64)> {
    let namespace = std::fs::metadata(format!("/proc/{process}/ns/user"))?;
    Ok((namespace.dev(), namespace.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn we_may_talk_to_ourselves_with_and_without_a_pidfd_of_the_socket() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        check(ours.as_fd()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        judge(own, nix::unistd::geteuid().as_raw(), None).unwrap();
    }

    #[test]
    fn others_and_strangers_are_refused() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(judge(own, 12_345, None), Err(Refused::User { uid: 12_345, .. })));
        let uid = nix::unistd::geteuid().as_raw();
        assert!(matches!(judge(0, uid, None), Err(Refused::User { pid: 0, .. })));
        // Above every process id that Linux gives (2^22).
        assert!(matches!(judge(0x0100_0000, uid, None), Err(Refused::Unknown { .. })));
        let (ours, _theirs) = nix::unistd::pipe().unwrap();
        assert!(matches!(check(ours.as_fd()), Err(Refused::Socket(_))));
    }
}
