//! Other processes: seeing them, signalling them, looking into them; and what a process of ours was left with.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal;
use nix::unistd::Pid;

use crate::{End, number};

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<io::Result<End>> {
    Some(match (verb, arguments) {
        ("signal", [pid, which]) => kill(pid, which),
        ("execute", [program, arguments @ ..]) => Ok(execute(program, arguments)),
        ("pidfd", [pid]) => number(pid).map(|pid: i32| {
            End::of(ws_sys::process::pidfd_of_child(pid).map(drop), format!("a descriptor of {pid}"))
        }),
        ("signal-any", [to]) => number(to).and_then(signal_any),
        ("strangers", known) => strangers(known),
        ("descriptors", []) => descriptors(),
        ("terminal", []) => Ok(terminal()),
        ("field", [file, name, wanted]) => field(file, name, wanted),
        ("init-status", [name, wanted]) => field("/proc/1/status", name, wanted),
        ("capabilities", []) => capabilities(),
        ("environment", [canary]) => environment(canary),
        _ => return None,
    })
}

fn kill(pid: &str, which: &str) -> io::Result<End> {
    let which: i32 = number(which)?;
    let which = if which == 0 { None } else { Some(signal::Signal::try_from(which)?) };
    Ok(End::of(
        signal::kill(Pid::from_raw(number(pid)?), which).map_err(io::Error::from),
        "a signal was sent",
    ))
}

fn execute(program: &str, arguments: &[&str]) -> End {
    let ran = std::process::Command::new(program).args(arguments).output();
    match ran {
        Ok(output) if output.status.success() => {
            End::Did(format!("it ran for {} bytes", output.stdout.len()))
        }
        Ok(output) => End::Broken(format!("it ended with {}", output.status)),
        Err(error) => End::because(&error, "executing"),
    }
}

/// Asks for every process number whether it can be signalled; finds those that are not of this run.
fn signal_any(to: i32) -> io::Result<End> {
    let own = processes();
    let mut found = Vec::new();
    for pid in 1..to {
        if signal::kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            continue;
        }
        // Threads answer to kill(2) as well.
        let thread_of = fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|status| {
            status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<i32>().ok())
        });
        if pid != 1 && !own.contains(&pid) && thread_of.is_none_or(|leader| !own.contains(&leader)) {
            found.push(pid.to_string());
        }
    }
    Ok(End::found(&found))
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Finds processes in /proc that are called otherwise than those that are known.
fn strangers(known: &[&str]) -> io::Result<End> {
    let pids = processes();
    if pids.is_empty() {
        return Ok(End::Broken("/proc shows not even this process".to_owned()));
    }
    let mut found = Vec::new();
    for pid in pids {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?.trim().to_owned();
        // The kernel cuts names off at 15 bytes.
        if !known.iter().any(|known| known.get(..15).unwrap_or(known) == name) {
            found.push(format!("{pid}:{name}"));
        }
    }
    Ok(End::found(&found))
}

/// Finds descriptors that this process was not meant to have.
fn descriptors() -> io::Result<End> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().into_owned();
        // The directory that is being read is open too.
        let ours = matches!(number.as_str(), "0" | "1" | "2") || target.to_string_lossy().ends_with("/fd");
        if !ours {
            found.push(format!("{number}:{}", target.display()));
        }
    }
    Ok(End::found(&found))
}

fn terminal() -> End {
    if io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal() {
        return End::Did("a standard stream is a terminal".to_owned());
    }
    End::of(fs::File::options().read(true).write(true).open("/dev/tty"), "opened /dev/tty")
}

/// Finds a field of a status file whose value is another one.
fn field(file: &str, name: &str, wanted: &str) -> io::Result<End> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(match value.map(str::trim) {
        Some(value) if value == wanted => End::Nothing,
        other => End::Did(format!("{name} is {other:?}")),
    })
}

/// Finds capabilities in any of the five sets.
fn capabilities() -> io::Result<End> {
    let text = fs::read_to_string("/proc/self/status")?;
    let sets: Vec<&str> = text.lines().filter(|line| line.starts_with("Cap")).collect();
    if sets.len() != 5 {
        return Ok(End::Broken(format!("not five sets: {sets:?}")));
    }
    let some = sets
        .iter()
        .filter(|line| line.split_once(':').is_none_or(|(_, bits)| bits.trim() != "0000000000000000"));
    Ok(End::found(&some.map(|line| (*line).to_owned()).collect::<Vec<_>>()))
}

/// Looks for a word in the environment and the memory of processes that can be looked into.
fn environment(canary: &str) -> io::Result<End> {
    let mut found = Vec::new();
    for pid in processes().into_iter().chain([1]) {
        for name in ["environ", "cmdline"] {
            let path = format!("/proc/{pid}/{name}");
            let mut bytes = Vec::new();
            let read = fs::File::open(Path::new(&path)).and_then(|mut file| file.read_to_end(&mut bytes));
            // The command line of this process has the word.
            let ours = pid.cast_unsigned() == std::process::id() || name == "cmdline" && is_batch(&bytes);
            if read.is_ok() && !ours && bytes.windows(canary.len()).any(|part| part == canary.as_bytes()) {
                found.push(path);
            }
        }
    }
    Ok(End::found(&found))
}

fn is_batch(cmdline: &[u8]) -> bool {
    cmdline.split(|byte| *byte == 0).nth(1) == Some(b"batch")
}
