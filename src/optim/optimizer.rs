//! The optimizer as nodes of the training graph: each works on whole regions, in place.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::precision::{Guard, Precision, ScaleState, is_loss_scale};
use crate::error::{Error, Result};
use crate::graph::{Graph, Region, Role, TensorId};
use crate::ops::{Accumulate, AdamW, Average, ClipNorm, Lars, Sgd};
use crate::plan::Layout;
use crate::tensor::Spec;

/// The rule that turns gradients into updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "rule")]
pub enum Rule {
    /// SGD with momentum: v = momentum v + g, w = w - rate v; with `nesterov` w = w - rate (g +
    /// momentum v).
    Sgd {
        /// Look ahead (Nesterov).
        nesterov: bool,
    },
    /// SGD with momentum on gradients scaled to each tensor's norm, with the learning rate inside
    /// the momentum: v = momentum v + rate g, w = w - v (You et al. 2017): for large batches.
    Lars {
        /// Share of a tensor's norm that an update at rate 1 moves it by.
        trust: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the mean of gradients.
        beta1: f32,
        /// Decay of the mean of squares.
        beta2: f32,
        /// Keeps the quotient finite.
        epsilon: f32,
    },
}

/// Everything about the update of parameters but the learning rate, which comes with each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Momentum of SGD, Nesterov's and LARS.
    pub momentum: f32,
    /// Weight decay; acts on convolution and linear weights.
    pub weight_decay: f32,
    /// Largest global norm of the gradients; larger ones are scaled down to it. With infinity the
    /// norm is measured and nothing is scaled; with none it is not measured.
    pub clip_norm: Option<f32>,
    /// Averaging of the parameters, and of batch norm's running statistics.
    pub average: Option<Averaging>,
    /// Batches whose gradients make one update.
    pub accumulate: u32,
    /// Whether the backward pass makes most activations again instead of keeping them: about a
    /// fifth more arithmetic in a third of the memory.
    #[serde(default)]
    pub checkpointing: bool,
    /// How activations and their gradients are stored, and with f16 how the loss is scaled.
    #[serde(default)]
    pub precision: Precision,
}

/// How parameters are averaged over updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Averaging {
    /// The uniform mean of all iterates (Polyak), as the paper's section 6 uses it.
    Polyak,
    /// Exponential with this decay.
    Exponential(f32),
}

/// `polyak`, or the decay of an exponential average.
impl fmt::Display for Averaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Polyak => f.write_str("polyak"),
            Self::Exponential(decay) => write!(f, "{decay}"),
        }
    }
}

impl FromStr for Averaging {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            _ if text == "polyak" => Ok(Self::Polyak),
            Ok(decay) if (0.0..1.0).contains(&decay) => Ok(Self::Exponential(decay)),
            _ => {
                let allowed = "`polyak`, or a decay from 0 to below 1 such as 0.999";
                Err(Error::out_of_range("Optimizer::average", allowed, format!("`{text}`")))
            }
        }
    }
}

impl Default for Optimizer {
    /// Caffe's `quick_solver`: SGD, momentum 0.9, weight decay 2e-4.
    fn default() -> Self {
        Self {
            rule: Rule::Sgd { nesterov: false },
            momentum: 0.9,
            weight_decay: 2e-4,
            clip_norm: None,
            average: None,
            accumulate: 1,
            checkpointing: false,
            precision: Precision::F32,
        }
    }
}

/// What the optimizer added to the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// The norm of the gradients, if they are clipped.
    pub norm: Option<TensorId>,
    /// The scale of the gradients and the number of updates that were skipped, if the loss is
    /// scaled.
    pub scaling: Option<[TensorId; 2]>,
    /// The last tensor made on every micro-batch; everything after it runs once for each update.
    pub accumulated: Option<TensorId>,
}

impl Optimizer {
    /// The momentum that steps have where no schedule changes it: of AdamW its beta1.
    pub(crate) fn usual_momentum(&self) -> f32 {
        match self.rule {
            Rule::AdamW { beta1, .. } => beta1,
            Rule::Sgd { .. } | Rule::Lars { .. } => self.momentum,
        }
    }

    /// Number of optimizer vectors that belong to the rule itself.
    fn rule_slots(&self) -> u8 {
        match self.rule {
            Rule::Sgd { .. } | Rule::Lars { .. } => 1,
            Rule::AdamW { .. } => 2,
        }
    }

    /// The slot that holds averaged parameters.
    pub(crate) fn average_slot(&self) -> Option<Region> {
        self.average.map(|_| Region::Slots(self.rule_slots()))
    }

    /// The slot that holds the sum of gradients that no update has used yet.
    fn sum_slot(&self) -> Option<Region> {
        (self.accumulate > 1).then(|| Region::Slots(self.rule_slots() + u8::from(self.average.is_some())))
    }

    /// The slots that a checkpoint keeps as optimizer vectors: the rule's own, and the sum of
    /// gradients, as a run may be left between two updates.
    pub(crate) fn kept_slots(&self) -> impl Iterator<Item = Region> + use<> {
        (0..self.rule_slots()).map(Region::Slots).chain(self.sum_slot())
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let unit = |value: f32, field| {
            let inside = (0.0..1.0).contains(&value);
            if inside { Ok(()) } else { Err(Error::out_of_range(field, "from 0 to below 1", value)) }
        };
        unit(self.momentum, "Optimizer::momentum")?;
        if let Rule::AdamW { beta1, beta2, epsilon } = self.rule {
            unit(beta1, "Rule::AdamW::beta1")?;
            unit(beta2, "Rule::AdamW::beta2")?;
            if !(epsilon.is_finite() && epsilon >= 0.0) {
                return Err(Error::out_of_range("Rule::AdamW::epsilon", "a number from 0 up", epsilon));
            }
        }
        if let Rule::Lars { trust } = self.rule
            && !(trust.is_finite() && trust > 0.0)
        {
            return Err(Error::out_of_range("Rule::Lars::trust", "above zero", trust));
        }
        if let Some(Averaging::Exponential(decay)) = self.average {
            unit(decay, "Optimizer::average")?;
        }
        if !self.weight_decay.is_finite() || self.weight_decay < 0.0 {
            return Err(Error::out_of_range("Optimizer::weight_decay", "from 0 up", self.weight_decay));
        }
        if let Some(norm) = self.clip_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return Err(Error::out_of_range("Optimizer::clip_norm", "above zero", norm));
        }
        if self.accumulate == 0 {
            return Err(Error::out_of_range("Optimizer::accumulate", "above zero", 0));
        }
        match self.precision {
            Precision::F32 => Ok(()),
            Precision::F16(scaling) => scaling.validate(),
        }
    }

    /// Adds the nodes that update the parameters of `layout` from their gradients.
    pub(crate) fn append(
        &self,
        graph: &mut Graph,
        layout: &Layout,
        scale: Option<ScaleState>,
    ) -> Result<Update> {
        let length = layout.parameter_length();
        let stretch = |graph: &mut Graph, region: Region, length: usize| {
            graph.add_tensor(format!("region/{region:?}"), Spec::f32([length]), Role::Flat(region))
        };
        let flat = |graph: &mut Graph, region: Region| stretch(graph, region, length);
        let parameters = flat(graph, Region::Parameters);
        let mut gradients = flat(graph, Region::Gradients);
        let constant = |graph: &mut Graph, name: &str, values: Vec<f32>| {
            let spec = Spec::f32([values.len()]);
            graph.add_tensor(format!("optimizer/{name}"), spec, Role::Constant(Arc::new(values)))
        };
        let multipliers = constant(graph, "multipliers", layout.multipliers());
        let mut update = Update { norm: None, scaling: None, accumulated: None };
        if let Some(region) = self.sum_slot() {
            let sum = flat(graph, region);
            gradients = graph.add("optimizer/accumulate", Accumulate, &[sum, gradients])?;
            update.accumulated = Some(gradients);
        }
        let guard = scale.map(|scale| scale.append(graph, gradients)).transpose()?;
        update.scaling = guard.map(|guard| guard.metrics);
        let guarded = |inputs: &[TensorId]| [inputs, guard.as_ref().map_or(&[], Guard::input)].concat();
        if let Some(max_norm) = self.clip_norm {
            let inputs = guarded(&[gradients]);
            let clipped = graph.add_node("optimizer/clip_norm", Arc::new(ClipNorm { max_norm }), &inputs)?;
            gradients = clipped[0];
            update.norm = Some(clipped[1]);
        }
        let updated = match self.rule {
            Rule::Lars { trust } => {
                let segments = constant(graph, "segments", layout.segments());
                let momentum = flat(graph, Region::Slots(0));
                let inputs = guarded(&[parameters, gradients, momentum, multipliers, segments]);
                graph.add("optimizer/lars", Lars { trust }, &inputs)?
            }
            Rule::Sgd { nesterov } => {
                let momentum = flat(graph, Region::Slots(0));
                let inputs = guarded(&[parameters, gradients, momentum, multipliers]);
                graph.add("optimizer/sgd", Sgd { nesterov }, &inputs)?
            }
            Rule::AdamW { beta2, epsilon, .. } => {
                let (m, v) = (flat(graph, Region::Slots(0)), flat(graph, Region::Slots(1)));
                let op = AdamW { beta2, epsilon };
                graph.add("optimizer/adamw", op, &guarded(&[parameters, gradients, m, v, multipliers]))?
            }
        };
        if let (Some(region), Some(averaging)) = (self.average_slot(), self.average) {
            let average = flat(graph, region);
            let decay = match averaging {
                Averaging::Polyak => None,
                Averaging::Exponential(decay) => Some(decay),
            };
            graph.add("optimizer/average", Average { decay }, &guarded(&[average, updated]))?;
            // What the averaged parameters make of an image has other statistics than what the
            // latest ones make of it. Those of a step whose gradients overflow are as good as any,
            // so there is no guard.
            if layout.state.iter().any(|entry| !is_loss_scale(&entry.name)) {
                let [average, state] = [Region::AveragedState, Region::State]
                    .map(|region| stretch(graph, region, layout.state_length()));
                graph.add("optimizer/average_statistics", Average { decay }, &[average, state])?;
            }
        }
        Ok(update)
    }
}
