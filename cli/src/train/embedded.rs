//! A training in another program: with the command's options, but without its display.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use incept::checkpoint::Checkpoint;
use incept::device::Device;
use incept::learner::{History, Learner, Observer};
use incept::runs::{Lock, Recorder, RunFolder, StopReason};
use incept::tensor::Element;
use incept::{Error, Result};
use tempfile::TempDir;

use super::Train;
use crate::config::Config;
use crate::data::{IN_MEMORY, Source, report_bad};
use crate::place::{Place, lock_file};
use crate::record::checkpoint_of;
use crate::report::Reporter;
use crate::shared::{DeviceSettings, configured, named};

/// Options of a [`Training`].
#[derive(Clone, Debug, Default)]
pub struct TrainingOptions {
    /// The options of `incept train`, with the sections and keys of its configuration file.
    pub config: serde_json::Value,
    /// A recipe, which the options override.
    pub recipe: Option<String>,
    /// Images in memory, in place of `data` in `config`.
    pub source: Option<Source>,
    /// The checkpoint or the run's folder to resume from.
    pub resume: Option<PathBuf>,
    /// The device.
    pub device: DeviceSettings,
}

impl TrainingOptions {
    fn command(self) -> Result<Train> {
        let mut config: Config = configured(self.config)?;
        if self.source.is_some() {
            config.data = Some(IN_MEMORY.into());
        }
        let recipe = self.recipe.as_deref().map(|name| named("recipe", name)).transpose()?;
        Ok(Train {
            config,
            recipe,
            file: None,
            resume: self.resume,
            preview_augment: None,
            device: self.device.args(),
            source: self.source,
        })
    }
}

/// A training with the options of `incept train`. It has a run's folder if `runs-dir` is set or
/// a run with a folder is resumed; else it only writes `output`, if that is set.
#[derive(Debug)]
pub struct Training {
    learner: Learner,
    /// Holds the best epoch's checkpoint of a training without a folder.
    best: Option<TempDir>,
    /// Held as long as the training may write.
    _locks: Vec<Lock>,
}

impl Training {
    /// Opens the data set and the device and prepares the first step. `stop` stops the training in
    /// good order when it is set.
    ///
    /// # Errors
    /// As `incept train`: [`Error::Config`] naming an option, and errors of data, weights and
    /// device; [`Error::Interrupted`] if `stop` is set.
    pub fn new(options: TrainingOptions, stop: &Arc<AtomicBool>) -> Result<Self> {
        let command = options.command()?;
        let mut start = match &command.resume {
            Some(path) => command.resumed(&checkpoint_of(path)?)?,
            None => command.fresh()?,
        };
        // Opening a large data set takes a while.
        if stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted);
        }
        let run = &start.setup.run.config.run;
        let records = run.runs_dir.is_some() || command.resumed_folder(&start).is_some();
        let mut place = if records { Some(command.place(&start)?) } else { None };
        let out = run.out.clone().or_else(|| start.from.clone().filter(|_| start.resumed.is_some()));
        let out = out.filter(|_| !records);
        let locks = out.as_deref().map(lock_file).transpose()?.flatten().into_iter().collect();
        let mut learner = command.learner(&mut start, stop, &Reporter::new(false).plain())?;
        if stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted);
        }
        let mut best = None;
        if let Some(place) = &mut place {
            let (recorder, out) = command.recorder(&start, &learner, place)?;
            learner.record(recorder);
            learner.save_to(out);
        } else if learner.validation_loader().is_some() {
            let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
            learner.save_best_to(folder.path().join(BEST));
            best = Some(folder);
        }
        if let Some(out) = out {
            learner.save_to(out);
        }
        learner.stop_by(Arc::clone(stop));
        let locks = place.map_or(locks, Place::into_locks);
        Ok(Self { learner, best, _locks: locks })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.learner.trainer().device()
    }

    /// The element type of its activations.
    pub fn element(&self) -> Element {
        self.learner.trainer().element()
    }

    /// The best validation accuracy, in [0, 1], and its epoch.
    pub fn best(&self) -> Option<(f64, u64)> {
        self.learner.best()
    }

    /// The run's folder; `None` without one.
    pub fn folder(&self) -> Option<&RunFolder> {
        self.learner.recorder().map(Recorder::folder)
    }

    /// Trains to the end, or until the flag is set or the observer fails.
    ///
    /// # Errors
    /// As [`Learner::fit`].
    pub fn fit(&mut self, observer: &mut dyn Observer) -> Result<History> {
        let history = self.learner.fit_blocking(observer);
        let epochs = self.learner.trainer().progress().epoch;
        if let Some(recorder) = self.learner.recorder_mut() {
            match &history {
                Ok(_) => {}
                // The observer stopped it after an epoch.
                Err(Error::Interrupted) => recorder.end(StopReason::Interrupted, epochs)?,
                Err(error) => recorder.fail(error.to_string(), epochs),
            }
        }
        report_bad(self.learner.train_loader());
        history
    }

    /// The checkpoint with the best validation accuracy; that of the last step without validation.
    ///
    /// # Errors
    /// Errors of the device and of the file.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let best = match (&self.best, self.folder()) {
            (Some(best), _) => Some(best.path().join(BEST)),
            (None, Some(folder)) => Some(folder.best()),
            (None, None) => None,
        };
        match best.filter(|file| self.learner.best().is_some() && file.is_file()) {
            Some(file) => Checkpoint::load(&file),
            None => self.device().block_on(self.learner.checkpoint()),
        }
    }
}

/// Name of the best epoch's checkpoint in its temporary folder.
const BEST: &str = "best.safetensors";
