//! CPU twin of `ops/conv.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};

/// Calls `visit` with (position in x, position in w, position in y) for every multiply-add of a convolution.
fn for_each_term(
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
                            // Rows and columns of the padding contribute nothing.
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

impl<T: Real> Reference<T> for Conv {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, w, y) = (inputs[0], inputs[1], &mut outputs[0]);
        if let Some(bias) = inputs.get(2) {
            let plane = y.dims[2] * y.dims[3];
            for (i, value) in y.data.iter_mut().enumerate() {
                *value = bias.data[i / plane % y.dims[1]];
            }
        }
        for_each_term(&x.dims, &w.dims, &y.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            y.data[in_y] += x.data[in_x] * w.data[in_w];
        });
        if self.relu {
            for value in &mut y.data {
                *value = value.larger(T::zero());
            }
        }
    }
}

impl<T: Real> Reference<T> for ConvInputGrad {
    /// With `accumulate`, dx arrives as a copy of the gradient that it is added to; else as zeros.
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, w, dx) = (inputs[0], inputs[1], &mut outputs[0]);
        for_each_term(&dx.dims, &w.dims, &dy.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            dx.data[in_x] += dy.data[in_y] * w.data[in_w];
        });
    }
}

impl<T: Real> Reference<T> for ConvWeightGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, dy, dw) = (inputs[0], inputs[1], &mut outputs[0]);
        for_each_term(&x.dims, &dw.dims, &dy.dims, self.stride, self.padding, |in_x, in_w, in_y| {
            dw.data[in_w] += x.data[in_x] * dy.data[in_y];
        });
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
