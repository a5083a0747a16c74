//! Who may reach whom, by which line of the file, and what would allow it: `ws why api db:5432`, `ws why db`.

use std::net::IpAddr;

use serde_json::{Value, json};
use ws_core::plan::{self, LinkRule, Plan, Reach, Reacher};
use ws_model::policy::host_and_port;
use ws_model::{ConfigPath, PortProto, Protocol, exit};

use crate::args::{Format, PlanOptions};
use crate::error::Failure;
use crate::load::{self, Planned};
use crate::render::list;
use crate::ui::{BAD, DIM, GOOD, paint};
use crate::{Context, names};

/// Where somebody wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    port: Option<PortProto>,
}

/// `db`, `db:5432`, `dns:53/udp`, an address of the workspace.
fn target(text: &str, plan: &Plan) -> Result<Target, Failure> {
    let (host, port) = host_and_port(text);
    let port = match port {
        None => None,
        Some(port) => {
            let (number, protocol) = match port.split_once('/') {
                None | Some((_, "tcp")) => (port.split('/').next().unwrap_or(port), Protocol::Tcp),
                Some((number, "udp")) => (number, Protocol::Udp),
                Some(_) => ("", Protocol::Tcp),
            };
            let number = number.parse().ok().filter(|number| *number > 0);
            let bad = || {
                Failure::usage(format!("`{text}` is not a target"))
                    .hint("write a service, with or without a port: `db`, `db:5432`, `dns:53/udp`")
            };
            Some(PortProto { port: number.ok_or_else(bad)?, protocol })
        }
    };
    // Programs report addresses, and people copy them.
    let named = host.parse::<IpAddr>().ok().and_then(|address| {
        plan.addresses().find(|(_, of)| IpAddr::V4(*of) == address).map(|(name, _)| name.to_string())
    });
    Ok(Target { name: named.unwrap_or_else(|| host.to_owned()), port })
}

/// `ws why api db:5432`: 0 when it may, 1 when it may not.
///
/// # Errors
/// When something is wrong with the file, or there is no such service.
pub fn why(context: &Context, from: &str, to: &str) -> Result<u8, Failure> {
    let planned = load::plan(context, &PlanOptions::default())?;
    let plan = &planned.plan;
    names::services(&[from.to_owned()], plan.services.values())?;
    let target = target(to, plan)?;
    let Some(reach) = plan::reach(plan, from, &target.name, target.port) else {
        return Err(Failure::usage(format!("there is no service `{from}`")));
    };
    let others = plan::reached_by(plan, &target.name);
    match context.ui.format {
        Format::Json => context.ui.json(&to_json(&planned, from, &target, &reach, &others))?,
        Format::Text => context.ui.data(&text(&planned, from, &target, &reach, &others))?,
    }
    Ok(match reach {
        Reach::Yes(_) | Reach::Itself => exit::OK,
        Reach::OtherPorts { .. } | Reach::No { .. } => exit::FAILED,
    })
}

fn shown(target: &Target) -> String {
    match target.port {
        Some(port) => format!("{}:{port}", target.name),
        None => target.name.clone(),
    }
}

fn rules(planned: &Planned, rules: &[LinkRule]) -> String {
    let rules: Vec<String> = rules
        .iter()
        .map(|rule| format!("{} by {} ({})", rule.port, load::line_of(&planned.loaded, &rule.at), rule.at))
        .collect();
    list(&rules)
}

/// `api on 5432/tcp (workspace.yaml:12), web on 5432/tcp (workspace.yaml:20)`; empty: nobody.
fn reachers(planned: &Planned, reachers: &[Reacher]) -> String {
    let reachers: Vec<String> = reachers
        .iter()
        .map(|it| format!("{} on {} ({})", it.service, it.port, load::line_of(&planned.loaded, &it.at)))
        .collect();
    list(&reachers)
}

fn text(planned: &Planned, from: &str, target: &Target, reach: &Reach, others: &[Reacher]) -> String {
    let to = shown(target);
    let mut out = String::new();
    let suggestion = match reach {
        Reach::Itself => {
            return format!("{} {from} reaches itself, by `localhost`, without a link\n", paint(GOOD, "✓"));
        }
        Reach::Yes(by) => {
            out += &format!("{} {from} may reach {to}: {}\n", paint(GOOD, "✓"), rules(planned, by));
            None
        }
        Reach::OtherPorts { by, suggestion } => {
            out += &format!(
                "{} {from} may not reach {to}; of {} it may reach {}\n",
                paint(BAD, "✗"),
                target.name,
                rules(planned, by)
            );
            Some(suggestion)
        }
        Reach::No { suggestion } => {
            let why = match suggestion {
                Some(_) => format!("no link of `{from}` leads there"),
                None => format!("nothing in the file is called `{}`", target.name),
            };
            out += &format!("{} {from} may not reach {to}: {why}\n", paint(BAD, "✗"));
            suggestion.as_ref()
        }
    };
    if let Some(suggestion) = suggestion {
        let at = ConfigPath::parse(&suggestion.to).map(|at| load::line_of_key(&planned.loaded, &at));
        let at = at.map(|at| format!(" ({at})")).unwrap_or_default();
        out += &format!("  to allow it, {suggestion}{at}\n");
    } else if matches!(reach, Reach::No { .. }) {
        out += "  to allow it, name it in `external` and link to that: `external: { NAME: \"HOST:PORT\" }`\n";
    }
    let others: Vec<Reacher> = others.iter().filter(|it| it.service.as_str() != from).cloned().collect();
    if !others.is_empty() {
        out += &format!("  {} {}\n", paint(DIM, "who may reach it:"), reachers(planned, &others));
    }
    out
}

/// For `ws why db`: who may reach it. Empty where the file cannot be read now.
#[must_use]
pub fn who(context: &Context, service: &str) -> String {
    let Some(planned) = load::silently(&context.settings) else { return String::new() };
    let who = plan::reached_by(&planned.plan, service);
    let who = if who.is_empty() { "nobody".to_owned() } else { reachers(&planned, &who) };
    format!("  {} {who}\n", paint(DIM, "may be reached by"))
}

fn to_json(planned: &Planned, from: &str, target: &Target, reach: &Reach, others: &[Reacher]) -> Value {
    let place = |at: &ConfigPath| {
        let place = planned.loaded.spans.locate(at);
        json!({ "at": at.to_string(), "file": place.file.display().to_string(), "line": place.line })
    };
    let (allowed, by, suggestion) = match reach {
        Reach::Itself => (true, &[][..], None),
        Reach::Yes(by) => (true, by.as_slice(), None),
        Reach::OtherPorts { by, suggestion } => (false, by.as_slice(), Some(suggestion)),
        Reach::No { suggestion } => (false, &[][..], suggestion.as_ref()),
    };
    let rule = |to: &str, port: PortProto, at: &ConfigPath| json!({ "service": to, "port": port.port, "protocol": port.protocol, "place": place(at) });
    json!({
        "service": from,
        "target": target.name,
        "port": target.port.map(|port| port.port),
        "protocol": target.port.map(|port| port.protocol),
        "allowed": allowed,
        "links": by.iter().map(|it| rule(it.to.as_str(), it.port, &it.at)).collect::<Vec<_>>(),
        "suggestion": suggestion,
        "reached_by": others.iter().map(|it| rule(it.service.as_str(), it.port, &it.at)).collect::<Vec<_>>(),
    })
}
