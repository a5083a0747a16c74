//! Pumps: the output of a run goes from its pipe or terminal to the log, as it comes.
//!
//! A pump has one buffer, used again for every piece, and takes turns with the other tasks of the runtime
//! after each, so that a service that floods stalls nobody. It reads at [`RATE`] at most: a service that writes
//! more waits at its own pipe, and leaves the processors to its siblings. It keeps nothing and understands nothing, but
//! for the lines that `log` probes wait for, and for what a terminal makes of the end of a line.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use ws_core::host::LogSink;
use ws_model::ServiceName;
use ws_model::wire::LogStream;

use crate::probes::LogMatcher;

/// What is read at once: as much as a pipe holds by default.
const BUFFER: usize = 64 * 1024;
/// How many bytes of a stream are read in a second at most. Several times what other supervisors take in, and a
/// fraction of what two processors can push through a pipe: beyond it a flood would only take time from others.
const RATE: u64 = 136 << 20;
/// How many bytes are read before the rate is looked at: few enough that the work on them is over in a moment.
const BURST: u64 = 256 << 10;
/// How late a burst may come and still count as in time: the clock that wakes pumps counts milliseconds.
const SLACK: Duration = Duration::from_millis(10);
/// The longest line that a probe's expression is shown; of a longer one it sees the beginning.
const MAX_LINE: usize = 64 * 1024;

/// A pump that works. Dropping it stops it and closes its end of the pipe.
#[derive(Debug)]
pub struct Pump {
    task: JoinHandle<u64>,
}

impl Pump {
    /// Begins to read `pipe`, the end of a pipe that a run writes to, on the current runtime.
    ///
    /// # Errors
    /// When `pipe` is no pipe that can be read.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        service: ServiceName,
        stream: LogStream,
        pipe: OwnedFd,
        sink: Arc<dyn LogSink>,
        matchers: Vec<LogMatcher>,
    ) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        Ok(Self::spawn(pipe, None, matchers, End { service, stream, sink }))
    }

    /// As [`start`](Self::start), for the supervisor's side of a terminal that a run writes to. The carriage return
    /// that a terminal puts before the end of a line is taken away again.
    ///
    /// # Errors
    /// When the descriptor cannot be made non-blocking or be polled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_terminal(
        service: ServiceName,
        stream: LogStream,
        terminal: OwnedFd,
        sink: Arc<dyn LogSink>,
        matchers: Vec<LogMatcher>,
    ) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&terminal)?;
        rustix::fs::fcntl_setfl(&terminal, flags | rustix::fs::OFlags::NONBLOCK)?;
        // Tokio's type for pipes asks nothing of a descriptor but that it does not block.
        let terminal = pipe::Receiver::from_owned_fd_unchecked(terminal)?;
        let ends = LineEnds::default();
        Ok(Self::spawn(terminal, Some(ends), matchers, End { service, stream, sink }))
    }

    fn spawn(source: pipe::Receiver, ends: Option<LineEnds>, matchers: Vec<LogMatcher>, end: End) -> Self {
        let lines = matchers.into_iter().map(Lines::new).collect();
        Self { task: tokio::spawn(pump(source, ends, lines, end)) }
    }

    /// Waits for the end of the stream; gives how many bytes there were. Everything has been handed on
    /// then. If the future is dropped, the pump is stopped, and what it has not read is lost.
    pub async fn finished(mut self) -> u64 {
        // A task that is neither aborted nor panics always has a result.
        (&mut self.task).await.unwrap_or(0)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(mut pipe: pipe::Receiver, mut ends: Option<LineEnds>, mut lines: Vec<Lines>, end: End) -> u64 {
    let End { service, stream, sink } = &end;
    let mut total = 0;
    let mut pace = Pace::new(Instant::now());
    // Not filled with zeros: memory that no output ever reached is never touched.
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        match pipe.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => {
                total += n as u64;
                if let Some(ends) = &mut ends {
                    ends.mend(&mut buffer);
                }
                sink.write(service, *stream, &buffer);
                lines.retain_mut(|lines| !lines.feed(&buffer));
                if let Some(due) = pace.after(n as u64, Instant::now) {
                    tokio::time::sleep_until(due).await;
                }
            }
            // So a terminal tells that nobody has its other side open any more (pty(7)).
            Err(error) if ends.is_some() && error.raw_os_error() == Some(nix::libc::EIO) => break,
            Err(error) => {
                tracing::warn!(%service, %error, "reading the output ended early");
                break;
            }
        }
    }
    if ends.is_some_and(|ends| ends.held) {
        sink.write(service, *stream, b"\r");
    }
    for lines in &mut lines {
        lines.end();
    }
    total
}

/// Holds a stream to [`RATE`], burst by burst.
struct Pace {
    /// When the present burst began.
    since: Instant,
    taken: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, taken: 0 }
    }

    /// Counts what was read; until when to pause, if it was too much for the time. The clock is read once a burst.
    fn after(&mut self, bytes: u64, now: impl FnOnce() -> Instant) -> Option<Instant> {
        self.taken += bytes;
        if self.taken < BURST {
            return None;
        }
        let due = self.since + Duration::from_micros(self.taken * 1_000_000 / RATE);
        let now = now();
        *self = Self::new(if due + SLACK > now { due } else { now });
        (due > now).then_some(due)
    }
}

/// Takes away the carriage return that a terminal puts before a newline (termios(3), `ONLCR`), however the output
/// is cut.
#[derive(Default)]
struct LineEnds {
    /// The last piece ended with a carriage return, which is not handed on yet.
    held: bool,
}

impl LineEnds {
    fn mend(&mut self, bytes: &mut Vec<u8>) {
        if self.held && bytes.first() != Some(&b'\n') {
            bytes.insert(0, b'\r');
        }
        self.held = bytes.last() == Some(&b'\r');
        if self.held {
            bytes.pop();
        }
        let mut to = 0;
        for from in 0..bytes.len() {
            let byte = bytes[from];
            if byte == b'\r' && bytes.get(from + 1) == Some(&b'\n') {
                continue;
            }
            bytes[to] = byte;
            to += 1;
        }
        bytes.truncate(to);
    }
}

/// Where a stream goes. Tells its end when it is dropped, however the pump ended.
struct End {
    service: ServiceName,
    stream: LogStream,
    sink: Arc<dyn LogSink>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.sink.end(&self.service, self.stream);
    }
}

/// Cuts a stream into lines for a probe's expression.
struct Lines {
    matcher: LogMatcher,
    /// The beginning of the line whose end has not come.
    partial: Vec<u8>,
}

impl Lines {
    fn new(matcher: LogMatcher) -> Self {
        Self { matcher, partial: Vec::new() }
    }

    /// Shows every line that ends in `bytes`; `true` when there is no need for more.
    fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at);
            bytes = rest.get(1..).unwrap_or_default();
            let matched = if self.partial.is_empty() {
                self.matcher.line(line.get(..MAX_LINE).unwrap_or(line))
            } else {
                self.keep(line);
                let matched = self.matcher.line(&self.partial);
                self.partial.clear();
                matched
            };
            if matched {
                return true;
            }
        }
        self.keep(bytes);
        self.matcher.is_done()
    }

    /// An unfinished line is a line.
    fn end(&mut self) {
        if !self.partial.is_empty() {
            self.matcher.line(&self.partial);
            self.partial.clear();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.partial.len();
        self.partial.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;
    use crate::probes;

    /// Remembers what it was given.
    #[derive(Default)]
    struct Memory {
        bytes: Mutex<Vec<u8>>,
        ends: Mutex<Vec<(ServiceName, LogStream)>>,
    }

    impl LogSink for Memory {
        fn write(&self, _: &ServiceName, _: LogStream, bytes: &[u8]) {
            self.bytes.lock().unwrap().extend_from_slice(bytes);
        }
        fn end(&self, service: &ServiceName, stream: LogStream) {
            self.ends.lock().unwrap().push((service.clone(), stream));
        }
    }

    fn api() -> ServiceName {
        ServiceName::new("api").unwrap()
    }

    #[test]
    fn a_flood_is_held_to_the_rate_and_nothing_else_is() {
        // Invented time: a stream that brings `bytes` in each step of `step`.
        let pauses = |bytes: u64, step: Duration| {
            let begin = Instant::now();
            let (mut pace, mut now, mut taken, mut paused) = (Pace::new(begin), begin, 0, 0);
            for _ in 0..10_000 {
                now += step;
                taken += bytes;
                if let Some(due) = pace.after(bytes, || now) {
                    assert!(due > now);
                    now = due;
                    paused += 1;
                }
            }
            (paused, taken as f64 / (now - begin).as_secs_f64())
        };
        let (paused, rate) = pauses(64 << 10, Duration::from_micros(100));
        let limit = RATE as f64;
        assert!(paused > 0 && (0.99 * limit..=1.01 * limit).contains(&rate), "{rate} bytes a second");
        // Half of the rate: never a pause. And an idle time is not saved up.
        assert_eq!(pauses(64 << 10, Duration::from_micros(800)).0, 0);
        let begin = Instant::now();
        let later = begin + Duration::from_secs(60);
        let mut pace = Pace::new(begin);
        assert_eq!(pace.after(BURST, || later), None);
        assert!(pace.after(BURST, || later).is_some());
    }

    #[tokio::test]
    async fn everything_that_is_written_arrives_in_order_and_is_counted() {
        let sink = Arc::new(Memory::default());
        let (reader, mut writer) = io::pipe().unwrap();
        let pump =
            Pump::start(api(), LogStream::Stderr, reader.into(), Arc::clone(&sink) as _, vec![]).unwrap();
        // More than a pipe and the buffer hold, in odd pieces.
        let text: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let written = text.clone();
        let feeder =
            std::thread::spawn(move || written.chunks(7777).for_each(|part| writer.write_all(part).unwrap()));
        let bytes = tokio::time::timeout(Duration::from_secs(20), pump.finished()).await.unwrap();
        feeder.join().unwrap();
        assert_eq!(bytes, 1_000_003);
        assert!(*sink.bytes.lock().unwrap() == text);
        assert_eq!(*sink.ends.lock().unwrap(), [(api(), LogStream::Stderr)]);
    }

    #[tokio::test]
    async fn a_dropped_pump_closes_its_end_and_says_so() {
        let sink = Arc::new(Memory::default());
        let (reader, mut writer) = io::pipe().unwrap();
        let pump =
            Pump::start(api(), LogStream::Stdout, reader.into(), Arc::clone(&sink) as _, vec![]).unwrap();
        drop(pump);
        let broken = async {
            // The task is dropped when the runtime gets to it.
            while writer.write_all(b"x").is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), broken).await.unwrap();
        assert_eq!(*sink.ends.lock().unwrap(), [(api(), LogStream::Stdout)]);
    }

    #[tokio::test]
    async fn what_is_no_pipe_is_refused() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let sink = Arc::new(Memory::default());
        assert!(Pump::start(api(), LogStream::Stdout, file.into(), sink, vec![]).is_err());
    }

    #[tokio::test]
    async fn a_probe_sees_lines_however_they_are_cut() {
        let sink = Arc::new(Memory::default());
        let (matcher, mut matched) = probes::log_match("^ready on [0-9]+$").unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let pump = Pump::start(api(), LogStream::Stdout, reader.into(), sink, vec![matcher]).unwrap();
        for part in ["not ready on 1\nrea", "dy o", "n 80\r\nready on 9\n"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        let line = tokio::time::timeout(Duration::from_secs(20), matched.line()).await.unwrap();
        assert_eq!(line.as_deref(), Some("ready on 80"));
        drop(writer);
        assert_eq!(pump.finished().await, 39);
    }

    fn lines_of(pattern: &str, parts: &[&[u8]]) -> Option<String> {
        let (matcher, matched) = probes::log_match(pattern).unwrap();
        let mut lines = Lines::new(matcher);
        for part in parts {
            lines.feed(part);
            assert!(lines.partial.len() <= MAX_LINE);
        }
        lines.end();
        matched.now()
    }

    #[tokio::test]
    async fn a_terminal_is_read_to_its_end_and_its_line_ends_are_mended() {
        use rustix::pty::OpenptFlags;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).unwrap();
        let sink = Arc::new(Memory::default());
        let (matcher, mut matched) = probes::log_match("^ready$").unwrap();
        let logs = Arc::clone(&sink) as _;
        let pump = Pump::start_terminal(api(), LogStream::Stdout, ours, logs, vec![matcher]).unwrap();
        rustix::io::write(&theirs, b"one\ntwo\r\n\r50%\r100%\nready\n").unwrap();
        let line = tokio::time::timeout(Duration::from_secs(20), matched.line()).await.unwrap();
        assert_eq!(line.as_deref(), Some("ready"));
        drop(theirs);
        tokio::time::timeout(Duration::from_secs(20), pump.finished()).await.unwrap();
        let text = String::from_utf8(sink.bytes.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "one\ntwo\r\n\r50%\r100%\nready\n");
    }

    #[test]
    fn line_ends_are_mended_however_they_are_cut() {
        let whole = b"a\r\nb\r\r\nc\rd\n\re\r";
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let mut ends = LineEnds::default();
                let mut text = Vec::new();
                for part in [&whole[..first], &whole[first..second], &whole[second..]] {
                    // A read that gives nothing is the end of the stream.
                    if !part.is_empty() {
                        let mut part = part.to_vec();
                        ends.mend(&mut part);
                        text.extend(part);
                    }
                }
                assert!(ends.held);
                assert_eq!(text, b"a\nb\r\nc\rd\n\re", "{first} {second}");
            }
        }
    }

    #[test]
    fn the_last_line_needs_no_end_and_long_lines_are_bounded() {
        assert_eq!(lines_of("up$", &[b"is ", b"up"]).as_deref(), Some("is up"));
        assert_eq!(lines_of("up", &[b"is \n", b"\n"]), None);
        let long = vec![b'a'; 3 * MAX_LINE];
        assert_eq!(lines_of("b", &[&long, &long, b"b\n"]), None);
        assert_eq!(lines_of("b", &[&long, &long, b"\nb\n"]).as_deref(), Some("b"));
        assert_eq!(lines_of("^a+$", &[&long, b"\n"]).map(|line| line.len() <= MAX_LINE), Some(true));
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(lines_of("ok", &[b"\xff\xfe ok \x80\n"]).as_deref(), Some("\u{fffd}\u{fffd} ok \u{fffd}"));
    }
}
