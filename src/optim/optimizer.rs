//! The optimizer as nodes of the training graph, each in place on whole regions of parameters.

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

/// Update rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "rule")]
#[non_exhaustive]
pub enum Rule {
    /// SGD with momentum: v = momentum v + g, w = w - lr v; with `nesterov` w = w - lr (g +
    /// momentum v).
    #[non_exhaustive]
    Sgd {
        /// Nesterov momentum.
        nesterov: bool,
    },
    /// LARS (You et al. 2017), for large batches: SGD on gradients scaled to each tensor's norm,
    /// with the learning rate inside the momentum: v = momentum v + lr g, w = w - v.
    #[non_exhaustive]
    Lars {
        /// Trust coefficient: norm of an update at learning rate 1, relative to the tensor's norm.
        #[serde(alias = "trust")]
        trust_coefficient: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    #[non_exhaustive]
    AdamW {
        /// Decay of the first moment, in [0, 1).
        beta1: f32,
        /// Decay of the second moment, in [0, 1).
        beta2: f32,
        /// Added to the denominator.
        epsilon: f32,
    },
}

impl Rule {
    /// SGD with momentum.
    pub fn sgd() -> Self {
        Self::Sgd { nesterov: false }
    }

    /// SGD with Nesterov momentum.
    pub fn nesterov() -> Self {
        Self::Sgd { nesterov: true }
    }

    /// LARS with this trust coefficient, above 0; 0.001 in its paper.
    pub fn lars(trust_coefficient: f32) -> Self {
        Self::Lars { trust_coefficient }
    }

    /// AdamW with the decays of both moments, in [0, 1), and the number that is added to the
    /// denominator; torch's defaults are `[0.9, 0.999]` and 1e-8.
    pub fn adamw([beta1, beta2]: [f32; 2], epsilon: f32) -> Self {
        Self::AdamW { beta1, beta2, epsilon }
    }
}

/// Optimizer options: `Optimizer::default().weight_decay(1e-4)`. The learning rate is passed with
/// each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Optimizer {
    /// Update rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Momentum of SGD and LARS, in [0, 1).
    pub momentum: f32,
    /// Weight decay of convolution and linear weights.
    pub weight_decay: f32,
    /// Maximum global gradient norm; larger gradients are scaled down to it. Infinity only measures
    /// the norm; `None` does not measure it.
    #[serde(alias = "clip_norm")]
    pub max_grad_norm: Option<f32>,
    /// Averaging of parameters and of batch norm's running statistics; `None` for none.
    pub average: Option<Averaging>,
    /// Gradient accumulation steps.
    pub accumulate: u32,
    /// Recompute most activations in the backward pass to save memory: a third of the memory for
    /// about 20% more arithmetic.
    #[serde(default)]
    pub checkpointing: bool,
    /// Storage of activations and their gradients, with loss scaling for f16.
    #[serde(default)]
    pub precision: Precision,
}

/// Averaging of parameters over updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Averaging {
    /// Uniform mean of all iterates (Polyak), as in the paper's section 6.
    Polyak,
    /// Exponential moving average with this decay, in [0, 1).
    Exponential(f32),
}

/// `polyak`, or the decay of the exponential moving average.
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
    /// As Caffe's `quick_solver`: SGD, momentum 0.9, weight decay 2e-4.
    fn default() -> Self {
        Self {
            rule: Rule::Sgd { nesterov: false },
            momentum: 0.9,
            weight_decay: 2e-4,
            max_grad_norm: None,
            average: None,
            accumulate: 1,
            checkpointing: false,
            precision: Precision::F32,
        }
    }
}

/// Tensors that the optimizer added to the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// Global gradient norm, if it is measured.
    pub norm: Option<TensorId>,
    /// Loss scale and number of skipped updates, with loss scaling.
    pub scaling: Option<[TensorId; 2]>,
    /// The last tensor computed per micro-batch; everything after it runs once per update. `None`
    /// without gradient accumulation.
    pub accumulated: Option<TensorId>,
}

impl Optimizer {
    /// Update rule.
    #[must_use]
    pub fn rule(self, rule: Rule) -> Self {
        Self { rule, ..self }
    }

    /// Momentum of SGD and LARS, in [0, 1).
    #[must_use]
    pub fn momentum(self, momentum: f32) -> Self {
        Self { momentum, ..self }
    }

    /// Weight decay of convolution and linear weights.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f32) -> Self {
        Self { weight_decay, ..self }
    }

    /// Maximum global gradient norm; infinity only measures the norm.
    #[must_use]
    pub fn max_grad_norm(self, max_grad_norm: impl Into<Option<f32>>) -> Self {
        Self { max_grad_norm: max_grad_norm.into(), ..self }
    }

    /// Averaging of parameters and of batch norm's running statistics.
    #[must_use]
    pub fn average(self, average: impl Into<Option<Averaging>>) -> Self {
        Self { average: average.into(), ..self }
    }

    /// Gradient accumulation steps.
    #[must_use]
    pub fn accumulate(self, accumulate: u32) -> Self {
        Self { accumulate, ..self }
    }

    /// Whether to recompute most activations in the backward pass to save memory.
    #[must_use]
    pub fn checkpointing(self, checkpointing: bool) -> Self {
        Self { checkpointing, ..self }
    }

    /// Storage of activations and their gradients.
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Momentum where no schedule changes it; beta1 for AdamW.
    pub(crate) fn base_momentum(&self) -> f32 {
        match self.rule {
            Rule::AdamW { beta1, .. } => beta1,
            Rule::Sgd { .. } | Rule::Lars { .. } => self.momentum,
        }
    }

    /// Number of optimizer vectors of the rule.
    fn rule_slots(&self) -> u8 {
        match self.rule {
            Rule::Sgd { .. } | Rule::Lars { .. } => 1,
            Rule::AdamW { .. } => 2,
        }
    }

    /// The slot of averaged parameters; `None` without averaging.
    pub(crate) fn average_slot(&self) -> Option<Region> {
        self.average.map(|_| Region::Slots(self.rule_slots()))
    }

    /// The slot of accumulated gradients; `None` without accumulation.
    fn sum_slot(&self) -> Option<Region> {
        (self.accumulate > 1).then(|| Region::Slots(self.rule_slots() + u8::from(self.average.is_some())))
    }

    /// The slots saved in a checkpoint as optimizer vectors: those of the rule, and the accumulated
    /// gradients, because a run may stop between two updates.
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
        if let Rule::Lars { trust_coefficient: trust } = self.rule
            && !(trust.is_finite() && trust > 0.0)
        {
            return Err(Error::out_of_range("Rule::Lars::trust_coefficient", "above zero", trust));
        }
        if let Some(Averaging::Exponential(decay)) = self.average {
            unit(decay, "Optimizer::average")?;
        }
        if !self.weight_decay.is_finite() || self.weight_decay < 0.0 {
            return Err(Error::out_of_range("Optimizer::weight_decay", "from 0 up", self.weight_decay));
        }
        if let Some(norm) = self.max_grad_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return Err(Error::out_of_range("Optimizer::max_grad_norm", "above zero", norm));
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
        let tensor = |graph: &mut Graph, region: Region, length: usize| {
            graph.add_tensor(format!("region/{region:?}"), Spec::f32([length]), Role::Flat(region))
        };
        let flat = |graph: &mut Graph, region: Region| tensor(graph, region, length);
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
        if let Some(max_norm) = self.max_grad_norm {
            let inputs = guarded(&[gradients]);
            let clipped = graph.add_node("optimizer/clip_norm", Arc::new(ClipNorm { max_norm }), &inputs)?;
            gradients = clipped[0];
            update.norm = Some(clipped[1]);
        }
        let updated = match self.rule {
            Rule::Lars { trust_coefficient } => {
                let segments = constant(graph, "segments", layout.segments());
                let momentum = flat(graph, Region::Slots(0));
                let inputs = guarded(&[parameters, gradients, momentum, multipliers, segments]);
                graph.add("optimizer/lars", Lars { trust_coefficient }, &inputs)?
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
            // Averaged parameters need averaged running statistics. These are valid even if a
            // step's gradients overflow, so there is no guard.
            if layout.state.iter().any(|entry| !is_loss_scale(&entry.name)) {
                let [average, state] = [Region::AveragedState, Region::State]
                    .map(|region| tensor(graph, region, layout.state_length()));
                graph.add("optimizer/average_statistics", Average { decay }, &[average, state])?;
            }
        }
        Ok(update)
    }
}
