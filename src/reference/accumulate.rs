//! CPU twin of `ops/accumulate.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::Accumulate;

impl<T: Real> Reference<T> for Accumulate {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let first = step.step.is_multiple_of(self.count);
        let count = T::of(f64::from(self.count));
        for ((out, sum), g) in outputs[0].data.iter_mut().zip(&inputs[0].data).zip(&inputs[1].data) {
            *out = if first { *g / count } else { *sum + *g / count };
        }
    }
}
