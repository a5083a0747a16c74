//! Whether the programs that a workspace requires are there, in the versions that it asks for.
//!
//! Asks each of them, as little trusted as can be: with nothing of the caller's environment, as nobody where the
//! caller is root, for a few seconds, and up to a few lines. Whether the answer will do is for the plan's side to say
//! ([`requirement_met`]).

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use ws_core::plan::{PATH, requirement_met};
use ws_model::Requirement;

/// How programs are asked for their version, in turn, until one of these answers: nearly all know the first; `go` the
/// second, old `java` the third, `nginx` and `ssh` the last.
const QUESTIONS: [&str; 4] = ["--version", "version", "-version", "-V"];
/// How long a program may take for all its answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const MOST_OUTPUT: usize = 64 << 10;
/// How many programs are asked at the same time.
const AT_ONCE: usize = 8;
/// The user and group without rights, as every distribution numbers it.
const NOBODY: u32 = 65_534;

/// Packages of Debian and its descendants whose name is not that of the program.
const PACKAGES: [(&str, &str); 14] = [
    ("cargo", "cargo"),
    ("cmake", "cmake"),
    ("gcc", "gcc"),
    ("git", "git"),
    ("go", "golang-go"),
    ("java", "default-jre-headless"),
    ("javac", "default-jdk-headless"),
    ("make", "make"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("php", "php-cli"),
    ("psql", "postgresql-client"),
    ("python3", "python3"),
    ("ruby", "ruby"),
];

/// Asks every required program for its version. Gives what is not met, a sentence each with what to do, in the order
/// of `requires`; nothing when all is well.
///
/// Blocks: for some milliseconds as a rule, up to some seconds when a program does not answer.
#[must_use]
pub fn check(requires: &[Requirement]) -> Vec<String> {
    check_in(requires, PATH, ANSWER_WITHIN)
}

fn check_in(requires: &[Requirement], path: &str, within: Duration) -> Vec<String> {
    let check = |requirement| check_one(requirement, path, within);
    let mut problems = Vec::new();
    for some in requires.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked: Vec<_> = some.iter().map(|one| scope.spawn(move || check(one))).collect();
            for one in asked {
                let met = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                problems.extend(met.err());
            }
        });
    }
    problems
}

fn check_one(requirement: &Requirement, path: &str, within: Duration) -> Result<(), String> {
    let Requirement { program, version } = requirement;
    let Some(file) = find(program, path) else {
        let wanted = if version.trim() == "*" { String::new() } else { format!(" {version}") };
        return Err(format!(
            "`{program}`{wanted} is required, and there is none in {path}, where services look; {}",
            advice(program)
        ));
    };
    let output = version_of(program, &file, path, within)?;
    requirement_met(requirement, &output)
        .map_err(|why| format!("{why} ({} was asked); {}", file.display(), advice(program)))
}

fn advice(program: &str) -> String {
    match PACKAGES.iter().find(|(known, _)| *known == program) {
        Some((_, package)) => {
            format!("install it for the whole machine (Debian, Ubuntu: `apt install {package}`)")
        }
        None => "install it for the whole machine, for example in /usr/local/bin".to_owned(),
    }
}

/// Where a program is, as the sandbox would find it.
fn find(program: &str, path: &str) -> Option<PathBuf> {
    let executable = |file: &Path| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| file.is_absolute() && executable(file));
    }
    path.split(':').map(|directory| Path::new(directory).join(program)).find(|file| executable(file))
}

/// What a program prints of its version: the first answer that has one in it, else the first answer.
fn version_of(program: &str, file: &Path, path: &str, within: Duration) -> Result<String, String> {
    let deadline = Instant::now() + within;
    let any = Requirement { program: program.to_owned(), version: ">=0".to_owned() };
    let mut first = None;
    for question in QUESTIONS {
        let answer = ask(file, question, path, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                format!("`{program} {question}` gave no answer within {} s", within.as_secs_f32())
            }
            _ => format!("`{program} {question}` could not be run: {error}"),
        });
        match answer {
            Ok((status, output)) if status.success() && requirement_met(&any, &output).is_ok() => {
                return Ok(output);
            }
            // Of one that fails, what it prints is a complaint.
            Ok((status, output)) => {
                first.get_or_insert(Ok(if status.success() { output } else { String::new() }));
            }
            Err(error) => {
                first.get_or_insert(Err(error));
            }
        }
    }
    first.unwrap_or_else(|| Ok(String::new()))
}

/// A program that was asked; ends with everything that it started.
struct Asked(Child);

impl Drop for Asked {
    fn drop(&mut self) {
        // Not reaped yet, so the number is still that of its group.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Runs a program with one argument: how it ended and what it printed, on both streams.
fn ask(file: &Path, question: &str, path: &str, deadline: Instant) -> io::Result<(ExitStatus, String)> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(file);
    command.arg(question).env_clear().env("PATH", path).env("HOME", "/nonexistent").env("LANG", "C");
    command.current_dir("/").process_group(0).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    if rustix::process::geteuid().is_root() {
        // Its supplementary groups go with it.
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut asked = Asked(command.spawn()?);
    // With our ends of the pipe.
    drop(command);
    let ended = pidfd_open(Pid::from_child(&asked.0), PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    let mut output = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN),
        ];
        let watched = if open { &mut fds[..] } else { &mut fds[..1] };
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(watched, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let is_over = !fds[0].revents().is_empty();
        // What it printed before it ended is there; what others of it hold open is not waited for.
        while open && output.len() < MOST_OUTPUT {
            let mut chunk = [0; 4096];
            match reader.read(&mut chunk) {
                Ok(0) => open = false,
                Ok(read) => output.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if is_over {
            let status = asked.0.wait()?;
            return Ok((status, String::from_utf8_lossy(&output).into_owned()));
        }
        if output.len() >= MOST_OUTPUT {
            return Err(io::Error::other("it does not stop printing"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Programs that are shell scripts, in a directory that everybody may read.
    fn programs(scripts: &[(&str, &str)]) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(directory.path(), 0o755);
        for (name, script) in scripts {
            let file = directory.path().join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            mode(&file, 0o755);
        }
        let path = format!("/nonexistent:{}:/usr/bin:/bin", directory.path().display());
        (directory, path)
    }

    fn required(program: &str, version: &str) -> Requirement {
        Requirement { program: program.to_owned(), version: version.to_owned() }
    }

    fn problem(scripts: &[(&str, &str)], program: &str, version: &str) -> Option<String> {
        let (_directory, path) = programs(scripts);
        let mut problems = check_in(&[required(program, version)], &path, LONG);
        assert!(problems.len() <= 1);
        problems.pop()
    }

    #[test]
    fn what_is_there_in_a_version_that_will_do_is_no_problem() {
        let scripts = [("node", "echo v20.11.1"), ("mine", "echo mine 3.1.4 >&2"), ("any", "exit 1")];
        for (program, version) in [("node", ">=20"), ("node", "20"), ("mine", ">=3, <4"), ("any", "*")] {
            assert_eq!(problem(&scripts, program, version), None, "{program} {version}");
        }
    }

    #[test]
    fn all_problems_come_at_once_in_order_and_say_what_to_do() {
        let (directory, path) = programs(&[("node", "echo v18.19.0"), ("ok", "echo ok 1.0"), ("mute", "")]);
        let requires = [("node", ">=20"), ("absent", ">=2"), ("ok", "1"), ("mute", ">=1"), ("gone", "*")]
            .map(|(p, v)| required(p, v));
        let problems = check_in(&requires, &path, LONG);
        let node = format!(
            "`node` is 18.19.0 here, and >=20 is required ({}/node was asked); install it for the whole machine \
             (Debian, Ubuntu: `apt install nodejs`)",
            directory.path().display()
        );
        let absent = format!(
            "`absent` >=2 is required, and there is none in {path}, where services look; install it for the whole \
             machine, for example in /usr/local/bin"
        );
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert_eq!(problems[..2], [node, absent]);
        assert!(problems[2].starts_with("`mute` printed nothing, with no version in it"), "{problems:#?}");
        assert!(problems[3].starts_with("`gone` is required, and there is none in "), "{problems:#?}");
    }

    #[test]
    fn other_ways_to_ask_are_tried_where_the_first_has_no_answer() {
        let only = |question: &str, answer: &str| {
            format!("[ \"$1\" = {question} ] && echo '{answer}' && exit 0; echo 'bad flag 99.9'; exit 2")
        };
        for (question, answer) in [
            ("--version", "tool 1.22.3"),
            ("version", "go version go1.22.3 linux/amd64"),
            ("-version", "openjdk version \"1.22.3\""),
            ("-V", "tool/1.22.3"),
        ] {
            assert_eq!(
                problem(&[("tool", &only(question, answer))], "tool", ">=1.22, <2"),
                None,
                "{question}"
            );
        }
        // One that succeeds without a version in what it says is asked further too.
        let polite = "[ \"$1\" = -V ] && echo 1.22.3 || echo 'usage: tool'";
        assert_eq!(problem(&[("tool", polite)], "tool", ">=1.22"), None);
    }

    #[test]
    fn nothing_of_ours_is_shown_to_it() {
        let script = "[ \"$(env | cut -d= -f1 | grep -v '^PWD$\\|^_$\\|^SHLVL$\\|^OLDPWD$' | sort | tr '\\n' ' ')\" = 'HOME LANG PATH ' ] || exit 1
            [ \"$(pwd)\" = / ] || exit 2
            [ \"$(cat)\" = '' ] || exit 3
            [ \"$(id -u)\" != 0 ] || exit 4
            [ \"$(id -G)\" = \"$(id -g)\" ] || [ -n \"$ASKED_BY_A_USER\" ] || [ \"$(id -u)\" != 65534 ] || exit 5
            echo 1.0";
        assert_eq!(problem(&[("tool", script)], "tool", "1"), None);
    }

    #[test]
    fn one_that_hangs_floods_or_leaves_others_behind_holds_nobody_up() {
        let (_directory, path) = programs(&[
            ("hangs", "sleep 1000"),
            ("floods", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"),
            ("leaves", "sleep 1000 & echo leaves 2.0"),
        ]);
        let problems = check_in(&[required("hangs", ">=1")], &path, Duration::from_millis(100));
        assert!(problems[0].starts_with("`hangs --version` gave no answer within 0.1 s"), "{problems:?}");
        let problems = check_in(&[required("floods", ">=1")], &path, LONG);
        assert!(problems[0].ends_with("could not be run: it does not stop printing"), "{problems:?}");
        assert_eq!(check_in(&[required("leaves", "2")], &path, LONG), Vec::<String>::new());
    }

    #[test]
    fn programs_are_found_as_in_the_sandbox() {
        let (directory, path) = programs(&[("tool", "")]);
        let file = directory.path().join("tool");
        assert_eq!(find("tool", &path), Some(file.clone()));
        assert_eq!(find(file.to_str().unwrap(), &path), Some(file.clone()));
        assert_eq!(find("./tool", &path), None, "relative to what?");
        assert_eq!(find("directory", &path), None);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(find("tool", &path), None);
    }
}
