//! Id ranges: as root, each instance on the machine has 65,536 host ids of its own.
//!
//! A range is held by a lock on a file, so that it is free again when its holder is gone, however it went.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sandbox::spawner::SLOTS;

/// A range that this process holds. Dropping it frees it.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    path: PathBuf,
    // Locked; the lock goes with the descriptor.
    _file: File,
}

impl Slot {
    /// Takes the first free range; `directory` holds the locks and is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be written, or all 4,095 ranges are taken.
    pub fn take(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut number = 0;
        while number < SLOTS {
            let path = directory.join(number.to_string());
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => number += 1,
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => {
                    // Its last holder may have removed the file between our opening and locking it: then the
                    // lock is worth nothing, and the same number is tried again.
                    let here = std::fs::symlink_metadata(&path).map(|meta| (meta.dev(), meta.ino()));
                    let held = file.metadata().map(|meta| (meta.dev(), meta.ino()))?;
                    if here.ok() == Some(held) {
                        return Ok(Self { number, path, _file: file });
                    }
                }
            }
        }
        Err(io::Error::other(format!("all {SLOTS} id ranges are in use; `ws ls` shows by whom")))
    }

    /// Its number, below [`SLOTS`].
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // While it is still locked, so that nobody has it meanwhile.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_one_holder() {
        let directory = tempfile::tempdir().unwrap();
        let first = Slot::take(directory.path()).unwrap();
        let second = Slot::take(directory.path()).unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        drop(first);
        let third = Slot::take(directory.path()).unwrap();
        assert_eq!(third.number(), 0);
        drop((second, third));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file stays");
    }

    #[test]
    fn a_file_that_nobody_locks_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("0"), "").unwrap();
        assert_eq!(Slot::take(directory.path()).unwrap().number(), 0);
    }
}
