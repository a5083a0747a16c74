//! What is watched, and why a file is not: for people who ask.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ws_core::plan::Plan;
use ws_model::{Poll, ServiceName, WatchAction};

use crate::ignores::{Ignores, Left};
use crate::kernel::{Kernel as _, Real};
use crate::leash::Leash;
use crate::sets::MOST_FILES;
use crate::sets::{Rules, Standing};

/// How a path stands to what is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The path.
    pub path: PathBuf,
    /// For each unit that watches files.
    pub units: Vec<For>,
}

/// How a path stands to what a unit watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct For {
    /// The unit.
    pub unit: ServiceName,
    /// What is done when the file changes; `None`: it is not watched for this unit.
    pub action: Option<WatchAction>,
    /// Why.
    pub why: Why,
}

/// Why a file is watched for a unit, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// This of the unit's rules means it, counted from 0. With [`WatchAction::None`] it takes it out.
    Rule(usize),
    /// No rule means it.
    NoRule,
    /// This rule would mean it, but leaves it out itself (`ignore`), or `watch.ignore` of the workspace does.
    Ignored(usize),
    /// A rule would mean it, but git ignores it.
    Gitignored {
        /// The path that is ignored: the file, or a directory that it is in.
        at: PathBuf,
        /// The file that says so.
        file: PathBuf,
        /// In which line, from 1; `None` when that cannot be found again.
        line: Option<usize>,
        /// What stands there.
        pattern: String,
    },
    /// A rule would mean it, but nobody ever means such a file unless it is named.
    Habit {
        /// The path: the file, or a directory that it is in.
        at: PathBuf,
        /// What it is, as a phrase: "what editors leave".
        what: &'static str,
    },
}

/// Says for a path what would be done if it changed, and why. A relative path is one of the project.
#[must_use]
pub fn explain(plan: &Plan, path: &Path) -> Explained {
    let path = plan.root.join(path);
    let (rules, _) = Rules::of(plan);
    let mut ignores = ignores_of(plan, &rules);
    let units = rules.units.iter().map(|(unit, of_it)| {
        let mut why = Why::NoRule;
        for (number, (set, action)) in of_it.iter().enumerate() {
            match rules.standing(*set, &path, &mut ignores) {
                Standing::In => {
                    let action = (*action != WatchAction::None).then_some(*action);
                    return For { unit: unit.clone(), action, why: Why::Rule(number) };
                }
                Standing::Out => {}
                Standing::Ignored => why = Why::Ignored(number),
                Standing::Left(at, Left::Habit { what }) => why = Why::Habit { at, what },
                Standing::Left(at, Left::Git { file, pattern }) => {
                    let line = line_of(&file, &pattern);
                    why = Why::Gitignored { at, file, line, pattern };
                }
            }
        }
        For { unit: unit.clone(), action: None, why }
    });
    Explained { path: path.clone(), units: units.collect() }
}

/// The last line counts, where several say the same.
fn line_of(file: &Path, pattern: &str) -> Option<usize> {
    let text = crate::leash::read_small(file)?;
    let found = text.lines().enumerate().filter(|(_, line)| line.trim_end() == pattern.trim_end());
    found.map(|(number, _)| number + 1).last()
}

fn ignores_of(plan: &Plan, rules: &Rules) -> Ignores {
    let mut tops: Vec<PathBuf> = rules.sets.roots().map(Into::into).collect();
    tops.push(plan.root.clone());
    Ignores::new(tops, plan.watching.gitignore, true)
}

/// What is watched for a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitOverview {
    /// The unit.
    pub unit: ServiceName,
    /// Files and directories that nothing outside of is watched, with how changes in them are seen.
    pub roots: Vec<(PathBuf, Seen)>,
    /// How many directories these are.
    pub directories: usize,
    /// How many files.
    pub files: usize,
}

/// How changes are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The kernel tells.
    Told,
    /// They are looked for, because the file says so.
    Polled,
    /// They are looked for, because on this file system not all are told.
    Blind(&'static str),
    /// Those that are made elsewhere are not: the file system does not tell, and the file forbids looking.
    Unseen(&'static str),
    /// There is nothing yet.
    Absent,
}

/// Says what is watched for each unit that watches files. Walks the tree.
#[must_use]
pub fn overview(plan: &Plan) -> Vec<UnitOverview> {
    let (rules, _) = Rules::of(plan);
    let mut ignores = ignores_of(plan, &rules);
    let leash = Leash::of(plan);
    let mut found = Vec::new();
    for (unit, _) in &rules.units {
        let (alone, _) = Rules::of_units(plan, |name| name == unit);
        let (mut directories, mut files) = (BTreeSet::new(), BTreeSet::new());
        for root in alone.sets.roots() {
            if root.is_file() {
                files.insert(root.to_path_buf());
            }
            if directories.contains(root) || !root.is_dir() {
                continue;
            }
            let Some(real) = leash.real(root) else { continue };
            let mut stack = vec![(root.to_path_buf(), real, alone.sets.at_root(root, &mut ignores))];
            while let Some((path, real, mut place)) = stack.pop() {
                if directories.len() > MOST_FILES || files.len() > MOST_FILES {
                    break;
                }
                if place.active.is_empty() {
                    continue;
                }
                let Ok(listing) = alone.sets.list(&path, &real, &mut place, &mut ignores) else { continue };
                files.extend(listing.files.iter().map(|(name, _)| path.join(name)));
                stack.extend(listing.below(&real));
                directories.insert(path);
            }
        }
        // What a rule takes out is not watched for anything.
        let files = files.iter().filter(|file| !alone.matches(file, &mut ignores).is_empty()).count();
        let seen = |root: &Path| -> Seen {
            if !root.exists() {
                return Seen::Absent;
            }
            match (plan.watching.poll, Real.blind(root)) {
                (Poll::Every(_), _) => Seen::Polled,
                (Poll::Auto | Poll::Never, None) => Seen::Told,
                (Poll::Auto, Some(kind)) => Seen::Blind(kind),
                (Poll::Never, Some(kind)) => Seen::Unseen(kind),
            }
        };
        let roots = alone.sets.roots().map(|root| (root.to_path_buf(), seen(root))).collect();
        found.push(UnitOverview { unit: unit.clone(), roots, directories: directories.len(), files });
    }
    found
}
