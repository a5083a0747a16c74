//! The standard health check of gRPC (`grpc.health.v1.Health/Check`), over HTTP/2 without TLS.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md> and, for the frames and statuses,
//! `PROTOCOL-HTTP2.md` and `statuscodes.md` beside it.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::task::JoinSet;

use super::{Means, shorten};
use crate::publish::io_phrase;

/// The most of an answer that is read: the message is two bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long it may take to say goodbye after an answer, which waits for a peer that reads.
const GOODBYE: Duration = Duration::from_millis(100);

/// The head of a message on the wire: whether it is compressed, and its length.
const HEAD: usize = 5;

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Eq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Eq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// The tasks of one connection, which end with this at the latest.
///
/// hyper leaves the connection to a task that ends when all was said. With a peer that floods and does not read that is
/// never: each attempt would leave a task, a socket and their buffers behind.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn executor(&self) -> Executor {
        Executor(Arc::downgrade(&self.0))
    }

    /// Waits until they have ended by themselves, for a short while.
    async fn end(self) {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Those that have not are ended by the drop.
        let _ = tokio::time::timeout(GOODBYE, async { while all.join_next().await.is_some() {} }).await;
    }
}

/// Adds to [`Tasks`]. Does not keep them: the tasks themselves have it.
#[derive(Clone)]
struct Executor(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        if let Some(all) = self.0.upgrade() {
            all.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }
}

/// Asks once; the error is a phrase.
pub(super) async fn check(means: &Means, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let stream = means.connect(port).await?;
    let message = HealthCheckRequest { service: service.to_owned() };
    let request = Request::post(format!("http://localhost:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "ws-probe")
        // At most eight digits.
        .header("grpc-timeout", format!("{}m", timeout.as_millis().clamp(1, 99_999_999)))
        .body(Full::new(framed(&message)))
        .map_err(|error| error.to_string())?;
    let tasks = Tasks::default();
    let handshake = hyper::client::conn::http2::handshake(tasks.executor(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| phrase(&error))?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| phrase(&error))?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("answered http {}, not gRPC", head.status.as_u16()));
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<hyper::Error>() {
            Some(error) => phrase(error),
            None => "the answer is too long for a health check".to_owned(),
        })?;
        // A server that has nothing else to say puts everything into one block of headers.
        let trailers = body.trailers().unwrap_or(&head.headers);
        judge(trailers, service)?;
        serving(&body.to_bytes())
    };
    let mut exchange = std::pin::pin!(exchange);
    let result = tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = connection => exchange.await,
    };
    tasks.end().await;
    result
}

/// A message as it goes over the wire, uncompressed.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// What the status of the call says.
fn judge(trailers: &HeaderMap, service: &str) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some("5") if !service.is_empty() => {
            Err(format!("the server knows no service `{}`", shorten(service)))
        }
        Some("12") => Err("the server has no health service (grpc.health.v1.Health)".to_owned()),
        Some(code) => Err(match text("grpc-message").map(shorten) {
            Some(message) if !message.is_empty() => {
                format!("failed with status {}: {message}", shorten(code))
            }
            Some(_) | None => format!("failed with status {}", shorten(code)),
        }),
        None => Err("the answer is not gRPC: it has no status".to_owned()),
    }
}

/// What the message of the answer says.
fn serving(body: &[u8]) -> Result<(), String> {
    let unclear = || "the answer is not that of a health check".to_owned();
    let (head, message) = body.split_at_checked(HEAD).ok_or_else(unclear)?;
    // Nothing was offered to be compressed by.
    if head.first() != Some(&0) {
        return Err(unclear());
    }
    let answer = HealthCheckResponse::decode(message).map_err(|_| unclear())?;
    match ServingStatus::try_from(answer.status) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(ServingStatus::NotServing) => Err("says NOT_SERVING".to_owned()),
        Ok(ServingStatus::Unknown) => Err("says UNKNOWN".to_owned()),
        Ok(ServingStatus::ServiceUnknown) => Err("says SERVICE_UNKNOWN".to_owned()),
        Err(_) => Err(format!("says {}, which no version of the protocol knows", answer.status)),
    }
}

fn phrase(error: &hyper::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionAborted => "the connection was closed before an answer".to_owned(),
                _ => io_phrase(io),
            };
        }
        cause = inner.source();
    }
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        return "the connection was closed before an answer".to_owned();
    }
    "the answer is not http/2".to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tonic::transport::Server;
    use tonic_health::ServingStatus as Health;
    use ws_model::ProbeKind;

    use super::super::tests::{means, next, probe, start};
    use super::*;

    /// What a probe of `service` at the port of `listener` reports first, without the port.
    async fn asked(port: u16, service: &str) -> Result<String, String> {
        let kind = ProbeKind::Grpc { port, service: service.to_owned() };
        let (_prober, mut reports) = start(&probe(kind), means(Arc::default(), None));
        let named = |text: String| text.replace(&port.to_string(), "PORT");
        next(&mut reports).await.map(named).map_err(named)
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// A server of tonic on a port of its own.
    fn serve(listener: TcpListener, router: tonic::transport::server::Router) {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(router.serve_with_incoming(incoming));
    }

    #[tokio::test]
    async fn a_real_server_is_asked_for_itself_and_for_its_services() {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", Health::Serving).await;
        reporter.set_service_status("shop.Orders", Health::NotServing).await;
        reporter.set_service_status("shop.Stock", Health::Unknown).await;
        let (listener, port) = listen().await;
        serve(listener, Server::builder().add_service(health));
        assert_eq!(asked(port, "").await, Ok("grpc :PORT says SERVING".to_owned()));
        let not_serving = "grpc :PORT/shop.Orders: says NOT_SERVING";
        assert_eq!(asked(port, "shop.Orders").await, Err(not_serving.to_owned()));
        assert_eq!(asked(port, "shop.Stock").await, Err("grpc :PORT/shop.Stock: says UNKNOWN".to_owned()));
        let unknown = "grpc :PORT/nobody: the server knows no service `nobody`";
        assert_eq!(asked(port, "nobody").await, Err(unknown.to_owned()));

        reporter.set_service_status("shop.Orders", Health::Serving).await;
        assert_eq!(asked(port, "shop.Orders").await, Ok("grpc :PORT/shop.Orders says SERVING".to_owned()));
    }

    #[tokio::test]
    async fn a_server_without_the_health_service_is_told_apart() {
        let (listener, port) = listen().await;
        let nothing = tonic::service::Routes::default();
        serve(listener, Server::builder().add_routes(nothing));
        let expected = "grpc :PORT: the server has no health service (grpc.health.v1.Health)";
        assert_eq!(asked(port, "").await, Err(expected.to_owned()));
    }

    #[tokio::test]
    async fn what_does_not_speak_http_2_is_said_so() {
        for (answer, expected) in [
            ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "grpc :PORT: the answer is not http/2"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "grpc :PORT: the answer is not http/2"),
            ("", "grpc :PORT: the connection was closed before an answer"),
        ] {
            let (listener, port) = listen().await;
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut preface = [0; 24];
                    stream.read_exact(&mut preface).await.unwrap();
                    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                    // What has come and was not read would turn the end into a reset.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            });
            assert_eq!(asked(port, "").await, Err(expected.to_owned()), "{answer:?}");
        }
        let (listener, port) = listen().await;
        drop(listener);
        assert_eq!(asked(port, "").await, Err("grpc :PORT: connection refused".to_owned()));
    }

    #[tokio::test]
    async fn nothing_stays_of_a_connection_to_one_that_floods_and_does_not_read() {
        // SETTINGS without any, and then pings, whose answers nobody takes.
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Full of answers soon.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let flood = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&SETTINGS).await.unwrap();
            let pings = PING.repeat(1000);
            // Blocks for good, once the answers block the other side, unless that side closes.
            while stream.write_all(&pings).await.is_ok() {}
        });
        let kind = ProbeKind::Grpc { port, service: String::new() };
        let probe = ws_model::Probe { timeout: Duration::from_secs(2), ..probe(kind) };
        let (_prober, mut reports) = start(&probe, means(Arc::default(), None));
        let expected = format!("grpc :{port}: no answer within 2s");
        assert_eq!(next(&mut reports).await, Err(expected));
        tokio::time::timeout(Duration::from_secs(20), flood).await.expect("it is closed").unwrap();
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&framed(&HealthCheckRequest { service: String::new() })[..], [0, 0, 0, 0, 0]);
        let named = framed(&HealthCheckRequest { service: "ab".to_owned() });
        assert_eq!(&named[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for (body, expected) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], "says NOT_SERVING"),
            (&[0, 0, 0, 0, 0], "says UNKNOWN"),
            (&[0, 0, 0, 0, 2, 8, 3], "says SERVICE_UNKNOWN"),
            (&[0, 0, 0, 0, 2, 8, 9], "says 9, which no version of the protocol knows"),
            (&[1, 0, 0, 0, 2, 8, 1], "the answer is not that of a health check"),
            (&[0, 0, 0, 0, 2, 8], "the answer is not that of a health check"),
            (&[0, 0], "the answer is not that of a health check"),
            (&[], "the answer is not that of a health check"),
        ] {
            assert_eq!(serving(body), Err(expected.to_owned()), "{body:?}");
        }
    }

    #[test]
    fn statuses_read_as_words() {
        let judged = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            judge(&map, "")
        };
        assert_eq!(judged(&[("grpc-status", "0")]), Ok(()));
        for (headers, expected) in [
            (
                &[("grpc-status", "14"), ("grpc-message", "going down")][..],
                "failed with status 14: going down",
            ),
            (&[("grpc-status", "16")], "failed with status 16"),
            (&[("grpc-status", "5"), ("grpc-message", "")], "failed with status 5"),
            (&[], "the answer is not gRPC: it has no status"),
        ] {
            assert_eq!(judged(headers), Err(expected.to_owned()), "{headers:?}");
        }
    }
}
