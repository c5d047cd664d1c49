//! The loop over the data of an epoch.

use std::ops::ControlFlow;

use serde::Serialize;

use super::{HeadMetrics, StepMetrics, Trainer};
use crate::data::{Batch, Loader};
use crate::error::Result;
use crate::model::Model;
use crate::optim::{Moment, Pace};

/// Maximum steps and batches in flight: enough that the device never waits for the host.
pub(crate) const IN_FLIGHT: usize = 2;

/// Metrics of a head over one epoch of training, measured while the parameters changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadSummary {
    /// `main`, `aux1` or `aux2`.
    pub name: &'static str,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Training accuracy, in [0, 1].
    pub accuracy: f64,
}

/// Metrics of one epoch of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EpochSummary {
    /// Index of the epoch, from 0.
    pub epoch: u64,
    /// Images trained on.
    pub count: usize,
    /// Mean weighted sum of the losses.
    pub loss: f64,
    /// Each head, the main one first.
    pub heads: Vec<HeadSummary>,
    /// Whether the epoch was interrupted.
    pub interrupted: bool,
}

impl EpochSummary {
    fn add(&mut self, step: &StepMetrics) {
        let count = step.count as f64;
        if self.heads.is_empty() {
            let start = |h: &HeadMetrics| HeadSummary { name: h.name, loss: 0.0, accuracy: 0.0 };
            self.heads = step.heads.iter().map(start).collect();
        }
        let total = (self.count + step.count).max(1) as f64;
        let mean = |before: f64, value: f64| before + (value - before) * count / total;
        self.loss = mean(self.loss, f64::from(step.loss));
        for (summary, head) in self.heads.iter_mut().zip(&step.heads) {
            summary.loss = mean(summary.loss, f64::from(head.loss));
            summary.accuracy = mean(summary.accuracy, f64::from(head.correct) / count.max(1.0));
        }
        self.count += step.count;
    }
}

/// Trains on the rest of the trainer's current epoch. `pace` returns learning rate and momentum of
/// each update; the last update of the epoch may have fewer steps than [`Trainer::accumulate`].
/// `observe` is called when the metrics of a step arrive and may interrupt the epoch; the trainer's
/// position then is where to resume.
///
/// # Errors
/// Errors of the loader and the device.
pub async fn train_epoch<M: Model, P: Into<Pace>>(
    trainer: &mut Trainer<M>,
    loader: &Loader,
    pace: impl Fn(Moment) -> P,
    observe: impl FnMut(&StepMetrics) -> ControlFlow<()>,
) -> Result<EpochSummary> {
    train_epoch_from(trainer, loader, EpochSummary::default(), pace, observe).await
}

/// As [`train_epoch`], for an interrupted epoch with the sums of its first part: the summary is
/// that of the whole epoch, bit-identical to an uninterrupted one.
///
/// # Errors
/// As [`train_epoch`].
pub async fn train_epoch_from<M: Model, P: Into<Pace>>(
    trainer: &mut Trainer<M>,
    loader: &Loader,
    begun: EpochSummary,
    pace: impl Fn(Moment) -> P,
    mut observe: impl FnMut(&StepMetrics) -> ControlFlow<()>,
) -> Result<EpochSummary> {
    let (epoch, first) = (trainer.progress().epoch, trainer.progress().batch);
    let batches = loader.batches_per_epoch() as u64;
    let Moment { updates, .. } = trainer.moment(epoch, loader);
    let accumulate = u64::from(trainer.accumulate()).max(1);
    let mut summary = EpochSummary { epoch, ..begun };
    let mut position = first;
    for batch in loader.epoch(epoch, usize::try_from(first).unwrap_or(usize::MAX)) {
        let pace = pace(Moment { epoch, update: position / accumulate, updates });
        position += 1;
        let batch = batch?;
        // Without readable images there is no gradient, and momentum alone must not move the
        // weights.
        let is_empty = batch.labels.iter().all(|label| *label == Batch::MISSING);
        if is_empty && accumulate == 1 {
            trainer.set_position(epoch, position);
            continue;
        }
        if position == batches {
            trainer.last_step(&batch, pace)?;
        } else {
            trainer.step(&batch, pace)?;
        }
        trainer.set_position(epoch, position);
        let arrived = trainer.metrics(IN_FLIGHT).await?;
        if report(&mut summary, &arrived, &mut observe).is_break() {
            // The epoch is complete after its last batch, readable or not.
            summary.interrupted = position < batches;
            break;
        }
    }
    let rest = trainer.metrics(0).await?;
    if report(&mut summary, &rest, &mut observe).is_break() && position < batches {
        summary.interrupted = true;
    }
    if !summary.interrupted {
        trainer.set_position(epoch + 1, 0);
    }
    Ok(summary)
}

impl<M: Model> Trainer<M> {
    /// The moment of the first update of an epoch of this loader.
    pub fn moment(&self, epoch: u64, loader: &Loader) -> Moment {
        let batches = loader.batches_per_epoch() as u64;
        let updates = batches.div_ceil(u64::from(self.accumulate()).max(1)).max(1);
        Moment { epoch, update: 0, updates }
    }
}

fn report(
    summary: &mut EpochSummary,
    steps: &[StepMetrics],
    observe: &mut impl FnMut(&StepMetrics) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    for step in steps {
        summary.add(step);
        if observe(step).is_break() {
            flow = ControlFlow::Break(());
        }
    }
    flow
}
