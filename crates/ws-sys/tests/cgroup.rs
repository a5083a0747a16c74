//! Control groups against the kernel: limits by value and by behaviour, kill, freeze, removal.
//!
//! Needs `cgroup`: controllers for memory, cpu and pids that this process may use. Without them each test
//! says so and passes; with `WS_REQUIRE=cgroup` it fails.

#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ws_sys::cgroup::{self, Controller, Error, Group, Layout, Limits, Tree, Usable};

const LONG: Duration = Duration::from_secs(20);

/// The layout, when the machine has what these tests need.
fn layout() -> Option<Layout> {
    let layout = Layout::of_this_process().unwrap();
    let usable: Usable = cgroup::detect_writable(&layout).unwrap();
    let mut lacks: Vec<&str> = Controller::ALL.iter().filter_map(|c| usable.lacking(*c)).collect();
    lacks.extend(usable.no_v2());
    if lacks.is_empty() {
        return Some(layout);
    }
    let required = std::env::var("WS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|need| need == "cgroup"), "cgroup is required: {}", lacks.join("; "));
    eprintln!("not run: needs cgroup ({})", lacks.join("; "));
    None
}

/// A tree of its own that is removed with everything in it, also when the test fails.
struct Fixture {
    layout: Layout,
    name: String,
    tree: Tree,
}

impl Fixture {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let layout = layout()?;
        let name = format!("ws-test.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tree = Tree::create(&layout, &name).unwrap();
        Some(Self { layout, name, tree })
    }

    fn assert_gone(&self) {
        assert_eq!(cgroup::find(&self.layout, &self.name), Vec::<std::path::PathBuf>::new());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.tree.kill();
        let errors = self.tree.remove(LONG);
        if !std::thread::panicking() {
            assert!(errors.is_empty(), "{errors:?}");
            self.assert_gone();
        }
    }
}

/// Runs a shell script as a member of the group: it starts once it is in.
fn run_in(group: &Group, script: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read -r _; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    group.attach_launcher(child.id()).unwrap();
    group.attach(child.id()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: {last}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn at_least(value: u64, wanted: u64) -> Result<u64, String> {
    if value >= wanted { Ok(value) } else { Err(format!("{value} is below {wanted}")) }
}

fn read(group: &Group, file: &str) -> Vec<String> {
    let texts =
        group.directories().into_iter().filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    texts.map(|text| text.trim().to_owned()).collect()
}

#[test]
fn limits_stand_in_the_kernel_and_change_while_it_runs() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("api").unwrap();
    let file = |v1: &str, v2: &str| [read(&group, v1), read(&group, v2)].concat();

    let lacking =
        group.set(&Limits { memory: Some(64 << 20), cpu_milli: Some(1500), pids: Some(34) }).unwrap();
    assert_eq!(lacking, []);
    assert_eq!(file("memory.limit_in_bytes", "memory.max"), ["67108864"]);
    assert_eq!(file("cpu.cfs_quota_us", "cpu.max")[0].split(' ').next(), Some("150000"));
    assert_eq!(read(&group, "pids.max"), ["34"]);
    for with_swap in read(&group, "memory.memsw.limit_in_bytes") {
        assert_eq!(with_swap, "67108864");
    }

    // Up, down and away, in one go and with a process in it.
    let mut child = run_in(&group, "exec sleep 1000");
    for memory in [Some(256 << 20), Some((32 << 20) + 100), None, Some(48 << 20)] {
        group.set(&Limits { memory, cpu_milli: Some(5), pids: None }).unwrap();
        assert_eq!(group.limits().memory, memory);
    }
    assert_eq!(file("memory.limit_in_bytes", "memory.max"), [(48 << 20).to_string()]);
    assert_eq!(read(&group, "pids.max"), ["max"]);
    // With so little processor time it may not have begun yet.
    group.set(&Limits { memory: Some(48 << 20), cpu_milli: None, pids: None }).unwrap();
    wait_until("it uses memory", || {
        let usage = group.usage();
        assert!(usage.cpu_usec.is_some(), "{usage:?}");
        if usage.memory_bytes.is_some_and(|bytes| bytes > 0) { Ok(()) } else { Err(format!("{usage:?}")) }
    });
    group.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_memory_bomb_is_killed_counted_and_told() {
    let Some(fixture) = Fixture::new() else { return };
    let (bomb, sibling) = (fixture.tree.add("bomb").unwrap(), fixture.tree.add("sibling").unwrap());
    bomb.set(&Limits { memory: Some(32 << 20), ..Limits::default() }).unwrap();
    let mut other = run_in(&sibling, "exec sleep 1000");
    let watch = bomb.watch_oom().unwrap().unwrap();
    assert_eq!(bomb.oom_kills().unwrap(), Some(0));

    let mut child = run_in(&bomb, "exec tail /dev/zero");
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    wait_until("the kill is counted", || at_least(bomb.oom_kills().unwrap().unwrap(), 1));
    wait_until("the news comes", || match readable(&watch) {
        true => Ok(()),
        false => Err("not readable".into()),
    });
    watch.drain().unwrap();
    assert!(!readable(&watch));
    assert_eq!(sibling.oom_kills().unwrap(), Some(0));
    assert!(other.try_wait().unwrap().is_none(), "the sibling lives");
    sibling.kill().unwrap();
    other.wait().unwrap();
}

fn readable(watch: &cgroup::Watch) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn a_fork_bomb_stays_within_its_pids() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("bomb").unwrap();
    group.set(&Limits { pids: Some(10), ..Limits::default() }).unwrap();
    // Every shell starts two more and never stops trying.
    let script = r#"bomb='while :; do sh -c "$bomb" & sh -c "$bomb"; done'; export bomb; eval "$bomb""#;
    let mut child = run_in(&group, script);
    wait_until("forks are refused", || at_least(group.pids_refused().unwrap().unwrap(), 3));
    for _ in 0..100 {
        let pids = group.pids().unwrap().unwrap();
        assert!(pids <= 10, "{pids}");
    }
    group.kill().unwrap();
    group.wait_empty(LONG).unwrap();
    child.wait().unwrap();
    assert_eq!(group.populated().unwrap(), Some(false));
}

#[test]
fn a_busy_loop_gets_its_share_and_no_more() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("busy").unwrap();
    group.set(&Limits { cpu_milli: Some(100), ..Limits::default() }).unwrap();
    let began = Instant::now();
    let mut child = run_in(&group, "while :; do :; done");
    let throttled = wait_until("it is held back", || {
        let now = group.throttling().unwrap().unwrap();
        at_least(now.periods, 5).map(|_| now)
    });
    let used = group.usage().cpu_usec.unwrap();
    let fair = u64::try_from(began.elapsed().as_micros()).unwrap() / 10;
    assert!(throttled.usec > 0, "{throttled:?}");
    // A period's worth of slack on each side, and as much again for a busy machine.
    assert!(used < 2 * fair + 50_000, "used {used} µs where {fair} are its share");
    group.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_reaches_every_process_at_once() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("many").unwrap();
    let mut child = run_in(&group, "for i in 1 2 3 4 5 6 7 8 9; do setsid sleep 1000 & done; wait");
    wait_until("all run", || at_least(group.pids().unwrap().unwrap(), 10));
    assert_eq!(group.populated().unwrap(), Some(true));
    let error = group.wait_empty(Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::Populated { .. }), "{error}");
    group.kill().unwrap();
    group.wait_empty(LONG).unwrap();
    child.wait().unwrap();
    wait_until("none is counted", || match group.pids().unwrap() {
        Some(0) => Ok(()),
        n => Err(format!("{n:?}")),
    });
    assert_eq!(group.remove(LONG).len(), 0);
    group.kill().unwrap();
}

#[test]
fn a_frozen_group_stands_still_and_can_be_killed() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("busy").unwrap();
    let mut child = run_in(&group, "while :; do :; done");
    wait_until("it runs", || at_least(group.usage().cpu_usec.unwrap(), 1000));
    group.freeze(true, LONG).unwrap();
    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    assert_ne!(state(child.id()), 'R');
    group.freeze(false, LONG).unwrap();
    wait_until("it runs again", || match state(child.id()) {
        'R' => Ok(()),
        other => Err(other.to_string()),
    });
    group.freeze(true, LONG).unwrap();
    group.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn removal_waits_for_the_dying_and_says_who_stays() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("api").unwrap();
    let mut child = run_in(&group, "exec sleep 1000");
    let errors = group.remove(Duration::from_millis(5));
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|e| matches!(e, Error::Populated { .. })), "{errors:?}");
    group.kill().unwrap();
    let errors = group.remove(LONG);
    assert!(errors.is_empty(), "{errors:?}");
    child.wait().unwrap();
    assert!(group.directories().iter().all(|dir| !dir.exists()));
}

#[test]
fn names_that_v1_has_taken_are_no_trouble_and_bad_ones_are_refused() {
    let Some(fixture) = Fixture::new() else { return };
    for name in ["tasks", "notify_on_release", "release_agent"] {
        let group = fixture.tree.add(name).unwrap();
        group.set(&Limits { pids: Some(5), ..Limits::default() }).unwrap();
        assert_eq!(read(&group, "pids.max"), ["5"], "{name}");
    }
    for name in ["", "_helpers", "..", "a/b", "A", "a.b"] {
        assert!(matches!(fixture.tree.add(name), Err(Error::Make { .. })), "{name:?}");
    }
    assert!(matches!(fixture.tree.add("tasks"), Err(Error::Make { .. })), "made twice");
    let again = Tree::create(&fixture.layout, &fixture.name);
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
}

#[test]
fn leftovers_are_found_by_name_and_cleared() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("api").unwrap();
    let mut child = run_in(&group, "setsid sleep 1000 & wait");
    wait_until("both run", || at_least(group.pids().unwrap().unwrap(), 2));
    let found = cgroup::find(&fixture.layout, &fixture.name);
    assert_eq!(found, fixture.tree.directories());
    let depths = cgroup::process_depths(&found[0]);
    assert_eq!(depths.len(), 2, "{depths:?}");
    assert!(depths.iter().all(|(_, depth)| *depth == 1), "{depths:?}");
    for dir in found {
        cgroup::clear(&dir, LONG).unwrap();
    }
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    fixture.assert_gone();
}

#[test]
fn v1_directories_alone_can_be_killed_too() {
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("api").unwrap();
    let Some(pids) = group
        .directories()
        .into_iter()
        .find(|dir| dir.join("pids.max").exists() && !dir.join("cgroup.kill").exists())
    else {
        return;
    };
    // In the v1 directories only: what kills it is the list of members. A shell that may not fork ends by
    // itself, so what is watched is a program beside the forking ones.
    let mut child = Command::new("sh")
        .args(["-c", "read -r _; (while :; do (while :; do sh -c : & done); done) & exec sleep 1000"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    group.set(&Limits { pids: Some(20), ..Limits::default() }).unwrap();
    group.attach_launcher(child.id()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    wait_until("it forks", || at_least(group.pids().unwrap().unwrap(), 2));
    cgroup::clear(pids, LONG).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn the_directory_can_be_cloned_into_and_given_away() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let Some(fixture) = Fixture::new() else { return };
    let group = fixture.tree.add("api").unwrap();
    let fd = group.v2_dir_fd().unwrap().unwrap();
    let parent = fixture.tree.v2_dir_fd().unwrap().unwrap();
    let inode = |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
    let dir = group.directories()[0].to_owned();
    assert_eq!(inode(fd.as_fd()), std::fs::metadata(&dir).unwrap().ino());
    assert_ne!(inode(fd.as_fd()), inode(parent.as_fd()));
    group.delegate_to(12345).unwrap();
    fixture.tree.delegate_to(12345).unwrap();
    for procs in [dir.join("cgroup.procs"), dir.parent().unwrap().join("cgroup.procs")] {
        assert_eq!(std::fs::metadata(&procs).unwrap().uid(), 12345, "{}", procs.display());
    }
    // A helper of the tree is in none of its groups.
    let mut helper = Command::new("sleep").arg("1000").spawn().unwrap();
    fixture.tree.attach(helper.id()).unwrap();
    assert_eq!(group.populated().unwrap(), Some(false));
    assert_eq!(cgroup::process_depths(dir.parent().unwrap()), [(helper.id(), 1)]);
    fixture.tree.kill().unwrap();
    assert_eq!(helper.wait().unwrap().signal(), Some(9));
}

#[test]
fn what_cannot_be_had_is_said_and_a_limit_then_is_lacking() {
    // No mounts at all: what a process in a bare container sees.
    let layout = Layout::detect("", "", |_| String::new());
    let tree = Tree::create(&layout, "ws-test.nothing").unwrap();
    assert!(!tree.usable().v2());
    assert_eq!(tree.usable().lacking(Controller::Memory), Some("no memory controller"));
    assert_eq!(tree.directories(), Vec::<&std::path::Path>::new());
    let group = tree.add("api").unwrap();
    let limits = Limits { memory: Some(1 << 20), cpu_milli: None, pids: Some(9) };
    assert_eq!(group.set(&limits).unwrap(), [Controller::Memory, Controller::Pids]);
    assert_eq!((group.oom_kills().unwrap(), group.populated().unwrap()), (None, None));
    assert!(matches!(group.freeze(true, LONG), Err(Error::NoV2 { .. })));
    assert!(group.remove(LONG).is_empty());

    // A plain directory where a hierarchy should be mounted.
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().display();
    let mounts =
        format!("1 1 0:1 / {point} rw - cgroup cgroup rw,memory\n1 1 0:1 / {point}/none rw - cgroup2 x rw");
    let layout = Layout::detect(&mounts, "4:memory:/\n0::/", |_| String::new());
    let tree = Tree::create(&layout, "ws-test.plain").unwrap();
    assert!(tree.usable().lacking(Controller::Memory).is_some_and(|why| why.contains("not on a cgroup")));
    assert!(tree.usable().no_v2().is_some_and(|why| why.contains("no cgroup can be made")));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What an ordinary user without delegation finds. The test runs itself again as that user.
#[test]
fn an_ordinary_user_is_told_what_may_not_be_changed() {
    const AS_USER: &str = "WS_TEST_CGROUP_AS_USER";
    if std::env::var_os(AS_USER).is_some() {
        let usable = cgroup::detect_writable(&Layout::of_this_process().unwrap()).unwrap();
        for controller in Controller::ALL {
            let why = usable.lacking(controller).expect("nothing was delegated");
            assert_eq!(why, "you may not make control groups here");
        }
        return;
    }
    if layout().is_none() || !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", "an_ordinary_user_is_told_what_may_not_be_changed"]).env(AS_USER, "1");
    std::os::unix::process::CommandExt::uid(&mut command, 1000);
    std::os::unix::process::CommandExt::gid(&mut command, 1000);
    let output = command.current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
