//! `cargo xtask chaos`: the chaos tests, for many rounds.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::Failure;

/// Runs the tests in which somebody is killed at a random moment until about `total` rounds are done in all; the
/// rounds are spread evenly over the tests, and each ends with a look for whatever may have been left.
///
/// # Errors
/// When a round fails: its seed stands in the output.
pub(crate) fn run(root: &Path, total: u32) -> Result<(), Failure> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let nextest = |arguments: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["nextest"]).args(arguments).args(["--package", "ws-e2e", "--test", "isolated"]);
        command.args(["-E", "test(/^chaos::/)"]).current_dir(root);
        command
    };
    let listed = nextest(&["list", "--message-format", "oneline"])
        .output()
        .map_err(|error| format!("running cargo nextest: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let tests = listed.lines().filter(|line| line.contains("chaos::")).count();
    let tests = u32::try_from(tests).map_err(|error| error.to_string())?;
    if tests == 0 {
        return Err("there are no chaos tests".to_owned());
    }
    let rounds = total.div_ceil(tests);
    eprintln!("== {tests} tests, {rounds} rounds each: {} rounds", tests * rounds);
    let begun = Instant::now();
    // One try: what fails once is a finding. No limit of time: it grows with the rounds.
    let status = nextest(&["run", "--retries", "0", "--profile", "chaos"])
        .env("CHAOS_ROUNDS", rounds.to_string())
        .status()
        .map_err(|error| format!("running cargo nextest: {error}"))?;
    eprintln!("== {} rounds in {:.0} s", tests * rounds, begun.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err("a round failed; its CHAOS_SEED stands above".to_owned()) }
}
