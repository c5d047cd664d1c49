//! Single convolutions of GoogLeNet in three directions, with every implementation that fits the device. Times are the
//! device's own where it has timestamps.
//!
//! `INCEPT_BATCH` is the batch: 32 on GPUs and 1 on CPUs without it.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use incept::Result;
use incept::gpu::{AdapterOptions, Gpu, Session};
use incept::graph::{Graph, Operation, Spec};
use incept::kernel::{AdapterClass, Implementation, Operands, Profile, Step};
use incept::ops::{Conv, ConvInputGrad, ConvWeightGrad};
use incept::plan::{Plan, PlanOptions};
use incept::reference::{Array, Reference};

/// A layer: channels, outputs, kernel, stride, padding, size of the input.
const LAYERS: [(&str, [usize; 6]); 5] = [
    ("7x7_s2 3-64 at 224", [3, 64, 7, 2, 3, 224]),
    ("3x3 64-192 at 56", [64, 192, 3, 1, 1, 56]),
    ("1x1 480-192 at 14", [480, 192, 1, 1, 0, 14]),
    ("5x5 32-96 at 28", [32, 96, 5, 1, 2, 28]),
    ("5x5 48-128 at 7", [48, 128, 5, 1, 2, 7]),
];

/// An operation that offers only one of its implementations.
#[derive(Debug)]
struct Only {
    op: Arc<dyn Operation>,
    implementation: &'static str,
}

macro_rules! same_twin {
    ($($float:ty),*) => {$(
        impl Reference<$float> for Only {
            fn run(&self, inputs: &[&Array<$float>], outputs: &mut [Array<$float>], step: &Step) {
                Reference::<$float>::run(self.op.as_ref(), inputs, outputs, step);
            }
        }
    )*};
}

same_twin!(f32, f64);

impl Operation for Only {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        self.op.infer(inputs)
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let mut list = self.op.kernels(operands, profile);
        list.retain(|i| i.name == self.implementation);
        list
    }

    fn macs(&self, inputs: &[&Spec], outputs: &[&Spec]) -> u64 {
        self.op.macs(inputs, outputs)
    }
}

/// The operation of one direction with the shapes of its inputs.
fn directions(batch: usize, layer: [usize; 6]) -> Vec<(&'static str, Arc<dyn Operation>, [Spec; 2])> {
    let [channels, outputs, kernel, stride, padding, size] = layer;
    let out = (size + 2 * padding - kernel) / stride + 1;
    let x = Spec::f32([batch, channels, size, size]);
    let weight = Spec::f32([outputs, channels, kernel, kernel]);
    let dy = Spec::f32([batch, outputs, out, out]);
    let (strides, pads) = ([stride; 2], [padding; 2]);
    let input =
        ConvInputGrad { stride: strides, padding: pads, size: [size; 2], accumulate: false, masked: false };
    let weights = ConvWeightGrad { stride: strides, padding: pads, kernel: [kernel; 2] };
    vec![
        ("forward", Arc::new(Conv::new(stride, padding)), [x.clone(), weight.clone()]),
        ("input gradient", Arc::new(input), [dy.clone(), weight]),
        ("weight gradient", Arc::new(weights), [x, dy]),
    ]
}

/// The names of the implementations that fit the device.
fn implementations(gpu: &Gpu, op: &dyn Operation, inputs: &[Spec]) -> Result<Vec<&'static str>> {
    let trial = incept::gpu::Trial::new(op, inputs, 0)?;
    Ok(trial.implementations(gpu).iter().map(|i| i.name).collect())
}

fn session(gpu: &Gpu, op: Only, inputs: &[Spec]) -> Result<Session> {
    let mut graph = Graph::new();
    let inputs: Vec<_> = inputs.iter().map(|spec| graph.input(spec.to_string(), spec.clone())).collect();
    let output = graph.node("layer", Arc::new(op), &inputs)?[0];
    let options =
        PlanOptions { profile: gpu.profile(), outputs: &[output], metrics: &[], layout: None, choices: None };
    let plan = Arc::new(Plan::new(&graph, &options)?);
    gpu.block_on(Session::new(gpu, plan, None, |_, _| ()))
}

/// The time of so many runs.
fn time(gpu: &Gpu, session: &Session, runs: u64) -> Result<Duration> {
    let mut seconds = 0.0;
    for _ in 0..runs {
        let times = gpu.block_on(session.profile(&Step::default(), gpu.clock()))?;
        seconds += times.iter().map(|t| t.interval.seconds).sum::<f64>();
    }
    // Criterion divides by it.
    Ok(Duration::from_secs_f64(seconds).max(Duration::from_nanos(1)))
}

fn layers(criterion: &mut Criterion) {
    let gpu = Gpu::open_blocking(&AdapterOptions::default()).expect("a device can be opened");
    let software = gpu.summary().class == AdapterClass::Software;
    let batch = std::env::var("INCEPT_BATCH").ok().and_then(|text| text.parse().ok());
    let batch = batch.unwrap_or(if software { 1 } else { 32 });
    eprintln!("{}, batch {batch}", gpu.summary());
    for (name, layer) in LAYERS {
        for (direction, op, inputs) in directions(batch, layer) {
            let mut group = criterion.benchmark_group(format!("{name} {direction}"));
            let outputs = op.infer(&inputs.iter().collect::<Vec<_>>()).expect("shapes fit");
            let macs = op.macs(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>());
            // Elements a second are FLOPs.
            group.throughput(Throughput::Elements(2 * macs));
            for implementation in implementations(&gpu, op.as_ref(), &inputs).expect("shapes fit") {
                let only = Only { op: Arc::clone(&op), implementation };
                let session = session(&gpu, only, &inputs).expect("the layer can be planned");
                group.bench_function(BenchmarkId::from_parameter(implementation), |bencher| {
                    bencher.iter_custom(|runs| time(&gpu, &session, runs).expect("the device runs"));
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = layers
}
criterion_main!(benches);
