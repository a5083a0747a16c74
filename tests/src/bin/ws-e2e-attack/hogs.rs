//! Taking more than one's share.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{End, number};

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<io::Result<End>> {
    Some(match (verb, arguments) {
        ("memory", [mebibytes]) => number(mebibytes).map(memory),
        ("spin", [threads, millis]) => spin(threads, millis),
        ("forks", [most]) => number(most).map(forks),
        ("bomb", [millis]) => number(millis).and_then(bomb),
        ("stay", []) => Ok(End::of(io::stdin().read_to_end(&mut Vec::new()), "the end")),
        ("open-files", [most]) => number(most).map(open_files),
        ("fill", [mebibytes, places @ ..]) => number(mebibytes).map(|mebibytes| fill(mebibytes, places)),
        _ => return None,
    })
}

/// Takes memory and uses it.
fn memory(mebibytes: usize) -> End {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for number in 0..mebibytes {
        // Written, so that the kernel has to give it; each page differently, so that none is shared.
        taken.push(vec![u8::try_from(number % 251 + 1).unwrap_or(1); 1 << 20]);
    }
    End::Did(format!("{} MiB", taken.len()))
}

/// Keeps processors busy for a time; tells the processor time that it got, in thousandths of a processor.
fn spin(threads: &str, millis: &str) -> io::Result<End> {
    let (threads, millis): (usize, u64) = (number(threads)?, number(millis)?);
    let start = Instant::now();
    let until = start + Duration::from_millis(millis);
    let all: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for one in all {
        let _ = one.join();
    }
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let time = usage.user_time() + usage.system_time();
    let used = time.tv_sec() * 1_000_000 + time.tv_usec();
    let wall = i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
    Ok(End::Did((used * 1000 / wall.max(1)).to_string()))
}

/// Starts processes that stay, until it may not; tells how many there were.
fn forks(most: usize) -> End {
    let Ok(program) = std::env::current_exe() else { return End::Broken("no path of its own".to_owned()) };
    let mut children: Vec<Child> = Vec::new();
    let mut refused = None;
    while children.len() < most {
        // Waits on a pipe that nobody writes to.
        let spawned = Command::new(&program)
            .arg("stay")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(child) => children.push(child),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let count = children.len();
    for child in &mut children {
        let _ = child.kill();
    }
    for child in &mut children {
        let _ = child.wait();
    }
    match refused {
        Some(error) => match End::because(&error, "") {
            End::Refused(errno, _) => End::Refused(errno, count.to_string()),
            other => other,
        },
        None => End::Did(count.to_string()),
    }
}

/// Processes that start as many others as they may, which do the same, for a time. Gives how often this one
/// was refused.
fn bomb(millis: u64) -> io::Result<End> {
    let until = Instant::now() + Duration::from_millis(millis);
    let program = std::env::current_exe()?;
    let mut children: Vec<Child> = Vec::new();
    let mut refused = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            break;
        }
        let mut command = Command::new(&program);
        command
            .args(["bomb", &left.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => children.push(child),
            Err(_) => refused += 1,
        }
    }
    for mut child in children {
        let _ = child.wait();
    }
    Ok(End::Did(refused.to_string()))
}

/// Opens files until it may not; tells how many there were.
fn open_files(most: usize) -> End {
    let mut files = Vec::new();
    while files.len() < most {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => match End::because(&error, "") {
                End::Refused(errno, _) => return End::Refused(errno, files.len().to_string()),
                other => return other,
            },
        }
    }
    End::Did(files.len().to_string())
}

/// Writes into places by turns until it may not; tells how many mebibytes there were in all.
fn fill(mebibytes: usize, places: &[&str]) -> End {
    let piece = vec![0_u8; 1 << 20];
    let mut files = Vec::new();
    for place in places {
        match File::create(format!("{place}/ws-e2e-filling")) {
            Ok(file) => files.push(file),
            Err(error) => return End::because(&error, place),
        }
    }
    let mut written = 0;
    let mut end = None;
    'all: while written < mebibytes {
        for file in &mut files {
            if let Err(error) = file.write_all(&piece) {
                end = Some(error);
                break 'all;
            }
            written += 1;
        }
    }
    for place in places {
        let _ = std::fs::remove_file(format!("{place}/ws-e2e-filling"));
    }
    match end {
        Some(error) => match End::because(&error, "") {
            End::Refused(errno, _) => End::Refused(errno, written.to_string()),
            other => other,
        },
        None => End::Did(written.to_string()),
    }
}
