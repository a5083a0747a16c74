//! The supervisor over its real socket, with a client and a host that only says what a real one would.

#![allow(missing_docs, clippy::print_stderr, reason = "tests")]

mod exec;
mod hostile;
mod lifecycle;
mod logs;
mod planning;
mod run;
mod stack;
mod trouble;
mod usage;
