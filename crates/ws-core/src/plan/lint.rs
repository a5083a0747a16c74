//! Whether a plan agrees with itself: a second opinion on what the planner promises, for tests and
//! debug builds.

use std::collections::{BTreeMap, BTreeSet};

use ws_model::{PortProto, Protocol};

use super::{BindSource, Plan, ServicePlan};

/// Every contradiction in a plan, as a sentence; none in a plan that [`resolve`](super::resolve) made.
#[must_use]
pub fn lint(plan: &Plan) -> Vec<String> {
    let mut faults = Vec::new();
    let mut addresses = BTreeMap::new();
    let mut indexes = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for (name, service) in &plan.services {
        if service.name != *name {
            faults.push(format!("{name} is called {}", service.name));
        }
        if let Some(other) = addresses.insert(service.address, name) {
            faults.push(format!("{name} and {other} have the address {}", service.address));
        }
        if let Some(other) = indexes.insert(service.index, name) {
            faults.push(format!("{name} and {other} have the index {}", service.index));
        }
        if let Some(other) = macs.insert(service.mac, name) {
            faults.push(format!("{name} and {other} have the same hardware address"));
        }
        if service.name != service.declared
            && service.name.as_str() != format!("{}-{}", service.declared, service.replica)
        {
            faults.push(format!("{name} is called as no replica of {}", service.declared));
        }
        if service.index >= plan.subnet.capacity() {
            faults.push(format!("the index of {name} is beyond the network"));
        } else if plan.subnet.host(service.index) != service.address {
            faults.push(format!("the address of {name} is not that of its index"));
        }
        check_links(plan, service, &mut faults);
        check_runs(service, &mut faults);
        check_view(plan, service, &mut faults);
    }
    for external in &plan.external {
        let name = &external.name;
        if plan.services.contains_key(name) {
            faults.push(format!("{name} is a service and external"));
        }
        if let Some(other) = addresses.insert(external.address, name) {
            faults.push(format!("{name} and {other} have the address {}", external.address));
        }
    }
    check_waves(plan, &mut faults);
    faults
}

fn check_links(plan: &Plan, service: &ServicePlan, faults: &mut Vec<String>) {
    let name = &service.name;
    let mut rules = BTreeSet::new();
    for link in &service.links {
        let external = plan.external.iter().find(|external| external.name == link.to);
        let address = match (plan.services.get(&link.to), external) {
            (Some(unit), _) => Some(unit.address),
            (None, Some(external)) => {
                if link.port != (PortProto { port: external.port, protocol: Protocol::Tcp }) {
                    faults
                        .push(format!("{name} links to {} of {}, which is not its port", link.port, link.to));
                }
                Some(external.address)
            }
            (None, None) => None,
        };
        match address {
            None => faults.push(format!("{name} links to {}, which is not there", link.to)),
            Some(address) if address != link.address => {
                faults.push(format!("{name} links to {} at another address", link.to));
            }
            Some(_) => {}
        }
        if link.to == *name {
            faults.push(format!("{name} links to itself"));
        }
        if link.port.port == 0 {
            faults.push(format!("{name} links to port 0 of {}", link.to));
        }
        if !rules.insert((&link.to, link.port)) {
            faults.push(format!("{name} links to {} {} twice", link.to, link.port));
        }
    }
}

fn check_runs(service: &ServicePlan, faults: &mut Vec<String>) {
    let name = &service.name;
    for run in [Some(&service.run), service.build.as_ref()].into_iter().flatten() {
        match run.argv.first() {
            None => faults.push(format!("{name} runs nothing")),
            Some(program) if program.contains('/') && !program.starts_with('/') => {
                faults.push(format!("{name} runs the relative `{program}`"));
            }
            Some(_) => {}
        }
        if !run.cwd.is_absolute() {
            faults.push(format!("{name} runs in the relative `{}`", run.cwd.display()));
        }
        if !run.env.is_sorted_by(|a, b| a.0 < b.0) {
            faults.push(format!("the environment of {name} is not in order"));
        }
    }
}

fn check_view(plan: &Plan, service: &ServicePlan, faults: &mut Vec<String>) {
    let name = &service.name;
    let view = &service.view;
    if !view.binds.is_sorted_by(|a, b| a.target < b.target) {
        faults.push(format!("the mounts of {name} are not parents first"));
    }
    if !view.scratch.is_sorted_by(|a, b| a.0 < b.0) {
        faults.push(format!("the private directories of {name} are not parents first"));
    }
    if view.uid == 0 {
        faults.push(format!("{name} is root inside"));
    }
    let targets = view.binds.iter().chain(&view.system).map(|bind| &bind.target);
    let others = view.tmpfs.iter().map(|(path, _)| path).chain(view.files.iter().map(|(path, _)| path));
    for target in targets.chain(others) {
        if !target.is_absolute() || super::view::lexical(target) != **target {
            faults.push(format!("{name} has something at `{}`", target.display()));
        }
    }
    for bind in &view.binds {
        if plan.root.starts_with(&bind.target) {
            faults.push(format!("{name} covers the project with `{}`", bind.target.display()));
        }
        match &bind.source {
            BindSource::Host(path) if !path.is_absolute() => {
                faults.push(format!("{name} mounts the relative `{}`", path.display()));
            }
            BindSource::Volume(volume) if !plan.volumes.contains(volume) => {
                faults.push(format!("{name} mounts the volume {volume}, which is not in the plan"));
            }
            BindSource::Hidden if bind.writable => faults.push(format!("{name} can write what is hidden")),
            BindSource::Host(_) | BindSource::Volume(_) | BindSource::Hidden => {}
        }
    }
    for (secret, path) in &view.secret_files {
        if !view.scratch.iter().any(|(dir, _)| path.parent() == Some(dir)) {
            faults.push(format!("the secret {secret} of {name} has no directory"));
        }
    }
}

fn check_waves(plan: &Plan, faults: &mut Vec<String>) {
    let mut wave_of = BTreeMap::new();
    for (wave, names) in plan.waves.iter().enumerate() {
        for name in names {
            if wave_of.insert(name, wave).is_some() {
                faults.push(format!("{name} is in two waves"));
            }
        }
    }
    for (name, service) in &plan.services {
        let Some(own) = wave_of.get(name) else {
            faults.push(format!("{name} is in no wave"));
            continue;
        };
        for wait in &service.waits {
            if wave_of.get(&wait.on).is_none_or(|other| other >= own) {
                faults.push(format!("{name} waits for {}, which is not in an earlier wave", wait.on));
            }
        }
    }
}
