//! lrn, batch_norm.

use incept::kernel::Step;
use incept::ops::{BatchNorm, BatchNormGrad, Lrn, LrnGrad};
use incept::reference::{Array, run_operation};
use proptest::prelude::*;

use super::fixtures::fixture;
use super::support::{check, golden, noise, spec};

#[test]
fn lrn_goldens() {
    let file = fixture("op_lrn");
    for (case, alpha, k) in [("googlenet", 1e-4, 1.0), ("strong", 1.0, 2.0), ("three_channels", 1.0, 2.0)] {
        let get = |name: &str| &file[&format!("{case}.{name}")];
        let lrn = Lrn { size: 5, alpha, beta: 0.75, k };
        golden(&lrn, &[get("input")], &[get("output")], 1e-6, &[], &[]);
        let inputs = [get("input"), get("grad_output")];
        golden(&LrnGrad { lrn }, &inputs, &[get("grad_input")], 1e-6, &[], &[]);
    }
}

#[test]
fn batch_norm_goldens() {
    let file = fixture("op_batchnorm");
    for (case, training) in [("train", true), ("eval", false)] {
        let get = |name: &str| &file[&format!("{case}.{name}")];
        let op = BatchNorm { epsilon: 1e-3, momentum: 0.1, relu: false, training };
        let inputs = [get("input"), get("weight"), get("bias"), get("running_mean"), get("running_var")];
        golden(&op, &inputs, &[get("output")], 1e-6, &[], &[]);
        if !training {
            continue;
        }
        let specs: Vec<_> = inputs.iter().map(|a| spec(a)).collect();
        let specs: Vec<_> = specs.iter().collect();
        let outputs = run_operation(&op, &specs, &inputs, &Step::default()).expect("shapes fit");
        let (mean, inverse_std) = (&outputs[1], &outputs[2]);
        let wanted = [get("output"), mean, inverse_std, get("running_mean_after"), get("running_var_after")];
        golden(&op, &inputs, &wanted, 1e-6, &[], &[]);
        let inputs = [get("input"), get("output"), get("grad_output"), get("weight"), mean, inverse_std];
        let wanted = [get("grad_input"), get("grad_weight"), get("grad_bias")];
        golden(&BatchNormGrad { relu: false }, &inputs, &wanted, 1e-5, &[], &[]);
    }
}

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
        check(&LrnGrad { lrn }, &[spec(&x), spec(&dy)], &[&x, &dy], 1e-5, &[], &[]);
    }

    #[test]
    fn random_batch_norm(
        batch in 1usize..5, channels in 1usize..20, size in [1usize..12, 1..12], relu: bool, shift in -3.0f32..3.0,
    ) {
        // Of one or two values a channel has no variance to speak of, and f32 no digits left.
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
        check(&BatchNormGrad { relu }, &specs, &inputs, 2e-5, &[], &[]);
    }
}
