//! `incept eval`

mod confusion_plot;
mod measure;
mod reliability_plot;
mod tables;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use incept::Error;
use incept::data::{CropTest, Dataset, at_most};
use incept::infer::{Assessment, MeanMetrics, Mistake, ReliabilityBin};
use incept::infer::{Evaluation, InferenceGraph};
use incept::low_level::output::check_file;
use serde::Serialize;

pub(crate) use confusion_plot::ConfusionFigure;
pub(crate) use measure::{Candidate, Job, Measured, open_split};
pub(crate) use reliability_plot::ReliabilityFigure;

use super::data::{FORMATS, LoadArgs};
use super::early_exit::Calibrated;
use super::numbers::whole;
use super::options::{DeviceArgs, PrecisionArgs};
use super::plot::{INK, SOFT, VERMILION, check, class_label, save};
use super::raster::thumbnail;
use super::record::{is_checkpoint, is_named};
use super::report::{Reporter, plural, shown};
use super::sweep::Subject;
use super::tiles::{Tile, Tiles, shortened};
use super::tune::Worth;
use super::{Outcome, Result};

const EXAMPLES: &str = "Examples:
  incept eval runs/0003-photos                             accuracy; precision, recall and F1 per class
  incept eval photos.safetensors other-photos --confusion confusion.png --reliability reliability.svg --mistakes worst.png
  incept eval photos.safetensors --crops 144               the paper's evaluation: 144 crops per image
  incept eval a.safetensors b.safetensors c.safetensors    each checkpoint, and the ensemble of all three";

/// Evaluate checkpoints on a data set: accuracy, confusion matrix, calibration, worst mistakes.
///
/// Several checkpoints are evaluated separately and as an ensemble that averages their
/// probabilities. Averaged parameters are used if the run has them.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = long_examples())]
pub(crate) struct Eval {
    /// Checkpoints, then optionally a data set [default: the one they were trained on].
    ///
    /// A checkpoint is a .safetensors file, a run's folder (its best checkpoint), `included` (the
    /// weights that come with incept) or `imagenet` (torchvision's ImageNet weights, downloaded
    /// once). Without --weights the first argument is always a checkpoint.
    #[arg(required_unless_present = "weights", value_name = "CHECKPOINT|DATA")]
    inputs: Vec<PathBuf>,
    /// A checkpoint, as the first argument.
    #[arg(long, value_name = "NAME|FILE")]
    weights: Option<PathBuf>,
    /// Split of the data set to evaluate.
    #[arg(long, value_name = "PART", default_value = "validation", help_heading = "Data")]
    part: Part,
    /// Evaluate up to this many images, chosen evenly over the classes; 0 uses all [default: 0].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    limit: Option<usize>,
    /// Batch size.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    /// Test-time crops per image, whose probabilities are averaged.
    #[arg(long, value_name = "CROPS", default_value = "whole", conflicts_with = "early_exit")]
    crops: Crops,
    /// Plot the confusion matrix (.png or .svg).
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    confusion: Option<PathBuf>,
    /// Plot the reliability diagram, accuracy over confidence (.png or .svg).
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    reliability: Option<PathBuf>,
    /// Plot the misclassified images with the highest confidence (.png or .svg).
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    mistakes: Option<PathBuf>,
    /// Number of misclassified images to plot [default: 24].
    #[arg(long, value_name = "COUNT", help_heading = "Plots", value_parser = whole::<usize>(1), conflicts_with = "early_exit")]
    worst: Option<usize>,
    /// Sweep early-exit thresholds instead: exit rates of the heads, accuracy and compute.
    ///
    /// A fifth of the images is the calibration set: it fits a temperature per head (temperature
    /// scaling) and chooses the threshold with the least compute whose loss of accuracy, plus a
    /// standard error, is up to half a percentage point. The other images are evaluated; the chosen
    /// threshold is also run and timed against the whole network. Temperatures and threshold are
    /// saved next to the checkpoint for `incept classify --early-exit`.
    #[arg(long, help_heading = "Early exit")]
    early_exit: bool,
    /// Files of the sweep's plot, .png or .svg [default: incept-early-exit.png and
    /// incept-early-exit.svg].
    #[arg(long, value_name = "FILE", help_heading = "Early exit", requires = "early_exit")]
    plot: Vec<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

fn long_examples() -> String {
    format!("{EXAMPLES}\n\n{FORMATS}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The set that training validates on.
    #[value(alias = "val", alias = "held-out")]
    Validation,
    /// The training set.
    Train,
    /// The test set, which training does not use if there is a validation set.
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Crops {
    /// The image as `classify` uses it: the central square, or as --fit was in training.
    Whole,
    /// Central crop: 224 of 256 pixels for an input of 224, else in proportion.
    #[value(name = "1")]
    One,
    /// Four corners and center with flips, as in AlexNet (Krizhevsky et al.).
    #[value(name = "10")]
    Ten,
    /// The same ten crops of the image squashed to a square, as Caffe's classify.py takes them.
    #[value(name = "caffe10")]
    CaffeTen,
    /// 144 crops, as in section 7 of the paper.
    #[value(name = "144")]
    Paper,
}

impl From<Crops> for CropTest {
    fn from(crops: Crops) -> Self {
        match crops {
            Crops::Whole => Self::Whole,
            Crops::One => Self::One,
            Crops::Ten => Self::Ten,
            Crops::CaffeTen => Self::CaffeTen,
            Crops::Paper => Self::Paper,
        }
    }
}

#[derive(Serialize)]
struct ClassResult<'a> {
    class: &'a str,
    count: u64,
    correct: u64,
    predicted: u64,
    precision: Option<f64>,
    recall: Option<f64>,
    f1: Option<f64>,
}

#[derive(Serialize)]
struct Calibration {
    ece: f64,
    mce: f64,
    confidence: f64,
    bins: Vec<ReliabilityBin>,
}

#[derive(Serialize)]
struct MistakeResult<'a> {
    name: String,
    #[serde(flatten)]
    mistake: &'a Mistake,
}

#[derive(Serialize)]
struct MemberResult<'a> {
    checkpoint: &'a Path,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    accuracy: f64,
    accuracy5: f64,
    ece: f64,
}

#[derive(Serialize)]
struct EvalResult<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    accuracy: f64,
    accuracy5: f64,
    images_per_s: f64,
    crops: usize,
    mean: MeanMetrics,
    classes: Vec<ClassResult<'a>>,
    /// Rows: true class, columns: predicted class.
    confusion: &'a incept::infer::Confusion,
    calibration: Calibration,
    mistakes: Vec<MistakeResult<'a>>,
    members: Vec<MemberResult<'a>>,
    unreadable: usize,
}

impl Eval {
    /// Files of the sweep's plot.
    fn plots(&self) -> Vec<PathBuf> {
        if !self.plot.is_empty() {
            return self.plot.clone();
        }
        ["incept-early-exit.png", "incept-early-exit.svg"].map(PathBuf::from).to_vec()
    }

    /// Splits the arguments into checkpoints and data set.
    fn inputs(&self) -> Result<(Vec<&Path>, Option<String>)> {
        let (mut checkpoints, mut data) = (Vec::from_iter(self.weights.as_deref()), None);
        for path in &self.inputs {
            if checkpoints.is_empty() || is_checkpoint(path) {
                checkpoints.push(path.as_path());
            } else if let Some(first) = data.replace(shown(path)) {
                let reason = format!("{first} and {} are two data sets: give one", shown(path));
                return Err(Error::Config(reason));
            }
        }
        Ok((checkpoints, data))
    }

    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        self.load.set_limit()?;
        if self.early_exit {
            self.plots().iter().try_for_each(|path| check(path))?;
            let first = self.weights.as_ref().or(self.inputs.first()).filter(|path| !is_named(path));
            first.map_or(Ok(()), |path| check_file(&Calibrated::path(path)))?;
        }
        let drawn = [&self.confusion, &self.reliability, &self.mistakes];
        drawn.into_iter().flatten().try_for_each(|path| check(path))?;
        if self.worst.is_some() && self.mistakes.is_none() && !reporter.is_json() {
            return Err(Error::Config(
                "--worst would change nothing: it is for --mistakes and --json".into(),
            ));
        }
        let (checkpoints, data) = self.inputs()?;
        let candidates: Vec<Candidate> =
            checkpoints.iter().map(|path| Candidate::load(path)).collect::<Result<_>>()?;
        let (what, set) = open_split(&candidates, data, self.part)?;
        let set = if let Some(limit) = self.limit.filter(|limit| *limit > 0) {
            at_most(set, limit, 0)
        } else {
            set
        };
        let device = device_args.open()?;
        let element = self.precision.element(&device);
        let first = &candidates[0];
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&first.metadata.network, self.batch, element)?.plan(&device, None)
        })?;
        if self.early_exit {
            if candidates.len() > 1 {
                return Err(Error::Config("--early-exit takes one checkpoint".into()));
            }
            super::early_exit::require_heads(first.path, first.metadata.network.has_aux())?;
            let subject = Subject {
                device: &device,
                checkpoint: first.path,
                network: &first.metadata.network,
                state: &first.state,
                progress: &first.metadata.progress,
                element,
                set,
                data: &what,
                options: self.load.options(self.batch, &first.metadata.preprocessing),
            };
            subject.sweep(&self.plots(), reporter)?;
            return Ok(Outcome::Done);
        }
        let crops = CropTest::from(self.crops);
        let job = Job {
            device: &device,
            element,
            set,
            crops,
            batch: self.batch,
            load: &self.load,
            worst: self.worst.unwrap_or(24),
        };
        let measured = job.measure(&candidates, reporter, |_| ())?;
        let classes = &first.metadata.classes;
        tables::print(&measured, &candidates, classes, reporter)?;
        self.draw(&measured, classes, &job, &what)?;
        reporter.event(&result(&measured, &candidates, &job))?;
        Ok(Outcome::Done)
    }

    /// Draws the requested plots.
    fn draw(&self, measured: &Measured, classes: &[String], job: &Job<'_>, data: &str) -> Result<()> {
        let Assessment { evaluation, confusion, reliability, .. } = &measured.ensemble;
        let accuracy = 100.0 * evaluation.accuracy();
        // A long path would push the figures out of the plot.
        let what = shortened(data, 24);
        if let Some(path) = &self.confusion {
            let title = "Confusion matrix".to_string();
            let subtitle = format!(
                "{} of {what}, accuracy {accuracy:.2}%; colors are normalized per row",
                plural(evaluation.count as u64, "image")
            );
            save(&ConfusionFigure { confusion, classes, title, subtitle }, path)?;
        }
        if let Some(path) = &self.reliability {
            let subtitle = format!(
                "{} of {what}: mean confidence {:.1}%, accuracy {accuracy:.1}%, ECE {:.2}%",
                plural(evaluation.count as u64, "image"),
                100.0 * reliability.confidence(),
                100.0 * reliability.ece()
            );
            save(&ReliabilityFigure { reliability, subtitle }, path)?;
        }
        if let Some(path) = &self.mistakes {
            save(&mistakes(&measured.ensemble, classes, job.set.as_ref(), data)?, path)?;
        }
        Ok(())
    }
}

/// The result as JSON.
fn result<'a>(measured: &'a Measured, candidates: &[Candidate<'a>], job: &Job<'_>) -> EvalResult<'a> {
    let Assessment { evaluation, confusion, reliability, .. } = &measured.ensemble;
    let class = |(class, m): (&'a String, incept::infer::ClassMetrics)| ClassResult {
        class,
        count: m.support,
        correct: m.correct,
        predicted: m.predicted,
        precision: m.precision,
        recall: m.recall,
        f1: m.f1,
    };
    let member = |(candidate, one): (&Candidate<'a>, &'a Assessment)| MemberResult {
        checkpoint: candidate.path,
        evaluation: &one.evaluation,
        accuracy: one.evaluation.accuracy(),
        accuracy5: one.evaluation.accuracy5(),
        ece: one.reliability.ece(),
    };
    let mistakes = measured.ensemble.mistakes().iter();
    EvalResult {
        evaluation,
        accuracy: evaluation.accuracy(),
        accuracy5: evaluation.accuracy5(),
        images_per_s: measured.images_per_s,
        crops: job.crops.views(),
        mean: confusion.mean(),
        classes: measured.classes.iter().zip(confusion.metrics()).map(class).collect(),
        confusion,
        calibration: Calibration {
            ece: reliability.ece(),
            mce: reliability.mce(),
            confidence: reliability.confidence(),
            bins: reliability.bins(),
        },
        mistakes: mistakes
            .map(|mistake| MistakeResult { name: job.set.name(mistake.image), mistake })
            .collect(),
        members: candidates.iter().zip(&measured.members).map(member).collect(),
        unreadable: measured.unreadable,
    }
}

/// A plot of the misclassified images with the highest confidence.
pub(crate) fn mistakes(
    assessment: &Assessment,
    classes: &[String],
    set: &dyn Dataset,
    data: &str,
) -> Result<Tiles> {
    let wrong = assessment.evaluation.count - assessment.evaluation.correct;
    let shown = assessment.mistakes();
    let name = |class: usize| classes.get(class).map_or("?".into(), |name| class_label(name, class));
    let tile = |m: &Mistake| {
        let predicted = format!("{} {:.0}%", name(m.prediction), 100.0 * m.probability);
        let label = format!("true: {}", name(m.label));
        let image = thumbnail(&set.image(m.image)?, 232);
        let file = set.name(m.image);
        let file = file.rsplit(['/', '\\']).next().unwrap_or_default().to_string();
        Ok(Tile { image, caption: vec![(predicted, VERMILION), (label, INK), (file, SOFT)] })
    };
    let mut tiles: Vec<Tile> = shown.iter().map(tile).collect::<Result<_>>()?;
    let title = match shown.len() {
        0 => "No mistakes".to_string(),
        1 => "The mistake with the highest confidence".to_string(),
        count => format!("The {count} mistakes with the highest confidence"),
    };
    if tiles.is_empty() {
        let caption = vec![("all images are classified correctly".to_string(), SOFT)];
        tiles.push(Tile { image: image::RgbImage::from_pixel(8, 8, image::Rgb([255; 3])), caption });
    }
    Ok(Tiles {
        title,
        subtitle: format!(
            "misclassified: {wrong} of {} of {data}",
            plural(assessment.evaluation.count as u64, "image")
        ),
        columns: 8,
        heads: Vec::new(),
        scale: None,
        tile: 124,
        tiles,
    })
}
