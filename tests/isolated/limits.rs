//! Limits hold: values are read back from the kernel, and somebody tries to take more.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ws_e2e::attack::Came;
use ws_e2e::leak::control_groups;
use ws_e2e::{Mode, Ran, Stack, both_ways, requires, wait_until};
use ws_model::{Phase, Reason};

both_ways! {
    open_files_are_limited
    temporary_files_are_limited_together
    a_fork_bomb_is_bounded
}

const SIBLING: &str = "
  sibling:
    command: [bin/ws-e2e-serve, 'tcp:7000']
    ready: { tcp: ':7000' }
";

fn attack(stack: &Stack, service: &str, words: &[&str]) -> Came {
    let program = stack.bin("ws-e2e-attack");
    came(&stack.exec(service, &[&[program.as_str()], words].concat()))
}

fn came(ran: &Ran) -> Came {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

/// The sibling is what it was: it answers, and was not started anew.
fn assert_unaffected(stack: &Stack, when: &str) {
    let row = stack.status("sibling");
    assert!(row.ready && row.restarts == 0, "the sibling {when}: {row:?}");
    let echo = attack(stack, "sibling", &["tcp", "127.0.0.1", "7000"]);
    assert_eq!(echo.outcome, "did", "the sibling {when}: {echo:?}");
}

/// The value of a control file of a service, from whichever hierarchy has it.
fn limit(stack: &Stack, service: &str, names: &[&str]) -> String {
    let dirs: Vec<PathBuf> = control_groups(&stack.token);
    for dir in &dirs {
        for name in names {
            if let Ok(text) = fs::read_to_string(dir.join(service).join(name)) {
                return text.trim().to_owned();
            }
        }
    }
    panic!("no {names:?} of `{service}` below {dirs:?}")
}

#[test]
fn memory_is_limited() {
    let mode = Mode::Root;
    requires!(mode, root, userns, netns, nft, cgroup);
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  hog:
    command: [bin/ws-e2e-attack, memory, '4096']
    limits: {{ memory: 64M }}
    restart: 'no'
    depends_on: [sibling]
  quiet:
    command: [bin/ws-e2e-serve]
    limits: {{ memory: 64M }}
{SIBLING}"
        ),
    );
    stack.watch();
    assert_eq!(stack.ws(&["up", "-d"]).code, 0);
    let row = wait_until(Duration::from_secs(60), "the hog is killed", || {
        let row = stack.status("hog");
        if row.phase == Phase::Failed { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert_eq!(row.reason, Reason::Oom, "{row:?}");
    assert!(row.cause.contains("memory"), "{row:?}");
    assert_unaffected(&stack, "beside a memory hog");
    assert_eq!(limit(&stack, "quiet", &["memory.max", "memory.limit_in_bytes"]), (64 << 20).to_string());
    let inside = stack.exec("quiet", &["/bin/sh", "-c", "echo $WS_MEMORY_BYTES"]).ok();
    assert_eq!(inside.trim(), (64 << 20).to_string());
    // A command that runs inside counts as well.
    let ran = stack.exec("quiet", &[&stack.bin("ws-e2e-attack"), "memory", "4096"]);
    assert_eq!(ran.code, 120, "{ran}");
    assert!(ran.err.contains("more memory than its limit"), "{ran}");
    assert_unaffected(&stack, "beside a command that is a hog");
    stack.down();
}

#[test]
fn processor_time_is_limited() {
    let mode = Mode::Root;
    requires!(mode, root, userns, netns, nft, cgroup);
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  busy:
    command: [bin/ws-e2e-serve]
    limits: {{ cpus: 0.3 }}
{SIBLING}"
        ),
    );
    stack.up();
    let quota = limit(&stack, "busy", &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(quota == "30000" || quota.starts_with("30000 100000"), "{quota}");
    let busy = attack(&stack, "busy", &["spin", "3", "2000"]);
    let share: u64 = busy.detail.parse().unwrap_or_else(|_| panic!("{busy:?}"));
    // Of two seconds; a period more or less at both ends.
    assert!(share <= 400, "three threads took {share} thousandths of a processor: {busy:?}");
    assert!(share >= 50, "it may have some: {busy:?}");
    assert_unaffected(&stack, "beside a busy loop");
    stack.down();
}

fn a_fork_bomb_is_bounded(mode: Mode) {
    requires!(mode, userns, netns, nft);
    if mode == Mode::Root {
        requires!(mode, cgroup);
    }
    // Rootless there is no controller for it here: `RLIMIT_NPROC` holds, and the level says so.
    let mut stack = Stack::new(
        mode,
        &format!(
            "
enforcement: limited
services:
  forker:
    command: [bin/ws-e2e-serve]
    limits: {{ pids: 40 }}
{SIBLING}"
        ),
    );
    stack.up();
    let before = stack.processes().len();
    let ran = attack(&stack, "forker", &["forks", "500"]);
    assert_eq!(ran.outcome, "EAGAIN", "{ran:?}");
    let count: usize = ran.detail.parse().unwrap_or_else(|_| panic!("{ran:?}"));
    assert!((20..=40).contains(&count), "a limit of 40 let {count} more processes run");
    if mode == Mode::Root {
        // Launcher and init have their places beside the limit.
        assert_eq!(limit(&stack, "forker", &["pids.max"]), "42");
    }
    let bomb = attack(&stack, "forker", &["bomb", "1500"]);
    assert_eq!(bomb.outcome, "did", "{bomb:?}");
    assert_ne!(bomb.detail, "0", "the bomb met the limit: {bomb:?}");
    assert_unaffected(&stack, "beside a fork bomb");
    wait_until(Duration::from_secs(20), "the bomb is over", || {
        let now = stack.processes().len();
        if now <= before { Ok(()) } else { Err(format!("{now} processes instead of {before}")) }
    });
    // It can be stopped while it goes on.
    let going = stack.start(&["exec", "-T", "forker", &stack.bin("ws-e2e-attack"), "bomb", "60000"]);
    wait_until(Duration::from_secs(20), "the next bomb goes off", || {
        let now = stack.processes().len();
        if now > before + 15 { Ok(()) } else { Err(format!("{now} processes")) }
    });
    stack.down();
    let ran = going.end();
    assert_ne!(ran.code, 0, "the command ended with its service: {ran}");
}

fn open_files_are_limited(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        "
services:
  api:
    command: [bin/ws-e2e-serve]
    limits: { files: 64 }
",
    );
    stack.up();
    let came = attack(&stack, "api", &["open-files", "1000"]);
    assert_eq!(came.outcome, "EMFILE", "{came:?}");
    let count: u64 = came.detail.parse().unwrap_or_else(|_| panic!("{came:?}"));
    assert!((50..64).contains(&count), "{came:?}");
    let limits = stack.exec("api", &["/bin/cat", "/proc/self/limits"]).ok();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["64", "64"], "{limits}");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{limits}");
    stack.down();
}

fn temporary_files_are_limited_together(mode: Mode) {
    requires!(mode, userns, netns, nft);
    let mut stack = Stack::new(
        mode,
        &format!(
            "
services:
  api:
    command: [bin/ws-e2e-serve]
    limits: {{ tmp: 20M }}
    tmpfs: [{{ target: /scratch, size: 4M }}]
{SIBLING}"
        ),
    );
    stack.up();
    let home = stack.exec("api", &["/bin/sh", "-c", "echo $HOME"]).ok();
    let home = home.trim();
    for places in [&["/tmp"][..], &["/dev/shm"], &["/tmp", "/var/tmp", "/run/api", "/dev/shm", home]] {
        let came = attack(&stack, "api", &[&["fill", "100"][..], places].concat());
        assert_eq!(came.outcome, "ENOSPC", "{places:?}: {came:?}");
        let mebibytes: u64 = came.detail.parse().unwrap_or_else(|_| panic!("{came:?}"));
        assert!((18..=20).contains(&mebibytes), "{places:?} took {mebibytes} MiB together");
    }
    let came = attack(&stack, "api", &["fill", "100", "/scratch"]);
    assert_eq!((came.outcome.as_str(), came.detail.as_str()), ("ENOSPC", "4"), "{came:?}");
    // Many small files meet a limit as well.
    let script = "i=0; while [ $i -lt 20000 ]; do : > /tmp/$i || exit 9; i=$((i+1)); done";
    let ran = stack.exec("api", &["/bin/sh", "-c", script]);
    assert_ne!(ran.code, 0, "the number of files is limited: {ran}");
    assert_unaffected(&stack, "beside full temporary files");
    stack.down();
}

#[test]
fn limits_that_cannot_be_had_are_not_promised() {
    let mode = Mode::User;
    requires!(mode, userns, netns, nft);
    let yaml = "
services:
  api:
    command: [bin/ws-e2e-serve]
    limits: { memory: 64M }
";
    let mut stack = Stack::new(mode, yaml);
    if ws_e2e::needs::capabilities(mode).has("cgroup") {
        // This user may limit: the limit is there.
        stack.up();
        assert_eq!(limit(&stack, "api", &["memory.max", "memory.limit_in_bytes"]), (64 << 20).to_string());
        stack.down();
        return;
    }
    let ran = stack.ws(&["up", "-d", "--wait"]);
    assert_eq!(ran.code, 3, "{ran}");
    assert!(ran.err.contains("memory") && ran.err.contains("--accept limited"), "{ran}");
    stack.assert_clean("after an `up` that was refused");
    stack.watch();
    let ran = stack.ws(&["up", "-d", "--wait", "--accept", "limited"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("limited"), "it says so: {ran}");
    let row = stack.status("api");
    assert_eq!(row.level, Some(ws_model::Level::Limited), "{row:?}");
    assert!(row.missing.iter().any(|missing| missing.contains("memory")), "{row:?}");
    stack.down();
}
