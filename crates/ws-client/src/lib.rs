//! Client of the control socket of a `ws` supervisor.
//!
//! Owns the client's half of the protocol in [`ws_model::wire`]: HTTP/1.1 and JSON over a unix socket,
//! NDJSON streams of events, log lines and samples, and framed streams for `exec` and `run`. Each request has a connection
//! of its own, so that a client may be shared, cloned and dropped at will, and a stream that is not
//! read holds up nothing else.
//!
//! Never starts a supervisor, never touches the runtime or state directories beyond the socket, and
//! prints nothing. Must be used inside a tokio runtime with IO enabled.
//!
//! Read [`Client`] first.
//!
//! ```no_run
//! # async fn example() -> Result<(), ws_client::ClientError> {
//! use ws_client::{Client, WaitFor};
//!
//! let client = Client::connect("/run/ws/shop-1a2b3c4d/control.sock".as_ref()).await?;
//! client.up(&[]).await?;
//! client.wait_until(&[], WaitFor::Ready).await?;
//! for row in client.services().await? {
//!     println!("{} is {}", row.service, row.phase);
//! }
//! # Ok(())
//! # }
//! ```

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod client;
mod error;
mod exec;
mod http;
mod stream;
mod wait;

pub use client::{Client, Hold};
pub use error::ClientError;
pub use exec::{ExecInput, ExecOutput, ExecSession, ExecStreams};
pub use stream::{EventStream, JsonLines, LogLines, StatsLines};
pub use wait::{WaitFor, WaitOutcome, WaitState, Waited};
pub use ws_model::wire::{EventQuery, LogQuery, StatsQuery, WatchQuery};
