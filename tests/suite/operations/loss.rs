//! softmax_cross_entropy, weighted_sum, dropout, concat.

use incept::graph::Operation;
use incept::kernel::Step;
use incept::ops::{
    Concat, Dropout, Slice, Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad, WeightedSum,
    WeightedSumGrad,
};
use incept::reference::{Array, run_operation};
use incept::tensor::{Element, Spec};
use proptest::prelude::*;

use super::support::{check, check_step, noise, spec};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_cross_entropy(rows in 1usize..70, classes in 1usize..130, smoothing in 0.0f32..0.5, large in 1.0f32..80.0) {
        let mut x = noise(&[rows, classes], 1);
        x.data.iter_mut().for_each(|x| *x *= large);
        // Some labels are not classes.
        let labels: Vec<f32> = (0..rows).map(|i| ((i * 7) % (classes + 2)) as f32).collect();
        let labels = Array::new(&[rows], labels);
        let (s, l) = (spec(&x), Spec::u32([rows]));
        check(&SoftmaxCrossEntropy { smoothing }, &[s.clone(), l.clone()], &[&x, &labels], 1e-5, &[], &[]);
        check(&Softmax, std::slice::from_ref(&s), &[&x], 2e-5, &[], &[]);
        let probabilities = run_operation(&Softmax, &[&s], &[&x], &Step::default()).expect("shapes fit").remove(0);
        let dloss = Array::new(&[1], vec![0.3]);
        let op = SoftmaxCrossEntropyGrad { smoothing, logits: Element::F32 };
        check(&op, &[s, l, spec(&dloss)], &[&probabilities, &labels, &dloss], 1e-5, &[], &[]);
    }
}

/// Second labels and class weights, alone and together, against the reference; the reference is
/// compared with torch's `CrossEntropyLoss(weight=..., label_smoothing=0.1)`.
#[test]
fn mixed_labels_and_class_weights() {
    let (rows, classes) = (9, 5);
    let x = noise(&[rows, classes], 1);
    let ids = |step: usize| Array::new(&[rows], (0..rows).map(|i| ((i * step) % classes) as f32).collect());
    let (mut labels, second) = (ids(1), ids(3));
    // A row to ignore.
    labels.data[4] = 7.0;
    let share = Array::new(&[rows], (0..rows).map(|i| i as f32 / 8.0).collect());
    let weights = Array::new(&[classes], vec![0.5, 1.0, 2.0, 0.0, 3.0]);
    let (logits, u32s) = (spec(&x), Spec::u32([rows]));
    let (op, dloss) = (SoftmaxCrossEntropy { smoothing: 0.1 }, Array::new(&[1], vec![0.7]));
    let grad = SoftmaxCrossEntropyGrad { smoothing: 0.1, logits: Element::F32 };
    let probabilities =
        run_operation(&Softmax, &[&logits], &[&x], &Step::default()).expect("shapes fit").remove(0);
    let mixed = [(u32s.clone(), &second), (spec(&share), &share)];
    let weighted = [(spec(&weights), &weights)];
    for optional in [&mixed[..], &weighted[..], &[mixed.clone().to_vec(), weighted.to_vec()].concat()] {
        let specs =
            |first: &[Spec]| [first.to_vec(), optional.iter().map(|o| o.0.clone()).collect()].concat();
        let arrays = |first: &[&Array<f32>]| -> Vec<Array<f32>> {
            first.iter().map(|a| (*a).clone()).chain(optional.iter().map(|o| o.1.clone())).collect()
        };
        let inputs = arrays(&[&x, &labels]);
        let refs: Vec<&Array<f32>> = inputs.iter().collect();
        check(&op, &specs(&[logits.clone(), u32s.clone()]), &refs, 1e-5, &[], &[]);
        let inputs = arrays(&[&probabilities, &labels, &dloss]);
        let refs: Vec<&Array<f32>> = inputs.iter().collect();
        check(&grad, &specs(&[logits.clone(), u32s.clone(), spec(&dloss)]), &refs, 1e-5, &[], &[]);
    }
    let wrong = op.infer(&[&logits, &u32s, &Spec::f32([classes + 1])]).expect_err("one weight too many");
    assert!(wrong.contains("class weights"), "{wrong}");
    // torch 2: CrossEntropyLoss(weight=[1, 2], label_smoothing=0.1)([[0, 1], [2, 0]], [0, 1]).
    let x = Array::new(&[2, 2], vec![0.0f64, 1.0, 2.0, 0.0]);
    let (labels, weights) = (Array::new(&[2], vec![0.0, 1.0]), Array::new(&[2], vec![1.0, 2.0]));
    let specs = [Spec::f32([2, 2]), Spec::u32([2]), Spec::f32([2])];
    let out = run_operation(&op, &specs.each_ref(), &[&x, &labels, &weights], &Step::default());
    let loss = out.expect("shapes fit")[0].data[0];
    assert!((loss - 1.775_478_131_142_643_5).abs() < 1e-6, "{loss}");
}

#[test]
fn equal_logits_predict_the_first_class() {
    let x = Array::new(&[2, 3], vec![1.0; 6]);
    let labels = Array::new(&[2], vec![0.0, 1.0]);
    let op = SoftmaxCrossEntropy { smoothing: 0.0 };
    let outputs = run_operation(&op, &[&spec(&x), &Spec::u32([2])], &[&x, &labels], &Step::default());
    assert_eq!(outputs.expect("shapes fit")[2].data, [1.0]);
    check(&op, &[spec(&x), Spec::u32([2])], &[&x, &labels], 1e-6, &[], &[]);
}

#[test]
fn weighted_sum() {
    let terms: Vec<Array<f32>> = (0..3).map(|i| noise(&[1], i + 1)).collect();
    let op = WeightedSum { weights: vec![1.0, 0.3, 0.3] };
    let specs: Vec<Spec> = terms.iter().map(spec).collect();
    check(&op, &specs, &terms.iter().collect::<Vec<_>>(), 1e-6, &[], &[]);
    check(&WeightedSumGrad { weight: 0.3 }, &[spec(&terms[0])], &[&terms[0]], 1e-6, &[], &[]);
}

#[test]
fn dropout_masks_match_the_reference_and_differ() {
    let x = Array::new(&[4, 50, 5, 7], vec![1.0; 7000]);
    let op = Dropout { probability: 0.4, salt: 3 };
    let mut masks = Vec::new();
    for (step, salt) in [(0, 3), (1, 3), (0, 4)] {
        let op = Dropout { salt, ..op.clone() };
        let step = Step { seed: 7, step, ..Step::default() };
        check_step(&op, &[spec(&x)], &[&x], 1e-6, &[], &[], &step);
        masks.push(run_operation(&op, &[&spec(&x)], &[&x], &step).expect("shapes fit").remove(0).data);
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let same = masks[a].iter().zip(&masks[b]).filter(|(a, b)| a == b).count() as f64 / 7000.0;
        // Independent masks agree with probability 0.6^2 + 0.4^2 = 0.52, here within five standard
        // deviations.
        assert!((same - 0.52).abs() < 0.03, "{same}");
    }
    let kept = masks[0].iter().filter(|x| **x > 0.0).count() as f64 / 7000.0;
    assert!((kept - 0.6).abs() < 0.03, "{kept}");
    let mean = masks[0].iter().sum::<f32>() / 7000.0;
    assert!((mean - 1.0).abs() < 0.05, "{mean}");
}

#[test]
fn slice_inverts_concat() {
    let (a, b) = (noise(&[2, 3, 2, 2], 1), noise(&[2, 5, 2, 2], 2));
    let joined =
        run_operation(&Concat, &[&spec(&a), &spec(&b)], &[&a, &b], &Step::default()).expect("fits").remove(0);
    assert_eq!(joined.dims, [2, 8, 2, 2]);
    assert_eq!(joined.data[..12], a.data[..12]);
    assert_eq!(joined.data[12..32], b.data[..20]);
    for (part, channel) in [(&a, 0), (&b, 3)] {
        let op = Slice { channel, channels: part.dims[1] };
        let cut =
            run_operation(&op, &[&spec(&joined)], &[&joined], &Step::default()).expect("fits").remove(0);
        assert_eq!(cut, *part);
    }
    let error = Concat.infer(&[&spec(&a), &spec(&noise(&[2, 5, 3, 2], 2))]).expect_err("heights differ");
    assert!(error.contains("2x3x2x2") && error.contains("2x5x3x2"), "{error}");
}
