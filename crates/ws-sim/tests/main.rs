//! The simulator as a test: scenarios that people wrote, with what happens in them, and some thousand random ones.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ws_sim::{play, random, shrink, stack, text};

/// Random scenarios against the engine: some seconds' worth in a debug build. `cargo xtask sim` plays more.
const SEEDS: u64 = 2000;

/// Random scenarios against the whole supervisor.
const STACKS: u64 = 150;

/// Scenarios below `tests/scenarios`: `NAME.ws`, and what happens in it in `NAME.txt`. `BLESS=1` writes that anew.
#[test]
fn scenarios_go_as_they_are_written_down() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let bless = std::env::var_os("BLESS").is_some();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (scripts, transcripts): (Vec<PathBuf>, Vec<PathBuf>) =
        files.into_iter().partition(|path| path.extension().is_some_and(|extension| extension == "ws"));
    assert!(scripts.len() >= 25, "{scripts:?}");
    let mut differ = Vec::new();
    for script in &scripts {
        let scenario = text::parse(&std::fs::read_to_string(script).unwrap());
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let played = play::play_twice(&scenario);
        if let Some((at, broken)) = played.broken {
            panic!("{}: {broken} at {at:?}\n{}", script.display(), played.transcript);
        }
        let path = script.with_extension("txt");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if bless {
            std::fs::write(&path, &played.transcript).unwrap();
        } else if before != played.transcript {
            let lines = before.lines().zip(played.transcript.lines());
            let first = lines.enumerate().find(|(_, (was, is))| was != is);
            differ.push(format!("{}: {first:?}", path.display()));
        }
    }
    assert!(differ.is_empty(), "`BLESS=1` writes these anew:\n{}", differ.join("\n"));
    let lonely = transcripts.iter().find(|path| !path.with_extension("ws").exists());
    assert!(lonely.is_none(), "{lonely:?} belongs to no scenario");
}

/// Every processor takes its share.
fn each(count: u64, what: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    what(number);
                }
            });
        }
    });
}

#[test]
fn no_schedule_breaks_what_must_hold() {
    each(SEEDS, |seed| {
        let scenario = random::scenario(seed);
        let played =
            if seed.is_multiple_of(64) { play::play_twice(&scenario) } else { play::play(&scenario, false) };
        if let Some((_, broken)) = played.broken {
            let small = shrink::smallest(&scenario, broken.invariant);
            let played = play::play(&small, true);
            panic!("seed {seed}: {broken}\n\n{}\n{}", text::write(&small), played.transcript);
        }
    });
}

#[test]
fn the_supervisor_keeps_its_word_in_every_schedule() {
    each(STACKS, |seed| {
        let home = tempfile::tempdir().unwrap();
        if let Err(error) = stack::play(&random::scenario(seed), home.path()) {
            panic!("seed {seed} against the supervisor: {error}");
        }
    });
}

/// What a failing seed prints is what was played.
#[test]
fn scenarios_are_read_as_they_are_written() {
    for seed in 0..500 {
        let scenario = random::scenario(seed);
        assert_eq!(text::parse(&text::write(&scenario)), Ok(scenario), "seed {seed}");
    }
}

#[test]
fn what_is_wrong_in_a_scenario_is_said_with_its_line() {
    let wrong = |text: &str| text::parse(text).unwrap_err();
    assert_eq!(wrong("ready"), "line 1: `ready` before any service");
    assert_eq!(wrong("service db\n\n  host luck=5%"), "line 3: `luck` is no habit");
    assert_eq!(wrong("service db\n  after web ready"), "db waits for web, which is not there");
    assert_eq!(wrong("at 5s up\nat 4s down"), "what happens is not in order of time: 4s after 5s");
    assert_eq!(wrong("at 5s explode"), "line 1: `explode` is nothing that can happen");
}
