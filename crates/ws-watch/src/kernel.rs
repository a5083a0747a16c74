//! The seam to the kernel: who tells of changes in a directory, and where nobody does.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use notify::event::{ModifyKind, RenameMode};
use notify::{ErrorKind, EventKind, RecursiveMode, Watcher as _};

/// What the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Something is at this path that was not there, or something else.
    Appeared(PathBuf),
    /// What was at this path is not there any more.
    Gone(PathBuf),
    /// It may have other contents, or another mode.
    Touched(PathBuf),
    /// It could not tell everything.
    Lost,
}

/// Where it tells. Called from a thread of the watcher; never blocks.
pub(crate) type Tell = Box<dyn Fn(Told) + Send>;

/// Why a directory cannot be watched.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is not there.
    Absent,
    /// There are no more watches for this user.
    Watches,
    /// There are no more watchers for this user.
    Instances,
    /// This process has no descriptors left.
    Descriptors,
    /// Something else.
    Other(String),
}

/// The kernel.
pub(crate) trait Kernel: Send {
    /// A watcher, which watches nothing yet.
    fn open(&mut self, tell: Tell) -> Result<Box<dyn Watches>, Refused>;

    /// What kind of file system this is, if changes on it can be made where this kernel does not see them.
    fn blind(&self, path: &Path) -> Option<&'static str>;
}

/// Directories that are watched, not what is below them.
pub(crate) trait Watches: Send {
    /// Watches a directory; again if it is already.
    fn watch(&mut self, directory: &Path) -> Result<(), Refused>;

    /// Does not watch it any more, if it is watched.
    fn unwatch(&mut self, directory: &Path);
}

/// inotify(7), and what `notify` has elsewhere.
#[derive(Debug)]
pub(crate) struct Real;

impl Kernel for Real {
    fn open(&mut self, tell: Tell) -> Result<Box<dyn Watches>, Refused> {
        let handler = move |event: notify::Result<notify::Event>| told(event, &tell);
        match notify::recommended_watcher(handler) {
            Ok(watcher) => Ok(Box::new(Directories { watcher })),
            Err(error) => Err(refused(error, true)),
        }
    }

    fn blind(&self, path: &Path) -> Option<&'static str> {
        blind(path)
    }
}

struct Directories {
    watcher: notify::RecommendedWatcher,
}

impl fmt::Debug for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directories")
    }
}

impl Watches for Directories {
    fn watch(&mut self, directory: &Path) -> Result<(), Refused> {
        self.watcher.watch(directory, RecursiveMode::NonRecursive).map_err(|error| refused(error, false))
    }

    fn unwatch(&mut self, directory: &Path) {
        // It may be gone, and its watch with it.
        let _ = self.watcher.unwatch(directory);
    }
}

/// Passes on what is news. Who only reads is none, and there are many of them: compilers, and ourselves.
fn told(event: notify::Result<notify::Event>, tell: &Tell) {
    let Ok(event) = event else { return tell(Told::Lost) };
    if event.need_rescan() {
        return tell(Told::Lost);
    }
    let each: fn(PathBuf) -> Told = match event.kind {
        // Both halves of a rename are told alone before.
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Told::Appeared,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Told::Gone,
        EventKind::Modify(ModifyKind::Name(RenameMode::Any | RenameMode::Other)) => Told::Appeared,
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Told::Touched,
    };
    event.paths.into_iter().map(each).for_each(tell);
}

fn refused(error: notify::Error, opening: bool) -> Refused {
    match error.kind {
        ErrorKind::PathNotFound => Refused::Absent,
        ErrorKind::MaxFilesWatch => Refused::Watches,
        ErrorKind::Io(error) => {
            let errno = rustix::io::Errno::from_io_error(&error);
            match errno {
                Some(rustix::io::Errno::NOSPC) => Refused::Watches,
                // inotify_init(2) says the same of both.
                Some(rustix::io::Errno::MFILE) if opening && descriptors_left() => Refused::Instances,
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Refused::Descriptors,
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Refused::Absent,
                _ => Refused::Other(error.to_string()),
            }
        }
        ErrorKind::Generic(text) => Refused::Other(text),
        ErrorKind::WatchNotFound | ErrorKind::InvalidConfig(_) => {
            Refused::Other("the watcher is in disorder".to_owned())
        }
    }
}

fn descriptors_left() -> bool {
    match std::fs::File::open("/dev/null") {
        Ok(_) => true,
        Err(error) => {
            rustix::io::Errno::from_io_error(&error) != Some(rustix::io::Errno::MFILE)
                && error.kind() != io::ErrorKind::OutOfMemory
        }
    }
}

/// File systems on which others write too: a server, the host of a virtual machine, a daemon. The numbers are those of
/// statfs(2) and linux/magic.h.
#[cfg(target_os = "linux")]
fn blind(path: &Path) -> Option<&'static str> {
    const BLIND: &[(u32, &str)] = &[
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x786F_4256, "vboxsf"),
        (0xBACB_ACBC, "vmhgfs"),
        (0x7C7C_6673, "prl_fs"),
        (0x5346_414F, "AFS"),
        (0x6B41_4653, "AFS"),
        (0x00C3_6400, "Ceph"),
        (0x7375_7245, "Coda"),
        (0x0BD0_0BD0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x0116_1970, "GFS2"),
        (0x7461_636F, "OCFS2"),
    ];
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    // Signed or not, 32 or 64 bits wide: by architecture. All magic numbers have 32 bits.
    let kind = u32::try_from(i128::from(kind) & 0xFFFF_FFFF).ok()?;
    BLIND.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
fn blind(_: &Path) -> Option<&'static str> {
    None
}

/// What cannot be had, and what to do about it; `needed`: how many directories there are.
pub(crate) fn advice(refused: &Refused, needed: usize) -> String {
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{file}")).ok()?.trim().parse().ok()
    };
    match refused {
        Refused::Watches => {
            let allowed = number("max_user_watches").unwrap_or(0);
            let enough = (allowed.saturating_mul(2)).max(524_288).max(needed as u64 * 4);
            format!(
                "there are no inotify watches left: {needed} directories are to be watched, and a user may have \
                 {allowed} in all programs together (`sudo sysctl fs.inotify.max_user_watches={enough}` allows more)"
            )
        }
        Refused::Instances => {
            let allowed = number("max_user_instances").unwrap_or(0);
            let enough = allowed.saturating_mul(2).max(1024);
            format!(
                "there are no inotify instances left: a user may have {allowed} in all programs together \
                 (`sudo sysctl fs.inotify.max_user_instances={enough}` allows more)"
            )
        }
        Refused::Descriptors => {
            "this process has no descriptors left for watching files (`ulimit -n` is too low)".to_owned()
        }
        Refused::Absent => "what is to be watched is gone".to_owned(),
        Refused::Other(text) => format!("files cannot be watched: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_has_the_numbers_and_the_cure() {
        let watches = advice(&Refused::Watches, 2_553);
        assert!(watches.contains("2553 directories"), "{watches}");
        assert!(watches.contains("sysctl fs.inotify.max_user_watches="), "{watches}");
        let instances = advice(&Refused::Instances, 1);
        assert!(instances.contains("sysctl fs.inotify.max_user_instances="), "{instances}");
    }

    #[test]
    fn reading_is_no_news() {
        use notify::event::{AccessKind, AccessMode, Event};
        let (send, receive) = std::sync::mpsc::channel();
        let tell: Tell = Box::new(move |told| send.send(told).unwrap());
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        told(Ok(Event::new(open).add_path("/a".into())), &tell);
        told(Err(notify::Error::generic("lost")), &tell);
        assert_eq!(receive.try_recv(), Ok(Told::Lost));
        assert!(receive.try_recv().is_err());
    }

    #[test]
    fn a_local_file_system_is_seen() {
        assert_eq!(blind(Path::new("/proc")), None);
    }
}
