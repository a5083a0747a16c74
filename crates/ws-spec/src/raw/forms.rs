//! Values that have a short form and a long one, and words.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{
    ByteSize, Condition, Level, PortProto, RestartPolicy, SecretName, ServiceKind, ServiceName, Stdin,
    VolumeName,
};

use super::RestartRaw;
use super::read::{
    At, Cx, HostPath, InnerPath, List, Merge, Read, bad_name, entries, host_path, inner_path, key_node,
    no_nul, part_of, place_of, record, scalar_text, text, word,
};
use super::scalar::{Port, Size, parse_port, parse_port_proto, parse_size, range_in};
use crate::codes;
use crate::report::{error, shown};
use crate::yaml::{Node, Span, Value};

macro_rules! words {
    ($($(#[$meta:meta])* $Name:ident($Type:ty) as $schema:literal { $($word:literal => $value:expr),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $Name(pub(crate) $Type);

        impl Read for $Name {
            fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                word(node, cx, &[$(($word, $value)),*]).map(Self)
            }
        }
        impl Merge for $Name {}
        impl JsonSchema for $Name {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": [$($word),*] })
            }
        }
    )* };
}
pub(crate) use words;

words! {
    /// Service or task.
    KindWord(ServiceKind) as "Kind" { "service" => ServiceKind::Service, "task" => ServiceKind::Task }

    /// A level of enforcement.
    LevelWord(Level) as "Level" {
        "full" => Level::Full,
        "standard" => Level::Standard,
        "limited" => Level::Limited,
        "none" => Level::None,
    }

    /// When a service is started again.
    RestartWord(RestartPolicy) as "RestartPolicy" {
        "no" => RestartPolicy::No,
        "on-failure" => RestartPolicy::OnFailure,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::Always,
    }

    /// What the standard input of a service is.
    StdinWord(Stdin) as "Stdin" { "open" => Stdin::Open, "closed" => Stdin::Closed }

    /// When a dependency is satisfied, in our words and in Compose's.
    ConditionWord(Condition) as "Condition" {
        "started" => Condition::Started,
        "ready" => Condition::Ready,
        "completed" => Condition::Completed,
        "service_started" => Condition::Started,
        "service_healthy" => Condition::Ready,
        "service_completed_successfully" => Condition::Completed,
    }
}

/// A schema with a short form beside the long one.
fn either(short: &Schema, long: &Schema) -> Schema {
    json_schema!({ "anyOf": [short, long] })
}

// ---------------------------------------------------------------------------------------------------
// command

/// A program with its arguments: a list, or a text.
#[derive(Debug, Clone)]
pub(crate) enum CommandRaw {
    List(Vec<At<String>>),
    /// With whether its characters are those of the file.
    Text {
        text: String,
        verbatim: bool,
    },
}

/// A word of a command: numbers and booleans are taken as they are written.
#[derive(Debug, Clone)]
struct Word(String);

impl Read for Word {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a list of texts");
            cx.push(issue);
            return None;
        };
        no_nul(&text, node, cx)?;
        Some(Self(text.into_owned()))
    }
}

impl Read for CommandRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Seq(items) => {
                let words: Vec<_> =
                    items.iter().filter_map(|item| Word::read_at(item, place_of(item), cx)).collect();
                if words.len() < items.len() {
                    return None;
                }
                let words =
                    words.into_iter().map(|word| At { value: word.value.0, span: word.span, key: word.key });
                Some(Self::List(words.collect()))
            }
            Value::Text(text) => {
                no_nul(&text.text, node, cx)?;
                Some(Self::Text { text: text.text.clone(), verbatim: text.verbatim })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Map(_) => {
                let issue = cx.wrong_type(node, "a list of texts, or a text");
                cx.push(issue);
                None
            }
        }
    }
}
impl Merge for CommandRaw {}

impl JsonSchema for CommandRaw {
    fn schema_name() -> Cow<'static, str> {
        "Command".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A program with its arguments: a list, or a text that is split as a shell would.",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "minItems": 1, "items": { "type": ["string", "number", "boolean"] } }
            ]
        })
    }
}

// ---------------------------------------------------------------------------------------------------
// environment

/// Environment variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct EnvironmentRaw(pub(crate) Vec<Variable>);

/// An environment variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// `None`: passed through.
    pub(crate) value: Option<String>,
    /// Where the value is.
    pub(crate) span: Span,
}

impl Read for EnvironmentRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let mut out: Vec<Variable> = Vec::new();
        match &node.value {
            Value::Seq(items) => {
                let mut seen = std::collections::BTreeMap::new();
                for item in items {
                    let Some(pair) = text(item, cx, "entries such as `NAME=value`") else { continue };
                    let (name, value) = match pair.split_once('=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (pair, None),
                    };
                    let key = part_of(item, 0..name.len());
                    let span = value.map_or(key, |value| part_of(item, range_in(pair, value)));
                    if let Some(first) = seen.insert(name, key) {
                        let message = format!("`{}` is set twice", shown(name));
                        cx.push(error(codes::DUPLICATE_KEY, key, message).related(first, "first here"));
                    }
                    out.extend(variable(name, key, value, span, cx));
                }
            }
            _ => {
                for entry in entries(node, cx, "a mapping of variables, or a list of `NAME=value`")? {
                    let value = match &entry.value.value {
                        Value::Null => None,
                        Value::Seq(_) | Value::Map(_) => {
                            let issue =
                                cx.inside(&entry.key.text, |cx| cx.wrong_type(&entry.value, "a text"));
                            cx.push(issue);
                            continue;
                        }
                        _ => scalar_text(&entry.value),
                    };
                    let span = if value.is_some() { entry.value.span } else { entry.key.span };
                    out.extend(variable(&entry.key.text, entry.key.span, value.as_deref(), span, cx));
                }
            }
        }
        Some(Self(out))
    }
}
impl Merge for EnvironmentRaw {}

fn variable(name: &str, key: Span, value: Option<&str>, span: Span, cx: &mut Cx<'_>) -> Option<Variable> {
    check_variable_name(name, key, cx)?;
    if value.is_some_and(|value| value.contains('\0')) {
        let message =
            format!("the value of `{}` has a NUL character, which the kernel cannot take", shown(name));
        cx.push(error(codes::NUL, span, message));
        return None;
    }
    Some(Variable { name: name.to_owned(), value: value.map(str::to_owned), span })
}

/// Checks what no kernel and no shell takes as the name of a variable.
pub(crate) fn check_variable_name(name: &str, at: Span, cx: &mut Cx<'_>) -> Option<()> {
    let problem = if name.is_empty() {
        "the name of a variable cannot be empty".to_owned()
    } else if name.contains('=') {
        format!("`{}` is not the name of a variable: it has `=` in it", shown(name))
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        format!(
            "`{}` is not the name of a variable: it has a blank or a control character in it",
            shown(name)
        )
    } else {
        return Some(());
    };
    cx.push(error(codes::BAD_VARIABLE_NAME, at, problem));
    None
}

impl JsonSchema for EnvironmentRaw {
    fn schema_name() -> Cow<'static, str> {
        "Environment".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Environment variables: a mapping, or a list of `NAME=value`. A name alone is passed through from the environment of `ws`.",
            "anyOf": [
                { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } },
                { "type": "array", "items": { "type": "string" } }
            ]
        })
    }
}

// ---------------------------------------------------------------------------------------------------
// env_file

/// An env file.
#[derive(Debug, Clone)]
pub(crate) struct EnvFileRaw {
    pub(crate) path: PathBuf,
    pub(crate) required: bool,
}

record! {
    /// An env file.
    EnvFileLong: "an env file" {
        /// Its path.
        path: HostPath,
        /// Whether its absence is an error. Default: true.
        required: bool,
    }
}

impl Read for EnvFileRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            let path = text(node, cx, "paths of env files")?;
            return Some(Self { path: host_path(path, node, cx)?, required: true });
        }
        let long = EnvFileLong::read_long(node, cx)?;
        let Some(path) = long.path else {
            if long.unread.is_empty() {
                cx.push(error(codes::MISSING_KEY, place_of(node), "an entry of `env_file` needs a `path`"));
            }
            return None;
        };
        Some(Self { path: path.value.0, required: long.required.is_none_or(|required| required.value) })
    }
}
impl Merge for EnvFileRaw {}

impl JsonSchema for EnvFileRaw {
    fn schema_name() -> Cow<'static, str> {
        "EnvFile".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        either(&generator.subschema_for::<HostPath>(), &generator.subschema_for::<EnvFileLong>())
    }
}

// ---------------------------------------------------------------------------------------------------
// include

/// A further workspace file. Absolute.
#[derive(Debug, Clone)]
pub(crate) struct IncludeRaw(pub(crate) PathBuf);

impl Read for IncludeRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let issue = cx.wrong_type(node, "paths of workspace files");
            cx.push(issue.help(
                "write `include: [path/workspace.yaml]`: paths in it are relative to itself, and its own `env_file` \
                 names its env files",
            ));
            return None;
        }
        let path = text(node, cx, "paths of workspace files")?;
        host_path(path, node, cx).map(Self)
    }
}
impl Merge for IncludeRaw {}

impl JsonSchema for IncludeRaw {
    fn schema_name() -> Cow<'static, str> {
        "Include".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<HostPath>()
    }
}

// ---------------------------------------------------------------------------------------------------
// depends_on

/// What must be there first.
#[derive(Debug, Clone, Default)]
pub(crate) struct DependsOn(pub(crate) Vec<DependencyRaw>);

/// One thing that must be there first.
#[derive(Debug, Clone)]
pub(crate) struct DependencyRaw {
    pub(crate) service: At<ServiceName>,
    pub(crate) condition: Option<At<ConditionWord>>,
    pub(crate) required: bool,
    pub(crate) restart: bool,
}

record! {
    /// One thing that must be there first.
    DependencyLong: "a dependency" {
        /// Until when the start waits: `started`, `ready` or `completed`. Compose's words
        /// (`service_healthy` and so on) mean the same. Default: ready where there is a probe, completed
        /// for a task.
        condition: ConditionWord,
        /// Whether the service fails when this one is left out by its profiles or cannot be had.
        /// Default: true.
        required: bool,
        /// Whether the service is stopped each time that this one is started anew, be it after a failure or by
        /// `ws restart`, and started again when this one is there. Default: false.
        restart: bool,
    }
}

impl Read for DependsOn {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Seq(_) = &node.value {
            let names = List::<ServiceName>::read(node, cx)?.0;
            let plain = |service| DependencyRaw { service, condition: None, required: true, restart: false };
            return Some(Self(names.into_iter().map(plain).collect()));
        }
        let mut out = Vec::new();
        for entry in entries(node, cx, "a list of services, or a mapping from services to conditions")? {
            let Some(service) = ServiceName::read_at(&key_node(entry), entry.key.span, cx) else { continue };
            let long = match &entry.value.value {
                Value::Map(_) | Value::Null => {
                    let Some(long) = DependencyLong::read_long(&entry.value, cx) else { continue };
                    long
                }
                _ => {
                    let condition = cx
                        .inside("depends_on", |cx| ConditionWord::read_at(&entry.value, entry.key.span, cx));
                    DependencyLong { condition, ..DependencyLong::default() }
                }
            };
            let required = long.required.is_none_or(|required| required.value);
            let restart = long.restart.is_some_and(|restart| restart.value);
            out.push(DependencyRaw { service, condition: long.condition, required, restart });
        }
        Some(Self(out))
    }
}
impl Merge for DependsOn {}

impl JsonSchema for DependsOn {
    fn schema_name() -> Cow<'static, str> {
        "DependsOn".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<ServiceName>();
        let condition = generator.subschema_for::<ConditionWord>();
        let long = generator.subschema_for::<DependencyLong>();
        json_schema!({
            "description": "A list of services, or a mapping from services to a condition.",
            "anyOf": [
                { "type": "array", "items": name },
                {
                    "type": "object",
                    "propertyNames": name,
                    "additionalProperties": { "anyOf": [condition, long, { "type": "null" }] }
                }
            ]
        })
    }
}

// ---------------------------------------------------------------------------------------------------
// links

/// What may be reached.
#[derive(Debug, Clone)]
pub(crate) struct LinkRaw {
    pub(crate) to: At<ServiceName>,
    /// Empty: every port that the target declares.
    pub(crate) ports: Vec<PortProto>,
    pub(crate) wait: bool,
}

record! {
    /// A link in its long form.
    LinkLong: "a link" {
        /// The service that may be reached: `db`, or with a port, `db:5432`.
        to: String,
        /// The port that may be reached.
        port: Port,
        /// The ports that may be reached.
        ports: List<Port>,
        /// Whether the start waits until the target is ready. Default: true.
        wait: bool,
    }
}

impl Read for LinkRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            let short = text(node, cx, "entries such as `db:5432`")?;
            let (to, port) = target(short, node.span, node, cx)?;
            return Some(Self { to, ports: port.into_iter().collect(), wait: true });
        }
        let long = LinkLong::read_long(node, cx)?;
        let Some(to) = long.to else {
            if long.unread.is_empty() {
                let issue = error(codes::MISSING_KEY, place_of(node), "a link needs `to`");
                cx.push(issue.help("write `{ to: db, port: 5432 }`, or just `db:5432`"));
            }
            return None;
        };
        let to_node = node.get("to").map_or(node, |entry| &entry.value);
        let (service, port) = target(&to.value, to.span, to_node, cx)?;
        let given = [
            port.map(|_| to.span),
            long.port.as_ref().map(|port| port.key),
            long.ports.as_ref().map(|ports| ports.key),
        ];
        let given: Vec<Span> = given.into_iter().flatten().collect();
        if let [first, second, ..] = given[..] {
            let issue = error(codes::CONTRADICTION, second, "the ports of this link are given twice");
            cx.push(issue.related(first, "first here").help("put them all into `ports`"));
        }
        let listed = long.ports.into_iter().flat_map(|ports| ports.value.0).map(|port| port.value.0);
        let ports = port.into_iter().chain(long.port.map(|port| port.value.0)).chain(listed).collect();
        Some(Self { to: service, ports, wait: long.wait.is_none_or(|wait| wait.value) })
    }
}
impl Merge for LinkRaw {}

/// Reads `db`, `db:5432`, `db:53/udp`.
fn target(
    text: &str,
    span: Span,
    node: &Node,
    cx: &mut Cx<'_>,
) -> Option<(At<ServiceName>, Option<PortProto>)> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let name_span = part_of(node, range_in(text, name));
    let service = match ServiceName::new(name) {
        Ok(service) => service,
        Err(problem) => {
            cx.push(bad_name(name, name_span, "a service", &problem));
            return None;
        }
    };
    let port = match port.map(parse_port_proto) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(message)) => {
            let part = part_of(node, range_in(text, port.unwrap_or(text)));
            let mut issue = error(codes::BAD_PORT, part, message);
            if ServiceName::new(port.unwrap_or_default()).is_ok()
                && parse_port(port.unwrap_or_default()).is_none()
            {
                issue = issue.help("a link is `service:port`; a service has no other names than its own");
            }
            cx.push(issue);
            return None;
        }
    };
    Some((At { value: service, span: name_span, key: span }, port))
}

impl JsonSchema for LinkRaw {
    fn schema_name() -> Cow<'static, str> {
        "Link".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = json_schema!({
            "type": "string",
            "description": "`db:5432`, `dns:53/udp`, or `db` for every port that `db` declares.",
            "pattern": "^[a-z0-9][a-z0-9_-]{0,62}(:[0-9]{1,5}(/(tcp|udp))?)?$|\\$"
        });
        either(&short, &generator.subschema_for::<LinkLong>())
    }
}

// ---------------------------------------------------------------------------------------------------
// volumes and tmpfs of a service

/// What is mounted.
#[derive(Debug, Clone)]
pub(crate) struct MountRaw {
    pub(crate) source: MountFrom,
    /// Where the source is written.
    pub(crate) source_span: Span,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum MountFrom {
    Volume(VolumeName),
    Host(PathBuf),
}

record! {
    /// A volume or directory in its long form.
    MountLong: "a mount" {
        /// What is mounted: the name of a volume, or a directory of the host (with a slash: `./data`).
        source: String,
        /// Where it is seen inside. Default for a directory: at its own path.
        target: InnerPath,
        /// Whether the service cannot write it. Default: false.
        read_only: bool,
    }
}

impl Read for MountRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let long = MountLong::read_long(node, cx)?;
            let read_only = long.read_only.is_some_and(|read_only| read_only.value);
            let Some(source) = long.source else {
                if long.unread.is_empty() {
                    let message = "an entry of `volumes` needs a `source`";
                    cx.push(error(codes::MISSING_KEY, place_of(node), message));
                }
                return None;
            };
            let source_node = node.get("source").map_or(node, |entry| &entry.value);
            let from = mount_source(&source.value, source.span, source_node, cx)?;
            let target = match long.target {
                Some(target) => target.value.0,
                None if long.unread.contains(&"target") => return None,
                None => own_path(&from, &source.value, source.span, cx)?,
            };
            return Some(Self { source: from, source_span: source.span, target, read_only });
        }
        let short = text(node, cx, "entries such as `data:/var/data`")?;
        let parts: Vec<&str> = short.split(':').collect();
        let (source, target, mode) = match parts[..] {
            [source] => (source, None, None),
            // `./dir:ro` is a directory at its own path, not one that is mounted at `ro`.
            [source, mode @ ("ro" | "rw")] => (source, None, Some(mode)),
            [source, target] => (source, Some(target), None),
            [source, target, mode] => (source, Some(target), Some(mode)),
            _ => {
                let message = format!("`{}` has too many parts", shown(short));
                cx.push(
                    error(codes::BAD_MOUNT, node.span, message)
                        .help("the form is `source:target`, or `source:target:ro`"),
                );
                return None;
            }
        };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => {
                let span = part_of(node, range_in(short, other));
                let message = format!("`{}` is not a way to mount: `ro` or `rw`", shown(other));
                cx.push(error(codes::BAD_MOUNT, span, message).did_you_mean(span, other, ["ro", "rw"]));
                return None;
            }
        };
        let source_span = part_of(node, range_in(short, source));
        let from = mount_source(source, source_span, node, cx)?;
        let target = match target {
            Some(target) => inner_path(target, part_of(node, range_in(short, target)), node, cx)?,
            None if source.starts_with('/') => {
                let message = format!("`{}` has a source and no target", shown(source));
                let volume = format!("for a volume: `name:{}`", shown(source));
                let directory = format!("for this directory of the host: `{0}:{0}`", shown(source));
                cx.push(error(codes::BAD_MOUNT, source_span, message).help(volume).help(directory));
                return None;
            }
            None => own_path(&from, source, source_span, cx)?,
        };
        Some(Self { source: from, source_span, target, read_only })
    }
}
impl Merge for MountRaw {}

/// The place inside of a directory that is given without one: its own path.
fn own_path(from: &MountFrom, source: &str, span: Span, cx: &mut Cx<'_>) -> Option<PathBuf> {
    match from {
        MountFrom::Host(path) => match super::read::reserved(path) {
            None => Some(path.clone()),
            Some(why) => {
                let message = format!("nothing can be mounted at `{}`: {why}", shown(source));
                cx.push(error(codes::RESERVED_TARGET, span, message));
                None
            }
        },
        MountFrom::Volume(name) => {
            let message = format!("the volume `{name}` has no place inside the service");
            cx.push(error(codes::BAD_MOUNT, span, message).help(format!("write `{name}:/where/it/is/seen`")));
            None
        }
    }
}

fn mount_source(text: &str, span: Span, node: &Node, cx: &mut Cx<'_>) -> Option<MountFrom> {
    if text.starts_with(['.', '/', '~']) {
        return host_path(text, node, cx).map(MountFrom::Host);
    }
    match VolumeName::new(text) {
        Ok(name) => Some(MountFrom::Volume(name)),
        Err(_) if text.contains('/') => {
            let better = format!("./{text}");
            let message =
                format!("`{}` is neither the name of a volume nor a path that is recognised", shown(text));
            let help = format!("for a directory, write `{}`", shown(&better));
            cx.push(error(codes::BAD_NAME, span, message).help(help).fix(span, better));
            None
        }
        Err(problem) => {
            cx.push(bad_name(text, span, "a volume", &problem));
            None
        }
    }
}

impl JsonSchema for MountRaw {
    fn schema_name() -> Cow<'static, str> {
        "Mount".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = json_schema!({
            "type": "string",
            "description": "`name:/data` mounts a volume, `./dir:/data` a directory, `./dir` a directory at its own path; `:ro` behind it forbids to write."
        });
        either(&short, &generator.subschema_for::<MountLong>())
    }
}

/// A private directory in memory.
#[derive(Debug, Clone)]
pub(crate) struct TmpfsRaw {
    pub(crate) target: PathBuf,
    pub(crate) size: Option<ByteSize>,
}

record! {
    /// A private directory in memory, in its long form.
    TmpfsLong: "a tmpfs" {
        /// Where it is seen inside.
        target: InnerPath,
        /// Its size. Default: as `limits.tmp`.
        size: Size,
    }
}

impl Read for TmpfsRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let long = TmpfsLong::read_long(node, cx)?;
            let Some(target) = long.target else {
                if long.unread.is_empty() {
                    cx.push(error(
                        codes::MISSING_KEY,
                        place_of(node),
                        "an entry of `tmpfs` needs a `target`",
                    ));
                }
                return None;
            };
            return Some(Self { target: target.value.0, size: long.size.map(|size| size.value.0) });
        }
        let short = text(node, cx, "entries such as `/cache`")?;
        let (target, options) = match short.split_once(':') {
            Some((target, options)) => (target, Some(options)),
            None => (short, None),
        };
        let path = inner_path(target, part_of(node, range_in(short, target)), node, cx)?;
        let mut size = None;
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            let span = part_of(node, range_in(short, option));
            match option.strip_prefix("size=").map(parse_size) {
                Some(Some(value)) => size = Some(value),
                Some(None) => {
                    let message = format!("`{}` is not a size", shown(option));
                    cx.push(error(codes::BAD_SIZE, span, message).help("write `size=64M`"));
                }
                None => {
                    let message = format!("`{}` is not an option of a tmpfs here", shown(option));
                    cx.push(error(codes::BAD_MOUNT, span, message).help("only `size=64M` is"));
                }
            }
        }
        Some(Self { target: path, size })
    }
}
impl Merge for TmpfsRaw {}

impl JsonSchema for TmpfsRaw {
    fn schema_name() -> Cow<'static, str> {
        "Tmpfs".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = json_schema!({
            "type": "string",
            "description": "`/cache`, or `/cache:size=64M`.",
            "pattern": "^/|\\$"
        });
        either(&short, &generator.subschema_for::<TmpfsLong>())
    }
}

// ---------------------------------------------------------------------------------------------------
// secrets of a service

/// A secret that a service gets.
#[derive(Debug, Clone)]
pub(crate) struct SecretUseRaw {
    pub(crate) name: At<SecretName>,
    pub(crate) env: Option<At<String>>,
}

record! {
    /// How a service gets a secret.
    SecretUseLong: "the use of a secret" {
        /// The environment variable that it becomes. Files are safer: a variable is seen by every child
        /// of the service.
        env: String,
    }
}

impl Read for SecretUseRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let name = SecretName::read_at(node, node.span, cx)?;
            return Some(Self { name, env: None });
        };
        if let Some(source) = entries.iter().find(|entry| entry.key.text == "source") {
            let message = "`source` is not the form of an entry of `secrets` here";
            let issue = error(codes::UNKNOWN_KEY, source.key.span, message);
            cx.push(issue.help("write the secret's name, or `{ name: { env: VARIABLE } }`"));
            return None;
        }
        let [entry] = &entries[..] else {
            let message = "an entry of `secrets` is one name, or `{ name: { env: VARIABLE } }`";
            cx.push(error(codes::WRONG_TYPE, place_of(node), message));
            return None;
        };
        let name = SecretName::read_at(&key_node(entry), entry.key.span, cx)?;
        let long = cx.inside(&entry.key.text, |cx| SecretUseLong::read_long(&entry.value, cx))?;
        if let Some(env) = &long.env {
            check_variable_name(&env.value, env.span, cx)?;
        }
        Some(Self { name, env: long.env })
    }
}
impl Merge for SecretUseRaw {}

impl JsonSchema for SecretUseRaw {
    fn schema_name() -> Cow<'static, str> {
        "SecretUse".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<SecretName>();
        let long = generator.subschema_for::<SecretUseLong>();
        let long = json_schema!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": name,
            "additionalProperties": long
        });
        either(&name, &long)
    }
}

// ---------------------------------------------------------------------------------------------------
// restart, stop, profiles

impl Read for RestartRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            return Self::read_long(node, cx);
        }
        // Compose's `on-failure:5`.
        if let Value::Text(text) = &node.value
            && let Some(count) = text.text.strip_prefix("on-failure:")
        {
            let Some(max) = count.parse::<u32>().ok().filter(|max| *max > 0) else {
                let span = part_of(node, range_in(&text.text, count));
                cx.push(error(
                    codes::OUT_OF_RANGE,
                    span,
                    format!("`{}` is not a number of restarts", shown(count)),
                ));
                return None;
            };
            let at = |value| At { value, span: node.span, key: node.span };
            return Some(Self {
                policy: Some(At {
                    value: RestartWord(RestartPolicy::OnFailure),
                    span: node.span,
                    key: node.span,
                }),
                max: Some(at(super::Count(max))),
                ..Self::default()
            });
        }
        if let Value::Bool(false) = node.value {
            let issue = cx.wrong_type(node, "one of `no`, `on-failure`, `always`, `unless-stopped`");
            cx.push(issue.help("write `no`").fix(node.span, "\"no\""));
            return None;
        }
        let policy = RestartWord::read_at(node, node.span, cx)?;
        Some(Self { policy: Some(policy), ..Self::default() })
    }
}

/// The schema of `restart`: a word, or the mapping.
pub(crate) enum RestartSchema {}

impl JsonSchema for RestartSchema {
    fn schema_name() -> Cow<'static, str> {
        "Restart".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<RestartWord>();
        let counted = json_schema!({ "type": "string", "pattern": "^on-failure:[0-9]+$|\\$" });
        let long = generator.subschema_for::<RestartRaw>();
        json_schema!({ "anyOf": [word, counted, long] })
    }
}

/// A signal that stops a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignalRaw(pub(crate) i32);

impl Read for SignalRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(typed) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a signal such as `SIGTERM`");
            cx.push(issue);
            return None;
        };
        let number = typed.parse::<i32>().ok().filter(|number| (1..=31).contains(number));
        let number = number.or_else(|| ws_model::event::signal_number(&typed.to_ascii_uppercase()));
        let Some(number) = number else {
            let names: Vec<String> = (1..=31).map(ws_model::event::signal_name).collect();
            let message = format!("`{}` is not a signal", shown(&typed));
            let upper = typed.to_ascii_uppercase();
            let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
            let is_word = typed.starts_with(|c: char| c.is_ascii_alphabetic());
            let meant = names
                .iter()
                .filter(|_| is_word)
                .map(|name| (strsim::damerau_levenshtein(&full, name), name))
                .filter(|(distance, _)| *distance <= 2)
                .min();
            let issue = error(codes::BAD_SIGNAL, node.span, message);
            cx.push(match meant {
                Some((_, name)) => issue.help(format!("did you mean `{name}`?")).fix(node.span, name.clone()),
                None => issue.help("for example `SIGTERM`, `SIGINT`, `SIGQUIT`"),
            });
            return None;
        };
        let name = ws_model::event::signal_name(number);
        if matches!(name.as_str(), "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU") {
            let message = format!("`{name}` freezes a process and does not end it");
            cx.push(
                error(codes::BAD_SIGNAL, node.span, message)
                    .help("for example `SIGTERM`, `SIGINT`, `SIGQUIT`"),
            );
            return None;
        }
        Some(Self(number))
    }
}
impl Merge for SignalRaw {}

impl JsonSchema for SignalRaw {
    fn schema_name() -> Cow<'static, str> {
        "Signal".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A signal: `SIGTERM`, `SIGINT`, `SIGQUIT`.",
            "type": ["string", "integer"]
        })
    }
}

/// The name of a profile.
#[derive(Debug, Clone)]
pub(crate) struct ProfileName(pub(crate) String);

impl Read for ProfileName {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let name = text(node, cx, "names of profiles")?;
        let mut chars = name.chars();
        let good = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !good {
            let message = format!("`{}` is not a name for a profile", shown(name));
            cx.push(
                error(codes::BAD_NAME, node.span, message).label("names are `[a-zA-Z0-9][a-zA-Z0-9_.-]*`"),
            );
            return None;
        }
        Some(Self(name.to_owned()))
    }
}
impl Merge for ProfileName {}

impl JsonSchema for ProfileName {
    fn schema_name() -> Cow<'static, str> {
        "Profile".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9_.-]*$|\\$" })
    }
}
