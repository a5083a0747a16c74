//! Lines that arrived together: cut from what a service wrote, and written as JSON.

use ws_model::wire::LogStream;
use ws_model::{ServiceName, Timestamp};

use super::filter::Filter;
use crate::clock;

/// A line that does not end is cut into pieces of this many bytes.
pub(super) const MAX_LINE: usize = 64 << 10;

/// What a batch costs beyond its text, about.
const BATCH_COST: usize = 192;

/// Lines that arrived together.
pub(super) struct Batch {
    pub(super) service: ServiceName,
    pub(super) stream: LogStream,
    pub(super) at: Timestamp,
    /// The number of the first line among those of all services.
    pub(super) first_seq: u64,
    /// The number of the first line among those of its service, from 0.
    pub(super) ordinal: u64,
    pub(super) lines: Lines,
}

/// Whole lines. Where each begins is found when somebody reads them, which is rarer than that they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Each with its newline.
    pub(super) text: String,
    count: u64,
}

impl Lines {
    /// One line, whatever newlines are in it.
    pub(super) fn one(text: &str) -> Self {
        Self { text: text.replace(['\n', '\r'], " ") + "\n", count: 1 }
    }

    /// Lines of any bytes; the last one may lack its end.
    pub(super) fn split(data: Vec<u8>) -> Self {
        let mut text = String::from_utf8(data)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let count = memchr::memchr_iter(b'\n', text.as_bytes()).count();
        Self { text, count: u64::try_from(count).unwrap_or(u64::MAX) }
    }

    /// The lines that end in `piece`, with what was kept of the first one; keeps what does not end.
    pub(super) fn whole(partial: &mut Vec<u8>, piece: &[u8]) -> Option<Self> {
        if let Some(last) = memchr::memrchr(b'\n', piece) {
            let mut data = std::mem::take(partial);
            data.extend_from_slice(&piece[..=last]);
            partial.extend_from_slice(&piece[last + 1..]);
            return Some(Self::split(data));
        }
        partial.extend_from_slice(piece);
        (partial.len() >= MAX_LINE).then(|| Self::split(std::mem::take(partial)))
    }

    /// Each without its end.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &str> {
        let lines = self.text.strip_suffix('\n').unwrap_or(&self.text).split('\n');
        lines.map(|line| line.strip_suffix('\r').unwrap_or(line))
    }
}

impl Batch {
    pub(super) fn len(&self) -> u64 {
        self.lines.count
    }

    /// The number of its last line.
    pub(super) fn last_seq(&self) -> u64 {
        self.first_seq + self.len().saturating_sub(1)
    }

    pub(super) fn cost(&self) -> usize {
        BATCH_COST + self.lines.text.len()
    }

    /// The lines that are chosen, with their numbers.
    fn chosen<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = (u64, &'a str)> {
        self.choose((self.first_seq..).zip(self.lines.iter()), filter)
    }

    fn choose<'a>(
        &'a self,
        lines: impl Iterator<Item = (u64, &'a str)>,
        filter: &'a Filter,
    ) -> impl Iterator<Item = (u64, &'a str)> {
        let most = if filter.has_time(self.at) { usize::MAX } else { 0 };
        lines.take(most).filter(|(seq, line)| filter.has_line(*seq, self.stream, line))
    }

    /// Its lines as JSON.
    pub(super) fn render(&self, filter: &Filter, out: &mut Vec<u8>) {
        let head = LineHead::new(&self.service, self.stream, self.at);
        for (seq, line) in self.chosen(filter) {
            head.render(seq, line, out);
        }
    }

    /// Its lines as JSON, one by one with their numbers.
    pub(super) fn rendered(&self, filter: &Filter) -> Vec<(u64, Vec<u8>)> {
        self.chosen(filter).map(|line| self.render_one(line)).collect()
    }

    /// The last of its lines as JSON, newest first.
    pub(super) fn rendered_backwards(&self, filter: &Filter, count: usize) -> Vec<(u64, Vec<u8>)> {
        let numbers = (self.first_seq..self.first_seq + self.len()).rev();
        let lines = self.choose(numbers.zip(self.lines.iter().rev()), filter);
        lines.take(count).map(|line| self.render_one(line)).collect()
    }

    fn render_one(&self, (seq, line): (u64, &str)) -> (u64, Vec<u8>) {
        let mut json = Vec::new();
        LineHead::new(&self.service, self.stream, self.at).render(seq, line, &mut json);
        (seq, json)
    }
}

/// The part of a [`LogLine`](ws_model::wire::LogLine) in JSON that is the same for a whole batch.
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

/// A line of `ws` itself that stands where others are missing.
pub(super) fn marker(service: &ServiceName, seq: u64, text: &str, out: &mut Vec<u8>) {
    LineHead::new(service, LogStream::Ws, clock::now()).render(seq, text, out);
}
