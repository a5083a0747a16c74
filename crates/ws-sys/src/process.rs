//! Processes: creation with namespaces and a pidfd, waiting, signals, and what a process says of itself.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// What a new process gets (clone(2), `CLONE_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// A new user namespace.
    pub user: bool,
    /// A new mount namespace.
    pub mount: bool,
    /// A new pid namespace, in which it is process 1.
    pub pid: bool,
    /// A new network namespace.
    pub net: bool,
    /// A new host name.
    pub uts: bool,
    /// New System V IPC and message queues.
    pub ipc: bool,
    /// A new cgroup namespace.
    pub cgroup: bool,
}

impl Namespaces {
    fn flags(self) -> u64 {
        let bits = [
            (self.user, libc::CLONE_NEWUSER),
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.net, libc::CLONE_NEWNET),
            (self.uts, libc::CLONE_NEWUTS),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.cgroup, libc::CLONE_NEWCGROUP),
        ];
        bits.iter().filter(|(wanted, _)| *wanted).map(|(_, bit)| u64::from(bit.cast_unsigned())).sum()
    }
}

/// How a process is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneOptions<'a> {
    /// Its new namespaces.
    pub namespaces: Namespaces,
    /// Whether it becomes a child of the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
    /// The cgroup v2 directory in which it starts (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// In which process [`clone`] returned.
#[derive(Debug)]
pub enum Forked {
    /// In the caller.
    Parent {
        /// The new process, in the caller's pid namespace.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// In the new process.
    Child,
}

/// `struct clone_args` of linux/sched.h (version 2, 88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// How many threads this process has.
///
/// # Errors
/// When /proc is not there.
fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Makes a process that continues from here, with its own copy of memory (clone3(2) without `CLONE_VM`).
///
/// # Errors
/// What clone3 gives; `EBUSY` (as [`io::ErrorKind::ResourceBusy`]) when the caller has more than one
/// thread: the child of a threaded process could deadlock in the allocator.
pub fn clone(options: &CloneOptions<'_>) -> io::Result<Forked> {
    if threads()? != 1 {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a process with threads must not fork"));
    }
    clone_single_threaded(options)
}

/// As [`clone`], for processes that are known to be single-threaded and may have no /proc.
///
/// # Errors
/// What clone3 gives.
pub fn clone_single_threaded(options: &CloneOptions<'_>) -> io::Result<Forked> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_PARENT: u64 = 0x8000;
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: options.namespaces.flags() | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        // With CLONE_PARENT the exit signal is inherited and must be given as 0.
        exit_signal: if options.sibling { 0 } else { u64::from(libc::SIGCHLD.cast_unsigned()) },
        ..CloneArgs::default()
    };
    if options.sibling {
        args.flags |= CLONE_PARENT;
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` has the layout and size of the kernel's struct and, with `pidfd`, outlives the call.
    // Without CLONE_VM the child has its own copy of memory and continues on its copy of this stack. The
    // callers are single-threaded (checked in `clone`, by construction in launchers), so no lock of libc is
    // held by a thread that the child does not have.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        // SAFETY: the kernel has stored a new descriptor there that nobody else knows.
        pid => Ok(Forked::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Makes a child by the ancient fork(2): for a process whose seccomp filter hides clone3.
///
/// # Errors
/// When the process limit is reached.
pub fn fork_single_threaded() -> io::Result<Option<i32>> {
    // SAFETY: the caller is single-threaded (`ws-init`), so the child may do what it likes.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Opens a pidfd of a child that was not waited for yet.
///
/// # Errors
/// When there is no such process.
pub fn pidfd_of_child(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends a signal through a pidfd. A process that has ended already is no error.
///
/// # Errors
/// When the caller may not signal it, or the signal does not exist.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers and a null pointer, which the call allows for its `siginfo`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// Takes a child's status by its pidfd without waiting; `None` while it runs.
///
/// # Errors
/// When it is not a child of the caller (`ECHILD`).
pub fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // The exit signal of a process made with CLONE_PARENT is its maker's; `__WALL` takes either.
    let status = waitid(WaitId::PidFd(pidfd), options | WaitIdOptions::from_bits_retain(0x4000_0000))?;
    Ok(status.map(|status| match status.exit_status() {
        Some(code) => Ended::Code(code),
        None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
    }))
}

/// Takes the status of any child that has ended; `None` when none has or there is none.
#[must_use]
pub fn reap_any() -> Option<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if pid <= 0 {
        return None;
    }
    let ended = if libc::WIFEXITED(status) {
        Ended::Code(libc::WEXITSTATUS(status))
    } else {
        Ended::Signal(libc::WTERMSIG(status))
    };
    Some((pid, ended))
}

/// Ends the process at once, without running anything of its memory's copy of the parent (atexit handlers,
/// buffers).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Executes `program`. Returns only on failure.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(program, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

/// Closes every descriptor from `first` on (close_range(2)).
///
/// # Errors
/// When the kernel has no close_range (before 5.9).
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the callers are processes that have just been forked; what is closed here belongs to values
    // of the parent whose copies in this process are never used again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from 3 on but those in `keep`.
///
/// # Errors
/// When the kernel has no close_range (before 5.9).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut raw: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    raw.sort_unstable();
    let mut first: u32 = 3;
    for fd in raw {
        let fd = fd.cast_unsigned();
        if fd > first {
            // SAFETY: as in `close_from`; the descriptors that are still used were given in `keep`.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(fd + 1);
    }
    close_from(first.cast_signed())
}

/// Sets what a process shows as its command line and environment: overwrites both in place.
///
/// Whoever reads /proc/PID/cmdline or /proc/PID/environ of this process then learns nothing of what it
/// inherited. `name` also becomes the short name (`comm`).
///
/// # Errors
/// When /proc/self/stat cannot be read.
pub fn hide_arguments(name: &str) -> io::Result<()> {
    let comm = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    rustix::thread::set_name(&comm)?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field may contain anything; what follows its last `)` is numbers. proc_pid_stat(5):
    // 48 arg_start, 49 arg_end, 50 env_start, 51 env_end.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field =
        |n: usize| rest.split_ascii_whitespace().nth(n - 3).and_then(|text| text.parse::<usize>().ok());
    let range = |start: usize, end: usize| match (field(start), field(end)) {
        (Some(start), Some(end)) if start != 0 && start <= end => Some((start, end - start)),
        _ => None,
    };
    if let Some((start, length)) = range(50, 51) {
        // SAFETY: the kernel says that this range holds the initial environment, which lies in the
        // writable stack of this process. Nobody reads it afterwards: the environment is not used in the
        // processes that call this, and a reader would find empty strings.
        unsafe { std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(start), 0, length) };
    }
    if let Some((start, length)) = range(48, 49) {
        let target = std::ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: as above, for the initial arguments.
        unsafe { std::ptr::write_bytes(target, 0, length) };
        let shown = name.len().min(length.saturating_sub(1));
        // SAFETY: `shown` is below the length of the range, and `name` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), target, shown) };
    }
    Ok(())
}

/// Whether other processes of the same user may look into this one (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// Never on Linux, in practice.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let behavior = if dumpable { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(set_dumpable_behavior(behavior)?)
}

/// Becomes user `uid` and group `gid` with no supplementary groups (`drop_groups`), of this thread's process.
///
/// # Errors
/// When the ids are not mapped or the caller lacks `CAP_SETUID`, `CAP_SETGID`.
pub fn become_ids(uid: u32, gid: u32, drop_groups: bool) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    if drop_groups {
        setgroups(&[])?;
    }
    let gid = Gid::from_raw(gid);
    setresgid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Enters new namespaces of the given kinds (unshare(2)).
///
/// # Errors
/// What unshare gives: `EPERM` without rights or by a security module, `ENOSPC` at a limit.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    let flags = nix::sched::CloneFlags::from_bits_retain((namespaces.flags() as u32).cast_signed());
    Ok(nix::sched::unshare(flags)?)
}

/// Enters the network namespace behind `fd` (this thread only).
///
/// # Errors
/// When the caller has no `CAP_SYS_ADMIN` in the namespace's owner and in its own.
pub fn enter_net(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::sched::setns(fd, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

/// A memfd with these contents, positioned at its start.
///
/// # Errors
/// When memory or descriptors run out.
pub fn memfd_with(name: &CStr, contents: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(contents)?;
    file.rewind()?;
    Ok(file.into())
}

/// Waits until one of `fds` is readable or hung up; tells which. No time limit.
///
/// # Errors
/// What poll gives.
pub fn poll_readable(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    poll_until(fds, None)
}

/// As [`poll_readable`], but only until `deadline`: then none of them is said to be readable.
///
/// # Errors
/// What poll gives.
pub fn poll_until(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<Vec<bool>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        let (timeout, last) = match deadline {
            None => (PollTimeout::NONE, false),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, lest the last part of a millisecond be spent in a busy loop.
                let millis = left.as_nanos().div_ceil(1_000_000);
                let millis = i32::try_from(millis).unwrap_or(i32::MAX);
                (PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX), left.is_zero())
            }
        };
        match poll(&mut polled, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if !last => {}
            Ok(_) => return Ok(polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()),
        }
    }
}

/// Blocks `SIGCHLD` and gives a descriptor that is readable when a child ended.
///
/// # Errors
/// When descriptors run out.
pub fn child_signal_fd() -> io::Result<OwnedFd> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // A `SignalFd` has no way out but by copy.
    fd.as_fd().try_clone_to_owned()
}

/// Takes all signals back to their defaults and unblocks them: a service starts like any program.
///
/// # Errors
/// Never on Linux, in practice.
pub fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || signal == 32 || signal == 33 {
            continue;
        }
        // SAFETY: `SIG_DFL` is a valid disposition of every signal; no handler of ours is in use in the
        // process, which is about to execute another program.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Makes descriptors 0, 1 and 2 copies of these.
///
/// # Errors
/// When a descriptor is not open.
pub fn set_stdio(stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
    // First out of the way of 0, 1 and 2, so that no step overwrites the source of a later one.
    let lift = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 10);
    let (stdin, stdout, stderr) = (lift(stdin)?, lift(stdout)?, lift(stderr)?);
    rustix::stdio::dup2_stdin(&stdin)?;
    rustix::stdio::dup2_stdout(&stdout)?;
    rustix::stdio::dup2_stderr(&stderr)?;
    Ok(())
}

/// Makes descriptors 3, 4, … copies of `fds`, in order, that stay open over an exec, and closes all others from there on
/// but `keep`, whose number must be above theirs.
///
/// For a process that is about to execute a program: what had these numbers is overwritten.
///
/// # Errors
/// When descriptors run out; [`io::ErrorKind::InvalidInput`] when `keep` is in the way.
pub fn pass_descriptors(fds: &[BorrowedFd<'_>], keep: BorrowedFd<'_>) -> io::Result<()> {
    let end = first_not_passed(fds.len())?;
    if keep.as_raw_fd() < end {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // First out of the way, so that no step overwrites the source of a later one.
    let lifted: Vec<OwnedFd> =
        fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, end)).collect::<Result<_, _>>()?;
    for (number, fd) in (3..end).zip(&lifted) {
        // SAFETY: plain integers. What had the number belongs to values of this process, which is about to execute
        // another program, that are never used again (the callers are processes that have just been forked).
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    drop(lifted);
    let (end, keep) = (end.cast_unsigned(), keep.as_raw_fd().cast_unsigned());
    if end < keep {
        // SAFETY: as in `close_from`; what is still used is below, or `keep`.
        let result = unsafe { libc::syscall(libc::SYS_close_range, end, keep - 1, 0) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    close_from((keep + 1).cast_signed())
}

/// As `fd`, with a number that is above those of as many descriptors of [`pass_descriptors`].
///
/// # Errors
/// When descriptors run out.
pub fn above_passed(fd: BorrowedFd<'_>, count: usize) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, first_not_passed(count)?)?)
}

fn first_not_passed(count: usize) -> io::Result<RawFd> {
    count
        .checked_add(3)
        .and_then(|end| RawFd::try_from(end).ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Makes the terminal at descriptor 0 the controlling one of this session (ioctl_tty(2), `TIOCSCTTY`).
///
/// # Errors
/// When descriptor 0 is no terminal or the process leads no session.
pub fn take_terminal() -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}

/// The host's process id behind a pidfd, as /proc/self/fdinfo tells it; `None` when it has ended.
///
/// # Errors
/// When /proc is not there.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map_or("", str::trim);
    Ok(pid.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_poll_ends_at_its_deadline_or_with_what_there_is_to_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (silent, _held) = io::pipe().unwrap();
        let fds = [silent.as_fd(), reader.as_fd()];
        // One that is over, and one that comes.
        let now = Instant::now();
        for deadline in [now, now + Duration::from_millis(2)] {
            assert_eq!(poll_until(&fds, Some(deadline)).unwrap(), [false, false]);
            assert!(Instant::now() >= deadline);
        }
        writer.write_all(b"x").unwrap();
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!(poll_until(&fds, Some(later)).unwrap(), [false, true]);
        assert_eq!(poll_until(&fds, Some(now)).unwrap(), [false, true]);
        assert_eq!(poll_readable(&fds).unwrap(), [false, true]);
    }
}
