//! The network as a diagram of boxes and arrows, for `incept graph`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Network, part_of, summary};
use crate::graph::{Operation, TensorId};
use crate::ops::{
    AdaptiveAvgPool, AvgPool, BatchNorm, Concat, Conv, Dropout, Linear, Lrn, MaxPool, Relu,
    SoftmaxCrossEntropy, WeightedSum,
};

/// What a box does, by its first operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TopologyKind {
    /// The images.
    Input,
    /// Convolution.
    Conv,
    /// Fully connected layer.
    Linear,
    /// Maximum or average pool.
    Pool,
    /// Local response normalization.
    Lrn,
    /// Concatenation of branches.
    Concat,
    /// The loss of a head.
    Loss,
    /// The weighted sum of the losses.
    TotalLoss,
    /// Any other operation.
    Other,
}

impl TopologyKind {
    fn of(op: &dyn Operation) -> Self {
        if op.is::<Conv>() {
            Self::Conv
        } else if op.is::<Linear>() {
            Self::Linear
        } else if op.is::<MaxPool>() || op.is::<AvgPool>() || op.is::<AdaptiveAvgPool>() {
            Self::Pool
        } else if op.is::<Lrn>() {
            Self::Lrn
        } else if op.is::<Concat>() {
            Self::Concat
        } else if op.is::<SoftmaxCrossEntropy>() {
            Self::Loss
        } else if op.is::<WeightedSum>() {
            Self::TotalLoss
        } else {
            Self::Other
        }
    }
}

/// A box: a layer with the ReLU, batch norm or dropout that follows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopologyNode {
    /// Numbers of its layers in [`summary`], from 1; empty for the images.
    pub numbers: Vec<usize>,
    /// The name of its first layer.
    pub name: String,
    /// The part of the network that it belongs to; see [`part_of`].
    pub part: &'static str,
    /// What it does.
    pub kind: TopologyKind,
    /// The names of its operations in order.
    pub operations: Vec<&'static str>,
    /// The shape of its output.
    pub output: Vec<usize>,
    /// Number of its parameters.
    pub parameters: usize,
    /// Whether it is removed for inference.
    pub training_only: bool,
}

/// An arrow between two boxes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TopologyEdge {
    /// Index of the box that it starts from.
    pub from: usize,
    /// Index of the box that it points to.
    pub to: usize,
    /// The weight of a loss, for arrows to the sum of losses.
    pub weight: Option<f32>,
}

/// A network as boxes and arrows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topology {
    /// The boxes, the images first, in the order of [`summary`].
    pub nodes: Vec<TopologyNode>,
    /// The arrows.
    pub edges: Vec<TopologyEdge>,
}

/// Whether an operation shares the box of the preceding layer.
fn joins(op: &dyn Operation) -> bool {
    op.is::<Relu>() || op.is::<BatchNorm>() || op.is::<Dropout>()
}

impl Topology {
    /// The boxes and arrows of a network.
    pub fn of(network: &Network) -> Self {
        let graph = &network.graph;
        let layers = summary(network).layers;
        let input = graph.tensor(network.input);
        let mut nodes = vec![TopologyNode {
            numbers: Vec::new(),
            name: input.name.clone(),
            part: "data",
            kind: TopologyKind::Input,
            operations: Vec::new(),
            output: input.spec.dims().to_vec(),
            parameters: 0,
            training_only: false,
        }];
        let mut edges: Vec<TopologyEdge> = Vec::new();
        let mut made_by: BTreeMap<TensorId, usize> = BTreeMap::from([(network.input, 0)]);
        let readers = |tensor: TensorId| graph.nodes().filter(|(_, n)| n.inputs.contains(&tensor)).count();
        for ((id, node), layer) in graph.nodes().zip(layers) {
            let sources: Vec<TensorId> =
                node.inputs.iter().copied().filter(|t| made_by.contains_key(t)).collect();
            let number = id.index() + 1;
            let before = sources.first().map(|t| (made_by[t], readers(*t)));
            let at = match before {
                // A tensor with several readers ends its box.
                Some((at, 1)) if joins(node.op.as_ref()) && sources.len() == 1 => {
                    nodes[at].numbers.push(number);
                    nodes[at].operations.push(layer.operation);
                    nodes[at].parameters += layer.parameters;
                    at
                }
                _ => {
                    nodes.push(TopologyNode {
                        numbers: vec![number],
                        part: part_of(&layer.name),
                        name: layer.name,
                        kind: TopologyKind::of(node.op.as_ref()),
                        operations: vec![layer.operation],
                        output: layer.output,
                        parameters: layer.parameters,
                        training_only: layer.training_only,
                    });
                    let to = nodes.len() - 1;
                    for source in &sources {
                        let head = network.heads.iter().find(|h| h.loss == *source);
                        let weight = head.filter(|_| node.outputs.contains(&network.loss)).map(|h| h.weight);
                        edges.push(TopologyEdge { from: made_by[source], to, weight });
                    }
                    to
                }
            };
            made_by.extend(node.outputs.iter().map(|t| (*t, at)));
        }
        Self { nodes, edges }
    }
}
