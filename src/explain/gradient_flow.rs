//! Gradient flow: the gradient of each loss and of their weighted sum at each layer. The same
//! forward pass is differentiated from the main loss, from each auxiliary loss and from their
//! weighted sum, in one plan each over shared parameters and with the same dropout masks.
//! Differentiation is linear, so the weighted gradients of the parts add up to that of the sum.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::data::Batch;
use crate::device::{Device, Regions, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Region, Role, TensorId};
use crate::kernel::Step;
use crate::model::{GoogLeNet, Network, Output, part_of};
use crate::optim::TrainingState;
use crate::plan::{Layout, Plan, PlanOptions};
use crate::train::{initialize, upload};

/// One loss as a source of gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LossFlow {
    /// `main`, `aux1` or `aux2`.
    pub name: &'static str,
    /// Its weight in the sum.
    pub weight: f32,
    /// Mean cross-entropy of the batch.
    pub loss: f32,
    /// Norm of its gradient with respect to all parameters, without the weight.
    pub norm: f64,
}

/// The contribution of one loss to a layer's gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LossShare {
    /// Norm of the loss's gradient, without the weight.
    pub norm: f64,
    /// Norm of the gradient times the weight.
    pub weighted: f64,
    /// Share of the summed gradient: the projection of this loss's weighted gradient on the sum,
    /// divided by the norm of the sum. The shares of all losses add up to 1; the share of a loss
    /// that opposes the others is negative.
    pub share: f64,
}

/// The gradients at one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerFlow {
    /// The layer.
    pub layer: String,
    /// The part of the network; see [`part_of`].
    pub part: &'static str,
    /// Depth: layers with weights on the longest path from the images to it, itself included; 22
    /// for the main classifier.
    pub depth: usize,
    /// Number of its parameters.
    pub parameters: usize,
    /// Norm of its parameters.
    pub weight_norm: f64,
    /// Norm of the gradient of the weighted sum of the losses.
    pub sum: f64,
    /// The contribution of each loss, in the order of [`GradientFlow::losses`].
    pub losses: Vec<LossShare>,
}

/// The gradients at one part of the network, over all its layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartFlow {
    /// The part; see [`part_of`].
    pub part: &'static str,
    /// The depth of its last layer.
    pub depth: usize,
    /// Number of its parameters.
    pub parameters: usize,
    /// Norm of the gradient of the weighted sum of the losses.
    pub sum: f64,
    /// The contribution of each loss.
    pub losses: Vec<LossShare>,
}

/// The gradients of one batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientFlow {
    /// The losses, the main one first.
    pub losses: Vec<LossFlow>,
    /// Every layer with parameters, in the order of the network.
    pub layers: Vec<LayerFlow>,
    /// The parts of the network, in its order.
    pub parts: Vec<PartFlow>,
}

/// The gradients of one loss with respect to every parameter, in the order of the layout.
type Read = Vec<Vec<f32>>;

impl GradientFlow {
    /// Measures a batch in training mode, dropout included, with the parameters of `weights`, or
    /// those initialized from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Layer`] for a network that cannot be built, [`Error::Tensor`]
    /// naming a weight that is missing or has the wrong shape or if the batch has the wrong size,
    /// and errors of the device.
    pub async fn measure(
        device: impl Into<Device>,
        network: &GoogLeNet,
        weights: Option<&TrainingState>,
        seed: u64,
        batch: &Batch,
    ) -> Result<Self> {
        let device = &device.into();
        // The batch has plain images: a network that was trained with mixup or cutmix would need
        // second labels too.
        let net = GoogLeNet { mixed_labels: false, ..network.clone() }.build(batch.labels.len())?;
        let mut regions: Option<Regions> = None;
        let mut read = Vec::new();
        let mut values = Vec::new();
        let sources = net.heads.iter().map(|h| Output::HeadLoss(h.name)).chain([Output::Loss]);
        for loss in sources {
            let mut source = Source::new(device, &net, loss, regions.clone()).await?;
            if regions.is_none() {
                let made = source.session.regions();
                match weights {
                    Some(weights) => {
                        upload(device, made, Region::Parameters, &weights.parameters)?;
                        if !made.layout().state.is_empty() {
                            upload(device, made, Region::State, &weights.state)?;
                        }
                    }
                    None => initialize(device, made, seed, &[Region::Parameters])?,
                }
            }
            let (loss, gradients) = source.run(device, seed, batch).await?;
            values.push(loss);
            read.push(gradients);
            regions.get_or_insert_with(|| source.session.regions().clone());
        }
        let regions = regions.ok_or_else(|| Error::tensor("loss", "the graph has no such output"))?;
        let parameters = regions.get(device, Region::Parameters).await?;
        let parameters: Vec<(&str, f64, usize)> = parameters
            .iter()
            .map(|(entry, values)| (entry.name.as_str(), dot(values, values), values.len()))
            .collect();
        let sum = read.pop().unwrap_or_default();
        Ok(Self::of(&net, &parameters, &values, &read, &sum))
    }

    /// Sums by layer and by part.
    fn of(
        net: &Network,
        parameters: &[(&str, f64, usize)],
        values: &[f32],
        read: &[Read],
        sum: &Read,
    ) -> Self {
        let depths = depths(&net.graph);
        let mut layers: Vec<Sums> = Vec::new();
        for (i, (name, square, count)) in parameters.iter().enumerate() {
            let one = Sums {
                layer: layer_of(name).to_string(),
                part: part_of(name),
                depth: depths.get(*name).copied().unwrap_or(0),
                parameters: *count,
                weights: *square,
                sum: dot(&sum[i], &sum[i]),
                losses: read.iter().map(|g| [dot(&g[i], &g[i]), dot(&g[i], &sum[i])]).collect(),
            };
            match layers.iter_mut().find(|l| l.layer == one.layer) {
                Some(layer) => layer.add(&one),
                None => layers.push(one),
            }
        }
        let mut parts: Vec<Sums> = Vec::new();
        for layer in &layers {
            match parts.iter_mut().find(|p| p.part == layer.part) {
                Some(part) => part.add(layer),
                None => parts.push(layer.clone()),
            }
        }
        let weights: Vec<f32> = net.heads.iter().map(|h| h.weight).collect();
        let losses = net.heads.iter().enumerate().map(|(i, head)| LossFlow {
            name: head.name,
            weight: head.weight,
            loss: values[i],
            norm: layers.iter().map(|l| l.losses[i][0]).sum::<f64>().sqrt(),
        });
        Self {
            losses: losses.collect(),
            layers: layers.iter().map(|l| l.layer(&weights)).collect(),
            parts: parts.iter().map(|p| p.part(&weights)).collect(),
        }
    }

    /// The part of the network with this name.
    pub fn part(&self, name: &str) -> Option<&PartFlow> {
        self.parts.iter().find(|p| p.part == name)
    }
}

/// Sums of squares and products over a layer or part.
#[derive(Clone, Debug)]
struct Sums {
    layer: String,
    part: &'static str,
    depth: usize,
    parameters: usize,
    weights: f64,
    sum: f64,
    /// For each loss: the squared norm of its gradient, and the dot product with the gradient of
    /// the sum.
    losses: Vec<[f64; 2]>,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.depth = self.depth.max(other.depth);
        self.parameters += other.parameters;
        self.weights += other.weights;
        self.sum += other.sum;
        for (mine, theirs) in self.losses.iter_mut().zip(&other.losses) {
            mine[0] += theirs[0];
            mine[1] += theirs[1];
        }
    }

    fn shares(&self, weights: &[f32]) -> Vec<LossShare> {
        let share = |([square, product], weight): (&[f64; 2], &f32)| LossShare {
            norm: square.sqrt(),
            weighted: square.sqrt() * f64::from(*weight),
            share: if self.sum > 0.0 { f64::from(*weight) * product / self.sum } else { 0.0 },
        };
        self.losses.iter().zip(weights).map(share).collect()
    }

    fn layer(&self, weights: &[f32]) -> LayerFlow {
        LayerFlow {
            layer: self.layer.clone(),
            part: self.part,
            depth: self.depth,
            parameters: self.parameters,
            weight_norm: self.weights.sqrt(),
            sum: self.sum.sqrt(),
            losses: self.shares(weights),
        }
    }

    fn part(&self, weights: &[f32]) -> PartFlow {
        PartFlow {
            part: self.part,
            depth: self.depth,
            parameters: self.parameters,
            sum: self.sum.sqrt(),
            losses: self.shares(weights),
        }
    }
}

/// Runs the step's graph, differentiated from one loss, on a device.
struct Source {
    session: Session,
    input: TensorId,
    labels: TensorId,
}

impl Source {
    async fn new(device: &Device, net: &Network, loss: Output, regions: Option<Regions>) -> Result<Self> {
        let mut graph = net.graph.clone();
        graph.keep_outputs(&[loss])?;
        graph = graph.fuse()?;
        let loss = graph.output(loss)?;
        graph.differentiate(loss)?;
        let (input, labels) = (graph.find(Network::INPUT)?, graph.find(Network::LABELS)?);
        let layout = regions.as_ref().map(|r| Arc::clone(r.layout()));
        let options = PlanOptions {
            profile: device.profile(),
            outputs: &[],
            metrics: &[loss],
            layout: Some(layout.unwrap_or_else(|| Arc::new(Layout::of(&graph)))),
            choices: Some(&device.choices()),
        };
        let plan = Plan::new(&graph, &options)?;
        let (input, labels) = (plan.tensor(input)?, plan.tensor(labels)?);
        let session = Session::new(device, Arc::new(plan), regions, |_, _| ()).await?;
        Ok(Self { session, input, labels })
    }

    /// The loss, and the gradient of every parameter in the order of the layout.
    async fn run(&mut self, device: &Device, seed: u64, batch: &Batch) -> Result<(f32, Read)> {
        let session = &mut self.session;
        session.write(self.input, &batch.images)?;
        session.write_labels(self.labels, &batch.labels)?;
        let step = Step { seed: seed as u32, seed_high: (seed >> 32) as u32, ..Step::default() };
        session.submit(&step)?;
        let scalars = session.settle(0).await?;
        let loss = scalars.first().and_then(|m| m.values.first()).copied().unwrap_or(f32::NAN);
        let gradients = session.regions().get(device, Region::Gradients).await?;
        Ok((loss, gradients.into_iter().map(|(_, values)| values).collect()))
    }
}

/// Layers with weights on the longest path from the images to each parameter's layer, that layer
/// included.
fn depths(graph: &Graph) -> HashMap<&str, usize> {
    let mut of_tensor: HashMap<TensorId, usize> = HashMap::new();
    let mut of_parameter = HashMap::new();
    for (_, node) in graph.nodes() {
        let below = node.inputs.iter().filter_map(|t| of_tensor.get(t)).max().copied().unwrap_or(0);
        let parameters = node.inputs.iter().map(|t| graph.tensor(*t));
        let parameters: Vec<_> = parameters.filter(|t| matches!(t.role, Role::Parameter(_))).collect();
        // Biases and batch norm belong to the convolution before them.
        let own = usize::from(parameters.iter().any(|t| t.spec.dims().len() > 1));
        of_parameter.extend(parameters.iter().map(|t| (t.name.as_str(), below + own)));
        of_tensor.extend(node.outputs.iter().map(|t| (*t, below + own)));
    }
    of_parameter
}

/// The layer that a parameter belongs to; batch norm belongs to its convolution.
fn layer_of(parameter: &str) -> &str {
    let suffixes = [".conv.weight", ".bn.weight", ".bn.bias", ".weight", ".bias"];
    suffixes.iter().find_map(|suffix| parameter.strip_suffix(suffix)).unwrap_or(parameter)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_of_the_main_classifier_is_22() {
        for (network, classifier, aux) in [
            (GoogLeNet::paper(), "loss3/classifier.weight", "loss1/classifier.bias"),
            (GoogLeNet::torchvision(), "fc.weight", "aux1.fc2.bias"),
        ] {
            let net = network.width(0.1).build(1).expect("builds");
            let depths = depths(&net.graph);
            assert_eq!((depths[classifier], depths[aux]), (22, 12));
        }
    }

    #[test]
    fn batch_norm_belongs_to_its_convolution() {
        assert_eq!(layer_of("inception4e.branch2.1.bn.bias"), "inception4e.branch2.1");
        assert_eq!(layer_of("inception_4a/1x1.weight"), "inception_4a/1x1");
    }
}
