//! `cargo xtask sim`: random schedules against the engine and the supervisor, as many as are asked for.
//!
//! The simulator is a program of its own (`ws-sim`), built with optimizations and with assertions; this builds it and
//! passes on what was asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;

/// Builds the simulator and runs it.
///
/// # Errors
/// When something that must hold does not, or it cannot be built.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "sim", "--package", "ws-sim"])
        .current_dir(root)
        .status()
        .map_err(|error| format!("running cargo: {error}"))?;
    if !built.success() {
        return Err("building the simulator failed".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let played = Command::new(target.join("sim/ws-sim"))
        .args(arguments)
        .status()
        .map_err(|error| format!("running the simulator: {error}"))?;
    if played.success() { Ok(()) } else { Err("the simulator found something (above)".to_owned()) }
}
