//! A training in progress: its epochs, with their validation, checkpoints and log.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use incept::checkpoint::Checkpoint;
use incept::data::Loader;
use incept::gpu::{AdapterSummary, Gpu};
use incept::infer::Evaluation;
use incept::model::GoogLeNet;
use incept::optim::Moment;
use incept::train::{EpochSummary, StepMetrics, Trainer, train_epoch_from};
use incept::{Error, Result};
use serde::Serialize;

use super::board::Board;
use super::dashboard::{Dashboard, View};
use super::data::report_bad;
use super::fit::{EpochRecord, History, Policy, Run, Setup};
use super::health::Health;
use super::judge::{Judge, Judged};
use super::record::{Recorder, Save};
use super::report::{Bar, Rate, Reporter, seconds, shown};

/// An event for programs that read along.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    Start {
        device: &'a AdapterSummary,
        network: &'a GoogLeNet,
        classes: &'a [String],
        run: &'a Run,
        memory: incept::plan::Memory,
        folder: Option<&'a Path>,
        train: usize,
        validation: usize,
    },
    /// An epoch whose validation was interrupted before.
    Judged {
        epoch: u64,
        validation_accuracy: f64,
    },
    Epoch(&'a EpochRecord),
    Saved {
        checkpoint: &'a Path,
        interrupted: bool,
    },
}

/// All that a training has while it runs.
pub(crate) struct Session<'a> {
    setup: &'a Setup,
    trainer: &'a mut Trainer,
    policy: &'a Policy<'a>,
    recorder: Option<&'a mut Recorder>,
    stop: &'a Arc<AtomicBool>,
    reporter: &'a Reporter,
    gpu: Gpu,
    loader: Loader,
    judge: Option<Judge>,
    screen: Option<Dashboard>,
    overall: Rate,
    health: Health,
    history: History,
}

/// An epoch's steps, or those that were done before it was left.
struct Trained {
    summary: EpochSummary,
    rate: Rate,
    /// Seconds of the epoch's beginning, if that was trained by an earlier start.
    before: f64,
    /// Steps of this start.
    steps: usize,
    /// Share of the time in which the device worked.
    busy: Option<f64>,
    /// What could not be written down.
    failed: Option<Error>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        setup: &'a Setup,
        trainer: &'a mut Trainer,
        policy: &'a Policy<'a>,
        recorder: Option<&'a mut Recorder>,
        stop: &'a Arc<AtomicBool>,
        reporter: &'a Reporter,
    ) -> Result<Self> {
        let batch = setup.run.batch;
        let training = setup.load.options(batch, &setup.preprocessing);
        let training = training.training(setup.run.seed, setup.run.augmentation).mixing(setup.run.mix);
        let loader = Loader::new(Arc::clone(&setup.data.train), training)?;
        if policy.validate && setup.data.validation.is_empty() {
            let reason = "has no images to validate on: add some, or train with --no-validation";
            return Err(Error::format(&setup.run.data, reason));
        }
        let validation = setup.load.options(batch, &setup.preprocessing);
        let validation = Loader::new(Arc::clone(&setup.data.validation), validation)?;
        let judge = policy.validate.then(|| Judge::new(trainer, setup.network.has_aux(), batch, validation));
        Ok(Self {
            gpu: trainer.gpu().clone(),
            setup,
            trainer,
            policy,
            recorder,
            stop,
            reporter,
            loader,
            judge: judge.transpose()?,
            screen: None,
            overall: Rate::new(),
            health: Health::default(),
            history: History::default(),
        })
    }

    /// Trains until all epochs are done, Ctrl-C is pressed, or accuracy is enough.
    pub(crate) fn run(mut self) -> Result<History> {
        self.announce()?;
        self.gpu.block_on(self.trainer.watch())?;
        self.judge_late()?;
        if self.policy.view == View::Dashboard {
            self.screen = Some(Dashboard::open(self.board(), Arc::clone(self.stop))?);
        }
        while self.is_unfinished() && self.epoch()?.is_continue() {}
        self.screen = None;
        if let Some(recorder) = self.recorder {
            recorder.end(self.history.reason(), self.trainer.progress().epoch)?;
        }
        report_bad(&self.loader);
        Ok(self.history)
    }

    fn announce(&self) -> Result<()> {
        self.reporter.tell_event(&Event::Start {
            device: self.gpu.summary(),
            network: &self.setup.network,
            classes: self.setup.data.train.classes(),
            run: &self.setup.run,
            memory: self.trainer.session().plan().memory,
            folder: self.recorder.as_ref().map(|r| r.folder().path()),
            train: self.setup.data.train.len(),
            validation: self.setup.data.validation.len(),
        })
    }

    fn is_unfinished(&self) -> bool {
        let History { interrupted, patience_over, .. } = self.history;
        self.trainer.progress().epoch < self.setup.run.epochs && !interrupted && !patience_over
    }

    /// Validates the run's last epoch where that was interrupted, and saves the weights if they are
    /// the best.
    fn judge_late(&mut self) -> Result<()> {
        let (Some(judge), Some(recorder)) = (&mut self.judge, self.recorder.as_deref_mut()) else {
            return Ok(());
        };
        let Some(epoch) = recorder.unjudged() else { return Ok(()) };
        let Judged { main, aux, failed } = judge.judge(&self.gpu, self.stop);
        if let Some(error) = failed {
            return Err(error);
        }
        self.history.interrupted = main.is_none();
        if let Some(main) = main {
            let best = self.policy.out.filter(|_| recorder.is_best(&main));
            let checkpoint = best.map(|_| finite(self.setup, self.trainer)).transpose()?;
            let save = checkpoint.as_ref().zip(best).map(|(checkpoint, out)| Save { checkpoint, out });
            recorder.judge(&main, aux, save)?;
            let (percent, epochs) = (100.0 * main.accuracy(), self.setup.run.epochs);
            self.reporter.tell(&format!("epoch {}/{epochs}  held out {percent:.2}%", epoch + 1))?;
            self.reporter.tell_event(&Event::Judged { epoch, validation_accuracy: main.accuracy() })?;
        }
        self.history.patience_over = self.waited(epoch).is_some();
        Ok(())
    }

    /// One epoch, or the rest of it, and what comes after: validation, checkpoint, log, what is
    /// printed. Whether training goes on.
    fn epoch(&mut self) -> Result<ControlFlow<()>> {
        let epoch = self.trainer.progress().epoch;
        let trained = self.train(epoch)?;
        let stopped = trained.summary.interrupted || self.stop.load(Ordering::SeqCst);
        let judged = match &mut self.judge {
            Some(judge) if !stopped => judge.judge(&self.gpu, self.stop),
            _ => Judged::default(),
        };
        self.history.interrupted = stopped || self.stop.load(Ordering::SeqCst);
        let steps = trained.steps;
        // Images that cannot be read and logs that cannot be written are no reason to lose the
        // epoch.
        let (mut record, failed) = self.record(trained, judged);
        let enough = self.policy.enough.zip(record.validation_accuracy).is_some_and(|(e, a)| a >= e);
        let waited = record
            .validation_accuracy
            .and_then(|_| if record.best { self.patience(0) } else { self.waited(epoch) });
        self.history.patience_over = waited.is_some();
        let done = self.trainer.progress().epoch;
        let last = done >= self.setup.run.epochs
            || self.history.interrupted
            || enough
            || waited.is_some()
            || failed.is_some();
        // The checkpoint comes before anything is said of it.
        let due = last || record.best || done.is_multiple_of(self.policy.save_every.max(1));
        let out = self.policy.out.filter(|_| due);
        if let Err(error) = self.save(&mut record, steps, out) {
            // The first error is the one that counts; the second is not lost for it.
            let Some(failed) = failed else { return Err(error) };
            self.reporter.tell(&format!("the checkpoint could not be saved either: {error}"))?;
            return Err(failed);
        }
        if !record.summary.interrupted {
            self.tell(&record)?;
        }
        self.history.epochs.push(record);
        if let Some(epochs) = waited {
            let text = format!("held-out accuracy did not rise for {epochs} epochs: that is enough");
            self.reporter.tell(&text)?;
        }
        if let Some(out) = out {
            self.tell_saved(out, last)?;
        }
        match failed {
            Some(error) => Err(error),
            None if enough => Ok(ControlFlow::Break(())),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// Trains on the rest of the epoch.
    fn train(&mut self, epoch: u64) -> Result<Trained> {
        let setup = self.setup;
        let begun = self.recorder.as_deref_mut().and_then(|recorder| recorder.begun(epoch));
        let (begun, before) = begun.map_or_else(Default::default, |part| (part.summary(), part.seconds));
        let busy_before = self.trainer.busy_seconds();
        let label = format!("epoch {}/{}", epoch + 1, setup.run.epochs);
        let bar = self.screen.is_none().then(|| self.reporter.bar(&label, self.loader.len() as u64));
        let mut watch = Watch {
            setup,
            images: self.loader.len(),
            epoch,
            done: self.trainer.progress().batch as usize * setup.run.batch,
            rate: Rate::new(),
            overall: &mut self.overall,
            bar,
            screen: self.screen.as_mut(),
            recorder: self.recorder.as_deref_mut(),
            health: &mut self.health,
            steps: 0,
            history: &mut self.history.steps,
        };
        let mut failed: Option<Error> = None;
        let observe = |step: &StepMetrics| {
            // The first error counts: steps that were on their way already still come in behind it.
            if let Err(error) = watch.step(step) {
                failed.get_or_insert(error);
            }
            if failed.is_some() || self.stop.load(Ordering::SeqCst) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let pace = |at: Moment| setup.run.pace(at);
        let trained = train_epoch_from(self.trainer, &self.loader, begun, pace, observe);
        let summary = self.gpu.block_on(trained)?;
        if let Some(
            error @ (Error::Diverged { .. } | Error::DivergedInF16 { .. } | Error::Overflows { .. }),
        ) = failed
        {
            return Err(error);
        }
        let Watch { rate, steps, .. } = watch;
        let took = rate.elapsed().as_secs_f64();
        let busy = self.trainer.busy_seconds().zip(busy_before).map(|(after, before)| after - before);
        let busy = busy.map(|busy| (busy / took.max(1e-9)).min(1.0));
        Ok(Trained { summary, rate, before, steps, busy, failed })
    }

    /// What is known of an epoch, and what failed in it.
    fn record(&self, trained: Trained, judged: Judged) -> (EpochRecord, Option<Error>) {
        let Trained { summary, rate, before, busy, failed, .. } = trained;
        let best = match (&self.recorder, &judged.main) {
            (Some(recorder), Some(main)) => recorder.is_best(main),
            _ => false,
        };
        let record = EpochRecord {
            rate: self.setup.run.pace(self.trainer.moment(summary.epoch + 1, &self.loader)).rate,
            seconds: before + rate.elapsed().as_secs_f64(),
            images_per_s: rate.per_second(),
            validation_accuracy: judged.main.as_ref().map(Evaluation::accuracy),
            validation: judged.main,
            validation_aux: judged.aux,
            best,
            device_busy: busy,
            summary,
        };
        (record, failed.or(judged.failed))
    }

    /// Saves the checkpoint, if one is due, and then the log's record. Weights that are not finite
    /// are not saved: the last checkpoint stays.
    fn save(&mut self, record: &mut EpochRecord, steps: usize, out: Option<&Path>) -> Result<()> {
        let checkpoint = out.map(|_| finite(self.setup, self.trainer)).transpose();
        let step = self.trainer.progress().step;
        let (checkpoint, spoiled) = match checkpoint {
            Ok(checkpoint) => (checkpoint, None),
            Err(error) => (None, Some(error)),
        };
        // A log that names an epoch as the best promises its weights.
        record.best &= spoiled.is_none();
        let save = checkpoint.as_ref().zip(out).map(|(checkpoint, out)| Save { checkpoint, out });
        let written = match (self.recorder.as_deref_mut(), save) {
            (Some(recorder), save) if !record.summary.interrupted => recorder.epoch(record, step, save),
            // Without a step, what the log has of this epoch still holds.
            (Some(recorder), save) if steps > 0 => recorder.leave(record, step, save),
            (Some(recorder), Some(save)) => recorder.save_only(&save),
            (None, Some(Save { checkpoint, out })) => checkpoint.save(out),
            (_, None) => Ok(()),
        };
        spoiled.map_or(written, Err)
    }

    /// Tells of an epoch that was trained to its end.
    fn tell(&mut self, record: &EpochRecord) -> Result<()> {
        if let Some(screen) = &mut self.screen {
            screen.epoch(record)?;
        }
        self.reporter.tell(&epoch_line(record, self.setup.run.epochs))?;
        self.reporter.tell_event(&Event::Epoch(record))
    }

    fn tell_saved(&self, out: &Path, last: bool) -> Result<()> {
        let interrupted = self.history.interrupted;
        self.reporter.tell_event(&Event::Saved { checkpoint: out, interrupted })?;
        if last {
            let why = if interrupted { "interrupted; " } else { "" };
            self.reporter.tell(&format!("{why}saved {}", shown(out)))?;
        }
        Ok(())
    }

    /// The epochs up to this one without a better accuracy, if they are as many as the run's
    /// patience.
    fn waited(&self, epoch: u64) -> Option<u64> {
        let best = self.recorder.as_ref()?.best();
        self.patience(best.map_or(0, |(_, at)| epoch - at.min(epoch)))
    }

    /// So many epochs, if that is as long as training waits for a better one.
    fn patience(&self, epochs: u64) -> Option<u64> {
        self.setup.run.patience.is_some_and(|patience| epochs >= patience).then_some(epochs)
    }

    /// What the dashboard says about the run.
    fn board(&self) -> Board {
        Board::new(
            &format!("{} on {}", self.setup.network.variant, self.setup.data.name),
            &self.gpu.summary().name,
            self.trainer.session().plan().memory.total_bytes(),
            self.setup.run.epochs,
        )
    }
}

/// The trainer's checkpoint, if its weights are finite.
fn finite(setup: &Setup, trainer: &Trainer) -> Result<Checkpoint> {
    let checkpoint = setup.checkpoint(trainer)?;
    match checkpoint.state.non_finite() {
        Some(tensor) => Err(Error::Spoiled { tensor, epochs: checkpoint.metadata.progress.epoch }),
        None => Ok(checkpoint),
    }
}

/// Follows the steps of an epoch.
struct Watch<'a> {
    setup: &'a Setup,
    images: usize,
    epoch: u64,
    /// Images of the epoch that are done.
    done: usize,
    rate: Rate,
    overall: &'a mut Rate,
    bar: Option<Bar>,
    screen: Option<&'a mut Dashboard>,
    recorder: Option<&'a mut Recorder>,
    health: &'a mut Health,
    steps: usize,
    history: &'a mut Vec<StepMetrics>,
}

impl Watch<'_> {
    fn step(&mut self, step: &StepMetrics) -> Result<()> {
        self.steps += 1;
        self.done += step.count;
        self.rate.add(step.count);
        self.overall.add(step.count);
        let rest = ((self.setup.run.epochs - self.epoch) as usize).saturating_mul(self.images);
        let left = self.overall.left(rest.saturating_sub(self.done));
        let per_second = self.rate.per_second();
        let at = self.epoch as f64 + self.done as f64 / self.images.max(1) as f64;
        if let Some(bar) = &mut self.bar {
            bar.update(self.done as u64, || step_line(step, per_second, &left));
        }
        let mut written = match &mut self.screen {
            Some(screen) => screen.step(step, at, per_second, &left),
            None => Ok(()),
        };
        if let Some(recorder) = &mut self.recorder {
            let before = at - step.count as f64 / self.images.max(1) as f64;
            written = written.and_then(|()| recorder.step(step, before, per_second));
        }
        self.history.push(step.clone());
        // Health first: weights that are spoiled are not saved, whatever else went wrong.
        self.health.step(step).and(written)
    }
}

/// Losses and accuracy of the batch, rate and time left.
fn step_line(step: &StepMetrics, rate: f64, left: &str) -> String {
    let losses: Vec<String> = step.heads.iter().map(|h| format!("{} {:.3}", h.name, h.loss)).collect();
    let correct = step.heads.first().map_or(0.0, |h| h.correct);
    let accuracy = 100.0 * correct / step.count.max(1) as f32;
    format!("loss {}  accuracy {accuracy:.0}%  {rate:.0} images/s  {left} left", losses.join(" "))
}

fn epoch_line(record: &EpochRecord, epochs: u64) -> String {
    let width = epochs.to_string().len();
    let heads = record.summary.heads.iter();
    let losses: Vec<String> = heads.map(|h| format!("{} {:.3}", h.name, h.loss)).collect();
    let accuracy: Vec<String> =
        record.summary.heads.iter().map(|h| format!("{:.1}%", 100.0 * h.accuracy)).collect();
    let validation =
        record.validation_accuracy.map_or(String::new(), |a| format!("  held out {:.2}%", 100.0 * a));
    let busy = record.device_busy.map_or(String::new(), |b| format!("  device busy {:.0}%", 100.0 * b));
    format!(
        "epoch {:>width$}/{epochs}  loss {}  accuracy {}{validation}  {:.0} images/s{busy}  {}",
        record.summary.epoch + 1,
        losses.join(" "),
        accuracy.join(" "),
        record.images_per_s,
        seconds(record.seconds),
    )
}
