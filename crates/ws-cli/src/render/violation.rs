//! Violations, as lines.

use ws_model::{PolicyAction, Violation};

use crate::ui::{BAD, CARE, paint};

/// What stands after the name of the service: what it did, how often, and what is done about it.
#[must_use]
pub fn line(violation: &Violation) -> String {
    let style = match violation.action {
        PolicyAction::Off | PolicyAction::Report => CARE,
        PolicyAction::Restart | PolicyAction::Kill | PolicyAction::Stop => BAD,
    };
    format!("{} {}", paint(style, "violation:"), violation)
}
