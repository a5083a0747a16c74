//! Any bytes as a connection to the control socket: never a panic, and an answer of HTTP or none.
//!
//! `fuzz/seeds/api` is read by the tests too; `corpus.tar.gz` is what ten minutes made of it.
//!
//! ```sh
//! tar -xzf fuzz/corpus.tar.gz -C fuzz
//! cargo +nightly fuzz run control_api fuzz/corpus/control_api fuzz/seeds/api -- -max_len=4096
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_supervisor::fuzzing::ApiTarget;

thread_local! {
    static TARGET: ApiTarget = ApiTarget::new();
}

fuzz_target!(|bytes: &[u8]| TARGET.with(|target| drop(target.run(bytes))));
