//! How much output a run writes: measured on its way to the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ws_core::engine::Generation;
use ws_core::host::LogSink;
use ws_model::wire::LogStream;
use ws_model::{Evidence, Mechanism, ServiceName};

use super::{Reporter, Seen};

/// The time over which output is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// Measures the output of a run, all its streams together. Its clones measure the same.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    reporter: Reporter,
    generation: Generation,
    /// [`NO_LIMIT`]: none.
    limit: Arc<AtomicU64>,
    window: Arc<Mutex<Window>>,
}

/// What no output reaches.
pub(crate) const NO_LIMIT: u64 = u64::MAX;

#[derive(Debug)]
struct Window {
    since: Instant,
    bytes: u64,
    /// Whether it was over the limit, which is told once in a window.
    over: bool,
}

impl Meter {
    /// `limit` may change meanwhile.
    pub(crate) fn new(reporter: Reporter, generation: Generation, limit: Arc<AtomicU64>) -> Self {
        let window = Window { since: Instant::now(), bytes: 0, over: false };
        Self { reporter, generation, limit, window: Arc::new(Mutex::new(window)) }
    }

    /// Counts what was read just now.
    pub(crate) fn count(&self, bytes: u64, now: Instant) {
        let limit = self.limit.load(Ordering::Relaxed);
        let over = self.window.lock().unwrap_or_else(PoisonError::into_inner).add(bytes, now, limit);
        if let Some(bytes_per_second) = over {
            let evidence = Evidence::Logs { bytes_per_second, limit };
            self.reporter.tell(Seen::new(Some(self.generation), evidence, Mechanism::Pipe));
        }
    }
}

/// A log whose input is measured.
pub(crate) struct Measured {
    pub(crate) sink: Arc<dyn LogSink>,
    pub(crate) meter: Meter,
}

impl LogSink for Measured {
    fn write(&self, service: &ServiceName, stream: LogStream, bytes: &[u8]) {
        self.meter.count(bytes.len() as u64, Instant::now());
        self.sink.write(service, stream, bytes);
    }

    fn end(&self, service: &ServiceName, stream: LogStream) {
        self.sink.end(service, stream);
    }
}

impl Window {
    /// Adds to the window, or begins the next one; how much it is in a second, when it is over the limit for the first
    /// time in this window.
    fn add(&mut self, bytes: u64, now: Instant, limit: u64) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self { since: now, bytes: 0, over: false };
        }
        self.bytes += bytes;
        let first = self.bytes > limit && !self.over;
        self.over |= first;
        first.then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_told_once_and_the_next_one_again() {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let mut window = Window { since: begin, bytes: 0, over: false };
        let added =
            [(0, 60), (500, 40), (600, 1), (999, 500), (1000, 100), (1500, 1), (2600, 10), (2700, 95)];
        let told: Vec<_> = added.map(|(when, bytes)| window.add(bytes, at(when), 100)).to_vec();
        assert_eq!(told, [None, None, Some(101), None, None, Some(101), None, Some(105)]);
    }
}
