//! CPU twin of `ops/lars.rs`.

use super::loss_scale::guarded;
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::Lars;
use crate::plan::BLOCK;

impl<T: Real> Reference<T> for Lars {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let Some((scale, _)) = guarded(inputs.get(4), step) else { return };
        let (gradients, parameters, multipliers) = (inputs[0], inputs[1], inputs[2]);
        let of = |value: f32| T::of(f64::from(value));
        for segment in inputs[3].data.chunks(2) {
            let (first, blocks) = (segment[0].to_index(), segment[1].to_index());
            let elements = first * BLOCK..(first + blocks) * BLOCK;
            let norm = |x: &Array<T>| x.data[elements.clone()].iter().map(|v| *v * *v).sum::<T>().sqrt();
            let (weight, gradient) = (norm(parameters), norm(gradients) / scale);
            let multiplier = multipliers.data[2 * first + 1];
            let decay = of(step.decay) * multiplier;
            let adapted = multiplier > T::zero() && weight > T::zero() && gradient > T::zero();
            let ratio =
                if adapted { of(self.trust) * weight / (gradient + decay * weight) } else { T::one() };
            for i in elements {
                outputs[0].data[i] = ratio * (gradients.data[i] + scale * decay * parameters.data[i]);
            }
        }
    }
}
