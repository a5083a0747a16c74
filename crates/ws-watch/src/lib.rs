//! Watches a working tree, and knows whether what a build made is still good: the real
//! [`ws_core::files::Files`].
//!
//! [`Watcher`] has one thread that hears of changes and compares contents, one of `notify`'s that waits for the kernel,
//! and while builds are checked a third. When nothing changes, none of them wakes up, but where files are polled.
//! It decides nothing: what is to be done about a file stands in the rules of the plan. [`explain`] and [`overview`]
//! answer the same questions from the plan and the tree alone.
//!
//! Start with the documentation of the module `worker` (when a change is one, and when it is quiet), then `prints`
//! (when a build is fresh), `sets` (which files are meant) and `ignores`.
//!
//! # What is a change
//!
//! Other contents, another target of a symbolic link, the owner's executable bit (as with git), a file that came or
//! went. Not: a touch, a save of the same text, a change that was taken back before it was quiet, another mode or owner.
//! A symbolic link that a rule names is followed; in a tree, what it says is its contents.
//! Files above 64 MiB are known by size and time only. What is written through a memory mapping is not told by the
//! kernel; it is seen when something else is told of the file, or where files are polled.
//!
//! # Builds that change what they are made of
//!
//! That is a change like any other: which process wrote a file, nobody tells. It is on the engine to see that it goes in
//! circles. A build that writes the same again (a lock file that is up to date) starts none, as contents count.
//!
//! # Where nobody tells
//!
//! On network and shared file systems, and when the user has no inotify watches left, files are looked at every second,
//! which is said once with what to do about it. There is no tree of which only a part is watched.

mod contents;
mod explain;
mod ignores;
mod kernel;
mod leash;
mod pattern;
mod prints;
mod sets;
mod watched;
mod worker;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use ws_core::engine::Generation;
use ws_core::files::{Files, Moment, NewsSink};
use ws_core::plan::Plan;
use ws_model::ServiceName;

pub use explain::{Explained, For, Seen, UnitOverview, Why, explain, overview};
pub use prints::forget;
pub use worker::Summary;

use contents::Contents;
use kernel::{Kernel, Real};
use prints::Prints;
use watched::Watched;
use worker::{Message, Worker};

/// What a [`Watcher`] needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the records of builds are kept: the state directory of the instance. It is made when there is something
    /// to keep.
    pub state_dir: PathBuf,
    /// Whether the user's own file of git (`core.excludesFile`) counts.
    pub user_ignores: bool,
}

impl Options {
    /// With records in this directory.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, user_ignores: true }
    }
}

/// The real [`Files`]. Its threads end with it.
pub struct Watcher {
    tell: Sender<Message>,
    worker: Option<JoinHandle<()>>,
    prints: Prints,
    plan: Option<(Arc<Plan>, Arc<[PathBuf]>)>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("prints", &self.prints).finish_non_exhaustive()
    }
}

impl Watcher {
    /// A watcher that follows no plan yet and reports to `sink`.
    ///
    /// # Errors
    /// When there are no threads to be had.
    pub fn new(options: Options, sink: NewsSink) -> io::Result<Self> {
        Self::with_kernel(options, sink, Box::new(Real))
    }

    fn with_kernel(options: Options, sink: NewsSink, kernel: Box<dyn Kernel>) -> io::Result<Self> {
        let (tell, receive) = mpsc::channel();
        let contents = Arc::new(Contents::new());
        contents.load(&options.state_dir.join(prints::CONTENTS));
        let watched = Watched::new(kernel, tell.clone());
        let worker = Worker::new(receive, sink.clone(), contents.clone(), options.user_ignores, watched);
        let worker = thread::Builder::new().name("ws-files".to_owned()).spawn(move || worker.run())?;
        let prints = Prints::new(options.state_dir, options.user_ignores, contents, sink);
        Ok(Self { tell, worker: Some(worker), prints, plan: None })
    }

    /// Waits until everything that was asked for is watched, all contents are known, and nothing that was told is still
    /// to be dealt with. For benches and tests: nobody else needs to wait.
    #[must_use]
    pub fn settle(&self) -> Summary {
        let (asked, answer) = mpsc::channel();
        // A worker that is not there any more has nothing to do.
        let _ = self.tell.send(Message::Settle(asked));
        answer.recv().unwrap_or_default()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.tell.send(Message::Stop);
        if let Some(worker) = self.worker.take()
            && worker.thread().id() != thread::current().id()
        {
            let _ = worker.join();
        }
    }
}

impl Files for Watcher {
    fn follow(&mut self, plan: Arc<Plan>, plan_files: Vec<PathBuf>) {
        self.plan = Some((plan.clone(), plan_files.clone().into()));
        // As above.
        let _ = self.tell.send(Message::Follow(plan, plan_files));
    }

    fn fingerprint(&mut self, service: &ServiceName, generation: Generation, moment: Moment) {
        self.prints.ask(self.plan.clone(), service, generation, moment);
    }
}
