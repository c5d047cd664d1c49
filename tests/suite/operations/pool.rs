//! max_pool, avg_pool.

use incept::graph::Operation;
use incept::ops::{AdaptiveAvgPool, AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad};
use incept::reference::{Array, run_operation};
use incept::tensor::Spec;
use proptest::prelude::*;

use super::support::{check, noise, spec};

fn indices(pool: &MaxPool, x: &Array<f32>) -> Array<f32> {
    run_operation(pool, &[&spec(x)], &[x], &incept::kernel::Step::default()).expect("shapes fit").remove(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_max_pools(
        batch in 1usize..3, channels in 1usize..5, size in [1usize..14, 1..14],
        kernel in 1usize..6, stride in 1usize..6, padding in 0usize..3, ceil: bool,
    ) {
        let x = noise(&[batch, channels, size[0], size[1]], 1);
        let mut pool = MaxPool { kernel, stride, padding, ceil, indices: true };
        prop_assume!(pool.infer(&[&spec(&x)]).is_ok());
        check(&pool, &[spec(&x)], &[&x], 0.0, &[], &[]);
        let chosen = indices(&pool, &x);
        let dy = noise(&chosen.dims, 2);
        let u32s = Spec::u32(chosen.dims.as_slice());
        let mut op = MaxPoolGrad { pool: pool.clone(), size, accumulate: false, masked: false };
        check(&op, &[spec(&dy), u32s.clone()], &[&dy, &chosen], 1e-6, &[], &[]);
        op.accumulate = true;
        let before = noise(&x.dims, 3);
        check(&op, &[spec(&dy), u32s.clone(), spec(&before)], &[&dy, &chosen, &before], 1e-6, &[], &[]);
        op.masked = true;
        let specs = [spec(&dy), u32s, spec(&before), spec(&x)];
        check(&op, &specs, &[&dy, &chosen, &before, &x], 1e-6, &[], &[]);
        pool.indices = false;
        check(&pool, &[spec(&x)], &[&x], 0.0, &[], &[]);
    }

    #[test]
    fn random_avg_pools(
        batch in 1usize..3, channels in 1usize..5, size in [1usize..14, 1..14], output in [1usize..6, 1..6],
        kernel in 1usize..6, stride in 1usize..6, padding in 0usize..3, ceil: bool,
    ) {
        let x = noise(&[batch, channels, size[0], size[1]], 1);
        let op = AdaptiveAvgPool { output };
        check(&op, &[spec(&x)], &[&x], 1e-6, &[], &[]);
        let dy = noise(&[batch, channels, output[0], output[1]], 2);
        // A gradient is a sum of a few shares that may nearly cancel.
        let limit = 5e-6;
        let mut grad = AvgPoolGrad { pool: None, size, accumulate: false, masked: false };
        check(&grad, &[spec(&dy)], &[&dy], limit, &[], &[]);
        grad.accumulate = true;
        check(&grad, &[spec(&dy), spec(&x)], &[&dy, &x], limit, &[], &[]);
        grad.masked = true;
        let activation = noise(&x.dims, 3);
        check(&grad, &[spec(&dy), spec(&x), spec(&x)], &[&dy, &x, &activation], limit, &[], &[]);
        let op = AvgPool { kernel, stride, padding, ceil };
        if let Ok(out) = op.infer(&[&spec(&x)]) {
            check(&op, &[spec(&x)], &[&x], 1e-6, &[], &[]);
            let dy = noise(out[0].dims(), 2);
            check(&AvgPoolGrad { pool: Some(op), size, accumulate: false, masked: false }, &[spec(&dy)], &[&dy], limit, &[], &[]);
        }
    }
}
