//! A watcher on a temporary tree, and what it tells.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use ws_core::engine::{Input, Outputs};
use ws_core::files::{Files, Moment, News};
use ws_core::plan::Plan;
use ws_model::WatchAction;
use ws_watch::{Options, Watcher};

pub(crate) mod plans;

pub(crate) use plans::{files, name, pattern, plan, real, rule, sources, watch};

/// As long as anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What a batch says: "api restart: a b +3".
pub(crate) fn words(news: &News) -> String {
    match news {
        News::Happened(Input::FilesChanged { changes }) => changes
            .iter()
            .map(|change| {
                let action = match change.action {
                    WatchAction::Rebuild => "rebuild".to_owned(),
                    WatchAction::Restart => "restart".to_owned(),
                    WatchAction::Signal(signal) => format!("signal {signal}"),
                    WatchAction::None => "none".to_owned(),
                };
                let more = if change.trigger.more > 0 {
                    format!(" +{}", change.trigger.more)
                } else {
                    String::new()
                };
                format!("{} {action}: {}{more}", change.service, change.trigger.files.join(" "))
            })
            .collect::<Vec<_>>()
            .join("; "),
        News::Happened(other) => format!("{other:?}"),
        News::PlanFiles { changed } => format!(
            "plan: {}",
            changed
                .iter()
                .map(|path| path.file_name().unwrap().to_string_lossy())
                .collect::<Vec<_>>()
                .join(" ")
        ),
        News::Notice { text, .. } => format!("notice: {text}"),
    }
}

/// A project that is watched.
pub(crate) struct Project {
    _dir: TempDir,
    _state: TempDir,
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) watcher: Watcher,
    news: Receiver<News>,
}

impl Project {
    /// Nothing is followed yet.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let state = TempDir::new().unwrap();
        let (send, news) = mpsc::channel();
        let send = Mutex::new(send);
        let mut options = Options::new(state.path().into());
        options.user_ignores = false;
        let sink = Arc::new(move |news| drop(send.lock().unwrap().send(news)));
        let watcher = Watcher::new(options, sink).unwrap();
        Self { root: real(&dir), state: state.path().into(), _dir: dir, _state: state, watcher, news }
    }

    /// With these files, and one service that is restarted when anything changes.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let mut project = Self::new();
        for (path, text) in files {
            project.write(path, text);
        }
        let plan = project.plan();
        project.follow(plan);
        project
    }

    /// One service that is restarted when anything changes.
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = plan(&self.root);
        watch(&mut plan, "api", vec![rule(sources(&self.root, &["."], &[]), WatchAction::Restart)]);
        plan
    }

    pub(crate) fn follow(&mut self, plan: Plan) {
        self.follow_with(plan, Vec::new());
    }

    pub(crate) fn follow_with(&mut self, plan: Plan, plan_files: Vec<PathBuf>) {
        self.watcher.follow(Arc::new(plan), plan_files);
        let _ = self.watcher.settle();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A command of the shell in the project; it must succeed.
    pub(crate) fn sh(&self, command: &str) {
        let output = Command::new("sh")
            .args(["-euc", command])
            .current_dir(&self.root)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The next thing that is told.
    #[track_caller]
    pub(crate) fn next(&self) -> String {
        words(&self.next_news())
    }

    #[track_caller]
    pub(crate) fn next_news(&self) -> News {
        self.news.recv_timeout(DEADLINE).expect("nothing is told")
    }

    /// That nothing is told of what was done before: what is done now comes next, alone.
    #[track_caller]
    pub(crate) fn nothing(&self) {
        let _ = self.watcher.settle();
        let sign = format!("sign-{}", self.signs());
        self.write(&sign, "x");
        assert_eq!(self.next(), format!("api restart: {sign}"));
    }

    fn signs(&self) -> usize {
        fs::read_dir(&self.root)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("sign-"))
            .count()
    }

    /// Exactly this, and nothing after.
    #[track_caller]
    pub(crate) fn only(&self, expected: &str) {
        assert_eq!(self.next(), expected);
        self.nothing();
    }

    pub(crate) fn fingerprint(&mut self, service: &str, moment: Moment) -> Result<Option<Outputs>, String> {
        self.watcher.fingerprint(&name(service), 7, moment);
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left).expect("no answer") {
                News::Happened(Input::Checked { service: of, generation: 7, result }) => {
                    assert_eq!((of, moment), (name(service), Moment::Before));
                    return result;
                }
                News::Happened(Input::Recorded { service: of, generation: 7, result }) => {
                    assert_eq!((of, moment), (name(service), Moment::After));
                    return result.map(Some);
                }
                _ => {}
            }
        }
    }
}

/// All files below a directory with their contents.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                stack.push(path);
            } else if kind.is_symlink() {
                found.insert(path.clone(), format!("-> {}", fs::read_link(path).unwrap().display()));
            } else {
                found.insert(path.clone(), fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}
