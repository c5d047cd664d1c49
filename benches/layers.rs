//! Single convolutions of GoogLeNet in three directions, with every implementation that fits the
//! device. Times are the device's timestamps where it has them.
//!
//! `INCEPT_BATCH` is the batch size; the default is 32 on GPUs and 1 on CPUs.

#[path = "shared/layers.rs"]
mod shared;

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use incept::Result;
use incept::gpu::{AdapterOptions, Gpu, Session};
use incept::graph::{Graph, Operation};
use incept::kernel::{AdapterClass, Implementation, Operands, Profile, Step};
use incept::ops::offers;
use incept::plan::{Plan, PlanOptions};
use incept::tensor::Spec;

use shared::{Direction, LAYERS};

/// An operation that offers only one of its implementations.
#[derive(Debug)]
struct Only {
    op: Arc<dyn Operation>,
    implementation: &'static str,
}

impl Operation for Only {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[&Spec]) -> Result<Vec<Spec>, String> {
        self.op.infer(inputs)
    }

    fn kernels(&self, operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
        let mut list = offers(self.op.as_ref(), operands, profile);
        list.retain(|i| i.name == self.implementation);
        list
    }

    fn macs(&self, inputs: &[&Spec], outputs: &[&Spec]) -> u64 {
        self.op.macs(inputs, outputs)
    }
}

/// The names of the implementations that fit the device.
fn implementations(gpu: &Gpu, op: &dyn Operation, inputs: &[Spec]) -> Result<Vec<&'static str>> {
    let trial = incept::tune::Trial::new(op, inputs, 0)?;
    Ok(trial.implementations(gpu).iter().map(|i| i.name).collect())
}

fn session(gpu: &Gpu, op: Only, inputs: &[Spec]) -> Result<Session> {
    let mut graph = Graph::new();
    let inputs: Vec<_> = inputs.iter().map(|spec| graph.input(spec.to_string(), spec.clone())).collect();
    let output = graph.add_node("layer", Arc::new(op), &inputs)?[0];
    let plan = Arc::new(Plan::new(&graph, &PlanOptions::new(gpu.profile()).outputs(&[output]))?);
    gpu.block_on(Session::new(gpu, plan, None, |_, _| ()))
}

/// The total time of the runs.
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
    for layer in &LAYERS {
        for direction in Direction::ALL {
            let (op, inputs) = layer.operation(direction, batch);
            let mut group = criterion.benchmark_group(format!("{} {direction}", layer.name));
            let outputs = op.infer(&inputs.iter().collect::<Vec<_>>()).expect("shapes fit");
            let macs = op.macs(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>());
            // Elements per second are FLOPS.
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
