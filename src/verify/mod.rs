//! Golden sets: results of another implementation in float64, compared with the device and with the CPU twins.
//!
//! A folder has sets of two kinds, told apart by file names. `op_NAME.safetensors` holds cases of one operation. A whole network
//! has four files: `NAME_init` (parameters before training), `NAME_io` (a batch, logits and losses), `NAME_grads` and `NAME_stepN` (parameters
//! after N steps of SGD). Width, classes, batch and input size are read from the tensors' shapes.

mod engine;
mod networks;
mod operations;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::weights::HostTensor;

/// One comparison with a golden tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The golden set: `op_conv`, `original`.
    pub set: String,
    /// What computed it: `device`, `twin f32` or `twin f64`.
    pub engine: &'static str,
    /// What kind of thing was compared: `logits`, `gradient`.
    pub quantity: &'static str,
    /// The tensor, and the kernel where an operation offers several.
    pub subject: String,
    /// Relative L2 error.
    pub error: f64,
    /// The largest error allowed.
    pub limit: f64,
}

impl Check {
    /// Whether the error is within the limit.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// All comparisons of a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether there was something to check and all of it is within its limits.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }

    /// For each set, engine and quantity, the check that is nearest to its limit or furthest beyond it.
    pub fn worst(&self) -> Vec<&Check> {
        let mut worst: Vec<&Check> = Vec::new();
        for check in &self.checks {
            let same = |w: &&mut &Check| {
                (&w.set, w.engine, w.quantity) == (&check.set, check.engine, check.quantity)
            };
            match worst.iter_mut().find(same) {
                Some(w) if check.error / check.limit > w.error / w.limit => *w = check,
                Some(_) => {}
                None => worst.push(check),
            }
        }
        worst
    }
}

/// What computes the values that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The kernels on a device; single operations run every implementation that fits it.
    Device,
    /// The CPU twins in f32.
    Twin32,
    /// The CPU twins in f64.
    Twin64,
}

impl Engine {
    /// All engines.
    pub const ALL: [Self; 3] = [Self::Device, Self::Twin32, Self::Twin64];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Twin32 => "twin f32",
            Self::Twin64 => "twin f64",
        }
    }
}

/// The tensors of a file.
type Tensors = BTreeMap<String, HostTensor>;

/// The golden sets of a folder, by name.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::Format`] if it has no golden set.
pub fn sets(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let file = entry.map_err(|e| Error::io(folder, e))?.file_name();
        let Some(stem) = file.to_str().and_then(|f| f.strip_suffix(".safetensors")) else { continue };
        if let Some(network) = stem.strip_suffix("_io") {
            names.insert(network.to_string());
        } else if stem.starts_with("op_") {
            names.insert(stem.to_string());
        }
    }
    if names.is_empty() {
        let reason = "has no golden sets: files called op_NAME.safetensors or NAME_io.safetensors";
        return Err(Error::format(folder, reason));
    }
    Ok(names.into_iter().collect())
}

/// Runs every golden set of a folder on these engines. `observe` sees each check as it is made.
///
/// # Errors
/// As [`sets`], [`Error::Tensor`] naming a tensor that a set does not have, and what the device reports. Values outside their limits
/// are no error here: see [`Report::passed`].
pub async fn run(
    gpu: &Gpu,
    folder: &Path,
    engines: &[Engine],
    mut observe: impl FnMut(&Check),
) -> Result<Report> {
    let mut report = Report::default();
    for set in sets(folder)? {
        for &engine in engines {
            let checks = if set.starts_with("op_") {
                operations::run(gpu, folder, &set, engine).await?
            } else {
                networks::run(gpu, folder, &set, engine).await?
            };
            for (quantity, subject, error, limit) in checks {
                let check =
                    Check { set: set.clone(), engine: engine.name(), quantity, subject, error, limit };
                observe(&check);
                report.checks.push(check);
            }
        }
    }
    Ok(report)
}

/// Quantity, subject, error and limit.
type Found = (&'static str, String, f64, f64);

/// The file of a set.
fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.safetensors"))
}

/// A tensor of a golden file.
fn tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a HostTensor> {
    tensors.get(name).ok_or_else(|| Error::tensor(name, "is not in the golden set"))
}
