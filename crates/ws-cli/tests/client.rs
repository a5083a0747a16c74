//! The built command against a real supervisor with a host that only pretends: what is printed where,
//! exit codes, waiting, failing, going down. Needs no rights and starts no service.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::pty::{OpenptyResult, Winsize, openpty};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tempfile::TempDir;
use tokio::sync::mpsc;
use ws_cli::launch::Order;
use ws_cli::replan::Replanner;
use ws_core::engine::{Effect, Generation, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Inbox, LogSink, Standing, Usage};
use ws_core::plan::{self, Plan, ServicePlan};
use ws_core::policy::Observation;
use ws_model::wire::{ExecResult, LogStream};
use ws_model::{
    Evidence, ExitReason, FileAct, InstanceId, Level, Mechanism, NetworkAct, ServiceName, ViolationClass,
    exit,
};
use ws_spec::Sources;
use ws_supervisor::state_dir::{self, Acquired};
use ws_supervisor::{Config, LogLimits, LogStore, Supervisor};

const FILE: &str = "\
name: shop
services:
  db:
    command: sleep 1000
    ready: { tcp: 5432 }
  web:
    command: sleep 1000
    links: [\"db:5432\"]
    ports: [\"127.0.0.1:0:8080\"]
    ready: { http: \":8080/\" }
  migrate:
    kind: task
    command: sleep 0
  bad:
    command: sleep 1000
    ready: { tcp: 1 }
    restart: { policy: \"no\" }
  needs-bad:
    command: sleep 1000
    depends_on: { bad: { condition: service_healthy } }
  never:
    command: sleep 1000
    ready: { tcp: 9999, within: 1h }
  pair:
    command: sleep 1000
    replicas: 2
  crashes:
    command: sleep 1000
    ready: { tcp: 7 }
    restart: { policy: on-failure, max: 5, backoff: 1ms..1ms }
";

/// Services that break their policies.
const TROUBLE: &str = "  sneaks:
    command: sleep 1000
  breaks:
    command: sleep 1000
    policy: { syscalls: kill }
  dooms:
    command: sleep 1000
    policy: { decoys: stop }
";

/// Does what the name of a service says.
struct Pretender {
    inbox: Inbox,
    logs: Arc<LogStore>,
    plan: Plan,
    runs: BTreeMap<ServiceName, Generation>,
    /// The streams of one-offs that have not been started.
    one_offs: BTreeMap<ServiceName, ExecIo>,
}

impl Pretender {
    fn end(&mut self, service: ServiceName, generation: Generation, exit: ExitReason) {
        if self.runs.remove(&service) == Some(generation) {
            self.logs.end(&service, LogStream::Stdout);
            (self.inbox)(Input::Exited { service, generation, exit, oom: false });
        }
    }
}

impl Pretender {
    /// Tells what the name of a service says that it does.
    fn see(&self, service: ServiceName, generation: Generation) {
        let (evidence, mechanism) = match service.as_str() {
            "sneaks" => {
                let evidence = Evidence::Network {
                    act: NetworkAct::Sent,
                    protocol: "tcp".to_owned(),
                    destination: Some(self.plan.services["db"].address.into()),
                    port: Some(5432),
                    name: None,
                    lookup: None,
                };
                (evidence, Mechanism::Nflog)
            }
            "breaks" => {
                let (name, answer) = ("mount".to_owned(), "EPERM".to_owned());
                (Evidence::Syscall { name, detail: None, answer }, Mechanism::Seccomp)
            }
            _ => {
                let path = self.plan.services[&service].policy.decoys[0].path.display().to_string();
                (Evidence::Decoy { path, act: FileAct::Opened }, Mechanism::Inotify)
            }
        };
        (self.inbox)(Input::Observed(Box::new(Observation {
            service,
            generation: Some(generation),
            evidence,
            mechanism,
            process: None,
            count: 1,
            lost: 0,
            certain: true,
        })));
    }
}

impl Host for Pretender {
    fn update(&mut self, service: ServicePlan, done: Box<dyn FnOnce(Result<(), String>) + Send>) {
        self.plan.services.insert(service.name.clone(), service);
        done(Ok(()));
    }

    fn set_external(
        &mut self,
        _external: Vec<ws_core::plan::ExternalPlan>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        done(Err("what is external cannot be changed".to_owned()));
    }

    fn set_secrets(&mut self, _secrets: BTreeMap<ws_model::SecretName, Vec<u8>>) {}

    fn submit(&mut self, effect: Effect) {
        match effect {
            Effect::Start { service, generation, .. } => {
                self.runs.insert(service.clone(), generation);
                let text = format!("{service} says hello\n\x1b[31mred\x1b[0m\n");
                self.logs.write(&service, LogStream::Stdout, text.as_bytes());
                (self.inbox)(Input::Executed { service: service.clone(), generation, pid: Some(1) });
                for publish in &self.plan.services[&service].publish {
                    (self.inbox)(Input::Published {
                        service: service.clone(),
                        host: publish.host,
                        host_port: 34567,
                        port: publish.port,
                    });
                }
                if let Some(io) = self.one_offs.remove(&service) {
                    let argv = self.plan.services[&service].run.argv.join(" ");
                    writeln!(std::fs::File::from(io.stdout), "{service} ran {argv}").unwrap();
                    return self.end(service, generation, ExitReason::Code(9));
                }
                match service.as_str() {
                    "bad" | "worse" | "crashes" => self.end(service, generation, ExitReason::Code(3)),
                    "migrate" => self.end(service, generation, ExitReason::Code(0)),
                    "sneaks" | "breaks" | "dooms" => self.see(service, generation),
                    _ => {}
                }
            }
            Effect::StartProbe { service, generation, probe } => {
                let result = match service.as_str() {
                    "never" => Err("connection refused".to_owned()),
                    _ => Ok("it answered".to_owned()),
                };
                (self.inbox)(Input::Probed { service, generation, probe, result });
            }
            Effect::StopProbe { .. } => {}
            Effect::StartBeside { .. }
            | Effect::Switch { .. }
            | Effect::Hold { .. }
            | Effect::Release { .. }
            | Effect::Fingerprint { .. }
            | Effect::Place { .. }
            | Effect::Displace { .. }
            | Effect::Update { .. } => {}
            Effect::RunHook { service, generation, hook } => {
                (self.inbox)(Input::HookEnded { service, generation, hook, result: Ok(()) });
            }
            Effect::Signal { service, generation, signal } => {
                self.end(service, generation, ExitReason::Signal(signal));
            }
            Effect::Kill { service, generation } => self.end(service, generation, ExitReason::Signal(9)),
        }
    }

    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        if spec.argv[0] == "nope" {
            done(ExecResult::NotStarted { error: "no such file".to_owned(), not_found: true });
            return ExecId(0);
        }
        if spec.argv[0] == "screen" {
            std::thread::spawn(move || done(ExecResult::Ended(screen(&io))));
            return ExecId(0);
        }
        // In a thread: what it writes is read by the loop that calls this.
        std::thread::spawn(move || {
            let mut input = String::new();
            let mut stdin = std::fs::File::from(io.stdin);
            std::io::Read::read_to_string(&mut stdin, &mut input).unwrap();
            writeln!(std::fs::File::from(io.stdout), "{} {:?} {input}", spec.argv.join(" "), spec.env)
                .unwrap();
            writeln!(std::fs::File::from(io.stderr), "to stderr").unwrap();
            done(ExecResult::Ended(ExitReason::Code(7)));
        });
        ExecId(0)
    }

    // Every command of this host ends when its input does.
    fn cancel_exec(&mut self, _: ExecId) {}

    fn add(
        &mut self,
        service: ServicePlan,
        io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        self.one_offs.extend(io.map(|io| (service.name.clone(), io)));
        self.plan.services.insert(service.name.clone(), service);
        done(Ok(()));
    }

    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        self.plan.services.remove(service);
        done(Vec::new());
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        let usage = Usage { memory_bytes: Some(12 << 20), cpu_usec: Some(5_000_000), pids: Some(3) };
        self.runs.keys().map(|service| (service.clone(), usage)).collect()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        let missing = vec!["memory limits: there are none here".to_owned()];
        let blind = vec![(ViolationClass::Memory, "nothing counts it here".to_owned())];
        let standing = Standing { level: Level::Limited, missing, undetected: blind };
        self.plan.services.keys().map(|name| (name.clone(), standing.clone())).collect()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        done(Vec::new());
    }
}

/// A program for a terminal: waits for its size, reads a key, waits for the next size, is killed.
fn screen(io: &ExecIo) -> ExitReason {
    let mut mode = tcgetattr(&io.stdin).unwrap();
    mode.make_raw();
    tcsetattr(&io.stdin, OptionalActions::Now, &mode).unwrap();
    let mut out = std::fs::File::from(io.stdout.try_clone().unwrap());
    let mut input = std::fs::File::from(io.stdin.try_clone().unwrap());
    // Its size comes right after it was started, as a frame of its own.
    let mut has_size = |columns, rows| {
        let size = || tcgetwinsize(&io.stdin).map(|size| (size.ws_col, size.ws_row)).unwrap();
        while size() != (columns, rows) {
            std::thread::yield_now();
        }
        writeln!(out, "{columns} x {rows}\r").unwrap();
    };
    has_size(100, 30);
    let mut key = [0];
    std::io::Read::read_exact(&mut input, &mut key).unwrap();
    if key[0] == b'q' {
        return ExitReason::Code(5);
    }
    assert_eq!(key, [3], "Ctrl-C is a key like others");
    has_size(120, 40);
    ExitReason::Signal(10)
}

/// A workspace whose supervisor lives in a thread of the test.
struct Stage {
    dir: TempDir,
    supervisor: Option<JoinHandle<()>>,
}

impl Stage {
    /// With a supervisor that listens.
    fn new() -> Self {
        Self::with("")
    }

    /// With these services too.
    fn with(more: &str) -> Self {
        let mut stage = Self::without_supervisor();
        std::fs::write(stage.root().join("workspace.yaml"), format!("{FILE}{more}")).unwrap();
        let (listening, heard) = std::sync::mpsc::channel();
        let root = stage.root();
        let (runtime, state) = (stage.runtime(), stage.state());
        stage.supervisor = Some(std::thread::spawn(move || supervise(&root, &runtime, &state, listening)));
        heard.recv().expect("the supervisor begins");
        stage
    }

    fn without_supervisor() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stage = Self { dir, supervisor: None };
        std::fs::create_dir(stage.dir.path().join("shop")).unwrap();
        std::fs::write(stage.root().join("workspace.yaml"), FILE).unwrap();
        stage
    }

    fn root(&self) -> PathBuf {
        std::fs::canonicalize(self.dir.path().join("shop")).unwrap()
    }

    fn runtime(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ws"));
        command
            .args(args)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("WS_RUNTIME_DIR", self.runtime())
            .env("WS_STATE_DIR", self.state())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn ws(&self, args: &[&str]) -> Did {
        Did::new(self.command(args).output().unwrap())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            let down = self.command(&["down", "--now"]).output();
            if !std::thread::panicking() {
                assert!(down.unwrap().status.success());
                supervisor.join().unwrap();
            }
        }
    }
}

fn supervise(root: &Path, runtime: &Path, state: &Path, listening: std::sync::mpsc::Sender<()>) {
    let sources = Sources {
        file: root.join("workspace.yaml"),
        root: root.to_owned(),
        text: std::fs::read_to_string(root.join("workspace.yaml")).unwrap().into(),
        default_name: "shop".to_owned(),
        home: "/".into(),
        ..Sources::default()
    };
    let workspace = ws_spec::parse(&sources).workspace.expect("the file is good");
    let facts = ws_linux::observe::facts(&workspace);
    let plan = plan::resolve(&workspace, &facts, &plan::Options::default()).expect("the plan is good");
    let instance = InstanceId::new(&plan.name, root, None);
    let state = state.join(instance.as_str());
    state_dir::prepare_state_dir(&state, &instance, root).unwrap();
    let Acquired::Locked { lock, .. } = state_dir::acquire(runtime, &instance).unwrap() else {
        panic!("nobody else runs it")
    };
    let logs = Arc::new(LogStore::open(&state, LogLimits::default()).unwrap());
    let (inputs, arrived) = mpsc::unbounded_channel();
    let inbox: Inbox = Arc::new(move |input| drop(inputs.send(input)));
    let host = Pretender {
        inbox,
        logs: Arc::clone(&logs),
        plan: plan.clone(),
        runs: BTreeMap::new(),
        one_offs: BTreeMap::new(),
    };
    let order = Order {
        sources: sources.clone(),
        accept: None,
        no_build: false,
        no_watch: false,
        yes: false,
        instance: instance.clone(),
        runtime: runtime.to_owned(),
        state: state.clone(),
        secrets: BTreeMap::new(),
        attached: false,
        notices: Vec::new(),
        colour: false,
        width: 100,
    };
    let records = state.clone();
    let config = Config {
        planner: Some(Box::new(Replanner::new(&order))),
        files: Some(Box::new(move |sink| ws_cli::watching::watcher(records, sink))),
        plan_files: ws_cli::replan::watched_files(false, &sources, &workspace),
        apply_widening: false,
        explain_watch: Some(Arc::new(ws_cli::watching::Explain)),
        secrets: BTreeMap::new(),
        instance,
        version: "0.0.0".to_owned(),
        lock,
        state_dir: state,
        peer_check: Arc::new(ws_cli::machine::check_peer),
        attached: false,
        lifeline: None,
        remove_volumes: Box::new(Vec::new),
        on_listening: Box::new(move || listening.send(()).unwrap()),
        notices: Vec::new(),
        signals: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Supervisor::run(config, plan, Box::new(host), arrived, logs)).unwrap();
}

/// What a command did.
#[must_use]
struct Did {
    code: i32,
    out: String,
    err: String,
}

impl Did {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn code(self, code: u8) -> Self {
        assert_eq!(self.code, i32::from(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err.contains(text), "no {text:?} in\n{}", self.err);
        }
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {:?}", self.out))
    }

    fn json_lines(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Interrupts as Ctrl-C does.
fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

/// Reads lines until one contains `text`.
fn wait_for(reader: &mut impl std::io::BufRead, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        let before = all.len();
        reader.read_line(&mut all).unwrap();
        assert!(all.len() > before, "no {text:?} in\n{all}");
    }
    all
}

#[test]
fn up_waits_until_everything_that_was_named_is_ready() {
    let stage = Stage::new();
    let did = stage.ws(&["up", "--wait", "web", "migrate"]).code(exit::OK);
    assert_eq!(did.out, "", "there is no data");
    let did = did.says(&[
        "it runs already",
        "db: ready",
        "web: ready",
        "migrate: exited",
        "ready in ",
        "level limited",
    ]);
    let _ = did.says(&["web http://127.0.0.1:34567", "(missing: memory limits)"]);
    // Once more: it is there already.
    let _ = stage.ws(&["up", "--wait", "web"]).code(exit::OK).says(&["ready in "]);

    let rows = stage.ws(&["ps", "--json"]).code(exit::OK).json();
    let row =
        |name: &str| rows.as_array().unwrap().iter().find(|row| row["service"] == name).unwrap().clone();
    assert_eq!(row("web")["phase"], "ready");
    assert_eq!(row("migrate")["exit_code"], 0);
    assert_eq!(row("never")["phase"], "pending");
    let did = stage.ws(&["ps", "web"]).code(exit::OK);
    assert!(did.out.lines().count() == 2 && did.out.contains("127.0.0.1:34567->8080/tcp"), "{}", did.out);
    assert!(did.err.contains("not enforced: memory limits: there are none here"), "{}", did.err);
    let _ = stage.ws(&["ps", "wbe"]).code(exit::USAGE).says(&["did you mean `web`?"]);

    assert_eq!(stage.ws(&["port", "web", "8080"]).code(exit::OK).out, "127.0.0.1:34567\n");
    let _ = stage.ws(&["port", "web", "80"]).code(exit::FAILED).says(&["published are 8080"]);
    let _ = stage
        .ws(&["port", "db", "80"])
        .code(exit::FAILED)
        .says(&["publish it: `ports: [\"80:80\"]` in `db`"]);
    assert_eq!(stage.ws(&["ls", "--json"]).code(exit::OK).json()[0]["state"], "running");
}

#[test]
fn a_failure_is_told_with_its_cause_and_the_log() {
    let stage = Stage::new();
    let did = stage.ws(&["up", "--wait", "needs-bad"]).code(exit::FAILED);
    let did = did.says(&["✗ needs-bad", "because bad failed: exited with 3", "`needs-bad` failed"]);
    // Nobody named it, and its log is what there is to read.
    let did = did.says(&["✗ bad failed: exited with 3", "| bad says hello"]);
    let _ = did.says(&["`ws down` removes it"]);
    let did = stage.ws(&["up", "-d", "bad"]).code(exit::FAILED);
    let _ = did.says(&["✗ bad failed: exited with 3", "| bad says hello", "`bad` failed"]);
    assert_eq!(stage.ws(&["ps", "bad", "--json"]).code(exit::OK).json()[0]["phase"], "failed");
}

#[test]
fn time_runs_out() {
    let stage = Stage::new();
    let did = stage.ws(&["up", "--wait-timeout", "100ms", "never"]).code(exit::FAILED);
    let _ = did.says(&["not ready within 100 ms: `never`", "connection refused", "| never says hello"]);
    // Started is all that -d waits for.
    let _ = stage.ws(&["up", "-d", "never"]).code(exit::OK).says(&["started in "]);
}

#[test]
fn logs_are_ordered_chosen_and_kept() {
    let mut stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "web"]).code(exit::OK);
    let did = stage.ws(&["logs"]).code(exit::OK);
    assert_eq!(
        did.out,
        "db        | db says hello\ndb        | \x1b[31mred\x1b[0m\nweb       | web says hello\nweb       | \x1b[31mred\x1b[0m\n"
    );
    assert_eq!(stage.ws(&["logs", "-n", "1", "db"]).code(exit::OK).out, "db | \x1b[31mred\x1b[0m\n");
    let lines = stage.ws(&["logs", "--json", "web"]).code(exit::OK).json_lines();
    assert_eq!(
        (lines[0]["line"].as_str(), lines[0]["stream"].as_str()),
        (Some("web says hello"), Some("stdout"))
    );
    assert_eq!(stage.ws(&["logs", "--since", "2030-01-01T00:00:00Z"]).code(exit::OK).out, "");
    let _ = stage.ws(&["logs", "dbb"]).code(exit::USAGE).says(&["did you mean `db`?"]);

    let _ = stage.ws(&["down"]).code(exit::OK).says(&["web: stopped", "down in "]);
    stage.supervisor.take().unwrap().join().unwrap();
    assert!(stage.ws(&["logs", "-f", "db"]).code(exit::OK).out.starts_with("db | db says hello\n"));
    let _ = stage.ws(&["logs", "dbb"]).code(exit::USAGE).says(&["did you mean `db`?"]);
    let _ = stage.ws(&["events"]).code(exit::NOT_RUNNING);
    assert_eq!(stage.ws(&["ls", "--json"]).code(exit::OK).json()[0]["state"], "stopped");
    let _ = stage.ws(&["down"]).code(exit::OK).says(&["nothing to do"]);
}

#[test]
fn events_are_numbered_and_chosen() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "web"]).code(exit::OK);
    let events = stage.ws(&["events", "--json"]).code(exit::OK).json_lines();
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    assert_eq!(events[0]["kind"], "supervisor_started");
    let last = numbers[numbers.len() - 2].to_string();
    assert_eq!(stage.ws(&["events", "--since", &last, "--json"]).code(exit::OK).json_lines().len(), 1);
    let did = stage.ws(&["events", "db"]).code(exit::OK);
    assert!(did.out.lines().all(|line| line.contains(" db  ")) && did.out.contains("ready: "), "{}", did.out);
}

#[test]
fn exec_passes_streams_and_code_on() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    let mut child =
        stage.command(&["exec", "-e", "A=1", "db", "cat", "-x"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed").unwrap();
    let did = Did::new(child.wait_with_output().unwrap()).code(7);
    assert_eq!((did.out.as_str(), did.err.as_str()), ("cat -x [(\"A\", \"1\")] typed\n", "to stderr\n"));
    let did = stage.ws(&["exec", "db", "nope"]).code(exit::PASSED_NOT_FOUND);
    let _ = did.says(&["could not run `nope`", "because: no such file"]);
    let _ = stage.ws(&["exec", "never", "true"]).code(exit::PASSED_FAILED).says(&["`never` does not run"]);
    let _ = stage.ws(&["exec", "d", "true"]).code(exit::PASSED_WS).says(&["there is no service `d`"]);
}

#[test]
fn an_attached_up_that_is_not_the_owner_detaches() {
    let stage = Stage::new();
    let mut child = stage.command(&["up", "web"]).spawn().unwrap();
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    let _ = wait_for(&mut err, "Ctrl-C detaches");
    interrupt(&child);
    let _ = wait_for(&mut err, "detached; it goes on running");
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(exit::INTERRUPTED)));
    assert_eq!(stage.ws(&["ps", "web", "--json"]).code(exit::OK).json()[0]["phase"], "ready");

    let mut child = stage.command(&["up", "web"]).spawn().unwrap();
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    let _ = wait_for(&mut err, "Ctrl-C detaches");
    let _ = stage.ws(&["down"]).code(exit::OK);
    let _ = wait_for(&mut err, "the stack was taken down");
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(exit::OK)));
}

#[test]
fn following_ends_with_the_stack_or_an_interrupt() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    for command in [&["logs", "-f"][..], &["events", "-f"]] {
        let mut child = stage.command(command).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let _ = wait_for(&mut out, "db");
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(i32::from(exit::INTERRUPTED)), "{command:?}");
    }
    let mut child = stage.command(&["logs", "-f"]).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let _ = wait_for(&mut out, "db says hello");
    let _ = stage.ws(&["down"]).code(exit::OK);
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(exit::OK)));
}

#[test]
fn a_broken_or_renamed_file_does_not_keep_anybody_from_going_down() {
    let stage = Stage::new();
    std::fs::write(stage.root().join("workspace.yaml"), "name: [").unwrap();
    assert!(stage.ws(&["ps", "--json"]).code(exit::OK).json().as_array().unwrap().len() > 1);
    std::fs::write(stage.root().join("workspace.yaml"), FILE.replace("name: shop", "name: other")).unwrap();
    assert!(stage.ws(&["ps", "--json"]).code(exit::OK).json().as_array().unwrap().len() > 1);
    let _ = stage.ws(&["down"]).code(exit::OK).says(&["down in "]);
}

#[test]
fn an_instance_is_found_from_anywhere_by_its_full_name() {
    let stage = Stage::new();
    let name = stage.ws(&["ls", "--json"]).code(exit::OK).json()[0]["instance"].as_str().unwrap().to_owned();
    let output = stage.command(&["-p", &name, "ps", "--json"]).current_dir("/").output().unwrap();
    assert!(Did::new(output).code(exit::OK).json().as_array().unwrap().len() > 1);
    let output = stage.command(&["ps"]).current_dir("/").output().unwrap();
    let _ = Did::new(output).code(exit::USAGE).says(&["ws ls"]);
    // Another instance of the same directory does not run.
    assert_eq!(stage.ws(&["-p", "ci", "ps", "--json"]).code(exit::OK).json(), serde_json::json!([]));
}

#[test]
fn what_a_crash_left_is_cleared_and_told_once() {
    let stage = Stage::without_supervisor();
    let instance = InstanceId::new(&ws_model::WorkspaceName::new("shop").unwrap(), &stage.root(), None);
    let Acquired::Locked { lock, .. } = state_dir::acquire(&stage.runtime(), &instance).unwrap() else {
        panic!("nobody else runs it")
    };
    lock.write_record(&state_dir::Record {
        instance,
        root: stage.root().display().to_string(),
        version: "0.0.0".to_owned(),
        pid: 4711,
        boot_id: None,
        started_at: ws_model::Timestamp { unix_ms: 0 },
        attached: false,
    })
    .unwrap();
    drop(lock);
    assert_eq!(stage.ws(&["ls", "--json"]).code(exit::OK).json()[0]["state"], "crashed");
    let did = stage.ws(&["ps", "--json"]).code(exit::OK).says(&["supervisor 4711", "had crashed"]);
    assert_eq!(did.json(), serde_json::json!([]));
    assert_eq!(stage.ws(&["ps", "--json"]).code(exit::OK).err, "");
    assert_eq!(std::fs::read_dir(stage.runtime()).unwrap().count(), 0);
}

#[test]
fn services_are_stopped_started_and_restarted() {
    let stage = Stage::new();
    let phase = |service: &str| {
        let rows = stage.ws(&["ps", service, "--json"]).code(exit::OK).json();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["phase"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let _ = stage.ws(&["up", "--wait", "web", "pair"]).code(exit::OK);
    let did = stage.ws(&["stop", "db"]).code(exit::OK);
    let did = did.says(&["`web` needs `db` and stays as it is", "`ws stop db web` stops both"]);
    let _ = did.says(&["db: stopped", "stopped in "]);
    assert_eq!((phase("db"), phase("web")), (vec!["stopped".to_owned()], vec!["ready".to_owned()]));
    let did = stage.ws(&["start", "db"]).code(exit::OK).says(&["db: ready", "ready in "]);
    assert_eq!(did.out, "", "there is no data");

    let _ = stage.ws(&["restart", "web"]).code(exit::OK).says(&["web: stopping", "web: ready", "ready in "]);
    let _ = stage.ws(&["restart", "pair"]).code(exit::OK).says(&["pair-1: ready", "pair-2: ready"]);
    let _ = stage.ws(&["stop", "pair-2"]).code(exit::OK);
    assert_eq!(phase("pair"), ["ready", "stopped"]);
    let _ = stage.ws(&["kill", "pair"]).code(exit::OK).says(&["killed in "]);
    assert_eq!(phase("pair"), ["stopped", "stopped"]);
    let _ = stage.ws(&["restart", "--no-wait", "pair-1"]).code(exit::OK);
    let _ = stage.ws(&["wait", "pair-1"]).code(exit::OK);

    let did = stage.ws(&["start", "bad"]).code(exit::FAILED);
    let _ = did.says(&["✗ bad failed: exited with 3", "| bad says hello", "`bad` failed"]);
    let did = stage.ws(&["start", "--wait-timeout", "100ms", "never"]).code(exit::FAILED);
    let _ = did.says(&["not ready within 100 ms: `never`", "connection refused"]);
    let _ = stage.ws(&["stop", "dbb"]).code(exit::USAGE).says(&["did you mean `db`?"]);
    let _ = stage.ws(&["stop"]).code(exit::OK);
    assert_eq!(phase("web"), ["stopped"]);
}

#[test]
fn signals_are_sent_to_what_runs() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    let _ = stage.ws(&["kill", "-s", "NOPE", "db"]).code(exit::USAGE).says(&["NOPE"]);
    let _ = stage.ws(&["kill", "-s", "HUP", "web"]).code(exit::FAILED).says(&["`web`"]);
    let _ = stage.ws(&["kill", "-s", "USR1", "db"]).code(exit::OK);
    let events = stage.ws(&["events", "--json", "db"]).code(exit::OK);
    assert!(events.out.contains("was killed by SIGUSR1"), "{}", events.out);
}

#[test]
fn waiting_ends_when_it_is_so_or_never_can_be() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "-d", "web", "migrate", "never"]).code(exit::OK);
    assert_eq!(stage.ws(&["wait", "web", "migrate"]).code(exit::OK).out, "");
    assert_eq!(stage.ws(&["wait", "web", "--json"]).code(exit::OK).json()[0]["ready"], true);
    let _ = stage.ws(&["wait", "--for", "completed", "migrate"]).code(exit::OK);
    let _ = stage.ws(&["wait", "--for", "started", "never"]).code(exit::OK);
    let did = stage.ws(&["wait", "--timeout", "100ms", "never", "web"]).code(exit::PASSED_TIMEOUT);
    let _ = did.says(&["not ready within 100 ms: `never`", "connection refused"]);
    let _ = stage.ws(&["up", "-d", "bad"]).code(exit::FAILED);
    let did = stage.ws(&["wait", "bad"]).code(exit::FAILED);
    let _ = did.says(&["✗ bad failed: exited with 3", "`bad` cannot become ready by itself"]);
    let _ = stage.ws(&["wait", "--for", "stopped", "bad", "migrate"]).code(exit::OK);

    let child = stage.command(&["wait", "--for", "stopped", "web"]).spawn().unwrap();
    let _ = stage.ws(&["stop", "web"]).code(exit::OK);
    let _ = Did::new(child.wait_with_output().unwrap()).code(exit::OK);
    let child = stage.command(&["wait", "web"]).spawn().unwrap();
    let _ = stage.ws(&["down"]).code(exit::OK);
    let did = Did::new(child.wait_with_output().unwrap());
    assert!(
        [exit::FAILED, exit::NOT_RUNNING].map(i32::from).contains(&did.code),
        "{}: {}",
        did.code,
        did.err
    );
}

#[test]
fn what_a_service_may_not_is_told_everywhere_in_the_same_words() {
    let stage = Stage::with(TROUBLE);
    let did = stage.ws(&["violations", "--json"]).code(exit::OK);
    let did = did.says(&["note: not seen here: memory: nothing counts it here"]);
    assert_eq!(did.json(), serde_json::json!([]));
    let did = stage.ws(&["up", "--wait", "sneaks"]).code(exit::OK);
    let tried = "tried db:5432 (tcp), and no link leads there";
    let did = did.says(&["violation:", tried, "· 1 violation (`ws violations`)"]);
    assert!(did.err.contains("add `links: [\"db:5432\"]` to `services.sneaks`"), "{}", did.err);

    let rows = stage.ws(&["violations", "--json"]).code(exit::OK).json();
    let row = &rows[0];
    assert_eq!(rows.as_array().unwrap().len(), 1);
    for (key, value) in
        [("service", "sneaks"), ("class", "network"), ("mechanism", "nflog"), ("action", "report")]
    {
        assert_eq!(row[key], value, "{row}");
    }
    assert_eq!((&row["evidence"]["name"], &row["count"]), (&"db".into(), &1.into()));
    let line = 1 + FILE.lines().count() + TROUBLE.lines().position(|line| line == "  sneaks:").unwrap();
    let did = stage.ws(&["violations"]).code(exit::OK);
    assert!(did.out.contains("sneaks  network reported") && did.out.contains(tried), "{}", did.out);
    assert!(did.out.contains(&format!("(workspace.yaml:{line})")), "{}", did.out);
    let did = stage.ws(&["violations", "--github", "--exit-code"]).code(exit::VIOLATION);
    let annotation =
        format!("::warning file=workspace.yaml,line={line},title=ws network violation::sneaks {tried}");
    assert!(did.out.starts_with(&annotation), "{}", did.out);
    let report = stage.root().join("report.xml");
    let _ = stage.ws(&["violations", "--junit", report.to_str().unwrap()]).code(exit::OK);
    assert!(std::fs::read_to_string(report).unwrap().contains("failures=\"1\""));
    assert_eq!(stage.ws(&["violations", "db", "--json"]).code(exit::OK).json(), serde_json::json!([]));
    let _ = stage.ws(&["violations", "nobody"]).code(exit::USAGE);
    // The program only says that it could not connect.
    let log = stage.ws(&["logs", "sneaks"]).code(exit::OK).out;
    assert!(log.contains("ws: violation (network): tried db:5432"), "{log}");
    let events = stage.ws(&["events", "sneaks", "--json"]).code(exit::OK).json_lines();
    assert!(events.iter().any(|event| event["kind"] == "violation" && event["run"] == 1), "{events:?}");
}

#[test]
fn what_would_have_sufficed_is_proposed_as_a_patch() {
    let stage = Stage::with(TROUBLE);
    let file = stage.root().join("workspace.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    let _ = stage.ws(&["learn"]).code(exit::OK).says(&["nothing that a right of the file would allow"]);
    let _ = stage.ws(&["up", "--wait", "sneaks"]).code(exit::OK);
    let did = stage.ws(&["learn"]).code(exit::OK).says(&["`ws learn --write` writes it"]);
    let patch = [
        "--- a/workspace.yaml\n+++ b/workspace.yaml\n",
        "   sneaks:\n     command: sleep 1000\n+    links: [\"db:5432\"]\n   breaks:\n",
    ];
    assert!(patch.iter().all(|part| did.out.contains(part)), "{}", did.out);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let _ = stage.ws(&["learn", "db"]).code(exit::OK).says(&["nothing that a right"]);
    let _ = stage.ws(&["learn", "--write"]).code(exit::OK).says(&["`ws apply` takes it over"]);
    let line = "  sneaks:\n    command: sleep 1000\n";
    let after = before.replace(line, &format!("{line}    links: [\"db:5432\"]\n"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
    let json = stage.ws(&["learn", "--json"]).code(exit::OK).json();
    assert_eq!((&json["patch"], &json["wishes"][0]), (&"".into(), &"sneaks: link to db:5432/tcp".into()));
}

#[test]
fn who_breaks_its_policy_is_violated_and_the_code_says_so() {
    let stage = Stage::with(TROUBLE);
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    let did = stage.ws(&["up", "--wait", "breaks"]).code(exit::VIOLATION);
    let _ = did.says(&["breaks: violated", "called mount, answered EPERM"]);
    let rows = stage.ws(&["ps", "breaks", "db", "--json"]).code(exit::OK).json();
    let row = |i: usize, key: &str| rows[i][key].clone();
    assert_eq!(
        (row(0, "phase"), row(0, "reason"), row(1, "phase")),
        ("violated".into(), "violation".into(), "ready".into())
    );
    let did = stage.ws(&["why", "breaks"]).code(exit::OK);
    assert!(did.out.contains("✗ breaks broke its policy: called mount"), "{}", did.out);
}

#[test]
fn a_policy_can_take_the_workspace_down() {
    let mut stage = Stage::with(TROUBLE);
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    let did = stage.ws(&["up", "--wait", "dooms"]).code(exit::VIOLATION);
    let _ =
        did.says(&["opened the decoy", "its policy stops the workspace for it", "`ws violations` has more"]);
    stage.supervisor.take().unwrap().join().unwrap();
    // It can be looked at afterwards.
    let rows = stage.ws(&["violations", "--json"]).code(exit::OK).json();
    assert_eq!((&rows[0]["service"], &rows[0]["action"]), (&"dooms".into(), &"stop".into()));
}

#[test]
fn who_may_reach_whom_is_told_with_its_line() {
    let stage = Stage::new();
    let line = |text: &str| 1 + FILE.lines().position(|line| line.contains(text)).unwrap();
    let link = line("links: [\"db:5432\"]");
    let did = stage.ws(&["why", "web", "db:5432"]).code(exit::OK);
    assert!(
        did.out.contains(&format!("✓ web may reach db:5432/tcp: 5432/tcp by workspace.yaml:{link}")),
        "{}",
        did.out
    );
    let did = stage.ws(&["why", "pair", "db:5432"]).code(exit::FAILED);
    let text = format!(
        "✗ pair may not reach db:5432/tcp: no link of `pair` leads there\n  to allow it, add `links: [\"db:5432\"]` to \
         `services.pair` (workspace.yaml:{})\n  who may reach it: web on 5432/tcp (workspace.yaml:{link})\n",
        line("  pair:")
    );
    assert_eq!(did.out, text);
    let json = stage.ws(&["why", "pair", "db:5432", "--json"]).code(exit::FAILED).json();
    assert_eq!(
        (&json["allowed"], &json["suggestion"]["add"]),
        (&false.into(), &"links: [\"db:5432\"]".into())
    );
    assert_eq!(json["reached_by"][0]["service"], "web");
    let _ = stage.ws(&["why", "web", "db:x"]).code(exit::USAGE);
    let _ = stage.ws(&["why", "nobody", "db"]).code(exit::USAGE);
    let did = stage.ws(&["why", "db"]).code(exit::OK);
    assert!(
        did.out.contains(&format!("may be reached by web on 5432/tcp (workspace.yaml:{link})")),
        "{}",
        did.out
    );
}

#[test]
fn a_cause_is_told_down_to_its_root() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "-d", "needs-bad"]).code(exit::FAILED);
    let did = stage.ws(&["why", "needs-bad"]).code(exit::OK);
    for text in ["✗ needs-bad failed", "because bad failed: exited with 3", "`ws logs -n 20 bad`"] {
        assert!(did.out.contains(text), "no {text:?} in\n{}", did.out);
    }
    let why = stage.ws(&["why", "needs-bad", "--json"]).code(exit::OK).json();
    assert_eq!(why["chain"][1]["service"], "bad");
    assert_eq!(stage.ws(&["why", "pair", "--json"]).code(exit::OK).json().as_array().unwrap().len(), 2);
    let _ = stage.ws(&["why", "nobody"]).code(exit::USAGE);
}

#[test]
fn a_one_off_passes_its_code_on() {
    let stage = Stage::new();
    let did = stage.ws(&["run", "web", "echo", "-n", "hi"]).code(9);
    assert_eq!(did.out, "web-run-1 ran echo -n hi\n");
    let row = |service: &str| stage.ws(&["ps", service, "--json"]).code(exit::OK).json()[0]["phase"].clone();
    assert_eq!((row("db"), row("web")), ("ready".into(), "pending".into()), "only what it needs was started");
    assert_eq!(stage.ws(&["run", "-T", "pair-2"]).code(9).out, "pair-run-1 ran sleep 1000\n");
    let did = stage.ws(&["run", "needs-bad", "true"]).code(exit::PASSED_FAILED);
    let _ = did.says(&["✗ bad failed: exited with 3", "what `needs-bad` depends on did not come up"]);
    assert_eq!(
        stage.ws(&["run", "--no-deps", "needs-bad", "true"]).code(9).out,
        "needs-bad-run-2 ran true\n"
    );
    let _ =
        stage.ws(&["run", "nobody", "true"]).code(exit::PASSED_WS).says(&["there is no service `nobody`"]);
}

#[test]
fn a_shell_is_the_first_that_is_inside() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);
    let output = stage.command(&["shell", "db"]).env("SHELL", "/opt/bin/nope").output().unwrap();
    assert!(Did::new(output).code(7).out.starts_with("bash []"));
    let output = stage.command(&["shell", "db"]).env("SHELL", "/bin/zsh").output().unwrap();
    assert!(Did::new(output).code(7).out.starts_with("zsh []"));
}

#[test]
fn the_end_of_a_service_takes_the_stack_down_where_that_is_asked() {
    let cases: [(&[&str], u8, &[&str]); 6] = [
        (
            &["--abort-on-failure", "needs-bad"],
            exit::FAILED,
            &["✗ bad failed: exited with 3", "`bad` exited with 3"],
        ),
        (&["--abort-on-exit", "crashes"], exit::FAILED, &["`crashes` exited with 3"]),
        (&["--exit-code-from", "bad", "bad"], 3, &["`bad` exited with 3", "down in "]),
        (&["--exit-code-from", "crashes", "crashes"], 3, &["`crashes` exited with 3"]),
        (
            &["--exit-code-from", "migrate", "web", "migrate"],
            0,
            &["`migrate` finished with 0: stopping everything"],
        ),
        (&["--exit-code-from", "web", "web", "bad"], exit::PASSED_FAILED, &["`bad` exited with 3"]),
    ];
    for (args, code, says) in cases {
        let stage = Stage::new();
        let did = stage.ws(&[&["up"], args].concat());
        assert_eq!(did.code, i32::from(code), "{args:?}: {}", did.err);
        let _ = did.says(says);
        assert_eq!(stage.ws(&["ps", "--json"]).code(exit::OK).json(), serde_json::json!([]), "{args:?}");
    }
    let stage = Stage::without_supervisor();
    let _ = stage.ws(&["up", "--exit-code-from", "nobody"]).code(exit::PASSED_WS).says(&["`nobody`"]);
    let _ = stage.ws(&["up", "-d", "--abort-on-exit"]).code(exit::USAGE);
}

#[test]
fn a_crash_loop_is_told_with_the_last_lines() {
    let stage = Stage::new();
    let did = stage.ws(&["up", "--wait", "crashes"]).code(exit::FAILED);
    let did = did.says(&["crashes ends again and again: exited with 3, 3 failures in a row", "next try in "]);
    let _ = did.says(&["| crashes says hello", "✗ crashes failed"]);
}

#[test]
fn lines_are_chosen_by_an_expression_and_shown_as_asked() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "web", "pair"]).code(exit::OK);
    assert_eq!(
        stage.ws(&["logs", "--grep", "^web .*hello$"]).code(exit::OK).out,
        "web       | web says hello\n"
    );
    let did = stage.ws(&["logs", "--no-prefix", "-g", "hello", "pair"]).code(exit::OK);
    assert_eq!(did.out, "pair-1 says hello\npair-2 says hello\n");
    let did = stage.ws(&["logs", "--no-prefix", "--no-color", "-v", "-g", "hello", "web"]).code(exit::OK);
    assert_eq!(did.out, "red\n");
    assert_eq!(stage.ws(&["logs", "--until", "1970-01-01T00:00:00Z"]).code(exit::OK).out, "");
    assert_eq!(
        stage.ws(&["logs", "--json", "-n", "1", "web"]).code(exit::OK).json_lines()[0]["line"],
        "\u{1b}[31mred\u{1b}[0m"
    );
    let _ = stage.ws(&["logs", "--grep", "("]).code(exit::USAGE).says(&["unclosed group"]);
}

#[test]
fn what_services_use_is_shown_once_and_as_lines() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "web"]).code(exit::OK);
    let did = stage.ws(&["stats", "--no-stream", "--interval", "100ms"]).code(exit::OK);
    let lines: Vec<&str> = did.out.lines().collect();
    assert!(
        lines[0].starts_with("SERVICE") && lines[1].starts_with("db ") && lines[1].contains("12M"),
        "{lines:?}"
    );
    // Without a terminal it ends by itself.
    assert_eq!(stage.ws(&["stats", "web", "--interval", "100ms"]).code(exit::OK).out.lines().count(), 2);
    let samples =
        stage.ws(&["stats", "--json", "--no-stream", "--interval", "100ms"]).code(exit::OK).json_lines();
    assert_eq!((samples[0]["name"].as_str(), samples[0]["pids"].as_u64()), (Some("db"), Some(3)));
    let _ = stage.ws(&["stats", "--interval", "1ms"]).code(exit::USAGE);
    let _ = stage.ws(&["stats", "nobody"]).code(exit::USAGE);
}

/// A terminal of its own for a command of `ws`.
struct Terminal {
    pty: OpenptyResult,
    reader: std::io::BufReader<std::fs::File>,
}

impl Terminal {
    fn new() -> Self {
        let size = Winsize { ws_col: 100, ws_row: 30, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let reader = std::io::BufReader::new(std::fs::File::from(pty.master.try_clone().unwrap()));
        Self { pty, reader }
    }

    fn run(&self, stage: &Stage, args: &[&str]) -> Child {
        let end = || Stdio::from(self.pty.slave.try_clone().unwrap());
        stage.command(args).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn type_in(&self, keys: &[u8]) {
        std::fs::File::from(self.pty.master.try_clone().unwrap()).write_all(keys).unwrap();
    }

    /// Whether lines are edited and keys make signals here, as before.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.pty.slave).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
    }
}

fn send(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn a_terminal_is_handed_over_and_given_back() {
    use nix::sys::signal::Signal;
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "db"]).code(exit::OK);

    let mut terminal = Terminal::new();
    assert!(terminal.is_cooked());
    let mut child = terminal.run(&stage, &["exec", "db", "screen"]);
    let _ = wait_for(&mut terminal.reader, "100 x 30");
    assert!(!terminal.is_cooked(), "every key goes to the command");
    terminal.type_in(b"\x03");
    let wider = rustix::termios::Winsize { ws_col: 120, ws_row: 40, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.pty.slave, wider).unwrap();
    // It is not the terminal's session here, so the kernel does not tell.
    send(&child, Signal::SIGWINCH);
    let _ = wait_for(&mut terminal.reader, "120 x 40");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 10));
    assert!(terminal.is_cooked());

    let mut terminal = Terminal::new();
    let mut child = terminal.run(&stage, &["exec", "db", "screen"]);
    let _ = wait_for(&mut terminal.reader, "100 x 30");
    terminal.type_in(b"q");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(terminal.is_cooked());

    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut terminal = Terminal::new();
        let mut child = terminal.run(&stage, &["exec", "db", "screen"]);
        let _ = wait_for(&mut terminal.reader, "100 x 30");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32), "{signal}");
        assert!(terminal.is_cooked(), "{signal}");
    }
}

#[test]
fn an_instance_that_runs_says_how_it_is() {
    let stage = Stage::new();
    let _ = stage.ws(&["up", "--wait", "web", "migrate"]).code(exit::OK);
    let rows = stage.ws(&["ls", "--json"]).code(exit::OK).json();
    assert_eq!((rows[0]["ready"].as_u64(), rows[0]["services"].as_u64()), (Some(3), Some(9)));
    assert!(rows[0]["started_at"].is_string());
    let did = stage.ws(&["ls"]).code(exit::OK);
    assert!(did.out.contains(" 3/9 "), "{}", did.out);
}

/// The file in which `db` stops faster, and is told so by nobody.
fn edited() -> String {
    FILE.replace("    ready: { tcp: 5432 }\n", "    ready: { tcp: 5432 }\n    stop: { grace: 3s }\n")
}

/// The file in which `web` may reach one more.
fn with_more_rights() -> String {
    FILE.replace("    links: [\"db:5432\"]\n", "    links: [\"db:5432\", \"pair:7000\"]\n")
}

impl Stage {
    fn write(&self, text: &str) {
        std::fs::write(self.root().join("workspace.yaml"), text).unwrap();
    }

    /// Waits until `ws events` has something, and gives all of it.
    fn until_told(&self, text: &str) -> String {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let told = self.ws(&["events"]).code(exit::OK).out;
            if told.contains(text) {
                return told;
            }
            assert!(std::time::Instant::now() < until, "no {text:?} in\n{told}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn an_edited_file_is_carried_out_by_itself() {
    let stage = Stage::new();
    stage.write(&edited());
    let told = stage.until_told("what changed is carried out");
    assert!(told.contains("the plan changed: db: ") && told.contains("goes on"), "{told}");
    let ran = stage.ws(&["apply"]).code(exit::OK).says(&["nothing is different"]);
    assert_eq!(ran.out, "");
    let ran = stage.ws(&["apply", "--dry-run", "--json"]).code(exit::OK);
    assert_eq!(ran.json()["lines"], serde_json::json!([]));
}

#[test]
fn more_rights_wait_for_apply() {
    let stage = Stage::new();
    stage.write(&with_more_rights());
    let told = stage.until_told("gives more rights");
    assert!(told.contains("waits for `ws apply`") && told.contains("pair"), "{told}");
    for command in [&["apply", "--dry-run"][..], &["plan"]] {
        let ran = stage.ws(command).code(exit::OK);
        assert!(ran.out.contains("link to pair") && ran.out.contains("more"), "{}\n{}", ran.out, ran.err);
    }
    let ran = stage.ws(&["apply", "--dry-run", "--json"]).code(exit::OK).json();
    assert_eq!((&ran["widens"], &ran["needs_down"]), (&true.into(), &false.into()));
    let up = stage.ws(&["up", "-d", "db"]).code(exit::OK);
    let up = up.says(&["it runs already", "is not what runs (", "`ws apply` carries it out"]);
    drop(up);
    let ran = stage.ws(&["apply"]).code(exit::OK).says(&["carried out in", "gets more rights"]);
    assert!(ran.out.contains("link to pair"), "{}", ran.out);
    drop(stage.ws(&["plan"]).code(exit::OK).says(&["this is what runs"]));
}

#[test]
fn a_broken_file_changes_nothing() {
    let stage = Stage::new();
    stage.write(&format!("{FILE}  more: {{ comand: x }}\n"));
    // Not the file that is half written: before everything is watched, nobody waits for it to be quiet.
    let told = stage.until_told("`comand`");
    assert!(told.contains("the workspace file has errors") && told.contains("workspace.yaml:"), "{told}");
    let ran = stage.ws(&["apply"]).code(exit::USAGE).says(&[
        "the files have errors",
        "workspace.yaml:",
        "`comand`",
    ]);
    assert_eq!(ran.out, "");
    drop(stage.ws(&["apply", "--dry-run"]).code(exit::USAGE).says(&["`comand`"]));
    stage.write(FILE);
    stage.until_told("the workspace file says again what runs");
    drop(stage.ws(&["apply"]).code(exit::OK).says(&["nothing is different"]));
}

#[test]
fn what_needs_a_stack_that_is_down_is_refused() {
    let stage = Stage::new();
    stage.write(&FILE.replace("name: shop\n", "name: shop\nnetwork: { subnet: 10.91.0.0/16 }\n"));
    let told = stage.until_told("cannot be carried out while the stack runs");
    assert!(told.contains("network"), "{told}");
    drop(stage.ws(&["apply", "--dry-run"]).code(exit::OK).says(&["`ws down`, then `ws up`"]));
    drop(
        stage
            .ws(&["apply"])
            .code(exit::FAILED)
            .says(&["cannot be carried out while the stack runs", "ws down"]),
    );
}

#[test]
fn settings_stay_until_the_file_says_something_else_about_them() {
    let stage = Stage::new();
    let ran = stage.ws(&["set", "db", "limits.nothing=1"]).code(exit::USAGE);
    drop(ran.says(&["`db` cannot be set so", "limits.nothing=1", "`limits.memory`"]));
    drop(stage.ws(&["set", "db", "stop.grace=soon"]).code(exit::USAGE).says(&["stop.grace=soon"]));
    drop(stage.ws(&["set", "nobody", "stop.grace=1s"]).code(exit::USAGE).says(&["nobody"]));
    drop(stage.ws(&["set", "db", "stop.grace"]).code(exit::USAGE).says(&["limits.memory=1G"]));
    drop(stage.ws(&["set", "db", "stop.grace=1s", "stop.grace=2s"]).code(exit::USAGE).says(&["twice"]));
    let ran = stage.ws(&["set", "db", "stop.grace=7s"]).code(exit::OK).says(&["carried out in"]);
    assert!(ran.out.contains("killed after 7 s"), "{}", ran.out);
    // A reload of the file leaves it.
    stage.write(&FILE.replace("command: sleep 0\n", "command: sleep 0\n    stop: { grace: 4s }\n"));
    stage.until_told("migrate: ");
    let ran = stage.ws(&["apply", "--dry-run", "--json"]).code(exit::OK);
    assert_eq!(ran.json()["lines"], serde_json::json!([]));
    // The file's own word about it counts again.
    stage.write(&edited());
    stage.until_told("after 7 s becomes SIGTERM, killed after 3 s");
}

#[test]
fn what_is_watched_is_explained() {
    let stage = Stage::new();
    drop(stage.ws(&["watch"]).code(exit::OK).says(&["no files are watched for any service"]));
    let ran = stage.ws(&["watch", "workspace.yaml", "../shop/x.rs"]).code(exit::OK);
    assert!(ran.out.contains("workspace.yaml\n  the plan is made of it"), "{}", ran.out);
    assert!(ran.out.contains("x.rs\n  no files are watched"), "{}", ran.out);
    let json = stage.ws(&["watch", "workspace.yaml", "--json"]).code(exit::OK).json();
    assert_eq!((&json["paths"][0]["plan_file"], &json["units"]), (&true.into(), &serde_json::json!([])));
    let nothing = Stage::without_supervisor();
    for command in [&["watch"][..], &["apply"], &["apply", "--dry-run"], &["set", "db", "a=b"]] {
        drop(nothing.ws(command).code(exit::NOT_RUNNING));
    }
}

#[test]
fn apply_waits_for_what_it_starts() {
    let stage = Stage::new();
    // Some of it cannot come up; what is added later is wanted all the same, as everything is.
    assert_eq!(stage.ws(&["up", "-d"]).code, i32::from(exit::FAILED));
    // With a link, so that it waits for the command.
    let more = |name: &str, more: &str| {
        format!(
            "{FILE}  {name}:\n    command: sleep 1000\n    links: [\"db:5432\"]\n    ready: {{ tcp: 1 }}\n{more}"
        )
    };
    stage.write(&more("mail", ""));
    let ran = stage.ws(&["apply"]).code(exit::OK).says(&["carried out in", "1 is added"]);
    assert!(ran.out.contains("mail"), "{}", ran.out);
    assert!(stage.ws(&["ps", "mail"]).code(exit::OK).out.contains("ready"));
    let pid = |name: &str| stage.ws(&["ps", name, "--json"]).code(exit::OK).json()[0]["restarts"].clone();
    let db = pid("db");
    stage.write(&more("worse", "    restart: { policy: \"no\" }\n"));
    drop(stage.ws(&["apply"]).code(exit::FAILED).says(&["`worse` failed", "exited with 3"]));
    assert_eq!(pid("db"), db, "what is the same is not touched");
    let ran = stage.ws(&["set", "db", "environment.LOG=debug"]).code(exit::OK).says(&["1 starts again"]);
    assert!(ran.out.contains("environment.LOG"), "{}", ran.out);
    assert_eq!(pid("db"), serde_json::json!(db.as_u64().unwrap() + 1));
}
