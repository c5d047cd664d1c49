//! CPU reference of `ops/lrn.rs`.

use super::relu::mask;
use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{Lrn, LrnGrad};

/// k + alpha / size * (sum of x^2 over the channels around c), at pixel (n, y, x).
fn scale<T: Real>(lrn: &Lrn, x: &Array<T>, [n, c, y, xx]: [usize; 4]) -> T {
    let half = lrn.size / 2;
    let around = c.saturating_sub(half)..(c + half + 1).min(x.dims[1]);
    let sum: T = around.map(|j| x.data[x.at(n, j, y, xx)] * x.data[x.at(n, j, y, xx)]).sum();
    T::of(f64::from(lrn.k)) + T::of(f64::from(lrn.alpha)) / T::of(lrn.size as f64) * sum
}

fn positions(dims: &[usize]) -> impl Iterator<Item = [usize; 4]> + use<> {
    let [c, h, w] = [dims[1], dims[2], dims[3]];
    (0..dims.iter().product()).map(move |i: usize| [i / w / h / c, i / w / h % c, i / w % h, i % w])
}

impl<T: Real> Reference<T> for Lrn {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let x = inputs[0];
        let beta = T::of(f64::from(self.beta));
        for (i, at) in positions(&x.dims).enumerate() {
            outputs[0].data[i] = x.data[i] * scale(self, x, at).powf(-beta);
        }
    }
}

impl<T: Real> Reference<T> for LrnGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, dy, dx) = (inputs[0], inputs[1], &mut outputs[0]);
        let lrn = &self.lrn;
        let beta = T::of(f64::from(lrn.beta));
        let factor = T::of(2.0 * f64::from(lrn.beta)) * T::of(f64::from(lrn.alpha)) / T::of(lrn.size as f64);
        let half = lrn.size / 2;
        for (i, [n, c, y, xx]) in positions(&x.dims).enumerate() {
            let mut sum = T::zero();
            for j in c.saturating_sub(half)..(c + half + 1).min(x.dims[1]) {
                let at = x.at(n, j, y, xx);
                sum += dy.data[at] * x.data[at] * scale(lrn, x, [n, j, y, xx]).powf(-beta - T::one());
            }
            dx.data[i] = dy.data[i] * scale(lrn, x, [n, c, y, xx]).powf(-beta) - factor * x.data[i] * sum;
        }
        mask(dx, Some(x).filter(|_| self.masked));
    }
}
