//! How a run is configured: every option of `incept train` that shapes the run, from a recipe, a
//! TOML file and flags.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::data::{Augmentation, Mix, Photometric};
use incept::untrusted::read_text;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::dashboard::ViewName;
use super::data::LoadArgs;
use super::numbers::{Range, not_zero, real, whole};
use super::options::{Augment, NetworkArgs, OptimizerArgs, PixelArgs, PrecisionName};

/// All of it. What is not set anywhere has a default that `resolve` fills in; then it is the
/// configuration that is saved with the run.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Config {
    /// `digits`, or a folder with a data set. With `--resume` or `--config`, the one that is named
    /// there if none is here.
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

/// How long, on what, how much at a time.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArgs {
    /// Epochs [default: 30, or as the run that is resumed].
    #[arg(long, value_name = "COUNT", value_parser = whole::<u64>(1))]
    pub epochs: Option<u64>,
    /// Images of a batch [default: 32].
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", value_parser = whole::<usize>(1))]
    #[serde(rename = "batch-size", alias = "batch")]
    pub batch: Option<usize>,
    /// What weights, order, augmentation and dropout are drawn from [default: 1].
    #[arg(long, value_name = "NUMBER", value_parser = whole::<u64>(0))]
    pub seed: Option<u64>,
    /// End after so many epochs in which held-out accuracy did not rise [default: 0, never].
    #[arg(long, value_name = "EPOCHS", value_parser = whole::<u64>(0))]
    pub patience: Option<u64>,
    /// Weight of each class in the losses: numbers by class, or `balanced` for one over the class's
    /// share of the images. The mean over a batch is taken by the weights of its labels, as torch's
    /// `CrossEntropyLoss(weight=...)` does [default: none].
    #[arg(long, value_name = "balanced|W,W,...|none")]
    pub class_weights: Option<String>,
    /// With `--init FILE`: keep weights and statistics of all that lies below this block, and do
    /// not differentiate it; `conv2`, `inception_3a` to `inception_5b`, or `heads` to train the
    /// classifiers alone [default: none].
    #[arg(long, value_name = "BLOCK|none")]
    pub freeze_until: Option<String>,
    /// With `--init FILE`: draw the classifiers anew, for other classes.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub reset_head: Option<bool>,
    /// How activations and their gradients are stored: `f32`, `f16` in half the memory (training
    /// scales the loss to keep gradients in its range), or `auto`: f16 on GPUs that gain by it,
    /// else f32. Parameters and arithmetic are f32 either way [default: auto].
    #[arg(long, value_name = "TYPE", help_heading = "Device")]
    pub precision: Option<PrecisionName>,
    /// Do not look at the held-out part after each epoch.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    pub no_validation: Option<bool>,
    /// Train on at most so many images, chosen evenly over the classes [default: 0, all].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    pub limit: Option<usize>,
    /// Share of the images that is held out where the data set has no test part [default: 0.2].
    #[arg(long = "val-split", alias = "held-out", value_name = "SHARE", help_heading = "Data")]
    #[serde(rename = "val-split", alias = "held-out")]
    pub val_split: Option<f64>,
}

/// What the run leaves behind.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// What the run is called [default: the data set's name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Epochs between checkpoints [default: 1].
    #[arg(long, value_name = "EPOCHS", value_parser = whole::<u64>(1))]
    pub save_every: Option<u64>,
    /// Checkpoints that are kept in the run's folder beside the last and the best [default: 0].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub keep: Option<usize>,
    /// Write TensorBoard's event files below this folder: `tensorboard --logdir FOLDER` shows them.
    #[arg(long, value_name = "FOLDER")]
    pub tensorboard: Option<PathBuf>,
    /// The newest checkpoint's file [default: last.safetensors in the run's folder, or the one that
    /// is resumed].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    #[serde(rename = "output", alias = "out")]
    pub out: Option<PathBuf>,
    /// Where the folders of runs are [default: runs].
    #[arg(long, value_name = "FOLDER", env = "INCEPT_RUNS_DIR")]
    pub runs_dir: Option<PathBuf>,
    /// What is shown while training; in the dashboard, q stops and saves [default: auto].
    #[arg(long, value_name = "KIND", help_heading = "Output")]
    pub view: Option<ViewName>,
}

impl RunArgs {
    /// Where the folders of runs are.
    pub(crate) fn runs_dir(&self) -> &Path {
        self.runs_dir.as_deref().unwrap_or_else(|| Path::new("runs"))
    }
}

/// What is done to training images.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Augmentation")]
pub(crate) struct AugmentArgs {
    /// What is done to training images; the options below change parts of it [default: auto].
    #[arg(long, value_name = "KIND")]
    pub augment: Option<Augment>,
    /// Mirror half of the images.
    #[arg(long = "hflip", alias = "mirror", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    #[serde(rename = "hflip", alias = "mirror")]
    pub mirror: Option<bool>,
    /// Turn half of the images upside down.
    #[arg(long = "vflip", alias = "flip", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    #[serde(rename = "vflip", alias = "flip")]
    pub flip: Option<bool>,
    /// Change brightness, contrast and saturation by up to this share, in random order, and the hue
    /// by a fifth of it; Howard and the paper: 0.5.
    #[arg(long, value_name = "SHARE", value_parser = real::<f64>(Range::Share))]
    pub photometric: Option<f64>,
    /// Resize each image by a method drawn at random.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    pub random_interpolation: Option<bool>,
    /// Blend images of a batch and their labels, by shares from Beta(ALPHA, ALPHA); usual: 0.2
    /// [default: 0, never].
    #[arg(long, value_name = "ALPHA", value_parser = real::<f64>(Range::NotNegative))]
    pub mixup: Option<f64>,
    /// Paste rectangles of other images of the batch, with areas from Beta(ALPHA, ALPHA); usual: 1.
    /// With `--mixup` too, a coin decides for each batch [default: 0, never].
    #[arg(long, value_name = "ALPHA", value_parser = real::<f64>(Range::NotNegative))]
    pub cutmix: Option<f64>,
}

/// Bytes of a configuration: parsed, it takes many times as much.
const MAX_CONFIG: usize = 1 << 20;

/// Configurations to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    /// The paper's section 6.
    Paper,
    /// Caffe's `quick_solver`.
    Caffe,
    /// torchvision's network and reference training.
    Torchvision,
    /// CIFAR-10, and other small images.
    Small,
}

impl Recipe {
    fn text(self) -> &'static str {
        match self {
            Self::Paper => include_str!("recipes/paper.toml"),
            Self::Caffe => include_str!("recipes/caffe.toml"),
            Self::Torchvision => include_str!("recipes/torchvision.toml"),
            Self::Small => include_str!("recipes/small.toml"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Caffe => "caffe",
            Self::Torchvision => "torchvision",
            Self::Small => "small",
        }
    }
}

impl Config {
    /// Reads a file.
    fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        if text.len() > MAX_CONFIG {
            let reason = format!("has {} bytes, and a configuration at most {MAX_CONFIG}", text.len());
            return Err(Error::format(path, reason));
        }
        let config: Self =
            toml::from_str(&text).map_err(|e| Error::format(path, e.to_string().trim_end().to_string()))?;
        // Nobody gave a flag: the file's fields have the same names.
        let named = |error: Error| Error::format(path, error.to_string().replace("--", ""));
        config.training.check_numbers().map_err(named)?;
        config.optimizer.validate().map_err(named)?;
        config.run.validate().map_err(named)?;
        Ok(config)
    }

    /// The recipe, changed by the file, changed by these flags.
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
        for layer in layers {
            merge(&mut merged, toml::Table::try_from(layer).map_err(|e| broken(&e))?);
        }
        merged.try_into().map_err(|e| broken(&e))
    }

    /// As TOML, for the run's folder. A run that is trained again has a folder and a checkpoint of
    /// its own, and maybe no terminal.
    pub(crate) fn to_toml(&self) -> Result<String> {
        let again = Self { run: RunArgs { out: None, view: None, ..self.run.clone() }, ..self.clone() };
        let text = toml::to_string(&again).map_err(|e| Error::Config(e.to_string()))?;
        Ok(format!("# incept train --config {{this file}} trains the same again.\n{text}"))
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
    /// Checks that the values go together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.no_validation == Some(true) && self.patience.is_some() {
            let reason =
                "--patience waits for held-out accuracy to rise, and with --no-validation there is none";
            return Err(Error::Config(reason.into()));
        }
        self.check_numbers()
    }

    /// Checks each value by itself: what a file has may be fitted to each other by flags.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option.
    fn check_numbers(&self) -> Result<()> {
        not_zero(self.epochs, "epochs")?;
        not_zero(self.batch.map(|batch| batch as u64), "batch-size")?;
        Range::Part.check(self.val_split, "val-split")
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
    /// What is done to each image, and to each batch; what was not set is set to what holds.
    pub(crate) fn resolve(&mut self, suits: Augmentation) -> Result<(Option<Augmentation>, Option<Mix>)> {
        let kind = *self.augment.get_or_insert(Augment::Auto);
        let mut augmentation = kind.augmentation(suits);
        let mut own = augmentation.unwrap_or_default();
        own.mirror = *self.mirror.get_or_insert(own.mirror);
        own.flip = *self.flip.get_or_insert(own.flip);
        own.random_interpolation = *self.random_interpolation.get_or_insert(own.random_interpolation);
        let amount = *self.photometric.get_or_insert(own.photometric.map_or(0.0, |p| p.brightness));
        if !(0.0..=1.0).contains(&amount) {
            return Err(Error::Config(format!("--photometric must be from 0 to 1, not {amount}")));
        }
        own.photometric = (amount > 0.0).then(|| Photometric::of(amount));
        if own != Augmentation::default() {
            augmentation = Some(own);
        }
        let mix = Mix { mixup: *self.mixup.get_or_insert(0.0), cutmix: *self.cutmix.get_or_insert(0.0) };
        mix.validate()?;
        Ok((augmentation, (mix != Mix::default()).then_some(mix)))
    }
}

impl TrainingArgs {
    /// What a flag took back from a recipe or a file (`none`, or 0) is as if nobody had set it.
    pub(crate) fn take_back(&mut self) {
        self.patience = self.patience.filter(|epochs| *epochs > 0);
        self.limit = self.limit.filter(|images| *images > 0);
        self.class_weights = self.class_weights.take().filter(|text| text != "none");
        self.freeze_until = self.freeze_until.take().filter(|block| block != "none");
    }
}

/// The weights of the classes as `--class-weights` names them.
pub(crate) fn class_weights(text: &str, counts: &[usize]) -> Result<Vec<f32>> {
    if text == "balanced" {
        let total: usize = counts.iter().sum();
        // A class without images has no weight that a loss could use.
        let weight = |n: &usize| if *n == 0 { 0.0 } else { total as f32 / (counts.len() * n) as f32 };
        return Ok(counts.iter().map(weight).collect());
    }
    let weight = |part: &str| {
        part.trim().parse().map_err(|_| {
            Error::Config(format!(
                "--class-weights: `{part}` is no number; give `balanced`, or W,W,... by class"
            ))
        })
    };
    text.split(',').map(weight).collect()
}

/// serde of options that have a text form: written as text, read as text, number or a list of
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
    fn recipes_are_valid_and_flags_win_over_files_over_recipes() {
        for recipe in Recipe::value_variants() {
            let config = Config::default().layered(Some(*recipe), None).expect("a recipe");
            assert!(config.optimizer.rate.is_some() && config.training.epochs.is_some(), "{recipe:?}");
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
        assert_eq!((config.training.epochs, config.optimizer.rate), (Some(4), Some(0.5)));
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

    /// What the presets promise in `--help` and the papers say.
    #[test]
    fn presets_are_what_they_are_called_after() {
        let preset = |recipe| {
            let config = Config::default().layered(Some(recipe), None).expect("a recipe");
            let optimizer = &config.optimizer;
            let text = |value: Option<String>| value.unwrap_or_default();
            (
                text(optimizer.schedule.map(|s| s.to_string())),
                text(optimizer.average.as_ref().map(ToString::to_string)),
                (optimizer.rate, optimizer.momentum, optimizer.weight_decay),
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

    /// What flags say reaches the optimizer.
    #[test]
    fn rules_are_those_that_are_named() {
        let rule = |name: &str| {
            let text = format!("[optimizer]\noptimizer = \"{name}\"\n");
            let mut config: Config = toml::from_str(&text).expect("a rule");
            config.optimizer.resolve().rule
        };
        assert!(matches!(rule("sgd"), Rule::Sgd { nesterov: false }), "{:?}", rule("sgd"));
        assert!(matches!(rule("nesterov"), Rule::Sgd { nesterov: true }), "{:?}", rule("nesterov"));
        assert!(matches!(rule("adamw"), Rule::AdamW { .. }) && matches!(rule("lars"), Rule::Lars { .. }));
    }

    #[test]
    fn flags_take_back_what_a_recipe_or_a_file_set() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine.toml");
        let text = "[training]\npatience = 3\nlimit = 10\nclass-weights = \"balanced\"\nfreeze-until = \"heads\"\nno-validation = true
            [load]\nworkers = 2\nmax-bad = 0\n[run]\nview = \"plain\"\nruns-dir = \"mine\"\nout = \"net.safetensors\"\n";
        std::fs::write(&file, text).expect("can be written");
        let mut flags = Config::default();
        flags.optimizer.clip_norm = Some(0.0);
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
        config.training.take_back();
        let optimizer = config.optimizer.resolve();
        assert_eq!((optimizer.clip_norm, optimizer.average), (Some(f32::INFINITY), None));
        let training = &config.training;
        assert_eq!((training.patience, training.limit, training.no_validation), (None, None, Some(false)));
        assert_eq!((&training.class_weights, &training.freeze_until), (&None, &None));
        assert_eq!((config.load.workers, config.load.max_bad), (Some(2), Some(0)));
        assert_eq!(
            (config.run.view, config.run.runs_dir.clone()),
            (Some(ViewName::Plain), Some("mine".into()))
        );
        // A run that is trained again leaves this one's checkpoint alone.
        let again: Config = toml::from_str(&config.to_toml().expect("TOML")).expect("the same");
        assert_eq!((again.run.out.clone(), config.run.out.clone()), (None, Some("net.safetensors".into())));
        assert_eq!(again.run.view, None);
        assert_eq!(again.optimizer.average, Some(Average(None)));
    }

    #[test]
    fn class_weights_are_balanced_or_given() {
        assert_eq!(class_weights("balanced", &[10, 30]).expect("weights"), [2.0, 2.0 / 3.0]);
        assert_eq!(class_weights("1, 0.5", &[1, 1]).expect("weights"), [1.0, 0.5]);
        assert!(class_weights("1,x", &[1, 1]).is_err());
    }
}
