//! Checkpoints and runs given as arguments.

use std::path::{Path, PathBuf};

use incept::checkpoint::Checkpoint;
use incept::runs::RunFolder;
use incept::{Error, Result};

use super::pretrained::{self, is_imagenet};
use super::report::shown;

/// The folder of a checkpoint's run: `named` itself, the folder of the checkpoint, or a folder in
/// `runs` whose manifest has the checkpoint's path.
pub(crate) fn folder_of(named: &Path, checkpoint: &Path, runs: &Path) -> Option<RunFolder> {
    let inside = || RunFolder::open(checkpoint.parent()?).ok();
    let elsewhere = || {
        let file = std::path::absolute(checkpoint).ok()?;
        let is_its = |run: &RunFolder| run.manifest().is_ok_and(|m| m.checkpoint.as_ref() == Some(&file));
        // The latest run, if several have the same path.
        RunFolder::list(runs).ok()?.into_iter().rev().find(is_its)
    };
    RunFolder::open(named).ok().or_else(inside).or_else(elsewhere)
}

/// The checkpoint for a path: the file, or the latest checkpoint of a run's folder.
pub(crate) fn checkpoint_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let run = RunFolder::open(path)?;
    let newest = run.newest();
    if newest.exists() {
        return Ok(newest);
    }
    let advice = match (last_good(&run), run.config_path()) {
        (Some(file), _) => format!("{} is missing; resume from {}", shown(&newest), shown(&file)),
        (None, config) => format!(
            "has no checkpoint, as it ended before an epoch was saved: start again with `incept train --config {}`",
            shown(&config)
        ),
    };
    Err(Error::format(path, advice))
}

/// The checkpoint to use for a path: the file, or of a run's folder the best one, or the latest one
/// if the run was not validated.
pub(crate) fn best_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let best = RunFolder::open(path)?.best();
    if best.is_file() { Ok(best) } else { checkpoint_of(path) }
}

/// The name of the included weights, in place of a checkpoint.
pub(crate) const INCLUDED: &str = "included";

/// Whether a path means the included weights: unless a file of that name exists.
pub(crate) fn is_included(path: &Path) -> bool {
    path == Path::new(INCLUDED) && !path.exists()
}

/// Whether a path means weights by their name, which have no file of the user's: unless anything of
/// that name exists.
pub(crate) fn is_named(path: &Path) -> bool {
    is_included(path) || is_imagenet(path) && !path.exists()
}

/// Loads the checkpoint of [`best_of`], the included weights or the ImageNet weights.
pub(crate) fn load(path: &Path) -> Result<Checkpoint> {
    let checkpoint = if is_included(path) {
        Checkpoint::included()
    } else if is_imagenet(path) {
        pretrained::load()
    } else {
        Checkpoint::load(&best_of(path)?)
    }?;
    require_finite(path, &checkpoint)?;
    Ok(checkpoint)
}

/// Rejects non-finite weights; the error names the last good checkpoint of the run.
pub(crate) fn require_finite(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let Some(tensor) = checkpoint.state.non_finite() else { return Ok(()) };
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let run = folder.and_then(|folder| RunFolder::open(folder).ok());
    let good = run.and_then(|run| last_good(&run));
    let advice = good.map_or_else(
        || "; train again with a smaller --lr, or --max-grad-norm 1".to_string(),
        |good| format!("; the last good checkpoint is {}", shown(&good)),
    );
    Err(Error::NonFinite { path: path.to_path_buf(), tensor, advice })
}

/// The latest checkpoint of a run whose weights are finite.
pub(crate) fn last_good(run: &RunFolder) -> Option<PathBuf> {
    let is_good = |file: &PathBuf| Checkpoint::load(file).is_ok_and(|c| c.state.non_finite().is_none());
    run.checkpoints().into_iter().find(is_good)
}

/// Whether an argument is a checkpoint: by its extension, as a run's folder, `included` or
/// `imagenet`.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors") || RunFolder::open(path).is_ok() || is_named(path)
}
