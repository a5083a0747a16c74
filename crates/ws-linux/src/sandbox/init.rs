//! `ws-init`: process 1 of one run.
//!
//! Mounts what the run has for itself, becomes the service's user in U2, locks itself down for good, executes
//! what is to run before the service and then the service, and stays to reap, to execute what `ws exec` asks for,
//! and to report. It has no more rights
//! than the service, and ends when the main process ends or the supervisor is gone; the kernel then kills
//! whatever is left of the run.

use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::Mode;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use ws_sys::idmap::{self, Range};
use ws_sys::landlock::{self, Enforced};
use ws_sys::lockdown::{self, Resource};
use ws_sys::mount::{self, Attributes, MountAttributes};
use ws_sys::process::{self, Ended, Namespaces};
use ws_sys::scm::Channel;
use ws_sys::seccomp::Filter;

use super::bait::Baits;
use super::files;
use super::launcher::{REPO, SCRATCH, SLOTS, TEMPLATE, below, make_place};
use super::protocol::{
    self, Armed, End, ExecSpec, Failure, FromInit, PreStart, RunMount, RunMountKind, RunSpec, Stage, Streams,
    ToInit,
};
use super::trips::Trips;
use crate::probes::one_line;

/// What of the new procfs is shown read-only (`SANDBOX` rule 40; proc(5)).
const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// What of the new procfs is hidden under `/dev/null`.
const PROC_HIDDEN: [&str; 8] =
    ["kcore", "keys", "timer_list", "sched_debug", "kmsg", "kallsyms", "latency_stats", "interrupts"];

/// What may be made in U2: no namespace of any kind, and no more inotify than a service needs, since those
/// are counted for the user on the host too.
const NAMESPACE_LIMITS: [(&str, u64); 8] = [
    ("max_user_namespaces", 0),
    ("max_net_namespaces", 0),
    ("max_mnt_namespaces", 0),
    ("max_pid_namespaces", 0),
    ("max_ipc_namespaces", 0),
    ("max_uts_namespaces", 0),
    ("max_cgroup_namespaces", 0),
    ("max_inotify_instances", 64),
];

/// The size of a terminal that nobody looks at, in columns and rows.
const TERMINAL_SIZE: (u16, u16) = (80, 24);

/// What a run is given at its start.
pub(super) struct Given {
    /// Those of [`RunSpec::streams`].
    pub(super) streams: Vec<OwnedFd>,
    /// Those of [`RunSpec::listen`].
    pub(super) listen: Vec<OwnedFd>,
    /// What its decoys are watched with.
    pub(super) watcher: Option<OwnedFd>,
}

/// Init's process.
pub(super) fn run(control: &Channel, given: Given, spec: &RunSpec, filter: &Filter) -> ! {
    match start(control, given, spec, filter) {
        Ok(running) => supervise(control, running),
        Err(failure) => {
            let _ = protocol::send(control.as_fd(), &FromInit::Failed(failure), &[]);
            process::exit_now(1);
        }
    }
}

/// What init keeps while the service runs.
struct Running {
    main: i32,
    children: OwnedFd,
    /// The writing end of the service's idle standard input.
    _stdin: Option<OwnedFd>,
    trips: Trips,
    baits: Option<Baits>,
}

fn start(
    control: &Channel,
    Given { streams, listen, watcher }: Given,
    spec: &RunSpec,
    filter: &Filter,
) -> Result<Running, Failure> {
    let mut keep = vec![control.as_fd()];
    keep.extend(streams.iter().chain(&listen).chain(&watcher).map(AsFd::as_fd));
    process::close_all_but(&keep).stage("closing inherited files")?;
    process::hide_arguments("ws-init").stage("hiding the command line")?;
    nix::unistd::sethostname(&spec.hostname).map_err(io::Error::from).stage("setting the host name")?;
    // The files of /proc/sys/user are written from inside U2, when the procfs that has them writable is gone.
    let user_limits = mount::open_path(Path::new("/proc/sys/user")).stage("opening /proc/sys/user")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let baits = mount_view(spec, watcher)?;
    mount::pivot(Path::new(TEMPLATE)).stage("entering the sandbox's root")?;
    // While files can still be given to the service's user: afterwards this process is that user.
    let notify = spec.notify.as_deref().map(|path| bind_notify(path, spec.outer)).transpose()?;

    set_limits()?;
    // Before any program is begun, and once: nobody else sets it.
    let _ = files::PROGRAMS.set(files::of_programs(spec.files_limit, spec.distinct_user));
    enter_user_namespace(spec, user_limits.as_fd())?;
    drop(user_limits);
    let (landlock, mut trips) = lock_down(spec, filter)?;
    let baits = match baits {
        Some((baits, armed)) => {
            protocol::send(control.as_fd(), &FromInit::Armed(armed), &[]).stage("reporting the decoys")?;
            Some(baits)
        }
        None => None,
    };

    let children = process::child_signal_fd().stage("watching for the end of processes")?;
    let null = open_null()?;
    let Stdio { stdin, stdout, stderr, idle, tty } = standard_streams(control, streams, spec.streams)?;
    for hook in &spec.pre_start {
        let stdio = [null.as_fd(), stdout.as_fd(), stderr.as_fd()];
        run_before(hook, stdio, control, children.as_fd(), &mut trips)?;
    }
    if let Some(socket) = &notify {
        forget_notices(socket);
    }
    let passed = Passed { sockets: &listen, names: &spec.listen };
    let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let main = execute_main(&spec.exec, stdio, tty, passed, control, &mut trips)?;
    // The end of the output is when the service and its children have closed it, and not later. No further program
    // gets the listening sockets.
    drop((null, stdin, stdout, stderr, listen));
    let pidfd = process::pidfd_of_child(main).stage("opening the service's process")?;
    let landlock = match landlock {
        Enforced::Nothing => 0,
        Enforced::Partly => 1,
        Enforced::Fully => 2,
    };
    let mut fds = vec![pidfd.as_fd()];
    fds.extend(notify.as_ref().map(AsFd::as_fd));
    protocol::send(control.as_fd(), &FromInit::Executed { landlock }, &fds).stage("reporting the start")?;
    Ok(Running { main, children, _stdin: idle, trips, baits })
}

/// What the program of a run gets.
struct Stdio {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// The writing end of an idle standard input.
    idle: Option<OwnedFd>,
    /// Whether the standard input is a terminal to take.
    tty: bool,
}

fn standard_streams(control: &Channel, given: Vec<OwnedFd>, what: Streams) -> Result<Stdio, Failure> {
    let mut given = given.into_iter();
    let mut next =
        || given.next().ok_or_else(|| Failure::because("starting", "its standard streams are missing"));
    match what {
        Streams::Output { idle_stdin } => {
            let (stdin, idle) = if idle_stdin {
                let (reader, writer) = io::pipe().stage("making an idle standard input")?;
                (OwnedFd::from(reader), Some(OwnedFd::from(writer)))
            } else {
                (open_null()?, None)
            };
            Ok(Stdio { stdin, stdout: next()?, stderr: next()?, idle, tty: false })
        }
        Streams::Given { tty } => {
            Ok(Stdio { stdin: next()?, stdout: next()?, stderr: next()?, idle: None, tty })
        }
        Streams::Terminal => {
            let (ours, stdin) = open_terminal()?;
            // The other side goes away from here at once: nothing of the run ever has it.
            protocol::send(control.as_fd(), &FromInit::Terminal { id: None }, &[ours.as_fd(), stdin.as_fd()])
                .stage("handing over the terminal")?;
            drop(ours);
            let stdout = stdin.try_clone().stage("opening the terminal")?;
            let stderr = stdin.try_clone().stage("opening the terminal")?;
            Ok(Stdio { stdin, stdout, stderr, idle: None, tty: true })
        }
    }
}

/// Makes a terminal of the sandbox's own devpts: it has a name here, and belongs to the service's user. The side to
/// keep comes first.
fn open_terminal() -> Result<(OwnedFd, OwnedFd), Failure> {
    let open = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&ours)?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        let (ws_col, ws_row) = TERMINAL_SIZE;
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size)?;
        Ok((ours, theirs))
    };
    open().map_err(io::Error::from).stage("making a terminal")
}

/// Makes the socket on which the service says something of itself.
fn bind_notify(path: &Path, owner: (u32, u32)) -> Result<UnixDatagram, Failure> {
    let stage = || format!("making {}", path.display());
    let socket = UnixDatagram::bind(path).stage(stage())?;
    // To send is to write. Nobody but the service's user comes this far, so it needs no further right.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600)).map_err(io::Error::from).stage(stage())?;
    std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1)).stage(stage())?;
    Ok(socket)
}

/// Drops what was said before the program runs: that was somebody else.
fn forget_notices(socket: &UnixDatagram) {
    let mut discard = [0; 1];
    // Bounded: one that goes on talking is not waited for.
    for _ in 0..1024 {
        if rustix::net::recv(socket, &mut discard, rustix::net::RecvFlags::DONTWAIT).is_err() {
            break;
        }
    }
}

fn open_null() -> Result<OwnedFd, Failure> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .stage("opening /dev/null")
}

/// Mounts what is the run's own into its copy of the template. Gives its decoys, which are watched from then on.
fn mount_view(spec: &RunSpec, watcher: Option<OwnedFd>) -> Result<Option<(Baits, Vec<Armed>)>, Failure> {
    let root = Path::new(TEMPLATE);
    let own = |place: BorrowedFd<'_>| {
        rustix::fs::chownat(
            place,
            "",
            Some(rustix::fs::Uid::from_raw(spec.outer.0)),
            Some(rustix::fs::Gid::from_raw(spec.outer.1)),
            rustix::fs::AtFlags::EMPTY_PATH,
        )
        .map_err(io::Error::from)
    };
    let own_path = |path: &Path| own(mount::open_path(path)?.as_fd());
    let base = Path::new(SCRATCH);
    let inodes = (spec.scratch_bytes / 4096).clamp(1024, 1 << 20);
    let scratch = mount::tmpfs(spec.scratch_bytes, inodes, 0o755, MountAttributes::default())
        .stage("making the private tmpfs")?;
    mount::attach(scratch.as_fd(), base).stage("mounting the private tmpfs")?;
    for (number, (path, mode)) in spec.scratch.iter().enumerate() {
        let stage = || format!("making {}", path.display());
        let inside = spec.scratch.iter().take(number).any(|(earlier, _)| path.starts_with(earlier));
        let made = if inside { below(root, path) } else { base.join(number.to_string()) };
        if inside {
            let parent = path.parent().unwrap_or(path);
            mount::make_directories(root, parent, 0o755).stage(stage())?;
        }
        rustix::fs::mkdir(&made, Mode::from_raw_mode(0o700)).map_err(io::Error::from).stage(stage())?;
        rustix::fs::chmod(&made, Mode::from_raw_mode(*mode)).map_err(io::Error::from).stage(stage())?;
        own_path(&made).stage(stage())?;
        if !inside {
            let tree = mount::clone_path(&made).stage(stage())?;
            mount::attach(tree.as_fd(), &below(root, path)).stage(stage())?;
        }
    }

    // On the tmpfs, before anything is mounted over it.
    let baits = watcher.map(|watcher| Baits::lay(root, &spec.decoys, spec.outer, watcher)).transpose()?;

    if let Some(repo) = &spec.repo {
        let stage = || format!("showing the project at {}", repo.display());
        let place = below(root, repo);
        if !place.is_dir() {
            mount::make_directories(root, repo, 0o755).stage(stage())?;
        }
        mount::move_to(Path::new(REPO), &place).stage(stage())?;
    }
    let mut hidden = Vec::new();
    for run_mount in &spec.mounts {
        hidden.extend(mount_one(root, run_mount, &own)?);
    }
    // After the places for further mounts were made in them.
    for tree in hidden {
        let read_only = Attributes { read_only: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), read_only, false).stage("making what is hidden read-only")?;
    }
    if let Some(repo) = &spec.repo {
        let stage = || format!("making {} read-only", repo.display());
        let tree = mount::open_path(&below(root, repo)).stage(stage())?;
        let read_only = Attributes { read_only: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), read_only, false).stage(stage())?;
    }
    for (path, contents) in &spec.secrets {
        let stage = || format!("writing {}", path.display());
        let place = below(root, path);
        std::fs::write(&place, contents).stage(stage())?;
        rustix::fs::chmod(&place, Mode::from_raw_mode(0o400)).map_err(io::Error::from).stage(stage())?;
        own_path(&place).stage(stage())?;
    }

    // An instance of the run's own: no terminal of the host or of another run can be seen or opened in it.
    // Rootless, user 0 is not mapped in U1, which older kernels want.
    let ptys = mount::devpts().or_else(|_| mount::devpts_of_child(spec.outer.0, spec.outer.1));
    if let Ok(ptys) = ptys {
        // Without it programs find no terminal to open, and a service that is to run on one says so.
        mount::attach(ptys.as_fd(), &below(root, Path::new("/dev/pts"))).stage("mounting /dev/pts")?;
    }
    // While the host's procfs is still here: the kernel gives a new one only to who sees one already.
    let proc = mount::procfs().stage("making /proc")?;
    let place = below(root, Path::new("/proc"));
    mount::attach(proc.as_fd(), &place).stage("mounting /proc")?;
    for name in PROC_READ_ONLY {
        let path = place.join(name);
        if path.exists() {
            mount::make_read_only(&path).stage(format!("making /proc/{name} read-only"))?;
        }
    }
    for name in PROC_HIDDEN {
        let path = place.join(name);
        if path.exists() {
            let null = mount::clone_path(&below(root, Path::new("/dev/null"))).stage("opening /dev/null")?;
            mount::attach(null.as_fd(), &path).stage(format!("hiding /proc/{name}"))?;
        }
    }
    Ok(baits)
}

/// Makes one mount. Returns it where it is to become read-only when all are made.
fn mount_one(
    root: &Path,
    run_mount: &RunMount,
    own: &dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Option<OwnedFd>, Failure> {
    let target = &run_mount.target;
    let stage = || format!("mounting {}", target.display());
    let directory = match run_mount.what {
        RunMountKind::Slot { directory, .. } => directory,
        RunMountKind::Tmpfs { .. } => true,
    };
    let place = match place_of(root, run_mount, directory) {
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::EXDEV)) => {
            return Err(Failure::because(stage(), "a symbolic link is on the way, which is refused"));
        }
        other => other.stage(stage())?,
    };
    match run_mount.what {
        RunMountKind::Slot { slot, .. } => {
            mount::move_to_at(&PathBuf::from(format!("{SLOTS}/{slot}")), place.as_fd()).stage(stage())?;
            Ok(None)
        }
        RunMountKind::Tmpfs { bytes, writable } => {
            let inodes = (bytes / 4096).clamp(16, 1 << 20);
            let tree = mount::tmpfs(bytes, inodes, 0o755, MountAttributes::default()).stage(stage())?;
            own(tree.as_fd()).stage(stage())?;
            mount::attach_at(tree.as_fd(), place.as_fd()).stage(stage())?;
            Ok((!writable).then_some(tree))
        }
    }
}

/// Opens the place of a mount, after making it where it may be made. Follows no link: the place can lie in a
/// directory that another service writes, who would choose what is covered here.
fn place_of(root: &Path, run_mount: &RunMount, directory: bool) -> io::Result<OwnedFd> {
    let target = &run_mount.target;
    let base = mount::open_path(root)?;
    let inside = target.strip_prefix("/").unwrap_or(target);
    match mount::open_beneath(base.as_fd(), inside) {
        Err(error) if run_mount.make && error.kind() == io::ErrorKind::NotFound => {
            make_place(root, target, directory)?;
            mount::open_beneath(base.as_fd(), inside)
        }
        other => other,
    }
}

fn set_limits() -> Result<(), Failure> {
    let stage = "setting resource limits";
    // A piped core pattern runs on the host as root and does not ask RLIMIT_CORE: leave it nothing to dump.
    std::fs::write("/proc/self/coredump_filter", "0").stage("emptying core dumps")?;
    lockdown::limit(Resource::Core, 0).stage(stage)?;
    lockdown::limit(Resource::RealtimePriority, 0).stage(stage)?;
    lockdown::limit(Resource::MessageQueues, 1 << 20).stage(stage)?;
    Ok(())
}

/// Becomes the service's user and enters U2, in which nothing further can be made.
fn enter_user_namespace(spec: &RunSpec, user_limits: BorrowedFd<'_>) -> Result<(), Failure> {
    if spec.distinct_user {
        process::become_ids(spec.outer.0, spec.outer.1, true).stage("becoming the service's user")?;
    }
    process::unshare(Namespaces { user: true, ..Namespaces::default() })
        .stage("making the service's user namespace")?;
    // A change of ids makes a process undumpable, and the maps of an undumpable process belong to root.
    process::set_dumpable(true).stage("becoming dumpable")?;
    let range = |inside, outside| Range { inside, outside, count: 1 };
    idmap::write("self", range(spec.inner.0, spec.outer.0), range(spec.inner.1, spec.outer.1), true)
        .stage("mapping the service's id")?;
    lockdown::limit_user_namespace(user_limits, &NAMESPACE_LIMITS).stage("forbidding further namespaces")?;
    if let Some(processes) = spec.processes_limit {
        lockdown::limit(Resource::Processes, processes).stage("setting the process limit")?;
    }
    process::set_dumpable(false).stage("becoming undumpable")?;
    if process::unshare(Namespaces { user: true, ..Namespaces::default() }).is_ok() {
        return Err(Failure::because(
            "forbidding further namespaces",
            "another user namespace could be made",
        ));
    }
    Ok(())
}

/// Gives up every right that is left, for good.
fn lock_down(spec: &RunSpec, filter: &Filter) -> Result<(Enforced, Trips), Failure> {
    lockdown::drop_capabilities().stage("dropping capabilities")?;
    lockdown::no_new_privileges().stage("forbidding new privileges")?;
    lockdown::new_session_keyring().stage("joining an empty keyring")?;
    let writable: Vec<PathBuf> = spec.writable.iter().filter(|path| path.exists()).cloned().collect();
    let landlock = landlock::restrict(&writable).stage("restricting by Landlock")?;
    let executions = spec.executions.as_ref();
    let listener = filter.install(executions.is_some()).stage("installing the system call filter")?;
    Ok((landlock, Trips::new(listener, executions)))
}

/// A program on its way: forked, and not yet known to be executed.
struct Starting {
    pid: i32,
    name: String,
    /// Closes without a word when the program is executed.
    report: io::PipeReader,
    said: Vec<u8>,
}

impl Starting {
    /// Reads what is there to read, once `report` is readable. Gives how it went when that is known.
    fn progress(&mut self) -> Option<Result<(), Failure>> {
        let mut part = [0; 1024];
        match self.report.read(&mut part) {
            Ok(0) => Some(self.outcome()),
            Ok(length) => {
                self.said.extend_from_slice(part.get(..length).unwrap_or_default());
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => Some(Err(Failure::new(format!("executing {}", self.name), &error))),
        }
    }

    /// Reads to the end of a process that has ended: its end of the pipe is closed.
    fn finish(&mut self) -> Result<(), Failure> {
        loop {
            if let Some(outcome) = self.progress() {
                return outcome;
            }
        }
    }

    fn outcome(&self) -> Result<(), Failure> {
        // End of file without a word: the pipe was closed by the exec.
        if self.said.is_empty() {
            return Ok(());
        }
        let unclear = || Failure::because(format!("executing {}", self.name), "it failed");
        Err(serde_json::from_slice(&self.said).unwrap_or_else(|_| unclear()))
    }
}

/// Listening sockets that a program gets, in this order from descriptor 3 on (sd_listen_fds(3)). They block, as those
/// of systemd do.
#[derive(Debug, Clone, Copy)]
struct Passed<'a> {
    sockets: &'a [OwnedFd],
    names: &'a [String],
}

impl Passed<'_> {
    const NONE: Passed<'static> = Passed { sockets: &[], names: &[] };

    /// What it says of itself in the environment of this process.
    fn variables(self) -> Vec<(String, String)> {
        if self.sockets.is_empty() {
            return Vec::new();
        }
        let variable = |key: &str, value: String| (key.to_owned(), value);
        vec![
            variable("LISTEN_FDS", self.sockets.len().to_string()),
            variable("LISTEN_PID", std::process::id().to_string()),
            variable("LISTEN_FDNAMES", self.names.join(":")),
        ]
    }
}

/// Forks a process that executes a program. Does not wait for it: what runs here already can stop it on its way
/// with a signal.
fn begin(
    spec: &ExecSpec,
    stdio: [BorrowedFd<'_>; 3],
    tty: bool,
    passed: Passed<'_>,
) -> Result<Starting, Failure> {
    let name = spec.argv.first().cloned().unwrap_or_default();
    let (report, errors) = io::pipe().stage("making a pipe")?;
    // Out of the way of what is passed.
    let errors = process::above_passed(errors.as_fd(), passed.sockets.len()).stage("making a pipe")?;
    let mut errors = io::PipeWriter::from(errors);
    match process::fork_single_threaded().stage("making a process")? {
        None => {
            let failure = become_program(spec, stdio, tty, passed, errors.as_fd());
            let text = serde_json::to_vec(&failure).unwrap_or_default();
            let _ = errors.write_all(&text);
            process::exit_now(127);
        }
        Some(pid) => Ok(Starting { pid, name, report, said: Vec::new() }),
    }
}

/// Runs a program to its end, which must be a success.
fn run_before(
    hook: &PreStart,
    stdio: [BorrowedFd<'_>; 3],
    control: &Channel,
    children: BorrowedFd<'_>,
    trips: &mut Trips,
) -> Result<(), Failure> {
    // One beyond all time is none.
    let deadline = Instant::now().checked_add(hook.timeout);
    let name = format!("pre_start `{}`", one_line(&hook.exec.argv));
    let not_run = |failure: Failure| Failure { stage: name.clone(), ..failure };
    let mut starting = Some(begin(&hook.exec, stdio, false, Passed::NONE).map_err(not_run)?);
    let pid = starting.as_ref().map_or(0, |starting| starting.pid);
    loop {
        trips.flush(control);
        let mut watched = vec![control.as_fd(), children, trips.as_fd()];
        watched.extend(starting.as_ref().map(|starting| starting.report.as_fd()));
        let wake = [deadline, trips.deadline()].into_iter().flatten().min();
        let ready = process::poll_until(&watched, wake).stage(name.as_str())?;
        if !ready.contains(&true) && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            // Init ends after this failure, and whatever is left of the command with it.
            return Err(Failure::because(
                format!("{name} took longer than {} s and was killed", hook.timeout.as_secs_f32()),
                "",
            ));
        }
        if ready.first() == Some(&true) {
            // Nothing is asked of init before the main program runs: the supervisor is gone.
            process::exit_now(0);
        }
        if ready.get(2) == Some(&true) {
            trips.serve(control);
        }
        if ready.get(3) == Some(&true)
            && let Some(outcome) = starting.as_mut().and_then(Starting::progress)
        {
            outcome.map_err(not_run)?;
            starting = None;
        }
        if ready.get(1) == Some(&true) {
            let mut discard = [0u8; 512];
            let _ = rustix::io::read(children, &mut discard);
            let mut end = None;
            while let Some((ended, how)) = process::reap_any() {
                if ended == pid {
                    end = Some(how);
                }
            }
            let Some(end) = end else { continue };
            if let Some(mut starting) = starting {
                starting.finish().map_err(not_run)?;
            }
            return match end {
                Ended::Code(0) => Ok(()),
                Ended::Code(code) => Err(Failure::because(format!("{name} exited with {code}"), "")),
                Ended::Signal(signal) => {
                    let signal = ws_model::event::signal_name(signal);
                    Err(Failure::because(format!("{name} was killed by {signal}"), ""))
                }
            };
        }
    }
}

/// Executes the main program; gives its process id inside when it was executed.
fn execute_main(
    spec: &ExecSpec,
    stdio: [BorrowedFd<'_>; 3],
    tty: bool,
    passed: Passed<'_>,
    control: &Channel,
    trips: &mut Trips,
) -> Result<i32, Failure> {
    let mut starting = begin(spec, stdio, tty, passed)?;
    loop {
        let ready = process::poll_readable(&[starting.report.as_fd(), control.as_fd(), trips.as_fd()])
            .stage("waiting for the program")?;
        if ready.get(2) == Some(&true) {
            trips.serve(control);
        }
        if ready.first() == Some(&true) {
            if let Some(outcome) = starting.progress() {
                return outcome.map(|()| starting.pid);
            }
        } else if ready.get(1) == Some(&true) {
            // Nothing is asked of init before the main program runs: the supervisor is gone.
            process::exit_now(0);
        }
    }
}

/// The rest of the way to the program, in its own process. Returns only on failure.
fn become_program(
    spec: &ExecSpec,
    stdio: [BorrowedFd<'_>; 3],
    tty: bool,
    passed: Passed<'_>,
    keep: BorrowedFd<'_>,
) -> Failure {
    let prepare = || -> Result<(), Failure> {
        process::reset_signals().stage("resetting signals")?;
        rustix::process::setsid().map_err(io::Error::from).stage("starting a session")?;
        let [stdin, stdout, stderr] = stdio;
        process::set_stdio(stdin, stdout, stderr).stage("setting standard input and output")?;
        let sockets: Vec<_> = passed.sockets.iter().map(AsFd::as_fd).collect();
        process::pass_descriptors(&sockets, keep).stage("closing files")?;
        if let Some(limits) = files::PROGRAMS.get() {
            files::limit(*limits).stage("setting the limit of open files")?;
        }
        if tty {
            process::take_terminal().stage("taking the terminal")?;
        }
        let stage = || format!("changing to {}", spec.cwd.display());
        rustix::process::chdir(&spec.cwd).map_err(io::Error::from).stage(stage())?;
        // A directory that is not below this root has no path here (getcwd(2)).
        let cwd = rustix::process::getcwd(Vec::new()).map_err(io::Error::from).stage(stage())?;
        if !cwd.to_bytes().starts_with(b"/") {
            return Err(Failure::because(stage(), "it lies outside of the sandbox"));
        }
        Ok(())
    };
    if let Err(failure) = prepare() {
        return failure;
    }
    let name = spec.argv.first().map_or("", String::as_str);
    let stage = format!("executing {name}");
    let c_string = |text: &str| CString::new(text).map_err(io::Error::from);
    let argv: io::Result<Vec<CString>> = spec.argv.iter().map(|arg| c_string(arg)).collect();
    let variables = passed.variables();
    let own = spec.env.iter().filter(|(key, _)| !variables.iter().any(|(known, _)| known == key));
    let env: io::Result<Vec<CString>> =
        own.chain(&variables).map(|(key, value)| c_string(&format!("{key}={value}"))).collect();
    let (argv, env) = match (argv, env) {
        (Ok(argv), Ok(env)) => (argv, env),
        (Err(error), _) | (_, Err(error)) => return Failure::not_executed(stage, &error),
    };
    let path =
        spec.env.iter().find(|(key, _)| key == "PATH").map_or("/usr/bin:/bin", |(_, value)| value.as_str());
    let mut last = io::Error::from_raw_os_error(nix::libc::ENOENT);
    for candidate in candidates(name, path) {
        let Ok(program) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        let error = process::exec(&program, &argv, &env);
        match error.raw_os_error() {
            // As a shell does: look further, but remember that something was there (execvp(3)).
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) => {}
            Some(nix::libc::EACCES) => last = error,
            _ => return Failure::not_executed(stage, &error),
        }
    }
    Failure::not_executed(stage, &last)
}

/// The files that a command may mean.
fn candidates(name: &str, path: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(OsStr::new(directory)).join(name))
        .collect()
}

/// A program that was asked for while the main one runs.
struct Further {
    id: u64,
    pid: i32,
    /// Until it is known to be executed.
    starting: Option<Starting>,
}

/// Reaps, executes what is asked for, and ends with the main process or the supervisor.
///
/// Waits for nothing but all of that at once: whatever the service does to its own processes, the end of the
/// supervisor is noticed.
fn supervise(control: &Channel, mut running: Running) -> ! {
    let mut all: Vec<Further> = Vec::new();
    loop {
        running.trips.flush(control);
        let mut watched = vec![control.as_fd(), running.children.as_fd(), running.trips.as_fd()];
        watched.extend(all.iter().filter_map(|one| Some(one.starting.as_ref()?.report.as_fd())));
        let Ok(ready) = process::poll_until(&watched, running.trips.deadline()) else {
            process::exit_now(1);
        };
        // Before the reaping: what a process did is told before its end.
        if ready.get(2) == Some(&true) {
            running.trips.serve(control);
        }
        // Before the reaping: that a program was executed is told before its end.
        let mut reports = ready.iter().skip(3);
        all.retain_mut(|one| {
            let Some(starting) = &mut one.starting else { return true };
            let is_ready = reports.next() == Some(&true);
            let Some(outcome) = is_ready.then(|| starting.progress()).flatten() else { return true };
            one.starting = None;
            tell_started(control, one.id, outcome)
        });
        if ready.get(1) == Some(&true) {
            let mut discard = [0u8; 512];
            let _ = rustix::io::read(&running.children, &mut discard);
            while let Some((pid, ended)) = process::reap_any() {
                running.trips.forget(pid);
                if pid == running.main {
                    running.trips.finish(control);
                    let _ = protocol::send(control.as_fd(), &FromInit::Exited(ended.into()), &[]);
                    process::exit_now(0);
                }
                let Some(at) = all.iter().position(|one| one.pid == pid) else { continue };
                let Further { id, starting, .. } = all.swap_remove(at);
                let started =
                    starting.is_none_or(|mut starting| tell_started(control, id, starting.finish()));
                if started {
                    let end = End::from(ended);
                    let _ = protocol::send(control.as_fd(), &FromInit::ExecEnded { id, end }, &[]);
                }
            }
        }
        if ready.first() == Some(&true) {
            match protocol::receive::<ToInit>(control) {
                Ok((ToInit::Exec { id, exec, tty, guest }, fds)) => match begin_further(&exec, tty, &fds) {
                    Ok(starting) => {
                        if guest {
                            running.trips.welcome(starting.pid);
                        }
                        all.push(Further { id, pid: starting.pid, starting: Some(starting) });
                    }
                    Err(failure) => {
                        tell_started(control, id, Err(failure));
                    }
                },
                Ok((ToInit::Terminal { id }, _)) => {
                    // When nobody hears it, the next poll says so.
                    let _ = match open_terminal() {
                        Ok((ours, theirs)) => protocol::send(
                            control.as_fd(),
                            &FromInit::Terminal { id: Some(id) },
                            &[ours.as_fd(), theirs.as_fd()],
                        ),
                        Err(failure) => {
                            protocol::send(control.as_fd(), &FromInit::NoTerminal { id, failure }, &[])
                        }
                    };
                }
                Ok((ToInit::Executions(executions), _)) => running.trips.change(&executions),
                Ok((ToInit::Arm { decoy }, _)) => {
                    if let Some(armed) = running.baits.as_ref().and_then(|baits| baits.arm(decoy)) {
                        let armed = FromInit::Armed(vec![armed]);
                        // When nobody hears it, the next poll says so.
                        let _ = protocol::send(control.as_fd(), &armed, &[]);
                    }
                }
                Ok((ToInit::Kill { id }, _)) => {
                    if let Some(one) = all.iter().find(|one| one.id == id) {
                        // It leads a session, so its process group has its number, unless it is not that far
                        // yet. It is not reaped yet.
                        let pid = nix::unistd::Pid::from_raw(one.pid);
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                        let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                }
                // The supervisor is gone: so is everything here.
                Err(_) => process::exit_now(0),
            }
        }
    }
}

/// Tells whether a further program was executed; gives the same.
fn tell_started(control: &Channel, id: u64, outcome: Result<(), Failure>) -> bool {
    let started = outcome.is_ok();
    let answer = match outcome {
        Ok(()) => FromInit::ExecStarted { id },
        Err(failure) => FromInit::ExecFailed { id, failure },
    };
    // When nobody hears it, the next poll says so.
    let _ = protocol::send(control.as_fd(), &answer, &[]);
    started
}

fn begin_further(exec: &ExecSpec, tty: bool, fds: &[OwnedFd]) -> Result<Starting, Failure> {
    match fds {
        [stdin, stdout, stderr] => {
            begin(exec, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], tty, Passed::NONE)
        }
        _ => Err(Failure::because("executing", "its standard streams are missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_up_as_a_shell_does() {
        let paths = |name: &str, path: &str| -> Vec<String> {
            candidates(name, path).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(paths("sh", "/usr/bin:/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(paths("./run", "/usr/bin"), ["./run"]);
        assert_eq!(paths("x", ""), Vec::<String>::new());
    }
}
