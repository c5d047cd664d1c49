//! Gradient accumulation over micro-batches.

use super::flat::{parts, same_length};
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/accumulate.wgsl");

/// sum = ((sum, or zero where the window starts) + gradients / divisor) completion, with the values
/// of the step's [`Window`](crate::kernel::Window): a mean over the images of all micro-batches.
/// Inputs: sum, gradients (flat regions [n]); output: the sum, in place.
#[derive(Clone, Copy, Debug)]
pub struct Accumulate;

impl Operation for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![same_length::<2>(inputs)?])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let kernels = parts(operands.outputs[0].volume(), profile).into_iter().map(|part| {
            let kernel = part.kernel(operands, SOURCE, "accumulate");
            let kernel = part.bind(kernel, "sums", Slot::Output(0));
            part.bind(kernel, "gradients", Slot::Input(1))
        });
        vec![Implementation::new("linear", kernels.collect())]
    }
}
