//! `incept import`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::checkpoint::{Checkpoint, ImportOptions, Pixels};
use incept::formats::{Content, Foreign, Format};
use incept::low_level::output::check_file;
use incept::low_level::untrusted::read_text;
use incept::model::{GoogLeNet, Variant};
use serde::Serialize;

use super::numbers::whole;
use super::report::{Reporter, command_line, note, plural, shown, thousands};
use super::{Outcome, Result};

/// Import pretrained weights from PyTorch, safetensors, Caffe or ONNX as a checkpoint.
///
/// PyTorch files are read without executing code in them; anything other than tensors is skipped
/// and reported. Missing, unexpected and mismatched tensors are listed by name. Networks with 1000
/// classes get ImageNet's class names.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Import {
    /// File to import: .pth or .pt (torch.save or torch.jit.save), .safetensors, .caffemodel or
    /// .onnx; for sharded safetensors the index file, model.safetensors.index.json.
    file: PathBuf,
    /// Checkpoint to write.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: PathBuf,
    /// Text file with class names, one per line.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Input height and width in pixels [default: that of the file, or 224].
    #[arg(long = "image-size", alias = "input", value_name = "PIXELS", value_parser = whole::<usize>(1))]
    input: Option<usize>,
    /// Pixel normalization of the network [default: that of the file, or the usual one of its
    /// source; see below in `--help`].
    #[arg(long, value_name = "KIND")]
    pixels: Option<Kind>,
    /// Per-channel mean to subtract, in [0, 1]; overrides --pixels.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    mean: Option<[f32; 3]>,
    /// Per-channel standard deviation to divide by; overrides --pixels.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    std: Option<[f32; 3]>,
    /// Prefix of the tensors' names, for files with several networks, for example `model_ema.`.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

const EXAMPLES: &str = "Pixel normalization (--pixels):
  transform-input   [-1, 1]: torchvision with transform_input=True, for its ImageNet weights
                    [default for state dicts with torchvision's names]
  imagenet          ImageNet's mean and standard deviation: torchvision with transform_input=False
                    [default for ONNX of torchvision's network, for ONNX of the paper's
                    network from PyTorch, and for state dicts with Caffe's names]
  caffe             BGR in [0, 255] minus 104, 117, 123 [default for Caffe, and for other ONNX of its network]
Checkpoints always take RGB: mean and scale are saved as preprocessing, and the channel order is folded into the first convolution.

Crops: classify and eval use the evaluation crop of the published weights. For an input of 224, PyTorch's: the central 224 of an image resized to 256 at its shorter side; Caffe's: the central 224 of an image squashed to 256 x 256. Checkpoints with inputs below 224 and other classes than ImageNet's use the whole central square. `train --init FILE --fit crop|squash|pad` changes it.

Examples:
  incept import googlenet-1378be20.pth --output imagenet.safetensors
  incept import bvlc_googlenet.caffemodel --output caffe.safetensors
  incept import mine.pth --pixels imagenet --classes names.txt --output mine.safetensors
  incept classify imagenet.safetensors cat.jpg";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    TransformInput,
    Imagenet,
    Caffe,
}

/// Parses three comma-separated numbers.
fn three(text: &str) -> std::result::Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let numbers: Option<[f32; 3]> = numbers.and_then(|list| list.try_into().ok());
    let numbers = numbers.filter(|list| list.iter().all(|number| number.is_finite()));
    numbers.ok_or_else(|| "expected three numbers, as in 0.5,0.5,0.5".into())
}

#[derive(Serialize)]
struct ImportResult<'a> {
    file: String,
    output: String,
    format: Format,
    network: &'a GoogLeNet,
    parameters: usize,
    preprocessing: &'a incept::data::Preprocessing,
    ignored: &'a [String],
    skipped: &'a [String],
}

impl Import {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        check_file(&self.out)?;
        let file = Foreign::read(&self.file)?;
        note_skipped(&file.skipped);
        let options = ImportOptions::default()
            .input(self.input)
            .classes(self.classes.as_deref().map(read_classes).transpose()?)
            .pixels(self.pixels(&file)?)
            .prefix(self.prefix.clone());
        let (mut checkpoint, ignored) = Checkpoint::import(&self.file, &file, &options)?;
        checkpoint.metadata.command_line = command_line();
        checkpoint.save(&self.out)?;
        let network = &checkpoint.metadata.network;
        let parameters = checkpoint.state.parameters.values().map(|tensor| tensor.data.len()).sum();
        reporter.line(&format!(
            "{}: {} with {}, {} parameters, {}, from {}",
            shown(&self.out),
            network.variant,
            plural(network.classes as u64, "class"),
            thousands(parameters as u64),
            if network.has_aux() { "main and auxiliary heads" } else { "main head only" },
            file.format.name()
        ))?;
        let preprocessing = &checkpoint.metadata.preprocessing;
        reporter.line(&format!(
            "pixels: {} x {}, mean {:?}, std {:?} (RGB in [0, 1])",
            preprocessing.input, preprocessing.input, preprocessing.mean, preprocessing.std
        ))?;
        reporter.line(&format!("images: {}", preprocessing.described()))?;
        let guessed = options.pixels.is_none() && !file.metadata.contains_key("incept");
        if guessed && matches!(file.content, Content::Tensors(_)) {
            note(
                "note: state dicts do not record the pixel normalization; using that of the published weights (--pixels changes it)",
            );
        }
        if guessed && network.variant == Variant::Torchvision && network.classes == 1000 && network.has_aux()
        {
            note(
                "note: the auxiliary heads of torchvision's ImageNet weights were never trained: train aux1 and aux2 before using them",
            );
        }
        if !ignored.is_empty() {
            note(&format!("not imported: {}", summarized(&ignored)));
        }
        reporter.event(&ImportResult {
            file: shown(&self.file),
            output: shown(&self.out),
            format: file.format,
            network,
            parameters,
            preprocessing,
            ignored: &ignored,
            skipped: &file.skipped,
        })?;
        Ok(Outcome::Done)
    }

    /// The pixel normalization given by options, if any.
    fn pixels(&self, file: &Foreign) -> Result<Option<Pixels>> {
        let kind = self.pixels.map(|kind| match kind {
            Kind::TransformInput => Pixels::TRANSFORM_INPUT,
            Kind::Imagenet => Pixels::IMAGENET,
            Kind::Caffe => Pixels::CAFFE,
        });
        if self.mean.is_none() && self.std.is_none() {
            return Ok(kind);
        }
        let base = match kind {
            Some(kind) => kind,
            None => {
                let found = GoogLeNet::recognize(&self.file, file, self.prefix.as_deref())?;
                Pixels::usual(&self.file, file, found.network.variant)?
            }
        };
        let (mean, std) = (self.mean.unwrap_or(base.mean), self.std.unwrap_or(base.std));
        if std.contains(&0.0) {
            return Err(Error::Config("--std must not be 0".into()));
        }
        Ok(Some(Pixels { mean, std, ..base }))
    }
}

pub(super) fn read_classes(path: &std::path::Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    if names.is_empty() {
        return Err(Error::format(path, "has no class names; expected one per line"));
    }
    Ok(names)
}

/// Prints what a file contains besides tensors; it was skipped without executing any of it.
pub(super) fn note_skipped(skipped: &[String]) {
    const SHOWN: usize = 8;
    if skipped.is_empty() {
        return;
    }
    let shown = skipped.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match skipped.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    note(&format!("note: skipped (not tensors): {shown}{more}"));
}

/// Formats names of tensors: `num_batches_tracked` counters by their number, others by name.
fn summarized(names: &[String]) -> String {
    let (counters, others): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.ends_with("num_batches_tracked"));
    let mut parts = Vec::new();
    if !counters.is_empty() {
        parts.push(plural(counters.len() as u64, "num_batches_tracked counter"));
    }
    match others.len() {
        0 => {}
        1..=8 => parts.extend(others.into_iter().cloned()),
        count => parts.push(format!("{count} tensors that are not part of the network ({}, ...)", others[0])),
    }
    parts.join(", ")
}
