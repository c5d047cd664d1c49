//! Forward and input gradient as what they are to all families: one product of the weight and
//! windows of an activation.

use super::geometry::{Extents, bytes, size};
use crate::kernel::{Kernel, Operand, Operands, Slot, Traffic};
use crate::ops::Mask;

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Epilogue {
    /// A bias is added, a batch norm with this epsilon is gone through, and max(y, 0) taken.
    Forward { bias: bool, norm: Option<f32>, relu: bool },
    /// The result is added to what is there, and is zero where the mask is not above zero.
    Gradient { accumulate: bool, mask: Option<Mask> },
}

impl Epilogue {
    /// That of a forward convolution: after input and weight its operands have maybe a bias, and
    /// four vectors of the batch norm that there may be.
    pub(super) fn forward(operands: &Operands<'_>, norm: Option<f32>, relu: bool) -> Self {
        let others = if norm.is_some() { 6 } else { 2 };
        Self::Forward { bias: operands.inputs.len() > others, norm, relu }
    }

    /// That of an input gradient, whose mask is its last operand.
    pub(super) fn gradient(operands: &Operands<'_>, accumulate: bool, masked: bool) -> Self {
        Self::Gradient { accumulate, mask: Mask::of(operands, masked) }
    }

    /// Whether all that it loads of the result's shape can be loaded as vectors of four.
    pub(super) fn is_aligned(self) -> bool {
        !matches!(self, Self::Gradient { mask: Some(mask), .. } if !mask.is_aligned())
    }

    /// Tells a kernel that stores the result of it: constants `BIAS`, `NORM` and `RELU`, or
    /// `ACCUMULATE` and `MASK`, and the arrays that they need; the mask is loaded as `element`.
    pub(super) fn apply(self, kernel: Kernel, element: &'static str) -> Kernel {
        match self {
            Self::Forward { bias, norm, relu } => {
                let mut kernel = kernel.constant("BIAS", bias).constant("RELU", relu);
                kernel = kernel.constant("NORM", norm.is_some());
                if bias {
                    kernel = kernel.bind("bias", Slot::Input(2));
                }
                let Some(epsilon) = norm else { return kernel };
                let vectors = ["scale", "shift", "mean", "variance"].into_iter().zip(2 + usize::from(bias)..);
                vectors.fold(kernel.geometry("epsilon", epsilon), |kernel, (name, input)| {
                    kernel.bind(name, Slot::Input(input))
                })
            }
            Self::Gradient { accumulate, mask } => {
                Mask::bind(mask, kernel.constant("ACCUMULATE", accumulate), element)
            }
        }
    }

    /// Adds what it loads for this result.
    pub(super) fn traffic(self, product: Traffic, result: &Operand) -> Traffic {
        let Self::Gradient { accumulate, mask } = self else { return product };
        let before = if accumulate { (bytes(result) * result.volume()) as u64 } else { 0 };
        let joined = mask.map_or(0, |mask| mask.bytes());
        let (loaded, attainable) = (product.loaded + before, product.attainable + before);
        Traffic { loaded, joined, attainable, ..product }
    }
}

/// A product of the weight and windows of an activation: forward, or (transposed) the input
/// gradient.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub extents: &'a Extents,
    /// x, or dy.
    pub source: &'a Operand,
    /// y, or dx.
    pub result: &'a Operand,
    /// Whether it is the input gradient.
    pub transposed: bool,
    pub epilogue: Epilogue,
}

/// A product as the convolution that it is of its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Of that convolution, which has stride 1 where it is an input gradient.
    pub extents: Extents,
    /// An input gradient has a channel for each phase, that is, place of a pixel between two
    /// windows: strides of the gradient's convolution. Else 1.
    pub phases: [usize; 2],
    /// The row and column of the weight that meet the first of the kernel here, for phase 0: the
    /// weight is turned round.
    first: [usize; 2],
    /// Height and width of the weight.
    weight: [usize; 2],
    /// Height and width of the result.
    result: [usize; 2],
}

impl Product<'_> {
    /// The convolution that this is of its source. The input gradient is one of dy with the weight
    /// turned round. With strides, an input pixel meets every stride-th row and column of the
    /// kernel, and which ones depends on its place between windows, its phase. So each phase is a
    /// convolution with a part of the kernel; all see the same window of dy, and here they are one
    /// with a channel for each channel and phase, whose results are dealt out to the pixels.
    pub(super) fn source_view(&self) -> Option<View> {
        let e = *self.extents;
        if !self.transposed {
            return Some(View { extents: e, phases: [1; 2], first: [0; 2], weight: e.kernel, result: e.out });
        }
        let mut view = View { extents: e, phases: e.stride, first: [0; 2], weight: e.kernel, result: e.size };
        for i in 0..2 {
            // Input pixel s j + phase is met by dy's pixel j + d through the kernel's tap phase +
            // pad - s d.
            let before = (e.kernel[i] - 1).checked_sub(e.padding[i])? / e.stride[i];
            let after = e.padding[i].div_ceil(e.stride[i]);
            view.first[i] = e.padding[i] + e.stride[i] * before;
            view.extents.kernel[i] = before + 1 + after;
            view.extents.padding[i] = before;
            view.extents.out[i] = e.size[i].div_ceil(e.stride[i]);
        }
        view.extents.channels = e.outputs;
        view.extents.outputs = e.channels * e.stride[0] * e.stride[1];
        view.extents.size = e.out;
        view.extents.stride = [1; 2];
        Some(view)
    }
}

impl View {
    /// Whether any window reaches out of the source.
    pub(super) fn pads(&self) -> bool {
        let e = &self.extents;
        (0..2).any(|i| e.padding[i] > 0 || (e.out[i] - 1) * e.stride[i] + e.kernel[i] > e.size[i])
    }

    /// Whether results have to be dealt out.
    pub(super) fn deals(&self) -> bool {
        self.phases != [1, 1]
    }

    /// Rows, columns and terms of the matrix product that it is.
    pub(super) fn extents_of_product(&self) -> [usize; 3] {
        let e = &self.extents;
        [e.outputs, e.batch * e.out[0] * e.out[1], e.depth()]
    }

    /// Tells a kernel of the windows and where source and result lie.
    pub(super) fn describe(&self, kernel: Kernel, product: &Product<'_>) -> Kernel {
        let (e, source, result) = (&self.extents, product.source, product.result);
        kernel
            .constant("KERNEL_H", size(e.kernel[0]))
            .constant("KERNEL_W", size(e.kernel[1]))
            .constant("STRIDE_H", size(e.stride[0]))
            .constant("STRIDE_W", size(e.stride[1]))
            .constant("PAD", self.pads())
            .geometries([
                ("batch", e.batch),
                ("rows", e.outputs),
                ("depth", e.channels),
                ("height", e.size[0]),
                ("width", e.size[1]),
                ("out_height", e.out[0]),
                ("out_width", e.out[1]),
                ("pad_h", e.padding[0]),
                ("pad_w", e.padding[1]),
                ("source_offset", source.offset),
                ("source_stride", source.batch_stride),
                ("result_offset", result.offset),
                ("result_stride", result.batch_stride),
            ])
    }

    /// Tells a kernel that lays out the weight which of it to take.
    pub(super) fn pack(&self, kernel: Kernel, transposed: bool) -> Kernel {
        kernel
            .constant("TRANSPOSED", transposed)
            .constant("DEAL", self.deals())
            .constant("PHASES_H", size(self.phases[0]))
            .constant("PHASES_W", size(self.phases[1]))
            .constant("FIRST_H", size(self.first[0]))
            .constant("FIRST_W", size(self.first[1]))
            .constant("WEIGHT_H", size(self.weight[0]))
            .constant("WEIGHT_W", size(self.weight[1]))
    }

    /// Tells a kernel that stores results where they go.
    pub(super) fn deal(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel.constant("DEAL", self.deals());
        if !self.deals() {
            return kernel;
        }
        kernel
            .constant("PHASES_H", size(self.phases[0]))
            .constant("PHASES_W", size(self.phases[1]))
            .geometries([("result_height", self.result[0]), ("result_width", self.result[1])])
    }
}
