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
        Some(root) => open_below(root, &request.path),
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
