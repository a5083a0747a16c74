//! Being told by the kernel that something changed in a group.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, inotify};

use super::{Error, Result, files};

/// Becomes readable when something changed; the counters themselves are then read from the group.
///
/// The news may come before the counter shows it, and once more when the group is removed.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Inotify,
    Eventfd,
}

impl Watch {
    /// Modifications of a control file that notifies (`cgroup.events`, `memory.events`).
    pub(super) fn of_file(path: PathBuf) -> Result<Self> {
        let make = || -> io::Result<OwnedFd> {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)?;
            Ok(fd)
        };
        match make() {
            Ok(fd) => Ok(Self { fd, kind: Kind::Inotify }),
            Err(source) => Err(Error::Watch { path, source }),
        }
    }

    /// The v1 notification that a group ran out of memory.
    pub(super) fn of_v1_oom(dir: &Path) -> Result<Self> {
        let control = dir.join("memory.oom_control");
        let make = || -> io::Result<(OwnedFd, OwnedFd)> {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let control = rustix::fs::open(&control, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            Ok((event, control))
        };
        let (event, oom) = make().map_err(|source| Error::Watch { path: control.clone(), source })?;
        let line = format!("{} {}", event.as_raw_fd(), oom.as_raw_fd());
        files::write(dir, "cgroup.event_control", &line)?;
        Ok(Self { fd: event, kind: Kind::Eventfd })
    }

    /// Takes what has been told, so that the descriptor is readable again only for news.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn drain(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(([], _)) => return Ok(()),
                // An eventfd is empty after one read.
                Ok(_) => match self.kind {
                    Kind::Eventfd => return Ok(()),
                    Kind::Inotify => {}
                },
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The descriptor, non-blocking, to be waited for elsewhere; reading from it is draining.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until `watch` is readable or `within` is over; `true` when it is readable.
pub(super) fn wait(watch: &Watch, within: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec::try_from(within).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    let mut fds = [PollFd::new(&watch.fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_written_file_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cgroup.events");
        std::fs::write(&path, "populated 1\n").unwrap();
        let watch = Watch::of_file(path.clone()).unwrap();
        assert!(!wait(&watch, Duration::ZERO).unwrap());
        std::fs::write(&path, "populated 0\n").unwrap();
        assert!(wait(&watch, Duration::from_secs(5)).unwrap());
        watch.drain().unwrap();
        assert!(!wait(&watch, Duration::ZERO).unwrap());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Watch::of_file("/nonexistent/cgroup.events".into()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/cgroup.events"), "{error}");
    }
}
