//! The training loop with its progress, checkpoints and Ctrl-C: `train` and `demo` share it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use incept::data::{Augmentation, Loader, Mix, OpenedData, Preprocessing};
use incept::gpu::Gpu;
use incept::nn::GoogLeNet;
use incept::runs::{HeadRecord, StopReason};
use incept::train::{
    Classifier, EarlyExit, EpochSummary, Evaluation, Moment, Optimizer, Pace, Schedule, StepMetrics, Trainer,
    TrainingGraph, evaluate, evaluate_heads, train_epoch,
};
use incept::weights::{Checkpoint, Metadata};
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::board::Board;
use super::config::Config;
use super::dashboard::{Dashboard, View};
use super::data::{LoadArgs, report_bad};
use super::health::Health;
use super::options::DeviceArgs;
use super::record::Recorder;
use super::report::{Rate, Reporter, command_line, duration, note, shown};
use super::tune::Worth;

/// What a run was configured with; checkpoints keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub data: String,
    pub held_out: f64,
    pub limit: Option<usize>,
    pub epochs: u64,
    pub batch: usize,
    pub rate: f64,
    pub schedule: Schedule,
    pub warmup: f64,
    pub optimizer: Optimizer,
    pub augmentation: Option<Augmentation>,
    pub seed: u64,
    #[serde(default)]
    pub mix: Option<Mix>,
    /// Epochs without a better one after which training ends.
    #[serde(default)]
    pub patience: Option<u64>,
    /// The options that made all this; none where no person gave any.
    #[serde(default)]
    pub config: Config,
}

impl Run {
    /// How an update moves parameters.
    fn pace(&self, at: Moment) -> Pace {
        self.schedule.pace(self.rate, self.warmup, at, self.epochs)
    }
}

/// All that training needs beside the device.
#[derive(Debug)]
pub(crate) struct Setup {
    pub run: Run,
    pub network: GoogLeNet,
    pub preprocessing: Preprocessing,
    pub data: OpenedData,
    pub load: LoadArgs,
}

/// When training saves and when it ends.
#[derive(Debug, Default)]
pub(crate) struct Policy<'a> {
    /// The checkpoint's file.
    pub out: Option<&'a Path>,
    /// Epochs between checkpoints.
    pub save_every: u64,
    /// Whether each epoch ends with a look at the held-out part.
    pub validate: bool,
    /// Held-out accuracy at which training may end.
    pub enough: Option<f64>,
    /// What is shown meanwhile.
    pub view: View,
}

/// One epoch.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EpochRecord {
    #[serde(flatten)]
    pub summary: EpochSummary,
    /// Learning rate at its end.
    pub rate: f64,
    pub seconds: f64,
    pub images_per_s: f64,
    pub held_out: Option<Evaluation>,
    pub held_out_accuracy: Option<f64>,
    /// The auxiliary softmaxes on the held-out pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held_out_aux: Vec<HeadRecord>,
    /// Whether no epoch before was as good on the held-out pictures.
    pub best: bool,
    /// Share of the time of training in which the device worked on steps; none where it cannot tell.
    pub device_busy: Option<f64>,
}

/// What training has seen.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub steps: Vec<StepMetrics>,
    pub epochs: Vec<EpochRecord>,
    pub interrupted: bool,
    /// Whether training ended because held-out accuracy did not rise any more.
    pub patience_over: bool,
}

impl History {
    /// Why training ended.
    pub(crate) fn reason(&self) -> StopReason {
        match (self.interrupted, self.patience_over) {
            (true, _) => StopReason::Interrupted,
            (_, true) => StopReason::Patience,
            _ => StopReason::Done,
        }
    }
}

/// An event for programs that read along.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    Start {
        device: &'a incept::gpu::AdapterSummary,
        network: &'a GoogLeNet,
        classes: &'a [String],
        run: &'a Run,
        memory: incept::plan::Memory,
        folder: Option<&'a Path>,
        train: usize,
        held_out: usize,
    },
    /// The held-out pictures behind an epoch whose look at them was interrupted.
    Judged {
        epoch: u64,
        held_out_accuracy: f64,
    },
    Epoch(&'a EpochRecord),
    Saved {
        checkpoint: &'a Path,
        interrupted: bool,
    },
}

/// A flag that Ctrl-C sets; pressed again, it ends the program at once.
pub(crate) fn interruptible() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            super::dashboard::restore();
            std::process::exit(130);
        }
        note("stopping as soon as all is in order; Ctrl-C again ends at once");
    })
    .map_err(|e| Error::Config(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(flag)
}

/// What looks at the held-out pictures: all softmaxes where there are several.
enum Judge {
    Main(Box<Classifier>),
    Heads(Box<EarlyExit>),
}

impl Judge {
    /// The main softmax over these pictures, and the auxiliary ones, until `stop`.
    fn judge(
        &mut self,
        gpu: &Gpu,
        held_out: &Loader,
        stop: &AtomicBool,
    ) -> Result<(Option<Evaluation>, Vec<HeadRecord>)> {
        let go_on = || {
            if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match self {
            Self::Main(classifier) => {
                Ok((Some(gpu.block_on(evaluate(classifier, held_out, |_, _| go_on()))?), Vec::new()))
            }
            Self::Heads(staged) => {
                let mut heads = gpu.block_on(evaluate_heads(staged, held_out, |_| go_on()))?;
                let main = heads.pop().map(|(_, evaluation)| evaluation);
                Ok((main, heads.iter().map(|(name, e)| HeadRecord::of_evaluation(name, e)).collect()))
            }
        }
    }
}

impl Setup {
    /// Tunes and plans the training step and compiles its kernels.
    pub(crate) fn trainer(
        &self,
        gpu: &Gpu,
        device: &DeviceArgs,
        stop: &AtomicBool,
        reporter: &Reporter,
    ) -> Result<Trainer> {
        let Run { optimizer, batch, seed, .. } = &self.run;
        device.tune(gpu, reporter, Worth::Training, Some(stop), || {
            TrainingGraph::new(&self.network, optimizer, *batch)?.plan(gpu)
        })?;
        let mut bar = None;
        let prepared = |done: usize, of: usize| {
            let bar = bar.get_or_insert_with(|| reporter.bar("preparing kernels", of as u64));
            bar.update(done as u64, String::new);
        };
        gpu.block_on(Trainer::new(gpu, &self.network, optimizer, *batch, *seed, prepared))
    }

    /// Trains until all epochs are done, Ctrl-C is pressed, or accuracy is enough.
    pub(crate) fn fit(
        &self,
        trainer: &mut Trainer,
        policy: &Policy<'_>,
        mut recorder: Option<&mut Recorder>,
        stop: &Arc<AtomicBool>,
        reporter: &Reporter,
    ) -> Result<History> {
        let gpu = trainer.gpu().clone();
        let training = self.load.options(self.run.batch, &self.preprocessing);
        let training = training.training(self.run.seed, self.run.augmentation).mixing(self.run.mix);
        let loader = Loader::new(Arc::clone(&self.data.train), training)?;
        if policy.validate && self.data.held_out.is_empty() {
            let reason = "has no images to validate on: add some, or train with --no-validation";
            return Err(Error::format(&self.run.data, reason));
        }
        let held_out = self.load.options(self.run.batch, &self.preprocessing);
        let held_out = Loader::new(Arc::clone(&self.data.held_out), held_out)?;
        let mut judge = match (policy.validate, self.network.has_aux()) {
            (false, _) => None,
            (true, false) => Some(Judge::Main(Box::new(gpu.block_on(trainer.classifier(self.run.batch))?))),
            (true, true) => Some(Judge::Heads(Box::new(gpu.block_on(trainer.early_exit(self.run.batch))?))),
        };
        reporter.tell_event(&Event::Start {
            device: gpu.summary(),
            network: &self.network,
            classes: self.data.train.classes(),
            run: &self.run,
            memory: trainer.session().plan().memory,
            folder: recorder.as_ref().map(|r| r.folder().path()),
            train: self.data.train.len(),
            held_out: self.data.held_out.len(),
        })?;
        gpu.block_on(trainer.watch())?;
        let mut history = History::default();
        let mut overall = Rate::new();
        let mut health = Health::default();
        if let (Some(judge), Some(recorder)) = (&mut judge, recorder.as_deref_mut())
            && let Some(epoch) = recorder.unjudged()
        {
            let accuracy = self.judge_late(trainer, judge, &held_out, recorder, policy.out, stop)?;
            if let Some(accuracy) = accuracy {
                let percent = 100.0 * accuracy;
                reporter.tell(&format!("epoch {}/{}  held out {percent:.2}%", epoch + 1, self.run.epochs))?;
                reporter.tell_event(&Event::Judged { epoch, held_out_accuracy: accuracy })?;
            }
            history.interrupted = accuracy.is_none();
            history.patience_over = self.patience_over(recorder, epoch).is_some();
        }
        let mut screen = match policy.view {
            View::Dashboard => Some(Dashboard::open(self.board(trainer), Arc::clone(stop))?),
            View::Bar => None,
        };
        while trainer.progress().epoch < self.run.epochs && !history.interrupted && !history.patience_over {
            let epoch = trainer.progress().epoch;
            let mut rate = Rate::new();
            let busy_before = trainer.busy_seconds();
            let mut failed = None;
            let summary = {
                let label = format!("epoch {}/{}", epoch + 1, self.run.epochs);
                let mut bar = screen.is_none().then(|| reporter.bar(&label, loader.len() as u64));
                let mut done = trainer.progress().batch as usize * self.run.batch;
                let observe = |step: &StepMetrics| {
                    done += step.count;
                    rate.add(step.count);
                    overall.add(step.count);
                    let rest = (self.run.epochs - epoch) as usize * loader.len();
                    let left = overall.left(rest.saturating_sub(done));
                    let at = epoch as f64 + done as f64 / loader.len().max(1) as f64;
                    if let Some(bar) = &mut bar {
                        bar.update(done as u64, || step_line(step, rate.per_second(), &left));
                    }
                    let mut written = match &mut screen {
                        Some(screen) => screen.step(step, at, rate.per_second(), &left),
                        None => Ok(()),
                    };
                    if let Some(recorder) = &mut recorder {
                        let before = at - step.count as f64 / loader.len().max(1) as f64;
                        written = written.and_then(|()| recorder.step(step, before, rate.per_second()));
                    }
                    history.steps.push(step.clone());
                    // The first error counts: steps that were on their way already still come in behind it.
                    if let Err(error) = written.and(health.step(step)) {
                        failed.get_or_insert(error);
                    }
                    if failed.is_some() || stop.load(Ordering::SeqCst) {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                gpu.block_on(train_epoch(trainer, &loader, |at| self.run.pace(at), observe))?
            };
            if let Some(error) = failed {
                return Err(error);
            }
            let trained = rate.elapsed().as_secs_f64();
            let busy = trainer.busy_seconds().zip(busy_before).map(|(after, before)| after - before);
            history.interrupted = summary.interrupted || stop.load(Ordering::SeqCst);
            let judged = match &mut judge {
                Some(judge) if !history.interrupted => judge.judge(&gpu, &held_out, stop),
                _ => Ok((None, Vec::new())),
            };
            // Pictures that cannot be read are no reason to lose the epoch.
            let (mut evaluation, mut aux, unjudged) = match judged {
                Ok((evaluation, aux)) => (evaluation, aux, None),
                Err(error) => (None, Vec::new(), Some(error)),
            };
            if stop.load(Ordering::SeqCst) {
                // What was measured on some of the pictures is no measure of the epoch.
                history.interrupted = true;
                (evaluation, aux) = (None, Vec::new());
            }
            let mut record = EpochRecord {
                rate: self.run.pace(trainer.moment(epoch + 1, &loader)).rate,
                seconds: rate.elapsed().as_secs_f64(),
                images_per_s: rate.per_second(),
                held_out_accuracy: evaluation.as_ref().map(Evaluation::accuracy),
                held_out: evaluation,
                held_out_aux: aux,
                best: false,
                device_busy: busy.map(|busy| (busy / trained.max(1e-9)).min(1.0)),
                summary,
            };
            let interrupted = history.interrupted;
            let whole = !record.summary.interrupted;
            if let Some(recorder) = &mut recorder {
                recorder.complete(&mut record);
                let step = trainer.progress().step;
                if whole {
                    record.best = recorder.epoch(&record, step)?;
                } else {
                    recorder.leave(&record, step)?;
                }
            }
            let (accuracy, best) = (record.held_out_accuracy, record.best);
            let done = trainer.progress().epoch;
            let enough = policy.enough.zip(accuracy).is_some_and(|(enough, accuracy)| accuracy >= enough);
            let waited = recorder.as_ref().filter(|_| accuracy.is_some());
            let waited = waited.and_then(|recorder| self.patience_over(recorder, epoch));
            history.patience_over = waited.is_some();
            let last = done >= self.run.epochs
                || interrupted
                || enough
                || history.patience_over
                || unjudged.is_some();
            // The checkpoint comes before anything is said of it.
            let due = last || best || done.is_multiple_of(policy.save_every.max(1));
            let out = policy.out.filter(|_| due);
            if let Some(out) = out {
                let checkpoint = self.checkpoint(trainer)?;
                match &recorder {
                    Some(recorder) => recorder.save(&checkpoint, out, best)?,
                    None => checkpoint.save(out)?,
                }
            }
            if whole {
                if let Some(screen) = &mut screen {
                    screen.epoch(&record)?;
                }
                reporter.tell(&epoch_line(&record, self.run.epochs))?;
                reporter.tell_event(&Event::Epoch(&record))?;
            }
            history.epochs.push(record);
            if let Some(epochs) = waited {
                reporter
                    .tell(&format!("held-out accuracy did not rise for {epochs} epochs: that is enough"))?;
            }
            if let Some(out) = out {
                reporter.tell_event(&Event::Saved { checkpoint: out, interrupted })?;
                if last {
                    let why = if interrupted { "interrupted; " } else { "" };
                    reporter.tell(&format!("{why}saved {}", shown(out)))?;
                }
            }
            if let Some(error) = unjudged {
                return Err(error);
            }
            if enough || history.patience_over {
                break;
            }
        }
        drop(screen);
        if let Some(recorder) = recorder {
            recorder.end(history.reason(), trainer.progress().epoch)?;
        }
        report_bad(&loader);
        Ok(history)
    }

    /// Looks at the held-out pictures behind the run's last epoch, where that was interrupted, and saves the weights if they are the best;
    /// the accuracy, unless it is interrupted again.
    fn judge_late(
        &self,
        trainer: &Trainer,
        judge: &mut Judge,
        held_out: &Loader,
        recorder: &mut Recorder,
        out: Option<&Path>,
        stop: &AtomicBool,
    ) -> Result<Option<f64>> {
        let (evaluation, aux) = judge.judge(trainer.gpu(), held_out, stop)?;
        let Some(evaluation) = evaluation.filter(|_| !stop.load(Ordering::SeqCst)) else { return Ok(None) };
        let best = recorder.judge(&evaluation, aux)?;
        if let Some(out) = out.filter(|_| best) {
            recorder.save(&self.checkpoint(trainer)?, out, best)?;
        }
        Ok(Some(evaluation.accuracy()))
    }

    /// The epochs up to this one without a better accuracy, if they are as many as the run's patience.
    fn patience_over(&self, recorder: &Recorder, epoch: u64) -> Option<u64> {
        let since_best = recorder.best().map_or(0, |(_, at)| epoch - at.min(epoch));
        self.run.patience.is_some_and(|patience| since_best >= patience).then_some(since_best)
    }

    /// Everything that a run is continued from and a picture classified with.
    pub(crate) fn checkpoint(&self, trainer: &Trainer) -> Result<Checkpoint> {
        let state = trainer.gpu().block_on(trainer.state())?;
        let run = serde_json::to_value(&self.run).map_err(|e| Error::Config(e.to_string()))?;
        let metadata = Metadata {
            version: env!("CARGO_PKG_VERSION").into(),
            network: self.network.clone(),
            classes: self.data.train.classes().to_vec(),
            preprocessing: self.preprocessing.clone(),
            progress: state.progress.clone(),
            run,
            command_line: command_line(),
        };
        Ok(Checkpoint { state, metadata })
    }

    /// What the dashboard says about the run.
    fn board(&self, trainer: &Trainer) -> Board {
        Board::new(
            &format!("{} on {}", self.network.variant, self.data.name),
            &trainer.gpu().summary().name,
            trainer.session().plan().memory.total_bytes(),
            self.run.epochs,
        )
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
    let held_out =
        record.held_out_accuracy.map_or(String::new(), |a| format!("  held out {:.2}%", 100.0 * a));
    let busy = record.device_busy.map_or(String::new(), |b| format!("  device busy {:.0}%", 100.0 * b));
    format!(
        "epoch {:>width$}/{epochs}  loss {}  accuracy {}{held_out}  {:.0} images/s{busy}  {}",
        record.summary.epoch + 1,
        losses.join(" "),
        accuracy.join(" "),
        record.images_per_s,
        duration(std::time::Duration::from_secs_f64(record.seconds)),
    )
}
