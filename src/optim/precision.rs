//! Mixed precision: activations and their gradients stored as f16, everything else f32, and the
//! loss scaled so that gradients fit.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::graph::{Graph, Role, TensorId};
use crate::ops::LossScale;
use crate::tensor::{Element, Spec};

/// How activations and their gradients are stored in training.
///
/// Parameters, their gradients, optimizer vectors, statistics and losses are f32 either way, and so
/// is all arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As f32.
    #[default]
    F32,
    /// As f16, half as many bytes, with dynamic loss scaling.
    F16(LossScaling),
}

impl Precision {
    /// f16 with the usual loss scaling.
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

/// How the loss is scaled. The scale is halved after an update whose gradients overflowed, which is
/// left out, and doubled after so many updates without an overflow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaling {
    /// The first scale.
    pub start: f32,
    /// Updates without an overflow after which the scale is doubled.
    pub interval: u32,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self { start: 65_536.0, interval: 1000 }
    }
}

impl LossScaling {
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

/// The prefix of the tensors that the loss scale is kept in, among the running statistics.
const LOSS_SCALE: &str = "loss_scale/";

/// Whether a tensor of the state is what mixed precision keeps, and not a running statistic.
pub(crate) fn is_loss_scale(name: &str) -> bool {
    name.starts_with(LOSS_SCALE)
}

/// The scalars of the loss scale in a training graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleState {
    interval: u32,
    /// The scale of the next update.
    pub scale: TensorId,
    good: TensorId,
    skipped: TensorId,
}

impl ScaleState {
    /// Adds them to a graph.
    pub fn new(graph: &mut Graph, scaling: &LossScaling) -> Self {
        let mut state =
            |name: &str, start| graph.add_tensor(Self::name(name), Spec::f32([1]), Role::State(start));
        let (scale, good, skipped) =
            (state("scale", scaling.start), state("good", 0.0), state("skipped", 0.0));
        Self { interval: scaling.interval, scale, good, skipped }
    }

    /// Those that a graph has.
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

/// What optimizers read and the host is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub guard: TensorId,
    /// The scale, and the number of skipped updates.
    pub metrics: [TensorId; 2],
}

impl Guard {
    /// The input that follows the others.
    pub fn input(&self) -> &[TensorId] {
        std::slice::from_ref(&self.guard)
    }
}
