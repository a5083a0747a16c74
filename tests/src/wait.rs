//! Waiting for a condition, with a bound, and the last thing seen in the message.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// Asks `look` until it gives a value.
///
/// # Panics
/// When it has given none within `within`: says what was waited for, and what was seen last.
pub fn wait_until<T, S: Display>(within: Duration, what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => {
                assert!(Instant::now() < deadline, "{what}: not within {within:?}; last seen: {seen}");
            }
        }
        // Between two looks, not in the place of one.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets time go by: for tests in which a moment is chosen at random. Not for waiting.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}
