//! What would have sufficed: from violations to the smallest rights that they ask for.
//!
//! Only what a person can have meant becomes a wish: a port of a service or of something external, a limit, a program of
//! a list. What looks for secrets, or goes where nothing in the file leads, is for a person to judge.

use std::collections::{BTreeMap, BTreeSet};

use ws_model::{ByteSize, Evidence, Need, NetworkAct, PortProto, Protocol, ServiceName, ViolationRow, Wish};

use crate::plan::Plan;

/// What violations ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// The rights, in order of services, each once.
    pub wishes: Vec<Wish>,
    /// What no right of the file would allow, or none should without a person: a sentence each.
    pub left: Vec<String>,
}

/// The smallest rights with which these would not have been violations.
#[must_use]
pub fn learn(plan: &Plan, rows: &[ViolationRow]) -> Learned {
    let mut wishes: BTreeSet<Wish> = BTreeSet::new();
    // Of a limit the highest is enough.
    let mut memory: BTreeMap<ServiceName, u64> = BTreeMap::new();
    let mut pids: BTreeMap<ServiceName, u32> = BTreeMap::new();
    let mut left: BTreeSet<String> = BTreeSet::new();
    for row in rows {
        let declared = plan.services.get(&row.service).map_or(&row.service, |unit| &unit.declared);
        let mut leave = |why: &str| {
            left.insert(format!("{declared} {}: {why}", row.evidence));
        };
        if plan.services.get(&row.service).is_some_and(|unit| unit.kind == ws_model::ServiceKind::Build) {
            leave("a build has no links; what it needs from elsewhere its `fetch` brings in");
            continue;
        }
        match &row.evidence {
            Evidence::Network { act: NetworkAct::Sent, protocol, port, name, .. } => {
                let protocol = match protocol.as_str() {
                    "tcp" => Some(Protocol::Tcp),
                    "udp" => Some(Protocol::Udp),
                    _ => None,
                };
                match (target(plan, name.as_deref()), port, protocol) {
                    (Some(to), _, _) if to == *declared => leave("a service reaches itself by `localhost`"),
                    (Some(to), Some(port), Some(protocol)) => {
                        let port = PortProto { port: *port, protocol };
                        wishes.insert(Wish { service: declared.clone(), need: Need::Link { to, port } });
                    }
                    (Some(_), _, _) => leave("links are for TCP and UDP"),
                    (None, _, _) => leave("nothing in the file has this address; name it in `external`"),
                }
            }
            Evidence::Network { .. } => leave("no right allows it"),
            Evidence::Memory { limit_bytes: Some(limit) } => {
                let wanted = memory.entry(declared.clone()).or_default();
                *wanted = limit.saturating_mul(2).max(*wanted);
            }
            Evidence::Memory { limit_bytes: None } => leave("it has no limit in the file"),
            Evidence::Pids { limit } => {
                let wanted = pids.entry(declared.clone()).or_default();
                *wanted = limit.saturating_mul(2).max(*wanted);
            }
            Evidence::Process { executable } => {
                let need = Need::Program(executable.clone());
                wishes.insert(Wish { service: declared.clone(), need });
            }
            Evidence::Syscall { .. } => leave("no right allows it"),
            Evidence::Decoy { .. } => leave("only an attacker needs it; `policy.accept` silences it"),
            Evidence::File { .. } => leave("declare it in `writable` or `volumes` if that is meant"),
            Evidence::Cpu { .. } | Evidence::Logs { .. } => leave("`policy` says how much is too much"),
        }
    }
    let memory = memory.into_iter().map(|(service, size)| (service, Need::Memory(ByteSize(size))));
    let pids = pids.into_iter().map(|(service, count)| (service, Need::Pids(count)));
    wishes.extend(memory.chain(pids).map(|(service, need)| Wish { service, need }));
    Learned { wishes: wishes.into_iter().collect(), left: left.into_iter().collect() }
}

/// What a link to something of this name is written as.
fn target(plan: &Plan, name: Option<&str>) -> Option<ServiceName> {
    let name = name?;
    let external = plan.external.iter().find(|external| external.name.as_str() == name);
    let unit = plan.units(name).first().map(|unit| unit.declared.clone());
    unit.or_else(|| external.map(|external| external.name.clone()))
}
