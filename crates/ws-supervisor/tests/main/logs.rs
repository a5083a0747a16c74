//! Logs over the socket.

use std::sync::Arc;

use ws_client::{EventQuery, LogQuery};
use ws_core::host::LogSink as _;
use ws_model::wire::{LogLine, LogStream};
use ws_supervisor::{LogLimits, read_disk};

use crate::stack::{Does, Options, Part, Stack, name, within};

const TWO: [Part; 2] = [Part("flood", Does::Run, &[]), Part("quiet", Does::Run, &[])];

async fn read(stack: &Stack, query: &LogQuery) -> Vec<LogLine> {
    let mut stream = stack.client.logs(query).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = within(stream.next()).await {
        lines.push(line.unwrap());
    }
    lines
}

#[tokio::test]
async fn logs_are_kept_across_supervisors_and_without_one() {
    let stack = Stack::start(&TWO).await;
    stack.logs.write(&name("quiet"), LogStream::Stdout, b"one\ntwo\n");
    stack.logs.write(&name("flood"), LogStream::Stderr, b"three\n");
    let first = read(&stack, &LogQuery::default()).await;
    let texts: Vec<&str> = first.iter().map(|line| line.line.as_str()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    let home = Arc::clone(&stack.home);
    stack.down().await;
    let state = Stack::state(home.path());
    assert_eq!(read_disk(&state, &LogQuery::default()).unwrap().collect::<Vec<_>>(), first);

    let stack = Stack::start_in(home, &TWO, Options::default()).await;
    stack.logs.write(&name("quiet"), LogStream::Stdout, b"four\n");
    let query = LogQuery { services: vec![name("quiet")], tail: Some(2), ..LogQuery::default() };
    let lines = read(&stack, &query).await;
    assert_eq!(lines[0], first[1]);
    assert_eq!((lines[1].line.as_str(), lines[1].seq), ("four", first[2].seq + 1));
    stack.down().await;
}

#[tokio::test]
async fn a_follower_hears_until_the_end() {
    let stack = Stack::start(&TWO).await;
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut stream = stack.client.logs(&query).await.unwrap();
    stack.logs.write(&name("quiet"), LogStream::Stdout, b"one\n");
    assert_eq!(within(stream.next()).await.unwrap().unwrap().line, "one");
    stack.logs.write(&name("quiet"), LogStream::Stdout, b"last");
    stack.logs.end(&name("quiet"), LogStream::Stdout);
    stack.down().await;
    assert_eq!(within(stream.next()).await.unwrap().unwrap().line, "last");
    assert!(within(stream.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_does_not_read_is_told_and_stalls_nobody() {
    let limits = LogLimits { ring_bytes: 64 << 10, ..LogLimits::default() };
    let stack = Stack::start_with(&TWO, Options { limits, ..Options::default() }).await;
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut slow = stack.client.logs(&query).await.unwrap();
    let mut events = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    // More than all buffers between here and there hold.
    let line = format!("{}\n", "x".repeat(999));
    let count = 20_000;
    for _ in 0..count {
        stack.logs.write(&name("flood"), LogStream::Stdout, line.as_bytes());
    }
    stack.logs.write(&name("quiet"), LogStream::Stdout, b"heard\n");
    let others = LogQuery { services: vec![name("quiet")], tail: Some(1), ..LogQuery::default() };
    assert_eq!(read(&stack, &others).await[0].line, "heard");
    assert!(within(events.next()).await.is_some());

    let (mut read, mut missed) = (0, 0);
    loop {
        let line = within(slow.next()).await.unwrap().unwrap();
        if line.stream == LogStream::Ws {
            assert!(line.line.ends_with("lines were dropped here: the reader was too slow"), "{}", line.line);
            missed += line.line.split(' ').next().unwrap().parse::<usize>().unwrap();
        } else if line.service == name("flood") {
            read += 1;
        } else {
            assert_eq!(line.line, "heard");
            break;
        }
    }
    assert!(missed > 0 && read > 0);
    assert_eq!(missed + read, count);
    // One that never reads does not hold up the end either.
    let _never = stack.client.logs(&LogQuery::default()).await.unwrap();
    stack.down().await;
}
