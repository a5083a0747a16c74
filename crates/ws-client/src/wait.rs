//! Waiting until services are as somebody wants them.

use std::collections::BTreeMap;

use ws_model::wire::ServiceStatus;
use ws_model::{Event, EventKind, ExitReason, Phase, Reason, ServiceKind, ServiceName};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitFor {
    /// Ready; for a task: finished with 0.
    Ready,
    /// Its program was executed: it runs, is ready, or has ended by itself.
    Started,
    /// Without a process and not about to get one, for whatever reason.
    Stopped,
    /// Ended by itself with success.
    Completed,
}

impl WaitFor {
    /// Whether a service is so.
    #[must_use]
    pub fn is_met(self, row: &ServiceStatus) -> bool {
        match self {
            Self::Ready => row.ready,
            Self::Started => match row.phase {
                Phase::Running | Phase::Ready | Phase::Unhealthy | Phase::Stopping | Phase::Exited => true,
                // It ended by itself, unless it could not be executed at all.
                Phase::Backoff => row.reason != Reason::StartFailed,
                Phase::Pending
                | Phase::Waiting
                | Phase::Building
                | Phase::Starting
                | Phase::Stopped
                | Phase::Failed
                | Phase::Violated => false,
            },
            Self::Stopped => row.phase.is_settled_down(),
            Self::Completed => row.phase == Phase::Exited,
        }
    }
}

/// How waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitOutcome {
    /// All are as wanted.
    Reached,
    /// These cannot become so by themselves; never empty.
    Failed(Vec<ServiceName>),
    /// The supervisor ended first.
    Ended,
}

/// What [`Client::wait_until`](crate::Client::wait_until) found.
#[derive(Debug, Clone, PartialEq)]
pub struct Waited {
    /// How it ended.
    pub outcome: WaitOutcome,
    /// The rows of the services that were waited for, as they were when it ended; of those fields that
    /// events do not tell (usage, ports), as they were when it began.
    pub services: Vec<ServiceStatus>,
}

/// The services that are waited for, kept up to date with events: for those who read the events anyway.
#[derive(Debug, Clone)]
pub struct WaitState {
    condition: WaitFor,
    rows: BTreeMap<ServiceName, ServiceStatus>,
}

impl WaitState {
    /// Begins with `rows`, the answer of [`Client::services_at`](crate::Client::services_at); the events
    /// after its number are to follow. Waits for `services` (the name of one with replicas means all of them); when
    /// there are none, for every service that somebody asked for (all but the pending ones and one-offs).
    #[must_use]
    pub fn new(rows: Vec<ServiceStatus>, services: &[ServiceName], condition: WaitFor) -> Self {
        let wanted = |row: &ServiceStatus| {
            if services.is_empty() {
                row.phase != Phase::Pending && !row.is_one_off()
            } else {
                services.iter().any(|service| row.is_meant_by(service))
            }
        };
        Self { condition, rows: rows.into_iter().filter(wanted).map(|row| (row.name.clone(), row)).collect() }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, event: &Event) {
        let Some(row) = event.service.as_ref().and_then(|service| self.rows.get_mut(service)) else { return };
        let EventKind::Phase { phase, cause, exit, .. } = &event.kind else { return };
        row.phase = *phase;
        row.reason = cause.reason;
        row.cause.clone_from(&cause.text);
        (row.exit_code, row.signal) = match exit {
            Some(ExitReason::Code(code)) => (Some(*code), None),
            Some(ExitReason::Signal(signal)) => (None, Some(*signal)),
            None => (row.exit_code, row.signal),
        };
        row.ready = match row.service_kind {
            ServiceKind::Service => *phase == Phase::Ready,
            // It exits with what counts as a success for it; else it has failed.
            ServiceKind::Task | ServiceKind::Build => *phase == Phase::Exited,
        };
    }

    /// How waiting ended; `None` when it goes on.
    #[must_use]
    pub fn outcome(&self) -> Option<WaitOutcome> {
        let failed: Vec<ServiceName> =
            self.rows.values().filter(|row| self.is_hopeless(row)).map(|row| row.name.clone()).collect();
        if !failed.is_empty() {
            return Some(WaitOutcome::Failed(failed));
        }
        self.rows.values().all(|row| self.is_reached(row)).then_some(WaitOutcome::Reached)
    }

    /// The rows.
    #[must_use]
    pub fn into_rows(self) -> Vec<ServiceStatus> {
        self.rows.into_values().collect()
    }

    fn is_reached(&self, row: &ServiceStatus) -> bool {
        self.condition.is_met(row)
    }

    /// Whether it will not get there unless somebody asks for it. Pending is not hopeless: somebody may.
    fn is_hopeless(&self, row: &ServiceStatus) -> bool {
        !self.is_reached(row) && row.phase.is_settled_down() && row.phase != Phase::Pending
    }
}

#[cfg(test)]
mod tests {
    use ws_model::{Cause, Timestamp};

    use super::*;

    fn row(name: &str, kind: ServiceKind, phase: Phase) -> ServiceStatus {
        ServiceStatus {
            service: ServiceName::new(name).unwrap(),
            name: ServiceName::new(name).unwrap(),
            service_kind: kind,
            replica: 1,
            phase,
            reason: Reason::Requested,
            cause: String::new(),
            ready: false,
            pid: None,
            address: "10.77.0.2".to_owned(),
            ports: Vec::new(),
            restarts: 0,
            exit_code: None,
            signal: None,
            level: None,
            missing: Vec::new(),
            undetected: Vec::new(),
            memory_bytes: None,
            cpu_usec: None,
            pids: None,
            memory_limit_bytes: None,
            status: None,
            probe_error: None,
            started_at: None,
        }
    }

    fn phase(name: &str, phase: Phase, exit: Option<ExitReason>) -> Event {
        Event {
            seq: 1,
            at: Timestamp { unix_ms: 0 },
            service: Some(ServiceName::new(name).unwrap()),
            kind: EventKind::Phase { phase, cause: Cause::new(Reason::Exit, "x"), exit, retry_in_ms: None },
        }
    }

    #[test]
    fn ready_means_ready_for_services_and_done_for_tasks() {
        let rows = vec![
            row("api", ServiceKind::Service, Phase::Waiting),
            row("migrate", ServiceKind::Task, Phase::Running),
            row("unwanted", ServiceKind::Service, Phase::Pending),
        ];
        let mut state = WaitState::new(rows, &[], WaitFor::Ready);
        assert_eq!(state.outcome(), None);
        state.apply(&phase("migrate", Phase::Exited, Some(ExitReason::Code(0))));
        assert_eq!(state.outcome(), None);
        state.apply(&phase("api", Phase::Ready, None));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
        assert_eq!(state.into_rows().len(), 2);
    }

    #[test]
    fn what_cannot_become_so_is_told_at_once() {
        let rows = vec![
            row("api", ServiceKind::Service, Phase::Waiting),
            row("db", ServiceKind::Service, Phase::Starting),
        ];
        let mut state = WaitState::new(rows, &[], WaitFor::Ready);
        state.apply(&phase("db", Phase::Backoff, Some(ExitReason::Code(1))));
        assert_eq!(state.outcome(), None, "it is started again");
        state.apply(&phase("db", Phase::Failed, Some(ExitReason::Code(1))));
        assert_eq!(state.outcome(), Some(WaitOutcome::Failed(vec![ServiceName::new("db").unwrap()])));
    }

    #[test]
    fn started_is_once_it_was_executed() {
        let mut state =
            WaitState::new(vec![row("db", ServiceKind::Service, Phase::Waiting)], &[], WaitFor::Started);
        let mut backoff = phase("db", Phase::Backoff, None);
        let EventKind::Phase { cause, .. } = &mut backoff.kind else { panic!("a phase") };
        cause.reason = Reason::StartFailed;
        state.apply(&backoff);
        assert_eq!(state.outcome(), None);
        state.apply(&phase("db", Phase::Backoff, Some(ExitReason::Code(1))));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
        state.apply(&phase("db", Phase::Running, None));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
    }

    #[test]
    fn replicas_are_told_apart() {
        let replica = |n: u32| ServiceStatus {
            name: ServiceName::new(format!("api-{n}")).unwrap(),
            replica: n,
            ..row("api", ServiceKind::Service, Phase::Waiting)
        };
        let mut state = WaitState::new(vec![replica(1), replica(2)], &[], WaitFor::Ready);
        state.apply(&phase("api-1", Phase::Ready, None));
        assert_eq!(state.outcome(), None);
        state.apply(&phase("api-2", Phase::Ready, None));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
        // Their service's name means all of them, and no one-off; nobody waits for one who did not name it.
        let one_off = ServiceStatus {
            name: ServiceName::new("api-run-1").unwrap(),
            ..row("api", ServiceKind::Task, Phase::Running)
        };
        let rows = vec![replica(1), replica(2), one_off];
        let waits_for = |services: &[&str]| {
            let services: Vec<ServiceName> =
                services.iter().map(|name| ServiceName::new(*name).unwrap()).collect();
            let state = WaitState::new(rows.clone(), &services, WaitFor::Ready);
            state.into_rows().into_iter().map(|row| row.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(waits_for(&["api"]), ["api-1", "api-2"]);
        assert_eq!(waits_for(&[]), ["api-1", "api-2"]);
        assert_eq!(waits_for(&["api-run-1"]), ["api-run-1"]);
    }

    #[test]
    fn stopped_is_reached_by_any_end() {
        let rows = vec![row("db", ServiceKind::Service, Phase::Ready)];
        let mut state = WaitState::new(rows, &[ServiceName::new("db").unwrap()], WaitFor::Stopped);
        assert_eq!(state.outcome(), None);
        state.apply(&phase("db", Phase::Failed, Some(ExitReason::Signal(9))));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
    }

    #[test]
    fn completed_needs_success() {
        let rows = vec![row("job", ServiceKind::Task, Phase::Running)];
        let mut state = WaitState::new(rows, &[], WaitFor::Completed);
        state.apply(&phase("job", Phase::Failed, Some(ExitReason::Code(3))));
        assert_eq!(state.outcome(), Some(WaitOutcome::Failed(vec![ServiceName::new("job").unwrap()])));
        state.apply(&phase("job", Phase::Exited, Some(ExitReason::Code(0))));
        assert_eq!(state.outcome(), Some(WaitOutcome::Reached));
    }
}
