//! `ws down`, and what Ctrl-C does to an attached `ws up`: ask the supervisor to end, show how it goes,
//! wait until nothing is left.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use ws_client::{Client, ClientError, EventQuery, LogLines};
use ws_model::wire::DownRequest;
use ws_model::{Event, EventKind, Phase, exit};

use crate::bring_up::next_line;
use crate::error::{Failure, unless_ended};
use crate::instances::{self, Place};
use crate::live::{Block, Ending, FRAME, Signals};
use crate::render::event;
use crate::render::log::Painter;
use crate::render::progress::{self, Goal};
use crate::ui::{GOOD, paint};
use crate::units::human_duration;
use crate::view::View;
use crate::{Context, machine, runtime};

/// `ws down`
///
/// # Errors
/// When something could not be stopped or removed.
pub fn down(context: &Context, now: bool, volumes: bool) -> Result<u8, Failure> {
    let ui = &context.ui;
    runtime()?.block_on(async {
        let Some((client, place)) = instances::connect(context).await? else {
            match instances::locate(&context.settings)? {
                Some(place) if volumes => {
                    let removed = machine::remove_volumes(&place.state)?;
                    ui.say(&removed_text(&removed));
                }
                _ => ui.say("nothing runs here: there is nothing to do"),
            }
            return Ok(exit::OK);
        };
        let mut signals = Signals::listen()?;
        let began = Instant::now();
        let going = Going { context, client: &client, place: &place, logs: None, painter: None };
        let code = going.down(DownRequest { now, volumes }, &mut signals).await?;
        if code == exit::OK {
            ui.say(&summary(began.elapsed()));
        }
        Ok(code)
    })
}

/// The last line: everything is gone.
pub(crate) fn summary(took: Duration) -> String {
    format!("{} in {}", paint(GOOD.bold(), "down"), human_duration(took))
}

fn removed_text(removed: &[String]) -> String {
    match removed {
        [] => "nothing runs here, and there are no volumes: there is nothing to do".to_owned(),
        [one] => format!("nothing runs here; removed the volume {one}"),
        several => format!("nothing runs here; removed the volumes {}", crate::render::list(several)),
    }
}

/// Asks a supervisor to end and waits until nothing is left, without showing anything.
///
/// # Errors
/// When it does not end.
pub async fn ask(
    context: &Context,
    client: &Client,
    place: &Place,
    request: DownRequest,
) -> Result<(), Failure> {
    if let Some((_, since)) = unless_ended(client.services_at().await)?
        && let Some(mut events) = unless_ended(client.events(EventQuery { since, follow: true }).await)?
        && unless_ended(client.down(request).await)?.is_some()
    {
        while let Some(event) = events.next().await {
            if matches!(event, Err(ClientError::Lost { .. })) {
                break;
            }
        }
    }
    instances::gone(context, place).await
}

/// A stack that goes down.
pub(crate) struct Going<'a> {
    pub(crate) context: &'a Context,
    pub(crate) client: &'a Client,
    pub(crate) place: &'a Place,
    /// The last words of the services, for an attached `ws up`.
    pub(crate) logs: Option<LogLines>,
    /// How they look.
    pub(crate) painter: Option<Painter>,
}

impl Going<'_> {
    /// Goes down; interrupting it once more kills. The exit code.
    pub(crate) async fn down(mut self, request: DownRequest, signals: &mut Signals) -> Result<u8, Failure> {
        let ui = &self.context.ui;
        let began = Instant::now();
        let begun = async {
            let Some((rows, since)) = unless_ended(self.client.services_at().await)? else { return Ok(None) };
            let events = unless_ended(self.client.events(EventQuery { since, follow: true }).await)?;
            let accepted = unless_ended(self.client.down(request.clone()).await)?;
            Ok::<_, Failure>(events.zip(accepted).map(|(events, _)| (View::of(&rows), events)))
        };
        let Some((mut view, mut events)) = begun.await? else {
            // Somebody else was faster.
            instances::gone(self.context, self.place).await?;
            return Ok(exit::OK);
        };
        let mut block = Block::new(ui);
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut killed = request.now;
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                ending = signals.next() => {
                    block.clear();
                    if !killed {
                        killed = true;
                        if ending != Ending::HangUp {
                            ui.say("killing everything now");
                        }
                        // It may have ended in this moment: then there is nothing to kill.
                        let _ = self.client.down(DownRequest { now: true, volumes: request.volumes }).await;
                    }
                }
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        view.apply(&event);
                        failed |= is_trouble(&event);
                        if worth_a_line(&event, ui.err_terminal) {
                            block.clear();
                            ui.say(&event::short(&event, view.kind_of(&event)));
                        }
                    }
                    Some(Err(ClientError::Protocol { .. })) => {}
                    Some(Err(_)) | None => break,
                },
                line = next_line(&mut self.logs), if self.logs.is_some() => match (line, &self.painter) {
                    (Some(line), Some(painter)) => {
                        block.clear();
                        // That nobody reads any more must not keep the stack up.
                        let _ = ui.raw(&format!("{}\n", painter.line(&line)));
                    }
                    _ => self.logs = None,
                },
                _ = frames.tick(), if ui.err_terminal => {
                    if let Some(size) = ui.err_size() {
                        block.draw(&progress::block(&view, &[], Goal::Down, began.elapsed(), size));
                    }
                }
            }
        }
        block.clear();
        instances::gone(self.context, self.place).await?;
        Ok(if failed { exit::FAILED } else { exit::OK })
    }
}

/// What a person should read even though the progress block shows the phases.
fn worth_a_line(event: &Event, terminal: bool) -> bool {
    match &event.kind {
        EventKind::Notice { .. } | EventKind::Violation(_) => true,
        EventKind::Phase { phase, .. } => !terminal && *phase != Phase::Pending,
        EventKind::FilesChanged { .. }
        | EventKind::Reloaded { .. }
        | EventKind::PlanChanged { .. }
        | EventKind::PlanApplied { .. }
        | EventKind::PlanRefused { .. }
        | EventKind::SupervisorStarted { .. }
        | EventKind::SupervisorStopped { .. }
        | EventKind::Published { .. }
        | EventKind::WorkspaceReady { .. }
        | EventKind::WorkspaceFailed { .. }
        | EventKind::Status { .. }
        | EventKind::LogDropped { .. } => false,
    }
}

/// While everything goes down, the supervisor gives notice only of what it could not remove.
fn is_trouble(event: &Event) -> bool {
    event.service.is_none() && matches!(event.kind, EventKind::Notice { .. })
}
