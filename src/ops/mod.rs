//! The operations, forward and backward side by side: one file an operation, with its attributes, shapes, gradient and
//! kernels. The WGSL is in `shaders/`, the CPU twin in `reference`, both under the same name.

mod add;
mod avg_pool;
mod batch_norm;
mod conv;
mod copy;
mod fill;
mod linear;
mod lrn;
mod max_pool;
mod relu;

pub use add::Add;
pub use avg_pool::{AdaptiveAvgPool, AvgPool, AvgPoolGrad};
pub use batch_norm::{BatchNorm, BatchNormGrad};
pub use conv::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};
pub use copy::Copy;
pub use fill::Fill;
pub use linear::{Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad};
pub use lrn::{Lrn, LrnGrad};
pub use max_pool::{MaxPool, MaxPoolGrad};
pub use relu::{Relu, ReluGrad};

use crate::graph::Spec;

/// The inputs as an array of the number that the operation takes.
pub(crate) fn expect<'a, const N: usize>(inputs: &[&'a Spec]) -> Result<[&'a Spec; N], String> {
    inputs.try_into().map_err(|_| format!("expected {N} inputs, got {}", inputs.len()))
}
