//! Builds: units of their own that make what services run from.
//!
//! The planner decides about services. So a build is written down as one, before anything else is decided: it gets its
//! name, its address, its view and its order as a service does, and what differs is put in at the end. A problem that
//! is found with one of these is told where the file speaks of the build.
//!
//! A build may write the directories of its outputs, and sees the whole project: what it makes is executed by services
//! anyway. Services see what it makes and cannot write it, unless it lies in a directory of their own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use ws_model::{
    Build, BuildRef, CommandLine, Condition, ConfigPath, Dependency, Hooks, Limits, LogRetention,
    PathPattern, Problem, Reload, Restart, RestartPolicy, Service, ServiceKind, ServiceName, Stdin, Stop,
    WatchAction, WatchEntry, Workspace,
};

use super::{FileSet, Makes, Options, ServicePlan, Use, WatchRule, absolute_program, unknown_name, view};

/// How long a build that is broken off may take to end: long enough for a compiler to tidy up.
const GRACE: Duration = Duration::from_secs(2);

/// What makes a pattern a glob.
const GLOB: [char; 4] = ['*', '?', '[', '{'];

/// A workspace in which builds are services, and what else is known of them.
#[derive(Debug)]
pub(super) struct Unfolded<'a> {
    pub(super) workspace: Cow<'a, Workspace>,
    /// Where the file speaks of each build.
    origins: BTreeMap<ServiceName, ConfigPath>,
    makes: BTreeMap<ServiceName, Makes>,
    uses: BTreeMap<ServiceName, Vec<Use>>,
    watch: BTreeMap<ServiceName, Vec<WatchRule>>,
}

/// A build that some active service uses.
#[derive(Debug)]
struct Used<'a> {
    build: &'a Build,
    at: ConfigPath,
    /// The services, with what each says that it uses.
    users: Vec<(&'a ServiceName, &'a [PathPattern])>,
    /// Whether it belongs to one service, which says itself what is watched.
    watched_by_its_service: bool,
}

/// The workspace as the planner needs it.
pub(super) fn unfold<'a>(
    workspace: &'a Workspace,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Unfolded<'a> {
    let mut unfolded = Unfolded {
        workspace: Cow::Borrowed(workspace),
        origins: BTreeMap::new(),
        makes: BTreeMap::new(),
        uses: BTreeMap::new(),
        watch: BTreeMap::new(),
    };
    let used = if options.no_build { BTreeMap::new() } else { used(workspace, problems) };
    let mut soft = soft_order(workspace, &used);
    for (unit, one) in &used {
        unfolded.add(unit, one, soft.remove(unit).unwrap_or_default(), workspace, problems);
    }
    for (name, service) in &workspace.services {
        unfolded.add_tasks_inputs(name, service);
        unfolded.add_watch(name, service, workspace, &used);
    }
    for one in used.values() {
        for (user, _) in &one.users {
            unfolded.wait_for_builds(user);
        }
    }
    if options.no_watch {
        unfolded.watch.clear();
    }
    unfolded
}

/// The unit of a build of this name.
fn unit_name(
    of: &ServiceName,
    step: &str,
    at: &ConfigPath,
    problems: &mut Vec<Problem>,
) -> Option<ServiceName> {
    let name = format!("{of}-{step}");
    match ServiceName::new(&name) {
        Ok(name) => Some(name),
        Err(_) => {
            problems.push(
                Problem::error("WS0571", at.clone(), format!("`{name}` is too long for a name"))
                    .label("a build runs under the name of what it belongs to")
                    .help(format!("names have at most {} characters", ws_model::name::MAX_LEN)),
            );
            None
        }
    }
}

/// The builds that active services use, by the names of their units.
fn used<'a>(workspace: &'a Workspace, problems: &mut Vec<Problem>) -> BTreeMap<ServiceName, Used<'a>> {
    let mut used: BTreeMap<ServiceName, Used<'a>> = BTreeMap::new();
    let mut wanted: Vec<&ServiceName> = Vec::new();
    for (name, service) in &workspace.services {
        let at = ConfigPath::service(name).key("build");
        match &service.build {
            None => {}
            Some(BuildRef::Own(build)) => {
                let Some(unit) = unit_name(name, "build", &at, problems) else { continue };
                let users = vec![(name, [].as_slice())];
                let watched_by_its_service = service.watch.is_some();
                used.insert(unit, Used { build, at, users, watched_by_its_service });
                wanted.extend(&build.after);
            }
            Some(BuildRef::Shared { name: shared, uses }) => {
                let Some((shared, build)) = workspace.builds.get_key_value(shared) else {
                    let known = workspace.builds.keys().map(ServiceName::as_str);
                    problems.push(unknown_name("WS0570", at, "`build`", "build", shared.as_str(), known));
                    continue;
                };
                let place = ConfigPath::root().key("builds").key(shared);
                let Some(unit) = unit_name(shared, "build", &place, problems) else { continue };
                used.entry(unit)
                    .or_insert_with(|| Used {
                        build,
                        at: place,
                        users: Vec::new(),
                        watched_by_its_service: false,
                    })
                    .users
                    .push((name, uses));
                wanted.push(shared);
            }
        }
    }
    // Those that come before, whoever uses them.
    while let Some(name) = wanted.pop() {
        let Some((name, build)) = workspace.builds.get_key_value(name) else { continue };
        let at = ConfigPath::root().key("builds").key(name);
        let Some(unit) = unit_name(name, "build", &at, problems) else { continue };
        let known = used.contains_key(&unit) && used[&unit].at == at;
        if !known {
            let one = Used { build, at, users: Vec::new(), watched_by_its_service: false };
            clash(&unit, used.insert(unit.clone(), one), &used[&unit], problems);
        }
        let seen: BTreeSet<&ServiceName> = wanted.iter().copied().collect();
        let more: Vec<&ServiceName> = build
            .after
            .iter()
            .filter(|after| !seen.contains(after))
            .filter(|after| !used.keys().any(|unit| unit.as_str() == format!("{after}-build")))
            .collect();
        wanted.extend(more);
    }
    used.retain(|unit, one| {
        let other = if workspace.services.contains_key(unit) {
            ConfigPath::service(unit)
        } else if workspace.external.contains_key(unit) {
            ConfigPath::root().key("external").key(unit)
        } else {
            return true;
        };
        problems.push(
            Problem::error("WS0572", one.at.clone(), format!("this build and something else are `{unit}`"))
                .related(other, "this has the name")
                .help("give one of them another name"),
        );
        false
    });
    used
}

/// A shared build and one of a service's own that have one name.
fn clash(unit: &ServiceName, old: Option<Used<'_>>, new: &Used<'_>, problems: &mut Vec<Problem>) {
    if let Some(old) = old {
        problems.push(
            Problem::error("WS0572", new.at.clone(), format!("two builds are `{unit}`"))
                .related(old.at, "this is the other one")
                .help("give the shared one another name"),
        );
    }
}

/// For each build: the tasks that its users wait to be completed, and the builds of what its users depend on; not where
/// that would close a circle.
fn soft_order(
    workspace: &Workspace,
    used: &BTreeMap<ServiceName, Used<'_>>,
) -> BTreeMap<ServiceName, Vec<ServiceName>> {
    let mut of_service: BTreeMap<&ServiceName, &ServiceName> = BTreeMap::new();
    for (unit, one) in used {
        of_service.extend(one.users.iter().map(|(user, _)| (*user, unit)));
    }
    // What waits for what, as far as the file says it.
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, service) in &workspace.services {
        let waits = edges.entry(name.as_str()).or_default();
        waits.extend(service.depends_on.iter().map(|on| on.service.as_str()));
        waits.extend(service.links.iter().filter(|link| link.wait).map(|link| link.to.as_str()));
        waits.extend(of_service.get(name).map(|unit| unit.as_str()));
    }
    let afters: Vec<(&ServiceName, Vec<ServiceName>)> =
        used.iter().map(|(unit, one)| (unit, after_units(one.build))).collect();
    for (unit, after) in &afters {
        edges.entry(unit.as_str()).or_default().extend(after.iter().map(ServiceName::as_str));
    }
    let mut soft: BTreeMap<ServiceName, Vec<ServiceName>> = BTreeMap::new();
    for (unit, one) in used {
        let mut wanted: BTreeSet<&ServiceName> = BTreeSet::new();
        for (user, _) in &one.users {
            let service = &workspace.services[*user];
            for on in &service.depends_on {
                let Some(target) = workspace.services.get(&on.service) else { continue };
                let completed = match on.condition {
                    Some(condition) => condition == Condition::Completed,
                    None => target.kind == ServiceKind::Task,
                };
                if completed && on.required {
                    wanted.insert(&on.service);
                }
                wanted.extend(of_service.get(&on.service).copied());
            }
            let linked = service.links.iter().filter(|link| link.wait);
            wanted.extend(linked.filter_map(|link| of_service.get(&link.to).copied()));
        }
        for on in wanted {
            if on != unit && !reaches(&edges, on.as_str(), unit.as_str()) {
                edges.entry(unit.as_str()).or_default().insert(on.as_str());
                soft.entry(unit.clone()).or_default().push(on.clone());
            }
        }
    }
    soft
}

fn reaches(edges: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            todo.extend(edges.get(at).into_iter().flatten());
        }
    }
    false
}

fn after_units(build: &Build) -> Vec<ServiceName> {
    build.after.iter().filter_map(|after| ServiceName::new(format!("{after}-build")).ok()).collect()
}

impl Unfolded<'_> {
    /// A build, and what fetches for it, as services.
    fn add(
        &mut self,
        unit: &ServiceName,
        one: &Used<'_>,
        soft: Vec<ServiceName>,
        workspace: &Workspace,
        problems: &mut Vec<Problem>,
    ) {
        let build = one.build;
        let mut waits: Vec<(ServiceName, ConfigPath)> = Vec::new();
        let mut inputs = set_of(&build.inputs, &build.working_dir);
        let mut recipe = recipe(&build.command, build);
        if let Some(fetch) = &build.fetch {
            let at = one.at.key("fetch");
            let of = unit.as_str().strip_suffix("-build").unwrap_or(unit.as_str());
            let name = ServiceName::new(of).ok().and_then(|of| unit_name(&of, "fetch", &at, problems));
            if let Some(name) = name {
                recipe.push_str(&recipe_of(&fetch.command));
                // What is fetched anew is built anew.
                inputs.extend(fetch.inputs.iter().cloned());
                if !fetch.inputs.is_empty() {
                    let made = Makes {
                        inputs: sources(fetch.inputs.clone(), Vec::new()),
                        outputs: None,
                        recipe: self::recipe(&fetch.command, build),
                    };
                    self.makes.insert(name.clone(), made);
                }
                self.put(
                    name.clone(),
                    service_of(build, fetch.command.clone(), workspace),
                    at.clone(),
                    problems,
                );
                waits.push((name, at));
            }
        }
        for (i, after) in build.after.iter().enumerate() {
            let at = one.at.key("after").index(i);
            match ServiceName::new(format!("{after}-build")) {
                Ok(name) if workspace.builds.contains_key(after) => waits.push((name, at)),
                Ok(_) | Err(_) => {
                    let known = workspace.builds.keys().map(ServiceName::as_str);
                    problems.push(unknown_name("WS0570", at, "`after`", "build", after.as_str(), known));
                }
            }
        }
        waits.extend(soft.into_iter().map(|name| (name, one.at.clone())));
        let mut service = service_of(build, build.command.clone(), workspace);
        service.depends_on = waits.into_iter().map(|(name, _)| completed(name)).collect();
        service.makes = output_directories(build);
        self.put(unit.clone(), service, one.at.clone(), problems);

        let ignore: Vec<PathPattern> = build.ignore.iter().chain(&build.outputs).cloned().collect();
        let inputs = sources(inputs, ignore);
        if !one.watched_by_its_service {
            let rule = WatchRule { files: inputs.clone(), action: WatchAction::Rebuild, at: one.at.clone() };
            self.watch.insert(unit.clone(), vec![rule]);
        }
        let outputs = (!build.outputs.is_empty()).then(|| exactly(build.outputs.clone()));
        for (user, narrowed) in &one.users {
            let files = outputs.as_ref().map(|outputs| match narrowed.is_empty() {
                false => exactly(narrowed.to_vec()),
                true => match program_in(&workspace.services[*user], outputs) {
                    Some(program) => exactly(vec![program]),
                    None => outputs.clone(),
                },
            });
            self.uses.entry((*user).clone()).or_default().push(Use { build: unit.clone(), files });
        }
        self.makes.insert(unit.clone(), Makes { inputs, outputs, recipe });
    }

    fn put(&mut self, name: ServiceName, service: Service, at: ConfigPath, problems: &mut Vec<Problem>) {
        if self.workspace.services.contains_key(&name) {
            problems.push(
                Problem::error("WS0572", at, format!("this build and something else are `{name}`"))
                    .related(ConfigPath::service(&name), "this has the name")
                    .help("give one of them another name"),
            );
            return;
        }
        self.workspace.to_mut().services.insert(name.clone(), service);
        self.origins.insert(name, at);
    }

    /// A service waits for what makes what it runs from.
    fn wait_for_builds(&mut self, user: &ServiceName) {
        let builds: Vec<ServiceName> =
            self.uses.get(user).into_iter().flatten().map(|using| using.build.clone()).collect();
        if let Some(service) = self.workspace.to_mut().services.get_mut(user) {
            service.depends_on.extend(builds.into_iter().map(completed));
        }
    }

    fn add_tasks_inputs(&mut self, name: &ServiceName, service: &Service) {
        let Some(inputs) = service.inputs.as_ref().filter(|_| service.kind == ServiceKind::Task) else {
            return;
        };
        let inputs = sources(inputs.clone(), Vec::new());
        let rule = WatchRule {
            files: inputs.clone(),
            action: WatchAction::Restart,
            at: ConfigPath::service(name).key("inputs"),
        };
        self.watch.entry(name.clone()).or_default().push(rule);
        let recipe = recipe_of(&service.command) + &environment_of(&service.environment);
        self.makes.insert(name.clone(), Makes { inputs, outputs: None, recipe });
    }

    /// What the file says about watching. What takes files out comes first, because the first rule that matches counts.
    fn add_watch(
        &mut self,
        name: &ServiceName,
        service: &Service,
        workspace: &Workspace,
        used: &BTreeMap<ServiceName, Used<'_>>,
    ) {
        let Some(entries) = &service.watch else { return };
        let takes_out = |entry: &&WatchEntry| entry.action == WatchAction::None;
        let in_order = (0..).zip(entries);
        let (out, rest): (Vec<_>, Vec<_>) = in_order.partition(|(_, entry)| takes_out(entry));
        let outputs: Vec<&PathPattern> = used.values().flat_map(|one| &one.build.outputs).collect();
        let rules = out.into_iter().chain(rest).map(|(i, entry)| {
            let root = fixed_part(&entry.path);
            let mut ignore = entry.ignore.clone();
            // What it writes itself, or a build makes, is meant only where the path leads into it.
            let below = |path: &Path| path.starts_with(&root) && path != root;
            let own = service.writable.iter().filter(|path| below(path) && **path != service.working_dir);
            ignore.extend(own.map(|path| literal(path)));
            ignore.extend(
                outputs.iter().filter(|output| below(&fixed_part(output))).map(|output| (*output).clone()),
            );
            WatchRule {
                files: sources(vec![entry.path.clone()], ignore),
                action: entry.action,
                at: ConfigPath::service(name).key("watch").index(i),
            }
        });
        let rules: Vec<WatchRule> = rules.collect();
        self.watch.entry(name.clone()).or_default().extend(rules);
        debug_assert!(workspace.services.contains_key(name), "it is one of them");
    }

    /// Puts into a unit what is known of it beside what a service is.
    pub(super) fn finish(&self, declared: &ServiceName, plan: &mut ServicePlan) {
        plan.makes = self.makes.get(declared).cloned();
        plan.uses = self.uses.get(declared).cloned().unwrap_or_default();
        plan.watch = self.watch.get(declared).cloned().unwrap_or_default();
    }

    /// Tells problems of builds where the file speaks of them.
    pub(super) fn place(&self, problems: &mut [Problem]) {
        for problem in problems {
            self.move_path(&mut problem.at);
            for (at, _) in &mut problem.related {
                self.move_path(at);
            }
        }
    }

    pub(super) fn move_path(&self, path: &mut ConfigPath) {
        use ws_model::problem::Segment;
        let [Segment::Key(services), Segment::Key(name), rest @ ..] = path.segments() else { return };
        let origin = self.origins.iter().find(|(unit, _)| unit.as_str() == name);
        let Some((_, origin)) = origin.filter(|_| services == "services") else { return };
        let moved = rest.iter().fold(origin.clone(), |path, segment| match segment {
            // What its users wait for is nothing that the file says of it.
            Segment::Key(key) if key == "depends_on" => path,
            Segment::Key(key) => path.key(key),
            Segment::Index(index) => path.index(*index),
        });
        *path = moved;
    }
}

fn completed(service: ServiceName) -> Dependency {
    Dependency { service, condition: Some(Condition::Completed), required: true, restart: false }
}

/// What a build is made of: what the file says, or everything in its directory.
fn set_of(inputs: &[PathPattern], working_dir: &Path) -> Vec<PathPattern> {
    if inputs.is_empty() {
        vec![PathPattern { base: working_dir.to_path_buf(), pattern: ".".to_owned() }]
    } else {
        inputs.to_vec()
    }
}

fn sources(include: Vec<PathPattern>, ignore: Vec<PathPattern>) -> FileSet {
    FileSet { include, ignore, sources_only: true }
}

fn exactly(include: Vec<PathPattern>) -> FileSet {
    FileSet { include, ignore: Vec::new(), sources_only: false }
}

fn literal(path: &Path) -> PathPattern {
    PathPattern { base: path.to_path_buf(), pattern: ".".to_owned() }
}

/// A build as a service that runs to completion and nobody reaches.
fn service_of(build: &Build, command: CommandLine, workspace: &Workspace) -> Service {
    debug_assert!(
        build.working_dir.is_absolute() || workspace.root.as_os_str().is_empty(),
        "paths are absolute"
    );
    Service {
        kind: ServiceKind::Build,
        command,
        build: None,
        inputs: None,
        watch: None,
        reload: Reload::Restart,
        listen: Vec::new(),
        hold: Duration::ZERO,
        working_dir: build.working_dir.clone(),
        working_dir_declared: build.working_dir_declared,
        writable: build.writable.clone(),
        makes: Vec::new(),
        reads: build.reads.clone(),
        environment: build.environment.clone(),
        depends_on: Vec::new(),
        links: Vec::new(),
        expose: Vec::new(),
        ports: Vec::new(),
        volumes: build.volumes.clone(),
        tmpfs: Vec::new(),
        secrets: Vec::new(),
        startup: None,
        ready: None,
        liveness: None,
        hooks: Hooks::default(),
        replicas: 1,
        success_exit_codes: Vec::new(),
        stdin: Stdin::Closed,
        tty: false,
        logs: LogRetention::default(),
        restart: Restart {
            policy: RestartPolicy::No,
            max: Some(0),
            backoff_min: Duration::ZERO,
            backoff_max: Duration::ZERO,
        },
        stop: Stop { command: None, signal: SIGTERM, grace: GRACE },
        limits: Limits { tmp: build.limits.tmp, ..build.limits.clone() },
        policy: ws_model::Policy::default(),
    }
}

/// signal(7)
const SIGTERM: i32 = 15;

/// The directories in which the outputs of a build appear: the first below its own, or its own.
fn output_directories(build: &Build) -> Vec<PathBuf> {
    let directories: BTreeSet<PathBuf> = build
        .outputs
        .iter()
        .map(|output| {
            let mut parts = output.pattern.split('/').filter(|part| !part.is_empty() && *part != ".");
            match (parts.next(), parts.next()) {
                (Some(first), Some(_)) if !first.contains(GLOB) => output.base.join(first),
                (_, _) => output.base.clone(),
            }
        })
        .collect();
    directories.into_iter().collect()
}

/// The parts of a pattern before the first that is a glob.
fn fixed_part(pattern: &PathPattern) -> PathBuf {
    let parts = pattern.pattern.split('/').take_while(|part| !part.contains(GLOB));
    view::lexical(&parts.fold(pattern.base.clone(), |path, part| path.join(part)))
}

/// The program of a service, where it is one of these outputs.
fn program_in(service: &Service, outputs: &FileSet) -> Option<PathPattern> {
    let program = absolute_program(&service.command.0, &service.working_dir).into_iter().next()?;
    let path = PathBuf::from(&program);
    let is_output = path.is_absolute() && outputs.include.iter().any(|output| matches(output, &path));
    let name = path.file_name()?.to_str()?.to_owned();
    // A name with a star would mean others as well.
    (is_output && !name.contains(GLOB))
        .then(|| PathPattern { base: path.parent().unwrap_or(Path::new("/")).to_path_buf(), pattern: name })
}

/// Whether a pattern means a file.
fn matches(pattern: &PathPattern, path: &Path) -> bool {
    if !pattern.pattern.contains(GLOB) {
        return path.starts_with(fixed_part(pattern));
    }
    let Ok(rest) = path.strip_prefix(&pattern.base) else { return false };
    glob(&pattern.pattern).is_some_and(|glob| glob.is_match(rest))
}

/// One that was checked when the file was read.
fn glob(pattern: &str) -> Option<GlobMatcher> {
    Some(GlobBuilder::new(pattern).literal_separator(true).build().ok()?.compile_matcher())
}

/// What decides, beside files, whether something must be made again.
fn recipe(command: &CommandLine, build: &Build) -> String {
    let mut text = recipe_of(command);
    text.push_str(&format!("in {}\n", build.working_dir.display()));
    text.push_str(&environment_of(&build.environment));
    text
}

fn recipe_of(command: &CommandLine) -> String {
    command.0.iter().map(|word| format!("{word:?}\n")).collect()
}

fn environment_of(environment: &BTreeMap<String, String>) -> String {
    environment.iter().map(|(name, value)| format!("{name}={value:?}\n")).collect()
}
