//! `ws learn`: from the violations of a run to a patch of the workspace file.

use std::fs;
use std::path::Path;

use serde_json::json;
use ws_core::policy::learn::{self, Learned};
use ws_model::exit;
use ws_spec::Amended;

use crate::args::{Format, PlanOptions};
use crate::cmd::learn::LearnArgs;
use crate::error::Failure;
use crate::{Context, instances, load, names, runtime, violations};

/// `ws learn`
///
/// # Errors
/// When nothing ran here, something is wrong with the file, or it cannot be written.
pub fn learn(context: &Context, args: &LearnArgs) -> Result<u8, Failure> {
    let planned = load::plan(context, &PlanOptions::default())?;
    names::services(&args.services, planned.plan.services.values())?;
    let rows = runtime()?.block_on(async {
        match instances::connect(context).await? {
            Some((client, _)) => Ok(client.violations(&[]).await?),
            None => violations::of_last_run(context, &[]),
        }
    })?;
    let Learned { mut wishes, left } = learn::learn(&planned.plan, &rows);
    wishes.retain(|wish| {
        args.services.is_empty() || args.services.iter().any(|it| *it == wish.service.as_str())
    });
    let amended = ws_spec::amend(&planned.loaded.sources, &wishes)
        .ok_or_else(|| Failure::failed("the workspace file has changed while it was read"))?;
    let Amended { files, left: unwritten, .. } = &amended;
    if args.write {
        for (file, before, after) in files {
            write(file, before, after)?;
        }
    }
    let name =
        |file: &Path| file.strip_prefix(&planned.loaded.found.root).unwrap_or(file).display().to_string();
    let patches: Vec<String> =
        files.iter().map(|(file, before, after)| ws_spec::patch(&name(file), before, after)).collect();
    let unwritten: Vec<String> = unwritten.iter().map(|(wish, why)| format!("{wish}: {why}")).collect();
    match context.ui.format {
        Format::Json => context.ui.json(&json!({
            "wishes": wishes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "patch": patches.concat(),
            "written": args.write && !files.is_empty(),
            "left": unwritten.iter().chain(&left).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            context.ui.raw(&patches.concat())?;
            for text in unwritten.iter().chain(&left) {
                context.ui.say(&format!("left to you: {text}"));
            }
            match (files.len(), args.write) {
                (0, _) if unwritten.is_empty() => {
                    context.ui.say("nothing that a right of the file would allow");
                }
                (0, _) => {}
                (_, true) => context.ui.say("written; `ws apply` takes it over into what runs"),
                (_, false) => context.ui.say("`ws learn --write` writes it"),
            }
        }
    }
    Ok(if unwritten.is_empty() { exit::OK } else { exit::FAILED })
}

/// Only what was read is replaced.
fn write(file: &Path, before: &str, after: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        Failure::failed(format!("could not write `{}`", file.display())).because(error)
    };
    let now = fs::read_to_string(file).map_err(|error| failed(&error))?;
    if now != before {
        return Err(Failure::failed(format!("`{}` has changed while it was read", file.display()))
            .hint("run it again"));
    }
    fs::write(file, after).map_err(|error| failed(&error))
}
