//! The files that a run writes: checked, locked and tidied before the device is opened; and the
//! error message of a run that failed.

use std::path::{Path, PathBuf};

use incept::checkpoint::Checkpoint;
use incept::low_level::output::{check_file, check_folder, is_special, remove_leftovers};
use incept::optim::Progress;
use incept::runs::{Lock, LogWriter, Record, RunFolder, StopReason, best_in};
use incept::{Error, Result};

use super::config::RunArgs;
use super::report::{note, plural, shown};

/// The files that a run writes, locked for this process.
#[derive(Debug)]
pub(crate) struct Place {
    /// The folder of a resumed run; a new run has none yet.
    folder: Option<RunFolder>,
    /// File of the latest checkpoint; none for a new run without `--output`.
    out: Option<PathBuf>,
    locks: Vec<Lock>,
}

impl Place {
    /// Checks and locks what a run will write. `from` is the checkpoint that it resumes from, in
    /// `folder` if it has one.
    pub(crate) fn lock(
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
        // A run that resumes from its best checkpoint, or from a kept one, does not overwrite it.
        let outside = |file: &Path| folder.as_ref().is_none_or(|folder| !folder.holds(file));
        let from_outside = from.map(|(file, _)| file.to_path_buf()).filter(|file| outside(file));
        let out = options.out.clone().or(from_outside).or_else(|| Some(folder.as_ref()?.newest()));
        if let Some(out) = out.as_deref().filter(|out| outside(out)) {
            locks.extend(lock_file(out)?);
        }
        match from {
            // Another process may have saved a newer state between reading and locking, which this
            // run would overwrite with an older one.
            Some((file, progress)) if Checkpoint::progress_of(file)? != *progress => {
                Err(Error::format(file, "was just written by another process; run the command again"))
            }
            _ => Ok(Self { folder, out, locks }),
        }
    }

    /// The folder of a resumed run.
    pub(crate) fn folder(&self) -> Option<&RunFolder> {
        self.folder.as_ref()
    }

    /// The best validation accuracy of a resumed run, and its epoch.
    pub(crate) fn best(&self) -> Result<Option<(f64, u64)>> {
        let log = self.folder.as_ref().map(RunFolder::readable_log).transpose()?.unwrap_or_default();
        Ok(best_in(&log).map(|(accuracy, epoch, _)| (accuracy, epoch)))
    }

    /// The run's folder, created for a new run, and the file of the latest checkpoint.
    pub(crate) fn create(&mut self, options: &RunArgs, name: &str) -> Result<(RunFolder, PathBuf)> {
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

    /// The locks, to be held as long as the run may write.
    pub(crate) fn into_locks(self) -> Vec<Lock> {
        self.locks
    }

    /// Makes log and checkpoints of a resumed run consistent after a crash, with notes.
    pub(crate) fn mend(&self, file: &Path, progress: &Progress) -> Result<()> {
        for text in
            self.folder.iter().map(|folder| folder.mend(file, progress)).collect::<Result<Vec<_>>>()?.concat()
        {
            note(&format!("note: {text}"));
        }
        Ok(())
    }

    /// Why a run resumed at `progress` has nothing left to train, with advice; none if it has.
    pub(crate) fn finished(
        &self,
        progress: &Progress,
        epochs: u64,
        patience: Option<u64>,
        validate: bool,
    ) -> Result<Option<(StopReason, String)>> {
        let unvalidated = match self.folder.as_ref().filter(|_| validate) {
            Some(folder) => folder.unvalidated(progress.step)?.is_some(),
            None => false,
        };
        if unvalidated {
            return Ok(None);
        }
        if progress.epoch >= epochs {
            let text = "all epochs of this run are done; set a larger --epochs to continue";
            return Ok(Some((StopReason::Done, text.into())));
        }
        let Some(folder) = self.folder.as_ref().filter(|_| validate && progress.batch == 0) else {
            return Ok(None);
        };
        Ok(folder.waited(progress.epoch, patience)?.map(|(since, accuracy, at)| {
            let text = format!(
                "early stopping: validation accuracy has not improved for {} (best {:.1}% at epoch {}); set a larger --patience to continue, or 0 to disable it",
                plural(since, "epoch"),
                100.0 * accuracy,
                at + 1
            );
            (StopReason::Patience, text)
        }))
    }

    /// Logs the end of a run, if a crash prevented it after the last epoch.
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

/// Checks and locks the file of a checkpoint outside of a run's folder, and creates its folder;
/// devices and pipes are not locked.
pub(crate) fn lock_file(out: &Path) -> Result<Option<Lock>> {
    check_file(out)?;
    if is_special(out) {
        return Ok(None);
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), std::fs::create_dir_all).map_err(|e| Error::io(out, e))?;
    // Canonical, so that two paths of one file have the same lock.
    let file = out.canonicalize().unwrap_or_else(|_| out.to_path_buf());
    Lock::acquire(&lock_of(&file)).map(Some)
}

/// The lock file of a checkpoint outside of a run's folder.
fn lock_of(out: &Path) -> PathBuf {
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    out.with_file_name(format!(".{name}.lock"))
}

/// The error of a failed run, with its last checkpoint and how to continue.
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
                let resume = if is_full(&error) { "free some disk space, then resume" } else { "resume" };
                format!("{resume} with: incept train --resume {}", shown(folder.path()))
            };
            format!("the last checkpoint is intact: {}, after {}; {how}", shown(&newest), position(&progress))
        }
        Err(_) => format!(
            "no checkpoint was saved; start again with: incept train --config {}",
            shown(&folder.config_path())
        ),
    };
    Error::Ended { source: Box::new(error), advice }
}

fn position(progress: &Progress) -> String {
    let epochs = plural(progress.epoch, "epoch");
    match progress.batch {
        0 => epochs,
        1 => format!("{epochs} and 1 batch"),
        batch => format!("{epochs} and {batch} batches"),
    }
}

/// Whether an error means that a disk or quota is full.
fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}
