//! The simulator: schedules that no test would think of, played against the real engine and the real
//! supervisor, on a host that is made up and in a time that is.
//!
//! Read [`play`](play::play) first. A [`Scenario`] is data: services, habits of the host, and what
//! happens when. It is made up from a seed ([`random::scenario`]), or read from a text that a person wrote
//! ([`text::parse`]); when something that must hold ([`Invariant`]) does not, [`shrink::smallest`] takes away what does
//! not matter, and what is left is such a text again.
//!
//! Owns the simulated host, the generator and the invariants. Never reads a clock, and never ships.

pub mod dice;
pub mod host;
pub mod oracle;
pub mod plan;
pub mod play;
pub mod random;
pub mod scenario;
pub mod show;
pub mod shrink;
pub mod stack;
pub mod text;

pub use oracle::{Broken, Invariant};
pub use scenario::Scenario;
