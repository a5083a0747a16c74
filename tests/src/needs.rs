//! What a test needs of the machine: declared by [`crate::requires!`], found by [`ws_sys::probe`].

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Deserialize;
use ws_sys::probe::{Ability, Capabilities};

use crate::stack::{Mode, helper};

/// Words that are no ability of the kernel.
const OTHERS: [&str; 5] = ["root", "postgres", "redis", "compat32", "rustup"];

/// Words that are programs in a usual place.
const PROGRAMS: [&str; 10] =
    ["curl", "gcc", "git", "java", "nginx", "node", "npm", "perl", "python3", "sqlite3"];

/// Whether the machine has all that the words say, for `ws` run in this mode. Says in one line what it
/// lacks.
///
/// # Panics
/// When `WS_REQUIRE` says that the machine must have it, or a word is unknown.
#[must_use]
pub fn met(mode: Mode, words: &[&str]) -> bool {
    let mut met = true;
    for word in words {
        if let Err(why) = has(mode, word) {
            let required = required();
            assert!(!required.iter().any(|one| one == word), "WS_REQUIRE names `{word}`, but: {why}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            say(&format!("{test}: not run as {mode}: needs {word}: {why}"));
            met = false;
        }
    }
    met
}

/// Says something that is to be seen though the test succeeds: not by the macros, whose output is captured.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The words of `WS_REQUIRE`.
#[must_use]
pub fn required() -> Vec<String> {
    let words = std::env::var("WS_REQUIRE").unwrap_or_default();
    words.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether `word` means anything.
#[must_use]
pub fn is_known(word: &str) -> bool {
    OTHERS.contains(&word) || PROGRAMS.contains(&word) || capabilities(Mode::User).get(word).is_some()
}

fn has(mode: Mode, word: &str) -> Result<(), String> {
    let there = |yes: bool, why: &str| if yes { Ok(()) } else { Err(why.to_owned()) };
    match word {
        "root" => there(nix::unistd::geteuid().is_root(), "the tests do not run as root"),
        "postgres" => {
            let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let found = versions.into_iter().any(|version| version.path().join("bin/initdb").is_file());
            there(found, "there is no /usr/lib/postgresql/*/bin/initdb")
        }
        "redis" => there(Path::new("/usr/bin/redis-server").is_file(), "there is no /usr/bin/redis-server"),
        "rustup" => {
            there(rustup_home().is_some(), "there is no ~/.cargo/bin/cargo with ~/.rustup/toolchains")
        }
        "compat32" => {
            there(cfg!(target_arch = "x86_64") && i386_works(), "the kernel runs no 32-bit programs")
        }
        _ if PROGRAMS.contains(&word) => {
            let places = ["/usr/local/bin", "/usr/bin", "/usr/sbin"];
            let found = places.iter().any(|place| Path::new(place).join(word).is_file());
            there(found, "there is none in the usual places")
        }
        _ => match capabilities(mode).get(word) {
            Some(Ability { found: Ok(_), .. }) => Ok(()),
            Some(Ability { found: Err(why), .. }) => Err(why.clone()),
            None => panic!("`{word}` is no ability that can be required"),
        },
    }
}

/// The home in which rustup has put a toolchain, where it is in the usual place.
#[must_use]
pub fn rustup_home() -> Option<std::path::PathBuf> {
    let home = std::env::home_dir()?;
    let there = [".cargo/bin/cargo", ".rustup/toolchains"].iter().all(|path| home.join(path).exists());
    there.then_some(home)
}

#[cfg(target_arch = "x86_64")]
fn i386_works() -> bool {
    const GETPID: u32 = 20;
    matches!(ws_sys::attempt::call_i386(GETPID), Ok(ws_sys::attempt::Answer::Returned(pid)) if pid > 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn i386_works() -> bool {
    false
}

/// What this machine can do for `ws` in this mode. Found once for each process, and printed then.
///
/// # Panics
/// When the helper program cannot be run.
pub fn capabilities(mode: Mode) -> Capabilities {
    static FOUND: OnceLock<Mutex<BTreeMap<Mode, Capabilities>>> = OnceLock::new();
    let found = FOUND.get_or_init(Mutex::default);
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    found.entry(mode).or_insert_with(|| find(mode)).clone()
}

/// What `ws __probe --json` prints for an ability.
#[derive(Deserialize)]
struct Row {
    name: String,
    what: String,
    can: bool,
    found: String,
}

fn find(mode: Mode) -> Capabilities {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ids = mode.new_ids();
    std::os::unix::fs::chown(directory.path(), Some(ids.0), Some(ids.1)).expect("giving a directory away");
    let mut command = Command::new(helper("ws-e2e-ws"));
    mode.apply(&mut command, ids);
    command.args(["__probe", "--json"]).current_dir(directory.path()).env("WS_STATE_DIR", directory.path());
    let output = command.output().expect("running `ws __probe`");
    assert!(output.status.success(), "`ws __probe`: {}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout).expect("`ws __probe` prints JSON");
    let abilities = rows.into_iter().map(|row| Ability {
        name: row.name,
        what: row.what,
        found: if row.can { Ok(row.found) } else { Err(row.found) },
    });
    let capabilities = Capabilities(abilities.collect());
    say(&format!("what this machine can do as {mode}:\n{capabilities}"));
    capabilities
}
