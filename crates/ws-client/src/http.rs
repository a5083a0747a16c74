//! One request, one connection: HTTP/1.1 over a unix socket.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use ws_model::wire::ApiError;

use crate::ClientError;

/// The longest answer that is not a stream. 64 MiB are the rows of a hundred thousand services.
const MAX_ANSWER: usize = 64 << 20;

/// The longest path that fits into a socket address on every Unix (`sun_path` has 104 bytes on the BSDs,
/// 108 on Linux, with a NUL).
const MAX_SOCKET_PATH: usize = 103;

/// Ends the connection when it is dropped.
#[derive(Debug)]
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) driver: Driver,
}

/// Opens a connection to the supervisor.
pub(crate) async fn open(socket: &Path) -> Result<UnixStream, ClientError> {
    connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket, source }
            }
            _ => ClientError::Connect { socket, source },
        }
    })
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = reach(socket).await?;
    // A runtime directory can have a name that others guess, and make first (`/tmp/ws-1000`).
    let listener = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if listener == own || listener == 0 {
        return Ok(stream);
    }
    let why = format!("it belongs to user {listener}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

async fn reach(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(socket).await;
    }
    // A deep runtime directory does not fit into a socket address; its descriptor's name does.
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let dir = File::open(dir)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

/// Sends a request and waits for the head of the answer; a status that is no success is an error.
pub(crate) async fn send(
    socket: &Path,
    method: Method,
    target: &str,
    body: Option<Vec<u8>>,
    upgrade: Option<&'static str>,
    doing: &'static str,
) -> Result<Answer, ClientError> {
    let stream = open(socket).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| ClientError::lost(doing, e))?;
    let driver = Driver(tokio::spawn(async move {
        // What fails here fails the request or its body too, and is told there.
        let _ = connection.with_upgrades().await;
    }));
    let mut request = Request::builder().method(method).uri(target).header(header::HOST, "ws");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(protocol) = upgrade {
        request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|e| ClientError::protocol(doing, e))?;
    sender.ready().await.map_err(|e| ClientError::lost(doing, e))?;
    let response = sender.send_request(request).await.map_err(|e| ClientError::lost(doing, e))?;
    let status = response.status();
    let wanted =
        if upgrade.is_some() { status == StatusCode::SWITCHING_PROTOCOLS } else { status.is_success() };
    let answer = Answer { response, driver };
    if wanted { Ok(answer) } else { Err(refusal(answer, doing).await) }
}

/// The whole answer, as JSON.
pub(crate) async fn json<T: DeserializeOwned>(answer: Answer, doing: &'static str) -> Result<T, ClientError> {
    let bytes = collect(answer, doing).await?;
    serde_json::from_slice(&bytes).map_err(|e| ClientError::protocol(doing, e))
}

async fn collect(answer: Answer, doing: &'static str) -> Result<Bytes, ClientError> {
    let body = Limited::new(answer.response.into_body(), MAX_ANSWER);
    Ok(body.collect().await.map_err(|e| ClientError::lost(doing, e))?.to_bytes())
}

async fn refusal(answer: Answer, doing: &'static str) -> ClientError {
    let status = answer.response.status();
    let body = match collect(answer, doing).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let error = serde_json::from_slice(&body).unwrap_or_else(|_| {
        // An answer of something that is no supervisor of ours, or of another version.
        let text = String::from_utf8_lossy(&body);
        let text = text.trim();
        let error =
            if text.is_empty() { format!("the supervisor answered {status}") } else { text.to_owned() };
        ApiError { error, help: None }
    });
    ClientError::Api { status: status.as_u16(), error }
}

/// A path with a query string, escaped.
pub(crate) fn target(path: &str, pairs: &[(&str, String)]) -> String {
    let mut target = path.to_owned();
    for (i, (key, value)) in pairs.iter().enumerate() {
        target.push(if i == 0 { '?' } else { '&' });
        target.push_str(key);
        target.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
                target.push(char::from(byte));
            } else {
                target.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn a_query_string_is_escaped() {
        let pairs = [("service", "a-b_c".to_owned()), ("since", "2026-01-01T00:00:00+01:00 &x".to_owned())];
        assert_eq!(
            target("/v1/logs", &pairs),
            "/v1/logs?service=a-b_c&since=2026-01-01T00:00:00%2B01:00%20%26x"
        );
        assert_eq!(target("/v1/logs", &[]), "/v1/logs");
    }
}
