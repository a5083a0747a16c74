//! What is in a file, without reading it again when nobody can have written it since.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

/// How close to now a file's change may be so that another one might leave no trace: the clock of file systems goes in
/// ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(40);
/// The same for file systems that keep whole seconds, or two (FAT).
const COARSE_TICK: Duration = Duration::from_millis(2_500);

/// Stands for what the kernel says of a file: device, inode, size, modification, change, mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Stamp(u128);

impl Stamp {
    /// Of what is not there.
    pub(crate) const NOTHING: Self = Self(0);

    pub(crate) fn of(metadata: &Metadata) -> Self {
        let mut hash = Sha256::new();
        for number in [metadata.dev(), metadata.ino(), metadata.size(), u64::from(metadata.mode())] {
            hash.update(number.to_le_bytes());
        }
        for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
            hash.update(number.to_le_bytes());
        }
        Self(short(hash))
    }
}

/// What a file is to those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// A file with these contents.
    File {
        /// A digest of them.
        contents: u128,
        /// Whether its owner may execute it: all of its mode that counts, as with git.
        executable: bool,
    },
    /// A symbolic link that says this.
    Link(u128),
    /// A file that may not be read.
    Unreadable,
}

/// The first 16 bytes of a digest: enough against chance, and nobody gains by fooling himself.
fn short(hash: Sha256) -> u128 {
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(half)
}

/// What was found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stamp: Stamp,
    /// Whether a change after this would give it another stamp.
    pub(crate) settled: bool,
    pub(crate) mark: Mark,
}

/// Contents by stamps. A stamp with a change time that is long enough past stands for the same contents for ever, so
/// what is kept is never wrong, and may be kept on disk.
#[derive(Debug)]
pub(crate) struct Contents {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    now: HashMap<Stamp, u128>,
    /// What was kept when `now` had grown too large; what is still asked for moves over.
    before: HashMap<Stamp, u128>,
    changed: bool,
}

/// So many are kept, and as many of before.
const MOST: usize = 262_144;
/// What a file of them begins with.
const MAGIC: &[u8; 16] = b"ws contents v1\n\0";

impl Contents {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default() }
    }

    /// What an earlier process found out. Nothing when it cannot be read.
    pub(crate) fn load(&self, file: &Path) {
        let Ok(bytes) = fs::read(file) else { return };
        let Some(body) = bytes.strip_prefix(MAGIC) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for pair in body.chunks_exact(32).take(MOST) {
            let (stamp, contents) = pair.split_at(16);
            let number = |half: &[u8]| half.try_into().map_or(0, u128::from_le_bytes);
            known.before.insert(Stamp(number(stamp)), number(contents));
        }
    }

    /// What a later process may know, if that is more than before.
    pub(crate) fn save(&self, file: &Path) -> io::Result<()> {
        let bytes = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut known.changed) {
                return Ok(());
            }
            let mut bytes = MAGIC.to_vec();
            for (stamp, contents) in &known.now {
                bytes.extend(stamp.0.to_le_bytes());
                bytes.extend(contents.to_le_bytes());
            }
            bytes
        };
        write_whole(file, &bytes)
    }

    fn get(&self, stamp: Stamp) -> Option<u128> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = known.now.get(&stamp) {
            return Some(*contents);
        }
        let contents = known.before.remove(&stamp)?;
        known.now.insert(stamp, contents);
        Some(contents)
    }

    fn put(&self, stamp: Stamp, contents: u128) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.now.len() >= MOST {
            known.before = std::mem::take(&mut known.now);
        }
        known.now.insert(stamp, contents);
        known.changed = true;
    }

    /// What is at a path; `None`: nothing, or what is no file. A file larger than `bound` is known by its stamp only.
    /// A symbolic link is what it says, or with `follow` what it leads to.
    pub(crate) fn look(&self, path: &Path, follow: bool, bound: u64) -> io::Result<Option<Seen>> {
        // A file that is written while it is read is read again; who writes without end is seen as it is.
        let mut tries = 0;
        loop {
            tries += 1;
            let metadata = match fs::symlink_metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if metadata.is_symlink() {
                return self.look_at_link(path, &metadata, follow, bound);
            }
            if !metadata.is_file() {
                return Ok(None);
            }
            let before = Stamp::of(&metadata);
            match self.read(path, &metadata, bound) {
                Ok((contents, after)) if after == before || tries == 3 => {
                    let mark = Mark::File { contents, executable: metadata.mode() & 0o100 != 0 };
                    let settled = after == before && is_settled(&metadata);
                    return Ok(Some(Seen { stamp: before, settled, mark }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(Some(Seen { stamp: before, settled: false, mark: Mark::Unreadable }));
                }
                Err(error) if is_absent(&error) && tries < 3 => {}
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn look_at_link(
        &self,
        path: &Path,
        metadata: &Metadata,
        follow: bool,
        bound: u64,
    ) -> io::Result<Option<Seen>> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !follow {
            let mut hash = Sha256::new();
            hash.update(target.as_os_str().as_bytes());
            // The text of a link does not change: another link takes its place.
            let seen = Seen { stamp: Stamp::of(metadata), settled: true, mark: Mark::Link(short(hash)) };
            return Ok(Some(seen));
        }
        let Ok(real) = fs::canonicalize(path) else { return Ok(None) };
        let Some(seen) = self.look(&real, false, bound)? else { return Ok(None) };
        // Another link to the same contents is no change: what is at the end counts.
        Ok(Some(Seen { settled: false, ..seen }))
    }

    /// A digest of the contents, and the stamp after reading them.
    fn read(&self, path: &Path, metadata: &Metadata, bound: u64) -> io::Result<(u128, Stamp)> {
        let stamp = Stamp::of(metadata);
        if let Some(contents) = self.get(stamp) {
            return Ok((contents, stamp));
        }
        if metadata.size() > bound {
            let mut hash = Sha256::new();
            hash.update(b"large");
            for number in [metadata.size().cast_signed(), metadata.mtime(), metadata.mtime_nsec()] {
                hash.update(number.to_le_bytes());
            }
            return Ok((short(hash), stamp));
        }
        // Should a pipe have taken the place of the file, opening it does not wait for a writer.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut file =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(
                |e| {
                    // A link has taken its place: look again.
                    if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                        io::Error::from(io::ErrorKind::NotFound)
                    } else {
                        e
                    }
                },
            )?;
        if !file.metadata()?.is_file() {
            // Something else has taken its place: look again.
            return Err(io::ErrorKind::NotFound.into());
        }
        let contents = digest(&mut file, metadata.size(), bound)?;
        let after = file.metadata()?;
        let after_stamp = Stamp::of(&after);
        if after_stamp == stamp && is_settled(&after) {
            self.put(stamp, contents);
        }
        Ok((contents, after_stamp))
    }
}

/// Whether a further change would get another time.
pub(crate) fn is_settled(metadata: &Metadata) -> bool {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
    let tick = if nanos == 0 { COARSE_TICK } else { TICK };
    SystemTime::now().duration_since(changed).is_ok_and(|past| past > tick)
}

/// Whether nothing is there: a part of the path may be a file by now.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn digest(file: &mut File, size: u64, bound: u64) -> io::Result<u128> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; size.saturating_add(1).clamp(512, 64 * 1024) as usize];
    // Who grows while he is read does not hold us for ever.
    let mut file = file.take(bound.saturating_add(1));
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(short(hash)),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a file so that whoever reads it finds the old text or the new one, after a crash as well.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    out.write_all(bytes)?;
    out.sync_data()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mark(contents: &Contents, path: &Path) -> Option<Mark> {
        contents.look(path, false, 1 << 20).unwrap().map(|seen| seen.mark)
    }

    #[test]
    fn contents_and_the_owners_x_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let contents = Contents::new();
        assert_eq!(mark(&contents, &path), None);
        assert_eq!(mark(&contents, dir.path()), None, "a directory is no file");
        fs::write(&path, "one").unwrap();
        let one = mark(&contents, &path);
        fs::write(&path, "two").unwrap();
        let two = mark(&contents, &path);
        assert_ne!(one, two);
        fs::write(&path, "one").unwrap();
        assert_eq!(mark(&contents, &path), one);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(mark(&contents, &path), one);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(mark(&contents, &path), one);
        fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        assert!(matches!(mark(&contents, &path), Some(Mark::Link(_))));
        assert_eq!(contents.look(&path, true, 1 << 20).unwrap(), None);
    }

    #[test]
    fn what_was_just_written_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let contents = Contents::new();
        // However fast they come, and although the size is the same.
        for n in 100..200 {
            fs::write(&path, format!("{n}")).unwrap();
            let now = mark(&contents, &path);
            assert_eq!(now, mark(&Contents::new(), &path));
        }
    }

    #[test]
    fn what_is_kept_survives() {
        let dir = tempfile::tempdir().unwrap();
        let (path, kept) = (dir.path().join("a"), dir.path().join("kept"));
        fs::write(&path, "x").unwrap();
        let contents = Contents::new();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        contents.put(stamp, 42);
        contents.save(&kept).unwrap();
        let later = Contents::new();
        later.load(&kept);
        assert_eq!(later.get(stamp), Some(42));
        fs::write(&kept, "broken").unwrap();
        let broken = Contents::new();
        broken.load(&kept);
        assert_eq!(broken.get(stamp), None);
    }
}
