//! Ending what is in a directory and removing it, whoever made it: also the way back after a crash.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::group::wait_for;
use super::layout::Layout;
use super::{Error, Result, files};

/// How deep a hierarchy is searched: systemd and container engines stay below ten.
const MAX_DEPTH: usize = 24;
/// How often the processes of a directory without `cgroup.kill` are counted anew and killed.
const KILL_ROUNDS: usize = 200;

/// Every directory called `name` in the hierarchies that matter, the v2 one first.
#[must_use]
pub fn find(layout: &Layout, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for mount in layout.mounts() {
        search(mount, name, 0, &mut found);
    }
    found
}

fn search(dir: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    // What cannot be read (it is not ours, or went away) has nothing that we made.
    for child in children(dir).unwrap_or_default() {
        if child.file_name().is_some_and(|n| n == name) {
            found.push(child);
        } else if depth < MAX_DEPTH {
            search(&child, name, depth + 1, found);
        }
    }
}

/// Kills every process in a directory of [`find`] and removes it, with everything below.
///
/// # Errors
/// When processes are left after `within`, or a directory cannot be removed.
pub fn clear(dir: &Path, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    kill_below(dir, &[])?;
    remove_below(dir, deadline, within)
}

/// For every process in a directory and below it: how many process namespaces it is inside of, as seen
/// from here (1: none but ours).
#[must_use]
pub fn process_depths(dir: &Path) -> Vec<(u32, usize)> {
    let mut all = Vec::new();
    each_below(dir, &mut |dir| {
        for pid in members(dir).unwrap_or_default() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let depth = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            if let Some(depth) = depth {
                all.push((pid, depth.split_ascii_whitespace().count()));
            }
        }
    });
    all
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// Calls `f` with every directory below `dir`, children before parents, `dir` itself last.
fn each_below(dir: &Path, f: &mut dyn FnMut(&Path)) {
    for child in children(dir).unwrap_or_default() {
        each_below(&child, f);
    }
    f(dir);
}

fn members(dir: &Path) -> Result<Vec<u32>> {
    let text = files::read(dir, "cgroup.procs")?;
    // 0 stands for a process of another namespace, which has no number here.
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
}

/// Kills every process in `dir` and below, but those in `spare`.
pub(super) fn kill_below(dir: &Path, spare: &[u32]) -> Result<()> {
    if spare.is_empty() && dir.join("cgroup.kill").exists() {
        return match files::write(dir, "cgroup.kill", "1") {
            Err(error) if gone(&error) => Ok(()),
            other => other,
        };
    }
    kill_each_below(dir, spare)
}

/// As [`kill_below`], and leaves the directories as they were for later processes.
pub(super) fn kill_each_below(dir: &Path, spare: &[u32]) -> Result<()> {
    let mut dirs = Vec::new();
    each_below(dir, &mut |dir| dirs.push(dir.to_owned()));
    dirs.iter().try_for_each(|dir| kill_one_by_one(dir, spare))
}

/// v1, and v2 before Linux 5.14. Forks are stopped where they can be, so that the rounds end.
fn kill_one_by_one(dir: &Path, spare: &[u32]) -> Result<()> {
    let before = files::read(dir, "pids.max").ok();
    if before.is_some() {
        files::write(dir, "pids.max", "0")?;
    }
    let mut result = Ok(());
    for _ in 0..KILL_ROUNDS {
        match kill_round(dir, spare) {
            Ok(0) => break,
            // Dying takes the processes a moment; without it a round would find them all again.
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) if gone(&error) => break,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    match before {
        Some(limit) if dir.exists() => result.and(files::write(dir, "pids.max", &limit)),
        Some(_) | None => result,
    }
}

/// Kills what is in `dir` now; gives how many processes were there.
fn kill_round(dir: &Path, spare: &[u32]) -> Result<usize> {
    let handles: Vec<_> = members(dir)?
        .into_iter()
        .filter(|pid| !spare.contains(pid))
        .filter_map(|pid| {
            let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
            Some((pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
        })
        .collect();
    // A number that is a member after its handle was opened is the process of that handle, or one whose
    // handle is of a process that is dead: no other process can be hit.
    let still = members(dir)?;
    let mut hit = 0;
    for (pid, handle) in handles {
        if still.contains(&pid) {
            hit += 1;
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(Error::Write {
                        path: dir.to_owned(),
                        value: format!("SIGKILL to {pid}"),
                        source: error.into(),
                    });
                }
            }
        }
    }
    Ok(hit)
}

/// Removes `dir` and everything below it; what is busy is tried again until `deadline`.
pub(super) fn remove_below(dir: &Path, deadline: Instant, within: Duration) -> Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir).unwrap_or_default() {
        remove_below(&child, deadline, within)?;
    }
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut pause = Duration::from_micros(500);
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(Error::Remove { path: dir.to_owned(), source: error });
        }
        if left().is_zero() {
            return Err(match members(dir) {
                Ok(members) if !members.is_empty() => Error::Populated { path: dir.to_owned(), within },
                Ok(_) | Err(_) => Error::Remove { path: dir.to_owned(), source: error },
            });
        }
        // v2 tells when the last process is gone; v1, and the moment after, have to be asked again.
        let told = match wait_for(dir, "populated", false, pause.min(left())) {
            Ok(()) => false,
            Err(Error::Populated { .. }) => true,
            Err(_) => false,
        };
        if !told {
            std::thread::sleep(pause.min(left()));
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Whether the directory went away meanwhile.
fn gone(error: &Error) -> bool {
    match error {
        Error::Read { source, .. } | Error::Write { source, .. } => {
            source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_found_by_name_at_any_depth_and_not_inside_each_other() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["ws.a/ws.a", "x/y/ws.a", "x/ws.ab", "ws.b"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("x/ws.c"), "").unwrap();
        let mut found = Vec::new();
        search(root.path(), "ws.a", 0, &mut found);
        found.sort();
        assert_eq!(found, ["ws.a", "x/y/ws.a"].map(|dir| root.path().join(dir)));
    }

    #[test]
    fn removal_is_idempotent_and_goes_bottom_up() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ws.a");
        fs::create_dir_all(dir.join("api")).unwrap();
        fs::create_dir_all(dir.join("db/deeper")).unwrap();
        let deadline = Instant::now();
        remove_below(&dir, deadline, Duration::ZERO).unwrap();
        assert!(!dir.exists());
        remove_below(&dir, deadline, Duration::ZERO).unwrap();
    }
}
