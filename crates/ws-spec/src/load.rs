//! From the sources to the raw file: text, tree, variables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codes;
use crate::dotenv;
use crate::raw::FileRaw;
use crate::raw::forms::EnvFileRaw;
use crate::raw::read::{Cx, OneOrMany, Read};
use crate::report::{Issue, Report, SourceFile, error, nearest_exact, shown, warning};
use crate::source::Sources;
use crate::vars::{self, Variables};
use crate::yaml::{self, Node, Span, Value};

/// A file that was read as far as it can be.
#[derive(Debug)]
pub(crate) struct Loaded<'s> {
    pub(crate) tree: Arc<Node>,
    pub(crate) file: FileRaw,
    pub(crate) variables: Variables<'s>,
    pub(crate) env_files: EnvFiles<'s>,
}

/// Reads the text into the raw file. `None`: there is nothing to go on with, and the report says why.
pub(crate) fn load<'s>(sources: &'s Sources, report: &mut Report) -> Option<Loaded<'s>> {
    let text = check_text(sources, report)?;
    let (tree, faults) = yaml::read(text);
    for fault in faults {
        report.push(yaml_issue(fault, text));
    }
    let mut tree = tree?;
    if !matches!(tree.value, Value::Map(_)) {
        report.push(not_a_workspace(&tree));
        return None;
    }
    let mut env_files = EnvFiles { sources, budget: vars::MAX_EXPANSION, read: BTreeMap::new() };
    let variables = variables(&tree, &mut env_files, report);
    replace_variables(&mut tree, &variables, &mut env_files.budget, report);
    let file = FileRaw::read(&tree, &mut Cx::new(report, &sources.root, &sources.home))?;
    Some(Loaded { tree: Arc::new(tree), file, variables, env_files })
}

fn check_text<'s>(sources: &'s Sources, report: &mut Report) -> Option<&'s str> {
    let bytes = sources.text.as_bytes();
    if bytes.len() > yaml::MAX_BYTES {
        let message =
            format!("the file has {} bytes, and a workspace has at most {}", bytes.len(), yaml::MAX_BYTES);
        report.push(error(codes::TOO_COSTLY, Span::default(), message));
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(problem) => {
            let at = problem.valid_up_to();
            let message = format!("the file is not UTF-8: byte {at} is 0x{:02x}", bytes[at]);
            report.push(error(codes::NOT_TEXT, Span::new(at, at), message).help("save it as UTF-8"));
            return None;
        }
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}');
    if let Some((at, c)) = text.char_indices().find(|(_, c)| control(*c)) {
        let name = if c == '\0' {
            "a NUL character".to_owned()
        } else {
            format!("the control character U+{:04X}", u32::from(c))
        };
        let issue =
            error(codes::NOT_TEXT, Span::new(at, at + c.len_utf8()), format!("the file has {name} in it"));
        report.push(if c == '\0' {
            issue.help("save the file as UTF-8: a NUL is often the sign of UTF-16")
        } else {
            issue.help(format!("in double quotes, write it as an escape: `\"\\x{:02x}\"`", u32::from(c)))
        });
        return None;
    }
    Some(text)
}

fn yaml_issue(fault: yaml::Fault, text: &str) -> Issue {
    match fault {
        yaml::Fault::Syntax { span, message } => {
            let help = syntax_help(&message, line_of(text, span));
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

fn line_of(text: &str, span: Span) -> &str {
    let (before, after) = text.split_at_checked(span.start as usize).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = before.len() + after.find('\n').unwrap_or(after.len());
    &text[start..end]
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

fn not_a_workspace(tree: &Node) -> Issue {
    let (message, span) = match tree.value {
        Value::Null => ("the file is empty", Span::default()),
        _ => ("a workspace is a mapping", crate::raw::read::place_of(tree)),
    };
    error(codes::MISSING_KEY, span, message).help("it starts with `services:`, and a service has a `command`")
}

/// The variables for `${…}`: the environment, `--env-file` (a later one wins), `env_file` of the file
/// (a later one wins), `.env`.
fn variables<'s>(tree: &Node, env_files: &mut EnvFiles<'s>, report: &mut Report) -> Variables<'s> {
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
    for path in workspace_env_files(tree, &for_paths, sources).iter().rev() {
        if let Some(entries) = env_files.get(path, &all.clone(), report) {
            all.add_below(path, entries.iter().cloned());
        }
    }
    if let Some((path, entries)) = dot_env {
        all.add_below(path, entries);
    }
    all
}

/// The paths in `env_file` of the workspace. What is wrong with them is told when the file is read.
pub(crate) fn workspace_env_files(tree: &Node, variables: &Variables<'_>, sources: &Sources) -> Vec<PathBuf> {
    let Some(entry) = tree.get("env_file") else { return Vec::new() };
    let mut node = entry.value.clone();
    let mut silent = Report::new(SourceFile::new(&sources.file, ""));
    replace_variables(&mut node, variables, &mut vars::MAX_EXPANSION.clone(), &mut silent);
    let mut cx = Cx::new(&mut silent, &sources.root, &sources.home);
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

/// The env files that the workspace names, each parsed once.
#[derive(Debug)]
pub(crate) struct EnvFiles<'s> {
    sources: &'s Sources,
    /// What is left of the bytes that variables may make.
    budget: usize,
    read: BTreeMap<PathBuf, Arc<[dotenv::Entry]>>,
}

impl EnvFiles<'_> {
    /// What a file sets; `None` when it could not be read.
    pub(crate) fn get(
        &mut self,
        path: &Path,
        variables: &Variables<'_>,
        report: &mut Report,
    ) -> Option<Arc<[dotenv::Entry]>> {
        if let Some(known) = self.read.get(path) {
            return Some(known.clone());
        }
        let text = self.sources.files.get(path)?.as_ref()?;
        let entries: Arc<[_]> = self.parse(path, text, variables, Weight::Error, report).into();
        self.read.insert(path.to_owned(), entries.clone());
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
        entries
    }
}
