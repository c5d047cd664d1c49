//! Early exit on the command line: what `eval --early-exit` finds and keeps in a file beside the
//! checkpoint, and what `classify --early-exit` does with it.

use std::path::{Path, PathBuf};

use incept::infer::Calibration;
use incept::infer::Exit;
use incept::optim::Progress;
use incept::output::write_atomically;
use incept::untrusted::read_text;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::record::best_of;
use super::report::{note, shown};

/// A softmax's temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadCalibration {
    pub head: String,
    #[serde(flatten)]
    pub calibration: Calibration,
}

/// The file beside a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calibrated {
    /// The softmaxes in the order in which they come.
    pub heads: Vec<HeadCalibration>,
    /// Images that the temperatures were fitted to.
    #[serde(alias = "pictures")]
    pub images: usize,
    /// The threshold that saves most for at most half a point of accuracy, measured on them and
    /// with a standard error to spare.
    pub threshold: Option<f32>,
    /// The training state that it holds for.
    pub progress: Progress,
}

impl Calibrated {
    /// Where it is kept: `mnist.early-exit.json` for `mnist.safetensors`, and for a run's folder
    /// beside its best checkpoint.
    pub(crate) fn path(checkpoint: &Path) -> PathBuf {
        let file = best_of(checkpoint).unwrap_or_else(|_| checkpoint.to_path_buf());
        file.with_extension("early-exit.json")
    }

    pub(crate) fn temperatures(&self) -> Vec<f32> {
        self.heads.iter().map(|h| h.calibration.temperature).collect()
    }

    pub(crate) fn save(&self, checkpoint: &Path) -> Result<PathBuf> {
        let path = Self::path(checkpoint);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::format(&path, e.to_string()))?;
        write_atomically(&path, format!("{text}\n").as_bytes())?;
        Ok(path)
    }

    /// Reads what is kept for a checkpoint in this state of training, if there is something.
    fn load(checkpoint: &Path, progress: &Progress) -> Result<Option<Self>> {
        let path = Self::path(checkpoint);
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let found: Self = serde_json::from_str(&text).map_err(|e| {
            Error::format(&path, format!("is no result of `incept eval --early-exit`: {e}; run that again"))
        })?;
        if found.progress != *progress {
            note(&format!(
                "note: {} is of another state of this training and is not used: run `incept eval --early-exit` again",
                shown(&path)
            ));
            return Ok(None);
        }
        found.check().map_err(|reason| Error::format(&path, reason))?;
        Ok(Some(found))
    }

    /// Whether its numbers can be used.
    fn check(&self) -> std::result::Result<(), String> {
        let unusable = |t: &f32| !t.is_finite() || *t <= 0.0;
        if let Some(temperature) = self.temperatures().iter().find(|t| unusable(t)) {
            return Err(format!("has a temperature of {temperature}: run `incept eval --early-exit` again"));
        }
        match self.threshold.filter(|t| !(0.0..=1.0).contains(t)) {
            Some(threshold) => {
                Err(format!("has a threshold of {threshold}: run `incept eval --early-exit` again"))
            }
            None => Ok(()),
        }
    }
}

/// Where a person wants to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threshold {
    /// Where `eval --early-exit` found it best.
    Found,
    At(f32),
}

/// The exit of `classify --early-exit`: its threshold, at the temperatures that are kept.
pub(crate) fn exit(checkpoint: &Path, progress: &Progress, threshold: Threshold) -> Result<Exit> {
    let found = Calibrated::load(checkpoint, progress)?;
    let threshold = match (threshold, &found) {
        (Threshold::At(threshold), _) => threshold,
        (Threshold::Found, Some(Calibrated { threshold: Some(threshold), .. })) => *threshold,
        (Threshold::Found, Some(_)) => {
            let reason = "has no threshold that is sure to save anything for at most half a point of accuracy (fewer than 1,000 held-out images cannot tell): give one, as in --early-exit 0.9";
            return Err(Error::format(Calibrated::path(checkpoint), reason));
        }
        (Threshold::Found, None) => {
            let reason = "has no threshold of its own yet: run `incept eval --early-exit` on it, or give one, as in --early-exit 0.9";
            return Err(Error::format(checkpoint, reason));
        }
    };
    if found.is_none() {
        note(
            "note: probabilities are not calibrated: `incept eval --early-exit` fits temperatures and tells what a threshold costs",
        );
    }
    Ok(Exit { threshold, temperatures: found.map(|f| f.temperatures()).unwrap_or_default() })
}

/// A threshold as an option takes it.
pub(crate) fn threshold(text: &str) -> std::result::Result<Threshold, String> {
    match text.parse::<f32>() {
        _ if text == "auto" => Ok(Threshold::Found),
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(Threshold::At(value)),
        _ => Err("a threshold is a probability above 0 and at most 1, or `auto`".into()),
    }
}

/// Refuses networks that have a single softmax.
pub(crate) fn require_heads(checkpoint: &Path, has_aux: bool) -> Result<()> {
    if has_aux {
        return Ok(());
    }
    Err(Error::format(
        checkpoint,
        "has no auxiliary softmaxes to stop at: early exit needs a network that was trained with --aux-weight above 0",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_probabilities() {
        assert_eq!(threshold("0.9"), Ok(Threshold::At(0.9)));
        assert_eq!(threshold("auto"), Ok(Threshold::Found));
        assert!(threshold("0").is_err() && threshold("1.5").is_err() && threshold("sure").is_err());
    }

    #[test]
    fn it_is_kept_beside_the_checkpoint() {
        assert_eq!(Calibrated::path(Path::new("a/mnist.safetensors")), Path::new("a/mnist.early-exit.json"));
    }
}
