//! What comes from outside, as bytes, against the real code and without a host: for the fuzz targets, and for a short
//! run of them in the tests. Not a part of the interface; only with the feature `fuzzing`.
//!
//! Each entry panics when a promise is broken. Time is tokio's paused one: whoever waits does so at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use ws_core::host::{ExecIo, LogSink as _};
use ws_model::wire::{
    Accepted, Applying, ExecFrame, ExecRequest, ExecResult, FRAME_HEAD, Info, LogLine, LogQuery, LogStream,
    PlanDifference, RunRequest, Why, WhyLink,
};
use ws_model::{Cause, EventKind, ExitReason, InstanceId, Phase, Reason, ServiceName, Timestamp};

use crate::api::{self, Answer, Api, Refusal, Request};
use crate::exec;
use crate::journal::Journal;
use crate::logs::{LogLimits, LogStore, read_disk};
use crate::supervisor::Running;

/// Longer than anything that is waited for.
const LONG: Duration = Duration::from_secs(3600);

/// Longer than a supervisor waits for a client.
const IDLE: Duration = Duration::from_secs(60);

/// The most that is read of an answer, about.
const MAX_ANSWER: usize = 64 << 10;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a name")
}

/// The control socket's requests, against a loop that has an answer to everything.
pub struct ApiTarget {
    runtime: Runtime,
    router: Router,
    _dir: TempDir,
}

impl std::fmt::Debug for ApiTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiTarget").finish_non_exhaustive()
    }
}

impl Default for ApiTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiTarget {
    /// A router with some events and lines behind it.
    ///
    /// # Panics
    /// When there is no place for its files.
    #[must_use]
    pub fn new() -> Self {
        let runtime = runtime();
        let dir = tempfile::tempdir().expect("a directory");
        let (journal, _writer) = Journal::open(dir.path(), |_| ()).expect("a journal");
        journal.append(Some(name("db")), EventKind::Notice { text: "hello".to_owned() });
        let logs = Arc::new(LogStore::open(dir.path(), LogLimits::default()).expect("logs"));
        logs.write(&name("db"), LogStream::Stdout, b"one\ntwo \xff\x1b[2J\nthree");
        let (requests, asked) = mpsc::channel(16);
        let (notices, told) = mpsc::unbounded_channel();
        runtime.spawn(async move {
            let _told = told;
            answer(asked).await;
        });
        let router =
            api::router(Api { requests, notices, journal, logs, walking: Arc::new(Semaphore::new(1)) });
        Self { runtime, router, _dir: dir }
    }

    /// Sends bytes as the whole of a connection.
    ///
    /// # Panics
    /// When the answer is none, or one that is never given.
    pub fn run(&self, bytes: &[u8]) -> Vec<u8> {
        let answer = self.runtime.block_on(async {
            let (client, server) = tokio::io::duplex(64 << 10);
            let serving =
                tokio::spawn(api::serve_connection(server, self.router.clone(), std::future::pending()));
            let (mut read, mut write) = tokio::io::split(client);
            let mut answer = Vec::new();
            let send = async {
                // The other side may have heard enough.
                let _ = write.write_all(bytes).await;
                let _ = write.shutdown().await;
            };
            // A stream that is followed has no end: until nothing comes any more, or enough.
            let receive = async {
                while answer.len() < MAX_ANSWER
                    && let Ok(Ok(1..)) = tokio::time::timeout(IDLE, read.read_buf(&mut answer)).await
                {
                }
            };
            tokio::join!(send, receive);
            drop((read, write));
            // With half a request behind it, a client that has gone is noticed when something is written to it.
            serving.abort();
            let served = serving.await;
            assert!(served.is_ok() || served.is_err_and(|error| error.is_cancelled()), "a panic");
            answer
        });
        if !answer.is_empty() {
            let head = answer.get(..12).unwrap_or_default();
            let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "));
            let status = status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
            let known = [100, 101, 200, 400, 404, 405, 408, 409, 413, 414, 426, 431, 501];
            assert!(
                status.is_some_and(|status: u16| known.contains(&status)),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        answer
    }
}

async fn answer(mut asked: mpsc::Receiver<Request>) {
    let accepted = || Ok(Accepted { seq: 1 });
    let known = |service: &ServiceName| {
        let known = service.as_str() == "db";
        known.then(|| service.clone()).ok_or_else(|| Refusal::new(axum::http::StatusCode::NOT_FOUND, "no"))
    };
    while let Some(request) = asked.recv().await {
        match request {
            Request::Info(reply) => drop(reply.send(info())),
            Request::Services(reply) => drop(reply.send((Vec::new(), 1))),
            Request::Up(_, reply) | Request::Stop(_, reply) | Request::Restart(_, reply) => {
                drop(reply.send(accepted()));
            }
            Request::Kill(_, reply) => drop(reply.send(accepted())),
            Request::Down(_, reply) => drop(reply.send(accepted())),
            Request::Why(service, reply) => {
                let cause = Cause::new(Reason::Requested, "x");
                let chain = |service| Why {
                    chain: vec![WhyLink { service, phase: Phase::Pending, cause, started: None }],
                };
                drop(reply.send(known(&service).map(chain)));
            }
            Request::Plan(_, reply) => drop(reply.send(Ok(PlanDifference::default()))),
            Request::Apply(_, reply) => drop(reply.send(Ok(Applying::default()))),
            Request::Set(request, reply) => {
                drop(reply.send(known(&request.service).map(|_| Applying::default())));
            }
            Request::Watched(reply) => {
                let none = Refusal::new(axum::http::StatusCode::NOT_IMPLEMENTED, "nothing is watched");
                drop(reply.send(Err(none)));
            }
            Request::Violations(_, reply) => drop(reply.send(Ok(Vec::new()))),
            Request::Names(names, reply) => drop(reply.send(names)),
            Request::Usage(reply) => drop(reply.send(Vec::new())),
            Request::MayExec(service, reply) => drop(reply.send(known(&service))),
            Request::Exec(_, io, reply) => drop(reply.send(Ok(process(io)))),
            Request::Terminal(_, reply) => drop(reply.send(None)),
            Request::MayRun(service, reply) => drop(reply.send(known(&service).map(drop))),
            Request::Run(_, _, io, reply) => drop(reply.send(Ok(process(io)))),
            Request::Hold(reply) => {
                drop(reply.send(Err(Refusal::new(axum::http::StatusCode::CONFLICT, "held"))));
            }
        }
    }
}

fn info() -> Info {
    Info {
        version: "0".to_owned(),
        instance: InstanceId::from_dir_name("shop-00000000").expect("an instance"),
        name: "shop".to_owned(),
        root: "/".to_owned(),
        pid: 1,
        started_at: Timestamp { unix_ms: 0 },
        attached: false,
    }
}

/// A command that takes a second and does nothing.
fn process(io: ExecIo) -> Running {
    let (tell, done) = oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(io);
        drop(tell.send(ExecResult::Ended(ExitReason::Code(0))));
    });
    Running::of(done)
}

/// The frames of a connection that was upgraded.
#[derive(Debug)]
pub struct FrameTarget {
    runtime: Runtime,
}

impl Default for FrameTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameTarget {
    /// A place to run it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn new() -> Self {
        Self { runtime: runtime() }
    }

    /// Sends bytes as frames: the first one says whether to `exec` or to `run`.
    ///
    /// # Panics
    /// When what comes back is not frames with the result as the last one.
    pub fn run(&self, bytes: &[u8]) {
        let Some((choice, bytes)) = bytes.split_first() else { return };
        let answer = self.runtime.block_on(async {
            if choice.is_multiple_of(2) {
                self.talk(bytes, async |_: ExecRequest, io| Ok(process(io))).await
            } else {
                self.talk(bytes, async |_: RunRequest, io| Ok(process(io))).await
            }
        });
        let mut rest = answer.as_slice();
        let mut ended = false;
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD>() {
            let (kind, len) = ExecFrame::parse_head(*head).expect("a frame");
            assert!(!ended && after.len() >= len, "a frame that is cut, or comes after the result");
            match kind {
                ExecFrame::Stdout | ExecFrame::Stderr => {}
                ExecFrame::Exit => {
                    ended = true;
                    let result: Result<ExecResult, _> = serde_json::from_slice(&after[..len]);
                    assert!(result.is_ok(), "{result:?}");
                }
                ExecFrame::Stdin | ExecFrame::Resize | ExecFrame::Start => panic!("{kind:?} to a client"),
            }
            rest = &after[len..];
        }
        assert!(rest.is_empty(), "{rest:?}");
    }

    async fn talk<R: exec::Wanted, F>(&self, bytes: &[u8], begin: impl FnOnce(R, ExecIo) -> F) -> Vec<u8>
    where
        F: Future<Output = Answer<Running>>,
    {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (mut from, mut to) = tokio::io::split(client);
        let (reader, mut writer) = tokio::io::split(server);
        let serve = async {
            // An error is the client's.
            let _ = exec::talk(reader, &mut writer, std::future::ready(None), begin).await;
            let _ = writer.shutdown().await;
        };
        let mut answer = Vec::new();
        let send = async {
            let _ = to.write_all(bytes).await;
            // Stays open: a client that is there until the end.
        };
        let all = async { tokio::join!(serve, send, from.read_to_end(&mut answer)) };
        let (.., read) = tokio::time::timeout(LONG, all).await.expect("it ends");
        assert!(read.is_ok(), "{read:?}");
        answer
    }
}

/// Any bytes as files of a log, and as the output of a service.
///
/// # Panics
/// When lines are read that are out of order, too many or others than were written.
pub fn logs(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("logs");
    std::fs::create_dir(&dir).expect("a directory");
    // The parts of the file, newest first, are what stands between bytes that are in no text.
    let mut grep = None;
    for (n, part) in bytes.split(|byte| *byte == 0xff).enumerate().take(4) {
        let suffix = if n == 0 { String::new() } else { format!(".{n}") };
        std::fs::write(dir.join(format!("db.log{suffix}")), part).expect("a file");
        grep = std::str::from_utf8(part).ok().filter(|text| text.len() < 100).map(str::to_owned);
    }
    let tail = u64::from(*choice & 7);
    let queries = [
        LogQuery::default(),
        LogQuery { tail: Some(tail), ..LogQuery::default() },
        LogQuery { after: Some(u64::from(*choice)), tail: Some(tail), ..LogQuery::default() },
        LogQuery { grep, invert: choice & 8 != 0, ..LogQuery::default() },
    ];
    for query in queries {
        // An expression may be none.
        let Ok(lines) = read_disk(temp.path(), &query) else { continue };
        let lines: Vec<LogLine> = lines.collect();
        assert!(lines.is_sorted_by(|a, b| a.seq < b.seq), "{lines:?}");
        assert!(query.tail.is_none_or(|tail| lines.len() as u64 <= tail), "{lines:?}");
        assert!(query.after.is_none_or(|after| lines.iter().all(|line| line.seq > after)), "{lines:?}");
    }
    written(temp.path(), usize::from(*choice) + 1, bytes);
}

/// The output of a service in pieces of some size: the lines are those of the whole.
fn written(state_dir: &Path, piece: usize, bytes: &[u8]) {
    let runtime = runtime();
    let store = LogStore::open(state_dir, LogLimits::default()).expect("logs");
    let service = name("new");
    for piece in bytes.chunks(piece) {
        store.write(&service, LogStream::Stdout, piece);
    }
    store.end(&service, LogStream::Stdout);
    store.end_readers();
    let query = LogQuery { services: vec![service], follow: true, ..LogQuery::default() };
    let lines: Vec<LogLine> = runtime.block_on(async {
        let mut reader = store.read(&query).expect("there is no expression");
        let mut lines = Vec::new();
        while let Some(chunk) = reader.next().await {
            let chunk = chunk.strip_suffix(b"\n").expect("whole lines").to_vec();
            lines.extend(chunk.split(|byte| *byte == b'\n').map(|line| {
                serde_json::from_slice::<LogLine>(line).expect("what is told is what is promised")
            }));
        }
        lines
    });
    let expected = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').map(|line| {
        let line = String::from_utf8_lossy(line).into_owned();
        line.strip_suffix('\r').map_or(line.clone(), str::to_owned)
    });
    // Longer ones are cut, and none of them is made here.
    let expected: Vec<String> = if bytes.is_empty() { Vec::new() } else { expected.collect() };
    let found: Vec<String> = lines.into_iter().map(|line| line.line).collect();
    assert_eq!(found, expected);
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "what broke it, and how much was tried")]
mod tests {
    use super::*;

    /// Turns seeds into others: a little of each, of two of them, or of nothing.
    struct Mutator(u64);

    impl Mutator {
        /// xorshift64*
        fn next(&mut self, below: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
            usize::try_from(high).unwrap() % below.max(1)
        }

        fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
            let mut bytes = seeds[self.next(seeds.len())].clone();
            for _ in 0..self.next(4) {
                let at = self.next(bytes.len());
                match self.next(5) {
                    0 => bytes.truncate(at),
                    1 if !bytes.is_empty() => bytes[at] = u8::try_from(self.next(256)).unwrap(),
                    2 if !bytes.is_empty() => drop(bytes.remove(at)),
                    3 => bytes.insert(at, b"\0\n\r\xff{}[]\"%&=:/ ?"[self.next(16)]),
                    _ => {
                        let other = &seeds[self.next(seeds.len())];
                        let from = self.next(other.len());
                        bytes.splice(at..at, other[from..].iter().copied().take(4096));
                    }
                }
            }
            bytes
        }
    }

    /// The committed seeds of a target.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "no seeds in {}", dir.display());
        seeds
    }

    /// Says what broke it.
    struct Input(Vec<u8>);

    impl Drop for Input {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input was b\"{}\"", self.0.escape_ascii());
            }
        }
    }

    /// The seeds and what they are turned into: `rounds` times, always the same; or, with `WS_FUZZ_SECONDS`, as long as
    /// that says and each time others (`WS_FUZZ_SEED` repeats them).
    fn run(target: &str, mut rounds: usize, entry: impl Fn(&[u8])) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seeds = seeds(target);
        seeds.iter().for_each(|seed| entry(seed));
        let mut seed = 0x5eed;
        let end = number("WS_FUZZ_SECONDS").map(|seconds| {
            rounds = usize::MAX;
            seed = number("WS_FUZZ_SEED").unwrap_or(u64::from(std::process::id()));
            std::time::Instant::now() + Duration::from_secs(seconds)
        });
        let mut mutator = Mutator(seed.max(1));
        let mut done = 0_usize;
        while done < rounds && end.is_none_or(|end| std::time::Instant::now() < end) {
            let input = Input(mutator.mutate(&seeds));
            entry(&input.0);
            done += 1;
        }
        eprintln!("{target}: {done} inputs, seed {seed}");
    }

    #[test]
    fn any_request_has_an_answer() {
        let target = ApiTarget::new();
        run("api", 1000, |bytes| drop(target.run(bytes)));
    }

    #[test]
    fn any_frames_are_answered_by_frames() {
        let target = FrameTarget::new();
        run("frames", 1000, |bytes| target.run(bytes));
    }

    #[test]
    fn any_files_are_logs() {
        run("logs", 300, logs);
    }
}
