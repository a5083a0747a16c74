//! `exec` and `run`: the framed streams of a command that runs inside a service's sandbox.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use ws_model::wire::{ExecFrame, ExecResult, FRAME_HEAD, MAX_FRAME};

use crate::ClientError;

const DOING: &str = "running a command in a service";

/// A command that runs inside a service's sandbox.
///
/// The halves are independent, so that one task can feed and another one read. When both are dropped,
/// the command is killed, and its process group with it.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command.
    pub stdin: ExecInput,
    /// From the command.
    pub streams: ExecStreams,
}

/// The command's standard input and the size of its terminal.
pub struct ExecInput {
    io: WriteHalf<TokioIo<Upgraded>>,
}

/// The command's output and its end.
pub struct ExecStreams {
    io: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
    ended: bool,
}

/// A piece of what a command gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// A piece of its standard output; all output, when it has a terminal.
    Stdout(Bytes),
    /// A piece of its standard error.
    Stderr(Bytes),
    /// It ended, or could not be started; nothing comes after.
    Exit(ExecResult),
}

impl fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecInput").finish_non_exhaustive()
    }
}

impl fmt::Debug for ExecStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecStreams").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl ExecSession {
    /// Begins with a request as JSON.
    pub(crate) async fn start(upgraded: Upgraded, request: &[u8]) -> Result<Self, ClientError> {
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let mut stdin = ExecInput { io: write };
        stdin.frame(ExecFrame::Start, request).await?;
        Ok(Self {
            stdin,
            streams: ExecStreams { io: read, buffer: BytesMut::with_capacity(16 << 10), ended: false },
        })
    }
}

impl ExecInput {
    /// Writes to the command's standard input; waits while the command does not read.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the command or the supervisor ended.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), ClientError> {
        // An empty frame would close the input.
        for piece in data.chunks(MAX_FRAME) {
            self.frame(ExecFrame::Stdin, piece).await?;
        }
        Ok(())
    }

    /// Closes the command's standard input (with a terminal: types its end-of-file character).
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the command or the supervisor ended.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        self.frame(ExecFrame::Stdin, &[]).await
    }

    /// Sets the size of the command's terminal; without one, nothing happens.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the command or the supervisor ended.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<(), ClientError> {
        let ([a, b], [c, d]) = (columns.to_be_bytes(), rows.to_be_bytes());
        self.frame(ExecFrame::Resize, &[a, b, c, d]).await
    }

    async fn frame(&mut self, kind: ExecFrame, data: &[u8]) -> Result<(), ClientError> {
        let head =
            kind.head(data.len()).ok_or_else(|| ClientError::protocol(DOING, "the request is too long"))?;
        let mut frame = Vec::with_capacity(FRAME_HEAD + data.len());
        frame.extend_from_slice(&head);
        frame.extend_from_slice(data);
        self.io.write_all(&frame).await.map_err(|e| ClientError::lost(DOING, e))?;
        self.io.flush().await.map_err(|e| ClientError::lost(DOING, e))
    }
}

impl ExecStreams {
    /// The next piece; `None` after [`ExecOutput::Exit`]. May be cancelled and called again without a
    /// loss.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the supervisor ended before the command.
    pub async fn next(&mut self) -> Result<Option<ExecOutput>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, data) = loop {
            if let Some(frame) = self.take_frame()? {
                break frame;
            }
            let read = self.io.read_buf(&mut self.buffer).await.map_err(|e| ClientError::lost(DOING, e))?;
            if read == 0 {
                return Err(ClientError::lost(DOING, "the connection ended before the command"));
            }
        };
        match kind {
            ExecFrame::Stdout => Ok(Some(ExecOutput::Stdout(data))),
            ExecFrame::Stderr => Ok(Some(ExecOutput::Stderr(data))),
            ExecFrame::Exit => {
                self.ended = true;
                let result = serde_json::from_slice(&data).map_err(|e| ClientError::protocol(DOING, e))?;
                Ok(Some(ExecOutput::Exit(result)))
            }
            ExecFrame::Stdin | ExecFrame::Resize | ExecFrame::Start => {
                Err(ClientError::protocol(DOING, "a frame that only clients send"))
            }
        }
    }

    /// The first whole frame of what was read.
    fn take_frame(&mut self) -> Result<Option<(ExecFrame, Bytes)>, ClientError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let (kind, len) =
            ExecFrame::parse_head(*head).ok_or_else(|| ClientError::protocol(DOING, "not a frame"))?;
        if self.buffer.len() < FRAME_HEAD + len {
            self.buffer.reserve(FRAME_HEAD + len - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(FRAME_HEAD + len);
        frame.advance(FRAME_HEAD);
        Ok(Some((kind, frame.freeze())))
    }
}
