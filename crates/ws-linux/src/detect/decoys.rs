//! Decoys that are touched: hears of all of them, for all services.
//!
//! One instance of inotify is enough for an instance of a workspace, and a user has few; inits add the watches to it
//! (`sandbox/bait.rs`). Each watch tells once and is then gone, so nobody fills the queue of the others by touching a
//! file again and again. A second later it is asked for again: what goes on is told once a second.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use ws_core::engine::Generation;
use ws_model::{Evidence, FileAct, Mechanism};
use ws_sys::aio::Readable;
use ws_sys::inotify::{self, News, Touched};

use super::{Reporter, Seen, new_instance};

/// How long after a touch a decoy is watched again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// News that came before it was known whose they are: that is a matter of a moment.
const EARLY: usize = 1024;

/// Asks init to watch a decoy again.
pub(crate) type Again = Arc<dyn Fn(usize) + Send + Sync>;

/// A decoy of a run.
#[derive(Clone)]
pub(crate) struct Bait {
    pub(crate) reporter: Reporter,
    pub(crate) generation: Generation,
    /// Its number in the run.
    pub(crate) decoy: usize,
    /// Its path inside.
    pub(crate) path: String,
    pub(crate) again: Again,
}

impl std::fmt::Debug for Bait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bait")
            .field("reporter", &self.reporter)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Hears when decoys are touched, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    instance: Arc<Readable>,
    registry: Arc<Mutex<Registry>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Registry {
    baits: BTreeMap<i32, Bait>,
    /// Touched before init's word of the watch was heard.
    early: VecDeque<(i32, Touched)>,
}

impl Watcher {
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let instance = Arc::new(Readable::new(new_instance()?)?);
        let registry = Arc::new(Mutex::new(Registry::default()));
        let task = tokio::spawn(listen(Arc::clone(&instance), Arc::clone(&registry)));
        Ok(Arc::new(Self { instance, registry, task }))
    }

    /// The instance, for an init that adds watches.
    pub(crate) fn instance(&self) -> io::Result<OwnedFd> {
        self.instance.as_fd().try_clone_to_owned()
    }

    /// A decoy is watched.
    pub(crate) fn armed(&self, watch: i32, bait: &Bait) {
        let touched = lock(&self.registry).add(watch, bait);
        if let Some(touched) = touched {
            tell(bait, touched);
        }
    }

    /// A run has ended: tells what was touched until then, and forgets its decoys.
    pub(crate) fn end(&self, service: &Reporter, generation: Generation) {
        let mut buffer = vec![MaybeUninit::uninit(); inotify::BUFFER];
        // What it did lies in the queue, behind what others did.
        while let Ok(news) = inotify::receive(self.instance.as_fd(), &mut buffer) {
            heard(&self.registry, &news);
        }
        let of_it = |bait: &Bait| bait.generation == generation && bait.reporter.service == service.service;
        lock(&self.registry).baits.retain(|_, bait| !of_it(bait));
    }
}

impl Registry {
    /// What was touched already.
    fn add(&mut self, watch: i32, bait: &Bait) -> Option<Touched> {
        if let Some(at) = self.early.iter().position(|(early, _)| *early == watch) {
            return self.early.remove(at).map(|(_, touched)| touched);
        }
        self.baits.insert(watch, bait.clone());
        None
    }

    /// Whose it is; a watch is gone when it has told.
    fn touched(&mut self, watch: i32, touched: Touched) -> Option<Bait> {
        let bait = self.baits.remove(&watch);
        if bait.is_none() {
            if self.early.len() == EARLY {
                self.early.pop_front();
            }
            self.early.push_back((watch, touched));
        }
        bait
    }
}

fn lock(registry: &Mutex<Registry>) -> std::sync::MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(instance: Arc<Readable>, registry: Arc<Mutex<Registry>>) {
    let mut buffer = vec![MaybeUninit::uninit(); inotify::BUFFER];
    while let Ok(news) = instance.read_with(|fd| inotify::receive(fd, &mut buffer)).await {
        heard(&registry, &news);
    }
}

fn heard(registry: &Mutex<Registry>, news: &[News]) {
    for one in news {
        match *one {
            News::Touched(watch, touched) => {
                let bait = lock(registry).touched(watch, touched);
                if let Some(bait) = bait {
                    tell(&bait, touched);
                }
            }
            News::Gone(watch) => {
                lock(registry).baits.remove(&watch);
            }
            // Watches that tell once cannot do that; thousands of runs that end at once can, and then nobody is
            // there any more who could have touched anything.
            News::Lost => tracing::warn!("news of decoys were lost: too many came at once"),
        }
    }
}

fn tell(bait: &Bait, touched: Touched) {
    let act = match touched {
        Touched::Opened => FileAct::Opened,
        Touched::Changed => FileAct::Changed,
        Touched::Moved => FileAct::Moved,
        Touched::Removed => FileAct::Removed,
    };
    let evidence = Evidence::Decoy { path: bait.path.clone(), act };
    bait.reporter.tell(Seen::new(Some(bait.generation), evidence, Mechanism::Inotify));
    let (again, decoy) = (Arc::clone(&bait.again), bait.decoy);
    // Where there is no runtime any more, nobody needs it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            tokio::time::sleep(AGAIN_AFTER).await;
            again(decoy);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use ws_core::engine::Input;
    use ws_core::policy::Observation;
    use ws_model::ServiceName;

    use super::*;

    fn bait(path: &str, generation: Generation) -> (Bait, mpsc::UnboundedReceiver<Observation>) {
        let (sender, told) = mpsc::unbounded_channel();
        let inbox: ws_core::host::Inbox = Arc::new(move |input| {
            if let Input::Observed(seen) = input {
                let _ = sender.send(*seen);
            }
        });
        let reporter = Reporter::new(ServiceName::new("api").unwrap(), inbox);
        (Bait { reporter, generation, decoy: 0, path: path.to_owned(), again: Arc::new(|_| {}) }, told)
    }

    #[tokio::test]
    async fn a_touch_is_told_whether_it_is_heard_before_the_watch_or_after() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id_rsa");
        std::fs::write(&file, "key").unwrap();
        let watcher = Watcher::start().unwrap();
        for early in [false, true] {
            let watch = inotify::watch_once(watcher.instance().unwrap().as_fd(), &file).unwrap();
            let (bait, mut told) = bait("/home/me/.ssh/id_rsa", 7);
            if early {
                std::fs::read(&file).unwrap();
                // Heard, and nobody knows whose it is.
                while lock(&watcher.registry).early.is_empty() {
                    tokio::task::yield_now().await;
                }
                watcher.armed(watch, &bait);
            } else {
                watcher.armed(watch, &bait);
                std::fs::read(&file).unwrap();
            }
            let seen = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
            let path = "/home/me/.ssh/id_rsa".to_owned();
            assert_eq!(seen.evidence, Evidence::Decoy { path, act: FileAct::Opened });
            assert_eq!((seen.generation, seen.count, seen.certain), (Some(7), 1, true));
        }
        let registry = lock(&watcher.registry);
        assert!(registry.baits.is_empty() && registry.early.is_empty());
    }

    #[tokio::test]
    async fn what_a_run_touched_last_is_told_before_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id_rsa");
        std::fs::write(&file, "key").unwrap();
        let watcher = Watcher::start().unwrap();
        let watch = inotify::watch_once(watcher.instance().unwrap().as_fd(), &file).unwrap();
        let (one, mut told) = bait("/id_rsa", 1);
        watcher.armed(watch, &one);
        std::fs::read(&file).unwrap();
        // Without a turn of the task that listens.
        watcher.end(&one.reporter, 1);
        assert_eq!(told.try_recv().unwrap().generation, Some(1));
        let watch = inotify::watch_once(watcher.instance().unwrap().as_fd(), &file).unwrap();
        watcher.armed(watch, &one);
        watcher.end(&one.reporter, 1);
        assert!(lock(&watcher.registry).baits.is_empty());
    }
}
