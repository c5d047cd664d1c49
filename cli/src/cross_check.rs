//! The first steps of a training on a software adapter and on the CPU, side by side: the shaders
//! are seen at work also where no GPU is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use incept::Result;
use incept::data::{Batch, Loader};
use incept::device::Device;
use incept::gpu::{AdapterOptions, AdapterSummary, Gpu};
use incept::optim::TrainingState;
use incept::train::Trainer;
use serde::Serialize;

use super::fit::Setup;
use super::report::{Reporter, note};

/// Steps on each device.
const STEPS: usize = 5;

/// How far the results of two devices are apart.
#[derive(Debug, Serialize)]
struct CrossCheck<'a> {
    event: &'static str,
    adapter: &'a str,
    steps: usize,
    /// Largest relative difference of the total losses.
    loss_difference: f64,
    /// Relative L2 distance of all parameters after the steps.
    weight_difference: f64,
    shader_step_ms: f64,
    cpu_step_ms: f64,
}

/// What a few steps left.
struct Trained {
    losses: Vec<f32>,
    state: TrainingState,
    step_ms: f64,
}

/// Trains a few steps of the setup on the adapter, with WGSL shaders, and on the CPU, and reports
/// how far they are apart. An adapter that fails is reported and does not stop the training.
///
/// # Errors
/// Errors of the data set and of the CPU.
pub(crate) fn cross_check(
    setup: &Setup,
    adapter: &AdapterSummary,
    cpu: &Device,
    stop: &AtomicBool,
    reporter: &Reporter,
) -> Result<()> {
    let training = setup.load.options(setup.run.batch, &setup.preprocessing);
    let loader = Loader::new(setup.data.train.clone(), training.training(setup.run.seed, None))?;
    let batches: Vec<Batch> = loader.epoch(0, 0).take(STEPS).collect::<Result<_>>()?;
    let shaders = open(adapter).and_then(|gpu| train(setup, &gpu, &batches, stop, Some(reporter)));
    let shaders = match shaders {
        Ok(Some(trained)) => trained,
        Ok(None) => return Ok(()),
        Err(error) => {
            note(&format!("no steps with shaders on {}: {error}", adapter.name));
            return Ok(());
        }
    };
    let Some(own) = train(setup, cpu, &batches, stop, None)? else { return Ok(()) };
    let pairs = shaders.losses.iter().zip(&own.losses);
    let difference = |(a, b): (&f32, &f32)| f64::from((a - b).abs()) / f64::from(b.abs()).max(1e-12);
    let result = CrossCheck {
        event: "cross_check",
        adapter: &adapter.name,
        steps: batches.len(),
        loss_difference: pairs.map(difference).fold(0.0, f64::max),
        weight_difference: distance(&shaders.state, &own.state),
        shader_step_ms: shaders.step_ms,
        cpu_step_ms: own.step_ms,
    };
    reporter.line(&format!(
        "{} steps with WGSL shaders on {} and on the CPU: losses differ by {:.0e}, weights by {:.0e}; a step takes {:.0} ms and {:.0} ms",
        result.steps,
        adapter.name,
        result.loss_difference,
        result.weight_difference,
        result.shader_step_ms,
        result.cpu_step_ms
    ))?;
    reporter.event(&result)
}

fn open(adapter: &AdapterSummary) -> Result<Device> {
    let options = AdapterOptions::default().adapter(adapter.index.to_string());
    Ok(Gpu::open_blocking(&options)?.into())
}

/// Trains on the batches; `None` if it was stopped.
fn train(
    setup: &Setup,
    device: &Device,
    batches: &[Batch],
    stop: &AtomicBool,
    reporter: Option<&Reporter>,
) -> Result<Option<Trained>> {
    let mut bar = None;
    let prepared = |done: usize, of: usize| {
        if let Some(reporter) = reporter {
            let bar = bar.get_or_insert_with(|| reporter.bar("compiling shaders", of as u64));
            bar.update(done as u64, String::new);
        }
    };
    let run = &setup.run;
    let trainer = Trainer::new(device, &setup.network, &run.optimizer, run.batch, run.seed, prepared);
    let mut trainer = device.block_on(trainer)?;
    let (mut losses, mut seconds) = (Vec::new(), f64::INFINITY);
    for batch in batches {
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let start = Instant::now();
        trainer.step(batch, run.lr as f32)?;
        losses.extend(device.block_on(trainer.metrics(0))?.iter().map(|metrics| metrics.loss));
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let state = device.block_on(trainer.state())?;
    Ok(Some(Trained { losses, state, step_ms: 1e3 * seconds }))
}

/// Relative L2 distance of the parameters.
fn distance(a: &TrainingState, b: &TrainingState) -> f64 {
    let pairs = a.parameters.values().zip(b.parameters.values());
    let (mut apart, mut norm) = (0.0f64, 0.0f64);
    for (a, b) in pairs.flat_map(|(a, b)| a.data.iter().zip(&b.data)) {
        apart += (f64::from(*a) - f64::from(*b)).powi(2);
        norm += f64::from(*b).powi(2);
    }
    (apart / norm.max(1e-30)).sqrt()
}
