//! The resolved workspace as a workspace file again: what `ws config` prints.

mod policy;

use std::fmt::Write as _;

use ws_model::{
    Build, BuildRef, ConfigPath, External, ExternalHost, HookCommand, Limits, LinkPorts, Mount, MountSource,
    PathPattern, Poll, Probe, ProbeKind, Publish, Reload, RestartPolicy, SecretSource, SecretTarget, Service,
    ServiceKind, Stdin, WatchAction, WatchEntry, Watching, Workspace,
};

use crate::raw::reload::HOLD;
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
    if !workspace.external.is_empty() {
        out.open("external");
        for (name, external) in &workspace.external {
            out.value(name.as_str(), &quoted(&outside(external)), &root.key("external").key(name));
        }
        out.close();
    }
    if !workspace.requires.is_empty() {
        out.open("requires");
        for one in &workspace.requires {
            out.value(&one.program, &quoted(&one.version), &root.key("requires").key(&one.program));
        }
        out.close();
    }
    if !workspace.builds.is_empty() {
        out.open("builds");
        for (name, build) in &workspace.builds {
            out.open(name.as_str());
            out.build(build, None, &root.key("builds").key(name));
            out.close();
        }
        out.close();
    }
    if let Some(most) = workspace.parallel_builds {
        out.value("parallel_builds", &most.to_string(), &root.key("parallel_builds"));
    }
    let is_watched = |it: &Service| it.build.is_some() || it.watch.is_some() || it.inputs.is_some();
    if workspace.watching != Watching::default() || workspace.services.values().any(is_watched) {
        out.watching(&workspace.watching, &root);
    }
    out.policy(&workspace.policy, &root);
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
            ServiceKind::Build => "build",
        };
        self.value("kind", kind, &at.key("kind"));
        self.value("command", &words(&service.command.0), &at.key("command"));
        match &service.build {
            None => {}
            Some(BuildRef::Own(build)) => {
                self.open("build");
                self.build(build, Some(service), &at.key("build"));
                self.close();
            }
            Some(BuildRef::Shared { name, uses }) if uses.is_empty() => {
                self.value("build", &plain(name.as_str()), &at.key("build"));
            }
            Some(BuildRef::Shared { name, uses }) => {
                let at = at.key("build");
                self.open("build");
                self.value("name", &plain(name.as_str()), &at.key("name"));
                self.list("uses", &at, uses.iter().map(|path| pattern(path, &service.working_dir)));
                self.close();
            }
        }
        self.reloading(service, at);
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
                let value = format!(
                    "{{ {condition}required: {}, restart: {} }}",
                    dependency.required, dependency.restart
                );
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
        self.list("volumes", at, service.volumes.iter().map(mount));
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
        for (key, probe) in
            [("startup", &service.startup), ("ready", &service.ready), ("liveness", &service.liveness)]
        {
            if let Some(probe) = probe {
                self.probe(key, probe, at);
            }
        }
        for (key, hooks) in [
            ("pre_start", &service.hooks.pre_start),
            ("post_start", &service.hooks.post_start),
            ("pre_stop", &service.hooks.pre_stop),
        ] {
            self.list(key, at, hooks.iter().map(hook));
        }
        if service.replicas != 1 {
            self.value("replicas", &service.replicas.to_string(), &at.key("replicas"));
        }
        if !service.success_exit_codes.is_empty() {
            let codes: Vec<_> = service.success_exit_codes.iter().map(ToString::to_string).collect();
            let codes = format!("[{}]", codes.join(", "));
            self.value("success_exit_codes", &codes, &at.key("success_exit_codes"));
        }
        match service.stdin {
            Stdin::Default => {}
            Stdin::Open => self.value("stdin", "open", &at.key("stdin")),
            Stdin::Closed => self.value("stdin", "closed", &at.key("stdin")),
        }
        if service.tty {
            self.value("tty", "true", &at.key("tty"));
        }
        let logs = &service.logs;
        let logs = [
            ("max_size", logs.max_size.map(|it| it.to_string())),
            ("max_files", logs.max_files.map(|it| it.to_string())),
            ("max_age", logs.max_age.map(show_duration)),
        ];
        self.given("logs", logs, at);
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
        if let Some(command) = &service.stop.command {
            self.value("command", &words(&command.0), &at.key("stop").key("command"));
        }
        self.value(
            "signal",
            &ws_model::event::signal_name(service.stop.signal),
            &at.key("stop").key("signal"),
        );
        self.value("grace", &show_duration(service.stop.grace), &at.key("stop").key("grace"));
        self.close();
        self.limits(&service.limits, at);
        self.policy(&service.policy, at);
    }

    fn limits(&mut self, limits: &Limits, at: &ConfigPath) {
        let limits = [
            ("memory", limits.memory.map(|it| it.to_string())),
            ("cpus", limits.cpus.map(|it| it.to_string())),
            ("pids", limits.pids.map(|it| it.to_string())),
            ("files", limits.files.map(|it| it.to_string())),
            ("tmp", limits.tmp.map(|it| it.to_string())),
        ];
        self.given("limits", limits, at);
    }

    /// A build; of one of a service's own, what it has beside its service.
    fn build(&mut self, build: &Build, service: Option<&Service>, at: &ConfigPath) {
        let dir = &build.working_dir;
        let patterns =
            |all: &[PathPattern]| -> Vec<String> { all.iter().map(|path| pattern(path, dir)).collect() };
        self.value("command", &words(&build.command.0), &at.key("command"));
        if let Some(fetch) = &build.fetch {
            let at = at.key("fetch");
            self.open("fetch");
            self.value("command", &words(&fetch.command.0), &at.key("command"));
            self.list("inputs", &at, patterns(&fetch.inputs));
            self.close();
        }
        self.list("inputs", at, patterns(&build.inputs));
        self.list("ignore", at, build.ignore.iter().map(|path| ignored(path, dir)));
        self.list("outputs", at, patterns(&build.outputs));
        let same_dir = service.is_some_and(|it| {
            (&it.working_dir, it.working_dir_declared) == (dir, build.working_dir_declared)
        });
        if build.working_dir_declared && !same_dir {
            self.value("working_dir", &path(dir), &at.key("working_dir"));
        }
        let of_service = |name: &str| service.and_then(|it| it.environment.get(name));
        let environment: Vec<_> =
            build.environment.iter().filter(|(name, value)| of_service(name) != Some(*value)).collect();
        if !environment.is_empty() {
            self.open("environment");
            for (name, value) in environment {
                self.value(name, &quoted(value), &at.key("environment").key(name));
            }
            self.close();
        }
        let new = |path: &&std::path::PathBuf, all: fn(&Service) -> &Vec<std::path::PathBuf>| {
            !service.is_some_and(|it| all(it).contains(*path))
        };
        let writable = build.writable.iter().filter(|path| new(path, |it| &it.writable));
        self.list("writable", at, writable.map(|dir| path(dir)));
        let reads = build.reads.iter().filter(|path| new(path, |it| &it.reads));
        self.list("reads", at, reads.map(|file| path(file)));
        let volumes = build.volumes.iter().filter(|one| !service.is_some_and(|it| it.volumes.contains(one)));
        self.list("volumes", at, volumes.map(mount));
        self.list("after", at, build.after.iter().map(|name| plain(name.as_str())));
        self.limits(&build.limits, at);
    }

    fn reloading(&mut self, service: &Service, at: &ConfigPath) {
        let dir = &service.working_dir;
        if let Some(inputs) = &service.inputs {
            self.list_or_none("inputs", at, inputs.iter().map(|path| pattern(path, dir)).collect());
        }
        if let Some(entries) = &service.watch {
            self.list_or_none("watch", at, entries.iter().map(|entry| watched(entry, dir)).collect());
        }
        match service.reload {
            Reload::Restart => {}
            Reload::Overlap => self.value("reload", "overlap", &at.key("reload")),
        }
        let sockets = service.listen.iter();
        self.list(
            "listen",
            at,
            sockets.map(|one| format!("{{ port: {}, name: {} }}", one.port, quoted(&one.name))),
        );
        // Only connections to published ports wait.
        if service.hold != HOLD || !service.ports.is_empty() {
            self.value("hold", &show_duration(service.hold), &at.key("hold"));
        }
    }

    fn watching(&mut self, watching: &Watching, root: &ConfigPath) {
        let at = root.key("watch");
        let dir = self.workspace.root.clone();
        self.open("watch");
        self.value("debounce", &show_duration(watching.debounce), &at.key("debounce"));
        self.list("ignore", &at, watching.ignore.iter().map(|path| ignored(path, &dir)));
        self.value("gitignore", &watching.gitignore.to_string(), &at.key("gitignore"));
        let poll = match watching.poll {
            Poll::Auto => "auto".to_owned(),
            Poll::Never => "never".to_owned(),
            Poll::Every(pause) => show_duration(pause),
        };
        self.value("poll", &poll, &at.key("poll"));
        self.close();
    }

    /// A list of which none means something else than an empty one.
    fn list_or_none(&mut self, key: &str, at: &ConfigPath, items: Vec<String>) {
        if items.is_empty() {
            self.value(key, "[]", &at.key(key));
        } else {
            self.list(key, at, items);
        }
    }

    /// A mapping with those of its values that are given; without any it is not written.
    fn given<const N: usize>(&mut self, key: &str, values: [(&str, Option<String>); N], at: &ConfigPath) {
        if values.iter().all(|(_, value)| value.is_none()) {
            return;
        }
        self.open(key);
        for (name, value) in values {
            if let Some(value) = value {
                self.value(name, &value, &at.key(key).key(name));
            }
        }
        self.close();
    }

    fn probe(&mut self, role: &str, probe: &Probe, at: &ConfigPath) {
        let at = at.key(role);
        self.open(role);
        match &probe.kind {
            ProbeKind::Exec(command) => self.value("exec", &words(&command.0), &at.key("exec")),
            ProbeKind::Http { port, path, headers, status, body } => {
                self.http(&format!(":{port}{path}"), headers, status, body.as_deref(), &at.key("http"));
            }
            ProbeKind::Tcp { port } => self.value("tcp", &quoted(&format!(":{port}")), &at.key("tcp")),
            ProbeKind::Log { pattern } => self.value("log", &quoted(pattern), &at.key("log")),
            ProbeKind::Notify => self.value("notify", "true", &at.key("notify")),
            ProbeKind::Grpc { port, service } if service.is_empty() => {
                self.value("grpc", &quoted(&format!(":{port}")), &at.key("grpc"));
            }
            ProbeKind::Grpc { port, service } => {
                self.value("grpc", &quoted(&format!(":{port}/{service}")), &at.key("grpc"));
            }
        }
        // Those that the probe has in this place.
        let (startup, liveness) = (role == "startup", role == "liveness");
        let times = [
            ("start_interval", probe.start_interval, !liveness),
            ("interval", probe.interval, !startup),
            ("timeout", probe.timeout, true),
            ("within", probe.within, !liveness),
        ];
        for (key, time, _) in times.into_iter().filter(|(_, _, has_it)| *has_it) {
            self.value(key, &show_duration(time), &at.key(key));
        }
        if !startup {
            self.value("failures", &probe.failures.to_string(), &at.key("failures"));
        }
        self.close();
    }

    fn http(
        &mut self,
        url: &str,
        headers: &[(String, String)],
        status: &[(u16, u16)],
        body: Option<&str>,
        at: &ConfigPath,
    ) {
        if headers.is_empty() && status.is_empty() && body.is_none() {
            self.value("http", &quoted(url), at);
            return;
        }
        self.open("http");
        self.value("url", &quoted(url), &at.key("url"));
        if !headers.is_empty() {
            self.open("headers");
            for (name, value) in headers {
                self.value(name, &quoted(value), &at.key("headers").key(name));
            }
            self.close();
        }
        let ranges = status.iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => quoted(&format!("{first}-{last}")),
        });
        self.list("status", at, ranges);
        if let Some(body) = body {
            self.value("body", &quoted(body), &at.key("body"));
        }
        self.close();
    }
}

fn hook(hook: &HookCommand) -> String {
    format!("{{ command: {}, timeout: {} }}", words(&hook.command.0), show_duration(hook.timeout))
}

fn mount(mount: &Mount) -> String {
    let source = match &mount.source {
        MountSource::Volume(name) => quoted(name.as_str()),
        MountSource::Host(dir) => path(dir),
    };
    format!("{{ source: {source}, target: {}, read_only: {} }}", path(&mount.target), mount.read_only)
}

/// A path or glob, relative to `dir` where that leads to the same directory.
fn pattern(pattern: &PathPattern, dir: &std::path::Path) -> String {
    quoted(&pattern_text(pattern, dir))
}

/// One that is ignored, where a name without a slash means another thing.
fn ignored(pattern: &PathPattern, dir: &std::path::Path) -> String {
    let text = pattern_text(pattern, dir);
    let is_name = !text.contains('/') && !matches!(text.as_str(), "." | "..");
    quoted(&if is_name { format!("./{text}") } else { text })
}

fn pattern_text(pattern: &PathPattern, dir: &std::path::Path) -> String {
    let text = &pattern.pattern;
    let Ok(below) = dir.strip_prefix(&pattern.base) else {
        return match text.as_str() {
            "." => pattern.base.display().to_string(),
            _ => pattern.base.join(text).display().to_string(),
        };
    };
    let up = "../".repeat(below.components().count());
    match text.as_str() {
        "." if up.is_empty() => ".".to_owned(),
        "." => up.trim_end_matches('/').to_owned(),
        // Else it would be a home, or take something back.
        text if up.is_empty() && text.starts_with(['~', '!']) => format!("./{text}"),
        text => format!("{up}{text}"),
    }
}

fn watched(entry: &WatchEntry, dir: &std::path::Path) -> String {
    let action = match entry.action {
        WatchAction::Rebuild => "rebuild".to_owned(),
        WatchAction::Restart => "restart".to_owned(),
        WatchAction::Signal(signal) => format!("{{ signal: {} }}", ws_model::event::signal_name(signal)),
        WatchAction::None => "none".to_owned(),
    };
    let ignore: Vec<_> = entry.ignore.iter().map(|path| ignored(path, dir)).collect();
    let ignore = if ignore.is_empty() { String::new() } else { format!(", ignore: [{}]", ignore.join(", ")) };
    format!("{{ path: {}, action: {action}{ignore} }}", pattern(&entry.path, dir))
}

fn outside(external: &External) -> String {
    match &external.host {
        ExternalHost::Loopback => format!("host:{}", external.port),
        ExternalHost::Address(address) => format!("{address}:{}", external.port),
        ExternalHost::Name(name) => format!("{name}:{}", external.port),
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
