//! Which running copy of a workspace is meant.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::WorkspaceName;

/// The identity of one running copy of a workspace: its name, a short digest of the canonical path of
/// the project root, and what `--instance` added.
///
/// Two worktrees of one repository are two instances without any configuration; so they never share a
/// database by accident. It is a path component of the runtime and state directories and a part of
/// cgroup names, so it has no character that is special there.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct InstanceId(String);

impl InstanceId {
    /// The instance of the workspace `name` whose root is `root` (a canonical path).
    #[must_use]
    pub fn new(name: &WorkspaceName, root: &Path, suffix: Option<&WorkspaceName>) -> Self {
        let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self(match suffix {
            None => format!("{name}-{hash}"),
            Some(suffix) => format!("{name}-{hash}-{suffix}"),
        })
    }

    /// An instance that was found on disk by its directory's name; `None` when it cannot be one.
    #[must_use]
    pub fn from_dir_name(text: &str) -> Option<Self> {
        let good = !text.is_empty()
            && text.len() <= 200
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        good.then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ_by_path_and_suffix() {
        let name = WorkspaceName::new("shop").unwrap();
        let suffix = WorkspaceName::new("ci").unwrap();
        let a = InstanceId::new(&name, Path::new("/a"), None);
        assert_ne!(a, InstanceId::new(&name, Path::new("/b"), None));
        assert_ne!(a, InstanceId::new(&name, Path::new("/a"), Some(&suffix)));
        assert_eq!(a, InstanceId::new(&name, Path::new("/a"), None));
        assert!(a.as_str().starts_with("shop-"));
        assert_eq!(InstanceId::from_dir_name("../x"), None);
    }
}
