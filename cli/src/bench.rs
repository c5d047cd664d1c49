//! `incept bench`

use std::time::Instant;

use clap::Args;
use incept::data::Batch;
use incept::gpu::{AdapterSummary, Counters, Gpu};
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
use super::report::{Reporter, bytes, thousands};
use super::tune::Worth;
use super::{Outcome, Result};

/// Steps on their way to the device at a time, as in training.
const IN_FLIGHT: usize = 2;

/// Seconds that a round takes where no option says how many steps it has.
const ROUND: f64 = 1.0;

/// Measure how fast a network trains and classifies, on made-up images.
///
/// GFLOPS count two operations for each multiply-add of convolutions and linear layers: those of
/// the forward and the backward graph for a training step (about three times the forward pass),
/// those of the inference graph for inference. What is left out (pooling, normalisation, the
/// optimizer) is time and no arithmetic.
///
/// A round is steps one after another; every number is the median of the rounds, with the least and
/// the most. Each step brings its images to the device and its metrics back, as in training;
/// inference has two batches on their way, as in evaluation.
///
/// With --json: train.images_per_s, train.gflops, infer.images_per_s, infer.gflops and infer.ms (a
/// batch), each with median, min and max; seconds to start up; memory; and what a step asks of the
/// driver. A barrier is a dispatch in front of which wgpu waits for earlier ones of the same run,
/// because they bind the same buffer.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    work: WorkArgs,
    /// Rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = whole::<u32>(1))]
    rounds: u32,
    /// Steps of a round [default: as many as take a second].
    #[arg(long, value_name = "COUNT", value_parser = whole::<u32>(1))]
    steps: Option<u32>,
    /// Steps before the first round.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = whole::<u32>(1))]
    warm_up: u32,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The network and the batch to measure.
#[derive(Args, Debug)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Number of classes.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, help_heading = "Network", value_parser = whole::<usize>(2))]
    classes: usize,
    /// Images of a batch.
    #[arg(short = 'b', long = "batch-size", alias = "batch", value_name = "COUNT", default_value_t = 32, value_parser = whole::<usize>(1))]
    pub batch: usize,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// Make most activations again in the backward pass, as `incept train --grad-checkpointing`.
    #[arg(long = "grad-checkpointing", alias = "checkpointing")]
    pub checkpointing: bool,
    /// What weights and images are drawn from.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole::<u64>(0))]
    pub seed: u64,
}

impl WorkArgs {
    pub(crate) fn network(&self) -> Result<GoogLeNet> {
        GoogLeNet::check_batch(self.batch)?;
        self.network.network(self.classes, 224)
    }

    /// The optimizer of the step, with activations stored as the device or an option has it.
    pub(crate) fn optimizer(&self, precision: Precision) -> Optimizer {
        Optimizer { precision, checkpointing: self.checkpointing, ..Optimizer::default() }
    }

    /// A batch of noise.
    pub(crate) fn images(&self, network: &GoogLeNet) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let images = 0..self.batch * 3 * network.input * network.input;
        let images = images.map(|_| 2.0 * random.random::<f32>() - 1.0).collect();
        // A class number is below the number of classes, which fits.
        let labels = (0..self.batch).map(|i| (i % network.classes) as u32).collect();
        Batch { images, labels, count: self.batch, indices: (0..self.batch).collect(), mixed: None }
    }
}

/// A number in several rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of values in any order, at least one.
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

    /// What `of` makes of the seconds of each round.
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
    /// Share of the time in which the device worked on steps; none where it cannot tell.
    device_busy: Option<f64>,
}

#[derive(Serialize)]
struct InferResult {
    images_per_s: Spread,
    gflops: Spread,
    ms: Spread,
    batches: u32,
}

/// Seconds until a first step is done.
#[derive(Serialize)]
struct StartUp {
    device_s: f64,
    kernels_s: f64,
    first_step_s: f64,
}

/// What one training step asks of the driver.
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
    /// What was made until the first step was done.
    start: Counters,
}

impl Bench {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let device = &self.device;
        let network = self.work.network()?;
        let images = self.work.images(&network);
        let begin = Instant::now();
        let gpu = device.open()?;
        let device_s = begin.elapsed().as_secs_f64();

        let optimizer = self.work.optimizer(self.work.precision.training(&gpu));
        let batch = self.work.batch;
        device.tune(&gpu, reporter, Worth::Classifying, None, || {
            TrainingGraph::new(&network, &optimizer, batch)?.plan(&gpu)
        })?;
        device.tune(&gpu, reporter, Worth::Classifying, None, || {
            InferenceGraph::new(&network, batch, optimizer.precision.element())?.plan(&gpu, None)
        })?;
        // What tuning made is no part of a start.
        let before = gpu.counters();
        let begin = Instant::now();
        let mut trainer = self.trainer(&gpu, &network, &optimizer, reporter)?;
        let kernels_s = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        gpu.block_on(train(&mut trainer, &images, 1))?;
        let first_step_s = begin.elapsed().as_secs_f64();
        let start = gpu.counters();

        let (seconds, steps) = {
            let mut bar = reporter.bar("training", u64::from(self.rounds));
            gpu.block_on(train(&mut trainer, &images, self.warm_up))?;
            let trial = gpu.block_on(train(&mut trainer, &images, 1))?;
            let steps = self.steps_of(trial);
            gpu.block_on(trainer.watch())?;
            let mut seconds = Vec::new();
            for round in 1..=self.rounds {
                seconds.push(gpu.block_on(train(&mut trainer, &images, steps))?);
                bar.update(u64::from(round), String::new);
            }
            (seconds, steps)
        };
        let done = f64::from(steps * self.rounds);
        let asked = gpu.counters().since(&start);
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

        let (seconds, batches, macs) = self.infer(&gpu, &trainer, &images, reporter)?;
        let (images_per_s, gflops, ms) = rates(&seconds, batches, macs);
        let infer = InferResult { images_per_s, gflops, ms, batches };
        let result = BenchResult {
            device: gpu.summary(),
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
        };
        result.print(reporter)?;
        reporter.event(&result)?;
        Ok(Outcome::Done)
    }

    fn trainer(
        &self,
        gpu: &Gpu,
        network: &GoogLeNet,
        optimizer: &Optimizer,
        reporter: &Reporter,
    ) -> Result<Trainer> {
        let mut bar = None;
        let prepared = |done: usize, of: usize| {
            let bar = bar.get_or_insert_with(|| reporter.bar("preparing kernels", of as u64));
            bar.update(done as u64, String::new);
        };
        gpu.block_on(Trainer::new(gpu, network, optimizer, self.work.batch, self.work.seed, prepared))
    }

    /// Steps of a round, after one that took so many seconds.
    fn steps_of(&self, seconds: f64) -> u32 {
        // Clamped to what a u32 holds.
        self.steps.unwrap_or((ROUND / seconds.max(1e-6)).round().clamp(1.0, 1000.0) as u32)
    }

    /// The seconds of each round of inference, its batches, and the multiply-adds of a batch.
    fn infer(
        &self,
        gpu: &Gpu,
        trainer: &Trainer,
        images: &Batch,
        reporter: &Reporter,
    ) -> Result<(Vec<f64>, u32, u64)> {
        let mut classifier = gpu.block_on(trainer.classifier(self.work.batch))?;
        let mut bar = reporter.bar("inference", u64::from(self.rounds));
        gpu.block_on(classify(&mut classifier, images, self.warm_up))?;
        let trial = gpu.block_on(classify(&mut classifier, images, 1))?;
        let batches = self.steps_of(trial);
        let mut seconds = Vec::new();
        for round in 1..=self.rounds {
            seconds.push(gpu.block_on(classify(&mut classifier, images, batches))?);
            bar.update(u64::from(round), String::new);
        }
        Ok((seconds, batches, classifier.session().plan().graph.macs()))
    }
}

/// Trains `steps` steps and waits for all; returns the seconds.
async fn train(trainer: &mut Trainer, images: &Batch, steps: u32) -> Result<f64> {
    // Labels mean nothing here: a small rate keeps the numbers finite.
    const RATE: f32 = 1e-4;
    let begin = Instant::now();
    for _ in 0..steps {
        trainer.step(images, RATE)?;
        trainer.metrics(IN_FLIGHT).await?;
    }
    trainer.metrics(0).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Classifies `batches` batches, the next on its way before the one before is there, as evaluation
/// does; returns the seconds.
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
            "{} network, {} classes, input {}, batch {}, {}; {} rounds",
            n.variant,
            n.classes,
            n.input,
            self.batch,
            self.precision.wgsl(),
            self.rounds
        ))?;
        let StartUp { device_s, kernels_s, first_step_s } = self.start_up;
        reporter.line(&format!(
            "start-up   {device_s:.2} s to open the device, {kernels_s:.2} s to make the kernels, {first_step_s:.2} s for the first step"
        ))?;
        let m = self.memory;
        let over = 100.0 * (m.planned_bytes as f64 / m.bound_bytes.max(1) as f64 - 1.0);
        reporter.line(&format!(
            "memory     values {} planned, {} at least ({over:.1}% over); {} in all",
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
        reporter.line(&format!("training   {} a step{busy}", rates(&t.images_per_s, &t.gflops, &t.ms)))?;
        let i = &self.infer;
        reporter.line(&format!("inference  {} a batch", rates(&i.images_per_s, &i.gflops, &i.ms)))?;
        let s = &self.step;
        reporter.line(&format!(
            "a step     {} submissions, {} dispatches, {} barriers, {} read-backs, {} bind groups, {} pipelines",
            s.submissions, s.dispatches, s.barriers, s.read_backs, s.bind_groups, s.pipelines
        ))?;
        reporter.line(&format!(
            "before     {} pipelines and {} bind groups made by the end of the first step",
            thousands(self.start.pipelines),
            thousands(self.start.bind_groups)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
