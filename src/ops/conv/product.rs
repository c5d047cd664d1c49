//! Forward pass and input gradient in one form for all families: the product of the weight and the
//! windows of an activation.

use super::geometry::{Extents, Values, bytes};
use crate::kernel::{Kernel, Operand, Operands, Slot, Traffic};
use crate::ops::Mask;

/// The epilogue: operations on a product before it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Epilogue {
    /// Bias, batch norm with this epsilon, ReLU, in this order.
    Forward { bias: bool, norm: Option<f32>, relu: bool },
    /// Sum with the stored gradient, then zero where the mask is not positive.
    Gradient { accumulate: bool, mask: Option<Mask> },
}

impl Epilogue {
    /// The epilogue of a forward convolution, whose operands after input and weight are the
    /// optional bias and the four optional vectors of the batch norm.
    pub(super) fn forward(operands: &Operands<'_>, norm: Option<f32>, relu: bool) -> Self {
        let others = if norm.is_some() { 6 } else { 2 };
        Self::Forward { bias: operands.inputs.len() > others, norm, relu }
    }

    /// The epilogue of an input gradient, whose mask is the last operand.
    pub(super) fn gradient(operands: &Operands<'_>, accumulate: bool, masked: bool) -> Self {
        Self::Gradient { accumulate, mask: Mask::of(operands, masked) }
    }

    /// Whether the mask can be loaded as vectors of four.
    pub(super) fn is_aligned(self) -> bool {
        !matches!(self, Self::Gradient { mask: Some(mask), .. } if !mask.is_aligned())
    }

    /// Configures a kernel that stores results: constants `BIAS`, `NORM` and `RELU`, or
    /// `ACCUMULATE` and `MASK`, and the bindings that they need; the mask is bound as `element`.
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

    /// Adds the memory traffic of the epilogue.
    pub(super) fn traffic(self, product: Traffic, result: &Operand) -> Traffic {
        let Self::Gradient { accumulate, mask } = self else { return product };
        let before = if accumulate { (bytes(result) * result.volume()) as u64 } else { 0 };
        let fused = mask.map_or(0, |mask| mask.bytes());
        let (loaded, attainable) = (product.loaded + before, product.attainable + before);
        Traffic { loaded, fused, attainable, ..product }
    }
}

/// A product of the weight and windows of an activation: forward, or (transposed) the input
/// gradient.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub extents: &'a Extents,
    /// x, or dy for the input gradient.
    pub source: &'a Operand,
    /// y, or dx for the input gradient.
    pub result: &'a Operand,
    /// Whether it is the input gradient.
    pub transposed: bool,
    pub epilogue: Epilogue,
}

/// A product expressed as a stride-aware convolution of its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Extents of that convolution; an input gradient has stride 1.
    pub extents: Extents,
    /// Sub-pixel phases, vertical and horizontal: the strides of the forward convolution for an
    /// input gradient, else 1. Each phase has its own output channels.
    pub phases: [usize; 2],
    /// The row and column of the weight at this kernel's first tap, for phase 0; the weight is
    /// flipped.
    first: [usize; 2],
    /// Height and width of the weight.
    weight: [usize; 2],
    /// Height and width of the result.
    result: [usize; 2],
}

impl Product<'_> {
    /// The product as a convolution of its source. The input gradient is a convolution of dy with
    /// the flipped weight. With strides, an input pixel uses only every stride-th row and column of
    /// the kernel; which ones depends on its sub-pixel phase. Each phase is a convolution with a
    /// part of the kernel. All phases read the same window of dy, so they run as one convolution
    /// with an output channel per channel and phase, whose results are scattered to the pixels.
    pub(super) fn source_view(&self) -> Option<View> {
        let e = *self.extents;
        if !self.transposed {
            return Some(View { extents: e, phases: [1; 2], first: [0; 2], weight: e.kernel, result: e.out });
        }
        let mut view = View { extents: e, phases: e.stride, first: [0; 2], weight: e.kernel, result: e.size };
        for i in 0..2 {
            // Input pixel s j + phase receives dy's pixel j + d through the kernel's tap phase +
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
    /// Whether any window exceeds the source.
    pub(super) fn pads(&self) -> bool {
        let e = &self.extents;
        (0..2).any(|i| e.padding[i] > 0 || (e.out[i] - 1) * e.stride[i] + e.kernel[i] > e.size[i])
    }

    /// Whether there are several sub-pixel phases, whose results have to be scattered.
    pub(super) fn is_subpixel(&self) -> bool {
        self.phases != [1, 1]
    }

    /// M, N and K of the matrix product.
    pub(super) fn extents_of_product(&self) -> [usize; 3] {
        let e = &self.extents;
        [e.outputs, e.batch * e.out[0] * e.out[1], e.depth()]
    }

    /// Sets the geometry of the windows, which exceed the source if `pads`, and the offsets of
    /// source and result.
    pub(super) fn describe(
        &self,
        kernel: Kernel,
        product: &Product<'_>,
        pads: bool,
        values: Values,
    ) -> Kernel {
        let (e, source, result) = (&self.extents, product.source, product.result);
        e.windows(kernel, pads, values).geometries([
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

    /// Configures a kernel that packs the weight.
    pub(super) fn pack(&self, kernel: Kernel, transposed: bool, values: Values) -> Kernel {
        let kernel = kernel.constant("TRANSPOSED", transposed).constant("SUBPIXEL", self.is_subpixel());
        let kernel = self.phases(kernel, values);
        let kernel = values.set(kernel, ["FIRST_H", "first_h"], self.first[0]);
        let kernel = values.set(kernel, ["FIRST_W", "first_w"], self.first[1]);
        let kernel = values.set(kernel, ["WEIGHT_H", "weight_h"], self.weight[0]);
        values.set(kernel, ["WEIGHT_W", "weight_w"], self.weight[1])
    }

    fn phases(&self, kernel: Kernel, values: Values) -> Kernel {
        let kernel = values.set(kernel, ["PHASES_H", "phases_h"], self.phases[0]);
        values.set(kernel, ["PHASES_W", "phases_w"], self.phases[1])
    }

    /// Configures how a kernel scatters results.
    pub(super) fn scatter(&self, kernel: Kernel, values: Values) -> Kernel {
        let kernel = kernel.constant("SUBPIXEL", self.is_subpixel());
        if !self.is_subpixel() {
            return kernel;
        }
        self.phases(kernel, values)
            .geometries([("result_height", self.result[0]), ("result_width", self.result[1])])
    }
}
