//! `incept train`

mod embedded;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use incept::Error;
use incept::data::Loader;
use incept::learner::Learner;
use incept::low_level::output::is_special;
use incept::runs::{Manifest, Recorder, RecorderOptions, RunFolder, StopReason};
use incept::train::Trainer;
use serde::Serialize;
use start::Start;

pub use self::embedded::{Training, TrainingOptions};
use super::config::{Config, Recipe};
use super::dashboard::ViewName;
use super::data::{Source, report_bad};
use super::fit::Setup;
use super::flags::flags;
use super::interrupt::interruptible;
use super::options::{DeviceArgs, PrecisionArgs, PrecisionName};
use super::place::{Place, ended};
use super::record::{checkpoint_of, folder_of};
use super::report::{Reporter, bytes, is_unread, note, shown, thousands};
use super::screen::Screen;
use super::{Outcome, Result, next, plot, preview};

/// Train a network on a data set; each run has a folder with its configuration, log and
/// checkpoints.
///
/// Every epoch ends with validation and a checkpoint. Ctrl-C saves a checkpoint too. `--resume`
/// continues from a checkpoint, and the result is bit-identical to that of an uninterrupted run.
///
/// Options come from a recipe, then a TOML file, then flags; later ones override earlier ones. The
/// resulting configuration is saved with the run as config.toml, which `--config` takes. `incept
/// runs` lists all runs.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Train {
    #[command(flatten)]
    config: Config,
    /// Built-in configuration to start from.
    #[arg(long, value_name = "NAME", help_heading = "Configuration")]
    recipe: Option<Recipe>,
    /// Read options from a TOML file, such as a run's config.toml.
    ///
    /// It has `data = "photos"`, then sections with the names of the flags as keys: [network],
    /// [training] (with limit, val-split and precision), [optimizer], [augment], [pixels] (mean,
    /// std, fit), [load] (workers, max-bad, max-pixels) and [run].
    #[arg(long = "config", id = "file", value_name = "FILE", help_heading = "Configuration")]
    file: Option<PathBuf>,
    /// Resume from this checkpoint, or from the latest one of a run's folder.
    ///
    /// Network and configuration are those of the run. Only these may change: the path of the data
    /// set, --epochs, --patience, --no-validation, --grad-checkpointing, --workers, --max-bad,
    /// --max-pixels, --save-every, --keep, --tensorboard, --output, --runs-dir and --view.
    #[arg(long, value_name = "FILE|RUN", help_heading = "Run", conflicts_with_all = FIXED_BY_RUN)]
    resume: Option<PathBuf>,
    /// Draw augmented training images of several epochs to this file (.png or .svg), and do not
    /// train.
    #[arg(long, value_name = "FILE", help_heading = "Augmentation", conflicts_with_all = TRAINED_ONLY)]
    preview_augment: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Images of the calling program, in place of a data set by its path.
    #[arg(skip)]
    source: Option<Source>,
}

const EXAMPLES: &str = "Examples:
  incept train cifar --recipe small                      a recipe for small images
  incept train cifar --recipe small --epochs 20          the same with a flag that overrides it
  incept train --config runs/0001-cifar/config.toml      repeat a run
  incept train photos --recipe finetune                  few photos: start from ImageNet weights
  incept train photos --weights cifar.safetensors --freeze-until inception_4a    the same from other weights
  incept train --resume runs/0001-cifar --epochs 90      resume a run and train it longer

Data sets: `digits`, a folder of images, MNIST or CIFAR files, ...; `incept eval --help` lists all formats.";

/// Options that `--resume` does not allow: the run has fixed them.
const FIXED_BY_RUN: [&str; 42] = [
    "variant",
    "width",
    "input",
    "aux_weight",
    "dropout",
    "aux_dropout",
    "smoothing",
    "init",
    "bias_rate",
    "batch",
    "seed",
    "optimizer",
    "lr",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "trust_coefficient",
    "max_grad_norm",
    "average",
    "accumulate",
    "precision",
    "augment",
    "hflip",
    "vflip",
    "photometric",
    "random_interpolation",
    "fit",
    "mean",
    "std",
    "mixup",
    "cutmix",
    "class_weights",
    "weights",
    "freeze_until",
    "reset_head",
    "limit",
    "val_split",
    "recipe",
    "file",
    "preview_augment",
    "name",
];

/// Options that have no effect without training.
const TRAINED_ONLY: [&str; 18] = [
    "epochs",
    "patience",
    "precision",
    "no_validation",
    "optimizer",
    "lr",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "trust_coefficient",
    "max_grad_norm",
    "average",
    "accumulate",
    "checkpointing",
    "save_every",
    "keep",
    "tensorboard",
];

/// The last event of the JSON output; those before it come from the training itself.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    End {
        reason: StopReason,
        /// Completed epochs.
        epochs: u64,
        best_accuracy: Option<f64>,
        /// Epoch with the best validation accuracy, from 0; none without validation.
        best_epoch: Option<u64>,
        best: Option<&'a Path>,
        /// File of the latest checkpoint.
        last: Option<&'a Path>,
        /// Commands to run next.
        next: Vec<String>,
    },
    Failed {
        reason: String,
        /// Completed epochs.
        epochs: u64,
    },
}

impl Train {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        self.preview_augment.as_deref().map_or(Ok(()), plot::check)?;
        let mut start = match &self.resume {
            Some(path) => self.resumed(&checkpoint_of(path)?)?,
            None => self.fresh()?,
        };
        if let Some(path) = &self.preview_augment {
            return Self::preview(&start.setup, path, reporter);
        }
        let mut place = self.place(&start)?;
        if let Some(ended) = Self::nothing_left(&start, &place, reporter)? {
            return Ok(ended);
        }
        let view_name = start.setup.run.config.run.view.unwrap_or_default();
        let view = view_name.view(reporter)?;
        let stop = interruptible()?;
        let mut learner = self.learner(&mut start, &stop, reporter)?;
        let setup = &start.setup;
        let (recorder, out) = self.recorder(&start, &learner, &mut place)?;
        let folder = recorder.folder().clone();
        note(&format!("run: {}", shown(folder.path())));
        learner.record(recorder);
        learner.save_to(&out);
        learner.stop_by(Arc::clone(&stop));
        let plain;
        let reporter = if view_name == ViewName::Plain {
            plain = reporter.plain();
            &plain
        } else {
            reporter
        };
        let history = {
            let mut screen = Screen::new(setup, view, stop, reporter);
            learner.fit_blocking(&mut screen)
        };
        let epochs = learner.trainer().progress().epoch;
        let history = history.map_err(|error| {
            if is_unread(&error) || matches!(error, Error::Interrupted) {
                return error;
            }
            if let Some(recorder) = learner.recorder_mut() {
                recorder.fail(flags(&error.to_string()).into_owned(), epochs);
            }
            let _ = reporter.event_if_open(&Event::Failed { reason: error.to_string(), epochs });
            ended(error, &folder, &setup.run.data)
        })?;
        report_bad(learner.train_loader());
        let best = learner.best().map(|(accuracy, epoch)| (accuracy, epoch, folder.best()));
        if let Some((accuracy, epoch, file)) = &best {
            let (percent, epochs) = (100.0 * accuracy, epoch + 1);
            reporter.line(&format!(
                "best: validation accuracy {percent:.2}% after epoch {epochs}, {}",
                shown(file)
            ))?;
        }
        let next = if history.interrupted {
            let command = next::resume(&folder);
            reporter.line(&format!("resume with: {command}"))?;
            vec![command]
        } else {
            let next = next::after(&folder, setup.data.validation.as_ref())?;
            for (i, command) in next.iter().enumerate() {
                reporter.line(&format!("{}{command}", if i == 0 { "next: " } else { "      " }))?;
            }
            next
        };
        reporter.event(&Event::End {
            reason: history.reason(),
            epochs,
            best_accuracy: best.as_ref().map(|best| best.0),
            best_epoch: best.as_ref().map(|best| best.1),
            best: best.as_ref().map(|best| best.2.as_path()),
            last: Some(&out),
            next,
        })?;
        Ok(if history.interrupted { Outcome::Interrupted } else { Outcome::Done })
    }

    /// Opens the device and prepares the training on it.
    fn learner(&self, start: &mut Start, stop: &AtomicBool, reporter: &Reporter) -> Result<Learner> {
        let device = self.device.open()?;
        if start.resumed.is_none() {
            let precision = *start.setup.run.config.training.precision.get_or_insert(PrecisionName::Auto);
            start.setup.run.optimizer.precision = PrecisionArgs { precision }.training(&device);
        }
        let mut trainer = start.setup.trainer(&device, &self.device, stop, reporter)?;
        if let Some(checkpoint) = &start.resumed {
            trainer.restore(&checkpoint.state)?;
        }
        if let Some((checkpoint, reinitialized)) = &start.weights {
            let weights = checkpoint.state.clone().averaged();
            device.block_on(trainer.start_from(&weights, reinitialized)).map_err(|e| {
                let path = start.from.as_deref().map(shown).unwrap_or_default();
                Error::Config(format!(
                    "--weights {path}: {e} (if it has no auxiliary heads, try --aux-weight 0)"
                ))
            })?;
        }
        let setup = &start.setup;
        note(&format!(
            "network: {}, {}, {} parameters, {} on the device",
            setup.network.variant,
            if setup.network.has_aux() { "main and auxiliary heads" } else { "main head only" },
            thousands(parameters(&trainer) as u64),
            bytes(trainer.session().plan().memory.total_bytes())
        ));
        let config = &setup.run.config;
        setup.learner(trainer, config.training.validates(), None, config.run.save_every.unwrap_or(1))
    }

    /// Locks what the run writes to; completes what a crash interrupted in a resumed run.
    fn place(&self, start: &Start) -> Result<Place> {
        let options = &start.setup.run.config.run;
        let Some((file, checkpoint)) = start.from.as_deref().zip(start.resumed.as_ref()) else {
            return Place::lock(options, None, None);
        };
        let progress = &checkpoint.metadata.progress;
        let place = Place::lock(options, self.resumed_folder(start), Some((file, progress)))?;
        place.mend(file, progress)?;
        Ok(place)
    }

    /// Reports a resumed run that has nothing left to train.
    fn nothing_left(start: &Start, place: &Place, reporter: &Reporter) -> Result<Option<Outcome>> {
        let Some(checkpoint) = &start.resumed else { return Ok(None) };
        let (run, progress) = (&start.setup.run, &checkpoint.metadata.progress);
        let validate = run.config.training.validates();
        let Some((reason, text)) = place.finished(progress, run.epochs, run.patience, validate)? else {
            return Ok(None);
        };
        place.close(progress, reason)?;
        note(&text);
        let (epochs, last) = (progress.epoch, start.from.as_deref());
        let (folder, found) = (place.folder(), place.best()?);
        let best_accuracy = found.map(|(accuracy, _)| accuracy);
        let best_epoch = found.map(|(_, epoch)| epoch);
        let best = folder.map(RunFolder::best).filter(|file| found.is_some() && file.is_file());
        let best = best.as_deref();
        let next = Vec::new();
        reporter.event(&Event::End { reason, epochs, best_accuracy, best_epoch, best, last, next })?;
        Ok(Some(Outcome::Done))
    }

    /// The folder of the resumed run, if there is one.
    fn resumed_folder(&self, start: &Start) -> Option<RunFolder> {
        let (named, file) = (self.resume.as_deref()?, start.from.as_deref()?);
        start.resumed.as_ref()?;
        folder_of(named, file, start.setup.run.config.run.runs_dir())
    }

    /// Creates or opens the run's folder and writes its manifest; also returns the file of the
    /// latest checkpoint.
    fn recorder(&self, start: &Start, learner: &Learner, place: &mut Place) -> Result<(Recorder, PathBuf)> {
        let Start { setup, from, .. } = start;
        let run = &setup.run;
        let name = run.config.run.name.clone().unwrap_or_else(|| {
            Path::new(&run.data)
                .file_name()
                .map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
        });
        let (folder, out) = place.create(&run.config.run, &name)?;
        let manifest = learner.manifest();
        let memory_bytes = manifest.memory_bytes;
        let manifest = Manifest {
            name,
            recipe: self.recipe.map(|r| r.name().into()),
            data: run.data.clone(),
            data_description: setup.data.name.clone(),
            validation: setup.data.validation.len(),
            // For a device or a pipe as output, the checkpoint is saved in the folder too.
            checkpoint: (out != folder.last() && !is_special(&out))
                .then(|| std::path::absolute(&out).unwrap_or_else(|_| out.clone())),
            from: from.clone(),
            ..manifest
        };
        let manifest = match folder.manifest() {
            // A resumed run keeps its original manifest.
            Ok(old) => {
                let (before, now) = (&old.machine.adapter, &manifest.machine.adapter);
                if before != now {
                    note(&format!(
                        "note: this run began on {before}: on {now} it continues with the same images and dropout masks, but the last bits of its results differ"
                    ));
                }
                Manifest { checkpoint: manifest.checkpoint, ..old }
            }
            Err(_) => manifest,
        };
        folder.describe(&manifest, &run.config.to_toml()?)?;
        let options = RecorderOptions::default()
            .steps_per_epoch(learner.train_loader().batches_per_epoch())
            .memory_bytes(memory_bytes)
            .keep(run.config.run.keep.unwrap_or(0))
            .tensorboard(run.config.run.tensorboard.clone());
        let recorder = Recorder::open(folder, learner.trainer().progress(), &options)?;
        for file in recorder.moved_aside() {
            note(&format!("note: moved aside a checkpoint from a later epoch: {}", shown(file)));
        }
        Ok((recorder, out))
    }

    fn preview(setup: &Setup, path: &Path, reporter: &Reporter) -> Result {
        let set = &setup.data.train;
        let options = setup.load.options(setup.run.batch, &setup.preprocessing);
        let plain = Loader::new(Arc::clone(set), options.clone())?;
        let training = options.training(setup.run.seed, setup.run.augmentation).mix(setup.run.mix);
        // Without shuffling, so that each row shows one image.
        let training = Loader::new(Arc::clone(set), training.shuffle(false))?;
        preview::write(path, &plain, &training, setup)?;
        reporter.line(&format!("saved {}; the first column is without augmentation", shown(path)))?;
        reporter.event(&serde_json::json!({ "event": "preview", "output": path }))?;
        Ok(Outcome::Done)
    }
}

fn parameters(trainer: &Trainer) -> usize {
    trainer.session().regions().layout().parameters.iter().map(|e| e.shape.volume()).sum()
}
