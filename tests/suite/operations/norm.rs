//! lrn, batch_norm.

use incept::kernel::Step;
use incept::ops::{BatchNorm, BatchNormGrad, Lrn, LrnGrad};
use incept::reference::{Array, run_operation};
use proptest::prelude::*;

use super::gradient::check_gradient;
use super::support::{check, noise, spec};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_lrn(
        batch in 1usize..4, channels in 1usize..40, size in [1usize..9, 1..9], alpha in 0.01f32..2.0,
        half in 1usize..4, beta in prop::sample::select(vec![0.75f32, 0.5, 1.0]),
    ) {
        let dims = [batch, channels, size[0], size[1]];
        let (x, dy) = (noise(&dims, 1), noise(&dims, 2));
        let lrn = Lrn { size: 2 * half + 1, alpha, beta, k: 1.0 };
        check(&lrn, &[spec(&x)], &[&x], 1e-5, &[], &[]);
        for masked in [false, true] {
            let grad = LrnGrad { lrn: lrn.clone(), masked };
            check(&grad, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[]);
        }
    }

    #[test]
    fn random_batch_norm(
        batch in 1usize..5, channels in 1usize..20, size in [1usize..12, 1..12], relu: bool, shift in -3.0f32..3.0,
    ) {
        // With one or two values per channel the variance is tiny and f32 has no significant digits
        // left.
        prop_assume!(batch * size[0] * size[1] > 8);
        let mut x = noise(&[batch, channels, size[0], size[1]], 1);
        x.data.iter_mut().for_each(|x| *x += shift);
        let (weight, bias, mean) = (noise(&[channels], 2), noise(&[channels], 3), noise(&[channels], 4));
        let mut variance = noise(&[channels], 5);
        variance.data.iter_mut().for_each(|v| *v = v.abs() + 0.1);
        let inputs = [&x, &weight, &bias, &mean, &variance];
        let specs: Vec<_> = inputs.iter().map(|a| spec(a)).collect();
        for training in [true, false] {
            let op = BatchNorm { epsilon: 1e-3, momentum: 0.1, relu, training };
            check(&op, &specs, &inputs, 1e-5, &[], &[]);
        }
        let op = BatchNorm { epsilon: 1e-3, momentum: 0.1, relu, training: true };
        let outputs: Vec<Array<f32>> =
            run_operation(&op, &specs.iter().collect::<Vec<_>>(), &inputs, &Step::default()).expect("shapes fit");
        let dy = noise(&x.dims, 6);
        let inputs = [&x, &outputs[0], &dy, &weight, &outputs[1], &outputs[2]];
        let specs: Vec<_> = inputs.iter().map(|a| spec(a)).collect();
        let epsilon = 1e-3;
        check(&BatchNormGrad { epsilon, relu, training: true }, &specs, &inputs, 2e-5, &[], &[]);
        let inputs = [&x, &outputs[0], &dy, &weight, &mean, &variance];
        check(&BatchNormGrad { epsilon, relu, training: false }, &specs, &inputs, 2e-5, &[], &[]);
    }
}

#[test]
fn lrn_gradient_matches_finite_differences() {
    let x = noise(&[2, 7, 3, 3], 1);
    for beta in [0.75, 1.0] {
        check_gradient(&Lrn { size: 5, alpha: 0.5, beta, k: 1.0 }, &[&x], &[0]);
    }
}

#[test]
fn batch_norm_gradient_matches_finite_differences() {
    let (x, weight, bias) = (noise(&[3, 2, 4, 4], 1), noise(&[2], 2), noise(&[2], 3));
    let (mean, variance) = (noise(&[2], 4), Array::new(&[2], vec![0.5, 2.0]));
    for training in [true, false] {
        let op = BatchNorm { epsilon: 1e-3, momentum: 0.1, relu: false, training };
        // Running statistics are no differentiable inputs.
        check_gradient(&op, &[&x, &weight, &bias, &mean, &variance], &[0, 1, 2]);
    }
}
