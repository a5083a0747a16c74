//! The output of services: kept in memory within bounds, written to disk, searched and followed.
//!
//! ```text
//! host ── write(bytes) ─▶ lines ─▶ batch ─┬─▶ ring (memory) ─▶ readers: cursors into the ring
//!                                         └─▶ pending ─▶ writer thread ─▶ <state>/logs/<service>.log
//! ```
//!
//! Nobody waits for anybody, and no service is ever slowed down for its log (drop, no back-pressure): a writer of output
//! only ever copies into memory; a reader that is slower than its service finds that the ring has moved on and is told
//! how many lines it missed; a disk that is slower, or refuses, loses the oldest lines that wait for it, once there are
//! more than memory may keep. Where lines are missing a line of the stream `ws` says how many; what the disk missed is
//! told as an event too. All bounds are per service, so a service that floods takes nothing from its siblings. Sleeps
//! while nothing is written.
//!
//! The order of lines is that of their numbers, over all services. Times are what the wall clock said, so when somebody
//! sets it back, they go back as well; nothing is ordered by them.

mod batch;
mod filter;
mod history;
mod read;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use ws_core::host::LogSink;
use ws_model::wire::{LogQuery, LogStream};
use ws_model::{LogRetention, ServiceName};

use crate::clock;
use crate::disk::{Bounds, Parts, remove_old_parts};
use crate::journal;
use batch::{Batch, Lines};
use history::Head;
use writer::{Budget, write_to_disk};

pub use filter::BadPattern;
pub use history::{ReadError, read_disk};
pub use read::LogReader;

/// How many bytes of lines are handed on at a time.
const CHUNK: usize = 64 << 10;

/// The least that a ring is allowed, however many services there are.
const MIN_RING: usize = 64 << 10;

/// Numbers that are left out after a supervisor that did not end well: more than the lines that it may
/// have told and not written.
const CRASH_GAP: u64 = 1_000_000;

/// How much of the output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in memory for a service.
    pub ring_bytes: usize,
    /// Bytes in memory for all services; where there are many, each gets an equal part.
    pub total_bytes: usize,
    /// Bytes in a file before the next one is begun, unless the service has its own.
    pub file_bytes: u64,
    /// How many full files are kept of a service, unless it has its own number.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { ring_bytes: 4 << 20, total_bytes: 64 << 20, file_bytes: 10 << 20, files: 3 }
    }
}

impl LogLimits {
    fn bounds(&self, retention: &LogRetention) -> Bounds {
        Bounds {
            part_bytes: retention.max_size.map_or(self.file_bytes, |size| size.0),
            parts: retention.max_files.unwrap_or(self.files),
            max_age: retention.max_age,
        }
    }
}

/// Something about the logs that is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// Lines of a service were not written to disk.
    Dropped { service: ServiceName, bytes: u64 },
    /// The disk refuses, or takes again.
    Notice { text: String },
}

type Reporter = Box<dyn Fn(Report) + Send>;

/// The output of all services of an instance.
pub struct LogStore {
    shared: Arc<Shared>,
    /// Becomes readable (by its end) when the writer has ended.
    writer_ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

struct Shared {
    dir: PathBuf,
    limits: LogLimits,
    /// Unfinished lines; locked before `state`.
    partials: RwLock<BTreeMap<ServiceName, Arc<Partials>>>,
    state: Mutex<State>,
    /// Something is pending, or the end has come.
    work: Condvar,
    /// Changes with every batch; true: there will be no more.
    closed: watch::Sender<bool>,
    reporter: Mutex<Option<Reporter>>,
    writer_gone: AtomicBool,
}

#[derive(Default)]
struct Partials([Mutex<Vec<u8>>; 4]);

struct State {
    next_seq: u64,
    index: BTreeMap<ServiceName, usize>,
    services: Vec<ServiceLog>,
    /// What is kept on disk of services that have something of their own.
    retention: BTreeMap<ServiceName, LogRetention>,
    /// Services whose pending batches are to be written, each once.
    dirty: VecDeque<usize>,
    closing: bool,
}

struct ServiceLog {
    name: ServiceName,
    bounds: Bounds,
    /// How many lines there were, ever.
    lines: u64,
    ring: VecDeque<Arc<Batch>>,
    ring_bytes: usize,
    /// Not written to disk yet.
    pending: VecDeque<Arc<Batch>>,
    pending_bytes: usize,
    /// Whether it is in `dirty`.
    queued: bool,
    /// Being written to disk.
    writing: Vec<Arc<Batch>>,
    budget: Budget,
    dropped: Dropped,
}

/// Lines that the disk did not get.
#[derive(Default)]
struct Dropped {
    /// Since the last marker in the file.
    lines: u64,
    last_seq: u64,
    /// Since the last report.
    bytes: u64,
    reported: Option<Instant>,
}

impl Dropped {
    fn add(&mut self, batch: &Batch) {
        self.lines += batch.len();
        self.last_seq = batch.last_seq();
        self.bytes += u64::try_from(batch.lines.text.len()).unwrap_or(u64::MAX);
    }
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves at worst a batch out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, report: Report) {
        if let Some(reporter) = &*self.reporter.lock().unwrap_or_else(PoisonError::into_inner) {
            reporter(report);
        }
    }

    fn partials(&self, service: &ServiceName) -> Arc<Partials> {
        let read = self.partials.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(partials) = read.get(service) {
            return Arc::clone(partials);
        }
        drop(read);
        let mut write = self.partials.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(write.entry(service.clone()).or_default())
    }

    /// Takes in whole lines.
    fn push(&self, service: &ServiceName, stream: LogStream, lines: Lines) {
        // What is given up is freed when nobody waits for it.
        let mut old: Vec<Arc<Batch>> = Vec::new();
        let mut state = self.state();
        let state = &mut *state;
        let i = match state.index.get(service) {
            Some(i) => *i,
            None => state.add(service, &self.limits),
        };
        let fair = state.fair(&self.limits);
        let log = &mut state.services[i];
        let batch = Arc::new(Batch {
            service: log.name.clone(),
            stream,
            // The time is read under the lock, so that times go up with the numbers.
            at: clock::now(),
            first_seq: state.next_seq,
            ordinal: log.lines,
            lines,
        });
        state.next_seq += batch.len();
        log.lines += batch.len();
        log.ring_bytes += batch.cost();
        log.ring.push_back(Arc::clone(&batch));
        while log.ring_bytes > fair
            && log.ring.len() > 1
            && let Some(oldest) = log.ring.pop_front()
        {
            log.ring_bytes -= oldest.cost();
            old.push(oldest);
        }
        if !self.writer_gone.load(Ordering::Relaxed) {
            log.pending_bytes += batch.cost();
            log.pending.push_back(batch);
            old.append(&mut log.trim_pending(fair));
            if !log.queued {
                log.queued = true;
                state.dirty.push_back(i);
                self.work.notify_one();
            }
        }
        // Still under the lock: a reader that then looks finds the batch.
        self.closed.send_modify(|_| ());
    }
}

impl State {
    fn add(&mut self, service: &ServiceName, limits: &LogLimits) -> usize {
        let i = self.services.len();
        let bounds = limits.bounds(self.retention.get(service).unwrap_or(&LogRetention::default()));
        self.index.insert(service.clone(), i);
        self.services.push(ServiceLog {
            name: service.clone(),
            bounds,
            lines: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            queued: false,
            writing: Vec::new(),
            budget: Budget::full(bounds),
            dropped: Dropped::default(),
        });
        i
    }

    /// How many bytes each service may keep in memory, once read and once not written yet.
    fn fair(&self, limits: &LogLimits) -> usize {
        (limits.total_bytes / self.services.len().max(1)).max(MIN_RING).min(limits.ring_bytes)
    }

    /// Tries every service again of which something waits for the disk.
    fn queue_all(&mut self) {
        for (i, log) in self.services.iter_mut().enumerate() {
            if !log.queued && !log.pending.is_empty() {
                log.queued = true;
                self.dirty.push_back(i);
            }
        }
    }
}

impl ServiceLog {
    /// Gives up the oldest lines that wait for the disk and have no room (the newest batch has, unless there is none at
    /// all).
    fn trim_pending(&mut self, room: usize) -> Vec<Arc<Batch>> {
        let mut old = Vec::new();
        while self.pending_bytes > room
            && (self.pending.len() > 1 || room == 0)
            && let Some(oldest) = self.pending.pop_front()
        {
            self.pending_bytes -= oldest.cost();
            self.dropped.add(&oldest);
            old.push(oldest);
        }
        old
    }
}

impl LogStore {
    /// The logs below the state directory of an instance (which is there); goes on with its numbers.
    ///
    /// # Errors
    /// When the directory of the logs cannot be made or read, or no thread can be started.
    pub fn open(state_dir: &Path, limits: LogLimits) -> io::Result<Self> {
        let dir = state_dir.join("logs");
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let clean = journal::last_of(state_dir)?.clean;
        let mut last = 0;
        for service in services_on_disk(&dir)? {
            let newest = Parts::open(&file_of(&dir, &service))?
                .lines_backwards()
                .take(2)
                .find_map(|line| Head::parse(&line));
            last = newest.map_or(last, |head| last.max(head.seq));
        }
        let shared = Arc::new(Shared {
            dir,
            limits,
            partials: RwLock::default(),
            state: Mutex::new(State {
                next_seq: last + if clean { 1 } else { CRASH_GAP },
                index: BTreeMap::new(),
                services: Vec::new(),
                retention: BTreeMap::new(),
                dirty: VecDeque::new(),
                closing: false,
            }),
            work: Condvar::new(),
            closed: watch::Sender::new(false),
            reporter: Mutex::new(None),
            writer_gone: AtomicBool::new(false),
        });
        let (ended, writer_ended) = std::sync::mpsc::channel();
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new().name("ws-logs".to_owned()).spawn(move || {
            write_to_disk(&of_writer);
            of_writer.writer_gone.store(true, Ordering::Relaxed);
            drop(ended);
        })?;
        Ok(Self { shared, writer_ended: Mutex::new(writer_ended) })
    }

    /// Adds a line of `ws` itself to the output of a service.
    pub fn note(&self, service: &ServiceName, text: &str) {
        self.shared.push(service, LogStream::Ws, Lines::one(text));
    }

    /// Says what is kept on disk of a service, and removes what is too old already. Later what is too old goes when a
    /// file is full or the next supervisor starts: nothing wakes up for it.
    pub fn retain(&self, service: &ServiceName, retention: &LogRetention) {
        let bounds = self.shared.limits.bounds(retention);
        remove_old_parts(&file_of(&self.shared.dir, service), bounds);
        let mut state = self.shared.state();
        state.retention.insert(service.clone(), *retention);
        if let Some(i) = state.index.get(service).copied() {
            state.services[i].bounds = bounds;
        }
    }

    /// Lines that are there and, when asked for, those that come.
    ///
    /// # Errors
    /// When the expression of the query is none.
    pub fn read(&self, query: &LogQuery) -> Result<LogReader, BadPattern> {
        LogReader::new(&self.shared, query)
    }

    /// Says where reports go.
    pub(crate) fn set_reporter(&self, reporter: Reporter) {
        *self.shared.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
    }

    /// Ends all that follow, once they have read what is there.
    pub(crate) fn end_readers(&self) {
        self.shared.closed.send_replace(true);
    }

    /// Writes to disk what waits for it; false when the disk does not take it in time. Blocks. What is
    /// written afterwards stays in memory.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        {
            let mut state = self.shared.state();
            state.closing = true;
            // Once more what the disk refused.
            state.queue_all();
        }
        self.shared.work.notify_all();
        let ended = self.writer_ended.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(ended.recv_timeout(within), Err(std::sync::mpsc::RecvTimeoutError::Timeout))
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.work.notify_all();
    }
}

impl LogSink for LogStore {
    fn write(&self, service: &ServiceName, stream: LogStream, bytes: &[u8]) {
        let partials = self.shared.partials(service);
        let mut partial = partials.0[slot(stream)].lock().unwrap_or_else(PoisonError::into_inner);
        // Bounds what is copied at a time, and keeps offsets far below 4 GiB.
        for piece in bytes.chunks(1 << 20) {
            if let Some(lines) = Lines::whole(&mut partial, piece) {
                self.shared.push(service, stream, lines);
            }
        }
    }

    fn end(&self, service: &ServiceName, stream: LogStream) {
        let partials = self.shared.partials(service);
        let mut partial = partials.0[slot(stream)].lock().unwrap_or_else(PoisonError::into_inner);
        if !partial.is_empty() {
            let lines = Lines::split(std::mem::take(&mut *partial));
            self.shared.push(service, stream, lines);
        }
    }
}

fn slot(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Build => 2,
        LogStream::Ws => 3,
    }
}

fn services_on_disk(dir: &Path) -> io::Result<Vec<ServiceName>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut services = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let service = name.to_str().and_then(|name| name.strip_suffix(".log")).map(ServiceName::new);
        if let Some(Ok(service)) = service {
            services.push(service);
        }
    }
    Ok(services)
}

fn file_of(dir: &Path, service: &ServiceName) -> PathBuf {
    dir.join(format!("{service}.log"))
}

#[cfg(test)]
mod tests;
