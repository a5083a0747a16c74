//! One service that writes as fast as it can: what its sibling, the supervisor and `ws logs` feel of it, and the
//! same program under docker's json-file logging where an engine runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Project, median, mib};
use crate::Failure;

/// The port on which the sibling answers.
const PORT: &str = "7000";

/// What the flooding service runs: a line of 80 bytes, again and again.
const FLOOD: [&str; 2] =
    ["/usr/bin/yes", "0123456789 the quick brown fox jumps over the lazy dog 0123456789 abcdefghijklm"];

/// How many requests are timed before and during the flood, at least.
const REQUESTS: usize = 2_000;

/// The sibling: answers each line with itself, a thread for each connection.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn echo(port: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).map_err(|error| error.to_string())?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        thread::spawn(move || {
            let Ok(mut writer) = stream.try_clone() else { return };
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                if writer.write_all(line.as_bytes()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    Ok(())
}

/// Measures for this long with the flood, and as long without.
///
/// # Errors
/// When a command fails.
pub(super) fn measure(ws: &Path, time: Duration) -> Result<Vec<Value>, Failure> {
    let yaml = format!(
        "name: bench\nservices:\n  sibling: {{ command: [./xtask, __echo, '{PORT}'], ports: ['0:{PORT}'], \
         ready: {{ tcp: ':{PORT}' }} }}\n  flood: {{ command: {FLOOD:?} }}\n"
    );
    let project = Project::new(ws, &yaml)?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    std::fs::copy(own, project.directory.path().join("project/xtask")).map_err(|error| error.to_string())?;
    project.ws(&["up", "-d", "--wait", "sibling"])?;
    let address = project.ws(&["port", "sibling", PORT])?.0.trim().to_owned();
    let supervisor = supervisor(&project)?;

    let quiet = latencies(&address, time)?;
    let rss_before = memory(supervisor);
    project.ws(&["up", "-d", "--wait", "flood"])?;
    let flood = pid(&project, "flood")?;
    let sampler = thread::spawn(move || {
        let begun = Instant::now();
        let (mut most, first) = (0, written(flood));
        while begun.elapsed() < time {
            most = most.max(memory(supervisor));
            thread::sleep(Duration::from_millis(100));
        }
        (most, (written(flood).saturating_sub(first)) as f64 / begun.elapsed().as_secs_f64())
    });
    let loud = latencies(&address, time)?;
    let mut tails = Vec::new();
    for _ in 0..15 {
        tails.push(project.ws(&["logs", "flood", "--tail", "20"])?.1);
    }
    let (most, rate) = sampler.join().map_err(|_| "the sampler failed".to_owned())?;
    project.ws(&["down"])?;

    let (docker, docker_text) = match docker_rate(time) {
        Ok(rate) => (Some(rate), format!("{:.1} MiB/s", rate / (1024.0 * 1024.0))),
        Err(why) => (None, why),
    };
    let (quiet_p99, loud_p99) = (percentile(&quiet, 99), percentile(&loud, 99));
    Ok(vec![
        json!({
            "work": format!("a request to the sibling of a flooding service, p99 (p50 {} → {} µs)",
                percentile(&quiet, 50), percentile(&loud, 50)),
            "median_us": loud_p99, "floor_us": quiet_p99,
            "ratio": loud_p99 as f64 / quiet_p99.max(1) as f64,
            "budget": "≤ 2 × quiet", "rounds": loud.len(),
        }),
        json!({
            "work": "the supervisor's resident memory: before, and the most during the flood",
            "value": format!("{:.1} MiB; {:.1} MiB", mib(rss_before), mib(most)), "budget": "bounded",
        }),
        json!({
            "work": "`ws logs --tail 20` of the flooding service, whole command",
            "median_us": median(&tails), "max_us": tails.iter().max(), "budget": "< 100 ms",
            "rounds": tails.len(),
        }),
        json!({
            "work": format!("output taken in from the flooding service; docker's json-file: {docker_text}"),
            "value": format!("{:.1} MiB/s", rate / (1024.0 * 1024.0)),
            "ratio": docker.map(|docker| rate / docker.max(1.0)), "budget": "≥ 5 × docker's json-file",
        }),
    ])
}

/// Requests over one connection each, one after the other, in microseconds.
fn latencies(address: &str, time: Duration) -> Result<Vec<u64>, Failure> {
    let begun = Instant::now();
    let mut found = Vec::new();
    while begun.elapsed() < time || found.len() < REQUESTS {
        let start = Instant::now();
        request(address).map_err(|error| format!("asking the sibling at {address}: {error}"))?;
        found.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        // As a browser or a test does: some requests, not a second flood. And few enough that the ports that closed
        // connections keep for a minute do not run out: looking for a free one would be what is measured then.
        thread::sleep(Duration::from_millis(10));
    }
    found.sort_unstable();
    Ok(found)
}

fn request(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer)
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

/// What a process has written, ever (proc_pid_io(5)).
fn written(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok()).unwrap_or(0)
}

/// The resident memory of a process, in bytes.
pub(super) fn memory(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or(0, super::kib)
}

fn pid(project: &Project, service: &str) -> Result<u64, Failure> {
    let (text, _) = project.ws(&["ps", "--json"])?;
    let rows: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let row = rows.iter().find(|row| row["service"] == service);
    row.and_then(|row| row["pid"].as_u64()).ok_or_else(|| format!("`{service}` has no process"))
}

pub(super) fn supervisor(project: &Project) -> Result<u64, Failure> {
    let (text, _) = project.ws(&["ls", "--json"])?;
    let rows: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    rows.iter().find_map(|row| row["pid"].as_u64()).ok_or_else(|| "no supervisor runs".to_owned())
}

/// The bytes a second that docker takes in from the same program, logging to rotated json-files.
fn docker_rate(time: Duration) -> Result<f64, String> {
    let docker = |arguments: &[&str]| -> Result<String, String> {
        let output = Command::new("docker")
            .args(arguments)
            .output()
            .map_err(|_| "docker is not installed".to_owned())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(text.lines().next().unwrap_or("it failed").to_owned())
    };
    docker(&["info"]).map_err(|_| "no engine runs here".to_owned())?;
    let directory = image().map_err(|error| format!("making an image: {error}"))?;
    let archive = directory.path().join("image.tar");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(directory.path().join("root"))
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    if !tar.is_ok_and(|status| status.success()) {
        return Err("tar failed".to_owned());
    }
    docker(&["import", &archive.display().to_string(), "ws-bench-yes"])?;
    let options = [
        "run",
        "-d",
        "--network",
        "none",
        "--log-opt",
        "max-size=10m",
        "--log-opt",
        "max-file=3",
        "ws-bench-yes",
    ];
    let container = docker(&[&options[..], &FLOOD[..]].concat())?;
    let rate = docker(&["inspect", "--format", "{{.State.Pid}}", &container]).and_then(|pid| {
        let pid: u64 = pid.parse().map_err(|_| "docker gave no pid".to_owned())?;
        let (begun, first) = (Instant::now(), written(pid));
        thread::sleep(time);
        Ok(written(pid).saturating_sub(first) as f64 / begun.elapsed().as_secs_f64())
    });
    docker(&["rm", "-f", &container])?;
    docker(&["rmi", "ws-bench-yes"])?;
    rate
}

/// A root file system with the flooding program and its libraries.
fn image() -> std::io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("root");
    let copy = |from: &str| -> std::io::Result<()> {
        let to = root.join(from.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(from, to).map(drop)
    };
    copy(FLOOD[0])?;
    let libraries = Command::new("ldd").arg(FLOOD[0]).output()?;
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(path)?;
    }
    Ok(directory)
}
