//! CPU reference of `ops/adamw.rs`.

use super::loss_scale::guarded;
use super::{Array, Real, Reference};
use crate::kernel::BLOCK;
use crate::kernel::Step;
use crate::ops::AdamW;

impl<T: Real> Reference<T> for AdamW {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let Some((scale, skipped)) = guarded(inputs.get(5), step) else { return };
        let of = |value: f32| T::of(f64::from(value));
        let (beta1, beta2) = (of(step.momentum), of(self.beta2));
        let t = T::of(f64::from(step.update) + 1.0) - skipped;
        let correction = |beta: T| T::one() - beta.powf(t);
        for i in 0..inputs[0].data.len() {
            let rate = of(step.lr) * inputs[4].data[i / BLOCK * 2];
            let decay = of(step.weight_decay) * inputs[4].data[i / BLOCK * 2 + 1];
            let g = inputs[1].data[i] / scale;
            let m = beta1 * inputs[2].data[i] + (T::one() - beta1) * g;
            let v = beta2 * inputs[3].data[i] + (T::one() - beta2) * g * g;
            let w = inputs[0].data[i] * (T::one() - rate * decay);
            let denominator = (v / correction(beta2)).sqrt() + of(self.epsilon);
            outputs[0].data[i] = w - rate * (m / correction(beta1)) / denominator;
            outputs[1].data[i] = m;
            outputs[2].data[i] = v;
        }
    }
}
