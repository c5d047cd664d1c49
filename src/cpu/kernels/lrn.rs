//! Local response normalization: blocks of pixels small enough that the rows of a window of
//! channels stay in a cache.

use super::super::operands::{Call, Input};
use super::super::parallel::each;
use super::super::simd::wide;
use super::Kernel;
use super::cut::{Planes, nchw, planes};
use crate::ops::{Lrn, LrnGrad};

/// Pixels that are processed together.
const PIXELS: usize = 1024;

/// A row for channels outside of the tensor.
static NOTHING: [f32; PIXELS] = [0.0; PIXELS];

/// Channels that a task computes: few tasks read few channels twice, many use many threads.
fn group(items: usize, channels: usize) -> usize {
    channels.div_ceil((32 / items).max(1)).max(16)
}

/// The elements of one channel in a block of pixels; zeros outside of the tensor.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    channels: usize,
    plane: usize,
    pixel: usize,
    length: usize,
}

impl<'a> Rows<'a> {
    /// Row `i - before`.
    #[inline(always)]
    fn back(self, i: usize, before: usize) -> &'a [f32] {
        match i.checked_sub(before).filter(|c| *c < self.channels) {
            Some(c) => &self.data[c * self.plane + self.pixel..][..self.length],
            None => &NOTHING[..self.length],
        }
    }

    /// The rows of the window around `i - before`.
    #[inline(always)]
    fn window_of_five(self, i: usize, before: usize) -> [&'a [f32]; 5] {
        [4, 3, 2, 1, 0].map(|behind| self.back(i + 2, before + behind))
    }
}

/// Attributes in the form that loops use.
#[derive(Clone, Copy)]
struct Attributes {
    half: usize,
    scale: f32,
    beta: f32,
    k: f32,
}

impl Attributes {
    fn of(lrn: &Lrn) -> Self {
        Self { half: lrn.size / 2, scale: lrn.alpha / lrn.size as f32, beta: lrn.beta, k: lrn.k }
    }

    /// s^-beta and s^-1.
    #[inline(always)]
    fn powers<const QUARTERS: bool>(self, s: f32) -> [f32; 2] {
        if QUARTERS {
            let root = s.sqrt();
            let power = 1.0 / (root * root.sqrt());
            [power, power * root * power]
        } else {
            [s.powf(-self.beta), 1.0 / s]
        }
    }

    /// k + scale * (sum of squares of a window of five).
    #[inline(always)]
    fn of_five(self, x: [f32; 5]) -> f32 {
        let [v, w, x, y, z] = x.map(|x| x * x);
        self.k + self.scale * (v + w + x + y + z)
    }

    /// k + scale * (sum of x^2 over the window around channel `c - before`).
    #[inline(always)]
    fn sums(self, x: Rows<'_>, c: usize, before: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        for i in 0..2 * self.half + 1 {
            for (sum, x) in sums.iter_mut().zip(x.back(c + i, before + self.half)) {
                *sum += x * x;
            }
        }
        sums.iter_mut().for_each(|sum| *sum = self.k + self.scale * *sum);
    }

    /// The forward pass for some channels of a batch item.
    #[inline(always)]
    fn forward<const QUARTERS: bool>(
        self,
        x: &[f32],
        channels: usize,
        plane: usize,
        out: &mut Planes<'_, f32>,
    ) {
        for pixel in (0..plane).step_by(PIXELS) {
            let length = PIXELS.min(plane - pixel);
            let x = Rows { data: x, channels, plane, pixel, length };
            for (c, y) in (out.channel..).zip(out.data.chunks_exact_mut(plane)) {
                let y = &mut y[pixel..][..length];
                if self.half == 2 {
                    self.row_of_five::<QUARTERS>(y, x.window_of_five(c, 0));
                    continue;
                }
                self.sums(x, c, 0, y);
                y.iter_mut().zip(x.back(c, 0)).for_each(|(y, x)| *y = *x * self.powers::<QUARTERS>(*y)[0]);
            }
        }
    }

    /// A row of results from those of a window.
    #[inline(always)]
    fn row_of_five<const QUARTERS: bool>(self, to: &mut [f32], [v, w, x, y, z]: [&[f32]; 5]) {
        let rows = v.iter().zip(w).zip(x).zip(y).zip(z);
        for (to, ((((v, w), x), y), z)) in to.iter_mut().zip(rows) {
            *to = *x * self.powers::<QUARTERS>(self.of_five([*v, *w, *x, *y, *z]))[0];
        }
    }

    /// A row of dy s^-beta, and of dy x s^(-beta - 1), from rows of a window of x.
    #[inline(always)]
    fn gradients_of_five<const QUARTERS: bool>(
        self,
        direct: &mut [f32],
        terms: &mut [f32],
        dy: &[f32],
        [v, w, x, y, z]: [&[f32]; 5],
    ) {
        let rows = v.iter().zip(w).zip(x).zip(y).zip(z).zip(dy);
        for ((direct, term), (((((v, w), x), y), z), dy)) in direct.iter_mut().zip(terms).zip(rows) {
            (*direct, *term) = self.terms::<QUARTERS>(self.of_five([*v, *w, *x, *y, *z]), *x, *dy);
        }
    }

    /// dy s^-beta and dy x s^(-beta - 1).
    #[inline(always)]
    fn terms<const QUARTERS: bool>(self, s: f32, x: f32, dy: f32) -> (f32, f32) {
        let [power, inverse] = self.powers::<QUARTERS>(s);
        let direct = dy * power;
        (direct, direct * x * inverse)
    }

    /// The gradient for some channels of a batch item.
    #[inline(always)]
    fn backward<const QUARTERS: bool, const MASKED: bool>(
        self,
        [x, dy]: [&[f32]; 2],
        channels: usize,
        plane: usize,
        out: &mut Planes<'_, f32>,
    ) {
        let half = self.half;
        let factor = 2.0 * self.beta * self.scale;
        // The newest rows of dy s^-beta, and of dy x s^(-beta - 1) for a window.
        let mut direct = vec![[0.0f32; PIXELS]; half + 1];
        let mut window = vec![[0.0f32; PIXELS]; 2 * half + 1];
        let count = out.data.len() / plane;
        for pixel in (0..plane).step_by(PIXELS) {
            let length = PIXELS.min(plane - pixel);
            let [x, dy] = [x, dy].map(|data| Rows { data, channels, plane, pixel, length });
            // Channels are counted from `half` before the first: the window is `half` ahead of the
            // result. Rows outside of the tensor are zero in it because dy is.
            for i in 0..count + 2 * half {
                let c = out.channel + i;
                let direct_row = &mut direct[i % (half + 1)][..length];
                let window_row = &mut window[i % (2 * half + 1)][..length];
                let dy = dy.back(c, half);
                if half == 2 {
                    let x = x.window_of_five(c, half);
                    self.gradients_of_five::<QUARTERS>(direct_row, window_row, dy, x);
                } else {
                    self.sums(x, c, half, window_row);
                    let values = x.back(c, half).iter().zip(dy);
                    for ((direct, term), (x, dy)) in direct_row.iter_mut().zip(window_row).zip(values) {
                        (*direct, *term) = self.terms::<QUARTERS>(*term, *x, *dy);
                    }
                }
                if i < 2 * half {
                    continue;
                }
                let done = i - 2 * half;
                let direct_row = &direct[(done + half) % (half + 1)][..length];
                let dx = &mut out.data[done * plane + pixel..][..length];
                let values = direct_row.iter().zip(x.back(c, 2 * half));
                let result = |direct: f32, x: f32, sum: f32| {
                    let dx = direct - factor * x * sum;
                    if !MASKED || x > 0.0 { dx } else { 0.0 }
                };
                if let [v, w, x, y, z] = &window[..] {
                    let rows = v[..length].iter().zip(&w[..length]).zip(&x[..length]);
                    let rows = rows.zip(&y[..length]).zip(&z[..length]);
                    for ((dx, (direct, x)), ((((v, w), m), y), z)) in dx.iter_mut().zip(values).zip(rows) {
                        *dx = result(*direct, *x, v + w + m + y + z);
                    }
                } else {
                    dx.fill(0.0);
                    for row in &window {
                        dx.iter_mut().zip(row).for_each(|(sum, term)| *sum += term);
                    }
                    for (dx, (direct, x)) in dx.iter_mut().zip(values) {
                        *dx = result(*direct, *x, *dx);
                    }
                }
            }
        }
    }
}

/// Runs a function on groups of channels of batch items, with inputs of the same shape.
fn run<const N: usize>(
    inputs: [Input<'_>; N],
    call: &mut Call<'_>,
    part: impl Fn([&[f32]; N], usize, usize, &mut Planes<'_, f32>) + Sync + Send,
) -> Option<()> {
    let output = call.outputs.first_mut()?;
    let [items, channels, height, width] = nchw(output.dims())?;
    if inputs.iter().any(|x| x.dims() != output.dims()) {
        return None;
    }
    let plane = height * width;
    let tasks = planes(output.items(), plane, group(items, channels));
    each(tasks, items * channels * plane, |mut task| {
        part(inputs.map(|x| x.item(task.item)), channels, plane, &mut task);
    });
    Some(())
}

impl Kernel for Lrn {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let attributes = Attributes::of(self);
        let quarters = self.beta == 0.75;
        run([call.input(0)?], call, |[x], channels, plane, out| {
            wide(
                #[inline(always)]
                || {
                    if quarters {
                        attributes.forward::<true>(x, channels, plane, out);
                    } else {
                        attributes.forward::<false>(x, channels, plane, out);
                    }
                },
            );
        })
    }
}

impl Kernel for LrnGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let attributes = Attributes::of(&self.lrn);
        let (quarters, masked) = (self.lrn.beta == 0.75, self.masked);
        run([call.input(0)?, call.input(1)?], call, |inputs, channels, plane, out| {
            wide(
                #[inline(always)]
                || match (quarters, masked) {
                    (true, true) => attributes.backward::<true, true>(inputs, channels, plane, out),
                    (true, false) => attributes.backward::<true, false>(inputs, channels, plane, out),
                    (false, true) => attributes.backward::<false, true>(inputs, channels, plane, out),
                    (false, false) => attributes.backward::<false, false>(inputs, channels, plane, out),
                },
            );
        })
    }
}
