//! What comes over the socket and should not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use ws_client::{Client, ClientError};
use ws_model::EventKind;
use ws_model::wire::ApiError;

use crate::stack::{Does, Options, Part, Stack, until, within};

const ONE: [Part; 1] = [Part("db", Does::Run, &[])];

/// Sends bytes and reads all that comes back: the status, and the body.
async fn send(socket: &Path, bytes: &[u8]) -> (u16, Vec<u8>) {
    within(async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        // The supervisor may hang up before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.as_bytes().to_vec());
        (status.unwrap_or_else(|| panic!("no answer: {text}")), body.unwrap_or_default())
    })
    .await
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: ws\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: ws\r\nconnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn nonsense_is_refused_and_disturbs_nobody() {
    let stack = Stack::start(&ONE).await;
    let deep = "[".repeat(100_000);
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"\0\x01\x02 garbage\r\n\r\n".to_vec(), 400),
        (b"GET /v1/info HTTP/7.0\r\n\r\n".to_vec(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        (format!("GET /v1/info HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes(), 431),
        (get("/"), 404),
        (get("/v1/nothing"), 404),
        (get("/v2/info"), 404),
        (get("/v1/../../etc/passwd"), 404),
        (get("/v1/why/nobody"), 404),
        (get("/v1/why/..%2f..%2fetc"), 404),
        (get("/v1/why/%ff"), 400),
        (get("/v1/up"), 405),
        (post("/v1/info", b""), 405),
        (get("/v1/logs?tail=-1"), 400),
        (get("/v1/logs?grep=%28"), 400),
        (get("/v1/logs?grep=((a%7B100%7D)%7B100%7D)%7B100%7D"), 400),
        (get(&format!("/v1/logs?grep={}", "x".repeat(5000))), 400),
        (get("/v1/logs?after=-1"), 400),
        (get("/v1/logs?color=x"), 400),
        (get("/v1/stats?interval_ms=0"), 400),
        (get("/v1/stats?interval_ms=99999999999999999999"), 400),
        (get("/v1/stats?service=A"), 400),
        (post("/v1/kill", br#"{"signal": "NOPE"}"#), 400),
        (post("/v1/kill", br#"{"signal": "0"}"#), 400),
        (post("/v1/kill", br#"{"signal": "-9"}"#), 400),
        (post("/v1/kill", br#"{"signal": 9}"#), 400),
        (post("/v1/kill", br#"{"services": ["db"], "signal": "HUP"}"#), 409),
        (post("/v1/run/db", b""), 426),
        (post("/v1/run/nobody", b""), 426),
        (post("/v1/run/..", b""), 404),
        (get("/v1/logs?service=../../x"), 400),
        (get("/v1/events?since=abc"), 400),
        (get("/v1/events?since=99999999999999999999999"), 400),
        (post("/v1/up", b"{"), 400),
        (post("/v1/up", b"\xff\xfe"), 400),
        (post("/v1/up", b"[1,2]"), 400),
        (post("/v1/up", deep.as_bytes()), 400),
        (post("/v1/up", br#"{"services": ["A/B"]}"#), 400),
        (post("/v1/up", br#"{"services": ["nobody"]}"#), 404),
        (post("/v1/exec/db", b""), 426),
        (post("/v1/exec/nobody", b""), 426),
        (post("/v1/down", &vec![b' '; 2 << 20]), 413),
    ];
    for (bytes, expected) in cases {
        let (status, body) = send(&stack.socket, &bytes).await;
        let request = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(status, expected, "{request}: {}", String::from_utf8_lossy(&body));
        // What never became a request is answered by hyper, without a body.
        if !body.is_empty() && expected != 431 {
            let error: Result<ApiError, _> = serde_json::from_slice(&body);
            assert!(error.is_ok(), "{request}: {}", String::from_utf8_lossy(&body));
        }
        assert_eq!(stack.client.info().await.unwrap().name, "shop");
    }
    assert!(stack.seen.lock().unwrap().running.is_empty());
    // Unknown fields are those of a later version, and an empty body is the default of all.
    assert_eq!(send(&stack.socket, &post("/v1/stop", br#"{"later": 1}"#)).await.0, 200);
    assert_eq!(send(&stack.socket, &post("/v1/down", b"")).await.0, 200);
    stack.ended().await;
}

#[tokio::test]
async fn every_path_that_is_promised_is_served() {
    let stack = Stack::start(&ONE).await;
    let schemas = ws_supervisor::schemas();
    let (_, openapi) = schemas.iter().find(|(name, _)| *name == "control.openapi.json").unwrap();
    let paths = openapi["paths"].as_object().unwrap();
    assert!(paths.len() >= 13);
    for path in paths.keys() {
        let bytes = format!(
            "BREW {} HTTP/1.1\r\nhost: ws\r\nconnection: close\r\n\r\n",
            path.replace("{service}", "db")
        );
        assert_eq!(send(&stack.socket, bytes.as_bytes()).await.0, 405, "{path}");
    }
    stack.down().await;
}

#[tokio::test]
async fn half_a_request_holds_up_nothing() {
    let stack = Stack::start(&ONE).await;
    let mut half = UnixStream::connect(&stack.socket).await.unwrap();
    half.write_all(b"POST /v1/down HTTP/1.1\r\nhost: ws\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let mut silent = UnixStream::connect(&stack.socket).await.unwrap();
    assert!(stack.client.info().await.is_ok());
    stack.down().await;
    let mut rest = Vec::new();
    let _ = within(silent.read_to_end(&mut rest)).await;
    let _ = within(half.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let stack = Stack::start(&ONE).await;
    let mut idle = Vec::new();
    let refused = within(async {
        loop {
            match stack.client.info().await {
                Ok(_) => {}
                Err(error) => break error,
            }
            idle.push(UnixStream::connect(&stack.socket).await.unwrap());
        }
    })
    .await;
    assert!(matches!(refused, ClientError::Api { status: 503, .. }), "{refused:?}");
    // All of one process: others still have a place.
    assert!((56..=64).contains(&idle.len()), "{}", idle.len());
    idle.clear();
    within(async { while stack.client.info().await.is_err() {} }).await;
    stack.down().await;
}

#[tokio::test]
async fn who_may_not_connect_is_told_why() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Refuses every other one.
    let peer_check = Arc::new(move |_: std::os::fd::BorrowedFd<'_>| {
        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Err("process 7 is in another user namespace".to_owned())
        } else {
            Ok(())
        }
    });
    let stack = Stack::start_with(&ONE, Options { peer_check, ..Options::default() }).await;
    match stack.client.info().await {
        Err(ClientError::Api { status: 403, error }) => {
            assert_eq!(error.error, "process 7 is in another user namespace");
        }
        other => panic!("{other:?}"),
    }
    let events = stack.events(0).await;
    let text = "refused a connection to the control socket: process 7 is in another user namespace";
    assert!(
        events.iter().any(|event| event.kind == EventKind::Notice { text: text.to_owned() }),
        "{events:?}"
    );
    let _ = stack.client.info().await;
    stack.down().await;
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn where_nobody_listens_nothing_runs() {
    let stack = Stack::start(&ONE).await;
    let socket = stack.socket.clone();
    let home = Arc::clone(&stack.home);
    stack.down().await;
    let absent = Client::connect(&socket).await.unwrap_err();
    assert!(absent.is_not_running(), "{absent:?}");
    // A socket file that a crash has left.
    let left = home.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let refused = Client::connect(&left).await.unwrap_err();
    assert!(refused.is_not_running(), "{refused:?}");
    until(|| !socket.exists()).await;
}
