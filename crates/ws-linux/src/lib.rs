//! The Linux host of `ws`: carries out effects with namespaces, cgroups, a bridge and rules.
//!
//! Makes no choice that the plan could make, and holds no `unsafe` (that is `ws-sys`). Read [`sandbox`] for
//! how a service starts, [`host`] for how effects become requests to it.

pub mod sandbox;
