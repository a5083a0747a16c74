//! Mount sources: opening what is bound into a service's view, as a detached mount.
//!
//! As root the supervisor does it; rootless the spawner, which has the rights over U1's mounts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ws_sys::mount::{self, Attributes};

use super::protocol::{Failure, SourceRequest, Stage};

/// Opens a source as a detached mount with its attributes; owners mapped by `id_map` where one is given.
///
/// # Errors
/// As [`locate`] and [`take`].
pub fn open(request: &SourceRequest, id_map: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    take(request, locate(request)?.as_fd(), id_map)
}

fn stage_of(request: &SourceRequest) -> String {
    let how = if request.writable { "read-write" } else { "read-only" };
    format!("mounting {} {how}", request.path.display())
}

/// Opens the place of a source, without reading it.
///
/// # Errors
/// When it is not there or leads out of where it must lie.
pub fn locate(request: &SourceRequest) -> Result<OwnedFd, Failure> {
    let stage = || stage_of(request);
    let place = match &request.beneath {
        None => mount::open_host(&request.path),
        Some(root) => match open_below(root, &request.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && request.create => {
                make_below(root, &request.path).stage(format!("making {}", request.path.display()))?;
                open_below(root, &request.path)
            }
            other => other,
        },
    };
    let place = match place {
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::EXDEV)) => {
            return Err(Failure::because(stage(), "a symbolic link is on the way, which is refused"));
        }
        other => other.stage(stage())?,
    };
    Ok(place)
}

/// Takes the place of a source as a detached mount.
///
/// # Errors
/// When the kernel refuses, or its file system cannot be id-mapped.
pub fn take(
    request: &SourceRequest,
    place: BorrowedFd<'_>,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Failure> {
    let stage = || stage_of(request);
    let tree = mount::clone_tree(place).stage(stage())?;
    let attributes = Attributes {
        read_only: !request.writable,
        no_suid: true,
        no_dev: !request.device,
        no_exec: false,
        id_map: None,
    };
    // A service writes to /dev/null though the mount is as it is; everything else is what it says.
    let attributes = if request.device { Attributes { read_only: false, ..attributes } } else { attributes };
    mount::set_attributes(tree.as_fd(), attributes, true).stage(stage())?;
    if let Some(id_map) = id_map {
        let mapped = Attributes { id_map: Some(id_map), ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), mapped, true).map_err(|error| {
            let name = mount::filesystem_name(place).unwrap_or_else(|_| "its file system".to_owned());
            match error.raw_os_error() {
                Some(nix::libc::EINVAL) => Failure::because(
                    stage(),
                    format!("{name} cannot map owners (an id-mapped mount is refused)"),
                ),
                _ => Failure::new(format!("{}, with its owner mapped", stage()), &error),
            }
        })?;
    }
    Ok(tree)
}

/// Opens `path`, which lies in `root`, without following a symbolic link below it.
fn open_below(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let rest = path.strip_prefix(root).map_err(|_| io::Error::from_raw_os_error(nix::libc::EXDEV))?;
    let root = mount::open_host(root)?;
    mount::open_beneath(root.as_fd(), rest)
}

/// Makes the directories that are missing on the way to `path`, which lies in `root`: each belongs to the owner of the
/// one that it is in. Follows no symbolic link below `root`.
fn make_below(root: &Path, path: &Path) -> io::Result<()> {
    let rest = path.strip_prefix(root).map_err(|_| io::Error::from_raw_os_error(nix::libc::EXDEV))?;
    let mut parent = mount::open_host(root)?;
    for name in rest.components() {
        let name: &Path = name.as_ref();
        let made = match rustix::fs::mkdirat(&parent, name, rustix::fs::Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let place = mount::open_beneath(parent.as_fd(), name)?;
        if made {
            belong(place.as_fd(), parent.as_fd())?;
        }
        parent = place;
    }
    Ok(())
}

/// Gives a directory that was just made to the owner of the one that it is in.
fn belong(made: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> io::Result<()> {
    let (ours, theirs) = (rustix::fs::fstat(made)?, rustix::fs::fstat(parent)?);
    // Whoever may write the parent could have put something else in its place.
    let is_ours = rustix::fs::FileType::from_raw_mode(ours.st_mode).is_dir()
        && ours.st_uid == rustix::process::geteuid().as_raw()
        && ours.st_nlink <= 2;
    if !is_ours || (ours.st_uid, ours.st_gid) == (theirs.st_uid, theirs.st_gid) {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(theirs.st_uid), rustix::fs::Gid::from_raw(theirs.st_gid));
    match rustix::fs::chownat(made, "", Some(uid), Some(gid), rustix::fs::AtFlags::EMPTY_PATH) {
        // Without rights it stays with whoever made it.
        Err(rustix::io::Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn request(root: &Path, path: &str, create: bool) -> SourceRequest {
        let beneath = Some(root.to_owned());
        SourceRequest { path: root.join(path), beneath, writable: true, device: false, create }
    }

    #[test]
    fn a_directory_that_is_missing_is_made_for_the_owner_of_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let owner = if rustix::process::geteuid().is_root() { 1234 } else { root.metadata().unwrap().uid() };
        chown(root, Some(owner), None).unwrap();
        let refused = locate(&request(root, "out/deep", false)).unwrap_err();
        assert!(refused.to_string().contains("out/deep"), "{refused}");
        locate(&request(root, "out/deep", true)).unwrap();
        locate(&request(root, "out/deep", true)).unwrap();
        for made in ["out", "out/deep"] {
            let meta = root.join(made).metadata().unwrap();
            assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (owner, 0o755), "{made}");
        }
    }

    #[test]
    fn nothing_is_made_over_a_symbolic_link() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(elsewhere.path(), root.path().join("out")).unwrap();
        let refused = locate(&request(root.path(), "out/deep", true)).unwrap_err();
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    }
}
