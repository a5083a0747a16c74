//! How far what is found in a tree may lead.
//!
//! Services write into directories that are watched, and whoever watches may be root. So what a service can put there
//! decides nothing about what else is read: symbolic links in a directory that a service writes are followed only to
//! where it could write as well, or to the project; directories are opened by their real paths, so that one that is
//! swapped for a link while it is looked at leads nowhere; and of files that say something (`.gitignore`, `.git`) only
//! those are read that are files and small, without waiting for anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use ws_core::plan::{BindSource, Plan};

/// The most bytes of a file that says something.
const MOST: u64 = 1 << 20;

/// What services can write, and the project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leash {
    root: PathBuf,
    /// Real paths.
    written: Vec<PathBuf>,
}

impl Leash {
    pub(crate) fn of(plan: &Plan) -> Self {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let binds = plan.services.values().flat_map(|unit| &unit.view.binds);
        let written = binds.filter(|bind| bind.writable).filter_map(|bind| match &bind.source {
            BindSource::Host(path) => Some(real(path)),
            BindSource::Volume(_) | BindSource::Hidden => None,
        });
        let mut written: Vec<PathBuf> = written.collect();
        written.sort();
        written.dedup();
        Self { root: real(&plan.root), written }
    }

    /// Whether a service can make something of this name.
    pub(crate) fn is_written(&self, path: &Path) -> bool {
        self.written.iter().any(|written| path.starts_with(written))
    }

    /// The real path of what is at a path; `None`: nothing, or it leads too far.
    pub(crate) fn real(&self, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(path).ok()?;
        self.reaches(path, &real).then_some(real)
    }

    /// Whether a link at this path may be followed.
    pub(crate) fn follows(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| self.reaches(path, &real))
    }

    fn reaches(&self, path: &Path, real: &Path) -> bool {
        if real == path || real.starts_with(&self.root) {
            return true;
        }
        // The last element of the links is where they lead.
        let links = crate::worker::links(path);
        let own = links.split_last().map_or(&[][..], |(_, links)| links);
        own.iter().all(|link| {
            let mut writers = self.written.iter().filter(|written| link.starts_with(written)).peekable();
            writers.peek().is_none() || writers.any(|written| real.starts_with(written))
        })
    }
}

/// Lists a directory by its real path: where a link has taken the place of any part of it, nothing is there.
pub(crate) fn read_dir(real: &Path) -> io::Result<(OwnedFd, fs::ReadDir)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = match rustix::fs::openat2(CWD, real, flags, Mode::empty(), resolve) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::LOOP) => return Err(io::ErrorKind::NotFound.into()),
        Err(error) => return Err(error.into()),
    };
    let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    Ok((directory, entries))
}

/// The text of a small file. Not of what is no file: a pipe would be waited for, a device is endless.
pub(crate) fn read_small(path: &Path) -> Option<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MOST {
        return None;
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}
