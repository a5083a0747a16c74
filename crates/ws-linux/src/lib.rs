//! The Linux host of `ws`: carries out effects with namespaces, cgroups, a bridge and rules.
//!
//! Makes no choice that the plan could make, and holds no `unsafe` (that is `ws-sys`). Read [`sandbox`] for
//! how a service starts.

pub mod cgroups;
pub mod observe;
pub mod probes;
pub mod publish;
pub mod pump;
pub mod sandbox;
pub mod slots;
