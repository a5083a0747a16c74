//! The scalars that have a syntax of their own: sizes, durations, shares of processors, networks, ports.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use ws_model::{ByteSize, MilliCpus, PortProto, Protocol, Publish, Subnet};

use super::read::{Cx, Merge, Read, number_text, part_of, scalar_text};
use crate::codes;
use crate::report::{error, nearest, shown};
use crate::yaml::Node;

/// Reads `12`, `1.5` or `.5` as thousandths; more digits are cut off. `None`: not such a number.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    let fraction = fraction.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    whole.checked_mul(1000)?.checked_add(fraction)
}

/// Parses `512M`, `1.5G`, `64KiB`, `1048576`. Every unit is binary, as in Compose.
pub(crate) fn parse_size(text: &str) -> Option<ByteSize> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number = number.trim_end();
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => return number.parse().ok().map(ByteSize),
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let bytes = u128::from(thousandths(number)?) * (1_u128 << shift) / 1000;
    u64::try_from(bytes).ok().map(ByteSize)
}

/// Parses `500ms`, `10s`, `1m30s`, `1.5h`. `None`: not a duration; precision ends at microseconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut micros: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let micros_in = match unit {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        let part = u128::from(thousandths(number)?) * micros_in / 1000;
        micros = micros.checked_add(u64::try_from(part).ok()?)?;
        rest = tail;
    }
    Some(Duration::from_micros(micros))
}

/// The shortest text that [`parse_duration`] reads as the same.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut micros = duration.as_micros();
    let mut out = String::new();
    for (size, unit) in [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1000, "ms"), (1, "us")] {
        let count = micros / size;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
            micros %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// A text in a message; a variable may have left nothing of it.
pub(crate) fn named(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { format!("`{}`", shown(text)) }
}

/// A number of bytes: `512M`, `1.5G`, `64K`, or a plain number of bytes. `K`, `M`, `G` and `T` are
/// powers of 1024.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) ByteSize);

impl Read for Size {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a size such as `512M`");
            cx.push(issue);
            return None;
        };
        if let Some(size) = parse_size(&text) {
            return Some(Self(size));
        }
        let message = format!("{} is not a size", named(&text));
        cx.push(
            error(codes::BAD_SIZE, node.span, message)
                .help("write a number with K, M, G or T: `512M`, `1.5G`"),
        );
        None
    }
}
impl Merge for Size {}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: `512M`, `1.5G`, `64K`, or a plain number. K, M, G and T are powers of 1024.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]*\\.?[0-9]+ *([kKmMgGtT]([iI]?[bB])?|[bB])?$|\\$" }
            ]
        })
    }
}

/// A duration: `500ms`, `10s`, `1m30s`, `2h`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) Duration);

/// The longest duration that is taken for one.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Read for Time {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a duration such as `10s`");
            cx.push(issue);
            return None;
        };
        read_duration(&text, node, cx).map(Self)
    }
}
impl Merge for Time {}

fn read_duration(text: &str, node: &Node, cx: &mut Cx<'_>) -> Option<Duration> {
    match parse_duration(text) {
        Some(duration) if duration <= LONGEST => Some(duration),
        Some(_) => {
            let message = format!("`{}` is longer than a year", shown(text));
            cx.push(error(codes::BAD_DURATION, node.span, message));
            None
        }
        None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            let message = format!("`{}` has no unit", shown(text));
            let better = format!("{text}s");
            cx.push(
                error(codes::BAD_DURATION, node.span, message)
                    .help(format!("for seconds, write `{}`", shown(&better)))
                    .fix(node.span, better),
            );
            None
        }
        None => {
            let message = format!("{} is not a duration", named(text));
            let help = "write numbers with `ms`, `s`, `m` or `h`: `500ms`, `10s`, `1m30s`";
            cx.push(error(codes::BAD_DURATION, node.span, message).help(help));
            None
        }
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration: `500ms`, `10s`, `1m30s`, `2h`.",
            "pattern": "^([0-9]*\\.?[0-9]+(us|ms|s|m|h|d))+$|\\$"
        })
    }
}

/// The pauses between starts: `200ms..30s`, the first and the longest; or one for both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Read for Backoff {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a range of durations such as `200ms..30s`");
            cx.push(issue);
            return None;
        };
        let (min, max) = text.split_once("..").unwrap_or((&text, &text));
        let (min, max) = (read_duration(min, node, cx)?, read_duration(max, node, cx)?);
        if min > max {
            let message = format!("`{}` starts above its end", shown(&text));
            cx.push(error(codes::BAD_DURATION, node.span, message));
            return None;
        }
        Some(Self { min, max })
    }
}
impl Merge for Backoff {}

impl JsonSchema for Backoff {
    fn schema_name() -> Cow<'static, str> {
        "Backoff".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The first pause and the longest: `200ms..30s`; each pause is twice the one before. One duration alone is both."
        })
    }
}

/// A share of processors: `1.5` is one and a half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpus(pub(crate) MilliCpus);

impl Read for Cpus {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, "a number of processors such as `1.5`");
            cx.push(issue);
            return None;
        };
        let Some(milli) = thousandths(&text) else {
            let message = format!("`{}` is not a number of processors", shown(&text));
            cx.push(error(codes::OUT_OF_RANGE, node.span, message).help("write a number: `0.5`, `2`"));
            return None;
        };
        match u32::try_from(milli) {
            Ok(milli @ 10..=1_024_000) => Some(Self(MilliCpus(milli))),
            _ => {
                let message = format!("{} processors are out of range", shown(&text));
                cx.push(error(codes::OUT_OF_RANGE, node.span, message).label("from 0.01 to 1024"));
                None
            }
        }
    }
}
impl Merge for Cpus {}

impl JsonSchema for Cpus {
    fn schema_name() -> Cow<'static, str> {
        "Cpus".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of processors: `0.5`, `2`.",
            "anyOf": [
                { "type": "number", "minimum": 0.01, "maximum": 1024 },
                { "type": "string" }
            ]
        })
    }
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network(pub(crate) Subnet);

impl Read for Network {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = super::read::text(node, cx, "a network such as `10.77.0.0/16`")?;
        let bad = |message: String| error(codes::BAD_SUBNET, node.span, message);
        let parts = text.split_once('/').and_then(|(base, prefix)| {
            Some((base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32)?))
        });
        let Some((base, prefix)) = parts else {
            let message = format!("`{}` is not an IPv4 network", shown(text));
            cx.push(bad(message).help("write an address and a prefix: `10.77.0.0/16`"));
            return None;
        };
        if !(8..=29).contains(&prefix) {
            let message = format!("a prefix of {prefix} bits is out of range");
            cx.push(bad(message).label("from /8 to /29"));
            return None;
        }
        if base.is_loopback()
            || base.is_multicast()
            || base.is_link_local()
            || base.octets()[0] == 0
            || base.octets()[0] >= 240
        {
            let message = format!("`{}` is not a network that hosts can have addresses in", shown(text));
            cx.push(
                bad(message).help("use a private one: `10.77.0.0/16`, `172.20.0.0/16`, `192.168.77.0/24`"),
            );
            return None;
        }
        let Some(subnet) = Subnet::new(base, prefix) else {
            let first = Ipv4Addr::from(u32::from(base) & (u32::MAX << (32 - prefix)));
            let better = format!("{first}/{prefix}");
            let message = format!("`{}` is an address inside a network, not a network", shown(text));
            cx.push(bad(message).help(format!("the network is `{better}`")).fix(node.span, better));
            return None;
        };
        Some(Self(subnet))
    }
}
impl Merge for Network {}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Subnet".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "An IPv4 network: `10.77.0.0/16`; the prefix is from 8 to 29.",
            "pattern": "^[0-9.]+/[0-9]+$|\\$"
        })
    }
}

/// Parses a port, from 1 to 65535, without sign or leading zero.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

/// What to say about a port that is none.
fn why_not_a_port(text: &str) -> &'static str {
    if text.contains('-') {
        "ranges of ports are not known: write each port"
    } else {
        "ports are from 1 to 65535"
    }
}

/// Parses `5432` or `5432/udp`; the message says what is wrong.
pub(crate) fn parse_port_proto(text: &str) -> Result<PortProto, String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port_number = parse_port(port)
        .ok_or_else(|| format!("`{}` is not a port: {}", shown(port), why_not_a_port(port)))?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => {
            let known = nearest(other, ["tcp", "udp"]).map_or(String::new(), |word| format!(" (`{word}`?)"));
            return Err(format!("`{}` is not a protocol: `tcp` or `udp`{known}", shown(protocol)));
        }
    };
    Ok(PortProto { port: port_number, protocol })
}

/// A port: `5432`, `5432/tcp` or `53/udp`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port(pub(crate) PortProto);

impl Read for Port {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = match number_text(node).map(Cow::Borrowed).or_else(|| scalar_text(node)) {
            Some(text) => text,
            None => {
                let issue = cx.wrong_type(node, "ports such as `5432` or `53/udp`");
                cx.push(issue);
                return None;
            }
        };
        match parse_port_proto(&text) {
            Ok(port) => Some(Self(port)),
            Err(message) => {
                cx.push(error(codes::BAD_PORT, node.span, message));
                None
            }
        }
    }
}
impl Merge for Port {}

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A port with its protocol: `5432` (TCP), `53/udp`.",
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string", "pattern": "^[0-9]{1,5}(/(tcp|udp))?$|\\$" }
            ]
        })
    }
}

/// A port that is published on the host.
#[derive(Debug, Clone)]
pub(crate) struct PublishRaw(pub(crate) Publish);

impl Read for PublishRaw {
    fn read(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let expected = "entries such as `\"8080:8080\"`";
        let Some(text) = scalar_text(node) else {
            let issue = cx.wrong_type(node, expected);
            cx.push(issue.help("the form is `\"host-port:port\"` or `\"address:host-port:port\"`"));
            return None;
        };
        match parse_publish(&text) {
            Ok(publish) => Some(Self(publish)),
            Err((part, message)) => {
                let span = part_of(node, range_in(&text, part));
                let mut issue = error(codes::BAD_PORT, span, message);
                if part == "localhost" {
                    issue = issue.help("write its address").fix(span, "127.0.0.1");
                }
                cx.push(issue);
                None
            }
        }
    }
}
impl Merge for PublishRaw {}

/// Where a part of a text is in it.
pub(crate) fn range_in(text: &str, part: &str) -> std::ops::Range<usize> {
    match (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize) {
        Some(at) if at + part.len() <= text.len() => at..at + part.len(),
        _ => 0..text.len(),
    }
}

/// Parses an entry of `ports`; an error comes with the part of the text that it is about.
fn parse_publish(text: &str) -> Result<Publish, (&str, String)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => {}
        "udp" => {
            let message = "this version of ws publishes TCP ports only; links between services carry UDP";
            return Err((protocol, message.to_owned()));
        }
        _ => return Err((protocol, format!("`{}` is not a protocol: `tcp`", shown(protocol)))),
    }
    let (address, rest) = match ports.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (Some(address), rest.strip_prefix(':').unwrap_or(rest)),
        None if ports.matches(':').count() > 1 => {
            let (address, rest) = ports.split_once(':').unwrap_or((ports, ""));
            (Some(address), rest)
        }
        None => (None, ports),
    };
    let host = match address {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(address) => address
            .parse()
            .map_err(|_| (address, format!("`{}` is not an address of the host", shown(address))))?,
    };
    let (host_port, port) = match rest.split_once(':') {
        None => ("0", rest),
        Some(pair) => pair,
    };
    let number = |port| {
        parse_port(port)
            .ok_or_else(|| (port, format!("`{}` is not a port: {}", shown(port), why_not_a_port(port))))
    };
    let host_port = if matches!(host_port, "0" | "") { None } else { Some(number(host_port)?) };
    Ok(Publish { host, host_port, port: number(port)?, protocol: Protocol::Tcp })
}

impl JsonSchema for PublishRaw {
    fn schema_name() -> Cow<'static, str> {
        "PublishedPort".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`\"8080:80\"`: port 8080 of the host leads to port 80 of the service. The host's address is 127.0.0.1 unless one is given: `\"0.0.0.0:8080:80\"`. `\"0:80\"`, and `\"80\"` alone, pick a free port of the host (`ws port` tells which). TCP.",
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512mb", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1.5G", 3 << 29),
            (".5k", 512),
            ("0", 0),
            ("1048576", 1 << 20),
            ("12b", 12),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Some(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "-1M", "1.5", "1e3M", "5X", "1.M.", "99999999999T", "５M", "1 2M", "."] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, micros) in [
            ("500ms", 500_000),
            ("10s", 10_000_000),
            ("1m30s", 90_000_000),
            ("2h", 7_200_000_000),
            ("1.5s", 1_500_000),
            ("0s", 0),
            ("7us", 7),
            ("1d", 86_400_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1 x", "1s2", "999999999999999d", "1.2.3s", "10 s s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn ports_are_published_on_loopback_unless_told() {
        let publish = |host: &str, host_port, port| Publish {
            host: host.parse().unwrap(),
            host_port,
            port,
            protocol: Protocol::Tcp,
        };
        for (text, expected) in [
            ("8080:80", publish("127.0.0.1", Some(8080), 80)),
            ("8080:80/tcp", publish("127.0.0.1", Some(8080), 80)),
            ("0.0.0.0:8080:80", publish("0.0.0.0", Some(8080), 80)),
            ("0:80", publish("127.0.0.1", None, 80)),
            ("80", publish("127.0.0.1", None, 80)),
            ("127.0.0.1::80", publish("127.0.0.1", None, 80)),
            ("[::1]:8080:80", publish("::1", Some(8080), 80)),
        ] {
            assert_eq!(parse_publish(text), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("8080:0", "0"),
            ("70000:80", "70000"),
            ("8080:80/udp", "udp"),
            ("localhost:80:80", "localhost"),
            ("80-90:80", "80-90"),
            ("", ""),
            ("1:2:3:4", "1"),
            ("8080:080", "080"),
            ("a:b", "a"),
        ] {
            assert_eq!(parse_publish(text).map_err(|(part, _)| part), Err(part), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn durations_round_trip(micros in 0_u64..40_000_000_000_000) {
            let duration = Duration::from_micros(micros);
            proptest::prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64) {
            proptest::prop_assert_eq!(parse_size(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)));
        }

        #[test]
        fn whole_units_round_trip(count in 1_u64..4096, shift in 0_u32..4) {
            let size = ByteSize(count << (10 * shift));
            proptest::prop_assert_eq!(parse_size(&size.to_string()), Some(size));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
            let _ = parse_publish(&text);
            let _ = parse_port_proto(&text);
        }
    }
}
