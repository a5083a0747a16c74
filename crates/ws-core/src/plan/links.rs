//! Links: which service may reach which port of which other one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ws_model::{
    ConfigPath, LinkPorts, PortProto, ProbeKind, Problem, Protocol, Service, ServiceName, Workspace,
};

use super::{LinkRule, unknown_name};

/// The ports that a service declares: what a link to it without a port means.
pub(super) fn declared_ports(service: &Service) -> BTreeSet<PortProto> {
    let published = service.ports.iter().map(|p| PortProto { port: p.port, protocol: p.protocol });
    let probed = match service.ready.as_ref().map(|probe| &probe.kind) {
        Some(ProbeKind::Http { port, .. } | ProbeKind::Tcp { port } | ProbeKind::Grpc { port, .. }) => {
            Some(PortProto { port: *port, protocol: Protocol::Tcp })
        }
        Some(ProbeKind::Exec(_) | ProbeKind::Log { .. } | ProbeKind::Notify) | None => None,
    };
    service.expose.iter().copied().chain(published).chain(probed).collect()
}

/// The rules of one service's links, ascending, each port of each target once.
pub(super) fn rules(
    name: &ServiceName,
    service: &Service,
    workspace: &Workspace,
    addresses: &BTreeMap<&ServiceName, Ipv4Addr>,
    problems: &mut Vec<Problem>,
) -> Vec<LinkRule> {
    let mut rules: BTreeMap<(&ServiceName, PortProto), LinkRule> = BTreeMap::new();
    for (i, link) in service.links.iter().enumerate() {
        let at = ConfigPath::service(name).key("links").index(i);
        let (Some(target), Some(&address)) = (workspace.services.get(&link.to), addresses.get(&link.to))
        else {
            problems.push(unknown_name(
                "WS0510",
                at,
                "link",
                "service",
                link.to.as_str(),
                workspace.services.keys().map(ServiceName::as_str),
            ));
            continue;
        };
        if link.to == *name {
            problems.push(
                Problem::warning("WS0513", at, format!("`{name}` links to itself"))
                    .help("a service always reaches its own ports: the link can go"),
            );
            continue;
        }
        let ports = match &link.ports {
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
                        .related(ConfigPath::service(&link.to), "no `expose`, `ports` or `ready` with a port")
                        .help(format!("name the port here: `{}:PORT`", link.to))
                        .help(format!("or declare it at the other end: `expose: [PORT]` in `{}`", link.to)),
                    );
                }
                declared
            }
        };
        for port in ports {
            rules.entry((&link.to, port)).or_insert_with(|| LinkRule {
                to: link.to.clone(),
                address,
                port,
                at: at.clone(),
            });
        }
    }
    rules.into_values().collect()
}
