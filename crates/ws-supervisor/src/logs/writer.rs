//! The thread that writes lines to disk.
//!
//! One thread for all services, in turns. What a service writes for longer than it can be kept is not worth the disk's
//! time: each has a [`Budget`]. What the disk refuses stays in memory as long as there is room, and is tried again with
//! the next lines and at the end. Sleeps while there is nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ws_model::ServiceName;

use super::batch::{Batch, marker};
use super::filter::Filter;
use super::{CHUNK, Report, Shared, State, file_of};
use crate::disk::{Bounds, RotatingFile};

/// How many files the writer keeps open.
const MAX_OPEN: usize = 64;

/// The least time between two reports that a service's lines were dropped.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How many bytes a second of a service are written in the long run.
const WRITE_RATE: u64 = 32 << 20;

/// How much of a service may be written to disk now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// What may be written; below zero: what was written in advance.
    bytes: i64,
    at: Instant,
}

impl Budget {
    /// As much as the disk keeps of a service: any burst of which all could still be read is written whole.
    fn most(bounds: Bounds) -> i64 {
        let kept = bounds.part_bytes.saturating_mul(u64::from(bounds.parts) + 1);
        i64::try_from(kept.max(8 << 20)).unwrap_or(i64::MAX)
    }

    pub(super) fn full(bounds: Bounds) -> Self {
        Self { bytes: Self::most(bounds), at: Instant::now() }
    }

    /// What has come in until now; `Err`: when there is something again.
    fn refill(&mut self, bounds: Bounds, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at);
        let earned = passed.as_micros().saturating_mul(u128::from(WRITE_RATE)) / 1_000_000;
        if earned > 0 {
            self.at = now;
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.bytes = self.bytes.saturating_add(earned).min(Self::most(bounds));
        }
        if self.bytes > 0 {
            return Ok(());
        }
        // Enough for a turn.
        let missing = u64::try_from(-self.bytes).unwrap_or(0) + 4 * CHUNK as u64;
        Err(Duration::from_micros(missing.saturating_mul(1_000_000) / WRITE_RATE))
    }

    /// After the disk refused: not at once again.
    fn pause(&mut self) {
        self.bytes = self.bytes.min(0).saturating_sub_unsigned(WRITE_RATE);
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// The writer thread.
pub(super) fn write_to_disk(shared: &Shared) {
    let mut files: BTreeMap<usize, RotatingFile> = BTreeMap::new();
    // Services whose file the disk refused at the last try.
    let mut failing: BTreeSet<usize> = BTreeSet::new();
    // Whether that was said.
    let mut told = false;
    let mut buffer = Vec::new();
    while let Some(Work { i, name, bounds, dropped, batches }) = next_work(shared) {
        let path = file_of(&shared.dir, &name);
        let file = files.entry(i).or_insert_with(|| RotatingFile::new(path.clone(), bounds));
        file.set_bounds(bounds);
        let (mut taken, mut bytes, mut result) = (0, 0, Ok(()));
        for batch in &batches {
            buffer.clear();
            if let (0, Some((lines, seq))) = (taken, dropped) {
                let text = format!("{lines} lines are missing here: the disk was too slow or full");
                marker(&name, seq, &text, &mut buffer);
            }
            batch.render(&Filter::ALL, &mut buffer);
            result = file.append(&buffer);
            if result.is_err() {
                break;
            }
            taken += 1;
            bytes += buffer.len();
        }
        shared.written(i, taken, dropped, bytes);
        if result.is_ok() && failing.remove(&i) {
            // The others may fare better now, too.
            shared.state().queue_all();
        }
        drop(batches);
        buffer.shrink_to(1 << 20);
        if files.values().filter(|file| file.is_open()).count() > MAX_OPEN {
            files.values_mut().for_each(RotatingFile::close);
        }
        if let Err(error) = result {
            failing.insert(i);
            if !told {
                told = true;
                let path = path.display();
                let text = format!("could not write `{path}`: {error}; output is kept in memory only");
                shared.report(Report::Notice { text });
            }
        } else if told && failing.is_empty() {
            told = false;
            let text = "the output of services is written to disk again".to_owned();
            shared.report(Report::Notice { text });
        }
    }
}

/// A service with lines to write.
struct Work {
    i: usize,
    name: ServiceName,
    bounds: Bounds,
    /// How many lines were dropped before these, and the number of the last one.
    dropped: Option<(u64, u64)>,
    batches: Vec<Arc<Batch>>,
}

/// Waits for a service with pending lines, and moves some of them to `writing`; `None` at the end.
fn next_work(shared: &Shared) -> Option<Work> {
    let mut state = shared.state();
    loop {
        let (reports, next_report) = due_reports(&mut state);
        if !reports.is_empty() {
            drop(state);
            reports.into_iter().for_each(|report| shared.report(report));
            state = shared.state();
            continue;
        }
        let next_budget = match take_work(&mut state) {
            Ok(work) => return Some(work),
            Err(next_budget) => next_budget,
        };
        if state.closing {
            return None;
        }
        let next = [next_report, next_budget].into_iter().flatten().min();
        state = match next {
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(after) => shared.work.wait_timeout(state, after).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}

/// Takes the lines of the next service whose turn it is; `Err`: when to look again, where there is something.
fn take_work(state: &mut State) -> Result<Work, Option<Duration>> {
    let now = Instant::now();
    let mut next: Option<Duration> = None;
    for _ in 0..state.dirty.len() {
        let Some(i) = state.dirty.pop_front() else { break };
        let closing = state.closing;
        let log = &mut state.services[i];
        if log.pending.is_empty() {
            log.queued = false;
            continue;
        }
        if let Err(after) = log.budget.refill(log.bounds, now)
            && !closing
        {
            next = Some(next.map_or(after, |next| next.min(after)));
            state.dirty.push_back(i);
            continue;
        }
        let mut bytes = 0;
        while bytes < 4 * CHUNK
            && let Some(batch) = log.pending.pop_front()
        {
            log.pending_bytes -= batch.cost();
            bytes += batch.lines.text.len();
            log.writing.push(batch);
        }
        let dropped = (log.dropped.lines > 0).then_some((log.dropped.lines, log.dropped.last_seq));
        log.dropped.lines = 0;
        let work =
            Work { i, name: log.name.clone(), bounds: log.bounds, dropped, batches: log.writing.clone() };
        log.queued = !log.pending.is_empty();
        if log.queued {
            state.dirty.push_back(i);
        }
        return Ok(work);
    }
    Err(next)
}

impl Shared {
    /// The disk has taken so many of the batches that a service has in `writing`, and refused the rest: that waits
    /// again, as far as there is room, and the end apart not before the next lines come.
    fn written(&self, i: usize, taken: usize, dropped: Option<(u64, u64)>, bytes: usize) {
        let mut state = self.state();
        let room = if state.closing { 0 } else { state.fair(&self.limits) };
        let log = &mut state.services[i];
        let mut batches = std::mem::take(&mut log.writing);
        log.budget.spend(bytes);
        batches.drain(..taken.min(batches.len()));
        if batches.is_empty() {
            return;
        }
        log.budget.pause();
        if taken == 0 {
            // The marker is still owed, too.
            let (lines, seq) = dropped.unwrap_or_default();
            log.dropped.lines += lines;
            log.dropped.last_seq = log.dropped.last_seq.max(seq);
        }
        for batch in batches.into_iter().rev() {
            log.pending_bytes += batch.cost();
            log.pending.push_front(batch);
        }
        log.trim_pending(room);
        log.queued = false;
        state.dirty.retain(|dirty| *dirty != i);
    }
}

/// What is to be reported now, and when to look again where there is something.
fn due_reports(state: &mut State) -> (Vec<Report>, Option<Duration>) {
    let now = Instant::now();
    let closing = state.closing;
    let mut reports = Vec::new();
    let mut next: Option<Duration> = None;
    for log in state.services.iter_mut().filter(|log| log.dropped.bytes > 0) {
        let since = log.dropped.reported.map_or(REPORT_EVERY, |reported| now.duration_since(reported));
        if since >= REPORT_EVERY || closing {
            log.dropped.reported = Some(now);
            let bytes = std::mem::take(&mut log.dropped.bytes);
            reports.push(Report::Dropped { service: log.name.clone(), bytes });
        } else {
            let left = REPORT_EVERY - since;
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    (reports, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_burst_and_then_a_rate() {
        let bounds = Bounds { part_bytes: 10 << 20, parts: 3, max_age: None };
        let mut budget = Budget::full(bounds);
        let start = budget.at;
        budget.spend(40 << 20);
        let wait = budget.refill(bounds, start).unwrap_err();
        assert!((1..100).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(budget.refill(bounds, start + wait), Ok(()));
        budget.spend(32 << 20);
        let wait = budget.refill(bounds, start + wait).unwrap_err();
        assert!((900..1100).contains(&wait.as_millis()), "{wait:?}");
        budget.refill(bounds, start + Duration::from_secs(3600)).unwrap();
        assert_eq!(budget.bytes, 40 << 20);
    }
}
