//! Data sets and images as commands name them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use incept::data::{
    Dataset, Fit, Loader, LoaderOptions, MAX_COMPARED_IMAGES, OpenOptions, OpenedData, Preprocessing,
    list_images, not_square, open, set_max_pixels,
};
use incept::untrusted::printable;
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::numbers::whole;
use super::report::note;

/// What a data set is called in help texts.
pub(crate) const FORMATS: &str = "Data sets:
  digits              1,797 handwritten digits that are part of this program
  a folder            one sub-folder per class, with images at any depth; png, jpeg, webp, gif, bmp, tiff, tga, pnm
  MNIST's idx files   a folder with train-images-idx3-ubyte and its companions, plain or gz; EMNIST's too
  CIFAR-10, -100      a folder with data_batch_1.bin and so on, or train.bin; Python's pickles too
  a CSV or TSV file   with a header: a path (path, file, image), a class (label, class), maybe a part (split: train, val, test)
  WebDataset          a .tar, or a folder of them: images with .cls, .txt or .json beside them
  parquet             a .parquet, or a folder of them, as Hugging Face stores images: image and label columns

Training, validation and test set are told apart by the names of folders, files (also in data/) or rows, as Hugging Face's datasets does it:
  training            train, training
  validation          val, valid, validation, dev
  test                test, testing, eval, evaluation
The word counts in any case and between delimiters (- . _ space, digits): Train/, birds_val_01.tar, dev.parquet. Training validates on the validation
set, on the test set if there is none, and on a share of the training set (--val-split) if there is neither. `eval --part test` measures on the test set.";

/// Reading a data set.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub(crate) struct LoadArgs {
    /// Threads that decode images [default: one a core, at most 8].
    #[arg(short = 'j', long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub workers: Option<usize>,
    /// Unreadable images that are passed over; one more ends the command [default: 10].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub max_bad: Option<usize>,
    /// Largest image to read, in pixels [default: 134217728, which is 512 MiB of memory at 4 bytes
    /// each].
    ///
    /// Larger images are skipped and reported as unreadable, whatever their file's size. Images
    /// with more than 4 bytes per pixel may have correspondingly fewer. Decoding takes up to three
    /// times the memory of the decoded image, on each worker.
    #[arg(long, value_name = "COUNT")]
    pub max_pixels: Option<u64>,
}

/// For commands that read images and no data set.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// Largest image to read, in pixels [default: 134217728, which is 512 MiB of memory at 4 bytes
    /// each].
    #[arg(long, value_name = "COUNT")]
    max_pixels: Option<u64>,
}

impl ImageArgs {
    /// Sets the limit for the process.
    pub(crate) fn set_limit(&self) -> Result<()> {
        limit_pixels(self.max_pixels)
    }
}

fn limit_pixels(most: Option<u64>) -> Result<()> {
    match most {
        Some(0) => Err(Error::Config("--max-pixels must be above zero".into())),
        Some(most) => {
            set_max_pixels(most);
            Ok(())
        }
        None => Ok(()),
    }
}

impl LoadArgs {
    /// Sets the limit on the size of images for the process: before the first of them is read.
    pub(crate) fn set_limit(&self) -> Result<()> {
        limit_pixels(self.max_pixels)
    }

    /// Options for batches in the data set's order.
    pub(crate) fn options(&self, batch: usize, preprocessing: &Preprocessing) -> LoaderOptions {
        let options = LoaderOptions::new(batch, preprocessing.clone());
        let workers = self.workers.unwrap_or(options.workers);
        LoaderOptions { workers, max_bad: self.max_bad.unwrap_or(10), ..options }
    }
}

/// Opens a data set and says what is in it.
pub(crate) fn describe(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let data = open(what, options)?;
    note(&format!(
        "data: {}, {} classes, {} images to train on, {} held out",
        data.name,
        data.train.classes().len(),
        data.train.len(),
        data.validation.len()
    ));
    say(&data.notes);
    if let Some(text) = duplicate_note(&data, data.duplicates()) {
        note(&format!("note: {text}"));
    }
    Ok(data)
}

/// Says what of a data set was left out.
pub(crate) fn say(notes: &[String]) {
    notes.iter().for_each(|text| note(&format!("note: {}", printable(text))));
}

/// What to say of images that are in both sets, or of a data set too large to look for them.
pub(crate) fn duplicate_note(data: &OpenedData, found: Option<usize>) -> Option<String> {
    if data.train.len() + data.validation.len() > MAX_COMPARED_IMAGES {
        return Some(format!(
            "images that are in both the training and the validation set were not looked for: there are more than {MAX_COMPARED_IMAGES}"
        ));
    }
    let count = found.filter(|count| *count > 0)?;
    let are = if count == 1 { "image of the validation set is" } else { "images of the validation set are" };
    Some(format!(
        "{count} {are} in the training set too, byte by byte: accuracy on them says nothing of others"
    ))
}

/// The input size that suits a data set: that of its first readable image, but one of 32, 64 and
/// 224.
pub(crate) fn suited_input(set: &Arc<dyn Dataset>) -> usize {
    let first = (0..set.len()).find_map(|i| set.image(i).ok());
    match first.map_or(0, |p| p.width.min(p.height)) {
        0..=40 => 32,
        41..=96 => 64,
        _ => 224,
    }
}

/// Images that are looked at for their shapes before training.
const SHAPES: usize = 64;

/// Says before training what becomes of images that are not square, if there are any; `chosen` is
/// whether --fit was given.
pub(crate) fn note_shapes(set: &dyn Dataset, preprocessing: &Preprocessing, chosen: bool) {
    let (seen, oblong) = not_square(set, SHAPES);
    if oblong == 0 {
        return;
    }
    let count = format!("{oblong} of {seen} sampled images are not square");
    note(&match preprocessing.fit {
        Fit::Crop if chosen => format!("images: {count}: the central square is used"),
        Fit::Crop => {
            format!("images: {count}: the central square is used; --fit squash|pad keeps everything")
        }
        Fit::Squash => format!("images: {count}: they are squashed"),
        Fit::Pad => format!("images: {count}: they are letterboxed"),
    });
}

/// Names the images that could not be read.
pub(crate) fn report_bad(loader: &Loader) {
    let bad = loader.bad();
    if !bad.is_empty() {
        note(&format!("{} unreadable images were passed over:", bad.len()));
        bad.iter().for_each(|(_, reason)| note(&format!("  {reason}")));
    }
}

/// The images that arguments name: files as they are, and what is in folders.
pub(crate) fn images(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument.is_dir() {
            let (images, left_out) = list_images(argument)?;
            say(left_out.as_slice());
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
