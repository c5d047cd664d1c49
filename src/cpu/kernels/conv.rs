//! Convolutions as matrix products over panels of unfolded windows, which fit the cache.

use super::super::operands::{Call, Input};
use super::super::parallel::each;
use super::super::product::{Matrix, multiply, with_scratch};
use super::super::simd::wide;
use super::Kernel;
use super::unfold::{Panel, Windows, panels};
use crate::ops::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};

/// Elements of an unfolded panel: with the packed weights it stays in the second-level cache.
const PANEL: usize = 1 << 16;

/// Tasks that a batch should at least give, so that all threads have work until its end.
const TASKS: usize = 8;

/// What follows the product, for a row of the result.
struct Epilogue<'a> {
    /// Factor and addend of each row: bias and batch norm.
    affine: Option<(Vec<f32>, Vec<f32>)>,
    relu: bool,
    /// Whether the result is added to what the output holds.
    accumulate: bool,
    /// The activation of a fused ReLU gradient.
    mask: Option<Input<'a>>,
}

impl Epilogue<'_> {
    /// Writes rows of the product, each with its number and the row that it becomes.
    #[inline(always)]
    fn write<'r>(&self, rows: impl Iterator<Item = (usize, &'r [f32], &'r mut [f32])>) {
        if self.accumulate {
            rows.for_each(|(_, from, to)| to.iter_mut().zip(from).for_each(|(to, from)| *to += from));
            return;
        }
        let Some((scale, shift)) = &self.affine else {
            return rows.for_each(|(_, from, to)| to.copy_from_slice(from));
        };
        // A NaN stays one.
        let rectified = |x: f32| if x < 0.0 { 0.0 } else { x };
        for (row, from, to) in rows {
            let (scale, shift) = (scale[row], shift[row]);
            if self.relu {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = rectified(from * scale + shift));
            } else {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * scale + shift);
            }
        }
    }

    /// Applies the fused ReLU gradient to a part of an image's result that begins at `start`.
    #[inline(always)]
    fn mask(&self, image: usize, start: usize, to: &mut [f32]) {
        if let Some(mask) = &self.mask {
            let mask = &mask.item(image)[start..][..to.len()];
            to.iter_mut().zip(mask).for_each(|(to, y)| *to = if *y > 0.0 { *to } else { 0.0 });
        }
    }
}

/// Parts of an output that a panel's task writes: an image each, or for a part of an image a row
/// each.
struct Task<'a> {
    panel: Panel,
    parts: Vec<&'a mut [f32]>,
}

/// Cuts the items of an output (rows x pixels each) into the parts of each panel.
fn tasks<'a>(items: Vec<&'a mut [f32]>, list: Vec<Panel>, pixels: usize) -> Vec<Task<'a>> {
    let mut items = items.into_iter();
    let mut tasks: Vec<Task<'a>> = Vec::with_capacity(list.len());
    let mut list = list.into_iter().peekable();
    while let Some(panel) = list.next() {
        let images = panel.images.clone();
        if panel.pixels.len() == pixels {
            tasks.push(Task { parts: items.by_ref().take(images.len()).collect(), panel });
            continue;
        }
        let Some(item) = items.next() else { break };
        let mut rest: Vec<&mut [f32]> = item.chunks_mut(pixels).collect();
        let mut next = Some(panel);
        while let Some(panel) = next {
            let length = panel.pixels.len();
            let mut rows = Vec::with_capacity(rest.len());
            rest = rest
                .into_iter()
                .map(|row| {
                    let (now, later) = row.split_at_mut(length);
                    rows.push(now);
                    later
                })
                .collect();
            tasks.push(Task { panel, parts: rows });
            next = list.next_if(|panel| panel.images == images);
        }
    }
    tasks
}

/// The product of `weight` with the unfolded windows of `x`, written to `items`.
fn convolve(
    windows: &Windows,
    weight: Matrix<'_>,
    depth: usize,
    rows: usize,
    x: Input<'_>,
    items: Vec<&mut [f32]>,
    epilogue: &Epilogue<'_>,
) {
    let (batch, pixels) = (items.len(), windows.target[0] * windows.target[1]);
    let all = batch * pixels;
    let width = (PANEL / depth.max(1)).clamp(64, 512).min(all.div_ceil(TASKS).max(32));
    let list = tasks(items, panels(batch, pixels, width), pixels);
    each(list, rows * all * depth, |Task { panel, parts }| {
        let columns = panel.width();
        let direct = windows.is_pointwise() && panel.images.len() == 1;
        let plane = windows.source[0] * windows.source[1];
        with_scratch(rows * columns + if direct { 0 } else { depth * columns }, |scratch| {
            let (result, unfolded) = scratch.split_at_mut(rows * columns);
            let right = if direct {
                Matrix::new(&x.item(panel.images.start)[panel.pixels.start..], depth, columns, plane)
            } else {
                windows.unfold(x, 0..depth, &panel, unfolded);
                Matrix::new(unfolded, depth, columns, columns)
            };
            multiply(result, columns, weight, right, false);
            let result = &*result;
            wide(
                #[inline(always)]
                || finish(result, parts, &panel, pixels, epilogue),
            );
        });
    });
}

/// Writes a panel's product to the parts of the output.
#[inline(always)]
fn finish(result: &[f32], parts: Vec<&mut [f32]>, panel: &Panel, pixels: usize, epilogue: &Epilogue<'_>) {
    let (columns, length) = (panel.width(), panel.pixels.len());
    if length < pixels {
        for (row, to) in parts.into_iter().enumerate() {
            let from = &result[row * columns..][..length];
            epilogue.write(std::iter::once((row, from, &mut *to)));
            epilogue.mask(panel.images.start, row * pixels + panel.pixels.start, to);
        }
        return;
    }
    for (number, to) in parts.into_iter().enumerate() {
        let rows = result.chunks_exact(columns).zip(to.chunks_exact_mut(pixels)).enumerate();
        epilogue.write(rows.map(|(row, (from, to))| (row, &from[number * pixels..][..pixels], to)));
        epilogue.mask(panel.images.start + number, 0, to);
    }
}

/// Dimensions of a 4-D tensor.
fn four(dims: &[usize]) -> Option<[usize; 4]> {
    dims.try_into().ok()
}

impl Kernel for Conv {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (x, w) = (call.input(0)?, call.input(1)?);
        let ([_, channels, height, width], [outputs, _, kernel_h, kernel_w]) =
            (four(x.dims())?, four(w.dims())?);
        let rest: Vec<&[f32]> =
            (2..call.inputs.len()).map(|i| call.input(i)?.dense()).collect::<Option<_>>()?;
        let bias = if rest.len() % 4 == 1 { rest.first() } else { None };
        let mut scale = vec![1.0; outputs];
        let mut shift = bias.map_or_else(|| vec![0.0; outputs], |bias| bias.to_vec());
        if let (Some(epsilon), [.., gamma, beta, mean, variance]) = (self.norm, rest.as_slice()) {
            for (o, (scale, shift)) in scale.iter_mut().zip(&mut shift).enumerate() {
                *scale = gamma[o] / (variance[o] + epsilon).sqrt();
                *shift = (*shift - mean[o]) * *scale + beta[o];
            }
        }
        let y = call.outputs.first_mut()?;
        let [_, _, out_h, out_w] = four(y.dims())?;
        let windows = Windows {
            source: [height, width],
            target: [out_h, out_w],
            kernel: [kernel_h, kernel_w],
            stride: self.stride,
            padding: self.padding,
            transposed: false,
        };
        let depth = channels * kernel_h * kernel_w;
        let epilogue =
            Epilogue { affine: Some((scale, shift)), relu: self.relu, accumulate: false, mask: None };
        let weight = Matrix::new(w.dense()?, outputs, depth, depth);
        convolve(&windows, weight, depth, outputs, x, y.items(), &epilogue);
        Some(())
    }
}

impl Kernel for ConvInputGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (dy, w) = (call.input(0)?, call.input(1)?);
        let ([_, _, out_h, out_w], [outputs, channels, kernel_h, kernel_w]) =
            (four(dy.dims())?, four(w.dims())?);
        let last = call.inputs.len().checked_sub(1)?;
        let mask = if self.masked { Some(call.input(last)?) } else { None };
        // The rows of a mask are found by their place in a dense item.
        let dx = call.outputs.first_mut()?;
        let windows = Windows {
            source: [out_h, out_w],
            target: self.size,
            kernel: [kernel_h, kernel_w],
            stride: self.stride,
            padding: self.padding,
            transposed: true,
        };
        let epilogue = Epilogue { affine: None, relu: false, accumulate: self.accumulate, mask };
        let (weight, taps) = (w.dense()?, kernel_h * kernel_w);
        let depth = outputs * taps;
        if taps == 1 {
            let weight = Matrix::new(weight, outputs, channels, channels).transposed();
            convolve(&windows, weight, depth, channels, dy, dx.items(), &epilogue);
            return Some(());
        }
        with_scratch(weight.len(), |transposed| {
            let rows: Vec<(usize, &mut [f32])> = transposed.chunks_exact_mut(depth).enumerate().collect();
            each(rows, weight.len(), |(channel, row)| {
                for (output, row) in row.chunks_exact_mut(taps).enumerate() {
                    row.copy_from_slice(&weight[(output * channels + channel) * taps..][..taps]);
                }
            });
            let weight = Matrix::new(transposed, channels, depth, depth);
            convolve(&windows, weight, depth, channels, dy, dx.items(), &epilogue);
        });
        Some(())
    }
}

/// A block of a weight gradient: rows (outputs) and columns (channel, tap), and the slices of the
/// result that it fills.
struct Block<'a> {
    outputs: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    rows: Vec<&'a mut [f32]>,
}

/// Cuts a matrix of `outputs` rows into blocks of up to `height` rows and `width` columns.
fn blocks(dw: &mut [f32], depth: usize, height: usize, width: usize) -> Vec<Block<'_>> {
    let mut list: Vec<Block<'_>> = Vec::new();
    for (i, part) in dw.chunks_mut(depth * height).enumerate() {
        let first = list.len();
        for (row, values) in part.chunks_mut(depth).enumerate() {
            for (j, piece) in values.chunks_mut(width).enumerate() {
                if row == 0 {
                    let columns = j * width..j * width + piece.len();
                    list.push(Block { outputs: i * height..i * height, columns, rows: Vec::new() });
                }
                let block = &mut list[first + j];
                block.outputs.end += 1;
                block.rows.push(piece);
            }
        }
    }
    list
}

impl Kernel for ConvWeightGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (x, dy) = (call.input(0)?, call.input(1)?);
        let ([batch, channels, height, source_width], [_, outputs, out_h, out_w]) =
            (four(x.dims())?, four(dy.dims())?);
        let [kernel_h, kernel_w] = self.kernel;
        let windows = Windows {
            source: [height, source_width],
            target: [out_h, out_w],
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            transposed: false,
        };
        let (pixels, depth) = (out_h * out_w, channels * kernel_h * kernel_w);
        let dw = call.outputs.first_mut()?.dense()?;
        // Wide blocks read the gradient once for many columns; where there are few columns, rows
        // are cut too.
        let across = (depth / 32).clamp(1, TASKS);
        let width = depth.div_ceil(across);
        let high = outputs.div_ceil(TASKS / across).max(16).min(outputs);
        let list = panels(batch, pixels, (PANEL / width).clamp(256, 2048));
        let longest = list.iter().map(Panel::width).max().unwrap_or(0);
        let grouped = list.iter().any(|panel| panel.images.len() > 1);
        // Small images: their gradients side by side, so that a product sums over many pixels.
        let all = batch * pixels;
        with_scratch(if grouped { outputs * all } else { 0 }, |gathered| {
            if grouped {
                let rows: Vec<(usize, &mut [f32])> = gathered.chunks_exact_mut(all).enumerate().collect();
                each(rows, outputs * all, |(o, row)| {
                    for (n, row) in row.chunks_exact_mut(pixels).enumerate() {
                        row.copy_from_slice(&dy.item(n)[o * pixels..][..pixels]);
                    }
                });
            }
            let gathered = &*gathered;
            each(blocks(dw, depth, high, width), all * outputs * depth, |mut block| {
                let (rows, columns) = (block.outputs.len(), block.columns.len());
                with_scratch(columns * longest, |unfolded| {
                    with_scratch(rows * columns, |sum| {
                        for (i, panel) in list.iter().enumerate() {
                            let length = panel.width();
                            let left = if grouped {
                                let start = block.outputs.start * all + panel.images.start * pixels;
                                Matrix::new(&gathered[start..], rows, length, all)
                            } else {
                                let start = block.outputs.start * pixels + panel.pixels.start;
                                Matrix::new(&dy.item(panel.images.start)[start..], rows, length, pixels)
                            };
                            let right = if windows.is_pointwise() && panel.images.len() == 1 {
                                let start = block.columns.start * pixels + panel.pixels.start;
                                Matrix::new(&x.item(panel.images.start)[start..], columns, length, pixels)
                            } else {
                                windows.unfold(x, block.columns.clone(), panel, unfolded);
                                Matrix::new(unfolded, columns, length, length)
                            };
                            multiply(sum, columns, left, right.transposed(), i > 0);
                        }
                        for (to, from) in block.rows.iter_mut().zip(sum.chunks_exact(columns)) {
                            to.copy_from_slice(from);
                        }
                    });
                });
            });
        });
        Some(())
    }
}

impl Kernel for ConvBiasGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let dy = call.input(0)?;
        let [batch, _, height, width] = four(dy.dims())?;
        let plane = height * width;
        let db = call.outputs.first_mut()?.dense()?;
        let work = batch * plane * db.len();
        each(db.iter_mut().enumerate().collect(), work, |(o, sum)| {
            // Eight sums side by side are one vector; a pixel's sum depends on its place only.
            let mut lanes = [0.0f32; 8];
            let mut total = 0.0f64;
            for n in 0..batch {
                let (whole, rest) = dy.item(n)[o * plane..][..plane].as_chunks::<8>();
                lanes.fill(0.0);
                for chunk in whole {
                    lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x);
                }
                total += lanes.iter().chain(rest).map(|x| f64::from(*x)).sum::<f64>();
            }
            *sum = total as f32;
        });
        Some(())
    }
}
