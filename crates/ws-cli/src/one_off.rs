//! `ws run`: a one-off command in a sandbox like a service's, with what the service depends on. Where nothing
//! runs, a stack is begun for it, and taken down after it.

use std::pin::pin;

use ws_client::{Client, EventQuery};
use ws_model::wire::{self, DownRequest, ExecResult, RunRequest};
use ws_model::{EventKind, Phase, Reason, ServiceName};

use crate::args::PlanOptions;
use crate::bring_up::{self, Owner};
use crate::error::{Failure, unless_ended};
use crate::inside::{self, Ended, killed_for};
use crate::instances::Place;
use crate::live::Signals;
use crate::units::now;
use crate::view::View;
use crate::{Context, causes, instances, load, names, runtime, take_down};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Like which service.
    pub service: &'a str,
    /// Program and arguments; empty: the service's own.
    pub command: &'a [String],
    /// Added to the service's environment.
    pub env: &'a [(String, String)],
    /// The directory inside.
    pub working_dir: Option<&'a str>,
    /// Whether it gets a terminal when there is one here.
    pub terminal: bool,
    /// Whether what the service depends on is left as it is.
    pub no_deps: bool,
}

/// Runs a one-off and gives its exit code.
///
/// # Errors
/// When it could not be run, or the supervisor ended before it did.
pub fn run(context: &Context, options: &PlanOptions, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        if let Some((client, _)) = instances::connect(context).await? {
            return within(context, &client, wanted).await;
        }
        // What is there for one command is not changed under it.
        let options =
            &PlanOptions { named: vec![wanted.service.to_owned()], no_watch: true, ..options.clone() };
        let planned = load::plan(context, options)?;
        // Before anything is started for it.
        names::service(wanted.service, planned.plan.services.values())?;
        let place = Place::of(&context.settings, &planned.loaded.workspace);
        let (client, owner) = bring_up::reach(context, &planned, &place, options, true).await?;
        match owner {
            // Somebody was faster: it stays theirs.
            Owner::Somebody => within(context, &client, wanted).await,
            Owner::Us(_supervisor) => {
                // It goes down with this process, however that ends.
                let hold = client.hold().await?;
                let ended = within(context, &client, wanted).await;
                down(context, &client, &place).await?;
                drop(hold);
                ended
            }
        }
    });
    // A read of the standard input cannot be cancelled: its thread is left behind.
    runtime.shutdown_background();
    ended
}

/// Takes the stack down that was begun for the one-off; whoever interrupts has no patience for grace.
async fn down(context: &Context, client: &Client, place: &Place) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut going = pin!(take_down::ask(context, client, place, DownRequest::default()));
    tokio::select! {
        biased;
        ended = &mut going => return ended,
        _ = signals.next() => {}
    }
    // It may have ended in this moment: then there is nothing to kill.
    let _ = client.down(DownRequest { now: true, volumes: false }).await;
    going.await
}

async fn within(context: &Context, client: &Client, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let tty = wanted.terminal && inside::has_terminal();
    let since = now();
    let (rows, seq) = client.services_at().await?;
    let unit = names::service(wanted.service, &rows)?;
    // A one-off is like the service, whichever of its replicas was named.
    let service = rows.iter().find(|row| row.name == unit).map_or(unit, |row| row.service.clone());
    let request = RunRequest {
        command: (!wanted.command.is_empty()).then(|| wanted.command.to_vec()),
        env: inside::environment(context, wanted.env, tty),
        working_dir: wanted.working_dir.map(ToOwned::to_owned),
        tty,
        no_deps: wanted.no_deps,
    };
    let ended = inside::attach(client.run(&service, &request).await?, tty).await?;
    if matches!(ended, Ended::Command(ExecResult::NotStarted { .. }))
        && let Some(lost) = lost_for_it(client, &service, seq).await?
    {
        let view = View::of(&unless_ended(client.services().await)?.unwrap_or_default());
        causes::report(context, client, &lost, &view, Some(since)).await;
        return Err(Failure::failed(format!("what `{service}` depends on did not come up"))
            .hint("`--no-deps` runs it without"));
    }
    if ended.may_be_a_kill()
        && let Some(violation) = killed_for(client, seq, |name| wire::is_one_off(name, &service)).await?
    {
        return Err(inside::broke_policy(&service, &violation));
    }
    let program = wanted.command.first().map_or(service.as_str(), String::as_str);
    Ok(inside::code(context, program, ended))
}

/// What has failed, when it is that for which the last one-off of a service could not be started.
async fn lost_for_it(
    client: &Client,
    service: &ServiceName,
    since: u64,
) -> Result<Option<Vec<ServiceName>>, Failure> {
    let mut failed: Vec<ServiceName> = Vec::new();
    let mut for_it = false;
    let mut events = client.events(EventQuery { since, follow: false }).await?;
    while let Some(event) = events.next().await {
        // One that only a later version knows, or the end.
        let Ok(event) = event else { continue };
        let (Some(name), EventKind::Phase { phase, cause, .. }) = (event.service, event.kind) else {
            continue;
        };
        if wire::is_one_off(&name, service) {
            for_it = cause.reason == Reason::DependencyFailed;
            continue;
        }
        failed.retain(|known| *known != name);
        if matches!(phase, Phase::Failed | Phase::Violated) {
            failed.push(name);
        }
    }
    Ok(for_it.then_some(failed))
}
