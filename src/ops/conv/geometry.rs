//! The extents of a convolution and the constants that kernels derive from them.

use crate::kernel::{Kernel, Operand};
use crate::ops::MOST_EXTENT;

/// How a kernel gets the extents of windows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// As constants: its loops over taps are unrolled.
    Compiled,
    /// As geometry: convolutions of different extents share a pipeline, and a dispatch.
    Loaded,
}

impl Values {
    /// Sets a value by the name of its constant or of its geometry.
    pub fn set(self, kernel: Kernel, [constant, geometry]: [&'static str; 2], value: usize) -> Kernel {
        match self {
            Self::Compiled => kernel.constant(constant, size(value)),
            Self::Loaded => kernel.geometry(geometry, value),
        }
    }
}

/// The extents of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    pub batch: usize,
    pub channels: usize,
    pub size: [usize; 2],
    pub outputs: usize,
    pub out: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

impl Extents {
    /// Multiply-adds of the forward pass or of one gradient.
    pub fn macs(&self) -> u64 {
        let pixels = self.batch * self.out[0] * self.out[1];
        (pixels as u64).saturating_mul((self.outputs * self.depth()) as u64)
    }

    /// K: multiply-adds per output.
    pub fn depth(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Sets the extents of the kernel: `KERNEL_H` and `KERNEL_W`, or `kernel_h`, `kernel_w` and
    /// their product `taps`.
    pub fn taps(&self, kernel: Kernel, values: Values) -> Kernel {
        let kernel = values.set(kernel, ["KERNEL_H", "kernel_h"], self.kernel[0]);
        let kernel = values.set(kernel, ["KERNEL_W", "kernel_w"], self.kernel[1]);
        match values {
            Values::Compiled => kernel,
            Values::Loaded => kernel.geometry("taps", self.kernel[0] * self.kernel[1]),
        }
    }

    /// Sets the values of the windows: [`Extents::taps`], the strides, and the constant `PAD`,
    /// whether any window exceeds the input, so that only then bounds are checked.
    pub fn windows(&self, kernel: Kernel, pads: bool, values: Values) -> Kernel {
        let kernel = values.set(self.taps(kernel, values), ["STRIDE_H", "stride_h"], self.stride[0]);
        values.set(kernel, ["STRIDE_W", "stride_w"], self.stride[1]).constant("PAD", pads)
    }
}

/// Extent of the output; `None` if the kernel does not fit.
fn out_size(size: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    if kernel == 0 || stride == 0 || [kernel, stride, padding].iter().any(|extent| *extent > MOST_EXTENT) {
        return None;
    }
    Some(size.checked_add(2 * padding)?.checked_sub(kernel)? / stride + 1)
}

/// Height and width of the output; `None` if the kernel does not fit.
pub(super) fn out_sizes(
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Option<[usize; 2]> {
    let out = |i: usize| out_size(size[i], kernel[i], stride[i], padding[i]);
    Some([out(0)?, out(1)?])
}

/// A size as a constant of a kernel.
pub(super) fn size(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bytes of an element of the operand.
pub(super) fn bytes(operand: &Operand) -> usize {
    operand.spec.element.size()
}
