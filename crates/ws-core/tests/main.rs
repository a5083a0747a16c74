//! The core's promises: what a plan decides, how the engine behaves, and that no schedule of events
//! breaks either.

mod change;
mod engine;
mod plan;
mod policy;
mod support;
mod violations;
