//! Another service of the shop, and how it is called.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Problem;

/// How long a connection may take: the peer is in the same workspace.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a whole request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// The largest body that is taken from a peer or passed on to one, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A service that is called by name.
#[derive(Debug, Clone)]
pub struct Peer {
    authority: String,
    key: Option<String>,
}

impl Peer {
    /// The peer at `host:port`.
    pub fn new(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), key: None }
    }

    /// Shows this key with every request, as a bearer token.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// GETs a JSON value.
    ///
    /// # Errors
    /// The peer's own problem where it answered with one, 502 where it could not be reached.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// POSTs a JSON value and reads one.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Problem> {
        let body = serde_json::to_vec(body).map_err(|e| Problem::internal(&e))?;
        self.json(Method::POST, path, body.into()).await
    }

    /// Passes a request on as it came, and the answer back as it comes.
    ///
    /// # Errors
    /// 413 for a body that is too large, 502 where the peer could not be reached.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|e| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body was not taken: {e}")))?
            .to_bytes();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut onward = self.request(parts.method, path, body)?;
        if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
            onward.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        let (parts, body) = self.send(onward).await?.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = parts.status;
        if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
            response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        Ok(response)
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Problem> {
        let request = self.request(method, path, body)?;
        let (parts, body) = self.send(request).await?.into_parts();
        let body = timeout(REQUEST, Limited::new(body, MAX_BODY).collect())
            .await
            .map_err(|_| self.lost("the answer did not end in time"))?
            .map_err(|e| self.lost(&format!("the answer broke off: {e}")))?
            .to_bytes();
        if parts.status.is_success() {
            serde_json::from_slice(&body).map_err(|e| self.lost(&format!("the answer makes no sense: {e}")))
        } else {
            Err(Problem::received(parts.status, &body))
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Problem> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        request.body(Full::new(body)).map_err(|e| Problem::internal(&e))
    }

    /// One connection per request: nothing to keep, nothing that is stale after the peer restarted.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<hyper::Response<Incoming>, Problem> {
        let stream = timeout(CONNECT, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| self.lost("no connection in time"))?
            .map_err(|e| self.lost(&e.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.lost(&e.to_string()))?;
        // The task ends with the connection; what went wrong on it is the request's error as well.
        tokio::spawn(connection);
        timeout(REQUEST, sender.send_request(request))
            .await
            .map_err(|_| self.lost("no answer in time"))?
            .map_err(|e| self.lost(&e.to_string()))
    }

    fn lost(&self, why: &str) -> Problem {
        crate::log(&format!("{}: {why}", self.authority));
        Problem::new(StatusCode::BAD_GATEWAY, format!("{} is not available: {why}", self.authority))
    }
}
