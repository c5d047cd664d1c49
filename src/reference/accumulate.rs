//! CPU reference of `ops/accumulate.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::Accumulate;

impl<T: Real> Reference<T> for Accumulate {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let [divisor, completion] =
            [step.window.divisor, step.window.completion].map(|v| T::of(f64::from(v)));
        for ((out, sum), g) in outputs[0].data.iter_mut().zip(&inputs[0].data).zip(&inputs[1].data) {
            let before = if step.window.starts { T::zero() } else { *sum };
            *out = (before + *g / divisor) * completion;
        }
    }
}
