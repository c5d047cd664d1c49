//! A pass that fuses the gradients of ReLUs into the nodes whose results they mask, which saves one
//! read and one write of the tensor each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::passes::Rewriter;
use super::{Alias, Graph, Node, Operation, TensorId};
use crate::error::Result;

/// A node with the masks fused into it.
struct Fused {
    op: Arc<dyn Operation>,
    /// The activation to append to the node's inputs, if it is not among them.
    activation: Option<TensorId>,
    /// The removed nodes, each with the tensor that replaces its result.
    masks: Vec<(usize, TensorId)>,
}

struct Masks<'a> {
    graph: &'a Graph,
    readers: HashMap<TensorId, Vec<usize>>,
    kept: HashSet<TensorId>,
}

impl Graph {
    /// Fuses the gradients of ReLUs into the nodes whose results they mask, where the operation
    /// supports it ([`Operation::masked`]). If all windows of a concatenation's gradient are
    /// masked, the gradient is masked as a whole. Outputs of the graph are kept.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fuse_masks(&self) -> Result<Self> {
        let mut readers: HashMap<TensorId, Vec<usize>> = HashMap::new();
        for (id, node) in self.nodes() {
            for input in &node.inputs {
                readers.entry(*input).or_default().push(id.index());
            }
        }
        let masks = Masks { graph: self, readers, kept: self.output_tensors() };
        let fused: HashMap<usize, Fused> =
            self.nodes().filter_map(|(id, node)| Some((id.index(), masks.fused(node)?))).collect();
        let removed: HashMap<usize, TensorId> =
            fused.values().flat_map(|f| f.masks.iter().copied()).collect();
        let mut result = Rewriter::new(self);
        for (id, node) in self.nodes() {
            if let Some(stands) = removed.get(&id.index()) {
                result.stand_for(node.outputs[0], *stands);
            } else if let Some(Fused { op, activation, .. }) = fused.get(&id.index()) {
                let inputs = node.inputs.iter().copied().chain(*activation).collect();
                let node = Node { inputs, ..node.clone() };
                result.copy(&node, Arc::clone(op), &node.outputs)?;
            } else {
                result.copy(node, Arc::clone(&node.op), &node.outputs)?;
            }
        }
        result.finish()
    }
}

impl Masks<'_> {
    /// The only reader of a tensor that is not an output.
    fn reader(&self, tensor: TensorId) -> Option<usize> {
        match self.readers.get(&tensor).map(Vec::as_slice) {
            Some([one]) if !self.kept.contains(&tensor) => Some(*one),
            _ => None,
        }
    }

    /// The masking node and its activation, if the mask is the only reader of the tensor.
    fn mask(&self, tensor: TensorId) -> Option<(usize, TensorId)> {
        let index = self.reader(tensor)?;
        let node = &self.graph.nodes[index];
        let is_mask = node.op.is_mask() && node.inputs[1] == tensor && !self.kept.contains(&node.outputs[0]);
        is_mask.then(|| (index, node.inputs[0]))
    }

    fn fused(&self, node: &Node) -> Option<Fused> {
        let [tensor] = node.outputs[..] else { return None };
        let (activation, masks) = match self.mask(tensor) {
            Some((mask, activation)) => (activation, vec![(mask, tensor)]),
            None => self.windows(tensor)?,
        };
        // An activation that is computed later cannot be read here.
        let first = node.inputs.iter().position(|t| *t == activation);
        let op = node.op.masked(first)?;
        let activation = Some(activation).filter(|_| first.is_none());
        Some(Fused { op, activation, masks })
    }

    /// For the gradient of a concatenation: the concatenation and the masks of its windows, if they
    /// are the only readers.
    fn windows(&self, whole: TensorId) -> Option<(TensorId, Vec<(usize, TensorId)>)> {
        if self.kept.contains(&whole) {
            return None;
        }
        let mut concatenation = None;
        let (mut masks, mut channels) = (Vec::new(), 0);
        for &reader in self.readers.get(&whole)? {
            let node = &self.graph.nodes[reader];
            let [Alias::Window { output: 0, input: 0, channel }] =
                node.op.aliases(&self.graph.input_specs(node))[..]
            else {
                return None;
            };
            let window = node.outputs[0];
            let (mask, activation) = self.mask(window)?;
            let gathers = self.gathers(activation, channel)?;
            if *concatenation.get_or_insert(gathers) != gathers {
                return None;
            }
            channels += self.graph.tensor(window).spec.shape.ncs()[1];
            masks.push((mask, window));
        }
        let concatenation = concatenation?;
        let (whole, of) = (&self.graph.tensor(whole).spec, &self.graph.tensor(concatenation).spec);
        (whole == of && channels == whole.shape.ncs()[1]).then_some((concatenation, masks))
    }

    /// The concatenation that has this activation as its window at `channel`.
    fn gathers(&self, activation: TensorId, channel: usize) -> Option<TensorId> {
        self.readers.get(&activation)?.iter().find_map(|&reader| {
            let node = &self.graph.nodes[reader];
            let is_place = |alias: &Alias| match *alias {
                Alias::Gather { output: 0, input, channel: at } => {
                    node.inputs[input] == activation && at == channel
                }
                _ => false,
            };
            let aliases = node.op.aliases(&self.graph.input_specs(node));
            aliases.iter().any(is_place).then(|| node.outputs[0])
        })
    }
}
