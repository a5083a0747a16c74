//! Which files are meant: sets of files that are ready to be matched, and what is in a directory of them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_core::plan::{FileSet, Plan};
use ws_model::{ServiceName, WatchAction};

use crate::ignores::{GITIGNORE, Ignores, Layer, Left};
use crate::pattern::Pattern;

/// A [`FileSet`] that is ready to be matched.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) include: Vec<Pattern>,
    pub(crate) ignore: Vec<Pattern>,
    pub(crate) sources_only: bool,
}

/// Where, below a root, a path is left out of what is watched, and why.
type LeftOut<'a> = dyn FnMut(&Path, &Path) -> Option<(PathBuf, Left)> + 'a;

impl Set {
    /// The set; patterns that are none are left out and told.
    fn new(files: &FileSet, ignore: &[Pattern], problems: &mut Vec<String>) -> Self {
        let mut compile = |patterns: &[ws_model::PathPattern]| -> Vec<Pattern> {
            let mut out = Vec::new();
            for pattern in patterns {
                match Pattern::new(pattern) {
                    Ok(pattern) => out.push(pattern),
                    Err(problem) => problems.push(problem),
                }
            }
            out
        };
        let include = compile(&files.include);
        let mut ignored = compile(&files.ignore);
        ignored.extend(ignore.iter().cloned());
        Self { include, ignore: ignored, sources_only: files.sources_only }
    }
}

/// One pattern of a set, by their numbers.
pub(crate) type Reach = (u32, u32);

/// What of a directory is meant.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// What git says in it.
    pub(crate) layer: Arc<Layer>,
    /// Patterns that may mean something in it.
    pub(crate) active: Arc<[Reach]>,
}

/// What of a directory is meant.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Files and symbolic links that are meant.
    pub(crate) files: Vec<(OsString, Metadata)>,
    /// Directories in which something may be meant.
    pub(crate) directories: Vec<(PathBuf, Place)>,
    /// What keeps the last directory from being listed whole.
    pub(crate) errors: Vec<(PathBuf, io::Error)>,
}

impl Listing {
    /// The directories with their real paths, of the directory with this one.
    pub(crate) fn below(self, real: &Path) -> Vec<(PathBuf, PathBuf, Place)> {
        let directories = self.directories.into_iter();
        directories
            .filter_map(|(path, place)| Some((real.join(path.file_name()?), path, place)))
            .map(|(real, path, place)| (path, real, place))
            .collect()
    }
}

/// So many files are known at most, for all trees together and for a build: a service can make as many as its disk
/// holds.
pub(crate) const MOST_FILES: usize = 500_000;

/// Sets of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sets {
    pub(crate) sets: Vec<Set>,
    roots: BTreeMap<PathBuf, Vec<Reach>>,
}

impl Sets {
    /// One set.
    pub(crate) fn one(files: &FileSet, problems: &mut Vec<String>) -> Self {
        let mut sets = Self::default();
        sets.add(files, &[], problems);
        sets
    }

    fn add(&mut self, files: &FileSet, ignore: &[Pattern], problems: &mut Vec<String>) -> usize {
        let set = Set::new(files, ignore, problems);
        let number = self.sets.len();
        for (pattern, index) in set.include.iter().zip(0..) {
            let reach = (u32::try_from(number).unwrap_or(u32::MAX), index);
            self.roots.entry(pattern.root().into()).or_default().push(reach);
        }
        self.sets.push(set);
        number
    }

    /// The files and directories that nothing outside of is meant, parents first.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.keys().map(PathBuf::as_path)
    }

    /// Those of them that are named as they are, and may be files.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Path> {
        let named = |reach: &Reach| matches!(self.pattern(*reach).1, Pattern::Literal(_));
        self.roots.iter().filter(move |(_, of)| of.iter().any(named)).map(|(root, _)| root.as_path())
    }

    fn pattern(&self, (set, pattern): Reach) -> (&Set, &Pattern) {
        let set = &self.sets[set as usize];
        (set, &set.include[pattern as usize])
    }

    /// What of a directory is meant that no other directory leads to.
    pub(crate) fn at_root(&self, root: &Path, ignores: &mut Ignores) -> Place {
        let active = self.beginning_at(root).collect();
        Place { layer: ignores.layer(root), active }
    }

    /// Patterns that begin at a directory.
    fn beginning_at<'a>(&'a self, root: &'a Path) -> impl Iterator<Item = Reach> + 'a {
        let of = self.roots.get(root).into_iter().flatten().copied();
        of.filter(move |reach| {
            let (set, _) = self.pattern(*reach);
            !set.ignore.iter().any(|ignore| ignore.covers(root))
        })
    }

    /// Patterns that may mean something in a directory in a place.
    fn reaching<'a>(
        &'a self,
        place: &'a Place,
        path: &'a Path,
        ignores: &'a Ignores,
    ) -> impl Iterator<Item = Reach> + 'a {
        let mut left = None;
        let from_above = place.active.iter().copied().filter(move |reach| {
            let (set, pattern) = self.pattern(*reach);
            pattern.may_be_in(path)
                && !set.ignore.iter().any(|ignore| ignore.matches(path))
                && !(set.sources_only
                    && *left.get_or_insert_with(|| ignores.left(&place.layer, path, true).is_some()))
        });
        from_above.chain(self.beginning_at(path))
    }

    /// What of a directory in a place is meant; `None`: nothing can be.
    pub(crate) fn below(&self, place: &Place, path: &Path, ignores: &mut Ignores) -> Option<Place> {
        let active: Arc<[Reach]> = {
            let reaching: Vec<Reach> = self.reaching(place, path, ignores).collect();
            if reaching.is_empty() {
                return None;
            }
            if *reaching == *place.active { place.active.clone() } else { reaching.into() }
        };
        Some(Place { layer: place.layer.clone(), active })
    }

    /// Whether a file in a place is meant.
    pub(crate) fn means(&self, place: &Place, path: &Path, ignores: &Ignores) -> bool {
        let mut left = None;
        place.active.iter().any(|reach| {
            let (set, pattern) = self.pattern(*reach);
            pattern.matches(path)
                && !set.ignore.iter().any(|ignore| ignore.matches(path))
                && !(set.sources_only
                    && *left.get_or_insert_with(|| ignores.left(&place.layer, path, false).is_some())
                    && !pattern.names(path))
        })
    }

    /// Lists a directory, which has this real path. Its place may come from [`Sets::below`], which does not know what git says in it.
    pub(crate) fn list(
        &self,
        directory: &Path,
        real: &Path,
        place: &mut Place,
        ignores: &mut Ignores,
    ) -> io::Result<Listing> {
        let mut found = Listing { files: Vec::new(), directories: Vec::new(), errors: Vec::new() };
        let (mut says, mut top) = (false, false);
        let mut entries = Vec::new();
        // Held open as long as its entries are looked at.
        let (_opened, all) = crate::leash::read_dir(real)?;
        for entry in all {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    found.errors.push((directory.into(), error));
                    break;
                }
            };
            let name = entry.file_name();
            says |= name == GITIGNORE;
            top |= name == ".git";
            entries.push((name, entry));
        }
        place.layer = ignores.below(&place.layer, directory, says, top);
        for (name, entry) in entries {
            let path = directory.join(&name);
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if let Some(place) = self.below(place, &path, ignores) {
                    found.directories.push((path, place));
                }
            } else if (kind.is_file() || kind.is_symlink()) && self.means(place, &path, ignores) {
                match entry.metadata() {
                    Ok(metadata) => found.files.push((name, metadata)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => found.errors.push((path, error)),
                }
            }
        }
        Ok(found)
    }
}

/// What is done about which files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) sets: Sets,
    /// For each unit: the number of a set, and what is done.
    pub(crate) units: Vec<(ServiceName, Vec<(usize, WatchAction)>)>,
}

/// How a path stands to a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is in it.
    In,
    /// It is not one that the set names.
    Out,
    /// It is one, but this leaves it out, because of this path.
    Left(PathBuf, Left),
    /// It is one, but the set itself takes it out.
    Ignored,
}

impl Rules {
    /// The rules of a plan, and what is wrong with them.
    pub(crate) fn of(plan: &Plan) -> (Self, Vec<String>) {
        Self::of_units(plan, |_| true)
    }

    /// Those of some of its units.
    pub(crate) fn of_units(plan: &Plan, of: impl Fn(&ServiceName) -> bool) -> (Self, Vec<String>) {
        let mut rules = Self::default();
        let mut problems = Vec::new();
        let mut never = Vec::new();
        for pattern in &plan.watching.ignore {
            match Pattern::new(pattern) {
                Ok(pattern) => never.push(pattern),
                Err(problem) => problems.push(problem),
            }
        }
        for unit in plan.services.values().filter(|unit| !unit.watch.is_empty() && of(&unit.name)) {
            let of_it = unit
                .watch
                .iter()
                .map(|rule| (rules.sets.add(&rule.files, &never, &mut problems), rule.action))
                .collect();
            rules.units.push((unit.name.clone(), of_it));
        }
        problems.sort();
        problems.dedup();
        (rules, problems)
    }

    /// How a file stands to a set.
    pub(crate) fn standing(&self, set: usize, path: &Path, ignores: &mut Ignores) -> Standing {
        self.standing_with(set, path, &mut |root, path| ignores.left_below(root, path, false))
    }

    fn standing_with(&self, set: usize, path: &Path, left: &mut LeftOut<'_>) -> Standing {
        let set = &self.sets.sets[set];
        let mut standing = Standing::Out;
        for pattern in set.include.iter().filter(|pattern| pattern.matches(path)) {
            if set.ignore.iter().any(|ignore| ignore.covers(path)) {
                return Standing::Ignored;
            }
            if !set.sources_only || pattern.names(path) {
                return Standing::In;
            }
            match left(pattern.root(), path) {
                None => return Standing::In,
                Some((at, why)) => standing = Standing::Left(at, why),
            }
        }
        standing
    }

    /// What is done for whom when this file changes: for each unit what the first of its rules says that means it.
    pub(crate) fn matches(&self, path: &Path, ignores: &mut Ignores) -> Vec<(usize, WatchAction)> {
        let mut asked: HashMap<PathBuf, Option<(PathBuf, Left)>> = HashMap::new();
        let mut left = |root: &Path, path: &Path| match asked.get(root) {
            Some(left) => left.clone(),
            None => {
                let left = ignores.left_below(root, path, false);
                asked.insert(root.into(), left.clone());
                left
            }
        };
        let mut found = Vec::new();
        for (number, (_, rules)) in self.units.iter().enumerate() {
            let first =
                rules.iter().find(|(set, _)| self.standing_with(*set, path, &mut left) == Standing::In);
            if let Some((_, action)) = first
                && *action != WatchAction::None
            {
                found.push((number, *action));
            }
        }
        found
    }

    /// Whether any rule means this file.
    pub(crate) fn mean(&self, path: &Path, ignores: &mut Ignores) -> bool {
        (0..self.sets.sets.len()).any(|set| self.standing(set, path, ignores) == Standing::In)
    }
}
