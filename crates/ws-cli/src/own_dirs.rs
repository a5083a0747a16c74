//! The directories of `ws` itself are out of every service's sight: in them are the logs and the volumes of
//! others, and the control socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ws_core::plan::{BindSource, Plan};
use ws_model::ServiceName;

use crate::error::Failure;

/// Refuses a plan in which a service sees one of `own`, directories of `ws`.
///
/// # Errors
/// The first that is seen.
pub fn check(plan: &Plan, own: [&Path; 2]) -> Result<(), Failure> {
    let mut sources: BTreeMap<&Path, &ServiceName> = BTreeMap::new();
    for service in plan.services.values() {
        for bind in service.view.system.iter().chain(&service.view.binds) {
            if let BindSource::Host(source) = &bind.source {
                sources.entry(source).or_insert(&service.name);
            }
        }
    }
    for own in own {
        let place = real(own);
        let in_project = plan.services.values().find_map(|service| {
            let repo = service.view.repo.as_ref()?;
            let rest = place.strip_prefix(&repo.root).ok()?;
            let name = rest.iter().next().map(|name| name.to_str());
            // Without a name it is the project itself; a name that is not text is in no view.
            let seen = name.is_none_or(|name| name.is_some_and(|name| repo.shows(name)));
            seen.then_some((repo.root.as_path(), &service.name))
        });
        let bound = || sources.iter().find(|(source, _)| place.starts_with(real(source)));
        if let Some((seen, service)) = in_project.or_else(|| bound().map(|(seen, name)| (*seen, *name))) {
            return Err(Failure::usage(format!(
                "`{}` is no place for what `ws` keeps: `{service}` would see it, in `{}`",
                own.display(),
                seen.display()
            ))
            .hint("the logs, volumes and sockets of all services are in it")
            .hint("name a place outside of the project: `WS_RUNTIME_DIR`, `WS_STATE_DIR`"));
        }
        // A part of it, unless the whole project lies there.
        let part = sources
            .iter()
            .find(|(source, _)| !source.starts_with(&plan.root) && real(source).starts_with(&place));
        if let Some((part, service)) = part {
            return Err(Failure::usage(format!("`{service}` would see `{}`", part.display()))
                .hint(format!(
                    "`{}` is where `ws` keeps the logs, volumes and sockets of all services",
                    own.display()
                ))
                .hint("to keep data across runs, or to share it, name a volume"));
        }
    }
    Ok(())
}

/// A path without symbolic links, also where its end does not exist yet.
fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    match found {
        Some((above, real)) => real.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}
