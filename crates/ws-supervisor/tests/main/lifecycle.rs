//! Up, down, and what is told meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;
use ws_client::{ClientError, EventQuery, WaitFor, WaitOutcome};
use ws_core::engine::Input;
use ws_model::wire::{DownRequest, InstanceState};
use ws_model::{EventKind, Level, Phase};
use ws_supervisor::state_dir::{self, Acquired};

use crate::stack::{Does, Options, Part, Stack, instance, name, within};

const SHOP: [Part; 3] = [
    Part("api", Does::Run, &["db", "migrate"]),
    Part("db", Does::StartLate, &[]),
    Part("migrate", Does::Exit(0), &["db"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_comes_up_and_goes_down() {
    let stack = Stack::start(&SHOP).await;
    let info = stack.client.info().await.unwrap();
    assert_eq!((info.name.as_str(), info.root.as_str(), info.attached), ("shop", "/src/shop", false));
    assert_eq!(info.pid, std::process::id());
    let pending = stack.client.services().await.unwrap();
    assert!(pending.iter().all(|row| row.phase == Phase::Pending));

    stack.client.up(&[]).await.unwrap();
    let waited = within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    assert_eq!(waited.outcome, WaitOutcome::Reached);
    let published =
        Input::Published { service: name("api"), host: [127, 0, 0, 1].into(), host_port: 4321, port: 80 };
    stack.inbox.send(published).unwrap();
    let mut events = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    while let Some(event) = within(events.next()).await {
        if matches!(event.unwrap().kind, EventKind::Published { host_port: 4321, .. }) {
            break;
        }
    }

    let rows = stack.client.services().await.unwrap();
    let [api, db, migrate] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((api.phase, api.ready, api.pid), (Phase::Ready, true, Some(4000)));
    assert_eq!((api.ports[0].host_port, api.ports[0].port), (4321, 80));
    assert_eq!(db.address, Stack::address(1).to_string());
    assert_eq!((db.memory_bytes, db.cpu_usec, db.level), (Some(1 << 20), Some(1234), Some(Level::Limited)));
    assert_eq!(db.missing, ["distinct uids"]);
    assert!(db.started_at.is_some());
    assert_eq!((migrate.phase, migrate.exit_code, migrate.pid), (Phase::Exited, Some(0), None));
    assert_eq!((migrate.ready, migrate.started_at), (true, None));

    let why = stack.client.why(&name("api")).await.unwrap();
    assert_eq!(why.chain[0].service, name("api"));

    // The stream ends with the supervisor, and its last word says why.
    let seen = Arc::clone(&stack.seen);
    let home = Arc::clone(&stack.home);
    stack.client.down(DownRequest::default()).await.unwrap();
    let mut last = None;
    while let Some(event) = within(events.next()).await {
        last = Some(event.unwrap().kind);
    }
    assert_eq!(last, Some(EventKind::SupervisorStopped { cause: "somebody asked for it".to_owned() }));
    // Whoever has seen the end may start again at once.
    assert_eq!(std::fs::read_dir(Stack::runtime(home.path())).unwrap().count(), 0);
    let volumes_removed = Arc::clone(&stack.volumes_removed);
    let result = stack.ended().await;
    assert_eq!((result.cause.as_str(), result.errors.len()), ("somebody asked for it", 0));
    let seen = seen.lock().unwrap();
    assert!(seen.torn_down && seen.running.is_empty());
    let position = |service: &str| seen.ended.iter().position(|ended| *ended == name(service)).unwrap();
    assert!(position("api") < position("db"), "the stop is in reverse order: {:?}", seen.ended);
    assert!(!*volumes_removed.lock().unwrap());
}

#[tokio::test]
async fn what_a_request_brings_about_comes_after_its_number() {
    let stack = Stack::start(&[Part("db", Does::Run, &[])]).await;
    let accepted = stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[name("db")], WaitFor::Ready)).await.unwrap();
    let all = stack.events(0).await;
    assert!(matches!(all[0].kind, EventKind::SupervisorStarted { .. }));
    assert!(matches!(&all[1].kind, EventKind::Notice { text } if text == "cleared what a crash had left"));
    assert_eq!(accepted.seq, 2);
    assert!(all.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    let after = stack.events(accepted.seq).await;
    assert_eq!(after, all[2..]);
    assert!(after.iter().all(|event| event.seq > accepted.seq));
    assert!(matches!(after.last().unwrap().kind, EventKind::WorkspaceReady { .. }), "{after:?}");
    let last = all.last().unwrap().seq;
    assert_eq!(stack.events(last).await, []);

    // The next supervisor goes on.
    let home = Arc::clone(&stack.home);
    stack.down().await;
    let stack = Stack::start_in(home, &[Part("db", Does::Run, &[])], Options::default()).await;
    let again = stack.events(last).await;
    assert_eq!(again[0].seq, last + 1);
    let started =
        again.iter().find(|event| matches!(event.kind, EventKind::SupervisorStarted { .. })).unwrap();
    let stopped =
        again.iter().find(|event| matches!(event.kind, EventKind::SupervisorStopped { .. })).unwrap();
    assert_eq!(started.seq, stopped.seq + 1);
    stack.down().await;
}

#[tokio::test]
async fn what_cannot_become_ready_is_told_with_its_cause() {
    let stack = Stack::start(&[Part("api", Does::Run, &["db"]), Part("db", Does::NotStart, &[])]).await;
    stack.client.up(&[]).await.unwrap();
    let waited = within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    assert!(matches!(&waited.outcome, WaitOutcome::Failed(failed) if failed.contains(&name("db"))));
    // The engine tells the rest in the same breath.
    let why = stack.client.why(&name("api")).await.unwrap();
    let root = why.chain.last().unwrap();
    assert_eq!(root.service, name("db"));
    assert!(root.cause.text.contains("no such directory"), "{root:?}");
    stack.down().await;
}

#[tokio::test]
async fn services_are_stopped_started_and_restarted() {
    let stack = Stack::start(&[Part("db", Does::Run, &[])]).await;
    let db = [name("db")];
    stack.client.up(&db).await.unwrap();
    within(stack.client.wait_until(&db, WaitFor::Ready)).await.unwrap();
    stack.client.stop(&db).await.unwrap();
    within(stack.client.wait_until(&db, WaitFor::Stopped)).await.unwrap();
    stack.client.start(&db).await.unwrap();
    within(stack.client.wait_until(&db, WaitFor::Ready)).await.unwrap();
    let accepted = stack.client.restart(&db).await.unwrap();
    within(stack.client.wait_until(&db, WaitFor::Ready)).await.unwrap();
    let phases = |events: Vec<ws_model::Event>| -> Vec<Phase> {
        let phase = |event: ws_model::Event| match event.kind {
            EventKind::Phase { phase, .. } => Some(phase),
            _ => None,
        };
        events.into_iter().filter_map(phase).collect()
    };
    let restarted = phases(stack.events(accepted.seq).await);
    assert!(restarted.contains(&Phase::Stopping) && restarted.last() == Some(&Phase::Ready), "{restarted:?}");
    stack.client.kill(&db).await.unwrap();
    let waited = within(stack.client.wait_until(&db, WaitFor::Stopped)).await.unwrap();
    assert_eq!(waited.services[0].signal, Some(9));
    stack.down().await;
}

#[tokio::test]
async fn the_stack_goes_down_with_its_owner() {
    let stack = Stack::start(&[Part("db", Does::Run, &[])]).await;
    let hold = stack.client.hold().await.unwrap();
    assert!(stack.client.info().await.unwrap().attached);
    match stack.client.hold().await {
        Err(ClientError::Api { status: 409, error }) => {
            assert_eq!(error.error, "another `ws up` owns the stack already");
        }
        other => panic!("{other:?}"),
    }
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    drop(hold);
    let result = stack.ended().await;
    assert_eq!(result.cause, "the `ws up` that owned it ended");
}

#[tokio::test]
async fn an_owner_hears_of_the_end() {
    let stack = Stack::start(&[Part("db", Does::Run, &[])]).await;
    let mut hold = stack.client.hold().await.unwrap();
    stack.client.down(DownRequest::default()).await.unwrap();
    within(hold.ended()).await;
    assert_eq!(stack.ended().await.cause, "somebody asked for it");
}

#[tokio::test]
async fn the_stack_goes_down_with_its_lifeline() {
    let (alive, gone) = oneshot::channel::<()>();
    let lifeline = Box::pin(async move {
        let _ = gone.await;
    });
    let options = Options { attached: true, lifeline: Some(lifeline), ..Options::default() };
    let stack = Stack::start_with(&[Part("db", Does::Run, &[])], options).await;
    assert!(stack.client.info().await.unwrap().attached);
    let hold = stack.client.hold().await.unwrap();
    drop(alive);
    assert_eq!(stack.ended().await.cause, "the `ws up` that owned it ended");
    drop(hold);
}

/// The only one that handles signals: they are those of the whole test process.
#[tokio::test]
async fn a_signal_takes_the_stack_down_and_a_second_one_at_once() {
    let options = Options { signals: true, ..Options::default() };
    let mut stack = Stack::start_with(&[Part("db", Does::Stubborn, &[])], options).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let ourselves = rustix::process::getpid();
    rustix::process::kill_process(ourselves, rustix::process::Signal::TERM).unwrap();
    within(async { while stack.client.services().await.unwrap()[0].phase != Phase::Stopping {} }).await;
    assert!(!stack.running.is_finished(), "its grace period is an hour");
    rustix::process::kill_process(ourselves, rustix::process::Signal::INT).unwrap();
    let result = within(&mut stack.running).await.unwrap().unwrap();
    assert_eq!(result.cause, "SIGTERM was received");
    assert!(stack.seen.lock().unwrap().running.is_empty());
}

#[tokio::test]
async fn a_second_supervisor_sees_the_first() {
    let stack = Stack::start(&[Part("db", Does::Run, &[])]).await;
    let runtime = Stack::runtime(stack.home.path());
    match state_dir::acquire(&runtime, &instance()).unwrap() {
        Acquired::Busy(Some(record)) => assert_eq!(record.pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    let rows = state_dir::list(&runtime, &stack.home.path().join("state")).unwrap();
    assert_eq!((rows.len(), rows[0].state), (1, InstanceState::Running));
    let home = Arc::clone(&stack.home);
    stack.down().await;
    let rows = state_dir::list(&runtime, &home.path().join("state")).unwrap();
    assert_eq!((rows.len(), rows[0].state), (1, InstanceState::Stopped));
    assert_eq!(rows[0].root.as_deref(), Some("/src/shop"));
}

#[tokio::test]
async fn nothing_starts_while_the_stack_goes_down() {
    let stack = Stack::start(&[Part("db", Does::Stubborn, &[])]).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    stack.client.down(DownRequest::default()).await.unwrap();
    // It ignores its signal, so it is still there for its grace period.
    for refused in [stack.client.up(&[]).await, stack.client.restart(&[]).await] {
        assert!(matches!(refused, Err(ClientError::Api { status: 409, .. })), "{refused:?}");
    }
    assert!(matches!(stack.client.hold().await, Err(ClientError::Api { status: 409, .. })));
    let seen = Arc::clone(&stack.seen);
    stack.client.down(DownRequest { now: true, volumes: true }).await.unwrap();
    let volumes_removed = Arc::clone(&stack.volumes_removed);
    stack.ended().await;
    assert!(seen.lock().unwrap().running.is_empty());
    assert!(*volumes_removed.lock().unwrap(), "asked for by the second request");
}

#[tokio::test]
async fn what_could_not_be_cleared_is_told_and_left_to_be_found() {
    let errors = vec!["could not remove cgroup `x`: device or resource busy".to_owned()];
    let options = Options { tear_down_errors: errors.clone(), ..Options::default() };
    let stack = Stack::start_with(&[Part("db", Does::Run, &[])], options).await;
    let home = Arc::clone(&stack.home);
    let mut events = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    assert_eq!(stack.down().await.errors, errors);
    let mut told = false;
    while let Some(event) = within(events.next()).await {
        told |= event.unwrap().kind == EventKind::Notice { text: errors[0].clone() };
    }
    assert!(told);
    let runtime = Stack::runtime(home.path());
    let rows = state_dir::list(&runtime, &home.path().join("state")).unwrap();
    assert_eq!(rows[0].state, InstanceState::Crashed);
    match state_dir::acquire(&runtime, &instance()).unwrap() {
        Acquired::Locked { lock, crashed: Some(_) } => lock.remove().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_begin_leaves_nothing() {
    let home = Arc::new(tempfile::tempdir().unwrap());
    let state = Stack::state(home.path());
    std::fs::create_dir_all(state.join("journal.ndjson.1")).unwrap();
    std::fs::create_dir_all(state.join("journal.ndjson")).unwrap();
    // A directory in the place of the socket: it cannot be listened at.
    let runtime = Stack::runtime(home.path());
    let Acquired::Locked { lock, .. } = state_dir::acquire(&runtime, &instance()).unwrap() else { panic!() };
    std::fs::create_dir(lock.socket_path()).unwrap();
    drop(lock);
    let (stack, listening) =
        Stack::begin(Arc::clone(&home), &[Part("db", Does::Run, &[])], Options::default());
    assert!(listening.await.is_err());
    let error = within(stack.running).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "could not use the runtime directory");
    assert!(stack.seen.lock().unwrap().torn_down);
    assert!(!runtime.join(instance().as_str()).join("record.json").exists());
}

#[tokio::test]
async fn what_ignores_its_signal_is_killed_after_its_grace_period() {
    let stack = Stack::start(&[Part("db", Does::Ignore, &[])]).await;
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    let seen = Arc::clone(&stack.seen);
    stack.down().await;
    let seen = seen.lock().unwrap();
    assert!(seen.torn_down && seen.running.is_empty());
}
