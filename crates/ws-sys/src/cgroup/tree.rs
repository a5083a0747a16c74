//! The directories of one owner in every hierarchy: a parent, and one child per group.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use rustix::fs::{Mode, OFlags};

use super::group::{Backend, Group};
use super::layout::{Home, Layout};
use super::{Controller, Error, Result, files, leftover, v1, v2};

/// The child of a tree's v2 directory that holds the processes that make others (see [`Tree::attach`]).
/// Names of groups do not start with `_`.
pub const HELPERS: &str = "_helpers";

/// Which controllers were found to be usable by trying, and why the others are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    lacking: BTreeMap<Controller, String>,
    /// Why there is no v2 directory; `None` when there is one.
    no_v2: Option<String>,
}

impl Usable {
    /// Whether limits of this kind can be set.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        !self.lacking.contains_key(&controller)
    }

    /// Why limits of this kind cannot be set: "no memory controller".
    #[must_use]
    pub fn lacking(&self, controller: Controller) -> Option<&str> {
        self.lacking.get(&controller).map(String::as_str)
    }

    /// Whether groups have a directory in the v2 hierarchy: kill, freeze and `CLONE_INTO_CGROUP` work.
    #[must_use]
    pub fn v2(&self) -> bool {
        self.no_v2.is_none()
    }

    /// Why groups have no directory in the v2 hierarchy.
    #[must_use]
    pub fn no_v2(&self) -> Option<&str> {
        self.no_v2.as_deref()
    }
}

/// Finds out which controllers are usable by making a tree and removing it again.
///
/// # Errors
/// When what was made cannot be removed.
pub fn detect_writable(layout: &Layout) -> Result<Usable> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let tree = Tree::create(layout, &format!("ws-probe.{}.{number}", std::process::id()))?;
    let mut errors = tree.remove(Duration::from_secs(2));
    match errors.pop() {
        Some(error) => Err(error),
        None => Ok(tree.usable),
    }
}

/// The directories of one owner, in the v2 hierarchy and in each v1 hierarchy that is needed.
///
/// Dropping it removes nothing: the kernel's directories are there to be found after a crash.
#[derive(Debug)]
pub struct Tree {
    v2: Option<PathBuf>,
    /// Directories of v1, each once, though one hierarchy may have several controllers.
    v1: Vec<PathBuf>,
    /// For each usable controller, its v1 directory; `None`: the v2 one.
    homes: BTreeMap<Controller, Option<PathBuf>>,
    /// The v1 directory for processor time, where v2 does not tell it.
    cpuacct: Option<PathBuf>,
    usable: Usable,
}

impl Tree {
    /// Makes the directory `name` below our own cgroup of every hierarchy that is needed. What cannot be
    /// had is no error but stands in [`Tree::usable`].
    ///
    /// # Errors
    /// [`Error::Exists`] when a directory of that name is there already: see [`clear`](super::clear).
    pub fn create(layout: &Layout, name: &str) -> Result<Self> {
        let mut made = Made::default();
        let result = Self::create_in(layout, name, &mut made);
        if result.is_err() {
            for dir in made.dirs.iter().rev() {
                // Best effort: the error that matters is the one that is returned.
                let _ = fs::remove_dir(dir);
            }
        }
        result
    }

    fn create_in(layout: &Layout, name: &str, made: &mut Made) -> Result<Self> {
        let mut lacking = BTreeMap::new();
        let mut homes = BTreeMap::new();

        let (v2_dir, no_v2) = match &layout.v2 {
            None => (None, Some("no cgroup v2 hierarchy".to_owned())),
            Some(place) => match made.make(&place.own.join(name), Fs::V2)? {
                Ok(dir) => (Some(dir), None),
                Err(why) => (None, Some(why)),
            },
        };
        if let (Some(place), Some(dir)) = (&layout.v2, &v2_dir) {
            let in_v2: Vec<Controller> =
                Controller::ALL.into_iter().filter(|c| *layout.home(*c) == Home::V2).collect();
            lacking.extend(v2::enable(&place.own, &in_v2));
            let arrived: Vec<Controller> = in_v2.into_iter().filter(|c| !lacking.contains_key(c)).collect();
            lacking.extend(v2::enable(dir, &arrived));
            for controller in arrived {
                // The limit's file in the parent stands for those of its children.
                match files::writable(dir, v2::limit_file(controller)) {
                    Ok(()) => {
                        homes.insert(controller, None);
                    }
                    Err(error) => {
                        lacking.insert(
                            controller,
                            format!("{} cannot be set: {error}", v2::limit_file(controller)),
                        );
                    }
                }
            }
            made.make(&dir.join(HELPERS), Fs::V2)?
                .map_err(|why| Error::Make { path: dir.join(HELPERS), source: io::Error::other(why) })?;
        }

        let mut v1_dirs: Vec<PathBuf> = Vec::new();
        let mut v1_dir = |own: &Path, made: &mut Made| -> Result<std::result::Result<PathBuf, String>> {
            let dir = own.join(name);
            if v1_dirs.contains(&dir) {
                return Ok(Ok(dir));
            }
            let made = made.make(&dir, Fs::V1)?;
            if made.is_ok() {
                v1_dirs.push(dir);
            }
            Ok(made)
        };
        for controller in Controller::ALL {
            match layout.home(controller) {
                Home::V1(place) => match v1_dir(&place.own, made)? {
                    Ok(dir) => match files::writable(&dir, v1_limit_file(controller)) {
                        Ok(()) => {
                            homes.insert(controller, Some(dir));
                        }
                        Err(error) => {
                            let file = v1_limit_file(controller);
                            lacking.insert(controller, format!("{file} cannot be set: {error}"));
                        }
                    },
                    Err(why) => {
                        lacking.insert(controller, why);
                    }
                },
                Home::V2 => {
                    if !homes.contains_key(&controller) {
                        let why = || no_v2.clone().unwrap_or_else(|| format!("no {controller} controller"));
                        lacking.entry(controller).or_insert_with(why);
                    }
                }
                Home::Lacking(why) => {
                    lacking.insert(controller, why.clone());
                }
            }
        }
        let cpuacct = match (&v2_dir, &layout.cpuacct) {
            (None, Some(place)) => v1_dir(&place.own, made)?.ok(),
            (Some(_), _) | (None, None) => None,
        };
        lacking.retain(|controller, _| !homes.contains_key(controller));
        Ok(Self { v2: v2_dir, v1: v1_dirs, homes, cpuacct, usable: Usable { lacking, no_v2 } })
    }

    /// Which controllers can be used.
    #[must_use]
    pub fn usable(&self) -> &Usable {
        &self.usable
    }

    /// Every directory of the tree itself, without those of its groups.
    #[must_use]
    pub fn directories(&self) -> Vec<&Path> {
        self.v2.iter().chain(&self.v1).map(PathBuf::as_path).collect()
    }

    /// Makes the group `name`: one path component of lower-case letters, digits, `-` and `_` that does
    /// not start with `_`. A name that v1 uses for its own files gets a directory with a `_` before it.
    ///
    /// # Errors
    /// When a directory cannot be made; those that were are removed again.
    pub fn add(&self, name: &str) -> Result<Group> {
        let file_name = match name {
            "tasks" | "notify_on_release" | "release_agent" => format!("_{name}"),
            _ => name.to_owned(),
        };
        let valid = !name.is_empty()
            && !name.starts_with('_')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !valid {
            let path = self.directories().first().map_or_else(PathBuf::new, |dir| dir.join(name));
            return Err(Error::Make { path, source: io::ErrorKind::InvalidInput.into() });
        }
        let mut dirs: Vec<PathBuf> = Vec::new();
        for parent in self.directories() {
            let path = parent.join(&file_name);
            if let Err(source) = fs::create_dir(&path) {
                for dir in dirs {
                    let _ = fs::remove_dir(dir);
                }
                return Err(Error::Make { path, source });
            }
            dirs.push(path);
        }
        let backend = |controller: Controller| match self.homes.get(&controller)? {
            Some(v1) => Some(Backend::V1(v1.join(&file_name))),
            None => Some(Backend::V2(self.v2.as_ref()?.join(&file_name))),
        };
        Ok(Group::new(
            self.v2.as_ref().map(|dir| dir.join(&file_name)),
            self.v1.iter().map(|dir| dir.join(&file_name)).collect(),
            Controller::ALL.into_iter().filter_map(|c| Some((c, backend(c)?))).collect(),
            self.cpuacct.as_ref().map(|dir| dir.join(&file_name)),
        ))
    }

    /// Gives `cgroup.procs` of the parent's v2 directory to a user, so that a process in that user's
    /// namespace can place others with `CLONE_INTO_CGROUP`. Nothing without a v2 directory.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub fn delegate_to(&self, uid: u32) -> Result<()> {
        let Some(dir) = &self.v2 else { return Ok(()) };
        give_procs(dir, uid)?;
        give_procs(&dir.join(HELPERS), uid)
    }

    /// Moves a process that makes others (with `CLONE_INTO_CGROUP`) into the parent: the kernel asks for
    /// rights on the nearest common ancestor of where it stands and where its child goes. It gets a
    /// directory of its own there, since a parent with controllers may hold no process. Nothing without
    /// a v2 directory.
    ///
    /// # Errors
    /// When the process cannot be moved.
    pub fn attach(&self, pid: u32) -> Result<()> {
        match &self.v2 {
            Some(dir) => attach(&dir.join(HELPERS), pid),
            None => Ok(()),
        }
    }

    /// The parent's v2 directory, as a path descriptor.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn v2_dir_fd(&self) -> Result<Option<OwnedFd>> {
        self.v2.as_deref().map(open_dir).transpose()
    }

    /// Kills every process in the tree, helpers included.
    ///
    /// # Errors
    /// When a process cannot be killed.
    pub fn kill(&self) -> Result<()> {
        for dir in self.directories() {
            leftover::kill_below(dir, &[])?;
        }
        Ok(())
    }

    /// Removes every directory of the tree, groups included, waiting for processes that are about to end
    /// for `within` in all. Goes on after an error and can be called again.
    #[must_use = "what could not be removed is told"]
    pub fn remove(&self, within: Duration) -> Vec<Error> {
        let deadline = std::time::Instant::now() + within;
        self.directories()
            .into_iter()
            .filter_map(|dir| leftover::remove_below(dir, deadline, within).err())
            .collect()
    }
}

fn v1_limit_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => v1::MEMORY_LIMIT,
        Controller::Cpu => v1::CPU_LIMIT,
        Controller::Pids => v1::PIDS_LIMIT,
    }
}

pub(super) fn open_dir(dir: &Path) -> Result<OwnedFd> {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::Read { path: dir.to_owned(), source: error.into() })
}

pub(super) fn attach(dir: &Path, pid: u32) -> Result<()> {
    files::write(dir, "cgroup.procs", &pid.to_string()).map_err(|error| match error {
        Error::Write { source, .. } => Error::Attach { pid, path: dir.to_owned(), source },
        other => other,
    })
}

pub(super) fn give_procs(dir: &Path, uid: u32) -> Result<()> {
    let path = dir.join("cgroup.procs");
    std::os::unix::fs::chown(&path, Some(uid), None).map_err(|source| Error::Write {
        value: format!("owner {uid}"),
        path,
        source,
    })
}

/// Which file system a directory must be on.
#[derive(Clone, Copy)]
enum Fs {
    V1,
    V2,
}

/// What was made, so that it can be undone.
#[derive(Default)]
struct Made {
    dirs: Vec<PathBuf>,
}

impl Made {
    /// Makes a directory and sees that it is a cgroup: below a mount that was covered it would be a plain
    /// one. The inner error is why the hierarchy cannot be used.
    fn make(&mut self, dir: &Path, wanted: Fs) -> Result<std::result::Result<PathBuf, String>> {
        match fs::create_dir(dir) {
            Ok(()) => self.dirs.push(dir.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists { path: dir.to_owned() });
            }
            Err(error) => {
                return Ok(Err(match error.kind() {
                    io::ErrorKind::PermissionDenied => "you may not make control groups here".to_owned(),
                    _ => {
                        format!("no cgroup can be made in {}: {error}", dir.parent().unwrap_or(dir).display())
                    }
                }));
            }
        }
        let magic = rustix::fs::statfs(dir).map(|stat| stat.f_type);
        let is_cgroup = match wanted {
            Fs::V1 => magic == Ok(libc::CGROUP_SUPER_MAGIC),
            Fs::V2 => magic == Ok(libc::CGROUP2_SUPER_MAGIC),
        };
        if is_cgroup {
            return Ok(Ok(dir.to_owned()));
        }
        let _ = fs::remove_dir(dir);
        self.dirs.pop();
        Ok(Err(format!("{} is not on a cgroup file system", dir.display())))
    }
}
