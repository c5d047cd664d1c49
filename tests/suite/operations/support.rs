//! Shared code of operation tests.

use std::sync::LazyLock;

use incept::cpu::{Cpu, trial};
use incept::gpu::Gpu;
use incept::graph::Operation;
use incept::kernel::{AdapterClass, Cooperative, Implementation, Operands, Profile, Step};
use incept::ops::offers;
use incept::reference::{Array, relative_error, run_operation};
use incept::tensor::{Element, Spec};
use incept::tune::Trial;

use crate::support;
use crate::support::gpu::missing;
pub use crate::support::shared as gpu;

/// Relative error limit of f16 results against the reference, which rounds likewise: only sums near
/// the middle between two f16 round differently.
pub const HALF: f64 = 2e-4;

/// The CPU as a device, with two threads on every machine.
pub fn cpu() -> &'static Cpu {
    static CPU: LazyLock<Cpu> = LazyLock::new(|| Cpu::new(Some(2)).expect("threads"));
    &CPU
}

/// An array of noise in [-1, 1), by seed.
pub fn noise(dims: &[usize], seed: u64) -> Array<f32> {
    Array::new(dims, support::noise::noise(dims.iter().product(), seed))
}

/// The spec of an array of f32.
pub fn spec(array: &Array<f32>) -> Spec {
    Spec::f32(array.dims.as_slice())
}

/// The values rounded to f16, with their spec.
pub fn half(array: &Array<f32>) -> (Array<f32>, Spec) {
    (array.clone().stored_as(Element::F16), Spec::f16(array.dims.as_slice()))
}

/// Runs every implementation of the operation on this device and its CPU kernel, with activations
/// dense and as windows of larger tensors, and compares each output with the f64 reference:
/// relative L2 error up to `limit`, u32 outputs equal, no writes outside the outputs.
/// `parameters` are 4-D inputs and `gradients` 4-D outputs that are never windows.
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

/// As [`check`], for cooperative kernels with emulated matrices: tile number `tile` of those that
/// fit.
pub fn check_emulated(op: &dyn Operation, specs: &[Spec], inputs: &[&Array<f32>], tile: usize) {
    if missing() {
        return;
    }
    let matrices = Cooperative { size: 8, subgroup: 32, f16: false, f32: true, emulated: true };
    let profile = Profile { cooperative: Some(matrices), ..gpu().profile().clone() };
    check_one(op, specs, inputs, &profile, "cooperative", tile);
}

/// As [`check`], for implementation `number` of those in this profile whose names start with
/// `name`.
pub fn check_one(
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    profile: &Profile,
    name: &str,
    number: usize,
) {
    if missing() {
        return;
    }
    let gpu = gpu();
    let wide: Vec<Array<f64>> = inputs.iter().map(|a| a.cast()).collect();
    let wide: Vec<&Array<f64>> = wide.iter().collect();
    let spec_refs: Vec<&Spec> = specs.iter().collect();
    let step = Step::default();
    let expected = run_operation(op, &spec_refs, &wide, &step).expect("the reference rejects the shapes");
    let trial = Trial::new(op, specs, 0).expect("the shapes are rejected");
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
    let wide: Vec<Array<f64>> = inputs.iter().map(|a| a.cast()).collect();
    let wide: Vec<&Array<f64>> = wide.iter().collect();
    let spec_refs: Vec<&Spec> = specs.iter().collect();
    let expected = run_operation(op, &spec_refs, &wide, step).expect("the reference rejects the shapes");
    let outputs = op.infer(&spec_refs).expect("the shapes are rejected");
    let compare = |name: &str, arrays: &[Array<f32>]| {
        for ((got, want), spec) in arrays.iter().zip(&expected).zip(&outputs) {
            let want: Array<f32> = want.cast();
            if spec.element == Element::U32 {
                assert_eq!(got.data, want.data, "{name}");
            } else {
                let error = relative_error(&got.data, &want.data);
                assert!(error <= limit, "{name}: error {error:.2e} above {limit:.0e}");
            }
        }
    };
    // Kernels of the CPU read f32 only; its sessions convert other elements.
    if specs.iter().chain(&outputs).all(|spec| spec.element != Element::F16) {
        for pad in [0, 3] {
            let found = trial(cpu(), op, specs, inputs, (pad, [parameters, gradients]), step);
            let name = format!("{op:?} on the CPU, pad {pad}, {specs:?}");
            if let Some(arrays) = found.unwrap_or_else(|e| panic!("{name}: {e}")) {
                compare(&name, &arrays);
            }
        }
    }
    if missing() {
        return;
    }
    // Kernels that can be in a group run as in one.
    for (gpu, in_groups) in [(gpu(), false), (support::shared_as_gpu(), true)] {
        check_on(gpu, in_groups, op, specs, inputs, (parameters, gradients), step, &compare);
    }
}

/// Runs the implementations that are for this device, alternating between operands with and without
/// padding.
#[expect(clippy::too_many_arguments, reason = "the arguments of `check_step`, and the device")]
fn check_on(
    gpu: &Gpu,
    in_groups: bool,
    op: &dyn Operation,
    specs: &[Spec],
    inputs: &[&Array<f32>],
    (parameters, gradients): (&[usize], &[usize]),
    step: &Step,
    compare: &dyn Fn(&str, &[Array<f32>]),
) {
    // A padding that is a multiple of four allows vector loads, the other does not. Implementations
    // alternate between them, because slow drivers would take minutes to compile all combinations.
    for (turn, pad) in [0, 4, 3].into_iter().enumerate() {
        let mut trial = Trial::new(op, specs, pad).expect("the shapes are rejected");
        for index in parameters {
            trial = trial.dense_input(*index);
        }
        for index in gradients {
            trial = trial.dense_output(*index);
        }
        let mut implementations = trial.implementations(gpu);
        assert!(!implementations.is_empty(), "{op:?} has no implementation for this device");
        let groupable = |i: &Implementation| i.kernels.iter().any(|kernel| kernel.groupable);
        let for_software = |i: &Implementation| i.suits.contains(&AdapterClass::Software);
        implementations.retain(|i| if in_groups { groupable(i) } else { for_software(i) || !groupable(i) });
        let few = implementations.len() < 3;
        for (_, implementation) in implementations.iter().enumerate().filter(|(i, _)| few || i % 3 == turn) {
            let name = format!("{op:?} {} pad {pad} {specs:?}, in groups: {in_groups}", implementation.name);
            let result = gpu
                .block_on(trial.run(gpu, implementation, inputs, step))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(result.intact, "{name} wrote outside its outputs");
            compare(&name, &result.arrays);
        }
    }
}
