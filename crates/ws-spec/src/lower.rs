//! From the raw file to the model: defaults merged, paths and variables settled, every value checked
//! that can be checked by looking at one service. What concerns two of them is in [`crate::check`].

mod policy;
pub(crate) mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ws_model::{
    ByteSize, CommandLine, ConfigPath, Dependency, External, HookCommand, Hooks, Limits, Link, LinkPorts,
    LogRetention, Mount, MountSource, Probe, ProbeKind, Requirement, Restart, RestartPolicy, SecretSource,
    SecretTarget, SecretUse, Service, ServiceKind, ServiceName, Stdin, Stop, Subnet, Tmpfs, VolumeDecl,
    Workspace, WorkspaceName,
};

use crate::codes;
use crate::command::{self, CommandFault};
use crate::load::{EnvFiles, Loaded, WorkspaceFile};
use crate::raw::forms::{CommandRaw, EnvFileRaw, EnvironmentRaw, MountFrom, MountRaw, TmpfsRaw};
use crate::raw::life::HookRaw;
use crate::raw::probe::{self, HttpRaw, ProbeRaw};
use crate::raw::read::{At, HostPath, List, Merge, OneOrMany, as_name};
use crate::raw::scalar::{Size, Time};
use crate::raw::{LimitsRaw, RestartRaw, SecretRaw, ServiceRaw, StopRaw};
use crate::report::{Report, error, shown, warning};
use crate::source::Sources;
use crate::spans::VariableOrigin;
use crate::yaml::{Node, Span, Value};

pub(crate) use reload::BuildDraft;

/// The most services of a workspace: a bound on work, far above what a machine can run.
const MAX_SERVICES: usize = 10_000;
/// The most values and variables that `defaults` and env files may put into all services together.
const MAX_MERGED: usize = 500_000;
/// The most different patterns of `log` probes: compiling one takes time.
const MAX_PATTERNS: usize = 2000;
/// The largest pattern, compiled.
const MAX_PATTERN_BYTES: usize = 256 * 1024;
/// A pattern that is larger than this is large, and there can be only so many of them.
const LARGE_PATTERN_BYTES: usize = 16 * 1024;
/// See [`LARGE_PATTERN_BYTES`].
const MAX_LARGE_PATTERNS: usize = 50;

/// The signal that asks a service to stop, when the file says nothing.
const SIGTERM: i32 = 15;

/// A service that was read, with what is needed to check it against the others.
#[derive(Debug)]
pub(crate) struct Draft<'f> {
    pub(crate) name: &'f At<ServiceName>,
    /// As it stands in the file.
    pub(crate) own: &'f ServiceRaw,
    /// With `defaults` merged under it.
    pub(crate) raw: ServiceRaw,
    /// The directory of its file.
    pub(crate) dir: &'f Path,
    pub(crate) kind: ServiceKind,
    /// Whether its profiles switch it on.
    pub(crate) active: bool,
    /// The environment, with where each value is written; empty for an inactive one.
    pub(crate) environment: BTreeMap<String, Variable>,
    /// What its own build has beside that, or in place of it.
    build_environment: BTreeMap<String, Variable>,
}

/// A variable of a service.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) value: String,
    /// Where it is written in the workspace file; `None`: it has another origin.
    pub(crate) span: Option<Span>,
    pub(crate) origin: Option<VariableOrigin>,
}

/// What lowering makes.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// Complete only when the report has no errors.
    pub(crate) workspace: Workspace,
    pub(crate) origins: BTreeMap<ConfigPath, VariableOrigin>,
}

/// Turns the raw files into a workspace. `None`: so much is wrong that the rest would be guessed.
pub(crate) fn lower(loaded: Loaded<'_>, sources: &Sources, report: &mut Report) -> Option<Lowered> {
    let Loaded { files, mut env_files, complete, missing: _ } = loaded;
    check_services_are_there(&files, complete, report)?;
    check_amount(&files, report)?;
    for file in files.iter().skip(1) {
        check_included(&file.raw, report);
    }
    let mut budget = Budget {
        variables: MAX_MERGED,
        patterns: BTreeMap::new(),
        large_patterns: 0,
        globs: BTreeMap::new(),
        paths: 0,
    };
    let mut drafts = Vec::new();
    let mut builds = Vec::new();
    let chosen = chosen_profiles(&files, sources);
    for (number, file) in files.iter().enumerate() {
        for (name, own) in file.raw.services.iter().flat_map(|services| &services.value.0) {
            let home = Home { number, file, chosen: &chosen, env_files: &mut env_files };
            drafts.push(draft(name, &own.value, home, sources, &mut budget, report)?);
        }
        for (name, raw) in file.raw.builds.iter().flat_map(|builds| &builds.value.0) {
            let home = Home { number, file, chosen: &chosen, env_files: &mut env_files };
            builds.push(reload::draft(name, raw, home, sources, &mut budget, report)?);
        }
    }
    let copies = drafts.iter().map(|draft| crate::check::replicas_of(draft) as usize).sum::<usize>();
    if copies > MAX_SERVICES {
        let message = format!("the services have {copies} copies together, and {MAX_SERVICES} is the most");
        report.push(error(codes::TOO_COSTLY, Span::default(), message));
        return None;
    }
    let services = drafts.iter().map(|draft| (&draft.name.value, draft.name.span));
    if !unique(services, "services", report) {
        return None;
    }
    unique(builds.iter().map(|build| (&build.name.value.0, build.name.span)), "builds", report);

    let mut secrets = BTreeMap::new();
    let declared = || files.iter().flat_map(|file| &file.raw.secrets).flat_map(|secrets| &secrets.value.0);
    unique(declared().map(|(name, _)| (&name.value, name.span)), "secrets", report);
    for (name, secret) in declared() {
        if let Some(source) = secret_source(name.span, &secret.value, report) {
            secrets.insert(name.value.clone(), source);
        }
    }
    let declared = || files.iter().flat_map(|file| &file.raw.volumes).flat_map(|volumes| &volumes.value.0);
    unique(declared().map(|(name, _)| (&name.value, name.span)), "volumes", report);
    let volumes = declared().map(|(name, volume)| {
        (
            name.value.clone(),
            VolumeDecl { shared: volume.value.shared.as_ref().is_some_and(|shared| shared.value) },
        )
    });
    let volumes: BTreeMap<_, _> = volumes.collect();

    let declared = || files.iter().flat_map(|file| &file.raw.external).flat_map(|external| &external.value.0);
    unique(declared().map(|(name, _)| (&name.value, name.span)), "external", report);
    let external: BTreeMap<ServiceName, External> =
        declared().map(|(name, external)| (name.value.clone(), external.value.0.clone())).collect();

    let named = || files.iter().flat_map(|file| &file.raw.env_file).flat_map(|files| &files.value.0);
    let active = drafts.iter().filter(|draft| draft.active);
    let active_files = active.flat_map(|draft| env_files_of(&draft.raw));
    let of_builds = builds.iter().filter_map(|build| build.raw.env_file.as_ref());
    let of_builds = of_builds.flat_map(|files| &files.value.0).map(|file| &file.value);
    let used = named().map(|file| &file.value).chain(active_files).chain(of_builds);
    let mut hidden: BTreeSet<PathBuf> = used.map(|file| file.path.clone()).collect();
    hidden.extend(sources.dot_env.iter().chain(&sources.cli_env_files).map(|(path, _)| path.clone()));
    hidden.extend(secrets.values().filter_map(|source| match source {
        SecretSource::File(path) => Some(path.clone()),
        SecretSource::Environment(_) => None,
    }));
    let policy_inputs: BTreeSet<PathBuf> =
        files.iter().map(|file| &file.path).chain(&hidden).cloned().collect();
    check_env_files(named(), sources, report);

    let rights =
        Rights { hidden: &hidden, policy_inputs: &policy_inputs, file: &sources.file, root: &sources.root };
    let shared_policy = policy::policy(files[0].raw.policy.as_ref(), None, report);
    let mut models = BTreeMap::new();
    let mut origins = BTreeMap::new();
    for draft in &drafts {
        let model = service(draft, &rights, &shared_policy, sources, &mut budget, report);
        if draft.active {
            let at = ConfigPath::service(&draft.name.value);
            add_origins(&draft.environment, &at, &mut origins);
            add_origins(&draft.build_environment, &at.key("build"), &mut origins);
            models.extend(model.map(|model| (draft.name.value.clone(), model)));
        }
    }
    let mut built = BTreeMap::new();
    for draft in &builds {
        let name = &draft.name.value.0;
        let mut work = reload::Work { rights: &rights, sources, budget: &mut budget, report };
        built.extend(reload::shared(draft, &mut work).map(|build| (name.clone(), build)));
        add_origins(&draft.environment, &ConfigPath::root().key("builds").key(name), &mut origins);
    }
    let whole = crate::check::Whole { files: &files, complete };
    crate::check::all(whole, &drafts, &builds, &mut models, sources, report);

    let first = &files[0].raw;
    let mut work = reload::Work { rights: &rights, sources, budget: &mut budget, report };
    let watching = reload::watching(first.watch.as_ref().map(|watch| &watch.value), &files[0].dir, &mut work);
    let workspace = Workspace {
        external,
        requires: requirements(&files),
        name: workspace_name(first, sources),
        root: sources.root.clone(),
        policy_inputs: policy_inputs.into_iter().collect(),
        hidden: hidden.into_iter().collect(),
        enforcement: first.enforcement.as_ref().map(|level| level.value.0),
        subnet: first
            .network
            .as_ref()
            .and_then(|network| network.value.subnet.as_ref())
            .map_or(Subnet::DEFAULT, |subnet| subnet.value.0),
        volumes,
        secrets,
        builds: built,
        borrowed: crate::borrowed::all(&files, &drafts, &builds, &env_files.made_of),
        parallel_builds: first.parallel_builds.as_ref().map(|most| most.value.0),
        watching,
        policy: shared_policy,
        services: models,
    };
    Some(Lowered { workspace, origins })
}

/// What the files require, each program once: all that is asked of it must hold.
fn requirements(files: &[WorkspaceFile<'_>]) -> Vec<Requirement> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let written = files.iter().flat_map(|file| &file.raw.requires).flat_map(|requires| &requires.value.0);
    for (program, version) in written {
        let conditions = all.entry(&program.value.0).or_default();
        let version = version.value.0.as_str();
        if version != "*" && !conditions.contains(&version) {
            conditions.push(version);
        }
    }
    let one = |(program, conditions): (&str, Vec<&str>)| Requirement {
        program: program.to_owned(),
        version: if conditions.is_empty() { "*".to_owned() } else { conditions.join(", ") },
    };
    all.into_iter().map(one).collect()
}

/// Refuses a workspace without a service.
fn check_services_are_there(files: &[WorkspaceFile<'_>], complete: bool, report: &mut Report) -> Option<()> {
    let mut written = files.iter().filter_map(|file| file.raw.services.as_ref());
    let unread = files.iter().any(|file| file.raw.unread.contains(&"services"));
    if unread || !complete || written.clone().any(|services| !services.value.0.is_empty()) {
        // One that could not be read was reported.
        return written.next().map(|_| ());
    }
    match written.next() {
        Some(services) => {
            report.push(error(codes::MISSING_KEY, services.key, "the workspace has no services"));
            Some(())
        }
        None => {
            let issue = error(codes::MISSING_KEY, Span::default(), "the workspace has no `services`");
            report.push(issue.help("write `services: { api: { command: ./api } }`"));
            None
        }
    }
}

/// Reports what only the first file can have.
fn check_included(file: &crate::raw::FileRaw, report: &mut Report) {
    let keys = [
        ("name", file.name.as_ref().map(|at| at.key)),
        ("enforcement", file.enforcement.as_ref().map(|at| at.key)),
        ("network", file.network.as_ref().map(|at| at.key)),
        ("parallel_builds", file.parallel_builds.as_ref().map(|at| at.key)),
        ("watch", file.watch.as_ref().map(|at| at.key)),
        ("policy", file.policy.as_ref().map(|at| at.key)),
    ];
    for (key, span) in keys {
        let Some(span) = span else { continue };
        let issue = error(codes::FIRST_FILE_ONLY, span, format!("an included file cannot have `{key}`"));
        report.push(
            issue.label("it is of the whole workspace").help(format!("move `{key}` to the first file")),
        );
    }
}

/// Reports names that two files have. Says whether there were none.
fn unique<'n, N: Ord + std::fmt::Display + 'n>(
    names: impl Iterator<Item = (&'n N, Span)>,
    what: &str,
    report: &mut Report,
) -> bool {
    let mut seen = BTreeMap::new();
    let mut good = true;
    for (name, span) in names {
        if let Some(first) = seen.get(name) {
            let message = format!("`{name}` is in `{what}` of two files");
            report.push(
                error(codes::DUPLICATE_NAME, span, message)
                    .label("again here")
                    .related(*first, "first here")
                    .help("rename one of them: names are those of the whole workspace"),
            );
            good = false;
        } else {
            seen.insert(name, span);
        }
    }
    good
}

/// What the whole run may still spend.
#[derive(Debug)]
struct Budget {
    variables: usize,
    /// The patterns that were compiled, with what was wrong with them.
    patterns: BTreeMap<String, Option<String>>,
    large_patterns: usize,
    /// The globs that were looked at, with what was wrong with them.
    globs: BTreeMap<String, Option<String>>,
    /// How many paths and globs builds and watching have.
    paths: usize,
}

fn add_origins(
    environment: &BTreeMap<String, Variable>,
    at: &ConfigPath,
    origins: &mut BTreeMap<ConfigPath, VariableOrigin>,
) {
    for (name, variable) in environment {
        if let Some(origin) = &variable.origin {
            origins.insert(at.key("environment").key(name), origin.clone());
        }
    }
}

fn workspace_name(file: &crate::raw::FileRaw, sources: &Sources) -> WorkspaceName {
    if let Some(name) = &file.name {
        return name.value.clone();
    }
    let from_directory = WorkspaceName::new(as_name(&sources.default_name));
    from_directory.unwrap_or_else(|_| WorkspaceName::new("workspace").expect("`workspace` is a name"))
}

/// Refuses files that are small and mean something huge.
fn check_amount(files: &[WorkspaceFile<'_>], report: &mut Report) -> Option<()> {
    let (mut all, mut merged) = (0, 0_usize);
    for file in files {
        let Some(written) = &file.raw.services else { continue };
        let services = written.value.0.len();
        all += services;
        if all > MAX_SERVICES {
            let message = format!("the workspace has {all} services, and {MAX_SERVICES} is the most");
            report.push(error(codes::TOO_COSTLY, written.key, message));
            return None;
        }
        let defaults = file.tree.get("defaults").map_or(0, |entry| count(&entry.value));
        merged = merged.saturating_add(defaults.saturating_mul(services));
        if merged > MAX_MERGED {
            let message =
                format!("{defaults} values of `defaults` for each of {services} services are too many");
            report.push(error(codes::TOO_COSTLY, written.key, message));
            return None;
        }
    }
    Some(())
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Seq(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 0,
    }
}

/// The profiles that are switched on: those that were chosen, and those of services that were named.
pub(crate) fn chosen_profiles<'a>(files: &'a [WorkspaceFile<'_>], sources: &'a Sources) -> BTreeSet<&'a str> {
    let named: BTreeSet<&str> = sources.named.iter().map(String::as_str).collect();
    let mut chosen: BTreeSet<&str> = sources.profiles.iter().map(String::as_str).collect();
    for file in files.iter().filter(|_| !named.is_empty()) {
        let defaults = file.raw.defaults.as_ref().map(|defaults| &defaults.value);
        let services = file.raw.services.iter().flat_map(|services| &services.value.0);
        for (_, service) in services.filter(|(name, _)| named.contains(name.value.as_str())) {
            chosen.extend(profiles_of(&service.value, defaults));
        }
    }
    chosen
}

fn profiles_of<'a>(own: &'a ServiceRaw, defaults: Option<&'a ServiceRaw>) -> impl Iterator<Item = &'a str> {
    let profiles = own.profiles.as_ref().or_else(|| defaults?.profiles.as_ref());
    profiles.into_iter().flat_map(|profiles| &profiles.value.0).map(|profile| profile.value.0.as_str())
}

/// Whether the chosen profiles switch a service on.
pub(crate) fn is_active(own: &ServiceRaw, defaults: Option<&ServiceRaw>, chosen: &BTreeSet<&str>) -> bool {
    let mut profiles = profiles_of(own, defaults).peekable();
    profiles.peek().is_none() || chosen.contains("*") || profiles.any(|profile| chosen.contains(profile))
}

/// The file of a service, with its number, and what concerns all.
struct Home<'f, 'e, 's> {
    number: usize,
    file: &'f WorkspaceFile<'s>,
    /// The profiles that are switched on.
    chosen: &'e BTreeSet<&'e str>,
    env_files: &'e mut EnvFiles<'s>,
}

fn draft<'f>(
    name: &'f At<ServiceName>,
    own: &'f ServiceRaw,
    mut home: Home<'f, '_, '_>,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<Draft<'f>> {
    let defaults = home.file.raw.defaults.as_ref().map(|defaults| &defaults.value);
    let raw = match defaults {
        Some(defaults) => with_defaults(own, defaults),
        None => own.clone(),
    };
    let active = is_active(own, defaults, home.chosen);
    let kind = raw.kind.as_ref().map_or(ServiceKind::Service, |kind| kind.value.0);
    if name.value.as_str() == "localhost" {
        let issue = error(codes::BAD_NAME, name.span, "`localhost` cannot be the name of a service");
        report.push(issue.label("it is every service's name for itself"));
    }
    let dir = home.file.dir.as_path();
    let mut draft = Draft {
        name,
        own,
        raw,
        dir,
        kind,
        active,
        environment: BTreeMap::new(),
        build_environment: BTreeMap::new(),
    };
    if active {
        let label = format!("`{}` will not have it", name.value);
        check_env_files(draft.raw.env_file.iter().flat_map(|files| &files.value.0), sources, report);
        let layers = [
            // Its own env files stand in for those of the defaults, not for their variables.
            Layer {
                files: defaults.and_then(|it| it.env_file.as_ref()).filter(|_| own.env_file.is_none()),
                variables: defaults.and_then(|it| it.environment.as_ref()),
            },
            Layer { files: own.env_file.as_ref(), variables: own.environment.as_ref() },
        ];
        draft.environment = environment(&layers, (name.span, &label), &mut home, sources, budget, report)?;
        if let Some(build) = draft.raw.build.as_ref().and_then(|build| build.value.own()) {
            check_env_files(build.env_file.iter().flat_map(|files| &files.value.0), sources, report);
            let of = |raw: &'f ServiceRaw| raw.build.as_ref().and_then(|build| build.value.own());
            let own = of(own);
            let defaults = defaults.and_then(of);
            let own_files = own.and_then(|it| it.env_file.as_ref());
            let layers = [
                Layer {
                    files: defaults.and_then(|it| it.env_file.as_ref()).filter(|_| own_files.is_none()),
                    variables: defaults.and_then(|it| it.environment.as_ref()),
                },
                Layer { files: own_files, variables: own.and_then(|it| it.environment.as_ref()) },
            ];
            let label = format!("the build of `{}` will not have it", name.value);
            draft.build_environment =
                environment(&layers, (name.span, &label), &mut home, sources, budget, report)?;
        }
    }
    Some(draft)
}

/// `defaults` merged under a service.
pub(crate) fn with_defaults(own: &ServiceRaw, defaults: &ServiceRaw) -> ServiceRaw {
    let mut raw = own.clone().merge(defaults);
    // A probe of the service takes the times of the default, never its kind.
    let probes =
        [(&own.startup, &mut raw.startup), (&own.ready, &mut raw.ready), (&own.liveness, &mut raw.liveness)];
    for (own, merged) in probes {
        if let (Some(own), Some(merged)) = (own, merged)
            && !own.value.kinds().is_empty()
        {
            merged.value = std::mem::take(&mut merged.value).with_kind_of(&own.value);
        }
    }
    // One that has its own command to stop it does not take the default's way to run it, and the other way round.
    if let (Some(own), Some(merged)) = (&own.stop, &mut raw.stop)
        && own.value.command.is_some()
    {
        merged.value.shell = own.value.shell.clone();
    }
    // A terminal is the standard input.
    if own.tty.as_ref().is_some_and(|tty| tty.value) && own.stdin.is_none() {
        raw.stdin = None;
    }
    // What is meant for services that stay up is not meant for tasks.
    if raw.kind.as_ref().is_some_and(|kind| kind.value.0 == ServiceKind::Task) {
        raw.startup.clone_from(&own.startup);
        raw.ready.clone_from(&own.ready);
        raw.liveness.clone_from(&own.liveness);
        raw.post_start.clone_from(&own.post_start);
        raw.replicas.clone_from(&own.replicas);
        raw.watch.clone_from(&own.watch);
        raw.reload.clone_from(&own.reload);
        raw.listen.clone_from(&own.listen);
        let own_policy = own.restart.as_ref().and_then(|restart| restart.value.policy.as_ref());
        if let Some(restart) = &mut raw.restart
            && own_policy.is_none()
            && restart.value.policy.as_ref().is_some_and(|policy| policy.value.0 == RestartPolicy::Always)
        {
            restart.value.policy = None;
        }
    } else {
        raw.inputs.clone_from(&own.inputs);
    }
    raw
}

/// The env files of a service and of its own build, those of each lowest first.
pub(crate) fn env_files_of(service: &ServiceRaw) -> impl Iterator<Item = &EnvFileRaw> {
    let build = service.build.as_ref().and_then(|build| build.value.own());
    let all = service.env_file.iter().chain(build.and_then(|build| build.env_file.as_ref()));
    all.flat_map(|files| &files.value.0).map(|file| &file.value)
}

/// Reports env files that could not be read.
fn check_env_files<'a>(
    files: impl IntoIterator<Item = &'a At<EnvFileRaw>>,
    sources: &Sources,
    report: &mut Report,
) {
    for file in files {
        let read = sources.files.get(&file.value.path).is_some_and(Option::is_some);
        if file.value.required && !read {
            let path = crate::spans::relative(&file.value.path, &sources.root);
            let issue = error(
                codes::ENV_FILE_UNREADABLE,
                file.span,
                format!("the env file `{}` cannot be read", shown(&path)),
            );
            report.push(issue.help("make it, or write `{ path: …, required: false }`"));
        }
    }
}

/// Env files and variables that stand together; the variables win.
#[derive(Debug, Clone, Copy)]
struct Layer<'a> {
    files: Option<&'a At<OneOrMany<EnvFileRaw>>>,
    variables: Option<&'a At<EnvironmentRaw>>,
}

/// Puts an environment together; a later layer wins. `owner` is where it is written whose it is, and what is said
/// about a variable that is passed through and not set.
fn environment(
    layers: &[Layer<'_>],
    owner: (Span, &str),
    home: &mut Home<'_, '_, '_>,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<BTreeMap<String, Variable>> {
    let mut out = BTreeMap::new();
    for Layer { files, variables } in layers {
        for file in files.iter().flat_map(|files| &files.value.0) {
            let path = &file.value.path;
            let entries = home.env_files.get(home.number, path, &home.file.variables, report);
            let Some(entries) = entries else { continue };
            spend(budget, entries.len(), file.span, report)?;
            for entry in entries.iter() {
                let origin = Some(VariableOrigin::File(path.clone(), entry.line));
                out.insert(entry.name.clone(), Variable { value: entry.value.clone(), span: None, origin });
            }
        }
        if let Some(EnvironmentRaw(variables)) = variables.map(|variables| &variables.value) {
            spend(budget, variables.len(), owner.0, report)?;
            for variable in variables {
                let name = &variable.name;
                let variable = match (&variable.value, sources.environment.get(name)) {
                    (Some(value), _) => {
                        Variable { value: value.clone(), span: Some(variable.span), origin: None }
                    }
                    (None, Some(value)) => {
                        let origin = Some(VariableOrigin::Environment);
                        Variable { value: value.clone(), span: Some(variable.span), origin }
                    }
                    (None, None) => {
                        out.remove(name);
                        let message =
                            format!("the variable `{}` is not set in the environment of ws", shown(name));
                        report.push(warning(codes::PASSED_UNSET, variable.span, message).label(owner.1));
                        continue;
                    }
                };
                out.insert(name.clone(), variable);
            }
        }
    }
    Some(out)
}

fn spend(budget: &mut Budget, variables: usize, at: Span, report: &mut Report) -> Option<()> {
    if let Some(left) = budget.variables.checked_sub(variables) {
        budget.variables = left;
        return Some(());
    }
    report.push(error(codes::TOO_COSTLY, at, "the services have too many environment variables together"));
    None
}

fn secret_source(name: Span, raw: &SecretRaw, report: &mut Report) -> Option<SecretSource> {
    match (&raw.file, &raw.environment) {
        (Some(file), None) => Some(SecretSource::File(file.value.0.clone())),
        (None, Some(variable)) => Some(SecretSource::Environment(variable.value.clone())),
        (Some(file), Some(variable)) => {
            let issue = error(codes::CONTRADICTION, variable.key, "a secret has one source");
            report.push(issue.related(file.key, "first here"));
            None
        }
        (None, None) if !raw.unread.is_empty() => None,
        (None, None) => {
            let issue = error(codes::MISSING_KEY, name, "the secret has no source");
            report.push(issue.help("write `{ file: path }` or `{ environment: VARIABLE }`"));
            None
        }
    }
}

/// What no service may write or see.
#[derive(Debug)]
struct Rights<'a> {
    hidden: &'a BTreeSet<PathBuf>,
    policy_inputs: &'a BTreeSet<PathBuf>,
    /// The workspace file.
    file: &'a Path,
    root: &'a Path,
}

impl Rights<'_> {
    /// The first of the files that lies in (or is) `path`.
    fn first_in<'f>(files: &'f BTreeSet<PathBuf>, path: &Path) -> Option<&'f PathBuf> {
        // Paths sort by components, so what lies below a directory stands right behind it.
        files.range(path.to_owned()..).next().filter(|file| file.starts_with(path))
    }

    fn check_writable(&self, path: &Path, span: Span, report: &mut Report) {
        self.check_written(
            path,
            span,
            "name the directories below it that the service really writes",
            report,
        );
    }

    fn check_written(&self, path: &Path, span: Span, help: &str, report: &mut Report) {
        if let Some(why) = crate::raw::read::reserved(path) {
            let message = format!("`{}` cannot be written: {why}", shown(&path.display().to_string()));
            report.push(error(codes::RESERVED_TARGET, span, message));
            return;
        }
        let workspace = Some(self.file).filter(|file| file.starts_with(path));
        if let Some(file) =
            workspace.or_else(|| Self::first_in(self.policy_inputs, path).map(PathBuf::as_path))
        {
            let shown_file = crate::spans::relative(file, self.root);
            let message =
                format!("`{}` decides what services may do, and could be written here", shown(&shown_file));
            let issue = error(codes::POLICY_WRITABLE, span, message);
            report.push(if file == path {
                issue.help("leave it out")
            } else {
                issue.label("this directory contains it").help(help)
            });
        }
    }

    fn check_visible(&self, path: &Path, span: Span, report: &mut Report) {
        if let Some(file) = Self::first_in(self.hidden, path) {
            let file = crate::spans::relative(file, self.root);
            let message = format!("`{}` is kept from services, and could be read here", shown(&file));
            report.push(
                error(codes::SECRET_VISIBLE, span, message)
                    .help("name the directories that the service really reads, or hand the file over by `secrets` or `env_file`"),
            );
        }
    }
}

impl Rights<'_> {
    /// Directories that may be written, checked.
    fn writable(&self, list: Option<&At<List<HostPath>>>, report: &mut Report) -> Vec<PathBuf> {
        let paths = list.iter().flat_map(|list| &list.value.0);
        paths.clone().for_each(|path| self.check_writable(&path.value.0, path.span, report));
        paths.map(|path| path.value.0.clone()).collect()
    }

    /// Files and directories that may be read, checked.
    fn reads(&self, list: Option<&At<List<HostPath>>>, report: &mut Report) -> Vec<PathBuf> {
        let paths = list.iter().flat_map(|list| &list.value.0);
        paths.clone().for_each(|path| self.check_visible(&path.value.0, path.span, report));
        paths.map(|path| path.value.0.clone()).collect()
    }

    /// What is mounted, checked.
    fn mounts(&self, list: Option<&At<List<MountRaw>>>, report: &mut Report) -> Vec<Mount> {
        let mut out = Vec::new();
        for mount in list.iter().flat_map(|list| &list.value.0) {
            let mount = &mount.value;
            let source = match &mount.source {
                MountFrom::Volume(name) => MountSource::Volume(name.clone()),
                MountFrom::Host(path) => {
                    if mount.read_only {
                        self.check_visible(path, mount.source_span, report);
                    } else {
                        self.check_writable(path, mount.source_span, report);
                    }
                    MountSource::Host(path.clone())
                }
            };
            out.push(Mount { source, target: mount.target.clone(), read_only: mount.read_only });
        }
        out
    }
}

fn service(
    draft: &Draft<'_>,
    rights: &Rights<'_>,
    shared_policy: &ws_model::Policy,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<Service> {
    let raw = &draft.raw;
    let name = &draft.name.value;
    let shell = raw.shell.as_ref().is_some_and(|shell| shell.value);
    let command = match &raw.command {
        Some(command) => {
            let own_shell = draft.own.shell.as_ref().filter(|shell| shell.value).map(|shell| shell.key);
            command_line(command, shell, own_shell, ShellKey::Allowed, &sources.home, report)
        }
        None if raw.unread.contains(&"command") => None,
        None => {
            let issue = error(codes::MISSING_KEY, draft.name.span, format!("`{name}` has no `command`"));
            report.push(issue.help("write the program to run: `command: [program, argument]`"));
            None
        }
    };
    let writable = rights.writable(raw.writable.as_ref(), report);
    let reads = rights.reads(raw.reads.as_ref(), report);
    let volumes = rights.mounts(raw.volumes.as_ref(), report);
    let tmpfs = raw.tmpfs.iter().flat_map(|tmpfs| &tmpfs.value.0);
    let tmpfs = tmpfs.map(|one| Tmpfs { target: one.value.target.clone(), size: one.value.size });
    check_targets(raw.volumes.as_ref(), raw.tmpfs.as_ref(), report);

    let secrets = raw.secrets.iter().flat_map(|secrets| &secrets.value.0);
    let secrets = secrets.map(|one| SecretUse {
        name: one.value.name.value.clone(),
        target: one.value.env.as_ref().map_or(SecretTarget::File, |env| SecretTarget::Env(env.value.clone())),
    });
    let depends_on = raw.depends_on.iter().flat_map(|all| &all.value.0);
    let depends_on = depends_on.map(|one| Dependency {
        service: one.service.value.clone(),
        condition: one.condition.as_ref().map(|condition| condition.value.0),
        required: one.required,
        restart: one.restart,
    });
    let links = raw.links.iter().flat_map(|links| &links.value.0);
    let links = links.map(|one| Link {
        to: one.value.to.value.clone(),
        ports: if one.value.ports.is_empty() {
            LinkPorts::Declared
        } else {
            LinkPorts::These(one.value.ports.clone())
        },
        wait: one.value.wait,
    });
    let startup = probe(draft, Role::Startup, sources, budget, report);
    let ready = probe(draft, Role::Ready, sources, budget, report);
    let liveness = probe(draft, Role::Liveness, sources, budget, report);
    let hooks = hooks(draft, sources, report);
    let restart = restart(draft, report);
    let limits = limits(raw.limits.as_ref(), report);
    let policy = policy::policy(raw.policy.as_ref(), Some(shared_policy), report);
    let stop = stop(draft, sources, report);
    let stdin = stdin(draft, report);
    let logs = logs(raw, report);
    let environment = values(&draft.environment);
    let usual_dir = usual_dir(draft.dir, sources);
    let working_dir = raw.working_dir.as_ref().map_or(usual_dir, |dir| &dir.value.0).to_owned();
    // That of an included file is as good as declared: it holds this file, so it is not writable.
    let working_dir_declared = raw.working_dir.is_some() || usual_dir != sources.root;
    let basis = reload::Basis {
        working_dir: working_dir.clone(),
        working_dir_declared,
        environment: environment.clone(),
        writable: writable.clone(),
        reads: reads.clone(),
        volumes: volumes.clone(),
    };
    let reloading = reload::of_service(draft, basis, &mut reload::Work { rights, sources, budget, report });

    Some(Service {
        kind: draft.kind,
        command: command?,
        build: reloading.build,
        inputs: reloading.inputs,
        watch: reloading.watch,
        reload: reloading.reload,
        listen: reloading.listen,
        hold: reloading.hold,
        working_dir,
        working_dir_declared,
        writable,
        makes: Vec::new(),
        reads,
        environment,
        depends_on: depends_on.collect(),
        links: links.collect(),
        expose: raw.expose.iter().flat_map(|ports| &ports.value.0).map(|port| port.value.0).collect(),
        ports: raw.ports.iter().flat_map(|ports| &ports.value.0).map(|port| port.value.0.clone()).collect(),
        volumes,
        tmpfs: tmpfs.collect(),
        secrets: secrets.collect(),
        startup,
        ready,
        liveness,
        hooks,
        replicas: raw.replicas.as_ref().map_or(1, |replicas| replicas.value.0),
        success_exit_codes: success_exit_codes(raw),
        stdin,
        tty: raw.tty.as_ref().is_some_and(|tty| tty.value),
        logs,
        restart,
        stop,
        limits,
        policy,
    })
}

/// Where what a file declares runs, when it does not say. A directory outside of the project is not shown just because
/// a file of it is included.
fn usual_dir<'a>(dir: &'a Path, sources: &'a Sources) -> &'a Path {
    if dir.starts_with(&sources.root) { dir } else { &sources.root }
}

fn values(environment: &BTreeMap<String, Variable>) -> BTreeMap<String, String> {
    environment.iter().map(|(name, variable)| (name.clone(), variable.value.clone())).collect()
}

/// Whether `shell: true` can stand beside a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShellKey {
    Allowed,
    /// Only where the command is written in its long form, as a mapping.
    InLongForm,
    /// The command of a probe is a value itself, and has no place for another key.
    Absent,
}

fn command_line(
    command: &At<CommandRaw>,
    shell: bool,
    own_shell: Option<Span>,
    key: ShellKey,
    home: &Path,
    report: &mut Report,
) -> Option<CommandLine> {
    let empty = || error(codes::BAD_COMMAND, command.span, "the command is empty");
    let mut words = match &command.value {
        CommandRaw::List(words) => {
            if let Some(shell) = own_shell {
                let issue = error(
                    codes::CONTRADICTION,
                    shell,
                    "`shell: true` takes a text, and the command is a list",
                );
                report.push(
                    issue
                        .related(command.span, "the command")
                        .help("write the command as one text, or leave `shell` out"),
                );
                return None;
            }
            words.iter().map(|word| word.value.clone()).collect::<Vec<_>>()
        }
        CommandRaw::Text { text, .. } if text.trim().is_empty() => {
            report.push(empty());
            return None;
        }
        CommandRaw::Text { text, .. } if shell => {
            return Some(CommandLine(vec!["/bin/sh".into(), "-c".into(), text.trim_end().to_owned()]));
        }
        CommandRaw::Text { text, verbatim } => match command::split(text) {
            Ok(words) => words,
            Err(CommandFault { at, kind }) => {
                let start = command.span.start as usize;
                let span = if *verbatim { Span::new(start + at.start, start + at.end) } else { command.span };
                let found = shown(text[at].lines().next().unwrap_or_default());
                let issue = match kind {
                    command::Kind::Unclosed => {
                        error(codes::BAD_COMMAND, span, "a quote in the command is not closed")
                    }
                    command::Kind::Assignment => error(
                        codes::NEEDS_SHELL,
                        span,
                        format!("`{found}` in front of a command needs a shell"),
                    )
                    .help("write it into `environment`"),
                    command::Kind::SeveralLines => {
                        error(codes::NEEDS_SHELL, span, "a command of several lines needs a shell")
                    }
                    command::Kind::Operator if found == "`" => {
                        error(codes::NEEDS_SHELL, span, "a backtick in a command needs a shell")
                    }
                    command::Kind::Operator => {
                        error(codes::NEEDS_SHELL, span, format!("`{found}` in a command needs a shell"))
                    }
                };
                let issue = match (kind, key) {
                    (command::Kind::Unclosed, _) => issue,
                    (_, ShellKey::Allowed) => {
                        issue.help("add `shell: true`, or put it in quotes to hand it to the program")
                    }
                    (_, ShellKey::InLongForm) => issue.help("write `{ command: \"…\", shell: true }`"),
                    (_, ShellKey::Absent) => issue.help("write `[\"/bin/sh\", \"-c\", \"…\"]`"),
                };
                report.push(issue);
                return None;
            }
        },
    };
    match words.first_mut() {
        None => {
            report.push(empty());
            return None;
        }
        Some(program) if program.is_empty() => {
            report.push(error(codes::BAD_COMMAND, command.span, "the program of the command is empty"));
            return None;
        }
        Some(program) => {
            if let Some(below) = program.strip_prefix("~/") {
                *program = home.join(below).display().to_string();
            }
        }
    }
    Some(CommandLine(words))
}

/// Two mounts at one place inside hide each other.
fn check_targets(
    volumes: Option<&At<List<MountRaw>>>,
    tmpfs: Option<&At<OneOrMany<TmpfsRaw>>>,
    report: &mut Report,
) {
    let mounts = volumes.iter().flat_map(|all| &all.value.0).map(|mount| (&mount.value.target, mount.span));
    let tmpfs = tmpfs.iter().flat_map(|all| &all.value.0).map(|one| (&one.value.target, one.span));
    let mut seen = BTreeMap::new();
    for (target, span) in mounts.chain(tmpfs) {
        if let Some(first) = seen.insert(target, span) {
            let message = format!("two mounts have the place `{}`", shown(&target.display().to_string()));
            report.push(error(codes::DUPLICATE_TARGET, span, message).related(first, "the first"));
        }
    }
}

/// Which of its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Startup,
    Ready,
    Liveness,
}

impl Role {
    fn of(self, service: &ServiceRaw) -> Option<&At<ProbeRaw>> {
        match self {
            Self::Startup => service.startup.as_ref(),
            Self::Ready => service.ready.as_ref(),
            Self::Liveness => service.liveness.as_ref(),
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Ready => "ready",
            Self::Liveness => "liveness",
        }
    }

    /// A key that has no meaning here, with what to do.
    fn misplaced(self, probe: &ProbeRaw) -> Option<(&'static str, Span, &'static str)> {
        let key = |span: Option<Span>, key, help| span.map(|span| (key, span, help));
        match self {
            Self::Startup => {
                let help =
                    "it is asked until it has succeeded once: `start_interval` and `within` are its times";
                let interval = key(probe.interval.as_ref().map(|at| at.key), "interval", help);
                interval.or_else(|| key(probe.failures.as_ref().map(|at| at.key), "failures", help))
            }
            Self::Ready => None,
            Self::Liveness => {
                let help = "it begins when the service was ready; the times of the start belong to `ready` or `startup`";
                let within = key(probe.within.as_ref().map(|at| at.key), "within", help);
                within.or_else(|| key(probe.start_interval.as_ref().map(|at| at.key), "start_interval", help))
            }
        }
    }
}

fn probe(
    draft: &Draft<'_>,
    role: Role,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<Probe> {
    let at = role.of(&draft.raw)?;
    let raw = &at.value;
    let (name, key) = (&draft.name.value, role.key());
    if draft.kind == ServiceKind::Task {
        let issue = error(codes::CONTRADICTION, at.key, format!("`{name}` is a task, and has a probe"));
        report.push(issue.label("a task is ready once it has ended with 0").help("leave it out"));
        return None;
    }
    if let Some((what, span, help)) = role.misplaced(raw) {
        let issue = error(codes::CONTRADICTION, span, format!("`{key}` has no `{what}`"));
        report.push(issue.help(help));
        return None;
    }
    match raw.kinds()[..] {
        [] => {
            // Times alone in `defaults` are for those services that have a probe; and a kind that could
            // not be read was reported.
            let own = role.of(draft.own).is_some_and(|own| own.value.unread.is_empty());
            if own && raw.unread.is_empty() {
                let issue = error(codes::MISSING_KEY, at.key, format!("the probe of `{name}` does nothing"));
                let kinds = match role {
                    Role::Startup | Role::Ready => "`exec`, `http`, `tcp`, `grpc`, `log` and `notify`",
                    Role::Liveness => "`exec`, `http`, `tcp`, `grpc` and `notify`",
                };
                report.push(issue.help(format!("write one of {kinds}: `{key}: {{ tcp: \":5432\" }}`")));
            }
            return None;
        }
        [("log", span)] if role == Role::Liveness => {
            let issue = error(codes::CONTRADICTION, span, "`log` cannot say whether a service still works");
            report.push(
                issue
                    .label("a line that was written once says nothing of later")
                    .help("write one of `exec`, `http`, `tcp`, `grpc` and `notify`"),
            );
            return None;
        }
        [_] => {}
        [(_, first), (_, second), ..] => {
            report.push(
                error(codes::CONTRADICTION, second, "a probe is of one kind").related(first, "first here"),
            );
            return None;
        }
    }
    let kind = probe_kind(raw, sources, budget, report)?;
    let mut time = |time: &Option<At<Time>>, default: Duration| {
        time.as_ref().map_or(default, |time| more_than_nothing(time, report))
    };
    let interval = time(&raw.interval, probe::INTERVAL);
    Some(Probe {
        kind,
        start_interval: time(&raw.start_interval, interval.min(probe::START_INTERVAL)),
        interval,
        timeout: time(&raw.timeout, probe::TIMEOUT),
        within: time(&raw.within, probe::WITHIN),
        failures: raw.failures.as_ref().map_or(probe::FAILURES, |failures| failures.value.0),
    })
}

/// A time that cannot be zero.
fn more_than_nothing(time: &At<Time>, report: &mut Report) -> Duration {
    if time.value.0.is_zero() {
        report.push(error(codes::OUT_OF_RANGE, time.span, "this time must be more than nothing"));
    }
    time.value.0
}

/// What a probe with one kind does.
fn probe_kind(
    raw: &ProbeRaw,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<ProbeKind> {
    if let Some(exec) = &raw.exec {
        return command_line(exec, false, None, ShellKey::Absent, &sources.home, report).map(ProbeKind::Exec);
    }
    if let Some(http) = &raw.http {
        let HttpRaw { url, headers, status, body, unread: _ } = &http.value;
        let url = &url.as_ref()?.value;
        if let Some(body) = body {
            check_pattern(body, budget, report)?;
        }
        let status = status.iter().flat_map(|status| &status.value.0);
        return Some(ProbeKind::Http {
            port: url.port,
            path: url.path.clone(),
            headers: headers.as_ref().map(|headers| headers.value.0.clone()).unwrap_or_default(),
            status: status.map(|range| (range.value.0, range.value.1)).collect(),
            body: body.as_ref().map(|body| body.value.clone()),
        });
    }
    if let Some(tcp) = &raw.tcp {
        return Some(ProbeKind::Tcp { port: tcp.value.0 });
    }
    if let Some(grpc) = &raw.grpc {
        return Some(ProbeKind::Grpc { port: grpc.value.port, service: grpc.value.service.clone() });
    }
    if let Some(log) = &raw.log {
        check_pattern(log, budget, report)?;
        return Some(ProbeKind::Log { pattern: log.value.clone() });
    }
    Some(ProbeKind::Notify)
}

fn hooks(draft: &Draft<'_>, sources: &Sources, report: &mut Report) -> Hooks {
    let raw = &draft.raw;
    if let (Some(at), ServiceKind::Task) = (&raw.post_start, draft.kind) {
        let message = format!("`{}` is a task, and has `post_start`", draft.name.value);
        let issue = error(codes::CONTRADICTION, at.key, message);
        report.push(
            issue
                .label("a task may have ended before that has begun")
                .help("write another task that has this one in its `depends_on`"),
        );
    }
    let mut all = |hooks: &Option<At<OneOrMany<HookRaw>>>| {
        let commands = hooks.iter().flat_map(|hooks| &hooks.value.0);
        commands.filter_map(|hook| hook_command(&hook.value, sources, report)).collect()
    };
    Hooks { pre_start: all(&raw.pre_start), post_start: all(&raw.post_start), pre_stop: all(&raw.pre_stop) }
}

fn hook_command(hook: &HookRaw, sources: &Sources, report: &mut Report) -> Option<HookCommand> {
    /// How long a hook may take, when the file says nothing.
    const TIMEOUT: Duration = Duration::from_secs(60);
    let shell = hook.shell.as_ref().filter(|shell| shell.value).map(|shell| shell.key);
    let key = if hook.is_short { ShellKey::InLongForm } else { ShellKey::Allowed };
    let timeout = hook.timeout.as_ref().map_or(TIMEOUT, |timeout| more_than_nothing(timeout, report));
    let command = command_line(&hook.command, shell.is_some(), shell, key, &sources.home, report)?;
    if command.0[0].starts_with('-') {
        let program = shown(&command.0[0]);
        let issue = error(codes::BAD_COMMAND, hook.command.span, format!("`{program}` is not a program"));
        report.push(
            issue
                .label("each entry is a command of its own")
                .help("for one command with arguments, write a list in the list: `[[program, argument]]`"),
        );
        return None;
    }
    Some(HookCommand { command, timeout })
}

fn stop(draft: &Draft<'_>, sources: &Sources, report: &mut Report) -> Stop {
    let default = StopRaw::default();
    let raw = draft.raw.stop.as_ref().map_or(&default, |stop| &stop.value);
    let own_shell = draft.own.stop.as_ref().and_then(|stop| stop.value.shell.as_ref());
    let own_shell = own_shell.filter(|shell| shell.value).map(|shell| shell.key);
    let shell = raw.shell.as_ref().is_some_and(|shell| shell.value);
    if let (Some(span), None) = (own_shell, &raw.command)
        && !raw.unread.contains(&"command")
    {
        let issue = error(codes::CONTRADICTION, span, "`stop` has `shell`, and no `command`");
        report.push(issue.help("write `stop: { command: …, shell: true }`"));
    }
    let command = raw.command.as_ref().and_then(|command| {
        command_line(command, shell, own_shell, ShellKey::Allowed, &sources.home, report)
    });
    Stop {
        command,
        signal: raw.signal.as_ref().map_or(SIGTERM, |signal| signal.value.0),
        grace: raw.grace.as_ref().map_or(Duration::from_secs(10), |grace| grace.value.0),
    }
}

/// What counts as a success beside 0, each once.
fn success_exit_codes(raw: &ServiceRaw) -> Vec<i32> {
    let mut out = Vec::new();
    for code in raw.success_exit_codes.iter().flat_map(|codes| &codes.value.0) {
        let code = code.value.0;
        if code != 0 && !out.contains(&code) {
            out.push(code);
        }
    }
    out
}

fn stdin(draft: &Draft<'_>, report: &mut Report) -> Stdin {
    let Some(stdin) = &draft.raw.stdin else { return Stdin::Default };
    match &draft.raw.tty {
        Some(tty) if tty.value => {
            let issue = error(codes::CONTRADICTION, stdin.key, "`stdin` stands beside `tty`");
            report.push(issue.label("the terminal is the standard input").related(tty.key, "here"));
            Stdin::Default
        }
        _ => stdin.value.0,
    }
}

fn logs(raw: &ServiceRaw, report: &mut Report) -> LogRetention {
    /// Smaller files would be nothing but changes of files.
    const LEAST: ByteSize = ByteSize(64 * 1024);
    let Some(logs) = raw.logs.as_ref().map(|logs| &logs.value) else { return LogRetention::default() };
    LogRetention {
        max_size: at_least(logs.max_size.as_ref(), "output", LEAST, report),
        max_files: logs.max_files.as_ref().map(|files| files.value.0),
        max_age: logs.max_age.as_ref().map(|age| more_than_nothing(age, report)),
    }
}

fn check_pattern(pattern: &At<String>, budget: &mut Budget, report: &mut Report) -> Option<()> {
    let known = match budget.patterns.get(&pattern.value) {
        Some(known) => known.clone(),
        None if budget.patterns.len() >= MAX_PATTERNS || budget.large_patterns >= MAX_LARGE_PATTERNS => {
            let message = "the patterns of the workspace are too many, or too large together";
            report.push(error(codes::TOO_COSTLY, pattern.span, message));
            return None;
        }
        None => {
            let compile = |limit| regex::RegexBuilder::new(&pattern.value).size_limit(limit).build();
            let mut compiled = compile(LARGE_PATTERN_BYTES);
            if let Err(regex::Error::CompiledTooBig(_)) = compiled {
                budget.large_patterns += 1;
                compiled = compile(MAX_PATTERN_BYTES);
            }
            let fault = compiled.err().map(|fault| match fault {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                other => {
                    // The last line says what; the lines before draw the pattern, which we do ourselves.
                    let text = other.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    last.strip_prefix("error: ").unwrap_or(last).to_owned()
                }
            });
            budget.patterns.insert(pattern.value.clone(), fault.clone());
            fault
        }
    };
    match known {
        None => Some(()),
        Some(fault) => {
            let message = format!("`{}` is not a pattern", shown(&pattern.value));
            report.push(error(codes::BAD_PATTERN, pattern.span, message).label(fault));
            None
        }
    }
}

fn restart(draft: &Draft<'_>, report: &mut Report) -> Restart {
    let default = RestartRaw::default();
    let raw = draft.raw.restart.as_ref().map_or(&default, |restart| &restart.value);
    let usual = match draft.kind {
        ServiceKind::Service => RestartPolicy::OnFailure,
        ServiceKind::Task | ServiceKind::Build => RestartPolicy::No,
    };
    let policy = raw.policy.as_ref().map_or(usual, |policy| policy.value.0);
    if let Some(at) = &raw.policy
        && draft.kind == ServiceKind::Task
        && policy == RestartPolicy::Always
    {
        let message = format!("`{}` is a task, and is always started again", draft.name.value);
        report
            .push(error(codes::CONTRADICTION, at.span, message).help("a task can have `no` or `on-failure`"));
    }
    Restart {
        policy,
        max: raw.max.as_ref().map(|max| max.value.0),
        backoff_min: raw.backoff.as_ref().map_or(Duration::from_millis(200), |backoff| backoff.value.min),
        backoff_max: raw.backoff.as_ref().map_or(Duration::from_secs(30), |backoff| backoff.value.max),
    }
}

fn limits(raw: Option<&At<LimitsRaw>>, report: &mut Report) -> Limits {
    let Some(limits) = raw.map(|limits| &limits.value) else { return Limits::default() };
    let mut size = |size: &Option<At<Size>>, what, least| at_least(size.as_ref(), what, least, report);
    Limits {
        memory: size(&limits.memory, "memory", ByteSize::mib(1)),
        tmp: size(&limits.tmp, "tmpfs", ByteSize(64 * 1024)),
        cpus: limits.cpus.as_ref().map(|cpus| cpus.value.0),
        pids: limits.pids.as_ref().map(|pids| pids.value.0),
        files: limits.files.as_ref().map(|files| u64::from(files.value.0)),
    }
}

/// A size, reported where it is too small.
fn at_least(size: Option<&At<Size>>, what: &str, least: ByteSize, report: &mut Report) -> Option<ByteSize> {
    let size = size?;
    let bytes = size.value.0;
    if bytes < least {
        let issue = error(codes::OUT_OF_RANGE, size.span, format!("{} bytes of {what} are too few", bytes.0));
        let issue = issue.label(format!("at least {least}"));
        let written = report.files.text(size.span).unwrap_or_default();
        let has_no_unit = bytes.0 > 0 && written.bytes().all(|byte| byte.is_ascii_digit());
        report.push(if has_no_unit {
            let better = format!("{}M", bytes.0);
            issue.help(format!("did you mean `{better}`?")).fix(size.span, better)
        } else {
            issue
        });
    }
    Some(bytes)
}
