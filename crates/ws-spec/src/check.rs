//! Checks that concern more than one part of the workspace: names that are used, ports and volumes that
//! are wanted twice, and values that look like mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use ws_model::{Condition, LinkPorts, ProbeKind, Protocol, Service, ServiceKind, ServiceName};

use crate::codes;
use crate::lower::Draft;
use crate::raw::FileRaw;
use crate::raw::forms::MountFrom;
use crate::report::{Report, error, shown, warning};
use crate::source::Sources;
use crate::yaml::Span;

type Models = BTreeMap<ServiceName, Service>;

/// Runs them all. Dependencies on services that are left out are taken from the models.
pub(crate) fn all(
    file: &FileRaw,
    drafts: &[Draft<'_>],
    models: &mut Models,
    sources: &Sources,
    report: &mut Report,
) {
    let by_name: BTreeMap<&str, &Draft<'_>> =
        drafts.iter().map(|draft| (draft.name.value.as_str(), draft)).collect();
    for draft in drafts {
        references(draft, &by_name, models, report);
    }
    published_ports(drafts, report);
    volumes(file, drafts, report);
    secrets(file, drafts, report);
    profiles(drafts, sources, report);
    for draft in drafts.iter().filter(|draft| draft.active) {
        addresses(draft, models, report);
    }
}

/// Links and dependencies: that what they name is there.
fn references(draft: &Draft<'_>, all: &BTreeMap<&str, &Draft<'_>>, models: &mut Models, report: &mut Report) {
    let name = &draft.name.value;
    let mut dropped = BTreeSet::new();
    let links_inherited = draft.own.links.is_none();
    for (index, link) in draft.raw.links.iter().flat_map(|links| &links.value.0).enumerate() {
        let to = &link.value.to;
        match resolve(draft, &to.value, to.span, links_inherited, all, report) {
            Resolved::Active(_) | Resolved::Unknown => {}
            Resolved::Myself => _ = dropped.insert(index),
            Resolved::Inactive(target) => inactive(draft, target, to.span, "links to", report),
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
        match resolve(draft, &on.value, on.span, dependencies_inherited, all, report) {
            Resolved::Unknown => {}
            Resolved::Myself => _ = dropped.insert(index),
            Resolved::Inactive(_) if !dependency.required => _ = dropped.insert(index),
            Resolved::Inactive(target) => inactive(draft, target, on.span, "depends on", report),
            Resolved::Active(target) => {
                let Some(condition) = &dependency.condition else { continue };
                match (condition.value.0, target.kind) {
                    (Condition::Completed, ServiceKind::Service) => {
                        let message = format!("`{}` stays up and never completes", on.value);
                        let issue = error(codes::NEVER_COMPLETES, condition.span, message);
                        report.push(issue.related(target.name.span, "it is not a task").help(format!(
                            "add `kind: task` to `{}`, or wait until it is `ready`",
                            on.value
                        )));
                    }
                    (Condition::Ready, ServiceKind::Service) if target.raw.ready.is_none() => {
                        let message = format!(
                            "`{}` has no `ready`: it counts as ready when its program runs",
                            on.value
                        );
                        let issue = warning(codes::READY_WITHOUT_PROBE, condition.span, message);
                        report.push(
                            issue.help(format!("give `{}` a probe: `ready: {{ tcp: \":5432\" }}`", on.value)),
                        );
                    }
                    (Condition::Started | Condition::Ready | Condition::Completed, _) => {}
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
    /// It names the service itself, by `defaults`: they are meant for the others.
    Myself,
    Unknown,
}

fn resolve<'a>(
    from: &Draft<'_>,
    to: &ServiceName,
    span: Span,
    inherited: bool,
    all: &BTreeMap<&str, &'a Draft<'a>>,
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
    match all.get(to.as_str()) {
        Some(target) if target.active || !from.active => Resolved::Active(target),
        Some(target) => Resolved::Inactive(target),
        None => {
            let issue = error(codes::UNKNOWN_SERVICE, span, format!("there is no service `{to}`"));
            report.push_with(issue.label("not in `services`"), |issue| {
                issue.did_you_mean(
                    span,
                    to.as_str(),
                    all.keys().copied().filter(|name| *name != from.name.value.as_str()),
                )
            });
            Resolved::Unknown
        }
    }
}

fn inactive(from: &Draft<'_>, target: &Draft<'_>, span: Span, verb: &str, report: &mut Report) {
    let profiles = target.raw.profiles.iter().flat_map(|profiles| &profiles.value.0);
    let profiles: Vec<&str> = profiles.map(|profile| profile.value.0.as_str()).collect();
    let (name, to) = (&from.name.value, &target.name.value);
    let issue =
        error(codes::INACTIVE_SERVICE, span, format!("`{name}` {verb} `{to}`, which its profiles leave out"));
    let issue =
        issue.related(target.name.span, format!("in the profile `{}`", shown(&profiles.join("`, `"))));
    report.push(match profiles.first() {
        Some(first) => issue.help(format!(
            "switch it on with `--profile {}`, or put `{name}` into the same profile",
            shown(first)
        )),
        None => issue,
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

fn volumes(file: &FileRaw, drafts: &[Draft<'_>], report: &mut Report) {
    let declared: BTreeMap<&str, _> = file
        .volumes
        .iter()
        .flat_map(|volumes| &volumes.value.0)
        .map(|(name, volume)| (name.value.as_str(), (name.span, &volume.value)))
        .collect();
    let readable = !file.unread.contains(&"volumes");
    let mut users: BTreeMap<&str, (&ServiceName, Span)> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for draft in drafts {
        for at in draft.raw.volumes.iter().flat_map(|mounts| &mounts.value.0) {
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
            if !draft.active || volume.shared.as_ref().is_some_and(|shared| shared.value) {
                continue;
            }
            match users.get(name.as_str()) {
                Some((first, first_span)) if **first != draft.name.value => {
                    let message =
                        format!("the volume `{name}` is mounted by `{first}` and `{}`", draft.name.value);
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
                None => _ = users.insert(name.as_str(), (&draft.name.value, span)),
            }
        }
    }
    for (name, (span, _)) in &declared {
        if !used.contains(name) {
            report.push(warning(codes::UNUSED, *span, format!("no service mounts the volume `{name}`")));
        }
    }
}

fn secrets(file: &FileRaw, drafts: &[Draft<'_>], report: &mut Report) {
    let declared: BTreeMap<&str, Span> = file
        .secrets
        .iter()
        .flat_map(|secrets| &secrets.value.0)
        .map(|(name, _)| (name.value.as_str(), name.span))
        .collect();
    let readable = !file.unread.contains(&"secrets");
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

/// Values of the environment that name other services.
fn addresses(draft: &Draft<'_>, models: &Models, report: &mut Report) {
    static NAME_AND_PORT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:^|[^A-Za-z0-9_.-])([a-z0-9][a-z0-9_-]*|127\.0\.0\.1|\[::1\]):([0-9]{1,5})(?:$|[^A-Za-z0-9.:])")
            .expect("a pattern that compiles")
    });
    static NAME_IN_URL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:://|@)([a-z0-9][a-z0-9_-]*)(?:$|[/?#])").expect("a pattern that compiles")
    });
    let Some(model) = models.get(&draft.name.value) else { return };
    for (name, variable) in &draft.environment {
        let value = &variable.value;
        // What comes from an env file is shown at the service: its file may be anybody's.
        let span = variable.span.unwrap_or(draft.name.span);
        for found in NAME_AND_PORT.captures_iter(value) {
            let (host, Ok(port)) = (&found[1], found[2].parse::<u16>()) else { continue };
            if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
                localhost(draft, model, name, host, port, span, models, report);
            } else {
                named(draft, model, name, host, Some(port), span, models, report);
            }
        }
        for found in NAME_IN_URL.captures_iter(value) {
            named(draft, model, name, &found[1], None, span, models, report);
        }
        if name.ends_with("HOST") || name.ends_with("HOSTNAME") {
            named(draft, model, name, value, None, span, models, report);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one place calls it, with what it has at hand")]
fn named(
    draft: &Draft<'_>,
    model: &Service,
    variable: &str,
    host: &str,
    port: Option<u16>,
    span: Span,
    models: &Models,
    report: &mut Report,
) {
    let Some((target, target_model)) = models.get_key_value(host) else { return };
    if *target == draft.name.value {
        return;
    }
    let links: Vec<_> = model.links.iter().filter(|link| link.to == *target).collect();
    let address = port.map_or_else(|| target.to_string(), |port| format!("{target}:{port}"));
    let reaches = |port: u16| {
        links.iter().any(|link| match &link.ports {
            LinkPorts::Declared => declared_tcp(target_model).any(|declared| declared == port),
            LinkPorts::These(ports) => ports.iter().any(|one| one.port == port),
        })
    };
    let missing = match port {
        _ if links.is_empty() => "has no link to it",
        Some(port) if !reaches(port) => "has no link to that port",
        _ => return,
    };
    let name = &draft.name.value;
    let message = format!("`{}` names {address}, and `{name}` {missing}", shown(variable));
    report.push(
        warning(codes::NAMES_WITHOUT_LINK, span, message)
            .help(format!("add it to `links` of `{name}`: `{address}`")),
    );
}

#[expect(clippy::too_many_arguments, reason = "one place calls it, with what it has at hand")]
fn localhost(
    draft: &Draft<'_>,
    model: &Service,
    variable: &str,
    host: &str,
    port: u16,
    span: Span,
    models: &Models,
    report: &mut Report,
) {
    if declared_tcp(model).any(|own| own == port) {
        return;
    }
    let owner = models.iter().find(|(name, other)| {
        **name != draft.name.value
            && (declared_tcp(other).any(|declared| declared == port)
                || other.ports.iter().any(|publish| publish.host_port == Some(port)))
    });
    let Some((owner, other)) = owner else { return };
    // A published port has another number inside.
    let inner = if declared_tcp(other).any(|declared| declared == port) {
        port
    } else {
        other
            .ports
            .iter()
            .find(|publish| publish.host_port == Some(port))
            .map_or(port, |publish| publish.port)
    };
    let message =
        format!("`{}` names {host}:{port}, which inside `{}` is itself", shown(variable), draft.name.value);
    report.push(
        warning(codes::NAMES_LOCALHOST, span, message)
            .label(format!("inside, `{owner}` is {owner}:{inner}"))
            .help(format!("write `{owner}:{inner}`, and add it to `links` of `{}`", draft.name.value)),
    );
}

/// The TCP ports that a service says it has.
fn declared_tcp(service: &Service) -> impl Iterator<Item = u16> {
    let exposed = service.expose.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
    let published = service.ports.iter().map(|publish| publish.port);
    let probed = service.ready.iter().filter_map(|probe| match probe.kind {
        ProbeKind::Http { port, .. } | ProbeKind::Tcp { port } => Some(port),
        ProbeKind::Exec(_) | ProbeKind::Log { .. } => None,
    });
    exposed.chain(published).chain(probed)
}
