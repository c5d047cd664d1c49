//! Learning rate schedules: pure functions of the position in training.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Learning rate schedule. All but one-cycle are functions of the fractional epochs before an
/// update: the first update has the full learning rate, and the final value would be that of the
/// update after the last, as in torch and Caffe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
#[non_exhaustive]
pub enum Schedule {
    /// Constant learning rate.
    Constant,
    /// Multiplied by `factor` every `epochs` epochs, as torch's `StepLR`; the paper's section 6
    /// uses 0.96 every 8.
    Step {
        /// Epochs between changes.
        epochs: f64,
        /// Factor of the learning rate.
        factor: f64,
    },
    /// (1 - done)^power, as torch's `PolynomialLR` and Caffe's `poly`; Caffe's `quick_solver` uses
    /// power 0.5.
    Polynomial {
        /// The exponent.
        power: f64,
    },
    /// Half a cosine to zero, as torch's `CosineAnnealingLR`.
    Cosine,
    /// One cycle per update (Smith and Topin 2018), as torch's `OneCycleLR`: along half cosines
    /// from 1/25 of the learning rate up to it, then down to 1/10,000 of the start; momentum
    /// (AdamW: beta1) goes from 0.95 to 0.85 and back.
    OneCycle {
        /// Share of updates with a rising learning rate, in (0, 1).
        rise: f64,
    },
}

/// Position of an update in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Update in the epoch, from 0.
    pub update: u64,
    /// Updates per epoch.
    pub updates: u64,
}

impl Moment {
    /// Fractional epochs before the update.
    pub fn epochs(self) -> f64 {
        self.epoch as f64 + self.update as f64 / self.updates.max(1) as f64
    }

    /// Updates before this one.
    fn done(self) -> u64 {
        self.epoch.saturating_mul(self.updates.max(1)).saturating_add(self.update)
    }

    /// The position after `done` updates.
    fn after(self, done: u64) -> Self {
        let updates = self.updates.max(1);
        Self { epoch: done / updates, update: done % updates, updates }
    }
}

/// Learning rate and momentum of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Learning rate.
    pub lr: f64,
    /// Momentum (AdamW: beta1) set by the schedule; `None` uses the optimizer's.
    pub momentum: Option<f64>,
}

impl From<f64> for Pace {
    fn from(lr: f64) -> Self {
        Self { lr, momentum: None }
    }
}

impl From<f32> for Pace {
    fn from(lr: f32) -> Self {
        Self::from(f64::from(lr))
    }
}

impl Schedule {
    /// Learning rate of the first warm-up update relative to the full one, as in torchvision's
    /// reference training.
    const WARMUP_START: f64 = 0.01;
    /// Momentum of one-cycle at the highest and the lowest learning rate, as in torch.
    const CYCLED_MOMENTUM: [f64; 2] = [0.85, 0.95];

    /// Learning rate and momentum of update `at` in a training of `epochs` epochs. During the first
    /// `warmup` epochs the learning rate rises linearly from 1% of `base` to `base`; the schedule
    /// then covers the remaining epochs.
    pub fn pace(&self, base: f64, warmup: f64, at: Moment, epochs: u64) -> Pace {
        let updates = at.updates.max(1);
        let rising = if warmup > 0.0 { ((warmup * updates as f64).round() as u64).max(1) } else { 0 };
        if at.done() < rising {
            let part = at.done() as f64 / rising as f64;
            return Pace::from(base * (Self::WARMUP_START + (1.0 - Self::WARMUP_START) * part));
        }
        if let Self::OneCycle { rise } = *self {
            let total = epochs.saturating_mul(updates).saturating_sub(rising);
            return Self::cycle(base, rise, at.done() - rising, total);
        }
        let before = at.after(rising).epochs();
        let (epoch, epochs) = (at.epochs() - before, epochs as f64 - before);
        let done = if epochs > 0.0 { (epoch / epochs).clamp(0.0, 1.0) } else { 0.0 };
        let factor = match *self {
            Self::Constant | Self::OneCycle { .. } => 1.0,
            // Tolerates rounding just below a whole number of steps.
            Self::Step { epochs, factor } => {
                factor.powf((epoch / epochs.max(f64::MIN_POSITIVE) + 1e-9).floor())
            }
            Self::Polynomial { power } => (1.0 - done).powf(power),
            Self::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        };
        Pace::from(base * factor)
    }

    /// One cycle after `done` of `total` updates. The peak is at update `rise` * `total` - 1,
    /// counted from 0, which may be fractional.
    fn cycle(base: f64, rise: f64, done: u64, total: u64) -> Pace {
        let last = total.max(1) as f64 - 1.0;
        let (peak, at) = (rise * total.max(1) as f64 - 1.0, (done as f64).min(last));
        let part = |at: f64, length: f64| if length > 0.0 { at / length } else { 1.0 };
        let between = |from: f64, to: f64, part: f64| to + (from - to) / 2.0 * ((PI * part).cos() + 1.0);
        let [low, high] = Self::CYCLED_MOMENTUM;
        let start = base / 25.0;
        let (lr, momentum) = if at <= peak {
            let part = part(at, peak);
            (between(start, base, part), between(high, low, part))
        } else {
            let part = part(at - peak, last - peak);
            (between(base, start / 1e4, part), between(low, high, part))
        };
        Pace { lr, momentum: Some(momentum) }
    }
}

/// The name with its parameters: `constant`, `polynomial:0.5`, `cosine`, `step:8:0.96`,
/// `onecycle:0.3`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Step { epochs, factor } => write!(f, "step:{epochs}:{factor}"),
            Self::Polynomial { power } => write!(f, "polynomial:{power}"),
            Self::Cosine => f.write_str("cosine"),
            Self::OneCycle { rise } => write!(f, "onecycle:{rise}"),
        }
    }
}

/// Parses the format of [`Schedule`]'s `Display`; omitted numbers are those of the paper (step),
/// Caffe (polynomial) and torch (onecycle).
impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |known: String| Error::Unknown { what: "schedule", name: text.into(), known };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut number = |default: f64| match parts.next() {
            None => Ok(default),
            Some(part) => match part.parse() {
                Ok(value) if value > 0.0 => Ok(value),
                _ => Err(wrong(format!("`{part}` is not a number above zero"))),
            },
        };
        let schedule = match name {
            "constant" => Self::Constant,
            "polynomial" => Self::Polynomial { power: number(0.5)? },
            "cosine" => Self::Cosine,
            "step" => Self::Step { epochs: number(8.0)?, factor: number(0.96)? },
            "onecycle" => match number(0.3)? {
                rise if rise < 1.0 => Self::OneCycle { rise },
                rise => return Err(wrong(format!("the rise must be below 1, not {rise}"))),
            },
            _ => {
                let known =
                    "use constant, polynomial[:POWER], cosine, step[:EPOCHS:FACTOR] or onecycle[:RISE]";
                return Err(wrong(known.into()));
            }
        };
        match parts.next() {
            Some(rest) => Err(wrong(format!("`{rest}` is an extra value"))),
            None => Ok(schedule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Position after `done` updates, with `updates` per epoch.
    fn moment(done: u64, updates: u64) -> Moment {
        Moment { epoch: done / updates, update: done % updates, updates }
    }

    /// Twelve updates in three epochs of torch's schedulers, generated by
    /// tests/fixtures/scripts/schedules_torch.py.
    #[test]
    fn schedules_match_torch() {
        let mut compared = 0;
        for line in include_str!("../../tests/fixtures/schedules.csv").lines() {
            let row: Vec<&str> = line.split(',').collect();
            let (name, warmup) = row[0].split_once('+').map_or((row[0], 0.0), |(name, _)| (name, 1.0));
            // Rows of optimizers with one-cycle are for the tests of operations.
            let Ok(schedule) = name.parse::<Schedule>() else { continue };
            let updates = if name.starts_with("step:0.1") { 10 } else { 4 };
            let done: u64 = row[1].parse().expect("a number");
            let pace = schedule.pace(0.1, warmup, moment(done, updates), 3);
            let near = |value: f64, torchs: &str| {
                let torchs: f64 = torchs.parse().expect("a number");
                (value - torchs).abs() < 1e-13
            };
            assert!(near(pace.lr, row[2]), "{line}: {pace:?}");
            match pace.momentum {
                Some(momentum) => assert!(near(momentum, row[3]), "{line}: {pace:?}"),
                None => assert_eq!(row[3], "", "{line}: {pace:?}"),
            }
            compared += 1;
        }
        assert_eq!(compared, 114);
    }

    #[test]
    fn warmup_ends_at_the_full_learning_rate() {
        for schedule in ["constant", "cosine", "polynomial", "step"] {
            let schedule: Schedule = schedule.parse().expect("a schedule");
            for (warmup, updates, rising) in [(2.0, 7, 14), (0.5, 5, 3), (0.01, 5, 1), (1.3, 10, 13)] {
                let rate = |done| schedule.pace(0.1, warmup, moment(done, updates), 9).lr;
                assert_eq!(rate(0), 0.001, "{schedule} {warmup}");
                assert!((1..rising).all(|done| rate(done) < 0.1 && rate(done) > rate(done - 1)));
                assert_eq!(rate(rising), 0.1, "{schedule} {warmup}");
                assert!(rate(rising + 1) <= 0.1, "{schedule} {warmup}");
            }
        }
    }

    /// Without warm-up, the learning rate is a function of the epochs done.
    #[test]
    fn schedules_take_their_documented_values() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        let rate = |schedule: Schedule, done, epochs| schedule.pace(1.0, 0.0, moment(done, 10), epochs).lr;
        assert_eq!(rate(Schedule::Constant, 70, 10), 1.0);
        let paper = Schedule::Step { epochs: 8.0, factor: 0.96 };
        assert!(near(rate(paper, 79, 100), 1.0) && near(rate(paper, 160, 100), 0.96 * 0.96));
        assert!(near(rate(Schedule::Polynomial { power: 0.5 }, 75, 10), 0.5));
        assert!(near(rate(Schedule::Cosine, 50, 10), 0.5));
        // The log also queries the position after the last update.
        let cycle = Schedule::OneCycle { rise: 0.3 };
        assert_eq!(rate(cycle, 100, 10), rate(cycle, 99, 10));
        // Trainings of zero, one or two updates.
        for (done, epochs) in [(0, 0), (0, 1), (1, 1)] {
            for rise in [0.3, 0.5, 0.9999] {
                let pace = Schedule::OneCycle { rise }.pace(1.0, 0.0, moment(done, 2), epochs);
                assert!(pace.lr.is_finite() && pace.momentum.is_some_and(f64::is_finite), "{pace:?}");
            }
        }
    }

    #[test]
    fn schedule_display_round_trips() {
        for text in ["constant", "polynomial:1", "cosine", "step:2:0.5", "onecycle:0.25"] {
            assert_eq!(text.parse::<Schedule>().expect(text).to_string(), text);
        }
        assert_eq!("step".parse::<Schedule>().ok(), Some(Schedule::Step { epochs: 8.0, factor: 0.96 }));
        for wrong in ["", "stepp", "step:x", "cosine:1", "polynomial:0", "onecycle:1"] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }
}
