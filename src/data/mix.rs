//! Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019). All random draws are a pure function of
//! seed, epoch and batch number.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Batch;
use super::split::{Purpose, generator};
use crate::error::{Error, Result};

/// Parameters of mixup and cutmix: `Mix::default().mixup(0.2)`. If both are above zero, each batch
/// uses one of them, p = 0.5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mix {
    /// Alpha of mixup, which blends images by shares from Beta(alpha, alpha); 0 disables it.
    pub mixup: f64,
    /// Alpha of cutmix, which pastes a rectangle with an area from Beta(alpha, alpha); 0 disables
    /// it.
    pub cutmix: f64,
}

/// The second labels of a mixed batch.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedLabels {
    /// One class per row, wherever the first label is a class.
    pub second: Vec<u32>,
    /// Weight of the first label per row, in [0, 1].
    pub share: Vec<f32>,
}

impl Mix {
    /// Alpha of mixup; 0 disables it.
    #[must_use]
    pub fn mixup(self, mixup: f64) -> Self {
        Self { mixup, ..self }
    }

    /// Alpha of cutmix; 0 disables it.
    #[must_use]
    pub fn cutmix(self, cutmix: f64) -> Self {
        Self { cutmix, ..self }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (alpha, field) in [(self.mixup, "Mix::mixup"), (self.cutmix, "Mix::cutmix")] {
            if !alpha.is_finite() || alpha < 0.0 {
                return Err(Error::out_of_range(field, "a number from 0 up", alpha));
            }
        }
        Ok(())
    }

    /// Mixes the rows of a batch of square RGB images; missing rows stay unchanged. The rows
    /// `fillers`, which have images but no labels, are mixed only with each other: batch norm sees
    /// mixed images throughout, and their classes do not reach the loss.
    pub(super) fn apply(&self, batch: &mut Batch, fillers: &[usize], seed: u64, epoch: u64, number: u64) {
        let mut random = generator(Purpose::Mix, seed, epoch, number);
        let blend = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => random.random::<f64>() < 0.5,
            (blend, _) => blend,
        };
        let rows: Vec<usize> =
            (0..batch.labels.len()).filter(|i| batch.labels[*i] != Batch::MISSING).collect();
        let row = batch.images.len() / batch.labels.len().max(1);
        let side = (row / 3).isqrt();
        let originals = batch.images.clone();
        let mut mixed = MixedLabels { second: batch.labels.clone(), share: vec![1.0; batch.labels.len()] };
        for group in [&rows[..], fillers] {
            let mut partners = group.to_vec();
            partners.shuffle(&mut random);
            for (&i, &partner) in group.iter().zip(&partners) {
                let alpha = if blend { self.mixup } else { self.cutmix };
                let share = beta(&mut random, alpha);
                let other = &originals[partner * row..(partner + 1) * row];
                let mine = &mut batch.images[i * row..(i + 1) * row];
                mixed.second[i] = batch.labels[partner];
                mixed.share[i] = if blend {
                    let share = share as f32;
                    mine.iter_mut().zip(other).for_each(|(a, b)| *a = share * *a + (1.0 - share) * b);
                    share
                } else {
                    paste(&mut random, mine, other, side, share)
                };
            }
        }
        batch.mixed = Some(mixed);
    }
}

/// Pastes a rectangle with an area of 1 - `share`, clipped to the image; returns the share that
/// remains.
fn paste(random: &mut ChaCha8Rng, mine: &mut [f32], other: &[f32], side: usize, share: f64) -> f32 {
    let extent = (1.0 - share).sqrt() * side as f64;
    let mut range = || {
        let centre = random.random::<f64>() * side as f64;
        let bound = |at: f64| at.round().clamp(0.0, side as f64) as usize;
        bound(centre - extent / 2.0)..bound(centre + extent / 2.0)
    };
    let (rows, columns) = (range(), range());
    for plane in 0..3 {
        for y in rows.clone() {
            let line = (plane * side + y) * side;
            let cells = line + columns.start..line + columns.end;
            mine[cells.clone()].copy_from_slice(&other[cells]);
        }
    }
    1.0 - (rows.len() * columns.len()) as f32 / (side * side).max(1) as f32
}

/// Draws from Beta(alpha, alpha) by two draws from Gamma(alpha).
fn beta(random: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let (a, b) = (log_gamma_draw(random, alpha), log_gamma_draw(random, alpha));
    // In logarithms, because for a small alpha both draws may underflow in f64.
    1.0 / (1.0 + (b - a).exp())
}

/// Logarithm of a draw from Gamma(alpha, 1): Marsaglia and Tsang's method for alpha + 1, reduced by
/// a power of a uniform draw.
fn log_gamma_draw(random: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let d = alpha + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    let mut uniform = || 1.0 - random.random::<f64>();
    loop {
        // Box-Muller transform.
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let v = (1.0 + c * normal).powi(3);
        if v > 0.0 && uniform().ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
            return (d * v).ln() + uniform().ln() / alpha;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_beta_distribution() {
        for alpha in [0.2, 1.0, 4.0] {
            let mut random = generator(Purpose::Mix, 1, 2, 3);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(&mut random, alpha)).collect();
            let mean = draws.iter().sum::<f64>() / 2e4;
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 2e4;
            // Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(
                (mean - 0.5).abs() < 0.01 && (variance / expected - 1.0).abs() < 0.05,
                "{alpha}: {variance}"
            );
            assert!(draws.iter().all(|d| (0.0..=1.0).contains(d)));
        }
    }
}
