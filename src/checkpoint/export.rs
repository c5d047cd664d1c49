//! Export of checkpoints.

use super::card::{for_programs, in_words};
use super::{KEY, ModelCheckpoint, ModelMetadata};
use crate::error::{Error, Result};
use crate::formats::{ExportOptions, write_onnx};
use crate::graph::TensorId;
use crate::model::{Model, Network, Output};
use crate::optim::{Progress, TrainingState, is_loss_scale};
use crate::text::plural;

/// Options of the ONNX export: `OnnxOptions::default().aux(true)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OnnxOptions {
    /// Whether to export the auxiliary heads too.
    pub aux: bool,
    /// Whether to fuse batch norms into the preceding convolutions.
    pub fold_batch_norm: bool,
}

impl OnnxOptions {
    /// Whether to export the auxiliary heads too.
    #[must_use]
    pub fn aux(self, aux: bool) -> Self {
        Self { aux, ..self }
    }

    /// Whether to fuse batch norms into the preceding convolutions.
    #[must_use]
    pub fn fold_batch_norm(self, fold_batch_norm: bool) -> Self {
        Self { fold_batch_norm, ..self }
    }
}

impl<M: Model> ModelCheckpoint<M> {
    /// The names of the outputs of [`ModelCheckpoint::to_onnx`]: `logits`, and with auxiliary heads
    /// one per head, such as `aux1_logits`.
    ///
    /// # Errors
    /// Errors of [`Model::build`].
    pub fn onnx_outputs(&self, options: OnnxOptions) -> Result<Vec<String>> {
        Ok(onnx_heads(&self.metadata.network.build(1)?, options).into_iter().map(|(_, name)| name).collect())
    }

    /// The network in evaluation mode as an ONNX model: input `data`, batch x 3 x input x input
    /// with an open batch; with the averaged parameters if there are any. The metadata is in the
    /// model under `incept`, so that it can be imported unchanged; its description and further
    /// entries document the preprocessing. The output is deterministic.
    ///
    /// # Errors
    /// [`Error::Config`] for heads that the network does not have, [`Error::Tensor`] naming a
    /// weight that is missing or has the wrong shape.
    pub fn to_onnx(&self, options: OnnxOptions) -> Result<Vec<u8>> {
        let net = self.metadata.network.build(1)?;
        if options.aux && net.heads.len() == 1 {
            return Err(Error::Config(
                "this network has no auxiliary heads: export it without `OnnxOptions::aux`".into(),
            ));
        }
        let Self { state, metadata } = self.without_training();
        let heads = onnx_heads(&net, options);
        let kept: Vec<Output> = heads.iter().map(|(head, _)| Output::Logits(head)).collect();
        let graph = net.graph.evaluation()?.prune(&kept)?;
        let outputs =
            heads.iter().map(|(head, name)| Ok((graph.output(Output::Logits(head))?, name.as_str())));
        let outputs: Vec<(TensorId, &str)> = outputs.collect::<Result<_>>()?;
        let description = format!(
            "{}, {}. Preprocessing of `data`: {}.",
            metadata.network.title(),
            plural(metadata.network.class_count(), "class"),
            in_words(&metadata.preprocessing)
        );
        let json = serde_json::to_string(&metadata).map_err(Error::unwritable)?;
        let words = for_programs(self);
        let metadata = words.into_iter().chain([(KEY.to_string(), json)]).collect();
        let options = ExportOptions { description, metadata, fold_batch_norm: options.fold_batch_norm };
        write_onnx(&graph, &outputs, &state, &options)
    }

    /// The network for inference, with its averaged parameters if there are any: without optimizer
    /// state and without the training command.
    #[must_use]
    pub fn without_training(&self) -> Self {
        let state = self.state.clone().averaged();
        let statistics = state.state.into_iter().filter(|(name, _)| !is_loss_scale(name));
        let progress = Progress { step: self.state.progress.step, ..Progress::default() };
        let state = TrainingState {
            parameters: state.parameters,
            state: statistics.collect(),
            progress: progress.clone(),
            ..TrainingState::default()
        };
        // Commands may contain private paths.
        let (run, command_line) = (serde_json::Value::Null, Vec::new());
        Self { state, metadata: ModelMetadata { progress, run, command_line, ..self.metadata.clone() } }
    }
}

/// The exported heads and the names of their outputs.
fn onnx_heads(network: &Network, options: OnnxOptions) -> Vec<(&'static str, String)> {
    let count = if options.aux { network.heads.len() } else { 1 };
    let name = |head: &'static str| {
        if head == Network::MAIN { "logits".into() } else { format!("{head}_logits") }
    };
    network.heads.iter().take(count).map(|head| (head.name, name(head.name))).collect()
}
