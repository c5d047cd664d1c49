//! Accumulation of gradients over micro-batches.

use super::flat::{parts, same_length};
use crate::graph::{Alias, Operation, Spec};
use crate::kernel::{Implementation, Operands, Profile, Slot};

const SOURCE: &str = include_str!("../../shaders/accumulate.wgsl");

/// sum = (sum, or zero if this is the first of `count` steps) + gradients / count. Inputs: sum, gradients (flat regions [n]); output: the sum,
/// in place.
#[derive(Clone, Debug)]
pub struct Accumulate {
    /// Micro-batches of one update.
    pub count: u32,
}

impl Operation for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        if self.count == 0 {
            return Err("the number of micro-batches must be above zero".into());
        }
        Ok(vec![same_length::<2>(inputs)?])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let kernels = parts(operands.outputs[0].volume(), profile).into_iter().map(|part| {
            let kernel = part.kernel(operands, SOURCE, "accumulate").geometry("batches", self.count);
            let kernel = part.bind(kernel, "sums", Slot::Output(0));
            part.bind(kernel, "gradients", Slot::Input(1))
        });
        vec![Implementation::new("linear", kernels.collect())]
    }
}
