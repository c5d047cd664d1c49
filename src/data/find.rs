//! Detection of a data set's format and its parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::parts::{Part, Parted, missing};
use super::walk::{self, file_name};
use super::{Augmentation, Dataset, cifar, digits, idx, layout};
use crate::error::{Error, Result};

/// A data set with the parts that it has on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub train: Option<Arc<dyn Dataset>>,
    pub validation: Option<Arc<dyn Dataset>>,
    pub test: Option<Arc<dyn Dataset>>,
    /// Description for messages.
    pub name: String,
    pub suits: Augmentation,
    /// What was skipped or is missing, one sentence each.
    pub notes: Vec<String>,
}

impl Found {
    /// A data set of this kind at a path, without parts yet.
    pub fn of(path: &Path, kind: &str) -> Self {
        Self {
            train: None,
            validation: None,
            test: None,
            name: format!("{kind} in {}", path.display()),
            suits: Augmentation::standard(),
            notes: Vec::new(),
        }
    }

    pub fn add(&mut self, part: Part, set: impl Dataset + 'static) {
        *self.part_mut(part) = Some(Arc::new(set));
    }

    fn part_mut(&mut self, part: Part) -> &mut Option<Arc<dyn Dataset>> {
        match part {
            Part::Train => &mut self.train,
            Part::Validation => &mut self.validation,
            Part::Test => &mut self.test,
        }
    }

    pub fn add_all<T: Dataset + 'static>(&mut self, parts: Parted<Option<T>>) {
        let Parted { train, validation, test } = parts;
        for (part, set) in [(Part::Train, train), (Part::Validation, validation), (Part::Test, test)] {
            if let Some(set) = set {
                self.add(part, set);
            }
        }
    }

    /// The images of a part, which must exist.
    pub fn part(&self, part: Part, source: &Path) -> Result<Arc<dyn Dataset>> {
        let set = match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        };
        set.clone().ok_or_else(|| missing(source, part))
    }
}

/// Maximum depth of nested wrapper folders.
const MAX_WRAPPERS: usize = 8;

/// Detects the data set at a path.
pub(super) fn find(what: &str) -> Result<Found> {
    if what == "digits" {
        let mut found = Found::of(Path::new(what), "");
        found.name = "UCI handwritten digits".into();
        found.suits = Augmentation::shifts();
        found.add(Part::Train, digits()?);
        return Ok(found);
    }
    let path = Path::new(what);
    if !path.exists() {
        let reason = "is neither `digits` nor an existing file or folder; see `data::open` for the formats";
        return Err(Error::format(path, reason));
    }
    let mut at = path.to_path_buf();
    for _ in 0..MAX_WRAPPERS {
        if let Some(mut found) = formats(&at)? {
            found.name = found.name.replacen(&at.display().to_string(), what, 1);
            return Ok(found);
        }
        if !at.is_dir() {
            return Err(Error::format(path, unknown_file(&at)));
        }
        match only_folder(&at)? {
            Some(inner) => at = inner,
            None => break,
        }
    }
    folders(path)
}

/// Error text for a file that is not a data set.
fn unknown_file(path: &Path) -> &'static str {
    let name = file_name(path).to_lowercase();
    if [".tar.gz", ".tgz", ".zip", ".tar.xz", ".tar.bz2", ".7z", ".rar"].iter().any(|e| name.ends_with(e)) {
        "is an archive: unpack it, and name the folder or the .tar"
    } else {
        "is not a recognized data set; see `data::open` for the formats"
    }
}

/// The only folder inside a wrapper folder, as archives unpack to; other files in it must not be
/// data.
fn only_folder(folder: &Path) -> Result<Option<PathBuf>> {
    let mut folders = walk::folders(folder)?;
    if folders.len() != 1 || walk::has_images_beside(folder)? {
        return Ok(None);
    }
    // A link to its own parent would never end.
    Ok(folders.pop().filter(|inner| !walk::leads_back(folder, inner)))
}

/// Tries the formats that are files.
fn formats(path: &Path) -> Result<Option<Found>> {
    #[cfg(feature = "formats")]
    if let Some(found) = super::shards::open(path)? {
        return Ok(Some(found));
    }
    if let Some(found) = idx::open(path)? {
        return Ok(Some(found));
    }
    if path.is_dir() { cifar::open(path) } else { Ok(None) }
}

/// Tries class folders, then lists of images.
fn folders(path: &Path) -> Result<Found> {
    let mut found = Found::of(path, "images");
    match layout::read(path, &mut found.notes) {
        Ok(layout::Layout { train, validation, test }) => {
            found.add_all(Parted { train, validation, test });
            Ok(found)
        }
        Err(error @ Error::Io { .. }) => Err(error),
        Err(error) => {
            #[cfg(feature = "formats")]
            if let Some(found) = super::shards::lists(path)? {
                return Ok(found);
            }
            if idx::looks_like(path) {
                let reason =
                    "has idx files, but none with the names of MNIST (train-images-idx3-ubyte) or EMNIST";
                return Err(Error::format(path, reason));
            }
            Err(error)
        }
    }
}
