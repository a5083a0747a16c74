//! How many files the processes of the sandbox may have open, and the programs in it.
//!
//! The kernel counts descriptors that are on their way through unix sockets for each user, and lets nobody send
//! more of them than it may have files open (unix(7), `ETOOMANYREFS`). Where services share their user with the
//! supervisor, one that keeps many on their way would stop everything that passes descriptors: so programs get less
//! than the processes that start and serve them, which have all that the caller may have.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits of the caller, as they were when the spawner began. Set once; launchers and inits are forks of the
/// spawner and have it from there.
static CALLERS: OnceLock<Limits> = OnceLock::new();

/// What every program of a run gets. Set once, by its init.
pub(super) static PROGRAMS: OnceLock<Limits> = OnceLock::new();

/// What programs get less than the processes of the sandbox, where they share their user: more than all of them
/// send at once.
const RESERVED: u64 = 4096;

/// The soft and the hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    soft: u64,
    hard: u64,
}

/// Remembers the caller's limits and raises those of this process as far as it may.
pub(super) fn raise() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let hard = maximum.unwrap_or(u64::MAX);
    let _ = CALLERS.set(Limits { soft: current.unwrap_or(hard), hard });
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// What the programs of a run get: what the file says, else what the caller has.
pub(super) fn of_programs(declared: Option<u64>, distinct_user: bool) -> Limits {
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let callers = CALLERS.get().copied().unwrap_or(Limits { soft: own, hard: own });
    decide(declared, distinct_user, callers)
}

fn decide(declared: Option<u64>, distinct_user: bool, callers: Limits) -> Limits {
    let most = match distinct_user {
        true => callers.hard,
        false => callers.hard - RESERVED.min(callers.hard / 4),
    };
    let hard = declared.unwrap_or(callers.hard).min(most);
    Limits { soft: declared.unwrap_or(callers.soft).min(hard), hard }
}

/// Limits this process.
pub(super) fn limit(Limits { soft, hard }: Limits) -> io::Result<()> {
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_share_their_user_get_less_than_what_serves_them() {
        let callers = Limits { soft: 1024, hard: 1 << 20 };
        assert_eq!(decide(None, true, callers), callers);
        assert_eq!(decide(None, false, callers), Limits { soft: 1024, hard: (1 << 20) - 4096 });
        assert_eq!(decide(Some(64), false, callers), Limits { soft: 64, hard: 64 });
        assert_eq!(decide(Some(1 << 30), false, callers).hard, (1 << 20) - 4096);
        let little = Limits { soft: 1024, hard: 1024 };
        assert_eq!(decide(None, false, little), Limits { soft: 768, hard: 768 });
    }
}
