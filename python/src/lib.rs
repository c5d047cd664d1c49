//! The native module of the Python package: it turns Python's values into those of the library and
//! back. What users call is in `python/incept`, in Python.

mod classifier;
mod errors;
mod flow;
mod images;
mod training;
mod work;

use std::ffi::OsString;
use std::path::PathBuf;

use incept::cpu::Cpu;
use incept::gpu::{AdapterSummary, list_adapters};
use pyo3::prelude::*;

use errors::to_python;

/// Runs the command with these arguments, of which the first is the program, and returns its exit
/// code.
#[pyfunction]
fn run(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| incept_cli::run(arguments))
}

/// The devices as JSON: the adapters of graphics APIs, then the CPU.
#[pyfunction]
fn devices(py: Python<'_>) -> PyResult<String> {
    let listed = py.detach(|| {
        let mut listed: Vec<AdapterSummary> = pollster::block_on(list_adapters(None));
        listed.push(Cpu::new(None)?.summary().clone());
        Ok(listed)
    });
    errors::json(py, &listed.map_err(|error| to_python(py, &error))?)
}

/// The image files of a path: itself, or those in a folder.
#[pyfunction]
fn image_files(py: Python<'_>, path: PathBuf) -> PyResult<Vec<PathBuf>> {
    py.detach(|| incept_cli::shared::image_files(path)).map_err(|error| to_python(py, &error))
}

/// The native module.
#[pymodule]
fn _incept(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<classifier::Network>()?;
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(devices, module)?)?;
    module.add_function(wrap_pyfunction!(image_files, module)?)?;
    module.add_function(wrap_pyfunction!(classifier::load, module)?)?;
    module.add_function(wrap_pyfunction!(training::train, module)?)?;
    module.add_function(wrap_pyfunction!(flow::gradient_flow, module)?)?;
    Ok(())
}
