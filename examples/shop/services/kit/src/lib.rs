//! What the shop's services share: serving HTTP until SIGTERM, calling each other, and errors that
//! travel as JSON.
//!
//! Knows nothing about products or orders. Read [`run`] first.

mod peer;
mod problem;
mod serve;

pub use peer::Peer;
pub use problem::{Answer, Problem};
pub use serve::{log, run, variable};
