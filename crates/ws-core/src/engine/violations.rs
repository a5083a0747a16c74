//! What breaks a policy: from what the host saw to what is done and told. What follows is decided by
//! [`judge`](crate::policy::judge).

use std::net::IpAddr;

use ws_model::{
    ByteSize, Cause, EventKind, Evidence, ExitReason, Mechanism, NetworkAct, Phase, PolicyAction, Reason,
    ServiceName, Suggestion, Violation,
};

use super::service::{State, Then};
use super::{Engine, Generation, Outcome, Tick};
use crate::plan::ServicePlan;
use crate::policy::{Life, Observation, Told, judge};

impl Engine {
    pub(super) fn observed(&mut self, mut seen: Observation, now: Tick, out: &mut Outcome) {
        let Some(i) = self.number(&seen.service) else { return };
        if self.is_asked_by_the_resolver(&seen.evidence) {
            return;
        }
        let life = self.life_of(i, seen.generation);
        self.complete(i, &mut seen.evidence);
        let action = self.judge(i, &seen, life, now, out);
        if action != PolicyAction::Restart {
            self.act(i, action, &seen.evidence, now, out);
            return;
        }
        let reason = match seen.evidence {
            Evidence::Memory { .. } => Reason::Oom,
            Evidence::Network { .. }
            | Evidence::Pids { .. }
            | Evidence::Cpu { .. }
            | Evidence::Syscall { .. }
            | Evidence::Decoy { .. }
            | Evidence::Process { .. }
            | Evidence::File { .. }
            | Evidence::Logs { .. } => Reason::Violation,
        };
        let cause = Cause::new(reason, seen.evidence.to_string());
        if seen.generation.is_some_and(|run| self.is_beside(i, run)) {
            self.in_its_stead(i, out, |engine, out| engine.end(i, Then::Fail, cause, true, now, out));
            self.judge_beside(i, now, out);
        } else if self.units[i].state.live().is_some() {
            self.end(i, Then::Fail, cause, true, now, out);
        }
    }

    /// What concerns the service as a whole, and not one run of it.
    pub(super) fn act(
        &mut self,
        i: usize,
        action: PolicyAction,
        evidence: &Evidence,
        now: Tick,
        out: &mut Outcome,
    ) {
        match action {
            PolicyAction::Off | PolicyAction::Report | PolicyAction::Restart => {}
            PolicyAction::Kill => self.condemn(i, evidence, now, out),
            PolicyAction::Stop => {
                self.condemn(i, evidence, now, out);
                self.stop_for(i, evidence, now, out);
            }
        }
    }

    /// A run ended, and the kernel killed something of it for its memory limit. Whether that decides what becomes of the
    /// service; else its restart policy does.
    pub(super) fn ended_for_memory(
        &mut self,
        i: usize,
        generation: Generation,
        exit: ExitReason,
        now: Tick,
        out: &mut Outcome,
    ) -> bool {
        let unit = &self.units[i];
        if unit.generation != generation {
            return false;
        }
        let goes_on = matches!(unit.state, State::Starting { .. } | State::Up { .. });
        let (action, evidence) = self.judge_memory(i, generation, now, out);
        if action < PolicyAction::Kill || !goes_on {
            return false;
        }
        self.units[i].exit = Some(exit);
        let cause = verdict(&evidence);
        self.give_up_beside(i, true, now, out);
        if !self.beside_takes_over(i, &cause, Then::Violate, None, now, out) {
            self.failed_for_good(i, cause, now, out);
        }
        if action == PolicyAction::Stop {
            self.stop_for(i, &evidence, now, out);
        }
        true
    }

    /// What follows from the end of a run for its memory limit.
    pub(super) fn judge_memory(
        &mut self,
        i: usize,
        generation: Generation,
        now: Tick,
        out: &mut Outcome,
    ) -> (PolicyAction, Evidence) {
        let life = match self.life_of(i, Some(generation)) {
            Life::Condemned => Life::Condemned,
            Life::Runs | Life::Over | Life::Earlier => Life::Over,
        };
        let mut evidence = Evidence::Memory { limit_bytes: None };
        self.complete(i, &mut evidence);
        let seen = Observation {
            service: self.units[i].name.clone(),
            generation: Some(generation),
            evidence,
            mechanism: Mechanism::Exit,
            process: None,
            count: 1,
            lost: 0,
            certain: true,
        };
        let action = self.judge(i, &seen, life, now, out);
        (action, seen.evidence)
    }

    /// What repeated and was not told yet, of those for which that is due.
    pub(super) fn tell_what_repeated(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        if self.units[i].history.due().is_some_and(|due| due <= now) {
            for told in self.units[i].history.overdue(now) {
                self.tell_violation(i, told, out);
            }
        }
    }

    /// A run is over: what was not told of it is told now.
    pub(super) fn tell_what_is_left(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        for told in self.units[i].history.rest(now) {
            self.tell_violation(i, told, out);
        }
    }

    fn judge(
        &mut self,
        i: usize,
        seen: &Observation,
        life: Life,
        now: Tick,
        out: &mut Outcome,
    ) -> PolicyAction {
        let Some(plan) = self.plan.services.get(&self.units[i].name) else { return PolicyAction::Off };
        let verdict = judge(&plan.policy, &mut self.units[i].history, seen, life, now);
        if let Some(told) = verdict.told {
            self.tell_violation(i, told, out);
        }
        verdict.action
    }

    /// Whether it broke its policy: then only a person starts it again, and not a file that it may have written itself.
    pub(super) fn stays_down(&self, i: usize) -> bool {
        let unit = &self.units[i];
        unit.phase() == Phase::Violated || matches!(unit.state, State::Ending { then: Then::Violate, .. })
    }

    fn life_of(&self, i: usize, generation: Option<Generation>) -> Life {
        let unit = &self.units[i];
        let live = unit.state.live();
        let beside = generation.is_some_and(|run| self.is_beside(i, run));
        if generation.is_some() && generation != Some(unit.generation) && !beside {
            return Life::Earlier;
        }
        match &unit.state {
            State::Ending { then: Then::Violate, .. } => Life::Condemned,
            State::Failed { .. } if unit.phase() == Phase::Violated => Life::Condemned,
            // Somebody else decided that it is down, or it never was up.
            State::Pending | State::Stopped => Life::Earlier,
            State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Waiting
            | State::Looking { .. }
            | State::Backoff { .. }
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => {
                if live.is_some() || beside {
                    Life::Runs
                } else {
                    Life::Over
                }
            }
        }
    }

    /// A service is killed and stays down.
    fn condemn(&mut self, i: usize, evidence: &Evidence, now: Tick, out: &mut Outcome) {
        let cause = verdict(evidence);
        match &self.units[i].state {
            State::Starting { .. } | State::Up { .. } | State::Ending { .. } => {
                self.end(i, Then::Violate, cause, true, now, out);
            }
            State::Waiting
            | State::Looking { .. }
            | State::Backoff { .. }
            | State::Exited
            | State::Failed { lost: None }
            | State::Blocked { .. } => self.failed_for_good(i, cause, now, out),
            State::Pending | State::Stopped | State::Failed { lost: Some(_) } => {}
        }
    }

    /// The workspace goes down because of what a service did.
    fn stop_for(&mut self, i: usize, evidence: &Evidence, now: Tick, out: &mut Outcome) {
        if self.going_down {
            return;
        }
        self.goals.clear();
        let cause = format!("{} {evidence}, and its policy stops the workspace for it", self.units[i].name);
        out.events.push((None, EventKind::WorkspaceFailed { cause }));
        self.down(false, now, out);
    }

    fn tell_violation(&self, i: usize, told: Told, out: &mut Outcome) {
        let name = self.units[i].name.clone();
        let plan = self.plan.services.get(&name);
        let suggestion = plan.and_then(|plan| suggestion(plan, &told.evidence));
        let violation = Violation {
            class: told.evidence.class(),
            evidence: told.evidence,
            mechanism: told.mechanism,
            action: told.action,
            count: told.count,
            events_lost: told.lost,
            over_ms: u64::try_from(told.over.as_millis()).unwrap_or(u64::MAX),
            run: told.generation,
            process: told.process,
            rule: told.rule.to_string(),
            unless: told.unless,
            suggestion,
        };
        out.events.push((Some(name), EventKind::Violation(Box::new(violation))));
    }

    /// Whether a lookup is of a name that stands in everybody's `/etc/hosts`. Resolvers ask on for the kind of address that
    /// a name does not have there (IPv6): no program tries anything by that.
    fn is_asked_by_the_resolver(&self, evidence: &Evidence) -> bool {
        let Evidence::Network { act: NetworkAct::Sent, lookup: Some(lookup), .. } = evidence else {
            return false;
        };
        let name = lookup.strip_suffix(self.plan.name.as_str()).and_then(|name| name.strip_suffix('.'));
        let name = name.unwrap_or(lookup);
        let shared = self.plan.services.values().map(|unit| &unit.declared);
        self.plan.addresses().map(|(known, _)| known).chain(shared).any(|known| known.as_str() == name)
    }

    /// Adds to evidence what the plan knows: whose address it is, what the limit is.
    fn complete(&self, i: usize, evidence: &mut Evidence) {
        match evidence {
            Evidence::Network { destination: Some(IpAddr::V4(address)), name, .. } if name.is_none() => {
                let mut known = self.plan.addresses().filter(|(_, of)| of == address);
                *name = known.next().map(|(name, _)| name.to_string());
            }
            Evidence::Memory { limit_bytes } if limit_bytes.is_none() => {
                let plan = self.plan.services.get(&self.units[i].name);
                *limit_bytes = plan.and_then(|plan| plan.limits.memory).map(|ByteSize(limit)| limit);
            }
            Evidence::Network { .. }
            | Evidence::Memory { .. }
            | Evidence::Pids { .. }
            | Evidence::Cpu { .. }
            | Evidence::Syscall { .. }
            | Evidence::Decoy { .. }
            | Evidence::Process { .. }
            | Evidence::File { .. }
            | Evidence::Logs { .. } => {}
        }
    }
}

fn verdict(evidence: &Evidence) -> Cause {
    Cause::new(Reason::Violation, evidence.to_string())
}

/// What would allow it, where a person could have meant to.
fn suggestion(plan: &ServicePlan, evidence: &Evidence) -> Option<Suggestion> {
    let to = match plan.kind {
        ws_model::ServiceKind::Service | ws_model::ServiceKind::Task => format!("services.{}", plan.declared),
        // Where a build stands in the file is not known from its name.
        ws_model::ServiceKind::Build => return None,
    };
    let add = match evidence {
        Evidence::Network { act: NetworkAct::Sent, protocol, name: Some(name), port: Some(port), .. }
            if *name != plan.name.as_str() =>
        {
            let name = ServiceName::new(name).ok()?;
            match protocol.as_str() {
                "tcp" => format!("links: [\"{name}:{port}\"]"),
                "udp" => format!("links: [\"{name}:{port}/udp\"]"),
                _ => return None,
            }
        }
        Evidence::Memory { limit_bytes: Some(limit) } => {
            format!("limits: {{ memory: {} }}", ByteSize(limit.saturating_mul(2)))
        }
        Evidence::Pids { limit } => format!("limits: {{ pids: {} }}", limit.saturating_mul(2)),
        Evidence::Process { executable } => {
            format!("policy: {{ processes: {{ allow: [\"{executable}\"] }} }}")
        }
        Evidence::Network { .. }
        | Evidence::Memory { .. }
        | Evidence::Cpu { .. }
        | Evidence::Syscall { .. }
        | Evidence::Decoy { .. }
        | Evidence::File { .. }
        | Evidence::Logs { .. } => return None,
    };
    Some(Suggestion { to, add })
}
