//! Softmax and cross-entropy: a task per row.

use super::super::operands::{Call, Input};
use super::super::parallel::each;
use super::Kernel;
use crate::ops::{Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad};

/// Writes the exponentials of a row relative to its largest element, and returns that element and
/// the sum of the exponentials.
fn exponentials(row: &[f32], to: &mut [f32]) -> (f32, f32) {
    let mut largest = row.first().copied().unwrap_or(0.0);
    for x in row {
        largest = if *x > largest { *x } else { largest };
    }
    for (y, x) in to.iter_mut().zip(row) {
        *y = (*x - largest).exp();
    }
    (largest, to.iter().map(|y| f64::from(*y)).sum::<f64>() as f32)
}

/// Softmax of a row; returns what to subtract from logits to get logarithms.
fn softmax(row: &[f32], to: &mut [f32]) -> [f32; 2] {
    let (largest, sum) = exponentials(row, to);
    to.iter_mut().for_each(|y| *y /= sum);
    [largest, sum.ln()]
}

/// The dimensions of a tensor of rows; `None` if it has no elements.
fn rows(dims: &[usize]) -> Option<[usize; 2]> {
    let dims: [usize; 2] = dims.try_into().ok()?;
    (!dims.contains(&0)).then_some(dims)
}

impl Kernel for Softmax {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (x, y) = (call.input(0)?, call.outputs.first_mut()?);
        let [batch, classes] = rows(x.dims())?;
        if y.dims() != x.dims() {
            return None;
        }
        each(y.items().into_iter().enumerate().collect(), batch * classes, |(n, y)| {
            softmax(x.item(n), y);
        });
        Some(())
    }
}

/// Labels with optional second labels, shares of the first labels, and class weights.
#[derive(Clone, Copy)]
struct Targets<'a> {
    labels: Input<'a>,
    mixed: Option<[Input<'a>; 2]>,
    weights: Option<&'a [f32]>,
    smoothing: f32,
    classes: usize,
}

impl<'a> Targets<'a> {
    /// The labels are input 1, the optional inputs start at `first`.
    fn new(call: &Call<'a>, first: usize, smoothing: f32, [batch, classes]: [usize; 2]) -> Option<Self> {
        let count = call.inputs.len().checked_sub(first)?;
        let weights = if count.is_multiple_of(2) {
            None
        } else {
            Some(call.input(first + count - 1)?.dense().filter(|w| w.len() == classes)?)
        };
        let mixed = if count < 2 { None } else { Some([call.input(first)?, call.input(first + 1)?]) };
        let labels = call.input(1)?;
        let fits = |x: &Input<'_>| x.dims() == [batch];
        let all = fits(&labels) && mixed.is_none_or(|mixed| mixed.iter().all(fits));
        all.then_some(Self { labels, mixed, weights, smoothing, classes })
    }

    /// The labels of a row with their shares; `None` for a row to ignore.
    fn of(&self, row: usize) -> Option<[(usize, f32); 2]> {
        let label = |labels: Input<'_>| labels.words(row).first().map(|label| *label as usize);
        let first = label(self.labels).filter(|label| *label < self.classes)?;
        let Some([second, share]) = self.mixed else { return Some([(first, 1.0), (first, 0.0)]) };
        let share = share.item(row).first().copied()?;
        Some([(first, share), (label(second)?, 1.0 - share)])
    }

    fn weight(&self, class: usize) -> f32 {
        self.weights.map_or(1.0, |weights| weights.get(class).copied().unwrap_or(0.0))
    }

    /// Writes the target probability of each class times its class weight.
    fn fill(&self, labels: [(usize, f32); 2], to: &mut [f32]) {
        to.fill(0.0);
        for (label, share) in labels {
            if let Some(target) = to.get_mut(label) {
                *target += share;
            }
        }
        let even = self.smoothing / self.classes as f32;
        to.iter_mut().for_each(|target| *target = (1.0 - self.smoothing) * *target + even);
        for (target, weight) in to.iter_mut().zip(self.weights.unwrap_or_default()) {
            *target *= weight;
        }
    }

    /// Weight of a row.
    fn row_weight(&self, labels: [(usize, f32); 2]) -> f32 {
        labels.iter().map(|(label, share)| *share * self.weight(*label)).sum()
    }
}

/// Divisor of a mean, at least one.
fn divisor(count: f64) -> f64 {
    if count > 0.0 { count } else { 1.0 }
}

/// Results of a row.
#[derive(Clone, Copy, Default)]
struct Score {
    loss: f64,
    correct: f64,
    weight: f64,
}

impl Score {
    fn of(targets: &Targets<'_>, n: usize, row: &[f32], [largest, log_sum]: [f32; 2]) -> Self {
        let Some(labels) = targets.of(n) else { return Self::default() };
        let mut target = vec![0.0; row.len()];
        targets.fill(labels, &mut target);
        let terms = target.iter().zip(row).map(|(t, x)| f64::from(-(*t * (*x - largest - log_sum))));
        // Whether a label has the largest logit, the first in a tie.
        let predicted = |label: usize| {
            row.get(label).is_some_and(|value| {
                row[..label].iter().all(|x| x < value) && row[label..].iter().all(|x| x <= value)
            })
        };
        let shares = labels.iter().filter(|(label, _)| predicted(*label));
        Self {
            loss: terms.sum(),
            correct: shares.map(|(_, share)| f64::from(*share)).sum(),
            weight: f64::from(targets.row_weight(labels)),
        }
    }
}

impl Kernel for SoftmaxCrossEntropy {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let x = call.input(0)?;
        let dims = rows(x.dims())?;
        let targets = Targets::new(call, 2, self.smoothing, dims)?;
        let [loss, probabilities, correct] = &mut call.outputs[..] else { return None };
        let (loss, correct) = (loss.dense()?.first_mut()?, correct.dense()?.first_mut()?);
        if probabilities.dims() != dims {
            return None;
        }
        let mut scores = vec![Score::default(); dims[0]];
        let tasks = probabilities.items().into_iter().zip(&mut scores).enumerate().collect();
        each(tasks, dims[0] * dims[1], |(n, (probabilities, score))| {
            let shift = softmax(x.item(n), probabilities);
            *score = Score::of(&targets, n, x.item(n), shift);
        });
        let sum = |of: fn(&Score) -> f64| scores.iter().map(of).sum::<f64>();
        *loss = (sum(|s| s.loss) / divisor(sum(|s| s.weight))) as f32;
        *correct = sum(|s| s.correct) as f32;
        Some(())
    }
}

impl Kernel for SoftmaxCrossEntropyGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (probabilities, dloss) = (call.input(0)?, *call.input(2)?.dense()?.first()?);
        let dims = rows(probabilities.dims())?;
        let targets = Targets::new(call, 3, self.smoothing, dims)?;
        let dx = call.outputs.first_mut()?;
        if dx.dims() != dims {
            return None;
        }
        let weights = (0..dims[0]).filter_map(|n| targets.of(n)).map(|labels| targets.row_weight(labels));
        let factor = (f64::from(dloss) / divisor(weights.map(f64::from).sum())) as f32;
        each(dx.items().into_iter().enumerate().collect(), dims[0] * dims[1], |(n, dx)| {
            let Some(labels) = targets.of(n) else { return dx.fill(0.0) };
            targets.fill(labels, dx);
            let all = dx.iter().map(|target| f64::from(*target)).sum::<f64>() as f32;
            for (dx, p) in dx.iter_mut().zip(probabilities.item(n)) {
                *dx = factor * (all * *p - *dx);
            }
        });
        Some(())
    }
}
