//! Passes: each returns a new graph with the same output names.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use super::{Graph, Inference, Node, Operation, Role, TensorId};
use crate::error::{Error, Result};
use crate::tensor::Element;

/// Builds a graph from another and maps the tensors of the old graph to the new one.
pub(super) struct Rewriter<'a> {
    old: &'a Graph,
    /// The new graph so far.
    pub graph: Graph,
    map: HashMap<TensorId, TensorId>,
}

impl<'a> Rewriter<'a> {
    /// Starts with an empty graph.
    fn empty(old: &'a Graph) -> Self {
        Self { old, graph: Graph::new(), map: HashMap::new() }
    }

    /// Starts with all leaves, in their order.
    pub fn new(old: &'a Graph) -> Self {
        let mut new = Self::empty(old);
        for (id, tensor) in old.tensors() {
            if tensor.producer.is_none() {
                new.leaf(id);
            }
        }
        new
    }

    /// The new index of an input of a node; a leaf is copied on first use.
    pub fn leaf(&mut self, id: TensorId) -> TensorId {
        if let Some(new) = self.map.get(&id) {
            return *new;
        }
        let tensor = self.old.tensor(id);
        let new = self.graph.add_tensor(tensor.name.clone(), tensor.spec.clone(), tensor.role.clone());
        self.map.insert(id, new);
        new
    }

    /// Maps another old tensor to the replacement of `stands`.
    pub fn stand_for(&mut self, old: TensorId, other: TensorId) {
        if let Some(new) = self.map.get(&other) {
            self.map.insert(old, *new);
        }
    }

    /// Copies a node with another operation; `outputs` are the old tensors that its outputs
    /// replace.
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
    /// [`Error::Tensor`] if one of them has no replacement.
    pub fn finish(mut self) -> Result<Graph> {
        for (name, id) in self.old.outputs() {
            let lost = || Error::tensor(name, "is an output that a graph pass has lost");
            let new = *self.map.get(&id).ok_or_else(lost)?;
            self.graph.set_output(name, new);
        }
        Ok(self.graph)
    }
}

impl Graph {
    /// Keeps only these outputs and what they depend on; other nodes, parameters and inputs are
    /// removed.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them is not an output of the graph.
    pub fn prune(&self, outputs: &[impl Display]) -> Result<Self> {
        self.cut(&[], outputs)
    }

    /// The part of the graph between `inputs` and `outputs`: as [`Graph::prune`], but each of
    /// `inputs` becomes a graph input that the host or another part of the graph writes, and the
    /// nodes before them are removed.
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
        // Leaves keep their order, so that the layout of regions does not depend on the order of
        // use.
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

    /// The graph in evaluation mode: dropout is removed, batch norm uses its running statistics.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an output is computed in training only.
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

    /// The graph with its f32 inputs, activations and, after differentiation, their gradients
    /// stored as `element`. Parameters, statistics and losses stay f32.
    ///
    /// # Errors
    /// [`Error::Layer`] if an operation does not support `element`.
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

    /// Fuses nodes with their only reader where the operation supports it ([`Operation::fuse`]).
    /// Outputs of the graph are kept.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fuse(&self) -> Result<Self> {
        self.fuse_with(Operation::fuse)
    }

    /// As [`Graph::fuse`], for a graph that is not differentiated: batch norm is fused into the
    /// preceding convolution too ([`Operation::fold`]).
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fold(&self) -> Result<Self> {
        self.fuse_with(|op, next| op.fuse(next).or_else(|| op.fold(next)))
    }

    fn fuse_with(
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
        let mut fused = HashSet::new();
        let mut result = Rewriter::new(self);
        for (index, node) in self.nodes.iter().enumerate() {
            if fused.contains(&index) {
                continue;
            }
            let mut op = Arc::clone(&node.op);
            let mut outputs = node.outputs.clone();
            let mut inputs = node.inputs.clone();
            while readers[outputs[0].0] == 1 && !kept.contains(&outputs[0]) {
                let Some(&next) = reader.get(&outputs[0]) else { break };
                let next_node = &self.nodes[next];
                // Its other inputs must be available already, as parameters and statistics are.
                let [first, others @ ..] = &next_node.inputs[..] else { break };
                let there = others.iter().all(|t| self.tensor(*t).producer.is_none());
                if *first != outputs[0] || !there || next_node.outputs.len() != 1 {
                    break;
                }
                let Some(both) = both(op.as_ref(), next_node.op.as_ref()) else { break };
                op = both;
                inputs.extend(others);
                outputs[0] = next_node.outputs[0];
                fused.insert(next);
            }
            let node = Node { inputs, ..node.clone() };
            result.copy(&node, op, &outputs)?;
        }
        result.finish()
    }
}
