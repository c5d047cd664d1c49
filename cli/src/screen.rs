//! The display of a training: progress, a line per epoch, JSON events, the dashboard.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use incept::gpu::AdapterSummary;
use incept::infer::Evaluation;
use incept::kernel::AdapterClass;
use incept::learner::{Observer, Started, StepProgress};
use incept::model::GoogLeNet;
use incept::runs::EpochReport;
use incept::train::StepMetrics;
use incept::{Error, Result};
use serde::Serialize;

use super::board::Board;
use super::dashboard::{Dashboard, View};
use super::fit::{Run, Setup};
use super::pacing::Pacing;
use super::report::{Bar, Rate, Reporter, note, plural, seconds, shown};

/// An event of the JSON output.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event<'a> {
    Start {
        device: &'a AdapterSummary,
        network: &'a GoogLeNet,
        classes: &'a [String],
        run: &'a Run,
        memory: incept::plan::Memory,
        folder: Option<&'a Path>,
        train: usize,
        validation: usize,
    },
    /// Validation of an epoch that was interrupted before.
    Validated {
        epoch: u64,
        validation_accuracy: f64,
    },
    Epoch(&'a EpochReport),
    Saved {
        checkpoint: &'a Path,
        interrupted: bool,
    },
}

/// Displays a training while it runs.
pub(crate) struct Screen<'a> {
    setup: &'a Setup,
    view: View,
    stop: Arc<AtomicBool>,
    reporter: &'a Reporter,
    /// The contents of the dashboard until it is opened.
    board: Option<Board>,
    dashboard: Option<Dashboard>,
    bar: Option<Bar>,
    overall: Rate,
    /// The first steps; none before the first epoch, and on the dashboard.
    pacing: Option<Pacing>,
    class: Option<AdapterClass>,
}

impl<'a> Screen<'a> {
    pub(crate) fn new(setup: &'a Setup, view: View, stop: Arc<AtomicBool>, reporter: &'a Reporter) -> Self {
        Self {
            setup,
            view,
            stop,
            reporter,
            board: None,
            dashboard: None,
            bar: None,
            overall: Rate::new(),
            pacing: None,
            class: None,
        }
    }
}

impl Observer for Screen<'_> {
    fn started(&mut self, start: &Started<'_>) -> Result<()> {
        let Setup { run, network, data, .. } = self.setup;
        self.reporter.event_if_open(&Event::Start {
            device: start.device,
            network,
            classes: data.train.classes(),
            run,
            memory: start.memory,
            folder: start.folder,
            train: data.train.len(),
            validation: data.validation.len(),
        })?;
        if self.view == View::Dashboard {
            let title = format!("{} on {}", network.variant, data.name);
            self.board = Some(Board::new(
                &title,
                &start.device.name,
                start.memory.total_bytes(),
                run.epochs,
                start.best,
            ));
        }
        self.overall = Rate::new();
        self.class = Some(start.device.class);
        Ok(())
    }

    fn validated_late(&mut self, epoch: u64, main: &Evaluation) -> Result<()> {
        let (percent, epochs) = (100.0 * main.accuracy(), self.setup.run.epochs);
        self.reporter.line_if_open(&format!("epoch {}/{epochs}  validation {percent:.2}%", epoch + 1))?;
        self.reporter.event_if_open(&Event::Validated { epoch, validation_accuracy: main.accuracy() })
    }

    fn epoch_started(&mut self, epoch: u64, images: usize) -> Result<()> {
        if let Some(board) = self.board.take() {
            self.dashboard = Some(Dashboard::open(board, Arc::clone(&self.stop))?);
        }
        let label = format!("epoch {}/{}", epoch + 1, self.setup.run.epochs);
        self.bar = self.dashboard.is_none().then(|| self.reporter.bar(&label, images as u64));
        if let (Some(bar), Some(class)) = (&mut self.bar, self.class.take()) {
            bar.update(0, || "waiting for the first step".into());
            self.pacing = Some(Pacing::new(class, !self.reporter.redraws_bars()));
        }
        Ok(())
    }

    fn step(&mut self, step: &StepMetrics, at: &StepProgress) -> Result<()> {
        self.overall.add(step.count);
        let epochs = self.setup.run.epochs.saturating_sub(at.epoch) as usize;
        let images_left = epochs.saturating_mul(at.images).saturating_sub(at.done);
        let left = self.overall.left(images_left);
        if let Some(estimate) = self.pacing.as_mut().and_then(|pacing| pacing.step(step.count, images_left)) {
            match &self.bar {
                Some(bar) => bar.note(&estimate),
                None => note(&estimate),
            }
        }
        if let Some(bar) = &mut self.bar {
            bar.update(at.done as u64, || step_line(step, at.images_per_s, &left));
            if at.done >= at.images {
                self.bar = None;
            }
        }
        match &mut self.dashboard {
            Some(dashboard) => dashboard.step(step, at.epochs(), at.images_per_s, &left),
            None => Ok(()),
        }
    }

    fn epoch_ended(&mut self, epoch: &EpochReport) -> Result<()> {
        self.bar = None;
        if let Some(dashboard) = &mut self.dashboard {
            dashboard.epoch(epoch)?;
        }
        self.reporter.line_if_open(&epoch_line(epoch, self.setup.run.epochs))?;
        self.reporter.event_if_open(&Event::Epoch(epoch))
    }

    fn stopped_early(&mut self, epochs: u64, best: Option<(f64, u64)>) -> Result<()> {
        let best = best.map_or(String::new(), |(accuracy, epoch)| {
            format!(" (best {:.1}% at epoch {})", 100.0 * accuracy, epoch + 1)
        });
        let epochs = plural(epochs, "epoch");
        self.reporter
            .line_if_open(&format!("early stopping: validation accuracy has not improved for {epochs}{best}"))
    }

    fn saved(&mut self, file: &Path, last: bool, interrupted: bool) -> Result<()> {
        self.bar = None;
        self.reporter.event_if_open(&Event::Saved { checkpoint: file, interrupted })?;
        if last {
            let why = if interrupted { "interrupted; " } else { "" };
            self.reporter.line_if_open(&format!("{why}saved {}", shown(file)))?;
        }
        Ok(())
    }

    fn not_saved(&mut self, error: &Error) -> Result<()> {
        self.reporter.line_if_open(&format!("saving the checkpoint failed too: {error}"))
    }
}

/// Losses and accuracy of the batch, throughput and remaining time.
fn step_line(step: &StepMetrics, images_per_s: f64, left: &str) -> String {
    let losses: Vec<String> = step.heads.iter().map(|h| format!("{} {:.3}", h.name, h.loss)).collect();
    let correct = step.heads.first().map_or(0.0, |h| h.correct);
    let accuracy = 100.0 * correct / step.count.max(1) as f32;
    format!("loss {}  accuracy {accuracy:.0}%  {images_per_s:.0} images/s  {left} left", losses.join(" "))
}

fn epoch_line(epoch: &EpochReport, epochs: u64) -> String {
    let width = epochs.to_string().len();
    let heads = epoch.summary.heads.iter();
    let losses: Vec<String> = heads.map(|h| format!("{} {:.3}", h.name, h.loss)).collect();
    let accuracy: Vec<String> =
        epoch.summary.heads.iter().map(|h| format!("{:.1}%", 100.0 * h.accuracy)).collect();
    let validation =
        epoch.validation_accuracy.map_or(String::new(), |a| format!("  validation {:.2}%", 100.0 * a));
    let busy = epoch.device_busy.map_or(String::new(), |b| format!("  device busy {:.0}%", 100.0 * b));
    format!(
        "epoch {:>width$}/{epochs}  loss {}  accuracy {}{validation}  {:.0} images/s{busy}  {}",
        epoch.summary.epoch + 1,
        losses.join(" "),
        accuracy.join(" "),
        epoch.images_per_s,
        seconds(epoch.seconds),
    )
}
