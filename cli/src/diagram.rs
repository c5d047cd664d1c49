//! The drawing of `incept graph`, from top to bottom: the trunk with the four branches of each
//! Inception block side by side, the auxiliary heads at the right, and the total loss at the
//! bottom.

use std::collections::BTreeMap;
use std::fmt::Write;

use incept::model::{BLOCKS, GoogLeNet, Topology, TopologyKind, TopologyNode};

use super::graph::{numbers, shape};
use super::report::thousands;

const BOX: (f64, f64) = (172.0, 52.0);
const COLUMN: f64 = BOX.0 + 14.0;
const ROW: f64 = BOX.1 + 24.0;
const MARGIN: f64 = 36.0;
const TOP: f64 = 122.0;
/// Padding inside a block's panel.
const PADDING: f64 = 16.0;
const BRANCHES: f64 = 4.0;
/// The horizontal centers of the trunk and of the auxiliary heads.
const TRUNK: f64 = MARGIN + PADDING + 0.5 * (BRANCHES * COLUMN - 14.0);
const SIDE: f64 = MARGIN + 2.0 * PADDING + BRANCHES * COLUMN + 0.5 * BOX.0 + 30.0;
const WIDTH: f64 = SIDE + 0.5 * BOX.0 + 64.0;

const INK: &str = "#22262b";
const SOFT: &str = "#5b626a";
const LINE: &str = "#8a9199";

/// The center of a box's upper edge.
type At = (f64, f64);

struct Drawing<'a> {
    topology: &'a Topology,
    places: BTreeMap<usize, At>,
    /// Name, top and bottom of each block's panel.
    panels: Vec<(&'static str, f64, f64)>,
    /// Top of the next row of the trunk.
    y: f64,
}

/// The color of a head: Okabe and Ito's, as in every plot.
fn head_color(part: &str) -> &'static str {
    match part {
        "aux1" => "#d55e00",
        "aux2" => "#009e73",
        _ => "#0072b2",
    }
}

fn is_loss(node: &TopologyNode) -> bool {
    node.kind == TopologyKind::Loss
}

fn is_sum(node: &TopologyNode) -> bool {
    node.kind == TopologyKind::TotalLoss
}

/// The fill color of a box.
pub(super) fn fill(node: &TopologyNode) -> &'static str {
    match node.kind {
        TopologyKind::Conv => "#d9eaf5",
        TopologyKind::Linear => "#f8e0ec",
        TopologyKind::Pool => "#d8f0e7",
        TopologyKind::Lrn => "#fbf4d0",
        TopologyKind::Loss => match node.part {
            "aux1" => "#f6cfb2",
            "aux2" => "#a9dfcd",
            _ => "#a9cfe8",
        },
        _ => "#eceff1",
    }
}

/// The drawing as SVG.
pub(super) fn svg(network: &GoogLeNet, topology: &Topology) -> String {
    let mut drawing = Drawing { topology, places: BTreeMap::new(), panels: Vec::new(), y: TOP };
    drawing.place();
    let height = drawing.y + 12.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"10\" markerHeight=\"10\" markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0.5 L8 4 L0 7.5 z\" fill=\"{SOFT}\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    drawing.heading(&mut text, network);
    drawing.draw(&mut text);
    text.push_str("</svg>\n");
    text
}

/// Adds a line of text.
fn words(out: &mut String, (x, y): At, size: f64, color: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{color}\" {more}>{words}</text>"
    );
}

impl Drawing<'_> {
    fn nodes(&self, part: &str) -> Vec<usize> {
        let all = self.topology.nodes.iter().enumerate();
        all.filter(|(_, n)| n.part == part && !is_sum(n)).map(|(i, _)| i).collect()
    }

    fn sources(&self, node: usize) -> Vec<usize> {
        self.topology.edges.iter().filter(|e| e.to == node).map(|e| e.from).collect()
    }

    /// Places a box in the next row of the trunk.
    fn on_trunk(&mut self, node: usize) {
        self.places.insert(node, (TRUNK, self.y));
        self.y += ROW;
    }

    /// Places every box.
    fn place(&mut self) {
        for part in ["data", "conv1", "conv2"] {
            self.nodes(part).into_iter().for_each(|node| self.on_trunk(node));
        }
        let mut side = 0.0;
        for (block, _) in BLOCKS {
            let tap = self.block(block);
            let aux = match block {
                "4a" => "aux1",
                "4d" => "aux2",
                _ => continue,
            };
            let mut y = f64::max(side, tap + 6.0);
            for node in self.nodes(aux) {
                y += ROW;
                self.places.insert(node, (SIDE, y - 0.5 * ROW));
            }
            side = y + ROW;
        }
        self.nodes("classifier").into_iter().for_each(|node| self.on_trunk(node));
        self.y = self.y.max(side);
        let sum = self.topology.nodes.iter().position(is_sum);
        sum.into_iter().for_each(|node| self.on_trunk(node));
    }

    /// Places a block and the pool after it; returns the top of the block's output box.
    fn block(&mut self, block: &'static str) -> f64 {
        let nodes = self.nodes(block);
        let concat = |node: &usize| self.topology.nodes[*node].kind == TopologyKind::Concat;
        let end = nodes.iter().position(concat).unwrap_or(nodes.len());
        let top = self.y;
        self.y += PADDING + 8.0;
        // A branch starts at a box whose input is outside of the block.
        let mut branches: Vec<Vec<usize>> = Vec::new();
        for node in &nodes[..end] {
            let before = self.sources(*node);
            match branches.iter_mut().find(|b| b.last().is_some_and(|last| before.contains(last))) {
                Some(branch) => branch.push(*node),
                None => branches.push(vec![*node]),
            }
        }
        let rows = branches.iter().map(Vec::len).max().unwrap_or(0);
        for (column, branch) in branches.iter().enumerate() {
            let x = MARGIN + PADDING + column as f64 * COLUMN + 0.5 * BOX.0;
            for (row, node) in branch.iter().enumerate() {
                let row = rows - branch.len() + row;
                self.places.insert(*node, (x, self.y + row as f64 * ROW));
            }
        }
        self.y += rows as f64 * ROW;
        let mut output = self.y;
        for node in &nodes[end..] {
            let place = self.y;
            self.on_trunk(*node);
            if concat(node) {
                output = place;
                self.panels.push((block, top, self.y - 24.0 + PADDING));
                self.y += PADDING;
            }
        }
        output
    }

    fn heading(&self, out: &mut String, network: &GoogLeNet) {
        let nodes = || self.topology.nodes.iter();
        let all: usize = nodes().map(|n| n.parameters).sum();
        let kept: usize = nodes().filter(|n| !n.training_only).map(|n| n.parameters).sum();
        let title = format!("GoogLeNet, {} variant", network.variant);
        words(out, (MARGIN, 44.0), 24.0, INK, "font-weight=\"bold\"", &title);
        let mut counts = format!("{} parameters at inference", thousands(kept as u64));
        if all > kept {
            let _ = write!(counts, ", {} in training", thousands(all as u64));
        }
        words(out, (MARGIN, 70.0), 13.0, SOFT, "", &counts);
        let loss = match network.aux_weight {
            weight if network.has_aux() => format!("loss = main + {weight} aux1 + {weight} aux2"),
            _ => "loss = main".to_string(),
        };
        let note = format!("{loss};  dashed: training only;  shapes: channels x height x width");
        words(out, (MARGIN, 90.0), 13.0, SOFT, "", &note);
    }

    fn draw(&self, out: &mut String) {
        for (block, top, bottom) in &self.panels {
            let (x, width, height) = (MARGIN, BRANCHES * COLUMN - 14.0 + 2.0 * PADDING, bottom - top);
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"10\" fill=\"#f6f8f9\" stroke=\"#d5dade\"/>"
            );
            let at = (x + PADDING, bottom - 14.0);
            words(out, at, 16.0, SOFT, "font-weight=\"bold\"", &format!("inception {block}"));
        }
        for edge in &self.topology.edges {
            self.edge(out, edge.from, edge.to, edge.weight);
        }
        for (node, at) in &self.places {
            draw_box(out, &self.topology.nodes[*node], *at);
        }
    }

    /// Draws an arrow: down, across and down again; losses of the auxiliary heads run down at the
    /// right.
    fn edge(&self, out: &mut String, from: usize, to: usize, weight: Option<f32>) {
        let (Some(&(x1, top1)), Some(&(x2, y2))) = (self.places.get(&from), self.places.get(&to)) else {
            return;
        };
        let y1 = top1 + BOX.1;
        let node = &self.topology.nodes[from];
        let (mut color, mut thick) = (LINE, 1.4);
        if weight.is_some() {
            (color, thick) = (head_color(node.part), 2.4);
        }
        let points = if let (Some(_), true) = (weight, x1 > TRUNK) {
            // Separate lanes, so that the lines do not overlap.
            let lane = SIDE + 0.5 * BOX.0 + if node.part == "aux1" { 34.0 } else { 18.0 };
            let middle = y2 + if node.part == "aux1" { 0.76 } else { 0.28 } * BOX.1;
            let start = top1 + 0.5 * BOX.1;
            vec![(x1 + 0.5 * BOX.0, start), (lane, start), (lane, middle), (x2 + 0.5 * BOX.0, middle)]
        } else if x2 > TRUNK && x1 <= TRUNK && self.topology.nodes[to].part.starts_with("aux") {
            let start = top1 + 0.5 * BOX.1;
            color = head_color(self.topology.nodes[to].part);
            vec![(x1 + 0.5 * BOX.0, start), (x2, start), (x2, y2)]
        } else if (x1 - x2).abs() < 0.5 {
            vec![(x1, y1), (x2, y2)]
        } else {
            // Lines fan out above the boxes and join below them.
            let gap = if node.kind == TopologyKind::Concat { PADDING + 12.0 } else { 12.0 };
            let across = if x1 == TRUNK { y1 + gap } else { y2 - 12.0 };
            vec![(x1, y1), (x1, across), (x2, across), (x2, y2)]
        };
        let dashed = if self.topology.nodes[to].training_only { "stroke-dasharray=\"5 3\"" } else { "" };
        let _ = writeln!(
            out,
            "<path d=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{thick}\" {dashed} marker-end=\"url(#tip)\"/>",
            rounded(&points)
        );
        if let Some(weight) = weight {
            let (x, y) = points[points.len() - 1];
            let at = if x1 > TRUNK { (x + 40.0, y - 5.0) } else { (x + 10.0, y - 8.0) };
            let name = if node.part == "classifier" { "main" } else { node.part };
            words(out, at, 12.0, color, "font-weight=\"bold\"", &format!("{weight} x {name}"));
        }
    }
}

/// A path through points with rounded corners.
fn rounded(points: &[At]) -> String {
    let mut path = String::new();
    let toward = |from: At, to: At, by: f64| {
        let length = (to.0 - from.0).hypot(to.1 - from.1).max(1e-9);
        let share = (by / length).min(0.5);
        (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share)
    };
    for (i, point) in points.iter().enumerate() {
        if i == 0 {
            let _ = write!(path, "M{:.1} {:.1}", point.0, point.1);
        } else if i + 1 == points.len() {
            let _ = write!(path, " L{:.1} {:.1}", point.0, point.1);
        } else {
            let (a, b) = (toward(*point, points[i - 1], 8.0), toward(*point, points[i + 1], 8.0));
            let _ =
                write!(path, " L{:.1} {:.1} Q{:.1} {:.1} {:.1} {:.1}", a.0, a.1, point.0, point.1, b.0, b.1);
        }
    }
    path
}

/// The title of a box, without the name of the block or head that it is in.
fn short(node: &TopologyNode) -> String {
    if is_loss(node) {
        let head = if node.part == "classifier" { "main" } else { node.part };
        return format!("{head} loss");
    }
    if is_sum(node) {
        return "total loss".into();
    }
    let inside = node.part.starts_with("aux") || node.name.starts_with("inception");
    let name =
        node.name.split_once(['/', '.']).filter(|_| inside).map_or(node.name.as_str(), |(_, rest)| rest);
    name.to_string()
}

fn draw_box(out: &mut String, node: &TopologyNode, (x, y): At) {
    let left = x - 0.5 * BOX.0;
    let (mut fill, mut stroke, mut ink) = (fill(node), "#aab2b9", INK);
    if is_loss(node) {
        stroke = head_color(node.part);
    } else if is_sum(node) {
        (fill, stroke, ink) = (INK, INK, "white");
    }
    let dashed = if node.training_only { "stroke-dasharray=\"5 3\"" } else { "" };
    let _ = writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.3\" {dashed}/>",
        BOX.0, BOX.1
    );
    let soft = if ink == INK { SOFT } else { "#d5dade" };
    words(out, (left + 8.0, y + 16.0), 11.5, ink, "font-weight=\"bold\"", &short(node));
    words(out, (left + BOX.0 - 7.0, y + 16.0), 9.5, soft, "text-anchor=\"end\"", &numbers(node));
    let operations: Vec<&str> = node.operations.iter().map(|op| operation(op)).collect();
    let mut line = operations.join(", ");
    if node.output.len() > 1 {
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&shape(node));
    }
    words(out, (left + 8.0, y + 30.5), 10.0, ink, "", &line);
    if node.parameters > 0 {
        let parameters = format!("{} parameters", thousands(node.parameters as u64));
        words(out, (left + 8.0, y + 44.0), 10.0, soft, "", &parameters);
    }
}

/// An operation's name, abbreviated to fit a box.
fn operation(name: &str) -> &str {
    match name {
        "softmax_cross_entropy" => "cross-entropy",
        "weighted_sum" => "weighted sum",
        "adaptive_avg_pool" | "avg_pool" => "avg pool",
        "batch_norm" => "bn",
        "max_pool" => "max pool",
        other => other,
    }
}
