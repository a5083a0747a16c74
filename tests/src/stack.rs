//! A stack that really runs: a project of its own in a temporary directory, brought up by the `ws` under
//! test with directories of its own, as root or as an ordinary user; taken down, and looked for, at the
//! end.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use ws_model::wire::ServiceStatus;

use crate::leak::{self, Host, Marks};
use crate::wait::{let_pass, wait_until};

/// How long any `ws` command may take. Generous: it is there so that a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the kernel may take to forget what has ended.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// How `ws` is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// As root.
    Root,
    /// As an ordinary user: one that nobody else is, when the tests run as root; else the one who runs
    /// the tests.
    User,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Root => "root",
            Self::User => "an ordinary user",
        })
    }
}

impl Mode {
    /// User and group for a new stack.
    #[must_use]
    pub fn new_ids(self) -> (u32, u32) {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        match self {
            Self::Root => own,
            Self::User if own.0 == 0 => {
                // Far above what distributions give to people, services and containers.
                let id = 0x5000_0000 + u32::try_from(random() % (1 << 28)).expect("28 bits");
                (id, id)
            }
            Self::User => own,
        }
    }

    /// Makes a command run as these.
    pub fn apply(self, command: &mut Command, (uid, gid): (u32, u32)) {
        if nix::unistd::geteuid().as_raw() != uid {
            // The standard library then drops root's other groups, too.
            command.uid(uid).gid(gid);
        }
    }
}

/// A number that is different each time.
#[must_use]
pub fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A program of this package, which cargo has built beside the tests.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn helper(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    let found = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is not beside {}", test.display()))
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// What was run.
    pub line: String,
    /// Its exit code; 128 and the signal when one ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Its output, when it succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.out
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, out, err, took } = self;
        write!(f, "`{line}` ended with {code} after {took:?}\n--- out\n{out}\n--- err\n{err}")
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    since: Instant,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("could not run `{line}`: {error}"));
        let out = child.stdout.take().map(collect);
        let err = child.stderr.take().map(collect);
        Self { line, child, since: Instant::now(), out, err }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When it cannot be asked for.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("asking for a child").is_some()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When there is no such signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("signalling a child");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time, or somebody keeps its output open.
    #[must_use]
    pub fn end(mut self) -> Ran {
        let line = self.line.clone();
        let status = wait_until(PATIENCE, &format!("the end of `{line}`"), || {
            let status = self.child.try_wait().expect("asking for a child");
            if status.is_none() && self.since.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            status.ok_or("it runs")
        });
        let took = self.since.elapsed();
        let text = |reader: &mut Option<JoinHandle<String>>| {
            let reader = reader.take().expect("taken once");
            wait_until(Duration::from_secs(20), &format!("the end of the output of `{line}`"), || {
                if reader.is_finished() { Ok(()) } else { Err("a process that it left keeps it open") }
            });
            reader.join().expect("reading the output")
        };
        let (out, err) = (text(&mut self.out), text(&mut self.err));
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ran { line, code, out, err, took }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A stack in a directory of its own.
#[derive(Debug)]
pub struct Stack {
    /// How `ws` is run.
    pub mode: Mode,
    /// A word that stands in all of its paths and names, and the workspace's name.
    pub token: String,
    /// Who runs it.
    pub ids: (u32, u32),
    /// The project.
    pub project: PathBuf,
    /// `WS_RUNTIME_DIR`
    pub runtime: PathBuf,
    /// `WS_STATE_DIR`
    pub state: PathBuf,
    /// `HOME`
    pub home: PathBuf,
    ws: PathBuf,
    marks: Mutex<Marks>,
    host: Host,
    watched: Vec<(PathBuf, BTreeSet<PathBuf>)>,
    is_down: bool,
    _dir: TempDir,
}

impl Stack {
    /// A project with this workspace file (without its name) and the helper programs in `bin/`. Nothing runs
    /// yet.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(mode: Mode, yaml: &str) -> Self {
        let token = format!("e2e{:08x}", random() as u32);
        let dir = tempfile::Builder::new().prefix(&format!("{token}-")).rand_bytes(0).tempdir();
        let dir = dir.expect("a temporary directory");
        let base = dir.path().to_path_buf();
        let ids = mode.new_ids();
        let make = |name: &str, bits: u32| {
            let path = base.join(name);
            fs::create_dir_all(&path).expect("making a directory");
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).expect("setting its mode");
            chown(&path, Some(ids.0), Some(ids.1)).expect("giving it away");
            path
        };
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).expect("opening the directory");
        let (project, runtime) = (make("p", 0o755), make("r", 0o700));
        let (state, home) = (make("s", 0o700), make("h", 0o700));
        let ws = make("b", 0o755).join("ws");
        put(&helper("ws-e2e-ws"), &ws);
        make("p/bin", 0o755);
        for name in ["ws-e2e-serve", "ws-e2e-web", "ws-e2e-attack"] {
            put(&helper(name), &project.join("bin").join(name));
        }
        let users = if mode == Mode::User && nix::unistd::geteuid().is_root() { vec![ids.0] } else { vec![] };
        let stack = Self {
            mode,
            ids,
            project,
            runtime,
            state,
            home,
            ws,
            marks: Mutex::new(Marks::new(&token, users.into_iter().collect())),
            host: Host::now(),
            watched: Vec::new(),
            is_down: true,
            token,
            _dir: dir,
        };
        stack.write("workspace.yaml", &format!("name: {}\n{yaml}", stack.token));
        stack
    }

    /// Writes a file of the project, which belongs to the user.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.project.join(name);
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        fs::write(&path, text).expect("writing a file of the project");
        chown(&path, Some(self.ids.0), Some(self.ids.1)).expect("giving it away");
        path
    }

    /// Makes a directory of the project, with those above it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.project.join(name);
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for dir in missing.into_iter().rev() {
            fs::create_dir(dir).expect("making a directory of the project");
            chown(dir, Some(self.ids.0), Some(self.ids.1)).expect("giving it away");
        }
        path
    }

    /// The path of a helper program, outside and inside.
    #[must_use]
    pub fn bin(&self, name: &str) -> String {
        self.project.join("bin").join(name).to_string_lossy().into_owned()
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processes of this stack.
    #[must_use]
    pub fn processes(&self) -> Vec<leak::Process> {
        let mut marks = self.marks();
        marks.learn();
        marks.processes()
    }

    /// The command `ws`, ready for arguments.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.ws);
        self.mode.apply(&mut command, self.ids);
        command
            .args(args)
            .current_dir(&self.project)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("WS_RUNTIME_DIR", &self.runtime)
            .env("WS_STATE_DIR", &self.state)
            .env("WS_E2E_CANARY", format!("canary-{}", self.token));
        command
    }

    /// Starts a `ws` command.
    #[must_use]
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// Runs a `ws` command to its end.
    #[must_use]
    pub fn ws(&self, args: &[&str]) -> Ran {
        self.start(args).end()
    }

    /// Remembers what is in the home and in the project, and that something runs from here on.
    pub fn watch(&mut self) {
        self.is_down = false;
        self.host = Host::now();
        self.watched = [&self.home, &self.project].map(|dir| (dir.clone(), leak::listing(dir))).to_vec();
    }

    /// Brings it up, everything ready.
    ///
    /// # Panics
    /// When that fails.
    pub fn up(&mut self) -> Ran {
        self.watch();
        let ran = self.ws(&["up", "-d", "--wait", "--wait-timeout", "60s"]);
        assert_eq!(ran.code, 0, "{ran}\n{}", self.story());
        self.marks().learn();
        ran
    }

    /// What can be said about it when something failed.
    #[must_use]
    pub fn story(&self) -> String {
        let mut text = String::new();
        for args in [&["ps"][..], &["logs", "--tail", "30"], &["events"]] {
            text += &format!("=== {}\n", self.ws(args));
        }
        for path in leak::listing(&self.state).iter().filter(|path| path.ends_with("supervisor.log")) {
            text += &format!("=== {}\n{}", path.display(), fs::read_to_string(path).unwrap_or_default());
        }
        for process in self.marks().processes() {
            text += &format!("=== process {process:?}\n");
        }
        text
    }

    /// `ws ps --json`
    ///
    /// # Panics
    /// When it fails or prints anything else.
    #[must_use]
    pub fn ps(&self) -> Vec<ServiceStatus> {
        let out = self.ws(&["ps", "--json"]).ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("`ws ps --json`: {error}\n{out}"))
    }

    /// The row of one service, or of one replica.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn status(&self, service: &str) -> ServiceStatus {
        let row = self.ps().into_iter().find(|row| row.name.as_str() == service);
        row.unwrap_or_else(|| panic!("`{service}` is not in `ws ps`"))
    }

    /// The host's pid of a service's main process.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn pid(&self, service: &str) -> i32 {
        self.status(service).pid.unwrap_or_else(|| panic!("`{service}` has no process")).cast_signed()
    }

    /// Runs a command inside a service.
    #[must_use]
    pub fn exec(&self, service: &str, command: &[&str]) -> Ran {
        self.ws(&[&["exec", "-T", service][..], command].concat())
    }

    /// The log of a service, as text.
    #[must_use]
    pub fn logs(&self, service: &str) -> String {
        self.ws(&["logs", service]).ok()
    }

    /// Takes it down, and sees that nothing is left.
    ///
    /// # Panics
    /// When something is.
    pub fn down(&mut self) -> Ran {
        self.marks().learn();
        let ran = self.ws(&["down"]);
        assert_eq!(ran.code, 0, "{ran}\n{}", self.story());
        self.is_down = true;
        self.assert_clean("after `ws down`");
        ran
    }

    /// What is left of it now.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        leak::left(&self.marks(), &self.host, &self.runtime, &self.watched)
    }

    /// Sees that nothing is left of it.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_clean(&self, when: &str) {
        wait_until(FORGOTTEN, &format!("nothing left {when}"), || {
            let left = self.left();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n  ")) }
        });
    }

    /// Sees that no process is left of it, whatever else is.
    ///
    /// # Panics
    /// When one is.
    pub fn assert_no_process(&self, when: &str) {
        wait_until(FORGOTTEN, &format!("no process left {when}"), || {
            let left = self.marks().processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        });
    }

    /// From here on the test has seen to it that nothing runs.
    pub fn is_down(&mut self) {
        self.is_down = true;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.is_down && !thread::panicking() {
            return;
        }
        if thread::panicking() {
            // The reason is told already: only the machine is to be left clean.
            if let Ok(mut child) = self.command(&["down", "--now"]).stdin(Stdio::null()).spawn() {
                let deadline = Instant::now() + Duration::from_secs(20);
                while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                    let_pass(Duration::from_millis(5));
                }
                let _ = child.kill();
                let _ = child.wait();
            }
            for process in self.marks().processes() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(process.pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            return;
        }
        self.down();
    }
}

/// Puts a program at a further place: a link where that can be, since the programs of a debug build are
/// large.
fn put(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap_or_else(|error| panic!("copying {}: {error}", from.display()));
    }
}
