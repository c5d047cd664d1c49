//! CPU reference of `ops/batch_norm.rs`.

use super::{Array, Real, Reference};
use crate::kernel::Step;
use crate::ops::{BatchNorm, BatchNormGrad};

/// Indices of the elements of a channel.
fn channel(dims: &[usize], c: usize) -> impl Iterator<Item = usize> + use<> {
    let (items, channels, plane) = (dims[0], dims[1], dims[2] * dims[3]);
    (0..items).flat_map(move |n| (0..plane).map(move |k| (n * channels + c) * plane + k))
}

impl<T: Real> Reference<T> for BatchNorm {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, weight, bias) = (inputs[0], inputs[1], inputs[2]);
        let epsilon = T::of(f64::from(self.epsilon));
        let momentum = T::of(f64::from(self.momentum));
        let total = T::of((x.data.len() / x.dims[1]) as f64);
        for c in 0..x.dims[1] {
            let (mut mean, mut variance) = (inputs[3].data[c], inputs[4].data[c]);
            if self.training {
                mean = channel(&x.dims, c).map(|i| x.data[i]).sum::<T>() / total;
                let squares: T = channel(&x.dims, c).map(|i| (x.data[i] - mean) * (x.data[i] - mean)).sum();
                variance = squares / total;
                let unbiased = squares / (total - T::one()).larger(T::one());
                let [mut running_mean, mut running_var] = [inputs[3].data[c], inputs[4].data[c]];
                // Non-finite values would persist in running statistics.
                if squares.to_f64().is_finite() {
                    running_mean = running_mean + momentum * (mean - running_mean);
                    running_var = running_var + momentum * (unbiased - running_var);
                }
                (outputs[3].data[c], outputs[4].data[c]) = (running_mean, running_var);
            }
            let inverse_std = T::one() / (variance + epsilon).sqrt();
            if self.training {
                outputs[1].data[c] = mean;
                outputs[2].data[c] = inverse_std;
            }
            for i in channel(&x.dims, c) {
                let y = (x.data[i] - mean) * inverse_std * weight.data[c] + bias.data[c];
                outputs[0].data[i] = if self.relu { y.larger(T::zero()) } else { y };
            }
        }
    }
}

impl<T: Real> Reference<T> for BatchNormGrad {
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], _step: &Step) {
        let (x, y, dy, weight) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let total = T::of((x.data.len() / x.dims[1]) as f64);
        for c in 0..x.dims[1] {
            let (mean, spread) = (inputs[4].data[c], inputs[5].data[c]);
            let epsilon = T::of(f64::from(self.epsilon));
            let inverse_std = if self.training { spread } else { T::one() / (spread + epsilon).sqrt() };
            let normalised = |i: usize| (x.data[i] - mean) * inverse_std;
            let upstream =
                |i: usize| if self.relu && y.data[i] <= T::zero() { T::zero() } else { dy.data[i] };
            let sum: T = channel(&x.dims, c).map(upstream).sum();
            let product: T = channel(&x.dims, c).map(|i| upstream(i) * normalised(i)).sum();
            outputs[1].data[c] = product;
            outputs[2].data[c] = sum;
            for i in channel(&x.dims, c) {
                // Batch statistics depend on every element, running statistics on none.
                let rest = if self.training { (sum + normalised(i) * product) / total } else { T::zero() };
                outputs[0].data[i] = weight.data[c] * inverse_std * (upstream(i) - rest);
            }
        }
    }
}
