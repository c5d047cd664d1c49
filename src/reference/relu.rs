//! CPU twin of `ops/relu.rs`.

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
        for ((dx, dy), y) in outputs[0].data.iter_mut().zip(&inputs[1].data).zip(&inputs[0].data) {
            *dx = if *y > T::zero() { *dy } else { T::zero() };
        }
    }
}
