//! `ws start`, `stop`, `restart` and `kill`: ask, then follow until it is done.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use ws_client::Client;
use ws_model::wire::{Accepted, ServiceStatus};
use ws_model::{Event, EventKind, Phase, ReloadAction, ReloadResult, ServiceName, exit};

use crate::error::Failure;
use crate::follow::{Follow, Outcome, Plan, Verdict};
use crate::instances::Place;
use crate::live::Signals;
use crate::render::progress::Goal;
use crate::render::summary::{self, About};
use crate::ui::{GOOD, paint};
use crate::units::{human_duration, now};
use crate::view::View;
use crate::{Context, causes, instances, load, names, render, runtime};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Start what does not run.
    Start,
    /// Stop, with grace.
    Stop,
    /// Stop and start again.
    Restart,
    /// Kill at once.
    Kill,
}

/// To whom, and how long it is followed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which services; all without any.
    pub services: &'a [String],
    /// Whether to wait until it is done.
    pub wait: bool,
    /// For how long at most.
    pub within: Option<Duration>,
}

/// Does it.
///
/// # Errors
/// When nothing runs, a service does not exist, or it does not become so.
pub fn change(context: &Context, deed: Deed, wanted: Wanted<'_>) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let began = Instant::now();
        let since = now();
        let (client, place) = instances::connected(context).await?;
        let mut signals = Signals::listen()?;
        let before = client.services().await?;
        let named = names::services(wanted.services, &before)?;
        if deed == Deed::Stop {
            say_who_needs_them(context, &place, &before, &named);
        }
        let asked = ask(&client, deed, &named).await?.seq;
        if !wanted.wait {
            return Ok(exit::OK);
        }
        let members = members(deed, &before, &named);
        let goal = match deed {
            Deed::Start | Deed::Restart => Goal::Up,
            Deed::Stop | Deed::Kill => Goal::Down,
        };
        let deadline = wanted.within.map(|within| began + within);
        let plan = Plan { asked, goal, shown: members.clone(), began, deadline };
        let mut follow = Follow::begin(context, &client, plan).await?;
        let mut judge = Judge { deed, members: &members, begun: BTreeSet::new(), kept: BTreeSet::new() };
        let outcome = follow.until(&mut signals, |view, event| judge.judge(view, event)).await;
        let doing = Doing { context, client: &client, place: &place, deed, members: &members };
        match outcome {
            Outcome::Judged(Verdict::Reached) => doing.done(began.elapsed()).await,
            Outcome::Judged(Verdict::Lost(lost)) => {
                causes::report(context, &client, &lost, &follow.view, Some(since)).await;
                Err(Failure::failed(format!("{} failed", quoted(&lost)))
                    .hint("`ws why SERVICE` says more; `ws logs SERVICE` has all of its output"))
            }
            Outcome::TimeUp => {
                let late = judge.late(&follow.view);
                causes::report(context, &client, &late, &follow.view, Some(since)).await;
                let within = human_duration(wanted.within.unwrap_or_default());
                Err(Failure::failed(format!("not {} within {within}: {}", doing.word(), quoted(&late)))
                    .hint("it goes on: `ws ps` shows how far it is"))
            }
            Outcome::Gone(cause) => doing.ended_elsewhere(cause).await,
            Outcome::Interrupted(_) => {
                context.ui.say("interrupted; it goes on: `ws ps` shows how far it is");
                Ok(exit::INTERRUPTED)
            }
        }
    })
}

/// `ws kill -s`: sends a signal to the main processes of services.
///
/// # Errors
/// When nothing runs, a service does not, or there is no such signal.
pub fn signal(context: &Context, services: &[String], signal: &str) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let rows = client.services().await?;
        client.signal(&names::services(services, &rows)?, signal).await?;
        Ok(exit::OK)
    })
}

async fn ask(client: &Client, deed: Deed, services: &[ServiceName]) -> Result<Accepted, Failure> {
    Ok(match deed {
        Deed::Start => client.start(services).await?,
        Deed::Stop => client.stop(services).await?,
        Deed::Restart => client.restart(services).await?,
        Deed::Kill => client.kill(services).await?,
    })
}

/// Who is to become so. Without names: all; of a restart those that ran, as what nobody asked for stays
/// away and what is completed stays completed.
fn members(deed: Deed, before: &[ServiceStatus], named: &[ServiceName]) -> Vec<ServiceName> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let takes_part = |row: &&ServiceStatus| match deed {
        Deed::Start => !row.is_one_off(),
        Deed::Stop | Deed::Kill => row.phase != Phase::Pending,
        Deed::Restart => row.phase != Phase::Pending && !(row.phase == Phase::Exited && row.ready),
    };
    before.iter().filter(takes_part).map(|row| row.name.clone()).collect()
}

/// Knows when it is done.
struct Judge<'a> {
    deed: Deed,
    members: &'a [ServiceName],
    /// Those that have begun a new run since the request.
    begun: BTreeSet<ServiceName>,
    /// Those whose new run failed beside the old one, which goes on.
    kept: BTreeSet<ServiceName>,
}

impl Judge<'_> {
    fn judge(&mut self, view: &View, event: Option<&Event>) -> Option<Verdict> {
        if let Some(Event { service: Some(service), kind: EventKind::Phase { phase, .. }, .. }) = event
            && *phase == Phase::Starting
        {
            self.begun.insert(service.clone());
        }
        // A run that took the place of another, which was ready until then.
        if let Some(Event { service: Some(service), kind, .. }) = event
            && let EventKind::Reloaded { action: ReloadAction::Overlap, result, .. } = kind
        {
            match result {
                ReloadResult::Done => drop(self.begun.insert(service.clone())),
                ReloadResult::Failed => drop(self.kept.insert(service.clone())),
                ReloadResult::Unchanged | ReloadResult::Superseded => {}
            }
        }
        let lost: Vec<ServiceName> = match self.deed {
            // The end of the events is the end of this command then.
            Deed::Start | Deed::Restart if view.is_going_down() => return None,
            // To a view, none means all.
            Deed::Start | Deed::Restart if self.members.is_empty() => Vec::new(),
            Deed::Start | Deed::Restart => view.lost(self.members),
            Deed::Stop | Deed::Kill => Vec::new(),
        };
        if !lost.is_empty() {
            return Some(Verdict::Lost(lost));
        }
        if self.deed == Deed::Restart && !self.kept.is_empty() {
            return Some(Verdict::Lost(self.kept.iter().cloned().collect()));
        }
        self.late(view).is_empty().then_some(Verdict::Reached)
    }

    /// Those that are not there yet.
    fn late(&self, view: &View) -> Vec<ServiceName> {
        let is_there = |name: &ServiceName| {
            let Some(row) = view.services.get(name) else { return true };
            match self.deed {
                Deed::Start => row.is_ready(),
                // Ready, and not the run of before.
                Deed::Restart => row.is_ready() && self.begun.contains(name),
                Deed::Stop | Deed::Kill => row.phase.is_settled_down(),
            }
        };
        self.members.iter().filter(|name| !is_there(name)).cloned().collect()
    }
}

/// What is known at the end.
struct Doing<'a> {
    context: &'a Context,
    client: &'a Client,
    place: &'a Place,
    deed: Deed,
    members: &'a [ServiceName],
}

impl Doing<'_> {
    fn word(&self) -> &'static str {
        match self.deed {
            Deed::Start | Deed::Restart => "ready",
            Deed::Stop => "stopped",
            Deed::Kill => "killed",
        }
    }

    async fn done(&self, took: Duration) -> Result<u8, Failure> {
        let ui = &self.context.ui;
        match self.deed {
            Deed::Start | Deed::Restart => {
                let mut rows = self.client.services().await?;
                rows.retain(|row| self.members.contains(&row.name));
                let about = About { word: self.word(), took: Some(took), ..About::default() };
                ui.say(&summary::line(&rows, &about));
            }
            Deed::Stop | Deed::Kill => {
                ui.say(&format!("{} in {}", paint(GOOD.bold(), self.word()), human_duration(took)));
            }
        }
        Ok(exit::OK)
    }

    /// Whoever wanted it stopped has it so.
    async fn ended_elsewhere(&self, cause: Option<String>) -> Result<u8, Failure> {
        instances::gone(self.context, self.place).await?;
        let said = cause.as_deref().map_or_else(
            || "the supervisor was killed, and everything with it".to_owned(),
            |cause| format!("the stack was taken down meanwhile: {cause}"),
        );
        match self.deed {
            Deed::Start | Deed::Restart => Err(Failure::failed(said)),
            Deed::Stop | Deed::Kill => {
                self.context.ui.say(&said);
                Ok(exit::OK)
            }
        }
    }
}

/// A stop takes nobody else along: so who is left without what it needs is told. As the file says now, when
/// it can be read; it is advice, and no reason to fail.
fn say_who_needs_them(context: &Context, place: &Place, rows: &[ServiceStatus], named: &[ServiceName]) {
    if named.is_empty() {
        return;
    }
    let Some(plan) = load::quietly(&context.settings, place) else { return };
    let runs = |name: &ServiceName| rows.iter().any(|row| row.name == *name && !row.phase.is_settled_down());
    for stopped in named {
        let needs = |service: &&ws_core::plan::ServicePlan| {
            let name = &service.name;
            runs(name) && !named.contains(name) && service.waits.iter().any(|wait| wait.on == *stopped)
        };
        let left: Vec<ServiceName> =
            plan.services.values().filter(needs).map(|service| service.name.clone()).collect();
        if !left.is_empty() {
            let (needs, stays) =
                if left.len() == 1 { ("needs", "stays as it is") } else { ("need", "stay as they are") };
            context.ui.note(&format!(
                "{} {needs} `{stopped}` and {stays}: `ws stop {stopped} {}` stops {}",
                quoted(&left),
                left.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(" "),
                if left.len() == 1 { "both" } else { "them too" },
            ));
        }
    }
}

/// Names for reading: `` `a`, `b` and `c` ``.
#[must_use]
pub fn quoted(names: &[ServiceName]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    render::list(&names)
}
