//! Sum of two tensors, for gradients that reach one tensor from several readers.

use crate::Result;
use crate::graph::{Alias, Backward, Operation, expect};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;

const SOURCE: &str = include_str!("../../../shaders/add.wgsl");

/// y = a + b, in place on a. Inputs: two tensors of equal shape and storage; output: their sum.
#[derive(Clone, Debug)]
pub struct Add;

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [a, b] = expect(inputs)?;
        if a == b { Ok(vec![a.clone()]) } else { Err(format!("cannot add {b} to {a}")) }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        context.pass(0, dy)?;
        context.pass(1, dy)
    }

    fn aliases(&self, _inputs: &[&Spec]) -> Vec<Alias> {
        vec![Alias::InPlace { output: 0, input: 0 }]
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let (b, y) = (&operands.inputs[1], &operands.outputs[0]);
        let kernel = Kernel::new(operands, SOURCE, "add")
            .groupable()
            .geometries([
                ("count", y.volume()),
                ("item", y.spec.shape.item()),
                ("offset", y.offset),
                ("stride", y.batch_stride),
                ("other_offset", b.offset),
                ("other_stride", b.batch_stride),
            ])
            .bind("y", Slot::Output(0))
            .bind("b", Slot::Input(1))
            .linear(y.volume());
        vec![Implementation::new("linear", vec![kernel])]
    }
}
