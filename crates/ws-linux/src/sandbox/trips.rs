//! What init does about calls that the filter asks it about: refuses each, and tells the supervisor.
//!
//! The listener is init's, for three reasons. When it dies, so does everything that could call: the kernel kills the
//! whole pid namespace, so nothing ever goes on unheard. Its time is the service's own time, in the service's control
//! group: a service that calls a million times slows down itself. And it sees the caller, whom rootless nobody else may
//! look at.
//!
//! The first call of a kind is told at once, then what repeats it together, ten times a second at most: however many
//! there are, the supervisor hears a few messages.
//!
//! Executions are another matter ([`Executions`]): they are asked about only for a service that names its programs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ws_core::plan::PolicyPlan;
use ws_sys::process;
use ws_sys::scm::Channel;
use ws_sys::seccomp::{Listener, Notice};

use super::protocol::{self, Caller, Executions, FromInit, Trip, Tripped};

/// How long what repeats is gathered.
const GATHER: Duration = Duration::from_millis(100);
/// Kinds that are told apart at the same time. There are fewer calls; programs have any name.
const KINDS: usize = 128;
/// Calls that are answered before anything else is looked at.
const AT_ONCE: usize = 256;
/// The longest path (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;
/// How far up it is looked for whom a process comes from.
const LINEAGE: usize = 64;
/// How far up the parents of a caller are told.
const PARENTS: usize = 16;

/// The listener with what is not told yet.
#[derive(Debug)]
pub(super) struct Trips {
    listener: Listener,
    executions: Option<(PolicyPlan, bool)>,
    /// Processes that somebody asked for, who may execute what he likes, as what comes from them.
    guests: BTreeSet<u32>,
    kinds: BTreeMap<Tripped, Kind>,
    /// Calls for which there was no room.
    lost: u64,
}

#[derive(Debug)]
struct Kind {
    told_at: Instant,
    untold: u64,
}

impl Trips {
    pub(super) fn new(listener: Listener, executions: Option<&Executions>) -> Self {
        let executions = executions.map(policy);
        Self { listener, executions, guests: BTreeSet::new(), kinds: BTreeMap::new(), lost: 0 }
    }

    /// Other programs may be executed from now on.
    pub(super) fn change(&mut self, executions: &Executions) {
        // Where nothing is asked, this is never looked at.
        self.executions = Some(policy(executions));
    }

    /// A process is there that somebody asked for (`ws exec`).
    pub(super) fn welcome(&mut self, process: i32) {
        self.guests.insert(process.cast_unsigned());
    }

    /// A process is gone.
    pub(super) fn forget(&mut self, process: i32) {
        self.guests.remove(&process.cast_unsigned());
    }

    /// When there is something to tell.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.kinds.values().filter(|kind| kind.untold > 0);
        waiting.map(|kind| kind.told_at + GATHER).min()
    }

    /// Answers the calls that wait, once the listener is readable, and tells of them.
    pub(super) fn serve(&mut self, control: &Channel) {
        for _ in 0..AT_ONCE {
            // Its caller may have been killed meanwhile.
            if let Ok(notice) = self.listener.receive() {
                self.answer(&notice, control);
            }
            let none = Some(Instant::now());
            if process::poll_until(&[self.listener.as_fd()], none).is_ok_and(|ready| ready != [true]) {
                break;
            }
        }
    }

    fn answer(&mut self, notice: &Notice, control: &Channel) {
        if notice.is_execution() {
            self.answer_execution(notice, control);
            return;
        }
        // Who it is can be seen only while it waits; looked at only when it is told, since a flood must cost little.
        let (name, detail) = notice.words();
        let what = Tripped::Call { name: name.to_owned(), detail: detail.map(str::to_owned) };
        let caller = self.count(&what).then(|| self.caller(notice));
        // An error here would leave the caller waiting, which is no worse for it.
        let _ = self.listener.refuse(notice, nix::libc::EPERM);
        if let Some(caller) = caller {
            self.tell(what, caller, control);
        }
    }

    /// Lets go what may be executed, and what is not there. The rest is told, and refused where more is done about it
    /// than to tell it.
    fn answer_execution(&mut self, notice: &Notice, control: &Channel) {
        let Some((policy, refuse)) = &self.executions else {
            let _ = self.listener.let_execute(notice);
            return;
        };
        let program = program(notice).filter(|_| self.listener.still_waits(notice));
        let foreign = program.and_then(|program| foreign(policy, &program));
        let foreign = foreign.filter(|_| !self.is_ours_or_a_guests(notice.thread));
        let Some(foreign) = foreign else {
            let _ = self.listener.let_execute(notice);
            return;
        };
        let refuse = *refuse;
        let what = Tripped::Program { executable: foreign.to_string_lossy().into_owned(), refused: refuse };
        let caller = self.count(&what).then(|| self.caller(notice));
        let _ = match refuse {
            true => self.listener.refuse(notice, nix::libc::EACCES),
            false => self.listener.let_execute(notice),
        };
        if let Some(caller) = caller {
            self.tell(what, caller, control);
        }
    }

    /// Whether it is a process of init's that has not become its program yet, or comes from one that somebody asked for.
    fn is_ours_or_a_guests(&self, thread: u32) -> bool {
        let Some(mut status) = Status::of(thread) else { return false };
        if status.parent == 1 && executable(status.process) == executable(1) {
            return true;
        }
        for _ in 0..LINEAGE {
            if status.parent <= 1 {
                break;
            }
            let Some(parent) = Status::of(status.parent) else { return false };
            status = parent;
        }
        status.parent == 1 && self.guests.contains(&status.process)
    }

    /// Counts a call; `true` when it is to be told at once.
    fn count(&mut self, what: &Tripped) -> bool {
        let now = Instant::now();
        if let Some(kind) = self.kinds.get_mut(what) {
            kind.untold += 1;
            return kind.told_at + GATHER <= now;
        }
        if self.kinds.len() >= KINDS {
            self.kinds.retain(|_, kind| kind.untold > 0 || kind.told_at + GATHER > now);
        }
        if self.kinds.len() >= KINDS {
            self.lost += 1;
            return false;
        }
        self.kinds.insert(what.clone(), Kind { told_at: now, untold: 1 });
        true
    }

    /// Tells what has waited long enough.
    pub(super) fn flush(&mut self, control: &Channel) {
        self.flush_until(Instant::now(), control);
    }

    /// Tells all that is not told yet: init ends.
    pub(super) fn finish(&mut self, control: &Channel) {
        self.flush_until(Instant::now() + GATHER, control);
    }

    fn flush_until(&mut self, moment: Instant, control: &Channel) {
        let due = self.kinds.iter().filter(|(_, kind)| kind.untold > 0 && kind.told_at + GATHER <= moment);
        let due: Vec<Tripped> = due.map(|(what, _)| what.clone()).collect();
        for what in due {
            self.tell(what, (Caller::default(), None), control);
        }
    }

    fn tell(&mut self, what: Tripped, (caller, pidfd): (Caller, Option<OwnedFd>), control: &Channel) {
        let Some(kind) = self.kinds.get_mut(&what) else { return };
        kind.told_at = Instant::now();
        let count = std::mem::take(&mut kind.untold).max(1);
        let trip = Trip { what, caller, count, lost: std::mem::take(&mut self.lost) };
        // When nobody hears it, the next poll says so.
        let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
        let _ = protocol::send(control.as_fd(), &FromInit::Tripped(trip), &fds);
    }

    /// Who calls, as far as it can be seen, with its pidfd.
    fn caller(&self, notice: &Notice) -> (Caller, Option<OwnedFd>) {
        let Some(status) = Status::of(notice.thread) else { return (Caller::default(), None) };
        let pidfd = i32::try_from(status.process).ok().and_then(|pid| process::pidfd_of_child(pid).ok());
        let mut caller = Caller { executable: executable(status.process), parents: Vec::new() };
        let mut parent = status.parent;
        while parent > 1 && caller.parents.len() < PARENTS {
            let Some(status) = Status::of(parent) else { break };
            caller.parents.extend(executable(parent));
            parent = status.parent;
        }
        // Else it was somebody else's number by then.
        if self.listener.still_waits(notice) { (caller, pidfd) } else { (Caller::default(), None) }
    }
}

/// The programs that may be executed, and whether others are refused.
fn policy(Executions { allowed, refuse }: &Executions) -> (PolicyPlan, bool) {
    (PolicyPlan { processes: Some(allowed.clone()), ..PolicyPlan::default() }, *refuse)
}

impl AsFd for Trips {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The process of a thread, and its parent.
struct Status {
    process: u32,
    parent: u32,
}

impl Status {
    fn of(thread: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Some(Self { process: field("Tgid:")?, parent: field("PPid:")? })
    }
}

fn executable(process: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
    Some(path.to_string_lossy().into_owned())
}

/// What a program is called that may not be executed; `None` for one that may, and for what is no program.
fn foreign(policy: &PolicyPlan, program: &Path) -> Option<PathBuf> {
    match program.canonicalize() {
        Ok(resolved) => {
            let may = policy.may_execute(program) || policy.may_execute(&resolved);
            // What is no file that can be executed is refused by the kernel, with an error of its own.
            (!may && is_program(&resolved)).then_some(resolved)
        }
        // There is something, and it has no path: a file that was removed, or never had a name (memfd_create(2)).
        Err(_) if program.symlink_metadata().is_ok() => {
            let named = std::fs::read_link(program).unwrap_or_else(|_| program.to_path_buf());
            (!policy.may_execute(&named)).then_some(named)
        }
        Err(_) => None,
    }
}

/// A path that means another process to another reader, as the caller means it.
fn as_the_caller_means_it(path: PathBuf, thread: u32) -> PathBuf {
    let of_caller = PathBuf::from(format!("/proc/{thread}"));
    for (own, there) in [
        ("/proc/self", of_caller.clone()),
        ("/proc/thread-self", of_caller.clone()),
        ("/dev/fd", of_caller.join("fd")),
    ] {
        if let Ok(rest) = path.strip_prefix(own) {
            return there.join(rest);
        }
    }
    path
}

/// What a call of execve(2) or execveat(2) names, as an absolute path; `None` when that cannot be read.
fn program(notice: &Notice) -> Option<PathBuf> {
    let [first, second, ..] = notice.args;
    let thread = notice.thread;
    let link = |name: &str| std::fs::read_link(format!("/proc/{thread}/{name}")).ok();
    if notice.call == nix::libc::SYS_execve {
        return Some(as_the_caller_means_it(link("cwd")?.join(text_at(thread, first)?), thread));
    }
    let path = text_at(thread, second)?;
    if path.is_absolute() {
        return Some(as_the_caller_means_it(path, thread));
    }
    // The kernel looks at 32 bits of a descriptor's number.
    let directory = first as u32 as i32;
    let base = match directory {
        nix::libc::AT_FDCWD => link("cwd")?,
        // Without a name it is the descriptor's own file.
        descriptor if path.as_os_str().is_empty() => {
            return Some(PathBuf::from(format!("/proc/{thread}/fd/{descriptor}")));
        }
        descriptor => link(&format!("fd/{descriptor}"))?,
    };
    Some(base.join(path))
}

/// The text at an address of a thread's memory.
fn text_at(thread: u32, address: u64) -> Option<PathBuf> {
    let memory = std::fs::File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut text = Vec::new();
    // Piece by piece, and none over the border of a page: the next one may not be there.
    const PAGE: usize = 4096;
    while text.len() < LONGEST_PATH {
        let at = address.checked_add(text.len() as u64)?;
        let within = PAGE - (at % PAGE as u64) as usize;
        let mut piece = vec![0; within.min(LONGEST_PATH)];
        let read = match memory.read_at(&mut piece, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return None,
            Ok(read) => read,
        };
        let piece = piece.get(..read)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(piece.get(..end)?);
            return Some(PathBuf::from(OsString::from_vec(text)));
        }
        text.extend_from_slice(piece);
    }
    None
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_what_they_are_and_not_by_what_they_are_called() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let at = |name: &str| dir.join(name);
        for name in ["tool", "data", "gone"] {
            std::fs::write(at(name), "").unwrap();
            let mode = if name == "data" { 0o644 } else { 0o755 };
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink(at("tool"), at("link")).unwrap();
        let open = std::fs::File::open(at("gone")).unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        let of_no_name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        let allowing = |program: &Path| PolicyPlan {
            processes: Some(vec![program.display().to_string()]),
            ..PolicyPlan::default()
        };
        let none = allowing(Path::new("/none"));
        for (program, told) in [
            (at("tool"), Some(at("tool"))),
            (at("link"), Some(at("tool"))),
            (at("data"), None),
            (at("nowhere"), None),
            (dir.clone(), None),
            (PathBuf::from(&of_no_name), Some(PathBuf::from(format!("{} (deleted)", at("gone").display())))),
        ] {
            assert_eq!(foreign(&none, &program), told, "{}", program.display());
        }
        for (allowed, program) in [("tool", "tool"), ("tool", "link"), ("link", "link")] {
            assert_eq!(foreign(&allowing(&at(allowed)), &at(program)), None, "{allowed} {program}");
        }
        assert_eq!(foreign(&allowing(&at("link")), &at("tool")), Some(at("tool")));
        for (path, meant) in [
            ("/proc/self/exe", "/proc/7/exe"),
            ("/proc/thread-self/fd/3", "/proc/7/fd/3"),
            ("/dev/fd/3", "/proc/7/fd/3"),
            ("/proc/1/exe", "/proc/1/exe"),
            ("/usr/bin/node", "/usr/bin/node"),
        ] {
            assert_eq!(as_the_caller_means_it(path.into(), 7), Path::new(meant));
        }
    }

    #[test]
    fn a_text_is_read_where_it_is_and_not_beyond() {
        let thread = nix::unistd::gettid().as_raw().cast_unsigned();
        let read = |text: &[u8]| text_at(thread, text.as_ptr() as u64);
        assert_eq!(read(b"/bin/ls\0rest"), Some(PathBuf::from("/bin/ls")));
        assert_eq!(read(b"\0"), Some(PathBuf::new()));
        let long = vec![b'a'; 3 * LONGEST_PATH];
        assert_eq!(read(&long), None);
        for address in [0, 1, u64::MAX] {
            assert_eq!(text_at(thread, address), None);
        }
    }
}
