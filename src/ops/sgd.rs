//! Stochastic gradient descent with momentum, as in Caffe and torch.

use super::flat::{bind_guard, guarded, multipliers_fit, parts, same_length};
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/sgd.wgsl");

/// v = momentum v + g + decay w; w = w - lr v, or w - lr (g + decay w + momentum v) with Nesterov
/// momentum. Inputs: parameters, gradients, momentum (flat regions [n]), multipliers [n / 64 x 2]:
/// factors on learning rate and weight decay per block of 64 elements, and optionally the guard of
/// a [`LossScale`](super::LossScale); outputs: parameters and momentum, in place. Learning rate,
/// momentum and weight decay are values of the step, and so is the loss scale if there is no guard.
#[derive(Clone, Debug)]
pub struct Sgd {
    /// Nesterov momentum, as torch's `nesterov=True`.
    pub nesterov: bool,
}

impl Operation for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let (own, _) = guarded(inputs, 4)?;
        let [regions @ .., multipliers] = own else {
            return Err("expected regions and multipliers".into());
        };
        let region = same_length::<3>(regions)?;
        multipliers_fit(&region, multipliers)?;
        Ok(vec![region.clone(), region])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }, Alias::InPlace { output: 1, input: 2 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let kernels = parts(operands.outputs[0].volume(), profile).into_iter().map(|part| {
            let kernel = part.kernel(operands, SOURCE, "sgd").constant("NESTEROV", self.nesterov);
            let kernel = part.bind(kernel, "parameters", Slot::Output(0));
            let kernel = part.bind(kernel, "gradients", Slot::Input(1));
            let kernel = part.bind(kernel, "momentum", Slot::Output(1));
            bind_guard(part.bind_multipliers(kernel, Slot::Input(3)), operands, 4)
        });
        vec![Implementation::new("linear", kernels.collect())]
    }
}
