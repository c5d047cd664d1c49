//! Data sets by their names, with a part to train on and one to validate on.

use std::path::Path;
use std::sync::Arc;

use super::duplicates::duplicates;
use super::find::{Found, find};
use super::parts::Part;
use super::split::{evenly, stratified};
use super::{Augmentation, Dataset, Subset};
use crate::error::{Error, Result};

/// A data set with the part that is held out of training.
#[derive(Clone, Debug)]
pub struct OpenedData {
    /// What to train on.
    pub train: Arc<dyn Dataset>,
    /// What to validate on: the validation set, the test set if there is none, or a share of the
    /// training set if there is neither.
    pub validation: Arc<dyn Dataset>,
    /// The test set, if there is one; it is `validation` too if there is no validation set.
    pub test: Option<Arc<dyn Dataset>>,
    /// What it is, for people.
    pub name: String,
    /// The augmentation that suits this kind of images: digits must not be mirrored.
    pub suits: Augmentation,
    /// What was left out and why, a sentence each.
    pub notes: Vec<String>,
}

impl OpenedData {
    /// How many images of the validation set are in the training set too, byte by byte as they are
    /// stored. None where finding out would be slow: where there are too many images, or their
    /// formats have no sizes.
    pub fn duplicates(&self) -> Option<usize> {
        duplicates(self.train.as_ref(), self.validation.as_ref())
    }
}

/// A part of a data set.
#[derive(Clone, Debug)]
pub struct OpenedPart {
    /// Its images.
    pub set: Arc<dyn Dataset>,
    /// What the data set is, for people.
    pub name: String,
    /// What was left out and why, a sentence each.
    pub notes: Vec<String>,
}

/// How to open a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenOptions {
    /// Share that is held out where the data set has neither validation nor test set.
    pub val_split: f64,
    /// Use at most this many training images, chosen evenly over the classes.
    pub limit: Option<usize>,
    /// Seed of the split. Commands leave it alone, so that runs of all seeds are measured on the
    /// same images, and none trains on another's.
    pub seed: u64,
    /// Seed by which the images of a limit are chosen.
    pub limit_seed: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { val_split: 0.2, limit: None, seed: 0, limit_seed: 0 }
    }
}

/// Opens `digits` (the embedded set), a folder with MNIST's or EMNIST's idx files (plain or gz), a
/// folder with CIFAR's binary files, or a folder whose sub-folders are the classes, by itself or
/// under folders of parts; with the feature `formats` also a CSV manifest, and WebDataset's tar or
/// parquet files, one or a folder of them.
///
/// Folders, files and rows are parts by Hugging Face's rule: `train` and `training`; `val`,
/// `valid`, `validation` and `dev`; `test`, `testing`, `eval` and `evaluation`, in any case, alone
/// between delimiters ([`Part::of`]).
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::Format`] if it is none of these or a file
/// is damaged, [`Error::OutOfRange`] if the share that is held out is none.
pub fn open(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let share = options.val_split;
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::out_of_range("OpenOptions::val_split", "between 0 and 1", share));
    }
    let mut found = find(what)?;
    let validation = found.validation.take().or_else(|| found.test.clone());
    let Found { train, test, name, suits, mut notes, .. } = found;
    let (train, validation) = match (train, validation) {
        (Some(train), Some(validation)) => (train, validation),
        (Some(only), None) => divided(what, &only, options)?,
        (None, Some(only)) => {
            notes.push(format!("{what} has no training set: the images that it has are divided"));
            divided(what, &only, options)?
        }
        (None, None) => return Err(Error::format(what, "has no images")),
    };
    let train = match options.limit {
        Some(limit) => at_most(train, limit, options.limit_seed),
        None => train,
    };
    Ok(OpenedData { train, validation, test, name, suits, notes })
}

/// A set without a part that is held out, divided in two.
fn divided(
    what: &str,
    set: &Arc<dyn Dataset>,
    options: &OpenOptions,
) -> Result<(Arc<dyn Dataset>, Arc<dyn Dataset>)> {
    let (rest, part) = stratified(set.as_ref(), options.val_split, options.seed);
    if rest.is_empty() || part.is_empty() {
        let reason = format!("{} images cannot be split into two parts", set.len());
        return Err(Error::format(what, reason));
    }
    let subset = |indices| Arc::new(Subset::new(Arc::clone(set), indices)) as Arc<dyn Dataset>;
    Ok((subset(rest), subset(part)))
}

/// Opens one part of a data set. The validation set is what [`open`] validates on; a data set that
/// has only one of validation and test set, and nothing to train on, stands for that one.
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

/// At most so many images of a data set, chosen evenly over the classes by the seed.
pub fn at_most(set: Arc<dyn Dataset>, limit: usize, seed: u64) -> Arc<dyn Dataset> {
    if limit >= set.len() {
        return set;
    }
    let chosen = evenly(set.as_ref(), limit, seed);
    Arc::new(Subset::new(set, chosen))
}
