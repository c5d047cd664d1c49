//! Passes: each makes a new graph, in which the outputs have the names that they had.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use super::{Graph, Inference, Node, Operation, Role, TensorId};
use crate::error::{Error, Result};
use crate::tensor::Element;

/// A graph that is being made from another, and what became of the other's tensors.
pub(super) struct Rewriter<'a> {
    old: &'a Graph,
    /// The new graph so far.
    pub graph: Graph,
    map: HashMap<TensorId, TensorId>,
}

impl<'a> Rewriter<'a> {
    /// With nothing of the old graph yet.
    fn empty(old: &'a Graph) -> Self {
        Self { old, graph: Graph::new(), map: HashMap::new() }
    }

    /// With all that no node makes, in its order.
    pub fn new(old: &'a Graph) -> Self {
        let mut new = Self::empty(old);
        for (id, tensor) in old.tensors() {
            if tensor.producer.is_none() {
                new.leaf(id);
            }
        }
        new
    }

    /// The new number of an input of a node: what no node makes is copied on first use.
    pub fn leaf(&mut self, id: TensorId) -> TensorId {
        if let Some(new) = self.map.get(&id) {
            return *new;
        }
        let tensor = self.old.tensor(id);
        let new = self.graph.add_tensor(tensor.name.clone(), tensor.spec.clone(), tensor.role.clone());
        self.map.insert(id, new);
        new
    }

    /// Says that what stands for one old tensor stands for another too.
    pub fn stand_for(&mut self, old: TensorId, other: TensorId) {
        if let Some(new) = self.map.get(&other) {
            self.map.insert(old, *new);
        }
    }

    /// Copies a node, with another operation; `outputs` are the old tensors that its outputs stand
    /// for.
    pub fn copy(&mut self, node: &Node, op: Arc<dyn Operation>, outputs: &[TensorId]) -> Result<()> {
        let inputs: Vec<TensorId> = node.inputs.iter().map(|t| self.leaf(*t)).collect();
        self.place(node, op, &inputs, outputs)
    }

    /// As [`Rewriter::copy`], with inputs of the new graph.
    pub fn place(
        &mut self,
        node: &Node,
        op: Arc<dyn Operation>,
        inputs: &[TensorId],
        outputs: &[TensorId],
    ) -> Result<()> {
        let made = self.graph.add_node(node.name.clone(), op, inputs)?;
        for (old_id, new_id) in outputs.iter().zip(&made) {
            let role = match &self.old.tensor(*old_id).role {
                Role::Gradient(parameter) => Role::Gradient(self.leaf(*parameter)),
                role => role.clone(),
            };
            self.graph.set_role(*new_id, role);
            self.map.insert(*old_id, *new_id);
        }
        Ok(())
    }

    /// The new graph, with the outputs of the old one.
    ///
    /// # Errors
    /// [`Error::Tensor`] if nothing stands for one of them.
    pub fn finish(mut self) -> Result<Graph> {
        for (name, id) in self.old.outputs() {
            let lost = || Error::tensor(name, "is an output, and has no place in the graph of a pass");
            let new = *self.map.get(&id).ok_or_else(lost)?;
            self.graph.set_output(name, new);
        }
        Ok(self.graph)
    }
}

impl Graph {
    /// Only what the outputs of these names need, and no other outputs: nodes, parameters and
    /// inputs that none of them depends on are gone.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them is no output of the graph.
    pub fn prune(&self, outputs: &[impl Display]) -> Result<Self> {
        self.cut(&[], outputs)
    }

    /// The part of the graph between `inputs` and `outputs`: what [`Graph::prune`] keeps, but each
    /// of `inputs` is an input that the host or another part of the graph writes, and what lies
    /// before them is gone.
    ///
    /// # Errors
    /// As [`Graph::prune`].
    pub fn cut(&self, inputs: &[TensorId], outputs: &[impl Display]) -> Result<Self> {
        let mut open = self.clone();
        open.keep_outputs(outputs)?;
        for id in inputs {
            open.tensors[id.0].role = Role::Input;
            open.tensors[id.0].producer = None;
        }
        let mut wanted = open.output_tensors();
        let mut kept = vec![false; open.nodes.len()];
        for (id, node) in open.nodes().rev() {
            if node.outputs.iter().any(|t| wanted.contains(t) && !inputs.contains(t)) {
                kept[id.0] = true;
                wanted.extend(&node.inputs);
            }
        }
        let mut result = Rewriter::empty(&open);
        // Leaves keep their order, so that regions are laid out alike whatever order the nodes use
        // them in.
        for (id, tensor) in open.tensors() {
            if tensor.producer.is_none() && wanted.contains(&id) {
                result.leaf(id);
            }
        }
        for (id, node) in open.nodes() {
            if kept[id.0] {
                result.copy(node, Arc::clone(&node.op), &node.outputs)?;
            }
        }
        result.finish()
    }

    /// The graph as it is evaluated and not trained: dropout is gone, batch norm uses its running
    /// statistics.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an output is one that an operation makes in training only.
    pub fn evaluation(&self) -> Result<Self> {
        let mut result = Rewriter::new(self);
        for (_, node) in self.nodes() {
            match node.op.for_inference() {
                Inference::Same => result.copy(node, Arc::clone(&node.op), &node.outputs)?,
                Inference::Replace(op) => result.copy(node, op, &node.outputs)?,
                Inference::Identity => result.stand_for(node.outputs[0], node.inputs[0]),
            }
        }
        result.finish()
    }

    /// The graph with its f32 inputs stored as `element`, and all that nodes make of them likewise:
    /// activations, and in a graph that is differentiated later their gradients. Parameters,
    /// statistics and losses stay f32.
    ///
    /// # Errors
    /// [`Error::Layer`] if an operation cannot work on such tensors.
    pub fn stored_as(&self, element: Element) -> Result<Self> {
        let mut result = Rewriter::new(self);
        for tensor in &mut result.graph.tensors {
            if tensor.role == Role::Input && tensor.spec.element == Element::F32 {
                tensor.spec.element = element;
            }
        }
        for (_, node) in self.nodes() {
            result.copy(node, Arc::clone(&node.op), &node.outputs)?;
        }
        result.finish()
    }

    /// Joins nodes with the one node that reads them where an operation knows how
    /// ([`Operation::fuse`]). Outputs stay.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fuse(&self) -> Result<Self> {
        self.join(Operation::fuse)
    }

    /// As [`Graph::fuse`], for a graph that is not differentiated: batch norm goes into the
    /// convolution before it too ([`Operation::fold`]).
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fold(&self) -> Result<Self> {
        self.join(|op, next| op.fuse(next).or_else(|| op.fold(next)))
    }

    fn join(
        &self,
        both: impl Fn(&dyn Operation, &dyn Operation) -> Option<Arc<dyn Operation>>,
    ) -> Result<Self> {
        let kept = self.output_tensors();
        let mut readers = vec![0usize; self.tensors.len()];
        for tensor in self.nodes.iter().flat_map(|n| &n.inputs) {
            readers[tensor.0] += 1;
        }
        let reader: HashMap<TensorId, usize> =
            self.nodes.iter().enumerate().flat_map(|(i, n)| n.inputs.iter().map(move |t| (*t, i))).collect();
        let mut joined = HashSet::new();
        let mut result = Rewriter::new(self);
        for (index, node) in self.nodes.iter().enumerate() {
            if joined.contains(&index) {
                continue;
            }
            let mut op = Arc::clone(&node.op);
            let mut outputs = node.outputs.clone();
            let mut inputs = node.inputs.clone();
            while readers[outputs[0].0] == 1 && !kept.contains(&outputs[0]) {
                let Some(&next) = reader.get(&outputs[0]) else { break };
                let next_node = &self.nodes[next];
                // What else it reads must be there already: parameters and statistics are.
                let [first, others @ ..] = &next_node.inputs[..] else { break };
                let there = others.iter().all(|t| self.tensor(*t).producer.is_none());
                if *first != outputs[0] || !there || next_node.outputs.len() != 1 {
                    break;
                }
                let Some(both) = both(op.as_ref(), next_node.op.as_ref()) else { break };
                op = both;
                inputs.extend(others);
                outputs[0] = next_node.outputs[0];
                joined.insert(next);
            }
            let node = Node { inputs, ..node.clone() };
            result.copy(&node, op, &outputs)?;
        }
        result.finish()
    }
}
