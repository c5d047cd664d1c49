//! CPU reference of `ops/copy.rs`.

use super::{Array, Real, Reference};
use crate::graph::Copy;
use crate::kernel::Step;

impl<T: Real> Reference<T> for Copy {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        outputs[0].data.copy_from_slice(&inputs[0].data);
    }
}
