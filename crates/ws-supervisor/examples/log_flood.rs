//! What a service that floods costs: `cargo run --release -p ws-supervisor --example log_flood -- [SECONDS]`
//!
//! One thread hands on output as fast as the store takes it, as the pump of a service does. Beside it a sibling writes a
//! line now and then, and somebody asks for the last lines. For comparison, the same output written as docker's
//! `json-file` driver writes it: each line as an object of JSON with its time, by a `write(2)` of its own, to files of
//! the same size.

#![allow(clippy::print_stdout, reason = "it is a report")]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ws_core::host::LogSink as _;
use ws_model::ServiceName;
use ws_model::wire::{LogQuery, LogStream};
use ws_supervisor::{LogLimits, LogStore};

/// What a pump hands on at a time.
const PIECE: usize = 64 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    for (what, line) in [("`yes` (2 bytes a line)", "y".to_owned()), ("100 bytes a line", "x".repeat(99))] {
        let piece = format!("{line}\n").repeat(PIECE / (line.len() + 1));
        let ours = flood(&piece, time)?;
        let theirs = json_file(&piece, time)?;
        println!("{what}: {ours:.0} MB/s; one write a line: {theirs:.1} MB/s; {:.0} times", ours / theirs);
    }
    Ok(())
}

/// The rate at which the store takes output, in MB/s.
fn flood(piece: &str, time: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let temp = tempfile::tempdir()?;
    let store = Arc::new(LogStore::open(temp.path(), LogLimits::default())?);
    let (flood, quiet) = (ServiceName::new("flood")?, ServiceName::new("quiet")?);
    let ended = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let flooding = std::thread::spawn({
        let (store, ended, written, piece) =
            (Arc::clone(&store), Arc::clone(&ended), Arc::clone(&written), piece.to_owned());
        move || {
            while !ended.load(Ordering::Relaxed) {
                store.write(&flood, LogStream::Stdout, piece.as_bytes());
                written.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let started = Instant::now();
    let (mut writes, mut tails) = (Vec::new(), Vec::new());
    while started.elapsed() < time {
        std::thread::sleep(Duration::from_millis(5));
        let before = Instant::now();
        store.write(&quiet, LogStream::Stdout, b"a line of the sibling\n");
        writes.push(before.elapsed());
        let before = Instant::now();
        runtime.block_on(async {
            let query = LogQuery { tail: Some(100), ..LogQuery::default() };
            let mut reader = store.read(&query)?;
            while reader.next().await.is_some() {}
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        tails.push(before.elapsed());
    }
    let rate = written.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64() / 1e6;
    ended.store(true, Ordering::Relaxed);
    flooding.join().map_err(|_| "the flood broke off")?;
    println!("  a sibling's line is taken in {}; `tail=100` of all takes {}", spread(writes), spread(tails));
    println!("  memory of the process: {} MB", resident()?);
    Ok(rate)
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at =
        |part: usize| times.get((times.len() * part / 100).min(times.len() - 1)).copied().unwrap_or_default();
    format!("{:.1?} (median), {:.1?} (99 %), {:.1?} (at most)", at(50), at(99), at(100))
}

fn resident() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    Ok(pages * 4096 / 1_000_000)
}

/// The rate of a writer that does for each line what `json-file` does, in MB/s.
fn json_file(piece: &str, time: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let temp = tempfile::tempdir()?;
    let part = |n: u32| temp.path().join(format!("x-json.log.{n}"));
    let open = |path: &Path| File::options().append(true).create(true).open(path);
    let (mut file, mut size, mut written) = (open(&part(0))?, 0, 0_u64);
    let started = Instant::now();
    while started.elapsed() < time {
        for line in piece.split_inclusive('\n') {
            let time = now();
            let line = serde_json::to_string(line)?;
            let json = format!("{{\"log\":{line},\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
            file.write_all(json.as_bytes())?;
            size += json.len();
            if size > 10 << 20 {
                std::fs::rename(part(0), part(1))?;
                (file, size) = (open(&part(0))?, 0);
            }
        }
        written += piece.len() as u64;
    }
    Ok(written as f64 / started.elapsed().as_secs_f64() / 1e6)
}

fn now() -> ws_model::Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    ws_model::Timestamp { unix_ms: i64::try_from(since.as_millis()).unwrap_or(0) }
}
