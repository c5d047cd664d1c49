//! From a checkpoint to files for others.

use super::card::{for_programs, in_words};
use super::{Checkpoint, KEY, Metadata};
use crate::error::{Error, Result};
use crate::formats::{ExportOptions, write_onnx};
use crate::graph::TensorId;
use crate::model::Output;
use crate::optim::{Progress, TrainingState};

/// What an ONNX model of a checkpoint has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// The auxiliary heads too.
    pub aux: bool,
    /// Batch norms as parts of the convolutions before them.
    pub fold_batch_norm: bool,
}

impl Checkpoint {
    /// The names of the outputs that [`Checkpoint::to_onnx`] gives the model: `logits`, and with
    /// auxiliary heads `aux1_logits` and `aux2_logits`.
    pub fn onnx_outputs(&self, options: OnnxOptions) -> Vec<&'static str> {
        let heads = if options.aux && self.metadata.network.has_aux() { 3 } else { 1 };
        ["logits", "aux1_logits", "aux2_logits"][..heads].to_vec()
    }

    /// The network in evaluation mode as an ONNX model: input `data`, batch x 3 x input x input
    /// with an open batch; with the averaged parameters if there are any. The metadata is in the
    /// model under `incept`, so it can be imported as it was; its description and further entries
    /// say in words how an image becomes the input. The same checkpoint makes the same bytes.
    ///
    /// # Errors
    /// [`Error::Config`] for heads that the network does not have, [`Error::Tensor`] naming a
    /// weight that is missing or misshapen.
    pub fn to_onnx(&self, options: OnnxOptions) -> Result<Vec<u8>> {
        let network = &self.metadata.network;
        if options.aux && !network.has_aux() {
            return Err(Error::Config(
                "this network has no auxiliary softmaxes: export it without `OnnxOptions::aux`".into(),
            ));
        }
        let Self { state, metadata } = self.without_training();
        let net = network.build(1)?;
        let names = self.onnx_outputs(options);
        let heads: Vec<Output> =
            net.heads.iter().take(names.len()).map(|head| Output::Logits(head.name)).collect();
        let graph = net.graph.evaluation()?.prune(&heads)?;
        let outputs = heads.iter().zip(names).map(|(head, name)| Ok((graph.output(head)?, name)));
        let outputs: Vec<(TensorId, &str)> = outputs.collect::<Result<_>>()?;
        let description = format!(
            "GoogLeNet ({}), {} classes. From an image to `data`: {}.",
            network.variant,
            network.classes,
            in_words(&metadata.preprocessing)
        );
        let json = serde_json::to_string(&metadata).map_err(Error::unwritable)?;
        let words = for_programs(self);
        let metadata = words.into_iter().chain([(KEY.to_string(), json)]).collect();
        let options = ExportOptions { description, metadata, fold_batch_norm: options.fold_batch_norm };
        write_onnx(&graph, &outputs, &state, &options)
    }

    /// The network alone, with its averaged parameters if there are any: without what only further
    /// training needs, and without the command that made it.
    #[must_use]
    pub fn without_training(&self) -> Self {
        let state = self.state.clone().averaged();
        let statistics =
            state.state.into_iter().filter(|(name, _)| !name.starts_with(crate::optim::LOSS_SCALE));
        let progress = Progress { step: self.state.progress.step, ..Progress::default() };
        let state = TrainingState {
            parameters: state.parameters,
            state: statistics.collect(),
            progress: progress.clone(),
            ..TrainingState::default()
        };
        // Commands name folders of whoever trained it.
        let (run, command_line) = (serde_json::Value::Null, Vec::new());
        Self { state, metadata: Metadata { progress, run, command_line, ..self.metadata.clone() } }
    }
}
