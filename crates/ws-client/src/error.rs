//! What can go wrong between a client and a supervisor.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use ws_model::wire::ApiError;

/// Why a request did not get its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No supervisor listens: the socket is absent, or was left by one that crashed.
    #[error("no supervisor is running at `{}`", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// `ENOENT` or `ECONNREFUSED`.
        source: io::Error,
    },
    /// The socket is there and cannot be used.
    #[error("could not connect to the supervisor at `{}`", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor understood the request and refused it.
    #[error("{}", error.error)]
    Api {
        /// The status of HTTP: 400 and the like when the request is at fault, 409 when the stack's
        /// state is, 500 and the like when the supervisor is.
        status: u16,
        /// What it says.
        error: ApiError,
    },
    /// The connection broke: the supervisor ended, or closed it.
    #[error("lost the supervisor while {doing}")]
    Lost {
        /// What was under way.
        doing: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The answer is not what this version of the protocol says.
    #[error("could not understand the supervisor's answer while {doing}")]
    Protocol {
        /// What was under way.
        doing: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ClientError {
    /// Whether no supervisor runs.
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }

    /// What the supervisor advises, where it refused the request and has an advice.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Api { error, .. } => error.help.as_deref(),
            Self::NotRunning { .. } | Self::Connect { .. } | Self::Lost { .. } | Self::Protocol { .. } => {
                None
            }
        }
    }

    pub(crate) fn lost(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Lost { doing, source: source.into() }
    }

    pub(crate) fn protocol(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Protocol { doing, source: source.into() }
    }
}
