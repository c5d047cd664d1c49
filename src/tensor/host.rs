//! A tensor on the host.

/// A dense tensor of f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensor {
    /// The extents, outermost first.
    pub dims: Vec<usize>,
    /// The elements, last dimension fastest.
    pub data: Vec<f32>,
}
