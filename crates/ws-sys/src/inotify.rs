//! Being told when files are touched (inotify(7)).
//!
//! One instance can watch for many, and in other mount namespaces: the path is looked up by whoever adds the watch, and
//! instances are few (`fs.inotify.max_user_instances`, 128 for a user by default). So it goes by descriptor, and whoever
//! reads it tells watches apart by their numbers, of which none is used again soon.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// How many bytes a buffer for [`receive`] should have.
pub const BUFFER: usize = 16 << 10;

/// What was done with a file that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// It was opened or read. To look at its attributes is neither.
    Opened,
    /// It was written, or its attributes were changed, or another name for it was made or taken away.
    Changed,
    /// It was renamed.
    Moved,
    /// It was removed.
    Removed,
}

/// News of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The file was touched.
    Touched(i32, Touched),
    /// The watch is gone, with the file system or by itself.
    Gone(i32),
    /// There was more than the queue holds (`fs.inotify.max_queued_events`); how much, the kernel does not say.
    Lost,
}

/// A new instance, not blocking.
///
/// # Errors
/// `EMFILE` when the user has too many.
pub fn new() -> io::Result<OwnedFd> {
    Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
}

/// Watches a file for the first time that somebody touches it: then the watch is gone. Gives its number.
///
/// Only once, so that nobody fills the queue of the others by touching it again and again.
///
/// # Errors
/// When there is no such file, the caller may not read it, or the user has too many watches (`ENOSPC`).
pub fn watch_once(instance: BorrowedFd<'_>, file: &Path) -> io::Result<i32> {
    let touched = WatchFlags::OPEN
        | WatchFlags::ACCESS
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::MOVE_SELF
        | WatchFlags::DELETE_SELF;
    Ok(inotify::add_watch(instance, file, touched | WatchFlags::ONESHOT)?)
}

/// Watches a file for changes of its contents. Gives the watch's number.
///
/// # Errors
/// As [`watch_once`].
pub fn watch_contents(instance: BorrowedFd<'_>, file: &Path) -> io::Result<i32> {
    Ok(inotify::add_watch(instance, file, WatchFlags::MODIFY)?)
}

/// Takes a watch away. One that is gone already is what is wanted.
pub fn forget(instance: BorrowedFd<'_>, watch: i32) {
    let _ = inotify::remove_watch(instance, watch);
}

/// Reads what is there, without waiting.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when nothing is there.
pub fn receive(instance: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Vec<News>> {
    let mut reader = inotify::Reader::new(instance, buffer);
    let mut all = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => all.extend(news(event.wd(), event.events())),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // The rest is for the next read: one call must not go on for ever while somebody writes.
        if reader.is_buffer_empty() {
            return Ok(all);
        }
    }
}

fn news(watch: i32, events: ReadFlags) -> Option<News> {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(News::Lost);
    }
    if events.intersects(ReadFlags::IGNORED) {
        return Some(News::Gone(watch));
    }
    let touched = [
        (ReadFlags::OPEN | ReadFlags::ACCESS, Touched::Opened),
        (ReadFlags::MODIFY | ReadFlags::ATTRIB, Touched::Changed),
        (ReadFlags::MOVE_SELF, Touched::Moved),
        (ReadFlags::DELETE_SELF, Touched::Removed),
    ];
    let touched = touched.into_iter().find(|(bits, _)| events.intersects(*bits));
    // What is left is that the file system was unmounted, after which the watch is gone.
    touched.map(|(_, touched)| News::Touched(watch, touched))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn read(instance: &OwnedFd) -> Vec<News> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        match receive(instance.as_fd(), &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Vec::new(),
            news => news.unwrap(),
        }
    }

    #[test]
    fn a_file_is_told_once_however_often_it_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id_ed25519");
        std::fs::write(&path, "key").unwrap();
        let instance = new().unwrap();
        let watch = watch_once(instance.as_fd(), &path).unwrap();
        // Neither to look at it nor at its directory is to touch it.
        let listed: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!((listed.len(), std::fs::metadata(&path).unwrap().len()), (1, 3));
        let place = crate::mount::open_path(&path).unwrap();
        assert_eq!(read(&instance), []);
        for _ in 0..100 {
            std::fs::read(&path).unwrap();
        }
        assert_eq!(read(&instance), [News::Touched(watch, Touched::Opened), News::Gone(watch)]);
        assert_eq!(read(&instance), []);

        // By a descriptor that does not touch it, wherever its name is by now.
        let again =
            std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place)));
        type Act = fn(&Path);
        let acts: [(Touched, Act); 4] = [
            (Touched::Moved, |path| std::fs::rename(path, path.with_extension("x")).unwrap()),
            (Touched::Changed, |path| {
                std::fs::set_permissions(
                    path.with_extension("x"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o600),
                )
                .unwrap();
            }),
            (Touched::Opened, |path| {
                drop(std::fs::File::options().append(true).open(path.with_extension("x")));
            }),
            // The name that goes changes the file, which is still open.
            (Touched::Changed, |path| std::fs::remove_file(path.with_extension("x")).unwrap()),
        ];
        for (touched, act) in acts {
            let watch = watch_once(instance.as_fd(), &again).unwrap();
            act(&path);
            assert_eq!(read(&instance), [News::Touched(watch, touched), News::Gone(watch)], "{touched:?}");
        }
    }

    #[test]
    fn contents_are_told_as_often_as_they_change_and_a_watch_can_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.events");
        std::fs::write(&path, "oom_kill 0\n").unwrap();
        let instance = new().unwrap();
        let watch = watch_contents(instance.as_fd(), &path).unwrap();
        for _ in 0..2 {
            std::fs::write(&path, "oom_kill 1\n").unwrap();
            assert!(read(&instance).contains(&News::Touched(watch, Touched::Changed)));
        }
        forget(instance.as_fd(), watch);
        forget(instance.as_fd(), watch);
        assert_eq!(read(&instance), [News::Gone(watch)]);
        assert!(watch_once(instance.as_fd(), Path::new("/nowhere-at-all")).is_err());
    }
}
