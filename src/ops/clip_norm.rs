//! Clipping of gradients by their global norm (Pascanu et al. 2013).

use super::flat::{bind_guard, guarded, parts, same_length};
use crate::graph::{Alias, Operation};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/clip_norm.wgsl");

/// Invocations that sum squares.
const SUMMERS: usize = 4096;

/// Scales gradients down such that their L2 norm is at most `max_norm`. Inputs: gradients (flat
/// region [n]), and maybe the guard of a [`LossScale`](super::LossScale); outputs: gradients in
/// place, and the norm before clipping [1], both without the loss scale in the norm.
#[derive(Clone, Debug)]
pub struct ClipNorm {
    /// The maximum norm. With infinity nothing is clipped and the norm is only reported.
    pub max_norm: f32,
}

impl Operation for ClipNorm {
    fn name(&self) -> &'static str {
        "clip_norm"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        Ok(vec![same_length::<1>(guarded(inputs, 1)?.0)?, Spec::f32([1])])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let parts = parts(operands.outputs[0].volume(), profile);
        let sums = SUMMERS * parts.len();
        let mut kernels = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let kernel = part
                .kernel(operands, SOURCE, "squares")
                .constant("SUMMERS", SUMMERS as u32)
                .geometry("first", i * SUMMERS)
                .bind("partial", Slot::Scratch(0))
                .groups(SUMMERS / 64, 1, 1);
            kernels.push(part.bind(kernel, "gradients", Slot::Output(0)));
        }
        let total = Kernel::new(operands, SOURCE, "total")
            .geometry("sums", sums)
            .bind("partial", Slot::Scratch(0))
            .bind("norm", Slot::Output(1));
        kernels.push(bind_guard(total, operands, 1));
        let clips = self.max_norm.is_finite();
        for part in parts.iter().filter(|_| clips) {
            let kernel = part
                .kernel(operands, SOURCE, "scale")
                .geometry("max_norm", self.max_norm)
                .bind("norm", Slot::Output(1));
            kernels.push(part.bind(kernel, "gradients", Slot::Output(0)));
        }
        vec![Implementation::new("tree", kernels).scratch(sums).workgroup_memory(4 * 64)]
    }
}
