//! Fully connected layers and their gradients.

use incept::graph::Operation;
use incept::kernel::{AdapterClass, Operand, Operands, Profile};
use incept::ops::{Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad};
use incept::tensor::Spec;
use proptest::prelude::*;

use super::support::{check, noise, spec};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes(
        batch in 1usize..40, channels in 1usize..50, side in 1usize..4, outputs in 1usize..80, relu: bool,
    ) {
        let x = noise(&[batch, channels, side, side], 1);
        let w = noise(&[outputs, channels * side * side], 2);
        let b = noise(&[outputs], 3);
        let dy = noise(&[batch, outputs], 4);
        check(&Linear { relu }, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], 1e-5, &[], &[]);
        let op = LinearInputGrad { shape: x.dims.clone().into() };
        check(&op, &[spec(&dy), spec(&w)], &[&dy, &w], 1e-5, &[], &[]);
        check(&LinearWeightGrad, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[]);
        check(&LinearBiasGrad, &[spec(&dy)], &[&dy], 1e-5, &[], &[]);
    }
}

/// Sums long enough for split-K, with a shorter last part.
#[test]
fn split_k() {
    for (batch, features, outputs) in [(33, 700, 70), (300, 40, 36), (5, 520, 400)] {
        let (x, w) = (noise(&[batch, features], 1), noise(&[outputs, features], 2));
        let (b, dy) = (noise(&[outputs], 3), noise(&[batch, outputs], 4));
        let forward = Linear { relu: true };
        check(&forward, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], 1e-5, &[], &[]);
        let op = LinearInputGrad { shape: x.dims.clone().into() };
        check(&op, &[spec(&dy), spec(&w)], &[&dy, &w], 1e-5, &[], &[]);
        check(&LinearWeightGrad, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[]);
    }
    let (x, w, b) = (noise(&[33, 700], 1), noise(&[70, 700], 2), noise(&[70], 3));
    let inputs = [&x, &w, &b].map(|tensor| Operand::dense(spec(tensor)));
    let operands = Operands { layer: "fc", inputs: &inputs, outputs: &[Operand::dense(Spec::f32([33, 70]))] };
    let gpu = Linear { relu: false }.kernels(&operands, &Profile::webgpu(AdapterClass::Discrete));
    assert_eq!((gpu[0].name, gpu[0].kernels.len(), gpu[0].kernels[0].groups), ("tiled_split", 2, [3, 2, 6]));
}

#[test]
fn shape_errors_name_both_shapes() {
    let (x, w, b) = (noise(&[2, 9], 1), noise(&[4, 8], 1), noise(&[4], 1));
    let error =
        Linear { relu: false }.infer(&[&spec(&x), &spec(&w), &spec(&b)]).expect_err("9 features are not 8");
    assert!(error.contains("2x9") && error.contains("4x8"), "{error}");
}
