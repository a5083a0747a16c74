//! The resolved workspace as a workspace file again: what `ws config` prints.

use std::fmt::Write as _;

use ws_model::{
    ConfigPath, LinkPorts, MountSource, ProbeKind, Publish, RestartPolicy, SecretSource, SecretTarget,
    Service, ServiceKind, Workspace,
};

use crate::raw::scalar::show_duration;
use crate::spans::SpanMap;

/// The resolved workspace as a workspace file again: long forms, absolute paths, variables replaced,
/// defaults filled in. Reading it gives the same workspace (env files apart: their variables stand in
/// the services).
///
/// With `origins`, where each value came from stands beside it as a comment.
#[must_use]
pub fn config(workspace: &Workspace, spans: &SpanMap, origins: bool) -> String {
    let mut out = Writer { text: String::new(), depth: 0, spans: origins.then_some(spans), workspace };
    let root = ConfigPath::root();
    out.value("name", &plain(workspace.name.as_str()), &root.key("name"));
    if let Some(level) = workspace.enforcement {
        out.value("enforcement", level.as_str(), &root.key("enforcement"));
    }
    out.value("network", &format!("{{ subnet: {} }}", workspace.subnet), &root.key("network").key("subnet"));
    if !workspace.volumes.is_empty() {
        out.open("volumes");
        for (name, volume) in &workspace.volumes {
            let at = root.key("volumes").key(name);
            out.value(name.as_str(), &format!("{{ shared: {} }}", volume.shared), &at.key("shared"));
        }
        out.close();
    }
    if !workspace.secrets.is_empty() {
        out.open("secrets");
        for (name, secret) in &workspace.secrets {
            let at = root.key("secrets").key(name);
            let (key, value) = match secret {
                SecretSource::File(path) => ("file", path.display().to_string()),
                SecretSource::Environment(variable) => ("environment", variable.clone()),
            };
            out.value(name.as_str(), &format!("{{ {key}: {} }}", quoted(&value)), &at.key(key));
        }
        out.close();
    }
    out.open("services");
    for (name, service) in &workspace.services {
        out.open(name.as_str());
        out.service(service, &ConfigPath::service(name));
        out.close();
    }
    out.close();
    out.text
}

struct Writer<'a> {
    text: String,
    depth: usize,
    spans: Option<&'a SpanMap>,
    workspace: &'a Workspace,
}

impl Writer<'_> {
    fn open(&mut self, key: &str) {
        self.line(&format!("{}:", plain(key)), None);
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
    }

    fn value(&mut self, key: &str, value: &str, at: &ConfigPath) {
        self.line(&format!("{}: {value}", plain(key)), Some(at));
    }

    /// A list, an entry a line; an absent one is not written.
    fn list(&mut self, key: &str, at: &ConfigPath, items: impl IntoIterator<Item = String>) {
        let mut items = items.into_iter().enumerate().peekable();
        if items.peek().is_none() {
            return;
        }
        self.open(key);
        for (index, item) in items {
            self.line(&format!("- {item}"), Some(&at.key(key).index(index)));
        }
        self.close();
    }

    fn line(&mut self, content: &str, at: Option<&ConfigPath>) {
        let indent = "  ".repeat(self.depth);
        let _ = write!(self.text, "{indent}{content}");
        if let (Some(spans), Some(at)) = (self.spans, at) {
            let _ = write!(self.text, "  # {}", spans.origin(at, &self.workspace.root));
        }
        self.text.push('\n');
    }

    fn service(&mut self, service: &Service, at: &ConfigPath) {
        let kind = match service.kind {
            ServiceKind::Service => "service",
            ServiceKind::Task => "task",
        };
        self.value("kind", kind, &at.key("kind"));
        self.value("command", &words(&service.command.0), &at.key("command"));
        if let Some(build) = &service.build {
            let command = format!("{{ command: {} }}", words(&build.command.0));
            self.value("build", &command, &at.key("build").key("command"));
        }
        if service.working_dir_declared {
            self.value("working_dir", &path(&service.working_dir), &at.key("working_dir"));
        }
        self.list("writable", at, service.writable.iter().map(|dir| path(dir)));
        self.list("reads", at, service.reads.iter().map(|file| path(file)));
        if !service.environment.is_empty() {
            self.open("environment");
            for (name, value) in &service.environment {
                self.value(name, &quoted(value), &at.key("environment").key(name));
            }
            self.close();
        }
        if !service.depends_on.is_empty() {
            self.open("depends_on");
            for (index, dependency) in service.depends_on.iter().enumerate() {
                let condition = dependency
                    .condition
                    .map_or(String::new(), |it| format!("condition: {it}, ", it = it.as_str()));
                let value = format!("{{ {condition}required: {} }}", dependency.required);
                self.value(dependency.service.as_str(), &value, &at.key("depends_on").index(index));
            }
            self.close();
        }
        self.list(
            "links",
            at,
            service.links.iter().map(|link| {
                let ports = match &link.ports {
                    LinkPorts::Declared => String::new(),
                    LinkPorts::These(ports) => {
                        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                        format!("ports: [{}], ", ports.join(", "))
                    }
                };
                format!("{{ to: {}, {ports}wait: {} }}", quoted(link.to.as_str()), link.wait)
            }),
        );
        self.list("expose", at, service.expose.iter().map(ToString::to_string));
        self.list("ports", at, service.ports.iter().map(publish));
        self.list(
            "volumes",
            at,
            service.volumes.iter().map(|mount| {
                let source = match &mount.source {
                    MountSource::Volume(name) => quoted(name.as_str()),
                    MountSource::Host(dir) => path(dir),
                };
                format!(
                    "{{ source: {source}, target: {}, read_only: {} }}",
                    path(&mount.target),
                    mount.read_only
                )
            }),
        );
        self.list(
            "tmpfs",
            at,
            service.tmpfs.iter().map(|one| {
                let size = one.size.map_or(String::new(), |size| format!(", size: {size}"));
                format!("{{ target: {}{size} }}", path(&one.target))
            }),
        );
        self.list(
            "secrets",
            at,
            service.secrets.iter().map(|one| match &one.target {
                SecretTarget::File => quoted(one.name.as_str()),
                SecretTarget::Env(variable) => {
                    format!("{{ {}: {{ env: {} }} }}", quoted(one.name.as_str()), quoted(variable))
                }
            }),
        );
        if let Some(probe) = &service.ready {
            let at = at.key("ready");
            self.open("ready");
            let (key, value) = match &probe.kind {
                ProbeKind::Exec(command) => ("exec", words(&command.0)),
                ProbeKind::Http { port, path, .. } => ("http", quoted(&format!(":{port}{path}"))),
                ProbeKind::Tcp { port } => ("tcp", quoted(&format!(":{port}"))),
                ProbeKind::Log { pattern } => ("log", quoted(pattern)),
                ProbeKind::Notify => ("notify", "true".to_owned()),
                ProbeKind::Grpc { port, service } => ("grpc", quoted(&format!(":{port}/{service}"))),
            };
            self.value(key, &value, &at.key(key));
            for (key, time) in
                [("interval", probe.interval), ("timeout", probe.timeout), ("within", probe.within)]
            {
                self.value(key, &show_duration(time), &at.key(key));
            }
            self.close();
        }
        let restart = &service.restart;
        self.open("restart");
        let policy = match restart.policy {
            RestartPolicy::No => "\"no\"",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Always => "always",
        };
        self.value("policy", policy, &at.key("restart").key("policy"));
        if let Some(max) = restart.max {
            self.value("max", &max.to_string(), &at.key("restart").key("max"));
        }
        let backoff =
            format!("{}..{}", show_duration(restart.backoff_min), show_duration(restart.backoff_max));
        self.value("backoff", &backoff, &at.key("restart").key("backoff"));
        self.close();
        self.open("stop");
        self.value(
            "signal",
            &ws_model::event::signal_name(service.stop.signal),
            &at.key("stop").key("signal"),
        );
        self.value("grace", &show_duration(service.stop.grace), &at.key("stop").key("grace"));
        self.close();
        let limits = &service.limits;
        let limits = [
            ("memory", limits.memory.map(|it| it.to_string())),
            ("cpus", limits.cpus.map(|it| it.to_string())),
            ("pids", limits.pids.map(|it| it.to_string())),
            ("files", limits.files.map(|it| it.to_string())),
            ("tmp", limits.tmp.map(|it| it.to_string())),
        ];
        if limits.iter().any(|(_, limit)| limit.is_some()) {
            self.open("limits");
            for (key, limit) in limits {
                if let Some(limit) = limit {
                    self.value(key, &limit, &at.key("limits").key(key));
                }
            }
            self.close();
        }
    }
}

fn words(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

fn path(path: &std::path::Path) -> String {
    quoted(&path.display().to_string())
}

fn publish(publish: &Publish) -> String {
    let host = match publish.host {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    quoted(&format!("{host}:{}:{}", publish.host_port.unwrap_or(0), publish.port))
}

/// A key or name: quoted where YAML would take it for something else than a text.
fn plain(key: &str) -> String {
    let safe = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        && !matches!(
            key.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if safe { key.to_owned() } else { quote(key) }
}

/// A value in double quotes, with `$` doubled so that it is not taken for a variable.
fn quoted(text: &str) -> String {
    quote(&text.replace('$', "$$"))
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
