//! Norms of batch norm results without cancellation, used as the base of relative errors where a
//! result is near zero. A constant upstream gradient, for example, has an input gradient of zero,
//! which f32 misses by rounding errors of the operands.

use super::operations::Case;
use crate::error::{Error, Result};
use crate::reference::Array;
use crate::text::plural;

/// Norms of the results without cancellation.
pub(super) struct NormSizes {
    pub output: f64,
    /// Running mean.
    pub mean: f64,
    /// Gradients of input, weight and bias.
    pub gradients: [f64; 3],
}

/// A channel's contribution to the norms.
struct Channel {
    output: f64,
    input_gradient: f64,
    magnitude: f64,
    weight_gradient: f64,
    bias_gradient: f64,
}

impl NormSizes {
    /// The arrays are input, upstream gradient, weight, bias, running mean and running variance.
    pub(super) fn of(
        case: &Case<'_>,
        [x, dy, weight, bias, mean, variance]: [&Array<f32>; 6],
        epsilon: f32,
        training: bool,
    ) -> Result<Self> {
        let [_, channels, height, width] = x.dims[..] else {
            return Err(Error::tensor(
                case.name,
                format!("has an input of shape {:?}, not four dimensions", x.dims),
            ));
        };
        let whole = x.data.len() == dy.data.len() && x.data.len() == x.dims.iter().product::<usize>();
        if !whole || [weight, bias, mean, variance].iter().any(|a| a.data.len() != channels) {
            let channels = plural(channels, "channel");
            return Err(Error::tensor(case.name, format!("has tensors that do not fit {channels}")));
        }
        let channel = |c: usize| {
            let of = |array: &Array<f32>| f64::from(array.data[c]);
            let here = |i: &usize| i / (height * width) % channels == c;
            let values = |array: &Array<f32>| -> Vec<f64> {
                (0..array.data.len()).filter(here).map(|i| f64::from(array.data[i])).collect()
            };
            let statistics = (!training).then(|| (of(mean), of(variance)));
            Channel::of(&values(x), &values(dy), [of(weight), of(bias), f64::from(epsilon)], statistics)
        };
        let channels: Vec<Channel> = (0..channels).map(channel).collect();
        let root = |part: fn(&Channel) -> f64| channels.iter().map(|c| part(c).powi(2)).sum::<f64>().sqrt();
        Ok(Self {
            output: root(|c| c.output),
            mean: root(|c| c.magnitude),
            gradients: [root(|c| c.input_gradient), root(|c| c.weight_gradient), root(|c| c.bias_gradient)],
        })
    }
}

impl Channel {
    fn of(x: &[f64], dy: &[f64], [weight, bias, epsilon]: [f64; 3], statistics: Option<(f64, f64)>) -> Self {
        let count = x.len().max(1) as f64;
        let own = || {
            let mean = x.iter().sum::<f64>() / count;
            (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count)
        };
        let (mean, variance) = statistics.unwrap_or_else(own);
        let inverse = 1.0 / (variance.max(0.0) + epsilon).sqrt();
        // The mean is subtracted in f32, with both rounding errors.
        let normalised = |v: &f64| (v.abs() + mean.abs()) * inverse;
        let sum: f64 = dy.iter().map(|g| g.abs()).sum();
        let product: f64 = x.iter().zip(dy).map(|(v, g)| g.abs() * normalised(v)).sum();
        let rest = |v: &f64| if statistics.is_none() { (sum + normalised(v) * product) / count } else { 0.0 };
        let gradient = |(v, g): (&f64, &f64)| weight.abs() * inverse * (g.abs() + rest(v));
        let norm = |squares: f64| squares.sqrt();
        Self {
            output: norm(x.iter().map(|v| (normalised(v) * weight.abs() + bias.abs()).powi(2)).sum()),
            input_gradient: norm(x.iter().zip(dy).map(|pair| gradient(pair).powi(2)).sum()),
            magnitude: x.iter().map(|v| v.abs()).sum::<f64>() / count,
            weight_gradient: product,
            bias_gradient: sum,
        }
    }
}
