//! Where a run writes: found to be writable, locked and tidied before the device is opened; and
//! what is left of a run that failed.

use std::path::{Path, PathBuf};

use incept::checkpoint::Checkpoint;
use incept::optim::Progress;
use incept::output::{check_file, check_folder, is_special, remove_leftovers};
use incept::runs::{Lock, LogWriter, Record, RunFolder, StopReason, best_in};
use incept::{Error, Result};

use super::config::RunArgs;
use super::report::{note, shown};

/// Where a run writes, for this process alone.
#[derive(Debug)]
pub(crate) struct Place {
    /// The folder of the run that goes on; a new run has none yet.
    folder: Option<RunFolder>,
    /// The newest checkpoint's file, if not in the folder.
    out: Option<PathBuf>,
    locks: Vec<Lock>,
}

impl Place {
    /// Takes what a run will write to. `from` is the checkpoint that it goes on from, in `folder`
    /// if it has one.
    pub(crate) fn take(
        options: &RunArgs,
        folder: Option<RunFolder>,
        from: Option<(&Path, &Progress)>,
    ) -> Result<Self> {
        let mut locks = Vec::new();
        match &folder {
            Some(folder) => {
                check_folder(folder.path())?;
                locks.push(Lock::acquire(&folder.lock_path())?);
                remove_leftovers(folder.path(), None);
            }
            None => check_folder(options.runs_dir())?,
        }
        if let Some(parent) = &options.tensorboard {
            check_folder(parent)?;
        }
        // A run that goes on from its best checkpoint, or from one that is kept, leaves that as it
        // is.
        let outside = |file: &Path| folder.as_ref().is_none_or(|folder| !folder.holds(file));
        let from_outside = from.map(|(file, _)| file.to_path_buf()).filter(|file| outside(file));
        let out = options.out.clone().or(from_outside).or_else(|| Some(folder.as_ref()?.newest()));
        if let Some(out) = out.as_deref().filter(|out| outside(out)) {
            check_file(out)?;
            if !is_special(out) {
                let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
                parent.map_or(Ok(()), std::fs::create_dir_all).map_err(|e| Error::io(out, e))?;
                // Two names of one file are one lock.
                let file = out.canonicalize().unwrap_or_else(|_| out.to_path_buf());
                locks.push(Lock::acquire(&beside(&file))?);
            }
        }
        match from {
            // What another process wrote between reading and locking would be overwritten with what
            // follows an older state.
            Some((file, progress)) if Checkpoint::progress_of(file)? != *progress => {
                Err(Error::format(file, "was written by another process just now: start again"))
            }
            _ => Ok(Self { folder, out, locks }),
        }
    }

    /// The folder of the run that goes on.
    pub(crate) fn folder(&self) -> Option<&RunFolder> {
        self.folder.as_ref()
    }

    /// The best validation accuracy of the run that goes on, and its epoch.
    pub(crate) fn best(&self) -> Result<Option<(f64, u64)>> {
        let log = self.folder.as_ref().map(RunFolder::readable_log).transpose()?.unwrap_or_default();
        Ok(best_in(&log).map(|(accuracy, epoch, _)| (accuracy, epoch)))
    }

    /// The run's folder, which is made if the run is a new one, and the newest checkpoint's file.
    pub(crate) fn settle(&mut self, options: &RunArgs, name: &str) -> Result<(RunFolder, PathBuf)> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => {
                let folder = RunFolder::create(options.runs_dir(), name)?;
                self.locks.push(Lock::acquire(&folder.lock_path())?);
                self.folder.insert(folder).clone()
            }
        };
        let out = self.out.clone().unwrap_or_else(|| folder.last());
        Ok((folder, out))
    }

    /// Makes log and checkpoints of a run that goes on agree, and says what was done.
    pub(crate) fn mend(&self, file: &Path, progress: &Progress) -> Result<()> {
        for text in
            self.folder.iter().map(|folder| folder.mend(file, progress)).collect::<Result<Vec<_>>>()?.concat()
        {
            note(&format!("note: {text}"));
        }
        Ok(())
    }

    /// Why there is nothing to train in a run that goes on after `progress`, and what to do about
    /// it; none if there is.
    pub(crate) fn finished(
        &self,
        progress: &Progress,
        epochs: u64,
        patience: Option<u64>,
        validate: bool,
    ) -> Result<Option<(StopReason, String)>> {
        let late = match self.folder.as_ref().filter(|_| validate) {
            Some(folder) => folder.unvalidated(progress.step)?.is_some(),
            None => false,
        };
        if late {
            return Ok(None);
        }
        if progress.epoch >= epochs {
            let text = "all epochs of this run are done already: give more with --epochs";
            return Ok(Some((StopReason::Done, text.into())));
        }
        let Some(folder) = self.folder.as_ref().filter(|_| validate && progress.batch == 0) else {
            return Ok(None);
        };
        Ok(folder.waited(progress.epoch, patience)?.map(|(since, accuracy, at)| {
            let text = format!(
                "early stopping ended this run: validation accuracy has not improved for {since} epochs (best {:.2}% at epoch {}); a larger --patience goes on, and --patience 0 turns it off",
                100.0 * accuracy,
                at + 1
            );
            (StopReason::Patience, text)
        }))
    }

    /// Writes down that a run is over, if a crash came between its last epoch and that.
    pub(crate) fn close(&self, progress: &Progress, reason: StopReason) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let log = folder.readable_log()?;
        match log.last() {
            Some(Record::Epoch(last)) if last.step == progress.step => {
                let end = Record::End { reason, epochs: progress.epoch, seconds: 0.0, message: None };
                LogWriter::open(&folder.log_path(), progress.step)?.write(&end)
            }
            _ => Ok(()),
        }
    }
}

/// The lock of a checkpoint that is in no run's folder.
fn beside(out: &Path) -> PathBuf {
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!(".{name}.lock"))
}

/// The error of a run that failed, with what is left of it and how to go on.
pub(crate) fn ended(error: Error, folder: &RunFolder, data: &str) -> Error {
    let newest = folder.newest();
    let diverged = matches!(
        error,
        Error::Diverged { .. }
            | Error::DivergedInF16 { .. }
            | Error::Spoiled { .. }
            | Error::Overflows { .. }
    );
    let advice = match Checkpoint::progress_of(&newest) {
        Ok(progress) => {
            let how = if diverged {
                format!(
                    "start from its weights with a smaller --lr: incept train {data} --init {}",
                    shown(&newest)
                )
            } else {
                let space = if is_full(&error) { "free some space, then go on" } else { "go on" };
                format!("{space} with: incept train --resume {}", shown(folder.path()))
            };
            format!("the last checkpoint is whole: {}, after {}; {how}", shown(&newest), position(&progress))
        }
        Err(_) => format!(
            "no checkpoint was saved yet; start again with: incept train --config {}",
            shown(&folder.config_path())
        ),
    };
    Error::Ended { source: Box::new(error), advice }
}

fn position(progress: &Progress) -> String {
    let epochs = if progress.epoch == 1 { "epoch" } else { "epochs" };
    match progress.batch {
        0 => format!("{} {epochs}", progress.epoch),
        batch => format!("{} {epochs} and {batch} batches", progress.epoch),
    }
}

/// Whether a disk is full.
fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}
