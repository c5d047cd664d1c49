//! `incept train`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use incept::Error;
use incept::checkpoint::Checkpoint;
use incept::data::{Loader, LoaderOptions, OpenOptions, Preprocessing};
use incept::learner::Learner;
use incept::model::GoogLeNet;
use incept::output::is_special;
use incept::runs::{Manifest, Recorder, RecorderOptions, RunFolder, StopReason};
use incept::train::Trainer;
use serde::Serialize;

use super::config::{Config, Recipe, class_weights};
use super::dashboard::ViewName;
use super::data::{describe, note_shapes, report_bad, suited_input};
use super::fit::{Run, Setup};
use super::flags::flags;
use super::interrupt::interruptible;
use super::options::{DeviceArgs, Init, PrecisionArgs, PrecisionName};
use super::place::{Place, ended};
use super::record::{checkpoint_of, folder_of, require_finite};
use super::report::{Reporter, bytes, is_unread, note, shown, thousands};
use super::screen::Screen;
use super::{Outcome, Result, plot, preview, record};

/// Train a network on a data set; the run gets a folder with its configuration, log and
/// checkpoints.
///
/// Every epoch ends with a look at the images that are held out and with a checkpoint. Ctrl-C saves
/// too, and `--resume` goes on where a checkpoint was made: bit for bit as if nothing had happened.
///
/// Options come from a recipe, then a TOML file, then flags, each over the one before; the
/// configuration that comes out is saved with the run as config.toml, which `--config` takes.
/// `incept runs` lists what was trained.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Train {
    #[command(flatten)]
    config: Config,
    /// Start from this configuration.
    #[arg(long, value_name = "NAME", help_heading = "Configuration")]
    recipe: Option<Recipe>,
    /// Read options from this TOML file: `data = "photos"`, then the sections [network], [training]
    /// (with limit, held-out and precision), [optimizer], [augment], [pixels] (mean, std, fit),
    /// [load] (workers, max-bad, max-pixels) and [run] with the names of the flags. A run's
    /// config.toml shows them all.
    #[arg(long = "config", id = "file", value_name = "FILE", help_heading = "Configuration")]
    file: Option<PathBuf>,
    /// Go on from this checkpoint, or the newest one of a run's folder, with its network and
    /// configuration. What may be given anew: the data set's place, --epochs, --patience,
    /// --no-validation, --grad-checkpointing, --workers, --max-bad, --max-pixels, --save-every,
    /// --keep, --tensorboard, --output, --runs-dir and --view.
    #[arg(long, value_name = "FILE|RUN", help_heading = "Run", conflicts_with_all = FIXED_BY_RUN)]
    resume: Option<PathBuf>,
    /// Draw training images as the network will see them, several epochs side by side, .png or
    /// .svg, and do not train.
    #[arg(long, value_name = "FILE", help_heading = "Augmentation", conflicts_with_all = TRAINED_ONLY)]
    preview_augment: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = "Examples:
  incept train cifar --recipe small                      a recipe for small images
  incept train cifar --recipe small --epochs 20          the same, changed by a flag
  incept train --config runs/0001-cifar/config.toml      a run trained again
  incept train photos --init cifar.safetensors --reset-head --freeze-until inception_4a    the weights of another run for other classes
  incept train --resume runs/0001-cifar --epochs 90      a run taken further

Data sets: `digits`, a folder of images, MNIST's or CIFAR's files; `incept eval --help` lists the formats.";

/// What a run that is resumed has decided already.
const FIXED_BY_RUN: [&str; 41] = [
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
    "rate",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "trust",
    "clip_norm",
    "average",
    "accumulate",
    "precision",
    "augment",
    "mirror",
    "flip",
    "photometric",
    "random_interpolation",
    "fit",
    "mean",
    "std",
    "mixup",
    "cutmix",
    "class_weights",
    "freeze_until",
    "reset_head",
    "limit",
    "val_split",
    "recipe",
    "file",
    "preview_augment",
    "name",
];

/// What means nothing where nothing is trained.
const TRAINED_ONLY: [&str; 18] = [
    "epochs",
    "patience",
    "precision",
    "no_validation",
    "optimizer",
    "rate",
    "schedule",
    "warmup",
    "momentum",
    "weight_decay",
    "trust",
    "clip_norm",
    "average",
    "accumulate",
    "checkpointing",
    "save_every",
    "keep",
    "tensorboard",
];

/// The last event for programs that read along; those before are of the training itself.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    End {
        reason: StopReason,
        /// Epochs that are done.
        epochs: u64,
        best_accuracy: Option<f64>,
        /// Number of the epoch with the best held-out accuracy, from 0.
        best_epoch: Option<u64>,
        best: Option<&'a Path>,
        /// The newest checkpoint.
        last: Option<&'a Path>,
    },
    Failed {
        reason: String,
        /// Epochs that are done.
        epochs: u64,
    },
}

/// What a run begins with.
struct Start {
    setup: Setup,
    /// The state that training goes on from.
    resumed: Option<Checkpoint>,
    /// Weights of another run, and the parameters that are drawn anew all the same.
    weights: Option<(Checkpoint, Vec<String>)>,
    /// The file that either came from.
    from: Option<PathBuf>,
}

impl Train {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        self.preview_augment.as_deref().map_or(Ok(()), plot::check)?;
        let mut start = match &self.resume {
            Some(path) => self.resumed(&checkpoint_of(path)?)?,
            None => self.fresh()?,
        };
        if let Some(path) = &self.preview_augment {
            return Self::preview(&start.setup, path, reporter);
        }
        let mut place = self.place(&start)?;
        let validate = start.setup.run.config.training.no_validation != Some(true);
        if let Some(ended) = Self::nothing_left(&start, &place, validate, reporter)? {
            return Ok(ended);
        }
        let view_name = start.setup.run.config.run.view.unwrap_or_default();
        let view = view_name.view(reporter)?;
        let stop = interruptible()?;
        let gpu = device.open()?;
        if start.resumed.is_none() {
            let precision = *start.setup.run.config.training.precision.get_or_insert(PrecisionName::Auto);
            start.setup.run.optimizer.precision = PrecisionArgs { precision }.training(&gpu);
        }
        let mut trainer = start.setup.trainer(&gpu, device, &stop, reporter)?;
        if let Some(checkpoint) = &start.resumed {
            trainer.restore(&checkpoint.state)?;
        }
        if let Some((checkpoint, anew)) = &start.weights {
            let begun = gpu.block_on(trainer.start_from(&checkpoint.state.clone().averaged(), anew));
            begun.map_err(|e| {
                let path = start.from.as_deref().map(shown).unwrap_or_default();
                Error::Config(format!("--init {path}: {e} (no auxiliary heads there? try --aux-weight 0)"))
            })?;
        }
        let setup = &start.setup;
        note(&format!(
            "network: {} with {} softmaxes, {} parameters, {} on the device",
            setup.network.variant,
            if setup.network.has_aux() { 3 } else { 1 },
            thousands(parameters(&trainer) as u64),
            bytes(trainer.session().plan().memory.total_bytes())
        ));
        let save_every = setup.run.config.run.save_every.unwrap_or(1);
        let mut learner = setup.learner(trainer, validate, None, save_every)?;
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
            let _ = reporter.tell_event(&Event::Failed { reason: error.to_string(), epochs });
            ended(error, &folder, &setup.run.data)
        })?;
        report_bad(learner.train_loader());
        let best = learner.best().map(|(accuracy, epoch)| (accuracy, epoch, folder.best()));
        if let Some((accuracy, epoch, file)) = &best {
            let (percent, epochs) = (100.0 * accuracy, epoch + 1);
            reporter.line(&format!("best: held out {percent:.2}% after epoch {epochs}, {}", shown(file)))?;
        }
        reporter.event(&Event::End {
            reason: history.reason(),
            epochs,
            best_accuracy: best.as_ref().map(|best| best.0),
            best_epoch: best.as_ref().map(|best| best.1),
            best: best.as_ref().map(|best| best.2.as_path()),
            last: Some(&out),
        })?;
        Ok(if history.interrupted { Outcome::Interrupted } else { Outcome::Done })
    }

    fn fresh(&self) -> Result<Start> {
        let mut config = self.config.layered(self.recipe, self.file.as_deref())?;
        config.training.take_back();
        config.training.validate()?;
        config.load.set_limit()?;
        config.run.validate()?;
        self.config.optimizer.refuse_idle(&config.optimizer)?;
        config.optimizer.drop_idle();
        let what = config.data.clone();
        let what =
            what.ok_or_else(|| Error::Config("name a data set, here or in the file as `data`".into()))?;
        let training = &mut config.training;
        let seed = *training.seed.get_or_insert(1);
        let val_split = *training.val_split.get_or_insert(OpenOptions::default().val_split);
        let data = describe(
            &what,
            &OpenOptions { val_split, limit: training.limit, limit_seed: seed, ..OpenOptions::default() },
        )?;
        if data.train.is_empty() {
            return Err(Error::format(&what, "has no images to train on"));
        }
        let names = data.train.classes();
        let from = match &config.network.init {
            Some(Init::Weights(path)) => Some(path.clone()),
            _ => None,
        };
        let weights = from.as_deref().map(record::load).transpose()?;
        let reset = *training.reset_head.get_or_insert(false);
        if weights.is_none() && (reset || training.freeze_until.is_some()) {
            return Err(Error::Config("--reset-head and --freeze-until need --init FILE".into()));
        }
        let mut network = match &weights {
            Some(Checkpoint { metadata, .. }) => {
                let theirs = metadata.classes.len();
                if theirs != names.len() && !reset {
                    let reason = format!(
                        "--init: the weights know {theirs} classes and the data set has {}: draw the classifiers anew with --reset-head",
                        names.len()
                    );
                    return Err(Error::Config(reason));
                }
                if !reset && metadata.classes != names {
                    let first = |classes: &[String]| classes.first().cloned().unwrap_or_default();
                    note(&format!(
                        "note: the classes of the weights have other names ({}, ... and here {}, ...): their classifiers are kept; --reset-head draws them anew",
                        first(&metadata.classes),
                        first(names)
                    ));
                }
                // The network is the one that has the weights, whatever a recipe says.
                config.network.width = self.config.network.width;
                config.network.variant = self.config.network.variant.or(Some(metadata.network.variant));
                if config.network.width.is_some() || config.network.variant != Some(metadata.network.variant)
                {
                    let reason = "--init FILE brings its own network: leave out --variant and --width";
                    return Err(Error::Config(reason.into()));
                }
                // Their weights of classes were for another training.
                let theirs = GoogLeNet { class_weights: None, ..metadata.network.clone() };
                config.network.changed(theirs.classes(names.len()))?
            }
            None => config.network.network(names.len(), suited_input(&data.train))?,
        };
        network.freeze_until.clone_from(&training.freeze_until);
        let counts = || {
            (0..data.train.len()).fold(vec![0; names.len()], |mut counts, i| {
                counts[data.train.label(i) as usize] += 1;
                counts
            })
        };
        network.class_weights =
            training.class_weights.as_deref().map(|w| class_weights(w, &counts())).transpose()?;
        let (augmentation, mix) = config.augment.resolve(data.suits)?;
        network.mixed_labels = mix.is_some();
        network.validate()?;
        if self.config.network.aux_dropout.is_some() && !network.has_aux() {
            let reason = "--aux-dropout would change nothing: --aux-weight 0 leaves the auxiliary heads out";
            return Err(Error::Config(reason.into()));
        }
        config.network.fill(&network);
        if weights.is_none() {
            config.network.width.get_or_insert(1.0);
        }
        let preprocessing = match &weights {
            Some(checkpoint) => {
                let theirs = checkpoint.metadata.preprocessing.clone();
                config.pixels.resolve(&Preprocessing { input: network.input, ..theirs })?
            }
            None => config.pixels.measured(network.input, data.train.as_ref())?,
        };
        note_shapes(data.train.as_ref(), &preprocessing, self.config.pixels.fit.is_some());
        let training = &mut config.training;
        let optimizer = config.optimizer.resolve();
        config.run.save_every.get_or_insert(1);
        config.run.keep.get_or_insert(0);
        config.optimizer.validate()?;
        let epochs = *training.epochs.get_or_insert(30);
        let batch = training.batch.get_or_insert(32);
        GoogLeNet::check_batch(*batch)?;
        if *batch > data.train.len() {
            // A batch with copies would give batch norm too small a variance.
            note(&format!("note: batches are of {} images: there are no more to train on", data.train.len()));
            *batch = data.train.len();
        }
        let batch = *batch;
        if batch == 1 && mix.is_some() {
            let reason = "--mixup and --cutmix would change nothing: they mix the images of a batch, and --batch-size is 1";
            return Err(Error::Config(reason.into()));
        }
        let warmup = *config.optimizer.warmup.get_or_insert(0.0);
        if self.config.optimizer.warmup.is_some() && warmup >= epochs as f64 && warmup > 0.0 {
            let reason =
                format!("--warmup-epochs {warmup} must be shorter than the run, which has --epochs {epochs}");
            return Err(Error::Config(reason));
        }
        let run = Run {
            data: what,
            val_split,
            limit: training.limit,
            epochs,
            batch,
            rate: *config.optimizer.rate.get_or_insert(0.01),
            schedule: *config
                .optimizer
                .schedule
                .get_or_insert(incept::optim::Schedule::Polynomial { power: 0.5 }),
            warmup,
            optimizer,
            augmentation,
            seed,
            mix,
            patience: training.patience,
            config,
        };
        run.check()?;
        warn_of_warmup(&run);
        let steps = run.epochs.saturating_mul(data.train.len().div_ceil(run.batch.max(1)) as u64);
        if u64::from(optimizer.accumulate) > steps {
            let reason = format!(
                "--grad-accum {} is more than the {steps} batches of the whole run: no update would have as many",
                optimizer.accumulate
            );
            return Err(Error::Config(reason));
        }
        let anew = if reset { network.head_parameters() } else { Vec::new() };
        let weights = weights.map(|checkpoint| (checkpoint, anew));
        let load = run.config.load.clone();
        let setup = Setup { run, network, preprocessing, data, load };
        Ok(Start { setup, resumed: None, weights, from })
    }

    /// What the run writes to, for this process alone; of a run that goes on, with all that a crash
    /// left undone.
    fn place(&self, start: &Start) -> Result<Place> {
        let options = &start.setup.run.config.run;
        let Some((file, checkpoint)) = start.from.as_deref().zip(start.resumed.as_ref()) else {
            return Place::take(options, None, None);
        };
        let progress = &checkpoint.metadata.progress;
        let place = Place::take(options, self.resumed_folder(start), Some((file, progress)))?;
        place.mend(file, progress)?;
        Ok(place)
    }

    /// Says so where a run that goes on has nothing left to train.
    fn nothing_left(
        start: &Start,
        place: &Place,
        validate: bool,
        reporter: &Reporter,
    ) -> Result<Option<Outcome>> {
        let Some(checkpoint) = &start.resumed else { return Ok(None) };
        let (run, progress) = (&start.setup.run, &checkpoint.metadata.progress);
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
        reporter.event(&Event::End { reason, epochs, best_accuracy, best_epoch, best, last })?;
        Ok(Some(Outcome::Done))
    }

    fn resumed(&self, path: &Path) -> Result<Start> {
        let checkpoint = Checkpoint::load(path)?;
        require_finite(path, &checkpoint)?;
        let metadata = &checkpoint.metadata;
        let mut run: Run = serde_json::from_value(metadata.run.clone()).map_err(|e| {
            Error::Config(format!(
                "this checkpoint does not say how it was trained and cannot be resumed: {e}"
            ))
        })?;
        if let Some(data) = &self.config.data {
            run.data.clone_from(data);
            run.config.data = Some(data.clone());
        }
        if let Some(epochs) = self.config.training.epochs {
            run.epochs = epochs;
            run.config.training.epochs = Some(epochs);
        }
        if let Some(patience) = self.config.training.patience {
            run.config.training.patience = Some(patience).filter(|epochs| *epochs > 0);
            run.patience = run.config.training.patience;
        }
        if let Some(blind) = self.config.training.no_validation {
            run.config.training.no_validation = Some(blind);
        }
        run.config.training.validate()?;
        run.check()
            .map_err(|error| Error::format(path, format!("was trained in no way that can be: {error}")))?;
        warn_of_warmup(&run);
        // JSON has no infinity: a norm that is only looked at comes back as none.
        run.optimizer.clip_norm.get_or_insert(f32::INFINITY);
        if let Some(again) = self.config.optimizer.checkpointing {
            // What is made again is the same: memory and time change, and nothing else.
            run.optimizer.checkpointing = again;
            run.config.optimizer.checkpointing = Some(again);
        }
        let (own, given) = (&mut run.config.load, &self.config.load);
        own.workers = given.workers.or(own.workers);
        own.max_bad = given.max_bad.or(own.max_bad);
        own.max_pixels = given.max_pixels.or(own.max_pixels);
        own.set_limit()?;
        let (own, given) = (&mut run.config.run, &self.config.run);
        own.save_every = given.save_every.or(own.save_every);
        own.keep = given.keep.or(own.keep);
        own.tensorboard = given.tensorboard.clone().or_else(|| own.tensorboard.clone());
        own.out = given.out.clone();
        own.runs_dir = given.runs_dir.clone().or_else(|| own.runs_dir.clone());
        // How it was looked at is not a part of the run: the terminal may be another one, or none.
        own.view = given.view;
        let options = OpenOptions {
            val_split: run.val_split,
            limit: run.limit,
            limit_seed: run.seed,
            ..OpenOptions::default()
        };
        let data = describe(&run.data, &options)?;
        if data.train.classes() != metadata.classes {
            let classes = metadata.classes.join(", ");
            return Err(Error::Config(format!(
                "{} does not have the checkpoint's classes: {classes}",
                run.data
            )));
        }
        let (network, preprocessing) = (metadata.network.clone(), metadata.preprocessing.clone());
        let load = run.config.load.clone();
        let setup = Setup { run, network, preprocessing, data, load };
        Ok(Start { setup, resumed: Some(checkpoint), weights: None, from: Some(path.to_path_buf()) })
    }

    /// The folder of the run that goes on, if one does and has one.
    fn resumed_folder(&self, start: &Start) -> Option<RunFolder> {
        let (named, file) = (self.resume.as_deref()?, start.from.as_deref()?);
        start.resumed.as_ref()?;
        folder_of(named, file, start.setup.run.config.run.runs_dir())
    }

    /// The run's folder with what is known now, and where the newest checkpoint goes.
    fn recorder(&self, start: &Start, learner: &Learner, place: &mut Place) -> Result<(Recorder, PathBuf)> {
        let Start { setup, from, .. } = start;
        let run = &setup.run;
        let name = run.config.run.name.clone().unwrap_or_else(|| {
            Path::new(&run.data)
                .file_name()
                .map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
        });
        let (folder, out) = place.settle(&run.config.run, &name)?;
        let manifest = learner.manifest();
        let memory_bytes = manifest.memory_bytes;
        let manifest = Manifest {
            name,
            recipe: self.recipe.map(|r| r.name().into()),
            data: run.data.clone(),
            data_description: setup.data.name.clone(),
            validation: setup.data.validation.len(),
            // A device or a pipe keeps nothing: the folder has the checkpoint too then.
            checkpoint: (out != folder.last() && !is_special(&out))
                .then(|| std::path::absolute(&out).unwrap_or_else(|_| out.clone())),
            from: from.clone(),
            ..manifest
        };
        let manifest = match folder.manifest() {
            // What was known at the start of a run that resumes stays.
            Ok(old) => Manifest { checkpoint: manifest.checkpoint, ..old },
            Err(_) => manifest,
        };
        folder.describe(&manifest, &run.config.to_toml()?)?;
        let mut options = RecorderOptions::default();
        options.steps_per_epoch = learner.train_loader().batches_per_epoch();
        options.memory_bytes = memory_bytes;
        options.keep = run.config.run.keep.unwrap_or(0);
        options.tensorboard.clone_from(&run.config.run.tensorboard);
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
        let training = options.training(setup.run.seed, setup.run.augmentation).mixing(setup.run.mix);
        // In the data set's order, so that a row is one image.
        let training = Loader::new(Arc::clone(set), LoaderOptions { shuffle: false, ..training })?;
        preview::write(path, &plain, &training, setup)?;
        reporter.line(&format!("saved {}: the first of a row is the image itself", shown(path)))?;
        reporter.event(&serde_json::json!({ "event": "preview", "sheet": path }))?;
        Ok(Outcome::Done)
    }
}

/// Says so where a warm-up, from a recipe or a file, leaves nothing of the run.
fn warn_of_warmup(run: &Run) {
    if run.warmup > 0.0 && run.warmup >= run.epochs as f64 {
        note(&format!(
            "note: the warm-up of {} epochs is as long as the run of {} or longer: the learning rate rises to its end and does not reach --lr {}",
            run.warmup, run.epochs, run.rate
        ));
    }
}

fn parameters(trainer: &Trainer) -> usize {
    trainer.session().regions().layout.parameters.iter().map(|e| e.shape.volume()).sum()
}
