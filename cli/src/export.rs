//! `incept export`

use std::path::PathBuf;

use clap::Args;
use incept::Error;
use incept::checkpoint::OnnxOptions;
use incept::model::Variant;
use incept::output::check_file;
use incept::output::write_atomically;
use serde::Serialize;

use super::record;
use super::report::{Reporter, bytes, note, shown};
use super::{Outcome, Result};

/// Write a checkpoint for others: as ONNX, or as safetensors for PyTorch.
///
/// The parameters are the averaged ones if the run averaged them. The optimizer's state stays
/// behind.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Export {
    /// The checkpoint, a run's folder (its best one), or `included`: what comes with incept.
    checkpoint: PathBuf,
    /// The file to write; its ending says what it becomes: .onnx or .safetensors.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: PathBuf,
    /// ONNX with the auxiliary softmaxes too: outputs aux1_logits and aux2_logits beside logits.
    #[arg(long)]
    aux: bool,
    /// ONNX with each batch norm made a part of the convolution before it.
    #[arg(long)]
    fold: bool,
    /// safetensors with parameters as f16: half the size. What is read from it is f32 again.
    #[arg(long)]
    half: bool,
}

const EXAMPLES: &str = "ONNX: input `data` (batch x 3 x input x input; the batch is open), output `logits` (batch x classes, before softmax).

An image becomes `data` as `incept classify` makes it, in this order:
  1. 8 bits per channel, turned as EXIF says; grey repeated in all channels, transparency over white
  2. cropped to the largest square in the middle, if the checkpoint was trained so
  3. resized to input x input, bilinear with antialiasing (Pillow's BILINEAR)
  4. divided by 255, minus mean, divided by std, per channel
  5. planes of red, green and blue, as float32
Size, crop, mean, std and class names are in the model's doc_string and metadata_props (keys classes, input_size, mean, std, channel_order and preprocessing.*; `incept
import` reads its own entry again), and in a model card beside the file, FILE.onnx.md, with a Python program that was tested.

safetensors: torchvision's names for its variant, so that
  torchvision.models.googlenet(num_classes=N, init_weights=False).load_state_dict(safetensors.torch.load_file(FILE))
takes it (full width; aux_logits=False without the auxiliary heads; below 64 pixels conv1 has stride 1 here, so set
`net.conv1.conv.stride = (1, 1)` there); Caffe's layer names for the paper's.

Examples:
  incept export photos.safetensors --output photos.onnx
  incept export photos.safetensors --aux --fold --output all-heads.onnx
  incept export photos.safetensors --output for-pytorch.safetensors
  incept export photos.safetensors --half --output small.safetensors";

#[derive(Serialize)]
struct ExportResult {
    checkpoint: String,
    out: String,
    bytes: usize,
    outputs: Vec<String>,
    /// The model card.
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<String>,
}

impl Export {
    /// The model card's file.
    fn card(&self) -> PathBuf {
        let file = self.out.file_name().unwrap_or_default().to_string_lossy();
        self.out.with_file_name(format!("{file}.md"))
    }

    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        check_file(&self.out)?;
        let is_onnx = self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        if is_onnx {
            check_file(&self.card())?;
        }
        let checkpoint = record::load(&self.checkpoint)?;
        let ending = self.out.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        let network = &checkpoint.metadata.network;
        if self.fold && network.variant != Variant::Torchvision {
            return Err(Error::Config("--fold would change nothing: this network has no batch norm".into()));
        }
        if self.aux && !network.has_aux() {
            return Err(Error::Config(
                "--aux would change nothing: this network has no auxiliary heads".into(),
            ));
        }
        let (mut outputs, mut card) = (Vec::new(), None);
        let content = match ending.as_str() {
            "onnx" if self.half => {
                return Err(Error::Config("--half is for safetensors: ONNX has all weights in f32".into()));
            }
            "onnx" => {
                let options = OnnxOptions { aux: self.aux, fold_batch_norm: self.fold };
                outputs = checkpoint.onnx_outputs(options)?;
                let file = self.out.file_name().unwrap_or_default().to_string_lossy();
                card = Some((self.card(), checkpoint.onnx_card(options, &file)?));
                checkpoint.to_onnx(options)?
            }
            "safetensors" if self.aux || self.fold => {
                return Err(Error::Config(
                    "--aux and --fold are for ONNX: safetensors has all weights as they are".into(),
                ));
            }
            "safetensors" if self.half => checkpoint.without_training().to_half_bytes()?,
            "safetensors" => checkpoint.without_training().to_bytes()?,
            _ => {
                let reason = format!("{} should end in .onnx or .safetensors", self.out.display());
                return Err(Error::Config(reason));
            }
        };
        let torch = ending == "safetensors" && network.variant == Variant::Torchvision;
        if torch && network.conv1_stride() == 1 {
            note(
                "note: conv1 has stride 1 in this network: where PyTorch loads it, set `net.conv1.conv.stride = (1, 1)`",
            );
        }
        write_atomically(&self.out, &content)?;
        let what =
            if outputs.is_empty() { String::new() } else { format!(", outputs {}", outputs.join(", ")) };
        reporter.line(&format!("{}: {}{what}", shown(&self.out), bytes(content.len() as u64)))?;
        if let Some((path, text)) = &card {
            write_atomically(path, text.as_bytes())?;
            reporter.line(&format!("{}: how an image becomes its input, and a program", shown(path)))?;
        }
        reporter.event(&ExportResult {
            card: card.map(|(path, _)| shown(&path)),
            checkpoint: shown(&self.checkpoint),
            out: shown(&self.out),
            bytes: content.len(),
            outputs,
        })?;
        Ok(Outcome::Done)
    }
}
