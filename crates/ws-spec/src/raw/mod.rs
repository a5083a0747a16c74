//! The file as it is written: one type for each mapping that it has.
//!
//! The documentation of these types and their fields is the documentation of the file: the JSON Schema
//! is made from them, and editors show it. It is written for the users of `ws`.

pub(crate) mod forms;
pub(crate) mod life;
pub(crate) mod outside;
pub(crate) mod policy;
pub(crate) mod probe;
pub(crate) mod read;
pub(crate) mod reload;
pub(crate) mod scalar;

use ws_model::{SecretName, ServiceName, VolumeName, WorkspaceName};

use forms::{
    CommandRaw, DependsOn, EnvFileRaw, EnvironmentRaw, IncludeRaw, KindWord, LevelWord, LinkRaw, MountRaw,
    ProfileName, RestartWord, SecretUseRaw, SignalRaw, StdinWord, TmpfsRaw,
};
use life::{ExitCodeRaw, FileCount, HookRaw, Parallel, Replicas};
use outside::{ExternalRaw, ProgramName, VersionRaw};
use policy::PolicyRaw;
use probe::ProbeRaw;
use read::{HostPath, List, Map, OneOrMany, long_only, record};
use reload::{
    BuildName, BuildRaw, ListenRaw, PatternRaw, ReloadWord, ServiceBuildRaw, WatchRaw, WatchingRaw,
};
use scalar::{Backoff, Cpus, Network, Port, PublishRaw, Size, Time};

record! {
    /// A workspace: services that run together from one working tree, each isolated, each reaching only
    /// what it is linked to. Relative paths are relative to the directory of this file.
    ///
    /// `${NAME}` in any value is replaced by a variable; `${NAME:-x}` gives a default, `${NAME:?message}`
    /// insists, `$$` is a dollar sign. Variables come from the environment of `ws`, then from
    /// `--env-file` (a later one wins), then from this file's own `env_file`, then from `.env` next to
    /// the first file.
    #[schemars(rename = "Workspace")]
    FileRaw: "the workspace" {
        /// The name of the workspace: `[a-z0-9][a-z0-9_-]*`. Without it, the name of the directory.
        name: WorkspaceName,
        /// The least level of isolation to accept; `ws up` refuses to start on a machine that offers
        /// less. Without it: the least level at which everything that this file declares is enforced.
        enforcement: LevelWord,
        /// Further workspace files that belong to this workspace: `[services/api/workspace.yaml]`. In each of them,
        /// paths are relative to its own directory, which is also where its services run, and `defaults` and
        /// `env_file` are for itself. One outside of the project starts with `..`, `~` or `/`; its services run in
        /// the project. A name can be in one of the files only, and `name`,
        /// `enforcement` and `network` in the first one only.
        include: OneOrMany<IncludeRaw>,
        /// The private network of the workspace.
        network: NetworkRaw,
        /// Env files with variables for `${…}` in this file, a later one wins. They are never handed to
        /// services: a service's own `env_file` does that.
        env_file: OneOrMany<EnvFileRaw>,
        /// Named volumes: directories that `ws` keeps across runs, one set for each copy of the
        /// workspace.
        volumes: Map<VolumeName, VolumeRaw>,
        /// Secrets by name. A service gets those that its own `secrets` lists.
        secrets: Map<SecretName, SecretRaw>,
        /// Names for what runs elsewhere: `{ orders: "host:3000" }` for a port of this machine,
        /// `"192.168.1.5:5432"`, `"api.example:443"`. A service reaches it by a link, `orders`, as
        /// `orders:3000`: `ws` connects on from the host, for TCP.
        external: Map<ServiceName, ExternalRaw>,
        /// Programs that must be there, and of which version: `{ node: ">=20", psql: 15 }`. `ws up` asks each
        /// for its version before anything starts.
        requires: Map<ProgramName, VersionRaw>,
        /// Builds that several services share, by name: a service has one by `build: NAME`. Each runs once for all of
        /// them, in the directory of this file unless it says otherwise, and shows as `NAME-build`.
        builds: Map<BuildName, BuildRaw>,
        /// How many builds run at a time: 1 to 1000. Default: 4, as most compilers use several
        /// processors. In the first file only.
        parallel_builds: Parallel,
        /// How files are watched, for all services. What is watched for a service, its own `watch` and `build` say. In
        /// the first file only.
        watch: WatchingRaw,
        /// What is done about violations, for all services. In the first file only.
        policy: PolicyRaw,
        /// What every service has unless it says otherwise. Mappings are merged key by key; a list or a
        /// single value of the service replaces the default. Variables of `environment` here are
        /// overridden by the service's `env_file`, and that by its `environment`.
        defaults: ServiceRaw,
        /// The services and tasks by name. The name is also the host name under which linked services
        /// reach it.
        services: Map<ServiceName, ServiceRaw>,
    }
}
long_only!(FileRaw);

record! {
    /// The private network.
    #[schemars(rename = "Network")]
    NetworkRaw: "a network" {
        /// Where the addresses of the services lie. Private to the workspace: every workspace may use the
        /// same. Default: `10.77.0.0/16`.
        subnet: Network,
    }
}
long_only!(NetworkRaw);

record! {
    /// A named volume.
    #[schemars(rename = "Volume")]
    VolumeRaw: "a volume" {
        /// Whether more than one service may mount it. Default: false, and then a second one is an
        /// error, because a shared directory is a channel past the links.
        shared: bool,
    }
}
long_only!(VolumeRaw);

record! {
    /// Where a secret comes from: exactly one of the keys.
    #[schemars(rename = "Secret")]
    SecretRaw: "a secret" {
        /// The file whose contents it is. Services see it under `/run/secrets` only, never at its own
        /// path.
        file: HostPath,
        /// The variable in the environment of `ws` whose value it is.
        environment: String,
    }
}
long_only!(SecretRaw);

record! {
    /// A service or task.
    #[schemars(rename = "Service")]
    ServiceRaw: "a service" {
        /// `service` stays up; `task` runs to completion, and is ready once it has ended with 0.
        /// Default: `service`.
        kind: KindWord,
        /// The profiles that switch it on: without one of them chosen by `--profile` it is left out.
        /// No profiles: it is always on.
        profiles: List<ProfileName>,
        /// What to run: a list of program and arguments, or a text that is split as a shell would split
        /// it, without running a shell. A program without a slash is looked up in `PATH` inside; a
        /// relative one with a slash is relative to `working_dir`.
        command: CommandRaw,
        /// Whether the text of `command` is run by `/bin/sh -c`. Default: false.
        shell: bool,
        /// What makes what it runs from: the name of one of `builds`, `{ name: rust, uses: [target/debug/api] }`, or
        /// a build of its own, `{ command: make, inputs: [src], outputs: [out/api] }`. It runs before the service
        /// starts, if it must, and again when what it is made of changes. When it fails, the old program goes on.
        build: ServiceBuildRaw,
        /// For a task: the files that decide whether it must run again once it has ended with 0, relative to
        /// `working_dir`: `[sql]`. It runs again when the contents of one of them changed; `ws down --volumes`
        /// forgets that it has run. Default: it runs once in each life of the stack.
        inputs: List<PatternRaw>,
        /// The files that are watched for it, relative to `working_dir`, each with what is done when one changes: `[src]`,
        /// or `[{ path: conf, action: { signal: SIGHUP }, ignore: ["*.bak"] }]`. Only other contents are a change.
        /// Default: what its build is made of; nothing for a service without a build. `[]` watches nothing.
        watch: List<WatchRaw>,
        /// How a new run takes the place of the old one when it is reloaded: `restart` (the old one has ended before the
        /// new one starts), or `overlap` (the new one is ready before the old one is stopped; if it never is, the old
        /// one stays). With `overlap` two runs are there at once, so each port of the service must be in `listen`.
        /// Default: `restart`.
        reload: ReloadWord,
        /// Listening TCP sockets that `ws` holds for it, so that connections wait while it is restarted: `[8080]`, or
        /// `[{ port: 8080, name: http }]`. Each run gets them as systemd would pass them: from file descriptor 3 on, in
        /// this order, told by `$LISTEN_FDS`, `$LISTEN_PID` and `$LISTEN_FDNAMES` (sd_listen_fds).
        listen: List<ListenRaw>,
        /// How long a connection to one of its published `ports` waits while the service is started again, in the place
        /// of being refused: up to `1h`; `0s` refuses at once. Default: `10s`.
        hold: Time,
        /// The current directory. Default: the directory of this file, if it lies in the project. Where it is a proper
        /// subdirectory of the project and is named here, the service may write in it.
        working_dir: HostPath,
        /// Directories that the service may write beside the default. Everything else of the project is
        /// read-only.
        writable: List<HostPath>,
        /// Files and directories outside the project, or left out of it, that the service may read.
        reads: List<HostPath>,
        /// Environment variables: a mapping, or a list of `NAME=value`. A name without a value is passed
        /// through from the environment of `ws`. Nothing else is inherited.
        environment: EnvironmentRaw,
        /// Env files with variables for the service, a later one wins; `environment` wins over them.
        env_file: OneOrMany<EnvFileRaw>,
        /// Services that must be there first, without the right to reach them: a list of names, or a
        /// mapping from names to a condition.
        depends_on: DependsOn,
        /// All that the service may reach: `db:5432`, `dns:53/udp`, or `db` for every port that `db`
        /// declares in `expose`, `ports`, `listen` and its probes. No links: it reaches nothing. The start waits until
        /// the target is ready, unless `wait: false`.
        links: List<LinkRaw>,
        /// The ports that a link without a port means. Grants nothing by itself.
        expose: List<Port>,
        /// Ports that are published on the host.
        ports: List<PublishRaw>,
        /// Volumes and directories: `name:/data`, `./dir:/data`, `./dir` (at its own path), each with
        /// `:ro` if the service must not write it.
        volumes: List<MountRaw>,
        /// Private directories in memory, empty at each start: `/cache`, or `/cache:size=64M`.
        tmpfs: OneOrMany<TmpfsRaw>,
        /// The secrets that the service gets, as files `/run/secrets/<name>`; `{ name: { env: NAME } }`
        /// hands one over as an environment variable.
        secrets: List<SecretUseRaw>,
        /// Until when it is starting: `ready` and `liveness` are not asked before this has succeeded once. For
        /// programs that take long to start, and some of that time cannot answer.
        #[schemars(with = "Option<probe::ProbeSchema>")]
        startup: ProbeRaw,
        /// When it is ready, and whether it still is: one that fails afterwards makes the service unhealthy
        /// until it succeeds again. Without it: ready as soon as its program runs, or `startup` has succeeded.
        #[schemars(with = "Option<probe::ProbeSchema>")]
        ready: ProbeRaw,
        /// Whether it still works, asked from the time when it was ready first: one that fails is stopped, and
        /// `restart` says what then. Not `log`.
        #[schemars(with = "Option<probe::ProbeSchema>")]
        liveness: ProbeRaw,
        /// Commands that run in the service's sandbox before its program, one after the other, at each start.
        /// The first that fails ends the start. Each is a text, a list of program and arguments, or
        /// `{ command: …, shell: true, timeout: 60s }`.
        pre_start: OneOrMany<HookRaw>,
        /// Commands that run beside the program as soon as it runs. The service is not ready before all of them
        /// have ended with 0; the first that fails ends the run.
        post_start: OneOrMany<HookRaw>,
        /// Commands that run before the program is asked to stop, within the time of `stop.grace`. One that
        /// fails is told, and holds nothing up.
        pre_stop: OneOrMany<HookRaw>,
        /// How many copies of it run: 1 to 100, default 1. Copies of `api` are `api-1`, `api-2` and so on, each
        /// with an address of its own; a link to `api` reaches them all, and its name lists all addresses.
        replicas: Replicas,
        /// Exit codes that are a success beside 0, as numbers or signals: `[143, SIGINT]`. They count for tasks,
        /// for `restart: on-failure` and for how its end is told.
        success_exit_codes: OneOrMany<ExitCodeRaw>,
        /// What its standard input is: `open`, a pipe that stays silent, or `closed`, at its end at once.
        /// Default: `open` for services, `closed` for tasks.
        stdin: StdinWord,
        /// Whether it runs on a terminal of its own: for programs that show or buffer differently there. What it
        /// writes becomes its standard output. Default: false.
        tty: bool,
        /// How much of its output is kept.
        logs: LogsRaw,
        /// What happens when it ends: `no`, `on-failure`, `always`, `unless-stopped`, or a mapping.
        /// Default: `on-failure` for services, `no` for tasks.
        #[schemars(with = "Option<forms::RestartSchema>")]
        restart: RestartRaw,
        /// How it is stopped.
        stop: StopRaw,
        /// What it may use.
        limits: LimitsRaw,
        /// What is done about its violations, where that is not what `policy` of the workspace says.
        policy: PolicyRaw,
    }
}
long_only!(ServiceRaw);

record! {
    /// What happens when a service ends.
    #[schemars(rename = "RestartLong")]
    RestartRaw: "a restart policy" {
        /// When it is started again: `no`, `on-failure`, `always`, `unless-stopped`.
        policy: RestartWord,
        /// How often in a row. Default: without end. The count starts anew after a time without a fault.
        max: Count,
        /// The first pause and the longest; each is twice the one before. Default: `200ms..30s`.
        backoff: Backoff,
    }
}

record! {
    /// How a service is stopped.
    #[schemars(rename = "Stop")]
    StopRaw: "a stop" {
        /// A command that runs inside and makes it stop, in place of the signal: a list, or a text. Where it has
        /// ended and the program has not, the signal follows.
        command: CommandRaw,
        /// Whether the text of `command` is run by `/bin/sh -c`. Default: false.
        shell: bool,
        /// The signal that asks it to stop. Default: `SIGTERM`.
        signal: SignalRaw,
        /// The time that it gets before it is killed, `pre_stop` and `command` included. Default: `10s`.
        grace: Time,
    }
}
long_only!(StopRaw);

record! {
    /// How much of the output of a service is kept on disk, for each of its replicas.
    #[schemars(rename = "Logs")]
    LogsRaw: "`logs`" {
        /// The size at which a file is put aside and a new one is begun: `10M`, at least `64K`.
        max_size: Size,
        /// How many files are kept beside the present one, the oldest is removed: 1 to 1000.
        max_files: FileCount,
        /// Files whose last line is older than this are removed: `7d`. Default: no file is removed for its age.
        max_age: Time,
    }
}
long_only!(LogsRaw);

record! {
    /// What a service may use. A limit that is not here is not set, except `pids`.
    #[schemars(rename = "Limits")]
    LimitsRaw: "`limits`" {
        /// Memory: `512M`. A service that needs more is killed by the kernel, and started again as
        /// `restart` says. No swap is given.
        memory: Size,
        /// Processors: `1.5`.
        cpus: Cpus,
        /// Processes and threads. Default: 4096.
        pids: Count,
        /// Open files of each process. Default: what `ws` itself may have.
        files: Count,
        /// The size of its private `/tmp`, `/run`, home and `/dev/shm` together.
        tmp: Size,
    }
}
long_only!(LimitsRaw);

/// A whole number above zero.
#[derive(Debug, Clone, Copy, schemars::JsonSchema)]
#[schemars(transparent, inline)]
pub(crate) struct Count(#[schemars(range(min = 1, max = 1_000_000_000))] pub(crate) u32);

impl read::Read for Count {
    fn read(node: &crate::yaml::Node, cx: &mut read::Cx<'_>) -> Option<Self> {
        let number = read::integer(node, cx, "a whole number", 1..=1_000_000_000)?;
        u32::try_from(number).ok().map(Self)
    }
}
impl read::Merge for Count {}
