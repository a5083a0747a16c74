//! What a host saw of a service that broke its policy.

use ws_model::{Evidence, Mechanism, Offender, ServiceName};

use crate::engine::Generation;
pub use crate::plan::{CpuWindow, Decoy, PolicyPlan, RulePlan, RuleSource};

/// Something that a host saw.
///
/// A host tells what the plan of the service ([`PolicyPlan::detects`]) wants to be looked for, and decides nothing: what
/// is accepted, what counts together and what is done is decided here. It may put the same things together in one
/// observation, and must where there are many: no more than some hundred a second of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Who did it: the unit by whose namespace, control group or interface it came, never what a packet or a
    /// process says of itself.
    pub service: ServiceName,
    /// Which run, where that is known.
    pub generation: Option<Generation>,
    /// What was tried. A name of an address can be left out: the engine knows those of the plan.
    pub evidence: Evidence,
    /// By what it was seen.
    pub mechanism: Mechanism,
    /// Which process, where the kernel tells.
    pub process: Option<Offender>,
    /// How many of the same there were, at least 1.
    pub count: u64,
    /// How many more there were of this class that nothing is known about, because there were too many.
    pub lost: u64,
    /// Whether it is certain that it was this service. Else it is told, and nothing else is done.
    pub certain: bool,
}
