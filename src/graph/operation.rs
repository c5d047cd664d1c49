//! What every operation can say about itself: shapes, gradient, storage, kernels. The engine knows
//! operations only through this trait; it never matches on their names.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::Backward;
use crate::error::Result;
use crate::kernel::{Implementation, Operands, Profile};
use crate::tensor::Spec;

/// A statement that two tensors of a node share storage.
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

/// What becomes of an operation when the network is evaluated and not trained.
#[derive(Clone, Debug)]
pub enum Inference {
    /// It stays as it is.
    Same,
    /// It disappears: its first output is its first input (dropout).
    Identity,
    /// Another operation with the same inputs and the first of the outputs takes its place (batch
    /// norm, max pool).
    Replace(Arc<dyn Operation>),
}

/// One operation of the graph, forward or backward. Values of this type hold attributes (stride,
/// padding) and no tensors.
pub trait Operation: Any + Debug + Send + Sync {
    /// The name by which shader, kernel, twin and test are found, for example `conv`.
    fn name(&self) -> &'static str;

    /// The outputs for these inputs.
    ///
    /// # Errors
    /// The reason, with the shapes, if the operation cannot work on these inputs.
    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String>;

    /// Adds to the graph what the gradient of this node needs. Operations without a gradient
    /// (optimizers, the backward operations themselves) keep the default, which contributes
    /// nothing.
    ///
    /// # Errors
    /// Shape errors of the nodes that it adds.
    fn backward(&self, _context: &mut Backward<'_>) -> Result<()> {
        Ok(())
    }

    /// Which of its tensors share storage. The planner sees to it that they do, with a copy where
    /// it must.
    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        Vec::new()
    }

    /// The operation that does this and then `next` in one kernel, if there is one.
    fn fuse(&self, _next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        None
    }

    /// As [`Operation::fuse`], where the result has no gradient: for inference. Inputs of `next`
    /// after its first follow those of this one.
    fn fold(&self, _next: &dyn Operation) -> Option<Arc<dyn Operation>> {
        None
    }

    /// What becomes of it in evaluation.
    fn for_inference(&self) -> Inference {
        Inference::Same
    }

    /// The variant that takes one more input of its output's shape and adds its result to it in
    /// place.
    fn accumulating(&self) -> Option<Arc<dyn Operation>> {
        None
    }

    /// The variant that leaves zeros where an activation of its output's shape is not above zero:
    /// the gradient of the ReLU that the activation came out of, taken along. The activation is the
    /// input `own`, or, with none, one more input, the last.
    fn masked(&self, _own: Option<usize>) -> Option<Arc<dyn Operation>> {
        None
    }

    /// Whether it is the gradient of a ReLU: of inputs y and dy, dy where y is above zero.
    fn is_mask(&self) -> bool {
        false
    }

    /// The ways to run it on a device with this profile, the best default first. An empty list
    /// means that nothing needs to run.
    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation>;

    /// Multiply-adds of one run.
    fn macs(&self, _inputs: &[&Spec], _outputs: &[&Spec]) -> u64 {
        0
    }
}

impl dyn Operation {
    /// This as an operation of the type `T`, if it is one: how an operation knows others that it
    /// can do in one kernel with itself.
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
