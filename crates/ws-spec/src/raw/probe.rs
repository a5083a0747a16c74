//! Probes: what `startup`, `ready` and `liveness` take.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::Count;
use super::forms::CommandRaw;
use super::read::{
    At, Cx, Merge, OneOrMany, Read, entries, number_text, part_of, place_of, record, scalar_text, text,
};
use super::scalar::{Time, parse_port, range_in};
use crate::codes;
use crate::report::{error, shown};
use crate::yaml::{Node, Span, Value};

/// The pause between two attempts once one has succeeded, when the file says nothing.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause before that; a shorter `interval` is the longest then too.
pub(crate) const START_INTERVAL: Duration = Duration::from_millis(200);
/// How long one attempt may take, when the file says nothing.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// The time to the first success, when the file says nothing.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// How many failures in a row count, when the file says nothing.
pub(crate) const FAILURES: u32 = 3;

record! {
    /// A question to a service: exactly one of `exec`, `http`, `tcp`, `grpc`, `log` and `notify`, and how often it is
    /// asked. It is asked inside the service's sandbox, so it needs no link, port or right.
    #[schemars(rename = "Probe")]
    ProbeRaw: "a probe" {
        /// A command that must end with 0. A text is split, not run by a shell.
        exec: CommandRaw,
        /// A GET that must answer with 200 to 399: `":8080/healthz"`, or a mapping that says more.
        #[schemars(with = "Option<HttpSchema>")]
        http: HttpRaw,
        /// A port that must accept a connection: `":5432"`.
        tcp: ProbePort,
        /// The gRPC health service, which must say SERVING: `":50051"`, or `":50051/my.Service"` for one service of
        /// the server.
        grpc: ProbeGrpc,
        /// A regular expression that a line of its output must match. Not for `liveness`: a line that was written
        /// once says nothing of later.
        log: String,
        /// Whether the service says so itself, by `READY=1` to the socket in `$NOTIFY_SOCKET` (sd_notify). For
        /// `liveness`: by `WATCHDOG=1` within each `interval`, which `$WATCHDOG_USEC` tells it. `ready: notify` is
        /// the same as `ready: { notify: true }`.
        notify: bool,
        /// The longest pause between two attempts until one has succeeded; the first ones follow each other faster.
        /// Default: `200ms`, or `interval` where that is shorter.
        start_interval: Time,
        /// The pause between two attempts once one has succeeded. Default: `5s`. Not for `startup`, which is not
        /// asked again.
        interval: Time,
        /// The time that one attempt may take. Default: `5s`.
        timeout: Time,
        /// The time within which it must succeed for the first time; otherwise the start has failed. Default: `60s`.
        /// Not for `liveness`.
        within: Time,
        /// How many attempts in a row must fail, after one has succeeded, until the service is unhealthy or, for
        /// `liveness`, is restarted. Default: 3. Not for `startup`.
        failures: Count,
    }
}

impl Read for ProbeRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Text(text) = &node.value
            && text.text == "notify"
        {
            let notify = At { value: true, span: node.span, key: node.span };
            return Some(Self { notify: Some(notify), ..Self::default() });
        }
        Self::read_long(node, cx)
    }
}

impl ProbeRaw {
    /// The kinds that it is of, in the order of the file, with the places of their keys.
    pub(crate) fn kinds(&self) -> Vec<(&'static str, Span)> {
        let kinds = [
            ("exec", self.exec.as_ref().map(|at| at.key)),
            ("http", self.http.as_ref().map(|at| at.key)),
            ("tcp", self.tcp.as_ref().map(|at| at.key)),
            ("grpc", self.grpc.as_ref().map(|at| at.key)),
            ("log", self.log.as_ref().map(|at| at.key)),
            ("notify", self.notify.as_ref().filter(|at| at.value).map(|at| at.key)),
        ];
        let mut given: Vec<_> = kinds.into_iter().filter_map(|(kind, at)| Some((kind, at?))).collect();
        given.sort_by_key(|(_, at)| *at);
        given
    }

    /// The kind of this one with the times of both: a service's own probe is never mixed with a default's.
    pub(crate) fn with_kind_of(self, own: &Self) -> Self {
        let Self { exec, http, tcp, grpc, log, notify, .. } = own.clone();
        Self { exec, http, tcp, grpc, log, notify, ..self }
    }
}

/// The schema of a probe: a word, or the mapping.
pub(crate) enum ProbeSchema {}

impl JsonSchema for ProbeSchema {
    fn schema_name() -> Cow<'static, str> {
        "ProbeOrWord".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<ProbeRaw>();
        json_schema!({ "anyOf": [{ "const": "notify" }, long] })
    }
}

record! {
    /// A GET in its long form.
    #[schemars(rename = "HttpProbe")]
    HttpRaw: "an http probe" {
        /// A port of the service and a path: `":8080/healthz"`.
        url: ProbeUrl,
        /// Headers of the request: `{ Host: shop.example }`. One that is sent anyway is replaced.
        headers: HeadersRaw,
        /// The statuses that are a success, each a number or a range: `[200, "300-399"]`. Default: 200 to 399.
        status: OneOrMany<StatusRaw>,
        /// A regular expression that the body must match, of which the beginning is looked at.
        body: String,
    }
}

impl Read for HttpRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let long = Self::read_long(node, cx)?;
            if long.url.is_none() && long.unread.is_empty() {
                let issue = error(codes::MISSING_KEY, place_of(node), "an http probe needs a `url`");
                cx.push(issue.help("write `{ url: \":8080/healthz\" }`"));
            }
            return (long.url.is_some() && long.unread.is_empty()).then_some(long);
        }
        let url = ProbeUrl::read_at(node, node.span, cx)?;
        Some(Self { url: Some(url), ..Self::default() })
    }
}

/// The schema of `http`: the short text, or the mapping.
pub(crate) enum HttpSchema {}

impl JsonSchema for HttpSchema {
    fn schema_name() -> Cow<'static, str> {
        "Http".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<ProbeUrl>();
        let long = generator.subschema_for::<HttpRaw>();
        json_schema!({ "anyOf": [short, long] })
    }
}

/// Headers of a request, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadersRaw(pub(crate) Vec<(String, String)>);

impl Read for HeadersRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let mut out: Vec<(String, String)> = Vec::new();
        let mut seen = std::collections::BTreeMap::new();
        let mut good = true;
        for entry in entries(node, cx, "a mapping of headers")? {
            let (name, span) = (entry.key.text.as_str(), entry.key.span);
            let problem = header_problem(name).map(|why| {
                error(codes::BAD_PROBE, span, format!("`{}` cannot be a header of a probe", shown(name)))
                    .label(why)
            });
            let problem = problem.or_else(|| {
                let first = seen.insert(name.to_ascii_lowercase(), span)?;
                let message = format!("the header `{}` stands twice", shown(name));
                Some(error(codes::DUPLICATE_KEY, span, message).related(first, "first here"))
            });
            if let Some(issue) = problem {
                cx.push(issue);
                good = false;
                continue;
            }
            let Some(value) = scalar_text(&entry.value) else {
                let issue = cx.inside(name, |cx| cx.wrong_type(&entry.value, "a text"));
                cx.push(issue);
                good = false;
                continue;
            };
            // What RFC 9110 (5.5) allows in a value, without the bytes that mean nothing any more.
            if !value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
                let message =
                    format!("the value of the header `{}` has characters that it cannot have", shown(name));
                cx.push(
                    error(codes::BAD_PROBE, entry.value.span, message)
                        .help("only printable ASCII is allowed"),
                );
                good = false;
                continue;
            }
            out.push((name.to_owned(), value.trim().to_owned()));
        }
        good.then_some(Self(out))
    }
}
impl Merge for HeadersRaw {}

/// Why a header cannot be set. A name is a token of RFC 9110 (5.6.2).
fn header_problem(name: &str) -> Option<&'static str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Some("a name has letters, digits and `-`");
    }
    let of_the_connection = ["content-length", "transfer-encoding", "connection"];
    of_the_connection
        .contains(&name.to_ascii_lowercase().as_str())
        .then_some("it frames the request, which has no body and ends the connection")
}

impl JsonSchema for HeadersRaw {
    fn schema_name() -> Cow<'static, str> {
        "Headers".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
    }
}

/// A status, or a range of them, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatusRaw(pub(crate) u16, pub(crate) u16);

impl Read for StatusRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = match number_text(node).map(Cow::Borrowed).or_else(|| scalar_text(node)) {
            Some(text) => text,
            None => {
                let issue = cx.wrong_type(node, "statuses such as `200` or `\"200-299\"`");
                cx.push(issue);
                return None;
            }
        };
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
        };
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let (Some(first), Some(last)) = (status(first.trim()), status(last.trim())) else {
            let message = format!("`{}` is not a status", shown(&text));
            let issue = error(codes::BAD_PROBE, node.span, message).label("statuses are from 100 to 599");
            let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
            cx.push(match class.filter(|class| matches!(*class, "1" | "2" | "3" | "4" | "5")) {
                Some(class) => {
                    let better = format!("{class}00-{class}99");
                    issue.help(format!("write `\"{better}\"`")).fix(node.span, better)
                }
                None => issue.help("write a number, or a range: `\"200-299\"`"),
            });
            return None;
        };
        if first > last {
            let message = format!("`{}` starts above its end", shown(&text));
            cx.push(error(codes::OUT_OF_RANGE, node.span, message));
            return None;
        }
        Some(Self(first, last))
    }
}
impl Merge for StatusRaw {}

impl JsonSchema for StatusRaw {
    fn schema_name() -> Cow<'static, str> {
        "Status".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 599 },
                { "type": "string", "pattern": "^[1-5][0-9][0-9]( *- *[1-5][0-9][0-9])?$|\\$" }
            ]
        })
    }
}

/// `:50051/my.Service`
#[derive(Debug, Clone)]
pub(crate) struct ProbeGrpc {
    pub(crate) port: u16,
    /// Empty: the server as a whole.
    pub(crate) service: String,
}

impl Read for ProbeGrpc {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = match number_text(node) {
            Some(number) => number,
            None => text(node, cx, "a port such as `\":50051\"`")?,
        };
        let (port, service) = text.split_once('/').unwrap_or((text, ""));
        let Some(port) = parse_port(port.strip_prefix(':').unwrap_or(port)) else {
            let issue =
                error(codes::BAD_PROBE, node.span, format!("`{}` is not a port and a service", shown(text)));
            cx.push(issue.help(
                "write a port, and a service of the server if it has several: `\":50051/my.Service\"`",
            ));
            return None;
        };
        let named = service.len() <= 255
            && service
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/'));
        if !named {
            let span = part_of(node, range_in(text, service));
            let message = format!("`{}` is not the name of a gRPC service", shown(service));
            cx.push(error(codes::BAD_PROBE, span, message).help("for example `my.package.Service`"));
            return None;
        }
        Some(Self { port, service: service.to_owned() })
    }
}
impl Merge for ProbeGrpc {}

impl JsonSchema for ProbeGrpc {
    fn schema_name() -> Cow<'static, str> {
        "ProbeGrpc".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port of the service, and a gRPC service of the server: `\":50051\"`, `\":50051/my.Service\"`.",
            "anyOf": [
                { "type": "string", "pattern": "^:?[0-9]{1,5}(/.*)?$|\\$" },
                { "type": "integer", "minimum": 1, "maximum": 65535 }
            ]
        })
    }
}

/// `:8080/healthz`
#[derive(Debug, Clone)]
pub(crate) struct ProbeUrl {
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl Read for ProbeUrl {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let expected = "a port and a path such as `\":8080/healthz\"`";
        let text = match number_text(node).map(Cow::Borrowed) {
            Some(number) => number,
            None => Cow::Borrowed(text(node, cx, expected)?),
        };
        let unfit = |path: &str| path.contains(|c: char| c.is_control() || c == ' ' || !c.is_ascii());
        let bad = |cx: &mut Cx<'_>, message: String| {
            let issue = error(codes::BAD_PROBE, node.span, message);
            // `http://localhost:8080/x` is what people have in their health checks.
            let rest = text.split_once("://").map_or(&*text, |(_, rest)| rest);
            let from_port = rest.find(':').map_or("", |at| &rest[at..]);
            let port = from_port[..from_port.find('/').unwrap_or(from_port.len())].strip_prefix(':');
            cx.push(match port.and_then(parse_port) {
                Some(_) if !unfit(from_port) => {
                    issue.help(format!("write `{}`", shown(from_port))).fix(node.span, from_port)
                }
                _ => issue.help("write a port of the service and a path: `\":8080/healthz\"`"),
            });
        };
        let (port, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (&*text, "/"),
        };
        let Some(port) = parse_port(port.strip_prefix(':').unwrap_or(port)) else {
            bad(cx, format!("`{}` is not a port and a path", shown(&text)));
            return None;
        };
        if unfit(path) {
            bad(cx, format!("`{}` has characters that a request cannot have", shown(path)));
            return None;
        }
        Some(Self { port, path: path.to_owned() })
    }
}
impl Merge for ProbeUrl {}

impl JsonSchema for ProbeUrl {
    fn schema_name() -> Cow<'static, str> {
        "ProbeUrl".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port of the service and a path: `\":8080/healthz\"`.",
            "anyOf": [
                { "type": "string", "pattern": "^:?[0-9]{1,5}(/.*)?$|\\$" },
                { "type": "integer", "minimum": 1, "maximum": 65535 }
            ]
        })
    }
}

/// `:5432`
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbePort(pub(crate) u16);

impl Read for ProbePort {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = match number_text(node) {
            Some(number) => number,
            None => text(node, cx, "a port such as `\":5432\"`")?,
        };
        let port = parse_port(text.strip_prefix(':').unwrap_or(text));
        if port.is_none() {
            let issue = error(codes::BAD_PROBE, node.span, format!("`{}` is not a port", shown(text)));
            cx.push(issue.help("write a port of the service: `\":5432\"`"));
        }
        port.map(Self)
    }
}
impl Merge for ProbePort {}

impl JsonSchema for ProbePort {
    fn schema_name() -> Cow<'static, str> {
        "ProbePort".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A TCP port of the service: `\":5432\"`.",
            "anyOf": [
                { "type": "string", "pattern": "^:?[0-9]{1,5}$|\\$" },
                { "type": "integer", "minimum": 1, "maximum": 65535 }
            ]
        })
    }
}
