//! Builder of a [`Learner`].

use std::path::PathBuf;
use std::sync::Arc;

use super::{Learner, LearnerOptions};
use crate::checkpoint::ModelCheckpoint;
use crate::data::{Augmentation, Dataset, Loader, LoaderOptions, Mix, Preprocessing, Subset, stratified};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{GoogLeNet, Model};
use crate::optim::{Optimizer, Schedule};
use crate::runs::{Lock, Recorder, RecorderOptions, RunFolder};
use crate::text::plural;
use crate::train::Trainer;

/// Number of images for measuring mean and standard deviation.
const MEASURED_IMAGES: usize = 2000;

/// Builds a [`Learner`]; only the training data has no default.
#[derive(Debug)]
#[must_use = "it trains nothing before `build`"]
pub struct LearnerBuilder<M = GoogLeNet> {
    network: M,
    train: Option<Arc<dyn Dataset>>,
    validation: Option<Arc<dyn Dataset>>,
    val_split: f64,
    preprocessing: Option<Preprocessing>,
    augmentation: Option<Augmentation>,
    mix: Option<Mix>,
    optimizer: Optimizer,
    options: LearnerOptions,
    batch_size: usize,
    seed: u64,
    workers: Option<usize>,
    checkpoint: Option<PathBuf>,
    best_checkpoint: Option<PathBuf>,
    runs: Option<(PathBuf, String)>,
    resume: Option<ModelCheckpoint<M>>,
    weights: Option<(ModelCheckpoint<M>, Vec<String>)>,
}

impl<M: Model> LearnerBuilder<M> {
    pub(super) fn new(network: M) -> Self {
        Self {
            network,
            train: None,
            validation: None,
            val_split: 0.2,
            preprocessing: None,
            augmentation: None,
            mix: None,
            optimizer: Optimizer::default(),
            options: LearnerOptions::default(),
            batch_size: 32,
            seed: 0,
            workers: None,
            checkpoint: None,
            best_checkpoint: None,
            runs: None,
            resume: None,
            weights: None,
        }
    }

    /// The training images. Unless [`LearnerBuilder::validation`] is called, a share of each class
    /// is split off as the validation set.
    pub fn data(mut self, train: Arc<dyn Dataset>) -> Self {
        self.train = Some(train);
        self
    }

    /// The validation images, with the classes of the training images.
    pub fn validation(mut self, validation: Arc<dyn Dataset>) -> Self {
        self.validation = Some(validation);
        self
    }

    /// Share of the training images for validation, in [0, 1) [default: 0.2]; 0 trains without
    /// validation.
    pub fn val_split(mut self, share: f64) -> Self {
        self.val_split = share;
        self
    }

    /// Preprocessing of images [default: the mean and standard deviation of the training images].
    pub fn preprocessing(mut self, preprocessing: Preprocessing) -> Self {
        self.preprocessing = Some(preprocessing);
        self
    }

    /// Data augmentation of training images [default: none].
    pub fn augmentation(mut self, augmentation: Augmentation) -> Self {
        self.augmentation = Some(augmentation);
        self
    }

    /// Mixup and cutmix of training batches [default: neither]. The network gets mixed labels by
    /// [`Model::with_mixed_labels`].
    pub fn mix(mut self, mix: Mix) -> Self {
        self.mix = Some(mix).filter(|mix| *mix != Mix::default());
        self
    }

    /// The optimizer [default: SGD with momentum, as in Caffe's `quick_solver`].
    pub fn optimizer(mut self, optimizer: Optimizer) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// Epochs of the whole run [default: 30].
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.options.epochs = epochs;
        self
    }

    /// Batch size [default: 32].
    pub fn batch_size(mut self, images: usize) -> Self {
        self.batch_size = images;
        self
    }

    /// Base learning rate of the schedule [default: 0.01].
    pub fn learning_rate(mut self, rate: f64) -> Self {
        self.options.learning_rate = rate;
        self
    }

    /// Learning rate schedule [default: polynomial decay, (1 - done)^0.5].
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.options.schedule = schedule;
        self
    }

    /// Warm-up epochs of the learning rate [default: 0].
    pub fn warmup_epochs(mut self, epochs: f64) -> Self {
        self.options.warmup_epochs = epochs;
        self
    }

    /// Early stopping: epochs without a better validation accuracy [default: never].
    pub fn patience(mut self, epochs: u64) -> Self {
        self.options.patience = Some(epochs);
        self
    }

    /// Stops training at this validation accuracy, in [0, 1] [default: never].
    pub fn target_accuracy(mut self, accuracy: f64) -> Self {
        self.options.target_accuracy = Some(accuracy);
        self
    }

    /// Seed of weights, order, augmentation and dropout [default: 0].
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Threads that decode images [default: one per core, up to 8].
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// File of the latest checkpoint, saved every epoch [default: none].
    pub fn checkpoint(mut self, file: impl Into<PathBuf>) -> Self {
        self.checkpoint = Some(file.into());
        self
    }

    /// File of the checkpoint with the best validation accuracy [default: none].
    pub fn best_checkpoint(mut self, file: impl Into<PathBuf>) -> Self {
        self.best_checkpoint = Some(file.into());
        self
    }

    /// Records the run in a new folder `parent/NNNN-name`, as `incept train` does: `incept runs`
    /// and `incept report` read it [default: no folder]. If training fails, the log ends with the
    /// error.
    pub fn record_in(mut self, parent: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        self.runs = Some((parent.into(), name.into()));
        self
    }

    /// Resumes from a checkpoint of the same network and optimizer, bit-identical to an
    /// uninterrupted run.
    pub fn resume(mut self, checkpoint: ModelCheckpoint<M>) -> Self {
        self.resume = Some(checkpoint);
        self
    }

    /// Starts from the weights of another run, except the parameters named in `reinitialized`,
    /// which keep their random initialization.
    pub fn weights(mut self, checkpoint: ModelCheckpoint<M>, reinitialized: Vec<String>) -> Self {
        self.weights = Some((checkpoint, reinitialized));
        self
    }

    /// [`LearnerBuilder::build`] on the calling thread.
    ///
    /// # Errors
    /// As [`LearnerBuilder::build`].
    pub fn build_blocking(self, device: impl Into<Device>) -> Result<Learner<M>> {
        let device = &device.into();
        device.block_on(self.build(device))
    }

    /// Plans the training step for a device and compiles its kernels.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming an option, [`Error::Config`] if there is no data, its classes
    /// are not the network's, or the network does not take the mixed labels of
    /// [`LearnerBuilder::mix`], and errors of planning, the device and the files.
    pub async fn build(mut self, device: impl Into<Device>) -> Result<Learner<M>> {
        let device = &device.into();
        let (train, validation) = self.split()?;
        let classes = train.classes().len();
        if classes != self.network.class_count() {
            return Err(Error::Config(format!(
                "the data set has {}, but the network has {}",
                plural(classes, "class"),
                self.network.class_count()
            )));
        }
        let input = self.network.input_size();
        let preprocessing = self
            .preprocessing
            .unwrap_or_else(|| Preprocessing::new(input).measure(train.as_ref(), MEASURED_IMAGES));
        // Repeated images in a batch would bias batch norm's variance.
        let batch = self.batch_size.min(train.len());
        if let Some(mix) = &self.mix {
            mix.validate()?;
            if batch == 1 {
                let allowed = "above 1, because `LearnerBuilder::mix` mixes the images of a batch";
                return Err(Error::out_of_range("LearnerBuilder::batch_size", allowed, batch));
            }
            self.network = self.network.with_mixed_labels();
            if self.network.build(1)?.mixed.is_none() {
                return Err(Error::Config(
                    "`LearnerBuilder::mix` needs a network with `Model::with_mixed_labels`".into(),
                ));
            }
        }
        let mut loading = LoaderOptions::new(batch, preprocessing);
        loading.workers = self.workers.unwrap_or(loading.workers);
        let training = loading.clone().training(self.seed, self.augmentation).mix(self.mix);
        let loader = Loader::new(train, training)?;
        let mut trainer =
            Trainer::new(device, &self.network, &self.optimizer, batch, self.seed, |_, _| ()).await?;
        if let Some((checkpoint, reinitialized)) = &self.weights {
            trainer.start_from(&checkpoint.state.clone().averaged(), reinitialized).await?;
        }
        if let Some(checkpoint) = &self.resume {
            trainer.restore(&checkpoint.state)?;
        }
        let run = serde_json::json!({
            "learner": self.options,
            "optimizer": self.optimizer,
            "batch_size": batch,
            "seed": self.seed,
            "augmentation": self.augmentation,
            "mix": self.mix,
        });
        let mut learner = Learner::new(trainer, loader, self.options);
        learner.describe(run, Vec::new());
        if let Some(validation) = validation {
            learner.validate_on(Loader::new(validation, loading)?).await?;
        }
        learner.checkpoint_file = self.checkpoint;
        learner.best_file = self.best_checkpoint;
        if let Some((parent, name)) = self.runs {
            let folder = RunFolder::create(&parent, &name)?;
            learner.locks.push(Lock::acquire(&folder.lock_path())?);
            let mut manifest = learner.manifest();
            manifest.name = name;
            folder.describe(&manifest, "")?;
            learner.checkpoint_file.get_or_insert_with(|| folder.last());
            let options = RecorderOptions {
                steps_per_epoch: learner.train.batches_per_epoch(),
                memory_bytes: manifest.memory_bytes,
                ..RecorderOptions::default()
            };
            learner.logs_failure = true;
            learner.recorder = Some(Recorder::open(folder, learner.trainer.progress(), &options)?);
        }
        Ok(learner)
    }

    /// The training and validation sets.
    #[expect(clippy::type_complexity, reason = "a pair of data sets, of which one may be missing")]
    fn split(&self) -> Result<(Arc<dyn Dataset>, Option<Arc<dyn Dataset>>)> {
        let Some(set) = &self.train else {
            return Err(Error::Config("a `LearnerBuilder` needs `LearnerBuilder::data`".into()));
        };
        if !(0.0..1.0).contains(&self.val_split) {
            let allowed = "in [0, 1)";
            return Err(Error::out_of_range("LearnerBuilder::val_split", allowed, self.val_split));
        }
        if let Some(validation) = &self.validation {
            if validation.classes() != set.classes() {
                return Err(Error::Config(
                    "the classes of the validation set and the training set differ".into(),
                ));
            }
            return Ok((Arc::clone(set), Some(Arc::clone(validation))));
        }
        if self.val_split == 0.0 {
            return Ok((Arc::clone(set), None));
        }
        let (rest, part) = stratified(set.as_ref(), self.val_split, 0);
        let part: Arc<dyn Dataset> = Arc::new(Subset::new(Arc::clone(set), part));
        Ok((Arc::new(Subset::new(Arc::clone(set), rest)), Some(part).filter(|part| !part.is_empty())))
    }
}
