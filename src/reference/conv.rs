//! CPU reference of `ops/conv.rs`.

use super::relu::{counts, mask};
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};

/// Calls `visit` with (index in x, index in w, index in y) for every multiply-add of a convolution.
fn for_each_product(
    x: &[usize],
    w: &[usize],
    y: &[usize],
    stride: [usize; 2],
    padding: [usize; 2],
    mut visit: impl FnMut(usize, usize, usize),
) {
    for n in 0..y[0] {
        for o in 0..w[0] {
            for c in 0..w[1] {
                for kh in 0..w[2] {
                    for kw in 0..w[3] {
                        let in_w = ((o * w[1] + c) * w[2] + kh) * w[3] + kw;
                        for oy in 0..y[2] {
                            // Padding contributes nothing.
                            let Some(iy) =
                                (oy * stride[0] + kh).checked_sub(padding[0]).filter(|i| *i < x[2])
                            else {
                                continue;
                            };
                            for ox in 0..y[3] {
                                let Some(ix) =
                                    (ox * stride[1] + kw).checked_sub(padding[1]).filter(|i| *i < x[3])
                                else {
                                    continue;
                                };
                                let in_x = ((n * x[1] + c) * x[2] + iy) * x[3] + ix;
                                visit(in_x, in_w, ((n * y[1] + o) * y[2] + oy) * y[3] + ox);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Coordinates of the element at `index` of a 4-D tensor.
fn position(dims: &[usize], index: usize) -> [usize; 4] {
    let (x, rest) = (index % dims[3], index / dims[3]);
    let (y, rest) = (rest % dims[2], rest / dims[2]);
    [rest / dims[1], rest % dims[1], y, x]
}

/// Input row or column for kernel position `k` and output position `out`; `None` in the padding.
fn input_at(out: usize, k: usize, stride: usize, padding: usize) -> Option<usize> {
    (out * stride + k).checked_sub(padding)
}

/// Output row or column for kernel position `k` and input position `input`; `None` if there is
/// none.
fn output_at(input: usize, k: usize, stride: usize, padding: usize) -> Option<usize> {
    let at = (input + padding).checked_sub(k)?;
    at.is_multiple_of(stride).then(|| at / stride)
}

impl<T: Real> Reference<T> for Conv {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, w, y) = (inputs[0], inputs[1], &mut outputs[0]);
        if let Some(bias) = self.bias(inputs) {
            let plane = y.dims[2] * y.dims[3];
            for (i, value) in y.data.iter_mut().enumerate() {
                *value = bias.data[i / plane % y.dims[1]];
            }
        }
        for_each_product(&x.dims, &w.dims, &y.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            y.data[in_y] += x.data[in_x] * w.data[in_w];
        });
        let plane = y.dims[2] * y.dims[3];
        for (i, value) in y.data.iter_mut().enumerate() {
            *value = self.finish(*value, i / plane % w.dims[0], inputs, |x| x);
        }
    }

    fn element(&self, inputs: &[&Array<f32>], dims: &[usize], index: usize) -> Option<T> {
        let ([x, w], [n, o, oy, ox]) = ([inputs[0], inputs[1]], position(dims, index));
        let mut sum = self.bias(inputs).map_or(T::zero(), |bias| T::of(f64::from(bias.data[o])));
        for c in 0..w.dims[1] {
            for kh in 0..w.dims[2] {
                let iy = input_at(oy, kh, self.stride[0], self.padding[0]);
                for kw in 0..w.dims[3] {
                    let ix = input_at(ox, kw, self.stride[1], self.padding[1]);
                    sum +=
                        x.get(n, c, iy, ix).map_or(T::zero(), |x| T::product(x, w.data[w.at(o, c, kh, kw)]));
                }
            }
        }
        Some(self.finish(sum, o, inputs, |x| T::of(f64::from(x))))
    }
}

impl Conv {
    fn bias<'a, T>(&self, inputs: &[&'a Array<T>]) -> Option<&'a Array<T>> {
        let bias = if self.norm.is_some() { inputs.len() == 7 } else { inputs.len() == 3 };
        inputs.get(2).filter(|_| bias).copied()
    }

    /// Fused batch norm and ReLU for output channel `o`.
    fn finish<T: Real, P: Copy>(&self, sum: T, o: usize, inputs: &[&Array<P>], number: impl Fn(P) -> T) -> T {
        let normed = match (self.norm, inputs) {
            (Some(epsilon), [.., weight, bias, mean, variance]) => {
                let [weight, bias, mean, variance] =
                    [weight, bias, mean, variance].map(|v| number(v.data[o]));
                (sum - mean) / (variance + T::of(f64::from(epsilon))).sqrt() * weight + bias
            }
            _ => sum,
        };
        if self.relu { normed.larger(T::zero()) } else { normed }
    }
}

impl<T: Real> Reference<T> for ConvInputGrad {
    /// With `accumulate`, dx is passed as the gradient to add to; otherwise as zeros.
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, w, dx) = (inputs[0], inputs[1], &mut outputs[0]);
        for_each_product(&dx.dims, &w.dims, &dy.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            dx.data[in_x] += dy.data[in_y] * w.data[in_w];
        });
        mask(dx, inputs.last().copied().filter(|_| self.masked));
    }

    fn element(&self, inputs: &[&Array<f32>], dims: &[usize], index: usize) -> Option<T> {
        let ([dy, w], [n, c, iy, ix]) = ([inputs[0], inputs[1]], position(dims, index));
        if self.masked && !inputs.last().is_some_and(|y| counts(y.data[index])) {
            return Some(T::zero());
        }
        let before = inputs.get(2).filter(|_| self.accumulate);
        let mut sum = before.map_or(T::zero(), |before| T::of(f64::from(before.data[index])));
        for o in 0..w.dims[0] {
            for kh in 0..w.dims[2] {
                let oy = output_at(iy, kh, self.stride[0], self.padding[0]);
                for kw in 0..w.dims[3] {
                    let ox = output_at(ix, kw, self.stride[1], self.padding[1]);
                    sum += dy
                        .get(n, o, oy, ox)
                        .map_or(T::zero(), |dy| T::product(dy, w.data[w.at(o, c, kh, kw)]));
                }
            }
        }
        Some(sum)
    }
}

impl<T: Real> Reference<T> for ConvWeightGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, dy, dw) = (inputs[0], inputs[1], &mut outputs[0]);
        for_each_product(&x.dims, &dw.dims, &dy.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            dw.data[in_w] += x.data[in_x] * dy.data[in_y];
        });
    }

    fn element(&self, inputs: &[&Array<f32>], dims: &[usize], index: usize) -> Option<T> {
        let ([x, dy], [o, c, kh, kw]) = ([inputs[0], inputs[1]], position(dims, index));
        let mut sum = T::zero();
        for n in 0..dy.dims[0] {
            for oy in 0..dy.dims[2] {
                let iy = input_at(oy, kh, self.stride[0], self.padding[0]);
                for ox in 0..dy.dims[3] {
                    let ix = input_at(ox, kw, self.stride[1], self.padding[1]);
                    sum += x
                        .get(n, c, iy, ix)
                        .map_or(T::zero(), |x| T::product(x, dy.data[dy.at(n, o, oy, ox)]));
                }
            }
        }
        Some(sum)
    }
}

impl<T: Real> Reference<T> for ConvBiasGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, db) = (inputs[0], &mut outputs[0]);
        let plane = dy.dims[2] * dy.dims[3];
        for (i, value) in dy.data.iter().enumerate() {
            db.data[i / plane % dy.dims[1]] += *value;
        }
    }
}
