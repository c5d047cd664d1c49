//! From the tables to a graph.
//!
//! # Small inputs
//! The network is made for 224 x 224 pixels. For inputs below 64 the first convolution has stride 1
//! instead of 2, so that the last blocks still see more than one pixel. The paper's auxiliary heads
//! pool 5x5 with stride 3, which gives 4x4 from the 14x14 of 224; where it would not give exactly
//! 4x4, an adaptive average pooling to 4x4 takes its place, so the weights fit any input size. The
//! main head averages over all pixels that are left.

use std::fmt::{self, Display, Formatter};

use crate::error::{Error, Result};
use crate::graph::{Graph, Initializer, Operation, ParameterInfo, Role, TensorId};
use crate::ops::{
    AdaptiveAvgPool, AvgPool, BatchNorm, Concat, Conv, Dropout, Linear, Lrn, MaxPool, Relu,
    SoftmaxCrossEntropy, WeightedSum,
};
use crate::tensor::{Element, Spec};

use super::table::{
    BLOCKS, Block, POOLED, TAPPED, aux_layers, block_layers, classifier_layer, conv_weight, stem_layers,
};
use super::{GoogLeNet, Initialization, Variant, init};

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
    /// The softmaxes, the main one first.
    pub heads: Vec<Head>,
    /// The weighted sum of their losses.
    pub loss: TensorId,
}

/// One softmax.
#[derive(Clone, Debug)]
pub struct Head {
    /// `main`, `aux1` or `aux2`.
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
    /// The activation that it branches off from, batch x channels x height x width: the output of
    /// inception 4a, 4d or 5b.
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
    /// What the images are called in the graph; passes keep the names of inputs.
    pub const INPUT: &'static str = "data";
    /// What the labels are called.
    pub const LABELS: &'static str = "label";
    /// What second labels and the share of the first ones are called.
    pub const MIXED: [&'static str; 2] = ["label/second", "label/share"];

    /// A network whose heads, with their weights, have all their outputs in the graph.
    fn of(graph: Graph, heads: impl IntoIterator<Item = (&'static str, f32)>) -> Result<Self> {
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

struct Builder<'a> {
    net: &'a GoogLeNet,
    graph: Graph,
    /// Whether layers that are added now keep their weights and statistics.
    frozen: bool,
    /// What losses read beside the logits.
    targets: Vec<TensorId>,
}

/// A convolution's geometry.
#[derive(Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Window {
    const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding }
    }
}

/// torchvision's batch norm.
pub(super) const EPSILON: f32 = 1e-3;
const MOMENTUM: f32 = 0.1;

impl GoogLeNet {
    /// The graph of the forward pass with all losses, for batches of `batch` images.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for values that no network has, [`Error::Layer`]
    /// for shapes that do not fit.
    pub fn build(&self, batch: usize) -> Result<Network> {
        self.validate()?;
        Self::check_batch(batch)?;
        let frozen = self.freeze_until.is_some();
        let mut builder = Builder { net: self, graph: Graph::new(), frozen, targets: Vec::new() };
        let input = builder.graph.input(Network::INPUT, Spec::f32([batch, 3, self.input, self.input]));
        let labels = builder.graph.input(Network::LABELS, Spec::u32([batch]));
        builder.targets(labels);
        let mut x = builder.stem(input)?;
        let mut heads = Vec::new();
        for ((name, _), block) in BLOCKS.iter().zip(&self.channels.blocks) {
            builder.reach(&format!("inception_{name}"));
            x = builder.inception(name, *block, x)?;
            if let Some(index) = TAPPED.iter().position(|tapped| tapped == name).filter(|_| self.has_aux()) {
                let below = std::mem::replace(&mut builder.frozen, false);
                heads.push(builder.aux_head(index + 1, x)?);
                builder.frozen = below;
            }
            if POOLED.contains(name) {
                let last = *name == "4e";
                let pool = match self.variant {
                    Variant::Torchvision if last => MaxPool::new(2, 2, 0),
                    _ => MaxPool::new(3, 2, 0),
                };
                x = builder.graph.add(if last { "pool4/3x3_s2" } else { "pool3/3x3_s2" }, pool, &[x])?;
            }
        }
        builder.reach("heads");
        heads.insert(0, builder.main_head(x)?);
        let weights = heads.iter().map(|(_, weight)| *weight).collect();
        let losses = heads.iter().map(|(head, _)| builder.graph.output(Output::HeadLoss(head)));
        let losses: Vec<TensorId> = losses.collect::<Result<_>>()?;
        let loss = builder.graph.add("loss", WeightedSum { weights }, &losses)?;
        builder.graph.set_output(Output::Loss, loss);
        self.check_parameters(&builder.graph)?;
        Network::of(builder.graph, heads)
    }
}

impl Builder<'_> {
    fn paper(&self) -> bool {
        self.net.variant == Variant::Paper
    }

    /// Layers from here on are trained if this is where training begins.
    fn reach(&mut self, name: &str) {
        if self.net.freeze_until.as_deref() == Some(name) {
            self.frozen = false;
        }
    }

    /// Adds what losses read beside the logits: labels, and of mixed images the second ones.
    fn targets(&mut self, labels: TensorId) {
        let labels_spec = self.graph.tensor(labels).spec.clone();
        self.targets = vec![labels];
        if self.net.mixed_labels {
            let share = Spec::f32(labels_spec.shape.clone());
            let mixed = Network::MIXED.into_iter().zip([labels_spec, share]);
            self.targets.extend(mixed.map(|(name, spec)| self.graph.input(name, spec)));
        }
        if let Some(weights) = &self.net.class_weights {
            let role = Role::Constant(std::sync::Arc::new(weights.clone()));
            self.targets.push(self.graph.add_tensor("label/class_weights", Spec::f32([weights.len()]), role));
        }
    }

    /// Factors on rate and decay, where they are not zero because the layer is frozen.
    fn multipliers(&self, rate: f32, decay: f32) -> (f32, f32) {
        if self.frozen { (0.0, 0.0) } else { (rate, decay) }
    }

    fn weight(&mut self, name: String, shape: &[usize]) -> TensorId {
        let fan_in = shape[1..].iter().product();
        let fan_out: usize = shape[0] * shape[2..].iter().product::<usize>();
        let init = match self.net.initialization {
            Initialization::Xavier => Initializer::Xavier { fan: fan_in as f64 },
            Initialization::Glorot => Initializer::Xavier { fan: (fan_in + fan_out) as f64 / 2.0 },
            Initialization::He => Initializer::He { fan_in },
        };
        let (rate, decay) = self.multipliers(1.0, 1.0);
        self.graph.parameter(name, shape, ParameterInfo { rate, decay, init })
    }

    /// A bias, or a scale or shift of batch norm: no weight decay.
    fn vector(&mut self, name: String, length: usize, start: f32, rate: f32) -> TensorId {
        let (rate, decay) = self.multipliers(rate, 0.0);
        let info = ParameterInfo { rate, decay, init: Initializer::Constant(start) };
        self.graph.parameter(name, [length], info)
    }

    /// Caffe starts the biases of hidden layers at 0.2 and those of classifiers at 0.
    fn bias(&mut self, layer: &str, length: usize, hidden: bool) -> TensorId {
        let raised = matches!(self.net.initialization, Initialization::Xavier | Initialization::Glorot);
        let start = if hidden && self.paper() && raised { 0.2 } else { 0.0 };
        self.vector(format!("{layer}.bias"), length, start, self.net.bias_rate)
    }

    /// A convolution with its ReLU, and with batch norm between in torchvision's variant.
    fn conv(&mut self, layer: &str, channels: usize, window: Window, x: TensorId) -> Result<TensorId> {
        let inner = self.graph.tensor(x).spec.dims()[1];
        let name = conv_weight(self.net.variant, layer);
        let weight = self.weight(name, &[channels, inner, window.kernel, window.kernel]);
        let op = Conv::new(window.stride, window.padding);
        let y = if self.paper() {
            let bias = self.bias(layer, channels, true);
            self.graph.add(layer, op, &[x, weight, bias])?
        } else {
            let y = self.graph.add(format!("{layer}.conv"), op, &[x, weight])?;
            let scale = self.vector(format!("{layer}.bn.weight"), channels, 1.0, 1.0);
            let shift = self.vector(format!("{layer}.bn.bias"), channels, 0.0, 1.0);
            let mut state = |name: &str, start| {
                self.graph.add_tensor(format!("{layer}.bn.{name}"), Spec::f32([channels]), Role::State(start))
            };
            let (mean, variance) = (state("running_mean", 0.0), state("running_var", 1.0));
            let op = BatchNorm { epsilon: EPSILON, momentum: MOMENTUM, relu: false, training: !self.frozen };
            self.graph.add(format!("{layer}.bn"), op, &[y, scale, shift, mean, variance])?
        };
        self.graph.add(format!("{layer}/relu"), Relu, &[y])
    }

    fn linear(&mut self, layer: &str, outputs: usize, hidden: bool, x: TensorId) -> Result<TensorId> {
        let features = self.graph.tensor(x).spec.shape.item();
        let weight = self.weight(format!("{layer}.weight"), &[outputs, features]);
        let bias = self.bias(layer, outputs, hidden);
        self.graph.add(layer, Linear { relu: false }, &[x, weight, bias])
    }

    fn dropout(&mut self, layer: &str, probability: f32, x: TensorId) -> Result<TensorId> {
        if probability == 0.0 {
            return Ok(x);
        }
        self.graph.add(layer, Dropout { probability, salt: init::salt(layer) }, &[x])
    }

    fn lrn(&mut self, layer: &str, x: TensorId) -> Result<TensorId> {
        if !self.paper() {
            return Ok(x);
        }
        self.graph.add(layer, Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: 1.0 }, &[x])
    }

    fn stem(&mut self, input: TensorId) -> Result<TensorId> {
        let [conv1, conv2, conv3] = stem_layers(self.net.variant);
        let [channels1, channels2, channels3] = self.net.channels.stem;
        let stride = self.net.conv1_stride();
        let mut x = self.conv(conv1, channels1, Window::new(7, stride, 3), input)?;
        x = self.graph.add("pool1/3x3_s2", MaxPool::new(3, 2, 0), &[x])?;
        x = self.lrn("pool1/norm1", x)?;
        self.reach("conv2");
        x = self.conv(conv2, channels2, Window::new(1, 1, 0), x)?;
        x = self.conv(conv3, channels3, Window::new(3, 1, 1), x)?;
        x = self.lrn("conv2/norm2", x)?;
        self.graph.add("pool2/3x3_s2", MaxPool::new(3, 2, 0), &[x])
    }

    fn inception(&mut self, name: &str, block: Block, x: TensorId) -> Result<TensorId> {
        let [conv1, reduce3, conv3, reduce5, conv5, project] = block_layers(self.net.variant, name);
        let one = Window::new(1, 1, 0);
        let wide = if self.paper() { Window::new(5, 1, 2) } else { Window::new(3, 1, 1) };
        let branch1 = self.conv(&conv1, block.conv1, one, x)?;
        let branch2 = self.conv(&reduce3, block.reduce3, one, x)?;
        let branch2 = self.conv(&conv3, block.conv3, Window::new(3, 1, 1), branch2)?;
        let branch3 = self.conv(&reduce5, block.reduce5, one, x)?;
        let branch3 = self.conv(&conv5, block.conv5, wide, branch3)?;
        let branch4 = self.graph.add(format!("inception_{name}/pool"), MaxPool::new(3, 1, 1), &[x])?;
        let branch4 = self.conv(&project, block.project, one, branch4)?;
        self.graph.add(format!("inception_{name}/output"), Concat, &[branch1, branch2, branch3, branch4])
    }

    fn aux_head(&mut self, index: usize, x: TensorId) -> Result<(&'static str, f32)> {
        let tap = x;
        let [conv, hidden, classifier] = aux_layers(self.net.variant, index);
        let [conv_channels, hidden_units] = self.net.channels.aux;
        let fixed = AvgPool { kernel: 5, stride: 3, padding: 0, ceil: false };
        let pools_to_four =
            fixed.infer(&[&self.graph.tensor(x).spec]).is_ok_and(|out| out[0].dims()[2..] == [4, 4]);
        let pool = format!("loss{index}/ave_pool");
        let x = if self.paper() && pools_to_four {
            self.graph.add(pool, fixed, &[x])?
        } else {
            self.graph.add(pool, AdaptiveAvgPool { output: [4, 4] }, &[x])?
        };
        let x = self.conv(&conv, conv_channels, Window::new(1, 1, 0), x)?;
        let x = self.linear(&hidden, hidden_units, true, x)?;
        let x = self.graph.add(format!("{hidden}/relu"), Relu, &[x])?;
        let x = self.dropout(&format!("loss{index}/drop_fc"), self.net.aux_dropout, x)?;
        let logits = self.linear(&classifier, self.net.classes, false, x)?;
        let name = if index == 1 { "aux1" } else { "aux2" };
        self.head(name, &format!("loss{index}"), tap, logits)?;
        Ok((name, self.net.aux_weight))
    }

    fn main_head(&mut self, x: TensorId) -> Result<(&'static str, f32)> {
        let tap = x;
        let x = self.graph.add("pool5/7x7_s1", AdaptiveAvgPool { output: [1, 1] }, &[x])?;
        let x = self.dropout("pool5/drop_7x7_s1", self.net.dropout, x)?;
        let logits = self.linear(classifier_layer(self.net.variant), self.net.classes, false, x)?;
        self.head("main", "loss3", tap, logits)?;
        Ok(("main", 1.0))
    }

    /// Adds the loss of a head and makes its tensors outputs.
    fn head(&mut self, name: &'static str, layer: &str, tap: TensorId, logits: TensorId) -> Result<()> {
        let op = SoftmaxCrossEntropy { smoothing: self.net.smoothing };
        let inputs = [&[logits][..], &self.targets].concat();
        let outputs = self.graph.add_node(format!("{layer}/loss"), std::sync::Arc::new(op), &inputs)?;
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
        Ok(())
    }
}
