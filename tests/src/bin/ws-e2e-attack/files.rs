//! Files: reading what is others', writing what is not one's own, leaving programs with rights.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

use crate::{End, calls};

/// What a walk leaves behind where it could write; removed at once.
const TRACE: &str = ".ws-e2e-attempt";

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<io::Result<End>> {
    Some(match (verb, arguments) {
        ("read", [path]) => Ok(read(path)),
        ("list", [path]) => Ok(list(path)),
        ("exists", [path]) => Ok(End::of(fs::symlink_metadata(path), "it is there")),
        ("append", [path]) => Ok(append(Path::new(path))),
        ("truncate", [path]) => {
            Ok(End::of(File::options().write(true).truncate(true).open(path), "truncated"))
        }
        ("write", [path, text]) => Ok(write(path, text)),
        ("create", [path]) => Ok(create(Path::new(path))),
        ("remove", [path]) => Ok(End::of(fs::remove_file(path), "removed")),
        ("rename", [from, to]) => Ok(End::of(fs::rename(from, to), "renamed")),
        ("hard-link", [from, to]) => Ok(End::of(fs::hard_link(from, to), "linked")),
        ("through-link", [target, link]) => through_link(target, link),
        ("give-away", [path]) => give_away(path),
        ("chmod", [path, bits]) => u32::from_str_radix(bits, 8)
            .map_err(io::Error::other)
            .map(|bits| End::of(fs::set_permissions(path, Permissions::from_mode(bits)), "changed")),
        ("touch", [path]) => touch(path),
        ("copy", [path]) => Ok(copy(path)),
        ("writable", own) => writable(own),
        ("special", []) => special(),
        ("set-user-id-mounts", []) => mounts("nosuid", &[]),
        ("device-mounts", known) => mounts("nodev", known),
        ("kernel-settings", []) => kernel_settings(),
        ("setid", [how, dir]) => set_id(how, Path::new(dir)),
        _ => return None,
    })
}

fn read(path: &str) -> End {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(200).read_to_string(&mut text)) {
        // As `/dev/null` in the place of something that is hidden.
        Ok(0) => End::Nothing,
        Ok(_) => End::Did(text.trim().to_owned()),
        Err(error) => End::because(&error, path),
    }
}

fn list(path: &str) -> End {
    match fs::read_dir(path) {
        Ok(entries) => {
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let mut names: Vec<String> = names.collect();
            names.sort();
            End::found(&names)
        }
        Err(error) => End::because(&error, path),
    }
}

/// Opens for appending, and appends nothing.
fn append(path: &Path) -> End {
    End::of(File::options().append(true).open(path), "opened for appending")
}

/// Changes the times of a file, which opens nothing.
fn touch(path: &str) -> io::Result<End> {
    let none = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: none, last_modification: none };
    let done = rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty());
    Ok(End::of(done.map_err(io::Error::from), "touched"))
}

/// Copies a file as the kernel does it, without reading it.
fn copy(path: &str) -> End {
    let copied = File::open(path).and_then(|mut from| io::copy(&mut from, &mut File::create("/tmp/copied")?));
    End::of(copied, "copied")
}

/// Writes a text at once, `_` as a space.
fn write(path: &str, text: &str) -> End {
    match File::options().write(true).open(path) {
        Ok(mut file) => End::of(file.write_all(text.replace('_', " ").as_bytes()), "written"),
        Err(error) => End::because(&error, "opening"),
    }
}

fn create(path: &Path) -> End {
    match File::options().write(true).create_new(true).open(path) {
        Ok(mut file) => End::of(file.write_all(b"x"), "created"),
        Err(error) => End::because(&error, "creating"),
    }
}

/// Writes through a symbolic link that was put into a writable directory.
fn through_link(target: &str, link: &str) -> io::Result<End> {
    let _ = fs::remove_file(link);
    symlink(target, link)?;
    let end = append(Path::new(link));
    fs::remove_file(link)?;
    Ok(end)
}

fn give_away(path: &str) -> io::Result<End> {
    let own = fs::metadata(path)?.uid();
    Ok(End::of(std::os::unix::fs::chown(path, Some(own.wrapping_add(1)), None), "given away"))
}

/// Finds what can be written anywhere, but below what is one's own.
fn writable(own: &[&str]) -> io::Result<End> {
    let mut found = Vec::new();
    let mut visited = (0, 0);
    let mut todo = vec![PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        if own.iter().any(|own| Path::new(own) == dir) || dir == Path::new("/proc") {
            continue;
        }
        visited.0 += 1;
        try_directory(&dir, &mut found);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // Not what the directory says of the entry: something else may be mounted over it.
            match fs::symlink_metadata(&path).map(|meta| meta.file_type()) {
                Ok(kind) if kind.is_dir() => todo.push(path),
                Ok(kind) if kind.is_file() => {
                    visited.1 += 1;
                    try_file(&path, &mut found);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    if visited.0 < 50 || visited.1 < 200 {
        return Ok(End::Broken(format!(
            "only {} directories and {} files are visible",
            visited.0, visited.1
        )));
    }
    Ok(End::found(&found))
}

fn try_directory(dir: &Path, found: &mut Vec<String>) {
    let trace = dir.join(TRACE);
    let mut note = |how: &str| found.push(format!("{how}:{}", dir.display()));
    if File::options().write(true).create_new(true).open(&trace).is_ok() {
        note("create");
        if fs::rename(&trace, dir.join(".ws-e2e-renamed")).is_ok() {
            let _ = fs::remove_file(dir.join(".ws-e2e-renamed"));
        }
        let _ = fs::remove_file(&trace);
    }
    if fs::create_dir(&trace).is_ok() {
        note("mkdir");
        let _ = fs::remove_dir(&trace);
    }
    if symlink("nowhere", &trace).is_ok() {
        note("symlink");
        let _ = fs::remove_file(&trace);
    }
    if let Ok(meta) = fs::metadata(dir)
        && fs::set_permissions(dir, Permissions::from_mode(meta.mode() & 0o1777)).is_ok()
    {
        note("chmod");
    }
}

fn try_file(path: &Path, found: &mut Vec<String>) {
    let mut note = |how: &str| found.push(format!("{how}:{}", path.display()));
    if File::options().append(true).open(path).is_ok() {
        note("append");
    }
    if let Ok(meta) = fs::metadata(path)
        && fs::set_permissions(path, Permissions::from_mode(meta.mode() & 0o777)).is_ok()
    {
        note("chmod");
    }
}

/// Finds sockets, FIFOs and devices, but the devices that every program expects.
fn special() -> io::Result<End> {
    const DEVICES: [&str; 7] =
        ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts/ptmx"];
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        if dir == Path::new("/proc") {
            continue;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = fs::symlink_metadata(&path).map(|meta| meta.file_type()) else { continue };
            if kind.is_dir() {
                todo.push(path);
            } else if !kind.is_file()
                && !kind.is_symlink()
                && !DEVICES.iter().any(|known| Path::new(known) == path)
            {
                let what = if kind.is_socket() { "socket" } else { "device" };
                found.push(format!("{what}:{}", path.display()));
            }
        }
    }
    Ok(End::found(&found))
}

/// Finds mounts without an option.
fn mounts(option: &str, known: &[&str]) -> io::Result<End> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(4);
        let (place, options) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if !options.split(',').any(|one| one == option) && !known.contains(&place) {
            found.push(format!("{place}:{options}"));
        }
    }
    if text.lines().count() < 3 { Ok(End::Broken(text)) } else { Ok(End::found(&found)) }
}

/// Finds settings of the kernel, and buttons of its, that can be opened for writing.
fn kernel_settings() -> io::Result<End> {
    let mut found = Vec::new();
    let mut visited = 0;
    let mut todo: Vec<PathBuf> =
        vec!["/proc/sys".into(), "/proc/irq".into(), "/proc/bus".into(), "/proc/fs".into()];
    let single = ["/proc/sysrq-trigger", "/proc/mtrr", "/proc/kmsg", "/proc/kcore", "/proc/timer_list"];
    let mut try_one = |path: &Path| {
        visited += 1;
        if File::options().write(true).open(path).is_ok() && !is_null(path) {
            found.push(path.display().to_string());
        }
    };
    for path in single {
        try_one(Path::new(path));
    }
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(kind) if kind.is_file() => try_one(&entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    if visited < 50 {
        Ok(End::Broken(format!("only {visited} settings are visible")))
    } else {
        Ok(End::found(&found))
    }
}

/// Whether a path is `/dev/null`, put over what is hidden.
fn is_null(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0x103)
}

/// Tries to leave a file with the set-user-id or set-group-id bit, or with capabilities, in a directory.
fn set_id(how: &str, dir: &Path) -> io::Result<End> {
    let path = dir.join("left");
    let text = path.to_string_lossy().into_owned();
    let c_path = format!("s:{text}");
    let own = || File::create(&path);
    let create_write = (OFlags::CREATE | OFlags::WRONLY).bits().to_string();
    let both = 0o6755.to_string();
    let at = libc::AT_FDCWD.to_string();
    let call = |number: i64, arguments: &[&str]| calls::make(number, arguments);
    let bits = Mode::from_raw_mode(0o6755);
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir(&path);
    let end = match how {
        #[cfg(target_arch = "x86_64")]
        "open" => call(libc::SYS_open, &[&c_path, &create_write, &both])?,
        "openat" => call(libc::SYS_openat, &[&at, &c_path, &create_write, &both])?,
        // The kernel looks at the low 32 bits only.
        "openat-high-bits" => {
            let high = (0x1_0000_0000_u64 | 0o6755).to_string();
            call(libc::SYS_openat, &[&at, &c_path, &create_write, &high])?
        }
        "openat2" => {
            // `struct open_how`: flags, mode, resolve; 64 bits each.
            let mut how = String::from("x:");
            for value in [u64::from((OFlags::CREATE | OFlags::WRONLY).bits()), 0o6755, 0] {
                how += &value.to_ne_bytes().map(|byte| format!("{byte:02x}")).concat();
            }
            call(libc::SYS_openat2, &[&at, &c_path, &how, "24"])?
        }
        #[cfg(target_arch = "x86_64")]
        "creat" => call(libc::SYS_creat, &[&c_path, &both])?,
        #[cfg(target_arch = "x86_64")]
        "mkdir" => call(libc::SYS_mkdir, &[&c_path, &both])?,
        "mkdirat" => call(libc::SYS_mkdirat, &[&at, &c_path, &both])?,
        #[cfg(target_arch = "x86_64")]
        "mknod" => call(libc::SYS_mknod, &[&c_path, &(libc::S_IFREG | 0o6755).to_string(), "0"])?,
        "mknodat" => call(libc::SYS_mknodat, &[&at, &c_path, &(libc::S_IFREG | 0o6755).to_string(), "0"])?,
        "mknodat-device" => {
            call(libc::SYS_mknodat, &[&at, &c_path, &(libc::S_IFCHR | 0o666).to_string(), "0x103"])?
        }
        #[cfg(target_arch = "x86_64")]
        "chmod" => own().and_then(|_| call(libc::SYS_chmod, &[&c_path, &both]))?,
        "chmod-group" => {
            End::of(own().and_then(|_| fs::set_permissions(&path, Permissions::from_mode(0o2755))), "chmod")
        }
        "fchmod" => End::of(own().and_then(|file| Ok(rustix::fs::fchmod(&file, bits)?)), "fchmod"),
        "fchmodat" => own().and_then(|_| call(libc::SYS_fchmodat, &[&at, &c_path, &both]))?,
        "fchmodat2" => own().and_then(|_| call(452, &[&at, &c_path, &both, "0"]))?,
        "fchmodat-of-link" => {
            own()?;
            let link = dir.join("link-to-left");
            let _ = fs::remove_file(&link);
            symlink(&path, &link)?;
            let end = End::of(
                rustix::fs::chmodat(rustix::fs::CWD, &link, bits, AtFlags::empty()).map_err(io::Error::from),
                "chmodat",
            );
            fs::remove_file(&link)?;
            end
        }
        "chmod-by-descriptor" => {
            let file = own()?;
            let by_fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            End::of(fs::set_permissions(by_fd, Permissions::from_mode(0o6755)), "chmod")
        }
        "tmpfile" => End::of(temporary(dir, &path, bits), "O_TMPFILE and linkat"),
        "tmpfile-chmod" => End::of(
            temporary(dir, &path, Mode::from_raw_mode(0o755))
                .and_then(|file| Ok(rustix::fs::fchmod(file, bits)?)),
            "O_TMPFILE, linkat and fchmod",
        ),
        "capability" => {
            // `struct vfs_ns_cap_data`, revision 2 and 3, with every capability permitted and effective.
            let file = own()?;
            let mut revision_2 = vec![1, 0, 0, 2];
            revision_2.extend([0xff; 16]);
            let set = |value: &[u8]| {
                rustix::fs::fsetxattr(&file, "security.capability", value, XattrFlags::empty())
            };
            let mut revision_3 = revision_2.clone();
            revision_3[3] = 3;
            revision_3.extend([0; 4]);
            End::of(set(&revision_2).or_else(|_| set(&revision_3)).map_err(io::Error::from), "fsetxattr")
        }
        // Whatever mode a new file asks for, in a directory that hands down its group.
        "inherited" => End::of(
            File::options().write(true).create_new(true).mode(0o2755).open(&path),
            "created with the group's bit",
        ),
        "inherited-chmod" => {
            End::of(own().and_then(|_| fs::set_permissions(&path, Permissions::from_mode(0o2755))), "chmod")
        }
        "io-uring" => call(libc::SYS_io_uring_setup, &["1", "z:120"])?,
        _ => return Err(io::Error::other(format!("`{how}` is no way to set bits"))),
    };
    let left = fs::symlink_metadata(&path);
    let marked =
        left.as_ref().is_ok_and(|meta| meta.mode() & 0o6000 != 0 || meta.file_type().is_char_device());
    let attribute = fs::File::open(&path).ok().and_then(|file| {
        let mut value = [0; 64];
        rustix::fs::fgetxattr(file.as_fd(), "security.capability", &mut value).ok()
    });
    let mode = left.map(|meta| meta.mode()).unwrap_or_default();
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir(&path);
    Ok(match end {
        _ if marked || attribute.is_some() => {
            End::Did(format!("left a file with mode {mode:o}, {attribute:?}"))
        }
        // Carried out, but without the bits.
        End::Did(_) => End::Nothing,
        other => other,
    })
}

fn temporary(dir: &Path, path: &Path, mode: Mode) -> io::Result<std::os::fd::OwnedFd> {
    let file = rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(rustix::fs::CWD, &name, rustix::fs::CWD, path, AtFlags::SYMLINK_FOLLOW)?;
    Ok(file)
}
