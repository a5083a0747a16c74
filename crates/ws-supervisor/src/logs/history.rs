//! The lines that are there: those on disk and then those in memory, of several services in one order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use ws_model::wire::{LogLine, LogQuery, LogStream};
use ws_model::{ServiceName, Timestamp};

use super::batch::Batch;
use super::filter::{BadPattern, Filter};
use super::{file_of, services_on_disk};
use crate::disk::{MAX_SEQ, Parts};

/// What of a line is needed to order and choose it.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    at: Timestamp,
}

impl Head {
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // Numbers that none of us gave are no numbers.
        serde_json::from_slice(line).ok().filter(|head: &Self| head.seq <= MAX_SEQ)
    }
}

/// What of a line is needed to search it.
#[derive(Deserialize)]
struct Words {
    stream: LogStream,
    line: String,
}

type NumberedLines = Box<dyn Iterator<Item = (u64, Vec<u8>)> + Send>;

/// The lines that are there, from disk and memory, in the order of their numbers.
pub(super) struct History {
    sources: Vec<NumberedLines>,
    heads: BinaryHeap<Reverse<(u64, usize, Vec<u8>)>>,
}

impl History {
    /// The lines with a number below `end` of the services that are wanted (all, when there are none).
    pub(super) fn open(
        dir: &Path,
        mut memory: BTreeMap<ServiceName, Vec<Arc<Batch>>>,
        wanted: &BTreeSet<ServiceName>,
        filter: &Filter,
        tail: Option<u64>,
        end: u64,
    ) -> Self {
        let mut services: BTreeSet<ServiceName> = wanted.clone();
        if wanted.is_empty() {
            // A directory that cannot be read has no lines.
            services.extend(services_on_disk(dir).unwrap_or_default());
            services.extend(memory.keys().cloned());
        }
        let sources: Vec<NumberedLines> = services
            .iter()
            .map(|service| {
                let mut memory = memory.remove(service).unwrap_or_default();
                memory.sort_by_key(|batch| batch.first_seq);
                memory.dedup_by_key(|batch| batch.first_seq);
                let before = memory.first().map_or(end, |batch| batch.first_seq);
                lines_of(&file_of(dir, service), before, memory, tail, filter.clone())
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
    before: u64,
    memory: Vec<Arc<Batch>>,
    tail: Option<u64>,
    filter: Filter,
) -> NumberedLines {
    let Some(tail) = tail else {
        let from_disk = filter.clone();
        let in_memory = memory.into_iter().flat_map(move |batch| batch.rendered(&filter));
        // What cannot be opened has no lines.
        let Ok(parts) = Parts::open(file) else { return Box::new(in_memory) };
        // A part that was met twice is read once.
        let mut last = None;
        let disk = parts.lines().filter_map(move |line| choose(line, before, &from_disk));
        let disk = disk.filter(move |(seq, _)| {
            let new = last.is_none_or(|last| *seq > last);
            last = last.max(Some(*seq));
            new
        });
        return Box::new(disk.chain(in_memory));
    };
    let tail = usize::try_from(tail).unwrap_or(usize::MAX);
    // Newest first, until there are enough.
    let mut lines: Vec<(u64, Vec<u8>)> = Vec::new();
    for batch in memory.iter().rev() {
        if lines.len() >= tail {
            break;
        }
        lines.extend(batch.rendered_backwards(&filter, tail - lines.len()));
    }
    if lines.len() < tail
        && let Ok(parts) = Parts::open(file)
    {
        let mut last = None;
        for line in parts.lines_backwards() {
            if Head::parse(&line).is_some_and(|head| !filter.has_number(head.seq)) {
                // Numbers only go down from here.
                break;
            }
            let Some((seq, line)) = choose(line, before, &filter) else { continue };
            if last.is_none_or(|last| seq < last) {
                last = Some(seq);
                lines.push((seq, line));
            }
            if lines.len() >= tail {
                break;
            }
        }
    }
    lines.reverse();
    Box::new(lines.into_iter())
}

/// A line on disk with its number, when it is one and is wanted.
fn choose(mut line: Vec<u8>, before: u64, filter: &Filter) -> Option<(u64, Vec<u8>)> {
    let head = Head::parse(&line)?;
    if head.seq >= before || !filter.has_number(head.seq) || !filter.has_time(head.at) {
        return None;
    }
    if filter.reads_lines() {
        let words: Words = serde_json::from_slice(&line).ok()?;
        if !filter.has_line(head.seq, words.stream, &words.line) {
            return None;
        }
    }
    line.push(b'\n');
    Some((head.seq, line))
}

/// Why the lines on disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The directory of the logs is there and cannot be read.
    #[error("could not read the directory of the logs")]
    Directory(#[from] io::Error),
    /// The expression of the query is none.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
}

/// The lines that an instance has kept on disk, in the order of their numbers, whether a supervisor runs
/// or not; `follow` is ignored. A service that never wrote anything has none. The name of a service with replicas, which
/// has no lines of its own, means all of them.
///
/// # Errors
/// See [`ReadError`].
pub fn read_disk(
    state_dir: &Path,
    query: &LogQuery,
) -> Result<impl Iterator<Item = LogLine> + use<>, ReadError> {
    let dir = state_dir.join("logs");
    let filter = Filter::of(query)?;
    let known = services_on_disk(&dir)?;
    let mut wanted = BTreeSet::new();
    for name in &query.services {
        let replicas: Vec<&ServiceName> = known.iter().filter(|known| is_replica(known, name)).collect();
        if known.contains(name) || replicas.is_empty() {
            wanted.insert(name.clone());
        } else {
            wanted.extend(replicas.into_iter().cloned());
        }
    }
    let history = History::open(&dir, BTreeMap::new(), &wanted, &filter, query.tail, u64::MAX);
    Ok(history.filter_map(|line| serde_json::from_slice(&line).ok()))
}

/// Whether a name is that of a replica of a service: `api-2` of `api`.
fn is_replica(name: &ServiceName, service: &ServiceName) -> bool {
    let number = name.as_str().strip_prefix(service.as_str()).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
