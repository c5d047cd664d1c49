//! Dropout (Srivastava et al. 2014), scaled in training, so that it is the identity in evaluation.

use super::expect;
use crate::error::Result;
use crate::graph::{Backward, Inference, Operation};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/dropout.wgsl");

/// Drops each element with a probability and scales the rest by 1 / (1 - probability). Input: any
/// activation; output: the same shape. The gradient is the same function of the output's gradient.
/// It is removed in evaluation.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub probability: f32,
    /// Random stream of this layer; unique in the network.
    pub salt: u32,
}

impl Dropout {
    /// A random u32 below this threshold drops the element.
    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 2f64.powi(32)) as u32
    }
}

impl Operation for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        if (0.0..1.0).contains(&self.probability) {
            Ok(vec![x.clone()])
        } else {
            Err(format!("the probability must be in [0, 1), not {}", self.probability))
        }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        context.contribute(0, self.clone(), &[dy])
    }

    fn for_inference(&self) -> Inference {
        Inference::Identity
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let kernel = Kernel::new(operands, SOURCE, "dropout")
            .groupable()
            .geometries([
                ("count", y.volume()),
                ("item", y.spec.shape.item()),
                ("x_offset", x.offset),
                ("x_stride", x.batch_stride),
                ("y_offset", y.offset),
                ("y_stride", y.batch_stride),
            ])
            .geometry("salt", self.salt)
            .geometry("threshold", self.threshold())
            .geometry("scale", 1.0 / (1.0 - self.probability))
            .bind("x_data", Slot::Input(0))
            .bind("y_data", Slot::Output(0))
            .linear(y.volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}
