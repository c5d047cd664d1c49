//! Mixed precision: f16 activations with loss scaling on the device.

use std::collections::BTreeMap;

use incept::Error;
use incept::checkpoint::{Checkpoint, Metadata};
use incept::data::Batch;
use incept::gpu::{AdapterOptions, Gpu};
use incept::graph::{Region, Role, TensorId};
use incept::infer::Classifier;
use incept::kernel::Step;
use incept::model::{GoogLeNet, Variant};
use incept::optim::{Averaging, LossScaling, Optimizer, Precision, Rule, TrainingState};
use incept::reference::{Array, Interpreter, relative_error};
use incept::tensor::Element;
use incept::train::{StepMetrics, Trainer, TrainingGraph};

use crate::support::gpu::missing;
use crate::support::gpu::open as gpu;
use crate::support::networks::small;
use crate::support::noise::noise;
use crate::support::skipped::skipped;

/// The device, if its shaders support f16.
fn gpu_with_f16() -> Option<Gpu> {
    let gpu = gpu();
    if !gpu.profile().f16 {
        skipped("f16", &format!("{} has no f16", gpu.summary()));
    }
    gpu.profile().f16.then_some(gpu)
}

/// Images whose color depends on their class.
fn batch(size: usize, seed: u64) -> Batch {
    let labels: Vec<u32> = (0..size as u32).map(|i| (i + seed as u32) % 4).collect();
    let pixel = |i: usize, v: f32| {
        let (item, colour) = (i / (3 * 32 * 32), i / (32 * 32) % 3);
        v + if labels[item] as usize == colour { 1.0 } else { 0.0 }
    };
    let images = noise(size * 3 * 32 * 32, seed).into_iter().enumerate().map(|(i, v)| pixel(i, v)).collect();
    Batch { images, labels, count: size, indices: (0..size).collect(), mixed: None }
}

fn f16(start: f32, interval: u32) -> Optimizer {
    Optimizer::default().precision(Precision::F16(LossScaling::default().start(start).interval(interval)))
}

fn trainer(gpu: &Gpu, network: &GoogLeNet, optimizer: &Optimizer) -> Trainer {
    gpu.block_on(Trainer::new(gpu, network, optimizer, 4, 9, |_, _| ())).expect("can train")
}

fn state(gpu: &Gpu, trainer: &Trainer) -> TrainingState {
    gpu.block_on(trainer.state()).expect("the state can be read")
}

/// Runs steps and returns the metrics of each.
fn steps(gpu: &Gpu, trainer: &mut Trainer, range: std::ops::Range<u64>) -> Vec<StepMetrics> {
    let mut list = Vec::new();
    for step in range {
        trainer.step(&batch(4, step), 0.02).expect("a step");
        list.extend(gpu.block_on(trainer.metrics(0)).expect("metrics"));
    }
    list
}

/// The pass sets element types, and the plan needs less memory.
#[test]
fn only_activations_are_f16() {
    let network = small(Variant::Torchvision);
    let training = TrainingGraph::new(&network, &f16(1024.0, 100), 4).expect("can be built");
    let element = |t: TensorId| training.graph.tensor(t).spec.element;
    assert_eq!(element(training.input), Element::F16);
    assert!(training.metrics.iter().all(|t| element(*t) == Element::F32));
    for (_, tensor) in training.graph.tensors() {
        let is_activation = tensor.spec.shape.rank() == 4 && matches!(tensor.role, Role::Value);
        match tensor.spec.element {
            Element::F16 => assert!(matches!(tensor.role, Role::Value | Role::Input), "{}", tensor.name),
            Element::F32 => assert!(!is_activation, "{} is {}", tensor.name, tensor.spec),
            Element::U32 => {}
        }
    }
}

/// Logits of all heads against the f64 reference with f16 rounding.
#[test]
fn f16_forward_pass_matches_reference() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    for variant in [Variant::Paper, Variant::Torchvision] {
        let network = small(variant);
        let mut trainer = trainer(&gpu, &network, &f16(1024.0, 100));
        let start = state(&gpu, &trainer);
        let data = batch(4, 1);
        trainer.step(&data, 0.0).expect("a step");
        let logits = gpu.block_on(trainer.logits()).expect("logits");

        let net = network.build(4).and_then(|n| n.stored_as(Element::F16)).expect("can be built");
        let mut interpreter = Interpreter::<f64>::new(&net.graph);
        for (id, tensor) in net.graph.tensors() {
            let value = match &tensor.role {
                Role::Parameter(_) => start.parameters[&tensor.name].data.clone(),
                Role::State(_) => start.state[&tensor.name].data.clone(),
                Role::Input if id == net.labels => data.labels.iter().map(|l| *l as f32).collect(),
                Role::Input => data.images.clone(),
                _ => continue,
            };
            interpreter.set(id, Array::<f32>::new(tensor.spec.dims(), value).cast());
        }
        interpreter.run(&Step::default()).expect("runs");
        for ((name, got), head) in logits.iter().zip(&net.heads) {
            let want: Array<f32> = interpreter.get(head.logits).expect("was computed").cast();
            // Different roundings, each 5e-4 of a value, propagate through layers.
            let error = relative_error(got, &want.data);
            assert!(error < 1e-2, "{variant} {name}: {error:.1e}");
        }
    }
}

/// Gradients on the device match the reference with f16 rounding; both are scaled by the loss
/// scale.
#[test]
fn scaled_f16_gradients_match_reference() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let network = small(Variant::Paper);
    let mut trainer = trainer(&gpu, &network, &f16(4096.0, 100));
    let (start, data) = (state(&gpu, &trainer), batch(4, 1));
    trainer.step(&data, 0.0).expect("a step");
    let regions = trainer.session().regions();
    let made = gpu.block_on(regions.get(&gpu, Region::Gradients)).expect("gradients");
    let made: BTreeMap<&str, &Vec<f32>> = made.iter().map(|(e, values)| (e.name.as_str(), values)).collect();

    // The reference with f16 rounding, and in f64 throughout.
    let reference = |element| {
        let net = network.build(4).and_then(|n| n.stored_as(element)).expect("can be built");
        let mut graph = net.graph.clone();
        let gradients = graph.differentiate(net.loss).expect("every operation has a gradient");
        let mut interpreter = Interpreter::<f64>::new(&graph);
        for (id, tensor) in net.graph.tensors() {
            let value = match &tensor.role {
                Role::Parameter(_) => start.parameters[&tensor.name].data.clone(),
                Role::Input if id == net.labels => data.labels.iter().map(|l| *l as f32).collect(),
                Role::Input => data.images.clone(),
                _ => continue,
            };
            interpreter.set(id, Array::<f32>::new(tensor.spec.dims(), value).cast());
        }
        interpreter.run(&Step { loss_scale: 4096.0, ..Step::default() }).expect("runs");
        let gradient = |(id, tensor): (TensorId, String)| {
            let gradient = gradients.of(id).and_then(|g| interpreter.get(g)).expect("was computed");
            (tensor, gradient.cast::<f32>().data)
        };
        let parameters = graph.parameters().map(|(id, tensor, _)| (id, tensor.name.clone()));
        parameters.map(gradient).collect::<BTreeMap<_, _>>()
    };
    let (rounded, exact) = (reference(Element::F16), reference(Element::F32));
    let all = |of: &dyn Fn(&str) -> Vec<f32>| rounded.keys().flat_map(|name| of(name)).collect::<Vec<f32>>();
    let error_of = |of: &dyn Fn(&str) -> Vec<f32>, expected: &BTreeMap<String, Vec<f32>>| {
        relative_error(&all(of), &all(&|name| expected[name].clone()))
    };
    let device = |name: &str| made[name].clone();
    // Different roundings flip a few ReLUs and maxima; rounding compared with exact f64 flips more.
    let (to_reference, to_exact) = (error_of(&device, &rounded), error_of(&device, &exact));
    let noise = error_of(&|name| rounded[name].clone(), &exact);
    assert!(
        to_reference < 5e-3 && to_exact < 0.1,
        "{to_reference:.1e} from the reference, {to_exact:.1e} from f64 ({noise:.1e})"
    );
    assert!(to_exact < 2.0 * noise, "{to_exact:.1e} from f64, where rounding alone makes {noise:.1e}");
}

/// An update with overflowing gradients only halves the scale, which grows again after the
/// interval.
#[test]
fn overflowing_updates_are_skipped_and_scale_adapts() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let optimizer = f16(16_777_216.0, 2)
        .rule(Rule::adamw([0.9, 0.99], 1e-8))
        .max_grad_norm(0.5)
        .average(Averaging::Exponential(0.9));
    let mut trainer = trainer(&gpu, &small(Variant::Paper), &optimizer);
    let mut before = state(&gpu, &trainer);
    let (mut scale, mut good, mut skipped) = (16_777_216.0, 0, 0);
    let mut grown = 0;
    for step in 0..16 {
        let metrics = steps(&gpu, &mut trainer, step..step + 1).remove(0);
        let scaling = metrics.scaling.expect("the loss is scaled");
        assert_eq!(scaling.scale, scale, "step {step}");
        let after = state(&gpu, &trainer);
        let norm = metrics.gradient_norm.expect("gradients are clipped");
        if scaling.skipped > skipped {
            assert!(!norm.is_finite(), "step {step} was skipped with a norm of {norm}");
            assert_eq!((&after.parameters, &after.slots), (&before.parameters, &before.slots), "step {step}");
            assert_eq!(after.average, before.average, "step {step}");
            (scale, good) = (scale / 2.0, 0);
        } else {
            assert!(norm.is_finite(), "step {step} has a norm of {norm}");
            assert_ne!(after.parameters, before.parameters, "step {step}");
            good += 1;
            if good == 2 {
                (scale, good) = (scale * 2.0, 0);
                grown += 1;
            }
        }
        skipped = scaling.skipped;
        assert_eq!(after.state["loss_scale/scale"].data, [scale]);
        assert_eq!(after.state["loss_scale/skipped"].data, [skipped as f32]);
        before = after;
    }
    assert!(skipped >= 3 && grown >= 1, "{skipped} updates were skipped, the scale grew {grown} times");
    assert!(before.parameters.values().flat_map(|t| &t.data).all(|v| v.is_finite()));
}

/// A run resumed from a file continues bit for bit, loss scale included.
#[test]
fn f16_training_resumes_exactly() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let network = small(Variant::Torchvision).dropout(0.4, 0.7);
    // Skipped updates and scale growth before and after the interruption.
    let optimizer = f16(4_194_304.0, 2);
    let mut whole = trainer(&gpu, &network, &optimizer);
    let first = steps(&gpu, &mut whole, 0..4);
    let half = state(&gpu, &whole);
    let second = steps(&gpu, &mut whole, 4..9);
    let scales: Vec<f32> = first.iter().chain(&second).filter_map(|m| Some(m.scaling?.scale)).collect();
    assert!(scales[0] != scales[3] && scales[4] != scales[8], "{scales:?}");

    let metadata = Metadata {
        version: "test".into(),
        network: network.clone(),
        classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
        preprocessing: incept::data::Preprocessing::new(32),
        progress: half.progress.clone(),
        run: serde_json::to_value(optimizer).expect("can be written"),
        command_line: Vec::new(),
    };
    let bytes = Checkpoint { state: half, metadata }.to_bytes().expect("can be written");
    let read = Checkpoint::from_bytes(std::path::Path::new("test"), &bytes).expect("can be read");
    let resumed: Optimizer = serde_json::from_value(read.metadata.run).expect("can be read");
    assert_eq!(resumed, optimizer);
    let mut trainer =
        gpu.block_on(Trainer::new(&gpu, &network, &resumed, 4, 77, |_, _| ())).expect("can train");
    trainer.restore(&read.state).expect("is a state of this network");
    assert_eq!(steps(&gpu, &mut trainer, 4..9), second);
    assert_eq!(state(&gpu, &trainer), state(&gpu, &whole));
}

/// A run in f32 can resume in f16 and vice versa.
#[test]
fn precision_can_change_on_resume() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let network = small(Variant::Paper);
    let mut plain = trainer(&gpu, &network, &Optimizer::default());
    let mut mixed = trainer(&gpu, &network, &f16(2048.0, 100));
    steps(&gpu, &mut plain, 0..1);
    mixed.restore(&state(&gpu, &plain)).expect("is a state of this network");
    let metrics = steps(&gpu, &mut mixed, 1..2);
    assert_eq!(metrics[0].scaling.map(|s| s.scale), Some(2048.0));
    plain.restore(&state(&gpu, &mixed)).expect("is a state of this network");
    assert_eq!(steps(&gpu, &mut plain, 2..3)[0].scaling, None);
}

/// Both precisions have similar losses on the same batches and similar evaluation results.
#[test]
fn f16_training_tracks_f32() {
    if missing() {
        return;
    }
    let Some(gpu) = gpu_with_f16() else { return };
    let network = small(Variant::Paper);
    let run = |optimizer: &Optimizer| {
        let mut trainer = trainer(&gpu, &network, optimizer);
        let losses: Vec<f32> = steps(&gpu, &mut trainer, 0..20).iter().map(|m| m.loss).collect();
        (losses, state(&gpu, &trainer))
    };
    let (plain, (mixed, weights)) = (run(&Optimizer::default()).0, run(&f16(65_536.0, 1000)));
    for (step, (a, b)) in plain.iter().zip(&mixed).enumerate() {
        assert!((a - b).abs() < 0.05 * a, "step {step}: loss {b} in f16 and {a} in f32");
    }
    let classify = |element| {
        let mut classifier =
            gpu.block_on(Classifier::new(&gpu, &network, 4, element, &weights)).expect("a classifier");
        gpu.block_on(classifier.probabilities(&batch(4, 50))).expect("can classify").concat()
    };
    let error = relative_error(&classify(Element::F16), &classify(Element::F32));
    assert!(error < 1e-2, "{error:.1e}");
}

#[test]
fn missing_f16_support_is_a_typed_error() {
    let options = AdapterOptions::default().backends(wgpu::Backends::GL);
    let gpu = match Gpu::open_blocking(&options) {
        Ok(gpu) => gpu,
        Err(error) => return skipped("opengl", &error.to_string()),
    };
    assert!(!gpu.profile().f16, "wgpu has no f16 on OpenGL");
    let made = gpu.block_on(Trainer::new(&gpu, &small(Variant::Paper), &f16(1.0, 1), 4, 9, |_, _| ()));
    let error = made.expect_err("OpenGL has no f16");
    assert!(matches!(error, Error::NoF16 { .. }) && error.to_string().contains("precision"), "{error}");
}

#[test]
fn invalid_loss_scaling_is_rejected() {
    for (start, interval, named) in [
        (0.5, 100, "`LossScaling::start`"),
        (1e9, 100, "`LossScaling::start`"),
        (f32::NAN, 100, "`LossScaling::start`"),
        (1024.0, 0, "`LossScaling::interval`"),
    ] {
        let error = f16(start, interval).validate().expect_err("out of range").to_string();
        assert!(error.starts_with(named), "{error}");
    }
}
