//! The weighted sum of losses, and its gradient.

use super::expect;
use crate::error::Result;
use crate::graph::{Backward, Operation};
use crate::kernel::{Implementation, Kernel, Operands, Profile, Slot};
use crate::tensor::Spec;
use crate::text::plural;

const SOURCE: &str = include_str!("../../shaders/weighted_sum.wgsl");

/// Bindings of the summands; with the sum there are eight, the limit of a kernel.
const NAMES: [(&str, &str); 7] = [
    ("weight_0", "term_0"),
    ("weight_1", "term_1"),
    ("weight_2", "term_2"),
    ("weight_3", "term_3"),
    ("weight_4", "term_4"),
    ("weight_5", "term_5"),
    ("weight_6", "term_6"),
];

/// y = sum of weight[i] x[i]. Inputs: as many scalars [1] as weights, at most seven; output: [1].
#[derive(Clone, Debug)]
pub struct WeightedSum {
    /// The weight of each input.
    pub weights: Vec<f32>,
}

/// The gradient with respect to one input: dx = weight dy. Input: dy [1]; output: [1].
#[derive(Clone, Debug)]
pub struct WeightedSumGrad {
    /// The weight of that input.
    pub weight: f32,
}

impl Operation for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        if inputs.len() != self.weights.len() || inputs.is_empty() || inputs.len() > NAMES.len() {
            return Err(format!(
                "{} for {}; at most {}",
                plural(inputs.len(), "input"),
                plural(self.weights.len(), "weight"),
                NAMES.len()
            ));
        }
        match inputs.iter().find(|s| ***s != Spec::f32([1])) {
            Some(other) => Err(format!("expected scalars, got {other}")),
            None => Ok(vec![Spec::f32([1])]),
        }
    }

    fn backward(&self, context: &mut Backward<'_>) -> Result<()> {
        let Some(dy) = context.grad(0) else { return Ok(()) };
        let mut terms = self.weights.iter().enumerate();
        terms.try_for_each(|(i, weight)| context.contribute(i, WeightedSumGrad { weight: *weight }, &[dy]))
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let mut kernel = Kernel::new(operands, SOURCE, "weighted_sum")
            .constant("COUNT", u32::try_from(self.weights.len()).unwrap_or(0))
            .bind("y", Slot::Output(0))
            .workgroup(1, 1, 1);
        for (i, (weight, (weight_name, term_name))) in self.weights.iter().zip(NAMES).enumerate() {
            kernel = kernel.geometry(weight_name, *weight).bind(term_name, Slot::Input(i));
        }
        vec![Implementation::new("serial", vec![kernel])]
    }
}

impl Operation for WeightedSumGrad {
    fn name(&self) -> &'static str {
        "weighted_sum_grad"
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        let [dy] = expect(inputs)?;
        if *dy == Spec::f32([1]) { Ok(vec![dy.clone()]) } else { Err(format!("expected a scalar, got {dy}")) }
    }

    fn kernels(&self, operands: &Operands<'_>, _profile: &Profile) -> Vec<Implementation> {
        let kernel = Kernel::new(operands, SOURCE, "weighted_sum_grad")
            .groupable()
            .geometry("scale", self.weight)
            .bind("dy", Slot::Input(0))
            .bind("dx", Slot::Output(0))
            .workgroup(1, 1, 1);
        vec![Implementation::new("serial", vec![kernel])]
    }
}
