//! CPU reference of `ops/dropout.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::Dropout;

/// One round of the PCG hash, as in the shader.
fn mix(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

impl<T: Real> Reference<T> for Dropout {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let layer = mix(step.step ^ mix(self.salt ^ mix(step.seed_high ^ mix(step.seed))));
        let scale = T::one() / (T::one() - T::of(f64::from(self.probability)));
        for (i, (y, x)) in outputs[0].data.iter_mut().zip(&inputs[0].data).enumerate() {
            // Element indices are 32 bits, as on the device.
            let draw = mix(i as u32 ^ layer);
            *y = if draw < self.threshold() { T::zero() } else { *x * scale };
        }
    }
}
