//! The seam between deciding and looking at files: [`Files`] watches the working tree, and knows whether what a build
//! made is still good.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ws_model::ServiceName;

use crate::engine::{Generation, Input};
use crate::plan::Plan;

/// What stands for the contents of files: the same contents under the same names have the same digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// When the files of a build are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Before it would run: is it needed? What it is made of *now* is what a run that follows is recorded with, so a
    /// change in the middle of that run makes the record old.
    Before,
    /// After it succeeded: what it made is recorded.
    After,
}

/// What [`Files`] reports.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Something for the engine: [`Input::FilesChanged`], [`Input::Checked`], [`Input::Recorded`].
    Happened(Input),
    /// Files that the plan was made of have other contents (or are there, or are gone).
    PlanFiles {
        /// Which. Empty: some are watched only from now on, and may have changed since they were read.
        changed: Vec<PathBuf>,
    },
    /// Something that a person should know: there are no watches left, a build changes what it is made of.
    Notice {
        /// About which unit.
        service: Option<ServiceName>,
        /// It.
        text: String,
    },
}

/// Where [`Files`] reports. May be called from any thread; never blocks.
pub type NewsSink = Arc<dyn Fn(News) + Send + Sync>;

/// Watches the working tree. `ws-watch` does it for real, a simulator in tests.
pub trait Files: Send {
    /// Watches what this plan says from now on, and the files that it was made of. Returns at once; what changes
    /// between two calls is not lost.
    fn follow(&mut self, plan: Arc<Plan>, plan_files: Vec<PathBuf>);

    /// Looks at the files of a build; answered through the sink by [`Input::Checked`] or [`Input::Recorded`] with this
    /// generation. Returns at once.
    fn fingerprint(&mut self, service: &ServiceName, generation: Generation, moment: Moment);
}
