//! Opening a data set by name, with a training and a validation set.

use std::path::Path;
use std::sync::Arc;

use super::duplicates::duplicates;
use super::find::{Found, find};
use super::parts::Part;
use super::split::{evenly, stratified};
use super::{Augmentation, Dataset, Subset};
use crate::error::{Error, Result};
use crate::text::plural;

/// A data set with its training and validation set.
#[derive(Clone, Debug)]
pub struct OpenedData {
    /// Training set.
    pub train: Arc<dyn Dataset>,
    /// Validation set: the data set's own, or its test set, or else a share of the training set.
    pub validation: Arc<dyn Dataset>,
    /// The part of the data set that is `validation`; `None` if it was split off.
    pub own_validation: Option<Part>,
    /// Test set, if there is one; also used as `validation` if there is no validation set.
    pub test: Option<Arc<dyn Dataset>>,
    /// Description for messages.
    pub name: String,
    /// Recommended augmentation for these images: no flips for digits.
    pub suits: Augmentation,
    /// What was skipped and why, one sentence each.
    pub notes: Vec<String>,
}

impl OpenedData {
    /// Number of validation images that are byte for byte in the training set too. `None` where
    /// checking would be slow: too many images, or a format without sizes.
    pub fn duplicates(&self) -> Option<usize> {
        duplicates(self.train.as_ref(), self.validation.as_ref())
    }
}

/// One part of a data set.
#[derive(Clone, Debug)]
pub struct OpenedPart {
    /// The images.
    pub set: Arc<dyn Dataset>,
    /// Description of the data set for messages.
    pub name: String,
    /// What was skipped and why, one sentence each.
    pub notes: Vec<String>,
}

/// How to open a data set: `OpenOptions::default().val_split(0.1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Share of the training set used for validation if the data set has neither a validation nor a
    /// test set.
    pub val_split: f64,
    /// Maximum training images, chosen evenly over the classes; `None` uses all.
    pub limit: Option<usize>,
    /// Seed of the split. The commands do not change it, so runs with different seeds share one
    /// validation set and never train on it.
    pub seed: u64,
    /// Seed for choosing the images of `limit`.
    pub limit_seed: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { val_split: 0.2, limit: None, seed: 0, limit_seed: 0 }
    }
}

impl OpenOptions {
    /// Share of the training set used for validation, between 0 and 1.
    #[must_use]
    pub fn val_split(self, val_split: f64) -> Self {
        Self { val_split, ..self }
    }

    /// Maximum training images.
    #[must_use]
    pub fn limit(self, limit: impl Into<Option<usize>>) -> Self {
        Self { limit: limit.into(), ..self }
    }

    /// Seed of the split.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Seed for choosing the images of `limit`.
    #[must_use]
    pub fn limit_seed(self, limit_seed: u64) -> Self {
        Self { limit_seed, ..self }
    }
}

/// Opens `digits` (embedded), a folder of MNIST or EMNIST idx files (plain or gz), a folder of
/// CIFAR files, or class folders, at the top or inside part folders. With the feature `formats`
/// also a CSV list, and WebDataset tar or parquet files, one or a folder of them.
///
/// Folders, files and rows are assigned to parts by Hugging Face's rule: `train` and `training`;
/// `val`, `valid`, `validation` and `dev`; `test`, `testing`, `eval` and `evaluation`, in any case,
/// between delimiters ([`Part::of`]).
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::Format`] if it is not a supported format or
/// a file is damaged, [`Error::OutOfRange`] if `val_split` is out of range.
pub fn open(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let share = options.val_split;
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::out_of_range("OpenOptions::val_split", "between 0 and 1", share));
    }
    let mut found = find(what)?;
    let part = if found.validation.is_some() { Part::Validation } else { Part::Test };
    let validation = found.validation.take().or_else(|| found.test.clone());
    let own_validation = validation.as_ref().filter(|_| found.train.is_some()).map(|_| part);
    let Found { train, test, name, suits, mut notes, .. } = found;
    let (train, validation) = match (train, validation) {
        (Some(train), Some(validation)) => (train, validation),
        (Some(only), None) => divided(what, &only, options)?,
        (None, Some(only)) => {
            notes.push(format!(
                "{what} has no training set: its images are split into training and validation"
            ));
            divided(what, &only, options)?
        }
        (None, None) => return Err(Error::format(what, "has no images")),
    };
    let train = match options.limit {
        Some(limit) => at_most(train, limit, options.limit_seed),
        None => train,
    };
    Ok(OpenedData { train, validation, own_validation, test, name, suits, notes })
}

/// Splits a set into training and validation.
fn divided(
    what: &str,
    set: &Arc<dyn Dataset>,
    options: &OpenOptions,
) -> Result<(Arc<dyn Dataset>, Arc<dyn Dataset>)> {
    let (rest, part) = stratified(set.as_ref(), options.val_split, options.seed);
    if rest.is_empty() || part.is_empty() {
        let images = plural(set.len(), "image");
        let reason = format!("has {images}, too few to split into training and validation");
        return Err(Error::format(what, reason));
    }
    let subset = |indices| Arc::new(Subset::new(Arc::clone(set), indices)) as Arc<dyn Dataset>;
    Ok((subset(rest), subset(part)))
}

/// Opens one part of a data set. `Validation` is the set that [`open`] validates on. If the data
/// set has only a validation or only a test set, that is used for either.
///
/// # Errors
/// As [`open`], and [`Error::Format`] if there is no such part.
pub fn open_part(what: &str, options: &OpenOptions, part: Part) -> Result<OpenedPart> {
    let found = find(what)?;
    if part == Part::Test || (part == Part::Validation && found.train.is_none()) {
        let whole = found.part(part, Path::new(what));
        let whole =
            if part == Part::Validation { whole.or_else(|e| found.test.clone().ok_or(e)) } else { whole };
        return Ok(OpenedPart { set: whole?, name: found.name, notes: found.notes });
    }
    let OpenedData { train, validation, name, notes, .. } = open(what, options)?;
    Ok(OpenedPart { set: if part == Part::Train { train } else { validation }, name, notes })
}

/// Up to `limit` images of a data set, chosen evenly over the classes by the seed.
pub fn at_most(set: Arc<dyn Dataset>, limit: usize, seed: u64) -> Arc<dyn Dataset> {
    if limit >= set.len() {
        return set;
    }
    let chosen = evenly(set.as_ref(), limit, seed);
    Arc::new(Subset::new(set, chosen))
}
