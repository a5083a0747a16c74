//! An error as the shop tells it: a status and `{"error": "…"}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// What a handler gives back: a JSON value, or a problem.
pub type Answer<T> = Result<Json<T>, Problem>;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub error: String,
}

/// [`Problem`] on the wire.
#[derive(Serialize, Deserialize)]
struct Body {
    error: String,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    /// 404: there is no such thing.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// 409: it cannot be done as things stand.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// 422: the request makes no sense.
    pub fn invalid(error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// 500: our own fault; the caller learns no detail, the log does.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        crate::log(&format!("internal error: {error}"));
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// The problem that another service answered with.
    pub(crate) fn received(status: StatusCode, body: &[u8]) -> Self {
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => Self::new(status, body.error),
            Err(_) => Self::new(status, String::from_utf8_lossy(body).trim()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(Body { error: self.error })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_way_from_service_to_service() {
        let body = serde_json::to_vec(&Body { error: "sold out".into() }).unwrap();
        assert_eq!(Problem::received(StatusCode::CONFLICT, &body), Problem::conflict("sold out"));
    }

    #[test]
    fn an_answer_that_is_not_ours_is_kept_as_text() {
        let problem = Problem::received(StatusCode::BAD_REQUEST, b"bad header\n");
        assert_eq!(problem, Problem::new(StatusCode::BAD_REQUEST, "bad header"));
    }
}
