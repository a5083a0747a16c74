//! Habits that do not work inside: what environment values say, compared with what is linked.

use std::collections::BTreeMap;

use ws_model::{ConfigPath, Link, LinkPorts, Problem, ServiceName, Workspace};

use super::links::declared_ports;
use super::units::Units;

/// Warns of values that name a service, or what runs elsewhere, without a link to it, or look for it on `localhost`.
pub(super) fn check(workspace: &Workspace, units: &Units, problems: &mut Vec<Problem>) {
    let ports: BTreeMap<&ServiceName, Vec<u16>> = workspace
        .services
        .iter()
        .map(|(name, service)| (name, declared_ports(service).iter().map(|port| port.port).collect()))
        .chain(workspace.external.iter().map(|(name, external)| (name, vec![external.port])))
        .collect();
    let by_host: BTreeMap<&str, &ServiceName> = units
        .iter()
        .map(|(service, unit)| (unit.as_str(), service))
        .chain(ports.keys().map(|name| (name.as_str(), *name)))
        .collect();
    for (name, service) in &workspace.services {
        for (variable, value) in &service.environment {
            for (host, port) in endpoints(value) {
                let at = ConfigPath::service(name).key("environment").key(variable);
                if matches!(host, "localhost" | "127.0.0.1") {
                    let declares = |ports: &Vec<u16>| ports.contains(&port);
                    let others: Vec<&&ServiceName> = ports
                        .iter()
                        .filter(|(other, ports)| **other != name && declares(ports))
                        .map(|(other, _)| other)
                        .collect();
                    if let [other] = others.as_slice()
                        && !ports.get(name).is_some_and(declares)
                    {
                        problems.push(
                            Problem::warning("WS0551", at, format!("`{variable}` names `{host}:{port}`"))
                                .label(format!("inside, `{host}` is `{name}` itself"))
                                .help(format!("`{other}` is `{other}:{port}` there")),
                        );
                    }
                } else if let Some(&other) = by_host.get(host)
                    && other != name
                {
                    let linked = service
                        .links
                        .iter()
                        .any(|link| link.to == *other && link_reaches(link, port, &ports[other]));
                    if !linked {
                        let external = workspace.external.get(other);
                        let help = match external {
                            Some(external) if external.port != port => {
                                format!("`{other}` is reached on {} only", external.port)
                            }
                            Some(_) => format!("let it: `links: [{other}]`"),
                            None => format!("let it: `links: [\"{other}:{port}\"]`"),
                        };
                        problems.push(
                            Problem::warning(
                                "WS0550",
                                at,
                                format!("`{variable}` names `{host}:{port}`, and `{name}` has no link to it"),
                            )
                            .help(help),
                        );
                    }
                }
            }
        }
    }
}

fn link_reaches(link: &Link, port: u16, declared: &[u16]) -> bool {
    match &link.ports {
        LinkPorts::These(ports) => ports.iter().any(|p| p.port == port),
        LinkPorts::Declared => declared.contains(&port),
    }
}

/// Every `host:port` in a value: `postgres://app@db:5432/shop`, `cache:6379,cache2:6379`.
fn endpoints(value: &str) -> impl Iterator<Item = (&str, u16)> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    value.match_indices(':').filter_map(move |(colon, _)| {
        let before = &value[..colon];
        let start = before
            .rfind(|c| !in_name(c))
            .map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
        let after = &value[colon + 1..];
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        // A user's name before a password is no host.
        let is_user = after[digits..].starts_with(|c| in_name(c) || c == '@');
        let port = after[..digits].parse().ok().filter(|port| *port != 0 && !is_user)?;
        (start < colon).then_some((&before[start..], port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_in_what_people_write() {
        let cases: &[(&str, &[(&str, u16)])] = &[
            ("postgres://app@db:5432/shop", &[("db", 5432)]),
            ("postgres://app:123@db:5432/shop", &[("db", 5432)]),
            ("http://localhost:8080", &[("localhost", 8080)]),
            ("a:1,b:2;c:3", &[("a", 1), ("b", 2), ("c", 3)]),
            ("key=cache:6379", &[("cache", 6379)]),
            ("ü:80", &[]),
            (":8080", &[]),
            ("db:", &[]),
            ("db:99999", &[]),
            ("12:30:00", &[("12", 30)]),
            ("no colon", &[]),
        ];
        for (value, expected) in cases {
            assert_eq!(&endpoints(value).collect::<Vec<_>>(), expected, "{value}");
        }
    }
}
