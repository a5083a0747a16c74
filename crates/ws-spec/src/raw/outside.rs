//! What is outside of the workspace: services that run elsewhere, and programs that must be there.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{External, ExternalHost, VersionRange};

use super::read::{Cx, Merge, Read, number_text, part_of, text};
use super::scalar::{named, parse_port, range_in};
use crate::codes;
use crate::report::{Issue, error, shown};
use crate::yaml::{Node, Value};

/// Where something runs that is not a service of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct ExternalRaw(pub(crate) External);

impl Read for ExternalRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Some(port) = number_text(node).filter(|port| parse_port(port).is_some()) {
            let issue = cx.wrong_type(node, "a host and a port");
            let better = format!("\"host:{port}\"");
            let fix =
                if matches!(node.value, Value::Number(_)) { better.clone() } else { format!("host:{port}") };
            cx.push(issue.help(format!("for this machine, write `{better}`")).fix(node.span, fix));
            return None;
        }
        let text = text(node, cx, "a host and a port such as `\"host:3000\"`")?;
        let Some((host, port)) = text.rsplit_once(':') else {
            let issue = error(codes::BAD_EXTERNAL, node.span, format!("{} has no port", named(text)));
            let better = if text.is_empty() { "host" } else { text };
            cx.push(issue.help(format!("write `\"{}:3000\"`", shown(better))));
            return None;
        };
        let bad = |part: &str, message: String| {
            error(codes::BAD_EXTERNAL, part_of(node, range_in(text, part)), message)
        };
        if let Some((_, rest)) = text.split_once("://") {
            let issue = bad(text, format!("`{}` is a URL, and this takes a host and a port", shown(text)));
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            cx.push(if host.contains(':') {
                issue.help(format!("write `\"{}\"`", shown(host))).fix(node.span, host)
            } else {
                issue.help("write `\"name.example:443\"`")
            });
            return None;
        }
        let Some(port_number) = parse_port(port) else {
            let issue = bad(port, format!("{} is not a port", named(port)));
            cx.push(issue.label("a TCP port, from 1 to 65535"));
            return None;
        };
        match external_host(host) {
            Ok(host) => Some(Self(External { host, port: port_number })),
            Err((message, better)) => {
                let issue: Issue = bad(host, message);
                let span = part_of(node, range_in(text, host));
                cx.push(match better {
                    // The whole value is replaced where the host alone cannot be pointed at.
                    Some(better) if span == node.span => {
                        let better = format!("{better}:{port}");
                        issue.help(format!("write `{better}`")).fix(span, better)
                    }
                    Some(better) => issue.help(format!("write `{better}:{port}`")).fix(span, better),
                    None => issue.help("write `host` for this machine, an IPv4 address, or a name"),
                });
                None
            }
        }
    }
}
impl Merge for ExternalRaw {}

/// Reads a host; an error comes with what to write in its place, where that is known.
fn external_host(host: &str) -> Result<ExternalHost, (String, Option<&'static str>)> {
    if host == "host" {
        return Ok(ExternalHost::Loopback);
    }
    let is_this_machine = || {
        let message = format!("inside, `{}` is the service itself", shown(host));
        Err((message, Some("host")))
    };
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return is_this_machine();
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => {
            return Err((format!("`{}` is an IPv6 address, and ws connects by IPv4", shown(host)), None));
        }
        Ok(IpAddr::V4(address)) if address.is_loopback() => return is_this_machine(),
        Ok(IpAddr::V4(address)) if is_one_machine(address) => return Ok(ExternalHost::Address(address)),
        Ok(IpAddr::V4(_)) => {
            return Err((format!("`{}` is not the address of a machine", shown(host)), None));
        }
        Err(_) => {}
    }
    if is_host_name(host) {
        return Ok(ExternalHost::Name(host.to_ascii_lowercase()));
    }
    Err((format!("{} is not a host", named(host)), None))
}

fn is_one_machine(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast())
}

/// Whether a text is a name of a host: labels with dots between them (RFC 1123 2.1), `_` taken too; the last one is not
/// a number, because such a name is a misspelt address.
fn is_host_name(text: &str) -> bool {
    let good = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(good) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl JsonSchema for ExternalRaw {
    fn schema_name() -> Cow<'static, str> {
        "External".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Where it runs, and its TCP port: `\"host:3000\"` (this machine), `\"192.168.1.5:5432\"`, `\"api.example:443\"`.",
            "pattern": "^[A-Za-z0-9._-]+:[0-9]{1,5}$|\\$"
        })
    }
}

/// The name of a program.
#[derive(Debug, Clone)]
pub(crate) struct ProgramName(pub(crate) String);

impl Read for ProgramName {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let name = text(node, cx, "the name of a program")?;
        let good = !name.is_empty()
            && name.len() <= 255
            && !name.starts_with(['-', '.'])
            && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if !good {
            let issue = error(
                codes::BAD_REQUIREMENT,
                node.span,
                format!("`{}` is not the name of a program", shown(name)),
            );
            cx.push(issue.label("it is looked up in `PATH` inside").help("write `node: \">=20\"`"));
            return None;
        }
        Some(Self(name.to_owned()))
    }
}

impl JsonSchema for ProgramName {
    fn schema_name() -> Cow<'static, str> {
        "Program".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^/.-][^/]*$" })
    }
}

/// What the version of a program must satisfy.
#[derive(Debug, Clone)]
pub(crate) struct VersionRaw(pub(crate) String);

impl Read for VersionRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        const LONGEST: usize = 200;
        let text = match number_text(node) {
            Some(number) => number,
            None => text(node, cx, "a version such as `\">=20\"`")?,
        };
        let fault = match VersionRange::parse(text) {
            Ok(_) if text.len() <= LONGEST => return Some(Self(text.trim().to_owned())),
            Ok(_) => text.to_owned(),
            Err(condition) => condition,
        };
        let message = match fault.as_str() {
            "" => "a condition on a version is empty".to_owned(),
            fault => format!("`{}` is not a condition on a version", shown(fault)),
        };
        let span = match text.find(&fault) {
            Some(at) if !fault.is_empty() => part_of(node, at..at + fault.len()),
            _ => node.span,
        };
        let issue = error(codes::BAD_REQUIREMENT, span, message);
        let commas = fault.split_whitespace().collect::<Vec<_>>().join(", ");
        let swapped = fault.strip_prefix("=>").map(|rest| format!(">={rest}"));
        let swapped = swapped.or_else(|| fault.strip_prefix("=<").map(|rest| format!("<={rest}")));
        let number = fault.trim_start_matches(['^', '~', 'v']).trim_end_matches(".x").trim_end_matches(".*");
        let is_range = |text: &str| VersionRange::parse(text).is_ok();
        cx.push(if let Some(better) = swapped.filter(|better| is_range(better)) {
            issue.help(format!("write `{}`", shown(&better))).fix(span, better)
        } else if fault.contains(char::is_whitespace) && is_range(&commas) {
            issue.help(format!("put commas between conditions: `{}`", shown(&commas))).fix(span, commas)
        } else if is_range(number) {
            issue.help(format!("`{0}` is every {0}.x, `>={0}` is it and all later ones", shown(number)))
        } else {
            issue.help("write `\">=20\"`, `\">=3.11, <4\"`, `15` for every 15.x, or `\"*\"`")
        });
        None
    }
}
impl Merge for VersionRaw {}

impl JsonSchema for VersionRaw {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A version, or conditions with commas between them: `\">=20\"`, `\">=3.11, <4\"`, `15` (every 15.x), `\"*\"` (any).",
            "anyOf": [
                { "type": "number", "minimum": 0 },
                { "type": "string", "pattern": "^ *([<>]?=?|=) *[0-9][0-9.]*( *, *[<>=]* *[0-9][0-9.]*)* *$|^ *\\*|\\$" }
            ]
        })
    }
}
