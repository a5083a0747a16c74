//! The control socket: HTTP/1.1 and JSON over a unix socket, with bounds on everything.
//!
//! Owns connections, paths and bodies. Decides nothing: what concerns the services is asked of the loop,
//! events and logs are read from where they are kept.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use ws_core::engine::Input;
use ws_core::host::{ExecIo, ExecSpec};
use ws_model::wire::{
    Accepted, ApiError, Applying, DownRequest, EXEC_PROTOCOL, EventQuery, ExecRequest, Info, KillRequest,
    LogQuery, PlanDifference, PlanFilesRequest, RunRequest, SEQ_HEADER, ServiceStatus, ServicesRequest,
    SetRequest, StatsQuery, StatsSample, UpRequest, ViolationQuery, WatchQuery, Why,
};
use ws_model::{EventKind, ServiceName, ViolationRow};

use crate::exec;
use crate::journal::Journal;
use crate::logs::LogStore;
use crate::planner::Watched;
use crate::slots::Slots;
use crate::stats;
use crate::supervisor::{Running, SessionId};

/// The longest body of a request.
const MAX_BODY: usize = 1 << 20;

/// The longest head of a request, about.
const MAX_HEAD: usize = 64 << 10;

/// How long a client may take for the head of a request, and again for its body.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// How long connections may go on after the end: long enough to read what is there.
const END_WITHIN: Duration = Duration::from_secs(1);

/// How long accepting rests after it failed for want of memory or descriptors.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How many refused connections may wait for their answer, and how long.
const MAX_REFUSALS: usize = 16;
const REFUSE_WITHIN: Duration = Duration::from_secs(2);

/// How many refused connections are told as events; there may be a program that tries again and again.
const MAX_REFUSALS_TOLD: u32 = 10;

/// Decides about who has connected; the error says why it is refused.
pub type PeerCheck = Arc<dyn Fn(BorrowedFd<'_>) -> Result<(), String> + Send + Sync>;

/// What the API asks the loop. Each is answered once, unless the supervisor ends.
pub(crate) enum Request {
    Info(Reply<Info>),
    Services(Reply<(Vec<ServiceStatus>, u64)>),
    Up(Vec<ServiceName>, Reply<Answer<Accepted>>),
    Stop(Vec<ServiceName>, Reply<Answer<Accepted>>),
    Restart(Vec<ServiceName>, Reply<Answer<Accepted>>),
    Kill(KillRequest, Reply<Answer<Accepted>>),
    Down(DownRequest, Reply<Answer<Accepted>>),
    Why(ServiceName, Reply<Answer<Why>>),
    /// What the files say now, against what runs.
    Plan(PlanFilesRequest, Reply<Answer<PlanDifference>>),
    /// Carries out what the files say now.
    Apply(PlanFilesRequest, Reply<Answer<Applying>>),
    Set(SetRequest, Reply<Answer<Applying>>),
    Watched(Reply<Answer<Watched>>),
    Violations(Vec<ServiceName>, Reply<Answer<Vec<ViolationRow>>>),
    /// Of which names there are logs when somebody wants these.
    Names(Vec<ServiceName>, Reply<Vec<ServiceName>>),
    Usage(Reply<Vec<StatsSample>>),
    /// Whether a command could be run now, and in which unit.
    MayExec(ServiceName, Reply<Answer<ServiceName>>),
    Exec(ExecSpec, ExecIo, Reply<Answer<Running>>),
    /// A terminal in the sandbox of a unit; none where it cannot be had.
    Terminal(ServiceName, Reply<exec::Terminal>),
    /// Whether a one-off could be run now.
    MayRun(ServiceName, Reply<Answer<()>>),
    Run(ServiceName, RunRequest, ExecIo, Reply<Answer<Running>>),
    /// Somebody wants to own the stack; does so for as long as the answer lives.
    Hold(Reply<Answer<HoldGuard>>),
}

pub(crate) type Reply<T> = oneshot::Sender<T>;
pub(crate) type Answer<T> = Result<T, Refusal>;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: ApiError,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: ApiError { error: error.into(), help: None } }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.error.help = Some(help.into());
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json(self.status, &self.error)
    }
}

/// What is told to the loop without an answer.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The owner of the stack is gone.
    HoldEnded,
    /// Something to tell, about whom.
    Tell(Option<ServiceName>, EventKind),
    /// The host has made the place of a one-off, or could not.
    Added { name: ServiceName, result: Result<(), String> },
    /// The host has taken the place of a one-off away.
    Removed { name: ServiceName, errors: Vec<String> },
    /// The host has done something for a change of the plan, or could not.
    Happened(Input),
    /// The host knows what runs elsewhere from now on, or could not.
    ExternalSet(Result<(), String>),
    /// A session is over: its command ended by itself, or its client is gone.
    SessionEnded { id: SessionId, by_itself: bool },
}

/// What the handlers use.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) journal: Journal,
    pub(crate) logs: Arc<LogStore>,
    /// Who walks the tree for an answer: one at a time.
    pub(crate) walking: Arc<Semaphore>,
}

/// Serves the socket until `stop`, then gives connections a moment to end.
pub(crate) async fn serve(
    listener: UnixListener,
    api: Api,
    peer_check: PeerCheck,
    stop: impl Future<Output = ()> + Send,
) {
    let ended = api.journal.clone();
    let notices = api.notices.clone();
    let router = router(api);
    let slots = Slots::default();
    let places = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut refused = 0;
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        // Those that have ended leave their place; joined here, so that nobody has to wake up for it.
        while connections.try_join_next().is_some() {}
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of memory or descriptors: what is there goes on.
                Err(_) => {
                    tokio::time::sleep(REST_AFTER_ERROR).await;
                    continue;
                }
            },
        };
        if let Err(why) = peer_check(stream.as_fd()) {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, why.clone());
            turn_away(&mut connections, &places, stream, refusal);
            refused += 1;
            if refused <= MAX_REFUSALS_TOLD {
                // It fails when the supervisor has ended.
                let text = format!("refused a connection to the control socket: {why}");
                let _ = notices.send(Notice::Tell(None, EventKind::Notice { text }));
            }
            continue;
        }
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let slot = match slots.take(process) {
            Ok(slot) => slot,
            Err(why) => {
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why);
                turn_away(&mut connections, &places, stream, refusal);
                continue;
            }
        };
        let (router, ended) = (router.clone(), ended.ended());
        connections.spawn(async move {
            serve_connection(stream, router, ended).await;
            drop(slot);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever does not read in time is cut off.
    let _ = tokio::time::timeout(END_WITHIN, all).await;
}

pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    ended: impl Future<Output = ()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_WITHIN)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // An error is one of the client's: hyper has answered it where that is possible.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = ended => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Answers whatever is asked with why it is refused, and hangs up. Has its own few places, so that those
/// who are refused take nothing from the others; without one, hangs up at once.
fn turn_away(connections: &mut JoinSet<()>, places: &Arc<Semaphore>, stream: UnixStream, refusal: Refusal) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    connections.spawn(async move {
        let service = service_fn(move |_: hyper::Request<Incoming>| {
            let refusal = refusal.clone();
            async { Ok::<_, Infallible>(refusal.into_response()) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REFUSE_WITHIN)
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // Whatever goes wrong here is the end of it as well.
        let _ = tokio::time::timeout(REFUSE_WITHIN, connection).await;
        drop(place);
    });
}

pub(crate) fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/info", get(info))
        .route("/services", get(services))
        .route("/up", post(up))
        .route("/start", post(up))
        .route("/stop", post(stop))
        .route("/restart", post(restart))
        .route("/kill", post(kill))
        .route("/down", post(down))
        .route("/events", get(events))
        .route("/logs", get(logs))
        .route("/stats", get(stats_of))
        .route("/exec/{service}", post(exec_in))
        .route("/run/{service}", post(run_one_off))
        .route("/hold", get(hold))
        .route("/why/{service}", get(why))
        .route("/plan", get(plan_as_it_was_read).post(plan))
        .route("/apply", post(apply))
        .route("/set", post(set))
        .route("/watch", get(watch))
        .route("/violations", get(violations));
    Router::new()
        .nest(&format!("/{}", ws_model::wire::API_VERSION), v1)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at `{}`", uri.path()))
}

async fn wrong_method(uri: Uri) -> Refusal {
    let text = format!("`{}` does not know this method", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
        .help("what changes something is a POST, the rest is a GET")
}

async fn info(State(api): State<Api>) -> Answer<Response> {
    Ok(json(StatusCode::OK, &api.ask(Request::Info).await?))
}

async fn services(State(api): State<Api>) -> Answer<Response> {
    let (rows, seq) = api.ask(Request::Services).await?;
    let mut response = json(StatusCode::OK, &rows);
    response.headers_mut().insert(SEQ_HEADER, HeaderValue::from(seq));
    Ok(response)
}

async fn up(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: UpRequest = read_body(body).await?;
    api.change(|reply| Request::Up(request.services, reply)).await
}

async fn stop(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: ServicesRequest = read_body(body).await?;
    api.change(|reply| Request::Stop(request.services, reply)).await
}

async fn restart(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: ServicesRequest = read_body(body).await?;
    api.change(|reply| Request::Restart(request.services, reply)).await
}

async fn kill(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: KillRequest = read_body(body).await?;
    api.change(|reply| Request::Kill(request, reply)).await
}

async fn down(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: DownRequest = read_body(body).await?;
    api.change(|reply| Request::Down(request, reply)).await
}

async fn why(State(api): State<Api>, service: PathService) -> Answer<Response> {
    let service = service_name(service)?;
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Why(service, reply)).await??))
}

async fn plan_as_it_was_read(State(api): State<Api>) -> Answer<Response> {
    let request = PlanFilesRequest::default();
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Plan(request, reply)).await??))
}

async fn plan(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: PlanFilesRequest = read_body(body).await?;
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Plan(request, reply)).await??))
}

async fn apply(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: PlanFilesRequest = read_body(body).await?;
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Apply(request, reply)).await??))
}

async fn set(State(api): State<Api>, body: HttpRequest) -> Answer<Response> {
    let request: Option<SetRequest> = read_body(body).await?;
    let request = request.filter(|request| !request.settings.is_empty()).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "a request to set something names a service and its settings")
    })?;
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Set(request, reply)).await??))
}

async fn watch(State(api): State<Api>, pairs: Pairs) -> Answer<Response> {
    let query = read_query(pairs, |pairs| WatchQuery::from_pairs(pairs))?;
    let watched = api.ask(Request::Watched).await??;
    // It goes on to its end when the client goes away, and keeps its place until then.
    let walking = Arc::clone(&api.walking).acquire_owned().await;
    let report = tokio::task::spawn_blocking(move || {
        let report = watched.report(&query.paths);
        drop(walking);
        report
    });
    let broken = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "could not look at what is watched");
    Ok(json(StatusCode::OK, &report.await.map_err(broken)?))
}

async fn violations(State(api): State<Api>, pairs: Pairs) -> Answer<Response> {
    let query = read_query(pairs, |pairs| ViolationQuery::from_pairs(pairs))?;
    Ok(json(StatusCode::OK, &api.ask(|reply| Request::Violations(query.services, reply)).await??))
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn events(State(api): State<Api>, pairs: Pairs) -> Answer<Response> {
    let query = read_query(pairs, |pairs| EventQuery::from_pairs(pairs))?;
    let reader = api.journal.read(query);
    let chunks = stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok::<_, io::Error>(chunk), reader))
    });
    Ok(ndjson(Body::from_stream(chunks)))
}

async fn logs(State(api): State<Api>, pairs: Pairs) -> Answer<Response> {
    let mut query = read_query(pairs, |pairs| LogQuery::from_pairs(pairs))?;
    if !query.services.is_empty() {
        query.services = api.ask(|reply| Request::Names(query.services, reply)).await?;
    }
    let reader = api
        .logs
        .read(&query)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.text).help(error.help))?;
    let chunks = stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok::<_, io::Error>(chunk), reader))
    });
    Ok(ndjson(Body::from_stream(chunks)))
}

async fn hold(State(api): State<Api>) -> Answer<Response> {
    // Wherever it is when the client goes away, in the reply too, it is dropped.
    let guard = api.ask(Request::Hold).await??;
    let ended = api.journal.ended();
    // Nothing is ever sent; the end of the stream is the end of the supervisor, and when the client ends
    // it hyper drops the guard.
    let nothing = stream::once(async move {
        ended.await;
        drop(guard);
        Ok::<_, io::Error>(Bytes::new())
    });
    Ok(ndjson(Body::from_stream(nothing)))
}

/// The ownership of the stack: says so when it ends.
#[derive(Debug)]
pub(crate) struct HoldGuard(pub(crate) mpsc::UnboundedSender<Notice>);

impl Drop for HoldGuard {
    fn drop(&mut self) {
        // It fails when the supervisor has ended.
        let _ = self.0.send(Notice::HoldEnded);
    }
}

async fn stats_of(State(api): State<Api>, pairs: Pairs) -> Answer<Response> {
    let query = read_query(pairs, |pairs| StatsQuery::from_pairs(pairs))?;
    Ok(ndjson(Body::from_stream(stats::stream(api, query))))
}

async fn exec_in(State(api): State<Api>, service: PathService, mut request: HttpRequest) -> Answer<Response> {
    let service = service_name(service)?;
    let upgrade = upgrade_of(&mut request, "exec")?;
    let service = api.ask(|reply| Request::MayExec(service, reply)).await??;
    let (of, asked) = (service.clone(), api.clone());
    let terminal = async move { asked.ask(|reply| Request::Terminal(of, reply)).await.ok().flatten() };
    Ok(upgraded(upgrade, terminal, async move |request: ExecRequest, io| {
        let spec = ExecSpec {
            service,
            argv: request.command,
            env: request.env,
            cwd: request.working_dir,
            tty: request.tty,
        };
        api.ask(|reply| Request::Exec(spec, io, reply)).await?
    }))
}

async fn run_one_off(
    State(api): State<Api>,
    service: PathService,
    mut request: HttpRequest,
) -> Answer<Response> {
    let service = service_name(service)?;
    let upgrade = upgrade_of(&mut request, "run")?;
    let of = service.clone();
    api.ask(|reply| Request::MayRun(of, reply)).await??;
    // The sandbox that it could have a name in is not there yet.
    let terminal = std::future::ready(None);
    Ok(upgraded(upgrade, terminal, async move |request: RunRequest, io| {
        api.ask(|reply| Request::Run(service, request, io, reply)).await?
    }))
}

/// The upgrade that a request asks for.
fn upgrade_of(request: &mut HttpRequest, what: &str) -> Answer<OnUpgrade> {
    let wanted = request.headers().get(header::UPGRADE);
    let wanted = wanted.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(EXEC_PROTOCOL.as_bytes()));
    request.extensions_mut().remove::<OnUpgrade>().filter(|_| wanted).ok_or_else(|| {
        let text = format!("`{what}` needs the headers `connection: upgrade` and `upgrade: {EXEC_PROTOCOL}`");
        Refusal::new(StatusCode::UPGRADE_REQUIRED, text)
    })
}

/// Goes on with frames: `begin` begins what the first one asks for, on a `terminal` if that is asked for.
fn upgraded<R, B, F>(
    upgrade: OnUpgrade,
    terminal: impl Future<Output = exec::Terminal> + Send + 'static,
    begin: B,
) -> Response
where
    R: exec::Wanted,
    B: FnOnce(R, ExecIo) -> F + Send + 'static,
    F: Future<Output = Answer<Running>> + Send + 'static,
{
    tokio::spawn(exec::serve(upgrade, terminal, begin));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, EXEC_PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

impl Api {
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
        let ended = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the supervisor has ended");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }

    async fn change(&self, request: impl FnOnce(Reply<Answer<Accepted>>) -> Request) -> Answer<Response> {
        Ok(json(StatusCode::OK, &self.ask(request).await??))
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            // For those who read it in a terminal.
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn ndjson(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// The body as JSON; one that is empty stands for the default of everything.
async fn read_body<T: DeserializeOwned + Default>(request: HttpRequest) -> Answer<T> {
    use axum::extract::FromRequest as _;
    let bytes = tokio::time::timeout(READ_WITHIN, Bytes::from_request(request, &()))
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"))?
        .map_err(|rejection: BytesRejection| {
            Refusal::new(rejection.status(), rejection.body_text().to_lowercase())
        })?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the request is not understood: {error}"))
    })
}

fn read_query<T>(
    pairs: Pairs,
    parse: impl for<'a> FnOnce(&mut dyn Iterator<Item = (&'a str, &'a str)>) -> Result<T, String>,
) -> Answer<T> {
    let Query(pairs) = pairs
        .map_err(|rejection| Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text().to_lowercase()))?;
    parse(&mut pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error))
}

type PathService = Result<Path<String>, PathRejection>;

fn service_name(path: PathService) -> Answer<ServiceName> {
    let Path(text) = path
        .map_err(|rejection| Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text().to_lowercase()))?;
    ServiceName::new(text.as_str()).map_err(|error| {
        Refusal::new(StatusCode::NOT_FOUND, format!("there is no service `{text}`: {error}"))
    })
}
