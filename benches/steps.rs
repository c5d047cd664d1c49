//! Whole training steps and inference batches of networks at width 0.25, on 64 x 64 images.
//!
//! `INCEPT_BATCH` is the batch size; the default is 32.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use incept::data::Batch;
use incept::gpu::{AdapterOptions, Gpu};
use incept::model::GoogLeNet;
use incept::optim::Optimizer;
use incept::train::Trainer;

const INPUT: usize = 64;
const CLASSES: usize = 100;

/// Images that are neither noise nor constant.
fn images(batch: usize) -> Batch {
    let values = (0..batch * 3 * INPUT * INPUT).map(|i| (i * 7919 % 509) as f32 / 254.0 - 1.0);
    let labels = (0..batch).map(|i| u32::try_from(i % CLASSES).unwrap_or(0)).collect();
    Batch { images: values.collect(), labels, count: batch, indices: (0..batch).collect(), mixed: None }
}

fn steps(criterion: &mut Criterion) {
    let gpu = Gpu::open_blocking(&AdapterOptions::default()).expect("a device can be opened");
    let batch = std::env::var("INCEPT_BATCH").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    eprintln!("{}, batch {batch}", gpu.summary());
    let images = images(batch);
    for network in [GoogLeNet::paper(), GoogLeNet::torchvision()] {
        let network = network.width(0.25).input(INPUT).classes(CLASSES);
        let optimizer = Optimizer::default();
        let trainer = Trainer::new(&gpu, &network, &optimizer, batch, 1, |_, _| ());
        let mut trainer = gpu.block_on(trainer).expect("the network can be made");
        let mut classifier = gpu.block_on(trainer.classifier(batch)).expect("the network can be made");
        let mut group = criterion.benchmark_group(format!("{} x0.25 at {INPUT}", network.variant));
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function("training step", |bencher| {
            bencher.iter(|| {
                trainer.step(&images, 1e-4).expect("the device runs");
                gpu.block_on(trainer.metrics(0)).expect("the device runs")
            });
        });
        group.bench_function("inference", |bencher| {
            bencher.iter(|| gpu.block_on(classifier.probabilities(&images)).expect("the device runs"));
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = steps
}
criterion_main!(benches);
