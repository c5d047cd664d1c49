//! The training loop: validation, best epoch, early stopping, checkpoints, run folder, and
//! resuming. [`Learner`] has no output of its own: it reports to an [`Observer`].
//! `examples/memory.rs` trains on images from memory.

mod builder;
mod health;
mod observer;
mod validator;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

pub use builder::LearnerBuilder;
pub use observer::{Observer, Started, StepProgress};

use crate::checkpoint::{ModelCheckpoint, ModelMetadata};
use crate::data::Loader;
use crate::error::{Error, Result};
use crate::infer::Evaluation;
use crate::model::{GoogLeNet, Model};
use crate::optim::{Moment, Pace, Schedule};
use crate::runs::{EpochReport, Lock, Machine, ModelManifest, Recorder, Save, StopReason, now};
use crate::train::{EpochSummary, StepMetrics, Trainer, train_epoch_from};
use health::Health;
use validator::{Validated, Validator};

/// Length of training, learning rate, and when to save: `LearnerOptions::default().epochs(10)`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LearnerOptions {
    /// Epochs of the whole run, those before a resume included.
    pub epochs: u64,
    /// Base learning rate of the schedule.
    pub learning_rate: f64,
    /// Learning rate schedule.
    pub schedule: Schedule,
    /// Warm-up epochs of the learning rate.
    pub warmup_epochs: f64,
    /// Early stopping: epochs without a better validation accuracy; `None` for never.
    pub patience: Option<u64>,
    /// Validation accuracy, in [0, 1], at which training stops; `None` for never.
    pub target_accuracy: Option<f64>,
    /// Epochs between checkpoints; the best and the last epoch are always saved.
    pub save_every: u64,
}

impl Default for LearnerOptions {
    fn default() -> Self {
        Self {
            epochs: 30,
            learning_rate: 0.01,
            schedule: Schedule::Polynomial { power: 0.5 },
            warmup_epochs: 0.0,
            patience: None,
            target_accuracy: None,
            save_every: 1,
        }
    }
}

impl LearnerOptions {
    /// Epochs of the whole run, those before a resume included.
    #[must_use]
    pub fn epochs(self, epochs: u64) -> Self {
        Self { epochs, ..self }
    }

    /// Base learning rate of the schedule.
    #[must_use]
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate, ..self }
    }

    /// Learning rate schedule.
    #[must_use]
    pub fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// Warm-up epochs of the learning rate.
    #[must_use]
    pub fn warmup_epochs(self, warmup_epochs: f64) -> Self {
        Self { warmup_epochs, ..self }
    }

    /// Early stopping: epochs without a better validation accuracy.
    #[must_use]
    pub fn patience(self, patience: impl Into<Option<u64>>) -> Self {
        Self { patience: patience.into(), ..self }
    }

    /// Validation accuracy, in [0, 1], at which training stops.
    #[must_use]
    pub fn target_accuracy(self, target_accuracy: impl Into<Option<f64>>) -> Self {
        Self { target_accuracy: target_accuracy.into(), ..self }
    }

    /// Epochs between checkpoints.
    #[must_use]
    pub fn save_every(self, save_every: u64) -> Self {
        Self { save_every, ..self }
    }

    /// Learning rate and momentum at a moment of the training.
    fn pace(&self, at: Moment) -> Pace {
        self.schedule.pace(self.learning_rate, self.warmup_epochs, at, self.epochs)
    }
}

/// The result of a training.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// Every step since this start.
    pub steps: Vec<StepMetrics>,
    /// Every epoch since this start.
    pub epochs: Vec<EpochReport>,
    /// Whether training was stopped before its last epoch.
    pub interrupted: bool,
    /// Whether early stopping ended it.
    pub stopped_early: bool,
}

impl History {
    /// Why training stopped.
    pub fn reason(&self) -> StopReason {
        match (self.interrupted, self.stopped_early) {
            (true, _) => StopReason::Interrupted,
            (_, true) => StopReason::Patience,
            _ => StopReason::Done,
        }
    }

    /// The best validation accuracy of these epochs, in [0, 1], and its epoch.
    pub fn best(&self) -> Option<(f64, u64)> {
        let validated = self.epochs.iter().filter_map(|e| Some((e.validation_accuracy?, e.summary.epoch)));
        validated.reduce(|best, other| if other.0 > best.0 { other } else { best })
    }
}

/// Trains a network epoch by epoch.
#[derive(Debug)]
pub struct Learner<M = GoogLeNet> {
    trainer: Trainer<M>,
    train: Loader,
    options: LearnerOptions,
    validator: Option<Validator>,
    recorder: Option<Recorder>,
    /// Whether a failed training is logged. Callers of [`Learner::record`] log it themselves, in
    /// their own words.
    logs_failure: bool,
    /// File of the latest checkpoint.
    checkpoint_file: Option<PathBuf>,
    /// File of the best epoch's checkpoint, for runs without a folder.
    best_file: Option<PathBuf>,
    /// The best validation accuracy and its epoch, for runs without a folder.
    best: Option<(f64, u64)>,
    /// The lock of the run's folder.
    locks: Vec<Lock>,
    run: serde_json::Value,
    command_line: Vec<String>,
    stop: Arc<AtomicBool>,
    health: Health,
    history: History,
}

/// The steps of an epoch, or those before its interruption.
struct Trained {
    summary: EpochSummary,
    /// Images since this start, and their seconds.
    images: usize,
    took: f64,
    /// Seconds of the first part of the epoch, if an earlier start trained it.
    before: f64,
    /// Steps since this start.
    steps: usize,
    /// Share of the time in which the device was busy, in [0, 1].
    busy: Option<f64>,
    /// The error of writing the log.
    failed: Option<Error>,
}

impl Trained {
    fn images_per_s(&self) -> f64 {
        self.images as f64 / self.took.max(1e-9)
    }
}

impl<M: Model> Learner<M> {
    /// A builder that prepares the trainer too.
    pub fn builder(network: M) -> LearnerBuilder<M> {
        LearnerBuilder::new(network)
    }

    /// Continues training with an existing trainer.
    pub fn new(trainer: Trainer<M>, train: Loader, options: LearnerOptions) -> Self {
        Self {
            trainer,
            train,
            options,
            validator: None,
            recorder: None,
            logs_failure: false,
            checkpoint_file: None,
            best_file: None,
            best: None,
            locks: Vec::new(),
            run: serde_json::Value::Null,
            command_line: Vec::new(),
            stop: Arc::default(),
            health: Health::default(),
            history: History::default(),
        }
    }

    /// Validates all heads on these images after every epoch.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn validate_on(&mut self, validation: Loader) -> Result<()> {
        self.validator = Some(Validator::new(&self.trainer, validation).await?);
        Ok(())
    }

    /// Saves the latest checkpoint to this file.
    pub fn save_to(&mut self, file: impl Into<PathBuf>) {
        self.checkpoint_file = Some(file.into());
    }

    /// Saves the checkpoint with the best validation accuracy to this file, for runs without a
    /// folder.
    pub fn save_best_to(&mut self, file: impl Into<PathBuf>) {
        self.best_file = Some(file.into());
    }

    /// Records the run in a folder: its log, latest and best checkpoint. If training fails, the
    /// caller logs it with [`Recorder::fail`].
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
        self.logs_failure = false;
    }

    /// The configuration and command that checkpoints contain.
    pub fn describe(&mut self, run: serde_json::Value, command_line: Vec<String>) {
        self.run = run;
        self.command_line = command_line;
    }

    /// Stops training with a checkpoint when this flag is set.
    pub fn stop_by(&mut self, flag: Arc<AtomicBool>) {
        self.stop = flag;
    }

    /// The flag that stops training with a checkpoint; an observer, a signal handler or another
    /// thread may set it.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<M> {
        &self.trainer
    }

    /// The trainer, to restore a state or to start from other weights.
    pub fn trainer_mut(&mut self) -> &mut Trainer<M> {
        &mut self.trainer
    }

    /// The training images.
    pub fn train_loader(&self) -> &Loader {
        &self.train
    }

    /// The validation images, if there are any.
    pub fn validation_loader(&self) -> Option<&Loader> {
        self.validator.as_ref().map(Validator::loader)
    }

    /// The recorder of the run's folder; `None` without a folder.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// The recorder of the run's folder; `None` without a folder.
    pub fn recorder_mut(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    /// The best validation accuracy so far, in [0, 1], and its epoch.
    pub fn best(&self) -> Option<(f64, u64)> {
        self.recorder.as_ref().map_or(self.best, Recorder::best)
    }

    /// The manifest of the run's folder, without the name and the data set's description and
    /// origin, which the caller sets.
    pub fn manifest(&self) -> ModelManifest<M> {
        let session = self.trainer.session();
        let memory_bytes = session.plan().memory.total_bytes();
        let element = self.trainer.element();
        ModelManifest {
            version: env!("CARGO_PKG_VERSION").into(),
            name: "run".into(),
            started: now() as u64,
            recipe: None,
            data: String::new(),
            data_description: String::new(),
            classes: self.train.dataset().classes().to_vec(),
            train: self.train.len(),
            validation: self.validation_loader().map_or(0, Loader::len),
            network: self.trainer.network().clone(),
            parameters: session.regions().layout().parameters.iter().map(|e| e.shape.volume()).sum(),
            precision: format!("{element:?}").to_lowercase(),
            machine: Machine::of(self.trainer.device().summary()),
            memory_bytes,
            checkpoint: None,
            from: None,
            command_line: self.command_line.clone(),
        }
    }

    /// A checkpoint for resuming and inference.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn checkpoint(&self) -> Result<ModelCheckpoint<M>> {
        let state = self.trainer.state().await?;
        let metadata = ModelMetadata {
            version: env!("CARGO_PKG_VERSION").into(),
            network: self.trainer.network().clone(),
            classes: self.train.dataset().classes().to_vec(),
            preprocessing: self.train.options().preprocessing.clone(),
            progress: state.progress.clone(),
            run: self.run.clone(),
            command_line: self.command_line.clone(),
        };
        Ok(ModelCheckpoint { state, metadata })
    }

    /// [`Learner::fit`] on the calling thread.
    ///
    /// # Errors
    /// As [`Learner::fit`].
    pub fn fit_blocking(&mut self, observer: &mut dyn Observer) -> Result<History> {
        let device = self.trainer.device().clone();
        device.block_on(self.fit(observer))
    }

    /// Trains until all epochs are done, the stop flag is set, or validation accuracy triggers
    /// early stopping or reaches the target.
    ///
    /// # Errors
    /// [`Error::Diverged`] and related errors if loss or weights become non-finite; errors of the
    /// loader, the device, the files and the observer. Saved files are kept; the log of a run that
    /// [`LearnerBuilder::record_in`] created ends with the error.
    pub async fn fit(&mut self, observer: &mut dyn Observer) -> Result<History> {
        let fitted = self.fit_to_the_end(observer).await;
        if let Err(error) = &fitted
            && self.logs_failure
            && !matches!(error, Error::Interrupted)
            && let Some(recorder) = &mut self.recorder
        {
            recorder.fail(error.to_string(), self.trainer.progress().epoch);
        }
        fitted
    }

    async fn fit_to_the_end(&mut self, observer: &mut dyn Observer) -> Result<History> {
        observer.started(&Started {
            device: self.trainer.device().summary(),
            memory: self.trainer.session().plan().memory,
            folder: self.recorder.as_ref().map(|recorder| recorder.folder().path()),
            train: self.train.len(),
            validation: self.validation_loader().map_or(0, Loader::len),
            epoch: self.trainer.progress().epoch,
            epochs: self.options.epochs,
            best: self.best(),
        })?;
        self.trainer.watch().await?;
        self.validate_late(observer).await?;
        while self.is_unfinished() && self.epoch(observer).await?.is_continue() {}
        if let Some(recorder) = &mut self.recorder {
            recorder.end(self.history.reason(), self.trainer.progress().epoch)?;
        }
        Ok(std::mem::take(&mut self.history))
    }

    fn is_unfinished(&self) -> bool {
        let History { interrupted, stopped_early, .. } = self.history;
        self.trainer.progress().epoch < self.options.epochs && !interrupted && !stopped_early
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Completes the interrupted validation of the run's last epoch and saves the weights if they
    /// are the best.
    async fn validate_late(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(epoch) = self.recorder.as_ref().and_then(Recorder::unvalidated) else { return Ok(()) };
        let Some(validator) = &mut self.validator else { return Ok(()) };
        let Validated { main, aux, failed } = validator.validate(&self.stop).await;
        if let Some(error) = failed {
            return Err(error);
        }
        self.history.interrupted = main.is_none();
        if let Some(main) = main {
            let best = self.is_best(&main);
            let out = self.checkpoint_file.clone().filter(|_| best);
            let checkpoint = if out.is_some() { Some(self.finite().await?) } else { None };
            let save = checkpoint.as_ref().zip(out.as_deref());
            let save = save.map(|(checkpoint, out)| Save { checkpoint, out });
            if let Some(recorder) = &mut self.recorder {
                recorder.validate(&main, aux, best, save)?;
            }
            observer.validated_late(epoch, &main)?;
        }
        self.history.stopped_early = self.waited(epoch).is_some();
        Ok(())
    }

    /// Trains an epoch or its rest, then validates, saves, logs and notifies the observer. Returns
    /// whether training continues.
    async fn epoch(&mut self, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        let epoch = self.trainer.progress().epoch;
        let trained = self.train(epoch, observer).await?;
        let stopped = trained.summary.interrupted || self.is_stopped();
        let validated = match &mut self.validator {
            Some(validator) if !stopped => validator.validate(&self.stop).await,
            _ => Validated::default(),
        };
        self.history.interrupted = stopped || self.is_stopped();
        let steps = trained.steps;
        // Unreadable images and failed writes of the log must not lose the epoch.
        let (mut report, failed) = self.report(trained, validated);
        let accuracy = report.validation_accuracy;
        let reached = self.options.target_accuracy.zip(accuracy).is_some_and(|(target, a)| a >= target);
        let waited = accuracy.and_then(|_| if report.best { self.patience(0) } else { self.waited(epoch) });
        self.history.stopped_early = waited.is_some();
        let done = self.trainer.progress().epoch;
        let last = done >= self.options.epochs
            || self.history.interrupted
            || reached
            || waited.is_some()
            || failed.is_some();
        // The checkpoint is saved before it is reported.
        let due = last || report.best || done.is_multiple_of(self.options.save_every.max(1));
        let out = self.checkpoint_file.clone().filter(|_| due);
        if let Err(error) = self.save(&mut report, steps, out.as_deref()).await {
            // Return the first error, but report the second one too.
            let Some(failed) = failed else { return Err(error) };
            observer.not_saved(&error)?;
            return Err(failed);
        }
        if !report.summary.interrupted {
            observer.epoch_ended(&report)?;
        }
        self.history.epochs.push(report);
        if let Some(epochs) = waited {
            observer.stopped_early(epochs, self.best())?;
        }
        if let Some(out) = &out {
            observer.saved(out, last, self.history.interrupted)?;
        }
        match failed {
            Some(error) => Err(error),
            None if reached => Ok(ControlFlow::Break(())),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// Trains on the rest of the epoch.
    async fn train(&mut self, epoch: u64, observer: &mut dyn Observer) -> Result<Trained> {
        let begun = self.recorder.as_mut().and_then(|recorder| recorder.take_part(epoch));
        let (begun, before) = begun.map_or_else(Default::default, |part| (part.summary(), part.seconds));
        let busy_before = self.trainer.busy_seconds();
        let (images, position) = (self.train.len(), self.trainer.progress().batch as usize);
        observer.epoch_started(epoch, images)?;
        let mut watch = Watch {
            at: StepProgress {
                epoch,
                images,
                done: position.saturating_mul(self.trainer.batch()),
                images_per_s: 0.0,
            },
            start: Instant::now(),
            count: 0,
            steps: 0,
            observer,
            recorder: self.recorder.as_mut(),
            health: &mut self.health,
            history: &mut self.history.steps,
        };
        let mut failed: Option<Error> = None;
        let observe = |step: &StepMetrics| {
            // Keep the first error: metrics of steps in flight still arrive after it.
            if let Err(error) = watch.step(step) {
                failed.get_or_insert(error);
            }
            if failed.is_some() || self.stop.load(Ordering::SeqCst) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let options = &self.options;
        let pace = |at: Moment| options.pace(at);
        let summary = train_epoch_from(&mut self.trainer, &self.train, begun, pace, observe).await?;
        if let Some(
            error @ (Error::Diverged { .. } | Error::DivergedInF16 { .. } | Error::Overflows { .. }),
        ) = failed
        {
            return Err(error);
        }
        let Watch { start, count, steps, .. } = watch;
        let took = start.elapsed().as_secs_f64();
        let busy = self.trainer.busy_seconds().zip(busy_before).map(|(after, before)| after - before);
        let busy = busy.map(|busy| (busy / took.max(1e-9)).min(1.0));
        Ok(Trained { summary, images: count, took, before, steps, busy, failed })
    }

    /// The record of an epoch, and its errors.
    fn report(&self, trained: Trained, validated: Validated) -> (EpochReport, Option<Error>) {
        let images_per_s = trained.images_per_s();
        let Trained { summary, took, before, busy, failed, .. } = trained;
        let report = EpochReport {
            lr: self.options.pace(self.trainer.moment(summary.epoch + 1, &self.train)).lr,
            seconds: before + took,
            images_per_s,
            validation_accuracy: validated.main.as_ref().map(Evaluation::accuracy),
            best: validated.main.as_ref().is_some_and(|main| self.is_best(main)),
            validation: validated.main,
            validation_aux: validated.aux,
            device_busy: busy,
            summary,
        };
        (report, failed.or(validated.failed))
    }

    /// Saves the checkpoint, if one is due, and then the log's record. Non-finite weights are not
    /// saved: the last checkpoint is kept.
    async fn save(&mut self, report: &mut EpochReport, steps: usize, out: Option<&Path>) -> Result<()> {
        let best_file = self.best_file.clone().filter(|_| report.best);
        let checkpoint = if out.is_some() || best_file.is_some() { Some(self.finite().await) } else { None };
        let step = self.trainer.progress().step;
        let (checkpoint, spoiled) = match checkpoint.transpose() {
            Ok(checkpoint) => (checkpoint, None),
            Err(error) => (None, Some(error)),
        };
        // The weights of an epoch that the log calls the best must exist.
        report.best &= spoiled.is_none();
        let save = checkpoint.as_ref().zip(out).map(|(checkpoint, out)| Save { checkpoint, out });
        let written = match (self.recorder.as_mut(), save) {
            (Some(recorder), save) if !report.summary.interrupted => recorder.epoch(report, step, save),
            // Without a step, the log's record of this epoch remains valid.
            (Some(recorder), save) if steps > 0 => recorder.leave(report, step, save),
            (Some(recorder), Some(save)) => recorder.save_only(&save),
            (None, Some(Save { checkpoint, out })) => checkpoint.save(out),
            (_, None) => Ok(()),
        };
        let written = written.and_then(|()| match (checkpoint, best_file) {
            (Some(checkpoint), Some(file)) => checkpoint.save(&file),
            _ => Ok(()),
        });
        if report.best && written.is_ok() {
            self.best = report.validation_accuracy.map(|accuracy| (accuracy, report.summary.epoch));
        }
        spoiled.map_or(written, Err)
    }

    /// The trainer's checkpoint, if its weights are finite.
    async fn finite(&self) -> Result<ModelCheckpoint<M>> {
        let checkpoint = self.checkpoint().await?;
        match checkpoint.state.non_finite() {
            Some(tensor) => Err(Error::Spoiled { tensor, epochs: checkpoint.metadata.progress.epoch }),
            None => Ok(checkpoint),
        }
    }

    /// Whether this validation accuracy is the best so far.
    fn is_best(&self, main: &Evaluation) -> bool {
        self.best().is_none_or(|(best, _)| main.accuracy() > best)
    }

    /// The number of epochs without improvement, if it has reached the run's patience.
    fn waited(&self, epoch: u64) -> Option<u64> {
        self.patience(self.best().map_or(0, |(_, at)| epoch - at.min(epoch)))
    }

    /// `epochs`, if it has reached the patience.
    fn patience(&self, epochs: u64) -> Option<u64> {
        self.options.patience.is_some_and(|patience| epochs >= patience).then_some(epochs)
    }
}

/// Processes the metrics of an epoch's steps.
struct Watch<'a> {
    at: StepProgress,
    start: Instant,
    /// Images since this start.
    count: usize,
    steps: usize,
    observer: &'a mut dyn Observer,
    recorder: Option<&'a mut Recorder>,
    health: &'a mut Health,
    history: &'a mut Vec<StepMetrics>,
}

impl Watch<'_> {
    fn step(&mut self, step: &StepMetrics) -> Result<()> {
        self.steps += 1;
        self.count += step.count;
        self.at.done += step.count;
        let before = self.at.epochs() - step.count as f64 / self.at.images.max(1) as f64;
        self.at.images_per_s = self.count as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let mut written = self.observer.step(step, &self.at);
        if let Some(recorder) = &mut self.recorder {
            written = written.and_then(|()| recorder.step(step, before, self.at.images_per_s));
        }
        self.history.push(step.clone());
        // Check divergence first: non-finite weights must not be saved, whatever other error there
        // is.
        self.health.step(step).and(written)
    }
}
