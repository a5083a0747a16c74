//! Following the stack from a request on until what was asked for is so, cannot be, or somebody has had
//! enough; with progress on a terminal and a line for each step elsewhere. [`crate::bring_up`] has a loop
//! of its own, as it also shows logs.

use tokio::time::{Instant, MissedTickBehavior, interval};
use ws_client::{Client, ClientError, EventQuery, EventStream};
use ws_model::{Event, EventKind, Phase, ServiceName};

use crate::Context;
use crate::error::Failure;
use crate::live::{Block, Ending, FRAME, Signals};
use crate::render::event;
use crate::render::progress::{self, Goal};
use crate::view::View;

/// What a judge says of the stack as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for is so.
    Reached,
    /// These keep it from becoming so; never empty.
    Lost(Vec<ServiceName>),
}

/// How following ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The judge said so.
    Judged(Verdict),
    /// The time ran out.
    TimeUp,
    /// The supervisor ended; why, when it said so.
    Gone(Option<String>),
    /// Somebody interrupted.
    Interrupted(Ending),
}

/// A stack that is followed.
#[derive(Debug)]
pub struct Follow<'a> {
    context: &'a Context,
    events: EventStream,
    /// What is known of it.
    pub view: View,
    /// The last event that `view` began with; those before it are only told.
    known: u64,
    /// The last event before the request.
    asked: u64,
    goal: Goal,
    shown: Vec<ServiceName>,
    began: Instant,
    deadline: Option<Instant>,
}

/// What to follow.
#[derive(Debug)]
pub struct Plan {
    /// The number of the last event before the request ([`ws_model::wire::Accepted`]).
    pub asked: u64,
    /// What progress counts towards.
    pub goal: Goal,
    /// Which services progress shows; empty: all.
    pub shown: Vec<ServiceName>,
    /// When the command began.
    pub began: Instant,
    /// Until when at most.
    pub deadline: Option<Instant>,
}

impl<'a> Follow<'a> {
    /// Begins after a request was accepted.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub async fn begin(context: &'a Context, client: &Client, plan: Plan) -> Result<Self, Failure> {
        let (rows, known) = client.services_at().await?;
        let events = client.events(EventQuery { since: plan.asked, follow: true }).await?;
        let Plan { asked, goal, shown, began, deadline } = plan;
        Ok(Self { context, events, view: View::of(&rows), known, asked, goal, shown, began, deadline })
    }

    /// Follows until `judge` has a verdict. It is asked when there is nothing to tell
    /// yet, and with each event.
    pub async fn until(
        &mut self,
        signals: &mut Signals,
        mut judge: impl FnMut(&View, Option<&Event>) -> Option<Verdict>,
    ) -> Outcome {
        let ui = &self.context.ui;
        let mut block = Block::new(ui);
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = None;
        // Where something has happened already it is told first, and judged with its last event.
        if self.known <= self.asked
            && let Some(verdict) = judge(&self.view, None)
        {
            return Outcome::Judged(verdict);
        }
        loop {
            let event = tokio::select! {
                biased;
                ending = signals.next() => return Outcome::Interrupted(ending),
                () = sleep_until(self.deadline), if self.deadline.is_some() => return Outcome::TimeUp,
                _ = frames.tick(), if ui.err_terminal => {
                    if let Some(size) = ui.err_size() {
                        let lines = progress::block(&self.view, &self.shown, self.goal, self.began.elapsed(), size);
                        block.draw(&lines);
                    }
                    continue;
                }
                event = self.events.next() => match event {
                    Some(Ok(event)) => event,
                    // One that only a later version knows.
                    Some(Err(ClientError::Protocol { .. })) => continue,
                    Some(Err(_)) | None => return Outcome::Gone(stopped),
                },
            };
            if event.seq > self.known {
                self.view.apply(&event);
            }
            if let EventKind::SupervisorStopped { cause } = &event.kind {
                stopped = Some(cause.clone());
            }
            let kind = self.view.kind_of(&event);
            if self.is_worth_a_line(&event) {
                block.clear();
                ui.say(&event::short(&event, kind));
            }
            let verdict = judge(&self.view, Some(&event));
            // The rows are of a later moment than the events before them.
            if let Some(verdict) = verdict.filter(|_| event.seq >= self.known) {
                return Outcome::Judged(verdict);
            }
        }
    }

    fn is_worth_a_line(&self, event: &Event) -> bool {
        let ours =
            event.service.as_ref().is_none_or(|name| self.shown.is_empty() || self.shown.contains(name));
        match &event.kind {
            EventKind::Notice { .. }
            | EventKind::FilesChanged { .. }
            | EventKind::Reloaded { .. }
            | EventKind::PlanChanged { .. }
            | EventKind::PlanRefused { .. }
            | EventKind::Violation(_) => ours,
            // The progress block shows it.
            EventKind::Phase { phase, cause, .. } => {
                let told = *phase != Phase::Pending && !event::is_a_step(*phase, cause);
                ours && !self.context.ui.err_terminal && told
            }
            EventKind::SupervisorStarted { .. }
            | EventKind::SupervisorStopped { .. }
            | EventKind::Published { .. }
            | EventKind::WorkspaceReady { .. }
            | EventKind::WorkspaceFailed { .. }
            | EventKind::Status { .. }
            | EventKind::PlanApplied { .. }
            | EventKind::LogDropped { .. } => false,
        }
    }
}

/// Never, when there is no deadline.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
