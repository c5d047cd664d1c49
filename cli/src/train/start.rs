//! Configuring a run: a new one from recipe, file and flags, or one to resume from its checkpoint.

use std::path::{Path, PathBuf};

use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::{Augmentation, Mix, OpenOptions, OpenedData, Preprocessing};
use incept::low_level::text::noun_after;
use incept::model::GoogLeNet;
use incept::optim::Schedule;

use super::Train;
use crate::Result;
use crate::config::{Config, class_weights};
use crate::data::{describe, note_shapes, refuse_split, suited_input};
use crate::fit::{Run, Setup};
use crate::record::{self, require_finite};
use crate::report::{note, plural};

/// A configured run, before a device is opened.
pub(super) struct Start {
    pub setup: Setup,
    /// The checkpoint to resume from.
    pub resumed: Option<Checkpoint>,
    /// Pretrained weights, and the names of parameters that are reinitialized nevertheless.
    pub weights: Option<(Checkpoint, Vec<String>)>,
    /// The file of either.
    pub from: Option<PathBuf>,
}

/// The data set of a new run, and how it is split.
struct Images {
    /// As given.
    what: String,
    val_split: f64,
    seed: u64,
    data: OpenedData,
}

/// What a new run takes over from `--weights`.
struct Pretrained {
    from: Option<PathBuf>,
    weights: Option<Checkpoint>,
    /// Whether the classifiers are reinitialized.
    reset: bool,
}

impl Pretrained {
    /// Loads the weights that the configuration names, if any; `names` are the data set's classes.
    fn load(config: &mut Config, names: &[String]) -> Result<Self> {
        let training = &mut config.training;
        let from = training.weights.clone();
        let Some(path) = &from else {
            if training.reset_head == Some(true) || training.freeze_until.is_some() {
                let reason = "--reset-head and --freeze-until need pretrained weights: add --weights imagenet, included or FILE";
                return Err(Error::Config(reason.into()));
            }
            return Ok(Self { from, weights: None, reset: false });
        };
        let checkpoint = record::load(path)?;
        let reset = resets(training.reset_head, &checkpoint.metadata.classes, names)?;
        training.reset_head = Some(reset);
        Ok(Self { from, weights: Some(checkpoint), reset })
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.weights.as_ref().map(|checkpoint| &checkpoint.metadata)
    }
}

/// Whether the classifiers of weights for the classes `theirs` are reinitialized for the data set's
/// classes `names`: as `given`, or if the classes differ; prints what happens to them.
///
/// # Errors
/// [`Error::Config`] if they have to be, and `given` forbids it.
fn resets(given: Option<bool>, theirs: &[String], names: &[String]) -> Result<bool> {
    if theirs == names {
        return Ok(given == Some(true));
    }
    let some = |classes: &[String]| {
        let first = classes.first().map_or("", String::as_str);
        format!("{} ({first}, ...)", plural(classes.len() as u64, "class"))
    };
    let (theirs_in_words, names_in_words) = (some(theirs), some(names));
    if theirs.len() != names.len() && given == Some(false) {
        return Err(Error::Config(format!(
            "the weights have {theirs_in_words} and the data set has {names_in_words}: remove --reset-head false"
        )));
    }
    let reset = given.unwrap_or(theirs.len() != names.len() || !is_unnamed(theirs, names));
    note(&if reset {
        format!(
            "weights: the classifiers are reinitialized for {names_in_words}; the weights have {theirs_in_words}"
        )
    } else {
        format!(
            "note: the weights have other class names than the data set, {theirs_in_words} and {names_in_words}; the classifiers are kept (--reset-head reinitializes them)"
        )
    });
    Ok(reset)
}

/// Whether one of two lists of the same length has numbers or identifiers in place of names, so
/// that both may mean the same classes: `0`, `1`, ..., as imported weights without names have, or
/// ImageNet's folders, `n01440764` and so on.
fn is_unnamed(theirs: &[String], names: &[String]) -> bool {
    let numbered = |classes: &[String]| classes.iter().enumerate().all(|(i, name)| *name == i.to_string());
    let is_synset = |name: &String| {
        name.strip_prefix('n').is_some_and(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_digit()))
    };
    numbered(theirs) || names.iter().all(is_synset)
}

/// A new run.
impl Train {
    pub(super) fn fresh(&self) -> Result<Start> {
        let mut config = self.layered()?;
        let images = self.images(&mut config)?;
        let pretrained = Pretrained::load(&mut config, images.data.train.classes())?;
        // `--weights none` is a decision.
        if pretrained.weights.is_none() && self.config.training.weights.is_none() {
            note_few_images(&images);
        }
        let mut network = self.network(&mut config, &images.data, &pretrained)?;
        let (augmentation, mix) = config.augment.resolve(images.data.suits)?;
        network.mixed_labels = mix.is_some();
        self.complete(&mut config, &network, &pretrained)?;
        let preprocessing = self.preprocessing(&mut config, &images.data, &pretrained, network.input)?;
        let run = self.configured(config, &images, augmentation, mix)?;
        let load = run.config.load.clone();
        let setup = Setup { run, network, preprocessing, data: images.data, load };
        let Pretrained { from, weights, reset } = pretrained;
        let reinitialized = if reset { setup.network.head_parameters() } else { Vec::new() };
        let weights = weights.map(|checkpoint| (checkpoint, reinitialized));
        Ok(Start { setup, resumed: None, weights, from })
    }

    /// Recipe, file and flags in one configuration, checked.
    fn layered(&self) -> Result<Config> {
        let mut config = self.config.layered(self.recipe, self.file.as_deref())?;
        config.training.unset_disabled();
        config.training.validate()?;
        config.load.set_limit()?;
        config.run.validate()?;
        self.config.optimizer.refuse_ineffective(&config.optimizer)?;
        config.optimizer.drop_ineffective();
        Ok(config)
    }

    /// Opens the data set.
    fn images(&self, config: &mut Config) -> Result<Images> {
        let what = config.data.clone().ok_or_else(|| {
            Error::Config("no data set: give one as an argument, or as `data` in the --config file".into())
        })?;
        let training = &mut config.training;
        let seed = *training.seed.get_or_insert(1);
        let val_split = *training.val_split.get_or_insert(OpenOptions::default().val_split);
        let options = OpenOptions::default().val_split(val_split).limit(training.limit).limit_seed(seed);
        let data = self.open(&what, &options, training.validates())?;
        refuse_split(&data, "--val-split", self.config.training.val_split.is_some())?;
        if data.train.is_empty() {
            return Err(Error::format(&what, "has no images to train on"));
        }
        Ok(Images { what, val_split, seed, data })
    }

    /// Opens the data set with this path, or the images of the calling program.
    fn open(&self, what: &str, options: &OpenOptions, validates: bool) -> Result<OpenedData> {
        self.source.as_ref().map_or_else(|| describe(what, options), |source| source.open(options, validates))
    }

    /// The network of the options, or that of pretrained weights.
    fn network(&self, config: &mut Config, data: &OpenedData, pretrained: &Pretrained) -> Result<GoogLeNet> {
        let names = data.train.classes();
        let mut network = match pretrained.metadata() {
            Some(metadata) => self.pretrained_network(config, metadata, names.len())?,
            None => config.network.network(names.len(), suited_input(&data.train))?,
        };
        let training = &config.training;
        network.freeze_until.clone_from(&training.freeze_until);
        let counts = || {
            (0..data.train.len()).fold(vec![0; names.len()], |mut counts, i| {
                counts[data.train.label(i) as usize] += 1;
                counts
            })
        };
        network.class_weights =
            training.class_weights.as_deref().map(|w| class_weights(w, &counts())).transpose()?;
        Ok(network)
    }

    /// The network of pretrained weights, for this many classes.
    fn pretrained_network(
        &self,
        config: &mut Config,
        metadata: &Metadata,
        classes: usize,
    ) -> Result<GoogLeNet> {
        // The network comes with the weights; a recipe's is ignored, a different flag's refused.
        let (given, theirs) = (&self.config.network, &metadata.network);
        let wider =
            |width: f64| GoogLeNet::of(theirs.variant).width(width).channels.stem != theirs.channels.stem;
        if given.variant.is_some_and(|v| v != theirs.variant) || given.width.is_some_and(wider) {
            let full = GoogLeNet::of(theirs.variant).channels.stem[0] as f64;
            return Err(Error::Config(format!(
                "the network comes with the weights, which have --variant {} and --width {}: remove --variant and --width, or train without --weights",
                theirs.variant,
                theirs.channels.stem[0] as f64 / full
            )));
        }
        config.network.width = None;
        config.network.variant = Some(theirs.variant);
        // Class weights of the earlier training do not apply to this one.
        let theirs = metadata.network.clone().with_class_weights(None);
        config.network.changed(theirs.classes(classes))
    }

    /// Checks the network, and completes its options with its values.
    fn complete(&self, config: &mut Config, network: &GoogLeNet, pretrained: &Pretrained) -> Result<()> {
        network.validate()?;
        if self.config.network.aux_dropout.is_some() && !network.has_aux() {
            let reason = "--aux-dropout has no effect: --aux-weight 0 removes the auxiliary heads";
            return Err(Error::Config(reason.into()));
        }
        config.network.fill(network);
        if pretrained.weights.is_none() {
            config.network.width.get_or_insert(1.0);
        }
        Ok(())
    }

    /// The preprocessing of pretrained weights, or one measured on the training images.
    fn preprocessing(
        &self,
        config: &mut Config,
        data: &OpenedData,
        pretrained: &Pretrained,
        input: usize,
    ) -> Result<Preprocessing> {
        let preprocessing = match pretrained.metadata() {
            Some(metadata) => {
                let theirs = metadata.preprocessing.clone();
                config.pixels.resolve(&theirs.input(input))?
            }
            None => config.pixels.measured(input, data.train.as_ref())?,
        };
        note_shapes(data.train.as_ref(), &preprocessing, self.config.pixels.fit.is_some());
        Ok(preprocessing)
    }

    /// The run of a configuration; options that were not given are set to their defaults.
    fn configured(
        &self,
        mut config: Config,
        images: &Images,
        augmentation: Option<Augmentation>,
        mix: Option<Mix>,
    ) -> Result<Run> {
        let optimizer = config.optimizer.resolve();
        config.run.save_every.get_or_insert(1);
        config.run.keep.get_or_insert(0);
        config.optimizer.validate()?;
        let epochs = *config.training.epochs.get_or_insert(30);
        let batch = batch_size(&mut config, images.data.train.len(), mix.is_some())?;
        let warmup = *config.optimizer.warmup.get_or_insert(0.0);
        if self.config.optimizer.warmup.is_some() && warmup >= epochs as f64 && warmup > 0.0 {
            let reason =
                format!("--warmup-epochs {warmup} must be shorter than the run, which has --epochs {epochs}");
            return Err(Error::Config(reason));
        }
        let run = Run {
            data: images.what.clone(),
            val_split: images.val_split,
            limit: config.training.limit,
            epochs,
            batch,
            lr: *config.optimizer.lr.get_or_insert(0.01),
            schedule: *config.optimizer.schedule.get_or_insert(Schedule::Polynomial { power: 0.5 }),
            warmup,
            optimizer,
            augmentation,
            seed: images.seed,
            mix,
            patience: config.training.patience,
            config,
        };
        run.check()?;
        note_long_warmup(&run);
        let steps = run.epochs.saturating_mul(images.data.train.len().div_ceil(run.batch.max(1)) as u64);
        if u64::from(optimizer.accumulate) > steps {
            let reason = format!(
                "--grad-accum {} is more than the {} of the whole run",
                optimizer.accumulate,
                plural(steps, "batch")
            );
            return Err(Error::Config(reason));
        }
        Ok(run)
    }
}

/// The batch size, reduced to the number of training images.
fn batch_size(config: &mut Config, images: usize, mixes: bool) -> Result<usize> {
    let batch = config.training.batch.get_or_insert(32);
    GoogLeNet::check_batch(*batch)?;
    if *batch > images {
        // Filling the batch with copies would make the variance in batch norm too small.
        note(&format!("note: batch size reduced to {images}, the number of training images"));
        *batch = images;
    }
    if *batch == 1 && mixes {
        let reason =
            "--mixup and --cutmix have no effect: they mix the images of a batch, and --batch-size is 1";
        return Err(Error::Config(reason.into()));
    }
    Ok(*batch)
}

/// A run to resume.
impl Train {
    pub(super) fn resumed(&self, path: &Path) -> Result<Start> {
        let checkpoint = Checkpoint::load(path)?;
        require_finite(path, &checkpoint)?;
        let metadata = &checkpoint.metadata;
        let run = self.continued(path, metadata)?;
        let options = OpenOptions::default().val_split(run.val_split).limit(run.limit).limit_seed(run.seed);
        let data = self.open(&run.data, &options, run.config.training.validates())?;
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

    /// The run of a checkpoint, with the options that may change.
    fn continued(&self, path: &Path, metadata: &Metadata) -> Result<Run> {
        let mut run: Run = serde_json::from_value(metadata.run.clone()).map_err(|e| {
            Error::Config(format!("this checkpoint has no training configuration and cannot be resumed: {e}"))
        })?;
        self.change_training(&mut run);
        run.config.training.validate()?;
        run.check().map_err(|error| {
            Error::format(path, format!("has an invalid training configuration: {error}"))
        })?;
        note_long_warmup(&run);
        // JSON has no infinity: an infinite norm, which only measures, is read back as none.
        run.optimizer.max_grad_norm.get_or_insert(f32::INFINITY);
        if let Some(checkpointing) = self.config.optimizer.checkpointing {
            // Recomputed activations are bit-identical: only memory and time change.
            run.optimizer.checkpointing = checkpointing;
            run.config.optimizer.checkpointing = Some(checkpointing);
        }
        let (own, given) = (&mut run.config.load, &self.config.load);
        own.workers = given.workers.or(own.workers);
        own.max_bad = given.max_bad.or(own.max_bad);
        own.max_pixels = given.max_pixels.or(own.max_pixels);
        own.set_limit()?;
        self.change_outputs(&mut run);
        Ok(run)
    }

    /// Changes the data set's path, and when training ends.
    fn change_training(&self, run: &mut Run) {
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
        if let Some(no_validation) = self.config.training.no_validation {
            run.config.training.no_validation = Some(no_validation);
        }
    }

    /// Changes what is written, and where.
    fn change_outputs(&self, run: &mut Run) {
        let (own, given) = (&mut run.config.run, &self.config.run);
        own.save_every = given.save_every.or(own.save_every);
        own.keep = given.keep.or(own.keep);
        own.tensorboard = given.tensorboard.clone().or_else(|| own.tensorboard.clone());
        own.out = given.out.clone();
        own.runs_dir = given.runs_dir.clone().or_else(|| own.runs_dir.clone());
        // The view is not kept: a resumed run may have another terminal, or none.
        own.view = given.view;
    }
}

/// Training images below which pretrained weights are much better than a random initialization.
const FEW_IMAGES: usize = 2000;

/// Prints what pretrained weights would do for few training images.
fn note_few_images(images: &Images) {
    let count = images.data.train.len();
    // Weights of photos are no use for the embedded digits.
    if count >= FEW_IMAGES || images.what == "digits" {
        return;
    }
    note(&format!(
        "note: the data set has only {}: with photos, pretrained weights usually give a better accuracy in fewer epochs. --recipe finetune starts from ImageNet's (50 MiB, downloaded once; 224 x 224 pixels); --recipe finetune --weights included from CIFAR-10's, which come with incept and are faster (96 x 96 pixels)",
        plural(count as u64, "training image")
    ));
}

/// Prints a note if a warm-up from a recipe or file is as long as the run.
fn note_long_warmup(run: &Run) {
    if run.warmup > 0.0 && run.warmup >= run.epochs as f64 {
        note(&format!(
            "note: the warm-up ({} {}) is not shorter than the run ({}): the learning rate never reaches --lr {}",
            run.warmup,
            noun_after(run.warmup == 1.0, "epoch"),
            plural(run.epochs, "epoch"),
            run.lr
        ));
    }
}
