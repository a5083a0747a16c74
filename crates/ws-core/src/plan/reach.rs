//! Who may reach whom, by which line of the file, and what would allow it: `ws why api db:5432`, `ws why db`.

use ws_model::{ConfigPath, PortProto, Protocol, ServiceName, Suggestion};

use super::{LinkRule, Plan};

/// Whether a service may reach another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// By these rules.
    Yes(Vec<LinkRule>),
    /// It may reach it, on these ports and not on the one that was asked about.
    OtherPorts {
        /// By these rules.
        by: Vec<LinkRule>,
        /// What would allow the one.
        suggestion: Suggestion,
    },
    /// It may not.
    No {
        /// What would allow it; absent where nothing in the file can.
        suggestion: Option<Suggestion>,
    },
    /// It is itself: by `localhost`, without a rule.
    Itself,
}

/// One who may reach something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reacher {
    /// Who, by its name in the file.
    pub service: ServiceName,
    /// On which port.
    pub port: PortProto,
    /// Where the file says so.
    pub at: ConfigPath,
}

/// Whether `from` may reach `to` (a service, or something external), on this port or on any. `None`: there is no `from`,
/// or it is no name of the file.
#[must_use]
pub fn reach(plan: &Plan, from: &str, to: &str, port: Option<PortProto>) -> Option<Reach> {
    let unit = plan.units(from).into_iter().next()?;
    if plan.units(to).iter().any(|target| target.declared == unit.declared) {
        return Some(Reach::Itself);
    }
    let by = |wanted: &dyn Fn(&LinkRule) -> bool| -> Vec<LinkRule> {
        let mut rules: Vec<LinkRule> = unit
            .links
            .iter()
            .filter(|rule| rule.to.as_str() == to || plan.declared(&rule.to).as_str() == to)
            .filter(|rule| wanted(rule))
            .cloned()
            .collect();
        // Replicas have a rule each.
        rules.dedup_by(|one, other| one.port == other.port && one.at == other.at);
        rules
    };
    let known = !plan.units(to).is_empty() || plan.external.iter().any(|it| it.name.as_str() == to);
    let on_port = by(&|rule| port.is_none_or(|port| rule.port == port));
    if !on_port.is_empty() {
        return Some(Reach::Yes(on_port));
    }
    let suggestion = known.then(|| suggest(plan, unit.declared.as_str(), to, port));
    let others = by(&|_| true);
    match (others.is_empty(), suggestion) {
        (false, Some(suggestion)) => Some(Reach::OtherPorts { by: others, suggestion }),
        (_, suggestion) => Some(Reach::No { suggestion }),
    }
}

fn suggest(plan: &Plan, from: &str, to: &str, port: Option<PortProto>) -> Suggestion {
    let target = plan.units(to).first().map_or(to, |unit| unit.declared.as_str()).to_owned();
    let link = match port {
        None => target,
        Some(PortProto { port, protocol: Protocol::Tcp }) => format!("{target}:{port}"),
        Some(PortProto { port, protocol: Protocol::Udp }) => format!("{target}:{port}/udp"),
    };
    Suggestion { to: format!("services.{from}"), add: format!("links: [\"{link}\"]") }
}

/// Everybody who may reach a service or something external.
#[must_use]
pub fn reached_by(plan: &Plan, to: &str) -> Vec<Reacher> {
    let mut reachers: Vec<Reacher> = plan
        .services
        .values()
        .filter(|unit| !unit.is_one_off())
        .flat_map(|unit| unit.links.iter().map(move |rule| (unit, rule)))
        .filter(|(_, rule)| rule.to.as_str() == to || plan.declared(&rule.to).as_str() == to)
        .map(|(unit, rule)| Reacher { service: unit.declared.clone(), port: rule.port, at: rule.at.clone() })
        .collect();
    reachers.sort();
    reachers.dedup();
    reachers
}
