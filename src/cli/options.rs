//! Options that commands share.

use clap::{Args, ValueEnum};
use incept::data::Augmentation;
use incept::gpu::{AdapterOptions, Gpu};
use incept::graph::Element;
use incept::kernel::{AdapterClass, Profile};
use incept::nn::{GoogLeNet, Initialization, Variant};
use incept::train::{Averaging, Optimizer, Precision, Rule, Schedule};

use super::report::note;
use super::tune::Tune;

/// For every command.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Print results as JSON: one object, or one a line for each event.
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Say more about what is going on.
    #[arg(short, long, global = true, help_heading = "Output")]
    pub verbose: bool,
    /// Use only this graphics API.
    #[arg(long, global = true, value_name = "API", help_heading = "Device")]
    pub backend: Option<Backend>,
    /// The adapter: its number in `incept devices`, or a part of its name [default: the fastest real GPU].
    #[arg(long, global = true, value_name = "NUMBER|NAME", help_heading = "Device")]
    pub adapter: Option<String>,
    /// Stay within the limits that every WebGPU device has, as in a browser.
    #[arg(long, global = true, help_heading = "Device")]
    pub default_limits: bool,
    /// Measure which kernels are fastest here, and keep that for the next start [default: fast for `train` and `demo` on a real GPU].
    ///
    /// Without this option, what earlier starts found is used. The order in which sums are added up depends on the kernel: runs are
    /// equal bit for bit as long as the kernels are.
    #[arg(long, global = true, value_name = "EFFORT", help_heading = "Device")]
    pub tune: Option<Tune>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

impl Common {
    pub(crate) fn backend(&self) -> Option<wgpu::Backend> {
        self.backend.map(|backend| match backend {
            Backend::Vulkan => wgpu::Backend::Vulkan,
            Backend::Metal => wgpu::Backend::Metal,
            Backend::Dx12 => wgpu::Backend::Dx12,
            Backend::Gl => wgpu::Backend::Gl,
        })
    }

    /// Opens the device and says which it is.
    pub(crate) fn open(&self) -> incept::Result<Gpu> {
        let gpu = Gpu::open_blocking(&AdapterOptions {
            backend: self.backend(),
            adapter: self.adapter.clone(),
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
    /// How activations and their gradients are stored: `f32`, `f16` in half the memory (training scales the loss to keep gradients in
    /// its range), or `auto`: f16 on GPUs that gain by it, else f32. Parameters and arithmetic are f32 either way.
    #[arg(long, value_name = "TYPE", default_value = "auto", help_heading = "Device")]
    pub precision: PrecisionName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// `paper` as Caffe has it, or `torchvision` with batch norm [default: paper].
    #[arg(long, value_name = "NAME")]
    pub variant: Option<Variant>,
    /// Factor on all channel counts [default: 1].
    #[arg(long, value_name = "FACTOR")]
    pub width: Option<f64>,
    /// Height and width of the input in pixels, from 32 up.
    #[arg(long, value_name = "PIXELS")]
    pub input: Option<usize>,
    /// Weight of the two auxiliary losses; 0 leaves their branches out [default: 0.3].
    #[arg(long, value_name = "WEIGHT")]
    pub aux_weight: Option<f32>,
    /// Probability of dropping before the main classifier [default: 0.4 (paper), 0.2 (torchvision)].
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Probability of dropping before the auxiliary classifiers [default: 0.7].
    #[arg(long, value_name = "P")]
    pub aux_dropout: Option<f32>,
    /// Label smoothing [default: 0].
    #[arg(long, value_name = "SHARE")]
    pub smoothing: Option<f32>,
    /// How weights start: `xavier` (Caffe) or `he` [default: xavier (paper), he (torchvision)].
    #[arg(long, value_name = "NAME")]
    pub init: Option<Init>,
    /// Factor on the learning rate of biases; Caffe has 2 [default: 1].
    #[arg(long, value_name = "FACTOR")]
    pub bias_rate: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Init {
    Xavier,
    He,
}

impl NetworkArgs {
    /// The network for this many classes; `input` is its size where no option says it.
    pub(crate) fn network(&self, classes: usize, input: usize) -> incept::Result<GoogLeNet> {
        let base = GoogLeNet::of(self.variant.unwrap_or_default());
        let width = self.width.unwrap_or(1.0);
        if !width.is_finite() || width <= 0.0 {
            return Err(incept::Error::Config(format!("--width must be above zero, not {width}")));
        }
        let initialization = match self.init {
            Some(Init::Xavier) => Initialization::Xavier,
            Some(Init::He) => Initialization::He,
            None => base.initialization,
        };
        let network = GoogLeNet {
            aux_weight: self.aux_weight.unwrap_or(base.aux_weight),
            dropout: self.dropout.unwrap_or(base.dropout),
            aux_dropout: self.aux_dropout.unwrap_or(base.aux_dropout),
            smoothing: self.smoothing.unwrap_or(base.smoothing),
            bias_rate: self.bias_rate.unwrap_or(base.bias_rate),
            initialization,
            ..base
        };
        let network = network.width(width).classes(classes).input(self.input.unwrap_or(input));
        network.validate()?;
        Ok(network)
    }
}

/// How parameters are updated.
#[derive(Args, Debug)]
#[command(next_help_heading = "Optimizer")]
pub(crate) struct OptimizerArgs {
    /// The rule.
    #[arg(long, value_name = "NAME", default_value = "sgd")]
    pub optimizer: RuleName,
    /// Learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub rate: f64,
    /// How it changes: constant, polynomial[:POWER] (Caffe: 0.5), cosine, step[:EPOCHS:FACTOR] (the paper: 8:0.96).
    #[arg(long, value_name = "NAME", default_value = "polynomial:0.5", value_parser = schedule)]
    pub schedule: Schedule,
    /// Epochs in which the rate rises from zero.
    #[arg(long, value_name = "EPOCHS", default_value_t = 0.0)]
    pub warmup: f64,
    /// Momentum of sgd and nesterov.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    pub momentum: f32,
    /// Weight decay of convolution and linear weights.
    #[arg(long, value_name = "FACTOR", default_value_t = 2e-4)]
    pub weight_decay: f32,
    /// Scale gradients down to this global norm.
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f32>,
    /// Classify with averaged parameters: `polyak` (all alike, as the paper), or the decay of an exponential average.
    #[arg(long, value_name = "polyak|DECAY", value_parser = averaging)]
    pub average: Option<Averaging>,
    /// Batches whose gradients make one update.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub accumulate: u32,
    /// Make most activations again in the backward pass instead of keeping them: about a third more arithmetic in much less memory, so
    /// that larger batches fit a small GPU. The results are the same.
    #[arg(long)]
    pub checkpointing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleName {
    Sgd,
    Nesterov,
    Adamw,
}

impl OptimizerArgs {
    /// The optimizer, with a precision that is still to be set for the device.
    pub(crate) fn optimizer(&self) -> Optimizer {
        let rule = match self.optimizer {
            RuleName::Sgd => Rule::Sgd { nesterov: false },
            RuleName::Nesterov => Rule::Sgd { nesterov: true },
            RuleName::Adamw => Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
        };
        Optimizer {
            rule,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
            average: self.average,
            accumulate: self.accumulate,
            checkpointing: self.checkpointing,
            precision: Precision::F32,
        }
    }
}

/// What is done to training pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Augment {
    /// What suits the kind of pictures.
    Auto,
    /// Nothing.
    None,
    /// Small shifts and changes of size: for digits.
    Shifts,
    /// Shifts of an eighth, and mirroring.
    Standard,
    /// Crops of 8% to 100% of the area, and mirroring.
    Paper,
}

impl Augment {
    pub(crate) fn augmentation(self, suits: Augmentation) -> Option<Augmentation> {
        match self {
            Self::Auto => Some(suits),
            Self::None => None,
            Self::Shifts => Some(Augmentation::shifts()),
            Self::Standard => Some(Augmentation::standard()),
            Self::Paper => Some(Augmentation::paper()),
        }
    }
}

fn schedule(text: &str) -> Result<Schedule, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let mut number = |default: f64| match parts.next() {
        None => Ok(default),
        Some(part) => match part.parse() {
            Ok(value) if value > 0.0 => Ok(value),
            _ => Err(format!("`{part}` is no number above zero")),
        },
    };
    let schedule = match name {
        "constant" => Schedule::Constant,
        "polynomial" => Schedule::Polynomial { power: number(0.5)? },
        "cosine" => Schedule::Cosine,
        "step" => Schedule::Step { epochs: number(8.0)?, factor: number(0.96)? },
        _ => return Err("use constant, polynomial[:POWER], cosine or step[:EPOCHS:FACTOR]".into()),
    };
    match parts.next() {
        Some(rest) => Err(format!("`{rest}` is one value too many")),
        None => Ok(schedule),
    }
}

fn averaging(text: &str) -> Result<Averaging, String> {
    if text == "polyak" {
        return Ok(Averaging::Polyak);
    }
    match text.parse() {
        Ok(decay) if (0.0..1.0).contains(&decay) => Ok(Averaging::Exponential(decay)),
        _ => Err("use `polyak`, or a decay from 0 to below 1 such as 0.999".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_with_and_without_their_numbers() {
        assert_eq!(schedule("step"), Ok(Schedule::Step { epochs: 8.0, factor: 0.96 }));
        assert_eq!(schedule("step:2:0.5"), Ok(Schedule::Step { epochs: 2.0, factor: 0.5 }));
        assert_eq!(schedule("polynomial:1"), Ok(Schedule::Polynomial { power: 1.0 }));
        for wrong in ["", "stepp", "step:x", "cosine:1", "polynomial:0"] {
            assert!(schedule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn averages_are_read() {
        assert_eq!(averaging("polyak"), Ok(Averaging::Polyak));
        assert_eq!(averaging("0.999"), Ok(Averaging::Exponential(0.999)));
        assert!(averaging("1").is_err() && averaging("mean").is_err());
    }
}
