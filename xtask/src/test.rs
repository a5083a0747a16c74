//! `cargo xtask test`: everything that a change must pass, in the order in which it fails fastest.
//!
//! The same on a laptop and in CI. What the machine cannot do is not hidden: tests declare their needs,
//! print what is missing, and fail for it where `WS_REQUIRE` names it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Failure, schema, tidy};

/// A Debian package that tests use, and how to see that it is there.
struct Package {
    name: &'static str,
    is_there: fn() -> bool,
}

const PACKAGES: &[Package] = &[
    Package { name: "postgresql", is_there: has_postgres },
    Package { name: "redis-server", is_there: || has_program("redis-server") },
    Package { name: "python3-psycopg2", is_there: || has_python_module("psycopg2") },
    Package { name: "python3-redis", is_there: || has_python_module("redis") },
    Package { name: "nftables", is_there: || has_program("nft") },
    Package { name: "iproute2", is_there: || has_program("ip") },
    Package { name: "curl", is_there: || has_program("curl") },
];

/// Runs everything; stops at the first step that fails.
pub(crate) fn run(root: &Path, install: bool) -> Result<(), Failure> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|package| !(package.is_there)()).map(|package| package.name).collect();
    if !missing.is_empty() {
        get(&missing, install)?;
    }

    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(root, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    step("schemas are fresh", || schema::check(root))?;
    step("the tree is tidy", || tidy::run(root))?;
    if has_cargo_command("deny") {
        // Advisories need a database from elsewhere; licences, bans and sources need nothing.
        cargo(root, &["deny", "--locked", "check", "licenses", "bans", "sources"])?;
    } else {
        eprintln!("\n== cargo deny is not installed: licences are not checked");
    }
    // Tests start the programs of the workspace from the target directory.
    cargo(root, &["build", "--workspace", "--locked"])?;
    cargo(root, &["test", "--workspace", "--doc", "--locked", "--quiet"])?;
    if has_cargo_command("nextest") {
        cargo(root, &["nextest", "run", "--workspace", "--locked"])
    } else {
        eprintln!("\n== cargo nextest is not installed: using cargo test");
        cargo(root, &["test", "--workspace", "--lib", "--bins", "--tests", "--locked", "--no-fail-fast"])
    }
}

/// Installs packages where that can be done without a question, else says what they are for.
fn get(missing: &[&str], install: bool) -> Result<(), Failure> {
    let list = missing.join(" ");
    let prefix: &[&str] = match () {
        () if !install || !has_program("apt-get") => &[],
        () if is_root() => &["env"],
        () if succeeds("sudo", &["-n", "true"]) => &["sudo", "-n", "env"],
        () => &[],
    };
    let Some((program, before)) = prefix.split_first() else {
        eprintln!("== not there: {list}: the tests that need them say so and do nothing");
        eprintln!("   to have them too: sudo apt-get install {list}");
        return Ok(());
    };
    eprintln!("== installing what the tests need: {list} (`--no-install` leaves them out)");
    for arguments in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends"]] {
        let packages = if arguments[0] == "install" { missing } else { &[] };
        let mut command = Command::new(program);
        command
            .args(before)
            .arg("DEBIAN_FRONTEND=noninteractive")
            .arg("apt-get")
            .args(arguments)
            .args(packages);
        finish(&mut command)?;
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    step(&format!("cargo {}", arguments.join(" ")), || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        // Incremental files cost disk and gain nothing in a run that builds everything once.
        command.current_dir(root).args(arguments).env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
        finish(&mut command)
    })
}

fn step(what: &str, run: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    eprintln!("\n== {what}");
    let start = Instant::now();
    run()?;
    eprintln!("== done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn finish(command: &mut Command) -> Result<(), Failure> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(error) => Err(format!("could not run `{line}`: {error}")),
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

/// Debian keeps system programs in directories that an ordinary user's `PATH` lacks.
fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(name).is_file())
}

fn has_cargo_command(name: &str) -> bool {
    let home = std::env::home_dir().unwrap_or_default().join(".cargo/bin");
    let program = format!("cargo-{name}");
    has_program(&program) || home.join(program).is_file()
}

fn has_postgres() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.into_iter().any(|version| version.path().join("bin/initdb").is_file())
}

/// The distribution's Python, whatever else is in `PATH`.
fn has_python_module(name: &str) -> bool {
    succeeds("/usr/bin/python3", &["-c", &format!("import {name}")])
}
