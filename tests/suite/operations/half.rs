//! Every operation with f16 activations: loads and stores round, arithmetic is f32.

use std::slice::from_ref;

use incept::graph::Operation;
use incept::graph::{Add, Copy};
use incept::kernel::Step;
use incept::ops::{
    AdaptiveAvgPool, AvgPool, AvgPoolGrad, BatchNorm, BatchNormGrad, Conv, ConvBiasGrad, ConvInputGrad,
    ConvWeightGrad, Dropout, Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad, Lrn, LrnGrad,
    MaxPool, MaxPoolGrad, Relu, ReluGrad, Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad,
};
use incept::reference::{Array, run_operation};
use incept::tensor::{Element, Spec};

use super::support::{HALF, check, check_step, gpu, half, noise, spec};
use crate::support::gpu::missing;

/// Batch items with an odd number of elements, so that windows start in the middle of words.
const DIMS: [usize; 4] = [3, 5, 7, 9];

#[test]
fn elementwise() {
    let ((x, s), (dy, _)) = (half(&noise(&DIMS, 1)), half(&noise(&DIMS, 2)));
    check(&Relu, from_ref(&s), &[&x], 0.0, &[], &[]);
    check(&ReluGrad, &[s.clone(), s.clone()], &[&x, &dy], 0.0, &[], &[]);
    check(&Add, &[s.clone(), s.clone()], &[&x, &dy], HALF, &[], &[]);
    check(&Copy, from_ref(&s), &[&x], 0.0, &[], &[]);
    let step = Step { seed: 3, step: 2, ..Step::default() };
    check_step(&Dropout { probability: 0.4, salt: 1 }, &[s], &[&x], HALF, &[], &[], &step);
}

#[test]
fn pools() {
    let (x, s) = half(&noise(&DIMS, 1));
    for pool in [MaxPool::new(3, 2, 0), MaxPool::new(3, 1, 1)] {
        check(&pool, from_ref(&s), &[&x], 0.0, &[], &[]);
        let chosen = run_operation(&pool, &[&s], &[&x], &Step::default()).expect("shapes fit").remove(1);
        let (dy, d) = half(&noise(&chosen.dims, 2));
        let chosen_spec = Spec::u32(chosen.dims.as_slice());
        let mut op = MaxPoolGrad { pool, size: [7, 9], accumulate: false, masked: false };
        check(&op, &[d.clone(), chosen_spec.clone()], &[&dy, &chosen], HALF, &[], &[]);
        op.accumulate = true;
        check(&op, &[d, chosen_spec, s.clone()], &[&dy, &chosen, &x], HALF, &[], &[]);
    }
    check(&AdaptiveAvgPool { output: [4, 4] }, from_ref(&s), &[&x], HALF, &[], &[]);
    let pool = AvgPool { kernel: 3, stride: 2, padding: 1, ceil: true };
    check(&pool, from_ref(&s), &[&x], HALF, &[], &[]);
    let out = pool.infer(&[&s]).expect("shapes fit").remove(0);
    let (dy, d) = half(&noise(out.dims(), 3));
    let mut op = AvgPoolGrad { pool: Some(pool), size: [7, 9], accumulate: false, masked: false };
    check(&op, from_ref(&d), &[&dy], HALF, &[], &[]);
    op.accumulate = true;
    check(&op, &[d, s], &[&dy, &x], HALF, &[], &[]);
}

#[test]
fn norms() {
    let ((x, s), (dy, _)) = (half(&noise(&DIMS, 1)), half(&noise(&DIMS, 2)));
    let lrn = Lrn { size: 5, alpha: 1.0, beta: 0.75, k: 1.0 };
    check(&lrn, from_ref(&s), &[&x], HALF, &[], &[]);
    check(&LrnGrad { lrn, masked: false }, &[s.clone(), s.clone()], &[&x, &dy], HALF, &[], &[]);
    let (weight, bias, mean) = (noise(&[5], 2), noise(&[5], 3), noise(&[5], 4));
    let mut variance = noise(&[5], 5);
    variance.data.iter_mut().for_each(|v| *v = v.abs() + 0.1);
    let each = spec(&weight);
    for training in [true, false] {
        let op = BatchNorm { epsilon: 1e-3, momentum: 0.1, relu: true, training };
        let specs = [s.clone(), each.clone(), each.clone(), each.clone(), each.clone()];
        let inputs = [&x, &weight, &bias, &mean, &variance];
        check(&op, &specs, &inputs, HALF, &[], &[]);
        let made =
            run_operation(&op, &specs.iter().collect::<Vec<_>>(), &inputs, &Step::default()).expect("fits");
        let (mean, spread) = if training { (&made[1], &made[2]) } else { (&mean, &variance) };
        let op = BatchNormGrad { epsilon: 1e-3, relu: true, training };
        let specs = [s.clone(), s.clone(), s.clone(), each.clone(), each.clone(), each.clone()];
        check(&op, &specs, &[&x, &made[0], &dy, &weight, mean, spread], HALF, &[], &[]);
    }
}

#[test]
fn convolutions() {
    let (x, s) = half(&noise(&DIMS, 1));
    let (weight, bias) = (noise(&[11, 5, 3, 3], 2), noise(&[11], 3));
    for (stride, padding) in [(1, 1), (2, 0)] {
        let op = Conv { relu: true, ..Conv::new(stride, padding) };
        check(&op, &[s.clone(), spec(&weight), spec(&bias)], &[&x, &weight, &bias], HALF, &[1], &[]);
        let out = op.infer(&[&s, &spec(&weight)]).expect("shapes fit").remove(0);
        let (dy, d) = half(&noise(out.dims(), 4));
        let (stride, padding) = (op.stride, op.padding);
        let mut op = ConvInputGrad { stride, padding, size: [7, 9], accumulate: false, masked: false };
        check(&op, &[d.clone(), spec(&weight)], &[&dy, &weight], HALF, &[1], &[]);
        op.accumulate = true;
        check(&op, &[d.clone(), spec(&weight), s.clone()], &[&dy, &weight, &x], HALF, &[1], &[]);
        // Gradients of parameters are f32.
        let op = ConvWeightGrad { stride, padding, kernel: [3, 3] };
        check(&op, &[s.clone(), d.clone()], &[&x, &dy], 1e-5, &[], &[0]);
        check(&ConvBiasGrad, &[d], &[&dy], 1e-5, &[], &[]);
    }
}

/// Rows of whole vec4, and enough of everything for tiles and split-K.
#[test]
fn convolutions_with_vector_loads() {
    let (x, s) = half(&noise(&[2, 24, 12, 8], 1));
    let bias = noise(&[40], 3);
    for (kernel, padding) in [(1, 0), (3, 1)] {
        let weight = noise(&[40, 24, kernel, kernel], 2);
        let op = Conv { relu: true, ..Conv::new(1, padding) };
        check(&op, &[s.clone(), spec(&weight), spec(&bias)], &[&x, &weight, &bias], HALF, &[1], &[]);
        let (dy, d) = half(&noise(&[2, 40, 12, 8], 4));
        let (stride, padding) = (op.stride, op.padding);
        let op = ConvInputGrad { stride, padding, size: [12, 8], accumulate: true, masked: false };
        check(&op, &[d.clone(), spec(&weight), s.clone()], &[&dy, &weight, &x], HALF, &[1], &[]);
        let op = ConvWeightGrad { stride, padding, kernel: [kernel; 2] };
        check(&op, &[s.clone(), d], &[&x, &dy], 1e-5, &[], &[0]);
    }
}

#[test]
fn fully_connected() {
    let ((x, s), (dy, d)) = (half(&noise(&[7, 3, 3, 5], 1)), half(&noise(&[7, 13], 2)));
    let (weight, bias) = (noise(&[13, 45], 3), noise(&[13], 4));
    let inputs = [&x, &weight, &bias];
    check(&Linear { relu: true }, &[s.clone(), spec(&weight), spec(&bias)], &inputs, HALF, &[], &[]);
    let op = LinearInputGrad { shape: x.dims.clone().into() };
    check(&op, &[d.clone(), spec(&weight)], &[&dy, &weight], HALF, &[], &[]);
    check(&LinearWeightGrad, &[s, d.clone()], &[&x, &dy], 1e-5, &[], &[]);
    check(&LinearBiasGrad, &[d], &[&dy], 1e-5, &[], &[]);
}

#[test]
fn losses_are_f32_and_logit_gradients_f16() {
    let mut logits = noise(&[9, 13], 1);
    logits.data.iter_mut().for_each(|x| *x *= 8.0);
    let (logits, s) = half(&logits);
    let labels = Array::new(&[9], (0..9).map(|i| (i % 14) as f32).collect());
    let op = SoftmaxCrossEntropy { smoothing: 0.1 };
    check(&op, &[s.clone(), Spec::u32([9])], &[&logits, &labels], 1e-5, &[], &[]);
    check(&Softmax, from_ref(&s), &[&logits], 2e-5, &[], &[]);
    let made = run_operation(&Softmax, &[&s], &[&logits], &Step::default()).expect("shapes fit").remove(0);
    let op = SoftmaxCrossEntropyGrad { smoothing: 0.1, logits: Element::F16 };
    let dloss = Array::new(&[1], vec![1024.0]);
    let specs = [spec(&made), Spec::u32([9]), spec(&dloss)];
    assert_eq!(op.infer(&specs.iter().collect::<Vec<_>>()).expect("shapes fit")[0], Spec::f16([9, 13]));
    check(&op, &specs, &[&made, &labels, &dloss], HALF, &[], &[]);
}

/// Loss scaling depends on this: overflow must be stored as infinity, not as the largest finite
/// f16.
#[test]
fn f16_overflow_is_stored_as_infinity() {
    if missing() {
        return;
    }
    let (x, s) = half(&Array::new(&[1, 1, 1, 3], vec![60_000.0, -60_000.0, 1.0]));
    let trial = incept::tune::Trial::new(&Add, &[s.clone(), s], 0).expect("shapes fit");
    let implementation = trial.implementations(gpu()).remove(0);
    let made = gpu().block_on(trial.run(gpu(), &implementation, &[&x, &x], &Step::default())).expect("runs");
    assert_eq!(made.arrays[0].data, [f32::INFINITY, f32::NEG_INFINITY, 2.0]);
}

#[test]
fn parameters_and_losses_stay_f32() {
    let (x, w, b) = (Spec::f16([2, 3, 4, 4]), Spec::f32([8, 3, 3, 3]), Spec::f32([8]));
    assert_eq!(Conv::new(1, 1).infer(&[&x, &w, &b]), Ok(vec![Spec::f16([2, 8, 4, 4])]));
    let error = Conv::new(1, 1).infer(&[&x, &Spec::f16([8, 3, 3, 3])]).expect_err("the weight is f16");
    assert!(error.contains("f16 8x3x3x3"), "{error}");
    let (x, b) = (Spec::f16([2, 8]), Spec::f16([4]));
    Linear { relu: false }.infer(&[&x, &Spec::f32([4, 8]), &b]).expect_err("the bias is f16");
    Add.infer(&[&x, &Spec::f32([2, 8])]).expect_err("they are stored differently");
}
