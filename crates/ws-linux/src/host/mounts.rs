//! Opening mount sources for launchers, with owners mapped, and noticing that the host replaced one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ws_core::plan::RepoView;

use crate::sandbox::protocol::{EntryKind, Failure, RepoEntry, SourceRequest, Stage};
use crate::sandbox::sources;
use crate::sandbox::spawner::Spawner;

/// A user and a group id.
type Ids = (u32, u32);

/// Opens mount sources: itself as root, through the spawner rootless.
#[derive(Debug)]
pub(super) struct Opener {
    spawner: Spawner,
    /// Mapping namespaces by owner on disk and service in U1.
    maps: Mutex<BTreeMap<(Ids, Ids), Arc<OwnedFd>>>,
}

impl Opener {
    pub(super) fn new(spawner: Spawner) -> Self {
        Self { spawner, maps: Mutex::default() }
    }

    /// Opens a source. `service`: the ids in U1 as whose its owner appears (as root; ignored rootless, where
    /// everything is the caller's own anyway).
    pub(super) fn open(&self, request: SourceRequest, service: Option<Ids>) -> Result<OwnedFd, Failure> {
        if self.spawner.slot().is_none() {
            return self.spawner.open(request);
        }
        // Whose it is is asked of what was opened: a path can mean something else a moment later.
        let place = sources::locate(&request)?;
        let map = match service {
            None => None,
            Some(service) => {
                let stat = rustix::fs::fstat(&place)
                    .map_err(std::io::Error::from)
                    .stage(format!("mounting {}", request.path.display()))?;
                Some(self.map((stat.st_uid, stat.st_gid), service)?)
            }
        };
        sources::take(&request, place.as_fd(), map.as_ref().map(|map| map.as_fd()))
    }

    /// Lets go of what was made for the ids of a service: it is gone.
    pub(super) fn forget(&self, service: Ids) {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|(_, of), _| *of != service);
    }

    fn map(&self, owner: Ids, service: Ids) -> Result<Arc<OwnedFd>, Failure> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(&(owner, service)) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(self.spawner.id_map(owner, service)?);
        maps.insert((owner, service), Arc::clone(&map));
        Ok(map)
    }
}

/// Which file or directory stands at a path now: device and inode; `None`: nothing.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// An entry of the project with its identity, so that a replaced one is noticed.
pub(super) type Listing = Vec<(RepoEntry, (u64, u64))>;

/// The visible entries of the project root, by name. A directory that has a directory in it that is to be left
/// out (`left_out`, absolute paths) is a place for its entries. Sockets, pipes and devices are left out: a socket
/// of the host in a service's view would be a way out of its network namespace.
pub(super) fn list(repo: &RepoView, left_out: &[&Path]) -> Result<Listing, Failure> {
    let mut listing = Vec::new();
    let mut todo = vec![repo.root.clone()];
    while let Some(directory) = todo.pop() {
        let stage = || format!("reading {}", directory.display());
        for entry in std::fs::read_dir(&directory).stage(stage())? {
            let entry = entry.stage(stage())?;
            let path = entry.path();
            // A name that is not UTF-8 cannot be named in the file, so no rule could speak of it.
            let Some(name) = path.strip_prefix(&repo.root).ok().and_then(Path::to_str) else { continue };
            if directory == repo.root && !repo.shows(name) {
                continue;
            }
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            let kind = if meta.is_symlink() {
                match std::fs::read_link(&path) {
                    Ok(text) => EntryKind::Symlink(text),
                    Err(_) => continue,
                }
            } else if meta.is_dir() && left_out.contains(&path.as_path()) {
                EntryKind::Place
            } else if meta.is_dir() && left_out.iter().any(|below| below.starts_with(&path)) {
                todo.push(path.clone());
                EntryKind::Place
            } else if meta.is_dir() {
                EntryKind::Directory
            } else if meta.is_file() {
                EntryKind::File
            } else {
                continue;
            };
            listing.push((RepoEntry { name: name.to_owned(), kind }, (meta.dev(), meta.ino())));
        }
    }
    // A directory before what is in it.
    listing.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_with_something_to_leave_out_is_shown_entry_by_entry() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for name in ["whole/in/it", "some/seen", "some/hidden/in/it", "some/deep/hidden", "some/deep/seen"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("some/file"), "").unwrap();
        std::os::unix::fs::symlink("file", root.join("some/link")).unwrap();
        let repo = RepoView { root: root.to_owned(), exclude: Vec::new() };
        let (hidden, deep) = (root.join("some/hidden"), root.join("some/deep/hidden"));
        let listing = list(&repo, &[&hidden, &deep]).unwrap();
        let listing: Vec<_> = listing.iter().map(|(entry, _)| (entry.name.as_str(), &entry.kind)).collect();
        let link = EntryKind::Symlink("file".into());
        let wanted = [
            ("some", &EntryKind::Place),
            ("some/deep", &EntryKind::Place),
            ("some/deep/hidden", &EntryKind::Place),
            ("some/deep/seen", &EntryKind::Directory),
            ("some/file", &EntryKind::File),
            ("some/hidden", &EntryKind::Place),
            ("some/link", &link),
            ("some/seen", &EntryKind::Directory),
            ("whole", &EntryKind::Directory),
        ];
        assert_eq!(listing, wanted);
    }
}
