//! CPU reference of `ops/max_pool.rs`.

use super::relu::mask;
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{MaxPool, MaxPoolGrad};

/// Input rows or columns covered by window `o`.
pub(super) fn window(
    o: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    size: usize,
) -> std::ops::Range<usize> {
    let start = (o * stride).saturating_sub(padding);
    start..(o * stride + kernel - padding).min(size)
}

impl<T: Real> Reference<T> for MaxPool {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let x = inputs[0];
        let dims = outputs[0].dims.clone();
        for n in 0..dims[0] {
            for c in 0..dims[1] {
                for oy in 0..dims[2] {
                    for ox in 0..dims[3] {
                        let mut best: Option<(T, usize)> = None;
                        for y in window(oy, self.kernel, self.stride, self.padding, x.dims[2]) {
                            for xx in window(ox, self.kernel, self.stride, self.padding, x.dims[3]) {
                                let value = x.data[x.at(n, c, y, xx)];
                                let is_nan = value.partial_cmp(&value).is_none();
                                if best.is_none_or(|(best, _)| value > best || is_nan) {
                                    best = Some((value, y * x.dims[3] + xx));
                                }
                            }
                        }
                        let at = outputs[0].at(n, c, oy, ox);
                        if let Some((value, index)) = best {
                            outputs[0].data[at] = value;
                            if let Some(indices) = outputs.get_mut(1) {
                                indices.data[at] = T::of(index as f64);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl<T: Real> Reference<T> for MaxPoolGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (dy, indices, dx) = (inputs[0], inputs[1], &mut outputs[0]);
        let (out_plane, plane) = (dy.dims[2] * dy.dims[3], dx.dims[2] * dx.dims[3]);
        for (i, (dy, index)) in dy.data.iter().zip(&indices.data).enumerate() {
            dx.data[i / out_plane * plane + index.to_index()] += *dy;
        }
        mask(dx, inputs.last().copied().filter(|_| self.masked));
    }
}
