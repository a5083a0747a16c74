//! The plan for people and for tools: `ws plan`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use ws_model::{Probe, ProbeKind, RestartPolicy, ServiceKind, event::signal_name};

use super::view::shown;
use super::{Bind, BindSource, Exclude, Plan, Run, ServicePlan, View};
use crate::text::duration;

/// The plan as text: everything that is decided, by service.
#[must_use]
pub fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}  {}", plan.name, plan.root.display());
    field(&mut text, "network", &format!("{}, gateway {}", plan.subnet, plan.subnet.gateway()));
    field(&mut text, "level", &format!("{} ({})", plan.required, plan.required_because));
    for (i, wave) in plan.waves.iter().enumerate() {
        let names: Vec<&str> = wave.iter().map(ws_model::ServiceName::as_str).collect();
        field(&mut text, if i == 0 { "start" } else { "then" }, &names.join(", "));
    }
    for service in plan.services.values() {
        describe_service(plan, service, &mut text);
    }
    if !plan.channels.is_empty() {
        text.push_str("\nchannels past the links\n");
        for channel in &plan.channels {
            let names = |names: &[ws_model::ServiceName]| {
                names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
            };
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

fn describe_service(plan: &Plan, service: &ServicePlan, text: &mut String) {
    let kind = match service.kind {
        ServiceKind::Service => "",
        ServiceKind::Task => "  (task)",
    };
    let _ = writeln!(text, "\n{}  {}{kind}", service.name, service.address);
    if let Some(build) = &service.build {
        field(text, "build", &command(build));
    }
    field(text, "command", &command(&service.run));
    field(text, "in", &shown(&plan.root, &service.run.cwd));
    let waits: Vec<String> = service
        .waits
        .iter()
        .map(|wait| {
            let optional = if wait.required { "" } else { ", if it can be" };
            format!("{} ({}{optional})", wait.on, wait.condition.as_str())
        })
        .collect();
    field(text, "waits for", &waits.join(", "));
    let reaches: Vec<String> =
        service.links.iter().map(|link| format!("{}:{}", link.to, link.port)).collect();
    field(text, "reaches", &if reaches.is_empty() { "nothing".to_owned() } else { reaches.join(", ") });
    let reached: Vec<String> = plan
        .services
        .values()
        .flat_map(|other| other.links.iter().map(move |link| (&other.name, link)))
        .filter(|(_, link)| link.to == service.name)
        .map(|(other, link)| format!("{other} on {}", link.port))
        .collect();
    field(text, "reached by", &reached.join(", "));
    let ports: Vec<String> = service
        .publish
        .iter()
        .map(|port| {
            let host = match port.host_port {
                Some(number) => format!("{}:{number}", port.host),
                None => format!("a free port of {}", port.host),
            };
            format!("{host} to {}/{}", port.port, port.protocol)
        })
        .collect();
    field(text, "published", &ports.join(", "));
    describe_view(plan, &service.view, text);
    if let Some(probe) = &service.ready {
        field(text, "ready", &probe_text(probe));
    }
    field(text, "restart", &restart_text(service));
    field(
        text,
        "stop",
        &format!("{}, killed after {}", signal_name(service.stop.signal), duration(service.stop.grace)),
    );
    let limits = &service.limits;
    let memory = limits.memory.map(|memory| format!("memory {memory}"));
    let cpus = limits.cpus.map(|cpus| format!("cpus {cpus}"));
    let files = limits.files.map(|files| format!("files {files}"));
    let rest =
        [Some(format!("pids {}", limits.pids)), files, Some(format!("tmp {}", service.view.scratch_size))];
    let limits: Vec<String> = [memory, cpus].into_iter().chain(rest).flatten().collect();
    field(text, "limits", &limits.join(", "));
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
fn command(run: &Run) -> String {
    let words = run.argv.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn probe_text(probe: &Probe) -> String {
    let what = match &probe.kind {
        ProbeKind::Exec(command) => format!("when `{}` exits with 0", command.0.join(" ")),
        ProbeKind::Http { port, path, .. } => format!("when http :{port}{path} answers"),
        ProbeKind::Tcp { port } => format!("when tcp :{port} answers"),
        ProbeKind::Log { pattern } => format!("when its log matches `{pattern}`"),
        ProbeKind::Notify => "when it says so (sd_notify)".to_owned(),
        ProbeKind::Grpc { port, .. } => format!("when grpc :{port} says that it serves"),
    };
    format!("{what}, within {}", duration(probe.within))
}

fn restart_text(service: &ServicePlan) -> String {
    let restart = &service.restart;
    let when = match restart.policy {
        RestartPolicy::No => return "no".to_owned(),
        RestartPolicy::OnFailure => "on failure",
        RestartPolicy::Always => "always",
    };
    let max = restart.max.map(|max| format!(", at most {max} in a row")).unwrap_or_default();
    format!("{when}{max}, after {} to {}", duration(restart.backoff_min), duration(restart.backoff_max))
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
    json!({
        "name": plan.name,
        "root": plan.root.to_string_lossy(),
        "subnet": plan.subnet.to_string(),
        "gateway": plan.subnet.gateway().to_string(),
        "level": plan.required,
        "level_because": plan.required_because,
        "volumes": plan.volumes,
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
        .map(|wait| json!({ "on": wait.on, "condition": wait.condition, "required": wait.required }))
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
    json!({
        "service": service.name,
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
        "ready": service.ready.as_ref().map(probe_text),
        "restart": restart_text(service),
        "stop": { "signal": signal_name(service.stop.signal), "grace_ms": millis(service.stop.grace) },
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
