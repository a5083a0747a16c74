//! Readers: first the lines that are there, then those that come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use ws_model::ServiceName;
use ws_model::wire::LogQuery;

use super::batch::{Batch, marker};
use super::filter::{BadPattern, Filter};
use super::history::History;
use super::{CHUNK, Shared};
use crate::clock;

/// Reads lines as NDJSON: first those that are there, then those that come.
pub struct LogReader {
    history: Option<mpsc::Receiver<Bytes>>,
    follower: Option<Follower>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("follows", &self.follower.is_some()).finish_non_exhaustive()
    }
}

impl LogReader {
    pub(super) fn new(shared: &Arc<Shared>, query: &LogQuery) -> Result<Self, BadPattern> {
        let filter = Filter::of(query)?;
        let wanted: BTreeSet<ServiceName> = query.services.iter().cloned().collect();
        let mut memory: BTreeMap<ServiceName, Vec<Arc<Batch>>> = BTreeMap::new();
        let mut next = BTreeMap::new();
        let changes = shared.closed.subscribe();
        let end = {
            // Whoever writes output waits for this: pointers are copied, nothing is sorted or searched.
            let state = shared.state();
            for (i, log) in state.services.iter().enumerate() {
                if wanted.is_empty() || wanted.contains(&log.name) {
                    let batches = log.writing.iter().chain(&log.pending).chain(&log.ring);
                    memory.insert(log.name.clone(), batches.map(Arc::clone).collect());
                    next.insert(i, log.lines);
                }
            }
            state.next_seq
        };
        let follower = query.follow.then(|| Follower {
            shared: Arc::clone(shared),
            wanted: wanted.clone(),
            next,
            changes,
            filter: filter.for_new(),
        });
        let (tell, history) = mpsc::channel(4);
        let (dir, tail) = (shared.dir.clone(), query.tail);
        tokio::task::spawn_blocking(move || {
            let history = History::open(&dir, memory, &wanted, &filter, tail, end);
            send_chunks(history, &tell);
        });
        Ok(Self { history: Some(history), follower })
    }

    /// Some more whole lines; `None` at the end. May be cancelled and called again without a loss.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(history) = &mut self.history {
            if let Some(chunk) = history.recv().await {
                return Some(chunk);
            }
            self.history = None;
        }
        self.follower.as_mut()?.next().await
    }
}

fn send_chunks(lines: impl Iterator<Item = Vec<u8>>, to: &mpsc::Sender<Bytes>) {
    let mut chunk = Vec::new();
    for line in lines {
        chunk.extend_from_slice(&line);
        if chunk.len() >= CHUNK && to.blocking_send(std::mem::take(&mut chunk).into()).is_err() {
            // The reader is gone.
            return;
        }
    }
    if !chunk.is_empty() {
        // It fails when the reader is gone.
        let _ = to.blocking_send(chunk.into());
    }
}

/// Reads new lines from the rings.
struct Follower {
    shared: Arc<Shared>,
    /// Empty: all.
    wanted: BTreeSet<ServiceName>,
    /// Of each service, the first line that was not read, counted from its first one; absent: 0.
    next: BTreeMap<usize, u64>,
    changes: watch::Receiver<bool>,
    filter: Filter,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Both before looking: what comes afterwards is a change again, or too late.
            let closed = *self.changes.borrow_and_update();
            let left = self.filter.until.map(|until| until.unix_ms.saturating_sub(clock::now().unix_ms));
            let mut out = Vec::new();
            let more = self.take(&mut out);
            if !out.is_empty() {
                return Some(out.into());
            }
            if more {
                continue;
            }
            if closed {
                return None;
            }
            let changed = match left {
                None => self.changes.changed().await,
                Some(left) => {
                    // Already over: below zero.
                    let left = Duration::from_millis(u64::try_from(left).ok()?);
                    match tokio::time::timeout(left + Duration::from_millis(1), self.changes.changed()).await
                    {
                        Ok(changed) => changed,
                        // The wall clock decides, not the one that slept.
                        Err(_) => Ok(()),
                    }
                }
            };
            changed.ok()?;
        }
    }

    /// Takes some lines, in the order of their numbers; false when there were none.
    fn take(&mut self, out: &mut Vec<u8>) -> bool {
        let mut missed = Vec::new();
        let mut batches = Vec::new();
        {
            let state = self.shared.state();
            // The next batch of each service, the oldest on top.
            let mut heads = BinaryHeap::new();
            for (i, log) in state.services.iter().enumerate() {
                if !(self.wanted.is_empty() || self.wanted.contains(&log.name)) {
                    continue;
                }
                let next = self.next.entry(i).or_insert(0);
                let at = log.ring.partition_point(|batch| batch.ordinal < *next);
                if let Some(batch) = log.ring.get(at) {
                    if batch.ordinal > *next {
                        missed.push((log.name.clone(), batch.ordinal - *next, batch.first_seq - 1));
                    }
                    heads.push(Reverse((batch.first_seq, i, at)));
                }
            }
            let mut bytes = 0;
            while bytes < CHUNK
                && let Some(Reverse((_, i, at))) = heads.pop()
            {
                let ring = &state.services[i].ring;
                let batch = Arc::clone(&ring[at]);
                bytes += batch.lines.text.len();
                self.next.insert(i, batch.ordinal + batch.len());
                if let Some(following) = ring.get(at + 1) {
                    heads.push(Reverse((following.first_seq, i, at + 1)));
                }
                batches.push(batch);
            }
            // A service whose batches did not fit is told of what it missed when they do.
            missed.retain(|(name, ..)| batches.iter().any(|batch| batch.service == *name));
        }
        for (service, lines, seq) in missed {
            marker(&service, seq, &format!("{lines} lines were dropped here: the reader was too slow"), out);
        }
        for batch in &batches {
            batch.render(&self.filter, out);
        }
        !batches.is_empty()
    }
}
