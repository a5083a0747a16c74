//! Readiness probes: attempt after attempt against a run, each told as a phrase.
//!
//! Knows when to try, not what a result means: readiness, `within` and phases are the engine's. While no
//! attempt has succeeded they follow each other quickly, so that a stack comes up as fast as its services
//! do; from then on at the interval of the file, since readiness is a level and not an edge.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use ws_model::wire::ExecResult;
use ws_model::{CommandLine, Probe, ProbeKind};

use crate::publish::{Dial, connect, io_phrase};

/// The pause after the first attempt that did not succeed; each further one is half as long again, up to
/// the interval.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The least pause, whatever the file says: a probe must not become a busy loop.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// How much of a line of output or of a command is repeated in a phrase, in characters.
const QUOTED: usize = 120;

/// A future that a trait gives.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs the commands of `exec` probes inside a service's sandbox.
pub trait ExecProbe: Send + Sync {
    /// Runs `argv` with `/dev/null` as its input and its output dropped. When the future is dropped (the
    /// attempt took too long, or the probe was stopped) every process of it is killed.
    fn exec(&self, argv: Vec<String>) -> BoxFuture<ExecResult>;
}

/// What a probe needs beside its declaration.
#[derive(Clone)]
pub struct Means {
    /// The service's address.
    pub address: Ipv4Addr,
    /// Opens sockets inside the workspace.
    pub dial: Arc<dyn Dial>,
    /// Runs commands inside the sandbox.
    pub exec: Arc<dyn ExecProbe>,
    /// Where the run's output shows that it is ready, for a `log` probe (see [`log_match`]).
    pub log: Option<LogMatched>,
}

impl fmt::Debug for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Means").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A probe that is at work. Dropping it ends it; an attempt that is under way is given up.
#[derive(Debug)]
pub struct Prober {
    task: JoinHandle<()>,
}

impl Prober {
    /// Begins to probe on the current runtime, until the handle is dropped. `report` is called after every
    /// attempt with a phrase: "http 200 from :8080/healthz", "tcp :5432: connection refused".
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        probe: &Probe,
        means: Means,
        mut report: impl FnMut(Result<String, String>) + Send + 'static,
    ) -> Self {
        let probe = probe.clone();
        Self {
            task: tokio::spawn(async move {
                match &probe.kind {
                    ProbeKind::Log { pattern } => log(pattern, means.log, &mut report).await,
                    ProbeKind::Notify => {}
                    ProbeKind::Exec(_)
                    | ProbeKind::Http { .. }
                    | ProbeKind::Tcp { .. }
                    | ProbeKind::Grpc { .. } => {
                        again_and_again(&probe, &means, &mut report).await;
                    }
                }
            }),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn again_and_again(
    probe: &Probe,
    means: &Means,
    report: &mut (impl FnMut(Result<String, String>) + Send),
) {
    let mut pace = Pace::new(probe.interval);
    loop {
        let result = attempt(probe, means).await;
        let pause = pace.after(result.is_ok());
        report(result);
        tokio::time::sleep(pause).await;
    }
}

/// The pauses between attempts: short ones until one has succeeded, then the interval for good.
struct Pace {
    interval: Duration,
    next: Duration,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        let interval = interval.max(LEAST_PAUSE);
        Self { interval, next: FIRST_PAUSE.min(interval) }
    }

    fn after(&mut self, success: bool) -> Duration {
        let pause = if success { self.interval } else { self.next };
        self.next = (pause * 3 / 2).min(self.interval);
        pause
    }
}

/// One attempt, within its timeout.
async fn attempt(probe: &Probe, means: &Means) -> Result<String, String> {
    let why = match tokio::time::timeout(probe.timeout, look(&probe.kind, means)).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(why)) => why,
        Err(_elapsed) => format!("no answer within {:?}", probe.timeout),
    };
    Err(match &probe.kind {
        ProbeKind::Tcp { port } => format!("tcp :{port}: {why}"),
        ProbeKind::Http { port, path, .. } => format!("http :{port}{path}: {why}"),
        ProbeKind::Exec(command) => format!("exec `{}`: {why}", words(command)),
        ProbeKind::Log { .. } => format!("log: {why}"),
        ProbeKind::Notify => format!("notify: {why}"),
        ProbeKind::Grpc { port, .. } => format!("grpc :{port}: {why}"),
    })
}

async fn look(kind: &ProbeKind, means: &Means) -> Result<String, String> {
    match kind {
        ProbeKind::Tcp { port } => tcp(means, *port).await,
        ProbeKind::Http { port, path, .. } => http(means, *port, path).await,
        ProbeKind::Exec(command) => exec(means, command).await,
        ProbeKind::Notify | ProbeKind::Grpc { .. } => Err("is not asked yet".to_owned()),
        ProbeKind::Log { pattern } => match means.log.as_ref().and_then(LogMatched::now) {
            Some(line) => Ok(matched(&line)),
            None => Err(not_yet(pattern)),
        },
    }
}

async fn tcp(means: &Means, port: u16) -> Result<String, String> {
    let target = SocketAddrV4::new(means.address, port);
    connect(&means.dial, target).await.map_err(|error| io_phrase(&error))?;
    Ok(format!("tcp :{port} accepts connections"))
}

async fn http(means: &Means, port: u16, path: &str) -> Result<String, String> {
    let target = SocketAddrV4::new(means.address, port);
    let stream = connect(&means.dial, target).await.map_err(|error| io_phrase(&error))?;
    // Development servers answer to this name and refuse others.
    let request = Request::get(path)
        .header("host", format!("localhost:{port}"))
        .header("user-agent", "ws-probe")
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| http_phrase(&error))?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection may end in the same moment as the answer is complete: then it is there.
        _ = connection => answer.await,
    };
    // Only the head counts: what follows is not read.
    let status = answer.map_err(|error| http_phrase(&error))?.status();
    if (200..400).contains(&status.as_u16()) {
        Ok(format!("http {} from :{port}{path}", status.as_u16()))
    } else {
        Err(format!("answered {}", status.as_u16()))
    }
}

async fn exec(means: &Means, command: &CommandLine) -> Result<String, String> {
    match means.exec.exec(command.0.clone()).await {
        ExecResult::Ended(exit) if exit.is_success() => Ok(format!("exec `{}` {exit}", words(command))),
        ExecResult::Ended(exit) => Err(exit.to_string()),
        ExecResult::NotStarted { error, .. } => Err(error),
    }
}

/// Told by the pumps: there is nothing to try again.
async fn log(
    pattern: &str,
    seen: Option<LogMatched>,
    report: &mut (impl FnMut(Result<String, String>) + Send),
) {
    let Some(mut seen) = seen else {
        report(Err("log: the output of the run is not read".to_owned()));
        return;
    };
    if seen.now().is_none() {
        report(Err(format!("log: {}", not_yet(pattern))));
    }
    let result = match seen.line().await {
        Some(line) => Ok(matched(&line)),
        None => Err(format!("log: the output ended without a line that matches `{}`", shorten(pattern))),
    };
    report(result);
}

fn matched(line: &str) -> String {
    format!("log: `{}`", shorten(line))
}

fn not_yet(pattern: &str) -> String {
    format!("no line matches `{}` yet", shorten(pattern))
}

fn words(command: &CommandLine) -> String {
    shorten(&command.0.join(" "))
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTED).is_some() {
        short.push('…');
    }
    short
}

fn http_phrase(error: &hyper::Error) -> String {
    if error.is_parse() {
        return "the answer is not http".to_owned();
    }
    if error.is_incomplete_message() || error.is_canceled() {
        return "the connection was closed before an answer".to_owned();
    }
    match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => io_phrase(cause),
        None => error.to_string(),
    }
}

/// Makes the two ends of a `log` probe: one for the pumps of a run, one for its [`Prober`].
///
/// # Errors
/// When `pattern` is no regular expression.
pub fn log_match(pattern: &str) -> Result<(LogMatcher, LogMatched), regex::Error> {
    let regex = Arc::new(Regex::new(pattern)?);
    let (sender, receiver) = watch::channel(None);
    Ok((LogMatcher { regex, matched: Arc::new(sender) }, LogMatched { matched: receiver }))
}

/// Looks for the line that a `log` probe waits for. One for each stream of a run.
#[derive(Debug, Clone)]
pub struct LogMatcher {
    regex: Arc<Regex>,
    matched: Arc<watch::Sender<Option<String>>>,
}

impl LogMatcher {
    /// Shows a line, without its end; `true` when a line has matched, this one or another.
    pub fn line(&self, line: &[u8]) -> bool {
        if self.is_done() {
            return true;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !self.regex.is_match(line) {
            return false;
        }
        self.matched.send_replace(Some(String::from_utf8_lossy(line).into_owned()));
        true
    }

    /// Whether a line has matched.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.matched.borrow().is_some()
    }
}

/// Where it shows that a line matched.
#[derive(Debug, Clone)]
pub struct LogMatched {
    matched: watch::Receiver<Option<String>>,
}

impl LogMatched {
    /// The line that matched, if one has.
    #[must_use]
    pub fn now(&self) -> Option<String> {
        self.matched.borrow().clone()
    }

    /// Waits for a line that matches; `None` when the output ended without one.
    pub async fn line(&mut self) -> Option<String> {
        // An error says that every matcher is gone; one may have matched before.
        let _ = self.matched.wait_for(Option::is_some).await.map(drop);
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use ws_model::ExitReason;

    use super::*;
    use crate::publish::tests::HostDial;

    const LONG: Duration = Duration::from_secs(20);

    /// Answers commands from a list, then hangs.
    #[derive(Default)]
    struct Script {
        answers: Mutex<VecDeque<ExecResult>>,
        dropped: Arc<AtomicUsize>,
    }

    struct Hanging(Arc<AtomicUsize>);

    impl Drop for Hanging {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl ExecProbe for Script {
        fn exec(&self, argv: Vec<String>) -> BoxFuture<ExecResult> {
            assert_eq!(argv, ["pg_isready", "-q"]);
            let answer = self.answers.lock().unwrap().pop_front();
            let hanging = Hanging(Arc::clone(&self.dropped));
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    None => {
                        let _hanging = hanging;
                        std::future::pending().await
                    }
                }
            })
        }
    }

    fn means(exec: Arc<Script>, log: Option<LogMatched>) -> Means {
        Means { address: Ipv4Addr::LOCALHOST, dial: Arc::new(HostDial), exec, log }
    }

    fn probe(kind: ProbeKind) -> Probe {
        Probe { kind, interval: Duration::from_millis(30), timeout: Duration::from_secs(5), within: LONG }
    }

    fn start(probe: &Probe, means: Means) -> (Prober, mpsc::UnboundedReceiver<Result<String, String>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let prober = Prober::start(probe, means, move |result| {
            let _ = sender.send(result);
        });
        (prober, receiver)
    }

    async fn next(reports: &mut mpsc::UnboundedReceiver<Result<String, String>>) -> Result<String, String> {
        tokio::time::timeout(LONG, reports.recv()).await.unwrap().unwrap()
    }

    /// Waits for a report of the other kind than `ok`.
    async fn until(
        ok: bool,
        reports: &mut mpsc::UnboundedReceiver<Result<String, String>>,
    ) -> Result<String, String> {
        loop {
            let report = next(reports).await;
            if report.is_ok() == ok {
                return report;
            }
        }
    }

    /// A port of the loopback on which nothing listens.
    async fn free_port() -> u16 {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
    }

    /// Answers every connection with `answer`, after the request.
    async fn server(answer: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.unwrap();
                let head = String::from_utf8_lossy(&request[..n]).to_lowercase();
                assert!(head.starts_with("get /healthz?x=1 http/1.1\r\n"), "{head}");
                assert!(head.contains(&format!("\r\nhost: localhost:{port}\r\n")), "{head}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn http_kind(port: u16) -> ProbeKind {
        ProbeKind::Http { port, path: "/healthz?x=1".to_owned() }
    }

    #[tokio::test]
    async fn a_port_is_ready_when_it_accepts_and_not_any_more_when_it_is_closed() {
        let port = free_port().await;
        let (_prober, mut reports) = start(&probe(ProbeKind::Tcp { port }), means(Arc::default(), None));
        assert_eq!(next(&mut reports).await, Err(format!("tcp :{port}: connection refused")));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert_eq!(until(true, &mut reports).await, Ok(format!("tcp :{port} accepts connections")));
        drop(listener);
        assert_eq!(until(false, &mut reports).await, Err(format!("tcp :{port}: connection refused")));
    }

    #[tokio::test]
    async fn http_counts_from_200_to_399() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok("http 200 from :PORT/healthz?x=1")),
            ("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", Ok("http 302 from :PORT/healthz?x=1")),
            ("HTTP/1.0 204 No Content\r\n\r\n", Ok("http 204 from :PORT/healthz?x=1")),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Err("http :PORT/healthz?x=1: answered 404")),
            ("HTTP/1.1 503 Busy\r\n\r\n", Err("http :PORT/healthz?x=1: answered 503")),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err("http :PORT/healthz?x=1: the answer is not http")),
            ("", Err("http :PORT/healthz?x=1: the connection was closed before an answer")),
        ] {
            let port = server(answer).await;
            let (_prober, mut reports) = start(&probe(http_kind(port)), means(Arc::default(), None));
            let named = |text: &str| text.replace("PORT", &port.to_string());
            let expected = expected.map(named).map_err(named);
            assert_eq!(next(&mut reports).await, expected, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_costs_the_timeout() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = Probe { timeout: Duration::from_millis(50), ..probe(http_kind(port)) };
        let (_prober, mut reports) = start(&probe, means(Arc::default(), None));
        let expected = format!("http :{port}/healthz?x=1: no answer within 50ms");
        assert_eq!(next(&mut reports).await, Err(expected));
    }

    #[tokio::test]
    async fn a_command_counts_by_its_exit_and_is_dropped_when_it_takes_too_long() {
        let script = Arc::new(Script {
            answers: Mutex::new(VecDeque::from([
                ExecResult::NotStarted { error: "no such program".to_owned(), not_found: true },
                ExecResult::Ended(ExitReason::Code(2)),
                ExecResult::Ended(ExitReason::Signal(9)),
                ExecResult::Ended(ExitReason::Code(0)),
            ])),
            dropped: Arc::default(),
        });
        let command = CommandLine(vec!["pg_isready".to_owned(), "-q".to_owned()]);
        let probe = Probe { timeout: Duration::from_millis(50), ..probe(ProbeKind::Exec(command)) };
        let (prober, mut reports) = start(&probe, means(Arc::clone(&script), None));
        for expected in [
            Err("exec `pg_isready -q`: no such program"),
            Err("exec `pg_isready -q`: exited with 2"),
            Err("exec `pg_isready -q`: was killed by SIGKILL"),
            Ok("exec `pg_isready -q` exited with 0"),
            Err("exec `pg_isready -q`: no answer within 50ms"),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(next(&mut reports).await, expected);
        }
        assert!(script.dropped.load(Ordering::SeqCst) >= 1);
        drop(prober);
        // The task is gone, and the sender of the reports with it.
        tokio::time::timeout(LONG, async { while reports.recv().await.is_some() {} }).await.unwrap();
    }

    #[tokio::test]
    async fn a_line_of_output_makes_it_ready_once() {
        let (matcher, matched) = log_match("ready to accept").unwrap();
        let kind = ProbeKind::Log { pattern: "ready to accept".to_owned() };
        let (_prober, mut reports) = start(&probe(kind.clone()), means(Arc::default(), Some(matched)));
        assert_eq!(next(&mut reports).await, Err("log: no line matches `ready to accept` yet".to_owned()));
        let other_stream = matcher.clone();
        assert!(!matcher.line(b"starting"));
        assert!(matcher.line(b"db is\tready to accept\r"));
        assert!(other_stream.is_done());
        assert_eq!(next(&mut reports).await, Ok("log: `db is ready to accept`".to_owned()));
        assert_eq!(tokio::time::timeout(LONG, reports.recv()).await.unwrap(), None);

        let (matcher, matched) = log_match("x").unwrap();
        drop(matcher);
        let (_prober, mut reports) = start(&probe(kind), means(Arc::default(), Some(matched)));
        assert!(next(&mut reports).await.is_err());
        let ended = next(&mut reports).await.unwrap_err();
        assert!(ended.contains("the output ended without"), "{ended}");
    }

    #[test]
    fn attempts_start_quickly_and_settle_at_the_interval() {
        let pauses = |interval: u64, results: &[bool]| -> Vec<u128> {
            let mut pace = Pace::new(Duration::from_millis(interval));
            results.iter().map(|ok| pace.after(*ok).as_millis()).collect()
        };
        assert_eq!(pauses(100, &[false; 7]), [20, 30, 45, 67, 100, 100, 100]);
        assert_eq!(pauses(1000, &[false, true, true, false, false]), [20, 1000, 1000, 1000, 1000]);
        assert_eq!(pauses(0, &[false, false, true]), [10, 10, 10]);
    }

    #[test]
    fn phrases_are_one_line_and_bounded() {
        assert_eq!(shorten("a\nb"), "a b");
        assert_eq!(shorten(&"x".repeat(500)).chars().count(), QUOTED + 1);
    }
}
