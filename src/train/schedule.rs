//! Learning rate schedules: pure functions of how far training is.

use serde::{Deserialize, Serialize};

/// How the learning rate changes. All are functions of the epochs done, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Schedule {
    /// The same rate throughout.
    Constant,
    /// Multiplied by `factor` every `epochs` epochs; the paper's section 6 has 0.96 every 8.
    Step {
        /// Epochs between changes.
        epochs: f64,
        /// What the rate is multiplied by.
        factor: f64,
    },
    /// (1 - done)^power; Caffe's `quick_solver` has power 0.5.
    Polynomial {
        /// The exponent.
        power: f64,
    },
    /// Half a cosine down to zero.
    Cosine,
}

impl Schedule {
    /// The learning rate after `epoch` of `epochs` epochs. The first `warmup` epochs rise linearly from zero.
    pub fn rate(&self, base: f64, warmup: f64, epoch: f64, epochs: f64) -> f64 {
        let done = if epochs > 0.0 { (epoch / epochs).clamp(0.0, 1.0) } else { 0.0 };
        let factor = match *self {
            Self::Constant => 1.0,
            Self::Step { epochs, factor } => factor.powf((epoch / epochs.max(f64::MIN_POSITIVE)).floor()),
            Self::Polynomial { power } => (1.0 - done).powf(power),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        let rise = if epoch < warmup { epoch / warmup } else { 1.0 };
        base * factor * rise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_take_their_documented_values() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(Schedule::Constant.rate(0.1, 0.0, 7.0, 10.0), 0.1));
        let paper = Schedule::Step { epochs: 8.0, factor: 0.96 };
        assert!(
            near(paper.rate(1.0, 0.0, 7.9, 100.0), 1.0)
                && near(paper.rate(1.0, 0.0, 16.0, 100.0), 0.96 * 0.96)
        );
        assert!(near(Schedule::Polynomial { power: 0.5 }.rate(1.0, 0.0, 7.5, 10.0), 0.5));
        assert!(near(Schedule::Cosine.rate(1.0, 0.0, 5.0, 10.0), 0.5));
        assert!(near(Schedule::Constant.rate(1.0, 2.0, 0.5, 10.0), 0.25));
    }
}
