//! Automation of the project, all of it in Rust: `cargo xtask`.
//!
//! Owns what is generated and committed ([`schema`]), what no compiler checks ([`tidy`]) and the run
//! that a change must pass ([`test`]). Never part of what is shipped.

#![expect(clippy::print_stderr, reason = "a tool for developers: it talks to a terminal and to CI's log")]

mod bench;
mod chaos;
mod examples;
mod schema;
mod sim;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
use: cargo xtask COMMAND

  test [--no-install]   everything that a change must pass; installs the Debian packages that the tests
                        need where it can (root, or sudo) and says so first
  schema [--check]      write schemas/*.json; with --check, fail where one is not fresh
  bench [N,N… ROUNDS]   up, down, restart and memory against the machine's own floor; as root. Without
                        numbers: 10 and 100 services, 9 rounds
  bench flood [SECONDS] one service that writes as fast as it can: its sibling, memory, logs, docker beside
                        (`WS_BIN` names a built `ws` to measure instead of building one)
  bench reload [ROUNDS] from the write of a file to the new program, watchexec beside; 100 reloads under load
  bench idle            how often an idle stack wakes up
  chaos [ROUNDS]        kill supervisor, init, launchers, services, … at random moments, 1000 rounds in all
  sim [--seeds N] [--from SEED] [--seed SEED] [--threads N]
                        random schedules against the engine and the supervisor, in simulated time; with
                        --seed, one of them with all that happens, made small if it breaks something
  tidy                  check what no compiler checks: module docs, dependency directions, …
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let result = match words.as_slice() {
        ["test"] => test::run(&root, true),
        ["test", "--no-install"] => test::run(&root, false),
        ["schema"] => schema::write(&root),
        ["schema", "--check"] => schema::check(&root),
        ["sim", rest @ ..] => sim::run(&root, rest),
        ["tidy"] => tidy::run(&root),
        ["bench"] => bench::run(&root, &bench::Options { services: vec![10, 100], rounds: 9 }),
        ["bench", "flood"] => bench::flood(&root, 30),
        ["bench", "flood", seconds] => match seconds.parse() {
            Ok(seconds) => bench::flood(&root, seconds),
            Err(_) => Err(USAGE.to_owned()),
        },
        ["bench", "reload"] => bench::reload(&root, 100),
        ["bench", "reload", rounds] => match rounds.parse() {
            Ok(rounds) => bench::reload(&root, rounds),
            Err(_) => Err(USAGE.to_owned()),
        },
        ["__stamp", file] => bench::stamp(Path::new(file)),
        ["__web", port, file] => match port.parse() {
            Ok(port) => bench::web(port, Path::new(file)),
            Err(_) => Err(USAGE.to_owned()),
        },
        ["bench", "idle"] => bench::idle(&root),
        ["bench", services, rounds] => {
            match (services.split(',').map(str::parse).collect(), rounds.parse()) {
                (Ok(services), Ok(rounds)) => bench::run(&root, &bench::Options { services, rounds }),
                _ => Err(USAGE.to_owned()),
            }
        }
        ["__echo", port] => bench::echo(port),
        ["chaos"] => chaos::run(&root, 1000),
        ["chaos", rounds] => match rounds.parse() {
            Ok(rounds) => chaos::run(&root, rounds),
            Err(_) => Err(USAGE.to_owned()),
        },
        // The floor program of the bench, in a process of its own.
        ["__floor", count, restarts] => match (count.parse(), restarts.parse()) {
            (Ok(count), Ok(restarts)) => bench::floor(count, restarts),
            _ => Err(USAGE.to_owned()),
        },
        ["help" | "--help" | "-h"] => {
            eprint!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What failed, for people.
type Failure = String;

/// The root of the repository.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask is a directory of the repository").to_owned()
}

/// `path` as seen from the root, with `/` between its parts.
fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
