//! The Linux host of `ws`: carries out effects with namespaces, cgroups, a bridge and rules.
//!
//! Makes no choice that the plan could make, and holds no `unsafe` (that is `ws-sys`). Read [`sandbox`] for
//! how a service starts, [`host`] for how effects become requests to it.

pub mod cgroups;
mod detect;
pub mod external;
pub mod host;
pub mod net;
pub mod notify;
pub mod observe;
pub mod peer;
pub mod probes;
pub mod publish;
pub mod pump;
pub mod requires;
pub mod sandbox;
pub mod slots;

pub use host::{HostConfig, LinuxHost, StartError, clear_leftovers, fork_spawner};
