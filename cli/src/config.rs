//! Configuration of a run: the options of `incept train` from a recipe, a TOML file and flags.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::data::{Augmentation, Mix, Photometric};
use incept::low_level::untrusted::read_text;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::dashboard::ViewName;
use super::data::LoadArgs;
use super::numbers::{Range, not_zero, real, whole};
use super::options::{Augment, Init, NetworkArgs, OptimizerArgs, PixelArgs, PrecisionName};

/// All options of a run. `resolve` fills in the defaults; the result is saved with the run.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Config {
    /// Data set: `digits`, or the path of one. Optional with `--resume` or `--config`.
    #[arg(required_unless_present_any = ["resume", "file"])]
    pub data: Option<String>,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    pub optimizer: OptimizerArgs,
    #[command(flatten)]
    pub augment: AugmentArgs,
    #[command(flatten)]
    pub pixels: PixelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of the training loop.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArgs {
    /// Number of epochs [default: 30, or that of the resumed run].
    #[arg(long, value_name = "COUNT", value_parser = whole::<u64>(1))]
    pub epochs: Option<u64>,
    /// Batch size [default: 32].
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", value_parser = whole::<usize>(1))]
    #[serde(rename = "batch-size", alias = "batch")]
    pub batch: Option<usize>,
    /// Random seed of initialization, shuffling, augmentation and dropout [default: 1].
    #[arg(long, value_name = "NUMBER", value_parser = whole::<u64>(0))]
    pub seed: Option<u64>,
    /// Early stopping: epochs without an improvement in validation accuracy; 0 disables it
    /// [default: 0].
    #[arg(long, value_name = "EPOCHS", value_parser = whole::<u64>(0))]
    pub patience: Option<u64>,
    /// Class weights of the losses: one number per class, or `balanced` (inverse class frequency)
    /// [default: none].
    ///
    /// A batch's loss is the weighted mean over its images, as in torch's
    /// `CrossEntropyLoss(weight=...)`.
    #[arg(long, value_name = "balanced|W,W,...|none")]
    pub class_weights: Option<String>,
    /// Pretrained weights to start from: `imagenet` (torchvision's ImageNet weights), `included`
    /// (the weights that come with incept, trained on CIFAR-10), a checkpoint, or a run's folder
    /// (its best checkpoint); `none` initializes all weights [default: none].
    ///
    /// Variant, width, input size and preprocessing are those of the weights; --image-size, --mean,
    /// --std and --fit override the latter. The ImageNet weights (50 MiB) are downloaded once, to
    /// the folder `weights` in the system's cache folder for incept or in INCEPT_CACHE_DIR;
    /// INCEPT_WEIGHTS_URL sets the base URL of a mirror.
    #[arg(long, value_name = "NAME|FILE|none", help_heading = "Network")]
    pub weights: Option<PathBuf>,
    /// With pretrained weights: freeze the layers below this block: `conv2`, `inception_3a` to
    /// `inception_5b`, or `heads` (train only the classifiers) [default: none].
    ///
    /// Frozen layers keep their parameters and running statistics, and the backward pass skips
    /// them.
    #[arg(long, value_name = "BLOCK|none")]
    pub freeze_until: Option<String>,
    /// With pretrained weights: reinitialize the classifiers [default: true if the data set has
    /// other classes than the weights].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub reset_head: Option<bool>,
    /// Precision of activations and their gradients: `f32`, `f16` (half the memory, with loss
    /// scaling), or `auto` (f16 on GPUs where it is faster, else f32). Parameters and arithmetic
    /// are always f32 [default: auto].
    #[arg(long, value_name = "TYPE", help_heading = "Device")]
    pub precision: Option<PrecisionName>,
    /// Skip validation.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    pub no_validation: Option<bool>,
    /// Train on up to this many images, chosen evenly over the classes; 0 uses all [default: 0].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    pub limit: Option<usize>,
    /// Fraction of the images to validate on if the data set has no validation or test set
    /// [default: 0.2].
    #[arg(long = "val-split", alias = "held-out", value_name = "FRACTION", help_heading = "Data")]
    #[serde(rename = "val-split", alias = "held-out")]
    pub val_split: Option<f64>,
}

/// Outputs of a run.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// Name of the run [default: the data set's name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Epochs between checkpoints [default: 1].
    #[arg(long, value_name = "EPOCHS", value_parser = whole::<u64>(1))]
    pub save_every: Option<u64>,
    /// Number of past epochs' checkpoints to keep in the run's folder, besides the last and the
    /// best [default: 0].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub keep: Option<usize>,
    /// Write TensorBoard event files to this folder, for `tensorboard --logdir FOLDER`.
    #[arg(long, value_name = "FOLDER")]
    pub tensorboard: Option<PathBuf>,
    /// File for the latest checkpoint [default: last.safetensors in the run's folder, or the
    /// resumed file].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    #[serde(rename = "output", alias = "out")]
    pub out: Option<PathBuf>,
    /// Folder of all runs [default: runs].
    #[arg(long, value_name = "FOLDER", env = "INCEPT_RUNS_DIR")]
    pub runs_dir: Option<PathBuf>,
    /// Progress display; q in the dashboard saves and stops [default: auto].
    #[arg(long, value_name = "KIND", help_heading = "Output")]
    pub view: Option<ViewName>,
}

impl RunArgs {
    /// The folder of all runs.
    pub(crate) fn runs_dir(&self) -> &Path {
        self.runs_dir.as_deref().unwrap_or_else(|| Path::new("runs"))
    }
}

/// Augmentation of training images.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Augmentation")]
pub(crate) struct AugmentArgs {
    /// Augmentation preset; the options below override parts of it [default: auto].
    #[arg(long, value_name = "KIND")]
    pub augment: Option<Augment>,
    /// Random horizontal flip, p = 0.5.
    #[arg(long, alias = "mirror", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    #[serde(alias = "mirror")]
    pub hflip: Option<bool>,
    /// Random vertical flip, p = 0.5.
    #[arg(long, alias = "flip", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    #[serde(alias = "flip")]
    pub vflip: Option<bool>,
    /// Jitter brightness, contrast and saturation by up to this fraction, in random order, and hue
    /// by a fifth of it; the paper, after Howard: 0.5.
    #[arg(long, value_name = "FRACTION", value_parser = real::<f64>(Range::Unit))]
    pub photometric: Option<f64>,
    /// Resize each image with a random filter.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    pub random_interpolation: Option<bool>,
    /// Mixup: blend images and labels of a batch, with weights from Beta(ALPHA, ALPHA); typical:
    /// 0.2; 0 disables it [default: 0].
    #[arg(long, value_name = "ALPHA", value_parser = real::<f64>(Range::NotNegative))]
    pub mixup: Option<f64>,
    /// CutMix: paste rectangles from other images of the batch, with areas from Beta(ALPHA, ALPHA);
    /// typical: 1; 0 disables it [default: 0].
    ///
    /// With `--mixup` too, each batch uses one of the two at random.
    #[arg(long, value_name = "ALPHA", value_parser = real::<f64>(Range::NotNegative))]
    pub cutmix: Option<f64>,
}

/// Maximum size of a configuration in bytes; parsing takes many times as much memory.
const MAX_CONFIG: usize = 1 << 20;

/// Built-in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    /// Section 6 of the paper.
    Paper,
    /// Caffe's `quick_solver`.
    Caffe,
    /// torchvision's network and reference training.
    Torchvision,
    /// CIFAR-10 and other small images.
    Small,
    /// Few images: 15 epochs from `--weights imagenet` with the layers below inception 4a frozen,
    /// Nesterov with --lr 0.01 and a cosine schedule, --warmup-epochs 1, --batch-size 32,
    /// --weight-decay 0.0001, --max-grad-norm 5, --label-smoothing 0.1.
    Finetune,
}

impl Recipe {
    fn text(self) -> &'static str {
        match self {
            Self::Paper => include_str!("recipes/paper.toml"),
            Self::Caffe => include_str!("recipes/caffe.toml"),
            Self::Torchvision => include_str!("recipes/torchvision.toml"),
            Self::Small => include_str!("recipes/small.toml"),
            Self::Finetune => include_str!("recipes/finetune.toml"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Caffe => "caffe",
            Self::Torchvision => "torchvision",
            Self::Small => "small",
            Self::Finetune => "finetune",
        }
    }
}

impl Config {
    /// Reads a file.
    fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        if text.len() > MAX_CONFIG {
            let reason = format!("has {} bytes; a configuration may have up to {MAX_CONFIG}", text.len());
            return Err(Error::format(path, reason));
        }
        let config: Self =
            toml::from_str(&text).map_err(|e| Error::format(path, e.to_string().trim_end().to_string()))?;
        // The value came from the file: name its key, which is the flag without dashes.
        let named = |error: Error| Error::format(path, error.to_string().replace("--", ""));
        config.training.check_numbers().map_err(named)?;
        config.optimizer.validate().map_err(named)?;
        config.run.validate().map_err(named)?;
        Ok(config)
    }

    /// Merges recipe, file and these flags; later layers override earlier ones.
    pub(crate) fn layered(&self, recipe: Option<Recipe>, file: Option<&Path>) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| Error::Config(format!("the configuration: {e}"));
        let mut layers = Vec::new();
        if let Some(recipe) = recipe {
            layers.push(toml::from_str(recipe.text()).map_err(|e| broken(&e))?);
        }
        if let Some(path) = file {
            layers.push(Self::read(path)?);
        }
        layers.push(self.clone());
        let mut merged = toml::Table::new();
        for mut layer in layers {
            layer.move_weights();
            merge(&mut merged, toml::Table::try_from(layer).map_err(|e| broken(&e))?);
        }
        merged.try_into().map_err(|e| broken(&e))
    }

    /// Pretrained weights that `--init` names, as it could in earlier versions, become those of
    /// `--weights`.
    fn move_weights(&mut self) {
        if let Some(Init::Weights(path)) = &self.network.init {
            self.training.weights.get_or_insert_with(|| path.clone());
            self.network.init = None;
        }
    }

    /// As TOML, for the run's folder. Output path and view are left out: a run that repeats this
    /// one has its own folder and maybe no terminal.
    pub(crate) fn to_toml(&self) -> Result<String> {
        let again = Self { run: RunArgs { out: None, view: None, ..self.run.clone() }, ..self.clone() };
        let text = toml::to_string(&again).map_err(|e| Error::Config(e.to_string()))?;
        Ok(format!("# incept train --config {{this file}} repeats this run.\n{text}"))
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

impl TrainingArgs {
    /// Whether every epoch ends with validation.
    pub(crate) fn validates(&self) -> bool {
        self.no_validation != Some(true)
    }

    /// Checks the values, and that they do not contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.no_validation == Some(true) && self.patience.is_some() {
            let reason = "--patience needs validation accuracy, and --no-validation turns validation off";
            return Err(Error::Config(reason.into()));
        }
        self.check_numbers()
    }

    /// Checks each value by itself; flags may still resolve contradictions within a file.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    fn check_numbers(&self) -> Result<()> {
        not_zero(self.epochs, "epochs")?;
        not_zero(self.batch.map(|batch| batch as u64), "batch-size")?;
        Range::OpenUnit.check(self.val_split, "val-split")
    }
}

impl RunArgs {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub(crate) fn validate(&self) -> Result<()> {
        not_zero(self.save_every, "save-every")
    }
}

impl AugmentArgs {
    /// Augmentation of each image and mixing of each batch; options that were not given are set to
    /// their defaults.
    pub(crate) fn resolve(&mut self, suits: Augmentation) -> Result<(Option<Augmentation>, Option<Mix>)> {
        let kind = *self.augment.get_or_insert(Augment::Auto);
        let mut augmentation = kind.augmentation(suits);
        let mut own = augmentation.unwrap_or_default();
        own.hflip = *self.hflip.get_or_insert(own.hflip);
        own.vflip = *self.vflip.get_or_insert(own.vflip);
        own.random_interpolation = *self.random_interpolation.get_or_insert(own.random_interpolation);
        let amount = *self.photometric.get_or_insert(own.photometric.map_or(0.0, |p| p.brightness));
        if !(0.0..=1.0).contains(&amount) {
            return Err(Error::Config(format!("--photometric must be from 0 to 1, not {amount}")));
        }
        own.photometric = (amount > 0.0).then(|| Photometric::of(amount));
        if own != Augmentation::default() {
            augmentation = Some(own);
        }
        let mix =
            Mix::default().mixup(*self.mixup.get_or_insert(0.0)).cutmix(*self.cutmix.get_or_insert(0.0));
        mix.validate()?;
        Ok((augmentation, (mix != Mix::default()).then_some(mix)))
    }
}

impl TrainingArgs {
    /// Unsets options that are turned off with `none` or 0, as a flag does with those of a recipe
    /// or file.
    pub(crate) fn unset_disabled(&mut self) {
        self.patience = self.patience.filter(|epochs| *epochs > 0);
        self.limit = self.limit.filter(|images| *images > 0);
        self.class_weights = self.class_weights.take().filter(|text| text != "none");
        self.freeze_until = self.freeze_until.take().filter(|block| block != "none");
        self.weights = self.weights.take().filter(|path| path != Path::new("none"));
    }
}

/// Parses `--class-weights`; `counts` are the images of each class.
pub(crate) fn class_weights(text: &str, counts: &[usize]) -> Result<Vec<f32>> {
    if text == "balanced" {
        let total: usize = counts.iter().sum();
        // A class without images never occurs in the loss.
        let weight = |n: &usize| if *n == 0 { 0.0 } else { total as f32 / (counts.len() * n) as f32 };
        return Ok(counts.iter().map(weight).collect());
    }
    let weight = |part: &str| {
        part.trim().parse().map_err(|_| {
            Error::Config(format!(
                "--class-weights: `{part}` is not a number; use `balanced`, or W,W,... with one number per class"
            ))
        })
    };
    text.split(',').map(weight).collect()
}

/// serde for options with a text form: written as text; read from text, a number or a list of
/// numbers.
pub(crate) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Text(String),
        Number(f64),
        Numbers(Vec<f64>),
    }

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, out: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(out)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = match Option::<Scalar>::deserialize(from)? {
            None => return Ok(None),
            Some(Scalar::Text(text)) => text,
            Some(Scalar::Number(number)) => number.to_string(),
            Some(Scalar::Numbers(numbers)) => {
                numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        };
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use incept::model::Variant;
    use incept::optim::Rule;

    use super::*;
    use crate::options::Average;

    #[test]
    fn flags_override_files_override_recipes() {
        for recipe in Recipe::value_variants() {
            let config = Config::default().layered(Some(*recipe), None).expect("a recipe");
            assert!(config.optimizer.lr.is_some() && config.training.epochs.is_some(), "{recipe:?}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine.toml");
        std::fs::write(
            &file,
            "data = \"cats\"\n[optimizer]\nrate = 0.5\naverage = 0.9\n[training]\nepochs = 3\n",
        )
        .expect("can be written");
        let mut flags = Config::default();
        flags.training.epochs = Some(4);
        let config = flags.layered(Some(Recipe::Small), Some(&file)).expect("layers");
        assert_eq!((config.training.epochs, config.optimizer.lr), (Some(4), Some(0.5)));
        assert_eq!(config.optimizer.average.map(|a| a.to_string()).as_deref(), Some("0.9"));
        assert_eq!((config.data.as_deref(), config.optimizer.warmup), (Some("cats"), Some(2.0)));
        let again: Config = toml::from_str(&config.to_toml().expect("TOML")).expect("the same");
        assert_eq!(again, config);
        std::fs::write(&file, "[optimizer]\nspeed = 1\n").expect("can be written");
        let error = flags.layered(None, Some(&file)).expect_err("no such key").to_string();
        assert!(
            error.contains("mine.toml") && error.contains("speed") && error.contains("weight-decay"),
            "{error}"
        );
    }

    /// Recipes have the values of the paper, Caffe and torchvision that `--help` promises.
    #[test]
    fn recipes_match_their_sources() {
        let preset = |recipe| {
            let config = Config::default().layered(Some(recipe), None).expect("a recipe");
            let optimizer = &config.optimizer;
            let text = |value: Option<String>| value.unwrap_or_default();
            (
                text(optimizer.schedule.map(|s| s.to_string())),
                text(optimizer.average.as_ref().map(ToString::to_string)),
                (optimizer.lr, optimizer.momentum, optimizer.weight_decay),
                (config.training.epochs, config.training.batch),
                (config.network.variant, config.network.smoothing, config.network.bias_rate),
                config.augment.augment,
            )
        };
        let (paper, torchvision) = (Some(Variant::Paper), Some(Variant::Torchvision));
        let expected = |schedule: &str, average: &str, optimizer, training, network, augment| {
            (schedule.to_string(), average.to_string(), optimizer, training, network, Some(augment))
        };
        assert_eq!(
            preset(Recipe::Paper),
            expected(
                "step:8:0.96",
                "polyak",
                (Some(0.01), Some(0.9), None),
                (Some(250), Some(32)),
                (paper, None, None),
                Augment::Paper
            )
        );
        assert_eq!(
            preset(Recipe::Caffe),
            expected(
                "polynomial:0.5",
                "",
                (Some(0.01), Some(0.9), Some(0.0002)),
                (Some(60), Some(32)),
                (paper, None, Some(2.0)),
                Augment::Standard
            )
        );
        assert_eq!(
            preset(Recipe::Torchvision),
            expected(
                "step:30:0.1",
                "",
                (Some(0.1), Some(0.9), Some(0.0001)),
                (Some(90), Some(256)),
                (torchvision, None, None),
                Augment::Crops
            )
        );
        assert_eq!(
            preset(Recipe::Small),
            expected(
                "cosine",
                "0.998",
                (Some(0.05), Some(0.9), Some(0.0005)),
                (Some(60), Some(64)),
                (torchvision, Some(0.1), None),
                Augment::Auto
            )
        );
    }

    #[test]
    fn optimizer_names_select_their_rules() {
        let rule = |name: &str| {
            let text = format!("[optimizer]\noptimizer = \"{name}\"\n");
            let mut config: Config = toml::from_str(&text).expect("a rule");
            config.optimizer.resolve().rule
        };
        assert!(matches!(rule("sgd"), Rule::Sgd { nesterov: false, .. }), "{:?}", rule("sgd"));
        assert!(matches!(rule("nesterov"), Rule::Sgd { nesterov: true, .. }), "{:?}", rule("nesterov"));
        assert!(matches!(rule("adamw"), Rule::AdamW { .. }) && matches!(rule("lars"), Rule::Lars { .. }));
    }

    #[test]
    fn flags_unset_options_of_recipes_and_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine.toml");
        let text = "[training]\npatience = 3\nlimit = 10\nclass-weights = \"balanced\"\nfreeze-until = \"heads\"\nno-validation = true
            [load]\nworkers = 2\nmax-bad = 0\n[run]\nview = \"plain\"\nruns-dir = \"mine\"\nout = \"net.safetensors\"\n";
        std::fs::write(&file, text).expect("can be written");
        let mut flags = Config::default();
        flags.optimizer.max_grad_norm = Some(0.0);
        flags.optimizer.average = Some("none".parse().expect("an average"));
        let none = || Some("none".to_string());
        flags.training = TrainingArgs {
            patience: Some(0),
            limit: Some(0),
            class_weights: none(),
            freeze_until: none(),
            no_validation: Some(false),
            ..TrainingArgs::default()
        };
        let mut config = flags.layered(Some(Recipe::Small), Some(&file)).expect("layers");
        config.training.unset_disabled();
        let optimizer = config.optimizer.resolve();
        assert_eq!((optimizer.max_grad_norm, optimizer.average), (Some(f32::INFINITY), None));
        let training = &config.training;
        assert_eq!((training.patience, training.limit, training.no_validation), (None, None, Some(false)));
        assert_eq!((&training.class_weights, &training.freeze_until), (&None, &None));
        assert_eq!((config.load.workers, config.load.max_bad), (Some(2), Some(0)));
        assert_eq!(
            (config.run.view, config.run.runs_dir.clone()),
            (Some(ViewName::Plain), Some("mine".into()))
        );
        // A run that repeats this one must not overwrite its checkpoint.
        let again: Config = toml::from_str(&config.to_toml().expect("TOML")).expect("the same");
        assert_eq!((again.run.out.clone(), config.run.out.clone()), (None, Some("net.safetensors".into())));
        assert_eq!(again.run.view, None);
        assert_eq!(again.optimizer.average, Some(Average(None)));
    }

    #[test]
    fn class_weights_are_parsed() {
        assert_eq!(class_weights("balanced", &[10, 30]).expect("weights"), [2.0, 2.0 / 3.0]);
        assert_eq!(class_weights("1, 0.5", &[1, 1]).expect("weights"), [1.0, 0.5]);
        assert!(class_weights("1,x", &[1, 1]).is_err());
    }
}
