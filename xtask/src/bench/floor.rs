//! The floor: what the kernel itself takes for the same work, with no supervision.
//!
//! A bare program, single-threaded, that makes a bridge and, for each of N processes, the namespaces, the
//! cgroups, the pair of interfaces and the view of files that a service of `ws` has, then executes `sleep`. Its
//! `down` kills, reaps and removes. Nothing of `ws` is in it but the wrappers of system calls.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ws_sys::idmap::{self, Range};
use ws_sys::mount::{self, Attributes, MountAttributes};
use ws_sys::netlink::route::{self, LOOPBACK, Veth};
use ws_sys::netlink::{Batch, Socket};
use ws_sys::process::{self, CloneOptions, Forked, Namespaces};

use crate::Failure;

const BRIDGE: u32 = 100;
const INSIDE: u32 = 100;
const FIRST_PORT: u32 = 1000;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const TEMPLATE: &str = "/tmp";

/// The view that a service of the bench's workspace has: what of this machine is bound.
const BINDS: [&str; 18] = [
    "/usr",
    "/opt",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/perl",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Runs the floor for `count` processes with `restarts` restarts of one of them; prints a line of JSON.
///
/// # Errors
/// When the kernel refuses something.
pub(super) fn run(count: u32, restarts: u32) -> Result<serde_json::Value, Failure> {
    measure(count, restarts).map_err(|error| format!("the floor program: {error}"))
}

fn measure(count: u32, restarts: u32) -> io::Result<serde_json::Value> {
    let begun = Instant::now();
    process::unshare(Namespaces { mount: true, net: true, ..Namespaces::default() })?;
    mount::make_all_private()?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let mut route = Socket::new(route_socket()?).map_err(io::Error::other)?;
    make_bridge(&mut route)?;
    let mut waiting = Vec::new();
    for index in 0..count {
        waiting.push(make(index)?);
    }
    // Back to back: the first write to a v1 `cgroup.procs` after an idle moment takes 14 ms, the next do not.
    for one in &waiting {
        for path in &one.attach {
            std::fs::write(path.join("cgroup.procs"), one.pid.to_string())?;
        }
    }
    let mut links = Batch::new();
    let namespaces: Vec<std::fs::File> = waiting
        .iter()
        .map(|one| std::fs::File::open(format!("/proc/{}/ns/net", one.pid)))
        .collect::<io::Result<_>>()?;
    for (index, namespace) in (0..).zip(&namespaces) {
        link(&mut links, index, namespace);
    }
    if !links.is_empty() {
        run_batch(&mut route, links)?;
    }
    let mut children = Vec::new();
    let mut executed = Vec::new();
    for one in waiting {
        drop(one.release);
        executed.push(one.executed);
        children.push(one.child);
    }
    for mut executed in executed {
        // End of file: the program was executed.
        let _ = executed.read(&mut [0])?;
    }
    let up_us = micros(begun);

    let mut restart_us = Vec::new();
    if restarts > 0 {
        restart_us = restart_rounds(restarts)?;
    }

    let begun = Instant::now();
    for child in &children {
        process::pidfd_signal(child.pidfd.as_fd(), 9)?;
    }
    for child in &children {
        process::poll_readable(&[child.pidfd.as_fd()])?;
        process::reap_pidfd(child.pidfd.as_fd())?;
    }
    for child in &children {
        for path in &child.cgroups {
            while let Err(error) = std::fs::remove_dir(path) {
                if error.kind() != io::ErrorKind::ResourceBusy {
                    return Err(error);
                }
            }
        }
    }
    drop(children);
    drop(route);
    let down_us = micros(begun);
    Ok(serde_json::json!({ "up_us": up_us, "down_us": down_us, "restart_us": restart_us }))
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A process that waits for its links and cgroups.
struct Waiting {
    pid: i32,
    attach: Vec<PathBuf>,
    release: io::PipeWriter,
    executed: io::PipeReader,
    child: Child,
}

struct Child {
    pidfd: OwnedFd,
    cgroups: Vec<PathBuf>,
}

fn route_socket() -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?)
}

fn run_batch(socket: &mut Socket, mut batch: Batch) -> io::Result<()> {
    socket.run(&mut batch).map_err(io::Error::other)
}

fn make_bridge(socket: &mut Socket) -> io::Result<()> {
    let mut batch = Batch::new();
    let create = (nix::libc::NLM_F_CREATE | nix::libc::NLM_F_EXCL) as u16;
    batch.push(nix::libc::RTM_NEWLINK, create, |b| {
        // struct ifinfomsg: family, type, index, flags, change mask.
        let up = (nix::libc::IFF_UP as u32).to_ne_bytes();
        b.raw(&[0; 4]).raw(&BRIDGE.to_ne_bytes()).raw(&up).raw(&up);
        b.text(nix::libc::IFLA_IFNAME, "floor0");
        b.nest(nix::libc::IFLA_LINKINFO, |b| {
            b.text(nix::libc::IFLA_INFO_KIND, "bridge");
        });
    });
    route::set_up(&mut batch, LOOPBACK);
    route::add_address(&mut batch, BRIDGE, GATEWAY);
    run_batch(socket, batch)
}

/// Where a process's cgroups are made: every controller that `ws` uses, below this process's own.
fn cgroup_parents() -> io::Result<Vec<(PathBuf, bool)>> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let mut parents = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controller, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let base = match controller {
            "" if Path::new("/sys/fs/cgroup/cgroup.procs").exists() => "/sys/fs/cgroup".to_owned(),
            "" => "/sys/fs/cgroup/unified".to_owned(),
            "memory" | "pids" | "cpu" | "cpu,cpuacct" | "cpuacct" => format!("/sys/fs/cgroup/{controller}"),
            _ => continue,
        };
        parents.push((PathBuf::from(format!("{base}{path}")), controller.is_empty()));
    }
    Ok(parents)
}

fn make(index: u32) -> io::Result<Waiting> {
    let mut cgroups = Vec::new();
    let mut v2 = None;
    let mut v2_paths = Vec::new();
    for (parent, is_v2) in cgroup_parents()? {
        let path = parent.join(format!("floor-{}-{index}", std::process::id()));
        std::fs::create_dir(&path)?;
        let limit = path.join("pids.max");
        if limit.exists() {
            std::fs::write(limit, "4098")?;
        }
        if is_v2 {
            v2 = Some(mount::open_host(&path)?);
            v2_paths.push(path.clone());
        }
        cgroups.push(path);
    }
    let (hold, release) = io::pipe()?;
    let (executed, executing) = io::pipe()?;
    let options = CloneOptions {
        namespaces: Namespaces {
            mount: true,
            pid: true,
            net: true,
            uts: true,
            ipc: true,
            cgroup: true,
            user: false,
        },
        sibling: false,
        cgroup: v2.as_ref().map(AsFd::as_fd),
    };
    match process::clone(&options)? {
        Forked::Child => {
            drop((release, executed));
            let done = process::poll_readable(&[hold.as_fd()]).and_then(|_| child(true));
            process::exit_now(i32::from(done.is_err()));
        }
        Forked::Parent { pid, pidfd } => {
            drop((hold, executing));
            let by_clone = |path: &PathBuf| v2.is_some() && v2_paths.contains(path);
            let attach = cgroups.iter().filter(|path| !by_clone(path)).cloned().collect();
            Ok(Waiting { pid, attach, release, executed, child: Child { pidfd, cgroups } })
        }
    }
}

/// The pair of interfaces of a process.
fn link(batch: &mut Batch, index: u32, namespace: &std::fs::File) {
    let host = u8::try_from(index % 250).unwrap_or(0) + 2;
    let third = u8::try_from(index / 250).unwrap_or(0);
    let veth = Veth {
        index: FIRST_PORT + index,
        name: &format!("f{index}"),
        bridge: BRIDGE,
        peer_index: INSIDE,
        peer_name: "eth0",
        peer_mac: [2, 0, 10, 77, third, host],
        peer_namespace: namespace.as_fd(),
    };
    route::add_veth(batch, &veth);
}

/// The child's way to `sleep`. Returns only on failure.
fn child(new_template: bool) -> io::Result<()> {
    if new_template {
        // Inside the new network namespace.
        let mut socket = Socket::new(route_socket()?).map_err(io::Error::other)?;
        let mut batch = Batch::new();
        route::set_up(&mut batch, LOOPBACK);
        route::set_up(&mut batch, INSIDE);
        route::add_host_route(&mut batch, INSIDE, GATEWAY);
        route::add_default_route(&mut batch, INSIDE, GATEWAY);
        run_batch(&mut socket, batch)?;
        template()?;
    }
    let root = Path::new(TEMPLATE);
    let scratch = mount::tmpfs(256 << 20, 65_536, 0o755, MountAttributes::default())?;
    mount::attach(scratch.as_fd(), &root.join("run"))?;
    for (name, place) in [("a", "tmp"), ("b", "var/tmp"), ("c", "root"), ("d", "dev/shm")] {
        let made = root.join("run").join(name);
        std::fs::create_dir(&made)?;
        let tree = mount::clone_path(&made)?;
        mount::attach(tree.as_fd(), &root.join(place))?;
    }
    let proc = mount::procfs()?;
    mount::attach(proc.as_fd(), &root.join("proc"))?;
    mount::pivot(root)?;
    process::unshare(Namespaces { user: true, ..Namespaces::default() })?;
    let one = Range { inside: 1000, outside: 0, count: 1 };
    idmap::write("self", one, one, true)?;
    let argv = [c"sleep".to_owned(), c"infinity".to_owned()];
    Err(process::exec(c"/usr/bin/sleep", &argv, &[]))
}

fn template() -> io::Result<()> {
    let root = Path::new(TEMPLATE);
    let binds: Vec<(&str, OwnedFd)> = BINDS
        .iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| Ok((*path, mount::clone_tree(mount::open_host(Path::new(path))?.as_fd())?)))
        .collect::<io::Result<_>>()?;
    let tree = mount::tmpfs(4 << 20, 16_384, 0o755, MountAttributes::default())?;
    mount::attach(tree.as_fd(), root)?;
    for name in ["run", "tmp", "var/tmp", "root", "dev/shm", "proc"] {
        mount::make_directories(root, Path::new(name), 0o755)?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
    }
    for (path, tree) in binds {
        let inside = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
        if Path::new(path).is_dir() {
            mount::make_directories(root, inside, 0o755)?;
        } else {
            mount::make_directories(root, inside.parent().unwrap_or(inside), 0o755)?;
            std::fs::write(root.join(inside), "")?;
        }
        let attributes =
            Attributes { read_only: !path.starts_with("/dev"), no_suid: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), attributes, true)?;
        mount::attach(tree.as_fd(), &root.join(inside))?;
    }
    Ok(())
}

/// From the old process's end to the new one's exec, in a mount namespace that has the template already.
fn restart_rounds(rounds: u32) -> io::Result<Vec<u64>> {
    let (mut results, sender) = io::pipe()?;
    // A process of its own holds the template, as a launcher does.
    let options = CloneOptions {
        namespaces: Namespaces { mount: true, ..Namespaces::default() },
        ..CloneOptions::default()
    };
    match process::clone(&options)? {
        Forked::Child => {
            drop(results);
            let done = template().and_then(|()| restarts_in_template(rounds, sender));
            process::exit_now(i32::from(done.is_err()));
        }
        Forked::Parent { pidfd, .. } => {
            drop(sender);
            let mut text = String::new();
            results.read_to_string(&mut text)?;
            process::poll_readable(&[pidfd.as_fd()])?;
            process::reap_pidfd(pidfd.as_fd())?;
            Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
        }
    }
}

fn restarts_in_template(rounds: u32, mut sender: io::PipeWriter) -> io::Result<()> {
    use std::io::Write;
    let mut old: Option<OwnedFd> = None;
    for _ in 0..rounds {
        if let Some(pidfd) = old.take() {
            process::pidfd_signal(pidfd.as_fd(), 9)?;
            process::poll_readable(&[pidfd.as_fd()])?;
            process::reap_pidfd(pidfd.as_fd())?;
        }
        let begun = Instant::now();
        let (mut executed, executing) = io::pipe()?;
        let options = CloneOptions {
            namespaces: Namespaces {
                mount: true,
                pid: true,
                uts: true,
                ipc: true,
                cgroup: true,
                user: false,
                net: false,
            },
            ..CloneOptions::default()
        };
        match process::clone(&options)? {
            Forked::Child => process::exit_now(i32::from(child(false).is_err())),
            Forked::Parent { pidfd, .. } => {
                drop(executing);
                let _ = executed.read(&mut [0])?;
                writeln!(sender, "{}", micros(begun))?;
                old = Some(pidfd);
            }
        }
    }
    if let Some(pidfd) = old {
        process::pidfd_signal(pidfd.as_fd(), 9)?;
        process::poll_readable(&[pidfd.as_fd()])?;
        process::reap_pidfd(pidfd.as_fd())?;
    }
    Ok(())
}
