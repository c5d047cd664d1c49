//! What a run that was cut off while it saved needs before it goes on: its log and its checkpoints
//! say the same again.
//!
//! An epoch is saved in an order in which no file promises what is not there: a note of the record
//! to come ([`RunFolder::begin_save`]), the newest checkpoint, the best one if it is the best, the
//! log's record, and the note is removed. Whatever a crash leaves of this, [`RunFolder::mend`]
//! completes it from the checkpoint that the run goes on from, so that the log is that of a run
//! which was not cut off.

use std::path::{Path, PathBuf};

use super::RunFolder;
use super::log::{EpochRecord, Record, read_log_leniently, write_log};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::optim::Progress;
use crate::output::write_atomically;
use crate::untrusted::{MAX_FILE_BYTES, MAX_TEXT_BYTES, read_file};

const PENDING: &str = "pending.json";
const LOCK: &str = "run.lock";
const DAMAGED: &str = "log-damaged.jsonl";

impl RunFolder {
    /// The file that whoever writes this run has locked.
    pub fn lock_path(&self) -> PathBuf {
        self.path().join(LOCK)
    }

    fn pending_path(&self) -> PathBuf {
        self.path().join(PENDING)
    }

    /// Notes the record that the log gets once the checkpoints are saved.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn begin_save(&self, record: &Record) -> Result<()> {
        let json = serde_json::to_vec(record).map_err(Error::unwritable)?;
        write_atomically(&self.pending_path(), &json)
    }

    /// Checkpoints and log say the same.
    pub fn end_save(&self) {
        // If it stays, the log has its record already: that is seen when the run goes on.
        let _ = std::fs::remove_file(self.pending_path());
    }

    fn pending(&self) -> Option<Record> {
        serde_json::from_slice(&read_file(&self.pending_path(), MAX_TEXT_BYTES).ok()?).ok()
    }

    /// Completes what was cut off when this run ended, for going on from the checkpoint `file` with
    /// its `progress`. Returns what was mended, for people.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn mend(&self, file: &Path, progress: &Progress) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let (mut records, mut changed) = self.readable_records(&mut notes)?;
        // A run that goes back leaves what was after this checkpoint to the one that truncates the
        // log.
        let goes_back = records.iter().any(|record| record.steps() > progress.step);
        let pending = self.pending();
        let missing = pending.as_ref().filter(|r| !goes_back && r.steps() == progress.step);
        if let Some(record) = missing.filter(|record| lacks(&records, record)) {
            notes.push(format!("the log lacked {}, which is saved: added", described(record)));
            records.push(record.clone());
            changed = true;
        }
        if !goes_back {
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

    /// The records of the log, without lines that cannot be read: the whole of such a log is kept
    /// under another name.
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
            "{} lines of the log cannot be read ({first}); the whole is kept as {DAMAGED}",
            damaged.len()
        ));
        Ok((records, true))
    }

    /// Makes the best checkpoint and what the log says of it agree. Whether records changed.
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
                "the best checkpoint was not of epoch {}, which the log says is the best: saved again",
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
            "the best checkpoint is of epoch {}: that of epoch {}, which the log named, was never saved",
            found + 1,
            best.epoch.saturating_add(1)
        ));
        Ok(true)
    }
}

/// Whether a log does not have what a note says that it should.
fn lacks(records: &[Record], noted: &Record) -> bool {
    let has = |record: &Record| match (record, noted) {
        // Written again with what the validation set says, the record in the log is the newer one.
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
        _ => "the beginning of an epoch".into(),
    }
}
