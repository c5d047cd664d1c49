//! Runs a whole graph on the CPU references.

use std::collections::HashMap;

use super::{Array, Real, run_operation};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::kernel::Step;
use crate::tensor::Spec;

/// Interpreter of a graph on the CPU, with the values of its tensors.
#[derive(Debug)]
pub struct Interpreter<'a, T> {
    graph: &'a Graph,
    values: HashMap<TensorId, Array<T>>,
}

impl<'a, T: Real> Interpreter<'a, T> {
    /// An interpreter of `graph` without values.
    pub fn new(graph: &'a Graph) -> Self {
        Self { graph, values: HashMap::new() }
    }

    /// Sets an input tensor, rounded to its storage type.
    pub fn set(&mut self, tensor: TensorId, value: Array<T>) {
        let element = self.graph.tensor(tensor).spec.element;
        self.values.insert(tensor, value.stored_as(element));
    }

    /// The value of a tensor; `None` if not set or computed.
    pub fn get(&self, tensor: TensorId) -> Option<&Array<T>> {
        self.values.get(&tensor)
    }

    /// Runs every node in order. Operations that are in place on a device create new values here,
    /// so all tensors keep theirs. Optimizers on flat regions are not run; the caller does that.
    ///
    /// # Errors
    /// [`Error::Tensor`] if an input has no value, [`Error::Layer`] if an operation rejects its
    /// inputs.
    pub fn run(&mut self, step: &Step) -> Result<()> {
        for (_, node) in self.graph.nodes() {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for id in &node.inputs {
                let name = &self.graph.tensor(*id).name;
                inputs
                    .push(self.values.get(id).ok_or_else(|| Error::tensor(name, "has no value on the CPU"))?);
            }
            let specs: Vec<&Spec> = self.graph.input_specs(node);
            let outputs = run_operation(node.op.as_ref(), &specs, &inputs, step).map_err(|reason| {
                Error::Layer { layer: node.name.clone(), operation: node.op.name(), reason }
            })?;
            self.values.extend(node.outputs.iter().copied().zip(outputs));
        }
        Ok(())
    }
}
