//! CPU reference of `ops/relu.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Relu, ReluGrad};

impl<T: Real> Reference<T> for Relu {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        for (y, x) in outputs[0].data.iter_mut().zip(&inputs[0].data) {
            *y = if *x > T::zero() { *x } else { T::zero() };
        }
    }
}

impl<T: Real> Reference<T> for ReluGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        outputs[0].data.copy_from_slice(&inputs[1].data);
        mask(&mut outputs[0], Some(inputs[0]));
    }
}

/// Sets the gradient to zero where the activation, if given, is not positive.
pub(super) fn mask<T: Real>(dx: &mut Array<T>, activation: Option<&Array<T>>) {
    for (dx, y) in dx.data.iter_mut().zip(activation.iter().flat_map(|y| &y.data)) {
        if !counts(*y) {
            *dx = T::zero();
        }
    }
}

/// Whether the gradient passes at this activation value.
pub(super) fn counts<T: Real>(y: T) -> bool {
    y > T::zero()
}
