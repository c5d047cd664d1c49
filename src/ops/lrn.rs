//! Local response normalization across channels (Krizhevsky et al. 2012; Caffe's LRN layer) and its
//! gradient.

use std::sync::Arc;

use super::{activation, expect};
use crate::error::Result;
use crate::graph::{Backward, Operation};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/lrn.wgsl");

/// Maximum channels of a window: kernels unroll over them.
const LARGEST: usize = 255;

/// y = x (k + alpha / size * sum of x^2 over the `size` surrounding channels)^-beta. Input: x
/// [batch, channels, height, width]; output: the same shape.
#[derive(Clone, Debug)]
pub struct Lrn {
    /// Channels of the window; odd.
    pub size: usize,
    /// Factor on the mean of squares.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Added to the sum.
    pub k: f32,
}

/// The gradient. Inputs: x, dy; output: dx. The sums are recomputed, which is faster than storing
/// and loading them.
#[derive(Clone, Debug)]
pub struct LrnGrad {
    /// Attributes of the forward pass.
    pub lrn: Lrn,
    /// Whether the gradient of the preceding ReLU is fused: dx is zero where x is not positive.
    pub masked: bool,
}

impl Lrn {
    fn kernel(&self, operands: &Operands<'_>, entry: &'static str) -> Kernel {
        // Long walks over channels load least; short ones occupy a large GPU.
        const CHUNK: usize = 16;
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let [batch, channels, plane] = x.spec.shape.ncs();
        let chunks = channels.div_ceil(CHUNK);
        let count = batch * chunks * plane;
        Kernel::new(operands, SOURCE, entry)
            .groupable()
            .constant("SIZE", u32::try_from(self.size).unwrap_or(1))
            .constant("REST", u32::try_from(self.size - 1).unwrap_or(0))
            .constant("CHUNK", CHUNK as u32)
            .constant("THREE_QUARTERS", self.beta == 0.75)
            .geometries([
                ("count", count),
                ("channels", channels),
                ("plane", plane),
                ("chunks", chunks),
                ("x_offset", x.offset),
                ("x_stride", x.batch_stride),
                ("y_offset", y.offset),
                ("y_stride", y.batch_stride),
            ])
            .geometry("scale", self.alpha / self.size as f32)
            .geometry("beta", self.beta)
            .geometry("k", self.k)
            .bind("x_data", Slot::Input(0))
            .linear(count)
    }
}

impl Operation for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        activation(x)?;
        x.shape.nchw()?;
        if self.size.is_multiple_of(2) || self.size > LARGEST {
            return Err(format!("the window must be odd and at most {LARGEST}, not {}", self.size));
        }
        Ok(vec![x.clone()])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let x = context.input(0);
        context.contribute(0, LrnGrad { lrn: self.clone(), masked: false }, &[x, dy])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        vec![Implementation::new("walk", vec![self.kernel(operands, "lrn").bind("y_data", Slot::Output(0))])]
    }
}

impl Operation for LrnGrad {
    fn name(&self) -> &'static str {
        "lrn_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x, dy] = expect(inputs)?;
        self.lrn.infer(&[x])?;
        if x == dy { Ok(vec![x.clone()]) } else { Err(format!("input {x} and gradient {dy} differ")) }
    }

    fn masked(&self, own: Option<usize>) -> Option<Arc<dyn Operation>> {
        (own == Some(0) && !self.masked)
            .then(|| -> Arc<dyn Operation> { Arc::new(Self { masked: true, ..self.clone() }) })
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let dy = &operands.inputs[1];
        let kernel = self
            .lrn
            .kernel(operands, "lrn_grad")
            .constant("MASK", self.masked)
            .geometries([("dy_offset", dy.offset), ("dy_stride", dy.batch_stride)])
            .bind("dy_data", Slot::Input(1))
            .bind("dx_data", Slot::Output(0));
        vec![Implementation::new("walk", vec![kernel])]
    }
}
