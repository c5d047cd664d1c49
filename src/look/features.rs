//! The activations of a layer.

use std::sync::Arc;

use crate::device::{Device, Session};
use crate::error::{Error, Result};
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
    /// Number of channels.
    pub channels: usize,
    /// Height of each map.
    pub height: usize,
    /// Width of each map.
    pub width: usize,
    /// Values, channels x height x width.
    pub values: Vec<f32>,
}

/// A network in evaluation mode up to a layer.
#[derive(Debug)]
pub struct Features {
    device: Device,
    session: Session,
    input: TensorId,
    output: TensorId,
    extents: [usize; 3],
}

/// The layers with feature maps, in the order of the network: convolutions (after their ReLU),
/// poolings, and the outputs of Inception blocks.
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::Config`] for a network that cannot be built.
pub fn layers_with_maps(network: &impl Model) -> Result<Vec<String>> {
    let evaluation = network.build(1)?.graph.evaluation()?;
    let names = maps(&evaluation).map(|(name, _)| name.to_string());
    Ok(names.collect())
}

/// The tensors of the maps by layer name.
fn maps(graph: &Graph) -> impl Iterator<Item = (&str, TensorId)> {
    let spatial = |t: &TensorId| graph.tensor(*t).spec.dims().len() == 4;
    let made =
        graph.nodes().filter_map(move |(_, n)| n.outputs.first().copied().filter(spatial).map(|t| (n, t)));
    // Convolution and batch norm are represented by the ReLU after them, under the layer's name.
    made.filter(|(n, _)| !n.op.is::<Conv>() && !n.op.is::<BatchNorm>())
        .map(|(n, t)| (n.name.strip_suffix("/relu").unwrap_or(&n.name), t))
}

impl Features {
    /// The network with these weights on a device, up to the layer of this name, with a batch size
    /// of 1.
    ///
    /// # Errors
    /// [`Error::Unknown`] with known names if there is no such layer, [`Error::Tensor`] naming a
    /// weight that is missing or has the wrong shape, and errors of the device.
    pub async fn new(
        device: impl Into<Device>,
        network: &impl Model,
        layer: &str,
        weights: &TrainingState,
    ) -> Result<Self> {
        let device = &device.into();
        let mut evaluation = network.build(1)?.graph.evaluation()?;
        let output = maps(&evaluation).find(|(name, _)| *name == layer).map(|(_, t)| t);
        let output = output.ok_or_else(|| {
            // For unknown names, suggest the last layer of each part of the network.
            let known = BLOCKS.iter().any(|(block, _)| *block == part_of(layer));
            let mut names: Vec<&str> = maps(&evaluation).map(|(name, _)| name).collect();
            if known {
                names.retain(|name| part_of(name) == part_of(layer));
            } else {
                names.reverse();
                names.dedup_by_key(|name| part_of(name));
                names.reverse();
            }
            let known = format!("layers with feature maps are {}, and others", names.join(", "));
            Error::Unknown { what: "layer", name: layer.into(), known }
        })?;
        evaluation.set_output(layer, output);
        let graph = evaluation.prune(&[layer])?;
        let (input, output) = (graph.find(Network::INPUT)?, graph.output(layer)?);
        let [_, extents @ ..] =
            graph.tensor(output).spec.shape.nchw().map_err(|reason| Error::tensor(layer, reason))?;
        let options = PlanOptions {
            profile: device.profile(),
            outputs: &[output],
            metrics: &[],
            layout: None,
            choices: Some(&device.choices()),
        };
        let plan = Plan::new(&graph, &options)?;
        let (input, output) = (plan.tensor(input)?, plan.tensor(output)?);
        let session = Session::new(device, Arc::new(plan), None, |_, _| ()).await?;
        upload(device, session.regions(), Region::Parameters, &weights.parameters)?;
        if !session.regions().layout().state.is_empty() {
            upload(device, session.regions(), Region::State, &weights.state)?;
        }
        Ok(Self { device: device.clone(), session, input, output, extents })
    }

    /// The maps of a preprocessed image.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the image has the wrong size, and errors of the device.
    pub async fn maps(&mut self, image: &[f32]) -> Result<FeatureMaps> {
        self.session.write(self.input, image)?;
        self.session.submit(&Step::default())?;
        let values = self.session.read(self.output).await?;
        self.device.check("reading feature maps")?;
        let [channels, height, width] = self.extents;
        Ok(FeatureMaps { channels, height, width, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GoogLeNet;

    #[test]
    fn maps_have_layer_names() {
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
