//! Mixed precision: activations and their gradients in f16, everything else in f32, with dynamic
//! loss scaling.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::{Graph, Role, TensorId};
use crate::ops::LossScale;
use crate::tensor::{Element, Spec};

/// Storage type of activations and their gradients in training.
///
/// Parameters, their gradients, optimizer vectors, statistics, losses and all arithmetic are always
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// f16 with dynamic loss scaling: half the memory.
    F16(LossScaling),
}

impl Precision {
    /// f16 with default loss scaling.
    pub fn f16() -> Self {
        Self::F16(LossScaling::default())
    }

    /// The element type of activations.
    pub fn element(&self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16(_) => Element::F16,
        }
    }
}

/// Dynamic loss scaling. An update with overflowing gradients is skipped and halves the scale;
/// `interval` updates without overflow double it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossScaling {
    /// Initial scale.
    pub start: f32,
    /// Updates without overflow before the scale is doubled.
    pub interval: u32,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self { start: 65_536.0, interval: 1000 }
    }
}

impl LossScaling {
    /// Initial scale.
    #[must_use]
    pub fn start(self, start: f32) -> Self {
        Self { start, ..self }
    }

    /// Updates without overflow before the scale is doubled.
    #[must_use]
    pub fn interval(self, interval: u32) -> Self {
        Self { interval, ..self }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let [smallest, largest] = LossScale::RANGE;
        if !(smallest..=largest).contains(&self.start) {
            let allowed = format!("from {smallest} to {largest}");
            return Err(Error::out_of_range("LossScaling::start", allowed, self.start));
        }
        if self.interval == 0 {
            return Err(Error::out_of_range("LossScaling::interval", "above zero", 0));
        }
        Ok(())
    }
}

/// Name prefix of the loss scale's tensors among the running statistics.
const LOSS_SCALE: &str = "loss_scale/";

/// Whether a tensor of the state belongs to the loss scale, not to the running statistics.
pub(crate) fn is_loss_scale(name: &str) -> bool {
    name.starts_with(LOSS_SCALE)
}

/// Loss scale state in a training graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleState {
    interval: u32,
    /// Scale of the next update.
    pub scale: TensorId,
    good: TensorId,
    skipped: TensorId,
}

impl ScaleState {
    /// Adds the tensors to a graph.
    pub fn new(graph: &mut Graph, scaling: &LossScaling) -> Self {
        let mut state =
            |name: &str, start| graph.add_tensor(Self::name(name), Spec::f32([1]), Role::State(start));
        let (scale, good, skipped) =
            (state("scale", scaling.start), state("good", 0.0), state("skipped", 0.0));
        Self { interval: scaling.interval, scale, good, skipped }
    }

    /// Finds the tensors in a graph.
    pub fn find(graph: &Graph, scaling: &LossScaling) -> Result<Self> {
        let state = |name: &str| graph.find(&Self::name(name));
        let (scale, good, skipped) = (state("scale")?, state("good")?, state("skipped")?);
        Ok(Self { interval: scaling.interval, scale, good, skipped })
    }

    fn name(of: &str) -> String {
        format!("{LOSS_SCALE}{of}")
    }

    /// Adds the node that checks the gradients of an update.
    pub fn append(&self, graph: &mut Graph, gradients: TensorId) -> Result<Guard> {
        let op = LossScale { interval: self.interval };
        let inputs = [gradients, self.scale, self.good, self.skipped];
        match graph.add_node("optimizer/loss_scale", std::sync::Arc::new(op), &inputs)?[..] {
            [_, _, _, guard, scale, skipped] => Ok(Guard { guard, metrics: [scale, skipped] }),
            _ => Err(Error::internal("the loss scale does not have six outputs")),
        }
    }
}

/// Outputs of the overflow check, for optimizers and metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub guard: TensorId,
    /// Loss scale and number of skipped updates.
    pub metrics: [TensorId; 2],
}

impl Guard {
    /// The guard as the last input of an optimizer.
    pub fn input(&self) -> &[TensorId] {
        std::slice::from_ref(&self.guard)
    }
}
