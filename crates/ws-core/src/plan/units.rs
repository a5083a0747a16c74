//! Units: what runs of each service, and under which names.
//!
//! A service with `replicas: 3` is three units, `api-1` to `api-3`, each with its own address, processes and
//! limits. Any other service is one unit of its own name. The planner decides about services; what differs
//! between the units of one is put in at the end.

use std::collections::BTreeMap;

use ws_model::{ConfigPath, MountSource, Problem, Service, ServiceName, Workspace};

use super::Plan;

/// The units of a workspace, by the service that they are of.
#[derive(Debug)]
pub(super) struct Units {
    by_service: BTreeMap<ServiceName, Vec<ServiceName>>,
}

impl Units {
    /// Names all units. Where that is not possible, the service has one unit and the problem is told.
    pub(super) fn of(workspace: &Workspace, problems: &mut Vec<Problem>) -> Self {
        let by_service = workspace
            .services
            .iter()
            .map(|(name, service)| {
                check(name, service, workspace, problems);
                let units = replicas(name, service.replicas, workspace, problems);
                (name.clone(), units.unwrap_or_else(|| vec![name.clone()]))
            })
            .collect();
        Self { by_service }
    }

    /// The units of a service, in order of their numbers.
    pub(super) fn named(&self, service: &ServiceName) -> &[ServiceName] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Every unit with its service.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ServiceName, &ServiceName)> {
        self.by_service.iter().flat_map(|(service, units)| units.iter().map(move |unit| (service, unit)))
    }
}

impl Plan {
    /// The name in the file of whoever is called so.
    pub(crate) fn declared<'p>(&'p self, name: &'p ServiceName) -> &'p ServiceName {
        self.services.get(name).map_or(name, |unit| &unit.declared)
    }

    /// Names of units, short: `api ×3` where all replicas of a service are among them.
    pub(crate) fn together<'n>(&self, names: impl IntoIterator<Item = &'n ServiceName>) -> Vec<String> {
        let mut groups: Vec<(&ServiceName, Vec<&ServiceName>)> = Vec::new();
        for name in names {
            let declared = self.services.get(name).map_or(name, |unit| &unit.declared);
            match groups.iter_mut().find(|(group, _)| *group == declared) {
                Some((_, members)) => members.push(name),
                None => groups.push((declared, vec![name])),
            }
        }
        groups
            .into_iter()
            .flat_map(|(declared, members)| {
                let all = self.units(declared.as_str()).len();
                if all > 1 && members.len() == all {
                    vec![times(declared, all)]
                } else {
                    members.into_iter().map(ToString::to_string).collect()
                }
            })
            .collect()
    }
}

/// `api ×3`, or `api` where there is one.
pub(crate) fn times(declared: &ServiceName, count: usize) -> String {
    if count > 1 { format!("{declared} ×{count}") } else { declared.to_string() }
}

/// The names of all replicas; `None` with a problem where they cannot be had.
fn replicas(
    name: &ServiceName,
    count: u32,
    workspace: &Workspace,
    problems: &mut Vec<Problem>,
) -> Option<Vec<ServiceName>> {
    if count < 2 {
        return None;
    }
    let at = ConfigPath::service(name).key("replicas");
    let mut units = Vec::new();
    for number in 1..=count {
        let Ok(unit) = ServiceName::new(format!("{name}-{number}")) else {
            problems.push(
                Problem::error("WS0505", at, format!("`{name}-{number}` is too long for a name"))
                    .label("the number of a replica is a part of its host name")
                    .help(format!("names have at most {} characters", ws_model::name::MAX_LEN)),
            );
            return None;
        };
        let other = if workspace.services.contains_key(&unit) {
            Some(ConfigPath::service(&unit))
        } else if workspace.external.contains_key(&unit) {
            Some(ConfigPath::root().key("external").key(&unit))
        } else {
            None
        };
        if let Some(other) = other {
            problems.push(
                Problem::error(
                    "WS0504",
                    at,
                    format!("a replica of `{name}` and something else are `{unit}`"),
                )
                .related(other, "this has the name")
                .help("give one of them another name"),
            );
            return None;
        }
        units.push(unit);
    }
    Some(units)
}

/// What only one unit can have.
fn check(name: &ServiceName, service: &Service, workspace: &Workspace, problems: &mut Vec<Problem>) {
    let count = service.replicas;
    if count < 2 {
        return;
    }
    for (i, port) in service.ports.iter().enumerate() {
        if let Some(fixed) = port.host_port {
            problems.push(
                Problem::error(
                    "WS0516",
                    ConfigPath::service(name).key("ports").index(i),
                    format!("{count} replicas of `{name}` cannot all have the port {fixed} of the host"),
                )
                .help(format!("`\"0:{}\"` picks a free one for each", port.port)),
            );
        }
    }
    for (i, mount) in service.volumes.iter().enumerate() {
        let MountSource::Volume(volume) = &mount.source else { continue };
        let alone = workspace.volumes.get(volume).is_some_and(|declared| !declared.shared);
        if alone && !mount.read_only {
            problems.push(
                Problem::error(
                    "WS0517",
                    ConfigPath::service(name).key("volumes").index(i),
                    format!("{count} replicas of `{name}` would write the volume `{volume}` together"),
                )
                .related(ConfigPath::root().key("volumes").key(volume), "declared here, for one")
                .help(format!("if they are made for that: `{volume}: {{ shared: true }}`"))
                .help("else run one of it: `replicas: 1`"),
            );
        }
    }
}
