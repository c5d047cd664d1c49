//! The extents of a convolution and the constants that kernels derive from them.

use crate::kernel::{Kernel, Operand};
use crate::ops::MOST_EXTENT;

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

    /// Sets the constants `KERNEL_H` and `KERNEL_W`.
    pub fn taps(&self, kernel: Kernel) -> Kernel {
        kernel.constant("KERNEL_H", size(self.kernel[0])).constant("KERNEL_W", size(self.kernel[1]))
    }

    /// Sets the constants of the windows: [`Extents::taps`], `STRIDE_H`, `STRIDE_W`, and `PAD`,
    /// whether any window exceeds the input, so that only then bounds are checked.
    pub fn windows(&self, kernel: Kernel, pads: bool) -> Kernel {
        self.taps(kernel)
            .constant("STRIDE_H", size(self.stride[0]))
            .constant("STRIDE_W", size(self.stride[1]))
            .constant("PAD", pads)
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
