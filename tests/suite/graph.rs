//! The graph, its passes and its plans: gradients against finite differences, pruning, storage,
//! determinism.

use std::collections::BTreeMap;

use incept::Error;
use incept::data::{Batch, MixedLabels};
use incept::gpu::{AdapterOptions, Gpu, Session};
use incept::graph::Add;
use incept::graph::{Graph, Region, Role, TensorId};
use incept::infer::{Classifier, InferenceGraph};
use incept::kernel::{AdapterClass, Profile, Step};
use incept::model::{GoogLeNet, Network, Output, Variant};
use incept::ops::{Concat, Conv, MaxPool, Relu, Slice, SoftmaxCrossEntropy, WeightedSum};
use incept::optim::TrainingState;
use incept::optim::{Averaging, Optimizer, Rule};
use incept::plan::{Plan, PlanOptions};
use incept::reference::{Array, Interpreter, relative_error};
use incept::tensor::{Element, Spec};
use incept::train::{Trainer, TrainingGraph};

use crate::support::gpu::missing;
use crate::support::gpu::open as gpu;
use crate::support::networks::small;
use crate::support::noise::noise;

pub(super) fn batch(size: usize, seed: u64) -> Batch {
    let labels = (0..size as u32).map(|i| (i + seed as u32) % 4).collect();
    Batch {
        images: noise(size * 3 * 32 * 32, seed),
        labels,
        count: size,
        indices: (0..size).collect(),
        mixed: None,
    }
}

/// Values of all inputs of a network in f64, with initial running statistics.
pub(super) fn values(net: &Network, seed: u64) -> BTreeMap<TensorId, Array<f64>> {
    let mut values = BTreeMap::new();
    for (i, (id, tensor)) in net.graph.tensors().enumerate() {
        let count = tensor.spec.shape.volume();
        let data: Vec<f32> = match &tensor.role {
            Role::Parameter(info) => {
                let mut data = vec![0.0; count];
                info.init.fill(seed, &tensor.name, &mut data);
                // Zero biases would put ReLUs at their kink.
                data.iter_mut().zip(noise(count, seed + i as u64)).for_each(|(v, n)| *v += 0.02 * n);
                data
            }
            Role::State(start) => vec![*start; count],
            Role::Input if id == net.labels => (0..count).map(|n| (n % 4) as f32).collect(),
            Role::Input => noise(count, seed),
            _ => continue,
        };
        values.insert(id, Array::<f32>::new(tensor.spec.dims(), data).cast());
    }
    values
}

/// The values of a graph's inputs and parameters for a graph that a pass made of it.
pub(super) fn moved(
    graph: &Graph,
    values: &BTreeMap<TensorId, Array<f64>>,
    pass: &Graph,
) -> BTreeMap<TensorId, Array<f64>> {
    let new = |id: TensorId| pass.find(&graph.tensor(id).name).expect("what no node makes stays");
    values.iter().map(|(id, value)| (new(*id), value.clone())).collect()
}

pub(super) fn interpret<'a>(
    graph: &'a Graph,
    values: &BTreeMap<TensorId, Array<f64>>,
) -> Interpreter<'a, f64> {
    let mut interpreter = Interpreter::new(graph);
    for (id, value) in values {
        interpreter.set(*id, value.clone());
    }
    interpreter.run(&Step::default()).expect("the graph runs on the CPU");
    interpreter
}

/// Moves all parameters along a random direction: (loss(+h) - loss(-h)) / 2h must equal gradient
/// times direction. A kink can make one direction wrong by chance, so most of several must agree.
fn finite_differences(variant: Variant) {
    let net = small(variant).build(3).expect("the network can be built");
    let mut graph = net.graph.clone();
    graph.differentiate(net.loss).expect("every operation has a gradient");
    let at = values(&net, 7);
    let interpreter = interpret(&graph, &at);
    let mut agree = 0;
    let directions = 6;
    for direction in 0..directions {
        let mut slope = 0.0;
        let (mut ahead, mut behind) = (at.clone(), at.clone());
        let h = 1e-6;
        for (i, (id, tensor)) in graph.tensors().enumerate() {
            let Role::Gradient(parameter) = tensor.role else { continue };
            let gradient = interpreter.get(id).expect("the gradient was computed");
            let step = noise(gradient.data.len(), 10_000 * direction + i as u64);
            for (k, (g, d)) in gradient.data.iter().zip(&step).enumerate() {
                // Proportional to the parameter, so that no layer dominates.
                let d = f64::from(*d) * (at[&parameter].data[k].abs() + 1e-3);
                slope += g * d;
                ahead.get_mut(&parameter).expect("is a parameter").data[k] += h * d;
                behind.get_mut(&parameter).expect("is a parameter").data[k] -= h * d;
            }
        }
        let loss =
            |values| interpret(&net.graph, values).get(net.loss).expect("the loss was computed").data[0];
        let measured = (loss(&ahead) - loss(&behind)) / (2.0 * h);
        let error = (measured - slope).abs() / slope.abs().max(1e-3);
        agree += u64::from(error < 1e-5);
    }
    assert!(agree >= directions - 1, "{variant}: only {agree} of {directions} directions agree");
}

#[test]
fn paper_gradients_match_finite_differences() {
    finite_differences(Variant::Paper);
}

#[test]
fn torchvision_gradients_match_finite_differences() {
    finite_differences(Variant::Torchvision);
}

/// The gradients of one scalar with respect to all parameters, on the CPU.
fn gradients_of(
    net: &Network,
    loss: TensorId,
    at: &BTreeMap<TensorId, Array<f64>>,
) -> BTreeMap<String, Vec<f64>> {
    let mut graph = net.graph.clone();
    graph.differentiate(loss).expect("every operation has a gradient");
    let interpreter = interpret(&graph, at);
    let mut gradients = BTreeMap::new();
    for (id, tensor) in graph.tensors() {
        if let Role::Gradient(parameter) = tensor.role {
            let name = graph.tensor(parameter).name.clone();
            gradients.insert(name, interpreter.get(id).expect("was computed").data.clone());
        }
    }
    gradients
}

#[test]
fn total_gradient_is_main_plus_weighted_aux() {
    let net = small(Variant::Paper).build(2).expect("the network can be built");
    assert_eq!(net.heads.iter().map(|h| h.weight).collect::<Vec<_>>(), [1.0, 0.3, 0.3]);
    let at = values(&net, 3);
    let total = gradients_of(&net, net.loss, &at);
    let each: Vec<_> = net.heads.iter().map(|h| gradients_of(&net, h.loss, &at)).collect();
    // The stem is shared by all heads; 4b by main and aux2; 5b is only in main.
    let fed = |name: &str| each.iter().map(|g| g[name].iter().any(|v| *v != 0.0)).collect::<Vec<_>>();
    assert_eq!(fed("conv1/7x7_s2.weight"), [true, true, true]);
    assert_eq!(fed("inception_4b/1x1.weight"), [true, false, true]);
    assert_eq!(fed("inception_5b/1x1.weight"), [true, false, false]);
    for (name, whole) in &total {
        let sum = |i: usize| {
            let part = |g: &BTreeMap<String, Vec<f64>>| g.get(name).map_or(0.0, |g| g[i]);
            // Weights are f32, so 0.3 is not exact.
            part(&each[0]) + f64::from(0.3f32) * (part(&each[1]) + part(&each[2]))
        };
        let difference: f64 = whole.iter().enumerate().map(|(i, g)| (g - sum(i)).powi(2)).sum();
        let norm: f64 = whole.iter().map(|g| g * g).sum();
        assert!(difference.sqrt() <= 1e-12 * norm.sqrt() + 1e-18, "{name}");
    }
}

/// On the device, by training steps.
#[test]
fn device_gradient_is_linear_in_the_aux_weight() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let gradients = |aux_weight: f32| {
        let network = small(Variant::Paper).aux_weight(aux_weight);
        let mut trainer = gpu
            .block_on(Trainer::new(&gpu, &network, &Optimizer::default(), 2, 5, |_, _| ()))
            .expect("can train");
        trainer.step(&batch(2, 1), 0.0).expect("a step");
        let regions = trainer.session().regions();
        let list = gpu.block_on(regions.get(&gpu, Region::Gradients)).expect("gradients");
        list.into_iter().map(|(entry, values)| (entry.name.clone(), values)).collect::<BTreeMap<_, _>>()
    };
    // The gradient is linear in the weight: 0.1 and 0.2 determine 0.3.
    let (a, b, c) = (gradients(0.1), gradients(0.2), gradients(0.3));
    for name in
        ["conv1/7x7_s2.weight", "conv2/3x3.weight", "inception_3a/3x3.weight", "inception_4a/1x1.weight"]
    {
        let line: Vec<f32> = a[name].iter().zip(&b[name]).map(|(a, b)| 2.0 * b - a).collect();
        let error = relative_error(&c[name], &line);
        assert!(error < 1e-4, "{name}: {error:.1e}");
        assert!(relative_error(&c[name], &a[name]) > 1e-3, "{name} does not depend on the auxiliary losses");
    }
}

/// Slow GPUs need several submissions per step to avoid driver timeouts.
#[test]
fn split_submissions_give_the_same_step() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let steps = |most: Option<u64>| {
        let network = small(Variant::Paper);
        let optimizer = Optimizer::default().max_grad_norm(1.0);
        let mut trainer =
            gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 2, 5, |_, _| ())).expect("can train");
        if let Some(most) = most {
            trainer.limit_submissions(most);
        }
        gpu.block_on(trainer.watch()).expect("can be watched");
        let before = gpu.counters();
        (0..2).for_each(|i| trainer.step(&batch(2, i), 0.01).expect("a step"));
        let metrics = gpu.block_on(trainer.metrics(0)).expect("metrics");
        let asked = gpu.counters().since(&before);
        let busy = trainer.busy_seconds();
        let state = gpu.block_on(trainer.state()).expect("the state can be read");
        (
            metrics,
            state.parameters,
            asked.submissions,
            asked.read_backs,
            busy,
            trainer.session().dispatch_count(),
        )
    };
    let (whole, cut, single) = (steps(None), steps(Some(2_000_000)), steps(Some(0)));
    assert_eq!((whole.2, whole.3), (2, 2));
    assert!(cut.2 > 4 && cut.2 < single.2, "{} submissions", cut.2);
    assert_eq!((single.2, single.3), (2 * single.5 as u64, 2));
    for other in [&cut, &single] {
        assert_eq!((&whole.0, &whole.1), (&other.0, &other.1));
        assert_eq!(other.4.is_some(), whole.4.is_some());
        assert!(other.4.is_none_or(|seconds| seconds > 0.0));
    }
}

/// NaN from an overflow passes through ReLU to the loss.
#[test]
fn nan_propagates_to_loss() {
    if missing() {
        return;
    }
    let gpu = gpu();
    for variant in [Variant::Paper, Variant::Torchvision] {
        let network = small(variant);
        let mut trainer = gpu
            .block_on(Trainer::new(&gpu, &network, &Optimizer::default(), 2, 5, |_, _| ()))
            .expect("can train");
        let mut data = batch(2, 1);
        let size = data.images.len() / 2;
        data.images[size..].fill(f32::NAN);
        let before = gpu.block_on(trainer.state()).expect("the state can be read").state;
        trainer.step(&data, 0.0).expect("a step");
        let metrics = gpu.block_on(trainer.metrics(0)).expect("metrics");
        // Running statistics would keep a NaN forever.
        assert_eq!(gpu.block_on(trainer.state()).expect("the state can be read").state, before);
        assert!(metrics[0].heads.iter().all(|head| head.loss.is_nan()), "{variant}: {metrics:?}");
    }
}

/// The state of a new trainer after some steps.
pub(super) fn trained(gpu: &Gpu, network: &GoogLeNet, optimizer: &Optimizer, steps: u64) -> TrainingState {
    let mut trainer =
        gpu.block_on(Trainer::new(gpu, network, optimizer, 4, 9, |_, _| ())).expect("can train");
    for step in 0..steps {
        trainer.step(&batch(4, step), 0.05).expect("a step");
    }
    gpu.block_on(trainer.state()).expect("the state can be read")
}

#[test]
fn pruned_inference_is_bit_identical() {
    if missing() {
        return;
    }
    let gpu = gpu();
    for variant in [Variant::Paper, Variant::Torchvision] {
        let network = small(variant);
        let state = trained(&gpu, &network, &Optimizer::default(), 3);
        let data = batch(4, 77);

        // The whole network in evaluation mode, all three heads.
        let net = network.build(4).expect("the network can be built");
        let mut whole = net.graph.evaluation().expect("every operation has an evaluation mode");
        let heads: Vec<_> = net.heads.iter().map(|h| Output::Logits(h.name)).collect();
        whole.keep_outputs(&heads).expect("are outputs");
        let fused = whole.fold().expect("can be fused");
        let kept: Vec<TensorId> = heads.iter().map(|h| fused.output(h).expect("was kept")).collect();
        let at = |name: &str| fused.find(name).expect("is an input");
        let (input, labels) = (at(Network::INPUT), at(Network::LABELS));
        let plan = std::sync::Arc::new(
            Plan::new(&fused, &PlanOptions::new(gpu.profile()).outputs(&kept)).expect("can be planned"),
        );
        let mut session = gpu
            .block_on(Session::new(&gpu, std::sync::Arc::clone(&plan), None, |_, _| ()))
            .expect("a session");
        let regions = std::sync::Arc::clone(session.regions());
        for (region, tensors) in [(Region::Parameters, &state.parameters), (Region::State, &state.state)] {
            for (name, tensor) in tensors {
                regions.set(&gpu, region, name, &tensor.data).expect("is a tensor of the network");
            }
        }
        session.write(plan.tensor(input).expect("planned"), &data.images).expect("the input fits");
        session.write_labels(plan.tensor(labels).expect("planned"), &data.labels).expect("the labels fit");
        session.submit(&Step::default()).expect("a run");
        let expected =
            gpu.block_on(session.read(plan.tensor(kept[0]).expect("planned"))).expect("logits can be read");

        // A checkpoint with the auxiliary heads, and one without.
        let mut bare = state.clone();
        bare.parameters.retain(|name, _| !is_aux(name));
        bare.state.retain(|name, _| !is_aux(name));
        assert!(bare.parameters.len() < state.parameters.len());
        for weights in [&state, &bare] {
            let mut classifier = gpu
                .block_on(Classifier::new(&gpu, &network, 4, Element::F32, weights))
                .expect("a classifier");
            gpu.block_on(classifier.probabilities(&data)).expect("can classify");
            let logits = gpu.block_on(classifier.logits()).expect("logits");
            assert_eq!(logits, expected, "{variant}");
            let layout = &classifier.session().regions().layout();
            assert!(layout.parameters.iter().chain(&layout.state).all(|e| !is_aux(&e.name)));
            let shared = layout.parameters.iter().map(|e| 4 * e.shape.volume()).sum::<usize>();
            let all: usize = state.parameters.values().map(|t| 4 * t.data.len()).sum();
            assert!(shared < all, "the auxiliary parameters take no memory");
        }
    }
}

fn is_aux(name: &str) -> bool {
    ["loss1/", "loss2/", "aux1.", "aux2."].iter().any(|head| name.starts_with(head))
}

/// Pushed batches come back in order, with the same results as alone; a new request discards
/// pending ones.
#[test]
fn pushed_batches_come_back_in_order() {
    if missing() {
        return;
    }
    let (gpu, network) = (gpu(), small(Variant::Paper));
    let state = trained(&gpu, &network, &Optimizer::default(), 1);
    let mut classifier =
        gpu.block_on(Classifier::new(&gpu, &network, 4, Element::F32, &state)).expect("a classifier");
    let batches: Vec<Batch> = (1..4).map(|seed| batch(4, 60 + seed)).collect();
    let mut alone = Vec::new();
    for data in &batches {
        alone.push(gpu.block_on(classifier.probabilities(data)).expect("can classify"));
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2]);
    for data in &batches {
        gpu.block_on(classifier.push(data)).expect("can be pushed");
    }
    for expected in &alone[..2] {
        assert_eq!(gpu.block_on(classifier.pull()).expect("can be pulled").as_ref(), Some(expected));
    }
    assert_eq!(gpu.block_on(classifier.probabilities(&batches[0])).expect("can classify"), alone[0]);
    assert_eq!(gpu.block_on(classifier.pull()).expect("can be pulled"), None);
}

#[test]
fn inference_has_neither_dropout_nor_auxiliary_layers() {
    let network = GoogLeNet::paper().width(0.25).input(64);
    let inference = InferenceGraph::new(&network, 2, Element::F32).expect("can be built");
    for (_, node) in inference.graph.nodes() {
        assert_ne!(node.op.name(), "dropout");
        assert_ne!(node.op.name(), "relu", "{} was not fused", node.name);
        assert!(!is_aux(&node.name), "{}", node.name);
    }
    let training = TrainingGraph::new(&network, &Optimizer::default(), 2).expect("can be built");
    assert_eq!(
        training.graph.nodes().filter(|(_, n)| n.op.name() == "dropout").count(),
        6,
        "three, and their gradients"
    );
    let bare = network.aux_weight(0.0).build(2).expect("can be built");
    assert_eq!(bare.heads.len(), 1);
    let normed = GoogLeNet::torchvision().width(0.25).input(64);
    let inference = InferenceGraph::new(&normed, 2, Element::F32).expect("can be built");
    let names = || inference.graph.nodes().map(|(_, n)| n.op.name());
    assert_eq!(names().filter(|n| *n == "conv").count(), 57);
    assert!(names().all(|n| n != "batch_norm" && n != "relu"), "batch norm is fused into the convolution");
}

/// Graphs that are hard to plan: a value overwritten in place and read again, nested windows, a
/// tensor in two concats.
#[test]
fn plans_preserve_live_values() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([2, 8, 5, 5]));
    let add = |g: &mut Graph, name: &str, a: TensorId, b: TensorId| g.add(name, Add, &[a, b]).expect("fits");
    // ReLU in place on a value that is read later.
    let a = add(&mut graph, "a", x, x);
    let r = graph.add("r", Relu, &[a]).expect("fits");
    let b = add(&mut graph, "b", r, a);
    let c = add(&mut graph, "c", a, b);
    // A tensor in two concats, and twice in one.
    let both = graph.add("both", Concat, &[r, c, r]).expect("fits");
    let again = graph.add("again", Concat, &[c, both]).expect("fits");
    // Nested windows, overwritten in place while the whole is still read.
    let window = graph.add("window", Slice { channel: 4, channels: 16 }, &[again]).expect("fits");
    let inner = graph.add("inner", Slice { channel: 2, channels: 5 }, &[window]).expect("fits");
    let positive = graph.add("positive", Relu, &[inner]).expect("fits");
    let pool = MaxPool { indices: false, ..MaxPool::new(3, 2, 0) };
    let pooled = graph.add("pooled", pool, &[positive]).expect("fits");
    let last = add(&mut graph, "last", inner, positive);
    let outputs = [b, c, both, again, window, inner, pooled, last];

    let data = noise(2 * 8 * 25, 3);
    let mut reference = Interpreter::<f64>::new(&graph);
    reference.set(x, Array::<f32>::new(&[2, 8, 5, 5], data.clone()).cast());
    reference.run(&Step::default()).expect("runs on the CPU");
    // Each output alone and all together, because lifetimes depend on the outputs.
    let singles = outputs.iter().map(std::slice::from_ref);
    for kept in singles.chain([&outputs[..]]) {
        let plan = std::sync::Arc::new(
            Plan::new(&graph, &PlanOptions::new(gpu.profile()).outputs(kept)).expect("can be planned"),
        );
        let mut session = gpu
            .block_on(Session::new(&gpu, std::sync::Arc::clone(&plan), None, |_, _| ()))
            .expect("a session");
        session.write(plan.tensor(x).expect("planned"), &data).expect("fits");
        session.submit(&Step::default()).expect("a run");
        for output in kept {
            let got =
                gpu.block_on(session.read(plan.tensor(*output).expect("planned"))).expect("can be read");
            let want = reference.get(*output).expect("was computed").cast::<f32>().data;
            let name = &graph.tensor(*output).name;
            assert!(relative_error(&got, &want) < 1e-6, "{name} with {} outputs kept", kept.len());
        }
    }
}

/// Consecutive segments are equivalent to a whole run, and any output can be read between them.
#[test]
fn plan_segments_equal_a_whole_run() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let inference = InferenceGraph::new(&small(Variant::Paper), 2, Element::F32).expect("can be built");
    let middle = inference.graph.find("inception_4a/output").expect("the block is there");
    let kept = [inference.logits, middle];
    let plan = std::sync::Arc::new(
        Plan::new(&inference.graph, &PlanOptions::new(gpu.profile()).outputs(&kept)).expect("can be planned"),
    );
    let mut session =
        gpu.block_on(Session::new(&gpu, std::sync::Arc::clone(&plan), None, |_, _| ())).expect("a session");
    let regions = std::sync::Arc::clone(session.regions());
    for entry in &regions.layout.parameters {
        let values = noise(entry.shape.volume(), entry.offset as u64 + 1);
        let values: Vec<f32> = values.iter().map(|v| 0.2 * v).collect();
        regions.set(&gpu, Region::Parameters, &entry.name, &values).expect("is a parameter");
    }
    let (input, logits) =
        (plan.tensor(inference.input).expect("planned"), plan.tensor(inference.logits).expect("planned"));
    session.write(input, &batch(2, 1).images).expect("fits");
    session.submit(&Step::default()).expect("a run");
    let whole = gpu.block_on(session.read(logits)).expect("can be read");
    session.write(input, &batch(2, 2).images).expect("fits");
    session.submit(&Step::default()).expect("a run");
    assert_ne!(whole, gpu.block_on(session.read(logits)).expect("can be read"));
    session.write(input, &batch(2, 1).images).expect("fits");
    let tapped = plan.graph.tensor(plan.tensor(middle).expect("planned")).producer.expect("a node makes it");
    session.submit_nodes(&Step::default(), 0..tapped.index() + 1, false).expect("the first segment");
    let values = gpu.block_on(session.read(plan.tensor(middle).expect("planned"))).expect("can be read");
    assert!(values.iter().any(|v| *v != 0.0));
    session.submit_nodes(&Step::default(), tapped.index() + 1..usize::MAX, true).expect("the second segment");
    assert_eq!(whole, gpu.block_on(session.read(logits)).expect("can be read"));
}

#[test]
fn shape_errors_name_layer_and_shapes() {
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([1, 3, 8, 8]));
    let w = graph.input("w", Spec::f32([4, 5, 3, 3]));
    let error = graph.add("conv9", Conv::new(1, 1), &[x, w]).expect_err("3 channels are not 5").to_string();
    assert!(["conv9", "1x3x8x8", "4x5x3x3"].iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn oversized_batch_error_suggests_a_fitting_one() {
    let profile = Profile::webgpu(AdapterClass::Discrete);
    let plan = |batch: usize| {
        let training = TrainingGraph::new(&GoogLeNet::paper(), &Optimizer::default(), batch).expect("builds");
        Plan::new(&training.graph, &PlanOptions::new(&profile).metrics(&training.metrics)).map(|_| ())
    };
    let error = plan(256).expect_err("256 images do not fit in 128 MiB");
    let Error::TooLarge { advice, limit, .. } = &error else { panic!("{error}") };
    assert_eq!(*limit, 128 << 20);
    let fits: usize = advice.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("the advice is a number");
    assert!((8..256).contains(&fits), "{advice}");
    plan(fits).expect("the advised batch size fits");
    plan(fits + 1).expect_err("one more does not");
}

#[test]
fn planned_memory_is_within_10_percent_of_bound() {
    let profile = Profile { binding: 1 << 32, buffer: 1 << 34, ..Profile::webgpu(AdapterClass::Discrete) };
    let training = TrainingGraph::new(&GoogLeNet::paper(), &Optimizer::default(), 32).expect("builds");
    let memory = Plan::new(&training.graph, &PlanOptions::new(&profile).metrics(&training.metrics))
        .expect("can be planned")
        .memory;
    assert!(memory.planned_bytes as f64 <= 1.1 * memory.bound_bytes as f64, "{memory:?}");
    assert!(memory.planned_bytes * 2 < memory.naive_bytes, "{memory:?}");
}

/// Identical runs are bit-identical, as is one resumed in another session.
#[test]
fn training_is_deterministic_and_resumes_exactly() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let recipes = [
        Optimizer::default(),
        Optimizer::default()
            .rule(Rule::adamw([0.9, 0.99], 1e-8))
            .max_grad_norm(0.5)
            .average(Averaging::Exponential(0.9)),
    ];
    for (variant, optimizer) in [Variant::Paper, Variant::Torchvision].into_iter().zip(recipes) {
        // With dropout, whose masks must continue.
        let network = small(variant).dropout(0.4, 0.7);
        let whole = trained(&gpu, &network, &optimizer, 6);
        assert_eq!(whole, trained(&gpu, &network, &optimizer, 6));
        let half = trained(&gpu, &network, &optimizer, 3);
        assert_ne!(whole.parameters, half.parameters);
        let mut trainer =
            gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 4, 1234, |_, _| ())).expect("can train");
        trainer.restore(&half).expect("is a state of this network");
        for step in 3..6 {
            trainer.step(&batch(4, step), 0.05).expect("a step");
        }
        assert_eq!(whole, gpu.block_on(trainer.state()).expect("the state can be read"), "{variant}");
    }
}

/// Parameters and running statistics are averaged alike, and classification with averages during
/// training equals that of the checkpoint.
#[test]
fn running_statistics_are_averaged() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let (network, decay) = (small(Variant::Torchvision), 0.9);
    let optimizer = Optimizer::default().average(Averaging::Exponential(decay));
    let mut trainer =
        gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 4, 9, |_, _| ())).expect("can train");
    let state = |trainer: &Trainer| gpu.block_on(trainer.state()).expect("the state can be read");
    let start = state(&trainer);
    let mut expected = start.parameters.clone();
    expected.extend(start.state.clone());
    assert_eq!(start.average.as_ref(), Some(&expected));
    for step in 0..4u8 {
        trainer.step(&batch(4, step.into()), 0.05).expect("a step");
        let latest = state(&trainer);
        let share = 1.0 - decay.min((1.0 + f32::from(step)) / (10.0 + f32::from(step)));
        for (name, tensor) in latest.parameters.iter().chain(&latest.state) {
            let average = expected.get_mut(name).expect("is averaged");
            average.data.iter_mut().zip(&tensor.data).for_each(|(a, v)| *a += share * (v - *a));
        }
    }
    let trained = state(&trainer);
    let average = trained.average.as_ref().expect("is averaged");
    assert!(average.keys().eq(expected.keys()));
    for (name, tensor) in average {
        let error = relative_error(&tensor.data, &expected[name].data);
        assert!(error < 1e-5, "{name}: {error:.1e}");
    }
    let statistic = "inception3a.branch1.bn.running_mean";
    assert!(relative_error(&average[statistic].data, &trained.state[statistic].data) > 1e-3);

    let data = batch(4, 70);
    let mut sharing = gpu.block_on(trainer.classifier(4)).expect("a classifier");
    let state = trained.averaged();
    let kept = Classifier::new(&gpu, &network, 4, Element::F32, &state);
    let mut kept = gpu.block_on(kept).expect("a classifier");
    let [here, there] = [&mut sharing, &mut kept]
        .map(|classifier| gpu.block_on(classifier.probabilities(&data)).expect("can classify"));
    assert_eq!(here, there);
}

/// Two accumulated batches of two give the update of one batch of four, also if the run is
/// interrupted between them.
#[test]
fn gradient_accumulation_equals_a_large_batch() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let network = small(Variant::Paper);
    let large = {
        let mut trainer = gpu
            .block_on(Trainer::new(&gpu, &network, &Optimizer::default(), 4, 9, |_, _| ()))
            .expect("can train");
        trainer.step(&batch(4, 0), 0.05).expect("a step");
        gpu.block_on(trainer.state()).expect("the state can be read")
    };
    let optimizer = Optimizer::default().accumulate(2);
    let mut trainer =
        gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 2, 9, |_, _| ())).expect("can train");
    let all = batch(4, 0);
    let before = gpu.block_on(trainer.state()).expect("the state can be read");
    for part in 0..2 {
        let images = all.images[part * all.images.len() / 2..(part + 1) * all.images.len() / 2].to_vec();
        let labels = all.labels[2 * part..2 * part + 2].to_vec();
        trainer
            .step(&Batch { images, labels, count: 2, indices: vec![0, 1], mixed: None }, 0.05)
            .expect("a step");
        if part == 0 {
            let state = gpu.block_on(trainer.state()).expect("the state can be read");
            assert_eq!(state.parameters, before.parameters, "updated too early");
            // Interrupted between updates and resumed by another trainer, with the accumulated
            // gradients.
            trainer =
                gpu.block_on(Trainer::new(&gpu, &network, &optimizer, 2, 10, |_, _| ())).expect("can train");
            trainer.restore(&state).expect("a state of the same network");
        }
    }
    let small = gpu.block_on(trainer.state()).expect("the state can be read");
    assert_eq!((small.progress.step, small.progress.update), (2, 1));
    for (name, tensor) in &large.slots[0] {
        let error = relative_error(&small.slots[0][name].data, &tensor.data);
        assert!(error < 1e-4, "{name}: {error:.1e}");
    }
}

/// Rows `range` of a batch, in a batch of `size` with the other rows missing.
fn rows(all: &Batch, range: std::ops::Range<usize>, size: usize) -> Batch {
    let row = all.images.len() / all.labels.len();
    let mut images = all.images[range.start * row..range.end * row].to_vec();
    images.resize(size * row, 0.25);
    let mut labels = all.labels[range.clone()].to_vec();
    labels.resize(size, Batch::MISSING);
    let mixed = all.mixed.as_ref().map(|mixed| MixedLabels {
        second: range.clone().map(|i| mixed.second[i]).chain(std::iter::repeat(0)).take(size).collect(),
        share: range.clone().map(|i| mixed.share[i]).chain(std::iter::repeat(1.0)).take(size).collect(),
    });
    Batch { images, labels, count: range.len(), indices: range.collect(), mixed }
}

/// Batches of 16, 16 and 3 images at the end of an epoch give the update of one batch of 35, also
/// with class weights and mixed labels, whose losses are weighted means. The next accumulation
/// starts from zero, and a run interrupted within one resumes bit for bit.
#[test]
fn incomplete_accumulation_weights_images_equally() {
    if missing() {
        return;
    }
    let gpu = gpu();
    let plain = small(Variant::Paper);
    let weights = Some(vec![1.0, 0.25, 3.0, 0.5]);
    let weighted = plain.clone().with_class_weights(weights).mixed_labels(true);
    for network in [plain, weighted] {
        let mut all = batch(35, 0);
        if network.mixed_labels {
            let second = all.labels.iter().map(|label| (label + 1) % 4).collect();
            let share = (0..35u8).map(|i| f32::from(i) / 34.0).collect();
            all.mixed = Some(MixedLabels { second, share });
        }
        let trainer = |optimizer: Optimizer, batch: usize| {
            gpu.block_on(Trainer::new(&gpu, &network, &optimizer, batch, 9, |_, _| ())).expect("can train")
        };
        let state = |trainer: &Trainer| gpu.block_on(trainer.state()).expect("the state can be read");
        let mut large = trainer(Optimizer::default(), 35);
        large.step(&all, 0.05).expect("a step");
        let parts = [rows(&all, 0..16, 16), rows(&all, 16..32, 16), rows(&all, 32..35, 16)];
        // An accumulation of four with only three batches.
        let optimizer = Optimizer::default().accumulate(4);
        let mut small = trainer(optimizer, 16);
        let mut left = None;
        for part in &parts[..2] {
            small.step(part, 0.05).expect("a step");
            left = Some(state(&small));
        }
        small.last_step(&parts[2], 0.05).expect("a step");
        let after = state(&small);
        let progress = &after.progress;
        assert_eq!((progress.step, progress.update, progress.waiting), (3, 1, 0));
        assert_eq!(progress.waiting_weight, 0.0);
        for (name, tensor) in &state(&large).slots[0] {
            let error = relative_error(&after.slots[0][name].data, &tensor.data);
            assert!(error < 1e-4, "{name}: {error:.1e}");
        }

        let left = left.expect("was left");
        assert_eq!(left.progress.waiting, 2);
        let mut resumed = trainer(optimizer, 16);
        resumed.restore(&left).expect("a state of this network");
        resumed.last_step(&parts[2], 0.05).expect("a step");
        assert_eq!(state(&resumed), after);
        // A new trainer from this state must agree with both.
        let mut fresh = trainer(optimizer, 16);
        fresh.restore(&after).expect("a state of this network");
        for trainer in [&mut resumed, &mut fresh] {
            trainer.last_step(&parts[0], 0.05).expect("a step");
        }
        assert_eq!(state(&resumed).parameters, state(&fresh).parameters);
    }
}

#[test]
fn training_fits_webgpu_default_limits() {
    if missing() {
        return;
    }
    let options = AdapterOptions::default().default_limits(true);
    let gpu = Gpu::open_blocking(&options).expect("the tests need a GPU driver");
    assert_eq!(gpu.profile().binding, 128 << 20);
    assert_eq!(gpu.profile().workgroup_memory, 16 << 10);
    let state = trained(&gpu, &small(Variant::Paper), &Optimizer::default(), 1);
    assert!(state.parameters.values().flat_map(|t| &t.data).all(|v| v.is_finite()));
}

/// Losses are nodes, and a graph can be differentiated from any of them.
#[test]
fn total_loss_is_the_weighted_sum() {
    let mut graph = Graph::new();
    let logits = graph.input("logits", Spec::f32([2, 3]));
    let labels = graph.input("labels", Spec::u32([2]));
    let op = || std::sync::Arc::new(SoftmaxCrossEntropy { smoothing: 0.0 });
    let a = graph.add_node("a", op(), &[logits, labels]).expect("fits")[0];
    let b = graph.add_node("b", op(), &[logits, labels]).expect("fits")[0];
    let total = graph.add("total", WeightedSum { weights: vec![1.0, 0.3] }, &[a, b]).expect("fits");
    let mut interpreter = Interpreter::<f64>::new(&graph);
    interpreter.set(logits, Array::<f32>::new(&[2, 3], noise(6, 1)).cast());
    interpreter.set(labels, Array::<f32>::new(&[2], vec![0.0, 2.0]).cast());
    interpreter.run(&Step::default()).expect("runs");
    let get = |id| interpreter.get(id).expect("was computed").data[0];
    assert!((get(total) - get(a) - 0.3 * get(b)).abs() < 1e-7);
}
