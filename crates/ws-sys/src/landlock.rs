//! Landlock (landlock(7)) as the second lock on the same view: read anywhere, write where it is said, no
//! signals to and no abstract sockets of the outside.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// What was enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enforced {
    /// Nothing: the kernel has no Landlock, or it is off.
    Nothing,
    /// What this kernel knows, which is not all that was asked for.
    Partly,
    /// All: files, device ioctls, signals and abstract sockets.
    Fully,
}

/// The Landlock ABI of the running kernel; 0: none.
#[must_use]
pub fn abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag and a null pointer of size 0 the call only tells a version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Restricts this process and its children for good: all below `/` can be read and executed, what is in
/// `writable` can be written too. Must come after the last mount: a restricted process cannot mount.
///
/// # Errors
/// When a path of `writable` is not there or the kernel refuses.
pub fn restrict(writable: &[PathBuf]) -> io::Result<Enforced> {
    let abi = ABI::V7;
    let failed = |error: &dyn std::error::Error| io::Error::other(error.to_string());
    let read = AccessFs::from_read(abi);
    let all = AccessFs::from_all(abi);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(|error| failed(&error))?;
    let add = |rules: landlock::RulesetCreated, path: &Path, access: BitFlags<AccessFs>| {
        let place = PathFd::new(path).map_err(|error| failed(&error))?;
        rules.add_rule(PathBeneath::new(place, access)).map_err(|error| failed(&error))
    };
    rules = add(rules, Path::new("/"), read)?;
    for path in writable {
        // Rights that only directories have are no good on a file's rule.
        let access = if path.is_dir() { all } else { all & AccessFs::from_file(abi) };
        rules = add(rules, path, access)?;
    }
    let status = rules.restrict_self().map_err(|error| failed(&error))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Nothing,
    })
}
