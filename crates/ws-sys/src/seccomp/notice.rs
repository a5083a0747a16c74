//! The calls that the filter asks about (seccomp_unotify(2)), and the listener that answers.
//!
//! What is asked about here is never of use to a service, so it is always answered with an error, whatever its
//! arguments: nothing is decided by what a pointer shows, which its owner could change meanwhile. The one exception
//! are executions ([`Filter::install`](super::Filter::install) with `executions`), which somebody else enforces: the
//! listener is there to tell them.
//!
//! When the listener is closed, the kernel answers with `ENOSYS`: nothing becomes possible by that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::{ALL, CLONE_NEW, low, rule};

/// Requests of ioctl(2) that type into a terminal for somebody else, or into its selection.
const TYPING: [u64; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];

/// Families of sockets that go past every rule: whole frames, and the machine below this one.
pub(super) const BESIDE: [i32; 2] = [libc::AF_PACKET, libc::AF_VSOCK];

/// All bits of [`CLONE_NEW`].
pub(super) fn namespaces() -> u64 {
    CLONE_NEW.into_iter().fold(0, |all, bit| all | u64::from(bit.cast_unsigned()))
}

/// The calls that are asked about, with their conditions; an empty list: any arguments.
///
/// None that a benign program tries just to see whether it works: not `io_uring_setup`, `clone3` and `openat2` (they
/// get `ENOSYS`), nor `perf_event_open`, `name_to_handle_at`, `adjtimex`, `syslog`, `quotactl` (they get `EPERM` from
/// the kernel alone).
pub(super) fn tripwires() -> io::Result<Vec<(i64, Vec<SeccompRule>)>> {
    let mut calls: Vec<(i64, Vec<SeccompRule>)> =
        whole().into_iter().map(|(call, _)| (call, vec![])).collect();
    let mut of_namespaces = Vec::new();
    for bit in CLONE_NEW.into_iter().filter(|bit| *bit != 0) {
        let bit = u64::from(bit.cast_unsigned());
        of_namespaces.push(rule(vec![low(0, bit, bit)?])?);
    }
    calls.push((libc::SYS_clone, of_namespaces.clone()));
    // Without one of these bits it changes nothing but the process itself, and some libraries do that.
    calls.push((libc::SYS_unshare, of_namespaces));
    // Not PTRACE_TRACEME (0), by which a program looks whether it is debugged.
    let of_others = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0);
    calls.push((libc::SYS_ptrace, vec![rule(vec![of_others.map_err(io::Error::other)?])?]));
    let mut sockets = Vec::new();
    for family in BESIDE {
        sockets.push(rule(vec![low(0, ALL, u64::from(family.cast_unsigned()))?])?);
    }
    sockets.extend(raw_sockets()?);
    calls.push((libc::SYS_socket, sockets));
    let mut typing = Vec::new();
    for request in TYPING {
        typing.push(rule(vec![low(1, ALL, request)?])?);
    }
    calls.push((libc::SYS_ioctl, typing));
    Ok(calls)
}

/// socket(2) for whole IP packets.
pub(super) fn raw_sockets() -> io::Result<Vec<SeccompRule>> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_RAW, super::SOCK_PACKET] {
            rules.push(rule(vec![
                low(0, ALL, u64::from(family.cast_unsigned()))?,
                low(1, 0xf, u64::from(kind.cast_unsigned()))?,
            ])?);
        }
    }
    Ok(rules)
}

/// The calls that are asked about whatever their arguments are, by name.
pub(super) fn whole() -> Vec<(i64, &'static str)> {
    let mut calls = vec![
        (libc::SYS_setns, "setns"),
        (libc::SYS_mount, "mount"),
        (libc::SYS_umount2, "umount2"),
        (libc::SYS_pivot_root, "pivot_root"),
        (libc::SYS_chroot, "chroot"),
        (libc::SYS_open_tree, "open_tree"),
        (libc::SYS_move_mount, "move_mount"),
        (libc::SYS_fsopen, "fsopen"),
        (libc::SYS_fsmount, "fsmount"),
        (libc::SYS_fspick, "fspick"),
        (libc::SYS_mount_setattr, "mount_setattr"),
        (libc::SYS_bpf, "bpf"),
        (libc::SYS_init_module, "init_module"),
        (libc::SYS_finit_module, "finit_module"),
        (libc::SYS_delete_module, "delete_module"),
        (libc::SYS_kexec_load, "kexec_load"),
        (libc::SYS_process_vm_readv, "process_vm_readv"),
        (libc::SYS_process_vm_writev, "process_vm_writev"),
        (libc::SYS_pidfd_getfd, "pidfd_getfd"),
        (libc::SYS_userfaultfd, "userfaultfd"),
        (libc::SYS_keyctl, "keyctl"),
        (libc::SYS_add_key, "add_key"),
        (libc::SYS_request_key, "request_key"),
        (libc::SYS_settimeofday, "settimeofday"),
        (libc::SYS_clock_settime, "clock_settime"),
        (libc::SYS_reboot, "reboot"),
        (libc::SYS_swapon, "swapon"),
        (libc::SYS_swapoff, "swapoff"),
        (libc::SYS_acct, "acct"),
        (libc::SYS_open_by_handle_at, "open_by_handle_at"),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        (libc::SYS_iopl, "iopl"),
        (libc::SYS_ioperm, "ioperm"),
        (libc::SYS_kexec_file_load, "kexec_file_load"),
    ]);
    calls
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    id: u64,
    /// The thread that calls, as the listener's pid namespace counts; 0 when it is not in it.
    pub thread: u32,
    /// The number of the call.
    pub call: i64,
    /// Its arguments. Pointers show what their owner wants at every moment.
    pub args: [u64; 6],
}

impl Notice {
    /// Whether it is an execution, and so the exception.
    #[must_use]
    pub fn is_execution(&self) -> bool {
        self.call == libc::SYS_execve || self.call == libc::SYS_execveat
    }

    /// What is called, and what of the arguments it was asked about for where the name does not say it.
    #[must_use]
    pub fn words(&self) -> (&'static str, Option<&'static str>) {
        let argument = |index: usize| self.args.get(index).copied().unwrap_or(0) & ALL;
        if self.call == libc::SYS_clone || self.call == libc::SYS_unshare {
            let name = if self.call == libc::SYS_clone { "clone" } else { "unshare" };
            return (name, Some(namespace(argument(0))));
        }
        if self.call == libc::SYS_socket {
            let (family, kind) = (argument(0), argument(1) & 0xf);
            let is = |value: i32| family == u64::from(value.cast_unsigned());
            let detail = match () {
                () if is(libc::AF_PACKET) => "AF_PACKET",
                () if is(libc::AF_VSOCK) => "AF_VSOCK",
                () if kind == u64::from(libc::SOCK_RAW.cast_unsigned()) => "SOCK_RAW",
                () => "SOCK_PACKET",
            };
            return ("socket", Some(detail));
        }
        if self.call == libc::SYS_ioctl {
            return ("ioctl", Some(if argument(1) == TYPING[0] { "TIOCSTI" } else { "TIOCLINUX" }));
        }
        if self.call == libc::SYS_ptrace {
            return ("ptrace", None);
        }
        let known =
            whole().into_iter().chain([(libc::SYS_execve, "execve"), (libc::SYS_execveat, "execveat")]);
        (known.into_iter().find(|(call, _)| *call == self.call).map_or("a call", |(_, name)| name), None)
    }
}

/// The name of the first namespace in `flags`; a user namespace, which gives the rights to the others, before them.
fn namespace(flags: u64) -> &'static str {
    let names = [
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
    ];
    let has = |bit: i32| flags & u64::from(bit.cast_unsigned()) != 0;
    names.into_iter().find(|(bit, _)| has(*bit)).map_or("a namespace", |(_, name)| name)
}

/// Receives the calls that the filter asks about, of the process that installed it and all that come from it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// A listener that came from the process which installed the filter.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Takes a call. The listener must be readable: else this waits.
    ///
    /// # Errors
    /// `ENOENT`, as [`io::ErrorKind::NotFound`], when its caller was killed meanwhile.
    pub fn receive(&self) -> io::Result<Notice> {
        let mut notice = libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] },
        };
        loop {
            // SAFETY: the kernel writes one `struct seccomp_notif` to this live one, which is all zeros as it wants; a
            // kernel with a longer one has another ioctl number.
            let done =
                unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) };
            if done == 0 {
                let libc::seccomp_notif { id, pid, data, .. } = notice;
                return Ok(Notice { id, thread: pid, call: i64::from(data.nr), args: data.args });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Answers a call with an error (errno(3), positive). A caller that is gone needs none.
    ///
    /// # Errors
    /// Never for a call that was received, in practice.
    pub fn refuse(&self, notice: &Notice, errno: i32) -> io::Result<()> {
        self.answer(libc::seccomp_notif_resp { id: notice.id, val: 0, error: -errno, flags: 0 })
    }

    /// Lets an execution go on as if it had not been asked about: the kernel decides, by arguments that may be others
    /// by then. Any other call is refused with `EPERM`.
    ///
    /// # Errors
    /// Never for a call that was received, in practice.
    pub fn let_execute(&self, notice: &Notice) -> io::Result<()> {
        if !notice.is_execution() {
            return self.refuse(notice, libc::EPERM);
        }
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        self.answer(libc::seccomp_notif_resp { id: notice.id, val: 0, error: 0, flags })
    }

    fn answer(&self, mut answer: libc::seccomp_notif_resp) -> io::Result<()> {
        loop {
            // SAFETY: the kernel reads one `struct seccomp_notif_resp` from this live one.
            let done =
                unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
            if done == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOENT) => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    /// Whether the caller still waits: what was read of it by its number meanwhile was of it and no other.
    #[must_use]
    pub fn still_waits(&self, notice: &Notice) -> bool {
        let id = notice.id;
        // SAFETY: the kernel reads 64 bits from this live value.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What [`super::Filter`] has for a call that is asked about, until [`asking`] has replaced it: seccompiler knows no
/// such action.
pub(super) const MARK: u32 = 0x7773;

/// Replaces the action "trace with the mark" by "ask the listener".
pub(super) fn asking(mut program: BpfProgram) -> BpfProgram {
    const RETURN: u16 = 0x06;
    for instruction in &mut program {
        if instruction.code == RETURN && instruction.k == libc::SECCOMP_RET_TRACE | MARK {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    program
}

/// Installs a program that asks, on this thread; the others of a process would have no filter.
pub(super) fn install(program: &BpfProgram) -> io::Result<Listener> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // A caller that has been heard waits for its answer, come what signal may but the one that kills it (since 5.19):
    // else a program with a busy timer would ask anew and anew.
    match set_filter(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(program, listener),
        other => other,
    }
}

fn set_filter(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<Listener> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // `sock_filter` of seccompiler and of libc are both the kernel's `struct sock_filter`.
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` and the program that it points to live longer than the call, which copies them.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows it.
    Ok(Listener { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
}
