//! Golden sets: results of another implementation in float64, compared with the device and with the
//! CPU twins.
//!
//! A folder has sets of two kinds, told apart by file names. `op_NAME.safetensors` holds cases of
//! one operation. A whole network has four files: `NAME_init` (parameters before training),
//! `NAME_io` (a batch, logits and losses), `NAME_grads` and `NAME_stepN` (parameters after N steps
//! of SGD). Width, classes, batch and input size are read from the tensors' shapes.

mod engine;
mod networks;
mod norm_sizes;
mod operations;
#[cfg(test)]
mod proofs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::tensor::HostTensor;
use crate::untrusted::contained_async;

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
    /// L2 error relative to the golden value, or to a floor where that is near zero.
    pub error: f64,
    /// The largest error allowed.
    pub limit: f64,
    /// Where `error` is beyond the limit, the error against the nearest of the results that other
    /// decisions in near ties give.
    pub witness: Option<f64>,
}

impl Check {
    /// Whether the result is the golden one within the limit, or the other side of a near tie.
    pub fn passed(&self) -> bool {
        self.error <= self.limit || self.is_near_tie()
    }

    /// Whether the result is not the golden one, and is what another decision in a near tie gives.
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
    /// Why it did not.
    pub reason: String,
}

/// All comparisons of a folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// Sets that are damaged, incomplete or not known.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether there was something to check and all of it is within its limits.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }

    /// For each set, engine and quantity, the check that is nearest to its limit or furthest beyond
    /// it.
    pub fn worst(&self) -> Vec<&Check> {
        let mut worst: Vec<&Check> = Vec::new();
        // A fault is worse than a near tie, however far that is from the golden value.
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

/// How far [`run`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Sets done, counted once for each engine.
    pub done: usize,
    /// Sets to do, counted alike.
    pub total: usize,
    /// The set that comes next, or was the last.
    pub set: &'a str,
    /// What computes it.
    pub engine: Engine,
    /// Comparisons so far.
    pub checks: usize,
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

/// Runs every golden set of a folder on these engines. `observe` is told before and after each set.
/// A set that cannot be read does not end the others: it is in [`Report::failures`].
///
/// # Errors
/// As [`sets`], and [`Error::DeviceLost`]. Values outside their limits are no error here: see
/// [`Report::passed`].
pub async fn run(
    gpu: &Gpu,
    folder: &Path,
    engines: &[Engine],
    mut observe: impl FnMut(Progress<'_>),
) -> Result<Report> {
    let mut report = Report::default();
    let sets = sets(folder)?;
    let total = sets.len() * engines.len();
    let work = sets.iter().flat_map(|set| engines.iter().map(move |engine| (set, *engine)));
    for (done, (set, engine)) in work.enumerate() {
        let checks = report.checks.len();
        observe(Progress { done, total, set, engine, checks });
        match contained_async(&folder.join(set), one(gpu, folder, set, engine)).await {
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

async fn one(gpu: &Gpu, folder: &Path, set: &str, engine: Engine) -> Result<Vec<Found>> {
    let found = if set.starts_with("op_") {
        operations::run(gpu, folder, set, engine).await
    } else {
        networks::run(gpu, folder, set, engine).await
    }?;
    if found.is_empty() {
        return Err(Error::format(file(folder, set), "has no cases"));
    }
    Ok(found)
}

/// One comparison, before it is known of which set.
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
/// for other lengths and for what is not finite.
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
