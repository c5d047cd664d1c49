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
use incept::output::check_file;
use incept::output::write_atomically;
use incept::untrusted::contained;
use incept::{Error, model};
use serde::Serialize;

use super::data::LoadArgs;
use super::eval::{ConfusionFigure, Contestant, Job, Measured, Part, ReliabilityFigure, validation};
use super::options::{DeviceArgs, PrecisionArgs};
use super::plot::Drawn;
use super::raster::thumbnail;
use super::report::{Reporter, bytes, note, seconds, shown, thousands};
use super::tune::Worth;
use super::{Outcome, Result};
use crate::numbers::whole;
use source::{Curves, Source};

/// Images of the held-out part that the page shows.
const SAMPLES: usize = 30;
/// Mistakes that it shows.
const MISTAKES: usize = 30;
/// Pixels of an image on the page.
const IMAGE: u32 = 176;

/// Write one HTML page about a run that needs nothing beside itself: curves, confusion matrix,
/// samples, configuration.
///
/// The run's best checkpoint is measured on its held-out images first, or the one that is named.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  incept report runs/0003-photos                           writes runs/0003-photos/report.html
  incept report runs/0003-photos/epoch-0012.safetensors    the same about an earlier checkpoint
  incept report photos.safetensors                         a checkpoint without its run: no curves")]
pub(crate) struct RunReport {
    /// The folder of a run, or a checkpoint.
    run: PathBuf,
    /// Measure on this data set instead of that of the run.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    data: Option<String>,
    /// The page [default: report.html in the run's folder, or the checkpoint's name with .html].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the folders of runs are: one of them may have the log of a checkpoint that lies
    /// elsewhere.
    #[arg(long, value_name = "FOLDER", default_value = "runs", env = "INCEPT_RUNS_DIR")]
    runs_dir: PathBuf,
    /// Images of a batch.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    batch: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// An image with what the network says about it.
#[derive(Debug)]
pub(super) struct Sample {
    pub image: RgbImage,
    pub label: usize,
    pub prediction: usize,
    pub probability: f32,
}

/// What the held-out images told.
struct Tested {
    data: String,
    device: Vec<(String, String)>,
    measured: Measured,
    samples: Vec<Sample>,
    mistakes: Vec<Sample>,
}

#[derive(Serialize)]
struct Event<'a> {
    report: &'a Path,
    bytes: usize,
    epochs: usize,
    steps: usize,
    accuracy: f64,
}

impl RunReport {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        self.load.set_limit()?;
        let source = Source::open(&self.run, &self.runs_dir)?;
        let out = self.out.clone().unwrap_or_else(|| {
            if self.run.is_dir() { self.run.join("report.html") } else { self.run.with_extension("html") }
        });
        check_file(&out)?;
        let contestant = Contestant::load(&source.checkpoint)?;
        let tested = self.test(&contestant, device, reporter)?;
        let html = contained(|| write_page(&source, &contestant, &tested).map_err(|e| e.to_string()))
            .map_err(|e| Error::format(&out, format!("cannot be drawn: {e}")))?;
        write_atomically(&out, html.as_bytes())?;
        reporter.line(&format!("wrote {} ({})", shown(&out), bytes(html.len() as u64)))?;
        reporter.event(&Event {
            report: &out,
            bytes: html.len(),
            epochs: source.curves.epochs.len(),
            steps: source.curves.steps.len(),
            accuracy: tested.measured.together.evaluation.accuracy(),
        })?;
        Ok(Outcome::Done)
    }

    /// Measures the checkpoint on the held-out images.
    fn test(&self, contestant: &Contestant<'_>, device: &DeviceArgs, reporter: &Reporter) -> Result<Tested> {
        let one = std::slice::from_ref(contestant);
        let (data, set) = validation(one, self.data.clone(), Part::Validation)?;
        let gpu = device.open()?;
        let element = self.precision.element(&gpu);
        device.tune(&gpu, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&contestant.metadata.network, self.batch, element)?.plan(&gpu, None)
        })?;
        let count = set.len().min(SAMPLES);
        let chosen: Vec<usize> = (0..count).map(|i| i * set.len() / count).collect();
        let mut said: Vec<(usize, usize, usize, f32)> = Vec::with_capacity(count);
        let job = Job {
            gpu: &gpu,
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
                said.extend(best.map(|b| (scores.image, scores.label, b.class, b.probability)));
            }
        })?;
        let sample = |(image, label, prediction, probability): (usize, usize, usize, f32)| {
            let image = thumbnail(&job.set.image(image)?, IMAGE);
            Ok(Sample { image, label, prediction, probability })
        };
        let wrong = measured.together.mistakes().iter();
        let wrong = wrong.map(|m| (m.image, m.label, m.prediction, m.probability));
        let mistakes = wrong.map(sample).collect::<Result<Vec<_>>>()?;
        let samples = said.into_iter().map(sample).collect::<Result<Vec<_>>>()?;
        let device = vec![("measured for this page on".to_string(), gpu.summary().to_string())];
        Ok(Tested { data, device, measured, samples, mistakes })
    }
}

fn write_page(source: &Source, contestant: &Contestant<'_>, tested: &Tested) -> Drawn<String> {
    let Assessment { evaluation, confusion, reliability, .. } = &tested.measured.together;
    let (metadata, classes) = (&contestant.metadata, &contestant.metadata.classes);
    let mut sections = Vec::new();
    let charts = charts::charts(&source.curves);
    if !charts.is_empty() {
        let about = "Faint lines are single steps, dots whole epochs. Training accuracy is measured with dropout and augmentation while the weights change.";
        sections.push(page::section("Training", about, &page::plots(&charts)?));
    }
    let about = format!(
        "{} images that training has not seen; colours are shares of a row.",
        thousands(evaluation.count as u64)
    );
    let figure = ConfusionFigure { confusion, classes, title: String::new(), subtitle: String::new() };
    sections.push(page::section("What is taken for what", &about, &page::plot(&figure)?));
    sections.push(page::section("Classes", "", &page::by_class(confusion, classes)));
    let subtitle = format!("expected calibration error {:.2}%", 100.0 * reliability.ece());
    let about = "Where bars end below the line, the network is surer than it is right; above it, it is right more often than it thinks.";
    let figure = ReliabilityFigure { reliability, subtitle };
    sections.push(page::section("Calibration", about, &page::plot(&figure)?));
    let about = "Spread evenly over the held-out part, not chosen.";
    sections.push(page::section("Samples", about, &page::images(&tested.samples, classes)?));
    if !tested.mistakes.is_empty() {
        let html = page::images(&tested.mistakes, classes)?;
        sections.push(page::section("Worst mistakes", "Those that the network is surest of.", &html));
    }
    if !source.command_line.is_empty() {
        sections.push(page::section("Command", "", &page::preformatted(&source.command_line.join(" "))));
    }
    sections.push(page::section("Configuration", "", &page::preformatted(&source.configuration)));
    let machine: Vec<(String, String)> = source.machine.iter().chain(&tested.device).cloned().collect();
    sections.push(page::section("Machine", "", &page::pairs(&machine)));
    let parameters = model::summary(&metadata.network.build(1)?).parameters_inference;
    let subtitle = format!(
        "GoogLeNet ({}), {} x {} pixels, {} classes, {} parameters at inference; data: {}; written by incept {}",
        metadata.network.variant,
        metadata.network.input,
        metadata.network.input,
        classes.len(),
        thousands(parameters as u64),
        tested.data,
        env!("CARGO_PKG_VERSION"),
    );
    Ok(page::page(&source.title, &subtitle, &facts(source, tested), &sections))
}

/// The figures at the top of the page.
fn facts(source: &Source, tested: &Tested) -> Vec<(String, String)> {
    let Assessment { evaluation, confusion, reliability, .. } = &tested.measured.together;
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let mut facts = vec![
        (percent(evaluation.accuracy()), "top-1, held out".to_string()),
        (percent(evaluation.accuracy5()), "top-5, held out".to_string()),
        (percent(confusion.mean().f1), "mean F1 of the classes".to_string()),
        (percent(reliability.ece()), "calibration error".to_string()),
    ];
    let Curves { epochs, .. } = &source.curves;
    if let Some(last) = epochs.last() {
        let took: f64 = epochs.iter().map(|e| e.seconds).filter(|s| s.is_finite()).sum();
        facts.push((last.epoch.saturating_add(1).to_string(), "epochs".to_string()));
        facts.push((seconds(took), "training time".to_string()));
        facts.push((format!("{:.0}", last.images_per_s), "images/s at the end".to_string()));
    }
    if tested.measured.unreadable > 0 {
        note("some held-out images could not be read: the page leaves them out");
        facts.push((tested.measured.unreadable.to_string(), "unreadable images".to_string()));
    }
    facts
}
