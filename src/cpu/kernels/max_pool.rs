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

impl<'a> Row<'a> {
    /// `length` elements from `start`.
    #[inline(always)]
    fn part<const INDICES: bool>(self, start: usize, length: usize) -> Self {
        let indices = if INDICES { &self.indices[start..][..length] } else { self.indices };
        Self { values: &self.values[start..][..length], indices }
    }
}

/// A row to write.
struct Target<'a> {
    values: &'a mut [f32],
    indices: &'a mut [u32],
}

/// Whether a value wins against the best of those before it: if it is larger, or NaN.
#[inline(always)]
fn wins(value: f32, best: f32) -> bool {
    (value > best) | value.is_nan()
}

/// The better of two values with their indices, the first if they are equal. It is chosen by a mask
/// because compilers turn a choice of an index into one of its address, which is no vector operation.
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
    /// Pools planes that follow each other.
    #[inline(always)]
    fn planes<const INDICES: bool>(self, x: &[f32], y: &mut [f32], indices: &mut [u32]) {
        let Self { kernel, stride, padding, height, width, out_height, out_width } = self;
        // Positions of windows at a stride of 1, and elements under them, padding included.
        let reach = (out_width - 1) * stride + 1;
        let span = reach + kernel - 1;
        let padded = padding > 0 || span > width;
        // Padding repeats the outermost elements with their indices, which changes no window.
        let columns: Vec<u32> = (0..span).map(|j| j.saturating_sub(padding).min(width - 1) as u32).collect();
        let mut line = vec![0.0; if padded { span } else { 0 }];
        // Maxima of the newest rows, and those of the rows of a window.
        let held = if INDICES { reach } else { 0 };
        let mut maxima = vec![0.0; kernel * reach];
        let mut places = vec![0; kernel * held];
        let mut tall = vec![0.0; if stride > 1 { reach } else { 0 }];
        let mut tall_places = vec![0; if stride > 1 { held } else { 0 }];
        let out = out_height * out_width;
        for (plane, x) in x.chunks_exact(height * width).enumerate() {
            let mut next = 0;
            for oy in 0..out_height {
                let rows =
                    (oy * stride).saturating_sub(padding)..(oy * stride + kernel - padding).min(height);
                for y in next.max(rows.start)..rows.end {
                    let row = &x[y * width..][..width];
                    let values = if padded {
                        let inside = &mut line[padding.min(span)..];
                        let length = width.min(inside.len());
                        inside[..length].copy_from_slice(&row[..length]);
                        inside[length..].fill(row[width - 1]);
                        line[..padding.min(span)].fill(row[0]);
                        &line[..]
                    } else {
                        row
                    };
                    let slot = y % kernel;
                    let to = Target {
                        values: &mut maxima[slot * reach..][..reach],
                        indices: &mut places[slot * held..][..held],
                    };
                    let row = Row { values, indices: &columns };
                    best::<INDICES>(kernel, |i| row.part::<INDICES>(i, reach), to);
                    let base = (y * width) as u32;
                    places[slot * held..][..held].iter_mut().for_each(|place| *place += base);
                }
                next = next.max(rows.end);
                let row = |i: usize| {
                    let slot = (rows.start + i) % kernel;
                    Row { values: &maxima[slot * reach..][..reach], indices: &places[slot * held..][..held] }
                };
                let at = plane * out + oy * out_width;
                let y = &mut y[at..][..out_width];
                let indices = if INDICES { &mut indices[at..][..out_width] } else { &mut [][..] };
                if stride == 1 {
                    best::<INDICES>(rows.len(), row, Target { values: y, indices });
                } else {
                    best::<INDICES>(rows.len(), row, Target { values: &mut tall, indices: &mut tall_places });
                    thin(&tall, y, stride);
                    thin(&tall_places, indices, stride);
                }
            }
        }
    }
}

/// Copies every `stride`-th element.
#[inline(always)]
fn thin<T: Copy>(from: &[T], to: &mut [T], stride: usize) {
    to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
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
