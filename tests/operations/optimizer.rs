//! sgd, adamw, average, clip_norm, accumulate: operations on whole regions.

use incept::gpu::Trial;
use incept::graph::{Operation, Spec};
use incept::kernel::{AdapterClass, Operand, Operands, Profile, Step};
use incept::ops::{Accumulate, AdamW, Average, ClipNorm, Lars, LossScale, Sgd};
use incept::reference::{Array, relative_error, run_operation};

use super::support::{check_step, gpu, noise, spec};

fn regions(count: usize) -> Vec<Array<f32>> {
    let mut regions: Vec<Array<f32>> = (0..count).map(|i| noise(&[64 * 37], i as u64 + 1)).collect();
    let multipliers = (0..37).flat_map(|i| [1.0 + (i % 2) as f32, (i % 3) as f32]).collect();
    regions.push(Array::new(&[74], multipliers));
    regions
}

#[test]
fn sgd_multipliers_and_nesterov() {
    let regions = regions(3);
    let inputs: Vec<&Array<f32>> = regions.iter().collect();
    let specs: Vec<Spec> = regions.iter().map(spec).collect();
    let step = Step { decay: 0.1, loss_scale: 4.0, ..Step::default() };
    for nesterov in [false, true] {
        check_step(&Sgd { nesterov }, &specs, &inputs, 1e-6, &[], &[], &step);
    }
}

#[test]
fn adamw_is_right_from_the_first_update_on() {
    let mut regions = regions(4);
    // Means of squares are not negative.
    regions[3].data.iter_mut().for_each(|v| *v *= *v);
    let op = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    for update in [0, 1, 10, 1000] {
        let step = Step { update, decay: 0.05, ..Step::default() };
        let inputs: Vec<&Array<f32>> = regions.iter().collect();
        let specs: Vec<Spec> = regions.iter().map(spec).collect();
        check_step(&op, &specs, &inputs, 1e-6, &[], &[], &step);
    }
    // The first update moves each parameter by the rate, whatever its gradient: a property of Adam.
    let (w, g) = (noise(&[64], 1), noise(&[64], 2));
    let zeros = Array::zeros(&[64]);
    let multipliers = Array::new(&[2], vec![1.0, 1.0]);
    let inputs = [&w, &g, &zeros, &zeros, &multipliers];
    let specs = inputs.map(spec);
    let step = Step { rate: 0.5, ..Step::default() };
    let out = run_operation(&op, &specs.iter().collect::<Vec<_>>(), &inputs, &step).expect("shapes fit");
    for ((after, before), g) in out[0].data.iter().zip(&w.data).zip(&g.data) {
        assert!((after - (before - 0.5 * g.signum())).abs() < 1e-4);
    }
}

/// Three tensors: one of 30 blocks that is decayed, a bias of one, and one of 6 whose weights are all zero.
#[test]
fn lars_scales_by_the_norms_of_tensors() {
    let (g, mut w) = (noise(&[64 * 37], 1), noise(&[64 * 37], 2));
    w.data[64 * 31..].fill(0.0);
    let decays = (0..37).flat_map(|block| [1.0, if block == 30 { 0.0 } else { 1.0 }]);
    let multipliers = Array::new(&[74], decays.collect());
    let segments = Array::new(&[6], vec![0.0, 30.0, 30.0, 1.0, 31.0, 6.0]);
    let op = Lars { trust: 0.01 };
    let step = Step { decay: 0.1, loss_scale: 4.0, ..Step::default() };
    let inputs = [&g, &w, &multipliers, &segments];
    check_step(&op, &inputs.map(spec), &inputs, 1e-6, &[], &[], &step);
    let guard = Array::new(&[3], vec![1.0, 8.0, 0.0]);
    let guarded = [&g, &w, &multipliers, &segments, &guard];
    check_step(&op, &guarded.map(spec), &guarded, 1e-6, &[], &[], &step);
    let plain = Step { decay: 0.0, loss_scale: 1.0, ..step };
    let out = run_operation(&op, &inputs.map(spec).each_ref(), &inputs, &plain).expect("shapes fit");
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    // Without decay the update has a hundredth of the weights' norm; the others are as they were.
    let part = 0..64 * 30;
    assert!((norm(&out[0].data[part.clone()]) / norm(&w.data[part]) - 0.01).abs() < 1e-5);
    assert_eq!(out[0].data[64 * 30..], g.data[64 * 30..]);
}

#[test]
fn averages() {
    let (average, w) = (noise(&[640], 1), noise(&[640], 2));
    for decay in [None, Some(0.99)] {
        for update in [0, 5, 100_000] {
            let step = Step { update, ..Step::default() };
            check_step(
                &Average { decay },
                &[spec(&average), spec(&w)],
                &[&average, &w],
                1e-6,
                &[],
                &[],
                &step,
            );
        }
    }
}

#[test]
fn accumulation_starts_anew() {
    let (sum, g) = (noise(&[640], 1), noise(&[640], 2));
    for step in 0..3 {
        let step = Step { step, ..Step::default() };
        let op = Accumulate { count: 3 };
        check_step(&op, &[spec(&sum), spec(&g)], &[&sum, &g], 1e-6, &[], &[], &step);
    }
}

#[test]
fn norms_are_clipped_from_above_only() {
    let g = noise(&[64 * 300], 1);
    for max_norm in [0.1, 1e6] {
        let step = Step { loss_scale: 2.0, ..Step::default() };
        check_step(&ClipNorm { max_norm }, &[spec(&g)], &[&g], 1e-6, &[], &[], &step);
    }
}

#[test]
fn loss_scales_move_with_overflows() {
    let op = LossScale { interval: 3 };
    let scalar = |value: f32| Array::new(&[1], vec![value]);
    for broken in [None, Some(f32::INFINITY), Some(f32::NEG_INFINITY), Some(f32::NAN)] {
        for place in [0, 64 * 151, 64 * 300 - 1] {
            let mut g = noise(&[64 * 300], 1);
            g.data[place] = broken.unwrap_or(f32::MAX);
            for (scale, good) in [(1.0, 0.0), (1024.0, 1.0), (1024.0, 2.0), (16_777_216.0, 2.0)] {
                let inputs = [&g, &scalar(scale), &scalar(good), &scalar(5.0)];
                let out = run_operation(&op, &inputs.map(spec).each_ref(), &inputs, &Step::default())
                    .expect("shapes fit");
                let applied = if broken.is_none() { 1.0 } else { 0.0 };
                assert_eq!(out[3].data, [applied, scale, 5.0]);
                check_step(&op, &inputs.map(spec), &inputs, 0.0, &[], &[], &Step::default());
            }
        }
    }
}

/// With a guard, updates take their scale from it and are counted without those that were skipped, or leave everything as it is.
#[test]
fn guarded_updates() {
    let mut regions = regions(4);
    regions[3].data.iter_mut().for_each(|v| *v *= *v);
    let multipliers = regions.remove(4);
    let step = Step { update: 7, decay: 0.1, ..Step::default() };
    for applied in [1.0, 0.0] {
        let guard = Array::new(&[3], vec![applied, 4.0, 5.0]);
        let [w, g, m, v] = [0, 1, 2, 3].map(|i| &regions[i]);
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        let calls: [(&dyn Operation, Vec<&Array<f32>>); 4] = [
            (&Sgd { nesterov: true }, vec![w, g, m, &multipliers, &guard]),
            (&adamw, vec![w, g, m, v, &multipliers, &guard]),
            (&Average { decay: Some(0.9) }, vec![m, w, &guard]),
            (&ClipNorm { max_norm: 0.1 }, vec![g, &guard]),
        ];
        for (op, inputs) in calls {
            let specs: Vec<Spec> = inputs.iter().map(|a| spec(a)).collect();
            check_step(op, &specs, &inputs, 1e-6, &[], &[], &step);
            // The same without a guard, from a step that says what the guard does.
            let plain = Step { update: 2, loss_scale: 4.0, ..step };
            let count = inputs.len() - 1;
            let refs: Vec<&Spec> = specs.iter().collect();
            let got = run_operation(op, &refs, &inputs, &step).expect("shapes fit");
            let want = run_operation(op, &refs[..count], &inputs[..count], &plain).expect("shapes fit");
            let unchanged = got[0] == *inputs[0];
            assert!(
                if applied == 1.0 { got == want } else { unchanged || op.name() == "clip_norm" },
                "{op:?}"
            );
        }
    }
}

/// Regions larger than a binding are gone through in parts.
#[test]
fn regions_larger_than_a_binding() {
    let length = 64 * 300;
    let (sum, g) = (noise(&[length], 1), noise(&[length], 2));
    let specs = [spec(&sum), spec(&g)];
    let operands: Vec<Operand> = specs.iter().cloned().map(Operand::dense).collect();
    let profile = Profile { binding: 20_000, ..Profile::webgpu(AdapterClass::Discrete) };
    for op in [&Accumulate { count: 2 } as &dyn Operation, &ClipNorm { max_norm: 1.0 }] {
        let count = op.infer(&[&specs[0], &specs[1]]).map_or(1, |_| 2);
        let outputs = op.infer(&specs.iter().take(count).collect::<Vec<_>>()).expect("shapes fit");
        let outputs: Vec<Operand> = outputs.into_iter().map(Operand::dense).collect();
        let operands = Operands { layer: "test", inputs: &operands[..count], outputs: &outputs };
        let implementation = op.kernels(&operands, &profile).remove(0);
        let bytes: u64 = implementation
            .kernels
            .iter()
            .flat_map(|k| k.bindings.iter().filter(|b| b.name == "sums").filter_map(|b| b.range.clone()))
            .map(|r| r.end - r.start)
            .sum();
        assert!(bytes == 0 || bytes == 4 * length as u64, "{bytes}");
        let step = Step { step: 1, ..Step::default() };
        let inputs = [&sum, &g];
        let trial = Trial::new(op, &specs[..count], 0).expect("shapes fit");
        let got = gpu().block_on(trial.run(gpu(), &implementation, &inputs[..count], &step)).expect("runs");
        let refs: Vec<&Spec> = specs.iter().take(count).collect();
        let want = run_operation(op, &refs, &inputs[..count], &step).expect("shapes fit");
        for (got, want) in got.arrays.iter().zip(&want) {
            assert!(relative_error(&got.data, &want.data) < 1e-6, "{op:?}");
        }
    }
}
