//! The operations: attributes, shapes and gradients.

use std::sync::Arc;

use super::geometry::{Extents, out_sizes};
use super::product::{Epilogue, Product};
use super::{bias, offers};
use crate::error::Result;
use crate::graph::{Alias, Backward, Operation};
use crate::kernel::{Implementation, Operands, Profile};
use crate::ops::{BatchNorm, Relu, ReluGrad, activation, expect, gradient, parameters};
use crate::tensor::Spec;
use crate::text::plural;

/// y = x * w + b. Inputs: x [batch, channels, height, width], weight [outputs, channels, kernel
/// height, kernel width], and optionally bias b [outputs]; with `norm` then the weight, bias,
/// running mean and running variance [outputs] of a fused batch norm. Output: [batch, outputs,
/// (height + 2 padding - kernel) / stride + 1, likewise].
#[derive(Clone, Debug)]
pub struct Conv {
    /// Step between windows, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zero padding, vertical and horizontal.
    pub padding: [usize; 2],
    /// Whether max(y, 0) is applied last.
    pub relu: bool,
    /// The epsilon of a fused batch norm in evaluation, which has no gradient; `None` without one.
    pub norm: Option<f32>,
}

/// The gradient of a convolution with respect to its input. Inputs: dy, weight, with `accumulate` a
/// gradient that the result is added to in place, and with `masked` the activation of a fused ReLU
/// gradient; output: dx [batch, channels, height, width].
#[derive(Clone, Debug)]
pub struct ConvInputGrad {
    /// Step between windows, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zero padding, vertical and horizontal.
    pub padding: [usize; 2],
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Whether the result is added to an input.
    pub accumulate: bool,
    /// Whether a ReLU gradient is fused: zero where the last input is not positive.
    pub masked: bool,
}

/// The gradient of a convolution with respect to its weight. Inputs: x, dy; output: dw.
#[derive(Clone, Debug)]
pub struct ConvWeightGrad {
    /// Step between windows, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zero padding, vertical and horizontal.
    pub padding: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
}

/// The gradient of a convolution with respect to its bias: the sum over batch and pixels. Input:
/// dy; output: db [outputs].
#[derive(Clone, Debug)]
pub struct ConvBiasGrad;

impl Conv {
    /// A convolution with equal vertical and horizontal stride and padding, without a ReLU.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], relu: false, norm: None }
    }
}

impl Conv {
    fn extents(&self, x: &Spec, weight: &Spec) -> Result<Extents, String> {
        let [batch, channels, height, width] = x.shape.nchw().map_err(|e| format!("input: {e}"))?;
        let [outputs, inner, kernel_h, kernel_w] = weight.shape.nchw().map_err(|e| format!("weight: {e}"))?;
        if inner != channels {
            let (x, w, channels) = (&x.shape, &weight.shape, plural(channels, "channel"));
            return Err(format!("the input {x} has {channels} and the weight {w} takes {inner}"));
        }
        let (size, kernel) = ([height, width], [kernel_h, kernel_w]);
        let out = out_sizes(size, kernel, self.stride, self.padding).ok_or_else(|| {
            let (s, p) = (self.stride, self.padding);
            format!(
                "the kernel of {} with stride {s:?} and padding {p:?} does not fit the input {}",
                weight.shape, x.shape
            )
        })?;
        let (stride, padding) = (self.stride, self.padding);
        Ok(Extents { batch, channels, size, outputs, out, kernel, stride, padding })
    }
}

impl Operation for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let norms = if self.norm.is_some() { 4 } else { 0 };
        let ([x, weight, vectors @ ..], true) =
            (inputs, (2..=3).contains(&(inputs.len().wrapping_sub(norms))))
        else {
            let what = if norms > 0 {
                "input, weight, optional bias and batch norm"
            } else {
                "input, weight and optional bias"
            };
            return Err(format!("expected {what}, got {} inputs", inputs.len()));
        };
        activation(x)?;
        parameters(&inputs[1..])?;
        let e = self.extents(x, weight)?;
        if let Some(other) = vectors.iter().find(|b| b.dims() != [e.outputs]) {
            return Err(format!("the bias {} does not fit the weight {}", other.shape, weight.shape));
        }
        Ok(vec![x.like([e.batch, e.outputs, e.out[0], e.out[1]])])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(mut dy) = context.grad(0) else { return Ok(()) };
        if self.norm.is_some() {
            return Err(context
                .refuse("a convolution with a fused batch norm has no gradient: it is for inference only"));
        }
        if self.relu {
            dy = context.emit("relu_grad", ReluGrad, &[context.output(0), dy])?[0];
        }
        let (x, weight) = (context.input(0), context.input(1));
        let (x_dims, w_dims) = (context.dims(x), context.dims(weight));
        let (stride, padding) = (self.stride, self.padding);
        if context.input_count() > 2 {
            context.contribute(2, ConvBiasGrad, &[dy])?;
        }
        let kernel = [w_dims[2], w_dims[3]];
        context.contribute(1, ConvWeightGrad { stride, padding, kernel }, &[x, dy])?;
        let size = [x_dims[2], x_dims[3]];
        let op = ConvInputGrad { stride, padding, size, accumulate: false, masked: false };
        context.contribute(0, op, &[dy, weight])
    }

    fn fuse(&self, next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        let fused = || -> Arc<dyn Operation> { Arc::new(Self { relu: true, ..self.clone() }) };
        (next.is::<Relu>() && !self.relu).then(fused)
    }

    fn fold(&self, next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        let norm = next.downcast_ref::<BatchNorm>()?;
        let first = !self.relu && self.norm.is_none() && !norm.training;
        first.then(|| -> Arc<dyn Operation> {
            Arc::new(Self { relu: norm.relu, norm: Some(norm.epsilon), ..self.clone() })
        })
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (x, weight) = (&operands.inputs[0], &operands.inputs[1]);
        // Shapes were checked when the node was added.
        let Ok(extents) = self.extents(&x.spec, &weight.spec) else { return Vec::new() };
        let (source, result) = (x, &operands.outputs[0]);
        let epilogue = Epilogue::forward(operands, self.norm, self.relu);
        let product = Product { extents: &extents, source, result, transposed: false, epilogue };
        offers::product(operands, &product, profile)
    }

    fn macs(&self, inputs: &[&Spec], _outputs: &[&Spec]) -> u64 {
        self.extents(inputs[0], inputs[1]).map_or(0, |e| e.macs())
    }
}

impl ConvInputGrad {
    fn extents(&self, dy: &Spec, weight: &Spec) -> Result<Extents, String> {
        let [batch, outputs, height, width] = dy.shape.nchw().map_err(|e| format!("gradient: {e}"))?;
        let [of, channels, kernel_h, kernel_w] = weight.shape.nchw().map_err(|e| format!("weight: {e}"))?;
        let (out, kernel) = ([height, width], [kernel_h, kernel_w]);
        if of != outputs || out_sizes(self.size, kernel, self.stride, self.padding) != Some(out) {
            return Err(format!(
                "the gradient {} does not fit the weight {} on {:?}",
                dy.shape, weight.shape, self.size
            ));
        }
        let (size, stride, padding) = (self.size, self.stride, self.padding);
        Ok(Extents { batch, channels, size, outputs, out, kernel, stride, padding })
    }
}

impl Operation for ConvInputGrad {
    fn name(&self) -> &'static str {
        "conv_input_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy, weight, ..] = inputs else {
            return Err(format!("unexpected number of inputs: {}", inputs.len()));
        };
        activation(dy)?;
        parameters(&[weight])?;
        let e = self.extents(dy, weight)?;
        let dx = dy.like([e.batch, e.channels, e.size[0], e.size[1]]);
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

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (dy, weight) = (&operands.inputs[0], &operands.inputs[1]);
        let Ok(extents) = self.extents(&dy.spec, &weight.spec) else { return Vec::new() };
        let (source, result) = (dy, &operands.outputs[0]);
        let epilogue = Epilogue::gradient(operands, self.accumulate, self.masked);
        let product = Product { extents: &extents, source, result, transposed: true, epilogue };
        offers::product(operands, &product, profile)
    }

    fn macs(&self, inputs: &[&Spec], _outputs: &[&Spec]) -> u64 {
        self.extents(inputs[0], inputs[1]).map_or(0, |e| e.macs())
    }
}

impl ConvWeightGrad {
    fn extents(&self, x: &Spec, dy: &Spec) -> Result<Extents, String> {
        let [batch, channels, height, width] = x.shape.nchw().map_err(|e| format!("input: {e}"))?;
        let [items, outputs, out_height, out_width] =
            dy.shape.nchw().map_err(|e| format!("gradient: {e}"))?;
        let (size, out) = ([height, width], [out_height, out_width]);
        if items != batch || out_sizes(size, self.kernel, self.stride, self.padding) != Some(out) {
            return Err(format!(
                "the gradient {} does not fit the input {} and kernel {:?}",
                dy.shape, x.shape, self.kernel
            ));
        }
        let (kernel, stride, padding) = (self.kernel, self.stride, self.padding);
        Ok(Extents { batch, channels, size, outputs, out, kernel, stride, padding })
    }
}

impl Operation for ConvWeightGrad {
    fn name(&self) -> &'static str {
        "conv_weight_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, dy] = expect(inputs)?;
        let e = self.extents(x, dy)?;
        Ok(vec![Spec::f32([e.outputs, e.channels, e.kernel[0], e.kernel[1]])])
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let (x, dy) = (&operands.inputs[0], &operands.inputs[1]);
        let Ok(extents) = self.extents(&x.spec, &dy.spec) else { return Vec::new() };
        offers::weight_gradient(operands, &extents, profile)
    }

    fn macs(&self, inputs: &[&Spec], _outputs: &[&Spec]) -> u64 {
        self.extents(inputs[0], inputs[1]).map_or(0, |e| e.macs())
    }
}

impl Operation for ConvBiasGrad {
    fn name(&self) -> &'static str {
        "conv_bias_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy] = expect(inputs)?;
        let [_, outputs, ..] = dy.shape.nchw()?;
        Ok(vec![Spec::f32([outputs])])
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        bias::gradient(operands, profile)
    }
}
