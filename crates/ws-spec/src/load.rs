//! From the sources to the raw files: texts, trees, variables, and the files that they include.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codes;
use crate::dotenv;
use crate::raw::FileRaw;
use crate::raw::forms::{EnvFileRaw, IncludeRaw};
use crate::raw::read::{At, Cx, OneOrMany, Read};
use crate::report::{Issue, Report, SourceFile, SourceMap, error, nearest_exact, shown, warning};
use crate::settings;
use crate::source::Sources;
use crate::vars::{self, Variables};
use crate::yaml::{self, Node, Span, Value};

/// The most workspace files.
const MAX_FILES: usize = 256;
/// How deep files may include each other.
const MAX_INCLUDE_DEPTH: usize = 16;
/// The most bytes of env files that are read: a file counts again for each workspace file that names it, because its
/// variables may then have other values.
const MAX_ENV_BYTES: usize = 8 * 1024 * 1024;

/// The workspace files, read as far as they can be.
#[derive(Debug)]
pub(crate) struct Loaded<'s> {
    /// The workspace file, and what it includes, each file once and behind the one that names it first. Never empty.
    pub(crate) files: Vec<WorkspaceFile<'s>>,
    pub(crate) env_files: EnvFiles<'s>,
    /// Whether every file that is included could be read: only then is a name that is nowhere a mistake.
    pub(crate) complete: bool,
    /// The files that are included and not among the sources.
    pub(crate) missing: BTreeSet<PathBuf>,
}

/// A workspace file.
#[derive(Debug)]
pub(crate) struct WorkspaceFile<'s> {
    pub(crate) path: PathBuf,
    /// What its paths are relative to.
    pub(crate) dir: PathBuf,
    pub(crate) tree: Arc<Node>,
    pub(crate) raw: FileRaw,
    pub(crate) variables: Variables<'s>,
}

/// Reads the texts into raw files. `None`: there is nothing to go on with, and the report says why.
pub(crate) fn load<'s>(sources: &'s Sources, report: &mut Report) -> Option<Loaded<'s>> {
    let text = check_utf8(sources, report)?;
    let env_files = EnvFiles {
        sources,
        budget: vars::MAX_EXPANSION,
        bytes: MAX_ENV_BYTES,
        read: BTreeMap::new(),
        made_of: MadeOf::default(),
    };
    let loaded = Loaded { files: Vec::new(), env_files, complete: true, missing: BTreeSet::new() };
    let mut loader = Loader {
        sources,
        loaded,
        spent: yaml::Size::default(),
        bytes: 0,
        open: Vec::new(),
        begun: BTreeSet::new(),
        report,
    };
    loader.file(&sources.file, &sources.root, text, 0)?;
    Some(loader.loaded)
}

struct Loader<'s, 'r> {
    sources: &'s Sources,
    loaded: Loaded<'s>,
    /// What the trees cost so far.
    spent: yaml::Size,
    /// Bytes of the texts so far.
    bytes: usize,
    /// The files on the way to the one that is being read.
    open: Vec<PathBuf>,
    /// Every file that was begun.
    begun: BTreeSet<PathBuf>,
    report: &'r mut Report,
}

impl Loader<'_, '_> {
    /// Reads one file, and those that it includes. `None`: there is nothing in it to go on with.
    fn file(&mut self, path: &Path, dir: &Path, text: &str, base: usize) -> Option<()> {
        self.bytes += text.len();
        check_characters(text, base, self.report)?;
        let (tree, faults) = yaml::read(text, base, &mut self.spent);
        for fault in faults {
            let issue = yaml_issue(fault, &self.report.files);
            self.report.push(issue);
        }
        let mut tree = tree?;
        if !matches!(tree.value, Value::Map(_)) {
            self.report.push(not_a_workspace(&tree, base));
            return None;
        }
        settings::lay_over(&mut tree, &self.sources.settings, &mut self.spent, self.report);
        let number = self.loaded.files.len();
        let env_files = &mut self.loaded.env_files;
        let variables = variables(&tree, number, dir, env_files, self.report);
        replace_variables(&mut tree, &variables, &mut env_files.budget, self.report);
        let raw = FileRaw::read(&tree, &mut Cx::new(self.report, dir, &self.sources.home))?;
        let includes = raw.include.as_ref().map(|include| include.value.0.clone()).unwrap_or_default();
        self.loaded.files.push(WorkspaceFile {
            path: path.to_owned(),
            dir: dir.to_owned(),
            tree: Arc::new(tree),
            raw,
            variables,
        });
        self.begun.insert(path.to_owned());
        self.open.push(path.to_owned());
        for include in &includes {
            if self.include(include).is_none() {
                self.loaded.complete = false;
            }
        }
        self.open.pop();
        Some(())
    }

    /// Reads a file that the open one includes. `None`: not all of it could be read, and the report says why.
    fn include(&mut self, include: &At<IncludeRaw>) -> Option<()> {
        let path = &include.value.0;
        let name = shown(&crate::spans::relative(path, &self.sources.root));
        if let Some(first) = self.open.iter().position(|open| open == path) {
            let issue = error(
                codes::INCLUDE_CYCLE,
                include.span,
                format!("`{name}` is included by what it includes"),
            );
            let way = self.open[first..].iter().chain([path]);
            let way: Vec<_> =
                way.map(|file| shown(&crate::spans::relative(file, &self.sources.root))).collect();
            self.report.push(if way.len() > 2 {
                issue.label(way.join(" → "))
            } else {
                issue.label("the file itself")
            });
            return None;
        }
        // Two files may both need a third one: it is read once.
        if self.begun.contains(path) {
            return Some(());
        }
        let too_costly = |message: String| error(codes::TOO_COSTLY, include.span, message);
        if self.open.len() > MAX_INCLUDE_DEPTH {
            self.report
                .push(too_costly(format!("files include each other more than {MAX_INCLUDE_DEPTH} deep")));
            return None;
        }
        if self.begun.len() + self.loaded.missing.len() >= MAX_FILES {
            self.report.push(too_costly(format!("the workspace has more than {MAX_FILES} files")));
            return None;
        }
        let sources = self.sources;
        let found = sources.files.get(path);
        if found.is_none() {
            self.loaded.missing.insert(path.clone());
        }
        let Some(text) = found.and_then(Option::as_deref) else {
            let issue = error(codes::INCLUDE_UNREADABLE, include.span, format!("`{name}` cannot be read"));
            let is_file = path.extension().is_some_and(|it| it == "yaml" || it == "yml");
            self.report.push(if is_file {
                issue.help("make it, or leave it out of `include`")
            } else {
                issue.help(format!("name the file, not its directory: `{name}/workspace.yaml`"))
            });
            return None;
        };
        if let Some(real) = sources.links.get(path) {
            let real = shown(&crate::spans::relative(real, &sources.root));
            let message = format!("`{name}` leads over a symbolic link to `{real}`");
            self.report.push(
                error(codes::INCLUDE_LINK, include.span, message)
                    .label("links are not followed: they could be changed to lead anywhere")
                    .help(format!("name the path that it leads to: `{real}`")),
            );
            return None;
        }
        if self.bytes + text.len() > yaml::MAX_BYTES {
            let most = yaml::MAX_BYTES;
            self.report
                .push(too_costly(format!("the files of the workspace have more than {most} bytes together")));
            return None;
        }
        let base = self.report.files.add(SourceFile::new(path, text));
        let dir = path.parent().unwrap_or(path);
        self.begun.insert(path.clone());
        self.file(path, dir, text, base)?;
        Some(())
    }
}

fn check_utf8<'s>(sources: &'s Sources, report: &mut Report) -> Option<&'s str> {
    let bytes = sources.text.as_bytes();
    if bytes.len() > yaml::MAX_BYTES {
        let message =
            format!("the file has {} bytes, and a workspace has at most {}", bytes.len(), yaml::MAX_BYTES);
        report.push(error(codes::TOO_COSTLY, Span::default(), message));
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(problem) => {
            let at = problem.valid_up_to();
            let message = format!("the file is not UTF-8: byte {at} is 0x{:02x}", bytes[at]);
            report.push(error(codes::NOT_TEXT, Span::new(at, at), message).help("save it as UTF-8"));
            None
        }
    }
}

pub(crate) fn check_characters(text: &str, base: usize, report: &mut Report) -> Option<()> {
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}');
    let Some((at, c)) = text.char_indices().find(|(_, c)| control(*c)) else { return Some(()) };
    let name = if c == '\0' {
        "a NUL character".to_owned()
    } else {
        format!("the control character U+{:04X}", u32::from(c))
    };
    let span = Span::new(base + at, base + at + c.len_utf8());
    let issue = error(codes::NOT_TEXT, span, format!("the file has {name} in it"));
    report.push(if c == '\0' {
        issue.help("save the file as UTF-8: a NUL is often the sign of UTF-16")
    } else {
        issue.help(format!("in double quotes, write it as an escape: `\"\\x{:02x}\"`", u32::from(c)))
    });
    None
}

pub(crate) fn yaml_issue(fault: yaml::Fault, files: &SourceMap) -> Issue {
    match fault {
        yaml::Fault::Syntax { span, message } => {
            let help = syntax_help(&message, files.line(span));
            let issue = error(codes::SYNTAX, span, "the file is not YAML").label(message);
            match help {
                Some(help) => issue.help(help),
                None => issue,
            }
        }
        yaml::Fault::Budget { span, message } => {
            error(codes::TOO_COSTLY, span, "the file costs too much to read").label(message)
        }
        yaml::Fault::DuplicateKey { key, first, second } => {
            error(codes::DUPLICATE_KEY, second, format!("`{}` stands twice in this mapping", shown(&key)))
                .label("again here")
                .related(first, "first here")
        }
        yaml::Fault::BadKey { span } => error(codes::BAD_KEY, span, "a key must be a text")
            .help("put a text with braces or brackets in quotes"),
    }
}

/// What is behind the faults that people make most.
fn syntax_help(message: &str, line: &str) -> Option<&'static str> {
    if message.contains("mapping values") {
        return Some("put a text that has `: ` in it in quotes");
    }
    if message.contains("tabs") {
        return Some("indent with blanks");
    }
    if message.contains("unsupported tag") {
        return Some("leave the tag out: no value here needs one");
    }
    if message.contains("flow") && line.contains("${") {
        return Some("inside `{ … }` and `[ … ]`, put a text with `${…}` in quotes");
    }
    None
}

fn not_a_workspace(tree: &Node, base: usize) -> Issue {
    let (message, span) = match tree.value {
        Value::Null => ("the file is empty", Span::new(base, base)),
        _ => ("a workspace is a mapping", crate::raw::read::place_of(tree)),
    };
    error(codes::MISSING_KEY, span, message).help("it starts with `services:`, and a service has a `command`")
}

/// The variables for `${…}`: the environment, `--env-file` (a later one wins), `env_file` of the file
/// (a later one wins), `.env` next to the workspace file.
fn variables<'s>(
    tree: &Node,
    number: usize,
    dir: &Path,
    env_files: &mut EnvFiles<'s>,
    report: &mut Report,
) -> Variables<'s> {
    let sources = env_files.sources;
    let mut above = Variables::new(&sources.environment);
    for (path, text) in sources.cli_env_files.iter().rev() {
        let entries = env_files.parse(path, text, &above, Weight::Error, report);
        above.add_below(path, entries);
    }
    let mut all = above.clone();
    let dot_env = sources.dot_env.as_ref().map(|(path, text)| {
        // It may be there for another tool, with another syntax.
        (path, env_files.parse(path, text, &above, Weight::Warning, report))
    });
    // The paths of `env_file` can have variables themselves, of what is known already.
    let mut for_paths = above;
    if let Some((path, entries)) = &dot_env {
        for_paths.add_below(path, entries.clone());
    }
    for path in workspace_env_files(tree, &for_paths, sources, dir).iter().rev() {
        if let Some(entries) = env_files.get(number, path, &all.clone(), report) {
            all.add_below(path, entries.iter().cloned());
        }
    }
    if let Some((path, entries)) = dot_env {
        all.add_below(path, entries);
    }
    all
}

/// The paths in `env_file` of a workspace file. What is wrong with them is told when the file is read.
fn workspace_env_files(
    tree: &Node,
    variables: &Variables<'_>,
    sources: &Sources,
    dir: &Path,
) -> Vec<PathBuf> {
    let Some(entry) = tree.get("env_file") else { return Vec::new() };
    let mut node = entry.value.clone();
    let mut silent = Report::new(SourceFile::new(&sources.file, ""));
    replace_variables(&mut node, variables, &mut vars::MAX_EXPANSION.clone(), &mut silent);
    let mut cx = Cx::new(&mut silent, dir, &sources.home);
    let files = OneOrMany::<EnvFileRaw>::read(&node, &mut cx);
    files.into_iter().flat_map(|files| files.0).map(|file| file.value.path).collect()
}

fn replace_variables(node: &mut Node, variables: &Variables<'_>, budget: &mut usize, report: &mut Report) {
    match &mut node.value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::Seq(items) => {
            items.iter_mut().for_each(|item| replace_variables(item, variables, budget, report));
        }
        Value::Map(entries) => {
            entries
                .iter_mut()
                .for_each(|entry| replace_variables(&mut entry.value, variables, budget, report));
        }
        Value::Text(text) => {
            if !text.text.contains('$') {
                return;
            }
            let expanded = vars::expand(&text.text, &|name| variables.get(name), budget);
            let (span, verbatim) = (node.span, text.verbatim);
            for fault in expanded.faults {
                let place = |at: &std::ops::Range<usize>| {
                    let start = span.start as usize;
                    if verbatim { Span::new(start + at.start, start + at.end) } else { span }
                };
                push_variable_fault(fault, &place, variables, report);
            }
            text.verbatim = verbatim && expanded.text == text.text;
            text.text = expanded.text;
            text.variables = expanded.uses;
        }
    }
}

fn push_variable_fault(
    fault: vars::Fault,
    place: &dyn Fn(&std::ops::Range<usize>) -> Span,
    variables: &Variables<'_>,
    report: &mut Report,
) {
    let unset = match &fault {
        vars::Fault::Unset { name, .. } => Some(name.clone()),
        _ => None,
    };
    let issue = variable_issue(fault, place);
    report.push_with(issue, |issue| suggest_variable(issue, unset.as_deref(), variables));
}

fn suggest_variable(issue: Issue, unset: Option<&str>, variables: &Variables<'_>) -> Issue {
    let Some(name) = unset else { return issue };
    match nearest_exact(name, variables.names()) {
        Some(known) => issue.help(format!("did you mean `{}`?", shown(known))),
        None => issue.help(format!("give it a default, `${{{}:-}}` if empty is meant", shown(name))),
    }
}

fn variable_issue(fault: vars::Fault, place: &dyn Fn(&std::ops::Range<usize>) -> Span) -> Issue {
    match fault {
        vars::Fault::Malformed { at, message } => error(codes::BAD_VARIABLE, place(&at), message).help(
            "the forms are `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; `$$` is a dollar sign",
        ),
        vars::Fault::Bare { at, name } => {
            let name = shown(&name);
            error(codes::BAD_VARIABLE, place(&at), format!("`${name}` can be read in two ways"))
                .help(format!("write `${{{name}}}` for its value now"))
                .help(format!("write `$${name}` to pass `${name}` on"))
        }
        vars::Fault::Required { at, name, message } => {
            let reason =
                if message.is_empty() { "the file insists on it".to_owned() } else { shown(&message) };
            error(codes::VARIABLE_REQUIRED, place(&at), format!("the variable `{}` is not set", shown(&name)))
                .label(reason)
                .help("set it in the environment, with `--env-file`, or in `.env` next to the file")
        }
        vars::Fault::Unset { at, name } => {
            warning(codes::VARIABLE_UNSET, place(&at), format!("the variable `{}` is not set", shown(&name)))
                .label("left empty")
        }
        vars::Fault::TooLong { at } => {
            let message = format!("the variables of the file make more than {} bytes", vars::MAX_EXPANSION);
            error(codes::TOO_COSTLY, place(&at), message)
        }
    }
}

/// How bad a fault in an env file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Error,
    Warning,
}

/// The env files that the workspace files name, each parsed once for each of them.
#[derive(Debug)]
pub(crate) struct EnvFiles<'s> {
    sources: &'s Sources,
    /// What is left of the bytes that variables may make.
    budget: usize,
    /// What is left of [`MAX_ENV_BYTES`].
    bytes: usize,
    read: BTreeMap<(usize, PathBuf), Arc<[dotenv::Entry]>>,
    /// Of what other variables those are made that an env file sets.
    pub(crate) made_of: MadeOf,
}

/// Of what other variables those are made that env files set.
#[derive(Debug, Default)]
pub(crate) struct MadeOf {
    /// By name, in whichever file.
    pub(crate) variables: BTreeMap<String, BTreeSet<String>>,
    /// All that are set by a file.
    pub(crate) files: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl EnvFiles<'_> {
    /// What a file sets for the workspace file of this number; `None` when it could not be read.
    pub(crate) fn get(
        &mut self,
        number: usize,
        path: &Path,
        variables: &Variables<'_>,
        report: &mut Report,
    ) -> Option<Arc<[dotenv::Entry]>> {
        let key = (number, path.to_owned());
        if let Some(known) = self.read.get(&key) {
            return Some(known.clone());
        }
        let text = self.sources.files.get(path)?.as_ref()?;
        let entries: Arc<[_]> = match self.bytes.checked_sub(text.len()) {
            Some(left) => {
                self.bytes = left;
                self.parse(path, text, variables, Weight::Error, report).into()
            }
            None => {
                let message = format!("the env files have more than {MAX_ENV_BYTES} bytes together");
                let start = SourceFile::new(path, "").place(0..0);
                report.push(error(codes::TOO_COSTLY, Span::default(), message).elsewhere(start));
                Arc::default()
            }
        };
        self.read.insert(key, entries.clone());
        Some(entries)
    }

    fn parse(
        &mut self,
        path: &Path,
        text: &str,
        variables: &Variables<'_>,
        weight: Weight,
        report: &mut Report,
    ) -> Vec<dotenv::Entry> {
        let (entries, faults) = dotenv::read(text, &|name| variables.get(name), &mut self.budget);
        if !faults.is_empty() {
            let file = SourceFile::new(path, text);
            for fault in faults {
                let (issue, at, unset) = match fault {
                    dotenv::Fault::Line { at, message } => {
                        (error(codes::ENV_FILE_LINE, Span::default(), message), at, None)
                    }
                    dotenv::Fault::Variable(fault, at) => {
                        let unset = match &fault {
                            vars::Fault::Unset { name, .. } => Some(name.clone()),
                            _ => None,
                        };
                        (variable_issue(fault, &|_| Span::default()), at, unset)
                    }
                };
                let issue = issue.elsewhere(file.place(at));
                let issue = if weight == Weight::Warning { issue.into_warning() } else { issue };
                report.push_with(issue, |issue| suggest_variable(issue, unset.as_deref(), variables));
            }
        }
        for entry in entries.iter().filter(|entry| !entry.uses.is_empty()) {
            let of_variable = self.made_of.variables.entry(entry.name.clone()).or_default();
            of_variable.extend(entry.uses.iter().cloned());
            self.made_of.files.entry(path.into()).or_default().extend(entry.uses.iter().cloned());
        }
        entries
    }
}
