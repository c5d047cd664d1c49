//! Fast implementations of operations for the CPU: matrix products for convolutions and linear
//! layers, loops that compilers vectorize for the rest. An operation without one runs its CPU
//! reference.

mod avg_pool;
mod batch_norm;
mod conv;
mod cut;
mod elementwise;
mod linear;
mod lrn;
mod max_pool;
mod softmax;
mod unfold;
mod update;

use std::any::Any;

use super::operands::Call;
use crate::graph::{Add, Copy, Fill, Operation};
use crate::ops::{
    Accumulate, AdamW, AdaptiveAvgPool, Average, AvgPool, AvgPoolGrad, BatchNorm, BatchNormGrad, ClipNorm,
    Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad, Dropout, Linear, LinearBiasGrad, LinearInputGrad,
    LinearWeightGrad, Lrn, LrnGrad, MaxPool, MaxPoolGrad, Relu, ReluGrad, Sgd, Softmax, SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
};

/// A fast implementation of an operation. Inputs are read as f32 and sums have an order that
/// depends only on shapes.
pub(super) trait Kernel {
    /// Computes the outputs. Returns `None`, before it has written anything, if it does not support
    /// these operands; then the CPU reference runs.
    fn run(&self, call: &mut Call<'_>) -> Option<()>;
}

/// The fast implementation of an operation; `None` if it has only the CPU reference.
pub(super) fn of(op: &dyn Operation) -> Option<&dyn Kernel> {
    let any: &dyn Any = op;
    macro_rules! table {
        ($($operation:ty),* $(,)?) => {
            $(if let Some(op) = any.downcast_ref::<$operation>() {
                return Some(op);
            })*
        };
    }
    table!(
        Accumulate,
        AdamW,
        AdaptiveAvgPool,
        Add,
        Average,
        AvgPool,
        AvgPoolGrad,
        BatchNorm,
        BatchNormGrad,
        ClipNorm,
        Conv,
        ConvBiasGrad,
        ConvInputGrad,
        ConvWeightGrad,
        Copy,
        Dropout,
        Fill,
        Linear,
        LinearBiasGrad,
        LinearInputGrad,
        LinearWeightGrad,
        Lrn,
        LrnGrad,
        MaxPool,
        MaxPoolGrad,
        Relu,
        ReluGrad,
        Sgd,
        Softmax,
        SoftmaxCrossEntropy,
        SoftmaxCrossEntropyGrad,
    );
    None
}
