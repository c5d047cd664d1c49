//! Training: the loop runs on a thread of its own and reports to an observer in Python.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use incept::learner::{Observer, Started, StepProgress};
use incept::runs::{EpochReport, StopReason};
use incept::train::StepMetrics;
use incept::{Error, Result};
use incept_cli::shared::{DeviceSettings, Training, TrainingOptions};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::classifier::Network;
use crate::errors::raised;
use crate::images::{Memory, MemoryItems, memory};
use crate::work::{Caller, OnSignal, run};

/// Interval between reports of steps, unless every step is reported.
const INTERVAL: Duration = Duration::from_millis(100);

/// What happened, and whether training continues is sent back.
struct Event {
    kind: Kind,
    reply: Sender<bool>,
}

enum Kind {
    Started { device: String, images: usize, validation: usize, epoch: u64, epochs: u64 },
    Step(StepMetrics, StepProgress),
    Epoch { report: Box<EpochReport>, step: u64 },
}

/// Sends what happens to the thread that has the GIL.
struct Messenger {
    caller: Caller<Event>,
    stop: Arc<AtomicBool>,
    every_step: bool,
    last: Instant,
    /// Completed steps.
    step: u64,
}

impl Messenger {
    /// Whether training continues.
    fn ask(&self, kind: Kind) -> bool {
        let (reply, answer) = channel();
        self.caller.send(Event { kind, reply }) && answer.recv().unwrap_or(false)
    }
}

impl Observer for Messenger {
    fn started(&mut self, run: &Started<'_>) -> Result<()> {
        let kind = Kind::Started {
            device: run.device.to_string(),
            images: run.train,
            validation: run.validation,
            epoch: run.epoch,
            epochs: run.epochs,
        };
        if self.ask(kind) { Ok(()) } else { Err(Error::Interrupted) }
    }

    fn step(&mut self, step: &StepMetrics, at: &StepProgress) -> Result<()> {
        self.step = step.step + 1;
        if self.every_step || self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            if !self.ask(Kind::Step(step.clone(), *at)) {
                self.stop.store(true, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    fn epoch_ended(&mut self, epoch: &EpochReport) -> Result<()> {
        let kind = Kind::Epoch { report: Box::new(epoch.clone()), step: self.step };
        // An error stops at once, where the flag would stop after another step.
        if self.ask(kind) { Ok(()) } else { Err(Error::Interrupted) }
    }
}

/// What the Python side makes a result of: the network, why training stopped, the best epoch from
/// 1 and its validation accuracy, and the run's folder.
type Trained = (Network, &'static str, Option<(u64, f64)>, Option<PathBuf>);

/// Trains with the options of `config`, the JSON of a configuration file's sections. `observer` has
/// the methods `started`, `step` and `epoch`, of which the latter two return `False` to stop.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the Python side passes every option")]
pub(crate) fn train<'py>(
    py: Python<'py>,
    config: &str,
    recipe: Option<String>,
    data: Option<MemoryItems<'py>>,
    resume: Option<PathBuf>,
    device: Option<String>,
    threads: Option<usize>,
    observer: &Bound<'py, PyAny>,
    every_step: bool,
) -> PyResult<Trained> {
    let config = parsed(py, config)?;
    let data = data.map(memory).transpose()?;
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let device = DeviceSettings { device, threads };
    let work = move |caller: Caller<Event>| {
        let source = data.map(Memory::source).transpose()?;
        let mut training =
            Training::new(TrainingOptions { config, recipe, source, resume, device }, &stopped)?;
        let mut messenger = Messenger { caller, stop: stopped, every_step, last: Instant::now(), step: 0 };
        let reason = match training.fit(&mut messenger) {
            Ok(history) => history.reason(),
            Err(Error::Interrupted) => StopReason::Interrupted,
            Err(error) => return Err(error),
        };
        let best = training.best().map(|(accuracy, epoch)| (epoch + 1, accuracy));
        let folder = training.folder().map(|folder| folder.path().to_path_buf());
        let network = Network::new(training.checkpoint()?, training.device().clone(), training.element());
        Ok((network, named(reason), best, folder))
    };
    let handle = |py: Python<'_>, event: Event| {
        let answer = call(py, observer, event.kind);
        // Training has ended if nobody waits for the answer.
        let _ = event.reply.send(matches!(answer, Ok(true)));
        answer.map(|_| ())
    };
    run(py, &stop, OnSignal::Stop, work, handle)
}

fn named(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Done => "done",
        StopReason::Patience => "patience",
        StopReason::Interrupted => "interrupted",
        StopReason::Failed => "failed",
    }
}

/// Options from JSON.
pub(crate) fn parsed(py: Python<'_>, json: &str) -> PyResult<serde_json::Value> {
    serde_json::from_str(json).map_err(|e| raised(py, "ConfigError", &e.to_string()))
}

/// Calls the observer; false if it stops training.
fn call(py: Python<'_>, observer: &Bound<'_, PyAny>, kind: Kind) -> PyResult<bool> {
    let values = PyDict::new(py);
    let method = match kind {
        Kind::Started { device, images, validation, epoch, epochs } => {
            values.set_item("device", device)?;
            values.set_item("images", images)?;
            values.set_item("validation_images", validation)?;
            values.set_item("epoch", epoch)?;
            values.set_item("epochs", epochs)?;
            "started"
        }
        Kind::Step(step, at) => {
            values.set_item("step", step.step)?;
            values.set_item("epoch", at.epochs())?;
            values.set_item("done", at.done)?;
            values.set_item("images", at.images)?;
            values.set_item("lr", step.lr)?;
            values.set_item("loss", step.loss)?;
            for head in &step.heads {
                values.set_item(format!("loss_{}", head.name), head.loss)?;
                let accuracy = f64::from(head.correct) / step.count.max(1) as f64;
                values.set_item(format!("accuracy_{}", head.name), accuracy)?;
            }
            values.set_item("gradient_norm", step.gradient_norm)?;
            values.set_item("images_per_s", at.images_per_s)?;
            "step"
        }
        Kind::Epoch { report, step } => {
            row(&values, &report, step)?;
            "epoch"
        }
    };
    let answer = observer.call_method1(method, (values,))?;
    // As in `if callback(...) is False`: numpy's `False` counts too.
    Ok(answer.is_none() || answer.is_truthy()?)
}

/// The columns of a run's metrics.csv.
fn row(values: &Bound<'_, PyDict>, report: &EpochReport, step: u64) -> PyResult<()> {
    let summary = &report.summary;
    values.set_item("epoch", summary.epoch + 1)?;
    values.set_item("step", step)?;
    values.set_item("lr", report.lr)?;
    values.set_item("train_loss", summary.loss)?;
    for head in &summary.heads {
        values.set_item(format!("train_loss_{}", head.name), head.loss)?;
        values.set_item(format!("train_accuracy_{}", head.name), head.accuracy)?;
    }
    if let Some(main) = &report.validation {
        values.set_item("val_loss", main.loss)?;
        values.set_item("val_accuracy", main.accuracy())?;
        values.set_item("val_accuracy_top5", main.accuracy5())?;
    }
    for head in &report.validation_aux {
        values.set_item(format!("val_loss_{}", head.name), head.loss)?;
        values.set_item(format!("val_accuracy_{}", head.name), head.accuracy)?;
    }
    values.set_item("best", report.best)?;
    values.set_item("images_per_s", report.images_per_s)?;
    values.set_item("seconds", report.seconds)
}
