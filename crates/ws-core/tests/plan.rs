//! What a plan decides.

use crate::support::{svc, world};

#[test]
fn a_simple_workspace_is_planned() {
    let plan = world([svc("api").links("db:5432"), svc("db").tcp(5432)]).plan();
    assert_eq!(plan.waves.len(), 2);
    let api = &plan.services["api"];
    assert_eq!(api.links[0].address, plan.services["db"].address);
}
