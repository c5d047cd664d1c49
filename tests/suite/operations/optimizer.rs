//! sgd, adamw, average, clip_norm, accumulate: operations on whole regions.

use incept::graph::Operation;
use incept::kernel::{AdapterClass, Operand, Operands, Profile, Step, Window};
use incept::ops::{Accumulate, AdamW, Average, ClipNorm, Lars, LossScale, Sgd, offers};
use incept::optim::{Moment, Schedule};
use incept::reference::{Array, relative_error, run_operation};
use incept::tensor::Spec;
use incept::tune::Trial;

use super::support::{check_step, gpu, noise, spec};
use crate::support::gpu::missing;

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
    let step = Step { weight_decay: 0.1, loss_scale: 4.0, ..Step::default() };
    for nesterov in [false, true] {
        check_step(&Sgd { nesterov }, &specs, &inputs, 1e-6, &[], &[], &step);
    }
}

#[test]
fn adamw_matches_reference_from_the_first_update() {
    let mut regions = regions(4);
    // Second moments are not negative.
    regions[3].data.iter_mut().for_each(|v| *v *= *v);
    let op = AdamW { beta2: 0.999, epsilon: 1e-8 };
    for update in [0, 1, 10, 1000] {
        let step = Step { update, weight_decay: 0.05, ..Step::default() };
        let inputs: Vec<&Array<f32>> = regions.iter().collect();
        let specs: Vec<Spec> = regions.iter().map(spec).collect();
        check_step(&op, &specs, &inputs, 1e-6, &[], &[], &step);
    }
    // Adam's first update moves each parameter by the learning rate, whatever its gradient.
    let (w, g) = (noise(&[64], 1), noise(&[64], 2));
    let zeros = Array::zeros(&[64]);
    let multipliers = Array::new(&[2], vec![1.0, 1.0]);
    let inputs = [&w, &g, &zeros, &zeros, &multipliers];
    let specs = inputs.map(spec);
    let step = Step { lr: 0.5, ..Step::default() };
    let out = run_operation(&op, &specs.iter().collect::<Vec<_>>(), &inputs, &step).expect("shapes fit");
    for ((after, before), g) in out[0].data.iter().zip(&w.data).zip(&g.data) {
        assert!((after - (before - 0.5 * g.signum())).abs() < 1e-4);
    }
}

/// Three tensors: 30 blocks with weight decay, a bias of one block, and 6 blocks of zero weights.
#[test]
fn lars_scales_by_tensor_norms() {
    let [mut w, g, m] = [1, 2, 3].map(|seed| noise(&[64 * 37], seed));
    w.data[64 * 31..].fill(0.0);
    let decays = (0..37).flat_map(|block| [1.0, if block == 30 { 0.0 } else { 1.0 }]);
    let multipliers = Array::new(&[74], decays.collect());
    let segments = Array::new(&[6], vec![0.0, 30.0, 30.0, 1.0, 31.0, 6.0]);
    let op = Lars { trust_coefficient: 0.01 };
    let step = Step { lr: 0.5, weight_decay: 0.1, loss_scale: 4.0, ..Step::default() };
    let inputs = [&w, &g, &m, &multipliers, &segments];
    check_step(&op, &inputs.map(spec), &inputs, 1e-6, &[], &[], &step);
    let guard = Array::new(&[3], vec![1.0, 8.0, 0.0]);
    let guarded = [&w, &g, &m, &multipliers, &segments, &guard];
    check_step(&op, &guarded.map(spec), &guarded, 1e-6, &[], &[], &step);
    let overflowed = Array::new(&[3], vec![0.0, 8.0, 0.0]);
    let skipped = [&w, &g, &m, &multipliers, &segments, &overflowed];
    let out = run_operation(&op, &skipped.map(spec).each_ref(), &skipped, &step).expect("shapes fit");
    assert!(out[0] == w && out[1] == m);
    check_step(&op, &skipped.map(spec), &skipped, 0.0, &[], &[], &step);
    let plain = Step { lr: 1.0, momentum: 0.0, weight_decay: 0.0, loss_scale: 1.0, ..step };
    let out = run_operation(&op, &inputs.map(spec).each_ref(), &inputs, &plain).expect("shapes fit");
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    // At learning rate 1 without weight decay, the update has 1% of the weights' norm; the others
    // move by their gradients.
    let part = 0..64 * 30;
    assert!((norm(&out[1].data[part.clone()]) / norm(&w.data[part]) - 0.01).abs() < 1e-5);
    assert_eq!(out[1].data[64 * 30..], g.data[64 * 30..]);
}

/// Algorithm 1 of You et al.: v = momentum v + lr ratio (g + decay w), w = w - v. A lower learning
/// rate does not change the existing momentum.
#[test]
fn lars_learning_rate_is_inside_momentum() {
    let array = |value: f32| Array::new(&[64], vec![value; 64]);
    let (multipliers, segments) = (Array::new(&[2], vec![1.0, 1.0]), Array::new(&[2], vec![0.0, 1.0]));
    let (mut w, mut v) = (array(2.0), array(0.0));
    let (mut expected_w, mut expected_v) = (2.0, 0.0);
    for (g, rate) in [(0.5, 1.0), (0.25, 0.1), (1.0, 0.01)] {
        // All elements alike: the ratio is trust_coefficient w / (g + decay w).
        expected_v =
            0.9 * expected_v + rate * 0.02 * expected_w / (g + 0.1 * expected_w) * (g + 0.1 * expected_w);
        expected_w -= expected_v;
        let g = array(g as f32);
        let inputs = [&w, &g, &v, &multipliers, &segments];
        let step = Step { lr: rate as f32, momentum: 0.9, weight_decay: 0.1, ..Step::default() };
        let op = Lars { trust_coefficient: 0.02 };
        check_step(&op, &inputs.map(spec), &inputs, 1e-6, &[], &[], &step);
        let out = run_operation(&op, &inputs.map(spec).each_ref(), &inputs, &step).expect("shapes fit");
        (w, v) = (out[0].clone(), out[1].clone());
        assert!((f64::from(w.data[63]) - expected_w).abs() < 1e-6, "{} {expected_w}", w.data[63]);
        assert!((f64::from(v.data[63]) - expected_v).abs() < 1e-7, "{} {expected_v}", v.data[63]);
    }
}

/// Twelve updates of torch with `OneCycleLR`, which cycles momentum (`AdamW`: beta1), generated by
/// tests/fixtures/scripts/schedules_torch.py.
#[test]
fn one_cycle_updates_match_torch() {
    let multipliers = Array::new(&[2], vec![1.0, 1.0]);
    let schedule = Schedule::OneCycle { rise: 0.3 };
    let rows: Vec<Vec<&str>> =
        include_str!("../../fixtures/schedules.csv").lines().map(|line| line.split(',').collect()).collect();
    let adamw = AdamW { beta2: 0.999, epsilon: 1e-8 };
    let rules: [(&str, &dyn Operation, usize); 3] = [
        ("sgd", &Sgd { nesterov: false }, 1),
        ("nesterov", &Sgd { nesterov: true }, 1),
        ("adamw", &adamw, 2),
    ];
    for (name, op, slots) in rules {
        let start = (0..64u8).map(|i| f32::from(i).cos()).collect();
        let mut state = vec![Array::new(&[64], start)];
        state.extend((0..slots).map(|_| Array::zeros(&[64])));
        let rows: Vec<&Vec<&str>> = rows.iter().filter(|row| row[0] == name).collect();
        assert_eq!(rows.len(), 12);
        for (t, row) in rows.into_iter().enumerate() {
            let moment = Moment { epoch: t as u64 / 4, update: t as u64 % 4, updates: 4 };
            let pace = schedule.pace(0.1, 0.0, moment, 3);
            let gradient = (0..64).map(|i| (i as f64 + 7.0 * t as f64 + 1.0).sin() as f32).collect();
            let gradient = Array::new(&[64], gradient);
            let (lr, momentum) = (pace.lr as f32, pace.momentum.expect("is cycled") as f32);
            let step = Step { lr, momentum, weight_decay: 0.01, update: t as u32, ..Step::default() };
            let mut inputs = vec![&state[0], &gradient];
            inputs.extend(state[1..].iter().chain([&multipliers]));
            let specs: Vec<Spec> = inputs.iter().map(|a| spec(a)).collect();
            check_step(op, &specs, &inputs, 2e-6, &[], &[], &step);
            state = run_operation(op, &specs.iter().collect::<Vec<_>>(), &inputs, &step).expect("shapes fit");
            for (ours, torchs) in state[0].data.iter().zip(&row[4..]) {
                let torchs: f64 = torchs.parse().expect("a number");
                assert!((f64::from(*ours) - torchs).abs() < 3e-6, "{name} {t}: {ours} {torchs}");
            }
        }
    }
}

#[test]
fn averaging() {
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

/// Micro-batches of 16, 16 and 3 images, with size 16: the sum becomes the mean over all 35.
#[test]
fn accumulation_weights_micro_batches_by_images() {
    let mut sum = Array::new(&[640], vec![f32::NAN; 640]);
    let mut expected = vec![0.0; 640];
    for (i, images) in [16.0, 16.0, 3.0].into_iter().enumerate() {
        let g = noise(&[640], i as u64);
        let completion = if i == 2 { 48.0 / 35.0 } else { 1.0 };
        let window = Window { starts: i == 0, divisor: 48.0 / images, completion };
        let step = Step { step: 7, window, ..Step::default() };
        let specs = [spec(&sum), spec(&g)];
        if i > 0 {
            check_step(&Accumulate, &specs, &[&sum, &g], 1e-6, &[], &[], &step);
        }
        expected.iter_mut().zip(&g.data).for_each(|(e, g)| *e += images * g / 35.0);
        sum =
            run_operation(&Accumulate, &specs.each_ref(), &[&sum, &g], &step).expect("shapes fit").remove(0);
    }
    assert!(relative_error(&sum.data, &expected) < 1e-6);
    // The previous sum is discarded on the device too.
    let (old, g) = (noise(&[640], 8), noise(&[640], 9));
    check_step(&Accumulate, &[spec(&old), spec(&g)], &[&old, &g], 0.0, &[], &[], &Step::default());
}

#[test]
fn clip_norm_only_scales_down() {
    let g = noise(&[64 * 300], 1);
    for max_norm in [0.1, 1e6] {
        let step = Step { loss_scale: 2.0, ..Step::default() };
        check_step(&ClipNorm { max_norm }, &[spec(&g)], &[&g], 1e-6, &[], &[], &step);
    }
}

#[test]
fn loss_scale_adapts_to_overflows() {
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

/// With a guard, updates use its scale and do not count skipped updates, or change nothing.
#[test]
fn guarded_updates_are_scaled_or_skipped() {
    let mut regions = regions(4);
    regions[3].data.iter_mut().for_each(|v| *v *= *v);
    let multipliers = regions.remove(4);
    let step = Step { update: 7, weight_decay: 0.1, ..Step::default() };
    for applied in [1.0, 0.0] {
        let guard = Array::new(&[3], vec![applied, 4.0, 5.0]);
        let [w, g, m, v] = [0, 1, 2, 3].map(|i| &regions[i]);
        let adamw = AdamW { beta2: 0.999, epsilon: 1e-8 };
        let calls: [(&dyn Operation, Vec<&Array<f32>>); 4] = [
            (&Sgd { nesterov: true }, vec![w, g, m, &multipliers, &guard]),
            (&adamw, vec![w, g, m, v, &multipliers, &guard]),
            (&Average { decay: Some(0.9) }, vec![m, w, &guard]),
            (&ClipNorm { max_norm: 0.1 }, vec![g, &guard]),
        ];
        for (op, inputs) in calls {
            let specs: Vec<Spec> = inputs.iter().map(|a| spec(a)).collect();
            check_step(op, &specs, &inputs, 1e-6, &[], &[], &step);
            // The same without a guard, with the guard's values in the step.
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

/// Regions larger than a binding are processed in parts.
#[test]
fn regions_larger_than_a_binding_are_split() {
    if missing() {
        return;
    }
    let length = 64 * 300;
    let (sum, g) = (noise(&[length], 1), noise(&[length], 2));
    let specs = [spec(&sum), spec(&g)];
    let operands: Vec<Operand> = specs.iter().cloned().map(Operand::dense).collect();
    let profile = Profile { binding: 20_000, ..Profile::webgpu(AdapterClass::Discrete) };
    for op in [&Accumulate as &dyn Operation, &ClipNorm { max_norm: 1.0 }] {
        let count = op.infer(&[&specs[0], &specs[1]]).map_or(1, |_| 2);
        let outputs = op.infer(&specs.iter().take(count).collect::<Vec<_>>()).expect("shapes fit");
        let outputs: Vec<Operand> = outputs.into_iter().map(Operand::dense).collect();
        let operands = Operands { layer: "test", inputs: &operands[..count], outputs: &outputs };
        let implementation = offers(op, &operands, &profile).remove(0);
        let bytes: u64 = implementation
            .kernels
            .iter()
            .flat_map(|k| k.bindings.iter().filter(|b| b.name == "sums").filter_map(|b| b.range.clone()))
            .map(|r| r.end - r.start)
            .sum();
        assert!(bytes == 0 || bytes == 4 * length as u64, "{bytes}");
        let window = Window { starts: false, divisor: 2.0, completion: 1.0 };
        let step = Step { window, ..Step::default() };
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
