//! The plan: everything that is decided before anything is done.
//!
//! An executor of a plan makes no choice: if it needs an `if` about intent, a field is missing here.
//! Read [`resolve`] first. It is a function of the validated workspace and of what the host observed
//! ([`Facts`], for [`paths_of_interest`] and [`directories_of_interest`]) and of nothing else.

mod base;
mod builds;
mod describe;
mod external;
mod facts;
mod habits;
mod links;
mod lint;
mod net;
mod one_off;
mod order;
mod policy;
mod reach;
mod requires;
mod units;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ws_model::{
    Borrowed, ByteSize, CommandLine, Condition, ConfigPath, ExternalHost, Hooks, Level, Limits, Listen,
    LogRetention, MilliCpus, PathPattern, PortProto, Probe, ProbeKind, Problem, Publish, Reload, Requirement,
    Restart, SecretName, SecretSource, Service, ServiceKind, ServiceName, Severity, Stdin, Stop, Subnet,
    VolumeName, WatchAction, Watching, Workspace, WorkspaceName,
};

use crate::host::Standing;

pub(crate) use base::HOSTS;
pub(crate) use describe::{
    command_text, hooks_text, liveness_text, logs_text, probe_text, publish_text, restart_text, stop_text,
    waits_for,
};
pub use describe::{describe, to_json};
pub use facts::{Facts, PathKind, SYSTEM_PATHS, SYSTEM_PREFIXES, directories_of_interest, paths_of_interest};
pub use lint::lint;
pub use one_off::{OneOff, one_off};
pub(crate) use policy::wildcard;
pub use policy::{
    CpuWindow, DEFAULT_CPU_WINDOW, DEFAULT_LOG_RATE, Decoy, PolicyPlan, RulePlan, RuleSource, default_action,
};
pub use reach::{Reach, Reacher, reach, reached_by};
pub use requires::requirement_met;
pub(crate) use units::times;

/// How many processes and threads a service may have when the file does not say.
pub const DEFAULT_PIDS: u32 = 4096;

/// How large a service's private tmpfs may become when the file does not say.
///
/// Room for what programs unpack and sort, and little enough that a runaway log in `/tmp` does not take
/// the machine's memory.
pub const DEFAULT_TMP: ByteSize = ByteSize::mib(256);

/// Where programs without a slash are looked up.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is asked of the plan beside the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The addresses that this instance had before, by the names of units and of what is external: they keep them.
    pub previous: BTreeMap<ServiceName, Ipv4Addr>,
    /// Accept this level, although the file asks for a higher one.
    pub accept: Option<Level>,
    /// Leave builds out: services run from what is there.
    pub no_build: bool,
    /// Watch no files.
    pub no_watch: bool,
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The workspace's name.
    pub name: WorkspaceName,
    /// The project root.
    pub root: PathBuf,
    /// The private network.
    pub subnet: Subnet,
    /// The least level that is accepted.
    pub required: Level,
    /// Why, as a phrase: "`enforcement: standard`", "api declares limits.memory".
    pub required_because: String,
    /// Named volumes that some service mounts.
    pub volumes: Vec<VolumeName>,
    /// What runs elsewhere and is reached through the gateway of the workspace.
    pub external: Vec<ExternalPlan>,
    /// Programs that must be there.
    pub requires: Vec<Requirement>,
    /// Where the secrets come from that some unit gets.
    pub secrets: BTreeMap<SecretName, SecretSource>,
    /// What services and builds are told of what is the user's, by where they stand in the file.
    pub borrowed: BTreeMap<ConfigPath, BTreeSet<Borrowed>>,
    /// Every unit by its name: one for a service, `api-1` and so on for one with replicas.
    pub services: BTreeMap<ServiceName, ServicePlan>,
    /// The units in waves: each waits only for units of earlier waves.
    pub waves: Vec<Vec<ServiceName>>,
    /// How many builds run at a time; `None`: 4.
    pub parallel_builds: Option<u32>,
    /// How files are watched.
    pub watching: Watching,
    /// Directories that two services can both reach and one can write: channels past the links. Replicas are one
    /// service here: what the file gives to it they share.
    pub channels: Vec<Channel>,
    /// What is worth telling and stops nothing.
    pub warnings: Vec<Problem>,
}

/// Something that runs elsewhere: whoever links to it reaches `address:port`, and the supervisor connects on from
/// the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalPlan {
    /// Its name inside.
    pub name: ServiceName,
    /// Its address inside, from the same numbers as those of the services.
    pub address: Ipv4Addr,
    /// Its TCP port, inside and outside.
    pub port: u16,
    /// Where it runs.
    pub host: ExternalHost,
}

/// A directory that is a channel between services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The host's directory, or the volume's name.
    pub what: String,
    /// Who can write it, by the names in the file.
    pub writers: Vec<ServiceName>,
    /// Who can only read it, by the names in the file.
    pub readers: Vec<ServiceName>,
}

/// Everything about one service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePlan {
    /// Its name; of a replica: that of the service and its number, `api-2`.
    pub name: ServiceName,
    /// Its name in the file; that of the service where it is a replica or a one-off of one.
    pub declared: ServiceName,
    /// Which replica it is, from 1; 0: a one-off, which is none.
    pub replica: u32,
    /// Service or task.
    pub kind: ServiceKind,
    /// Its number in the workspace, from 0, below [`Subnet::capacity`]: interface indexes, the uid of
    /// the service (as root) and the like follow from it. Two services never have the same.
    pub index: u32,
    /// Its address: a digest of its name, so that it stays when others come and go.
    pub address: Ipv4Addr,
    /// The hardware address of its interface: locally administered, follows from the address.
    pub mac: [u8; 6],
    /// What its start waits for.
    pub waits: Vec<Wait>,
    /// What is run before the start.
    pub build: Option<Run>,
    /// For a build, and for a task with `inputs`: what decides whether it must run again.
    pub makes: Option<Makes>,
    /// What it runs from that builds make. It waits for each of them ([`Condition::Completed`]).
    pub uses: Vec<Use>,
    /// Which files are watched for it, and what is done when one changes. The first rule that matches a file counts.
    pub watch: Vec<WatchRule>,
    /// How a new run takes the place of the old one.
    pub reload: Reload,
    /// Listening sockets that outlive its runs, in the order in which they are passed.
    pub listen: Vec<Listen>,
    /// How long a connection to one of its published ports waits while it is started again.
    pub hold: Duration,
    /// What is run.
    pub run: Run,
    /// What it sees.
    pub view: View,
    /// Whom it may reach.
    pub links: Vec<LinkRule>,
    /// What is published on the host.
    pub publish: Vec<Publish>,
    /// Until when it is starting.
    pub startup: Option<Probe>,
    /// When it is ready.
    pub ready: Option<Probe>,
    /// Whether it still works.
    pub liveness: Option<Probe>,
    /// Commands at the turns of its life; they run with the environment and in the directory of `run`.
    pub hooks: Hooks,
    /// Exit codes that are a success: 0 and those of the file, in order.
    pub success_exit_codes: Vec<i32>,
    /// Whether its standard input is a pipe that stays open and silent (else `/dev/null`; of no meaning with `tty`).
    pub open_stdin: bool,
    /// Whether it runs on a terminal of its own.
    pub tty: bool,
    /// What is kept of its output.
    pub logs: LogRetention,
    /// What happens when it ends.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// What it may use, defaults filled in.
    pub limits: LimitsPlan,
    /// What is looked for in it, and what is done about it.
    pub policy: PolicyPlan,
}

impl Plan {
    /// What a name stands for: the unit that is called so, or else every replica of the service. Empty when nothing
    /// has that name.
    #[must_use]
    pub fn units(&self, name: &str) -> Vec<&ServicePlan> {
        match self.services.get(name) {
            Some(unit) => vec![unit],
            None => {
                let of_it = |unit: &&ServicePlan| unit.declared.as_str() == name && !unit.is_one_off();
                let mut units: Vec<&ServicePlan> = self.services.values().filter(of_it).collect();
                units.sort_unstable_by_key(|unit| unit.replica);
                units
            }
        }
    }

    /// Every address that is in use, by name: those of units and of what is external. Kept with an instance, they are
    /// the next plan's [`Options::previous`].
    pub fn addresses(&self) -> impl Iterator<Item = (&ServiceName, Ipv4Addr)> {
        let units = self.services.values().map(|unit| (&unit.name, unit.address));
        units.chain(self.external.iter().map(|external| (&external.name, external.address)))
    }
}

impl ServicePlan {
    /// Whether it was made by [`one_off`] and is not of the plan itself.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        self.replica == 0
    }
}

/// What a build, or a task with `inputs`, makes of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Makes {
    /// What it is made of.
    pub inputs: FileSet,
    /// What it makes; `None`: nobody knows.
    pub outputs: Option<FileSet>,
    /// What else decides whether it must run again: command, environment, directory, in one text.
    pub recipe: String,
}

/// What a unit uses of what a build makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The build, a unit.
    pub build: ServiceName,
    /// What of its outputs; `None`: nobody knows, so each build that succeeds is a new one.
    pub files: Option<FileSet>,
}

/// A set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSet {
    /// What is in it.
    pub include: Vec<PathPattern>,
    /// What of that is not.
    pub ignore: Vec<PathPattern>,
    /// Whether what version control and habit leave out (`.gitignore`, `.git`, `target`, `node_modules`, …) is left
    /// out as well. Not for outputs, which are mostly that.
    pub sources_only: bool,
}

/// Files that are watched for a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRule {
    /// Which.
    pub files: FileSet,
    /// What is done when one of them changes.
    pub action: WatchAction,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// One thing that a start waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// For which unit.
    pub on: ServiceName,
    /// Until when.
    pub condition: Condition,
    /// Whether the start fails when it can never be had; else the wait is dropped then.
    pub required: bool,
    /// Whether the waiting service is started again each time that this one was.
    pub restart: bool,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments; the program is absolute, or has no slash and is looked up in `PATH`.
    pub argv: Vec<String>,
    /// The whole environment, in order of names; secrets that go by environment are not in it.
    pub env: Vec<(String, String)>,
    /// The current directory, absolute.
    pub cwd: PathBuf,
}

/// A link that is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRule {
    /// To which unit, or to what that is external.
    pub to: ServiceName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: PortProto,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// What is enforced with numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Memory; `None`: no limit.
    pub memory: Option<ByteSize>,
    /// Processor time; `None`: no limit.
    pub cpus: Option<MilliCpus>,
    /// Processes and threads of the service (those of `ws` in its cgroup are added by the host).
    pub pids: u32,
    /// Whether the file declares `pids` (the default is not a declaration).
    pub pids_declared: bool,
    /// `RLIMIT_NOFILE`; `None`: the caller's soft and hard limits.
    pub files: Option<u64>,
}

/// What a service sees: an empty tmpfs root with an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its user id inside: the caller's, 1000 when the caller is root.
    pub uid: u32,
    /// Its group id inside.
    pub gid: u32,
    /// Its user's name inside.
    pub user: String,
    /// Its home inside.
    pub home: PathBuf,
    /// Symbolic links in the read-only root (`/bin` → `usr/bin`), absolute paths.
    pub symlinks: Vec<(PathBuf, PathBuf)>,
    /// Files in the read-only root with their contents (`/etc/passwd`, …), mode 0444. Most are the same for every
    /// unit, and `/etc/hosts` grows with their number.
    pub files: Vec<(PathBuf, Arc<str>)>,
    /// System directories and files that are bound read-only, the same for every run.
    pub system: Vec<Bind>,
    /// Directories of the run's private tmpfs with their modes, parents first (`/tmp` 1777, `home` 0700,
    /// `/run` 0755, `/var/tmp` 1777, `/dev/shm` 1777, `/run/<service>` 0755, `/run/secrets` 0500).
    pub scratch: Vec<(PathBuf, u32)>,
    /// The size of that tmpfs.
    pub scratch_size: ByteSize,
    /// The project at its own path; absent when nothing of it is visible.
    pub repo: Option<RepoView>,
    /// What is mounted after the project, parents before children: `writable`, `reads`, `volumes`.
    pub binds: Vec<Bind>,
    /// Further private tmpfs.
    pub tmpfs: Vec<(PathBuf, ByteSize)>,
    /// Secrets that are files, with their paths inside.
    pub secret_files: Vec<(SecretName, PathBuf)>,
    /// Secrets that are environment variables of the run.
    pub secret_env: Vec<(SecretName, String)>,
}

/// The project as a service sees it: its top-level entries, read-only, one by one, as they are when a
/// run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoView {
    /// The project root on the host, and its path inside.
    pub root: PathBuf,
    /// The names of top-level entries that are left out: `.git`, `.env`, everything that starts with
    /// `.env.`, secret sources, policy inputs, other services' writable directories that are top-level.
    pub exclude: Vec<Exclude>,
}

/// A rule that leaves top-level entries out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclude {
    /// This name.
    Name(String),
    /// Every name that starts with this.
    Prefix(String),
}

impl RepoView {
    /// Whether the top-level entry `name` is visible.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        !self.exclude.iter().any(|rule| match rule {
            Exclude::Name(exact) => exact == name,
            Exclude::Prefix(prefix) => name.starts_with(prefix.as_str()),
        })
    }
}

/// A mount from the host or from a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// What is mounted.
    pub source: BindSource,
    /// Where inside, absolute.
    pub target: PathBuf,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it is a directory (else a file).
    pub directory: bool,
    /// Whether the directory is made where it is missing, before anything of the run is: with mode 0755, as the owner of
    /// the directory that it is in, and never through a symbolic link.
    pub create: bool,
    /// Whether, as root, files in it appear as the service's own and what it writes belongs to the
    /// source's owner (an id-mapped mount). System paths need none.
    pub owner_mapped: bool,
}

/// What a [`Bind`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindSource {
    /// A path of the host, absolute.
    Host(PathBuf),
    /// A volume of the instance.
    Volume(VolumeName),
    /// An empty directory in the place of what is there (another service's writable directory). In the
    /// project it is left out where the directory that it is in is shown, never covered: the host could take a
    /// cover away by replacing what is under it.
    Hidden,
}

/// 0 and what the file adds, in order.
fn success_exit_codes(service: &Service) -> Vec<i32> {
    let codes: BTreeSet<i32> = service.success_exit_codes.iter().copied().chain([0]).collect();
    codes.into_iter().collect()
}

/// Decides everything.
///
/// # Errors
/// Every problem that was found, errors and warnings, when there is an error among them.
pub fn resolve(workspace: &Workspace, facts: &Facts, options: &Options) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let unfolded = builds::unfold(workspace, options, &mut problems);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(problems);
    }
    let workspace: &Workspace = &unfolded.workspace;
    let count = workspace.services.values().map(|service| u64::from(service.replicas.max(1))).sum::<u64>();
    // Before the replicas are unfolded: their number is the file's.
    if let Err(problem) = net::pool(workspace.subnet, count + workspace.external.len() as u64) {
        return Err(vec![*problem]);
    }
    let units = units::Units::of(workspace, &mut problems);
    let names = units.iter().map(|(_, unit)| unit).chain(workspace.external.keys()).collect();
    let numbers = match net::numbers(&names, workspace.subnet, &options.previous) {
        Ok(numbers) => numbers,
        Err(problem) => return Err(vec![*problem]),
    };
    let addresses: BTreeMap<&ServiceName, Ipv4Addr> =
        numbers.iter().map(|(name, number)| (*name, workspace.subnet.host(*number))).collect();
    let mut order = order::decide(workspace, &units, &mut problems);
    let external = external::plans(workspace, &addresses, &mut problems);
    let base = base::Base::new(workspace, facts, &units, &addresses, &mut problems);
    let mut views = view::Views::new(workspace, facts, &base);

    let mut services = BTreeMap::new();
    for (name, service) in &workspace.services {
        let view = views.view(name, service, &mut problems);
        let links = links::rules(name, service, workspace, &units, &addresses, &mut problems);
        for (unit, replica) in units.named(name).iter().zip(1..) {
            let view = view.of_unit(unit);
            let address = addresses[unit];
            let env = |of| environment(workspace, name, service, replica, &view, of);
            let of = if service.kind == ServiceKind::Build { Of::Build } else { Of::Main };
            let mut plan = ServicePlan {
                name: unit.clone(),
                declared: name.clone(),
                replica,
                kind: service.kind,
                index: numbers[unit],
                address,
                mac: net::mac(address),
                waits: order.waits.remove(unit).unwrap_or_default(),
                build: None,
                makes: None,
                uses: Vec::new(),
                watch: Vec::new(),
                reload: service.reload,
                listen: service.listen.clone(),
                hold: service.hold,
                run: run(&service.command, service, env(of)),
                links: links.clone(),
                publish: service.ports.clone(),
                startup: service.startup.clone(),
                ready: service.ready.clone(),
                liveness: service.liveness.clone(),
                hooks: service.hooks.clone(),
                success_exit_codes: success_exit_codes(service),
                open_stdin: match service.stdin {
                    Stdin::Default => service.kind == ServiceKind::Service,
                    Stdin::Open => true,
                    Stdin::Closed => false,
                },
                tty: service.tty,
                logs: service.logs,
                restart: service.restart.clone(),
                stop: service.stop.clone(),
                limits: limits(&service.limits),
                policy: policy::plan(workspace, name, service, &view),
                view,
            };
            unfolded.finish(name, &mut plan);
            services.insert(unit.clone(), plan);
        }
    }
    views.report_leaks(&mut problems);
    habits::check(workspace, &units, &mut problems);
    unfolded.place(&mut problems);
    for wait in services.values_mut().flat_map(|service| &mut service.waits) {
        unfolded.move_path(&mut wait.at);
    }

    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(problems);
    }
    let (required, required_because) = required(workspace, options.accept);
    let plan = Plan {
        name: workspace.name.clone(),
        root: workspace.root.clone(),
        subnet: workspace.subnet,
        required,
        required_because,
        volumes: volumes(&services),
        external,
        requires: workspace.requires.clone(),
        secrets: secrets(workspace, &services),
        borrowed: workspace.borrowed.clone(),
        parallel_builds: workspace.parallel_builds,
        watching: workspace.watching.clone(),
        channels: views.channels(),
        services,
        waves: order.waves,
        warnings: problems,
    };
    if cfg!(debug_assertions) {
        let faults = lint(&plan);
        assert!(faults.is_empty(), "the planner contradicts itself: {faults:#?}");
    }
    Ok(plan)
}

/// The sources of the secrets that some unit gets.
fn secrets(
    workspace: &Workspace,
    services: &BTreeMap<ServiceName, ServicePlan>,
) -> BTreeMap<SecretName, SecretSource> {
    let used = services.values().flat_map(|unit| {
        let files = unit.view.secret_files.iter().map(|(name, _)| name);
        files.chain(unit.view.secret_env.iter().map(|(name, _)| name))
    });
    used.filter_map(|name| Some((name.clone(), workspace.secrets.get(name)?.clone()))).collect()
}

/// The services that were asked for (all, when none is named) and everything that they wait for.
#[must_use]
pub fn closure(plan: &Plan, asked: &[ServiceName]) -> BTreeSet<ServiceName> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<&ServiceName> =
        if asked.is_empty() { plan.services.keys().collect() } else { asked.iter().collect() };
    while let Some(name) = todo.pop() {
        let Some(service) = plan.services.get(name) else { continue };
        if found.insert(name.clone()) {
            todo.extend(service.waits.iter().map(|wait| &wait.on));
        }
    }
    found
}

/// Whether what is really enforced is what the plan requires.
///
/// # Errors
/// A problem for each service that is below, with what is missing.
pub fn check_standing(plan: &Plan, standing: &BTreeMap<ServiceName, Standing>) -> Result<(), Vec<Problem>> {
    let problems: Vec<Problem> = plan
        .services
        .keys()
        .filter_map(|name| {
            let (level, missing) = match standing.get(name) {
                Some(standing) => (standing.level, standing.missing.as_slice()),
                None => (Level::None, [].as_slice()),
            };
            if level >= plan.required {
                return None;
            }
            let mut problem = Problem::error(
                "WS0560",
                ConfigPath::service(name),
                format!("`{name}` can be held to level {level} here, and {} is required", plan.required),
            )
            .label(plan.required_because.clone());
            for missing in missing {
                problem = problem.help(format!("missing: {missing}"));
            }
            Some(problem.help(format!("to start with less: `ws up --accept {level}`")))
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn required(workspace: &Workspace, accept: Option<Level>) -> (Level, String) {
    let declares = workspace.services.iter().find_map(|(name, service)| {
        let limits = &service.limits;
        let declared = [
            ("memory", limits.memory.is_some()),
            ("cpus", limits.cpus.is_some()),
            ("pids", limits.pids.is_some()),
        ];
        declared.into_iter().find(|(_, is)| *is).map(|(what, _)| format!("{name} declares `limits.{what}`"))
    });
    let (level, because) = match (workspace.enforcement, declares) {
        (Some(level), _) => (level, format!("`enforcement: {level}`")),
        (None, Some(because)) => (Level::Standard, because),
        (None, None) => (Level::Limited, "no service declares `limits`".to_owned()),
    };
    match accept {
        Some(accepted) if accepted < level => (
            accepted,
            format!("`{accepted}` is accepted instead of {level}, which the file asks for: {because}"),
        ),
        Some(_) | None => (level, because),
    }
}

fn limits(limits: &Limits) -> LimitsPlan {
    LimitsPlan {
        memory: limits.memory,
        cpus: limits.cpus,
        pids: limits.pids.unwrap_or(DEFAULT_PIDS),
        pids_declared: limits.pids.is_some(),
        files: limits.files,
    }
}

fn volumes(services: &BTreeMap<ServiceName, ServicePlan>) -> Vec<VolumeName> {
    let volumes: BTreeSet<&VolumeName> = services
        .values()
        .flat_map(|service| &service.view.binds)
        .filter_map(|bind| match &bind.source {
            BindSource::Volume(volume) => Some(volume),
            BindSource::Host(_) | BindSource::Hidden => None,
        })
        .collect();
    volumes.into_iter().cloned().collect()
}

fn run(command: &CommandLine, service: &Service, env: Vec<(String, String)>) -> Run {
    let cwd = service.working_dir.clone();
    Run { argv: absolute_program(&command.0, &cwd), env, cwd }
}

/// A command whose program is absolute or is looked up.
fn absolute_program(argv: &[String], cwd: &Path) -> Vec<String> {
    let mut argv = argv.to_vec();
    if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
        let path = view::lexical(&cwd.join(Path::new(program)));
        // A working directory that is not UTF-8 makes the project's path an error of its own.
        *program = path.to_string_lossy().into_owned();
    }
    argv
}

/// Which program an environment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Build,
    Main,
}

/// Where a service that says of itself how it is finds the socket for it (sd_notify(3)).
const NOTIFY_SOCKET: &str = "/run/notify";

/// The variables that are only set for a service that says of itself how it is.
const NOTIFY: [&str; 2] = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// The environment: what the sandbox sets, then the service's own over it. Nothing else is inherited.
fn environment(
    workspace: &Workspace,
    name: &ServiceName,
    service: &Service,
    replica: u32,
    view: &View,
    of: Of,
) -> Vec<(String, String)> {
    let mut env = BTreeMap::from([
        ("HOME", view.home.to_string_lossy().into_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("LOGNAME", view.user.clone()),
        ("PATH", PATH.to_owned()),
        ("SHELL", "/bin/sh".to_owned()),
        ("USER", view.user.clone()),
        ("WS_REPLICA", replica.to_string()),
        ("WS_SERVICE", name.to_string()),
        ("WS_WORKSPACE", workspace.name.to_string()),
    ]);
    match of {
        // Limits are those of the service, and a build says nothing of itself.
        Of::Build => {}
        Of::Main => {
            if let Some(memory) = service.limits.memory {
                env.insert("WS_MEMORY_BYTES", memory.0.to_string());
            }
            let notifies = |probe: &&Probe| probe.kind == ProbeKind::Notify;
            let probes = [&service.startup, &service.ready, &service.liveness];
            if probes.into_iter().flatten().any(|probe| notifies(&probe)) {
                env.insert("NOTIFY_SOCKET", NOTIFY_SOCKET.to_owned());
            }
            if let Some(watchdog) = service.liveness.as_ref().filter(notifies) {
                env.insert("WATCHDOG_USEC", watchdog.interval.as_micros().to_string());
            }
        }
    }
    let mut env: BTreeMap<String, String> =
        env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    env.extend(service.environment.iter().map(|(key, value)| (key.clone(), value.clone())));
    env.into_iter().collect()
}

/// A name that is not declared, with the one that was probably meant.
fn unknown_name<'k>(
    code: &'static str,
    at: ConfigPath,
    who: &str,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'k str>,
) -> Problem {
    let near = known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let problem = Problem::error(code, at, format!("{who} names a {what} that is not declared"))
        .label(format!("there is no {what} `{name}`"));
    match near {
        Some((_, near)) => problem.help(format!("did you mean `{near}`?")).replacement(near),
        None => problem,
    }
}
