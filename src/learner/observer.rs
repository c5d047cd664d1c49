//! Callbacks of training.

use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::AdapterSummary;
use crate::infer::Evaluation;
use crate::plan::Memory;
use crate::runs::EpochReport;
use crate::train::StepMetrics;

/// The start of a training.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Started<'a> {
    /// The device.
    pub device: &'a AdapterSummary,
    /// Memory of the training on the device.
    pub memory: Memory,
    /// The run's folder; `None` without one.
    pub folder: Option<&'a Path>,
    /// Number of training images.
    pub train: usize,
    /// Number of validation images.
    pub validation: usize,
    /// Index of the next epoch, from 0.
    pub epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u64,
    /// The best validation accuracy so far of a resumed run, in [0, 1], and its epoch.
    pub best: Option<(f64, u64)>,
}

/// Training progress after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepProgress {
    /// Index of the epoch, from 0.
    pub epoch: u64,
    /// Images per epoch.
    pub images: usize,
    /// Completed images of this epoch.
    pub done: usize,
    /// Training images per second in this epoch.
    pub images_per_s: f64,
}

impl StepProgress {
    /// Completed epochs, with fraction.
    pub fn epochs(&self) -> f64 {
        self.epoch as f64 + self.done as f64 / self.images.max(1) as f64
    }
}

/// Follows a training. Every method does nothing unless it is overridden; an error ends training as
/// soon as what was trained is saved. To end it without one, set
/// [`Learner::stop_flag`](super::Learner::stop_flag).
pub trait Observer {
    /// Training starts or resumes.
    ///
    /// # Errors
    /// Any error stops training, here and in the other methods.
    fn started(&mut self, run: &Started<'_>) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// The interrupted validation of an earlier start's last epoch is complete.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn validated_late(&mut self, epoch: u64, main: &Evaluation) -> Result<()> {
        let _ = (epoch, main);
        Ok(())
    }

    /// An epoch with `images` images starts.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn epoch_started(&mut self, epoch: u64, images: usize) -> Result<()> {
        let _ = (epoch, images);
        Ok(())
    }

    /// The metrics of a step have arrived.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn step(&mut self, step: &StepMetrics, at: &StepProgress) -> Result<()> {
        let _ = (step, at);
        Ok(())
    }

    /// An epoch was trained, validated, and saved if a checkpoint was due.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn epoch_ended(&mut self, epoch: &EpochReport) -> Result<()> {
        let _ = epoch;
        Ok(())
    }

    /// Early stopping: the best validation accuracy was reached `epochs` epochs ago.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn stopped_early(&mut self, epochs: u64, best: Option<(f64, u64)>) -> Result<()> {
        let _ = (epochs, best);
        Ok(())
    }

    /// The latest checkpoint was saved. `last` is whether training stops now, `interrupted` whether
    /// it stops before its last epoch.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn saved(&mut self, file: &Path, last: bool, interrupted: bool) -> Result<()> {
        let _ = (file, last, interrupted);
        Ok(())
    }

    /// Saving the checkpoint failed, after another error that stops training.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn not_saved(&mut self, error: &Error) -> Result<()> {
        let _ = error;
        Ok(())
    }
}

/// An observer that does nothing.
impl Observer for () {}
