//! What ten idle services cost: how often the processes of `ws` wake up, and what they hold.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Project, mib, noop_stack, ours, pss_of_ours};
use crate::Failure;

/// How long nothing is asked for.
const TIME: Duration = Duration::from_secs(20);

/// Counts the times that a process of ours was given a processor while nothing was asked for.
///
/// # Errors
/// When a command fails.
pub(super) fn measure(ws: &Path) -> Result<Vec<Value>, Failure> {
    let mut rows = Vec::new();
    let probed = noop_stack(10)
        .replace("sleep infinity }", "sleep infinity, ready: { exec: [/bin/true], interval: 5s } }");
    for (what, yaml) in
        [("10 idle services without probes", noop_stack(10)), ("10 idle services, a probe each 5 s", probed)]
    {
        let project = Project::new(ws, &yaml)?;
        project.ws(&["up", "-d", "--wait"])?;
        // What the start has left to do.
        thread::sleep(Duration::from_secs(2));
        let before: u64 = ours().iter().map(|pid| switches(*pid)).sum();
        thread::sleep(TIME);
        let after: u64 = ours().iter().map(|pid| switches(*pid)).sum();
        let (total, _) = pss_of_ours(&project)?;
        project.ws(&["down"])?;
        rows.push(json!({
            "work": format!("wake-ups of all processes of ours in {} s, {what}", TIME.as_secs()),
            "value": format!("{}; {:.1} MiB PSS", after.saturating_sub(before), mib(total)),
            "budget": "none beyond declared probes",
        }));
    }
    Ok(rows)
}

/// How often the threads of a process were switched to, in all (proc_pid_status(5)).
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let counts = tasks.map(|task| {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
    });
    counts.sum()
}
