//! Decoys: files that are there only to be touched, made and watched by init.
//!
//! They lie in the private tmpfs of the run, never in a tree that the host shows, so nobody but this service can touch
//! them. They are written before they are watched, and watched before anything of the service runs. The instance of
//! inotify is the supervisor's, one for all services: a user has few. Init adds the watches, since the paths are in its
//! mount namespace, and adds them again when it is asked to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use ws_sys::{inotify, mount};

use super::launcher::below;
use super::protocol::{Armed, Failure, Stage};

/// The decoys of a run.
#[derive(Debug)]
pub(super) struct Baits {
    instance: OwnedFd,
    /// By descriptors that touch nothing: whatever the service does to their names.
    files: Vec<OwnedFd>,
}

impl Baits {
    /// Makes the decoys below `root`, owned by the service's user, and watches them. Says which is watched as what.
    pub(super) fn lay(
        root: &Path,
        decoys: &[(PathBuf, String)],
        owner: (u32, u32),
        instance: OwnedFd,
    ) -> Result<(Self, Vec<Armed>), Failure> {
        let mut files = Vec::new();
        for (path, contents) in decoys {
            files.push(make(root, path, contents, owner).stage(format!("making {}", path.display()))?);
        }
        let baits = Self { instance, files };
        let armed = (0..baits.files.len()).filter_map(|decoy| baits.arm(decoy)).collect();
        Ok((baits, armed))
    }

    /// Watches a decoy for the next time that it is touched; `None` for one that was removed, which nobody can find.
    pub(super) fn arm(&self, decoy: usize) -> Option<Armed> {
        let file = self.files.get(decoy)?;
        // It would be told of its end, which is that of the run.
        if rustix::fs::fstat(file).is_ok_and(|it| it.st_nlink == 0) {
            return None;
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let watch = inotify::watch_once(self.instance.as_fd(), &path).map_err(|error| error.to_string());
        Some(Armed { decoy, watch })
    }
}

/// Makes one file, mode 0600, and the directories above it that are not there, mode 0700, all of the service's user.
fn make(root: &Path, path: &Path, contents: &str, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
    let own = |file: BorrowedFd<'_>| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    };
    let place = below(root, path);
    let missing: Vec<&Path> =
        place.ancestors().skip(1).take_while(|above| *above != root && !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        rustix::fs::mkdir(directory, Mode::from_raw_mode(0o700))?;
        own(mount::open_path(directory)?.as_fd())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&place, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = contents.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    own(file.as_fd())?;
    mount::open_path(&place)
}
