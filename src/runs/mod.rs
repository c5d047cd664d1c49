//! The folder of a training run: what `incept runs` and `incept report` read.
//!
//! ```text
//! runs/0007-digits/
//!   run.json           a Manifest: data, network, machine, command line; written once when the run starts
//!   config.toml        every option of the command with the value that it had
//!   log.jsonl          one Record a line: steps, epochs, and why the run ended; a resumed run goes on in the same file
//!   last.safetensors   the newest checkpoint (elsewhere if the run was told so: Manifest::checkpoint says where)
//!   best.safetensors   the checkpoint of the epoch with the best held-out accuracy
//!   epoch-0012.safetensors   older checkpoints, if they are kept
//!   left-...           checkpoints of epochs that the run has gone back behind
//!   run.lock           while a process writes the run: which one
//!   pending.json       while an epoch is saved: the log's next record
//! ```
//!
//! Numbers grow by one; two runs that start at the same time get different folders. The log is
//! appended to line by line: a last line without an end was cut off by a crash, and readers leave
//! it out.

mod lock;
mod log;
mod mend;
mod recorder;
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

/// What is known of a run when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest<M> {
    /// The version of the engine.
    pub version: String,
    /// The run's name, without its number.
    pub name: String,
    /// When it started, in seconds since 1970 (UTC).
    pub started: u64,
    /// The recipe, if one was named.
    pub recipe: Option<String>,
    /// The data set as it was named, and what it is for people.
    pub data: String,
    /// What the data set is, for people.
    pub data_description: String,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// Images to train on.
    pub train: usize,
    /// Images of the validation set.
    #[serde(alias = "held_out")]
    pub validation: usize,
    /// The network.
    pub network: M,
    /// Trained parameters, the auxiliary heads' included.
    pub parameters: usize,
    /// How activations are stored: `f32` or `f16`.
    pub precision: String,
    /// The device.
    pub machine: Machine,
    /// Bytes that training takes on the device.
    pub memory_bytes: u64,
    /// Where the newest checkpoint is, if not in the folder.
    pub checkpoint: Option<PathBuf>,
    /// The checkpoint that the run went on from, or whose weights it started with.
    pub from: Option<PathBuf>,
    /// The command.
    pub command_line: Vec<String>,
}

/// What is known of a run of GoogLeNet when it starts.
pub type Manifest = ModelManifest<GoogLeNet>;

/// Where a run ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The adapter's name.
    pub adapter: String,
    /// The graphics API.
    pub backend: String,
    /// The driver's name and version.
    pub driver: String,
    /// The operating system and the processor's architecture.
    pub system: String,
    /// Processor threads.
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
    /// Makes the folder of a new run under `parent`, with the next free number. Of `name`, letters,
    /// digits, dots and dashes are kept.
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
                // Another run may have taken the number under another name meanwhile: then both
                // have it, and folders still differ.
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io(path, e)),
            }
        }
    }

    /// The folder of a run that was made before.
    ///
    /// # Errors
    /// [`Error::Format`] if it is none.
    pub fn open(path: &Path) -> Result<Self> {
        if path.join(MANIFEST).is_file() {
            Ok(Self { path: path.to_path_buf() })
        } else {
            Err(Error::format(path, format!("is not the folder of a run: it has no {MANIFEST}")))
        }
    }

    /// The runs under `parent`, by number and name; folders that are none are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn list(parent: &Path) -> Result<Vec<Self>> {
        let mut runs: Vec<Self> = entries(parent)?.filter_map(|path| Self::open(&path).ok()).collect();
        runs.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(runs)
    }

    /// Finds a run by its folder, its folder's name under `parent`, its number, or its name if only
    /// one has it.
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
                let known = format!("`RunFolder::list` says which are in {}", parent.display());
                Err(Error::Unknown { what: "run", name: what.into(), known })
            }
            (count, _) => {
                Err(Error::Config(format!("{count} runs are called `{what}`: name one by its number")))
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

    /// Writes what is known at the start: the manifest, and the configuration as TOML.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn describe<M: Serialize>(&self, manifest: &ModelManifest<M>, config: &str) -> Result<()> {
        let json = serde_json::to_vec_pretty(manifest).map_err(Error::unwritable)?;
        write_atomically(&self.path.join(CONFIG), config.as_bytes())?;
        write_atomically(&self.path.join(MANIFEST), &json)
    }

    /// What was known at the start of a run of GoogLeNet.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn manifest(&self) -> Result<Manifest> {
        self.manifest_of()
    }

    /// What was known at the start of a run of any network.
    ///
    /// # Errors
    /// As [`RunFolder::manifest`].
    pub fn manifest_of<M: DeserializeOwned>(&self) -> Result<ModelManifest<M>> {
        let path = self.path.join(MANIFEST);
        let bytes = read_file(&path, MAX_TEXT_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(&path, e.to_string(), e))
    }

    /// Whether the run's newest checkpoint is outside its folder.
    fn saves_elsewhere(&self) -> bool {
        self.manifest_of::<serde_json::Value>().is_ok_and(|manifest| manifest.checkpoint.is_some())
    }

    /// The configuration's file.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// The configuration, TOML.
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

    /// Everything that the run logged so far; nothing if it has not begun.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file and line.
    pub fn log(&self) -> Result<Vec<Record>> {
        if self.log_path().is_file() { read_log(&self.log_path()) } else { Ok(Vec::new()) }
    }

    /// The newest checkpoint's file, if it is in the folder.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// The best checkpoint's file.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The file of a checkpoint that is kept, by the number of epochs done.
    pub fn kept(&self, epochs: u64) -> PathBuf {
        self.path.join(format!("epoch-{epochs:04}.safetensors"))
    }

    /// The newest checkpoint's file, wherever it is: in the folder also where it should be
    /// elsewhere and could not be written there.
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

    /// The checkpoints in the folder and the newest one elsewhere, the one with most steps first.
    pub fn checkpoints(&self) -> Vec<PathBuf> {
        let kept = entries(&self.path).into_iter().flatten().filter(|path| kept_epoch(path).is_some());
        let named = self.manifest().ok().and_then(|m| m.checkpoint);
        let files = [self.last(), self.best()].into_iter().chain(named).chain(kept);
        let mut found: Vec<(u64, PathBuf)> =
            files.filter_map(|file| Some((Checkpoint::progress_of(&file).ok()?.step, file))).collect();
        // Stable: of several with as many steps, the newest checkpoint is the first.
        found.sort_by_key(|(steps, _)| std::cmp::Reverse(*steps));
        found.into_iter().map(|(_, file)| file).collect()
    }

    /// Whether a file lies in the folder.
    pub fn holds(&self, file: &Path) -> bool {
        let parent = std::path::absolute(file).ok().and_then(|file| file.parent()?.canonicalize().ok());
        parent.is_some() && parent == self.path.canonicalize().ok()
    }

    /// Renames checkpoints that are of later than so many epochs, to `left-epoch-0007.safetensors`
    /// and, if `best` is, `left-best.safetensors`: a run that goes on from an earlier checkpoint
    /// has another future, and neither takes theirs for its own nor deletes them. Returns the new
    /// names.
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

    /// Deletes all but the newest `count` of the checkpoints that are kept by their epoch.
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

/// The number of epochs in the name of a checkpoint that is kept.
fn kept_epoch(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.parse().ok()
}

fn entries(folder: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    Ok(list.filter_map(|entry| Some(entry.ok()?.path())))
}

/// The numbers that runs in a folder have.
fn numbers(parent: &Path) -> Result<impl Iterator<Item = u64> + use<>> {
    Ok(entries(parent)?.filter_map(|path| path.file_name()?.to_str()?.split('-').next()?.parse().ok()))
}
