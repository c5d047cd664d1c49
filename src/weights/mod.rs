//! Weights on the host: the training state as one value, checkpoints as safetensors files, and the formats of others: torch, Caffe, ONNX.

mod caffe;
mod card;
mod checkpoint;
mod element;
mod export;
mod file;
mod foreign;
mod import;
mod included;
mod onnx;
mod pickle;
mod shards;
mod torch;

pub use caffe::CaffeLayer;
pub use checkpoint::{Checkpoint, Metadata};
pub use element::Stored;
pub use export::OnnxOptions;
pub use file::{read_tensors, write_atomically};
pub use foreign::{Content, FileTensor, Foreign, Format};
pub use import::{ImportOptions, Pixels};
pub use included::INCLUDED;
pub use onnx::{ExportOptions, OnnxAttribute, OnnxExport, OnnxGraph, OnnxNode, write as write_onnx};
pub(crate) use onnx::{int, ints};
pub(crate) use shards::part_of;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A dense tensor of f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensor {
    /// The extents, outermost first.
    pub dims: Vec<usize>,
    /// The elements, last dimension fastest.
    pub data: Vec<f32>,
}

/// How far training is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// All that changes in training: together with the configuration, what a run can be continued from on any device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// Trained parameters by name.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Running statistics by name, and the loss scale of mixed precision.
    pub state: BTreeMap<String, HostTensor>,
    /// The optimizer's vectors, by parameter.
    pub slots: Vec<BTreeMap<String, HostTensor>>,
    /// Averaged parameters, by parameter, and with them the averaged running statistics, where there are any.
    pub average: Option<BTreeMap<String, HostTensor>>,
    /// How far training is.
    pub progress: Progress,
}

impl TrainingState {
    /// The state whose parameters and running statistics are the averaged ones, where training averaged them: what to classify with.
    #[must_use]
    pub fn averaged(mut self) -> Self {
        for (name, tensor) in self.average.take().into_iter().flatten() {
            let statistic = self.state.contains_key(&name);
            if statistic { &mut self.state } else { &mut self.parameters }.insert(name, tensor);
        }
        self
    }
}
