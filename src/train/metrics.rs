//! What a training step measures, and where its values are among those that come back.

use serde::Serialize;

use crate::graph::TensorId;
use crate::ops::LossScale;

/// One head in one training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadMetrics {
    /// `main`, or an auxiliary head: `aux1` or `aux2` in GoogLeNet.
    pub name: &'static str,
    /// Mean cross-entropy of the batch.
    pub loss: f32,
    /// Images of the batch whose largest logit is their label; with mixed labels, by their shares.
    pub correct: f32,
}

/// What one training step measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Number of the step (micro-batch), from 0.
    pub step: u64,
    /// Images in the batch.
    pub count: usize,
    /// Learning rate.
    pub rate: f32,
    /// The weighted sum of the losses.
    pub loss: f32,
    /// Each head, the main one first.
    pub heads: Vec<HeadMetrics>,
    /// The global norm of the gradients, if
    /// [`Optimizer::clip_norm`](crate::optim::Optimizer::clip_norm) is set and this step ends with
    /// an update: not finite where that was skipped.
    pub gradient_norm: Option<f32>,
    /// The loss scale, if the loss is scaled and this step ends with an update.
    pub scaling: Option<ScalingMetrics>,
}

/// The loss scale of the last update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScalingMetrics {
    /// What the loss was multiplied by.
    pub scale: f32,
    /// Updates so far that were skipped because their gradients overflowed.
    pub skipped: u64,
}

impl ScalingMetrics {
    /// Whether the scale cannot become smaller: what overflows now overflows for good.
    pub fn is_smallest(&self) -> bool {
        self.scale <= LossScale::RANGE[0]
    }
}

/// The place of a metric among the values that a step gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric(usize);

/// One head's metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadPlaces {
    pub name: &'static str,
    pub loss: Metric,
    pub correct: Metric,
}

/// The places of all metrics of a step.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub loss: Metric,
    pub heads: Vec<HeadPlaces>,
    pub norm: Option<Metric>,
    /// The loss scale, and how many updates were skipped.
    pub scaling: Option<[Metric; 2]>,
}

/// Adds a tensor to those that come back after a step.
pub(super) fn add(list: &mut Vec<TensorId>, tensor: TensorId) -> Metric {
    list.push(tensor);
    Metric(list.len() - 1)
}

/// A step that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub step: u64,
    pub count: usize,
    pub rate: f32,
    /// Whether gradients were not only added up.
    pub updates: bool,
}

impl Places {
    /// What a step measured, from the values that came back.
    pub(super) fn read(&self, sent: &Sent, values: &[f32]) -> StepMetrics {
        let value = |metric: Metric| values.get(metric.0).copied().unwrap_or(f32::NAN);
        let head = |head: &HeadPlaces| HeadMetrics {
            name: head.name,
            loss: value(head.loss),
            correct: value(head.correct),
        };
        let scaling = |[scale, skipped]: [Metric; 2]| ScalingMetrics {
            scale: value(scale),
            skipped: value(skipped) as u64,
        };
        StepMetrics {
            step: sent.step,
            count: sent.count,
            rate: sent.rate,
            loss: value(self.loss),
            heads: self.heads.iter().map(head).collect(),
            gradient_norm: self.norm.filter(|_| sent.updates).map(value),
            scaling: self.scaling.filter(|_| sent.updates).map(scaling),
        }
    }
}
