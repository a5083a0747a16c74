//! Any bytes as the files of a log and as the output of a service: never a panic, lines in their order and within the
//! query, and every line of the output exactly once.
//!
//! `fuzz/seeds/logs` is read by the tests too; `corpus.tar.gz` is what ten minutes made of it.
//!
//! ```sh
//! tar -xzf fuzz/corpus.tar.gz -C fuzz
//! cargo +nightly fuzz run log_files fuzz/corpus/log_files fuzz/seeds/logs -- -max_len=4096
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ws_supervisor::fuzzing::logs(bytes));
