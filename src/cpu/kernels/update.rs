//! Operations on whole regions of parameters: updates of optimizers, sums and averages.

use super::super::operands::{Call, Input, Output};
use super::super::parallel::{GRAIN, each};
use super::super::simd::{total, wide};
use super::Kernel;
use crate::kernel::{BLOCK, Step};
use crate::ops::{Accumulate, AdamW, Average, ClipNorm, Sgd};

/// What an optimizer's guard says.
enum Guard {
    /// The gradients overflowed: nothing changes.
    Skip,
    /// The gradients' loss scale, and updates skipped before.
    Apply { scale: f32, skipped: f32 },
}

/// The guard that may be input `i`.
fn guard(call: &Call<'_>, i: usize) -> Option<Guard> {
    if call.inputs.len() <= i {
        return Some(Guard::Apply { scale: call.step.loss_scale, skipped: 0.0 });
    }
    match *call.input(i)?.dense()? {
        [apply, scale, skipped] if apply > 0.0 => Some(Guard::Apply { scale, skipped }),
        _ => Some(Guard::Skip),
    }
}

/// Elements of a region; `None` if inputs or outputs have other lengths or are not dense.
fn region(inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> Option<usize> {
    let length = outputs.first_mut()?.dense()?.len();
    let fits = inputs.iter().all(|x| x.dense().is_some_and(|x| x.len() == length))
        && outputs.iter_mut().all(|y| y.dense().is_some_and(|y| y.len() == length));
    fits.then_some(length)
}

/// Factors on learning rate and weight decay for each block of a region of `length` elements.
fn multipliers(input: Input<'_>, length: usize) -> Option<&[[f32; 2]]> {
    let (pairs, rest) = input.dense()?.as_chunks::<2>();
    (rest.is_empty() && pairs.len() == length.div_ceil(BLOCK)).then_some(pairs)
}

/// Updates a region with another of the same length, in chunks.
fn with(target: &mut [f32], other: &[f32], part: impl Fn(&mut [f32], &[f32]) + Sync + Send) {
    let length = target.len();
    each(target.chunks_mut(GRAIN).zip(other.chunks(GRAIN)).collect(), length, |(x, y)| part(x, y));
}

impl Kernel for Accumulate {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let gradients = call.input(1)?;
        region(&[gradients], &mut call.outputs)?;
        let window = call.step.window;
        let (divisor, completion) = (window.divisor, window.completion);
        with(call.outputs.first_mut()?.dense()?, gradients.dense()?, |sums, gradients| {
            for (sum, g) in sums.iter_mut().zip(gradients) {
                // The sum may hold anything before its first micro-batch.
                let before = if window.starts { 0.0 } else { *sum };
                *sum = (before + *g / divisor) * completion;
            }
        });
        Some(())
    }
}

impl Kernel for Average {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let parameters = call.input(1)?;
        region(&[parameters], &mut call.outputs)?;
        let Guard::Apply { skipped, .. } = guard(call, 2)? else { return Some(()) };
        let t = f64::from(call.step.update) - f64::from(skipped);
        let share = match self.decay {
            None => 1.0 / (t + 1.0),
            Some(decay) => 1.0 - f64::from(decay).min((1.0 + t) / (10.0 + t)),
        } as f32;
        with(call.outputs.first_mut()?.dense()?, parameters.dense()?, |averages, parameters| {
            for (average, w) in averages.iter_mut().zip(parameters) {
                *average += share * (*w - *average);
            }
        });
        Some(())
    }
}

impl Kernel for ClipNorm {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let scale = match call.inputs.len() {
            0 | 1 => call.step.loss_scale,
            _ => *call.input(1)?.dense()?.get(1)?,
        };
        let [gradients, norm] = &mut call.outputs[..] else { return None };
        let (gradients, norm) = (gradients.dense()?, norm.dense()?.first_mut()?);
        let mut sums = vec![0.0; gradients.len().div_ceil(GRAIN)];
        let tasks = sums.iter_mut().zip(gradients.chunks(GRAIN)).collect();
        each(tasks, gradients.len(), |(sum, chunk)| {
            *sum = wide(
                #[inline(always)]
                || total(chunk, |g| g * g),
            );
        });
        *norm = (sums.iter().sum::<f64>().sqrt() / f64::from(scale)) as f32;
        // A non-finite norm cannot scale gradients.
        if *norm > self.max_norm && norm.is_finite() {
            let factor = self.max_norm / *norm;
            let length = gradients.len();
            each(gradients.chunks_mut(GRAIN).collect(), length, |chunk| {
                chunk.iter_mut().for_each(|g| *g *= factor);
            });
        }
        Some(())
    }
}

/// Chunks of a region and the multipliers of their blocks.
type Chunk<'a> = (&'a mut [f32], &'a mut [f32], &'a [f32], &'a [[f32; 2]]);

impl Sgd {
    #[inline(always)]
    fn chunk(&self, step: &Step, scale: f32, (parameters, momentum, gradients, multipliers): Chunk<'_>) {
        let blocks = parameters.chunks_mut(BLOCK).zip(momentum.chunks_mut(BLOCK));
        let blocks = blocks.zip(gradients.chunks(BLOCK)).zip(multipliers);
        for (((parameters, momentum), gradients), [rate, decay]) in blocks {
            let (rate, decay) = (step.lr * rate, step.weight_decay * decay);
            for ((w, v), g) in parameters.iter_mut().zip(momentum).zip(gradients) {
                let g = *g / scale + decay * *w;
                *v = step.momentum * *v + g;
                let ahead = if self.nesterov { g + step.momentum * *v } else { *v };
                *w -= rate * ahead;
            }
        }
    }
}

impl Kernel for Sgd {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let gradients = call.input(1)?;
        let length = region(&[gradients], &mut call.outputs)?;
        let multipliers = multipliers(call.input(3)?, length)?;
        let Guard::Apply { scale, .. } = guard(call, 4)? else { return Some(()) };
        let step = call.step;
        let [parameters, momentum] = &mut call.outputs[..] else { return None };
        let tasks = parameters.dense()?.chunks_mut(GRAIN).zip(momentum.dense()?.chunks_mut(GRAIN));
        let tasks = tasks.zip(gradients.dense()?.chunks(GRAIN)).zip(multipliers.chunks(GRAIN / BLOCK));
        let tasks = tasks.map(|(((w, v), g), multipliers)| (w, v, g, multipliers)).collect();
        each(tasks, 3 * length, |chunk| {
            wide(
                #[inline(always)]
                || self.chunk(step, scale, chunk),
            );
        });
        Some(())
    }
}

/// Values of an update of [`AdamW`].
struct Adam {
    lr: f32,
    weight_decay: f32,
    scale: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// Corrections for means that started at zero.
    mean: f32,
    square: f32,
}

/// Chunks of parameters, mean, mean of squares, gradients, and the multipliers of their blocks.
type AdamChunk<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [f32], &'a [f32], &'a [[f32; 2]]);

impl Adam {
    #[inline(always)]
    fn chunk(&self, (parameters, means, squares, gradients, multipliers): AdamChunk<'_>) {
        let blocks = parameters.chunks_mut(BLOCK).zip(means.chunks_mut(BLOCK));
        let blocks = blocks.zip(squares.chunks_mut(BLOCK)).zip(gradients.chunks(BLOCK)).zip(multipliers);
        for ((((parameters, means), squares), gradients), [rate, decay]) in blocks {
            let (rate, decay) = (self.lr * rate, self.weight_decay * decay);
            let kept = 1.0 - rate * decay;
            let values = parameters.iter_mut().zip(means).zip(squares).zip(gradients);
            for (((w, m), v), g) in values {
                let g = *g / self.scale;
                *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
                let denominator = (*v / self.square).sqrt() + self.epsilon;
                *w = *w * kept - rate * (*m / self.mean) / denominator;
            }
        }
    }
}

impl Kernel for AdamW {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let gradients = call.input(1)?;
        let length = region(&[gradients], &mut call.outputs)?;
        let multipliers = multipliers(call.input(4)?, length)?;
        let Guard::Apply { scale, skipped } = guard(call, 5)? else { return Some(()) };
        let step = call.step;
        let t = f64::from(step.update) + 1.0 - f64::from(skipped);
        // Differences from 1 lose digits in f32.
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(t)) as f32;
        let adam = Adam {
            lr: step.lr,
            weight_decay: step.weight_decay,
            scale,
            beta1: step.momentum,
            beta2: self.beta2,
            epsilon: self.epsilon,
            mean: correction(step.momentum),
            square: correction(self.beta2),
        };
        let [parameters, means, squares] = &mut call.outputs[..] else { return None };
        let tasks = parameters.dense()?.chunks_mut(GRAIN).zip(means.dense()?.chunks_mut(GRAIN));
        let tasks = tasks.zip(squares.dense()?.chunks_mut(GRAIN)).zip(gradients.dense()?.chunks(GRAIN));
        let tasks = tasks.zip(multipliers.chunks(GRAIN / BLOCK));
        let tasks = tasks.map(|((((w, m), v), g), multipliers)| (w, m, v, g, multipliers)).collect();
        each(tasks, 4 * length, |chunk| {
            wide(
                #[inline(always)]
                || adam.chunk(chunk),
            );
        });
        Some(())
    }
}
