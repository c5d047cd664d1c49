//! `incept bench`

use std::time::Instant;

use clap::Args;
use incept::data::Batch;
use incept::device::Device;
use incept::gpu::{AdapterSummary, Counters};
use incept::infer::{Classifier, InferenceGraph};
use incept::model::GoogLeNet;
use incept::optim::{Optimizer, Precision};
use incept::plan::Memory;
use incept::tensor::Element;
use incept::train::{Trainer, TrainingGraph};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::numbers::whole;
use super::options::{DeviceArgs, NetworkArgs, PrecisionArgs};
use super::report::{Reporter, bytes, plural, thousands};
use super::tune::Worth;
use super::{Outcome, Result};

/// Steps in flight at a time, as in training.
const IN_FLIGHT: usize = 2;

/// Target duration of a round in seconds, without `--steps`.
const ROUND: f64 = 1.0;

/// Benchmark training and inference on synthetic images.
///
/// GFLOPS count two operations per multiply-add of convolutions and linear layers: forward and
/// backward pass of a training step (about three times the forward pass), or the inference graph.
/// Pooling, normalization and the optimizer take time but are not counted.
///
/// A round is a number of consecutive steps; every result is the median over the rounds, with
/// minimum and maximum. Each step uploads its images and reads back its metrics, as in training;
/// inference keeps two batches in flight, as in evaluation.
///
/// With --json: train.images_per_s, train.gflops, infer.images_per_s, infer.gflops and infer.ms
/// (per batch), each with median, min and max; start-up times in seconds; memory; and driver calls
/// per step. A barrier is a dispatch that wgpu orders after earlier ones of the same submission,
/// because they bind the same buffer.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    work: WorkArgs,
    /// Number of rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = whole::<u32>(1))]
    rounds: u32,
    /// Steps per round [default: as many as take one second].
    #[arg(long, value_name = "COUNT", value_parser = whole::<u32>(1))]
    steps: Option<u32>,
    /// Warm-up steps before the first round.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = whole::<u32>(1))]
    warm_up: u32,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The network and batch to benchmark.
#[derive(Args, Debug)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Number of classes.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, help_heading = "Network", value_parser = whole::<usize>(2))]
    classes: usize,
    /// Batch size.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    pub batch: usize,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Recompute activations in the backward pass to save memory.
    #[arg(long = "grad-checkpointing", alias = "checkpointing")]
    pub checkpointing: bool,
    /// Random seed of weights and images.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole::<u64>(0))]
    pub seed: u64,
}

impl WorkArgs {
    pub(crate) fn network(&self) -> Result<GoogLeNet> {
        GoogLeNet::check_batch(self.batch)?;
        self.network.network(self.classes, 224)
    }

    /// The optimizer of the training step, with activations in `precision`.
    pub(crate) fn optimizer(&self, precision: Precision) -> Optimizer {
        Optimizer::default().precision(precision).checkpointing(self.checkpointing)
    }

    /// A batch of uniform noise in [-1, 1) with labels 0, 1, 2, ...
    pub(crate) fn images(&self, network: &GoogLeNet) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let images = 0..self.batch * 3 * network.input * network.input;
        let images = images.map(|_| 2.0 * random.random::<f32>() - 1.0).collect();
        // Fits: class indices are below the number of classes.
        let labels = (0..self.batch).map(|i| (i % network.classes) as u32).collect();
        Batch { images, labels, count: self.batch, indices: (0..self.batch).collect(), mixed: None }
    }
}

/// A result over several rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// The spread of at least one value.
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            (at(half.wrapping_sub(1)) + at(half)) / 2.0
        } else {
            at(half)
        };
        Self { median, min: at(0), max: at(sorted.len().wrapping_sub(1)) }
    }

    /// The spread of `of` applied to the seconds of each round.
    fn map(seconds: &[f64], of: impl Fn(f64) -> f64) -> Self {
        Self::of(&seconds.iter().map(|s| of(*s)).collect::<Vec<_>>())
    }
}

#[derive(Serialize)]
struct TrainResult {
    images_per_s: Spread,
    gflops: Spread,
    ms: Spread,
    steps: u32,
    /// Fraction of the time in which the device was busy; none without timestamps.
    device_busy: Option<f64>,
}

#[derive(Serialize)]
struct InferResult {
    images_per_s: Spread,
    gflops: Spread,
    ms: Spread,
    batches: u32,
}

/// Times from the start of the command to the end of the first step.
#[derive(Serialize)]
struct StartUp {
    device_s: f64,
    kernels_s: f64,
    first_step_s: f64,
}

/// Driver calls of one training step, on average.
#[derive(Serialize)]
struct StepCounts {
    submissions: f64,
    dispatches: f64,
    barriers: usize,
    read_backs: f64,
    bind_groups: f64,
    pipelines: f64,
}

#[derive(Serialize)]
struct BenchResult<'a> {
    device: &'a AdapterSummary,
    network: &'a GoogLeNet,
    batch: usize,
    precision: Element,
    checkpointing: bool,
    rounds: u32,
    start_up: StartUp,
    memory: Memory,
    train: TrainResult,
    infer: InferResult,
    step: StepCounts,
    /// Driver objects created by the end of the first step.
    start: Counters,
    /// On the CPU: GFLOPS of a product of two matrices of extent 2048.
    peak_gflops: Option<f64>,
}

impl Bench {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device_args = &self.device;
        let network = self.work.network()?;
        let images = self.work.images(&network);
        let begin = Instant::now();
        let device = device_args.open()?;
        let device_s = begin.elapsed().as_secs_f64();

        let optimizer = self.work.optimizer(self.work.precision.training(&device));
        let batch = self.work.batch;
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            TrainingGraph::new(&network, &optimizer, batch)?.plan(&device)
        })?;
        device_args.tune(&device, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&network, batch, optimizer.precision.element())?.plan(&device, None)
        })?;
        // Tuning does not count as start-up.
        let before = device.counters();
        let begin = Instant::now();
        let mut trainer = self.trainer(&device, &network, &optimizer, reporter)?;
        let kernels_s = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        device.block_on(train(&mut trainer, &images, 1))?;
        let first_step_s = begin.elapsed().as_secs_f64();
        let start = device.counters();

        let (seconds, steps) = {
            let mut bar = reporter.bar("training", u64::from(self.rounds));
            device.block_on(train(&mut trainer, &images, self.warm_up))?;
            let trial = device.block_on(train(&mut trainer, &images, 1))?;
            let steps = self.steps_of(trial);
            device.block_on(trainer.watch())?;
            let mut seconds = Vec::new();
            for round in 1..=self.rounds {
                seconds.push(device.block_on(train(&mut trainer, &images, steps))?);
                bar.update(u64::from(round), String::new);
            }
            (seconds, steps)
        };
        let done = f64::from(steps * self.rounds);
        let asked = device.counters().since(&start);
        // Warm-up and trial are steps too.
        let all = done + f64::from(self.warm_up + 1);
        let a_step = |count: u64| count as f64 / all;
        let plan = trainer.session().plan();
        let step = StepCounts {
            submissions: a_step(asked.submissions),
            dispatches: a_step(asked.dispatches),
            barriers: plan.barriers(),
            read_backs: a_step(asked.read_backs),
            bind_groups: a_step(asked.bind_groups),
            pipelines: a_step(asked.pipelines),
        };
        let total: f64 = seconds.iter().sum();
        let (macs, memory) = (plan.graph.macs(), plan.memory);
        let rates = |seconds: &[f64], count: u32, macs: u64| {
            let each = f64::from(count);
            (
                Spread::map(seconds, |s| each * self.work.batch as f64 / s),
                Spread::map(seconds, |s| each * 2e-9 * macs as f64 / s),
                Spread::map(seconds, |s| 1e3 * s / each),
            )
        };
        let (images_per_s, gflops, ms) = rates(&seconds, steps, macs);
        let device_busy = trainer.busy_seconds().map(|busy| (busy / total).min(1.0));
        let train = TrainResult { images_per_s, gflops, ms, steps, device_busy };

        let (seconds, batches, macs) = self.infer(&device, &trainer, &images, reporter)?;
        let (images_per_s, gflops, ms) = rates(&seconds, batches, macs);
        let infer = InferResult { images_per_s, gflops, ms, batches };
        let peak_gflops = match device.cpu() {
            Some(_) => Some(1e-9 * device.block_on(device.roofline())?.flops),
            None => None,
        };
        let result = BenchResult {
            device: device.summary(),
            network: &network,
            batch: self.work.batch,
            precision: optimizer.precision.element(),
            checkpointing: optimizer.checkpointing,
            rounds: self.rounds,
            start_up: StartUp { device_s, kernels_s, first_step_s },
            memory,
            train,
            infer,
            step,
            start: start.since(&before),
            peak_gflops,
        };
        result.print(reporter)?;
        reporter.event(&result)?;
        Ok(Outcome::Done)
    }

    fn trainer(
        &self,
        device: &Device,
        network: &GoogLeNet,
        optimizer: &Optimizer,
        reporter: &Reporter,
    ) -> Result<Trainer> {
        let mut bar = None;
        let prepared = |done: usize, of: usize| {
            let bar = bar.get_or_insert_with(|| reporter.bar("compiling kernels", of as u64));
            bar.update(done as u64, String::new);
        };
        device.block_on(Trainer::new(device, network, optimizer, self.work.batch, self.work.seed, prepared))
    }

    /// Steps per round, given the seconds of one step.
    fn steps_of(&self, seconds: f64) -> u32 {
        // Clamped, so the cast to u32 is exact.
        self.steps.unwrap_or((ROUND / seconds.max(1e-6)).round().clamp(1.0, 1000.0) as u32)
    }

    /// Benchmarks inference: the seconds of each round, batches per round, and multiply-adds per
    /// batch.
    fn infer(
        &self,
        device: &Device,
        trainer: &Trainer,
        images: &Batch,
        reporter: &Reporter,
    ) -> Result<(Vec<f64>, u32, u64)> {
        let mut classifier = device.block_on(trainer.classifier(self.work.batch))?;
        let mut bar = reporter.bar("inference", u64::from(self.rounds));
        device.block_on(classify(&mut classifier, images, self.warm_up))?;
        let trial = device.block_on(classify(&mut classifier, images, 1))?;
        let batches = self.steps_of(trial);
        let mut seconds = Vec::new();
        for round in 1..=self.rounds {
            seconds.push(device.block_on(classify(&mut classifier, images, batches))?);
            bar.update(u64::from(round), String::new);
        }
        Ok((seconds, batches, classifier.session().plan().graph.macs()))
    }
}

/// Runs `steps` training steps to completion; returns the seconds.
async fn train(trainer: &mut Trainer, images: &Batch, steps: u32) -> Result<f64> {
    // Labels are arbitrary: a small learning rate keeps the loss finite.
    const RATE: f32 = 1e-4;
    let begin = Instant::now();
    for _ in 0..steps {
        trainer.step(images, RATE)?;
        trainer.metrics(IN_FLIGHT).await?;
    }
    trainer.metrics(0).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Classifies `batches` batches with two in flight, as evaluation does; returns the seconds.
async fn classify(classifier: &mut Classifier, images: &Batch, batches: u32) -> Result<f64> {
    let begin = Instant::now();
    for batch in 0..batches {
        classifier.push(images).await?;
        if batch > 0 {
            classifier.pull().await?;
        }
    }
    classifier.pull().await?;
    Ok(begin.elapsed().as_secs_f64())
}

impl BenchResult<'_> {
    fn print(&self, reporter: &Reporter) -> incept::Result<()> {
        let n = self.network;
        reporter.line(&format!(
            "{} network, {}, input {}, batch {}, {}; {}",
            n.variant,
            plural(n.classes as u64, "class"),
            n.input,
            self.batch,
            self.precision.wgsl(),
            plural(u64::from(self.rounds), "round")
        ))?;
        let StartUp { device_s, kernels_s, first_step_s } = self.start_up;
        reporter.line(&format!(
            "start-up   {device_s:.2} s to open the device, {kernels_s:.2} s to compile the kernels, {first_step_s:.2} s for the first step"
        ))?;
        let m = self.memory;
        let over = 100.0 * (m.planned_bytes as f64 / m.bound_bytes.max(1) as f64 - 1.0);
        reporter.line(&format!(
            "memory     activations {} (lower bound {}, {over:.1}% above it); total {}",
            bytes(m.planned_bytes),
            bytes(m.bound_bytes),
            bytes(m.total_bytes())
        ))?;
        let rates = |images: &Spread, gflops: &Spread, ms: &Spread| {
            format!(
                "{:.1} images/s ({:.1} to {:.1})  {:.1} GFLOPS ({:.1} to {:.1})  {:.2} ms ({:.2} to {:.2})",
                images.median,
                images.min,
                images.max,
                gflops.median,
                gflops.min,
                gflops.max,
                ms.median,
                ms.min,
                ms.max
            )
        };
        let t = &self.train;
        let busy = t.device_busy.map_or(String::new(), |b| format!("; device busy {:.1}%", 100.0 * b));
        reporter.line(&format!("training   {} per step{busy}", rates(&t.images_per_s, &t.gflops, &t.ms)))?;
        let i = &self.infer;
        reporter.line(&format!("inference  {} per batch", rates(&i.images_per_s, &i.gflops, &i.ms)))?;
        if let Some(peak) = self.peak_gflops {
            return reporter.line(&format!(
                "share      training {:.0}%, inference {:.0}% of the peak of {peak:.0} GFLOPS, a product of matrices of 2048",
                100.0 * t.gflops.median / peak,
                100.0 * i.gflops.median / peak
            ));
        }
        let s = &self.step;
        reporter.line(&format!(
            "per step   {} submissions, {} dispatches, {} barriers, {} read-backs, {} bind groups, {} pipelines",
            s.submissions, s.dispatches, s.barriers, s.read_backs, s.bind_groups, s.pipelines
        ))?;
        reporter.line(&format!(
            "set-up     {} pipelines and {} bind groups created by the end of the first step",
            thousands(self.start.pipelines),
            thousands(self.start.bind_groups)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
