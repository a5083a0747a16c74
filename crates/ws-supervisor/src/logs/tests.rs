//! What the store of logs keeps, what it gives, and what it drops.

use std::sync::mpsc::channel;

use ws_model::wire::LogLine;
use ws_model::{ByteSize, Timestamp};

use super::batch::MAX_LINE;
use super::*;

const LONG: Duration = Duration::from_secs(60);

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, LogLimits::default()).unwrap()
}

fn lines(chunk: &[u8]) -> Vec<LogLine> {
    chunk.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
}

async fn all(store: &LogStore, query: LogQuery) -> Vec<LogLine> {
    let mut reader = store.read(&query).unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await {
        all.extend(lines(&chunk));
    }
    all
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}

fn all_services() -> LogQuery {
    LogQuery::default()
}

#[tokio::test]
async fn lines_are_made_of_any_pieces() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let db = service("db");
    for piece in ["one\r\ntw", "o\n\nthr", "", "ee \u{1b}[1mbold\0 \"q\"\nfo", "ur"] {
        store.write(&db, LogStream::Stdout, piece.as_bytes());
    }
    // Cut in the middle of a character, and of no character at all.
    store.write(&db, LogStream::Stderr, &"é".as_bytes()[..1]);
    store.write(&db, LogStream::Stderr, &"é\n".as_bytes()[1..]);
    store.write(&db, LogStream::Stderr, b"\xff\n");
    store.end(&db, LogStream::Stdout);
    store.end(&db, LogStream::Stdout);
    store.note(&db, "two\nlines");
    let found = all(&store, all_services()).await;
    let expected = ["one", "two", "", "three \u{1b}[1mbold\0 \"q\"", "é", "\u{fffd}", "four", "two lines"];
    assert_eq!(texts(&found), expected);
    let seqs: Vec<u64> = found.iter().map(|line| line.seq).collect();
    assert_eq!(seqs, (1..=8).collect::<Vec<_>>());
    assert_eq!(found[4].stream, LogStream::Stderr);
    assert_eq!(found[7].stream, LogStream::Ws);
}

#[tokio::test]
async fn a_line_that_does_not_end_is_cut() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let db = service("db");
    let piece = vec![b'x'; 1000];
    for _ in 0..1000 {
        store.write(&db, LogStream::Stdout, &piece);
    }
    let found = all(&store, all_services()).await;
    assert!(found.len() >= 10);
    assert!(found.iter().all(|line| line.line.len() <= MAX_LINE + 1000));
}

#[tokio::test]
async fn the_order_is_that_of_arrival_over_all_services() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    for n in 0..300 {
        let name = ["a", "b", "c"][n % 3];
        store.write(&service(name), LogStream::Stdout, format!("{n}\n").as_bytes());
    }
    let found = all(&store, all_services()).await;
    assert_eq!(texts(&found), (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    let only_b = all(&store, LogQuery { services: vec![service("b")], ..all_services() }).await;
    assert_eq!(only_b.len(), 100);
    let tail = all(&store, LogQuery { tail: Some(2), ..all_services() }).await;
    assert_eq!(texts(&tail), ["294", "295", "296", "297", "298", "299"]);
    let future = Timestamp { unix_ms: clock::now().unix_ms + 1_000_000 };
    assert_eq!(all(&store, LogQuery { since: Some(future), ..all_services() }).await, []);
    assert_eq!(all(&store, LogQuery { until: Some(future), ..all_services() }).await.len(), 300);
    assert_eq!(all(&store, LogQuery { services: vec![service("none")], ..all_services() }).await, []);
}

#[tokio::test]
async fn everything_is_on_disk_after_a_flush_and_numbers_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    for n in 0..1000 {
        let name = ["a", "b"][n % 2];
        store.write(&service(name), LogStream::Stdout, format!("{n}\n").as_bytes());
    }
    assert!(store.flush(LONG));
    let from_disk: Vec<LogLine> = read_disk(temp.path(), &all_services()).unwrap().collect();
    assert_eq!(from_disk, all(&store, all_services()).await);
    let tail = LogQuery { tail: Some(3), services: vec![service("a")], ..all_services() };
    let tail: Vec<LogLine> = read_disk(temp.path(), &tail).unwrap().collect();
    assert_eq!(texts(&tail), ["994", "996", "998"]);
    let since = LogQuery { since: Some(Timestamp { unix_ms: i64::MAX }), ..all_services() };
    assert_eq!(read_disk(temp.path(), &since).unwrap().count(), 0);
    drop(store);

    // The next supervisor goes on, and shows what the last one kept.
    let store = open(temp.path());
    store.write(&service("a"), LogStream::Stdout, b"new\n");
    let found = all(&store, LogQuery { tail: Some(2), ..all_services() }).await;
    assert_eq!(texts(&found), ["997", "998", "999", "new"]);
    assert_eq!(found[3].seq, 1001);
    assert_eq!(all(&store, all_services()).await.len(), 1001);
}

#[tokio::test]
async fn nothing_is_read_where_nothing_was_written() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(read_disk(&temp.path().join("absent"), &all_services()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_the_ring_has_lost_comes_from_disk() {
    let temp = tempfile::tempdir().unwrap();
    let limits = LogLimits { ring_bytes: 4 << 10, ..LogLimits::default() };
    let store = LogStore::open(temp.path(), limits).unwrap();
    let (flood, quiet) = (service("flood"), service("quiet"));
    store.write(&quiet, LogStream::Stdout, b"first\n");
    for n in 0..1000 {
        store.write(&flood, LogStream::Stdout, format!("{n}\n").as_bytes());
        // Let the disk keep up: this is not about a slow one.
        while store.shared.state().services[1].pending.len() > 5 {
            std::thread::yield_now();
        }
    }
    store.write(&quiet, LogStream::Stdout, b"last\n");
    let found = all(&store, all_services()).await;
    assert_eq!(found.len(), 1002);
    assert!(found.is_sorted_by_key(|line| line.seq));
    assert_eq!((found[0].line.as_str(), found[1001].line.as_str()), ("first", "last"));
    assert!(store.shared.state().services[1].ring.len() < 100);
}

#[tokio::test]
async fn a_follower_sees_everything_once() {
    let temp = tempfile::tempdir().unwrap();
    let store = Arc::new(open(temp.path()));
    store.write(&service("a"), LogStream::Stdout, b"0\n");
    let mut reader = store.read(&LogQuery { follow: true, ..all_services() }).unwrap();
    let writer = Arc::clone(&store);
    let writing = std::thread::spawn(move || {
        for n in 1..5000 {
            let name = ["a", "b"][n % 2];
            writer.write(&service(name), LogStream::Stdout, format!("{n}\n").as_bytes());
        }
        writer.end_readers();
    });
    let mut found = Vec::new();
    while let Some(chunk) = tokio::time::timeout(LONG, reader.next()).await.unwrap() {
        found.extend(lines(&chunk));
    }
    writing.join().unwrap();
    assert_eq!(texts(&found), (0..5000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let temp = tempfile::tempdir().unwrap();
    let limits = LogLimits { ring_bytes: 4 << 10, ..LogLimits::default() };
    let store = LogStore::open(temp.path(), limits).unwrap();
    let mut reader = store.read(&LogQuery { follow: true, ..all_services() }).unwrap();
    let (flood, quiet) = (service("flood"), service("quiet"));
    for n in 0..1000 {
        store.write(&flood, LogStream::Stdout, format!("{n}\n").as_bytes());
    }
    store.write(&quiet, LogStream::Stdout, b"heard\n");
    store.end_readers();
    let mut found = Vec::new();
    while let Some(chunk) = reader.next().await {
        found.extend(lines(&chunk));
    }
    let (marker, rest) = found.split_first().unwrap();
    assert_eq!((marker.stream, &marker.service), (LogStream::Ws, &flood));
    let missed: usize = marker.line.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(missed + rest.len(), 1001, "{}", marker.line);
    assert!(missed > 900);
    assert!(found.is_sorted_by_key(|line| line.seq));
    assert_eq!(found.last().unwrap().line, "heard");
}

#[tokio::test]
async fn a_disk_that_refuses_is_told_and_stalls_nobody() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (tell, told) = channel();
    store.set_reporter(Box::new(move |report| drop(tell.send(report))));
    let db = service("db");
    // A directory stands where the file should be.
    let file = file_of(&store.shared.dir, &db);
    std::fs::create_dir(&file).unwrap();
    store.write(&db, LogStream::Stdout, b"waits\n");
    let Report::Notice { text } = told.recv_timeout(LONG).unwrap() else { panic!("no notice") };
    assert!(text.starts_with("could not write"), "{text}");
    assert_eq!(texts(&all(&store, LogQuery { tail: Some(10), ..all_services() }).await), ["waits"]);
    std::fs::remove_dir(&file).unwrap();
    store.write(&db, LogStream::Stdout, b"kept\n");
    let again = Report::Notice { text: "the output of services is written to disk again".to_owned() };
    assert_eq!(told.recv_timeout(LONG).unwrap(), again);
    assert!(store.flush(LONG));
    let on_disk: Vec<LogLine> = read_disk(temp.path(), &all_services()).unwrap().collect();
    assert_eq!(texts(&on_disk), ["waits", "kept"]);
}

#[tokio::test]
async fn a_disk_that_refuses_to_the_end_loses_what_memory_cannot_keep() {
    let temp = tempfile::tempdir().unwrap();
    let limits = LogLimits { ring_bytes: 4 << 10, ..LogLimits::default() };
    let store = LogStore::open(temp.path(), limits).unwrap();
    let (tell, told) = channel();
    store.set_reporter(Box::new(move |report| drop(tell.send(report))));
    let db = service("db");
    let file = file_of(&store.shared.dir, &db);
    std::fs::create_dir(&file).unwrap();
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..100 {
        store.write(&db, LogStream::Stdout, line.as_bytes());
    }
    assert!(store.flush(LONG));
    let reports: Vec<Report> = told.try_iter().collect();
    let notices = reports.iter().filter(|report| matches!(report, Report::Notice { .. })).count();
    let dropped = |report: &Report| match report {
        Report::Dropped { bytes, .. } => *bytes,
        Report::Notice { .. } => 0,
    };
    assert_eq!((notices, reports.iter().map(dropped).sum::<u64>()), (1, 100_000), "{reports:?}");
}

#[tokio::test]
async fn files_that_are_taken_away_are_made_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let db = service("db");
    let written = async || {
        let on_disk = || read_disk(temp.path(), &all_services()).unwrap().count();
        while on_disk() == 0 {
            tokio::task::yield_now().await;
        }
    };
    store.write(&db, LogStream::Stdout, b"one\n");
    written().await;
    std::fs::remove_file(file_of(&store.shared.dir, &db)).unwrap();
    store.write(&db, LogStream::Stdout, b"two\n");
    written().await;
    let on_disk: Vec<LogLine> = read_disk(temp.path(), &all_services()).unwrap().collect();
    assert_eq!(texts(&on_disk), ["two"]);
    // Memory has both.
    assert_eq!(texts(&all(&store, all_services()).await), ["one", "two"]);
    // The whole directory: told, and memory goes on.
    let (tell, told) = channel();
    store.set_reporter(Box::new(move |report| drop(tell.send(report))));
    std::fs::remove_dir_all(&store.shared.dir).unwrap();
    store.write(&db, LogStream::Stdout, b"three\n");
    let Report::Notice { text } = told.recv_timeout(LONG).unwrap() else { panic!("no notice") };
    assert!(text.contains("No such file"), "{text}");
    assert_eq!(texts(&all(&store, all_services()).await), ["one", "two", "three"]);
}

#[tokio::test]
async fn an_expression_chooses_before_the_tail_counts() {
    let temp = tempfile::tempdir().unwrap();
    let limits = LogLimits { ring_bytes: 4 << 10, ..LogLimits::default() };
    let store = LogStore::open(temp.path(), limits).unwrap();
    let db = service("db");
    for n in 0..2000 {
        store.write(&db, LogStream::Stdout, format!("line {n}\n").as_bytes());
        while store.shared.state().services[0].pending.len() > 5 {
            std::thread::yield_now();
        }
    }
    store.note(&db, "a note");
    let query = |grep: &str, tail| LogQuery { grep: Some(grep.to_owned()), tail, ..all_services() };
    // Some of these are only on disk by now.
    let found = all(&store, query("^line 1?[0-9]50$", Some(3))).await;
    assert_eq!(texts(&found), ["line 1850", "line 1950", "a note"]);
    assert_eq!(all(&store, query("^line 1?[0-9]50$", None)).await.len(), 20);
    let inverted = LogQuery { invert: true, ..query("[1-9]", None) };
    assert_eq!(texts(&all(&store, inverted).await), ["line 0", "a note"]);
    let after = found[0].seq;
    assert_eq!(
        texts(&all(&store, LogQuery { after: Some(after), ..query("50$", None) }).await),
        ["line 1950", "a note"]
    );
    assert_eq!(
        all(&store, LogQuery { after: Some(after), tail: Some(1000), ..all_services() }).await.len(),
        150
    );
    assert_eq!(all(&store, LogQuery { after: Some(u64::MAX), ..all_services() }).await, []);
    assert!(store.flush(LONG));
    let on_disk: Vec<LogLine> =
        read_disk(temp.path(), &query("^line 1?[0-9]50$", Some(3))).unwrap().collect();
    assert_eq!(on_disk, found);
    assert!(store.read(&query("(", None)).is_err());
    assert!(read_disk(temp.path(), &query("(", None)).is_err());
}

#[tokio::test]
async fn a_follower_goes_on_where_another_was_lost() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let db = service("db");
    for n in 0..10 {
        store.write(&db, LogStream::Stdout, format!("{n}\n").as_bytes());
    }
    let seen = all(&store, LogQuery { tail: Some(4), ..all_services() }).await[0].seq;
    let query =
        LogQuery { after: Some(seen), follow: true, grep: Some("[0-9]".to_owned()), ..all_services() };
    let mut reader = store.read(&query).unwrap();
    store.write(&db, LogStream::Stdout, b"ten\n10\n");
    store.end_readers();
    let mut found = Vec::new();
    while let Some(chunk) = reader.next().await {
        found.extend(lines(&chunk));
    }
    assert_eq!(texts(&found), ["7", "8", "9", "10"]);
}

#[tokio::test]
async fn a_follower_ends_when_its_time_is_over() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let db = service("db");
    store.write(&db, LogStream::Stdout, b"one\n");
    let until = Some(Timestamp { unix_ms: clock::now().unix_ms + 50 });
    let mut reader = store.read(&LogQuery { follow: true, until, ..all_services() }).unwrap();
    assert_eq!(texts(&lines(&reader.next().await.unwrap())), ["one"]);
    assert!(tokio::time::timeout(LONG, reader.next()).await.unwrap().is_none());
    store.write(&db, LogStream::Stdout, b"two\n");
    let mut reader = store.read(&LogQuery { follow: true, until, ..all_services() }).unwrap();
    let mut found = Vec::new();
    while let Some(chunk) = tokio::time::timeout(LONG, reader.next()).await.unwrap() {
        found.extend(lines(&chunk));
    }
    assert_eq!(texts(&found), ["one"]);
}

#[tokio::test]
async fn each_service_keeps_what_its_file_says() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (small, usual) = (service("small"), service("usual"));
    let retention =
        LogRetention { max_size: Some(ByteSize(4096)), max_files: Some(1), ..LogRetention::default() };
    store.retain(&small, &retention);
    let line = format!("{}\n", "x".repeat(200));
    for _ in 0..200 {
        for service in [&small, &usual] {
            store.write(service, LogStream::Stdout, line.as_bytes());
            let i = store.shared.state().index[service];
            while !store.shared.state().services[i].pending.is_empty() {
                std::thread::yield_now();
            }
        }
    }
    assert!(store.flush(LONG));
    let files = |service: &ServiceName| {
        let parts = (0..10).map(|n| if n == 0 { String::new() } else { format!(".{n}") });
        let sizes = parts.filter_map(|part| {
            let path = store.shared.dir.join(format!("{service}.log{part}"));
            Some(std::fs::metadata(path).ok()?.len())
        });
        sizes.collect::<Vec<_>>()
    };
    assert_eq!(files(&small).len(), 2, "{:?}", files(&small));
    assert!(files(&small).iter().all(|size| *size <= 4096), "{:?}", files(&small));
    assert_eq!(files(&usual).len(), 1);
    // What is left of a larger number, and what is too old, goes.
    let part = |n: u32| store.shared.dir.join(format!("small.log.{n}"));
    std::fs::write(part(2), "{}\n").unwrap();
    let old = std::fs::File::options().write(true).open(part(1)).unwrap();
    store.retain(&small, &retention);
    assert!(!part(2).exists() && part(1).exists());
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).unwrap();
    store.retain(&small, &LogRetention { max_age: Some(Duration::from_secs(3600)), ..retention });
    assert!(!part(1).exists());
}

#[test]
fn many_services_share_the_memory() {
    let temp = tempfile::tempdir().unwrap();
    let limits = LogLimits { total_bytes: 1 << 20, ..LogLimits::default() };
    let store = LogStore::open(temp.path(), limits).unwrap();
    let line = format!("{}\n", "x".repeat(999));
    for n in 0..10 {
        for _ in 0..2000 {
            store.write(&service(&format!("s{n}")), LogStream::Stdout, line.as_bytes());
        }
    }
    let state = store.shared.state();
    let last = &state.services[9];
    assert!(last.ring_bytes <= (1 << 20) / 10 + 2000, "{}", last.ring_bytes);
    assert!(last.pending_bytes <= (1 << 20) / 10 + 2000, "{}", last.pending_bytes);
}
