//! Gradient checkpointing: activations that only the backward pass still needs are recomputed there
//! instead of kept (Chen et al., "Training deep nets with sublinear memory cost", 2016).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::passes::Rewriter;
use super::{Alias, Graph, Role, TensorId};
use crate::error::Result;

struct Recompute<'a> {
    graph: &'a Graph,
    /// Values that are not kept for the backward pass.
    dropped: HashSet<TensorId>,
    /// The recomputed tensor of each dropped value.
    recomputed: HashMap<TensorId, TensorId>,
    result: Rewriter<'a>,
}

impl Graph {
    /// Divides the first `forward` nodes, which must not depend on the others, into segments of
    /// about equal bytes, cut where few values are read across. Of each segment except the last,
    /// only the values that later segments read are kept; the backward pass recomputes the others.
    /// Outputs and nodes that update statistics are not recomputed. Results are identical: dropout
    /// masks do not depend on when they are drawn.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn recompute(&self, forward: usize, segments: usize) -> Result<Self> {
        let dropped = self.dropped(forward, segments);
        let mut pass =
            Recompute { graph: self, dropped, recomputed: HashMap::new(), result: Rewriter::new(self) };
        for (id, node) in self.nodes() {
            if id.index() < forward {
                pass.result.copy(node, Arc::clone(&node.op), &node.outputs)?;
            } else {
                let inputs = node.inputs.iter().map(|t| pass.at_hand(*t)).collect::<Result<Vec<_>>>()?;
                pass.result.place(node, Arc::clone(&node.op), &inputs, &node.outputs)?;
            }
        }
        pass.result.finish()
    }

    /// The values of the forward pass that are not kept.
    fn dropped(&self, forward: usize, segments: usize) -> HashSet<TensorId> {
        let cuts = self.cuts(forward, segments);
        let segment = |node: usize| cuts.partition_point(|cut| *cut <= node);
        let mut dropped = HashSet::new();
        for (id, node) in self.nodes().take(forward) {
            let rewrites_state = node.op.aliases(&self.input_specs(node)).iter().any(|alias| {
                matches!(*alias, Alias::InPlace { input, .. }
                    if !matches!(self.tensor(node.inputs[input]).role, Role::Value))
            });
            if segment(id.index()) < cuts.len() && !rewrites_state {
                dropped.extend(&node.outputs);
            }
        }
        for (id, node) in self.nodes().take(forward) {
            for input in &node.inputs {
                let producer = self.tensor(*input).producer;
                if producer.is_some_and(|p| segment(p.index()) != segment(id.index())) {
                    dropped.remove(input);
                }
            }
        }
        for (_, tensor) in self.outputs() {
            dropped.remove(&tensor);
        }
        dropped
    }

    /// The first node of each segment after the first.
    fn cuts(&self, forward: usize, segments: usize) -> Vec<usize> {
        let mut last_read = vec![0; self.tensors.len()];
        for (id, node) in self.nodes().take(forward) {
            for input in &node.inputs {
                last_read[input.0] = id.index();
            }
        }
        let bytes = |t: &TensorId| self.tensor(*t).spec.bytes() as u64;
        let made: Vec<u64> =
            self.nodes().take(forward).map(|(_, n)| n.outputs.iter().map(bytes).sum()).collect();
        // Bytes that are read across a cut before a node.
        let across = |cut: usize| -> u64 {
            let outputs = self.nodes[..cut].iter().flat_map(|n| &n.outputs);
            outputs.filter(|t| last_read[t.0] >= cut).map(bytes).sum()
        };
        let total: u64 = made.iter().sum();
        let mut cuts: Vec<usize> = Vec::new();
        for k in 1..segments as u64 {
            let (low, high) = (total * (2 * k - 1), total * (2 * k + 1));
            let mut so_far = 0;
            let near = made.iter().enumerate().filter_map(|(node, bytes)| {
                let at = 2 * segments as u64 * so_far;
                so_far += bytes;
                (low <= at && at < high).then_some(node)
            });
            let best =
                near.filter(|node| cuts.last().is_none_or(|last| node > last)).min_by_key(|cut| across(*cut));
            cuts.extend(best);
        }
        cuts
    }
}

impl Recompute<'_> {
    /// The tensor that the backward pass reads: itself if it was kept, else its recomputation,
    /// which is added once together with everything it depends on.
    fn at_hand(&mut self, tensor: TensorId) -> Result<TensorId> {
        let graph = self.graph;
        let dropped = graph.tensor(tensor).producer.filter(|_| self.dropped.contains(&tensor));
        let Some(producer) = dropped else { return Ok(self.result.leaf(tensor)) };
        if let Some(recomputed) = self.recomputed.get(&tensor) {
            return Ok(*recomputed);
        }
        let node = graph.node(producer);
        let inputs = node.inputs.iter().map(|t| self.at_hand(*t)).collect::<Result<Vec<_>>>()?;
        let made =
            self.result.graph.add_node(format!("{}/recomputed", node.name), Arc::clone(&node.op), &inputs)?;
        self.recomputed.extend(node.outputs.iter().copied().zip(made));
        Ok(self.recomputed[&tensor])
    }
}
