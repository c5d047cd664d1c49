//! CPU twin of `ops/softmax_cross_entropy.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad};

/// The logarithms of the softmax of a row.
fn log_softmax<T: Real>(row: &[T]) -> Vec<T> {
    let largest = row.iter().copied().fold(row[0], Real::larger);
    let sum: T = row.iter().map(|x| (*x - largest).exp()).sum();
    row.iter().map(|x| *x - largest - sum.ln()).collect()
}

/// The share of class c in the target.
fn target<T: Real>(smoothing: f32, classes: usize, is_label: bool) -> T {
    let smoothing = T::of(f64::from(smoothing));
    let even = smoothing / T::of(classes as f64);
    if is_label { T::one() - smoothing + even } else { even }
}

impl<T: Real> Reference<T> for SoftmaxCrossEntropy {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, labels) = (inputs[0], inputs[1]);
        let classes = x.dims[1];
        let (mut loss, mut correct, mut count) = (T::zero(), T::zero(), T::zero());
        for (n, row) in x.data.chunks(classes).enumerate() {
            let logs = log_softmax(row);
            for (y, log) in outputs[1].data[n * classes..].iter_mut().zip(&logs) {
                *y = log.exp();
            }
            let label = labels.data[n].to_index();
            if label >= classes {
                continue;
            }
            count += T::one();
            for (c, log) in logs.iter().enumerate() {
                loss += -(target::<T>(self.smoothing, classes, c == label) * *log);
            }
            let before = |(c, x): (usize, &T)| *x > row[label] || (*x == row[label] && c < label);
            if !row.iter().enumerate().any(before) {
                correct += T::one();
            }
        }
        outputs[0].data[0] = loss / count.larger(T::one());
        outputs[2].data[0] = correct;
    }
}

impl<T: Real> Reference<T> for SoftmaxCrossEntropyGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (probabilities, labels, dloss) = (inputs[0], inputs[1], inputs[2].data[0]);
        let classes = probabilities.dims[1];
        let counts = |label: &&T| label.to_index() < classes;
        let count = T::of(labels.data.iter().filter(counts).count().max(1) as f64);
        for (i, dx) in outputs[0].data.iter_mut().enumerate() {
            let (label, c) = (labels.data[i / classes].to_index(), i % classes);
            if label < classes {
                *dx = dloss / count * (probabilities.data[i] - target(self.smoothing, classes, c == label));
            }
        }
    }
}

impl<T: Real> Reference<T> for Softmax {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let classes = inputs[0].dims[1];
        for (row, out) in inputs[0].data.chunks(classes).zip(outputs[0].data.chunks_mut(classes)) {
            for (y, log) in out.iter_mut().zip(log_softmax(row)) {
                *y = log.exp();
            }
        }
    }
}
