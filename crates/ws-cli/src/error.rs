//! What a command fails with: an exit code, a message, the chain of causes and what to do about it.
//!
//! Libraries return errors; they become a [`Failure`] here, once, where the exit code and the hints are
//! known. Nothing is printed here.

use std::error::Error;
use std::fmt;

use ws_client::ClientError;
use ws_model::exit;
use ws_supervisor::state_dir::StateError;

/// Why a command does not end with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code, one of [`ws_model::exit`] (or one that is passed on).
    pub code: u8,
    /// What went wrong: lower case, no full stop. Empty when everything was told already.
    pub message: String,
    /// Why, from the nearest cause to the farthest.
    pub causes: Vec<String>,
    /// What to do about it, a line each.
    pub hints: Vec<String>,
    /// Diagnostics that belong to it, drawn already. Shown before the message.
    pub diagnostics: String,
    /// The reader of our output went away: nothing more is said.
    pub broken_pipe: bool,
}

impl Failure {
    /// A failure with an exit code of [`ws_model::exit`].
    #[must_use]
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            diagnostics: String::new(),
            broken_pipe: false,
        }
    }

    /// Bad use of the command line, or a bad file.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// The stack, a service or an operation failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(exit::FAILED, message)
    }

    /// A failure about which everything was told already.
    #[must_use]
    pub fn told(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The reader of our standard output went away. That is how `ws logs | head` ends, so it is quiet
    /// and the exit code is 0.
    #[must_use]
    pub fn broken_pipe() -> Self {
        Self { broken_pipe: true, ..Self::told(exit::OK) }
    }

    /// Adds the error that caused it, with all of that error's own sources.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same with a code that is out of the way of a command whose own code is passed on (`exec`).
    #[must_use]
    pub fn passed(mut self) -> Self {
        self.code = match self.code {
            exit::OK => exit::OK,
            exit::FAILED => exit::PASSED_FAILED,
            exit::MACHINE => exit::PASSED_MACHINE,
            exit::VIOLATION => exit::PASSED_VIOLATION,
            exit::INTERRUPTED => exit::INTERRUPTED,
            _ => exit::PASSED_WS,
        };
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// What was asked of a supervisor, or nothing when it has ended or is about to.
///
/// # Errors
/// Every other error.
pub fn unless_ended<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::NotRunning { .. } | ClientError::Connect { .. } | ClientError::Lost { .. }) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning { .. } => exit::NOT_RUNNING,
            // Others (403, 409, 500): the request is good, and who we are or how the stack is forbids it.
            ClientError::Api { status: 400 | 404 | 422, .. } => exit::USAGE,
            _ => exit::FAILED,
        };
        let failure = Self::new(code, error.to_string());
        let failure = match error.source() {
            Some(source) => failure.because(source),
            None => failure,
        };
        match error.help() {
            Some(help) => failure.hint(help),
            None => failure,
        }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let failure = Self::failed(error.to_string());
        match (&error, error.source()) {
            (StateError::Untrusted { .. }, _) => {
                failure.hint("remove it, or name other places with `WS_RUNTIME_DIR` and `WS_STATE_DIR`")
            }
            (_, Some(source)) => failure.because(source),
            (_, None) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_moved_out_of_the_way_of_a_passed_one() {
        let cases = [
            (exit::FAILED, exit::PASSED_FAILED),
            (exit::USAGE, exit::PASSED_WS),
            (exit::MACHINE, exit::PASSED_MACHINE),
            (exit::VIOLATION, exit::PASSED_VIOLATION),
            (exit::NOT_RUNNING, exit::PASSED_WS),
            (exit::INTERRUPTED, exit::INTERRUPTED),
        ];
        for (ours, passed) in cases {
            assert_eq!(Failure::new(ours, "x").passed().code, passed, "{ours}");
        }
    }

    #[test]
    fn the_whole_chain_of_causes_is_kept() {
        let inner = std::io::Error::other("disk on fire");
        let failure = Failure::failed("could not read `a`").because(&inner);
        assert_eq!(failure.to_string(), "could not read `a`: disk on fire");
    }
}
