//! Data sets and images given as arguments.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use incept::data::{
    Augmentation, Dataset, Fit, InMemory, Loader, LoaderOptions, MAX_COMPARED_IMAGES, OpenOptions,
    OpenedData, Part, Preprocessing, Subset, at_most, list_images, not_square, open, set_max_pixels,
    stratified,
};
use incept::low_level::untrusted::printable;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::numbers::whole;
use super::report::{note, plural, thousands};

/// Data set formats, for help texts.
pub(crate) const FORMATS: &str = "Data sets:
  digits              1,797 handwritten digits, included in this program
  a folder            one subfolder per class, with images at any depth; png, jpeg, webp, gif, bmp, tiff, tga, pnm
  MNIST's idx files   a folder with train-images-idx3-ubyte etc., plain or gz; EMNIST too
  CIFAR-10, -100      a folder with data_batch_1.bin etc., or train.bin; also as Python pickles
  a CSV or TSV file   columns path (or file, image), label (or class), and optionally split: train, val or test
  WebDataset          a .tar, or a folder of them: images with .cls, .txt or .json files of the same name
  parquet             a .parquet, or a folder of them, as Hugging Face stores images: image and label columns

Training, validation and test set are recognized by names of folders, files (also in data/) or splits, as in Hugging Face's datasets:
  training            train, training
  validation          val, valid, validation, dev
  test                test, testing, eval, evaluation
Names match in any case and between delimiters (- . _ space, digits): Train/, birds_val_01.tar, dev.parquet.

Training validates on the validation set; without one, on the test set; without either, on a fraction of the training set (--val-split). `eval --part test` evaluates on the test set.";

/// Options of loading a data set.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub(crate) struct LoadArgs {
    /// Threads that load images [default: one per core, up to 8].
    #[arg(short = 'j', long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub workers: Option<usize>,
    /// Maximum number of unreadable images to skip; with more, the command fails [default: 10].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub max_bad: Option<usize>,
    /// Maximum image size in pixels [default: 134217728, or 512 MiB at 4 bytes per pixel].
    ///
    /// Larger images are skipped and reported as unreadable, whatever their file size. The limit is
    /// in bytes for images with more than 4 bytes per pixel: these may have correspondingly fewer
    /// pixels. Decoding takes up to three times the memory of the decoded image, per worker.
    #[arg(long, value_name = "COUNT")]
    pub max_pixels: Option<u64>,
}

/// Options of commands that read single images.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// Maximum image size in pixels [default: 134217728, or 512 MiB at 4 bytes per pixel].
    #[arg(long, value_name = "COUNT")]
    max_pixels: Option<u64>,
}

impl ImageArgs {
    /// Sets the process-wide limit.
    pub(crate) fn set_limit(&self) -> Result<()> {
        limit_pixels(self.max_pixels)
    }
}

fn limit_pixels(most: Option<u64>) -> Result<()> {
    match most {
        Some(0) => Err(Error::Config("--max-pixels must be above 0".into())),
        Some(most) => {
            set_max_pixels(most);
            Ok(())
        }
        None => Ok(()),
    }
}

impl LoadArgs {
    /// Sets the process-wide limit on image sizes; call it before reading the first image.
    pub(crate) fn set_limit(&self) -> Result<()> {
        limit_pixels(self.max_pixels)
    }

    /// Options for batches in the data set's order, without shuffling.
    pub(crate) fn options(&self, batch: usize, preprocessing: &Preprocessing) -> LoaderOptions {
        let options = LoaderOptions::new(batch, preprocessing.clone());
        let workers = self.workers.unwrap_or(options.workers);
        options.workers(workers).max_bad(self.max_bad.unwrap_or(10))
    }
}

/// A data set of the calling program, in place of one that is named by its path.
#[derive(Clone, Debug)]
pub struct Source {
    /// The training images.
    pub train: Arc<dyn Dataset>,
    /// The validation images, with the same classes; a share of the training images if there are
    /// none.
    pub validation: Option<Arc<dyn Dataset>>,
}

impl Source {
    /// Splits off the validation images, unless there are some or none are wanted.
    ///
    /// # Errors
    /// [`Error::Config`] if there are too few images, or the classes differ.
    pub(crate) fn open(&self, options: &OpenOptions, validates: bool) -> Result<OpenedData> {
        let train = Arc::clone(&self.train);
        let (train, validation) = match &self.validation {
            Some(validation) if validation.classes() != train.classes() => {
                let reason = "the classes of the validation set and the training set differ";
                return Err(Error::Config(reason.into()));
            }
            Some(validation) => (train, Arc::clone(validation)),
            None if validates => {
                let (rest, part) = stratified(train.as_ref(), options.val_split, options.seed);
                if rest.is_empty() || part.is_empty() {
                    let images = plural(train.len() as u64, "image");
                    let reason = format!("{images}: too few to split into training and validation images");
                    return Err(Error::Config(reason));
                }
                let subset = |part| Arc::new(Subset::new(Arc::clone(&train), part)) as Arc<dyn Dataset>;
                (subset(rest), subset(part))
            }
            None => {
                let none: Arc<dyn Dataset> = Arc::new(InMemory::new(train.classes().iter().cloned()));
                (train, none)
            }
        };
        let train = options.limit.map_or_else(
            || Arc::clone(&train),
            |limit| at_most(Arc::clone(&train), limit, options.limit_seed),
        );
        Ok(OpenedData {
            train,
            validation,
            own_validation: self.validation.as_ref().map(|_| Part::Validation),
            test: None,
            name: IN_MEMORY.into(),
            // What the images show is unknown: digits must not be flipped.
            suits: Augmentation::default(),
            notes: Vec::new(),
        })
    }
}

/// The name of a [`Source`], in place of a path.
pub(crate) const IN_MEMORY: &str = "images in memory";

/// Opens a data set and prints what it contains.
pub(crate) fn describe(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let data = open(what, options)?;
    note(&format!(
        "data: {}, {}, {} training and {}",
        data.name,
        plural(data.train.classes().len() as u64, "class"),
        thousands(data.train.len() as u64),
        plural(data.validation.len() as u64, "validation image")
    ));
    note_all(&data.notes);
    if let Some(text) = duplicate_note(&data, data.duplicates()) {
        note(&format!("note: {text}"));
    }
    Ok(data)
}

/// Checks that `flag`, which is about splitting off a validation set, has an effect, if it is
/// `given`.
///
/// # Errors
/// [`Error::Config`] naming the data set's own validation or test set.
pub(crate) fn refuse_split(data: &OpenedData, flag: &str, given: bool) -> Result<()> {
    match data.own_validation.filter(|_| given) {
        Some(part) => Err(Error::Config(format!(
            "{flag} has no effect: the data set has a {} set, which is used for validation",
            part.name()
        ))),
        None => Ok(()),
    }
}

/// Prints notes about a data set, such as files that were ignored.
pub(crate) fn note_all(notes: &[String]) {
    notes.iter().for_each(|text| note(&format!("note: {}", printable(text))));
}

/// A note about images that are in both sets, or about a data set too large to search for them.
pub(crate) fn duplicate_note(data: &OpenedData, found: Option<usize>) -> Option<String> {
    if data.train.len() + data.validation.len() > MAX_COMPARED_IMAGES {
        return Some(format!(
            "did not check for duplicates between training and validation set: there are more than {MAX_COMPARED_IMAGES} images"
        ));
    }
    let count = found.filter(|count| *count > 0)?;
    let are = if count == 1 { "validation image is" } else { "validation images are" };
    Some(format!(
        "{count} {are} also in the training set (identical files): validation accuracy is too optimistic"
    ))
}

/// The default input size for a data set, from its first readable image: 32, 64 or 224 pixels.
pub(crate) fn suited_input(set: &Arc<dyn Dataset>) -> usize {
    let first = (0..set.len()).find_map(|i| set.image(i).ok());
    match first.map_or(0, |p| p.width.min(p.height)) {
        0..=40 => 32,
        41..=96 => 64,
        _ => 224,
    }
}

/// Number of images whose aspect ratio is checked before training.
const SHAPES: usize = 64;

/// Prints how images that are not square are made square, if there are any; `chosen` is whether
/// --fit was given.
pub(crate) fn note_shapes(set: &dyn Dataset, preprocessing: &Preprocessing, chosen: bool) {
    let (seen, oblong) = not_square(set, SHAPES);
    if oblong == 0 {
        return;
    }
    let count = format!("{oblong} of {seen} sampled images are not square");
    note(&match preprocessing.fit {
        Fit::Crop if chosen => format!("images: {count}: the central square is used"),
        Fit::Crop => {
            format!("images: {count}: the central square is used (--fit squash|pad keeps the whole image)")
        }
        Fit::Squash => format!("images: {count}: they are resized to squares"),
        Fit::Pad => format!("images: {count}: they are letterboxed"),
    });
}

/// Reports the images that could not be read.
pub(crate) fn report_bad(loader: &Loader) {
    let bad = loader.bad();
    if !bad.is_empty() {
        note(&format!("skipped {}:", plural(bad.len() as u64, "unreadable image")));
        bad.iter().for_each(|(_, reason)| note(&format!("  {reason}")));
    }
}

/// The image files that arguments name; folders are searched for images.
pub(crate) fn images(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument.is_dir() {
            let (images, ignored) = list_images(argument)?;
            note_all(ignored.as_slice());
            if images.is_empty() {
                return Err(Error::format(argument, "has no images"));
            }
            files.extend(images);
        } else {
            files.push(argument.clone());
        }
    }
    Ok(files)
}
