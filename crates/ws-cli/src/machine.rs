//! The machine under the workspace: the only file of this crate that knows which host the supervisor
//! drives.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_core::host::{Inbox, LogSink};
use ws_core::plan::{Facts, Plan};
use ws_linux::{HostConfig, LinuxHost, StartError};
use ws_model::{InstanceId, Workspace, exit};

use crate::error::Failure;

/// Where the locks of id ranges lie. One place for the whole machine, whatever `WS_RUNTIME_DIR` says:
/// two instances must never have the same ids.
const SLOTS: &str = "/run/ws/.slots";

/// What the planner must know of this machine.
#[must_use]
pub fn facts(workspace: &Workspace) -> Facts {
    ws_linux::observe::facts(workspace)
}

/// What of the programs that a plan requires is not here or not of the version that it asks for: a sentence each, with
/// what to do. Runs the programs, so it takes a moment.
#[must_use]
pub fn unmet_requirements(plan: &Plan) -> Vec<String> {
    ws_linux::requires::check(&plan.requires)
}

/// Whether whoever connected to the control socket may talk to this supervisor.
///
/// # Errors
/// Why not.
pub fn check_peer(socket: BorrowedFd<'_>) -> Result<(), String> {
    ws_linux::peer::check(socket).map_err(|refused| refused.to_string())
}

/// What must be made while a process has one thread.
#[derive(Debug)]
pub struct Seed {
    spawner: ws_linux::sandbox::spawner::Spawner,
}

/// Makes it.
///
/// # Errors
/// When this machine does not let us make user and network namespaces.
pub fn seed() -> Result<Seed, Failure> {
    match ws_linux::fork_spawner(Path::new(SLOTS)) {
        Ok(spawner) => Ok(Seed { spawner }),
        Err(error) => {
            let failure =
                Failure::new(exit::MACHINE, "this machine does not let `ws` make namespaces").because(&error);
            Err(namespace_hints().into_iter().fold(failure, Failure::hint))
        }
    }
}

/// What keeps an ordinary user from making user namespaces, as far as the kernel's switches tell.
fn namespace_hints() -> Vec<String> {
    const SWITCHES: [(&str, &str, &str); 3] = [
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"),
    ];
    let is_set = |(file, bad, _): &&(&str, &str, &str)| {
        fs::read_to_string(file).is_ok_and(|value| value.trim() == *bad)
    };
    SWITCHES
        .iter()
        .filter(is_set)
        .map(|(_, _, fix)| format!("`{fix}` allows it until the next boot"))
        .collect()
}

impl Seed {
    /// Sets the host of a plan up; starts no service.
    ///
    /// # Errors
    /// When something of it cannot be made; nothing is left then.
    pub async fn host(
        self,
        plan: Plan,
        config: HostConfig,
        inbox: Inbox,
        logs: Arc<dyn LogSink>,
    ) -> Result<LinuxHost, Failure> {
        LinuxHost::start(self.spawner, plan, config, inbox, logs).await.map_err(|error| {
            let code = match &error {
                // The stack asks for something that somebody else has, or the disk refuses.
                StartError::Publish { .. } | StartError::Volume { .. } => exit::FAILED,
                StartError::SecretText(_) => exit::USAGE,
                _ => exit::MACHINE,
            };
            let failure = Failure::new(code, error.to_string());
            let failure = match std::error::Error::source(&error) {
                Some(source) => failure.because(source),
                None => failure,
            };
            match &error {
                StartError::Cgroups(_) => failure
                    .hint("does it run with another `WS_RUNTIME_DIR`? the same instance can run once only"),
                _ => failure,
            }
        })
    }
}

/// Removes what a crashed supervisor of an instance left on this machine; says what it did, a phrase
/// each. The caller holds the instance's lock.
#[must_use]
pub fn clear_leftovers(instance: &InstanceId) -> Vec<String> {
    ws_linux::clear_leftovers(instance)
}

/// Where the volumes of an instance lie.
fn volumes(state_dir: &Path) -> PathBuf {
    state_dir.join("volumes")
}

/// Removes the volumes of an instance that does not run; says which. What is known of tasks goes too: what they made
/// was in there.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_volumes(state_dir: &Path) -> Result<Vec<String>, Failure> {
    let dir = volumes(state_dir);
    let failure = |path: &Path, error: &io::Error| {
        Failure::failed(format!("could not remove the volume directory `{}`", path.display())).because(error)
    };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failure(&dir, &error)),
    };
    // First: a task that runs for nothing does less harm than one that is left out.
    ws_watch::forget(state_dir).map_err(|error| {
        Failure::failed(format!("could not forget what tasks made in `{}`", state_dir.display()))
            .because(&error)
    })?;
    let mut removed = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failure(&dir, &error))?.path();
        // Does not follow links, so what a service has put there leads nowhere.
        fs::remove_dir_all(&path).map_err(|error| failure(&path, &error))?;
        removed.extend(path.file_name().map(|name| format!("`{}`", name.to_string_lossy())));
    }
    fs::remove_dir(&dir).map_err(|error| failure(&dir, &error))?;
    removed.sort_unstable();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_removed_and_named() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(remove_volumes(temp.path()).unwrap(), Vec::<String>::new());
        let outside = temp.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        // Of a stack without volumes nothing is forgotten.
        let records = temp.path().join("builds.json");
        fs::write(&records, "{}").unwrap();
        remove_volumes(temp.path()).unwrap();
        assert!(records.exists());
        for name in ["pg", "cache"] {
            fs::create_dir_all(volumes(temp.path()).join(name).join("deep")).unwrap();
        }
        std::os::unix::fs::symlink(temp.path(), volumes(temp.path()).join("pg/link")).unwrap();
        assert_eq!(remove_volumes(temp.path()).unwrap(), ["`cache`", "`pg`"]);
        assert!(!volumes(temp.path()).exists() && outside.exists() && !records.exists());
    }
}
