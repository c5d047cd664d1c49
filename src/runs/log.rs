//! The log of a run: lines of JSON, each a [`Record`].

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

/// One line of the log; `kind` says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Record {
    /// A step, of those that are logged.
    Step(StepRecord),
    /// An epoch that was trained to its end.
    Epoch(EpochRecord),
    /// The beginning of an epoch that was left before its end: a run that goes on behind these
    /// steps adds it to the rest.
    Part(PartRecord),
    /// The run ended; a resumed run goes on behind it.
    End {
        /// Why.
        reason: StopReason,
        /// Epochs done.
        epochs: u64,
        /// Seconds since it was started or resumed.
        #[serde(deserialize_with = "number")]
        seconds: f64,
        /// What failed, if something did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

impl Record {
    /// The steps that were done when this was measured; none for the end.
    pub(super) fn steps(&self) -> u64 {
        match self {
            Self::Step(step) => step.step.saturating_add(1),
            Self::Epoch(epoch) => epoch.step,
            Self::Part(part) => part.step,
            Self::End { .. } => 0,
        }
    }

    /// The epoch, if this is one.
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
    /// Accuracy on the validation set did not rise any more for as many epochs as the run had
    /// patience for.
    Patience,
    /// It was asked to stop.
    Interrupted,
    /// It cannot go on: training diverged, or something could not be read or written.
    Failed,
}

/// A number; JSON has no NaN, which is written as null.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// One softmax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// `main`, `aux1` or `aux2`.
    pub name: String,
    /// Mean cross-entropy.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Share of images that it classified correctly, from 0 to 1.
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 0.
    pub step: u64,
    /// Epochs done before it, as a fraction.
    #[serde(deserialize_with = "number")]
    pub epoch: f64,
    /// Learning rate.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// The weighted sum of the losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Each softmax on the batch, the main one first.
    pub heads: Vec<HeadRecord>,
    /// Norm of the gradients before they were clipped, if they are clipped and it is finite.
    pub gradient_norm: Option<f64>,
    /// The loss scale, if the loss is scaled.
    pub loss_scale: Option<f64>,
    /// Images a second in this epoch so far.
    #[serde(deserialize_with = "number")]
    pub images_per_s: f64,
    /// Seconds since the run was started or resumed.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// What an epoch's look at the held-out images found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Images.
    pub count: usize,
    /// Share of them that are right, from 0 to 1.
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
    /// Share of them whose class is among the five most probable.
    #[serde(deserialize_with = "number")]
    pub accuracy5: f64,
    /// Mean cross-entropy.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Steps done after it.
    pub step: u64,
    /// Learning rate at its end.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// Mean weighted sum of the losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Each softmax over the epoch, measured while the parameters changed.
    pub heads: Vec<HeadRecord>,
    /// The main softmax on the held-out images.
    #[serde(alias = "held_out")]
    pub validation: Option<ValidationRecord>,
    /// The auxiliary softmaxes on the held-out images.
    #[serde(default, alias = "held_out_aux", skip_serializing_if = "Vec::is_empty")]
    pub validation_aux: Vec<HeadRecord>,
    /// Whether no epoch before was better on them.
    pub best: bool,
    /// Images a second.
    #[serde(deserialize_with = "number")]
    pub images_per_s: f64,
    /// Seconds that it took, the look at the held-out images included.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Share of the time of training in which the device worked on steps; none where it cannot
    /// tell.
    pub device_busy: Option<f64>,
    /// Bytes that training takes on the device.
    pub memory_bytes: u64,
    /// When it ended, in seconds since 1970 (UTC).
    pub time: u64,
}

/// What an epoch had measured when it was left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// Images of the epoch that were trained on.
    pub count: usize,
    /// Mean weighted sum of the losses.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Each softmax, the main one first.
    pub heads: Vec<HeadRecord>,
    /// Seconds that this part took.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

impl PartRecord {
    /// The epoch so far: the rest is added step by step, so that the sum is that of an epoch which
    /// was not left.
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
    /// Of a step with `count` images.
    pub fn of_step(head: &HeadMetrics, count: usize) -> Self {
        let accuracy = f64::from(head.correct) / count.max(1) as f64;
        Self { name: head.name.into(), loss: f64::from(head.loss), accuracy }
    }

    /// Of an epoch.
    pub fn of_epoch(head: &HeadSummary) -> Self {
        Self { name: head.name.into(), loss: head.loss, accuracy: head.accuracy }
    }

    /// Of an evaluation.
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

/// Bytes that a log may have: more than the longest trainings make.
const MAX_LOG_BYTES: u64 = 1 << 30;

/// Reads a log. A last line that a crash cut off is left out, and so is an epoch that is written
/// again further down: the held-out images were looked at when the run went on.
///
/// # Errors
/// [`Error::Io`] naming the file, [`Error::Format`] naming the line that is no record.
pub fn read_log(path: &Path) -> Result<Vec<Record>> {
    let (records, damaged) = read_log_leniently(path)?;
    match damaged.into_iter().next() {
        Some(reason) => Err(Error::format(path, reason)),
        None => Ok(records),
    }
}

/// As [`read_log`], without the lines that are no records: what is wrong with each of them is the
/// second value.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming a file that cannot be read at all.
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
    /// Opens the log of a run that has done `steps` steps: what an earlier start logged beyond them
    /// is taken out, as those steps will be done again.
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

    /// As [`LogWriter::write`]; the record outlives a loss of power then.
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
