//! Any bytes as the frames of a client of `exec` and `run`: never a panic, answered by frames, and it ends.
//!
//! `fuzz/seeds/frames` is read by the tests too; `corpus.tar.gz` is what ten minutes made of it.
//!
//! ```sh
//! tar -xzf fuzz/corpus.tar.gz -C fuzz
//! cargo +nightly fuzz run exec_frames fuzz/corpus/exec_frames fuzz/seeds/frames -- -max_len=4096
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_supervisor::fuzzing::FrameTarget;

thread_local! {
    static TARGET: FrameTarget = FrameTarget::new();
}

fuzz_target!(|bytes: &[u8]| TARGET.with(|target| target.run(bytes)));
