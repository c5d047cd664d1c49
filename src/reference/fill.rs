//! CPU reference of `ops/fill.rs`.

use super::{Array, Real, Reference};
use crate::graph::Fill;
use crate::kernel::Step;

impl<T: Real> Reference<T> for Fill {
    fn run(&self, _inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let scale = if self.scaled { step.loss_scale } else { 1.0 };
        outputs[0].data.fill(T::of(f64::from(self.value) * f64::from(scale)));
    }
}
