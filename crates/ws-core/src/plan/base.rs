//! What every service of the workspace sees alike: the system, a user, names, private directories.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ws_model::{ConfigPath, Problem, ServiceName, Workspace, WorkspaceName};

use super::facts::{Facts, PathKind, SYSTEM_PATHS, SYSTEM_PREFIXES};
use super::units::Units;
use super::view::Top;
use super::{Bind, BindSource};

/// The user id and group id inside when the caller is root.
const UID_FOR_ROOT: u32 = 1000;
/// The user's name inside when the caller is root, or has a name that cannot stand in a passwd file.
const USER_FOR_ROOT: &str = "ws";
/// The id of nobody and nogroup.
const NOBODY: u32 = 65_534;

/// Directories of the run's private tmpfs, with their modes; the home and `/run/<service>` are added.
const SCRATCH: &[(&str, u32)] =
    &[("/dev/shm", 0o1777), ("/run", 0o755), ("/tmp", 0o1777), ("/var/tmp", 0o1777)];

/// Where names are found, and where a unit finds its own.
pub(crate) const HOSTS: &str = "/etc/hosts";
pub(super) const HOSTNAME: &str = "/etc/hostname";

/// What all views have in common.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) user: String,
    pub(super) home: PathBuf,
    pub(super) symlinks: Vec<(PathBuf, PathBuf)>,
    pub(super) files: Vec<(PathBuf, Arc<str>)>,
    pub(super) system: Vec<Bind>,
    pub(super) scratch: Vec<(PathBuf, u32)>,
    /// What all this puts where.
    pub(super) ground: BTreeMap<PathBuf, Top>,
}

impl Base {
    pub(super) fn new(
        workspace: &Workspace,
        facts: &Facts,
        units: &Units,
        addresses: &BTreeMap<&ServiceName, Ipv4Addr>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let (uid, gid) = if facts.uid == 0 { (UID_FOR_ROOT, UID_FOR_ROOT) } else { (facts.uid, facts.gid) };
        let named = !facts.user.is_empty() && !facts.user.contains([':', '\n', '/']);
        let user = if facts.uid == 0 || !named { USER_FOR_ROOT.to_owned() } else { facts.user.clone() };
        let home = home(facts, &user);
        check_root(&workspace.root, &home, problems);

        let mut symlinks = Vec::new();
        let mut system = Vec::new();
        let prefixed = facts
            .paths
            .keys()
            .filter(|path| path.parent() == Some(Path::new("/etc")))
            .filter(|path| {
                path.to_str().is_some_and(|p| SYSTEM_PREFIXES.iter().any(|prefix| p.starts_with(prefix)))
            })
            .map(PathBuf::as_path);
        let mut paths: Vec<&Path> = SYSTEM_PATHS.iter().map(Path::new).chain(prefixed).collect();
        paths.sort_unstable();
        let mut show = |path: &Path, kind: &PathKind| match kind {
            PathKind::Symlink(to) => symlinks.push((path.to_path_buf(), to.clone())),
            PathKind::Directory => system.push(system_bind(path, true)),
            PathKind::File => system.push(system_bind(path, false)),
        };
        for path in paths {
            match facts.paths.get(path) {
                Some(PathKind::Directory) if workspace.root.starts_with(path) => {
                    show_around(path, &workspace.root, facts, &mut show);
                }
                Some(kind) => show(path, kind),
                None => {}
            }
        }
        symlinks.push((PathBuf::from("/var/run"), PathBuf::from("/run")));

        let mut scratch: Vec<(PathBuf, u32)> =
            SCRATCH.iter().map(|(path, mode)| (PathBuf::from(path), *mode)).collect();
        if !scratch.iter().any(|(path, _)| *path == home) {
            scratch.push((home.clone(), 0o700));
        }

        let files = [
            ("/etc/group", group(&user, gid)),
            ("/etc/host.conf", "multi on\n".to_owned()),
            (HOSTS, hosts(workspace, units, addresses)),
            ("/etc/nsswitch.conf", NSSWITCH.to_owned()),
            ("/etc/passwd", passwd(&user, uid, gid, &home)),
            ("/etc/resolv.conf", resolv_conf(workspace)),
        ];
        let files: Vec<(PathBuf, Arc<str>)> =
            files.into_iter().map(|(path, contents)| (PathBuf::from(path), contents.into())).collect();
        let mut ground: BTreeMap<PathBuf, Top> =
            system.iter().map(|bind| (bind.target.clone(), super::view::top(bind))).collect();
        ground.extend(scratch.iter().map(|(path, _)| (path.clone(), Top::Empty)));
        ground.extend(files.iter().map(|(path, _)| (path.clone(), Top::Own)));
        ground.extend([HOSTNAME, "/proc", "/dev"].map(|path| (PathBuf::from(path), Top::Own)));
        ground.insert(workspace.root.clone(), Top::Repo);
        Self { uid, gid, user, home, symlinks, files, system, scratch, ground }
    }
}

fn system_bind(path: &Path, directory: bool) -> Bind {
    Bind {
        source: BindSource::Host(path.to_path_buf()),
        target: path.to_path_buf(),
        writable: false,
        directory,
        create: false,
        owner_mapped: false,
    }
}

/// A tree of the system without the project that lies in it, which must not be seen past its own view:
/// entry by entry.
fn show_around(tree: &Path, root: &Path, facts: &Facts, show: &mut dyn FnMut(&Path, &PathKind)) {
    for (name, kind) in facts.entries.get(tree).into_iter().flatten() {
        let path = tree.join(name);
        if !root.starts_with(&path) {
            show(&path, kind);
        } else if path != root {
            show_around(&path, root, facts, show);
        }
    }
}

/// Whether a path is in a tree that belongs to the system: permissions there are for everybody, and are
/// not translated.
pub(super) fn in_system(path: &Path) -> bool {
    const TREES: &[&str] =
        &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/etc"];
    TREES.iter().any(|tree| path.starts_with(tree))
}

/// The home inside is the caller's path, so that paths in messages and caches stay true; one that would
/// hide the system or is no path at all is replaced.
fn home(facts: &Facts, user: &str) -> PathBuf {
    let unusable = !facts.home.is_absolute()
        || facts.home.to_str().is_none_or(|home| home.contains([':', '\n']))
        || in_system(&facts.home)
        || ["/proc", "/sys", "/dev"].iter().any(|tree| facts.home.starts_with(tree))
        || facts.home == Path::new("/")
        || facts.home == Path::new("/run")
        || facts.home == Path::new("/var");
    if unusable { Path::new("/home").join(user) } else { facts.home.clone() }
}

fn check_root(root: &Path, home: &Path, problems: &mut Vec<Problem>) {
    let shown = root.display();
    if root.to_str().is_none_or(|text| text.contains('\n')) {
        problems.push(
            Problem::error(
                "WS0503",
                ConfigPath::root(),
                format!("the project's path `{shown}` is not plain text"),
            )
            .help("move the project to a path in UTF-8 without line breaks"),
        );
    } else if home.starts_with(root) {
        problems.push(
            Problem::error(
                "WS0502",
                ConfigPath::root(),
                format!("the project is `{shown}`, which holds your home"),
            )
            .label("every service would see all of it")
            .help("move this file into a directory of its own"),
        );
    } else if SYSTEM_PATHS.iter().any(|path| root == Path::new(path))
        || ["/", "/etc", "/run", "/var", "/tmp", "/dev/shm"].iter().any(|path| root == Path::new(path))
        || ["/proc", "/sys"].iter().any(|tree| root.starts_with(tree))
        || (root.starts_with("/dev") && !root.starts_with("/dev/shm"))
    {
        problems.push(
            Problem::error(
                "WS0502",
                ConfigPath::root(),
                format!("the project is `{shown}`, a directory of the system"),
            )
            .help("move this file into a directory of its own"),
        );
    }
}

fn passwd(user: &str, uid: u32, gid: u32, home: &Path) -> String {
    let mut text = String::from("root:x:0:0:root:/root:/usr/sbin/nologin\n");
    let _ = writeln!(text, "{user}:x:{uid}:{gid}:{user}:{}:/bin/sh", home.display());
    if uid != NOBODY {
        let _ = writeln!(text, "nobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:/usr/sbin/nologin");
    }
    text
}

fn group(user: &str, gid: u32) -> String {
    let mut text = String::from("root:x:0:\n");
    if gid != 0 {
        let _ = writeln!(text, "{user}:x:{gid}:");
    }
    if gid != NOBODY {
        let _ = writeln!(text, "nogroup:x:{NOBODY}:");
    }
    text
}

/// A line for each address. A replica has its own name first and then the one that it shares with the others: who asks
/// for that gets all addresses (`multi on`).
fn hosts(workspace: &Workspace, units: &Units, addresses: &BTreeMap<&ServiceName, Ipv4Addr>) -> String {
    let of: BTreeMap<&ServiceName, &ServiceName> =
        units.iter().map(|(service, unit)| (unit, service)).collect();
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let builds = |name: &ServiceName| {
        workspace.services.get(name).is_some_and(|service| service.kind == ws_model::ServiceKind::Build)
    };
    // Nobody reaches a build.
    for (name, address) in addresses.iter().filter(|(name, _)| !builds(name)) {
        let shared = of.get(name).filter(|service| *service != name);
        text.push_str(&hosts_line(*address, [*name].into_iter().chain(shared.copied()), &workspace.name));
    }
    text
}

/// A line of `/etc/hosts`.
pub(super) fn hosts_line<'n>(
    address: Ipv4Addr,
    names: impl IntoIterator<Item = &'n ServiceName>,
    workspace: &WorkspaceName,
) -> String {
    let mut line = address.to_string();
    for name in names {
        let _ = write!(line, " {name} {name}.{workspace}");
    }
    line.push('\n');
    line
}

/// One short attempt: the name server is a bridge away, or refuses at once.
fn resolv_conf(workspace: &Workspace) -> String {
    format!("nameserver {}\noptions timeout:2 attempts:1\n", workspace.subnet.gateway())
}

const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
";
