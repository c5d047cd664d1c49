//! `incept graph`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::Error;
use incept::low_level::output::check_file;
use incept::low_level::output::write_atomically;
use incept::model::{GoogLeNet, Topology, TopologyNode};
use serde::Serialize;

use super::diagram;
use super::numbers::whole;
use super::options::NetworkArgs;
use super::record;
use super::report::{Reporter, shown, thousands};
use super::{Outcome, Result};

/// Draw a network's graph with shapes, parameters and losses, as SVG or Graphviz (needs no device).
///
/// Boxes have the layer numbers of `incept summary`; a ReLU, batch norm or dropout shares the box
/// of the layer before it. Dashed boxes are used in training only.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Graph {
    /// Draw the network of this checkpoint, a run's folder (its best checkpoint), `included` or
    /// `imagenet`.
    #[arg(conflicts_with_all = ["variant", "width", "input", "dropout", "aux_dropout", "smoothing", "init", "bias_rate", "aux_weight"])]
    checkpoint: Option<PathBuf>,
    /// Number of classes.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1000,
        help_heading = "Network",
        conflicts_with = "checkpoint",
        value_parser = whole::<usize>(2)
    )]
    classes: usize,
    #[command(flatten)]
    network: NetworkArgs,
    /// Format [default: by the file's extension, else svg].
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// File to write: .svg, .dot or .gv, or `-` for standard output [default: standard output].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  incept graph --output googlenet.svg                          the paper's network
  incept graph --variant torchvision --width 0.5 > half.svg    torchvision's network at half width
  incept graph --format dot | dot -Tpdf > googlenet.pdf        layout by Graphviz
  incept graph photos.safetensors --output photos.svg          the network of a checkpoint";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A drawing.
    Svg,
    /// Text for Graphviz.
    Dot,
}

#[derive(Serialize)]
struct GraphResult<'a> {
    network: &'a GoogLeNet,
    #[serde(flatten)]
    topology: &'a Topology,
    output: Option<&'a PathBuf>,
}

impl Graph {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let network = match &self.checkpoint {
            Some(path) => record::load(path)?.metadata.network,
            None => {
                self.network.refuse_unseen(true)?;
                self.network.network(self.classes, 224)?
            }
        };
        self.out.as_deref().filter(|out| *out != Path::new("-")).map_or(Ok(()), check_file)?;
        let topology = Topology::of(&network.build(1)?);
        let out = self.out.as_ref().filter(|out| *out != Path::new("-"));
        let text = match self.format(out.map(PathBuf::as_path))? {
            Format::Svg => diagram::svg(&network, &topology),
            Format::Dot => dot(&network, &topology),
        };
        match out {
            Some(out) => {
                write_atomically(out, text.as_bytes())?;
                reporter.line(&format!("{} boxes in {}", topology.nodes.len(), shown(out)))?;
            }
            None if !reporter.is_json() => {
                let mut stdout = std::io::stdout().lock();
                let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
                written.map_err(|e| Error::io("standard output", e))?;
            }
            None => {}
        }
        reporter.event(&GraphResult { network: &network, topology: &topology, output: out })?;
        Ok(Outcome::Done)
    }

    /// The format, by the option and the file's extension.
    fn format(&self, out: Option<&Path>) -> incept::Result<Format> {
        let Some(out) = out else { return Ok(self.format.unwrap_or(Format::Svg)) };
        let ending = out.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let named = match ending.as_str() {
            "svg" => Format::Svg,
            "dot" | "gv" => Format::Dot,
            _ => return Err(Error::format(out, "must end in .svg, .dot or .gv")),
        };
        match self.format {
            Some(format) if format != named => {
                Err(Error::format(out, "has an extension that contradicts --format"))
            }
            _ => Ok(named),
        }
    }
}

/// A box's layer numbers: 7-8 for layers 7 and 8.
pub(super) fn numbers(node: &TopologyNode) -> String {
    match node.numbers.as_slice() {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    }
}

/// A box's output shape without the batch: 192 x 28 x 28.
pub(super) fn shape(node: &TopologyNode) -> String {
    let dims: Vec<String> = node.output.iter().skip(1).map(ToString::to_string).collect();
    dims.join(" x ")
}

/// The text of a box below its name: output shape and parameters.
pub(super) fn details(node: &TopologyNode) -> String {
    let mut parts = Vec::new();
    if node.output.len() > 1 {
        parts.push(shape(node));
    }
    if node.parameters > 0 {
        parts.push(format!("{} parameters", thousands(node.parameters as u64)));
    }
    parts.join(", ")
}

/// A node for Graphviz.
fn dot_box(number: usize, node: &TopologyNode) -> String {
    let mut lines = vec![format!("{} {}", numbers(node), node.name).trim().to_string()];
    let operations = node.operations.join(", ");
    lines.extend([operations, details(node)].into_iter().filter(|l| !l.is_empty()));
    let dashed = if node.training_only { ", style=\"rounded,filled,dashed\"" } else { "" };
    let color = diagram::fill(node);
    format!("    n{number} [label=\"{}\", fillcolor=\"{color}\"{dashed}];\n", lines.join("\\n"))
}

/// The network for Graphviz.
fn dot(network: &GoogLeNet, topology: &Topology) -> String {
    let mut text = format!(
        "digraph \"{} GoogLeNet\" {{\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=10];\n  edge [fontname=\"Helvetica\", fontsize=10];\n",
        network.variant
    );
    let mut parts: Vec<&str> = Vec::new();
    for node in &topology.nodes {
        if !parts.contains(&node.part) {
            parts.push(node.part);
        }
    }
    for part in parts {
        let block = part.starts_with(['3', '4', '5']) || part.starts_with("aux");
        if block {
            text.push_str(&format!(
                "  subgraph \"cluster_{part}\" {{\n    label=\"{part}\"; color=\"#c4cad0\";\n"
            ));
        }
        // A pool between two blocks belongs to the block before it, and is drawn outside of its
        // panel.
        let (inside, outside): (Vec<_>, Vec<_>) = (topology.nodes.iter().enumerate())
            .filter(|(_, node)| node.part == part)
            .partition(|(_, node)| !block || part.starts_with("aux") || node.name.starts_with("inception"));
        let boxes = |nodes: &[(usize, &TopologyNode)]| {
            nodes.iter().map(|(i, node)| dot_box(*i, node)).collect::<String>()
        };
        text.push_str(&boxes(&inside));
        if block {
            text.push_str("  }\n");
        }
        text.push_str(&boxes(&outside));
    }
    for edge in &topology.edges {
        let label = edge.weight.map_or(String::new(), |w| format!(" [label=\"x {w}\"]"));
        text.push_str(&format!("  n{} -> n{}{label};\n", edge.from, edge.to));
    }
    text.push_str("}\n");
    text
}
