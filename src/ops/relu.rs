//! ReLU: y = max(x, 0).

use crate::error::Result;
use crate::graph::{Alias, Backward, Operation};
use crate::kernel::{Implementation, Kernel, Operand, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/relu.wgsl");

/// y = max(x, 0), in place. Input: any activation; output: the same shape.
#[derive(Clone, Debug)]
pub struct Relu;

/// The gradient of ReLU: dx = dy where y > 0, else 0, in place on dy. Inputs: y and dy of equal
/// shape; output: dx.
#[derive(Clone, Debug)]
pub struct ReluGrad;

/// The activation of a fused ReLU gradient: the last input of a `masked` operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    input: usize,
    offset: usize,
    batch_stride: usize,
    aligned: bool,
    bytes: usize,
}

impl Mask {
    /// The last input if `masked`, else `None`.
    pub(crate) fn of(operands: &Operands<'_>, masked: bool) -> Option<Self> {
        let input = operands.inputs.len().checked_sub(1).filter(|_| masked)?;
        let y = &operands.inputs[input];
        let bytes = y.volume() * y.spec.element.size();
        Some(Self { input, offset: y.offset, batch_stride: y.batch_stride, aligned: y.is_aligned(4), bytes })
    }

    /// Whether it can be loaded as vectors of four.
    pub(crate) fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// Bytes of one load of the mask.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Sets the constant `MASK` and binds the array `mask` of `element`, with `mask_offset` and
    /// `mask_stride` in `p`.
    pub(crate) fn bind(mask: Option<Self>, kernel: Kernel, element: &'static str) -> Kernel {
        let kernel = kernel.constant("MASK", mask.is_some());
        let Some(Self { input, offset, batch_stride, .. }) = mask else { return kernel };
        let places = [("mask_offset", offset), ("mask_stride", batch_stride)];
        kernel.geometries(places).bind_as("mask", Slot::Input(input), element)
    }
}

impl Operation for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        match inputs {
            [x] => Ok(vec![(*x).clone()]),
            _ => Err(format!("expected 1 input, got {}", inputs.len())),
        }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let y = context.output(0);
        context.contribute(0, ReluGrad, &[y, dy])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let kernel = Kernel::new(operands, SOURCE, "relu")
            .groupable()
            .geometries(extent(&operands.outputs[0]))
            .bind("y", Slot::Output(0))
            .linear(operands.outputs[0].volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}

impl Operation for ReluGrad {
    fn name(&self) -> &'static str {
        "relu_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        match inputs {
            [y, dy] if y == dy => Ok(vec![(*dy).clone()]),
            [y, dy] => Err(format!("output {y} and its gradient {dy} differ")),
            _ => Err(format!("expected 2 inputs, got {}", inputs.len())),
        }
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 1 }]
    }

    fn is_mask(&self) -> bool {
        true
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (y, dy) = (&operands.inputs[0], &operands.outputs[0]);
        let kernel = Kernel::new(operands, SOURCE, "relu_grad")
            .groupable()
            .geometries(extent(dy))
            .geometry("forward_offset", y.offset)
            .geometry("forward_stride", y.batch_stride)
            .bind("y", Slot::Input(0))
            .bind("dy", Slot::Output(0))
            .linear(dy.volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}

fn extent(x: &Operand) -> [(&'static str, usize); 4] {
    [("count", x.volume()), ("item", x.spec.shape.item()), ("offset", x.offset), ("stride", x.batch_stride)]
}
