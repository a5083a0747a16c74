//! Calls that the filter asked init about: from init's words to what is told.

use std::os::fd::{AsFd, OwnedFd};

use ws_core::engine::Generation;
use ws_core::plan::PolicyPlan;
use ws_model::{Evidence, Mechanism, NetworkAct, Offender, ViolationClass};
use ws_sys::process;

use super::{Reporter, Seen};
use crate::sandbox::protocol::{Trip, Tripped};

/// Tells what init said, if it is looked for. `caller` is the pidfd that came along.
pub(crate) fn tell(
    reporter: &Reporter,
    policy: &PolicyPlan,
    generation: Generation,
    trip: Trip,
    caller: Option<OwnedFd>,
) {
    let Trip { what, caller: told, count, lost } = trip;
    let evidence = evidence(what);
    if !policy.detects(evidence.class()) {
        return;
    }
    let mechanism = match evidence.class() {
        ViolationClass::Processes => Mechanism::Exec,
        ViolationClass::Network
        | ViolationClass::Memory
        | ViolationClass::Pids
        | ViolationClass::Cpu
        | ViolationClass::Syscalls
        | ViolationClass::Decoys
        | ViolationClass::Filesystem
        | ViolationClass::Logs => Mechanism::Seccomp,
    };
    let pid = caller.and_then(|caller| process::pid_of(caller.as_fd()).ok().flatten());
    let offender = Offender { pid, executable: told.executable, parents: told.parents };
    let process = (offender != Offender::default()).then_some(offender);
    reporter.tell(Seen { process, count, lost, ..Seen::new(Some(generation), evidence, mechanism) });
}

fn evidence(what: Tripped) -> Evidence {
    match what {
        Tripped::Call { name, detail } => match detail.as_deref() {
            Some(kind @ ("SOCK_RAW" | "SOCK_PACKET" | "AF_PACKET")) => Evidence::Network {
                act: NetworkAct::RawSocket,
                protocol: kind.to_owned(),
                destination: None,
                port: None,
                name: None,
                lookup: None,
            },
            _ => Evidence::Syscall { name, detail, answer: "EPERM".to_owned() },
        },
        Tripped::Program { executable, refused: _ } => Evidence::Process { executable },
    }
}
