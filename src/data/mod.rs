//! Data sets: pictures with labels, read from the formats that people have, turned into batches.

mod augment;
mod cifar;
mod crops;
mod decode;
mod digits;
mod folder;
mod idx;
mod imagenet;
mod loader;
#[cfg(feature = "formats")]
mod manifest;
mod mix;
#[cfg(feature = "formats")]
mod parquet;
mod photometric;
mod preprocess;
mod resample;
mod split;
#[cfg(feature = "formats")]
mod webdataset;

pub use augment::{AreaCrop, Augmentation};
pub use crops::{CropSet, CropTest};
pub use decode::{DEFAULT_MAX_PIXELS, ImageKind, Picture, image_kind, is_picture, set_max_pixels, sniff};
pub use digits::{Digits, digits};
pub use folder::Folder;
pub use imagenet::imagenet_classes;
pub use loader::{Batch, Loader, LoaderOptions};
pub use mix::{Mix, MixedLabels};
#[cfg(feature = "formats")]
pub use parquet::Parquet;
pub use photometric::Photometric;
pub use preprocess::{Fit, IMAGENET_CROP, Preprocessing, not_square};
pub use split::{Subset, permutation, stratified};
#[cfg(feature = "formats")]
pub use webdataset::WebDataset;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use split::evenly;

/// Pictures with labels. Reading one must not change anything: workers read at the same time.
pub trait Dataset: Send + Sync + Debug {
    /// Number of pictures.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes, by number.
    fn classes(&self) -> &[String];

    /// The class of a picture, below the number of classes. This, and what follows, may panic for an index that is not below [`Dataset::len`].
    fn label(&self, index: usize) -> u32;

    /// A picture.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    fn picture(&self, index: usize) -> Result<Picture>;

    /// What messages call a picture: its file, or its place.
    fn name(&self, index: usize) -> String;
}

/// Pictures of one size in memory.
#[derive(Clone, Debug)]
pub(crate) struct InMemory {
    pub source: String,
    pub classes: Vec<String>,
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// All pictures one after another, height x width x channels each.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> u32 {
        u32::from(self.labels[index])
    }

    fn picture(&self, index: usize) -> Result<Picture> {
        let size = self.width * self.height * self.channels;
        let pixels = self.pixels[index * size..(index + 1) * size].to_vec();
        Ok(Picture { width: self.width, height: self.height, channels: self.channels, pixels })
    }

    fn name(&self, index: usize) -> String {
        format!("{} #{index}", self.source)
    }
}

/// A data set with the part that is held out of training.
#[derive(Clone, Debug)]
pub struct OpenedData {
    /// What to train on.
    pub train: Arc<dyn Dataset>,
    /// What to test on.
    pub held_out: Arc<dyn Dataset>,
    /// What it is, for people.
    pub name: String,
    /// The augmentation that suits this kind of pictures: digits must not be mirrored.
    pub suits: Augmentation,
}

/// How to open a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenOptions {
    /// Share that is held out where the format has no fixed test part.
    pub held_out: f64,
    /// Use at most this many training pictures, chosen evenly over the classes.
    pub limit: Option<usize>,
    /// Seed of the split. Commands leave it alone, so that runs of all seeds are measured on the same pictures, and none trains on another's.
    pub seed: u64,
    /// Seed by which the pictures of a limit are chosen.
    pub limit_seed: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { held_out: 0.2, limit: None, seed: 0, limit_seed: 0 }
    }
}

/// Opens `digits` (the embedded set), a folder with MNIST's idx files (plain or gz), a folder with CIFAR's binary files, or a
/// folder whose sub-folders are the classes, by itself or under `train` and `val` or `test`; with the feature `formats` also a CSV manifest, and
/// WebDataset's tar or parquet files, one or a folder of them. Of several, those called `val`, `valid` or `test` are held out.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read, [`Error::Format`] if it is none of these or a file is damaged, [`Error::Config`] if the share that
/// is held out is none.
pub fn open(what: &str, options: &OpenOptions) -> Result<OpenedData> {
    let share = options.held_out;
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::Config(format!("--held-out must be between 0 and 1, not {share}")));
    }
    let Found { train, held_out, name, suits } = find(what)?;
    let (train, held_out) = match held_out {
        Some(held_out) => (train, held_out),
        None => {
            let (rest, part) = stratified(train.as_ref(), options.held_out, options.seed);
            if rest.is_empty() || part.is_empty() {
                let reason = format!("{} pictures cannot be split into two parts", train.len());
                return Err(Error::format(what, reason));
            }
            let part: Arc<dyn Dataset> = Arc::new(Subset::new(Arc::clone(&train), part));
            (Arc::new(Subset::new(train, rest)) as Arc<dyn Dataset>, part)
        }
    };
    let train = match options.limit {
        Some(limit) => at_most(train, limit, options.limit_seed),
        None => train,
    };
    Ok(OpenedData { train, held_out, name, suits })
}

/// At most so many pictures of a data set, chosen evenly over the classes by the seed.
pub fn at_most(set: Arc<dyn Dataset>, limit: usize, seed: u64) -> Arc<dyn Dataset> {
    if limit >= set.len() {
        return set;
    }
    let chosen = evenly(set.as_ref(), limit, seed);
    Arc::new(Subset::new(set, chosen))
}

/// A data set that may have no fixed test part.
struct Found {
    train: Arc<dyn Dataset>,
    held_out: Option<Arc<dyn Dataset>>,
    name: String,
    suits: Augmentation,
}

fn find(what: &str) -> Result<Found> {
    let found =
        |train: Arc<dyn Dataset>, held_out, name: String, suits| Found { train, held_out, name, suits };
    if what == "digits" {
        let name = "UCI handwritten digits".to_string();
        return Ok(found(Arc::new(digits()?), None, name, Augmentation::shifts()));
    }
    let folder = Path::new(what);
    #[cfg(feature = "formats")]
    if let Some((train, held_out, name, suits)) = formats(folder)? {
        return Ok(found(train, held_out, name, suits));
    }
    if !folder.exists() {
        let reason = "is neither `digits` nor an existing file or folder; see --help for the formats";
        return Err(Error::format(folder, reason));
    }
    if !folder.is_dir() {
        return Err(Error::format(folder, "is no data set; see --help for the formats"));
    }
    if let Some((train, test)) = idx::open(folder)? {
        let name = format!("idx files in {what}");
        return Ok(found(Arc::new(train), Some(Arc::new(test)), name, Augmentation::shifts()));
    }
    if let Some((train, test)) = cifar::open(folder)? {
        let name = format!("CIFAR files in {what}");
        return Ok(found(Arc::new(train), Some(Arc::new(test)), name, Augmentation::standard()));
    }
    let name = format!("pictures in {what}");
    let train = folder.join("train");
    if !train.is_dir() {
        return Ok(found(Arc::new(Folder::open(folder)?), None, name, Augmentation::standard()));
    }
    let train = Folder::open(&train)?;
    let test =
        ["val", "test", "valid", "validation"].map(|n| folder.join(n)).into_iter().find(|p| p.is_dir());
    let held_out = match test {
        Some(test) => Some(Arc::new(Folder::open_with(&test, train.classes())?) as Arc<dyn Dataset>),
        None => None,
    };
    Ok(found(Arc::new(train), held_out, name, Augmentation::standard()))
}

#[cfg(feature = "formats")]
type Formatted = (Arc<dyn Dataset>, Option<Arc<dyn Dataset>>, String, Augmentation);

/// A manifest, tars or parquet files, if a path is one of these.
#[cfg(feature = "formats")]
fn formats(path: &Path) -> Result<Option<Formatted>> {
    let has = |path: &Path, wanted: &str| {
        path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case(wanted))
    };
    if has(path, "csv") || has(path, "tsv") {
        let (train, held_out) = manifest::open(path)?;
        let held_out = held_out.map(|set| Arc::new(set) as Arc<dyn Dataset>);
        let name = format!("pictures listed in {}", path.display());
        return Ok(Some((Arc::new(train), held_out, name, Augmentation::standard())));
    }
    for (extension, what) in [("tar", "WebDataset files"), ("parquet", "parquet files")] {
        let files = if path.is_dir() {
            folder::entries(path)?.into_iter().filter(|file| has(file, extension)).collect()
        } else {
            Vec::from_iter(has(path, extension).then(|| path.to_path_buf()))
        };
        let is_held_out = |file: &PathBuf| {
            let name = file.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
            ["val", "test"].iter().any(|part| name.starts_with(part))
        };
        let (held_out, train): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_held_out);
        // One file of any name is a data set by itself.
        let (train, held_out) = if train.is_empty() { (held_out, Vec::new()) } else { (train, held_out) };
        if train.is_empty() {
            continue;
        }
        let (train, held_out): (Arc<dyn Dataset>, Option<Arc<dyn Dataset>>) = match extension {
            "tar" => {
                let train = WebDataset::open(&train)?;
                let open = || Ok(Arc::new(WebDataset::open(&held_out)?.with_classes(&train.classes)?) as _);
                let held_out = (!held_out.is_empty()).then(open).transpose()?;
                (Arc::new(train), held_out)
            }
            _ => {
                let train = Parquet::open(&train)?;
                let open = || Ok(Arc::new(Parquet::open(&held_out)?.with_classes(&train.classes)?) as _);
                let held_out = (!held_out.is_empty()).then(open).transpose()?;
                (Arc::new(train), held_out)
            }
        };
        let name = format!("{what} in {}", path.display());
        return Ok(Some((train, held_out, name, Augmentation::standard())));
    }
    Ok(None)
}

/// The classes that labels name: in order of their numbers where all are numbers, from 0 to the largest, else in alphabetical order.
#[cfg(feature = "formats")]
fn known_classes<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    /// Numbers beyond are names.
    const MOST: usize = 100_000;
    let names: std::collections::BTreeSet<&str> = labels.collect();
    // `07` is a name: there is no class `7` beside it.
    let number = |name: &str| name.parse().ok().filter(|n: &usize| n.to_string() == name);
    let numbers: Option<Vec<usize>> = names.iter().map(|name| number(name)).collect();
    match numbers.and_then(|n| n.into_iter().max()) {
        Some(largest) if largest < MOST => (0..=largest).map(|n| n.to_string()).collect(),
        _ => names.into_iter().map(String::from).collect(),
    }
}

/// A class as a sample has it.
#[cfg(feature = "formats")]
struct Label {
    text: String,
    /// Whether it counts the classes where these have names, and is not the name of one: class 1 of `1`, `10`, `2` is `10`.
    counts: bool,
}

#[cfg(feature = "formats")]
impl Label {
    /// Its number among `classes`, whose names the data set brought along or which were found as [`known_classes`] of the labels.
    fn class(&self, classes: &[String], named: bool) -> Option<u32> {
        let by_name = || classes.iter().position(|class| *class == self.text);
        let by_number = || self.text.parse().ok().filter(|n: &usize| *n < classes.len());
        let class = if named && self.counts { by_number() } else { by_name().or_else(by_number) };
        class.and_then(|class| u32::try_from(class).ok())
    }
}

/// Turns the numbers of a set's own classes into those of a training part's.
#[cfg(feature = "formats")]
fn relabel<'a>(
    source: &Path,
    own: &[String],
    classes: &[String],
    labels: impl Iterator<Item = &'a mut u32>,
) -> Result<()> {
    let positions: Vec<Option<u32>> = own
        .iter()
        .map(|name| classes.iter().position(|c| c == name).and_then(|c| u32::try_from(c).ok()))
        .collect();
    for label in labels {
        let class = *label as usize;
        let unknown =
            || Error::format(source, format!("the class `{}` is not in the training part", own[class]));
        *label = positions[class].ok_or_else(unknown)?;
    }
    Ok(())
}

/// Reads a file, unpacked if its name ends in `.gz`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    if path.extension().is_none_or(|e| e != "gz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut unpacked)
        .map_err(|e| Error::format(path, format!("cannot be unpacked: {e}")))?;
    Ok(unpacked)
}

/// The first of these files that exists in a folder, plain or gz.
pub(crate) fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let candidates = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    candidates.into_iter().find(|path| path.is_file())
}
