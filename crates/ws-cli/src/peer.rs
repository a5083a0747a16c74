//! Who may speak to the supervisor: processes of its own user that are not in a sandbox.
//!
//! The user id alone is not enough: a process in a user namespace of its own shows the same one. So the
//! peer must be in the supervisor's user namespace too.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether the process that has connected may speak to us.
///
/// # Errors
/// Why not, as a phrase.
pub fn check(socket: BorrowedFd<'_>) -> Result<(), String> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)
        .map_err(|error| format!("its credentials are not known: {}", error.desc().to_lowercase()))?;
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        return Err(format!("it belongs to user {}", peer.uid()));
    }
    // Held while its /proc entry is read, so that the number cannot become somebody else's unseen. Kernels
    // before 6.5 have none; there the namespace alone decides.
    let pidfd = getsockopt(&socket, sockopt::PeerPidfd).ok();
    let theirs = user_namespace(&peer.pid().to_string())
        .ok_or_else(|| format!("the user namespace of process {} cannot be seen", peer.pid()))?;
    if user_namespace("self").as_ref() != Some(&theirs) {
        return Err(format!("process {} is in another user namespace", peer.pid()));
    }
    match pidfd {
        Some(pidfd) if has_ended(&pidfd) => Err(format!("process {} has ended", peer.pid())),
        _ => Ok(()),
    }
}

fn user_namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/user")).ok()
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn our_own_processes_may_speak() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(check(server.as_fd()), Ok(()));
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(check(file.as_fd()).unwrap_err().contains("credentials"));
    }
}
