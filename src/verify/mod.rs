//! Golden sets: float64 results of another implementation, compared with the device and the CPU
//! references.
//!
//! A folder has two kinds of sets. `op_NAME.safetensors` has cases of one operation. A whole
//! network has four files: `NAME_init` (parameters before training), `NAME_io` (a batch, logits and
//! losses), `NAME_grads` and `NAME_stepN` (parameters after N steps of SGD). Width, classes, batch
//! and input size are read from the tensors' shapes.

mod engine;
mod networks;
mod norm_sizes;
mod operations;
#[cfg(test)]
mod proofs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use crate::untrusted::contained_async;

/// One comparison with a golden tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The golden set: `op_conv`, `original`.
    pub set: String,
    /// Engine: `device`, `reference f32` or `reference f64`.
    pub engine: &'static str,
    /// Quantity, such as `logits` or `gradient`.
    pub quantity: &'static str,
    /// Tensor name, and the kernel where an operation has several.
    pub subject: String,
    /// L2 error relative to the golden value, or to a floor if that is near zero.
    pub error: f64,
    /// Largest allowed error.
    pub limit: f64,
    /// If `error` exceeds the limit: the error relative to the nearest result with near ties
    /// decided differently.
    pub witness: Option<f64>,
}

impl Check {
    /// Whether the error is within the limit, or explained by a near tie.
    pub fn passed(&self) -> bool {
        self.error <= self.limit || self.is_near_tie()
    }

    /// Whether the error exceeds the limit and a near tie explains it.
    pub fn is_near_tie(&self) -> bool {
        self.error > self.limit && self.witness.is_some_and(|error| error <= self.limit)
    }
}

/// A golden set that could not be checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// The golden set.
    pub set: String,
    /// What should have computed it.
    pub engine: &'static str,
    /// Reason.
    pub reason: String,
}

/// Results for a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Comparisons in order.
    pub checks: Vec<Check>,
    /// Sets that are damaged, incomplete or unknown.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether there was at least one check and all passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }

    /// For each set, engine and quantity, the check with the largest error relative to its limit.
    pub fn worst(&self) -> Vec<&Check> {
        let mut worst: Vec<&Check> = Vec::new();
        // A failure is worse than any near tie.
        let rank = |c: &Check| (!c.passed(), c.error / c.limit);
        for check in &self.checks {
            let same = |w: &&mut &Check| {
                (&w.set, w.engine, w.quantity) == (&check.set, check.engine, check.quantity)
            };
            match worst.iter_mut().find(same) {
                Some(w) if rank(check) > rank(w) => *w = check,
                Some(_) => {}
                None => worst.push(check),
            }
        }
        worst
    }
}

/// Progress of [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Sets done, counted once per engine.
    pub done: usize,
    /// Total sets, counted once per engine.
    pub total: usize,
    /// The current set.
    pub set: &'a str,
    /// The engine that computes it.
    pub engine: Engine,
    /// Comparisons so far.
    pub checks: usize,
}

/// Engine that computes the compared values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Kernels on the device; single operations run every available implementation.
    Device,
    /// CPU references in f32.
    Reference32,
    /// CPU references in f64.
    Reference64,
}

impl Engine {
    /// All engines.
    pub const ALL: [Self; 3] = [Self::Device, Self::Reference32, Self::Reference64];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Reference32 => "reference f32",
            Self::Reference64 => "reference f64",
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
        let reason = "has no golden sets (op_NAME.safetensors or NAME_io.safetensors)";
        return Err(Error::format(folder, reason));
    }
    Ok(names.into_iter().collect())
}

/// Runs every golden set of a folder on these engines. `observe` is called before and after each
/// set. A set that cannot be read is added to [`Report::failures`], and the others still run.
///
/// # Errors
/// As [`sets`], and [`Error::DeviceLost`]. Values outside their limits are not an error here; see
/// [`Report::passed`].
pub async fn run(
    device: impl Into<Device>,
    folder: &Path,
    engines: &[Engine],
    mut observe: impl FnMut(Progress<'_>),
) -> Result<Report> {
    let device = &device.into();
    let mut report = Report::default();
    let sets = sets(folder)?;
    let total = sets.len() * engines.len();
    let work = sets.iter().flat_map(|set| engines.iter().map(move |engine| (set, *engine)));
    for (done, (set, engine)) in work.enumerate() {
        let checks = report.checks.len();
        observe(Progress { done, total, set, engine, checks });
        match contained_async(&folder.join(set), one(device, folder, set, engine)).await {
            Ok(found) => report.checks.extend(found.into_iter().map(|found| found.check(set, engine))),
            Err(Error::DeviceLost(reason)) => return Err(Error::DeviceLost(reason)),
            Err(error) => {
                let failure = Failure { set: set.clone(), engine: engine.name(), reason: error.to_string() };
                report.failures.push(failure);
            }
        }
        let checks = report.checks.len();
        observe(Progress { done: done + 1, total, set, engine, checks });
    }
    Ok(report)
}

async fn one(device: &Device, folder: &Path, set: &str, engine: Engine) -> Result<Vec<Found>> {
    let found = if set.starts_with("op_") {
        operations::run(device, folder, set, engine).await
    } else {
        networks::run(device, folder, set, engine).await
    }?;
    if found.is_empty() {
        return Err(Error::format(file(folder, set), "has no cases"));
    }
    Ok(found)
}

/// A comparison without its set and engine.
struct Found {
    quantity: &'static str,
    subject: String,
    error: f64,
    limit: f64,
    witness: Option<f64>,
}

impl Found {
    fn passed(&self) -> bool {
        self.error <= self.limit || self.witness.is_some_and(|error| error <= self.limit)
    }

    fn check(self, set: &str, engine: Engine) -> Check {
        let Self { quantity, subject, error, limit, witness } = self;
        Check { set: set.into(), engine: engine.name(), quantity, subject, error, limit, witness }
    }
}

/// L2 error of `got` relative to `want`, or to `floor` if the norm of `want` is smaller; infinite
/// for different lengths and non-finite values.
fn error_beyond(got: &[f32], want: &[f32], floor: f64) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = squares(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let size = squares(&mut want.iter().map(|b| f64::from(*b))).max(floor);
    if got.len() != want.len() || !error.is_finite() {
        f64::INFINITY
    } else if error == 0.0 {
        0.0
    } else {
        error / size
    }
}

/// The file of a set.
fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.safetensors"))
}

/// A tensor of a golden file.
fn tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a HostTensor> {
    tensors.get(name).ok_or_else(|| Error::tensor(name, "is not in the golden set"))
}
