//! Whether what a build made is still good, and what each unit uses of it.
//!
//! # When a build is fresh
//!
//! When it succeeded the last time, and what it is made of is the same: its recipe, and the names, contents, executable
//! bits and link targets of its inputs, as they were *before* that run. A file that changed while it ran makes the
//! record old, and so does a file of its own inputs that the build writes itself (a lock file): it runs once more, finds
//! nothing to do, and is fresh from then on.
//!
//! - With declared outputs, all of them must also be there, with the contents that it gave them.
//! - Where nobody knows what it makes (a `test` that is a task, a build without `outputs`), the same inputs are enough;
//!   but the program of each unit that uses it must be there, as far as it is a file of the project: so a cleared
//!   `target` is noticed in the common case.
//! - What it makes outside of the tree (rows of a database) nobody sees. Who throws volumes away has the records
//!   forgotten with them ([`forget`]).
//!
//! # Digests of what is used
//!
//! Of the files that a unit uses; so the service whose program a build left as it was is not restarted. Where nobody
//! knows which files these are, each success is a new one: then the digest is that of the record, and stays with it.
//!
//! # Costs
//!
//! Contents are read once and then known by what the kernel says of the file (`Contents`), across processes: a check of
//! fifty thousand unchanged files costs a walk.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ws_core::engine::{Generation, Input, Outputs};
use ws_core::files::{Digest, Moment, News, NewsSink};
use ws_core::plan::{FileSet, Plan, ServicePlan};
use ws_model::ServiceName;

use crate::contents::{Contents, Mark, is_absent, write_whole};
use crate::ignores::Ignores;
use crate::leash::Leash;
use crate::sets::{MOST_FILES, Sets};

/// Of the records, in the state directory.
const RECORDS: &str = "builds.json";
/// Of the contents by stamp, beside it.
pub(crate) const CONTENTS: &str = "contents";
/// Larger files are known by size and time only. Programs with debug information are large, and it is worth a second
/// to see that one of them is what it was.
const LARGE: u64 = 2 << 30;

/// Forgets what was made: everything is made anew the next time. For when what tasks have put into volumes is removed.
///
/// # Errors
/// When the records cannot be removed.
pub fn forget(state_dir: &Path) -> std::io::Result<()> {
    match fs::remove_file(state_dir.join(RECORDS)) {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// What is kept of builds that succeeded.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    version: u32,
    builds: BTreeMap<String, Record>,
}

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Of recipe and inputs, before the run.
    inputs: String,
    /// Of what it made, where that is known.
    outputs: Option<String>,
    /// Stands for what nobody knows.
    unique: String,
}

/// A question.
struct Job {
    plan: Arc<Plan>,
    plan_files: Arc<[PathBuf]>,
    service: ServiceName,
    generation: Generation,
    moment: Moment,
}

/// Answers one question after the other, on a thread that lives as long as there are some.
pub(crate) struct Prints {
    shared: Arc<Shared>,
}

struct Shared {
    state_dir: PathBuf,
    user_ignores: bool,
    contents: Arc<Contents>,
    sink: NewsSink,
    queue: Mutex<Queue>,
    /// Of the plan that the question is about that is being answered.
    leash: Mutex<Arc<Leash>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    works: bool,
    /// What inputs were when they were last looked at.
    before: HashMap<ServiceName, Digest>,
    ended: bool,
}

impl std::fmt::Debug for Prints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prints").field("state_dir", &self.shared.state_dir).finish_non_exhaustive()
    }
}

impl Prints {
    pub(crate) fn new(
        state_dir: PathBuf,
        user_ignores: bool,
        contents: Arc<Contents>,
        sink: NewsSink,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                state_dir,
                user_ignores,
                contents,
                sink,
                queue: Mutex::default(),
                leash: Mutex::default(),
            }),
        }
    }

    pub(crate) fn ask(
        &self,
        plan: Option<(Arc<Plan>, Arc<[PathBuf]>)>,
        service: &ServiceName,
        generation: Generation,
        moment: Moment,
    ) {
        let Some((plan, plan_files)) = plan else {
            let error = "it is of no plan".to_owned();
            return self.shared.answer(service, generation, moment, Err(error));
        };
        let job = Job { plan, plan_files, service: service.clone(), generation, moment };
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.push_back(job);
        if queue.works {
            return;
        }
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("ws-fingerprints".to_owned()).spawn(move || shared.work());
        queue.works = thread.is_ok();
        if let Err(error) = thread {
            let jobs = std::mem::take(&mut queue.jobs);
            drop(queue);
            for job in jobs {
                let error = format!("could not start a thread: {error}");
                self.shared.answer(&job.service, job.generation, job.moment, Err(error));
            }
        }
    }
}

impl Drop for Prints {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.clear();
        queue.ended = true;
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let job = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.jobs.pop_front()
            };
            if let Some(job) = job {
                self.carry_out(&job);
                continue;
            }
            if let Err(error) = self.contents.save(&self.state_dir.join(CONTENTS)) {
                tracing::debug!(%error, "what is in files is not kept");
            }
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.jobs.is_empty() {
                queue.works = false;
                return;
            }
        }
    }

    fn answer(
        &self,
        service: &ServiceName,
        generation: Generation,
        moment: Moment,
        result: Result<Option<Outputs>, String>,
    ) {
        let service = service.clone();
        (self.sink)(News::Happened(match moment {
            Moment::Before => Input::Checked { service, generation, result },
            Moment::After => {
                Input::Recorded { service, generation, result: result.map(Option::unwrap_or_default) }
            }
        }));
    }

    fn carry_out(&self, job: &Job) {
        let result = match job.plan.services.get(&job.service) {
            None => Err("it is not of the plan".to_owned()),
            Some(unit) => match job.moment {
                Moment::Before => self.before(job, unit),
                Moment::After => self.after(job, unit).map(Some),
            },
        };
        let ended = self.queue.lock().unwrap_or_else(PoisonError::into_inner).ended;
        if !ended {
            self.answer(&job.service, job.generation, job.moment, result);
        }
    }

    fn ignores(&self, job: &Job) -> Ignores {
        *self.leash.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Leash::of(&job.plan));
        let git = job.plan.watching.gitignore;
        Ignores::new(vec![job.plan.root.clone()], git, self.user_ignores).with_plan(&job.plan_files)
    }

    /// What decides whether it must run again, now. Without `makes` nothing does.
    fn inputs(&self, job: &Job, unit: &ServicePlan, ignores: &mut Ignores) -> Result<Option<Digest>, String> {
        let Some(makes) = &unit.makes else { return Ok(None) };
        let mut hash = Sha256::new();
        hash.update((makes.recipe.len() as u64).to_le_bytes());
        hash.update(makes.recipe.as_bytes());
        hash.update(self.digest(&makes.inputs, &job.plan.root, ignores)?.0);
        Ok(Some(Digest(hash.finalize().into())))
    }

    fn before(&self, job: &Job, unit: &ServicePlan) -> Result<Option<Outputs>, String> {
        let mut ignores = self.ignores(job);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).before.remove(&job.service);
        let Some(inputs) = self.inputs(job, unit, &mut ignores)? else { return Ok(None) };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).before.insert(job.service.clone(), inputs);
        let Some(record) = self.records().builds.remove(job.service.as_str()) else { return Ok(None) };
        if record.inputs != hex(inputs) {
            return Ok(None);
        }
        let outputs = unit.makes.as_ref().and_then(|makes| makes.outputs.as_ref());
        let whole = match (outputs, &record.outputs) {
            (Some(outputs), Some(recorded)) => {
                *recorded == hex(self.digest(outputs, &job.plan.root, &mut ignores)?) && are_there(outputs)
            }
            (None, None) => programs_are_there(&job.plan, &job.service),
            // It was not known then what is known now, or the other way round.
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !whole {
            return Ok(None);
        }
        self.uses(job, &record, &mut ignores).map(Some)
    }

    fn after(&self, job: &Job, unit: &ServicePlan) -> Result<Outputs, String> {
        let mut ignores = self.ignores(job);
        let inputs = self.queue.lock().unwrap_or_else(PoisonError::into_inner).before.remove(&job.service);
        let outputs = unit.makes.as_ref().and_then(|makes| makes.outputs.as_ref());
        let outputs =
            outputs.map(|outputs| self.digest(outputs, &job.plan.root, &mut ignores)).transpose()?;
        let record = Record {
            inputs: inputs.map_or_else(String::new, hex),
            outputs: outputs.map(hex),
            unique: hex(unique(&job.service, job.generation)),
        };
        let used = self.uses(job, &record, &mut ignores)?;
        let mut records = self.records();
        if inputs.is_some() {
            records.builds.insert(job.service.as_str().to_owned(), record);
        } else {
            // Nobody knows what it was made of.
            records.builds.remove(job.service.as_str());
        }
        let text = serde_json::to_vec_pretty(&records).map_err(|error| error.to_string())?;
        let file = self.state_dir.join(RECORDS);
        let written = fs::create_dir_all(&self.state_dir).and_then(|()| write_whole(&file, &text));
        if let Err(error) = written {
            // It is as good as before; only the next `up` does not know.
            let text = format!("what it made cannot be recorded in {}: {error}", file.display());
            (self.sink)(News::Notice { service: Some(job.service.clone()), text });
        }
        Ok(used)
    }

    /// What is recorded. Nothing when it cannot be read, or another version of `ws` wrote it.
    fn records(&self) -> Records {
        let file = self.state_dir.join(RECORDS);
        let read = fs::metadata(&file).is_ok_and(|it| it.is_file()).then(|| fs::read(&file).ok()).flatten();
        let records = read.and_then(|text| serde_json::from_slice::<Records>(&text).ok());
        let empty = Records { version: VERSION, builds: BTreeMap::new() };
        records.filter(|records| records.version == VERSION).unwrap_or(empty)
    }

    /// What each unit uses of what a build made.
    fn uses(&self, job: &Job, record: &Record, ignores: &mut Ignores) -> Result<Outputs, String> {
        let mut digests = Outputs::new();
        for unit in job.plan.services.values() {
            let of_it: Vec<_> = unit.uses.iter().filter(|used| used.build == job.service).collect();
            if of_it.is_empty() {
                continue;
            }
            let mut hash = Sha256::new();
            for used in of_it {
                match &used.files {
                    Some(files) => hash.update(self.digest(files, &job.plan.root, ignores)?.0),
                    None => hash.update(record.unique.as_bytes()),
                }
            }
            digests.insert(unit.name.clone(), Digest(hash.finalize().into()));
        }
        Ok(digests)
    }

    /// A digest of the files of a set: their names, relative to the project, and what they are.
    fn digest(&self, files: &FileSet, root: &Path, ignores: &mut Ignores) -> Result<Digest, String> {
        let mut hash = Sha256::new();
        for (path, mark) in self.marks(files, ignores)? {
            let name = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            let (kind, contents) = match mark {
                Mark::File { contents, executable: false } => (0_u8, contents),
                Mark::File { contents, executable: true } => (1, contents),
                Mark::Link(target) => (2, target),
                Mark::Unreadable => return Err(format!("{} cannot be read", path.display())),
            };
            hash.update([kind]);
            hash.update(contents.to_le_bytes());
        }
        Ok(Digest(hash.finalize().into()))
    }

    fn marks(&self, files: &FileSet, ignores: &mut Ignores) -> Result<BTreeMap<PathBuf, Mark>, String> {
        let mut problems = Vec::new();
        let sets = Sets::one(files, &mut problems);
        if let Some(problem) = problems.pop() {
            return Err(problem);
        }
        let mut found = BTreeMap::new();
        let mut look = |path: PathBuf, follow: bool| -> Result<(), String> {
            match self.contents.look(&path, follow, LARGE) {
                Ok(Some(seen)) => drop(found.insert(path, seen.mark)),
                Ok(None) => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
            Ok(())
        };
        let leash = self.leash.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for file in walk(&sets, ignores, &leash)? {
            look(file, false)?;
        }
        // What is named as it is counts with what it leads to.
        for named in
            sets.named().filter(|named| !sets.sets[0].ignore.iter().any(|ignore| ignore.covers(named)))
        {
            look(named.into(), leash.follows(named))?;
        }
        Ok(found)
    }
}

/// The files of sets in trees.
fn walk(sets: &Sets, ignores: &mut Ignores, leash: &Leash) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for root in sets.roots() {
        if seen.contains(root) || !root.is_dir() {
            continue;
        }
        let Some(real) = leash.real(root) else { continue };
        let mut stack = vec![(root.to_path_buf(), real, sets.at_root(root, ignores))];
        while let Some((path, real, mut place)) = stack.pop() {
            if found.len() > MOST_FILES {
                return Err(format!("there are more than {MOST_FILES} files in {}", root.display()));
            }
            let mut listing = match sets.list(&path, &real, &mut place, ignores) {
                Ok(listing) => listing,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(format!("{}: {error}", path.display())),
            };
            if let Some((path, error)) = listing.errors.pop() {
                return Err(format!("{}: {error}", path.display()));
            }
            found.extend(std::mem::take(&mut listing.files).into_iter().map(|(name, _)| path.join(name)));
            stack.extend(listing.below(&real));
            seen.insert(path);
        }
    }
    Ok(found)
}

/// Whether everything that is named as it is is there.
fn are_there(files: &FileSet) -> bool {
    let sets = Sets::one(files, &mut Vec::new());
    sets.named().all(Path::exists)
}

/// Whether the programs of the units that use a build are there, as far as they are in the project.
fn programs_are_there(plan: &Plan, build: &ServiceName) -> bool {
    let users = plan.services.values().filter(|unit| unit.uses.iter().any(|used| used.build == *build));
    users.filter_map(|unit| unit.run.argv.first()).all(|program| {
        let program = Path::new(program);
        !program.starts_with(&plan.root) || program.exists()
    })
}

/// Another each time.
fn unique(service: &ServiceName, generation: Generation) -> Digest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(service.as_str().as_bytes());
    hash.update(generation.to_le_bytes());
    hash.update(now.as_nanos().to_le_bytes());
    Digest(hash.finalize().into())
}

fn hex(digest: Digest) -> String {
    use std::fmt::Write as _;
    digest.0.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
