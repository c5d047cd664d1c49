//! Convolution and its gradients.

use incept::graph::Operation;
use incept::kernel::{AdapterClass, MOST_GROUPS, Operand, Operands, Profile, Vendor};
use incept::ops::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad, offers};
use incept::reference::Array;
use incept::tensor::Spec;
use proptest::prelude::*;

use super::support::{check, check_emulated, check_one, gpu, noise, spec};
use crate::support::gpu::missing;

/// batch, channels, outputs, size, kernel, stride, padding.
type Case = (usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2]);

fn cases() -> impl Strategy<Value = Case> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    (1usize..4, 1usize..20, 1usize..40, pair(1..14), pair(1..6), pair(1..5), pair(0..4))
        .prop_filter("the kernel must fit", |(_, _, _, size, kernel, _, padding)| {
            (0..2).all(|i| size[i] + 2 * padding[i] >= kernel[i])
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes((batch, channels, outputs, size, kernel, stride, padding) in cases(), relu: bool) {
        let x = noise(&[batch, channels, size[0], size[1]], 1);
        let w = noise(&[outputs, channels, kernel[0], kernel[1]], 2);
        let b = noise(&[outputs], 3);
        let forward = Conv { stride, padding, relu, norm: None };
        check(&forward, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], 1e-5, &[1], &[]);
        let out = forward.infer(&[&spec(&x), &spec(&w)]).expect("shapes fit").remove(0);
        let dy = noise(out.dims(), 4);
        let mut op = ConvInputGrad { stride, padding, size, accumulate: false, masked: false };
        check(&op, &[spec(&dy), spec(&w)], &[&dy, &w], 1e-5, &[1], &[]);
        let before = noise(&x.dims, 5);
        op.accumulate = true;
        op.masked = true;
        let specs = [spec(&dy), spec(&w), spec(&before), spec(&x)];
        check(&op, &specs, &[&dy, &w, &before, &x], 1e-5, &[1], &[]);
        check(&ConvWeightGrad { stride, padding, kernel }, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[0]);
        check(&ConvBiasGrad, &[spec(&dy)], &[&dy], 1e-5, &[], &[]);
    }
}

/// All directions of a convolution with equal stride and padding in both dimensions.
fn directions(
    [batch, channels, outputs]: [usize; 3],
    size: [usize; 2],
    [kernel, stride, padding]: [usize; 3],
) {
    let (x, w) =
        (noise(&[batch, channels, size[0], size[1]], 1), noise(&[outputs, channels, kernel, kernel], 2));
    let b = noise(&[outputs], 3);
    let forward = Conv { relu: true, ..Conv::new(stride, padding) };
    check(&forward, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], 1e-5, &[1], &[]);
    let out = forward.infer(&[&spec(&x), &spec(&w)]).expect("shapes fit").remove(0);
    let dy = noise(out.dims(), 4);
    let (stride, padding) = ([stride; 2], [padding; 2]);
    // With a mask and without accumulation; random shapes cover both.
    let op = ConvInputGrad { stride, padding, size, accumulate: false, masked: true };
    check(&op, &[spec(&dy), spec(&w), spec(&x)], &[&dy, &w, &x], 1e-5, &[1], &[]);
    let op = ConvWeightGrad { stride, padding, kernel: [kernel; 2] };
    check(&op, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[0]);
}

/// Tiles of pixels continue in the third dimension of the grid if one dimension is too small.
#[test]
fn tiles_overflow_into_the_third_grid_dimension() {
    if missing() {
        return;
    }
    let (x, w, b) = (noise(&[1, 1, 2049, 2056], 1), noise(&[1, 1, 1, 1], 2), noise(&[1], 3));
    let forward = Conv::new(1, 0);
    let specs = [spec(&x), spec(&w), spec(&b)];
    check_one(&forward, &specs, &[&x, &w, &b], gpu().profile(), "tiled_32x64", 0);
    // 2049 x 2056 pixels are 65,825 tiles of 64.
    let operands = Operands {
        layer: "conv",
        inputs: &specs.each_ref().map(|s| Operand::dense(s.clone())),
        outputs: &[Operand::dense(spec(&x))],
    };
    for implementation in forward.kernels(&operands, &Profile::webgpu(AdapterClass::Discrete)) {
        let fits = implementation.kernels.iter().all(|k| k.groups.iter().all(|n| *n <= MOST_GROUPS));
        let folds = implementation.kernels.iter().any(|k| k.groups[2] == 2);
        assert!(fits || implementation.name == "register", "{}", implementation.name);
        assert_eq!(folds, implementation.name == "tiled_32x64" || implementation.name == "tiled_64x64");
    }
}

/// Batch items summed in parts with a smaller last one, with vector and scalar planes.
#[test]
fn bias_gradient_of_many_items() {
    for (items, outputs, side) in [(40, 100, 4), (37, 70, 5), (3, 300, 6)] {
        let dy = noise(&[items, outputs, side, side], 1);
        check(&ConvBiasGrad, &[spec(&dy)], &[&dy], 1e-5, &[], &[]);
    }
}

/// Batch norm fused into a convolution: with and without a bias, with and without split-K.
#[test]
fn fused_batch_norm() {
    for (dims, outputs, kernel, bias) in [([2, 12, 4, 8], 24, 3, true), ([1, 300, 5, 5], 10, 1, false)] {
        let op = Conv { norm: Some(1e-3), relu: true, ..Conv::new(1, kernel / 2) };
        let (x, w) = (noise(&dims, 1), noise(&[outputs, dims[1], kernel, kernel], 2));
        let [b, scale, shift, mean] = [10, 11, 12, 13].map(|seed| noise(&[outputs], seed));
        let mut variance = noise(&[outputs], 14);
        variance.data.iter_mut().for_each(|v| *v = v.abs() + 0.1);
        let vectors = [&b, &scale, &shift, &mean, &variance];
        let vectors = vectors.into_iter().skip(usize::from(!bias));
        let inputs: Vec<&Array<f32>> = [&x, &w].into_iter().chain(vectors).collect();
        let specs: Vec<Spec> = inputs.iter().map(|t| spec(t)).collect();
        check(&op, &specs, &inputs, 2e-5, &[1], &[]);
    }
}

/// Strides with empty sub-pixel phases, and sizes that end between windows.
#[test]
fn strides_and_subpixel_phases() {
    directions([2, 3, 20], [17, 16], [7, 2, 3]);
    directions([1, 9, 12], [13, 10], [3, 3, 0]);
    directions([1, 4, 70], [8, 9], [2, 3, 1]);
    // Whole vectors of dy whose results are not adjacent.
    directions([2, 12, 20], [8, 8], [1, 2, 0]);
}

/// Split-K, and more results than the largest tile.
#[test]
fn more_than_one_tile() {
    directions([2, 20, 140], [20, 21], [3, 1, 1]);
}

/// Few results with long sums: split-K in all directions.
#[test]
fn split_k() {
    directions([1, 70, 20], [6, 6], [3, 1, 1]);
    directions([9, 300, 5], [4, 4], [1, 1, 0]);
}

/// Rows of whole vectors with vec4 loads, for each kernel size of the networks.
#[test]
fn vector_loads() {
    directions([2, 12, 40], [8, 8], [1, 1, 0]);
    directions([2, 12, 24], [4, 8], [3, 1, 1]);
    directions([1, 9, 16], [8, 4], [5, 1, 2]);
    directions([1, 3, 8], [16, 16], [7, 2, 3]);
    // Enough results for the largest tiles.
    directions([5, 132, 70], [8, 8], [1, 1, 0]);
}

/// Shapes with all ways to load, split-K, strides and all epilogues, as `directions`.
const LOADS: [([usize; 3], [usize; 2], [usize; 3]); 5] = [
    ([2, 20, 40], [8, 8], [1, 1, 0]),
    ([9, 300, 5], [4, 4], [1, 1, 0]),
    ([2, 20, 40], [9, 10], [3, 1, 1]),
    ([2, 20, 40], [8, 8], [1, 2, 0]),
    ([1, 3, 70], [17, 16], [7, 2, 3]),
];

/// Each direction of those shapes, with the number of the shape.
fn loads(mut check: impl FnMut(&dyn Operation, &[Spec], &[&Array<f32>], usize)) {
    for (number, ([batch, channels, outputs], size, [kernel, stride, padding])) in
        LOADS.into_iter().enumerate()
    {
        let x = noise(&[batch, channels, size[0], size[1]], 1);
        let (w, b) = (noise(&[outputs, channels, kernel, kernel], 2), noise(&[outputs], 3));
        let forward = Conv { relu: true, ..Conv::new(stride, padding) };
        check(&forward, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], number);
        let out = forward.infer(&[&spec(&x), &spec(&w)]).expect("shapes fit").remove(0);
        let dy = noise(out.dims(), 4);
        let (stride, padding) = ([stride; 2], [padding; 2]);
        let op = ConvInputGrad { stride, padding, size, accumulate: true, masked: true };
        let before = noise(&x.dims, 5);
        let specs = [spec(&dy), spec(&w), spec(&before), spec(&x)];
        check(&op, &specs, &[&dy, &w, &before, &x], number + 1);
        let op = ConvWeightGrad { stride, padding, kernel: [kernel; 2] };
        check(&op, &[spec(&x), spec(&dy)], &[&x, &dy], number);
    }
}

/// The cooperative kernels with emulated matrices.
#[test]
fn emulated_matrices() {
    loads(check_emulated);
}

/// What tuning tries of a 3x3 convolution and its gradients: nothing that the compiler of that
/// vendor spills.
#[test]
fn tuning_tries_no_kernel_that_spills() {
    let (x, w) = (Spec::f32([8, 64, 56, 56]), Spec::f32([128, 64, 3, 3]));
    let y = Spec::f32([8, 128, 56, 56]);
    let (stride, padding) = ([1; 2], [1; 2]);
    let input = ConvInputGrad { stride, padding, size: [56; 2], accumulate: false, masked: false };
    let weight = ConvWeightGrad { stride, padding, kernel: [3; 2] };
    let cases: [(&dyn Operation, [&Spec; 2], &Spec); 3] =
        [(&Conv::new(1, 1), [&x, &w], &y), (&input, [&y, &w], &x), (&weight, [&x, &y], &w)];
    let tried = |vendor, op: &dyn Operation, inputs: [&Spec; 2], output: &Spec| {
        let profile = Profile { vendor, ..Profile::webgpu(AdapterClass::Integrated) };
        let operands = Operands {
            layer: "conv",
            inputs: &inputs.map(|spec| Operand::dense(spec.clone())),
            outputs: &[Operand::dense(output.clone())],
        };
        let mut list = offers(op, &operands, &profile);
        list.retain(|i| i.may_be_faster(&profile));
        list.into_iter().map(|i| i.name).collect::<Vec<_>>()
    };
    for (op, inputs, output) in cases {
        let spills = ["register", "winograd", "winograd_small", "tiled_128x256", "tiled_64x256"];
        let on_intel = tried(Vendor::Intel, op, inputs, output);
        assert!(on_intel.len() > 1 && !on_intel.iter().any(|name| spills.contains(name)), "{on_intel:?}");
        assert_eq!(tried(Vendor::Unknown, op, inputs, output), on_intel);
        let on_amd = tried(Vendor::Amd, op, inputs, output);
        assert!(on_amd.contains(&"winograd_small") && on_amd.contains(&"register"), "{on_amd:?}");
    }
}

/// Tiles whose loads wait in registers, which only the vendors of GPUs with many of them get: other
/// tests run those of unknown GPUs.
#[test]
fn loads_in_flight() {
    if missing() {
        return;
    }
    for vendor in [Vendor::Nvidia, Vendor::Amd] {
        let profile = Profile { vendor, ..gpu().profile().clone() };
        loads(|op, specs, inputs, number| check_one(op, specs, inputs, &profile, "tiled", number));
    }
}

#[test]
fn shape_errors_name_both_shapes() {
    let (x, w) = (spec(&noise(&[1, 3, 4, 4], 1)), spec(&noise(&[8, 4, 3, 3], 1)));
    let error = Conv::new(1, 1).infer(&[&x, &w]).expect_err("3 channels are not 4");
    assert!(error.contains("1x3x4x4") && error.contains("8x4x3x3"), "{error}");
}
