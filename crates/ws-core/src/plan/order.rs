//! Order: what each start waits for, and the waves that follow from it.
//!
//! A link orders the start as well, unless it says `wait: false`, or the target is in `depends_on` too
//! (that is more precise), or it lies in a circle of waits: there no link orders anything.

use std::collections::{BTreeMap, BTreeSet};

use ws_model::{Condition, ConfigPath, Problem, RestartPolicy, Service, ServiceKind, ServiceName, Workspace};

use super::units::Units;
use super::{Wait, unknown_name};
use crate::graph::{self, Graph};

/// The waits of every unit, and the waves.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) waits: BTreeMap<ServiceName, Vec<Wait>>,
    pub(super) waves: Vec<Vec<ServiceName>>,
}

/// Why a service waits for another one.
#[derive(Debug, Clone)]
struct Edge {
    wait: Wait,
    from_link: bool,
}

/// The edges of the workspace by their ends: from the one that waits to the one that is waited for.
type Edges<'a> = BTreeMap<(&'a ServiceName, &'a ServiceName), Vec<Edge>>;

/// Decides the order.
///
/// It is one of services; to wait for a service means to wait for all its units.
pub(super) fn decide(workspace: &Workspace, units: &Units, problems: &mut Vec<Problem>) -> Order {
    let mut edges = edges(workspace, problems);
    drop_links_in_circles(&mut edges, problems);
    let broken = refuse_circles(&edges, problems);

    let mut waits: BTreeMap<ServiceName, Vec<Wait>> =
        units.iter().map(|(_, unit)| (unit.clone(), Vec::new())).collect();
    for ((from, on), edges) in &edges {
        let all = units
            .named(on)
            .iter()
            .flat_map(|unit| edges.iter().map(move |edge| Wait { on: unit.clone(), ..edge.wait.clone() }));
        let all: Vec<Wait> = all.collect();
        for unit in units.named(from) {
            waits.entry(unit.clone()).or_default().extend(all.iter().cloned());
        }
    }

    let mut graph = Graph::new();
    for (name, waits) in &waits {
        graph.add_node(name);
        for wait in waits {
            graph.add_edge(name, &wait.on, ());
        }
    }
    let waves = match graph::waves(&graph) {
        Some(waves) => waves.into_iter().map(|wave| wave.into_iter().cloned().collect()).collect(),
        None => {
            debug_assert!(broken, "every circle was reported");
            Vec::new()
        }
    };
    Order { waits, waves }
}

fn edges<'a>(workspace: &'a Workspace, problems: &mut Vec<Problem>) -> Edges<'a> {
    let mut edges: Edges<'a> = BTreeMap::new();
    for (name, service) in &workspace.services {
        for dependency in &service.depends_on {
            let at = ConfigPath::service(name).key("depends_on").key(&dependency.service);
            let Some((on, target)) = workspace.services.get_key_value(&dependency.service) else {
                if workspace.external.contains_key(&dependency.service) {
                    problems.push(never_waited_for(&dependency.service, at));
                } else if dependency.required {
                    problems.push(unknown_name(
                        "WS0511",
                        at,
                        "`depends_on`",
                        "service",
                        dependency.service.as_str(),
                        workspace.services.keys().map(ServiceName::as_str),
                    ));
                }
                continue;
            };
            let condition = dependency.condition.unwrap_or_else(|| by_default(target));
            let never_completes =
                target.kind == ServiceKind::Service && target.restart.policy == RestartPolicy::Always;
            if condition == Condition::Completed && never_completes {
                problems.push(
                    Problem::error(
                        "WS0523",
                        at.clone(),
                        format!("`{name}` waits until `{on}` completed, which never happens"),
                    )
                    .related(ConfigPath::service(on).key("restart"), "starts again whenever it ended")
                    .help(format!("make `{on}` a task: `kind: task`"))
                    .help("or wait for less: `condition: ready`"),
                );
            }
            let wait = Wait {
                on: on.clone(),
                condition,
                required: dependency.required,
                restart: dependency.restart,
                at,
            };
            let same = edges.entry((name, on)).or_default();
            match same.iter_mut().find(|edge| edge.wait.condition == condition) {
                Some(edge) => {
                    edge.wait.required |= wait.required;
                    edge.wait.restart |= wait.restart;
                }
                None => same.push(Edge { wait, from_link: false }),
            }
        }
        for (i, link) in service.links.iter().enumerate() {
            let Some((on, target)) = workspace.services.get_key_value(&link.to) else { continue };
            if !link.wait || on == name || edges.contains_key(&(name, on)) {
                continue;
            }
            let condition = if target.ready.is_some() { Condition::Ready } else { Condition::Started };
            let at = ConfigPath::service(name).key("links").index(i);
            let wait = Wait { on: on.clone(), condition, required: true, restart: false, at };
            edges.insert((name, on), vec![Edge { wait, from_link: true }]);
        }
    }
    edges
}

fn never_waited_for(external: &ServiceName, at: ConfigPath) -> Problem {
    Problem::error("WS0507", at, format!("`{external}` runs elsewhere: it cannot be waited for"))
        .related(ConfigPath::root().key("external").key(external), "declared here")
        .help(format!("to reach it: `links: [{external}]`"))
}

/// What the short form of `depends_on` waits for.
fn by_default(target: &Service) -> Condition {
    match (target.kind, &target.ready) {
        (ServiceKind::Task | ServiceKind::Build, _) => Condition::Completed,
        (ServiceKind::Service, Some(_)) => Condition::Ready,
        (ServiceKind::Service, None) => Condition::Started,
    }
}

fn drop_links_in_circles(edges: &mut Edges<'_>, problems: &mut Vec<Problem>) {
    let mut graph: Graph<'_, ()> = Graph::new();
    for (from, to) in edges.keys() {
        graph.add_edge(from, to, ());
    }
    for knot in graph::knots(&graph) {
        let members: BTreeSet<&ServiceName> = knot.iter().copied().collect();
        let dropped: Vec<(&ServiceName, &ServiceName, ConfigPath)> = edges
            .iter()
            .filter(|((from, to), _)| members.contains(from) && members.contains(to))
            .flat_map(|((from, to), edges)| edges.iter().map(move |edge| (*from, *to, edge)))
            .filter(|(_, _, edge)| edge.from_link)
            .map(|(from, to, edge)| (from, to, edge.wait.at.clone()))
            .collect();
        let Some((_, _, first)) = dropped.first() else { continue };
        let circle = graph::circle(&graph, &knot);
        let names: Vec<String> = members.iter().map(|name| format!("`{name}`")).collect();
        let mut problem = Problem::warning(
            "WS0520",
            first.clone(),
            format!("{} wait for each other, so no link among them orders a start", names.join(", ")),
        )
        .label(path_text(&circle))
        .help("they start at the same time and must retry until the other end answers")
        .help(
            "`wait: false` on the link that need not be there at the start gives the others their order back",
        );
        for (from, to, at) in dropped.iter().skip(1) {
            problem = problem.related(at.clone(), format!("`{from}` links to `{to}`"));
        }
        problems.push(problem);
        for (from, to, _) in &dropped {
            if let Some(edges) = edges.get_mut(&(*from, *to)) {
                edges.retain(|edge| !edge.from_link);
            }
        }
    }
    edges.retain(|_, edges| !edges.is_empty());
}

/// Reports every circle that is left; says whether there is one.
fn refuse_circles(edges: &Edges<'_>, problems: &mut Vec<Problem>) -> bool {
    let mut graph: Graph<'_, ()> = Graph::new();
    for (from, to) in edges.keys() {
        graph.add_edge(from, to, ());
    }
    let knots = graph::knots(&graph);
    for knot in &knots {
        let circle = graph::circle(&graph, knot);
        let ends = circle.iter().copied().zip(circle.iter().copied().cycle().skip(1));
        let places: Vec<(&ServiceName, &ServiceName, ConfigPath)> = ends
            .take(circle.len())
            .filter_map(|(from, to)| Some((from, to, edges.get(&(from, to))?.first()?.wait.at.clone())))
            .collect();
        let Some((from, to, first)) = places.first() else { continue };
        let message = match circle.as_slice() {
            [alone] => format!("`{alone}` depends on itself"),
            _ => format!("these services depend on each other: {}", path_text(&circle)),
        };
        let mut problem =
            Problem::error("WS0521", first.clone(), message).label(format!("`{from}` waits for `{to}`"));
        for (from, to, at) in places.iter().skip(1) {
            problem = problem.related(at.clone(), format!("`{from}` waits for `{to}`"));
        }
        problems.push(
            problem
                .help("one of them must be able to start without the other: remove that `depends_on`")
                .help("`links` may go in a circle: they order nothing there"),
        );
    }
    !knots.is_empty()
}

/// `a → b → a`
fn path_text(circle: &[&ServiceName]) -> String {
    let names: Vec<&str> = circle.iter().chain(circle.first()).map(|name| name.as_str()).collect();
    names.join(" → ")
}
