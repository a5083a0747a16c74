//! Hot reload: from the write of a file to the new program, beside watchexec in the same rounds; what a tree of 50,000
//! files costs; and what a load on a service feels of a hundred reloads.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use ws_core::files::Files as _;
use ws_core::plan::Options;
use ws_e2e::web::{Asking, Load};
use ws_spec::Sources;
use ws_watch::{Summary, Watcher};

use super::flood::{memory, supervisor};
use super::{Project, median, mib};
use crate::Failure;

/// The quiet time before anything is done about a change: the same for both.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// How long one reload may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files in the tree that both watch, and how many in a directory.
const FILES: usize = 50_000;
const PER_DIRECTORY: usize = 20;

/// Connections of the load.
const CONNECTIONS: usize = 64;

fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// The service: writes down when it was executed, and stays. Ends at once on SIGTERM, as it has no handler.
///
/// # Errors
/// When it cannot write.
pub(crate) fn stamp(file: &Path) -> Result<(), Failure> {
    let at = now_ns();
    let beside = file.with_extension("new");
    fs::write(&beside, at.to_string())
        .and_then(|()| fs::rename(&beside, file))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    loop {
        thread::park();
    }
}

/// The web server that is reloaded under load.
///
/// # Errors
/// When it has no socket.
pub(crate) fn web(port: u16, file: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    ws_e2e::web::serve(port, text.trim(), Duration::ZERO).map_err(|error| error.to_string())
}

/// Measures so many reloads of each kind.
///
/// # Errors
/// When a command fails.
pub(super) fn measure(ws: &Path, rounds: usize) -> Result<Vec<Value>, Failure> {
    let mut rows = vec![set_up(rounds)?];
    rows.extend(latency(ws, rounds)?);
    for (name, more) in [
        ("`listen`", "listen: [8000], ready: { http: ':8000/' }"),
        ("`listen` and `reload: overlap`", "listen: [8000], reload: overlap, ready: { http: ':8000/' }"),
        ("neither, through the published port", "hold: 20s, ready: { http: ':8000/' }"),
    ] {
        for keep_alive in [false, true] {
            let (load, time, runs) = under_load(ws, more, keep_alive, rounds)?;
            let how = if keep_alive { "kept alive" } else { "one request each" };
            let per_second = load.answered as f64 / time.as_secs_f64();
            rows.push(json!({
                "work": format!("{rounds} reloads with {name}, {CONNECTIONS} connections, {how}: {} requests \
                    ({per_second:.0} a second) answered by {runs} runs", load.answered),
                "value": format!("{} refused, {} lost", load.refused, load.lost),
                "budget": if name.starts_with("neither") { "0 refused" } else { "0 failed" },
                "rounds": rounds,
            }));
            if let Some(error) = load.errors.first() {
                rows.push(json!({ "work": "the first of these errors", "value": error }));
            }
        }
    }
    Ok(rows)
}

/// A tree that both watch; gives the file that is written.
fn tree(root: &Path, files: usize) -> Result<PathBuf, Failure> {
    for number in 0..files {
        let file = root.join(format!("d{}/f{number}.rs", number / PER_DIRECTORY));
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        }
        fs::write(file, format!("// {number}\n")).map_err(|error| error.to_string())?;
    }
    let file = root.join("main.rs");
    fs::write(&file, "0").map_err(|error| error.to_string())?;
    Ok(file)
}

/// What it takes until a tree is watched: every directory by the kernel, every file known by its contents.
fn set_up(rounds: usize) -> Result<Value, Failure> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let root = directory.path().canonicalize().map_err(|error| error.to_string())?;
    tree(&root.join("src"), FILES)?;
    let sources = Sources {
        file: root.join("workspace.yaml"),
        root: root.clone(),
        text: "name: bench\nservices: { api: { command: 'true', watch: [src] } }\n".to_owned().into(),
        ..Sources::default()
    };
    let workspace = ws_spec::parse(&sources).workspace.ok_or("the bench's own file has an error")?;
    let facts = ws_linux::observe::facts(&workspace);
    let plan = ws_core::plan::resolve(&workspace, &facts, &Options::default())
        .map_err(|problems| format!("the bench's own file cannot be planned: {problems:?}"))?;
    let plan = Arc::new(plan);
    let mut times = Vec::new();
    let mut seen = Summary::default();
    for _ in 0..rounds.clamp(1, 9) {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let options = ws_watch::Options::new(state.path().to_owned());
        let mut watcher = Watcher::new(options, Arc::new(|_| {})).map_err(|error| error.to_string())?;
        watcher.follow(Arc::clone(&plan), Vec::new());
        seen = watcher.settle();
        times.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let Summary { directories, files, polling } = seen;
    if files < FILES || polling {
        return Err(format!("the tree is not watched: {seen:?}"));
    }
    Ok(super::row(
        &format!("watching set up on {files} files in {directories} directories"),
        &times,
        None,
        "≤ 1 s",
    ))
}

/// Waits for a stamp that is later.
fn stamped(file: &Path, after: u64) -> Result<u64, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(at) = fs::read_to_string(file).ok().and_then(|text| text.parse::<u64>().ok())
            && at > after
        {
            return Ok(at);
        }
        thread::sleep(Duration::from_micros(500));
    }
    Err(format!("no new run within {PATIENCE:?} ({})", file.display()))
}

/// What one tool needs from the write to the exec, beyond the debounce, in microseconds.
fn one(written: &Path, stamp: &Path, round: usize) -> Result<u64, Failure> {
    let begun = now_ns();
    fs::write(written, format!("{round} {begun}")).map_err(|error| error.to_string())?;
    let at = stamped(stamp, begun)?;
    Ok((at - begun).saturating_sub(u64::try_from(DEBOUNCE.as_nanos()).unwrap_or(0)) / 1000)
}

fn latency(ws: &Path, rounds: usize) -> Result<Vec<Value>, Failure> {
    let yaml = "name: bench\nservices:\n  api: { command: [./xtask, __stamp, run/stamp], writable: [run], watch: [src] }\n";
    let project = Project::new(ws, yaml)?;
    let root = project.directory.path().join("project");
    let copy = |to: &Path| -> Result<(), Failure> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        fs::copy(own, to).map(drop).map_err(|error| error.to_string())
    };
    copy(&root.join("xtask"))?;
    fs::create_dir(root.join("run")).map_err(|error| error.to_string())?;
    let written = tree(&root.join("src"), FILES)?;
    let own_stamp = root.join("run/stamp");
    project.ws(&["up", "-d", "--wait", "--no-watch"])?;
    let without = memory(supervisor(&project)?);
    project.ws(&["down"])?;
    project.ws(&["up", "-d", "--wait"])?;
    stamped(&own_stamp, 0)?;
    // The first change is seen as soon as everything is watched.
    thread::sleep(Duration::from_secs(3));
    let with = memory(supervisor(&project)?);

    let peer_directory = project.directory.path().join("peer");
    fs::create_dir(&peer_directory).map_err(|error| error.to_string())?;
    copy(&peer_directory.join("xtask"))?;
    let peer_written = tree(&peer_directory.join("src"), FILES)?;
    let peer_stamp = peer_directory.join("stamp");
    let mut peer = watchexec(&peer_directory)?;
    let mut peer_times = Vec::new();
    let mut times = Vec::new();
    if peer.is_some() {
        stamped(&peer_stamp, 0)?;
        thread::sleep(Duration::from_secs(3));
    }
    for round in 0..rounds {
        times.push(one(&written, &own_stamp, round)?);
        if peer.is_some() {
            peer_times.push(one(&peer_written, &peer_stamp, round)?);
        }
        // So that nothing of this round is in the next one's debounce.
        thread::sleep(Duration::from_millis(150));
    }
    let peer_memory = peer.as_ref().map(|peer| memory(u64::from(peer.id())));
    if let Some(peer) = &mut peer {
        // The program that it runs has no handler, and goes with its group.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(peer.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = peer.wait();
    }
    project.ws(&["down"])?;
    let percentile = |values: &[u64], percent: usize| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let peer_median = median(&peer_times);
    let version = watchexec_version().unwrap_or_else(|| "watchexec is not installed".to_owned());
    Ok(vec![
        json!({
            "work": format!("write of a file to exec of the new program, beyond the debounce, in a tree of {FILES} files \
                (p99 {:.2} ms; {version}: p99 {:.2} ms)",
                percentile(&times, 99) as f64 / 1000.0, percentile(&peer_times, 99) as f64 / 1000.0),
            "median_us": median(&times), "floor_us": peer_median,
            "ratio": median(&times).zip(peer_median).map(|(own, peer)| own as f64 / peer.max(1) as f64),
            "budget": "≤ 10 ms, ≤ 1 × watchexec", "rounds": rounds,
        }),
        json!({
            "work": format!("resident memory of the supervisor without and with watching {FILES} files; watchexec: {}",
                peer_memory.map_or("–".to_owned(), |bytes| format!("{:.1} MiB", mib(bytes)))),
            "value": format!("{:.1} MiB; {:.1} MiB", mib(without), mib(with)), "budget": "reported",
        }),
    ])
}

fn watchexec_version() -> Option<String> {
    let output = Command::new("watchexec").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

/// watchexec on the same tree and the same program, where it is installed.
fn watchexec(directory: &Path) -> Result<Option<Child>, Failure> {
    if watchexec_version().is_none() {
        return Ok(None);
    }
    let child = Command::new("watchexec")
        .args(["-r", "--debounce", "50ms", "-w", "src", "--", "./xtask", "__stamp", "stamp"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("running watchexec: {error}"))?;
    Ok(Some(child))
}

/// Reloads a web server again and again under a load.
fn under_load(
    ws: &Path,
    more: &str,
    keep_alive: bool,
    rounds: usize,
) -> Result<(Load, Duration, usize), Failure> {
    let yaml = format!(
        "name: bench\nservices:\n  web: {{ command: [./xtask, __web, '8000', site/text], watch: [site], \
         ports: ['0:8000'], {more} }}\n"
    );
    let project = Project::new(ws, &yaml)?;
    let root = project.directory.path().join("project");
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    fs::copy(own, root.join("xtask")).map_err(|error| error.to_string())?;
    let text = root.join("site/text");
    fs::create_dir(root.join("site"))
        .and_then(|()| fs::write(&text, "0"))
        .map_err(|error| error.to_string())?;
    project.ws(&["up", "-d", "--wait"])?;
    let address = project.ws(&["port", "web", "8000"])?.0;
    let address: SocketAddr = address.trim().parse().map_err(|_| format!("`{address}` is no address"))?;
    let asking = Asking::start(address, CONNECTIONS, keep_alive);
    let begun = Instant::now();
    for round in 1..=rounds {
        fs::write(&text, round.to_string()).map_err(|error| error.to_string())?;
        let waited = Instant::now();
        loop {
            let rows: Value =
                serde_json::from_str(&project.ws(&["ps", "--json"])?.0).map_err(|error| error.to_string())?;
            if rows[0]["restarts"].as_u64() == Some(round as u64) && rows[0]["ready"] == true {
                break;
            }
            if waited.elapsed() > PATIENCE {
                return Err(format!("reload {round} of {more}: {rows:#}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let answered = asking.answered();
        while asking.answered() < answered + CONNECTIONS as u64 && waited.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let time = begun.elapsed();
    let load = asking.stop();
    project.ws(&["down"])?;
    let runs = load.by.len();
    Ok((load, time, runs))
}
