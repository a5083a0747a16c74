//! Which controllers the host mounts where, and where this process stands in each hierarchy.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::{fmt, fs};

use super::{Controller, Result, files};

/// Which kind of hierarchies the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One hierarchy (v2) with the controllers.
    Unified,
    /// Controllers in hierarchies of v1, and a v2 hierarchy beside them.
    Hybrid,
    /// Hierarchies of v1 only.
    Legacy,
    /// None is mounted.
    Absent,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unified => "v2",
            Self::Hybrid => "hybrid",
            Self::Legacy => "v1",
            Self::Absent => "none",
        })
    }
}

/// A hierarchy that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The directory of the cgroup that this process is in.
    pub(super) own: PathBuf,
}

/// Where the limits of a controller are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// In a v1 hierarchy.
    V1(Place),
    /// In the v2 hierarchy.
    V2,
    /// Nowhere; why.
    Lacking(String),
}

/// Which controllers are mounted where. Says nothing about rights: see [`super::detect_writable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    mode: Mode,
    pub(super) v2: Option<Place>,
    homes: BTreeMap<Controller, Home>,
    /// Processor time of v1, for hosts without v2.
    pub(super) cpuacct: Option<Place>,
}

impl Layout {
    /// The layout as this process sees it.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` or `/proc/self/cgroup` cannot be read.
    pub fn of_this_process() -> Result<Self> {
        let proc = Path::new("/proc/self");
        let mounts = files::read(proc, "mountinfo")?;
        let own = files::read(proc, "cgroup")?;
        Ok(Self::detect(&mounts, &own, |dir| {
            fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    /// The layout that `mountinfo` (`/proc/PID/mountinfo`) and `own` (`/proc/PID/cgroup`) describe;
    /// `controllers` gives the text of `cgroup.controllers` of a v2 directory.
    #[must_use]
    pub fn detect(mountinfo: &str, own: &str, controllers: impl FnOnce(&Path) -> String) -> Self {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        // The last mount at a path hides those before it.
        let v2_mount = mounts.iter().rev().find(|m| m.v2);
        let v2 = v2_mount.and_then(|m| m.place(own_path(own, None)?));
        let v2_controllers = v2.as_ref().map(|place| controllers(&place.own)).unwrap_or_default();
        let in_v2 = |name: &str| v2_controllers.split_ascii_whitespace().any(|word| word == name);
        let v1 = |name: &str| mounts.iter().rev().find(|m| !m.v2 && m.options.iter().any(|o| o == name));

        let mut homes = BTreeMap::new();
        let mut any_v1 = false;
        for controller in Controller::ALL {
            let name = controller.as_str();
            let home = match v1(name) {
                Some(mount) => {
                    any_v1 = true;
                    match own_path(own, Some(name)).and_then(|path| mount.place(path)) {
                        Some(place) => Home::V1(place),
                        None => {
                            Home::Lacking(format!("our own cgroup is not below {}", mount.point.display()))
                        }
                    }
                }
                None if in_v2(name) => Home::V2,
                None if v2.is_some() => {
                    Home::Lacking(format!("no {name} controller was given to our cgroup"))
                }
                None => Home::Lacking(format!("no {name} controller")),
            };
            homes.insert(controller, home);
        }
        let cpuacct = v1("cpuacct").and_then(|mount| mount.place(own_path(own, Some("cpuacct"))?));
        let mode = match (any_v1, v2.is_some()) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::Legacy,
            (false, true) => Mode::Unified,
            (false, false) => Mode::Absent,
        };
        Self { mode, v2, homes, cpuacct }
    }

    /// Which kind of hierarchies the host has.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why a controller is nowhere; `None` when it is mounted somewhere.
    #[must_use]
    pub fn lacking(&self, controller: Controller) -> Option<&str> {
        match self.home(controller) {
            Home::V1(_) | Home::V2 => None,
            Home::Lacking(why) => Some(why),
        }
    }

    pub(super) fn home(&self, controller: Controller) -> &Home {
        self.homes.get(&controller).expect("every controller has a home")
    }

    /// The mount points of all hierarchies that matter, the v2 one first, each once.
    pub(super) fn mounts(&self) -> Vec<&Path> {
        let v1 = self.homes.values().filter_map(|home| match home {
            Home::V1(place) => Some(place),
            Home::V2 | Home::Lacking(_) => None,
        });
        let mut mounts: Vec<&Path> = Vec::new();
        for place in self.v2.iter().chain(v1).chain(&self.cpuacct) {
            if !mounts.contains(&place.mount.as_path()) {
                mounts.push(&place.mount);
            }
        }
        mounts
    }
}

/// A line of `mountinfo` that is about control groups.
struct Mount {
    v2: bool,
    root: PathBuf,
    point: PathBuf,
    options: Vec<String>,
}

impl Mount {
    /// `31 23 0:28 /root /point rw,relatime shared:9 - cgroup cgroup rw,memory` (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?), unescape(before.next()?));
        let mut after = after.split(' ');
        let v2 = match after.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = after.nth(1)?.split(',').map(str::to_owned).collect();
        Some(Self { v2, root, point, options })
    }

    /// Where the cgroup `own` stands below this mount; `None` when it is outside of what is mounted.
    fn place(&self, own: &Path) -> Option<Place> {
        let below = own.strip_prefix(&self.root).ok()?;
        let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        inside.then(|| Place { mount: self.point.clone(), own: self.point.join(below) })
    }
}

/// The path of the cgroup in the hierarchy of `controller`, or in the v2 one.
fn own_path<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a Path> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let hit = match controller {
            None => number == "0" && names.is_empty(),
            Some(wanted) => names.split(',').any(|name| name == wanted),
        };
        hit.then(|| Path::new(path))
    })
}

/// Undoes the octal escapes of `mountinfo` (space, tab, newline, backslash).
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let octal = bytes.get(i + 1..i + 4).filter(|_| byte == b'\\');
        let value =
            octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        match value {
            Some(value) => {
                out.push(value);
                i += 4;
            }
            None => {
                out.push(byte);
                i += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn own_of(layout: &Layout, controller: Controller) -> Option<&Path> {
        match layout.home(controller) {
            Home::V1(place) => Some(&place.own),
            Home::V2 => layout.v2.as_ref().map(|place| place.own.as_path()),
            Home::Lacking(_) => None,
        }
    }

    #[test]
    fn a_hybrid_host_has_each_controller_below_our_own_cgroup_of_it() {
        let own = "8:pids:/\n4:memory:/process_api/b4\n2:cpu,cpuacct:/a b\n0::/";
        let layout = Layout::detect(HYBRID, own, |dir| {
            assert_eq!(dir, Path::new("/sys/fs/cgroup/unified"));
            "hugetlb".into()
        });
        assert_eq!(layout.mode(), Mode::Hybrid);
        assert_eq!(
            own_of(&layout, Controller::Memory),
            Some(Path::new("/sys/fs/cgroup/memory/process_api/b4"))
        );
        assert_eq!(own_of(&layout, Controller::Cpu), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/a b")));
        assert_eq!(own_of(&layout, Controller::Pids), Some(Path::new("/sys/fs/cgroup/pids")));
        assert_eq!(layout.cpuacct.as_ref().map(|p| p.own.as_path()), own_of(&layout, Controller::Cpu));
        let mounts = [
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/pids",
        ];
        assert_eq!(layout.mounts(), mounts.map(Path::new));
    }

    #[test]
    fn a_v2_host_says_which_controllers_were_not_given() {
        let mounts = "41 31 0:38 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let own = "0::/user.slice/user-1000.slice/ws.scope";
        let layout = Layout::detect(mounts, own, |_| "memory pids\n".into());
        assert_eq!(layout.mode(), Mode::Unified);
        assert_eq!(layout.home(Controller::Memory), &Home::V2);
        assert_eq!(
            own_of(&layout, Controller::Pids),
            Some(Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/ws.scope"))
        );
        assert_eq!(layout.lacking(Controller::Cpu), Some("no cpu controller was given to our cgroup"));
        assert_eq!(layout.lacking(Controller::Memory), None);
    }

    #[test]
    fn without_mounts_everything_is_lacking() {
        let layout = Layout::detect("", "0::/", |_| unreachable!("there is no v2 mount"));
        assert_eq!(layout.mode(), Mode::Absent);
        assert_eq!(layout.lacking(Controller::Memory), Some("no memory controller"));
        assert_eq!(layout.mounts(), Vec::<&Path>::new());
    }

    #[test]
    fn a_container_that_mounts_a_part_of_the_tree_is_understood() {
        let mounts = "1 1 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let inside = Layout::detect(mounts, "4:memory:/docker/abc/x", |_| String::new());
        assert_eq!(own_of(&inside, Controller::Memory), Some(Path::new("/sys/fs/cgroup/memory/x")));
        assert_eq!(inside.mode(), Mode::Legacy);
        for outside in ["4:memory:/other", "4:memory:/docker/abc/../x", "4:cpu:/"] {
            let layout = Layout::detect(mounts, outside, |_| String::new());
            assert!(
                layout.lacking(Controller::Memory).is_some_and(|why| why.contains("not below")),
                "{outside}"
            );
        }
    }

    #[test]
    fn paths_of_mountinfo_are_unescaped_and_garbage_is_passed_over() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/a\9\"), Path::new(r"/a\9\"));
        let layout =
            Layout::detect("x\n1 2 3 - cgroup\n - \n1 2 3 4 5 6 - cgroup2", "x\n:\n", |_| String::new());
        assert_eq!(layout.mode(), Mode::Absent);
    }

    #[test]
    fn the_last_mount_of_a_controller_counts() {
        let mounts = "1 1 0:1 / /old rw - cgroup cgroup rw,pids\n1 1 0:1 / /new rw - cgroup cgroup rw,pids";
        let layout = Layout::detect(mounts, "4:pids:/", |_| String::new());
        assert_eq!(own_of(&layout, Controller::Pids), Some(Path::new("/new")));
    }
}
