//! Graphs of services: order, cycles, and how they are shown.
//!
//! Works on names only; what an edge means is the caller's.

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graphmap::DiGraphMap;
use ws_model::ServiceName;

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
    let mut seen: std::collections::BTreeSet<&ServiceName> = std::collections::BTreeSet::new();
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
    let mut wave_of: std::collections::BTreeMap<&ServiceName, usize> = std::collections::BTreeMap::new();
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
