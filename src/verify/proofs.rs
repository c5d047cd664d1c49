//! Tests that all of the crate's own kernels are proven, and changed ones are not.

use crate::error::Result;
use crate::graph::{Operation, TensorId};
use crate::infer::InferenceGraph;
use crate::kernel::{AdapterClass, Implementation, Operand, Operands, Profile, Slot};
use crate::model::GoogLeNet;
use crate::ops::{Relu, offers};
use crate::optim::{Averaging, Optimizer, Precision, Rule};
use crate::plan::{Plan, PlanOptions};
use crate::tensor::Spec;
use crate::train::TrainingGraph;

/// One of the crate's own implementations with its operands.
fn relu() -> (Implementation, Vec<Operand>, Profile) {
    let profile = Profile::webgpu(AdapterClass::Software);
    let operands = vec![Operand::dense(Spec::f32([4, 8]))];
    let both = Operands { layer: "layer", inputs: &operands, outputs: &operands };
    (offers(&Relu, &both, &profile).remove(0), operands, profile)
}

#[test]
fn changed_kernels_are_not_proven() {
    let (own, operands, profile) = relu();
    let proven = |i: &Implementation| i.is_proven(&operands, &operands, &profile);
    assert!(proven(&own) && proven(&own.clone()));
    type Change = fn(&mut Implementation);
    let changes: [Change; 8] = [
        |i| i.kernels[0].groups[0] += 1,
        |i| i.kernels[0].workgroup[0] *= 2,
        |i| i.kernels[0].geometry[0].1 = 1000_usize.into(),
        |i| i.kernels[0].constants.push(("MORE", 1_u32.into())),
        |i| i.kernels[0].bindings[0].slot = Slot::Input(0),
        |i| i.kernels[0].source = "//# relu\nfn relu() {}",
        |i| i.kernels.clear(),
        |i| i.scratch.push(4),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut changed = own.clone();
        change(&mut changed);
        assert!(!proven(&changed), "change {number}");
    }
    // Neither for other operands, nor for another subgroup size.
    let smaller = vec![Operand::dense(Spec::f32([4, 4]))];
    assert!(!own.is_proven(&smaller, &smaller, &profile));
    let both = Operands { layer: "layer", inputs: &operands, outputs: &operands };
    let eight = Profile { subgroup: Some(8), ..profile.clone() };
    assert!(!offers(&Relu, &both, &eight)[0].is_proven(&operands, &operands, &profile));
}

#[test]
fn external_operations_are_not_proven() {
    let (_, operands, profile) = relu();
    let both = Operands { layer: "layer", inputs: &operands, outputs: &operands };
    assert!(!Relu.kernels(&both, &profile)[0].is_proven(&operands, &operands, &profile));
}

/// A crate operation missing from the list would silently run with bounds checks.
#[test]
fn all_crate_kernels_run_unchecked() -> Result<()> {
    let profile = Profile::webgpu(AdapterClass::Discrete);
    let lars = Optimizer {
        rule: Rule::Lars { trust_coefficient: 0.001 },
        max_grad_norm: Some(1.0),
        accumulate: 2,
        ..Optimizer::default()
    };
    let adamw = Optimizer {
        rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
        average: Some(Averaging::Polyak),
        precision: Precision::f16(),
        ..Optimizer::default()
    };
    for (network, optimizer) in [
        (GoogLeNet::paper(), Optimizer::default()),
        (GoogLeNet::torchvision().input(64), lars),
        (GoogLeNet::torchvision().input(64), adamw),
    ] {
        let network = network.width(0.25).classes(10);
        let element = optimizer.precision.element();
        let graphs = [
            TrainingGraph::new(&network, &optimizer, 2)?.graph,
            InferenceGraph::new(&network, 2, element)?.graph,
        ];
        for graph in graphs {
            let options =
                PlanOptions { profile: &profile, outputs: &[], metrics: &[], layout: None, choices: None };
            let plan = Plan::new(&graph, &options)?;
            for planned in &plan.nodes {
                let node = plan.graph.node(planned.node);
                let list = |list: &[TensorId]| list.iter().map(|t| plan.operand(*t)).collect::<Vec<_>>();
                let (inputs, outputs) = (list(&node.inputs), list(&node.outputs));
                assert!(planned.implementation.is_proven(&inputs, &outputs, &profile), "{:?}", node.op);
            }
        }
    }
    Ok(())
}
