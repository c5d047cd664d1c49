//! CPU reference of `ops/concat.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Concat, Slice};

/// Elements per batch item.
fn item<T>(x: &Array<T>) -> usize {
    x.dims[1..].iter().product()
}

impl<T: Real> Reference<T> for Concat {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let whole = item(&outputs[0]);
        let mut start = 0;
        for x in inputs {
            for (from, to) in x.data.chunks(item(x)).zip(outputs[0].data.chunks_mut(whole)) {
                to[start..start + from.len()].copy_from_slice(from);
            }
            start += item(x);
        }
    }
}

impl<T: Real> Reference<T> for Slice {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (whole, part) = (item(inputs[0]), item(&outputs[0]));
        let start = self.channel * inputs[0].dims[2] * inputs[0].dims[3];
        for (from, to) in inputs[0].data.chunks(whole).zip(outputs[0].data.chunks_mut(part)) {
            to.copy_from_slice(&from[start..start + part]);
        }
    }
}
