//! `incept inspect`

use std::path::PathBuf;

use clap::Args;
use incept::checkpoint::{Checkpoint, INCLUDED, Metadata};
use incept::formats::{Content, FileTensor, Foreign, Format};
use incept::low_level::untrusted::{MAX_FILE_BYTES, printable, read_file};
use incept::model::GoogLeNet;
use serde::Serialize;

use super::import::note_skipped;
use super::pretrained::{self, is_imagenet};
use super::record::{best_of, is_included};
use super::report::{Reporter, bytes, plural};
use super::{Outcome, Result};

/// List the tensors of a weights file and identify its network (needs no device).
///
/// Reads checkpoints and every format of `incept import`; the file does not have to contain a
/// GoogLeNet.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  incept inspect googlenet-1378be20.pth
  incept inspect photos.safetensors --json")]
pub(crate) struct Inspect {
    /// File: a checkpoint, a run's folder (its best checkpoint), .pth, .safetensors, .caffemodel,
    /// .onnx, `included` or `imagenet` (torchvision's ImageNet weights, downloaded once).
    file: PathBuf,
}

#[derive(Serialize)]
struct TensorLine {
    name: String,
    shape: Vec<usize>,
    #[serde(rename = "type")]
    element: &'static str,
    mean: f64,
    std: f64,
}

#[derive(Serialize)]
struct InspectResult {
    format: Format,
    tensors: Vec<TensorLine>,
    elements: usize,
    /// Contents that are not tensors.
    skipped: Vec<String>,
    /// The network, if it is a GoogLeNet.
    network: Option<GoogLeNet>,
    /// Why it was not recognized.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Metadata>,
}

impl TensorLine {
    fn of(name: String, file: &FileTensor) -> Self {
        let data = &file.tensor.data;
        let count = data.len().max(1) as f64;
        let mean = data.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let variance = data.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
        let (shape, element) = (file.tensor.dims.clone(), file.stored.name());
        Self { name, shape, element, mean, std: variance.sqrt() }
    }

    fn dims(&self) -> String {
        if self.shape.is_empty() {
            return "scalar".into();
        }
        self.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
    }
}

impl Inspect {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let path = if is_imagenet(&self.file) { pretrained::file()? } else { best_of(&self.file)? };
        let content = if is_included(&path) { INCLUDED.to_vec() } else { read_file(&path, MAX_FILE_BYTES)? };
        let file = Foreign::from_bytes(&path, &content)?;
        note_skipped(&file.skipped);
        // A file that is marked as a checkpoint must be a valid one.
        let own = match (file.format, file.metadata.contains_key("incept")) {
            (Format::Safetensors, true) => Some(Checkpoint::from_bytes(&path, &content)?.metadata),
            (_, true) => Metadata::of(&path, &file)?,
            _ => None,
        };
        let tensors: Vec<TensorLine> =
            file.tensors().into_iter().map(|(name, tensor)| TensorLine::of(name, tensor)).collect();
        let (network, problem) = match (&own, &file.content) {
            // Checkpoints also have the optimizer's tensors, which do not belong to a network.
            (Some(own), Content::Tensors(_)) => (Some(own.network.clone()), None),
            _ => match GoogLeNet::recognize(&path, &file, None) {
                Ok(found) => (Some(found.network), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        let elements = file.tensors().iter().map(|(_, tensor)| tensor.tensor.data.len()).sum();
        let name = tensors.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        let shape = tensors.iter().map(|line| line.dims().len()).max().unwrap_or(0);
        reporter.line(&format!(
            "{:<name$}  {:>shape$}  {:<4}  {:>12}  {:>12}",
            "tensor", "shape", "type", "mean", "std"
        ))?;
        for line in &tensors {
            let TensorLine { element, mean, std, .. } = line;
            let shown = line.dims();
            reporter.line(&format!(
                "{:<name$}  {shown:>shape$}  {element:<4}  {mean:>12.5}  {std:>12.5}",
                printable(&line.name)
            ))?;
        }
        reporter.line(&format!(
            "\n{}, {}: {}, {}",
            file.format.name(),
            bytes(content.len() as u64),
            plural(tensors.len() as u64, "tensor"),
            plural(elements as u64, "element")
        ))?;
        if let Content::Graph(graph) = &file.content {
            reporter.line(&format!(
                "graph: {}, opset {}, producer {}; outputs {}",
                plural(graph.nodes.len() as u64, "node"),
                graph.opset,
                if graph.producer.is_empty() { "?" } else { &graph.producer },
                graph.outputs.join(", ")
            ))?;
        }
        match (&network, &problem) {
            (Some(network), _) => reporter.line(&network_line(network))?,
            (None, Some(problem)) => reporter.line(problem)?,
            (None, None) => {}
        }
        if let Some(own) = &own {
            for line in checkpoint_lines(own) {
                reporter.line(&line)?;
            }
        }
        reporter.event(&InspectResult {
            format: file.format,
            tensors,
            elements,
            skipped: file.skipped,
            network,
            problem,
            checkpoint: own,
        })?;
        Ok(Outcome::Done)
    }
}

fn network_line(network: &GoogLeNet) -> String {
    let full = GoogLeNet::of(network.variant).channels.stem[2];
    format!(
        "network: {}, width {:.3}, {}, input {} x {}, {}",
        network.variant,
        network.channels.stem[2] as f64 / full as f64,
        plural(network.classes as u64, "class"),
        network.input,
        network.input,
        if network.has_aux() { "main and auxiliary heads" } else { "main head only" }
    )
}

fn checkpoint_lines(own: &Metadata) -> Vec<String> {
    let shown = 10.min(own.classes.len());
    let more = if own.classes.len() > shown { ", …" } else { "" };
    let p = &own.preprocessing;
    let mut lines = vec![
        format!(
            "incept {}: {}, {}",
            own.version,
            plural(own.progress.step, "step"),
            plural(own.progress.epoch, "epoch")
        ),
        format!("pixels: {} x {}, mean {:?}, std {:?}", p.input, p.input, p.mean, p.std),
        format!("images: {}", p.described()),
        format!("classes: {}{more}", printable(&own.classes[..shown].join(", "))),
    ];
    if !own.command_line.is_empty() {
        lines.push(format!("command: {}", own.command_line.join(" ")));
    }
    lines
}
