//! The plan for people and for tools: `ws plan`.

use super::Plan;

/// The plan as text.
#[must_use]
pub fn describe(plan: &Plan) -> String {
    format!("{}\n", plan.name)
}

/// The plan as JSON.
#[must_use]
pub fn to_json(plan: &Plan) -> serde_json::Value {
    serde_json::json!({ "name": plan.name })
}
