//! CPU reference of `ops/average.rs`.

use super::loss_scale::guarded;
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::Average;

impl<T: Real> Reference<T> for Average {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let Some((_, skipped)) = guarded::<T>(inputs.get(2), step) else { return };
        let t = f64::from(step.update) - skipped.to_f64();
        let share = match self.decay {
            None => 1.0 / (t + 1.0),
            Some(decay) => 1.0 - f64::from(decay).min((1.0 + t) / (10.0 + t)),
        };
        for ((out, average), w) in outputs[0].data.iter_mut().zip(&inputs[0].data).zip(&inputs[1].data) {
            *out = *average + T::of(share) * (*w - *average);
        }
    }
}
