//! Detection of diverged training.

use crate::error::{Error, Result};
use crate::train::StepMetrics;

/// Number of consecutive steps with a non-finite loss, or of consecutive updates that overflow at
/// the smallest loss scale, after which training has diverged. Single ones are normal with f16
/// activations.
const DIVERGED: u64 = 8;

/// Detects diverged training.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Consecutive steps with a non-finite loss.
    non_finite: u64,
    /// Consecutive updates that overflowed at the smallest loss scale.
    overflows: u64,
    /// Total number of updates skipped because of an overflow.
    skipped: u64,
    /// Whether activations are f16.
    half: bool,
}

impl Health {
    /// Adds a step.
    ///
    /// # Errors
    /// [`Error::Diverged`], [`Error::DivergedInF16`] or [`Error::Overflows`] once training has
    /// diverged.
    pub(super) fn step(&mut self, step: &StepMetrics) -> Result<()> {
        self.non_finite = if step.loss.is_finite() { 0 } else { self.non_finite + 1 };
        // Accumulated batches without an update have no gradient norm.
        if let Some(scaling) = step.scaling.filter(|_| step.gradient_norm.is_some()) {
            let overflowed = scaling.skipped > self.skipped && scaling.is_smallest();
            self.overflows = if overflowed { self.overflows + 1 } else { 0 };
            self.skipped = scaling.skipped;
        }
        self.half |= step.scaling.is_some();
        let first = step.step + 1 - DIVERGED.min(step.step + 1);
        if self.non_finite >= DIVERGED {
            let end = if self.half {
                Error::DivergedInF16 { step: first }
            } else {
                Error::Diverged { step: first }
            };
            return Err(end);
        }
        if self.overflows >= DIVERGED { Err(Error::Overflows { step: first }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::train::ScalingMetrics;

    use super::*;

    /// The step at which divergence is detected, and the error.
    fn ended(mut steps: impl Iterator<Item = StepMetrics>) -> Option<(u64, Error)> {
        let mut health = Health::default();
        steps.find_map(|s| health.step(&s).err().map(|error| (s.step, error)))
    }

    #[test]
    fn divergence_is_detected() {
        let step = |step: u64, loss: f32, scaling: Option<(f32, u64)>| StepMetrics {
            step,
            count: 1,
            lr: 0.1,
            loss,
            heads: Vec::new(),
            gradient_norm: Some(1.0),
            scaling: scaling.map(|(scale, skipped)| ScalingMetrics { scale, skipped }),
        };
        assert!(ended((0..100).map(|i| step(i, if i % 8 == 7 { 1.0 } else { f32::NAN }, None))).is_none());
        let end = ended((0..100).map(|i| step(i, if i < 3 { 1.0 } else { f32::NAN }, None)));
        assert!(matches!(end, Some((10, Error::Diverged { step: 3 }))), "{end:?}");
        // Overflows are normal while the loss scale is still decreasing.
        let falls = |i: u64| step(i, 1.0, Some((65_536.0 / (1 << i.min(15)) as f32, i + 1)));
        assert!(ended((0..16).map(falls)).is_none());
        let end = ended((0..100).map(|i| step(i, 1.0, Some((1.0, i + 1)))));
        assert!(matches!(end, Some((7, Error::Overflows { step: 0 }))), "{end:?}");
        assert!(ended((0..100).map(|i| step(i, 1.0, Some((1.0, i / 2))))).is_none());
        // With f16, activations may have overflowed: the error suggests f32.
        let end = ended((0..100).map(|i| step(i, f32::INFINITY, Some((1024.0, 0)))));
        assert!(matches!(&end, Some((7, Error::DivergedInF16 { step: 0 }))), "{end:?}");
        assert!(end.is_some_and(|(_, error)| error.to_string().contains("Optimizer::precision")));
    }
}
