//! The journal: every event of an instance, numbered, kept within bounds, written to disk and followed.
//!
//! A reader holds nothing but the number of the last event that it has: a slow one takes what it misses
//! from the ring in memory or, when that has moved on, from disk. So a reader misses nothing that is
//! kept, and nobody waits for a reader or for the disk. What the disk refuses (it is full, or cannot be written) waits
//! in memory for the next event, and for the end; that is told once, and once when it is over. The numbers go on across
//! supervisors; after one that did not end well some are left out, so that a number that was told and not written is
//! never told again for another event. Times are what the wall clock said; nothing is ordered by them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use ws_model::wire::EventQuery;
use ws_model::{Event, EventKind, ServiceName};

use crate::clock;
use crate::disk::{Bounds, MAX_SEQ, Parts, RotatingFile};

const FILE: &str = "journal.ndjson";
const BOUNDS: Bounds = Bounds { part_bytes: 4 << 20, parts: 1, max_age: None };

/// Bytes of events in memory.
const RING_BYTES: usize = 1 << 20;

/// Bytes of events that may wait for the disk; beyond it the oldest are given up.
const PENDING_BYTES: usize = 16 << 20;

/// About how many bytes are handed on at a time.
const CHUNK: usize = 64 << 10;

/// Numbers that are left out after a supervisor that did not end well: more than the events that it may
/// have told and not written.
const CRASH_GAP: u64 = 1000;

/// What the journal on disk ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    /// The number of its last event; 0 when there is none.
    pub(crate) seq: u64,
    /// Whether its supervisor ended well, or there was none.
    pub(crate) clean: bool,
}

/// What the journal of an instance ends with.
pub(crate) fn last_of(state_dir: &Path) -> io::Result<Last> {
    // A supervisor makes the file before it tells anything: one that is empty was left by one that did not get to
    // write what it had told.
    let nothing_told = !state_dir.join(FILE).exists();
    let mut whole = true;
    for line in Parts::open(&state_dir.join(FILE))?.lines_backwards() {
        if let Ok(head) = serde_json::from_slice::<Head>(&line)
            && head.seq <= MAX_SEQ
        {
            return Ok(Last { seq: head.seq, clean: whole && head.kind == "supervisor_stopped" });
        }
        whole = false;
    }
    Ok(Last { seq: 0, clean: whole && nothing_told })
}

/// The events of the last supervisor of an instance that are on disk: for whoever asks when it has ended.
///
/// # Errors
/// When they cannot be read.
pub fn last_life(state_dir: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in Parts::open(&state_dir.join(FILE))?.lines_backwards() {
        // One that only a later version knows, or of which a part was written.
        let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
        let is_first = matches!(event.kind, EventKind::SupervisorStarted { .. });
        events.push(event);
        if is_first {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

/// The events of an instance. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// Something is pending, or the end has come.
    work: Condvar,
    /// Changes with every event; true: there will be no more.
    closed: watch::Sender<bool>,
}

struct State {
    last_seq: u64,
    ring: VecDeque<(u64, Bytes)>,
    ring_bytes: usize,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    /// The disk refused what is pending, and nothing new has come since.
    refused: bool,
    closing: bool,
}

impl State {
    /// Gives up the oldest events that wait for the disk and have no room.
    fn trim(&mut self) {
        while self.pending_bytes > PENDING_BYTES
            && let Some(oldest) = self.pending.pop_front()
        {
            self.pending_bytes -= oldest.len();
        }
    }
}

/// The end of the thread that writes the journal to disk.
#[derive(Debug)]
pub(crate) struct Writer {
    ended: std::sync::mpsc::Receiver<()>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// The journal in a state directory; goes on with its numbers. `notice` is called when the disk
    /// refuses, and when it takes again, from another thread.
    pub(crate) fn open(
        state_dir: &Path,
        notice: impl Fn(String) + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let last = last_of(state_dir)?;
        // A disk that refuses even this is told by the writer.
        let _ = crate::disk::touch(&state_dir.join(FILE));
        let shared = Arc::new(Shared {
            path: state_dir.join(FILE),
            state: Mutex::new(State {
                last_seq: last.seq + if last.clean { 0 } else { CRASH_GAP },
                ring: VecDeque::new(),
                ring_bytes: 0,
                pending: VecDeque::new(),
                pending_bytes: 0,
                refused: false,
                closing: false,
            }),
            work: Condvar::new(),
            closed: watch::Sender::new(false),
        });
        let (tell, ended) = std::sync::mpsc::channel::<()>();
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new().name("ws-journal".to_owned()).spawn(move || {
            write_to_disk(&of_writer, &notice);
            drop(tell);
        })?;
        Ok((Self { shared }, Writer { ended }))
    }

    /// The number of the last event.
    pub(crate) fn last_seq(&self) -> u64 {
        self.shared.state().last_seq
    }

    /// Tells something: gives it its number and time.
    pub(crate) fn append(&self, service: Option<ServiceName>, kind: EventKind) -> u64 {
        let mut state = self.shared.state();
        let seq = state.last_seq + 1;
        let event = Event { seq, at: clock::now(), service, kind };
        let mut line = serde_json::to_vec(&event).expect("an event is always JSON");
        line.push(b'\n');
        let line = Bytes::from(line);
        state.last_seq = seq;
        state.ring_bytes += line.len();
        state.ring.push_back((seq, line.clone()));
        while state.ring_bytes > RING_BYTES
            && let Some((_, oldest)) = state.ring.pop_front()
        {
            state.ring_bytes -= oldest.len();
        }
        state.pending_bytes += line.len();
        state.pending.push_back(line);
        state.trim();
        state.refused = false;
        drop(state);
        self.shared.work.notify_one();
        self.shared.closed.send_modify(|_| ());
        seq
    }

    /// Events that are there and, when asked for, those that come.
    pub(crate) fn read(&self, query: EventQuery) -> EventReader {
        let changes = self.shared.closed.subscribe();
        EventReader {
            shared: Arc::clone(&self.shared),
            changes,
            last: query.since,
            follow: query.follow,
            disk: None,
        }
    }

    /// Ends all that follow, once they have read what is there. Nothing may be told afterwards.
    pub(crate) fn end_readers(&self) {
        self.shared.closed.send_replace(true);
    }

    /// Whether [`Self::end_readers`] was called; resolves when it is.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.shared.closed.subscribe();
        async move {
            // An error: the journal is gone, which is an end too.
            let _ = changes.wait_for(|closed| *closed).await;
        }
    }

    /// Writes to disk what waits for it; false when the disk does not take it in time. Blocks.
    pub(crate) fn flush(&self, writer: &Writer, within: Duration) -> bool {
        self.shared.state().closing = true;
        self.shared.work.notify_all();
        !matches!(writer.ended.recv_timeout(within), Err(std::sync::mpsc::RecvTimeoutError::Timeout))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer thread.
fn write_to_disk(shared: &Shared, notice: &impl Fn(String)) {
    let mut file = RotatingFile::new(shared.path.clone(), BOUNDS);
    let mut failing = false;
    loop {
        let mut state = shared.state();
        while (state.pending.is_empty() || state.refused) && !state.closing {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.pending.is_empty() {
            return;
        }
        let events: Vec<Bytes> = state.pending.drain(..).collect();
        state.pending_bytes = 0;
        let closing = state.closing;
        drop(state);
        let result = file.append(&events.concat());
        if result.is_err() && closing {
            return;
        }
        match (result, failing) {
            (Err(error), told) => {
                // They wait on, as far as there is room, and are tried again with the next one and at the end.
                let mut state = shared.state();
                for event in events.into_iter().rev() {
                    state.pending_bytes += event.len();
                    state.pending.push_front(event);
                }
                state.trim();
                state.refused = !state.closing;
                drop(state);
                if !told {
                    failing = true;
                    let path = shared.path.display();
                    notice(format!("could not write `{path}`: {error}; events are kept in memory only"));
                }
            }
            (Ok(()), true) => {
                failing = false;
                notice("events are written to disk again".to_owned());
            }
            (Ok(()), false) => {}
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads events as NDJSON.
#[derive(Debug)]
pub(crate) struct EventReader {
    shared: Arc<Shared>,
    changes: watch::Receiver<bool>,
    /// The last one that was read, or is being read from `disk`.
    last: u64,
    follow: bool,
    /// Events that the ring does not have any more.
    disk: Option<mpsc::Receiver<Bytes>>,
}

impl EventReader {
    /// Some more whole lines; `None` at the end. May be cancelled and called again without a loss.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(disk) = &mut self.disk {
                if let Some(chunk) = disk.recv().await {
                    return Some(chunk);
                }
                self.disk = None;
            }
            // Before looking: what comes afterwards is a change again.
            let closed = *self.changes.borrow_and_update();
            if self.read_ring_from_disk() {
                continue;
            }
            let chunk = self.take();
            if !chunk.is_empty() {
                return Some(chunk);
            }
            if !self.follow || closed || self.changes.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Begins to read from disk what lies before the ring; false when there is nothing.
    fn read_ring_from_disk(&mut self) -> bool {
        let before = {
            let state = self.shared.state();
            state.ring.front().map_or(state.last_seq + 1, |(seq, _)| *seq)
        };
        if self.last + 1 >= before {
            return false;
        }
        let (after, path) = (self.last, self.shared.path.clone());
        let (tell, disk) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || send_from_disk(&path, after, before, &tell));
        self.last = before - 1;
        self.disk = Some(disk);
        true
    }

    /// The events in the ring that were not read.
    fn take(&mut self) -> Bytes {
        let state = self.shared.state();
        let at = state.ring.partition_point(|(seq, _)| *seq <= self.last);
        let mut chunk = Vec::new();
        for (seq, line) in state.ring.iter().skip(at) {
            chunk.extend_from_slice(line);
            self.last = *seq;
            if chunk.len() >= CHUNK {
                break;
            }
        }
        chunk.into()
    }
}

/// Sends the events on disk between two numbers, both excluded.
fn send_from_disk(path: &Path, mut after: u64, before: u64, to: &mpsc::Sender<Bytes>) {
    // What cannot be read is not there.
    let Ok(parts) = Parts::open(path) else { return };
    let mut chunk = Vec::new();
    for line in parts.lines() {
        // Going up: a part that was met twice is read once.
        if let Ok(Head { seq, .. }) = serde_json::from_slice(&line)
            && after < seq
            && seq < before
        {
            after = seq;
            chunk.extend_from_slice(&line);
            chunk.push(b'\n');
            if chunk.len() >= CHUNK && to.blocking_send(std::mem::take(&mut chunk).into()).is_err() {
                return;
            }
        }
    }
    if !chunk.is_empty() {
        // A reader that is gone needs nothing.
        let _ = to.blocking_send(chunk.into());
    }
}

/// What of an event is needed to choose it.
#[derive(Deserialize)]
struct Head {
    seq: u64,
    kind: String,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn open(dir: &Path) -> (Journal, Writer) {
        Journal::open(dir, |_| ()).unwrap()
    }

    fn notice(n: usize) -> EventKind {
        EventKind::Notice { text: format!("notice {n} {}", "x".repeat(200)) }
    }

    async fn all(mut reader: EventReader) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(chunk) = reader.next().await {
            events.extend(
                chunk.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()),
            );
        }
        events
    }

    fn since(since: u64) -> EventQuery {
        EventQuery { since, follow: false }
    }

    fn end_well(journal: &Journal, writer: &Writer) {
        journal.append(None, EventKind::SupervisorStopped { cause: "asked".to_owned() });
        assert!(journal.flush(writer, Duration::from_secs(60)));
    }

    #[test]
    fn the_events_of_the_last_life_can_be_read_when_it_is_over() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(last_life(temp.path()).unwrap(), Vec::new());
        for life in 1..=2 {
            let (journal, writer) = open(temp.path());
            journal.append(None, EventKind::SupervisorStarted { version: "0".to_owned(), pid: life });
            journal.append(None, notice(life as usize));
            end_well(&journal, &writer);
        }
        let events = last_life(temp.path()).unwrap();
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [4, 5, 6]);
        assert!(matches!(events[0].kind, EventKind::SupervisorStarted { pid: 2, .. }));
    }

    #[tokio::test]
    async fn numbers_go_on_across_supervisors() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, writer) = open(temp.path());
        assert_eq!(journal.append(None, notice(1)), 1);
        end_well(&journal, &writer);
        let (journal, writer) = open(temp.path());
        assert_eq!(journal.append(None, notice(3)), 3);
        let seqs: Vec<u64> = all(journal.read(since(0))).await.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert!(journal.flush(&writer, Duration::from_secs(60)));

        // This one did not end well.
        let (journal, _writer) = open(temp.path());
        assert_eq!(journal.append(None, notice(4)), 3 + CRASH_GAP + 1);
        let seqs: Vec<u64> = all(journal.read(since(2))).await.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [3, 3 + CRASH_GAP + 1]);
    }

    #[tokio::test]
    async fn a_journal_without_an_event_was_left_by_a_crash() {
        let temp = tempfile::tempdir().unwrap();
        let (first, writer) = open(temp.path());
        assert!(temp.path().join(FILE).exists(), "before anything is told");
        assert_eq!(first.last_seq(), 0, "nothing was told before the first one");
        drop((first, writer));
        std::fs::write(temp.path().join(FILE), "").unwrap();
        assert_eq!(open(temp.path()).0.last_seq(), CRASH_GAP);
    }

    #[tokio::test]
    async fn a_torn_end_is_an_unclean_one() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, writer) = open(temp.path());
        end_well(&journal, &writer);
        assert_eq!(last_of(temp.path()).unwrap(), Last { seq: 1, clean: true });
        let path = temp.path().join(FILE);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":2,\"ki");
        std::fs::write(&path, text).unwrap();
        assert_eq!(last_of(temp.path()).unwrap(), Last { seq: 1, clean: false });
    }

    #[tokio::test]
    async fn a_slow_reader_misses_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, writer) = open(temp.path());
        let mut slow = journal.read(EventQuery { since: 0, follow: true });
        journal.append(None, notice(1));
        let first = slow.next().await.unwrap();
        assert_eq!(serde_json::from_slice::<Event>(&first).unwrap().seq, 1);
        // Three times what the ring holds.
        let count = 3 * RING_BYTES / 250;
        for n in 2..=count {
            journal.append(None, notice(n));
        }
        assert!(journal.flush(&writer, Duration::from_secs(60)));
        assert!(journal.shared.state().ring.len() < count / 2);
        journal.end_readers();
        let seqs: Vec<u64> = all(slow).await.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (2..=u64::try_from(count).unwrap()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_disk_that_refuses_is_told_once_and_loses_nothing_in_memory() {
        let temp = tempfile::tempdir().unwrap();
        let (tell, told) = channel();
        // A directory stands where the file should be.
        let (journal, _writer) = Journal::open(temp.path(), move |text| tell.send(text).unwrap()).unwrap();
        std::fs::remove_file(temp.path().join(FILE)).unwrap();
        std::fs::create_dir(temp.path().join(FILE)).unwrap();
        journal.append(None, notice(1));
        let text = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(text.starts_with("could not write"), "{text}");
        assert_eq!(all(journal.read(since(0))).await.len(), 1);
        std::fs::remove_dir(temp.path().join(FILE)).unwrap();
        journal.append(None, notice(2));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), "events are written to disk again");
        // Both are there.
        let on_disk = std::fs::read_to_string(temp.path().join(FILE)).unwrap();
        assert_eq!(on_disk.lines().count(), 2, "{on_disk}");
    }

    #[tokio::test]
    async fn a_disk_that_refuses_to_the_end_does_not_hold_it_up() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, writer) = open(temp.path());
        std::fs::remove_file(temp.path().join(FILE)).unwrap();
        std::fs::create_dir(temp.path().join(FILE)).unwrap();
        end_well(&journal, &writer);
        assert_eq!(all(journal.read(since(0))).await.len(), 1);
    }
}
