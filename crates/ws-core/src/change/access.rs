//! What of the host a view shows, whatever mounts show it: the measure of a right to files.
//!
//! Two views are compared path by path. What can be done with a path of the host changes only at certain paths, the
//! *points* of a view: where something is mounted from or to, hidden, or left out. So it is enough to compare there,
//! and nothing that becomes visible or writable between two points is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ws_model::VolumeName;

use crate::plan::{BindSource, Exclude, RepoView, View};

/// What can be done with a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Nothing: it is not there.
    None,
    /// It can be read.
    Read,
    /// It can be read and written.
    Write,
}

/// Something that is mounted.
#[derive(Debug, Clone, Copy)]
struct Mounted<'v> {
    /// The path of the host; absent: nothing of the host.
    source: Option<&'v Path>,
    access: Access,
}

/// A view, asked by paths of the host.
#[derive(Debug)]
pub(super) struct Sight<'v> {
    by_target: BTreeMap<&'v Path, Mounted<'v>>,
    targets_of: BTreeMap<&'v Path, Vec<&'v Path>>,
    repo: Option<&'v RepoView>,
    /// The targets that the file decides about, and not the system.
    declared: BTreeSet<&'v Path>,
}

impl<'v> Sight<'v> {
    pub(super) fn of(view: &'v View) -> Self {
        let mut by_target: BTreeMap<&Path, Mounted<'_>> = BTreeMap::new();
        let nothing = Mounted { source: None, access: Access::None };
        by_target.extend(view.scratch.iter().map(|(path, _)| (path.as_path(), nothing)));
        let tmpfs = view.tmpfs.iter().map(|(path, _)| (path.as_path(), nothing));
        let mut declared: BTreeSet<&Path> = BTreeSet::new();
        for (bind, own) in
            view.system.iter().map(|bind| (bind, false)).chain(view.binds.iter().map(|bind| (bind, true)))
        {
            let source = match &bind.source {
                BindSource::Host(path) => Some(path.as_path()),
                BindSource::Volume(_) | BindSource::Hidden => None,
            };
            let access = if bind.writable { Access::Write } else { Access::Read };
            by_target.insert(&bind.target, Mounted { source, access });
            if own {
                declared.insert(&bind.target);
            }
        }
        declared.extend(view.tmpfs.iter().map(|(path, _)| path.as_path()));
        by_target.extend(tmpfs);
        let mut targets_of: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
        for (target, mounted) in &by_target {
            if let Some(source) = mounted.source {
                targets_of.entry(source).or_default().push(target);
            }
        }
        Self { by_target, targets_of, repo: view.repo.as_ref(), declared }
    }

    /// What can be done with a path of the host.
    pub(super) fn access(&self, path: &Path) -> Access {
        let mut best = match self.repo {
            Some(repo)
                if path.starts_with(&repo.root)
                    && self.top(path).is_none_or(|top| !top.starts_with(&repo.root)) =>
            {
                in_project(repo, path)
            }
            Some(_) | None => Access::None,
        };
        for source in path.ancestors() {
            for target in self.targets_of.get(source).into_iter().flatten() {
                let inside = match path.strip_prefix(source) {
                    Ok(rest) if rest.as_os_str().is_empty() => target.to_path_buf(),
                    Ok(rest) => target.join(rest),
                    Err(_) => continue,
                };
                // Unless something else lies over it there.
                if self.top(&inside) == Some(target) {
                    best = best.max(self.by_target[target].access);
                }
            }
        }
        best
    }

    /// What could be done with a path of the host if the file gave nothing: the project, without what is left out.
    pub(super) fn by_default(&self, path: &Path) -> Access {
        self.repo.map_or(Access::None, |repo| in_project(repo, path))
    }

    /// The paths of the host at which this view changes.
    pub(super) fn points(&self) -> BTreeSet<PathBuf> {
        let mut points: BTreeSet<PathBuf> = BTreeSet::new();
        for target in &self.declared {
            points.insert(target.to_path_buf());
            points.extend(self.by_target[target].source.map(Path::to_path_buf));
            // What lies below another mount covers a path of the host that has another name.
            let outer = target.ancestors().skip(1).find_map(|path| self.by_target.get_key_value(path));
            if let Some((outer, mounted)) = outer
                && let (Some(source), Ok(rest)) = (mounted.source, target.strip_prefix(outer))
            {
                points.insert(source.join(rest));
            }
        }
        if let Some(repo) = self.repo {
            points.insert(repo.root.clone());
            points.extend(repo.exclude.iter().map(|rule| match rule {
                Exclude::Name(name) => repo.root.join(name),
                Exclude::Prefix(prefix) => repo.root.join(format!("{prefix}*")),
            }));
        }
        points
    }

    /// The mount that is seen at a path inside.
    fn top(&self, inside: &Path) -> Option<&'v Path> {
        inside.ancestors().find_map(|path| self.by_target.get_key_value(path)).map(|(target, _)| *target)
    }
}

/// What the project alone shows of a path.
fn in_project(repo: &RepoView, path: &Path) -> Access {
    match path.strip_prefix(&repo.root) {
        Err(_) => Access::None,
        Ok(rest) => match rest.components().next() {
            Some(first) if !repo.shows(&first.as_os_str().to_string_lossy()) => Access::None,
            Some(_) | None => Access::Read,
        },
    }
}

/// What can be done with each volume.
pub(super) fn volumes(view: &View) -> BTreeMap<&VolumeName, Access> {
    let mut volumes = BTreeMap::new();
    for bind in &view.binds {
        if let BindSource::Volume(name) = &bind.source {
            let access = if bind.writable { Access::Write } else { Access::Read };
            let best = volumes.entry(name).or_insert(access);
            *best = access.max(*best);
        }
    }
    volumes
}

/// The paths of the host that are mounted to be written.
pub(super) fn written(view: &View) -> impl Iterator<Item = &Path> {
    view.binds.iter().filter(|bind| bind.writable).filter_map(|bind| match &bind.source {
        BindSource::Host(path) => Some(path.as_path()),
        BindSource::Volume(_) | BindSource::Hidden => None,
    })
}
