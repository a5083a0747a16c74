//! What a workspace gives its services more than before: than at the last run that was approved on this machine
//! (`ws up`), than at another revision (`ws plan --against`).
//!
//! A workspace file is shared, and a pull can change it. So what was approved last is kept with the instance, as the
//! file that `ws config` would print, without the values of variables; what it gives is compared with what the file
//! gives now, by the same code that compares a change while the stack runs.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use ws_core::change;
use ws_core::plan::{self, PathKind, Plan};
use ws_model::{BuildRef, PlanLine, Workspace, exit};
use ws_spec::{Parsed, Sources};

use crate::args::{Format, PlanOptions};
use crate::error::Failure;
use crate::load::{self, Planned};
use crate::render::difference;
use crate::{Context, machine};

/// In the state directory of an instance.
const FILE: &str = "approved.yaml";

/// What a workspace gives, whatever profiles are chosen.
struct Rights {
    /// As a file.
    text: String,
    plan: Plan,
}

/// Without what is not a right, and could be a secret.
fn without_values(mut workspace: Workspace) -> Workspace {
    for service in workspace.services.values_mut() {
        service.environment.clear();
        if let Some(BuildRef::Own(build)) = &mut service.build {
            build.environment.clear();
        }
    }
    for build in workspace.builds.values_mut() {
        build.environment.clear();
    }
    workspace
}

/// What sources give; `None` where they are not good.
fn of(sources: &Sources) -> Option<Rights> {
    let everything = Sources { profiles: vec!["*".to_owned()], ..sources.clone() };
    // Services of different profiles may exclude each other.
    [&everything, sources].into_iter().find_map(|sources| {
        let Parsed { workspace, spans, .. } = ws_spec::parse(sources);
        let workspace = without_values(workspace?);
        let text = ws_spec::config(&workspace, &spans, false);
        // The same way as what is compared with it: read from its own text.
        of_text(sources, text)
    })
}

/// What a file gives that [`of`] has made.
fn of_text(like: &Sources, text: String) -> Option<Rights> {
    let sources = Sources {
        file: like.file.clone(),
        root: like.root.clone(),
        home: like.home.clone(),
        default_name: like.default_name.clone(),
        text: text.clone().into(),
        ..Sources::default()
    };
    let workspace = ws_spec::parse(&sources).workspace?;
    let mut facts = machine::facts(&workspace);
    // What is not there any more is no reason not to compare.
    for path in plan::paths_of_interest(&workspace) {
        facts.paths.entry(path).or_insert(PathKind::Directory);
    }
    let plan = plan::resolve(&workspace, &facts, &plan::Options::default()).ok()?;
    Some(Rights { text, plan })
}

fn more(before: &Plan, now: &Plan) -> Vec<PlanLine> {
    let mut lines = change::between(before, now).lines;
    lines.retain(|line| line.widens);
    lines
}

/// Before a stack is started: whether what the file gives more than at the last approved run is approved.
///
/// # Errors
/// When it is not.
pub fn approve(context: &Context, planned: &Planned, state: &Path, yes: bool) -> Result<Approval, Failure> {
    let Some(now) = of(&planned.loaded.sources) else { return Ok(Approval(None)) };
    let before = fs::read_to_string(state.join(FILE)).ok();
    let lines = match &before {
        // Nothing was approved here yet.
        None => Vec::new(),
        Some(text) if *text == now.text => Vec::new(),
        Some(text) => match of_text(&planned.loaded.sources, text.clone()) {
            Some(before) => more(&before.plan, &now.plan),
            None => {
                context.ui.note("what was approved here last cannot be read any more, and is not compared");
                Vec::new()
            }
        },
    };
    if !lines.is_empty() {
        let ui = &context.ui;
        ui.warn("the workspace file gives more rights than at the last run here:");
        ui.say(difference::rows(&lines, None).trim_end());
        if !yes && !asks(context, "go on?") {
            return Err(Failure::usage("the workspace file gives more rights than were approved here")
                .hint("`ws plan` shows all that it gives; `ws up --yes` approves it"));
        }
    }
    Ok(Approval(Some(now.text)))
}

/// What was approved, to be kept when it is used.
#[derive(Debug)]
#[must_use]
pub struct Approval(Option<String>);

impl Approval {
    /// What sources give, as somebody wants it now. For `ws apply`.
    pub fn of(sources: &Sources) -> Self {
        Self(of(sources).map(|rights| rights.text))
    }

    /// Keeps it in the state directory of the instance.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(self, state: &Path) -> Result<(), Failure> {
        let Some(text) = self.0 else { return Ok(()) };
        let (file, temporary) = (state.join(FILE), state.join(format!("{FILE}.new")));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &file))
            .map_err(|error| Failure::failed(format!("could not write `{}`", file.display())).because(&error))
    }
}

/// Asks on a terminal; elsewhere nobody says yes.
fn asks(context: &Context, question: &str) -> bool {
    if !context.ui.err_terminal || !io::stdin().is_terminal() {
        return false;
    }
    let mut answer = String::new();
    // Whoever cannot be asked has not said yes.
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// `ws plan --against REV`: what the file gives more, and less, than at another revision.
///
/// # Errors
/// When the file is not good, now or there, or there is no such revision.
pub fn against(context: &Context, options: &PlanOptions, revision: &str) -> Result<u8, Failure> {
    let planned = load::plan(context, options)?;
    let sources = at_revision(&planned.loaded.sources, revision)?;
    let bad = |which: &str| Failure::usage(format!("the workspace file {which} cannot be planned"));
    let before = of(&sources).ok_or_else(|| bad(&format!("at `{revision}`")))?;
    let now = of(&planned.loaded.sources).ok_or_else(|| bad("as it is now"))?;
    let lines = change::between(&before.plan, &now.plan).lines;
    let (wider, others): (Vec<PlanLine>, Vec<PlanLine>) = lines.into_iter().partition(|line| line.widens);
    match context.ui.format {
        Format::Json => context.ui.json(&json!({
            "against": revision,
            "widens": !wider.is_empty(),
            "lines": wider.iter().chain(&others).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            let all: Vec<PlanLine> = wider.iter().chain(&others).cloned().collect();
            if !all.is_empty() {
                context.ui.data(&difference::rows(&all, context.ui.out_width()))?;
            }
            context.ui.say(&match (wider.len(), others.len()) {
                (0, 0) => format!("it gives what it gave at `{revision}`"),
                (0, _) => format!("no service gets more rights than at `{revision}`"),
                (_, _) => difference::summary(&all),
            });
        }
    }
    Ok(exit::OK)
}

/// The sources as they were at a revision of the repository; what is not in it is as it is now.
fn at_revision(now: &Sources, revision: &str) -> Result<Sources, Failure> {
    if revision.starts_with('-') {
        return Err(Failure::usage(format!("`{revision}` is not a revision")));
    }
    let dir = now.file.parent().unwrap_or(Path::new("/"));
    let text = show(dir, revision, &now.file)?;
    let mut sources = Sources { text: text.into(), ..now.clone() };
    sources.files.clear();
    sources.links.clear();
    loop {
        let needed = ws_spec::files_needed(&sources);
        let needed: Vec<PathBuf> =
            needed.into_iter().filter(|file| !sources.files.contains_key(file)).collect();
        if needed.is_empty() {
            return Ok(sources);
        }
        for file in needed {
            let text = show(dir, revision, &file).ok().or_else(|| fs::read_to_string(&file).ok());
            sources.files.insert(file, text);
        }
    }
}

/// A file at a revision.
fn show(dir: &Path, revision: &str, file: &Path) -> Result<String, Failure> {
    let failed = || Failure::usage(format!("could not read `{}` at `{revision}`", file.display()));
    let below = file.strip_prefix(dir).map_err(|error| failed().because(&error))?;
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .arg("show")
        .arg(format!("{revision}:./{}", below.display()))
        .env("GIT_OPTIONAL_LOCKS", "0")
        .output()
        .map_err(|error| failed().because(&error).hint("`git` must be installed"))?;
    if !output.status.success() {
        let mut failure = failed();
        let said = String::from_utf8_lossy(&output.stderr);
        failure.causes.extend(said.lines().next().map(str::to_owned));
        return Err(failure);
    }
    String::from_utf8(output.stdout).map_err(|error| failed().because(&error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let root = std::env::current_dir().expect("a directory");
        Sources {
            file: root.join("workspace.yaml"),
            root,
            text: text.into(),
            home: "/home/me".into(),
            default_name: "shop".to_owned(),
            ..Sources::default()
        }
    }

    fn texts(before: &str, now: &str) -> Vec<String> {
        let (before, now) = (of(&sources(before)).expect("good"), of(&sources(now)).expect("good"));
        // As it is read from where it was kept.
        let kept = of_text(&sources(""), before.text).expect("what was kept can be read");
        more(&kept.plan, &now.plan)
            .iter()
            .map(|line| format!("{}: {}", line.service.as_ref().map_or("-", |it| it.as_str()), line.text))
            .collect()
    }

    #[test]
    fn what_is_more_than_was_approved_is_found_and_nothing_else() {
        let before = "services:\n  api: { command: ./api, environment: { A: \"1\" }, links: [\"db:1\"] }\n  db: { command: ./db }\n";
        assert_eq!(texts(before, before), Vec::<String>::new());
        let other = before.replace("A: \"1\"", "A: \"2\"").replace("./api", "./other");
        assert_eq!(texts(before, &other), Vec::<String>::new(), "a value is no right");
        assert_eq!(
            texts(before, &before.replace("\"db:1\"", "\"db:1\", \"db:2\"")),
            ["api: link to db:2/tcp"]
        );
        assert_eq!(texts(before, &before.replace("\"db:1\"", "")), Vec::<String>::new(), "less is fine");
        let off = before.replace("./db }", "./db, policy: { network: off } }");
        assert_eq!(texts(before, &off), ["db: policy network: report becomes off"]);
    }

    #[test]
    fn a_service_of_a_profile_is_approved_with_the_others() {
        let with = "services:\n  api: { command: ./api }\n  debug: { command: ./d, profiles: [dev], links: [\"api:1\"] }\n";
        assert!(of(&sources(with)).expect("good").text.contains("debug"));
        let chosen = Sources { profiles: vec!["dev".to_owned()], ..sources(with) };
        assert_eq!(of(&sources(with)).map(|it| it.text), of(&chosen).map(|it| it.text));
    }

    #[test]
    fn no_value_of_a_variable_is_kept() {
        let text = "services:\n  api: { command: ./api, environment: { TOKEN: hush }, build: { command: make, environment: { KEY: hush } } }\n";
        let rights = of(&sources(text)).expect("good");
        assert!(!rights.text.contains("hush"), "{}", rights.text);
    }

    #[test]
    fn what_was_approved_is_kept() {
        let temp = tempfile::tempdir().expect("a directory");
        let text = "services:\n  api: { command: ./api }\n";
        Approval::of(&sources(text)).keep(temp.path()).expect("it can be written");
        let kept = fs::read_to_string(temp.path().join(FILE)).expect("it is there");
        assert_eq!(Some(kept), of(&sources(text)).map(|rights| rights.text));
    }
}
