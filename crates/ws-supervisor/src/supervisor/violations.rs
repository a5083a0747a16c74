//! What is done in the loop about violations beyond telling them: they stand in the log of their service too, are
//! counted, and can end the stack.

use ws_model::{PolicyAction, ServiceName, Violation, ViolationRow};

use super::Loop;
use crate::clock;

impl Loop {
    /// One was told as the event of this number.
    pub(super) fn take_violation(&mut self, seq: u64, service: &ServiceName, violation: &Violation) {
        self.violations.add_violation(seq, clock::now(), service, violation);
        // The program itself only says that it could not connect.
        self.logs.note(service, &format!("violation ({}): {violation}", violation.class));
        if violation.action == PolicyAction::Stop {
            let cause =
                format!("{service} {}, and its policy stops the workspace for it", violation.evidence);
            self.down.get_or_insert(cause);
        }
    }

    /// The rows of these services; of all, when none is named.
    pub(super) fn violation_rows(&self, services: &[ServiceName]) -> Vec<ViolationRow> {
        let mut rows = self.violations.rows();
        rows.retain(|row| services.is_empty() || services.contains(&row.service));
        rows
    }
}
