//! `ws violations`: from the supervisor where one runs, else from what the last one has written.

use std::fs;
use std::path::Path;

use ws_client::EventQuery;
use ws_core::policy::tally::{self, Tally};
use ws_model::wire::ServiceStatus;
use ws_model::{ConfigPath, EventKind, ServiceName, ViolationRow, exit};
use ws_spec::SpanMap;

use crate::args::{Format, PlanOptions};
use crate::cmd::violations::ViolationsArgs;
use crate::error::Failure;
use crate::render::violation::{self, Spot};
use crate::{Context, instances, load, look, names, runtime};

/// `ws violations`
///
/// # Errors
/// When nothing ran here, or a service does not exist.
pub fn show(context: &Context, args: &ViolationsArgs) -> Result<u8, Failure> {
    let lines = Lines::of(context);
    runtime()?.block_on(async {
        let rows = match instances::connect(context).await? {
            Some((client, _)) => {
                let known = client.services().await?;
                let wanted = names::services(&args.services, &known)?;
                tell_what_is_not_seen(context, &known, &wanted);
                if args.follow {
                    // What is told after this is read after it.
                    let since = client.services_at().await?.1;
                    print(context, &client.violations(&wanted).await?, args, &lines)?;
                    let events = client.events(EventQuery { since, follow: true }).await?;
                    let each = |event: ws_model::Event| {
                        let (Some(service), EventKind::Violation(violation)) = (&event.service, &event.kind)
                        else {
                            return Ok(());
                        };
                        if !wanted.is_empty() && !wanted.contains(service) {
                            return Ok(());
                        }
                        let row = tally::row(event.seq, event.at, service, violation);
                        print_one(context, &row, args, &lines)
                    };
                    return look::stream(events, each).await;
                }
                client.violations(&wanted).await?
            }
            None => of_last_run(context, &args.services)?,
        };
        if let Some(file) = &args.junit {
            write(file, &violation::junit(&rows, &|at| lines.find(at)))?;
        }
        print(context, &rows, args, &lines)?;
        Ok(if args.exit_code && !rows.is_empty() { exit::VIOLATION } else { exit::OK })
    })
}

/// That there is nothing of a class says little where it cannot be seen.
fn tell_what_is_not_seen(context: &Context, rows: &[ServiceStatus], wanted: &[ServiceName]) {
    let rows = rows.iter().filter(|row| wanted.is_empty() || wanted.contains(&row.name));
    let mut all: Vec<&String> = rows.flat_map(|row| &row.undetected).collect();
    all.sort_unstable();
    all.dedup();
    for text in all {
        context.ui.note(&format!("not seen here: {text}"));
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text)
        .map_err(|error| Failure::failed(format!("could not write `{}`", file.display())).because(&error))
}

/// Those of the last life of the stack, from its journal.
///
/// # Errors
/// When there was none.
pub fn of_last_run(context: &Context, typed: &[String]) -> Result<Vec<ViolationRow>, Failure> {
    let Some(place) = instances::locate(&context.settings)? else {
        return Err(instances::not_running(context));
    };
    let events = ws_supervisor::last_life(&place.state).map_err(|error| {
        Failure::failed(format!("could not read the journal in `{}`", place.state.display())).because(&error)
    })?;
    if events.is_empty() {
        return Err(instances::not_running(context));
    }
    context.ui.note("nothing runs here: these are the violations of the last run");
    let mut tally = Tally::default();
    events.iter().for_each(|event| tally.add(event));
    let mut rows = tally.rows();
    let told = |name: &str| events.iter().any(|it| it.service.as_ref().is_some_and(|it| it.as_str() == name));
    if let Some(unknown) = typed.iter().find(|name| !told(name)) {
        return Err(Failure::usage(format!("nothing was told of a service `{unknown}` in the last run")));
    }
    let wanted: Vec<&str> = typed.iter().map(String::as_str).collect();
    rows.retain(|row| wanted.is_empty() || wanted.contains(&row.service.as_str()));
    Ok(rows)
}

fn print(
    context: &Context,
    rows: &[ViolationRow],
    args: &ViolationsArgs,
    lines: &Lines,
) -> Result<(), Failure> {
    let locate = |at: &str| lines.find(at);
    match (context.ui.format, args.github, args.follow) {
        (Format::Json, _, false) => context.ui.json(rows),
        (Format::Json, _, true) => rows.iter().try_for_each(|row| context.ui.json_line(row)),
        (Format::Text, true, _) => context.ui.raw(&violation::github(rows, &locate)),
        (Format::Text, false, _) if rows.is_empty() => {
            if !args.follow {
                context.ui.say("no violations");
            }
            Ok(())
        }
        (Format::Text, false, _) => context.ui.data(&violation::rows(rows, &locate)),
    }
}

fn print_one(
    context: &Context,
    row: &ViolationRow,
    args: &ViolationsArgs,
    lines: &Lines,
) -> Result<(), Failure> {
    match context.ui.format {
        Format::Json => context.ui.json_line(row),
        Format::Text => print(context, std::slice::from_ref(row), args, lines),
    }
}

/// Where things stand in the workspace file, if that can be read: for advice only.
#[derive(Debug)]
pub struct Lines {
    spans: Option<SpanMap>,
    /// What the names of files are shown without.
    base: std::path::PathBuf,
}

impl Lines {
    /// Reads the workspace file; says nothing where that cannot be.
    #[must_use]
    pub fn of(context: &Context) -> Self {
        let settings = &context.settings;
        let sources = load::read(settings, &PlanOptions::default()).ok();
        let spans = sources.map(|(_, sources)| ws_spec::parse(&sources).spans);
        let env = |name: &str| settings.around.env.get(name).map(std::path::PathBuf::from);
        // GitHub shows paths below the checkout.
        let base = env("GITHUB_WORKSPACE").unwrap_or_else(|| settings.start.clone());
        Self { spans, base }
    }

    /// The place of `services.api.policy.network`.
    #[must_use]
    pub fn find(&self, at: &str) -> Option<Spot> {
        let spans = self.spans.as_ref()?;
        let path = ConfigPath::parse(at)?;
        let parent = service_of(&path)?;
        // A file that has changed so much that the service is gone says nothing about it.
        if !spans.is_written(&parent) {
            return None;
        }
        let place = spans.locate_key(&path);
        let file = place.file.strip_prefix(&self.base).unwrap_or(&place.file);
        Some(Spot { file: file.display().to_string(), line: place.line })
    }
}

/// The first two steps: `services.api`; the path itself where it has fewer.
fn service_of(path: &ConfigPath) -> Option<ConfigPath> {
    let mut path = path.clone();
    while path.segments().len() > 2 {
        path = path.parent()?;
    }
    Some(path)
}
