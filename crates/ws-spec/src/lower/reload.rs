//! Hot reload: builds, what is watched, how a new run takes the place of the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::GlobBuilder;
use ws_model::{
    Build, BuildRef, CommandLine, Fetch, Listen, Mount, PathPattern, PortProto, Protocol, Reload,
    ServiceKind, WatchAction, WatchEntry, Watching,
};

use super::{
    Budget, Draft, Home, Layer, Rights, ShellKey, Variable, check_env_files, check_targets, command_line,
    environment, limits, usual_dir, values,
};
use crate::codes;
use crate::raw::forms::CommandRaw;
use crate::raw::probe::ProbeRaw;
use crate::raw::read::{At, List, normal};
use crate::raw::reload::{
    BuildName, BuildRaw, FetchRaw, GLOB, HOLD, IgnoreRaw, PatternRaw, ServiceBuildRaw, WatchRaw, WatchingRaw,
};
use crate::raw::scalar::{Port, Time};
use crate::report::{Report, error, shown};
use crate::source::Sources;
use crate::yaml::Span;

/// The longest that it may wait.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// The longest time that it must have been quiet after a change.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(60);
/// The most listening sockets of a service: they are passed all at once, and the kernel passes 253.
const MAX_LISTEN: usize = 100;
/// The most paths and globs of a workspace: each is compared with each file that changes.
const MAX_PATHS: usize = 20_000;
/// The most different globs: compiling one takes time.
const MAX_GLOBS: usize = 2000;

/// What lowering has at hand.
#[derive(Debug)]
pub(super) struct Work<'w, 'r> {
    pub(super) rights: &'w Rights<'r>,
    pub(super) sources: &'w Sources,
    pub(super) budget: &'w mut Budget,
    pub(super) report: &'w mut Report,
}

/// A build of `builds` that was read.
#[derive(Debug)]
pub(crate) struct BuildDraft<'f> {
    pub(crate) name: &'f At<BuildName>,
    pub(crate) raw: &'f BuildRaw,
    /// Where the build itself is written: its key.
    key: Span,
    /// The directory of its file.
    dir: &'f Path,
    pub(super) environment: BTreeMap<String, Variable>,
}

/// Reads what a build of `builds` needs beside what is written in it.
pub(super) fn draft<'f>(
    name: &'f At<BuildName>,
    raw: &'f At<BuildRaw>,
    mut home: Home<'f, '_, '_>,
    sources: &Sources,
    budget: &mut Budget,
    report: &mut Report,
) -> Option<BuildDraft<'f>> {
    check_env_files(raw.value.env_file.iter().flat_map(|files| &files.value.0), sources, report);
    let layer = Layer { files: raw.value.env_file.as_ref(), variables: raw.value.environment.as_ref() };
    let label = format!("the build `{}` will not have it", name.value.0);
    let environment = environment(&[layer], (name.span, &label), &mut home, sources, budget, report)?;
    Some(BuildDraft { name, raw: &raw.value, key: raw.key, dir: home.file.dir.as_path(), environment })
}

/// What a build has before it says anything: that of its service, or nearly nothing.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) working_dir: PathBuf,
    pub(super) working_dir_declared: bool,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) writable: Vec<PathBuf>,
    pub(super) reads: Vec<PathBuf>,
    pub(super) volumes: Vec<Mount>,
}

/// The model of a build of `builds`.
pub(super) fn shared(draft: &BuildDraft<'_>, work: &mut Work<'_, '_>) -> Option<Build> {
    let usual_dir = usual_dir(draft.dir, work.sources);
    let basis = Basis {
        working_dir: usual_dir.to_owned(),
        working_dir_declared: usual_dir != work.sources.root,
        environment: BTreeMap::new(),
        writable: Vec::new(),
        reads: Vec::new(),
        volumes: Vec::new(),
    };
    let place = Place {
        key: draft.key,
        what: format!("the build `{}`", draft.name.value.0),
        help: "write `{ command: make }`",
    };
    build(draft.raw, &place, &draft.environment, basis, work)
}

/// Where a build is written, what it is called in messages, and how one is written there.
#[derive(Debug)]
struct Place {
    key: Span,
    what: String,
    help: &'static str,
}

/// What a service has of hot reload.
#[derive(Debug)]
pub(super) struct Reloading {
    pub(super) build: Option<BuildRef>,
    pub(super) inputs: Option<Vec<PathPattern>>,
    pub(super) watch: Option<Vec<WatchEntry>>,
    pub(super) reload: Reload,
    pub(super) listen: Vec<Listen>,
    pub(super) hold: Duration,
}

/// Reads that of a service; `basis` is what its own build has of it.
pub(super) fn of_service(draft: &Draft<'_>, basis: Basis, work: &mut Work<'_, '_>) -> Reloading {
    let raw = &draft.raw;
    let dir = basis.working_dir.clone();
    let inputs = inputs(draft, &dir, work);
    let watch = watch(draft, &dir, work);
    let build = match &raw.build {
        None => None,
        Some(at) => match &at.value {
            ServiceBuildRaw::Shared { name, uses } => Some(BuildRef::Shared {
                name: name.value.0.clone(),
                uses: uses.iter().filter_map(|path| pattern(path, &dir, work)).collect(),
            }),
            ServiceBuildRaw::Own(own) => {
                let place = Place {
                    key: at.key,
                    what: format!("the build of `{}`", draft.name.value),
                    help: "write `build: { command: make }`",
                };
                let build = build(own, &place, &draft.build_environment, basis, work);
                build.map(|build| BuildRef::Own(Box::new(build)))
            }
        },
    };
    let listen = listen(draft, work.report);
    Reloading {
        build,
        inputs,
        watch,
        reload: reload(draft, &listen, work.report),
        listen,
        hold: raw.hold.as_ref().map_or(HOLD, |hold| {
            at_most(hold, Duration::ZERO, LONGEST_HOLD, "from `0s` to `1h`", work.report)
        }),
    }
}

/// A time within bounds, reported where it is not.
fn at_most(at: &At<Time>, least: Duration, most: Duration, bounds: &str, report: &mut Report) -> Duration {
    let time = at.value.0;
    if !(least..=most).contains(&time) {
        report.push(error(codes::OUT_OF_RANGE, at.span, "this time is out of range").label(bounds));
    }
    time
}

// ---------------------------------------------------------------------------------------------------
// builds

/// The model of a build.
fn build(
    raw: &BuildRaw,
    place: &Place,
    variables: &BTreeMap<String, Variable>,
    mut basis: Basis,
    work: &mut Work<'_, '_>,
) -> Option<Build> {
    let command = match &raw.command {
        Some(command) => build_command(command, raw.shell.as_ref(), work),
        None => {
            if !raw.unread.contains(&"command") {
                let message = format!("{} has no `command`", place.what);
                work.report.push(error(codes::MISSING_KEY, place.key, message).help(place.help));
            }
            None
        }
    };
    if let Some(dir) = &raw.working_dir {
        basis.working_dir.clone_from(&dir.value.0);
        basis.working_dir_declared = true;
    }
    let dir = basis.working_dir.as_path();
    let fetch = raw.fetch.as_ref().map(|fetch| self::fetch(fetch, &place.what, dir, work));
    let outputs = outputs(raw, dir, work);
    let add = |all: &mut Vec<PathBuf>, more: Vec<PathBuf>| {
        let new: Vec<_> = more.into_iter().filter(|path| !all.contains(path)).collect();
        all.extend(new);
    };
    add(&mut basis.writable, work.rights.writable(raw.writable.as_ref(), work.report));
    add(&mut basis.reads, work.rights.reads(raw.reads.as_ref(), work.report));
    check_targets(raw.volumes.as_ref(), None, work.report);
    let mounts = work.rights.mounts(raw.volumes.as_ref(), work.report);
    basis.volumes.retain(|old| mounts.contains(old) || !mounts.iter().any(|new| new.target == old.target));
    let new: Vec<_> = mounts.into_iter().filter(|mount| !basis.volumes.contains(mount)).collect();
    basis.volumes.extend(new);
    basis.environment.extend(values(variables));
    Some(Build {
        inputs: patterns(raw.inputs.as_ref(), dir, work),
        ignore: ignored(raw.ignore.as_ref().map(|list| &list.value.0[..]), dir, work),
        outputs,
        // One that was there and is wrong was reported.
        fetch: fetch.flatten(),
        command: command?,
        after: raw.after.iter().flat_map(|all| &all.value.0).map(|name| name.value.0.clone()).collect(),
        limits: limits(raw.limits.as_ref(), work.report),
        working_dir: basis.working_dir,
        working_dir_declared: basis.working_dir_declared,
        environment: basis.environment,
        writable: basis.writable,
        reads: basis.reads,
        volumes: basis.volumes,
    })
}

fn build_command(
    command: &At<CommandRaw>,
    shell: Option<&At<bool>>,
    work: &mut Work<'_, '_>,
) -> Option<CommandLine> {
    let shell = shell.filter(|shell| shell.value).map(|shell| shell.key);
    let home = &work.sources.home;
    command_line(command, shell.is_some(), shell, ShellKey::Allowed, home, work.report)
}

fn fetch(at: &At<FetchRaw>, what: &str, dir: &Path, work: &mut Work<'_, '_>) -> Option<Fetch> {
    let raw = &at.value;
    let inputs = patterns(raw.inputs.as_ref(), dir, work);
    let Some(command) = &raw.command else {
        if !raw.unread.contains(&"command") {
            let issue = error(codes::MISSING_KEY, at.key, format!("the `fetch` of {what} has no `command`"));
            work.report
                .push(issue.help("write `fetch: { command: cargo fetch --locked, inputs: [Cargo.lock] }`"));
        }
        return None;
    };
    Some(Fetch { command: build_command(command, raw.shell.as_ref(), work)?, inputs })
}

/// What a build makes. It may write the directories of that, and is never made of it.
fn outputs(raw: &BuildRaw, dir: &Path, work: &mut Work<'_, '_>) -> Vec<PathPattern> {
    let mut out = Vec::new();
    for at in raw.outputs.iter().flat_map(|outputs| &outputs.value.0) {
        // What stands in a directory that the build makes: that one is told from a file by its slash.
        let written = &at.value.0;
        let text = if written.ends_with('/') { format!("{written}**") } else { written.clone() };
        let output = placed(&text, dir, &work.sources.home);
        let Some(()) = check_glob(&output, written, at.span, work) else { continue };
        let is_literal = !output.pattern.contains(GLOB);
        let whole = match output.pattern.as_str() {
            "*" | "**" | "**/*" | "**/**" => Some(output.base.clone()),
            pattern => {
                let name = pattern.strip_suffix("/**").unwrap_or(pattern);
                (!name.contains(GLOB)).then(|| normal(&output.base.join(name)))
            }
        };
        if whole.is_some_and(|whole| dir.starts_with(whole)) {
            let message =
                format!("`{}` is everything in `working_dir`, what is built included", shown(&at.value.0));
            let issue = error(codes::BAD_OUTPUT, at.span, message);
            work.report.push(
                issue
                    .label("what a build makes is never a reason to build")
                    .help("name what is made: `outputs: [\"out/*\"]`"),
            );
            continue;
        }
        let help = if is_literal {
            format!(
                "a directory ends with a slash: `{0}/`; a file needs one of its own: `out/{0}`",
                shown(&at.value.0)
            )
        } else {
            format!("put it into a directory of its own: `\"out/{}\"`", shown(&at.value.0))
        };
        work.rights.check_written(&directory_of(&output), at.span, &help, work.report);
        out.push(output);
    }
    out
}

/// The directory in which an output appears, which its build may write: the first below the directory that it is
/// relative to, or that one. The planner means the same.
fn directory_of(output: &PathPattern) -> PathBuf {
    match output.pattern.split_once('/') {
        Some((first, _)) if !first.contains(GLOB) => output.base.join(first),
        Some(_) | None => output.base.clone(),
    }
}

// ---------------------------------------------------------------------------------------------------
// inputs and watch of a service

fn inputs(draft: &Draft<'_>, dir: &Path, work: &mut Work<'_, '_>) -> Option<Vec<PathPattern>> {
    let at = draft.raw.inputs.as_ref()?;
    if draft.kind != ServiceKind::Task {
        let message = format!("`{}` is not a task, and has `inputs`", draft.name.value);
        let issue = error(codes::CONTRADICTION, at.key, message);
        let issue = issue.label("they decide whether a task must run again");
        work.report.push(if draft.raw.build.is_some() {
            issue.help("what its build is made of belongs into it: `build: { command: make, inputs: [src] }`")
        } else {
            issue.help("to restart it when a file changes, write `watch: [src]`").fix(at.key, "watch")
        });
        return None;
    }
    Some(patterns(Some(at), dir, work))
}

fn watch(draft: &Draft<'_>, dir: &Path, work: &mut Work<'_, '_>) -> Option<Vec<WatchEntry>> {
    let at = draft.raw.watch.as_ref()?;
    if draft.kind == ServiceKind::Task {
        let message = format!("`{}` is a task, and has `watch`", draft.name.value);
        let issue = error(codes::CONTRADICTION, at.key, message);
        let issue = issue.help("`inputs: [src]` runs it again when one of these files has changed");
        let plain =
            at.value.0.iter().all(|entry| entry.value.action.is_none() && entry.value.ignore.is_empty());
        work.report.push(if plain && draft.raw.inputs.is_none() {
            issue.fix(at.key, "inputs")
        } else {
            issue
        });
        return None;
    }
    Some(at.value.0.iter().filter_map(|entry| watch_entry(draft, &entry.value, dir, work)).collect())
}

fn watch_entry(draft: &Draft<'_>, raw: &WatchRaw, dir: &Path, work: &mut Work<'_, '_>) -> Option<WatchEntry> {
    let has_build = draft.raw.build.is_some();
    let action = match &raw.action {
        None if has_build => WatchAction::Rebuild,
        None => WatchAction::Restart,
        Some(at) => {
            let is_rebuild = at.value.0 == WatchAction::Rebuild;
            if is_rebuild && !has_build && !draft.raw.unread.contains(&"build") {
                let message = format!("`{}` has no `build`, and is to be rebuilt", draft.name.value);
                let issue = error(codes::CONTRADICTION, at.span, message);
                work.report.push(
                    issue
                        .help("write `action: restart`, or say how it is built: `build: { command: make }`")
                        .fix(at.span, "restart"),
                );
            }
            at.value.0
        }
    };
    Some(WatchEntry {
        path: pattern(&raw.path, dir, work)?,
        ignore: ignored(Some(&raw.ignore), dir, work),
        action,
    })
}

/// How the files of the workspace are watched; `dir` is the directory of the first file.
pub(super) fn watching(raw: Option<&WatchingRaw>, dir: &Path, work: &mut Work<'_, '_>) -> Watching {
    let default = Watching::default();
    let Some(raw) = raw else { return default };
    Watching {
        debounce: raw.debounce.as_ref().map_or(default.debounce, |at| {
            at_most(at, Duration::from_millis(1), LONGEST_DEBOUNCE, "from `1ms` to `60s`", work.report)
        }),
        ignore: ignored(raw.ignore.as_ref().map(|list| &list.value.0[..]), dir, work),
        gitignore: raw.gitignore.as_ref().map_or(default.gitignore, |at| at.value),
        poll: raw.poll.as_ref().map_or(default.poll, |at| at.value.0),
    }
}

// ---------------------------------------------------------------------------------------------------
// patterns

fn patterns(list: Option<&At<List<PatternRaw>>>, dir: &Path, work: &mut Work<'_, '_>) -> Vec<PathPattern> {
    let all = list.iter().flat_map(|list| &list.value.0);
    all.filter_map(|path| pattern(path, dir, work)).collect()
}

fn pattern(at: &At<PatternRaw>, dir: &Path, work: &mut Work<'_, '_>) -> Option<PathPattern> {
    let pattern = placed(&at.value.0, dir, &work.sources.home);
    check_glob(&pattern, &at.value.0, at.span, work)?;
    Some(pattern)
}

fn ignored(list: Option<&[At<IgnoreRaw>]>, dir: &Path, work: &mut Work<'_, '_>) -> Vec<PathPattern> {
    let mut out = Vec::new();
    for at in list.unwrap_or_default() {
        let text = &at.value.0.0;
        let mut pattern = placed(text, dir, &work.sources.home);
        if is_meant_anywhere(text) {
            pattern.pattern = format!("**/{}", pattern.pattern);
        }
        out.extend(check_glob(&pattern, text, at.span, work).map(|()| pattern));
    }
    out
}

/// Whether it has no slash, as a name in `.gitignore` that is meant at any depth.
fn is_meant_anywhere(text: &str) -> bool {
    let name = text.trim_end_matches('/');
    !name.contains('/') && !matches!(name, "" | "." | ".." | "~") && !name.starts_with("**")
}

/// Settles what a pattern is relative to, without looking at any file: `.` and `..` are taken out of the part that is
/// no glob.
fn placed(text: &str, dir: &Path, home: &Path) -> PathPattern {
    let (mut base, rest, is_relative) = match text.strip_prefix('~') {
        Some(rest) => (home.to_path_buf(), rest, false),
        None if text.starts_with('/') => (PathBuf::from("/"), text, false),
        None => (dir.to_path_buf(), text, true),
    };
    let (mut fixed, mut glob): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for part in rest.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if !glob.is_empty() || part.contains(GLOB) {
            glob.push(part);
        } else if part != ".." {
            fixed.push(part);
        } else if fixed.pop().is_none() {
            base.pop();
        }
    }
    if !is_relative {
        // What is relative to the root or the home alone would be relative to nothing that means anything: the last
        // directory is that.
        base.extend(fixed);
        let last = base.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains(GLOB));
        let pattern = match (&glob[..], last.map(str::to_owned)) {
            ([], Some(last)) => {
                base.pop();
                last
            }
            ([], None) => ".".to_owned(),
            (glob, _) => glob.join("/"),
        };
        return PathPattern { base, pattern };
    }
    fixed.extend(glob);
    let pattern = if fixed.is_empty() { ".".to_owned() } else { fixed.join("/") };
    PathPattern { base, pattern }
}

fn check_glob(pattern: &PathPattern, text: &str, span: Span, work: &mut Work<'_, '_>) -> Option<()> {
    let (budget, report) = (&mut *work.budget, &mut *work.report);
    budget.paths += 1;
    if budget.paths > MAX_PATHS {
        let message =
            format!("the workspace has more than {MAX_PATHS} paths and globs in builds and `watch`");
        report.push(error(codes::TOO_COSTLY, span, message));
        return None;
    }
    if !pattern.pattern.contains(GLOB) {
        return Some(());
    }
    let known = match budget.globs.get(&pattern.pattern) {
        Some(known) => known.clone(),
        None if budget.globs.len() >= MAX_GLOBS => {
            let message = format!("the workspace has more than {MAX_GLOBS} different globs");
            report.push(error(codes::TOO_COSTLY, span, message));
            return None;
        }
        None => {
            let fault = GlobBuilder::new(&pattern.pattern).literal_separator(true).build().err();
            let fault = fault.map(|fault| fault.kind().to_string());
            budget.globs.insert(pattern.pattern.clone(), fault.clone());
            fault
        }
    };
    let Some(fault) = known else { return Some(()) };
    let issue = error(codes::BAD_GLOB, span, format!("`{}` is not a glob", shown(text)));
    report.push(
        issue.label(fault).help("a `[`, `{`, `*` or `?` that is meant as it is: `[[]`, `[{]`, `[*]`, `[?]`"),
    );
    None
}

// ---------------------------------------------------------------------------------------------------
// listen and reload

fn listen(draft: &Draft<'_>, report: &mut Report) -> Vec<Listen> {
    let Some(at) = &draft.raw.listen else { return Vec::new() };
    if draft.kind == ServiceKind::Task {
        let issue = error(
            codes::CONTRADICTION,
            at.key,
            format!("`{}` is a task, and has `listen`", draft.name.value),
        );
        report.push(issue.label("a task is done once, nothing waits for its next run").help("leave it out"));
        return Vec::new();
    }
    if at.value.0.len() > MAX_LISTEN {
        let message = format!("{} listening sockets are too many", at.value.0.len());
        report.push(error(codes::BAD_LISTEN, at.key, message).label(format!("at most {MAX_LISTEN}")));
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut seen: BTreeMap<u16, Span> = BTreeMap::new();
    for entry in &at.value.0 {
        let Port(PortProto { port, protocol }) = entry.value.port.value;
        let span = entry.value.port.span;
        if protocol == Protocol::Udp {
            let issue = error(codes::BAD_LISTEN, span, "a UDP port has no connections that could wait");
            report.push(issue.label("`listen` is for TCP").help("leave it out"));
            continue;
        }
        if let Some(first) = seen.insert(port, span) {
            let issue = error(codes::BAD_LISTEN, span, format!("port {port} is listened on twice"));
            report.push(issue.related(first, "first here").help("leave one of them out"));
            continue;
        }
        let name = match &entry.value.name {
            None => port.to_string(),
            Some(name) => {
                check_listen_name(name, report);
                name.value.clone()
            }
        };
        out.push(Listen { port, name });
    }
    out
}

/// What `$LISTEN_FDNAMES` can hold, by sd_listen_fds(3).
fn check_listen_name(name: &At<String>, report: &mut Report) {
    let text = &name.value;
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > 255 {
        "it has more than 255 characters"
    } else if text.contains(':') {
        "`:` stands between the names in `$LISTEN_FDNAMES`"
    } else if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        "it has characters that are not printable ASCII"
    } else {
        return;
    };
    let message = format!("`{}` cannot be the name of a listening socket", shown(text));
    report.push(error(codes::BAD_LISTEN, name.span, message).label(why).help("for example `http`"));
}

fn reload(draft: &Draft<'_>, listen: &[Listen], report: &mut Report) -> Reload {
    let Some(at) = draft.raw.reload.as_ref().filter(|at| at.value.0 == Reload::Overlap) else {
        return Reload::Restart;
    };
    let name = &draft.name.value;
    if draft.kind == ServiceKind::Task {
        let message = format!("`{name}` is a task, and has `reload: overlap`");
        let issue = error(codes::CONTRADICTION, at.span, message);
        report.push(issue.label("a task is done once").help("leave it out"));
        return Reload::Overlap;
    }
    // Entries that are wrong were reported, and might be the port.
    let written = draft.raw.listen.as_ref().map_or(0, |all| all.value.0.len());
    if draft.raw.unread.contains(&"listen") || written > listen.len() {
        return Reload::Overlap;
    }
    let held: BTreeSet<u16> = listen.iter().map(|one| one.port).collect();
    let mut told = BTreeSet::new();
    for (port, span, key) in declared_ports(draft) {
        let is_held = port.protocol == Protocol::Tcp && held.contains(&port.port);
        if is_held || !told.insert(port) {
            continue;
        }
        let issue = error(
            codes::OVERLAP_PORT,
            at.span,
            format!("`{name}` has the port {port}, and two of its runs cannot both take it"),
        );
        let issue = issue
            .label("with `overlap`, the old run and the new one are there at once")
            .related(span, format!("in `{key}`"));
        report.push(match port.protocol {
            Protocol::Tcp => issue.help(format!(
                "have ws hold it, and take it from there (sd_listen_fds): `listen: [{}]`; or write `reload: restart`",
                port.port
            )),
            Protocol::Udp => issue.help("ws cannot hold a UDP port: write `reload: restart`"),
        });
    }
    Reload::Overlap
}

/// The ports that a service says it has, with where.
fn declared_ports(draft: &Draft<'_>) -> Vec<(PortProto, Span, &'static str)> {
    let raw = &draft.raw;
    let tcp = |port| PortProto { port, protocol: Protocol::Tcp };
    let published = raw.ports.iter().flat_map(|ports| &ports.value.0);
    let published = published.map(|at| (tcp(at.value.0.port), at.span, "ports"));
    let exposed = raw.expose.iter().flat_map(|ports| &ports.value.0);
    let exposed = exposed.map(|at| (at.value.0, at.span, "expose"));
    let probes = [("startup", &raw.startup), ("ready", &raw.ready), ("liveness", &raw.liveness)];
    let probed = probes.into_iter().filter_map(|(key, probe)| {
        let (port, span) = port_of(&probe.as_ref()?.value)?;
        Some((tcp(port), span, key))
    });
    published.chain(exposed).chain(probed).collect()
}

fn port_of(probe: &ProbeRaw) -> Option<(u16, Span)> {
    let url = probe.http.as_ref().and_then(|http| http.value.url.as_ref());
    url.map(|url| (url.value.port, url.span))
        .or_else(|| probe.tcp.as_ref().map(|tcp| (tcp.value.0, tcp.span)))
        .or_else(|| probe.grpc.as_ref().map(|grpc| (grpc.value.port, grpc.span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> (String, String) {
        let PathPattern { base, pattern } = placed(text, Path::new("/p/api"), Path::new("/home/me"));
        (base.display().to_string(), pattern)
    }

    #[test]
    fn patterns_are_relative_to_something_that_means_something() {
        for (text, base, pattern) in [
            ("src", "/p/api", "src"),
            ("./src/", "/p/api", "src"),
            ("a//b/./c/../d", "/p/api", "a/b/d"),
            (".", "/p/api", "."),
            ("./", "/p/api", "."),
            ("src/**/*.rs", "/p/api", "src/**/*.rs"),
            ("..", "/p", "."),
            ("../lib/*.c", "/p", "lib/*.c"),
            ("a/../../lib", "/p", "lib"),
            ("../../../../x", "/", "x"),
            ("/opt/x", "/opt", "x"),
            ("/opt/x/*", "/opt/x", "*"),
            ("/", "/", "."),
            ("/*", "/", "*"),
            ("~", "/home", "me"),
            ("~/..", "/", "home"),
            ("~/*", "/home/me", "*"),
            ("~/x/y", "/home/me/x", "y"),
            ("~/../you/*", "/home/you", "*"),
            ("{a/b,c}/./*.rs", "/p/api", "{a/b,c}/*.rs"),
        ] {
            assert_eq!(at(text), (base.to_owned(), pattern.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_has_no_slash_is_ignored_anywhere() {
        for text in ["*.tmp", "docs", "docs/", "[ab]", "{a,b}"] {
            assert!(is_meant_anywhere(text), "{text}");
        }
        for text in ["./docs", "a/b", "/x", "~", "~/x", ".", "..", "**", "**/x", "./"] {
            assert!(!is_meant_anywhere(text), "{text}");
        }
    }
}
