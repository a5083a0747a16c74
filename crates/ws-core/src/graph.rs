//! Graphs of services: order and circles for the planner, and `ws graph` for people and tools.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graphmap::DiGraphMap;
use serde_json::{Value, json};
use ws_model::{Condition, PortProto, ServiceName};

use crate::plan::Plan;

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

/// What one service has to do with another one.
#[derive(Debug, Default)]
struct Relation {
    /// What its start waits for, and whether it must be had.
    waits: Vec<(Condition, bool)>,
    /// What it may reach.
    ports: Vec<PortProto>,
}

/// Every relation of a plan, by who has it and to whom.
fn relations(plan: &Plan) -> BTreeMap<&ServiceName, BTreeMap<&ServiceName, Relation>> {
    let mut relations: BTreeMap<&ServiceName, BTreeMap<&ServiceName, Relation>> = BTreeMap::new();
    for (name, service) in &plan.services {
        let of = relations.entry(name).or_default();
        for wait in &service.waits {
            of.entry(&wait.on).or_default().waits.push((wait.condition, wait.required));
        }
        for link in &service.links {
            of.entry(&link.to).or_default().ports.push(link.port);
        }
    }
    relations
}

/// The plan's services as a tree: under each what it needs, with what it waits for and what it may
/// reach. What was shown before is not unfolded again.
#[must_use]
pub fn render_text(plan: &Plan) -> String {
    let relations = relations(plan);
    let needed: BTreeSet<&ServiceName> = relations.values().flat_map(BTreeMap::keys).copied().collect();
    let mut tree = Tree { relations: &relations, shown: BTreeSet::new(), text: String::new() };
    // A circle of links has no beginning: what no root led to is a root then.
    let roots = plan.services.keys().filter(|name| !needed.contains(name));
    for name in roots.chain(plan.services.keys()) {
        if !tree.shown.contains(name) {
            tree.text.push_str(name.as_str());
            tree.text.push('\n');
            tree.unfold(name, "");
        }
    }
    tree.text
}

struct Tree<'a> {
    relations: &'a BTreeMap<&'a ServiceName, BTreeMap<&'a ServiceName, Relation>>,
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
            self.text.push_str(&format!("{indent}{branch}{to}  {}\n", notes.join(" · ")));
            if !seen {
                self.unfold(to, &format!("{indent}{below}"));
            }
        }
    }
}

/// The plan's services as nodes and edges. An edge goes from the service that needs to the one that is
/// needed: `wait` is null where it orders nothing, `ports` is empty where nothing may be reached.
#[must_use]
pub fn to_json(plan: &Plan) -> Value {
    let wave_of: BTreeMap<&ServiceName, usize> = plan
        .waves
        .iter()
        .enumerate()
        .flat_map(|(wave, names)| names.iter().map(move |name| (name, wave)))
        .collect();
    let nodes: Vec<Value> = plan
        .services
        .values()
        .map(|service| {
            json!({
                "service": service.name,
                "type": service.kind,
                "address": service.address.to_string(),
                "wave": wave_of.get(&service.name),
            })
        })
        .collect();
    let mut edges = Vec::new();
    for (from, of) in relations(plan) {
        for (to, relation) in of {
            let wait = relation
                .waits
                .first()
                .map(|(condition, required)| json!({ "condition": condition, "required": required }));
            edges.push(json!({ "from": from, "to": to, "wait": wait, "ports": relation.ports }));
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
