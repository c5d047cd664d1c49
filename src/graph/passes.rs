//! Passes: each makes a new graph and tells where the tensors went.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Graph, Inference, Node, Operation, Role, TensorId};
use crate::error::Result;
use crate::tensor::Element;

/// A graph made from another, and what became of the other's tensors.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The new graph.
    pub graph: Graph,
    map: HashMap<TensorId, TensorId>,
}

impl Rewritten {
    /// Where a tensor of the old graph is in the new one, if it still exists.
    pub fn get(&self, old: TensorId) -> Option<TensorId> {
        self.map.get(&old).copied()
    }

    /// Where tensors that a pass was told to keep are.
    pub fn all(&self, old: &[TensorId]) -> Vec<TensorId> {
        old.iter().filter_map(|t| self.get(*t)).collect()
    }

    /// This pass and one of its graph as one.
    #[must_use]
    pub fn then(&self, next: Self) -> Self {
        let map = self.map.iter().filter_map(|(old, between)| Some((*old, next.get(*between)?))).collect();
        Self { graph: next.graph, map }
    }

    pub(super) fn new() -> Self {
        Self { graph: Graph::new(), map: HashMap::new() }
    }

    /// The new number of an input of a node: what no node makes is copied on first use.
    pub(super) fn leaf(&mut self, old: &Graph, id: TensorId) -> TensorId {
        if let Some(new) = self.map.get(&id) {
            return *new;
        }
        let tensor = old.tensor_ref(id);
        let new = self.graph.tensor(tensor.name.clone(), tensor.spec.clone(), tensor.role.clone());
        self.map.insert(id, new);
        new
    }

    /// Says that what stands for one old tensor stands for another too.
    pub(super) fn stand_for(&mut self, old: TensorId, other: TensorId) {
        if let Some(new) = self.map.get(&other) {
            self.map.insert(old, *new);
        }
    }

    /// Copies a node, with another operation; `outputs` are the old tensors that its outputs stand
    /// for.
    pub(super) fn copy(
        &mut self,
        old: &Graph,
        node: &Node,
        op: Arc<dyn Operation>,
        outputs: &[TensorId],
    ) -> Result<()> {
        let inputs: Vec<TensorId> = node.inputs.iter().map(|t| self.leaf(old, *t)).collect();
        self.place(old, node, op, &inputs, outputs)
    }

    /// As [`Rewritten::copy`], with inputs of the new graph.
    pub(super) fn place(
        &mut self,
        old: &Graph,
        node: &Node,
        op: Arc<dyn Operation>,
        inputs: &[TensorId],
        outputs: &[TensorId],
    ) -> Result<()> {
        let made = self.graph.node(node.name.clone(), op, inputs)?;
        for (old_id, new_id) in outputs.iter().zip(&made) {
            let role = match &old.tensor_ref(*old_id).role {
                Role::Gradient(parameter) => Role::Gradient(self.leaf(old, *parameter)),
                role => role.clone(),
            };
            self.graph.set_role(*new_id, role);
            self.map.insert(*old_id, *new_id);
        }
        Ok(())
    }
}

impl Graph {
    /// Only what these tensors need: nodes, parameters and inputs that none of them depends on are
    /// gone.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn prune(&self, outputs: &[TensorId]) -> Result<Rewritten> {
        self.prune_until(outputs, &[])
    }

    /// As [`Graph::prune`], without the nodes that make `given`.
    fn prune_until(&self, outputs: &[TensorId], given: &[TensorId]) -> Result<Rewritten> {
        let mut wanted: HashSet<TensorId> = outputs.iter().copied().collect();
        let mut kept = vec![false; self.nodes.len()];
        for (id, node) in self.nodes().rev() {
            if node.outputs.iter().any(|t| wanted.contains(t) && !given.contains(t)) {
                kept[id.0] = true;
                wanted.extend(&node.inputs);
            }
        }
        let mut result = Rewritten::new();
        // Leaves keep their order, so that regions are laid out alike whatever order the nodes use
        // them in.
        for (id, tensor) in self.tensors() {
            if tensor.producer.is_none() && wanted.contains(&id) {
                result.leaf(self, id);
            }
        }
        for (id, node) in self.nodes() {
            if kept[id.0] {
                result.copy(self, node, Arc::clone(&node.op), &node.outputs)?;
            }
        }
        Ok(result)
    }

    /// The part of the graph between `inputs` and `outputs`: what [`Graph::prune`] keeps, but each
    /// of `inputs` is an input that the host or another part of the graph writes, and what lies
    /// before them is gone.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn cut(&self, inputs: &[TensorId], outputs: &[TensorId]) -> Result<Rewritten> {
        let mut open = self.clone();
        for id in inputs {
            open.tensors[id.0].role = Role::Input;
            open.tensors[id.0].producer = None;
        }
        open.prune_until(outputs, inputs)
    }

    /// The graph as it is evaluated and not trained: dropout is gone, batch norm uses its running
    /// statistics.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn evaluation(&self) -> Result<Rewritten> {
        let mut result = Rewritten::new();
        for (id, tensor) in self.tensors() {
            if tensor.producer.is_none() {
                result.leaf(self, id);
            }
        }
        for (_, node) in self.nodes() {
            match node.op.for_inference() {
                Inference::Same => result.copy(self, node, Arc::clone(&node.op), &node.outputs)?,
                Inference::Replace(op) => result.copy(self, node, op, &node.outputs)?,
                Inference::Identity => {
                    let input = result.leaf(self, node.inputs[0]);
                    result.map.insert(node.outputs[0], input);
                }
            }
        }
        Ok(result)
    }

    /// The graph with its f32 inputs stored as `element`, and all that nodes make of them likewise:
    /// activations, and in a graph that is differentiated later their gradients. Parameters,
    /// statistics and losses stay f32.
    ///
    /// # Errors
    /// [`Error::Layer`](crate::Error::Layer) if an operation cannot work on such tensors.
    pub fn stored_as(&self, element: Element) -> Result<Rewritten> {
        let mut result = Rewritten::new();
        for (id, tensor) in self.tensors() {
            if tensor.producer.is_none() {
                let new = result.leaf(self, id);
                if tensor.role == Role::Input && tensor.spec.element == Element::F32 {
                    result.graph.tensors[new.0].spec.element = element;
                }
            }
        }
        for (_, node) in self.nodes() {
            result.copy(self, node, Arc::clone(&node.op), &node.outputs)?;
        }
        Ok(result)
    }

    /// Joins nodes with the one node that reads them where an operation knows how
    /// ([`Operation::fuse`]). Tensors in `keep` stay.
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fuse(&self, keep: &[TensorId]) -> Result<Rewritten> {
        self.join(keep, Operation::fuse)
    }

    /// As [`Graph::fuse`], for a graph that is not differentiated: batch norm goes into the
    /// convolution before it too ([`Operation::fold`]).
    ///
    /// # Errors
    /// None for a graph whose nodes were accepted before.
    pub fn fold(&self, keep: &[TensorId]) -> Result<Rewritten> {
        self.join(keep, |op, next| op.fuse(next).or_else(|| op.fold(next)))
    }

    fn join(
        &self,
        keep: &[TensorId],
        both: impl Fn(&dyn Operation, &dyn Operation) -> Option<Arc<dyn Operation>>,
    ) -> Result<Rewritten> {
        let mut readers = vec![0usize; self.tensors.len()];
        for tensor in self.nodes.iter().flat_map(|n| &n.inputs).chain(keep) {
            readers[tensor.0] += 1;
        }
        let reader: HashMap<TensorId, usize> =
            self.nodes.iter().enumerate().flat_map(|(i, n)| n.inputs.iter().map(move |t| (*t, i))).collect();
        let mut joined = HashSet::new();
        let mut result = Rewritten::new();
        for (id, tensor) in self.tensors() {
            if tensor.producer.is_none() {
                result.leaf(self, id);
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if joined.contains(&index) {
                continue;
            }
            let mut op = Arc::clone(&node.op);
            let mut outputs = node.outputs.clone();
            let mut inputs = node.inputs.clone();
            while readers[outputs[0].0] == 1 && !keep.contains(&outputs[0]) {
                let Some(&next) = reader.get(&outputs[0]) else { break };
                let next_node = &self.nodes[next];
                // What else it reads must be there already: parameters and statistics are.
                let [first, others @ ..] = &next_node.inputs[..] else { break };
                let there = others.iter().all(|t| self.tensor_ref(*t).producer.is_none());
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
            result.copy(self, &node, op, &outputs)?;
        }
        Ok(result)
    }
}
