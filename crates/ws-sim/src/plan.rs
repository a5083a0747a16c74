//! The plan of a scenario: made by hand, so that what is simulated is the engine and not the planner.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ws_core::plan::{FileSet, LimitsPlan, Makes, Plan, Run, ServicePlan, Use, View, Wait};
use ws_model::{
    ByteSize, CommandLine, ConfigPath, HookCommand, Hooks, Level, LogRetention, Probe, ProbeKind, Protocol,
    Publish, Reload, ServiceKind, ServiceName, Stop, Subnet, WorkspaceName,
};

use crate::scenario::{Scenario, Unit, UnitProbe};

/// A plan of a scenario: 0 is the first one.
///
/// # Panics
/// Never: the names are good.
#[must_use]
pub fn plan(scenario: &Scenario, number: usize) -> Plan {
    let units = scenario.plan(number).iter();
    let services = units.map(|unit| (unit.name.clone(), service(unit, scenario.number(&unit.name))));
    Plan {
        name: WorkspaceName::new("sim").expect("it is a name"),
        root: PathBuf::from("/sim"),
        subnet: Subnet::DEFAULT,
        required: Level::None,
        required_because: "nothing is declared".to_owned(),
        volumes: Vec::new(),
        external: Vec::new(),
        requires: Vec::new(),
        parallel_builds: None,
        watching: ws_model::Watching::default(),
        secrets: BTreeMap::new(),
        borrowed: BTreeMap::new(),
        services: services.collect(),
        waves: Vec::new(),
        channels: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The plan of one service.
#[must_use]
pub fn service(unit: &Unit, index: u32) -> ServicePlan {
    let (declared, replica) = unit.replica_of.clone().unwrap_or((unit.name.clone(), 1));
    ServicePlan {
        name: unit.name.clone(),
        declared,
        replica,
        kind: unit.kind,
        index,
        address: Subnet::DEFAULT.host(index),
        mac: [2, 0, 0, 0, 0, u8::try_from(index).unwrap_or(u8::MAX)],
        waits: unit
            .waits
            .iter()
            .map(|wait| Wait {
                on: wait.on.clone(),
                condition: wait.condition,
                required: wait.required,
                restart: wait.restart,
                at: ConfigPath::default(),
            })
            .collect(),
        build: None,
        makes: (unit.kind == ServiceKind::Build).then(|| Makes {
            inputs: files(),
            outputs: Some(files()),
            recipe: unit.version.to_string(),
        }),
        uses: unit.uses.iter().map(|build| Use { build: build.clone(), files: Some(files()) }).collect(),
        watch: Vec::new(),
        reload: if unit.overlap { Reload::Overlap } else { Reload::Restart },
        listen: Vec::new(),
        hold: std::time::Duration::from_secs(10),
        run: run(unit),
        view: view(unit),
        links: Vec::new(),
        publish: unit.port.map(publish).into_iter().collect(),
        startup: unit.startup.as_ref().map(probe),
        ready: unit.ready.as_ref().map(probe),
        liveness: unit.live.as_ref().map(probe),
        hooks: Hooks {
            pre_start: Vec::new(),
            post_start: unit.post_start.map(hook).into_iter().collect(),
            pre_stop: unit.pre_stop.map(hook).into_iter().collect(),
        },
        success_exit_codes: {
            let mut codes = vec![0];
            codes.extend(&unit.success);
            codes.sort_unstable();
            codes
        },
        open_stdin: unit.kind == ServiceKind::Service,
        tty: false,
        logs: LogRetention::default(),
        restart: unit.restart.clone(),
        stop: Stop {
            command: unit.stop_command.then(|| CommandLine(vec!["stop".to_owned()])),
            signal: unit.signal,
            grace: unit.grace,
        },
        limits: LimitsPlan {
            memory: (unit.limit > 0).then(|| ByteSize::mib(unit.limit.into())),
            cpus: None,
            pids: 100,
            pids_declared: false,
            files: None,
        },
        policy: ws_core::plan::PolicyPlan::default(),
    }
}

/// A command that runs once in the place of a service: what `ws run` makes of it.
#[must_use]
pub fn one_off(of: &Unit, name: ServiceName) -> Unit {
    Unit {
        waits: of
            .waits
            .iter()
            .map(|wait| crate::scenario::UnitWait { restart: false, ..wait.clone() })
            .collect(),
        replica_of: Some((of.replica_of.as_ref().map_or_else(|| of.name.clone(), |(of, _)| of.clone()), 1)),
        signal: of.signal,
        grace: of.grace,
        habits: of.habits.clone(),
        ..Unit::new(name, ServiceKind::Task)
    }
}

fn run(unit: &Unit) -> Run {
    // As in a real plan: what tells of itself is told where to.
    let notifies =
        [&unit.startup, &unit.ready, &unit.live].into_iter().flatten().filter(|probe| probe.notify);
    let env = notifies.map(|probe| ("NOTIFY".to_owned(), format!("{:?}", probe.interval)));
    Run {
        argv: vec!["serve".to_owned(), unit.version.to_string()],
        env: env.collect(),
        cwd: PathBuf::from("/sim"),
    }
}

fn files() -> FileSet {
    FileSet { include: Vec::new(), ignore: Vec::new(), sources_only: false }
}

fn publish(port: u16) -> Publish {
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Publish { host, host_port: Some(port), port: 80, protocol: Protocol::Tcp }
}

fn hook(timeout: Duration) -> HookCommand {
    HookCommand { command: CommandLine(vec!["hook".to_owned()]), timeout }
}

fn probe(probe: &UnitProbe) -> Probe {
    Probe {
        kind: if probe.notify { ProbeKind::Notify } else { ProbeKind::Tcp { port: 80 } },
        start_interval: Duration::from_millis(200),
        interval: probe.interval,
        timeout: Duration::from_secs(5),
        within: probe.within,
        failures: probe.failures,
    }
}

fn view(unit: &Unit) -> View {
    View {
        uid: 1000,
        gid: 1000,
        user: "user".to_owned(),
        home: PathBuf::from("/home/user"),
        symlinks: Vec::new(),
        files: Vec::new(),
        system: Vec::new(),
        scratch: Vec::new(),
        scratch_size: ByteSize::mib(1),
        repo: None,
        binds: Vec::new(),
        tmpfs: (0..unit.view).map(|n| (PathBuf::from(format!("/tmp/{n}")), ByteSize::mib(1))).collect(),
        secret_files: Vec::new(),
        secret_env: Vec::new(),
    }
}
