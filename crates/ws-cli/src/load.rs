//! From files to a plan: reads what the reader of the workspace file asks for, shows its diagnostics,
//! plans. The commands that need nothing else (`check`, `config`, `plan`, `graph`, `explain`) are here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::json;
use ws_core::plan::{self, Plan};
use ws_model::{ConfigPath, Level, Problem, SecretName, SecretSource, Severity, Workspace, exit};
use ws_spec::{Diagnostic, Parsed, Sources, SpanMap};

use crate::args::{Drawing, Format, PlanOptions};
use crate::error::Failure;
use crate::instances::Place;
use crate::render::svg;
use crate::settings::{Found, Settings};
use crate::ui::{BAD, CARE, GOOD, Ui, paint};
use crate::{Context, addresses, apply, machine, own_dirs};

/// No file that a person writes is longer; the rest is not read. The reader of the workspace file has
/// a smaller limit of its own and says so.
const MAX_FILE: u64 = 64 << 20;
/// The same for workspace files and env files, all of which the reader refuses that are as long as that. What is
/// refused is shown, which takes a while for a long text.
const MAX_TEXT: u64 = (8 << 20) + 1;
/// The same for the first of them.
const MAX_WORKSPACE: u64 = 2 << 20;

/// A workspace that was read without an error.
#[derive(Debug)]
pub struct Loaded {
    /// Where it was found.
    pub found: Found,
    /// What was read.
    pub sources: Sources,
    /// What it means.
    pub workspace: Workspace,
    /// Where everything stands in the text.
    pub spans: SpanMap,
}

/// A workspace with its plan.
#[derive(Debug)]
pub struct Planned {
    /// The workspace.
    pub loaded: Loaded,
    /// The plan.
    pub plan: Plan,
    /// The level that the file asks for, where a lower one is accepted.
    pub asked: Option<Level>,
}

/// Reads everything that the workspace is made of.
///
/// # Errors
/// When the file, or a file that was named on the command line, cannot be read.
pub fn read(settings: &Settings, options: &PlanOptions) -> Result<(Found, Sources), Failure> {
    let found = settings.find()?;
    let no_text = |file: &PathBuf| (file.clone(), String::new());
    let sources = Sources {
        file: found.file.clone(),
        root: found.root.clone(),
        text: String::new().into(),
        dot_env: None,
        cli_env_files: settings.env_files.iter().map(no_text).collect(),
        environment: settings.around.env.clone(),
        files: BTreeMap::new(),
        links: BTreeMap::new(),
        home: home(settings),
        profiles: options.profile.clone(),
        named: options.named.clone(),
        settings: BTreeMap::new(),
        default_name: found
            .root
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    Ok((found, read_again(sources)?))
}

/// Reads everything that the workspace is made of as it is now, from where sources say that it is.
///
/// # Errors
/// As [`read`].
pub fn read_again(mut sources: Sources) -> Result<Sources, Failure> {
    let text = read_most(&sources.file, MAX_WORKSPACE).map_err(|error| {
        Failure::usage(format!("could not read `{}`", sources.file.display())).because(&error)
    })?;
    let sources_were_read = !sources.text.as_bytes().is_empty();
    sources.text = text.into();
    let dot_env = dot_env(&sources);
    sources.dot_env = if dot_env.exists() { Some((dot_env.clone(), read_text(&dot_env)?)) } else { None };
    for (file, text) in &mut sources.cli_env_files {
        // What a shell wrote into a pipe (`--env-file <(…)`) is there once, for whoever reads first.
        if !(is_of_the_caller(file) && sources_were_read) {
            *text = read_text(file)?;
        }
    }
    sources.files.clear();
    sources.links.clear();
    loop {
        let mut needed = ws_spec::files_needed(&sources);
        needed.retain(|file| !sources.files.contains_key(file));
        if needed.is_empty() {
            return Ok(sources);
        }
        for file in needed {
            let text = read_most(&file, MAX_TEXT).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            if let Ok(real) = file.canonicalize()
                && real != file
            {
                sources.links.insert(file.clone(), real);
            }
            sources.files.insert(file, text);
        }
    }
}

fn dot_env(sources: &Sources) -> PathBuf {
    sources.root.join(".env")
}

/// The files that a plan is made of, also those that are not there: with another content it may be another plan.
#[must_use]
pub fn plan_files(sources: &Sources, workspace: Option<&Workspace>) -> Vec<PathBuf> {
    let secrets = workspace.into_iter().flat_map(|workspace| workspace.secrets.values());
    let secrets = secrets.filter_map(|source| match source {
        SecretSource::File(file) => Some(file.clone()),
        SecretSource::Environment(_) => None,
    });
    let named = sources.cli_env_files.iter().map(|(file, _)| file.clone());
    let read = sources.files.keys().cloned();
    let all = [sources.file.clone(), dot_env(sources)].into_iter().chain(named).chain(read).chain(secrets);
    // Each once.
    all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn home(settings: &Settings) -> PathBuf {
    let around = &settings.around;
    let named = around.env.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    named.or_else(|| around.home.clone()).unwrap_or_else(|| PathBuf::from("/"))
}

/// Whether a path means something that the calling process has open: `/dev/stdin`, `/dev/fd/63`.
fn is_of_the_caller(file: &Path) -> bool {
    file.starts_with("/dev") || file.starts_with("/proc")
}

/// Does not wait: a supervisor reads these again while it runs, and a pipe may have taken the place of a file.
fn read_most(file: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut options = File::options();
    options.read(true);
    if !is_of_the_caller(file) {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    let opened = options.open(file)?;
    if !(is_of_the_caller(file) || opened.metadata()?.is_file()) {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    opened.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let failure = || Failure::usage(format!("could not read `{}`", file.display()));
    let bytes = read_most(file, MAX_TEXT).map_err(|error| failure().because(&error))?;
    String::from_utf8(bytes).map_err(|error| failure().because(&error.utf8_error()))
}

/// Reads the workspace and shows what is wrong with it.
///
/// # Errors
/// When something is; it was told then.
pub fn open(context: &Context, options: &PlanOptions) -> Result<Loaded, Failure> {
    let (found, sources) = read(&context.settings, options)?;
    let Parsed { workspace, spans, diagnostics } = ws_spec::parse(&sources);
    show(&context.ui, &diagnostics, &sources);
    match workspace {
        Some(workspace) => Ok(Loaded { found, sources, workspace, spans }),
        None => Err(not_good(&found, &diagnostics)),
    }
}

/// Reads the workspace, plans, and shows what is wrong.
///
/// # Errors
/// When something is; it was told then.
pub fn plan(context: &Context, options: &PlanOptions) -> Result<Planned, Failure> {
    let loaded = open(context, options)?;
    match resolve(&context.settings, &loaded.workspace, options) {
        Ok(plan) => {
            let dirs = &context.settings.dirs;
            own_dirs::check(&plan, [&dirs.runtime, &dirs.state])?;
            show(&context.ui, &place(&loaded.spans, &plan.warnings), &loaded.sources);
            let asked =
                asked(&context.settings, &loaded.workspace, options).filter(|asked| *asked > plan.required);
            Ok(Planned { loaded, plan, asked })
        }
        Err(problems) => {
            let diagnostics = place(&loaded.spans, &problems);
            show(&context.ui, &diagnostics, &loaded.sources);
            Err(not_good(&loaded.found, &diagnostics))
        }
    }
}

/// The plan of an instance as the file says now; nothing when it cannot be read, is not good, or is that of
/// another instance. For advice only.
#[must_use]
pub fn quietly(settings: &Settings, place: &Place) -> Option<Plan> {
    let options = PlanOptions::default();
    let (_, sources) = read(settings, &options).ok()?;
    let workspace = ws_spec::parse(&sources).workspace?;
    if Place::of(settings, &workspace).instance != place.instance {
        return None;
    }
    resolve(settings, &workspace, &options).ok()
}

/// The workspace with its plan as the file says now; nothing when it cannot be read or is not good, and nothing is said
/// about it. For advice only.
#[must_use]
pub fn silently(settings: &Settings) -> Option<Planned> {
    let options = PlanOptions::default();
    let (found, sources) = read(settings, &options).ok()?;
    let parsed = ws_spec::parse(&sources);
    let workspace = parsed.workspace?;
    let plan = resolve(settings, &workspace, &options).ok()?;
    Some(Planned { loaded: Loaded { found, sources, workspace, spans: parsed.spans }, plan, asked: None })
}

fn resolve(settings: &Settings, workspace: &Workspace, options: &PlanOptions) -> Result<Plan, Vec<Problem>> {
    let previous = addresses::read(&Place::of(settings, workspace).state);
    plan::resolve(
        workspace,
        &machine::facts(workspace),
        &plan::Options {
            previous,
            accept: options.accept,
            no_build: options.no_build,
            no_watch: options.no_watch,
        },
    )
}

/// The level that the file asks for, when one was accepted beside it.
fn asked(settings: &Settings, workspace: &Workspace, options: &PlanOptions) -> Option<Level> {
    options.accept?;
    let plain = PlanOptions { accept: None, ..options.clone() };
    resolve(settings, workspace, &plain).ok().map(|plan| plan.required)
}

fn place(spans: &SpanMap, problems: &[Problem]) -> Vec<Diagnostic> {
    problems.iter().map(|problem| ws_spec::diagnose(spans, problem)).collect()
}

/// How many columns diagnostics may take.
#[must_use]
pub fn width(ui: &Ui) -> usize {
    ui.err_size().map_or(ws_spec::Style::PLAIN.width, |size| size.columns)
}

fn show(ui: &Ui, diagnostics: &[Diagnostic], sources: &Sources) {
    if diagnostics.is_empty() {
        return;
    }
    let style = ws_spec::Style { color: ui.err_colours, width: width(ui) };
    ui.say(&ws_spec::render(diagnostics, sources, style));
}

fn not_good(found: &Found, diagnostics: &[Diagnostic]) -> Failure {
    let codes: std::collections::BTreeSet<&str> =
        diagnostics.iter().filter(|d| d.severity == Severity::Error).map(|d| d.code).collect();
    let failure = Failure::usage(format!("`{}` has {}", found.file.display(), counts(diagnostics)));
    match codes.first() {
        Some(code) => failure.hint(format!("`ws explain {code}` says more")),
        None => failure,
    }
}

fn counts(diagnostics: &[Diagnostic]) -> String {
    let count = |severity, word: &str| match diagnostics.iter().filter(|d| d.severity == severity).count() {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let parts: Vec<String> = [count(Severity::Error, "error"), count(Severity::Warning, "warning")]
        .into_iter()
        .flatten()
        .collect();
    crate::render::list(&parts)
}

/// The values of the secrets that some service of a plan gets.
///
/// # Errors
/// When one cannot be read.
pub fn secrets(
    plan: &Plan,
    workspace: &Workspace,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<SecretName, Vec<u8>>, Failure> {
    let mut values = BTreeMap::new();
    let views = plan.services.values().map(|service| &service.view);
    let used = views.flat_map(|view| {
        let files = view.secret_files.iter().map(|(name, _)| name);
        files.chain(view.secret_env.iter().map(|(name, _)| name))
    });
    for name in used {
        let Some(source) = workspace.secrets.get(name) else { continue };
        let value = match source {
            SecretSource::File(file) => read_most(file, MAX_FILE).map_err(|error| {
                Failure::usage(format!("could not read the secret `{name}` from `{}`", file.display()))
                    .because(&error)
                    .hint("make the file, or name another one in `secrets`")
            })?,
            SecretSource::Environment(variable) => environment
                .get(variable)
                .ok_or_else(|| {
                    Failure::usage(format!("the secret `{name}` comes from `{variable}`, which is not set"))
                        .hint(format!("set it for this command: `{variable}=… ws up`"))
                })?
                .clone()
                .into_bytes(),
        };
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// `ws check`
///
/// # Errors
/// When something is wrong.
pub fn check(context: &Context, options: &PlanOptions) -> Result<u8, Failure> {
    let (found, sources) = read(&context.settings, options)?;
    let Parsed { workspace, spans, mut diagnostics } = ws_spec::parse(&sources);
    let mut services = 0;
    if let Some(workspace) = workspace {
        let problems = match resolve(&context.settings, &workspace, options) {
            Ok(plan) => {
                services = plan.services.len();
                plan.warnings
            }
            Err(problems) => problems,
        };
        diagnostics.extend(place(&spans, &problems));
    }
    let wrong = diagnostics.iter().any(|d| d.severity == Severity::Error);
    match context.ui.format {
        Format::Json => context.ui.json(&ws_spec::to_json(&diagnostics))?,
        Format::Text => {
            show(&context.ui, &diagnostics, &sources);
            let file = found.file.display();
            context.ui.say(&match (wrong, diagnostics.is_empty()) {
                (true, _) => format!("{}: `{file}` has {}", paint(BAD, "not good"), counts(&diagnostics)),
                (false, false) => format!("{}: `{file}` has {}", paint(CARE, "good"), counts(&diagnostics)),
                (false, true) if services == 1 => format!("{}: `{file}`, 1 service", paint(GOOD, "good")),
                (false, true) => format!("{}: `{file}`, {services} services", paint(GOOD, "good")),
            });
        }
    }
    Ok(if wrong { exit::USAGE } else { exit::OK })
}

/// `ws config`
///
/// # Errors
/// When something is wrong with the file.
pub fn config(context: &Context, options: &PlanOptions, origins: bool) -> Result<u8, Failure> {
    let loaded = open(context, options)?;
    let text = ws_spec::config(&loaded.workspace, &loaded.spans, origins);
    match context.ui.format {
        Format::Text => context.ui.data(&text)?,
        Format::Json => {
            let value: serde_json::Value = serde_yaml::from_str(&text)
                .map_err(|error| Failure::failed("could not turn the workspace into JSON").because(&error))?;
            context.ui.json(&value)?;
        }
    }
    Ok(exit::OK)
}

/// `ws plan`
///
/// # Errors
/// When something is wrong with the file.
pub fn show_plan(context: &Context, options: &PlanOptions) -> Result<u8, Failure> {
    let planned = plan(context, options)?;
    match context.ui.format {
        Format::Text => {
            context.ui.data(&plan::describe(&planned.plan))?;
            let place = Place::of(&context.settings, &planned.loaded.workspace);
            apply::beside_plan(context, &place)?;
        }
        Format::Json => context.ui.json(&plan::to_json(&planned.plan))?,
    }
    Ok(exit::OK)
}

/// `ws graph`
///
/// # Errors
/// When something is wrong with the file.
pub fn show_graph(context: &Context, options: &PlanOptions) -> Result<u8, Failure> {
    let planned = plan(context, options)?;
    if let Some(drawing) = context.settings.drawing {
        context.ui.raw(&draw(&planned.plan, drawing)?)?;
        return Ok(exit::OK);
    }
    match context.ui.format {
        Format::Text => context.ui.data(&ws_core::graph::render_text(&planned.plan))?,
        Format::Json => context.ui.json(&ws_core::graph::to_json(&planned.plan))?,
    }
    Ok(exit::OK)
}

fn draw(plan: &Plan, drawing: Drawing) -> Result<String, Failure> {
    let dot = || ws_core::graph::to_dot(plan);
    match drawing {
        Drawing::Mermaid => Ok(ws_core::graph::to_mermaid(plan)),
        Drawing::Dot => Ok(dot()),
        // The library cannot draw nothing.
        Drawing::Svg if plan.services.is_empty() => Err(Failure::usage("there are no services to draw")),
        Drawing::Svg => svg::draw(&dot()).map_err(|error| {
            let mut failure = Failure::failed("could not draw the graph");
            failure.causes.push(error);
            failure.hint("`--format dot` has it for other programs")
        }),
    }
}

/// `ws explain`
///
/// # Errors
/// When there is no such code.
pub fn explain(context: &Context, code: &str) -> Result<u8, Failure> {
    let code = code.to_uppercase();
    let text = ws_spec::explain(&code).ok_or_else(|| {
        Failure::usage(format!("there is no code `{code}`"))
            .hint("codes stand in diagnostics: `error[WS0031]`; `ws check` prints them")
    })?;
    match context.ui.format {
        Format::Text => context.ui.line(text.trim_end())?,
        Format::Json => context.ui.json(&json!({ "code": code, "text": text }))?,
    }
    Ok(exit::OK)
}

/// As [`line_of`], of the key and not of its value.
#[must_use]
pub fn line_of_key(loaded: &Loaded, at: &ConfigPath) -> String {
    let place = loaded.spans.locate_key(at);
    let name = place.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}:{}", place.line)
}

/// Where the file speaks of a service, for pointing at it: `workspace.yaml:12`.
#[must_use]
pub fn line_of(loaded: &Loaded, at: &ConfigPath) -> String {
    let place = loaded.spans.locate(at);
    let name = place.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}:{}", place.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(root: &Path) -> Sources {
        Sources { file: root.join("workspace.yaml"), root: root.into(), ..Sources::default() }
    }

    #[test]
    fn what_is_no_file_is_an_error_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("workspace.yaml");
        let reason = || read_again(sources(dir.path())).unwrap_err().to_string();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(reason().contains("it is not a file"), "{}", reason());
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(reason().contains("it is not a file"), "{}", reason());
        std::fs::remove_dir(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert!(reason().contains("workspace.yaml"), "{}", reason());
        // What it names is read in the same way.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "include: [more.yaml]\nservices: {}\n").unwrap();
        let more = dir.path().join("more.yaml");
        nix::unistd::mkfifo(&more, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_again(sources(dir.path())).unwrap().files[&more], None);
        nix::unistd::mkfifo(&dir.path().join(".env"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(reason().contains(".env"), "{}", reason());
    }

    #[test]
    fn a_pipe_of_the_shell_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("workspace.yaml"), "services: {}\n").unwrap();
        let (read, write) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &write, b"A=1\n").unwrap();
        drop(write);
        let path = PathBuf::from(format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read)));
        let named = Sources { cli_env_files: vec![(path, String::new())], ..sources(dir.path()) };
        let first = read_again(named).unwrap();
        assert_eq!(first.cli_env_files[0].1, "A=1\n");
        drop(read);
        assert_eq!(read_again(first).unwrap().cli_env_files[0].1, "A=1\n");
    }
}
