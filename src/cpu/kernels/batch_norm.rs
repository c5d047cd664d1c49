//! Batch normalization: sums of planes, then of channels, then a pass over all elements.

use super::super::operands::{Call, Input, Output};
use super::super::parallel::each;
use super::super::simd::{total, totals, wide};
use super::Kernel;
use super::cut::{Planes, group, nchw, planes};
use crate::ops::{BatchNorm, BatchNormGrad};

/// The dimensions of activations of one shape, as (items, channels, elements of a plane).
fn shape(dims: &[usize], others: &[&[usize]]) -> Option<[usize; 3]> {
    let [items, channels, height, width] = nchw(dims)?;
    others.iter().all(|other| *other == dims).then_some([items, channels, height * width])
}

/// The values of a parameter, one per channel.
fn each_channel<'a>(call: &Call<'a>, i: usize, channels: usize) -> Option<&'a [f32]> {
    call.input(i)?.dense().filter(|values| values.len() == channels)
}

/// Two numbers for each plane of a tensor, by batch item and channel. A task computes a group of
/// planes of one batch item: it gets the item, the first channel, and the numbers to fill.
fn partial(
    [items, channels, plane]: [usize; 3],
    task: impl Fn(usize, usize, &mut [[f64; 2]]) + Sync + Send,
) -> Vec<[f64; 2]> {
    let mut sums = vec![[0.0; 2]; items * channels];
    let tasks = planes(sums.chunks_mut(channels).collect(), 1, group(plane));
    each(tasks, items * channels * plane, |Planes { item, channel, data }| task(item, channel, data));
    sums
}

/// The plane of a channel.
fn plane_of<'a>(x: Input<'a>, item: usize, channel: usize, plane: usize) -> &'a [f32] {
    &x.item(item)[channel * plane..][..plane]
}

/// Mean and sum of squared differences from it of every channel. Those of each plane are combined,
/// so that planes are read from memory only once (Chan, Golub and LeVeque 1983).
fn moments(x: Input<'_>, dims: [usize; 3]) -> Vec<[f64; 2]> {
    let [items, channels, plane] = dims;
    let parts = partial(dims, |item, first, moments| {
        wide(
            #[inline(always)]
            || {
                for (channel, moments) in (first..).zip(moments) {
                    let x = plane_of(x, item, channel, plane);
                    let mean = total(x, |x| x) / plane as f64;
                    // The rounded mean serves as an origin near the values.
                    let origin = mean as f32;
                    let squares = total(x, |x| (x - origin) * (x - origin));
                    let shift = mean - f64::from(origin);
                    *moments = [mean, squares - shift * shift * plane as f64];
                }
            },
        );
    });
    let mut all = vec![[0.0; 2]; channels];
    // All planes have the same size.
    for parts in parts.chunks(channels) {
        all.iter_mut().zip(parts).for_each(|([mean, _], [part, _])| *mean += part / items as f64);
    }
    for parts in parts.chunks(channels) {
        for ([mean, squares], [part, part_squares]) in all.iter_mut().zip(parts) {
            *squares += part_squares + (part - *mean) * (part - *mean) * plane as f64;
        }
    }
    all
}

/// Factors of a channel.
#[derive(Clone, Copy, Default)]
struct Channel {
    mean: f32,
    inverse_std: f32,
    weight: f32,
    bias: f32,
}

impl BatchNorm {
    /// The last pass.
    fn apply(&self, x: Input<'_>, y: &mut Output<'_>, dims: [usize; 3], channels: &[Channel]) {
        let plane = dims[2];
        let tasks = planes(y.items(), plane, group(plane));
        each(tasks, dims.iter().product(), |task| {
            for (c, y) in (task.channel..).zip(task.data.chunks_exact_mut(plane)) {
                let Channel { mean, inverse_std, weight, bias } = channels[c];
                let values = y.iter_mut().zip(plane_of(x, task.item, c, plane));
                if self.relu {
                    for (y, x) in values {
                        let value = (*x - mean) * inverse_std * weight + bias;
                        *y = if 0.0 > value { 0.0 } else { value };
                    }
                } else {
                    values.for_each(|(y, x)| *y = (*x - mean) * inverse_std * weight + bias);
                }
            }
        });
    }
}

impl Kernel for BatchNorm {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let x = call.input(0)?;
        let dims = shape(x.dims(), &[call.outputs.first()?.dims()])?;
        let [items, channels, plane] = dims;
        let (weight, bias) = (each_channel(call, 1, channels)?, each_channel(call, 2, channels)?);
        let factors = weight.iter().zip(bias);
        if !self.training {
            let (means, variances) = (each_channel(call, 3, channels)?, each_channel(call, 4, channels)?);
            let factors =
                factors.zip(means.iter().zip(variances)).map(|((weight, bias), (mean, variance))| {
                    let inverse_std = 1.0 / (*variance + self.epsilon).sqrt();
                    Channel { mean: *mean, inverse_std, weight: *weight, bias: *bias }
                });
            let factors: Vec<Channel> = factors.collect();
            self.apply(x, call.outputs.first_mut()?, dims, &factors);
            return Some(());
        }
        let [y, means, spreads, running_means, running_variances] = &mut call.outputs[..] else {
            return None;
        };
        let mut statistics = [means, spreads, running_means, running_variances];
        if statistics.iter_mut().any(|values| values.dense().is_none_or(|v| v.len() != channels)) {
            return None;
        }
        let [means, spreads, running_means, running_variances] = statistics;
        let (means, spreads) = (means.dense()?.iter_mut(), spreads.dense()?.iter_mut());
        let running = running_means.dense()?.iter_mut().zip(running_variances.dense()?);
        let total = (items * plane) as f64;
        let mut all = Vec::with_capacity(channels);
        let outputs = means.zip(spreads).zip(running);
        for (([mean, squares], (weight, bias)), outputs) in
            moments(x, dims).into_iter().zip(factors).zip(outputs)
        {
            let ((mean_out, spread_out), (running_mean, running_variance)) = outputs;
            // Non-finite values would persist in running statistics.
            if (squares as f32).is_finite() {
                let unbiased = (squares / (total - 1.0).max(1.0)) as f32;
                *running_mean += self.momentum * (mean as f32 - *running_mean);
                *running_variance += self.momentum * (unbiased - *running_variance);
            }
            let (mean, variance) = (mean as f32, (squares / total) as f32);
            let inverse_std = 1.0 / (variance + self.epsilon).sqrt();
            (*mean_out, *spread_out) = (mean, inverse_std);
            all.push(Channel { mean, inverse_std, weight: *weight, bias: *bias });
        }
        self.apply(x, y, dims, &all);
        Some(())
    }
}

/// The gradient of the normalised value: zero where a fused ReLU was.
#[inline(always)]
fn upstream<const RELU: bool>(dy: f32, y: f32) -> f32 {
    // A NaN activation passes the gradient.
    if RELU && y <= 0.0 { 0.0 } else { dy }
}

impl BatchNormGrad {
    /// Both passes. `y` is not read without a ReLU.
    fn passes<const RELU: bool>(
        &self,
        x: Input<'_>,
        y: Input<'_>,
        outputs: [&mut Output<'_>; 3],
        dims: [usize; 3],
        channels: &[Channel],
    ) -> Option<()> {
        let [items, count, plane] = dims;
        let [dx, dweight, dbias] = outputs;
        let (dweight, dbias) = (dweight.dense()?, dbias.dense()?);
        let parts = {
            let dx: Vec<&[f32]> = dx.items().into_iter().map(|item| &*item).collect();
            partial(dims, |item, first, sums| {
                wide(
                    #[inline(always)]
                    || {
                        for (channel, sums) in (first..).zip(sums) {
                            let Channel { mean, inverse_std, .. } = channels[channel];
                            let x = plane_of(x, item, channel, plane);
                            let y = plane_of(y, item, channel, plane);
                            let dy = &dx[item][channel * plane..][..plane];
                            *sums = totals([x, y, dy], |[x, y, dy]| {
                                let dy = upstream::<RELU>(dy, y);
                                [dy, dy * ((x - mean) * inverse_std)]
                            });
                        }
                    },
                );
            })
        };
        let mut sums = vec![[0.0; 2]; count];
        for parts in parts.chunks(count) {
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = [sum[0] + part[0], sum[1] + part[1]];
            }
        }
        for ((dweight, dbias), [sum, product]) in dweight.iter_mut().zip(dbias).zip(&sums) {
            (*dweight, *dbias) = (*product as f32, *sum as f32);
        }
        // Batch statistics depend on every element, running statistics on none.
        let share = if self.training { 1.0 / (items * plane) as f64 } else { 0.0 };
        let tasks = planes(dx.items(), plane, group(plane));
        each(tasks, dims.iter().product(), |task| {
            for (c, dx) in (task.channel..).zip(task.data.chunks_exact_mut(plane)) {
                let Channel { mean, inverse_std, weight, .. } = channels[c];
                let [sum, product] = sums[c].map(|sum| (sum * share) as f32);
                let factor = weight * inverse_std;
                let (x, y) = (plane_of(x, task.item, c, plane), plane_of(y, task.item, c, plane));
                if self.training {
                    for ((dx, x), y) in dx.iter_mut().zip(x).zip(y) {
                        let normalised = (*x - mean) * inverse_std;
                        *dx = factor * (upstream::<RELU>(*dx, *y) - (sum + normalised * product));
                    }
                } else {
                    for (dx, y) in dx.iter_mut().zip(y) {
                        *dx = factor * upstream::<RELU>(*dx, *y);
                    }
                }
            }
        });
        Some(())
    }
}

impl Kernel for BatchNormGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let x = call.input(0)?;
        let y = if self.relu { call.input(1)? } else { x };
        let dims = shape(x.dims(), &[y.dims(), call.outputs.first()?.dims()])?;
        let channels = dims[1];
        let (weight, means) = (each_channel(call, 3, channels)?, each_channel(call, 4, channels)?);
        let spreads = each_channel(call, 5, channels)?;
        let factors = weight.iter().zip(means.iter().zip(spreads)).map(|(weight, (mean, spread))| {
            let inverse_std = if self.training { *spread } else { 1.0 / (*spread + self.epsilon).sqrt() };
            Channel { mean: *mean, inverse_std, weight: *weight, bias: 0.0 }
        });
        let factors: Vec<Channel> = factors.collect();
        let [dx, dweight, dbias] = &mut call.outputs[..] else { return None };
        if [&mut *dweight, &mut *dbias].into_iter().any(|v| v.dense().is_none_or(|v| v.len() != channels)) {
            return None;
        }
        if self.relu {
            self.passes::<true>(x, y, [dx, dweight, dbias], dims, &factors)
        } else {
            self.passes::<false>(x, y, [dx, dweight, dbias], dims, &factors)
        }
    }
}
