//! Convolution (cross-correlation, as Caffe and PyTorch have it) and its three gradients.
//!
//! The files are in layers, which `tests/layers.rs` holds: what all families of kernels share
//! (`geometry`, `shared`, `product`, `blocking`), what those for GPUs share (`implicit`), the
//! families, which do not know each other, what they offer together, and the operations on top.

mod geometry;
mod shared;

mod blocking;
mod product;

mod implicit;

mod bias;
mod cooperative;
mod direct;
mod lanes;
mod tiled;
mod winograd;

mod offers;

mod operation;

pub use operation::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};
