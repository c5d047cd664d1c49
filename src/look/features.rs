//! The activations of a layer.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Session};
use crate::graph::{Graph, Region, TensorId};
use crate::kernel::Step;
use crate::model::{BLOCKS, Model, Network, part_of};
use crate::ops::{BatchNorm, Conv};
use crate::optim::TrainingState;
use crate::plan::{Plan, PlanOptions};
use crate::train::upload;

/// The channels of a layer for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMaps {
    /// Channels.
    pub channels: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// channels x height x width.
    pub values: Vec<f32>,
}

/// A network in evaluation mode up to a layer.
#[derive(Debug)]
pub struct Features {
    gpu: Gpu,
    session: Session,
    input: TensorId,
    output: TensorId,
    extents: [usize; 3],
}

/// The layers that have maps, in the order of the network: convolutions, which are seen after their
/// ReLU, poolings, and the outputs of Inception blocks.
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::Config`] for a network that cannot be built.
pub fn layers_with_maps(network: &impl Model) -> Result<Vec<String>> {
    let evaluation = network.build(1)?.graph.evaluation()?;
    let names = maps(&evaluation).map(|(name, _)| name.to_string());
    Ok(names.collect())
}

/// The tensors that are maps, each by its layer's name.
fn maps(graph: &Graph) -> impl Iterator<Item = (&str, TensorId)> {
    let spatial = |t: &TensorId| graph.tensor(*t).spec.dims().len() == 4;
    let made =
        graph.nodes().filter_map(move |(_, n)| n.outputs.first().copied().filter(spatial).map(|t| (n, t)));
    // A convolution and its batch norm are seen after the ReLU, under the layer's own name.
    made.filter(|(n, _)| !n.op.is::<Conv>() && !n.op.is::<BatchNorm>())
        .map(|(n, t)| (n.name.strip_suffix("/relu").unwrap_or(&n.name), t))
}

impl Features {
    /// The network with these weights on a device, up to the layer of this name, for one image at a
    /// time.
    ///
    /// # Errors
    /// [`Error::Unknown`] naming layers if there is none of this name, [`Error::Tensor`] naming a
    /// weight that is missing or misshapen, and what the device reports.
    pub async fn new(gpu: &Gpu, network: &impl Model, layer: &str, weights: &TrainingState) -> Result<Self> {
        let mut evaluation = network.build(1)?.graph.evaluation()?;
        let output = maps(&evaluation).find(|(name, _)| *name == layer).map(|(_, t)| t);
        let output = output.ok_or_else(|| {
            // Names of no part of the network are answered with the last layer of each.
            let known = BLOCKS.iter().any(|(block, _)| *block == part_of(layer));
            let mut names: Vec<&str> = maps(&evaluation).map(|(name, _)| name).collect();
            if known {
                names.retain(|name| part_of(name) == part_of(layer));
            } else {
                names.reverse();
                names.dedup_by_key(|name| part_of(name));
                names.reverse();
            }
            let known = format!("there are feature maps of {}, among others", names.join(", "));
            Error::Unknown { what: "layer", name: layer.into(), known }
        })?;
        evaluation.set_output(layer, output);
        let graph = evaluation.prune(&[layer])?;
        let (input, output) = (graph.find(Network::INPUT)?, graph.output(layer)?);
        let [_, extents @ ..] =
            graph.tensor(output).spec.shape.nchw().map_err(|reason| Error::tensor(layer, reason))?;
        let options = PlanOptions {
            profile: gpu.profile(),
            outputs: &[output],
            metrics: &[],
            layout: None,
            choices: Some(&gpu.choices()),
        };
        let plan = Plan::new(&graph, &options)?;
        let (input, output) = (plan.tensor(input)?, plan.tensor(output)?);
        let session = Session::new(gpu, Arc::new(plan), None, |_, _| ()).await?;
        upload(gpu, session.regions(), Region::Parameters, &weights.parameters)?;
        if !session.regions().layout.state.is_empty() {
            upload(gpu, session.regions(), Region::State, &weights.state)?;
        }
        Ok(Self { gpu: gpu.clone(), session, input, output, extents })
    }

    /// The maps of a preprocessed image.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the image has the wrong size, and what the device reports.
    pub async fn maps(&mut self, image: &[f32]) -> Result<FeatureMaps> {
        self.session.write(self.input, image)?;
        self.session.submit(&Step::default())?;
        let values = self.session.read(self.output).await?;
        self.gpu.check("reading feature maps")?;
        let [channels, height, width] = self.extents;
        Ok(FeatureMaps { channels, height, width, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GoogLeNet;

    #[test]
    fn layers_go_by_their_own_names() {
        for (network, first, later) in [
            (GoogLeNet::paper(), "conv1/7x7_s2", "inception_4b/5x5"),
            (GoogLeNet::torchvision(), "conv1", "inception4b.branch3.1"),
        ] {
            let layers = layers_with_maps(&network.width(0.0625).classes(3).input(32)).expect("builds");
            assert_eq!(layers[0], first);
            let has = |name: &str| layers.iter().any(|l| l == name);
            assert!(has(later) && has("inception_5b/output"), "{layers:?}");
            let distinct: std::collections::BTreeSet<&String> = layers.iter().collect();
            assert_eq!(distinct.len(), layers.len());
        }
    }
}
