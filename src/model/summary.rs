//! Summary of a network's layers: shapes, parameters, multiply-adds.

use serde::Serialize;

use super::Network;
use crate::graph::{Inference, Role};
use crate::tensor::Shape;

/// Summary of a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSummary {
    /// Its name.
    pub name: String,
    /// Its operation.
    pub operation: &'static str,
    /// The shape of its output.
    pub output: Vec<usize>,
    /// Number of its parameters.
    pub parameters: usize,
    /// Multiply-adds of the forward pass for the whole batch.
    pub macs: u64,
    /// Whether it is removed for inference.
    pub training_only: bool,
}

/// Summary of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The layers in order.
    pub layers: Vec<LayerSummary>,
    /// Number of parameters, auxiliary heads included.
    pub parameters: usize,
    /// Number of parameters that inference needs.
    pub parameters_inference: usize,
    /// Multiply-adds of one image, forward, auxiliary heads included.
    pub macs: u64,
    /// Multiply-adds of one image at inference.
    pub macs_inference: u64,
}

/// Counts the layers of a network.
pub fn summary(network: &Network) -> Summary {
    let graph = &network.graph;
    let mut needed = vec![false; graph.tensors().count()];
    if let Some(main) = network.heads.first() {
        needed[main.logits.0] = true;
    }
    let batch = graph.tensor(network.input).spec.dims().first().copied().unwrap_or(1).max(1) as u64;
    let mut layers = Vec::new();
    for (_, node) in graph.nodes().rev() {
        let kept = node.outputs.iter().any(|t| needed[t.0]);
        if kept {
            node.inputs.iter().for_each(|t| needed[t.0] = true);
        }
        let parameters = node.inputs.iter().map(|t| graph.tensor(*t));
        let parameters = parameters.filter(|t| matches!(t.role, Role::Parameter(_)));
        let output: &Shape = &graph.tensor(node.outputs[0]).spec.shape;
        layers.push(LayerSummary {
            name: node.name.clone(),
            operation: node.op.name(),
            output: output.dims().to_vec(),
            parameters: parameters.map(|t| t.spec.shape.volume()).sum(),
            macs: node.op.macs(&graph.input_specs(node), &graph.output_specs(node)),
            training_only: !kept || matches!(node.op.for_inference(), Inference::Identity),
        });
    }
    layers.reverse();
    let inference = || layers.iter().filter(|l| !l.training_only);
    Summary {
        parameters: layers.iter().map(|l| l.parameters).sum(),
        parameters_inference: inference().map(|l| l.parameters).sum(),
        macs: layers.iter().map(|l| l.macs).fold(0, u64::saturating_add) / batch,
        macs_inference: inference().map(|l| l.macs).fold(0, u64::saturating_add) / batch,
        layers,
    }
}
