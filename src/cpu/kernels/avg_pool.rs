//! Average pooling: the sums of columns, then of rows.

use std::ops::Range;

use super::super::operands::{Call, Input};
use super::super::parallel::each;
use super::Kernel;
use super::cut::{group, mask, nchw, planes};
use crate::ops::{AdaptiveAvgPool, AvgPool, AvgPoolGrad};

/// Input rows or columns under each of `count` windows.
fn windows(pool: Option<&AvgPool>, size: usize, count: usize) -> Vec<Range<usize>> {
    let window = |o: usize| match pool {
        Some(pool) => {
            let start = (o * pool.stride).saturating_sub(pool.padding);
            start..(o * pool.stride + pool.kernel - pool.padding).min(size)
        }
        None => o * size / count..((o + 1) * size).div_ceil(count),
    };
    (0..count).map(window).collect()
}

fn forward(pool: Option<&AvgPool>, call: &mut Call<'_>) -> Option<()> {
    let (x, y) = (call.input(0)?, call.outputs.first_mut()?);
    let ([items, channels, height, width], [.., out_height, out_width]) = (nchw(x.dims())?, nchw(y.dims())?);
    let (rows, columns) = (windows(pool, height, out_height), windows(pool, width, out_width));
    let (plane, out) = (height * width, out_height * out_width);
    let tasks = planes(y.items(), out, group(plane));
    each(tasks, items * channels * plane, |task| {
        let mut sums = vec![0.0; width];
        let x = x.item(task.item)[task.channel * plane..].chunks_exact(plane);
        for (y, x) in task.data.chunks_exact_mut(out).zip(x) {
            for (y, rows) in y.chunks_exact_mut(out_width).zip(&rows) {
                sums.fill(0.0);
                for x in x[rows.start * width..rows.end * width].chunks_exact(width) {
                    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                }
                for (y, columns) in y.iter_mut().zip(&columns) {
                    let share = 1.0 / (rows.len() * columns.len()) as f32;
                    *y = sums[columns.clone()].iter().sum::<f32>() * share;
                }
            }
        }
    });
    Some(())
}

impl Kernel for AvgPool {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        forward(Some(self), call)
    }
}

impl Kernel for AdaptiveAvgPool {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        forward(None, call)
    }
}

impl Kernel for AvgPoolGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let dy = call.input(0)?;
        let activation: Option<Input<'_>> =
            if self.masked { Some(call.inputs.last().copied().flatten()?) } else { None };
        let dx = call.outputs.first_mut()?;
        let ([items, channels, height, width], [.., out_height, out_width]) =
            (nchw(dx.dims())?, nchw(dy.dims())?);
        if activation.is_some_and(|y| y.dims() != dx.dims()) {
            return None;
        }
        let pool = self.pool.as_ref();
        let (rows, columns) = (windows(pool, height, out_height), windows(pool, width, out_width));
        let (plane, out) = (height * width, out_height * out_width);
        let tasks = planes(dx.items(), plane, group(plane));
        each(tasks, items * channels * plane, |task| {
            let mut shares = vec![0.0; width];
            let dy = dy.item(task.item)[task.channel * out..].chunks_exact(out);
            for (dx, dy) in task.data.chunks_exact_mut(plane).zip(dy) {
                if !self.accumulate {
                    dx.fill(0.0);
                }
                for (dy, rows) in dy.chunks_exact(out_width).zip(&rows) {
                    shares.fill(0.0);
                    for (dy, columns) in dy.iter().zip(&columns) {
                        let share = *dy / (rows.len() * columns.len()) as f32;
                        shares[columns.clone()].iter_mut().for_each(|sum| *sum += share);
                    }
                    for dx in dx[rows.start * width..rows.end * width].chunks_exact_mut(width) {
                        dx.iter_mut().zip(&shares).for_each(|(dx, share)| *dx += share);
                    }
                }
            }
            if let Some(activation) = activation {
                mask(task.data, &activation.item(task.item)[task.channel * plane..]);
            }
        });
        Some(())
    }
}
