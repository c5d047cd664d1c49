//! Options that commands share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use incept::data::{Augmentation, Dataset, Fit, Preprocessing};
use incept::gpu::{AdapterOptions, Gpu};
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

/// Images that mean and standard deviation are measured on, at most.
const SAMPLE: usize = 1000;

/// Factors on channel counts that leave any to multiply, and no layer with more than a network may
/// have.
const MIN_WIDTH: f64 = 0.001;
const MAX_WIDTH: f64 = 64.0;

/// For every command.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Print results as JSON: one object, or one a line for each event.
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Say more about what is going on.
    #[arg(short, long, global = true, help_heading = "Output")]
    pub verbose: bool,
}

/// For commands that open a device.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    #[command(flatten)]
    pub backend: BackendArg,
    /// The adapter: its number in `incept devices`, or a part of its name [default: the fastest
    /// real GPU].
    #[arg(
        long = "device",
        alias = "adapter",
        value_name = "NUMBER|NAME",
        env = "WGPU_ADAPTER_NAME",
        hide_env_values = true,
        help_heading = "Device"
    )]
    pub adapter: Option<String>,
    /// Stay within the limits that every WebGPU device has, as in a browser.
    #[arg(long, help_heading = "Device")]
    pub default_limits: bool,
    /// Measure which kernels are fastest here, and keep that for the next start [default: fast for
    /// what trains, on a real GPU].
    ///
    /// Without this option, what earlier starts found is used. The order in which sums are added up
    /// depends on the kernel: runs are equal bit for bit as long as the kernels are.
    #[arg(long, value_name = "EFFORT", help_heading = "Device")]
    pub tune: Option<Tune>,
}

/// The graphics APIs that adapters may have.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct BackendArg {
    /// Use only this graphics API: `vulkan`, `metal`, `dx12` or `gl`; or several, with commas
    /// between [default: the native ones, and gl where they have no adapter].
    #[arg(long, value_name = "API", env = "WGPU_BACKEND", hide_env_values = true, help_heading = "Device")]
    backend: Option<Apis>,
}

impl BackendArg {
    /// The APIs, if some are named.
    pub(crate) fn apis(self) -> Option<wgpu::Backends> {
        self.backend.map(|apis| apis.0).filter(|apis| !apis.is_empty())
    }
}

/// Graphics APIs by the names that programs with wgpu know; none for an empty environment variable.
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
                _ => return Err(format!("`{name}` is none of vulkan, metal, dx12 and gl")),
            };
        }
        Ok(Self(apis))
    }
}

impl DeviceArgs {
    /// Opens the device and says which it is.
    pub(crate) fn open(&self) -> incept::Result<Gpu> {
        let gpu = Gpu::open_blocking(&AdapterOptions {
            backends: self.backend.apis(),
            adapter: self.adapter.clone().filter(|name| !name.is_empty()),
            default_limits: self.default_limits,
        })?;
        let summary = gpu.summary();
        note(&format!("device: {summary}"));
        if summary.class == AdapterClass::Software {
            note(
                "note: this is a software adapter, which runs on the CPU: expect a real GPU to be far faster",
            );
        }
        self.recall(&gpu);
        Ok(gpu)
    }
}

/// How activations are stored.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PrecisionArgs {
    /// How activations and their gradients are stored: `f32`, `f16` in half the memory (training
    /// scales the loss to keep gradients in its range), or `auto`: f16 on GPUs that gain by it,
    /// else f32. Parameters and arithmetic are f32 either way.
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
    /// How activations are stored on this device; says so where the device decided.
    pub(crate) fn element(self, gpu: &Gpu) -> Element {
        match self.precision {
            PrecisionName::F16 => Element::F16,
            PrecisionName::Auto if gpu.profile().prefers_f16() => {
                note(
                    "precision: activations are stored as f16 on this GPU (--precision f32 to keep them in f32)",
                );
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
    pub(crate) fn training(self, gpu: &Gpu) -> Precision {
        match self.element(gpu) {
            Element::F16 => Precision::f16(),
            _ => Precision::F32,
        }
    }
}

/// The network. Without an option, the variant's own value holds.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// `paper` as Caffe has it, or `torchvision` with batch norm [default: paper].
    #[arg(long, value_name = "NAME")]
    pub variant: Option<Variant>,
    /// Factor on all channel counts [default: 1; explain 0.25; recipes may have another].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f64>(Range::Positive))]
    pub width: Option<f64>,
    /// Height and width of the input in pixels, from 32 up [default: train and explain 32, 64 or
    /// 224, for images whose shorter side is up to 40, up to 96 or more, but explain 64 for digits;
    /// else 224].
    #[arg(long = "image-size", alias = "input", value_name = "PIXELS", value_parser = whole::<usize>(1))]
    #[serde(rename = "image-size", alias = "input")]
    pub input: Option<usize>,
    /// Weight of the two auxiliary losses; 0 leaves their branches out [default: 0.3].
    #[arg(long, value_name = "WEIGHT", value_parser = real::<f32>(Range::NotNegative))]
    pub aux_weight: Option<f32>,
    /// Probability of dropping before the main classifier [default: 0.4 (paper), 0.2
    /// (torchvision)].
    #[arg(long, value_name = "P", value_parser = real::<f32>(Range::BelowOne))]
    pub dropout: Option<f32>,
    /// Probability of dropping before the auxiliary classifiers [default: 0.7].
    #[arg(long, value_name = "P", value_parser = real::<f32>(Range::BelowOne))]
    pub aux_dropout: Option<f32>,
    /// Label smoothing [default: 0].
    #[arg(long = "label-smoothing", alias = "smoothing", value_name = "SHARE", value_parser = real::<f32>(Range::BelowOne))]
    #[serde(rename = "label-smoothing", alias = "smoothing")]
    pub smoothing: Option<f32>,
    /// How weights start: `xavier` (Caffe), `glorot` (PyTorch's `xavier_uniform_`), `he`; for train
    /// also weights: a file, a run's folder (its best ones), or `included` for those that come with
    /// incept [default: xavier (paper), he (torchvision)].
    #[arg(long, visible_alias = "weights", value_name = "NAME|FILE")]
    #[serde(with = "as_text")]
    pub init: Option<Init>,
    /// Factor on the learning rate of biases; Caffe has 2 [default: 1].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f32>(Range::NotNegative))]
    pub bias_rate: Option<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    Xavier,
    Glorot,
    He,
    /// A checkpoint, whose network is the one to build on.
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
    /// The network for this many classes; `input` is its size where no option says it.
    pub(crate) fn network(&self, classes: usize, input: usize) -> incept::Result<GoogLeNet> {
        if let Some(Init::Weights(path)) = &self.init {
            let reason = format!("--init {}: only `incept train` starts from weights", path.display());
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

    /// The network with what these options say about it, but for its variant and width.
    pub(crate) fn changed(&self, base: GoogLeNet) -> incept::Result<GoogLeNet> {
        let initialization = match &self.init {
            Some(Init::Xavier) => Initialization::Xavier,
            Some(Init::Glorot) => Initialization::Glorot,
            Some(Init::He) => Initialization::He,
            Some(Init::Weights(_)) | None => base.initialization,
        };
        let network = GoogLeNet {
            input: self.input.unwrap_or(base.input),
            aux_weight: self.aux_weight.unwrap_or(base.aux_weight),
            dropout: self.dropout.unwrap_or(base.dropout),
            aux_dropout: self.aux_dropout.unwrap_or(base.aux_dropout),
            smoothing: self.smoothing.unwrap_or(base.smoothing),
            bias_rate: self.bias_rate.unwrap_or(base.bias_rate),
            initialization,
            ..base
        };
        network.validate()?;
        Ok(network)
    }

    /// Refuses what changes nothing that a command shows of a network that it does not train: of
    /// dropout and, without `losses`, of the weight of the auxiliary losses only whether there is
    /// any.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the option.
    pub(crate) fn refuse_unseen(&self, losses: bool) -> incept::Result<()> {
        let training = "it is for training";
        let there = "only 0, which leaves the layer out, shows here";
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
                "--aux-weight 0 leaves the auxiliary heads out",
            ),
            (
                shows(self.aux_weight) && !losses,
                "aux-weight",
                "only 0, which leaves the auxiliary heads out, shows here",
            ),
        ];
        match unseen.into_iter().find(|(given, ..)| *given) {
            Some((_, option, why)) => {
                Err(incept::Error::Config(format!("--{option} would change nothing: {why}")))
            }
            None => Ok(()),
        }
    }

    /// Sets what was not set to what the network has.
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

/// What is taken from the pixels, and what they are divided by then.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub(crate) struct PixelArgs {
    /// What is taken from each pixel, from 0 to 1: one number, or one each for red, green and blue
    /// [default: the mean of the training images, or as the weights of --init have it].
    #[arg(long, value_name = "MEAN|R,G,B")]
    #[serde(with = "as_text")]
    pub mean: Option<Rgb>,
    /// What the difference is divided by: 1 leaves it as it is, 0.0039 gives Caffe's 0 to 255
    /// [default: the standard deviation of the training images, or as the weights of --init have
    /// it].
    #[arg(long, value_name = "STD|R,G,B")]
    #[serde(with = "as_text")]
    pub std: Option<Rgb>,
    /// How images that are not square become square; kept in the checkpoint [default: crop, or as
    /// the weights of --init have it].
    ///
    /// Images are resized bilinearly with antialiasing (a triangle filter, as Pillow's BILINEAR),
    /// unless `--random-interpolation` draws another.
    #[arg(long, value_name = "KIND")]
    pub fit: Option<FitName>,
}

/// How images that are not square become square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FitName {
    /// The central square; the rest is not seen.
    Crop,
    /// All of the image, with its proportions changed.
    Squash,
    /// All of the image with its proportions, between bars of the mean color (letterbox).
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

/// A number for each colour.
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
            _ => Err("one number, or three as in 0.485,0.456,0.406".into()),
        }
    }
}

impl PixelArgs {
    /// The preprocessing with what these options say of it, which is set to what holds.
    pub(crate) fn resolve(&mut self, base: &Preprocessing) -> incept::Result<Preprocessing> {
        let mean = self.mean.get_or_insert(Rgb(base.mean)).0;
        let std = self.std.get_or_insert(Rgb(base.std)).0;
        if std.iter().any(|s| *s <= 0.0) {
            return Err(incept::Error::Config(format!("--std must be above zero, not {}", Rgb(std))));
        }
        // Who says how images are made square wants all of that square.
        let crop_pct = if self.fit.is_some() { 1.0 } else { base.crop_pct };
        let fit = self.fit.unwrap_or(FitName::of(base.fit)).fit();
        if crop_pct == 1.0 {
            self.fit = Some(FitName::of(fit));
        }
        Ok(Preprocessing { mean, std, fit, crop_pct, ..base.clone() })
    }

    /// The preprocessing of a network that begins with this data.
    pub(crate) fn measured(&mut self, input: usize, set: &dyn Dataset) -> incept::Result<Preprocessing> {
        self.resolve(&Preprocessing::new(input).measure(set, SAMPLE))
    }
}

/// How parameters are updated.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Optimizer")]
pub(crate) struct OptimizerArgs {
    /// The rule: SGD with momentum, Nesterov's, AdamW, or LARS for large batches [default: sgd].
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<RuleName>,
    /// Learning rate, the highest one of the schedule [default: 0.01].
    #[arg(long = "lr", alias = "rate", value_name = "RATE", value_parser = real::<f64>(Range::NotNegative))]
    #[serde(rename = "lr", alias = "rate")]
    pub rate: Option<f64>,
    /// How it changes: constant, polynomial[:POWER] (Caffe: 0.5), cosine, step[:EPOCHS:FACTOR] (the
    /// paper: 8:0.96), onecycle[:RISE] (torch: 0.3; moves momentum too, from 0.95 to 0.85 and back)
    /// [default: polynomial:0.5].
    #[arg(long, value_name = "NAME")]
    #[serde(with = "as_text")]
    pub schedule: Option<Schedule>,
    /// Warm-up epochs, in which the learning rate rises from a hundredth to `--lr`; the schedule
    /// starts after them, over the remaining epochs [default: 0].
    #[arg(long = "warmup-epochs", alias = "warmup", value_name = "EPOCHS", value_parser = real::<f64>(Range::NotNegative))]
    #[serde(rename = "warmup-epochs", alias = "warmup")]
    pub warmup: Option<f64>,
    /// Momentum of sgd, nesterov and lars; the schedule onecycle has its own [default: 0.9].
    #[arg(long, value_name = "SHARE", value_parser = real::<f32>(Range::BelowOne))]
    pub momentum: Option<f32>,
    /// Weight decay of convolution and linear weights [default: 0.0002].
    #[arg(long, value_name = "FACTOR", value_parser = real::<f32>(Range::NotNegative))]
    pub weight_decay: Option<f32>,
    /// Trust coefficient of lars: share of a tensor's norm that it moves it by at learning rate 1
    /// [default: 0.001].
    #[arg(long = "trust-coefficient", alias = "trust", value_name = "SHARE", value_parser = real::<f32>(Range::Positive))]
    #[serde(rename = "trust-coefficient", alias = "trust")]
    pub trust: Option<f32>,
    /// Scale gradients down to this global norm [default: 0, never].
    #[arg(long = "max-grad-norm", alias = "clip-norm", value_name = "NORM", value_parser = real::<f32>(Range::NotNegative))]
    #[serde(rename = "max-grad-norm", alias = "clip-norm")]
    pub clip_norm: Option<f32>,
    /// Classify with averaged parameters and statistics: `polyak` (all alike, as the paper), or the
    /// decay of an exponential average [default: none].
    #[arg(long, value_name = "polyak|DECAY|none")]
    #[serde(with = "as_text")]
    pub average: Option<Average>,
    /// Batches whose gradients make one update, each weighing by its images; the last update of an
    /// epoch may have fewer [default: 1].
    #[arg(long = "grad-accum", alias = "accumulate", value_name = "COUNT", value_parser = whole::<u32>(1))]
    #[serde(rename = "grad-accum", alias = "accumulate")]
    pub accumulate: Option<u32>,
    /// Make most activations again in the backward pass instead of keeping them: about a fifth more
    /// arithmetic in a third of the memory, so that larger batches fit a small GPU. The results are
    /// the same.
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

/// The average that classifies, if there is any.
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

/// An option of the optimizer that changes nothing beside some others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Trust,
    Momentum,
    Warmup,
}

impl Idle {
    /// The flag's name, and that of its key in a configuration.
    fn flag(self) -> &'static str {
        match self {
            Self::Trust => "trust-coefficient",
            Self::Momentum => "momentum",
            Self::Warmup => "warmup-epochs",
        }
    }
}

impl OptimizerArgs {
    /// Checks what the engine does not: rate and warm-up belong to the run.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the option.
    pub(crate) fn validate(&self) -> incept::Result<()> {
        Range::NotNegative.check(self.rate, "lr")?;
        Range::NotNegative.check(self.warmup, "warmup-epochs")?;
        Range::BelowOne.check(self.momentum, "momentum")?;
        Range::NotNegative.check(self.weight_decay, "weight-decay")?;
        Range::Positive.check(self.trust, "trust-coefficient")?;
        Range::NotNegative.check(self.clip_norm, "max-grad-norm")?;
        not_zero(self.accumulate.map(u64::from), "grad-accum")
    }

    /// Checks that each of these flags does something, where `whole` is what recipe, file and flags
    /// come to.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the flag and what it is for.
    pub(crate) fn refuse_idle(&self, whole: &Self) -> incept::Result<()> {
        let is_given = |option: Idle| match option {
            Idle::Trust => self.trust.is_some(),
            Idle::Momentum => self.momentum.is_some(),
            Idle::Warmup => self.warmup.is_some_and(|epochs| epochs > 0.0),
        };
        match whole.idle().into_iter().find(|(option, _)| is_given(*option)) {
            Some((option, why)) => {
                Err(incept::Error::Config(format!("--{} would change nothing: {why}", option.flag())))
            }
            None => Ok(()),
        }
    }

    /// The options that change nothing beside the others, and why.
    fn idle(&self) -> Vec<(Idle, &'static str)> {
        let rule = self.optimizer.unwrap_or(RuleName::Sgd);
        let cycled = matches!(self.schedule, Some(Schedule::OneCycle { .. }));
        let mut list = Vec::new();
        if rule != RuleName::Lars {
            list.push((Idle::Trust, "it is for --optimizer lars"));
        }
        if rule == RuleName::Adamw {
            list.push((
                Idle::Momentum,
                "it is for --optimizer sgd, nesterov and lars; adamw has betas of 0.9 and 0.999",
            ));
        } else if cycled {
            list.push((Idle::Momentum, "the schedule onecycle moves momentum from 0.95 to 0.85 and back"));
        }
        if cycled {
            list.push((
                Idle::Warmup,
                "the schedule onecycle has a rise of its own: onecycle:SHARE sets its length",
            ));
        }
        list
    }

    /// Drops what a recipe or a file set and the other options leave without effect, and says so.
    pub(crate) fn drop_idle(&mut self) {
        for (option, why) in self.idle() {
            let dropped = match option {
                Idle::Trust => self.trust.take().is_some(),
                Idle::Momentum => self.momentum.take().is_some(),
                Idle::Warmup => self.warmup.take().is_some_and(|warmup| warmup > 0.0),
            };
            if dropped {
                note(&format!("note: {} of the configuration changes nothing: {why}", option.flag()));
            }
        }
    }

    /// The optimizer, with a precision that is still to be set for the device; what was not set is
    /// set to its default.
    pub(crate) fn resolve(&mut self) -> Optimizer {
        let rule = match *self.optimizer.get_or_insert(RuleName::Sgd) {
            RuleName::Sgd => Rule::Sgd { nesterov: false },
            RuleName::Nesterov => Rule::Sgd { nesterov: true },
            RuleName::Adamw => Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            RuleName::Lars => Rule::Lars { trust: *self.trust.get_or_insert(0.001) },
        };
        // What a rule or a schedule has no use for stays unset.
        let used = !self.idle().iter().any(|(option, _)| *option == Idle::Momentum);
        Optimizer {
            rule,
            momentum: if used { *self.momentum.get_or_insert(0.9) } else { 0.9 },
            weight_decay: *self.weight_decay.get_or_insert(2e-4),
            // Without clipping the norm is worked out all the same: the log, the report and the
            // dashboard show it.
            clip_norm: Some(self.clip_norm.filter(|norm| *norm != 0.0).unwrap_or(f32::INFINITY)),
            average: self.average.and_then(|average| average.0),
            accumulate: *self.accumulate.get_or_insert(1),
            checkpointing: *self.checkpointing.get_or_insert(false),
            precision: Precision::F32,
        }
    }
}

/// What is done to training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Augment {
    /// What suits the kind of images.
    Auto,
    /// Nothing.
    None,
    /// Small shifts and changes of size: for digits.
    Shifts,
    /// Shifts of an eighth, and mirroring.
    Standard,
    /// Crops of 8% to 100% of the area with aspect ratios from 3/4 to 4/3, and mirroring.
    Crops,
    /// Such crops, photometric distortions and random interpolation.
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
