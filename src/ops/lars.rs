//! Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, "Large Batch Training of
//! Convolutional Networks").

use super::flat::{bind_guard, guarded, multipliers_fit, parts, same_length};
use super::parameters;
use crate::graph::{Alias, Operation};
use crate::kernel::BLOCK;
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../shaders/lars.wgsl");

/// v = momentum v + lr ratio (g + decay w); w = w - v, where the ratio of each tensor is
/// trust_coefficient |w| / (|g| + decay |w|). The learning rate is applied before the momentum, as
/// in the paper's algorithm 1, unlike in [`Sgd`](super::Sgd), torch and Caffe. Tensors without
/// weight decay (biases, batch norm) and those with a norm of zero have a ratio of 1.
///
/// Inputs: parameters, gradients, momentum (flat regions [n]), multipliers [n / 64 x 2] as for
/// [`Sgd`](super::Sgd), segments [tensors x 2]: index of the first block of 64 elements and number
/// of blocks of each tensor, below 2^24, and optionally the guard of a
/// [`LossScale`](super::LossScale). Outputs: parameters and momentum, in place. Learning rate,
/// momentum and weight decay are values of the step.
#[derive(Clone, Debug)]
pub struct Lars {
    /// The trust coefficient: norm of an update at learning rate 1, relative to the tensor's norm;
    /// 0.001 in the paper.
    pub trust_coefficient: f32,
}

impl Operation for Lars {
    fn name(&self) -> &'static str {
        "lars"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let (own, _) = guarded(inputs, 5)?;
        let [regions @ .., multipliers, segments] = own else {
            return Err("expected regions, multipliers and segments".into());
        };
        let region = same_length::<3>(regions)?;
        multipliers_fit(&region, multipliers)?;
        parameters(&[*segments])?;
        if segments.shape.rank() != 1
            || segments.shape.volume() == 0
            || !segments.shape.volume().is_multiple_of(2)
        {
            return Err(format!("expected two segments for each tensor, got {segments}"));
        }
        Ok(vec![region.clone(), region])
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }, Alias::InPlace { output: 1, input: 2 }]
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let length = operands.outputs[0].volume();
        let (blocks, tensors) = (length / BLOCK, operands.inputs[4].volume() / 2);
        let parts = parts(length, profile);
        let mut kernels = Vec::new();
        for part in &parts {
            let kernel = Kernel::new(operands, SOURCE, "squares")
                .geometries([("count", part.blocks()), ("first", part.first_block())])
                .bind("partial", Slot::Scratch(0))
                .linear(part.blocks());
            let kernel = part.bind(kernel, "parameters", Slot::Output(0));
            kernels.push(part.bind(kernel, "gradients", Slot::Input(1)));
        }
        let ratios = Kernel::new(operands, SOURCE, "ratios")
            .geometries([("tensors", tensors), ("blocks", blocks)])
            .geometry("trust_coefficient", self.trust_coefficient)
            .bind("partial", Slot::Scratch(0))
            .bind("ratio_of", Slot::Scratch(1))
            .bind("multipliers", Slot::Input(3))
            .bind("segments", Slot::Input(4))
            .linear_groups(tensors);
        kernels.push(bind_guard(ratios, operands, 5));
        for part in &parts {
            let kernel = part
                .kernel(operands, SOURCE, "lars")
                .geometry("first", part.first_block())
                .bind("ratio_of", Slot::Scratch(1))
                .bind("multipliers", Slot::Input(3));
            let kernel = part.bind(kernel, "parameters", Slot::Output(0));
            let kernel = part.bind(kernel, "gradients", Slot::Input(1));
            let kernel = part.bind(kernel, "momentum", Slot::Output(1));
            kernels.push(bind_guard(kernel, operands, 5));
        }
        vec![
            Implementation::new("tree", kernels).scratch(2 * blocks).scratch(blocks).workgroup_memory(8 * 64),
        ]
    }
}
