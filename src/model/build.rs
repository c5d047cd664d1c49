//! Construction of the graph from the tables.
//!
//! # Small inputs
//! The network is designed for 224 x 224 pixels. For inputs below 64, the first convolution has
//! stride 1 instead of 2, so that the last blocks have more than one pixel. The paper's auxiliary
//! heads pool 5x5 with stride 3, which gives 4x4 from the 14x14 of 224. If the result would not be
//! 4x4, an adaptive average pooling to 4x4 replaces it, so the weights match any input size. The
//! main head averages over all remaining pixels.

use crate::error::Result;
use crate::graph::{Operation as _, TensorId};
use crate::ops::{AdaptiveAvgPool, AvgPool, Concat, Conv, Linear, Lrn, MaxPool};

use super::table::{
    BLOCKS, Block, POOLED, TAPPED, aux_layers, block_layers, classifier_layer, conv_weight, stem_layers,
};
use super::{GoogLeNet, Initialization, Network, NetworkBuilder, Variant};

struct Builder<'a> {
    net: &'a GoogLeNet,
    base: NetworkBuilder,
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

/// Batch norm with torchvision's attributes.
pub(super) const EPSILON: f32 = 1e-3;

impl GoogLeNet {
    /// The graph of the forward pass with all losses, for batches of `batch` images.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for invalid values, [`Error::Layer`] for shapes
    /// that do not fit.
    pub fn build(&self, batch: usize) -> Result<Network> {
        self.validate()?;
        Self::check_batch(batch)?;
        let mut base = NetworkBuilder::new(batch, self.input)
            .initialization(self.initialization)
            .label_smoothing(self.smoothing);
        if self.mixed_labels {
            base = base.mixed_labels();
        }
        if let Some(weights) = &self.class_weights {
            base = base.class_weights(weights);
        }
        base.freeze(self.freeze_until.is_some());
        let input = base.images();
        let mut builder = Builder { net: self, base };
        let mut x = builder.stem(input)?;
        for ((name, _), block) in BLOCKS.iter().zip(&self.channels.blocks) {
            builder.reach(&format!("inception_{name}"));
            x = builder.inception(name, *block, x)?;
            if let Some(index) = TAPPED.iter().position(|tapped| tapped == name).filter(|_| self.has_aux()) {
                let below = builder.base.freeze(false);
                builder.aux_head(index + 1, x)?;
                builder.base.freeze(below);
            }
            if POOLED.contains(name) {
                let last = *name == "4e";
                let pool = match self.variant {
                    Variant::Torchvision if last => MaxPool::new(2, 2, 0),
                    _ => MaxPool::new(3, 2, 0),
                };
                let layer = if last { "pool4/3x3_s2" } else { "pool3/3x3_s2" };
                x = builder.base.graph.add(layer, pool, &[x])?;
            }
        }
        builder.reach("heads");
        builder.main_head(x)?;
        let network = builder.base.finish()?;
        self.check_parameters(&network.graph)?;
        Ok(network)
    }
}

impl Builder<'_> {
    fn paper(&self) -> bool {
        self.net.variant == Variant::Paper
    }

    /// Layers from here on are trainable if `freeze_until` names this one.
    fn reach(&mut self, name: &str) {
        if self.net.freeze_until.as_deref() == Some(name) {
            self.base.freeze(false);
        }
    }

    /// Caffe initializes biases of hidden layers to 0.2 and those of classifiers to 0.
    fn bias(&mut self, layer: &str, length: usize, hidden: bool) -> TensorId {
        let raised = matches!(self.net.initialization, Initialization::Xavier | Initialization::Glorot);
        let start = if hidden && self.paper() && raised { 0.2 } else { 0.0 };
        self.base.vector(format!("{layer}.bias"), length, start, self.net.bias_rate)
    }

    /// Adds a convolution and a ReLU, with batch norm between them in torchvision's variant.
    fn conv(&mut self, layer: &str, channels: usize, window: Window, x: TensorId) -> Result<TensorId> {
        let inner = self.base.graph.tensor(x).spec.dims()[1];
        let name = conv_weight(self.net.variant, layer);
        let weight = self.base.weight(name, &[channels, inner, window.kernel, window.kernel]);
        let op = Conv::new(window.stride, window.padding);
        let y = if self.paper() {
            let bias = self.bias(layer, channels, true);
            self.base.graph.add(layer, op, &[x, weight, bias])?
        } else {
            let y = self.base.graph.add(format!("{layer}.conv"), op, &[x, weight])?;
            self.base.batch_norm_with(&format!("{layer}.bn"), y, EPSILON)?
        };
        self.base.relu(&format!("{layer}/relu"), y)
    }

    fn linear(&mut self, layer: &str, outputs: usize, hidden: bool, x: TensorId) -> Result<TensorId> {
        let features = self.base.graph.tensor(x).spec.shape.item();
        let weight = self.base.weight(format!("{layer}.weight"), &[outputs, features]);
        let bias = self.bias(layer, outputs, hidden);
        self.base.graph.add(layer, Linear { relu: false }, &[x, weight, bias])
    }

    fn lrn(&mut self, layer: &str, x: TensorId) -> Result<TensorId> {
        if !self.paper() {
            return Ok(x);
        }
        self.base.graph.add(layer, Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: 1.0 }, &[x])
    }

    fn stem(&mut self, input: TensorId) -> Result<TensorId> {
        let [conv1, conv2, conv3] = stem_layers(self.net.variant);
        let [channels1, channels2, channels3] = self.net.channels.stem;
        let stride = self.net.conv1_stride();
        let mut x = self.conv(conv1, channels1, Window::new(7, stride, 3), input)?;
        x = self.base.graph.add("pool1/3x3_s2", MaxPool::new(3, 2, 0), &[x])?;
        x = self.lrn("pool1/norm1", x)?;
        self.reach("conv2");
        x = self.conv(conv2, channels2, Window::new(1, 1, 0), x)?;
        x = self.conv(conv3, channels3, Window::new(3, 1, 1), x)?;
        x = self.lrn("conv2/norm2", x)?;
        self.base.graph.add("pool2/3x3_s2", MaxPool::new(3, 2, 0), &[x])
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
        let branch4 = self.base.graph.add(format!("inception_{name}/pool"), MaxPool::new(3, 1, 1), &[x])?;
        let branch4 = self.conv(&project, block.project, one, branch4)?;
        self.base.graph.add(format!("inception_{name}/output"), Concat, &[branch1, branch2, branch3, branch4])
    }

    fn aux_head(&mut self, index: usize, x: TensorId) -> Result<()> {
        let tap = x;
        let [conv, hidden, classifier] = aux_layers(self.net.variant, index);
        let [conv_channels, hidden_units] = self.net.channels.aux;
        let graph = &mut self.base.graph;
        let fixed = AvgPool { kernel: 5, stride: 3, padding: 0, ceil: false };
        let pools_to_four =
            fixed.infer(&[&graph.tensor(x).spec]).is_ok_and(|out| out[0].dims()[2..] == [4, 4]);
        let pool = format!("loss{index}/ave_pool");
        let paper = self.net.variant == Variant::Paper;
        let x = if paper && pools_to_four {
            graph.add(pool, fixed, &[x])?
        } else {
            graph.add(pool, AdaptiveAvgPool { output: [4, 4] }, &[x])?
        };
        let x = self.conv(&conv, conv_channels, Window::new(1, 1, 0), x)?;
        let x = self.linear(&hidden, hidden_units, true, x)?;
        let x = self.base.relu(&format!("{hidden}/relu"), x)?;
        let x = self.base.dropout(&format!("loss{index}/drop_fc"), x, self.net.aux_dropout)?;
        let logits = self.linear(&classifier, self.net.classes, false, x)?;
        let name = if index == 1 { "aux1" } else { "aux2" };
        self.base.head_as(name, &format!("loss{index}"), self.net.aux_weight, tap, logits)
    }

    fn main_head(&mut self, x: TensorId) -> Result<()> {
        let tap = x;
        let x = self.base.global_avg_pool("pool5/7x7_s1", x)?;
        let x = self.base.dropout("pool5/drop_7x7_s1", x, self.net.dropout)?;
        let logits = self.linear(classifier_layer(self.net.variant), self.net.classes, false, x)?;
        self.base.head_as(Network::MAIN, "loss3", 1.0, tap, logits)
    }
}
