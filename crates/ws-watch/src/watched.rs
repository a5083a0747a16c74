//! Which directories are watched, and under which names they are known.
//!
//! inotify(7) knows inodes and has one watch for each, whatever it is called: a directory that is reached by a link as
//! well as by itself would be told under one of its names only. So each is watched under its real path, and what is
//! told of it is passed on under all names that it has here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use crate::kernel::{Kernel, Refused, Told, Watches};
use crate::worker::Message;

/// Directories that are watched.
pub(crate) struct Watched {
    kernel: Box<dyn Kernel>,
    tell: Sender<Message>,
    /// Counts watchers, so that what one that was given up still tells is not heard.
    era: u64,
    watcher: Option<Box<dyn Watches>>,
    names: HashMap<PathBuf, Vec<PathBuf>>,
    /// Of those whose name is not their real path.
    real: HashMap<PathBuf, PathBuf>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Watched {
    pub(crate) fn new(kernel: Box<dyn Kernel>, tell: Sender<Message>) -> Self {
        Self { kernel, tell, era: 0, watcher: None, names: HashMap::new(), real: HashMap::new() }
    }

    pub(crate) fn blind(&self, path: &Path) -> Option<&'static str> {
        self.kernel.blind(path)
    }

    /// Whether what is told comes from the present watcher.
    pub(crate) fn is_of_now(&self, era: u64) -> bool {
        self.era == era
    }

    /// Watches a directory under a name; `real` is its real path. With `again` also when it is watched already: another
    /// directory may have taken its place.
    pub(crate) fn watch(&mut self, name: &Path, real: &Path, again: bool) -> Result<(), Refused> {
        let before = match self.real.get(name) {
            Some(real) => Some(real.as_path()),
            None => {
                self.names.get(name).filter(|names| names.iter().any(|known| known == name)).map(|_| name)
            }
        };
        if before.is_some_and(|before| before != real) {
            self.unwatch(name);
        }
        if let Some(names) = self.names.get_mut(real) {
            let is_known = names.iter().any(|known| known == name);
            if !is_known {
                names.push(name.into());
                if name != real {
                    self.real.insert(name.into(), real.into());
                }
            }
            if !again {
                return Ok(());
            }
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => {
                self.era += 1;
                let (tell, era) = (self.tell.clone(), self.era);
                // Nobody listens any more: the watcher is about to be dropped.
                let tell = Box::new(move |told: Told| drop(tell.send(Message::Told(era, told))));
                self.watcher.insert(self.kernel.open(tell)?)
            }
        };
        watcher.watch(real)?;
        let names = self.names.entry(real.into()).or_default();
        if !names.iter().any(|known| known == name) {
            names.push(name.into());
            if name != real {
                self.real.insert(name.into(), real.into());
            }
        }
        Ok(())
    }

    /// Does not watch a directory under this name any more.
    pub(crate) fn unwatch(&mut self, name: &Path) {
        let real = self.real.remove(name).unwrap_or_else(|| name.into());
        let Some(names) = self.names.get_mut(&real) else { return };
        names.retain(|known| known != name);
        if names.is_empty() {
            self.names.remove(&real);
            if let Some(watcher) = &mut self.watcher {
                watcher.unwatch(&real);
            }
        }
    }

    /// The names of a path of which something is told.
    pub(crate) fn names(&self, told: &Path) -> Vec<PathBuf> {
        let mut names = Vec::new();
        let in_directory = told.parent().and_then(|parent| self.names.get(parent));
        if let (Some(directories), Some(name)) = (in_directory, told.file_name()) {
            names.extend(directories.iter().map(|directory| directory.join(name)));
        }
        // A directory tells of itself as well.
        for name in self.names.get(told).into_iter().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Watches nothing any more. Watches go with their watcher, so none is left behind.
    pub(crate) fn drop_all(&mut self) {
        self.watcher = None;
        self.era += 1;
        self.names.clear();
        self.real.clear();
    }

    /// Lets go of the watcher if it has nothing to watch.
    pub(crate) fn tidy(&mut self) {
        if self.names.is_empty() {
            self.watcher = None;
        }
    }
}
