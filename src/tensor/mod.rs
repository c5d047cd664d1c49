//! Shapes and element types, and tensors on the host.

mod host;

pub use host::HostTensor;

use std::fmt;

/// Dimensions of a tensor, outermost first. Activations are NCHW, convolution weights OIHW, linear
/// weights (out, in).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of elements; `usize::MAX` on overflow, which no graph accepts.
    pub fn volume(&self) -> usize {
        product(&self.0)
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Elements per batch item: the volume without the first dimension.
    pub fn item(&self) -> usize {
        product(self.0.get(1..).unwrap_or_default())
    }

    /// The four dimensions of an activation.
    ///
    /// # Errors
    /// The reason, if the shape is not 4-D.
    pub fn nchw(&self) -> Result<[usize; 4], String> {
        self.0
            .as_slice()
            .try_into()
            .map_err(|_| format!("expected batch x channels x height x width, got {self}"))
    }

    /// Batch, channels and the product of the remaining dimensions, for per-channel operations on
    /// tensors of rank two or more.
    pub fn ncs(&self) -> [usize; 3] {
        let dim = |i: usize| self.0.get(i).copied().unwrap_or(1);
        [dim(0), dim(1), product(self.0.get(2..).unwrap_or_default())]
    }
}

/// Saturating product.
fn product(dims: &[usize]) -> usize {
    if dims.contains(&0) { 0 } else { dims.iter().fold(1, |product, dim| product.saturating_mul(*dim)) }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self(dims.to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Self(dims)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("scalar");
        }
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("x")?;
            }
            write!(f, "{dim}")?;
        }
        Ok(())
    }
}

/// Storage type of a tensor's elements. Arithmetic is always in f32.
///
/// Activations and their gradients may be f16; parameters, their gradients, statistics and losses
/// are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, storage only.
    F16,
    /// 32-bit unsigned integer: labels and indices.
    U32,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
        }
    }

    /// The name in WGSL.
    pub fn wgsl(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
        }
    }
}

/// Shape and element type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The shape.
    pub shape: Shape,
    /// The element type.
    pub element: Element,
}

impl Spec {
    /// A tensor of f32.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), element: Element::F32 }
    }

    /// A tensor of f16.
    pub fn f16(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), element: Element::F16 }
    }

    /// A tensor of u32.
    pub fn u32(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), element: Element::U32 }
    }

    /// Another shape with the same element type.
    pub fn like(&self, shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), element: self.element }
    }

    /// Bytes of the dense tensor.
    pub fn bytes(&self) -> usize {
        self.shape.volume().saturating_mul(self.element.size())
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.element.wgsl(), self.shape)
    }
}

/// Maximum bytes of a tensor: more than any device has, and few enough that sums over a graph stay
/// far below 2^64.
pub(crate) const MAX_TENSOR_BYTES: u64 = 1 << 44;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_dimensions_saturate() {
        let huge = usize::MAX / 2;
        for (dims, volume, item) in [
            (vec![huge, 3, 5], usize::MAX, 15),
            (vec![2, huge, 3], usize::MAX, usize::MAX),
            (vec![huge, huge, 0], 0, 0),
            (vec![0, huge, huge], 0, usize::MAX),
            (vec![], 1, 1),
        ] {
            let shape = Shape::from(dims);
            assert_eq!((shape.volume(), shape.item()), (volume, item), "{shape}");
        }
        assert_eq!(Spec::f32([huge, 1]).bytes(), usize::MAX);
    }
}
