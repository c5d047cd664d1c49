//! Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017): the logits
//! are divided by one number, so that probabilities match the accuracy. Predictions do not change.

use serde::{Deserialize, Serialize};

use crate::infer::softmax;

/// A fitted temperature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The number to divide logits by.
    pub temperature: f32,
    /// Mean negative log-likelihood at temperature 1.
    pub before: f64,
    /// Mean negative log-likelihood at the temperature.
    pub after: f64,
}

/// Range of temperatures; beyond it there were too few images to fit one.
const RANGE: (f64, f64) = (0.05, 20.0);

/// The temperature with the lowest mean negative log-likelihood of the labels; 1 without images.
pub fn calibrate(logits: &[Vec<f32>], labels: &[u32]) -> Calibration {
    let before = nll(logits, labels, 1.0);
    if logits.is_empty() {
        return Calibration { temperature: 1.0, before, after: before };
    }
    // The likelihood is concave in 1 / T, so it has one peak in log T, which golden-section search
    // finds.
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (RANGE.0.ln(), RANGE.1.ln());
    while high - low > 1e-4 {
        let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
        if nll(logits, labels, left.exp()) < nll(logits, labels, right.exp()) {
            high = right;
        } else {
            low = left;
        }
    }
    let temperature = (f64::midpoint(low, high)).exp();
    Calibration { temperature: temperature as f32, before, after: nll(logits, labels, temperature) }
}

/// Mean negative log-likelihood of the labels.
fn nll(logits: &[Vec<f32>], labels: &[u32], temperature: f64) -> f64 {
    let one = |(row, label): (&Vec<f32>, &u32)| {
        let p = softmax(row, temperature as f32).get(*label as usize).copied().unwrap_or(0.0);
        -f64::from(p.max(f32::MIN_POSITIVE)).ln()
    };
    logits.iter().zip(labels).map(one).sum::<f64>() / logits.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images whose labels follow the softmax of their logits exactly: label 0 for the share given
    /// by its probability.
    fn honest(factor: f32) -> (Vec<Vec<f32>>, Vec<u32>) {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for step in 0..20 {
            let gap = step as f32 * 0.2;
            let share = 1.0 / (1.0 + (-gap).exp());
            for i in 0..1000 {
                logits.push(vec![gap * factor, 0.0]);
                labels.push(u32::from(i as f32 / 1000.0 >= share));
            }
        }
        (logits, labels)
    }

    #[test]
    fn temperature_recovers_the_factor_of_scaled_logits() {
        for factor in [0.5, 1.0, 3.0] {
            let (logits, labels) = honest(factor);
            let found = calibrate(&logits, &labels);
            assert!((found.temperature / factor - 1.0).abs() < 0.02, "{factor}: {found:?}");
            assert!(found.after <= found.before + 1e-9, "{found:?}");
        }
    }

    #[test]
    fn temperature_without_images_is_1() {
        assert_eq!(calibrate(&[], &[]).temperature, 1.0);
    }
}
