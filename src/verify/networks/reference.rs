//! A golden set on the CPU reference: training steps and evaluation.

use std::collections::BTreeMap;

use super::{Golden, Outcome, RATE};
use crate::error::{Error, Result};
use crate::graph::{Alias, Graph, Role, TensorId};
use crate::kernel::Step;
use crate::model::{Network, Output};
use crate::ops::Sgd;
use crate::optim::Optimizer;
use crate::plan::Layout;
use crate::reference::{Array, Interpreter, Real, run_operation};
use crate::tensor::HostTensor;

/// Values of a graph's tensors, by name.
type Values<T> = BTreeMap<String, Array<T>>;

pub(super) fn on_reference<T: Real>(golden: &Golden) -> Result<Outcome> {
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
            let name = || graph.tensor(id).name.clone();
            interpreter.get(id).ok_or_else(|| Error::tensor(name(), "has no value on the CPU"))
        };
        outcome.totals.push(get(net.loss)?.data[0].to_f64() as f32);
        let mut gradients = BTreeMap::new();
        for (id, tensor) in graph.tensors() {
            if let Role::Gradient(parameter) = tensor.role {
                gradients.insert(graph.tensor(parameter).name.clone(), get(id)?.clone());
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
    let main = Output::Logits(net.main()?.name);
    let pruned = net.graph.evaluation()?.prune(&[main])?;
    let mut interpreter = Interpreter::new(&pruned);
    give(&mut interpreter, &pruned, &values)?;
    interpreter.set(pruned.find(Network::INPUT)?, images(&net, golden));
    interpreter.run(&Step::default())?;
    let logits = interpreter.get(pruned.output(main)?);
    let logits = logits.ok_or_else(|| Error::tensor(main.to_string(), "has no value on the CPU"))?;
    outcome.evaluation = logits.cast::<f32>().data;
    Ok(outcome)
}

fn array<T: Real>(tensor: &HostTensor) -> Array<T> {
    Array::<f32> { dims: tensor.dims.clone(), data: tensor.data.clone() }.cast()
}

fn images<T: Real>(net: &Network, golden: &Golden) -> Array<T> {
    let dims = net.graph.tensor(net.input).spec.dims().to_vec();
    Array::<f32> { dims, data: golden.batch.images.clone() }.cast()
}

/// Sets parameters and running statistics.
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

/// The running statistics after a run.
fn running_statistics<T: Real>(graph: &Graph, interpreter: &Interpreter<'_, T>) -> Values<T> {
    let mut values = Values::new();
    for (_, node) in graph.nodes() {
        for alias in node.op.aliases(&graph.input_specs(node)) {
            let Alias::InPlace { output, input } = alias else { continue };
            let tensor = graph.tensor(node.inputs[input]);
            if let (Role::State(_), Some(value)) = (&tensor.role, interpreter.get(node.outputs[output])) {
                values.insert(tensor.name.clone(), value.clone());
            }
        }
    }
    values
}

/// One update of all parameters by the CPU reference of [`Sgd`], on flat regions as on the device.
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
    let specs = inputs.map(|a| crate::tensor::Spec::f32(a.dims.as_slice()));
    let optimizer = Optimizer::default();
    let step = Step {
        lr: RATE,
        momentum: optimizer.momentum,
        weight_decay: optimizer.weight_decay,
        ..Step::default()
    };
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
