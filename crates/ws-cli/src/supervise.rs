//! The supervisor's own process: the other end of [`crate::launch`].

use std::path::Path;
use std::process::ExitCode;

/// Reads the order, starts the host, supervises.
pub fn main(runtime: &Path) -> ExitCode {
    let _ = runtime;
    ExitCode::FAILURE
}
