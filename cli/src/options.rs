//! Options that commands share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use incept::data::{Augmentation, Dataset, Fit, Preprocessing};
use incept::device::{Device, DeviceOptions, Opened};
use incept::kernel::{AdapterClass, Profile};
use incept::model::{GoogLeNet, Initialization, Variant};
use incept::optim::{Averaging, Optimizer, Precision, Rule, Schedule};
use incept::tensor::Element;
use incept::wgpu;
use serde::{Deserialize, Serialize};

use super::config::as_text;
use super::numbers::{Range, not_zero, real, whole};
use super::report::note;
use super::tune::Tune;

/// Maximum number of images sampled to measure mean and standard deviation.
const SAMPLE: usize = 1000;

/// Range of `--width`: below it layers would have no channels, above it more than a network may
/// have.
const MIN_WIDTH: f64 = 0.001;
const MAX_WIDTH: f64 = 64.0;

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Print results as JSON: one object, or one object per line for each event.
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Print more details.
    #[arg(short, long, global = true, help_heading = "Output")]
    pub verbose: bool,
}

/// Options of commands that open a device.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DeviceArgs {
    #[command(flatten)]
    pub backend: BackendArg,
    /// Device: `auto` (the fastest GPU, or the CPU if there is none), `cpu`, `gpu`, or an adapter:
    /// its index in `incept devices` or part of its name [default: auto].
    ///
    /// Software adapters (lavapipe, llvmpipe, SwiftShader, WARP) run shaders on the CPU, more
    /// slowly than `cpu`: they are used only by name or index, or if `--backend` is given.
    #[arg(
        long = "device",
        alias = "adapter",
        value_name = "DEVICE",
        env = "WGPU_ADAPTER_NAME",
        hide_env_values = true,
        help_heading = "Device"
    )]
    pub device: Option<String>,
    /// Threads of the CPU when it is the device [default: one per core].
    ///
    /// Results are the same bits for any number.
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(1), help_heading = "Device")]
    pub threads: Option<usize>,
    /// Use only WebGPU's default limits, as in a browser.
    #[arg(long, help_heading = "Device")]
    pub default_limits: bool,
    /// Autotune kernels and cache the result for later runs [default: fast for training on a GPU,
    /// else off].
    ///
    /// Without autotuning, the cached choices of earlier runs are used. Summation order depends on
    /// the kernel: runs are bit-identical only with the same kernels.
    #[arg(long, value_name = "EFFORT", help_heading = "Device")]
    pub tune: Option<Tune>,
}

/// The graphics APIs to look for adapters with.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct BackendArg {
    /// Graphics API: `vulkan`, `metal`, `dx12` or `gl`, or several separated by commas [default:
    /// the native ones, or gl if they have no adapter].
    #[arg(long, value_name = "API", env = "WGPU_BACKEND", hide_env_values = true, help_heading = "Device")]
    backend: Option<Apis>,
}

impl BackendArg {
    /// The APIs, or none if the option was not given.
    pub(crate) fn apis(self) -> Option<wgpu::Backends> {
        self.backend.map(|apis| apis.0).filter(|apis| !apis.is_empty())
    }
}

/// Graphics APIs by the names that wgpu programs use; empty for an empty environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Apis(wgpu::Backends);

impl FromStr for Apis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut apis = wgpu::Backends::empty();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            apis |= match name.to_lowercase().as_str() {
                "vulkan" | "vk" => wgpu::Backends::VULKAN,
                "metal" | "mtl" => wgpu::Backends::METAL,
                "dx12" | "d3d12" => wgpu::Backends::DX12,
                "gl" | "gles" | "opengl" => wgpu::Backends::GL,
                _ => return Err(format!("`{name}` is not one of vulkan, metal, dx12, gl")),
            };
        }
        Ok(Self(apis))
    }
}

impl DeviceArgs {
    /// Opens the device and prints its name.
    pub(crate) fn open(&self) -> incept::Result<Device> {
        Ok(self.open_with_reason()?.device)
    }

    /// As [`DeviceArgs::open`], with the reason for the choice.
    pub(crate) fn open_with_reason(&self) -> incept::Result<Opened> {
        let options = DeviceOptions::default()
            .choice(self.device.as_deref().unwrap_or_default())
            .backends(self.backend.apis())
            .default_limits(self.default_limits)
            .threads(self.threads);
        let opened = Device::open_blocking(&options)?;
        let summary = opened.device.summary();
        if opened.reason.is_empty() {
            note(&format!("device: {summary}"));
        } else {
            note(&format!("device: {summary}: {}", opened.reason));
        }
        if summary.class == AdapterClass::Software {
            note("note: this is a software adapter that runs on the CPU; `--device cpu` is faster");
        }
        if self.threads.is_some() && opened.device.cpu().is_none() {
            return Err(incept::Error::Config(
                "--threads is for the CPU, and the device is a GPU: leave it out".into(),
            ));
        }
        self.load_cache(&opened.device);
        Ok(opened)
    }
}

/// Precision of activations.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PrecisionArgs {
    /// Precision of activations and their gradients: `f32`, `f16` (half the memory; training uses
    /// loss scaling), or `auto` (f16 on GPUs where it is faster, else f32). Parameters and
    /// arithmetic are always f32.
    #[arg(long, value_name = "TYPE", default_value = "auto", help_heading = "Device")]
    pub precision: PrecisionName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrecisionName {
    F32,
    F16,
    Auto,
}

impl PrecisionArgs {
    /// The element type of activations on this device; prints a note if `auto` chose f16.
    pub(crate) fn element(self, device: &Device) -> Element {
        match self.precision {
            PrecisionName::F16 => Element::F16,
            PrecisionName::Auto if device.profile().prefers_f16() => {
                note("precision: activations are stored as f16 on this GPU (--precision f32 turns this off)");
                Element::F16
            }
            PrecisionName::F32 | PrecisionName::Auto => Element::F32,
        }
    }

    /// The precision of training on a device with this profile.
    pub(crate) fn of(self, profile: &Profile) -> Precision {
        match self.precision {
            PrecisionName::F16 => Precision::f16(),
            PrecisionName::Auto if profile.prefers_f16() => Precision::f16(),
            PrecisionName::F32 | PrecisionName::Auto => Precision::F32,
        }
    }

    /// The precision of training on this device.
    pub(crate) fn training(self, device: &Device) -> Precision {
        match self.element(device) {
            Element::F16 => Precision::f16(),
            _ => Precision::F32,
        }
    }
}

/// The network; options that are not given have the variant's defaults.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Architecture: `paper` (Caffe's bvlc_googlenet) or `torchvision` (with batch norm) [default:
    /// paper].
    #[arg(long, value_name = "NAME")]
    pub variant: Option<Variant>,
    /// Width multiplier: factor on all channel counts [default: 1; explain: 0.25; recipes may
    /// differ].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f64>(Range::Positive))]
    pub width: Option<f64>,
    /// Input height and width in pixels, at least 32 [default: 224; train and explain: 32, 64 or
    /// 224, depending on the images].
    ///
    /// `train` and `explain` choose 32 if the shorter side of the images is up to 40, 64 if it is
    /// up to 96, else 224; `explain` uses 64 for digits.
    #[arg(long = "image-size", alias = "input", value_name = "PIXELS", value_parser = whole::<usize>(1))]
    #[serde(rename = "image-size", alias = "input")]
    pub input: Option<usize>,
    /// Weight of the two auxiliary losses; 0 removes the auxiliary heads [default: 0.3].
    #[arg(long, value_name = "WEIGHT", value_parser = real::<f32>(Range::NotNegative))]
    pub aux_weight: Option<f32>,
    /// Dropout probability before the main classifier [default: 0.4 (paper), 0.2 (torchvision)].
    #[arg(long, value_name = "P", value_parser = real::<f32>(Range::BelowOne))]
    pub dropout: Option<f32>,
    /// Dropout probability in the auxiliary heads [default: 0.7].
    #[arg(long, value_name = "P", value_parser = real::<f32>(Range::BelowOne))]
    pub aux_dropout: Option<f32>,
    /// Label smoothing [default: 0].
    #[arg(long = "label-smoothing", alias = "smoothing", value_name = "FACTOR", value_parser = real::<f32>(Range::BelowOne))]
    #[serde(rename = "label-smoothing", alias = "smoothing")]
    pub smoothing: Option<f32>,
    /// Weight initialization: `xavier` (Caffe), `glorot` (PyTorch's `xavier_uniform_`) or `he`
    /// [default: xavier (paper), he (torchvision)].
    #[arg(long, value_name = "NAME")]
    #[serde(with = "as_text")]
    pub init: Option<Init>,
    /// Learning rate multiplier for biases; Caffe: 2 [default: 1].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f32>(Range::NotNegative))]
    pub bias_rate: Option<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Xavier,
    Glorot,
    He,
    /// Pretrained weights, as `--weights` names them.
    Weights(PathBuf),
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xavier => f.write_str("xavier"),
            Self::Glorot => f.write_str("glorot"),
            Self::He => f.write_str("he"),
            Self::Weights(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Init {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "xavier" => Self::Xavier,
            "glorot" => Self::Glorot,
            "he" => Self::He,
            path => Self::Weights(path.into()),
        })
    }
}

impl NetworkArgs {
    /// The network for this many classes; `input` is the default of `--image-size`.
    pub(crate) fn network(&self, classes: usize, input: usize) -> incept::Result<GoogLeNet> {
        if let Some(Init::Weights(path)) = &self.init {
            let reason = format!(
                "--init {}: expected xavier, glorot or he; pretrained weights are for `incept train --weights`",
                path.display()
            );
            return Err(incept::Error::Config(reason));
        }
        let width = self.width.unwrap_or(1.0);
        if !(MIN_WIDTH..=MAX_WIDTH).contains(&width) {
            let reason = format!("--width must be from {MIN_WIDTH} to {MAX_WIDTH}, not {width}");
            return Err(incept::Error::Config(reason));
        }
        let base = GoogLeNet::of(self.variant.unwrap_or_default()).width(width).input(input);
        self.changed(base.classes(classes))
    }

    /// `base` with these options applied, except variant and width.
    pub(crate) fn changed(&self, base: GoogLeNet) -> incept::Result<GoogLeNet> {
        let initialization = match &self.init {
            Some(Init::Xavier) => Initialization::Xavier,
            Some(Init::Glorot) => Initialization::Glorot,
            Some(Init::He) => Initialization::He,
            Some(Init::Weights(_)) | None => base.initialization,
        };
        let mut network = base.initialization(initialization);
        network.input = self.input.unwrap_or(network.input);
        network.aux_weight = self.aux_weight.unwrap_or(network.aux_weight);
        network.dropout = self.dropout.unwrap_or(network.dropout);
        network.aux_dropout = self.aux_dropout.unwrap_or(network.aux_dropout);
        network.smoothing = self.smoothing.unwrap_or(network.smoothing);
        network.bias_rate = self.bias_rate.unwrap_or(network.bias_rate);
        network.validate()?;
        Ok(network)
    }

    /// Rejects options without an effect in a command that shows a network and does not train it:
    /// training options; and values other than 0 of dropout and, without `losses`, of the weight of
    /// the auxiliary losses.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the option.
    pub(crate) fn refuse_unseen(&self, losses: bool) -> incept::Result<()> {
        let training = "it only affects training";
        let there = "only 0, which removes the layer, has an effect here";
        let shows = |value: Option<f32>| value.is_some_and(|value| value != 0.0);
        let unseen = [
            (self.init.is_some(), "init", training),
            (self.smoothing.is_some(), "label-smoothing", training),
            (self.bias_rate.is_some(), "bias-rate", training),
            (shows(self.dropout), "dropout", there),
            (shows(self.aux_dropout), "aux-dropout", there),
            (
                self.aux_dropout.is_some() && self.aux_weight == Some(0.0),
                "aux-dropout",
                "--aux-weight 0 removes the auxiliary heads",
            ),
            (
                shows(self.aux_weight) && !losses,
                "aux-weight",
                "only 0, which removes the auxiliary heads, has an effect here",
            ),
        ];
        match unseen.into_iter().find(|(given, ..)| *given) {
            Some((_, option, why)) => Err(incept::Error::Config(format!("--{option} has no effect: {why}"))),
            None => Ok(()),
        }
    }

    /// Fills in options that were not given with the network's values.
    pub(crate) fn fill(&mut self, network: &GoogLeNet) {
        self.variant.get_or_insert(network.variant);
        self.input.get_or_insert(network.input);
        self.aux_weight.get_or_insert(network.aux_weight);
        self.dropout.get_or_insert(network.dropout);
        self.aux_dropout.get_or_insert(network.aux_dropout);
        self.smoothing.get_or_insert(network.smoothing);
        self.bias_rate.get_or_insert(network.bias_rate);
        self.init.get_or_insert(match network.initialization {
            Initialization::Xavier => Init::Xavier,
            Initialization::Glorot => Init::Glorot,
            Initialization::He => Init::He,
        });
    }
}

/// Normalization and resizing of images.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub(crate) struct PixelArgs {
    /// Per-channel mean to subtract, in [0, 1]: one number, or R,G,B [default: that of the training
    /// images, or of the pretrained weights].
    #[arg(long, value_name = "MEAN|R,G,B")]
    #[serde(with = "as_text")]
    pub mean: Option<Rgb>,
    /// Per-channel standard deviation to divide by: one number, or R,G,B; 1 keeps the range [0, 1],
    /// 0.0039 gives Caffe's [0, 255] [default: that of the training images, or of the pretrained
    /// weights].
    #[arg(long, value_name = "STD|R,G,B")]
    #[serde(with = "as_text")]
    pub std: Option<Rgb>,
    /// How to make images square; saved in the checkpoint [default: crop, or that of the pretrained
    /// weights].
    ///
    /// Images are resized bilinearly with antialiasing (a triangle filter, as Pillow's BILINEAR),
    /// unless `--random-interpolation` picks another filter.
    #[arg(long, value_name = "KIND")]
    pub fit: Option<FitName>,
}

/// How images are made square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FitName {
    /// Central square crop.
    Crop,
    /// Resize to a square, ignoring the aspect ratio.
    Squash,
    /// Letterbox: keep the aspect ratio and pad with the mean color.
    Pad,
}

impl FitName {
    fn fit(self) -> Fit {
        match self {
            Self::Crop => Fit::Crop,
            Self::Squash => Fit::Squash,
            Self::Pad => Fit::Pad,
        }
    }

    fn of(fit: Fit) -> Self {
        match fit {
            Fit::Crop => Self::Crop,
            Fit::Squash => Self::Squash,
            Fit::Pad => Self::Pad,
        }
    }
}

/// One value per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rgb([f32; 3]);

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r, g, b] = self.0;
        if r == g && g == b { write!(f, "{r}") } else { write!(f, "{r},{g},{b}") }
    }
}

impl FromStr for Rgb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Option<Vec<f32>> =
            text.split(',').map(|n| n.trim().parse().ok().filter(|n: &f32| n.is_finite())).collect();
        match numbers.as_deref() {
            Some(&[grey]) => Ok(Self([grey; 3])),
            Some(&[r, g, b]) => Ok(Self([r, g, b])),
            _ => Err("expected one number, or three as in 0.485,0.456,0.406".into()),
        }
    }
}

impl PixelArgs {
    /// `base` with these options applied; options that were not given are set to its values.
    pub(crate) fn resolve(&mut self, base: &Preprocessing) -> incept::Result<Preprocessing> {
        let mean = self.mean.get_or_insert(Rgb(base.mean)).0;
        let std = self.std.get_or_insert(Rgb(base.std)).0;
        if std.iter().any(|s| *s <= 0.0) {
            return Err(incept::Error::Config(format!("--std must be above 0, not {}", Rgb(std))));
        }
        // With an explicit --fit the network sees the whole square, not a central crop of it.
        let crop_pct = if self.fit.is_some() { 1.0 } else { base.crop_pct };
        let fit = self.fit.unwrap_or(FitName::of(base.fit)).fit();
        if crop_pct == 1.0 {
            self.fit = Some(FitName::of(fit));
        }
        Ok(base.clone().mean(mean).std(std).fit(fit).crop_pct(crop_pct))
    }

    /// The preprocessing for a new network: mean and standard deviation are measured on `set`.
    pub(crate) fn measured(&mut self, input: usize, set: &dyn Dataset) -> incept::Result<Preprocessing> {
        self.resolve(&Preprocessing::new(input).measure(set, SAMPLE))
    }
}

/// Optimizer and learning rate schedule.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Optimizer")]
pub(crate) struct OptimizerArgs {
    /// Optimizer: SGD with momentum, Nesterov momentum, AdamW, or LARS for large batches [default:
    /// sgd].
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<RuleName>,
    /// Peak learning rate [default: 0.01].
    #[arg(long, alias = "rate", value_name = "RATE", value_parser = real::<f64>(Range::NotNegative))]
    #[serde(alias = "rate")]
    pub lr: Option<f64>,
    /// Learning rate schedule: constant, polynomial[:POWER] (Caffe: 0.5), cosine,
    /// step[:EPOCHS:GAMMA] (the paper: 8:0.96), onecycle[:PCT_START] (torch: 0.3; also cycles
    /// momentum between 0.95 and 0.85) [default: polynomial:0.5].
    #[arg(long, value_name = "NAME")]
    #[serde(with = "as_text")]
    pub schedule: Option<Schedule>,
    /// Warm-up epochs, in which the learning rate rises from 1% to 100% of `--lr`; the schedule
    /// covers the remaining epochs [default: 0].
    #[arg(long = "warmup-epochs", alias = "warmup", value_name = "EPOCHS", value_parser = real::<f64>(Range::NotNegative))]
    #[serde(rename = "warmup-epochs", alias = "warmup")]
    pub warmup: Option<f64>,
    /// Momentum of sgd, nesterov and lars; the onecycle schedule sets its own [default: 0.9].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f32>(Range::BelowOne))]
    pub momentum: Option<f32>,
    /// Weight decay, on convolution and linear weights [default: 0.0002].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f32>(Range::NotNegative))]
    pub weight_decay: Option<f32>,
    /// LARS trust coefficient [default: 0.001].
    #[arg(long, alias = "trust", value_name = "FACTOR", value_parser = real::<f32>(Range::Positive))]
    #[serde(alias = "trust")]
    pub trust_coefficient: Option<f32>,
    /// Clip gradients to this global norm; 0 disables clipping [default: 0].
    #[arg(long, alias = "clip-norm", value_name = "NORM", value_parser = real::<f32>(Range::NotNegative))]
    #[serde(alias = "clip-norm")]
    pub max_grad_norm: Option<f32>,
    /// Evaluate with averaged parameters and running statistics: `polyak` (uniform average, as in
    /// the paper), or the decay of an exponential moving average [default: none].
    #[arg(long, value_name = "polyak|DECAY|none")]
    #[serde(with = "as_text")]
    pub average: Option<Average>,
    /// Gradient accumulation steps [default: 1].
    ///
    /// Each batch is weighted by its number of images. The last update of an epoch may accumulate
    /// fewer batches.
    #[arg(long = "grad-accum", alias = "accumulate", value_name = "COUNT", value_parser = whole::<u32>(1))]
    #[serde(rename = "grad-accum", alias = "accumulate")]
    pub accumulate: Option<u32>,
    /// Recompute activations in the backward pass to save memory.
    ///
    /// Needs a third of the memory for about 20% more arithmetic. Results are identical.
    #[arg(long = "grad-checkpointing", alias = "checkpointing", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    #[serde(rename = "grad-checkpointing", alias = "checkpointing")]
    pub checkpointing: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RuleName {
    Sgd,
    Nesterov,
    Adamw,
    Lars,
}

/// Parameter averaging; none if turned off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Average(pub Option<Averaging>);

impl fmt::Display for Average {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(averaging) => averaging.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl FromStr for Average {
    type Err = <Averaging as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|averaging| Self(Some(averaging))) }
    }
}

/// An optimizer option that has no effect with some values of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ineffective {
    Trust,
    Momentum,
    Warmup,
}

impl Ineffective {
    /// The flag's name, which is also its key in a configuration.
    fn flag(self) -> &'static str {
        match self {
            Self::Trust => "trust-coefficient",
            Self::Momentum => "momentum",
            Self::Warmup => "warmup-epochs",
        }
    }
}

impl OptimizerArgs {
    /// Checks what the library does not: learning rate and warm-up are options of the run.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the option.
    pub(crate) fn validate(&self) -> incept::Result<()> {
        Range::NotNegative.check(self.lr, "lr")?;
        Range::NotNegative.check(self.warmup, "warmup-epochs")?;
        Range::BelowOne.check(self.momentum, "momentum")?;
        Range::NotNegative.check(self.weight_decay, "weight-decay")?;
        Range::Positive.check(self.trust_coefficient, "trust-coefficient")?;
        Range::NotNegative.check(self.max_grad_norm, "max-grad-norm")?;
        not_zero(self.accumulate.map(u64::from), "grad-accum")
    }

    /// Checks that each of these flags has an effect, where `merged` combines recipe, file and
    /// flags.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the flag and why it has no effect.
    pub(crate) fn refuse_ineffective(&self, merged: &Self) -> incept::Result<()> {
        let is_given = |option: Ineffective| match option {
            Ineffective::Trust => self.trust_coefficient.is_some(),
            Ineffective::Momentum => self.momentum.is_some(),
            Ineffective::Warmup => self.warmup.is_some_and(|epochs| epochs > 0.0),
        };
        match merged.ineffective().into_iter().find(|(option, _)| is_given(*option)) {
            Some((option, why)) => {
                Err(incept::Error::Config(format!("--{} has no effect: {why}", option.flag())))
            }
            None => Ok(()),
        }
    }

    /// The options that have no effect given the others, and why.
    fn ineffective(&self) -> Vec<(Ineffective, &'static str)> {
        let rule = self.optimizer.unwrap_or(RuleName::Sgd);
        let cycled = matches!(self.schedule, Some(Schedule::OneCycle { .. }));
        let mut list = Vec::new();
        if rule != RuleName::Lars {
            list.push((Ineffective::Trust, "it applies only to --optimizer lars"));
        }
        if rule == RuleName::Adamw {
            list.push((
                Ineffective::Momentum,
                "it applies to --optimizer sgd, nesterov and lars; adamw uses betas of 0.9 and 0.999",
            ));
        } else if cycled {
            list.push((Ineffective::Momentum, "the onecycle schedule cycles momentum between 0.95 and 0.85"));
        }
        if cycled {
            list.push((
                Ineffective::Warmup,
                "the onecycle schedule has its own warm-up; onecycle:PCT_START sets its share of the run",
            ));
        }
        list
    }

    /// Unsets options of a recipe or file that have no effect given the others, with a note.
    pub(crate) fn drop_ineffective(&mut self) {
        for (option, why) in self.ineffective() {
            let dropped = match option {
                Ineffective::Trust => self.trust_coefficient.take().is_some(),
                Ineffective::Momentum => self.momentum.take().is_some(),
                Ineffective::Warmup => self.warmup.take().is_some_and(|warmup| warmup > 0.0),
            };
            if dropped {
                note(&format!("note: {} in the configuration has no effect: {why}", option.flag()));
            }
        }
    }

    /// The optimizer, in f32 until the device's precision is known; options that were not given are
    /// set to their defaults.
    pub(crate) fn resolve(&mut self) -> Optimizer {
        let rule = match *self.optimizer.get_or_insert(RuleName::Sgd) {
            RuleName::Sgd => Rule::sgd(),
            RuleName::Nesterov => Rule::nesterov(),
            RuleName::Adamw => Rule::adamw([0.9, 0.999], 1e-8),
            RuleName::Lars => Rule::lars(*self.trust_coefficient.get_or_insert(0.001)),
        };
        // Options without an effect stay unset.
        let used = !self.ineffective().iter().any(|(option, _)| *option == Ineffective::Momentum);
        Optimizer::default()
            .rule(rule)
            .momentum(if used { *self.momentum.get_or_insert(0.9) } else { 0.9 })
            .weight_decay(*self.weight_decay.get_or_insert(2e-4))
            // Without clipping the norm is still computed: log, report and dashboard show it.
            .max_grad_norm(self.max_grad_norm.filter(|norm| *norm != 0.0).unwrap_or(f32::INFINITY))
            .average(self.average.and_then(|average| average.0))
            .accumulate(*self.accumulate.get_or_insert(1))
            .checkpointing(*self.checkpointing.get_or_insert(false))
            .precision(Precision::F32)
    }
}

/// Augmentation presets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Augment {
    /// Chosen by the data set.
    Auto,
    /// No augmentation.
    None,
    /// Small random shifts and rescaling, for digits.
    Shifts,
    /// Random shifts of up to an eighth, and horizontal flips.
    Standard,
    /// Random resized crops (8% to 100% of the area, aspect ratio 3/4 to 4/3), and horizontal
    /// flips.
    Crops,
    /// `crops` with photometric distortions and random interpolation.
    Paper,
}

impl Augment {
    pub(crate) fn augmentation(self, suits: Augmentation) -> Option<Augmentation> {
        match self {
            Self::Auto => Some(suits),
            Self::None => None,
            Self::Shifts => Some(Augmentation::shifts()),
            Self::Standard => Some(Augmentation::standard()),
            Self::Crops => Some(Augmentation::crops()),
            Self::Paper => Some(Augmentation::paper()),
        }
    }
}
