//! What is known of the stack, kept current by events: a pure reducer that every waiting command uses.

use std::collections::BTreeMap;

use ws_model::wire::{PublishedPort, ServiceStatus};
use ws_model::{
    Cause, Event, EventKind, ExitReason, Phase, Protocol, Reason, ServiceKind, ServiceName, Timestamp,
};

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Service or task.
    pub kind: ServiceKind,
    /// Its phase.
    pub phase: Phase,
    /// Why.
    pub cause: Cause,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// How its last run ended.
    pub exit: Option<ExitReason>,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
}

impl Row {
    /// Whether it is what was wanted of it: ready, or for a task or a build finished with success.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready || (self.kind != ServiceKind::Service && self.phase == Phase::Exited)
    }

    /// Whether its program was executed at least once, or never will be.
    #[must_use]
    pub fn is_started(&self) -> bool {
        match self.phase {
            Phase::Running
            | Phase::Ready
            | Phase::Unhealthy
            | Phase::Stopping
            | Phase::Exited
            | Phase::Backoff => true,
            Phase::Pending | Phase::Waiting | Phase::Building | Phase::Starting => false,
            Phase::Stopped | Phase::Failed | Phase::Violated => true,
        }
    }

    /// Whether it will not become ready without somebody doing something.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self.phase {
            Phase::Failed | Phase::Violated | Phase::Stopped => true,
            Phase::Exited => !self.is_ready(),
            Phase::Pending
            | Phase::Waiting
            | Phase::Building
            | Phase::Starting
            | Phase::Running
            | Phase::Ready
            | Phase::Unhealthy
            | Phase::Stopping
            | Phase::Backoff => false,
        }
    }
}

/// The stack.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Every service, by its own name.
    pub services: BTreeMap<ServiceName, Row>,
}

impl View {
    /// What the supervisor said just now.
    #[must_use]
    pub fn of(statuses: &[ServiceStatus]) -> Self {
        let row = |status: &ServiceStatus| Row {
            kind: status.service_kind,
            phase: status.phase,
            cause: Cause::new(status.reason, status.cause.clone()),
            since: None,
            exit: match (status.signal, status.exit_code) {
                (Some(signal), _) => Some(ExitReason::Signal(signal)),
                (None, Some(code)) => Some(ExitReason::Code(code)),
                (None, None) => None,
            },
            ports: status.ports.clone(),
        };
        Self { services: statuses.iter().map(|status| (status.name.clone(), row(status))).collect() }
    }

    /// What the service of an event is, where that is known.
    #[must_use]
    pub fn kind_of(&self, event: &Event) -> Option<ServiceKind> {
        event.service.as_ref().and_then(|name| self.services.get(name)).map(|row| row.kind)
    }

    /// Takes an event in; whether something changed that is shown.
    pub fn apply(&mut self, event: &Event) -> bool {
        let Some(row) = event.service.as_ref().and_then(|name| self.services.get_mut(name)) else {
            return false;
        };
        match &event.kind {
            EventKind::Phase { phase, cause, exit, .. } => {
                if row.phase != *phase {
                    row.since = Some(event.at);
                }
                row.phase = *phase;
                row.cause = cause.clone();
                if exit.is_some() {
                    row.exit = *exit;
                }
                true
            }
            EventKind::Published { host, host_port, port } => {
                let published = PublishedPort {
                    host: host.clone(),
                    host_port: *host_port,
                    port: *port,
                    protocol: Protocol::Tcp,
                };
                if !row.ports.contains(&published) {
                    row.ports.push(published);
                }
                true
            }
            EventKind::FilesChanged { .. }
            | EventKind::Reloaded { .. }
            | EventKind::PlanChanged { .. }
            | EventKind::PlanApplied { .. }
            | EventKind::PlanRefused { .. }
            | EventKind::Violation(_)
            | EventKind::SupervisorStarted { .. }
            | EventKind::SupervisorStopped { .. }
            | EventKind::WorkspaceReady { .. }
            | EventKind::WorkspaceFailed { .. }
            | EventKind::LogDropped { .. }
            | EventKind::Status { .. }
            | EventKind::Notice { .. } => false,
        }
    }

    /// The rows of the services that are wanted; all, when none is named.
    pub fn wanted<'a>(
        &'a self,
        wanted: &'a [ServiceName],
    ) -> impl Iterator<Item = (&'a ServiceName, &'a Row)> {
        self.services.iter().filter(move |(name, _)| wanted.is_empty() || wanted.contains(name))
    }

    /// Services that will not become ready, the ones that failed by themselves before those that only
    /// waited for them.
    #[must_use]
    pub fn lost(&self, wanted: &[ServiceName]) -> Vec<ServiceName> {
        let mut lost: Vec<(&ServiceName, &Row)> =
            self.wanted(wanted).filter(|(_, row)| row.is_lost()).collect();
        lost.sort_by_key(|(_, row)| row.cause.reason == Reason::DependencyFailed);
        lost.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Whether the stack as a whole was asked to stop: then nothing that ends has failed.
    #[must_use]
    pub fn is_going_down(&self) -> bool {
        self.services.values().any(|row| row.cause.reason == Reason::Shutdown)
    }

    /// Whether something ran, nothing does any more and nothing will.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.services.values().all(|row| row.phase.is_settled_down())
            && self.services.values().any(|row| row.phase != Phase::Pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::ps::tests::status;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn phase(service: &str, phase: Phase, reason: Reason, exit: Option<ExitReason>) -> Event {
        Event {
            seq: 1,
            at: Timestamp { unix_ms: 5 },
            service: Some(name(service)),
            kind: EventKind::Phase { phase, cause: Cause::new(reason, "why"), exit, retry_in_ms: None },
        }
    }

    #[test]
    fn a_task_that_finished_is_ready_and_a_service_that_ended_is_not() {
        let mut rows = [
            status("task", Phase::Running, Reason::Executed, ""),
            status("svc", Phase::Running, Reason::Executed, ""),
        ];
        rows[0].service_kind = ServiceKind::Task;
        let mut view = View::of(&rows);
        for service in ["task", "svc"] {
            assert!(view.apply(&phase(service, Phase::Exited, Reason::Exit, Some(ExitReason::Code(0)))));
        }
        assert!(view.services["task"].is_ready());
        assert!(!view.services["svc"].is_ready());
        assert_eq!(view.lost(&[]), [name("svc")]);
        assert!(view.is_over());
    }

    #[test]
    fn who_failed_by_itself_is_named_first() {
        let rows = [
            status("api", Phase::Failed, Reason::DependencyFailed, "db failed"),
            status("db", Phase::Failed, Reason::Exit, "exited with 1"),
            status("web", Phase::Ready, Reason::ProbeOk, ""),
        ];
        let view = View::of(&rows);
        assert_eq!(view.lost(&[]), [name("db"), name("api")]);
        assert_eq!(view.lost(&[name("web")]), []);
        assert!(!view.is_over());
    }

    #[test]
    fn going_down_is_no_failure() {
        let mut view = View::of(&[status("web", Phase::Ready, Reason::ProbeOk, "")]);
        assert!(!view.is_going_down());
        view.apply(&phase("web", Phase::Stopping, Reason::Shutdown, None));
        assert!(view.is_going_down());
    }

    #[test]
    fn ports_are_collected_once() {
        let mut view = View::of(&[status("web", Phase::Ready, Reason::ProbeOk, "")]);
        let published = Event {
            seq: 2,
            at: Timestamp { unix_ms: 0 },
            service: Some(name("web")),
            kind: EventKind::Published { host: "127.0.0.1".to_owned(), host_port: 8080, port: 80 },
        };
        view.apply(&published);
        view.apply(&published);
        assert_eq!(view.services["web"].ports.len(), 1);
        assert!(!view.apply(&Event { service: Some(name("nobody")), ..published }));
    }
}
