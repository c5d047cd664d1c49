//! The operations, forward and backward side by side: one file an operation, with its attributes, shapes, gradient and
//! kernels. The WGSL is in `shaders/`, the CPU twin in `reference`, both under the same name.

mod relu;

pub use relu::{Relu, ReluGrad};
