//! Exit codes of the `ws` command: promised, documented in its help, tested.

/// Done.
pub const OK: u8 = 0;
/// The stack or a service failed.
pub const FAILED: u8 = 1;
/// Bad use of the command line, or a bad workspace file.
pub const USAGE: u8 = 2;
/// The machine cannot enforce what is asked.
pub const MACHINE: u8 = 3;
/// A policy violation ended it.
pub const VIOLATION: u8 = 4;
/// A supervisor is needed and none runs.
pub const NOT_RUNNING: u8 = 5;
/// Interrupted (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Where a command's own code is passed on (`run`, `exec`, `test`): a violation ended it.
pub const PASSED_VIOLATION: u8 = 120;
/// Where a command's own code is passed on: the stack failed.
pub const PASSED_FAILED: u8 = 121;
/// Where a command's own code is passed on: the machine cannot enforce what is asked.
pub const PASSED_MACHINE: u8 = 122;
/// Where a command's own code is passed on: the time ran out.
pub const PASSED_TIMEOUT: u8 = 124;
/// Where a command's own code is passed on: `ws` itself failed.
pub const PASSED_WS: u8 = 125;
/// Where a command's own code is passed on: the command cannot be executed, as in a shell.
pub const PASSED_NOT_EXECUTABLE: u8 = 126;
/// Where a command's own code is passed on: the command was not found, as in a shell.
pub const PASSED_NOT_FOUND: u8 = 127;
