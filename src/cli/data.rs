//! Data sets and pictures as commands name them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use incept::data::{
    Dataset, Loader, LoaderOptions, OpenOptions, OpenedData, Preprocessing, is_picture, open,
};
use incept::{Error, Result};
use serde::{Deserialize, Serialize};

use super::numbers::whole;
use super::report::note;

/// What a data set is called in help texts.
pub(crate) const FORMATS: &str = "Data sets:
  digits              1,797 handwritten digits that are part of this program
  a folder            one sub-folder a class, by itself or under train/ and val/ or test/; png, jpeg, webp, gif, bmp, tiff, tga, pnm
  MNIST's idx files   a folder with train-images-idx3-ubyte and its three companions, plain or gz
  CIFAR-10, -100      a folder with data_batch_1.bin and so on, or train.bin
  a CSV or TSV file   with a header: a path (path, file, image), a class (label, class), maybe a part (split: train, val, test)
  WebDataset          a .tar, or a folder of them: pictures with .cls, .txt or .json beside them
  parquet             a .parquet, or a folder of them, as Hugging Face stores pictures: image and label columns

Of several tar or parquet files, those whose names begin with val or test are held out.";

/// Reading a data set.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Data")]
pub(crate) struct LoadArgs {
    /// Threads that decode pictures [default: one a core, at most 8].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub workers: Option<usize>,
    /// Unreadable pictures that are passed over; one more ends the command [default: 10].
    #[arg(long, value_name = "COUNT", value_parser = whole::<usize>(0))]
    pub max_bad: Option<usize>,
}

impl LoadArgs {
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
        "data: {}, {} classes, {} pictures to train on, {} held out",
        data.name,
        data.train.classes().len(),
        data.train.len(),
        data.held_out.len()
    ));
    Ok(data)
}

/// The input size that suits a data set: that of its first readable picture, but one of 32, 64 and 224.
pub(crate) fn suited_input(set: &Arc<dyn Dataset>) -> usize {
    let first = (0..set.len()).find_map(|i| set.picture(i).ok());
    match first.map_or(0, |p| p.width.min(p.height)) {
        0..=40 => 32,
        41..=96 => 64,
        _ => 224,
    }
}

/// Names the pictures that could not be read.
pub(crate) fn report_bad(loader: &Loader) {
    let bad = loader.bad();
    if !bad.is_empty() {
        note(&format!("{} unreadable pictures were passed over:", bad.len()));
        bad.iter().for_each(|(_, reason)| note(&format!("  {reason}")));
    }
}

/// The pictures that arguments name: files as they are, and what lies in folders.
pub(crate) fn pictures(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument.is_dir() {
            let before = files.len();
            walk(argument, &mut files)?;
            if files.len() == before {
                return Err(Error::format(argument, "has no pictures"));
            }
        } else {
            files.push(argument.clone());
        }
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let list = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut entries = Vec::new();
    for entry in list {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, files)?;
        } else if is_picture(&path) {
            files.push(path);
        }
    }
    Ok(())
}
