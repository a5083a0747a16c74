//! The wall clock: for what people are told, never for what is decided.

use std::time::{SystemTime, UNIX_EPOCH};

use ws_model::Timestamp;

/// Now.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 or after the year 292,000,000 is as good as none.
    Timestamp { unix_ms: since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0) }
}
