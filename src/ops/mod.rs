//! The operations, forward and backward: one file per operation, with its attributes, shapes,
//! gradient and kernels. The WGSL is in `shaders/`, the CPU reference in `reference`, both under
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

/// The implementations of an operation for these operands and a device with this profile, as
/// [`Operation::kernels`]. Those of this crate's operations run without bounds checks, also if an
/// external operation returns them as its own. The list is empty if one of this crate's operations
/// refuses the operands.
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

/// Whether an operation is defined in this crate, decided by its type.
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

/// Whether the operands' shapes, offsets and strides are those that the operation's kernels expect.
fn takes(op: &dyn Operation, operands: &Operands<'_>) -> bool {
    let apart =
        |o: &Operand| o.batch_stride >= o.spec.shape.item() || o.dims().first().is_none_or(|n| *n < 2);
    let sound = |o: &Operand| o.volume() > 0 && o.extent().is_some() && apart(o);
    let inputs: Vec<&Spec> = operands.inputs.iter().map(|o| &o.spec).collect();
    operands.inputs.iter().chain(operands.outputs).all(sound)
        && op.infer(&inputs).is_ok_and(|specs| specs.iter().eq(operands.outputs.iter().map(|o| &o.spec)))
}

/// Maximum extent of windows, padding and steps: positions in the largest tensors, padding
/// included, must fit in i32.
pub(crate) const MOST_EXTENT: usize = 1 << 24;

/// The output of a gradient whose inputs after the first `own` are the accumulated gradient (with
/// `accumulate`) and an activation (with `masked`), all of the result's shape and type.
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
        Some(other) => Err(format!("the gradient {dx} and the input {other} differ")),
        None => Ok(vec![dx]),
    }
}

/// Rejects a tensor that is not an activation, which is f32 or f16.
pub(crate) fn activation(x: &Spec) -> Result<(), String> {
    if x.element == Element::U32 { Err(format!("expected floating-point numbers, got {x}")) } else { Ok(()) }
}

/// Rejects parameters, statistics and losses that are not f32: only activations may be f16.
pub(crate) fn parameters(specs: &[&Spec]) -> Result<(), String> {
    match specs.iter().find(|s| s.element != Element::F32) {
        Some(other) => Err(format!("expected f32, got {other}")),
        None => Ok(()),
    }
}
