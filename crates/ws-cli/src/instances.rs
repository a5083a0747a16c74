//! Which instance is meant, whether it runs, and what is left of it when it does not. `ls` and `gc`.
//!
//! An instance is found by the digest of its root and not by its name: so `ws down` works when the file
//! is broken, or its `name` was changed since `ws up`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use ws_client::{Client, LogQuery};
use ws_model::wire::{InstanceRow, InstanceState, LogLine};
use ws_model::{InstanceId, ServiceName, Workspace, WorkspaceName, exit};
use ws_supervisor::state_dir::{self, Acquired, InstanceLock, Record};

use crate::args::Format;
use crate::error::Failure;
use crate::render::ps;
use crate::settings::Settings;
use crate::units::now;
use crate::{Context, machine, runtime};

/// How long a supervisor may take between locking its instance and listening, or between closing its
/// socket and unlocking.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a supervisor may take for an answer to `ls`.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// An instance and its directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The instance.
    pub instance: InstanceId,
    /// The directory above the instances' runtime directories.
    pub runtime: PathBuf,
    /// The instance's own state directory.
    pub state: PathBuf,
}

impl Place {
    /// Of an instance.
    #[must_use]
    pub fn new(settings: &Settings, instance: InstanceId) -> Self {
        let state = settings.dirs.state.join(instance.as_str());
        Self { instance, runtime: settings.dirs.runtime.clone(), state }
    }

    /// Of the workspace that was read.
    #[must_use]
    pub fn of(settings: &Settings, workspace: &Workspace) -> Self {
        Self::new(settings, InstanceId::new(&workspace.name, &workspace.root, settings.suffix().as_ref()))
    }

    /// Where its supervisor listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        state_dir::socket_path(&self.runtime, &self.instance)
    }

    fn runtime_dir(&self) -> PathBuf {
        self.runtime.join(self.instance.as_str())
    }
}

/// The instance that is meant, when there is anything of it.
///
/// # Errors
/// When there is no workspace here, or more than one instance can be meant.
pub fn locate(settings: &Settings) -> Result<Option<Place>, Failure> {
    let rows = list(settings)?;
    if let Some(row) =
        settings.instance.as_ref().and_then(|name| rows.iter().find(|row| row.instance.as_str() == name))
    {
        return Ok(Some(Place::new(settings, row.instance.clone())));
    }
    let found = settings.find().map_err(|failure| {
        if rows.is_empty() {
            failure
        } else {
            failure.hint("`ws ls` lists what there is; `ws -p INSTANCE …` works from anywhere")
        }
    })?;
    let here = of_root(&rows, &found.root, settings.suffix().as_ref());
    let instance = match here.as_slice() {
        [] => return Ok(None),
        [one] => one,
        several => {
            let running: Vec<&&InstanceRow> =
                several.iter().filter(|row| row.state == InstanceState::Running).collect();
            match running.as_slice() {
                [one] => **one,
                // The name was changed between runs: which one is meant, only its user can say.
                _ => {
                    let names: Vec<String> =
                        several.iter().map(|row| format!("`{}`", row.instance)).collect();
                    return Err(Failure::usage(format!(
                        "there are {} of this directory",
                        crate::render::list(&names)
                    ))
                    .hint("say which: `ws -p INSTANCE …`"));
                }
            }
        }
    };
    Ok(Some(Place::new(settings, instance.instance.clone())))
}

fn list(settings: &Settings) -> Result<Vec<InstanceRow>, Failure> {
    Ok(state_dir::list(&settings.dirs.runtime, &settings.dirs.state)?)
}

/// Those of a root, whatever their names are.
fn of_root<'a>(rows: &'a [InstanceRow], root: &Path, suffix: Option<&WorkspaceName>) -> Vec<&'a InstanceRow> {
    let tail = tail(root, suffix);
    rows.iter().filter(|row| row.instance.as_str().ends_with(&tail)).collect()
}

/// What the names of all instances of a root end with.
fn tail(root: &Path, suffix: Option<&WorkspaceName>) -> String {
    let any = WorkspaceName::new("x").expect("a letter is a name");
    let id = InstanceId::new(&any, root, suffix);
    id.as_str().trim_start_matches('x').to_owned()
}

/// The supervisor of the instance that is meant; none when none runs. What a crashed one left is
/// cleared then, and told.
///
/// # Errors
/// When there is no workspace here, or the supervisor does not answer.
pub async fn connect(context: &Context) -> Result<Option<(Client, Place)>, Failure> {
    let Some(place) = locate(&context.settings)? else { return Ok(None) };
    Ok(connect_to(context, &place).await?.map(|client| (client, place)))
}

/// The supervisor of an instance; none when none runs. What a crashed one left is cleared then, and
/// told.
///
/// # Errors
/// When the supervisor does not answer.
pub async fn connect_to(context: &Context, place: &Place) -> Result<Option<Client>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(&place.socket()).await {
            Ok(client) => return Ok(Some(client)),
            Err(error) if error.is_not_running() => {}
            Err(error) => return Err(error.into()),
        }
        if !place.runtime_dir().exists() {
            return Ok(None);
        }
        match state_dir::acquire(&place.runtime, &place.instance)? {
            Acquired::Locked { lock, crashed } => {
                clear(context, place, lock, crashed)?;
                return Ok(None);
            }
            // It has not begun to listen, or has ceased to.
            Acquired::Busy(_) if Instant::now() < deadline => sleep(LOOK).await,
            Acquired::Busy(record) => {
                let who = record
                    .map_or_else(|| "a supervisor".to_owned(), |record| format!("supervisor {}", record.pid));
                return Err(Failure::failed(format!("{who} holds `{}` and does not answer", place.instance))
                    .hint(format!("its log is `{}`", place.state.join("supervisor.log").display())));
            }
        }
    }
}

/// The supervisor of the instance that is meant.
///
/// # Errors
/// When none runs.
pub async fn connected(context: &Context) -> Result<(Client, Place), Failure> {
    connect(context).await?.ok_or_else(|| not_running(context))
}

/// The failure that nothing runs.
#[must_use]
pub fn not_running(context: &Context) -> Failure {
    let what = match (&context.settings.instance, context.settings.find()) {
        (Some(instance), _) => format!("instance `{instance}` does not run"),
        (None, Ok(found)) => format!("nothing of `{}` runs", found.root.display()),
        (None, Err(_)) => "nothing runs here".to_owned(),
    };
    Failure::new(exit::NOT_RUNNING, what).hint("`ws up -d` starts it; `ws ls` lists what runs elsewhere")
}

/// After a supervisor's streams have ended: waits until it has given up its lock. What it left, if it
/// crashed, is cleared and told.
///
/// # Errors
/// When it does not end.
pub async fn gone(context: &Context, place: &Place) -> Result<(), Failure> {
    // One that listens is the next one already.
    connect_to(context, place).await.map(drop)
}

fn clear(
    context: &Context,
    place: &Place,
    lock: InstanceLock,
    crashed: Option<Record>,
) -> Result<(), Failure> {
    if let Some(record) = crashed {
        let cleared = machine::clear_leftovers(&place.instance);
        context.ui.note(&cleared_text(&record, &cleared));
    }
    Ok(lock.remove()?)
}

/// What is told after clearing; `cleared` are phrases.
#[must_use]
pub fn cleared_text(record: &Record, cleared: &[String]) -> String {
    let mut done = vec!["removed its socket and record".to_owned()];
    done.extend_from_slice(cleared);
    format!("supervisor {} of `{}` had crashed: {}", record.pid, record.instance, done.join(", "))
}

/// The services whose logs an instance has kept.
///
/// # Errors
/// When they cannot be read.
pub fn services_with_logs(place: &Place) -> Result<Vec<ServiceName>, Failure> {
    let newest = LogQuery { tail: Some(1), ..LogQuery::default() };
    let services: BTreeSet<ServiceName> = read_logs(place, &newest)?.map(|line| line.service).collect();
    Ok(services.into_iter().collect())
}

/// Lines of the logs that an instance has kept.
///
/// # Errors
/// When they cannot be read.
pub fn read_logs(place: &Place, query: &LogQuery) -> Result<impl Iterator<Item = LogLine> + use<>, Failure> {
    ws_supervisor::logs::read_disk(&place.state, query).map_err(|error| {
        Failure::failed(format!("could not read the logs in `{}`", place.state.display())).because(&error)
    })
}

/// `ws ls`
///
/// # Errors
/// When the directories cannot be read.
pub fn ls(context: &Context) -> Result<u8, Failure> {
    let mut rows = list(&context.settings)?;
    runtime()?.block_on(async {
        let asked = rows.iter_mut().filter(|row| row.state == InstanceState::Running);
        futures_util::future::join_all(asked.map(|row| ask(&context.settings, row))).await;
    });
    match context.ui.format {
        Format::Json => context.ui.json(&rows)?,
        Format::Text if rows.is_empty() => context.ui.say("there are no workspaces; `ws up` starts one"),
        Format::Text => context.ui.data(&ps::instances(&rows, now(), context.ui.out_width()))?,
    }
    Ok(exit::OK)
}

/// Fills in how an instance that runs is. One that does not answer (in time, or in words that this version
/// knows) stays as it is: the others are listed all the same.
async fn ask(settings: &Settings, row: &mut InstanceRow) {
    let client = Client::at(&Place::new(settings, row.instance.clone()).socket());
    let answers = async { Ok::<_, ws_client::ClientError>((client.info().await?, client.services().await?)) };
    let Ok(Ok((info, mut services))) = tokio::time::timeout(ANSWER_WITHIN, answers).await else { return };
    services.retain(|service| !service.is_one_off());
    let count = |n: usize| Some(u32::try_from(n).unwrap_or(u32::MAX));
    row.started_at = Some(info.started_at);
    row.services = count(services.len());
    row.ready = count(services.iter().filter(|service| service.ready).count());
}

/// `ws gc`
///
/// # Errors
/// When something cannot be removed.
pub fn gc(context: &Context) -> Result<u8, Failure> {
    let mut failed = false;
    let mut done = 0;
    for row in list(&context.settings)?.into_iter().filter(|row| row.state == InstanceState::Crashed) {
        let place = Place::new(&context.settings, row.instance);
        let cleared = match state_dir::acquire(&place.runtime, &place.instance) {
            Ok(Acquired::Locked { lock, crashed }) => clear(context, &place, lock, crashed),
            // It was started meanwhile.
            Ok(Acquired::Busy(_)) => continue,
            Err(error) => Err(error.into()),
        };
        match cleared {
            Ok(()) => done += 1,
            Err(failure) => {
                context.ui.fail(&failure);
                failed = true;
            }
        }
    }
    if done == 0 && !failed {
        context.ui.say("there is nothing to clear");
    }
    Ok(if failed { exit::FAILED } else { exit::OK })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_a_root_are_found_whatever_their_name_is() {
        let root = Path::new("/src/shop");
        let ci = WorkspaceName::new("ci").unwrap();
        let id = |name: &str, root: &str, suffix| {
            InstanceId::new(&WorkspaceName::new(name).unwrap(), Path::new(root), suffix)
        };
        let rows: Vec<InstanceRow> = [
            id("shop", "/src/shop", None),
            id("renamed", "/src/shop", None),
            id("shop", "/src/other", None),
            id("shop", "/src/shop", Some(&ci)),
        ]
        .into_iter()
        .map(|instance| InstanceRow::new(instance, InstanceState::Running))
        .collect();
        let found = |suffix| {
            of_root(&rows, root, suffix).into_iter().map(|row| row.instance.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found(None), [rows[0].instance.clone(), rows[1].instance.clone()]);
        assert_eq!(found(Some(&ci)), [rows[3].instance.clone()]);
    }
}
