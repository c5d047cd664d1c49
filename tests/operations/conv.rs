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
    #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]

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

/// All directions of a convolution with the same stride and padding both ways.
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
    let op = ConvInputGrad { stride, padding, size, accumulate: true };
    let before = noise(&x.dims, 5);
    check(&op, &[spec(&dy), spec(&w), spec(&before)], &[&dy, &w, &before], 1e-5, &[1], &[]);
    let op = ConvWeightGrad { stride, padding, kernel: [kernel; 2] };
    check(&op, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[0]);
}

/// Sums that are cut into parts, and more results than one tile of the largest shape.
#[test]
fn more_than_one_tile() {
    directions([2, 20, 140], [20, 21], [3, 1, 1]);
}

/// Few results with long sums: all directions are cut into parts.
#[test]
fn long_sums() {
    directions([1, 70, 20], [6, 6], [3, 1, 1]);
    directions([9, 300, 5], [4, 4], [1, 1, 0]);
}

/// Rows that are whole vectors, where kernels load four words at a time, for each kernel of the networks.
#[test]
fn whole_vectors() {
    directions([2, 12, 40], [8, 8], [1, 1, 0]);
    directions([2, 12, 24], [4, 8], [3, 1, 1]);
    directions([1, 9, 16], [8, 4], [5, 1, 2]);
    directions([1, 3, 8], [16, 16], [7, 2, 3]);
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let (x, w) = (spec(&noise(&[1, 3, 4, 4], 1)), spec(&noise(&[8, 4, 3, 3], 1)));
    let error = Conv::new(1, 1).infer(&[&x, &w]).expect_err("3 channels are not 4");
    assert!(error.contains("1x3x4x4") && error.contains("8x4x3x3"), "{error}");
}
