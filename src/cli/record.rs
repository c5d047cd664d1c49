//! What a run leaves behind: its folder's log and checkpoints, and TensorBoard's event files.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use incept::gpu::AdapterSummary;
use incept::runs::{
    EpochRecord, EventWriter, HeadRecord, HeldOutRecord, LogWriter, Machine, PartRecord, Record, RunFolder,
    StepRecord, StopReason,
};
use incept::train::{Evaluation, StepMetrics};
use incept::weights::{Checkpoint, Progress, TrainingState};
use incept::{Error, Result};

use super::fit::EpochRecord as Epoch;
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
    /// The last epoch, if the look at the held-out pictures behind it was interrupted.
    unjudged: Option<EpochRecord>,
    /// The beginning of the epoch that the run goes on in.
    part: Option<PartRecord>,
}

/// The last epoch of a run that has done `steps` steps, if it ended with them and the held-out pictures were not looked at.
pub(crate) fn unjudged(folder: &RunFolder, steps: u64) -> Result<Option<EpochRecord>> {
    let log = folder.log()?;
    let last = log.into_iter().rev().find_map(|r| if let Record::Epoch(e) = r { Some(e) } else { None });
    Ok(last.filter(|epoch| epoch.step == steps && epoch.held_out.is_none()))
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
        let best_of = |log: &[Record]| {
            log.iter().rev().find_map(|record| match record {
                Record::Epoch(EpochRecord { epoch, held_out: Some(held_out), best: true, .. }) => {
                    Some((held_out.accuracy, *epoch))
                }
                _ => None,
            })
        };
        let before = if folder.log_path().is_file() { best_of(&folder.log()?) } else { None };
        let log = LogWriter::open(&folder.log_path(), steps)?;
        let records = folder.log()?;
        let part =
            records.iter().rev().find_map(|r| if let Record::Part(p) = r { Some(p.clone()) } else { None });
        let best = best_of(&records);
        for file in folder.set_aside(progress.epoch, before != best)? {
            note(&format!("note: of epochs that this run goes back behind: {}", shown(&file)));
        }
        // Where the weights of what was best are gone, the next epoch is the best one.
        let best = best.filter(|_| folder.best().is_file());
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

    /// An epoch that is done after `step` steps. Returns whether none before was better on the held-out pictures.
    pub(crate) fn epoch(&mut self, epoch: &Epoch, step: u64) -> Result<bool> {
        self.note(EpochRecord {
            epoch: epoch.summary.epoch,
            step,
            rate: epoch.rate,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            held_out: epoch.held_out.as_ref().map(HeldOutRecord::from),
            held_out_aux: epoch.held_out_aux.clone(),
            best: false,
            images_per_s: epoch.images_per_s,
            seconds: epoch.seconds,
            device_busy: epoch.device_busy,
            memory_bytes: self.memory_bytes,
            time: now() as u64,
        })
    }

    /// Adds what the epoch had measured before the run was left and went on.
    pub(crate) fn complete(&mut self, epoch: &mut Epoch) {
        if epoch.summary.count == 0 {
            return;
        }
        if let Some(part) = self.part.take().filter(|part| part.epoch == epoch.summary.epoch) {
            part.join(&mut epoch.summary);
            epoch.seconds += part.seconds;
        }
    }

    /// An epoch that is left before its end, after `step` steps.
    pub(crate) fn leave(&mut self, epoch: &Epoch, step: u64) -> Result<()> {
        // Without a step, what the log has of this epoch still holds.
        if epoch.summary.count == 0 {
            return Ok(());
        }
        self.log.write(&Record::Part(PartRecord {
            epoch: epoch.summary.epoch,
            step,
            count: epoch.summary.count,
            loss: epoch.summary.loss,
            heads: epoch.summary.heads.iter().map(HeadRecord::of_epoch).collect(),
            seconds: epoch.seconds,
        }))
    }

    /// The number of the last epoch, if the look at the held-out pictures behind it was interrupted.
    pub(crate) fn unjudged(&self) -> Option<u64> {
        self.unjudged.as_ref().map(|epoch| epoch.epoch)
    }

    /// What the held-out pictures say of that epoch after all; returns what [`Recorder::epoch`] does.
    pub(crate) fn judge(&mut self, held_out: &Evaluation, aux: Vec<HeadRecord>) -> Result<bool> {
        let Some(epoch) = self.unjudged.take() else { return Ok(false) };
        self.note(EpochRecord { held_out: Some(held_out.into()), held_out_aux: aux, ..epoch })
    }

    /// Writes down an epoch, and whether it is the best so far.
    fn note(&mut self, mut epoch: EpochRecord) -> Result<bool> {
        if let Some(held_out) = &epoch.held_out {
            epoch.best = self.best.is_none_or(|(best, _)| held_out.accuracy > best);
            if epoch.best {
                self.best = Some((held_out.accuracy, epoch.epoch));
            }
            let mut scalars = vec![
                ("held_out/accuracy".to_string(), held_out.accuracy),
                ("held_out/loss".to_string(), held_out.loss),
            ];
            for head in &epoch.held_out_aux {
                scalars.push((format!("held_out/accuracy_{}", head.name), head.accuracy));
                scalars.push((format!("held_out/loss_{}", head.name), head.loss));
            }
            self.scalars(epoch.step, &scalars)?;
        }
        let best = epoch.best;
        self.log.write(&Record::Epoch(epoch))?;
        Ok(best)
    }

    /// Writes a checkpoint after `epochs` epochs where the policy wants it.
    pub(crate) fn save(&self, checkpoint: &Checkpoint, out: &Path, best: bool) -> Result<()> {
        checkpoint.save(out)?;
        if best {
            checkpoint.save(&self.folder.best())?;
        }
        let progress = &checkpoint.metadata.progress;
        if self.keep > 0 && progress.batch == 0 {
            checkpoint.save(&self.folder.kept(progress.epoch))?;
            self.folder.prune(self.keep)?;
        }
        Ok(())
    }

    /// The run ends here.
    pub(crate) fn end(&mut self, reason: StopReason, epochs: u64) -> Result<()> {
        self.log.write(&Record::End { reason, epochs, seconds: self.started.elapsed().as_secs_f64() })
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        match &mut self.events {
            Some(events) => events.scalars(now(), step, values),
            None => Ok(()),
        }
    }
}

/// The folder of the run that a checkpoint is of: the one that a person named, the one that it lies in, or one of `runs` that says that its
/// newest checkpoint is this file.
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
    Ok(RunFolder::open(path)?.newest())
}

/// The checkpoint that a person wants to use by a path: a file; or of a run's folder the best one, the newest if none was measured.
pub(crate) fn best_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let best = RunFolder::open(path)?.best();
    if best.is_file() { Ok(best) } else { checkpoint_of(path) }
}

/// What stands for the weights that come with the program, where a checkpoint is asked for.
pub(crate) const INCLUDED: &str = "included";

/// Whether a path means the weights that come with the program: unless something there is called so.
pub(crate) fn is_included(path: &Path) -> bool {
    path == Path::new(INCLUDED) && !path.exists()
}

/// Loads what [`best_of`] finds, or the weights that come with the program.
pub(crate) fn load(path: &Path) -> Result<Checkpoint> {
    let checkpoint =
        if is_included(path) { Checkpoint::included() } else { Checkpoint::load(&best_of(path)?) }?;
    let TrainingState { parameters, state, average, .. } = &checkpoint.state;
    let mut tensors = parameters.iter().chain(state).chain(average.iter().flatten());
    if let Some((name, _)) = tensors.find(|(_, tensor)| tensor.data.iter().any(|v| !v.is_finite())) {
        let reason = format!(
            "`{name}` has values that are no numbers: training diverged; train again with a smaller --rate, or --clip-norm 1"
        );
        return Err(Error::format(path, reason));
    }
    Ok(checkpoint)
}

/// Whether a path is a checkpoint and nothing else that a command may be given: by its name, a run's folder, or what comes with the program.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors") || RunFolder::open(path).is_ok() || is_included(path)
}
