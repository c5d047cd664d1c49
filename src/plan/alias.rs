//! Decides which tensors share storage, and inserts copies where sharing would overwrite a value
//! that is still needed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::Copy;
use crate::graph::{Alias, Graph, Node, Role, TensorId};
use crate::kernel::Operand;
use crate::tensor::Spec;

/// A tensor's window in the storage of its root; it is dense within a batch item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The tensor that owns the storage.
    pub root: TensorId,
    /// Offset in elements.
    pub offset: usize,
    /// Elements between batch items.
    pub batch_stride: usize,
}

/// A graph with inserted copies, and the view of each of its tensors.
#[derive(Debug)]
pub(super) struct Resolved {
    pub graph: Graph,
    pub views: Vec<View>,
    pub map: HashMap<TensorId, TensorId>,
}

/// Stands for the host, which reads outputs after all nodes.
const HOST: usize = usize::MAX;

struct Resolver<'a> {
    old: &'a Graph,
    /// For each old tensor, the last old node that reads it.
    last_read: Vec<Option<usize>>,
    graph: Graph,
    views: Vec<View>,
    /// For each new tensor, the last old node that reads it.
    read_until: Vec<Option<usize>>,
    map: HashMap<TensorId, TensorId>,
    copies: usize,
}

pub(super) fn resolve(graph: &Graph, outputs: &[TensorId]) -> Result<Resolved> {
    let mut last_read = vec![None; graph.tensors().count()];
    for (id, node) in graph.nodes() {
        for input in &node.inputs {
            last_read[input.0] = Some(id.0);
        }
    }
    for output in outputs {
        last_read[output.0] = Some(HOST);
    }
    let mut resolver = Resolver {
        old: graph,
        last_read,
        graph: Graph::new(),
        views: Vec::new(),
        read_until: Vec::new(),
        map: HashMap::new(),
        copies: 0,
    };
    for (id, tensor) in graph.tensors() {
        if tensor.producer.is_none() {
            let new =
                resolver.graph.add_tensor(tensor.name.clone(), tensor.spec.clone(), tensor.role.clone());
            resolver.adopt(new, resolver.last_read[id.0]);
            resolver.map.insert(id, new);
        }
    }
    for (id, node) in graph.nodes() {
        resolver.node(id.0, node)?;
    }
    let Resolver { graph, views, map, .. } = resolver;
    for (id, tensor) in graph.tensors() {
        let (view, root) = (views[id.0], graph.tensor(views[id.0].root));
        let operand =
            Operand { spec: tensor.spec.clone(), offset: view.offset, batch_stride: view.batch_stride };
        let inside = operand.extent().is_some_and(|bytes| bytes <= root.spec.bytes() as u64);
        if !inside || root.spec.element != tensor.spec.element {
            let reason = format!(
                "is {} and does not fit in the storage of `{}`, {}",
                tensor.spec, root.name, root.spec
            );
            return Err(Error::tensor(&tensor.name, reason));
        }
        if matches!(tensor.role, Role::Gradient(_)) && views[id.0].root != id {
            return Err(Error::tensor(
                &tensor.name,
                "is the gradient of a parameter and cannot be a part of another tensor",
            ));
        }
    }
    Ok(Resolved { graph, views, map })
}

impl Resolver<'_> {
    /// Adds a new tensor as its own root.
    fn adopt(&mut self, id: TensorId, read_until: Option<usize>) {
        let batch_stride = self.graph.tensor(id).spec.shape.item();
        self.views.push(View { root: id, offset: 0, batch_stride });
        self.read_until.push(read_until);
    }

    fn node(&mut self, index: usize, node: &Node) -> Result<()> {
        let mut inputs: Vec<TensorId> = node.inputs.iter().map(|t| self.map[t]).collect();
        let specs: Vec<&Spec> = self.old.input_specs(node);
        let aliases = node.op.aliases(&specs);
        for alias in &aliases {
            let (Alias::InPlace { output, input }
            | Alias::Window { output, input, .. }
            | Alias::Gather { output, input, .. }) = *alias;
            if output >= node.outputs.len() || input >= inputs.len() {
                let (layer, operation) = (node.name.clone(), node.op.name());
                let reason = format!("{alias:?} refers to a tensor that the node does not have");
                return Err(Error::Layer { layer, operation, reason });
            }
        }
        let mut gathered = Vec::new();
        for alias in &aliases {
            let (position, shareable) = match *alias {
                Alias::InPlace { output, input } => {
                    let becomes = &self.old.tensor(node.outputs[output]).role;
                    (input, self.can_rewrite(index, &inputs, input, becomes))
                }
                Alias::Gather { input, .. } => {
                    let whole =
                        self.is_whole_value(inputs[input]) && !gathered.contains(&self.root(inputs[input]));
                    (input, whole)
                }
                Alias::Window { .. } => continue,
            };
            if !shareable {
                inputs[position] = self.copy(index, &node.name, inputs[position])?;
            }
            if matches!(alias, Alias::Gather { .. }) {
                gathered.push(self.root(inputs[position]));
            }
        }
        let outputs = self.graph.add_node(node.name.clone(), Arc::clone(&node.op), &inputs)?;
        for (old, new) in node.outputs.iter().zip(&outputs) {
            self.adopt(*new, self.last_read[old.0]);
            let role = match &self.old.tensor(*old).role {
                Role::Gradient(parameter) => Role::Gradient(self.map[parameter]),
                role => role.clone(),
            };
            self.graph.set_role(*new, role);
            self.map.insert(*old, *new);
        }
        for alias in aliases {
            match alias {
                Alias::InPlace { output, input } => self.rewrite(outputs[output], inputs[input]),
                Alias::Window { output, input, channel } => {
                    let view = self.views[inputs[input].0];
                    let start = channel.saturating_mul(self.plane(inputs[input]));
                    let offset = view.offset.saturating_add(start);
                    self.views[outputs[output].0] = View { offset, ..view };
                }
                Alias::Gather { output, input, channel } => {
                    let offset = channel.saturating_mul(self.plane(outputs[output]));
                    self.move_into(self.root(inputs[input]), outputs[output], offset);
                }
            }
        }
        Ok(())
    }

    fn root(&self, id: TensorId) -> TensorId {
        self.views[id.0].root
    }

    /// Elements per channel of a batch item.
    fn plane(&self, id: TensorId) -> usize {
        self.graph.tensor(id).spec.shape.ncs()[2]
    }

    /// Whether the tensor is computed by nodes and covers its whole storage.
    fn is_whole_value(&self, id: TensorId) -> bool {
        let root = self.graph.tensor(self.root(id));
        matches!(root.role, Role::Value)
            && root.producer.is_some()
            && root.spec.shape.volume() == self.graph.tensor(id).spec.shape.volume()
    }

    /// Range of elements in a batch item of the root.
    fn window(&self, id: TensorId) -> std::ops::Range<usize> {
        let offset = self.views[id.0].offset;
        offset..offset.saturating_add(self.graph.tensor(id).spec.shape.item())
    }

    fn overlap(&self, a: TensorId, b: TensorId) -> bool {
        let (x, y) = (self.window(a), self.window(b));
        self.root(a) == self.root(b) && x.start < y.end && y.start < x.end
    }

    /// Whether old node `index` may overwrite its input `position` in place.
    fn can_rewrite(&self, index: usize, inputs: &[TensorId], position: usize, becomes: &Role) -> bool {
        let input = inputs[position];
        match self.graph.tensor(self.root(input)).role {
            // Optimizers and batch norm are meant to update these persistently.
            Role::State(_) | Role::Flat(_) => return true,
            Role::Input | Role::Constant(_) | Role::Parameter(_) => return false,
            Role::Value | Role::Gradient(_) => {}
        }
        if matches!(becomes, Role::Gradient(_)) && !self.is_whole_value(input) {
            return false;
        }
        let read_elsewhere = inputs.iter().enumerate().any(|(i, t)| i != position && self.overlap(*t, input));
        let read_later = (0..self.views.len())
            .map(TensorId)
            .any(|t| self.read_until[t.0].is_some_and(|last| last > index) && self.overlap(t, input));
        !read_elsewhere && !read_later
    }

    fn rewrite(&mut self, output: TensorId, input: TensorId) {
        if matches!(self.graph.tensor(output).role, Role::Gradient(_)) {
            self.move_into(self.root(input), output, 0);
        } else {
            self.views[output.0] = self.views[input.0];
        }
    }

    /// Moves all tensors of one root into another's storage, at `offset` elements in each batch
    /// item.
    fn move_into(&mut self, from: TensorId, root: TensorId, offset: usize) {
        let batch_stride = self.views[root.0].batch_stride;
        for view in self.views.iter_mut().filter(|v| v.root == from) {
            *view = View { root, offset: view.offset.saturating_add(offset), batch_stride };
        }
    }

    fn copy(&mut self, index: usize, layer: &str, input: TensorId) -> Result<TensorId> {
        self.copies += 1;
        let copy = self.graph.add(format!("{layer}/copy{}", self.copies), Copy, &[input])?;
        self.adopt(copy, Some(index));
        Ok(copy)
    }
}
