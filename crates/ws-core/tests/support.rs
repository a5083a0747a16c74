//! Workspaces in a line: a builder for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_core::plan::{Facts, Options, PathKind, Plan, resolve};
use ws_model::{
    Build, ByteSize, CommandLine, Condition, Dependency, HookCommand, Hooks, Limits, Link, LinkPorts,
    LogRetention, Mount, MountSource, PolicyAction, PolicyRule, PortProto, Probe, ProbeKind, Problem,
    Protocol, Publish, Restart, RestartPolicy, SecretName, SecretSource, SecretTarget, SecretUse, Service,
    ServiceKind, ServiceName, Stdin, Stop, Subnet, Tmpfs, ViolationClass, VolumeDecl, VolumeName, Workspace,
    WorkspaceName,
};

pub(crate) const ROOT: &str = "/home/me/shop";

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// `5432` or `53/udp`
fn port(text: &str) -> PortProto {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    PortProto { port: port.parse().unwrap(), protocol }
}

/// A path of the project unless it is absolute.
pub(crate) fn path(text: &str) -> PathBuf {
    Path::new(ROOT).join(text)
}

/// A service that is being described.
#[derive(Debug, Clone)]
pub(crate) struct Svc {
    pub(crate) name: ServiceName,
    pub(crate) service: Service,
}

pub(crate) fn svc(text: &str) -> Svc {
    let service = Service {
        kind: ServiceKind::Service,
        command: CommandLine(vec!["serve".to_owned()]),
        build: None,
        inputs: None,
        watch: None,
        reload: ws_model::Reload::Restart,
        listen: Vec::new(),
        hold: std::time::Duration::from_secs(10),
        working_dir: PathBuf::from(ROOT),
        working_dir_declared: false,
        writable: Vec::new(),
        makes: Vec::new(),
        reads: Vec::new(),
        environment: BTreeMap::new(),
        depends_on: Vec::new(),
        links: Vec::new(),
        expose: Vec::new(),
        ports: Vec::new(),
        volumes: Vec::new(),
        tmpfs: Vec::new(),
        secrets: Vec::new(),
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        replicas: 1,
        success_exit_codes: Vec::new(),
        stdin: Stdin::default(),
        tty: false,
        logs: LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            max: Some(3),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
        },
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(10) },
        limits: Limits::default(),
        policy: ws_model::Policy::default(),
    };
    Svc { name: name(text), service }
}

pub(crate) fn task(text: &str) -> Svc {
    let mut svc = svc(text);
    svc.service.kind = ServiceKind::Task;
    svc.service.restart.policy = RestartPolicy::No;
    svc
}

fn command(text: &str) -> CommandLine {
    CommandLine(text.split_whitespace().map(str::to_owned).collect())
}

fn hook(text: &str) -> HookCommand {
    HookCommand { command: command(text), timeout: Duration::from_secs(60) }
}

/// Fails for good after 60 s, or with three failures in a row.
fn probe(kind: ProbeKind) -> Probe {
    Probe {
        kind,
        start_interval: Duration::from_millis(200),
        interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        within: Duration::from_secs(60),
        failures: 3,
    }
}

impl Svc {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.service);
        self
    }

    /// `db:5432 cache:6379/tcp auth`; a `!` at the end of one: `wait: false`.
    pub(crate) fn links(self, text: &str) -> Self {
        let links = text.split_whitespace().map(|link| {
            let (link, wait) = link.strip_suffix('!').map_or((link, true), |link| (link, false));
            let (to, ports) = match link.split_once(':') {
                None => (link, LinkPorts::Declared),
                Some((to, ports)) => (to, LinkPorts::These(ports.split(',').map(port).collect())),
            };
            Link { to: name(to), ports, wait }
        });
        let links = links.collect();
        self.with(|service| service.links = links)
    }

    /// `db migrate:completed cache:started?`; at the end of one `?`: `required: false`, `!`: `restart: true`
    /// (`db:ready?!` for both).
    pub(crate) fn after(self, text: &str) -> Self {
        let dependencies = text.split_whitespace().map(|dependency| {
            let (dependency, restart) =
                dependency.strip_suffix('!').map_or((dependency, false), |d| (d, true));
            let (dependency, required) =
                dependency.strip_suffix('?').map_or((dependency, true), |d| (d, false));
            let (on, condition) = match dependency.split_once(':') {
                None => (dependency, None),
                Some((on, "started")) => (on, Some(Condition::Started)),
                Some((on, "ready")) => (on, Some(Condition::Ready)),
                Some((on, "completed")) => (on, Some(Condition::Completed)),
                Some((_, other)) => panic!("no condition: {other}"),
            };
            Dependency { service: name(on), condition, required, restart }
        });
        let dependencies = dependencies.collect();
        self.with(|service| service.depends_on = dependencies)
    }

    pub(crate) fn expose(self, text: &str) -> Self {
        let ports = text.split_whitespace().map(port).collect();
        self.with(|service| service.expose = ports)
    }

    /// `8080:80 0:9000`
    pub(crate) fn ports(self, text: &str) -> Self {
        let ports = text.split_whitespace().map(|entry| {
            let (host, inner) = entry.split_once(':').unwrap();
            Publish {
                host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                host_port: host.parse().ok().filter(|port| *port != 0),
                port: inner.parse().unwrap(),
                protocol: Protocol::Tcp,
            }
        });
        let ports = ports.collect();
        self.with(|service| service.ports = ports)
    }

    pub(crate) fn probe(self, kind: ProbeKind) -> Self {
        self.with(|service| service.ready = Some(probe(kind)))
    }

    pub(crate) fn startup(self, kind: ProbeKind) -> Self {
        self.with(|service| service.startup = Some(probe(kind)))
    }

    pub(crate) fn liveness(self, kind: ProbeKind) -> Self {
        self.with(|service| service.liveness = Some(probe(kind)))
    }

    pub(crate) fn post_start(self, text: &str) -> Self {
        self.with(|service| service.hooks.post_start = vec![hook(text)])
    }

    pub(crate) fn pre_stop(self, text: &str) -> Self {
        self.with(|service| service.hooks.pre_stop = vec![hook(text)])
    }

    pub(crate) fn stop_command(self, text: &str) -> Self {
        self.with(|service| service.stop.command = Some(command(text)))
    }

    pub(crate) fn tcp(self, port: u16) -> Self {
        self.probe(ProbeKind::Tcp { port })
    }

    pub(crate) fn dir(self, text: &str) -> Self {
        let dir = path(text);
        self.with(|service| {
            service.working_dir = dir;
            service.working_dir_declared = true;
        })
    }

    pub(crate) fn writable(self, text: &str) -> Self {
        let paths = text.split_whitespace().map(path).collect();
        self.with(|service| service.writable = paths)
    }

    pub(crate) fn reads(self, text: &str) -> Self {
        let paths = text.split_whitespace().map(path).collect();
        self.with(|service| service.reads = paths)
    }

    /// `pg:/var/lib/pg ./conf:/etc/app:ro`
    pub(crate) fn volumes(self, text: &str) -> Self {
        let mounts = text.split_whitespace().map(|entry| {
            let (entry, read_only) = entry.strip_suffix(":ro").map_or((entry, false), |entry| (entry, true));
            let (source, target) = entry.split_once(':').unwrap_or((entry, entry));
            let named = !source.starts_with(['.', '/']);
            let source_path = path(source.trim_start_matches("./"));
            let target = path(target.trim_start_matches("./"));
            let source = if named {
                MountSource::Volume(VolumeName::new(source).unwrap())
            } else {
                MountSource::Host(source_path)
            };
            Mount { source, target, read_only }
        });
        let mounts = mounts.collect();
        self.with(|service| service.volumes = mounts)
    }

    pub(crate) fn tmpfs(self, text: &str) -> Self {
        let tmpfs =
            text.split_whitespace().map(|target| Tmpfs { target: path(target), size: None }).collect();
        self.with(|service| service.tmpfs = tmpfs)
    }

    /// `key token=TOKEN`
    pub(crate) fn secrets(self, text: &str) -> Self {
        let secrets = text.split_whitespace().map(|entry| {
            let (secret, target) = match entry.split_once('=') {
                None => (entry, SecretTarget::File),
                Some((secret, variable)) => (secret, SecretTarget::Env(variable.to_owned())),
            };
            SecretUse { name: SecretName::new(secret).unwrap(), target }
        });
        let secrets = secrets.collect();
        self.with(|service| service.secrets = secrets)
    }

    pub(crate) fn env(self, key: &str, value: &str) -> Self {
        self.with(|service| {
            service.environment.insert(key.to_owned(), value.to_owned());
        })
    }

    pub(crate) fn run(self, text: &str) -> Self {
        let argv = text.split_whitespace().map(str::to_owned).collect();
        self.with(|service| service.command = CommandLine(argv))
    }

    pub(crate) fn build(self, text: &str) -> Self {
        let argv = text.split_whitespace().map(str::to_owned).collect();
        self.with(|service| {
            let build = Build {
                working_dir: service.working_dir.clone(),
                working_dir_declared: service.working_dir_declared,
                ..making(argv)
            };
            service.build = Some(ws_model::BuildRef::Own(Box::new(build)));
        })
    }

    pub(crate) fn policy(self, policy: RestartPolicy) -> Self {
        self.with(|service| service.restart.policy = policy)
    }

    /// Seconds.
    pub(crate) fn grace(self, seconds: u64) -> Self {
        self.with(|service| service.stop.grace = Duration::from_secs(seconds))
    }

    /// `network:kill memory:report`
    pub(crate) fn about(self, text: &str) -> Self {
        let rules = text.split_whitespace().map(|rule| {
            let (class, action) = rule.split_once(':').unwrap();
            let class = ViolationClass::ALL.into_iter().find(|it| it.as_str() == class).unwrap();
            let action = [
                PolicyAction::Off,
                PolicyAction::Report,
                PolicyAction::Restart,
                PolicyAction::Kill,
                PolicyAction::Stop,
            ]
            .into_iter()
            .find(|it| it.as_str() == action);
            (class, PolicyRule { action: Some(action.unwrap()), ..PolicyRule::default() })
        });
        let rules = rules.collect();
        self.with(|service| service.policy.rules = rules)
    }

    pub(crate) fn memory(self, mib: u64) -> Self {
        self.with(|service| service.limits.memory = Some(ByteSize::mib(mib)))
    }
}

/// A build with nothing but its command.
pub(crate) fn making(argv: Vec<String>) -> Build {
    Build {
        command: CommandLine(argv),
        fetch: None,
        working_dir: path(""),
        working_dir_declared: false,
        environment: BTreeMap::new(),
        inputs: Vec::new(),
        ignore: Vec::new(),
        outputs: Vec::new(),
        writable: Vec::new(),
        reads: Vec::new(),
        volumes: Vec::new(),
        after: Vec::new(),
        limits: ws_model::Limits::default(),
    }
}

/// A service that runs from the build `all`.
pub(crate) fn shared(text: &str) -> Svc {
    let all = ws_model::BuildRef::Shared { name: name("all"), uses: Vec::new() };
    svc(text).with(|service| service.build = Some(all))
}

/// A workspace with the facts of a machine that has what the tests need.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) workspace: Workspace,
    pub(crate) facts: Facts,
    pub(crate) options: Options,
}

/// A workspace of these services, on a machine where every directory that they name exists.
pub(crate) fn world(services: impl IntoIterator<Item = Svc>) -> World {
    let workspace = Workspace {
        name: WorkspaceName::new("shop").unwrap(),
        root: PathBuf::from(ROOT),
        policy_inputs: vec![path("workspace.yaml"), path(".env")],
        hidden: vec![path(".env")],
        enforcement: None,
        subnet: Subnet::DEFAULT,
        volumes: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        secrets: BTreeMap::new(),
        external: BTreeMap::new(),
        requires: Vec::new(),
        builds: BTreeMap::from([(name("all"), making(vec!["make".to_owned()]))]),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        policy: ws_model::Policy::default(),
        services: services.into_iter().map(|svc| (svc.name, svc.service)).collect(),
    };
    let facts = Facts {
        uid: 501,
        gid: 20,
        user: "me".to_owned(),
        home: PathBuf::from("/home/me"),
        root_entries: ["workspace.yaml", ".env", ".git"].map(str::to_owned).to_vec(),
        paths: BTreeMap::new(),
        entries: BTreeMap::new(),
    };
    let mut world = World { workspace, facts, options: Options::default() };
    world.link("/bin", "usr/bin");
    world.link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC");
    for directory in ["/usr", "/opt", "/etc/ssl", "/etc/python3.11", "/home/me/shop"] {
        world.directory(directory);
    }
    world.file("/etc/services");
    for (_, service) in world.workspace.services.clone() {
        let hosts = service.volumes.iter().filter_map(|mount| match &mount.source {
            MountSource::Host(path) => Some(path),
            MountSource::Volume(_) => None,
        });
        for path in service.writable.iter().chain(&service.reads).chain(hosts).chain([&service.working_dir]) {
            world.directory(path.to_str().unwrap());
        }
    }
    world
}

impl World {
    fn entry(&mut self, text: &str, kind: PathKind) {
        let path = path(text);
        if let Ok(rest) = path.strip_prefix(ROOT)
            && let Some(first) = rest.components().next()
        {
            let first = first.as_os_str().to_str().unwrap().to_owned();
            if !self.facts.root_entries.contains(&first) {
                self.facts.root_entries.push(first);
            }
            for above in path.ancestors().skip(1).take_while(|above| above.starts_with(ROOT)) {
                self.facts.paths.entry(above.to_path_buf()).or_insert(PathKind::Directory);
            }
        }
        self.facts.paths.insert(path, kind);
    }

    pub(crate) fn directory(&mut self, text: &str) {
        self.entry(text, PathKind::Directory);
    }

    pub(crate) fn file(&mut self, text: &str) {
        self.entry(text, PathKind::File);
    }

    pub(crate) fn link(&mut self, text: &str, to: &str) {
        self.entry(text, PathKind::Symlink(PathBuf::from(to)));
    }

    pub(crate) fn missing(&mut self, text: &str) {
        self.facts.paths.remove(&path(text));
    }

    pub(crate) fn volume(&mut self, text: &str) {
        self.workspace.volumes.insert(VolumeName::new(text).unwrap(), VolumeDecl::default());
    }

    /// A secret from a file that exists.
    pub(crate) fn secret(&mut self, text: &str, source: &str) {
        self.workspace.secrets.insert(SecretName::new(text).unwrap(), SecretSource::File(path(source)));
        self.workspace.policy_inputs.push(path(source));
        self.workspace.hidden.push(path(source));
        self.file(source);
    }

    pub(crate) fn resolve(&self) -> Result<Plan, Vec<Problem>> {
        resolve(&self.workspace, &self.facts, &self.options)
    }

    #[track_caller]
    pub(crate) fn plan(&self) -> Plan {
        match self.resolve() {
            Ok(plan) => plan,
            Err(problems) => panic!("no plan:\n{}", text_of(&problems)),
        }
    }

    /// The codes of what is wrong, in order of discovery.
    #[track_caller]
    pub(crate) fn problems(&self) -> Vec<Problem> {
        match self.resolve() {
            Ok(plan) => panic!("there is a plan:\n{plan:#?}"),
            Err(problems) => problems,
        }
    }
}

/// Problems as a person reads them.
pub(crate) fn text_of(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        text += &format!("{:?} {} at {}: {}\n", problem.severity, problem.code, problem.at, problem.message);
        if !problem.label.is_empty() {
            text += &format!("  ^ {}\n", problem.label);
        }
        for (at, label) in &problem.related {
            text += &format!("  also {at}: {label}\n");
        }
        for help in &problem.help {
            text += &format!("  help: {help}\n");
        }
    }
    text
}
