//! A drawing of the network in one row, a box per part, with the three heads below the outputs that
//! they read. Its colors are those of plots, which the page's style replaces in dark mode.

use std::fmt::Write;

use incept::model::{Topology, TopologyKind, TopologyNode};

use crate::graph::shape;
use crate::html::escaped;

const BOX: (f64, f64) = (84.0, 58.0);
const PITCH: f64 = 96.0;
const HEAD: (f64, f64) = (250.0, 62.0);
const MARGIN: f64 = 10.0;
const HEADS_TOP: f64 = 122.0;
const HEIGHT: f64 = HEADS_TOP + HEAD.1 + MARGIN;

const INK: &str = "#22262B";
const SOFT: &str = "#6B727A";
const GRID: &str = "#E4E7EA";

/// The parts of the trunk in order.
const TRUNK: [&str; 13] =
    ["data", "conv1", "conv2", "3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "classifier"];

/// Each head with the part of its layers and the part whose output it reads.
const HEADS: [(&str, &str, &str, &str); 3] = [
    ("main", "classifier", "classifier", "#0072B2"),
    ("aux1", "aux1", "4a", "#D55E00"),
    ("aux2", "aux2", "4d", "#009E73"),
];

/// Layer numbers as ranges: 1-4, 9.
fn ranges(mut numbers: Vec<usize>) -> String {
    numbers.sort_unstable();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

fn is_loss(node: &&TopologyNode) -> bool {
    matches!(node.kind, TopologyKind::Loss | TopologyKind::TotalLoss)
}

/// The number of the layer with the softmax and the loss of a part's head.
pub(super) fn softmax(topology: &Topology, part: &str) -> Option<usize> {
    let loss = topology.nodes.iter().find(|n| n.part == part && n.kind == TopologyKind::Loss);
    loss.and_then(|node| node.numbers.first().copied())
}

/// The numbers of a part's layers without its loss.
fn layers(topology: &Topology, part: &str) -> String {
    let own = topology.nodes.iter().filter(|node| node.part == part && !is_loss(node));
    ranges(own.flat_map(|node| node.numbers.iter().copied()).collect())
}

fn text(out: &mut String, (x, y): (f64, f64), size: f64, color: &str, more: &str, words: &str) {
    let words = escaped(words);
    let _ = write!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{color}\" text-anchor=\"middle\" {more}>{words}</text>"
    );
}

fn arrow(out: &mut String, color: &str, path: &str) {
    let tip = color.trim_start_matches('#');
    let _ = write!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" marker-end=\"url(#tip-{tip})\"/>"
    );
}

/// The drawing as SVG.
pub(super) fn svg(topology: &Topology) -> String {
    let width = 2.0 * MARGIN + (TRUNK.len() - 1) as f64 * PITCH + BOX.0;
    let center = |part: &str| {
        let at = TRUNK.iter().position(|p| *p == part).unwrap_or(0);
        MARGIN + at as f64 * PITCH + 0.5 * BOX.0
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"The network with its three heads\"><rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#FFFFFF\"/><defs>"
    );
    for color in ["#6B727A", "#0072B2", "#D55E00", "#009E73"] {
        let tip = color.trim_start_matches('#');
        let _ = write!(
            out,
            "<marker id=\"tip-{tip}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"9\" markerHeight=\"9\" markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0.5 L8 4 L0 7.5 z\" fill=\"{color}\"/></marker>"
        );
    }
    out.push_str("</defs>");
    for (i, part) in TRUNK.iter().enumerate() {
        let (x, top) = (center(part), MARGIN);
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{top}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"{GRID}\" stroke=\"{SOFT}\"/>",
            x - 0.5 * BOX.0,
            BOX.0,
            BOX.1
        );
        let name = if *part == "data" { "images" } else { part };
        text(&mut out, (x, top + 18.0), 13.0, INK, "font-weight=\"bold\"", name);
        let numbers = layers(topology, part);
        if !numbers.is_empty() {
            text(&mut out, (x, top + 34.0), 9.5, INK, "", &format!("layers {numbers}"));
        }
        let output = topology.nodes.iter().rfind(|n| n.part == *part && !is_loss(n)).map(shape);
        text(&mut out, (x, top + 49.0), 9.5, INK, "", &output.unwrap_or_default());
        if i > 0 {
            let middle = top + 0.5 * BOX.1;
            let (from, to) = (x - 0.5 * BOX.0 - (PITCH - BOX.0), x - 0.5 * BOX.0);
            arrow(&mut out, SOFT, &format!("M{from:.1} {middle} L{to:.1} {middle}"));
        }
    }
    for (head, part, tap, color) in HEADS {
        let Some(number) = softmax(topology, part) else { continue };
        let x = center(tap);
        arrow(&mut out, color, &format!("M{x:.1} {} L{x:.1} {HEADS_TOP}", MARGIN + BOX.1));
        // The last box ends with the row.
        let middle = x.min(width - MARGIN - 0.5 * HEAD.0);
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{HEADS_TOP}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#FFFFFF\" stroke=\"{color}\" stroke-width=\"2\"/>",
            middle - 0.5 * HEAD.0,
            HEAD.0,
            HEAD.1
        );
        let own = if head == "main" { String::new() } else { format!(", layers {}", layers(topology, part)) };
        let title = format!("{head} head{own}");
        text(&mut out, (middle, HEADS_TOP + 19.0), 13.0, color, "font-weight=\"bold\"", &title);
        let softmax = format!("softmax and cross-entropy: layer {number}");
        text(&mut out, (middle, HEADS_TOP + 36.0), 10.5, INK, "", &softmax);
        let weight = weight(topology, part);
        let words = if head == "main" { "the prediction" } else { "training, and early exit" };
        let line = format!("weight {weight} in the loss; {words}");
        text(&mut out, (middle, HEADS_TOP + 51.0), 10.5, INK, "", &line);
    }
    out.push_str("</svg>");
    out
}

/// The weight of a head in the total loss.
fn weight(topology: &Topology, part: &str) -> f32 {
    let from = topology.nodes.iter().position(|n| n.part == part && n.kind == TopologyKind::Loss);
    let edge = topology.edges.iter().find(|edge| Some(edge.from) == from && edge.weight.is_some());
    edge.and_then(|edge| edge.weight).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use incept::model::{GoogLeNet, summary};

    use super::*;

    #[test]
    fn every_layer_has_its_number_and_each_head_its_softmax() {
        let network = GoogLeNet::paper().build(1).expect("builds");
        let (topology, summary) = (Topology::of(&network), summary(&network));
        let svg = svg(&topology);
        for part in ["classifier", "aux1", "aux2"] {
            let number = softmax(&topology, part).expect("a loss");
            assert_eq!(summary.layers[number - 1].operation, "softmax_cross_entropy", "{part}");
            assert!(svg.contains(&format!("cross-entropy: layer {number}<")), "{part}: {svg}");
        }
        let drawn: usize = TRUNK
            .iter()
            .chain(&["aux1", "aux2"])
            .map(|part| {
                let own = topology.nodes.iter().filter(|n| n.part == *part && !is_loss(n));
                own.map(|n| n.numbers.len()).sum::<usize>()
            })
            .sum();
        // The three losses and their sum have boxes of their own, or none.
        assert_eq!(drawn + 4, summary.layers.len());
        assert_eq!(svg.matches("weight 0.3 in the loss").count(), 2, "{svg}");
        assert_eq!(ranges(vec![4, 1, 2, 9, 3]), "1-4, 9");
    }

    #[test]
    fn networks_with_one_head_are_drawn() {
        let network = GoogLeNet::paper().aux_weight(0.0).build(1).expect("builds");
        assert_eq!(svg(&Topology::of(&network)).matches("cross-entropy").count(), 1);
    }
}
