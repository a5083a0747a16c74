//! Links: which service may reach which port of which other one, or of what runs elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ws_model::{
    ConfigPath, External, Link, LinkPorts, PortProto, ProbeKind, Problem, Protocol, Service, ServiceName,
    Workspace,
};

use super::units::Units;
use super::{LinkRule, unknown_name};

/// The ports that a service declares: what a link to it without a port means.
pub(super) fn declared_ports(service: &Service) -> BTreeSet<PortProto> {
    let published = service.ports.iter().map(|p| PortProto { port: p.port, protocol: p.protocol });
    let probed =
        [&service.startup, &service.ready, &service.liveness].into_iter().flatten().filter_map(|probe| {
            match &probe.kind {
                ProbeKind::Http { port, .. } | ProbeKind::Tcp { port } | ProbeKind::Grpc { port, .. } => {
                    Some(PortProto { port: *port, protocol: Protocol::Tcp })
                }
                ProbeKind::Exec(_) | ProbeKind::Log { .. } | ProbeKind::Notify => None,
            }
        });
    let listening =
        service.listen.iter().map(|listen| PortProto { port: listen.port, protocol: Protocol::Tcp });
    service.expose.iter().copied().chain(published).chain(probed).chain(listening).collect()
}

/// The rules of one service's links, ascending, each port of each target once. A service with replicas is all of them.
pub(super) fn rules(
    name: &ServiceName,
    service: &Service,
    workspace: &Workspace,
    units: &Units,
    addresses: &BTreeMap<&ServiceName, Ipv4Addr>,
    problems: &mut Vec<Problem>,
) -> Vec<LinkRule> {
    let mut rules: BTreeMap<(&ServiceName, PortProto), LinkRule> = BTreeMap::new();
    for (i, link) in service.links.iter().enumerate() {
        let at = ConfigPath::service(name).key("links").index(i);
        let (targets, ports) = if link.to == *name {
            problems.push(
                Problem::warning("WS0513", at, format!("`{name}` links to itself"))
                    .help("a service always reaches its own ports: the link can go"),
            );
            continue;
        } else if let Some(target) = workspace.services.get(&link.to) {
            (units.named(&link.to), ports_of_service(link, target, &at, problems))
        } else if let Some((to, external)) = workspace.external.get_key_value(&link.to) {
            (std::slice::from_ref(to), ports_of_external(link, external, &at, problems))
        } else {
            let known = workspace.services.keys().chain(workspace.external.keys());
            problems.push(unknown_name(
                "WS0510",
                at,
                "link",
                "service",
                link.to.as_str(),
                known.map(ServiceName::as_str),
            ));
            continue;
        };
        for to in targets {
            for port in &ports {
                rules.entry((to, *port)).or_insert_with(|| LinkRule {
                    to: to.clone(),
                    address: addresses[to],
                    port: *port,
                    at: at.clone(),
                });
            }
        }
    }
    rules.into_values().collect()
}

fn ports_of_service(
    link: &Link,
    target: &Service,
    at: &ConfigPath,
    problems: &mut Vec<Problem>,
) -> BTreeSet<PortProto> {
    match &link.ports {
        LinkPorts::These(ports) => ports.iter().copied().collect(),
        LinkPorts::Declared => {
            let declared = declared_ports(target);
            if declared.is_empty() {
                problems.push(
                    Problem::error(
                        "WS0512",
                        at.clone(),
                        format!("a link to `{}` without a port reaches nothing", link.to),
                    )
                    .label(format!("`{}` declares no port", link.to))
                    .related(
                        ConfigPath::service(&link.to),
                        "no `expose`, `ports`, `listen` or probe with a port",
                    )
                    .help(format!("name the port here: `{}:PORT`", link.to))
                    .help(format!("or declare it at the other end: `expose: [PORT]` in `{}`", link.to)),
                );
            }
            declared
        }
    }
}

/// The one port of what is external; others lead nowhere.
fn ports_of_external(
    link: &Link,
    external: &External,
    at: &ConfigPath,
    problems: &mut Vec<Problem>,
) -> BTreeSet<PortProto> {
    let only = PortProto { port: external.port, protocol: Protocol::Tcp };
    let wrong = match &link.ports {
        LinkPorts::Declared => None,
        LinkPorts::These(ports) => ports.iter().find(|port| **port != only),
    };
    if let Some(wrong) = wrong {
        problems.push(
            Problem::error(
                "WS0518",
                at.clone(),
                format!("`{}` is reached on {only}, not on {wrong}", link.to),
            )
            .related(ConfigPath::root().key("external").key(&link.to), "declared here")
            .help(format!("a link without a port means the declared one: `{}`", link.to)),
        );
    }
    BTreeSet::from([only])
}
