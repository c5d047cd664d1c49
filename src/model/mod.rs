//! GoogLeNet, defined in this module only: the graph is built from a table of blocks and the layers
//! around them.

mod build;
mod builder;
mod import;
mod init;
mod limits;
mod network;
mod onnx;
mod pixels;
mod response;
mod summary;
mod table;
mod topology;
mod trace;

pub use builder::NetworkBuilder;
pub use import::{Plane, Recognized};
pub use network::{Head, Model, Network, Output};
pub use pixels::Pixels;
pub use summary::{LayerSummary, Summary, summary};
pub use table::{BLOCKS, Block, Channels, part_of};
pub use topology::{Topology, TopologyEdge, TopologyKind, TopologyNode};

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::text::plural;
use table::{aux_layers, classifier_layer};

/// Below this input size in pixels the first convolution's stride is 1, unless `keep_stem` is set.
const STEM_CHANGES_BELOW: usize = 64;

/// Values of [`GoogLeNet::freeze_until`]: the second part of the stem, the blocks, and the heads.
const FREEZABLE: &[&str] = &[
    "conv2",
    "inception_3a",
    "inception_3b",
    "inception_4a",
    "inception_4b",
    "inception_4c",
    "inception_4d",
    "inception_4e",
    "inception_5a",
    "inception_5b",
    "heads",
];

/// The variant of GoogLeNet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The paper's, as in Caffe's `bvlc_googlenet`: biases, local response normalization, no batch
    /// norm.
    #[default]
    Paper,
    /// torchvision's `googlenet`: batch norm, 3x3 instead of the paper's 5x5, last max pool 2x2.
    Torchvision,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Torchvision => "torchvision",
        })
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "paper" => Ok(Self::Paper),
            "torchvision" => Ok(Self::Torchvision),
            other => {
                let (name, known) = (other.to_string(), "use paper or torchvision".to_string());
                Err(Error::Unknown { what: "variant", name, known })
            }
        }
    }
}

/// Weight initialization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initialization {
    /// Caffe's: uniform in ±sqrt(3 / inputs), biases 0.2 (0 in classifiers).
    #[default]
    Xavier,
    /// Glorot and Bengio's original: uniform in ±sqrt(6 / (inputs + outputs)), biases as in Caffe.
    /// PyTorch's `xavier_uniform_`, Caffe's `xavier` with `variance_norm: AVERAGE`.
    Glorot,
    /// Normal with variance 2 / inputs (He et al. 2015), biases 0.
    He,
}

/// The configuration of a network. Start with [`GoogLeNet::paper`] or [`GoogLeNet::torchvision`]
/// and change it with the methods that take `self`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GoogLeNet {
    /// The variant of GoogLeNet.
    pub variant: Variant,
    /// Channels of every layer.
    pub channels: Channels,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the input in pixels, at least 32.
    pub input: usize,
    /// Weight of each auxiliary loss; 0 removes the auxiliary heads.
    pub aux_weight: f32,
    /// Dropout probability before the main classifier, in [0, 1).
    pub dropout: f32,
    /// Dropout probability before the auxiliary classifiers, in [0, 1).
    pub aux_dropout: f32,
    /// Label smoothing, in [0, 1).
    pub smoothing: f32,
    /// Weight initialization.
    pub initialization: Initialization,
    /// Factor on the learning rate of biases; 2 in Caffe's solver.
    pub bias_rate: f32,
    /// The first trainable layer or block ([`GoogLeNet::freezable`]); the ones before it are
    /// frozen, statistics included.
    #[serde(default)]
    pub freeze_until: Option<String>,
    /// Weight of each class in the losses; see
    /// [`SoftmaxCrossEntropy`](crate::ops::SoftmaxCrossEntropy).
    #[serde(default)]
    pub class_weights: Option<Vec<f32>>,
    /// Whether images have two labels each, for mixup and cutmix.
    #[serde(default)]
    pub mixed_labels: bool,
    /// Whether the first convolution keeps its stride at any input size.
    pub keep_stem: bool,
}

impl GoogLeNet {
    fn new(variant: Variant, dropout: f32) -> Self {
        Self {
            variant,
            channels: Channels::full(),
            classes: 1000,
            input: 224,
            aux_weight: 0.3,
            dropout,
            aux_dropout: 0.7,
            smoothing: 0.0,
            initialization: Initialization::Xavier,
            bias_rate: 1.0,
            freeze_until: None,
            class_weights: None,
            mixed_labels: false,
            keep_stem: false,
        }
    }

    /// The paper's network: 1000 classes, 224 x 224, aux weight 0.3, dropout 0.4 and 0.7.
    pub fn paper() -> Self {
        Self::new(Variant::Paper, 0.4)
    }

    /// torchvision's network: 1000 classes, 224 x 224, aux weight 0.3, dropout 0.2 and 0.7, He
    /// initialization.
    pub fn torchvision() -> Self {
        Self { initialization: Initialization::He, ..Self::new(Variant::Torchvision, 0.2) }
    }

    /// The network of a variant with its defaults.
    pub fn of(variant: Variant) -> Self {
        match variant {
            Variant::Paper => Self::paper(),
            Variant::Torchvision => Self::torchvision(),
        }
    }

    /// Multiplies all channel counts; each is rounded to the nearest positive integer.
    #[must_use]
    pub fn width(self, width: f64) -> Self {
        Self { channels: Channels::full().scaled(width), ..self }
    }

    /// Sets the number of classes.
    #[must_use]
    pub fn classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    /// Sets the height and width of the input.
    #[must_use]
    pub fn input(self, input: usize) -> Self {
        Self { input, ..self }
    }

    /// Sets the weight of the auxiliary losses; 0 removes the auxiliary heads.
    #[must_use]
    pub fn aux_weight(self, aux_weight: f32) -> Self {
        Self { aux_weight, ..self }
    }

    /// Sets the dropout before the main and before the auxiliary classifiers.
    #[must_use]
    pub fn dropout(self, main: f32, aux: f32) -> Self {
        Self { dropout: main, aux_dropout: aux, ..self }
    }

    /// Sets the weight initialization.
    #[must_use]
    pub fn initialization(self, initialization: Initialization) -> Self {
        Self { initialization, ..self }
    }

    /// Sets the channels of every layer.
    #[must_use]
    pub fn channels(self, channels: Channels) -> Self {
        Self { channels, ..self }
    }

    /// Sets the label smoothing, in [0, 1).
    #[must_use]
    pub fn smoothing(self, smoothing: f32) -> Self {
        Self { smoothing, ..self }
    }

    /// Sets the factor on the learning rate of biases.
    #[must_use]
    pub fn bias_rate(self, bias_rate: f32) -> Self {
        Self { bias_rate, ..self }
    }

    /// Sets the first trainable layer or block ([`GoogLeNet::freezable`]); `None` trains all.
    #[must_use]
    pub fn freeze_until(self, freeze_until: impl Into<Option<String>>) -> Self {
        Self { freeze_until: freeze_until.into(), ..self }
    }

    /// Sets whether images have two labels each, for mixup and cutmix.
    #[must_use]
    pub fn mixed_labels(self, mixed_labels: bool) -> Self {
        Self { mixed_labels, ..self }
    }

    /// Sets whether the first convolution keeps its stride at any input size.
    #[must_use]
    pub fn keep_stem(self, keep_stem: bool) -> Self {
        Self { keep_stem, ..self }
    }

    /// Sets the weight of each class in the losses; `None` for equal weights.
    #[must_use]
    pub fn with_class_weights(self, weights: impl Into<Option<Vec<f32>>>) -> Self {
        Self { class_weights: weights.into(), ..self }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming the field, [`Error::Unknown`] for an unknown layer,
    /// [`Error::Config`] if the number of class weights is wrong.
    pub fn validate(&self) -> Result<()> {
        self.check_sizes()?;
        for (value, field) in [
            (self.dropout, "GoogLeNet::dropout"),
            (self.aux_dropout, "GoogLeNet::aux_dropout"),
            (self.smoothing, "GoogLeNet::smoothing"),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::out_of_range(field, "in [0, 1)", value));
            }
        }
        if let Some(name) = &self.freeze_until
            && !Self::freezable().contains(&name.as_str())
        {
            let known = format!("`GoogLeNet::freeze_until` is one of {}", Self::freezable().join(", "));
            return Err(Error::Unknown { what: "layer", name: name.clone(), known });
        }
        if let Some(weights) = &self.class_weights {
            if weights.len() != self.classes {
                let (given, classes) = (plural(weights.len(), "weight"), plural(self.classes, "class"));
                let reason = format!("`GoogLeNet::class_weights` has {given} for {classes}");
                return Err(Error::Config(reason));
            }
            if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().all(|w| *w == 0.0) {
                let (field, allowed) =
                    ("GoogLeNet::class_weights", "non-negative numbers that are not all zero");
                return Err(Error::out_of_range(field, allowed, format!("{weights:?}")));
            }
        }
        for (value, field) in
            [(self.aux_weight, "GoogLeNet::aux_weight"), (self.bias_rate, "GoogLeNet::bias_rate")]
        {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::out_of_range(field, "a non-negative number", value));
            }
        }
        Ok(())
    }

    /// The layers and blocks that can be the first trainable one, from the input up; `heads` trains
    /// only the heads.
    pub fn freezable() -> &'static [&'static str] {
        FREEZABLE
    }

    /// The parameters of the classifiers, whose shapes depend on the classes; they are
    /// reinitialized for other classes.
    pub fn head_parameters(&self) -> Vec<String> {
        let layers = [1, 2].map(|index| aux_layers(self.variant, index)[2].clone());
        let layers = std::iter::once(classifier_layer(self.variant).to_string()).chain(layers);
        layers.flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]).collect()
    }

    /// Stride of the first convolution: 2, or 1 for small images.
    pub fn conv1_stride(&self) -> usize {
        if self.input < STEM_CHANGES_BELOW && !self.keep_stem { 1 } else { 2 }
    }

    /// Whether there are auxiliary heads.
    pub fn has_aux(&self) -> bool {
        self.aux_weight > 0.0
    }
}

impl Model for GoogLeNet {
    fn build(&self, batch: usize) -> Result<Network> {
        Self::build(self, batch)
    }

    fn class_count(&self) -> usize {
        self.classes
    }

    fn input_size(&self) -> usize {
        self.input
    }

    fn title(&self) -> String {
        format!("GoogLeNet ({})", self.variant)
    }

    fn class_weights(&self) -> Option<&[f32]> {
        self.class_weights.as_deref()
    }

    fn with_mixed_labels(self) -> Self {
        Self { mixed_labels: true, ..self }
    }

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn recognize(parameters: &BTreeMap<String, Vec<usize>>) -> Result<(Self, Preprocessing)> {
        let network = Self::from_tensors(parameters)?;
        // The same preprocessing as `incept import` assumes for tensors of these names in a
        // safetensors file.
        let preprocessing = Pixels::of_tensors(network.variant).preprocessing(&network);
        Ok((network, preprocessing))
    }

    fn contradiction(&self, parameters: &BTreeMap<String, Vec<usize>>) -> Option<String> {
        // Missing tensors are reported where all tensors are compared.
        let found = Self::from_tensors(parameters).ok()?;
        if found.variant != self.variant {
            let (says, has) = (self.variant, found.variant);
            return Some(format!("`network.variant` is {says}, but the tensors are those of {has}"));
        }
        let mut counts = vec![("classes".to_string(), self.classes, found.classes)];
        let both = self.channels.named().into_iter().zip(found.channels.named());
        let heads = self.has_aux() && found.has_aux();
        counts.extend(
            both.filter(|((name, _), _)| heads || !name.starts_with("channels.aux"))
                .map(|((name, says), (_, has))| (name, says, has)),
        );
        let (name, says, has) = counts.into_iter().find(|(_, says, has)| says != has)?;
        Some(format!("`network.{name}` is {says}, but the tensors have {has}"))
    }

    fn step_counters(&self, statistics: &[&str]) -> Vec<String> {
        match self.variant {
            Variant::Torchvision => {
                let layers = statistics.iter().filter_map(|name| name.strip_suffix("running_mean"));
                layers.map(|layer| format!("{layer}num_batches_tracked")).collect()
            }
            Variant::Paper => Vec::new(),
        }
    }
}
