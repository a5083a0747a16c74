//! `ws wait`: until services are as somebody wants them.

use std::time::Duration;

use ws_client::{WaitFor, WaitOutcome, Waited};
use ws_model::{ServiceName, exit};

use crate::args::Format;
use crate::change::quoted;
use crate::error::Failure;
use crate::live::Signals;
use crate::units::human_duration;
use crate::view::View;
use crate::{Context, causes, follow, instances, names, runtime};

/// Waits.
///
/// # Errors
/// When nothing runs, a service does not exist, or it can never become so.
pub fn wait(
    context: &Context,
    typed: &[String],
    condition: WaitFor,
    within: Option<Duration>,
) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let deadline = within.map(|within| tokio::time::Instant::now() + within);
        let (client, place) = instances::connected(context).await?;
        let mut signals = Signals::listen()?;
        let known = client.services().await?;
        let services = names::services(typed, &known)?;
        let waited = tokio::select! {
            biased;
            _ = signals.next() => return Ok(exit::INTERRUPTED),
            () = follow::sleep_until(deadline), if deadline.is_some() => None,
            waited = client.wait_until(&services, condition) => Some(waited?),
        };
        match waited {
            Some(Waited { outcome: WaitOutcome::Reached, services }) => {
                if context.ui.format == Format::Json {
                    context.ui.json(&services)?;
                }
                Ok(exit::OK)
            }
            Some(Waited { outcome: WaitOutcome::Failed(lost), services }) => {
                causes::report(context, &client, &lost, &View::of(&services), None).await;
                Err(Failure::failed(format!("{} cannot become {} by itself", quoted(&lost), word(condition))))
            }
            Some(Waited { outcome: WaitOutcome::Ended, .. }) => {
                instances::gone(context, &place).await?;
                match condition {
                    WaitFor::Stopped => Ok(exit::OK),
                    WaitFor::Ready | WaitFor::Started | WaitFor::Completed => {
                        Err(Failure::failed("the stack was taken down meanwhile"))
                    }
                }
            }
            None => {
                let rows = client.services().await?;
                let wanted = |name: &ServiceName| services.is_empty() || services.contains(name);
                let late: Vec<ServiceName> = rows
                    .iter()
                    .filter(|row| wanted(&row.name) && !condition.is_met(row))
                    .map(|row| row.name.clone())
                    .collect();
                causes::report(context, &client, &late, &View::of(&rows), None).await;
                let within = human_duration(within.unwrap_or_default());
                Err(Failure::new(
                    exit::PASSED_TIMEOUT,
                    format!("not {} within {within}: {}", word(condition), quoted(&late)),
                ))
            }
        }
    })
}

fn word(condition: WaitFor) -> &'static str {
    match condition {
        WaitFor::Ready => "ready",
        WaitFor::Started => "started",
        WaitFor::Stopped => "stopped",
        WaitFor::Completed => "completed",
    }
}
