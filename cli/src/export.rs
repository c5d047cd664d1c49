//! `incept export`

use std::path::PathBuf;

use clap::Args;
use incept::Error;
use incept::checkpoint::OnnxOptions;
use incept::low_level::output::check_file;
use incept::low_level::output::write_atomically;
use incept::model::Variant;
use serde::Serialize;

use super::record;
use super::report::{Reporter, bytes, note, shown};
use super::{Outcome, Result};

/// Export a checkpoint to ONNX, or to safetensors for PyTorch.
///
/// Averaged parameters are exported if the run has them. The optimizer state is not exported.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Export {
    /// Checkpoint, a run's folder (its best checkpoint), `included` or `imagenet`.
    checkpoint: PathBuf,
    /// File to write; the extension selects the format: .onnx or .safetensors.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: PathBuf,
    /// ONNX: include the auxiliary heads, as outputs aux1_logits and aux2_logits.
    #[arg(long)]
    aux: bool,
    /// ONNX: fold batch norm into the preceding convolutions.
    #[arg(long)]
    fold: bool,
    /// safetensors: store parameters as f16, half the size; they are read back as f32.
    #[arg(long)]
    half: bool,
}

const EXAMPLES: &str = "ONNX: input `data` (N x 3 x input x input, dynamic batch size), output `logits` (N x classes, before softmax).

Preprocessing of an image, as in `incept classify`:
  1. decode to 8 bits per channel, apply the EXIF orientation; repeat gray in all channels, composite transparency over white
  2. crop the central square, if the checkpoint was trained that way
  3. resize to input x input, bilinear with antialiasing (Pillow's BILINEAR)
  4. divide by 255, subtract mean and divide by std, per channel
  5. channel order RGB, layout CHW, float32
Size, crop, mean, std and class names are in the model's doc_string and metadata_props (keys classes, input_size, mean, std, channel_order and preprocessing.*; `incept import` reads them back), and in a model card, FILE.onnx.md, with a tested Python example.

safetensors: a torchvision variant has torchvision's parameter names, so that this loads it:
  torchvision.models.googlenet(num_classes=N, init_weights=False).load_state_dict(safetensors.torch.load_file(FILE))
(Full width only; aux_logits=False without auxiliary heads; for inputs below 64 pixels conv1 has stride 1: set `net.conv1.conv.stride = (1, 1)`.) A paper variant has Caffe's layer names.

Examples:
  incept export photos.safetensors --output photos.onnx
  incept export photos.safetensors --aux --fold --output all-heads.onnx
  incept export photos.safetensors --output for-pytorch.safetensors
  incept export photos.safetensors --half --output small.safetensors";

#[derive(Serialize)]
struct ExportResult {
    checkpoint: String,
    output: String,
    bytes: usize,
    outputs: Vec<String>,
    /// Path of the model card.
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<String>,
}

impl Export {
    /// Path of the model card.
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
            return Err(Error::Config("--fold has no effect: this network has no batch norm".into()));
        }
        if self.aux && !network.has_aux() {
            return Err(Error::Config("--aux has no effect: this network has no auxiliary heads".into()));
        }
        let (mut outputs, mut card) = (Vec::new(), None);
        let content = match ending.as_str() {
            "onnx" if self.half => {
                return Err(Error::Config(
                    "--half applies only to safetensors: ONNX files have f32 weights".into(),
                ));
            }
            "onnx" => {
                let options = OnnxOptions::default().aux(self.aux).fold_batch_norm(self.fold);
                outputs = checkpoint.onnx_outputs(options)?;
                let file = self.out.file_name().unwrap_or_default().to_string_lossy();
                card = Some((self.card(), checkpoint.onnx_card(options, &file)?));
                checkpoint.to_onnx(options)?
            }
            "safetensors" if self.aux || self.fold => {
                return Err(Error::Config(
                    "--aux and --fold apply only to ONNX: safetensors files have all weights unchanged"
                        .into(),
                ));
            }
            "safetensors" if self.half => checkpoint.without_training().to_half_bytes()?,
            "safetensors" => checkpoint.without_training().to_bytes()?,
            _ => {
                let reason = format!("{} must end in .onnx or .safetensors", self.out.display());
                return Err(Error::Config(reason));
            }
        };
        let torch = ending == "safetensors" && network.variant == Variant::Torchvision;
        if torch && network.conv1_stride() == 1 {
            note(
                "note: conv1 has stride 1 in this network: after loading in PyTorch, set `net.conv1.conv.stride = (1, 1)`",
            );
        }
        write_atomically(&self.out, &content)?;
        let what =
            if outputs.is_empty() { String::new() } else { format!(", outputs {}", outputs.join(", ")) };
        reporter.line(&format!("{}: {}{what}", shown(&self.out), bytes(content.len() as u64)))?;
        if let Some((path, text)) = &card {
            write_atomically(path, text.as_bytes())?;
            reporter.line(&format!("{}: model card with preprocessing and a Python example", shown(path)))?;
        }
        reporter.event(&ExportResult {
            card: card.map(|(path, _)| shown(&path)),
            checkpoint: shown(&self.checkpoint),
            output: shown(&self.out),
            bytes: content.len(),
            outputs,
        })?;
        Ok(Outcome::Done)
    }
}
