//! A launcher: holds what a service keeps across its runs (its network namespace, its v1 cgroups, the mounts of
//! its view) and makes the first process of each run.
//!
//! Its mount namespace holds the template and what is mounted into it, and nothing else of the host, so that
//! a run's copy of it is small and no disk is kept busy:
//!
//! | place | what |
//! |---|---|
//! | `/t` | the template: the read-only root of every run |
//! | `/r` | the project, entry by entry |
//! | `/s/N` | the mount in slot N |
//! | `/g` | where a run puts its private tmpfs before it goes into pieces |
//! | `/proc` | the host's procfs, which a run needs to see to mount its own |
//!
//! The template's mount is read-only there and in every run. A second one of the same tmpfs, attached nowhere, is the
//! launcher's own: through it files are replaced in the runs that go on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use ws_sys::mount::{self, Attributes, MountAttributes};
use ws_sys::process::{self, CloneOptions, Forked, Namespaces};
use ws_sys::scm::Channel;
use ws_sys::seccomp::Filter;

use super::init;
use super::protocol::{self, EntryKind, Failure, Reply, RepoEntry, RunSpec, Stage, Template, ToLauncher};
use super::spawner::{open_own_net, write_sysctls};

/// The template's place in a launcher.
pub(super) const TEMPLATE: &str = "/t";
/// The project's place in a launcher.
pub(super) const REPO: &str = "/r";
/// The slots' place in a launcher.
pub(super) const SLOTS: &str = "/s";
/// The place of a run's private tmpfs in a launcher.
pub(super) const SCRATCH: &str = "/g";

/// Size of the small tmpfs that hold only directories, links and generated files.
const SKELETON_BYTES: u64 = 4 * 1024 * 1024;
const SKELETON_INODES: u64 = 16 * 1024;

/// The launcher's process.
pub(super) fn run(channel: &Channel, filter: &Filter) -> ! {
    let mut ready = start(channel);
    let mut template = None;
    loop {
        let Ok((request, fds)) = protocol::receive::<ToLauncher>(channel) else {
            // The supervisor is gone.
            process::exit_now(0);
        };
        // A launcher that could not start says so to whoever asks it for anything.
        let done = match &mut ready {
            Ok(()) => serve(request, fds, &mut template, channel, filter),
            Err(failure) => Err(failure.clone()),
        };
        let sent = match &done {
            Ok(fd) => protocol::send(channel.as_fd(), &Reply::Done, fd.as_ref().map(AsFd::as_fd).as_slice()),
            Err(failure) => protocol::send(channel.as_fd(), &Reply::Failed(failure.clone()), &[]),
        };
        if sent.is_err() {
            process::exit_now(0);
        }
    }
}

fn start(channel: &Channel) -> Result<(), Failure> {
    process::close_all_but(&[channel.as_fd()]).stage("closing inherited files")?;
    process::hide_arguments("ws-launcher").stage("hiding the command line")?;
    let proc = mount::open_path(Path::new("/proc")).stage("opening /proc")?;
    let proc = mount::clone_tree(proc.as_fd()).stage("binding /proc")?;
    mount::make_all_private().stage("separating the launcher's mounts")?;
    let base = skeleton().stage("making the launcher's root")?;
    // Any directory of the old root does: it is gone a moment later.
    let place = Path::new("/tmp");
    mount::attach(base.as_fd(), place).stage("mounting the launcher's root")?;
    for name in ["proc", "t", "r", "s", "g"] {
        mount::make_directories(place, Path::new(name), 0o755).stage("making the launcher's directories")?;
    }
    mount::attach(proc.as_fd(), &place.join("proc")).stage("mounting /proc")?;
    mount::pivot(place).stage("leaving the host's mounts")
}

fn skeleton() -> io::Result<OwnedFd> {
    mount::tmpfs(SKELETON_BYTES, SKELETON_INODES, 0o755, MountAttributes::default())
}

fn serve(
    request: ToLauncher,
    fds: Vec<OwnedFd>,
    writable: &mut Option<OwnedFd>,
    channel: &Channel,
    filter: &Filter,
) -> Result<Option<OwnedFd>, Failure> {
    match request {
        ToLauncher::Prepare(template) => {
            write_sysctls(&template.sysctls)?;
            *writable = Some(build_template(&template, &fds)?);
            open_own_net().stage("opening the service's network namespace").map(Some)
        }
        ToLauncher::Source { slot, directory } => put_source(slot, directory, &fds).map(|()| None),
        ToLauncher::Repo { first, last, entries } => put_repo(first, last, &entries, &fds).map(|()| None),
        ToLauncher::Start(spec) => start_run(&spec, fds, channel, filter).map(Some),
        ToLauncher::Files(files) => {
            let unbuilt = || Failure::because("replacing files of the sandbox", "it has no root yet");
            let tree = writable.as_ref().ok_or_else(unbuilt)?;
            files.iter().try_for_each(|(path, contents)| replace_file(tree, path, contents)).map(|()| None)
        }
    }
}

/// Makes a place to mount at: a directory, or an empty file.
pub(super) fn make_place(root: &Path, place: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return mount::make_directories(root, place, 0o755);
    }
    if let Some(parent) = place.parent() {
        mount::make_directories(root, parent, 0o755)?;
    }
    let path = below(root, place);
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW;
    rustix::fs::open(&path, flags | rustix::fs::OFlags::WRONLY, Mode::from_raw_mode(0o444))?;
    Ok(())
}

/// `path`, which is absolute, as seen below `root`.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Puts a file of the template in the place of another, or in a place that is free.
fn replace_file(tree: &OwnedFd, path: &Path, contents: &str) -> Result<(), Failure> {
    use rustix::fs::{AtFlags, OFlags, openat, renameat, unlinkat};
    let stage = || format!("replacing {}", path.display());
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".ws-new");
    let write = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = std::fs::File::from(openat(tree, &beside, flags, Mode::from_raw_mode(0o644))?);
        io::Write::write_all(&mut file, contents.as_bytes())?;
        Ok(renameat(tree, &beside, tree, path)?)
    };
    write()
        .inspect_err(|_| {
            // What went wrong first is what is told.
            let _ = unlinkat(tree, &beside, AtFlags::empty());
        })
        .stage(stage())
}

/// Gives a mount of the template's tmpfs that can be written.
fn build_template(template: &Template, fds: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    let root = Path::new(TEMPLATE);
    let tree = skeleton().stage("making the root of the sandbox")?;
    mount::attach(tree.as_fd(), root).stage("mounting the root of the sandbox")?;
    for path in &template.directories {
        mount::make_directories(root, path, 0o755).stage(format!("making {}", path.display()))?;
    }
    for path in &template.mount_files {
        make_place(root, path, false).stage(format!("making {}", path.display()))?;
    }
    for (path, text) in &template.symlinks {
        let stage = || format!("making the link {}", path.display());
        if let Some(parent) = path.parent() {
            mount::make_directories(root, parent, 0o755).stage(stage())?;
        }
        std::os::unix::fs::symlink(text, below(root, path)).stage(stage())?;
    }
    for (path, contents) in &template.files {
        let stage = || format!("writing {}", path.display());
        if let Some(parent) = path.parent() {
            mount::make_directories(root, parent, 0o755).stage(stage())?;
        }
        std::fs::write(below(root, path), contents).stage(stage())?;
    }
    if template.mounts.len() != fds.len() {
        return Err(Failure::because("building the sandbox", "a mount is missing"));
    }
    let writable = mount::clone_path(root).stage("keeping the root of the sandbox")?;
    for (path, tree) in template.mounts.iter().zip(fds) {
        mount::attach(tree.as_fd(), &below(root, path)).stage(format!("mounting {}", path.display()))?;
    }
    let read_only = Attributes { read_only: true, ..Attributes::default() };
    mount::set_attributes(tree.as_fd(), read_only, false)
        .stage("making the root of the sandbox read-only")
        .map(|()| writable)
}

fn put_source(slot: usize, directory: bool, fds: &[OwnedFd]) -> Result<(), Failure> {
    let place = PathBuf::from(format!("{SLOTS}/{slot}"));
    let stage = || format!("keeping mount {slot}");
    let tree = fds.first().ok_or_else(|| Failure::because(stage(), "it is missing"))?;
    if place.exists() {
        let _ = mount::detach(&place);
    } else {
        make_place(Path::new("/"), &place, directory).stage(stage())?;
    }
    mount::attach(tree.as_fd(), &place).stage(stage())
}

fn put_repo(first: bool, last: bool, entries: &[RepoEntry], fds: &[OwnedFd]) -> Result<(), Failure> {
    let root = Path::new(REPO);
    if first {
        // The old view, if there is one; a run that sees it has its own copy.
        let _ = mount::detach(root);
        let tree = skeleton().stage("making the view of the project")?;
        mount::attach(tree.as_fd(), root).stage("mounting the view of the project")?;
    }
    let mut fds = fds.iter();
    for entry in entries {
        let path = root.join(&entry.name);
        let stage = || format!("showing {}", entry.name);
        match &entry.kind {
            EntryKind::Symlink(text) => {
                std::os::unix::fs::symlink(text, &path).stage(stage())?;
                continue;
            }
            EntryKind::Directory | EntryKind::Place => {
                rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).map_err(io::Error::from)
            }
            EntryKind::File => make_place(root, Path::new(&entry.name), false),
        }
        .stage(stage())?;
        if entry.kind == EntryKind::Place {
            continue;
        }
        let tree = fds.next().ok_or_else(|| Failure::because(stage(), "its mount is missing"))?;
        mount::attach(tree.as_fd(), &path).stage(stage())?;
    }
    if last {
        let tree = mount::open_path(root).stage("opening the view of the project")?;
        // Mount points that a run needs in the project's root itself are made before this by the run's copy of
        // the namespace sharing the file system: so the mount stays writable here and is made read-only there.
        drop(tree);
    }
    Ok(())
}

/// Makes the first process of a run. Gives its pidfd.
fn start_run(
    spec: &RunSpec,
    fds: Vec<OwnedFd>,
    channel: &Channel,
    filter: &Filter,
) -> Result<OwnedFd, Failure> {
    let mut fds = fds.into_iter();
    let mut next =
        |what: &str| fds.next().ok_or_else(|| Failure::because("starting", format!("{what} is missing")));
    let control = Channel::from_fd(next("its channel")?);
    let mut streams = Vec::new();
    for _ in 0..spec.streams.descriptors() {
        streams.push(next("a standard stream")?);
    }
    let cgroup = if spec.cgroup { Some(next("its cgroup")?) } else { None };
    let mut listen = Vec::new();
    for _ in &spec.listen {
        listen.push(next("a listening socket")?);
    }
    let watcher = if spec.decoys.is_empty() { None } else { Some(next("what watches its decoys")?) };
    let options = CloneOptions {
        namespaces: Namespaces {
            mount: true,
            pid: true,
            uts: true,
            ipc: true,
            cgroup: true,
            ..Namespaces::default()
        },
        sibling: true,
        cgroup: cgroup.as_ref().map(AsFd::as_fd),
    };
    match process::clone_single_threaded(&options).stage("making the sandbox's namespaces")? {
        Forked::Parent { pidfd, .. } => Ok(pidfd),
        Forked::Child => {
            // The launcher's own channel is closed with everything else that init does not keep.
            let _ = channel;
            init::run(&control, init::Given { streams, listen, watcher }, spec, filter)
        }
    }
}
