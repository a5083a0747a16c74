//! `ws apply` and `ws set`: another plan for a stack that runs, followed until it is carried out. `ws plan` beside a
//! stack that runs.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use ws_client::{Client, ClientError, EventQuery};
use ws_model::wire::{ApiError, Applying, PlanDifference, PlanFilesRequest, SetRequest};
use ws_model::{EventKind, Phase, ServiceName, exit};

use crate::args::{Format, PlanOptions};
use crate::change::quoted;
use crate::error::Failure;
use crate::follow::{self, Follow, Outcome, Verdict, sleep_until};
use crate::instances::Place;
use crate::live::Signals;
use crate::render::progress::Goal;
use crate::render::{difference, event};
use crate::rights::Approval;
use crate::ui::{GOOD, paint};
use crate::units::{human_duration, now};
use crate::{Context, causes, instances, load, runtime};

/// How long it is followed.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Whether to wait until it is done.
    pub wait: bool,
    /// For how long at most.
    pub within: Option<Duration>,
}

/// `ws apply`
///
/// # Errors
/// When the files have errors, it cannot be carried out, or something does not come up.
pub fn apply(context: &Context, waiting: Waiting) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let began = Instant::now();
        let (client, place) = instances::connected(context).await?;
        let mut signals = Signals::listen()?;
        let applying = client.apply(&request(context)).await.map_err(refused)?;
        // Somebody wants it: what it gives is approved.
        if let Ok((_, sources)) = load::read(&context.settings, &PlanOptions::default()) {
            Approval::of(&sources).keep(&place.state)?;
        }
        let following = Following { context, client: &client, place: &place, began, waiting };
        following.to_the_end(&applying, &mut signals).await
    })
}

/// `ws apply --dry-run`
///
/// # Errors
/// When the files have errors, or nothing runs.
pub fn differences(context: &Context) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let found = client.plan(&request(context)).await.map_err(refused)?;
        if let Some(text) = &found.error {
            return Err(wrong("the files have errors", text));
        }
        match context.ui.format {
            Format::Json => context.ui.json(&found)?,
            Format::Text => show(context, &found)?,
        }
        Ok(exit::OK)
    })
}

fn show(context: &Context, found: &PlanDifference) -> Result<(), Failure> {
    let ui = &context.ui;
    if found.lines.is_empty() {
        ui.say("what the workspace file says is what runs");
        return Ok(());
    }
    ui.data(&difference::rows(&found.lines, ui.out_width()))?;
    ui.say(&difference::summary(&found.lines));
    if found.needs_down {
        ui.note("it cannot be carried out while the stack runs: `ws down`, then `ws up`");
    }
    Ok(())
}

/// `ws set`
///
/// # Errors
/// When there is no such setting, it cannot be carried out, or something does not come up.
pub fn set(
    context: &Context,
    typed: &str,
    settings: &[(String, String)],
    waiting: Waiting,
) -> Result<u8, Failure> {
    let service = ServiceName::new(typed)
        .map_err(|error| Failure::usage(format!("there is no service `{typed}`: {error}")))?;
    let mut all = BTreeMap::new();
    for (key, value) in settings {
        if all.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("`{key}` is given twice")));
        }
    }
    runtime()?.block_on(async {
        let began = Instant::now();
        let (client, place) = instances::connected(context).await?;
        let mut signals = Signals::listen()?;
        let applying = client.set(&SetRequest { service, settings: all }).await.map_err(refused)?;
        let following = Following { context, client: &client, place: &place, began, waiting };
        following.to_the_end(&applying, &mut signals).await
    })
}

/// After a plan that was shown: what is different about what runs, where something runs.
///
/// # Errors
/// When nobody reads it.
pub fn beside_plan(context: &Context, place: &Place) -> Result<(), Failure> {
    let found = runtime()?.block_on(async {
        // What does not answer is for other commands; this one shows a plan.
        let client = Client::connect(&place.socket()).await.ok()?;
        client.plan(&request(context)).await.ok()
    });
    let ui = &context.ui;
    match found {
        None => {}
        Some(PlanDifference { error: Some(_), .. }) => {
            ui.warn("what runs was started otherwise, and the file is not good for that: `ws apply --dry-run` says why");
        }
        Some(found) if found.lines.is_empty() => ui.note("this is what runs"),
        Some(found) => {
            ui.raw("\nwhat is different from what runs:\n")?;
            ui.data(&difference::rows(&found.lines, ui.out_width()))?;
            let carry = if found.needs_down { "`ws down`, then `ws up`" } else { "`ws apply`" };
            ui.note(&format!("{}: {carry} carries it out", difference::summary(&found.lines)));
        }
    }
    Ok(())
}

/// With the variables of this shell, as `ws up` would.
fn request(context: &Context) -> PlanFilesRequest {
    PlanFilesRequest { environment: Some(context.settings.around.env.clone()) }
}

/// What the supervisor refuses with diagnostics is shown as those of our own.
fn refused(error: ClientError) -> Failure {
    match error {
        ClientError::Api { status: 422, error: ApiError { error, help: Some(text) } } => wrong(&error, &text),
        error => error.into(),
    }
}

fn wrong(message: &str, text: &str) -> Failure {
    let mut failure = Failure::usage(message);
    failure.diagnostics = format!("{}\n", text.trim_end());
    failure
}

/// A change that was accepted.
struct Following<'a> {
    context: &'a Context,
    client: &'a Client,
    place: &'a Place,
    began: Instant,
    waiting: Waiting,
}

/// How the first part of it ended.
enum Part {
    /// With the number of the event that says so.
    Applied(u64, Vec<String>),
    TimeUp,
    Gone(Option<String>),
    Interrupted,
}

impl Following<'_> {
    async fn to_the_end(&self, applying: &Applying, signals: &mut Signals) -> Result<u8, Failure> {
        let ui = &self.context.ui;
        match ui.format {
            Format::Json => ui.json(applying)?,
            Format::Text if applying.lines.is_empty() => {}
            Format::Text => ui.data(&difference::rows(&applying.lines, ui.out_width()))?,
        }
        if applying.lines.is_empty() {
            ui.say("nothing is different from what runs");
            return Ok(exit::OK);
        }
        if !self.waiting.wait {
            ui.say(&difference::summary(&applying.lines));
            return Ok(exit::OK);
        }
        let since = now();
        let deadline = self.waiting.within.map(|within| self.began + within);
        let (seq, errors) = match self.applied(applying.seq, deadline, signals).await? {
            Part::Applied(seq, errors) => (seq, errors),
            Part::TimeUp => return Err(self.late("not carried out")),
            Part::Gone(cause) => return Err(self.gone(cause).await?),
            Part::Interrupted => return Ok(self.interrupted()),
        };
        if !errors.is_empty() {
            let mut failure = Failure::failed("not everything could be carried out");
            failure.causes = errors;
            return Err(failure.hint("`ws events` says what happened; `ws apply` tries again"));
        }
        // What nobody wants to run stays as it is.
        let mut rows = self.client.services().await?;
        rows.retain(|row| applying.starts.contains(&row.name));
        let idle = |phase: Phase| matches!(phase, Phase::Pending | Phase::Stopped);
        let members: Vec<ServiceName> =
            rows.into_iter().filter(|row| !idle(row.phase)).map(|row| row.name).collect();
        if !members.is_empty() {
            let plan = follow::Plan {
                asked: seq,
                goal: Goal::Up,
                shown: members.clone(),
                began: self.began,
                deadline,
            };
            let mut follow = Follow::begin(self.context, self.client, plan).await?;
            let judge = |view: &crate::view::View, _: Option<&ws_model::Event>| {
                let lost = view.lost(&members);
                if !lost.is_empty() && !view.is_going_down() {
                    return Some(Verdict::Lost(lost));
                }
                view.wanted(&members).all(|(_, row)| row.is_ready()).then_some(Verdict::Reached)
            };
            match follow.until(signals, judge).await {
                Outcome::Judged(Verdict::Reached) => {}
                Outcome::Judged(Verdict::Lost(lost)) => {
                    causes::report(self.context, self.client, &lost, &follow.view, Some(since)).await;
                    return Err(Failure::failed(format!("{} failed", quoted(&lost)))
                        .hint("`ws why SERVICE` says more; `ws logs SERVICE` has all of its output"));
                }
                Outcome::TimeUp => return Err(self.late(&format!("not ready: {}", quoted(&members)))),
                Outcome::Gone(cause) => return Err(self.gone(cause).await?),
                Outcome::Interrupted(_) => return Ok(self.interrupted()),
            }
        }
        let took = human_duration(self.began.elapsed());
        ui.say(&format!(
            "{} in {took}: {}",
            paint(GOOD.bold(), "carried out"),
            difference::summary(&applying.lines)
        ));
        Ok(exit::OK)
    }

    /// Until the machine has done its part.
    async fn applied(
        &self,
        seq: u64,
        deadline: Option<Instant>,
        signals: &mut Signals,
    ) -> Result<Part, Failure> {
        let mut events = self.client.events(EventQuery { since: seq, follow: true }).await?;
        let mut stopped = None;
        loop {
            let event = tokio::select! {
                biased;
                _ = signals.next() => return Ok(Part::Interrupted),
                () = sleep_until(deadline), if deadline.is_some() => return Ok(Part::TimeUp),
                event = events.next() => match event {
                    Some(Ok(event)) => event,
                    // One that only a later version knows.
                    Some(Err(ClientError::Protocol { .. })) => continue,
                    Some(Err(_)) | None => return Ok(Part::Gone(stopped)),
                },
            };
            match &event.kind {
                EventKind::PlanApplied { errors } => return Ok(Part::Applied(event.seq, errors.clone())),
                EventKind::SupervisorStopped { cause } => stopped = Some(cause.clone()),
                // What is about a service is an error of this command.
                EventKind::Notice { .. } if event.service.is_none() => {
                    self.context.ui.say(&event::short(&event, None));
                }
                EventKind::SupervisorStarted { .. }
                | EventKind::Phase { .. }
                | EventKind::Published { .. }
                | EventKind::WorkspaceReady { .. }
                | EventKind::WorkspaceFailed { .. }
                | EventKind::LogDropped { .. }
                | EventKind::Status { .. }
                | EventKind::FilesChanged { .. }
                | EventKind::Reloaded { .. }
                | EventKind::PlanChanged { .. }
                | EventKind::PlanRefused { .. }
                | EventKind::Violation(_)
                | EventKind::Notice { .. } => {}
            }
        }
    }

    fn late(&self, what: &str) -> Failure {
        let within = human_duration(self.waiting.within.unwrap_or_default());
        Failure::failed(format!("{what} within {within}")).hint("it goes on: `ws ps` shows how far it is")
    }

    async fn gone(&self, cause: Option<String>) -> Result<Failure, Failure> {
        instances::gone(self.context, self.place).await?;
        Ok(Failure::failed(match cause {
            Some(cause) => format!("the stack was taken down meanwhile: {cause}"),
            None => "the supervisor was killed, and everything with it".to_owned(),
        }))
    }

    fn interrupted(&self) -> u8 {
        self.context.ui.say("interrupted; it goes on: `ws ps` shows how far it is");
        exit::INTERRUPTED
    }
}
