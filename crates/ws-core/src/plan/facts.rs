//! What the planner must know of the machine, and which paths the host has to look at for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ws_model::{MountSource, SecretSource, Workspace};

/// What the planner must know of the machine. Gathered by the host before planning; data only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The caller's user id.
    pub uid: u32,
    /// The caller's group id.
    pub gid: u32,
    /// The caller's name (`root` when `uid` is 0).
    pub user: String,
    /// The caller's home.
    pub home: PathBuf,
    /// The names of the entries directly in the project root.
    pub root_entries: Vec<String>,
    /// What stands at each path that [`paths_of_interest`] names, at each system path of
    /// [`SYSTEM_PATHS`] and at each path that starts with one of [`SYSTEM_PREFIXES`], links not
    /// followed; a path that is absent here does not exist.
    pub paths: BTreeMap<PathBuf, PathKind>,
    /// What is in each directory of [`directories_of_interest`], by name. One that is missing costs more
    /// mounts, or is not seen.
    pub entries: BTreeMap<PathBuf, BTreeMap<String, PathKind>>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file, or anything else that can be bound like one.
    File,
    /// A symbolic link with this text.
    Symlink(PathBuf),
}

/// System paths that a service sees where the machine has them, read-only.
///
/// Whole trees first, then what programs need of the host's `/etc`: everything else there is generated
/// or absent.
pub const SYSTEM_PATHS: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/perl",
    "/etc/pki",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
    // Where NixOS keeps what its links in /etc point to.
    "/etc/static",
    "/etc/terminfo",
];

/// Beginnings of further system paths: every entry of `/etc` that starts with one of them.
pub const SYSTEM_PREFIXES: &[&str] = &["/etc/java", "/etc/python3"];

/// Every path that the plan of this workspace depends on, beside the system's: the host says what
/// stands there in [`Facts::paths`]. Ascending, each once.
#[must_use]
pub fn paths_of_interest(workspace: &Workspace) -> Vec<PathBuf> {
    let unfolded = super::builds::unfold(workspace, &super::Options::default(), &mut Vec::new());
    let workspace = &*unfolded.workspace;
    let mut paths: BTreeSet<&Path> = BTreeSet::from([workspace.root.as_path()]);
    paths.extend(workspace.policy_inputs.iter().chain(&workspace.hidden).map(PathBuf::as_path));
    for source in workspace.secrets.values() {
        match source {
            SecretSource::File(path) => {
                paths.insert(path);
            }
            SecretSource::Environment(_) => {}
        }
    }
    for service in workspace.services.values() {
        paths.insert(&service.working_dir);
        paths.extend(
            service.writable.iter().chain(&service.reads).chain(&service.makes).map(PathBuf::as_path),
        );
        paths.extend(service.tmpfs.iter().map(|tmpfs| tmpfs.target.as_path()));
        for mount in &service.volumes {
            paths.insert(&mount.target);
            match &mount.source {
                MountSource::Host(path) => {
                    paths.insert(path);
                }
                MountSource::Volume(_) => {}
            }
        }
    }
    // Inside the project also what leads there: a link on the way would make one directory two.
    let ways: BTreeSet<&Path> = paths
        .iter()
        .flat_map(|path| path.ancestors().take_while(|above| *above != workspace.root))
        .filter(|path| path.starts_with(&workspace.root))
        .collect();
    paths.extend(ways);
    paths.into_iter().map(Path::to_path_buf).collect()
}

/// The directories whose names the host lists in [`Facts::entries`]: those below the project root that
/// hold directories which some services write and others must not see; and, where the project lies in a
/// tree of the system, those that lead to it. Ascending, each once.
#[must_use]
pub fn directories_of_interest(workspace: &Workspace) -> Vec<PathBuf> {
    let unfolded = super::builds::unfold(workspace, &super::Options::default(), &mut Vec::new());
    let workspace = &*unfolded.workspace;
    let in_system = |path: &&Path| SYSTEM_PATHS.iter().any(|tree| path.starts_with(tree));
    let mut parents: BTreeSet<&Path> = workspace.root.ancestors().skip(1).filter(in_system).collect();
    for service in workspace.services.values() {
        let volumes = service.volumes.iter().filter_map(|mount| match &mount.source {
            MountSource::Host(path) => Some(path),
            MountSource::Volume(_) => None,
        });
        for path in service.writable.iter().chain(volumes).chain([&service.working_dir]) {
            parents.extend(path.parent().filter(|p| p.starts_with(&workspace.root) && *p != workspace.root));
        }
    }
    parents.into_iter().map(Path::to_path_buf).collect()
}
