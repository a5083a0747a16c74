//! The supervisor.

pub mod state_dir;
