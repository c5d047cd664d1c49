//! The graph of a training step: forward, backward and update, after all graph passes.

use std::sync::Arc;

use super::metrics::{self, HeadPlaces, Metric, Places};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::model::{Model, Network, Output};
use crate::optim::{Optimizer, Precision, ScaleState};
use crate::plan::{Layout, Plan, PlanOptions, value_bytes};

/// The graph of a training step, before it is planned for a device.
#[derive(Debug)]
pub struct TrainingGraph {
    /// Forward, backward and update.
    pub graph: Graph,
    /// The layout of parameters and state.
    pub layout: Arc<Layout>,
    /// The images, batch x 3 x input x input.
    pub input: TensorId,
    /// The labels, batch.
    pub labels: TensorId,
    /// Second labels and shares of the first ones, for mixup and cutmix.
    pub mixed: Option<[TensorId; 2]>,
    /// The tensors read back per step: total loss; loss and correct count of each head; with
    /// clipping the gradients' norm; with loss scaling the loss scale and the number of skipped
    /// updates.
    pub metrics: Vec<TensorId>,
    /// The logits of each head.
    pub logits: Vec<TensorId>,
    /// The names of the heads.
    pub heads: Vec<&'static str>,
    pub(super) places: Places,
    pub(super) accumulated: Option<TensorId>,
}

impl TrainingGraph {
    /// Builds forward, backward and update for batches of `batch` images.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for invalid values, [`Error::Layer`] for shapes
    /// that do not fit.
    pub fn new(network: &impl Model, optimizer: &Optimizer, batch: usize) -> Result<Self> {
        optimizer.validate()?;
        let net = network.build(batch)?.stored_as(optimizer.precision.element())?;
        let heads: Vec<&'static str> = net.heads.iter().map(|head| head.name).collect();
        let mut graph = net.graph;
        let of_head = |head| [Output::Logits(head), Output::HeadLoss(head), Output::Correct(head)];
        let read: Vec<Output> =
            [Output::Loss].into_iter().chain(heads.iter().copied().flat_map(of_head)).collect();
        graph.keep_outputs(&read)?;
        graph = graph.fuse()?;
        let scaling = match &optimizer.precision {
            Precision::F32 => None,
            Precision::F16(scaling) => Some(scaling),
        };
        let scale = scaling.map(|scaling| ScaleState::new(&mut graph, scaling).scale);
        let forward = graph.len();
        let loss = graph.output(Output::Loss)?;
        graph.differentiate_scaled(loss, scale)?;
        graph = graph.fuse_masks()?;
        if optimizer.checkpointing {
            graph = smallest(&graph, forward)?;
        }
        let (input, labels) = (graph.find(Network::INPUT)?, graph.find(Network::LABELS)?);
        let mixed = match net.mixed {
            Some(_) => Some([graph.find(Network::MIXED[0])?, graph.find(Network::MIXED[1])?]),
            None => None,
        };
        let mut metrics = Vec::new();
        let loss = metrics::add(&mut metrics, graph.output(Output::Loss)?);
        let losses = heads.iter().map(|head| graph.output(Output::HeadLoss(head)));
        let losses: Vec<Metric> =
            losses.map(|loss| Ok(metrics::add(&mut metrics, loss?))).collect::<Result<_>>()?;
        let mut places = Places { loss, heads: Vec::new(), norm: None, scaling: None };
        for (name, loss) in heads.iter().zip(losses) {
            let correct = metrics::add(&mut metrics, graph.output(Output::Correct(name))?);
            places.heads.push(HeadPlaces { name, loss, correct });
        }
        let logits = heads.iter().map(|head| graph.output(Output::Logits(head))).collect::<Result<_>>()?;
        let scale = scaling.map(|scaling| ScaleState::find(&graph, scaling)).transpose()?;
        let layout = Arc::new(Layout::of(&graph));
        let update = optimizer.append(&mut graph, &layout, scale)?;
        places.norm = update.norm.map(|norm| metrics::add(&mut metrics, norm));
        places.scaling = update.scaling.map(|scaling| scaling.map(|t| metrics::add(&mut metrics, t)));
        let accumulated = update.accumulated;
        Ok(Self { graph, layout, input, labels, mixed, metrics, logits, heads, places, accumulated })
    }

    /// Plans it like a trainer on this device.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch does not fit the device, [`Error::NoF16`] if the device
    /// does not support the element type.
    pub fn plan(&self, device: impl Into<Device>) -> Result<Plan> {
        let device = &device.into();
        device.require_all(&self.graph)?;
        let options = PlanOptions {
            profile: device.profile(),
            outputs: &self.logits,
            metrics: &self.metrics,
            layout: None,
            choices: Some(&device.choices()),
        };
        Plan::new(&self.graph, &options)
    }
}

/// The graph with gradient checkpointing in the number of segments that needs the least memory;
/// unchanged if that needs the least.
fn smallest(graph: &Graph, forward: usize) -> Result<Graph> {
    /// With more segments most values would be read across cuts.
    const MOST: usize = 16;
    let candidates = (1..=MOST).map(|segments| {
        let candidate = graph.recompute(forward, segments)?;
        let outputs: Vec<TensorId> = candidate.outputs().map(|(_, tensor)| tensor).collect();
        Ok((value_bytes(&candidate, &outputs)?, candidate))
    });
    let candidates = candidates.collect::<Result<Vec<_>>>()?;
    let best = candidates.into_iter().min_by_key(|(bytes, _)| *bytes);
    best.map(|(_, graph)| graph).ok_or_else(|| Error::internal("there is nothing to recompute"))
}
