//! Makes one attempt at something that a service must not do, and prints what came of it as JSON:
//! `ws-e2e-attack VERB ARGUMENT…`. `batch [[number, [VERB, ARGUMENT…]], …]` makes one after the other, each
//! in a process of its own. `announce VERB ARGUMENT…` says when it is made before it is made, on a line of its own:
//! whoever is killed for it says nothing after it.
//!
//! The verbs are in the modules; `attack.rs` of the library says what the outcomes are called.

mod calls;
mod files;
mod hogs;
mod net;
mod processes;

use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use ws_e2e::attack::{Came, now_us};
use ws_model::event::signal_name;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum End {
    /// It worked.
    Did(String),
    /// Nothing of what was looked for was found.
    Nothing,
    /// No answer came in time.
    Silent,
    /// The kernel refused.
    Refused(Errno, String),
    /// The kernel killed whoever tried.
    Killed(i32),
    /// The attempt could not be made.
    Broken(String),
}

impl End {
    /// Of an operation.
    pub(crate) fn of<T>(result: io::Result<T>, did: impl Into<String>) -> Self {
        match result {
            Ok(_) => Self::Did(did.into()),
            Err(error) => Self::because(&error, ""),
        }
    }

    /// Of an error.
    pub(crate) fn because(error: &io::Error, when: &str) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::Refused(Errno::from_raw(errno), when.to_owned()),
            None if error.kind() == io::ErrorKind::TimedOut || error.kind() == io::ErrorKind::WouldBlock => {
                Self::Silent
            }
            None => Self::Broken(format!("{when}: {error}")),
        }
    }

    /// Of a search: what was found must not be there.
    pub(crate) fn found(found: &[String]) -> Self {
        if found.is_empty() { Self::Nothing } else { Self::Did(found.join(" ")) }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((verb, rest)) if verb == "batch" => batch(rest),
        Some((verb, [inner, rest @ ..])) if verb == "announce" => {
            writeln!(io::stdout(), "{}", now_us()).and_then(|()| once(inner, rest))
        }
        Some((verb, rest)) => once(verb, rest),
        None => Err(io::Error::other("what is to be tried?")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "ws-e2e-attack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn once(verb: &str, rest: &[String]) -> io::Result<()> {
    let (at_us, start) = (now_us(), Instant::now());
    let end = attempt(verb, rest);
    print(0, end, at_us, start.elapsed())
}

fn print(number: usize, end: End, at_us: u64, took: Duration) -> io::Result<()> {
    let (outcome, detail) = match end {
        End::Did(detail) => ("did".to_owned(), detail),
        End::Nothing => ("none".to_owned(), String::new()),
        End::Silent => ("silent".to_owned(), String::new()),
        End::Refused(errno, detail) => (format!("{errno:?}"), detail),
        End::Killed(signal) => (signal_name(signal), String::new()),
        End::Broken(detail) => ("broken".to_owned(), detail),
    };
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let came = Came { attempt: number, outcome, detail, at_us, took_us };
    let mut line = serde_json::to_vec(&came)?;
    line.push(b'\n');
    io::stdout().write_all(&line)
}

fn batch(arguments: &[String]) -> io::Result<()> {
    let [text] = arguments else { return Err(io::Error::other("`batch` takes one list")) };
    let commands: Vec<(usize, Vec<String>)> = serde_json::from_str(text)?;
    for (number, words) in commands {
        let (at_us, start) = (now_us(), Instant::now());
        let mut child = Command::new(std::env::current_exe()?)
            .args(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = child.stdout.take().map(collect).ok_or(io::ErrorKind::BrokenPipe)?;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break Some(status),
                None if start.elapsed() > PATIENCE => {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                None => ws_e2e::wait::let_pass(Duration::from_micros(500)),
            }
        };
        let took = start.elapsed();
        let text = std::mem::replace(&mut out, std::thread::spawn(String::new)).join().unwrap_or_default();
        match (serde_json::from_str::<Came>(&text), status) {
            (Ok(came), _) => {
                let mut line = serde_json::to_vec(&Came { attempt: number, ..came })?;
                line.push(b'\n');
                io::stdout().write_all(&line)?;
            }
            (Err(_), None) => print(number, End::Silent, at_us, took)?,
            (Err(_), Some(status)) => {
                use std::os::unix::process::ExitStatusExt;
                let end = match status.signal() {
                    Some(signal) => End::Killed(signal),
                    None => End::Broken(format!("it said {text:?} and ended with {status}")),
                };
                print(number, end, at_us, took)?;
            }
        }
    }
    Ok(())
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = from.read_to_string(&mut text);
        text
    })
}

pub(crate) fn attempt(verb: &str, arguments: &[String]) -> End {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let modules = [net::attempt, files::attempt, processes::attempt, calls::attempt, hogs::attempt];
    for module in modules {
        match module(verb, &arguments) {
            Some(Ok(end)) => return end,
            Some(Err(error)) => return End::because(&error, "preparing the attempt"),
            None => {}
        }
    }
    End::Broken(format!("`{verb} {}` is no attempt", arguments.join(" ")))
}

/// An argument as a number.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is no number here")))
}
