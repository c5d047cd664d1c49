//! CPU reference of `ops/sgd.rs`.

use super::loss_scale::guarded;
use super::{Array, Real, Reference};
use crate::kernel::BLOCK;
use crate::kernel::Step;
use crate::ops::Sgd;

impl<T: Real> Reference<T> for Sgd {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let Some((scale, _)) = guarded(inputs.get(4), step) else { return };
        let of = |value: f32| T::of(f64::from(value));
        for i in 0..inputs[0].data.len() {
            let (rate, decay) = (inputs[3].data[i / BLOCK * 2], inputs[3].data[i / BLOCK * 2 + 1]);
            let w = inputs[0].data[i];
            let g = inputs[1].data[i] / scale + of(step.weight_decay) * decay * w;
            let v = of(step.momentum) * inputs[2].data[i] + g;
            let ahead = if self.nesterov { g + of(step.momentum) * v } else { v };
            outputs[0].data[i] = w - of(step.lr) * rate * ahead;
            outputs[1].data[i] = v;
        }
    }
}
