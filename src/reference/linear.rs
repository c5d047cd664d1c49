//! CPU reference of `ops/linear.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad};

impl<T: Real> Reference<T> for Linear {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, w, b) = (inputs[0], inputs[1], inputs[2]);
        let (of, features) = (w.dims[0], w.dims[1]);
        for (i, y) in outputs[0].data.iter_mut().enumerate() {
            let (n, o) = (i / of, i % of);
            let row = &x.data[n * features..][..features];
            let weights = &w.data[o * features..][..features];
            *y = b.data[o] + row.iter().zip(weights).map(|(x, w)| *x * *w).sum();
            if self.relu {
                *y = y.larger(T::zero());
            }
        }
    }

    fn element(&self, inputs: &[&Array<f32>], dims: &[usize], index: usize) -> Option<T> {
        let ([x, w, b], features) = ([inputs[0], inputs[1], inputs[2]], inputs[1].dims[1]);
        let (n, o) = (index / dims[1], index % dims[1]);
        let terms = (0..features).map(|k| T::product(x.data[n * features + k], w.data[o * features + k]));
        let y = T::of(f64::from(b.data[o])) + terms.sum();
        Some(if self.relu { y.larger(T::zero()) } else { y })
    }
}

impl<T: Real> Reference<T> for LinearInputGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, w) = (inputs[0], inputs[1]);
        let (of, features) = (w.dims[0], w.dims[1]);
        for (i, dx) in outputs[0].data.iter_mut().enumerate() {
            let (n, k) = (i / features, i % features);
            *dx = (0..of).map(|o| dy.data[n * of + o] * w.data[o * features + k]).sum();
        }
    }

    fn element(&self, inputs: &[&Array<f32>], _dims: &[usize], index: usize) -> Option<T> {
        let ([dy, w], of, features) = ([inputs[0], inputs[1]], inputs[1].dims[0], inputs[1].dims[1]);
        let (n, k) = (index / features, index % features);
        Some((0..of).map(|o| T::product(dy.data[n * of + o], w.data[o * features + k])).sum())
    }
}

impl<T: Real> Reference<T> for LinearWeightGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, dy) = (inputs[0], inputs[1]);
        let (batch, of) = (dy.dims[0], dy.dims[1]);
        let features = outputs[0].dims[1];
        for (i, dw) in outputs[0].data.iter_mut().enumerate() {
            let (o, k) = (i / features, i % features);
            *dw = (0..batch).map(|n| dy.data[n * of + o] * x.data[n * features + k]).sum();
        }
    }

    fn element(&self, inputs: &[&Array<f32>], dims: &[usize], index: usize) -> Option<T> {
        let ([x, dy], batch, of, features) = ([inputs[0], inputs[1]], inputs[1].dims[0], dims[0], dims[1]);
        let (o, k) = (index / features, index % features);
        Some((0..batch).map(|n| T::product(dy.data[n * of + o], x.data[n * features + k])).sum())
    }
}

impl<T: Real> Reference<T> for LinearBiasGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let of = inputs[0].dims[1];
        for (i, dy) in inputs[0].data.iter().enumerate() {
            outputs[0].data[i % of] += *dy;
        }
    }
}
