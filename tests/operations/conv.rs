//! Convolution and its gradients.

use incept::graph::Operation;
use incept::ops::{Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad};
use proptest::prelude::*;

use super::support::{check, noise, spec};

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
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes((batch, channels, outputs, size, kernel, stride, padding) in cases(), relu: bool) {
        let x = noise(&[batch, channels, size[0], size[1]], 1);
        let w = noise(&[outputs, channels, kernel[0], kernel[1]], 2);
        let b = noise(&[outputs], 3);
        let forward = Conv { stride, padding, relu };
        check(&forward, &[spec(&x), spec(&w), spec(&b)], &[&x, &w, &b], 1e-5, &[1], &[]);
        let out = forward.infer(&[&spec(&x), &spec(&w)]).expect("shapes fit").remove(0);
        let dy = noise(out.dims(), 4);
        let mut op = ConvInputGrad { stride, padding, size, accumulate: false };
        check(&op, &[spec(&dy), spec(&w)], &[&dy, &w], 1e-5, &[1], &[]);
        op.accumulate = true;
        let before = noise(&x.dims, 5);
        check(&op, &[spec(&dy), spec(&w), spec(&before)], &[&dy, &w, &before], 1e-5, &[1], &[]);
        check(&ConvWeightGrad { stride, padding, kernel }, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[0]);
        check(&ConvBiasGrad, &[spec(&dy)], &[&dy], 1e-5, &[], &[]);
    }
}

/// Sums that are cut into parts, and more results than one tile of the largest shape.
#[test]
fn large_shapes() {
    let (x, w) = (noise(&[2, 20, 20, 21], 1), noise(&[140, 20, 3, 3], 2));
    let dy = noise(&[2, 140, 20, 21], 3);
    let (stride, padding) = ([1, 1], [1, 1]);
    check(&Conv::new(1, 1), &[spec(&x), spec(&w)], &[&x, &w], 1e-5, &[1], &[]);
    let op = ConvInputGrad { stride, padding, size: [20, 21], accumulate: false };
    check(&op, &[spec(&dy), spec(&w)], &[&dy, &w], 1e-5, &[1], &[]);
    let op = ConvWeightGrad { stride, padding, kernel: [3, 3] };
    check(&op, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[0]);
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let (x, w) = (spec(&noise(&[1, 3, 4, 4], 1)), spec(&noise(&[8, 4, 3, 3], 1)));
    let error = Conv::new(1, 1).infer(&[&x, &w]).expect_err("3 channels are not 4");
    assert!(error.contains("1x3x4x4") && error.contains("8x4x3x3"), "{error}");
}
