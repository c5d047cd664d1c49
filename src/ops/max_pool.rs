//! Max pooling and its gradient.

use std::sync::Arc;

use super::{MOST_EXTENT, Mask, expect, gradient};
use crate::error::Result;
use crate::graph::{Alias, Backward, Inference, Operation};
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::{Element, Spec};

const SOURCE: &str = include_str!("../../shaders/max_pool.wgsl");

/// Windows per row that kernels for GPUs unroll.
const UNROLLED: usize = 6;

/// Maximum extent of windows and of the step between them: kernels unroll over the elements of a
/// window.
const LARGEST: usize = 64;

/// The maximum of square windows. Input: x [batch, channels, height, width]; outputs: y, and with
/// `indices` the position of each maximum in its input plane (row * width + column) as u32. Ties go
/// to the first in row-major order; padding never wins; a NaN wins.
#[derive(Clone, Debug)]
pub struct MaxPool {
    /// Height and width of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Padding around the input, which never wins.
    pub padding: usize,
    /// Whether output sizes are rounded up, as in Caffe; windows that would start beyond the input
    /// and its left padding are left out.
    pub ceil: bool,
    /// Whether the indices are an output, as the gradient needs them.
    pub indices: bool,
}

/// The gradient of max pooling. Inputs: dy, indices, with `accumulate` a gradient that the result
/// is added to in place, and with `masked` the activation of a fused ReLU gradient; output: dx.
#[derive(Clone, Debug)]
pub struct MaxPoolGrad {
    /// Attributes of the forward pass.
    pub pool: MaxPool,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Whether the result is added to an input.
    pub accumulate: bool,
    /// Whether a ReLU gradient is fused: zero where the last input is not positive.
    pub masked: bool,
}

/// Extent of a pooled dimension; `None` if no window fits.
pub(super) fn pooled(size: usize, kernel: usize, stride: usize, padding: usize, ceil: bool) -> Option<usize> {
    if kernel == 0 || stride == 0 || padding >= kernel || kernel.max(stride) > MOST_EXTENT {
        return None;
    }
    let span = size.checked_add(2 * padding)?.checked_sub(kernel)?;
    let count = if ceil { span.div_ceil(stride) } else { span / stride } + 1;
    Some(if ceil && (count - 1) * stride >= size + padding { count - 1 } else { count })
}

impl MaxPool {
    /// Caffe's pooling: sizes are rounded up, and the gradient's indices are an output.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding, ceil: true, indices: true }
    }

    fn out(&self, size: usize) -> Option<usize> {
        if self.kernel.max(self.stride) > LARGEST {
            return None;
        }
        pooled(size, self.kernel, self.stride, self.padding, self.ceil)
    }
}

impl Operation for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        let [batch, channels, height, width] = x.shape.nchw()?;
        let (Some(h), Some(w)) = (self.out(height), self.out(width)) else {
            return Err(format!(
                "a window of {} with padding {} does not fit {}; windows and steps are at most {LARGEST}",
                self.kernel, self.padding, x.shape
            ));
        };
        let dims = [batch, channels, h, w];
        let mut outputs = vec![x.like(dims)];
        if self.indices {
            outputs.push(Spec::u32(dims));
        }
        Ok(outputs)
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let dims = context.dims(context.input(0));
        let op =
            MaxPoolGrad { pool: self.clone(), size: [dims[2], dims[3]], accumulate: false, masked: false };
        let indices = context.output(1);
        context.contribute(0, op, &[dy, indices])
    }

    fn for_inference(&self) -> Inference {
        Inference::Replace(Arc::new(Self { indices: false, ..self.clone() }))
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let [items, channels, out_height, out_width] = [0, 1, 2, 3].map(|i| y.dims()[i]);
        let constant = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let kernel = |entry, each: usize| {
            let vector = each == 4 && out_width.is_multiple_of(4) && y.is_aligned(4);
            let [element, index] = if vector { ["vec4<f32>", "vec4<u32>"] } else { ["f32", "u32"] };
            let kernel = Kernel::new(operands, SOURCE, entry)
                .groupable()
                .constant("INDICES", self.indices)
                .constant("VECTOR", vector)
                .constant("KERNEL", constant(self.kernel))
                .constant("STRIDE", constant(self.stride))
                .constant("EACH", constant(each))
                .constant("SHARED", constant(self.kernel.saturating_sub(self.stride)))
                .constant("NEXT", constant(self.kernel.min(self.stride)))
                .constant("SPAN", constant((each - 1) * self.stride + self.kernel))
                .geometries([
                    ("planes", items * channels),
                    ("channels", channels),
                    ("height", x.dims()[2]),
                    ("width", x.dims()[3]),
                    ("out_height", out_height),
                    ("out_width", out_width),
                    ("pad", self.padding),
                    ("x_offset", x.offset),
                    ("x_stride", x.batch_stride),
                    ("y_offset", y.offset),
                    ("y_stride", y.batch_stride),
                ])
                .bind("x_data", Slot::Input(0))
                .bind_as("y_data", Slot::Output(0), element);
            if self.indices { kernel.bind_as("indices", Slot::Output(1), index) } else { kernel }
        };
        let rows = items * channels * out_height;
        let quads = kernel("max_pool", 4).linear(rows * out_width.div_ceil(4));
        let windows = kernel("max_pool", 1).linear(y.volume());
        let rows = kernel("max_pool_rows", 1).workgroup(8, 1, 1).linear(rows);
        vec![
            Implementation::new("quads", vec![quads]).suits(AdapterClass::GPU),
            Implementation::new("windows", vec![windows]).suits(AdapterClass::GPU),
            Implementation::new("rows", vec![rows]).suits(AdapterClass::SOFTWARE),
        ]
    }
}

impl Operation for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy, indices, ..] = inputs else {
            return Err(format!("unexpected number of inputs: {}", inputs.len()));
        };
        let [batch, channels, height, width] = dy.shape.nchw()?;
        let size = [self.pool.out(self.size[0]), self.pool.out(self.size[1])];
        if indices.shape != dy.shape || size != [Some(height), Some(width)] {
            return Err(format!(
                "gradient {} and indices {} do not fit {:?}",
                dy.shape, indices.shape, self.size
            ));
        }
        let dx = dy.like([batch, channels, self.size[0], self.size[1]]);
        gradient(inputs, 2, self.accumulate, self.masked, dx)
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        if self.accumulate { vec![Alias::InPlace { output: 0, input: 2 }] } else { Vec::new() }
    }

    fn accumulating(&self) -> Option<Arc<dyn Operation>> {
        Some(Arc::new(Self { accumulate: true, ..self.clone() }))
    }

    fn masked(&self, own: Option<usize>) -> Option<Arc<dyn Operation>> {
        (own.is_none() && !self.masked)
            .then(|| -> Arc<dyn Operation> { Arc::new(Self { masked: true, ..self.clone() }) })
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (dy, dx) = (&operands.inputs[0], &operands.outputs[0]);
        let mask = Mask::of(operands, self.masked);
        let reach = self.pool.kernel.div_ceil(self.pool.stride);
        let span = (self.pool.kernel + 3).div_ceil(self.pool.stride);
        let [items, channels, height, width] = [0, 1, 2, 3].map(|i| dx.dims()[i]);
        let aligned = dx.is_aligned(4) && mask.is_none_or(|mask| mask.is_aligned());
        let vector = width.is_multiple_of(4) && aligned;
        let kernel = |entry, element| {
            let kernel = Kernel::new(operands, SOURCE, entry)
                .groupable()
                .constant("ACCUMULATE", self.accumulate)
                .constant("REACH", u32::try_from(reach).unwrap_or(u32::MAX))
                .constant("SPAN", u32::try_from(span).unwrap_or(u32::MAX))
                .constant("VECTOR", vector)
                .geometries([
                    ("count", dx.volume()),
                    ("planes", items * channels),
                    ("channels", channels),
                    ("height", height),
                    ("width", width),
                    ("out_height", dy.dims()[2]),
                    ("out_width", dy.dims()[3]),
                    ("kernel", self.pool.kernel),
                    ("stride", self.pool.stride),
                    ("pad", self.pool.padding),
                    ("x_offset", dx.offset),
                    ("x_stride", dx.batch_stride),
                    ("y_offset", dy.offset),
                    ("y_stride", dy.batch_stride),
                ])
                .bind("dy_data", Slot::Input(0))
                .bind_as("indices", Slot::Input(1), "u32")
                .bind_as("dx_data", Slot::Output(0), element);
            Mask::bind(mask, kernel, element)
        };
        let gather = kernel("max_pool_grad", "f32").linear(dx.volume());
        let planes = kernel("max_pool_grad_planes", "f32").workgroup(8, 1, 1).linear(items * channels);
        let mut list = Vec::new();
        if span <= UNROLLED {
            let quads = kernel("max_pool_grad_quads", if vector { "vec4<f32>" } else { "f32" })
                .linear(items * channels * height * width.div_ceil(4));
            list.push(Implementation::new("quads", vec![quads]).suits(AdapterClass::GPU));
        }
        list.push(Implementation::new("gather", vec![gather]).suits(AdapterClass::GPU));
        // It accumulates in the result, which must be f32.
        if dx.spec.element == Element::F32 {
            list.push(Implementation::new("planes", vec![planes]).suits(AdapterClass::SOFTWARE));
        }
        list
    }
}
