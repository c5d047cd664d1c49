//! Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): a factor on the loss keeps f16
//! gradients in range, and updates whose gradients overflowed are skipped. It runs entirely on the
//! device, without waiting for a read-back.

use super::flat::{parts, same_length};
use super::parameters;
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/loss_scale.wgsl");

/// Workgroups that search for overflows.
const CHECKERS: usize = 512;

/// Searches the gradients for infinities and NaN. If there are any, the scale is halved for the
/// next update and this update is skipped; after `interval` updates without any, the scale is
/// doubled. Inputs: gradients (flat region [n]), and as scalars [1] the scale, the number of
/// updates since it changed, and the number of those skipped; outputs: the three scalars in place,
/// the guard [3] that optimizers read, and for the host the scale of these gradients [1] and the
/// total number of skipped updates [1]. The guard is: 1 to apply the update or 0 to skip it, the
/// scale of the gradients, the number of updates skipped before.
#[derive(Clone, Debug)]
pub struct LossScale {
    /// Updates without an overflow after which the scale is doubled.
    pub interval: u32,
}

impl LossScale {
    /// Range of the scale: from no scaling to where f32 gradients themselves would overflow.
    pub(crate) const RANGE: [f32; 2] = [1.0, 16_777_216.0];
}

impl Operation for LossScale {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [gradients, scalars @ ..] = inputs else { return Err("expected gradients and scalars".into()) };
        same_length::<1>(&[gradients])?;
        parameters(scalars)?;
        if scalars.len() != 3 || scalars.iter().any(|s| s.dims() != [1]) || self.interval == 0 {
            return Err("expected three scalars and a positive interval".into());
        }
        let scalar = || Spec::f32([1]);
        Ok(vec![scalar(), scalar(), scalar(), Spec::f32([3]), scalar(), scalar()])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        (0..3).map(|i| Alias::InPlace { output: i, input: i + 1 }).collect()
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let parts = parts(operands.inputs[0].volume(), profile);
        let flags = CHECKERS * parts.len();
        let mut kernels = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let kernel = part
                .kernel(operands, SOURCE, "overflows")
                .constant("CHECKERS", CHECKERS as u32)
                .geometry("first", i * CHECKERS)
                .bind_range("gradients", Slot::Input(0), "vec4<u32>", part.bytes())
                .bind_as("flags", Slot::Scratch(0), "u32")
                .groups(CHECKERS, 1, 1);
            kernels.push(kernel);
        }
        let verdict = Kernel::new(operands, SOURCE, "verdict")
            .constant("SMALLEST", Self::RANGE[0])
            .constant("LARGEST", Self::RANGE[1])
            .geometry("flag_count", flags)
            .geometry("interval", self.interval)
            .bind_as("flags", Slot::Scratch(0), "u32")
            .bind("scale", Slot::Output(0))
            .bind("good", Slot::Output(1))
            .bind("skipped", Slot::Output(2))
            .bind("guard", Slot::Output(3))
            .bind("used_scale", Slot::Output(4))
            .bind("skipped_count", Slot::Output(5));
        kernels.push(verdict);
        vec![Implementation::new("tree", kernels).scratch(flags).workgroup_memory(4 * 64)]
    }
}
