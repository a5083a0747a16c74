//! The place of a service: what it keeps across its runs (cgroup, launcher, interface and rules).
//!
//! Places are made for all services at the start, and for one at any time later. What can be done for many at once is
//! ([`prepare`]); nothing here touches a service that has its place already. Everything here blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use ws_core::plan::{BindSource, ServicePlan};
use ws_model::ServiceName;
use ws_sys::process;
use ws_sys::scm::Channel;

use super::service::chain;
use super::{REMOVE_WITHIN, Shared, StartError};
use crate::cgroups::ServiceGroup;
use crate::net;
use crate::sandbox::layout;
use crate::sandbox::protocol::{self, Failure, Reply, Stage, ToLauncher};

/// The launcher of a service, in the service's cgroups, with its template.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) channel: Channel,
    pub(super) pidfd: OwnedFd,
    pub(super) group: Option<Arc<ServiceGroup>>,
    /// The service's network namespace, still empty.
    pub(super) namespace: OwnedFd,
}

/// A launcher while its place is made. Ends with it, unless it is taken.
struct Launched<'a> {
    service: &'a ServicePlan,
    group: Option<Arc<ServiceGroup>>,
    ends: Option<(Channel, OwnedFd)>,
}

impl Drop for Launched<'_> {
    fn drop(&mut self) {
        if let Some((_, pidfd)) = &self.ends {
            end_launcher(pidfd.as_fd());
        }
    }
}

/// Kills a launcher and waits until it is gone.
pub(super) fn end_launcher(pidfd: BorrowedFd<'_>) {
    // One that is gone already is what is wanted.
    let _ = process::pidfd_signal(pidfd, nix::libc::SIGKILL);
    let _ = process::poll_readable(&[pidfd]);
    let _ = process::reap_pidfd(pidfd);
}

/// Makes the launchers of services whose cgroups are there, in the order of `services`. On an error all of them are
/// ended.
pub(super) fn prepare(
    shared: &Shared,
    services: &[(&ServicePlan, Option<Arc<ServiceGroup>>)],
) -> Result<Vec<Prepared>, StartError> {
    let mut launched = Vec::with_capacity(services.len());
    for (service, group) in services {
        let ends = shared.spawner.launcher().map_err(|failure| failed(service, failure))?;
        launched.push(Launched { service, group: group.clone(), ends: Some(ends) });
    }
    // Back to back: the first write to a v1 `cgroup.procs` after an idle moment takes 14 ms.
    for one in &launched {
        let (Some((_, pidfd)), Some(group)) = (&one.ends, &one.group) else { continue };
        if let Some(pid) = process::pid_of(pidfd.as_fd()).ok().flatten() {
            group.attach_launcher(pid)?;
        }
    }
    // Ask all launchers, then hear from all: they build their templates at the same time.
    for one in &launched {
        let Some((channel, _)) = &one.ends else { continue };
        ask(shared, one.service, channel).map_err(|failure| failed(one.service, failure))?;
    }
    let mut prepared = Vec::with_capacity(launched.len());
    let mut namespaces = Vec::with_capacity(launched.len());
    for one in &launched {
        let Some((channel, _)) = &one.ends else { continue };
        namespaces.push(hear(channel).map_err(|failure| failed(one.service, failure))?);
    }
    for (mut one, namespace) in launched.into_iter().zip(namespaces) {
        if let Some((channel, pidfd)) = one.ends.take() {
            prepared.push(Prepared { channel, pidfd, group: one.group.take(), namespace });
        }
    }
    Ok(prepared)
}

fn failed(service: &ServicePlan, failure: Failure) -> StartError {
    StartError::Service { service: service.name.clone(), failure }
}

fn ask(shared: &Shared, service: &ServicePlan, launcher: &Channel) -> Result<(), Failure> {
    let (template, sources) = layout::template(service, net::SYSCTLS_SERVICE);
    let mounts: Vec<OwnedFd> =
        sources.into_iter().map(|source| shared.opener.open(source, None)).collect::<Result<_, _>>()?;
    let fds: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
    protocol::send(launcher.as_fd(), &ToLauncher::Prepare(template), &fds).stage("asking the launcher")
}

fn hear(launcher: &Channel) -> Result<OwnedFd, Failure> {
    const HEAR: &str = "hearing from the launcher";
    match protocol::receive::<Reply>(launcher).stage(HEAR)? {
        (Reply::Done, fds) => {
            fds.into_iter().next().ok_or_else(|| Failure::because(HEAR, "its namespace is missing"))
        }
        (Reply::Failed(failure), _) => Err(failure),
    }
}

/// Makes the directories of the volumes that a service mounts.
pub(super) fn make_volumes(shared: &Shared, service: &ServicePlan) -> Result<(), StartError> {
    for bind in &service.view.binds {
        match &bind.source {
            BindSource::Volume(name) => {
                let path = shared.volumes.join(name.as_str());
                std::fs::create_dir_all(&path).map_err(|source| StartError::Volume { path, source })?;
            }
            BindSource::Host(_) | BindSource::Hidden => {}
        }
    }
    Ok(())
}

/// Makes the place of a further service, network included. On an error nothing of it is left.
pub(super) fn make(shared: &Shared, service: &ServicePlan) -> Result<Prepared, StartError> {
    let made = make_in_order(shared, service);
    if made.is_err() {
        // What went wrong first is what is told.
        let _ = unmake(shared, service);
    }
    made
}

fn make_in_order(shared: &Shared, service: &ServicePlan) -> Result<Prepared, StartError> {
    make_volumes(shared, service)?;
    let group = {
        let mut groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.as_mut().map(|groups| groups.add(&service.name, &service.limits)).transpose()?
    };
    let prepared = prepare(shared, &[(service, group)])?.pop();
    let prepared =
        prepared.ok_or_else(|| failed(service, Failure::because("starting", "it has no launcher")))?;
    let joined = join(shared, service, prepared.namespace.as_fd());
    if joined.is_err() {
        end_launcher(prepared.pidfd.as_fd());
    }
    joined.map(|()| prepared)
}

fn join(shared: &Shared, service: &ServicePlan, namespace: BorrowedFd<'_>) -> Result<(), StartError> {
    let kept = namespace.try_clone_to_owned().stage("keeping the network namespace");
    let kept = kept.map_err(|failure| failed(service, failure))?;
    let mut net = shared.net.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(net) = net.as_mut() else {
        return Err(failed(
            service,
            Failure::because("joining the network", "the workspace has none any more"),
        ));
    };
    net.sockets.namespaces.insert(service.name.clone(), kept);
    net.network.add(&net.sockets, service, namespace).map_err(StartError::Network)
}

/// Takes the place of a service away, whose launcher and runs have ended; keeps going after an error. Gives what could
/// not be done, a sentence each. What is not there is no error.
pub(super) fn unmake(shared: &Shared, service: &ServicePlan) -> Vec<String> {
    let mut errors = Vec::new();
    if let Some(net) = shared.net.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        match leave(net, &service.name) {
            Ok(()) => {}
            Err(error) => errors.push(chain(&error)),
        }
    }
    shared.opener.forget(layout::outer_ids(service, shared.rootless));
    let group = {
        let mut groups = shared.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.as_mut().and_then(|groups| groups.take(&service.name))
    };
    if let Some(group) = group {
        errors.extend(group.clear(REMOVE_WITHIN));
    }
    errors
}

fn leave(net: &mut super::Net, name: &ServiceName) -> Result<(), net::NetError> {
    if net.network.address(name).is_some() {
        net.network.remove(&net.sockets, name)?;
    }
    net.sockets.namespaces.remove(name);
    Ok(())
}
