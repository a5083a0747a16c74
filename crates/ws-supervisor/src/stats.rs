//! Samples of what services use, as a stream. Taken only while somebody reads it: an idle supervisor stays idle.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use ws_model::ServiceName;
use ws_model::wire::{StatsQuery, StatsSample};

use crate::api::{Api, Request};

/// Looks for a reader until the supervisor ends, or once.
pub(crate) fn stream(api: Api, query: StatsQuery) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut interval = tokio::time::interval(Duration::from_millis(query.interval_ms));
    // A reader that was slow gets no burst of looks afterwards.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looks = Looks { api, query, interval, before: Before::new(), ended: false };
    stream::unfold(looks, |mut looks| async {
        let chunk = looks.next().await?;
        Some((Ok(chunk), looks))
    })
}

/// The processor time of each unit at the last look.
type Before = BTreeMap<ServiceName, (Instant, u64)>;

struct Looks {
    api: Api,
    query: StatsQuery,
    interval: Interval,
    before: Before,
    ended: bool,
}

impl Looks {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !self.query.follow {
            // The first look is only there to tell the second one's processor time.
            self.look().await?;
            self.ended = true;
        }
        let samples = self.look().await?;
        // An empty line where there is nothing: a client that has gone is noticed when something is written to it.
        let mut chunk = if samples.is_empty() { b"\n".to_vec() } else { Vec::new() };
        for sample in samples {
            serde_json::to_writer(&mut chunk, &sample).ok()?;
            chunk.push(b'\n');
        }
        Some(chunk.into())
    }

    /// The samples of the next look; `None` when the supervisor has ended.
    async fn look(&mut self) -> Option<Vec<StatsSample>> {
        let ended = self.api.journal.ended();
        tokio::select! {
            _ = self.interval.tick() => {}
            () = ended => return None,
        }
        let mut samples = self.api.ask(Request::Usage).await.ok()?;
        if !self.query.services.is_empty() {
            let wanted = self.query.services.clone();
            let names = self.api.ask(|reply| Request::Names(wanted, reply)).await.ok()?;
            samples.retain(|sample| names.contains(&sample.name));
        }
        self.before = compare(&mut samples, &self.before, Instant::now());
        Some(samples)
    }
}

/// Fills in the processor time since the look before; gives what the next look is to be compared with.
fn compare(samples: &mut [StatsSample], before: &Before, now: Instant) -> Before {
    let mut next = Before::new();
    for sample in samples {
        let Some(usec) = sample.cpu_usec else { continue };
        sample.cpu_percent = before.get(&sample.name).and_then(|(at, before)| {
            // Less than before: its sandbox was made anew.
            let used = Duration::from_micros(usec.checked_sub(*before)?);
            let passed = now.duration_since(*at);
            (!passed.is_zero()).then(|| {
                let percent = 100.0 * used.as_secs_f64() / passed.as_secs_f64();
                (percent * 10.0).round() / 10.0
            })
        });
        next.insert(sample.name.clone(), (now, usec));
    }
    next
}

#[cfg(test)]
mod tests {
    use ws_model::Timestamp;

    use super::*;

    fn sample(name: &str, cpu_usec: Option<u64>) -> StatsSample {
        StatsSample {
            at: Timestamp { unix_ms: 0 },
            service: ServiceName::new(name).unwrap(),
            name: ServiceName::new(name).unwrap(),
            memory_bytes: None,
            memory_limit_bytes: None,
            cpu_usec,
            cpu_percent: None,
            pids: None,
        }
    }

    #[test]
    fn percent_is_of_one_processor_since_the_last_look() {
        let start = Instant::now();
        let mut samples = [sample("a", Some(1_000_000)), sample("b", Some(500)), sample("c", None)];
        let before = compare(&mut samples, &Before::new(), start);
        assert!(samples.iter().all(|sample| sample.cpu_percent.is_none()));
        let mut samples = [sample("a", Some(4_000_000)), sample("b", Some(0)), sample("new", Some(7))];
        compare(&mut samples, &before, start + Duration::from_secs(2));
        let percents: Vec<Option<f64>> = samples.iter().map(|sample| sample.cpu_percent).collect();
        assert_eq!(percents, [Some(150.0), None, None], "one that began anew has nothing to compare with");
    }
}
