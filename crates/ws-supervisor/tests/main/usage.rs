//! Samples, signals and names, over the socket.

use ws_client::{ClientError, LogQuery, StatsQuery, WaitFor};
use ws_core::host::LogSink as _;
use ws_model::wire::{ExecRequest, LogStream};
use ws_model::{EventKind, Phase};

use crate::stack::{Does, Part, Stack, name, within};

const WEB: [Part; 4] = [
    Part("db", Does::Run, &[]),
    Part("web-1", Does::Run, &[]),
    Part("web-2", Does::Run, &[]),
    Part("web-10", Does::Run, &[]),
];

async fn started() -> Stack {
    let stack = Stack::start(&WEB).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[name("db"), name("web")], WaitFor::Ready)).await.unwrap();
    stack
}

#[tokio::test]
async fn samples_come_while_somebody_reads() {
    let stack = started().await;
    let query = StatsQuery { services: vec![name("web")], interval_ms: 100, follow: true };
    let mut samples = stack.client.stats(&query).await.unwrap();
    let mut rounds = Vec::new();
    for _ in 0..6 {
        rounds.push(within(samples.next()).await.unwrap().unwrap());
    }
    let names: Vec<&str> = rounds.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(names, ["web-1", "web-10", "web-2", "web-1", "web-10", "web-2"]);
    assert!(rounds[..3].iter().all(|sample| sample.at == rounds[0].at && sample.cpu_percent.is_none()));
    assert_eq!(rounds[3].cpu_percent, Some(0.0));
    assert_eq!(
        (rounds[0].service.as_str(), rounds[0].memory_bytes, rounds[0].pids),
        ("web", Some(1 << 20), Some(1))
    );
    // Once: a whole interval is measured.
    let query = StatsQuery { interval_ms: 100, ..StatsQuery::default() };
    let mut samples = stack.client.stats(&query).await.unwrap();
    let mut count = 0;
    while let Some(sample) = within(samples.next()).await {
        assert_eq!(sample.unwrap().cpu_percent, Some(0.0));
        count += 1;
    }
    assert_eq!(count, 4);
    stack.down().await;
}

#[tokio::test]
async fn a_followed_sampling_ends_with_the_supervisor() {
    let stack = started().await;
    let query = StatsQuery { interval_ms: 3_600_000, follow: true, ..StatsQuery::default() };
    let mut samples = stack.client.stats(&query).await.unwrap();
    for _ in 0..4 {
        within(samples.next()).await.unwrap().unwrap();
    }
    stack.down().await;
    assert!(within(samples.next()).await.is_none());
}

#[tokio::test]
async fn a_signal_is_only_sent() {
    let stack = started().await;
    stack.client.signal(&[name("web")], "HUP").await.unwrap();
    stack.client.signal(&[name("db")], "sigusr1").await.unwrap();
    stack.client.signal(&[name("db")], "34").await.unwrap();
    let sent = stack.seen.lock().unwrap().signals.clone();
    let expected = [("web-1", 1), ("web-2", 1), ("web-10", 1), ("db", 10), ("db", 34)];
    let mut expected: Vec<_> = expected.map(|(service, signal)| (name(service), signal)).into();
    expected[..3].sort();
    assert_eq!(sent, expected);
    let told = EventKind::Notice { text: "was sent SIGHUP on request".to_owned() };
    assert_eq!(stack.events(0).await.iter().filter(|event| event.kind == told).count(), 3);
    // KILL is the end.
    stack.client.signal(&[name("web-2")], "SIGKILL").await.unwrap();
    within(stack.client.wait_until(&[name("web-2")], WaitFor::Stopped)).await.unwrap();
    match stack.client.signal(&[name("web-2")], "HUP").await {
        Err(ClientError::Api { status: 409, error }) => {
            assert_eq!(error.error, "`web-2` does not run: it is stopped");
        }
        other => panic!("{other:?}"),
    }
    stack.down().await;
}

#[tokio::test]
async fn the_name_of_a_service_means_all_its_replicas() {
    let stack = started().await;
    stack.client.stop(&[name("web"), name("web-1")]).await.unwrap();
    within(stack.client.wait_until(&[name("web")], WaitFor::Stopped)).await.unwrap();
    let rows = stack.client.services().await.unwrap();
    let stopped: Vec<&str> =
        rows.iter().filter(|row| row.phase == Phase::Stopped).map(|row| row.name.as_str()).collect();
    assert_eq!(stopped, ["web-1", "web-10", "web-2"]);
    stack.client.up(&[name("web-2")]).await.unwrap();
    within(stack.client.wait_until(&[name("web-2")], WaitFor::Ready)).await.unwrap();
    // Of one service: the first that fits.
    let why = stack.client.why(&name("web")).await.unwrap();
    assert_eq!(why.chain[0].service, name("web-1"));
    let ask =
        ExecRequest { command: vec!["true".to_owned()], env: Vec::new(), working_dir: None, tty: false };
    stack.client.exec(&name("web"), &ask).await.unwrap();
    for service in ["web-2", "db", "web-10"] {
        stack.logs.write(&name(service), LogStream::Stdout, format!("{service}\n").as_bytes());
    }
    let query = LogQuery { services: vec![name("web")], ..LogQuery::default() };
    let mut lines = stack.client.logs(&query).await.unwrap();
    let mut found = Vec::new();
    while let Some(line) = within(lines.next()).await {
        found.push(line.unwrap().line);
    }
    assert_eq!(found, ["web-2", "web-10"]);
    match stack.client.stop(&[name("web-3")]).await {
        Err(ClientError::Api { status: 404, error }) => {
            assert_eq!(error.help.as_deref(), Some("services are: db, web"));
        }
        other => panic!("{other:?}"),
    }
    stack.down().await;
}
