//! Builder of networks, layer by layer.

use std::sync::Arc;

use super::network::{Network, Output};
use super::{Initialization, init};
use crate::error::{Error, Result};
use crate::graph::{Add, Graph, Initializer, ParameterInfo, Role, TensorId};
use crate::ops::{
    AdaptiveAvgPool, BatchNorm, Conv, Dropout, Linear, MaxPool, Relu, SoftmaxCrossEntropy, WeightedSum,
};
use crate::tensor::Spec;

/// torch's default epsilon of batch norm.
const EPSILON: f32 = 1e-5;
/// Weight of a batch's statistics in the running ones.
const MOMENTUM: f32 = 0.1;

/// Builds the graph of a [`Model`](super::Model). Parameters are named after their layer, as in
/// torch: `NAME.weight`, `NAME.bias`, `NAME.running_mean`, `NAME.running_var`. For other layers,
/// add operations to [`NetworkBuilder::graph`].
#[derive(Debug)]
pub struct NetworkBuilder {
    /// The graph so far.
    pub graph: Graph,
    images: TensorId,
    /// The inputs of the losses besides the logits.
    targets: Vec<TensorId>,
    heads: Vec<(&'static str, f32)>,
    initialization: Initialization,
    smoothing: f32,
    frozen: bool,
}

impl NetworkBuilder {
    /// An empty network for batches of `batch` RGB images of `input` x `input` pixels, with one
    /// label each.
    pub fn new(batch: usize, input: usize) -> Self {
        let mut graph = Graph::new();
        let images = graph.input(Network::INPUT, Spec::f32([batch, 3, input, input]));
        let labels = graph.input(Network::LABELS, Spec::u32([batch]));
        Self {
            graph,
            images,
            targets: vec![labels],
            heads: Vec::new(),
            initialization: Initialization::He,
            smoothing: 0.0,
            frozen: false,
        }
    }

    /// Initialization of weights that are added from here on [default: He].
    #[must_use]
    pub fn initialization(mut self, initialization: Initialization) -> Self {
        self.initialization = initialization;
        self
    }

    /// Label smoothing of the heads, in [0, 1) [default: 0].
    #[must_use]
    pub fn label_smoothing(mut self, share: f32) -> Self {
        self.smoothing = share;
        self
    }

    /// Gives each image two labels and a share of the first one, for mixup and cutmix.
    #[must_use]
    pub fn mixed_labels(mut self) -> Self {
        let labels = self.graph.tensor(self.targets[0]).spec.clone();
        let share = Spec::f32(labels.shape.clone());
        let mixed = Network::MIXED.into_iter().zip([labels, share]);
        self.targets.extend(mixed.map(|(name, spec)| self.graph.input(name, spec)));
        self
    }

    /// Class weights of the losses; they must be equal to [`Model::class_weights`](super::Model).
    #[must_use]
    pub fn class_weights(mut self, weights: &[f32]) -> Self {
        let role = Role::Constant(Arc::new(weights.to_vec()));
        let spec = Spec::f32([weights.len()]);
        self.targets.push(self.graph.add_tensor("label/class_weights", spec, role));
        self
    }

    /// The images, batch x 3 x input x input.
    pub fn images(&self) -> TensorId {
        self.images
    }

    /// Freezes layers from here on, running statistics included. Returns the previous value.
    pub fn freeze(&mut self, frozen: bool) -> bool {
        std::mem::replace(&mut self.frozen, frozen)
    }

    /// Factors on learning rate and weight decay; zero if the layer is frozen.
    fn multipliers(&self, lr: f32, weight_decay: f32) -> (f32, f32) {
        if self.frozen { (0.0, 0.0) } else { (lr, weight_decay) }
    }

    /// Adds a weight, with weight decay: outputs x inputs, and for a convolution x height x width.
    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize]) -> TensorId {
        let fan_in = shape[1..].iter().product();
        let fan_out: usize = shape[0] * shape[2..].iter().product::<usize>();
        let init = match self.initialization {
            Initialization::Xavier => Initializer::Xavier { fan: fan_in as f64 },
            Initialization::Glorot => Initializer::Xavier { fan: (fan_in + fan_out) as f64 / 2.0 },
            Initialization::He => Initializer::He { fan_in },
        };
        let (lr, weight_decay) = self.multipliers(1.0, 1.0);
        self.graph.parameter(name, shape, ParameterInfo { lr, weight_decay, init })
    }

    /// Adds a bias, or scale or shift of a batch norm: `length` elements with the initial value
    /// `start`, `lr` times the learning rate and no weight decay.
    pub fn vector(&mut self, name: impl Into<String>, length: usize, start: f32, lr: f32) -> TensorId {
        let (lr, weight_decay) = self.multipliers(lr, 0.0);
        let info = ParameterInfo { lr, weight_decay, init: Initializer::Constant(start) };
        self.graph.parameter(name, [length], info)
    }

    /// A convolution without bias, with square kernel, stride and padding.
    ///
    /// # Errors
    /// [`Error::Layer`] for shapes that do not fit.
    pub fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        channels: usize,
        [kernel, stride, padding]: [usize; 3],
    ) -> Result<TensorId> {
        let inner = self.graph.tensor(x).spec.dims().get(1).copied().unwrap_or(0);
        let weight = self.weight(format!("{name}.weight"), &[channels, inner, kernel, kernel]);
        self.graph.add(name, Conv::new(stride, padding), &[x, weight])
    }

    /// A batch norm over the channels of `x`.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn batch_norm(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        self.batch_norm_with(name, x, EPSILON)
    }

    pub(super) fn batch_norm_with(&mut self, name: &str, x: TensorId, epsilon: f32) -> Result<TensorId> {
        let channels = self.graph.tensor(x).spec.dims().get(1).copied().unwrap_or(0);
        let scale = self.vector(format!("{name}.weight"), channels, 1.0, 1.0);
        let shift = self.vector(format!("{name}.bias"), channels, 0.0, 1.0);
        let mut state = |part: &str, start| {
            self.graph.add_tensor(format!("{name}.{part}"), Spec::f32([channels]), Role::State(start))
        };
        let (mean, variance) = (state("running_mean", 0.0), state("running_var", 1.0));
        let op = BatchNorm { epsilon, momentum: MOMENTUM, relu: false, training: !self.frozen };
        self.graph.add(name, op, &[x, scale, shift, mean, variance])
    }

    /// max(x, 0).
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn relu(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        self.graph.add(name, Relu, &[x])
    }

    /// The sum of two tensors of equal shape: a residual connection.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn add(&mut self, name: &str, x: TensorId, y: TensorId) -> Result<TensorId> {
        self.graph.add(name, Add, &[x, y])
    }

    /// A max pooling with square window, stride and padding.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn max_pool(
        &mut self,
        name: &str,
        x: TensorId,
        [kernel, stride, padding]: [usize; 3],
    ) -> Result<TensorId> {
        self.graph.add(name, MaxPool::new(kernel, stride, padding), &[x])
    }

    /// The mean over all pixels: batch x channels x 1 x 1.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn global_avg_pool(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        self.graph.add(name, AdaptiveAvgPool { output: [1, 1] }, &[x])
    }

    /// A fully connected layer with bias; `x` is flattened per image.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn linear(&mut self, name: &str, x: TensorId, outputs: usize) -> Result<TensorId> {
        let features = self.graph.tensor(x).spec.shape.item();
        let weight = self.weight(format!("{name}.weight"), &[outputs, features]);
        let bias = self.vector(format!("{name}.bias"), outputs, 0.0, 1.0);
        self.graph.add(name, Linear { relu: false }, &[x, weight, bias])
    }

    /// Dropout in training; returns `x` if the probability is 0.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`].
    pub fn dropout(&mut self, name: &str, x: TensorId, probability: f32) -> Result<TensorId> {
        if probability == 0.0 {
            return Ok(x);
        }
        self.graph.add(name, Dropout { probability, salt: init::salt(name) }, &[x])
    }

    /// Adds a head with `logits`, batch x classes: its cross-entropy has this `weight` in the loss.
    /// One head is called `main`; auxiliary heads are added in the order in which they branch off.
    /// `tap` is the activation that the head branches off from, batch x channels x height x width,
    /// as Grad-CAM and early exit need it.
    ///
    /// # Errors
    /// As [`NetworkBuilder::conv`], and [`Error::Config`] for a duplicate name.
    pub fn head(&mut self, name: &'static str, weight: f32, tap: TensorId, logits: TensorId) -> Result<()> {
        self.head_as(name, name, weight, tap, logits)
    }

    /// As [`NetworkBuilder::head`], with the loss named after `layer`.
    pub(super) fn head_as(
        &mut self,
        name: &'static str,
        layer: &str,
        weight: f32,
        tap: TensorId,
        logits: TensorId,
    ) -> Result<()> {
        if self.heads.iter().any(|(other, _)| *other == name) {
            return Err(Error::Config(format!("the network has two heads called `{name}`")));
        }
        let op = SoftmaxCrossEntropy { smoothing: self.smoothing };
        let inputs = [&[logits][..], &self.targets].concat();
        let outputs = self.graph.add_node(format!("{layer}/loss"), Arc::new(op), &inputs)?;
        let [loss, probabilities, correct] = outputs[..] else {
            return Err(Error::internal("softmax cross-entropy does not have three outputs"));
        };
        for (output, tensor) in [
            (Output::Tap(name), tap),
            (Output::Logits(name), logits),
            (Output::Probabilities(name), probabilities),
            (Output::HeadLoss(name), loss),
            (Output::Correct(name), correct),
        ] {
            self.graph.set_output(output, tensor);
        }
        let at = if name == Network::MAIN { 0 } else { self.heads.len() };
        self.heads.insert(at, (name, weight));
        Ok(())
    }

    /// The network, with the weighted sum of its heads' losses.
    ///
    /// # Errors
    /// [`Error::Config`] if no head is called `main`.
    pub fn finish(mut self) -> Result<Network> {
        if self.heads.first().is_none_or(|(name, _)| *name != Network::MAIN) {
            return Err(Error::Config(format!("the network has no head called `{}`", Network::MAIN)));
        }
        let weights = self.heads.iter().map(|(_, weight)| *weight).collect();
        let losses = self.heads.iter().map(|(head, _)| self.graph.output(Output::HeadLoss(head)));
        let losses: Vec<TensorId> = losses.collect::<Result<_>>()?;
        let loss = self.graph.add("loss", WeightedSum { weights }, &losses)?;
        self.graph.set_output(Output::Loss, loss);
        Network::of(self.graph, self.heads)
    }
}
