//! CPU reference of `ops/softmax_cross_entropy.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad};

/// Log-softmax of a row.
fn log_softmax<T: Real>(row: &[T]) -> Vec<T> {
    let largest = row.iter().copied().fold(row[0], Real::larger);
    let sum: T = row.iter().map(|x| (*x - largest).exp()).sum();
    row.iter().map(|x| *x - largest - sum.ln()).collect()
}

/// Labels with optional second labels, shares of the first labels, and class weights.
struct Targets<'a, T> {
    labels: &'a Array<T>,
    mixed: Option<(&'a Array<T>, &'a Array<T>)>,
    weights: Option<&'a Array<T>>,
    smoothing: T,
    classes: usize,
}

impl<'a, T: Real> Targets<'a, T> {
    fn new(labels: &'a Array<T>, optional: &[&'a Array<T>], smoothing: f32, classes: usize) -> Self {
        let (mixed, weights) = match *optional {
            [] => (None, None),
            [weights] => (None, Some(weights)),
            [second, share] => (Some((second, share)), None),
            [second, share, weights, ..] => (Some((second, share)), Some(weights)),
        };
        Self { labels, mixed, weights, smoothing: T::of(f64::from(smoothing)), classes }
    }

    /// The labels of a row with their shares; `None` for a row to ignore.
    fn of(&self, row: usize) -> Option<Vec<(usize, T)>> {
        let label = self.labels.data[row].to_index();
        if label >= self.classes {
            return None;
        }
        Some(match self.mixed {
            None => vec![(label, T::one())],
            Some((second, share)) => {
                let share = share.data[row];
                vec![(label, share), (second.data[row].to_index(), T::one() - share)]
            }
        })
    }

    fn weight(&self, class: usize) -> T {
        self.weights.map_or(T::one(), |w| w.data[class])
    }

    /// Target probability of class c times its class weight.
    fn target(&self, labels: &[(usize, T)], c: usize) -> T {
        let own: T = labels.iter().filter(|(label, _)| *label == c).map(|(_, share)| *share).sum();
        let even = self.smoothing / T::of(self.classes as f64);
        self.weight(c) * ((T::one() - self.smoothing) * own + even)
    }

    /// Weight of a row.
    fn row_weight(&self, labels: &[(usize, T)]) -> T {
        labels.iter().map(|(label, share)| *share * self.weight(*label)).sum()
    }
}

/// Divisor of a mean, at least one.
fn divisor<T: Real>(count: T) -> T {
    if count > T::zero() { count } else { T::one() }
}

impl<T: Real> Reference<T> for SoftmaxCrossEntropy {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let x = inputs[0];
        let classes = x.dims[1];
        let targets = Targets::new(inputs[1], &inputs[2..], self.smoothing, classes);
        let (mut loss, mut correct, mut count) = (T::zero(), T::zero(), T::zero());
        for (n, row) in x.data.chunks(classes).enumerate() {
            let logs = log_softmax(row);
            for (y, log) in outputs[1].data[n * classes..].iter_mut().zip(&logs) {
                *y = log.exp();
            }
            let Some(labels) = targets.of(n) else { continue };
            count += targets.row_weight(&labels);
            for (c, log) in logs.iter().enumerate() {
                loss += -(targets.target(&labels, c) * *log);
            }
            for (label, share) in labels {
                let behind = |(c, x): (usize, &T)| *x < row[label] || (*x == row[label] && c >= label);
                if row.iter().enumerate().all(behind) {
                    correct += share;
                }
            }
        }
        outputs[0].data[0] = loss / divisor(count);
        outputs[2].data[0] = correct;
    }
}

impl<T: Real> Reference<T> for SoftmaxCrossEntropyGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (probabilities, dloss) = (inputs[0], inputs[2].data[0]);
        let classes = probabilities.dims[1];
        let targets = Targets::new(inputs[1], &inputs[3..], self.smoothing, classes);
        let rows = probabilities.dims[0];
        let count: T = (0..rows).filter_map(|n| targets.of(n)).map(|l| targets.row_weight(&l)).sum();
        for n in 0..rows {
            let Some(labels) = targets.of(n) else { continue };
            let all: T = (0..classes).map(|c| targets.target(&labels, c)).sum();
            for c in 0..classes {
                let slope = all * probabilities.data[n * classes + c] - targets.target(&labels, c);
                outputs[0].data[n * classes + c] = dloss / divisor(count) * slope;
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
