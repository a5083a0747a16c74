//! `cargo xtask sim` runs this: many seeds, one of them, or a scenario that stands in a file.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for developers")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ws_sim::{Scenario, play, random, shrink, stack, text};

const USAGE: &str = "\
use: ws-sim [--seeds N] [--from SEED] [--stacks N] [--seed SEED] [--threads N] [--play FILE]

  --seeds N     play this many random scenarios against the engine (1000)
  --from SEED   beginning with this one (0)
  --seed SEED   play one, print it, and make it small if something does not hold
  --threads N   at the same time (all processors)
  --stacks N    play this many against the whole supervisor too (a hundredth of the seeds)
  --play FILE   play a scenario that stands in a file, and print what happened
";

/// What was asked for.
struct Options {
    seeds: u64,
    from: u64,
    stacks: Option<u64>,
    seed: Option<u64>,
    threads: usize,
    file: Option<String>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprint!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = match (&options.seed, &options.file) {
        (Some(seed), _) => one(*seed),
        (None, Some(file)) => from_file(file),
        (None, None) => many(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seeds: 1000, from: 0, stacks: None, seed: None, threads, file: None };
    while let Some(key) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("`{key}` needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("`{value}` is no number"));
        match key.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--stacks" => options.stacks = Some(number()?),
            "--seed" => options.seed = Some(number()?),
            "--threads" => options.threads = usize::try_from(number()?.max(1)).unwrap_or(1),
            "--play" => options.file = Some(value),
            _ => return Err(format!("`{key}` is not known")),
        }
    }
    Ok(options)
}

fn from_file(path: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("reading `{path}`: {error}"))?;
    let scenario = text::parse(&text).map_err(|error| format!("{path}: {error}"))?;
    let played = play::play_twice(&scenario);
    print!("{}", played.transcript);
    match played.broken {
        None => Ok(()),
        Some((at, broken)) => Err(format!("{:.3} s: {broken}", at.as_secs_f64())),
    }
}

fn one(seed: u64) -> Result<(), String> {
    let scenario = random::scenario(seed);
    if play::play_twice(&scenario).broken.is_some() {
        return Err(report(&scenario));
    }
    print!("{}\n{}", text::write(&scenario), play::play(&scenario, true).transcript);
    match stack(seed) {
        Ok(played) => {
            println!("\nthe supervisor: {played:?}");
            Ok(())
        }
        Err(error) => Err(format!("seed {seed} against the supervisor: {error}")),
    }
}

fn stack(seed: u64) -> Result<stack::Played, String> {
    let home = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    stack::play(&random::scenario(seed), home.path())
}

/// A scenario that breaks something, made small, with what happens in it.
fn report(scenario: &Scenario) -> String {
    let seed = scenario.seed;
    let Some((_, broken)) = play::play_twice(scenario).broken else {
        return format!("seed {seed} broke something and does not any more");
    };
    let small = shrink::smallest(scenario, broken.invariant);
    let played = play::play(&small, true);
    let (at, broken) = played.broken.unwrap_or((std::time::Duration::ZERO, broken));
    format!(
        "seed {seed}: {broken}\n\nat {:.3} s of this scenario (`cargo xtask sim --seed {seed}` plays it again):\n\n{}\n{}",
        at.as_secs_f64(),
        text::write(&small),
        played.transcript,
    )
}

/// Does something for each of these numbers, on so many threads; those for which it failed, in order.
fn each<T: Send>(
    numbers: std::ops::Range<u64>,
    threads: usize,
    what: impl Fn(u64) -> Option<T> + Sync,
) -> Vec<(u64, T)> {
    let next = AtomicU64::new(numbers.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    if let Some(why) = what(number) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((number, why));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|(number, _)| *number);
    failed
}

fn many(options: &Options) -> Result<(), String> {
    // Each panic is told once, with its scenario.
    std::panic::set_hook(Box::new(|_| ()));
    let threads = options.threads;
    let began = Instant::now();
    let steps = AtomicU64::new(0);
    let failed = each(options.from..options.from.saturating_add(options.seeds), threads, |seed| {
        let scenario = random::scenario(seed);
        // Now and then twice: it must make no difference.
        let played =
            if seed.is_multiple_of(64) { play::play_twice(&scenario) } else { play::play(&scenario, false) };
        steps.fetch_add(played.steps, Ordering::Relaxed);
        played.broken.map(|(_, broken)| broken)
    });
    let (seeds, steps, took) = (options.seeds, steps.into_inner(), began.elapsed().as_secs_f64());
    let count = failed.len();
    println!(
        "engine: {seeds} scenarios, {steps} steps, {took:.1} s on {threads} threads: {count} broke something"
    );
    let mut kinds = BTreeMap::new();
    for (seed, broken) in &failed {
        let (count, _) = kinds.entry(broken.invariant).or_insert((0_u64, *seed));
        *count += 1;
    }
    for (invariant, (count, seed)) in kinds {
        println!("  {invariant}: {count}, the first with seed {seed}");
    }

    let began = Instant::now();
    let (requests, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let stacks = options.stacks.unwrap_or(options.seeds / 100);
    let wrong = each(options.from..options.from.saturating_add(stacks), threads, |seed| match stack(seed) {
        Ok(played) => {
            requests.fetch_add(played.requests, Ordering::Relaxed);
            events.fetch_add(played.events, Ordering::Relaxed);
            None
        }
        Err(error) => Some(error),
    });
    let (requests, events, took) =
        (requests.into_inner(), events.into_inner(), began.elapsed().as_secs_f64());
    let count = wrong.len();
    println!(
        "supervisor: {stacks} scenarios, {requests} requests, {events} events, {took:.1} s: {count} broke something"
    );
    for (seed, error) in wrong.iter().take(10) {
        println!("  seed {seed}: {error}");
    }
    match failed.first() {
        Some((seed, _)) => Err(report(&random::scenario(*seed))),
        None if wrong.is_empty() => Ok(()),
        None => Err("the supervisor broke what it promises".to_owned()),
    }
}
