//! A copy, inserted by the planner where two tensors cannot share storage.

use crate::Result;
use crate::graph::{Backward, Operation, expect};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::{Element, Spec};

const SOURCE: &str = include_str!("../../../shaders/copy.wgsl");

/// y = x. Input: any tensor; output: the same shape and element type.
#[derive(Clone, Debug)]
pub struct Copy;

impl Operation for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [x] = expect(inputs)?;
        Ok(vec![x.clone()])
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        context.pass(0, dy)
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (x, y) = (&operands.inputs[0], &operands.outputs[0]);
        let word = if y.spec.element == Element::F16 { "f16" } else { "u32" };
        let kernel = Kernel::new(operands, SOURCE, "copy")
            .groupable()
            .geometries([
                ("count", y.volume()),
                ("item", y.spec.shape.item()),
                ("offset", y.offset),
                ("stride", y.batch_stride),
                ("other_offset", x.offset),
                ("other_stride", x.batch_stride),
            ])
            .bind_as("y", Slot::Output(0), word)
            .bind_as("x", Slot::Input(0), word)
            .linear(y.volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}
