//! Single system calls, with whatever arguments.

use std::io;

use nix::errno::Errno;
use ws_sys::attempt::{Answer, Arg, call};

use crate::End;

/// The bit that makes a call one of the x32 kind (`__X32_SYSCALL_BIT`).
const X32: i64 = 0x4000_0000;

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<io::Result<End>> {
    Some(match (verb, arguments) {
        ("call", [name, arguments @ ..]) => named(name).and_then(|number| make(number, arguments)),
        ("x32", [name, arguments @ ..]) => named(name).and_then(|number| make(number | X32, arguments)),
        ("i386", [number]) => crate::number(number).and_then(i386),
        _ => return None,
    })
}

#[cfg(target_arch = "x86_64")]
fn i386(number: u32) -> io::Result<End> {
    ws_sys::attempt::call_i386(number).map(end)
}

#[cfg(not(target_arch = "x86_64"))]
fn i386(_: u32) -> io::Result<End> {
    Ok(End::Refused(Errno::ENOSYS, "there are no such calls on this architecture".to_owned()))
}

/// Makes a call. Arguments: a number (`7`, `0x1f`, `-1`), `s:TEXT` a C string, `z:N` so many zero bytes,
/// `x:HEX` these bytes.
pub(crate) fn make(number: i64, arguments: &[&str]) -> io::Result<End> {
    let arguments = arguments.iter().map(|text| argument(text)).collect::<io::Result<Vec<_>>>()?;
    call(number, &arguments).map(end)
}

fn end(answer: Answer) -> End {
    match answer {
        Answer::Returned(value) => End::Did(value.to_string()),
        Answer::Refused(errno) => End::Refused(Errno::from_raw(errno), String::new()),
        Answer::Killed(signal) => End::Killed(signal),
    }
}

fn argument(text: &str) -> io::Result<Arg> {
    let wrong = || io::Error::other(format!("`{text}` is no argument of a call"));
    match text.split_once(':') {
        Some(("s", text)) => Ok(Arg::Bytes([text.as_bytes(), b"\0"].concat())),
        Some(("z", length)) => Ok(Arg::Bytes(vec![0; length.parse().map_err(|_| wrong())?])),
        Some(("x", hex)) => {
            let digits: Option<Vec<u8>> =
                hex.chars().map(|digit| digit.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
            let digits = digits.ok_or_else(wrong)?;
            Ok(Arg::Bytes(
                digits.chunks(2).map(|pair| pair.iter().fold(0, |all, one| all << 4 | one)).collect(),
            ))
        }
        _ => {
            let number = match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => text.parse::<i64>().ok().map(i64::cast_unsigned),
            };
            number.map(Arg::Number).ok_or_else(wrong)
        }
    }
}

/// The number of a call by its name, or by itself.
fn named(name: &str) -> io::Result<i64> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(|| io::Error::other(format!("no call is known as `{name}`")))
}

macro_rules! names {
    ($($name:ident $call:ident)*) => { &[$((stringify!($name), libc::$call)),*] };
}

const NAMES: &[(&str, i64)] = names! {
    unshare SYS_unshare
    setns SYS_setns
    clone SYS_clone
    clone3 SYS_clone3
    mount SYS_mount
    umount2 SYS_umount2
    pivot_root SYS_pivot_root
    chroot SYS_chroot
    open_tree SYS_open_tree
    move_mount SYS_move_mount
    fsopen SYS_fsopen
    fsconfig SYS_fsconfig
    fsmount SYS_fsmount
    fspick SYS_fspick
    mount_setattr SYS_mount_setattr
    bpf SYS_bpf
    perf_event_open SYS_perf_event_open
    init_module SYS_init_module
    finit_module SYS_finit_module
    delete_module SYS_delete_module
    kexec_load SYS_kexec_load
    ptrace SYS_ptrace
    process_vm_readv SYS_process_vm_readv
    process_vm_writev SYS_process_vm_writev
    process_madvise SYS_process_madvise
    kcmp SYS_kcmp
    pidfd_open SYS_pidfd_open
    pidfd_getfd SYS_pidfd_getfd
    io_uring_setup SYS_io_uring_setup
    io_uring_enter SYS_io_uring_enter
    io_uring_register SYS_io_uring_register
    userfaultfd SYS_userfaultfd
    keyctl SYS_keyctl
    add_key SYS_add_key
    request_key SYS_request_key
    move_pages SYS_move_pages
    migrate_pages SYS_migrate_pages
    remap_file_pages SYS_remap_file_pages
    personality SYS_personality
    settimeofday SYS_settimeofday
    clock_settime SYS_clock_settime
    adjtimex SYS_adjtimex
    clock_adjtime SYS_clock_adjtime
    reboot SYS_reboot
    swapon SYS_swapon
    swapoff SYS_swapoff
    acct SYS_acct
    quotactl SYS_quotactl
    quotactl_fd SYS_quotactl_fd
    syslog SYS_syslog
    sethostname SYS_sethostname
    setdomainname SYS_setdomainname
    vhangup SYS_vhangup
    open_by_handle_at SYS_open_by_handle_at
    name_to_handle_at SYS_name_to_handle_at
    fanotify_init SYS_fanotify_init
    fanotify_mark SYS_fanotify_mark
    socket SYS_socket
    socketpair SYS_socketpair
    ioctl SYS_ioctl
    seccomp SYS_seccomp
    openat2 SYS_openat2
    getpid SYS_getpid
    setuid SYS_setuid
    setgid SYS_setgid
    setgroups SYS_setgroups
    setpriority SYS_setpriority
    sched_setscheduler SYS_sched_setscheduler
    capset SYS_capset
    kill SYS_kill
    faccessat SYS_faccessat
    readlinkat SYS_readlinkat
    statx SYS_statx
    statfs SYS_statfs
    getxattr SYS_getxattr
    listxattr SYS_listxattr
    syncfs SYS_syncfs
};
