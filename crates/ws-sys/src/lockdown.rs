//! Giving up rights for good: capabilities, further namespaces, the session keyring, resource limits.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Drops every capability from every set (capabilities(7)): bounding, ambient, inheritable, permitted,
/// effective. Must come after the last user namespace was entered: that refills them.
///
/// # Errors
/// Without `CAP_SETPCAP`.
pub fn drop_capabilities() -> io::Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            // Beyond the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}

/// Never again may an exec give rights (prctl(2), `PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// Never on Linux, in practice.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Joins a new anonymous session keyring (keyctl(2)), so that the caller's keys are out of reach.
/// A kernel without keyrings has nothing to hide.
///
/// # Errors
/// When the key quota is exhausted.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) }
}

/// Limits what the user namespace of this process may make, through the directory `/proc/sys/user` of a
/// writable procfs (`directory`, opened before it went out of sight). The files act on the namespace of the
/// process that opens them.
///
/// # Errors
/// When a limit cannot be written.
pub fn limit_user_namespace(directory: BorrowedFd<'_>, limits: &[(&str, u64)]) -> io::Result<()> {
    for (name, value) in limits {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(directory, *name, flags, Mode::empty()) {
            Ok(file) => file,
            // `max_time_namespaces` and its like came later than the rest.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        rustix::io::write(&file, value.to_string().as_bytes())?;
    }
    Ok(())
}

/// Whether this process can make another user namespace: tried for real, in a child.
///
/// # Errors
/// When no child can be made.
pub fn can_make_user_namespace() -> io::Result<bool> {
    use crate::process::{self, Namespaces};
    match process::fork_single_threaded()? {
        None => {
            let made = process::unshare(Namespaces { user: true, ..Namespaces::default() }).is_ok();
            process::exit_now(i32::from(made));
        }
        Some(pid) => loop {
            let waited = rustix::process::waitpid(
                rustix::process::Pid::from_raw(pid),
                rustix::process::WaitOptions::empty(),
            );
            match waited {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    let status = other?.map(|(_, status)| status);
                    return Ok(status.and_then(|status| status.exit_status()) != Some(0));
                }
            }
        },
    }
}

/// A limit of a process (getrlimit(2)); soft and hard become the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Open files.
    Files,
    /// Processes and threads of the user in this user namespace.
    Processes,
    /// Bytes of a core dump.
    Core,
    /// Real-time priority.
    RealtimePriority,
    /// Bytes of locked memory.
    LockedMemory,
    /// Bytes of POSIX message queues.
    MessageQueues,
    /// Pending signals.
    PendingSignals,
}

/// Sets a limit; one that is already lower stays.
///
/// # Errors
/// When the hard limit would have to be raised without `CAP_SYS_RESOURCE`: never, since it is lowered only.
pub fn limit(resource: Resource, value: u64) -> io::Result<()> {
    use nix::sys::resource::{Resource as R, getrlimit, setrlimit};
    let which = match resource {
        Resource::Files => R::RLIMIT_NOFILE,
        Resource::Processes => R::RLIMIT_NPROC,
        Resource::Core => R::RLIMIT_CORE,
        Resource::RealtimePriority => R::RLIMIT_RTPRIO,
        Resource::LockedMemory => R::RLIMIT_MEMLOCK,
        Resource::MessageQueues => R::RLIMIT_MSGQUEUE,
        Resource::PendingSignals => R::RLIMIT_SIGPENDING,
    };
    let (_, hard) = getrlimit(which)?;
    let value = value.min(hard);
    Ok(setrlimit(which, value, value)?)
}
