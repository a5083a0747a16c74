//! The supervisor of one instance of a workspace.
//!
//! Owns the loop around [`ws_core::engine::Engine`], the control socket, the journal of events, the logs
//! and the instance's directories and lock. Portable: knows a [`ws_core::host::Host`] and no Linux type,
//! starts no process, reads no workspace file, and holds no `unsafe`.
//!
//! Read [`Supervisor::run`] first, then the module `api`.

mod api;
mod clock;
mod disk;
mod exec;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod journal;
pub mod logs;
mod planner;
mod schema;
mod slots;
pub mod state_dir;
mod stats;
mod supervisor;

pub use api::PeerCheck;
pub use journal::last_life;
pub use logs::{BadPattern, LogLimits, LogStore, ReadError, read_disk};
pub use planner::{ExplainWatch, MakeFiles, PlanRefused, PlanRequest, Planned, Planner};
pub use schema::schemas;
pub use supervisor::{Config, Lifeline, RunResult, Supervisor, SupervisorError};
