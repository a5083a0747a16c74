//! The client against a server that says exactly what a test wants, byte by byte.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use ws_client::{
    Client, ClientError, EventQuery, ExecOutput, LogQuery, StatsQuery, WaitFor, WaitOutcome, WatchQuery,
};
use ws_model::wire::{ExecRequest, ExecResult, LogStream, PlanFilesRequest, RunRequest, SetRequest};
use ws_model::{EventKind, ExitReason, PlanEffect, ServiceName};

const LONG: Duration = Duration::from_secs(60);

/// Answers connections, one after the other, each with these pieces of bytes; gives the requests.
struct Server {
    _home: TempDir,
    socket: PathBuf,
    serving: JoinHandle<Vec<String>>,
}

impl Server {
    fn start(answers: Vec<Vec<Vec<u8>>>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tokio::spawn(async move {
            let (mut requests, mut kept) = (Vec::new(), Vec::new());
            for pieces in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    let read = stream.read(&mut buffer).await.unwrap();
                    assert!(read > 0, "the client hung up");
                    request.extend_from_slice(&buffer[..read]);
                }
                requests.push(String::from_utf8(request).unwrap());
                for piece in pieces {
                    // The client may have heard enough.
                    let _ = stream.write_all(&piece).await;
                    // So that the pieces arrive as such.
                    tokio::task::yield_now().await;
                }
                let _ = stream.shutdown().await;
                kept.push(stream);
            }
            requests
        });
        Self { _home: home, socket, serving }
    }

    fn client(&self) -> Client {
        Client::at(&self.socket)
    }

    async fn requests(self) -> Vec<String> {
        tokio::time::timeout(LONG, self.serving).await.unwrap().unwrap()
    }
}

fn answer(status: &str, body: &str) -> Vec<Vec<u8>> {
    vec![format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()]
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

#[tokio::test]
async fn requests_are_what_the_protocol_says() {
    let server = Server::start(vec![
        answer("200 OK", r#"{"seq": 7}"#),
        answer("200 OK", ""),
        answer("200 OK", ""),
        answer("200 OK", r#"{"seq": 8}"#),
        answer("200 OK", r#"{"seq": 9}"#),
        answer("200 OK", ""),
        answer("200 OK", ""),
    ]);
    let client = server.client();
    let db = ServiceName::new("db").unwrap();
    assert_eq!(client.up(std::slice::from_ref(&db)).await.unwrap().seq, 7);
    let query = LogQuery { services: vec![db], tail: Some(5), follow: true, ..LogQuery::default() };
    assert!(client.logs(&query).await.unwrap().next().await.is_none());
    assert!(client.events(EventQuery { since: 3, follow: false }).await.unwrap().next().await.is_none());
    client.kill(&[]).await.unwrap();
    client.signal(&[], "HUP").await.unwrap();
    let stats =
        StatsQuery { services: vec![ServiceName::new("db").unwrap()], interval_ms: 250, follow: true };
    assert!(client.stats(&stats).await.unwrap().next().await.is_none());
    let grep =
        LogQuery { after: Some(7), grep: Some("a+ b&c".to_owned()), invert: true, ..LogQuery::default() };
    assert!(client.logs(&grep).await.unwrap().next().await.is_none());
    let requests = server.requests().await;
    let first: Vec<&str> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
    assert_eq!(
        first,
        [
            "POST /v1/up HTTP/1.1",
            "GET /v1/logs?service=db&tail=5&follow=true HTTP/1.1",
            "GET /v1/events?since=3 HTTP/1.1",
            "POST /v1/kill HTTP/1.1",
            "POST /v1/kill HTTP/1.1",
            "GET /v1/stats?service=db&interval_ms=250&follow=true HTTP/1.1",
            "GET /v1/logs?after=7&grep=a%2B%20b%26c&invert=true HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn plans_are_asked_for_and_carried_out() {
    let line = r#"{"service": "api", "text": "hold: 5s becomes 6s", "effect": "live", "widens": false}"#;
    let server = Server::start(vec![
        answer(
            "200 OK",
            &format!(r#"{{"lines": [{line}], "widens": false, "needs_down": false, "error": null}}"#),
        ),
        answer("200 OK", &format!(r#"{{"seq": 4, "lines": [{line}], "starts": ["mail"]}}"#)),
        answer("422 Unprocessable Entity", r#"{"error": "`api` cannot be set so", "help": "no such key"}"#),
        answer("200 OK", r#"{"units": [], "paths": []}"#),
        answer("200 OK", r#"{"units": [], "paths": []}"#),
    ]);
    let client = server.client();
    let variables =
        PlanFilesRequest { environment: Some(BTreeMap::from([("LOG".to_owned(), "info".to_owned())])) };
    let difference = client.plan(&variables).await.unwrap();
    assert_eq!(difference.lines[0].effect, PlanEffect::Live);
    let applying = client.apply(&PlanFilesRequest::default()).await.unwrap();
    assert_eq!((applying.seq, applying.lines, applying.starts[0].as_str()), (4, difference.lines, "mail"));
    let settings = BTreeMap::from([("limits.memory".to_owned(), "1G".to_owned())]);
    let service = ServiceName::new("api").unwrap();
    let refused = client.set(&SetRequest { service, settings }).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Api { status: 422, .. }));
    assert_eq!(refused.help(), Some("no such key"));
    client.watch(&WatchQuery::default()).await.unwrap();
    client.watch(&WatchQuery { paths: vec!["a b".to_owned(), "c".to_owned()] }).await.unwrap();
    let requests = server.requests().await;
    let first: Vec<&str> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
    assert_eq!(
        first,
        [
            "POST /v1/plan HTTP/1.1",
            "POST /v1/apply HTTP/1.1",
            "POST /v1/set HTTP/1.1",
            "GET /v1/watch HTTP/1.1",
            "GET /v1/watch?path=a%20b&path=c HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn refusals_are_told_in_the_words_of_the_supervisor() {
    let server = Server::start(vec![
        answer("404 Not Found", r#"{"error": "there is no service `x`", "help": "services are: db"}"#),
        answer("500 Internal Server Error", "out of luck\n"),
        answer("502 Bad Gateway", ""),
    ]);
    let client = server.client();
    let refused = client.up(&[]).await.unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), refused.help()),
        ("there is no service `x`", Some("services are: db"))
    );
    assert!(matches!(refused, ClientError::Api { status: 404, .. }));
    assert_eq!(client.up(&[]).await.unwrap_err().to_string(), "out of luck");
    assert_eq!(client.up(&[]).await.unwrap_err().to_string(), "the supervisor answered 502 Bad Gateway");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let server = Server::start(vec![
        answer("200 OK", "[1, 2"),
        answer("200 OK", r#"{"sequence": 1}"#),
        answer("200 OK", "[]"),
        vec![b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()],
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()],
        Vec::new(),
    ]);
    let client = server.client();
    assert!(matches!(client.up(&[]).await, Err(ClientError::Protocol { .. })));
    assert!(matches!(client.up(&[]).await, Err(ClientError::Protocol { .. })));
    // The header with the number is missing.
    assert!(matches!(client.services_at().await, Err(ClientError::Protocol { .. })));
    for _ in 0..3 {
        assert!(matches!(client.up(&[]).await, Err(ClientError::Lost { .. })));
    }
}

#[tokio::test]
async fn lines_may_be_cut_anywhere() {
    let line = r#"{"seq":1,"at":"2026-01-01T00:00:00.000Z","service":"db","stream":"stdout","line":"é"}"#;
    let text = format!("{line}\n\n{line}\n{{\"later\": true}}\n{line}\n");
    let mut pieces = vec![CHUNKED.to_vec()];
    pieces.extend(text.bytes().map(|byte| vec![b'1', b'\r', b'\n', byte, b'\r', b'\n']));
    pieces.push(b"0\r\n\r\n".to_vec());
    let server = Server::start(vec![pieces]);
    let mut lines = server.client().logs(&LogQuery::default()).await.unwrap();
    for _ in 0..2 {
        let line = lines.next().await.unwrap().unwrap();
        assert_eq!((line.line.as_str(), line.stream), ("é", LogStream::Stdout));
    }
    // Of a later version: told, and the rest is still read.
    assert!(matches!(lines.next().await, Some(Err(ClientError::Protocol { .. }))));
    assert_eq!(lines.next().await.unwrap().unwrap().seq, 1);
    assert!(lines.next().await.is_none());
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_one_that_ends() {
    let event = r#"{"seq":1,"at":"2026-01-01T00:00:00.000Z","service":null,"kind":"notice","text":"hi"}"#;
    let half = chunk(&format!("{event}\n{{\"seq\":2"));
    let server = Server::start(vec![
        vec![CHUNKED.to_vec(), half.clone()],
        vec![CHUNKED.to_vec(), half, b"0\r\n\r\n".to_vec()],
    ]);
    for _ in 0..2 {
        let mut events = server.client().events(EventQuery::default()).await.unwrap();
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.kind, EventKind::Notice { text: "hi".to_owned() });
        assert!(matches!(events.next().await, Some(Err(ClientError::Lost { .. }))));
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn a_line_without_end_is_given_up() {
    let mut pieces = vec![CHUNKED.to_vec()];
    let endless = "x".repeat(1 << 20);
    pieces.extend((0..17).map(|_| chunk(&endless)));
    let server = Server::start(vec![pieces]);
    let mut events = server.client().events(EventQuery::default()).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(ClientError::Protocol { .. }))));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn waiting_goes_on_from_the_rows() {
    let row = r#"[{"service":"db","name":"db","type":"service","replica":1,"phase":"starting","reason":"requested","cause":"x",
        "ready":false,"pid":null,"address":"10.77.0.2","ports":[],"restarts":0,"exit_code":null,"signal":null,
        "level":null,"missing":[],"memory_bytes":null,"cpu_usec":null,"started_at":null}]"#;
    let rows =
        format!("HTTP/1.1 200 OK\r\nws-seq: 41\r\ncontent-length: {}\r\n\r\n{row}", row.len()).into_bytes();
    let ready = r#"{"seq":42,"at":"2026-01-01T00:00:00.000Z","service":"db","kind":"phase","phase":"ready",
        "cause":{"reason":"executed","text":"runs"},"exit":null,"retry_in_ms":null}"#;
    let ready = ready.replace('\n', "") + "\n";
    let server = Server::start(vec![vec![rows], vec![CHUNKED.to_vec(), chunk(&ready)]]);
    let client = server.client();
    let waited = tokio::time::timeout(LONG, client.wait_until(&[], WaitFor::Ready)).await.unwrap().unwrap();
    assert_eq!(waited.outcome, WaitOutcome::Reached);
    assert!(waited.services[0].ready);
    let requests = server.requests().await;
    assert!(requests[1].starts_with("GET /v1/events?since=41&follow=true "), "{}", requests[1]);
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let upgraded =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ws-exec\r\n\r\n".to_vec();
    let frames: [&[u8]; 3] =
        [b"\x01\0\0\0\x02hi", b"\x02\0\0\0\x01!", b"\x03\0\0\0\x14{\"ended\":{\"code\":0}}"];
    let mut pieces = vec![upgraded.clone()];
    pieces.extend(frames.concat().into_iter().map(|byte| vec![byte]));
    let after = |rest: &[u8]| vec![[upgraded.as_slice(), rest].concat()];
    let server = Server::start(vec![
        pieces,
        after(b"\x01\0\0\0\x09cut"),
        after(b"\x09\0\0\0\x01x"),
        after(b"\x01\xff\xff\xff\xff"),
        answer("409 Conflict", r#"{"error": "`db` does not run: it is failed", "help": null}"#),
    ]);
    let client = server.client();
    let db = ServiceName::new("db").unwrap();
    let request =
        ExecRequest { command: vec!["ls".to_owned()], env: Vec::new(), working_dir: None, tty: false };
    let mut session = client.exec(&db, &request).await.unwrap();
    let expected = [
        ExecOutput::Stdout("hi".into()),
        ExecOutput::Stderr("!".into()),
        ExecOutput::Exit(ExecResult::Ended(ExitReason::Code(0))),
    ];
    for output in expected {
        assert_eq!(session.streams.next().await.unwrap(), Some(output));
    }
    assert_eq!(session.streams.next().await.unwrap(), None);

    let mut cut = client.exec(&db, &request).await.unwrap();
    assert!(matches!(cut.streams.next().await, Err(ClientError::Lost { .. })));
    for _ in 0..2 {
        let mut nonsense = client.exec(&db, &request).await.unwrap();
        assert!(matches!(nonsense.streams.next().await, Err(ClientError::Protocol { .. })));
    }
    assert!(matches!(client.exec(&db, &request).await, Err(ClientError::Api { status: 409, .. })));
}

#[tokio::test]
async fn a_one_off_is_asked_for_as_a_command_is() {
    let upgraded = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ws-exec\r\n\r\n";
    let exit = b"\x03\0\0\0\x14{\"ended\":{\"code\":0}}";
    let session = vec![[upgraded.as_slice(), exit].concat()];
    // The second one keeps the first connection open.
    let server = Server::start(vec![session, answer("200 OK", r#"{"seq": 1}"#)]);
    let client = server.client();
    let db = ServiceName::new("db").unwrap();
    let mut session = client.run(&db, &RunRequest::default()).await.unwrap();
    let ended = ExecOutput::Exit(ExecResult::Ended(ExitReason::Code(0)));
    assert_eq!(session.streams.next().await.unwrap(), Some(ended));
    client.up(&[]).await.unwrap();
    let request = server.requests().await.remove(0);
    assert!(request.starts_with("POST /v1/run/db HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("upgrade: ws-exec\r\n"), "{request}");
}

/// Another user can be the first to make a socket where ours is looked for, in `/tmp`.
#[tokio::test]
async fn what_another_user_listens_at_is_no_supervisor() {
    if !rustix::process::geteuid().is_root() {
        // Only root can be another user.
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(home.path(), everybody).unwrap();
    let socket = home.path().join("control.sock");
    let place = socket.clone();
    let stranger = std::thread::spawn(move || {
        let stranger = rustix::process::Uid::from_raw(12_345);
        // Of this thread alone; it ends here.
        rustix::thread::set_thread_res_uid(stranger, stranger, stranger).unwrap();
        std::os::unix::net::UnixListener::bind(place).unwrap()
    });
    let _listener = stranger.join().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&socket, everybody).unwrap();
    match Client::connect(&socket).await {
        Err(ClientError::Connect { source, .. }) => {
            assert!(source.to_string().contains("user 12345"), "{source}");
        }
        other => panic!("{other:?}"),
    }
}
