//! Validation of checkpoints: description and tensors must be consistent, so that later code need
//! not distrust a file.

use std::collections::BTreeMap;
use std::path::Path;

use super::ModelMetadata;
use crate::data::Preprocessing;
use crate::error::{Error, Result};
use crate::graph::Role;
use crate::model::Model;
use crate::optim::TrainingState;
use crate::optim::is_loss_scale;
use crate::tensor::HostTensor;
use crate::tensor::Shape;
use crate::text::plural;

/// Maximum value of counters: larger ones would overflow in later sums.
const MAX_COUNT: u64 = 1 << 40;

type Tensors = BTreeMap<String, HostTensor>;
type Shapes = BTreeMap<String, Shape>;

/// Checks a checkpoint that was read from `path`.
///
/// # Errors
/// [`Error::Format`] naming the field or the tensor.
pub(super) fn check<M: Model>(path: &Path, metadata: &ModelMetadata<M>, state: &TrainingState) -> Result<()> {
    let fail = |reason: String| Error::format(path, reason);
    check_metadata(metadata).map_err(fail)?;
    check_tensors(&metadata.network, state).map_err(fail)
}

/// Checks the description alone.
fn check_metadata<M: Model>(metadata: &ModelMetadata<M>) -> Result<(), String> {
    let ModelMetadata { network, classes, preprocessing, progress, .. } = metadata;
    network.validate().map_err(|error| field(&error))?;
    if classes.len() != network.class_count() {
        let (names, count) = (plural(classes.len(), "name"), network.class_count());
        return Err(format!("`classes` has {names}, and `network.classes` is {count}"));
    }
    check_preprocessing(preprocessing, network.input_size())?;
    let counters = [
        ("step", progress.step),
        ("update", progress.update),
        ("epoch", progress.epoch),
        ("batch", progress.batch),
    ];
    if let Some((name, count)) = counters.iter().find(|(_, count)| *count > MAX_COUNT) {
        return Err(format!("`progress.{name}` is {count}, which is too large"));
    }
    for (name, count) in &counters[1..] {
        if *count > progress.step {
            return Err(format!("`progress.{name}` is {count} after {}", plural(progress.step, "step")));
        }
    }
    Ok(())
}

/// The text of an error about a network, with the names of the description's fields.
fn field(error: &Error) -> String {
    let text = error.to_string();
    if text.contains("`GoogLeNet::") {
        text.replace("`GoogLeNet::", "`network.")
    } else {
        format!("`network`: {text}")
    }
}

fn check_preprocessing(preprocessing: &Preprocessing, input: usize) -> Result<(), String> {
    let Preprocessing { input: side, mean, std, .. } = preprocessing;
    if *side != input {
        return Err(format!("`preprocessing.input` is {side}, and `network.input` is {input}"));
    }
    if mean.iter().any(|m| !m.is_finite()) {
        return Err(format!("`preprocessing.mean` is {mean:?}: three finite numbers are expected"));
    }
    // Black and white must give finite values.
    let usable = |(m, s): (&f32, &f32)| {
        s.is_finite() && *s != 0.0 && (m / s).is_finite() && ((1.0 - m) / s).is_finite()
    };
    if !mean.iter().zip(std).all(usable) {
        return Err(format!(
            "`preprocessing.std` is {std:?}: three finite numbers other than 0 are expected"
        ));
    }
    Ok(())
}

/// Checks the tensors against the network that the description names.
fn check_tensors(network: &impl Model, state: &TrainingState) -> Result<(), String> {
    let extents = state.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.dims.clone())).collect();
    if let Some(reason) = network.contradiction(&extents) {
        return Err(reason);
    }
    let built = network.build(1).map_err(|error| field(&error))?;
    let (mut parameters, mut statistics) = (Shapes::new(), Shapes::new());
    for (_, tensor) in built.graph.tensors() {
        let list = match tensor.role {
            Role::Parameter(_) => &mut parameters,
            Role::State(_) => &mut statistics,
            _ => continue,
        };
        list.insert(tensor.name.clone(), tensor.spec.shape.clone());
    }
    fit("", &state.parameters, &parameters)?;
    // Runs in f16 keep the loss scale among the statistics.
    let mut kept = statistics.clone();
    let scale = state.state.keys().filter(|name| is_loss_scale(name));
    kept.extend(scale.map(|name| (name.clone(), Shape::from([1]))));
    fit("", &state.state, &kept)?;
    for (i, slot) in state.slots.iter().enumerate() {
        fit(&format!("optimizer.{i}."), slot, &parameters)?;
    }
    if let Some(average) = &state.average {
        // Earlier versions averaged only parameters, not statistics.
        let averaged = average.keys().filter_map(|name| statistics.get_key_value(name));
        let averaged = averaged.map(|(name, shape)| (name.clone(), shape.clone()));
        fit("average.", average, &parameters.into_iter().chain(averaged).collect())?;
    }
    Ok(())
}

/// Checks that a list has exactly the expected tensors.
fn fit(prefix: &str, tensors: &Tensors, expected: &Shapes) -> Result<(), String> {
    for (name, shape) in expected {
        let Some(tensor) = tensors.get(name) else {
            return Err(format!("tensor `{prefix}{name}` is missing"));
        };
        if tensor.dims != shape.dims() || tensor.data.len() != shape.volume() {
            let found = Shape::from(tensor.dims.as_slice());
            return Err(format!("tensor `{prefix}{name}` is {found}, expected {shape}"));
        }
    }
    match tensors.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(format!("tensor `{prefix}{name}` does not belong to the described network")),
        None => Ok(()),
    }
}
