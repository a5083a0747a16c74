//! The built command, on directories of its own: what it prints where, and its exit codes.
//!
//! Only commands that start nothing; what needs a machine is in the end-to-end tests of the workspace.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use ws_model::exit;

/// A directory with nothing of the user's around it.
struct Sealed {
    dir: TempDir,
}

/// What a command did, with the directory's name replaced.
#[must_use]
struct Did {
    code: u8,
    out: String,
    err: String,
}

impl Sealed {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join("shop").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("shop")).unwrap();
        Self { dir }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ws"));
        command
            .args(args)
            .current_dir(self.root().join("shop"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.root())
            .env("WS_RUNTIME_DIR", self.root().join("run"))
            .env("WS_STATE_DIR", self.root().join("state"))
            .stdin(Stdio::null());
        command
    }

    fn ws(&self, args: &[&str]) -> Did {
        self.did(&self.command(args).output().unwrap())
    }

    fn did(&self, output: &Output) -> Did {
        let root = std::fs::canonicalize(self.root()).unwrap();
        let clean =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&root.display().to_string(), "[DIR]");
        Did {
            code: u8::try_from(output.status.code().expect("it was not killed")).unwrap(),
            out: clean(&output.stdout),
            err: clean(&output.stderr),
        }
    }
}

impl Did {
    #[track_caller]
    fn code(self, code: u8) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {:?}", self.out))
    }
}

const GOOD: &str = "\
services:
  db:
    command: sleep 1000
    expose: [5432]
  api:
    command: sleep 1000
    links: [\"db:5432\"]
    environment: { LOG: \"${LOG:-info}\" }
    ports: [\"127.0.0.1:0:8080\"]
    ready: { http: \":8080/healthz\" }
";

const BAD: &str = "\
services:
  db:
    command: sleep 1000
  api:
    comand: sleep 1000
    links: [\"bd:5432\"]
";

#[test]
fn a_good_file_is_good() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let did = here.ws(&["check"]).code(exit::OK);
    assert_eq!(did.out, "", "data goes to stdout, and there is none");
    assert!(did.err.contains("good: `[DIR]/shop/workspace.yaml`, 2 services"), "{}", did.err);
    assert_eq!(here.ws(&["check", "--json"]).code(exit::OK).json(), serde_json::json!([]));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let here = Sealed::new(&[("workspace.yaml", BAD)]);
    let did = here.ws(&["check"]).code(exit::USAGE);
    assert_eq!(did.out, "");
    for text in [
        "workspace.yaml:5:5",
        "`comand`",
        "did you mean `command`",
        "workspace.yaml:6:14",
        "did you mean `db`",
    ] {
        assert!(did.err.contains(text), "no {text:?} in\n{}", did.err);
    }
    let did = here.ws(&["check", "--json"]).code(exit::USAGE);
    assert_eq!(did.err, "");
    assert!(did.json().as_array().unwrap().len() >= 2, "{}", did.out);
    for command in [&["up"][..], &["up", "-d"], &["plan"], &["config"], &["graph"]] {
        let did = here.ws(command).code(exit::USAGE);
        assert!(did.err.contains("`comand`") && did.err.contains("ws explain WS"), "{}", did.err);
        assert_eq!(did.out, "");
    }
    assert!(!here.root().join("run").exists(), "nothing was started");
}

#[test]
fn the_resolved_workspace_can_be_seen() {
    let here =
        Sealed::new(&[("workspace.yaml", GOOD), ("other.env", "LOG=trace\n"), (".env", "LOG=debug\n")]);
    let log = |did: &Did| did.json()["services"]["api"]["environment"]["LOG"].clone();
    assert_eq!(log(&here.ws(&["config", "--json"]).code(exit::OK)), "debug");
    assert_eq!(log(&here.ws(&["config", "--json", "--env-file", "other.env"]).code(exit::OK)), "trace");
    let output = here.command(&["config", "--json"]).env("LOG", "shell").output().unwrap();
    assert_eq!(log(&here.did(&output).code(exit::OK)), "shell");
    assert!(here.ws(&["config", "--origins"]).code(exit::OK).out.contains(".env"));
    let did = here.ws(&["config", "--env-file", "nope.env"]).code(exit::USAGE);
    assert!(did.err.contains("could not read `[DIR]/shop/nope.env`"), "{}", did.err);
}

#[test]
fn plans_and_graphs_are_shown() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let did = here.ws(&["plan"]).code(exit::OK);
    assert!(did.out.contains("api") && did.out.contains("db"), "{}", did.out);
    assert!(here.ws(&["plan", "--json"]).code(exit::OK).json().is_object());
    let did = here.ws(&["graph"]).code(exit::OK);
    assert!(did.out.contains("api") && did.out.contains("db"), "{}", did.out);
    assert!(here.ws(&["graph", "--format", "json"]).code(exit::OK).json().is_object());
    for (format, starts, has) in [
        ("mermaid", "flowchart LR\n", "api"),
        ("dot", "digraph workspace {\n", "5432"),
        ("svg", "<?xml", ">api<"),
    ] {
        let did = here.ws(&["graph", "--format", format]).code(exit::OK);
        assert!(did.out.starts_with(starts) && did.out.contains(has), "{format}: {}", did.out);
    }
    let did = here.ws(&["ps", "--format", "svg"]).code(exit::USAGE);
    assert!(did.err.contains("`--format svg` is for `ws graph`"), "{}", did.err);
    let empty = Sealed::new(&[("workspace.yaml", "services: {}\n")]);
    let did = empty.ws(&["graph", "--format", "svg"]);
    assert!(did.code == exit::OK || did.err.contains("no services"), "{}", did.err);
}

#[test]
fn nothing_runs() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let did = here.ws(&["ps", "--json"]).code(exit::OK);
    assert_eq!(did.json(), serde_json::json!([]));
    let did = here.ws(&["ps"]).code(exit::OK);
    assert_eq!(did.out, "");
    let did = here.ws(&["down"]).code(exit::OK);
    assert!(did.err.contains("nothing to do"), "{}", did.err);
    for command in [
        &["logs"][..],
        &["events"],
        &["port", "api", "8080"],
        &["start"],
        &["stop"],
        &["restart"],
        &["kill"],
        &["wait"],
        &["why", "api"],
        &["stats"],
    ] {
        let did = here.ws(command).code(exit::NOT_RUNNING);
        assert!(did.err.contains("ws up -d"), "{}", did.err);
    }
    for command in [&["exec", "api", "true"][..], &["shell", "api"]] {
        let did = here.ws(command).code(exit::PASSED_WS);
        assert!(did.err.contains("ws up -d"), "{}", did.err);
    }
    let did = here.ws(&["run", "apii", "true"]).code(exit::PASSED_WS);
    assert!(did.err.contains("did you mean `api`?"), "{}", did.err);
    assert_eq!(here.ws(&["ls", "--json"]).code(exit::OK).json(), serde_json::json!([]));
    assert!(here.ws(&["gc"]).code(exit::OK).err.contains("nothing to clear"));
    assert!(
        !here.root().join("run").exists() && !here.root().join("state").exists(),
        "looking makes nothing"
    );
}

#[test]
fn a_workspace_is_needed() {
    let here = Sealed::new(&[("compose.yaml", "services: {}\n")]);
    for command in [&["up"][..], &["ps"], &["check"], &["down"], &["exec", "a", "b"]] {
        let did = here.ws(command).code(if command[0] == "exec" { exit::PASSED_WS } else { exit::USAGE });
        assert!(did.err.contains("there is no workspace.yaml in `[DIR]/shop` or above it"), "{}", did.err);
        assert!(did.err.contains("`compose.yaml`"), "{}", did.err);
    }
    let did = here.ws(&["-f", "nope.yaml", "check"]).code(exit::USAGE);
    assert!(did.err.contains("`[DIR]/shop/nope.yaml` does not exist"), "{}", did.err);
}

#[test]
fn the_command_line_is_checked() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let did = here.ws(&["pss"]).code(exit::USAGE);
    assert!(did.err.contains("'ps'"), "{}", did.err);
    let did = here.ws(&["up", "-f", "x.yaml"]).code(exit::USAGE);
    assert!(did.err.contains("`ws -f FILE up`"), "{}", did.err);
    let did = here.ws(&["up", "apii"]).code(exit::USAGE);
    assert!(
        did.err.contains("there is no service `apii`") && did.err.contains("did you mean `api`?"),
        "{}",
        did.err
    );
    for line in [
        &["up", "--wait-timeout", "soon"][..],
        &["up", "--accept", "half"],
        &["logs", "--since", "soon"],
        &["port", "api", "0"],
    ] {
        let did = here.ws(line).code(exit::USAGE);
        assert!(did.err.contains("for '"), "{}", did.err);
    }
    let did = here.ws(&["-p", "A/B", "ps"]).code(exit::USAGE);
    assert!(did.err.contains("`A/B`"), "{}", did.err);
    assert!(here.ws(&["--help"]).code(exit::OK).out.contains("Exit codes:"));
    assert!(here.ws(&[]).code(exit::USAGE).err.contains("Usage:"));
}

#[test]
fn codes_are_explained_and_versions_told() {
    let here = Sealed::new(&[]);
    let did = here.ws(&["explain", "WS9999"]).code(exit::USAGE);
    assert!(did.err.contains("there is no code `WS9999`"), "{}", did.err);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(here.ws(&["version"]).code(exit::OK).out, format!("ws {version}\n"));
    assert_eq!(here.ws(&["version", "--json"]).code(exit::OK).json()["version"], version);
    assert!(here.ws(&["schema"]).code(exit::OK).json().is_object());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let mut child = here.command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let did = here.did(&child.wait_with_output().unwrap()).code(exit::OK);
    assert_eq!(did.err, "");
}

#[test]
fn there_are_colours_only_on_a_terminal() {
    let here = Sealed::new(&[("workspace.yaml", BAD)]);
    assert!(!here.ws(&["check"]).code(exit::USAGE).err.contains('\x1b'));
}

#[test]
fn places_that_others_own_are_refused() {
    let here = Sealed::new(&[("workspace.yaml", GOOD)]);
    let run = here.root().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink("/tmp", run.join("x")).unwrap();
    let output = here.command(&["ls"]).env("WS_RUNTIME_DIR", run.join("x")).output().unwrap();
    let did = here.did(&output).code(exit::FAILED);
    assert!(did.err.contains("symbolic link") && did.err.contains("WS_RUNTIME_DIR"), "{}", did.err);
}

/// In them are the logs, volumes and sockets of all services.
#[test]
fn the_directories_of_ws_are_in_no_services_sight() {
    let file = "services: { a: { command: sleep 1 }, b: { command: sleep 1, reads: [../data] } }\n";
    let here = Sealed::new(&[("workspace.yaml", file), ("../data/x", "")]);
    assert_eq!(here.ws(&["plan"]).code, 0);
    for (variable, place) in [
        ("WS_STATE_DIR", "shop/state"),
        ("WS_STATE_DIR", "shop/deep/state"),
        ("WS_STATE_DIR", "shop"),
        ("WS_RUNTIME_DIR", "shop/run"),
        ("WS_RUNTIME_DIR", "data"),
        ("WS_STATE_DIR", "data/state"),
    ] {
        let output = here.command(&["up", "-d"]).env(variable, here.root().join(place)).output().unwrap();
        let did = here.did(&output).code(2);
        assert!(did.err.contains("no place for what `ws` keeps"), "{place}: {}", did.err);
    }
    // What no service sees of the project is as good as any other place.
    let hidden = here.root().join("shop/.git/ws");
    let output = here.command(&["plan"]).env("WS_STATE_DIR", hidden).output().unwrap();
    assert_eq!(here.did(&output).code, 0);
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let here = Sealed::new(&[]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let did = here.ws(&["completions", shell]).code(exit::OK);
        assert!(did.out.contains("restart") && did.out.contains("abort-on-exit"), "{shell}");
        assert!(!did.out.contains("__supervise"), "{shell}: what is hidden stays so");
    }
    let _ = here.ws(&["completions", "tcsh"]).code(exit::USAGE);
    let did = here.ws(&["man"]).code(exit::OK);
    assert!(did.out.contains(".TH") && did.out.contains("ws\\-restart(1)"), "{}", did.out);
    let did = here.ws(&["man", "restart"]).code(exit::OK);
    assert!(did.out.contains("wait\\-timeout"), "{}", did.out);
    let did = here.ws(&["man", "nope"]).code(exit::USAGE);
    assert!(did.err.contains("there is no command `nope`"), "{}", did.err);
}

#[test]
fn what_is_required_is_looked_for_before_anything_starts() {
    let file = "requires: { sh-that-nobody-has: \">=2\", python3: \">=99\" }\nservices: { a: { command: sleep 1 } }\n";
    let here = Sealed::new(&[("workspace.yaml", file)]);
    let did = here.ws(&["up", "-d"]).code(exit::MACHINE);
    for text in ["`requires`", "sh-that-nobody-has", "python3"] {
        assert!(did.err.contains(text), "no {text:?} in\n{}", did.err);
    }
    let _ = here.ws(&["run", "a", "true"]).code(exit::PASSED_MACHINE);
    assert!(!here.root().join("run").exists() && !here.root().join("state").exists(), "nothing was made");
}

#[test]
fn a_plan_is_compared_with_that_of_another_revision() {
    let before = "name: shop\nservices:\n  api: { command: ./api, limits: { memory: 64M } }\n  db: { command: ./db }\n";
    let here = Sealed::new(&[("workspace.yaml", before)]);
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .current_dir(here.root().join("shop"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/local/bin");
        command.env("HOME", here.root());
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "x").env(format!("GIT_{role}_EMAIL"), "x@example.com");
        }
        command.output()
    };
    match git(&["init", "-q"]) {
        Ok(output) if output.status.success() => {}
        _ => {
            let _ = writeln!(std::io::stderr(), "skipped: there is no `git`");
            return;
        }
    }
    assert!(git(&["add", "."]).unwrap().status.success());
    assert!(git(&["commit", "-qm", "x"]).unwrap().status.success());
    let ws = |args: &[&str]| {
        let mut command = here.command(args);
        here.did(&command.env("PATH", "/usr/bin:/bin:/usr/local/bin").output().unwrap())
    };
    let did = ws(&["plan", "--against", "HEAD"]).code(exit::OK);
    assert!(
        did.out.is_empty() && did.err.contains("it gives what it gave at `HEAD`"),
        "{}{}",
        did.out,
        did.err
    );
    let now = before.replace("64M }", "32M }, links: [\"db:5432\"]");
    std::fs::write(here.root().join("shop/workspace.yaml"), now).unwrap();
    let did = ws(&["plan", "--against", "HEAD"]).code(exit::OK);
    let lines: Vec<&str> = did.out.lines().collect();
    assert!(lines[1].contains("more") && lines[1].contains("link to db:5432/tcp"), "{}", did.out);
    assert!(did.out.contains("limits.memory: 64M becomes 32M"), "{}", did.out);
    assert!(did.err.contains("1 gets more rights"), "{}", did.err);
    let json = ws(&["plan", "--against", "HEAD", "--json"]).code(exit::OK).json();
    assert_eq!((&json["widens"], &json["lines"][0]["widens"]), (&true.into(), &true.into()));
    let did = ws(&["plan", "--against", "nowhere"]).code(exit::USAGE);
    assert!(did.err.contains("could not read"), "{}", did.err);
    let _ = ws(&["plan", "--against", "--output=x"]).code(exit::USAGE);
}
