//! Helpers of the end-to-end tests: stacks that really run, and what they must not leave.
//!
//! Read [`stack::Stack`] first. [`requires!`] declares what a test needs of the machine.

pub mod attack;
pub mod leak;
pub mod needs;
pub mod stack;
pub mod wait;
pub mod web;

pub use stack::{Mode, Ran, Stack};
pub use wait::wait_until;

/// Prints what a test has to show: seen where its output is (`--nocapture`), and when it fails.
#[expect(clippy::print_stdout, reason = "the test runner decides whether it is seen")]
pub fn show(text: &str) {
    println!("{text}");
}

/// Ends the test when the machine lacks what it needs, after a line that says what; fails it where
/// `WS_REQUIRE` says that the machine must have it: `requires!(mode, userns, netns, nft)`.
#[macro_export]
macro_rules! requires {
    ($mode:expr $(, $word:ident)* $(,)?) => {
        if !$crate::needs::met($mode, &[$(stringify!($word)),*]) {
            return;
        }
    };
}

/// Makes of each function two tests, `NAME::root` and `NAME::rootless`: its argument is how `ws` is run.
#[macro_export]
macro_rules! both_ways {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn root() {
                ws_e2e::requires!(ws_e2e::Mode::Root, root);
                super::$name(ws_e2e::Mode::Root);
            }

            #[test]
            fn rootless() {
                super::$name(ws_e2e::Mode::User);
            }
        }
    )*};
}
