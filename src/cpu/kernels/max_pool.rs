//! Max pooling: the maxima of rows, then of columns. Indices stay the first in row-major order,
//! because at each step a later element wins only if it is larger.

use super::super::operands::Call;
use super::super::parallel::each;
use super::super::simd::wide;
use super::Kernel;
use super::cut::{group, mask, nchw, planes};
use crate::ops::{MaxPool, MaxPoolGrad};

/// Values and their indices. Without indices, those are empty.
#[derive(Clone, Copy)]
struct Row<'a> {
    values: &'a [f32],
    indices: &'a [u32],
}

impl Row<'_> {
    /// The elements from `start` on.
    #[inline(always)]
    fn from<const INDICES: bool>(self, start: usize) -> Self {
        let indices = if INDICES { &self.indices[start..] } else { self.indices };
        Self { values: &self.values[start..], indices }
    }
}

/// A row to write.
struct Target<'a> {
    values: &'a mut [f32],
    indices: &'a mut [u32],
}

impl<'a> Target<'a> {
    /// The first `length` elements of these.
    #[inline(always)]
    fn of<const INDICES: bool>(values: &'a mut [f32], indices: &'a mut [u32], length: usize) -> Self {
        let indices = if INDICES { &mut indices[..length] } else { indices };
        Self { values: &mut values[..length], indices }
    }
}

/// Whether a value wins against the best of those before it: if it is larger, or NaN.
#[inline(always)]
fn wins(value: f32, best: f32) -> bool {
    (value > best) | value.is_nan()
}

/// The better of two values with their indices, the first if they are equal. A mask chooses it:
/// compilers turn the choice of an index into one of its address, which is no vector operation.
#[inline(always)]
fn better((x, i): (f32, u32), (y, j): (f32, u32)) -> (f32, u32) {
    let mask = u32::from(wins(y, x)).wrapping_neg();
    let choose = |i: u32, j: u32| (j & mask) | (i & !mask);
    (f32::from_bits(choose(x.to_bits(), y.to_bits())), choose(i, j))
}

/// The best of three rows. Rows are parameters of their own, so that compilers know them apart.
#[inline(always)]
fn three(values: &mut [f32], indices: &mut [u32], [x, y, z]: [&[f32]; 3], [i, j, k]: [&[u32]; 3]) {
    let length = values.len();
    let (indices, i, j, k) = (&mut indices[..length], &i[..length], &j[..length], &k[..length]);
    let (x, y, z) = (&x[..length], &y[..length], &z[..length]);
    for at in 0..length {
        let best = better(better((x[at], i[at]), (y[at], j[at])), (z[at], k[at]));
        (values[at], indices[at]) = best;
    }
}

/// [`three`] without indices.
#[inline(always)]
fn three_values(values: &mut [f32], [x, y, z]: [&[f32]; 3]) {
    for (((value, x), y), z) in values.iter_mut().zip(x).zip(y).zip(z) {
        (*value, _) = better(better((*x, 0), (*y, 0)), (*z, 0));
    }
}

/// The better of a row and a later one.
#[inline(always)]
fn two(values: &mut [f32], indices: &mut [u32], y: &[f32], j: &[u32]) {
    for ((value, y), (index, j)) in values.iter_mut().zip(y).zip(indices.iter_mut().zip(j)) {
        (*value, *index) = better((*value, *index), (*y, *j));
    }
}

/// [`two`] without indices.
#[inline(always)]
fn two_values(values: &mut [f32], y: &[f32]) {
    values.iter_mut().zip(y).for_each(|(value, y)| (*value, _) = better((*value, 0), (*y, 0)));
}

/// The best of several rows, the first in row-major order first.
#[inline(always)]
fn best<'a, const INDICES: bool>(count: usize, row: impl Fn(usize) -> Row<'a>, to: Target<'_>) {
    let Target { values, indices } = to;
    let length = values.len();
    if count == 3 {
        let rows = [row(0), row(1), row(2)];
        if INDICES {
            three(values, indices, rows.map(|row| row.values), rows.map(|row| row.indices));
        } else {
            three_values(values, rows.map(|row| row.values));
        }
        return;
    }
    for i in 0..count {
        let row = row(i);
        if i == 0 {
            values.copy_from_slice(&row.values[..length]);
            if INDICES {
                indices.copy_from_slice(&row.indices[..length]);
            }
        } else if INDICES {
            two(values, indices, row.values, row.indices);
        } else {
            two_values(values, row.values);
        }
    }
}

/// Elements, padding included, that are pooled together: enough for long loops over small planes,
/// few enough for a cache.
const CELLS: usize = 2048;

/// Windows of planes.
#[derive(Clone, Copy)]
struct Windows {
    kernel: usize,
    stride: usize,
    padding: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Windows {
    /// Pools planes that follow each other, in bands of rows or several planes at once: they are
    /// copied with their padding, such that the elements under all windows form one long row.
    #[inline(always)]
    fn planes<const INDICES: bool>(self, x: &[f32], y: &mut [f32], indices: &mut [u32]) {
        let Self { kernel, stride, padding, height, width, out_height, out_width } = self;
        let (plane, out) = (height * width, out_height * out_width);
        let span = (out_width - 1) * stride + kernel;
        // With a step, rows are pooled one by one, in whole vectors.
        let pitch = if stride > 1 { span.next_multiple_of(8) } else { span };
        let band = ((CELLS / pitch).saturating_sub(kernel) / stride + 1).min(out_height);
        let rows = |count: usize| (count - 1) * stride + kernel;
        let together = if band < out_height { 1 } else { (CELLS / (rows(band) * pitch)).max(1) };
        let cells = together * rows(band) * pitch;
        let held = if INDICES { cells } else { 0 };
        let (mut padded, mut places) = (vec![0.0; cells], vec![0; held]);
        let (mut wide, mut wide_places) = (vec![0.0; cells], vec![0; held]);
        let (mut best_of, mut best_places) = (vec![0.0; cells], vec![0; held]);
        for first in (0..out_height).step_by(band) {
            let band = band.min(out_height - first);
            let rows = rows(band);
            // Padding repeats the outermost elements with their indices, which changes no maximum.
            let row = |r: usize| (first * stride + r).saturating_sub(padding).min(height - 1);
            let column = |c: usize| c.saturating_sub(padding).min(width - 1);
            for (r, places) in places.chunks_exact_mut(pitch).enumerate() {
                let start = row(r % rows) * width;
                places.iter_mut().enumerate().for_each(|(c, place)| *place = (start + column(c)) as u32);
            }
            let groups = x.chunks(together * plane).enumerate();
            for (group, x) in groups {
                for (x, padded) in x.chunks_exact(plane).zip(padded.chunks_exact_mut(rows * pitch)) {
                    for (r, padded) in padded.chunks_exact_mut(pitch).enumerate() {
                        self.pad(&x[row(r) * width..][..width], padded);
                    }
                }
                let planes = x.len() / plane;
                let cells = planes * rows * pitch;
                let length = cells - (kernel - 1);
                let source = Row { values: &padded, indices: &places };
                let target = Target::of::<INDICES>(&mut wide, &mut wide_places, length);
                best::<INDICES>(kernel, |i| source.from::<INDICES>(i), target);
                let source = Row { values: &wide, indices: &wide_places };
                if stride == 1 {
                    let length = length - (kernel - 1) * pitch;
                    let target = Target::of::<INDICES>(&mut best_of, &mut best_places, length);
                    best::<INDICES>(kernel, |i| source.from::<INDICES>(i * pitch), target);
                }
                for p in 0..planes {
                    for o in 0..band {
                        let at = (group * together + p) * out + (first + o) * out_width;
                        let from = (p * rows + o * stride) * pitch;
                        let y = &mut y[at..][..out_width];
                        if stride == 1 {
                            y.copy_from_slice(&best_of[from..][..out_width]);
                            if INDICES {
                                indices[at..][..out_width].copy_from_slice(&best_places[from..][..out_width]);
                            }
                            continue;
                        }
                        let target = Target::of::<INDICES>(&mut best_of, &mut best_places, pitch);
                        best::<INDICES>(kernel, |i| source.from::<INDICES>(from + i * pitch), target);
                        thin(&best_of, y, stride);
                        if INDICES {
                            thin(&best_places, &mut indices[at..][..out_width], stride);
                        }
                    }
                }
            }
        }
    }

    /// Copies a row with padding on both sides.
    #[inline(always)]
    fn pad(self, row: &[f32], to: &mut [f32]) {
        let (left, rest) = to.split_at_mut(self.padding.min(to.len()));
        let (inside, right) = rest.split_at_mut(self.width.min(rest.len()));
        left.fill(row[0]);
        inside.copy_from_slice(&row[..inside.len()]);
        right.fill(row[self.width - 1]);
    }
}

/// Copies every `stride`-th element.
#[inline(always)]
fn thin<T: Copy>(from: &[T], to: &mut [T], stride: usize) {
    if stride == 2 {
        let (pairs, _) = from.as_chunks::<2>();
        to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[0]);
    } else {
        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
    }
}

impl Kernel for MaxPool {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let x = call.input(0)?;
        let (y, indices) = match &mut call.outputs[..] {
            [y] if !self.indices => (y, None),
            [y, indices] if self.indices && y.dims() == indices.dims() => (y, Some(indices)),
            _ => return None,
        };
        let ([items, channels, height, width], [.., out_height, out_width]) =
            (nchw(x.dims())?, nchw(y.dims())?);
        let windows = Windows {
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            height,
            width,
            out_height,
            out_width,
        };
        let (plane, out) = (height * width, out_height * out_width);
        let group = group(plane);
        let work = items * channels * plane;
        let x =
            |item: usize, channel: usize, planes: usize| &x.item(item)[channel * plane..][..planes * plane];
        let outputs = planes(y.items(), out, group);
        if let Some(indices) = indices {
            let tasks = outputs.into_iter().zip(planes(indices.words(), out, group)).collect();
            each(tasks, work, |(y, indices)| {
                wide(
                    #[inline(always)]
                    || windows.planes::<true>(x(y.item, y.channel, y.data.len() / out), y.data, indices.data),
                );
            });
        } else {
            each(outputs, work, |y| {
                wide(
                    #[inline(always)]
                    || windows.planes::<false>(x(y.item, y.channel, y.data.len() / out), y.data, &mut []),
                );
            });
        }
        Some(())
    }
}

impl Kernel for MaxPoolGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (dy, indices) = (call.input(0)?, call.input(1)?);
        let activation = if self.masked { Some(call.inputs.last().copied().flatten()?) } else { None };
        let dx = call.outputs.first_mut()?;
        let ([items, channels, height, width], [.., out_height, out_width]) =
            (nchw(dx.dims())?, nchw(dy.dims())?);
        if indices.dims() != dy.dims() || activation.is_some_and(|y| y.dims() != dx.dims()) {
            return None;
        }
        let (plane, out) = (height * width, out_height * out_width);
        let tasks = planes(dx.items(), plane, group(plane));
        each(tasks, items * channels * plane, |task| {
            let from = task.channel * out;
            let dy = dy.item(task.item)[from..].chunks_exact(out);
            let indices = indices.words(task.item)[from..].chunks_exact(out);
            for ((dx, dy), indices) in task.data.chunks_exact_mut(plane).zip(dy).zip(indices) {
                if !self.accumulate {
                    dx.fill(0.0);
                }
                for (dy, index) in dy.iter().zip(indices) {
                    if let Some(dx) = dx.get_mut(*index as usize) {
                        *dx += *dy;
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
