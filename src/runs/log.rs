//! The log of a run: JSON lines, one [`Record`] per line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::infer::Evaluation;
use crate::output::write_atomically;
use crate::train::{EpochSummary, HeadMetrics, HeadSummary};
use crate::untrusted::read_file;

/// A record of the log, tagged by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Record {
    /// A logged training step.
    Step(StepRecord),
    /// A completed epoch.
    Epoch(EpochRecord),
    /// The first part of an interrupted epoch; a run that resumes after these steps adds it to the
    /// rest.
    Part(PartRecord),
    /// The end of a run; a resumed run continues after it.
    End {
        /// Why.
        reason: StopReason,
        /// Epochs done.
        epochs: u64,
        /// Seconds since start or resume.
        #[serde(deserialize_with = "number")]
        seconds: f64,
        /// Error message of a failed run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl Record {
    /// Steps done at this record; 0 for the end.
    pub(super) fn steps(&self) -> u64 {
        match self {
            Self::Step(step) => step.step.saturating_add(1),
            Self::Epoch(epoch) => epoch.step,
            Self::Part(part) => part.step,
            Self::End { .. } => 0,
        }
    }

    /// The record of an epoch; `None` for other kinds.
    #[must_use]
    pub fn epoch(&self) -> Option<&EpochRecord> {
        if let Self::Epoch(epoch) = self { Some(epoch) } else { None }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopReason {
    /// All epochs are done.
    Done,
    /// Early stopping: validation accuracy did not improve for `patience` epochs.
    Patience,
    /// Stopped by the user.
    Interrupted,
    /// Training diverged, or reading or writing failed.
    Failed,
}

/// Deserializes a number; NaN is written as null in JSON.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Metrics of a head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// `main`, `aux1` or `aux2`.
    pub name: String,
    /// Mean cross-entropy.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Accuracy, in [0, 1].
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Step, from 0.
    pub step: u64,
    /// Fractional epochs before the step.
    #[serde(deserialize_with = "number")]
    pub epoch: f64,
    /// Learning rate.
    #[serde(alias = "rate", deserialize_with = "number")]
    pub lr: f64,
    /// Weighted sum of the heads' losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Metrics of each head on the batch, main head first.
    pub heads: Vec<HeadRecord>,
    /// Global gradient norm before clipping; `None` if not measured or not finite.
    pub gradient_norm: Option<f64>,
    /// Loss scale; `None` without loss scaling.
    pub loss_scale: Option<f64>,
    /// Images per second in this epoch so far.
    #[serde(deserialize_with = "number")]
    pub images_per_s: f64,
    /// Seconds since start or resume.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// Metrics on the validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Images.
    pub count: usize,
    /// Top-1 accuracy, in [0, 1].
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
    /// Top-5 accuracy, in [0, 1].
    #[serde(deserialize_with = "number")]
    pub accuracy5: f64,
    /// Mean cross-entropy.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Steps done at its end.
    pub step: u64,
    /// Learning rate at its end.
    #[serde(alias = "rate", deserialize_with = "number")]
    pub lr: f64,
    /// Mean weighted sum of the losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Training metrics of each head, averaged over the epoch.
    pub heads: Vec<HeadRecord>,
    /// Main head on the validation set; `None` without validation.
    #[serde(alias = "held_out")]
    pub validation: Option<ValidationRecord>,
    /// Auxiliary heads on the validation set.
    #[serde(default, alias = "held_out_aux", skip_serializing_if = "Vec::is_empty")]
    pub validation_aux: Vec<HeadRecord>,
    /// Whether this is the best validation accuracy so far.
    pub best: bool,
    /// Images per second.
    #[serde(deserialize_with = "number")]
    pub images_per_s: f64,
    /// Duration in seconds, validation included.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Share of training time in which the device was busy, in [0, 1]; `None` without timestamps.
    pub device_busy: Option<f64>,
    /// Device memory of training in bytes.
    pub memory_bytes: u64,
    /// End time in seconds since 1970 (UTC).
    pub time: u64,
}

/// Metrics of an interrupted epoch so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Total steps done.
    pub step: u64,
    /// Images trained on in this epoch.
    pub count: usize,
    /// Mean weighted sum of the losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Metrics of each head, main head first.
    pub heads: Vec<HeadRecord>,
    /// Duration of this part in seconds.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

impl PartRecord {
    /// The epoch so far; adding the remaining steps gives the summary of an uninterrupted epoch.
    #[must_use]
    pub fn summary(&self) -> EpochSummary {
        let name = |name: &str| ["aux1", "aux2"].into_iter().find(|aux| *aux == name).unwrap_or("main");
        let head = |h: &HeadRecord| HeadSummary { name: name(&h.name), loss: h.loss, accuracy: h.accuracy };
        EpochSummary {
            epoch: self.epoch,
            count: self.count,
            loss: self.loss,
            heads: self.heads.iter().map(head).collect(),
            interrupted: false,
        }
    }
}

impl HeadRecord {
    /// From a step with `count` images.
    pub fn of_step(head: &HeadMetrics, count: usize) -> Self {
        let accuracy = f64::from(head.correct) / count.max(1) as f64;
        Self { name: head.name.into(), loss: f64::from(head.loss), accuracy }
    }

    /// From an epoch's summary.
    pub fn of_epoch(head: &HeadSummary) -> Self {
        Self { name: head.name.into(), loss: head.loss, accuracy: head.accuracy }
    }

    /// From an evaluation.
    pub fn of_evaluation(name: &str, evaluation: &Evaluation) -> Self {
        Self { name: name.into(), loss: evaluation.loss, accuracy: evaluation.accuracy() }
    }
}

impl From<&Evaluation> for ValidationRecord {
    fn from(evaluation: &Evaluation) -> Self {
        Self {
            count: evaluation.count,
            accuracy: evaluation.accuracy(),
            accuracy5: evaluation.accuracy5(),
            loss: evaluation.loss,
        }
    }
}

/// Maximum bytes of a log, above those of very long trainings.
const MAX_LOG_BYTES: u64 = 1 << 30;

/// Reads a log. An incomplete last line, after a crash, is ignored. Of several records of an epoch
/// the last is used: resuming adds one with validation metrics.
///
/// # Errors
/// [`Error::Io`] naming the file, [`Error::Format`] naming the invalid line.
pub fn read_log(path: &Path) -> Result<Vec<Record>> {
    let (records, damaged) = read_log_leniently(path)?;
    match damaged.into_iter().next() {
        Some(reason) => Err(Error::format(path, reason)),
        None => Ok(records),
    }
}

/// As [`read_log`], but skips invalid lines; the second value has an error text for each.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming a file that cannot be read.
pub fn read_log_leniently(path: &Path) -> Result<(Vec<Record>, Vec<String>)> {
    let bytes = read_file(path, MAX_LOG_BYTES)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    for (i, line) in bytes[..end].split(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice::<Record>(line) {
            Ok(record) => records.push(record),
            Err(_) if line.is_empty() => {}
            Err(error) => damaged.push(format!("line {}: {error}", i + 1)),
        }
    }
    let number = |record: &Record| if let Record::Epoch(epoch) = record { Some(epoch.epoch) } else { None };
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    last.extend(records.iter().enumerate().filter_map(|(i, record)| Some((number(record)?, i))));
    let mut at = 0..;
    records.retain(|record| {
        let at = at.next();
        number(record).is_none_or(|epoch| last.get(&epoch).copied() == at)
    });
    Ok((records, damaged))
}

/// Replaces a log.
pub(super) fn write_log(path: &Path, records: &[Record]) -> Result<()> {
    let lines = records.iter().map(line).collect::<Result<Vec<_>>>()?;
    write_atomically(path, lines.concat().as_bytes())
}

/// Appends to a log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
}

impl LogWriter {
    /// Opens the log of a run that has done `steps` steps; later records are removed, because those
    /// steps will be repeated.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn open(path: &Path, steps: u64) -> Result<Self> {
        let mut records = if path.is_file() { read_log(path)? } else { Vec::new() };
        records.retain(|record| match record {
            Record::Part(part) => part.step == steps,
            record => record.steps() <= steps,
        });
        write_log(path, &records)?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends one record, a whole line at once.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(line(record)?.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }

    /// As [`LogWriter::write`], and syncs the file to disk.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write_through(&mut self, record: &Record) -> Result<()> {
        self.write(record)?;
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

fn line(record: &Record) -> Result<String> {
    let mut text = serde_json::to_string(record).map_err(Error::unwritable)?;
    text.push('\n');
    Ok(text)
}
