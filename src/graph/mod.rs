//! The graph: tensors and the operations that compute them, in execution order. Shapes are inferred
//! and checked when a node is added; autodiff, pruning and fusion turn one graph into another.

mod backward;
mod masks;
mod operation;
mod passes;
mod recompute;
mod structural;

pub use backward::{Backward, Gradients};
pub(crate) use operation::expect;
pub use operation::{Alias, Inference, Operation};
pub use structural::{Add, Copy, Fill};

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{MAX_TENSOR_BYTES, Shape, Spec};

/// A tensor of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) usize);

/// A node of one graph; nodes run in the order of their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// The position of the node in the graph's order.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A contiguous region of device memory with its own lifetime; see `plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Trained parameters, in the order of the graph.
    Parameters,
    /// The gradient of each parameter, at the parameter's offset.
    Gradients,
    /// The network's buffers: running statistics.
    State,
    /// Averages of the state over updates, at the state's offsets.
    AveragedState,
    /// Optimizer state: `Slots(k)` is its k-th vector, laid out like the parameters.
    Slots(u8),
}

/// Initialization of a parameter, drawn on the host from the seed and the parameter's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
    /// A constant.
    Constant(f32),
    /// Uniform in ±sqrt(3 / `fan`): Caffe's `xavier` filler.
    Xavier {
        /// Inputs of one output (Caffe's default), or the mean of these and the outputs of one
        /// input (Glorot and Bengio 2010).
        fan: f64,
    },
    /// Normal with variance 2 / `fan_in`: He et al. 2015.
    He {
        /// Inputs of one output.
        fan_in: usize,
    },
}

/// Multipliers and initialization of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParameterInfo {
    /// Factor on the learning rate (Caffe's `lr_mult`). A parameter with zero is frozen: it gets no
    /// gradient, and the backward pass stops where only frozen parameters would follow.
    pub lr: f32,
    /// Factor on the weight decay (Caffe's `decay_mult`).
    pub weight_decay: f32,
    /// The initial values.
    pub init: Initializer,
}

impl ParameterInfo {
    /// Whether the parameter is trainable.
    pub fn is_trained(&self) -> bool {
        self.lr != 0.0
    }
}

/// Where a tensor's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Written by the host before each run.
    Input,
    /// A parameter.
    Parameter(ParameterInfo),
    /// Kept from step to step and updated in place by a node; starts with this value.
    State(f32),
    /// Written once by the host when a session is created.
    Constant(Arc<Vec<f32>>),
    /// A whole region as one flat tensor, as optimizers use it.
    Flat(Region),
    /// Computed by a node.
    Value,
    /// Computed by a node, at this parameter's offset in the gradient region.
    Gradient(TensorId),
}

/// A tensor of the graph.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// A name that is unique in the graph.
    pub name: String,
    /// Shape and element type.
    pub spec: Spec,
    /// Where its values come from.
    pub role: Role,
    /// The node that computes it; none for leaves.
    pub producer: Option<NodeId>,
}

/// A node: an operation with its tensors.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer's name, for example `inception_4a/3x3`.
    pub name: String,
    /// The operation.
    pub op: Arc<dyn Operation>,
    /// The tensors that it reads, in the operation's order.
    pub inputs: Vec<TensorId>,
    /// The tensors that it computes.
    pub outputs: Vec<TensorId>,
}

/// Tensors and nodes in single-assignment form: each tensor is computed by at most one node, before
/// any node reads it. Outputs are the tensors that the host reads after a run, addressed by name:
/// passes renumber tensors but keep the names of outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
    outputs: BTreeMap<String, TensorId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a leaf: a tensor that no node computes.
    pub fn add_tensor(&mut self, name: impl Into<String>, spec: Spec, role: Role) -> TensorId {
        self.tensors.push(Tensor { name: name.into(), spec, role, producer: None });
        TensorId(self.tensors.len() - 1)
    }

    /// Adds an input that the host writes before each run.
    pub fn input(&mut self, name: impl Into<String>, spec: Spec) -> TensorId {
        self.add_tensor(name, spec, Role::Input)
    }

    /// Adds a parameter.
    pub fn parameter(
        &mut self,
        name: impl Into<String>,
        shape: impl Into<Shape>,
        info: ParameterInfo,
    ) -> TensorId {
        self.add_tensor(name, Spec::f32(shape), Role::Parameter(info))
    }

    /// Adds a node and returns all its outputs.
    ///
    /// # Errors
    /// [`Error::Layer`] with the layer's name and the shapes, if the operation does not accept
    /// these inputs.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Arc<dyn Operation>,
        inputs: &[TensorId],
    ) -> Result<Vec<TensorId>> {
        let name = name.into();
        let layer_error = |reason| Error::Layer { layer: name.clone(), operation: op.name(), reason };
        let spec = |id: &TensorId| {
            let missing = || layer_error(format!("the graph has no tensor #{}", id.0));
            self.get(*id).map(|tensor| &tensor.spec).ok_or_else(missing)
        };
        let specs = inputs.iter().map(spec).collect::<Result<Vec<&Spec>>>()?;
        // Sizes that would overflow must not reach an operation's arithmetic.
        specs.iter().try_for_each(|spec| countable(spec)).map_err(layer_error)?;
        let outputs = op.infer(&specs).map_err(layer_error)?;
        outputs.iter().try_for_each(countable).map_err(layer_error)?;
        let id = NodeId(self.nodes.len());
        let many = outputs.len() > 1;
        let outputs = outputs.into_iter().enumerate().map(|(i, spec)| {
            let name = if many { format!("{name}:{i}") } else { name.clone() };
            self.tensors.push(Tensor { name, spec, role: Role::Value, producer: Some(id) });
            TensorId(self.tensors.len() - 1)
        });
        let outputs: Vec<TensorId> = outputs.collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Adds a node and returns its first output.
    ///
    /// # Errors
    /// As [`Graph::add_node`].
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: impl Operation + 'static,
        inputs: &[TensorId],
    ) -> Result<TensorId> {
        let name = name.into();
        let operation = op.name();
        let outputs = self.add_node(name.clone(), Arc::new(op), inputs)?;
        let none = || Error::Layer { layer: name, operation, reason: "has no output".into() };
        outputs.first().copied().ok_or_else(none)
    }

    /// Changes the role of a tensor that was added earlier.
    pub(crate) fn set_role(&mut self, id: TensorId, role: Role) {
        self.tensors[id.0].role = role;
    }

    /// Declares a tensor an output; replaces an output of the same name.
    pub fn set_output(&mut self, name: impl Display, tensor: TensorId) {
        self.outputs.insert(name.to_string(), tensor);
    }

    /// The output of this name.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none.
    pub fn output(&self, name: impl Display) -> Result<TensorId> {
        let name = name.to_string();
        let found = self.outputs.get(&name).copied();
        found.ok_or_else(|| Error::tensor(name, "is not an output of the graph"))
    }

    /// All outputs, in the order of their names.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, TensorId)> {
        self.outputs.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// Keeps only these outputs, so that passes need not preserve the others. Nodes are not
    /// removed.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one of them is not an output.
    pub fn keep_outputs(&mut self, names: &[impl Display]) -> Result<()> {
        let named = |name| Ok((ToString::to_string(name), self.output(name)?));
        self.outputs = names.iter().map(named).collect::<Result<_>>()?;
        Ok(())
    }

    /// The tensors that are outputs.
    fn output_tensors(&self) -> HashSet<TensorId> {
        self.outputs.values().copied().collect()
    }

    /// The tensor with this index, if it exists.
    pub fn get(&self, id: TensorId) -> Option<&Tensor> {
        self.tensors.get(id.0)
    }

    /// The tensor with this index, which must be of this graph.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// The node with this index, which must be of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none.
    pub fn find(&self, name: &str) -> Result<TensorId> {
        let found = self.tensors.iter().position(|t| t.name == name).map(TensorId);
        found.ok_or_else(|| Error::tensor(name, "the graph has no tensor of this name"))
    }

    /// All tensors with their indices.
    pub fn tensors(&self) -> impl DoubleEndedIterator<Item = (TensorId, &Tensor)> {
        self.tensors.iter().enumerate().map(|(i, t)| (TensorId(i), t))
    }

    /// All nodes with their indices, in execution order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the graph has no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The parameters in the order in which they were added.
    pub fn parameters(&self) -> impl Iterator<Item = (TensorId, &Tensor, &ParameterInfo)> {
        self.tensors().filter_map(|(id, t)| match &t.role {
            Role::Parameter(info) => Some((id, t, info)),
            _ => None,
        })
    }

    /// The specs of a node's inputs.
    pub fn input_specs(&self, node: &Node) -> Vec<&Spec> {
        node.inputs.iter().map(|&t| &self.tensor(t).spec).collect()
    }

    /// The specs of a node's outputs.
    pub fn output_specs(&self, node: &Node) -> Vec<&Spec> {
        node.outputs.iter().map(|&t| &self.tensor(t).spec).collect()
    }

    /// Multiply-adds of one run of the whole graph.
    pub fn macs(&self) -> u64 {
        let macs = self.nodes.iter().map(|n| n.op.macs(&self.input_specs(n), &self.output_specs(n)));
        macs.fold(0, u64::saturating_add)
    }
}

/// Rejects tensors whose size would overflow later arithmetic, and empty tensors, for which there
/// are no kernels.
fn countable(spec: &Spec) -> Result<(), String> {
    if spec.shape.volume() == 0 {
        return Err(format!("a tensor of {} has no elements", spec.shape));
    }
    if spec.bytes() as u64 <= MAX_TENSOR_BYTES {
        return Ok(());
    }
    Err(format!(
        "a tensor of {} is too large: use a smaller `LoaderOptions::batch`, `GoogLeNet::input` or `GoogLeNet::width`",
        spec.shape
    ))
}
