//! The CPU as a device: it agrees with the shaders and the reference, and gives the same bits on
//! any number of threads.

use std::sync::Arc;

use incept::cpu::Cpu;
use incept::device::{Device, DeviceOptions, Session};
use incept::gpu::Clock;
use incept::graph::{Add, Graph, Operation, TensorId};
use incept::kernel::{AdapterClass, Step};
use incept::model::Variant;
use incept::ops::{AvgPool, Concat, Conv, Lrn, MaxPool, Relu, Slice};
use incept::optim::{Averaging, Optimizer, Precision, Rule, TrainingState};
use incept::plan::{Plan, PlanOptions};
use incept::reference::{Array, Interpreter, relative_error};
use incept::tensor::Spec;
use incept::train::Trainer;

use crate::graph::batch;
use crate::support::gpu::missing;
use crate::support::gpu::open as gpu;
use crate::support::networks::small;
use crate::support::noise::noise;
use crate::support::open_as;

fn cpu(threads: usize) -> Device {
    Cpu::new(Some(threads)).expect("threads").into()
}

/// The state after these steps, from the seed or from another state.
fn trained(
    device: &Device,
    case: &Case,
    from: Option<&TrainingState>,
    steps: std::ops::Range<u64>,
) -> TrainingState {
    let network = small(case.variant).dropout(0.4, 0.7);
    let trainer = Trainer::new(device, &network, &case.optimizer, 4, 99, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("a trainer");
    if let Some(state) = from {
        trainer.restore(state).expect("is a state of this network");
    }
    for step in steps {
        trainer.step(&batch(4, step), 0.02).expect("a step");
    }
    device.block_on(trainer.state()).expect("the state can be read")
}

struct Case {
    variant: Variant,
    optimizer: Optimizer,
    /// Relative L2 difference of weights after three steps that rounding explains.
    limit: f64,
}

fn cases() -> [Case; 3] {
    let adamw = Optimizer::default()
        .rule(Rule::adamw([0.9, 0.99], 1e-8))
        .max_grad_norm(0.5)
        .average(Averaging::Exponential(0.9));
    [
        Case { variant: Variant::Paper, optimizer: Optimizer::default(), limit: 5e-5 },
        // Adam's first steps have the size of the learning rate even where gradients are noise.
        Case { variant: Variant::Torchvision, optimizer: adamw, limit: 5e-2 },
        Case {
            variant: Variant::Paper,
            optimizer: Optimizer::default().precision(Precision::f16()),
            limit: 5e-3,
        },
    ]
}

fn difference(a: &TrainingState, b: &TrainingState) -> f64 {
    let all = |state: &TrainingState| -> Vec<f32> {
        state.parameters.values().flat_map(|tensor| tensor.data.iter().copied()).collect()
    };
    relative_error(&all(a), &all(b))
}

/// Sums are cut by shapes and not by threads.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for case in cases() {
        let one = trained(&cpu(1), &case, None, 0..3);
        for threads in [2, 8] {
            assert_eq!(one, trained(&cpu(threads), &case, None, 0..3), "{threads} threads");
        }
    }
}

#[test]
fn a_resumed_run_is_bit_identical() {
    let device = cpu(2);
    for case in cases() {
        let whole = trained(&device, &case, None, 0..4);
        let half = trained(&device, &case, None, 0..2);
        assert_ne!(whole.parameters, half.parameters);
        assert_eq!(whole, trained(&device, &case, Some(&half), 2..4));
    }
}

/// The same seed draws the same weights, images and dropout masks on both devices, and a run of one
/// continues on the other.
#[test]
fn training_agrees_with_the_shaders() {
    if missing() {
        return;
    }
    // Software drivers run other kernels than GPUs, which run them in groups.
    let as_gpu = [AdapterClass::Discrete, AdapterClass::Integrated].map(open_as);
    let gpus = [gpu(), as_gpu[0].clone(), as_gpu[1].clone()];
    for (gpu, case) in gpus.iter().flat_map(|gpu| cases().into_iter().map(move |case| (gpu, case))) {
        let (cpu, gpu) = (cpu(2), Device::from(gpu));
        if matches!(case.optimizer.precision, Precision::F16(_)) && !gpu.profile().f16 {
            crate::support::skipped::skipped("f16", "this adapter has no f16 shaders");
            continue;
        }
        let shaders = trained(&gpu, &case, None, 0..3);
        let own = trained(&cpu, &case, None, 0..3);
        let apart = difference(&own, &shaders);
        assert!(apart < case.limit, "{} {apart:.1e}", case.variant);
        let there = trained(&gpu, &case, None, 0..1);
        let continued = trained(&cpu, &case, Some(&there), 1..3);
        let apart = difference(&continued, &shaders);
        assert!(apart < case.limit, "{} continued on the CPU: {apart:.1e}", case.variant);
        let here = trained(&cpu, &case, None, 0..1);
        let continued = trained(&gpu, &case, Some(&here), 1..3);
        let apart = difference(&continued, &shaders);
        assert!(apart < case.limit, "{} continued on the GPU: {apart:.1e}", case.variant);
    }
}

/// Draws numbers for a graph.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

/// The values of a graph's inputs.
type Inputs = Vec<(TensorId, Vec<f32>)>;

/// A random graph of activations [2, channels, 7, 7] that branch, join, share windows and are
/// rewritten in place.
fn random_graph(seed: u64) -> (Graph, Inputs, Vec<TensorId>) {
    let mut draw = Draw(seed);
    let mut graph = Graph::new();
    let first = 4 + draw.below(5);
    let x = graph.input("x", Spec::f32([2, first, 7, 7]));
    let mut inputs = vec![(x, noise(2 * first * 49, seed))];
    let mut values = vec![(x, first)];
    let mut vector = |graph: &mut Graph, dims: &[usize], name: String| {
        let id = graph.input(name, Spec::f32(dims));
        let values = noise(dims.iter().product(), seed + 1000 * graph.len() as u64);
        inputs.push((id, values.iter().map(|v| 0.3 * v + 0.4).collect()));
        id
    };
    for number in 0..10 {
        let (from, channels) = values[draw.below(values.len())];
        let name = format!("n{number}");
        let of = |op: Arc<dyn Operation>, inputs: &[TensorId], graph: &mut Graph| {
            graph.add_node(name.clone(), op, inputs).expect("fits")[0]
        };
        let made = match draw.below(9) {
            0 | 1 => {
                let (outputs, kernel) = (1 + draw.below(9), [1, 3, 5][draw.below(3)]);
                let weight = vector(&mut graph, &[outputs, channels, kernel, kernel], format!("{name}/w"));
                let bias = vector(&mut graph, &[outputs], format!("{name}/b"));
                let conv = Conv { relu: draw.below(2) == 0, ..Conv::new(1, kernel / 2) };
                (of(Arc::new(conv), &[from, weight, bias], &mut graph), outputs)
            }
            2 => (of(Arc::new(Relu), &[from], &mut graph), channels),
            3 => {
                let pool = MaxPool { indices: false, ..MaxPool::new(3, 1, 1) };
                (of(Arc::new(pool), &[from], &mut graph), channels)
            }
            4 => {
                let pool = AvgPool { kernel: 3, stride: 1, padding: 1, ceil: false };
                (of(Arc::new(pool), &[from], &mut graph), channels)
            }
            5 => {
                let lrn = Lrn { size: 5, alpha: 0.1, beta: 0.75, k: 1.0 };
                (of(Arc::new(lrn), &[from], &mut graph), channels)
            }
            6 => {
                let same: Vec<TensorId> =
                    values.iter().filter(|(_, other)| *other == channels).map(|(id, _)| *id).collect();
                let other = same[draw.below(same.len())];
                (of(Arc::new(Add), &[from, other], &mut graph), channels)
            }
            7 => {
                let (other, more) = values[draw.below(values.len())];
                (of(Arc::new(Concat), &[from, other], &mut graph), channels + more)
            }
            _ => {
                let taken = 1 + draw.below(channels);
                let channel = draw.below(channels - taken + 1);
                (of(Arc::new(Slice { channel, channels: taken }), &[from], &mut graph), taken)
            }
        };
        values.push(made);
    }
    let outputs = values.iter().skip(1).map(|(id, _)| *id).filter(|_| draw.below(2) == 0).collect();
    (graph, inputs, outputs)
}

fn run(
    device: &Device,
    graph: &Graph,
    inputs: &[(TensorId, Vec<f32>)],
    outputs: &[TensorId],
) -> Vec<Vec<f32>> {
    let plan = Arc::new(
        Plan::new(graph, &PlanOptions::new(device.profile()).outputs(outputs)).expect("can be planned"),
    );
    let session = Session::new(device, Arc::clone(&plan), None, |_, _| ());
    let mut session = device.block_on(session).expect("a session");
    for (id, values) in inputs {
        // What nothing reads has no memory.
        if let Ok(id) = plan.tensor(*id) {
            session.write(id, values).ok();
        }
    }
    session.submit(&Step::default()).expect("a run");
    let read = |id: &TensorId| {
        device.block_on(session.read(plan.tensor(*id).expect("planned"))).expect("can be read")
    };
    outputs.iter().map(read).collect()
}

/// Plans share memory in ways that no network of ours does.
#[test]
fn random_graphs_agree_on_both_devices() {
    if missing() {
        return;
    }
    /// Graphs on the CPU, and how many of them run on the GPU too, where each compiles kernels.
    const GRAPHS: u64 = 200;
    let (cpu, gpu) = (cpu(2), Device::from(gpu()));
    for seed in 0..GRAPHS {
        let (graph, inputs, outputs) = random_graph(seed);
        let mut reference = Interpreter::<f64>::new(&graph);
        for (id, values) in &inputs {
            let dims = graph.tensor(*id).spec.dims();
            reference.set(*id, Array::<f32>::new(dims, values.clone()).cast());
        }
        reference.run(&Step::default()).expect("runs on the reference");
        let own = run(&cpu, &graph, &inputs, &outputs);
        let shaders = run(&gpu, &graph, &inputs, &outputs);
        for ((id, own), shaders) in outputs.iter().zip(own).zip(shaders) {
            let want = reference.get(*id).expect("was computed").cast::<f32>().data;
            let name = format!("graph {seed}, {}", graph.tensor(*id).name);
            assert!(relative_error(&own, &want) < 1e-5, "{name} on the CPU");
            assert!(relative_error(&shaders, &want) < 1e-5, "{name} on the GPU");
        }
    }
}

/// A profile names every node that runs, and its times add up.
#[test]
fn profiles_cover_all_nodes() {
    let device = cpu(2);
    let network = small(Variant::Paper);
    let optimizer = Optimizer::default();
    let trainer = Trainer::new(&device, &network, &optimizer, 2, 1, |_, _| ());
    let mut trainer = device.block_on(trainer).expect("a trainer");
    let times = device.block_on(trainer.profile(&batch(2, 1), 0.01, Clock::Host)).expect("a profile");
    let plan = trainer.session().plan();
    assert_eq!(times.len(), plan.nodes.len());
    assert_eq!(plan.costs().iter().map(|cost| cost.dispatches.len()).sum::<usize>(), times.len());
    assert!(times.iter().all(|time| time.interval.seconds >= 0.0));
    let last = times.last().expect("nodes").interval;
    let sum: f64 = times.iter().map(|time| time.interval.seconds).sum();
    assert!((last.start + last.seconds - sum).abs() < 1e-9 * times.len() as f64);
}

#[test]
fn threads_out_of_range_are_refused() {
    for threads in [0, 1 << 20] {
        let error = Cpu::new(Some(threads)).expect_err("is refused").to_string();
        assert!(error.contains("Cpu::threads") && error.contains(&threads.to_string()), "{error}");
    }
}

/// `auto` takes a software adapter only by name, and says why.
#[test]
fn software_adapters_are_opened_only_by_name() {
    let auto = Device::open_blocking(&DeviceOptions::default()).expect("a device");
    if auto.device.gpu().is_some() {
        assert!(auto.reason.is_empty());
        return;
    }
    assert!(auto.reason.starts_with("no GPU"), "{}", auto.reason);
    let cpu = Device::open_blocking(&DeviceOptions::default().choice("cpu").threads(1)).expect("the CPU");
    assert!(cpu.reason.is_empty() && cpu.device.cpu().is_some_and(|cpu| cpu.threads() == 1));
    let refused = Device::open_blocking(&DeviceOptions::default().choice("gpu"));
    assert!(refused.expect_err("there is no GPU").to_string().contains("no GPU"));
    for adapter in auto.software {
        let named = Device::open_blocking(&DeviceOptions::default().choice(adapter.name.as_str()));
        assert!(named.expect("by its name").device.gpu().is_some());
    }
}
