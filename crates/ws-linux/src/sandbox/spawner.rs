//! The spawner: the one process that has rights over the workspace's namespaces.
//!
//! Forked from the supervisor before its runtime starts. Owns U1 and the router's network namespace, makes
//! launchers and sockets on request, and (rootless) opens mount sources. It decides nothing. When it dies, the
//! workspace has failed; when the supervisor dies, it ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ws_sys::idmap::{self, Range};
use ws_sys::lockdown;
use ws_sys::mount;
use ws_sys::process::{self, CloneOptions, Forked, Namespaces};
use ws_sys::scm::Channel;
use ws_sys::seccomp::Filter;

use super::launcher;
use super::protocol::{self, Failure, Reply, SocketKind, SourceRequest, Stage, ToSpawner};
use super::sources;
use crate::net::sysctl_may_be_missing;
use crate::slots::Slot;

/// First host id of the ranges that instances take, as root. Above every range that distributions hand out
/// (`/etc/subuid` starts at 100,000; systemd's nspawn and dynamic users end at 0x6fff_ffff).
pub const FIRST_HOST_ID: u32 = 0x7000_0000;

/// How many ids the range of an instance has.
pub const IDS: u32 = 65_536;

/// How many ranges there are.
pub const SLOTS: u32 = 4_095;

/// How a spawner is made.
#[derive(Debug)]
pub struct Options {
    /// Sysctls of the router's network namespace.
    pub router_sysctls: Vec<(String, String)>,
    /// The id range that this instance holds; `None`: rootless.
    pub slot: Option<Slot>,
}

/// The supervisor's handle of the spawner: requests are answered in order, in some tens of microseconds.
#[derive(Debug, Clone)]
pub struct Spawner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    channel: Mutex<Channel>,
    pidfd: OwnedFd,
    pid: i32,
    slot: Option<Slot>,
}

/// Forks the spawner. The caller must be single-threaded.
///
/// # Errors
/// When user or network namespaces cannot be made; the failure says which and why.
pub fn fork(options: Options) -> Result<Spawner, Failure> {
    let (ours, theirs) = Channel::pair().stage("making a channel to the spawner")?;
    let filter = Filter::for_services().stage("compiling the system call filter")?;
    match process::clone(&CloneOptions::default()).stage("forking the spawner")? {
        Forked::Child => {
            drop(ours);
            process::exit_now(i32::from(run(&theirs, &options, &filter).is_err()));
        }
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            if let Some(slot) = options.slot.as_ref().map(Slot::number) {
                // The child has entered U1 and waits for its maps, which only this side may write.
                confirm(&ours)?;
                let first = FIRST_HOST_ID + slot * IDS;
                let range = Range { inside: 0, outside: first, count: IDS };
                idmap::write(&pid.to_string(), range, range, false)
                    .stage("mapping the ids of the workspace")?;
                protocol::send(ours.as_fd(), &Reply::Done, &[]).stage("telling the spawner to go on")?;
            }
            confirm(&ours)?;
            Ok(Spawner {
                inner: Arc::new(Inner { channel: Mutex::new(ours), pidfd, pid, slot: options.slot }),
            })
        }
    }
}

/// Waits for a step of the spawner's start.
fn confirm(channel: &Channel) -> Result<(), Failure> {
    match protocol::receive::<Reply>(channel).stage("starting the spawner")?.0 {
        Reply::Done => Ok(()),
        Reply::Failed(failure) => Err(failure),
    }
}

impl Spawner {
    fn request(&self, request: &ToSpawner, fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Failure> {
        // A holder that panicked left no request half-said: each is one message.
        let channel = self.inner.channel.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::send(channel.as_fd(), request, fds).stage("asking the spawner")?;
        match protocol::receive::<Reply>(&channel).stage("hearing from the spawner")? {
            (Reply::Done, fds) => Ok(fds),
            (Reply::Failed(failure), _) => Err(failure),
        }
    }

    fn request_one(&self, request: &ToSpawner, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, Failure> {
        let missing = || Failure::because("hearing from the spawner", "a descriptor is missing");
        self.request(request, fds)?.into_iter().next().ok_or_else(missing)
    }

    /// Makes a launcher, a child of this process: its channel and its pidfd.
    ///
    /// # Errors
    /// When no process or namespace can be made.
    pub fn launcher(&self) -> Result<(Channel, OwnedFd), Failure> {
        let (ours, theirs) = Channel::pair().stage("making a channel to a launcher")?;
        let pidfd = self.request_one(&ToSpawner::Launcher, &[theirs.as_fd()])?;
        Ok((ours, pidfd))
    }

    /// Makes a socket in a network namespace of the workspace: the given one, else the router's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn socket(&self, kind: SocketKind, namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
        let request = ToSpawner::Socket { kind, in_service: namespace.is_some() };
        self.request_one(&request, namespace.as_slice())
    }

    /// Opens a mount source on the spawner's side.
    ///
    /// # Errors
    /// As [`sources::open`].
    pub fn open(&self, request: SourceRequest) -> Result<OwnedFd, Failure> {
        self.request_one(&ToSpawner::Open(request), &[])
    }

    /// Makes a user namespace for an id-mapped mount.
    ///
    /// # Errors
    /// When the ids are not ours to map.
    pub fn id_map(&self, owner: (u32, u32), service: (u32, u32)) -> Result<OwnedFd, Failure> {
        self.request_one(&ToSpawner::IdMap { owner, service }, &[])
    }

    /// The id range of this instance; `None`: rootless.
    #[must_use]
    pub fn slot(&self) -> Option<u32> {
        self.inner.slot.as_ref().map(Slot::number)
    }

    /// Its process id on the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// A pidfd of it: readable when it has ended.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.inner.pidfd.try_clone()
    }

    /// Ends it and waits until it has.
    pub fn end(&self) {
        let _ = process::pidfd_signal(self.inner.pidfd.as_fd(), nix::libc::SIGKILL);
        let _ = process::poll_readable(&[self.inner.pidfd.as_fd()]);
        let _ = process::reap_pidfd(self.inner.pidfd.as_fd());
    }
}

/// The spawner's process.
fn run(channel: &Channel, options: &Options, filter: &Filter) -> Result<(), Failure> {
    let router = match start(channel, options) {
        Ok(router) => router,
        Err(failure) => {
            let _ = protocol::send(channel.as_fd(), &Reply::Failed(failure.clone()), &[]);
            return Err(failure);
        }
    };
    protocol::send(channel.as_fd(), &Reply::Done, &[]).stage("reporting")?;
    loop {
        let (request, fds) = match protocol::receive::<ToSpawner>(channel) {
            Ok(request) => request,
            // The supervisor is gone, or talks nonsense: either way nothing may stay.
            Err(_) => return Ok(()),
        };
        let (reply, fd) = match serve(request, fds, router.as_fd(), filter) {
            Ok(fd) => (Reply::Done, Some(fd)),
            Err(failure) => (Reply::Failed(failure), None),
        };
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        if protocol::send(channel.as_fd(), &reply, &fds).is_err() {
            return Ok(());
        }
    }
}

/// Enters U1 and the router's namespaces. Gives the router's network namespace.
fn start(channel: &Channel, options: &Options) -> Result<OwnedFd, Failure> {
    super::files::raise().stage("raising the limit of open files")?;
    process::close_all_but(&[channel.as_fd()]).stage("closing inherited files")?;
    process::hide_arguments("ws-spawner").stage("hiding the command line")?;
    // The order with every secret comes over the supervisor's standard input: not ours to read, nor of those that
    // are forked from here. What one says when it panics still goes to the supervisor's log.
    let null =
        std::fs::File::options().read(true).write(true).open("/dev/null").stage("opening /dev/null")?;
    process::set_stdio(null.as_fd(), null.as_fd(), io::stderr().as_fd()).stage("letting go of the input")?;
    drop(null);
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    process::unshare(Namespaces { user: true, ..Namespaces::default() }).map_err(|error| {
        let detail = match error.raw_os_error() {
            Some(nix::libc::ENOSPC) => "the limit of user namespaces is reached (`sysctl user.max_user_namespaces`)",
            Some(nix::libc::EPERM) => "this machine does not let you make user namespaces (`sysctl kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns`)",
            _ => return Failure::new("making a user namespace", &error),
        };
        Failure { errno: error.raw_os_error(), ..Failure::because("making a user namespace", detail) }
    })?;
    if options.slot.is_some() {
        protocol::send(channel.as_fd(), &Reply::Done, &[]).stage("asking for the maps")?;
        confirm(channel)?;
        process::become_ids(0, 0, true).stage("becoming the workspace's own user")?;
    } else {
        let one = |id| Range { inside: id, outside: id, count: 1 };
        idmap::write("self", one(uid), one(gid), true).stage("mapping your own id")?;
        leave_inotify_to_the_user().stage("limiting inotify of the workspace")?;
    }
    // A change of ids makes a process undumpable, and one whose /proc files belong to the host's root can
    // neither be mapped nor map its children.
    process::set_dumpable(true).stage("becoming dumpable")?;
    process::unshare(Namespaces { mount: true, net: true, ..Namespaces::default() })
        .stage("making the workspace's mount and network namespaces")?;
    // Slave, not private: what the host unmounts is not pinned here.
    mount::make_all_slave().stage("separating the workspace's mounts from the host's")?;
    write_sysctls(&options.router_sysctls)?;
    open_own_net().stage("opening the router's network namespace")
}

/// Rootless, what services watch counts as the caller's own, whose editor and build tools need inotify too: all
/// services together get three quarters of it.
fn leave_inotify_to_the_user() -> io::Result<()> {
    let directory = mount::open_path(Path::new("/proc/sys/user"))?;
    for (name, of_the_host) in
        [("max_inotify_instances", "max_user_instances"), ("max_inotify_watches", "max_user_watches")]
    {
        let text = match std::fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(of_the_host)) {
            // A kernel without inotify has nothing to share out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let all: u64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        lockdown::limit_user_namespace(directory.as_fd(), &[(name, all / 4 * 3)])?;
    }
    Ok(())
}

/// This process's network namespace.
pub(crate) fn open_own_net() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/self/ns/net")?.into())
}

/// Writes sysctls (`net/ipv4/ip_forward`) of this process's network namespace.
pub(crate) fn write_sysctls(sysctls: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in sysctls {
        match std::fs::write(Path::new("/proc/sys").join(name), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && sysctl_may_be_missing(name) => {}
            other => other.stage(format!("setting {name} to {value}"))?,
        }
    }
    Ok(())
}

/// Carries out one request.
fn serve(
    request: ToSpawner,
    fds: Vec<OwnedFd>,
    router: BorrowedFd<'_>,
    filter: &Filter,
) -> Result<OwnedFd, Failure> {
    let first = fds.into_iter().next();
    match request {
        ToSpawner::Launcher => {
            let channel =
                first.ok_or_else(|| Failure::because("making a launcher", "its channel is missing"))?;
            let options = CloneOptions {
                namespaces: Namespaces { mount: true, net: true, ..Namespaces::default() },
                sibling: true,
                cgroup: None,
            };
            match process::clone_single_threaded(&options).stage("making a launcher")? {
                Forked::Child => launcher::run(&Channel::from_fd(channel), filter),
                Forked::Parent { pidfd, .. } => Ok(pidfd),
            }
        }
        ToSpawner::Socket { kind, in_service: false } => {
            socket(kind).stage("making a socket of the workspace")
        }
        ToSpawner::Socket { kind, in_service: true } => {
            let namespace =
                first.ok_or_else(|| Failure::because("making a socket", "its namespace is missing"))?;
            process::enter_net(namespace.as_fd()).stage("entering a service's network namespace")?;
            let made = socket(kind).stage("making a socket of a service");
            // Staying in a service's namespace would misdirect every later request.
            if process::enter_net(router).is_err() {
                process::exit_now(1);
            }
            made
        }
        ToSpawner::Open(request) => sources::open(&request, None),
        ToSpawner::IdMap { owner, service } => {
            let range = |disk, service| Range { inside: disk, outside: service, count: 1 };
            idmap::mapping_namespace(range(owner.0, service.0), range(owner.1, service.1))
                .stage("making a namespace that maps owners")
        }
    }
}

fn socket(kind: SocketKind) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let cloexec = SockFlag::SOCK_CLOEXEC;
    Ok(match kind {
        SocketKind::Route => {
            socket(AddressFamily::Netlink, SockType::Raw, cloexec, SockProtocol::NetlinkRoute)?
        }
        SocketKind::Netfilter => {
            socket(AddressFamily::Netlink, SockType::Raw, cloexec, SockProtocol::NetlinkNetFilter)?
        }
        SocketKind::Tcp => socket(
            AddressFamily::Inet,
            SockType::Stream,
            cloexec | SockFlag::SOCK_NONBLOCK,
            SockProtocol::Tcp,
        )?,
    })
}
