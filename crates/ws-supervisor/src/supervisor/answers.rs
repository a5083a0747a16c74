//! What the loop answers to the API: what is asked of services becomes an input, the rest is told.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use ws_core::engine::{Effect, EngineStatus, Input};
use ws_core::host::Standing;
use ws_core::plan::ServicePlan;
use ws_model::event::{signal_name, signal_number};
use ws_model::wire::{Accepted, DownRequest, Info, KillRequest, ServiceStatus, StatsSample, Why};
use ws_model::{EventKind, ExitReason, Phase, ServiceName};

use super::Loop;
use crate::api::{Answer, HoldGuard, Refusal, Request};
use crate::clock;

/// The greatest number of a signal (SIGRTMAX of Linux).
const MAX_SIGNAL: i32 = 64;

impl Loop {
    pub(super) fn answer(&mut self, request: Request) {
        // Whoever asked may be gone by now: then nobody needs the answer.
        match request {
            Request::Info(reply) => drop(reply.send(self.info())),
            Request::Services(reply) => {
                let rows = self.rows();
                drop(reply.send((rows, self.journal.last_seq())));
            }
            Request::Up(services, reply) => {
                drop(reply.send(self.change(&services, true, |services| Input::Up { services })));
            }
            Request::Stop(services, reply) => {
                drop(reply.send(self.change(&services, false, |services| Input::Stop { services })));
            }
            Request::Restart(services, reply) => {
                drop(reply.send(self.change(&services, true, |services| Input::Restart { services })));
            }
            Request::Kill(request, reply) => {
                let answer = self.kill(request);
                drop(reply.send(answer));
            }
            Request::Down(DownRequest { now, volumes }, reply) => {
                let accepted = Accepted { seq: self.journal.last_seq() };
                self.remove_volumes |= volumes;
                self.go_down("somebody asked for it", now);
                drop(reply.send(Ok(accepted)));
            }
            Request::Why(service, reply) => drop(reply.send(self.why(&service))),
            Request::Plan(request, reply) => self.ask_for_difference(request.environment, reply),
            Request::Apply(request, reply) => self.ask_to_apply(request.environment, reply),
            Request::Set(request, reply) => self.ask_to_set(request, reply),
            Request::Watched(reply) => drop(reply.send(self.watched())),
            Request::Violations(services, reply) => {
                let answer = self.all_units(&services).map(|units| self.violation_rows(&units));
                drop(reply.send(answer));
            }
            Request::Names(services, reply) => drop(reply.send(self.names(services))),
            Request::Usage(reply) => drop(reply.send(self.usage())),
            Request::MayExec(service, reply) => drop(reply.send(self.may_exec(&service))),
            Request::Exec(spec, io, reply) => {
                let answer = self.exec(spec, io);
                drop(reply.send(answer));
            }
            Request::Terminal(service, reply) => {
                // That there is none is no failure: one of ours does.
                self.host.terminal(&service, Box::new(move |made| drop(reply.send(made.ok()))));
            }
            Request::MayRun(service, reply) => drop(reply.send(self.may_run(&service))),
            Request::Run(service, request, io, reply) => {
                let answer = self.run_one_off(&service, request, io);
                drop(reply.send(answer));
            }
            Request::Hold(reply) => {
                let answer = self.hold();
                drop(reply.send(answer));
            }
        }
    }

    /// Something that is asked of services; `starts`: that makes no sense while the stack goes down.
    fn change(
        &mut self,
        services: &[ServiceName],
        starts: bool,
        input: impl FnOnce(Vec<ServiceName>) -> Input,
    ) -> Answer<Accepted> {
        let mut services = self.all_units(services)?;
        if self.torn_down || (starts && self.down.is_some()) {
            return Err(Refusal::new(StatusCode::CONFLICT, "the stack is going down"));
        }
        if starts && services.is_empty() && self.sessions.has_one_offs() {
            // All that the file has: a one-off runs once.
            services =
                self.engine.plan().services.values().filter(|it| !it.is_one_off()).map(name_of).collect();
        }
        let accepted = Accepted { seq: self.journal.last_seq() };
        self.step(input(services));
        Ok(accepted)
    }

    fn kill(&mut self, request: KillRequest) -> Answer<Accepted> {
        let KillRequest { services, signal } = request;
        let signal = signal.map_or(Ok(KILL), |text| parse_signal(&text))?;
        if signal == KILL {
            return self.change(&services, false, |services| Input::Kill { services });
        }
        let all = services.is_empty();
        let wanted = self.all_units(&services)?;
        if self.torn_down {
            return Err(Refusal::new(StatusCode::CONFLICT, "the stack is going down"));
        }
        let mut runs = Vec::new();
        for status in self.engine.status() {
            let meant = all || wanted.contains(&status.service);
            if meant && status.running_since.is_some() {
                runs.push((status.service, status.generation));
            } else if meant && !all {
                return Err(not_running(&status));
            }
        }
        let accepted = Accepted { seq: self.journal.last_seq() };
        for (service, generation) in runs {
            let text = format!("was sent {} on request", signal_name(signal));
            self.tell(Some(service.clone()), EventKind::Notice { text });
            self.host.submit(Effect::Signal { service, generation, signal });
        }
        Ok(accepted)
    }

    /// The units that a name stands for; never empty.
    pub(super) fn units(&self, name: &ServiceName) -> Answer<Vec<ServiceName>> {
        if self.sessions.one_off(name).is_some() {
            return Ok(vec![name.clone()]);
        }
        let plan = self.engine.plan();
        let units: Vec<ServiceName> = plan.units(name.as_str()).into_iter().map(name_of).collect();
        if !units.is_empty() {
            return Ok(units);
        }
        let mut names: Vec<&str> = Vec::new();
        for unit in plan.services.values().filter(|unit| !unit.is_one_off()) {
            if !names.contains(&unit.declared.as_str()) {
                names.push(unit.declared.as_str());
            }
        }
        names.truncate(20);
        let refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is no service `{name}`"));
        Err(refusal.help(format!("services are: {}", names.join(", "))))
    }

    /// The units that names stand for.
    fn all_units(&self, names: &[ServiceName]) -> Answer<Vec<ServiceName>> {
        let mut all = Vec::new();
        for name in names {
            for unit in self.units(name)? {
                if !all.contains(&unit) {
                    all.push(unit);
                }
            }
        }
        Ok(all)
    }

    /// The names in logs that names stand for: what is not of the plan any more may have some too.
    fn names(&self, names: Vec<ServiceName>) -> Vec<ServiceName> {
        let units = names.into_iter().flat_map(|name| self.units(&name).unwrap_or_else(|_| vec![name]));
        let mut found: Vec<ServiceName> = Vec::new();
        for unit in units {
            // What the compiler says of it belongs to it.
            let uses = self.engine.plan().services.get(&unit).map(|plan| plan.uses.as_slice());
            let builds = uses.unwrap_or_default().iter().map(|using| using.build.clone());
            let with_builds: Vec<ServiceName> = builds.chain([unit]).collect();
            let new = |name: &ServiceName| !found.contains(name);
            let new: Vec<ServiceName> = with_builds.into_iter().filter(new).collect();
            found.extend(new);
        }
        found
    }

    /// The unit that one service stands for: of replicas, the first for which `fits`, or else the first.
    fn unit(&self, name: &ServiceName, fits: impl Fn(&EngineStatus) -> bool) -> Answer<EngineStatus> {
        let units = self.units(name)?;
        let mut status = self.engine.status();
        status.retain(|status| units.contains(&status.service));
        let order =
            |status: &EngineStatus| (!fits(status), units.iter().position(|unit| *unit == status.service));
        status
            .into_iter()
            .min_by_key(order)
            // One that the host makes a place for.
            .ok_or_else(|| Refusal::new(StatusCode::CONFLICT, format!("`{name}` does not run yet")))
    }

    fn why(&self, service: &ServiceName) -> Answer<Why> {
        let status = self.unit(service, |status| !status.ready)?;
        Ok(Why { chain: self.engine.why(&status.service) })
    }

    pub(super) fn may_exec(&self, service: &ServiceName) -> Answer<ServiceName> {
        let status = self.unit(service, may_exec_in)?;
        if self.torn_down || !may_exec_in(&status) {
            return Err(not_running(&status));
        }
        Ok(status.service)
    }

    fn hold(&mut self) -> Answer<HoldGuard> {
        if self.down.is_some() {
            return Err(Refusal::new(StatusCode::CONFLICT, "the stack is going down"));
        }
        if self.held {
            return Err(Refusal::new(StatusCode::CONFLICT, "another `ws up` owns the stack already"));
        }
        self.held = true;
        Ok(HoldGuard(self.notices.clone()))
    }

    fn info(&self) -> Info {
        Info {
            version: self.record.version.clone(),
            instance: self.record.instance.clone(),
            name: self.engine.plan().name.to_string(),
            root: self.record.root.clone(),
            pid: self.record.pid,
            started_at: self.record.started_at,
            attached: self.held || self.record.attached,
        }
    }

    fn plan_of(&self, unit: &ServiceName) -> Option<&ServicePlan> {
        self.engine.plan().services.get(unit).or_else(|| self.sessions.one_off(unit))
    }

    /// What every unit uses that uses something.
    fn usage(&mut self) -> Vec<StatsSample> {
        let usage = if self.torn_down { BTreeMap::new() } else { self.host.usage() };
        let at = clock::now();
        let sample = |(name, usage): (ServiceName, ws_core::host::Usage)| {
            let plan = self.plan_of(&name)?;
            Some(StatsSample {
                at,
                service: plan.declared.clone(),
                memory_bytes: usage.memory_bytes,
                memory_limit_bytes: plan.limits.memory.map(|memory| memory.0),
                cpu_usec: usage.cpu_usec,
                cpu_percent: None,
                pids: usage.pids,
                name,
            })
        };
        usage.into_iter().filter_map(sample).collect()
    }

    fn rows(&mut self) -> Vec<ServiceStatus> {
        // After the tear-down there is nothing to ask.
        let usage = if self.torn_down { BTreeMap::new() } else { self.host.usage() };
        let standing = self.host.standing();
        let row = |status: EngineStatus| {
            let service = status.service;
            let plan = self.plan_of(&service)?;
            let running = status.running_since.is_some();
            let run = self.runs.get(&(service.clone(), status.generation)).filter(|_| running);
            let usage = usage.get(&service).copied().unwrap_or_default();
            let standing = standing.get(&service);
            let (exit_code, signal) = match status.exit {
                Some(ExitReason::Code(code)) => (Some(code), None),
                Some(ExitReason::Signal(signal)) => (None, Some(signal)),
                None => (None, None),
            };
            Some(ServiceStatus {
                service_kind: plan.kind,
                replica: plan.replica,
                phase: status.phase,
                reason: status.cause.reason,
                cause: status.cause.text,
                ready: status.ready,
                pid: run.and_then(|run| run.pid),
                address: plan.address.to_string(),
                ports: self.published.get(&service).cloned().unwrap_or_default(),
                restarts: status.restarts,
                exit_code,
                signal,
                level: standing.map(|standing| standing.level),
                missing: standing.map(|standing| standing.missing.clone()).unwrap_or_default(),
                undetected: standing.map(|standing| undetected(standing, plan)).unwrap_or_default(),
                memory_bytes: usage.memory_bytes,
                cpu_usec: usage.cpu_usec,
                pids: usage.pids,
                memory_limit_bytes: plan.limits.memory.map(|memory| memory.0),
                status: status.status,
                probe_error: status.probe_error,
                started_at: run.map(|run| run.at),
                service: plan.declared.clone(),
                name: service,
            })
        };
        self.engine.status().into_iter().filter_map(row).collect()
    }
}

/// What of its policy cannot be seen here.
fn undetected(standing: &Standing, plan: &ServicePlan) -> Vec<String> {
    let wanted = standing.undetected.iter().filter(|(class, _)| plan.policy.detects(*class));
    wanted.map(|(class, why)| format!("{class}: {why}")).collect()
}

fn name_of(plan: &ServicePlan) -> ServiceName {
    plan.name.clone()
}

/// Whether a command could be run inside its sandbox.
fn may_exec_in(status: &EngineStatus) -> bool {
    match status.phase {
        Phase::Running | Phase::Ready | Phase::Unhealthy | Phase::Stopping => true,
        Phase::Pending
        | Phase::Waiting
        | Phase::Building
        | Phase::Starting
        | Phase::Stopped
        | Phase::Exited
        | Phase::Failed
        | Phase::Backoff
        | Phase::Violated => false,
    }
}

fn not_running(status: &EngineStatus) -> Refusal {
    let (service, phase) = (&status.service, status.phase);
    let refusal = Refusal::new(StatusCode::CONFLICT, format!("`{service}` does not run: it is {phase}"));
    refusal.help(format!("{service} {}", status.cause.text))
}

/// SIGKILL.
const KILL: i32 = 9;

fn parse_signal(text: &str) -> Answer<i32> {
    let number = text.parse().ok().filter(|number| (1..=MAX_SIGNAL).contains(number));
    number.or_else(|| signal_number(&text.to_ascii_uppercase())).ok_or_else(|| {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, format!("`{text}` is not a signal"));
        refusal.help(format!("a signal is a name like `HUP` or a number from 1 to {MAX_SIGNAL}"))
    })
}
