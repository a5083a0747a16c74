//! One group: its limits, counters and processes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::tree::{attach, give_procs, open_dir};
use super::{Controller, Error, Limits, Result, Throttling, Usage, Watch, files, leftover, v1, v2, watch};

/// Where a limit is set and counted.
#[derive(Debug, Clone)]
pub(super) enum Backend {
    V1(PathBuf),
    V2(PathBuf),
}

/// One group of processes: a directory in the v2 hierarchy and one in each v1 hierarchy in use.
///
/// Dropping it removes nothing.
#[derive(Debug)]
pub struct Group {
    v2: Option<PathBuf>,
    v1: Vec<PathBuf>,
    backends: BTreeMap<Controller, Backend>,
    cpuacct: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is set: a new group has no limits.
    limits: Limits,
    /// Processes that only make others: spared by [`Group::kill`] where v1 has them among the rest.
    launchers: Vec<u32>,
}

impl Group {
    pub(super) fn new(
        v2: Option<PathBuf>,
        v1: Vec<PathBuf>,
        backends: BTreeMap<Controller, Backend>,
        cpuacct: Option<PathBuf>,
    ) -> Self {
        Self { v2, v1, backends, cpuacct, state: Mutex::default() }
    }

    /// Sets the limits, at any time, and reads each back. Gives the controllers for which a limit was
    /// asked and none could be set because they cannot be used here.
    ///
    /// # Errors
    /// When a usable controller does not take or keep a limit; those before it are set.
    pub fn set(&self, limits: &Limits) -> Result<Vec<Controller>> {
        let mut state = self.lock();
        let mut lacking = Vec::new();
        for controller in Controller::ALL {
            let Some(backend) = self.backends.get(&controller) else {
                if limits.has(controller) {
                    lacking.push(controller);
                }
                continue;
            };
            match controller {
                Controller::Memory if state.limits.memory != limits.memory => {
                    match backend {
                        Backend::V1(dir) => v1::set_memory(dir, limits.memory)?,
                        Backend::V2(dir) => v2::set_memory(dir, limits.memory)?,
                    }
                    state.limits.memory = limits.memory;
                }
                Controller::Cpu if state.limits.cpu_milli != limits.cpu_milli => {
                    match backend {
                        Backend::V1(dir) => v1::set_cpu(dir, limits.cpu_milli)?,
                        Backend::V2(dir) => v2::set_cpu(dir, limits.cpu_milli)?,
                    }
                    state.limits.cpu_milli = limits.cpu_milli;
                }
                Controller::Pids if state.limits.pids != limits.pids => {
                    match backend {
                        Backend::V1(dir) => v1::set_pids(dir, limits.pids)?,
                        Backend::V2(dir) => v2::set_pids(dir, limits.pids)?,
                    }
                    state.limits.pids = limits.pids;
                }
                Controller::Memory | Controller::Cpu | Controller::Pids => {}
            }
        }
        Ok(lacking)
    }

    /// The limits that are set.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// What the group uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let memory_bytes = match self.backends.get(&Controller::Memory) {
            Some(Backend::V1(dir)) => files::read_number(dir, "memory.usage_in_bytes").ok(),
            Some(Backend::V2(dir)) => files::read_number(dir, "memory.current").ok(),
            None => None,
        };
        let cpu_usec = match (&self.v2, &self.cpuacct) {
            (Some(dir), _) => v2::cpu_usec(dir).ok(),
            (None, Some(dir)) => files::read_number(dir, "cpuacct.usage").ok().map(|nanos| nanos / 1000),
            (None, None) => None,
        };
        Usage { memory_bytes, cpu_usec }
    }

    /// The memory that the kernel cannot take back from the group (there is no swap): `None` where it is not counted.
    #[must_use]
    pub fn memory_kept(&self) -> Option<u64> {
        let (dir, own) = match self.backends.get(&Controller::Memory)? {
            Backend::V1(dir) => (dir, "rss"),
            Backend::V2(dir) => (dir, "anon"),
        };
        let text = files::read(dir, "memory.stat").ok()?;
        // Where shared memory is not counted apart, it is part of the cache.
        Some(files::keyed(&text, own)? + files::keyed(&text, "shmem").unwrap_or(0))
    }

    /// How many processes and threads are in the group; `None` where they are not counted.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn pids(&self) -> Result<Option<u64>> {
        match self.backends.get(&Controller::Pids) {
            Some(Backend::V1(dir) | Backend::V2(dir)) => files::read_number(dir, "pids.current").map(Some),
            None => Ok(None),
        }
    }

    /// Whether [`Group::pids`] counts launchers: they are in the group's v1 directories, and not in its v2 one.
    #[must_use]
    pub fn counts_launchers(&self) -> bool {
        matches!(self.backends.get(&Controller::Pids), Some(Backend::V1(_)))
    }

    /// How many processes of the group the kernel has killed for lack of memory; `None` where it is not
    /// counted. Read it after the exit of the process: the notification may come earlier.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        match self.backends.get(&Controller::Memory) {
            Some(Backend::V1(dir)) => v1::oom_kills(dir).map(Some),
            Some(Backend::V2(dir)) => v2::oom_kills(dir).map(Some),
            None => Ok(None),
        }
    }

    /// How many forks were refused for the limit; `None` where they are not counted.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn pids_refused(&self) -> Result<Option<u64>> {
        match self.backends.get(&Controller::Pids) {
            Some(Backend::V1(dir)) => v1::pids_refused(dir).map(Some),
            Some(Backend::V2(dir)) => v2::pids_refused(dir).map(Some),
            None => Ok(None),
        }
    }

    /// How often the group was held back by its processor limit; `None` where it is not counted.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn throttling(&self) -> Result<Option<Throttling>> {
        let (periods, usec) = match self.backends.get(&Controller::Cpu) {
            Some(Backend::V1(dir)) => {
                let (periods, nanos) = v1::throttled(dir)?;
                (periods, nanos / 1000)
            }
            Some(Backend::V2(dir)) => v2::throttled(dir)?,
            None => return Ok(None),
        };
        Ok(Some(Throttling { periods, usec }))
    }

    /// Whether the kernel kills the whole group when it runs out of memory (v2); on v1 it kills one process.
    #[must_use]
    pub fn dies_as_a_whole(&self) -> bool {
        matches!(self.backends.get(&Controller::Memory), Some(Backend::V2(_)))
    }

    /// A descriptor that becomes readable when the group ran out of memory; `None` where there is no
    /// memory controller. Compare [`Group::oom_kills`] then: it also does so when the group is removed.
    ///
    /// Where [`Group::dies_as_a_whole`] is false, the rest is for the caller to kill.
    ///
    /// # Errors
    /// When the kernel refuses the registration.
    pub fn watch_oom(&self) -> Result<Option<Watch>> {
        match self.backends.get(&Controller::Memory) {
            Some(Backend::V1(dir)) => Watch::of_v1_oom(dir).map(Some),
            Some(Backend::V2(dir)) => Watch::of_file(dir.join("memory.events")).map(Some),
            None => Ok(None),
        }
    }

    /// The file that the kernel modifies when [`Group::oom_kills`] grows (v2); `None` where it says so otherwise
    /// ([`Group::watch_oom`]) or not at all.
    #[must_use]
    pub fn memory_events(&self) -> Option<PathBuf> {
        self.of_v2(Controller::Memory, "memory.events")
    }

    /// The file that the kernel modifies when [`Group::pids_refused`] grows (v2). On v1 it says nothing.
    #[must_use]
    pub fn pids_events(&self) -> Option<PathBuf> {
        self.of_v2(Controller::Pids, "pids.events")
    }

    fn of_v2(&self, controller: Controller, file: &str) -> Option<PathBuf> {
        match self.backends.get(&controller) {
            Some(Backend::V2(dir)) => Some(dir.join(file)),
            Some(Backend::V1(_)) | None => None,
        }
    }

    /// A descriptor that becomes readable when [`Group::populated`] or the frozen state changed; `None`
    /// without a v2 directory.
    ///
    /// # Errors
    /// When the kernel refuses the registration.
    pub fn watch_events(&self) -> Result<Option<Watch>> {
        self.v2.as_ref().map(|dir| Watch::of_file(dir.join("cgroup.events"))).transpose()
    }

    /// Whether a process is in the v2 directory (launchers are not); `None` without one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn populated(&self) -> Result<Option<bool>> {
        self.v2.as_ref().map(|dir| v2::event_flag(dir, "populated")).transpose()
    }

    /// Blocks until no process is in the v2 directory. Nothing to wait for without one.
    ///
    /// # Errors
    /// [`Error::Populated`] when that takes longer than `within`.
    pub fn wait_empty(&self, within: Duration) -> Result<()> {
        let Some(dir) = &self.v2 else { return Ok(()) };
        wait_for(dir, "populated", false, within)
    }

    /// The v2 directory as a path descriptor, for `CLONE_INTO_CGROUP`; `None` without one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn v2_dir_fd(&self) -> Result<Option<OwnedFd>> {
        self.v2.as_deref().map(open_dir).transpose()
    }

    /// Gives `cgroup.procs` of the v2 directory to a user, so that a process in that user's namespace can
    /// place others there with `CLONE_INTO_CGROUP`. Nothing without a v2 directory.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub fn delegate_to(&self, uid: u32) -> Result<()> {
        self.v2.as_deref().map_or(Ok(()), |dir| give_procs(dir, uid))
    }

    /// Moves a process into the v2 directory, where it is counted (with v2 controllers) and killed with
    /// the group. Processes that are cloned into it need none of this.
    ///
    /// # Errors
    /// When the process cannot be moved.
    pub fn attach(&self, pid: u32) -> Result<()> {
        self.v2.as_deref().map_or(Ok(()), |dir| attach(dir, pid))
    }

    /// Moves a process that makes the group's processes into every v1 directory, so that they inherit
    /// its place. After an idle moment the first write waits for the kernel for some 14 ms, those right
    /// after it do not: attach launchers back to back.
    ///
    /// # Errors
    /// When the process cannot be moved.
    pub fn attach_launcher(&self, pid: u32) -> Result<()> {
        self.lock().launchers.push(pid);
        self.v1.iter().try_for_each(|dir| attach(dir, pid))
    }

    /// Kills every process of the group but its launchers, and those that are forked meanwhile.
    ///
    /// One by one, not by `cgroup.kill`: since Linux 6.14 a cgroup counts its kills, and who is cloned into it
    /// (`CLONE_INTO_CGROUP`) from a cgroup with another count is taken for one that a kill has missed, and killed at
    /// birth. The group could have no further process.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        if let Some(dir) = &self.v2 {
            return leftover::kill_each_below(dir, &[]);
        }
        let launchers = self.lock().launchers.clone();
        self.v1.first().map_or(Ok(()), |dir| leftover::kill_below(dir, &launchers))
    }

    /// Stops every process of the group where it is, or lets them go on, and waits until that is so.
    ///
    /// # Errors
    /// Without a v2 directory (on v1 a frozen process could not be killed), or when it takes longer than
    /// `within`.
    pub fn freeze(&self, frozen: bool, within: Duration) -> Result<()> {
        let Some(dir) = &self.v2 else { return Err(Error::NoV2 { what: "freeze" }) };
        files::write(dir, "cgroup.freeze", if frozen { "1" } else { "0" })?;
        wait_for(dir, "frozen", frozen, within)
    }

    /// Removes the group's directories, waiting for processes that are about to end for `within` in all.
    /// Goes on after an error and can be called again.
    #[must_use = "what could not be removed is told"]
    pub fn remove(&self, within: Duration) -> Vec<Error> {
        let deadline = Instant::now() + within;
        let dirs = self.v2.iter().chain(&self.v1);
        dirs.filter_map(|dir| leftover::remove_below(dir, deadline, within).err()).collect()
    }

    /// Every directory of the group.
    #[must_use]
    pub fn directories(&self) -> Vec<&Path> {
        self.v2.iter().chain(&self.v1).map(PathBuf::as_path).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change of the state is one assignment: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Waits until a flag of `cgroup.events` has this value.
pub(super) fn wait_for(dir: &Path, flag: &str, value: bool, within: Duration) -> Result<()> {
    if v2::event_flag(dir, flag)? == value {
        return Ok(());
    }
    let deadline = Instant::now() + within;
    let events = dir.join("cgroup.events");
    let watch = Watch::of_file(events.clone())?;
    // Looked at once more after the watch is there, or a change in between would be missed.
    while v2::event_flag(dir, flag)? != value {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Populated { path: dir.to_owned(), within });
        }
        let failed = |source| Error::Watch { path: events.clone(), source };
        watch::wait(&watch, left).map_err(failed)?;
        watch.drain().map_err(failed)?;
    }
    Ok(())
}
