//! Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch's `AdamW`.

use super::flat::{bind_guard, guarded, multipliers_fit, parts, same_length};
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/adamw.wgsl");

/// Inputs: parameters, gradients, mean of gradients, mean of their squares (flat regions [n]),
/// multipliers [n / 64 x 2] and optionally a guard as for [`Sgd`](super::Sgd); outputs: parameters
/// and both means, in place. The decay of the mean of gradients (beta1) is the step's momentum.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Decay of the mean of squares, in [0, 1).
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
}

impl Operation for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let (own, _) = guarded(inputs, 5)?;
        let [regions @ .., multipliers] = own else {
            return Err("expected regions and multipliers".into());
        };
        let region = same_length::<4>(regions)?;
        multipliers_fit(&region, multipliers)?;
        Ok(vec![region.clone(), region.clone(), region])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        [(0, 0), (1, 2), (2, 3)].map(|(output, input)| Alias::InPlace { output, input }).to_vec()
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let kernels = parts(operands.outputs[0].volume(), profile).into_iter().map(|part| {
            let kernel = part
                .kernel(operands, SOURCE, "adamw")
                .geometry("beta2", self.beta2)
                .geometry("log_beta2", log(self.beta2))
                .geometry("epsilon", self.epsilon);
            let kernel = part.bind(kernel, "parameters", Slot::Output(0));
            let kernel = part.bind(kernel, "gradients", Slot::Input(1));
            let kernel = part.bind(kernel, "mean", Slot::Output(1));
            let kernel = part.bind(kernel, "square", Slot::Output(2));
            bind_guard(part.bind_multipliers(kernel, Slot::Input(4)), operands, 5)
        });
        vec![Implementation::new("linear", kernels.collect())]
    }
}

/// The natural logarithm, with a finite stand-in for log 0: WGSL has no literal for infinity, and
/// the exponential of this value is 0 too.
fn log(beta: f32) -> f32 {
    f64::from(beta).ln().max(-1e30) as f32
}
