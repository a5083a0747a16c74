//! Streams of JSON values, one a line.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;
use ws_model::Event;
use ws_model::wire::{LogLine, StatsSample};

use crate::ClientError;
use crate::http::{Answer, Driver};

/// The longest line that is taken, in bytes: far above the longest that a supervisor sends.
const MAX_LINE: usize = 16 << 20;

/// Events, from [`Client::events`](crate::Client::events).
pub type EventStream = JsonLines<Event>;

/// Lines of output, from [`Client::logs`](crate::Client::logs).
pub type LogLines = JsonLines<LogLine>;

/// What services use, from [`Client::stats`](crate::Client::stats).
pub type StatsLines = JsonLines<StatsSample>;

/// A stream of values; ends when the supervisor has no more, or ends.
///
/// A line that is not understood (a supervisor of a later version) is one `Err` of
/// [`ClientError::Protocol`], and the stream goes on behind it. After [`ClientError::Lost`] it is at its
/// end. Dropping it closes its connection.
pub struct JsonLines<T> {
    body: Incoming,
    _driver: Driver,
    doing: &'static str,
    partial: BytesMut,
    ready: VecDeque<Result<T, ClientError>>,
    ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("doing", &self.doing)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

// The values are handed out whole and never pinned.
impl<T> Unpin for JsonLines<T> {}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(answer: Answer, doing: &'static str) -> Self {
        Self {
            body: answer.response.into_body(),
            _driver: answer.driver,
            doing,
            partial: BytesMut::new(),
            ready: VecDeque::new(),
            ended: false,
            value: PhantomData,
        }
    }

    /// The next value; `None` at the end. May be cancelled and called again without a loss.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        StreamExt::next(self).await
    }

    fn take(&mut self, data: &[u8]) {
        let mut rest = data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                self.decode(line);
            } else {
                self.partial.extend_from_slice(line);
                let whole = self.partial.split();
                self.decode(&whole);
            }
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > MAX_LINE {
            self.ended = true;
            self.ready.push_back(Err(ClientError::protocol(self.doing, "a line does not end")));
        }
    }

    fn decode(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let doing = self.doing;
        self.ready.push_back(serde_json::from_slice(line).map_err(|e| ClientError::protocol(doing, e)));
    }

    fn end(&mut self) {
        self.ended = true;
        if !self.partial.is_empty() {
            let cut = "the last line was cut off";
            self.ready.push_back(Err(ClientError::lost(self.doing, cut)));
        }
    }
}

impl<T: DeserializeOwned> Stream for JsonLines<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(value) = this.ready.pop_front() {
                return Poll::Ready(Some(value));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        while data.has_remaining() {
                            let chunk = data.chunk();
                            let len = chunk.len();
                            this.take(chunk);
                            data.advance(len);
                        }
                    }
                }
                Some(Err(error)) => {
                    this.ended = true;
                    this.ready.push_back(Err(ClientError::lost(this.doing, error)));
                }
                None => this.end(),
            }
        }
    }
}
