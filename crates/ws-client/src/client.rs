//! The client: a method for each endpoint.

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use http_body_util::BodyDataStream;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ws_model::wire::{
    API_VERSION, Accepted, Applying, DownRequest, EXEC_PROTOCOL, EventQuery, ExecRequest, Info, KillRequest,
    LogQuery, PlanDifference, PlanFilesRequest, RunRequest, SEQ_HEADER, ServiceStatus, ServicesRequest,
    SetRequest, StatsQuery, UpRequest, ViolationQuery, WatchQuery, WatchReport, Why,
};
use ws_model::{ServiceName, ViolationRow};

use crate::http::{self, Answer, Driver};
use crate::{
    ClientError, EventStream, ExecSession, JsonLines, LogLines, StatsLines, WaitFor, WaitOutcome, WaitState,
    Waited,
};

/// A supervisor to talk to.
///
/// Only names the socket: cheap to clone, and as good after a supervisor was replaced as before.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The supervisor that listens at `socket`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when none does.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        drop(http::open(socket).await?);
        Ok(Self::at(socket))
    }

    /// The supervisor that listens at `socket`, or will: each request finds out whether one does.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Where the supervisor listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who the supervisor is.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.get("/info", "asking who it is").await
    }

    /// The state of every service, in the order of their names.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        Ok(self.services_at().await?.0)
    }

    /// The state of every service, and the number of the last event that it includes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn services_at(&self) -> Result<(Vec<ServiceStatus>, u64), ClientError> {
        let doing = "asking for the services";
        let answer = self.request(Method::GET, "/services", &[], None, doing).await?;
        let seq = answer.response.headers().get(SEQ_HEADER);
        let seq = seq.and_then(|value| value.to_str().ok()?.parse().ok());
        let seq = seq.ok_or_else(|| ClientError::protocol(doing, format!("no header `{SEQ_HEADER}`")))?;
        Ok((http::json(answer, doing).await?, seq))
    }

    /// Starts services (all, when empty) and what they need.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn up(&self, services: &[ServiceName]) -> Result<Accepted, ClientError> {
        let request = UpRequest { services: services.to_vec() };
        self.post("/up", &request, "asking to start services").await
    }

    /// The same as [`Self::up`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn start(&self, services: &[ServiceName]) -> Result<Accepted, ClientError> {
        let request = ServicesRequest { services: services.to_vec() };
        self.post("/start", &request, "asking to start services").await
    }

    /// Stops services (all, when empty).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&self, services: &[ServiceName]) -> Result<Accepted, ClientError> {
        let request = ServicesRequest { services: services.to_vec() };
        self.post("/stop", &request, "asking to stop services").await
    }

    /// Stops services (all, when empty) and starts them again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restart(&self, services: &[ServiceName]) -> Result<Accepted, ClientError> {
        let request = ServicesRequest { services: services.to_vec() };
        self.post("/restart", &request, "asking to restart services").await
    }

    /// Kills services (all, when empty) at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill(&self, services: &[ServiceName]) -> Result<Accepted, ClientError> {
        let request = KillRequest { services: services.to_vec(), signal: None };
        self.post("/kill", &request, "asking to kill services").await
    }

    /// Sends a signal, by its name (`HUP`, `SIGHUP`) or number, to the main processes of services (all that run, when
    /// empty). `KILL` is the same as [`Self::kill`]; what comes of another one is decided as if they had ended by
    /// themselves.
    ///
    /// # Errors
    /// [`ClientError::Api`] with status 400 when there is no such signal, 409 when one of the services does not run; see
    /// [`ClientError`] for the others.
    pub async fn signal(&self, services: &[ServiceName], signal: &str) -> Result<Accepted, ClientError> {
        let request = KillRequest { services: services.to_vec(), signal: Some(signal.to_owned()) };
        self.post("/kill", &request, "asking to send a signal").await
    }

    /// Stops everything and ends the supervisor. It has ended when a followed stream of events has.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn down(&self, request: DownRequest) -> Result<Accepted, ClientError> {
        self.post("/down", &request, "asking to go down").await
    }

    /// Why a service is in its phase.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn why(&self, service: &ServiceName) -> Result<Why, ClientError> {
        self.get(&format!("/why/{service}"), "asking for the cause").await
    }

    /// What is different between what runs and what the workspace file says now. With the default request, read with
    /// the variables that the stack was started with.
    ///
    /// # Errors
    /// See [`ClientError`]. Errors of the file are no error: [`PlanDifference::error`] has them.
    pub async fn plan(&self, request: &PlanFilesRequest) -> Result<PlanDifference, ClientError> {
        self.post("/plan", request, "asking what is different").await
    }

    /// Carries out what the workspace file says now. It is done when
    /// [`EventKind::PlanApplied`](ws_model::EventKind::PlanApplied) is told, and what is started by it ready some time
    /// after that.
    ///
    /// # Errors
    /// [`ClientError::Api`] with status 422 when the file has errors (its help is the diagnostics), 409 when it cannot
    /// be carried out while the stack runs; see [`ClientError`] for the others.
    pub async fn apply(&self, request: &PlanFilesRequest) -> Result<Applying, ClientError> {
        self.post("/apply", request, "asking to carry out a change").await
    }

    /// Gives a service other settings, until the stack is down or the file says something else about them.
    ///
    /// # Errors
    /// As [`Self::apply`], for errors of the settings.
    pub async fn set(&self, request: &SetRequest) -> Result<Applying, ClientError> {
        self.post("/set", request, "asking for other settings").await
    }

    /// What is watched for each unit, or how paths stand to that.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self, query: &WatchQuery) -> Result<WatchReport, ClientError> {
        let doing = "asking what is watched";
        http::json(self.request(Method::GET, "/watch", &query.to_pairs(), None, doing).await?, doing).await
    }

    /// How services (all, when empty) broke their policies in this life of the stack: a row for each kind.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Api`] with status 404 when a service does not exist.
    pub async fn violations(&self, services: &[ServiceName]) -> Result<Vec<ViolationRow>, ClientError> {
        let doing = "asking for violations";
        let query = ViolationQuery { services: services.to_vec() };
        http::json(self.request(Method::GET, "/violations", &query.to_pairs(), None, doing).await?, doing)
            .await
    }

    /// Events with a number greater than `since` (0: all that are kept); with `follow`, new ones too,
    /// until the supervisor ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, query: EventQuery) -> Result<EventStream, ClientError> {
        let doing = "reading events";
        let answer = self.request(Method::GET, "/events", &query.to_pairs(), None, doing).await?;
        Ok(JsonLines::new(answer, doing))
    }

    /// Output of services.
    ///
    /// # Errors
    /// [`ClientError::Api`] with status 400 when the query's expression is none; see [`ClientError`] for the others.
    pub async fn logs(&self, query: &LogQuery) -> Result<LogLines, ClientError> {
        let doing = "reading logs";
        let answer = self.request(Method::GET, "/logs", &query.to_pairs(), None, doing).await?;
        Ok(JsonLines::new(answer, doing))
    }

    /// What services use, as samples. They are only taken while somebody reads them.
    ///
    /// # Errors
    /// [`ClientError::Api`] with status 400 when the interval is out of bounds; see [`ClientError`] for the others.
    pub async fn stats(&self, query: &StatsQuery) -> Result<StatsLines, ClientError> {
        let doing = "reading statistics";
        let answer = self.request(Method::GET, "/stats", &query.to_pairs(), None, doing).await?;
        Ok(JsonLines::new(answer, doing))
    }

    /// Runs a command inside the sandbox of a service that runs. When the session is dropped, it is killed.
    ///
    /// # Errors
    /// See [`ClientError`]. That the command could not be started is told by the session.
    pub async fn exec(
        &self,
        service: &ServiceName,
        request: &ExecRequest,
    ) -> Result<ExecSession, ClientError> {
        self.session(&format!("/exec/{service}"), request, "running a command in a service").await
    }

    /// Runs a one-off of a service: in a sandbox of its own that is like the service's, after what the service depends
    /// on was brought up. When the session is dropped, it is killed.
    ///
    /// # Errors
    /// See [`ClientError`]. That it could not be started, or why what it depends on cannot be had, is told by the
    /// session.
    pub async fn run(&self, service: &ServiceName, request: &RunRequest) -> Result<ExecSession, ClientError> {
        self.session(&format!("/run/{service}"), request, "running a one-off of a service").await
    }

    async fn session(
        &self,
        path: &str,
        request: &impl Serialize,
        doing: &'static str,
    ) -> Result<ExecSession, ClientError> {
        let target = format!("/{API_VERSION}{path}");
        let answer =
            http::send(&self.socket, Method::POST, &target, None, Some(EXEC_PROTOCOL), doing).await?;
        let upgraded = hyper::upgrade::on(answer.response).await.map_err(|e| ClientError::lost(doing, e))?;
        let request = serde_json::to_vec(request).map_err(|e| ClientError::protocol(doing, e))?;
        ExecSession::start(upgraded, &request).await
    }

    /// Becomes the owner of the stack: when the returned value is dropped, or this process dies, the
    /// stack goes down.
    ///
    /// # Errors
    /// [`ClientError::Api`] with status 409 when it has an owner; see [`ClientError`] for the others.
    pub async fn hold(&self) -> Result<Hold, ClientError> {
        let answer = self.request(Method::GET, "/hold", &[], None, "attaching").await?;
        Ok(Hold { body: BodyDataStream::new(answer.response.into_body()), _driver: answer.driver })
    }

    /// Waits until `services` (when empty: all that somebody asked for) are as wanted, or cannot become
    /// so. Has no time limit; dropping the future stops waiting.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Api`] with status 404 when a service does not exist.
    pub async fn wait_until(
        &self,
        services: &[ServiceName],
        condition: WaitFor,
    ) -> Result<Waited, ClientError> {
        let (rows, since) = self.services_at().await?;
        let unknown = services.iter().find(|service| !rows.iter().any(|row| row.is_meant_by(service)));
        if let Some(unknown) = unknown {
            // The answer to this has the words for it.
            self.why(unknown).await?;
        }
        let mut state = WaitState::new(rows, services, condition);
        let mut events = None;
        loop {
            if let Some(outcome) = state.outcome() {
                return Ok(Waited { outcome, services: state.into_rows() });
            }
            let events = match &mut events {
                Some(events) => events,
                None => events.insert(self.events(EventQuery { since, follow: true }).await?),
            };
            match events.next().await {
                Some(Ok(event)) => state.apply(&event),
                // An event that only a later version knows is not about phases.
                Some(Err(ClientError::Protocol { .. })) => {}
                Some(Err(ClientError::Lost { .. })) | None => {
                    return Ok(Waited { outcome: WaitOutcome::Ended, services: state.into_rows() });
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, doing: &'static str) -> Result<T, ClientError> {
        http::json(self.request(Method::GET, path, &[], None, doing).await?, doing).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        doing: &'static str,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::protocol(doing, e))?;
        http::json(self.request(Method::POST, path, &[], Some(body), doing).await?, doing).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
        doing: &'static str,
    ) -> Result<Answer, ClientError> {
        let target = http::target(&format!("/{API_VERSION}{path}"), query);
        http::send(&self.socket, method, &target, body, None, doing).await
    }
}

/// The ownership of a stack: it goes down when this is dropped.
#[derive(Debug)]
pub struct Hold {
    body: BodyDataStream<Incoming>,
    _driver: Driver,
}

impl Hold {
    /// Waits until the supervisor has ended. May be cancelled and called again.
    pub async fn ended(&mut self) {
        while let Some(Ok(_)) = self.body.next().await {}
    }
}
