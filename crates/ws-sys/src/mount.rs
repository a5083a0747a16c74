//! Mounts by descriptor: the file-descriptor mount API (open_tree(2), fsopen(2), mount_setattr(2)).
//!
//! Paths are only used below a descriptor or inside a mount namespace that holds nothing of the host's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::idmap::{self, Range};
use crate::process::{self, CloneOptions, Forked, Namespaces};
use crate::scm::{Channel, Message};

/// What is set on a mount, and on all below it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// Nothing can be written.
    pub read_only: bool,
    /// Setuid and file capabilities are ignored.
    pub no_suid: bool,
    /// Device files cannot be opened.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// User namespace by which owners are mapped (`MOUNT_ATTR_IDMAP`).
    pub id_map: Option<BorrowedFd<'a>>,
}

/// `struct mount_attr` of linux/mount.h (version 0, 32 bytes).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of the mount at `tree`; of all mounts below too when `recursive`.
///
/// # Errors
/// `EINVAL` when the file system cannot be id-mapped; `EPERM` without rights.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: Attributes<'_>, recursive: bool) -> io::Result<()> {
    const RDONLY: u64 = 0x1;
    const NOSUID: u64 = 0x2;
    const NODEV: u64 = 0x4;
    const NOEXEC: u64 = 0x8;
    const IDMAP: u64 = 0x10_0000;
    let bits = [
        (attributes.read_only, RDONLY),
        (attributes.no_suid, NOSUID),
        (attributes.no_dev, NODEV),
        (attributes.no_exec, NOEXEC),
        (attributes.id_map.is_some(), IDMAP),
    ];
    let attr = MountAttr {
        set: bits.iter().filter(|(wanted, _)| *wanted).map(|(_, bit)| bit).sum(),
        clear: 0,
        propagation: 0,
        userns_fd: attributes.id_map.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    mount_setattr(tree, &attr, recursive)
}

/// Makes the mount at `tree`, and all below it, private.
fn make_private(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    mount_setattr(tree, &attr, true)
}

fn mount_setattr(tree: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    const AT_EMPTY_PATH: libc::c_int = 0x1000;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` has the kernel's layout and the size that is given, and
    // both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes every mount of this namespace private: nothing that is mounted here is seen elsewhere.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn make_all_private() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Makes every mount of this namespace a slave: what the host unmounts goes here too, nothing goes back.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn make_all_slave() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// A detached copy of the mount at an open place, with all mounts below it.
///
/// It is private: a copy of a shared mount (as all are where systemd runs) would be the same for propagation, and
/// what is mounted below it later would appear on the host, and what the host mounts there in the copy, writable.
///
/// # Errors
/// `EPERM` without rights.
pub fn clone_tree(at: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(at, "", flags)?;
    make_private(tree.as_fd())?;
    Ok(tree)
}

/// As [`clone_tree`], of an attached mount at a path of this namespace; only the mount itself.
///
/// # Errors
/// As [`clone_tree`]; when there is nothing at `path`.
pub fn clone_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    make_private(tree.as_fd())?;
    Ok(tree)
}

/// Opens a place without reading it (`O_PATH`); a symbolic link at its end is opened itself.
///
/// # Errors
/// When there is nothing.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Opens a place of the host that somebody named, following symbolic links but no magic ones (openat2(2)).
///
/// # Errors
/// When there is nothing; `ELOOP` for a magic link.
pub fn open_host(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?)
}

/// Opens a place below `root`, refusing symbolic links on the way and any way out.
///
/// # Errors
/// When there is nothing; `ELOOP` for a link; `EXDEV` for a way out.
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the machine raced with the resolution (openat2(2), EAGAIN).
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// A new tmpfs that is not attached anywhere.
///
/// # Errors
/// When the kernel refuses an option, or without rights.
pub fn tmpfs(size_bytes: u64, inodes: u64, mode: u32, attributes: MountAttributes) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "size", size_bytes.to_string())?;
    rustix::mount::fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
    rustix::mount::fsconfig_set_string(&fs, "mode", format!("{mode:o}"))?;
    rustix::mount::fsconfig_set_string(&fs, "source", "ws")?;
    rustix::mount::fsconfig_create(&fs)?;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes.flags())?)
}

/// A new procfs of this process's pid namespace that is not attached anywhere.
///
/// # Errors
/// `EPERM` when the procfs that is visible now is partly hidden (as inside most containers).
pub fn procfs() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "hidepid", "ptraceable")?;
    rustix::mount::fsconfig_set_string(&fs, "source", "proc")?;
    rustix::mount::fsconfig_create(&fs)?;
    let flags = MountAttributes { no_exec: true, ..MountAttributes::default() }.flags();
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// A new instance of devpts that is not attached anywhere.
///
/// # Errors
/// `EINVAL` when user 0 is not mapped in the user namespace, on kernels that want it to be.
pub fn devpts() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "ptmxmode", "0666")?;
    rustix::mount::fsconfig_set_string(&fs, "mode", "0620")?;
    rustix::mount::fsconfig_set_flag(&fs, "newinstance")?;
    // All instances share the machine's 4,096 (`kernel.pty.max`).
    rustix::mount::fsconfig_set_string(&fs, "max", "256")?;
    rustix::mount::fsconfig_create(&fs)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// As [`devpts`], where user 0 is not mapped: made by a child in a user namespace of its own, a child of this one,
/// in which user 0 is `uid` and group 0 is `gid`. Nothing of that namespace stays but the new instance.
///
/// The caller must be single-threaded and dumpable.
///
/// # Errors
/// When the namespace, the map or the instance cannot be made.
pub fn devpts_of_child(uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let options = CloneOptions {
        // The mount namespace is what gives the right to make a file system at all.
        namespaces: Namespaces { user: true, mount: true, ..Namespaces::default() },
        ..CloneOptions::default()
    };
    match process::clone_single_threaded(&options)? {
        Forked::Child => {
            let zero = |outside| Range { inside: 0, outside, count: 1 };
            let made = idmap::write("self", zero(uid), zero(gid), true).and_then(|()| devpts());
            let sent = match &made {
                Ok(tree) => theirs.send(&[0], &[tree.as_fd()]),
                Err(error) => theirs.send(&error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes(), &[]),
            };
            process::exit_now(i32::from(sent.is_err()));
        }
        Forked::Parent { pidfd, .. } => {
            drop(theirs);
            let message = ours.recv();
            let _ = process::poll_readable(&[pidfd.as_fd()]);
            while process::reap_pidfd(pidfd.as_fd())?.is_none() {}
            let Message { bytes, fds } = message?;
            let failed = || match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(errno) => io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                Err(_) => io::ErrorKind::UnexpectedEof.into(),
            };
            fds.into_iter().next().ok_or_else(failed)
        }
    }
}

/// Attributes of a new file system; set-user-id programs and device files are off in every one.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes {
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Nothing can be written.
    pub read_only: bool,
}

impl MountAttributes {
    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        if self.no_exec {
            flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        if self.read_only {
            flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        flags
    }
}

/// Attaches a detached mount at `path`.
///
/// # Errors
/// When there is nothing at `path`, or it is of the other kind (file, directory).
pub fn attach(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Attaches a detached mount at an open place.
///
/// # Errors
/// When the place is of the other kind (file, directory).
pub fn attach_at(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", place, "", flags)?)
}

/// Moves the attached mount at `from` to an open place.
///
/// # Errors
/// When there is nothing at `from` or the place is of the other kind; `EINVAL` when `from` is not the top of a
/// mount.
pub fn move_to_at(from: &Path, place: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::mount::move_mount(CWD, from, place, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?)
}

/// Moves the attached mount at `from` to `to`.
///
/// # Errors
/// When one of them is not there; `EINVAL` when `from` is not the top of a mount.
pub fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(CWD, from, CWD, to, MoveMountFlags::empty())?)
}

/// Binds `path` onto itself, read-only.
///
/// # Errors
/// When it is not there.
pub fn make_read_only(path: &Path) -> io::Result<()> {
    let tree = clone_path(path)?;
    set_attributes(tree.as_fd(), Attributes { read_only: true, ..Attributes::default() }, false)?;
    attach(tree.as_fd(), path)
}

/// Unmounts what is at `path`, with all below, as soon as nobody uses it (`MNT_DETACH`).
///
/// # Errors
/// When nothing is mounted there.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Makes the mount at `new_root` the root of this mount namespace and forgets the old one.
///
/// # Errors
/// When `new_root` is no mount.
pub fn pivot(new_root: &Path) -> io::Result<()> {
    rustix::process::chdir(new_root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies over the new one now; make it private first, lest the unmount travels to the host.
    make_all_private()?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Makes `path` and its parents directories of `mode`, below a root that holds nothing of the host's.
/// Directories that are there already stay as they are.
///
/// # Errors
/// When a part of it is something else.
pub fn make_directories(root: &Path, path: &Path, mode: u32) -> io::Result<()> {
    let mut at = root.to_path_buf();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        at.push(name);
        match rustix::fs::mkdir(&at, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::lstat(&at)?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            // A directory of the host that is mounted read-only may still hold what is asked for.
            Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) if at.is_dir() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What kind of file system is behind an open place, as statfs(2) tells it.
///
/// # Errors
/// When the file system does not answer.
pub fn filesystem_name(at: BorrowedFd<'_>) -> io::Result<String> {
    let stat = rustix::fs::fstatfs(at)?;
    // linux/magic.h; f_type is signed and of the word's width.
    let name = match stat.f_type as u32 {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        0x0102_1997 => "9p",
        0x9fa0 => "proc",
        0x6573_5546 => "fuse",
        0x2fc1_2fc1 => "zfs",
        other => return Ok(format!("file system {other:#x}")),
    };
    Ok(name.to_owned())
}
