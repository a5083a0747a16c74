//! Stacks that really run, isolated: what links let through, what services can do to others, and what is
//! left. As root and as an ordinary user.
//!
//! Needs user and network namespaces and nf_tables; limits need control groups. What is missing is said.

mod attacks;
mod benign;
mod chaos;
mod examples;
mod files;
mod learn;
mod lifecycle;
mod limits;
mod links;
mod policy;
mod reload;
mod supervision;
mod surfaces;
mod verdicts;

use ws_e2e::{Mode, needs};

/// The machine, once, where the output is seen; and that what CI requires means something.
#[test]
fn what_is_required_is_known() {
    let capabilities = needs::capabilities(Mode::User);
    assert!(capabilities.0.len() > 10, "{capabilities}");
    for word in needs::required() {
        assert!(needs::is_known(&word), "WS_REQUIRE names `{word}`, which no test knows");
    }
}
