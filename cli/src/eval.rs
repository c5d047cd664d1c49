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
use incept::output::check_file;
use serde::Serialize;

pub(crate) use confusion_plot::ConfusionFigure;
pub(crate) use measure::{Contestant, Job, Measured, validation};
pub(crate) use reliability_plot::ReliabilityFigure;

use super::data::{FORMATS, LoadArgs};
use super::early_exit::Calibrated;
use super::numbers::whole;
use super::options::{DeviceArgs, PrecisionArgs};
use super::plot::{INK, SOFT, VERMILION, check, class_label, save};
use super::raster::thumbnail;
use super::record::{is_checkpoint, is_included};
use super::report::{Reporter, shown};
use super::sweep::Subject;
use super::tiles::{Tile, Tiles, shortened};
use super::tune::Worth;
use super::{Outcome, Result};

const EXAMPLES: &str = "Examples:
  incept eval runs/0003-photos                             accuracy, and precision, recall and F1 of each class
  incept eval photos.safetensors other-photos --confusion confusion.png --reliability reliability.svg --mistakes worst.png
  incept eval photos.safetensors --crops 144               the paper's test: 144 crops of each image
  incept eval a.safetensors b.safetensors c.safetensors    each of them, and all three together";

/// Measure how good checkpoints are on a data set: accuracy, confusions, calibration, the worst
/// mistakes.
///
/// Several checkpoints are measured one by one and together, as an ensemble whose softmaxes are
/// averaged. The parameters are the averaged ones if the run averaged them.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = const_format())]
pub(crate) struct Eval {
    /// The checkpoints, and last a data set if it is another than they were trained on: `digits`,
    /// or a folder.
    ///
    /// A run's folder stands for its best checkpoint, `included` for the weights that come with
    /// incept. The first is a checkpoint whatever it is called; of the others the folders of runs
    /// and those whose names end in .safetensors.
    #[arg(required = true, value_name = "CHECKPOINT|DATA")]
    inputs: Vec<PathBuf>,
    /// Which part of it: `held-out`, the set that training validates on; `train`; or `test`, the
    /// test set, which training leaves alone if there is a validation set.
    #[arg(long, value_name = "PART", default_value = "held-out", help_heading = "Data")]
    part: Part,
    /// At most so many images of it, chosen evenly over the classes [default: 0, all].
    #[arg(long, value_name = "COUNT", help_heading = "Data", value_parser = whole::<usize>(0))]
    limit: Option<usize>,
    /// Images of a batch.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    /// Crops of each image, whose softmaxes are averaged: `whole`, what `classify` looks at (the
    /// central square, or as --fit of the training has it); 1, the central 224 of its 256 (of an
    /// input of 224; else in proportion); 10 as Krizhevsky had them; caffe10 as Caffe's classify.py
    /// has them; 144 as in section 7 of the paper.
    #[arg(long, value_name = "CROPS", default_value = "whole", conflicts_with = "early_exit")]
    crops: Crops,
    /// Draw the confusion matrix, .png or .svg.
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    confusion: Option<PathBuf>,
    /// Draw the reliability diagram, accuracy over confidence, .png or .svg.
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    reliability: Option<PathBuf>,
    /// Draw the wrongly classified images that the network was surest of, .png or .svg.
    #[arg(long, value_name = "FILE", help_heading = "Plots", conflicts_with = "early_exit")]
    mistakes: Option<PathBuf>,
    /// How many of these images [default: 24].
    #[arg(long, value_name = "COUNT", help_heading = "Plots", value_parser = whole::<usize>(1), conflicts_with = "early_exit")]
    worst: Option<usize>,
    /// Sweep the thresholds of early exit instead: which share of the images each softmax could
    /// answer, and what that costs and saves.
    ///
    /// A fifth of the images is set aside to fit a temperature for each softmax, so that its
    /// probabilities mean what they say, and to choose the threshold that saves the most
    /// computation for at most half a point of accuracy, even if that were a standard error more
    /// than measured; the others are measured. That threshold is really run, against the whole
    /// network. Both are kept in a file beside the checkpoint, where `incept classify --early-exit`
    /// finds them.
    #[arg(long, help_heading = "Early exit")]
    early_exit: bool,
    /// The sweep's plots, .png or .svg [default: incept-early-exit.png and incept-early-exit.svg].
    #[arg(long, value_name = "FILE", help_heading = "Early exit", requires = "early_exit")]
    plot: Vec<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

fn const_format() -> String {
    format!("{EXAMPLES}\n\n{FORMATS}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    #[value(alias = "val", alias = "validation")]
    Validation,
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Crops {
    Whole,
    #[value(name = "1")]
    One,
    #[value(name = "10")]
    Ten,
    #[value(name = "caffe10")]
    CaffeTen,
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
    /// A row for each label, a column for each prediction.
    confusion: &'a incept::infer::Confusion,
    calibration: Calibration,
    mistakes: Vec<MistakeResult<'a>>,
    members: Vec<MemberResult<'a>>,
    unreadable: usize,
}

impl Eval {
    /// The sweep's files.
    fn plots(&self) -> Vec<PathBuf> {
        if !self.plot.is_empty() {
            return self.plot.clone();
        }
        ["incept-early-exit.png", "incept-early-exit.svg"].map(PathBuf::from).to_vec()
    }

    /// The checkpoints, and the data set if it is named.
    fn inputs(&self) -> Result<(Vec<&Path>, Option<String>)> {
        let (mut checkpoints, mut data) = (Vec::new(), None);
        for (i, path) in self.inputs.iter().enumerate() {
            if i == 0 || is_checkpoint(path) {
                checkpoints.push(path.as_path());
            } else if let Some(first) = data.replace(shown(path)) {
                let reason = format!("{first} and {} are two data sets: name one", shown(path));
                return Err(Error::Config(reason));
            }
        }
        Ok((checkpoints, data))
    }

    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        self.load.set_limit()?;
        if self.early_exit {
            self.plots().iter().try_for_each(|path| check(path))?;
            let first = self.inputs.first().filter(|path| !is_included(path));
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
        let contestants: Vec<Contestant> =
            checkpoints.iter().map(|path| Contestant::load(path)).collect::<Result<_>>()?;
        let (what, set) = validation(&contestants, data, self.part)?;
        let set = if let Some(limit) = self.limit.filter(|limit| *limit > 0) {
            at_most(set, limit, 0)
        } else {
            set
        };
        let gpu = device.open()?;
        let element = self.precision.element(&gpu);
        let first = &contestants[0];
        device.tune(&gpu, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&first.metadata.network, self.batch, element)?.plan(&gpu, None)
        })?;
        if self.early_exit {
            if contestants.len() > 1 {
                return Err(Error::Config("--early-exit takes one checkpoint".into()));
            }
            super::early_exit::require_heads(first.path, first.metadata.network.has_aux())?;
            let subject = Subject {
                gpu: &gpu,
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
            gpu: &gpu,
            element,
            set,
            crops,
            batch: self.batch,
            load: &self.load,
            worst: self.worst.unwrap_or(24),
        };
        let measured = job.measure(&contestants, reporter, |_| ())?;
        let classes = &first.metadata.classes;
        tables::print(&measured, &contestants, classes, reporter)?;
        self.draw(&measured, classes, &job, &what)?;
        reporter.event(&result(&measured, &contestants, &job))?;
        Ok(Outcome::Done)
    }

    /// The plots that were asked for.
    fn draw(&self, measured: &Measured, classes: &[String], job: &Job<'_>, data: &str) -> Result<()> {
        let Assessment { evaluation, confusion, reliability, .. } = &measured.together;
        let accuracy = 100.0 * evaluation.accuracy();
        // A path may be long, and figures come behind it.
        let what = shortened(data, 24);
        if let Some(path) = &self.confusion {
            let title = "What is taken for what".to_string();
            let subtitle = format!(
                "{} images of {what}, {accuracy:.2}% right; colours are shares of a row",
                evaluation.count
            );
            save(&ConfusionFigure { confusion, classes, title, subtitle }, path)?;
        }
        if let Some(path) = &self.reliability {
            let subtitle = format!(
                "{} images of {what}: confidence {:.1}%, accuracy {accuracy:.1}%, calibration error {:.2}%",
                evaluation.count,
                100.0 * reliability.confidence(),
                100.0 * reliability.ece()
            );
            save(&ReliabilityFigure { reliability, subtitle }, path)?;
        }
        if let Some(path) = &self.mistakes {
            save(&mistakes(&measured.together, classes, job.set.as_ref(), data)?, path)?;
        }
        Ok(())
    }
}

/// Everything for programs.
fn result<'a>(measured: &'a Measured, contestants: &[Contestant<'a>], job: &Job<'_>) -> EvalResult<'a> {
    let Assessment { evaluation, confusion, reliability, .. } = &measured.together;
    let class = |(class, m): (&'a String, incept::infer::ClassMetrics)| ClassResult {
        class,
        count: m.support,
        correct: m.correct,
        predicted: m.predicted,
        precision: m.precision,
        recall: m.recall,
        f1: m.f1,
    };
    let member = |(contestant, one): (&Contestant<'a>, &'a Assessment)| MemberResult {
        checkpoint: contestant.path,
        evaluation: &one.evaluation,
        accuracy: one.evaluation.accuracy(),
        accuracy5: one.evaluation.accuracy5(),
        ece: one.reliability.ece(),
    };
    let mistakes = measured.together.mistakes().iter();
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
        members: contestants.iter().zip(&measured.members).map(member).collect(),
        unreadable: measured.unreadable,
    }
}

/// The images that the network is wrong about and surest of.
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
        let said = format!("{} {:.0}%", name(m.prediction), 100.0 * m.probability);
        let is = format!("is {}", name(m.label));
        let image = thumbnail(&set.image(m.image)?, 232);
        let file = set.name(m.image);
        let file = file.rsplit(['/', '\\']).next().unwrap_or_default().to_string();
        Ok(Tile { image, caption: vec![(said, VERMILION), (is, INK), (file, SOFT)] })
    };
    let mut tiles: Vec<Tile> = shown.iter().map(tile).collect::<Result<_>>()?;
    let title = match shown.len() {
        0 => "No mistakes".to_string(),
        count => format!("The {count} mistakes that the network is surest of"),
    };
    if tiles.is_empty() {
        let caption = vec![("every image is right".to_string(), SOFT)];
        tiles.push(Tile { image: image::RgbImage::from_pixel(8, 8, image::Rgb([255; 3])), caption });
    }
    Ok(Tiles {
        title,
        subtitle: format!(
            "{wrong} of {} images of {data} are classified wrongly",
            assessment.evaluation.count
        ),
        columns: 8,
        heads: Vec::new(),
        tile: 124,
        tiles,
    })
}
