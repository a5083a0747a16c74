//! The plan for people and for tools: `ws plan`.

mod policy;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use ws_model::{
    HookCommand, LogRetention, Probe, ProbeKind, Publish, RestartPolicy, ServiceKind, ServiceName,
    event::signal_name,
};

use super::view::shown;
use super::{Bind, BindSource, Exclude, ExternalPlan, LinkRule, Plan, ServicePlan, View};
use crate::text::{duration, elsewhere};

/// The plan as text: everything that is decided, by service.
#[must_use]
pub fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}  {}", plan.name, plan.root.display());
    field(&mut text, "network", &format!("{}, gateway {}", plan.subnet, plan.subnet.gateway()));
    field(&mut text, "level", &format!("{} ({})", plan.required, plan.required_because));
    let requires = plan.requires.iter().map(|it| format!("{} {}", it.program, it.version));
    field(&mut text, "requires", &requires.collect::<Vec<_>>().join(", "));
    // What needs a control group cannot be seen where there is none, and this level is reached without.
    if plan.required < ws_model::Level::Standard {
        field(
            &mut text,
            "not seen",
            "memory and pids over their limit, where this machine has no resource controllers",
        );
    }
    for (i, wave) in plan.waves.iter().enumerate() {
        field(&mut text, if i == 0 { "start" } else { "then" }, &plan.together(wave).join(", "));
    }
    let declared: BTreeSet<&ServiceName> = plan.services.values().map(|unit| &unit.declared).collect();
    for name in declared {
        describe_service(plan, &plan.units(name.as_str()), &mut text);
    }
    for external in &plan.external {
        let _ = writeln!(text, "\n{}  {}  (elsewhere)", external.name, external.address);
        field(&mut text, "is", &elsewhere(external));
        field(&mut text, "reached by", &reached_by(plan, &external.name));
    }
    if !plan.channels.is_empty() {
        text.push_str("\nchannels past the links\n");
        for channel in &plan.channels {
            let names =
                |names: &[ServiceName]| names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
            let what = shown(&plan.root, channel.what.as_ref());
            let read = names(&channel.readers);
            let readers = if read.is_empty() { String::new() } else { format!("; read by {read}") };
            let _ = writeln!(text, "  {what}: written by {}{readers}", names(&channel.writers));
        }
    }
    if !plan.warnings.is_empty() {
        text.push_str("\nwarnings\n");
        for warning in &plan.warnings {
            let _ = writeln!(text, "  {} ({})", warning.message, warning.at);
        }
    }
    text
}

fn field(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(text, "  {name:<11}{value}");
    }
}

/// What the replicas of a service have in common, which is all but their names and addresses.
fn describe_service(plan: &Plan, units: &[&ServicePlan], text: &mut String) {
    let Some(service) = units.first() else { return };
    let kind = match service.kind {
        ServiceKind::Service => "",
        ServiceKind::Task => "  (task)",
        ServiceKind::Build => "  (build)",
    };
    match units {
        [_] => {
            let _ = writeln!(text, "\n{}  {}{kind}", service.name, service.address);
        }
        _ => {
            let _ = writeln!(text, "\n{}{kind}", super::times(&service.declared, units.len()));
            let addresses: Vec<String> =
                units.iter().map(|unit| format!("{} {}", unit.name, unit.address)).collect();
            field(text, "replicas", &addresses.join(", "));
        }
    }
    if let Some(build) = &service.build {
        let once = if units.len() > 1 { format!(" (by {}, for all)", service.name) } else { String::new() };
        field(text, "build", &format!("{}{once}", command_text(&build.argv)));
    }
    field(text, "command", &command_text(&service.run.argv));
    field(text, "in", &shown(&plan.root, &service.run.cwd));
    field(text, "terminal", if service.tty { "its own" } else { "" });
    field(text, "waits for", &waits_for(plan, service));
    let (outside, inside): (Vec<&LinkRule>, Vec<&LinkRule>) =
        service.links.iter().partition(|link| external(plan, link).is_some());
    let mut reaches: Vec<String> =
        inside.into_iter().map(|link| format!("{}:{}", plan.declared(&link.to), link.port)).collect();
    once(&mut reaches);
    field(text, "reaches", &if reaches.is_empty() { "nothing".to_owned() } else { reaches.join(", ") });
    let outside = outside.into_iter().filter_map(|link| {
        Some(format!("{}:{} (is {})", link.to, link.port, elsewhere(external(plan, link)?)))
    });
    field(text, "outside", &outside.collect::<Vec<_>>().join(", "));
    field(text, "reached by", &reached_by(plan, &service.declared));
    let ports: Vec<String> = service.publish.iter().map(publish_text).collect();
    field(text, "published", &ports.join(", "));
    describe_view(plan, &service.view, text);
    field(text, "started", &service.startup.as_ref().map(probe_text).unwrap_or_default());
    field(text, "ready", &service.ready.as_ref().map(probe_text).unwrap_or_default());
    field(text, "alive", &service.liveness.as_ref().map(liveness_text).unwrap_or_default());
    field(text, "pre_start", &hooks_text(&service.hooks.pre_start));
    field(text, "post_start", &hooks_text(&service.hooks.post_start));
    field(text, "pre_stop", &hooks_text(&service.hooks.pre_stop));
    field(text, "restart", &restart_text(service));
    field(text, "stop", &stop_text(service));
    if service.success_exit_codes != [0] {
        let codes: Vec<String> = service.success_exit_codes.iter().map(ToString::to_string).collect();
        field(text, "success", &format!("exit codes {}", codes.join(", ")));
    }
    field(text, "logs", &logs_text(&service.logs));
    let limits = &service.limits;
    let memory = limits.memory.map(|memory| format!("memory {memory}"));
    let cpus = limits.cpus.map(|cpus| format!("cpus {cpus}"));
    let files = limits.files.map(|files| format!("files {files}"));
    let rest =
        [Some(format!("pids {}", limits.pids)), files, Some(format!("tmp {}", service.view.scratch_size))];
    let limits: Vec<String> = [memory, cpus].into_iter().chain(rest).flatten().collect();
    field(text, "limits", &limits.join(", "));
    field(text, "policy", &policy::policy_text(service));
    field(text, "programs", &policy::programs_text(&service.policy));
    field(text, "accepted", &policy::accepted_text(&service.policy));
}

/// What is external and a link leads to.
fn external<'p>(plan: &'p Plan, link: &LinkRule) -> Option<&'p ExternalPlan> {
    plan.external.iter().find(|external| external.name == link.to)
}

/// `db (ready), api ×3 (started, if it can be)`
pub(crate) fn waits_for(plan: &Plan, service: &ServicePlan) -> String {
    let mut by_condition: Vec<(String, Vec<&ServiceName>)> = Vec::new();
    for wait in &service.waits {
        let optional = if wait.required { "" } else { ", if it can be" };
        let again = if wait.restart { ", and starts again with it" } else { "" };
        let condition = format!("{}{optional}{again}", wait.condition.as_str());
        match by_condition.iter_mut().find(|(other, _)| *other == condition) {
            Some((_, names)) => names.push(&wait.on),
            None => by_condition.push((condition, vec![&wait.on])),
        }
    }
    let mut waits: Vec<String> = by_condition
        .into_iter()
        .flat_map(|(condition, names)| {
            plan.together(names).into_iter().map(move |name| format!("{name} ({condition})"))
        })
        .collect();
    waits.sort();
    waits.join(", ")
}

/// `api on 80/tcp, web on 80/tcp`
fn reached_by(plan: &Plan, name: &ServiceName) -> String {
    let mut reached: Vec<String> = plan
        .services
        .values()
        .flat_map(|other| other.links.iter().map(move |link| (&other.declared, link)))
        .filter(|(_, link)| plan.declared(&link.to) == name)
        .map(|(other, link)| format!("{other} on {}", link.port))
        .collect();
    once(&mut reached);
    reached.join(", ")
}

/// Takes out what replicas say again.
fn once(texts: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
}

pub(crate) fn hooks_text(hooks: &[HookCommand]) -> String {
    let hooks = hooks.iter().map(|hook| format!("`{}`", command_text(&hook.command.0)));
    hooks.collect::<Vec<_>>().join(", then ")
}

/// What the file says of logs; empty where it says nothing.
pub(crate) fn logs_text(logs: &LogRetention) -> String {
    let size = logs.max_size.map(|size| format!("files of {size}"));
    let files = logs.max_files.map(|files| format!("{files} full ones are kept"));
    let age = logs.max_age.map(|age| format!("removed after {}", duration(age)));
    [size, files, age].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn describe_view(plan: &Plan, view: &View, text: &mut String) {
    field(text, "user", &format!("{} ({}:{}), home {}", view.user, view.uid, view.gid, view.home.display()));
    let mounts = |wanted: &dyn Fn(&Bind) -> bool| -> String {
        let binds = view.binds.iter().filter(|bind| wanted(bind)).map(|bind| mount_text(plan, bind));
        binds.collect::<Vec<_>>().join(", ")
    };
    field(text, "writes", &mounts(&|bind| bind.writable));
    if let Some(repo) = &view.repo {
        let without: Vec<String> = repo
            .exclude
            .iter()
            .map(|rule| match rule {
                Exclude::Name(name) => name.clone(),
                Exclude::Prefix(prefix) => format!("{prefix}*"),
            })
            .collect();
        field(text, "reads", &format!("the project without {}", without.join(", ")));
    }
    field(text, "and reads", &mounts(&|bind| !bind.writable && bind.source != BindSource::Hidden));
    field(text, "but not", &mounts(&|bind| bind.source == BindSource::Hidden));
    let tmpfs: Vec<String> =
        view.tmpfs.iter().map(|(path, size)| format!("{} ({size})", path.display())).collect();
    field(text, "tmpfs", &tmpfs.join(", "));
    let files = view.secret_files.iter().map(|(name, path)| format!("{name} in {}", path.display()));
    let variables = view.secret_env.iter().map(|(name, variable)| format!("{name} as ${variable}"));
    field(text, "secrets", &files.chain(variables).collect::<Vec<_>>().join(", "));
}

fn mount_text(plan: &Plan, bind: &Bind) -> String {
    let target = shown(&plan.root, &bind.target);
    match &bind.source {
        BindSource::Host(path) if *path == bind.target => target,
        BindSource::Host(path) => format!("{target} (is {})", shown(&plan.root, path)),
        BindSource::Volume(volume) => format!("{target} (volume {volume})"),
        BindSource::Hidden => target,
    }
}

/// As a shell would want it, so that it can be copied.
pub(crate) fn command_text(argv: &[String]) -> String {
    let words = argv.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What must be true: "`pg_isready` exits with 0".
fn condition_text(kind: &ProbeKind) -> String {
    match kind {
        ProbeKind::Exec(exec) => format!("`{}` exits with 0", exec.0.join(" ")),
        ProbeKind::Http { port, path, headers, status, body } => {
            // A header's value may be private.
            let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            let asked =
                if names.is_empty() { String::new() } else { format!(" (with {})", names.join(", ")) };
            let status: Vec<String> = status
                .iter()
                .map(|(from, to)| if from == to { from.to_string() } else { format!("{from} to {to}") })
                .collect();
            let status =
                if status.is_empty() { String::new() } else { format!(" with {}", status.join(" or ")) };
            let body = body.as_ref().map(|body| format!(" and a body that matches `{body}`"));
            format!("http :{port}{path}{asked} answers{status}{}", body.unwrap_or_default())
        }
        ProbeKind::Tcp { port } => format!("tcp :{port} answers"),
        ProbeKind::Log { pattern } => format!("its log matches `{pattern}`"),
        ProbeKind::Notify => "it says so (sd_notify)".to_owned(),
        ProbeKind::Grpc { port, service } if service.is_empty() => {
            format!("grpc :{port} says that it serves")
        }
        ProbeKind::Grpc { port, service } => format!("grpc :{port} says that it serves `{service}`"),
    }
}

pub(crate) fn probe_text(probe: &Probe) -> String {
    format!("when {}, within {}", condition_text(&probe.kind), duration(probe.within))
}

pub(crate) fn liveness_text(probe: &Probe) -> String {
    let interval = duration(probe.interval);
    match &probe.kind {
        ProbeKind::Notify => format!("while it says so every {interval} (sd_notify, WATCHDOG=1)"),
        ProbeKind::Exec(_)
        | ProbeKind::Http { .. }
        | ProbeKind::Tcp { .. }
        | ProbeKind::Log { .. }
        | ProbeKind::Grpc { .. } => {
            let failures = match probe.failures {
                1 => "one failure".to_owned(),
                n => format!("{n} failures in a row"),
            };
            format!("while {}, asked every {interval}, until {failures}", condition_text(&probe.kind))
        }
    }
}

pub(crate) fn restart_text(service: &ServicePlan) -> String {
    let restart = &service.restart;
    let when = match restart.policy {
        RestartPolicy::No => return "no".to_owned(),
        RestartPolicy::OnFailure => "on failure",
        RestartPolicy::Always => "always",
    };
    let max = restart.max.map(|max| format!(", at most {max} in a row")).unwrap_or_default();
    format!("{when}{max}, after {} to {}", duration(restart.backoff_min), duration(restart.backoff_max))
}

pub(crate) fn stop_text(service: &ServicePlan) -> String {
    let stop = &service.stop;
    let first = stop.command.as_ref().map(|stop| format!("`{}`, then ", command_text(&stop.0)));
    let signal = signal_name(stop.signal);
    format!("{}{signal}, killed after {}", first.unwrap_or_default(), duration(stop.grace))
}

/// `127.0.0.1:8080 to 80/tcp`
pub(crate) fn publish_text(port: &Publish) -> String {
    let host = match port.host_port {
        Some(number) => SocketAddr::new(port.host, number).to_string(),
        None => format!("a free port of {}", port.host),
    };
    format!("{host} to {}/{}", port.port, port.protocol)
}

/// The plan as JSON, with the same contents.
#[must_use]
pub fn to_json(plan: &Plan) -> Value {
    let services: Vec<Value> = plan.services.values().map(service_json).collect();
    let channels: Vec<Value> = plan
        .channels
        .iter()
        .map(
            |channel| json!({ "what": channel.what, "writers": channel.writers, "readers": channel.readers }),
        )
        .collect();
    let warnings: Vec<Value> = plan
        .warnings
        .iter()
        .map(|warning| {
            json!({
                "code": warning.code,
                "at": warning.at.to_string(),
                "message": warning.message,
                "help": warning.help,
            })
        })
        .collect();
    let external: Vec<Value> = plan
        .external
        .iter()
        .map(|external| {
            json!({
                "name": external.name,
                "address": external.address.to_string(),
                "port": external.port,
                "elsewhere": elsewhere(external),
            })
        })
        .collect();
    let requires: Vec<Value> =
        plan.requires.iter().map(|it| json!({ "program": it.program, "version": it.version })).collect();
    json!({
        "name": plan.name,
        "root": plan.root.to_string_lossy(),
        "subnet": plan.subnet.to_string(),
        "gateway": plan.subnet.gateway().to_string(),
        "level": plan.required,
        "level_because": plan.required_because,
        "requires": requires,
        "volumes": plan.volumes,
        "external": external,
        "waves": plan.waves,
        "services": services,
        "channels": channels,
        "warnings": warnings,
    })
}

fn service_json(service: &ServicePlan) -> Value {
    let view = &service.view;
    let waits: Vec<Value> = service
        .waits
        .iter()
        .map(|wait| {
            json!({
                "on": wait.on,
                "condition": wait.condition,
                "required": wait.required,
                "restart": wait.restart,
            })
        })
        .collect();
    let links: Vec<Value> = service
        .links
        .iter()
        .map(|link| {
            json!({
                "to": link.to,
                "address": link.address.to_string(),
                "port": link.port.port,
                "protocol": link.port.protocol,
            })
        })
        .collect();
    let ports: Vec<Value> = service
        .publish
        .iter()
        .map(|port| {
            json!({
                "host": port.host.to_string(),
                "host_port": port.host_port,
                "port": port.port,
                "protocol": port.protocol,
            })
        })
        .collect();
    let mounts: Vec<Value> = view
        .binds
        .iter()
        .map(|bind| {
            let (kind, source) = match &bind.source {
                BindSource::Host(path) => ("host", Some(path.to_string_lossy().into_owned())),
                BindSource::Volume(volume) => ("volume", Some(volume.to_string())),
                BindSource::Hidden => ("hidden", None),
            };
            json!({
                "kind": kind,
                "source": source,
                "target": bind.target.to_string_lossy(),
                "writable": bind.writable,
            })
        })
        .collect();
    let without: Vec<String> = view
        .repo
        .iter()
        .flat_map(|repo| &repo.exclude)
        .map(|rule| match rule {
            Exclude::Name(name) => name.clone(),
            Exclude::Prefix(prefix) => format!("{prefix}*"),
        })
        .collect();
    let tmpfs: Vec<Value> = view
        .tmpfs
        .iter()
        .map(|(path, size)| json!({ "target": path.to_string_lossy(), "bytes": size.0 }))
        .collect();
    let secrets: Vec<Value> = view
        .secret_files
        .iter()
        .map(|(name, path)| json!({ "name": name, "file": path.to_string_lossy(), "variable": null }))
        .chain(
            view.secret_env
                .iter()
                .map(|(name, variable)| json!({ "name": name, "file": null, "variable": variable })),
        )
        .collect();
    let hooks = |hooks: &[HookCommand]| -> Vec<Value> {
        hooks
            .iter()
            .map(|hook| json!({ "command": hook.command.0, "timeout_ms": millis(hook.timeout) }))
            .collect()
    };
    json!({
        "service": service.name,
        "declared": service.declared,
        "replica": service.replica,
        "type": service.kind,
        "address": service.address.to_string(),
        "command": service.run.argv,
        "working_dir": service.run.cwd.to_string_lossy(),
        "build": service.build.as_ref().map(|build| &build.argv),
        "waits": waits,
        "links": links,
        "ports": ports,
        "user": { "name": view.user, "uid": view.uid, "gid": view.gid, "home": view.home.to_string_lossy() },
        "project_without": without,
        "mounts": mounts,
        "tmpfs": tmpfs,
        "secrets": secrets,
        "startup": service.startup.as_ref().map(probe_text),
        "ready": service.ready.as_ref().map(probe_text),
        "liveness": service.liveness.as_ref().map(liveness_text),
        "hooks": {
            "pre_start": hooks(&service.hooks.pre_start),
            "post_start": hooks(&service.hooks.post_start),
            "pre_stop": hooks(&service.hooks.pre_stop),
        },
        "stdin": if service.open_stdin { "open" } else { "closed" },
        "tty": service.tty,
        "logs": {
            "max_bytes": service.logs.max_size.map(|size| size.0),
            "max_files": service.logs.max_files,
            "max_age_ms": service.logs.max_age.map(millis),
        },
        "policy": policy::policy_json(&service.policy),
        "restart": restart_text(service),
        "stop": {
            "command": service.stop.command.as_ref().map(|command| &command.0),
            "signal": signal_name(service.stop.signal),
            "grace_ms": millis(service.stop.grace),
        },
        "success_exit_codes": service.success_exit_codes,
        "limits": {
            "memory_bytes": service.limits.memory.map(|memory| memory.0),
            "cpus": service.limits.cpus.map(|cpus| f64::from(cpus.0) / 1000.0),
            "pids": service.limits.pids,
            "files": service.limits.files,
            "tmp_bytes": view.scratch_size.0,
        },
    })
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
