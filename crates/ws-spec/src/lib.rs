//! The reader of `workspace.yaml`: text to a validated [`ws_model::Workspace`], with every problem of
//! the file at once, each with its place.
//!
//! Owns the file's syntax and meaning: the raw types with their documentation (the JSON Schema is made
//! from them), variables, defaults, the checks that need nothing but the file, the diagnostics and
//! their codes. Opens no file, reads no environment, starts nothing: [`Sources`] has it all. Never
//! panics on what a user wrote, and its work is bounded whatever they wrote.
//!
//! The way of a file: `yaml` makes a tree with places of the text, `load` replaces variables in it and goes on
//! to the files that it includes, `raw` reads typed values from each and reports every wrong one, `lower` merges
//! defaults and makes the model, `check` looks at what concerns several services. Places are places in all
//! files, as if they stood one behind the other. Read [`parse`] first.

mod amend;
mod borrowed;
mod check;
mod codes;
mod command;
mod compose;
mod config;
mod diag;
mod dotenv;
mod load;
mod lower;
mod raw;
mod report;
mod schema;
mod settings;
mod source;
mod spans;
mod vars;
mod yaml;

use std::path::PathBuf;
use std::sync::Arc;

use ws_model::Workspace;

pub use amend::{Amended, amend, patch};
pub use codes::explain;
pub use config::config;
pub use diag::{Diagnostic, Fix, Place, Style, diagnostics_schema, render, to_json};
pub use schema::schema;
pub use settings::{Settings, written};
pub use source::{Sources, Text};
pub use spans::{SpanMap, diagnose};
pub use ws_model::Severity;

use report::{Report, SourceFile};

/// What became of the sources.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The workspace; present exactly when no diagnostic is an error.
    pub workspace: Option<Workspace>,
    /// Where everything stands in the text.
    pub spans: SpanMap,
    /// All problems, errors and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the workspace.
#[must_use]
pub fn parse(sources: &Sources) -> Parsed {
    let file = SourceFile::new(&sources.file, &String::from_utf8_lossy(sources.text.as_bytes()));
    let mut report = Report::new(file);
    let loaded = load::load(sources, &mut report);
    let trees = loaded.iter().flat_map(|loaded| &loaded.files).map(|file| file.tree.clone()).collect();
    let mut spans = SpanMap::new(report.files.clone(), trees);
    let lowered = loaded.and_then(|loaded| lower::lower(loaded, sources, &mut report));
    let workspace = lowered.map(|lowered| {
        spans.environment = Arc::new(lowered.origins);
        lowered.workspace
    });
    Parsed { workspace: workspace.filter(|_| !report.has_errors()), spans, diagnostics: report.finish() }
}

/// Which further files must be read into [`Sources::files`] before [`parse`]: env files and included workspace files.
/// Tolerates a broken file.
///
/// A file can name others, and the name of one can depend on a variable that another one sets: call it again after
/// reading, until it returns nothing.
#[must_use]
pub fn files_needed(sources: &Sources) -> Vec<PathBuf> {
    // Most files name none, and need not be read twice.
    let text = sources.text.as_bytes();
    let names = |word: &str| text.windows(word.len()).any(|window| window == word.as_bytes());
    if !names("env_file") && !names("include") {
        return Vec::new();
    }
    let mut silent = Report::new(SourceFile::new(&sources.file, ""));
    let Some(loaded) = load::load(sources, &mut silent) else { return Vec::new() };
    let mut needed = loaded.missing;
    let chosen = lower::chosen_profiles(&loaded.files, sources);
    for file in &loaded.files {
        let defaults = file.raw.defaults.as_ref().map(|defaults| &defaults.value);
        let services = file.raw.services.iter().flat_map(|services| &services.value.0);
        let active = services
            .map(|(_, service)| &service.value)
            .filter(|service| lower::is_active(service, defaults, &chosen));
        let of_services = active.chain(defaults).flat_map(lower::env_files_of);
        let builds = file.raw.builds.iter().flat_map(|builds| &builds.value.0);
        let of_builds = builds.filter_map(|(_, build)| build.value.env_file.as_ref());
        let named = file.raw.env_file.iter().chain(of_builds).flat_map(|files| &files.value.0);
        needed.extend(named.map(|file| &file.value).chain(of_services).map(|file| file.path.clone()));
    }
    needed.into_iter().filter(|path| !sources.files.contains_key(path)).collect()
}
