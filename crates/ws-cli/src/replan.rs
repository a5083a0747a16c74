//! The planner of a supervisor: reads the workspace again, as `ws up` did, and plans.
//!
//! The same files, profiles, named services and level as at the start; the variables of the shell that started the
//! stack, or of the last `ws apply`. What `ws set` has set is laid over what the files say until the stack is down, or
//! until the file itself says something else about that key than it did then: so nobody's last word is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ws_core::plan::{self, Bind, Plan};
use ws_model::{Level, ServiceName, Workspace};
use ws_spec::{Diagnostic, Parsed, Sources, Style};
use ws_supervisor::{PlanRefused, PlanRequest, Planned, Planner};

use crate::error::Failure;
use crate::launch::Order;
use crate::{addresses, load, machine, own_dirs};

/// The most bytes of what is set for all services.
const MAX_SETTINGS: usize = 64 << 10;

/// A setting of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    value: String,
    /// What the file said of it when it was set.
    written: Option<String>,
}

/// What is set: by service and key.
type Set = BTreeMap<(String, String), Setting>;

/// Plans for a supervisor.
#[derive(Debug)]
pub struct Replanner {
    accept: Option<Level>,
    no_build: bool,
    no_watch: bool,
    runtime: PathBuf,
    state: PathBuf,
    width: usize,
    /// What was read for what runs; without settings.
    sources: Sources,
    set: Set,
    /// The same of the plan that was made last.
    candidate: Option<(Sources, Set)>,
    /// The files that were read last.
    read: Vec<PathBuf>,
}

impl Replanner {
    /// As the order says.
    #[must_use]
    pub fn new(order: &Order) -> Self {
        Self {
            accept: order.accept,
            no_build: order.no_build,
            no_watch: order.no_watch,
            runtime: order.runtime.clone(),
            state: order.state.clone(),
            width: order.width,
            sources: order.sources.clone(),
            set: Set::new(),
            candidate: None,
            read: Vec::new(),
        }
    }

    fn make(&mut self, request: PlanRequest, running: &Plan) -> Result<Planned, Failure> {
        let (sources, set) = match request {
            PlanRequest::Files { env } => {
                let mut sources = self.sources.clone();
                if let Some(env) = env {
                    sources.environment = env;
                }
                let sources = load::read_again(sources)?;
                let stays = |((service, key), setting): &(&(String, String), &Setting)| {
                    ws_spec::written(&sources, service, key) == setting.written
                };
                let set = self.set.iter().filter(stays).map(|(key, setting)| (key.clone(), setting.clone()));
                let set = set.collect();
                (sources, set)
            }
            PlanRequest::Set { service, settings } => (self.sources.clone(), self.with(&service, settings)?),
        };
        let planned = self.resolve(&sources, &set, running)?;
        self.candidate = Some((sources, set));
        Ok(planned)
    }

    /// What is set, and this.
    fn with(&self, service: &ServiceName, settings: BTreeMap<String, String>) -> Result<Set, Failure> {
        let mut set = self.set.clone();
        for (key, value) in settings {
            let written = ws_spec::written(&self.sources, service.as_str(), &key);
            // What is set anew replaces what was set below it.
            let below = format!("{key}.");
            set.retain(|(other, known), _| *other != service.as_str() || !known.starts_with(&below));
            set.insert((service.to_string(), key), Setting { value, written });
        }
        let bytes: usize = set.iter().map(|((_, key), setting)| key.len() + setting.value.len()).sum();
        if bytes > MAX_SETTINGS {
            return Err(
                Failure::usage("there is too much that was set").hint("write it into the workspace file")
            );
        }
        Ok(set)
    }

    fn resolve(&mut self, sources: &Sources, set: &Set, running: &Plan) -> Result<Planned, Failure> {
        let mut sources = sources.clone();
        for ((service, key), Setting { value, .. }) in set {
            sources.settings.entry(service.clone()).or_default().insert(key.clone(), value.clone());
        }
        let Parsed { workspace, spans, diagnostics } = ws_spec::parse(&sources);
        if !self.no_watch {
            self.read = load::plan_files(&sources, workspace.as_ref());
        }
        let Some(workspace) = workspace else { return Err(self.wrong(&diagnostics, &sources)) };
        let options = plan::Options {
            previous: addresses::read(&self.state),
            accept: self.accept,
            no_build: self.no_build,
            no_watch: self.no_watch,
        };
        let mut plan =
            plan::resolve(&workspace, &machine::facts(&workspace), &options).map_err(|problems| {
                let diagnostics: Vec<Diagnostic> =
                    problems.iter().map(|problem| ws_spec::diagnose(&spans, problem)).collect();
                self.wrong(&diagnostics, &sources)
            })?;
        keep_what_is_made(&mut plan, running);
        own_dirs::check(&plan, [&self.runtime, &self.state])?;
        if plan.requires != running.requires {
            let unmet = machine::unmet_requirements(&plan);
            if !unmet.is_empty() {
                let mut failure = Failure::usage("this machine does not have what the workspace `requires`");
                failure.causes = unmet;
                return Err(failure);
            }
        }
        let secrets = load::secrets(&plan, &workspace, &sources.environment)?;
        Ok(Planned { plan, secrets, plan_files: self.read.clone() })
    }

    /// Without colours: it goes to programs as well.
    fn wrong(&self, diagnostics: &[Diagnostic], sources: &Sources) -> Failure {
        let mut failure = Failure::told(ws_model::exit::USAGE);
        failure.diagnostics =
            ws_spec::render(diagnostics, sources, Style { color: false, width: self.width });
        failure
    }
}

/// A directory that was missing when the stack was planned was made for it: that it is there now is no other plan.
fn keep_what_is_made(plan: &mut Plan, running: &Plan) {
    for unit in plan.services.values_mut() {
        let Some(before) = running.services.get(&unit.name) else { continue };
        for bind in unit.view.binds.iter_mut().filter(|bind| !bind.create) {
            bind.create = before.view.binds.contains(&Bind { create: true, ..bind.clone() });
        }
    }
}

/// The files that are watched because a plan is made of them.
#[must_use]
pub fn watched_files(no_watch: bool, sources: &Sources, workspace: &Workspace) -> Vec<PathBuf> {
    if no_watch { Vec::new() } else { load::plan_files(sources, Some(workspace)) }
}

impl Planner for Replanner {
    fn plan(&mut self, request: PlanRequest, running: &Plan) -> Result<Planned, PlanRefused> {
        self.candidate = None;
        self.read.clear();
        if let PlanRequest::Set { service, .. } = &request {
            // A build has a name of its own, and is none of the file's.
            let kind = running.services.values().find(|unit| unit.declared == *service).map(|unit| unit.kind);
            if kind == Some(ws_model::ServiceKind::Build) {
                let text = format!(
                    "`{service}` is a build: set it in the service that it belongs to, or in the file"
                );
                return Err(PlanRefused { text, plan_files: Vec::new() });
            }
        }
        self.make(request, running).map_err(|failure| PlanRefused {
            text: refusal(&failure),
            plan_files: std::mem::take(&mut self.read),
        })
    }

    fn adopted(&mut self, plan: &Plan) {
        if let Some((sources, set)) = self.candidate.take() {
            self.sources = sources;
            self.set = set;
        }
        if let Err(error) = addresses::write(&self.state, plan) {
            tracing::warn!(%error, "the addresses of services could not be kept for the next run");
        }
    }
}

/// Everything that a failure says, as lines.
fn refusal(failure: &Failure) -> String {
    let mut lines: Vec<String> = failure.diagnostics.lines().map(ToOwned::to_owned).collect();
    if !failure.message.is_empty() {
        lines.push(failure.to_string());
    }
    lines.extend(failure.hints.iter().map(|hint| format!("help: {hint}")));
    while lines.last().is_some_and(|line| line.trim().is_empty()) {
        lines.pop();
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ws_core::plan::{BindSource, Facts};

    use super::*;

    fn planned(text: &str, root: &Path) -> Plan {
        let sources = Sources {
            file: root.join("workspace.yaml"),
            root: root.to_owned(),
            text: text.into(),
            default_name: "shop".to_owned(),
            home: "/".into(),
            ..Sources::default()
        };
        let workspace = ws_spec::parse(&sources).workspace.expect("the file is good");
        plan::resolve(&workspace, &Facts::default(), &plan::Options::default()).expect("the plan is good")
    }

    #[test]
    fn what_was_made_for_the_stack_is_no_other_plan() {
        let text = "services: { api: { command: sleep 1 }, db: { command: sleep 1 } }";
        let mut running = planned(text, Path::new("/src/shop"));
        let mut again = running.clone();
        let made = |create: bool| Bind {
            source: BindSource::Host("/src/shop/out".into()),
            target: "/src/shop/out".into(),
            writable: true,
            directory: true,
            create,
            owner_mapped: false,
        };
        let binds = |plan: &mut Plan, name: &str, bind: Bind| {
            let name = ServiceName::new(name).unwrap();
            plan.services.get_mut(&name).unwrap().view.binds.push(bind);
        };
        binds(&mut running, "api", made(true));
        binds(&mut again, "api", made(false));
        assert!(!ws_core::change::between(&running, &again).is_nothing());
        keep_what_is_made(&mut again, &running);
        assert_eq!(running, again);
        // What was there before, and what another one has made, is not touched.
        let other = Bind { target: "/src/shop/in".into(), ..made(false) };
        binds(&mut running, "api", other.clone());
        binds(&mut again, "api", other);
        binds(&mut again, "db", made(false));
        keep_what_is_made(&mut again, &running);
        let db = &again.services[&ServiceName::new("db").unwrap()];
        assert!(db.view.binds.iter().all(|bind| !bind.create));
        assert_eq!(
            running.services[&ServiceName::new("api").unwrap()],
            again.services[&ServiceName::new("api").unwrap()]
        );
    }
}
