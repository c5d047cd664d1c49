//! CPU reference of `ops/add.rs`.

use super::{Array, Real, Reference};
use crate::graph::Add;
use crate::kernel::Step;

impl<T: Real> Reference<T> for Add {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        for ((y, a), b) in outputs[0].data.iter_mut().zip(&inputs[0].data).zip(&inputs[1].data) {
            *y = *a + *b;
        }
    }
}
