//! Lock files: only one process writes a run or a checkpoint at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A lock file held by this process and removed on drop. The system releases the lock whenever the
/// process ends, so the file of a killed process does not lock anything.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Open while the lock is held.
    file: File,
}

/// The process that holds a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process ID; 0 if unknown.
    pub process: u32,
    /// Start time of the process in clock ticks since boot, because process IDs are reused; `None`
    /// where unknown.
    pub ticks: Option<u64>,
    /// Time of locking in seconds since 1970 (UTC).
    pub since: u64,
}

impl Owner {
    fn this() -> Self {
        let process = std::process::id();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { process, ticks: started(process), since: since.map_or(0, |time| time.as_secs()) }
    }

    /// Whether that process still runs, as far as known.
    fn is_alive(&self) -> bool {
        self.ticks.is_some() && started(self.process) == self.ticks
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.process {
            0 => write!(f, "another process"),
            process => write!(f, "process {process}"),
        }
    }
}

/// Start time of a process, in clock ticks since boot.
fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program name may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

impl Lock {
    /// Acquires a lock; creates the file if missing.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it, [`Error::Io`] if the file cannot be created.
    pub fn acquire(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io(path, e);
        loop {
            let mut options = OpenOptions::new();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Self::held(path, &owner(&mut file))),
                // Where files cannot be locked, the owner in the file decides.
                Err(TryLockError::Error(_)) => {
                    let owner = owner(&mut file);
                    if owner.process != std::process::id() && owner.is_alive() {
                        return Err(Self::held(path, &owner));
                    }
                }
            }
            // The previous owner may have removed the file after it was opened here; then this lock
            // is on an unlinked file.
            if !is_same(&file, path) {
                continue;
            }
            // Recording the owner may fail on a full disk; the lock still holds.
            let _ = serde_json::to_vec(&Owner::this()).map_err(std::io::Error::from).and_then(|owner| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&owner)
            });
            return Ok(Self { path: path.to_path_buf(), file });
        }
    }

    /// The process that holds a lock; `None` if it is free.
    #[must_use]
    pub fn holder(path: &Path) -> Option<Owner> {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(owner(&mut file)),
            Err(TryLockError::Error(_)) => Some(owner(&mut file)).filter(Owner::is_alive),
            Ok(()) => None,
        }
    }

    fn held(path: &Path, owner: &Owner) -> Error {
        Error::Locked { path: path.to_path_buf(), owner: owner.to_string() }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while locked, so another process's file is not removed.
        if is_same(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The owner recorded in a lock file.
fn owner(file: &mut File) -> Owner {
    let mut text = Vec::new();
    let read = file.take(1 << 12).read_to_end(&mut text);
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Whether a path still refers to an open file.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |found: std::io::Result<std::fs::Metadata>| found.ok().map(|m| (m.dev(), m.ino()));
    of(file.metadata()) == of(std::fs::metadata(path))
}

/// On other systems open files cannot be removed.
#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_exclusive_and_name_the_owner() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lock");
        assert_eq!(Lock::holder(&path), None);
        let first = Lock::acquire(&path).expect("is free");
        let error = Lock::acquire(&path).expect_err("is held");
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert_eq!(Lock::holder(&path).map(|owner| owner.process), Some(std::process::id()));
        drop(first);
        assert!(!path.exists());
        drop(Lock::acquire(&path).expect("is free again"));
    }

    #[test]
    fn stale_lock_files_do_not_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lock");
        for left in ["", "{\"process\":1,\"ticks\":1,\"since\":1}", "not JSON \u{0}"] {
            std::fs::write(&path, left).expect("can be written");
            assert_eq!(Lock::holder(&path), None, "{left}");
            drop(Lock::acquire(&path).expect("is free"));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reused_process_ids_are_detected() {
        let this = Owner::this();
        assert!(this.is_alive(), "{this:?}");
        assert!(!Owner { ticks: this.ticks.map(|t| t + 1), ..this.clone() }.is_alive());
        assert!(!Owner { process: u32::MAX, ..this }.is_alive());
    }
}
