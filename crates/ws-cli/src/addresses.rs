//! The addresses that the services of an instance had: a service keeps its address when others come and
//! go, across runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ws_core::plan::Plan;
use ws_model::ServiceName;

const FILE: &str = "addresses.json";

/// The addresses that were kept in a state directory. None when they cannot be read: then they follow
/// from the names alone.
#[must_use]
pub fn read(state_dir: &Path) -> BTreeMap<ServiceName, Ipv4Addr> {
    let text = fs::read(state_dir.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps the addresses of a plan, and those of services that are not in it any more: they may come back.
///
/// # Errors
/// When the file cannot be written.
pub fn write(state_dir: &Path, plan: &Plan) -> io::Result<()> {
    let mut addresses = read(state_dir);
    let taken: BTreeSet<Ipv4Addr> = plan.addresses().map(|(_, address)| address).collect();
    addresses.retain(|_, address| !taken.contains(address));
    addresses.extend(plan.addresses().map(|(name, address)| (name.clone(), address)));
    let mut text = serde_json::to_vec_pretty(&addresses)?;
    text.push(b'\n');
    let temporary = state_dir.join(format!("{FILE}.new"));
    fs::write(&temporary, text)?;
    fs::rename(temporary, state_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let temp = tempfile::tempdir().unwrap();
        assert!(read(temp.path()).is_empty());
        fs::write(temp.path().join(FILE), "{").unwrap();
        assert!(read(temp.path()).is_empty());
        fs::write(temp.path().join(FILE), r#"{"db":"10.77.0.9"}"#).unwrap();
        assert_eq!(read(temp.path())["db"], Ipv4Addr::new(10, 77, 0, 9));
    }
}
