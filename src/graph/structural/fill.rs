//! A constant tensor: the seed of the backward pass, and the gradient of parameters that a loss
//! does not depend on.

use crate::Result;
use crate::graph::{Operation, expect};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::{Shape, Spec};

const SOURCE: &str = include_str!("../../../shaders/fill.wgsl");

/// Fills a new f32 tensor of `shape` with a value. No inputs.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The extents of the output.
    pub shape: Shape,
    /// The value.
    pub value: f32,
    /// Whether the value is multiplied by the step's loss scale.
    pub scaled: bool,
}

impl Fill {
    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), value: 0.0, scaled: false }
    }

    /// The step's loss scale: the gradient of a loss with respect to itself.
    pub fn loss_scale(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), value: 1.0, scaled: true }
    }
}

impl Operation for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [] = expect(inputs)?;
        Ok(vec![Spec::f32(self.shape.clone())])
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let y = &operands.outputs[0];
        let kernel = Kernel::new(operands, SOURCE, "fill")
            .groupable()
            .geometries([
                ("count", y.volume()),
                ("item", y.spec.shape.item()),
                ("offset", y.offset),
                ("stride", y.batch_stride),
            ])
            .geometry("value", self.value)
            .geometry("scaled", self.scaled)
            .bind("y", Slot::Output(0))
            .linear(y.volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}
