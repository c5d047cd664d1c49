//! A pass that joins the gradients of ReLUs with what they mask: most are no nodes of their own
//! then, and the tensor is not read and written once more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::passes::Rewriter;
use super::{Alias, Graph, Node, Operation, TensorId};
use crate::error::Result;

/// A node that takes masks along.
struct Joined {
    op: Arc<dyn Operation>,
    /// The activation, if it has to be added to the node's inputs.
    activation: Option<TensorId>,
    /// The nodes that go, each with the tensor that stands for its result.
    masks: Vec<(usize, TensorId)>,
}

struct Masks<'a> {
    graph: &'a Graph,
    readers: HashMap<TensorId, Vec<usize>>,
    kept: HashSet<TensorId>,
}

impl Graph {
    /// Joins the gradients of ReLUs with the nodes whose results they mask, where an operation
    /// knows how ([`Operation::masked`]). The gradient of a concatenation is masked as a whole,
    /// where each of its windows would be. Outputs stay.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn join_masks(&self) -> Result<Self> {
        let mut readers: HashMap<TensorId, Vec<usize>> = HashMap::new();
        for (id, node) in self.nodes() {
            for input in &node.inputs {
                readers.entry(*input).or_default().push(id.index());
            }
        }
        let masks = Masks { graph: self, readers, kept: self.output_tensors() };
        let joined: HashMap<usize, Joined> =
            self.nodes().filter_map(|(id, node)| Some((id.index(), masks.joined(node)?))).collect();
        let gone: HashMap<usize, TensorId> = joined.values().flat_map(|j| j.masks.iter().copied()).collect();
        let mut result = Rewriter::new(self);
        for (id, node) in self.nodes() {
            if let Some(stands) = gone.get(&id.index()) {
                result.stand_for(node.outputs[0], *stands);
            } else if let Some(Joined { op, activation, .. }) = joined.get(&id.index()) {
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
    /// The one node that reads a tensor that nobody else needs.
    fn reader(&self, tensor: TensorId) -> Option<usize> {
        match self.readers.get(&tensor).map(Vec::as_slice) {
            Some([one]) if !self.kept.contains(&tensor) => Some(*one),
            _ => None,
        }
    }

    /// The activation that masks a tensor, and the node that does it, if that is all that is done
    /// with the tensor.
    fn mask(&self, tensor: TensorId) -> Option<(usize, TensorId)> {
        let index = self.reader(tensor)?;
        let node = &self.graph.nodes[index];
        let is_mask = node.op.is_mask() && node.inputs[1] == tensor && !self.kept.contains(&node.outputs[0]);
        is_mask.then(|| (index, node.inputs[0]))
    }

    fn joined(&self, node: &Node) -> Option<Joined> {
        let [tensor] = node.outputs[..] else { return None };
        let (activation, masks) = match self.mask(tensor) {
            Some((mask, activation)) => (activation, vec![(mask, tensor)]),
            None => self.windows(tensor)?,
        };
        // An activation that is made later cannot be read here.
        let first = node.inputs.iter().position(|t| *t == activation);
        let op = node.op.masked(first)?;
        let activation = Some(activation).filter(|_| first.is_none());
        Some(Joined { op, activation, masks })
    }

    /// For the gradient of a concatenation: the concatenation, and the masks of its windows, if
    /// they are all that is done with it.
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

    /// The concatenation that this activation is the window at `channel` of.
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
