//! `incept report`

mod charts;
mod page;
mod source;

use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use incept::data::CropTest;
use incept::infer::{Assessment, Scores};
use incept::infer::{InferenceGraph, top};
use incept::low_level::output::check_file;
use incept::low_level::output::write_atomically;
use incept::low_level::text::noun_after;
use incept::low_level::untrusted::contained;
use incept::{Error, model};
use serde::Serialize;

use super::data::LoadArgs;
use super::eval::{Candidate, ConfusionFigure, Job, Measured, Part, ReliabilityFigure, open_split};
use super::options::{DeviceArgs, PrecisionArgs};
use super::plot::Drawn;
use super::raster::thumbnail;
use super::report::{Reporter, bytes, note, plural, seconds, shown, thousands};
use super::tune::Worth;
use super::{Outcome, Result, html};
use crate::numbers::whole;
use source::{Curves, Source};

/// Number of sample images on the page.
const SAMPLES: usize = 30;
/// Number of mistakes on the page.
const MISTAKES: usize = 30;
/// Maximum size of an image on the page in pixels.
const IMAGE: u32 = 176;

/// Write a self-contained HTML report of a run: curves, confusion matrix, samples, configuration.
///
/// The best checkpoint of the run, or the given one, is evaluated on the validation set first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  incept report runs/0003-photos                           writes runs/0003-photos/report.html
  incept report runs/0003-photos/epoch-0012.safetensors    report of an earlier checkpoint
  incept report photos.safetensors                         a checkpoint without a run: no curves")]
pub(crate) struct RunReport {
    /// Folder of a run, or a checkpoint.
    run: PathBuf,
    /// Evaluate on this data set instead of the run's.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    data: Option<String>,
    /// File of the report [default: report.html in the run's folder, or the checkpoint's name with
    /// .html].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of all runs, to find the log of a checkpoint outside of it.
    #[arg(long, value_name = "FOLDER", default_value = "runs", env = "INCEPT_RUNS_DIR")]
    runs_dir: PathBuf,
    /// Batch size.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// An image with its label and prediction.
#[derive(Debug)]
pub(super) struct Sample {
    pub image: RgbImage,
    pub label: usize,
    pub prediction: usize,
    pub probability: f32,
}

/// The evaluation on the validation set.
struct Validated {
    data: String,
    device: Vec<(String, String)>,
    measured: Measured,
    samples: Vec<Sample>,
    mistakes: Vec<Sample>,
}

#[derive(Serialize)]
struct Event<'a> {
    output: &'a Path,
    bytes: usize,
    epochs: usize,
    steps: usize,
    validation_accuracy: f64,
}

impl RunReport {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        self.load.set_limit()?;
        let source = Source::open(&self.run, &self.runs_dir)?;
        let out = self.out.clone().unwrap_or_else(|| {
            if self.run.is_dir() { self.run.join("report.html") } else { self.run.with_extension("html") }
        });
        check_file(&out)?;
        let candidate = Candidate::load(&source.checkpoint)?;
        let validated = self.validate(&candidate, device_args, reporter)?;
        let html = contained(|| write_page(&source, &candidate, &validated).map_err(|e| e.to_string()))
            .map_err(|e| Error::format(&out, format!("cannot be drawn: {e}")))?;
        write_atomically(&out, html.as_bytes())?;
        reporter.line(&format!("wrote {} ({})", shown(&out), bytes(html.len() as u64)))?;
        reporter.event(&Event {
            output: &out,
            bytes: html.len(),
            epochs: source.curves.epochs.len(),
            steps: source.curves.steps.len(),
            validation_accuracy: validated.measured.ensemble.evaluation.accuracy(),
        })?;
        Ok(Outcome::Done)
    }

    /// Evaluates the checkpoint on the validation set.
    fn validate(
        &self,
        candidate: &Candidate<'_>,
        device_args: &DeviceArgs,
        reporter: &Reporter,
    ) -> Result<Validated> {
        let one = std::slice::from_ref(candidate);
        let (data, set) = open_split(one, self.data.clone(), Part::Validation)?;
        let device = device_args.open()?;
        let element = self.precision.element(&device);
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&candidate.metadata.network, self.batch, element)?.plan(&device, None)
        })?;
        let count = set.len().min(SAMPLES);
        let chosen: Vec<usize> = (0..count).map(|i| i * set.len() / count).collect();
        let mut predictions: Vec<(usize, usize, usize, f32)> = Vec::with_capacity(count);
        let job = Job {
            device: &device,
            element,
            set,
            crops: CropTest::Whole,
            batch: self.batch,
            load: &self.load,
            worst: MISTAKES,
        };
        let measured = job.measure(one, reporter, |scores: &Scores| {
            if chosen.binary_search(&scores.image).is_ok() {
                let best = scores.members.first().and_then(|row| top(row, 1).first().copied());
                predictions.extend(best.map(|b| (scores.image, scores.label, b.class, b.probability)));
            }
        })?;
        let sample = |(image, label, prediction, probability): (usize, usize, usize, f32)| {
            let image = thumbnail(&job.set.image(image)?, IMAGE);
            Ok(Sample { image, label, prediction, probability })
        };
        let wrong = measured.ensemble.mistakes().iter();
        let wrong = wrong.map(|m| (m.image, m.label, m.prediction, m.probability));
        let mistakes = wrong.map(sample).collect::<Result<Vec<_>>>()?;
        let samples = predictions.into_iter().map(sample).collect::<Result<Vec<_>>>()?;
        let device = vec![("evaluated on".to_string(), device.summary().to_string())];
        Ok(Validated { data, device, measured, samples, mistakes })
    }
}

fn write_page(source: &Source, candidate: &Candidate<'_>, validated: &Validated) -> Drawn<String> {
    let Assessment { evaluation, confusion, reliability, .. } = &validated.measured.ensemble;
    let (metadata, classes) = (&candidate.metadata, &candidate.metadata.classes);
    let mut sections = Vec::new();
    let charts = charts::charts(&source.curves);
    if !charts.is_empty() {
        let about = "Faint lines: single steps; dots: epochs. Training accuracy is measured during training, with dropout and augmentation.";
        sections.push(html::section("Training", about, &html::plots(&charts)?));
    }
    let about = format!(
        "{} of the validation set; rows: true class, columns: predicted class; colors are normalized per row.",
        plural(evaluation.count as u64, "image")
    );
    let figure = ConfusionFigure { confusion, classes, title: String::new(), subtitle: String::new() };
    sections.push(html::section("Confusion matrix", &about, &html::plot(&figure)?));
    sections.push(html::section("Metrics per class", "", &page::by_class(confusion, classes)));
    let subtitle = format!("expected calibration error {:.2}%", 100.0 * reliability.ece());
    let about = "Bars below the diagonal: overconfident; above it: underconfident.";
    let figure = ReliabilityFigure { reliability, subtitle };
    sections.push(html::section("Calibration", about, &html::plot(&figure)?));
    let about = "Evenly spaced in the validation set, not selected.";
    sections.push(html::section("Samples", about, &page::images(&validated.samples, classes)?));
    if !validated.mistakes.is_empty() {
        let html = page::images(&validated.mistakes, classes)?;
        sections.push(html::section(
            "Worst mistakes",
            "Misclassified images with the highest confidence.",
            &html,
        ));
    }
    if !source.command_line.is_empty() {
        sections.push(html::section("Command", "", &html::preformatted(&source.command_line.join(" "))));
    }
    sections.push(html::section("Configuration", "", &html::preformatted(&source.configuration)));
    let machine: Vec<(String, String)> = source.machine.iter().chain(&validated.device).cloned().collect();
    sections.push(html::section("Machine", "", &html::pairs(&machine)));
    let parameters = model::summary(&metadata.network.build(1)?).parameters_inference;
    let subtitle = format!(
        "GoogLeNet ({}), {} x {} pixels, {}, {} parameters at inference; data: {}; written by incept {}",
        metadata.network.variant,
        metadata.network.input,
        metadata.network.input,
        plural(classes.len() as u64, "class"),
        thousands(parameters as u64),
        validated.data,
        env!("CARGO_PKG_VERSION"),
    );
    Ok(html::page(&source.title, &subtitle, &facts(source, validated), &sections))
}

/// The key figures at the top of the page.
fn facts(source: &Source, validated: &Validated) -> Vec<(String, String)> {
    let Assessment { evaluation, confusion, reliability, .. } = &validated.measured.ensemble;
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let mut facts = vec![
        (percent(evaluation.accuracy()), "validation top-1 accuracy".to_string()),
        (percent(confusion.mean().f1), "macro F1".to_string()),
        (percent(reliability.ece()), "expected calibration error".to_string()),
    ];
    // With up to five classes it is always 100%.
    if confusion.classes() > 5 {
        facts.insert(1, (percent(evaluation.accuracy5()), "validation top-5 accuracy".to_string()));
    }
    let Curves { epochs, .. } = &source.curves;
    if let Some(last) = epochs.last() {
        let took: f64 = epochs.iter().map(|e| e.seconds).filter(|s| s.is_finite()).sum();
        let count = last.epoch.saturating_add(1);
        facts.push((count.to_string(), if count == 1 { "epoch" } else { "epochs" }.to_string()));
        facts.push((seconds(took), "training time".to_string()));
        facts.push((format!("{:.0}", last.images_per_s), "images/s in the last epoch".to_string()));
    }
    if validated.measured.unreadable > 0 {
        note("note: unreadable validation images are not in the report");
        let count = validated.measured.unreadable;
        facts.push((count.to_string(), noun_after(count == 1, "unreadable image").into_owned()));
    }
    facts
}
