//! What a training is made of: `train` and `demo` share it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::{Augmentation, Mix, OpenedData, Preprocessing};
use incept::gpu::Gpu;
use incept::infer::Evaluation;
use incept::model::GoogLeNet;
use incept::optim::{Moment, Optimizer, Pace, Schedule};
use incept::runs::{HeadRecord, StopReason};
use incept::train::{EpochSummary, StepMetrics, Trainer, TrainingGraph};
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::dashboard::View;
use super::data::LoadArgs;
use super::options::DeviceArgs;
use super::record::Recorder;
use super::report::{Reporter, command_line};
use super::session::Session;
use super::tune::Worth;

/// What a run was configured with; checkpoints keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub data: String,
    #[serde(alias = "held_out")]
    pub val_split: f64,
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
    pub(crate) fn pace(&self, at: Moment) -> Pace {
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
    pub validation: Option<Evaluation>,
    pub validation_accuracy: Option<f64>,
    /// The auxiliary softmaxes on the held-out images.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_aux: Vec<HeadRecord>,
    /// Whether no epoch before was as good on the held-out images.
    pub best: bool,
    /// Share of the time of training in which the device worked on steps; none where it cannot
    /// tell.
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
        recorder: Option<&mut Recorder>,
        stop: &Arc<AtomicBool>,
        reporter: &Reporter,
    ) -> Result<History> {
        Session::new(self, trainer, policy, recorder, stop, reporter)?.run()
    }

    /// Everything that a run is continued from and an image classified with.
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
}
