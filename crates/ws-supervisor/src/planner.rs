//! The seam to whoever can make a plan: the supervisor reads no workspace file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_core::files::{Files, NewsSink};
use ws_core::plan::Plan;
use ws_model::wire::{WatchReport, WatchedPath};
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
    /// The files that were read for it: when one of them changes, it may be a plan. Empty: nobody knows, so those of
    /// before.
    pub plan_files: Vec<PathBuf>,
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

/// Says what of a plan is watched, for people who ask. Walks the tree, so it may block: it is called away from the loop.
pub trait ExplainWatch: Send + Sync {
    /// What is watched for each unit.
    fn overview(&self, plan: &Plan) -> WatchReport;

    /// How a path, relative to the project or absolute, stands to that. Whether it is a file that the plan is made of
    /// is known without.
    fn explain(&self, plan: &Plan, path: &Path) -> WatchedPath;
}

/// What can be asked about what is watched.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) plan: Arc<Plan>,
    pub(crate) plan_files: Arc<[PathBuf]>,
    pub(crate) explain: Arc<dyn ExplainWatch>,
}

impl Watched {
    /// Answers; may block.
    pub(crate) fn report(&self, paths: &[String]) -> WatchReport {
        if paths.is_empty() {
            return self.explain.overview(&self.plan);
        }
        let explain = |path: &String| {
            let path = self.plan.root.join(path);
            let plan_file = self.plan_files.contains(&path);
            WatchedPath { plan_file, ..self.explain.explain(&self.plan, &path) }
        };
        WatchReport { units: Vec::new(), paths: paths.iter().map(explain).collect() }
    }
}

/// Makes the watcher of files, once it is known where it reports.
pub type MakeFiles = Box<dyn FnOnce(NewsSink) -> Box<dyn Files> + Send>;
