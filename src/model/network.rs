//! What training, inference and the rest of the engine know of a network: its graph, its heads,
//! and a few facts of its configuration.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::tensor::Element;

/// A network that can be trained, evaluated, explained and saved: its configuration, from which its
/// graph is built for any batch. [`GoogLeNet`](super::GoogLeNet) is one; `examples/resnet.rs` has
/// another.
///
/// A checkpoint keeps the configuration as JSON, so it is `Serialize` and `DeserializeOwned`.
/// Parameters and running statistics are those of the graph, found by their names: those of running
/// statistics end in `running_mean` and `running_var`.
pub trait Model: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// The forward pass with its heads and the weighted sum of their losses, for batches of `batch`
    /// images; [`NetworkBuilder`](super::NetworkBuilder) makes one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for a configuration that is none, and
    /// [`Error::Layer`] for shapes that do not fit.
    fn build(&self, batch: usize) -> Result<Network>;

    /// The number of classes.
    fn class_count(&self) -> usize;

    /// Height and width of the input in pixels.
    fn input_size(&self) -> usize;

    /// What messages and exported files call it, for people.
    fn title(&self) -> String {
        std::any::type_name::<Self>().rsplit("::").next().unwrap_or_default().to_string()
    }

    /// The weight of each class in the losses, if they differ.
    fn class_weights(&self) -> Option<&[f32]> {
        None
    }

    /// Checks a configuration that came from a file, without building anything large.
    ///
    /// # Errors
    /// As [`Model::build`].
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The network whose parameters, by name and extents, a file without a configuration has, and
    /// how images become its input.
    ///
    /// # Errors
    /// [`Error::Config`] if that cannot be told.
    fn recognize(parameters: &BTreeMap<String, Vec<usize>>) -> Result<(Self, Preprocessing)> {
        let _ = parameters;
        Err(Error::Config("it does not describe its network".into()))
    }

    /// What in this configuration contradicts the parameters of a checkpoint, given by name and
    /// extents, in more detail than that a tensor is missing or has other extents.
    fn contradiction(&self, parameters: &BTreeMap<String, Vec<usize>>) -> Option<String> {
        let _ = parameters;
        None
    }

    /// Names of scalars that files for other programs have beside the running statistics: counters
    /// of training steps, as torch keeps one per batch norm.
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
    /// Second labels, u32, batch, and the share of the first ones, batch, where images have two
    /// labels each.
    pub mixed: Option<[TensorId; 2]>,
    /// The heads, `main` first.
    pub heads: Vec<Head>,
    /// The weighted sum of their losses.
    pub loss: TensorId,
}

/// One head: logits with their loss.
#[derive(Clone, Debug)]
pub struct Head {
    /// `main`, or an auxiliary head's name; GoogLeNet's are `aux1` and `aux2`.
    pub name: &'static str,
    /// batch x classes.
    pub logits: TensorId,
    /// batch x classes.
    pub probabilities: TensorId,
    /// Mean cross-entropy.
    pub loss: TensorId,
    /// Images whose largest logit is their label.
    pub correct: TensorId,
    /// Weight of its loss in the sum.
    pub weight: f32,
    /// The activation that it branches off from, batch x channels x height x width: in GoogLeNet
    /// the output of inception 4a, 4d or 5b.
    pub tap: TensorId,
}

/// An output of the graph of a network: passes keep it, and [`Graph::output`] finds it by this.
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
    /// Images whose largest logit is their label.
    Correct(&'static str),
    /// The activation that it branches off from.
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
    /// The head of this name in a graph with all of its outputs.
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
    /// The name of the head that is kept at inference.
    pub const MAIN: &'static str = "main";
    /// What the images are called in the graph; passes keep the names of inputs.
    pub const INPUT: &'static str = "data";
    /// What the labels are called.
    pub const LABELS: &'static str = "label";
    /// What second labels and the share of the first ones are called.
    pub const MIXED: [&'static str; 2] = ["label/second", "label/share"];

    /// A network whose heads, with their weights, have all their outputs in the graph.
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

    /// This network with a graph that a pass made of its own.
    fn on(&self, graph: Graph) -> Result<Self> {
        Self::of(graph, self.heads.iter().map(|head| (head.name, head.weight)))
    }

    /// The network with its images and activations stored as `element`; parameters, statistics and
    /// losses stay f32.
    ///
    /// # Errors
    /// [`Error::Layer`] if an operation cannot work on such tensors.
    pub fn stored_as(&self, element: Element) -> Result<Self> {
        self.on(self.graph.stored_as(element)?)
    }

    /// The network as it is evaluated and not trained; see [`Graph::evaluation`].
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
