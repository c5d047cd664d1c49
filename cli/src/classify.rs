//! `incept classify`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::{Batch, Fit, Image, Preprocessing};
use incept::device::Device;
use incept::infer::{Answer, Classifier, EarlyExit, Exit, InferenceGraph, Prediction, top};
use incept::low_level::untrusted::{MAX_SAMPLE_BYTES, printable, read_up_to};
use incept::model::summary;
use serde::Serialize;

use super::data::{ImageArgs, images};
use super::early_exit::{Threshold, exit, require_heads, threshold};
use super::numbers::whole;
use super::options::{DeviceArgs, PrecisionArgs};
use super::record;
use super::report::{Reporter, note, plural, share_bar, shown};
use super::tune::Worth;
use super::{Outcome, Result};

const EXAMPLES: &str = "Examples:
  incept classify photo.jpg                       with the included weights (CIFAR-10's ten classes)
  incept classify --weights imagenet photo.jpg    with torchvision's weights (ImageNet's 1000 classes)
  incept classify runs/0003-photos holiday/       with the best checkpoint of a run
  incept classify mnist.safetensors - < seven.png --json";

/// Classify images: print the most probable classes of each.
///
/// Unreadable images are skipped and reported, and the exit code is 1 then.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Classify {
    /// A checkpoint [default: the weights that come with incept], then images, folders of images,
    /// or `-` for one image from standard input.
    ///
    /// A checkpoint is a .safetensors file, a run's folder (its best checkpoint), `included` or
    /// `imagenet`. The included weights have the classes airplane, automobile, bird, cat, deer,
    /// dog, frog, horse, ship and truck.
    #[arg(required = true, value_name = "CHECKPOINT|IMAGE")]
    inputs: Vec<PathBuf>,
    /// The checkpoint: a file, a run's folder, `included` (the weights that come with incept) or
    /// `imagenet` (torchvision's ImageNet weights, 1000 classes).
    ///
    /// The ImageNet weights (50 MiB) are downloaded once, to the folder `weights` in the system's
    /// cache folder for incept or in INCEPT_CACHE_DIR; INCEPT_WEIGHTS_URL sets the base URL of a
    /// mirror.
    #[arg(long, value_name = "NAME|FILE")]
    weights: Option<PathBuf>,
    /// Number of classes to print per image.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = whole::<usize>(1))]
    top: usize,
    /// Batch size [default: 16, with --early-exit 1].
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", value_parser = whole::<usize>(1))]
    batch: Option<usize>,
    /// Early exit: stop at aux1 or aux2 if its confidence is at least this threshold, in (0, 1].
    ///
    /// The remaining layers are not run for that image. `incept eval --early-exit` measures
    /// accuracy and compute of thresholds, calibrates the heads by temperature scaling, and chooses
    /// the threshold that `auto` uses.
    #[arg(long, value_name = "PROBABILITY|auto", value_parser = threshold)]
    early_exit: Option<Threshold>,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<Named<'a>>>,
    /// The head that classified the image, with early exit.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<&'static str>,
    /// Its multiply-adds as a fraction of those of the main head alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    compute: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Named<'a> {
    class: &'a str,
    probability: f32,
}

/// Reads an image from a file, or from standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Image> {
    if path != Path::new("-") {
        return Image::read(path);
    }
    let name = "standard input";
    let read = read_up_to(std::io::stdin().lock(), MAX_SAMPLE_BYTES).map_err(|e| Error::io(name, e))?;
    read.and_then(|bytes| Image::decode(&bytes)).map_err(|reason| Error::format(name, reason))
}

impl Classify {
    /// Splits the arguments into checkpoint and images.
    fn inputs(&self) -> Result<(&Path, &[PathBuf])> {
        if let (Some(weights), Some(second)) =
            (&self.weights, self.inputs.iter().find(|path| record::is_checkpoint(path)))
        {
            let reason = format!("{} and {} are two checkpoints: give one", shown(weights), shown(second));
            return Err(Error::Config(reason));
        }
        let late = self.inputs.iter().skip(1).find(|path| record::is_checkpoint(path));
        if let Some(late) = late {
            return Err(Error::Config(format!("the checkpoint {} must come before the images", shown(late))));
        }
        if let Some(first) = self.inputs.first()
            && !record::is_checkpoint(first)
            && first != Path::new("-")
            && !first.exists()
        {
            return Err(Error::Config(format!("no checkpoint or image found at {}", shown(first))));
        }
        let (checkpoint, images) = match (&self.weights, self.inputs.split_first()) {
            (Some(weights), _) => (weights.as_path(), self.inputs.as_slice()),
            (None, Some((first, rest))) if record::is_checkpoint(first) => (first.as_path(), rest),
            _ => {
                note(
                    "note: using the included weights with CIFAR-10's ten classes; --weights imagenet has 1000, and --weights FILE those of a checkpoint",
                );
                (Path::new(record::INCLUDED), self.inputs.as_slice())
            }
        };
        if images.is_empty() {
            return Err(Error::Config(format!("no images to classify with {}", shown(checkpoint))));
        }
        Ok((checkpoint, images))
    }

    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        self.images.set_limit()?;
        let (checkpoint, arguments) = self.inputs()?;
        let Checkpoint { state, metadata } = record::load(checkpoint)?;
        note_preprocessing(&metadata.preprocessing);
        let files = images(arguments)?;
        let default = if self.early_exit.is_some() { 1 } else { 16 };
        let batch = self.batch.unwrap_or(default).clamp(1, files.len().max(1));
        let mut chunks = files.chunks(batch).map(|chunk| {
            let read = readable(chunk, &metadata.preprocessing, reporter)?;
            Ok::<_, Error>((chunk.len() - read.0.len(), read))
        });
        // Read first: if no image is readable, no device needs to be opened.
        let first = if self.early_exit.is_some() { None } else { chunks.next() };
        let first = first.transpose()?;
        if let Some((failed, _)) = first.as_ref().filter(|(failed, _)| *failed == files.len()) {
            return Ok(outcome(*failed, files.len()));
        }
        let device = device_args.open()?;
        let (network, element) = (&metadata.network, self.precision.element(&device));
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(network, batch, element)?.plan(&device, None)
        })?;
        let state = state.averaged();
        if let Some(threshold) = self.early_exit {
            require_heads(checkpoint, network.has_aux())?;
            let exit = exit(checkpoint, &metadata.progress, threshold)?;
            let staged = device.block_on(EarlyExit::new(&device, network, batch, element, &state))?;
            let full = summary(&network.build(1)?).macs_inference;
            return self.staged(Staged { device, staged, exit, full }, &files, &metadata, reporter);
        }
        let mut classifier = device.block_on(Classifier::new(&device, network, batch, element, &state))?;
        let mut failed = 0;
        for chunk in first.map(Ok).into_iter().chain(chunks) {
            let (unreadable, (names, values)) = chunk?;
            failed += unreadable;
            let results = device.block_on(classifier.classify(&values))?;
            for (file, predictions) in names.iter().zip(&results) {
                let top = &predictions[..self.top.min(predictions.len())];
                print(file, top, &metadata.classes, None, reporter)?;
            }
        }
        Ok(outcome(failed, files.len()))
    }

    /// Classifies with early exit, and prints the savings.
    fn staged(
        &self,
        mut with: Staged,
        files: &[PathBuf],
        metadata: &Metadata,
        reporter: &Reporter,
    ) -> Result {
        let Staged { device, staged, exit, full } = &mut with;
        let seconds = device.block_on(staged.time_stages(3))?;
        let batch = staged.batch();
        let macs = by_head(staged, staged.macs());
        let mut waiting: BTreeMap<u64, &PathBuf> = BTreeMap::new();
        let mut answered: BTreeMap<&'static str, usize> = macs.keys().map(|head| (*head, 0)).collect();
        let mut compute = 0.0;
        let mut print_all = |answers: Vec<Answer>, waiting: &mut BTreeMap<u64, &PathBuf>| -> Result<()> {
            for answer in answers {
                let Some(file) = waiting.remove(&answer.image) else { continue };
                *answered.entry(answer.head).or_default() += 1;
                let share = macs.get(answer.head).map_or(0.0, |macs| *macs as f64 / (*full).max(1) as f64);
                compute += share;
                let best = top(&answer.probabilities, self.top);
                print(file, &best, &metadata.classes, Some((answer.head, share)), reporter)?;
            }
            Ok(())
        };
        let mut failed = 0;
        for chunk in files.chunks(batch) {
            let (names, values) = readable(chunk, &metadata.preprocessing, reporter)?;
            failed += chunk.len() - names.len();
            if names.is_empty() {
                continue;
            }
            waiting.extend(names.iter().enumerate().map(|(i, file)| (staged.images() + i as u64, *file)));
            let answers = device.block_on(staged.push(&Batch::of(batch, &values), exit))?;
            print_all(answers, &mut waiting)?;
        }
        let rest = device.block_on(staged.finish(exit))?;
        print_all(rest, &mut waiting)?;
        let count = answered.values().sum::<usize>();
        if count > 0 {
            // The time of a stage does not depend on the images.
            let runs = staged.runs();
            let took: f64 = runs.iter().zip(&seconds).map(|(runs, s)| *runs as f64 * s).sum();
            let saved = Saved {
                event: "early_exit",
                threshold: exit.threshold,
                answered,
                compute: compute / count as f64,
                stage_seconds: by_head(staged, seconds),
                runs: by_head(staged, runs),
                seconds: took,
            };
            let answered: Vec<String> =
                saved.answered.iter().map(|(head, n)| format!("{head} {n}")).collect();
            reporter.line(&format!(
                "\nexits: {}; {:.0}% of the multiply-adds of the whole network, {:.1} ms per image on the device",
                answered.join(", "),
                100.0 * saved.compute,
                1e3 * took / count as f64
            ))?;
            reporter.event(&saved)?;
        }
        Ok(outcome(failed, files.len()))
    }
}

/// A network in stages, ready to classify.
struct Staged {
    device: Device,
    staged: EarlyExit,
    exit: Exit,
    /// Multiply-adds of the main head alone.
    full: u64,
}

/// What [`EarlyExit`] has of each head, by name.
fn by_head<T>(staged: &EarlyExit, values: Vec<T>) -> BTreeMap<&'static str, T> {
    staged.heads().into_iter().zip(values).collect()
}

/// The savings of early exit.
#[derive(Serialize)]
struct Saved {
    event: &'static str,
    threshold: f32,
    answered: BTreeMap<&'static str, usize>,
    compute: f64,
    /// Seconds per run of the stage that ends at each head.
    stage_seconds: BTreeMap<&'static str, f64>,
    /// Runs of each stage.
    runs: BTreeMap<&'static str, u64>,
    /// Total device time of all stages that were run.
    seconds: f64,
}

/// Prints how images are resized, unless it is the usual central square crop.
fn note_preprocessing(preprocessing: &Preprocessing) {
    if preprocessing.crop_pct < 1.0 {
        note(&format!("images: {}, the usual ImageNet evaluation", preprocessing.described()));
    } else if preprocessing.fit != Fit::Crop {
        note(&format!("images: {}", preprocessing.described()));
    }
}

/// Reads and preprocesses images; unreadable ones are skipped and reported.
fn readable<'a>(
    files: &'a [PathBuf],
    preprocessing: &Preprocessing,
    reporter: &Reporter,
) -> Result<(Vec<&'a PathBuf>, Vec<Vec<f32>>)> {
    let mut readable = Vec::new();
    for file in files {
        match read(file) {
            Ok(image) => readable.push((file, preprocessing.apply(&image))),
            Err(error) => {
                note(&format!("skipped: {error}"));
                let error = Some(error.to_string());
                reporter.event(&Line {
                    file: shown(file),
                    predictions: None,
                    head: None,
                    compute: None,
                    error,
                })?;
            }
        }
    }
    Ok(readable.into_iter().unzip())
}

fn outcome(failed: usize, of: usize) -> Outcome {
    if failed == 0 {
        return Outcome::Done;
    }
    note(&format!("{failed} of {} could not be read", plural(of as u64, "image")));
    Outcome::Failed
}

/// Prints the classes of one image; with early exit also the head and its fraction of the compute.
fn print(
    file: &Path,
    top: &[Prediction],
    classes: &[String],
    exit: Option<(&'static str, f64)>,
    reporter: &Reporter,
) -> Result<()> {
    let name = |p: &Prediction| classes.get(p.class).map_or("?", String::as_str);
    let width = top.iter().map(|p| name(p).chars().count()).max().unwrap_or(0);
    let by = exit.map_or(String::new(), |(head, compute)| {
        format!("  (exit at {head}, {:.0}% of the multiply-adds)", 100.0 * compute)
    });
    reporter.line(&format!("{}{by}", shown(file)))?;
    for p in top {
        let (bar, percent) = (share_bar(p.probability, 24), 100.0 * p.probability);
        let name = name(p);
        reporter.line(format!("  {:<width$}  {percent:5.1}%  {bar}", printable(name)).trim_end())?;
    }
    let named = |p: &Prediction| Named { class: name(p), probability: p.probability };
    let predictions = Some(top.iter().map(named).collect());
    let (head, compute) = exit.unzip();
    reporter.event(&Line { file: shown(file), predictions, head, compute, error: None })
}
