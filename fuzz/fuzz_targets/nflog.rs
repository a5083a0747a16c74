//! Any bytes as what the kernel says of packets that rules logged: never a panic, and whatever is read lies in what was
//! given.
//!
//! ```sh
//! cargo +nightly fuzz run nflog -- -max_len=1024
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_sys::nflog;

fuzz_target!(|bytes: &[u8]| {
    for packet in nflog::packets(bytes).flatten() {
        assert!(packet.payload.len() <= bytes.len());
        let _ = nflog::ipv4(packet.payload);
    }
    let _ = nflog::ipv4(bytes);
});
