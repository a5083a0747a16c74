//! The system call filter of a service (seccomp(2)): an allow-list with two errors.
//!
//! What is not known gets `ENOSYS`, as from an older kernel, so that programs fall back; what is known and
//! forbidden gets `EPERM`. What no benign program tries gets it from a listener ([`Listener`]), which so learns of it.
//! Another architecture's calls kill the process.

mod notice;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

pub use notice::{Listener, Notice};

/// A compiled filter: programs that are installed one after the other.
#[derive(Debug, Clone)]
pub struct Filter {
    allow: BpfProgram,
    deny: BpfProgram,
    ask: BpfProgram,
    /// As `ask`, and about every execution.
    ask_executions: BpfProgram,
}

/// A condition on the low 32 bits of argument `index`: the kernel looks at no more of them for flags, modes
/// and ioctl numbers, and a comparison of 64 bits could be evaded.
fn low(index: u8, mask: u64, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
        .map_err(io::Error::other)
}

fn rule(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

const ALL: u64 = 0xffff_ffff;
/// The ancient kind of a socket for whole frames.
const SOCK_PACKET: i32 = 10;
const SETUID: u64 = 0o4000;
const SETGID: u64 = 0o2000;

/// The bits of clone(2) that make namespaces.
const CLONE_NEW: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
    // CLONE_NEWTIME shares its bit with the exit signal of clone(2) and is no flag there.
    0,
];

/// Address families that a service may use: unix, IPv4, IPv6, and netlink for its routes only.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

impl Filter {
    /// Compiles the filter of services for this machine's architecture.
    ///
    /// # Errors
    /// When the architecture is not supported.
    pub fn for_services() -> io::Result<Self> {
        let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        // An error counts for more than a question: what is asked about must be refused by nothing else.
        let asked = notice::tripwires()?;
        let also_allowed = asked.iter().map(|(call, _)| *call);
        let allow: BTreeMap<i64, Vec<SeccompRule>> =
            allowed().into_iter().chain(also_allowed).map(|call| (call, vec![])).collect();
        let mut deny: BTreeMap<i64, Vec<SeccompRule>> =
            forbidden().into_iter().map(|call| (call, vec![])).collect();
        deny.extend(conditional()?);
        let ask: BTreeMap<i64, Vec<SeccompRule>> = asked.into_iter().collect();
        let mut ask_executions = ask.clone();
        ask_executions.extend([(libc::SYS_execve, vec![]), (libc::SYS_execveat, vec![])]);
        let errno = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
        let compile = |rules, mismatch, matched| -> io::Result<BpfProgram> {
            SeccompFilter::new(rules, mismatch, matched, arch)
                .and_then(TryInto::try_into)
                .map_err(io::Error::other)
        };
        Ok(Self {
            allow: compile(allow, errno(libc::ENOSYS), SeccompAction::Allow)?,
            deny: compile(deny, SeccompAction::Allow, errno(libc::EPERM))?,
            ask: notice::asking(compile(ask, SeccompAction::Allow, SeccompAction::Trace(notice::MARK))?),
            ask_executions: notice::asking(compile(
                ask_executions,
                SeccompAction::Allow,
                SeccompAction::Trace(notice::MARK),
            )?),
        })
    }

    /// Installs the filter on this process, which has one thread, and its children for good. Needs `no_new_privs`.
    ///
    /// From here on this process must make no call that is asked about: it would wait for itself. With `executions`
    /// every execve(2) is asked about too, for somebody who wants to know what is executed.
    ///
    /// # Errors
    /// When the kernel has no seccomp, or none that asks (before 5.0).
    pub fn install(&self, executions: bool) -> io::Result<Listener> {
        // Of two filters that both answer with an error, the one that was installed last decides which.
        seccompiler::apply_filter(&self.allow).map_err(io::Error::other)?;
        let listener = notice::install(if executions { &self.ask_executions } else { &self.ask })?;
        // Last: seccomp(2) itself is among what it looks at.
        seccompiler::apply_filter(&self.deny).map_err(io::Error::other)?;
        Ok(listener)
    }
}

/// Calls that are allowed but with some arguments: each rule is a way in which the call is refused.
fn conditional() -> io::Result<Vec<(i64, Vec<SeccompRule>)>> {
    let mut calls = Vec::new();

    // A service in a tree that root owns could leave a set-user-id program of root there. The mode is looked at
    // where it counts: with O_CREAT or O_TMPFILE.
    let creating = |flags: u8, mode: u8| -> io::Result<Vec<SeccompRule>> {
        let mut rules = Vec::new();
        for how in [libc::O_CREAT, 0o20_000_000 /* __O_TMPFILE */] {
            let how = u64::from(how.cast_unsigned());
            for bit in [SETUID, SETGID] {
                rules.push(rule(vec![low(flags, how, how)?, low(mode, bit, bit)?])?);
            }
        }
        Ok(rules)
    };
    let mode = |index: u8| -> io::Result<Vec<SeccompRule>> {
        [SETUID, SETGID].into_iter().map(|bit| rule(vec![low(index, bit, bit)?])).collect()
    };
    calls.push((libc::SYS_openat, creating(2, 3)?));
    calls.push((libc::SYS_mkdirat, mode(2)?));
    calls.push((libc::SYS_fchmod, mode(1)?));
    calls.push((libc::SYS_fchmodat, mode(2)?));
    calls.push((SYS_FCHMODAT2, mode(2)?));
    // Device files, too, whatever the mode.
    let special = |index: u8| -> io::Result<Vec<SeccompRule>> {
        let mut rules = mode(index)?;
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            rules.push(rule(vec![low(index, u64::from(libc::S_IFMT), u64::from(kind))?])?);
        }
        Ok(rules)
    };
    calls.push((libc::SYS_mknodat, special(2)?));
    #[cfg(target_arch = "x86_64")]
    {
        calls.push((libc::SYS_open, creating(1, 2)?));
        calls.push((libc::SYS_creat, mode(1)?));
        calls.push((libc::SYS_mkdir, mode(1)?));
        calls.push((libc::SYS_chmod, mode(1)?));
        calls.push((libc::SYS_mknod, special(1)?));
    }

    // With such a bit it is asked about.
    calls.push((libc::SYS_unshare, vec![rule(vec![low(0, notice::namespaces(), 0)?])?]));
    // PTRACE_TRACEME; the rest is asked about.
    calls.push((libc::SYS_ptrace, vec![rule(vec![low(0, ALL, 0)?])?]));

    // socket(2) and socketpair(2): every family but those of the list; SOCK_RAW and SOCK_PACKET of none.
    let families = |asked: bool| -> io::Result<SeccompRule> {
        let mut others = Vec::new();
        for family in FAMILIES.into_iter().chain(notice::BESIDE.into_iter().filter(|_| asked)) {
            let family = u64::from(family.cast_unsigned());
            let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family);
            others.push(other.map_err(io::Error::other)?);
        }
        rule(others)
    };
    // Of netlink, only NETLINK_ROUTE (0): getaddrinfo and getifaddrs need it.
    let netlink = rule(vec![
        low(0, ALL, u64::from(libc::AF_NETLINK.cast_unsigned()))?,
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0).map_err(io::Error::other)?,
    ])?;
    let mut pairs = notice::raw_sockets()?;
    pairs.extend([families(false)?, netlink.clone()]);
    calls.push((libc::SYS_socketpair, pairs));
    calls.push((libc::SYS_socket, vec![families(true)?, netlink]));

    // The line discipline of a terminal that others read; freezing a file system. Typing into it is asked about.
    let mut ioctls = Vec::new();
    for request in [0x5423u64 /* TIOCSETD */, 0xc004_5877, 0xc004_5878] {
        ioctls.push(rule(vec![low(1, ALL, request)?])?);
    }
    calls.push((libc::SYS_ioctl, ioctls));

    // personality(2): the default, "what is it now", and no address space randomization for debuggers.
    let mut other = Vec::new();
    for value in [0, ALL, 0x0004_0000 /* ADDR_NO_RANDOMIZE */] {
        other.push(
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
                .map_err(io::Error::other)?,
        );
    }
    calls.push((libc::SYS_personality, vec![rule(other)?]));

    // A service's own filters are its business, but a listener could answer in place of ours.
    let new_listener = 1 << 3;
    calls.push((libc::SYS_seccomp, vec![rule(vec![low(1, new_listener, new_listener)?])?]));
    Ok(calls)
}

/// fchmodat2(2) came with Linux 6.6, with one number on all architectures.
const SYS_FCHMODAT2: i64 = 452;

/// cachestat(2) came with Linux 6.5, with one number on all architectures.
const SYS_CACHESTAT: i64 = 451;

/// `io_pgetevents`, which the libc crate does not name everywhere.
const SYS_IO_PGETEVENTS: i64 = if cfg!(target_arch = "x86_64") { 333 } else { 292 };

/// What a service may call, apart from the arguments that [`conditional`] refuses.
fn allowed() -> Vec<i64> {
    let mut calls = vec![
        // Files.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_preadv2,
        libc::SYS_pwritev2,
        libc::SYS_openat,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_fstatfs,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_chdir,
        libc::SYS_fchdir,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_unlinkat,
        libc::SYS_symlinkat,
        libc::SYS_linkat,
        libc::SYS_renameat2,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        SYS_FCHMODAT2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_umask,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fadvise64,
        libc::SYS_readahead,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync_file_range,
        libc::SYS_utimensat,
        libc::SYS_flock,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_pipe2,
        libc::SYS_splice,
        libc::SYS_tee,
        libc::SYS_vmsplice,
        libc::SYS_sendfile,
        libc::SYS_copy_file_range,
        libc::SYS_getxattr,
        libc::SYS_lgetxattr,
        libc::SYS_fgetxattr,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_listxattr,
        libc::SYS_llistxattr,
        libc::SYS_flistxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        libc::SYS_inotify_init1,
        libc::SYS_inotify_add_watch,
        libc::SYS_inotify_rm_watch,
        libc::SYS_memfd_create,
        SYS_CACHESTAT,
        // Waiting.
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_eventfd2,
        libc::SYS_signalfd4,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
        libc::SYS_timerfd_gettime,
        libc::SYS_io_setup,
        libc::SYS_io_destroy,
        libc::SYS_io_submit,
        libc::SYS_io_cancel,
        libc::SYS_io_getevents,
        SYS_IO_PGETEVENTS,
        // Sockets.
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_connect,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
        libc::SYS_shutdown,
        // Memory.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_mlock,
        libc::SYS_mlock2,
        libc::SYS_munlock,
        libc::SYS_mlockall,
        libc::SYS_munlockall,
        libc::SYS_msync,
        libc::SYS_mincore,
        libc::SYS_membarrier,
        libc::SYS_get_mempolicy,
        libc::SYS_set_mempolicy,
        libc::SYS_mbind,
        libc::SYS_pkey_alloc,
        libc::SYS_pkey_free,
        libc::SYS_pkey_mprotect,
        libc::SYS_mseal,
        // Processes and threads.
        libc::SYS_clone,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_gettid,
        libc::SYS_getpgid,
        libc::SYS_setpgid,
        libc::SYS_getsid,
        libc::SYS_setsid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getresuid,
        libc::SYS_getresgid,
        libc::SYS_getgroups,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_setgroups,
        libc::SYS_capget,
        libc::SYS_capset,
        libc::SYS_prctl,
        libc::SYS_personality,
        libc::SYS_set_tid_address,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_rseq,
        libc::SYS_futex,
        libc::SYS_futex_waitv,
        libc::SYS_seccomp,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_getparam,
        libc::SYS_sched_setparam,
        libc::SYS_sched_getscheduler,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_getattr,
        libc::SYS_sched_setattr,
        libc::SYS_sched_get_priority_max,
        libc::SYS_sched_get_priority_min,
        libc::SYS_sched_rr_get_interval,
        libc::SYS_getpriority,
        libc::SYS_setpriority,
        libc::SYS_ioprio_get,
        libc::SYS_ioprio_set,
        libc::SYS_getrlimit,
        libc::SYS_setrlimit,
        libc::SYS_prlimit64,
        libc::SYS_getrusage,
        libc::SYS_times,
        libc::SYS_getcpu,
        libc::SYS_sysinfo,
        libc::SYS_uname,
        libc::SYS_getrandom,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigpending,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigsuspend,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_sigaltstack,
        // Time.
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_getitimer,
        libc::SYS_setitimer,
        libc::SYS_timer_create,
        libc::SYS_timer_settime,
        libc::SYS_timer_gettime,
        libc::SYS_timer_getoverrun,
        libc::SYS_timer_delete,
        // IPC within its own namespace.
        libc::SYS_shmget,
        libc::SYS_shmat,
        libc::SYS_shmdt,
        libc::SYS_shmctl,
        libc::SYS_semget,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_semctl,
        libc::SYS_msgget,
        libc::SYS_msgsnd,
        libc::SYS_msgrcv,
        libc::SYS_msgctl,
        libc::SYS_mq_open,
        libc::SYS_mq_unlink,
        libc::SYS_mq_timedsend,
        libc::SYS_mq_timedreceive,
        libc::SYS_mq_notify,
        libc::SYS_mq_getsetattr,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_getdents,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_unlink,
        libc::SYS_symlink,
        libc::SYS_link,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_dup2,
        libc::SYS_pipe,
        libc::SYS_inotify_init,
        libc::SYS_epoll_create,
        libc::SYS_epoll_wait,
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_eventfd,
        libc::SYS_signalfd,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_getpgrp,
        libc::SYS_alarm,
        libc::SYS_pause,
        libc::SYS_time,
        libc::SYS_arch_prctl,
    ]);
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// What is refused with `EPERM`: known, never of use to a service, dangerous. What is asked about is not here (see
/// `notice`). `io_uring`, `clone3` and `openat2` are not either: they get `ENOSYS`, so that programs use what they had
/// before.
fn forbidden() -> Vec<i64> {
    let mut calls = vec![
        // Namespaces and mounts.
        libc::SYS_fsconfig,
        457, /* statmount */
        458, /* listmount */
        467, /* open_tree_attr */
        // Kernel code and tracing.
        libc::SYS_perf_event_open,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
        // Helpers of exploits.
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
        libc::SYS_remap_file_pages,
        // The host's state.
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_syslog,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
        // Handles that go round paths; watching other people's files.
        libc::SYS_name_to_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_fanotify_mark,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
        libc::SYS__sysctl,
        libc::SYS_ustat,
        libc::SYS_sysfs,
        174, /* create_module */
        177, /* get_kernel_syms */
        178, /* query_module */
        libc::SYS_nfsservctl,
        libc::SYS_lookup_dcookie,
    ]);
    calls
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_forbidden() {
        let allowed: BTreeSet<i64> = allowed().into_iter().collect();
        let both: Vec<i64> = forbidden().into_iter().filter(|call| allowed.contains(call)).collect();
        assert_eq!(both, Vec::<i64>::new());
        let asked = notice::whole().into_iter().map(|(call, _)| call);
        let both: Vec<i64> =
            asked.filter(|call| allowed.contains(call) || forbidden().contains(call)).collect();
        assert_eq!(both, Vec::<i64>::new(), "what is asked about is for the listener alone");
    }

    #[test]
    fn what_makes_programs_fall_back_is_in_neither_list() {
        for call in [libc::SYS_clone3, libc::SYS_openat2, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter]
        {
            assert!(!allowed().contains(&call) && !forbidden().contains(&call), "{call}");
        }
    }

    #[test]
    fn every_conditional_call_is_allowed_otherwise() {
        let mut allowed = allowed();
        allowed.extend(notice::tripwires().unwrap().into_iter().map(|(call, _)| call));
        for (call, rules) in conditional().unwrap() {
            assert!(allowed.contains(&call), "{call}");
            assert!(!rules.is_empty(), "{call}: an empty rule set would refuse the call altogether");
        }
    }

    #[test]
    fn the_filter_compiles() {
        let filter = Filter::for_services().unwrap();
        let all = [&filter.allow, &filter.deny, &filter.ask, &filter.ask_executions];
        assert!(all.iter().all(|program| program.len() < 4096));
        // The mark is in none any more, and whoever asks does ask.
        let returns = |program: &BpfProgram, action: u32| {
            program.iter().any(|instruction| instruction.code == 6 && instruction.k & 0xffff_0000 == action)
        };
        assert!(all.iter().all(|program| !returns(program, libc::SECCOMP_RET_TRACE)));
        let asks = all.map(|program| returns(program, libc::SECCOMP_RET_USER_NOTIF));
        assert_eq!(asks, [false, false, true, true]);
    }
}
