//! What is on the machine that belongs to a stack: to be compared with nothing.
//!
//! Other stacks, of other tests, run beside; so what is looked for is what bears the marks of one: its
//! token in a path, a name or a control group, its users, its sessions.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// By what the things of a stack are known.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// A word that stands in every path and name of the stack and nowhere else.
    pub token: String,
    /// Users that only this stack has.
    pub users: BTreeSet<u32>,
    /// Sessions of its supervisors.
    pub sessions: BTreeSet<i32>,
}

/// A process of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// Its short name.
    pub comm: String,
    /// Its command line, as it shows it.
    pub cmdline: String,
    /// Its real user.
    pub uid: u32,
    /// Its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
}

fn stat_fields(pid: i32) -> Option<(String, char, i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some((comm, state, parent, session))
}

impl Marks {
    /// The marks of a stack that has not started: its token and its own users.
    #[must_use]
    pub fn new(token: &str, users: BTreeSet<u32>) -> Self {
        Self { token: token.to_owned(), users, sessions: BTreeSet::new() }
    }

    /// Learns the sessions of the supervisors that are there, so that what they started is known when it shows
    /// nothing else. (Namespaces would be no mark: the kernel gives their numbers to others at once.)
    pub fn learn(&mut self) {
        for process in self.processes() {
            if process.cmdline.contains("__supervise") && process.session == process.pid {
                self.sessions.insert(process.session);
            }
        }
    }

    /// The processes that have a mark. Those that have ended and are not reaped yet are none.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| self.marked(pid)).collect()
    }

    fn marked(&self, pid: i32) -> Option<Process> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let (comm, state, parent, session) = stat_fields(pid)?;
        if state == 'Z' || state == 'X' || pid.cast_unsigned() == std::process::id() {
            return None;
        }
        let uid = fs::metadata(&dir).ok()?.uid();
        // The owner of an undumpable process's directory is root; the ids stand in `status`.
        let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
            .unwrap_or(uid);
        let has_token = |name: &str| {
            fs::read(dir.join(name)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&self.token))
        };
        let links_token = |name: &str| {
            fs::read_link(dir.join(name)).is_ok_and(|path| path.to_string_lossy().contains(&self.token))
        };
        let marked = self.users.contains(&uid)
            || has_token("cmdline")
            || has_token("cgroup")
            || links_token("exe")
            || self.sessions.contains(&session);
        marked.then(|| {
            let cmdline = fs::read(dir.join("cmdline")).unwrap_or_default();
            let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ").trim().to_owned();
            Process { pid, comm, cmdline, uid, parent, session }
        })
    }
}

/// What of the host a stack may not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    interfaces: BTreeSet<String>,
    core_pattern: String,
    forwarding: String,
}

impl Host {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let ours = |name: &String| {
            let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
            name.strip_prefix("ws").or_else(|| name.strip_prefix('v')).is_some_and(digits)
        };
        Self {
            interfaces: interfaces
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(ours)
                .collect(),
            core_pattern: read("/proc/sys/kernel/core_pattern"),
            forwarding: read("/proc/sys/net/ipv4/ip_forward"),
        }
    }
}

/// Everything that a stack has left, a line each; none when it is clean.
#[must_use]
pub fn left(
    marks: &Marks,
    before: &Host,
    runtime: &Path,
    watched: &[(PathBuf, BTreeSet<PathBuf>)],
) -> Vec<String> {
    let mut left = Vec::new();
    for process in marks.processes() {
        left.push(format!("process {}: {} `{}`", process.pid, process.comm, process.cmdline));
    }
    let token = &marks.token;
    for group in control_groups(token) {
        left.push(format!("control group {}", group.display()));
    }
    let lines_with_token = |path: &str| -> Vec<String> {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().filter(|line| line.contains(token.as_str())).map(str::to_owned).collect()
    };
    for line in lines_with_token("/proc/self/mountinfo") {
        left.push(format!("mount {line}"));
    }
    for line in lines_with_token("/proc/net/unix") {
        left.push(format!("unix socket {line}"));
    }
    let now = Host::now();
    if now != *before {
        left.push(format!("the host changed: {before:?} became {now:?}"));
    }
    for path in listing(runtime) {
        left.push(format!("file {}", path.display()));
    }
    for place in ["/tmp", "/var/tmp", "/dev/shm", "/run"] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        // The stack's own directory bears the token and is the fixture's.
        let ours = entries.filter(|path| path.to_string_lossy().contains(token.as_str()));
        left.extend(
            ours.filter(|path| !runtime.starts_with(path)).map(|path| format!("file {}", path.display())),
        );
    }
    for (dir, before) in watched {
        let now = listing(dir);
        left.extend(now.difference(before).map(|path| format!("new file {}", path.display())));
        left.extend(before.difference(&now).map(|path| format!("removed file {}", path.display())));
    }
    left
}

/// The directories of control groups, in every hierarchy, whose name has the token.
#[must_use]
pub fn control_groups(token: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if entry.file_name().to_string_lossy().contains(token) {
                    found.push(path.clone());
                }
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every path below a directory, itself left out.
#[must_use]
pub fn listing(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}
