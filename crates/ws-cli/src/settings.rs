//! From what was typed and the environment to where things are: the workspace file, the project root,
//! the runtime and state directories.
//!
//! Decides nothing else, starts nothing and creates nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ws_model::WorkspaceName;

use crate::args::{Cli, Command, Drawing, Format};
use crate::error::Failure;

/// The names of a workspace file, in order of preference.
pub const FILE_NAMES: [&str; 2] = ["workspace.yaml", "ws.yaml"];

/// Files of others that people have in the place of ours.
const FOREIGN: [&str; 6] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml", "workspace.yml", "ws.yml"];

/// What this process can see of its surroundings, as values.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The environment; variables that are not UTF-8 are left out.
    pub env: BTreeMap<String, String>,
    /// The effective user id.
    pub uid: u32,
    /// The current directory.
    pub cwd: PathBuf,
    /// The user's home by the user database, for when `HOME` is not set.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Of this process.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn of_process() -> Result<Self, Failure> {
        let uid = nix::unistd::geteuid();
        let cwd = std::env::current_dir().map_err(|error| {
            Failure::usage("could not find the current directory")
                .because(&error)
                .hint("was it removed? `cd` into another one")
        })?;
        Ok(Self {
            env: std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            uid: uid.as_raw(),
            cwd,
            home: nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.dir),
        })
    }

    /// A directory that a variable names. Relative ones and empty ones count as absent, as the XDG
    /// base directory specification wants.
    fn directory(&self, variable: &str) -> Option<PathBuf> {
        self.env.get(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// Where instances are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Sockets, locks and records; one directory for each instance. Gone after a reboot.
    pub runtime: PathBuf,
    /// Logs, volumes and journals; one directory for each instance.
    pub state: PathBuf,
}

impl Dirs {
    /// The directories of this user.
    ///
    /// # Errors
    /// When there is no home to keep state in.
    pub fn find(around: &Surroundings) -> Result<Self, Failure> {
        let root = around.uid == 0;
        let named = |variable: &str| {
            around.env.get(variable).filter(|path| !path.is_empty()).map(|path| around.cwd.join(path))
        };
        let runtime = named("WS_RUNTIME_DIR")
            .or_else(|| root.then(|| PathBuf::from("/run/ws")))
            .or_else(|| around.directory("XDG_RUNTIME_DIR").map(|dir| dir.join("ws")))
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/ws-{}", around.uid)));
        let state = named("WS_STATE_DIR")
            .or_else(|| root.then(|| PathBuf::from("/var/lib/ws")))
            .or_else(|| around.directory("XDG_STATE_HOME").map(|dir| dir.join("ws")))
            .or_else(|| {
                around
                    .directory("HOME")
                    .or_else(|| around.home.clone())
                    .map(|home| home.join(".local/state/ws"))
            })
            .ok_or_else(|| {
                Failure::usage("there is no place for logs and volumes: `HOME` is not set")
                    .hint("set `HOME`, `XDG_STATE_HOME` or `WS_STATE_DIR` to a directory of yours")
            })?;
        Ok(Self { runtime, state })
    }
}

/// A workspace file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file, absolute.
    pub file: PathBuf,
    /// Its directory, canonical.
    pub root: PathBuf,
}

/// What was typed, with every place absolute.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The surroundings.
    pub around: Surroundings,
    /// Where the search for the file begins: `-C`, or the current directory.
    pub start: PathBuf,
    /// The file that was named, absolute.
    pub file: Option<PathBuf>,
    /// The instance that was named.
    pub instance: Option<String>,
    /// The env files that were named, absolute.
    pub env_files: Vec<PathBuf>,
    /// How data is printed.
    pub format: Format,
    /// The drawing that was asked for; only of graphs.
    pub drawing: Option<Drawing>,
    /// Where instances are kept.
    pub dirs: Dirs,
}

impl Settings {
    /// From what was typed.
    ///
    /// # Errors
    /// When a directory that was named does not exist.
    pub fn new(cli: &Cli, around: Surroundings) -> Result<Self, Failure> {
        let globals = &cli.globals;
        let start = match &globals.directory {
            None => around.cwd.clone(),
            Some(dir) => {
                let start = around.cwd.join(dir);
                if !start.is_dir() {
                    return Err(Failure::usage(format!("`{}` is not a directory", dir.display())));
                }
                start
            }
        };
        if let Some(name) = globals.instance.as_deref().filter(|name| instance_name(name).is_none()) {
            return Err(Failure::usage(format!("`{name}` cannot be the name of an instance"))
                .hint("names are `[a-z0-9][a-z0-9_-]*`; `ws ls` lists what there is"));
        }
        if let Some(format) = globals.format.filter(|format| format.kind().is_err())
            && !matches!(cli.command, Command::Graph(_))
        {
            let word = format.to_possible_value().map(|value| value.get_name().to_owned());
            return Err(Failure::usage(format!("`--format {}` is for `ws graph`", word.unwrap_or_default()))
                .hint("the others have `text` and `json`"));
        }
        Ok(Self {
            file: cli.file.as_ref().map(|file| start.join(file)),
            instance: globals.instance.clone(),
            env_files: globals.env_file.iter().map(|file| start.join(file)).collect(),
            format: globals.format(),
            drawing: globals.drawing(),
            dirs: Dirs::find(&around)?,
            start,
            around,
        })
    }

    /// Finds the workspace file.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self) -> Result<Found, Failure> {
        let file = match &self.file {
            Some(file) if file.is_dir() => search_one(file).ok_or_else(|| {
                Failure::usage(format!("there is no workspace.yaml in `{}`", file.display()))
            })?,
            Some(file) if file.exists() => file.clone(),
            Some(file) => return Err(Failure::usage(format!("`{}` does not exist", file.display()))),
            None => search(&self.start, self.around.uid)?,
        };
        let dir = file.parent().unwrap_or(Path::new("/"));
        let root = fs::canonicalize(dir).map_err(|error| {
            Failure::usage(format!("could not resolve `{}`", dir.display())).because(&error)
        })?;
        Ok(Found { file, root })
    }

    /// The suffix of the instance that was named.
    #[must_use]
    pub fn suffix(&self) -> Option<WorkspaceName> {
        self.instance.as_deref().and_then(instance_name)
    }
}

fn instance_name(text: &str) -> Option<WorkspaceName> {
    // A full name from `ws ls` may be longer than a suffix; it is looked up by `instances::locate`.
    WorkspaceName::new(text).ok().or_else(|| {
        ws_model::InstanceId::from_dir_name(text).and_then(|_| WorkspaceName::new(text.get(..63)?).ok())
    })
}

fn search_one(dir: &Path) -> Option<PathBuf> {
    FILE_NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

fn search(start: &Path, uid: u32) -> Result<PathBuf, Failure> {
    if let Some(file) = start.ancestors().find_map(search_one) {
        return is_trusted(&file, start, uid).map(|()| file);
    }
    let failure = Failure::usage(format!("there is no workspace.yaml in `{}` or above it", start.display()));
    let foreign = FOREIGN.iter().map(|name| start.join(name)).find(|path| path.is_file());
    Err(match foreign.as_deref().and_then(Path::file_name) {
        Some(name) if name.to_string_lossy().ends_with(".yml") && !name.to_string_lossy().contains("compose") => {
            failure.hint(format!("there is `{}`: rename it, or say `ws -f {0}`", name.display()))
        }
        Some(name) => failure.hint(format!(
            "there is `{}`: the workspace file has the same shape of services, with `command` in the place of `image`",
            name.display()
        )),
        None => failure.hint("`cd` into the project, or name the file: `ws -f FILE …`"),
    })
}

/// A file that was found above, and not named, says what runs with our rights. Where others can write (`/var/tmp`),
/// they could have put it there: so it must be ours, or root's, or of whoever owns the directory that we are in.
fn is_trusted(file: &Path, start: &Path, uid: u32) -> Result<(), Failure> {
    let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid());
    let of_file = owner(file)
        .map_err(|error| Failure::usage(format!("could not read `{}`", file.display())).because(&error))?;
    if of_file == uid || of_file == 0 || owner(start).is_ok_and(|of_start| of_start == of_file) {
        return Ok(());
    }
    Err(Failure::usage(format!("`{}` belongs to user {of_file}, and you did not name it", file.display()))
        .hint(format!("if you trust it: `ws -f {} …`", file.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn around(uid: u32, env: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            uid,
            cwd: PathBuf::from("/work"),
            home: None,
        }
    }

    #[test]
    fn directories_follow_the_user_and_the_environment() {
        type Env = &'static [(&'static str, &'static str)];
        let cases: [(u32, Env, &str, &str); 7] = [
            (0, &[("HOME", "/root"), ("XDG_RUNTIME_DIR", "/run/user/0")], "/run/ws", "/var/lib/ws"),
            (
                7,
                &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")],
                "/run/user/7/ws",
                "/h/.local/state/ws",
            ),
            (7, &[("HOME", "/h")], "/tmp/ws-7", "/h/.local/state/ws"),
            (
                7,
                &[("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "rel")],
                "/tmp/ws-7",
                "/s/ws",
            ),
            (0, &[("WS_RUNTIME_DIR", "/a"), ("WS_STATE_DIR", "/b")], "/a", "/b"),
            (7, &[("WS_RUNTIME_DIR", "a"), ("WS_STATE_DIR", "b")], "/work/a", "/work/b"),
            (7, &[("WS_RUNTIME_DIR", ""), ("HOME", "/h")], "/tmp/ws-7", "/h/.local/state/ws"),
        ];
        for (uid, env, runtime, state) in cases {
            let dirs = Dirs::find(&around(uid, env)).unwrap();
            assert_eq!(
                (dirs.runtime.as_path(), dirs.state.as_path()),
                (Path::new(runtime), Path::new(state)),
                "{uid} {env:?}"
            );
        }
        assert!(Dirs::find(&around(7, &[])).unwrap_err().message.contains("`HOME`"));
        let by_database = Surroundings { home: Some("/db".into()), ..around(7, &[]) };
        assert_eq!(Dirs::find(&by_database).unwrap().state, Path::new("/db/.local/state/ws"));
    }

    fn settings(cwd: &Path, line: &[&str]) -> Result<Settings, Failure> {
        let cli = Cli::try_parse_from([&["ws"], line].concat()).unwrap();
        let around = Surroundings { cwd: cwd.to_owned(), ..around(7, &[("HOME", "/h")]) };
        Settings::new(&cli, around)
    }

    #[test]
    fn the_file_is_found_by_walking_up() {
        let temp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(temp.path()).unwrap();
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let none = settings(&deep, &["ps"]).unwrap().find().unwrap_err();
        assert_eq!(none.code, ws_model::exit::USAGE);

        fs::write(root.join("ws.yaml"), "").unwrap();
        let found = settings(&deep, &["ps"]).unwrap().find().unwrap();
        assert_eq!(found, Found { file: root.join("ws.yaml"), root: root.clone() });

        fs::write(root.join("workspace.yaml"), "").unwrap();
        assert_eq!(settings(&deep, &["ps"]).unwrap().find().unwrap().file, root.join("workspace.yaml"));

        fs::write(root.join("a/workspace.yaml"), "").unwrap();
        assert_eq!(settings(&deep, &["ps"]).unwrap().find().unwrap().root, root.join("a"));
        assert_eq!(settings(&root, &["-C", "a", "ps"]).unwrap().find().unwrap().root, root.join("a"));
        assert_eq!(settings(&deep, &["-f", "../../ws.yaml", "ps"]).unwrap().find().unwrap().root, root);
        assert_eq!(settings(&deep, &["-f", "..", "ps"]).unwrap().find().unwrap().root, root.join("a"));
        assert!(settings(&deep, &["-f", "nope.yaml", "ps"]).unwrap().find().is_err());
        assert!(settings(&deep, &["-C", "nope", "ps"]).is_err());
    }

    #[test]
    fn a_file_that_somebody_else_put_above_is_not_taken_unasked() {
        let temp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(temp.path()).unwrap();
        let ours = root.join("ours");
        fs::create_dir(&ours).unwrap();
        let file = root.join("workspace.yaml");
        fs::write(&file, "").unwrap();
        let of = fs::metadata(&file).unwrap().uid();
        let stranger = of + 1;
        assert!(is_trusted(&file, &ours, of).is_ok());
        // The file and the directory are of one user, whoever calls (`sudo ws ps` in somebody's project).
        assert!(is_trusted(&file, &ours, stranger).is_ok());
        // The directory is of somebody else than the file.
        let refused = is_trusted(&file, Path::new("/nonexistent"), stranger);
        assert_eq!(refused.is_err(), of != 0, "{refused:?}");
        if of == 0 {
            std::os::unix::fs::chown(&file, Some(1001), None).unwrap();
            let failure = settings(&ours, &["ps"]).unwrap().find().unwrap_err();
            assert!(failure.message.contains("user 1001"), "{failure:?}");
            assert!(settings(&ours, &["-f", "../workspace.yaml", "ps"]).unwrap().find().is_ok());
        }
    }

    #[test]
    fn a_file_of_another_tool_gets_a_hint() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("compose.yaml"), "").unwrap();
        let failure = settings(temp.path(), &["up"]).unwrap().find().unwrap_err();
        assert!(failure.hints[0].contains("`compose.yaml`"), "{failure:?}");
        fs::remove_file(temp.path().join("compose.yaml")).unwrap();
        fs::write(temp.path().join("workspace.yml"), "").unwrap();
        let failure = settings(temp.path(), &["up"]).unwrap().find().unwrap_err();
        assert!(failure.hints[0].contains("ws -f workspace.yml"), "{failure:?}");
    }

    #[test]
    fn a_bad_instance_is_refused_at_once() {
        let failure = settings(Path::new("/"), &["-p", "../x", "ps"]).unwrap_err();
        assert_eq!(failure.code, ws_model::exit::USAGE);
        assert!(settings(Path::new("/"), &["-p", "ci", "ps"]).unwrap().suffix().is_some());
    }
}
