//! Golden sets of whole networks: logits, losses and gradients of one step, parameters after some, logits in evaluation mode.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Engine, Found, Tensors, file, tensor};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Alias, Graph, Region, Role, TensorId};
use crate::kernel::Step;
use crate::nn::{GoogLeNet, Network};
use crate::ops::Sgd;
use crate::plan::Layout;
use crate::reference::{Array, Interpreter, Real, relative_error, run_operation};
use crate::train::{Optimizer, Trainer};
use crate::weights::{HostTensor, TrainingState, read_tensors};

/// The goldens' learning rate; momentum and decay are [`Optimizer::default`]'s.
const RATE: f32 = 0.01;

const LOGITS: f64 = 1e-5;
const LOSS: f64 = 2e-6;
const GRADIENT: f64 = 1e-4;
const AFTER: f64 = 5e-5;
/// The last layers feel no flipped decision below them; a wrong weight decay shows here first.
const AFTER_LAST: f64 = 3e-6;
const EVALUATION: f64 = 1e-4;

/// A golden set, read.
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

/// What an engine computed, by name.
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
pub(super) async fn run(gpu: &Gpu, folder: &Path, set: &str, engine: Engine) -> Result<Vec<Found>> {
    let golden = read(folder, set)?;
    let outcome = match engine {
        Engine::Device => on_device(gpu, &golden).await?,
        Engine::Twin32 => on_twin::<f32>(&golden)?,
        Engine::Twin64 => on_twin::<f64>(&golden)?,
    };
    compare(&golden, &outcome)
}

fn read(folder: &Path, set: &str) -> Result<Golden> {
    let load = |part: &str| Ok::<_, Error>(read_tensors(&file(folder, &format!("{set}_{part}")))?.0);
    let (init, io, gradients) = (load("init")?, load("io")?, load("grads")?);
    let steps = tensor(&io, "loss.total_per_step")?.data.len();
    let after = load(&format!("step{steps}"))?;
    let init = state_of(init);
    let shapes = init.parameters.iter().map(|(name, t)| (name.clone(), t.dims.clone())).collect();
    let input = tensor(&io, "input")?;
    let [size, _, height, width] = input.dims[..] else {
        return Err(Error::tensor("input", "must be batch x 3 x height x width"));
    };
    if height != width {
        return Err(Error::tensor("input", format!("must be square, not {height}x{width}")));
    }
    // The goldens come from the network as the paper has it: no dropout, no adaptation to small inputs.
    let network = GoogLeNet::from_tensors(&shapes)?.input(height).dropout(0.0, 0.0);
    let network = GoogLeNet { keep_stem: true, ..network };
    let labels = tensor(&io, "labels")?.data.iter().map(|l| *l as u32).collect();
    let batch =
        Batch { images: input.data.clone(), labels, count: size, indices: (0..size).collect(), mixed: None };
    Ok(Golden { network, batch, init, io, gradients, after, steps })
}

/// Parameters and running statistics apart; torchvision's counters of batches are neither.
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

async fn on_device(gpu: &Gpu, golden: &Golden) -> Result<Outcome> {
    let size = golden.batch.count;
    let optimizer = Optimizer::default();
    let mut trainer = Trainer::new(gpu, &golden.network, &optimizer, size, 0, |_, _| ()).await?;
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
        for (entry, values) in trainer.session().regions().get(gpu, Region::Gradients).await? {
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

/// Values of a graph's tensors, by name.
type Values<T> = BTreeMap<String, Array<T>>;

fn on_twin<T: Real>(golden: &Golden) -> Result<Outcome> {
    let net = golden.network.build(golden.batch.count)?;
    let mut graph = net.graph.clone();
    graph.differentiate(net.loss)?;
    let layout = Layout::of(&graph);
    let given = golden.init.parameters.iter().chain(&golden.init.state);
    let mut values: Values<T> = given.map(|(name, t)| (name.clone(), array(t))).collect();
    let mut momentum = vec![T::zero(); layout.parameter_length()];
    let mut outcome = Outcome::default();
    for step in 0..golden.steps {
        let mut interpreter = interpreter(&graph, &net, golden, &values)?;
        interpreter.run(&Step::default())?;
        let get = |id: TensorId| {
            let name = || graph.tensor_ref(id).name.clone();
            interpreter.get(id).ok_or_else(|| Error::tensor(name(), "has no value on the CPU"))
        };
        outcome.totals.push(get(net.loss)?.data[0].to_f64() as f32);
        let mut gradients = BTreeMap::new();
        for (id, tensor) in graph.tensors() {
            if let Role::Gradient(parameter) = tensor.role {
                gradients.insert(graph.tensor_ref(parameter).name.clone(), get(id)?.clone());
            }
        }
        if step == 0 {
            for head in &net.heads {
                let loss = get(head.loss)?.data[0].to_f64() as f32;
                outcome.losses.insert(format!("loss.{}", head.name), loss);
                let logits = get(head.logits)?.cast::<f32>().data;
                outcome.logits.insert(format!("logits.{}", head.name), logits);
            }
            outcome.gradients = gradients.iter().map(|(n, a)| (n.clone(), a.cast::<f32>().data)).collect();
        }
        let running = running_statistics(&graph, &interpreter);
        values.extend(running);
        update(&layout, &mut values, &gradients, &mut momentum)?;
    }
    outcome.after = values.iter().map(|(name, a)| (name.clone(), a.cast::<f32>().data)).collect();
    let evaluation = net.graph.evaluation()?;
    let lost = || Error::tensor("logits", "were lost by a pass");
    let at = |id: TensorId| evaluation.get(id).ok_or_else(lost);
    let main = net.heads.first().map(|h| h.logits).ok_or_else(lost)?;
    let pruned = evaluation.graph.prune(&[at(main)?])?;
    let (input, main) = (pruned.get(at(net.input)?), pruned.get(at(main)?).ok_or_else(lost)?);
    let mut interpreter = Interpreter::new(&pruned.graph);
    give(&mut interpreter, &pruned.graph, &values)?;
    interpreter.set(input.ok_or_else(lost)?, images(&net, golden));
    interpreter.run(&Step::default())?;
    outcome.evaluation = interpreter.get(main).ok_or_else(lost)?.cast::<f32>().data;
    Ok(outcome)
}

fn array<T: Real>(tensor: &HostTensor) -> Array<T> {
    Array::<f32> { dims: tensor.dims.clone(), data: tensor.data.clone() }.cast()
}

fn images<T: Real>(net: &Network, golden: &Golden) -> Array<T> {
    let dims = net.graph.tensor_ref(net.input).spec.dims().to_vec();
    Array::<f32> { dims, data: golden.batch.images.clone() }.cast()
}

/// Gives parameters and running statistics their values.
fn give<T: Real>(interpreter: &mut Interpreter<'_, T>, graph: &Graph, values: &Values<T>) -> Result<()> {
    for (id, tensor) in graph.tensors() {
        if matches!(tensor.role, Role::Parameter(_) | Role::State(_)) {
            let value = values.get(&tensor.name);
            let value = value.ok_or_else(|| Error::tensor(&tensor.name, "is not in the golden set"))?;
            if value.dims != tensor.spec.dims() {
                let reason = format!("is {:?} in the golden set and {} here", value.dims, tensor.spec);
                return Err(Error::tensor(&tensor.name, reason));
            }
            interpreter.set(id, value.clone());
        }
    }
    Ok(())
}

fn interpreter<'a, T: Real>(
    graph: &'a Graph,
    net: &Network,
    golden: &Golden,
    values: &Values<T>,
) -> Result<Interpreter<'a, T>> {
    let mut interpreter = Interpreter::new(graph);
    give(&mut interpreter, graph, values)?;
    interpreter.set(net.input, images(net, golden));
    let labels = golden.batch.labels.iter().map(|l| T::of(f64::from(*l))).collect();
    interpreter.set(net.labels, Array { dims: vec![golden.batch.count], data: labels });
    Ok(interpreter)
}

/// The running statistics that a run has made.
fn running_statistics<T: Real>(graph: &Graph, interpreter: &Interpreter<'_, T>) -> Values<T> {
    let mut values = Values::new();
    for (_, node) in graph.nodes() {
        for alias in node.op.aliases(&graph.input_specs(node)) {
            let Alias::InPlace { output, input } = alias else { continue };
            let tensor = graph.tensor_ref(node.inputs[input]);
            if let (Role::State(_), Some(value)) = (&tensor.role, interpreter.get(node.outputs[output])) {
                values.insert(tensor.name.clone(), value.clone());
            }
        }
    }
    values
}

/// One update of all parameters by the twin of [`Sgd`], on flat regions as on a device.
fn update<T: Real>(
    layout: &Layout,
    values: &mut Values<T>,
    gradients: &Values<T>,
    momentum: &mut Vec<T>,
) -> Result<()> {
    let gather = |from: &Values<T>| {
        let mut flat = vec![T::zero(); layout.parameter_length()];
        for entry in &layout.parameters {
            if let Some(value) = from.get(&entry.name) {
                flat[entry.offset..entry.offset + value.data.len()].copy_from_slice(&value.data);
            }
        }
        Array { dims: vec![flat.len()], data: flat }
    };
    let (w, g) = (gather(values), gather(gradients));
    let v = Array { dims: w.dims.clone(), data: std::mem::take(momentum) };
    let multipliers = layout.multipliers();
    let multipliers = Array::<f32> { dims: vec![multipliers.len()], data: multipliers }.cast();
    let inputs = [&w, &g, &v, &multipliers];
    let specs = inputs.map(|a| crate::graph::Spec::f32(a.dims.as_slice()));
    let optimizer = Optimizer::default();
    let step =
        Step { rate: RATE, momentum: optimizer.momentum, decay: optimizer.weight_decay, ..Step::default() };
    let failed = |reason| Error::Layer { layer: "optimizer".into(), operation: "sgd", reason };
    let op = Sgd { nesterov: false };
    let mut outputs = run_operation(&op, &specs.each_ref(), &inputs, &step).map_err(failed)?;
    for entry in &layout.parameters {
        let data = outputs[0].data[entry.offset..entry.offset + entry.shape.volume()].to_vec();
        values.insert(entry.name.clone(), Array { dims: entry.shape.dims().to_vec(), data });
    }
    *momentum = std::mem::take(&mut outputs[1].data);
    Ok(())
}

fn compare(golden: &Golden, outcome: &Outcome) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, got) in &outcome.logits {
        let want = tensor(&golden.io, name)?;
        found.push(("logits", name.clone(), relative_error(got, &want.data), LOGITS));
    }
    for (name, got) in &outcome.losses {
        let want = tensor(&golden.io, name)?;
        found.push(("loss", name.clone(), relative_error(&[*got], &want.data), LOSS));
    }
    let totals = tensor(&golden.io, "loss.total_per_step")?;
    for (i, (got, want)) in outcome.totals.iter().zip(&totals.data).enumerate() {
        found.push((
            "loss",
            format!("loss.total of step {}", i + 1),
            relative_error(&[*got], &[*want]),
            LOSS,
        ));
    }
    // What the goldens have and the engine has not is an error as large as the tensor.
    let against = |made: &BTreeMap<String, Vec<f32>>, name: &str, want: &HostTensor| {
        made.get(name).map_or(f64::INFINITY, |got| relative_error(got, &want.data))
    };
    for (name, want) in &golden.gradients {
        found.push(("gradient", name.clone(), against(&outcome.gradients, name, want), GRADIENT));
    }
    for (name, want) in golden.after.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")) {
        let error = against(&outcome.after, name, want);
        found.push(("after steps", name.clone(), error, AFTER));
        if is_last(name) {
            found.push(("last layers after steps", name.clone(), error, AFTER_LAST));
        }
    }
    let evaluation = format!("logits.main_eval_after_step{}", golden.steps);
    let want = tensor(&golden.io, &evaluation)?;
    let error = relative_error(&outcome.evaluation, &want.data);
    found.push(("evaluation logits", evaluation, error, EVALUATION));
    Ok(found)
}

/// Whether a tensor is a parameter of the main classifier or of inception 5b.
fn is_last(name: &str) -> bool {
    let last = ["loss3/classifier.", "inception_5b/", "fc.", "inception5b."];
    last.iter().any(|layer| name.starts_with(layer)) && !name.contains("running_")
}
