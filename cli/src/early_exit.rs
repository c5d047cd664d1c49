//! Early exit: the calibration file that `eval --early-exit` saves next to a checkpoint, and that
//! `classify --early-exit` uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use incept::infer::Calibration;
use incept::infer::Exit;
use incept::low_level::output::write_atomically;
use incept::low_level::untrusted::read_text;
use incept::optim::Progress;
use incept::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};

use super::pretrained::note_untrained_heads;
use super::record::best_of;
use super::report::{note, shown};

/// The temperature of a head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadCalibration {
    pub head: String,
    #[serde(flatten)]
    pub calibration: Calibration,
}

/// The calibration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calibrated {
    /// The heads by name.
    #[serde(deserialize_with = "by_name")]
    pub heads: BTreeMap<String, Calibration>,
    /// Number of images that the temperatures were fitted to.
    #[serde(alias = "pictures")]
    pub images: usize,
    /// The threshold with the least compute whose loss of accuracy on these images, plus a standard
    /// error, is up to half a percentage point; none if there is none.
    pub threshold: Option<f32>,
    /// The training state that it is valid for.
    pub progress: Progress,
}

impl Calibrated {
    /// Its path: `mnist.early-exit.json` for `mnist.safetensors`; for a run's folder, that of its
    /// best checkpoint.
    pub(crate) fn path(checkpoint: &Path) -> PathBuf {
        let file = best_of(checkpoint).unwrap_or_else(|_| checkpoint.to_path_buf());
        file.with_extension("early-exit.json")
    }

    pub(crate) fn save(&self, checkpoint: &Path) -> Result<PathBuf> {
        let path = Self::path(checkpoint);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::format(&path, e.to_string()))?;
        write_atomically(&path, format!("{text}\n").as_bytes())?;
        Ok(path)
    }

    /// Reads the file of a checkpoint; none if there is none for this training state.
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
            Error::format(&path, format!("is not a result of `incept eval --early-exit`: {e}; run it again"))
        })?;
        if found.progress != *progress {
            note(&format!(
                "note: {} is from another training state and is ignored; run `incept eval --early-exit` again",
                shown(&path)
            ));
            return Ok(None);
        }
        found.check().map_err(|reason| Error::format(&path, reason))?;
        Ok(Some(found))
    }

    /// Checks its numbers.
    fn check(&self) -> std::result::Result<(), String> {
        let unusable = |t: &f32| !t.is_finite() || *t <= 0.0;
        let mut temperatures = self.heads.values().map(|calibration| calibration.temperature);
        if let Some(temperature) = temperatures.find(unusable) {
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

/// Heads by name, or the list of earlier versions.
fn by_name<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<BTreeMap<String, Calibration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Heads {
        ByName(BTreeMap<String, Calibration>),
        List(Vec<HeadCalibration>),
    }
    Ok(match Heads::deserialize(from)? {
        Heads::ByName(map) => map,
        Heads::List(list) => list.into_iter().map(|h| (h.head, h.calibration)).collect(),
    })
}

/// The value of `classify --early-exit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threshold {
    /// The threshold that `eval --early-exit` chose.
    Auto,
    At(f32),
}

/// The exit criterion of `classify --early-exit`: threshold and calibrated temperatures.
pub(crate) fn exit(checkpoint: &Path, progress: &Progress, threshold: Threshold) -> Result<Exit> {
    let found = Calibrated::load(checkpoint, progress)?;
    let threshold = match (threshold, &found) {
        (Threshold::At(threshold), _) => threshold,
        (Threshold::Auto, Some(Calibrated { threshold: Some(threshold), .. })) => *threshold,
        (Threshold::Auto, Some(_)) => {
            let reason = "has no threshold that saves compute for up to half a percentage point of accuracy (choosing one takes 1,000 or more validation images): give one, as in --early-exit 0.9";
            return Err(Error::format(Calibrated::path(checkpoint), reason));
        }
        (Threshold::Auto, None) => {
            let reason = "has no threshold yet: run `incept eval --early-exit` on it, or give one, as in --early-exit 0.9";
            return Err(Error::format(checkpoint, reason));
        }
    };
    if found.is_none() {
        note(
            "note: probabilities are not calibrated; `incept eval --early-exit` fits temperatures and measures thresholds",
        );
    }
    let heads = found.map(|found| found.heads).unwrap_or_default();
    let exit = heads.into_iter().fold(Exit::new(threshold), |exit, (head, calibration)| {
        exit.temperature(head, calibration.temperature)
    });
    Ok(exit)
}

/// Parses a threshold.
pub(crate) fn threshold(text: &str) -> std::result::Result<Threshold, String> {
    match text.parse::<f32>() {
        _ if text == "auto" => Ok(Threshold::Auto),
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(Threshold::At(value)),
        _ => Err("must be a probability in (0, 1], or `auto`".into()),
    }
}

/// Rejects networks without auxiliary heads.
pub(crate) fn require_heads(checkpoint: &Path, has_aux: bool) -> Result<()> {
    note_untrained_heads(checkpoint);
    if has_aux {
        return Ok(());
    }
    Err(Error::format(
        checkpoint,
        "has no auxiliary heads to exit at: early exit needs a network that was trained with --aux-weight above 0",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_probabilities() {
        assert_eq!(threshold("0.9"), Ok(Threshold::At(0.9)));
        assert_eq!(threshold("auto"), Ok(Threshold::Auto));
        assert!(threshold("0").is_err() && threshold("1.5").is_err() && threshold("sure").is_err());
    }

    /// Earlier versions wrote a list, in another order than that of the heads elsewhere.
    #[test]
    fn calibration_is_written_by_name_and_lists_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let checkpoint = folder.path().join("digits.safetensors");
        let progress = Progress::default();
        let old = serde_json::json!({
            "heads": [
                { "head": "aux1", "temperature": 1.5, "before": 0.5, "after": 0.4 },
                { "head": "aux2", "temperature": 2.0, "before": 0.5, "after": 0.4 },
                { "head": "main", "temperature": 3.0, "before": 0.5, "after": 0.4 },
            ],
            "images": 300,
            "threshold": 0.75,
            "progress": progress,
        });
        std::fs::write(Calibrated::path(&checkpoint), old.to_string()).expect("can be written");
        let want = Exit::new(0.75).temperature("aux1", 1.5).temperature("aux2", 2.0).temperature("main", 3.0);
        assert_eq!(exit(&checkpoint, &progress, Threshold::Auto).expect("is read"), want);

        let read = Calibrated::load(&checkpoint, &progress).expect("is read").expect("is there");
        let text = std::fs::read_to_string(read.save(&checkpoint).expect("is saved")).expect("is there");
        let new: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(new["heads"]["aux2"]["temperature"], 2.0, "{text}");
        assert_eq!(exit(&checkpoint, &progress, Threshold::Auto).expect("is read"), want);
    }

    #[test]
    fn calibration_is_saved_next_to_the_checkpoint() {
        assert_eq!(Calibrated::path(Path::new("a/mnist.safetensors")), Path::new("a/mnist.early-exit.json"));
    }
}
