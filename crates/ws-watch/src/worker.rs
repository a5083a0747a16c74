//! The thread that knows what is in the files that are watched.
//!
//! It hears of changes, waits until it is quiet, then compares what it knew with what is there: only that decides. So
//! it does not matter how an editor saves, or in how many pieces the kernel tells of it. What it hears decides when to
//! look and where.
//!
//! - A directory is watched *before* it is listed, so what comes into it in between is told, or listed, or both.
//! - Of a directory that appears, all files are news at once: those that were made before it was watched are not told.
//! - When the kernel has lost something, everything is listed again and compared with what was known.
//!
//! # When it is quiet
//!
//! When nothing was told for [`Watching::debounce`](ws_model::Watching::debounce). Somebody who writes one file without
//! end (a log among the sources) would hold up everybody for ever; somebody who writes five thousand files, as `git
//! checkout` does, would be cut in two by a simple limit. The difference: the latter always comes to files that were
//! not told before. So the limit ([`CAP`]) counts from the last file that is new to the batch, and only
//! [`LONGEST`] counts from the first. And while git holds the lock of a repository's index, nothing is quiet.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use ws_core::engine::{FileChange, Input};
use ws_core::files::{News, NewsSink};
use ws_core::plan::{Plan, WatchRule};
use ws_model::{Poll, ServiceName, Trigger, WatchAction, Watching};

use crate::contents::{Contents, Mark, Seen, Stamp, is_settled};
use crate::ignores::{GITIGNORE, Ignores};
use crate::kernel::{Refused, Told, advice};
use crate::leash::Leash;
use crate::sets::{MOST_FILES, Place, Rules};
use crate::watched::Watched;

/// How long somebody who writes the same files again and again holds up a batch, at least; also 10 times the debounce.
const CAP: Duration = Duration::from_millis(500);
/// How long a batch takes at most.
const LONGEST: Duration = Duration::from_secs(60);
/// A lock of git's that is older was left behind.
const STALE_LOCK: Duration = Duration::from_secs(120);
/// How often files are looked at where nobody tells, unless the file says it.
const POLL: Duration = Duration::from_secs(1);
/// Larger files are known by size and time only: reading them at each save costs more than a needless reload.
pub(crate) const LARGE: u64 = 64 << 20;
/// So many names of files are told.
const NAMES: usize = 5;
/// So many different things are told that are in the way. A service can put as many there as it likes.
const MOST_SAID: usize = 20;
/// How long files are read in the background before it looks whether there is something to do, and how long it then
/// rests: services are being started at the same time.
const READ: Duration = Duration::from_millis(4);
const REST: Duration = Duration::from_millis(2);

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// By the watcher of this era.
    Told(u64, Told),
    /// From now on this plan counts.
    Follow(Arc<Plan>, Vec<PathBuf>),
    /// Answer when nothing is left to do.
    Settle(Sender<Summary>),
    /// Enough.
    Stop,
}

/// How much is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Directories that are looked at.
    pub directories: usize,
    /// Files whose contents are known.
    pub files: usize,
    /// Whether some are polled.
    pub polling: bool,
}

/// What was known of a file.
#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: Stamp,
    settled: bool,
    /// `None`: it was not read yet.
    mark: Option<Mark>,
}

impl Known {
    fn from_seen(seen: Seen) -> Self {
        Self { stamp: seen.stamp, settled: seen.settled, mark: Some(seen.mark) }
    }

    /// Whether what is seen now is something else.
    fn differs(&self, seen: &Seen) -> bool {
        self.mark.map_or(self.stamp != seen.stamp, |mark| mark != seen.mark)
    }
}

/// A directory of a tree.
#[derive(Debug)]
struct Directory {
    place: Place,
    files: BTreeMap<OsString, Known>,
    /// Whether it is there; else its files are still to be told as gone.
    standing: bool,
}

/// What is at the top of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Top {
    /// Not looked at yet.
    Unknown,
    /// No directory.
    Absent,
    Directory {
        real: PathBuf,
        device: u64,
        inode: u64,
    },
}

#[derive(Debug)]
struct Tree {
    top: Top,
    /// Why the kernel does not tell of all changes in it.
    blind: Option<&'static str>,
}

/// How changes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Kernel,
    Poll(Duration),
    Nothing,
}

/// What is new in a walk.
enum Fresh<'a> {
    /// Every file that was not known.
    All,
    /// Those that these would have meant already; others are known from now on.
    MeantBefore(&'a Rules, &'a mut Ignores),
}

/// What was told and is not dealt with.
#[derive(Debug, Default)]
struct Pending {
    /// Files, with the stamp that a walk saw last.
    paths: HashMap<PathBuf, Option<Stamp>>,
    /// What git ignores may be something else.
    ignores: bool,
    times: Option<Times>,
    /// Of what is where services write: who makes files there without end holds up himself, and nobody else.
    written: Option<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    first: Instant,
    last: Instant,
    /// Of something that was new to the batch.
    new: Instant,
}

impl Pending {
    fn touch(&mut self, new: bool) {
        self.touch_one(new, false);
    }

    fn touch_one(&mut self, new: bool, written: bool) {
        let now = Instant::now();
        let times = if written { &mut self.written } else { &mut self.times };
        let times = times.get_or_insert(Times { first: now, last: now, new: now });
        times.last = now;
        if new {
            times.new = now;
        }
    }

    fn file(&mut self, path: PathBuf, leash: &Leash) {
        let (new, written) = (!self.paths.contains_key(&path), leash.is_written(&path));
        if new {
            self.paths.insert(path, None);
        }
        self.touch_one(new, written);
    }

    /// A walk saw that this is another.
    fn found(&mut self, path: PathBuf, stamp: Option<Stamp>, leash: &Leash) {
        let written = leash.is_written(&path);
        match self.paths.get_mut(&path) {
            Some(seen) if *seen == stamp && stamp.is_some() => {}
            Some(seen) => {
                *seen = stamp;
                self.touch_one(false, written);
            }
            None => {
                self.paths.insert(path, stamp);
                self.touch_one(true, written);
            }
        }
    }

    /// When it has been quiet, if nothing else comes.
    fn due(&self, debounce: Duration) -> Option<Instant> {
        let cap = CAP.max(debounce.saturating_mul(10));
        let due =
            |times: Times| (times.last + debounce).min(times.new + cap).min(times.first + LONGEST.max(cap));
        [self.times, self.written].into_iter().flatten().map(due).min()
    }

    /// Whether nothing is.
    fn is_nothing(&self) -> bool {
        self.times.is_none() && self.written.is_none()
    }

    /// When the first of it was told.
    fn first(&self) -> Option<Instant> {
        [self.times, self.written].into_iter().flatten().map(|times| times.first).min()
    }
}

/// What of a plan decides what is watched.
#[derive(Debug, PartialEq)]
struct Followed {
    root: PathBuf,
    watching: Watching,
    rules: Vec<(ServiceName, Vec<WatchRule>)>,
    plan_files: Vec<PathBuf>,
    leash: Leash,
}

pub(crate) struct Worker {
    receive: Receiver<Message>,
    sink: NewsSink,
    contents: Arc<Contents>,
    user_ignores: bool,
    watched: Watched,
    followed: Option<Followed>,
    rules: Rules,
    ignores: Ignores,
    mode: Mode,
    refused: Option<Refused>,
    leash: Leash,
    /// How many files of trees are known.
    count: usize,
    trees: BTreeMap<PathBuf, Tree>,
    directories: BTreeMap<PathBuf, Directory>,
    /// Files that are named as they are, and those of the plan.
    singles: BTreeMap<PathBuf, Option<Known>>,
    /// Directories that are watched for what may appear in them.
    anchors: BTreeSet<PathBuf>,
    /// What may appear there.
    awaited: HashSet<PathBuf>,
    /// Files outside of trees that say what git ignores.
    deciders: BTreeMap<PathBuf, Option<Stamp>>,
    pending: Pending,
    /// When git's lock is looked for again.
    locked_until: Option<Instant>,
    /// Directories with files that were not read yet.
    unread: VecDeque<PathBuf>,
    next_poll: Option<Instant>,
    said: BTreeSet<String>,
    asked: Vec<Sender<Summary>>,
}

impl Worker {
    pub(crate) fn new(
        receive: Receiver<Message>,
        sink: NewsSink,
        contents: Arc<Contents>,
        user_ignores: bool,
        watched: Watched,
    ) -> Self {
        Self {
            receive,
            sink,
            contents,
            user_ignores,
            watched,
            followed: None,
            rules: Rules::default(),
            ignores: Ignores::new(Vec::new(), false, false),
            mode: Mode::Kernel,
            refused: None,
            leash: Leash::default(),
            count: 0,
            trees: BTreeMap::new(),
            directories: BTreeMap::new(),
            singles: BTreeMap::new(),
            anchors: BTreeSet::new(),
            awaited: HashSet::new(),
            deciders: BTreeMap::new(),
            pending: Pending::default(),
            locked_until: None,
            unread: VecDeque::new(),
            next_poll: None,
            said: BTreeSet::new(),
            asked: Vec::new(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        loop {
            // All that was told, before it is decided whether it is quiet.
            let mut lost = false;
            loop {
                match self.receive.try_recv() {
                    Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return,
                    Ok(message) => self.hear(message, &mut lost),
                    Err(TryRecvError::Empty) => break,
                }
            }
            if lost {
                self.look_everywhere();
            }
            let now = Instant::now();
            if self.next_poll.is_some_and(|at| at <= now) {
                self.poll();
            }
            if self.is_due(now) {
                if self.polls() {
                    self.poll();
                    if !self.is_due(Instant::now()) {
                        continue;
                    }
                }
                self.finish_batch();
                continue;
            }
            if !self.unread.is_empty() {
                self.read_some();
            }
            if self.unread.is_empty() && self.pending.is_nothing() && !self.asked.is_empty() {
                let summary = self.summary();
                // Who asked may have gone.
                self.asked.drain(..).for_each(|asked| drop(asked.send(summary.clone())));
            }
            match self.wait() {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => {
                    let mut lost = false;
                    self.hear(message, &mut lost);
                    if lost {
                        self.look_everywhere();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Sleeps until there is something to do: for ever, when nothing is pending and nothing polled.
    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        let now = Instant::now();
        let resting = (!self.unread.is_empty()).then(|| now + REST);
        let due = self.due();
        match [resting, due, self.next_poll].into_iter().flatten().min() {
            Some(until) => self.receive.recv_timeout(until.saturating_duration_since(now)),
            None => self.receive.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn debounce(&self) -> Duration {
        self.followed.as_ref().map_or(Duration::ZERO, |followed| followed.watching.debounce)
    }

    fn due(&self) -> Option<Instant> {
        let due = self.pending.due(self.debounce())?;
        Some(self.locked_until.map_or(due, |until| until.max(due)))
    }

    /// Whether the batch is complete.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        let too_long = self.pending.first().is_some_and(|first| now >= first + LONGEST);
        let locked = !too_long
            && self.ignores.locks().any(|lock| {
                let age = fs::metadata(lock).and_then(|lock| lock.modified()).ok().map(|at| at.elapsed());
                // A time that is not past yet is no old one.
                age.is_some_and(|age| age.map_or(true, |age| age < STALE_LOCK))
            });
        if locked {
            self.locked_until = Some(now + self.debounce().max(Duration::from_millis(10)));
            return false;
        }
        true
    }

    fn say(&mut self, text: String) {
        match self.said.len().cmp(&MOST_SAID) {
            Ordering::Less => {}
            Ordering::Equal => {
                let more = "there is more that is not seen of what is watched".to_owned();
                self.said.insert(more.clone());
                return (self.sink)(News::Notice { service: None, text: more });
            }
            Ordering::Greater => return,
        }
        if self.said.insert(text.clone()) {
            (self.sink)(News::Notice { service: None, text });
        }
    }

    fn summary(&self) -> Summary {
        let of_trees: usize = self.directories.values().map(|directory| directory.files.len()).sum();
        Summary {
            directories: self.directories.len(),
            files: of_trees + self.singles.values().flatten().count(),
            polling: self.polls(),
        }
    }

    fn hear(&mut self, message: Message, lost: &mut bool) {
        match message {
            Message::Told(era, told) if self.watched.is_of_now(era) => match told {
                Told::Lost => *lost = true,
                Told::Touched(path) => self.told(&path, false),
                Told::Appeared(path) | Told::Gone(path) => self.told(&path, true),
            },
            Message::Told(..) => {}
            Message::Follow(plan, plan_files) => self.follow(&plan, plan_files),
            Message::Settle(asked) => self.asked.push(asked),
            // Whoever receives messages looks for it first.
            Message::Stop => {}
        }
    }

    /// Something is told of a path. `other`: what is there may be another thing than before.
    fn told(&mut self, path: &Path, other: bool) {
        for path in self.watched.names(path) {
            self.told_of(path, other);
        }
    }

    fn told_of(&mut self, path: PathBuf, other: bool) {
        if self.awaited.contains(&path) {
            self.pending.file(path.clone(), &self.leash);
            if other {
                self.anchor_again(&path);
            }
        }
        if self.deciders.contains_key(&path) {
            self.pending.ignores = true;
            self.pending.touch(false);
        }
        if other {
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            if is_directory || self.directories.contains_key(&path) {
                self.directory_appeared(&path);
            }
        } else if self.directories.contains_key(&path) {
            // Its own times and mode.
            return;
        }
        if self.pending.paths.contains_key(&path) {
            return self.pending.touch_one(false, self.leash.is_written(&path));
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return };
        let Some(directory) = self.directories.get(above) else { return };
        if name == GITIGNORE {
            self.pending.ignores = true;
            self.pending.touch(false);
        }
        if directory.files.contains_key(name) || self.rules.sets.means(&directory.place, &path, &self.ignores)
        {
            self.pending.file(path, &self.leash);
        }
    }

    /// A directory that is known is gone, or one is there that may be another.
    fn directory_appeared(&mut self, path: &Path) {
        let known = self.directories.contains_key(path);
        let leads_here = path.parent().and_then(|above| self.directories.get(above)).is_some_and(|above| {
            above.standing && self.rules.sets.below(&above.place, path, &mut self.ignores).is_some()
        });
        if known || leads_here {
            self.walk(&[path.into()], &mut Fresh::All, true);
            self.anchor();
        }
    }

    /// What is watched below a path may not be what is there now.
    fn anchor_again(&mut self, path: &Path) {
        let stale: Vec<PathBuf> =
            self.anchors.iter().filter(|anchor| anchor.starts_with(path)).cloned().collect();
        for anchor in stale {
            self.anchors.remove(&anchor);
            // Where it is a part of a tree, that sees to it.
            if !self.directories.contains_key(&anchor) {
                self.watched.unwatch(&anchor);
            }
        }
        self.anchor();
    }

    /// The kernel has lost something: everything is watched anew and compared.
    fn look_everywhere(&mut self) {
        if self.mode == Mode::Kernel {
            // What was moved while nobody told is watched under a name that it no longer has.
            self.watched.drop_all();
            self.anchors.clear();
        }
        for path in self.singles.keys().cloned().collect::<Vec<_>>() {
            self.pending.file(path, &self.leash);
        }
        self.pending.ignores = true;
        self.pending.touch(true);
        self.walk_all(&mut Fresh::All);
        self.anchor();
    }

    fn polls(&self) -> bool {
        matches!(self.mode, Mode::Poll(_))
            || (self.mode == Mode::Kernel && self.trees.values().any(|tree| self.is_polled(tree)))
    }

    fn is_polled(&self, tree: &Tree) -> bool {
        let never = self.followed.as_ref().is_some_and(|followed| followed.watching.poll == Poll::Never);
        tree.blind.is_some() && !never
    }

    /// Whether a path is to be watched by the kernel.
    fn is_told(&self, path: &Path) -> bool {
        self.mode == Mode::Kernel
            && !self.trees.iter().any(|(top, tree)| path.starts_with(top) && self.is_polled(tree))
    }

    fn poll(&mut self) {
        let tops: Vec<PathBuf> = match self.mode {
            Mode::Poll(_) => self.trees.keys().cloned().collect(),
            Mode::Kernel => {
                let polled = self.trees.iter().filter(|(_, tree)| self.is_polled(tree));
                polled.map(|(top, _)| top.clone()).collect()
            }
            Mode::Nothing => Vec::new(),
        };
        let deciders = self.ignores.sources().into_iter().chain(self.deciders.keys().cloned());
        let deciders: BTreeMap<PathBuf, Option<Stamp>> = deciders
            .map(|path| {
                let stamp = stamp(&path);
                (path, stamp)
            })
            .collect();
        if deciders.iter().any(|(path, stamp)| self.deciders.get(path).is_some_and(|before| before != stamp))
        {
            self.pending.ignores = true;
            self.pending.touch(true);
        }
        self.deciders.extend(deciders);
        self.find_tops();
        self.walk(&tops, &mut Fresh::All, false);
        for (path, known) in &self.singles {
            let now = self.contents.look(path, self.leash.follows(path), LARGE).ok().flatten();
            let same = match (known, &now) {
                (None, None) => true,
                (Some(known), Some(now)) => !known.differs(now),
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                self.pending.found(
                    path.clone(),
                    Some(now.map_or(Stamp::NOTHING, |now| now.stamp)),
                    &self.leash,
                );
            }
        }
        let every = match self.mode {
            Mode::Poll(every) => every,
            Mode::Kernel | Mode::Nothing => POLL,
        };
        self.next_poll = self.polls().then(|| Instant::now() + every);
    }

    fn follow(&mut self, plan: &Plan, mut plan_files: Vec<PathBuf>) {
        plan_files.sort();
        plan_files.dedup();
        let rules = plan.services.values().filter(|unit| !unit.watch.is_empty());
        let followed = Followed {
            root: plan.root.clone(),
            watching: plan.watching.clone(),
            rules: rules.map(|unit| (unit.name.clone(), unit.watch.clone())).collect(),
            plan_files,
            leash: Leash::of(plan),
        };
        if self.followed.as_ref() == Some(&followed) {
            return;
        }
        let (rules, problems) = Rules::of(plan);
        let mut tops: Vec<PathBuf> = rules.sets.roots().map(Into::into).collect();
        tops.push(plan.root.clone());
        let ignores =
            Ignores::new(tops, plan.watching.gitignore, self.user_ignores).with_plan(&followed.plan_files);
        self.leash = followed.leash.clone();
        let ignores = ignores.with_leash(self.leash.clone());
        let before = self.followed.is_some();
        let old_rules = std::mem::replace(&mut self.rules, rules);
        let mut old_ignores = std::mem::replace(&mut self.ignores, ignores);

        let singles: BTreeSet<PathBuf> =
            self.rules.sets.named().map(Into::into).chain(followed.plan_files.iter().cloned()).collect();
        self.singles.retain(|path, _| singles.contains(path));
        let new = followed.plan_files.iter().any(|path| !self.singles.contains_key(path));
        let mode = match plan.watching.poll {
            Poll::Every(every) => Mode::Poll(every.max(Duration::from_millis(10))),
            Poll::Auto | Poll::Never => Mode::Kernel,
        };
        if mode != self.mode {
            self.watched.drop_all();
            self.anchors.clear();
            self.mode = mode;
        }
        self.followed = Some(followed);
        for problem in problems {
            self.say(problem);
        }
        self.trees.retain(|top, _| self.rules.sets.roots().any(|root| root == top));
        for root in self.rules.sets.roots() {
            self.trees.entry(root.into()).or_insert(Tree { top: Top::Unknown, blind: None });
        }
        for tree in self.trees.values_mut() {
            tree.top = Top::Unknown;
        }
        self.look_at_tops();
        // Watched first, then looked at.
        self.anchor();
        for path in singles {
            if !self.singles.contains_key(&path) {
                let seen = self.contents.look(&path, self.leash.follows(&path), LARGE);
                let known = seen.ok().flatten().map(Known::from_seen);
                self.singles.insert(path, known);
            }
        }
        if new {
            // They were read before, and nobody looked in between.
            (self.sink)(News::PlanFiles { changed: Vec::new() });
        }
        if before {
            self.walk_all(&mut Fresh::MeantBefore(&old_rules, &mut old_ignores));
        } else {
            self.walk_all(&mut Fresh::MeantBefore(&Rules::default(), &mut old_ignores));
        }
        self.anchor();
        self.watched.tidy();
        self.next_poll = match self.mode {
            Mode::Poll(every) => Some(Instant::now() + every),
            Mode::Kernel | Mode::Nothing => self.polls().then(|| Instant::now() + POLL),
        };
    }

    /// Looks at what is at the top of each tree; says which are others than before.
    fn look_at_tops(&mut self) -> Vec<PathBuf> {
        let mut others = Vec::new();
        let mut notices = Vec::new();
        for (path, tree) in &mut self.trees {
            let directory = fs::metadata(path).ok().filter(fs::Metadata::is_dir);
            let top = match directory.and_then(|metadata| Some((self.leash.real(path)?, metadata))) {
                Some((real, metadata)) => {
                    Top::Directory { real, device: metadata.dev(), inode: metadata.ino() }
                }
                None => Top::Absent,
            };
            if top == tree.top {
                continue;
            }
            tree.blind = match &top {
                Top::Directory { real, .. } => self.watched.blind(real),
                Top::Unknown | Top::Absent => path
                    .ancestors()
                    .skip(1)
                    .find(|above| above.exists())
                    .and_then(|above| self.watched.blind(above)),
            };
            if let Some(kind) = tree.blind {
                notices.push((path.clone(), kind));
            }
            tree.top = top;
            others.push(path.clone());
        }
        let poll = self.followed.as_ref().map(|followed| followed.watching.poll);
        for (path, kind) in notices {
            match poll {
                Some(Poll::Auto) => self.say(format!(
                    "{} is on a file system ({kind}) where changes that are made elsewhere are not told: it is \
                     looked at every second",
                    path.display()
                )),
                Some(Poll::Never) => self.say(format!(
                    "{} is on a file system ({kind}) where changes that are made elsewhere are not told, and \
                     `poll` is `never`: they are not seen",
                    path.display()
                )),
                Some(Poll::Every(_)) | None => {}
            }
        }
        others
    }

    /// Walks trees whose top is another than before.
    fn find_tops(&mut self) {
        // What appears may lead to more that was awaited; a link that leads to itself does not go on for ever.
        for _ in 0..8 {
            let others = self.look_at_tops();
            if others.is_empty() {
                return;
            }
            self.walk(&others, &mut Fresh::All, true);
            self.anchor();
        }
    }

    fn walk_all(&mut self, fresh: &mut Fresh<'_>) {
        let tops: Vec<PathBuf> = self.trees.keys().cloned().collect();
        let old = std::mem::take(&mut self.directories);
        self.walk_from(&tops, old, fresh, false);
    }

    /// Watches and lists these directories and all that is meant below them, and compares with what is known. `again`:
    /// other directories may have taken their places.
    fn walk(&mut self, starts: &[PathBuf], fresh: &mut Fresh<'_>, again: bool) {
        let mut old = BTreeMap::new();
        for start in starts {
            let below: Vec<PathBuf> = self
                .directories
                .range::<Path, _>((Bound::Included(start.as_path()), Bound::Unbounded))
                .take_while(|(path, _)| path.starts_with(start))
                .map(|(path, _)| path.clone())
                .collect();
            for path in below {
                if let Some(directory) = self.directories.remove(&path) {
                    old.insert(path, directory);
                }
            }
        }
        self.walk_from(starts, old, fresh, again);
    }

    fn walk_from(
        &mut self,
        starts: &[PathBuf],
        mut old: BTreeMap<PathBuf, Directory>,
        fresh: &mut Fresh<'_>,
        again: bool,
    ) {
        let mut troubles = Vec::new();
        self.count = self.directories.values().map(|directory| directory.files.len()).sum();
        for start in starts {
            if self.directories.contains_key(start) || !fs::metadata(start).is_ok_and(|there| there.is_dir())
            {
                continue;
            }
            let is_link = fs::symlink_metadata(start).is_ok_and(|there| there.is_symlink());
            let above = start.parent().filter(|_| !is_link).and_then(|above| self.directories.get(above));
            let from_above = above
                .filter(|above| above.standing)
                .and_then(|above| self.rules.sets.below(&above.place, start, &mut self.ignores));
            let place = from_above.unwrap_or_else(|| self.rules.sets.at_root(start, &mut self.ignores));
            if place.active.is_empty() {
                continue;
            }
            let Some(real) = self.leash.real(start) else { continue };
            let mut stack = vec![(start.clone(), real, place)];
            while let Some((path, real, place)) = stack.pop() {
                if self.directories.contains_key(&path) {
                    continue;
                }
                if self.is_told(&path) {
                    match self.watched.watch(&path, &real, again) {
                        Ok(()) => {}
                        Err(Refused::Absent) => continue,
                        Err(Refused::Other(error)) => troubles.push(format!("{}: {error}", path.display())),
                        Err(limit) => self.give_up(limit),
                    }
                }
                if self.count > MOST_FILES {
                    let more = format!("{} (there are more than {MOST_FILES} files", path.display());
                    troubles.push(format!("{more}: leave some out with `ignore`)"));
                    self.watched.unwatch(&path);
                    break;
                }
                match self.list((&path, &real), place, old.remove(&path), fresh) {
                    Ok(below) => stack.extend(below),
                    Err(error) if crate::contents::is_absent(&error) => self.watched.unwatch(&path),
                    Err(error) => troubles.push(format!("{}: {error}", path.display())),
                }
            }
        }
        // What was known and was not come by: gone, or not meant any more.
        for (path, mut directory) in old {
            if !self.anchors.contains(&path) {
                self.watched.unwatch(&path);
            }
            directory.files.retain(|name, _| {
                let path = path.join(name);
                let meant = self.rules.mean(&path, &mut self.ignores);
                if meant {
                    self.pending.found(path, Some(Stamp::NOTHING), &self.leash);
                }
                meant
            });
            if !directory.files.is_empty() && !self.directories.contains_key(&path) {
                directory.standing = false;
                self.directories.insert(path, directory);
            }
        }
        self.tell_of_limits();
        for trouble in troubles {
            self.say(format!("changes are not seen in {trouble}"));
        }
    }

    /// Lists one directory and compares; says which directories are below it.
    fn list(
        &mut self,
        (path, real): (&Path, &Path),
        mut place: Place,
        old: Option<Directory>,
        fresh: &mut Fresh<'_>,
    ) -> io::Result<Vec<(PathBuf, PathBuf, Place)>> {
        let listing = self.rules.sets.list(path, real, &mut place, &mut self.ignores).inspect_err(|_| {
            // Its files are as good as gone.
            for name in old.iter().flat_map(|old| old.files.keys()) {
                self.pending.found(path.join(name), Some(Stamp::NOTHING), &self.leash);
            }
        });
        let mut known = old.map_or_else(BTreeMap::new, |old| old.files);
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                if !known.is_empty() {
                    let gone = Directory { place, files: known, standing: false };
                    self.directories.insert(path.into(), gone);
                }
                return Err(error);
            }
        };
        let mut files = BTreeMap::new();
        let mut unread = false;
        self.count += listing.files.len();
        for (name, metadata) in std::mem::take(&mut listing.files) {
            let stamp = Stamp::of(&metadata);
            if let Some(known) = known.remove(&name) {
                if known.stamp != stamp || (!known.settled && known.mark.is_some()) {
                    self.pending_if_other(path.join(&name), &known, stamp);
                }
                unread |= known.mark.is_none();
                files.insert(name, known);
                continue;
            }
            let file = path.join(&name);
            let is_new = match fresh {
                Fresh::All => true,
                Fresh::MeantBefore(rules, ignores) => {
                    self.pending.paths.contains_key(&file) || rules.mean(&file, ignores)
                }
            };
            if is_new {
                self.pending.found(file, Some(stamp), &self.leash);
            } else {
                let settled = is_settled(&metadata);
                files.insert(name, Known { stamp, settled, mark: None });
                unread = true;
            }
        }
        // What is not there any more, or not meant any more.
        for (name, known) in known {
            let file = path.join(&name);
            if self.rules.sets.means(&place, &file, &self.ignores) {
                self.pending.found(file, Some(Stamp::NOTHING), &self.leash);
                files.insert(name, known);
            }
        }
        if unread {
            self.unread.push_back(path.into());
        }
        self.directories.insert(path.into(), Directory { place, files, standing: true });
        Ok(listing.below(real))
    }

    fn pending_if_other(&mut self, path: PathBuf, known: &Known, stamp: Stamp) {
        if known.stamp == stamp {
            // So new when it was read that it may have changed since without a trace.
            match self.contents.look(&path, false, LARGE) {
                Ok(Some(seen)) if known.mark == Some(seen.mark) => return,
                Ok(_) | Err(_) => {}
            }
        }
        self.pending.found(path, Some(stamp), &self.leash);
    }

    /// There is no watcher to be had: no tree is watched in half.
    fn give_up(&mut self, refused: Refused) {
        self.watched.drop_all();
        self.anchors.clear();
        let never = self.followed.as_ref().is_some_and(|followed| followed.watching.poll == Poll::Never);
        self.mode = if never { Mode::Nothing } else { Mode::Poll(POLL) };
        self.next_poll = (!never).then(|| Instant::now() + POLL);
        self.refused = Some(refused);
    }

    fn tell_of_limits(&mut self) {
        let Some(refused) = self.refused.take() else { return };
        let advice = advice(&refused, self.directories.len() + self.anchors.len());
        self.say(if self.mode == Mode::Nothing {
            format!("{advice}; no file is watched, because `poll` is `never`")
        } else {
            format!("{advice}; the files are looked at every second instead")
        });
    }

    /// Watches the directories where something may appear, by itself or as a link.
    fn anchor(&mut self) {
        let Some(followed) = &self.followed else { return };
        let root = followed.root.clone();
        let mut anchors = BTreeSet::new();
        let mut awaited = HashSet::new();
        for path in self.singles.keys().chain(self.trees.keys()).chain(&followed.plan_files) {
            await_path(path, &root, &mut anchors, &mut awaited);
        }
        for top in self.trees.keys() {
            for path in self.ignores.deciders(top) {
                // What is awaited in a directory that is not there says nothing.
                anchors.extend(path.parent().filter(|directory| directory.is_dir()).map(Into::into));
                self.deciders.entry(path).or_insert_with_key(|path| stamp(path));
            }
        }
        self.awaited = awaited;
        if self.mode != Mode::Kernel {
            return;
        }
        for gone in self.anchors.difference(&anchors).cloned().collect::<Vec<_>>() {
            if !self.directories.get(&gone).is_some_and(|directory| directory.standing) {
                self.watched.unwatch(&gone);
            }
        }
        let mut watched = BTreeSet::new();
        for anchor in anchors {
            if !self.is_told(&anchor) {
                continue;
            }
            let Ok(real) = fs::canonicalize(&anchor) else { continue };
            match self.watched.watch(&anchor, &real, !self.anchors.contains(&anchor)) {
                Ok(()) => {
                    watched.insert(anchor);
                }
                Err(Refused::Absent) => {}
                Err(Refused::Other(error)) => {
                    self.say(format!("changes are not seen in {}: {error}", anchor.display()));
                }
                Err(limit) => {
                    self.give_up(limit);
                    return self.tell_of_limits();
                }
            }
        }
        self.anchors = watched;
    }

    /// Reads files that were not read yet, for a while.
    fn read_some(&mut self) {
        let until = Instant::now() + READ;
        while let Some(path) = self.unread.pop_front() {
            let Some(directory) = self.directories.get_mut(&path) else { continue };
            for (name, known) in directory.files.iter_mut().filter(|(_, known)| known.mark.is_none()) {
                if Instant::now() >= until {
                    self.unread.push_front(path);
                    return;
                }
                let file = path.join(name);
                match self.contents.look(&file, false, LARGE) {
                    Ok(Some(seen)) if seen.stamp == known.stamp => *known = Known::from_seen(seen),
                    // It is another since it was listed.
                    Ok(seen) => {
                        self.pending.found(
                            file,
                            Some(seen.map_or(Stamp::NOTHING, |seen| seen.stamp)),
                            &self.leash,
                        );
                        // Whoever compares goes by the stamp.
                    }
                    Err(_) => known.mark = Some(Mark::Unreadable),
                }
            }
        }
    }

    /// It is quiet: compares and tells.
    fn finish_batch(&mut self) {
        self.locked_until = None;
        if self.pending.ignores {
            self.pending.ignores = false;
            let mut old = self.ignores.clone();
            self.ignores.forget();
            self.deciders.clear();
            let rules = self.rules.clone();
            self.walk_all(&mut Fresh::MeantBefore(&rules, &mut old));
            self.anchor();
        }
        self.find_tops();
        // A link may lead elsewhere now.
        self.anchor();
        let pending = std::mem::take(&mut self.pending);
        let mut changed = BTreeSet::new();
        for path in pending.paths.into_keys() {
            if self.is_other(&path) {
                changed.insert(path);
            }
        }
        for (path, known) in &mut self.singles {
            let seen = look(&self.contents, path, self.leash.follows(path));
            let is_other = match (&known, &seen) {
                (Some(known), Some(seen)) => known.differs(seen),
                (None, None) => false,
                (Some(_), None) | (None, Some(_)) => true,
            };
            *known = seen.map(Known::from_seen);
            if is_other {
                changed.insert(path.clone());
            }
        }
        self.tell(&changed);
    }

    /// Whether a file of a tree is another than was known; from now on it is known.
    fn is_other(&mut self, path: &Path) -> bool {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let Some(directory) = self.directories.get_mut(above) else { return false };
        if !self.rules.sets.means(&directory.place, path, &self.ignores) {
            directory.files.remove(name);
            return false;
        }
        let seen = look(&self.contents, path, false);
        if seen.is_some() && !directory.files.contains_key(name) {
            // It was told that not all are watched when they were listed.
            if self.count > MOST_FILES {
                return false;
            }
            self.count += 1;
        }
        let known = match &seen {
            Some(seen) => directory.files.insert(name.into(), Known::from_seen(*seen)),
            None => directory.files.remove(name),
        };
        if directory.files.is_empty() && !directory.standing {
            self.directories.remove(above);
        }
        match (known, seen) {
            (Some(known), Some(seen)) => known.differs(&seen),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    fn tell(&mut self, changed: &BTreeSet<PathBuf>) {
        let Some(followed) = &self.followed else { return };
        let plan_files: Vec<PathBuf> =
            followed.plan_files.iter().filter(|path| changed.contains(*path)).cloned().collect();
        let mut groups: BTreeMap<(usize, WatchAction), Trigger> = BTreeMap::new();
        for path in changed {
            let matches = self.rules.matches(path, &mut self.ignores);
            let name = || path.strip_prefix(&followed.root).unwrap_or(path).to_string_lossy().into_owned();
            for (unit, action) in matches {
                let trigger = groups.entry((unit, action)).or_default();
                if trigger.files.len() < NAMES {
                    trigger.files.push(name());
                } else {
                    trigger.more = trigger.more.saturating_add(1);
                }
            }
        }
        let changes: Vec<FileChange> = groups
            .into_iter()
            .map(|((unit, action), trigger)| FileChange {
                service: self.rules.units[unit].0.clone(),
                action,
                trigger,
            })
            .collect();
        if !plan_files.is_empty() {
            (self.sink)(News::PlanFiles { changed: plan_files });
        }
        if !changes.is_empty() {
            (self.sink)(News::Happened(Input::FilesChanged { changes }));
        }
    }
}

/// What is at a path now. What cannot be read is something as well.
fn look(contents: &Contents, path: &Path, follow: bool) -> Option<Seen> {
    let unreadable = |_| Some(Seen { stamp: Stamp::NOTHING, settled: false, mark: Mark::Unreadable });
    contents.look(path, follow, LARGE).unwrap_or_else(unreadable)
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// Which directories tell when something appears at a path or it becomes another thing, and of what they tell then.
fn await_path(path: &Path, root: &Path, anchors: &mut BTreeSet<PathBuf>, awaited: &mut HashSet<PathBuf>) {
    awaited.insert(path.into());
    let inside = path.starts_with(root);
    let there = fs::symlink_metadata(path);
    // A directory tells itself when it goes. Between it and the project, each directory on the way may be replaced.
    if !(there.is_ok_and(|there| there.is_dir()) && (!inside || path == root)) {
        for above in path.ancestors().skip(1) {
            awaited.insert(above.into());
            let exists = above.is_dir();
            if exists {
                anchors.insert(above.into());
            }
            if exists && (!inside || above == root || !above.starts_with(root)) {
                break;
            }
        }
    }
    for link in links(path) {
        anchors.extend(link.parent().filter(|above| above.is_dir()).map(Into::into));
        awaited.insert(link);
    }
}

/// The symbolic links on the way to a path, and where they lead.
pub(crate) fn links(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut at = PathBuf::new();
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) if found.len() < 40 => {
                for part in target.components().rev() {
                    rest.push_front(part.as_os_str().to_owned());
                }
                found.push(next);
            }
            Ok(_) | Err(_) => at = next,
        }
    }
    if !found.is_empty() {
        found.push(at);
    }
    found
}
