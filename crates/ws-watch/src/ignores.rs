//! What is left out of sources: what git ignores, and what nobody ever means.
//!
//! Git's files are read as git reads them: the deepest `.gitignore` with an opinion counts, in it the last line; then
//! `.git/info/exclude`, then the user's own file (`core.excludesFile`). A directory that is ignored is not looked into,
//! so nothing below it can be taken back in. A repository in a repository stands for itself. Where there is no
//! repository at all, `.gitignore` files count from the project root on.
//!
//! `dist` and `build` are not among what nobody means: some keep sources there, and where it is made, `.gitignore`
//! says so.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::leash::{Leash, read_small};

/// The name of the files that say what git ignores.
pub(crate) const GITIGNORE: &str = ".gitignore";

/// Names of directories with what tools keep for themselves.
const DIRECTORIES: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    ".jj",
    "target",
    "node_modules",
    ".venv",
    "venv",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".cache",
    ".gradle",
    ".next",
    ".idea",
    ".vscode",
];

/// Files that no program reads: they say what is a source to git.
const FILES: &[&str] = &[GITIGNORE, ".gitattributes", ".git"];

/// Why a path is no source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its name is one that nobody means.
    Habit {
        /// What it is: "what tools keep for themselves", "what editors leave".
        what: &'static str,
    },
    /// Git ignores it.
    Git {
        /// The file that says so.
        file: PathBuf,
        /// The line of it.
        pattern: String,
    },
}

/// Whether nobody means a file or directory of this name.
pub(crate) fn habit(name: &OsStr, directory: bool) -> Option<Left> {
    let name = name.to_str()?;
    if directory {
        return DIRECTORIES.contains(&name).then_some(Left::Habit { what: "what tools keep for themselves" });
    }
    if FILES.contains(&name) {
        return Some(Left::Habit { what: "what only git reads" });
    }
    let dropped = name.ends_with(".swp")
        || name.ends_with(".swx")
        || name.ends_with(".swo")
        || name.ends_with('~')
        || name.starts_with(".#")
        || (name.len() > 1 && name.starts_with('#') && name.ends_with('#'))
        || name.ends_with(".tmp")
        || name.ends_with("___jb_tmp___")
        || name.ends_with("___jb_old___")
        || name.starts_with(".goutputstream-")
        // What vim makes to see whether it may write in a directory.
        || name == "4913"
        || name == ".DS_Store";
    dropped.then_some(Left::Habit { what: "what editors leave" })
}

/// What git's files say in one directory, on top of those above.
#[derive(Debug)]
pub(crate) struct Layer {
    above: Option<Arc<Layer>>,
    /// Of `.gitignore`.
    here: Gitignore,
    /// Of `info/exclude`, in the top directory of a repository.
    exclude: Option<Gitignore>,
}

/// Reads git's files, each once.
#[derive(Debug, Clone)]
pub(crate) struct Ignores {
    /// No `.gitignore` above these counts where there is no repository.
    tops: Vec<PathBuf>,
    /// What the plan is made of: watched for itself, and no source.
    plan: BTreeSet<PathBuf>,
    /// Whether git's files count at all.
    git: bool,
    leash: Leash,
    bottom: Arc<Layer>,
    layers: HashMap<PathBuf, Arc<Layer>>,
    repositories: HashMap<PathBuf, PathBuf>,
}

impl Ignores {
    /// With nothing read yet, but the user's own file if that is wanted.
    pub(crate) fn new(tops: Vec<PathBuf>, git: bool, user: bool) -> Self {
        let user = if git && user { Gitignore::global().0 } else { Gitignore::empty() };
        let bottom = Arc::new(Layer { above: None, here: user, exclude: None });
        let (layers, repositories) = (HashMap::new(), HashMap::new());
        Self { tops, plan: BTreeSet::new(), git, leash: Leash::default(), bottom, layers, repositories }
    }

    /// Services can write there: they are not taken for somebody who works with git.
    pub(crate) fn with_leash(mut self, leash: Leash) -> Self {
        self.leash = leash;
        self
    }

    /// These files are what the plan is made of.
    pub(crate) fn with_plan(mut self, files: &[PathBuf]) -> Self {
        self.plan = files.iter().cloned().collect();
        self
    }

    /// Whether what the directory above says counts in this one, which is no top of a repository.
    fn goes_up(&self, directory: &Path) -> bool {
        let Some(parent) = directory.parent() else { return false };
        self.tops.iter().any(|top| directory != top && directory.starts_with(top)) || in_repository(parent)
    }

    /// What counts in a directory.
    pub(crate) fn layer(&mut self, directory: &Path) -> Arc<Layer> {
        if !self.git {
            return self.bottom.clone();
        }
        if let Some(layer) = self.layers.get(directory) {
            return layer.clone();
        }
        let repository = git_directory(directory);
        let above = match directory.parent() {
            Some(parent) if repository.is_none() && self.goes_up(directory) => self.layer(parent),
            _ => self.bottom.clone(),
        };
        let layer = self.read(directory, above, directory.join(GITIGNORE).is_file(), repository);
        self.layers.insert(directory.into(), layer.clone());
        layer
    }

    /// What counts in a directory whose parent's layer is known, and of which is known whether it has a `.gitignore`
    /// and a `.git`.
    pub(crate) fn below(
        &mut self,
        above: &Arc<Layer>,
        directory: &Path,
        says: bool,
        top: bool,
    ) -> Arc<Layer> {
        if !self.git {
            return self.bottom.clone();
        }
        if let Some(layer) = self.layers.get(directory) {
            return layer.clone();
        }
        if !says && !top {
            return above.clone();
        }
        let repository = if top { git_directory(directory) } else { None };
        let above = if repository.is_some() { self.bottom.clone() } else { above.clone() };
        let layer = self.read(directory, above, says, repository);
        self.layers.insert(directory.into(), layer.clone());
        layer
    }

    fn read(
        &mut self,
        directory: &Path,
        above: Arc<Layer>,
        says: bool,
        repository: Option<PathBuf>,
    ) -> Arc<Layer> {
        if !says && repository.is_none() {
            return above;
        }
        let file = |path: PathBuf| {
            let mut builder = GitignoreBuilder::new(directory);
            for line in read_small(&path).unwrap_or_default().trim_start_matches('\u{feff}').lines() {
                // A line that is no pattern is left out, as git does.
                let _ = builder.add_line(Some(path.clone()), line);
            }
            builder.build().unwrap_or_else(|_| Gitignore::empty())
        };
        let here = if says { file(directory.join(GITIGNORE)) } else { Gitignore::empty() };
        let exclude =
            repository.as_ref().map(|git| exclude_file(git)).filter(|path| path.is_file()).map(file);
        if let Some(git) = repository {
            self.repositories.insert(directory.into(), git);
        }
        Arc::new(Layer { above: Some(above), here, exclude })
    }

    /// Forgets what was read.
    pub(crate) fn forget(&mut self) {
        self.layers.clear();
        self.repositories.clear();
    }

    /// The files that were read.
    pub(crate) fn sources(&self) -> Vec<PathBuf> {
        let ignores = self.layers.keys().map(|directory| directory.join(GITIGNORE));
        ignores.chain(self.repositories.values().map(|git| exclude_file(git))).collect()
    }

    /// The files outside of trees that decide: those of directories above `root`, and `info/exclude`.
    pub(crate) fn deciders(&self, root: &Path) -> Vec<PathBuf> {
        if !self.git {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut at = root;
        loop {
            found.push(at.join(GITIGNORE));
            if let Some(git) = self.repositories.get(at) {
                found.push(exclude_file(git));
                break;
            }
            match at.parent() {
                Some(parent) if self.goes_up(at) => at = parent,
                _ => break,
            }
        }
        found
    }

    /// What is there while git works in one of the repositories that were seen: it holds the lock of the index from
    /// before the first to after the last file that it writes.
    pub(crate) fn locks(&self) -> impl Iterator<Item = PathBuf> {
        let own = self.repositories.values().filter(|git| !self.leash.is_written(git));
        own.map(|git| git.join("index.lock"))
    }

    /// Whether git ignores a path in a directory, without regard of what it says of directories above.
    pub(crate) fn git_says(&self, layer: &Layer, path: &Path, directory: bool) -> Option<Left> {
        if !self.git {
            return None;
        }
        let mut next = Some(layer);
        while let Some(layer) = next {
            for says in [Some(&layer.here), layer.exclude.as_ref()].into_iter().flatten() {
                match says.matched(path, directory) {
                    Match::None => {}
                    Match::Ignore(glob) => {
                        return Some(Left::Git {
                            file: glob.from().unwrap_or(Path::new("")).into(),
                            pattern: glob.original().to_owned(),
                        });
                    }
                    Match::Whitelist(_) => return None,
                }
            }
            next = layer.above.as_deref();
        }
        None
    }

    /// Why a path in a directory is no source, without regard of directories above.
    pub(crate) fn left(&self, layer: &Layer, path: &Path, directory: bool) -> Option<Left> {
        if self.plan.contains(path) {
            return Some(Left::Habit { what: "what the plan is made of, and watched for that" });
        }
        habit(path.file_name()?, directory).or_else(|| self.git_says(layer, path, directory))
    }

    /// Why a path below `root` is no source: because of itself, or of a directory between the two.
    pub(crate) fn left_below(
        &mut self,
        root: &Path,
        path: &Path,
        directory: bool,
    ) -> Option<(PathBuf, Left)> {
        let rest = path.strip_prefix(root).ok()?;
        let mut parts = rest.components().peekable();
        let mut at = root.to_path_buf();
        while let Some(part) = parts.next() {
            let layer = self.layer(&at);
            at.push(part);
            let is_directory = directory || parts.peek().is_some();
            if let Some(left) = self.left(&layer, &at, is_directory) {
                return Some((at, left));
            }
        }
        None
    }
}

fn in_repository(directory: &Path) -> bool {
    directory.ancestors().any(|above| above.join(".git").exists())
}

/// Where git keeps its own files of the repository whose top directory this is, if it is one (gitrepository-layout(5)).
fn git_directory(top: &Path) -> Option<PathBuf> {
    let git = top.join(".git");
    let kind = fs::symlink_metadata(&git).ok()?;
    if kind.is_dir() {
        return Some(git);
    }
    let text = read_small(&git)?;
    Some(top.join(text.strip_prefix("gitdir:")?.trim()))
}

/// `info/exclude` is one for all worktrees of a repository.
fn exclude_file(git: &Path) -> PathBuf {
    let common = read_small(&git.join("commondir"));
    let common = common.map_or_else(|| git.to_path_buf(), |text| git.join(text.trim()));
    common.join("info/exclude")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn left(root: &Path, path: &str) -> Option<Left> {
        let mut ignores = Ignores::new(vec![root.into()], true, false);
        ignores.left_below(root, &root.join(path), false).map(|(_, left)| left)
    }

    #[test]
    fn the_deepest_file_and_its_last_line_count() {
        let dir = tree(&[
            (".gitignore", "*.log\n/out/\n!keep.log\n"),
            ("sub/.gitignore", "!*.log\n*.tmpl\n"),
            ("sub/deeper/.gitignore", "x.log\n"),
        ]);
        let root = dir.path();
        assert!(left(root, "a.log").is_some());
        assert!(left(root, "keep.log").is_none());
        assert!(left(root, "sub/a.log").is_none(), "taken back in");
        assert!(left(root, "sub/deeper/x.log").is_some());
        assert!(left(root, "sub/a.tmpl").is_some());
        assert!(left(root, "a.tmpl").is_none());
        assert!(left(root, "out/a").is_some(), "with all that is below");
        assert!(left(root, "sub/out/a").is_none(), "anchored");
        assert!(left(root, "out").is_none(), "a file is no directory");
    }

    #[test]
    fn a_repository_begins_anew_and_has_an_exclude_file() {
        let dir = tree(&[
            (".gitignore", "*.a\n"),
            (".git/info/exclude", "*.b\n"),
            ("inner/.git/HEAD", ""),
            ("project/src/x", ""),
        ]);
        let root = dir.path();
        assert!(left(root, "x.a").is_some());
        assert!(left(root, "x.b").is_some());
        assert!(left(root, "inner/x.a").is_none());
        assert!(left(root, "inner/x.b").is_none());
        // The project is a part of a repository.
        assert!(left(&root.join("project"), "src/y.a").is_some());
        assert!(left(&root.join("project"), "src/y.b").is_some());
    }

    #[test]
    fn names_that_nobody_means() {
        for name in
            [".x.swp", "x~", ".#x", "#x#", "4913", "a.txt___jb_tmp___", ".goutputstream-AB12", "x.tmp"]
        {
            assert!(habit(OsStr::new(name), false).is_some(), "{name}");
        }
        for name in ["x", "swp", "#x", "target", "dist", "4913.rs", "#"] {
            assert!(habit(OsStr::new(name), false).is_none(), "{name}");
        }
        assert!(habit(OsStr::new("target"), true).is_some());
        assert!(habit(OsStr::new("dist"), true).is_none());
        assert!(habit(OsStr::new("x~"), true).is_none(), "a directory is none of an editor's");
    }

    #[test]
    fn why_says_file_and_line() {
        let dir = tree(&[(".gitignore", "# c\n*.log\n")]);
        let Some(Left::Git { file, pattern }) = left(dir.path(), "a.log") else { panic!() };
        assert_eq!((file, pattern.as_str()), (dir.path().join(".gitignore"), "*.log"));
    }
}
