//! Checkpoints and runs as people name them.

use std::path::{Path, PathBuf};

use incept::checkpoint::Checkpoint;
use incept::runs::RunFolder;
use incept::{Error, Result};

use super::report::shown;

/// The folder of the run that a checkpoint is of: the one that a person named, the one that it lies
/// in, or one of `runs` that says that its newest checkpoint is this file.
pub(crate) fn folder_of(named: &Path, checkpoint: &Path, runs: &Path) -> Option<RunFolder> {
    let inside = || RunFolder::open(checkpoint.parent()?).ok();
    let elsewhere = || {
        let file = std::path::absolute(checkpoint).ok()?;
        let is_its = |run: &RunFolder| run.manifest().is_ok_and(|m| m.checkpoint.as_ref() == Some(&file));
        // The newest, if a name was given to several.
        RunFolder::list(runs).ok()?.into_iter().rev().find(is_its)
    };
    RunFolder::open(named).ok().or_else(inside).or_else(elsewhere)
}

/// The checkpoint that a person means by a path: a file, or the newest one of a run's folder.
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
        (Some(file), _) => format!("{} is gone; go on from {}", shown(&newest), shown(&file)),
        (None, config) => format!(
            "has no checkpoint yet, as it ended before an epoch was saved: start again with `incept train --config {}`",
            shown(&config)
        ),
    };
    Err(Error::format(path, advice))
}

/// The checkpoint that a person wants to use by a path: a file; or of a run's folder the best one,
/// the newest if none was measured.
pub(crate) fn best_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let best = RunFolder::open(path)?.best();
    if best.is_file() { Ok(best) } else { checkpoint_of(path) }
}

/// What stands for the weights that come with the program, where a checkpoint is asked for.
pub(crate) const INCLUDED: &str = "included";

/// Whether a path means the weights that come with the program: unless something there is called
/// so.
pub(crate) fn is_included(path: &Path) -> bool {
    path == Path::new(INCLUDED) && !path.exists()
}

/// Loads what [`best_of`] finds, or the weights that come with the program.
pub(crate) fn load(path: &Path) -> Result<Checkpoint> {
    let checkpoint =
        if is_included(path) { Checkpoint::included() } else { Checkpoint::load(&best_of(path)?) }?;
    require_finite(path, &checkpoint)?;
    Ok(checkpoint)
}

/// Refuses weights that training has spoiled, naming the last good ones of the run.
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

/// The checkpoint of a run with most steps whose weights are finite.
pub(crate) fn last_good(run: &RunFolder) -> Option<PathBuf> {
    let is_good = |file: &PathBuf| Checkpoint::load(file).is_ok_and(|c| c.state.non_finite().is_none());
    run.checkpoints().into_iter().find(is_good)
}

/// Whether a path is a checkpoint and nothing else that a command may be given: by its name, a
/// run's folder, or what comes with the program.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors") || RunFolder::open(path).is_ok() || is_included(path)
}
