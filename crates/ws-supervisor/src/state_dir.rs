//! Where an instance lives on disk: the runtime directory with its lock, socket and record, and the
//! state directory with what is kept.
//!
//! ```text
//! <runtime>/<instance>/   0700   gone when the supervisor has ended well
//!     lock                       flock, exclusive, held for the supervisor's life
//!     control.sock        0600
//!     record.json                a [`Record`]: for `ws ls` and for clearing up after a crash
//! <state>/<instance>/     0700   kept: instance.json, journal, logs, volumes
//! ```
//!
//! An instance runs while its lock is held; process ids are told, and never trusted. Nothing here
//! follows a symbolic link below the two base directories, or uses a directory that others own or can
//! write. Files are replaced as a whole, so that a reader never sees half of one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use ws_model::wire::{InstanceRow, InstanceState};
use ws_model::{InstanceId, Timestamp};

const LOCK: &str = "lock";
const SOCKET: &str = "control.sock";
const RECORD: &str = "record.json";
const IDENTITY: &str = "instance.json";

/// The longest path that fits into a socket address on every Unix.
const MAX_SOCKET_PATH: usize = 103;

/// The longest record that is read.
const MAX_RECORD: u64 = 64 << 10;

/// How often, a millisecond apart, a lock is tried again that only `ws ls` holds for an instant.
const LOCK_TRIES: u32 = 500;

/// Why a directory of `ws` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file system refused.
    #[error("could not {operation} `{}`", path.display())]
    Io {
        /// What was tried: "create", "lock".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is there and cannot be trusted.
    #[error("`{}` {why}", path.display())]
    Untrusted {
        /// Which.
        path: PathBuf,
        /// Why: "belongs to user 1000".
        why: String,
    },
}

impl StateError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { operation, path: path.to_owned(), source: errno.into() }
    }

    fn std(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

/// What is known of an instance that runs, or ran when it crashed: `record.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The instance.
    pub instance: InstanceId,
    /// The project root.
    pub root: String,
    /// Version of `ws`.
    pub version: String,
    /// The supervisor's process id: to tell people, never to signal.
    pub pid: u32,
    /// Which boot of the machine it ran in, where that is known: after another one nothing but files
    /// can be left.
    pub boot_id: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether an attached `ws up` owns it.
    pub attached: bool,
}

/// Which boot of the machine this is, where the system tells.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// What [`acquire`] found.
#[derive(Debug)]
pub enum Acquired {
    /// The instance is ours.
    Locked {
        /// For as long as this lives.
        lock: InstanceLock,
        /// What the last supervisor recorded, when it did not end well: what it left is to be cleared.
        crashed: Option<Record>,
    },
    /// A supervisor runs.
    Busy(Option<Record>),
}

/// The right to be the supervisor of an instance (or to clear up after one): the lock in its runtime
/// directory.
///
/// The lock belongs to the open file, so a process that is forked without exec (and does not close it)
/// shares it and keeps it locked.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    dir: OwnedFd,
    _lock: OwnedFd,
}

/// Where the supervisor of `instance` listens.
#[must_use]
pub fn socket_path(runtime: &Path, instance: &InstanceId) -> PathBuf {
    runtime.join(instance.as_str()).join(SOCKET)
}

/// Takes the lock of an instance; makes its runtime directory when there is none. Does not wait for a
/// supervisor that runs.
///
/// # Errors
/// When the directory cannot be made or cannot be trusted.
pub fn acquire(runtime: &Path, instance: &InstanceId) -> Result<Acquired, StateError> {
    let base = private_dir(runtime, 0o022)?;
    let path = runtime.join(instance.as_str());
    for _ in 0..LOCK_TRIES {
        match rustix::fs::mkdirat(&base, instance.as_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(StateError::io("create", &path)(errno)),
        }
        let dir = match open_dir(&base, Path::new(instance.as_str())) {
            Ok(dir) => dir,
            // The last supervisor is removing it right now.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(untrusted_or_io(&path, errno)),
        };
        check_owner(&dir, &path, 0o077)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = match rustix::fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Ok(lock) => lock,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(StateError::io("create", &path.join(LOCK))(errno)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Whoever only looks (`ws ls`) shares the lock for an instant; a supervisor does not.
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
                    return Ok(Acquired::Busy(read_json(&dir, RECORD)));
                }
                drop(lock);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(errno) => return Err(StateError::io("lock", &path.join(LOCK))(errno)),
        }
        // Between our open and our lock the last supervisor may have removed file and directory: then
        // the next one would lock another file.
        if same_file(&lock, rustix::fs::statat(&base, instance_lock(instance), AtFlags::SYMLINK_NOFOLLOW)) {
            let crashed = read_json(&dir, RECORD);
            return Ok(Acquired::Locked { lock: InstanceLock { path, dir, _lock: lock }, crashed });
        }
    }
    Err(StateError::Io { operation: "lock", path: path.join(LOCK), source: io::ErrorKind::TimedOut.into() })
}

fn instance_lock(instance: &InstanceId) -> PathBuf {
    Path::new(instance.as_str()).join(LOCK)
}

fn same_file(fd: impl AsFd, other: rustix::io::Result<rustix::fs::Stat>) -> bool {
    match (rustix::fs::fstat(fd), other) {
        (Ok(a), Ok(b)) => a.st_dev == b.st_dev && a.st_ino == b.st_ino,
        _ => false,
    }
}

impl InstanceLock {
    /// The runtime directory of the instance; what is put there is removed with it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the supervisor listens.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Writes the record, replacing an older one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<(), StateError> {
        write_json(&self.dir, RECORD, record).map_err(StateError::std("write", &self.path.join(RECORD)))
    }

    /// Listens at the control socket, which only its owner can open; one that a crash left is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(&self) -> Result<UnixListener, StateError> {
        let path = self.socket_path();
        match rustix::fs::unlinkat(&self.dir, SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(StateError::io("remove", &path)(errno)),
        }
        let listener = if path.as_os_str().len() <= MAX_SOCKET_PATH {
            UnixListener::bind(&path)
        } else {
            // A deep runtime directory does not fit into a socket address; its descriptor's name does.
            UnixListener::bind(Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(SOCKET))
        };
        let listener = listener.map_err(StateError::std("listen at", &path))?;
        rustix::fs::chmodat(&self.dir, SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())
            .map_err(StateError::io("protect", &path))?;
        Ok(listener)
    }

    /// Removes the control socket: nobody can connect any more.
    pub(crate) fn remove_socket(&self) -> Result<(), StateError> {
        match rustix::fs::unlinkat(&self.dir, SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StateError::io("remove", &self.socket_path())(errno)),
        }
    }

    /// Removes the runtime directory with what is in it, and gives up the lock. Goes on after an error
    /// and returns the first.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), StateError> {
        let mut first = None;
        let mut keep = |error: StateError| {
            first.get_or_insert(error);
        };
        match entries(&self.dir) {
            Ok(names) => {
                // The record first: without it nobody takes the rest for the leftovers of a crash.
                let order = |name: &String| (name != RECORD, name == LOCK);
                let mut names = names;
                names.sort_by_key(order);
                for name in names {
                    match rustix::fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => keep(StateError::io("remove", &self.path.join(name))(errno)),
                    }
                }
            }
            Err(errno) => keep(StateError::io("read", &self.path)(errno)),
        }
        // Its name is below a directory that only we can write.
        match std::fs::remove_dir(&self.path) {
            Ok(()) => {}
            // Gone, or the next supervisor is moving in already.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(error) => keep(StateError::std("remove", &self.path)(error)),
        }
        first.map_or(Ok(()), Err)
    }
}

/// Makes the state directory of an instance, with its parents, and writes down whose it is.
///
/// # Errors
/// When it cannot be made, written or trusted.
pub fn prepare_state_dir(dir: &Path, instance: &InstanceId, root: &Path) -> Result<(), StateError> {
    let fd = private_dir(dir, 0o077)?;
    let identity = Identity { instance: instance.clone(), root: root.display().to_string() };
    if read_json::<Identity>(&fd, IDENTITY).as_ref() == Some(&identity) {
        return Ok(());
    }
    write_json(&fd, IDENTITY, &identity).map_err(StateError::std("write", &dir.join(IDENTITY)))
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    instance: InstanceId,
    root: String,
}

/// All instances of which something is there, in the order of their names: `runtime` and `state` are the
/// directories above those of the instances. What cannot be read is left out.
///
/// # Errors
/// When one of the two is there and cannot be read.
pub fn list(runtime: &Path, state: &Path) -> Result<Vec<InstanceRow>, StateError> {
    let mut rows = BTreeMap::new();
    for (dir, instance) in instances(state)? {
        let root = read_json::<Identity>(&dir, IDENTITY).map(|identity| identity.root);
        let row = InstanceRow { root, ..InstanceRow::new(instance.clone(), InstanceState::Stopped) };
        rows.insert(instance, row);
    }
    for (dir, instance) in instances(runtime)? {
        let record: Option<Record> = read_json(&dir, RECORD);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let locked = match rustix::fs::openat(&dir, LOCK, flags, Mode::empty()) {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
            Err(_) => false,
        };
        let state = match (locked, &record) {
            (true, _) => InstanceState::Running,
            (false, Some(_)) => InstanceState::Crashed,
            // It is being made or removed right now.
            (false, None) => continue,
        };
        let kept = rows.remove(&instance).and_then(|row: InstanceRow| row.root);
        let (root, pid) = record.map_or((kept, None), |record| (Some(record.root), Some(record.pid)));
        let pid = pid.filter(|_| locked);
        rows.insert(instance.clone(), InstanceRow { root, pid, ..InstanceRow::new(instance, state) });
    }
    Ok(rows.into_values().collect())
}

fn instances(base: &Path) -> Result<Vec<(OwnedFd, InstanceId)>, StateError> {
    let fd = match open_dir(rustix::fs::CWD, base) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(untrusted_or_io(base, errno)),
    };
    let names = entries(&fd).map_err(StateError::io("read", base))?;
    let open = |name: String| {
        let instance = InstanceId::from_dir_name(&name)?;
        let dir = open_dir(&fd, Path::new(&name)).ok()?;
        check_owner(&dir, base, 0o077).ok()?;
        Some((dir, instance))
    };
    Ok(names.into_iter().filter_map(open).collect())
}

fn entries(dir: &OwnedFd) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        // Nothing of ours has another name than an ASCII one.
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a directory that is ours, after making it where it is not there. `forbidden` are the bits that
/// its mode must not have.
fn private_dir(path: &Path, forbidden: u32) -> Result<OwnedFd, StateError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StateError::std("create", path))?;
    let dir = open_dir(rustix::fs::CWD, path).map_err(|errno| untrusted_or_io(path, errno))?;
    check_owner(&dir, path, forbidden)?;
    Ok(dir)
}

fn open_dir(base: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(base, name, flags, Mode::empty())
}

fn untrusted_or_io(path: &Path, errno: Errno) -> StateError {
    match errno {
        Errno::LOOP | Errno::NOTDIR => StateError::Untrusted {
            path: path.to_owned(),
            why: "is not a directory, or a symbolic link".to_owned(),
        },
        errno => StateError::io("open", path)(errno),
    }
}

fn check_owner(dir: &OwnedFd, path: &Path, forbidden: u32) -> Result<(), StateError> {
    let stat = rustix::fs::fstat(dir).map_err(StateError::io("look at", path))?;
    let untrusted = |why: String| Err(StateError::Untrusted { path: path.to_owned(), why });
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return untrusted(format!("belongs to user {}", stat.st_uid));
    }
    if stat.st_mode & forbidden != 0 {
        let mode = stat.st_mode & 0o7777;
        return untrusted(format!("can be used by others: its mode is {mode:04o} instead of 0700"));
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(dir: &OwnedFd, name: &str) -> Option<T> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?);
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write_json(dir: &OwnedFd, name: &str, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    write_atomically(dir.as_fd(), name, &text)
}

fn write_atomically(dir: BorrowedFd<'_>, name: &str, data: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
    let written =
        file.write_all(data).and_then(|()| Ok(rustix::fs::renameat(dir, temporary.as_str(), dir, name)?));
    if written.is_err() {
        // The error of the write is the one to tell.
        let _ = rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn instance() -> InstanceId {
        InstanceId::from_dir_name("shop-00000000").unwrap()
    }

    fn record() -> Record {
        Record {
            instance: instance(),
            root: "/src/shop".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 42,
            boot_id: boot_id(),
            started_at: Timestamp { unix_ms: 0 },
            attached: false,
        }
    }

    fn locked(runtime: &Path) -> (InstanceLock, Option<Record>) {
        match acquire(runtime, &instance()).unwrap() {
            Acquired::Locked { lock, crashed } => (lock, crashed),
            Acquired::Busy(record) => panic!("busy: {record:?}"),
        }
    }

    #[test]
    fn one_supervisor_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let runtime = temp.path().join("ws");
        let (lock, crashed) = locked(&runtime);
        assert_eq!(crashed, None);
        lock.write_record(&record()).unwrap();
        match acquire(&runtime, &instance()).unwrap() {
            Acquired::Busy(found) => assert_eq!(found, Some(record())),
            Acquired::Locked { .. } => panic!("locked twice"),
        }
        let mode = std::fs::metadata(lock.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        lock.remove().unwrap();
        assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 0);
    }

    #[test]
    fn a_crash_is_seen_by_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let (lock, _) = locked(temp.path());
        lock.write_record(&record()).unwrap();
        drop(lock);
        let rows = list(temp.path(), &temp.path().join("absent")).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].state, InstanceState::Crashed);
        assert_eq!(rows[0].pid, None, "the process is not there any more");
        let (lock, crashed) = locked(temp.path());
        assert_eq!(crashed, Some(record()));
        assert_eq!(list(temp.path(), temp.path()).unwrap()[0].state, InstanceState::Running);
        lock.remove().unwrap();
    }

    #[test]
    fn looking_does_not_keep_anybody_from_locking() {
        let temp = tempfile::tempdir().unwrap();
        let (lock, _) = locked(temp.path());
        drop(lock);
        // A reader that holds its shared lock while we try, and lets go a little later.
        let shared = File::open(temp.path().join(instance().as_str()).join(LOCK)).unwrap();
        rustix::fs::flock(&shared, FlockOperation::LockShared).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let locker = scope.spawn(|| {
                tell.send(()).unwrap();
                locked(temp.path())
            });
            told.recv().unwrap();
            drop(shared);
            drop(locker.join().unwrap());
        });
    }

    #[test]
    fn what_is_kept_is_listed() {
        let temp = tempfile::tempdir().unwrap();
        let state = temp.path().join("state");
        prepare_state_dir(&state.join(instance().as_str()), &instance(), Path::new("/src/shop")).unwrap();
        let rows = list(&temp.path().join("run"), &state).unwrap();
        let row = InstanceRow {
            root: Some("/src/shop".to_owned()),
            ..InstanceRow::new(instance(), InstanceState::Stopped)
        };
        assert_eq!(rows, [row]);
    }

    #[test]
    fn what_others_can_write_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let open = temp.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = acquire(&open, &instance()).unwrap_err();
        assert!(error.to_string().contains("can be used by others: its mode is 0777"), "{error}");

        let inner = temp.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::create_dir(inner.join(instance().as_str())).unwrap();
        std::fs::set_permissions(inner.join(instance().as_str()), std::fs::Permissions::from_mode(0o750))
            .unwrap();
        assert!(matches!(acquire(&inner, &instance()), Err(StateError::Untrusted { .. })));
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        std::fs::create_dir(&real).unwrap();
        symlink(&real, temp.path().join(instance().as_str())).unwrap();
        assert!(matches!(acquire(temp.path(), &instance()), Err(StateError::Untrusted { .. })));
        assert_eq!(std::fs::read_dir(&real).unwrap().count(), 0);

        // A link in the place of a file is replaced and never written through.
        let (lock, _) = locked(&temp.path().join("run"));
        let victim = temp.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        symlink(&victim, lock.path().join("record.json.new")).unwrap();
        lock.write_record(&record()).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn the_socket_is_private_and_may_lie_deep() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(90));
        for runtime in [temp.path().join("run"), deep] {
            let (lock, _) = locked(&runtime);
            for _ in 0..2 {
                let _listener = lock.listen().unwrap();
                let mode = std::fs::metadata(lock.socket_path()).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
            }
            lock.remove_socket().unwrap();
            assert!(!lock.socket_path().exists());
            lock.remove().unwrap();
        }
    }
}
