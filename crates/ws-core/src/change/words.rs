//! The words of a difference: as the file says it where the file has a word, and never with a value that may be
//! private.

use std::fmt::Display;
use std::path::Path;

use ws_model::{
    HookCommand, Listen, LogRetention, PathPattern, Poll, Probe, Publish, Reload, SecretSource, WatchAction,
    Watching, event::signal_name,
};

use crate::plan::{self, Bind, BindSource, FileSet, Makes, Plan, ServicePlan, WatchRule};
use crate::text::{duration, some};

pub(super) use crate::plan::waits_for;

/// `limits.memory: 512M becomes 1G`
pub(super) fn became(what: &str, from: impl Display, to: impl Display) -> String {
    format!("{what}: {from} becomes {to}")
}

/// The same for what is shown in part: where the parts are the same, something else is different.
pub(super) fn other(what: &str, from: &str, to: &str) -> String {
    if from == to { format!("{what}: other details") } else { became(what, from, to) }
}

pub(super) fn or_nothing(text: String) -> String {
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// `a, b, c and 2 more`
pub(super) fn listed(parts: impl Iterator<Item = String>) -> String {
    some(&parts.collect::<Vec<_>>())
}

/// A path as the file would say it: `./data` in the project, else absolute.
pub(super) fn place(plan: &Plan, path: &Path) -> String {
    match path.strip_prefix(&plan.root) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => format!("./{}", rest.display()),
        Err(_) => path.display().to_string(),
    }
}

/// Where a secret comes from: `./key`, `$KEY`
pub(super) fn source(plan: &Plan, source: &SecretSource) -> String {
    match source {
        SecretSource::File(path) => place(plan, path),
        SecretSource::Environment(variable) => format!("${variable}"),
    }
}

/// `src/**/*.rs`, relative to the project where it is in it.
pub(super) fn pattern_text(plan: &Plan, pattern: &PathPattern) -> String {
    let base = pattern.base.strip_prefix(&plan.root).unwrap_or(&pattern.base);
    let path = if pattern.pattern == "." { base.to_path_buf() } else { base.join(&pattern.pattern) };
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

fn patterns(plan: &Plan, patterns: &[PathPattern]) -> String {
    or_nothing(listed(patterns.iter().map(|pattern| pattern_text(plan, pattern))))
}

/// `src (rebuild)`
pub(super) fn rule_text(plan: &Plan, rule: &WatchRule) -> String {
    let files = listed(rule.files.include.iter().map(|pattern| pattern_text(plan, pattern)));
    let action = match rule.action {
        WatchAction::Rebuild => "rebuild".to_owned(),
        WatchAction::Restart => "restart".to_owned(),
        WatchAction::Signal(signal) => signal_name(signal),
        WatchAction::None => "nothing".to_owned(),
    };
    format!("{files} ({action})")
}

pub(super) fn makes_lines(plan: &Plan, from: Option<&Makes>, to: Option<&Makes>) -> Vec<String> {
    let mut lines = Vec::new();
    let inputs = |makes: Option<&Makes>| makes.map(|makes| set_text(plan, &makes.inputs));
    let outputs =
        |makes: Option<&Makes>| makes.and_then(|makes| makes.outputs.as_ref().map(|it| set_text(plan, it)));
    for (what, from, to) in [("inputs", inputs(from), inputs(to)), ("outputs", outputs(from), outputs(to))] {
        if from != to {
            let text = |it: Option<String>| it.unwrap_or_else(|| "not declared".to_owned());
            lines.push(became(what, text(from), text(to)));
        }
    }
    lines
}

fn set_text(plan: &Plan, set: &FileSet) -> String {
    let without = if set.ignore.is_empty() {
        String::new()
    } else {
        format!(" without {}", patterns(plan, &set.ignore))
    };
    format!("{}{without}", patterns(plan, &set.include))
}

pub(super) fn watching_lines(plan: &Plan, from: &Watching, to: &Watching) -> Vec<String> {
    let Watching { debounce, ignore, gitignore, poll } = to;
    let mut lines = Vec::new();
    if *debounce != from.debounce {
        lines.push(became("watch.debounce", duration(from.debounce), duration(*debounce)));
    }
    if *ignore != from.ignore {
        lines.push(became("watch.ignore", patterns(plan, &from.ignore), patterns(plan, ignore)));
    }
    if *gitignore != from.gitignore {
        lines.push(became("watch.gitignore", from.gitignore, gitignore));
    }
    if *poll != from.poll {
        let text = |poll: Poll| match poll {
            Poll::Auto => "auto".to_owned(),
            Poll::Never => "never".to_owned(),
            Poll::Every(pause) => format!("every {}", duration(pause)),
        };
        lines.push(became("watch.poll", text(from.poll), text(*poll)));
    }
    lines
}

pub(super) fn listens(listen: &[Listen]) -> String {
    let plain = |one: &Listen| one.name == one.port.to_string();
    let text =
        |one: &Listen| if plain(one) { one.name.clone() } else { format!("{} ({})", one.port, one.name) };
    or_nothing(listed(listen.iter().map(text)))
}

pub(super) fn reload(reload: Reload) -> &'static str {
    match reload {
        Reload::Restart => "restart",
        Reload::Overlap => "overlap",
    }
}

/// `127.0.0.1:8080 to 80/tcp`
pub(super) fn published(port: &Publish) -> String {
    plan::publish_text(port)
}

/// `data`, `/cache (volume cache) read-write`
pub(super) fn mount_text(plan: &Plan, bind: &Bind) -> String {
    let target = place(plan, &bind.target);
    let mode = if bind.writable { "read-write" } else { "read-only" };
    match &bind.source {
        BindSource::Host(path) if *path == bind.target => format!("{target} {mode}"),
        BindSource::Host(path) => format!("{} at {target} {mode}", place(plan, path)),
        BindSource::Volume(volume) => format!("the volume {volume} at {target} {mode}"),
        BindSource::Hidden => format!("nothing at {target}"),
    }
}

pub(super) fn command(argv: &[String]) -> String {
    plan::command_text(argv)
}

pub(super) fn probe(probe: Option<&Probe>) -> String {
    probe.map_or_else(|| "none".to_owned(), plan::probe_text)
}

pub(super) fn liveness(probe: Option<&Probe>) -> String {
    probe.map_or_else(|| "none".to_owned(), plan::liveness_text)
}

pub(super) fn hooks(hooks: &[HookCommand]) -> String {
    or_nothing(plan::hooks_text(hooks))
}

pub(super) fn logs(logs: &LogRetention) -> String {
    let text = plan::logs_text(logs);
    if text.is_empty() { "the defaults".to_owned() } else { text }
}

pub(super) fn restart(unit: &ServicePlan) -> String {
    plan::restart_text(unit)
}

pub(super) fn stop(unit: &ServicePlan) -> String {
    plan::stop_text(unit)
}
