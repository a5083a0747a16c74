//! [`LinuxHost`]: effects become requests to launchers and inits; what they say becomes inputs.
//!
//! One task per service owns everything of that service, so services never wait for each other. The host
//! makes no choice of its own: what to start, stop, probe or publish comes from the engine and the plan.
//!
//! Services come and go while others run: the task of a service that comes makes its place first (`host/place.rs`),
//! away from the caller, and whoever removes one waits for the end of its task.

mod listening;
mod mounts;
mod notices;
mod place;
mod service;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use ws_core::engine::{Effect, Input};
use ws_core::host::{ExecId, ExecIo, ExecSpec, Host, Inbox, LogSink, Standing, TerminalDone, Usage};
use ws_core::plan::{ExternalPlan, Plan, ServicePlan};
use ws_model::wire::ExecResult;
use ws_model::{InstanceId, Level, Publish, SecretName, ServiceName};
use ws_sys::aio::Readable;
use ws_sys::cgroup::Layout;

use crate::cgroups::{self, Cgroups};
use crate::detect::{self, Detectors};
use crate::external::External;
use crate::net::{self, Network, NsRef, SocketSource};
use crate::publish::{self, Dial, Publisher};
use crate::sandbox::layout;
use crate::sandbox::protocol::{Failure, SocketKind, Stage};
use crate::sandbox::spawner::{self, FIRST_HOST_ID, IDS, Spawner};
use crate::slots::Slot;
use mounts::Opener;
use place::Prepared;
use service::{Command, Service, chain};

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
    /// What watches services.
    #[error("could not begin to watch for violations")]
    Detect(#[source] io::Error),
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
    /// The way to something elsewhere.
    #[error("could not listen inside the workspace for what goes to `{name}`")]
    External {
        /// Its name.
        name: ServiceName,
        /// Why.
        source: io::Error,
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
    services: BTreeMap<ServiceName, Task>,
    /// The tasks that take places away.
    leaving: Vec<JoinHandle<()>>,
    /// The same for every service.
    standing: Standing,
    spawner_watch: Option<JoinHandle<()>>,
}

/// The task of a service, which begins with making its place.
#[derive(Debug)]
struct Task {
    /// As it came: of it, only what stays as long as its place does is read.
    plan: ServicePlan,
    commands: mpsc::UnboundedSender<Command>,
    handle: JoinHandle<()>,
}

/// The network with the sockets to change it.
#[derive(Debug)]
struct Net {
    network: Network,
    sockets: Sockets,
}

/// What all services' tasks use.
struct Shared {
    /// The project.
    root: PathBuf,
    spawner: Spawner,
    cgroups: Mutex<Option<Cgroups>>,
    /// From the end of the start to the tear-down.
    net: Mutex<Option<Net>>,
    /// The values from now on.
    secrets: Mutex<BTreeMap<SecretName, Vec<u8>>>,
    /// The ways to what is elsewhere. Changed by one at a time.
    external: tokio::sync::Mutex<Vec<External>>,
    opener: Opener,
    rootless: Option<(u32, u32)>,
    volumes: PathBuf,
    pids_by_cgroup: bool,
    /// What every run's Landlock must enforce: 0 nothing, 1 partly, 2 fully.
    landlock: u8,
    inbox: Inbox,
    logs: Arc<dyn LogSink>,
    dial: Arc<dyn Dial>,
    detect: Arc<detect::Common>,
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

/// Lets this process have as many descriptors as it may: a service takes about ten, and what is usual for a process
/// (1,024) would end at some hundred. The spawner was forked before, so services keep the limit of the caller.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current: _, maximum } = getrlimit(Resource::Nofile);
    // Up to the hard limit nobody is refused; and if so, it is as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
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
        raise_descriptor_limit();
        let layout = Layout::of_this_process().map_err(StartError::Layout)?;
        let owner = spawner.slot().map(|slot| FIRST_HOST_ID + slot * IDS);
        let groups_config = cgroups::Config { layout, owner, own_processes: OWN_PROCESSES };
        let groups = Cgroups::create(&config.instance, &plan, &groups_config)?;
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let rootless = spawner.slot().is_none().then_some(ids);
        let mut host = Self {
            standing: standing(&groups, rootless.is_some()),
            services: BTreeMap::new(),
            leaving: Vec::new(),
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
                net: Mutex::new(None),
                secrets: Mutex::new(config.secrets.clone()),
                external: tokio::sync::Mutex::default(),
                inbox,
                logs,
                detect: Arc::new(detect::Common::start().map_err(StartError::Detect)?),
                dial: Arc::new(Sockets { spawner: spawner.clone(), namespaces: BTreeMap::new() }),
                spawner,
                root: plan.root.clone(),
            }),
        };
        match host.set_up(plan).await {
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

    async fn set_up(&mut self, plan: Plan) -> Result<(), StartError> {
        let shared = Arc::clone(&self.shared);
        let plan = Arc::new(plan);
        let services = || plan.services.values();
        // One that is missing stops the start; the values are taken when a run starts.
        services().try_for_each(|service| secrets(&shared, service).map(drop))?;
        services().try_for_each(|service| place::make_volumes(&shared, service))?;
        // Before anything starts: a port that is taken stops the start.
        let publishers: Vec<_> =
            services().map(|service| publish(&shared, service)).collect::<Result<_, _>>()?;
        let prepared = {
            let groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
            let groups = groups.as_ref().expect("they were made just now");
            groups.attach_spawner(shared.spawner.pid().cast_unsigned())?;
            let with_group = |service: &'_ ServicePlan| groups.service(&service.name).cloned();
            let services: Vec<_> = services().map(|service| (service, with_group(service))).collect();
            place::prepare(&shared, &services)?
        };
        let mut namespaces = BTreeMap::new();
        for (service, prepared) in services().zip(&prepared) {
            let kept = prepared.namespace.try_clone().stage("keeping the network namespace");
            let failed = |failure| StartError::Service { service: service.name.clone(), failure };
            namespaces.insert(service.name.clone(), kept.map_err(failed)?);
        }
        let sockets = Sockets { spawner: shared.spawner.clone(), namespaces };
        let net = {
            let plan = Arc::clone(&plan);
            tokio::task::spawn_blocking(move || {
                let network = net::set_up(&sockets, &sockets.namespaces, &plan)?;
                Ok(Net { network, sockets })
            })
        };
        let net = net.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        *shared.net.lock().unwrap_or_else(PoisonError::into_inner) = Some(net.map_err(StartError::Network)?);
        listen_to_router(&shared).map_err(StartError::Detect)?;
        {
            let mut external = shared.external.lock().await;
            for plan in &plan.external {
                external.push(serve_external(&shared, plan)?);
            }
        }

        for ((service, prepared), publishers) in services().zip(prepared).zip(publishers) {
            let (commands, inbox) = mpsc::unbounded_channel();
            let back = commands.downgrade();
            let task = take_up(&shared, service, prepared, publishers, None, back)?;
            let handle = tokio::spawn(task.run(inbox));
            self.services.insert(service.name.clone(), Task { plan: service.clone(), commands, handle });
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

    fn tell(&self, service: &ServiceName, command: Command) {
        if let Some(task) = self.services.get(service) {
            // A task that has ended was torn down; nothing may be submitted then.
            let _ = task.commands.send(command);
        }
    }
}

/// Begins to hear of what the router denies.
fn listen_to_router(shared: &Shared) -> io::Result<()> {
    let net = shared.net.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(net) = net.as_ref() else { return Ok(()) };
    let socket = || net.sockets.netlink_netfilter(NsRef::Router);
    shared.detect.router.listen(socket()?, socket()?)
}

/// What hears of a service's network, whose namespace is in the network already.
fn ears(shared: &Arc<Shared>, service: &ServiceName) -> io::Result<detect::Ears> {
    let (shared, name) = (Arc::downgrade(shared), service.clone());
    let socket = move || {
        let shared = shared.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let net = shared.net.lock().unwrap_or_else(PoisonError::into_inner);
        let net = net.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        net.sockets.netlink_netfilter(NsRef::Service(&name))
    };
    Ok((socket()?, detect::network::counters(socket)))
}

/// Makes the detectors of a service.
fn detectors(shared: &Arc<Shared>, service: &ServicePlan) -> io::Result<Detectors> {
    Detectors::new(Arc::clone(&shared.detect), service, &shared.inbox, || ears(shared, &service.name))
}

/// Binds the published ports of a service and tells which they are.
fn publish(shared: &Shared, service: &ServicePlan) -> Result<Vec<Publisher>, StartError> {
    let mut publishers = Vec::new();
    for publish in &service.publish {
        let publisher = bind_port(service, publish)?;
        (shared.inbox)(published(&service.name, &publisher));
        publishers.push(publisher);
    }
    Ok(publishers)
}

fn bind_port(service: &ServicePlan, publish: &Publish) -> Result<Publisher, StartError> {
    let target = SocketAddrV4::new(service.address, publish.port);
    let bound = Publisher::bind(publish, &service.name, target, service.hold);
    let failed = |source| StartError::Publish { service: service.name.clone(), source };
    bound.map(|(publisher, _)| publisher).map_err(failed)
}

/// Tells that a port is published.
fn published(service: &ServiceName, publisher: &Publisher) -> Input {
    Input::Published {
        service: service.clone(),
        host: publisher.publish().host,
        host_port: publisher.address().port(),
        port: publisher.publish().port,
    }
}

fn serve_external(shared: &Shared, plan: &ExternalPlan) -> Result<External, StartError> {
    let served = shared.dial.tcp_socket().and_then(|socket| External::serve(plan, socket));
    served.map_err(|source| StartError::External { name: plan.name.clone(), source })
}

/// Makes what is elsewhere what it is from now on; after an error it is as it was before.
///
/// A way that stays is not touched. One that leads elsewhere is closed with its connections and made anew.
async fn change_external(shared: &Arc<Shared>, wanted: &[ExternalPlan]) -> Result<(), String> {
    let mut external = shared.external.lock().await;
    let before: Vec<ExternalPlan> = external.iter().map(|one| one.plan().clone()).collect();
    let changed = exchange_external(shared, &mut external, wanted).await;
    if changed.is_err()
        && let Err(error) = exchange_external(shared, &mut external, &before).await
    {
        tracing::warn!(%error, "taking back a change of what is external");
    }
    changed
}

async fn exchange_external(
    shared: &Arc<Shared>,
    external: &mut Vec<External>,
    wanted: &[ExternalPlan],
) -> Result<(), String> {
    let addressed = |all: &[ExternalPlan], not: &[ExternalPlan]| -> Vec<ExternalPlan> {
        let has = |one: &&ExternalPlan| !not.iter().any(|other| other.address == one.address);
        all.iter().filter(has).cloned().collect()
    };
    let before: Vec<ExternalPlan> = external.iter().map(|one| one.plan().clone()).collect();
    let (come, go) = (addressed(wanted, &before), addressed(&before, wanted));
    for one in std::mem::take(external) {
        if wanted.contains(one.plan()) {
            external.push(one);
        } else {
            one.close().await;
        }
    }
    let in_router = Arc::clone(shared);
    let addresses = tokio::task::spawn_blocking(move || {
        let mut net = in_router.net.lock().unwrap_or_else(PoisonError::into_inner);
        let net = net.as_mut().ok_or("the workspace has no network any more")?;
        net.network.change_external(&net.sockets, &come, &go).map_err(|error| chain(&error))
    });
    addresses.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    for plan in wanted {
        if !external.iter().any(|one| one.plan() == plan) {
            external.push(serve_external(shared, plan).map_err(|error| chain(&error))?);
        }
    }
    Ok(())
}

/// Makes a further service: its place, and who works there.
async fn come(
    shared: &Arc<Shared>,
    service: &ServicePlan,
    io: Option<ExecIo>,
    commands: mpsc::WeakUnboundedSender<Command>,
) -> Result<Service, StartError> {
    secrets(shared, service)?;
    let publishers = publish(shared, service)?;
    let made = {
        let (shared, service) = (Arc::clone(shared), service.clone());
        tokio::task::spawn_blocking(move || place::make(&shared, &service)).await
    };
    let prepared = made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let taken = take_up(shared, service, prepared, publishers, io, commands);
    if taken.is_err() {
        go(shared, service).await;
    }
    taken
}

/// Takes the place of a service away. Gives what could not be done.
async fn go(shared: &Arc<Shared>, service: &ServicePlan) -> Vec<String> {
    let (shared, service) = (Arc::clone(shared), service.clone());
    let gone = tokio::task::spawn_blocking(move || place::unmake(&shared, &service)).await;
    gone.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Hands a place over to the service's own task. On an error its launcher has ended.
fn take_up(
    shared: &Arc<Shared>,
    service: &ServicePlan,
    prepared: Prepared,
    mut publishers: Vec<Publisher>,
    io: Option<ExecIo>,
    commands: mpsc::WeakUnboundedSender<Command>,
) -> Result<Service, StartError> {
    let Prepared { channel, pidfd, group, namespace } = prepared;
    let failed = |failure| StartError::Service { service: service.name.clone(), failure };
    let launcher = pidfd.try_clone().stage("keeping the launcher").map_err(failed)?;
    let serve = |publisher: &mut Publisher| publisher.serve(Arc::clone(&shared.dial));
    let served = publishers.iter_mut().try_for_each(serve).stage("registering a published port");
    let watched = served.and_then(|()| detectors(shared, service).stage("watching for violations"));
    let taken = watched.and_then(|detectors| {
        Service::new(
            Arc::clone(shared),
            service.clone(),
            channel,
            pidfd,
            namespace,
            group,
            publishers,
            io,
            commands,
            detectors,
        )
        .stage("registering the launcher")
    });
    if taken.is_err() {
        place::end_launcher(launcher.as_fd());
    }
    taken.map_err(failed)
}

/// The secrets of a service: files with their places, variables with their names.
#[derive(Debug, Clone, Default)]
struct Secrets {
    files: Vec<(PathBuf, Vec<u8>)>,
    env: Vec<(String, String)>,
}

fn secrets(shared: &Shared, service: &ServicePlan) -> Result<Secrets, StartError> {
    let values = shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
    let value =
        |name: &SecretName| values.get(name).cloned().ok_or_else(|| StartError::SecretMissing(name.clone()));
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
    Ok(Secrets { files, env })
}

/// What is enforced for every service. Namespaces, the filter and the rules always are: without them nothing
/// starts. So the level follows from users, Landlock and control groups.
fn standing(groups: &Cgroups, rootless: bool) -> Standing {
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
    Standing { level, missing, undetected: detect::undetected(groups) }
}

impl Host for LinuxHost {
    fn update(&mut self, service: ServicePlan, done: Box<dyn FnOnce(Result<(), String>) + Send>) {
        let gone = format!("there is no service `{}`", service.name);
        let Some(task) = self.services.get(&service.name) else { return done(Err(gone)) };
        let name = service.name.clone();
        let sent = task.commands.send(Command::Update { plan: Box::new(service), done });
        if let Err(mpsc::error::SendError(command)) = sent {
            command.refuse(&name);
        }
    }

    fn set_external(
        &mut self,
        external: Vec<ExternalPlan>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { done(change_external(&shared, &external).await) });
    }

    fn set_secrets(&mut self, secrets: BTreeMap<SecretName, Vec<u8>>) {
        *self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

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
            Effect::StartBeside { service, generation } => {
                self.tell(&service, Command::StartBeside { generation });
            }
            Effect::Switch { service, generation } => self.tell(&service, Command::Switch { generation }),
            Effect::Hold { service } => self.tell(&service, Command::Hold),
            Effect::Release { service } => self.tell(&service, Command::Release),
            // The supervisor carries these out: with `add`, `remove` and `update`, whose answers are for it, and with
            // the one who watches files.
            Effect::Fingerprint { .. }
            | Effect::Place { .. }
            | Effect::Displace { .. }
            | Effect::Update { .. } => {}
            Effect::RunHook { service, generation, hook } => {
                self.tell(&service, Command::RunHook { generation, hook });
            }
        }
    }

    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId {
        let id = service::next_exec_id();
        match self.services.get(&spec.service) {
            Some(task) => {
                let service = spec.service.clone();
                let sent = task.commands.send(Command::Exec { id, spec, io, done });
                if let Err(mpsc::error::SendError(command)) = sent {
                    command.refuse(&service);
                }
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
                if let Err(mpsc::error::SendError(command)) = task.commands.send(Command::Terminal { done }) {
                    command.refuse(service);
                }
            }
            None => done(Err("there is no such service".to_owned())),
        }
    }

    fn cancel_exec(&mut self, id: ExecId) {
        // Whose it is nobody remembers: numbers are unique among all services.
        for task in self.services.values() {
            let _ = task.commands.send(Command::KillExec { id: id.0 });
        }
    }

    fn add(
        &mut self,
        service: ServicePlan,
        io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    ) {
        // A task that has ended could not make its place.
        if self.services.get(&service.name).is_some_and(|task| !task.commands.is_closed()) {
            done(Err(format!("there is a service `{}` already", service.name)));
            return;
        }
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let back = commands.downgrade();
        let (shared, plan) = (Arc::clone(&self.shared), service.clone());
        let handle = tokio::spawn(async move {
            let made = come(&shared, &plan, io, back).await;
            match made {
                Ok(task) => {
                    done(Ok(()));
                    task.run(inbox).await;
                }
                Err(error) => {
                    // Closed before it is told: then there may be another one of that name.
                    inbox.close();
                    while let Ok(command) = inbox.try_recv() {
                        command.refuse(&plan.name);
                    }
                    drop(inbox);
                    done(Err(chain(&error)));
                }
            }
        });
        self.services.insert(service.name.clone(), Task { plan: service, commands, handle });
    }

    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        let Some(Task { plan, commands, handle }) = self.services.remove(service) else {
            // Nothing is left of it, which is what is wanted.
            done(Vec::new());
            return;
        };
        // Without its sender the task kills its run and ends.
        let there = !commands.is_closed();
        drop(commands);
        let shared = Arc::clone(&self.shared);
        self.leaving.retain(|task| !task.is_finished());
        self.leaving.push(tokio::spawn(async move {
            let _ = handle.await;
            done(if there { go(&shared, &plan).await } else { Vec::new() });
        }));
    }

    fn usage(&mut self) -> BTreeMap<ServiceName, Usage> {
        let groups = self.shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.as_ref().map(Cgroups::usage).unwrap_or_default()
    }

    fn standing(&self) -> BTreeMap<ServiceName, Standing> {
        // One that could not make its place is not there.
        let there = self.services.iter().filter(|(_, task)| !task.commands.is_closed());
        there.map(|(name, _)| (name.clone(), self.standing.clone())).collect()
    }

    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>) {
        if let Some(watch) = self.spawner_watch.take() {
            watch.abort();
        }
        // Without its sender a task kills its run and ends.
        let tasks = std::mem::take(&mut self.services).into_values().map(|task| task.handle);
        let tasks: Vec<_> = tasks.chain(std::mem::take(&mut self.leaving)).collect();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            shared.external.lock().await.clear();
            for task in tasks {
                let _ = task.await;
            }
            let errors = tokio::task::spawn_blocking(move || {
                shared.detect.router.stop();
                drop(shared.net.lock().unwrap_or_else(PoisonError::into_inner).take());
                shared.spawner.end();
                let groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner).take();
                groups.map(|groups| groups.clear(REMOVE_WITHIN))
            });
            done(errors.await.ok().flatten().unwrap_or_default());
        });
    }
}
