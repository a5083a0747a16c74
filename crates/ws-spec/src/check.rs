//! Checks that concern more than one part of the workspace: names that are used, ports and volumes that
//! are wanted twice, and values that look like mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use ws_model::{Condition, External, PortProto, ProbeKind, Protocol, Service, ServiceKind, ServiceName};

use crate::codes;
use crate::load::WorkspaceFile;
use crate::lower::{BuildDraft, Draft};
use crate::raw::forms::{LinkRaw, MountFrom, MountRaw};
use crate::raw::read::{At, List};
use crate::raw::reload::{BuildName, ServiceBuildRaw};
use crate::report::{Report, error, shown, warning};
use crate::source::Sources;
use crate::yaml::{Span, Value};

type Models = BTreeMap<ServiceName, Service>;

/// All files of the workspace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<'a> {
    pub(crate) files: &'a [WorkspaceFile<'a>],
    /// Whether no file is missing: only then is a name that is nowhere a mistake.
    pub(crate) complete: bool,
}

impl Whole<'_> {
    /// Whether everything that the files have under a key was read.
    fn is_readable(&self, key: &str) -> bool {
        self.complete && !self.files.iter().any(|file| file.raw.unread.contains(&key))
    }
}

/// Runs them all. Dependencies on services that are left out are taken from the models.
pub(crate) fn all(
    whole: Whole<'_>,
    drafts: &[Draft<'_>],
    builds: &[BuildDraft<'_>],
    models: &mut Models,
    sources: &Sources,
    report: &mut Report,
) {
    let names = Names {
        services: drafts.iter().map(|draft| (draft.name.value.as_str(), draft)).collect(),
        external: whole
            .files
            .iter()
            .flat_map(|file| &file.raw.external)
            .flat_map(|external| &external.value.0)
            .map(|(name, external)| (name.value.as_str(), (name.span, &external.value.0)))
            .collect(),
        unread: whole
            .files
            .iter()
            .filter_map(|file| match &file.tree.get("external")?.value.value {
                Value::Map(entries) => Some(entries),
                _ => None,
            })
            .flatten()
            .map(|entry| entry.key.text.as_str())
            .collect(),
        complete: whole.is_readable("external"),
    };
    for draft in drafts {
        references(draft, &names, models, report);
    }
    external(&names, drafts, report);
    replicas(&names, drafts, report);
    published_ports(drafts, report);
    self::builds(whole, drafts, builds, report);
    volumes(whole, drafts, builds, report);
    secrets(whole, drafts, report);
    profiles(drafts, sources, report);
    let ports = PortsOfHost::of(models);
    for draft in drafts.iter().filter(|draft| draft.active) {
        addresses(draft, models, &ports, report);
    }
}

/// What links and dependencies can name.
struct Names<'a> {
    services: BTreeMap<&'a str, &'a Draft<'a>>,
    /// With where each is declared.
    external: BTreeMap<&'a str, (Span, &'a External)>,
    /// Names of external things, those with a mistake included: that one was reported.
    unread: BTreeSet<&'a str>,
    /// Whether these are all that there are.
    complete: bool,
}

/// Links and dependencies: that what they name is there.
fn references(draft: &Draft<'_>, names: &Names<'_>, models: &mut Models, report: &mut Report) {
    let name = &draft.name.value;
    let mut dropped = BTreeSet::new();
    let links_inherited = draft.own.links.is_none();
    for (index, link) in draft.raw.links.iter().flat_map(|links| &links.value.0).enumerate() {
        let to = &link.value.to;
        match resolve(draft, &to.value, to.span, links_inherited, names, report) {
            Resolved::Active(_) => {}
            Resolved::Unknown => unknown(draft, &to.value, to.span, names, true, report),
            Resolved::External(declared, external) => {
                link_outside(link, &to.value, declared, external, report);
            }
            Resolved::Myself => _ = dropped.insert(index),
            Resolved::Inactive(target) => inactive(draft, target, to.span, true, report),
        }
    }
    if let Some(model) = models.get_mut(name) {
        let mut index = 0..;
        model.links.retain(|_| !index.next().is_some_and(|index| dropped.contains(&index)));
    }

    dropped.clear();
    let dependencies_inherited = draft.own.depends_on.is_none();
    for (index, dependency) in draft.raw.depends_on.iter().flat_map(|all| &all.value.0).enumerate() {
        let on = &dependency.service;
        match resolve(draft, &on.value, on.span, dependencies_inherited, names, report) {
            Resolved::Unknown => unknown(draft, &on.value, on.span, names, false, report),
            Resolved::External(declared, _) => {
                let message = format!("`{}` is external, and nothing can depend on it", on.value);
                let issue = error(codes::NOT_A_SERVICE, on.span, message);
                report.push(
                    issue.label("ws does not know when it is ready").related(declared, "declared here").help(
                        format!("leave it out: `links: [{}]` is all that it takes to reach it", on.value),
                    ),
                );
            }
            Resolved::Myself => _ = dropped.insert(index),
            Resolved::Inactive(_) if !dependency.required => _ = dropped.insert(index),
            Resolved::Inactive(target) => inactive(draft, target, on.span, false, report),
            Resolved::Active(target) => {
                let Some(condition) = &dependency.condition else { continue };
                let is_ready_at_once = target.kind == ServiceKind::Service
                    && target.raw.ready.is_none()
                    && target.raw.startup.is_none();
                if condition.value.0 == Condition::Ready && is_ready_at_once {
                    let message =
                        format!("`{}` has no `ready`: it counts as ready when its program runs", on.value);
                    let issue = warning(codes::READY_WITHOUT_PROBE, condition.span, message);
                    report.push(
                        issue.help(format!("give `{}` a probe: `ready: {{ tcp: \":5432\" }}`", on.value)),
                    );
                }
            }
        }
    }
    if let Some(model) = models.get_mut(name) {
        let mut index = 0..;
        model.depends_on.retain(|_| !index.next().is_some_and(|index| dropped.contains(&index)));
    }
}

enum Resolved<'a> {
    Active(&'a Draft<'a>),
    Inactive(&'a Draft<'a>),
    /// It runs elsewhere; with where that is declared.
    External(Span, &'a External),
    /// It names the service itself, by `defaults`: they are meant for the others.
    Myself,
    Unknown,
}

fn resolve<'a>(
    from: &Draft<'_>,
    to: &ServiceName,
    span: Span,
    inherited: bool,
    names: &Names<'a>,
    report: &mut Report,
) -> Resolved<'a> {
    if *to == from.name.value {
        if !inherited {
            let message = format!("`{to}` names itself");
            let issue = error(codes::SELF_REFERENCE, span, message);
            report.push(issue.help("a service reaches itself by `localhost`, without a link"));
        }
        return Resolved::Myself;
    }
    match (names.services.get(to.as_str()), names.external.get(to.as_str())) {
        (Some(target), _) if target.active || !from.active => Resolved::Active(target),
        (Some(target), _) => Resolved::Inactive(target),
        (None, Some((declared, external))) => Resolved::External(*declared, external),
        (None, None) => Resolved::Unknown,
    }
}

/// Reports a name that nothing has; only a link can mean something external.
fn unknown(
    from: &Draft<'_>,
    to: &ServiceName,
    span: Span,
    names: &Names<'_>,
    is_link: bool,
    report: &mut Report,
) {
    if !names.complete || (is_link && names.unread.contains(to.as_str())) {
        return;
    }
    let issue = error(codes::UNKNOWN_SERVICE, span, format!("there is no service `{to}`"));
    report.push_with(issue.label("not in `services`"), |issue| {
        if let Some(service) = replica_of(to, names) {
            let help = format!("`{to}` is one of the copies of `{service}`, which are meant all together");
            return issue.help(help).fix(span, service);
        }
        let external = names.external.keys().filter(|_| is_link);
        let known = names.services.keys().chain(external).copied();
        issue.did_you_mean(span, to.as_str(), known.filter(|name| *name != from.name.value.as_str()))
    });
}

/// The service of which this is the name of a copy.
fn replica_of<'a>(name: &ServiceName, names: &Names<'a>) -> Option<&'a str> {
    let (service, number) = name.as_str().rsplit_once('-')?;
    let (known, draft) = names.services.get_key_value(service)?;
    let replicas = replicas_of(draft);
    let number: u32 = number.parse().ok()?;
    (replicas > 1 && (1..=replicas).contains(&number)).then_some(*known)
}

/// What is external has one TCP port.
fn link_outside(
    link: &At<LinkRaw>,
    name: &ServiceName,
    declared: Span,
    external: &External,
    report: &mut Report,
) {
    let port = PortProto { port: external.port, protocol: Protocol::Tcp };
    let Some(other) = link.value.ports.iter().find(|other| **other != port) else { return };
    let issue = error(codes::NOT_A_SERVICE, link.span, format!("`{name}` is not reached on {other}"));
    let issue = issue.related(declared, format!("external, on {port}"));
    let better = format!("{name}:{}", external.port);
    // The long form has its ports somewhere inside.
    let is_short = report.files.text(link.span).is_some_and(|text| text.starts_with(name.as_str()));
    let issue = issue.help(format!("write `{better}`"));
    report.push(if is_short { issue.fix(link.span, better) } else { issue });
}

/// Names of what runs elsewhere, which are names in the same network as those of services.
fn external(names: &Names<'_>, drafts: &[Draft<'_>], report: &mut Report) {
    let links = drafts.iter().flat_map(|draft| &draft.raw.links).flat_map(|links| &links.value.0);
    let used: BTreeSet<&str> = links.map(|link| link.value.to.value.as_str()).collect();
    for (name, (span, _)) in &names.external {
        if *name == "localhost" {
            let issue = error(codes::BAD_NAME, *span, "`localhost` cannot be the name of something external");
            report.push(issue.label("it is every service's name for itself"));
        } else if let Some(service) = names.services.get(name) {
            let issue =
                error(codes::NOT_A_SERVICE, *span, format!("`{name}` is external, and a service too"));
            report
                .push(issue.related(service.name.span, "the service").help("give one of them another name"));
        } else if !used.contains(name) {
            report.push(warning(codes::UNUSED, *span, format!("no service links to `{name}`")));
        }
    }
}

/// How many copies of a service run.
pub(crate) fn replicas_of(draft: &Draft<'_>) -> u32 {
    draft.raw.replicas.as_ref().map_or(1, |replicas| replicas.value.0)
}

/// What several copies of a service cannot have.
fn replicas(names: &Names<'_>, drafts: &[Draft<'_>], report: &mut Report) {
    for draft in drafts {
        let Some(at) = draft.raw.replicas.as_ref().filter(|at| at.value.0 > 1) else { continue };
        let (name, count) = (&draft.name.value, at.value.0);
        if draft.kind == ServiceKind::Task {
            let issue = error(codes::CONTRADICTION, at.key, format!("`{name}` is a task, and has replicas"));
            report.push(issue.label("a task is done once").help("leave it out"));
            continue;
        }
        if ServiceName::new(format!("{name}-{count}")).is_err() {
            let message = format!("the name `{name}` leaves no place for the number of a copy");
            let issue = error(codes::BAD_NAME, draft.name.span, message);
            report.push(issue.related(at.key, format!("the copies are `{name}-1` and so on")));
        }
        for number in 1..=count {
            let replica = format!("{name}-{number}");
            let other = names.services.get(replica.as_str()).map(|other| other.name.span);
            let other = other.or_else(|| names.external.get(replica.as_str()).map(|(span, _)| *span));
            if let Some(other) = other {
                let message = format!("`{replica}` is the name of a copy of `{name}`");
                let issue = error(codes::REPLICAS, other, message);
                report.push(
                    issue
                        .related(at.key, format!("`{name}` has {count} copies"))
                        .help("give it another name"),
                );
            }
        }
        for port in draft.raw.ports.iter().flat_map(|ports| &ports.value.0) {
            let publish = &port.value.0;
            let Some(host_port) = publish.host_port else { continue };
            let message = format!("port {host_port} of the host is one, and `{name}` has {count} copies");
            let better = match publish.host {
                IpAddr::V4(address) if address.is_loopback() => format!("0:{}", publish.port),
                IpAddr::V4(address) => format!("{address}:0:{}", publish.port),
                IpAddr::V6(address) => format!("[{address}]:0:{}", publish.port),
            };
            let issue = error(codes::REPLICAS, port.span, message).related(at.key, "here");
            report
                .push(issue.help(format!("`\"{better}\"` picks a free one for each")).fix(port.span, better));
        }
    }
}

fn inactive(from: &Draft<'_>, target: &Draft<'_>, span: Span, is_link: bool, report: &mut Report) {
    let profiles = target.raw.profiles.iter().flat_map(|profiles| &profiles.value.0);
    let profiles: Vec<&str> = profiles.map(|profile| profile.value.0.as_str()).collect();
    let (name, to) = (&from.name.value, &target.name.value);
    let verb = if is_link { "links to" } else { "depends on" };
    let issue =
        error(codes::INACTIVE_SERVICE, span, format!("`{name}` {verb} `{to}`, which its profiles leave out"));
    let mut issue =
        issue.related(target.name.span, format!("in the profile `{}`", shown(&profiles.join("`, `"))));
    if let Some(first) = profiles.first() {
        issue = issue.help(format!(
            "switch it on with `--profile {}`, or put `{name}` into the same profile",
            shown(first)
        ));
    }
    report.push(if is_link {
        issue
    } else {
        issue.help(format!("if `{name}` can do without: `depends_on: {{ {to}: {{ required: false }} }}`"))
    });
}

/// Two services cannot have one port of the host.
fn published_ports(drafts: &[Draft<'_>], report: &mut Report) {
    let mut taken: BTreeMap<u16, Vec<(IpAddr, Span, &ServiceName)>> = BTreeMap::new();
    for draft in drafts.iter().filter(|draft| draft.active) {
        for at in draft.raw.ports.iter().flat_map(|ports| &ports.value.0) {
            let publish = &at.value.0;
            let Some(port) = publish.host_port else { continue };
            let others = taken.entry(port).or_default();
            let clash = others.iter().find(|(host, ..)| {
                *host == publish.host || host.is_unspecified() || publish.host.is_unspecified()
            });
            if let Some((_, first, owner)) = clash {
                let message = format!("port {port} of the host is published twice");
                let issue = error(codes::DUPLICATE_PORT, at.span, message);
                report.push(
                    issue
                        .label(format!("by `{}`", draft.name.value))
                        .related(*first, format!("by `{owner}`"))
                        .help(format!("`\"0:{}\"` picks a free one", publish.port)),
                );
            }
            // One is enough to clash with, and keeps this linear.
            if others.len() < 16 {
                others.push((publish.host, at.span, &draft.name.value));
            }
        }
    }
}

/// Who names a build.
enum NamedBy<'a> {
    /// `build` of a service.
    Service,
    /// `after` of a service's own build.
    OwnBuild,
    /// `after` of a build of `builds`.
    Build(&'a ServiceName),
}

/// Builds that are named, and those that nobody names.
fn builds(whole: Whole<'_>, drafts: &[Draft<'_>], builds: &[BuildDraft<'_>], report: &mut Report) {
    // Those with a mistake included: that one was reported.
    let declared: BTreeMap<&str, Span> = whole
        .files
        .iter()
        .filter_map(|file| match &file.tree.get("builds")?.value.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        })
        .flatten()
        .map(|entry| (entry.key.text.as_str(), entry.key.span))
        .collect();
    // A value that is no mapping at all was reported.
    let is_map = |file: &WorkspaceFile<'_>| match file.tree.get("builds").map(|entry| &entry.value.value) {
        None | Some(Value::Null | Value::Map(_)) => true,
        Some(Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Seq(_)) => false,
    };
    let complete = whole.complete && whole.files.iter().all(is_map);
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut known = |at: &At<BuildName>, by: NamedBy<'_>, report: &mut Report| {
        let name = at.value.0.as_str();
        if let Some((name, _)) = declared.get_key_value(name) {
            used.insert(name);
        } else if complete {
            let issue = error(codes::UNKNOWN_BUILD, at.span, format!("there is no build `{name}`"));
            report.push_with(issue.label("not in `builds` of the workspace"), |issue| {
                let all = declared.keys().copied();
                match by {
                    NamedBy::Service => issue
                        .did_you_mean(at.span, name, all)
                        .help(format!("to run it as a command: `build: {{ command: {name} }}`")),
                    NamedBy::OwnBuild => issue.did_you_mean(at.span, name, all),
                    NamedBy::Build(build) => {
                        issue.did_you_mean(at.span, name, all.filter(|name| *name != build.as_str()))
                    }
                }
            });
        }
    };
    for draft in drafts {
        match draft.raw.build.as_ref().map(|build| &build.value) {
            None => {}
            Some(ServiceBuildRaw::Shared { name, .. }) => known(name, NamedBy::Service, report),
            Some(ServiceBuildRaw::Own(build)) => {
                for after in build.after.iter().flat_map(|all| &all.value.0) {
                    known(after, NamedBy::OwnBuild, report);
                }
            }
        }
    }
    for build in builds {
        for after in build.raw.after.iter().flat_map(|all| &all.value.0) {
            if after.value.0 == build.name.value.0 {
                let message = format!("`{}` names itself", after.value.0);
                let issue = error(codes::SELF_REFERENCE, after.span, message);
                report.push(issue.help("leave it out: a build cannot wait for itself"));
            } else {
                known(after, NamedBy::Build(&build.name.value.0), report);
            }
        }
    }
    for (name, span) in &declared {
        if !used.contains(name) && ServiceName::new(*name).is_ok() {
            report.push(warning(codes::UNUSED, *span, format!("no service uses the build `{name}`")));
        }
    }
}

/// Who mounts volumes.
struct Mounter<'a> {
    /// What it is called, in messages and to tell it from others: a service and its own build are one.
    name: String,
    mounts: Option<&'a At<List<MountRaw>>>,
    active: bool,
    replicas: u32,
}

/// All who mount volumes.
fn mounters<'a>(drafts: &'a [Draft<'_>], builds: &'a [BuildDraft<'_>]) -> Vec<Mounter<'a>> {
    let mut all = Vec::new();
    for draft in drafts {
        let (name, active) = (format!("`{}`", draft.name.value), draft.active);
        let build = draft.raw.build.as_ref().and_then(|build| build.value.own());
        let of_build = build.and_then(|build| build.volumes.as_ref());
        let mounts = draft.raw.volumes.as_ref();
        all.push(Mounter { name: name.clone(), mounts, active, replicas: replicas_of(draft) });
        // It runs once, however many copies there are.
        all.push(Mounter { name, mounts: of_build, active, replicas: 1 });
    }
    all.extend(builds.iter().map(|build| Mounter {
        name: format!("the build `{}`", build.name.value.0),
        mounts: build.raw.volumes.as_ref(),
        active: true,
        replicas: 1,
    }));
    all
}

fn volumes(whole: Whole<'_>, drafts: &[Draft<'_>], builds: &[BuildDraft<'_>], report: &mut Report) {
    let mounters = mounters(drafts, builds);
    let declared: BTreeMap<&str, _> = whole
        .files
        .iter()
        .flat_map(|file| &file.raw.volumes)
        .flat_map(|volumes| &volumes.value.0)
        .map(|(name, volume)| (name.value.as_str(), (name.span, &volume.value)))
        .collect();
    let readable = whole.is_readable("volumes");
    let mut users: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for mounter in &mounters {
        for at in mounter.mounts.iter().flat_map(|mounts| &mounts.value.0) {
            let MountFrom::Volume(name) = &at.value.source else { continue };
            let span = at.value.source_span;
            used.insert(name.as_str());
            let Some((declaration, volume)) = declared.get(name.as_str()) else {
                if readable {
                    let issue = error(codes::UNKNOWN_VOLUME, span, format!("there is no volume `{name}`"));
                    let issue = issue.label("not in `volumes` of the workspace");
                    report.push_with(issue, |issue| {
                        let issue = issue.did_you_mean(span, name.as_str(), declared.keys().copied());
                        let also = format!(
                            "declare it: `volumes: {{ {name}: {{}} }}`; a directory starts with `./`"
                        );
                        issue.help(also)
                    });
                }
                continue;
            };
            if !mounter.active || volume.shared.as_ref().is_some_and(|shared| shared.value) {
                continue;
            }
            if mounter.replicas > 1 {
                let (replicas, service) = (mounter.replicas, &mounter.name);
                let message = format!("the volume `{name}` is mounted by {replicas} copies of {service}");
                report.push(
                    error(codes::VOLUME_NOT_SHARED, span, message)
                        .related(*declaration, "declared here")
                        .help(format!("if they are meant to share it: `{name}: {{ shared: true }}`")),
                );
            }
            match users.get(name.as_str()) {
                Some((first, first_span)) if *first != mounter.name => {
                    let message = format!("the volume `{name}` is mounted by {first} and {}", mounter.name);
                    let issue = error(codes::VOLUME_NOT_SHARED, span, message);
                    report.push(
                        issue
                            .label("here")
                            .related(*first_span, "and here")
                            .related(*declaration, "declared here")
                            .help(format!("if they are meant to share it: `{name}: {{ shared: true }}`")),
                    );
                }
                Some(_) => {}
                None => _ = users.insert(name.as_str(), (&mounter.name, span)),
            }
        }
    }
    for (name, (span, _)) in &declared {
        if !used.contains(name) {
            report.push(warning(codes::UNUSED, *span, format!("no service mounts the volume `{name}`")));
        }
    }
}

fn secrets(whole: Whole<'_>, drafts: &[Draft<'_>], report: &mut Report) {
    let declared: BTreeMap<&str, Span> = whole
        .files
        .iter()
        .flat_map(|file| &file.raw.secrets)
        .flat_map(|secrets| &secrets.value.0)
        .map(|(name, _)| (name.value.as_str(), name.span))
        .collect();
    let readable = whole.is_readable("secrets");
    let mut used = BTreeSet::new();
    for draft in drafts {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for at in draft.raw.secrets.iter().flat_map(|secrets| &secrets.value.0) {
            let name = &at.value.name;
            used.insert(name.value.as_str());
            if readable && !declared.contains_key(name.value.as_str()) {
                let issue =
                    error(codes::UNKNOWN_SECRET, name.span, format!("there is no secret `{}`", name.value));
                let issue = issue.label("not in `secrets` of the workspace");
                report.push_with(issue, |issue| {
                    let issue = issue.did_you_mean(name.span, name.value.as_str(), declared.keys().copied());
                    issue.help(format!("declare it: `secrets: {{ {}: {{ file: path }} }}`", name.value))
                });
            }
            let Some(env) = &at.value.env else { continue };
            if let Some(first) = seen.insert(&env.value, env.span) {
                let message = format!("two secrets become the variable `{}`", shown(&env.value));
                report.push(error(codes::CONTRADICTION, env.span, message).related(first, "the first"));
            }
            if let Some(variable) = draft.environment.get(&env.value) {
                let message = format!("`{}` is a secret, and is set as a variable too", shown(&env.value));
                let issue = error(codes::CONTRADICTION, env.span, message);
                report.push(match variable.span {
                    Some(span) => issue.related(span, "set here"),
                    None => issue,
                });
            }
        }
    }
    for (name, span) in declared {
        if !used.contains(name) {
            report.push(warning(codes::UNUSED, span, format!("no service uses the secret `{name}`")));
        }
    }
}

fn profiles(drafts: &[Draft<'_>], sources: &Sources, report: &mut Report) {
    let known: BTreeSet<&str> = drafts
        .iter()
        .flat_map(|draft| draft.raw.profiles.iter().flat_map(|profiles| &profiles.value.0))
        .map(|profile| profile.value.0.as_str())
        .collect();
    for chosen in sources.profiles.iter().filter(|chosen| *chosen != "*" && !known.contains(chosen.as_str()))
    {
        let message = format!("no service has the profile `{}`", shown(chosen));
        let issue = warning(codes::UNKNOWN_PROFILE, Span::default(), message);
        report.push_with(issue, |issue| match crate::report::nearest(chosen, known.iter().copied()) {
            Some(meant) => issue.help(format!("did you mean `{meant}`?")),
            None => issue,
        });
    }
}

/// Values of the environment that name other services without one of their own ports: the planner, which
/// knows what each link reaches, looks at those with one.
fn addresses(draft: &Draft<'_>, models: &Models, ports: &PortsOfHost<'_>, report: &mut Report) {
    static LOCALHOST: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:^|[^A-Za-z0-9_.-])(localhost|127\.0\.0\.1|\[::1\]):([0-9]{1,5})(?:$|[^A-Za-z0-9.:])")
            .expect("a pattern that compiles")
    });
    static HOST_OF_URL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:://|@)([a-z0-9][a-z0-9_-]*)(?:$|[/?#,\s])").expect("a pattern that compiles")
    });
    let name = &draft.name.value;
    let Some(model) = models.get(name) else { return };
    for (variable, value) in &draft.environment {
        // What comes from an env file is shown at the service: its file may be anybody's.
        let span = value.span.unwrap_or(draft.name.span);
        for found in LOCALHOST.captures_iter(&value.value) {
            let (host, Ok(port)) = (&found[1], found[2].parse::<u16>()) else { continue };
            let Some((owner, inner)) = ports.published_by_another(name, port) else { continue };
            let message =
                format!("`{}` names {host}:{port}, which inside `{name}` is itself", shown(variable));
            let issue = warning(codes::NAMES_LOCALHOST, span, message);
            report.push(
                issue
                    .label(format!("inside, `{owner}` is {owner}:{inner}"))
                    .help(format!("write `{owner}:{inner}`, and add it to `links` of `{name}`")),
            );
        }
        let is_host =
            (variable.ends_with("HOST") || variable.ends_with("HOSTNAME")).then_some(value.value.as_str());
        let in_urls =
            HOST_OF_URL.captures_iter(&value.value).filter_map(|found| Some(found.get(1)?.as_str()));
        for host in in_urls.chain(is_host) {
            let Some((target, _)) = models.get_key_value(host) else { continue };
            if target == name || model.links.iter().any(|link| link.to == *target) {
                continue;
            }
            let message = format!("`{}` names {target}, and `{name}` has no link to it", shown(variable));
            let issue = warning(codes::NAMES_WITHOUT_LINK, span, message);
            report.push(issue.help(format!("add it to `links` of `{name}`: `{target}`")));
        }
    }
}

/// Who has which port.
struct PortsOfHost<'m> {
    /// The ports that some service has inside.
    inside: BTreeSet<u16>,
    /// The services that are published on a port of the host, with their ports inside.
    published: BTreeMap<u16, Vec<(&'m ServiceName, u16)>>,
}

impl<'m> PortsOfHost<'m> {
    fn of(models: &'m Models) -> Self {
        let inside = models.values().flat_map(declared_tcp).collect();
        let mut published: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        for (name, service) in models {
            for publish in &service.ports {
                if let Some(port) = publish.host_port {
                    published.entry(port).or_default().push((name, publish.port));
                }
            }
        }
        Self { inside, published }
    }

    /// The service that is published on this port of the host, with its port inside, where no service
    /// has the port inside too.
    fn published_by_another(&self, name: &ServiceName, port: u16) -> Option<(&'m ServiceName, u16)> {
        if self.inside.contains(&port) {
            return None;
        }
        self.published.get(&port)?.iter().find(|(owner, _)| *owner != name).copied()
    }
}

/// The TCP ports that a service says it has.
fn declared_tcp(service: &Service) -> impl Iterator<Item = u16> {
    let exposed = service.expose.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
    let published = service.ports.iter().map(|publish| publish.port);
    let probed = service.ready.iter().filter_map(|probe| match probe.kind {
        ProbeKind::Http { port, .. } | ProbeKind::Tcp { port } | ProbeKind::Grpc { port, .. } => Some(port),
        ProbeKind::Exec(_) | ProbeKind::Log { .. } | ProbeKind::Notify => None,
    });
    let listening = service.listen.iter().map(|listen| listen.port);
    exposed.chain(published).chain(probed).chain(listening)
}
