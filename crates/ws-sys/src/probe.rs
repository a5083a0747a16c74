//! What this machine can do, found by doing it: each ability in a child process that tries.
//!
//! A setting that is read may say yes where a security module, a container or a limit says no; so nothing
//! is read. Changes nothing that outlives the call.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink as protocol, socket_with};

use crate::cgroup::{Controller, Layout, Tree, Usable};
use crate::idmap::{self, Range};
use crate::landlock::{self, Enforced};
use crate::lockdown;
use crate::mount::{self, Attributes, MountAttributes};
use crate::netlink::route::{self, LOOPBACK, Veth};
use crate::netlink::{Batch, Socket};
use crate::nft::{self, Base, Chain, Family, Field, Hook, Policy, Rule, Set, Table, Transaction, Value};
use crate::process::{self, CloneOptions, Forked, Namespaces};
use crate::seccomp::Filter;

/// One thing that a machine can do or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// Its word: `userns`.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// What was found (may be empty), or why not, with the step and the error.
    pub found: Result<String, String>,
}

/// What a machine can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(pub Vec<Ability>);

impl Capabilities {
    /// An ability by its word.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Ability> {
        self.0.iter().find(|ability| ability.name == name)
    }

    /// Whether the machine can do what the word says. An unknown word: no.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|ability| ability.found.is_ok())
    }
}

impl fmt::Display for Capabilities {
    /// A table, a line for each ability.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |of: fn(&Ability) -> &str| self.0.iter().map(|ability| of(ability).len()).max().unwrap_or(0);
        let (names, whats) = (width(|a| &a.name), width(|a| &a.what));
        for Ability { name, what, found } in &self.0 {
            let (mark, text) = match found {
                Ok(text) => ("yes", text),
                Err(text) => ("no ", text),
            };
            writeln!(f, "{}", format!("{name:names$}  {mark}  {what:whats$}  {text}").trim_end())?;
        }
        Ok(())
    }
}

/// Tries everything. `directory` is on the file system that shall be able to map owners (`idmap`), and
/// writable.
///
/// # Errors
/// When the caller has more than one thread: its children could not run code.
pub fn capabilities(directory: &Path) -> io::Result<Capabilities> {
    // Tells at once whether children can be made at all.
    in_child(Namespaces::default(), || Ok(String::new()))?.map_err(io::Error::other)?;
    let mut abilities = Vec::new();
    let mut add = |name: &str, what: &str, found: Result<String, String>| {
        abilities.push(Ability { name: name.to_owned(), what: what.to_owned(), found });
    };
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = Namespaces { user: true, ..Namespaces::default() };
    let tries: [(&str, &str, Namespaces, Attempt); 6] = [
        ("userns", "user namespaces", user, nothing_more),
        ("mount", "mounts in a user namespace", Namespaces { mount: true, ..user }, mounts),
        ("proc", "a new procfs", Namespaces { mount: true, pid: true, ..user }, procfs),
        ("netns", "network namespaces", Namespaces { net: true, ..user }, network),
        ("nft", "nf_tables rules", Namespaces { net: true, ..user }, rules),
        ("bridge", "bridges and veth pairs", Namespaces { net: true, ..user }, bridge),
    ];
    for (name, what, namespaces, attempt) in tries {
        add(name, what, in_child(namespaces, || as_root_of_it(ids).and_then(|()| attempt()))?);
    }
    let here = Namespaces::default();
    add("seccomp", "system call filters", in_child(here, filter)?);
    add("landlock", "Landlock", in_child(here, || restricted(directory))?);
    add("idmap", "mounts that map owners", in_child(here, || id_mapped(directory))?);
    add("pidfd", "process descriptors", in_child(here, pidfd)?);
    for (name, what, found) in cgroups() {
        add(name, what, found);
    }
    Ok(Capabilities(abilities))
}

/// What was found, or why not.
type Tried = Result<String, String>;

/// What is tried as root of new namespaces.
type Attempt = fn() -> Tried;

/// Names the step in which an attempt failed.
trait Step<T> {
    fn step(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::error::Error> Step<T> for Result<T, E> {
    fn step(self, what: &str) -> Result<T, String> {
        self.map_err(|error| {
            let mut text = format!("{what}: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            text
        })
    }
}

/// Runs an attempt in a child with new namespaces. A failure to make the child is the attempt's, unless it
/// needs no namespaces.
fn in_child(namespaces: Namespaces, attempt: impl FnOnce() -> Tried) -> io::Result<Tried> {
    let (mut reader, mut writer) = io::pipe()?;
    let options = CloneOptions { namespaces, ..CloneOptions::default() };
    let pidfd = match process::clone(&options) {
        Ok(Forked::Child) => {
            drop(reader);
            let (mark, text) = match attempt() {
                Ok(text) => (b'+', text),
                Err(text) => (b'-', text),
            };
            let written = writer.write_all(&[mark]).and_then(|()| writer.write_all(text.as_bytes()));
            process::exit_now(i32::from(written.is_err()));
        }
        Ok(Forked::Parent { pidfd, .. }) => pidfd,
        Err(error) if namespaces == Namespaces::default() => return Err(error),
        Err(error) => return Ok(Err(format!("clone3: {error}"))),
    };
    drop(writer);
    let mut report = Vec::new();
    reader.read_to_end(&mut report)?;
    let ended = ended(&pidfd)?;
    Ok(match report.split_first() {
        Some((b'+', text)) => Ok(String::from_utf8_lossy(text).into_owned()),
        Some((_, text)) => Err(String::from_utf8_lossy(text).into_owned()),
        None => Err(format!("the attempt ended without a word: {ended:?}")),
    })
}

fn ended(pidfd: &OwnedFd) -> io::Result<process::Ended> {
    loop {
        process::poll_readable(&[pidfd.as_fd()])?;
        if let Some(ended) = process::reap_pidfd(pidfd.as_fd())? {
            return Ok(ended);
        }
    }
}

/// Becomes root of the user namespace that was just entered, which its parent knew by `ids`.
fn as_root_of_it((uid, gid): (u32, u32)) -> Result<(), String> {
    let root = |outside| Range { inside: 0, outside, count: 1 };
    idmap::write("self", root(uid), root(gid), true).step("mapping the own id")
}

fn nothing_more() -> Tried {
    Ok(String::new())
}

fn mounts() -> Tried {
    mount::make_all_private().step("separating mounts")?;
    let place = Path::new("/proc");
    let tree = mount::tmpfs(1 << 20, 64, 0o755, MountAttributes::default()).step("making a tmpfs")?;
    mount::attach(tree.as_fd(), place).step("mounting it")?;
    fs::write(place.join("file"), "").step("writing to it")?;
    Ok(String::new())
}

fn procfs() -> Tried {
    mount::make_all_private().step("separating mounts")?;
    let tree = mount::procfs().step("making a procfs")?;
    mount::attach(tree.as_fd(), Path::new("/proc")).step("mounting it")?;
    let me = fs::read_link("/proc/self").step("reading it")?;
    if me == Path::new("1") {
        Ok(String::new())
    } else {
        Err(format!("it shows us as process {}", me.display()))
    }
}

fn netlink(protocol: Option<rustix::net::Protocol>) -> Result<Socket, String> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
        .step("making a netlink socket")?;
    Socket::new(fd).step("preparing it")
}

fn network() -> Tried {
    let mut batch = Batch::new();
    route::set_up(&mut batch, LOOPBACK);
    netlink(None)?.run(&mut batch).step("setting the loopback interface up")?;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).step("listening on it")?;
    let address = listener.local_addr().step("listening on it")?;
    std::net::TcpStream::connect(address).step("connecting over it")?;
    Ok(String::new())
}

fn rules() -> Tried {
    const TABLE: Table = Table { family: Family::Inet, name: "probe" };
    const SET: Set = Set { table: TABLE, name: "set", fields: &[Field::Ipv4, Field::Protocol, Field::Port] };
    const CHAIN: Chain = Chain { table: TABLE, name: "output" };
    let mut socket = netlink(Some(protocol::NETFILTER))?;
    let mut t = Transaction::new();
    t.add_table(TABLE);
    t.add_set(SET);
    t.add_base_chain(CHAIN, Base { hook: Hook::Output, priority: 0, policy: Policy::Drop });
    let loads = &[nft::Load::Ipv4Destination, nft::Load::TransportProtocol, nft::Load::DestinationPort];
    t.add_rule(CHAIN, &Rule::new().ipv4().in_set(SET, loads).counter().accept());
    t.add_elements(SET, [[Value::Ipv4(Ipv4Addr::LOCALHOST), Value::Protocol(6), Value::Port(1)]]);
    t.commit(&mut socket).step("loading a table")?;
    let loaded = nft::rules(&mut socket, TABLE).step("reading it back")?;
    if loaded.len() == 1 {
        Ok(String::new())
    } else {
        Err(format!("{} rules of 1 were loaded", loaded.len()))
    }
}

fn bridge() -> Tried {
    const BRIDGE: u32 = 100;
    const PORT: u32 = 101;
    const INSIDE: u32 = 102;
    let here: OwnedFd = fs::File::open("/proc/self/ns/net").step("opening the network namespace")?.into();
    let mut socket = netlink(None)?;
    let mut batch = Batch::new();
    batch.push(libc::RTM_NEWLINK, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, |b| {
        // `struct ifinfomsg`: the index is its second word.
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&BRIDGE.to_ne_bytes());
        b.raw(&header).text(libc::IFLA_IFNAME, "probe0");
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "bridge");
        });
    });
    socket.run(&mut batch).step("making a bridge")?;
    let mut batch = Batch::new();
    let veth = Veth {
        index: PORT,
        name: "probe1",
        bridge: BRIDGE,
        peer_index: INSIDE,
        peer_name: "probe2",
        peer_mac: [2, 0, 0, 0, 0, 2],
        peer_namespace: here.as_fd(),
    };
    route::add_veth(&mut batch, &veth);
    route::isolate_port(&mut batch, PORT);
    socket.run(&mut batch).step("making a veth pair")?;
    Ok(String::new())
}

fn filter() -> Tried {
    lockdown::no_new_privileges().step("forbidding new privileges")?;
    let filter = Filter::for_services().step("compiling a filter")?;
    // A filter that asks must be had, too.
    let _listener = filter.install(false).step("installing it")?;
    // Allowed without a filter: it asks for nothing.
    match process::unshare(Namespaces::default()) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(String::new()),
        other => Err(format!("a forbidden call gave {other:?}")),
    }
}

fn restricted(directory: &Path) -> Tried {
    let abi = landlock::abi();
    lockdown::no_new_privileges().step("forbidding new privileges")?;
    let enforced = landlock::restrict(&[]).step("restricting")?;
    if enforced == Enforced::Nothing {
        return Err("the kernel enforces nothing".to_owned());
    }
    let name = directory.join(format!(".ws-probe.{}", std::process::id()));
    match fs::File::create_new(&name) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(format!("ABI {abi}")),
        Err(error) => Err(format!("writing gave another error: {error}")),
        Ok(_) => {
            let _ = fs::remove_file(&name);
            Err("a file could be written that must not".to_owned())
        }
    }
}

fn id_mapped(directory: &Path) -> Tried {
    let owner = Range { inside: 0, outside: 1, count: 1 };
    let map = idmap::mapping_namespace(owner, owner).step("making a namespace that maps")?;
    process::unshare(Namespaces { mount: true, ..Namespaces::default() }).step("separating mounts")?;
    let place = mount::open_host(directory).step("opening the directory")?;
    let name = mount::filesystem_name(place.as_fd()).step("asking for its file system")?;
    let tree = mount::clone_tree(place.as_fd()).step("cloning its mount")?;
    let mapped = Attributes { id_map: Some(map.as_fd()), ..Attributes::default() };
    mount::set_attributes(tree.as_fd(), mapped, true).step(&format!("mapping the owners of {name}"))?;
    Ok(name)
}

fn pidfd() -> Tried {
    let here = CloneOptions::default();
    let pidfd = match process::clone(&here).step("clone3")? {
        Forked::Child => process::exit_now(7),
        Forked::Parent { pidfd, .. } => pidfd,
    };
    match ended(&pidfd).step("waiting")? {
        process::Ended::Code(7) => Ok(String::new()),
        other => Err(format!("a child that exits with 7 is reported as {other:?}")),
    }
}

/// What control groups can do for us: each controller, and what a v2 directory gives.
fn cgroups() -> Vec<(&'static str, &'static str, Tried)> {
    const ALL: [(&str, &str, Controller); 3] = [
        ("memory", "memory limits", Controller::Memory),
        ("pids", "limits of processes", Controller::Pids),
        ("cpu", "limits of processor time", Controller::Cpu),
    ];
    let layout = Layout::of_this_process();
    let mode = layout.as_ref().map_or_else(ToString::to_string, |layout| layout.mode().to_string());
    let name = format!("ws-probe.{}", std::process::id());
    let tree = layout
        .step("looking for control groups")
        .and_then(|layout| Tree::create(&layout, &name).step("making control groups"));
    let usable = tree.as_ref().map(Tree::usable).map_err(Clone::clone);
    let mut rows = Vec::new();
    for (name, what, controller) in ALL {
        rows.push((name, what, usable.clone().and_then(|usable| of(usable, controller, &mode))));
    }
    let lacking: Vec<&str> =
        rows.iter().filter(|(.., found)| found.is_err()).map(|(name, ..)| *name).collect();
    let cgroup = match lacking.as_slice() {
        [] => Ok(mode),
        some => Err(format!("{mode}: without {}", some.join(", "))),
    };
    let (into, kill) = match &tree {
        Ok(tree) => in_group(tree),
        Err(error) => (Err(error.clone()), Err(error.clone())),
    };
    rows.push(("cgroup", "all of these limits", cgroup));
    rows.push(("cgroup_into", "starting in a control group", into));
    rows.push(("cgroup_kill", "killing a control group", kill));
    if let Ok(tree) = tree {
        // A directory that cannot be removed stays visible where an administrator looks for it.
        let _ = tree.remove(Duration::from_secs(2));
    }
    rows
}

fn of(usable: &Usable, controller: Controller, mode: &str) -> Tried {
    match usable.lacking(controller) {
        None => Ok(mode.to_owned()),
        Some(why) => Err(why.to_owned()),
    }
}

/// Starts a process in a group, and kills it with the group.
fn in_group(tree: &Tree) -> (Tried, Tried) {
    let started = || -> Result<_, String> {
        let group = tree.add("one").step("making a group")?;
        let Some(directory) = group.v2_dir_fd().step("opening it")? else {
            return Err(tree.usable().no_v2().unwrap_or("there is no v2 directory").to_owned());
        };
        let options = CloneOptions { cgroup: Some(directory.as_fd()), ..CloneOptions::default() };
        let (hold, release) = io::pipe().step("making a pipe")?;
        match process::clone(&options).step("clone3 with CLONE_INTO_CGROUP")? {
            Forked::Child => {
                drop(release);
                // Stays until it is killed, or the parent is gone.
                let _ = process::poll_readable(&[hold.as_fd()]);
                process::exit_now(0);
            }
            Forked::Parent { pid, pidfd } => Ok((group, pid, pidfd, release)),
        }
    };
    let (group, pid, pidfd, release) = match started() {
        Ok(started) => started,
        Err(error) => return (Err(error.clone()), Err(error)),
    };
    let standing = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let name = group.directories().first().map(PathBuf::from).unwrap_or_default();
    let there = name.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let into = match there {
        Some(name) if standing.contains(&format!("{name}/one")) => Ok(String::new()),
        _ => Err(format!("the child stands elsewhere: {}", standing.trim())),
    };
    let killed = group.kill().step("killing it");
    if killed.is_err() {
        drop(release);
    }
    let kill = match (killed, ended(&pidfd).step("waiting")) {
        (Ok(()), Ok(process::Ended::Signal(libc::SIGKILL))) => Ok(String::new()),
        (Ok(()), Ok(other)) => Err(format!("the child was not killed: {other:?}")),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    (into, kill)
}
