//! Records a training run: log and checkpoints in its folder, and TensorBoard's event files.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::table::table;
use super::{
    EpochRecord, EventWriter, HeadRecord, LogWriter, Machine, PartRecord, Record, RunFolder, StepRecord,
    StopReason, ValidationRecord, read_log_leniently,
};
use crate::checkpoint::{Checkpoint, ModelCheckpoint};
use crate::error::{Error, Result};
use crate::gpu::AdapterSummary;
use crate::infer::Evaluation;
use crate::model::Model;
use crate::optim::Progress;
use crate::output::{is_special, write_atomically};
use crate::train::{EpochSummary, StepMetrics};
use crate::untrusted::{MAX_FILE_BYTES, read_file};

/// Approximate number of step records per epoch, enough for a curve.
const STEPS_PER_EPOCH: usize = 200;

/// Report of an epoch for observers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EpochReport {
    /// Losses and accuracies on the training set, measured while the parameters changed.
    #[serde(flatten)]
    pub summary: EpochSummary,
    /// Learning rate at its end.
    pub lr: f64,
    /// Seconds of training, without validation.
    pub seconds: f64,
    /// Training images per second.
    pub images_per_s: f64,
    /// The main head on the validation set; `None` without validation or if it was interrupted.
    pub validation: Option<Evaluation>,
    /// The main head's validation accuracy, in [0, 1].
    pub validation_accuracy: Option<f64>,
    /// The auxiliary heads on the validation set; empty if the network has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_aux: Vec<HeadRecord>,
    /// Whether this is the best validation accuracy so far.
    pub best: bool,
    /// Share of training time in which the device was busy, in [0, 1]; `None` without timestamps.
    pub device_busy: Option<f64>,
}

/// Options of recording: `RecorderOptions::default().keep(2)`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecorderOptions {
    /// Steps per epoch; about 200 of them are logged.
    pub steps_per_epoch: usize,
    /// Device memory of training in bytes, for the log.
    pub memory_bytes: u64,
    /// Number of checkpoints to keep besides the newest and the best.
    pub keep: usize,
    /// The folder of TensorBoard's event files; `None` to write none.
    pub tensorboard: Option<PathBuf>,
}

impl RecorderOptions {
    /// Steps per epoch.
    #[must_use]
    pub fn steps_per_epoch(self, steps_per_epoch: usize) -> Self {
        Self { steps_per_epoch, ..self }
    }

    /// Device memory of training in bytes, for the log.
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: u64) -> Self {
        Self { memory_bytes, ..self }
    }

    /// Number of checkpoints to keep besides the newest and the best.
    #[must_use]
    pub fn keep(self, keep: usize) -> Self {
        Self { keep, ..self }
    }

    /// The folder of TensorBoard's event files.
    #[must_use]
    pub fn tensorboard(self, tensorboard: impl Into<Option<PathBuf>>) -> Self {
        Self { tensorboard: tensorboard.into(), ..self }
    }
}

/// Records a run in its folder.
#[derive(Debug)]
pub struct Recorder {
    folder: RunFolder,
    log: LogWriter,
    events: Option<EventWriter>,
    started: Instant,
    /// Steps between records.
    every: u64,
    memory_bytes: u64,
    keep: usize,
    /// The best validation accuracy and its epoch.
    best: Option<(f64, u64)>,
    /// The last epoch, if its validation was interrupted.
    unvalidated: Option<EpochRecord>,
    /// The first part of the epoch in which the run resumes.
    part: Option<PartRecord>,
    moved_aside: Vec<PathBuf>,
}

/// The checkpoint to save with a record of the log.
pub(crate) struct Save<'a, M> {
    pub checkpoint: &'a ModelCheckpoint<M>,
    /// File of the newest checkpoint.
    pub out: &'a Path,
}

/// Seconds since 1970 (UTC).
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Machine {
    /// Description of this machine and device.
    pub fn of(adapter: &AdapterSummary) -> Self {
        Self {
            adapter: adapter.name.clone(),
            backend: adapter.backend.clone(),
            driver: adapter.driver.clone(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

impl RunFolder {
    /// The valid records of the run's log; empty without a log.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming an unreadable log.
    pub fn readable_log(&self) -> Result<Vec<Record>> {
        let path = self.log_path();
        if path.exists() { Ok(read_log_leniently(&path)?.0) } else { Ok(Vec::new()) }
    }

    /// The epoch that ended after `steps` steps, if its validation is missing.
    ///
    /// # Errors
    /// As [`RunFolder::readable_log`].
    pub fn unvalidated(&self, steps: u64) -> Result<Option<EpochRecord>> {
        let log = self.readable_log()?;
        let last = log.into_iter().rev().find_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None });
        Ok(last.filter(|epoch| epoch.step == steps && epoch.validation.is_none()))
    }

    /// Early stopping after `epochs` epochs: number of epochs since the best one, its
    /// validation accuracy and its index. `None` if there are fewer than `patience`.
    ///
    /// # Errors
    /// As [`RunFolder::readable_log`].
    pub fn waited(&self, epochs: u64, patience: Option<u64>) -> Result<Option<(u64, f64, u64)>> {
        let log = self.readable_log()?;
        let last = log.iter().rev().find_map(Record::epoch);
        let validated = last.is_some_and(|last| last.epoch + 1 == epochs && last.validation.is_some());
        let best = best_in(&log).filter(|_| validated);
        Ok(best.zip(patience).and_then(|((accuracy, at, _), patience)| {
            let since = epochs.saturating_sub(at + 1);
            (since >= patience).then_some((since, accuracy, at))
        }))
    }
}

/// The best epoch of a log: its validation accuracy, its index, and the total steps after it.
pub fn best_in(log: &[Record]) -> Option<(f64, u64, u64)> {
    log.iter().rev().find_map(|record| match record {
        Record::Epoch(EpochRecord { epoch, step, validation: Some(validation), best: true, .. }) => {
            Some((validation.accuracy, *epoch, *step))
        }
        _ => None,
    })
}

impl Recorder {
    /// Records a run in its folder, starting at `progress`: if the run rewinds to an earlier
    /// checkpoint, the log is truncated and later checkpoints are moved aside.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming a file of the folder.
    pub fn open(folder: RunFolder, progress: &Progress, options: &RecorderOptions) -> Result<Self> {
        let steps = progress.step;
        let before = best_in(&folder.readable_log()?);
        // The pending record is of a save after the point that this run rewinds to.
        folder.end_save();
        let log = LogWriter::open(&folder.log_path(), steps)?;
        let records = folder.log()?;
        let part =
            records.iter().rev().find_map(|r| if let Record::Part(p) = r { Some(p.clone()) } else { None });
        let best = best_in(&records);
        let moved_aside = folder.set_aside(progress.epoch, before != best)?;
        let steps_of = |file: &Path| Checkpoint::progress_of(file).ok().map(|progress| progress.step);
        let mut there = steps_of(&folder.best());
        // A run that rewinds restores the weights of its best epoch from a kept checkpoint.
        if let Some((_, epoch, step)) = best.filter(|(_, _, step)| there != Some(*step)) {
            let kept = folder.kept(epoch + 1);
            if steps_of(&kept) == Some(step) {
                write_atomically(&folder.best(), &read_file(&kept, MAX_FILE_BYTES)?)?;
                there = Some(step);
            }
        }
        // If the weights of the best epoch are lost, the next epoch becomes the best one.
        let best =
            best.filter(|(_, _, step)| there == Some(*step)).map(|(accuracy, epoch, _)| (accuracy, epoch));
        let events = match &options.tensorboard {
            Some(parent) => Some(EventWriter::create(&parent.join(folder.title()), now())?),
            None => None,
        };
        let unvalidated = folder.unvalidated(steps)?;
        // A run that rewound has fewer epochs.
        if folder.table_path().is_file() {
            write_atomically(&folder.table_path(), table(&records).as_bytes())?;
        }
        Ok(Self {
            folder,
            log,
            events,
            started: Instant::now(),
            every: options.steps_per_epoch.div_ceil(STEPS_PER_EPOCH).max(1) as u64,
            memory_bytes: options.memory_bytes,
            keep: options.keep,
            best,
            unvalidated,
            part,
            moved_aside,
        })
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Checkpoints of later epochs that were moved aside when the run rewound.
    pub fn moved_aside(&self) -> &[PathBuf] {
        &self.moved_aside
    }

    /// The best validation accuracy so far, in [0, 1], and its epoch.
    pub fn best(&self) -> Option<(f64, u64)> {
        self.best
    }

    /// Logs a step; `epoch` is the number of epochs done before it, with fractions.
    pub(crate) fn step(&mut self, step: &StepMetrics, epoch: f64, images_per_s: f64) -> Result<()> {
        if !step.step.is_multiple_of(self.every) {
            return Ok(());
        }
        let norm = step.gradient_norm.map(f64::from).filter(|n| n.is_finite());
        let record = StepRecord {
            step: step.step,
            epoch,
            lr: f64::from(step.lr),
            loss: f64::from(step.loss),
            heads: step.heads.iter().map(|h| HeadRecord::of_step(h, step.count)).collect(),
            gradient_norm: norm,
            loss_scale: step.scaling.map(|s| f64::from(s.scale)),
            images_per_s,
            seconds: self.started.elapsed().as_secs_f64(),
        };
        let mut scalars = vec![
            ("loss/total".to_string(), record.loss),
            ("learning_rate".to_string(), record.lr),
            ("images_per_s".to_string(), images_per_s),
        ];
        for head in &record.heads {
            scalars.push((format!("loss/{}", head.name), head.loss));
            scalars.push((format!("accuracy/{}", head.name), head.accuracy));
        }
        scalars.extend(norm.map(|n| ("gradient_norm".to_string(), n)));
        self.scalars(record.step, &scalars)?;
        self.log.write(&Record::Step(record))
    }

    /// Logs a completed epoch that ended after `step` steps, and saves the checkpoint, if given.
    pub(crate) fn epoch<M: Model>(
        &mut self,
        epoch: &EpochReport,
        step: u64,
        save: Option<Save<'_, M>>,
    ) -> Result<()> {
        let record = EpochRecord {
            epoch: epoch.summary.epoch,
            step,
            lr: epoch.lr,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            validation: epoch.validation.as_ref().map(ValidationRecord::from),
            validation_aux: epoch.validation_aux.clone(),
            best: epoch.best,
            images_per_s: epoch.images_per_s,
            seconds: epoch.seconds,
            device_busy: epoch.device_busy,
            memory_bytes: self.memory_bytes,
            time: now() as u64,
        };
        self.note(record, save)
    }

    /// The metrics of an interrupted epoch so far.
    pub(crate) fn take_part(&mut self, epoch: u64) -> Option<PartRecord> {
        self.part.take().filter(|part| part.epoch == epoch)
    }

    /// Logs an epoch that was interrupted after `step` steps, and saves the checkpoint, if given.
    pub(crate) fn leave<M: Model>(
        &mut self,
        epoch: &EpochReport,
        step: u64,
        save: Option<Save<'_, M>>,
    ) -> Result<()> {
        let record = Record::Part(PartRecord {
            epoch: epoch.summary.epoch,
            step,
            count: epoch.summary.count,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            seconds: epoch.seconds,
        });
        self.commit(&record, save, false)
    }

    /// The index of the last epoch, if its validation was interrupted.
    pub(crate) fn unvalidated(&self) -> Option<u64> {
        self.unvalidated.as_ref().map(|epoch| epoch.epoch)
    }

    /// Adds the validation of that epoch to the log, and saves the checkpoint, if given.
    pub(crate) fn validate<M: Model>(
        &mut self,
        main: &Evaluation,
        aux: Vec<HeadRecord>,
        best: bool,
        save: Option<Save<'_, M>>,
    ) -> Result<()> {
        let Some(epoch) = self.unvalidated.take() else { return Ok(()) };
        self.note(EpochRecord { validation: Some(main.into()), validation_aux: aux, best, ..epoch }, save)
    }

    /// Saves and logs an epoch.
    fn note<M: Model>(&mut self, epoch: EpochRecord, save: Option<Save<'_, M>>) -> Result<()> {
        let best = epoch.best;
        let record = Record::Epoch(epoch);
        self.commit(&record, save, best)?;
        write_atomically(&self.folder.table_path(), table(&self.folder.log()?).as_bytes())?;
        let Record::Epoch(epoch) = record else { return Ok(()) };
        if let Some(validation) = &epoch.validation {
            if best {
                self.best = Some((validation.accuracy, epoch.epoch));
            }
            let mut scalars = vec![
                ("validation/accuracy".to_string(), validation.accuracy),
                ("validation/loss".to_string(), validation.loss),
            ];
            for head in &epoch.validation_aux {
                scalars.push((format!("validation/accuracy_{}", head.name), head.accuracy));
                scalars.push((format!("validation/loss_{}", head.name), head.loss));
            }
            self.scalars(epoch.step, &scalars)?;
        }
        Ok(())
    }

    /// Saves the files and then logs the record, so that the log refers to existing files only.
    /// [`RunFolder::mend`] completes a save that was interrupted in between.
    fn commit<M: Model>(&mut self, record: &Record, save: Option<Save<'_, M>>, best: bool) -> Result<()> {
        let Some(save) = save else { return self.log.write_through(record) };
        self.folder.begin_save(record)?;
        let elsewhere = self.save(&save, best)?;
        self.log.write_through(record)?;
        self.folder.end_save();
        elsewhere.map_or(Ok(()), Err)
    }

    /// Saves a checkpoint whose record is in the log already.
    pub(crate) fn save_only<M: Model>(&self, save: &Save<'_, M>) -> Result<()> {
        self.save(save, false)?.map_or(Ok(()), Err)
    }

    /// Writes the run's newest checkpoint. If it cannot be written outside of the folder, it is
    /// written to the folder and the error is returned as a value.
    fn save<M: Model>(&self, Save { checkpoint, out }: &Save<'_, M>, best: bool) -> Result<Option<Error>> {
        let last = self.folder.last();
        let mut elsewhere = None;
        if *out == last {
            checkpoint.save(out)?;
        } else {
            elsewhere = checkpoint.save(out).err();
            if elsewhere.is_some() || is_special(out) {
                checkpoint.save(&last)?;
            } else if last.is_file() && self.folder.saves_elsewhere() {
                // A copy that an earlier start saved here because the other place failed.
                std::fs::remove_file(&last).map_err(|e| Error::io(&last, e))?;
            }
        }
        if best {
            checkpoint.save(&self.folder.best())?;
        }
        let progress = &checkpoint.metadata.progress;
        if self.keep > 0 && progress.batch == 0 {
            checkpoint.save(&self.folder.kept(progress.epoch))?;
            self.folder.prune(self.keep)?;
        }
        Ok(elsewhere)
    }

    /// Logs the end of the run after `epochs` epochs.
    ///
    /// # Errors
    /// [`Error::Io`] naming the log.
    pub fn end(&mut self, reason: StopReason, epochs: u64) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.log.write(&Record::End { reason, epochs, seconds, message: None })
    }

    /// Logs the end of the run after `epochs` epochs because of an error, as far as the log can
    /// still be written.
    pub fn fail(&mut self, message: String, epochs: u64) {
        let (reason, message) = (StopReason::Failed, Some(message));
        let seconds = self.started.elapsed().as_secs_f64();
        let _ = self.log.write(&Record::End { reason, epochs, seconds, message });
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        match &mut self.events {
            Some(events) => events.scalars(now(), step, values),
            None => Ok(()),
        }
    }
}
