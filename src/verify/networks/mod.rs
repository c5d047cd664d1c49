//! Golden sets of whole networks: logits, losses and gradients of one step, parameters after some
//! steps, logits in evaluation mode.

mod compare;
mod reference;
mod witness;

use std::collections::BTreeMap;
use std::path::Path;

use super::{Engine, Found, Tensors, file, tensor};
use crate::data::Batch;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::read_tensors;
use crate::graph::Region;
use crate::model::GoogLeNet;
use crate::optim::Optimizer;
use crate::optim::TrainingState;
use crate::train::Trainer;
use reference::on_reference;

/// The learning rate of the goldens; momentum and weight decay are [`Optimizer::default`]'s.
const RATE: f32 = 0.01;

/// A golden set.
#[derive(Clone)]
struct Golden {
    network: GoogLeNet,
    batch: Batch,
    init: TrainingState,
    io: Tensors,
    gradients: Tensors,
    after: Tensors,
    /// Steps of SGD.
    steps: usize,
}

/// Results of an engine, by name.
#[derive(Default)]
struct Outcome {
    logits: BTreeMap<String, Vec<f32>>,
    losses: BTreeMap<String, f32>,
    totals: Vec<f32>,
    gradients: BTreeMap<String, Vec<f32>>,
    after: BTreeMap<String, Vec<f32>>,
    evaluation: Vec<f32>,
}

/// Runs a golden set on an engine.
pub(super) async fn run(device: &Device, folder: &Path, set: &str, engine: Engine) -> Result<Vec<Found>> {
    let golden = read(folder, set)?;
    let outcome = match engine {
        Engine::Device => on_device(device, &golden).await?,
        Engine::Reference32 => on_reference::<f32>(&golden)?,
        Engine::Reference64 => on_reference::<f64>(&golden)?,
    };
    let mut found = compare::compare(&golden, &outcome)?;
    if engine != Engine::Reference64 && found.iter().any(|f| !f.passed()) {
        witness::explain(&golden, &outcome, engine, &mut found)?;
    }
    Ok(found)
}

fn read(folder: &Path, set: &str) -> Result<Golden> {
    let load = |part: &str| Ok::<_, Error>(read_tensors(&file(folder, &format!("{set}_{part}")))?.0);
    let (init, io, gradients) = (load("init")?, load("io")?, load("grads")?);
    let steps = tensor(&io, "loss.total_per_step")?.data.len();
    if steps == 0 {
        return Err(Error::tensor("loss.total_per_step", "has no steps"));
    }
    let after = load(&format!("step{steps}"))?;
    let init = state_of(init);
    let shapes = init.parameters.iter().map(|(name, t)| (name.clone(), t.dims.clone())).collect();
    let input = tensor(&io, "input")?;
    let [size @ 1..=usize::MAX, 3, height, width] = input.dims[..] else {
        return Err(Error::tensor("input", "must be batch x 3 x height x width"));
    };
    if height != width {
        return Err(Error::tensor("input", format!("must be square, not {height}x{width}")));
    }
    // The goldens are from the paper's network without dropout and without the adaptation to small
    // inputs.
    let network = GoogLeNet::from_tensors(&shapes)?.input(height).dropout(0.0, 0.0);
    let network = GoogLeNet { keep_stem: true, ..network };
    let labels = tensor(&io, "labels")?;
    let known = |label: &f32| *label >= 0.0 && (*label as usize) < network.classes;
    if labels.data.len() != size || !labels.data.iter().all(known) {
        let reason = format!("must be {size} numbers below the {} classes", network.classes);
        return Err(Error::tensor("labels", reason));
    }
    let labels = labels.data.iter().map(|l| *l as u32).collect();
    let batch =
        Batch { images: input.data.clone(), labels, count: size, indices: (0..size).collect(), mixed: None };
    Ok(Golden { network, batch, init, io, gradients, after, steps })
}

/// Separates parameters and running statistics, without torchvision's batch counters.
fn state_of(tensors: Tensors) -> TrainingState {
    let mut state = TrainingState::default();
    for (name, tensor) in tensors {
        if name.ends_with("running_mean") || name.ends_with("running_var") {
            state.state.insert(name, tensor);
        } else if !name.ends_with("num_batches_tracked") {
            state.parameters.insert(name, tensor);
        }
    }
    state
}

async fn on_device(device: &Device, golden: &Golden) -> Result<Outcome> {
    let size = golden.batch.count;
    let optimizer = Optimizer::default();
    let mut trainer = Trainer::new(device, &golden.network, &optimizer, size, 0, |_, _| ()).await?;
    trainer.restore(&golden.init)?;
    let mut outcome = Outcome::default();
    for step in 0..golden.steps {
        trainer.step(&golden.batch, RATE)?;
        let metrics = trainer.metrics(0).await?;
        outcome.totals.extend(metrics.iter().map(|m| m.loss));
        if step > 0 {
            continue;
        }
        for head in metrics.iter().flat_map(|m| &m.heads) {
            outcome.losses.insert(format!("loss.{}", head.name), head.loss);
        }
        for (name, logits) in trainer.logits().await? {
            outcome.logits.insert(format!("logits.{name}"), logits);
        }
        for (entry, values) in trainer.session().regions().get(device, Region::Gradients).await? {
            outcome.gradients.insert(entry.name.clone(), values);
        }
    }
    let state = trainer.state().await?;
    outcome.after = state.parameters.into_iter().chain(state.state).map(|(n, t)| (n, t.data)).collect();
    let mut classifier = trainer.classifier(size).await?;
    classifier.probabilities(&golden.batch).await?;
    outcome.evaluation = classifier.logits().await?;
    Ok(outcome)
}
