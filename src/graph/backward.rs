//! Reverse-mode autodiff: walks the graph backwards from a scalar; every operation adds the nodes
//! of its gradient.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Graph, NodeId, Operation, Role, TensorId};
use crate::error::{Error, Result};
use crate::graph::{Add, Fill};
use crate::tensor::Element;

/// Gradient tensor of each tensor that [`Graph::differentiate`] reached.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    of: HashMap<TensorId, TensorId>,
}

impl Gradients {
    /// The gradient with respect to `tensor`, if the loss depends on it and it depends on a
    /// parameter.
    pub fn of(&self, tensor: TensorId) -> Option<TensorId> {
        self.of.get(&tensor).copied()
    }
}

/// The interface through which an operation adds the nodes of its gradient.
#[derive(Debug)]
pub struct Backward<'a> {
    graph: &'a mut Graph,
    node: NodeId,
    gradients: &'a mut Gradients,
    needed: &'a [bool],
}

impl Backward<'_> {
    /// An input of the node.
    pub fn input(&self, index: usize) -> TensorId {
        self.graph.nodes[self.node.0].inputs[index]
    }

    /// Number of inputs of the node.
    pub fn input_count(&self) -> usize {
        self.graph.nodes[self.node.0].inputs.len()
    }

    /// An output of the node.
    pub fn output(&self, index: usize) -> TensorId {
        self.graph.nodes[self.node.0].outputs[index]
    }

    /// The gradient of the loss with respect to an output, if the loss depends on it.
    pub fn grad(&self, output: usize) -> Option<TensorId> {
        self.gradients.of(self.output(output))
    }

    /// Whether anything needs the gradient with respect to this input.
    pub fn needs(&self, input: usize) -> bool {
        self.needed[self.input(input).0]
    }

    /// The extents of a tensor.
    pub fn dims(&self, tensor: TensorId) -> Vec<usize> {
        self.graph.tensor(tensor).spec.dims().to_vec()
    }

    /// Element type of a tensor, which is also that of its gradient.
    pub fn element(&self, tensor: TensorId) -> Element {
        self.graph.tensor(tensor).spec.element
    }

    /// Adds an intermediate node and returns its outputs. `suffix` is appended to the layer's name
    /// and must be unique within the layer.
    ///
    /// # Errors
    /// [`Error::Layer`] if the operation refuses its inputs.
    pub fn emit(
        &mut self,
        suffix: &str,
        op: impl Operation + 'static,
        inputs: &[TensorId],
    ) -> Result<Vec<TensorId>> {
        let name = format!("{}/{suffix}", self.graph.nodes[self.node.0].name);
        self.graph.add_node(name, Arc::new(op), inputs)
    }

    /// Adds the result of `op` to the gradient with respect to an input. Does nothing if that
    /// gradient is not needed.
    ///
    /// # Errors
    /// [`Error::Layer`] if the operation refuses its inputs.
    pub fn contribute(
        &mut self,
        input: usize,
        op: impl Operation + 'static,
        inputs: &[TensorId],
    ) -> Result<()> {
        if !self.needs(input) {
            return Ok(());
        }
        let target = self.input(input);
        let name = format!("{}/grad{input}", self.graph.nodes[self.node.0].name);
        let op: Arc<dyn Operation> = Arc::new(op);
        let Some(before) = self.gradients.of(target) else {
            let made = self.graph.add_node(name, op, inputs)?[0];
            return self.accept(target, made);
        };
        let sum = if let Some(accumulating) = op.accumulating() {
            let inputs: Vec<TensorId> = inputs.iter().copied().chain([before]).collect();
            self.graph.add_node(name, accumulating, &inputs)?[0]
        } else {
            let made = self.graph.add_node(&name, op, inputs)?[0];
            self.graph.add(format!("{name}/sum"), Add, &[before, made])?
        };
        self.accept(target, sum)
    }

    /// Adds an existing tensor to the gradient with respect to an input.
    ///
    /// # Errors
    /// [`Error::Layer`] if shapes or element types differ.
    pub fn pass(&mut self, input: usize, gradient: TensorId) -> Result<()> {
        if !self.needs(input) {
            return Ok(());
        }
        let target = self.input(input);
        let sum = match self.gradients.of(target) {
            None => gradient,
            Some(before) => {
                let name = format!("{}/grad{input}/sum", self.graph.nodes[self.node.0].name);
                self.graph.add(name, Add, &[before, gradient])?
            }
        };
        self.accept(target, sum)
    }

    /// The error of an operation that cannot be differentiated with its attributes.
    pub fn refuse(&self, reason: &str) -> Error {
        let node = &self.graph.nodes[self.node.0];
        Error::Layer { layer: node.name.clone(), operation: node.op.name(), reason: reason.into() }
    }

    fn accept(&mut self, target: TensorId, gradient: TensorId) -> Result<()> {
        let (of, is) = (&self.graph.tensor(target).spec, &self.graph.tensor(gradient).spec);
        if of != is {
            let name = &self.graph.tensor(target).name;
            return Err(self.refuse(&format!("the gradient of `{name}` ({of}) has shape {is}")));
        }
        self.gradients.of.insert(target, gradient);
        Ok(())
    }
}

impl Graph {
    /// Adds the backward graph of the scalar `loss` and assigns each trainable parameter's gradient
    /// to its place in the gradient region. Parameters that the loss does not depend on get zeros;
    /// the gradients of frozen parameters are never written. For several losses, pass their
    /// weighted sum.
    ///
    /// # Errors
    /// [`Error::Tensor`] if `loss` is not a scalar, and shape errors of the nodes that are added.
    pub fn differentiate(&mut self, loss: TensorId) -> Result<Gradients> {
        self.differentiate_scaled(loss, None)
    }

    /// As [`Graph::differentiate`], with the scalar `scale` as loss scale instead of the step's:
    /// all gradients are multiplied by it.
    ///
    /// # Errors
    /// As [`Graph::differentiate`]; [`Error::Tensor`] if shape or element type of `scale` differ
    /// from the loss's.
    pub fn differentiate_scaled(&mut self, loss: TensorId, scale: Option<TensorId>) -> Result<Gradients> {
        if let Some(scale) = scale.map(|t| self.tensor(t)).filter(|t| t.spec != self.tensor(loss).spec) {
            return Err(Error::tensor(
                &scale.name,
                format!("is {}; a loss scale must have the shape and type of the loss", scale.spec),
            ));
        }
        let needed = self.depends_on(|_, t| matches!(&t.role, Role::Parameter(info) if info.is_trained()));
        let mut gradients = self.walk_back(loss, scale, &needed)?;
        let trained = self.parameters().filter(|(.., info)| info.is_trained());
        let trained: Vec<TensorId> = trained.map(|(id, ..)| id).collect();
        for parameter in trained {
            let gradient = match gradients.of(parameter) {
                // A gradient shared with another tensor is copied to its own place.
                Some(gradient) if matches!(self.tensor(gradient).role, Role::Value) => gradient,
                Some(gradient) => {
                    let name = format!("{}/grad", self.tensor(parameter).name);
                    self.add(name, crate::graph::Copy, &[gradient])?
                }
                None => {
                    let tensor = self.tensor(parameter);
                    let (name, shape) = (format!("{}/grad", tensor.name), tensor.spec.shape.clone());
                    self.add(name, Fill::zeros(shape), &[])?
                }
            };
            self.tensors[gradient.0].role = Role::Gradient(parameter);
            gradients.of.insert(parameter, gradient);
        }
        Ok(gradients)
    }

    /// Adds the nodes of the gradient of the scalar `score` with respect to one tensor only:
    /// operations before that tensor need not be differentiable, and parameters get no gradients.
    ///
    /// # Errors
    /// [`Error::Tensor`] if `score` is not a scalar or does not depend on the tensor, and shape
    /// errors of the nodes that are added.
    pub fn gradient_of(&mut self, score: TensorId, with_respect_to: TensorId) -> Result<TensorId> {
        let needed = self.depends_on(|id, _| id == with_respect_to);
        let found = self.walk_back(score, None, &needed)?.of(with_respect_to);
        found.ok_or_else(|| {
            let reason = format!("`{}` does not depend on it", self.tensor(score).name);
            Error::tensor(&self.tensor(with_respect_to).name, reason)
        })
    }

    /// Walks back from a scalar through all nodes that depend on a needed tensor.
    fn walk_back(&mut self, loss: TensorId, scale: Option<TensorId>, needed: &[bool]) -> Result<Gradients> {
        if self.tensor(loss).spec.shape.volume() != 1 {
            let tensor = self.tensor(loss);
            return Err(Error::tensor(&tensor.name, format!("is {}; a loss must be a scalar", tensor.spec)));
        }
        let forward = self.nodes.len();
        let mut gradients = Gradients::default();
        let dims = self.tensor(loss).spec.shape.clone();
        let seed = match scale {
            Some(scale) => scale,
            None => self.add("loss/grad", Fill::loss_scale(dims), &[])?,
        };
        gradients.of.insert(loss, seed);
        for index in (0..forward).rev() {
            let reached = self.nodes[index].outputs.iter().any(|t| gradients.of.contains_key(t));
            let wanted = self.nodes[index].inputs.iter().any(|t| needed[t.0]);
            if reached && wanted {
                let op = Arc::clone(&self.nodes[index].op);
                let node = NodeId(index);
                op.backward(&mut Backward { graph: self, node, gradients: &mut gradients, needed })?;
            }
        }
        Ok(gradients)
    }

    /// For each tensor, whether `is` holds for it or for a tensor that it depends on.
    fn depends_on(&self, is: impl Fn(TensorId, &super::Tensor) -> bool) -> Vec<bool> {
        let mut needed: Vec<bool> = self.tensors().map(|(id, t)| is(id, t)).collect();
        for node in &self.nodes {
            if node.inputs.iter().any(|t| needed[t.0]) {
                for output in &node.outputs {
                    needed[output.0] = true;
                }
            }
        }
        needed
    }
}
