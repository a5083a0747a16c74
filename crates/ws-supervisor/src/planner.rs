//! The seam to whoever can make a plan: the supervisor reads no workspace file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ws_core::files::{Files, NewsSink};
use ws_core::plan::Plan;
use ws_model::{SecretName, ServiceName};

/// What a plan is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanRequest {
    /// The files as they are now.
    Files {
        /// Variables for `${…}`; absent: those that the stack was started with, or that were given last.
        env: Option<BTreeMap<String, String>>,
    },
    /// The files as they were read last, with other settings for a service; they stay until the stack is down.
    Set {
        /// Whose.
        service: ServiceName,
        /// Keys of the service with their values, as the file would have them.
        settings: BTreeMap<String, String>,
    },
}

/// A plan that could be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// It.
    pub plan: Plan,
    /// The values of the secrets that it needs.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
    /// The files that it was made of.
    pub plan_files: Vec<PathBuf>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRefused {
    /// For people, several lines: the diagnostics with their places, or one sentence.
    pub text: String,
}

/// Makes plans while the stack runs.
pub trait Planner: Send {
    /// Makes a plan. May block: it is called away from the loop, one call at a time.
    ///
    /// # Errors
    /// When the files have errors or cannot be read.
    fn plan(&mut self, request: PlanRequest, running: &Plan) -> Result<Planned, PlanRefused>;

    /// The plan that was made last is carried out: what is kept for the next one (settings, variables, addresses) is
    /// that of it. May block.
    fn adopted(&mut self, plan: &Plan);
}

/// Makes the watcher of files, once it is known where it reports.
pub type MakeFiles = Box<dyn FnOnce(NewsSink) -> Box<dyn Files> + Send>;
