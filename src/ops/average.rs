//! Averaging of the parameters over updates: uniform (Polyak) or exponential (EMA).

use super::flat::{bind_guard, guarded, parts, same_length};
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/average.wgsl");

/// Inputs: average, parameters (flat regions [n]), and optionally the guard of a
/// [`LossScale`](super::LossScale); output: the average, in place.
#[derive(Clone, Debug)]
pub struct Average {
    /// `None` for the uniform mean of all iterates; else the decay of the exponential mean, limited
    /// to (1 + t) / (10 + t) so that the first iterates lose their weight quickly.
    pub decay: Option<f32>,
}

impl Operation for Average {
    fn name(&self) -> &'static str {
        "average"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![same_length::<2>(guarded(inputs, 2)?.0)?])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let kernels = parts(operands.outputs[0].volume(), profile).into_iter().map(|part| {
            let kernel = part
                .kernel(operands, SOURCE, "average")
                .constant("POLYAK", self.decay.is_none())
                .geometry("decay", self.decay.unwrap_or(0.0));
            let kernel = part.bind(kernel, "averages", Slot::Output(0));
            bind_guard(part.bind(kernel, "parameters", Slot::Input(1)), operands, 2)
        });
        vec![Implementation::new("linear", kernels.collect())]
    }
}
