//! The complete training state on the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tensor::HostTensor;

/// Training progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Micro-batches done.
    pub step: u64,
    /// Optimizer updates done.
    pub update: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Batches done in the current epoch.
    pub batch: u64,
    /// The run's seed.
    pub seed: u64,
    /// Micro-batches accumulated since the last update.
    #[serde(default)]
    pub waiting: u32,
    /// Images in these micro-batches, or with class weights the sum of their labels' weights.
    #[serde(default)]
    pub waiting_weight: f32,
}

/// Everything that changes in training. With the configuration, a run can resume from it on any
/// device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// Parameters by name.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Running statistics and the loss scale, by name.
    pub state: BTreeMap<String, HostTensor>,
    /// Optimizer vectors, each by parameter name.
    pub slots: Vec<BTreeMap<String, HostTensor>>,
    /// Averaged parameters and running statistics by name; `None` without averaging.
    pub average: Option<BTreeMap<String, HostTensor>>,
    /// Training progress.
    pub progress: Progress,
}

impl TrainingState {
    /// The name of a tensor with NaN or infinite values among parameters, running statistics,
    /// optimizer vectors and averages; `None` if all are finite.
    #[must_use]
    pub fn non_finite(&self) -> Option<String> {
        // Tests the exponent bits of many elements at a time, so that it vectorizes.
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

    /// The state for inference: parameters and running statistics replaced by their averages, where
    /// available.
    #[must_use]
    pub fn averaged(mut self) -> Self {
        for (name, tensor) in self.average.take().into_iter().flatten() {
            let statistic = self.state.contains_key(&name);
            if statistic { &mut self.state } else { &mut self.parameters }.insert(name, tensor);
        }
        self
    }
}
