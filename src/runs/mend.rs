//! Repair of a run that was interrupted while saving: makes its log and checkpoints consistent
//! before it resumes.
//!
//! An epoch is saved in an order in which no file refers to one that does not exist: the pending
//! log record ([`RunFolder::begin_save`]), the newest checkpoint, the best one if this is it, the
//! record in the log; then the pending record is removed. After a crash, [`RunFolder::mend`]
//! completes this from the checkpoint that the run resumes from, so the log equals that of an
//! uninterrupted run.

use std::path::{Path, PathBuf};

use super::RunFolder;
use super::log::{EpochRecord, Record, read_log_leniently, write_log};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::optim::Progress;
use crate::output::write_atomically;
use crate::text::plural;
use crate::untrusted::{MAX_FILE_BYTES, MAX_TEXT_BYTES, read_file};

const PENDING: &str = "pending.json";
const LOCK: &str = "run.lock";
const DAMAGED: &str = "log-damaged.jsonl";

impl RunFolder {
    /// The lock file of the process that writes this run.
    pub fn lock_path(&self) -> PathBuf {
        self.path().join(LOCK)
    }

    fn pending_path(&self) -> PathBuf {
        self.path().join(PENDING)
    }

    /// Stores the record that is appended to the log after the checkpoints are saved.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn begin_save(&self, record: &Record) -> Result<()> {
        let json = serde_json::to_vec(record).map_err(Error::unwritable)?;
        write_atomically(&self.pending_path(), &json)
    }

    /// Marks checkpoints and log as consistent.
    pub fn end_save(&self) {
        // If removal fails, `mend` finds the record in the log and ignores the file.
        let _ = std::fs::remove_file(self.pending_path());
    }

    fn pending(&self) -> Option<Record> {
        serde_json::from_slice(&read_file(&self.pending_path(), MAX_TEXT_BYTES).ok()?).ok()
    }

    /// Completes an interrupted save, before resuming from the checkpoint `file` with this
    /// `progress`. Returns messages about repairs.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn mend(&self, file: &Path, progress: &Progress) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let (mut records, mut changed) = self.readable_records(&mut notes)?;
        // If the run rewinds, later records are left to `LogWriter::open`, which truncates the log.
        let rewinds = records.iter().any(|record| record.steps() > progress.step);
        let pending = self.pending();
        let missing = pending.as_ref().filter(|r| !rewinds && r.steps() == progress.step);
        if let Some(record) = missing.filter(|record| lacks(&records, record)) {
            notes.push(format!("added {} to the log: it was saved but not logged", described(record)));
            records.push(record.clone());
            changed = true;
        }
        if !rewinds {
            changed |= self.mend_best(&mut records, file, progress, &mut notes)?;
        }
        if changed {
            write_log(&self.log_path(), &records)?;
        }
        if pending.is_some_and(|record| record.steps() <= progress.step) {
            self.end_save();
        }
        Ok(notes)
    }

    /// The valid records of the log. A log with invalid lines is copied to another name first.
    fn readable_records(&self, notes: &mut Vec<String>) -> Result<(Vec<Record>, bool)> {
        let path = self.log_path();
        if !path.exists() {
            return Ok((Vec::new(), false));
        }
        let (records, damaged) = read_log_leniently(&path)?;
        let Some(first) = damaged.first() else { return Ok((records, false)) };
        let kept = self.path().join(DAMAGED);
        write_atomically(&kept, &read_file(&path, MAX_FILE_BYTES)?)?;
        notes.push(format!(
            "the log has {} ({first}); the original is kept as {DAMAGED}",
            plural(damaged.len(), "invalid line")
        ));
        Ok((records, true))
    }

    /// Makes the best checkpoint and the log agree. Returns whether records changed.
    fn mend_best(
        &self,
        records: &mut [Record],
        file: &Path,
        progress: &Progress,
        notes: &mut Vec<String>,
    ) -> Result<bool> {
        let best = records.iter().rev().find_map(|record| match record {
            Record::Epoch(epoch @ EpochRecord { best: true, .. }) => Some(epoch.clone()),
            _ => None,
        });
        let Some(best) = best else { return Ok(false) };
        let there = Checkpoint::progress_of(&self.best()).ok().map(|progress| progress.step);
        if there == Some(best.step) {
            return Ok(false);
        }
        if best.step == progress.step {
            write_atomically(&self.best(), &read_file(file, MAX_FILE_BYTES)?)?;
            notes.push(format!(
                "the best checkpoint was not that of epoch {}, the best one in the log: saved it again",
                best.epoch + 1
            ));
            return Ok(false);
        }
        let is_there = |epoch: &EpochRecord| there == Some(epoch.step) && epoch.validation.is_some();
        let Some(found) = records.iter().find_map(|r| r.epoch().filter(|e| is_there(e))).map(|e| e.epoch)
        else {
            return Ok(false);
        };
        for record in records.iter_mut() {
            if let Record::Epoch(epoch) = record {
                epoch.best = if epoch.epoch == found { true } else { epoch.best && epoch.epoch < found };
            }
        }
        notes.push(format!(
            "the best checkpoint is of epoch {}: epoch {} is the best in the log but was never saved",
            found + 1,
            best.epoch.saturating_add(1)
        ));
        Ok(true)
    }
}

/// Whether a pending record is missing in the log.
fn lacks(records: &[Record], noted: &Record) -> bool {
    let has = |record: &Record| match (record, noted) {
        // A record rewritten with validation metrics is newer than the pending one.
        (Record::Epoch(there), Record::Epoch(noted)) => {
            there.step == noted.step && (there.validation.is_some() || noted.validation.is_none())
        }
        (Record::Part(there), Record::Part(noted)) => there.step == noted.step,
        _ => false,
    };
    !records.iter().any(has)
}

fn described(record: &Record) -> String {
    match record {
        Record::Epoch(epoch) => format!("epoch {}", epoch.epoch.saturating_add(1)),
        _ => "the first part of an epoch".into(),
    }
}
