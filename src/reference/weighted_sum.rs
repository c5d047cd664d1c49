//! CPU reference of `ops/weighted_sum.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{WeightedSum, WeightedSumGrad};

impl<T: Real> Reference<T> for WeightedSum {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let terms = self.weights.iter().zip(inputs);
        outputs[0].data[0] = terms.map(|(weight, x)| T::of(f64::from(*weight)) * x.data[0]).sum();
    }
}

impl<T: Real> Reference<T> for WeightedSumGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        outputs[0].data[0] = T::of(f64::from(self.weight)) * inputs[0].data[0];
    }
}
