//! The operations, forward and backward side by side: one file an operation, with its attributes,
//! shapes, gradient and kernels. The WGSL is in `shaders/`, the CPU twin in `reference`, both under
//! the same name.

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
pub use relu::{Relu, ReluGrad};
pub use sgd::Sgd;
pub use softmax_cross_entropy::{Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad};
pub use weighted_sum::{WeightedSum, WeightedSumGrad};

use std::any::{Any, TypeId};

pub(crate) use crate::graph::expect;
use crate::graph::{Add, Copy, Fill, Operation};
use crate::kernel::{Implementation, Operand, Operands, Profile};
use crate::tensor::{Element, Spec};

/// The ways to run an operation on these operands on a device with this profile, as
/// [`Operation::kernels`] says; those of the crate's own operations run without checks of bounds.
/// An operation from outside that hands on what this makes of one of the crate's own hands on
/// kernels that are as fast. One of the crate's own offers nothing for operands that it refuses.
pub fn offers(op: &dyn Operation, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
    if !is_own(op) {
        return op.kernels(operands, profile);
    }
    if !takes(op, operands) {
        return Vec::new();
    }
    let list = op.kernels(operands, profile);
    list.into_iter().map(|implementation| implementation.proven(operands, profile)).collect()
}

/// Whether an operation is one of this crate. A type from outside cannot pretend to be.
fn is_own(op: &dyn Operation) -> bool {
    macro_rules! own {
        ($($op:ident)*) => { [$(TypeId::of::<$op>()),*] };
    }
    let own = own![
        Accumulate AdamW AdaptiveAvgPool Add Average AvgPool AvgPoolGrad BatchNorm BatchNormGrad ClipNorm Concat Conv ConvBiasGrad
        ConvInputGrad ConvWeightGrad Copy Dropout Fill Lars Linear LinearBiasGrad LinearInputGrad LinearWeightGrad LossScale Lrn
        LrnGrad MaxPool MaxPoolGrad Relu ReluGrad Sgd Slice Softmax SoftmaxCrossEntropy SoftmaxCrossEntropyGrad WeightedSum
        WeightedSumGrad
    ];
    own.contains(&(op as &dyn Any).type_id())
}

/// Whether an operation makes outputs like these of inputs like these, all of which lie as kernels
/// expect it.
fn takes(op: &dyn Operation, operands: &Operands<'_>) -> bool {
    let apart =
        |o: &Operand| o.batch_stride >= o.spec.shape.item() || o.dims().first().is_none_or(|n| *n < 2);
    let sound = |o: &Operand| o.volume() > 0 && o.extent().is_some() && apart(o);
    let inputs: Vec<&Spec> = operands.inputs.iter().map(|o| &o.spec).collect();
    operands.inputs.iter().chain(operands.outputs).all(sound)
        && op.infer(&inputs).is_ok_and(|specs| specs.iter().eq(operands.outputs.iter().map(|o| &o.spec)))
}

/// Extent of a window, of its padding and of the step between windows, at most: so that places of
/// the largest tensors fit in 32 bits with a sign, padding included.
pub(crate) const MOST_EXTENT: usize = 1 << 24;

/// The result of a gradient whose inputs after the first `own` are, with `accumulate`, what it is
/// added to in place, and, with `masked`, an activation: all as the result.
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

/// Refuses parameters, statistics and losses that are not in f32: activations may be stored as f16,
/// these never.
pub(crate) fn parameters(specs: &[&Spec]) -> Result<(), String> {
    match specs.iter().find(|s| s.element != Element::F32) {
        Some(other) => Err(format!("expected f32, got {other}")),
        None => Ok(()),
    }
}
