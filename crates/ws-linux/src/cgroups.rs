//! The control groups of one workspace instance: a directory for the instance, one for each service.
//!
//! Decides nothing about limits: they come from the plan. What could not be had is told, so that the level
//! of enforcement is computed from what the kernel took. Everything here is found again by its name after
//! a crash ([`clear_leftovers`]), never by a process's number.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use ws_core::engine::Step;
use ws_core::host::Usage;
use ws_core::plan::{LimitsPlan, Plan};
use ws_model::{ByteSize, InstanceId, Level, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::cgroup::{self, Controller, Group, Layout, Limits, Tree};

/// How many processes a build may have: the default of a service, since a service's own limits never
/// apply to its build.
const BUILD_PIDS: u32 = 4096;
/// Launchers of a service among the processes of ours.
const LAUNCHERS: u64 = 1;
/// How long the kernel may take from its notice of an OOM to the count of what it killed.
const OOM_COUNTED_WITHIN: Duration = Duration::from_secs(2);
/// How often the count is looked at meanwhile.
const OOM_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Why control groups could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The instance's directories.
    #[error("could not make the control groups of `{instance}`")]
    Instance {
        /// Whose.
        instance: InstanceId,
        /// Why.
        source: cgroup::Error,
    },
    /// A service's directories.
    #[error("could not make the control group of `{service}`")]
    Service {
        /// Whose.
        service: ServiceName,
        /// Why.
        source: cgroup::Error,
    },
    /// A limit that the kernel offers and does not take or keep.
    #[error("could not limit `{service}`")]
    Limit {
        /// Whose.
        service: ServiceName,
        /// Why.
        source: cgroup::Error,
    },
    /// It uses more memory than it is to have.
    #[error("could not lower the memory limit of `{service}` to {limit}: it uses {used} now; stop it first")]
    MemoryInUse {
        /// Whose.
        service: ServiceName,
        /// What it is to have.
        limit: ByteSize,
        /// What it has and the kernel cannot take back.
        used: ByteSize,
    },
    /// A process could not be placed, killed or waited for.
    #[error("could not use a control group")]
    Use(#[source] cgroup::Error),
    /// The kernel's notification could not be waited for.
    #[error("could not wait for news of a control group")]
    Notice(#[source] std::io::Error),
}

/// What [`Cgroups::create`] needs beside the plan.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which controllers are mounted where.
    pub layout: Layout,
    /// The user, as the host counts, who is root in the workspace's user namespace and places processes
    /// with `CLONE_INTO_CGROUP`; `None`: the caller itself.
    pub owner: Option<u32>,
    /// How many processes of ours are in a service's group: added to its limit.
    pub own_processes: u32,
}

/// The control groups of an instance. Dropping it removes nothing: see [`Cgroups::clear`].
#[derive(Debug)]
pub struct Cgroups {
    tree: Tree,
    owner: Option<u32>,
    own_processes: u32,
    services: BTreeMap<ServiceName, Arc<ServiceGroup>>,
}

impl Cgroups {
    /// Makes the directories of the instance and of every service, and sets each service's limits, so that
    /// one that the kernel refuses is known before anything starts. What no controller can enforce is no
    /// error: see [`Cgroups::missing`].
    ///
    /// # Errors
    /// When a directory exists already (see [`clear_leftovers`]) or a usable controller refuses. Nothing is
    /// left then.
    pub fn create(instance: &InstanceId, plan: &Plan, config: &Config) -> Result<Self, Error> {
        Self::create_for(
            instance,
            plan.services.iter().map(|(name, service)| (name, &service.limits)),
            config,
        )
    }

    fn create_for<'a>(
        instance: &InstanceId,
        services: impl Iterator<Item = (&'a ServiceName, &'a LimitsPlan)>,
        config: &Config,
    ) -> Result<Self, Error> {
        let of_instance = |source| Error::Instance { instance: instance.clone(), source };
        let tree = Tree::create(&config.layout, &directory(instance)).map_err(of_instance)?;
        let (owner, own_processes) = (config.owner, config.own_processes);
        let mut cgroups = Self { tree, owner, own_processes, services: BTreeMap::new() };
        let fill = || -> Result<(), Error> {
            if let Some(uid) = config.owner {
                cgroups.tree.delegate_to(uid).map_err(of_instance)?;
            }
            services.into_iter().try_for_each(|(name, limits)| cgroups.add(name, limits).map(drop))
        };
        match fill() {
            Ok(()) => Ok(cgroups),
            Err(error) => {
                for left in cgroups.tree.remove(Duration::from_secs(1)) {
                    tracing::warn!(error = %phrase(&left), "a control group was left");
                }
                Err(error)
            }
        }
    }

    /// Makes the directories of a service and sets its limits.
    ///
    /// # Errors
    /// When there is such a service, or a usable controller refuses. Nothing of it is left then.
    pub fn add(&mut self, name: &ServiceName, limits: &LimitsPlan) -> Result<Arc<ServiceGroup>, Error> {
        let of_service = |source| Error::Service { service: name.clone(), source };
        let group = self.tree.add(name.as_str()).map_err(of_service)?;
        let own = u64::from(self.own_processes);
        let group = ServiceGroup {
            name: name.clone(),
            own,
            main: Mutex::new(Main { limits: main_limits(limits, own), runs: 1 }),
            build: Limits { pids: Some(u64::from(BUILD_PIDS) + own), ..Limits::default() },
            ours: if group.counts_launchers() { own } else { own.saturating_sub(LAUNCHERS) },
            oom_before: AtomicU64::new(0),
            group,
        };
        let delegate = || self.owner.map_or(Ok(()), |uid| group.group.delegate_to(uid)).map_err(of_service);
        match delegate().and_then(|()| group.enter(Step::Main)) {
            Ok(()) => {
                let group = Arc::new(group);
                self.services.insert(name.clone(), Arc::clone(&group));
                Ok(group)
            }
            Err(error) => {
                for left in group.clear(Duration::from_secs(1)) {
                    tracing::warn!(error = %left, "a control group was left");
                }
                Err(error)
            }
        }
    }

    /// Lets go of a service: its group is for the caller to [`clear`](ServiceGroup::clear), which takes a moment.
    pub fn take(&mut self, name: &ServiceName) -> Option<Arc<ServiceGroup>> {
        self.services.remove(name)
    }

    /// The group of a service of the plan.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceGroup>> {
        self.services.get(name)
    }

    /// The highest level that is possible with what control groups enforce: memory, processor time and
    /// number of processes are needed for *standard*.
    #[must_use]
    pub fn ceiling(&self) -> Level {
        let all = Controller::ALL.iter().all(|controller| self.tree.usable().has(*controller));
        if all { Level::Full } else { Level::Limited }
    }

    /// What is missing for a higher level than [`Cgroups::ceiling`], a phrase for each reason: "memory and
    /// pids limits: you may not make control groups here".
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for controller in Controller::ALL {
            let Some(why) = self.tree.usable().lacking(controller) else { continue };
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, controllers)) => controllers.push(controller.as_str()),
                None => reasons.push((why, vec![controller.as_str()])),
            }
        }
        let named = |controllers: Vec<&str>| match controllers.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => controllers.concat(),
        };
        reasons
            .into_iter()
            .map(|(why, controllers)| format!("{} limits: {why}", named(controllers)))
            .collect()
    }

    /// Whether a control group limits the number of processes; else a resource limit has to.
    #[must_use]
    pub fn limits_pids(&self) -> bool {
        self.tree.usable().has(Controller::Pids)
    }

    /// Whether a controller can be used here.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.tree.usable().has(controller)
    }

    /// Whether processor time is counted; `true` while there is no service to ask for.
    #[must_use]
    pub fn counts_time(&self) -> bool {
        self.services.values().next().is_none_or(|one| one.group.usage().cpu_usec.is_some())
    }

    /// Whether the kernel says when it refuses a process; `true` while there is no service to ask for.
    #[must_use]
    pub fn tells_pids(&self) -> bool {
        self.services.values().next().is_none_or(|one| one.group.pids_events().is_some())
    }

    /// Moves the spawner to where it may place processes into services' groups.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_spawner(&self, pid: u32) -> Result<(), Error> {
        self.tree.attach(pid).map_err(Error::Use)
    }

    /// What every service uses now.
    #[must_use]
    pub fn usage(&self) -> BTreeMap<ServiceName, Usage> {
        let usage = |group: &ServiceGroup| {
            let cgroup::Usage { memory_bytes, cpu_usec } = group.group.usage();
            Usage { memory_bytes, cpu_usec, pids: group.pids() }
        };
        self.services.iter().map(|(name, group)| (name.clone(), usage(group))).collect()
    }

    /// Kills every process of the instance, spawner and launchers included.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<(), Error> {
        self.tree.kill().map_err(Error::Use)
    }

    /// Removes every directory of the instance, with whatever processes are left in them; gives what could not be
    /// removed within `within` as sentences. Blocks; can be called again.
    ///
    /// Looking for processes in every directory costs more than everything else, so it is done only where one
    /// cannot be removed.
    #[must_use]
    pub fn clear(&self, within: Duration) -> Vec<String> {
        if self.tree.remove(Duration::ZERO).is_empty() {
            return Vec::new();
        }
        let killed = self.tree.kill().err();
        let left = self.tree.remove(within);
        // What was not killed and is gone all the same is no trouble.
        let killed = killed.iter().filter(|_| !left.is_empty());
        killed.chain(&left).map(phrase).collect()
    }
}

/// The limits of the program of a service.
#[derive(Debug)]
struct Main {
    /// Of one run.
    limits: Limits,
    /// How many runs share them now.
    runs: u64,
}

impl Main {
    /// What the group has. While two runs overlap, each may have what one may: else what one alone can do would be
    /// the end of both. Processor time is not given twice, since a lack of it ends nobody.
    fn of_all(&self) -> Limits {
        let Limits { memory, cpu_milli, pids } = self.limits;
        let times = |limit: Option<u64>| limit.map(|limit| limit.saturating_mul(self.runs));
        Limits { memory: times(memory), cpu_milli, pids: times(pids) }
    }
}

/// The group of a service: kept over its runs.
#[derive(Debug)]
pub struct ServiceGroup {
    name: ServiceName,
    group: Group,
    /// Processes of ours that are part of its limit.
    own: u64,
    main: Mutex<Main>,
    build: Limits,
    /// Processes of ours that the kernel counts in the group while a run is there.
    ours: u64,
    /// How many processes the kernel had killed for their memory when the present run began.
    oom_before: AtomicU64,
}

impl ServiceGroup {
    /// Prepares the group for a run: sets the limits of that step, and begins to count OOM kills for it.
    ///
    /// # Errors
    /// When the kernel refuses a limit: the run must not start.
    pub fn enter(&self, step: Step) -> Result<(), Error> {
        match step {
            Step::Main => self.share(1)?,
            Step::Build => {
                self.group.set(&self.build).map_err(|source| self.not_limited(source))?;
            }
        }
        self.oom_before.store(self.oom_kills(), Ordering::Release);
        Ok(())
    }

    /// Says how many runs of the program there are: the limits are those of each.
    ///
    /// # Errors
    /// When the kernel refuses a limit.
    pub fn share(&self, runs: u64) -> Result<(), Error> {
        let mut main = self.main();
        main.runs = runs;
        self.group.set(&main.of_all()).map(drop).map_err(|source| self.not_limited(source))
    }

    /// Changes the limits of the program, also of the one that runs.
    ///
    /// # Errors
    /// When the kernel refuses, or it uses more memory than it is to have (which on v2 would be its end). They are as
    /// they were then.
    pub fn change(&self, plan: &LimitsPlan) -> Result<(), Error> {
        let mut main = self.main();
        let changed = Main { limits: main_limits(plan, self.own), runs: main.runs };
        if changed.limits == main.limits {
            return Ok(());
        }
        let wanted = changed.of_all();
        let set = self.group.limits();
        if let (Some(limit), Some(used)) = (wanted.memory, self.group.memory_kept())
            && used > limit
            && set.memory.is_none_or(|before| limit < before)
        {
            let (limit, used) = (ByteSize(limit), ByteSize(used));
            return Err(Error::MemoryInUse { service: self.name.clone(), limit, used });
        }
        if let Err(source) = self.group.set(&wanted) {
            if let Err(error) = self.group.set(&set) {
                tracing::warn!(service = %self.name, error = %phrase(&error), "setting limits back");
            }
            return Err(self.not_limited(source));
        }
        *main = changed;
        Ok(())
    }

    fn main(&self) -> std::sync::MutexGuard<'_, Main> {
        // Every change is an assignment: a panic elsewhere leaves it whole.
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_limited(&self, source: cgroup::Error) -> Error {
        Error::Limit { service: self.name.clone(), source }
    }

    /// Processes and threads of the service itself; `None` where they are not counted.
    #[must_use]
    pub fn pids(&self) -> Option<u32> {
        let all = self.group.pids().ok().flatten()?;
        Some(u32::try_from(all.saturating_sub(self.ours)).unwrap_or(u32::MAX))
    }

    /// Removes the group's directories, as [`Cgroups::clear`] does those of the instance.
    #[must_use]
    pub fn clear(&self, within: Duration) -> Vec<String> {
        if self.group.remove(Duration::ZERO).is_empty() {
            return Vec::new();
        }
        let killed = self.group.kill().err();
        let left = self.group.remove(within);
        let killed = killed.iter().filter(|_| !left.is_empty());
        killed.chain(&left).map(phrase).collect()
    }

    /// How many processes the kernel has killed for lack of memory since the group was made.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.group.oom_kills().ok().flatten().unwrap_or(0)
    }

    /// How many processes the kernel has refused for the limit since the group was made.
    #[must_use]
    pub fn pids_refused(&self) -> u64 {
        self.group.pids_refused().ok().flatten().unwrap_or(0)
    }

    /// Whether the kernel has killed a process of the present run for lack of memory. True only after the
    /// process is dead: ask when it has exited.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.oom_kills() > self.oom_before.load(Ordering::Acquire)
    }

    /// The directory for `CLONE_INTO_CGROUP`; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn dir_fd(&self) -> Result<Option<OwnedFd>, Error> {
        self.group.v2_dir_fd().map_err(Error::Use)
    }

    /// Moves the service's launcher into the v1 directories. Call it for all services back to back: the
    /// first waits some 14 ms, those right after it do not.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_launcher(&self, pid: u32) -> Result<(), Error> {
        self.group.attach_launcher(pid).map_err(Error::Use)
    }

    /// Kills every process of the service, its init included and its launcher not.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<(), Error> {
        self.group.kill().map_err(Error::Use)
    }

    /// The group itself: counters, live change of limits, freeze.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Waits until no process of the service is left; `false` when that takes longer than `within`. At once
    /// `true` where it cannot be told (no cgroup v2).
    ///
    /// # Errors
    /// When the kernel's notification cannot be had.
    pub async fn emptied(&self, within: Duration) -> Result<bool, Error> {
        let populated = || Ok(self.group.populated().map_err(Error::Use)?.unwrap_or(false));
        if !populated()? {
            return Ok(true);
        }
        let Some(watch) = self.group.watch_events().map_err(Error::Use)? else { return Ok(true) };
        let events = readable(watch)?;
        let deadline = Instant::now() + within;
        // Looked at again after the watch is there, or the change in between would be missed.
        while populated()? {
            match tokio::time::timeout_at(deadline, drained(&events)).await {
                Ok(told) => told?,
                Err(_elapsed) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Kills the rest of the service whenever the kernel kills one of its processes for lack of memory, as
    /// v2 does by itself: half a service is worse than none. Calls `told` each time. Ends when the future is dropped; at
    /// once where the kernel does it or nothing is limited.
    ///
    /// # Errors
    /// When the kernel's notification cannot be had.
    pub async fn guard_oom(&self, told: impl Fn()) -> Result<(), Error> {
        if self.group.dies_as_a_whole() {
            return Ok(());
        }
        let Some(watch) = self.group.watch_oom().map_err(Error::Use)? else { return Ok(()) };
        let events = readable(watch)?;
        let mut seen = self.oom_kills();
        loop {
            drained(&events).await?;
            // The news comes before the count, and also when there is nothing to kill.
            let deadline = Instant::now() + OOM_COUNTED_WITHIN;
            while self.oom_kills() == seen && Instant::now() < deadline {
                tokio::time::sleep(OOM_LOOK_EVERY).await;
            }
            let now = self.oom_kills();
            if now > seen {
                seen = now;
                self.kill()?;
                told();
            }
        }
    }
}

fn readable(watch: cgroup::Watch) -> Result<Readable, Error> {
    Readable::new(watch.into_fd()).map_err(Error::Notice)
}

/// Waits for news and takes it.
async fn drained(events: &Readable) -> Result<(), Error> {
    let mut buffer = [0; 1024];
    let read = events.read_with(|fd| rustix::io::read(fd, &mut buffer).map_err(std::io::Error::from));
    read.await.map(drop).map_err(Error::Notice)
}

fn main_limits(plan: &LimitsPlan, own_processes: u64) -> Limits {
    Limits {
        memory: plan.memory.map(|size| size.0),
        cpu_milli: plan.cpus.map(|cpus| cpus.0),
        pids: Some(u64::from(plan.pids) + own_processes),
    }
}

/// The name of the instance's directory in every hierarchy.
fn directory(instance: &InstanceId) -> String {
    format!("ws.{instance}")
}

/// What [`clear_leftovers`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    /// The directories that were removed, with whatever ran in them.
    pub removed: Vec<PathBuf>,
    /// What could not be done, a sentence each.
    pub errors: Vec<String>,
}

/// Kills what a crashed supervisor of this instance left and removes every directory of it, in all
/// hierarchies. Blocks. The caller holds the instance's lock, so none of it is in use.
///
/// An instance of the same name in a container of this host has its lock elsewhere: it is known by its
/// processes, which are deeper in process namespaces than ours ever are, and left alone.
#[must_use]
pub fn clear_leftovers(instance: &InstanceId, layout: &Layout, within: Duration) -> Cleared {
    let mut cleared = Cleared::default();
    let found: Vec<_> = cgroup::find(layout, &directory(instance))
        .into_iter()
        .map(|dir| {
            let processes = cgroup::process_depths(&dir);
            let foreign = is_of_a_container(&dir, &processes);
            (dir, processes, foreign)
        })
        .collect();
    // Launchers of a container stand in its v2 directory too, and betray its v1 directories.
    let of_containers: BTreeSet<u32> = found
        .iter()
        .filter(|(.., foreign)| *foreign)
        .flat_map(|(_, all, _)| all.iter().map(|(pid, _)| *pid))
        .collect();
    for (dir, processes, foreign) in found {
        if foreign || processes.iter().any(|(pid, _)| of_containers.contains(pid)) {
            cleared.errors.push(format!("{} belongs to a container and was left", dir.display()));
            continue;
        }
        match cgroup::clear(&dir, within) {
            Ok(()) => cleared.removed.push(dir),
            Err(error) => cleared.errors.push(phrase(&error)),
        }
    }
    cleared
}

/// Ours are: spawner and launchers in our own process namespace, services one below.
fn is_of_a_container(dir: &Path, processes: &[(u32, usize)]) -> bool {
    let helpers = cgroup::process_depths(&dir.join(cgroup::HELPERS));
    processes.iter().any(|(_, depth)| *depth > 2) || helpers.iter().any(|(_, depth)| *depth > 1)
}

/// An error and its causes in one line.
fn phrase(error: &cgroup::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::AtomicU32;

    use ws_model::{ByteSize, MilliCpus, WorkspaceName};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn plain() -> LimitsPlan {
        LimitsPlan { memory: None, cpus: None, pids: 100, pids_declared: false, files: None }
    }

    fn config(layout: Layout) -> Config {
        Config { layout, owner: None, own_processes: 2 }
    }

    /// An instance with the services `api` and `db` that leaves nothing, however the test ends.
    struct Fixture {
        instance: InstanceId,
        config: Config,
        cgroups: Cgroups,
    }

    impl Fixture {
        /// `None` where control groups cannot be used; a failure where `WS_REQUIRE` has `cgroup`.
        fn new(api: LimitsPlan) -> Option<Self> {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let layout = Layout::of_this_process().unwrap();
            let usable = cgroup::detect_writable(&layout).unwrap();
            let mut lacks: Vec<_> = Controller::ALL.iter().filter_map(|c| usable.lacking(*c)).collect();
            lacks.extend(usable.no_v2());
            if !lacks.is_empty() {
                let required = std::env::var("WS_REQUIRE").unwrap_or_default();
                assert!(!required.split(',').any(|need| need == "cgroup"), "cgroup is required: {lacks:?}");
                return None;
            }
            let unique = format!("/{}/{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let instance = InstanceId::new(&WorkspaceName::new("test").unwrap(), Path::new(&unique), None);
            let config = config(layout);
            let limits = [(name("api"), api), (name("db"), plain())];
            let services = limits.iter().map(|(name, limits)| (name, limits));
            let cgroups = Cgroups::create_for(&instance, services, &config).unwrap();
            Some(Self { instance, config, cgroups })
        }

        fn api(&self) -> &Arc<ServiceGroup> {
            self.cgroups.service(&name("api")).unwrap()
        }

        fn left(&self) -> Vec<PathBuf> {
            cgroup::find(&self.config.layout, &directory(&self.instance))
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let errors = self.cgroups.clear(LONG);
            if !std::thread::panicking() {
                assert_eq!(errors, Vec::<String>::new());
                assert_eq!(self.left(), Vec::<PathBuf>::new());
            }
        }
    }

    /// Runs a script in the group, from its first line on.
    fn run_in(group: &ServiceGroup, script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read -r _; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        group.attach_launcher(child.id()).unwrap();
        group.group().attach(child.id()).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        child
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.expect("it takes too long")
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        soon(wait).await;
    }

    #[test]
    fn a_service_gets_its_limits_and_its_build_others() {
        let limits = LimitsPlan { memory: Some(ByteSize::mib(64)), cpus: Some(MilliCpus(500)), ..plain() };
        let Some(fixture) = Fixture::new(limits) else { return };
        let main = Limits { memory: Some(64 << 20), cpu_milli: Some(500), pids: Some(102) };
        assert_eq!(fixture.api().group().limits(), main);
        fixture.api().enter(Step::Build).unwrap();
        let build = Limits { memory: None, cpu_milli: None, pids: Some(4098) };
        assert_eq!(fixture.api().group().limits(), build);
        fixture.api().enter(Step::Main).unwrap();
        assert_eq!(fixture.api().group().limits(), main);
        assert_eq!((fixture.cgroups.ceiling(), fixture.cgroups.missing()), (Level::Full, vec![]));
        assert!(fixture.cgroups.limits_pids());
        assert!(fixture.api().dir_fd().unwrap().is_some());
        assert!(fixture.cgroups.service(&name("web")).is_none());
    }

    #[test]
    fn an_instance_is_made_once_and_a_failure_leaves_nothing() {
        let Some(fixture) = Fixture::new(plain()) else { return };
        let again = Cgroups::create_for(&fixture.instance, std::iter::empty(), &fixture.config).unwrap_err();
        let Error::Instance { source: cgroup::Error::Exists { .. }, .. } = again else { panic!("{again:?}") };
        assert!(fixture.api().dir_fd().unwrap().is_some(), "the first one is untouched");

        let instance = InstanceId::from_dir_name(&format!("{}-b", fixture.instance)).unwrap();
        let (api, limits) = (name("api"), plain());
        // The same name twice stands for any failure half-way.
        let twice = [(&api, &limits), (&api, &limits)].into_iter();
        let error = Cgroups::create_for(&instance, twice, &fixture.config).unwrap_err();
        assert!(matches!(error, Error::Service { .. }), "{error:?}");
        assert_eq!(cgroup::find(&fixture.config.layout, &directory(&instance)), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_service_comes_and_goes() {
        let Some(mut fixture) = Fixture::new(plain()) else { return };
        let late = name("late");
        for _ in 0..3 {
            let group = fixture.cgroups.add(&late, &plain()).unwrap();
            assert_eq!(group.group().limits().pids, Some(102));
            let again = fixture.cgroups.add(&late, &plain()).unwrap_err();
            assert!(matches!(again, Error::Service { .. }), "{again:?}");
            assert!(group.dir_fd().unwrap().is_some(), "the first one is untouched");
            let taken = fixture.cgroups.take(&late).unwrap();
            assert_eq!(taken.clear(LONG), Vec::<String>::new());
            assert!(taken.group().directories().iter().all(|dir| !dir.exists()));
            assert!(fixture.cgroups.service(&late).is_none() && fixture.cgroups.take(&late).is_none());
        }
    }

    #[tokio::test]
    async fn lack_of_memory_ends_the_whole_service_and_is_told_of_this_run_only() {
        let limits = LimitsPlan { memory: Some(ByteSize::mib(32)), ..plain() };
        let Some(fixture) = Fixture::new(limits) else { return };
        let api = Arc::clone(fixture.api());
        let guard = {
            let api = Arc::clone(&api);
            tokio::spawn(async move { api.guard_oom(|| {}).await })
        };
        // The guard is a task of this thread: it registers before anything else happens.
        tokio::task::yield_now().await;
        let mut child = run_in(&api, "setsid sleep 1000 & tail /dev/zero; sleep 1000");
        assert!(soon(api.emptied(LONG)).await.unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(api.oom_killed());
        assert_eq!(fixture.cgroups.service(&name("db")).unwrap().oom_kills(), 0);
        api.enter(Step::Main).unwrap();
        assert!(!api.oom_killed(), "a new run starts to count anew");
        assert!(api.oom_kills() >= 1);
        guard.abort();
    }

    #[tokio::test]
    async fn it_is_told_when_a_service_is_empty_and_when_it_stays() {
        let Some(fixture) = Fixture::new(plain()) else { return };
        assert!(fixture.api().emptied(Duration::ZERO).await.unwrap());
        assert_eq!(fixture.api().pids(), Some(0), "what is ours is not counted");
        let mut child = run_in(fixture.api(), "sleep 1000 & sleep 1000 & sleep 1000 & wait");
        let whole = fixture.api().ours;
        until(|| fixture.api().group().pids().unwrap() == Some(4)).await;
        assert_eq!(fixture.api().pids(), Some(u32::try_from(4 - whole).unwrap()));
        assert!(!fixture.api().emptied(Duration::from_millis(20)).await.unwrap());
        let usage = fixture.cgroups.usage();
        assert!(usage[&name("api")].memory_bytes.is_some_and(|bytes| bytes > 0), "{usage:?}");
        assert_eq!((usage[&name("api")].pids, usage[&name("db")].pids), (fixture.api().pids(), Some(0)));
        fixture.api().kill().unwrap();
        assert!(soon(fixture.api().emptied(LONG)).await.unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn leftovers_of_a_crash_are_cleared_by_name() {
        let Some(fixture) = Fixture::new(plain()) else { return };
        let mut child = run_in(fixture.api(), "setsid sleep 1000 & wait");
        let mut helper = Command::new("sleep").arg("1000").spawn().unwrap();
        fixture.cgroups.attach_spawner(helper.id()).unwrap();
        until(|| fixture.api().group().pids().unwrap() == Some(2)).await;
        let found = fixture.left();
        assert!(!found.is_empty());
        let cleared = clear_leftovers(&fixture.instance, &fixture.config.layout, LONG);
        assert_eq!(cleared, Cleared { removed: found, errors: vec![] });
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(helper.wait().unwrap().signal(), Some(9));
        assert_eq!(clear_leftovers(&fixture.instance, &fixture.config.layout, LONG), Cleared::default());
    }

    #[tokio::test]
    async fn an_instance_inside_of_a_container_is_left_alone() {
        let Some(fixture) = Fixture::new(plain()) else { return };
        // Its spawner is in a process namespace of the container.
        let mut container = Command::new("sh")
            .args(["-c", "read -r _; exec unshare --pid --fork --kill-child sleep 1000"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        fixture.cgroups.attach_spawner(container.id()).unwrap();
        fixture.api().attach_launcher(container.id()).unwrap();
        container.stdin.take().unwrap().write_all(b"\n").unwrap();
        let helpers = fixture.left()[0].join(cgroup::HELPERS);
        until(|| cgroup::process_depths(&helpers).iter().any(|(_, depth)| *depth == 2)).await;
        let cleared = clear_leftovers(&fixture.instance, &fixture.config.layout, LONG);
        assert_eq!((cleared.removed.len(), cleared.errors.len()), (0, fixture.left().len()), "{cleared:?}");
        assert!(cleared.errors.iter().all(|error| error.contains("belongs to a container")), "{cleared:?}");
        assert!(container.try_wait().unwrap().is_none());
        fixture.cgroups.kill().unwrap();
        container.wait().unwrap();
    }

    #[test]
    fn what_is_missing_is_told_for_each_kind_of_limit() {
        let instance = InstanceId::from_dir_name("test-none").unwrap();
        let limits = LimitsPlan { memory: Some(ByteSize::mib(1)), ..plain() };
        let api = name("api");
        let config = config(Layout::detect("", "", |_| String::new()));
        let cgroups = Cgroups::create_for(&instance, [(&api, &limits)].into_iter(), &config).unwrap();
        assert_eq!(cgroups.ceiling(), Level::Limited);
        assert!(!cgroups.limits_pids());
        let phrases = ["memory", "cpu", "pids"].map(|kind| format!("{kind} limits: no {kind} controller"));
        assert_eq!(cgroups.missing(), phrases);
        assert_eq!(cgroups.usage(), BTreeMap::from([(api.clone(), Usage::default())]));
        let group = cgroups.service(&api).unwrap();
        assert_eq!(
            (group.oom_kills(), group.oom_killed(), group.dir_fd().unwrap().is_none()),
            (0, false, true)
        );
        assert_eq!(cgroups.clear(LONG), Vec::<String>::new());
    }
}
