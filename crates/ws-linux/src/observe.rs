//! What the planner must know of this machine: looked up before planning, as data.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ws_core::plan::{self, Facts, PathKind};
use ws_model::Workspace;

/// Looks up everything that the plan of this workspace depends on. What cannot be read counts as absent: the
/// plan says what it misses, with the line of the file that names it.
#[must_use]
pub fn facts(workspace: &Workspace) -> Facts {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        home.or_else(|| user.as_ref().map(|user| user.dir.clone())).unwrap_or_else(|| PathBuf::from("/"));
    let mut paths = BTreeMap::new();
    let mut look = |path: &Path| {
        if let Some(kind) = kind(path) {
            paths.insert(path.to_path_buf(), kind);
        }
    };
    for path in plan::SYSTEM_PATHS {
        look(Path::new(path));
    }
    for path in with_prefixes(plan::SYSTEM_PREFIXES) {
        look(&path);
    }
    for path in plan::paths_of_interest(workspace) {
        look(&path);
    }
    let entries = plan::directories_of_interest(workspace)
        .into_iter()
        .map(|directory| {
            let names = names(&directory);
            let kinds =
                names.into_iter().filter_map(|name| Some((name.clone(), kind(&directory.join(name))?)));
            let kinds = kinds.collect();
            (directory, kinds)
        })
        .collect();
    Facts {
        uid: uid.as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
        home,
        root_entries: names(&workspace.root),
        paths,
        entries,
    }
}

fn kind(path: &Path) -> Option<PathKind> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some(if meta.is_symlink() {
        PathKind::Symlink(fs::read_link(path).ok()?)
    } else if meta.is_dir() {
        PathKind::Directory
    } else {
        PathKind::File
    })
}

/// The names in a directory, ascending; those that are not UTF-8 cannot be named in the file either.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// Every path that starts with one of `prefixes` in its directory.
fn with_prefixes(prefixes: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for prefix in prefixes {
        let prefix = Path::new(prefix);
        let (Some(directory), Some(start)) =
            (prefix.parent(), prefix.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        found.extend(
            names(directory)
                .into_iter()
                .filter(|name| name.starts_with(start))
                .map(|name| directory.join(name)),
        );
    }
    found
}
