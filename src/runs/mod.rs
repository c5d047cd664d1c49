//! The folder of a training run, read by `incept runs` and `incept report`.
//!
//! ```text
//! runs/0007-digits/
//!   run.json           a Manifest: data, network, machine, command line; written at the start
//!   config.toml        every option of the command with its value
//!   log.jsonl          one Record per line: steps, epochs, and why the run ended; resumed runs
//!                      append to it
//!   metrics.csv        the epochs of the log as a table, for spreadsheets and pandas
//!   last.safetensors   the latest checkpoint (or at Manifest::checkpoint)
//!   best.safetensors   the checkpoint of the epoch with the best validation accuracy
//!   epoch-0012.safetensors   older checkpoints that are kept
//!   left-...           checkpoints of later epochs, moved aside when the run rewound
//!   run.lock           the process that writes the run, while it does
//!   pending.json       the next log record, while an epoch is saved
//! ```
//!
//! Numbers increase by one; two runs that start at the same time get different folders. The log is
//! written line by line: a last line without a line feed is from a crash, and readers ignore it.

mod lock;
mod log;
mod mend;
mod recorder;
mod table;
mod tensorboard;

pub use lock::{Lock, Owner};
pub use log::{
    EpochRecord, HeadRecord, LogWriter, PartRecord, Record, StepRecord, StopReason, ValidationRecord,
    read_log, read_log_leniently,
};
pub(crate) use recorder::Save;
pub use recorder::{EpochReport, Recorder, RecorderOptions, best_in, now};
pub use tensorboard::EventWriter;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::GoogLeNet;
use crate::output::write_atomically;
use crate::untrusted::{MAX_TEXT_BYTES, read_file, read_text};

/// Description of a run, written at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest<M> {
    /// Version of the engine.
    pub version: String,
    /// Name of the run, without its number.
    pub name: String,
    /// Start time in seconds since 1970 (UTC).
    pub started: u64,
    /// Name of the recipe; `None` without one.
    pub recipe: Option<String>,
    /// Data set as given on the command line.
    pub data: String,
    /// Description of the data set.
    pub data_description: String,
    /// Class names.
    pub classes: Vec<String>,
    /// Images in the training set.
    pub train: usize,
    /// Images in the validation set.
    #[serde(alias = "held_out")]
    pub validation: usize,
    /// The network.
    pub network: M,
    /// Number of parameters, auxiliary heads included.
    pub parameters: usize,
    /// Storage type of activations: `f32` or `f16`.
    pub precision: String,
    /// The device.
    pub machine: Machine,
    /// Device memory of training in bytes.
    pub memory_bytes: u64,
    /// Path of the newest checkpoint; `None` if in the folder.
    pub checkpoint: Option<PathBuf>,
    /// Checkpoint that the run resumed from or whose weights it started with.
    pub from: Option<PathBuf>,
    /// Command line.
    pub command_line: Vec<String>,
}

/// The manifest of a run of GoogLeNet.
pub type Manifest = ModelManifest<GoogLeNet>;

/// Hardware and system of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The adapter's name.
    pub adapter: String,
    /// The graphics API.
    pub backend: String,
    /// The driver's name and version.
    pub driver: String,
    /// Operating system and CPU architecture.
    pub system: String,
    /// CPU threads.
    pub threads: usize,
}

/// The folder of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

const MANIFEST: &str = "run.json";
const CONFIG: &str = "config.toml";
const LOG: &str = "log.jsonl";

impl RunFolder {
    /// Creates the folder of a new run in `parent`, with the next free number. Characters of `name`
    /// other than letters, digits, `.`, `_` and `-` become dashes.
    ///
    /// # Errors
    /// [`Error::Io`] naming the folder.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let name: String =
            name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
        let mut number = numbers(parent)?.max().map_or(1, |n| n + 1);
        loop {
            let path = parent.join(format!("{number:04}-{name}"));
            match std::fs::create_dir(&path) {
                // Another run may have taken the number with another name; then both have it, in
                // different folders.
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io(path, e)),
            }
        }
    }

    /// Opens the folder of an existing run.
    ///
    /// # Errors
    /// [`Error::Format`] if it is not a run's folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.join(MANIFEST).is_file() {
            Ok(Self { path: path.to_path_buf() })
        } else {
            Err(Error::format(path, format!("is not the folder of a run: it has no {MANIFEST}")))
        }
    }

    /// The runs in `parent`, by number and name; other folders are skipped.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn list(parent: &Path) -> Result<Vec<Self>> {
        let mut runs: Vec<Self> = entries(parent)?.filter_map(|path| Self::open(&path).ok()).collect();
        runs.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(runs)
    }

    /// Finds a run by folder, by folder name in `parent`, by number, or by a unique name.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is none, [`Error::Config`] if there are several.
    pub fn find(parent: &Path, what: &str) -> Result<Self> {
        for path in [PathBuf::from(what), parent.join(what)] {
            if let Ok(run) = Self::open(&path) {
                return Ok(run);
            }
        }
        let named = |run: &Self| {
            let title = run.title();
            let (number, name) = title.split_once('-').unwrap_or((title.as_str(), ""));
            name == what || number.parse::<u64>().ok() == what.parse().ok() && what.parse::<u64>().is_ok()
        };
        let mut found: Vec<Self> = Self::list(parent)?.into_iter().filter(named).collect();
        match (found.len(), found.pop()) {
            (1, Some(run)) => Ok(run),
            (0, _) => {
                let known = format!("see `RunFolder::list` for the runs in {}", parent.display());
                Err(Error::Unknown { what: "run", name: what.into(), known })
            }
            (count, _) => {
                Err(Error::Config(format!("{count} runs are named `{what}`: use the number of one")))
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name: number and name of the run.
    pub fn title(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Writes the manifest and the configuration, TOML, at the start of a run.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn describe<M: Serialize>(&self, manifest: &ModelManifest<M>, config: &str) -> Result<()> {
        let json = serde_json::to_vec_pretty(manifest).map_err(Error::unwritable)?;
        write_atomically(&self.path.join(CONFIG), config.as_bytes())?;
        write_atomically(&self.path.join(MANIFEST), &json)
    }

    /// The manifest of a run of GoogLeNet.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn manifest(&self) -> Result<Manifest> {
        self.manifest_of()
    }

    /// The manifest of a run of any network.
    ///
    /// # Errors
    /// As [`RunFolder::manifest`].
    pub fn manifest_of<M: DeserializeOwned>(&self) -> Result<ModelManifest<M>> {
        let path = self.path.join(MANIFEST);
        let bytes = read_file(&path, MAX_TEXT_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(&path, e.to_string(), e))
    }

    /// Whether the run's latest checkpoint is outside its folder.
    fn saves_elsewhere(&self) -> bool {
        self.manifest_of::<serde_json::Value>().is_ok_and(|manifest| manifest.checkpoint.is_some())
    }

    /// The configuration's file.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Reads the configuration, TOML.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn config(&self) -> Result<String> {
        read_text(&self.config_path())
    }

    /// The log's file.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// All log records so far; empty if training has not started.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file and line.
    pub fn log(&self) -> Result<Vec<Record>> {
        if self.log_path().is_file() { read_log(&self.log_path()) } else { Ok(Vec::new()) }
    }

    /// The epochs of the log as a table.
    pub fn table_path(&self) -> PathBuf {
        self.path.join("metrics.csv")
    }

    /// File of the newest checkpoint in the folder.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// File of the best checkpoint.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// File of a kept checkpoint, by number of epochs done.
    pub fn kept(&self, epochs: u64) -> PathBuf {
        self.path.join(format!("epoch-{epochs:04}.safetensors"))
    }

    /// File of the newest checkpoint: [`Manifest::checkpoint`], or the one in the folder if that is
    /// newer because the other could not be written.
    pub fn newest(&self) -> PathBuf {
        let (here, named) = (self.last(), self.manifest().ok().and_then(|m| m.checkpoint));
        let steps = |file: &Path| Checkpoint::progress_of(file).ok().map(|progress| progress.step);
        match named {
            Some(named)
                if steps(&here).is_none_or(|here| steps(&named).is_some_and(|there| there >= here)) =>
            {
                named
            }
            _ => here,
        }
    }

    /// All checkpoints in the folder and at [`Manifest::checkpoint`], most steps first.
    pub fn checkpoints(&self) -> Vec<PathBuf> {
        let kept = entries(&self.path).into_iter().flatten().filter(|path| kept_epoch(path).is_some());
        let named = self.manifest().ok().and_then(|m| m.checkpoint);
        let files = [self.last(), self.best()].into_iter().chain(named).chain(kept);
        let mut found: Vec<(u64, PathBuf)> =
            files.filter_map(|file| Some((Checkpoint::progress_of(&file).ok()?.step, file))).collect();
        // A stable sort: among equal steps, the newest checkpoint stays first.
        found.sort_by_key(|(steps, _)| std::cmp::Reverse(*steps));
        found.into_iter().map(|(_, file)| file).collect()
    }

    /// Whether a file is in the folder.
    pub fn holds(&self, file: &Path) -> bool {
        let parent = std::path::absolute(file).ok().and_then(|file| file.parent()?.canonicalize().ok());
        parent.is_some() && parent == self.path.canonicalize().ok()
    }

    /// Renames kept checkpoints after `epochs` to `left-epoch-0007.safetensors` and, with `best`,
    /// the best one to `left-best.safetensors`: a run that rewinds must neither use nor delete
    /// them. Returns the new names.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn set_aside(&self, epochs: u64, best: bool) -> Result<Vec<PathBuf>> {
        let later = entries(&self.path)?.filter(|path| kept_epoch(path).is_some_and(|epoch| epoch > epochs));
        let mut files: Vec<PathBuf> =
            later.chain(Some(self.best()).filter(|file| best && file.is_file())).collect();
        files.sort();
        for file in &mut files {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let aside = self.path.join(format!("left-{name}"));
            std::fs::rename(&*file, &aside).map_err(|e| Error::io(&*file, e))?;
            *file = aside;
        }
        Ok(files)
    }

    /// Deletes all but the newest `count` kept checkpoints.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn prune(&self, count: usize) -> Result<()> {
        let mut kept: Vec<(u64, PathBuf)> =
            entries(&self.path)?.filter_map(|path| Some((kept_epoch(&path)?, path))).collect();
        kept.sort();
        let old = kept.len().saturating_sub(count);
        for (_, path) in kept.drain(..old) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

/// The number of epochs in the name of a kept checkpoint.
fn kept_epoch(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.parse().ok()
}

fn entries(folder: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    Ok(list.filter_map(|entry| Some(entry.ok()?.path())))
}

/// The numbers of runs in a folder.
fn numbers(parent: &Path) -> Result<impl Iterator<Item = u64> + use<>> {
    Ok(entries(parent)?.filter_map(|path| path.file_name()?.to_str()?.split('-').next()?.parse().ok()))
}
