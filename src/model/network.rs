//! The interface of networks to training, inference and the rest of the engine: graph, heads, and
//! properties of the configuration.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::tensor::Element;

/// The configuration of a network, from which its graph is built for any batch size. Implemented by
/// [`GoogLeNet`](super::GoogLeNet); `examples/resnet.rs` implements another one. Checkpoints
/// contain the configuration as JSON, so it is `Serialize` and `DeserializeOwned`. Parameters and
/// running statistics are identified by their names in the graph; names of running statistics end
/// in `running_mean` and `running_var`.
pub trait Model: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// The forward pass with its heads and the weighted sum of their losses, for batches of `batch`
    /// images; use [`NetworkBuilder`](super::NetworkBuilder).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for an invalid configuration, and
    /// [`Error::Layer`] for shapes that do not fit.
    fn build(&self, batch: usize) -> Result<Network>;

    /// The number of classes.
    fn class_count(&self) -> usize;

    /// Height and width of the input in pixels.
    fn input_size(&self) -> usize;

    /// Display name in messages and exported files.
    fn title(&self) -> String {
        std::any::type_name::<Self>().rsplit("::").next().unwrap_or_default().to_string()
    }

    /// The weight of each class in the losses; `None` for equal weights.
    fn class_weights(&self) -> Option<&[f32]> {
        None
    }

    /// The same network with a second label per image, for mixup and cutmix
    /// ([`NetworkBuilder::mixed_labels`](super::NetworkBuilder::mixed_labels)). The default returns
    /// the network unchanged.
    #[must_use]
    fn with_mixed_labels(self) -> Self {
        self
    }

    /// Checks a configuration from a file before anything large is built.
    ///
    /// # Errors
    /// As [`Model::build`].
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The network and its preprocessing for a file without a configuration, from the names and
    /// shapes of its parameters.
    ///
    /// # Errors
    /// [`Error::Config`] if they do not determine a network.
    fn recognize(parameters: &BTreeMap<String, Vec<usize>>) -> Result<(Self, Preprocessing)> {
        let _ = parameters;
        Err(Error::Config("it does not describe its network".into()))
    }

    /// A contradiction between this configuration and the names and shapes of a checkpoint's
    /// parameters, in more detail than a missing tensor or wrong shape.
    fn contradiction(&self, parameters: &BTreeMap<String, Vec<usize>>) -> Option<String> {
        let _ = parameters;
        None
    }

    /// Names of additional scalars in files for other programs: counters of training steps, as
    /// torch has one per batch norm.
    fn step_counters(&self, statistics: &[&str]) -> Vec<String> {
        let _ = statistics;
        Vec::new()
    }
}

/// A network as a graph with its losses.
#[derive(Clone, Debug)]
pub struct Network {
    /// The forward pass.
    pub graph: Graph,
    /// The images, batch x 3 x input x input.
    pub input: TensorId,
    /// The labels, u32, batch.
    pub labels: TensorId,
    /// Second labels (u32, batch) and shares of the first ones (batch), for mixup and cutmix.
    pub mixed: Option<[TensorId; 2]>,
    /// The heads, `main` first.
    pub heads: Vec<Head>,
    /// The weighted sum of their losses.
    pub loss: TensorId,
}

/// The tensors of a head.
#[derive(Clone, Debug)]
pub struct Head {
    /// `main`, or an auxiliary head's name; GoogLeNet's are `aux1` and `aux2`.
    pub name: &'static str,
    /// batch x classes.
    pub logits: TensorId,
    /// batch x classes.
    pub probabilities: TensorId,
    /// Mean cross-entropy, a scalar.
    pub loss: TensorId,
    /// Number of correctly classified images, a scalar.
    pub correct: TensorId,
    /// Weight of its loss in the sum.
    pub weight: f32,
    /// The input of the head, batch x channels x height x width: in GoogLeNet the output of
    /// inception 4a, 4d or 5b.
    pub tap: TensorId,
}

/// Names of the outputs of a network's graph, for [`Graph::output`]; passes keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The weighted sum of the losses.
    Loss,
    /// The logits of the head of this name.
    Logits(&'static str),
    /// Its probabilities.
    Probabilities(&'static str),
    /// Its loss.
    HeadLoss(&'static str),
    /// Number of correctly classified images, a scalar.
    Correct(&'static str),
    /// Its input activation.
    Tap(&'static str),
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (head, tensor) = match self {
            Self::Loss => return f.write_str("loss"),
            Self::Logits(head) => (head, "logits"),
            Self::Probabilities(head) => (head, "probabilities"),
            Self::HeadLoss(head) => (head, "loss"),
            Self::Correct(head) => (head, "correct"),
            Self::Tap(head) => (head, "tap"),
        };
        write!(f, "{head}/{tensor}")
    }
}

impl Head {
    /// The tensors of the head of this name in a graph with all of its outputs.
    fn find(graph: &Graph, name: &'static str, weight: f32) -> Result<Self> {
        Ok(Self {
            name,
            logits: graph.output(Output::Logits(name))?,
            probabilities: graph.output(Output::Probabilities(name))?,
            loss: graph.output(Output::HeadLoss(name))?,
            correct: graph.output(Output::Correct(name))?,
            weight,
            tap: graph.output(Output::Tap(name))?,
        })
    }
}

impl Network {
    /// The name of the head that inference uses.
    pub const MAIN: &'static str = "main";
    /// Name of the input with the images; passes keep the names of inputs.
    pub const INPUT: &'static str = "data";
    /// Name of the input with the labels.
    pub const LABELS: &'static str = "label";
    /// Names of the inputs with second labels and shares of the first ones.
    pub const MIXED: [&'static str; 2] = ["label/second", "label/share"];

    /// A network from a graph with all outputs of these heads, given by name and loss weight.
    pub(super) fn of(graph: Graph, heads: impl IntoIterator<Item = (&'static str, f32)>) -> Result<Self> {
        let [second, share] = Self::MIXED.map(|name| graph.find(name));
        let heads = heads.into_iter().map(|(name, weight)| Head::find(&graph, name, weight));
        Ok(Self {
            input: graph.find(Self::INPUT)?,
            labels: graph.find(Self::LABELS)?,
            mixed: second.ok().zip(share.ok()).map(<[TensorId; 2]>::from),
            heads: heads.collect::<Result<_>>()?,
            loss: graph.output(Output::Loss)?,
            graph,
        })
    }

    /// This network with the result of a graph pass.
    fn on(&self, graph: Graph) -> Result<Self> {
        Self::of(graph, self.heads.iter().map(|head| (head.name, head.weight)))
    }

    /// The network with images and activations of type `element`; parameters, statistics and losses
    /// stay f32.
    ///
    /// # Errors
    /// [`Error::Layer`] if an operation does not support `element`.
    pub fn stored_as(&self, element: Element) -> Result<Self> {
        self.on(self.graph.stored_as(element)?)
    }

    /// The network in evaluation mode; see [`Graph::evaluation`].
    ///
    /// # Errors
    /// [`Error::Tensor`] if an output is lost.
    pub fn evaluation(&self) -> Result<Self> {
        self.on(self.graph.evaluation()?)
    }

    /// The main head.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is none.
    pub fn main(&self) -> Result<&Head> {
        self.heads.first().ok_or_else(|| Error::internal("the network has no main head"))
    }
}
