//! The sandbox on the real kernel, without engine or command line: two services, a run each, one more run
//! that keeps the network namespace, what runs before the program, what it says of itself, terminals, nothing
//! left. As root and, in a child, as user 1000.
//!
//! Its own `main`: the spawner is forked from a process that must have one thread.

#![expect(clippy::print_stdout, reason = "a test binary with its own main reports on its standard output")]

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ws_core::plan::{Bind, BindSource, Exclude, LimitsPlan, RepoView, Run, ServicePlan, View};
use ws_linux::sandbox::layout::{self, RunContext};
use ws_linux::sandbox::protocol::{
    self, End, EntryKind, ExecSpec, FromInit, Reply, RepoEntry, RunSpec, SourceRequest, Streams, ToInit,
    ToLauncher,
};
use ws_linux::sandbox::sources;
use ws_linux::sandbox::spawner::{self, Spawner};
use ws_linux::slots::Slot;
use ws_model::{
    ByteSize, CommandLine, HookCommand, Hooks, LogRetention, Probe, ProbeKind, Restart, RestartPolicy,
    ServiceKind, ServiceName, Stop,
};
use ws_sys::mount;
use ws_sys::process;
use ws_sys::scm::Channel;

fn main() -> ExitCode {
    // What test runners ask of a test binary (the protocol of libtest that nextest speaks).
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("sandbox: test");
        }
        return ExitCode::SUCCESS;
    }
    let base = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        share_mounts();
        scenario("root", &base.path().join("root"), true);
        // The same as an ordinary user, in a process of its own.
        let status = match process::clone(&process::CloneOptions::default()).unwrap() {
            process::Forked::Child => {
                let directory = base.path().join("user");
                std::fs::create_dir(&directory).unwrap();
                nix::unistd::chown(&directory, Some(1000.into()), Some(1000.into())).unwrap();
                process::become_ids(1000, 1000, true).unwrap();
                process::set_dumpable(true).unwrap();
                let done = std::panic::catch_unwind(|| scenario("user", &directory.join("w"), false));
                process::exit_now(i32::from(done.is_err()));
            }
            process::Forked::Parent { pidfd, .. } => {
                process::poll_readable(&[pidfd.as_fd()]).unwrap();
                process::reap_pidfd(pidfd.as_fd()).unwrap().unwrap()
            }
        };
        assert_eq!(status, process::Ended::Code(0), "the scenario as user 1000");
    } else {
        println!("sandbox: not root, so only the rootless half runs");
        scenario("user", &base.path().join("user"), false);
    }
    println!("1 passed, 0 failed");
    ExitCode::SUCCESS
}

/// As on a machine with systemd: what is mounted in one namespace appears in the others, unless somebody takes care.
fn share_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    process::unshare(process::Namespaces { mount: true, ..process::Namespaces::default() }).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
}

fn mounts_of_the_host() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().map(str::to_owned).collect()
}

fn scenario(label: &str, root: &Path, as_root: bool) {
    std::fs::create_dir_all(root.join("src/data/deep/usr")).unwrap();
    std::fs::write(root.join("src/hello.txt"), "hello").unwrap();
    std::fs::write(root.join(".env"), "SECRET=1").unwrap();
    std::fs::write(root.join("README"), "readme").unwrap();
    std::os::unix::fs::symlink("README", root.join("link")).unwrap();

    let mounts = mounts_of_the_host();
    let options = spawner::Options {
        router_sysctls: vec![("net/ipv4/ip_forward".into(), "1".into())],
        slot: as_root.then(|| Slot::take(Path::new("/run/ws/.slots")).unwrap()),
    };
    let spawner = spawner::fork(options).unwrap_or_else(|failure| panic!("{label}: {failure}"));
    let rootless = (!as_root).then(|| (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()));
    let service = service(root);
    let mut sandbox = Sandbox::prepare(&spawner, &service, root, rootless);

    let script = r#"
        set -e
        echo "id=$(id -u):$(id -g) user=$(id -un) pid=$$ host=$(hostname)"
        echo "caps=$(grep CapEff /proc/self/status | cut -f2) nnp=$(grep NoNewPrivs /proc/self/status | cut -f2) seccomp=$(grep Seccomp: /proc/self/status | cut -f2)"
        cat src/hello.txt; echo; cat link; echo
        ls -a . | tr '\n' ' '; echo
        echo written > src/data/new && cat src/data/new
        if echo x > src/other 2>/dev/null; then echo WROTE; else echo refused; fi
        if [ -e .env ]; then echo SEEN; else echo hidden; fi
        if unshare -Ur true 2>/dev/null; then echo NESTED; else echo locked; fi
        touch /tmp/x "$HOME/y" /dev/shm/z; ls /tmp
        cat /proc/1/environ 2>/dev/null | tr '\0' '\n' | grep -c . || true
        ls /proc | grep -c '^[0-9]' || true
        chmod u+s src/data/new 2>/dev/null && echo SUID || echo nosuid
        readlink /proc/self/ns/net
    "#;
    let first = sandbox.run(&service, script);
    println!("--- {label}\n{first}");
    for text in [
        "id=1000:1000 user=dev",
        "caps=0000000000000000 nnp=1 seccomp=2",
        "hello",
        "readme",
        "written",
        "refused",
        "hidden",
        "locked",
        "nosuid",
    ] {
        assert!(first.contains(text), "{label}: no {text:?} in:\n{first}");
    }
    for text in ["WROTE", "SEEN", "NESTED", "SUID"] {
        assert!(!first.contains(text), "{label}: {text} in:\n{first}");
    }
    // What it wrote belongs to the owner of the tree.
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_eq!(owner(&root.join("src/data/new")), owner(root));

    // A further run keeps the network namespace, and nothing else.
    let second = sandbox.run(&service, "ls /tmp; readlink /proc/self/ns/net");
    let net = |text: &str| text.lines().last().unwrap().to_owned();
    assert_eq!(net(&first), net(&second), "{label}: the network namespace stays");
    assert_eq!(second.lines().count(), 1, "{label}: /tmp is new: {second}");

    assert_eq!(mounts_of_the_host(), mounts, "{label}: what a run mounts is not mounted on the host");
    attack_stopped_execs(&sandbox, &service);
    attack_swapped_places(&sandbox, &service, root);
    attack_shared_counts(&spawner, &service, root, as_root);
    before_the_program(&sandbox, &service);
    what_it_says_of_itself(&sandbox, &service);
    a_terminal_of_its_own(&sandbox, &service);
    terminals_on_request(&sandbox, &service);
    attack_other_terminals(&sandbox, &service);
    if !as_root {
        terminals_without_a_user_0();
    }

    drop(sandbox);
    spawner.end();
}

fn service(root: &Path) -> ServicePlan {
    let bind = |path: PathBuf, writable, owner_mapped| Bind {
        source: BindSource::Host(path.clone()),
        target: path,
        writable,
        directory: true,
        create: false,
        owner_mapped,
    };
    let mut system = Vec::new();
    let mut symlinks = Vec::new();
    for name in ["/usr", "/bin", "/lib", "/lib64", "/sbin"] {
        match std::fs::symlink_metadata(name) {
            Ok(meta) if meta.is_symlink() => symlinks.push((name.into(), std::fs::read_link(name).unwrap())),
            Ok(_) => system.push(bind(name.into(), false, false)),
            Err(_) => {}
        }
    }
    ServicePlan {
        name: ServiceName::new("api").unwrap(),
        declared: ServiceName::new("api").unwrap(),
        replica: 1,
        kind: ServiceKind::Service,
        index: 0,
        address: [10, 77, 0, 2].into(),
        mac: [2, 0, 10, 77, 0, 2],
        waits: vec![],
        build: None,
        makes: None,
        uses: Vec::new(),
        watch: Vec::new(),
        reload: ws_model::Reload::Restart,
        listen: Vec::new(),
        hold: std::time::Duration::from_secs(10),
        run: Run { argv: vec![], env: vec![], cwd: root.to_path_buf() },
        view: View {
            uid: 1000,
            gid: 1000,
            user: "dev".into(),
            home: "/home/dev".into(),
            symlinks,
            files: vec![
                ("/etc/passwd".into(), "dev:x:1000:1000::/home/dev:/bin/sh\n".into()),
                ("/etc/group".into(), "dev:x:1000:\n".into()),
            ],
            system,
            scratch: vec![
                ("/tmp".into(), 0o1777),
                ("/run".into(), 0o755),
                ("/run/api".into(), 0o755),
                ("/home/dev".into(), 0o700),
                ("/dev/shm".into(), 0o1777),
            ],
            scratch_size: ByteSize::mib(64),
            repo: Some(RepoView { root: root.to_path_buf(), exclude: vec![Exclude::Name(".env".into())] }),
            binds: vec![bind(root.join("src/data"), true, true)],
            tmpfs: vec![(root.join("src/data/deep/usr"), ByteSize::mib(1))],
            secret_files: vec![],
            secret_env: vec![],
        },
        links: vec![],
        publish: vec![],
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        success_exit_codes: vec![0],
        open_stdin: true,
        tty: false,
        logs: LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::No,
            max: None,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
        },
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(10) },
        limits: LimitsPlan { memory: None, cpus: None, pids: 100, pids_declared: false, files: None },
        policy: ws_core::plan::PolicyPlan::default(),
    }
}

struct Sandbox {
    channel: Channel,
    launcher: OwnedFd,
    rootless: Option<(u32, u32)>,
}

impl Sandbox {
    fn prepare(spawner: &Spawner, service: &ServicePlan, root: &Path, rootless: Option<(u32, u32)>) -> Self {
        let (channel, launcher) = spawner.launcher().unwrap();
        let sandbox = Self { channel, launcher, rootless };
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(root).unwrap());
        let map = rootless
            .is_none()
            .then(|| spawner.id_map((owner, owner), layout::outer_ids(service, rootless)).unwrap());
        let open = |request: SourceRequest, mapped: bool| {
            if rootless.is_some() {
                spawner.open(request).unwrap()
            } else {
                let map = if mapped { map.as_ref().map(AsFd::as_fd) } else { None };
                sources::open(&request, map).unwrap_or_else(|failure| panic!("{failure}"))
            }
        };
        let (template, requests) = layout::template(service, &[("net/ipv4/ip_unprivileged_port_start", "0")]);
        let mounts: Vec<OwnedFd> = requests.into_iter().map(|request| open(request, false)).collect();
        sandbox.ask(&ToLauncher::Prepare(template), &mounts);
        for (slot, wanted) in
            layout::slots(&service.view, root, Path::new("/nonexistent")).into_iter().enumerate()
        {
            let mount = open(wanted.source, wanted.owner_mapped);
            sandbox.ask(&ToLauncher::Source { slot, directory: wanted.directory }, &[mount]);
        }
        let mut entries = Vec::new();
        let mut mounts = Vec::new();
        let repo = service.view.repo.as_ref().unwrap();
        for entry in std::fs::read_dir(root).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if !repo.shows(&name) {
                continue;
            }
            let kind = entry.file_type().unwrap();
            if kind.is_symlink() {
                let text = std::fs::read_link(entry.path()).unwrap();
                entries.push(RepoEntry { name, kind: EntryKind::Symlink(text) });
                continue;
            }
            let request = SourceRequest {
                path: entry.path(),
                beneath: Some(root.to_path_buf()),
                writable: false,
                device: false,
                create: false,
            };
            mounts.push(open(request, true));
            let kind = if kind.is_dir() { EntryKind::Directory } else { EntryKind::File };
            entries.push(RepoEntry { name, kind });
        }
        sandbox.ask(&ToLauncher::Repo { first: true, last: true, entries }, &mounts);
        sandbox
    }

    fn ask(&self, request: &ToLauncher, fds: &[OwnedFd]) -> Vec<OwnedFd> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        protocol::send(self.channel.as_fd(), request, &fds).unwrap();
        match protocol::receive::<Reply>(&self.channel).unwrap() {
            (Reply::Done, fds) => fds,
            (Reply::Failed(failure), _) => panic!("{failure}"),
        }
    }

    /// Starts a script and waits until its shell is executed.
    fn start(&self, service: &ServicePlan, script: &str) -> Running {
        let running = self.begin(service, script);
        running.executed();
        running
    }

    fn begin(&self, service: &ServicePlan, script: &str) -> Running {
        let (control, theirs) = Channel::pair().unwrap();
        let (output, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let run = Run {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/home/dev".into())],
            cwd: service.run.cwd.clone(),
        };
        let context = RunContext {
            rootless: self.rootless,
            secret_files: &[],
            secret_env: &[],
            cgroup: false,
            pids_by_cgroup: false,
            main: true,
            given: false,
        };
        let spec: RunSpec = layout::run_spec(service, &run, context);
        let mut fds = vec![theirs.into_fd()];
        if spec.streams != Streams::Terminal {
            fds.extend([writer.try_clone().unwrap(), writer]);
        }
        let fds = self.ask(&ToLauncher::Start(Box::new(spec)), &fds);
        let init = fds.into_iter().next().unwrap();
        Running { control, output, init }
    }

    fn run(&mut self, service: &ServicePlan, script: &str) -> String {
        let mut running = self.start(service, script);
        let mut text = String::new();
        running.output.read_to_string(&mut text).unwrap();
        assert_eq!(running.hears(), FromInit::Exited(End::Code(0)), "{text}");
        running.ends("after its main process");
        text
    }
}

/// A run.
struct Running {
    control: Channel,
    output: std::io::PipeReader,
    init: OwnedFd,
}

impl Running {
    /// Waits until init has ended, and with it everything of the run.
    fn ends(self, when: &str) {
        drop(self.control);
        let ended = within_seconds(10, self.init.as_fd());
        if !ended {
            let _ = process::pidfd_signal(self.init.as_fd(), 9);
        }
        assert!(ended, "init does not end {when}");
        process::reap_pidfd(self.init.as_fd()).unwrap().expect("init has ended");
    }

    fn hears(&self) -> FromInit {
        self.hears_with().0
    }

    fn hears_with(&self) -> (FromInit, Vec<OwnedFd>) {
        loop {
            assert!(within_seconds(10, self.control.as_fd()), "init says nothing");
            match protocol::receive::<FromInit>(&self.control).unwrap() {
                // What is told of calls that were refused is looked at elsewhere (`tests/detect.rs`).
                (FromInit::Tripped(_), _) => {}
                other => return other,
            }
        }
    }

    /// Waits until the program is executed; gives what comes with that beside its pidfd.
    fn executed(&self) -> Vec<OwnedFd> {
        let (started, mut fds) = self.hears_with();
        assert!(matches!(started, FromInit::Executed { landlock: 2 }), "{started:?}");
        assert!(process::pid_of(fds.remove(0).as_fd()).is_ok());
        fds
    }

    /// Runs a program beside the main one, on these streams; gives how it ended.
    fn exec(&self, script: &str, [stdin, stdout, stderr]: [BorrowedFd<'_>; 3], tty: bool) {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let exec = ExecSpec { argv, env, cwd: "/".into() };
        protocol::send(
            self.control.as_fd(),
            &ToInit::Exec { id: 1, exec, tty, guest: true },
            &[stdin, stdout, stderr],
        )
        .unwrap();
        assert_eq!(self.hears(), FromInit::ExecStarted { id: 1 });
    }
}

/// Whether there is something to read within that time.
fn within_seconds(seconds: u8, fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(u16::from(seconds) * 1000)).unwrap()
        == 1
}

/// Opens what can be opened of a kind until the kernel refuses, says how many those are, and keeps them.
fn greedy(expression: &str) -> String {
    format!(
        "exec python3 -c '
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
try:
    while len(kept) < 5000: kept.append({expression})
except OSError: pass
print(len(kept), flush=True)
while True: time.sleep(1000)'"
    )
}

/// Services together cannot take all inotify instances of the user whose they are, nor all terminals.
fn attack_shared_counts(spawner: &Spawner, service: &ServicePlan, root: &Path, as_root: bool) {
    let inotify = "(lambda fd: fd if fd >= 0 else os.close(-1))(libc.inotify_init())";
    let count = |running: &mut Running| -> u64 {
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut byte = [0];
            running.output.read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
        line.trim().parse().unwrap_or_else(|error| panic!("{line:?}: {error}"))
    };
    let rootless = (!as_root).then(|| (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()));
    let sandboxes: Vec<Sandbox> =
        (0..3).map(|_| Sandbox::prepare(spawner, service, root, rootless)).collect();
    let mut runs: Vec<Running> =
        sandboxes.iter().map(|sandbox| sandbox.start(service, &greedy(inotify))).collect();
    let taken: Vec<u64> = runs.iter_mut().map(count).collect();
    assert!(taken.iter().all(|taken| *taken <= 64), "{taken:?}");
    if !as_root {
        let all = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
        let all: u64 = all.trim().parse().unwrap();
        assert!(taken.iter().sum::<u64>() <= all / 4 * 3, "{taken:?} of {all}");
    }
    runs.into_iter().for_each(|running| running.ends("with its supervisor"));
    let mut running = sandboxes[0].start(service, &greedy("os.openpty()"));
    assert_eq!(count(&mut running), 256);
    running.ends("with its supervisor");
}

/// The commands of `pre_start` run one after the other in the run's own sandbox; the first that fails is named.
fn before_the_program(sandbox: &Sandbox, service: &ServicePlan) {
    let before = |scripts: &[&str], timeout: Duration| {
        let hook = |script: &&str| HookCommand {
            command: CommandLine(["sh", "-c", script].map(str::to_owned).to_vec()),
            timeout,
        };
        let hooks = Hooks { pre_start: scripts.iter().map(hook).collect(), ..Hooks::default() };
        ServicePlan { hooks, ..service.clone() }
    };
    let long = Duration::from_secs(100);
    // What it leaves behind keeps running beside the program; what has ended is reaped.
    let scripts = [
        "mkfifo /tmp/ask /tmp/answer; (sh -c 'read word < /tmp/ask; echo $word > /tmp/answer' &); echo one > /tmp/x",
        "cat /tmp/x; echo two; read line; echo \"$? $line\"",
    ];
    let mut running = sandbox.start(
        &before(&scripts, long),
        "cat /tmp/x; echo still > /tmp/ask; cat /tmp/answer; while grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; echo reaped",
    );
    let mut text = String::new();
    assert_eq!(running.hears(), FromInit::Exited(End::Code(0)));
    running.output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n1 \none\nstill\nreaped\n");
    running.ends("after its main process");

    let refused = |service: &ServicePlan| {
        let running = sandbox.begin(service, "echo started");
        let failure = match running.hears() {
            FromInit::Failed(failure) => failure.to_string(),
            other => panic!("{other:?}"),
        };
        let Running { control, mut output, init } = running;
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        Running { control, output, init }.ends("when it cannot start");
        (failure, text)
    };
    let (failure, text) = refused(&before(&["echo no >&2; exit 3", "echo again"], long));
    assert_eq!(failure, "pre_start `sh -c echo no >&2; exit 3` exited with 3");
    assert_eq!(text, "no\n");
    let (failure, _) = refused(&before(&["kill -9 $$"], long));
    assert_eq!(failure, "pre_start `sh -c kill -9 $$` was killed by SIGKILL");
    // It may do what it likes to what it is; init ends it.
    let (failure, text) =
        refused(&before(&["trap '' TERM; kill -STOP $$; echo x"], Duration::from_millis(50)));
    assert_eq!(
        failure,
        "pre_start `sh -c trap '' TERM; kill -STOP $$; echo x` took longer than 0.05 s and was killed"
    );
    assert_eq!(text, "");
    let mut missing = before(&["x"], long);
    missing.hooks.pre_start[0].command = CommandLine(vec!["./migrate".to_owned()]);
    assert_eq!(refused(&missing).0, "pre_start `./migrate`: no such file or directory");
}

/// A service with a probe of that kind finds a socket on which only its own run is heard.
fn what_it_says_of_itself(sandbox: &Sandbox, service: &ServicePlan) {
    let say = "python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(\"/run/notify\")
for text in sys.argv[1:]: s.send(text.encode())' \"$@\"";
    let probe = Probe {
        kind: ProbeKind::Notify,
        start_interval: Duration::from_millis(100),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(5),
        within: Duration::from_secs(60),
        failures: 3,
    };
    let early = HookCommand {
        command: CommandLine(["sh", "-c", say, "sh", "READY=1"].map(str::to_owned).to_vec()),
        timeout: Duration::from_secs(100),
    };
    let hooks = Hooks { pre_start: vec![early], ..Hooks::default() };
    let service = ServicePlan { ready: Some(probe), hooks, ..service.clone() };
    let script = format!("stat -c '%a %U %F' /run/notify; set -- STATUS=a READY=1; {say}; read idle");
    let mut running = sandbox.begin(&service, &script);
    let socket = UnixDatagram::from(running.executed().remove(0));
    for expected in ["STATUS=a", "READY=1"] {
        let mut datagram = [0; 100];
        assert!(within_seconds(10, socket.as_fd()), "it says nothing");
        let length = socket.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], expected.as_bytes(), "what ran before it is not heard");
    }
    let mut line = [0; 15];
    running.output.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"600 dev socket\n");
    running.ends("with its supervisor");

    let quiet = ServicePlan { ready: None, hooks: Hooks::default(), ..service };
    let mut running = sandbox.start(&quiet, "ls /run");
    assert_eq!(running.hears(), FromInit::Exited(End::Code(0)));
    let mut text = String::new();
    running.output.read_to_string(&mut text).unwrap();
    assert!(!text.contains("notify"), "{text}");
    running.ends("after its main process");
}

/// Reads a terminal until `text` has come.
fn read_until(terminal: BorrowedFd<'_>, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        assert!(within_seconds(10, terminal), "no {text:?} in {all:?}");
        let mut part = [0; 4096];
        match rustix::io::read(terminal, &mut part) {
            Ok(length) => all.push_str(&String::from_utf8_lossy(&part[..length])),
            Err(error) => panic!("no {text:?} in {all:?}: {error}"),
        }
    }
    all
}

/// A service with `tty` leads a session on a terminal that it alone has.
fn a_terminal_of_its_own(sandbox: &Sandbox, service: &ServicePlan) {
    let service = ServicePlan { tty: true, ..service.clone() };
    let script = "tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; echo ctty > /dev/tty
        ls -l /proc/self/fd | grep -c ptmx; echo asks; read line; echo \"got $line\"; exit 5";
    let running = sandbox.begin(&service, script);
    let (news, fds) = running.hears_with();
    assert_eq!(news, FromInit::Terminal { id: None });
    let [ours, theirs] = <[OwnedFd; 2]>::try_from(fds).unwrap();
    drop(theirs);
    running.executed();
    let text = read_until(ours.as_fd(), "asks\r\n");
    rustix::io::write(&ours, b"hello\n").unwrap();
    read_until(ours.as_fd(), "got hello\r\n");
    // The size, three streams, the controlling terminal, and nobody but the supervisor at its other side.
    let expected = "/dev/pts/0\r\n24 80\r\nall\r\nctty\r\n0\r\n";
    assert!(text.contains(expected), "no {expected:?} in {text:?}");
    assert_eq!(running.hears(), FromInit::Exited(End::Code(5)));
    running.ends("after its main process");
    // Its other side is closed now.
    assert_eq!(rustix::io::read(&ours, &mut [0; 10]).unwrap_err(), rustix::io::Errno::IO);
}

/// A terminal that is asked of init has a name inside; its keys reach the foreground; exit codes are exact.
fn terminals_on_request(sandbox: &Sandbox, service: &ServicePlan) {
    let running = sandbox.start(service, "read idle");
    let terminal = || {
        protocol::send(running.control.as_fd(), &ToInit::Terminal { id: 7 }, &[]).unwrap();
        let (news, fds) = running.hears_with();
        assert_eq!(news, FromInit::Terminal { id: Some(7) });
        <[OwnedFd; 2]>::try_from(fds).unwrap()
    };
    let [ours, theirs] = terminal();
    let streams = [theirs.as_fd(), theirs.as_fd(), theirs.as_fd()];
    running.exec("tty; echo x > $(tty); exit 42", streams, true);
    let text = read_until(ours.as_fd(), "x\r\n");
    assert!(text.starts_with("/dev/pts/0\r\n"), "{text:?}");
    assert_eq!(running.hears(), FromInit::ExecEnded { id: 1, end: End::Code(42) });

    // The interrupt key reaches the foreground process group, and nothing else.
    running.exec(
        "trap 'echo interrupted' INT; sh -c 'echo on; exec sleep 1000'; echo after; exit 7",
        streams,
        true,
    );
    read_until(ours.as_fd(), "on\r\n");
    rustix::io::write(&ours, &[3]).unwrap();
    read_until(ours.as_fd(), "interrupted\r\nafter\r\n");
    assert_eq!(running.hears(), FromInit::ExecEnded { id: 1, end: End::Code(7) });

    // A new size is told.
    let script = "trap 'stty size; exit 0' WINCH; echo on; sleep 1000 & wait";
    running.exec(script, streams, true);
    read_until(ours.as_fd(), "on\r\n");
    let size = rustix::termios::Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ours, size).unwrap();
    read_until(ours.as_fd(), "50 132\r\n");
    assert_eq!(running.hears(), FromInit::ExecEnded { id: 1, end: End::Code(0) });

    // What makes terminals itself works, too.
    running.exec("python3 -c 'import pty; pty.spawn([\"tty\"])'; script -qc tty /dev/null", streams, true);
    let text = read_until(ours.as_fd(), "/dev/pts/1\r\n/dev/pts/1\r\n");
    assert!(!text.contains("not a tty"), "{text:?}");
    assert_eq!(running.hears(), FromInit::ExecEnded { id: 1, end: End::Code(0) });
    running.ends("with its supervisor");
}

/// No terminal but those of the run itself can be seen, opened or typed into.
fn attack_other_terminals(sandbox: &Sandbox, service: &ServicePlan) {
    // One of the host's, open, with a known number.
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let host = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&host).unwrap();
    let name = rustix::pty::ptsname(&host, vec![]).unwrap().into_string().unwrap();
    let _open = rustix::pty::ioctl_tiocgptpeer(&host, flags).unwrap();
    let number: u32 = name.trim_start_matches("/dev/pts/").parse().unwrap();

    // One of another run of the same service.
    let other = sandbox.begin(&ServicePlan { tty: true, ..service.clone() }, "read idle");
    let (news, fds) = other.hears_with();
    assert_eq!(news, FromInit::Terminal { id: None });
    other.executed();

    let script = format!(
        "ls /dev/pts; exec python3 -c '
import fcntl, os, termios
for path in [\"{name}\", \"/dev/pts/0\", \"/dev/console\", \"/dev/tty1\", \"/dev/tty\"]:
    try: os.open(path, os.O_RDWR | os.O_NOCTTY); print(\"OPENED\", path)
    except OSError as error: pass
for mode in [0o020666]:
    for number in [{number}, 0]:
        try: os.mknod(\"/tmp/t\", mode, os.makedev(136, number)); print(\"MADE\")
        except OSError as error: pass
ours, theirs = os.openpty()
try: fcntl.ioctl(theirs, termios.TIOCSTI, b\"x\"); print(\"TYPED\")
except OSError as error: print(error.errno)
print(os.ttyname(theirs))'"
    );
    let mut running = sandbox.start(service, &script);
    let mut text = String::new();
    running.output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ptmx\n1\n/dev/pts/0\n");
    running.ends("after its main process");
    drop(fds);
    other.ends("with its supervisor");
}

/// Where a kernel wants user 0 to be mapped, a namespace in which it is makes the instance.
fn terminals_without_a_user_0() {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let tree = mount::devpts_of_child(uid, gid).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let ours = rustix::fs::openat(&tree, "ptmx", flags, rustix::fs::Mode::empty()).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let name = rustix::pty::ptsname(&ours, vec![]).unwrap();
    assert_eq!(name.to_str(), Ok("/dev/pts/0"));
    let theirs = rustix::fs::openat(&tree, "0", flags, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(&theirs).unwrap().st_uid, uid);
    rustix::io::write(&theirs, b"x").unwrap();
    let mut byte = [0];
    rustix::io::read(&ours, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

/// Who can write the directory in which something is mounted for a service cannot choose what it covers there.
fn attack_swapped_places(sandbox: &Sandbox, service: &ServicePlan, root: &Path) {
    let deep = root.join("src/data/deep");
    let aside = root.join("src/data/aside");
    std::fs::rename(&deep, &aside).unwrap();
    for text in ["/t", "../../../../../../../../t", "/proc/self/root/t", "/nowhere"] {
        std::os::unix::fs::symlink(text, &deep).unwrap();
        let running = sandbox.begin(service, "echo started");
        match running.hears() {
            FromInit::Failed(failure) => {
                assert!(failure.to_string().contains("symbolic link"), "{text}: {failure}");
            }
            other => panic!("{text}: {other:?}"),
        }
        running.ends("when it cannot start");
        std::fs::remove_file(&deep).unwrap();
    }
    std::fs::rename(&aside, &deep).unwrap();
    sandbox.start(service, "true").ends("with its supervisor");
}

/// A service that stops everything in it stops also what is asked of init, but not init.
fn attack_stopped_execs(sandbox: &Sandbox, service: &ServicePlan) {
    let mut running = sandbox.start(service, "echo ready; while :; do kill -s STOP -- -1; done");
    let mut line = [0; 6];
    running.output.read_exact(&mut line).unwrap();
    let null = || OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap());
    let exec = |id| {
        let exec = ExecSpec { argv: vec!["true".into()], env: vec![], cwd: "/".into() };
        let (stdin, stdout, stderr) = (null(), null(), null());
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        protocol::send(running.control.as_fd(), &ToInit::Exec { id, exec, tty: false, guest: true }, &fds)
            .unwrap();
    };
    (0..5).for_each(exec);
    // Those that are stopped on their way can be killed, and are told.
    for id in 0..5 {
        protocol::send(running.control.as_fd(), &ToInit::Kill { id }, &[]).unwrap();
    }
    let mut ended = 0;
    while ended < 5 {
        match running.hears() {
            FromInit::ExecEnded { .. } => ended += 1,
            FromInit::ExecStarted { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    exec(5);
    running.ends("with its supervisor");
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        process::pidfd_signal(self.launcher.as_fd(), 9).unwrap();
        process::poll_readable(&[self.launcher.as_fd()]).unwrap();
        process::reap_pidfd(self.launcher.as_fd()).unwrap();
    }
}
