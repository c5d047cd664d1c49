//! What the tests of operations share.

use incept::graph::Operation;
use incept::kernel::{Cooperative, Operands, Profile, Step};
use incept::ops::offers;
use incept::reference::{Array, relative_error, run_operation};
use incept::tensor::{Element, Spec};
use incept::tune::Trial;

use crate::support;
pub use crate::support::shared as gpu;

/// Relative error of a result that was stored as f16 against the twin's, which rounds likewise:
/// only sums that end near the middle between two f16 come out as the other one.
pub const HALF: f64 = 2e-4;

/// An array of numbers between -1 and 1 that look random, different for each seed.
pub fn noise(dims: &[usize], seed: u64) -> Array<f32> {
    Array::new(dims, support::noise::noise(dims.iter().product(), seed))
}

/// The spec of an array of f32.
pub fn spec(array: &Array<f32>) -> Spec {
    Spec::f32(array.dims.as_slice())
}

/// The same numbers stored as f16, with their spec.
pub fn half(array: &Array<f32>) -> (Array<f32>, Spec) {
    (array.clone().stored_as(Element::F16), Spec::f16(array.dims.as_slice()))
}

/// Runs every implementation that the operation offers on this device, with activations dense and
/// as windows of larger tensors, and compares each output with the f64 twin: relative L2 error at
/// most `limit`, u32 outputs equal, nothing outside the outputs touched. `parameters` are inputs,
/// `gradients` outputs that are never windows although they have four dimensions.
pub fn check(
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    limit: f64,
    parameters: &[usize],
    gradients: &[usize],
) {
    check_step(op, specs, inputs, limit, parameters, gradients, &Step::default());
}

/// As [`check`], for the kernels on cooperative matrices with loops in place of the matrices: the
/// tile with this number, of those that fit.
pub fn check_emulated(op: &dyn Operation, specs: &[Spec], inputs: &[&Array<f32>], tile: usize) {
    let matrices = Cooperative { size: 8, subgroup: 32, f16: false, f32: true, emulated: true };
    let profile = Profile { cooperative: Some(matrices), ..gpu().profile().clone() };
    check_one(op, specs, inputs, &profile, "cooperative", tile);
}

/// As [`check`], for one of the implementations that this profile allows: of those whose names
/// begin so, the one with this number.
pub fn check_one(
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    profile: &Profile,
    name: &str,
    number: usize,
) {
    let gpu = gpu();
    let wide: Vec<Array<f64>> = inputs.iter().map(|a| a.cast()).collect();
    let wide: Vec<&Array<f64>> = wide.iter().collect();
    let spec_refs: Vec<&Spec> = specs.iter().collect();
    let step = Step::default();
    let expected = run_operation(op, &spec_refs, &wide, &step).expect("the twin refuses the shapes");
    let trial = Trial::new(op, specs, 0).expect("the shapes are refused");
    let operands = Operands { layer: "layer", inputs: trial.inputs(), outputs: trial.outputs() };
    let mut list = offers(op, &operands, profile);
    list.retain(|i| i.name.starts_with(name) && i.fits(profile));
    let implementation = &list[number % list.len()];
    let name = format!("{op:?} {} {specs:?}", implementation.name);
    let result = gpu.block_on(trial.run(gpu, implementation, inputs, &step));
    let result = result.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(result.intact, "{name} wrote outside its outputs");
    let want: Array<f32> = expected[0].cast();
    let error = relative_error(&result.arrays[0].data, &want.data);
    assert!(error <= 1e-5, "{name}: error {error:.2e}");
}

/// As [`check`], at a given step.
pub fn check_step(
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    limit: f64,
    parameters: &[usize],
    gradients: &[usize],
    step: &Step,
) {
    let gpu = gpu();
    let wide: Vec<Array<f64>> = inputs.iter().map(|a| a.cast()).collect();
    let wide: Vec<&Array<f64>> = wide.iter().collect();
    let spec_refs: Vec<&Spec> = specs.iter().collect();
    let expected = run_operation(op, &spec_refs, &wide, step).expect("the twin refuses the shapes");
    let outputs = op.infer(&spec_refs).expect("the shapes are refused");
    // A padding that is a multiple of four keeps vector loads possible, the other does not. Each
    // implementation runs with one of them and the next with another: a driver that compiles slowly
    // would take minutes for all.
    for (turn, pad) in [0, 4, 3].into_iter().enumerate() {
        let mut trial = Trial::new(op, specs, pad).expect("the shapes are refused");
        for index in parameters {
            trial = trial.dense_input(*index);
        }
        for index in gradients {
            trial = trial.dense_output(*index);
        }
        let implementations = trial.implementations(gpu);
        assert!(!implementations.is_empty(), "{op:?} has no implementation for this device");
        let few = implementations.len() < 3;
        for (_, implementation) in implementations.iter().enumerate().filter(|(i, _)| few || i % 3 == turn) {
            let name = format!("{op:?} {} pad {pad} {specs:?}", implementation.name);
            let result = gpu
                .block_on(trial.run(gpu, implementation, inputs, step))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(result.intact, "{name} wrote outside its outputs");
            for ((got, want), spec) in result.arrays.iter().zip(&expected).zip(&outputs) {
                let want: Array<f32> = want.cast();
                if spec.element == Element::U32 {
                    assert_eq!(got.data, want.data, "{name}");
                } else {
                    let error = relative_error(&got.data, &want.data);
                    assert!(error <= limit, "{name}: error {error:.2e} above {limit:.0e}");
                }
            }
        }
    }
}
