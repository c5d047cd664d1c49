//! CPU reference of `ops/clip_norm.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::ClipNorm;

impl<T: Real> Reference<T> for ClipNorm {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step) {
        let squares: T = inputs[0].data.iter().map(|g| *g * *g).sum();
        // A non-finite norm cannot scale gradients.
        let scale = inputs.get(1).map_or(T::of(f64::from(step.loss_scale)), |guard| guard.data[1]);
        let norm = squares.sqrt() / scale;
        let most = T::of(f64::from(self.max_norm));
        if norm > most && norm.to_f64().is_finite() {
            for g in &mut outputs[0].data {
                *g *= most / norm;
            }
        }
        outputs[1].data[0] = norm;
    }
}
