//! What belongs to hot reload: builds, what is watched, listening sockets.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{Poll, Reload, ServiceName, WatchAction};

use super::LimitsRaw;
use super::forms::{CommandRaw, EnvFileRaw, EnvironmentRaw, MountRaw, SignalRaw, words};
use super::read::{
    At, Cx, HostPath, List, Merge, OneOrMany, Read, bad_name, long_only, no_nul, number_text, place_of,
    record, scalar_text, text, word,
};
use super::scalar::{Port, Time, parse_duration};
use crate::codes;
use crate::report::{error, shown};
use crate::yaml::{Node, Value};

/// The longest pattern: far above what anybody writes, and small enough to be compiled by whoever watches.
const MAX_PATTERN: usize = 1000;
/// How deep braces may stand in braces.
const MAX_BRACES: usize = 8;
/// How long a connection to a published port waits, when the file says nothing.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// The shortest pause between two looks at all files.
const SHORTEST_POLL: Duration = Duration::from_millis(100);

/// What makes a pattern a glob.
pub(crate) const GLOB: [char; 4] = ['*', '?', '[', '{'];

// ---------------------------------------------------------------------------------------------------
// patterns

/// A file, a directory or a glob, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PatternRaw(pub(crate) String);

impl Read for PatternRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = text(node, cx, "a path or glob such as `src` or `\"src/**/*.rs\"`")?;
        no_nul(text, node, cx)?;
        let bad = |code, message: String| error(code, node.span, message);
        if text.is_empty() {
            let message = format!("`{}` takes a path, and this is empty", shown(cx.key()));
            cx.push(bad(codes::BAD_PATH, message).help("`.` is the directory itself"));
            return None;
        }
        if text.len() > MAX_PATTERN {
            let message = format!("this pattern has {} bytes, and {MAX_PATTERN} is the most", text.len());
            cx.push(bad(codes::TOO_COSTLY, message));
            return None;
        }
        if let Some(rest) = text.strip_prefix('!') {
            let message = format!("`{}` starts with `!`, which takes nothing back here", shown(text));
            let help = "name what is meant more exactly, or take files out with `ignore` or `action: none`";
            let name = format!("for a file with that name, write `./!{}`", shown(rest));
            cx.push(bad(codes::BAD_GLOB, message).help(help).help(name));
            return None;
        }
        if text.starts_with('~') && text != "~" && !text.starts_with("~/") {
            let message = format!("`{}` names the home of another user", shown(text));
            cx.push(bad(codes::BAD_PATH, message).help("write the whole path; `~/` is your own home"));
            return None;
        }
        let mut parts = text.split('/').skip_while(|part| !part.contains(GLOB));
        if parts.any(|part| part.split([',', '{', '}']).any(|part| part == "..")) {
            let message = format!("`{}` has `..` behind a glob", shown(text));
            cx.push(bad(codes::BAD_GLOB, message).help("write the path that it leads to"));
            return None;
        }
        let mut depth = 0_usize;
        let deepest = text.chars().map(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth
        });
        if deepest.max().is_some_and(|depth| depth > MAX_BRACES) {
            let message = format!("`{}` has braces in braces more than {MAX_BRACES} deep", shown(text));
            cx.push(bad(codes::TOO_COSTLY, message));
            return None;
        }
        Some(Self(text.to_owned()))
    }
}
impl Merge for PatternRaw {}

impl JsonSchema for PatternRaw {
    fn schema_name() -> Cow<'static, str> {
        "PathOrGlob".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_PATTERN,
            "description": "A file, a directory with all that is below it, or a glob that matches whole paths: `*` and `?` stop at a slash, `**` does not, `{a,b}` is one of them, `[a-z]` a character. Relative to `working_dir`, absolute, or from the home (`~/x`)."
        })
    }
}

/// What is left out of files that are meant.
///
/// One without a slash is meant at any depth, as in `.gitignore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IgnoreRaw(pub(crate) PatternRaw);

impl Read for IgnoreRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        PatternRaw::read(node, cx).map(Self)
    }
}
impl Merge for IgnoreRaw {}

impl JsonSchema for IgnoreRaw {
    fn schema_name() -> Cow<'static, str> {
        "IgnoredPathOrGlob".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_PATTERN,
            "description": "A file, a directory with all that is below it, or a glob. Without a slash it is meant at any depth, as in `.gitignore`: `\"*.tmp\"`, `docs`. With one it is a path: `./docs`, `\"src/**/*.tmp\"`."
        })
    }
}

// ---------------------------------------------------------------------------------------------------
// builds

/// The name of a build that services share.
#[derive(Debug, Clone)]
pub(crate) struct BuildName(pub(crate) ServiceName);

impl Read for BuildName {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let name = text(node, cx, "the name of a build")?;
        match ServiceName::new(name) {
            Ok(name) => Some(Self(name)),
            Err(problem) => {
                cx.push(bad_name(name, node.span, "a build", &problem));
                None
            }
        }
    }
}
impl Merge for BuildName {}

impl JsonSchema for BuildName {
    fn schema_name() -> Cow<'static, str> {
        "BuildName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<ServiceName>()
    }
}

record! {
    /// What makes files that services run from. It runs in a sandbox of its own, without network, sees the whole
    /// project, and may write its `working_dir` (where that is a proper subdirectory of the project and is named) and
    /// the directories of its `outputs`.
    ///
    /// A build of a service has what the service has: its environment, `working_dir`, `writable`, `reads` and
    /// `volumes`; what is said here is added. It never has the service's links, ports, secrets and limits. A build
    /// in `builds` has only what it says, and nothing of `defaults`.
    #[schemars(rename = "Build")]
    BuildRaw: "a build" {
        /// What to run: a list of program and arguments, or a text. A relative program with a slash is relative to
        /// `working_dir`.
        command: CommandRaw,
        /// Whether the text of `command` is run by `/bin/sh -c`. Default: false.
        shell: bool,
        /// A step before `command` that brings in what the build needs from elsewhere:
        /// `{ command: cargo fetch --locked, inputs: [Cargo.lock] }`.
        fetch: FetchRaw,
        /// What it is made of: files, directories and globs, relative to `working_dir`. It runs again when the contents
        /// of one of them changed, and `ws up` skips it while none has. Default: everything in `working_dir` that it
        /// does not make itself. What `.gitignore` leaves out, and `target`, `node_modules` and the like, is never meant
        /// unless it is named.
        inputs: List<PatternRaw>,
        /// What of its inputs is not meant. One without a slash is meant at any depth: `["*.md", ./docs]`.
        ignore: List<IgnoreRaw>,
        /// What it makes: files, directories and globs, relative to `working_dir`: `["target/debug/*"]`; a directory ends
        /// with a slash, `[dist/]`. A service is restarted only when what it uses of them has other contents than before:
        /// its program, where that is one of them, else all. Without outputs, each build that succeeds restarts its
        /// services. They lie in a directory of their own, which the build may write and which is made where it is
        /// missing.
        outputs: List<PatternRaw>,
        /// The current directory. Default: that of the service; of a build in `builds`, the directory of this file.
        working_dir: HostPath,
        /// Environment variables: a mapping, or a list of `NAME=value`. They win over those of the service and of
        /// `env_file`.
        environment: EnvironmentRaw,
        /// Env files with variables for the build, a later one wins.
        env_file: OneOrMany<EnvFileRaw>,
        /// Directories that it may write beside `working_dir` and those of its outputs.
        writable: List<HostPath>,
        /// Files and directories outside the project, or left out of it, that it may read.
        reads: List<HostPath>,
        /// Volumes and directories, for caches: `["cargo:/home/me/.cargo"]`. One at a place where the service has one
        /// too stands in for it.
        volumes: List<MountRaw>,
        /// Builds of `builds` that must have succeeded before this one begins.
        after: List<BuildName>,
        /// What it may use. Default: no limits; those of the service are not meant for its build.
        limits: LimitsRaw,
    }
}

impl Read for BuildRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if scalar_text(node).is_some() || matches!(node.value, Value::Seq(_)) {
            let issue = cx.wrong_type(node, "a mapping");
            cx.push(issue.help("write `{ command: make, inputs: [src], outputs: [\"out/*\"] }`"));
            return None;
        }
        Self::read_long(node, cx)
    }
}

record! {
    /// The step of a build that brings in what it needs from elsewhere. It runs in the build's sandbox, before its
    /// command.
    #[schemars(rename = "Fetch")]
    FetchRaw: "a fetch" {
        /// What to run: a list of program and arguments, or a text.
        command: CommandRaw,
        /// Whether the text of `command` is run by `/bin/sh -c`. Default: false.
        shell: bool,
        /// What decides whether it must run again: `[Cargo.lock]`, relative to `working_dir`. Default: nothing does,
        /// and it runs before each build.
        inputs: List<PatternRaw>,
    }
}
long_only!(FetchRaw);

record! {
    /// A build of `builds`, by its name.
    #[schemars(rename = "BuildByName")]
    BuildUse: "a build by name" {
        /// Its name in `builds`.
        name: BuildName,
        /// What of its outputs the service uses, relative to the `working_dir` of the service: the service is restarted
        /// when one of these has changed. Default: its program, where that is one of the outputs, else all of them.
        uses: List<PatternRaw>,
    }
}

/// `build` of a service.
#[derive(Debug, Clone)]
pub(crate) enum ServiceBuildRaw {
    /// One of `builds`.
    Shared { name: At<BuildName>, uses: Vec<At<PatternRaw>> },
    /// Its own.
    Own(Box<BuildRaw>),
}

impl ServiceBuildRaw {
    /// The build that is written here itself.
    pub(crate) fn own(&self) -> Option<&BuildRaw> {
        match self {
            Self::Own(build) => Some(build),
            Self::Shared { .. } => None,
        }
    }
}

impl Read for ServiceBuildRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) if node.get("name").is_some() || node.get("uses").is_some() => {
                let long = BuildUse::read_long(node, cx)?;
                let Some(name) = long.name else {
                    if long.unread.is_empty() {
                        let issue =
                            error(codes::MISSING_KEY, place_of(node), "`uses` needs the `name` of a build");
                        cx.push(issue.help("write `{ name: rust, uses: [target/debug/api] }`"));
                    }
                    return None;
                };
                Some(Self::Shared { name, uses: long.uses.map(|uses| uses.value.0).unwrap_or_default() })
            }
            Value::Map(_) => BuildRaw::read(node, cx).map(|build| Self::Own(Box::new(build))),
            // Compose's `build: .`.
            Value::Text(text) if text.text.starts_with(['.', '/', '~']) || text.text.contains("://") => {
                let issue = error(
                    codes::WRONG_TYPE,
                    node.span,
                    "`build` takes a command or the name of a build, not a directory",
                );
                cx.push(issue.help(
                    "there are no images: write the command that builds the program, `build: { command: make }`",
                ));
                None
            }
            Value::Text(_) => {
                let name = BuildName::read_at(node, node.span, cx)?;
                Some(Self::Shared { name, uses: Vec::new() })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Seq(_) => {
                let issue = cx.wrong_type(node, "a mapping, or the name of a build");
                cx.push(issue.help("write `build: { command: make }`"));
                None
            }
        }
    }
}

impl Merge for ServiceBuildRaw {
    fn merge(self, under: &Self) -> Self {
        match (self, under) {
            (Self::Own(own), Self::Own(under)) => {
                // One that has its own command does not take the default's way to run it.
                let shell = own.command.is_some().then(|| own.shell.clone());
                let fetch_shell = own.fetch.as_ref().filter(|fetch| fetch.value.command.is_some());
                let fetch_shell = fetch_shell.map(|fetch| fetch.value.shell.clone());
                let mut merged = own.merge(under);
                if let Some(shell) = shell {
                    merged.shell = shell;
                }
                if let (Some(shell), Some(fetch)) = (fetch_shell, &mut merged.fetch) {
                    fetch.value.shell = shell;
                }
                Self::Own(Box::new(merged))
            }
            (own, _) => own,
        }
    }
}

impl JsonSchema for ServiceBuildRaw {
    fn schema_name() -> Cow<'static, str> {
        "BuildOfService".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<BuildName>();
        let by_name = generator.subschema_for::<BuildUse>();
        let own = generator.subschema_for::<BuildRaw>();
        json_schema!({
            "description": "What makes what the service runs from: the name of a build in `builds`, `{ name: rust, uses: [target/debug/api] }`, or a build of its own.",
            "anyOf": [name, by_name, own]
        })
    }
}

// ---------------------------------------------------------------------------------------------------
// watch

record! {
    /// How files are watched, for the whole workspace.
    #[schemars(rename = "Watching")]
    WatchingRaw: "`watch` of the workspace" {
        /// How long it must have been quiet after a change before anything is done about it, so that what is saved
        /// together is one change: from `1ms` to `60s`. Default: `50ms`.
        debounce: Time,
        /// What is never watched: `["*.log", ./docs]`, relative to the directory of this file; one without a slash is
        /// meant at any depth. Beside it, what `.gitignore` leaves out, `.git`, and directories such as `target` and
        /// `node_modules`.
        ignore: List<IgnoreRaw>,
        /// Whether what `.gitignore` files leave out is not watched. Default: true.
        gitignore: bool,
        /// When the files are looked at again and again, because the kernel does not tell of changes: `auto` (on network
        /// and shared file systems, and where inotify has no watches left), `never`, or always, with this pause: `1s`, at
        /// least `100ms`. Default: `auto`.
        poll: PollRaw,
    }
}
long_only!(WatchingRaw);

/// When files are polled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollRaw(pub(crate) Poll);

impl Read for PollRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let is_time = scalar_text(node).is_some_and(|text| {
            parse_duration(&text).is_some() || text.starts_with(|c: char| c.is_ascii_digit())
        });
        if !is_time {
            // The words come first in the message: a text that is neither is more often one of them.
            return word(node, cx, &[("auto", Poll::Auto), ("never", Poll::Never)]).map(Self);
        }
        let Time(pause) = Time::read(node, cx)?;
        if pause < SHORTEST_POLL {
            let issue =
                error(codes::OUT_OF_RANGE, node.span, "this pause is too short to look at all files in");
            cx.push(issue.label("at least `100ms`"));
            return None;
        }
        Some(Self(Poll::Every(pause)))
    }
}
impl Merge for PollRaw {}

impl JsonSchema for PollRaw {
    fn schema_name() -> Cow<'static, str> {
        "Poll".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let pause = generator.subschema_for::<Time>();
        json_schema!({ "anyOf": [{ "enum": ["auto", "never"] }, pause] })
    }
}

/// An entry of `watch` of a service.
#[derive(Debug, Clone)]
pub(crate) struct WatchRaw {
    pub(crate) path: At<PatternRaw>,
    /// Absent: rebuild where there is a build, restart where there is none.
    pub(crate) action: Option<At<ActionRaw>>,
    pub(crate) ignore: Vec<At<IgnoreRaw>>,
}

record! {
    /// Files that are watched, and what is done when one of them changes.
    #[schemars(rename = "Watch")]
    WatchLong: "an entry of `watch`" {
        /// A file, a directory with all that is below it, or a glob, relative to `working_dir`. It need not be there
        /// yet.
        path: PatternRaw,
        /// What is done: `rebuild` (the build runs, and the service is restarted when what it uses is another than
        /// before; a build that fails leaves the old one running), `restart`, `{ signal: SIGHUP }` (to its main
        /// process), or `none`, which takes these files out of what another entry watches. Default: `rebuild` where
        /// the service has a build, else `restart`.
        action: ActionRaw,
        /// What of the files is not meant: `["*.tmp"]`. One without a slash is meant at any depth; others are relative
        /// to `working_dir`.
        ignore: List<IgnoreRaw>,
    }
}

impl Read for WatchRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Map(_) = node.value else {
            let path = PatternRaw::read_at(node, node.span, cx)?;
            return Some(Self { path, action: None, ignore: Vec::new() });
        };
        let long = WatchLong::read_long(node, cx)?;
        let Some(path) = long.path else {
            if long.unread.is_empty() {
                let issue = error(codes::MISSING_KEY, place_of(node), "an entry of `watch` needs a `path`");
                cx.push(issue.help("write `{ path: src, action: restart }`, or just `src`"));
            }
            return None;
        };
        if long.unread.contains(&"action") {
            return None;
        }
        let ignore = long.ignore.map(|ignore| ignore.value.0).unwrap_or_default();
        Some(Self { path, action: long.action, ignore })
    }
}
impl Merge for WatchRaw {}

impl JsonSchema for WatchRaw {
    fn schema_name() -> Cow<'static, str> {
        "WatchEntry".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<PatternRaw>();
        let long = generator.subschema_for::<WatchLong>();
        json_schema!({ "anyOf": [short, long] })
    }
}

/// What is done when a file changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActionRaw(pub(crate) WatchAction);

record! {
    /// A signal in the place of a restart.
    #[schemars(rename = "SignalAction")]
    SignalLong: "an action" {
        /// The signal that the main process gets: `SIGHUP`.
        signal: SignalRaw,
    }
}

impl Read for ActionRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let long = SignalLong::read_long(node, cx)?;
            let Some(signal) = long.signal else {
                if long.unread.is_empty() {
                    let issue = error(codes::MISSING_KEY, place_of(node), "this action does nothing");
                    cx.push(issue.help("write `{ signal: SIGHUP }`, `rebuild`, `restart` or `none`"));
                }
                return None;
            };
            return Some(Self(WatchAction::Signal(signal.value.0)));
        }
        const WORDS: [(&str, WatchAction); 3] = [
            ("rebuild", WatchAction::Rebuild),
            ("restart", WatchAction::Restart),
            ("none", WatchAction::None),
        ];
        let typed = scalar_text(node).unwrap_or_default();
        let named = |word: &str| WORDS.iter().any(|(known, _)| *known == word);
        let help = if ws_model::event::signal_number(&typed.to_ascii_uppercase()).is_some() {
            Some(format!("write `{{ signal: {} }}`", shown(&typed)))
        } else if typed.starts_with("sync") {
            // Compose's, which copies into a container.
            Some("nothing is copied, services see the tree itself: write `restart` or `none`".to_owned())
        } else {
            None
        };
        if let Some(help) = help.filter(|_| !named(&typed)) {
            let message = format!("`{}` is not an action", shown(&typed));
            cx.push(error(codes::UNKNOWN_WORD, node.span, message).help(help));
            return None;
        }
        word(node, cx, &WORDS).map(Self)
    }
}
impl Merge for ActionRaw {}

impl JsonSchema for ActionRaw {
    fn schema_name() -> Cow<'static, str> {
        "WatchAction".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<SignalLong>();
        json_schema!({ "anyOf": [{ "enum": ["rebuild", "restart", "none"] }, long] })
    }
}

// ---------------------------------------------------------------------------------------------------
// reload, listen

words! {
    /// How a new run takes the place of the old one.
    ReloadWord(Reload) as "Reload" { "restart" => Reload::Restart, "overlap" => Reload::Overlap }
}

/// A listening socket that is held for a service.
#[derive(Debug, Clone)]
pub(crate) struct ListenRaw {
    pub(crate) port: At<Port>,
    pub(crate) name: Option<At<String>>,
}

record! {
    /// A listening socket, in its long form.
    #[schemars(rename = "ListenLong")]
    ListenLong: "an entry of `listen`" {
        /// The TCP port, on the service's own address.
        port: Port,
        /// Its name in `$LISTEN_FDNAMES`: printable ASCII without `:`. Default: the port, `"8080"`.
        name: String,
    }
}

impl Read for ListenRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Map(_) = node.value else {
            if number_text(node).is_none() && scalar_text(node).is_none() {
                let issue = cx.wrong_type(node, "ports such as `8080`");
                cx.push(issue.help("write `listen: [8080]`, or `listen: [{ port: 8080, name: http }]`"));
                return None;
            }
            let port = Port::read_at(node, node.span, cx)?;
            return Some(Self { port, name: None });
        };
        let long = ListenLong::read_long(node, cx)?;
        match long.port {
            Some(port) if long.unread.is_empty() => Some(Self { port, name: long.name }),
            Some(_) => None,
            None => {
                if long.unread.is_empty() {
                    let issue =
                        error(codes::MISSING_KEY, place_of(node), "an entry of `listen` needs a `port`");
                    cx.push(issue.help("write `{ port: 8080, name: http }`, or just `8080`"));
                }
                None
            }
        }
    }
}
impl Merge for ListenRaw {}

impl JsonSchema for ListenRaw {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string", "pattern": "^[0-9]{1,5}(/tcp)?$|\\$" }
            ]
        });
        let long = generator.subschema_for::<ListenLong>();
        json_schema!({ "anyOf": [short, long] })
    }
}
