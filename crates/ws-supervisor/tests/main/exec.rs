//! Commands inside a service, over the socket.

use std::sync::Arc;

use ws_client::{ClientError, ExecOutput, ExecStreams, WaitFor};
use ws_model::ExitReason;
use ws_model::wire::{ExecRequest, ExecResult};

use crate::stack::{Does, Part, Stack, name, until, within};

async fn stack() -> Stack {
    let stack = Stack::start(&[Part("db", Does::Run, &[]), Part("idle", Does::Run, &[])]).await;
    stack.client.up(&[name("db")]).await.unwrap();
    within(stack.client.wait_until(&[name("db")], WaitFor::Ready)).await.unwrap();
    stack
}

fn request(command: &[&str]) -> ExecRequest {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    ExecRequest { command, env: Vec::new(), working_dir: None, tty: false }
}

/// Everything to the end: standard output, standard error, result.
pub(crate) async fn drain(streams: &mut ExecStreams) -> (Vec<u8>, Vec<u8>, ExecResult) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match within(streams.next()).await.unwrap() {
            Some(ExecOutput::Stdout(data)) => out.extend_from_slice(&data),
            Some(ExecOutput::Stderr(data)) => err.extend_from_slice(&data),
            Some(ExecOutput::Exit(result)) => {
                assert_eq!(within(streams.next()).await.unwrap(), None);
                return (out, err, result);
            }
            None => panic!("no result"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways() {
    let stack = stack().await;
    let session = stack.client.exec(&name("db"), &request(&["/bin/cat"])).await.unwrap();
    let (mut stdin, mut streams) = (session.stdin, session.streams);
    // More than every buffer on the way, and not a text.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        stdin.write(&sent).await.unwrap();
        stdin.close().await.unwrap();
        stdin
    });
    let (out, err, result) = drain(&mut streams).await;
    sending.await.unwrap();
    assert!(out == expected, "{} bytes of {}", out.len(), expected.len());
    assert_eq!((err.len(), result), (0, ExecResult::Ended(ExitReason::Code(0))));
    stack.down().await;
}

#[tokio::test]
async fn output_errors_environment_and_code_arrive() {
    let stack = stack().await;
    let mut ask = request(&["/bin/sh", "-c", "echo $GREETING; pwd; echo oops >&2; exit 7"]);
    ask.env = vec![("GREETING".to_owned(), "hello".to_owned())];
    ask.working_dir = Some("/".to_owned());
    let mut session = stack.client.exec(&name("db"), &ask).await.unwrap();
    let (out, err, result) = drain(&mut session.streams).await;
    assert_eq!((out.as_slice(), err.as_slice()), (&b"hello\n/\n"[..], &b"oops\n"[..]));
    assert_eq!(result, ExecResult::Ended(ExitReason::Code(7)));

    let mut session = stack.client.exec(&name("db"), &request(&["/does/not/exist"])).await.unwrap();
    let (_, _, result) = drain(&mut session.streams).await;
    assert!(matches!(result, ExecResult::NotStarted { not_found: true, .. }), "{result:?}");

    let mut session = stack.client.exec(&name("db"), &request(&[])).await.unwrap();
    let (_, _, result) = drain(&mut session.streams).await;
    assert!(matches!(result, ExecResult::NotStarted { not_found: false, .. }), "{result:?}");
    stack.down().await;
}

#[tokio::test]
async fn a_terminal_is_one_and_has_a_size() {
    let stack = stack().await;
    // It answers when it has read a line, so that the size is there by then.
    let mut ask =
        request(&["/bin/sh", "-c", "read line; test -t 0 && test -t 2 && stty size; echo got $line; cat"]);
    ask.tty = true;
    let mut session = stack.client.exec(&name("db"), &ask).await.unwrap();
    session.stdin.resize(123, 45).await.unwrap();
    session.stdin.write(b"typed\n").await.unwrap();
    session.stdin.close().await.unwrap();
    let (out, err, result) = drain(&mut session.streams).await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("45 123\r\n") && out.contains("got typed\r\n"), "{out:?}");
    assert_eq!((err.len(), result), (0, ExecResult::Ended(ExitReason::Code(0))));
    stack.down().await;
}

#[tokio::test]
async fn a_command_notices_that_its_client_is_gone() {
    let stack = stack().await;
    let session = stack.client.exec(&name("db"), &request(&["/bin/cat"])).await.unwrap();
    let seen = Arc::clone(&stack.seen);
    drop(session);
    until(|| seen.lock().unwrap().execs.len() == 1).await;

    // One that only writes is ended by its pipe.
    let mut session = stack.client.exec(&name("db"), &request(&["/usr/bin/yes"])).await.unwrap();
    assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
    drop(session);
    until(|| seen.lock().unwrap().execs.len() == 2).await;
    stack.down().await;
}

#[tokio::test]
async fn a_command_that_would_go_on_without_its_client_is_killed() {
    let stack = stack().await;
    let forever = "trap '' HUP TERM; echo on; while :; do read line || sleep 1; done";
    for tty in [false, true] {
        let mut ask = request(&["/bin/sh", "-c", forever]);
        ask.tty = tty;
        let mut session = stack.client.exec(&name("db"), &ask).await.unwrap();
        assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
        stack.seen.lock().unwrap().execs.clear();
        drop(session);
        until(|| stack.seen.lock().unwrap().execs.len() == 1).await;
        assert_eq!(stack.seen.lock().unwrap().execs, [ExecResult::Ended(ExitReason::Signal(9))]);
    }
    stack.down().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_only_its_command() {
    let stack = stack().await;
    let _unread = stack.client.exec(&name("db"), &request(&["/usr/bin/yes"])).await.unwrap();
    let mut session = stack.client.exec(&name("db"), &request(&["/bin/echo", "hi"])).await.unwrap();
    assert_eq!(drain(&mut session.streams).await.0, b"hi\n");
    assert_eq!(stack.seen.lock().unwrap().execs.len(), 1, "the other one waits");
    stack.down().await;
}

#[tokio::test]
async fn only_a_service_that_runs_has_a_sandbox() {
    let stack = stack().await;
    match stack.client.exec(&name("idle"), &request(&["/bin/true"])).await {
        Err(ClientError::Api { status: 409, error }) => {
            assert_eq!(error.error, "`idle` does not run: it is pending");
        }
        other => panic!("{other:?}"),
    }
    match stack.client.exec(&name("nobody"), &request(&["/bin/true"])).await {
        Err(ClientError::Api { status: 404, error }) => {
            assert_eq!(error.help.as_deref(), Some("services are: db, idle"));
        }
        other => panic!("{other:?}"),
    }
    stack.down().await;
}
