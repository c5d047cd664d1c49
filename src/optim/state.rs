//! All that changes in training, as one value on the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tensor::HostTensor;

/// How far training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Micro-batches done.
    pub step: u64,
    /// Optimizer updates done.
    pub update: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Batches done in the epoch that is not done.
    pub batch: u64,
    /// The run's seed.
    pub seed: u64,
    /// Micro-batches whose gradients no update has used yet.
    #[serde(default)]
    pub waiting: u32,
    /// Images of these micro-batches; with class weights, the sum of the weights of their labels.
    #[serde(default)]
    pub waiting_weight: f32,
}

/// All that changes in training: together with the configuration, what a run can be continued from
/// on any device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// Trained parameters by name.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Running statistics by name, and the loss scale of mixed precision.
    pub state: BTreeMap<String, HostTensor>,
    /// The optimizer's vectors, by parameter.
    pub slots: Vec<BTreeMap<String, HostTensor>>,
    /// Averaged parameters, by parameter, and with them the averaged running statistics, where
    /// there are any.
    pub average: Option<BTreeMap<String, HostTensor>>,
    /// How far training is.
    pub progress: Progress,
}

impl TrainingState {
    /// The name of a tensor that has NaN or infinite values, if one does: parameters, running
    /// statistics, optimizer vectors and averages.
    #[must_use]
    pub fn non_finite(&self) -> Option<String> {
        // Exponents that are all ones, many at a time.
        const EXPONENT: u32 = 0x7f80_0000;
        let largest = |part: &[f32]| part.iter().fold(0, |most: u32, v| most.max(v.to_bits() & EXPONENT));
        let spoiled = |tensor: &HostTensor| tensor.data.chunks(4096).any(|part| largest(part) == EXPONENT);
        let find = |tensors: &BTreeMap<String, HostTensor>| {
            tensors.iter().find(|(_, tensor)| spoiled(tensor)).map(|(name, _)| name.clone())
        };
        let slot = |(i, slot)| find(slot).map(|name| format!("optimizer.{i}.{name}"));
        find(&self.parameters)
            .or_else(|| find(&self.state))
            .or_else(|| self.slots.iter().enumerate().find_map(slot))
            .or_else(|| find(self.average.as_ref()?).map(|name| format!("average.{name}")))
    }

    /// The state whose parameters and running statistics are the averaged ones, where training
    /// averaged them: what to classify with.
    #[must_use]
    pub fn averaged(mut self) -> Self {
        for (name, tensor) in self.average.take().into_iter().flatten() {
            let statistic = self.state.contains_key(&name);
            if statistic { &mut self.state } else { &mut self.parameters }.insert(name, tensor);
        }
        self
    }
}
