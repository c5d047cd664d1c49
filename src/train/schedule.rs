//! Learning rate schedules: pure functions of how far training is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    /// One cycle (Smith and Topin 2018), as torch's `OneCycleLR`: from a 25th of the rate up to it along half a cosine, then down to a
    /// ten-thousandth of where it began.
    OneCycle {
        /// Share of the epochs in which the rate rises.
        rise: f64,
    },
}

impl Schedule {
    /// The learning rate after `epoch` of `epochs` epochs. The first `warmup` epochs rise linearly from zero.
    pub fn rate(&self, base: f64, warmup: f64, epoch: f64, epochs: f64) -> f64 {
        let done = if epochs > 0.0 { (epoch / epochs).clamp(0.0, 1.0) } else { 0.0 };
        let factor = match *self {
            Self::Constant => 1.0,
            Self::Step { epochs, factor } => factor.powf((epoch / epochs.max(f64::MIN_POSITIVE)).floor()),
            Self::Polynomial { power } => (1.0 - done).powf(power),
            Self::OneCycle { rise } => {
                let (low, end) = (1.0 / 25.0, 1.0 / 25.0 / 1e4);
                let between = |from: f64, to: f64, part: f64| {
                    to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
                };
                if done < rise {
                    between(low, 1.0, done / rise)
                } else {
                    between(1.0, end, (done - rise) / (1.0 - rise).max(f64::MIN_POSITIVE))
                }
            }
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        let rise = if epoch < warmup { epoch / warmup } else { 1.0 };
        base * factor * rise
    }
}

/// The name with its numbers: `constant`, `polynomial:0.5`, `cosine`, `step:8:0.96`, `onecycle:0.3`.
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

/// Reads what [`Schedule`] writes; numbers that are left out are the paper's (step), Caffe's (polynomial) and torch's (onecycle).
impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Config(format!("schedule `{text}`: {reason}"));
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut number = |default: f64| match parts.next() {
            None => Ok(default),
            Some(part) => match part.parse() {
                Ok(value) if value > 0.0 => Ok(value),
                _ => Err(wrong(format!("`{part}` is no number above zero"))),
            },
        };
        let schedule = match name {
            "constant" => Self::Constant,
            "polynomial" => Self::Polynomial { power: number(0.5)? },
            "cosine" => Self::Cosine,
            "step" => Self::Step { epochs: number(8.0)?, factor: number(0.96)? },
            "onecycle" => match number(0.3)? {
                rise if rise < 1.0 => Self::OneCycle { rise },
                rise => return Err(wrong(format!("the rise must be a share below 1, not {rise}"))),
            },
            _ => {
                let known =
                    "use constant, polynomial[:POWER], cosine, step[:EPOCHS:FACTOR] or onecycle[:RISE]";
                return Err(wrong(known.into()));
            }
        };
        match parts.next() {
            Some(rest) => Err(wrong(format!("`{rest}` is one value too many"))),
            None => Ok(schedule),
        }
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
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=11) after 0, 3 and 10 steps has the same three corners.
        let cycle = Schedule::OneCycle { rise: 0.3 };
        assert!(near(cycle.rate(1.0, 0.0, 0.0, 10.0), 0.04) && near(cycle.rate(1.0, 0.0, 3.0, 10.0), 1.0));
        assert!(near(cycle.rate(1.0, 0.0, 10.0, 10.0), 4e-6));
        assert!(near(cycle.rate(1.0, 0.0, 1.5, 10.0), 0.52), "half way up");
    }

    #[test]
    fn schedules_are_read_as_they_are_written() {
        for text in ["constant", "polynomial:1", "cosine", "step:2:0.5", "onecycle:0.25"] {
            assert_eq!(text.parse::<Schedule>().expect(text).to_string(), text);
        }
        assert_eq!("step".parse::<Schedule>().ok(), Some(Schedule::Step { epochs: 8.0, factor: 0.96 }));
        for wrong in ["", "stepp", "step:x", "cosine:1", "polynomial:0", "onecycle:1"] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }
}
