//! Metrics of a training step and their positions among the values read back.

use serde::Serialize;

use crate::graph::TensorId;
use crate::ops::LossScale;

/// Metrics of a head in one training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadMetrics {
    /// `main`, or an auxiliary head: `aux1` or `aux2` in GoogLeNet.
    pub name: &'static str,
    /// Mean cross-entropy of the batch.
    pub loss: f32,
    /// Correctly classified images of the batch; with mixed labels, weighted by their shares.
    pub correct: f32,
}

/// Metrics of one training step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Index of the step (micro-batch), from 0.
    pub step: u64,
    /// Images in the batch.
    pub count: usize,
    /// Learning rate.
    pub lr: f32,
    /// The weighted sum of the losses.
    pub loss: f32,
    /// Each head, the main one first.
    pub heads: Vec<HeadMetrics>,
    /// The global norm of the gradients, if
    /// [`Optimizer::max_grad_norm`](crate::optim::Optimizer::max_grad_norm) is set and this step
    /// ends with an update; non-finite if the update was skipped.
    pub gradient_norm: Option<f32>,
    /// Loss scaling, if it is enabled and this step ends with an update.
    pub scaling: Option<ScalingMetrics>,
}

/// Loss scaling of an update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScalingMetrics {
    /// The loss scale.
    pub scale: f32,
    /// Total number of updates that were skipped because gradients overflowed.
    pub skipped: u64,
}

impl ScalingMetrics {
    /// Whether the scale is at its minimum, so that overflows are permanent.
    pub fn is_smallest(&self) -> bool {
        self.scale <= LossScale::RANGE[0]
    }
}

/// The index of a metric in the values of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric(usize);

/// The places of a head's metrics.
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
    /// The loss scale, and the number of skipped updates.
    pub scaling: Option<[Metric; 2]>,
}

/// Adds a tensor to those read back after a step.
pub(super) fn add(list: &mut Vec<TensorId>, tensor: TensorId) -> Metric {
    list.push(tensor);
    Metric(list.len() - 1)
}

/// A step whose metrics are pending.
#[derive(Debug)]
pub(super) struct Sent {
    pub step: u64,
    pub count: usize,
    pub lr: f32,
    /// Whether the step ends with an update.
    pub updates: bool,
}

impl Places {
    /// The metrics of a step from the values read back.
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
            lr: sent.lr,
            loss: value(self.loss),
            heads: self.heads.iter().map(head).collect(),
            gradient_norm: self.norm.filter(|_| sent.updates).map(value),
            scaling: self.scaling.filter(|_| sent.updates).map(scaling),
        }
    }
}
