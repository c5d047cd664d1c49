//! The trait of operations: shape inference, gradient, storage, kernels. The engine uses operations
//! only through it and never matches on their names.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::Backward;
use crate::error::Result;
use crate::kernel::{Implementation, Operands, Profile};
use crate::tensor::Spec;

/// Two tensors of a node that share storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// The kernel rewrites `input` in place and the result is `output`: both have the same shape.
    /// Kernels bind the output only.
    InPlace {
        /// Position among the node's outputs.
        output: usize,
        /// Position among the node's inputs.
        input: usize,
    },
    /// `output` is a window of the channels of `input`, starting at `channel`: nothing runs.
    Window {
        /// Position among the node's outputs.
        output: usize,
        /// Position among the node's inputs.
        input: usize,
        /// First channel of the window.
        channel: usize,
    },
    /// `input` is a window of the channels of `output`, starting at `channel`: its producer writes
    /// there, nothing runs.
    Gather {
        /// Position among the node's outputs.
        output: usize,
        /// Position among the node's inputs.
        input: usize,
        /// First channel of the window.
        channel: usize,
    },
}

/// The evaluation mode of an operation.
#[derive(Clone, Debug)]
pub enum Inference {
    /// Unchanged.
    Same,
    /// Removed: its first output is its first input (dropout).
    Identity,
    /// Replaced by another operation with the same inputs and the first of the outputs (batch norm,
    /// max pool).
    Replace(Arc<dyn Operation>),
}

/// One operation of the graph, forward or backward. Values of this type hold attributes (stride,
/// padding) and no tensors.
pub trait Operation: Any + Debug + Send + Sync {
    /// The name of its shader, kernels, CPU reference and tests, for example `conv`.
    fn name(&self) -> &'static str;

    /// Shapes and element types of the outputs for these inputs.
    ///
    /// # Errors
    /// The reason, with the shapes, if the operation does not accept these inputs.
    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String>;

    /// Adds the nodes of this node's gradient to the graph. Operations without a gradient
    /// (optimizers, the backward operations themselves) keep the default, which adds nothing.
    ///
    /// # Errors
    /// Shape errors of the nodes that it adds.
    fn backward(&self, _context: &mut Backward<'_>) -> Result<()> {
        Ok(())
    }

    /// Which of its tensors share storage. The planner inserts a copy where they cannot.
    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        Vec::new()
    }

    /// The fused operation of this one followed by `next`, if there is one.
    fn fuse(&self, _next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        None
    }

    /// As [`Operation::fuse`], for fused operations without a gradient: inference only. Inputs of
    /// `next` after its first follow those of this one.
    fn fold(&self, _next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        None
    }

    /// Its evaluation mode.
    fn for_inference(&self) -> Inference {
        Inference::Same
    }

    /// The variant with one more input of its output's shape, to which it adds its result in place.
    fn accumulating(&self) -> Option<Arc<dyn Operation>> {
        None
    }

    /// The variant with a fused ReLU gradient: its result is zero where an activation of the same
    /// shape is not positive. The activation is the input `own`, or an additional last input if
    /// `own` is `None`.
    fn masked(&self, _own: Option<usize>) -> Option<Arc<dyn Operation>> {
        None
    }

    /// Whether it is the gradient of a ReLU: inputs y and dy, output dy where y > 0, else 0.
    fn is_mask(&self) -> bool {
        false
    }

    /// Its implementations for a device with this profile, the default first. An empty list means
    /// that nothing needs to run.
    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation>;

    /// Multiply-adds of one run.
    fn macs(&self, _inputs: &[&Spec], _outputs: &[&Spec]) -> u64 {
        0
    }
}

impl dyn Operation {
    /// Downcast to the operation type `T`, as needed to recognize operations that can be fused.
    pub fn downcast_ref<T: Operation>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// Whether this is an operation of the type `T`.
    pub fn is<T: Operation>(&self) -> bool {
        (self as &dyn Any).is::<T>()
    }
}

/// The inputs as an array of the number that the operation takes.
pub(crate) fn expect<'a, const N: usize>(inputs: &[&'a Spec]) -> Result<[&'a Spec; N], String> {
    inputs.try_into().map_err(|_| format!("expected {N} inputs, got {}", inputs.len()))
}
