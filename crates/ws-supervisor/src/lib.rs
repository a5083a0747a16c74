//! The supervisor.

mod clock;
mod disk;
mod journal;
pub mod logs;
pub mod state_dir;
