//! What a training tells while it runs.

use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::AdapterSummary;
use crate::infer::Evaluation;
use crate::plan::Memory;
use crate::runs::EpochReport;
use crate::train::StepMetrics;

/// A training that begins or resumes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Started<'a> {
    /// The device.
    pub device: &'a AdapterSummary,
    /// What training takes there.
    pub memory: Memory,
    /// The run's folder, if it has one.
    pub folder: Option<&'a Path>,
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub validation: usize,
    /// The epoch that comes next, from 0.
    pub epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u64,
}

/// Where a training is after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepProgress {
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Images of an epoch.
    pub images: usize,
    /// Images of this epoch that are done.
    pub done: usize,
    /// Training images per second in this epoch.
    pub images_per_s: f64,
}

impl StepProgress {
    /// Epochs done, as a fraction.
    pub fn epochs(&self) -> f64 {
        self.epoch as f64 + self.done as f64 / self.images.max(1) as f64
    }
}

/// Follows a training. Every method does nothing unless it is overridden; an error ends training
/// as soon as what was trained is saved. To end it without one, set [`Learner::stop_flag`](super::Learner::stop_flag).
pub trait Observer {
    /// Training begins, or resumes.
    ///
    /// # Errors
    /// Whatever ends training, here and below.
    fn started(&mut self, run: &Started<'_>) -> Result<()> {
        let _ = run;
        Ok(())
    }

    /// The last epoch of an earlier start, whose validation was interrupted, is validated.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn validated_late(&mut self, epoch: u64, main: &Evaluation) -> Result<()> {
        let _ = (epoch, main);
        Ok(())
    }

    /// An epoch over `images` images begins.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn epoch_started(&mut self, epoch: u64, images: usize) -> Result<()> {
        let _ = (epoch, images);
        Ok(())
    }

    /// The metrics of a step are back.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn step(&mut self, step: &StepMetrics, at: &StepProgress) -> Result<()> {
        let _ = (step, at);
        Ok(())
    }

    /// An epoch was trained to its end, validated, and saved if it is to be.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn epoch_ended(&mut self, epoch: &EpochReport) -> Result<()> {
        let _ = epoch;
        Ok(())
    }

    /// Early stopping ends training: the best validation accuracy and its epoch are `epochs` ago.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn stopped_early(&mut self, epochs: u64, best: Option<(f64, u64)>) -> Result<()> {
        let _ = (epochs, best);
        Ok(())
    }

    /// The newest checkpoint is saved. `last` says whether training ends with it, and `interrupted`
    /// whether it ends before its last epoch.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn saved(&mut self, file: &Path, last: bool, interrupted: bool) -> Result<()> {
        let _ = (file, last, interrupted);
        Ok(())
    }

    /// The checkpoint could not be saved either, after another error that ends training.
    ///
    /// # Errors
    /// As [`Observer::started`].
    fn not_saved(&mut self, error: &Error) -> Result<()> {
        let _ = error;
        Ok(())
    }
}

/// Nobody watches.
impl Observer for () {}
