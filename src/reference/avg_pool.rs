//! CPU reference of `ops/avg_pool.rs`.

use std::ops::Range;

use super::max_pool::window;
use super::relu::mask;
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{AdaptiveAvgPool, AvgPool, AvgPoolGrad};

/// Input rows or columns covered by window `o` of `count`.
fn covered(pool: Option<&AvgPool>, o: usize, size: usize, count: usize) -> Range<usize> {
    match pool {
        Some(pool) => window(o, pool.kernel, pool.stride, pool.padding, size),
        None => o * size / count..((o + 1) * size).div_ceil(count),
    }
}

/// Calls `visit` with (index in x, index in y, 1 / window size) for every element of every window.
fn for_each<T: Real>(
    pool: Option<&AvgPool>,
    x: &[usize],
    y: &[usize],
    mut visit: impl FnMut(usize, usize, T),
) {
    for plane in 0..y[0] * y[1] {
        for oy in 0..y[2] {
            let rows = covered(pool, oy, x[2], y[2]);
            for ox in 0..y[3] {
                let columns = covered(pool, ox, x[3], y[3]);
                let share = T::one() / T::of((rows.len() * columns.len()) as f64);
                for iy in rows.clone() {
                    for ix in columns.clone() {
                        visit((plane * x[2] + iy) * x[3] + ix, (plane * y[2] + oy) * y[3] + ox, share);
                    }
                }
            }
        }
    }
}

fn forward<T: Real>(pool: Option<&AvgPool>, x: &Array<T>, y: &mut Array<T>) {
    for_each(pool, &x.dims, &y.dims, |in_x, in_y, share: T| y.data[in_y] += x.data[in_x] * share);
}

impl<T: Real> Reference<T> for AvgPool {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        forward(Some(self), inputs[0], &mut outputs[0]);
    }
}

impl<T: Real> Reference<T> for AdaptiveAvgPool {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        forward(None, inputs[0], &mut outputs[0]);
    }
}

impl<T: Real> Reference<T> for AvgPoolGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, dx) = (inputs[0], &mut outputs[0]);
        for_each(self.pool.as_ref(), &dx.dims, &dy.dims, |in_x, in_y, share: T| {
            dx.data[in_x] += dy.data[in_y] * share;
        });
        mask(dx, inputs.last().copied().filter(|_| self.masked));
    }
}
