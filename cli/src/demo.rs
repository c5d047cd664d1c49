//! `incept demo`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use incept::Error;
use incept::data::{Dataset, OpenOptions};
use incept::learner::History;
use incept::low_level::output::check_file;
use incept::model::{GoogLeNet, Initialization};
use incept::optim::{Optimizer, Schedule};
use incept::train::Trainer;
use serde::Serialize;

use super::config::Config;
use super::cross_check::cross_check;
use super::dashboard::View;
use super::data::{LoadArgs, describe, report_bad};
use super::fit::{Run, Setup};
use super::interrupt::interruptible;
use super::next::{argument, write_samples};
use super::numbers::{Range, real, whole};
use super::options::{DeviceArgs, PixelArgs};
use super::plot::check_png;
use super::report::{Rate, Reporter, duration, plural, shown};
use super::screen::Screen;
use super::sheet::{Sheet, Tile};
use super::{Outcome, Result};

/// Number of images on the sheet.
const TILES: usize = 36;

/// Train on the embedded digits, classify validation images, and draw a sheet with the results.
///
/// The network is the paper's at width 0.25 and 32 x 32 pixels, with main and auxiliary heads
/// (weight 0.3), local response normalization and dropout. The training schedule is much shorter
/// than the paper's.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Maximum number of epochs, which is also the length of the learning rate schedule.
    #[arg(long, value_name = "COUNT", default_value_t = 6, value_parser = whole::<u64>(1))]
    epochs: u64,
    /// Target validation accuracy in percent: training stops when it is reached.
    #[arg(long = "target-accuracy", alias = "enough", value_name = "PERCENT", default_value_t = 97.0, value_parser = real::<f64>(Range::Percent))]
    target: f64,
    /// Random seed of initialization, shuffling and dropout.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole::<u64>(0))]
    seed: u64,
    /// File of the sheet, .png.
    #[arg(
        short = 'o',
        long = "output",
        alias = "out",
        value_name = "FILE",
        default_value = "incept-demo.png"
    )]
    out: PathBuf,
    /// File of the checkpoint.
    #[arg(long, value_name = "FILE", default_value = "incept-demo.safetensors")]
    checkpoint: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct DemoResult<'a> {
    event: &'static str,
    /// In [0, 1].
    validation_accuracy: f64,
    epochs: usize,
    seconds: f64,
    output: &'a Path,
    checkpoint: &'a Path,
    /// The folder of the images that were written as files.
    samples: &'a Path,
    /// Commands to run next.
    next: Vec<String>,
}

impl Demo {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        check_png(&self.out)?;
        check_file(&self.checkpoint)?;
        let total = Rate::new();
        let data = describe("digits", &OpenOptions::default())?;
        let network = GoogLeNet::paper()
            .width(0.25)
            .classes(data.train.classes().len())
            .input(32)
            .initialization(Initialization::He);
        let run = Run {
            data: "digits".into(),
            val_split: OpenOptions::default().val_split,
            limit: None,
            epochs: self.epochs,
            batch: 16,
            lr: 0.015,
            schedule: Schedule::Cosine,
            warmup: 0.5,
            optimizer: Optimizer::default().max_grad_norm(5.0),
            augmentation: None,
            seed: self.seed,
            mix: None,
            patience: None,
            config: Config::default(),
        };
        let preprocessing = PixelArgs::default().measured(network.input, data.train.as_ref())?;
        let load = LoadArgs { max_bad: Some(0), ..LoadArgs::default() };
        let setup = Setup { run, network, preprocessing, data, load };
        let stop = interruptible()?;
        let opened = device_args.open_with_reason()?;
        let device = opened.device;
        if let Some(adapter) = opened.software.first().filter(|_| device.cpu().is_some()) {
            cross_check(&setup, adapter, &device, &stop, reporter)?;
        }
        let trainer = setup.trainer(&device, device_args, &stop, reporter)?;
        let mut learner = setup.learner(trainer, true, Some(self.target / 100.0), u64::MAX)?;
        learner.save_to(&self.checkpoint);
        learner.stop_by(Arc::clone(&stop));
        let mut screen = Screen::new(&setup, View::Bar, stop, reporter);
        let history = learner.fit_blocking(&mut screen)?;
        report_bad(learner.train_loader());
        if history.interrupted {
            return Ok(Outcome::Interrupted);
        }
        let last = history.epochs.last().and_then(|e| e.validation_accuracy).unwrap_or(0.0);
        self.draw(&setup, learner.trainer(), &history, last).map_err(|error| Error::Ended {
            source: Box::new(error),
            advice: format!("the trained network is saved: {}", shown(&self.checkpoint)),
        })?;
        reporter.line(&format!(
            "validation accuracy {:.1}% on {} after {}; see {}",
            100.0 * last,
            plural(setup.data.validation.len() as u64, "image"),
            duration(total.elapsed()),
            shown(&self.out)
        ))?;
        let samples = self.samples();
        write_samples(setup.data.validation.as_ref(), &samples)?;
        let (checkpoint, folder) = (argument(&self.checkpoint), argument(&samples));
        let next = format!("incept classify {checkpoint} {folder}");
        reporter.line(&format!("next: {next}"))?;
        reporter.event(&DemoResult {
            event: "demo",
            validation_accuracy: last,
            epochs: history.epochs.len(),
            seconds: total.elapsed().as_secs_f64(),
            output: &self.out,
            checkpoint: &self.checkpoint,
            samples: &samples,
            next: vec![next],
        })?;
        Ok(Outcome::Done)
    }

    /// The folder of the sample images, beside the sheet.
    fn samples(&self) -> PathBuf {
        let name = self.out.file_stem().map_or_else(|| "demo".into(), |stem| stem.to_string_lossy());
        self.out.with_file_name(format!("{name}-digits"))
    }

    /// Classifies evenly spaced validation images and draws the sheet.
    fn draw(&self, setup: &Setup, trainer: &Trainer, history: &History, accuracy: f64) -> Result<()> {
        let device = trainer.device();
        let validation: &Arc<dyn Dataset> = &setup.data.validation;
        let count = TILES.min(validation.len());
        let indices: Vec<usize> = (0..count).map(|i| i * validation.len() / count).collect();
        let images = indices.iter().map(|i| validation.image(*i)).collect::<Result<Vec<_>>>()?;
        let values: Vec<Vec<f32>> = images.iter().map(|p| setup.preprocessing.apply(p)).collect();
        let mut classifier = device.block_on(trainer.classifier(count))?;
        let predictions = device.block_on(classifier.classify(&values))?;
        let names = validation.classes();
        let tiles = indices.iter().zip(images).zip(&predictions);
        let tiles = tiles.map(|((index, image), found)| Tile {
            image,
            label: names[validation.label(*index) as usize].clone(),
            prediction: names[found[0].class].clone(),
            probability: found[0].probability,
        });
        let images_per_s = history.epochs.iter().map(|e| e.images_per_s).fold(0.0, f64::max);
        Sheet {
            title: "GoogLeNet with auxiliary heads, trained on handwritten digits".into(),
            subtitle: format!(
                "The paper's network, width 1/4, {0}x{0} pixels; {1} images, {2} on {3} at {images_per_s:.0} images/s; validation accuracy {4:.1}% on {5} images",
                setup.network.input,
                setup.data.train.len(),
                plural(history.epochs.len() as u64, "epoch"),
                short(&device.summary().name),
                100.0 * accuracy,
                validation.len()
            ),
            history,
            steps_per_epoch: setup.data.train.len().div_ceil(setup.run.batch),
            aux_weight: setup.network.aux_weight,
            tiles: tiles.collect(),
        }
        .write(&self.out)
    }
}

/// An adapter's name without the part in parentheses.
fn short(name: &str) -> &str {
    name.split(" (").next().unwrap_or(name)
}
