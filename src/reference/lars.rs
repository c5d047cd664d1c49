//! CPU reference of `ops/lars.rs`.

use super::loss_scale::guarded;
use super::{Array, Real, Reference};
use crate::kernel::BLOCK;
use crate::kernel::Step;
use crate::ops::Lars;

impl<T: Real> Reference<T> for Lars {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let Some((scale, _)) = guarded(inputs.get(5), step) else { return };
        let [parameters, gradients, momentum, multipliers, segments, ..] = *inputs else { return };
        let of = |value: f32| T::of(f64::from(value));
        for segment in segments.data.chunks(2) {
            let (first, blocks) = (segment[0].to_index(), segment[1].to_index());
            let elements = first * BLOCK..(first + blocks) * BLOCK;
            let norm = |x: &Array<T>| x.data[elements.clone()].iter().map(|v| *v * *v).sum::<T>().sqrt();
            let (weight, gradient) = (norm(parameters), norm(gradients) / scale);
            let [rate, decays] = [multipliers.data[2 * first], multipliers.data[2 * first + 1]];
            let (rate, decay) = (of(step.lr) * rate, of(step.weight_decay) * decays);
            let adapted = decays > T::zero() && weight > T::zero() && gradient > T::zero();
            let ratio = if adapted {
                of(self.trust_coefficient) * weight / (gradient + decay * weight)
            } else {
                T::one()
            };
            for i in elements {
                let w = parameters.data[i];
                let g = gradients.data[i] / scale + decay * w;
                let v = of(step.momentum) * momentum.data[i] + rate * ratio * g;
                outputs[0].data[i] = w - v;
                outputs[1].data[i] = v;
            }
        }
    }
}
