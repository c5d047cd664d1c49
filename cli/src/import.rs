//! `incept import`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::checkpoint::{Checkpoint, ImportOptions, Pixels};
use incept::formats::{Content, Foreign, Format};
use incept::model::{GoogLeNet, Variant};
use incept::output::check_file;
use incept::untrusted::read_text;
use serde::Serialize;

use super::numbers::whole;
use super::report::{Reporter, command_line, note, shown, thousands};
use super::{Outcome, Result};

/// Make a checkpoint of other people's weights: torch, safetensors, Caffe or ONNX.
///
/// Files of torch are read without executing anything in them: what lies beside the weights in a
/// training checkpoint is skipped and named. Tensors that are missing, extra or of other extents
/// are all listed by name. ImageNet's names are given to networks with 1000 classes.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Import {
    /// The file: .pth or .pt of torch (torch.save or torch.jit.save), .safetensors, .caffemodel or
    /// .onnx; its content tells which. Of several files their index, as in
    /// model.safetensors.index.json.
    file: PathBuf,
    /// The checkpoint to write.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: PathBuf,
    /// A text file with the names of the classes, a line each.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Height and width of the input in pixels [default: what the file says, or 224].
    #[arg(long = "image-size", alias = "input", value_name = "PIXELS", value_parser = whole::<usize>(1))]
    input: Option<usize>,
    /// How pixels were made for the network [default: what the file says, or as its publishers do:
    /// see Pixels below, in `--help`].
    #[arg(long, value_name = "KIND")]
    pixels: Option<Kind>,
    /// What is taken from red, green and blue (0 to 1), instead of what --pixels says.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    mean: Option<[f32; 3]>,
    /// What red, green and blue are divided by then, instead of what --pixels says.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    std: Option<[f32; 3]>,
    /// What stands before the tensors' names, where a file holds several networks, for example
    /// `model_ema.`.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

const EXAMPLES: &str = "Pixels:
  transform-input   from -1 to 1: torchvision with transform_input=True, as its ImageNet weights need it
                    [default for state dicts with torchvision's names]
  imagenet          ImageNet's mean and standard deviation: torchvision with transform_input=False
                    [default for ONNX of torchvision's network, which says itself whether it transforms its input, for ONNX of
                    the paper's network by PyTorch, and for state dicts with Caffe's names]
  caffe             blue, green, red from 0 to 255 without 104, 117, 123 [default for Caffe, and for other ONNX of its network]
Images: classify and eval look at what the published weights were measured with, for an input of 224: torch's at the central 224 of an image whose
shorter side is 256, Caffe's at the central 224 of an image squashed to 256 x 256. Checkpoints of other inputs below 224 with other classes than
ImageNet's look at the whole central square. `train --init FILE --fit crop|squash|pad` changes it.

Whichever pixels it is, the checkpoint takes red, green and blue: means and scales go to its preprocessing, and the order of channels to the first convolution.

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

/// Three numbers with commas between.
fn three(text: &str) -> std::result::Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let numbers: Option<[f32; 3]> = numbers.and_then(|list| list.try_into().ok());
    let numbers = numbers.filter(|list| list.iter().all(|number| number.is_finite()));
    numbers.ok_or_else(|| "expected three numbers, as in 0.5,0.5,0.5".into())
}

#[derive(Serialize)]
struct ImportResult<'a> {
    file: String,
    out: String,
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
        let options = ImportOptions {
            input: self.input,
            classes: self.classes.as_deref().map(read_classes).transpose()?,
            pixels: self.pixels(&file)?,
            prefix: self.prefix.clone(),
        };
        let (mut checkpoint, ignored) = Checkpoint::import(&self.file, &file, &options)?;
        checkpoint.metadata.command_line = command_line();
        checkpoint.save(&self.out)?;
        let network = &checkpoint.metadata.network;
        let parameters = checkpoint.state.parameters.values().map(|tensor| tensor.data.len()).sum();
        reporter.line(&format!(
            "{}: {} with {} classes, {} parameters, {} softmax{}, from {}",
            shown(&self.out),
            network.variant,
            network.classes,
            thousands(parameters as u64),
            if network.has_aux() { 3 } else { 1 },
            if network.has_aux() { "es" } else { "" },
            file.format.name()
        ))?;
        let preprocessing = &checkpoint.metadata.preprocessing;
        reporter.line(&format!(
            "pixels: {} x {}, mean {:?}, std {:?} of red, green and blue from 0 to 1",
            preprocessing.input, preprocessing.input, preprocessing.mean, preprocessing.std
        ))?;
        reporter.line(&format!("images: {}", preprocessing.described()))?;
        let guessed = options.pixels.is_none() && !file.metadata.contains_key("incept");
        if guessed && matches!(file.content, Content::Tensors(_)) {
            note(
                "note: a state dict does not say how pixels were made; this is as its publishers have it (--pixels for another way)",
            );
        }
        if guessed && network.variant == Variant::Torchvision && network.classes == 1000 && network.has_aux()
        {
            note(
                "note: if these are torchvision's ImageNet weights, their auxiliary softmaxes were never trained: aux1 and aux2 mean nothing until they are",
            );
        }
        if !ignored.is_empty() {
            note(&format!("left out: {}", summarised(&ignored)));
        }
        reporter.event(&ImportResult {
            file: shown(&self.file),
            out: shown(&self.out),
            format: file.format,
            network,
            parameters,
            preprocessing,
            ignored: &ignored,
            skipped: &file.skipped,
        })?;
        Ok(Outcome::Done)
    }

    /// What the options say about pixels, if they say anything.
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
                let found = GoogLeNet::recognise(&self.file, file, self.prefix.as_deref())?;
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
        return Err(Error::format(path, "has no names: one a line is expected"));
    }
    Ok(names)
}

/// Says what lies beside the tensors of a file and is skipped. Nothing is executed to find out what
/// it is.
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
    note(&format!("note: skipped beside the weights: {shown}{more}"));
}

/// Names for people: counters of batches by their number, the rest one by one.
fn summarised(names: &[String]) -> String {
    let (counters, others): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.ends_with("num_batches_tracked"));
    let mut parts = Vec::new();
    if !counters.is_empty() {
        parts.push(format!("{} counters of batches (num_batches_tracked)", counters.len()));
    }
    match others.len() {
        0 => {}
        1..=8 => parts.extend(others.into_iter().cloned()),
        count => parts.push(format!("{count} tensors beside the network ({} and so on)", others[0])),
    }
    parts.join(", ")
}
