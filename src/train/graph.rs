//! The graph of a training step: forward, backward and update, with the passes that shape it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, Rewritten, TensorId};
use crate::model::GoogLeNet;
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
    /// Second labels and the share of the first ones, where images are mixed.
    pub mixed: Option<[TensorId; 2]>,
    /// The total loss, then the loss of each head, then its correct count, then the gradients' norm
    /// if they are clipped, then the loss scale and the number of skipped updates if the loss is
    /// scaled.
    pub metrics: Vec<TensorId>,
    /// The logits of each head.
    pub logits: Vec<TensorId>,
    /// The names of the heads.
    pub heads: Vec<&'static str>,
    pub(super) accumulated: Option<TensorId>,
}

impl TrainingGraph {
    /// Builds forward, backward and update for batches of `batch` images.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] or [`Error::Config`] for values that nothing can be trained with,
    /// [`Error::Layer`] for shapes that do not fit.
    pub fn new(network: &GoogLeNet, optimizer: &Optimizer, batch: usize) -> Result<Self> {
        optimizer.validate()?;
        let net = network.build(batch)?.stored_as(optimizer.precision.element())?;
        let mut keep = vec![net.input, net.labels, net.loss];
        keep.extend(net.mixed.iter().flatten());
        keep.extend(net.heads.iter().flat_map(|h| [h.logits, h.loss, h.correct]));
        let mut fused = net.graph.fuse(&keep)?;
        let scale = match &optimizer.precision {
            Precision::F32 => None,
            Precision::F16(scaling) => Some(ScaleState::new(&mut fused.graph, scaling)),
        };
        let lost = |t: TensorId| Error::tensor(&net.graph.tensor_ref(t).name, "was lost by fusion");
        let loss = fused.get(net.loss).ok_or_else(|| lost(net.loss))?;
        let forward = fused.graph.len();
        fused.graph.differentiate_scaled(loss, scale.map(|s| s.scale))?;
        let mut joined = fused.graph.join_masks(&fused.all(&keep))?;
        let kept: Vec<TensorId> = keep.iter().filter_map(|t| joined.get(fused.get(*t)?)).collect();
        if optimizer.checkpointing {
            joined = joined.then(smallest(&joined.graph, forward, &kept)?);
        }
        let at = |t: TensorId| fused.get(t).and_then(|t| joined.get(t)).ok_or_else(|| lost(t));
        let (input, labels, loss) = (at(net.input)?, at(net.labels)?, at(net.loss)?);
        let mixed = match net.mixed {
            Some([second, share]) => Some([at(second)?, at(share)?]),
            None => None,
        };
        let mut metrics = vec![loss];
        for head in &net.heads {
            metrics.push(at(head.loss)?);
        }
        for head in &net.heads {
            metrics.push(at(head.correct)?);
        }
        let logits = net.heads.iter().map(|h| at(h.logits)).collect::<Result<_>>()?;
        let scale = scale.map(|scale| scale.moved(&joined)).transpose()?;
        let mut graph = joined.graph;
        let layout = Arc::new(Layout::of(&graph));
        let update = optimizer.append(&mut graph, &layout, scale)?;
        metrics.extend(update.norm);
        metrics.extend(update.scaling.iter().flatten());
        let heads = net.heads.iter().map(|h| h.name).collect();
        let accumulated = update.accumulated;
        Ok(Self { graph, layout, input, labels, mixed, metrics, logits, heads, accumulated })
    }

    /// Plans it as a trainer on this device does.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch does not fit the device, [`Error::NoF16`] if the device
    /// cannot store activations so.
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        gpu.require_all(&self.graph)?;
        let options = PlanOptions {
            profile: gpu.profile(),
            outputs: &self.logits,
            metrics: &self.metrics,
            layout: None,
            choices: Some(&gpu.choices()),
        };
        Plan::new(&self.graph, &options)
    }
}

/// The graph recomputed in as many segments as take the least memory; as it is if that is least.
fn smallest(graph: &Graph, forward: usize, keep: &[TensorId]) -> Result<Rewritten> {
    /// More would make most of the network's values values across cuts.
    const MOST: usize = 16;
    let candidates = (1..=MOST).map(|segments| {
        let candidate = graph.recompute(forward, segments, keep)?;
        let outputs = candidate.all(keep);
        Ok((value_bytes(&candidate.graph, &outputs)?, candidate))
    });
    let candidates = candidates.collect::<Result<Vec<_>>>()?;
    let best = candidates.into_iter().min_by_key(|(bytes, _)| *bytes);
    best.map(|(_, graph)| graph).ok_or_else(|| Error::internal("there is nothing to recompute"))
}
