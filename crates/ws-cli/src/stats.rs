//! `ws stats`: what services use, live or once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use ws_client::{Client, ClientError, StatsQuery};
use ws_model::wire::StatsSample;
use ws_model::{ServiceName, exit};

use crate::args::Format;
use crate::error::Failure;
use crate::live::Signals;
use crate::render::stats;
use crate::ui::Screen;
use crate::{Context, instances, names, runtime};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which services; all without any.
    pub services: &'a [String],
    /// Whether to go on until somebody interrupts.
    pub stream: bool,
    /// The time between two looks.
    pub interval: Duration,
}

/// Shows it.
///
/// # Errors
/// When nothing runs, or a service does not exist.
pub fn stats(context: &Context, wanted: Wanted<'_>) -> Result<u8, Failure> {
    let ui = &context.ui;
    // A table that is redrawn is of use only where it is seen.
    let follow = wanted.stream && (ui.out_terminal || ui.format == Format::Json);
    runtime()?.block_on(async {
        let (client, _) = instances::connected(context).await?;
        let rows = client.services().await?;
        let query = StatsQuery {
            services: names::services(wanted.services, &rows)?,
            interval_ms: u64::try_from(wanted.interval.as_millis()).unwrap_or(u64::MAX),
            follow,
        };
        match ui.format {
            Format::Json => lines(context, &client, &query).await,
            Format::Text if follow => table(context, &client, &query).await,
            Format::Text => once(context, &client, &query).await,
        }
    })
}

/// A sample a line, as they come.
async fn lines(context: &Context, client: &Client, query: &StatsQuery) -> Result<u8, Failure> {
    let samples = client.stats(query).await?;
    crate::look::stream(samples, |sample| context.ui.json_line(&sample)).await
}

async fn once(context: &Context, client: &Client, query: &StatsQuery) -> Result<u8, Failure> {
    let mut samples = client.stats(query).await?;
    let mut signals = Signals::listen()?;
    let mut latest = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(exit::INTERRUPTED),
            sample = samples.next() => match sample {
                Some(sample) => take(&mut latest, sample)?,
                None => break,
            },
        }
    }
    let rows: Vec<StatsSample> = latest.into_values().filter(runs).collect();
    if rows.is_empty() {
        context.ui.say("nothing runs now");
        return Ok(exit::OK);
    }
    context.ui.data(&stats::table(&rows, context.ui.out_width()))?;
    Ok(exit::OK)
}

/// The table, redrawn in place with each look, until somebody interrupts.
async fn table(context: &Context, client: &Client, query: &StatsQuery) -> Result<u8, Failure> {
    let mut samples = client.stats(query).await?;
    let mut signals = Signals::listen()?;
    let mut screen = Screen::new(&context.ui);
    let mut latest: BTreeMap<ServiceName, StatsSample> = BTreeMap::new();
    loop {
        let mut next = tokio::select! {
            biased;
            // It has no end of its own: this is how it is left.
            _ = signals.next() => return Ok(exit::OK),
            sample = samples.next() => Some(sample),
        };
        // All that is there of one look is drawn at once.
        while let Some(sample) = next {
            let Some(sample) = sample else { return Ok(exit::OK) };
            take(&mut latest, sample)?;
            next = samples.next().now_or_never();
        }
        // Who is not in the last look any more uses nothing.
        let look = latest.values().map(|row| row.at).max();
        latest.retain(|_, row| Some(row.at) == look);
        let rows: Vec<StatsSample> = latest.values().filter(|row| runs(row)).cloned().collect();
        screen.draw(&stats::screen(&rows, context.ui.out_size()))?;
    }
}

/// Whether anything of it runs, as far as that is known. What a task left in its caches is no use of it.
fn runs(sample: &StatsSample) -> bool {
    sample.pids != Some(0)
}

fn take(
    latest: &mut BTreeMap<ServiceName, StatsSample>,
    sample: Result<StatsSample, ClientError>,
) -> Result<(), Failure> {
    match sample {
        Ok(sample) => {
            latest.insert(sample.name.clone(), sample);
            Ok(())
        }
        // One that only a later version knows; or the end.
        Err(ClientError::Protocol { .. } | ClientError::Lost { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
