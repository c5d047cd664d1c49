//! The setup of a training, shared by `train` and `demo`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use incept::data::{Augmentation, Loader, Mix, OpenedData, Preprocessing};
use incept::device::Device;
use incept::learner::{Learner, LearnerOptions};
use incept::model::GoogLeNet;
use incept::optim::{Optimizer, Schedule};
use incept::train::{Trainer, TrainingGraph};
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::data::LoadArgs;
use super::options::DeviceArgs;
use super::report::{Reporter, command_line, duration, note, plural};
use super::tune::Worth;

/// The configuration of a run, which checkpoints contain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub data: String,
    #[serde(alias = "held_out")]
    pub val_split: f64,
    pub limit: Option<usize>,
    pub epochs: u64,
    pub batch: usize,
    #[serde(alias = "rate")]
    pub lr: f64,
    pub schedule: Schedule,
    pub warmup: f64,
    pub optimizer: Optimizer,
    pub augmentation: Option<Augmentation>,
    pub seed: u64,
    #[serde(default)]
    pub mix: Option<Mix>,
    /// Early stopping after this many epochs without an improvement; none disables it.
    #[serde(default)]
    pub patience: Option<u64>,
    /// The options that the other fields were resolved from; default for `demo`.
    #[serde(default)]
    pub config: Config,
}

/// Compilations that take longer are reported.
const SLOW: Duration = Duration::from_secs(5);

/// Everything that training needs except the device.
#[derive(Debug)]
pub(crate) struct Setup {
    pub run: Run,
    pub network: GoogLeNet,
    pub preprocessing: Preprocessing,
    pub data: OpenedData,
    pub load: LoadArgs,
}

impl Setup {
    /// Tunes and plans the training step and compiles its kernels.
    pub(crate) fn trainer(
        &self,
        device: &Device,
        device_args: &DeviceArgs,
        stop: &AtomicBool,
        reporter: &Reporter,
    ) -> Result<Trainer> {
        let Run { optimizer, batch, seed, .. } = &self.run;
        device_args.tune(device, reporter, Worth::Training, Some(stop), || {
            TrainingGraph::new(&self.network, optimizer, *batch)?.plan(device)
        })?;
        let (mut bar, start, mut nodes) = (None, Instant::now(), 0);
        let prepared = |done: usize, of: usize| {
            let bar = bar.get_or_insert_with(|| reporter.bar("compiling kernels", of as u64));
            bar.update(done as u64, String::new);
            nodes = of;
        };
        let made = Trainer::new(device, &self.network, optimizer, *batch, *seed, prepared);
        let trainer = device.block_on(made)?;
        drop(bar);
        if device.gpu().is_some() && start.elapsed() > SLOW {
            let (count, took) = (plural(nodes as u64, "operation"), duration(start.elapsed()));
            note(&format!("compiled the kernels of {count} in {took}"));
        }
        Ok(trainer)
    }

    /// A learner with the run's data and options that continues from the trainer's state.
    pub(crate) fn learner(
        &self,
        trainer: Trainer,
        validate: bool,
        target_accuracy: Option<f64>,
        save_every: u64,
    ) -> Result<Learner> {
        let Run { batch, seed, augmentation, mix, .. } = &self.run;
        let training = self.load.options(*batch, &self.preprocessing);
        let training = training.training(*seed, *augmentation).mix(*mix);
        let loader = Loader::new(Arc::clone(&self.data.train), training)?;
        if validate && self.data.validation.is_empty() {
            let reason = "has no validation images: add some, or train with --no-validation";
            return Err(Error::format(&self.run.data, reason));
        }
        let device = trainer.device().clone();
        let options = LearnerOptions::default()
            .epochs(self.run.epochs)
            .learning_rate(self.run.lr)
            .schedule(self.run.schedule)
            .warmup_epochs(self.run.warmup)
            .patience(self.run.patience)
            .target_accuracy(target_accuracy)
            .save_every(save_every);
        let mut learner = Learner::new(trainer, loader, options);
        let run = serde_json::to_value(&self.run).map_err(|e| Error::Config(e.to_string()))?;
        learner.describe(run, command_line());
        if validate {
            let validation = self.load.options(*batch, &self.preprocessing);
            let validation = Loader::new(Arc::clone(&self.data.validation), validation)?;
            device.block_on(learner.validate_on(validation))?;
        }
        Ok(learner)
    }
}
