//! The source of a report: a run's folder, or a checkpoint.

use std::path::{Path, PathBuf};

use incept::runs::{EpochRecord, Machine, Record, RunFolder, StepRecord, read_log_leniently};
use incept::{Error, Result};

use crate::record::{best_of, folder_of, load};
use crate::report::{note, plural};

/// The data of a run.
#[derive(Debug)]
pub(super) struct Source {
    /// The run's name.
    pub title: String,
    pub checkpoint: PathBuf,
    pub curves: Curves,
    /// The configuration from config.toml, or from the checkpoint.
    pub configuration: String,
    /// Device and system as (name, value).
    pub machine: Vec<(String, String)>,
    pub command_line: Vec<String>,
}

/// The records of the log in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    pub steps: Vec<StepRecord>,
    pub epochs: Vec<EpochRecord>,
}

impl Source {
    /// Reads a run's folder or a checkpoint. The log of a checkpoint is that of its run, in the
    /// same folder or in `runs`.
    pub(super) fn open(run: &Path, runs: &Path) -> Result<Self> {
        let checkpoint = best_of(run)?;
        if run.is_dir() {
            return Self::of_folder(&RunFolder::open(run)?, checkpoint);
        }
        match folder_of(run, &checkpoint, runs) {
            Some(folder) => Self::of_folder(&folder, checkpoint),
            None => Self::of_checkpoint(checkpoint),
        }
    }

    fn of_folder(folder: &RunFolder, checkpoint: PathBuf) -> Result<Self> {
        let left_out = |error: &Error| note(&format!("note: missing in the report: {error}"));
        let manifest = folder.manifest().inspect_err(left_out).ok();
        let path = folder.log_path();
        let log = if path.exists() { read_log_leniently(&path).inspect_err(left_out).ok() } else { None };
        let (log, damaged) = log.unwrap_or_default();
        if let Some(first) = damaged.first() {
            left_out(&Error::format(
                &path,
                format!("{}, {first}", plural(damaged.len() as u64, "damaged line")),
            ));
        }
        Ok(Self {
            title: manifest.as_ref().map_or_else(|| folder.title(), |manifest| manifest.name.clone()),
            checkpoint,
            curves: log.into(),
            configuration: folder.config().inspect_err(left_out).unwrap_or_default(),
            machine: manifest.as_ref().map(|manifest| pairs(&manifest.machine)).unwrap_or_default(),
            command_line: manifest.map(|manifest| manifest.command_line).unwrap_or_default(),
        })
    }

    fn of_checkpoint(checkpoint: PathBuf) -> Result<Self> {
        let metadata = load(&checkpoint)?.metadata;
        let configuration = serde_json::json!({ "run": metadata.run, "network": metadata.network });
        Ok(Self {
            title: checkpoint
                .file_stem()
                .map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned()),
            checkpoint,
            curves: Curves::default(),
            configuration: serde_json::to_string_pretty(&configuration)
                .map_err(|e| Error::Config(e.to_string()))?,
            machine: Vec::new(),
            command_line: metadata.command_line,
        })
    }
}

impl From<Vec<Record>> for Curves {
    fn from(log: Vec<Record>) -> Self {
        let mut curves = Self::default();
        for record in log {
            match record {
                Record::Step(step) => curves.steps.push(step),
                Record::Epoch(epoch) => curves.epochs.push(epoch),
                Record::Part(_) | Record::End { .. } => {}
            }
        }
        curves
    }
}

/// The non-empty values.
fn pairs(machine: &Machine) -> Vec<(String, String)> {
    let Machine { adapter, backend, driver, system, threads } = machine;
    let threads = threads.to_string();
    [
        ("adapter", adapter),
        ("backend", backend),
        ("driver", driver),
        ("system", system),
        ("threads", &threads),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_string(), value.clone()))
    .collect()
}
