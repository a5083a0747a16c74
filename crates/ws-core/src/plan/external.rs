//! What runs outside of the workspace and is reached under a name and an address of its own inside.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ws_model::{ConfigPath, Problem, ServiceName, Workspace};

use super::ExternalPlan;

/// Where the file declares one.
fn place(name: &ServiceName) -> ConfigPath {
    ConfigPath::root().key("external").key(name)
}

/// Every one with its address.
pub(super) fn plans(
    workspace: &Workspace,
    addresses: &BTreeMap<&ServiceName, Ipv4Addr>,
    problems: &mut Vec<Problem>,
) -> Vec<ExternalPlan> {
    let mut plans = Vec::new();
    for (name, external) in &workspace.external {
        if workspace.services.contains_key(name) {
            problems.push(
                Problem::error("WS0506", place(name), format!("`{name}` is a service and external"))
                    .on_key()
                    .related(ConfigPath::service(name), "the service")
                    .help("give one of them another name: both are host names inside"),
            );
            continue;
        }
        plans.push(ExternalPlan {
            name: name.clone(),
            address: addresses[name],
            port: external.port,
            host: external.host.clone(),
        });
    }
    plans
}
