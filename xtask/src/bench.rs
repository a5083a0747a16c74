//! `cargo xtask bench`: the time of the main job against the kernel's own floor, in one run.
//!
//! Prints a table, and writes `target/bench.json`. Machines are noisy: what counts are the ratios of medians
//! of interleaved rounds, and the figures of a peer only from the same run.

mod flood;
mod floor;
mod idle;
mod reload;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Numbers of services.
    pub(crate) services: Vec<u32>,
    /// Rounds of each.
    pub(crate) rounds: u32,
}

/// The floor program itself: runs in a process of its own, since it changes its namespaces.
///
/// # Errors
/// When the kernel refuses something.
pub(crate) fn floor(count: u32, restarts: u32) -> Result<(), Failure> {
    use std::io::Write as _;
    let result = floor::run(count, restarts)?;
    writeln!(std::io::stdout(), "{result}").map_err(|error| error.to_string())
}

pub(crate) use flood::echo;
pub(crate) use reload::{stamp, web};

/// What a service that floods does to everybody else; prints the table.
///
/// # Errors
/// When a command fails.
pub(crate) fn flood(root: &Path, seconds: u64) -> Result<(), Failure> {
    print(&flood::measure(&build(root)?, Duration::from_secs(seconds))?)
}

/// Hot reload: latency, memory, and what a load feels; prints the table.
///
/// # Errors
/// When a command fails.
pub(crate) fn reload(root: &Path, rounds: usize) -> Result<(), Failure> {
    print(&reload::measure(&build(root)?, rounds)?)
}

/// What an idle stack costs; prints the table.
///
/// # Errors
/// When a command fails.
pub(crate) fn idle(root: &Path) -> Result<(), Failure> {
    print(&idle::measure(&build(root)?)?)
}

fn print(rows: &[Value]) -> Result<(), Failure> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}\n{}", machine(), table(rows)).map_err(|error| error.to_string())
}

/// Runs everything and prints the table.
///
/// # Errors
/// When a command fails.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let ws = build(root)?;
    let mut rows = Vec::new();
    for count in &options.services {
        rows.extend(main_job(&ws, *count, options.rounds)?);
    }
    rows.push(compose(options.rounds));
    rows.extend(small_things(&ws, options.rounds)?);
    let json = json!({ "machine": machine(), "rows": rows });
    let path = root.join("target/bench.json");
    std::fs::write(&path, format!("{json:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    print(&rows)
}

fn build(root: &Path) -> Result<PathBuf, Failure> {
    if let Some(ws) = std::env::var_os("WS_BIN") {
        return Ok(PathBuf::from(ws));
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "ws-cli"])
        .current_dir(root)
        .status()
        .map_err(|error| format!("running cargo: {error}"))?;
    if !status.success() {
        return Err("building ws failed".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/ws"))
}

/// What the figures were measured on.
fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let user = if nix::unistd::geteuid().is_root() { "root" } else { "an ordinary user" };
    format!("kernel {}, {cores} cores, as {user}", kernel.trim())
}

/// A directory with a workspace and its own runtime and state directories.
struct Project {
    directory: tempfile::TempDir,
    ws: PathBuf,
}

impl Project {
    fn new(ws: &Path, yaml: &str) -> Result<Self, Failure> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let project = directory.path().join("project");
        std::fs::create_dir(&project)
            .and_then(|()| std::fs::write(project.join("workspace.yaml"), yaml))
            .map_err(|error| error.to_string())?;
        Ok(Self { directory, ws: ws.to_owned() })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ws);
        command
            .args(arguments)
            .current_dir(self.directory.path().join("project"))
            .env("WS_RUNTIME_DIR", self.directory.path().join("runtime"))
            .env("WS_STATE_DIR", self.directory.path().join("state"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `ws`; gives its standard output and how long it took, in microseconds.
    fn ws(&self, arguments: &[&str]) -> Result<(String, u64), Failure> {
        let begun = Instant::now();
        let output = self.command(arguments).output().map_err(|error| format!("running ws: {error}"))?;
        let time = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if output.status.success() {
            return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), time));
        }
        Err(format!(
            "ws {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

impl Project {
    /// Asks for a restart of a service over the control socket and waits until it is ready again; gives the
    /// microseconds that took.
    fn restart(&self, service: &str) -> Result<u64, Failure> {
        let socket = find(&self.directory.path().join("runtime"), "control.sock")
            .ok_or_else(|| "there is no control socket".to_owned())?;
        let name = ws_model::ServiceName::new(service).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let client = ws_client::Client::connect(&socket).await.map_err(|error| error.to_string())?;
            let begun = Instant::now();
            let accepted =
                client.restart(std::slice::from_ref(&name)).await.map_err(|error| error.to_string())?;
            let mut events = client
                .events(ws_model::wire::EventQuery { since: accepted.seq, follow: true })
                .await
                .map_err(|error| error.to_string())?;
            while let Some(event) = events.next().await {
                let event = event.map_err(|error| error.to_string())?;
                let ready =
                    matches!(event.kind, ws_model::EventKind::Phase { phase: ws_model::Phase::Ready, .. });
                if ready && event.service.as_ref() == Some(&name) {
                    return Ok(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            }
            Err("the supervisor ended".to_owned())
        })
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // After a failure something may still run; when nothing does, this does nothing.
        let _ = self.command(&["down"]).output();
    }
}

fn noop_stack(count: u32) -> String {
    let mut yaml = String::from("name: bench\nservices:\n");
    for n in 0..count {
        let _ = writeln!(yaml, "  s{n}: {{ command: sleep infinity }}");
    }
    yaml
}

/// `up` and `down` of no-op services, against the floor in the same rounds.
fn main_job(ws: &Path, count: u32, rounds: u32) -> Result<Vec<Value>, Failure> {
    let project = Project::new(ws, &noop_stack(count))?;
    let (mut up, mut down, mut floor_up, mut floor_down) = (vec![], vec![], vec![], vec![]);
    let mut memory = None;
    for _ in 0..rounds {
        let floor = run_floor(count, 0)?;
        floor_up.push(number(&floor, "up_us"));
        floor_down.push(number(&floor, "down_us"));
        up.push(project.ws(&["up", "-d", "--wait"])?.1);
        memory = Some(pss_of_ours(&project)?);
        down.push(project.ws(&["down"])?.1);
    }
    let mut rows = vec![
        row(
            &format!("`ws up -d --wait`, {count} no-op services"),
            &up,
            Some(&floor_up),
            if count <= 10 { "≤ 3 × floor" } else { "≤ 2 × floor" },
        ),
        row(&format!("`ws down`, {count} services"), &down, Some(&floor_down), "≤ 3 × floor"),
    ];
    if let Some((total, each)) = memory {
        rows.push(json!({
            "work": format!("memory of all of ours, {count} idle services"),
            "value": format!("{:.1} MiB PSS; {:.2} MiB a service", mib(total), mib(each)),
            "budget": "≤ 16 MiB at 10; ≤ 0.5 MiB a service",
        }));
    }
    Ok(rows)
}

/// The same ten services under docker-compose, where it is installed and its engine runs; else a row that says
/// what is missing. Uses an image that is there already (`busybox`) and pulls nothing.
fn compose(rounds: u32) -> Value {
    let work = "`docker compose up -d --wait`, 10 no-op services";
    let missing = |why: String| json!({ "work": work, "value": why, "budget": "ws ≥ 30 × faster" });
    let docker = |arguments: &[&str], directory: &Path| -> Result<u64, String> {
        let begun = Instant::now();
        let output = Command::new("docker").args(arguments).current_dir(directory).output();
        let output = output.map_err(|_| "not installed".to_owned())?;
        if output.status.success() {
            return Ok(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(text.lines().next().unwrap_or("it failed").to_owned())
    };
    let measured = || -> Result<Vec<u64>, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = directory.path();
        docker(&["compose", "version"], at).map_err(|why| format!("no compose: {why}"))?;
        docker(&["info"], at).map_err(|_| "no engine runs".to_owned())?;
        docker(&["image", "inspect", "busybox"], at).map_err(|_| "no image `busybox` is there".to_owned())?;
        let mut yaml = String::from("name: ws-bench\nservices:\n");
        for n in 0..10 {
            let _ =
                writeln!(yaml, "  s{n}: {{ image: busybox, pull_policy: never, command: sleep 1000000 }}");
        }
        std::fs::write(at.join("compose.yaml"), yaml).map_err(|error| error.to_string())?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(docker(&["compose", "up", "-d", "--wait"], at)?);
            docker(&["compose", "down", "-t", "0"], at)?;
        }
        Ok(times)
    };
    match measured() {
        Ok(times) => row(work, &times, None, "ws ≥ 30 × faster"),
        Err(why) => missing(why),
    }
}

/// Restart, and the time of a refusal.
fn small_things(ws: &Path, rounds: u32) -> Result<Vec<Value>, Failure> {
    let python = "import socket,time\nfor _ in range(50):\n  t=time.monotonic_ns()\n  try: socket.create_connection(('b',81),timeout=5)\n  except OSError as e: print((time.monotonic_ns()-t)//1000, e.errno)";
    let yaml = "name: bench\nservices:\n  a: { command: sleep infinity }\n  b: { command: sleep infinity }\n";
    let project = Project::new(ws, yaml)?;
    let restarts = (rounds * 5).clamp(20, 200);
    let floor: Vec<u64> = run_floor(1, restarts)?
        .get("restart_us")
        .and_then(Value::as_array)
        .map(|values| values.iter().filter_map(Value::as_u64).collect())
        .unwrap_or_default();
    let output = project.command(&["up", "-d", "--wait"]).env("WS_LOG", "ws_linux=debug").output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut whole = Vec::new();
    for _ in 0..restarts {
        whole.push(project.restart("a")?);
    }
    let (refused, _) = project.ws(&["exec", "-T", "a", "python3", "-c", python])?;
    let refused: Vec<u64> = refused.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    let log = find(&project.directory.path().join("state"), "supervisor.log");
    let log = log.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let inside: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once("since_end_us=")?.1.split([' ', '"', ',']).next()?.parse().ok())
        .collect();
    project.ws(&["down"])?;
    Ok(vec![
        row("restart: from the old init's pidfd to the new exec", &inside, Some(&floor), "≤ 2 × floor"),
        row(
            "the request to restart, to its ready event (old process's stop included)",
            &whole,
            None,
            "reported",
        ),
        row("a denied connect, to the refusal", &refused, None, "< 1 ms"),
    ])
}

/// The first file of this name below a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                return Some(path);
            }
        }
    }
    None
}

fn run_floor(count: u32, restarts: u32) -> Result<Value, Failure> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(own)
        .args(["__floor", &count.to_string(), &restarts.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// The proportional set sizes of the supervisor, the spawner, launchers and inits of this project, in bytes:
/// in all, and of launchers and inits for each service.
fn pss_of_ours(project: &Project) -> Result<(u64, u64), Failure> {
    let (text, _) = project.ws(&["ps", "--json"])?;
    let services: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let (mut total, mut per_service) = (0, 0);
    for pid in ours() {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).map_or(0, kib);
        total += pss;
        if ["ws-launcher", "ws-init"].contains(&name_of(pid).as_str()) {
            per_service += pss;
        }
    }
    Ok((total, per_service / u64::try_from(services.len().max(1)).unwrap_or(1)))
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The processes of `ws` on this machine: those of the bench, which is alone here.
fn ours() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let name = name_of(*pid);
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ["ws-spawner", "ws-launcher", "ws-init"].contains(&name.as_str())
            || (name == "ws" && String::from_utf8_lossy(&command).contains("__supervise"))
    };
    pids.filter(is_ours).collect()
}

fn kib(text: &str) -> u64 {
    text.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn row(work: &str, values: &[u64], floor: Option<&[u64]>, budget: &str) -> Value {
    let own = median(values);
    let base = floor.and_then(median);
    let ratio = match (own, base) {
        (Some(own), Some(base)) if base > 0 => Some(own as f64 / base as f64),
        _ => None,
    };
    json!({
        "work": work, "median_us": own, "floor_us": base, "ratio": ratio, "budget": budget,
        "min_us": values.iter().min(), "max_us": values.iter().max(), "rounds": values.len(),
    })
}

fn table(rows: &[Value]) -> String {
    let mut text =
        String::from("| work | median | floor | ratio | budget | rounds |\n|---|---|---|---|---|---|\n");
    let ms =
        |value: &Value| value.as_u64().map_or("–".to_owned(), |us| format!("{:.2} ms", us as f64 / 1000.0));
    for row in rows {
        let value =
            row.get("value").and_then(Value::as_str).map_or_else(|| ms(&row["median_us"]), str::to_owned);
        let ratio = row["ratio"].as_f64().map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| {} | {value} | {} | {ratio} | {} | {} |",
            row["work"].as_str().unwrap_or(""),
            ms(&row["floor_us"]),
            row["budget"].as_str().unwrap_or(""),
            row["rounds"].as_u64().map_or("–".to_owned(), |n| n.to_string()),
        );
    }
    text
}
