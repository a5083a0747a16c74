//! `exec` and `run`: a command inside a sandbox, its streams as frames on an upgraded connection.
//!
//! ```text
//! client ── frames ─▶ feed ─▶ pipe or terminal ─▶ process
//!        ◀─ frames ── pass ◀─ pipes or terminal ◀─
//! ```
//!
//! Both directions wait for each other's readers, so a command that writes faster than its client reads
//! is slowed down and nothing is lost. When the client goes away the process's streams are closed (a
//! terminal: hung up), and [`Running`] ends the command.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use ws_core::host::ExecIo;
use ws_model::wire::{ExecFrame, ExecRequest, ExecResult, FRAME_HEAD, RunRequest};

use crate::api::Answer;
use crate::supervisor::Running;

/// How long the client may take for its first frame.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The most of each stream that is passed on after the process ended: what it left in a pipe is less,
/// and what a child of it goes on writing is not waited for.
const MAX_REST: usize = 1 << 20;

/// The end-of-file character of a terminal.
const END_OF_FILE: u8 = 4;

/// What the first frame asks for.
pub(crate) trait Wanted: DeserializeOwned + Send + 'static {
    /// Program and arguments, where they are given.
    fn command(&self) -> Option<&[String]>;
    fn env(&self) -> &[(String, String)];
    fn working_dir(&self) -> Option<&str>;
    fn tty(&self) -> bool;
}

impl Wanted for ExecRequest {
    fn command(&self) -> Option<&[String]> {
        Some(&self.command)
    }

    fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn working_dir(&self) -> Option<&str> {
        self.working_dir.as_deref()
    }

    fn tty(&self) -> bool {
        self.tty
    }
}

impl Wanted for RunRequest {
    fn command(&self) -> Option<&[String]> {
        self.command.as_deref()
    }

    fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn working_dir(&self) -> Option<&str> {
        self.working_dir.as_deref()
    }

    fn tty(&self) -> bool {
        self.tty
    }
}

/// Both sides of a terminal, ours first, if one is to be had where the command will run.
pub(crate) type Terminal = Option<(OwnedFd, OwnedFd)>;

/// Serves an upgraded connection until the command has ended or the client is gone. `terminal` is waited for when the
/// command is to have one.
pub(crate) async fn serve<R: Wanted, F>(
    upgrade: OnUpgrade,
    terminal: impl Future<Output = Terminal>,
    begin: impl FnOnce(R, ExecIo) -> F,
) where
    F: Future<Output = Answer<Running>>,
{
    let Ok(upgraded) = upgrade.await else { return };
    let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    // An error is the client's going away: there is nobody to tell.
    let _ = talk(reader, &mut writer, terminal, begin).await;
    let _ = writer.shutdown().await;
}

pub(crate) async fn talk<R: Wanted, F>(
    mut reader: impl AsyncRead + Unpin + Send + 'static,
    writer: &mut (impl AsyncWrite + Unpin),
    terminal: impl Future<Output = Terminal>,
    begin: impl FnOnce(R, ExecIo) -> F,
) -> io::Result<()>
where
    F: Future<Output = Answer<Running>>,
{
    let request = match tokio::time::timeout(START_WITHIN, read_request::<R>(&mut reader)).await {
        Ok(read) => read?,
        Err(_) => Err("the command did not come in time".to_owned()),
    };
    let tty = request.as_ref().is_ok_and(Wanted::tty);
    let inside = if tty { terminal.await } else { None };
    let prepared = request.and_then(|request| {
        let streams =
            Streams::open(tty, inside).map_err(|error| format!("could not open its streams: {error}"))?;
        Ok((request, streams))
    });
    let begun = match prepared {
        Ok((request, (io, streams))) => match begin(request, io).await {
            Ok(running) => Ok((running, streams)),
            Err(refusal) => Err(refusal.error.error),
        },
        Err(error) => Err(error),
    };
    let (running, streams) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let result = ExecResult::NotStarted { error, not_found: false };
            return write_exit(writer, &result).await;
        }
    };
    let Streams { stdin, stdout, stderr } = streams;
    let (gone, client_gone) = oneshot::channel::<()>();
    let feeding = tokio::spawn(async move {
        feed(reader, stdin).await;
        drop(gone);
    });
    let result = pass(writer, stdout, stderr, running, client_gone).await;
    // It waits for a client that has nothing to say any more.
    feeding.abort();
    result
}

/// The first frame. The outer error: the client is gone; the inner one: what it asks makes no sense.
async fn read_request<R: Wanted>(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<R, String>> {
    let Some((ExecFrame::Start, data)) = read_frame(reader).await? else {
        return Ok(Err("the first frame is no request".to_owned()));
    };
    let request: R = match serde_json::from_slice(&data) {
        Ok(request) => request,
        Err(error) => return Ok(Err(format!("the request is not understood: {error}"))),
    };
    Ok(check(&request).map(|()| request))
}

fn check(request: &impl Wanted) -> Result<(), String> {
    if request.command().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
        return Err("there is no command".to_owned());
    }
    let env = request.env().iter().flat_map(|(key, value)| [key.as_str(), value]);
    let texts = request.command().unwrap_or_default().iter().map(String::as_str).chain(env);
    if texts.chain(request.working_dir()).any(|text| text.contains('\0')) {
        return Err("a NUL cannot stand in a command, its environment or its directory".to_owned());
    }
    match request.env().iter().find(|(key, _)| key.is_empty() || key.contains('=')) {
        Some((key, _)) => Err(format!("`{key}` is not the name of a variable")),
        None => Ok(()),
    }
}

/// A frame; `None` when it is not one.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(ExecFrame, Vec<u8>)>> {
    let mut head = [0; FRAME_HEAD];
    reader.read_exact(&mut head).await?;
    let Some((kind, len)) = ExecFrame::parse_head(head) else { return Ok(None) };
    // As long as it really is, not as long as it says.
    let mut data = Vec::new();
    let wanted = u64::try_from(len).unwrap_or(u64::MAX);
    if AsyncReadExt::take(&mut *reader, wanted).read_to_end(&mut data).await? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((kind, data)))
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), kind: ExecFrame, data: &[u8]) -> io::Result<()> {
    let head = kind.head(data.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(FRAME_HEAD + data.len());
    frame.extend_from_slice(&head);
    frame.extend_from_slice(data);
    writer.write_all(&frame).await?;
    writer.flush().await
}

async fn write_exit(writer: &mut (impl AsyncWrite + Unpin), result: &ExecResult) -> io::Result<()> {
    write_frame(writer, ExecFrame::Exit, &serde_json::to_vec(result)?).await
}

/// From the client to the process, until the client is gone or says something that makes no sense.
async fn feed(mut reader: impl AsyncRead + Unpin, mut stdin: Input) {
    while let Ok(Some((kind, data))) = read_frame(&mut reader).await {
        match kind {
            ExecFrame::Stdin => stdin.write(&data).await,
            ExecFrame::Resize => stdin.resize(&data),
            ExecFrame::Stdout | ExecFrame::Stderr | ExecFrame::Exit | ExecFrame::Start => return,
        }
    }
}

/// From the process to the client, until the process has ended or the client is gone.
async fn pass(
    writer: &mut (impl AsyncWrite + Unpin),
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
    mut running: Running,
    mut client_gone: oneshot::Receiver<()>,
) -> io::Result<()> {
    let mut stdout = Output::new(stdout);
    let mut stderr = stderr.map(Output::new);
    let result = loop {
        let (kind, piece) = tokio::select! {
            result = running.ended() => break result,
            _ = &mut client_gone => return Ok(()),
            piece = stdout.read(), if !stdout.ended => (ExecFrame::Stdout, piece),
            piece = read_optional(&mut stderr), if stderr.as_ref().is_some_and(|output| !output.ended) =>
                (ExecFrame::Stderr, piece),
        };
        if !piece.is_empty() {
            write_frame(writer, kind, &piece).await?;
        }
    };
    for (kind, output) in [(ExecFrame::Stdout, Some(stdout)), (ExecFrame::Stderr, stderr)] {
        let Some(mut output) = output else { continue };
        let mut passed = 0;
        while passed < MAX_REST
            && let Some(piece) = output.try_read()
        {
            passed += piece.len();
            write_frame(writer, kind, &piece).await?;
        }
    }
    write_exit(writer, &result).await
}

async fn read_optional(output: &mut Option<Output>) -> Vec<u8> {
    match output {
        Some(output) => output.read().await,
        None => std::future::pending().await,
    }
}

/// Our end of a stream that the process writes.
struct Output {
    from: pipe::Receiver,
    buffer: Vec<u8>,
    ended: bool,
}

impl Output {
    fn new(from: pipe::Receiver) -> Self {
        Self { from, buffer: vec![0; 32 << 10], ended: false }
    }

    /// The next piece; empty at the end. A terminal ends with an error (EIO).
    async fn read(&mut self) -> Vec<u8> {
        let len = self.from.read(&mut self.buffer).await.unwrap_or(0);
        self.ended = len == 0;
        self.buffer[..len].to_vec()
    }

    /// What is there without waiting. Asks the kernel: what tokio knows may be of a moment ago.
    fn try_read(&mut self) -> Option<Vec<u8>> {
        let len = rustix::io::read(&self.from, &mut self.buffer).unwrap_or(0);
        (len > 0).then(|| self.buffer[..len].to_vec())
    }
}

/// Our end of the stream that the process reads.
enum Input {
    Pipe(Option<pipe::Sender>),
    Terminal(pipe::Sender),
}

impl Input {
    /// Writes, or closes when there is nothing to write. A process that does not read any more is its
    /// own business.
    async fn write(&mut self, data: &[u8]) {
        match self {
            Self::Pipe(pipe) => {
                if data.is_empty() {
                    *pipe = None;
                } else if let Some(open) = pipe
                    && open.write_all(data).await.is_err()
                {
                    *pipe = None;
                }
            }
            Self::Terminal(terminal) => {
                let data = if data.is_empty() { &[END_OF_FILE] } else { data };
                let _ = terminal.write_all(data).await;
            }
        }
    }

    fn resize(&mut self, data: &[u8]) {
        if let (Self::Terminal(terminal), [a, b, c, d]) = (self, data) {
            let size = Winsize {
                ws_col: u16::from_be_bytes([*a, *b]),
                ws_row: u16::from_be_bytes([*c, *d]),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // A terminal without a process has no size.
            let _ = rustix::termios::tcsetwinsize(&*terminal, size);
        }
    }
}

/// Our ends of a process's streams.
struct Streams {
    stdin: Input,
    stdout: pipe::Receiver,
    /// None: with a terminal it goes the way of the standard output.
    stderr: Option<pipe::Receiver>,
}

impl Streams {
    /// Opens the streams of a process: its ends and ours.
    fn open(tty: bool, inside: Terminal) -> io::Result<(ExecIo, Self)> {
        match (tty, inside) {
            (true, Some((ours, theirs))) => Self::terminal(ours, theirs),
            (true, None) => Self::own_terminal(),
            (false, _) => Self::pipes(),
        }
    }

    fn pipes() -> io::Result<(ExecIo, Self)> {
        let (stdin, to_stdin) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (from_stdout, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (from_stderr, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let ours = Self {
            stdin: Input::Pipe(Some(pipe::Sender::from_owned_fd(to_stdin)?)),
            stdout: pipe::Receiver::from_owned_fd(from_stdout)?,
            stderr: Some(pipe::Receiver::from_owned_fd(from_stderr)?),
        };
        Ok((ExecIo { stdin, stdout, stderr }, ours))
    }

    /// A terminal of ours: it works as any, but has no name inside.
    fn own_terminal() -> io::Result<(ExecIo, Self)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        Self::terminal(ours, theirs)
    }

    fn terminal(ours: OwnedFd, theirs: OwnedFd) -> io::Result<(ExecIo, Self)> {
        // Tokio's types for pipes ask nothing of a descriptor but that it does not block.
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        let streams = Self {
            stdin: Input::Terminal(pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?),
            stdout: pipe::Receiver::from_owned_fd_unchecked(ours)?,
            stderr: None,
        };
        let io = ExecIo { stdin: theirs.try_clone()?, stdout: theirs.try_clone()?, stderr: theirs };
        Ok((io, streams))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ExecRequest {
        ExecRequest { command: vec!["ls".to_owned()], env: Vec::new(), working_dir: None, tty: false }
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        assert_eq!(check(&request()), Ok(()));
        let bad = [
            ExecRequest { command: Vec::new(), ..request() },
            ExecRequest { command: vec![String::new()], ..request() },
            ExecRequest { command: vec!["a\0b".to_owned()], ..request() },
            ExecRequest { env: vec![("A=B".to_owned(), String::new())], ..request() },
            ExecRequest { env: vec![("A".to_owned(), "\0".to_owned())], ..request() },
            ExecRequest { working_dir: Some("\0".to_owned()), ..request() },
        ];
        for request in bad {
            assert!(check(&request).is_err(), "{request:?}");
        }
    }

    /// Runs the request without a client's crate, on an in-memory connection.
    async fn run_with(
        first: &[u8],
        begin: impl FnOnce(ExecRequest, ExecIo) -> Running + Send + 'static,
    ) -> Frames {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        client.write_all(first).await.unwrap();
        let (reader, mut writer) = tokio::io::split(server);
        let serving = tokio::spawn(async move {
            let terminal = std::future::ready(None);
            talk(reader, &mut writer, terminal, async move |request, io| Ok(begin(request, io))).await
        });
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = read_frame(&mut client).await {
            let last = frame.0 == ExecFrame::Exit;
            frames.push(frame);
            if last {
                break;
            }
        }
        serving.await.unwrap().unwrap();
        frames
    }

    type Frames = Vec<(ExecFrame, Vec<u8>)>;

    #[tokio::test]
    async fn the_terminal_of_the_sandbox_is_taken_where_there_is_one() {
        let rdev = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_rdev;
        let (theirs, _ours) = Streams::open(true, None).unwrap();
        assert!(rustix::termios::isatty(&theirs.stdin));
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let inside = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&inside).unwrap();
        let other_side = rustix::pty::ioctl_tiocgptpeer(&inside, flags).unwrap();
        let wanted = rdev(&other_side);
        assert_ne!(rdev(&theirs.stdin), wanted);
        let (theirs, _ours) = Streams::open(true, Some((inside, other_side))).unwrap();
        assert_eq!([&theirs.stdin, &theirs.stdout, &theirs.stderr].map(rdev), [wanted; 3]);
    }

    #[tokio::test]
    async fn garbage_is_answered_and_runs_nothing() {
        let mut wrong_kind = ExecFrame::Stdin.head(1).unwrap().to_vec();
        wrong_kind.push(b'x');
        let mut no_json = ExecFrame::Start.head(1).unwrap().to_vec();
        no_json.push(b'{');
        for first in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), wrong_kind, no_json] {
            let frames = run_with(&first, |_, _| panic!("it was run")).await;
            assert_eq!(frames.len(), 1);
            assert!(String::from_utf8_lossy(&frames[0].1).contains("not_started"), "{frames:?}");
        }
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_arrives() {
        let json = serde_json::to_vec(&request()).unwrap();
        let mut first = ExecFrame::Start.head(json.len()).unwrap().to_vec();
        first.extend_from_slice(&json);
        let begin = |request: ExecRequest, io: ExecIo| {
            assert_eq!(request.command, ["ls"]);
            // Still open in a child that goes on: its end is not waited for.
            let kept = io.stdout.try_clone().unwrap();
            rustix::io::write(&io.stdout, &[b'x'; 50_000]).unwrap();
            rustix::io::write(&io.stderr, b"oops").unwrap();
            let (tell, done) = oneshot::channel();
            tell.send(ExecResult::Ended(ws_model::ExitReason::Code(3))).unwrap();
            std::mem::forget(kept);
            Running::of(done)
        };
        let frames = run_with(&first, begin).await;
        let bytes =
            |kind| frames.iter().filter(|(k, _)| *k == kind).map(|(_, data)| data.len()).sum::<usize>();
        assert_eq!(bytes(ExecFrame::Stdout), 50_000);
        assert_eq!(bytes(ExecFrame::Stderr), 4);
        assert_eq!(frames.last().unwrap().1, br#"{"ended":{"code":3}}"#);
    }
}
