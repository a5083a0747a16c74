//! Probes: attempt after attempt against a run, each told as a phrase.
//!
//! Knows when to try, not what a result means: readiness, `within`, failures in a row and phases are the
//! engine's. While no attempt has succeeded they follow each other quickly, so that a stack comes up as fast as
//! its services do; from then on at the interval of the file, failing or not, since readiness is a level and
//! not an edge and a service in trouble is not helped by being asked more often. A liveness probe has no such
//! beginning: it starts after one interval and keeps to it.

mod grpc;

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use ws_core::engine::ProbeRole;
use ws_model::wire::ExecResult;
use ws_model::{CommandLine, Probe, ProbeKind};

use crate::publish::{self, Dial, io_phrase};

/// The pause after the first attempt that did not succeed; each further one is half as long again, up to
/// [`Probe::start_interval`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The least pause, whatever the file says: a probe must not become a busy loop.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// How much of a line of output or of a command is repeated in a phrase, in characters.
const QUOTED: usize = 120;
/// How much of an answer a `body` expression is shown, in bytes; of a longer one it sees the beginning.
const MAX_BODY: usize = 1 << 20;

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
    /// What of its packets says that they are for this run and not for the one beside it, while it is to be said: the
    /// type of service; 0: nothing.
    pub tos: Arc<AtomicU8>,
    /// Runs commands inside the sandbox.
    pub exec: Arc<dyn ExecProbe>,
    /// Where the run's output shows that it is ready, for a `log` probe (see [`log_match`]).
    pub log: Option<LogMatched>,
}

impl Means {
    /// Connects to a port of the run.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let target = SocketAddrV4::new(self.address, port);
        let tos = self.tos.load(Ordering::Relaxed);
        publish::connect_as(&self.dial, target, tos).await.map_err(|error| io_phrase(&error))
    }
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
    /// For [`ProbeKind::Notify`] there is nothing to try: the service itself speaks, and `report` is not called.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        probe: &Probe,
        role: ProbeRole,
        means: Means,
        mut report: impl FnMut(Result<String, String>) + Send + 'static,
    ) -> Self {
        let probe = probe.clone();
        Self {
            task: tokio::spawn(async move {
                let look = match Look::new(&probe.kind) {
                    Ok(Some(look)) => look,
                    Ok(None) => return,
                    Err(why) => return report(Err(why)),
                };
                if let Look::Log { pattern } = &look {
                    return log(pattern, means.log, &mut report).await;
                }
                let mut pace = Pace::new(&probe, role);
                tokio::time::sleep(pace.first()).await;
                loop {
                    let result = attempt(&look, probe.timeout, &means).await;
                    let pause = pace.after(result.is_ok());
                    report(result);
                    tokio::time::sleep(pause).await;
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

/// The pauses between attempts: short ones until one has succeeded, then the interval for good.
struct Pace {
    interval: Duration,
    start_interval: Duration,
    /// The next short pause; `None` from the first success on, and for liveness.
    next: Option<Duration>,
}

impl Pace {
    fn new(probe: &Probe, role: ProbeRole) -> Self {
        let interval = probe.interval.max(LEAST_PAUSE);
        let start_interval = probe.start_interval.max(LEAST_PAUSE);
        let next = match role {
            ProbeRole::Startup | ProbeRole::Ready => Some(FIRST_PAUSE.min(start_interval)),
            ProbeRole::Live => None,
        };
        Self { interval, start_interval, next }
    }

    /// The pause before the first attempt.
    fn first(&self) -> Duration {
        if self.next.is_some() { Duration::ZERO } else { self.interval }
    }

    fn after(&mut self, success: bool) -> Duration {
        if success {
            self.next = None;
        }
        let Some(pause) = self.next else { return self.interval };
        self.next = Some((pause * 3 / 2).min(self.start_interval));
        pause
    }
}

/// A probe's declaration, ready to be used again and again.
enum Look {
    Exec(CommandLine),
    Http(HttpLook),
    Tcp { port: u16 },
    Log { pattern: String },
    Grpc { port: u16, service: String },
}

impl Look {
    /// `None`: there is nothing to look at.
    fn new(kind: &ProbeKind) -> Result<Option<Self>, String> {
        Ok(Some(match kind {
            ProbeKind::Exec(command) => Self::Exec(command.clone()),
            ProbeKind::Http { port, path, headers, status, body } => {
                let look = HttpLook::new(*port, path, headers, status, body.as_deref());
                Self::Http(look.map_err(|why| format!("http :{port}{path}: {why}"))?)
            }
            ProbeKind::Tcp { port } => Self::Tcp { port: *port },
            ProbeKind::Log { pattern } => Self::Log { pattern: pattern.clone() },
            ProbeKind::Notify => return Ok(None),
            ProbeKind::Grpc { port, service } => Self::Grpc { port: *port, service: service.clone() },
        }))
    }

    /// What every phrase about it begins with.
    fn name(&self) -> String {
        match self {
            Self::Exec(command) => format!("exec `{}`", words(command)),
            Self::Http(look) => format!("http :{}{}", look.port, look.path),
            Self::Tcp { port } => format!("tcp :{port}"),
            Self::Log { .. } => "log".to_owned(),
            Self::Grpc { port, service } if service.is_empty() => format!("grpc :{port}"),
            Self::Grpc { port, service } => format!("grpc :{port}/{service}"),
        }
    }
}

/// One attempt, within its timeout.
async fn attempt(look: &Look, timeout: Duration, means: &Means) -> Result<String, String> {
    let why = match tokio::time::timeout(timeout, once(look, timeout, means)).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(why)) => why,
        Err(_elapsed) => format!("no answer within {timeout:?}"),
    };
    Err(format!("{}: {why}", look.name()))
}

async fn once(look: &Look, timeout: Duration, means: &Means) -> Result<String, String> {
    match look {
        Look::Tcp { port } => tcp(means, *port).await,
        Look::Http(look) => look.once(means).await,
        Look::Exec(command) => exec(means, command).await,
        Look::Grpc { port, service } => grpc::check(means, *port, service, timeout)
            .await
            .map(|()| format!("{} says SERVING", look.name())),
        Look::Log { pattern } => match means.log.as_ref().and_then(LogMatched::now) {
            Some(line) => Ok(matched(&line)),
            None => Err(not_yet(pattern)),
        },
    }
}

async fn tcp(means: &Means, port: u16) -> Result<String, String> {
    means.connect(port).await?;
    Ok(format!("tcp :{port} accepts connections"))
}

/// A GET and what its answer must be.
struct HttpLook {
    port: u16,
    path: String,
    headers: HeaderMap,
    /// Inclusive; empty: 200 to 399.
    status: Vec<(u16, u16)>,
    body: Option<(String, Regex)>,
}

impl HttpLook {
    fn new(
        port: u16,
        path: &str,
        headers: &[(String, String)],
        status: &[(u16, u16)],
        body: Option<&str>,
    ) -> Result<Self, String> {
        let mut all = HeaderMap::new();
        let usual = [
            // Development servers answer to this name and refuse others.
            ("host", format!("localhost:{port}")),
            ("user-agent", "ws-probe".to_owned()),
            ("accept", "*/*".to_owned()),
            ("connection", "close".to_owned()),
        ];
        let usual = usual.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in usual.chain(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        {
            let known = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no name of a header"))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| format!("the value of the header `{name}` cannot be sent"))?;
            // The last one counts: what the file says replaces what is usual.
            all.insert(known, value);
        }
        let body = body
            .map(|pattern| Regex::new(pattern).map(|regex| (pattern.to_owned(), regex)))
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Self { port, path: path.to_owned(), headers: all, status: status.to_vec(), body })
    }

    async fn once(&self, means: &Means) -> Result<String, String> {
        let stream = means.connect(self.port).await?;
        let mut request =
            Request::get(&self.path).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = self.headers.clone();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| http_phrase(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| http_phrase(&error))?;
            self.judge(answer.status(), answer.into_body()).await
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // The connection may end in the same moment as the answer is complete: then it is there.
            _ = connection => exchange.await,
        }
    }

    async fn judge(&self, status: StatusCode, body: Incoming) -> Result<String, String> {
        let status = status.as_u16();
        let usual = [(200, 399)];
        let accepted = if self.status.is_empty() { usual.as_slice() } else { &self.status };
        if !accepted.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
            return Err(match self.status.as_slice() {
                [] => format!("answered {status}"),
                wanted => format!("answered {status}, not {}", ranges(wanted)),
            });
        }
        if let Some((pattern, regex)) = &self.body {
            let (text, cut) = beginning(body).await?;
            if !regex.is_match(&text) {
                let what = if cut { "the first MiB of the body" } else { "body" };
                let text = String::from_utf8_lossy(text.get(..4 * QUOTED).unwrap_or(&text));
                return Err(match text.trim() {
                    "" => format!("{what} does not match `{}`: it is empty", shorten(pattern)),
                    text => format!("{what} does not match `{}`: `{}`", shorten(pattern), shorten(text)),
                });
            }
        }
        // Without an expression only the head counts: what follows is not read.
        Ok(format!("http {status} from :{}{}", self.port, self.path))
    }
}

/// "200, 300-399"
fn ranges(ranges: &[(u16, u16)]) -> String {
    let one = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The first [`MAX_BODY`] bytes of an answer, and whether there are more.
async fn beginning(mut body: Incoming) -> Result<(Vec<u8>, bool), String> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "the body was cut off".to_owned())?;
        let Ok(data) = frame.into_data() else { continue };
        let room = MAX_BODY - text.len();
        text.extend_from_slice(data.get(..room).unwrap_or(&data));
        if data.len() > room {
            return Ok((text, true));
        }
    }
    Ok((text, false))
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
    one_line(&command.0)
}

/// A command as it stands in a sentence: one line of bounded length.
pub(crate) fn one_line(argv: &[String]) -> String {
    shorten(&argv.join(" "))
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
    pub(in crate::probes) struct Script {
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

    pub(in crate::probes) fn means(exec: Arc<Script>, log: Option<LogMatched>) -> Means {
        Means { address: Ipv4Addr::LOCALHOST, dial: Arc::new(HostDial), tos: Arc::default(), exec, log }
    }

    pub(in crate::probes) fn probe(kind: ProbeKind) -> Probe {
        Probe {
            kind,
            start_interval: Duration::from_millis(30),
            interval: Duration::from_millis(30),
            timeout: Duration::from_secs(5),
            within: LONG,
            failures: 3,
        }
    }

    pub(in crate::probes) fn start(
        probe: &Probe,
        means: Means,
    ) -> (Prober, mpsc::UnboundedReceiver<Result<String, String>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let prober = Prober::start(probe, ProbeRole::Ready, means, move |result| {
            let _ = sender.send(result);
        });
        (prober, receiver)
    }

    pub(in crate::probes) async fn next(
        reports: &mut mpsc::UnboundedReceiver<Result<String, String>>,
    ) -> Result<String, String> {
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
        ProbeKind::Http { port, path: "/healthz?x=1".to_owned(), headers: vec![], status: vec![], body: None }
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

    /// Answers one request with `answer`; gives the head of it.
    async fn asked(kind: impl Fn(u16) -> ProbeKind, answer: Vec<u8>) -> (Result<String, String>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            // The probe may have read enough and be gone.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let (_prober, mut reports) = start(&probe(kind(port)), means(Arc::default(), None));
        let report = next(&mut reports).await;
        let named = |text: String| text.replace(&port.to_string(), "PORT");
        (report.map(named).map_err(named), named(served.await.unwrap()))
    }

    #[tokio::test]
    async fn http_counts_by_the_statuses_and_the_body_of_the_file() {
        let kind = |status: &[(u16, u16)], body: Option<&str>| {
            let (status, body) = (status.to_vec(), body.map(str::to_owned));
            move |port| ProbeKind::Http {
                port,
                path: "/up".to_owned(),
                headers: vec![],
                status: status.clone(),
                body: body.clone(),
            }
        };
        let ok = |text: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nis \r\n2\r\nok\r\n0\r\n\r\n";
        let too_long = ok(&("x".repeat(MAX_BODY) + "ok"));
        let cases = [
            (vec![(503, 503)], None, "HTTP/1.1 503 No\r\n\r\n".to_owned(), Ok("http 503 from :PORT/up")),
            (
                vec![(200, 200), (300, 399)],
                None,
                "HTTP/1.1 204 No\r\n\r\n".to_owned(),
                Err("http :PORT/up: answered 204, not 200, 300-399"),
            ),
            (vec![], Some("^ok$"), ok("ok"), Ok("http 200 from :PORT/up")),
            (vec![], Some("ok$"), chunked.to_owned(), Ok("http 200 from :PORT/up")),
            (
                vec![],
                Some("ok"),
                ok("starting\n\u{1b}[31m"),
                Err("http :PORT/up: body does not match `ok`: `starting  [31m`"),
            ),
            (vec![], Some("ok"), ok(""), Err("http :PORT/up: body does not match `ok`: it is empty")),
            (
                vec![],
                Some("ok"),
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok".to_owned(),
                Err("http :PORT/up: the body was cut off"),
            ),
        ];
        for (status, body, answer, expected) in cases {
            let (report, _) = asked(kind(&status, body), answer.clone().into_bytes()).await;
            assert_eq!(report, expected.map(str::to_owned).map_err(str::to_owned), "{answer:?}");
        }
        let (report, _) = asked(kind(&[], Some("ok")), too_long.into_bytes()).await;
        let why = report.unwrap_err();
        assert!(
            why.starts_with("http :PORT/up: the first MiB of the body does not match `ok`: `xxx"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn headers_of_the_file_replace_the_usual_ones() {
        let headers = [("X-Probe", "1"), ("HOST", "shop.example"), ("user-agent", "mine")];
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let kind = |headers: Vec<(String, String)>| {
            move |port| ProbeKind::Http {
                port,
                path: "/".to_owned(),
                headers: headers.clone(),
                status: vec![],
                body: None,
            }
        };
        let (report, head) = asked(kind(headers), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
        assert!(report.is_ok(), "{report:?}");
        for line in ["x-probe: 1", "host: shop.example", "user-agent: mine", "accept: */*"] {
            assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
        }
        assert!(!head.contains("localhost"), "{head}");
        let bad = kind(vec![("a b".to_owned(), "c".to_owned())])(1);
        let (_prober, mut reports) = start(&probe(bad), means(Arc::default(), None));
        let expected = Err("http :1/: `a b` is no name of a header".to_owned());
        assert_eq!(next(&mut reports).await, expected);
    }

    #[tokio::test]
    async fn a_service_that_speaks_for_itself_is_not_asked() {
        let (_prober, mut reports) = start(&probe(ProbeKind::Notify), means(Arc::default(), None));
        assert_eq!(tokio::time::timeout(LONG, reports.recv()).await.unwrap(), None);
    }

    #[test]
    fn attempts_start_quickly_and_settle_at_the_interval() {
        let pauses = |role: ProbeRole, start_interval: u64, interval: u64, results: &[bool]| -> Vec<u128> {
            let millis = Duration::from_millis;
            let declared = probe(ProbeKind::Tcp { port: 1 });
            let declared =
                Probe { start_interval: millis(start_interval), interval: millis(interval), ..declared };
            let mut pace = Pace::new(&declared, role);
            let mut pauses = vec![pace.first().as_millis()];
            pauses.extend(results.iter().map(|ok| pace.after(*ok).as_millis()));
            pauses
        };
        use ProbeRole::{Live, Ready, Startup};
        assert_eq!(pauses(Ready, 100, 5000, &[false; 7]), [0, 20, 30, 45, 67, 100, 100, 100]);
        // Once up, a failure does not make it ask more often.
        assert_eq!(
            pauses(Startup, 200, 5000, &[false, true, false, true, false]),
            [0, 20, 5000, 5000, 5000, 5000]
        );
        assert_eq!(pauses(Live, 100, 5000, &[false, false, true, false]), [5000; 5]);
        assert_eq!(pauses(Ready, 0, 0, &[false, false, true]), [0, 10, 10, 10]);
        assert_eq!(pauses(Live, 0, 0, &[false]), [10, 10]);
    }

    #[test]
    fn phrases_are_one_line_and_bounded() {
        assert_eq!(shorten("a\nb"), "a b");
        assert_eq!(shorten(&"x".repeat(500)).chars().count(), QUOTED + 1);
    }
}
