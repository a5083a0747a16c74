//! A state directory that fails under a supervisor: told once, nothing stops, and nothing is lost that memory can keep.

use std::path::Path;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};
use ws_client::{EventQuery, EventStream, LogQuery, WaitFor};
use ws_core::host::LogSink as _;
use ws_model::EventKind;
use ws_model::wire::LogStream;
use ws_supervisor::read_disk;

use crate::stack::{Does, Options, Part, Stack, name, within};

const TWO: [Part; 2] = [Part("db", Does::Run, &[]), Part("api", Does::Run, &["db"])];

/// The next notice that contains this.
async fn notice(events: &mut EventStream, with: &str) -> String {
    loop {
        let event = within(events.next()).await.unwrap().unwrap();
        if let EventKind::Notice { text } = event.kind
            && text.contains(with)
        {
            return text;
        }
    }
}

async fn lines(stack: &Stack) -> Vec<String> {
    let mut stream = stack.client.logs(&LogQuery::default()).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = within(stream.next()).await {
        lines.push(line.unwrap().line);
    }
    lines
}

#[tokio::test]
async fn a_state_directory_that_is_taken_away_stops_nothing() {
    let stack = Stack::start(&TWO).await;
    let mut events = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    stack.logs.write(&name("db"), LogStream::Stdout, b"before\n");
    let state = Stack::state(stack.home.path());
    // Something may be written to it while it is emptied.
    while state.exists() {
        let _ = std::fs::remove_dir_all(&state);
    }
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    stack.logs.write(&name("db"), LogStream::Stdout, b"after\n");
    notice(&mut events, "output is kept in memory only").await;
    let mut from_the_start = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    notice(&mut from_the_start, "events are kept in memory only").await;
    assert_eq!(lines(&stack).await, ["before", "after"]);
    // Every event is there.
    let seqs: Vec<u64> = stack.events(0).await.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let kinds = stack.events(0).await;
    let told = |kind: &EventKind| matches!(kind, EventKind::Notice { text } if text.contains("events are kept in memory only"));
    assert_eq!(kinds.iter().filter(|event| told(&event.kind)).count(), 1);
    let result = stack.down().await;
    assert_eq!(result.errors, Vec::<String>::new());
}

/// A small file system at a directory.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = Some(c"size=1m");
        match rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("not tested: a small file system cannot be mounted here ({error})");
                None
            }
        }
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_once_and_loses_nothing() {
    let home = Arc::new(tempfile::tempdir().unwrap());
    let mounted = home.path().join("state");
    let Some(_small) = Small::mount(&mounted) else { return };
    let stack = Stack::start_in(Arc::clone(&home), &TWO, Options::default()).await;
    let mut events = stack.client.events(EventQuery { since: 0, follow: true }).await.unwrap();
    // Whatever there is.
    let ballast = mounted.join("ballast");
    let mut filler = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 1024]).is_ok() {}
    let line = format!("{}\n", "x".repeat(999));
    let mut written = 0;
    for _ in 0..200 {
        stack.logs.write(&name("db"), LogStream::Stdout, line.as_bytes());
        written += 1;
    }
    let text = notice(&mut events, "output is kept in memory only").await;
    assert!(text.contains("No space left"), "{text}");
    // Everything goes on.
    stack.client.up(&[]).await.unwrap();
    within(stack.client.wait_until(&[], WaitFor::Ready)).await.unwrap();
    stack.client.restart(&[name("db")]).await.unwrap();
    within(stack.client.wait_until(&[name("db")], WaitFor::Ready)).await.unwrap();
    assert_eq!(lines(&stack).await.len(), written);
    // And on disk when there is room again.
    drop(filler);
    std::fs::remove_file(&ballast).unwrap();
    stack.logs.write(&name("db"), LogStream::Stdout, b"last\n");
    notice(&mut events, "the output of services is written to disk again").await;
    let state = Stack::state(home.path());
    let result = stack.down().await;
    assert_eq!(result.errors, Vec::<String>::new());
    let on_disk: Vec<String> =
        read_disk(&state, &LogQuery::default()).unwrap().map(|line| line.line).collect();
    assert_eq!((on_disk.len(), on_disk.last().map(String::as_str)), (written + 1, Some("last")));
    // The next supervisor goes on with what this one told.
    let journal = std::fs::read_to_string(state.join("journal.ndjson")).unwrap();
    assert!(journal.lines().last().unwrap().contains("supervisor_stopped"), "{journal}");
}
