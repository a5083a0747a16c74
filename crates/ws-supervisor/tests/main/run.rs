//! One-offs of services, over the socket.

use ws_client::{ClientError, ExecOutput, ExecSession, WaitFor};
use ws_model::wire::{ExecResult, RunRequest};
use ws_model::{EventKind, ExitReason, Phase};

use crate::exec::drain;
use crate::stack::{Does, Part, Stack, name, until, within};

const STACK: [Part; 4] = [
    Part("db", Does::Run, &[]),
    Part("api", Does::Run, &["db"]),
    Part("broken", Does::NotStart, &[]),
    Part("late", Does::Run, &["broken"]),
];

fn request(command: &[&str]) -> RunRequest {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    RunRequest { command: Some(command), ..RunRequest::default() }
}

async fn run(stack: &Stack, service: &str, request: &RunRequest) -> ExecSession {
    stack.client.run(&name(service), request).await.unwrap()
}

async fn phase(stack: &Stack, service: &str) -> Option<Phase> {
    let rows = stack.client.services().await.unwrap();
    rows.iter().find(|row| row.name == name(service)).map(|row| row.phase)
}

/// Waits until nothing is there that was added.
async fn gone(stack: &Stack) {
    until(|| stack.seen.lock().unwrap().added.is_empty()).await;
}

#[tokio::test]
async fn a_one_off_brings_up_what_it_needs_and_leaves_nothing() {
    let stack = Stack::start(&STACK).await;
    let mut ask = request(&["/bin/sh", "-c", "echo $GREETING; cat; echo oops >&2; exit 7"]);
    ask.env = vec![("GREETING".to_owned(), "hello".to_owned())];
    let mut session = run(&stack, "api", &ask).await;
    session.stdin.write(b"typed\n").await.unwrap();
    session.stdin.close().await.unwrap();
    let (out, err, result) = drain(&mut session.streams).await;
    assert_eq!((out.as_slice(), err.as_slice()), (&b"hello\ntyped\n"[..], &b"oops\n"[..]));
    assert_eq!(result, ExecResult::Ended(ExitReason::Code(7)));
    gone(&stack).await;
    assert_eq!(phase(&stack, "db").await, Some(Phase::Ready));
    assert_eq!(phase(&stack, "api").await, Some(Phase::Pending), "the service itself was not asked for");
    assert_eq!(phase(&stack, "api-run-1").await, None);
    let phases: Vec<Phase> = stack
        .events(0)
        .await
        .into_iter()
        .filter(|event| event.service == Some(name("api-run-1")))
        .filter_map(|event| match event.kind {
            EventKind::Phase { phase, .. } => Some(phase),
            _ => None,
        })
        .collect();
    assert_eq!(phases.last(), Some(&Phase::Failed), "{phases:?}");
    stack.down().await;
}

#[tokio::test]
async fn without_its_dependencies_when_asked() {
    let stack = Stack::start(&STACK).await;
    let mut session = run(&stack, "api", &RunRequest { no_deps: true, ..request(&["/bin/true"]) }).await;
    assert_eq!(drain(&mut session.streams).await.2, ExecResult::Ended(ExitReason::Code(0)));
    assert_eq!(phase(&stack, "db").await, Some(Phase::Pending));
    stack.down().await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let stack = Stack::start(&STACK).await;
    let mut session = run(&stack, "late", &request(&["/bin/true"])).await;
    match drain(&mut session.streams).await.2 {
        ExecResult::NotStarted { error, not_found: false } => assert!(error.contains("broken"), "{error}"),
        other => panic!("{other:?}"),
    }
    let mut session = run(&stack, "db", &request(&["/does/not/exist"])).await;
    match drain(&mut session.streams).await.2 {
        ExecResult::NotStarted { error, .. } => assert!(error.contains("No such file"), "{error}"),
        other => panic!("{other:?}"),
    }
    for command in [vec![], vec![""], vec!["a\0b"]] {
        let mut session = run(&stack, "db", &request(&command)).await;
        assert!(matches!(drain(&mut session.streams).await.2, ExecResult::NotStarted { .. }), "{command:?}");
    }
    match stack.client.run(&name("nobody"), &request(&["/bin/true"])).await {
        Err(ClientError::Api { status: 404, error }) => {
            assert_eq!(error.help.as_deref(), Some("services are: api, broken, db, late"));
        }
        other => panic!("{other:?}"),
    }
    gone(&stack).await;
    stack.down().await;
}

#[tokio::test]
async fn several_at_once_have_their_own_names() {
    let stack = Stack::start(&STACK).await;
    let mut first = run(&stack, "db", &request(&["/bin/sh", "-c", "echo on; cat"])).await;
    let mut second = run(&stack, "db", &request(&["/bin/sh", "-c", "echo on; cat"])).await;
    for session in [&mut first, &mut second] {
        assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
    }
    assert_eq!(phase(&stack, "db-run-1").await, Some(Phase::Running));
    let rows = stack.client.services().await.unwrap();
    let row = rows.iter().find(|row| row.name == name("db-run-2")).unwrap();
    assert!(row.is_one_off() && row.service == name("db"));
    // What is asked of all, or of the service, is not asked of them.
    stack.client.up(&[]).await.unwrap();
    stack.client.restart(&[name("db")]).await.unwrap();
    within(stack.client.wait_until(&[name("db")], WaitFor::Ready)).await.unwrap();
    assert_eq!(phase(&stack, "db-run-1").await, Some(Phase::Running));
    // One is stopped by its name, the other one ends by itself.
    stack.client.kill(&[name("db-run-1")]).await.unwrap();
    assert_eq!(drain(&mut first.streams).await.2, ExecResult::Ended(ExitReason::Signal(9)));
    second.stdin.close().await.unwrap();
    assert_eq!(drain(&mut second.streams).await.2, ExecResult::Ended(ExitReason::Code(0)));
    let mut third = run(&stack, "db", &request(&["/bin/true"])).await;
    drain(&mut third.streams).await;
    let events = stack.events(0).await;
    assert!(events.iter().any(|event| event.service == Some(name("db-run-3"))), "numbers go up");
    stack.down().await;
}

#[tokio::test]
async fn a_one_off_is_stopped_when_its_client_goes_away() {
    let stack = Stack::start(&STACK).await;
    for tty in [false, true] {
        let ask = RunRequest { tty, ..request(&["/bin/sh", "-c", "echo on; exec sleep 1000"]) };
        let mut session = run(&stack, "db", &ask).await;
        assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
        drop(session);
        gone(&stack).await;
    }
    // One that is stubborn is killed when its grace is over.
    let ask = request(&["/bin/sh", "-c", "trap '' TERM HUP; echo on; while :; do sleep 1; done"]);
    let mut session = run(&stack, "db", &ask).await;
    assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
    drop(session);
    gone(&stack).await;
    stack.down().await;
}

#[tokio::test]
async fn down_ends_one_offs_too() {
    let stack = Stack::start(&STACK).await;
    let mut session = run(&stack, "api", &request(&["/bin/sh", "-c", "echo on; exec sleep 1000"])).await;
    assert!(matches!(within(session.streams.next()).await, Ok(Some(ExecOutput::Stdout(_)))));
    stack.down().await;
    assert_eq!(drain(&mut session.streams).await.2, ExecResult::Ended(ExitReason::Signal(15)));
}
