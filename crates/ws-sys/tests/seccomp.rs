//! Calls that the filter asks about: the listener hears of them and of no others, and nothing becomes possible when it
//! is gone.
//!
//! Its own `main`: whoever installs a filter has one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ws_sys::attempt::{self, Answer, Arg};
use ws_sys::lockdown;
use ws_sys::process::{self, CloneOptions, Forked};
use ws_sys::scm::Channel;
use ws_sys::seccomp::{Filter, Listener};

const EPERM: Answer = Answer::Refused(libc::EPERM);
const ENOSYS: Answer = Answer::Refused(libc::ENOSYS);

/// A call with its numbers, what it must be answered, and what the listener must be told.
type Case = (i64, [u64; 3], Answer, Option<(&'static str, Option<&'static str>)>);

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("seccomp: test");
        }
        return ExitCode::SUCCESS;
    }
    what_is_asked_about_is_told_and_refused();
    without_a_listener_nothing_is_possible();
    executions_are_told_on_request();
    println!("3 passed, 0 failed");
    ExitCode::SUCCESS
}

fn cases() -> Vec<Case> {
    let told = |name, detail| Some((name, detail));
    let number = |value: i32| u64::from(value.cast_unsigned());
    let socket = |family: i32, kind: i32| [number(family), number(kind), 0];
    let mut cases: Vec<Case> = [
        (libc::SYS_setns, "setns"),
        (libc::SYS_mount, "mount"),
        (libc::SYS_umount2, "umount2"),
        (libc::SYS_bpf, "bpf"),
        (libc::SYS_keyctl, "keyctl"),
        (libc::SYS_userfaultfd, "userfaultfd"),
        (libc::SYS_open_by_handle_at, "open_by_handle_at"),
        (libc::SYS_finit_module, "finit_module"),
        (libc::SYS_reboot, "reboot"),
        (libc::SYS_process_vm_readv, "process_vm_readv"),
        (libc::SYS_pidfd_getfd, "pidfd_getfd"),
    ]
    .into_iter()
    .map(|(call, name)| (call, [0; 3], EPERM, told(name, None)))
    .collect();
    cases.extend([
        (
            libc::SYS_unshare,
            [number(libc::CLONE_NEWUSER), 0, 0],
            EPERM,
            told("unshare", Some("CLONE_NEWUSER")),
        ),
        (
            libc::SYS_unshare,
            // The kernel looks at 32 bits only.
            [number(libc::CLONE_NEWNET | libc::CLONE_FS) | 1 << 40, 0, 0],
            EPERM,
            told("unshare", Some("CLONE_NEWNET")),
        ),
        (libc::SYS_clone, [number(libc::CLONE_NEWNS), 0, 0], EPERM, told("clone", Some("CLONE_NEWNS"))),
        (libc::SYS_ptrace, [number(16 /* PTRACE_ATTACH */), 1, 0], EPERM, told("ptrace", None)),
        (libc::SYS_socket, socket(libc::AF_PACKET, libc::SOCK_RAW), EPERM, told("socket", Some("AF_PACKET"))),
        (
            libc::SYS_socket,
            socket(libc::AF_VSOCK, libc::SOCK_STREAM),
            EPERM,
            told("socket", Some("AF_VSOCK")),
        ),
        (
            libc::SYS_socket,
            socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC),
            EPERM,
            told("socket", Some("SOCK_RAW")),
        ),
        (libc::SYS_ioctl, [0, 0x1_0000_5412, 0], EPERM, told("ioctl", Some("TIOCSTI"))),
        // What programs try just to see, and what changes nothing: refused without a word.
        (libc::SYS_unshare, [0; 3], EPERM, None),
        (libc::SYS_unshare, [number(libc::CLONE_FS), 0, 0], EPERM, None),
        (libc::SYS_ptrace, [0; 3], EPERM, None),
        (libc::SYS_socket, socket(libc::AF_ALG, libc::SOCK_SEQPACKET), EPERM, None),
        (libc::SYS_socketpair, socket(libc::AF_PACKET, libc::SOCK_RAW), EPERM, None),
        (libc::SYS_perf_event_open, [0; 3], EPERM, None),
        (libc::SYS_fanotify_init, [0; 3], EPERM, None),
        (libc::SYS_io_uring_setup, [1, 0, 0], ENOSYS, None),
        (libc::SYS_openat2, [0; 3], ENOSYS, None),
        (libc::SYS_clone3, [0; 3], ENOSYS, None),
        (libc::SYS_ioctl, [0, 0x5423, 0], EPERM, None),
        // Nobody answers in place of our listener.
        (libc::SYS_seccomp, [1, 1 << 3, 0], EPERM, None),
    ]);
    cases
}

/// Runs `inside` in a process with the filter. Gives its listener and its pidfd.
fn filtered(executions: bool, inside: impl FnOnce() -> bool) -> (Listener, OwnedFd, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    match process::clone(&CloneOptions::default()).unwrap() {
        Forked::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                lockdown::no_new_privileges().unwrap();
                let listener = Filter::for_services().unwrap().install(executions).unwrap();
                theirs.send(b"listener", &[listener.as_fd()]).unwrap();
                drop(listener);
                inside()
            }));
            process::exit_now(i32::from(!done.unwrap_or(false)));
        }
        Forked::Parent { pidfd, .. } => {
            drop(theirs);
            let message = ours.recv().unwrap();
            let listener = Listener::from_fd(message.fds.into_iter().next().unwrap());
            (listener, pidfd, ours)
        }
    }
}

fn ended_well(pidfd: &OwnedFd) -> bool {
    process::reap_pidfd(pidfd.as_fd()).unwrap() == Some(process::Ended::Code(0))
}

fn what_is_asked_about_is_told_and_refused() {
    let (listener, pidfd, _channel) = filtered(false, || {
        cases().into_iter().all(|(call, args, expected, _)| {
            let answer = attempt::call(call, &args.map(Arg::Number)).unwrap();
            let good = answer == expected;
            if !good {
                println!("call {call} {args:x?}: {answer:?}");
            }
            good
        })
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut told = Vec::new();
    let mut slowest = Duration::ZERO;
    loop {
        let ready = process::poll_until(&[listener.as_fd(), pidfd.as_fd()], Some(deadline)).unwrap();
        // Hung up, it is readable too: then there is nobody any more.
        if let Some(notice) = ready[0].then(|| listener.receive().ok()).flatten() {
            let begin = Instant::now();
            assert!(listener.still_waits(&notice) && notice.thread > 0);
            told.push(notice.words());
            listener.refuse(&notice, libc::EPERM).unwrap();
            assert!(!listener.still_waits(&notice));
            slowest = slowest.max(begin.elapsed());
            continue;
        }
        assert!(ready.contains(&true), "it hangs");
        if ready[1] {
            break;
        }
    }
    assert!(ended_well(&pidfd));
    let expected: Vec<_> = cases().into_iter().filter_map(|(.., told)| told).collect();
    assert_eq!(told, expected);
    println!("answered within {slowest:?}");
}

fn without_a_listener_nothing_is_possible() {
    let (listener, pidfd, channel) = filtered(false, || {
        // Closed: nobody else has it.
        std::thread::sleep(Duration::from_millis(100));
        let calls = [libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl];
        let unshare = attempt::call(libc::SYS_unshare, &[Arg::Number(0x1000_0000)]).unwrap();
        unshare == ENOSYS && calls.iter().all(|call| attempt::call(*call, &[]).unwrap() == ENOSYS)
    });
    drop((listener, channel));
    assert!(
        process::poll_until(&[pidfd.as_fd()], Some(Instant::now() + Duration::from_secs(60))).unwrap()[0]
    );
    assert!(ended_well(&pidfd));
}

fn executions_are_told_on_request() {
    let (listener, pidfd, _channel) = filtered(true, || {
        let path = |text: &str| Arg::Bytes(format!("{text}\0").into_bytes());
        let refused = attempt::call(libc::SYS_execve, &[path("/bin/true"), Arg::Number(0), Arg::Number(0)]);
        let missing = attempt::call(libc::SYS_execve, &[path("/none"), Arg::Number(0), Arg::Number(0)]);
        refused.unwrap() == Answer::Refused(libc::EACCES) && missing.unwrap() == Answer::Refused(libc::ENOENT)
    });
    for number in 0..2 {
        process::poll_until(&[listener.as_fd()], Some(Instant::now() + Duration::from_secs(60))).unwrap();
        let notice = listener.receive().unwrap();
        assert!(notice.is_execution());
        assert_eq!(notice.words(), ("execve", None));
        match number {
            0 => listener.refuse(&notice, libc::EACCES).unwrap(),
            _ => listener.let_execute(&notice).unwrap(),
        }
    }
    assert!(
        process::poll_until(&[pidfd.as_fd()], Some(Instant::now() + Duration::from_secs(60))).unwrap()[0]
    );
    assert!(ended_well(&pidfd));
}
