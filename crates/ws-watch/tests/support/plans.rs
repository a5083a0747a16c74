//! Plans of units that watch and make files, and nothing else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_core::plan::{FileSet, LimitsPlan, Makes, Plan, Run, ServicePlan, Use, View, WatchRule};
use ws_model::{
    ByteSize, ConfigPath, Hooks, Level, LogRetention, PathPattern, Reload, Restart, RestartPolicy,
    ServiceKind, ServiceName, Stop, Subnet, WatchAction, Watching, WorkspaceName,
};

/// A plan without units.
pub(crate) fn plan(root: &Path) -> Plan {
    Plan {
        name: WorkspaceName::new("test").unwrap(),
        root: root.into(),
        subnet: Subnet::DEFAULT,
        required: Level::None,
        required_because: String::new(),
        volumes: Vec::new(),
        external: Vec::new(),
        secrets: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        requires: Vec::new(),
        services: BTreeMap::new(),
        waves: Vec::new(),
        parallel_builds: None,
        watching: Watching::default(),
        channels: Vec::new(),
        warnings: Vec::new(),
    }
}

/// A name.
pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// A unit that watches nothing.
pub(crate) fn unit(text: &str) -> ServicePlan {
    ServicePlan {
        name: name(text),
        declared: name(text),
        replica: 1,
        kind: ServiceKind::Service,
        index: 0,
        address: Ipv4Addr::new(10, 0, 0, 2),
        mac: [0; 6],
        waits: Vec::new(),
        build: None,
        makes: None,
        uses: Vec::new(),
        watch: Vec::new(),
        reload: Reload::Restart,
        listen: Vec::new(),
        hold: Duration::from_secs(10),
        run: Run { argv: vec!["true".into()], env: Vec::new(), cwd: "/".into() },
        view: View {
            uid: 1000,
            gid: 1000,
            user: "dev".into(),
            home: "/home/dev".into(),
            symlinks: Vec::new(),
            files: Vec::new(),
            system: Vec::new(),
            scratch: Vec::new(),
            scratch_size: ByteSize(1 << 20),
            repo: None,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            secret_files: Vec::new(),
            secret_env: Vec::new(),
        },
        links: Vec::new(),
        publish: Vec::new(),
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        success_exit_codes: vec![0],
        open_stdin: false,
        tty: false,
        logs: LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            max: None,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
        },
        stop: Stop { command: None, signal: 15, grace: Duration::from_secs(10) },
        limits: LimitsPlan { memory: None, cpus: None, pids: 100, pids_declared: false, files: None },
        policy: ws_core::plan::PolicyPlan::default(),
    }
}

/// A pattern.
pub(crate) fn pattern(base: &Path, text: &str) -> PathPattern {
    PathPattern { base: base.into(), pattern: text.into() }
}

/// Sources.
pub(crate) fn sources(base: &Path, include: &[&str], ignore: &[&str]) -> FileSet {
    let patterns = |texts: &[&str]| texts.iter().map(|text| pattern(base, text)).collect();
    FileSet { include: patterns(include), ignore: patterns(ignore), sources_only: true }
}

/// All files.
pub(crate) fn files(base: &Path, include: &[&str]) -> FileSet {
    FileSet { sources_only: false, ..sources(base, include, &[]) }
}

/// A rule.
pub(crate) fn rule(files: FileSet, action: WatchAction) -> WatchRule {
    WatchRule { files, action, at: ConfigPath::default() }
}

/// Adds a unit with rules.
pub(crate) fn watch(plan: &mut Plan, text: &str, rules: Vec<WatchRule>) {
    let mut unit = unit(text);
    unit.watch = rules;
    plan.services.insert(unit.name.clone(), unit);
}

/// Adds a build.
pub(crate) fn build(plan: &mut Plan, text: &str, inputs: FileSet, outputs: Option<FileSet>) {
    let mut unit = unit(text);
    unit.kind = ServiceKind::Build;
    unit.makes = Some(Makes { inputs, outputs, recipe: "make".into() });
    plan.services.insert(unit.name.clone(), unit);
}

/// Adds a unit that uses what a build makes.
pub(crate) fn user(plan: &mut Plan, text: &str, build: &str, files: Option<FileSet>) {
    let mut unit = unit(text);
    unit.uses = vec![Use { build: name(build), files }];
    plan.services.insert(unit.name.clone(), unit);
}

/// The real path of a temporary directory.
pub(crate) fn real(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().canonicalize().unwrap()
}
