//! The operations, forward and backward side by side: one file an operation, with its attributes, shapes, gradient and
//! kernels. The WGSL is in `shaders/`, the CPU twin in `reference`, both under the same name.

mod accumulate;
mod adamw;
mod average;
mod avg_pool;
mod batch_norm;
mod clip_norm;
mod concat;
mod conv;
mod dropout;
mod flat;
mod lars;
mod linear;
mod loss_scale;
mod lrn;
mod max_pool;
mod relu;
mod sgd;
mod softmax_cross_entropy;
mod weighted_sum;

pub use accumulate::Accumulate;
pub use adamw::AdamW;
pub use average::Average;
pub use avg_pool::{AdaptiveAvgPool, AvgPool, AvgPoolGrad};
pub use batch_norm::{BatchNorm, BatchNormGrad};
pub use clip_norm::ClipNorm;
pub use concat::{Concat, Slice};
pub use conv::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};
pub use dropout::Dropout;
pub use lars::Lars;
pub use linear::{Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad};
pub use loss_scale::LossScale;
pub use lrn::{Lrn, LrnGrad};
pub use max_pool::{MaxPool, MaxPoolGrad};
pub(crate) use relu::Mask;
use relu::is_relu;
pub use relu::{Relu, ReluGrad};
pub use sgd::Sgd;
pub use softmax_cross_entropy::{Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad};
pub use weighted_sum::{WeightedSum, WeightedSumGrad};

pub(crate) use crate::graph::expect;
use crate::tensor::{Element, Spec};

/// The result of a gradient whose inputs after the first `own` are, with `accumulate`, what it is added to in place, and, with `masked`, an
/// activation: all as the result.
pub(crate) fn gradient(
    inputs: &[&Spec],
    own: usize,
    accumulate: bool,
    masked: bool,
    dx: Spec,
) -> Result<Vec<Spec>, String> {
    let more = inputs.get(own..).unwrap_or_default();
    if more.len() != usize::from(accumulate) + usize::from(masked) {
        return Err(format!("unexpected number of inputs: {}", inputs.len()));
    }
    match more.iter().find(|other| ***other != dx) {
        Some(other) => Err(format!("the gradient {dx} cannot be joined with {other}")),
        None => Ok(vec![dx]),
    }
}

/// Refuses what is no activation: one is stored as f32 or f16.
pub(crate) fn activation(x: &Spec) -> Result<(), String> {
    if x.element == Element::U32 { Err(format!("expected floating-point numbers, got {x}")) } else { Ok(()) }
}

/// Refuses parameters, statistics and losses that are not in f32: activations may be stored as f16, these never.
pub(crate) fn parameters(specs: &[&Spec]) -> Result<(), String> {
    match specs.iter().find(|s| s.element != Element::F32) {
        Some(other) => Err(format!("expected f32, got {other}")),
        None => Ok(()),
    }
}
