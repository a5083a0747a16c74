//! The output of services: kept in memory within bounds, written to disk, searched and followed.
//!
//! ```text
//! host ── write(bytes) ─▶ lines ─▶ batch ─┬─▶ ring (memory) ─▶ readers: cursors into the ring
//!                                         └─▶ pending ─▶ writer thread ─▶ <state>/logs/<service>.log
//! ```
//!
//! Nobody waits for anybody: a writer of output only ever copies into memory; a reader that is slower
//! than its service finds that the ring has moved on and is told how many lines it missed; a disk that
//! is slower loses the oldest lines that wait for it, counted and told. All bounds are per service, so
//! a service that floods takes nothing from its siblings. Sleeps while nothing is written.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use ws_core::host::LogSink;
use ws_model::wire::{LogLine, LogQuery, LogStream};
use ws_model::{ServiceName, Timestamp};

use crate::clock;
use crate::disk::{Bounds, Parts, RotatingFile};
use crate::journal;

/// A line that does not end is cut into pieces of this many bytes.
const MAX_LINE: usize = 64 << 10;

/// How many bytes of lines are handed on at a time.
const CHUNK: usize = 64 << 10;

/// What a batch costs beyond its text, about.
const BATCH_COST: usize = 192;

/// The least that a ring is allowed, however many services there are.
const MIN_RING: usize = 64 << 10;

/// How many files the writer keeps open.
const MAX_OPEN: usize = 64;

/// The least time between two reports that a service's lines were dropped.
const REPORT_EVERY: Duration = Duration::from_secs(1);

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
    /// Bytes in a file before the next one is begun.
    pub file_bytes: u64,
    /// How many full files are kept of a service.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { ring_bytes: 4 << 20, total_bytes: 64 << 20, file_bytes: 10 << 20, files: 3 }
    }
}

impl LogLimits {
    fn bounds(&self) -> Bounds {
        Bounds { part_bytes: self.file_bytes, parts: self.files }
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
    /// Services with pending batches, each once.
    dirty: VecDeque<usize>,
    closing: bool,
}

struct ServiceLog {
    name: ServiceName,
    /// How many lines there were, ever.
    lines: u64,
    ring: VecDeque<Arc<Batch>>,
    ring_bytes: usize,
    /// Not written to disk yet.
    pending: VecDeque<Arc<Batch>>,
    pending_bytes: usize,
    /// Being written to disk.
    writing: Vec<Arc<Batch>>,
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
        self.last_seq = batch.first_seq + batch.len() - 1;
        self.bytes += u64::try_from(batch.text.len()).unwrap_or(u64::MAX);
    }
}

/// Lines that arrived together.
struct Batch {
    service: ServiceName,
    stream: LogStream,
    at: Timestamp,
    /// The number of the first line among those of all services.
    first_seq: u64,
    /// The number of the first line among those of its service, from 0.
    ordinal: u64,
    text: String,
    /// Where each line ends: the offset of its newline, or the text's length.
    ends: Vec<u32>,
}

impl Batch {
    fn len(&self) -> u64 {
        u64::try_from(self.ends.len()).unwrap_or(u64::MAX)
    }

    fn cost(&self) -> usize {
        BATCH_COST + self.text.len() + self.ends.len() * size_of::<u32>()
    }

    fn lines(&self) -> impl Iterator<Item = (u64, &str)> {
        let offset = |end: &u32| usize::try_from(*end).unwrap_or(usize::MAX);
        let starts = std::iter::once(0).chain(self.ends.iter().map(move |end| offset(end) + 1));
        let lines = starts.zip(&self.ends).map(move |(start, end)| {
            let line = &self.text[start..offset(end)];
            line.strip_suffix('\r').unwrap_or(line)
        });
        (self.first_seq..).zip(lines)
    }

    /// Its lines as JSON.
    fn render(&self, out: &mut Vec<u8>) {
        let head = LineHead::new(&self.service, self.stream, self.at);
        for (seq, line) in self.lines() {
            head.render(seq, line, out);
        }
    }

    /// Its lines as JSON, one by one with their numbers.
    fn rendered(&self) -> Vec<(u64, Vec<u8>)> {
        let head = LineHead::new(&self.service, self.stream, self.at);
        let render = |(seq, line): (u64, &str)| {
            let mut json = Vec::new();
            head.render(seq, line, &mut json);
            (seq, json)
        };
        self.lines().map(render).collect()
    }
}

/// The part of a [`LogLine`] in JSON that is the same for a whole batch.
struct LineHead(String);

impl LineHead {
    fn new(service: &ServiceName, stream: LogStream, at: Timestamp) -> Self {
        let stream = match stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Build => "build",
            LogStream::Ws => "ws",
        };
        Self(format!(r#","at":"{at}","service":"{service}","stream":"{stream}","line":"#))
    }

    fn render(&self, seq: u64, line: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"seq":"#);
        out.extend_from_slice(seq.to_string().as_bytes());
        out.extend_from_slice(self.0.as_bytes());
        serde_json::to_writer(&mut *out, line).expect("a text is always JSON, and memory takes it");
        out.extend_from_slice(b"}\n");
    }
}

fn marker(service: &ServiceName, seq: u64, text: &str, out: &mut Vec<u8>) {
    LineHead::new(service, LogStream::Ws, clock::now()).render(seq, text, out);
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
    fn push(&self, service: &ServiceName, stream: LogStream, text: String, ends: Vec<u32>) {
        let mut state = self.state();
        let state = &mut *state;
        let i = match state.index.get(service) {
            Some(i) => *i,
            None => state.add(service),
        };
        let fair = (self.limits.total_bytes / state.services.len()).max(MIN_RING).min(self.limits.ring_bytes);
        let log = &mut state.services[i];
        let batch = Arc::new(Batch {
            service: log.name.clone(),
            stream,
            // The time is read under the lock, so that times go up with the numbers.
            at: clock::now(),
            first_seq: state.next_seq,
            ordinal: log.lines,
            text,
            ends,
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
        }
        if !self.writer_gone.load(Ordering::Relaxed) {
            if log.pending.is_empty() {
                state.dirty.push_back(i);
                self.work.notify_one();
            }
            log.pending_bytes += batch.cost();
            log.pending.push_back(batch);
            while log.pending_bytes > fair
                && log.pending.len() > 1
                && let Some(oldest) = log.pending.pop_front()
            {
                log.pending_bytes -= oldest.cost();
                log.dropped.add(&oldest);
            }
        }
        // Still under the lock: a reader that then looks finds the batch.
        self.closed.send_modify(|_| ());
    }
}

impl State {
    fn add(&mut self, service: &ServiceName) -> usize {
        let i = self.services.len();
        self.index.insert(service.clone(), i);
        self.services.push(ServiceLog {
            name: service.clone(),
            lines: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            writing: Vec::new(),
            dropped: Dropped::default(),
        });
        i
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
            let newest = Parts::open(&file_of(&dir, &service), limits.bounds())?
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
        // A text with newlines stays one line.
        let text = text.replace(['\n', '\r'], " ");
        if let Ok(end) = u32::try_from(text.len()) {
            self.shared.push(service, LogStream::Ws, text, vec![end]);
        }
    }

    /// Lines that are there and, when asked for, those that come.
    #[must_use]
    pub fn read(&self, query: &LogQuery) -> LogReader {
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
        self.shared.state().closing = true;
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
            if let Some((text, ends)) = whole_lines(&mut partial, piece) {
                self.shared.push(service, stream, text, ends);
            }
        }
    }

    fn end(&self, service: &ServiceName, stream: LogStream) {
        let partials = self.shared.partials(service);
        let mut partial = partials.0[slot(stream)].lock().unwrap_or_else(PoisonError::into_inner);
        if !partial.is_empty() {
            let (text, ends) = split(std::mem::take(&mut *partial));
            self.shared.push(service, stream, text, ends);
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

/// The lines that end in `piece`, with what was kept of the first one; keeps what does not end.
fn whole_lines(partial: &mut Vec<u8>, piece: &[u8]) -> Option<(String, Vec<u32>)> {
    if let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') {
        let mut data = std::mem::take(partial);
        data.extend_from_slice(&piece[..=last]);
        partial.extend_from_slice(&piece[last + 1..]);
        return Some(split(data));
    }
    partial.extend_from_slice(piece);
    (partial.len() >= MAX_LINE).then(|| split(std::mem::take(partial)))
}

fn split(data: Vec<u8>) -> (String, Vec<u32>) {
    let text = String::from_utf8(data)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let offset = |end: usize| u32::try_from(end).unwrap_or(u32::MAX);
    let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    let mut ends: Vec<u32> = newlines.map(|(i, _)| offset(i)).collect();
    if !text.ends_with('\n') {
        ends.push(offset(text.len()));
    }
    (text, ends)
}

/// The writer thread.
fn write_to_disk(shared: &Shared) {
    let mut files: BTreeMap<usize, RotatingFile> = BTreeMap::new();
    let mut failing = false;
    let mut buffer = Vec::new();
    while let Some(Work { i, name, dropped }) = next_work(shared) {
        buffer.clear();
        if let Some((lines, seq)) = dropped {
            marker(
                &name,
                seq,
                &format!("{lines} lines are missing here: the disk was too slow or full"),
                &mut buffer,
            );
        }
        let batches = shared.state().services[i].writing.clone();
        for batch in &batches {
            batch.render(&mut buffer);
        }
        let file = files
            .entry(i)
            .or_insert_with(|| RotatingFile::new(file_of(&shared.dir, &name), shared.limits.bounds()));
        let result = file.append(&buffer);
        buffer.shrink_to(1 << 20);
        if files.values().filter(|file| file.is_open()).count() > MAX_OPEN {
            files.values_mut().for_each(RotatingFile::close);
        }
        let mut state = shared.state();
        let log = &mut state.services[i];
        let written = std::mem::take(&mut log.writing);
        if result.is_err() {
            // The marker is still owed, too.
            let (lines, seq) = dropped.unwrap_or_default();
            log.dropped.lines += lines;
            log.dropped.last_seq = log.dropped.last_seq.max(seq);
            for batch in &written {
                log.dropped.add(batch);
            }
        }
        drop(state);
        match (result, failing) {
            (Err(error), false) => {
                failing = true;
                let path = file_of(&shared.dir, &name);
                let text =
                    format!("could not write `{}`: {error}; output is kept in memory only", path.display());
                shared.report(Report::Notice { text });
            }
            (Ok(()), true) => {
                failing = false;
                let text = "the output of services is written to disk again".to_owned();
                shared.report(Report::Notice { text });
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
}

/// A service with lines to write.
struct Work {
    i: usize,
    name: ServiceName,
    /// How many lines were dropped before these, and the number of the last one.
    dropped: Option<(u64, u64)>,
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
        if let Some(i) = state.dirty.pop_front() {
            let log = &mut state.services[i];
            let mut bytes = 0;
            while bytes < 4 * CHUNK
                && let Some(batch) = log.pending.pop_front()
            {
                log.pending_bytes -= batch.cost();
                bytes += batch.text.len();
                log.writing.push(batch);
            }
            let name = log.name.clone();
            let dropped = (log.dropped.lines > 0).then_some((log.dropped.lines, log.dropped.last_seq));
            log.dropped.lines = 0;
            if !log.pending.is_empty() {
                state.dirty.push_back(i);
            }
            return Some(Work { i, name, dropped });
        }
        if state.closing {
            return None;
        }
        state = match next_report {
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(after) => shared.work.wait_timeout(state, after).unwrap_or_else(PoisonError::into_inner).0,
        };
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
    fn new(shared: &Arc<Shared>, query: &LogQuery) -> Self {
        let wanted: BTreeSet<ServiceName> = query.services.iter().cloned().collect();
        let mut sources = BTreeMap::new();
        let mut next = BTreeMap::new();
        let changes = shared.closed.subscribe();
        let end = {
            let state = shared.state();
            for (i, log) in state.services.iter().enumerate() {
                if wanted.is_empty() || wanted.contains(&log.name) {
                    let mut memory: Vec<Arc<Batch>> =
                        log.writing.iter().chain(&log.pending).chain(&log.ring).map(Arc::clone).collect();
                    memory.sort_by_key(|batch| batch.first_seq);
                    memory.dedup_by_key(|batch| batch.first_seq);
                    sources.insert(log.name.clone(), memory);
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
            window: Window::of(query),
        });
        let (tell, history) = mpsc::channel(4);
        let (dir, bounds, query) = (shared.dir.clone(), shared.limits.bounds(), query.clone());
        tokio::task::spawn_blocking(move || {
            let history = History::open(&dir, bounds, sources, &wanted, &query, end);
            send_chunks(history, &tell);
        });
        Self { history: Some(history), follower }
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
        let _ = to.blocking_send(chunk.into());
    }
}

/// The times that somebody wants.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Window {
    fn of(query: &LogQuery) -> Self {
        Self { since: query.since, until: query.until }
    }

    fn has(self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
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
    window: Window,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Before looking: what comes afterwards is a change again.
            let closed = *self.changes.borrow_and_update();
            let mut out = Vec::new();
            let more = self.take(&mut out);
            if !out.is_empty() {
                return Some(out.into());
            }
            if more {
                continue;
            }
            if closed || self.changes.changed().await.is_err() {
                return None;
            }
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
                bytes += batch.text.len();
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
        for batch in batches.iter().filter(|batch| self.window.has(batch.at)) {
            batch.render(out);
        }
        !batches.is_empty()
    }
}

/// What of a line is needed to order and choose it.
#[derive(Deserialize)]
struct Head {
    seq: u64,
    at: Timestamp,
}

impl Head {
    fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

type NumberedLines = Box<dyn Iterator<Item = (u64, Vec<u8>)> + Send>;

/// The lines that are there, from disk and memory, in the order of their numbers.
struct History {
    sources: Vec<NumberedLines>,
    heads: BinaryHeap<Reverse<(u64, usize, Vec<u8>)>>,
}

impl History {
    /// The lines with a number below `end`.
    fn open(
        dir: &Path,
        bounds: Bounds,
        mut memory: BTreeMap<ServiceName, Vec<Arc<Batch>>>,
        wanted: &BTreeSet<ServiceName>,
        query: &LogQuery,
        end: u64,
    ) -> Self {
        let mut services: BTreeSet<ServiceName> = wanted.clone();
        if wanted.is_empty() {
            // A directory that cannot be read has no lines.
            services.extend(services_on_disk(dir).unwrap_or_default());
            services.extend(memory.keys().cloned());
        }
        let window = Window::of(query);
        let sources: Vec<NumberedLines> = services
            .iter()
            .map(|service| {
                let memory = memory.remove(service).unwrap_or_default();
                let before = memory.first().map_or(end, |batch| batch.first_seq);
                lines_of(&file_of(dir, service), bounds, before, memory, query.tail, window)
            })
            .collect();
        let mut history = Self { heads: BinaryHeap::new(), sources };
        for i in 0..history.sources.len() {
            history.advance(i);
        }
        history
    }

    fn advance(&mut self, i: usize) {
        if let Some((seq, line)) = self.sources[i].next() {
            self.heads.push(Reverse((seq, i, line)));
        }
    }
}

impl Iterator for History {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let Reverse((_, i, line)) = self.heads.pop()?;
        self.advance(i);
        Some(line)
    }
}

/// The lines of one service: those on disk with a number below `before`, then those in memory.
fn lines_of(
    file: &Path,
    bounds: Bounds,
    before: u64,
    memory: Vec<Arc<Batch>>,
    tail: Option<u64>,
    window: Window,
) -> NumberedLines {
    let memory: Vec<Arc<Batch>> = memory.into_iter().filter(|batch| window.has(batch.at)).collect();
    let in_memory: u64 = memory.iter().map(|batch| batch.len()).sum();
    let from_disk = tail.map(|tail| tail.saturating_sub(in_memory));
    let skip = tail.map_or(0, |tail| in_memory.saturating_sub(tail));
    let memory = memory.into_iter().flat_map(|batch| batch.rendered());
    let memory = memory.skip(usize::try_from(skip).unwrap_or(usize::MAX));
    if from_disk == Some(0) {
        return Box::new(memory);
    }
    // What cannot be opened has no lines.
    let Ok(parts) = Parts::open(file, bounds) else { return Box::new(memory) };
    let good = move |mut line: Vec<u8>| {
        let head = Head::parse(&line)?;
        line.push(b'\n');
        (head.seq < before && window.has(head.at)).then_some((head.seq, line))
    };
    match from_disk {
        None => {
            // A part that was met twice is read once.
            let mut last = None;
            let disk = parts.lines().filter_map(good).filter(move |(seq, _)| {
                let new = last.is_none_or(|last| *seq > last);
                last = last.max(Some(*seq));
                new
            });
            Box::new(disk.chain(memory))
        }
        Some(count) => {
            let mut last = None;
            let backwards = parts.lines_backwards().filter_map(good).filter(|(seq, _)| {
                let new = last.is_none_or(|last| *seq < last);
                last = Some(last.map_or(*seq, |last: u64| last.min(*seq)));
                new
            });
            let mut disk: Vec<_> = backwards.take(usize::try_from(count).unwrap_or(usize::MAX)).collect();
            disk.reverse();
            Box::new(disk.into_iter().chain(memory))
        }
    }
}

/// The lines that an instance has kept on disk, in the order of their numbers, whether a supervisor runs
/// or not; `follow` is ignored. A service that never wrote anything has none.
///
/// # Errors
/// When the directory of the logs is there and cannot be read.
pub fn read_disk(state_dir: &Path, query: &LogQuery) -> io::Result<impl Iterator<Item = LogLine> + use<>> {
    let dir = state_dir.join("logs");
    // So that one that cannot be read is an error here.
    services_on_disk(&dir)?;
    let wanted = query.services.iter().cloned().collect();
    let history =
        History::open(&dir, LogLimits::default().bounds(), BTreeMap::new(), &wanted, query, u64::MAX);
    Ok(history.filter_map(|line| serde_json::from_slice(&line).ok()))
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
