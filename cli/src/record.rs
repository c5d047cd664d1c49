//! What a run leaves behind: its folder's log and checkpoints, and TensorBoard's event files.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use incept::checkpoint::Checkpoint;
use incept::gpu::AdapterSummary;
use incept::infer::Evaluation;
use incept::optim::Progress;
use incept::output::is_special;
use incept::runs::{
    EpochRecord, EventWriter, HeadRecord, LogWriter, Machine, PartRecord, Record, RunFolder, StepRecord,
    StopReason, ValidationRecord, read_log_leniently,
};
use incept::train::StepMetrics;
use incept::{Error, Result};

use super::fit::EpochRecord as Epoch;
use super::flags::flags;
use super::report::{Rate, note, shown};

/// Step records of an epoch, about: enough for a curve.
const STEPS_PER_EPOCH: usize = 200;

/// Writes down what happens in a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    folder: RunFolder,
    log: LogWriter,
    events: Option<EventWriter>,
    started: Rate,
    /// Steps between records.
    every: u64,
    memory_bytes: u64,
    /// Checkpoints that are kept beside the last and the best.
    keep: usize,
    /// The best held-out accuracy and the epoch that had it.
    best: Option<(f64, u64)>,
    /// The last epoch, if its validation was interrupted.
    unjudged: Option<EpochRecord>,
    /// The beginning of the epoch that the run goes on in.
    part: Option<PartRecord>,
}

/// What is saved with a record of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Save<'a> {
    pub checkpoint: &'a Checkpoint,
    /// The newest checkpoint's file.
    pub out: &'a Path,
}

/// The last epoch of a run that has done `steps` steps, if it ended with them and the held-out
/// images were not looked at.
pub(crate) fn unjudged(folder: &RunFolder, steps: u64) -> Result<Option<EpochRecord>> {
    let log = readable(folder)?;
    let last = log.into_iter().rev().find_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None });
    Ok(last.filter(|epoch| epoch.step == steps && epoch.validation.is_none()))
}

/// What can be read of a run's log.
pub(crate) fn readable(folder: &RunFolder) -> Result<Vec<Record>> {
    let path = folder.log_path();
    if path.exists() { Ok(read_log_leniently(&path)?.0) } else { Ok(Vec::new()) }
}

/// The best epoch of a log: its validation accuracy, its number, and the steps done after it.
pub(crate) fn best_in(log: &[Record]) -> Option<(f64, u64, u64)> {
    log.iter().rev().find_map(|record| match record {
        Record::Epoch(EpochRecord { epoch, step, validation: Some(validation), best: true, .. }) => {
            Some((validation.accuracy, *epoch, *step))
        }
        _ => None,
    })
}

/// The epochs without a better accuracy with which a run ended that has done `epochs` epochs, if
/// they are as many as `patience`.
pub(crate) fn waited(
    folder: &RunFolder,
    epochs: u64,
    patience: Option<u64>,
) -> Result<Option<(u64, f64, u64)>> {
    let log = readable(folder)?;
    let last = log.iter().rev().find_map(Record::epoch);
    let judged = last.is_some_and(|last| last.epoch + 1 == epochs && last.validation.is_some());
    let best = best_in(&log).filter(|_| judged);
    Ok(best.zip(patience).and_then(|((accuracy, at, _), patience)| {
        let since = epochs.saturating_sub(at + 1);
        (since >= patience).then_some((since, accuracy, at))
    }))
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The computer and its device.
pub(crate) fn machine(adapter: &AdapterSummary) -> Machine {
    Machine {
        adapter: adapter.name.clone(),
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

impl Recorder {
    /// Goes on in a run's folder from where `progress` says.
    pub(crate) fn open(
        folder: RunFolder,
        progress: &Progress,
        steps_per_epoch: usize,
        memory_bytes: u64,
        keep: usize,
        tensorboard: Option<&Path>,
    ) -> Result<Self> {
        let steps = progress.step;
        let before = best_in(&readable(&folder)?);
        // A note of a save that this run goes back behind.
        folder.end_save();
        let log = LogWriter::open(&folder.log_path(), steps)?;
        let records = folder.log()?;
        let part =
            records.iter().rev().find_map(|r| if let Record::Part(p) = r { Some(p.clone()) } else { None });
        let best = best_in(&records);
        for file in folder.set_aside(progress.epoch, before != best)? {
            note(&format!("note: of epochs that this run goes back behind: {}", shown(&file)));
        }
        let steps_of = |file: &Path| Checkpoint::progress_of(file).ok().map(|progress| progress.step);
        let mut there = steps_of(&folder.best());
        // A run that rewinds keeps the weights of its best epoch where that epoch's checkpoint was
        // kept.
        if let Some((_, epoch, step)) = best.filter(|(_, _, step)| there != Some(*step)) {
            let kept = folder.kept(epoch + 1);
            if steps_of(&kept) == Some(step) {
                Checkpoint::load(&kept)?.save(&folder.best())?;
                there = Some(step);
            }
        }
        // Where the weights of what was best are gone, the next epoch is the best one.
        let best =
            best.filter(|(_, _, step)| there == Some(*step)).map(|(accuracy, epoch, _)| (accuracy, epoch));
        let events = match tensorboard {
            Some(parent) => Some(EventWriter::create(&parent.join(folder.title()), now())?),
            None => None,
        };
        let every = steps_per_epoch.div_ceil(STEPS_PER_EPOCH).max(1) as u64;
        let unjudged = unjudged(&folder, steps)?;
        let started = Rate::new();
        Ok(Self { folder, log, events, started, every, memory_bytes, keep, best, unjudged, part })
    }

    pub(crate) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The best held-out accuracy so far and its epoch.
    pub(crate) fn best(&self) -> Option<(f64, u64)> {
        self.best
    }

    /// A step whose metrics are back, after `epoch` epochs.
    pub(crate) fn step(&mut self, step: &StepMetrics, epoch: f64, images_per_s: f64) -> Result<()> {
        if !step.step.is_multiple_of(self.every) {
            return Ok(());
        }
        let norm = step.gradient_norm.map(f64::from).filter(|n| n.is_finite());
        let record = StepRecord {
            step: step.step,
            epoch,
            rate: f64::from(step.rate),
            loss: f64::from(step.loss),
            heads: step.heads.iter().map(|h| HeadRecord::of_step(h, step.count)).collect(),
            gradient_norm: norm,
            loss_scale: step.scaling.map(|s| f64::from(s.scale)),
            images_per_s,
            seconds: self.started.elapsed().as_secs_f64(),
        };
        let mut scalars = vec![
            ("loss/total".to_string(), record.loss),
            ("learning_rate".to_string(), record.rate),
            ("images_per_s".to_string(), images_per_s),
        ];
        for head in &record.heads {
            scalars.push((format!("loss/{}", head.name), head.loss));
            scalars.push((format!("accuracy/{}", head.name), head.accuracy));
        }
        scalars.extend(norm.map(|n| ("gradient_norm".to_string(), n)));
        self.scalars(record.step, &scalars)?;
        self.log.write(&Record::Step(record))
    }

    /// Whether no epoch before was as good on the validation set.
    pub(crate) fn is_best(&self, validation: &Evaluation) -> bool {
        self.best.is_none_or(|(best, _)| validation.accuracy() > best)
    }

    /// An epoch that is done after `step` steps, and what is saved with it.
    pub(crate) fn epoch(&mut self, epoch: &Epoch, step: u64, save: Option<Save<'_>>) -> Result<()> {
        let record = EpochRecord {
            epoch: epoch.summary.epoch,
            step,
            rate: epoch.rate,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            validation: epoch.validation.as_ref().map(ValidationRecord::from),
            validation_aux: epoch.validation_aux.clone(),
            best: epoch.best,
            images_per_s: epoch.images_per_s,
            seconds: epoch.seconds,
            device_busy: epoch.device_busy,
            memory_bytes: self.memory_bytes,
            time: now() as u64,
        };
        self.note(record, save)
    }

    /// What an epoch had measured when the run was left in it, if it was.
    pub(crate) fn begun(&mut self, epoch: u64) -> Option<PartRecord> {
        self.part.take().filter(|part| part.epoch == epoch)
    }

    /// An epoch that is left before its end, after `step` steps, and what is saved with it.
    pub(crate) fn leave(&mut self, epoch: &Epoch, step: u64, save: Option<Save<'_>>) -> Result<()> {
        let record = Record::Part(PartRecord {
            epoch: epoch.summary.epoch,
            step,
            count: epoch.summary.count,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            seconds: epoch.seconds,
        });
        self.commit(&record, save, false)
    }

    /// The number of the last epoch, if its validation was interrupted.
    pub(crate) fn unjudged(&self) -> Option<u64> {
        self.unjudged.as_ref().map(|epoch| epoch.epoch)
    }

    /// What the validation set says of that epoch after all, and what is saved with it.
    pub(crate) fn judge(
        &mut self,
        validation: &Evaluation,
        aux: Vec<HeadRecord>,
        save: Option<Save<'_>>,
    ) -> Result<()> {
        let Some(epoch) = self.unjudged.take() else { return Ok(()) };
        let best = self.is_best(validation);
        self.note(
            EpochRecord { validation: Some(validation.into()), validation_aux: aux, best, ..epoch },
            save,
        )
    }

    /// Saves and writes down an epoch.
    fn note(&mut self, epoch: EpochRecord, save: Option<Save<'_>>) -> Result<()> {
        let best = epoch.best;
        let record = Record::Epoch(epoch);
        self.commit(&record, save, best)?;
        let Record::Epoch(epoch) = record else { return Ok(()) };
        if let Some(validation) = &epoch.validation {
            if best {
                self.best = Some((validation.accuracy, epoch.epoch));
            }
            let mut scalars = vec![
                ("validation/accuracy".to_string(), validation.accuracy),
                ("validation/loss".to_string(), validation.loss),
            ];
            for head in &epoch.validation_aux {
                scalars.push((format!("validation/accuracy_{}", head.name), head.accuracy));
                scalars.push((format!("validation/loss_{}", head.name), head.loss));
            }
            self.scalars(epoch.step, &scalars)?;
        }
        Ok(())
    }

    /// Saves what is to be saved and then writes down what that is: the log promises no file that
    /// is not there. What is cut off in between, [`RunFolder::mend`] completes.
    fn commit(&mut self, record: &Record, save: Option<Save<'_>>, best: bool) -> Result<()> {
        let Some(save) = save else { return self.log.write_through(record) };
        self.folder.begin_save(record)?;
        let elsewhere = self.save(&save, best)?;
        self.log.write_through(record)?;
        self.folder.end_save();
        elsewhere.map_or(Ok(()), Err)
    }

    /// Saves a checkpoint of which the log has a record already.
    pub(crate) fn save_only(&self, save: &Save<'_>) -> Result<()> {
        self.save(save, false)?.map_or(Ok(()), Err)
    }

    /// Writes a checkpoint to where the policy wants it. What could not be written elsewhere is in
    /// the folder all the same: the error is returned as a value then.
    fn save(&self, Save { checkpoint, out }: &Save<'_>, best: bool) -> Result<Option<Error>> {
        let last = self.folder.last();
        let mut elsewhere = None;
        if *out == last {
            checkpoint.save(out)?;
        } else {
            elsewhere = checkpoint.save(out).err();
            if elsewhere.is_some() || is_special(out) {
                checkpoint.save(&last)?;
            } else if last.is_file() && self.folder.manifest().is_ok_and(|m| m.checkpoint.is_some()) {
                // A copy that an earlier start saved here for want of the other place.
                std::fs::remove_file(&last).map_err(|e| Error::io(&last, e))?;
            }
        }
        if best {
            checkpoint.save(&self.folder.best())?;
        }
        let progress = &checkpoint.metadata.progress;
        if self.keep > 0 && progress.batch == 0 {
            checkpoint.save(&self.folder.kept(progress.epoch))?;
            self.folder.prune(self.keep)?;
        }
        Ok(elsewhere)
    }

    /// The run ends here.
    pub(crate) fn end(&mut self, reason: StopReason, epochs: u64) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.log.write(&Record::End { reason, epochs, seconds, message: None })
    }

    /// The run ends here because something failed: the log says what, if it can still be written.
    pub(crate) fn fail(&mut self, error: &Error, epochs: u64) {
        let (reason, message) = (StopReason::Failed, Some(flags(&error.to_string()).into_owned()));
        let seconds = self.started.elapsed().as_secs_f64();
        let _ = self.log.write(&Record::End { reason, epochs, seconds, message });
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        match &mut self.events {
            Some(events) => events.scalars(now(), step, values),
            None => Ok(()),
        }
    }
}

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
