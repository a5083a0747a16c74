//! Graphs of services: order and circles for the planner, and `ws graph` for people and tools.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graphmap::DiGraphMap;
use serde_json::{Value, json};
use ws_model::{Condition, PortProto, Publish, ServiceKind, ServiceName};

use crate::plan::{Plan, times};
use crate::text::elsewhere;

/// Services (or anything with a name), and for each edge what it carries. An edge goes from the one
/// that waits to the one that is waited for.
pub(crate) type Graph<'a, E> = DiGraphMap<&'a ServiceName, E>;

/// Every set of services that wait for each other in a circle, each ascending, in order of their first.
pub(crate) fn knots<'a, E>(graph: &Graph<'a, E>) -> Vec<Vec<&'a ServiceName>> {
    let mut knots: Vec<Vec<&ServiceName>> = tarjan_scc(graph)
        .into_iter()
        .filter(|knot| knot.len() > 1 || knot.first().is_some_and(|n| graph.contains_edge(n, n)))
        .map(|mut knot| {
            knot.sort_unstable();
            knot
        })
        .collect();
    knots.sort_unstable();
    knots
}

/// The shortest circle through the first service of a knot, that service first and not again at the end.
pub(crate) fn circle<'a, E>(graph: &Graph<'a, E>, knot: &[&'a ServiceName]) -> Vec<&'a ServiceName> {
    let Some(&first) = knot.first() else { return Vec::new() };
    // Breadth first: the first way back to the start is a shortest one.
    let mut ways: Vec<Vec<&ServiceName>> = vec![vec![first]];
    let mut seen: BTreeSet<&ServiceName> = BTreeSet::new();
    loop {
        let mut longer = Vec::new();
        for way in ways {
            let Some(&end) = way.last() else { continue };
            let mut next: Vec<&ServiceName> = graph.neighbors(end).collect();
            next.sort_unstable();
            for to in next {
                if to == first {
                    return way;
                }
                if seen.insert(to) {
                    let mut way = way.clone();
                    way.push(to);
                    longer.push(way);
                }
            }
        }
        if longer.is_empty() {
            return knot.to_vec();
        }
        ways = longer;
    }
}

/// The services in waves: each waits only for services of earlier waves. Names ascend within a wave.
///
/// `None` when there is a circle.
pub(crate) fn waves<'a, E>(graph: &Graph<'a, E>) -> Option<Vec<Vec<&'a ServiceName>>> {
    let order = toposort(graph, None).ok()?;
    let mut wave_of: BTreeMap<&ServiceName, usize> = BTreeMap::new();
    let mut waves: Vec<Vec<&ServiceName>> = Vec::new();
    for name in order.into_iter().rev() {
        let wave = graph.neighbors(name).filter_map(|on| wave_of.get(on)).map(|w| w + 1).max().unwrap_or(0);
        wave_of.insert(name, wave);
        if waves.len() <= wave {
            waves.resize_with(wave + 1, Vec::new);
        }
        waves[wave].push(name);
    }
    for wave in &mut waves {
        wave.sort_unstable();
    }
    Some(waves)
}

/// What one service has to do with another one, or with something that runs elsewhere.
#[derive(Debug, Default)]
struct Relation {
    /// What its start waits for, and whether it must be had.
    waits: Vec<(Condition, bool)>,
    /// What it may reach.
    ports: Vec<PortProto>,
}

type Relations<'a> = BTreeMap<&'a ServiceName, BTreeMap<&'a ServiceName, Relation>>;

/// Every relation of a plan, by who has it and to whom. The names are those in the file: replicas are alike.
fn relations(plan: &Plan) -> Relations<'_> {
    let mut relations: Relations<'_> =
        plan.external.iter().map(|external| (&external.name, BTreeMap::new())).collect();
    for unit in plan.services.values() {
        let of = relations.entry(&unit.declared).or_default();
        for wait in unit.waits.iter().filter(|wait| *plan.declared(&wait.on) != unit.declared) {
            let waits = &mut of.entry(plan.declared(&wait.on)).or_default().waits;
            if !waits.contains(&(wait.condition, wait.required)) {
                waits.push((wait.condition, wait.required));
            }
        }
        for link in &unit.links {
            let ports = &mut of.entry(plan.declared(&link.to)).or_default().ports;
            if !ports.contains(&link.port) {
                ports.push(link.port);
            }
        }
    }
    relations
}

/// A service or what runs elsewhere, as a drawing shows it.
#[derive(Debug)]
struct Node<'a> {
    name: &'a ServiceName,
    kind: Kind,
    /// `api ×3`, then whatever is worth a line: where it runs, what is published.
    lines: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Task,
    Elsewhere,
}

/// Everything that has a name in the file, in order of names.
fn nodes(plan: &Plan) -> Vec<Node<'_>> {
    let mut nodes: BTreeMap<&ServiceName, Node<'_>> = BTreeMap::new();
    for unit in plan.services.values() {
        let name = &unit.declared;
        let made = nodes.entry(name).or_insert_with(|| {
            let (kind, word) = match unit.kind {
                ServiceKind::Service => (Kind::Service, ""),
                ServiceKind::Task => (Kind::Task, " (task)"),
                ServiceKind::Build => (Kind::Task, " (build)"),
            };
            let title = times(name, plan.units(name.as_str()).len());
            Node { name, kind, lines: vec![format!("{title}{word}")] }
        });
        for port in unit.publish.iter().map(published) {
            if !made.lines.contains(&port) {
                made.lines.push(port);
            }
        }
    }
    for external in &plan.external {
        let name = &external.name;
        let lines = vec![name.to_string(), elsewhere(external)];
        nodes.insert(name, Node { name, kind: Kind::Elsewhere, lines });
    }
    nodes.into_values().collect()
}

/// `127.0.0.1:8080 → 80/tcp`
fn published(port: &Publish) -> String {
    let inside = PortProto { port: port.port, protocol: port.protocol };
    match port.host_port {
        Some(number) => format!("{} → {inside}", SocketAddr::new(port.host, number)),
        None => format!("a free port of {} → {inside}", port.host),
    }
}

/// The plan's services as a tree: under each what it needs, with what it waits for and what it may
/// reach. What was shown before is not unfolded again.
#[must_use]
pub fn render_text(plan: &Plan) -> String {
    let relations = relations(plan);
    let titles = nodes(plan)
        .into_iter()
        .map(|one| {
            let title = match one.kind {
                Kind::Service => one.lines.into_iter().next().unwrap_or_default(),
                // The word stands where it matters, at what waits.
                Kind::Task => one.name.to_string(),
                Kind::Elsewhere => format!("{} ({})", one.name, one.lines[1]),
            };
            (one.name, title)
        })
        .collect();
    let needed: BTreeSet<&ServiceName> = relations.values().flat_map(BTreeMap::keys).copied().collect();
    let mut tree = Tree { relations: &relations, titles, shown: BTreeSet::new(), text: String::new() };
    // A circle of links has no beginning: what no root led to is a root then.
    let roots = relations.keys().filter(|name| !needed.contains(*name));
    for name in roots.chain(relations.keys()) {
        if !tree.shown.contains(name) {
            tree.text.push_str(&tree.titles[name]);
            tree.text.push('\n');
            tree.unfold(name, "");
        }
    }
    tree.text
}

struct Tree<'a> {
    relations: &'a Relations<'a>,
    titles: BTreeMap<&'a ServiceName, String>,
    shown: BTreeSet<&'a ServiceName>,
    text: String,
}

impl<'a> Tree<'a> {
    fn unfold(&mut self, name: &'a ServiceName, indent: &str) {
        self.shown.insert(name);
        let Some(of) = self.relations.get(name) else { return };
        for (i, (to, relation)) in of.iter().enumerate() {
            let last = i + 1 == of.len();
            let (branch, below) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let mut notes: Vec<String> = relation
                .waits
                .iter()
                .map(|(condition, required)| {
                    let optional = if *required { "" } else { " if it can be" };
                    format!("waits until {}{optional}", condition.as_str())
                })
                .collect();
            notes.extend(relation.ports.iter().map(|port| format!("reaches {port}")));
            let unfolds = self.relations.get(to).is_some_and(|of| !of.is_empty());
            let seen = self.shown.contains(to);
            if seen && unfolds {
                notes.push("see above".to_owned());
            }
            let title = &self.titles[to];
            self.text.push_str(&format!("{indent}{branch}{title}  {}\n", notes.join(" · ")));
            if !seen {
                self.unfold(to, &format!("{indent}{below}"));
            }
        }
    }
}

/// What stands at an arrow: `5432/tcp · when ready`.
fn arrow_label(relation: &Relation) -> String {
    let ports = relation.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let waits = relation.waits.iter().map(|(condition, required)| {
        let optional = if *required { "" } else { ", if it can be" };
        format!("when {}{optional}", condition.as_str())
    });
    [ports].into_iter().filter(|ports| !ports.is_empty()).chain(waits).collect::<Vec<_>>().join(" · ")
}

/// The plan as a Mermaid flowchart (<https://mermaid.js.org/syntax/flowchart.html>), for Markdown.
///
/// An arrow goes from the service that needs to the one that is needed: solid where it may reach it, with the
/// ports, dashed where it only waits for it.
#[must_use]
pub fn to_mermaid(plan: &Plan) -> String {
    let nodes = nodes(plan);
    let mut text = String::from("flowchart LR\n");
    for (i, one) in nodes.iter().enumerate() {
        let lines: Vec<String> = one.lines.iter().map(|line| mermaid_escaped(line)).collect();
        let (open, close) = match one.kind {
            Kind::Service => ("[", "]"),
            Kind::Task => ("([", "])"),
            Kind::Elsewhere => ("{{", "}}"),
        };
        let _ = writeln!(text, "    n{i}{open}\"{}\"{close}", lines.join("<br/>"));
    }
    for (from, to, relation) in arrows(plan, &nodes) {
        let arrow = if relation.ports.is_empty() { "-.->" } else { "-->" };
        let label = mermaid_escaped(&arrow_label(&relation));
        let _ = writeln!(text, "    n{from} {arrow}|\"{label}\"| n{to}");
    }
    text
}

/// The plan in the language of Graphviz (<https://graphviz.org/doc/info/lang.html>), in the part of it that drawing
/// libraries know. The arrows are those of [`to_mermaid`].
#[must_use]
pub fn to_dot(plan: &Plan) -> String {
    let nodes = nodes(plan);
    let mut text = String::from("digraph workspace {\n    rankdir=\"LR\";\n");
    for (i, one) in nodes.iter().enumerate() {
        let lines: Vec<String> = one.lines.iter().map(|line| dot_escaped(line)).collect();
        let look = match one.kind {
            Kind::Service => "shape=\"box\"",
            Kind::Task => "shape=\"box\", style=\"rounded\"",
            Kind::Elsewhere => "shape=\"ellipse\"",
        };
        let _ = writeln!(text, "    n{i} [label=\"{}\", {look}];", lines.join("\\n"));
    }
    for (from, to, relation) in arrows(plan, &nodes) {
        let style = if relation.ports.is_empty() { ", style=\"dashed\"" } else { "" };
        let label = dot_escaped(&arrow_label(&relation));
        let _ = writeln!(text, "    n{from} -> n{to} [label=\"{label}\"{style}];");
    }
    text.push_str("}\n");
    text
}

/// The relations between nodes, by their numbers.
fn arrows(plan: &Plan, nodes: &[Node<'_>]) -> Vec<(usize, usize, Relation)> {
    let numbers: BTreeMap<&ServiceName, usize> =
        nodes.iter().enumerate().map(|(i, one)| (one.name, i)).collect();
    let relations = relations(plan).into_iter();
    relations
        .flat_map(|(from, of)| of.into_iter().map(move |(to, relation)| (from, to, relation)))
        .filter_map(|(from, to, relation)| Some((*numbers.get(from)?, *numbers.get(to)?, relation)))
        .collect()
}

/// Entity codes for all that is not plain in a quoted text of Mermaid.
fn mermaid_escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '"' | '#' | '<' | '>' | '&' | ';' | '`' | '\\' => {
                let _ = write!(escaped, "#{};", u32::from(c));
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Only these two mean something in a quoted text of Graphviz.
fn dot_escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The plan's units, and what runs elsewhere, as nodes and edges. An edge goes from the unit that needs to the one
/// that is needed: `wait` is null where it orders nothing, `ports` is empty where nothing may be reached.
#[must_use]
pub fn to_json(plan: &Plan) -> Value {
    let wave_of: BTreeMap<&ServiceName, usize> = plan
        .waves
        .iter()
        .enumerate()
        .flat_map(|(wave, names)| names.iter().map(move |name| (name, wave)))
        .collect();
    let units = plan.services.values().map(|unit| {
        json!({
            "service": unit.name,
            "declared": unit.declared,
            "replica": unit.replica,
            "type": unit.kind,
            "address": unit.address.to_string(),
            "wave": wave_of.get(&unit.name),
            "elsewhere": null,
        })
    });
    let external = plan.external.iter().map(|external| {
        json!({
            "service": external.name,
            "declared": external.name,
            "replica": null,
            "type": "external",
            "address": external.address.to_string(),
            "wave": null,
            "elsewhere": elsewhere(external),
        })
    });
    let nodes: Vec<Value> = units.chain(external).collect();
    let mut edges = Vec::new();
    for unit in plan.services.values() {
        let mut of: BTreeMap<&ServiceName, Relation> = BTreeMap::new();
        for wait in &unit.waits {
            of.entry(&wait.on).or_default().waits.push((wait.condition, wait.required));
        }
        for link in &unit.links {
            of.entry(&link.to).or_default().ports.push(link.port);
        }
        for (to, relation) in of {
            let wait = relation
                .waits
                .first()
                .map(|(condition, required)| json!({ "condition": condition, "required": required }));
            edges.push(json!({ "from": unit.name, "to": to, "wait": wait, "ports": relation.ports }));
        }
    }
    json!({ "nodes": nodes, "edges": edges })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(edges: &str, check: impl FnOnce(&Graph<'_, ()>)) {
        let names: Vec<(ServiceName, ServiceName)> = edges
            .split_whitespace()
            .map(|edge| {
                let (from, to) = edge.split_once('>').unwrap();
                (ServiceName::new(from).unwrap(), ServiceName::new(to).unwrap())
            })
            .collect();
        let mut graph = Graph::new();
        for (from, to) in &names {
            graph.add_edge(from, to, ());
        }
        check(&graph);
    }

    fn text(names: &[&ServiceName]) -> String {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_means_something_to_a_drawing_is_escaped() {
        for (text, mermaid, dot) in [
            ("api ×3", "api ×3", "api ×3"),
            ("127.0.0.1:80 → 80/tcp", "127.0.0.1:80 → 80/tcp", "127.0.0.1:80 → 80/tcp"),
            (r#"a"b\c"#, "a#34;b#92;c", r#"a\"b\\c"#),
            ("<b>#1;&`", "#60;b#62;#35;1#59;#38;#96;", "<b>#1;&`"),
            ("a\nb", "a b", "a b"),
        ] {
            assert_eq!((mermaid_escaped(text).as_str(), dot_escaped(text).as_str()), (mermaid, dot));
        }
    }

    #[test]
    fn waves_follow_the_longest_way() {
        with("web>api api>db api>cache web>cache", |graph| {
            let waves = waves(graph).unwrap();
            assert_eq!(waves.iter().map(|wave| text(wave)).collect::<Vec<_>>(), ["cache db", "api", "web"]);
        });
    }

    #[test]
    fn a_circle_is_found_by_its_shortest_way() {
        with("a>b b>c c>d d>a c>a x>a", |graph| {
            assert!(waves(graph).is_none());
            let knots = knots(graph);
            assert_eq!(knots.len(), 1);
            assert_eq!(text(&circle(graph, &knots[0])), "a b c");
        });
    }

    #[test]
    fn a_service_that_waits_for_itself_is_a_circle() {
        with("a>a", |graph| assert_eq!(text(&circle(graph, &knots(graph)[0])), "a"));
    }

    #[test]
    fn two_circles_are_told_apart() {
        with("a>b b>a c>d d>c a>c", |graph| {
            assert_eq!(knots(graph).iter().map(|knot| text(knot)).collect::<Vec<_>>(), ["a b", "c d"]);
        });
    }
}
