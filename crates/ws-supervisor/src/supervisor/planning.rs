//! Plans that take the place of the one that runs: who makes them, and when one is carried out.
//!
//! ```text
//! files changed, apply, set ─▶ Planner::plan ─▶ change::between ─▶ nothing │ told, and waits │ carried out
//!   carried out: what runs elsewhere ─▶ Files::follow ─▶ Input::Adopt ─▶ (places, updates) ─▶ PlanApplied
//! ```
//!
//! One plan is made at a time, away from the loop, and none is begun while another is carried out: what waits then is
//! made from the files as they are afterwards. However often files change meanwhile, they are read once more. Nothing
//! that only looks waits for a change.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::StatusCode;
use tokio::task::{JoinHandle, spawn_blocking};
use ws_core::change::{self, Change, UnitChange};
use ws_core::engine::Input;
use ws_core::files::News;
use ws_core::plan::{self, Plan, ServicePlan};
use ws_model::wire::{Applying, PlanDifference, PublishedPort, SetRequest};
use ws_model::{EventKind, PlanLine, Publish, SecretName, ServiceName};

use super::Loop;
use crate::api::{Answer, Notice, Refusal, Reply};
use crate::planner::{ExplainWatch, PlanRefused, PlanRequest, Planned, Planner, Watched};

type Environment = Option<BTreeMap<String, String>>;

/// What a plan is wanted for.
enum Job {
    /// Files that the plan was made of changed.
    Changed,
    /// Somebody wants to know what is different.
    Look(Environment, Vec<Reply<Answer<PlanDifference>>>),
    /// Somebody wants what the files say.
    Apply(Environment, Reply<Answer<Applying>>),
    /// Somebody wants other settings.
    Set(SetRequest, Reply<Answer<Applying>>),
}

impl Job {
    fn request(&self) -> PlanRequest {
        match self {
            Self::Changed => PlanRequest::Files { env: None },
            Self::Look(env, _) | Self::Apply(env, _) => PlanRequest::Files { env: env.clone() },
            Self::Set(request, _) => {
                PlanRequest::Set { service: request.service.clone(), settings: request.settings.clone() }
            }
        }
    }

    fn only_looks(&self) -> bool {
        match self {
            Self::Look(..) => true,
            Self::Changed | Self::Apply(..) | Self::Set(..) => false,
        }
    }

    fn refuse(self, refusal: &Refusal) {
        // Whoever asked may be gone.
        match self {
            Self::Changed => {}
            Self::Look(_, replies) => {
                replies.into_iter().for_each(|reply| drop(reply.send(Err(refusal.clone()))));
            }
            Self::Apply(_, reply) | Self::Set(_, reply) => drop(reply.send(Err(refusal.clone()))),
        }
    }
}

/// What the planner has done, with itself.
pub(super) struct Work {
    planner: Box<dyn Planner>,
    /// Nothing when it was told that its plan is carried out.
    planned: Option<Result<Planned, PlanRefused>>,
}

/// A plan that is about to be carried out.
struct Carry {
    planned: Planned,
    change: Change,
    reply: Option<Reply<Answer<Applying>>>,
}

/// What was told last of files that were not carried out.
#[derive(Debug, PartialEq)]
enum Held {
    Change(Vec<PlanLine>),
    Errors(String),
}

/// What could not be done for a plan.
#[derive(Debug, Default)]
struct Failed {
    /// All of it, a sentence each.
    errors: Vec<String>,
    /// Units that are as they were before.
    as_before: Vec<ServiceName>,
    /// Units that have no place.
    nowhere: Vec<ServiceName>,
}

/// What the loop knows of plans.
pub(super) struct Planning {
    /// What runs, or is being made so; without one-offs.
    plan: Arc<Plan>,
    plan_files: Arc<[PathBuf]>,
    secrets: BTreeMap<SecretName, Vec<u8>>,
    apply_widening: bool,
    explain: Option<Arc<dyn ExplainWatch>>,
    /// Whether there is somebody who makes plans at all.
    plans: bool,
    /// He, while he has nothing to do.
    planner: Option<Box<dyn Planner>>,
    work: Option<JoinHandle<Work>>,
    /// What he works for.
    job: Option<Job>,
    waiting: VecDeque<Job>,
    /// Waits for the host to know what runs elsewhere.
    carry: Option<Carry>,
    /// A plan is being carried out; what could not be done for it.
    applying: Option<Failed>,
    held: Option<Held>,
}

impl Planning {
    pub(super) fn new(
        plan: Arc<Plan>,
        planner: Option<Box<dyn Planner>>,
        explain: Option<Arc<dyn ExplainWatch>>,
    ) -> Self {
        Self {
            plan,
            plan_files: Arc::new([]),
            secrets: BTreeMap::new(),
            apply_widening: false,
            explain,
            plans: planner.is_some(),
            planner,
            work: None,
            job: None,
            waiting: VecDeque::new(),
            carry: None,
            applying: None,
            held: None,
        }
    }

    /// With what the plan was made of.
    pub(super) fn of(self, plan_files: Vec<PathBuf>, secrets: BTreeMap<SecretName, Vec<u8>>) -> Self {
        Self { plan_files: plan_files.into(), secrets, ..self }
    }

    /// Whether a change that gives more rights is carried out without being asked for.
    pub(super) fn applying_widening(self, apply_widening: bool) -> Self {
        Self { apply_widening, ..self }
    }

    /// Waits for the planner to be back; for ever when he is. May be cancelled and called again.
    pub(super) async fn worked(&mut self) -> Option<Work> {
        let Some(work) = &mut self.work else { return std::future::pending().await };
        let worked = work.await;
        self.work = None;
        worked.ok()
    }

    fn work(
        &mut self,
        work: impl FnOnce(&mut dyn Planner) -> Option<Result<Planned, PlanRefused>> + Send + 'static,
    ) {
        let Some(mut planner) = self.planner.take() else { return };
        self.work = Some(spawn_blocking(move || {
            let planned = work(planner.as_mut());
            Work { planner, planned }
        }));
    }
}

impl Loop {
    // ---- what is asked

    pub(super) fn ask_for_difference(&mut self, env: Environment, reply: Reply<Answer<PlanDifference>>) {
        // Whoever asks the same is answered with it.
        for job in &mut self.planning.waiting {
            if let Job::Look(other, replies) = job
                && *other == env
            {
                return replies.push(reply);
            }
        }
        self.queue(Job::Look(env, vec![reply]));
    }

    pub(super) fn ask_to_apply(&mut self, env: Environment, reply: Reply<Answer<Applying>>) {
        self.queue(Job::Apply(env, reply));
    }

    pub(super) fn ask_to_set(&mut self, request: SetRequest, reply: Reply<Answer<Applying>>) {
        // The name of a service in the file, not of one of its replicas.
        let known = self.planning.plan.services.values().any(|unit| unit.declared == request.service);
        match self.units(&request.service) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(_) if !known => {
                let text = format!("`{}` is not what the file calls a service", request.service);
                drop(reply.send(Err(Refusal::new(StatusCode::NOT_FOUND, text))));
            }
            Ok(_) => self.queue(Job::Set(request, reply)),
        }
    }

    pub(super) fn watched(&self) -> Answer<Watched> {
        let planning = &self.planning;
        let none = || Refusal::new(StatusCode::NOT_IMPLEMENTED, "this supervisor watches no files");
        let explain = planning.explain.clone().ok_or_else(none)?;
        Ok(Watched { plan: planning.plan.clone(), plan_files: planning.plan_files.clone(), explain })
    }

    fn queue(&mut self, job: Job) {
        match self.may_plan() {
            Ok(()) => self.planning.waiting.push_back(job),
            Err(refusal) => job.refuse(&refusal),
        }
    }

    fn may_plan(&self) -> Answer<()> {
        if self.torn_down || self.down.is_some() {
            return Err(goes_down());
        }
        if !self.planning.plans {
            let text = "this supervisor makes no plans: what runs stays as it is";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
        }
        Ok(())
    }

    /// Nothing is planned any more.
    pub(super) fn refuse_plans(&mut self) {
        let planning = &mut self.planning;
        planning.waiting.drain(..).chain(planning.job.take()).for_each(|job| job.refuse(&goes_down()));
        if let Some(reply) = planning.carry.take().and_then(|carry| carry.reply) {
            drop(reply.send(Err(goes_down())));
        }
    }

    // ---- what happens

    pub(super) fn take_news(&mut self, news: News) {
        match news {
            News::Happened(input) => self.step(input),
            News::Notice { service, text } => self.tell(service, EventKind::Notice { text }),
            News::PlanFiles { changed: _ } => {
                let waits = self.planning.waiting.iter().any(|job| matches!(job, Job::Changed));
                if !waits {
                    self.queue(Job::Changed);
                }
            }
        }
    }

    /// Begins what can be begun, and tells what is over.
    pub(super) fn go_on_planning(&mut self) {
        if self.down.is_some() {
            self.refuse_plans();
        }
        if !self.engine.is_changing()
            && let Some(failed) = self.planning.applying.take()
        {
            self.is_applied(failed);
        }
        let busy = self.planning.applying.is_some() || self.engine.is_changing();
        let planning = &mut self.planning;
        if planning.planner.is_none() || planning.carry.is_some() {
            return;
        }
        let next = planning.waiting.iter().position(|job| !busy || job.only_looks());
        let Some(job) = next.and_then(|next| planning.waiting.remove(next)) else { return };
        let (request, running) = (job.request(), Arc::clone(&planning.plan));
        planning.job = Some(job);
        planning.work(move |planner| Some(planner.plan(request, &running)));
    }

    /// The planner has done something; nothing when he broke off.
    pub(super) fn planner_is_back(&mut self, work: Option<Work>) {
        let Some(Work { planner, planned }) = work else {
            self.planning.plans = false;
            let text = "making a plan was broken off: changes of the workspace file are not seen any more";
            self.tell(None, EventKind::Notice { text: text.to_owned() });
            let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
            let planning = &mut self.planning;
            planning
                .job
                .take()
                .into_iter()
                .chain(planning.waiting.drain(..))
                .for_each(|job| job.refuse(&refusal));
            return;
        };
        self.planning.planner = Some(planner);
        // Whoever it was for was refused when the stack began to go down.
        let (Some(planned), Some(job)) = (planned, self.planning.job.take()) else { return };
        if let Err(refusal) = self.may_plan() {
            return job.refuse(&refusal);
        }
        match (job, planned) {
            (Job::Look(_, replies), planned) => {
                let difference = self.difference(planned);
                replies.into_iter().for_each(|reply| drop(reply.send(Ok(difference.clone()))));
            }
            (Job::Changed, Err(PlanRefused { text, plan_files })) => {
                if !plan_files.is_empty() {
                    self.follow_files(plan_files);
                }
                if self.holds(Held::Errors(text.clone())) {
                    self.tell(None, EventKind::PlanRefused { text });
                }
            }
            (job @ (Job::Apply(..) | Job::Set(..)), Err(PlanRefused { text, .. })) => {
                let what = match &job {
                    Job::Set(request, _) => format!("`{}` cannot be set so", request.service),
                    Job::Apply(..) | Job::Changed | Job::Look(..) => "the files have errors".to_owned(),
                };
                job.refuse(&Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, what).help(text));
            }
            (Job::Changed, Ok(planned)) => self.files_were_planned(planned),
            (Job::Apply(_, reply) | Job::Set(_, reply), Ok(planned)) => {
                let change = change::between(&self.planning.plan, &planned.plan);
                if change.needs_down() {
                    let downs = change.lines.iter().filter(|line| line.effect == ws_model::PlanEffect::Down);
                    let downs: Vec<&str> = downs.map(|line| line.text.as_str()).collect();
                    let text = format!("it cannot be carried out while the stack runs: {}", downs.join("; "));
                    let refusal = Refusal::new(StatusCode::CONFLICT, text);
                    // Nobody may be there.
                    let _ = reply.send(Err(refusal.help("`ws down`, then `ws up`")));
                    return;
                }
                self.carry_out(Carry { planned, change, reply: Some(reply) });
            }
        }
    }

    fn difference(&self, planned: Result<Planned, PlanRefused>) -> PlanDifference {
        match planned {
            Err(PlanRefused { text, .. }) => {
                PlanDifference { error: Some(text), ..PlanDifference::default() }
            }
            Ok(planned) => {
                let change = change::between(&self.planning.plan, &planned.plan);
                let (widens, needs_down) = (change.widens(), change.needs_down());
                PlanDifference { lines: change.lines, widens, needs_down, error: None }
            }
        }
    }

    /// Whether this is something else than what was told last.
    fn holds(&mut self, held: Held) -> bool {
        let news = self.planning.held.as_ref() != Some(&held);
        self.planning.held = Some(held);
        news
    }

    /// The files changed and are good: nobody has asked for what they say now.
    fn files_were_planned(&mut self, planned: Planned) {
        let change = change::between(&self.planning.plan, &planned.plan);
        if change.needs_down() || (change.widens() && !self.planning.apply_widening) {
            if self.holds(Held::Change(change.lines.clone())) {
                self.tell(None, EventKind::PlanChanged { lines: change.lines, applied: false });
            }
            self.follow_files(planned.plan_files);
            return;
        }
        self.carry_out(Carry { planned, change, reply: None });
    }

    // ---- carrying out

    fn carry_out(&mut self, carry: Carry) {
        // Before anything is done: what runs elsewhere would be of one plan, and the rest of another.
        if let Some((one_off, unit)) = self.number_in_use(&carry.planned.plan, &carry.change) {
            return self.is_in_use(carry.reply, &one_off, &unit);
        }
        if carry.change.external {
            let notices = self.notices.clone();
            let external = carry.planned.plan.external.clone();
            self.planning.carry = Some(carry);
            let done = move |result| {
                // It fails when the supervisor has ended.
                let _ = notices.send(Notice::ExternalSet(result));
            };
            self.host.set_external(external, Box::new(done));
            return;
        }
        self.adopt(carry);
    }

    pub(super) fn external_is_set(&mut self, result: Result<(), String>) {
        // It was refused when the stack began to go down.
        let Some(carry) = self.planning.carry.take() else { return };
        match result {
            Ok(()) => self.adopt(carry),
            Err(error) => {
                self.give_up(carry.reply, format!("what runs elsewhere could not be changed: {error}"));
            }
        }
    }

    fn give_up(&mut self, reply: Option<Reply<Answer<Applying>>>, text: String) {
        match reply {
            // Nobody may be there.
            Some(reply) => drop(reply.send(Err(Refusal::new(StatusCode::CONFLICT, text)))),
            None => self.tell(None, EventKind::PlanRefused { text }),
        }
    }

    fn is_in_use(
        &mut self,
        reply: Option<Reply<Answer<Applying>>>,
        one_off: &ServiceName,
        unit: &ServiceName,
    ) {
        let text =
            format!("`{unit}` would get the address that `{one_off}` has: try again when that has ended");
        self.give_up(reply, text);
    }

    fn adopt(&mut self, carry: Carry) {
        let Carry { planned: Planned { plan, secrets, plan_files }, change, reply } = carry;
        if let Some((one_off, unit)) = self.number_in_use(&plan, &change) {
            return self.is_in_use(reply, &one_off, &unit);
        }
        self.take_secrets(secrets);
        let seq = self.journal.last_seq();
        let held = self.planning.held.take();
        let plan = Arc::new(plan);
        let answer = Applying { seq, lines: change.lines.clone(), starts: starts(&change) };
        if change.is_nothing() {
            if held.is_some() {
                let text = "the workspace file says again what runs".to_owned();
                self.tell(None, EventKind::Notice { text });
            }
            self.follow_files(plan_files);
        } else {
            self.tell(None, EventKind::PlanChanged { lines: change.lines, applied: true });
            for (unit, _) in change.units.iter().filter(|(_, change)| **change != UnitChange::Remove) {
                if let Some(service) = plan.services.get(unit) {
                    self.logs.retain(unit, &service.logs);
                    if let Some(ports) = self.published.get_mut(unit) {
                        ports.retain(|port| publishes(service, port));
                    }
                }
            }
            self.planning.plan = Arc::clone(&plan);
            self.planning.plan_files = plan_files.into();
            // Before the engine asks about builds of it; what is found by it comes after.
            self.follow();
            self.planning.applying = Some(Failed::default());
            self.step(Input::Adopt { plan: Box::new(Plan::clone(&plan)) });
        }
        self.planning.work(move |planner| {
            planner.adopted(&plan);
            None
        });
        if let Some(reply) = reply {
            // Nobody may be there.
            let _ = reply.send(Ok(answer));
        }
    }

    /// A plan is carried out: what was not is different from it, so that the next one makes up for it.
    fn is_applied(&mut self, failed: Failed) {
        let Failed { errors, as_before, nowhere } = failed;
        if !(as_before.is_empty() && nowhere.is_empty()) {
            let mut plan = Plan::clone(&self.planning.plan);
            plan.services.retain(|unit, _| !nowhere.contains(unit));
            for unit in as_before {
                if let Some(service) = self.engine.plan().services.get(&unit) {
                    plan.services.insert(unit, service.clone());
                }
            }
            self.planning.plan = Arc::new(plan);
        }
        self.tell(None, EventKind::PlanApplied { errors });
    }

    /// A one-off that has the number of a unit that comes: both cannot be there.
    fn number_in_use(&self, plan: &Plan, change: &Change) -> Option<(ServiceName, ServiceName)> {
        let comes = |change: &UnitChange| match change {
            UnitChange::Add | UnitChange::Replace => true,
            UnitChange::Live | UnitChange::Restart | UnitChange::Remove => false,
        };
        let new = change.units.iter().filter(|(_, change)| comes(change)).map(|(unit, _)| unit);
        let mut new = new.filter_map(|unit| plan.services.get(unit));
        new.find_map(|unit| {
            let one_off = self.sessions.one_off_with(unit.index)?;
            Some((one_off.clone(), unit.name.clone()))
        })
    }

    fn take_secrets(&mut self, secrets: BTreeMap<SecretName, Vec<u8>>) {
        if self.planning.secrets == secrets {
            return;
        }
        let other = |name: &SecretName| {
            let known = self.planning.secrets.get(name);
            known.is_some() && known != secrets.get(name)
        };
        let others: Vec<String> =
            secrets.keys().filter(|name| other(name)).map(|name| format!("`{name}`")).collect();
        if !others.is_empty() {
            let text =
                format!("{} changed: what is started from now on gets the new value", others.join(", "));
            self.tell(None, EventKind::Notice { text });
        }
        self.planning.secrets.clone_from(&secrets);
        self.host.set_secrets(secrets);
    }

    /// Other files are to be watched for the plan.
    fn follow_files(&mut self, plan_files: Vec<PathBuf>) {
        if *self.planning.plan_files != *plan_files {
            self.planning.plan_files = plan_files.into();
            self.follow();
        }
    }

    fn follow(&mut self) {
        let (plan, plan_files) = (Arc::clone(&self.planning.plan), self.planning.plan_files.to_vec());
        if let Some(files) = &mut self.files {
            files.follow(plan, plan_files);
        }
    }

    // ---- what the engine wants of the host for it

    pub(super) fn place(&mut self, service: ServicePlan) {
        let (notices, name) = (self.notices.clone(), service.name.clone());
        let done = move |result| {
            // It fails when the supervisor has ended; so below.
            let _ = notices.send(Notice::Happened(Input::Placed { service: name, result }));
        };
        self.host.add(service, None, Box::new(done));
    }

    pub(super) fn displace(&mut self, service: &ServiceName) {
        let (notices, name) = (self.notices.clone(), service.clone());
        let done =
            move |errors| drop(notices.send(Notice::Happened(Input::Displaced { service: name, errors })));
        self.host.remove(service, Box::new(done));
    }

    pub(super) fn update(&mut self, service: ServicePlan) {
        let (notices, name) = (self.notices.clone(), service.name.clone());
        let done =
            move |result| drop(notices.send(Notice::Happened(Input::Updated { service: name, result })));
        self.host.update(service, Box::new(done));
    }

    /// The host has done its part for a service.
    pub(super) fn plan_step(&mut self, input: Input) {
        if self.torn_down {
            return;
        }
        if let Input::Placed { service, result: Ok(()) } = &input
            && let Some(error) = self.is_below(service)
        {
            // What cannot be enforced is not there at all.
            let (notices, name) = (self.notices.clone(), service.clone());
            let done = move |_| {
                let refused = Input::Placed { service: name, result: Err(error) };
                drop(notices.send(Notice::Happened(refused)));
            };
            return self.host.remove(service, Box::new(done));
        }
        if let Some(failed) = &mut self.planning.applying {
            let mut add =
                |service: &ServiceName, error: &str| failed.errors.push(format!("{service}: {error}"));
            if let Input::Updated { service, result: Err(error) } = &input {
                add(service, error);
                failed.as_before.push(service.clone());
            } else if let Input::Placed { service, result: Err(error) } = &input {
                add(service, error);
                failed.nowhere.push(service.clone());
            } else if let Input::Displaced { service, errors } = &input {
                errors.iter().for_each(|error| add(service, error));
            }
        }
        self.step(input);
    }

    /// Why less is enforced for a service than is required.
    fn is_below(&self, service: &ServiceName) -> Option<String> {
        let plan = &self.planning.plan;
        let alone = Plan {
            services: plan
                .services
                .get(service)
                .map(|unit| (service.clone(), unit.clone()))
                .into_iter()
                .collect(),
            ..Plan::clone(plan)
        };
        let problems = plan::check_standing(&alone, &self.host.standing()).err()?;
        problems.first().map(|problem| problem.message.clone())
    }

    /// The place of a service is gone; it may get another one.
    pub(super) fn place_is_gone(&mut self, service: &ServiceName) {
        self.published.remove(service);
    }

    /// A service is another in its place: ports that it publishes no more are told no more.
    pub(super) fn place_is_another(&mut self, service: &ServiceName) {
        let Some(plan) = self.engine.plan().services.get(service) else { return };
        let Some(ports) = self.published.get_mut(service) else { return };
        ports.retain(|known| {
            let is = |publish: &Publish| publish.port == known.port && publish.host.to_string() == known.host;
            plan.publish.iter().any(is)
        });
    }
}

fn goes_down() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "the stack is going down")
}

/// What gets a new run by a change.
fn starts(change: &Change) -> Vec<ServiceName> {
    let starts = |change: &UnitChange| match change {
        UnitChange::Restart | UnitChange::Replace | UnitChange::Add => true,
        UnitChange::Live | UnitChange::Remove => false,
    };
    change.units.iter().filter(|(_, change)| starts(change)).map(|(unit, _)| unit.clone()).collect()
}

/// Whether a port that is published is still to be.
fn publishes(service: &ServicePlan, port: &PublishedPort) -> bool {
    service.publish.iter().any(|wanted| {
        wanted.port == port.port
            && wanted.host.to_string() == port.host
            && wanted.host_port.is_none_or(|host_port| host_port == port.host_port)
    })
}
