//! [`LinuxHost`]: effects become requests to launchers and inits; what they say becomes inputs.
//!
//! One task per service owns everything of that service, so services never wait for each other. The host
//! makes no choice of its own: what to start, stop, probe or publish comes from the engine and the plan.

mod mounts;
mod notices;
mod service;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use ws_core::engine::{Effect, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Inbox, LogSink, Standing, TerminalDone, Usage};
use ws_core::plan::{Plan, ServicePlan};
use ws_model::wire::ExecResult;
use ws_model::{InstanceId, Level, SecretName, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::cgroup::Layout;
use ws_sys::process;

use crate::cgroups::{self, Cgroups};
use crate::net::{self, Network, NsRef, SocketSource};
use crate::publish::{self, Dial, Publisher};
use crate::sandbox::layout;
use crate::sandbox::protocol::{self, Failure, Reply, SocketKind, Stage, ToLauncher};
use crate::sandbox::spawner::{self, FIRST_HOST_ID, IDS, Spawner};
use crate::slots::Slot;
use mounts::Opener;
use service::{Command, Service};

/// Processes of ours in a service's cgroup: its launcher (v1) and its init.
const OWN_PROCESSES: u32 = 2;

/// The Landlock ABI from which signals and abstract sockets are scoped, which level *full* needs.
const FULL_LANDLOCK: u32 = 6;

/// How long removing cgroups may take after everything in them was killed.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

/// What the host needs beside the plan.
#[derive(Clone)]
pub struct HostConfig {
    /// The instance.
    pub instance: InstanceId,
    /// The instance's own state directory; its volumes lie below.
    pub state_dir: PathBuf,
    /// The values of the secrets that services use.
    pub secrets: BTreeMap<SecretName, Vec<u8>>,
}

impl std::fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values stay out of every log.
        let names: Vec<&SecretName> = self.secrets.keys().collect();
        f.debug_struct("HostConfig")
            .field("instance", &self.instance)
            .field("secrets", &names)
            .finish_non_exhaustive()
    }
}

/// Why the host could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A step of the sandbox.
    #[error("could not prepare `{service}`: {failure}")]
    Service {
        /// Whose.
        service: ServiceName,
        /// What failed.
        failure: Failure,
    },
    /// The process that keeps the namespaces.
    #[error("could not watch the spawner: {0}")]
    Spawner(Failure),
    /// The control groups.
    #[error("could not set up control groups")]
    Cgroups(#[from] cgroups::Error),
    /// The layout of control groups of this machine.
    #[error("could not find the control groups of this machine")]
    Layout(#[source] ws_sys::cgroup::Error),
    /// The private network.
    #[error("could not set up the private network")]
    Network(#[source] net::NetError),
    /// A published port.
    #[error("could not publish a port of `{service}`")]
    Publish {
        /// Whose.
        service: ServiceName,
        /// Why.
        source: publish::Error,
    },
    /// A volume's directory.
    #[error("could not make the volume directory {}", path.display())]
    Volume {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A secret whose value was not handed over: an empty one in its place would be a wrong one.
    #[error("the value of the secret `{0}` is missing")]
    SecretMissing(SecretName),
    /// A secret that is to be an environment variable and cannot be one.
    #[error("the secret `{0}` is not text, so it cannot be an environment variable; use it as a file")]
    SecretText(SecretName),
}

/// The host.
#[derive(Debug)]
pub struct LinuxHost {
    shared: Arc<Shared>,
    services: BTreeMap<ServiceName, mpsc::UnboundedSender<Command>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    standing: BTreeMap<ServiceName, Standing>,
    network: Option<Network>,
    spawner_watch: Option<tokio::task::JoinHandle<()>>,
}

/// What all services' tasks use.
struct Shared {
    plan: Plan,
    spawner: Spawner,
    cgroups: Mutex<Option<Cgroups>>,
    opener: Opener,
    rootless: Option<(u32, u32)>,
    volumes: PathBuf,
    pids_by_cgroup: bool,
    /// What every run's Landlock must enforce: 0 nothing, 1 partly, 2 fully.
    landlock: u8,
    inbox: Inbox,
    logs: Arc<dyn LogSink>,
    dial: Arc<dyn Dial>,
}

impl Shared {
    /// The service's user id on the host; `None`: the caller's own (rootless).
    fn host_uid(&self, service: &ServicePlan) -> Option<u32> {
        let slot = self.spawner.slot()?;
        Some(FIRST_HOST_ID + slot * IDS + layout::outer_ids(service, self.rootless).0)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("spawner", &self.spawner).finish_non_exhaustive()
    }
}

/// Sockets of the workspace come from the spawner.
#[derive(Debug)]
struct Sockets {
    spawner: Spawner,
    namespaces: BTreeMap<ServiceName, OwnedFd>,
}

impl Sockets {
    fn make(&self, kind: SocketKind, namespace: NsRef<'_>) -> io::Result<OwnedFd> {
        let namespace = match namespace {
            NsRef::Router => None,
            NsRef::Service(name) => Some(self.namespaces.get(name).ok_or(io::ErrorKind::NotFound)?),
        };
        self.spawner.socket(kind, namespace.map(AsFd::as_fd)).map_err(|failure| match failure.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(failure),
        })
    }
}

impl SocketSource for Sockets {
    fn netlink_route(&self, namespace: NsRef<'_>) -> io::Result<OwnedFd> {
        self.make(SocketKind::Route, namespace)
    }

    fn netlink_netfilter(&self, namespace: NsRef<'_>) -> io::Result<OwnedFd> {
        self.make(SocketKind::Netfilter, namespace)
    }
}

impl Dial for Sockets {
    fn tcp_socket(&self) -> io::Result<OwnedFd> {
        self.make(SocketKind::Tcp, NsRef::Router)
    }
}

fn router_sysctls() -> Vec<(String, String)> {
    net::SYSCTLS_ROUTER.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Forks the spawner of an instance; as root with an id range of its own, whose lock lies in `slots`.
///
/// The process must have one thread: this comes before the runtime.
///
/// # Errors
/// When this machine does not let the caller make user and network namespaces; the failure says why.
pub fn fork_spawner(slots: &Path) -> Result<Spawner, Failure> {
    let slot = match nix::unistd::geteuid().is_root() {
        true => Some(Slot::take(slots).stage(format!("taking an id range in {}", slots.display()))?),
        false => None,
    };
    spawner::fork(spawner::Options { router_sysctls: router_sysctls(), slot })
}

/// Clears what a supervisor of this instance that died has left: kills by cgroup, removes the cgroups. The
/// namespaces went with their processes. The caller holds the instance's lock. Says what it did.
#[must_use]
pub fn clear_leftovers(instance: &InstanceId) -> Vec<String> {
    let layout = match Layout::of_this_process() {
        Ok(layout) => layout,
        Err(error) => return vec![format!("could not look for leftovers: {error}")],
    };
    let cleared = cgroups::clear_leftovers(instance, &layout, REMOVE_WITHIN);
    let removed = cleared.removed.iter().map(|path| format!("removed {}", path.display()));
    removed.chain(cleared.errors).collect()
}

impl LinuxHost {
    /// Sets up everything that services keep across their runs: cgroups, launchers, the network, published
    /// ports. Starts no service. On an error nothing is left.
    ///
    /// # Errors
    /// The first thing that failed.
    pub async fn start(
        spawner: Spawner,
        plan: Plan,
        config: HostConfig,
        inbox: Inbox,
        logs: Arc<dyn LogSink>,
    ) -> Result<Self, StartError> {
        let layout = Layout::of_this_process().map_err(StartError::Layout)?;
        let owner = spawner.slot().map(|slot| FIRST_HOST_ID + slot * IDS);
        let groups_config = cgroups::Config { layout, owner, own_processes: OWN_PROCESSES };
        let groups = Cgroups::create(&config.instance, &plan, &groups_config)?;
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let rootless = spawner.slot().is_none().then_some(ids);
        let mut host = Self {
            standing: standing(&plan, &groups, rootless.is_some()),
            services: BTreeMap::new(),
            tasks: Vec::new(),
            network: None,
            spawner_watch: None,
            shared: Arc::new(Shared {
                opener: Opener::new(spawner.clone()),
                rootless,
                volumes: config.state_dir.join("volumes"),
                pids_by_cgroup: groups.limits_pids(),
                landlock: match ws_sys::landlock::abi() {
                    0 => 0,
                    abi if abi < FULL_LANDLOCK => 1,
                    _ => 2,
                },
                cgroups: Mutex::new(Some(groups)),
                inbox,
                logs,
                dial: Arc::new(Sockets { spawner: spawner.clone(), namespaces: BTreeMap::new() }),
                spawner,
                plan,
            }),
        };
        match host.set_up(&config).await {
            Ok(()) => Ok(host),
            Err(error) => {
                let (done, wait) = oneshot::channel();
                host.tear_down(Box::new(move |errors| {
                    let _ = done.send(errors);
                }));
                for left in wait.await.unwrap_or_default() {
                    tracing::warn!(error = %left, "tearing down after a failed start");
                }
                Err(error)
            }
        }
    }

    async fn set_up(&mut self, config: &HostConfig) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let secrets = secrets(&shared.plan, config)?;
        for name in &shared.plan.volumes {
            let path = shared.volumes.join(name.as_str());
            std::fs::create_dir_all(&path).map_err(|source| StartError::Volume { path, source })?;
        }
        let mut publishers = self.publish()?;
        let mut launchers = Vec::new();
        {
            let groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
            let groups = groups.as_ref().expect("they were made just now");
            groups.attach_spawner(shared.spawner.pid().cast_unsigned())?;
            for service in shared.plan.services.values() {
                let failed = |failure| StartError::Service { service: service.name.clone(), failure };
                launchers.push((service, shared.spawner.launcher().map_err(failed)?));
            }
            // Back to back: the first write to a v1 `cgroup.procs` after an idle moment takes 14 ms.
            for (service, (_, pidfd)) in &launchers {
                let pid = process::pid_of(pidfd.as_fd()).ok().flatten();
                if let (Some(pid), Some(group)) = (pid, groups.service(&service.name)) {
                    group.attach_launcher(pid)?;
                }
            }
        }
        // Ask all launchers, then hear from all: they build their templates at the same time.
        for (service, (channel, _)) in &launchers {
            let failed = |failure| StartError::Service { service: service.name.clone(), failure };
            let (template, sources) = layout::template(service, net::SYSCTLS_SERVICE);
            let mut mounts = Vec::new();
            for source in sources {
                mounts.push(shared.opener.open(source, None).map_err(failed)?);
            }
            let fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
            let request = ToLauncher::Prepare(template);
            protocol::send(channel.as_fd(), &request, &fds).stage("asking the launcher").map_err(failed)?;
        }
        let mut namespaces = BTreeMap::new();
        for (service, (channel, _)) in &launchers {
            let failed = |failure| StartError::Service { service: service.name.clone(), failure };
            let hear = "hearing from the launcher";
            let (reply, fds) = protocol::receive::<Reply>(channel).stage(hear).map_err(failed)?;
            let namespace = match reply {
                Reply::Done => fds.into_iter().next(),
                Reply::Failed(failure) => return Err(failed(failure)),
            };
            let namespace =
                namespace.ok_or_else(|| failed(Failure::because(hear, "its namespace is missing")))?;
            namespaces.insert(service.name.clone(), namespace);
        }
        let spawner = shared.spawner.clone();
        let plan = shared.plan.clone();
        let network = tokio::task::spawn_blocking(move || {
            let sockets = Sockets { spawner, namespaces };
            net::set_up(&sockets, &sockets.namespaces, &plan)
        });
        let network = network.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.network = Some(network.map_err(StartError::Network)?);

        for (service, (channel, pidfd)) in launchers {
            let failed = |failure| StartError::Service { service: service.name.clone(), failure };
            let group = {
                let groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
                groups.as_ref().and_then(|groups| groups.service(&service.name).cloned())
            };
            let secrets = secrets.get(&service.name).cloned().unwrap_or_default();
            let mut publishers = publishers.remove(&service.name).unwrap_or_default();
            for publisher in &mut publishers {
                publisher
                    .serve(Arc::clone(&shared.dial))
                    .stage("registering a published port")
                    .map_err(failed)?;
            }
            let (commands, inbox) = mpsc::unbounded_channel();
            let back = commands.downgrade();
            let shared = Arc::clone(&shared);
            let task =
                Service::new(shared, service.clone(), channel, pidfd, group, secrets, publishers, None, back)
                    .stage("registering the launcher")
                    .map_err(failed)?;
            self.tasks.push(tokio::spawn(task.run(inbox)));
            self.services.insert(service.name.clone(), commands);
        }
        self.watch_spawner()
    }

    /// Without the spawner nothing of the workspace can be reached or started any more.
    fn watch_spawner(&mut self) -> Result<(), StartError> {
        let ended = self.shared.spawner.pidfd().and_then(Readable::new);
        let ended = ended.stage("watching the spawner").map_err(StartError::Spawner)?;
        let inbox = Arc::clone(&self.shared.inbox);
        self.spawner_watch = Some(tokio::spawn(async move {
            if ended.readable().await.is_ok() {
                let error = "the process that keeps the workspace's namespaces was killed".to_owned();
                inbox(Input::HostLost { error });
            }
        }));
        Ok(())
    }

    /// Binds every published port, before anything starts: a port that is taken stops the start.
    fn publish(&self) -> Result<BTreeMap<ServiceName, Vec<Publisher>>, StartError> {
        let mut all = BTreeMap::new();
        for service in self.shared.plan.services.values() {
            let mut publishers = Vec::new();
            for publish in &service.publish {
                let target = SocketAddrV4::new(service.address, publish.port);
                let failed = |source| StartError::Publish { service: service.name.clone(), source };
                let (publisher, host_port) =
                    Publisher::bind(publish, &service.name, target).map_err(failed)?;
                (self.shared.inbox)(Input::Published {
                    service: service.name.clone(),
                    host: publish.host,
                    host_port,
                    port: publish.port,
                });
                publishers.push(publisher);
            }
            all.insert(service.name.clone(), publishers);
        }
        Ok(all)
    }

    fn tell(&self, service: &ServiceName, command: Command) {
        if let Some(task) = self.services.get(service) {
            // A task that has ended was torn down; nothing may be submitted then.
            let _ = task.send(command);
        }
    }
}

/// The secrets of a service: files with their places, variables with their names.
#[derive(Debug, Clone, Default)]
struct Secrets {
    files: Vec<(PathBuf, Vec<u8>)>,
    env: Vec<(String, String)>,
}

fn secrets(plan: &Plan, config: &HostConfig) -> Result<BTreeMap<ServiceName, Secrets>, StartError> {
    let mut all = BTreeMap::new();
    for service in plan.services.values() {
        let value = |name: &SecretName| {
            config.secrets.get(name).cloned().ok_or_else(|| StartError::SecretMissing(name.clone()))
        };
        let mut files = Vec::new();
        for (name, path) in &service.view.secret_files {
            files.push((path.clone(), value(name)?));
        }
        let mut env = Vec::new();
        for (name, variable) in &service.view.secret_env {
            let text = String::from_utf8(value(name)?).map_err(|_| StartError::SecretText(name.clone()))?;
            if text.contains('\0') {
                return Err(StartError::SecretText(name.clone()));
            }
            env.push((variable.clone(), text));
        }
        all.insert(service.name.clone(), Secrets { files, env });
    }
    Ok(all)
}

/// What is enforced for every service. Namespaces, the filter and the rules always are: without them nothing
/// starts. So the level follows from users, Landlock and control groups.
fn standing(plan: &Plan, groups: &Cgroups, rootless: bool) -> BTreeMap<ServiceName, Standing> {
    let mut level = groups.ceiling();
    let mut missing = groups.missing();
    let abi = ws_sys::landlock::abi();
    if abi < 1 {
        level = level.min(Level::Limited);
        missing.push("Landlock: this kernel has none".to_owned());
    } else if abi < FULL_LANDLOCK {
        level = level.min(Level::Standard);
        missing.push(format!(
            "Landlock scopes of signals and abstract sockets: this kernel has ABI {abi}, they need 6"
        ));
    }
    if rootless {
        level = level.min(Level::Standard);
        missing.push("distinct uids: every service runs as your own user".to_owned());
    }
    let standing = Standing { level, missing };
    plan.services.keys().map(|name| (name.clone(), standing.clone())).collect()
}

impl Host for LinuxHost {
    fn submit(&mut self, effect: Effect) {
        match effect {
            Effect::Start { service, generation, step } => {
                self.tell(&service, Command::Start { generation, step });
            }
            Effect::Signal { service, generation, signal } => {
                self.tell(&service, Command::Signal { generation, signal });
            }
            Effect::Kill { service, generation } => self.tell(&service, Command::Kill { generation }),
            Effect::StartProbe { service, generation, probe } => {
                self.tell(&service, Command::StartProbe { generation, probe });
            }
            Effect::StopProbe { service, generation, probe } => {
                self.tell(&service, Command::StopProbe { generation, probe });
            }
            Effect::RunHook { service, generation, hook } => {
                self.tell(&service, Command::RunHook { generation, hook });
            }
        }
    }

    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        let id = service::next_exec_id();
        match self.services.get(&spec.service) {
            Some(task) => {
                let _ = task.send(Command::Exec { id, spec, io, done });
            }
            None => done(ExecResult::NotStarted {
                error: "there is no such service".to_owned(),
                not_found: false,
            }),
        }
        ExecId(id)
    }

    fn terminal(&mut self, service: &ServiceName, done: TerminalDone) {
        match self.services.get(service) {
            Some(task) => {
                let _ = task.send(Command::Terminal { done });
            }
            None => done(Err("there is no such service".to_owned())),
        }
    }

    fn cancel_exec(&mut self, id: ExecId) {
        // Whose it is nobody remembers: numbers are unique among all services.
        for task in self.services.values() {
            let _ = task.send(Command::KillExec { id: id.0 });
        }
    }

    fn add(
        &mut self,
        service: ServicePlan,
        _io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        done(Err(format!("`{}` cannot be added", service.name)));
    }

    fn remove(&mut self, _service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        done(Vec::new());
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        let groups = self.shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.as_ref().map(Cgroups::usage).unwrap_or_default()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        self.standing.clone()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        if let Some(watch) = self.spawner_watch.take() {
            watch.abort();
        }
        // Without its sender a task kills its run and ends.
        self.services.clear();
        let tasks = std::mem::take(&mut self.tasks);
        let network = self.network.take();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            for task in tasks {
                let _ = task.await;
            }
            drop(network);
            let errors = tokio::task::spawn_blocking(move || {
                shared.spawner.end();
                let groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner).take();
                groups.map(|groups| {
                    let _ = groups.kill();
                    groups.remove(REMOVE_WITHIN)
                })
            });
            done(errors.await.ok().flatten().unwrap_or_default());
        });
    }
}
