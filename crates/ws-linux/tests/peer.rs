//! Who may talk to the control socket, with peers on the real kernel: a plain process, one in a user
//! namespace of its own, one of another user, one that is gone.
//!
//! Its own `main`: peers are forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use ws_linux::peer::{self, Refused};
use ws_sys::process::{self, CloneOptions, Ended, Forked, Namespaces};

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("peer: test");
        }
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();

    let plain = with_peer(&listener, &path, Namespaces::default(), || ());
    assert!(plain.is_ok(), "{plain:?}");
    let sandboxed = with_peer(&listener, &path, Namespaces { user: true, ..Namespaces::default() }, || ());
    assert!(matches!(sandboxed, Err(Refused::Namespace { .. })), "{sandboxed:?}");
    if nix::unistd::geteuid().is_root() {
        let other = with_peer(&listener, &path, Namespaces::default(), || {
            process::become_ids(1000, 1000, true).unwrap();
        });
        assert!(matches!(other, Err(Refused::User { uid: 1000, .. })), "{other:?}");
        from_below(&listener, &path);
    } else {
        println!("peer: not root, so no peer of another user");
    }
    let gone = with_dead_peer(&listener, &path);
    assert!(gone.is_err(), "{gone:?}");
    println!("1 passed, 0 failed");
    ExitCode::SUCCESS
}

/// What the check says about a peer that was prepared in namespaces of its own, while it lives.
fn with_peer(
    listener: &UnixListener,
    path: &Path,
    namespaces: Namespaces,
    prepare: impl FnOnce(),
) -> Result<(), Refused> {
    match process::clone(&CloneOptions { namespaces, ..CloneOptions::default() }).unwrap() {
        Forked::Child => {
            prepare();
            let mut stream = UnixStream::connect(path).unwrap();
            // Until the parent hangs up.
            let _ = stream.read(&mut [0]);
            process::exit_now(0);
        }
        Forked::Parent { pidfd, .. } => {
            let (stream, _) = listener.accept().unwrap();
            let verdict = peer::check(stream.as_fd());
            drop(stream);
            end(pidfd.as_fd());
            verdict
        }
    }
}

/// What the check says about a peer that ended and was reaped before it was looked at.
fn with_dead_peer(listener: &UnixListener, path: &Path) -> Result<(), Refused> {
    match process::clone(&CloneOptions::default()).unwrap() {
        Forked::Child => {
            drop(UnixStream::connect(path).unwrap());
            process::exit_now(0);
        }
        Forked::Parent { pidfd, .. } => {
            let (stream, _) = listener.accept().unwrap();
            end(pidfd.as_fd());
            peer::check(stream.as_fd())
        }
    }
}

/// A supervisor of an ordinary user: root may talk to it, and the user's own sandboxes may not.
fn from_below(listener: &UnixListener, path: &Path) {
    let root_path = path.with_file_name("root.sock");
    let for_root = UnixListener::bind(&root_path).unwrap();
    match process::clone(&CloneOptions::default()).unwrap() {
        Forked::Child => {
            process::become_ids(1000, 1000, true).unwrap();
            process::set_dumpable(true).unwrap();
            let done = std::panic::catch_unwind(|| {
                let sandboxed = Namespaces { user: true, ..Namespaces::default() };
                let verdict = with_peer(listener, path, sandboxed, || ());
                assert!(matches!(verdict, Err(Refused::Namespace { .. })), "{verdict:?}");
                let (stream, _) = for_root.accept().unwrap();
                let verdict = peer::check(stream.as_fd());
                assert!(verdict.is_ok(), "root: {verdict:?}");
            });
            process::exit_now(i32::from(done.is_err()));
        }
        Forked::Parent { pidfd, .. } => {
            let _stream = UnixStream::connect(&root_path).unwrap();
            end(pidfd.as_fd());
        }
    }
}

fn end(pidfd: std::os::fd::BorrowedFd<'_>) {
    process::poll_readable(&[pidfd]).unwrap();
    assert_eq!(process::reap_pidfd(pidfd).unwrap(), Some(Ended::Code(0)));
}
