//! Convolution (cross-correlation, as in Caffe and PyTorch) and its three gradients. The files form
//! layers, which `tests/layers.rs` enforces: parts shared by all families of kernels (`geometry`,
//! `shared`, `product`, `blocking`) or by those for GPUs (`implicit`), the families, which do not
//! depend on each other, their union (`offers`), and the operations on top.

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
