//! Commands that somebody runs beside the services: `exec` inside the sandbox of one that runs, `run` as a unit of its
//! own.
//!
//! ```text
//! run: plan::one_off ─▶ Host::add ─▶ Input::Add, Input::Up ─▶ (it settles) ─▶ the answer, Input::Remove ─▶ Host::remove
//! ```
//!
//! Each belongs to the connection that asked for it: when that ends first, the command is killed and the one-off is
//! stopped, as by `stop`.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};
use ws_core::engine::Input;
use ws_core::host::{ExecId, ExecIo, ExecSpec};
use ws_core::plan::{self, ServicePlan};
use ws_model::wire::{ExecResult, RunRequest};
use ws_model::{Cause, EventKind, ExitReason, Phase, Reason, ServiceName};

use super::Loop;
use crate::api::{Answer, Notice, Refusal};

/// The number of a session.
pub(crate) type SessionId = u64;

/// A command that was begun. When this is dropped before [`Self::ended`], the command is ended.
#[derive(Debug)]
pub(crate) struct Running {
    id: SessionId,
    done: oneshot::Receiver<ExecResult>,
    ended: bool,
    notices: mpsc::UnboundedSender<Notice>,
}

impl Running {
    /// One that nobody hears of.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of(done: oneshot::Receiver<ExecResult>) -> Self {
        Self { id: 0, done, ended: false, notices: mpsc::unbounded_channel().0 }
    }

    /// Waits for its end. May be cancelled and called again, until it has given the result.
    pub(crate) async fn ended(&mut self) -> ExecResult {
        let result = (&mut self.done).await;
        self.ended = true;
        result.unwrap_or_else(|_| ExecResult::NotStarted {
            error: "the supervisor is going down".to_owned(),
            not_found: false,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails when the supervisor has ended.
        let _ = self.notices.send(Notice::SessionEnded { id: self.id, by_itself: self.ended });
    }
}

/// What runs for whom.
#[derive(Default)]
pub(super) struct Sessions {
    last: SessionId,
    execs: BTreeMap<SessionId, ExecId>,
    one_offs: BTreeMap<ServiceName, OneOff>,
    /// The number of the last one-off of each service.
    numbers: BTreeMap<ServiceName, u32>,
}

struct OneOff {
    session: SessionId,
    plan: ServicePlan,
    stage: Stage,
    /// Gone when it was answered.
    done: Option<oneshot::Sender<ExecResult>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host makes its place.
    Adding,
    /// So, and nobody waits for it any more.
    Unwanted,
    /// The engine has it.
    Running,
    /// The host takes its place away.
    Removing,
}

impl Sessions {
    /// The plan of a one-off.
    pub(super) fn one_off(&self, name: &ServiceName) -> Option<&ServicePlan> {
        self.one_offs.get(name).map(|one_off| &one_off.plan)
    }

    /// The one-off that has this number in the workspace.
    pub(super) fn one_off_with(&self, index: u32) -> Option<&ServiceName> {
        self.one_offs
            .values()
            .map(|one_off| &one_off.plan)
            .find(|plan| plan.index == index)
            .map(|plan| &plan.name)
    }

    pub(super) fn has_one_offs(&self) -> bool {
        !self.one_offs.is_empty()
    }

    fn next(&mut self) -> SessionId {
        self.last += 1;
        self.last
    }
}

impl Loop {
    /// Begins a command inside the sandbox of a service.
    pub(super) fn exec(&mut self, spec: ExecSpec, io: ExecIo) -> Answer<Running> {
        // Once more: time went by since the connection was upgraded.
        self.may_exec(&spec.service)?;
        let (tell, done) = oneshot::channel();
        // It fails when the client is gone.
        let exec = self.host.exec(spec, io, Box::new(move |result| drop(tell.send(result))));
        let id = self.sessions.next();
        self.sessions.execs.insert(id, exec);
        Ok(Running { id, done, ended: false, notices: self.notices.clone() })
    }

    /// Whether a one-off of a service could be run now.
    pub(super) fn may_run(&self, service: &ServiceName) -> Answer<()> {
        self.units(service)?;
        if self.down.is_some() {
            return Err(Refusal::new(StatusCode::CONFLICT, "the stack is going down"));
        }
        Ok(())
    }

    /// Begins a one-off of a service.
    pub(super) fn run_one_off(
        &mut self,
        service: &ServiceName,
        request: RunRequest,
        io: ExecIo,
    ) -> Answer<Running> {
        self.may_run(service)?;
        let taken = self.sessions.one_offs.values().map(|it| (it.plan.name.clone(), it.plan.index)).collect();
        let number = self.sessions.numbers.entry(service.clone()).or_default();
        *number += 1;
        let wanted = plan::OneOff {
            service,
            number: *number,
            argv: request.command,
            env: &request.env,
            cwd: request.working_dir.as_deref().map(std::path::Path::new),
            tty: request.tty,
            taken: &taken,
        };
        let mut plan = plan::one_off(self.engine.plan(), &wanted)
            .map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?;
        if request.no_deps {
            plan.waits.clear();
        }
        let (tell, done) = oneshot::channel();
        let session = self.sessions.next();
        let name = plan.name.clone();
        let one_off = OneOff { session, plan: plan.clone(), stage: Stage::Adding, done: Some(tell) };
        self.sessions.one_offs.insert(name.clone(), one_off);
        self.logs.retain(&name, &plan.logs);
        let notices = self.notices.clone();
        let added = move |result| {
            // It fails when the supervisor has ended.
            let _ = notices.send(Notice::Added { name, result });
        };
        self.host.add(plan, Some(io), Box::new(added));
        Ok(Running { id: session, done, ended: false, notices: self.notices.clone() })
    }

    /// The host has made the place of a one-off, or could not.
    pub(super) fn one_off_added(&mut self, name: &ServiceName, result: Result<(), String>) {
        // After the tear-down its place is gone as well.
        let Some(one_off) = self.sessions.one_offs.get_mut(name).filter(|_| !self.torn_down) else { return };
        if let Err(error) = result {
            if let Some(one_off) = self.sessions.one_offs.remove(name) {
                one_off.answer(ExecResult::NotStarted { error, not_found: false });
            }
            return;
        }
        if one_off.stage == Stage::Unwanted || self.down.is_some() {
            return self.remove_one_off(name);
        }
        one_off.stage = Stage::Running;
        let service = Box::new(one_off.plan.clone());
        self.step(Input::Add { service });
        self.step(Input::Up { services: vec![name.clone()] });
    }

    /// Takes in what was told about one-offs: those that have settled are over.
    pub(super) fn settle_one_offs(&mut self, told: &[(Option<ServiceName>, EventKind)]) {
        if !self.sessions.has_one_offs() {
            return;
        }
        for (name, kind) in told {
            if let (Some(name), EventKind::Phase { phase, cause, exit, retry_in_ms: _ }) = (name, kind)
                && phase.is_settled_down()
                && *phase != Phase::Pending
                && let Some(one_off) = self.sessions.one_offs.get_mut(name)
                && one_off.stage == Stage::Running
            {
                one_off.take_answer(result_of(cause, *exit));
                self.step(Input::Remove { service: name.clone() });
                self.remove_one_off(name);
            }
        }
    }

    fn remove_one_off(&mut self, name: &ServiceName) {
        let Some(one_off) = self.sessions.one_offs.get_mut(name) else { return };
        one_off.stage = Stage::Removing;
        one_off.done = None;
        if self.torn_down {
            return;
        }
        let (notices, of) = (self.notices.clone(), name.clone());
        let removed = move |errors| {
            // It fails when the supervisor has ended.
            let _ = notices.send(Notice::Removed { name: of, errors });
        };
        self.host.remove(name, Box::new(removed));
    }

    /// The host has taken the place of a one-off away.
    pub(super) fn one_off_removed(&mut self, name: &ServiceName, errors: Vec<String>) {
        self.sessions.one_offs.remove(name);
        for text in errors {
            self.tell(Some(name.clone()), EventKind::Notice { text });
        }
    }

    /// A session is over: its command ended, or its client is gone.
    pub(super) fn session_ended(&mut self, id: SessionId, by_itself: bool) {
        if let Some(exec) = self.sessions.execs.remove(&id) {
            if !by_itself && !self.torn_down {
                self.host.cancel_exec(exec);
            }
            return;
        }
        let Some((name, one_off)) = self.sessions.one_offs.iter_mut().find(|(_, it)| it.session == id) else {
            return;
        };
        match one_off.stage {
            Stage::Adding => one_off.stage = Stage::Unwanted,
            Stage::Running => {
                let services = vec![name.clone()];
                self.step(Input::Stop { services });
            }
            Stage::Unwanted | Stage::Removing => {}
        }
    }
}

impl OneOff {
    fn take_answer(&mut self, result: ExecResult) {
        if let Some(done) = self.done.take() {
            // It fails when the client is gone.
            let _ = done.send(result);
        }
    }

    fn answer(mut self, result: ExecResult) {
        self.take_answer(result);
    }
}

/// How a one-off ended that is in its last phase for this reason.
fn result_of(cause: &Cause, exit: Option<ExitReason>) -> ExecResult {
    match exit {
        Some(exit) => ExecResult::Ended(exit),
        None => ExecResult::NotStarted { error: cause.text.clone(), not_found: is_not_found(cause) },
    }
}

/// Whether there is no such program (127 for those who pass codes on). Of a start that failed there is only the host's
/// sentence: the step, and then the error.
fn is_not_found(cause: &Cause) -> bool {
    let text = &cause.text;
    cause.reason == Reason::StartFailed
        && text.contains("executing ")
        && text.ends_with("no such file or directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_is_not_found() {
        let not_started = |reason, text: &str| result_of(&Cause::new(reason, text), None);
        let not_found = |result: ExecResult| matches!(result, ExecResult::NotStarted { not_found: true, .. });
        let text = "could not start: executing nope: no such file or directory";
        assert!(not_found(not_started(Reason::StartFailed, text)));
        let mount = "could not start: mounting `./data` read-write: no such file or directory";
        assert!(!not_found(not_started(Reason::StartFailed, mount)));
        assert!(!not_found(not_started(Reason::DependencyFailed, text)));
        let ended = result_of(&Cause::new(Reason::Exit, "exited with 3"), Some(ExitReason::Code(3)));
        assert_eq!(ended, ExecResult::Ended(ExitReason::Code(3)));
    }
}
