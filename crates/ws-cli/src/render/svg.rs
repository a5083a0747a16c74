//! A graph as a picture, drawn here.

use layout::backends::svg::SVGWriter;
use layout::gv::{DotParser, GraphBuilder};

/// Draws a graph in the language of Graphviz, in the part of it that [`ws_core::graph::to_dot`] writes; it must
/// have a node.
///
/// # Errors
/// When it is not understood: what is wrong.
pub fn draw(dot: &str) -> Result<String, String> {
    let graph = DotParser::new(dot).process()?;
    let mut builder = GraphBuilder::new();
    builder.visit_graph(&graph);
    let mut svg = SVGWriter::new();
    // Neither the library's own marks nor a reordering of what already stands in order.
    builder.get().do_it(false, false, false, &mut svg);
    let mut text = svg.finalize();
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_drawn_with_its_names_and_labels() {
        let dot = "digraph workspace {\n    rankdir=\"LR\";\n    n0 [label=\"api\\nservice\", shape=\"box\"];\n    \
                   n1 [label=\"d&b\", shape=\"box\", style=\"rounded\"];\n    n2 [label=\"x\", shape=\"ellipse\"];\n    \
                   n0 -> n1 [label=\"5432/tcp\"];\n    n1 -> n2 [label=\"\", style=\"dashed\"];\n    \
                   n2 -> n1 [label=\"80\"];\n}\n";
        let svg = draw(dot).unwrap();
        assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["api", "d&amp;b", "5432/tcp"] {
            assert!(svg.contains(text), "no {text:?} in\n{svg}");
        }
        assert!(draw("digraph {").is_err());
    }

    /// The library asserts a lot: circles, wide and deep graphs, several parts, nothing but nodes.
    #[test]
    fn graphs_of_all_shapes_can_be_drawn() {
        let mut seed: u64 = 7;
        let mut below = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % bound
        };
        for _ in 0..200 {
            let nodes = 1 + below(14);
            let mut dot = String::from("digraph workspace {\n    rankdir=\"LR\";\n");
            for i in 0..nodes {
                dot += &format!("    n{i} [label=\"service-{i}\\ntask\", shape=\"box\"];\n");
            }
            for _ in 0..below(2 * nodes) {
                let (from, to) = (below(nodes), below(nodes));
                // No service links to itself.
                if from != to {
                    dot += &format!("    n{from} -> n{to} [label=\"80/tcp\"];\n");
                }
            }
            dot += "}\n";
            assert!(draw(&dot).unwrap().contains("service-0"), "{dot}");
        }
    }
}
