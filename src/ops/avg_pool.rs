//! Average pooling with windows of a fixed size, adaptive average pooling, and their gradient.

use std::sync::Arc;

use super::max_pool::pooled;
use super::{Mask, expect, gradient};
use crate::error::Result;
use crate::graph::{Alias, Backward, Operation};
use crate::kernel::{Implementation, Kernel, Operand, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/avg_pool.wgsl");

/// The mean of square windows over the elements of the input in them. Input: x [batch, channels,
/// height, width]; output: y.
#[derive(Clone, Debug)]
pub struct AvgPool {
    /// Height and width of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Padding around the input, which is not counted in the mean.
    pub padding: usize,
    /// Whether output sizes are rounded up.
    pub ceil: bool,
}

/// The mean of windows that divide the input into `output` parts: window o covers the rows from
/// floor(o H / O) up to ceil((o + 1) H / O), as torch's `AdaptiveAvgPool2d`. Input: x [batch,
/// channels, height, width]; output: [batch, channels, output height, output width].
#[derive(Clone, Debug)]
pub struct AdaptiveAvgPool {
    /// Height and width of the output.
    pub output: [usize; 2],
}

/// The gradient of either. Inputs: dy, with `accumulate` a gradient that the result is added to in
/// place, and with `masked` the activation of a fused ReLU gradient; output: dx.
#[derive(Clone, Debug)]
pub struct AvgPoolGrad {
    /// The pooling with windows of a fixed size; `None` for adaptive windows.
    pub pool: Option<AvgPool>,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Whether the result is added to an input.
    pub accumulate: bool,
    /// Whether a ReLU gradient is fused: zero where the last input is not positive.
    pub masked: bool,
}

impl AvgPool {
    fn out(&self, size: usize) -> Option<usize> {
        pooled(size, self.kernel, self.stride, self.padding, self.ceil)
    }
}

impl Operation for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        let [batch, channels, height, width] = x.shape.nchw()?;
        match (self.out(height), self.out(width)) {
            (Some(h), Some(w)) => Ok(vec![x.like([batch, channels, h, w])]),
            _ => Err(format!(
                "a window of {} with padding {} does not fit {}",
                self.kernel, self.padding, x.shape
            )),
        }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        contribute(context, Some(self.clone()))
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        forward(operands, Some(self))
    }
}

impl Operation for AdaptiveAvgPool {
    fn name(&self) -> &'static str {
        "adaptive_avg_pool"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        let [batch, channels, height, width] = x.shape.nchw()?;
        let [h, w] = self.output;
        if [height, width, h, w].contains(&0) {
            return Err(format!("cannot divide {} into {h}x{w}", x.shape));
        }
        Ok(vec![x.like([batch, channels, h, w])])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        contribute(context, None)
    }

    /// ONNX has no adaptive pooling. With equal windows it is exported as average pooling, else as
    /// two matrix products, one with the weights of the columns and one with those of the rows.
    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        forward(operands, None)
    }
}

fn contribute(context: &mut Backward<'_>, pool: Option<AvgPool>) -> Result<()> {
    let Some(dy) = context.grad(0) else { return Ok(()) };
    let dims = context.dims(context.input(0));
    context.contribute(
        0,
        AvgPoolGrad { pool, size: [dims[2], dims[3]], accumulate: false, masked: false },
        &[dy],
    )
}

fn forward(operands: &Operands<'_>, pool: Option<&AvgPool>) -> Vec<Implementation> {
    let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
    let kernel = kernel(operands, "avg_pool", pool, x, y)
        .geometry("count", y.volume())
        .bind("x_data", Slot::Input(0))
        .bind("y_data", Slot::Output(0))
        .linear(y.volume());
    vec![Implementation::new("windows", vec![kernel])]
}

fn kernel(
    operands: &Operands<'_>,
    entry: &'static str,
    pool: Option<&AvgPool>,
    x: &Operand,
    y: &Operand,
) -> Kernel {
    let sizes = [
        ("channels", x.dims()[1]),
        ("height", x.dims()[2]),
        ("width", x.dims()[3]),
        ("out_height", y.dims()[2]),
        ("out_width", y.dims()[3]),
        ("kernel", pool.map_or(0, |p| p.kernel)),
        ("stride", pool.map_or(0, |p| p.stride)),
        ("pad", pool.map_or(0, |p| p.padding)),
    ];
    let kernel = Kernel::new(operands, SOURCE, entry).groupable().constant("ADAPTIVE", pool.is_none());
    sizes.into_iter().fold(kernel, |kernel, (name, size)| kernel.geometry(name, size)).geometries([
        ("x_offset", x.offset),
        ("x_stride", x.batch_stride),
        ("y_offset", y.offset),
        ("y_stride", y.batch_stride),
    ])
}

impl Operation for AvgPoolGrad {
    fn name(&self) -> &'static str {
        "avg_pool_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy, ..] = inputs else {
            return Err(format!("unexpected number of inputs: {}", inputs.len()));
        };
        let [batch, channels, height, width] = dy.shape.nchw()?;
        let fits = |p: &AvgPool| [p.out(self.size[0]), p.out(self.size[1])] == [Some(height), Some(width)];
        if !self.pool.as_ref().is_none_or(fits) {
            return Err(format!("gradient {} does not fit {:?}", dy.shape, self.size));
        }
        let dx = dy.like([batch, channels, self.size[0], self.size[1]]);
        gradient(inputs, 1, self.accumulate, self.masked, dx)
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        if self.accumulate { vec![Alias::InPlace { output: 0, input: 1 }] } else { Vec::new() }
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
        let kernel = kernel(operands, "avg_pool_grad", self.pool.as_ref(), dx, dy)
            .constant("ACCUMULATE", self.accumulate)
            .geometry("count", dx.volume())
            .bind("dy_data", Slot::Input(0))
            .bind("dx_data", Slot::Output(0))
            .linear(dx.volume());
        let kernel = Mask::bind(Mask::of(operands, self.masked), kernel, "f32");
        vec![Implementation::new("gather", vec![kernel])]
    }
}
