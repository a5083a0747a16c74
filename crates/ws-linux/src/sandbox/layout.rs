//! From a service's plan to what launcher and init are told: pure, tested without rights.

use std::path::{Path, PathBuf};

use ws_core::plan::{BindSource, PolicyPlan, Run, ServicePlan, View};

use ws_model::{PolicyAction, ProbeKind, ViolationClass};

use super::protocol::{
    ExecSpec, Executions, PreStart, RunMount, RunMountKind, RunSpec, SourceRequest, Streams, Template,
};

/// Device files that every service has, and nothing else of /dev.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links of /dev that programs expect (as `MAKEDEV` and every container make them).
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// The first user id of services in U1, as root: ids below it are of no service.
const FIRST_SERVICE_ID: u32 = 1000;

/// The ids of a service in U1.
///
/// As root each service has its own; rootless all have the caller's, the only one that is mapped.
#[must_use]
pub fn outer_ids(service: &ServicePlan, rootless: Option<(u32, u32)>) -> (u32, u32) {
    rootless.unwrap_or_else(|| {
        let id = FIRST_SERVICE_ID + service.index;
        (id, id)
    })
}

/// A mount that is kept in a slot of the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// What to open.
    pub source: SourceRequest,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether its owners are mapped (as root).
    pub owner_mapped: bool,
}

/// What a place inside lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// The read-only root: the template has to have the place.
    Root,
    /// A tmpfs of the run, or the root of the project: made for each run.
    Run,
    /// Something of the host: the place must be there.
    Host,
}

/// The mount that `place` lies on: the one with the longest path above it.
fn ground(view: &View, place: &Path) -> Ground {
    let mut best = (0, Ground::Root);
    let mut consider = |mount: &Path, kind: Ground| {
        let length = mount.components().count();
        if place != mount && place.starts_with(mount) && length >= best.0 {
            best = (length, kind);
        }
    };
    for bind in &view.system {
        consider(&bind.target, Ground::Host);
    }
    for (path, _) in &view.scratch {
        consider(path, Ground::Run);
    }
    if let Some(repo) = &view.repo {
        consider(&repo.root, Ground::Run);
    }
    for bind in &view.binds {
        let kind = if bind.source == BindSource::Hidden { Ground::Run } else { Ground::Host };
        consider(&bind.target, kind);
    }
    for (path, _) in &view.tmpfs {
        consider(path, Ground::Run);
    }
    best.1
}

/// The template of a service and the sources of its mounts, in the same order.
#[must_use]
pub fn template(service: &ServicePlan, sysctls: &[(&str, &str)]) -> (Template, Vec<SourceRequest>) {
    let view = &service.view;
    let mut template = Template {
        sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        symlinks: view.symlinks.clone(),
        files: view.files.iter().map(|(path, contents)| (path.clone(), contents.to_string())).collect(),
        ..Template::default()
    };
    let mut sources = Vec::new();
    template.directories.extend(["/proc", "/dev", "/dev/pts", "/dev/shm"].map(PathBuf::from));
    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        template.mount_files.push(path.clone());
        template.mounts.push(path.clone());
        sources.push(SourceRequest { path, beneath: None, writable: true, device: true, create: false });
    }
    template.symlinks.extend(DEVICE_LINKS.map(|(path, text)| (PathBuf::from(path), PathBuf::from(text))));
    let mut place = |path: &Path, directory: bool| {
        if ground(view, path) == Ground::Root {
            let list = if directory { &mut template.directories } else { &mut template.mount_files };
            list.push(path.to_path_buf());
        }
    };
    for bind in &view.system {
        place(&bind.target, bind.directory);
    }
    for (path, _) in &view.scratch {
        place(path, true);
    }
    if let Some(repo) = &view.repo {
        place(&repo.root, true);
    }
    for bind in &view.binds {
        place(&bind.target, bind.directory);
    }
    for (path, _) in &view.tmpfs {
        place(path, true);
    }
    for bind in &view.system {
        if let BindSource::Host(path) = &bind.source {
            template.mounts.push(bind.target.clone());
            let path = path.clone();
            sources.push(SourceRequest {
                path,
                beneath: None,
                writable: false,
                device: false,
                create: false,
            });
        }
    }
    (template, sources)
}

/// The slots of a service: one for each bind that has a source, in the order of the view.
#[must_use]
pub fn slots(view: &View, root: &Path, volumes: &Path) -> Vec<Slot> {
    view.binds
        .iter()
        .filter_map(|bind| {
            let (path, beneath) = match &bind.source {
                BindSource::Host(path) => (path.clone(), path.starts_with(root).then(|| root.to_path_buf())),
                BindSource::Volume(name) => (volumes.join(name.as_str()), Some(volumes.to_path_buf())),
                BindSource::Hidden => return None,
            };
            Some(Slot {
                source: SourceRequest {
                    path,
                    beneath,
                    writable: bind.writable,
                    device: false,
                    create: bind.create,
                },
                directory: bind.directory,
                owner_mapped: bind.owner_mapped,
            })
        })
        .collect()
}

/// The hidden directories that are left out where the project is shown. They are not covered by a mount: the
/// host could take that away again, by replacing the directory under it.
///
/// A directory that is hidden in something else that the service mounts itself can only be covered.
#[must_use]
pub fn left_out(view: &View) -> Vec<&Path> {
    let Some(repo) = &view.repo else { return Vec::new() };
    let in_repo = |place: &Path| {
        let above = place.ancestors().skip(1).take_while(|above| *above != repo.root);
        let covered = |above: &Path| {
            view.tmpfs.iter().any(|(path, _)| path == above)
                || view.binds.iter().any(|bind| bind.target == above && bind.source != BindSource::Hidden)
        };
        place != repo.root && place.starts_with(&repo.root) && !above.into_iter().any(covered)
    };
    let hidden = view.binds.iter().filter(|bind| bind.source == BindSource::Hidden);
    hidden.map(|bind| bind.target.as_path()).filter(|place| in_repo(place)).collect()
}

/// What a run needs beside the plan.
#[derive(Debug, Clone, Copy)]
pub struct RunContext<'a> {
    /// The caller's ids, rootless.
    pub rootless: Option<(u32, u32)>,
    /// Secrets that are files: where, with which contents.
    pub secret_files: &'a [(PathBuf, Vec<u8>)],
    /// Secrets that are environment variables.
    pub secret_env: &'a [(String, String)],
    /// Whether a cgroup descriptor comes along.
    pub cgroup: bool,
    /// Whether a cgroup limits its processes; else a resource limit does.
    pub pids_by_cgroup: bool,
    /// Whether the program is the service (or task) itself, with its hooks and what it says of itself; else it is a
    /// build.
    pub main: bool,
    /// Whether the streams of the service itself come along, all three.
    pub given: bool,
}

/// Where a service says something of itself, for those that have a probe of that kind.
pub const NOTIFY_SOCKET: &str = "/run/notify";

/// Whether a service has a probe that waits for its own word.
fn notifies(service: &ServicePlan) -> bool {
    let probes = [&service.startup, &service.ready, &service.liveness];
    probes.into_iter().flatten().any(|probe| probe.kind == ProbeKind::Notify)
}

/// The size of a tmpfs that hides a directory. Nothing is ever written to it, but it has an inode for each
/// page, and each mount in it needs one.
const HIDDEN_BYTES: u64 = 16 << 20;

/// Processes that are ours in the service's user namespace: init.
const OUR_PROCESSES: u64 = 1;

/// What init is told to run `run`.
#[must_use]
pub fn run_spec(service: &ServicePlan, run: &Run, context: RunContext<'_>) -> RunSpec {
    let view = &service.view;
    let left_out = left_out(view);
    let mut mounts = Vec::new();
    let mut next = 0;
    for bind in &view.binds {
        if bind.source == BindSource::Hidden && left_out.contains(&bind.target.as_path()) {
            continue;
        }
        let what = if bind.source == BindSource::Hidden {
            RunMountKind::Tmpfs { bytes: HIDDEN_BYTES, writable: false }
        } else {
            next += 1;
            RunMountKind::Slot { slot: next - 1, directory: bind.directory }
        };
        mounts.push(RunMount {
            target: bind.target.clone(),
            what,
            make: ground(view, &bind.target) == Ground::Run,
        });
    }
    for (path, size) in &view.tmpfs {
        mounts.push(RunMount {
            target: path.clone(),
            what: RunMountKind::Tmpfs { bytes: size.0, writable: true },
            make: ground(view, path) == Ground::Run,
        });
    }
    let mut writable: Vec<PathBuf> = ["/dev", "/proc"].map(PathBuf::from).to_vec();
    writable.extend(view.scratch.iter().map(|(path, _)| path.clone()));
    writable.extend(view.binds.iter().filter(|bind| bind.writable).map(|bind| bind.target.clone()));
    writable.extend(view.tmpfs.iter().map(|(path, _)| path.clone()));

    let mut env = run.env.clone();
    env.extend(context.secret_env.iter().cloned());
    let hooks = if context.main { service.hooks.pre_start.as_slice() } else { &[] };
    let pre_start = hooks
        .iter()
        .map(|hook| PreStart {
            exec: ExecSpec { argv: hook.command.0.clone(), env: env.clone(), cwd: run.cwd.clone() },
            timeout: hook.timeout,
        })
        .collect();
    let streams = match (context.main, context.given, service.tty) {
        (false, _, _) => Streams::Output { idle_stdin: false },
        (true, true, tty) => Streams::Given { tty },
        (true, false, true) => Streams::Terminal,
        (true, false, false) => Streams::Output { idle_stdin: service.open_stdin },
    };
    RunSpec {
        hostname: service.name.to_string(),
        outer: outer_ids(service, context.rootless),
        inner: (view.uid, view.gid),
        distinct_user: context.rootless.is_none(),
        scratch_bytes: view.scratch_size.0,
        scratch: view.scratch.clone(),
        repo: view.repo.as_ref().map(|repo| repo.root.clone()),
        mounts,
        secrets: context.secret_files.to_vec(),
        writable,
        files_limit: service.limits.files,
        processes_limit: (!context.pids_by_cgroup).then(|| u64::from(service.limits.pids) + OUR_PROCESSES),
        notify: (context.main && notifies(service)).then(|| PathBuf::from(NOTIFY_SOCKET)),
        pre_start,
        exec: ExecSpec { argv: run.argv.clone(), env, cwd: run.cwd.clone() },
        streams,
        cgroup: context.cgroup,
        listen: match context.main {
            true => service.listen.iter().map(|listen| listen.name.clone()).collect(),
            false => Vec::new(),
        },
        decoys: service
            .policy
            .decoys
            .iter()
            .map(|decoy| (decoy.path.clone(), decoy.contents.to_string()))
            .collect(),
        executions: executions(&service.policy),
    }
}

/// What is looked for of what a run executes.
#[must_use]
pub fn executions(policy: &PolicyPlan) -> Option<Executions> {
    let rule =
        policy.rules.get(&ViolationClass::Processes).filter(|_| policy.detects(ViolationClass::Processes))?;
    let refuse = match rule.action {
        PolicyAction::Off | PolicyAction::Report => false,
        PolicyAction::Restart | PolicyAction::Kill | PolicyAction::Stop => true,
    };
    Some(Executions { allowed: policy.processes.clone()?, refuse })
}
