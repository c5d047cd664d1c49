//! Gradient flow: the gradient of each head's loss at each layer.

use std::sync::Arc;

use incept::explain::{GradientFlow, LossShare};
use incept_cli::shared::{self, DeviceSettings, FlowOptions};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::classifier::Network;
use crate::errors::raised;
use crate::images::{MemoryItems, memory};
use crate::training::parsed;
use crate::work::{Caller, OnSignal, run};

/// Measures one batch; the result has an array per quantity.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the Python side passes every option")]
pub(crate) fn gradient_flow<'py>(
    py: Python<'py>,
    config: &str,
    data: Option<MemoryItems<'py>>,
    network: Option<Bound<'py, Network>>,
    batch: Option<usize>,
    seed: u64,
    device: Option<String>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyDict>> {
    let config = parsed(py, config)?;
    let data = data.map(memory).transpose()?;
    let network = network.map(|network| network.get().clone());
    let work = move |_: Caller<()>| {
        let device = match &network {
            Some(network) => network.device().clone(),
            None => DeviceSettings { device, threads }.open()?,
        };
        let source = data.map(crate::images::Memory::source).transpose()?;
        let checkpoint = network.map(|network| network.checkpoint().clone());
        shared::gradient_flow(&device, FlowOptions { config, source, checkpoint, batch, seed })
    };
    let flow = run(py, &Arc::default(), OnSignal::Leave, work, |_, ()| Ok(()))?;
    tables(py, &flow)
}

fn tables<'py>(py: Python<'py>, flow: &GradientFlow) -> PyResult<Bound<'py, PyDict>> {
    let result = PyDict::new(py);
    let losses = &flow.losses;
    result.set_item("heads", losses.iter().map(|loss| loss.name).collect::<Vec<_>>())?;
    result.set_item("weights", PyArray1::from_iter(py, losses.iter().map(|loss| loss.weight)))?;
    result.set_item("losses", PyArray1::from_iter(py, losses.iter().map(|loss| loss.loss)))?;
    result.set_item("norms", PyArray1::from_iter(py, losses.iter().map(|loss| loss.norm)))?;
    let (layers, parts) = (&flow.layers, &flow.parts);
    let table = PyDict::new(py);
    table.set_item("name", layers.iter().map(|layer| layer.layer.as_str()).collect::<Vec<_>>())?;
    table.set_item("part", layers.iter().map(|layer| layer.part).collect::<Vec<_>>())?;
    table.set_item("depth", PyArray1::from_iter(py, layers.iter().map(|layer| layer.depth as i64)))?;
    table.set_item(
        "parameters",
        PyArray1::from_iter(py, layers.iter().map(|layer| layer.parameters as i64)),
    )?;
    table.set_item("weight_norm", PyArray1::from_iter(py, layers.iter().map(|layer| layer.weight_norm)))?;
    table.set_item("sum", PyArray1::from_iter(py, layers.iter().map(|layer| layer.sum)))?;
    shares(&table, &layers.iter().map(|layer| layer.losses.as_slice()).collect::<Vec<_>>())?;
    result.set_item("layers", table)?;
    let table = PyDict::new(py);
    table.set_item("name", parts.iter().map(|part| part.part).collect::<Vec<_>>())?;
    table.set_item("depth", PyArray1::from_iter(py, parts.iter().map(|part| part.depth as i64)))?;
    table.set_item("parameters", PyArray1::from_iter(py, parts.iter().map(|part| part.parameters as i64)))?;
    table.set_item("sum", PyArray1::from_iter(py, parts.iter().map(|part| part.sum)))?;
    shares(&table, &parts.iter().map(|part| part.losses.as_slice()).collect::<Vec<_>>())?;
    result.set_item("parts", table)?;
    Ok(result)
}

/// A quantity of a head's contribution, by its name.
type Quantity = (&'static str, fn(&LossShare) -> f64);

/// Adds what each head contributes, as arrays of rows x heads.
fn shares(table: &Bound<'_, PyDict>, rows: &[&[LossShare]]) -> PyResult<()> {
    let py = table.py();
    let quantities: [Quantity; 3] =
        [("norm", |one| one.norm), ("weighted", |one| one.weighted), ("share", |one| one.share)];
    for (name, value) in quantities {
        let values: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(value).collect()).collect();
        let array = PyArray2::from_vec2(py, &values);
        table.set_item(name, array.map_err(|e| raised(py, "InceptError", &e.to_string()))?)?;
    }
    Ok(())
}
